#include "net_timer.h"

#include "fathom/mem.h"

// A timer's `place` is its index in the heap + 1, so that a zeroed one is in none.

static int sooner(const fm_net_timer *a, const fm_net_timer *b)
{
    return a->due_ns != b->due_ns ? a->due_ns < b->due_ns : a->serial < b->serial;
}

static void put(struct net_timers *timers, size_t index, fm_net_timer *timer)
{
    timers->heap[index] = timer;
    timer->place = index + 1;
}

// Finds the place of a timer, given that `index` is free and all else is in order.
static void settle(struct net_timers *timers, size_t index, fm_net_timer *timer)
{
    while (index > 0 && sooner(timer, timers->heap[(index - 1) / 2])) {
        put(timers, index, timers->heap[(index - 1) / 2]);
        index = (index - 1) / 2;
    }
    for (;;) {
        size_t child = 2 * index + 1;
        if (child >= timers->count)
            break;
        if (child + 1 < timers->count && sooner(timers->heap[child + 1], timers->heap[child]))
            child++;
        if (!sooner(timers->heap[child], timer))
            break;
        put(timers, index, timers->heap[child]);
        index = child;
    }
    put(timers, index, timer);
}

fm_status fm_net_timers_set(struct net_timers *timers, fm_net_timer *timer, int64_t due_ns)
{
    if (!timer->place && timers->count == timers->room) {
        size_t room = timers->room ? 2 * timers->room : 64;
        fm_net_timer **heap = fm_base_mem_realloc(timers->heap, room, sizeof(void *));
        if (!heap)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu timers", room);
        timers->heap = heap;
        timers->room = room;
    }
    size_t index = timer->place ? timer->place - 1 : timers->count++;
    timer->due_ns = due_ns;
    timer->serial = timers->serial++;
    settle(timers, index, timer);
    return FM_OK;
}

void fm_net_timers_unset(struct net_timers *timers, fm_net_timer *timer)
{
    if (!timer->place)
        return;
    size_t index = timer->place - 1;
    timer->place = 0;
    fm_net_timer *last = timers->heap[--timers->count];
    if (last != timer)
        settle(timers, index, last);
}

fm_net_timer *fm_net_timers_pop(struct net_timers *timers, int64_t now_ns)
{
    if (timers->count == 0 || timers->heap[0]->due_ns > now_ns)
        return NULL;
    fm_net_timer *timer = timers->heap[0];
    fm_net_timers_unset(timers, timer);
    return timer;
}

int64_t fm_net_timers_due_ns(const struct net_timers *timers)
{
    return timers->count ? timers->heap[0]->due_ns : FM_NET_FOREVER;
}

void fm_net_timers_clear(struct net_timers *timers)
{
    while (timers->count)
        timers->heap[--timers->count]->place = 0;
    fm_base_mem_free(timers->heap);
    timers->heap = NULL;
    timers->room = 0;
}
