#include "net_world.h"

#include <stdio.h>
#include <string.h>

#include "fathom/mem.h"

#include "net_list.h"

// Something that happens to a worker at a time.
struct event {
    struct net_link link;
    int64_t due_ns;
    void (*happen)(struct event *event);
    fm_net_ep *ep; // that it happens to; set to NULL when that is gone
    uint64_t id;
    fm_net_head head;
    fm_status status;
    void *cookie;   // of a reply
    uint8_t *bytes; // args, then payload
};

struct net_world {
    int64_t now_ns;
    int64_t delay_max_ns;
    fm_gen gen;
    int cut;
    struct net_link workers;
};

struct fm_net_worker {
    struct net_link link;
    struct net_world *world;
    const fm_net_upcalls *upcalls;
    fm_net_limits limits;
    struct net_link events; // by due_ns
    struct net_link acceptors;
    struct net_link eps;
};

struct fm_net_acceptor {
    struct net_link link;
    fm_net_worker *worker;
    void *cookie;
    char address[FM_NET_ADDRESS_BYTES];
};

struct call {
    struct net_link link;
    uint64_t id;
    void *cookie;
    void *buffer;
    size_t bytes;
};

struct fm_net_ep {
    struct net_link link;
    fm_net_worker *worker;
    fm_net_ep *other;
    void *cookie;
    int closing;
    char address[FM_NET_ADDRESS_BYTES];
    uint64_t next_id;
    int64_t last_due_ns; // requests do not overtake each other
    struct net_link calls;
    void *request; // whose payload is on its way
    void *landing;
};

static int64_t delay(struct net_world *world)
{
    return fm_gen_int(&world->gen, 1000, world->delay_max_ns);
}

static struct event *add_event(fm_net_worker *worker, fm_net_ep *ep, int64_t due_ns,
                               void (*happen)(struct event *))
{
    struct event *event = fm_base_mem_zalloc(1, sizeof *event);
    if (!event)
        return NULL;
    event->due_ns = due_ns;
    event->happen = happen;
    event->ep = ep;
    struct net_link *before = worker->events.prev;
    while (before != &worker->events && NET_OF(before, struct event, link)->due_ns > due_ns)
        before = before->prev;
    // Behind `before`: a list that begins there ends in front of what follows it.
    net_list_append(before->next, &event->link);
    return event;
}

static void free_event(struct event *event)
{
    net_link_remove(&event->link);
    fm_base_mem_free(event->bytes);
    fm_base_mem_free(event);
}

static fm_net_ep *new_ep(fm_net_worker *worker, const char *address, void *cookie)
{
    fm_net_ep *ep = fm_base_mem_zalloc(1, sizeof *ep);
    if (!ep)
        return NULL;
    ep->worker = worker;
    ep->cookie = cookie;
    snprintf(ep->address, sizeof ep->address, "%s", address);
    net_list_init(&ep->calls);
    net_list_append(&worker->eps, &ep->link);
    return ep;
}

static void happen_sent(struct event *event);

static void go_down(fm_net_ep *ep, fm_status status)
{
    const fm_net_upcalls *upcalls = ep->worker->upcalls;
    ep->closing = 1;
    while (!net_list_empty(&ep->calls)) {
        struct call *call = NET_OF(ep->calls.next, struct call, link);
        net_link_remove(&call->link);
        void *cookie = call->cookie;
        fm_base_mem_free(call);
        upcalls->done(cookie, fm_base_error_set(status, "the simulated connection ended"), NULL);
    }
    if (ep->request)
        upcalls->request(ep->request, fm_base_error_set(status, "the simulated connection ended"));
    for (struct net_link *at = ep->worker->events.next, *next; at != &ep->worker->events; at = next) {
        next = at->next;
        struct event *event = NET_OF(at, struct event, link);
        if (event->ep != ep)
            continue;
        void *cookie = event->happen == happen_sent ? event->cookie : NULL;
        free_event(event);
        if (cookie)
            upcalls->sent(cookie, fm_base_error_set(status, "the simulated connection ended"));
    }
    if (ep->other)
        ep->other->other = NULL;
    upcalls->down(ep->cookie, fm_base_error_set(status, "the simulated connection ended"));
    net_link_remove(&ep->link);
    fm_base_mem_free(ep);
}

static void happen_down(struct event *event)
{
    fm_net_ep *ep = event->ep;
    fm_status status = event->status;
    free_event(event);
    go_down(ep, status);
}

static void begin_down(fm_net_ep *ep, int64_t after_ns, fm_status status)
{
    struct event *event = add_event(ep->worker, ep, ep->worker->world->now_ns + after_ns, happen_down);
    if (event)
        event->status = status;
}

