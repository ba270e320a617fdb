#include <string.h>

#include "fathom/mem.h"

#include "net_frame.h"
#include "net_rpc.h"

static const int64_t second_ns = 1000000000;

static const fm_net_upcalls upcalls = {
    .accepted = fm_net_conn_on_accepted,
    .up = fm_net_conn_on_up,
    .down = fm_net_conn_on_down,
    .header = fm_net_request_on_header,
    .request = fm_net_request_on_complete,
    .done = fm_net_conn_on_done,
    .sent = fm_net_request_on_sent,
};

static void default_u32(uint32_t *value, uint32_t standard)
{
    if (*value == 0)
        *value = standard;
}

static fm_status complete_limits(fm_net_limits *limits)
{
    default_u32(&limits->window, 64);
    default_u32(&limits->args_bytes_max, 16 << 10);
    default_u32(&limits->payload_bytes_max, 64 << 20);
    default_u32(&limits->reply_queue_bytes_max, 4 << 20);
    default_u32(&limits->connections_max, 4096);
    default_u32(&limits->handshakes_max, 128);
    default_u32(&limits->queue_max, 1024);
    default_u32(&limits->shared_bytes, 16 << 20);
    if (limits->handshake_timeout_ns == 0)
        limits->handshake_timeout_ns = 5 * second_ns;
    if (limits->stall_timeout_ns == 0)
        limits->stall_timeout_ns = 30 * second_ns;
    if (limits->args_bytes_max > NET_ARGS_BYTES_LIMIT)
        return fm_base_error_set(FM_ERR_ARG, "args_bytes_max is %u; at most %d", limits->args_bytes_max,
                                 NET_ARGS_BYTES_LIMIT);
    if (limits->payload_bytes_max > NET_PAYLOAD_BYTES_LIMIT)
        return fm_base_error_set(FM_ERR_ARG, "payload_bytes_max is %u; at most %d", limits->payload_bytes_max,
                                 NET_PAYLOAD_BYTES_LIMIT);
    if (limits->shared_bytes > (uint32_t)NET_AREA_GRANULES_MAX * NET_AREA_GRANULE)
        return fm_base_error_set(FM_ERR_ARG, "shared_bytes is %u; at most %d", limits->shared_bytes,
                                 NET_AREA_GRANULES_MAX * NET_AREA_GRANULE);
    // A day: what the kernel's own timeout takes in milliseconds, and no sum of it overflows.
    int64_t timeout_max_ns = 86400 * second_ns;
    if (limits->handshake_timeout_ns < 0 || limits->handshake_timeout_ns > timeout_max_ns ||
        limits->stall_timeout_ns < 0 || limits->stall_timeout_ns > timeout_max_ns)
        return fm_base_error_set(FM_ERR_ARG, "timeouts of %lld and %lld ns; expected 0 to a day",
                                 (long long)limits->handshake_timeout_ns,
                                 (long long)limits->stall_timeout_ns);
    return FM_OK;
}

fm_status fm_net_loop_new(const fm_net_loop_options *options, fm_net_loop **out_loop)
{
    fm_net_loop_options own = {.size = sizeof own};
    if (options)
        memcpy(&own, options, options->size < sizeof own ? options->size : sizeof own);
    FM_TRY(complete_limits(&own.limits));
    if (own.call_timeout_ns < 0)
        return fm_base_error_set(FM_ERR_ARG, "call_timeout_ns is negative");
    const fm_net_transport *transport = own.transport ? own.transport : fm_net_transport_sockets();
    if (transport->size != sizeof *transport)
        return fm_base_error_set(FM_ERR_ARG, "the transport's table has %zu bytes; expected %zu",
                                 transport->size, sizeof *transport);
    fm_net_loop *loop = fm_base_mem_zalloc(1, sizeof *loop);
    if (!loop)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a loop");
    loop->transport = transport;
    loop->limits = own.limits;
    loop->call_timeout_ns = own.call_timeout_ns ? own.call_timeout_ns : 30 * second_ns;
    net_list_init(&loop->listeners);
    net_list_init(&loop->answered);
    net_list_init(&loop->orphans);
    fm_status status =
        loop->transport->worker_new(&loop->limits, &upcalls, own.transport_context, &loop->worker);
    if (status < 0) {
        fm_base_mem_free(loop);
        return status;
    }
    *out_loop = loop;
    return FM_OK;
}

void fm_net_loop_free(fm_net_loop *loop)
{
    if (!loop)
        return;
    loop->closing = 1;
    loop->transport->worker_free(loop->worker); // completes all calls
    fm_net_request_finish_answered(loop);
    while (!net_list_empty(&loop->orphans))
        fm_net_request_free(NET_OF(loop->orphans.next, struct net_request, link));
    while (!net_list_empty(&loop->listeners)) {
        fm_net_listener *listener = NET_OF(loop->listeners.next, fm_net_listener, link);
        net_link_remove(&listener->link);
        fm_base_mem_free(listener);
    }
    fm_net_timers_clear(&loop->timers);
    while (loop->free_calls) {
        struct net_call *call = loop->free_calls;
        loop->free_calls = call->next_free;
        fm_base_mem_free(call);
    }
    while (loop->free_requests) {
        struct net_request *request = loop->free_requests;
        loop->free_requests = request->next_free;
        fm_base_mem_free(request);
    }
    fm_base_mem_free(loop);
}

