/*
 * One micro-batch forward and backward. Layers are residual: x += attention(norm(x)); x += network(norm(x)). What a layer
 * saves stays in scratch until its backward is done.
 */
#include "model_trainer.h"

// Rows of logits at a time: the vocabulary is the widest thing there is.
enum { HEAD_ROWS = 256 };

static fm_status no_memory(const struct fm_model_batch *batch)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory for %d sequences of %d tokens", batch->sequences,
                             batch->length);
}

static fm_status layer_forward(struct fm_trainer *trainer, const struct fm_model_layer *layer, int64_t *loads,
                               const struct fm_model_batch *batch, float *x,
                               struct fm_model_layer_saved *saved, float **out_x)
{
    const fm_model_config *c = &trainer->model.config;
    const struct fm_model_compute *compute = &trainer->model.compute;
    struct fm_model_scratch *scratch = &trainer->model.scratch;
    int64_t tokens = batch->tokens, hidden = c->hidden;
    size_t cells = (size_t)(tokens * hidden);
    saved->x = x;
    saved->x_normed = fm_model_scratch_take(scratch, cells);
    saved->middle = fm_model_scratch_take(scratch, cells);
    saved->middle_normed = fm_model_scratch_take(scratch, cells);
    saved->x_inverse = fm_model_scratch_take(scratch, (size_t)tokens);
    saved->middle_inverse = fm_model_scratch_take(scratch, (size_t)tokens);
    float *out = fm_model_scratch_take(scratch, cells);
    if (!saved->x_normed || !saved->middle || !saved->middle_normed || !saved->x_inverse ||
        !saved->middle_inverse || !out)
        return no_memory(batch);
    fm_model_norm_rows(compute, tokens, hidden, x, hidden, &layer->input_norm, (float)c->epsilon,
                       saved->x_normed, hidden, saved->x_inverse);
    FM_TRY(
        fm_model_attention_forward(trainer, layer, batch, saved->x_normed, saved->middle, &saved->attention));
    compute->kernels->axpy(1, x, saved->middle, (int64_t)cells);
    fm_model_norm_rows(compute, tokens, hidden, saved->middle, hidden, &layer->post_norm, (float)c->epsilon,
                       saved->middle_normed, hidden, saved->middle_inverse);
    if (!layer->experts || c->shared_experts)
        FM_TRY(fm_model_mlp_forward(trainer, &layer->mlp, tokens, saved->middle_normed, out, &saved->mlp));
    else
        memset(out, 0, cells * sizeof *out);
    if (layer->experts)
        FM_TRY(fm_model_moe_forward(trainer, layer, batch, saved->middle_normed, out, loads, &saved->moe));
    compute->kernels->axpy(1, saved->middle, out, (int64_t)cells);
    *out_x = out;
    return FM_OK;
}

// dx, the gradient of what the layer gave, becomes that of what it got.
static fm_status layer_back(struct fm_trainer *trainer, const struct fm_model_layer *layer,
                            const struct fm_model_batch *batch, const struct fm_model_layer_saved *saved,
                            float *dx)
{
    const fm_model_config *c = &trainer->model.config;
    const struct fm_model_compute *compute = &trainer->model.compute;
    struct fm_model_scratch *scratch = &trainer->model.scratch;
    int64_t tokens = batch->tokens, hidden = c->hidden;
    struct fm_model_mark mark = fm_model_scratch_mark(scratch);
    float *dnormed = fm_model_scratch_zero(scratch, (size_t)(tokens * hidden));
    if (!dnormed)
        return no_memory(batch);
    if (!layer->experts || c->shared_experts)
        FM_TRY(fm_model_mlp_back(trainer, &layer->mlp, tokens, &saved->mlp, dx, dnormed, 0));
    if (layer->experts)
        FM_TRY(fm_model_moe_back(trainer, layer, batch, &saved->moe, dx, dnormed));
    fm_model_norm_back_rows(compute, tokens, hidden, saved->middle, hidden, &layer->post_norm,
                            saved->middle_inverse, dnormed, hidden, dx, hidden);
    FM_TRY(fm_model_attention_back(trainer, layer, batch, &saved->attention, dx, dnormed));
    fm_model_norm_back_rows(compute, tokens, hidden, saved->x, hidden, &layer->input_norm, saved->x_inverse,
                            dnormed, hidden, dx, hidden);
    fm_model_scratch_release(scratch, mark);
    return FM_OK;
}

