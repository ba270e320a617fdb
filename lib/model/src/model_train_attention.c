/*
 * Attention in training: keys and values of all heads are formed from the latents (the plain form, which is less work
 * than the absorbed one where every position is a query). In f32, the reference, scores are computed here in blocks of rows,
 * each up to its diagonal; in BF16 and FP8 mla attends (model_train_mla.c).
 */
#include "model_trainer.h"

// Rows of scores at a time: half of a block beyond the diagonal is computed in vain.
enum { BLOCK = 64 };

struct work {
    struct fm_trainer *trainer;
    const struct fm_model_batch *batch;
    const struct fm_model_attention_saved *saved;
    // Backward:
    const float *dheads;            // [tokens, heads, value]
    float *dqueries, *dkeys_values; // like queries and keys_values
    float *dkey_rope;               // [sequences, heads, length, rope]
    float *dscores;                 // a thread's, [BLOCK, length]
};

/** The matrices of one head of one sequence. */
struct head {
    int64_t query_stride, kv_stride, out_stride;
    const float *nope, *rope, *keys, *values, *key_rope;
    float *probabilities;
    int64_t query_at, kv_at, out_at;
};

static struct head head_of(const struct work *work, int64_t number)
{
    const fm_model_config *c = &work->trainer->model.config;
    const struct fm_model_attention_saved *saved = work->saved;
    int64_t length = work->batch->length, first = number / c->heads * length, h = number % c->heads;
    struct head head = {.query_stride = (int64_t)c->heads * (c->nope + c->rope),
                        .kv_stride = (int64_t)c->heads * (c->nope + c->value),
                        .out_stride = (int64_t)c->heads * c->value};
    head.query_at = first * head.query_stride + h * (c->nope + c->rope);
    head.kv_at = first * head.kv_stride + h * (c->nope + c->value);
    head.out_at = first * head.out_stride + h * c->value;
    head.nope = saved->queries + head.query_at;
    head.rope = head.nope + c->nope;
    head.keys = saved->keys_values + head.kv_at;
    head.values = head.keys + c->nope;
    head.key_rope = saved->key_rope + first * c->rope;
    head.probabilities = saved->probabilities + number * length * length;
    return head;
}

static void forward_part(void *context, int64_t begin, int64_t end, int thread)
{
    const struct work *work = context;
    const struct fm_model *model = &work->trainer->model;
    const fm_model_config *c = &model->config;
    const struct fm_model_compute *compute = &model->compute;
    int64_t length = work->batch->length;
    for (int64_t number = begin; number < end; number++) {
        struct head head = head_of(work, number);
        struct fm_model_matrix keys = fm_model_rows(head.keys, head.kv_stride);
        struct fm_model_matrix key_rope = fm_model_rows(head.key_rope, c->rope);
        struct fm_model_matrix values = fm_model_transposed(head.values, head.kv_stride);
        for (int64_t row = 0; row < length; row += BLOCK) {
            int64_t rows = length - row < BLOCK ? length - row : BLOCK, columns = row + rows;
            float *block = head.probabilities + row * length;
            struct fm_model_matrix nope =
                fm_model_rows(head.nope + row * head.query_stride, head.query_stride);
            struct fm_model_matrix rope =
                fm_model_rows(head.rope + row * head.query_stride, head.query_stride);
            fm_model_matmul_alone(compute, thread, rows, columns, c->nope, &nope, &keys, block, length, 0);
            fm_model_matmul_alone(compute, thread, rows, columns, c->rope, &rope, &key_rope, block, length,
                                  1);
            for (int64_t i = 0; i < rows; i++) {
                compute->kernels->softmax(model->rotary.softmax_scale, block + i * length, row + i + 1);
                memset(block + i * length + row + i + 1, 0, (size_t)(rows - i - 1) * sizeof *block);
            }
            struct fm_model_matrix weights = fm_model_rows(block, length);
            fm_model_matmul_alone(compute, thread, rows, c->value, columns, &weights, &values,
                                  work->saved->heads + head.out_at + row * head.out_stride, head.out_stride,
                                  0);
        }
    }
}

