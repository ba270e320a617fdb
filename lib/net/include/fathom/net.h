/**
 * @file net.h
 * Messages between processes: an event loop, remote calls with deadlines, and proof of membership.
 *
 * One side listens and serves, the other connects and calls:
 *
 *     caller                                            service
 *     fm_net_loop_connect() ---- mutual proof ----->    fm_net_loop_listen()
 *     fm_net_conn_call()    ---- args, payload ---->    land(): where shall the payload lie, or refuse it
 *                                                       serve(): all of it is there, checked
 *     done()                <--- status, args, payload  fm_net_request_reply()
 *
 * A message has two parts. *args* are small (fm_net_limits::args_bytes_max), copied on both sides, and there
 * when the receiver decides what to do. The *payload* is bulk: it is sent from the caller's memory and
 * received straight into memory that the receiver chose (the reply buffer given with the call; the buffer
 * that land() returned). The CRC32C of a payload is checked as it arrives and handed up, so that a checksum
 * can follow its bytes from disk to disk.
 *
 * Calls go one way on a connection. A service that waits for a slow reader stops reading that reader's
 * requests; if both ends served, both could wait so for each other. Whoever wants both directions opens a
 * second connection.
 *
 * **Threads.** A loop, and all that belongs to it (connections, requests, listeners, timers), is used by one
 * thread at a time. The library starts no thread. From other threads only fm_net_loop_post() and
 * fm_net_loop_stop() are allowed. Callbacks run inside fm_net_loop_progress() (or run, or free) and nowhere
 * else; in a callback everything is allowed except progress, run and free of its loop.
 *
 * **Time and transport** come from a table (fathom/net_transport.h): sockets and the monotonic clock by
 * default, a simulated network and clock in a deterministic test. Nothing in this library looks at another
 * clock.
 *
 * **Failure model.** Every call that was accepted completes exactly once. A peer that dies, hangs beyond a
 * deadline or breaks the protocol costs its own connection and nothing else. A deadline that passes closes
 * the connection, because that is the one way to be sure that nobody writes into the reply buffer any more;
 * the other calls on it complete with FM_ERR_NET_CLOSED. Retries are the caller's, who knows what may be done
 * twice: see fm_net_fate.
 *
 * **Addresses** are text: "host:port", "[::1]:port", ":port" (127.0.0.1), "*:port" (listen on all IPv4
 * interfaces; "[::]:port" adds IPv6), "unix:/path". A host name is resolved when it is used, to its first
 * IPv4 address or else its first one, which may block as long as the resolver does.
 *
 * After fork() a child must not use loops of its parent.
 *
 * Structs that begin with `size` grow at the end: set it to sizeof the struct, and leave at 0 what shall have
 * its default.
 */
#ifndef FATHOM_NET_H
#define FATHOM_NET_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fm_net_loop fm_net_loop;
typedef struct fm_net_conn fm_net_conn;
typedef struct fm_net_listener fm_net_listener;

/** A time span that never ends, where a timeout is asked for. */
#define FM_NET_FOREVER INT64_MAX

enum {
    /** Pieces that one payload may be gathered from. */
    FM_NET_PIECES_MAX = 8,
    /** Longest text of an address with its terminating 0: a host name (253) and its port, or "unix:" and a
     * path (107). */
    FM_NET_ADDRESS_BYTES = 272
};

/* Addresses */

typedef enum fm_net_family { FM_NET_TCP = 1, FM_NET_UNIX } fm_net_family;

/** A parsed address. */
typedef struct fm_net_address {
    fm_net_family family;
    /** TCP: name or number, without brackets; "*" for all interfaces. UNIX: the path. */
    char host[FM_NET_ADDRESS_BYTES];
    uint16_t port; /**< TCP; 0 lets listen choose one */
} fm_net_address;

/** Parses an address without resolving names. FM_ERR_ARG says what is wrong with the text. */
FM_API FM_MUST_USE fm_status fm_net_address_parse(const char *text, fm_net_address *out_address);
/** The text of an address, as fm_net_address_parse() reads it; at most FM_NET_ADDRESS_BYTES, 0 included. */
FM_API void fm_net_address_format(const fm_net_address *address, char *out_text);

/* Cluster key */

