// The kernels on any CPU.
#include <math.h>
#include <stdint.h>

enum { TILE_ROWS = 4, TILE_COLUMNS = 4 };

static void tile(int64_t k, const float *a, const float *b, float *c, int64_t stride, int accumulate)
{
    float sums[TILE_ROWS][TILE_COLUMNS];
    for (int i = 0; i < TILE_ROWS; i++)
        for (int j = 0; j < TILE_COLUMNS; j++)
            sums[i][j] = accumulate ? c[i * stride + j] : 0;
    for (int64_t p = 0; p < k; p++, a += TILE_ROWS, b += TILE_COLUMNS)
        for (int i = 0; i < TILE_ROWS; i++)
            for (int j = 0; j < TILE_COLUMNS; j++)
                sums[i][j] = fmaf(a[i], b[j], sums[i][j]);
    for (int i = 0; i < TILE_ROWS; i++)
        for (int j = 0; j < TILE_COLUMNS; j++)
            c[i * stride + j] = sums[i][j];
}

#define FM_MODEL_TABLE fm_model_kernels_ref
#include "model_kernels_body.h"
