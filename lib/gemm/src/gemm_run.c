#include "gemm_private.h"

#include "gemm_flush.h"

#include "fathom/numfmt.h"

#include <string.h>

#if defined(FM_HAVE_OPENMP)
#include <omp.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

struct job {
    fm_gemm_context *context;
    int64_t n, k;
    const fm_gemm_operand *a;
    const fm_gemm_result *d;
    const struct fm_gemm_segment *segments;
    int count;
    int64_t columns; // of a task
};

// One task: rows first_row ... of a segment, columns from `column` on.
struct piece {
    const struct job *job;
    const fm_gemm_weights *b;
    const int64_t *rows; // NULL: first, first + 1, ...
    int64_t first;
    int count;
    int64_t column, columns;
    struct fm_gemm_space *space;
};

static int64_t row_of(const struct piece *piece, int i)
{
    return piece->rows ? piece->rows[i] : piece->first + i;
}

static float scale_of(const fm_gemm_operand *operand, int64_t row, int64_t block)
{
    return operand->scales[row / operand->scale_rows * operand->scale_stride + block];
}

// A's scales for `blocks` blocks from `block` on, block after block.
static void take_a_scales(const struct piece *piece, int64_t block, int64_t blocks)
{
    float *out = piece->space->a_scales;
    for (int64_t j = 0; j < blocks; j++)
        for (int i = 0; i < piece->count; i++)
            *out++ = scale_of(piece->job->a, row_of(piece, i), block + j);
}

// Where a packed B has the codes of a panel from k_from (a multiple of 32) on.
static const uint8_t *panel_at(const fm_gemm_weights *b, int64_t column, int64_t k_from)
{
    int64_t k_padded = fm_gemm_ceil_div(b->k, FM_GEMM_STEP) * FM_GEMM_STEP;
    int64_t codes = column / FM_GEMM_PANEL * FM_GEMM_PANEL * k_padded + k_from * FM_GEMM_PANEL;
    return b->panels + codes * (b->operand.dtype == FM_DTYPE_BF16 ? 2 : 1);
}

// Asks for a block of B that a later take_b() will want: it comes from memory while the block before it is multiplied,
// since the hardware loses the stream in that long pause.
static void prefetch_b(const struct piece *piece, int64_t column, int64_t k_from)
{
    const fm_gemm_weights *b = piece->b;
    int64_t bytes = (int64_t)FM_GEMM_BLOCK * FM_GEMM_PANEL * (b->operand.dtype == FM_DTYPE_BF16 ? 2 : 1);
    for (int64_t half = 0; half < FM_GEMM_STRIP && column + half < b->n; half += FM_GEMM_PANEL) {
        const uint8_t *panel = panel_at(b, column + half, k_from);
        for (int64_t at = 0; at < bytes; at += 64)
            __builtin_prefetch(panel + at, 0, 2);
    }
}

static void take_b(const struct piece *piece, int64_t column, int64_t k_from, int64_t length)
{
    const fm_gemm_weights *b = piece->b;
    const struct fm_gemm_kernels *kernels = &piece->job->context->kernels;
    float *out = piece->space->b;
    if (!b->panels) {
        fm_gemm_source_b(b, column, k_from, length, piece->space->line, out);
        return;
    }
    int wide = b->operand.dtype == FM_DTYPE_BF16;
    int64_t pairs = fm_gemm_ceil_div(length, FM_GEMM_STEP) * (FM_GEMM_STEP / 2);
    for (int64_t half = 0; half < FM_GEMM_STRIP; half += FM_GEMM_PANEL) {
        if (column + half >= b->n) {
            for (int64_t i = 0; i < 2 * pairs; i++)
                memset(out + i * FM_GEMM_STRIP + half, 0, FM_GEMM_PANEL * sizeof *out);
            break;
        }
        const uint8_t *panel = panel_at(b, column + half, k_from);
        (wide ? kernels->unpack_bf16 : kernels->unpack_e4m3)(panel, pairs, out + half);
    }
}

