#include "fathom/gemm_mlp.h"

#include "gemm_flush.h"
#include "gemm_private.h"

#include "fathom/gemm_quant.h"

#include <string.h>

// Where the parts of a workspace lie, in bytes from its beginning.
struct layout {
    int64_t d, h, rows_max;
    int is_bf16;
    // Of int64_t: experts + 1; of each row its token; of each (token, j) its row.
    size_t offsets, tokens, positions;
    size_t x, x_scales, g, h_codes, h_scales, y;
    size_t bytes;
};

static fm_status check_weights(const fm_gemm_mlp *mlp)
{
    if (!mlp || !mlp->gate_up || !mlp->down)
        return fm_base_error_set(FM_ERR_ARG, "mlp, its gate_up or its down is null; expected experts");
    if (mlp->experts < 1)
        return fm_base_error_set(FM_ERR_ARG, "experts is %d; expected at least 1", mlp->experts);
    int64_t d = mlp->gate_up->k, h = mlp->down->k, wide = 2 * h;
    int is_bf16 = mlp->down->operand.dtype == FM_DTYPE_BF16;
    if (!(mlp->limit >= 0))
        return fm_base_error_set(FM_ERR_ARG, "limit is %g; expected at least 0", (double)mlp->limit);
    for (int e = 0; e < mlp->experts; e++) {
        const fm_gemm_weights *up = &mlp->gate_up[e], *down = &mlp->down[e];
        if (up->n != wide || up->k != d || down->n != d || down->k != h)
            return fm_base_error_set(
                FM_ERR_ARG,
                "expert %d has gate_up [%lld, %lld] and down [%lld, %lld]; expected [%lld, %lld] "
                "and [%lld, %lld]",
                e, (long long)up->n, (long long)up->k, (long long)down->n, (long long)down->k,
                (long long)wide, (long long)d, (long long)d, (long long)h);
        if ((up->operand.dtype == FM_DTYPE_BF16) != is_bf16 ||
            (down->operand.dtype == FM_DTYPE_BF16) != is_bf16)
            return fm_base_error_set(
                FM_ERR_UNSUPPORTED, "expert %d has %s and %s; expected BF16 in all or in none", e,
                fm_base_dtype_name(up->operand.dtype), fm_base_dtype_name(down->operand.dtype));
    }
    return FM_OK;
}

static size_t reserve(struct layout *layout, int64_t count, size_t size)
{
    size_t at = layout->bytes;
    layout->bytes = fm_round_up(at + (size_t)count * size, FM_GEMM_BLOB_ALIGN);
    return at;
}

static fm_status lay_out(const fm_gemm_mlp *mlp, int64_t tokens, int topk, struct layout *out_layout)
{
    FM_TRY(check_weights(mlp));
    FM_TRY(fm_gemm_args_extent("tokens", tokens));
    if (topk < 1)
        return fm_base_error_set(FM_ERR_ARG, "topk is %d; expected at least 1", topk);
    struct layout layout = {.d = mlp->gate_up->k, .h = mlp->down->k, .rows_max = tokens * topk};
    FM_TRY(fm_gemm_args_extent("tokens * topk", layout.rows_max));
    // Rows and columns are at most 2^30, so that no product of two comes near 2^64.
    if (layout.d && layout.rows_max > PTRDIFF_MAX / 64 / layout.d)
        return fm_base_error_set(FM_ERR_LIMIT, "the workspace of %lld rows is larger than memory",
                                 (long long)layout.rows_max);
    int64_t rows = layout.rows_max;
    size_t code = mlp->down->operand.dtype == FM_DTYPE_BF16 ? 2 : 1;
    layout.is_bf16 = code == 2;
    layout.offsets = reserve(&layout, mlp->experts + (int64_t)1, sizeof(int64_t));
    layout.tokens = reserve(&layout, rows, sizeof(int64_t));
    layout.positions = reserve(&layout, rows, sizeof(int64_t));
    layout.x = reserve(&layout, tokens * layout.d, code);
    layout.x_scales =
        reserve(&layout, tokens * fm_gemm_ceil_div(layout.d, FM_GEMM_SCALE_BLOCK), sizeof(float));
    layout.g = reserve(&layout, rows * 2 * layout.h, sizeof(fm_bf16));
    layout.h_codes = reserve(&layout, rows * layout.h, code);
    layout.h_scales = reserve(&layout, rows * fm_gemm_ceil_div(layout.h, FM_GEMM_SCALE_BLOCK), sizeof(float));
    layout.y = reserve(&layout, rows * layout.d, sizeof(fm_bf16));
    *out_layout = layout;
    return FM_OK;
}

