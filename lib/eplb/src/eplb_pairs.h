/**
 * @file eplb_pairs.h
 * The problem with two slots on every GPU, the usual shape of wide expert parallelism in decoding.
 *
 * For given replica counts the best placement is known: the largest share with the smallest, the second
 * largest with the second smallest, and so on. (Exchange argument: in any other pairing some a <= b and c <=
 * d are paired as (a, c), (b, d); the pairs (a, d), (b, c) are no larger than b + d.) What is left to search
 * is the counts, and one candidate costs one pass over the sorted shares.
 */
#ifndef FATHOM_EPLB_PAIRS_H
#define FATHOM_EPLB_PAIRS_H

#include "eplb_private.h"

/** Whether all GPUs have two slots and one speed, no slot stays empty, and moves are free. */
int fm_eplb_pairs_apply(const fm_eplb_problem *problem);

/** Bytes of workspace for a problem. */
size_t fm_eplb_pairs_workspace(int experts, int slots);

/**
 * Improves the replica counts of `solution` until `patience` changes in a row brought nothing, the deadline,
 * or a time of `target`; then pairs. `solution` gets the best placement found, which may hold duplicates.
 * Returns its time.
 */
double fm_eplb_pairs_search(const fm_eplb_problem *problem, void *workspace, double target, int patience,
                            uint64_t seed, uint64_t deadline_ns, int32_t *solution);

#endif
