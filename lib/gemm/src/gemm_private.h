/**
 * @file gemm_private.h
 * How products are cut up.
 *
 *     call -> segments (a matrix B and the rows of A that meet it)
 *          -> tasks (up to ROWS rows x up to COLUMNS columns of D: one thread's, in one go)
 *          -> pieces (a task's rows that fold, and those that do not)
 *          -> chunks of k (as many blocks of 128 as leave the piece's rows of A, as f32, in the second-level cache)
 *          -> strips (32 columns) -> blocks (128 k): B's codes become f32 in the first-level cache, and multiply() adds
 *             the block's products to all rows of the piece.
 *
 * What a task computes does not depend on how tasks are cut, so neither does the result.
 */
#ifndef GEMM_PRIVATE_H
#define GEMM_PRIVATE_H

#include "fathom/gemm.h"
#include "fathom/mem.h"
#include "fathom/numfmt.h"

enum {
    FM_GEMM_STEP = 32,     // k of a step of the summation order: what TDPBF16PS adds at once
    FM_GEMM_BLOCK = 128,   // k of a block: what shares a scale
    FM_GEMM_PANEL = 16,    // columns of a panel of a blob: one zmm register of f32, one AMX tile
    FM_GEMM_STRIP = 32,    // columns of a strip: two panels
    FM_GEMM_TILE_ROWS = 6, // of the vector kernels
    FM_GEMM_ROWS = 480,    // of a task: a multiple of the tile's
    FM_GEMM_COLUMNS =
        512,            // of a task: with ROWS, 960 KiB of accumulators, half of a 2 MiB second-level cache
    FM_GEMM_A_PAD = 16, // floats between rows of A, so that rows do not share cache sets
    FM_GEMM_ACC_STRIDE = FM_GEMM_COLUMNS + 16, // of accumulators, for the same reason
    FM_GEMM_A_FLOATS = FM_GEMM_ROWS * (FM_GEMM_BLOCK + FM_GEMM_A_PAD),
    FM_GEMM_A_BLOCKS =
        2 * FM_GEMM_A_FLOATS / FM_GEMM_BLOCK, // rows x blocks that a chunk has at most, in BF16
    FM_GEMM_SQUARE = 16,                      // rows and columns that transpose() takes
    FM_GEMM_LINE = FM_GEMM_COLUMNS + 16,      // floats between lines that wait to be transposed
    FM_GEMM_FEW = 8,                          // rows that are few: registers hold e and o of each
    FM_GEMM_STREAMS = 8, // panels that few rows read side by side: memory gives most to 4 to 8 streams
    FM_GEMM_SUMS = 16    // that a sum along a row is kept in: the widest vector's lanes
};

/** A block of k: rows of A against a strip of B, both in f32 and padded with zeros to whole steps. */
struct fm_gemm_block {
    const float *a; // rows x steps * 32
    size_t a_stride;
    const float *b; // steps * 32 rows of FM_GEMM_STRIP
    int rows, steps;
    float *acc; // rows x FM_GEMM_STRIP
    size_t acc_stride;
    const float *a_scales;  // `rows`; NULL: a chain
    const float *b_scales;  // FM_GEMM_STRIP
    const uint8_t *next[2]; // the panels that the next block of B will come from; NULL: none
    int next_lines;         // cache lines of each
};

/** Asks for the share of the next block of B that so many rows' time pays for. All at once would stall. */
static inline void fm_gemm_block_prefetch(const struct fm_gemm_block *block, size_t row, size_t height)
{
    size_t lines = (size_t)block->next_lines, rows = (size_t)block->rows;
    for (size_t line = lines * row / rows; line < lines * (row + height) / rows; line++) {
        __builtin_prefetch(block->next[0] + line * FM_CACHE_LINE, 0, 2);
        __builtin_prefetch(block->next[1] + line * FM_CACHE_LINE, 0, 2);
    }
}

/** Rows of the next tile when so many are left. The last two share what is left evenly, since a low tile has too few
 *  chains to hide their latency. */