static void back_part(void *context, int64_t begin, int64_t end, int thread)
{
    const struct work *work = context;
    const struct fm_model *model = &work->trainer->model;
    const fm_model_config *c = &model->config;
    const struct fm_model_compute *compute = &model->compute;
    int64_t length = work->batch->length;
    float *dscores = work->dscores + (int64_t)thread * BLOCK * length;
    for (int64_t number = begin; number < end; number++) {
        struct head head = head_of(work, number);
        float *dkeys = work->dkeys_values + head.kv_at, *dvalues = dkeys + c->nope;
        float *dkey_rope = work->dkey_rope + number * length * c->rope;
        struct fm_model_matrix values = fm_model_rows(head.values, head.kv_stride);
        struct fm_model_matrix keys = fm_model_transposed(head.keys, head.kv_stride);
        struct fm_model_matrix key_rope = fm_model_transposed(head.key_rope, c->rope);
        for (int64_t row = 0; row < length; row += BLOCK) {
            int64_t rows = length - row < BLOCK ? length - row : BLOCK, columns = row + rows;
            const float *weights = head.probabilities + row * length;
            const float *upstream = work->dheads + head.out_at + row * head.out_stride;
            struct fm_model_matrix upstream_rows = fm_model_rows(upstream, head.out_stride);
            struct fm_model_matrix upstream_columns = fm_model_transposed(upstream, head.out_stride);
            struct fm_model_matrix weight_columns = fm_model_transposed(weights, length);
            fm_model_matmul_alone(compute, thread, rows, columns, c->value, &upstream_rows, &values, dscores,
                                  length, 0);
            fm_model_matmul_alone(compute, thread, columns, c->value, rows, &weight_columns,
                                  &upstream_columns, dvalues, head.kv_stride, 1);
            for (int64_t i = 0; i < rows; i++)
                compute->kernels->softmax_back(model->rotary.softmax_scale, weights + i * length,
                                               dscores + i * length, columns);
            float *dnope = work->dqueries + head.query_at + row * head.query_stride;
            struct fm_model_matrix d_rows = fm_model_rows(dscores, length);
            struct fm_model_matrix d_columns = fm_model_transposed(dscores, length);
            struct fm_model_matrix nope =
                fm_model_transposed(head.nope + row * head.query_stride, head.query_stride);
            struct fm_model_matrix rope =
                fm_model_transposed(head.rope + row * head.query_stride, head.query_stride);
            fm_model_matmul_alone(compute, thread, rows, c->nope, columns, &d_rows, &keys, dnope,
                                  head.query_stride, 0);
            fm_model_matmul_alone(compute, thread, rows, c->rope, columns, &d_rows, &key_rope,
                                  dnope + c->nope, head.query_stride, 0);
            fm_model_matmul_alone(compute, thread, columns, c->nope, rows, &d_columns, &nope, dkeys,
                                  head.kv_stride, 1);
            fm_model_matmul_alone(compute, thread, columns, c->rope, rows, &d_columns, &rope, dkey_rope,
                                  c->rope, 1);
        }
    }
}

// The rotary channels of all queries and of the shared key.
static void rotate(const struct fm_model *model, const struct fm_model_batch *batch, int direction,
                   float *queries, float *key_rope)
{
    const fm_model_config *c = &model->config;
    int64_t query_width = c->nope + c->rope;
    for (int64_t t = 0; t < batch->tokens; t++) {
        int position = (int)(t % batch->length);
        fm_model_rotary_apply(&model->rotary, position, direction, key_rope + t * c->rope);
        for (int h = 0; h < c->heads; h++)
            fm_model_rotary_apply(&model->rotary, position, direction,
                                  queries + (t * c->heads + h) * query_width + c->nope);
    }
}

static fm_status no_memory(const struct fm_model_batch *batch)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory for the attention of %d sequences of %d tokens",
                             batch->sequences, batch->length);
}

