/**
 * @file eplb_limited.h
 * Planning from a placement that is running, with a limit on the copies moved.
 */
#ifndef FATHOM_EPLB_LIMITED_H
#define FATHOM_EPLB_LIMITED_H

#include "eplb_best.h"
#include "eplb_index.h"

/** Workspace for all layers. */
typedef struct fm_eplb_limited {
    fm_eplb_planner *planner;
    fm_eplb_search *search;
    const fm_eplb_options *options;
    const fm_eplb_index *old;
    const int32_t *current;
    int node;
    fm_eplb_problem problem;
    uint16_t *before;   /* [node_gpus][node_experts + 1] */
    int32_t *kept;      /* [node_gpus] experts that a GPU is the keeper of */
    int32_t *wanted_by; /* [node_gpus] expert by which a search reached a GPU, or -1 */
    int32_t *queue;     /* [node_gpus] */
} fm_eplb_limited;

/** All but `limited` are borrowed. `old` indexes, in each call below, the `current` that is given with it. */
fm_status fm_eplb_limited_init(fm_eplb_limited *limited, fm_eplb_planner *planner,
                               const fm_eplb_options *options, const fm_eplb_index *old);
void fm_eplb_limited_clean_up(fm_eplb_limited *limited);

/**
 * First pass over a layer: starts from what the GPUs hold, gives experts without a copy one, and descends as
 * far as options->moves allows. Fills row[slots].
 *
 * FM_ERR_NOT_FOUND: no placement keeps the limit, or the current one has groups spread over nodes in a
 * hierarchical plan.
 */
fm_status fm_eplb_limited_begin(fm_eplb_limited *limited, const int32_t *current, const float *weight,
                                int32_t *row, fm_eplb_layer_state *state, uint64_t deadline_ns);
/** Second pass: improves a row that keeps the limit. Small layers are solved exactly. */
void fm_eplb_limited_improve(fm_eplb_limited *limited, const int32_t *current, const float *weight, int layer,
                             int32_t *row, fm_eplb_layer_state *state, uint64_t deadline_ns);

#endif
