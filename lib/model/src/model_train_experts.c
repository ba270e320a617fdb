/*
 * The networks of experts in training, for rows that lie one expert's after the other. In f32 each expert's products are
 * calls of their own. In BF16 and FP8 all experts' products with one of their matrices are one grouped call of gemm: forward
 * and for gradients of rows grouped by rows, for gradients of weights grouped by k.
 */
#include "model_low.h"
#include "model_trainer.h"

enum part { GATE, UP, DOWN };

static struct fm_model_weight *weight_of(struct fm_model_mlp *expert, enum part part)
{
    return part == GATE ? &expert->gate : part == UP ? &expert->up : &expert->down;
}

static fm_status no_memory(int64_t rows)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory for the experts' %lld rows", (long long)rows);
}

static int64_t rows_of(const struct fm_model_groups *groups)
{
    return groups->offsets[groups->count];
}

static fm_gemm_operand plain(const float *x, int64_t columns)
{
    return (fm_gemm_operand){.dtype = FM_DTYPE_F32, .data = x, .stride = columns};
}

static void count_products(struct fm_model_low *low, fm_dtype dtype, const struct fm_model_groups *groups)
{
    for (int g = 0; g < groups->count; g++)
        low->products[dtype] += groups->offsets[g + 1] > groups->offsets[g];
}

// out = (or +=) each group's rows of a times its expert's matrix, or, `transposed`, the matrix seen the other way.
static fm_status multiply(struct fm_model_low *low, const struct fm_model_groups *groups, enum part part,
                          int transposed, const fm_gemm_operand *a, float *out, int accumulate)
{
    fm_gemm_weights *b = fm_model_scratch_bytes(&low->scratch, (size_t)groups->count * sizeof *b);
    if (!b)
        return no_memory(rows_of(groups));
    for (int g = 0; g < groups->count; g++)
        FM_TRY(fm_model_low_weights(low, a->dtype, weight_of(groups->experts[g], part), transposed, &b[g]));
    fm_gemm_result d = {.dtype = FM_DTYPE_F32,
                        .data = out,
                        .stride = b[0].n,
                        .c = accumulate ? out : NULL,
                        .c_stride = b[0].n};
    FM_TRY(fm_gemm_grouped(low->gemm, groups->count, groups->offsets, rows_of(groups), a, b, &d));
    count_products(low, a->dtype, groups);
    return FM_OK;
}

// Rows that are to outlive what they lie in.
static fm_status copy_bf16(struct fm_model_scratch *scratch, int64_t rows, int64_t columns,
                           const fm_gemm_operand *from, fm_gemm_operand *out)
{
    void *codes = fm_model_scratch_take(scratch, ((size_t)(rows * columns) + 1) / 2);
    if (!codes)
        return no_memory(rows);
    memcpy(codes, from->data, (size_t)(rows * columns) * sizeof(fm_bf16));
    out->data = codes;
    return FM_OK;
}

// Rows as gradients of weights take them: BF16 seen by columns, E4M3 requantised with a scale for 128 rows of a channel.
static fm_status turn(struct fm_model_low *low, struct fm_model_scratch *scratch, fm_dtype dtype,
                      const struct fm_model_groups *groups, int64_t columns, const fm_gemm_operand *rows,
                      fm_gemm_operand *out)
{
    int64_t count = rows_of(groups), scales = 0;
    if (dtype == FM_DTYPE_BF16) {
        *out = *rows;
        if (rows->dtype == FM_DTYPE_F32)
            FM_TRY(fm_model_low_round(low, scratch, dtype, count, columns, rows->data, 0, out));
        else if (scratch != &low->scratch)
            FM_TRY(copy_bf16(scratch, count, columns, rows, out));
        out->transposed = 1;
        return FM_OK;
    }
    for (int g = 0; g < groups->count; g++)
        scales +=
            (groups->offsets[g + 1] - groups->offsets[g] + FM_GEMM_SCALE_BLOCK - 1) / FM_GEMM_SCALE_BLOCK;
    fm_gemm_quantised to = {.dtype = FM_DTYPE_F8_E4M3,
                            .data = fm_model_scratch_take(scratch, ((size_t)(count * columns) + 3) / 4),
                            .stride = count,
                            .scales = fm_model_scratch_take(scratch, (size_t)(columns * scales)),
                            .scale_stride = scales,
                            .scale_rows = 1};
    if (!to.data || !to.scales)
        return no_memory(count);
    FM_TRY(fm_gemm_quantise_transposed(low->gemm, groups->count, groups->offsets, columns, rows, &to));
    *out = fm_gemm_quantised_operand(&to);
    return FM_OK;
}

