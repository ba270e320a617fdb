#include "host.h"
#include "host_address.h"

#include <pthread.h>
#include <stdio.h>
#include <sys/random.h>
#include <unistd.h>

enum {
    HEAD_BYTES = 8,
    NODES_MAX = 512,
    ARGS_MAX = 8192,
    MESSAGE_BYTES = 1024,
    DELIVERIES = 256 // before the network has a turn
};

// A request as both ends have it: to (4), from (4), args. A reply: status (4), args.

struct local { // a call within this process
    fm_fs_request base;
    struct host_node *from;
    struct host_node *to;
    fm_fs_call *call; // NULL: the caller has gone on
    fm_status status;
    fm_fs_buffer *reply_payload;
    size_t reply_bytes;
    uint8_t *reply;
    int delivered;
    struct local *next; // in line to be delivered
    struct local *before;
    struct local *after;
};

struct remote { // a call that came from another process
    fm_fs_request base;
    fm_net_request *request;
    fm_fs_buffer *sending;
    struct remote *before;
    struct remote *after;
};

struct outgoing { // a call to another process
    fm_fs_host *host;
    fm_fs_call *call;
    fm_fs_buffer *reply;
    fm_fs_buffer *payload;
    struct outgoing *before;
    struct outgoing *after;
};

struct transaction { // on its way to the store and back
    fm_net_task task;
    fm_fs_host *host;
    fm_fs_kv_job *job;
    struct transaction *next;
};

struct host_node {
    fm_fs_runtime base;
    fm_fs_host *host;
    void (*serve)(void *context, fm_fs_request *request);
    void *context;
};

struct peer {
    fm_fs_host *host;
    uint32_t node;
    char announced[FM_FS_ADDRESS_MAX + 1];
    struct fm_fs_host_address address;
    int was_up; // at that address
    fm_net_dialer *dialer;
};

struct fm_fs_host {
    fm_net_loop *loop;
    fm_fs_pool *pool;
    fm_net_key key;
    fm_net_tls *tls; // of connections over the network; NULL: none
    fm_net_listener *listener;
    fm_net_listener *local; // for who is on this machine
    char announced[FM_FS_ADDRESS_MAX + 1];
    fm_fs_kv *kv;
    struct host_node *nodes[NODES_MAX];
    uint32_t node_count;
    struct peer *peers[NODES_MAX];
    uint32_t peer_count;
    uint64_t serial;
    uint64_t random_at;
    uint64_t random_seed;
    fm_fs_timer timers; // ring, ascending by time
    fm_net_timer wake;
    struct local *due_first; // to be delivered in this turn
    struct local *due_last;
    fm_net_timer deliver;
    int delivering;
    struct local locals; // heads of rings
    struct remote remotes;
    struct outgoing outgoings;
    int ending;
    unsigned transactions; // that have not come back

    pthread_t worker; // of transactions
    int has_worker;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct transaction *first; // that wait
    struct transaction *last;
    int stop;
};

static struct host_node *node_of(fm_fs_runtime *runtime)
{
    return (struct host_node *)runtime;
}

#define RING_ADD(head, item)             \
    do {                                 \
        (item)->before = (head)->before; \
        (item)->after = (head);          \
        (item)->before->after = (item);  \
        (head)->before = (item);         \
    } while (0)
#define RING_REMOVE(item)                       \
    do {                                        \
        (item)->before->after = (item)->after;  \
        (item)->after->before = (item)->before; \
    } while (0)

/* Clock and timers: one timer of the loop, for the first of all */

static int64_t now_ns(fm_fs_runtime *runtime)
{
    return fm_net_loop_now_ns(node_of(runtime)->host->loop);
}

static void set_wake(fm_fs_host *host)
{
    const fm_fs_timer *first = host->timers.after;
    if (first == &host->timers)
        return;
    int64_t delay = first->due_ns - fm_net_loop_now_ns(host->loop);
    // Starting the one timer again needs no memory.
    if (fm_net_timer_start(host->loop, &host->wake, delay > 0 ? delay : 0) < 0)
        return;
}

static void timer_stop(fm_fs_runtime *runtime, fm_fs_timer *timer)
{
    (void)runtime;
    if (!timer->serial)
        return;
    RING_REMOVE(timer);
    timer->serial = 0;
}

