/*
 * Attention in training by mla, where products are BF16 or FP8: prefill over the sequences of a micro-batch, one after the
 * other, and its backward. Queries, keys and values are BF16, each key with its head's part and the rotary part that all
 * heads share; rows are filled up with zeros to what mla takes, which changes no logit. Sums, and all gradients that come
 * out, are f32.
 */
#include "fathom/numfmt.h"
#include "model_trainer.h"

enum { MULTIPLE = 16 }; // of the widths of mla's rows

static int64_t wide(int64_t width)
{
    return (width + MULTIPLE - 1) / MULTIPLE * MULTIPLE;
}

static int64_t key_width(const fm_model_config *c)
{
    return wide((int64_t)c->nope + c->rope);
}

static fm_status no_memory(const struct fm_model_batch *batch)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory for the attention of %d sequences of %d tokens",
                             batch->sequences, batch->length);
}

fm_status fm_model_mla_open(struct fm_trainer *trainer, int threads)
{
    const fm_mla_options options = {.size = sizeof options, .threads = threads};
    return trainer->training.dtype == FM_DTYPE_F32 ? FM_OK : fm_mla_context_open(&options, &trainer->mla);
}

static fm_bf16 *take_bf16(struct fm_model_scratch *scratch, int64_t count)
{
    return (fm_bf16 *)fm_model_scratch_zero(scratch, (size_t)(count + 1) / 2);
}

int fm_model_mla_take(struct fm_trainer *trainer, const struct fm_model_batch *batch,
                      struct fm_model_mla_saved *saved)
{
    const fm_model_config *c = &trainer->model.config;
    struct fm_model_scratch *scratch = &trainer->model.scratch;
    int64_t rows = batch->tokens * c->heads;
    saved->q = take_bf16(scratch, rows * key_width(c));
    saved->k = take_bf16(scratch, rows * key_width(c));
    saved->v = take_bf16(scratch, rows * wide(c->value));
    saved->out = fm_model_scratch_take(scratch, (size_t)(rows * wide(c->value)));
    saved->lse = fm_model_scratch_take(scratch, (size_t)rows);
    saved->starts = fm_model_scratch_bytes(scratch, ((size_t)batch->sequences + 1) * sizeof *saved->starts);
    return saved->q && saved->k && saved->v && saved->out && saved->lse && saved->starts;
}

/** The tensors of a call. */
struct call {
    fm_tensor q, k, v, out, lse;
    fm_mla_prefill_args args;
};

static fm_status tensor_of(fm_dtype dtype, int64_t tokens, int64_t heads, int64_t width, void *data,
                           fm_tensor *out)
{
    const int64_t shape[3] = {tokens, heads, width};
    return fm_base_tensor_init(out, dtype, width ? 3 : 2, shape, data);
}

static fm_status make_call(const struct fm_trainer *trainer, const struct fm_model_batch *batch,
                           const struct fm_model_mla_saved *saved, struct call *call)
{
    const fm_model_config *c = &trainer->model.config;
    FM_TRY(tensor_of(FM_DTYPE_BF16, batch->tokens, c->heads, key_width(c), saved->q, &call->q));
    FM_TRY(tensor_of(FM_DTYPE_BF16, batch->tokens, c->heads, key_width(c), saved->k, &call->k));
    FM_TRY(tensor_of(FM_DTYPE_BF16, batch->tokens, c->heads, wide(c->value), saved->v, &call->v));
    FM_TRY(tensor_of(FM_DTYPE_F32, batch->tokens, c->heads, wide(c->value), saved->out, &call->out));
    FM_TRY(tensor_of(FM_DTYPE_F32, batch->tokens, c->heads, 0, saved->lse, &call->lse));
    call->args = (fm_mla_prefill_args){.q = &call->q,
                                       .k = &call->k,
                                       .v = &call->v,
                                       .batch = batch->sequences,
                                       .cu_seqlens_q = saved->starts,
                                       .cu_seqlens_k = saved->starts,
                                       .causal = 1,
                                       .softmax_scale = trainer->model.rotary.softmax_scale,
                                       .out = &call->out,
                                       .lse = &call->lse};
    return FM_OK;
}

struct pack {
    const fm_model_config *config;
    const struct fm_model_attention_saved *saved;
};

// Queries, keys and values of tokens, rounded.
static void pack_part(void *context, int64_t begin, int64_t end, int thread)
{
    const struct pack *pack = context;
    const fm_model_config *c = pack->config;
    const struct fm_model_attention_saved *from = pack->saved;
    int64_t queries = (int64_t)c->nope + c->rope, keys_values = (int64_t)c->nope + c->value;
    (void)thread;
    for (int64_t row = begin * c->heads; row < end * c->heads; row++) {
        const float *keys = from->keys_values + row * keys_values;
        fm_bf16 *key = from->mla.k + row * key_width(c);
        fm_base_f32_to_bf16(from->queries + row * queries, (size_t)queries, from->mla.q + row * key_width(c));
        fm_base_f32_to_bf16(keys, (size_t)c->nope, key);
        fm_base_f32_to_bf16(from->key_rope + row / c->heads * c->rope, (size_t)c->rope, key + c->nope);
        fm_base_f32_to_bf16(keys + c->nope, (size_t)c->value, from->mla.v + row * wide(c->value));
    }
}