// Gradients of all experts' matrices. They lie as far from each other as the matrices do: experts are placed one after
// the other, whole.
static fm_status multiply_weights(struct fm_model_low *low, const struct fm_model_groups *groups,
                                  enum part part, const fm_gemm_operand *dy, const fm_gemm_operand *x)
{
    const struct fm_model_weight *first = weight_of(groups->experts[0], part);
    int64_t n = first->rows, k = first->columns, stride = n * k;
    if (groups->count > 1)
        stride = weight_of(groups->experts[1], part)->gradient - first->gradient;
    fm_gemm_result d = {
        .dtype = FM_DTYPE_F32, .data = first->gradient, .stride = k, .c = first->gradient, .c_stride = k};
    FM_TRY(fm_gemm_grouped_k(low->gemm, groups->count, groups->offsets, n, k, dy, x, &d, stride));
    count_products(low, dy->dtype, groups);
    return FM_OK;
}

fm_status fm_model_grouped_weights(const struct fm_model_compute *compute,
                                   const struct fm_model_grouped_gradient *g)
{
    struct fm_model_low *low = compute->low;
    const struct fm_model_weight *gate = &g->groups->experts[0]->gate;
    fm_dtype dtype = g->in.dtype;
    fm_gemm_operand product = plain(g->product, gate->rows), in, h;
    struct fm_model_mark mark = fm_model_scratch_mark(&low->scratch);
    fm_status status = turn(low, &low->scratch, dtype, g->groups, gate->columns, &g->in, &in);
    if (status == FM_OK)
        status = turn(low, &low->scratch, dtype, g->groups, gate->rows, &product, &h);
    if (status == FM_OK)
        status = multiply_weights(low, g->groups, DOWN, &g->d_out, &h);
    if (status == FM_OK)
        status = multiply_weights(low, g->groups, GATE, &g->dgate, &in);
    if (status == FM_OK)
        status = multiply_weights(low, g->groups, UP, &g->dup, &in);
    fm_model_scratch_release(&low->scratch, mark);
    return status;
}

static fm_status run_low(const struct fm_model_compute *compute, struct fm_model_moe_saved *saved)
{
    struct fm_model_low *low = compute->low;
    const struct fm_model_groups *groups = &saved->groups;
    struct fm_model_mlp_saved *mlp = &saved->experts;
    int64_t rows = rows_of(groups), width = groups->experts[0]->gate.rows;
    fm_gemm_operand in = fm_gemm_quantised_operand(&saved->in), product;
    FM_TRY(multiply(low, groups, GATE, 0, &in, mlp->gate, 0));
    FM_TRY(multiply(low, groups, UP, 0, &in, mlp->up, 0));
    fm_model_swiglu_rows(compute, rows * width, mlp->gate, mlp->up, mlp->product);
    FM_TRY(fm_model_low_round(low, &low->scratch, saved->in.dtype, rows, width, mlp->product, 0, &product));
    return multiply(low, groups, DOWN, 0, &product, saved->out, 0);
}

// One expert's part of the rows, in f32.
static struct fm_model_mlp_saved part_of(const struct fm_model_moe_saved *saved, int group)
{
    const struct fm_model_mlp *expert = saved->groups.experts[group];
    int64_t begin = saved->groups.offsets[group], hidden = expert->gate.columns, width = expert->gate.rows;
    return (struct fm_model_mlp_saved){.x = (const float *)saved->in.data + begin * hidden,
                                       .gate = saved->experts.gate + begin * width,
                                       .up = saved->experts.up + begin * width,
                                       .product = saved->experts.product + begin * width};
}

fm_status fm_model_grouped_run(struct fm_trainer *trainer, struct fm_model_moe_saved *saved)
{
    const struct fm_model_compute *compute = &trainer->model.compute;
    const struct fm_model_groups *groups = &saved->groups;
    int64_t hidden = trainer->model.config.hidden;
    if (rows_of(groups) == 0)
        return FM_OK;
    if (saved->in.dtype == FM_DTYPE_F32) {
        for (int g = 0; g < groups->count; g++) {
            struct fm_model_mlp_saved part = part_of(saved, g);
            fm_model_mlp_run(compute, groups->experts[g], groups->offsets[g + 1] - groups->offsets[g],
                             saved->out + groups->offsets[g] * hidden, &part);
        }
        return FM_OK;
    }
    struct fm_model_mark mark = fm_model_scratch_mark(&compute->low->scratch);
    fm_status status = run_low(compute, saved);
    fm_model_scratch_release(&compute->low->scratch, mark);
    return status;
}

