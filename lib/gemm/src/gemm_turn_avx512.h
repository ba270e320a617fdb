/**
 * @file gemm_turn_avx512.h
 * A square of 16 x 16 turned in registers.
 */
#ifndef GEMM_TURN_AVX512_H
#define GEMM_TURN_AVX512_H

#include "gemm_private.h"

#include <immintrin.h>

#include "fathom/kernel.h"

/** to[j][i] = from[i][j]; `to` may be `from`. */
FM_INLINE void turn_square(const float *from, size_t from_stride, float *to, size_t to_stride)
{
    __m512 a[FM_GEMM_SQUARE], b[FM_GEMM_SQUARE];
    FM_UNROLL for (size_t r = 0; r < FM_GEMM_SQUARE; r++)
    {
        a[r] = _mm512_loadu_ps(from + r * from_stride);
    }
    FM_UNROLL for (size_t r = 0; r < FM_GEMM_SQUARE; r += 2)
    {
        b[r] = _mm512_unpacklo_ps(a[r], a[r + 1]);
        b[r + 1] = _mm512_unpackhi_ps(a[r], a[r + 1]);
    }
    FM_UNROLL for (size_t r = 0; r < FM_GEMM_SQUARE;
                   r += 4) // a[4 q + c]: column c of each four, of rows 4 q ... 4 q + 3
    {
        a[r] = _mm512_shuffle_ps(b[r], b[r + 2], _MM_SHUFFLE(1, 0, 1, 0));
        a[r + 1] = _mm512_shuffle_ps(b[r], b[r + 2], _MM_SHUFFLE(3, 2, 3, 2));
        a[r + 2] = _mm512_shuffle_ps(b[r + 1], b[r + 3], _MM_SHUFFLE(1, 0, 1, 0));
        a[r + 3] = _mm512_shuffle_ps(b[r + 1], b[r + 3], _MM_SHUFFLE(3, 2, 3, 2));
    }
    FM_UNROLL for (size_t c = 0; c < 4; c++)
    {
        __m512 low0 = _mm512_shuffle_f32x4(a[c], a[4 + c], _MM_SHUFFLE(2, 0, 2, 0));
        __m512 low1 = _mm512_shuffle_f32x4(a[8 + c], a[12 + c], _MM_SHUFFLE(2, 0, 2, 0));
        __m512 high0 = _mm512_shuffle_f32x4(a[c], a[4 + c], _MM_SHUFFLE(3, 1, 3, 1));
        __m512 high1 = _mm512_shuffle_f32x4(a[8 + c], a[12 + c], _MM_SHUFFLE(3, 1, 3, 1));
        _mm512_storeu_ps(to + c * to_stride, _mm512_shuffle_f32x4(low0, low1, _MM_SHUFFLE(2, 0, 2, 0)));
        _mm512_storeu_ps(to + (8 + c) * to_stride, _mm512_shuffle_f32x4(low0, low1, _MM_SHUFFLE(3, 1, 3, 1)));
        _mm512_storeu_ps(to + (4 + c) * to_stride,
                         _mm512_shuffle_f32x4(high0, high1, _MM_SHUFFLE(2, 0, 2, 0)));
        _mm512_storeu_ps(to + (12 + c) * to_stride,
                         _mm512_shuffle_f32x4(high0, high1, _MM_SHUFFLE(3, 1, 3, 1)));
    }
}

#endif