static void run_tasks(fm_net_loop *loop)
{
    if (!atomic_load_explicit(&loop->tasks, memory_order_relaxed))
        return; // the usual case; what is posted from now on wakes the loop
    // Acquire pairs with the release of post(): what the poster wrote is seen by the task.
    fm_net_task *newest = atomic_exchange_explicit(&loop->tasks, NULL, memory_order_acquire);
    fm_net_task *oldest = NULL;
    while (newest) {
        fm_net_task *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    while (oldest) {
        fm_net_task *task = oldest;
        oldest = task->next;
        task->next = NULL;
        task->run(task->context); // may free or post the task
    }
}

// Returns how long it is from now until the next is due.
static int64_t fire_timers(fm_net_loop *loop)
{
    if (loop->timers.count == 0)
        return FM_NET_FOREVER; // without a look at the clock
    int64_t now_ns = fm_net_loop_now_ns(loop);
    int fired = 0;
    // No more than there are now: a timer that sets itself for at once shall not keep the network waiting.
    for (size_t left = loop->timers.count; left > 0; left--) {
        fm_net_timer *timer = fm_net_timers_pop(&loop->timers, now_ns);
        if (!timer)
            break;
        timer->fire(timer->context);
        fired = 1;
    }
    int64_t due = fm_net_timers_due_ns(&loop->timers);
    if (due == FM_NET_FOREVER)
        return due;
    return due - (fired ? fm_net_loop_now_ns(loop) : now_ns); // callbacks take their time
}

static int has_work(const fm_net_loop *loop)
{
    // Relaxed: whoever posts or stops after this look wakes the transport as well.
    return atomic_load_explicit(&loop->tasks, memory_order_relaxed) || !net_list_empty(&loop->answered) ||
           atomic_load_explicit(&loop->stop, memory_order_relaxed);
}

fm_status fm_net_loop_progress(fm_net_loop *loop, int64_t timeout_ns)
{
    run_tasks(loop);
    fm_net_request_finish_answered(loop);
    int64_t wait = fire_timers(loop);
    wait = timeout_ns < wait ? timeout_ns : wait;
    FM_TRY(loop->transport->progress(loop->worker, wait > 0 && !has_work(loop) ? wait : 0));
    run_tasks(loop);
    fm_net_request_finish_answered(loop);
    (void)fire_timers(loop);
    return FM_OK;
}

fm_status fm_net_loop_run(fm_net_loop *loop)
{
    // Acquire pairs with the release of stop(). It is taken back, so that the loop can run again.
    while (!atomic_exchange_explicit(&loop->stop, 0, memory_order_acquire))
        FM_TRY(fm_net_loop_progress(loop, FM_NET_FOREVER));
    return FM_OK;
}

void fm_net_loop_stop(fm_net_loop *loop)
{
    atomic_store_explicit(&loop->stop, 1, memory_order_release);
    loop->transport->wake(loop->worker);
}

void fm_net_loop_post(fm_net_loop *loop, fm_net_task *task)
{
    fm_net_task *head = atomic_load_explicit(&loop->tasks, memory_order_relaxed);
    do
        task->next = head;
    while (!atomic_compare_exchange_weak_explicit(&loop->tasks, &head, task, memory_order_release,
                                                  memory_order_relaxed));
    if (!head) // else whoever made the list non-empty has woken the loop, which has not taken the list since
        loop->transport->wake(loop->worker);
}

int64_t fm_net_loop_now_ns(const fm_net_loop *loop)
{
    return loop->transport->now_ns(loop->worker);
}

int64_t fm_net_loop_after_ns(const fm_net_loop *loop, int64_t delay_ns)
{
    int64_t due;
    return __builtin_add_overflow(fm_net_loop_now_ns(loop), delay_ns, &due) ? FM_NET_FOREVER : due;
}

int fm_net_loop_fd(const fm_net_loop *loop)
{
    return loop->transport->fd(loop->worker);
}

int64_t fm_net_loop_wait_ns(const fm_net_loop *loop)
{
    if (has_work(loop))
        return 0;
    int64_t wait = loop->transport->wait_ns(loop->worker);
    int64_t due = fm_net_timers_due_ns(&loop->timers);
    if (due == FM_NET_FOREVER)
        return wait;
    int64_t left = due - fm_net_loop_now_ns(loop);
    left = left > 0 ? left : 0;
    return left < wait ? left : wait;
}

fm_status fm_net_timer_start(fm_net_loop *loop, fm_net_timer *timer, int64_t delay_ns)
{
    return fm_net_timers_set(&loop->timers, timer, fm_net_loop_after_ns(loop, delay_ns > 0 ? delay_ns : 0));
}

void fm_net_timer_stop(fm_net_loop *loop, fm_net_timer *timer)
{
    fm_net_timers_unset(&loop->timers, timer);
}

fm_status fm_net_watch_start(fm_net_loop *loop, fm_net_watch *watch)
{
    if (!loop->transport->watch_start)
        return fm_base_error_set(FM_ERR_UNSUPPORTED, "the transport \"%s\" does not watch descriptors",
                                 loop->transport->name);
    if (watch->transport_data)
        return fm_base_error_set(FM_ERR_EXISTS, "the watch is set already");
    return loop->transport->watch_start(loop->worker, watch);
}

void fm_net_watch_stop(fm_net_loop *loop, fm_net_watch *watch)
{
    if (watch->transport_data)
        loop->transport->watch_stop(loop->worker, watch);
}

fm_status fm_net_region_new(fm_net_loop *loop, void *base, size_t bytes, fm_net_region **out_region)
{
    fm_net_region *region = NULL;
    if (loop->transport->region_new)
        FM_TRY(loop->transport->region_new(loop->worker, base, bytes, &region));
    *out_region = region;
    return FM_OK;
}

void fm_net_region_free(fm_net_loop *loop, fm_net_region *region)
{
    if (region)
        loop->transport->region_free(loop->worker, region);
}
