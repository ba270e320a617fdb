/* A piece for tiles: operands in BF16, which holds every code, and every one that a power of two is folded into. */
#include "gemm_private.h"

#include <string.h>

enum { TILE = 16, A_STRIDE = FM_GEMM_BLOCK + FM_GEMM_A_PAD };

int64_t fm_gemm_piece_tiles_chunk(int count)
{
    int64_t rows = fm_gemm_ceil_div(count, TILE) * TILE;
    return ((int64_t)2 * FM_GEMM_A_FLOATS / rows - FM_GEMM_STEP) / FM_GEMM_BLOCK * FM_GEMM_BLOCK;
}

// Sixteen rows of A at a time, as f32 in B's place, then as BF16; zeros beyond the last row.
void fm_gemm_piece_tiles_a(const struct fm_gemm_piece *piece, int64_t k_from, int64_t length, size_t a_stride)
{
    uint16_t *out = (uint16_t *)(void *)piece->space->a;
    float *lines = piece->space->b;
    for (int first = 0; first < piece->count; first += TILE) {
        struct fm_gemm_piece rows = *piece;
        rows.first += first;
        rows.rows = piece->rows ? piece->rows + first : NULL;
        rows.a_rows = piece->a_rows ? piece->a_rows + first : NULL;
        rows.count = piece->count - first < TILE ? piece->count - first : TILE;
        for (int64_t at = 0; at < length; at += FM_GEMM_BLOCK) {
            int64_t part = fm_gemm_min(length - at, FM_GEMM_BLOCK);
            int64_t padded = fm_gemm_ceil_div(part, FM_GEMM_STEP) * FM_GEMM_STEP;
            fm_gemm_source_a(&rows, 1, k_from + at, part, lines, A_STRIDE);
            for (int i = rows.count; i < TILE; i++)
                memset(lines + (size_t)i * A_STRIDE, 0, (size_t)padded * sizeof *lines);
            for (int i = 0; i < TILE; i++)
                piece->kernels->narrow_line(lines + (size_t)i * A_STRIDE, padded,
                                            out + (size_t)(first + i) * a_stride + at);
        }
    }
}
