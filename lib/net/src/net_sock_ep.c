#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fathom/mem.h"

#include "net_sock.h"

static void set_option(int fd, int level, int name, int value)
{
    // None of these can fail on a socket of its kind; without them a connection is slower, not wrong.
    (void)setsockopt(fd, level, name, &value, sizeof value);
}

static void tune_tcp(int fd, int64_t stall_timeout_ns)
{
    // A peer whose machine is gone is noticed after half a minute.
    enum {
        IDLE_S = 10,
        INTERVAL_S = 5,
        PROBES = 4,
    };
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1); // messages are batched before they come here
    set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, (int)(stall_timeout_ns / 1000000));
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, IDLE_S);
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, INTERVAL_S);
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, PROBES);
}

static void ep_free(fm_net_ep *ep)
{
    if (!ep)
        return;
    if (ep->shake)
        fm_net_shake_clear(ep->shake);
    fm_base_mem_free(ep->shake);
    fm_net_sock_share_free(ep);
    fm_net_tls_session_free(ep->tls);
    fm_net_sock_stage_release(ep);
    fm_net_seal_free(ep->stage.seal);
    fm_net_seal_free(ep->seal);
    fm_base_mem_free(ep->reply_args);
    fm_base_mem_free(ep->slots);
    fm_base_mem_free(ep);
}

// A new endpoint on a socket that is not its own yet; NULL when there is no memory.
static fm_net_ep *ep_new(fm_net_worker *worker, int fd, int caller)
{
    fm_net_ep *ep = fm_base_mem_zalloc(1, sizeof *ep);
    struct net_shake *shake = fm_base_mem_zalloc(1, sizeof *shake);
    if (!ep || !shake) {
        fm_base_mem_free(ep);
        fm_base_mem_free(shake);
        return NULL;
    }
    ep->kind = NET_POLL_EP;
    ep->fd = fd;
    ep->worker = worker;
    ep->caller = caller;
    ep->area_fd = -1;
    ep->shake = shake;
    ep->sends_end = &ep->sends;
    ep->stage.limits = (struct net_frame_limits){
        .kind = caller ? NET_REPLY : NET_REQUEST,
        .args_bytes_max = worker->limits.args_bytes_max,
        .payload_bytes_max = caller ? NET_PAYLOAD_BYTES_LIMIT : worker->limits.payload_bytes_max,
    };
    return ep;
}

static fm_status begin_shake(fm_net_ep *ep, const fm_net_security *security)
{
    const fm_net_limits *limits = &ep->worker->limits;
    struct net_shake_offer offer = {.args_bytes_max = limits->args_bytes_max};
    if (!ep->caller) {
        offer.window = limits->window;
        offer.payload_bytes_max = limits->payload_bytes_max;
    }
    if (ep->caller && ep->is_unix)
        fm_net_sock_share_offer(ep);
    offer.granules = ep->area ? ep->area->granules : 0;
    uint8_t nonce[NET_NONCE_BYTES];
    FM_TRY(fm_net_crypto_random(nonce, sizeof nonce));
    uint8_t hello[NET_SHAKE_BYTES]; // the state has it as well, and it is sent from there
    FM_TRY(fm_net_shake_begin(ep->shake, ep->caller, security, &offer, nonce, hello));
    ep->shake->share = fm_net_sock_share_accept;
    ep->shake->share_context = ep;
    return FM_OK;
}

// From here on the worker looks after it, and the socket is its own. `dialled`: the host, where this end dials.
static fm_status ep_begin(fm_net_ep *ep, const fm_net_security *security, uint32_t interest, int family,
                          const char *dialled)
{
    fm_net_worker *worker = ep->worker;
    ep->is_unix = family == AF_UNIX;
    FM_TRY(begin_shake(ep, security));
    if (!ep->is_unix && security->tls)
        FM_TRY(fm_net_tls_session_new(security->tls, ep->fd, dialled, &ep->tls));
    if (!ep->is_unix)
        tune_tcp(ep->fd, worker->limits.stall_timeout_ns);
    ep->interest = interest;
    FM_TRY(fm_net_sock_poll_add(worker, ep->fd, interest, ep));
    ep->moved_ns = fm_net_sock_now_ns();
    net_list_append(&worker->eps, &ep->all);
    net_list_append(&worker->handshakes, &ep->timed);
    return FM_OK;
}

