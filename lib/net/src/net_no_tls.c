// Built without TLS: there is never a context, and so never a session.
#include "net_tls.h"

static fm_status without(void)
{
    return fm_base_error_set(FM_ERR_UNSUPPORTED, "this build has no TLS; configure it with FM_WITH_TLS=ON");
}

fm_status fm_net_tls_new(const fm_net_tls_options *options, fm_net_tls **out_tls)
{
    (void)options;
    (void)out_tls;
    return without();
}

void fm_net_tls_free(fm_net_tls *tls)
{
    (void)tls;
}

fm_net_tls *fm_net_tls_ref(fm_net_tls *tls)
{
    return tls;
}

fm_status fm_net_tls_session_new(fm_net_tls *tls, int fd, const char *dialled,
                                 struct net_tls_session **out_session)
{
    (void)tls;
    (void)fd;
    (void)dialled;
    (void)out_session;
    return without();
}

void fm_net_tls_session_free(struct net_tls_session *session)
{
    (void)session;
}

enum net_tls_result fm_net_tls_handshake(struct net_tls_session *session, fm_status *out_status)
{
    (void)session;
    *out_status = without();
    return NET_TLS_FAILED;
}

enum net_tls_result fm_net_tls_read(struct net_tls_session *session, void *bytes, size_t size,
                                    size_t *out_size, fm_status *out_status)
{
    (void)session;
    (void)bytes;
    (void)size;
    (void)out_size;
    *out_status = without();
    return NET_TLS_FAILED;
}

int fm_net_tls_has_more(const struct net_tls_session *session)
{
    (void)session;
    return 0;
}

enum net_tls_result fm_net_tls_write(struct net_tls_session *session, const void *bytes, size_t size,
                                     size_t *out_size, fm_status *out_status)
{
    (void)session;
    (void)bytes;
    (void)size;
    (void)out_size;
    *out_status = without();
    return NET_TLS_FAILED;
}

fm_status fm_net_tls_binding(struct net_tls_session *session, uint8_t out_binding[NET_TLS_BINDING_BYTES])
{
    (void)session;
    (void)out_binding;
    return without();
}
