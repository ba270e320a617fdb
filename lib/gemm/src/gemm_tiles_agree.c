/* Whether tiles keep the order of sums: asked of each CPU that has them, since no manual binds the next one. */
#include "gemm_private.h"

#include <math.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { ROWS = 32, K = 64, TINY_ROWS = 8 };

static void fill(float a[ROWS][K], float b[K][FM_GEMM_STRIP])
{
    uint32_t state = 1;
    for (int i = 0; i < ROWS * K + K * FM_GEMM_STRIP; i++) {
        state = state * 1664525 + 1013904223;
        // BF16 of any sign and mantissa, of exponents from 2^-20 to 2^11. Some rows times columns underflow.
        uint32_t bits = (state & 0x80000000) | (107 + (state >> 26 & 31)) << 23 | (state & 0x007F0000);
        float value = fm_f32_from_bits(bits);
        if (i < ROWS * K)
            a[i / K][i % K] = i / K < TINY_ROWS ? fm_bf16_to_f32(fm_f32_to_bf16(value * 0x1p-100f)) : value;
        else
            b[(i - ROWS * K) / FM_GEMM_STRIP][(i - ROWS * K) % FM_GEMM_STRIP] = value;
    }
    a[ROWS - 1][3] = INFINITY;
}

static int same(const float *a, const float *b, int count)
{
    for (int i = 0; i < count; i++)
        if (fm_f32_bits(a[i]) != fm_f32_bits(b[i]) && !(isnan(a[i]) && isnan(b[i])))
            return 0;
    return 1;
}

int fm_gemm_tiles_agree(const struct fm_gemm_kernels *tiles, const struct fm_gemm_kernels *other)
{
    static const struct fm_gemm_block none;
    _Alignas(64) float a[ROWS][K], b[K][FM_GEMM_STRIP], acc[2][ROWS * FM_GEMM_STRIP] = {{0}};
    _Alignas(64) uint16_t a_tiles[ROWS][K], b_tiles[2][K * FM_GEMM_PANEL];
    uint16_t *rows_of_tiles[2] = {b_tiles[0], b_tiles[1]};
    fill(a, b);
    for (int row = 0; row < ROWS; row++)
        tiles->narrow_line(a[row], K, a_tiles[row]);
    tiles->narrow_strip(b[0], K / 2, rows_of_tiles);
    struct fm_gemm_block block = none;
    block.a = a[0];
    block.a_stride = K;
    block.b = b[0];
    block.rows = ROWS;
    block.steps = K / FM_GEMM_STEP;
    block.acc = acc[0];
    block.acc_stride = FM_GEMM_STRIP;
    uint32_t mode = fm_base_fp_enter();
#if defined(__x86_64__)
    _mm_setcsr(_mm_getcsr() | _MM_FLUSH_ZERO_ON | 0x0040); // and denormals are zero
#endif
    other->multiply(&block);
    block.acc = acc[1];
    tiles->enter();
    tiles->multiply_tiles(&(struct fm_gemm_tiles){
        .block = block, .a = a_tiles[0], .a_stride = K, .b = {b_tiles[0], b_tiles[1]}});
    tiles->leave();
    fm_base_fp_leave(mode);
    return same(acc[0], acc[1], ROWS * FM_GEMM_STRIP);
}
