#include "gemm_flush.h"
#include "gemm_quant_put.h"

#include <string.h>

enum {
    LINE_STRIDE = FM_GEMM_QUANT_COLUMNS + FM_GEMM_STEP,
    TILE = FM_GEMM_SQUARE_TILE,
    STRIDE = FM_GEMM_SQUARE_STRIDE
};

static fm_gemm_operand view(fm_dtype dtype, const void *data, int64_t stride)
{
    return (fm_gemm_operand){.dtype = dtype, .data = data, .stride = stride};
}

static fm_status check_input(const fm_gemm_context *context, int64_t rows, int64_t k,
                             const fm_gemm_swiglu *from)
{
    if (!context)
        return fm_base_error_set(FM_ERR_ARG, "context is null; expected an open one");
    if (!from)
        return fm_base_error_set(FM_ERR_ARG, "from is null; expected gate and up");
    FM_TRY(fm_gemm_args_extent("rows", rows));
    FM_TRY(fm_gemm_args_extent("k", k));
    FM_TRY(fm_gemm_quant_check_plain("gate", from->dtype, from->gate, rows, k, from->stride));
    FM_TRY(fm_gemm_quant_check_plain("up", from->dtype, from->up, rows, k, from->stride));
    if (!(from->limit >= 0))
        return fm_base_error_set(FM_ERR_ARG, "limit is %g; expected at least 0", (double)from->limit);
    return FM_OK;
}

static struct fm_gemm_swiglu_line line_of(const fm_gemm_swiglu *from, int64_t row, int64_t count)
{
    return (struct fm_gemm_swiglu_line){.count = fm_gemm_ceil_div(count, FM_GEMM_SUMS) * FM_GEMM_SUMS,
                                        .weight = from->weights ? from->weights[row] : 1,
                                        .limit = from->limit > 0 ? from->limit : INFINITY};
}

struct forward {
    const struct fm_gemm_kernels *kernels;
    int64_t rows, k;
    const fm_gemm_swiglu *from;
    const fm_gemm_quantised *to; // or NULL, and plain numbers go
    fm_dtype dtype;
    void *out;
    int64_t stride;
};

// `count` columns of a row from `column` on. The row and column of what comes next are asked for.
static void forward_row(const struct forward *job, int64_t row, int64_t column, int64_t count,
                        int64_t next_row, int64_t next_column, struct fm_gemm_space *space, float *h)
{
    const fm_gemm_swiglu *from = job->from;
    struct fm_gemm_swiglu_line line = line_of(from, row, count);
    line.h = h;
    if (from->dtype == FM_DTYPE_BF16 && job->kernels->swiglu_forward_bf16) {
        const fm_bf16 *gate = from->gate, *up = from->up;
        int64_t at = row * from->stride + column;
        int64_t next = next_row * from->stride + next_column;
        job->kernels->swiglu_forward_bf16(&line, count, (const fm_bf16 *[]){gate + at, up + at},
                                          (const fm_bf16 *[]){gate + next, up + next});
        return;
    }
    const fm_gemm_operand gate = view(from->dtype, from->gate, from->stride);
    const fm_gemm_operand up = view(from->dtype, from->up, from->stride);
    line.gate = space->acc;
    line.up = line.gate + LINE_STRIDE;
    fm_gemm_source_load(job->kernels, &gate, row, 1, column, count, space, line.gate, LINE_STRIDE);
    fm_gemm_source_load(job->kernels, &up, row, 1, column, count, space, line.up, LINE_STRIDE);
    job->kernels->swiglu_forward(&line);
}

static void forward_rows(void *argument, int64_t task, struct fm_gemm_space *space)
{
    const struct forward *job = argument;
    float *lines = space->acc + (size_t)2 * LINE_STRIDE;
    int64_t first = task * FM_GEMM_QUANT_ROWS, end = fm_gemm_min(first + FM_GEMM_QUANT_ROWS, job->rows);
    for (int64_t column = 0; column < job->k; column += FM_GEMM_QUANT_COLUMNS) {
        int64_t count = fm_gemm_min(job->k - column, FM_GEMM_QUANT_COLUMNS);
        for (int64_t row = first; row < end; row++) {
            float *h = lines + (row - first) * LINE_STRIDE;
            int is_last =
                row + 1 == end; // of this tile: the next one is beside it, and none beyond the matrix
            int64_t next_column = fm_gemm_min(column + FM_GEMM_QUANT_COLUMNS, job->k - count);
            forward_row(job, row, column, count, is_last ? first : row + 1, is_last ? next_column : column,
                        space, h);
            if (!job->to)
                fm_gemm_quant_put_plain(job->dtype, job->out, row * job->stride + column, h, count);
        }
        if (job->to) {
            struct fm_gemm_quant_place place = {job->to, first, column,
                                                column / fm_gemm_quant_scale_k(job->to),
                                                fm_gemm_quant_is_streamed(job->rows, job->k)};
            fm_gemm_quant_put(job->kernels, &place, end - first, count, lines, LINE_STRIDE);
        }
    }
}

