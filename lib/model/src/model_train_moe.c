/*
 * The mixture of experts in training, in three steps each way: rows are sent to the experts, the experts compute, rows are
 * received back. Where the experts lie on several ranks (model_exchange.c) rows travel between the steps, and whoever calls
 * may compute something else meanwhile; here they are copied in place.
 */
#include "model_trainer.h"

static fm_status no_memory(int64_t rows)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory for the experts' %lld rows", (long long)rows);
}

struct rows_work {
    const fm_model_config *config;
    const struct fm_model_kernels *kernels;
    const struct fm_model_moe_saved *saved;
    const float *from; // of combine_part()
    float *to, *dweights;
    float *wide; // a thread's, [hidden]
};

// The row of (t, j) = x[t]
static void scatter_part(void *context, int64_t begin, int64_t end, int thread)
{
    const struct rows_work *w = context;
    const fm_gemm_operand *x = &w->saved->x_rows;
    int topk = w->config->topk;
    (void)thread;
    for (int64_t i = begin * topk; i < end * topk; i++)
        fm_model_rows_put(&w->saved->in, w->saved->route.rows[i], fm_model_rows_at(x, i / topk),
                          fm_model_rows_scales(x, i / topk));
}

// to[t] += sum over j of weight (t, j) * from[row]
static void combine_part(void *context, int64_t begin, int64_t end, int thread)
{
    const struct rows_work *w = context;
    int64_t hidden = w->config->hidden;
    int topk = w->config->topk;
    (void)thread;
    for (int64_t i = begin * topk; i < end * topk; i++)
        w->kernels->axpy(w->dweights ? 1 : w->saved->route.weights[i],
                         w->from + w->saved->route.rows[i] * hidden, w->to + i / topk * hidden, hidden);
}

// The row of (t, j) = weight * dy[t]; dweights (t, j) = dy[t] . out[row]
static void combine_back_part(void *context, int64_t begin, int64_t end, int thread)
{
    const struct rows_work *w = context;
    const fm_gemm_operand *dy = &w->saved->dy_rows;
    int64_t hidden = w->config->hidden;
    int topk = w->config->topk;
    float *wide = w->wide + thread * hidden;
    for (int64_t i = begin * topk; i < end * topk; i++) {
        int64_t row = w->saved->route.rows[i];
        fm_model_rows_weigh(&w->saved->drows, row, fm_model_rows_at(dy, i / topk),
                            fm_model_rows_scales(dy, i / topk), w->saved->route.weights[i], wide);
        w->dweights[i] = w->kernels->dot(wide, w->saved->out + row * hidden, hidden);
    }
}

enum { TOKEN_GRAIN = 32 };

/** The sequence-wise balance loss of one sequence (V3 report, formulas 17 to 20): sum over experts of f P, where f is an
 * expert's share of choices, 1 when balanced, and P the mean of its share of the scores. `factors` [experts] gets f. */
static double balance_of(const fm_model_config *c, const struct fm_model_route *route, int64_t first,
                         int64_t length, float *factors)
{
    double loss = 0;
    memset(factors, 0, (size_t)c->experts * sizeof *factors);
    for (int64_t i = first * c->topk; i < (first + length) * c->topk; i++)
        factors[route->experts[i]] += (float)c->experts / ((float)c->topk * (float)length);
    for (int64_t t = first; t < first + length; t++) {
        const float *scores = route->scores + t * c->experts;
        double total = 0, sum = 0;
        for (int e = 0; e < c->experts; e++) {
            total += (double)scores[e];
            sum += (double)(factors[e] * scores[e]);
        }
        loss += sum / total / (double)length;
    }
    return loss;
}

static fm_status send_here(struct fm_trainer *trainer, const struct fm_model_layer *layer,
                           const struct fm_model_batch *batch, struct fm_model_moe_saved *saved)
{
    const fm_model_config *c = &trainer->model.config;
    int64_t *offsets;
    struct fm_model_mlp **experts;
    FM_TRY(fm_model_moe_take(trainer, batch->tokens * c->topk, c->experts, saved, &offsets, &experts));
    memcpy(offsets, saved->route.offsets, ((size_t)c->experts + 1) * sizeof *offsets);
    for (int e = 0; e < c->experts; e++)
        experts[e] = &layer->experts[e];
    struct rows_work work = {.config = c, .kernels = trainer->model.compute.kernels, .saved = saved};
    fm_model_share(&trainer->model.compute, batch->tokens, TOKEN_GRAIN, scatter_part, &work);
    return FM_OK;
}

