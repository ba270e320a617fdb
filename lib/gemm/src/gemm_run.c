#include "gemm_private.h"

struct job {
    const struct fm_gemm_kernels *kernels;
    const struct fm_gemm_segment *segments;
    int count;
};

// Lists the rows of a piece, those that fold first; returns how many those are.
static int sort_by_folding(const struct fm_gemm_piece *piece)
{
    int64_t *rows = piece->space->rows[0], *a_rows = piece->space->rows[1];
    int folding = 0;
    for (int pass = 1; pass >= 0; pass--)
        for (int i = 0; i < piece->count; i++) {
            int64_t a_row = fm_gemm_piece_a_row(piece, i);
            if (fm_gemm_source_row_folds(piece->a, a_row, piece->b->k) == pass) {
                *rows++ = fm_gemm_piece_row(piece, i);
                *a_rows++ = a_row;
                folding += pass;
            }
        }
    return folding;
}

// A row folds or not by its own scales, so that what it gives does not depend on the others.
static void run_rows(struct fm_gemm_piece *piece)
{
    if (piece->a->dtype == FM_DTYPE_BF16 || !piece->b->folds ||
        fm_gemm_scale_k(piece->a) == FM_GEMM_SCALE_BLOCK_MX) {
        piece->folds = piece->a->dtype != FM_DTYPE_BF16 && piece->b->folds;
        fm_gemm_piece_run(piece);
        return;
    }
    int count = piece->count, folding = sort_by_folding(piece);
    if (folding != 0 && folding != count) {
        piece->rows = piece->space->rows[0];
        piece->a_rows = piece->space->rows[1];
    }
    piece->folds = folding != 0;
    piece->count = folding ? folding : count;
    fm_gemm_piece_run(piece);
    if (folding == 0 || folding == count)
        return;
    piece->folds = 0;
    piece->rows += folding;
    piece->a_rows += folding;
    piece->count = count - folding;
    fm_gemm_piece_run(piece);
}

static void run_task(void *argument, int64_t task, struct fm_gemm_space *space)
{
    const struct job *job = argument;
    int low = 0, high = job->count; // the last segment with tasks_before <= task; empty ones come before it
    while (high - low > 1) {
        int middle = low + (high - low) / 2;
        if (job->segments[middle].tasks_before <= task)
            low = middle;
        else
            high = middle;
    }
    const struct fm_gemm_segment *segment = &job->segments[low];
    int64_t row = (task - segment->tasks_before) / segment->across * segment->task_rows;
    int64_t column = (task - segment->tasks_before) % segment->across * segment->task_columns;
    run_rows(&(struct fm_gemm_piece){
        .kernels = job->kernels,
        .a = segment->a,
        .b = segment->b,
        .d = segment->d,
        .rows = segment->rows ? segment->rows + row : NULL,
        .a_rows = segment->a_rows ? segment->a_rows + row : NULL,
        .first = segment->first + row,
        .count = (int)fm_gemm_min(segment->count - row, segment->task_rows),
        .column = column,
        .columns = fm_gemm_min(segment->b->n - column, segment->task_columns),
        .space = space,
    });
}

// Cuts all segments into tasks of at most so many columns; returns how many there are.
static int64_t cut(struct fm_gemm_segment *segments, int count, int64_t columns_max)
{
    int64_t tasks = 0;
    for (int i = 0; i < count; i++) {
        struct fm_gemm_segment *segment = &segments[i];
        segment->tasks_before = tasks;
        segment->task_rows = fm_gemm_part(segment->count, FM_GEMM_ROWS, FM_GEMM_TILE_ROWS);
        segment->task_columns = fm_gemm_part(segment->b->n, columns_max, FM_GEMM_STRIP);
        segment->across = fm_gemm_ceil_div(segment->b->n, segment->task_columns);
        tasks += fm_gemm_ceil_div(segment->count, segment->task_rows) * segment->across;
    }
    return tasks;
}

// So many columns that the threads, each with its share of equal tasks, are done soonest. Every task widens its rows of A
// anew, which takes as long as multiplying them with about so many columns.
static int64_t choose_columns(struct fm_gemm_segment *segments, int count, int threads)
{
    enum { WIDENING = 24, ENOUGH = 8 }; // tasks a thread that even out by themselves
    int64_t best = FM_GEMM_COLUMNS, least = INT64_MAX;
    if (threads == 1 || cut(segments, count, best) >= (int64_t)ENOUGH * threads)
        return best;
    for (int64_t columns = FM_GEMM_COLUMNS; columns >= (int64_t)2 * FM_GEMM_STRIP; columns -= FM_GEMM_STRIP) {
        int64_t rounds = fm_gemm_ceil_div(cut(segments, count, columns), threads);
        if (rounds * (columns + WIDENING) < least) {
            least = rounds * (columns + WIDENING);
            best = columns;
        }
    }
    return best;
}

void fm_gemm_run(fm_gemm_context *context, struct fm_gemm_segment *segments, int count)
{
    int64_t columns = choose_columns(segments, count, context->threads);
    struct job job = {&context->kernels, segments, count};
    fm_gemm_deal(context, cut(segments, count, columns), run_task, &job);
}