static int take_saved(struct fm_trainer *trainer, const struct fm_model_batch *batch,
                      struct fm_model_attention_saved *saved)
{
    const fm_model_config *c = &trainer->model.config;
    struct fm_model_scratch *scratch = &trainer->model.scratch;
    size_t tokens = (size_t)batch->tokens, heads = (size_t)c->heads,
           low = (size_t)(c->q_lora ? c->q_lora : 1);
    size_t latent = (size_t)c->kv_lora + (size_t)c->rope;
    saved->low = fm_model_scratch_take(scratch, tokens * low);
    saved->low_normed = fm_model_scratch_take(scratch, tokens * low);
    saved->low_inverse = fm_model_scratch_take(scratch, tokens);
    saved->queries = fm_model_scratch_take(scratch, tokens * heads * (size_t)(c->nope + c->rope));
    saved->latents = fm_model_scratch_take(scratch, tokens * latent);
    saved->latent_normed = fm_model_scratch_take(scratch, tokens * (size_t)c->kv_lora);
    saved->latent_inverse = fm_model_scratch_take(scratch, tokens);
    saved->key_rope = fm_model_scratch_take(scratch, tokens * (size_t)c->rope);
    saved->keys_values = fm_model_scratch_take(scratch, tokens * heads * (size_t)(c->nope + c->value));
    if (trainer->mla ? !fm_model_mla_take(trainer, batch, &saved->mla)
                     : !(saved->probabilities =
                             fm_model_scratch_take(scratch, tokens * heads * (size_t)batch->length)))
        return 0;
    saved->heads = fm_model_scratch_take(scratch, tokens * heads * (size_t)c->value);
    return saved->low && saved->low_normed && saved->low_inverse && saved->queries && saved->latents &&
           saved->latent_normed && saved->latent_inverse && saved->key_rope && saved->keys_values &&
           saved->heads;
}

fm_status fm_model_attention_forward(struct fm_trainer *trainer, const struct fm_model_layer *layer,
                                     const struct fm_model_batch *batch, const float *x, float *out,
                                     struct fm_model_attention_saved *saved)
{
    const struct fm_model *model = &trainer->model;
    const fm_model_config *c = &model->config;
    const struct fm_model_compute *compute = &model->compute;
    int64_t tokens = batch->tokens, latent = c->kv_lora + c->rope;
    if (!take_saved(trainer, batch, saved))
        return no_memory(batch);
    saved->x = x;
    if (c->q_lora) {
        fm_model_linear(compute, tokens, x, &layer->q_a, saved->low);
        fm_model_norm_rows(compute, tokens, c->q_lora, saved->low, c->q_lora, &layer->q_a_norm,
                           (float)c->epsilon, saved->low_normed, c->q_lora, saved->low_inverse);
    }
    fm_model_linear(compute, tokens, c->q_lora ? saved->low_normed : x, &layer->q_b, saved->queries);
    fm_model_linear(compute, tokens, x, &layer->kv_a, saved->latents);
    fm_model_norm_rows(compute, tokens, c->kv_lora, saved->latents, latent, &layer->kv_a_norm,
                       (float)c->epsilon, saved->latent_normed, c->kv_lora, saved->latent_inverse);
    fm_model_linear(compute, tokens, saved->latent_normed, &layer->kv_b, saved->keys_values);
    for (int64_t t = 0; t < tokens; t++)
        memcpy(saved->key_rope + t * c->rope, saved->latents + t * latent + c->kv_lora,
               (size_t)c->rope * sizeof *saved->key_rope);
    rotate(model, batch, 1, saved->queries, saved->key_rope);
    struct work work = {.trainer = trainer, .batch = batch, .saved = saved};
    if (trainer->mla)
        FM_TRY(fm_model_mla_forward(trainer, batch, saved));
    else
        fm_model_share(compute, (int64_t)batch->sequences * c->heads, 1, forward_part, &work);
    fm_model_linear(compute, tokens, saved->heads, &layer->o, out);
    return FM_OK;
}

// dlatents[:, kv_lora:] = the sum over heads of the rotary keys' gradients, rotated back by the caller.
static void sum_key_rope(const fm_model_config *c, const struct fm_model_batch *batch, const float *dkey_rope,
                         float *out)
{
    int64_t each = (int64_t)batch->length * c->rope;
    for (int64_t s = 0; s < batch->sequences; s++)
        for (int64_t h = 0; h < c->heads; h++)
            for (int64_t i = 0; i < each; i++)
                out[s * each + i] += dkey_rope[(s * c->heads + h) * each + i];
}