static void take_b_scales(const struct piece *piece, int64_t column, int64_t block)
{
    const fm_gemm_operand *b = &piece->b->operand;
    float *out = piece->space->b_scales;
    if (b->scale_rows == FM_GEMM_SCALE_BLOCK) { // a strip lies within a block
        for (int64_t i = 0; i < FM_GEMM_STRIP; i++)
            out[i] = b->scales[column / FM_GEMM_SCALE_BLOCK * b->scale_stride + block];
        return;
    }
    for (int64_t i = 0; i < FM_GEMM_STRIP; i++)
        out[i] = column + i < piece->b->n ? scale_of(b, column + i, block) : 0;
}

// All columns of the task against k_from ... k_from + length - 1 of A, which the workspace holds.
static void multiply_chunk(const struct piece *piece, int64_t k_from, int64_t length, size_t a_stride)
{
    struct fm_gemm_space *space = piece->space;
    int scaled = piece->b->operand.dtype == FM_DTYPE_F8_E4M3;
    for (int64_t column = 0; column < piece->columns; column += FM_GEMM_STRIP) {
        for (int64_t at = 0; at < length; at += FM_GEMM_BLOCK) {
            int64_t part = fm_gemm_min(length - at, FM_GEMM_BLOCK);
            take_b(piece, piece->column + column, k_from + at, part);
            if (scaled)
                take_b_scales(piece, piece->column + column, (k_from + at) / FM_GEMM_BLOCK);
            struct fm_gemm_block block = {
                .a = space->a + at,
                .a_stride = a_stride,
                .b = space->b,
                .rows = piece->count,
                .steps = (int)fm_gemm_ceil_div(part, FM_GEMM_STEP),
                .acc = space->acc + column,
                .acc_stride = FM_GEMM_ACC_STRIDE,
                .a_scales = scaled ? space->a_scales + at / FM_GEMM_BLOCK * piece->count : NULL,
                .b_scales = space->b_scales,
            };
            if (piece->b->panels) {
                int last = at + FM_GEMM_BLOCK >= length;
                prefetch_b(piece, piece->column + column + (last ? FM_GEMM_STRIP : 0),
                           k_from + (last ? 0 : at + FM_GEMM_BLOCK));
            }
            piece->job->context->kernels.multiply(&block);
        }
    }
}

// D of row i of the task.
static void finish_row(const struct piece *piece, int i)
{
    const fm_gemm_result *d = piece->job->d;
    float *sum = piece->space->acc + (size_t)i * FM_GEMM_ACC_STRIDE;
    float *line = piece->space->line;
    int64_t to = row_of(piece, i) * d->stride + piece->column;
    size_t columns = (size_t)piece->columns;
    if (d->c) {
        int64_t from = row_of(piece, i) * d->c_stride + piece->column;
        if (d->dtype == FM_DTYPE_BF16)
            fm_base_bf16_to_f32((const fm_bf16 *)d->c + from, columns, line);
        else
            memcpy(line, (const float *)d->c + from, columns * sizeof *line);
        for (size_t j = 0; j < columns; j++)
            sum[j] = fm_gemm_flush_add(line[j], sum[j]);
    }
    if (d->dtype == FM_DTYPE_BF16)
        fm_base_f32_to_bf16(sum, columns, (fm_bf16 *)d->data + to);
    else
        memcpy((float *)d->data + to, sum, columns * sizeof *sum);
}

static void run_piece(const struct piece *piece)
{
    struct fm_gemm_space *space = piece->space;
    const struct job *job = piece->job;
    for (int i = 0; i < piece->count; i++)
        memset(space->acc + (size_t)i * FM_GEMM_ACC_STRIDE, 0,
               (size_t)fm_gemm_ceil_div(piece->columns, FM_GEMM_STRIP) * FM_GEMM_STRIP * sizeof *space->acc);
    int64_t per_row = FM_GEMM_A_FLOATS / piece->count - FM_GEMM_A_PAD;
    int64_t chunk = fm_gemm_min(per_row, fm_gemm_ceil_div(job->k, FM_GEMM_BLOCK) * FM_GEMM_BLOCK) /
                    FM_GEMM_BLOCK * FM_GEMM_BLOCK;
    size_t a_stride = (size_t)chunk + FM_GEMM_A_PAD;
    for (int64_t k_from = 0; k_from < job->k; k_from += chunk) {
        int64_t length = fm_gemm_min(job->k - k_from, chunk);
        fm_gemm_source_a(job->a, piece->rows, piece->first, piece->count, k_from, length, space->a, a_stride);
        if (job->a->dtype == FM_DTYPE_F8_E4M3)
            take_a_scales(piece, k_from / FM_GEMM_BLOCK, fm_gemm_ceil_div(length, FM_GEMM_BLOCK));
        multiply_chunk(piece, k_from, length, a_stride);
    }
    for (int i = 0; i < piece->count; i++)
        finish_row(piece, i);
}

