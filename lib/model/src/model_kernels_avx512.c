// The kernels for AVX-512: tiles of 12 x 32, which take 24 of the 32 registers.
#include <immintrin.h>
#include <stdint.h>

// Loops over a tile's rows are unrolled so that its sums stay in registers.
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

enum { TILE_ROWS = 12, TILE_COLUMNS = 32 };

static void tile(int64_t k, const float *a, const float *b, float *c, int64_t stride, int accumulate)
{
    __m512 sums[TILE_ROWS][2];
    UNROLL for (int i = 0; i < TILE_ROWS; i++) UNROLL for (int j = 0; j < 2; j++) sums[i][j] =
        accumulate ? _mm512_loadu_ps(c + i * stride + 16 * j) : _mm512_setzero_ps();
    for (int64_t p = 0; p < k; p++, a += TILE_ROWS, b += TILE_COLUMNS) {
        __m512 b0 = _mm512_loadu_ps(b), b1 = _mm512_loadu_ps(b + 16);
        UNROLL for (int i = 0; i < TILE_ROWS; i++)
        {
            __m512 factor = _mm512_set1_ps(a[i]);
            sums[i][0] = _mm512_fmadd_ps(factor, b0, sums[i][0]);
            sums[i][1] = _mm512_fmadd_ps(factor, b1, sums[i][1]);
        }
    }
    UNROLL for (int i = 0; i < TILE_ROWS; i++) UNROLL for (int j = 0; j < 2; j++)
        _mm512_storeu_ps(c + i * stride + 16 * j, sums[i][j]);
}

#define FM_MODEL_TABLE fm_model_kernels_avx512
#include "model_kernels_body.h"
