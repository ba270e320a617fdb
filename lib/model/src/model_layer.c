/*
 * A layer is residual: x += attention(norm(x)); x += network(norm(x)). With experts it runs in three steps, between which
 * their rows travel. What it saves stays in scratch until its backward is done.
 */
#include "model_trainer.h"

static fm_status no_memory(const struct fm_model_batch *batch)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory for a layer of %d sequences of %d tokens",
                             batch->sequences, batch->length);
}

static int take_saved(struct fm_model_scratch *scratch, size_t tokens, size_t cells,
                      struct fm_model_layer_saved *saved)
{
    saved->x_normed = fm_model_scratch_take(scratch, cells);
    saved->middle = fm_model_scratch_take(scratch, cells);
    saved->middle_normed = fm_model_scratch_take(scratch, cells);
    saved->x_inverse = fm_model_scratch_take(scratch, tokens);
    saved->middle_inverse = fm_model_scratch_take(scratch, tokens);
    saved->out = fm_model_scratch_take(scratch, cells);
    return saved->x_normed && saved->middle && saved->middle_normed && saved->x_inverse &&
           saved->middle_inverse && saved->out;
}

fm_status fm_model_layer_open(struct fm_trainer *trainer, const struct fm_model_layer *layer, int64_t *loads,
                              const struct fm_model_batch *batch, const float *x,
                              struct fm_model_layer_saved *saved)
{
    const fm_model_config *c = &trainer->model.config;
    const struct fm_model_compute *compute = &trainer->model.compute;
    int64_t tokens = batch->tokens, hidden = c->hidden;
    size_t cells = (size_t)(tokens * hidden);
    saved->x = x;
    if (!take_saved(&trainer->model.scratch, (size_t)tokens, cells, saved))
        return no_memory(batch);
    fm_model_norm_rows(compute, tokens, hidden, x, hidden, &layer->input_norm, (float)c->epsilon,
                       saved->x_normed, hidden, saved->x_inverse);
    FM_TRY(
        fm_model_attention_forward(trainer, layer, batch, saved->x_normed, saved->middle, &saved->attention));
    compute->kernels->axpy(1, x, saved->middle, (int64_t)cells);
    fm_model_norm_rows(compute, tokens, hidden, saved->middle, hidden, &layer->post_norm, (float)c->epsilon,
                       saved->middle_normed, hidden, saved->middle_inverse);
    if (layer->experts)
        FM_TRY(fm_model_moe_send(trainer, layer, batch, saved->middle_normed, loads, &saved->moe));
    if (!layer->experts || c->shared_experts)
        return fm_model_mlp_forward(trainer, &layer->mlp, tokens, saved->middle_normed, saved->out,
                                    &saved->mlp);
    memset(saved->out, 0, cells * sizeof *saved->out);
    return FM_OK;
}

fm_status fm_model_layer_experts(struct fm_trainer *trainer, const struct fm_model_layer *layer,
                                 const struct fm_model_batch *batch, struct fm_model_layer_saved *saved)
{
    return fm_model_moe_experts(trainer, layer, batch, saved->out, &saved->moe);
}

fm_status fm_model_layer_close(struct fm_trainer *trainer, const struct fm_model_layer *layer,
                               const struct fm_model_batch *batch, struct fm_model_layer_saved *saved)
{
    if (layer->experts)
        FM_TRY(fm_model_moe_receive(trainer, batch, saved->out, &saved->moe));
    trainer->model.compute.kernels->axpy(1, saved->middle, saved->out,
                                         batch->tokens * trainer->model.config.hidden);
    return FM_OK;
}

fm_status fm_model_layer_back_open(struct fm_trainer *trainer, const struct fm_model_layer *layer,
                                   const struct fm_model_batch *batch, const float *dx,
                                   struct fm_model_layer_saved *saved)
{
    const fm_model_config *c = &trainer->model.config;
    struct fm_model_scratch *scratch = &trainer->model.scratch;
    saved->mark = fm_model_scratch_mark(scratch);
    saved->dnormed = fm_model_scratch_zero(scratch, (size_t)(batch->tokens * c->hidden));
    if (!saved->dnormed)
        return no_memory(batch);
    if (layer->experts)
        FM_TRY(fm_model_moe_back_send(trainer, layer, batch, dx, &saved->moe));
    if (!layer->experts || c->shared_experts)
        FM_TRY(fm_model_mlp_back(trainer, &layer->mlp, batch->tokens, &saved->mlp, dx, saved->dnormed, 0));
    return FM_OK;
}

fm_status fm_model_layer_back_experts(struct fm_trainer *trainer, const struct fm_model_batch *batch,
                                      struct fm_model_layer_saved *saved)
{
    return fm_model_moe_back_experts(trainer, batch, saved->dnormed, &saved->moe);
}

fm_status fm_model_layer_back_close(struct fm_trainer *trainer, const struct fm_model_layer *layer,
                                    const struct fm_model_batch *batch, float *dx,
                                    struct fm_model_layer_saved *saved)
{
    const struct fm_model_compute *compute = &trainer->model.compute;
    int64_t tokens = batch->tokens, hidden = trainer->model.config.hidden;
    float *dnormed = saved->dnormed;
    if (layer->experts)
        FM_TRY(fm_model_moe_back_receive(trainer, layer, batch, dnormed, &saved->moe));
    fm_model_norm_back_rows(compute, tokens, hidden, saved->middle, hidden, &layer->post_norm,
                            saved->middle_inverse, dnormed, hidden, dx, hidden);
    FM_TRY(fm_model_attention_back(trainer, layer, batch, &saved->attention, dx, dnormed));
    fm_model_norm_back_rows(compute, tokens, hidden, saved->x, hidden, &layer->input_norm, saved->x_inverse,
                            dnormed, hidden, dx, hidden);
    fm_model_scratch_release(&trainer->model.scratch, saved->mark);
    return FM_OK;
}
