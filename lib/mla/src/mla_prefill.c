#include "mla_prefill.h"

#include "mla_exp.h"

#include "fathom/mem.h"
#include "fathom/span.h"

static fm_status check_lengths(const char *name, const int32_t *cu_seqlens, int batch, int64_t total)
{
    if (!cu_seqlens)
        return fm_base_error_set(FM_ERR_ARG, "%s is null; expected %d offsets", name, batch + 1);
    for (int i = 0; i < batch; i++)
        if (cu_seqlens[i + 1] < cu_seqlens[i])
            return fm_base_error_set(FM_ERR_ARG, "%s[%d] is %d, after %d; expected offsets that never fall",
                                     name, i + 1, cu_seqlens[i + 1], cu_seqlens[i]);
    if (cu_seqlens[0] != 0 || cu_seqlens[batch] != total)
        return fm_base_error_set(FM_ERR_ARG, "%s goes from %d to %d; expected 0 to %lld, the rows there are",
                                 name, cu_seqlens[0], cu_seqlens[batch], (long long)total);
    return FM_OK;
}

static fm_status check_inputs(const fm_mla_prefill_args *args, struct fm_mla_prefill *prefill)
{
    const fm_tensor *q = args->q, *k = args->k, *v = args->v;
    if (!q || !k || !v)
        return fm_base_error_set(FM_ERR_ARG, "%s is null; expected a tensor", !q ? "q" : (!k ? "k" : "v"));
    if (q->ndim != 3 || k->ndim != 3 || v->ndim != 3)
        return fm_base_error_set(FM_ERR_ARG, "q, k and v have %d, %d and %d dimensions; expected 3", q->ndim,
                                 k->ndim, v->ndim);
    for (int i = 1; i < 3; i++) {
        FM_TRY(fm_mla_args_extent(i == 1 ? "h_q" : "d_qk", q->shape[i], 1, FM_MLA_HEADS_MAX));
        FM_TRY(fm_mla_args_extent(i == 1 ? "h_kv" : "d_v", v->shape[i], 1, FM_MLA_HEADS_MAX));
    }
    prefill->h_q = (int)q->shape[1];
    prefill->d_qk = (int)q->shape[2];
    prefill->h_kv = (int)v->shape[1];
    prefill->d_v = (int)v->shape[2];
    FM_TRY(fm_mla_args_heads(prefill->h_q, prefill->h_kv));
    FM_TRY(fm_mla_args_dim("d_qk", prefill->d_qk));
    FM_TRY(fm_mla_args_dim("d_v", prefill->d_v));
    FM_TRY(fm_mla_args_extent("the rows of q", q->shape[0], 0, INT32_MAX));
    FM_TRY(fm_mla_args_extent("the rows of k", k->shape[0], 0, INT32_MAX));
    FM_TRY(fm_mla_args_tensor("q", q, FM_MLA_FLOATS, 3, q->shape, 1));
    uint32_t same = FM_MLA_DTYPE_BIT(q->dtype);
    FM_TRY(fm_mla_args_tensor("k", k, same, 3, (int64_t[]){k->shape[0], prefill->h_kv, prefill->d_qk}, 1));
    FM_TRY(fm_mla_args_tensor("v", v, same, 3, (int64_t[]){k->shape[0], prefill->h_kv, prefill->d_v}, 1));
    FM_TRY(fm_mla_args_extent("batch", args->batch, 0, INT32_MAX - 1));
    FM_TRY(check_lengths("cu_seqlens_q", args->cu_seqlens_q, args->batch, q->shape[0]));
    return check_lengths("cu_seqlens_k", args->cu_seqlens_k, args->batch, k->shape[0]);
}