fm_status fm_net_sock_connect(fm_net_worker *worker, const char *address, const fm_net_security *security,
                              void *ep_cookie, fm_net_ep **out_ep)
{
    struct net_sockaddr to = {0};
    fm_net_address parsed;
    FM_TRY(fm_net_address_parse(address, &parsed));
    FM_TRY(fm_net_address_resolve(address, 0, &to));
    int family = to.storage.ss_family;
    if (security->mode == FM_NET_SAME_USER && family != AF_UNIX)
        return fm_base_error_set(FM_ERR_ARG,
                                 "%s: only a UNIX socket tells its peer's user; give a cluster key", address);
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fm_base_error_set_errno(FM_ERR_LIMIT, errno, "no socket to connect to %s", address);
    // Before epoll hears of it: a socket that is not connecting yet would be reported as hung up.
    int error =
        connect(fd, (const struct sockaddr *)&to.storage, to.size) == 0 || errno == EINPROGRESS ? 0 : errno;
    fm_net_ep *ep = ep_new(worker, fd, 1);
    fm_status status = ep ? ep_begin(ep, security, EPOLLOUT, family, parsed.host)
                          : fm_base_error_set(FM_ERR_NOMEM, "no memory for a connection");
    if (status < 0) {
        ep_free(ep);
        close(fd);
        return status;
    }
    ep->state = NET_EP_CONNECTING;
    ep->has_owner = 1;
    ep->cookie = ep_cookie;
    snprintf(ep->name, sizeof ep->name, "%s", address);
    if (error) {
        status = error == ECONNREFUSED || error == ENOENT || error == EAGAIN ? FM_ERR_NET_REFUSED : FM_ERR_IO;
        fm_net_sock_ep_fail(ep, fm_base_error_set_errno(status, error, "connecting to %s", address));
    }
    *out_ep = ep;
    return FM_OK;
}

static fm_status peer_credentials(int fd, struct ucred *out_peer)
{
    socklen_t size = sizeof *out_peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, out_peer, &size) != 0)
        return fm_base_error_set_errno(FM_ERR_IO, errno, "asking for the peer's user");
    return FM_OK;
}

fm_status fm_net_sock_check_user(const fm_net_ep *ep)
{
    struct ucred peer;
    FM_TRY(peer_credentials(ep->fd, &peer));
    if (peer.uid != geteuid() && peer.uid != 0)
        return fm_base_error_set(FM_ERR_NET_AUTH, "%s belongs to user %u; expected this user (%u) or root",
                                 ep->name, (unsigned)peer.uid, (unsigned)geteuid());
    return FM_OK;
}

static void refuse_full(int fd)
{
    uint8_t message[NET_SHAKE_BYTES];
    fm_net_shake_refuse(NET_REFUSED_FULL, message);
    (void)!send(fd, message, sizeof message, MSG_NOSIGNAL | MSG_DONTWAIT);
    close(fd);
}

// Strangers that open connections and say nothing displace each other, not the members.
static void displace_stranger(fm_net_worker *worker)
{
    if (worker->strangers < worker->limits.handshakes_max)
        return;
    for (struct net_link *at = worker->handshakes.next; at != &worker->handshakes; at = at->next) {
        fm_net_ep *ep = NET_OF(at, fm_net_ep, timed);
        if (!ep->caller) {
            fm_net_sock_ep_fail(ep, fm_base_error_set(FM_ERR_TIMEOUT, "displaced by a newer stranger"));
            return;
        }
    }
}

static void name_peer(fm_net_ep *ep, const fm_net_acceptor *acceptor, const struct net_sockaddr *from)
{
    struct ucred peer;
    if (from->storage.ss_family != AF_UNIX)
        fm_net_address_name(from, ep->name);
    else if (peer_credentials(ep->fd, &peer) == FM_OK)
        snprintf(ep->name, sizeof ep->name, "%s (process %d)", acceptor->name, (int)peer.pid);
}