fm_status fm_model_moe_take(struct fm_trainer *trainer, int64_t rows, int count,
                            struct fm_model_moe_saved *saved, int64_t **out_offsets,
                            struct fm_model_mlp ***out_experts)
{
    const fm_model_config *c = &trainer->model.config;
    struct fm_model_scratch *scratch = &trainer->model.scratch;
    saved->out = fm_model_scratch_take(scratch, (size_t)(rows * c->hidden));
    int64_t *offsets = fm_model_scratch_bytes(scratch, ((size_t)count + 1) * sizeof *offsets);
    struct fm_model_mlp **experts =
        fm_model_scratch_bytes(scratch, (size_t)count * sizeof(struct fm_model_mlp *));
    if (!saved->out || !offsets || !experts ||
        !fm_model_mlp_take(scratch, rows, c->expert_intermediate, &saved->experts))
        return no_memory(rows);
    saved->groups = (struct fm_model_groups){count, offsets, experts};
    *out_offsets = offsets;
    *out_experts = experts;
    return fm_model_rows_take(trainer, &saved->x_rows, rows, &saved->in);
}

fm_status fm_model_moe_send(struct fm_trainer *trainer, const struct fm_model_layer *layer,
                            const struct fm_model_batch *batch, const float *x, int64_t *loads,
                            struct fm_model_moe_saved *saved)
{
    const fm_model_config *c = &trainer->model.config;
    FM_TRY(fm_model_route(c, &trainer->model.compute, &trainer->model.scratch, layer, batch->tokens, x,
                          &saved->route));
    saved->x = x;
    for (int e = 0; e < c->experts; e++)
        loads[e] += saved->route.offsets[e + 1] - saved->route.offsets[e];
    FM_TRY(fm_model_rows_round(trainer, layer, batch->tokens, x, &saved->x_rows));
    return trainer->exchange ? fm_model_exchange_send(trainer, batch, saved)
                             : send_here(trainer, layer, batch, saved);
}

fm_status fm_model_moe_experts(struct fm_trainer *trainer, const struct fm_model_layer *layer,
                               const struct fm_model_batch *batch, const float *shared,
                               struct fm_model_moe_saved *saved)
{
    return trainer->exchange ? fm_model_exchange_experts(trainer, layer, batch, shared, saved)
                             : fm_model_grouped_run(trainer, saved);
}

fm_status fm_model_moe_receive(struct fm_trainer *trainer, const struct fm_model_batch *batch, float *out,
                               struct fm_model_moe_saved *saved)
{
    const fm_model_config *c = &trainer->model.config;
    struct fm_model_scratch *scratch = &trainer->model.scratch;
    struct rows_work work = {.config = c,
                             .kernels = trainer->model.compute.kernels,
                             .saved = saved,
                             .from = saved->out,
                             .to = out};
    if (trainer->exchange)
        FM_TRY(fm_model_exchange_receive(trainer, batch, out, saved));
    else
        fm_model_share(&trainer->model.compute, batch->tokens, TOKEN_GRAIN, combine_part, &work);
    struct fm_model_mark mark = fm_model_scratch_mark(scratch);
    float *factors = fm_model_scratch_take(scratch, (size_t)c->experts);
    if (!factors)
        return no_memory(batch->tokens);
    for (int s = 0; s < batch->sequences; s++)
        trainer->balance_sum +=
            balance_of(c, &saved->route, (int64_t)s * batch->length, batch->length, factors) *
            trainer->balance_weight;
    fm_model_scratch_release(scratch, mark);
    return FM_OK;
}

// dscores += the gradient of the balance loss.
static void balance_back(const struct fm_trainer *trainer, const struct fm_model_batch *batch,
                         const struct fm_model_route *route, float *factors, float *dscores)
{
    const fm_model_config *c = &trainer->model.config;
    double scale = trainer->training.balance * trainer->balance_weight / (double)batch->length;
    for (int64_t s = 0; s < batch->sequences; s++) {
        int64_t first = s * batch->length;
        (void)balance_of(c, route, first, batch->length, factors);
        for (int64_t t = first; t < first + batch->length; t++) {
            const float *scores = route->scores + t * c->experts;
            double total = 0, sum = 0;
            for (int e = 0; e < c->experts; e++) {
                total += (double)scores[e];
                sum += (double)(factors[e] * scores[e]);
            }
            for (int e = 0; e < c->experts; e++)
                dscores[t * c->experts + e] += (float)(scale * ((double)factors[e] - sum / total) / total);
        }
    }
}