/**
 * What the members of one cluster share. Whoever has it is a member and may call every service; keep it as
 * one keeps a password. Both ends prove that they have it without sending it, and from it and fresh
 * randomness of both ends derive the keys that authenticate every later message of their connection. It does
 * not hide what is sent.
 */
typedef struct fm_net_key {
    /** Tells clusters apart; sent in clear, so that a stray connection is told why it fails. */
    uint8_t cluster_id[16];
    uint8_t secret[32];
} fm_net_key;

/** A new random key. FM_ERR_IO when the system gives no randomness. */
FM_API FM_MUST_USE fm_status fm_net_key_generate(fm_net_key *out_key);
/**
 * Writes a key to a new file of mode 0600, synchronised to disk. FM_ERR_EXISTS when there is a file (a key
 * that is in use must not be lost), FM_ERR_IO.
 *
 * The file is one line of text: "fathom-key-1", the cluster id and the secret in hexadecimal, separated by
 * blanks.
 */
FM_API FM_MUST_USE fm_status fm_net_key_write(const char *path, const fm_net_key *key);
/**
 * Reads a key file. FM_ERR_NOT_FOUND, FM_ERR_PERM when others than its owner may read or change it or when it
 * belongs to neither this user nor root, FM_ERR_FORMAT, FM_ERR_IO.
 */
FM_API FM_MUST_USE fm_status fm_net_key_read(const char *path, fm_net_key *out_key);
/** Overwrites a key that is not needed any more. */
FM_API void fm_net_key_clear(fm_net_key *key);

/** How the ends of a connection prove themselves, and how its messages are protected. Both ends must say the
 * same. */
typedef enum fm_net_mode {
    /** By the cluster key; each message carries a MAC and an implied sequence number. Any address. */
    FM_NET_KEYED = 0,
    /** UNIX sockets alone: the kernel tells the peer's user, who must be this user or root. CRCs, no MAC. */
    FM_NET_SAME_USER
} fm_net_mode;

/** A certificate, its private key, and the CA whose certificates are trusted, for TLS 1.3. */
typedef struct fm_net_tls fm_net_tls;

typedef struct fm_net_tls_options {
    size_t size;
    const char *cert; /**< file in PEM: this end's certificate, and those between it and the CA behind it */
    const char *key;  /**< file in PEM, without a password, that nobody but its owner may use */
    const char *ca;   /**< file in PEM: whose certificates the other end may show */
    /**
     * File in PEM: what that CA, and every other one between it and a certificate, has revoked. Optional. With it a certificate
     * is refused also where the list of its CA is missing or past its next update.
     */
    const char *crl;
    /**
     * What a service that is dialled must be called by its certificate, a DNS name or an IP address in its subjectAltName:
     * "*" for the host of the address that was dialled, else this name, at most 253 characters. NULL: names are not
     * looked at, and whoever has a certificate and the cluster key may serve. Those of callers never are.
     */
    const char *name;
} fm_net_tls_options;

/**
 * Reads the files, once: who wants a newer list of what is revoked makes a new one. FM_ERR_ARG, FM_ERR_NOT_FOUND, FM_ERR_PERM (others may read the private key), FM_ERR_FORMAT, FM_ERR_NOMEM,
 * FM_ERR_IO, FM_ERR_UNSUPPORTED (built without TLS).
 */
FM_API FM_MUST_USE fm_status fm_net_tls_new(const fm_net_tls_options *options, fm_net_tls **out_tls);
/** One more owner, who frees it as well; returns it. Any thread. NULL is allowed. */
FM_API fm_net_tls *fm_net_tls_ref(fm_net_tls *tls);
/** What listens, dials or is connected with it keeps it as long as it needs it. Any thread. NULL is allowed. */
FM_API void fm_net_tls_free(fm_net_tls *tls);

typedef struct fm_net_security {
    fm_net_mode mode;
    const fm_net_key *key; /**< FM_NET_KEYED: copied during the call; required */
    /**
     * Optional, for TCP; UNIX sockets take no notice of it. Both ends or none. All is sent in TLS 1.3, encrypted, and both ends
     * show a certificate that the other's CA has signed (and see fm_net_tls_options::crl and name) before the cluster key proves
     * what it always does. The proof is bound to this TLS connection: who has certificates but not the key cannot stand
     * between two members.
     */
    fm_net_tls *tls;
} fm_net_security;