static inline size_t fm_gemm_tile_height(size_t left)
{
    if (left > FM_GEMM_TILE_ROWS && left < (size_t)2 * FM_GEMM_TILE_ROWS)
        return (left + 1) / 2;
    return left < FM_GEMM_TILE_ROWS ? left : FM_GEMM_TILE_ROWS;
}

/** A block of k: few rows of A against some panels of a blob, whose codes are used once and never stored as f32. */
struct fm_gemm_few {
    const uint8_t *panels[FM_GEMM_STREAMS];
    int64_t columns[FM_GEMM_STREAMS]; // of each, in the accumulators
    int count;                        // of panels
    const float *a;
    size_t a_stride;
    int rows, steps;
    float *acc;
    size_t acc_stride;
    int folds;
    const float *a_scales; // `rows`; E4M3
    const float *b_scales; // count x FM_GEMM_PANEL; E4M3
};

/** A block for tiles: its rows and columns as BF16, A's in rows and padded with zeros to 16 of them, B's as two rows of
 *  tiles, pairs of k by 16 columns. The block's `a` and `b` are not used; `acc` has room for the padding rows. */
struct fm_gemm_tiles {
    struct fm_gemm_block block;
    const uint16_t *a;
    size_t a_stride;
    const uint16_t *b[2];
};

/** Part of a row of SwiGLU, a multiple of FM_GEMM_SUMS long. The gradient overwrites gate and up with theirs. */
struct fm_gemm_swiglu_line {
    int64_t count;
    float *gate, *up;
    const float *dh; // gradient
    float *h;
    float weight, limit; // no limit: infinity
    float *
        sums; // gradient: FM_GEMM_SUMS of them, to which dh * silu(gate) * up are added, that of column i to sum i % 16
};

/** How codes are made. */
struct fm_gemm_codes {
    float factor;         // of a line
    const float *factors; // of the columns of a tile, FM_GEMM_SQUARE of them
    const char *ahead;    // BF16: to be asked for meanwhile, as many bytes as are read
    int64_t ahead_stride; // bytes; of the rows of a tile
    int streamed;         // past the caches, whole cache lines of them
};

/** What an ISA level provides. unpack_*() turn `pairs` (a multiple of 16) pairs of k of a panel of a blob into f32:
 *  rows of 16 with a stride of FM_GEMM_STRIP. */
