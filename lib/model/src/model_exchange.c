/*
 * Experts on several ranks: ep's dispatch takes rows to them and combine brings them back, both ways. Rows are sent as the
 * experts' products take them, f32, BF16 or E4M3 with scales, and come back in f32, so that training over ranks rounds as
 * training on one rank does. A row is read from where it lies as its expert gathers its
 * input; sums are combine's, in the order of a token's choices, whatever the ranks.
 */
#include "model_trainer.h"

static fm_status no_memory(int64_t rows)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory for %lld rows on their way", (long long)rows);
}

static fm_status dispatch(const struct fm_trainer *trainer, const struct fm_model_batch *batch,
                          const fm_gemm_operand *rows, int cached, struct fm_model_moe_saved *saved)
{
    fm_ep_format format = rows->dtype == FM_DTYPE_F32    ? FM_EP_F32
                          : rows->dtype == FM_DTYPE_BF16 ? FM_EP_BF16
                                                         : FM_EP_FP8_F32;
    fm_ep_dispatch dispatch = {.size = sizeof dispatch,
                               .cached = cached,
                               .is_pull = 1,
                               .tokens = (int)batch->tokens,
                               .topk = trainer->model.config.topk,
                               .topk_idx = saved->slots,
                               .topk_weights = saved->route.weights,
                               .x_format = format,
                               .recv_format = format,
                               .x = rows->data,
                               .x_scales = rows->scales};
    return fm_ep_dispatch_post(trainer->exchange->group, &dispatch, saved->handle, &saved->sent);
}

// Ends what is on its way.
static fm_status end(fm_ep_op **op)
{
    fm_ep_op *ended = *op;
    *op = NULL;
    return ended ? fm_ep_op_wait(ended) : FM_OK;
}

fm_status fm_model_exchange_send(struct fm_trainer *trainer, const struct fm_model_batch *batch,
                                 struct fm_model_moe_saved *saved)
{
    const struct fm_model_exchange *exchange = trainer->exchange;
    const fm_model_config *c = &trainer->model.config;
    int64_t choices = batch->tokens * c->topk;
    const int32_t *slot_of = exchange->slot_of + (int64_t)saved->layer * c->experts;
    saved->slots = (int32_t *)fm_model_scratch_take(&trainer->model.scratch, (size_t)choices);
    if (!saved->slots)
        return no_memory(choices);
    for (int64_t i = 0; i < choices; i++)
        saved->slots[i] = slot_of[saved->route.experts[i]];
    fm_ep_handle **handle = &exchange->handles[saved->layer];
    if (!*handle)
        FM_TRY(fm_ep_handle_create(exchange->group, FM_EP_EXPANDED, 1, handle));
    saved->handle = *handle;
    return dispatch(trainer, batch, &saved->x_rows, 0, saved);
}

/** The expert in a slot of this rank. */
static int expert_in(const struct fm_trainer *trainer, const struct fm_model_moe_saved *saved, int slot)
{
    const struct fm_model_exchange *exchange = trainer->exchange;
    return exchange
        ->expert_in[(int64_t)saved->layer * trainer->model.config.experts + exchange->first + slot];
}

fm_status fm_model_exchange_experts(struct fm_trainer *trainer, const struct fm_model_layer *layer,
                                    const struct fm_model_batch *batch, const float *shared,
                                    struct fm_model_moe_saved *saved)
{
    const fm_model_config *c = &trainer->model.config;
    int64_t hidden = c->hidden;
    FM_TRY(fm_ep_op_arrive(saved->sent));
    const fm_ep_received *received = fm_ep_handle_received(saved->handle);
    int64_t *offsets;
    struct fm_model_mlp **experts;
    FM_TRY(fm_model_moe_take(trainer, received->rows, received->local_experts, saved, &offsets, &experts));
    saved->sum = fm_model_scratch_take(&trainer->model.scratch, (size_t)(batch->tokens * hidden));
    if (!saved->sum)
        return no_memory(batch->tokens);
    for (int slot = 0; slot < received->local_experts; slot++) {
        offsets[slot + 1] = received->expert_begin[slot + 1];
        experts[slot] = &layer->experts[expert_in(trainer, saved, slot)];
    }
    for (int64_t row = 0; row < received->rows; row++)
        fm_model_rows_put(&saved->in, row, received->row_at[row],
                          saved->in.dtype == FM_DTYPE_F8_E4M3 ? received->row_scales_at[row] : NULL);
    fm_ep_op_release(saved->sent);
    FM_TRY(fm_model_grouped_run(trainer, saved));
    fm_ep_combine combine = {.size = sizeof combine,
                             .x = saved->out,
                             .topk_weights = saved->route.weights,
                             .bias = {shared},
                             .format = FM_EP_F32,
                             .out = saved->sum};
    return fm_ep_combine_post(trainer->exchange->group, &combine, saved->handle, &saved->returned);
}