fm_status fm_gemm_mlp_workspace(const fm_gemm_mlp *mlp, int64_t tokens, int topk, size_t *out_bytes)
{
    struct layout layout;
    if (!out_bytes)
        return fm_base_error_set(FM_ERR_ARG, "out_bytes is null; expected where to put the size");
    FM_TRY(lay_out(mlp, tokens, topk, &layout));
    *out_bytes = layout.bytes;
    return FM_OK;
}

struct call {
    fm_gemm_context *context;
    const fm_gemm_mlp *mlp;
    struct layout layout;
    int64_t token_count;
    int topk;
    const int32_t *topk_idx;
    const float *topk_weights;
    const fm_gemm_result *out;
    uint8_t *space;
    int64_t *offsets, *tokens, *positions;
};

// Rows expert by expert, and within one by token.
static void sort_rows(const struct call *call)
{
    int64_t experts = call->mlp->experts, count = call->layout.rows_max;
    memset(call->offsets, 0, (size_t)(experts + 1) * sizeof *call->offsets);
    for (int64_t i = 0; i < count; i++)
        if (call->topk_idx[i] >= 0)
            call->offsets[call->topk_idx[i] + 1]++;
    for (int64_t e = 0; e < experts; e++)
        call->offsets[e + 1] += call->offsets[e];
    for (int64_t i = 0; i < count; i++) {
        call->positions[i] = -1;
        if (call->topk_idx[i] < 0)
            continue;
        int64_t row = call->offsets[call->topk_idx[i]]++;
        call->positions[i] = row;
        call->tokens[row] = i / call->topk;
    }
    for (int64_t e = experts; e > 0; e--) // each offset has moved to where the next one was
        call->offsets[e] = call->offsets[e - 1];
    call->offsets[0] = 0;
}

// Rows of A are those that `tokens` lists, or those of D.
static fm_status multiply(const struct call *call, const fm_gemm_weights *weights, const fm_gemm_operand *a,
                          const int64_t *tokens, const fm_gemm_result *d)
{
    int experts = call->mlp->experts;
    struct fm_gemm_segment *segments = fm_base_mem_zalloc((size_t)experts, sizeof *segments);
    if (!segments)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a list of %d experts", experts);
    for (int e = 0; e < experts; e++)
        segments[e] = (struct fm_gemm_segment){.a = a,
                                               .b = &weights[e],
                                               .d = d,
                                               .a_rows = tokens ? tokens + call->offsets[e] : NULL,
                                               .first = call->offsets[e],
                                               .count = call->offsets[e + 1] - call->offsets[e]};
    fm_gemm_run(call->context, segments, experts);
    fm_base_mem_free(segments);
    return FM_OK;
}

enum { SUM_COLUMNS = 2048, SUM_TOKENS = 4 }; // of a task that sums up: lines in the first-level cache