struct loss_work {
    const struct fm_model_kernels *kernels;
    int64_t vocab;
    const int32_t *targets;
    float weight;
    float *logits;
    double *losses;
};

// Logits become their gradients.
static void loss_part(void *context, int64_t begin, int64_t end, int thread)
{
    const struct loss_work *w = context;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        float *row = w->logits + i * w->vocab, target = row[w->targets[i]];
        w->losses[i] = (double)w->kernels->softmax(1, row, w->vocab) - (double)target;
        row[w->targets[i]] -= 1;
        for (int64_t j = 0; j < w->vocab; j++)
            row[j] *= w->weight;
    }
}

// Adds the cross-entropy of normalised rows to *sum; dx = its gradient, times weight.
static fm_status head(struct fm_trainer *trainer, int64_t tokens, const float *x, const int32_t *targets,
                      double weight, double *sum, float *dx)
{
    const fm_model_config *c = &trainer->model.config;
    const struct fm_model_compute *compute = &trainer->model.compute;
    struct fm_model_scratch *scratch = &trainer->model.scratch;
    const struct fm_model_weight *output = &trainer->model.weights.head;
    struct fm_model_mark mark = fm_model_scratch_mark(scratch);
    float *logits = fm_model_scratch_take(scratch, HEAD_ROWS * (size_t)c->vocab);
    double *losses = (double *)fm_model_scratch_take(scratch, 2 * HEAD_ROWS);
    if (!logits || !losses)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for logits");
    for (int64_t at = 0; at < tokens; at += HEAD_ROWS) {
        int64_t rows = tokens - at < HEAD_ROWS ? tokens - at : HEAD_ROWS;
        fm_model_linear(compute, rows, x + at * c->hidden, output, logits);
        struct loss_work work = {compute->kernels, c->vocab, targets + at, (float)weight, logits, losses};
        fm_model_share(compute, rows, 8, loss_part, &work);
        for (int64_t i = 0; i < rows; i++)
            *sum += losses[i];
        if (!trainer->evaluate)
            fm_model_linear_back(compute, rows, x + at * c->hidden, output, logits, dx + at * c->hidden, 0);
    }
    fm_model_scratch_release(scratch, mark);
    return FM_OK;
}

// Column `shift` of the batch's ids, ..., as rows of tokens.
static void take_ids(const struct fm_model_batch *batch, int predict_layers, const int32_t *ids, int shift,
                     int32_t *out)
{
    for (int64_t s = 0; s < batch->sequences; s++)
        memcpy(out + s * batch->length, ids + s * (batch->length + 1 + predict_layers) + shift,
               (size_t)batch->length * sizeof *out);
}

struct predictor_saved {
    float *embedded, *embed_inverse, *hidden_inverse, *joined, *x_out, *normed, *inverse;
    const float *hidden;
    struct fm_model_layer_saved layer;
};

static int take_predictor(struct fm_trainer *trainer, int64_t tokens, struct predictor_saved *saved)
{
    struct fm_model_scratch *scratch = &trainer->model.scratch;
    size_t rows = (size_t)tokens, cells = rows * (size_t)trainer->model.config.hidden;
    saved->embedded = fm_model_scratch_take(scratch, cells);
    saved->embed_inverse = fm_model_scratch_take(scratch, rows);
    saved->hidden_inverse = fm_model_scratch_take(scratch, rows);
    saved->joined = fm_model_scratch_take(scratch, 2 * cells);
    saved->normed = fm_model_scratch_take(scratch, cells);
    saved->inverse = fm_model_scratch_take(scratch, rows);
    return saved->embedded && saved->embed_inverse && saved->hidden_inverse && saved->joined &&
           saved->normed && saved->inverse;
}

