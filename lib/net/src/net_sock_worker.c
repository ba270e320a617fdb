#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "fathom/clock.h"
#include "fathom/mem.h"

#include "net_sock.h"

enum {
    EVENT_BATCH = 64,
    // Answers to staged requests make new bytes to send, and so on: after this many rounds epoll gets a word.
    SETTLE_ROUNDS = 8,
};

int64_t fm_net_sock_now_ns(void)
{
    return (int64_t)fm_base_clock_ns();
}

static int64_t worker_now_ns(const fm_net_worker *worker)
{
    (void)worker;
    return fm_net_sock_now_ns();
}

fm_status fm_net_sock_poll_add(fm_net_worker *worker, int fd, uint32_t events, void *pointer)
{
    struct epoll_event event = {.events = events, .data.ptr = pointer};
    if (epoll_ctl(worker->epoll, EPOLL_CTL_ADD, fd, &event) == 0)
        return FM_OK;
    int error = errno;
    fm_status status = error == EEXIST                    ? FM_ERR_EXISTS
                       : error == ENOMEM                  ? FM_ERR_NOMEM
                       : error == EPERM || error == EBADF ? FM_ERR_ARG
                                                          : FM_ERR_IO;
    return fm_base_error_set_errno(status, error, "cannot wait for descriptor %d", fd);
}

void fm_net_sock_poll_remove(fm_net_worker *worker, int fd)
{
    (void)epoll_ctl(worker->epoll, EPOLL_CTL_DEL, fd, NULL);
}

static void bury(struct net_link *list)
{
    while (!net_list_empty(list)) {
        struct net_polled *polled = NET_OF(list->next, struct net_polled, link);
        net_link_remove(&polled->link);
        fm_base_mem_free(polled); // the first member of what it stands for
    }
}

// What callbacks and callers left to do; returns whether upcalls may have run. Only here endpoints are freed.
static int settle(fm_net_worker *worker)
{
    int upcalls = 0;
    for (int round = 0; round < SETTLE_ROUNDS; round++) {
        if (net_list_empty(&worker->dirty) && net_list_empty(&worker->resumable))
            break;
        while (!net_list_empty(&worker->dirty)) {
            fm_net_ep *ep = NET_OF(worker->dirty.next, fm_net_ep, dirty);
            net_link_remove(&ep->dirty);
            upcalls |= !ep->caller; // sent()
            fm_net_sock_flush(ep);
        }
        // Those of now: one with more in its TLS than is taken at once comes again, behind the others.
        struct net_link batch;
        net_list_init(&batch);
        while (!net_list_empty(&worker->resumable))
            net_list_append(&batch, worker->resumable.next);
        while (!net_list_empty(&batch)) {
            fm_net_ep *ep = NET_OF(batch.next, fm_net_ep, resume);
            net_link_remove(&ep->resume);
            upcalls = 1;
            fm_net_sock_resume(ep);
        }
    }
    upcalls |= !net_list_empty(&worker->dying);
    fm_net_sock_reap(worker);
    bury(&worker->graves);
    return upcalls;
}

static int64_t next_timeout(fm_net_worker *worker)
{
    int64_t expiry = fm_net_sock_expire(worker);
    int64_t resume = fm_net_sock_acceptors_resume(worker);
    if (!net_list_empty(&worker->dirty) || !net_list_empty(&worker->resumable) ||
        !net_list_empty(&worker->dying))
        return 0;
    return expiry < resume ? expiry : resume;
}

static void dispatch(fm_net_worker *worker, const struct epoll_event *event)
{
    uint64_t count;
    switch (*(enum net_poll *)event->data.ptr) {
    case NET_POLL_WAKE:
        (void)!read(worker->event, &count, sizeof count);
        return;
    case NET_POLL_EP:
        fm_net_sock_ep_ready(event->data.ptr, event->events);
        return;
    case NET_POLL_ACCEPTOR:
        fm_net_sock_acceptor_ready(event->data.ptr);
        return;
    case NET_POLL_WATCH: {
        const struct net_watch *watch = event->data.ptr;
        if (watch->watch)
            watch->watch->ready(watch->watch->context, event->events);
        return;
    }
    }
}

static int to_ms(int64_t ns)
{
    if (ns >= (int64_t)INT_MAX * 1000000)
        return ns == FM_NET_FOREVER ? -1 : INT_MAX;
    return (int)((ns + 999999) / 1000000); // up: waking too early would spin
}

static fm_status worker_progress(fm_net_worker *worker, int64_t timeout_ns)
{
    // After an upcall there may be timers that timeout_ns knows nothing of.
    if (settle(worker))
        timeout_ns = 0;
    int64_t left = next_timeout(worker);
    struct epoll_event events[EVENT_BATCH];
    int count = epoll_wait(worker->epoll, events, EVENT_BATCH, to_ms(left < timeout_ns ? left : timeout_ns));
    if (count < 0 && errno == EINTR) // a signal, or io_uring, which then has results
        count = epoll_wait(worker->epoll, events, EVENT_BATCH, 0);
    if (count < 0 && errno != EINTR)
        return fm_base_error_set_errno(FM_ERR_IO, errno, "epoll_wait");
    for (int i = 0; i < count; i++)
        dispatch(worker, &events[i]);
    (void)settle(worker);
    return FM_OK;
}

