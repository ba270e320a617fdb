// The kernels for AVX2: tiles of 6 x 16, which take 12 of the 16 registers.
#include <immintrin.h>
#include <stdint.h>

// Loops over a tile's rows are unrolled so that its sums stay in registers.
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

enum { TILE_ROWS = 6, TILE_COLUMNS = 16 };

static void tile(int64_t k, const float *a, const float *b, float *c, int64_t stride, int accumulate)
{
    __m256 sums[TILE_ROWS][2];
    UNROLL for (int i = 0; i < TILE_ROWS; i++) UNROLL for (int j = 0; j < 2; j++) sums[i][j] =
        accumulate ? _mm256_loadu_ps(c + i * stride + 8 * j) : _mm256_setzero_ps();
    for (int64_t p = 0; p < k; p++, a += TILE_ROWS, b += TILE_COLUMNS) {
        __m256 b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + 8);
        UNROLL for (int i = 0; i < TILE_ROWS; i++)
        {
            __m256 factor = _mm256_broadcast_ss(a + i);
            sums[i][0] = _mm256_fmadd_ps(factor, b0, sums[i][0]);
            sums[i][1] = _mm256_fmadd_ps(factor, b1, sums[i][1]);
        }
    }
    UNROLL for (int i = 0; i < TILE_ROWS; i++) UNROLL for (int j = 0; j < 2; j++)
        _mm256_storeu_ps(c + i * stride + 8 * j, sums[i][j]);
}

#define FM_MODEL_TABLE fm_model_kernels_avx2
#include "model_kernels_body.h"