/* Loop */

/** What a loop lets others make it hold. 0 gives the default. */
typedef struct fm_net_limits {
    /** Calls that one peer may have in service here at once; its later ones wait on its side. 64 */
    uint32_t window;
    /** Accepted size of args, both ways; at most 32 KiB. 16 KiB */
    uint32_t args_bytes_max;
    /** Accepted size of a request's payload; at most 1 GiB. 64 MiB */
    uint32_t payload_bytes_max;
    /** Reply bytes that may wait for one slow reader before its further requests are left unread. 4 MiB */
    uint32_t reply_queue_bytes_max;
    /** Accepted connections. One more is refused. 4096 */
    uint32_t connections_max;
    /** Accepted connections that have not proved themselves yet. One more displaces the oldest. 128 */
    uint32_t handshakes_max;
    /** Calls of one connection that wait for its peer; one more fails with FM_ERR_NET_CREDIT. 1024 */
    uint32_t queue_max;
    /** Time from connect or accept to the end of the handshake, at most a day. 5 s */
    int64_t handshake_timeout_ns;
    /** Time without a byte of progress in the middle of a message, after which a peer is given up; at most a
     * day. 30 s */
    int64_t stall_timeout_ns;
    /**
     * Memory that a connection over a UNIX socket shares with its peer, if that is of the same user or root: payloads of
     * 32 KiB and more go through it instead of the socket. The end that connects makes it; pages are taken as they are
     * used, and go when the connection ends. At most 64 MiB; 1: none, so that all goes over the socket. 16 MiB
     */
    uint32_t shared_bytes;
} fm_net_limits;

typedef struct fm_net_loop_options {
    size_t size;
    int64_t call_timeout_ns;                  /**< deadline of calls that give none. 30 s */
    const struct fm_net_transport *transport; /**< NULL: fm_net_transport_sockets() */
    void *transport_context;                  /**< handed to the transport */
    fm_net_limits limits;
} fm_net_loop_options;

/** A loop. `options` may be NULL. FM_ERR_ARG, FM_ERR_NOMEM, FM_ERR_LIMIT (no file descriptors), FM_ERR_IO. */
FM_API FM_MUST_USE fm_status fm_net_loop_new(const fm_net_loop_options *options, fm_net_loop **out_loop);
/**
 * Closes all listeners and connections, completes every call and tells every owner by the usual callbacks,
 * then frees the loop. Requests that were not answered become invalid; timers, watches and tasks are
 * forgotten. NULL is allowed.
 */
FM_API void fm_net_loop_free(fm_net_loop *loop);

/** Runs what is due, waiting at most `timeout_ns` (0: not at all) for something to do. FM_ERR_IO on a broken
 * transport. */
FM_API FM_MUST_USE fm_status fm_net_loop_progress(fm_net_loop *loop, int64_t timeout_ns);
/** Progress until fm_net_loop_stop(). */
FM_API FM_MUST_USE fm_status fm_net_loop_run(fm_net_loop *loop);
/** Makes fm_net_loop_run() return, now or as soon as it is called. Any thread, and signal handlers. */
FM_API void fm_net_loop_stop(fm_net_loop *loop);

/** The loop's clock: nanoseconds that only grow. */
FM_API int64_t fm_net_loop_now_ns(const fm_net_loop *loop);
/**
 * For nesting in another event loop: a descriptor that is readable when progress has something to do, or -1
 * when the transport has none. Call progress then, and when fm_net_loop_wait_ns() has passed.
 */
FM_API int fm_net_loop_fd(const fm_net_loop *loop);
/** How long the loop may be left alone while its descriptor stays unreadable; 0 when there is work now. */
FM_API int64_t fm_net_loop_wait_ns(const fm_net_loop *loop);

/** A piece of work handed to a loop. Zero it, set the first two; the loop owns it from post until it runs. */
typedef struct fm_net_task {
    void (*run)(void *context);
    void *context;
    struct fm_net_task *next; /**< private */
} fm_net_task;

/** Has the loop's thread run the task, in the order of posting by one thread. Any thread. Never fails, never
 * allocates. */
FM_API void fm_net_loop_post(fm_net_loop *loop, fm_net_task *task);