fm_status fm_mla_prefill_check(fm_mla_context *context, const fm_mla_prefill_args *args, int given,
                               struct fm_mla_prefill *out_prefill)
{
    if (!context || !args)
        return fm_base_error_set(FM_ERR_ARG, "%s is null; expected an address",
                                 !context ? "context" : "args");
    struct fm_mla_prefill prefill = {.context = context, .args = args};
    FM_TRY(check_inputs(args, &prefill));
    FM_TRY(fm_mla_args_scale(args->softmax_scale, prefill.d_qk, &prefill.scale));
    prefill.factor = prefill.scale * FM_MLA_LOG2E;
    prefill.round = fm_mla_round_of(args->q->dtype);
    int64_t rows = args->q->shape[0];
    uint32_t outputs = FM_MLA_DTYPE_BIT(args->q->dtype) | FM_MLA_DTYPE_BIT(FM_DTYPE_F32);
    FM_TRY(fm_mla_args_tensor("out", args->out, outputs, 3, (int64_t[]){rows, prefill.h_q, prefill.d_v}, 1));
    if (args->lse || given)
        FM_TRY(fm_mla_args_tensor("lse", args->lse, FM_MLA_DTYPE_BIT(FM_DTYPE_F32), 2,
                                  (int64_t[]){rows, prefill.h_q}, 0));
    const fm_tensor *inputs[] = {args->q, args->k, args->v};
    const char *names[] = {"q", "k", "v"};
    for (int i = 0; !given && i < 3; i++) {
        FM_TRY(fm_mla_args_apart("out", args->out, names[i], inputs[i]));
        FM_TRY(fm_mla_args_apart("lse", args->lse, names[i], inputs[i]));
    }
    if (!given)
        FM_TRY(fm_mla_args_apart("lse", args->lse, "out", args->out));
    *out_prefill = prefill;
    return FM_OK;
}

int64_t fm_mla_prefill_limit(const struct fm_mla_prefill *prefill, int sequence, int64_t query)
{
    const fm_mla_prefill_args *args = prefill->args;
    int64_t keys = fm_mla_prefill_length(args->cu_seqlens_k, sequence);
    if (!args->causal)
        return keys;
    int64_t limit = keys - fm_mla_prefill_length(args->cu_seqlens_q, sequence) + query + 1;
    return limit < 0 ? 0 : limit;
}

void fm_mla_prefill_widen(const struct fm_mla_kernels *kernels, const fm_tensor *tensor, int64_t first,
                          int head, int rows, int columns, float *out)
{
    size_t line = fm_mla_line((size_t)columns);
    for (int r = 0; r < rows; r++)
        fm_mla_row_read(kernels, tensor, fm_mla_prefill_row(tensor, first + r, head), (size_t)columns,
                        out + (size_t)r * line);
}

// Queries of one head that are computed together.
struct task {
    const struct fm_mla_prefill *prefill;
    int sequence, head;
    int64_t first; // query of the sequence
    int rows;
};

struct source {
    struct fm_mla_source source;
    const struct task *task;
    int64_t end;
};

static int next(struct fm_mla_source *base, const struct fm_mla_kernels *kernels, struct fm_mla_space *space)
{
    const struct source *from = (const struct source *)base;
    const struct fm_mla_prefill *prefill = from->task->prefill;
    const fm_mla_prefill_args *args = prefill->args;
    int keys = (int)fm_mla_min(from->end - base->at, FM_MLA_CHUNK);
    int head = from->task->head / (prefill->h_q / prefill->h_kv);
    int64_t first = args->cu_seqlens_k[from->task->sequence] + base->at;
    fm_mla_prefill_widen(kernels, args->k, first, head, keys, prefill->d_qk, space->k);
    fm_mla_prefill_widen(kernels, args->v, first, head, keys, prefill->d_v, space->v);
    base->at += keys;
    space->ahead.count = 0; // the hardware sees tensors coming
    return keys;
}

static int next_bf16(struct fm_mla_source *base, const struct fm_mla_kernels *kernels,
                     struct fm_mla_space *space, int most, int ahead)
{
    const struct source *from = (const struct source *)base;
    const struct fm_mla_prefill *prefill = from->task->prefill;
    const fm_tensor *k = prefill->args->k, *v = prefill->args->v;
    int keys = (int)fm_mla_min(from->end - base->at, most);
    int head = from->task->head / (prefill->h_q / prefill->h_kv);
    int64_t first = prefill->args->cu_seqlens_k[from->task->sequence] + base->at;
    for (int t = 0; t < keys; t++) {
        space->places.keys[t] =
            (const uint8_t *)((const fm_bf16 *)k->data + fm_mla_prefill_row(k, first + t, head));
        space->places.values[t] =
            (const uint8_t *)((const fm_bf16 *)v->data + fm_mla_prefill_row(v, first + t, head));
    }
    base->at += keys;
    space->ahead.count = 0;
    (void)kernels;
    (void)ahead;
    return keys;
}

