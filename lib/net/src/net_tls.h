/*
 * TLS 1.3 below a connection: what the sockets see of it. crypto/net_tls.c has it by OpenSSL, net_no_tls.c stands in where it
 * is built without.
 *
 * Nothing of OpenSSL's own runs: no signal, no prompt, no session kept for a later one. A session reads from and writes to a
 * socket that does not block; what it holds back (a record that came in part, or more of one than was asked for) is its
 * own, of which epoll does not know: read until NET_TLS_WAIT, or until fm_net_tls_has_more() denies it.
 */
#ifndef NET_TLS_H
#define NET_TLS_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/net.h"

enum {
    NET_TLS_BINDING_BYTES = 32,
    // The most that a record carries. Smaller messages are put together to one.
    NET_TLS_RECORD_BYTES = 16 << 10,
    // What the first byte of a TLS connection is: a record of the handshake.
    NET_TLS_FIRST_BYTE = 0x16,
};

enum net_tls_result {
    NET_TLS_DONE,
    NET_TLS_WAIT,    // until the socket has more to read
    NET_TLS_BLOCKED, // until the socket takes more
    NET_TLS_FAILED,  // the error is set
};

struct net_tls_session;

// `dialled`: the host of the address that this end dials; NULL for one that was accepted. FM_ERR_NOMEM.
FM_MUST_USE fm_status fm_net_tls_session_new(fm_net_tls *tls, int fd, const char *dialled,
                                             struct net_tls_session **out_session);
void fm_net_tls_session_free(struct net_tls_session *session);
// NET_TLS_FAILED: *out_status is FM_ERR_NET_AUTH (a certificate), FM_ERR_FORMAT (no TLS), FM_ERR_NET_CLOSED, FM_ERR_NOMEM.
enum net_tls_result fm_net_tls_handshake(struct net_tls_session *session, fm_status *out_status);
// NET_TLS_DONE: some bytes, at least one, were read or written.
enum net_tls_result fm_net_tls_read(struct net_tls_session *session, void *bytes, size_t size,
                                    size_t *out_size, fm_status *out_status);
// After a read: whether the next one may find something that epoll will not tell of. Not where the session holds nothing and
// the socket had less than there was room for.
int fm_net_tls_has_more(const struct net_tls_session *session);
// After NET_TLS_BLOCKED the next write begins with the same bytes, and has as many or more.
enum net_tls_result fm_net_tls_write(struct net_tls_session *session, const void *bytes, size_t size,
                                     size_t *out_size, fm_status *out_status);
// What both ends of this TLS connection know and nobody else, not even who has certificates for two and stands between
// (the exporter of RFC 9266). After the handshake. FM_ERR_INTERNAL.
FM_MUST_USE fm_status fm_net_tls_binding(struct net_tls_session *session,
                                         uint8_t out_binding[NET_TLS_BINDING_BYTES]);

// In net_key.c: refuses a file with a secret that others than its owner may use. FM_ERR_PERM, FM_ERR_FORMAT, FM_ERR_IO.
FM_MUST_USE fm_status fm_net_key_check_owner(const char *path, int fd);

#endif