void fm_net_sock_ep_accept(fm_net_acceptor *acceptor, int fd, const struct net_sockaddr *from)
{
    fm_net_worker *worker = acceptor->worker;
    displace_stranger(worker);
    if (worker->connections >= worker->limits.connections_max) {
        refuse_full(fd);
        return;
    }
    fm_net_ep *ep = ep_new(worker, fd, 0);
    if (!ep || ep_begin(ep, &acceptor->security, EPOLLIN, from->storage.ss_family, NULL) < 0) {
        ep_free(ep);
        close(fd); // as if it had not come
        return;
    }
    ep->state = NET_EP_SHAKING;
    ep->acceptor = acceptor;
    worker->connections++;
    worker->strangers++;
    name_peer(ep, acceptor, from);
    fm_status status = acceptor->security.mode == FM_NET_SAME_USER ? fm_net_sock_check_user(ep) : FM_OK;
    if (status < 0)
        fm_net_sock_ep_fail(ep, status);
}

static ssize_t write_shake(fm_net_ep *ep, const uint8_t *message)
{
    uint8_t bytes[NET_SHAKE_BYTES]; // an iovec asks for memory that is not const
    memcpy(bytes, message, sizeof bytes);
    const struct iovec piece = {bytes, sizeof bytes};
    return ep->tls ? fm_net_sock_tls_send(ep, &piece, 1) : fm_net_sock_share_send(ep, message);
}

static fm_status send_shake(fm_net_ep *ep, const uint8_t *message)
{
    // A fresh socket's buffer takes two messages of 96 bytes, and more are never in it.
    if (write_shake(ep, message) != NET_SHAKE_BYTES)
        return fm_base_error_set_errno(FM_ERR_NET_CLOSED, errno, "handshake with %s", ep->name);
    return FM_OK;
}

static int receive_shake(fm_net_ep *ep);

// First its own handshake, then ours in it.
static void shake_in_tls(fm_net_ep *ep)
{
    int was_up = ep->tls_up;
    if (!fm_net_sock_tls_shake(ep))
        return;
    fm_status status = !was_up && ep->caller ? send_shake(ep, ep->shake->messages[0]) : FM_OK;
    if (status < 0)
        fm_net_sock_ep_fail(ep, status);
    while (ep->state == NET_EP_SHAKING && receive_shake(ep))
        continue;
    if (ep->state == NET_EP_SHAKING)
        fm_net_sock_ep_interest(ep);
}

static void connected(fm_net_ep *ep)
{
    int error = 0;
    socklen_t size = sizeof error;
    (void)getsockopt(ep->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        fm_status why = error == ECONNREFUSED ? FM_ERR_NET_REFUSED
                        : error == ETIMEDOUT  ? FM_ERR_TIMEOUT
                                              : FM_ERR_IO;
        fm_net_sock_ep_fail(ep, fm_base_error_set_errno(why, error, "connecting to %s", ep->name));
        return;
    }
    ep->state = NET_EP_SHAKING;
    fm_status status = ep->shake->mode == FM_NET_SAME_USER ? fm_net_sock_check_user(ep) : FM_OK;
    if (status == FM_OK && !ep->tls)
        status = send_shake(ep, ep->shake->messages[0]);
    if (status < 0)
        fm_net_sock_ep_fail(ep, status);
    else if (ep->tls)
        shake_in_tls(ep);
    else
        fm_net_sock_ep_interest(ep);
}