static fm_status run_forward(fm_gemm_context *context, struct forward *job)
{
    job->kernels = &context->kernels;
    fm_gemm_deal(context, fm_gemm_ceil_div(job->rows, FM_GEMM_QUANT_ROWS), forward_rows, job);
    return FM_OK;
}

fm_status fm_gemm_swiglu_run(fm_gemm_context *context, int64_t rows, int64_t k, const fm_gemm_swiglu *from,
                             fm_dtype dtype, void *out, int64_t stride)
{
    FM_TRY(check_input(context, rows, k, from));
    FM_TRY(fm_gemm_quant_check_plain("out", dtype, out, rows, k, stride));
    return run_forward(
        context,
        &(struct forward){.rows = rows, .k = k, .from = from, .dtype = dtype, .out = out, .stride = stride});
}

fm_status fm_gemm_swiglu_quantise(fm_gemm_context *context, int64_t rows, int64_t k,
                                  const fm_gemm_swiglu *from, const fm_gemm_quantised *to)
{
    FM_TRY(check_input(context, rows, k, from));
    FM_TRY(fm_gemm_quant_check("to", rows, k, to));
    if (to->scale_rows != 1)
        return fm_base_error_set(FM_ERR_ARG, "scale_rows of to is %d; expected 1", to->scale_rows);
    return run_forward(context, &(struct forward){.rows = rows, .k = k, .from = from, .to = to});
}

struct backward {
    const struct fm_gemm_kernels *kernels;
    int groups;
    const int64_t *offsets;
    int64_t k;
    const fm_gemm_swiglu *from;
    fm_gemm_operand dh;
    const fm_gemm_swiglu_gradient *to;
};

// What a task works on, in the workspace.
struct tiles {
    float gate[TILE * STRIDE], up[TILE * STRIDE], dh[TILE * STRIDE], h[TILE * STRIDE];
    float sums[TILE * FM_GEMM_SUMS];
};
_Static_assert(sizeof(struct tiles) <= sizeof((struct fm_gemm_space *)0)->acc,
               "tiles lie in the accumulators");

// Where the scales of a block of rows begin when rows are columns.
static int64_t scale_column(const struct backward *job, const struct fm_gemm_group_block *block,
                            const fm_gemm_quantised *to)
{
    int scale_k = fm_gemm_quant_scale_k(to);
    return fm_gemm_group_blocks(block->group, job->offsets, scale_k) +
           (block->first - job->offsets[block->group]) / scale_k;
}

// The plain gradients of a tile, then those quantised. By row comes last, since that may overwrite them.
static void put_tile(const struct backward *job, const struct fm_gemm_group_block *block, int64_t column,
                     int64_t count, struct tiles *tiles)
{
    const fm_gemm_swiglu_gradient *to = job->to;
    float *parts[2] = {tiles->gate, tiles->up};
    int streamed = fm_gemm_quant_is_streamed(job->offsets[job->groups], job->k);
    for (int part = 0; part < 2; part++) {
        int64_t at = part * job->k + column;
        for (int64_t i = 0; i < block->count && to->data; i++)
            fm_gemm_quant_put_plain(to->dtype, to->data, (block->first + i) * to->stride + at,
                                    parts[part] + i * STRIDE, count);
        if (to->columns) {
            struct fm_gemm_quant_place place = {to->columns, at, block->first,
                                                scale_column(job, block, to->columns), streamed};
            fm_gemm_quant_put_turned(job->kernels, &place, block->count, count, parts[part]);
        }
        if (to->rows) {
            struct fm_gemm_quant_place place = {to->rows, block->first, at,
                                                at / fm_gemm_quant_scale_k(to->rows), streamed};
            fm_gemm_quant_put(job->kernels, &place, block->count, count, parts[part], STRIDE);
        }
    }
    if (to->h) {
        struct fm_gemm_quant_place place = {to->h, column, block->first, scale_column(job, block, to->h),
                                            streamed};
        fm_gemm_quant_put_turned(job->kernels, &place, block->count, count, tiles->h);
    }
}

