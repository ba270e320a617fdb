#include "gemm_quant_put.h"

struct quantising {
    const struct fm_gemm_kernels *kernels;
    int64_t rows, k;
    const fm_gemm_operand *from;
    const fm_gemm_quantised *to; // or NULL, and plain numbers go
    fm_dtype dtype;
    void *out;
    int64_t stride;
    int task_rows; // FM_GEMM_QUANT_ROWS, or 128
};

// BF16 to E4M3, row-major, has kernels that need no f32 between.
static int is_direct(const struct quantising *job)
{
    return job->to && job->to->dtype == FM_DTYPE_F8_E4M3 && job->from->dtype == FM_DTYPE_BF16 &&
           !job->from->transposed && job->kernels->codes_of_bf16;
}

// A tile of BF16: `rows` rows from `row` on, FM_GEMM_QUANT_COLUMNS columns from `column` on.
static int quantise_directly(const struct quantising *job, const struct fm_gemm_quant_place *place,
                             int64_t rows, int64_t count)
{
    const fm_bf16 *from = (const fm_bf16 *)job->from->data + place->row * job->from->stride + place->column;
    // The next tile lies to the right, or in the next rows; behind the last one there is none.
    const fm_bf16 *ahead = from + count;
    if (place->column + count == job->k)
        ahead = place->row + 2 * rows <= job->rows ? from + rows * job->from->stride - place->column : from;
    return fm_gemm_quant_put_bf16(job->kernels, place, rows, count, from, job->from->stride, ahead);
}

// One tile: `rows` rows, at most FM_GEMM_SQUARE_TILE, and `count` columns.
static void quantise_tile(const struct quantising *job, int64_t row, int64_t rows, int64_t column,
                          int64_t count, struct fm_gemm_space *space)
{
    float *tile = space->acc;
    size_t stride = (size_t)count + FM_GEMM_A_PAD + FM_GEMM_STEP;
    struct fm_gemm_quant_place place = {job->to, row, column, 0, 0};
    if (job->to) {
        place.scale_column = column / fm_gemm_quant_scale_k(job->to);
        place.streamed = fm_gemm_quant_is_streamed(job->rows, job->k);
    }
    if (is_direct(job) && quantise_directly(job, &place, rows, count))
        return;
    fm_gemm_source_load(job->kernels, job->from, row, (int)rows, column, count, space, tile, stride);
    if (job->to) {
        fm_gemm_quant_put(job->kernels, &place, rows, count, tile, stride);
        return;
    }
    for (int64_t i = 0; i < rows; i++)
        fm_gemm_quant_put_plain(job->dtype, job->out, (row + i) * job->stride + column,
                                tile + (size_t)i * stride, count);
}

static void quantise_rows(void *argument, int64_t task, struct fm_gemm_space *space)
{
    const struct quantising *job = argument;
    int64_t row = task * job->task_rows, rows = fm_gemm_min(job->rows - row, job->task_rows);
    for (int64_t column = 0; column < job->k; column += FM_GEMM_QUANT_COLUMNS)
        quantise_tile(job, row, rows, column, fm_gemm_min(job->k - column, FM_GEMM_QUANT_COLUMNS), space);
}

static fm_status run_rows(fm_gemm_context *context, struct quantising *job)
{
    int blocks = job->to && job->to->scale_rows == FM_GEMM_SCALE_BLOCK;
    job->kernels = &context->kernels;
    job->task_rows = blocks || job->from->transposed ? FM_GEMM_SQUARE_TILE : FM_GEMM_QUANT_ROWS;
    fm_gemm_deal(context, fm_gemm_ceil_div(job->rows, job->task_rows), quantise_rows, job);
    return FM_OK;
}

static fm_status check(const fm_gemm_context *context, int64_t rows, int64_t k, const fm_gemm_operand *from)
{
    if (!context)
        return fm_base_error_set(FM_ERR_ARG, "context is null; expected an open one");
    FM_TRY(fm_gemm_args_extent("rows", rows));
    FM_TRY(fm_gemm_args_extent("k", k));
    return fm_gemm_args_source("from", rows, k, from);
}

fm_status fm_gemm_quantise(fm_gemm_context *context, int64_t rows, int64_t k, const fm_gemm_operand *from,
                           const fm_gemm_quantised *to)
{
    FM_TRY(check(context, rows, k, from));
    FM_TRY(fm_gemm_quant_check("to", rows, k, to));
    return run_rows(context, &(struct quantising){.rows = rows, .k = k, .from = from, .to = to});
}

