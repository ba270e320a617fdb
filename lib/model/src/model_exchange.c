/*
 * Experts on several ranks: ep's dispatch takes rows to them and combine brings them back, both ways. Rows are f32, so that
 * training over ranks rounds as training on one rank does. A row is read from where it lies as its expert gathers its
 * input; sums are combine's, in the order of a token's choices, whatever the ranks.
 */
#include "model_trainer.h"

static fm_status no_memory(int64_t rows)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory for %lld rows on their way", (long long)rows);
}

static fm_status dispatch(const struct fm_trainer *trainer, const struct fm_model_batch *batch,
                          const float *rows, int cached, struct fm_model_moe_saved *saved)
{
    fm_ep_dispatch dispatch = {.size = sizeof dispatch,
                               .cached = cached,
                               .is_pull = 1,
                               .tokens = (int)batch->tokens,
                               .topk = trainer->model.config.topk,
                               .topk_idx = saved->slots,
                               .topk_weights = saved->route.weights,
                               .x_format = FM_EP_F32,
                               .recv_format = FM_EP_F32,
                               .x = rows};
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
    return dispatch(trainer, batch, saved->x, 0, saved);
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
    FM_TRY(fm_model_moe_take(trainer, received->rows, saved));
    saved->sum = fm_model_scratch_take(&trainer->model.scratch, (size_t)(batch->tokens * hidden));
    if (!saved->sum)
        return no_memory(batch->tokens);
    for (int64_t row = 0; row < received->rows; row++)
        memcpy(saved->in + row * hidden, received->row_at[row], (size_t)hidden * sizeof *saved->in);
    fm_ep_op_release(saved->sent);
    for (int slot = 0; slot < received->local_experts; slot++) {
        int64_t begin = received->expert_begin[slot];
        struct fm_model_mlp_saved part = fm_model_moe_part(saved, begin, hidden, c->expert_intermediate);
        if (received->expert_count[slot] > 0)
            fm_model_mlp_run(&trainer->model.compute, &layer->experts[expert_in(trainer, saved, slot)],
                             received->expert_count[slot], saved->out + begin * hidden, &part);
    }
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
    return dispatch(trainer, batch, saved->dy, 1, saved);
}

// drows = weight * dy, and the gradient of the weight, for each row that came.
static void weigh(const struct fm_trainer *trainer, const fm_ep_received *received,
                  const struct fm_model_moe_saved *saved, float *drows, float *dweights)
{
    int64_t hidden = trainer->model.config.hidden;
    for (int64_t row = 0; row < received->rows; row++) {
        const float *dy = received->row_at[row];
        float *to = drows + row * hidden, weight = received->row_weight[row];
        dweights[row] = trainer->model.compute.kernels->dot(dy, saved->out + row * hidden, hidden);
        for (int64_t i = 0; i < hidden; i++)
            to[i] = weight * dy[i];
    }
}

fm_status fm_model_exchange_back_experts(struct fm_trainer *trainer, const struct fm_model_layer *layer,
                                         const struct fm_model_batch *batch, const float *shared,
                                         struct fm_model_moe_saved *saved)
{
    const fm_model_config *c = &trainer->model.config;
    struct fm_model_scratch *scratch = &trainer->model.scratch;
    int64_t hidden = c->hidden;
    FM_TRY(fm_ep_op_arrive(saved->sent));
    const fm_ep_received *received = fm_ep_handle_received(saved->handle);
    size_t cells = (size_t)(received->rows * hidden);
    float *drows = fm_model_scratch_take(scratch, cells);
    float *row_weights = fm_model_scratch_take(scratch, (size_t)received->rows);
    saved->din = fm_model_scratch_take(scratch, cells);
    saved->dweights = fm_model_scratch_take(scratch, (size_t)(batch->tokens * c->topk));
    saved->sum = fm_model_scratch_take(scratch, (size_t)(batch->tokens * hidden));
    if (!drows || !row_weights || !saved->din || !saved->dweights || !saved->sum)
        return no_memory(received->rows);
    weigh(trainer, received, saved, drows, row_weights);
    fm_ep_op_release(saved->sent);
    for (int slot = 0; slot < received->local_experts; slot++) {
        int64_t begin = received->expert_begin[slot], count = received->expert_count[slot];
        struct fm_model_mlp_saved part = fm_model_moe_part(saved, begin, hidden, c->expert_intermediate);
        if (count > 0)
            FM_TRY(fm_model_mlp_back(trainer, &layer->experts[expert_in(trainer, saved, slot)], count, &part,
                                     drows + begin * hidden, saved->din + begin * hidden, 0));
    }
    fm_ep_combine combine = {.size = sizeof combine,
                             .x = saved->din,
                             .bias = {shared},
                             .row_weights = row_weights,
                             .format = FM_EP_F32,
                             .out = saved->sum,
                             .out_weights = saved->dweights};
    return fm_ep_combine_post(trainer->exchange->group, &combine, saved->handle, &saved->returned);
}
