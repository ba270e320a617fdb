/*
 * The call layer, over the table of fathom/net_transport.h:
 *
 *     net_loop.c      tasks, timers, progress
 *     net_conn.c      connections and calls: deadlines, the peer's window
 *     net_request.c   listeners and requests
 *     net_dial.c      connecting again
 */
#ifndef NET_RPC_H
#define NET_RPC_H

#include <stdatomic.h>

#include "fathom/net.h"
#include "fathom/net_transport.h"

#include "net_list.h"
#include "net_timer.h"

struct fm_net_loop {
    const fm_net_transport *transport;
    fm_net_worker *worker;
    fm_net_limits limits;
    int64_t call_timeout_ns;
    struct net_timers timers;
    _Atomic(fm_net_task *) tasks; // pushed by any thread, the newest first; taken whole by the loop's
    atomic_int stop;
    int closing; // being freed: nothing new begins
    struct net_link listeners;
    struct net_link answered; // requests whose connection is gone: sent() is due
    struct net_link orphans;  // requests whose connection is gone: the answer is due
    struct net_call *free_calls;
    struct net_request *free_requests;
};

// A listener outlives neither its loop nor its close; its connections copy the service.
struct fm_net_listener {
    fm_net_loop *loop;
    struct net_link link;
    fm_net_acceptor *acceptor;
    fm_net_service service;
};

struct fm_net_conn {
    fm_net_loop *loop;
    fm_net_ep *ep;
    void *user;
    const char *name;                   // of the peer; the endpoint's, or `address`
    char address[FM_NET_ADDRESS_BYTES]; // callers: what was connected to
    int up;
    int ended;                      // closed by this side, or down: no more calls
    int timed_out;                  // closed because a call was not answered in time
    fm_net_connect_options options; // callers
    fm_net_service service;         // services
    uint32_t window;                // of the peer
    uint32_t args_bytes_max;        // that the peer accepts
    uint32_t in_flight;             // calls sent and not completed
    struct net_link waiting;        // calls that wait for the window, or for the connection to come up
    uint32_t waiting_count;
    struct net_link requests; // not answered
    uint32_t request_count;   // not answered, or answered and not sent
};

// What a waiting call will send: a copy of its args and of the list of its payload's pieces.
struct net_held {
    fm_net_body body;
    uint32_t payload_crc;
    struct iovec payload[FM_NET_PIECES_MAX];
    uint8_t args[];
};

struct net_call {
    struct net_link link; // waiting
    struct net_call *next_free;
    fm_net_conn *conn;
    fm_net_timer timer; // set when there is a deadline
    int64_t timeout_ns;
    uint32_t method;
    int sent;
    int expired;
    void *reply_buffer;
    size_t reply_bytes;
    void (*done)(void *context, const fm_net_reply *reply);
    void *context;
    struct net_held *held; // when it had to wait; freed with it
};

struct net_request {
    fm_net_request shown; // first: the service holds a pointer to it
    struct net_link link; // the connection's requests, or the loop's answered or orphans
    struct net_request *next_free;
    fm_net_loop *loop;
    fm_net_conn *conn;
    uint64_t id;
    fm_status refused; // why its payload was skipped
    int landed;        // the service gave memory
    void (*sent)(void *context, fm_status status);
    void *context;
    uint8_t *args_block; // NULL when `args` was large enough
    uint8_t args[256];
    char text[256]; // the message of a refusal
};

// A span that ends `delay_ns` from now, without overflow.
int64_t fm_net_loop_after_ns(const fm_net_loop *loop, int64_t delay_ns);

// upcalls, as the table has them
fm_status fm_net_conn_on_accepted(void *listener, fm_net_ep *ep, const fm_net_peer *peer, void **out_conn);
void fm_net_conn_on_up(void *conn, const fm_net_peer *peer);
void fm_net_conn_on_down(void *conn, fm_status status);
void fm_net_conn_on_done(void *call, fm_status status, const fm_net_head *reply);
fm_status fm_net_request_on_header(void *conn, uint64_t id, const fm_net_head *head, void **out_request,
                                   void **out_payload);
void fm_net_request_on_complete(void *request, fm_status status);
void fm_net_request_on_sent(void *request, fm_status status);

// Gives a connection's unanswered requests to the loop.
void fm_net_request_orphan_all(fm_net_conn *conn);
// Ends answers to connections that are gone.
void fm_net_request_finish_answered(fm_net_loop *loop);
void fm_net_request_free(struct net_request *request);

#endif
