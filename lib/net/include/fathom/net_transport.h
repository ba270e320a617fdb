/**
 * @file net_transport.h
 * What stands between the calls of fathom/net.h and the wire: a table of functions.
 *
 * Who only calls and serves needs nothing of this. It is for who writes another transport: RDMA, shared
 * memory, or a simulated network with a clock of its own, over which the whole call layer then runs,
 * single-threaded and repeatable.
 *
 * The table is shaped so that remote DMA fits behind it: where a reply goes is known when the call is made; a
 * service chooses the memory of a payload after it has seen the header; "done" means that nobody touches the
 * memory any more; and the one way to cancel is to close.
 *
 *     caller's transport                                 service's transport
 *     call(ep, head, payload, buffer, cookie)  ----->    header(ep, id, head) -> request, buffer
 *                                                        request(request, FM_OK)
 *     done(cookie, FM_OK, head)                <-----    reply(ep, id, head, payload, cookie)
 *                                                        sent(cookie, FM_OK)
 *
 * Rules for both sides of the table:
 *  - a worker and all that belongs to it is used by one thread at a time, except wake();
 *  - upcalls run inside progress() and worker_free() alone, never inside another function of the table; in an
 *    upcall every function of the table may be called except those two;
 *  - a function that fails has no effect and returns no cookie; one that succeeds returns its cookie exactly
 *    once;
 *  - requests of one endpoint arrive in the order of their calls; nothing is promised about the order of
 *    replies;
 *  - after close(), and when a connection ends by itself, each outstanding cookie comes back with a negative
 *    status (done, sent, request), then down() runs, and after it the endpoint is invalid;
 *  - before an upcall with a negative status, the transport sets this thread's error message.
 */
#ifndef FATHOM_NET_TRANSPORT_H
#define FATHOM_NET_TRANSPORT_H

#include "fathom/net.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fm_net_worker fm_net_worker;     /**< one thread's share of the transport */
typedef struct fm_net_ep fm_net_ep;             /**< an end of a connection */
typedef struct fm_net_acceptor fm_net_acceptor; /**< a listening address */

/** What travels in front of a payload. */
typedef struct fm_net_head {
    uint32_t method;    /**< request */
    fm_status status;   /**< reply */
    int message;        /**< reply: args are the text of an error */
    int64_t timeout_ns; /**< request: how long its caller waits, or FM_NET_FOREVER */
    const void *args;   /**< copied by call() and reply(); in an upcall valid until it returns */
    uint32_t args_bytes;
    uint32_t payload_bytes; /**< set by the transport from the pieces */
    uint32_t payload_crc;
    int payload_crc_known; /**< call() and reply(): payload_crc is right, do not compute it */
} fm_net_head;

/** What an endpoint knows about the other end. */
typedef struct fm_net_peer {
    const char *address;        /**< for people; valid as long as the endpoint */
    uint32_t window;            /**< requests that the peer takes at once */
    uint32_t args_bytes_max;    /**< that the peer accepts */
    uint32_t payload_bytes_max; /**< that the peer accepts with a request */
} fm_net_peer;

typedef struct fm_net_upcalls {
    /** A peer has proved itself on a listening address. A negative status closes it. */
    fm_status (*accepted)(void *acceptor_cookie, fm_net_ep *ep, const fm_net_peer *peer,
                          void **out_ep_cookie);
    /** connect() succeeded. */
    void (*up)(void *ep_cookie, const fm_net_peer *peer);
    /** The endpoint is no more; the last upcall about it. */
    void (*down)(void *ep_cookie, fm_status status);
    /**
     * A request begins to arrive. Sets a cookie for it and, when it has a payload, the memory for it; NULL
     * skips the payload. A negative status closes the endpoint, and no further upcall about the request
     * comes.
     */
    fm_status (*header)(void *ep_cookie, uint64_t id, const fm_net_head *head, void **out_request_cookie,
                        void **out_payload);
    /** The request is complete and checked (FM_OK), or never will be. Right after header() when there is no
     * payload. */
    void (*request)(void *request_cookie, fm_status status);
    /** A call completed; `reply` is NULL unless the status is FM_OK or FM_ERR_LIMIT (the payload did not fit;
     * skipped). */
    void (*done)(void *call_cookie, fm_status status, const fm_net_head *reply);
    /** The memory of a reply may be used again. */
    void (*sent)(void *reply_cookie, fm_status status);
} fm_net_upcalls;

typedef struct fm_net_transport {
    size_t size;
    const char *name;
    /** `upcalls` stay valid as long as the worker; `limits` are complete (no zeros) and copied. */
    fm_status (*worker_new)(const fm_net_limits *limits, const fm_net_upcalls *upcalls, void *context,
                            fm_net_worker **out_worker);
    /** Closes everything, with all upcalls that are due, and frees. */
    void (*worker_free)(fm_net_worker *worker);
    /** Runs upcalls; waits at most `timeout_ns` for a reason to. Having run one it does not wait any more, as
     * the layer above may have other plans since. */
    fm_status (*progress)(fm_net_worker *worker, int64_t timeout_ns);
    /** Makes a progress() that waits, or else the next one, return at once. Any thread, signal handlers. */
    void (*wake)(fm_net_worker *worker);
    int64_t (*now_ns)(const fm_net_worker *worker);
    /** How long progress() may be put off while fd() is not readable. */
    int64_t (*wait_ns)(const fm_net_worker *worker);
    /** A descriptor to poll, or -1. */
    int (*fd)(const fm_net_worker *worker);
    /** Optional, both or none. */
    fm_status (*watch_start)(fm_net_worker *worker, fm_net_watch *watch);
    void (*watch_stop)(fm_net_worker *worker, fm_net_watch *watch);

    fm_status (*listen)(fm_net_worker *worker, const char *address, const fm_net_security *security,
                        int shared_port, void *acceptor_cookie, fm_net_acceptor **out_acceptor);
    const char *(*acceptor_address)(const fm_net_acceptor *acceptor);
    /** At once: no accepted() with its cookie follows. */
    void (*acceptor_close)(fm_net_acceptor *acceptor);
    fm_status (*connect)(fm_net_worker *worker, const char *address, const fm_net_security *security,
                         void *ep_cookie, fm_net_ep **out_ep);
    /** FM_ERR_NET_CLOSED once the endpoint closes; only between up() and down(). */
    fm_status (*call)(fm_net_ep *ep, const fm_net_head *head, const struct iovec *payload,
                      size_t payload_count, void *reply_buffer, size_t reply_bytes, void *call_cookie);
    /** Accepted also while the endpoint closes; the cookie then comes back with down(). */
    fm_status (*reply)(fm_net_ep *ep, uint64_t id, const fm_net_head *head, const struct iovec *payload,
                       size_t payload_count, void *reply_cookie);
    /** Ends the endpoint with this status (negative). */
    void (*close)(fm_net_ep *ep, fm_status status);

    /** See fm_net_region_new(). Optional, both or none. */
    fm_status (*region_new)(fm_net_worker *worker, void *base, size_t bytes, fm_net_region **out_region);
    void (*region_free)(fm_net_worker *worker, fm_net_region *region);
} fm_net_transport;

/** TCP and UNIX sockets under epoll; ignores its context. The format on the wire is in
 * lib/net/src/net_frame.h. */
FM_API const fm_net_transport *fm_net_transport_sockets(void);

#ifdef __cplusplus
}
#endif
#endif
