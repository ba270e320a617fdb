#include "net_tls.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>

#include "fathom/mem.h"

struct fm_net_tls {
    SSL_CTX *context;
    BIO_METHOD *method; // of sockets
    _Atomic int owners; // who made it, listeners, sessions; of any thread
    char ca[256];       // for messages
    char crl[256];
    char name[254]; // of services; "": not looked at, "*": as dialled
};

struct net_tls_session {
    fm_net_tls *tls;
    int fd;
    int drained; // the socket had less than was asked for
    SSL *ssl;
};

/* Sockets for OpenSSL: its own would raise SIGPIPE */

static int bio_fd(BIO *bio)
{
    return ((const struct net_tls_session *)BIO_get_data(bio))->fd;
}

static int bio_write(BIO *bio, const char *bytes, int size)
{
    BIO_clear_retry_flags(bio);
    ssize_t sent = send(bio_fd(bio), bytes, (size_t)size, MSG_NOSIGNAL);
    if (sent < 0 && (errno == EAGAIN || errno == EINTR))
        BIO_set_retry_write(bio);
    return (int)sent;
}

static int bio_read(BIO *bio, char *bytes, int size)
{
    struct net_tls_session *session = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    ssize_t received = recv(session->fd, bytes, (size_t)size, 0);
    session->drained = received < size;
    if (received < 0 && (errno == EAGAIN || errno == EINTR))
        BIO_set_retry_read(bio);
    return (int)received;
}

static long bio_control(BIO *bio, int command, long number, void *pointer)
{
    (void)bio;
    (void)number;
    (void)pointer;
    return command == BIO_CTRL_FLUSH; // nothing is held back
}

static BIO_METHOD *bio_method(void)
{
    BIO_METHOD *method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "fathom socket");
    if (method && BIO_meth_set_write(method, bio_write) == 1 && BIO_meth_set_read(method, bio_read) == 1 &&
        BIO_meth_set_ctrl(method, bio_control) == 1)
        return method;
    BIO_meth_free(method);
    return NULL;
}

/* Contexts */

// The newest error of OpenSSL in this thread, for people.
static const char *reason(void)
{
    unsigned long code = ERR_peek_last_error();
    const char *text = ERR_reason_error_string(code);
    return text ? text : ERR_SYSTEM_ERROR(code) ? strerror(ERR_GET_REASON(code)) : "unknown reason";
}

// OpenSSL would ask the terminal for the password of a key.
static int no_password(char *buffer, int size, int writing, void *context)
{
    (void)buffer;
    (void)size;
    (void)writing;
    (void)context;
    return -1;
}

static fm_status check_file(const char *path, const char *what, int secret)
{
    if (!path || !*path)
        return fm_base_error_set(FM_ERR_ARG,
                                 "no file with %s is given; TLS needs a certificate, its key and a CA", what);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return fm_base_error_set_errno(errno == ENOENT ? FM_ERR_NOT_FOUND : FM_ERR_IO, errno,
                                       "cannot open %s, the file with %s", path, what);
    fm_status status = secret ? fm_net_key_check_owner(path, fd) : FM_OK;
    close(fd);
    return status;
}

static fm_status load_revoked(SSL_CTX *context, const char *path)
{
    FM_TRY(check_file(path, "revoked certificates", 0));
    X509_STORE *store = SSL_CTX_get_cert_store(context);
    X509_LOOKUP *lookup = X509_STORE_add_lookup(store, X509_LOOKUP_file());
    if (!lookup || X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL) != 1)
        return fm_base_error_set(FM_ERR_NOMEM, "cannot set up TLS");
    if (X509_load_crl_file(lookup, path, X509_FILETYPE_PEM) < 1)
        return fm_base_error_set(FM_ERR_FORMAT, "%s is no list of revoked certificates (CRL) in PEM: %s",
                                 path, reason());
    return FM_OK;
}

static fm_status load(SSL_CTX *context, const fm_net_tls_options *options)
{
    FM_TRY(check_file(options->cert, "the certificate", 0));
    FM_TRY(check_file(options->key, "the certificate's private key", 1));
    FM_TRY(check_file(options->ca, "the CA's certificate", 0));
    ERR_clear_error();
    if (SSL_CTX_use_certificate_chain_file(context, options->cert) != 1)
        return fm_base_error_set(FM_ERR_FORMAT, "%s is no certificate in PEM: %s", options->cert, reason());
    if (SSL_CTX_use_PrivateKey_file(context, options->key, SSL_FILETYPE_PEM) != 1)
        return fm_base_error_set(
            FM_ERR_FORMAT,
            "%s is not the private key of the certificate %s, in PEM and without a password: %s",
            options->key, options->cert, reason());
    if (SSL_CTX_load_verify_file(context, options->ca) != 1)
        return fm_base_error_set(FM_ERR_FORMAT, "%s is no CA's certificate in PEM: %s", options->ca,
                                 reason());
    return options->crl ? load_revoked(context, options->crl) : FM_OK;
}