static int64_t q_at(const void *arg, int row)
{
    const struct task *task = arg;
    const fm_mla_prefill_args *args = task->prefill->args;
    return fm_mla_prefill_row(args->q, args->cu_seqlens_q[task->sequence] + task->first + row, task->head);
}

static void run_task(const struct task *task, struct fm_mla_space *space)
{
    const struct fm_mla_prefill *prefill = task->prefill;
    const fm_mla_prefill_args *args = prefill->args;
    const struct fm_mla_kernels *kernels = &prefill->context->kernels;
    struct fm_mla_block block = {.rows = task->rows,
                                 .d_qk = prefill->d_qk,
                                 .d_v = prefill->d_v,
                                 .apart = 1,
                                 .limited = args->causal,
                                 .factor = prefill->factor,
                                 .round = prefill->round};
    for (int r = 0; r < task->rows; r++)
        space->limit[r] = (int32_t)fm_mla_prefill_limit(prefill, task->sequence, task->first + r);
    struct source source = {
        {next, next_bf16, 0}, task, space->limit[task->rows - 1]}; // the last query sees most
    fm_mla_block_pack(&block, kernels, args->q, q_at, task, space);
    fm_mla_block_attend(&block, kernels, &source.source, space);
    size_t d_v = (size_t)prefill->d_v;
    for (int r = 0; r < task->rows; r++) {
        float *o = space->o + (size_t)r * fm_mla_line(d_v);
        float lse = fm_mla_block_finish(kernels, space->max[r], space->sum[r], NULL, d_v, o);
        int64_t row = args->cu_seqlens_q[task->sequence] + task->first + r;
        fm_mla_row_write(args->out, fm_mla_prefill_row(args->out, row, task->head), d_v, o);
        if (args->lse)
            ((float *)args->lse->data)[fm_mla_prefill_row(args->lse, row, task->head)] = lse;
    }
}

struct forward {
    struct fm_mla_prefill prefill;
    int at_once;            // queries of a task
    int64_t *blocks_before; // of the sequences before each
};

static void run(void *arg, int64_t number, struct fm_mla_space *space)
{
    const struct forward *forward = arg;
    const fm_mla_prefill_args *args = forward->prefill.args;
    int64_t all = forward->blocks_before[args->batch];
    int64_t block = number % all;
    int low = 0,
        high = args->batch; // the last sequence with blocks_before <= block; empty ones come before it
    while (high - low > 1) {
        int middle = low + (high - low) / 2;
        if (forward->blocks_before[middle] <= block)
            low = middle;
        else
            high = middle;
    }
    // The last queries first: with `causal` they take longest, and short tasks at the end even out the threads.
    int64_t length = fm_mla_prefill_length(args->cu_seqlens_q, low);
    int64_t first = (forward->blocks_before[low + 1] - 1 - block) * forward->at_once;
    run_task(&(struct task){&forward->prefill, low, (int)(number / all), first,
                            (int)fm_mla_min(length - first, forward->at_once)},
             space);
}

fm_status fm_mla_prefill_forward(fm_mla_context *context, const fm_mla_prefill_args *args)
{
    FM_SPAN_ARGS(span, "prefill forward", "mla", "queries", "keys");
    struct forward forward;
    FM_TRY(fm_mla_prefill_check(context, args, 0, &forward.prefill));
    forward.at_once = fm_mla_block_rows(&context->kernels, forward.prefill.d_qk, forward.prefill.d_v);
    forward.blocks_before = fm_base_mem_zalloc((size_t)args->batch + 1, sizeof *forward.blocks_before);
    if (!forward.blocks_before)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a list of %d sequences", args->batch);
    for (int i = 0; i < args->batch; i++)
        forward.blocks_before[i + 1] =
            forward.blocks_before[i] +
            fm_mla_ceil_div(fm_mla_prefill_length(args->cu_seqlens_q, i), forward.at_once);
    span.args[0] = args->q->shape[0];
    span.args[1] = args->k->shape[0];
    fm_mla_team_run(context, 1,
                    &(struct fm_mla_stage){forward.blocks_before[args->batch] * forward.prefill.h_q, run},
                    &forward);
    fm_base_mem_free(forward.blocks_before);
    return FM_OK;
}
