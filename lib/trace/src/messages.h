/* Messages between threads and ranks: flows with the work that sent and the work that took each. */
#ifndef FM_TRACE_MESSAGES_H
#define FM_TRACE_MESSAGES_H

#include "fathom/mem.h"
#include "fathom/trace_report.h"

struct fm_trace_message {
    uint32_t sender, receiver; /* works */
    int64_t sent_ns, taken_ns; /* within them; sent first */
    int64_t flight_ns;         /* from `sent_ns` to its arrival: what the fastest message of this name took */
};

/* Whether the work had begun before the message arrived, so that it waited for it. */
static inline int fm_trace_message_held_up(const struct fm_trace_message *message, const fm_trace_work *work)
{
    return message->sent_ns + message->flight_ns > work->begin_ns;
}

/* All messages, by receiver; those of work i are first[i] .. first[i + 1] - 1. Both in `arena`. What the profiler draws from
 * calls to their kernels is no message, nor is one that arrives before it is sent: clocks differ. */
FM_MUST_USE fm_status fm_trace_messages(const fm_trace_report *report, fm_arena *arena,
                                        struct fm_trace_message **out_messages, size_t **out_first);

#endif
