/**
 * @file eplb_exact.h
 * Branch and bound: the optimum of a small problem.
 */
#ifndef FATHOM_EPLB_EXACT_H
#define FATHOM_EPLB_EXACT_H

#include "eplb_private.h"

enum {
    // What fits is decided by the nodes; beyond these sizes no realistic layer ends within them.
    FM_EPLB_EXACT_EXPERTS_MAX = 16,
    FM_EPLB_EXACT_SLOTS_MAX = 32,
    // About 20 ms: as much as the search would take to be sure of a layer of this size in another way.
    FM_EPLB_EXACT_NODES = 1 << 18,
};

/** Whether a problem is small enough to try. */
int fm_eplb_exact_applies(const fm_eplb_problem *problem);

/**
 * Searches all placements that keep the problem's rules for one whose busiest GPU has less than `time` (a
 * known solution's, or HUGE_VAL). *out_time and `solution` get the best found; both keep their value when
 * there is none. Returns 1 when the search was complete, so that *out_time is the optimum, and 0 when nodes
 * or time ran out.
 */
int fm_eplb_exact_solve(const fm_eplb_problem *problem, int nodes, uint64_t deadline_ns, double *time,
                        int32_t *solution);

#endif