/** A timer. Zero it, set the first two; it must stay where it is while it is set. */
typedef struct fm_net_timer {
    void (*fire)(void *context);
    void *context;
    int64_t due_ns;  /**< by the loop's clock */
    uint64_t serial; /**< private: timers due at once fire in the order they were set */
    size_t place;    /**< private: place in the heap, 0 when not set */
} fm_net_timer;

/** Sets or moves a timer to `delay_ns` from now. It fires once. FM_ERR_NOMEM leaves it unset. */
FM_API FM_MUST_USE fm_status fm_net_timer_start(fm_net_loop *loop, fm_net_timer *timer, int64_t delay_ns);
/** Unsets a timer; no effect when it is not set. */
FM_API void fm_net_timer_stop(fm_net_loop *loop, fm_net_timer *timer);

/** A file descriptor that the loop waits for as well: a disk ring, a signalfd, a child's pipe. Stays where it
 * is while set. */
typedef struct fm_net_watch {
    int fd;
    uint32_t events; /**< EPOLLIN, EPOLLOUT; level-triggered */
    /** Told what epoll reported, EPOLLERR and EPOLLHUP included. */
    void (*ready)(void *context, uint32_t events);
    void *context;
    void *transport_data; /**< private; zero it */
} fm_net_watch;

/** Starts to watch. FM_ERR_EXISTS (fd is watched), FM_ERR_UNSUPPORTED (by this transport), FM_ERR_NOMEM,
 * FM_ERR_IO. */
FM_API FM_MUST_USE fm_status fm_net_watch_start(fm_net_loop *loop, fm_net_watch *watch);
/** Stops to watch; call it before the descriptor is closed. Its callback does not run after this returns. */
FM_API void fm_net_watch_stop(fm_net_loop *loop, fm_net_watch *watch);

typedef struct fm_net_region fm_net_region;

/**
 * Tells the transport of memory that payloads will often come from or go to, which a network card wants to
 * know before; sockets take no notice. Undo it before the memory or the loop is freed. FM_ERR_NOMEM,
 * FM_ERR_LIMIT.
 */
FM_API FM_MUST_USE fm_status fm_net_region_new(fm_net_loop *loop, void *base, size_t bytes,
                                               fm_net_region **out_region);
FM_API void fm_net_region_free(fm_net_loop *loop, fm_net_region *region);

/* Messages */

/** What a request or a reply carries. */
typedef struct fm_net_body {
    const void *args; /**< copied before the function returns */
    size_t args_bytes;
    /** At most FM_NET_PIECES_MAX pieces. The array is copied; the bytes it names are not: they must stay, and
     * stay the same, until done() or sent(). */
    const struct iovec *payload;
    size_t payload_count;
    /** The payload's CRC32C where it is known already; copied. NULL: computed. A wrong one makes the receiver
     * close the connection. */
    const uint32_t *payload_crc;
} fm_net_body;

/** What the caller may conclude about a call that failed. */
typedef enum fm_net_fate {
    /** Not a byte was sent: it was not executed, and calling again is safe. */
    FM_NET_UNSENT = 0,
    /** The connection ended in between: it may have been executed, or may still be. */
    FM_NET_UNKNOWN,
    /** The service answered; the status is its own. */
    FM_NET_ANSWERED
} fm_net_fate;

/** How a call ended. Pointers are valid during done(). */
typedef struct fm_net_reply {
    /**
     * What the service answered, or FM_ERR_TIMEOUT (its deadline passed), FM_ERR_NET_CLOSED (the peer or
     * another call's deadline ended the connection), FM_ERR_CANCELLED (this side closed it), FM_ERR_LIMIT
     * (the payload of the reply is larger than the reply buffer), or why the connection could not be made.
     * fm_error_message() has the detail.
     */
    fm_status status;
    fm_net_fate fate;
    const void *args;
    size_t args_bytes;
    size_t payload_bytes; /**< that lie in the reply buffer; 0 when the status is negative */
    uint32_t payload_crc; /**< their CRC32C, checked; 0 when there are none */
} fm_net_reply;

/* Calling */

