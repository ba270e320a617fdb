/**
 * @file eplb_hierarchy.h
 * Which groups share a node: bounds over all ways to put few groups on nodes that are alike.
 */
#ifndef FATHOM_EPLB_HIERARCHY_H
#define FATHOM_EPLB_HIERARCHY_H

#include "eplb_planner.h"

enum {
    // With these the table below has 4096 entries, and one pass over it takes less than a millisecond.
    FM_EPLB_HIERARCHY_GROUPS_MAX = 12,
    FM_EPLB_HIERARCHY_SETS_MAX = 128,
};

/** Whether a planner's hierarchy is small enough and its GPUs are even. */
int fm_eplb_hierarchy_applies(const fm_eplb_planner *planner);

/**
 * A bound on the time of the busiest GPU over all ways to put groups on nodes, at least `bound`; `time` is
 * that of a known solution. planner->group_node gets the way for which the bound holds with equality: it is
 * worth a try when the result is below `time`.
 *
 * Every set of groups that can share a node has a bound of its own; the bound of a layer is the least, over
 * all partitions into such sets, of the largest bound of a set. Sets get a cheap bound first; a better one is
 * worked out for those alone that decide.
 */
double fm_eplb_hierarchy_bound(fm_eplb_planner *planner, double bound, double time, int rounds,
                               uint64_t deadline_ns);

#endif