struct fm_gemm_kernels {
    fm_isa isa;
    int flushes; // the kernels want FTZ and DAZ set; otherwise they flush subnormals themselves
    void (*multiply)(const struct fm_gemm_block *block);
    void (*unpack_bf16)(const uint8_t *panel, int64_t pairs, float *out);
    void (*unpack_e4m3)(const uint8_t *panel, int64_t pairs, float *out);
    void (*unpack_e2m1)(const uint8_t *panel, int64_t pairs, float *out);
    /** For up to FM_GEMM_FEW rows; NULL: multiply() serves them, too. */
    void (*few_bf16)(const struct fm_gemm_few *few);
    void (*few_e4m3)(const struct fm_gemm_few *few);
    /** Tiles; NULL: none. enter() and leave() bracket what a thread does with them. */
    void (*enter)(void);
    void (*leave)(void);
    void (*multiply_tiles)(const struct fm_gemm_tiles *tiles);
    /** To BF16, of numbers that it holds exactly: a multiple of 16; pairs of a strip, as two rows of tiles. */
    void (*narrow_line)(const float *from, int64_t count, uint16_t *out);
    void (*narrow_strip)(const float *strip, int64_t pairs, uint16_t *tiles[2]);
    /** A panel of E4M3 as a row of tiles; NULL: by way of f32. */
    void (*unpack_pairs)(const uint8_t *panel, int64_t pairs, uint16_t *out);
    /** As fm_base_bf16_to_f32() and its like, for the short lines that operands are taken in. */
    void (*widen_bf16)(const fm_bf16 *from, size_t count, float *out);
    void (*widen_e4m3)(const fm_e4m3 *from, size_t count, float *out);
    /** Row after row of a strip times the same FM_GEMM_STRIP scales. */
    void (*scale_strip)(float *strip, int64_t rows, const float *scales);
    void (*scale_line)(float *line, int64_t count, float scale);
    /** A square of FM_GEMM_SQUARE: to[j][i] = from[i][j]. */
    void (*transpose)(const float *from, size_t from_stride, float *to, size_t to_stride);
    /** The largest of `least` and the magnitudes of a line, NaN aside. */
    float (*amax)(const float *line, int64_t count, float least);
    /*
     * E4M3 of finite numbers times factors; all NULL: number by number. A peak is the largest of the bits without sign, those
     * of an f32 and NaN among them: what is not finite shows. peaks_down() and codes_turned() take the columns of a tile, 16
     * side by side; codes_turned() writes a row of codes for each of the first `columns`. Of BF16 up to 32 columns of up to
     * 128 rows are turned; they go through a copy without gaps, since strides of many 2 KiB share a few sets of a first-level
     * cache. The copy has whole fours of rows.
     */
    uint32_t (*peak_bf16)(const fm_bf16 *from, int64_t count);
    uint32_t (*peak_f32)(const float *from, int64_t count);
    /** Of amax, the greater of a peak and `least`: amax / 448 and its inverse. False: a peak is not finite. */
    int (*scales_of_peaks)(const uint32_t *peaks, int64_t count, float least, float *scales, float *factors);
    void (*peaks_down)(const float *tile, size_t stride, int64_t rows, uint32_t *peaks);
    void (*codes_of_bf16)(const fm_bf16 *from, int64_t count, const struct fm_gemm_codes *codes,
                          fm_e4m3 *out);
    void (*codes_of_f32)(const float *from, int64_t count, const struct fm_gemm_codes *codes, fm_e4m3 *out);
    void (*codes_turned)(const float *tile, size_t stride, int64_t rows, int64_t columns,
                         const struct fm_gemm_codes *codes, fm_e4m3 *out, int64_t out_stride);
    void (*peaks_down_bf16)(const fm_bf16 *from, int64_t stride, int64_t rows, int64_t columns, fm_bf16 *copy,
                            uint32_t *peaks);
    void (*codes_turned_bf16)(const fm_bf16 *copy, int64_t rows, int64_t columns,
                              const struct fm_gemm_codes *codes, fm_e4m3 *out, int64_t out_stride);
    /** sum[i] = fma(from[i], factor, sum[i]). */
    void (*add_scaled)(const float *from, float factor, int64_t count, float *sum);
    /** sum[i] = fma(from[i] < 0 ? 0 : from[i], factor, sum[i]). */
    void (*add_relu)(const float *from, float factor, int64_t count, float *sum);
    /** to[i] *= from[i]. */
    void (*multiply_lines)(const float *from, int64_t count, float *to);
    void (*swiglu_forward)(const struct fm_gemm_swiglu_line *line);
    /** Of gate and up where they lie, `count` of each, with those at `ahead` asked for. NULL: widen them first. */
    void (*swiglu_forward_bf16)(const struct fm_gemm_swiglu_line *line, int64_t count,
                                const fm_bf16 *const from[2], const fm_bf16 *const ahead[2]);
    void (*swiglu_backward)(const struct fm_gemm_swiglu_line *line);
};

void fm_gemm_install_ref(struct fm_gemm_kernels *kernels);
void fm_gemm_install_avx2(struct fm_gemm_kernels *kernels);
void fm_gemm_install_avx512(struct fm_gemm_kernels *kernels);
void fm_gemm_install_few_avx512(struct fm_gemm_kernels *kernels);
void fm_gemm_install_few_vbmi(struct fm_gemm_kernels *kernels);
void fm_gemm_install_quant_avx512(struct fm_gemm_kernels *kernels);
void fm_gemm_install_amx(struct fm_gemm_kernels *kernels);
/** True when the tiles give the bits that `other` gives, on a block that has what is easy to get wrong. */
int fm_gemm_tiles_agree(const struct fm_gemm_kernels *tiles, const struct fm_gemm_kernels *other);
void fm_gemm_install_lanes_ref(struct fm_gemm_kernels *kernels);
void fm_gemm_install_lanes_avx2(struct fm_gemm_kernels *kernels);
void fm_gemm_install_lanes_avx512(struct fm_gemm_kernels *kernels);