static void run_task(const struct job *job, int64_t task, struct fm_gemm_space *space)
{
    int low = 0, high = job->count; // the last segment with tasks_before <= task; empty ones come before it
    while (high - low > 1) {
        int middle = low + (high - low) / 2;
        if (job->segments[middle].tasks_before <= task)
            low = middle;
        else
            high = middle;
    }
    const struct fm_gemm_segment *segment = &job->segments[low];
    int64_t across = fm_gemm_ceil_div(job->n, job->columns);
    int64_t row = (task - segment->tasks_before) / across * segment->task_rows;
    int64_t column = (task - segment->tasks_before) % across * job->columns;
    run_piece(&(struct piece){
        .job = job,
        .b = segment->b,
        .rows = segment->rows ? segment->rows + row : NULL,
        .first = segment->first + row,
        .count = (int)fm_gemm_min(segment->count - row, segment->task_rows),
        .column = column,
        .columns = fm_gemm_min(job->n - column, job->columns),
        .space = space,
    });
}

static uint32_t enter(const struct fm_gemm_kernels *kernels)
{
    uint32_t mode = fm_base_fp_enter();
#if defined(__x86_64__)
    if (kernels->flushes)
        _mm_setcsr(_mm_getcsr() | _MM_FLUSH_ZERO_ON | 0x0040); // and denormals are zero
#else
    (void)kernels;
#endif
    return mode;
}

static void run_tasks(const struct job *job, int64_t tasks)
{
    fm_gemm_context *context = job->context;
#if defined(FM_HAVE_OPENMP)
    int team = (int)fm_gemm_min(context->threads, tasks);
#pragma omp parallel num_threads(team) if (team > 1)
    {
        uint32_t mode = enter(&context->kernels);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < tasks; task++)
            run_task(job, task, &context->spaces[omp_get_thread_num()]);
        fm_base_fp_leave(mode);
    }
#else
    uint32_t mode = enter(&context->kernels);
    for (int64_t task = 0; task < tasks; task++)
        run_task(job, task, context->spaces);
    fm_base_fp_leave(mode);
#endif
}

void fm_gemm_run(fm_gemm_context *context, int64_t n, int64_t k, const fm_gemm_operand *a,
                 const fm_gemm_result *d, struct fm_gemm_segment *segments, int count)
{
    int64_t down = 0;
    for (int i = 0; i < count; i++) {
        segments[i].tasks_before = down;
        segments[i].task_rows = fm_gemm_part(segments[i].count, FM_GEMM_ROWS, FM_GEMM_TILE_ROWS);
        down += fm_gemm_ceil_div(segments[i].count, segments[i].task_rows);
    }
    if (!down || !n)
        return;
    // Four tasks a thread even out what the threads get; narrower ones would convert A's rows too often.
    int64_t columns = FM_GEMM_COLUMNS;
    while (context->threads > 1 && columns > 2 * FM_GEMM_STRIP &&
           down * fm_gemm_ceil_div(n, columns) < (int64_t)4 * context->threads)
        columns /= 2;
    columns = fm_gemm_part(n, columns, FM_GEMM_STRIP);
    int64_t across = fm_gemm_ceil_div(n, columns);
    for (int i = 0; i < count; i++)
        segments[i].tasks_before *= across;
    struct job job = {context, n, k, a, d, segments, count, columns};
    run_tasks(&job, down * across);
}