// What gradients of weights need is left in `keep`: the queue's memory, or this call's own.
static fm_status back_low(const struct fm_model_compute *compute, struct fm_model_scratch *keep,
                          const struct fm_model_moe_saved *saved, const struct fm_model_mlp_saved *d,
                          float *din, struct fm_model_grouped_gradient *out)
{
    struct fm_model_low *low = compute->low;
    const struct fm_model_groups *groups = &saved->groups;
    const struct fm_model_mlp_saved *mlp = &saved->experts;
    fm_dtype dtype = saved->in.dtype;
    int64_t rows = rows_of(groups), width = groups->experts[0]->gate.rows,
            hidden = groups->experts[0]->gate.columns;
    fm_gemm_operand d_out = fm_gemm_quantised_operand(&saved->drows);
    fm_gemm_operand dgate = plain(d->gate, width), dup = plain(d->up, width), gate_rows, up_rows;
    int is_bf16 = dtype == FM_DTYPE_BF16; // whose columns are its rows seen otherwise
    *out = (struct fm_model_grouped_gradient){
        .groups = groups, .in = fm_gemm_quantised_operand(&saved->in), .product = mlp->product};
    FM_TRY(multiply(low, groups, DOWN, 1, &d_out, d->product, 0));
    fm_model_swiglu_back_rows(compute, rows * width, mlp->gate, mlp->up, d->product, d->gate, d->up);
    FM_TRY(fm_model_low_round(low, &low->scratch, dtype, rows, width, d->gate, 0, &gate_rows));
    FM_TRY(fm_model_low_round(low, &low->scratch, dtype, rows, width, d->up, 0, &up_rows));
    FM_TRY(multiply(low, groups, GATE, 1, &gate_rows, din, 0));
    FM_TRY(multiply(low, groups, UP, 1, &up_rows, din, 1));
    FM_TRY(turn(low, keep, dtype, groups, hidden, &d_out, &out->d_out));
    FM_TRY(turn(low, keep, dtype, groups, width, is_bf16 ? &gate_rows : &dgate, &out->dgate));
    return turn(low, keep, dtype, groups, width, is_bf16 ? &up_rows : &dup, &out->dup);
}

static fm_status back_f32(struct fm_trainer *trainer, const struct fm_model_moe_saved *saved, float *din)
{
    const struct fm_model_groups *groups = &saved->groups;
    int64_t hidden = trainer->model.config.hidden;
    for (int g = 0; g < groups->count; g++) {
        int64_t begin = groups->offsets[g], count = groups->offsets[g + 1] - begin;
        struct fm_model_mlp_saved part = part_of(saved, g);
        if (count > 0)
            FM_TRY(fm_model_mlp_back(trainer, groups->experts[g], count, &part,
                                     (const float *)saved->drows.data + begin * hidden, din + begin * hidden,
                                     0));
    }
    return FM_OK;
}

fm_status fm_model_grouped_back(struct fm_trainer *trainer, const struct fm_model_moe_saved *saved,
                                float *din)
{
    const struct fm_model_compute *compute = &trainer->model.compute;
    struct fm_model_scratch *scratch = &trainer->model.scratch;
    int64_t rows = rows_of(&saved->groups);
    struct fm_model_mlp_saved d;
    struct fm_model_grouped_gradient gradient;
    if (rows == 0)
        return FM_OK;
    if (saved->in.dtype == FM_DTYPE_F32)
        return back_f32(trainer, saved, din);
    struct fm_model_scratch *low_scratch = &compute->low->scratch,
                            *keep = compute->queue ? &compute->queue->scratch : low_scratch;
    struct fm_model_mark mark = fm_model_scratch_mark(scratch), low_mark = fm_model_scratch_mark(low_scratch);
    fm_status status = fm_model_mlp_take(scratch, rows, saved->groups.experts[0]->gate.rows, &d)
                           ? back_low(compute, keep, saved, &d, din, &gradient)
                           : no_memory(rows);
    if (status == FM_OK && compute->queue)
        fm_model_queue_add_experts(compute->queue, &gradient);
    else if (status == FM_OK)
        status = fm_model_grouped_weights(compute, &gradient);
    fm_model_scratch_release(low_scratch, low_mark);
    fm_model_scratch_release(scratch, mark);
    return status;
}