static void timer_start(fm_fs_runtime *runtime, fm_fs_timer *timer, int64_t delay_ns)
{
    fm_fs_host *host = node_of(runtime)->host;
    timer_stop(runtime, timer);
    timer->due_ns = fm_net_loop_now_ns(host->loop) + (delay_ns > 0 ? delay_ns : 0);
    timer->serial = ++host->serial;
    fm_fs_timer *before = host->timers.before;
    while (before != &host->timers && before->due_ns > timer->due_ns)
        before = before->before;
    timer->before = before;
    timer->after = before->after;
    before->after->before = timer;
    before->after = timer;
    if (host->timers.after == timer)
        set_wake(host);
}

static void fire(void *context)
{
    fm_fs_host *host = context;
    int64_t now = fm_net_loop_now_ns(host->loop);
    uint64_t last = host->serial; // those set meanwhile wait for the next turn
    fm_fs_timer *timer = host->timers.after;
    while (timer != &host->timers && timer->due_ns <= now) {
        if (timer->serial > last)
            break;
        RING_REMOVE(timer);
        timer->serial = 0;
        timer->fire(timer->context);
        timer = host->timers.after;
    }
    set_wake(host);
}

static uint64_t draw(fm_fs_runtime *runtime)
{
    fm_fs_host *host = node_of(runtime)->host;
    uint64_t x = host->random_seed + ++host->random_at * 0x9E3779B97F4A7C15u; // splitmix64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

/* Calls within the process */

static struct host_node *find_node(fm_fs_host *host, uint32_t node)
{
    for (uint32_t i = 0; i < host->node_count; i++)
        if (host->nodes[i]->base.node == node)
            return host->nodes[i];
    return NULL;
}

static void local_free(struct local *local)
{
    RING_REMOVE(local);
    fm_fs_buffer_drop(local->base.payload);
    fm_fs_buffer_drop(local->reply_payload);
    fm_base_mem_free(local->reply);
    fm_base_mem_free(local);
}

static void local_deliver(struct local *local)
{
    if (!local->delivered) {
        local->delivered = 1;
        local->to->serve(local->to->context, &local->base);
        return;
    }
    fm_fs_call *call = local->call;
    call->status = local->status;
    call->reply_args = local->reply;
    call->reply_args_bytes = local->reply_bytes;
    call->reply_payload = local->reply_payload;
    call->done(call);
    local_free(local);
}

// All that is in line and what comes of it, so that a request is served and its answer heard in one turn of the loop.
static void deliver(void *context)
{
    fm_fs_host *host = context;
    host->delivering = 1;
    do {
        for (unsigned left = DELIVERIES; host->due_first && left > 0; left--) {
            struct local *local = host->due_first;
            host->due_first = local->next;
            local_deliver(local);
        }
    } while (host->due_first && fm_net_timer_start(host->loop, &host->deliver, 0) < 0);
    host->delivering = 0;
}

static void local_later(struct local *local)
{
    fm_fs_host *host = local->from->host;
    local->next = NULL;
    if (host->due_first)
        host->due_last->next = local;
    else
        host->due_first = local;
    host->due_last = local;
    if (host->due_first == local && !host->delivering &&
        fm_net_timer_start(host->loop, &host->deliver, 0) < 0)
        deliver(host); // no memory for a timer: told early rather than never
}

static void fail_later(fm_fs_host *host, struct host_node *from, fm_fs_call *call, fm_status status);

static void call_local(struct host_node *from, struct host_node *to, fm_fs_call *call)
{
    fm_fs_host *host = from->host;
    struct local *local = fm_base_mem_alloc(sizeof *local + call->args_bytes);
    if (!local) {
        fail_later(host, from, call, FM_ERR_NOMEM);
        return;
    }
    uint8_t *args = (uint8_t *)(local + 1);
    if (call->args_bytes)
        memcpy(args, call->args, call->args_bytes);
    *local = (struct local){.base = {.method = call->method,
                                     .from = from->base.node,
                                     .args = args,
                                     .args_bytes = call->args_bytes,
                                     .payload = fm_fs_buffer_ref(call->payload),
                                     .reply_into = call->reply_into,
                                     .runtime_data = local},
                            .from = from,
                            .to = to,
                            .call = call};
    RING_ADD(&host->locals, local);
    local_later(local);
}

// A call that cannot be made: told by the loop. There is no memory for anything here, so the call's own timer does it.
struct refusal {
    fm_net_timer timer;
    fm_fs_call *call;
    fm_status status;
};

static void refuse(void *context)
{
    struct refusal *refusal = context;
    fm_fs_call *call = refusal->call;
    call->status = refusal->status;
    call->runtime_data = NULL;
    fm_base_mem_free(refusal);
    call->done(call);
}

static void fail_later(fm_fs_host *host, struct host_node *from, fm_fs_call *call, fm_status status)
{
    (void)from;
    struct refusal *refusal = fm_base_mem_zalloc(1, sizeof *refusal);
    call->status = status;
    if (!refusal) {
        call->done(call);
        return;
    }
    *refusal =
        (struct refusal){.timer = {.fire = refuse, .context = refusal}, .call = call, .status = status};
    if (fm_net_timer_start(host->loop, &refusal->timer, 1000000) < 0) {
        fm_base_mem_free(refusal);
        call->done(call);
    }
}

/* Calls to other processes */

static void outgoing_free(struct outgoing *outgoing)
{
    RING_REMOVE(outgoing);
    fm_fs_buffer_drop(outgoing->reply);
    fm_fs_buffer_drop(outgoing->payload);
    fm_base_mem_free(outgoing);
}

static void outgoing_done(void *context, const fm_net_reply *reply)
{
    struct outgoing *outgoing = context;
    fm_fs_call *call = outgoing->call;
    if (outgoing->host->ending) {
        outgoing_free(outgoing);
        return;
    }
    call->status = reply->status;
    call->reply_payload = NULL;
    call->reply_args_bytes = 0;
    if (reply->status >= 0 && reply->args_bytes >= 4) {
        call->status = (fm_status)fm_get_le32(reply->args);
        call->reply_args = (const uint8_t *)reply->args + 4;
        call->reply_args_bytes = reply->args_bytes - 4;
        if (reply->payload_bytes) {
            outgoing->reply->size = reply->payload_bytes;
            if (!call->reply_into) // what lies behind is not ours there
                memset(outgoing->reply->data + outgoing->reply->size, 0,
                       fm_round_up(outgoing->reply->size, FM_FS_PAGE) - outgoing->reply->size);
            fm_fs_buffer_summed(outgoing->reply, reply->payload_crc);
            call->reply_payload = outgoing->reply;
        }
    } else if (reply->status >= 0) {
        call->status = fm_base_error_set(FM_ERR_FORMAT, "a reply without a status");
    }
    call->done(call);
    outgoing_free(outgoing);
}

static struct peer *find_peer(fm_fs_host *host, uint32_t node)
{
    for (uint32_t i = 0; i < host->peer_count; i++)
        if (host->peers[i]->node == node)
            return host->peers[i];
    return NULL;
}

static fm_status dial(fm_fs_host *host, struct peer *peer);

static void peer_up(void *context, fm_net_conn *conn)
{
    struct peer *peer = context;
    (void)conn;
    peer->was_up = 1;
}

static void peer_down(void *context, fm_net_conn *conn, fm_status status)
{
    struct peer *peer = context;
    (void)conn;
    // A stranger at the socket on this machine is a reason to leave it; nobody there now is none, as its process may be
    // starting again.
    if (peer->host->ending || peer->was_up || !peer->address.local[0] || status == FM_ERR_NET_REFUSED ||
        status == FM_ERR_NET_CLOSED || status == FM_ERR_CANCELLED)
        return;
    peer->address.local[0] = 0;
    fm_net_dialer_free(peer->dialer);
    peer->dialer = NULL;
    if (dial(peer->host, peer) < 0)
        return; // the next call tries again, and tells
}

static fm_status dial(fm_fs_host *host, struct peer *peer)
{
    if (peer->dialer)
        return FM_OK;
    const fm_net_connect_options options = {.size = sizeof options,
                                            .up = peer_up,
                                            .down = peer_down,
                                            .context = peer,
                                            .security = {FM_NET_KEYED, &host->key, host->tls}};
    const fm_net_backoff backoff = {.limit_ns = 500000000, .seed = host->random_seed + peer->node};
    return fm_net_dialer_new(host->loop,
                             peer->address.local[0] ? peer->address.local : peer->address.anywhere, &options,
                             &backoff, &peer->dialer);
}

// Where it is known, the network need not compute it again.
static const uint32_t *sum_of(const fm_fs_buffer *payload)
{
    return payload && payload->size && payload->summed ? &payload->crc : NULL;
}

static fm_status call_remote(struct host_node *from, fm_fs_call *call)
{
    fm_fs_host *host = from->host;
    struct peer *peer = find_peer(host, call->node);
    uint8_t args[HEAD_BYTES + ARGS_MAX];
    if (!peer)
        return fm_base_error_set(FM_ERR_NOT_FOUND, "nobody has told where node %u is", call->node);
    if (call->args_bytes > ARGS_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "%zu bytes of args", call->args_bytes);
    FM_TRY(dial(host, peer));
    fm_net_conn *conn = fm_net_dialer_conn(peer->dialer);
    if (!conn)
        return fm_base_error_set(FM_ERR_NET_CLOSED, "node %u cannot be reached now", call->node);
    struct outgoing *outgoing = fm_base_mem_zalloc(1, sizeof *outgoing);
    if (!outgoing)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a call");
    outgoing->host = host;
    outgoing->call = call;
    outgoing->payload = fm_fs_buffer_ref(call->payload);
    RING_ADD(&host->outgoings, outgoing);
    if (call->reply_bytes)
        outgoing->reply = call->reply_into ? fm_fs_buffer_ref(call->reply_into)
                                           : fm_fs_buffer_from(host->pool, call->reply_bytes);
    fm_put_le32(args, call->node);
    fm_put_le32(args + 4, from->base.node);
    if (call->args_bytes)
        memcpy(args + HEAD_BYTES, call->args, call->args_bytes);
    struct iovec piece = {0};
    if (call->payload)
        piece = (struct iovec){call->payload->data, call->payload->size};
    const fm_net_call net = {.method = call->method,
                             .body = {.args = args,
                                      .args_bytes = HEAD_BYTES + call->args_bytes,
                                      .payload = &piece,
                                      .payload_count = piece.iov_len ? 1 : 0,
                                      .payload_crc = sum_of(call->payload)},
                             .reply_buffer = outgoing->reply ? outgoing->reply->data : NULL,
                             .reply_bytes = outgoing->reply ? call->reply_bytes : 0,
                             .timeout_ns = call->timeout_ns,
                             .done = outgoing_done,
                             .context = outgoing};
    fm_status status = FM_OK;
    if (call->reply_bytes && !outgoing->reply)
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory for a reply of %zu bytes", call->reply_bytes);
    if (status == FM_OK)
        status = fm_net_conn_call(conn, &net);
    if (status < 0)
        outgoing_free(outgoing);
    return status;
}

static void call_start(fm_fs_runtime *runtime, fm_fs_call *call)
{
    struct host_node *from = node_of(runtime);
    struct host_node *to = find_node(from->host, call->node);
    call->reply_args = NULL;
    call->reply_args_bytes = 0;
    call->reply_payload = NULL;
    if (to && to->serve) {
        call_local(from, to, call);
        return;
    }
    fm_status status = call_remote(from, call);
    if (status < 0)
        fail_later(from->host, from, call, status);
}

/* Serving */

static fm_status land(void *context, fm_net_request *request, void **out_payload)
{
    fm_fs_host *host = context;
    fm_fs_buffer *buffer = fm_fs_buffer_from(host->pool, request->payload_bytes);
    if (!buffer)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu bytes", request->payload_bytes);
    request->user = buffer;
    *out_payload = buffer->data;
    return FM_OK;
}

static void drop(void *context, fm_net_request *request)
{
    (void)context;
    fm_fs_buffer_drop(request->user);
}

static void serve(void *context, fm_net_request *request)
{
    fm_fs_host *host = context;
    fm_fs_buffer *payload = request->payload_bytes ? request->user : NULL;
    if (payload)
        fm_fs_buffer_summed(payload, request->payload_crc);
    const uint8_t *args = request->args;
    struct host_node *to = request->args_bytes >= HEAD_BYTES ? find_node(host, fm_get_le32(args)) : NULL;
    struct remote *remote = to && to->serve && !host->ending ? fm_base_mem_zalloc(1, sizeof *remote) : NULL;
    if (!remote) {
        fm_fs_buffer_drop(payload);
        fm_net_request_fail(request, fm_base_error_set(FM_ERR_NOT_FOUND, "that node is not here"));
        return;
    }
    remote->base = (fm_fs_request){.method = (uint16_t)request->method,
                                   .from = fm_get_le32(args + 4),
                                   .args = args + HEAD_BYTES,
                                   .args_bytes = request->args_bytes - HEAD_BYTES,
                                   .payload = payload};
    remote->request = request;
    RING_ADD(&host->remotes, remote);
    to->serve(to->context, &remote->base);
}

static void sent(void *context, fm_status status)
{
    (void)status;
    fm_fs_buffer_drop(context);
}

static void reply_remote(struct remote *remote, fm_status status, const void *args, size_t args_bytes,
                         fm_fs_buffer *payload)
{
    uint8_t space[4 + ARGS_MAX];
    fm_put_le32(space, (uint32_t)status);
    if (args_bytes > ARGS_MAX)
        args_bytes = 0;
    if (args_bytes)
        memcpy(space + 4, args, args_bytes);
    fm_fs_buffer *held = status < 0 ? NULL : fm_fs_buffer_ref(payload);
    struct iovec piece = {0};
    if (held)
        piece = (struct iovec){held->data, held->size};
    const fm_net_answer answer = {.body = {.args = space,
                                           .args_bytes = 4 + args_bytes,
                                           .payload = &piece,
                                           .payload_count = piece.iov_len ? 1 : 0,
                                           .payload_crc = sum_of(held)},
                                  .sent = sent,
                                  .context = held};
    fm_net_request *request = remote->request;
    fm_fs_buffer_drop(remote->base.payload);
    RING_REMOVE(remote);
    fm_base_mem_free(remote);
    fm_status answered = fm_net_request_reply(request, &answer);
    if (answered < 0) {
        fm_fs_buffer_drop(held);
        fm_net_request_fail(request, answered);
    }
}

static void reply(fm_fs_runtime *runtime, fm_fs_request *request, fm_status status, const void *args,
                  size_t args_bytes, fm_fs_buffer *payload)
{
    struct local *local = request->runtime_data;
    (void)runtime;
    if (local) {
        local->status = status;
        local->reply = fm_base_mem_alloc(args_bytes);
        if (local->reply && args_bytes)
            memcpy(local->reply, args, args_bytes);
        local->reply_bytes = local->reply ? args_bytes : 0;
        local->reply_payload = status < 0 ? NULL : fm_fs_buffer_ref(payload);
        local_later(local);
        return;
    }
    reply_remote((struct remote *)request, status, args, args_bytes, payload);
}

/* Transactions */

static void *work(void *context)
{
    fm_fs_host *host = context;
    pthread_mutex_lock(&host->lock);
    while (!host->stop) {
        struct transaction *transaction = host->first;
        if (!transaction) {
            pthread_cond_wait(&host->changed, &host->lock);
            continue;
        }
        host->first = transaction->next;
        pthread_mutex_unlock(&host->lock);
        fm_fs_kv_job *job = transaction->job;
        job->status = fm_fs_kv_run(host->kv, job->flags, job->closure, job->closure_context);
        fm_net_loop_post(host->loop, &transaction->task);
        pthread_mutex_lock(&host->lock);
    }
    pthread_mutex_unlock(&host->lock);
    return NULL;
}

static void transaction_done(void *context)
{
    struct transaction *transaction = context;
    fm_fs_kv_job *job = transaction->job;
    int ending = transaction->host->ending;
    transaction->host->transactions--;
    fm_base_mem_free(transaction);
    if (!ending)
        job->done(job);
}

static void kv_run(fm_fs_runtime *runtime, fm_fs_kv_job *job)
{
    fm_fs_host *host = node_of(runtime)->host;
    struct transaction *transaction = fm_base_mem_zalloc(1, sizeof *transaction);
    if (!transaction)
        return; // the lease runs out, and another manager, or this one anew, goes on
    *transaction = (struct transaction){
        .task = {.run = transaction_done, .context = transaction}, .host = host, .job = job};
    host->transactions++;
    pthread_mutex_lock(&host->lock);
    if (host->first)
        host->last->next = transaction;
    else
        host->first = transaction;
    host->last = transaction;
    pthread_cond_signal(&host->changed);
    pthread_mutex_unlock(&host->lock);
}

static void know(fm_fs_runtime *runtime, uint32_t node, const char *address)
{
    if (fm_fs_host_know(node_of(runtime)->host, node, address) < 0)
        return; // it is told again with the next routing
}

static const struct fm_fs_runtime_ops runtime_ops = {now_ns,     timer_start, timer_stop, draw,
                                                     call_start, reply,       kv_run,     know};

/* Life */

fm_status fm_fs_host_new(const fm_net_key *key, fm_net_tls *tls, fm_fs_kv *kv, fm_fs_host **out_host)
{
    fm_fs_host *host = fm_base_mem_zalloc(1, sizeof *host);
    if (!host)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a host");
    host->key = *key;
    host->tls = fm_net_tls_ref(tls);
    host->kv = kv;
    host->timers.before = host->timers.after = &host->timers;
    host->locals.before = host->locals.after = &host->locals;
    host->remotes.before = host->remotes.after = &host->remotes;
    host->outgoings.before = host->outgoings.after = &host->outgoings;
    host->wake = (fm_net_timer){.fire = fire, .context = host};
    host->deliver = (fm_net_timer){.fire = deliver, .context = host};
    pthread_mutex_init(&host->lock, NULL);
    pthread_cond_init(&host->changed, NULL);
    const fm_net_loop_options options = {.size = sizeof options};
    fm_status status = fm_net_loop_new(&options, &host->loop);
    host->pool = fm_fs_pool_new();
    if (status == FM_OK && !host->pool)
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory for buffers");
    if (status == FM_OK && getrandom(&host->random_seed, sizeof host->random_seed, 0) != 8)
        status = fm_base_error_set(FM_ERR_IO, "the system gives no random numbers");
    if (status == FM_OK && kv) {
        host->has_worker = pthread_create(&host->worker, NULL, work, host) == 0;
        if (!host->has_worker)
            status = fm_base_error_set(FM_ERR_LIMIT, "no thread for transactions");
    }
    if (status < 0) {
        fm_fs_host_free(host);
        return status;
    }
    *out_host = host;
    return FM_OK;
}

void fm_fs_host_end(fm_fs_host *host)
{
    if (!host || host->ending)
        return;
    host->ending = 1;
    if (!host->has_worker)
        return;
    pthread_mutex_lock(&host->lock);
    host->stop = 1;
    pthread_cond_signal(&host->changed);
    pthread_mutex_unlock(&host->lock);
    pthread_join(host->worker, NULL);
    while (host->first) { // those that were never begun
        struct transaction *next = host->first->next;
        fm_base_mem_free(host->first);
        host->transactions--;
        host->first = next;
    }
}

static void free_all(fm_fs_host *host)
{
    fm_fs_host_end(host);
    for (uint32_t i = 0; host->loop && i < host->peer_count; i++)
        fm_net_dialer_free(host->peers[i]->dialer);
    if (host->listener)
        fm_net_listener_close(host->listener);
    if (host->local)
        fm_net_listener_close(host->local);
    if (!host->loop) {
        fm_net_tls_free(host->tls);
        fm_fs_pool_free(host->pool);
        fm_base_mem_free(host);
        return;
    }
    while (host->locals.after != &host->locals)
        local_free(host->locals.after);
    host->due_first = NULL;
    fm_net_timer_stop(host->loop, &host->deliver);
    fm_net_timer_stop(host->loop, &host->wake);
    while (host->transactions > 0 && fm_net_loop_progress(host->loop, 0) == FM_OK)
        ; // those that were posted come back
    fm_net_loop_free(host->loop);
    for (uint32_t i = 0; i < host->peer_count; i++) // their connections have told them of their ends
        fm_base_mem_free(host->peers[i]);
    while (host->remotes.after != &host->remotes) {
        struct remote *remote = host->remotes.after;
        RING_REMOVE(remote);
        fm_fs_buffer_drop(remote->base.payload);
        fm_base_mem_free(remote);
    }
    while (host->outgoings.after != &host->outgoings)
        outgoing_free(host->outgoings.after);
    for (uint32_t i = 0; i < host->node_count; i++)
        fm_base_mem_free(host->nodes[i]);
    fm_fs_pool_free(host->pool);
    pthread_mutex_destroy(&host->lock);
    pthread_cond_destroy(&host->changed);
    fm_net_key_clear(&host->key);
    fm_net_tls_free(host->tls);
    fm_base_mem_free(host);
}

void fm_fs_host_free(fm_fs_host *host)
{
    if (!host)
        return;
    // Who frees after a failure wants to know of that one, not of what the end of its connections says.
    char message[MESSAGE_BYTES];
    snprintf(message, sizeof message, "%s", fm_error_message());
    free_all(host);
    fm_base_error_set(FM_ERR_CANCELLED, "%s", message);
}

fm_net_loop *fm_fs_host_loop(fm_fs_host *host)
{
    return host->loop;
}

fm_fs_pool *fm_fs_host_pool(fm_fs_host *host)
{
    return host->pool;
}

static fm_status listen_on(fm_fs_host *host, const char *address, fm_net_listener **out_listener)
{
    const fm_net_service service = {
        .size = sizeof service, .land = land, .serve = serve, .drop = drop, .context = host};
    const fm_net_listen_options options = {
        .size = sizeof options, .service = &service, .security = {FM_NET_KEYED, &host->key, host->tls}};
    return fm_net_loop_listen(host->loop, address, &options, out_listener);
}

fm_status fm_fs_host_listen(fm_fs_host *host, const char *address, const char *local)
{
    const char *bound = NULL;
    FM_TRY(listen_on(host, address, &host->listener));
    if (local && listen_on(host, local, &host->local) == FM_OK)
        bound = fm_net_listener_address(host->local);
    fm_fs_host_announce(fm_fs_host_address(host), bound, host->announced);
    return FM_OK;
}

const char *fm_fs_host_announcement(const fm_fs_host *host)
{
    return host->announced;
}

const char *fm_fs_host_address(const fm_fs_host *host)
{
    return host->listener ? fm_net_listener_address(host->listener) : "";
}

fm_status fm_fs_host_node(fm_fs_host *host, uint32_t node,
                          void (*serve_request)(void *context, fm_fs_request *request), void *context,
                          fm_fs_runtime **out_runtime)
{
    struct host_node *made = host->node_count < NODES_MAX ? fm_base_mem_zalloc(1, sizeof *made) : NULL;
    if (!made)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a node");
    *made = (struct host_node){
        .base = {&runtime_ops, node}, .host = host, .serve = serve_request, .context = context};
    host->nodes[host->node_count++] = made;
    *out_runtime = &made->base;
    return FM_OK;
}

fm_status fm_fs_host_know(fm_fs_host *host, uint32_t node, const char *address)
{
    struct peer *peer = find_peer(host, node);
    if (find_node(host, node) || !*address || strlen(address) > FM_FS_ADDRESS_MAX)
        return FM_OK;
    if (!peer) {
        peer = host->peer_count < NODES_MAX ? fm_base_mem_zalloc(1, sizeof *peer) : NULL;
        if (!peer)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for a peer");
        peer->host = host;
        peer->node = node;
        host->peers[host->peer_count++] = peer;
    }
    if (strcmp(peer->announced, address) == 0)
        return FM_OK;
    fm_net_dialer_free(peer->dialer);
    peer->dialer = NULL;
    memcpy(peer->announced, address, strlen(address) + 1);
    fm_fs_host_announced(address, &peer->address);
    peer->was_up = 0;
    const char *local = peer->address.local;
    if (strncmp(local, "unix:", 5) != 0 || access(local + 5, W_OK) != 0)
        peer->address.local[0] = 0; // of another container, or another user's
    return dial(host, peer);
}