enum { TOKEN_GRAIN = 32 };

fm_status fm_model_mla_forward(struct fm_trainer *trainer, const struct fm_model_batch *batch,
                               struct fm_model_attention_saved *saved)
{
    const fm_model_config *c = &trainer->model.config;
    struct pack pack = {c, saved};
    struct call call;
    for (int s = 0; s <= batch->sequences; s++)
        saved->mla.starts[s] = s * batch->length;
    fm_model_share(&trainer->model.compute, batch->tokens, TOKEN_GRAIN, pack_part, &pack);
    FM_TRY(make_call(trainer, batch, &saved->mla, &call));
    FM_TRY(fm_mla_prefill_forward(trainer->mla, &call.args));
    for (int64_t row = 0; row < batch->tokens * c->heads; row++)
        memcpy(saved->heads + row * c->value, saved->mla.out + row * wide(c->value),
               (size_t)c->value * sizeof *saved->heads);
    return FM_OK;
}

/** Gradients as mla gives them. */
struct gradients {
    fm_bf16 *d_out;
    float *dq, *dk, *dv;
};

// dkey_rope is the sum over heads, in their order.
static void unpack(const fm_model_config *c, int64_t tokens, const struct gradients *from, float *dqueries,
                   float *dkeys_values, float *dkey_rope)
{
    int64_t queries = (int64_t)c->nope + c->rope, keys_values = (int64_t)c->nope + c->value;
    for (int64_t row = 0; row < tokens * c->heads; row++) {
        const float *dk = from->dk + row * key_width(c);
        float *dkeys = dkeys_values + row * keys_values, *rope = dkey_rope + row / c->heads * c->rope;
        memcpy(dqueries + row * queries, from->dq + row * key_width(c), (size_t)queries * sizeof *dqueries);
        memcpy(dkeys, dk, (size_t)c->nope * sizeof *dkeys);
        memcpy(dkeys + c->nope, from->dv + row * wide(c->value), (size_t)c->value * sizeof *dkeys);
        for (int i = 0; i < c->rope; i++)
            rope[i] += dk[c->nope + i];
    }
}

fm_status fm_model_mla_back(struct fm_trainer *trainer, const struct fm_model_batch *batch,
                            const struct fm_model_attention_saved *saved, const float *dheads,
                            float *dqueries, float *dkeys_values, float *dkey_rope)
{
    const fm_model_config *c = &trainer->model.config;
    struct fm_model_scratch *scratch = &trainer->model.scratch;
    int64_t rows = batch->tokens * c->heads;
    struct fm_model_mark mark = fm_model_scratch_mark(scratch);
    struct gradients g = {.d_out = take_bf16(scratch, rows * wide(c->value)),
                          .dq = fm_model_scratch_take(scratch, (size_t)(rows * key_width(c))),
                          .dk = fm_model_scratch_take(scratch, (size_t)(rows * key_width(c))),
                          .dv = fm_model_scratch_take(scratch, (size_t)(rows * wide(c->value)))};
    struct call call;
    fm_tensor d_out, dq, dk, dv;
    if (!g.d_out || !g.dq || !g.dk || !g.dv)
        return no_memory(batch);
    for (int64_t row = 0; row < rows; row++)
        fm_base_f32_to_bf16(dheads + row * c->value, (size_t)c->value, g.d_out + row * wide(c->value));
    FM_TRY(make_call(trainer, batch, &saved->mla, &call));
    FM_TRY(tensor_of(FM_DTYPE_BF16, batch->tokens, c->heads, wide(c->value), g.d_out, &d_out));
    FM_TRY(tensor_of(FM_DTYPE_F32, batch->tokens, c->heads, key_width(c), g.dq, &dq));
    FM_TRY(tensor_of(FM_DTYPE_F32, batch->tokens, c->heads, key_width(c), g.dk, &dk));
    FM_TRY(tensor_of(FM_DTYPE_F32, batch->tokens, c->heads, wide(c->value), g.dv, &dv));
    FM_TRY(fm_mla_prefill_backward(trainer->mla, &call.args, &d_out, &dq, &dk, &dv));
    unpack(c, batch->tokens, &g, dqueries, dkeys_values, dkey_rope);
    fm_model_scratch_release(scratch, mark);
    return FM_OK;
}