// From the hidden rows before it and the next tokens to normalised rows for the head.
static fm_status predictor_forward(struct fm_trainer *trainer, int index, const struct fm_model_batch *batch,
                                   const float *hidden, const int32_t *next, struct predictor_saved *saved)
{
    const fm_model_config *c = &trainer->model.config;
    const struct fm_model_compute *compute = &trainer->model.compute;
    const struct fm_model_predictor *predictor = &trainer->model.weights.predictors[index];
    int64_t tokens = batch->tokens, width = c->hidden;
    saved->hidden = hidden;
    float *x = fm_model_scratch_take(&trainer->model.scratch, (size_t)(tokens * width));
    if (!x || !take_predictor(trainer, tokens, saved))
        return no_memory(batch);
    fm_model_embed(&trainer->model.weights.embed, next, tokens, saved->embedded);
    fm_model_norm_rows(compute, tokens, width, saved->embedded, width, &predictor->embed_norm,
                       (float)c->epsilon, saved->joined, 2 * width, saved->embed_inverse);
    fm_model_norm_rows(compute, tokens, width, hidden, width, &predictor->hidden_norm, (float)c->epsilon,
                       saved->joined + width, 2 * width, saved->hidden_inverse);
    fm_model_linear(compute, tokens, saved->joined, &predictor->project, x);
    int64_t *loads = trainer->loads + (int64_t)(c->layers + index) * c->experts;
    FM_TRY(layer_forward(trainer, &predictor->layer, loads, batch, x, &saved->layer, &saved->x_out));
    fm_model_norm_rows(compute, tokens, width, saved->x_out, width, &predictor->norm, (float)c->epsilon,
                       saved->normed, width, saved->inverse);
    return FM_OK;
}

// dx: the gradient of x_out, which is used up; dhidden += that of the hidden rows.
static fm_status predictor_back(struct fm_trainer *trainer, int index, const struct fm_model_batch *batch,
                                const int32_t *next, const struct predictor_saved *saved, float *dx,
                                float *dhidden)
{
    const struct fm_model_compute *compute = &trainer->model.compute;
    const struct fm_model_predictor *predictor = &trainer->model.weights.predictors[index];
    struct fm_model_scratch *scratch = &trainer->model.scratch;
    int64_t tokens = batch->tokens, width = trainer->model.config.hidden;
    FM_TRY(layer_back(trainer, &predictor->layer, batch, &saved->layer, dx));
    struct fm_model_mark mark = fm_model_scratch_mark(scratch);
    float *djoined = fm_model_scratch_take(scratch, 2 * (size_t)(tokens * width));
    float *dembedded = fm_model_scratch_zero(scratch, (size_t)(tokens * width));
    if (!djoined || !dembedded)
        return no_memory(batch);
    fm_model_linear_back(compute, tokens, saved->joined, &predictor->project, dx, djoined, 0);
    fm_model_norm_back_rows(compute, tokens, width, saved->embedded, width, &predictor->embed_norm,
                            saved->embed_inverse, djoined, 2 * width, dembedded, width);
    fm_model_norm_back_rows(compute, tokens, width, saved->hidden, width, &predictor->hidden_norm,
                            saved->hidden_inverse, djoined + width, 2 * width, dhidden, width);
    fm_model_embed_back(compute, &trainer->model.weights.embed, next, tokens, dembedded);
    fm_model_scratch_release(scratch, mark);
    return FM_OK;
}

/** What one micro-batch holds from its first to its last operator. */
struct pass {
    struct fm_model_layer_saved *layers;
    struct predictor_saved *predictors;
    int32_t *ids, *targets; // [tokens]
    float *x, *normed, *inverse, *dnormed, *dx;
};

// Each head predicts one token further from what the one before it made; losses run forward, gradients back.
static fm_status predict(struct fm_trainer *trainer, const struct fm_model_batch *batch, const int32_t *ids,
                         struct pass *pass)
{
    const fm_model_config *c = &trainer->model.config;
    const struct fm_model_compute *compute = &trainer->model.compute;
    double weight = trainer->weight * trainer->training.predict_weight / c->predict_layers;
    int64_t tokens = batch->tokens, width = c->hidden;
    float *dx[17] = {0}; // of x_out of each; whole_keys allows 16
    for (int i = 0; i < c->predict_layers; i++) {
        const float *hidden = i == 0 ? pass->normed : pass->predictors[i - 1].x_out;
        struct predictor_saved *saved = &pass->predictors[i];
        take_ids(batch, c->predict_layers, ids, i + 1, pass->ids);
        take_ids(batch, c->predict_layers, ids, i + 2, pass->targets);
        FM_TRY(predictor_forward(trainer, i, batch, hidden, pass->ids, saved));
        dx[i] = fm_model_scratch_zero(&trainer->model.scratch, (size_t)(tokens * width));
        if (!dx[i])
            return no_memory(batch);
        FM_TRY(head(trainer, tokens, saved->normed, pass->targets, weight, &trainer->predict_sum, pass->dx));
        if (!trainer->evaluate)
            fm_model_norm_back_rows(compute, tokens, width, saved->x_out, width,
                                    &trainer->model.weights.predictors[i].norm, saved->inverse, pass->dx,
                                    width, dx[i], width);
    }
    for (int i = c->predict_layers - 1; i >= 0 && !trainer->evaluate; i--) {
        take_ids(batch, c->predict_layers, ids, i + 1, pass->ids);
        FM_TRY(predictor_back(trainer, i, batch, pass->ids, &pass->predictors[i], dx[i],
                              i == 0 ? pass->dnormed : dx[i - 1]));
    }
    return FM_OK;
}