static fm_status come_up(fm_net_ep *ep)
{
    fm_net_worker *worker = ep->worker;
    if (ep->shake->mode == FM_NET_KEYED && !ep->tls) // TLS seals its records itself
        FM_TRY(fm_net_shake_seals(ep->shake, &ep->seal, &ep->stage.seal));
    fm_net_sock_share_settle(ep);
    ep->peer = (fm_net_peer){
        .address = ep->name,
        .window = ep->shake->peer.window,
        .args_bytes_max = ep->shake->peer.args_bytes_max,
        .payload_bytes_max = ep->shake->peer.payload_bytes_max,
    };
    fm_net_shake_clear(ep->shake);
    fm_base_mem_free(ep->shake);
    ep->shake = NULL;
    net_link_remove(&ep->timed);
    ep->state = NET_EP_UP;
    if (ep->tls) // what it has read already
        net_list_append(&worker->resumable, &ep->resume);
    if (ep->caller) {
        worker->upcalls->up(ep->cookie, &ep->peer);
        return FM_OK;
    }
    worker->strangers--;
    fm_net_acceptor *acceptor = ep->acceptor;
    ep->acceptor = NULL;
    FM_TRY(worker->upcalls->accepted(acceptor->cookie, ep, &ep->peer, &ep->cookie));
    ep->has_owner = 1;
    return FM_OK;
}

static fm_status take_shake(fm_net_ep *ep)
{
    uint8_t answer[NET_SHAKE_BYTES];
    int has_answer;
    ep->shake_bytes = 0;
    fm_status status = fm_net_shake_step(ep->shake, ep->shake_in, answer, &has_answer);
    if (has_answer) {
        fm_status sent = FM_OK;
        if (status == FM_OK)
            sent = send_shake(ep, answer);
        else // a courtesy, and the reason to report is the first
            (void)!write_shake(ep, answer);
        FM_TRY(sent);
    }
    if (status < 0)
        return fm_base_error_prefix(status, "handshake with %s", ep->name);
    return ep->shake->done ? come_up(ep) : FM_OK;
}

// Returns whether anything was received.
static int receive_shake(fm_net_ep *ep)
{
    ssize_t size =
        fm_net_sock_share_receive(ep, ep->shake_in + ep->shake_bytes, NET_SHAKE_BYTES - ep->shake_bytes);
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    fm_status status = FM_OK;
    if (size <= 0) {
        status =
            fm_base_error_set(FM_ERR_NET_CLOSED, "%s closed the connection during the handshake", ep->name);
    } else {
        ep->shake_bytes += (unsigned)size;
        if (ep->shake_bytes == NET_SHAKE_BYTES)
            status = take_shake(ep);
    }
    if (status < 0)
        fm_net_sock_ep_fail(ep, status);
    return size > 0;
}

void fm_net_sock_ep_ready(fm_net_ep *ep, uint32_t events)
{
    switch (ep->state) {
    case NET_EP_CONNECTING:
        connected(ep);
        return;
    case NET_EP_SHAKING:
        if (ep->tls)
            shake_in_tls(ep);
        else
            (void)receive_shake(ep);
        return;
    case NET_EP_CLOSING:
        return;
    case NET_EP_UP:
        break;
    }
    if (events & EPOLLOUT)
        fm_net_sock_flush(ep);
    // TLS may have had to write before it could read on.
    if (ep->state == NET_EP_UP && !ep->paused && (ep->tls || (events & (EPOLLIN | EPOLLHUP | EPOLLERR))))
        fm_net_sock_receive(ep);
    else if (ep->state == NET_EP_UP && (events & (EPOLLHUP | EPOLLERR)))
        fm_net_sock_ep_fail(ep, fm_base_error_set(FM_ERR_NET_CLOSED, "%s closed the connection", ep->name));
}

void fm_net_sock_ep_interest(fm_net_ep *ep)
{
    uint32_t interest = (ep->paused ? 0 : (uint32_t)EPOLLIN) | (ep->blocked ? (uint32_t)EPOLLOUT : 0);
    if (interest == ep->interest || ep->state == NET_EP_CLOSING)
        return;
    ep->interest = interest;
    struct epoll_event event = {.events = interest, .data.ptr = ep};
    if (epoll_ctl(ep->worker->epoll, EPOLL_CTL_MOD, ep->fd, &event) != 0)
        fm_net_sock_ep_fail(ep, fm_base_error_set_errno(FM_ERR_IO, errno, "epoll_ctl"));
}

void fm_net_sock_ep_moved(fm_net_ep *ep, int progress)
{
    if (ep->state != NET_EP_UP)
        return;
    int partial = ep->stage.in_payload || (ep->stage.begin != ep->stage.end && !ep->paused);
    if (!ep->sends && !partial) {
        net_link_remove(&ep->timed);
    } else if (progress || !net_link_listed(&ep->timed)) {
        ep->moved_ns = fm_net_sock_now_ns();
        net_list_append(&ep->worker->stalled, &ep->timed);
    }
}

