/*
 * The transport of sockets: one epoll set a worker, no thread, no lock.
 *
 * An endpoint goes CONNECTING (callers) -> SHAKING -> UP -> CLOSING, and is freed when what it owed was given
 * back:
 *
 *     net_sock_worker.c   the loop: waits, dispatches, settles
 *     net_sock_listen.c   listening sockets
 *     net_sock_ep.c       endpoints from the first packet to the last upcall; the handshake
 *     net_sock_recv.c     bytes in
 *     net_sock_send.c     bytes out; calls and replies
 *     net_sock_tls.c      the same in TLS
 *     net_sock_share.c    the shared area of a connection within a machine
 *
 * Upcalls may close any endpoint, also the one they are about. So closing only marks it and moves it to
 * `dying`; it is given back and freed in net_sock_worker.c, when no caller up the stack and no event still
 * names it.
 */
#ifndef NET_SOCK_H
#define NET_SOCK_H

#include <stdint.h>
#include <sys/uio.h>

#include "fathom/net_transport.h"

#include "net_address.h"
#include "net_area.h"
#include "net_list.h"
#include "net_shake.h"
#include "net_stage.h"
#include "net_tls.h"

// What an epoll event points to begins with one of these.
enum net_poll {
    NET_POLL_WAKE,
    NET_POLL_EP,
    NET_POLL_ACCEPTOR,
    NET_POLL_WATCH,
};

union net_stage_memory {
    union net_stage_memory *next; // while it is free
    uint8_t bytes[NET_STAGE_BYTES];
};

struct net_polled {
    enum net_poll kind;
    struct net_link link;
};

struct fm_net_worker {
    enum net_poll kind; // NET_POLL_WAKE: the worker stands for its eventfd
    const fm_net_upcalls *upcalls;
    fm_net_limits limits;
    int epoll;
    int event; // eventfd of wake()
    struct net_link acceptors;
    struct net_link watches;
    struct net_link eps;        // all but the dying
    struct net_link handshakes; // CONNECTING and SHAKING, the oldest first
    struct net_link stalled;    // in the middle of a message, the one longest without progress first
    struct net_link dirty;      // have something to send that was not tried yet
    struct net_link resumable;  // have staged frames to look at again
    struct net_link dying;
    struct net_link graves; // acceptors and watches that an event may still name
    struct net_send *free_sends;
    union net_stage_memory *free_stages;
    unsigned free_stage_count;
    uint32_t connections; // accepted, handshakes included
    uint32_t strangers;   // accepted, not proved yet
};

struct fm_net_acceptor {
    struct net_polled polled; // in acceptors, then graves
    int fd;
    fm_net_worker *worker;
    void *cookie;
    fm_net_security security; // key points to `key`; its tls is held
    fm_net_key key;
    int64_t paused_until_ns; // no descriptors left: not asked until then; 0: not paused
    uint64_t device, inode;  // of the socket file, so that no other's is removed
    char name[FM_NET_ADDRESS_BYTES];
};

struct net_watch {
    struct net_polled polled; // in watches, then graves
    fm_net_watch *watch;      // NULL once stopped
};

enum net_ep_state {
    NET_EP_CONNECTING,
    NET_EP_SHAKING,
    NET_EP_UP,
    NET_EP_CLOSING,
};

// A frame on its way out. Headers and small args lie in it; longer args have a block of their own.
struct net_send {
    struct net_send *next;
    void *cookie; // of a reply
    uint64_t id;  // of a call
    int is_reply;
    unsigned piece, piece_count; // the first not fully sent, and the end
    size_t bytes;                // of the whole frame
    struct iovec pieces[1 + FM_NET_PIECES_MAX];
    uint8_t *block;
    uint8_t head[NET_FRAME_BYTES + 176]; // 256 in all
};

// A call that waits for its reply. Its id on the wire is generation << 32 | place, so that a stale id is
// noticed.
struct net_slot {
    void *cookie;
    void *buffer;
    size_t bytes;
    uint32_t generation;
    uint32_t next_free;
    uint8_t active;
    uint8_t sent; // nothing reads the request's memory any more
    struct net_place place;
};

// Service: a request that is not answered yet, whose caller has a place for the reply.
struct net_reach {
    uint64_t id;
    struct net_place place;
};

struct fm_net_ep {
    enum net_poll kind;
    int fd;
    fm_net_worker *worker;
    enum net_ep_state state;
    int caller;
    int is_unix;
    int has_owner;             // the layer above knows it: down() is due
    fm_net_acceptor *acceptor; // that accepted it, while SHAKING
    void *cookie;
    struct net_link all;   // eps or dying
    struct net_link timed; // handshakes or stalled, by moved_ns
    struct net_link dirty;
    struct net_link resume;
    int64_t moved_ns; // begin of the handshake; last progress
    uint32_t interest;
    uint8_t blocked; // the socket takes no more for now
    uint8_t paused;  // too many reply bytes wait: requests stay unread
    fm_status why;
    char why_text[200];
    char name[FM_NET_ADDRESS_BYTES + 24]; // an address, and a process id
    fm_net_peer peer;

    struct net_shake *shake; // while CONNECTING and SHAKING
    uint8_t shake_in[NET_SHAKE_BYTES];
    unsigned shake_bytes;

    struct net_tls_session *tls; // NULL: not in TLS
    uint8_t tls_heard;           // the peer has begun it
    uint8_t tls_up;

    struct net_stage stage;
    void *request;       // service: a request that has begun to arrive
    uint64_t reply_slot; // caller: the slot of the reply that is arriving
    fm_status reply_status;
    uint8_t *reply_args; // caller: kept from the header to the end of the payload
    uint32_t reply_args_room;