static fm_status set_up(fm_net_tls *tls, const fm_net_tls_options *options)
{
    tls->method = bio_method();
    tls->context = SSL_CTX_new(TLS_method());
    if (!tls->method || !tls->context || SSL_CTX_set_min_proto_version(tls->context, TLS1_3_VERSION) != 1)
        return fm_base_error_set(FM_ERR_NOMEM, "cannot set up TLS");
    SSL_CTX_set_default_passwd_cb(tls->context, no_password);
    // Each connection proves itself anew.
    (void)SSL_CTX_set_num_tickets(tls->context, 0);
    (void)SSL_CTX_set_session_cache_mode(tls->context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_verify(tls->context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    // Messages carry their lengths, so that an end is an end with or without a farewell; what is written in part is counted
    // in part, and idle connections hold no buffers. A record is then read by one call and not by two.
    (void)SSL_CTX_set_options(tls->context, SSL_OP_IGNORE_UNEXPECTED_EOF);
    (void)SSL_CTX_set_mode(tls->context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                             SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_read_ahead(tls->context, 1);
    snprintf(tls->ca, sizeof tls->ca, "%s", options->ca ? options->ca : "");
    snprintf(tls->crl, sizeof tls->crl, "%s", options->crl ? options->crl : "");
    if (options->name && (!options->name[0] || strlen(options->name) >= sizeof tls->name))
        return fm_base_error_set(
            FM_ERR_ARG,
            "the name of TLS services has %zu characters; expected 1 to %zu, or \"*\" for "
            "the host that is dialled",
            strlen(options->name), sizeof tls->name - 1);
    snprintf(tls->name, sizeof tls->name, "%s", options->name ? options->name : "");
    return load(tls->context, options);
}

fm_status fm_net_tls_new(const fm_net_tls_options *options, fm_net_tls **out_tls)
{
    fm_net_tls_options own = {0};
    memcpy(&own, options, options->size < sizeof own ? options->size : sizeof own);
    fm_net_tls *tls = fm_base_mem_zalloc(1, sizeof *tls);
    if (!tls)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for TLS");
    atomic_init(&tls->owners, 1);
    fm_status status = set_up(tls, &own);
    if (status < 0) {
        fm_net_tls_free(tls);
        return status;
    }
    *out_tls = tls;
    return FM_OK;
}

fm_net_tls *fm_net_tls_ref(fm_net_tls *tls)
{
    // Relaxed: who refers to it has it from somebody that does.
    if (tls)
        (void)atomic_fetch_add_explicit(&tls->owners, 1, memory_order_relaxed);
    return tls;
}

void fm_net_tls_free(fm_net_tls *tls)
{
    // Release, and acquire by the last: what others did with it is done before it goes.
    if (!tls || atomic_fetch_sub_explicit(&tls->owners, 1, memory_order_acq_rel) > 1)
        return;
    SSL_CTX_free(tls->context);
    BIO_meth_free(tls->method);
    fm_base_mem_free(tls);
}

/* Sessions */

// The service must show a certificate with this name.
static int expect_name(SSL *ssl, const char *name)
{
    X509_VERIFY_PARAM *expected = SSL_get0_param(ssl);
    X509_VERIFY_PARAM_set_hostflags(expected, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT |
                                                  X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return X509_VERIFY_PARAM_set1_ip_asc(expected, name) == 1 ||
           X509_VERIFY_PARAM_set1_host(expected, name, 0) == 1;
}

fm_status fm_net_tls_session_new(fm_net_tls *tls, int fd, const char *dialled,
                                 struct net_tls_session **out_session)
{
    struct net_tls_session *session = fm_base_mem_zalloc(1, sizeof *session);
    if (!session)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a connection's TLS");
    session->tls = fm_net_tls_ref(tls);
    session->ssl = SSL_new(tls->context);
    const char *name = strcmp(tls->name, "*") == 0 ? dialled : tls->name;
    int is_set = session->ssl && (!dialled || !name[0] || expect_name(session->ssl, name));
    BIO *bio = is_set ? BIO_new(tls->method) : NULL;
    if (!bio) {
        fm_net_tls_session_free(session);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a connection's TLS");
    }
    session->fd = fd;
    BIO_set_data(bio, session);
    BIO_set_init(bio, 1);
    SSL_set_bio(session->ssl, bio, bio); // takes it
    if (dialled)
        SSL_set_connect_state(session->ssl);
    else
        SSL_set_accept_state(session->ssl);
    *out_session = session;
    return FM_OK;
}

void fm_net_tls_session_free(struct net_tls_session *session)
{
    if (!session)
        return;
    SSL_free(session->ssl);
    fm_net_tls_free(session->tls);
    fm_base_mem_free(session);
}

static fm_status explain_refusal(const fm_net_tls *tls, long verified)
{
    switch (verified) {
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
        return fm_base_error_set(FM_ERR_NET_AUTH,
                                 "its certificate is refused: expected %s among its subjectAltNames",
                                 strcmp(tls->name, "*") == 0 ? "the host that was dialled" : tls->name);
    case X509_V_ERR_CERT_REVOKED:
    case X509_V_ERR_UNABLE_TO_GET_CRL:
    case X509_V_ERR_CRL_HAS_EXPIRED:
    case X509_V_ERR_CRL_NOT_YET_VALID:
    case X509_V_ERR_CRL_SIGNATURE_FAILURE:
        return fm_base_error_set(FM_ERR_NET_AUTH, "its certificate is refused: %s (by the CRLs in %s)",
                                 X509_verify_cert_error_string(verified), tls->crl);
    default:
        return fm_base_error_set(FM_ERR_NET_AUTH,
                                 "its certificate is refused: %s; expected one that the CA in %s has signed",
                                 X509_verify_cert_error_string(verified), tls->ca);
    }
}

// Why OpenSSL gave up, in words that help.
static fm_status explain(const struct net_tls_session *session, int error)
{
    long verified = SSL_get_verify_result(session->ssl);
    unsigned long code = ERR_peek_last_error();
    int why = ERR_GET_REASON(code);
    if (error == SSL_ERROR_ZERO_RETURN || (error == SSL_ERROR_SYSCALL && code == 0))
        return fm_base_error_set(FM_ERR_NET_CLOSED, "closed the connection");
    if (why == ERR_R_MALLOC_FAILURE)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for TLS");
    if (why == SSL_R_CERTIFICATE_VERIFY_FAILED && verified != X509_V_OK)
        return explain_refusal(session->tls, verified);
    if (why == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE)
        return fm_base_error_set(FM_ERR_NET_AUTH,
                                 "gave no certificate; members show one by --tls-cert and --tls-key");
    if (ERR_GET_LIB(code) == ERR_LIB_SSL && why > SSL_AD_REASON_OFFSET)
        return fm_base_error_set(FM_ERR_NET_AUTH, "refuses this end's certificate or its TLS (%s)", reason());
    if (why == SSL_R_WRONG_VERSION_NUMBER || why == SSL_R_HTTP_REQUEST || why == SSL_R_UNSUPPORTED_PROTOCOL ||
        why == SSL_R_PACKET_LENGTH_TOO_LONG || why == SSL_R_NO_PROTOCOLS_AVAILABLE)
        return fm_base_error_set(FM_ERR_FORMAT, "does not speak TLS 1.3, which this end expects (%s)",
                                 reason());
    return fm_base_error_set(FM_ERR_NET_AUTH, "broke TLS (%s)", reason());
}

static enum net_tls_result result_of(const struct net_tls_session *session, int returned,
                                     fm_status *out_status)
{
    if (returned == 1)
        return NET_TLS_DONE;
    int error = SSL_get_error(session->ssl, returned);
    if (error == SSL_ERROR_WANT_READ)
        return NET_TLS_WAIT;
    if (error == SSL_ERROR_WANT_WRITE)
        return NET_TLS_BLOCKED;
    *out_status = explain(session, error);
    return NET_TLS_FAILED;
}

enum net_tls_result fm_net_tls_handshake(struct net_tls_session *session, fm_status *out_status)
{
    ERR_clear_error(); // or older ones would be taken for this one's
    return result_of(session, SSL_do_handshake(session->ssl), out_status);
}

enum net_tls_result fm_net_tls_read(struct net_tls_session *session, void *bytes, size_t size,
                                    size_t *out_size, fm_status *out_status)
{
    ERR_clear_error();
    return result_of(session, SSL_read_ex(session->ssl, bytes, size, out_size), out_status);
}

int fm_net_tls_has_more(const struct net_tls_session *session)
{
    return !session->drained || SSL_has_pending(session->ssl);
}

enum net_tls_result fm_net_tls_write(struct net_tls_session *session, const void *bytes, size_t size,
                                     size_t *out_size, fm_status *out_status)
{
    ERR_clear_error();
    return result_of(session, SSL_write_ex(session->ssl, bytes, size, out_size), out_status);
}

fm_status fm_net_tls_binding(struct net_tls_session *session, uint8_t out_binding[NET_TLS_BINDING_BYTES])
{
    static const char label[] = "EXPORTER-Channel-Binding";
    if (SSL_export_keying_material(session->ssl, out_binding, NET_TLS_BINDING_BYTES, label, sizeof label - 1,
                                   (const unsigned char *)"", 0, 1) != 1)
        return fm_base_error_set(FM_ERR_INTERNAL, "TLS gives no binding");
    return FM_OK;
}
