/**
 * @file eplb_greedy.h
 * Greedy replication and packing in double precision, for GPUs of any number of slots and any speed.
 */
#ifndef FATHOM_EPLB_GREEDY_H
#define FATHOM_EPLB_GREEDY_H

#include "eplb_private.h"

/**
 * Gives every expert one replica, then each further one to the expert whose replicas are the most loaded.
 * That makes the largest share as small as counts can make it: let x be the largest share at the end and c
 * the greedy counts. An expert that has c_e > 1 got its last replica when its share load_e / (c_e - 1) was
 * the largest of all, hence at least x; so to bring every share below x, each of these experts needs c_e
 * replicas at least, and the one of share x needs one more.
 *
 * count[experts] is set; `heap` has room for experts entries. Returns the largest share.
 */
double fm_eplb_greedy_counts(const fm_eplb_problem *problem, int32_t *heap, int32_t *count);

/**
 * A solution: greedy counts, then replicas in descending order of share, each on the GPU that it leaves least
 * busy. `workspace` holds 2 * experts + gpus entries of int32_t, `load` gpus doubles. Duplicates may occur.
 */
void fm_eplb_greedy_solve(const fm_eplb_problem *problem, int32_t *workspace, double *load,
                          int32_t *solution);

#endif