// From the gradients of queries, keys and values to that of x.
static void back_projections(struct fm_trainer *trainer, const struct fm_model_layer *layer, int64_t tokens,
                             const struct fm_model_attention_saved *saved, const struct work *work,
                             const float *dkey_rope, float *dlow_normed, float *dlow, float *dnormed,
                             float *dlatents, float *dx)
{
    const fm_model_config *c = &trainer->model.config;
    const struct fm_model_compute *compute = &trainer->model.compute;
    int64_t latent = c->kv_lora + c->rope;
    if (c->q_lora) {
        fm_model_linear_back(compute, tokens, saved->low_normed, &layer->q_b, work->dqueries, dlow_normed, 0);
        fm_model_norm_back_rows(compute, tokens, c->q_lora, saved->low, c->q_lora, &layer->q_a_norm,
                                saved->low_inverse, dlow_normed, c->q_lora, dlow, c->q_lora);
        fm_model_linear_back(compute, tokens, saved->x, &layer->q_a, dlow, dx, 0);
    } else {
        fm_model_linear_back(compute, tokens, saved->x, &layer->q_b, work->dqueries, dx, 0);
    }
    fm_model_linear_back(compute, tokens, saved->latent_normed, &layer->kv_b, work->dkeys_values, dnormed, 0);
    for (int64_t t = 0; t < tokens; t++)
        memcpy(dlatents + t * latent + c->kv_lora, dkey_rope + t * c->rope,
               (size_t)c->rope * sizeof *dlatents);
    fm_model_norm_back_rows(compute, tokens, c->kv_lora, saved->latents, latent, &layer->kv_a_norm,
                            saved->latent_inverse, dnormed, c->kv_lora, dlatents, latent);
    fm_model_linear_back(compute, tokens, saved->x, &layer->kv_a, dlatents, dx, 1);
}

fm_status fm_model_attention_back(struct fm_trainer *trainer, const struct fm_model_layer *layer,
                                  const struct fm_model_batch *batch,
                                  const struct fm_model_attention_saved *saved, const float *dy, float *dx)
{
    struct fm_model *model = &trainer->model;
    const fm_model_config *c = &model->config;
    struct fm_model_scratch *scratch = &model->scratch;
    size_t tokens = (size_t)batch->tokens, heads = (size_t)c->heads,
           low = (size_t)(c->q_lora ? c->q_lora : 1);
    struct fm_model_mark mark = fm_model_scratch_mark(scratch);
    float *dheads = fm_model_scratch_take(scratch, tokens * heads * (size_t)c->value);
    struct work work = {.trainer = trainer, .batch = batch, .saved = saved, .dheads = dheads};
    work.dqueries = fm_model_scratch_take(scratch, tokens * heads * (size_t)(c->nope + c->rope));
    work.dkeys_values = fm_model_scratch_zero(scratch, tokens * heads * (size_t)(c->nope + c->value));
    work.dkey_rope = fm_model_scratch_zero(scratch, tokens * heads * (size_t)c->rope);
    work.dscores =
        fm_model_scratch_take(scratch, (size_t)model->compute.threads * BLOCK * (size_t)batch->length);
    float *dkey_rope = fm_model_scratch_zero(scratch, tokens * (size_t)c->rope);
    float *dlow_normed = fm_model_scratch_take(scratch, tokens * low),
          *dlow = fm_model_scratch_zero(scratch, tokens * low);
    float *dnormed = fm_model_scratch_take(scratch, tokens * (size_t)c->kv_lora);
    float *dlatents = fm_model_scratch_zero(scratch, tokens * (size_t)(c->kv_lora + c->rope));
    if (!dheads || !work.dqueries || !work.dkeys_values || !work.dkey_rope || !work.dscores || !dkey_rope ||
        !dlow_normed || !dlow || !dnormed || !dlatents)
        return no_memory(batch);
    fm_model_linear_back(&model->compute, batch->tokens, saved->heads, &layer->o, dy, dheads, 0);
    if (trainer->mla) {
        FM_TRY(fm_model_mla_back(trainer, batch, saved, dheads, work.dqueries, work.dkeys_values, dkey_rope));
    } else {
        fm_model_share(&model->compute, (int64_t)batch->sequences * c->heads, 1, back_part, &work);
        sum_key_rope(c, batch, work.dkey_rope, dkey_rope);
    }
    rotate(model, batch, -1, work.dqueries, dkey_rope);
    back_projections(trainer, layer, batch->tokens, saved, &work, dkey_rope, dlow_normed, dlow, dnormed,
                     dlatents, dx);
    fm_model_scratch_release(scratch, mark);
    return FM_OK;
}