/** A thread's workspace. */
struct fm_gemm_space {
    _Alignas(64) float acc[FM_GEMM_ROWS * FM_GEMM_ACC_STRIDE];
    _Alignas(64) float a[FM_GEMM_A_FLOATS];
    _Alignas(64) float b[FM_GEMM_BLOCK * FM_GEMM_STRIP];
    _Alignas(64) uint16_t tiles[2][FM_GEMM_BLOCK * FM_GEMM_PANEL]; // a strip of B as tiles
    _Alignas(64) float lines[FM_GEMM_SQUARE * FM_GEMM_LINE];       // to be transposed; or a row of C
    float a_scales[FM_GEMM_A_BLOCKS];
    float b_scales[FM_GEMM_STRIP];
    int64_t rows[2][FM_GEMM_ROWS]; // of a task, those that fold first: of D, of A
};

/** The next task of a thread's share: in a cache line of its own, since others look at it. */
struct fm_gemm_share {
    _Alignas(FM_CACHE_LINE) int64_t next;
};

struct fm_gemm_context {
    struct fm_gemm_kernels kernels;
    int threads;
    fm_gemm_team team;            // run is NULL: OpenMP
    struct fm_gemm_space *spaces; // one for each thread
    struct fm_gemm_share *shares; // likewise
};

/** Rows of an A, by number, that meet one B. */
struct fm_gemm_segment {
    const fm_gemm_operand *a;
    const fm_gemm_weights *b;
    const fm_gemm_result *d;
    const int64_t *rows;   // of D; NULL: first, first + 1, ...
    const int64_t *a_rows; // of A, where they are others
    int64_t first, count;
    // Set by fm_gemm_run().
    int64_t task_rows, task_columns; // of each task but the last
    int64_t across;                  // tasks side by side
    int64_t tasks_before;            // in the segments before this one
};

/** Computes all segments. Arguments have been checked. Cannot fail. */
void fm_gemm_run(fm_gemm_context *context, struct fm_gemm_segment *segments, int count);

/**
 * Deals `tasks` out to the context's threads: body(argument, task, space) once for each, in the kernels' floating-point
 * mode. Each thread starts with its own share of consecutive tasks and then helps the others, so that what is dealt
 * out twice alike goes to the same threads.
 */
void fm_gemm_deal(fm_gemm_context *context, int64_t tasks,
                  void (*body)(void *argument, int64_t task, struct fm_gemm_space *space), void *argument);

/** Rows first ... first + count - 1 of a segment, columns from `column` on. */
struct fm_gemm_piece {
    const struct fm_gemm_kernels *kernels;
    const fm_gemm_operand *a;
    const fm_gemm_weights *b;
    const fm_gemm_result *d;
    const int64_t *rows;   // of D; NULL: first, first + 1, ...
    const int64_t *a_rows; // of A, where they are others
    int64_t first;
    int count;
    int64_t column, columns;
    int folds;
    struct fm_gemm_space *space;
};

static inline int64_t fm_gemm_piece_row(const struct fm_gemm_piece *piece, int i)
{
    return piece->rows ? piece->rows[i] : piece->first + i;
}

static inline int64_t fm_gemm_piece_a_row(const struct fm_gemm_piece *piece, int i)
{
    return piece->a_rows ? piece->a_rows[i] : fm_gemm_piece_row(piece, i);
}

void fm_gemm_piece_run(const struct fm_gemm_piece *piece);
/** How much of k a workspace holds of so many rows in BF16. */
int64_t fm_gemm_piece_tiles_chunk(int count);
/** The piece's rows of A as BF16, into the workspace. */
void fm_gemm_piece_tiles_a(const struct fm_gemm_piece *piece, int64_t k_from, int64_t length,
                           size_t a_stride);