fm_status fm_model_exchange_receive(struct fm_trainer *trainer, const struct fm_model_batch *batch,
                                    float *out, struct fm_model_moe_saved *saved)
{
    FM_TRY(end(&saved->sent));
    FM_TRY(end(&saved->returned));
    memcpy(out, saved->sum, (size_t)(batch->tokens * trainer->model.config.hidden) * sizeof *out);
    return FM_OK;
}

fm_status fm_model_exchange_back_send(struct fm_trainer *trainer, const struct fm_model_batch *batch,
                                      struct fm_model_moe_saved *saved)
{
    return dispatch(trainer, batch, &saved->dy_rows, 1, saved);
}

// drows = weight * dy, and the gradient of the weight, for each row that came.
static void weigh(const struct fm_trainer *trainer, const fm_ep_received *received,
                  const struct fm_model_moe_saved *saved, float *wide, float *dweights)
{
    int64_t hidden = trainer->model.config.hidden;
    int is_scaled = saved->drows.dtype == FM_DTYPE_F8_E4M3;
    for (int64_t row = 0; row < received->rows; row++) {
        fm_model_rows_weigh(&saved->drows, row, received->row_at[row],
                            is_scaled ? received->row_scales_at[row] : NULL, received->row_weight[row], wide);
        dweights[row] = trainer->model.compute.kernels->dot(wide, saved->out + row * hidden, hidden);
    }
}

fm_status fm_model_exchange_back_experts(struct fm_trainer *trainer, const struct fm_model_batch *batch,
                                         const float *shared, struct fm_model_moe_saved *saved)
{
    const fm_model_config *c = &trainer->model.config;
    struct fm_model_scratch *scratch = &trainer->model.scratch;
    int64_t hidden = c->hidden;
    FM_TRY(fm_ep_op_arrive(saved->sent));
    const fm_ep_received *received = fm_ep_handle_received(saved->handle);
    FM_TRY(fm_model_rows_take(trainer, &saved->dy_rows, received->rows, &saved->drows));
    float *wide = fm_model_scratch_take(scratch, (size_t)hidden);
    float *row_weights = fm_model_scratch_take(scratch, (size_t)received->rows);
    saved->din = fm_model_scratch_take(scratch, (size_t)(received->rows * hidden));
    saved->dweights = fm_model_scratch_take(scratch, (size_t)(batch->tokens * c->topk));
    saved->sum = fm_model_scratch_take(scratch, (size_t)(batch->tokens * hidden));
    if (!wide || !row_weights || !saved->din || !saved->dweights || !saved->sum)
        return no_memory(received->rows);
    weigh(trainer, received, saved, wide, row_weights);
    fm_ep_op_release(saved->sent);
    FM_TRY(fm_model_grouped_back(trainer, saved, saved->din));
    fm_ep_combine combine = {.size = sizeof combine,
                             .x = saved->din,
                             .bias = {shared},
                             .row_weights = row_weights,
                             .format = FM_EP_F32,
                             .out = saved->sum,
                             .out_weights = saved->dweights};
    return fm_ep_combine_post(trainer->exchange->group, &combine, saved->handle, &saved->returned);
}