void fm_net_sock_ep_fail(fm_net_ep *ep, fm_status status)
{
    if (ep->state == NET_EP_CLOSING)
        return;
    fm_net_worker *worker = ep->worker;
    if (!ep->caller) {
        worker->connections--;
        worker->strangers -= ep->state == NET_EP_SHAKING;
    }
    ep->state = NET_EP_CLOSING;
    ep->why = status;
    snprintf(ep->why_text, sizeof ep->why_text, "%s", fm_error_message());
    net_link_remove(&ep->timed);
    net_link_remove(&ep->dirty);
    net_link_remove(&ep->resume);
    net_list_append(&worker->dying, &ep->all);
    // Now, not when it is reaped: the peer shall know, even while a child of fork() has the descriptor, and nothing more can
    // touch anyone's memory.
    fm_net_sock_poll_remove(worker, ep->fd);
    (void)shutdown(ep->fd, SHUT_RDWR);
    close(ep->fd);
}

void fm_net_sock_ep_close(fm_net_ep *ep, fm_status status)
{
    fm_net_sock_ep_fail(ep, fm_base_error_set(status, "%s",
                                              status == FM_ERR_CANCELLED ? "closed by this side"
                                                                         : fm_base_status_text(status)));
}

static void give_back(fm_net_ep *ep)
{
    const fm_net_upcalls *upcalls = ep->worker->upcalls;
    for (uint32_t i = 0; i < ep->slot_count; i++) {
        struct net_slot *slot = &ep->slots[i];
        if (!slot->active)
            continue;
        void *cookie = slot->cookie;
        fm_net_sock_slot_release(ep, slot);
        upcalls->done(cookie, fm_base_error_set(ep->why, "%s", ep->why_text), NULL);
    }
    if (ep->request)
        upcalls->request(ep->request, fm_base_error_set(ep->why, "%s", ep->why_text));
    // Last, because the upcalls above may answer requests, into the queue of what will not be sent.
    while (ep->sends) {
        struct net_send *send = ep->sends;
        ep->sends = send->next;
        if (!ep->sends)
            ep->sends_end = &ep->sends;
        void *cookie = send->cookie;
        int is_reply = send->is_reply;
        fm_net_sock_send_free(ep->worker, send);
        if (is_reply)
            upcalls->sent(cookie, fm_base_error_set(ep->why, "%s", ep->why_text));
    }
    if (ep->has_owner)
        upcalls->down(ep->cookie, fm_base_error_set(ep->why, "%s", ep->why_text));
}

void fm_net_sock_reap(fm_net_worker *worker)
{
    while (!net_list_empty(&worker->dying)) {
        fm_net_ep *ep = NET_OF(worker->dying.next, fm_net_ep, all);
        net_link_remove(&ep->all);
        give_back(ep);
        ep_free(ep);
    }
}

// Fails those at the front of a list that is ordered by moved_ns; returns the time until the next.
static int64_t expire_list(struct net_link *list, int64_t timeout_ns, const char *what)
{
    while (!net_list_empty(list)) {
        fm_net_ep *ep = NET_OF(list->next, fm_net_ep, timed);
        int64_t left = ep->moved_ns + timeout_ns - fm_net_sock_now_ns();
        if (left > 0)
            return left;
        fm_net_sock_ep_fail(ep, fm_base_error_set(FM_ERR_TIMEOUT, "%s: %s within %lld ms", ep->name, what,
                                                  (long long)(timeout_ns / 1000000)));
    }
    return FM_NET_FOREVER;
}

int64_t fm_net_sock_expire(fm_net_worker *worker)
{
    const fm_net_limits *limits = &worker->limits;
    int64_t shake = expire_list(&worker->handshakes, limits->handshake_timeout_ns, "no handshake");
    int64_t stall = expire_list(&worker->stalled, limits->stall_timeout_ns, "no progress inside a message");
    return shake < stall ? shake : stall;
}