static void world_close(fm_net_ep *ep, fm_status status)
{
    if (ep->closing)
        return;
    ep->closing = 1;
    begin_down(ep, 0, status);
    if (ep->other && !ep->other->closing && !ep->worker->world->cut)
        begin_down(ep->other, delay(ep->worker->world), FM_ERR_NET_CLOSED);
}

static fm_net_peer peer_of(const fm_net_ep *ep)
{
    const fm_net_limits *limits = &ep->other->worker->limits;
    return (fm_net_peer){ep->address, limits->window, limits->args_bytes_max, limits->payload_bytes_max};
}

static void happen_up(struct event *event)
{
    fm_net_ep *ep = event->ep;
    free_event(event);
    if (ep->closing || !ep->other)
        return;
    fm_net_peer peer = peer_of(ep);
    ep->worker->upcalls->up(ep->cookie, &peer);
}

static fm_net_acceptor *find_acceptor(struct net_world *world, const char *address)
{
    for (struct net_link *at = world->workers.next; at != &world->workers; at = at->next) {
        fm_net_worker *worker = NET_OF(at, fm_net_worker, link);
        for (struct net_link *in = worker->acceptors.next; in != &worker->acceptors; in = in->next)
            if (strcmp(NET_OF(in, fm_net_acceptor, link)->address, address) == 0)
                return NET_OF(in, fm_net_acceptor, link);
    }
    return NULL;
}

// A connection arrives where somebody listens, or not.
static void happen_connect(struct event *event)
{
    fm_net_ep *ep = event->ep;
    struct net_world *world = ep->worker->world;
    free_event(event);
    fm_net_acceptor *acceptor = find_acceptor(world, ep->address);
    if (ep->closing || world->cut)
        return;
    if (!acceptor) {
        ep->closing = 1;
        begin_down(ep, delay(world), FM_ERR_NET_REFUSED);
        return;
    }
    fm_net_ep *service = new_ep(acceptor->worker, "caller", NULL);
    service->other = ep;
    ep->other = service;
    fm_net_peer peer = peer_of(service);
    (void)!acceptor->worker->upcalls->accepted(acceptor->cookie, service, &peer, &service->cookie);
    add_event(ep->worker, ep, world->now_ns + delay(world), happen_up);
}

static fm_status copy_message(struct event *event, const fm_net_head *head, const struct iovec *payload,
                              size_t count)
{
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++)
        bytes += payload[i].iov_len;
    event->head = *head;
    event->head.payload_bytes = (uint32_t)bytes;
    event->bytes = fm_base_mem_alloc(head->args_bytes + bytes);
    if (!event->bytes)
        return fm_base_error_set(FM_ERR_NOMEM, "message");
    if (head->args_bytes)
        memcpy(event->bytes, head->args, head->args_bytes);
    event->head.args = event->bytes;
    uint8_t *at = event->bytes + head->args_bytes;
    for (size_t i = 0; i < count; at += payload[i++].iov_len)
        if (payload[i].iov_len)
            memcpy(at, payload[i].iov_base, payload[i].iov_len);
    return FM_OK;
}

// The payload has arrived as well.
static void happen_body(struct event *event)
{
    fm_net_ep *ep = event->ep;
    void *request = ep->request;
    ep->request = NULL;
    if (ep->landing)
        memcpy(ep->landing, event->bytes + event->head.args_bytes, event->head.payload_bytes);
    free_event(event);
    ep->worker->upcalls->request(request, FM_OK);
}

static void happen_request(struct event *event)
{
    fm_net_ep *ep = event->ep;
    struct net_world *world = ep->worker->world;
    if (ep->closing || ep->request) { // one payload at a time: later requests wait behind it
        struct event *again =
            ep->request ? add_event(ep->worker, ep, world->now_ns + 1000, happen_request) : NULL;
        if (again) {
            again->id = event->id;
            again->head = event->head;
            again->bytes = event->bytes;
            event->bytes = NULL;
        }
        free_event(event);
        return;
    }
    void *request = NULL;
    ep->landing = NULL;
    fm_status status =
        ep->worker->upcalls->header(ep->cookie, event->id, &event->head, &request, &ep->landing);
    if (status < 0) {
        world_close(ep, status);
    } else {
        ep->request = request;
        struct event *body = add_event(
            ep->worker, ep, world->now_ns + (event->head.payload_bytes ? delay(world) : 0), happen_body);
        body->head = event->head;
        body->bytes = event->bytes;
        event->bytes = NULL;
    }
    free_event(event);
}