    fm_net_seal *seal; // sending
    struct net_send *sends;
    struct net_send **sends_end;
    size_t send_bytes; // queued; a frame counts until its last byte is gone

    // Of a connection over a UNIX socket; NULL unless both ends use it, once it is up.
    struct net_area *area;
    int area_fd; // until the handshake is over; -1: none
    struct net_reach *reaches;
    uint32_t reach_count, reach_room;

    struct net_slot *slots;
    uint32_t slot_count, slot_free; // slot_free: index + 1, 0 for none
};

// worker
int64_t fm_net_sock_now_ns(void);
FM_MUST_USE fm_status fm_net_sock_poll_add(fm_net_worker *worker, int fd, uint32_t events, void *pointer);
// Before a descriptor is closed: where a child of fork() still has it, closing alone would leave it with epoll, which would
// go on reporting what is freed here.
void fm_net_sock_poll_remove(fm_net_worker *worker, int fd);

// listen
FM_MUST_USE fm_status fm_net_sock_listen(fm_net_worker *worker, const char *address,
                                         const fm_net_security *security, int shared_port,
                                         void *acceptor_cookie, fm_net_acceptor **out_acceptor);
const char *fm_net_sock_acceptor_address(const fm_net_acceptor *acceptor);
void fm_net_sock_acceptor_close(fm_net_acceptor *acceptor);
void fm_net_sock_acceptor_ready(fm_net_acceptor *acceptor);
// Asks again once the pause is over; returns how long that is, or FM_NET_FOREVER.
int64_t fm_net_sock_acceptors_resume(fm_net_worker *worker);

// endpoints
FM_MUST_USE fm_status fm_net_sock_connect(fm_net_worker *worker, const char *address,
                                          const fm_net_security *security, void *ep_cookie,
                                          fm_net_ep **out_ep);
// Takes the descriptor in any case.
void fm_net_sock_ep_accept(fm_net_acceptor *acceptor, int fd, const struct net_sockaddr *from);
void fm_net_sock_ep_ready(fm_net_ep *ep, uint32_t events);
// Begins the end; this thread's message goes along as the reason.
void fm_net_sock_ep_fail(fm_net_ep *ep, fm_status status);
void fm_net_sock_ep_close(fm_net_ep *ep, fm_status status);
// Makes epoll wait for what the endpoint waits for.
void fm_net_sock_ep_interest(fm_net_ep *ep);
// Keeps the watch over peers that stall; `progress`: bytes moved just now.
void fm_net_sock_ep_moved(fm_net_ep *ep, int progress);
// Gives back what the dying owe, and frees them.
void fm_net_sock_reap(fm_net_worker *worker);
// Fails those that took too long; returns the time until the next may have, or FM_NET_FOREVER.
int64_t fm_net_sock_expire(fm_net_worker *worker);

// sharing
// Caller, before the handshake: makes an area where the peer is of this user. Without one the connection does as well.
void fm_net_sock_share_offer(fm_net_ep *ep);
// Service, of struct net_shake.
int fm_net_sock_share_accept(void *ep, uint32_t granules);
// The handshake is over: keeps the area if both ends have it.
void fm_net_sock_share_settle(fm_net_ep *ep);
void fm_net_sock_share_free(fm_net_ep *ep);
// send() and recv() of the handshake, which an area's descriptor may go with.
ssize_t fm_net_sock_share_send(const fm_net_ep *ep, const uint8_t message[NET_SHAKE_BYTES]);
ssize_t fm_net_sock_share_receive(fm_net_ep *ep, void *bytes, size_t size);
// Service: the caller has a place for the reply to this request; and what place that was (count 0: none). FM_ERR_NOMEM.
FM_MUST_USE fm_status fm_net_sock_reach_add(fm_net_ep *ep, uint64_t id, struct net_place place);
struct net_reach *fm_net_sock_reach(const fm_net_ep *ep, uint64_t id);
void fm_net_sock_reach_remove(fm_net_ep *ep, struct net_reach *reach);
// The process at the other end of a UNIX socket is of this user, or root. FM_ERR_NET_AUTH, FM_ERR_IO.
FM_MUST_USE fm_status fm_net_sock_check_user(const fm_net_ep *ep);

// TLS
// Goes on with its handshake; returns whether it is over and well.
int fm_net_sock_tls_shake(fm_net_ep *ep);
// As sendmsg() and recvmsg(), but a failure ends the endpoint and is told as EAGAIN. There may be more to receive of which
// epoll does not know: then the endpoint is made resumable.
ssize_t fm_net_sock_tls_receive(fm_net_ep *ep, const struct iovec *pieces, int count);
ssize_t fm_net_sock_tls_send(fm_net_ep *ep, const struct iovec *pieces, size_t count);

// receiving
void fm_net_sock_receive(fm_net_ep *ep);
// Goes on with staged frames after a pause.
void fm_net_sock_resume(fm_net_ep *ep);
void fm_net_sock_stage_release(fm_net_ep *ep);

// sending
FM_MUST_USE fm_status fm_net_sock_call(fm_net_ep *ep, const fm_net_head *head, const struct iovec *payload,
                                       size_t payload_count, void *reply_buffer, size_t reply_bytes,
                                       void *call_cookie);
FM_MUST_USE fm_status fm_net_sock_reply(fm_net_ep *ep, uint64_t id, const fm_net_head *head,
                                        const struct iovec *payload, size_t payload_count,
                                        void *reply_cookie);
void fm_net_sock_flush(fm_net_ep *ep);
void fm_net_sock_send_free(fm_net_worker *worker, struct net_send *send);
// The slot that an id names; NULL when no call has it.
struct net_slot *fm_net_sock_slot(const fm_net_ep *ep, uint64_t id);
void fm_net_sock_slot_release(fm_net_ep *ep, struct net_slot *slot);

#endif