static void sum_token(const struct call *call, int64_t token, int64_t column, int64_t count,
                      struct fm_gemm_space *space)
{
    const struct fm_gemm_kernels *kernels = &call->context->kernels;
    const fm_gemm_result *out = call->out;
    const fm_bf16 *y = (const fm_bf16 *)(const void *)(call->space + call->layout.y);
    float *sum = space->acc, *line = space->acc + SUM_COLUMNS;
    memset(sum, 0, (size_t)count * sizeof *sum);
    int64_t from = token * out->c_stride + column, to = token * out->stride + column;
    if (out->c && out->dtype == FM_DTYPE_BF16)
        kernels->widen_bf16((const fm_bf16 *)out->c + from, (size_t)count, sum);
    else if (out->c)
        memcpy(sum, (const float *)out->c + from, (size_t)count * sizeof *sum);
    for (int64_t i = token * call->topk; i < (token + 1) * call->topk; i++) {
        if (call->positions[i] < 0)
            continue;
        kernels->widen_bf16(y + call->positions[i] * call->layout.d + column, (size_t)count, line);
        kernels->add_scaled(line, call->topk_weights ? call->topk_weights[i] : 1, count, sum);
    }
    if (out->dtype == FM_DTYPE_BF16)
        fm_base_f32_to_bf16(sum, (size_t)count, (fm_bf16 *)out->data + to);
    else
        memcpy((float *)out->data + to, sum, (size_t)count * sizeof *sum);
}

static void sum_tokens(void *argument, int64_t task, struct fm_gemm_space *space)
{
    const struct call *call = argument;
    int64_t end = fm_gemm_min((task + 1) * SUM_TOKENS, call->token_count);
    for (int64_t token = task * SUM_TOKENS; token < end; token++)
        for (int64_t column = 0; column < call->layout.d; column += SUM_COLUMNS)
            sum_token(call, token, column, fm_gemm_min(call->layout.d - column, SUM_COLUMNS), space);
}

static fm_gemm_quantised quantised_at(const struct call *call, size_t codes, size_t scales, int64_t k)
{
    return (fm_gemm_quantised){.dtype = FM_DTYPE_F8_E4M3,
                               .data = call->space + codes,
                               .stride = k,
                               .scales = call->space + scales,
                               .scale_stride = fm_gemm_ceil_div(k, FM_GEMM_SCALE_BLOCK),
                               .scale_rows = 1,
                               .powers = call->mlp->powers};
}

// x as the products take it: as it is, quantised, or rounded to BF16.
static fm_status take_x(const struct call *call, const fm_gemm_operand *x, fm_gemm_operand *out_a)
{
    const struct layout *layout = &call->layout;
    if (layout->is_bf16 ? x->dtype == FM_DTYPE_BF16 : x->dtype != FM_DTYPE_BF16 && x->dtype != FM_DTYPE_F32) {
        *out_a = *x;
        return FM_OK;
    }
    if (layout->is_bf16) {
        *out_a =
            (fm_gemm_operand){.dtype = FM_DTYPE_BF16, .data = call->space + layout->x, .stride = layout->d};
        return fm_gemm_dequantise(call->context, call->token_count, layout->d, x, FM_DTYPE_BF16,
                                  call->space + layout->x, layout->d);
    }
    fm_gemm_quantised to = quantised_at(call, layout->x, layout->x_scales, layout->d);
    *out_a = fm_gemm_quantised_operand(&to);
    return fm_gemm_quantise(call->context, call->token_count, layout->d, x, &to);
}

static fm_status activate(const struct call *call, const fm_bf16 *g, fm_gemm_operand *out_h)
{
    const struct layout *layout = &call->layout;
    int64_t rows = call->offsets[call->mlp->experts], h = layout->h;
    fm_gemm_swiglu swiglu = {
        .dtype = FM_DTYPE_BF16, .gate = g, .up = g + h, .stride = 2 * h, .limit = call->mlp->limit};
    if (layout->is_bf16) {
        *out_h =
            (fm_gemm_operand){.dtype = FM_DTYPE_BF16, .data = call->space + layout->h_codes, .stride = h};
        return fm_gemm_swiglu_run(call->context, rows, h, &swiglu, FM_DTYPE_BF16,
                                  call->space + layout->h_codes, h);
    }
    fm_gemm_quantised to = quantised_at(call, layout->h_codes, layout->h_scales, h);
    *out_h = fm_gemm_quantised_operand(&to);
    return fm_gemm_swiglu_quantise(call->context, rows, h, &swiglu, &to);
}

