/* Sets of time: disjoint intervals [begin, end) in ascending order. */
#ifndef FM_TRACE_INTERVALS_H
#define FM_TRACE_INTERVALS_H

#include <stddef.h>
#include <stdint.h>

struct fm_trace_interval {
    int64_t begin, end;
};

/* `at` has room for as many intervals as will be added. */
struct fm_trace_set {
    struct fm_trace_interval *at;
    size_t count;
};

/* Adds an interval that begins no earlier than the one before; empty ones are nothing. */
void fm_trace_set_add(struct fm_trace_set *set, int64_t begin, int64_t end);
int64_t fm_trace_set_measure(const struct fm_trace_set *set);
/* |a & b|, in time proportional to `a` and the part of `b` below it. */
int64_t fm_trace_set_common(const struct fm_trace_set *a, const struct fm_trace_set *b);
/* The first interval that ends behind `time`; set->count when there is none. */
size_t fm_trace_set_find(const struct fm_trace_set *set, int64_t time);

#endif
