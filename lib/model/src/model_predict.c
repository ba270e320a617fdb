// The output head with its loss, and the heads for multi-token prediction around their layers.
#include "model_trainer.h"

// Rows of logits at a time: the vocabulary is the widest thing there is.
enum { HEAD_ROWS = 256 };

static fm_status no_memory(const struct fm_model_batch *batch)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory for %d sequences of %d tokens", batch->sequences,
                             batch->length);
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

fm_status fm_model_head(struct fm_trainer *trainer, int64_t tokens, const float *x, const int32_t *targets,
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

static int take_predictor(struct fm_trainer *trainer, int64_t tokens, struct fm_model_predictor_saved *saved)
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

fm_status fm_model_predictor_open(struct fm_trainer *trainer, int index, const struct fm_model_batch *batch,
                                  const float *hidden, const int32_t *next,
                                  struct fm_model_predictor_saved *saved, float **out_x)
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
    *out_x = x;
    return FM_OK;
}

fm_status fm_model_predictor_close(struct fm_trainer *trainer, int index, const struct fm_model_batch *batch,
                                   const float *x, const int32_t *targets,
                                   struct fm_model_predictor_saved *saved)
{
    const fm_model_config *c = &trainer->model.config;
    const struct fm_model_compute *compute = &trainer->model.compute;
    const struct fm_model_weight *norm = &trainer->model.weights.predictors[index].norm;
    struct fm_model_scratch *scratch = &trainer->model.scratch;
    int64_t tokens = batch->tokens, width = c->hidden;
    double weight = trainer->weight * trainer->training.predict_weight / c->predict_layers;
    fm_model_norm_rows(compute, tokens, width, x, width, norm, (float)c->epsilon, saved->normed, width,
                       saved->inverse);
    saved->dx = fm_model_scratch_zero(scratch, (size_t)(tokens * width));
    struct fm_model_mark mark = fm_model_scratch_mark(scratch);
    float *dnormed = fm_model_scratch_take(scratch, (size_t)(tokens * width));
    if (!saved->dx || !dnormed)
        return no_memory(batch);
    FM_TRY(fm_model_head(trainer, tokens, saved->normed, targets, weight, &trainer->predict_sum, dnormed));
    if (!trainer->evaluate)
        fm_model_norm_back_rows(compute, tokens, width, x, width, norm, saved->inverse, dnormed, width,
                                saved->dx, width);
    fm_model_scratch_release(scratch, mark);
    return FM_OK;
}

fm_status fm_model_predictor_back(struct fm_trainer *trainer, int index, const struct fm_model_batch *batch,
                                  const int32_t *next, const struct fm_model_predictor_saved *saved,
                                  const float *dx, float *dhidden)
{
    const struct fm_model_compute *compute = &trainer->model.compute;
    const struct fm_model_predictor *predictor = &trainer->model.weights.predictors[index];
    struct fm_model_scratch *scratch = &trainer->model.scratch;
    int64_t tokens = batch->tokens, width = trainer->model.config.hidden;
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