fm_status fm_gemm_dequantise(fm_gemm_context *context, int64_t rows, int64_t k, const fm_gemm_operand *from,
                             fm_dtype dtype, void *out, int64_t stride)
{
    FM_TRY(check(context, rows, k, from));
    FM_TRY(fm_gemm_quant_check_plain("out", dtype, out, rows, k, stride));
    return run_rows(context,
                    &(struct quantising){
                        .rows = rows, .k = k, .from = from, .dtype = dtype, .out = out, .stride = stride});
}

struct turning {
    const struct fm_gemm_kernels *kernels;
    int groups;
    const int64_t *offsets;
    int64_t k;
    const fm_gemm_operand *from;
    const fm_gemm_quantised *to;
};

// Columns of BF16 that turn as they lie. Meanwhile an eighth of the rows is asked for of the 256 columns that come after
// these, or of the first ones of the rows that follow: the hardware does not foresee rows that lie pages apart, and memory
// gives more of long pieces.
static int turn_directly(const struct turning *job, const struct fm_gemm_group_block *block,
                         const struct fm_gemm_quant_place *place, int64_t count)
{
    enum { AHEAD = 8 * FM_GEMM_QUANT_TURNED };
    const fm_gemm_operand *from = job->from;
    if (from->dtype != FM_DTYPE_BF16 || from->transposed || job->to->dtype != FM_DTYPE_F8_E4M3 ||
        !job->kernels->codes_turned_bf16)
        return 0;
    const fm_bf16 *at = (const fm_bf16 *)from->data + block->first * from->stride + place->row;
    int64_t part = place->row % AHEAD / FM_GEMM_QUANT_TURNED,
            column = place->row - place->row % AHEAD + AHEAD;
    int64_t row = block->first + part * (FM_GEMM_SQUARE_TILE / 8);
    if (column >= job->k) {
        column = 0;
        row += block->count;
    }
    const fm_bf16 *ahead = row + FM_GEMM_SQUARE_TILE / 8 <= job->offsets[job->groups]
                               ? (const fm_bf16 *)from->data + row * from->stride + column
                               : at;
    return fm_gemm_quant_turn_bf16(job->kernels, place, block->count, count, at, from->stride, ahead);
}

// Block number `task` of scale_k rows.
static void turn_block(void *argument, int64_t task, struct fm_gemm_space *space)
{
    const struct turning *job = argument;
    struct fm_gemm_group_block block =
        fm_gemm_group_block_at(job->groups, job->offsets, fm_gemm_quant_scale_k(job->to), task);
    float *tile = space->acc;
    int streamed = fm_gemm_quant_is_streamed(job->k, job->offsets[job->groups]);
    for (int64_t column = 0; column < job->k; column += FM_GEMM_QUANT_TURNED) {
        int64_t count = fm_gemm_min(job->k - column, FM_GEMM_QUANT_TURNED);
        struct fm_gemm_quant_place place = {job->to, column, block.first, task, streamed};
        if (turn_directly(job, &block, &place, count))
            continue;
        fm_gemm_source_load(job->kernels, job->from, block.first, (int)block.count, column, count, space,
                            tile, FM_GEMM_SQUARE_STRIDE);
        fm_gemm_quant_put_turned(job->kernels, &place, block.count, count, tile);
    }
}

fm_status fm_gemm_quantise_transposed(fm_gemm_context *context, int groups, const int64_t *offsets, int64_t k,
                                      const fm_gemm_operand *from, const fm_gemm_quantised *to)
{
    if (groups < 1)
        return fm_base_error_set(FM_ERR_ARG, "groups is %d; expected at least 1", groups);
    if (!offsets)
        return fm_base_error_set(FM_ERR_ARG, "offsets is null; expected %d", groups + 1);
    FM_TRY(fm_gemm_args_offsets(groups, offsets, FM_GEMM_EXTENT_MAX));
    FM_TRY(check(context, offsets[groups], k, from));
    FM_TRY(fm_gemm_quant_check_turned("to", groups, offsets, k, to));
    struct turning job = {&context->kernels, groups, offsets, k, from, to};
    fm_gemm_deal(context, fm_gemm_group_blocks(groups, offsets, fm_gemm_quant_scale_k(to)), turn_block, &job);
    return FM_OK;
}