// From the gradients of the chosen experts' weights to those of all scores.
static void weights_back(const fm_model_config *c, const struct fm_model_route *route, const float *dweights,
                         float *dscores)
{
    float scale = (float)c->routed_scale;
    for (int64_t t = 0; t < route->tokens; t++) {
        const float *scores = route->scores + t * c->experts, *dw = dweights + t * c->topk;
        const int32_t *experts = route->experts + t * c->topk;
        float total = 1e-20f, inner = 0;
        for (int j = 0; j < c->topk; j++) {
            total += scores[experts[j]];
            inner += dw[j] * scores[experts[j]];
        }
        for (int j = 0; j < c->topk; j++)
            dscores[t * c->experts + experts[j]] +=
                c->normalise_topk ? scale / total * (dw[j] - inner / total) : scale * dw[j];
    }
}

// dscores becomes the gradient of the logits.
static void scores_back(const fm_model_config *c, const struct fm_model_kernels *kernels,
                        const struct fm_model_route *route, float *dscores)
{
    for (int64_t t = 0; t < route->tokens; t++) {
        const float *scores = route->scores + t * c->experts;
        float *d = dscores + t * c->experts;
        if (c->gate == FM_MODEL_SOFTMAX)
            kernels->softmax_back(1, scores, d, c->experts);
        else
            for (int e = 0; e < c->experts; e++)
                d[e] *= scores[e] * (1 - scores[e]);
    }
}

static fm_status back_here(struct fm_trainer *trainer, const struct fm_model_batch *batch,
                           struct fm_model_moe_saved *saved)
{
    const fm_model_config *c = &trainer->model.config;
    const struct fm_model_compute *compute = &trainer->model.compute;
    struct fm_model_scratch *scratch = &trainer->model.scratch;
    int64_t rows = batch->tokens * c->topk, hidden = c->hidden;
    FM_TRY(fm_model_rows_take(trainer, &saved->dy_rows, rows, &saved->drows));
    float *wide = fm_model_scratch_take(scratch, (size_t)(compute->threads * hidden));
    saved->din = fm_model_scratch_take(scratch, (size_t)(rows * hidden));
    saved->dweights = fm_model_scratch_take(scratch, (size_t)rows);
    if (!wide || !saved->din || !saved->dweights)
        return no_memory(rows);
    struct rows_work work = {
        .config = c, .kernels = compute->kernels, .saved = saved, .dweights = saved->dweights, .wide = wide};
    fm_model_share(compute, batch->tokens, TOKEN_GRAIN, combine_back_part, &work);
    return fm_model_grouped_back(trainer, saved, saved->din);
}

fm_status fm_model_moe_back_send(struct fm_trainer *trainer, const struct fm_model_layer *layer,
                                 const struct fm_model_batch *batch, const float *dy,
                                 struct fm_model_moe_saved *saved)
{
    saved->dy = dy;
    FM_TRY(fm_model_rows_round(trainer, layer, batch->tokens, dy, &saved->dy_rows));
    return trainer->exchange ? fm_model_exchange_back_send(trainer, batch, saved) : FM_OK;
}

fm_status fm_model_moe_back_experts(struct fm_trainer *trainer, const struct fm_model_batch *batch,
                                    const float *shared, struct fm_model_moe_saved *saved)
{
    return trainer->exchange ? fm_model_exchange_back_experts(trainer, batch, shared, saved)
                             : back_here(trainer, batch, saved);
}

fm_status fm_model_moe_back_receive(struct fm_trainer *trainer, const struct fm_model_layer *layer,
                                    const struct fm_model_batch *batch, float *dx,
                                    struct fm_model_moe_saved *saved)
{
    const fm_model_config *c = &trainer->model.config;
    const struct fm_model_compute *compute = &trainer->model.compute;
    struct fm_model_scratch *scratch = &trainer->model.scratch;
    float *dscores = fm_model_scratch_zero(scratch, (size_t)(batch->tokens * c->experts));
    float *factors = fm_model_scratch_take(scratch, (size_t)c->experts);
    if (!dscores || !factors)
        return no_memory(batch->tokens);
    struct rows_work work = {.config = c,
                             .kernels = compute->kernels,
                             .saved = saved,
                             .from = saved->din, // every choice of a token brings its share back
                             .to = dx,
                             .dweights = saved->dweights};
    if (trainer->exchange)
        FM_TRY(fm_model_exchange_receive(trainer, batch, dx, saved));
    else
        fm_model_share(compute, batch->tokens, TOKEN_GRAIN, combine_part, &work);
    weights_back(c, &saved->route, saved->dweights, dscores);
    balance_back(trainer, batch, &saved->route, factors, dscores);
    scores_back(c, compute->kernels, &saved->route, dscores);
    fm_model_linear_back(compute, batch->tokens, saved->x, &layer->router, dscores, dx, 1);
    return FM_OK;
}