static void worker_wake(fm_net_worker *worker)
{
    uint64_t one = 1;
    // It fails only when the counter is full, and then the loop wakes anyway.
    (void)!write(worker->event, &one, sizeof one);
}

static int64_t worker_wait_ns(const fm_net_worker *worker)
{
    const fm_net_limits *limits = &worker->limits;
    if (!net_list_empty(&worker->dirty) || !net_list_empty(&worker->resumable) ||
        !net_list_empty(&worker->dying))
        return 0;
    int64_t due = FM_NET_FOREVER;
    if (!net_list_empty(&worker->handshakes))
        due = NET_OF(worker->handshakes.next, fm_net_ep, timed)->moved_ns + limits->handshake_timeout_ns;
    if (!net_list_empty(&worker->stalled)) {
        int64_t stall = NET_OF(worker->stalled.next, fm_net_ep, timed)->moved_ns + limits->stall_timeout_ns;
        due = stall < due ? stall : due;
    }
    for (struct net_link *at = worker->acceptors.next; at != &worker->acceptors; at = at->next) {
        int64_t until = NET_OF(at, fm_net_acceptor, polled.link)->paused_until_ns;
        due = until && until < due ? until : due;
    }
    int64_t left = due == FM_NET_FOREVER ? due : due - fm_net_sock_now_ns();
    return left > 0 ? left : 0;
}

static int worker_fd(const fm_net_worker *worker)
{
    return worker->epoll;
}

static fm_status watch_start(fm_net_worker *worker, fm_net_watch *watch)
{
    struct net_watch *entry = fm_base_mem_zalloc(1, sizeof *entry);
    if (!entry)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to watch a descriptor");
    entry->polled.kind = NET_POLL_WATCH;
    entry->watch = watch;
    fm_status status = fm_net_sock_poll_add(worker, watch->fd, watch->events, entry);
    if (status < 0) {
        fm_base_mem_free(entry);
        return status;
    }
    net_list_append(&worker->watches, &entry->polled.link);
    watch->transport_data = entry;
    return FM_OK;
}

static void watch_stop(fm_net_worker *worker, fm_net_watch *watch)
{
    struct net_watch *entry = watch->transport_data;
    fm_net_sock_poll_remove(worker, watch->fd);
    entry->watch = NULL;
    watch->transport_data = NULL;
    net_list_append(&worker->graves, &entry->polled.link);
}

static void worker_free(fm_net_worker *worker)
{
    while (!net_list_empty(&worker->acceptors))
        fm_net_sock_acceptor_close(NET_OF(worker->acceptors.next, fm_net_acceptor, polled.link));
    while (!net_list_empty(&worker->eps))
        fm_net_sock_ep_close(NET_OF(worker->eps.next, fm_net_ep, all), FM_ERR_CANCELLED);
    (void)settle(worker);
    bury(&worker->watches);
    while (worker->free_sends) {
        struct net_send *send = worker->free_sends;
        worker->free_sends = send->next;
        fm_base_mem_free(send);
    }
    while (worker->free_stages) {
        union net_stage_memory *memory = worker->free_stages;
        worker->free_stages = memory->next;
        fm_base_mem_free(memory);
    }
    close(worker->event);
    close(worker->epoll);
    fm_base_mem_free(worker);
}

static fm_status worker_new(const fm_net_limits *limits, const fm_net_upcalls *upcalls, void *context,
                            fm_net_worker **out_worker)
{
    (void)context;
    fm_net_worker *worker = fm_base_mem_zalloc(1, sizeof *worker);
    if (!worker)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a loop");
    worker->kind = NET_POLL_WAKE;
    worker->upcalls = upcalls;
    worker->limits = *limits;
    struct net_link *lists[] = {&worker->acceptors,  &worker->watches, &worker->eps,
                                &worker->handshakes, &worker->stalled, &worker->dirty,
                                &worker->resumable,  &worker->dying,   &worker->graves};
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++)
        net_list_init(lists[i]);
    fm_status status = FM_OK;
    worker->epoll = epoll_create1(EPOLL_CLOEXEC);
    worker->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (worker->epoll < 0 || worker->event < 0)
        status = fm_base_error_set_errno(FM_ERR_LIMIT, errno, "no descriptors for a loop");
    if (status == FM_OK)
        status = fm_net_sock_poll_add(worker, worker->event, EPOLLIN, worker);
    if (status < 0) {
        close(worker->event);
        close(worker->epoll);
        fm_base_mem_free(worker);
        return status;
    }
    *out_worker = worker;
    return FM_OK;
}

const fm_net_transport *fm_net_transport_sockets(void)
{
    static const fm_net_transport sockets = {
        .size = sizeof sockets,
        .name = "sockets",
        .worker_new = worker_new,
        .worker_free = worker_free,
        .progress = worker_progress,
        .wake = worker_wake,
        .now_ns = worker_now_ns,
        .wait_ns = worker_wait_ns,
        .fd = worker_fd,
        .watch_start = watch_start,
        .watch_stop = watch_stop,
        .listen = fm_net_sock_listen,
        .acceptor_address = fm_net_sock_acceptor_address,
        .acceptor_close = fm_net_sock_acceptor_close,
        .connect = fm_net_sock_connect,
        .call = fm_net_sock_call,
        .reply = fm_net_sock_reply,
        .close = fm_net_sock_ep_close,
    };
    return &sockets;
}