static fm_status run(struct fm_trainer *trainer, const struct fm_model_batch *batch, const int32_t *ids,
                     struct pass *pass)
{
    struct fm_model *model = &trainer->model;
    const fm_model_config *c = &model->config;
    const struct fm_model_compute *compute = &model->compute;
    int64_t tokens = batch->tokens, hidden = c->hidden;
    take_ids(batch, c->predict_layers, ids, 0, pass->ids);
    take_ids(batch, c->predict_layers, ids, 1, pass->targets);
    fm_model_embed(&model->weights.embed, pass->ids, tokens, pass->x);
    float *x = pass->x;
    for (int i = 0; i < c->layers; i++)
        FM_TRY(layer_forward(trainer, &model->weights.layers[i], trainer->loads + (int64_t)i * c->experts,
                             batch, x, &pass->layers[i], &x));
    fm_model_norm_rows(compute, tokens, hidden, x, hidden, &model->weights.norm, (float)c->epsilon,
                       pass->normed, hidden, pass->inverse);
    FM_TRY(head(trainer, tokens, pass->normed, pass->targets, trainer->weight, &trainer->loss_sum,
                pass->dnormed));
    if (c->predict_layers > 0)
        FM_TRY(predict(trainer, batch, ids, pass));
    if (trainer->evaluate)
        return FM_OK;
    memset(pass->dx, 0, (size_t)(tokens * hidden) * sizeof *pass->dx);
    fm_model_norm_back_rows(compute, tokens, hidden, x, hidden, &model->weights.norm, pass->inverse,
                            pass->dnormed, hidden, pass->dx, hidden);
    for (int i = c->layers - 1; i >= 0; i--)
        FM_TRY(layer_back(trainer, &model->weights.layers[i], batch, &pass->layers[i], pass->dx));
    take_ids(batch, c->predict_layers, ids, 0, pass->ids);
    fm_model_embed_back(compute, &model->weights.embed, pass->ids, tokens, pass->dx);
    return FM_OK;
}

fm_status fm_model_pass(struct fm_trainer *trainer, const struct fm_model_batch *batch, const int32_t *ids)
{
    const fm_model_config *c = &trainer->model.config;
    struct fm_model_scratch *scratch = &trainer->model.scratch;
    size_t cells = (size_t)batch->tokens * (size_t)c->hidden;
    struct fm_model_mark mark = fm_model_scratch_mark(scratch);
    struct pass pass = {0};
    pass.ids = (int32_t *)fm_model_scratch_take(scratch, (size_t)batch->tokens);
    pass.targets = (int32_t *)fm_model_scratch_take(scratch, (size_t)batch->tokens);
    pass.x = fm_model_scratch_take(scratch, cells);
    pass.normed = fm_model_scratch_take(scratch, cells);
    pass.inverse = fm_model_scratch_take(scratch, (size_t)batch->tokens);
    pass.dnormed = fm_model_scratch_take(scratch, cells);
    pass.dx = fm_model_scratch_take(scratch, cells);
    pass.layers = fm_base_mem_zalloc((size_t)c->layers, sizeof *pass.layers);
    pass.predictors = fm_base_mem_zalloc((size_t)c->predict_layers, sizeof *pass.predictors);
    fm_status status = no_memory(batch);
    if (pass.ids && pass.targets && pass.x && pass.normed && pass.inverse && pass.dnormed && pass.dx &&
        pass.layers && pass.predictors)
        status = run(trainer, batch, ids, &pass);
    fm_base_mem_free(pass.predictors);
    fm_base_mem_free(pass.layers);
    fm_model_scratch_release(scratch, mark);
    return status;
}
