/**
 * @file eplb_bound.h
 * Lower bounds on the time of the busiest GPU of a problem, over all placements:
 * duplicates allowed, moves free.
 */
#ifndef FATHOM_EPLB_BOUND_H
#define FATHOM_EPLB_BOUND_H

#include "eplb_private.h"

/** The sum of loads over the sum of the speeds of GPUs that have slots. */
double fm_eplb_bound_mean(const fm_eplb_problem *problem);

/**
 * Raises `bound` by threshold functions (eplb_bound.c has the proof) as far as `rounds` rounds of work and the
 * deadline allow; never above `time`, that of a known solution.
 */
double fm_eplb_bound_raise(const fm_eplb_problem *problem, double bound, double time, int rounds,
                           uint64_t deadline_ns);

#endif