static fm_status world_call(fm_net_ep *ep, const fm_net_head *head, const struct iovec *payload,
                            size_t payload_count, void *reply_buffer, size_t reply_bytes, void *call_cookie)
{
    struct net_world *world = ep->worker->world;
    if (ep->closing)
        return fm_base_error_set(FM_ERR_NET_CLOSED, "closing");
    struct call *call = fm_base_mem_zalloc(1, sizeof *call);
    if (!call)
        return fm_base_error_set(FM_ERR_NOMEM, "call");
    *call = (struct call){
        .id = ep->next_id++, .cookie = call_cookie, .buffer = reply_buffer, .bytes = reply_bytes};
    if (ep->other && !world->cut) {
        int64_t due = world->now_ns + delay(world);
        ep->last_due_ns = due > ep->last_due_ns ? due : ep->last_due_ns;
        struct event *event = add_event(ep->other->worker, ep->other, ep->last_due_ns, happen_request);
        if (!event || copy_message(event, head, payload, payload_count) < 0) {
            fm_base_mem_free(call);
            return FM_ERR_NOMEM;
        }
        event->id = call->id;
    }
    net_list_append(&ep->calls, &call->link);
    return FM_OK;
}

static void happen_reply(struct event *event)
{
    fm_net_ep *ep = event->ep;
    for (struct net_link *at = ep->calls.next; at != &ep->calls; at = at->next) {
        struct call *call = NET_OF(at, struct call, link);
        if (call->id != event->id)
            continue;
        net_link_remove(&call->link);
        fm_status status = event->head.payload_bytes > call->bytes ? FM_ERR_LIMIT : FM_OK;
        if (status == FM_OK && event->head.payload_bytes)
            memcpy(call->buffer, event->bytes + event->head.args_bytes, event->head.payload_bytes);
        (void)fm_base_error_set(status, "the reply does not fit in its buffer");
        ep->worker->upcalls->done(call->cookie, status, &event->head);
        fm_base_mem_free(call);
        break;
    }
    free_event(event);
}

static void happen_sent(struct event *event)
{
    fm_net_ep *ep = event->ep;
    void *cookie = event->cookie;
    free_event(event);
    ep->worker->upcalls->sent(cookie, FM_OK);
}

static fm_status world_reply(fm_net_ep *ep, uint64_t id, const fm_net_head *head, const struct iovec *payload,
                             size_t payload_count, void *reply_cookie)
{
    struct net_world *world = ep->worker->world;
    struct event *sent = add_event(ep->worker, ep, world->now_ns, happen_sent);
    if (!sent)
        return fm_base_error_set(FM_ERR_NOMEM, "reply");
    sent->cookie = reply_cookie;
    if (ep->other && !world->cut) {
        struct event *event =
            add_event(ep->other->worker, ep->other, world->now_ns + delay(world), happen_reply);
        if (!event || copy_message(event, head, payload, payload_count) < 0)
            return FM_ERR_NOMEM;
        event->id = id;
    }
    return FM_OK;
}

static fm_status world_connect(fm_net_worker *worker, const char *address, const fm_net_security *security,
                               void *ep_cookie, fm_net_ep **out_ep)
{
    (void)security;
    fm_net_ep *ep = new_ep(worker, address, ep_cookie);
    if (!ep || !add_event(worker, ep, worker->world->now_ns + delay(worker->world), happen_connect))
        return fm_base_error_set(FM_ERR_NOMEM, "connection");
    *out_ep = ep;
    return FM_OK;
}

static fm_status world_listen(fm_net_worker *worker, const char *address, const fm_net_security *security,
                              int shared_port, void *acceptor_cookie, fm_net_acceptor **out_acceptor)
{
    (void)security;
    (void)shared_port;
    fm_net_acceptor *acceptor = fm_base_mem_zalloc(1, sizeof *acceptor);
    if (!acceptor)
        return fm_base_error_set(FM_ERR_NOMEM, "acceptor");
    acceptor->worker = worker;
    acceptor->cookie = acceptor_cookie;
    snprintf(acceptor->address, sizeof acceptor->address, "%s", address);
    net_list_append(&worker->acceptors, &acceptor->link);
    *out_acceptor = acceptor;
    return FM_OK;
}

static const char *world_acceptor_address(const fm_net_acceptor *acceptor)
{
    return acceptor->address;
}

static void world_acceptor_close(fm_net_acceptor *acceptor)
{
    net_link_remove(&acceptor->link);
    fm_base_mem_free(acceptor);
}