typedef struct fm_net_connect_options {
    size_t size;
    /** The handshake succeeded. Optional. */
    void (*up)(void *context, fm_net_conn *conn);
    /**
     * The connection failed or ended; all its calls have completed. `conn` is invalid when this returns. The
     * status is FM_ERR_CANCELLED when this side closed it; otherwise FM_ERR_NET_REFUSED (nobody listens, or
     * the peer is full), FM_ERR_NET_AUTH (other key, cluster or mode), FM_ERR_VERSION, FM_ERR_NET_CLOSED,
     * FM_ERR_TIMEOUT, FM_ERR_FORMAT (the peer broke the protocol), FM_ERR_NOT_FOUND (unknown host),
     * FM_ERR_IO. Optional.
     */
    void (*down)(void *context, fm_net_conn *conn, fm_status status);
    void *context;
    fm_net_security security;
} fm_net_connect_options;

/**
 * Begins to connect. Calls may be made at once; they wait until the connection is up. FM_ERR_ARG,
 * FM_ERR_NOT_FOUND (unknown host), FM_ERR_LIMIT (no descriptors), FM_ERR_STATE (the loop is being freed),
 * FM_ERR_NOMEM; what goes wrong later comes by down().
 */
FM_API FM_MUST_USE fm_status fm_net_loop_connect(fm_net_loop *loop, const char *address,
                                                 const fm_net_connect_options *options,
                                                 fm_net_conn **out_conn);

typedef struct fm_net_call {
    uint32_t method; /**< the service's to give a meaning */
    fm_net_body body;
    void *reply_buffer; /**< where the reply's payload goes; must stay until done() */
    size_t reply_bytes; /**< its size */
    int64_t timeout_ns; /**< 0: the loop's call_timeout_ns; FM_NET_FOREVER: none */
    void (*done)(void *context, const fm_net_reply *reply);
    void *context;
} fm_net_call;

/**
 * Calls. On FM_OK done() runs exactly once, later. On failure it does not run: FM_ERR_ARG, FM_ERR_LIMIT
 * (larger than the peer accepts), FM_ERR_NET_CREDIT (too many calls wait), FM_ERR_NET_CLOSED (closing),
 * FM_ERR_NOMEM. Calls of one connection arrive in the order they were made; their replies come in any order.
 */
FM_API FM_MUST_USE fm_status fm_net_conn_call(fm_net_conn *conn, const fm_net_call *call);
/** Closes a connection of either side; all calls complete, then down() or closed() runs. The only way to
 * cancel. */
FM_API void fm_net_conn_close(fm_net_conn *conn);
/** The peer's address for people; valid as long as the connection. An accepted UNIX peer is named by its
 * process id. */
FM_API const char *fm_net_conn_peer(const fm_net_conn *conn);
/** Calls that were accepted and have not completed. */
FM_API size_t fm_net_conn_calls(const fm_net_conn *conn);
FM_API void fm_net_conn_set_user(fm_net_conn *conn, void *user);
FM_API void *fm_net_conn_user(const fm_net_conn *conn);

/* Serving */

/** A request in service. It is the service's from serve() (or land()) until it is answered (or dropped). */
typedef struct fm_net_request {
    fm_net_conn *conn; /**< NULL once the connection is gone: an answer is still due, and goes nowhere */
    uint32_t method;
    const void *args; /**< valid until the answer */
    size_t args_bytes;
    void *payload; /**< what land() gave */
    size_t payload_bytes;
    uint32_t payload_crc; /**< CRC32C of the payload, checked; 0 when there is none */
    int64_t deadline_ns;  /**< by this loop's clock; later nobody waits for the answer. FM_NET_FOREVER */
    void *user;           /**< the service's; NULL at first */
} fm_net_request;

typedef struct fm_net_service {
    size_t size;
    /**
     * A request with a payload has begun to arrive: give memory for its payload_bytes, which stays the
     * service's. A negative status refuses the request: its payload is skipped, and the caller gets the
     * status and fm_error_message(). NULL refuses all payloads.
     */
    fm_status (*land)(void *context, fm_net_request *request, void **out_payload);
    /** The request is complete and checked. Answer it exactly once, now or later, in the loop's thread. */
    void (*serve)(void *context, fm_net_request *request);
    /** The payload will not arrive: take back the memory that land() gave. The request is invalid when this
     * returns. Required with land(). */
    void (*drop)(void *context, fm_net_request *request);
    /** A peer has proved itself. Optional. */
    void (*opened)(void *context, fm_net_conn *conn);
    /** Its connection ended; `conn` is invalid when this returns. Optional. */
    void (*closed)(void *context, fm_net_conn *conn, fm_status status);
    void *context;
} fm_net_service;