static fm_status check_call(const struct call *call, const fm_gemm_operand *x, size_t bytes)
{
    const struct layout *layout = &call->layout;
    if (!call->context)
        return fm_base_error_set(FM_ERR_ARG, "context is null; expected an open one");
    FM_TRY(fm_gemm_args_source("x", call->token_count, layout->d, x));
    if (layout->is_bf16 && x->dtype != FM_DTYPE_BF16 && x->dtype != FM_DTYPE_F32)
        return fm_base_error_set(FM_ERR_UNSUPPORTED, "x is %s and the weights are BF16; expected BF16 or F32",
                                 fm_base_dtype_name(x->dtype));
    FM_TRY(fm_gemm_args_result(call->token_count, layout->d, call->out));
    if (!call->topk_idx && layout->rows_max)
        return fm_base_error_set(FM_ERR_ARG, "topk_idx is null; expected %lld indices",
                                 (long long)layout->rows_max);
    for (int64_t i = 0; i < layout->rows_max; i++)
        if (call->topk_idx[i] < -1 || call->topk_idx[i] >= call->mlp->experts)
            return fm_base_error_set(FM_ERR_ARG,
                                     "topk_idx[%lld] is %d; expected an expert from 0 to %d, or -1",
                                     (long long)i, call->topk_idx[i], call->mlp->experts - 1);
    if (!call->space || (uintptr_t)call->space % FM_GEMM_BLOB_ALIGN)
        return fm_base_error_set(FM_ERR_ARG,
                                 "workspace is at %p; expected an address that is a multiple of %d",
                                 (void *)call->space, FM_GEMM_BLOB_ALIGN);
    if (bytes < layout->bytes)
        return fm_base_error_set(FM_ERR_ARG, "the workspace has %zu bytes; expected %zu", bytes,
                                 layout->bytes);
    return FM_OK;
}

fm_status fm_gemm_mlp_run(fm_gemm_context *context, const fm_gemm_mlp *mlp, int64_t tokens, int topk,
                          const int32_t *topk_idx, const float *topk_weights, const fm_gemm_operand *x,
                          void *workspace, size_t workspace_bytes, const fm_gemm_result *out)
{
    struct call call = {context,      mlp, {0},       tokens, topk, topk_idx,
                        topk_weights, out, workspace, NULL,   NULL, NULL};
    FM_TRY(lay_out(mlp, tokens, topk, &call.layout));
    FM_TRY(check_call(&call, x, workspace_bytes));
    const struct layout *layout = &call.layout;
    call.offsets = (int64_t *)(void *)(call.space + layout->offsets);
    call.tokens = (int64_t *)(void *)(call.space + layout->tokens);
    call.positions = (int64_t *)(void *)(call.space + layout->positions);
    sort_rows(&call);

    fm_gemm_operand a, h;
    fm_gemm_result g = {.dtype = FM_DTYPE_BF16, .data = call.space + layout->g, .stride = 2 * layout->h};
    fm_gemm_result y = {.dtype = FM_DTYPE_BF16, .data = call.space + layout->y, .stride = layout->d};
    FM_TRY(take_x(&call, x, &a));
    FM_TRY(multiply(&call, mlp->gate_up, &a, call.tokens, &g));
    FM_TRY(activate(&call, g.data, &h));
    FM_TRY(multiply(&call, mlp->down, &h, NULL, &y));
    fm_gemm_deal(context, fm_gemm_ceil_div(tokens, SUM_TOKENS), sum_tokens, &call);
    return FM_OK;
}
