/**
 * @file eplb_limited.h
 * Planning from a placement that is running, with a limit on the copies moved.
 */
#ifndef FATHOM_EPLB_LIMITED_H
#define FATHOM_EPLB_LIMITED_H

#include "eplb_best.h"
#include "eplb_index.h"

/**
 * One layer: starts from what the GPUs hold (`current`, which `old` indexes), gives experts without a copy
 * one, and improves the balance as far as options->moves allows. Small layers are solved exactly.
 *
 * FM_ERR_NOT_FOUND: no placement keeps the limit, or the current one has groups spread over nodes in a
 * hierarchical plan.
 */
fm_status fm_eplb_limited_plan(fm_eplb_planner *planner, const fm_eplb_options *options,
                               const fm_eplb_index *old, const int32_t *current, const float *weight,
                               int layer, int32_t *row, fm_eplb_layer_state *state, uint64_t deadline_ns);

#endif