typedef struct fm_net_listen_options {
    size_t size;
    const fm_net_service *service; /**< copied during the call */
    int shared_port; /**< TCP: other loops listen on the port too; the kernel spreads connections */
    fm_net_security security;
} fm_net_listen_options;

/**
 * Listens. A UNIX socket file is made with mode 0600, replaces one that nobody listens on, and is removed at
 * the end. FM_ERR_ARG, FM_ERR_EXISTS (address in use), FM_ERR_PERM, FM_ERR_NOT_FOUND (unknown host),
 * FM_ERR_LIMIT (no file descriptors), FM_ERR_STATE (the loop is being freed), FM_ERR_NOMEM, FM_ERR_IO.
 */
FM_API FM_MUST_USE fm_status fm_net_loop_listen(fm_net_loop *loop, const char *address,
                                                const fm_net_listen_options *options,
                                                fm_net_listener **out_listener);
/** The address to connect to, with the port that was chosen. Valid as long as the listener. */
FM_API const char *fm_net_listener_address(const fm_net_listener *listener);
/** Accepts no more. Connections that it accepted stay, and so must what its service needs. */
FM_API void fm_net_listener_close(fm_net_listener *listener);

typedef struct fm_net_answer {
    fm_status status; /**< FM_OK or a failure of the service; a failure carries no payload */
    fm_net_body body;
    /** The payload's memory may be used again: it was sent (FM_OK) or never will be. Runs once, later.
     * Optional. */
    void (*sent)(void *context, fm_status status);
    void *context;
} fm_net_answer;

/**
 * Answers. On FM_OK the request is invalid. On failure it is still to be answered: FM_ERR_ARG, FM_ERR_LIMIT
 * (args larger than the peer accepts), FM_ERR_NOMEM. Where the caller's buffer is smaller than the payload,
 * the caller gets FM_ERR_LIMIT.
 */
FM_API FM_MUST_USE fm_status fm_net_request_reply(fm_net_request *request, const fm_net_answer *answer);
/**
 * Answers with a failure and this thread's fm_error_message(), which becomes the caller's. The request is
 * invalid afterwards in any case; where even that cannot be sent, the connection is closed.
 */
FM_API void fm_net_request_fail(fm_net_request *request, fm_status status);

/* Dialling */

/**
 * Waiting times between attempts: random in [half, whole] of a span that doubles from `first_ns` to
 * `limit_ns`. The randomness keeps many clients of a service that restarted from coming back all at once; it
 * depends on `seed` alone.
 */
typedef struct fm_net_backoff {
    int64_t first_ns; /**< 0: 50 ms */
    int64_t limit_ns; /**< 0: 5 s */
    uint64_t seed;    /**< give each client another one */
    uint32_t attempt; /**< set to 0 after a success */
} fm_net_backoff;

/** How long to wait before the next attempt; counts it. */
FM_API int64_t fm_net_backoff_next_ns(fm_net_backoff *backoff);

/** Keeps a connection to one address: connects, and connects again whenever it ends, after a back-off. */
typedef struct fm_net_dialer fm_net_dialer;

/**
 * Begins to dial. `options` are those of the connections it makes; their up() and down() run each time
 * (down() also after an attempt that failed; its connection is NULL where the attempt could not even begin).
 * FM_ERR_ARG, FM_ERR_NOMEM.
 */
FM_API FM_MUST_USE fm_status fm_net_dialer_new(fm_net_loop *loop, const char *address,
                                               const fm_net_connect_options *options,
                                               const fm_net_backoff *backoff, fm_net_dialer **out_dialer);
/** The present connection, up or coming up; NULL while it waits for its next attempt. */
FM_API fm_net_conn *fm_net_dialer_conn(const fm_net_dialer *dialer);
/** Stops, closes the connection (down() still runs) and frees the dialer. Before its loop is freed. NULL is
 * allowed. */
FM_API void fm_net_dialer_free(fm_net_dialer *dialer);

#ifdef __cplusplus
}
#endif
#endif