// Block number `task` of 128 rows.
static void backward_block(void *argument, int64_t task, struct fm_gemm_space *space)
{
    const struct backward *job = argument;
    const fm_gemm_swiglu *from = job->from;
    const fm_gemm_operand gate = view(from->dtype, from->gate, from->stride);
    const fm_gemm_operand up = view(from->dtype, from->up, from->stride);
    struct tiles *tiles = (struct tiles *)(void *)space->acc;
    struct fm_gemm_group_block block = fm_gemm_group_block_at(job->groups, job->offsets, TILE, task);
    int rows = (int)block.count;
    memset(tiles->sums, 0, sizeof tiles->sums);
    for (int64_t column = 0; column < job->k; column += TILE) {
        int64_t count = fm_gemm_min(job->k - column, TILE);
        fm_gemm_source_load(job->kernels, &gate, block.first, rows, column, count, space, tiles->gate,
                            STRIDE);
        fm_gemm_source_load(job->kernels, &up, block.first, rows, column, count, space, tiles->up, STRIDE);
        fm_gemm_source_load(job->kernels, &job->dh, block.first, rows, column, count, space, tiles->dh,
                            STRIDE);
        for (int i = 0; i < rows; i++) {
            struct fm_gemm_swiglu_line line = line_of(from, block.first + i, count);
            line.gate = tiles->gate + i * STRIDE;
            line.up = tiles->up + i * STRIDE;
            line.dh = tiles->dh + i * STRIDE;
            line.h = tiles->h + i * STRIDE;
            line.sums = tiles->sums + i * FM_GEMM_SUMS;
            job->kernels->swiglu_backward(&line);
        }
        put_tile(job, &block, column, count, tiles);
    }
    for (int i = 0; i < rows && job->to->weights; i++) {
        float sum = 0;
        for (int lane = 0; lane < FM_GEMM_SUMS; lane++)
            sum = fm_gemm_flush_add(sum, tiles->sums[i * FM_GEMM_SUMS + lane]);
        job->to->weights[block.first + i] = sum;
    }
}

static fm_status check_gradient(int groups, const int64_t *offsets, int64_t k,
                                const fm_gemm_swiglu_gradient *to)
{
    int64_t rows = offsets[groups], wide = 2 * k;
    FM_TRY(fm_gemm_args_extent("2 k", wide));
    if (!to)
        return fm_base_error_set(FM_ERR_ARG, "to is null; expected where to put the gradients");
    if (to->data)
        FM_TRY(fm_gemm_quant_check_plain("to", to->dtype, to->data, rows, wide, to->stride));
    if (to->rows) {
        FM_TRY(fm_gemm_quant_check("rows", rows, wide, to->rows));
        if (to->rows->scale_rows != 1)
            return fm_base_error_set(FM_ERR_ARG, "scale_rows of rows is %d; expected 1",
                                     to->rows->scale_rows);
        if (k % fm_gemm_quant_scale_k(to->rows))
            return fm_base_error_set(FM_ERR_ARG, "k is %lld; expected a multiple of %d, rows' scale_k",
                                     (long long)k, fm_gemm_quant_scale_k(to->rows));
    }
    if (to->columns)
        FM_TRY(fm_gemm_quant_check_turned("columns", groups, offsets, wide, to->columns));
    if (to->h)
        FM_TRY(fm_gemm_quant_check_turned("h", groups, offsets, k, to->h));
    return FM_OK;
}

fm_status fm_gemm_swiglu_backward(fm_gemm_context *context, int groups, const int64_t *offsets, int64_t k,
                                  const fm_gemm_swiglu *from, fm_dtype dtype, const void *dh,
                                  int64_t dh_stride, const fm_gemm_swiglu_gradient *to)
{
    if (groups < 1)
        return fm_base_error_set(FM_ERR_ARG, "groups is %d; expected at least 1", groups);
    if (!offsets)
        return fm_base_error_set(FM_ERR_ARG, "offsets is null; expected %d", groups + 1);
    FM_TRY(fm_gemm_args_offsets(groups, offsets, FM_GEMM_EXTENT_MAX));
    FM_TRY(check_input(context, offsets[groups], k, from));
    FM_TRY(fm_gemm_quant_check_plain("dh", dtype, dh, offsets[groups], k, dh_stride));
    FM_TRY(check_gradient(groups, offsets, k, to));
    struct backward job = {&context->kernels, groups, offsets, k, from, view(dtype, dh, dh_stride), to};
    fm_gemm_deal(context, fm_gemm_group_blocks(groups, offsets, TILE), backward_block, &job);
    return FM_OK;
}
