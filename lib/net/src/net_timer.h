// The timers of a loop: a binary heap by due time, whose elements know their places.
#ifndef NET_TIMER_H
#define NET_TIMER_H

#include "fathom/net.h"

struct net_timers {
    fm_net_timer **heap; // heap[0] is due first
    size_t count, room;
    uint64_t serial;
};

// Sets or moves a timer. FM_ERR_NOMEM leaves it unset.
FM_MUST_USE fm_status fm_net_timers_set(struct net_timers *timers, fm_net_timer *timer, int64_t due_ns);
void fm_net_timers_unset(struct net_timers *timers, fm_net_timer *timer);
// Takes out a timer that is due, the first of them; NULL when none is.
fm_net_timer *fm_net_timers_pop(struct net_timers *timers, int64_t now_ns);
// When the first is due, or FM_NET_FOREVER.
int64_t fm_net_timers_due_ns(const struct net_timers *timers);
// Unsets all, and frees the heap.
void fm_net_timers_clear(struct net_timers *timers);

#endif
