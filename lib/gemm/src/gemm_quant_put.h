/**
 * @file gemm_quant_put.h
 * How f32 numbers in a workspace become codes and scales.
 */
#ifndef GEMM_QUANT_PUT_H
#define GEMM_QUANT_PUT_H

#include "gemm_private.h"

#include "fathom/gemm_quant.h"

enum {
    FM_GEMM_STREAMED_MIN = 4 << 20, // twice a second-level cache of 2 MiB
    FM_GEMM_QUANT_ROWS = 8, // side by side, where scales are of rows: memory gives most to 4 to 8 streams
    FM_GEMM_QUANT_COLUMNS = 512, // at a time: 8 KiB of BF16 in so many rows, in the first-level cache
    FM_GEMM_QUANT_SCALES =
        FM_GEMM_QUANT_ROWS * FM_GEMM_QUANT_COLUMNS / FM_GEMM_SCALE_BLOCK_MX, // of a tile at most
    FM_GEMM_QUANT_TURNED = 32, // columns of BF16 that are turned at a time: a cache line of each row
    FM_GEMM_SQUARE_TILE = 128, // rows and columns of a tile that is turned
    FM_GEMM_SQUARE_STRIDE =
        FM_GEMM_SQUARE_TILE + FM_GEMM_A_PAD // of it, so that its rows do not share cache sets
};

/** Where numbers go: row `row` on, column `column` on, with their scales from column `scale_column` on. */
struct fm_gemm_quant_place {
    const fm_gemm_quantised *to;
    int64_t row, column, scale_column;
    int streamed; // codes need not stay in the caches
};

/** Quantises rows x count numbers, which it may overwrite. Both begin with a block of scales. */
void fm_gemm_quant_put(const struct fm_gemm_kernels *kernels, const struct fm_gemm_quant_place *place,
                       int64_t rows, int64_t count, float *tile, size_t stride);
/**
 * The same of BF16 as it lies, made E4M3, where kernels->codes_of_bf16: at most FM_GEMM_QUANT_ROWS rows of scales and
 * FM_GEMM_QUANT_COLUMNS columns. Asks for the tile at `ahead` meanwhile. False: it is not finite, and codes are none.
 */
int fm_gemm_quant_put_bf16(const struct fm_gemm_kernels *kernels, const struct fm_gemm_quant_place *place,
                           int64_t rows, int64_t count, const fm_bf16 *from, int64_t stride,
                           const fm_bf16 *ahead);
/** The transpose of BF16 as it lies, at most 128 rows that share scales, and FM_GEMM_QUANT_TURNED columns; else likewise. */
int fm_gemm_quant_turn_bf16(const struct fm_gemm_kernels *kernels, const struct fm_gemm_quant_place *place,
                            int64_t rows, int64_t columns, const fm_bf16 *from, int64_t stride,
                            const fm_bf16 *ahead);
/** The transpose of rows x count numbers, at most FM_GEMM_SQUARE_TILE each, rows FM_GEMM_SQUARE_STRIDE apart. The tile has
 *  whole squares of 16, which it may overwrite. */
void fm_gemm_quant_put_turned(const struct fm_gemm_kernels *kernels, const struct fm_gemm_quant_place *place,
                              int64_t rows, int64_t count, float *tile);

/** True for so many codes that they do not fit into a second-level cache: they come back from the third no faster than from
 *  memory, and storing past it saves reading the lines first. */
static inline int fm_gemm_quant_is_streamed(int64_t rows, int64_t k)
{
    return rows * k > (int64_t)FM_GEMM_STREAMED_MIN;
}

/** Columns from `column` on to a plain row: F32 or BF16. */
void fm_gemm_quant_put_plain(fm_dtype dtype, void *out, int64_t at, const float *line, int64_t count);

FM_MUST_USE fm_status fm_gemm_quant_check(const char *name, int64_t rows, int64_t k,
                                          const fm_gemm_quantised *to);
/** Of one whose columns are rows in groups. */
FM_MUST_USE fm_status fm_gemm_quant_check_turned(const char *name, int groups, const int64_t *offsets,
                                                 int64_t k, const fm_gemm_quantised *to);
FM_MUST_USE fm_status fm_gemm_quant_check_plain(const char *name, fm_dtype dtype, const void *data,
                                                int64_t rows, int64_t k, int64_t stride);

static inline int fm_gemm_quant_scale_k(const fm_gemm_quantised *to)
{
    return to->scale_k ? to->scale_k : FM_GEMM_SCALE_BLOCK;
}

#endif
