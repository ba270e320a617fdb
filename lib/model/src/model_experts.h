/* Experts that belong to workers: threads of the team, each with some experts of every layer. A plan of eplb says whose an
 * expert is; one with copies is shared out, row by row, among the workers that have it. */
#ifndef FM_MODEL_EXPERTS_H
#define FM_MODEL_EXPERTS_H

#include "model_private.h"

/** A layer's rows through its experts, as sorted by the route: out[i] is the network of the expert whose row i is. */
struct fm_model_experts_call {
    const struct fm_model_layer *layer;
    int index; // of the layer
    const struct fm_model_route *route;
    const int32_t *tokens; // [choices]: which row of `normed`
    const float *normed;   // [rows, hidden]
    int64_t rows, choices;
    float *out; // [choices, hidden]
};

/** FM_ERR_NOMEM, or what products fail with. */
FM_MUST_USE fm_status fm_model_experts_run(fm_model *model, const struct fm_model_experts_call *call);
/** NULL is allowed. */
void fm_model_experts_close(struct fm_model_experts *experts);

#endif