/** The scale of row `row` and block `block` (of scale_k). */
static inline float fm_gemm_scale_at(const fm_gemm_operand *operand, int64_t row, int64_t block)
{
    int64_t at = row / operand->scale_rows * operand->scale_stride + block;
    if (operand->scale_dtype == FM_DTYPE_F8_UE8M0)
        return fm_ue8m0_to_f32(((const fm_ue8m0 *)operand->scales)[at]);
    return ((const float *)operand->scales)[at];
}

static inline int fm_gemm_scale_k(const fm_gemm_operand *operand)
{
    return operand->scale_k ? operand->scale_k : FM_GEMM_SCALE_BLOCK;
}

/** True when the scales of row `row` (of its row of scales) fold, as fathom/gemm.h says. */
int fm_gemm_source_row_folds(const fm_gemm_operand *operand, int64_t row, int64_t k);
int fm_gemm_source_folds(const fm_gemm_operand *operand, int64_t rows, int64_t k);

/** `rows` rows from `row` on (480 at most) and `length` columns from k_from on, as f32, times their scales; zeros up to
 *  a multiple of 32 columns. `space` may be the one that `out` lies in, but for its lines. */
void fm_gemm_source_load(const struct fm_gemm_kernels *kernels, const fm_gemm_operand *from, int64_t row,
                         int rows, int64_t k_from, int64_t length, struct fm_gemm_space *space, float *out,
                         size_t out_stride);

/** The piece's rows of A, k from `k_from` on, `length` of them, as f32; zeros up to a whole step. `scaled`: times the
 *  scales that fold or are of 32. */
void fm_gemm_source_a(const struct fm_gemm_piece *piece, int scaled, int64_t k_from, int64_t length,
                      float *out, size_t out_stride);
/** A strip of B from column `from` on, times its scales where they fold or are of 32; zeros beyond n. */
void fm_gemm_source_b(const struct fm_gemm_piece *piece, int64_t from, int64_t k_from, int64_t length,
                      float *out);

/** Bytes of `pairs` pairs of k of a panel. */
int64_t fm_gemm_panel_bytes(fm_dtype dtype, int64_t pairs);

/* Checks; each names what is wrong. */
FM_MUST_USE fm_status fm_gemm_args_extent(const char *name, int64_t value);
FM_MUST_USE fm_status fm_gemm_args_operand(const char *name, int64_t rows, int64_t k,
                                           const fm_gemm_operand *operand);
/** The same, or F32. */
FM_MUST_USE fm_status fm_gemm_args_source(const char *name, int64_t rows, int64_t k,
                                          const fm_gemm_operand *operand);
/** `outer` lines of `inner` elements of this dtype, `stride` apart. */
FM_MUST_USE fm_status fm_gemm_args_lines(const char *name, fm_dtype dtype, const void *data, int64_t outer,
                                         int64_t inner, int64_t stride);
FM_MUST_USE fm_status fm_gemm_args_result(int64_t m, int64_t n, const fm_gemm_result *d);
FM_MUST_USE fm_status fm_gemm_args_pair(const fm_gemm_operand *a, const fm_gemm_operand *b);
/** groups + 1 offsets that do not decrease, from 0 or above to `end` or below. */
FM_MUST_USE fm_status fm_gemm_args_offsets(int groups, const int64_t *offsets, int64_t end);

static inline int64_t fm_gemm_ceil_div(int64_t a, int64_t b)
{
    return a / b + (a % b != 0);
}

/** How long equal parts of `count` are, multiples of `step`, when there are as few as `part_max` (such a multiple) allows. */
static inline int64_t fm_gemm_part(int64_t count, int64_t part_max, int64_t step)
{
    int64_t parts = fm_gemm_ceil_div(count, part_max);
    return parts ? fm_gemm_ceil_div(fm_gemm_ceil_div(count, parts), step) * step : step;
}

/** Where block number `block` of `step` rows each lies, when the blocks of each group begin with its first row. */
struct fm_gemm_group_block {
    int group;
    int64_t first, count; // rows
};
struct fm_gemm_group_block fm_gemm_group_block_at(int groups, const int64_t *offsets, int64_t step,
                                                  int64_t block);
int64_t fm_gemm_group_blocks(int groups, const int64_t *offsets, int64_t step);

static inline int64_t fm_gemm_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

#endif