static fm_status world_progress(fm_net_worker *worker, int64_t timeout_ns)
{
    (void)timeout_ns; // time passes in net_world_run()
    while (!net_list_empty(&worker->events)) {
        struct event *event = NET_OF(worker->events.next, struct event, link);
        if (event->due_ns > worker->world->now_ns)
            break;
        event->happen(event);
    }
    return FM_OK;
}

static int64_t world_now_ns(const fm_net_worker *worker)
{
    return worker->world->now_ns;
}

static int64_t world_wait_ns(const fm_net_worker *worker)
{
    if (net_list_empty(&worker->events))
        return FM_NET_FOREVER;
    int64_t left = NET_OF(worker->events.next, struct event, link)->due_ns - worker->world->now_ns;
    return left > 0 ? left : 0;
}

static void world_wake(fm_net_worker *worker)
{
    (void)worker; // nobody sleeps
}

static int world_fd(const fm_net_worker *worker)
{
    (void)worker;
    return -1;
}

static fm_status world_worker_new(const fm_net_limits *limits, const fm_net_upcalls *upcalls, void *context,
                                  fm_net_worker **out_worker)
{
    struct net_world *world = context;
    fm_net_worker *worker = fm_base_mem_zalloc(1, sizeof *worker);
    if (!worker)
        return fm_base_error_set(FM_ERR_NOMEM, "worker");
    worker->world = world;
    worker->upcalls = upcalls;
    worker->limits = *limits;
    net_list_init(&worker->events);
    net_list_init(&worker->acceptors);
    net_list_init(&worker->eps);
    net_list_append(&world->workers, &worker->link);
    *out_worker = worker;
    return FM_OK;
}

static void world_worker_free(fm_net_worker *worker)
{
    while (!net_list_empty(&worker->acceptors))
        world_acceptor_close(NET_OF(worker->acceptors.next, fm_net_acceptor, link));
    for (struct net_link *at = worker->eps.next; at != &worker->eps; at = at->next)
        world_close(NET_OF(at, fm_net_ep, link), FM_ERR_CANCELLED);
    while (!net_list_empty(&worker->events)) {
        struct event *event = NET_OF(worker->events.next, struct event, link);
        if (event->happen == happen_down || event->happen == happen_sent)
            event->happen(event);
        else
            free_event(event);
    }
    net_link_remove(&worker->link);
    fm_base_mem_free(worker);
}

static const fm_net_transport simulated = {
    .size = sizeof simulated,
    .name = "simulated",
    .worker_new = world_worker_new,
    .worker_free = world_worker_free,
    .progress = world_progress,
    .wake = world_wake,
    .now_ns = world_now_ns,
    .wait_ns = world_wait_ns,
    .fd = world_fd,
    .listen = world_listen,
    .acceptor_address = world_acceptor_address,
    .acceptor_close = world_acceptor_close,
    .connect = world_connect,
    .call = world_call,
    .reply = world_reply,
    .close = world_close,
};

struct net_world *net_world_new(uint64_t seed, int64_t delay_max_ns)
{
    struct net_world *world = fm_base_mem_zalloc(1, sizeof *world);
    if (!world)
        return NULL;
    world->gen = fm_gen_seeded(seed);
    world->delay_max_ns = delay_max_ns;
    net_list_init(&world->workers);
    return world;
}

void net_world_free(struct net_world *world)
{
    fm_base_mem_free(world);
}

fm_net_loop *net_world_loop(struct net_world *world, const fm_net_loop_options *options)
{
    fm_net_loop_options own = {.size = sizeof own};
    if (options)
        own = *options;
    own.transport = &simulated;
    own.transport_context = world;
    fm_net_loop *loop;
    return fm_net_loop_new(&own, &loop) == FM_OK ? loop : NULL;
}

void net_world_cut(struct net_world *world, int cut)
{
    world->cut = cut;
}

int64_t net_world_now_ns(const struct net_world *world)
{
    return world->now_ns;
}

int net_world_run(struct net_world *world, fm_net_loop *const *loops, size_t count, const int *condition,
                  int64_t limit_ns)
{
    int64_t end_ns = world->now_ns + limit_ns;
    while (!*condition) {
        for (size_t i = 0; i < count; i++)
            if (fm_net_loop_progress(loops[i], 0) < 0)
                return 0;
        int64_t wait = FM_NET_FOREVER; // after all have run: one may have given another something to do
        for (size_t i = 0; i < count; i++) {
            int64_t left = fm_net_loop_wait_ns(loops[i]);
            wait = left < wait ? left : wait;
        }
        if (*condition)
            break;
        if (wait > end_ns - world->now_ns) {
            world->now_ns = end_ns;
            return 0;
        }
        world->now_ns += wait;
    }
    return 1;
}
