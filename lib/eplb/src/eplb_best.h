/**
 * @file eplb_best.h
 * The policy best with free moves, one layer at a time, in two passes: a first placement of
 * every layer, which is cheap, and then as much search as time allows.
 */
#ifndef FATHOM_EPLB_BEST_H
#define FATHOM_EPLB_BEST_H

#include "eplb_planner.h"

/** What is known of a layer between the passes. */
typedef struct fm_eplb_layer_state {
    double time;           /* of the busiest GPU */
    double bound;          /* proven */
    double reference_time; /* of the greedy placement */
} fm_eplb_layer_state;

/** Walks end at a gap below this: no measured load is known that well. (Branch and bound goes on to the end.) */
#define FM_EPLB_GAP_ENOUGH 1e-4

/** The greedy placement, which the result must not be worse than: the reference's where GPUs are even. Leaves
 *  the planner's groups as that placement has them. */
void fm_eplb_best_greedy(fm_eplb_planner *planner, int32_t *row);

/** First pass: a placement by greedy packing and descent. Fills row[slots]. */
void fm_eplb_best_begin(fm_eplb_planner *planner, const float *weight, int32_t *row,
                        fm_eplb_layer_state *state, uint64_t deadline_ns);
/** Second pass: improves the row and the bound. The layer's number seeds the search. */
void fm_eplb_best_improve(fm_eplb_planner *planner, const float *weight, int layer, int32_t *row,
                          fm_eplb_layer_state *state, uint64_t deadline_ns);
/** Last: where the row is worse than the greedy placement and stays so, goes on from that one, whose duplicates
 *  stay where balance needs them. */
void fm_eplb_best_end(fm_eplb_planner *planner, const float *weight, int32_t *row, fm_eplb_layer_state *state,
                      uint64_t deadline_ns);

/** Two bounds that hold for every placement: the mean, and the largest share under the best replica counts. */
double fm_eplb_best_bound(fm_eplb_planner *planner);

#endif
