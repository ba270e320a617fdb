/**
 * @file mla_turn_avx512.h
 * A 16 x 16 matrix of dwords transposed in registers: dword i of row r becomes dword r of out[i].
 */
#ifndef MLA_TURN_AVX512_H
#define MLA_TURN_AVX512_H

#include "fathom/kernel.h"

#include <immintrin.h>

// 4 x 4 blocks of 4 x 4: first within blocks, then the blocks.
FM_INLINE void fm_mla_turn(const __m512i row[16], __m512i out[16])
{
    __m512i pair[16], quad[16];
    FM_UNROLL for (int r = 0; r < 16; r += 2)
    {
        pair[r] = _mm512_unpacklo_epi32(row[r], row[r + 1]);
        pair[r + 1] = _mm512_unpackhi_epi32(row[r], row[r + 1]);
    }
    FM_UNROLL for (int r = 0; r < 16; r += 4)
    {
        quad[r] = _mm512_unpacklo_epi64(pair[r], pair[r + 2]);
        quad[r + 1] = _mm512_unpackhi_epi64(pair[r], pair[r + 2]);
        quad[r + 2] = _mm512_unpacklo_epi64(pair[r + 1], pair[r + 3]);
        quad[r + 3] = _mm512_unpackhi_epi64(pair[r + 1], pair[r + 3]);
    }
    // Block c of quad[4 k + i] is column 4 c + i of rows 4 k ... 4 k + 3.
    FM_UNROLL for (int i = 0; i < 4; i++)
    {
        __m512i low_0 = _mm512_shuffle_i32x4(quad[i], quad[4 + i], 0x44);
        __m512i low_1 = _mm512_shuffle_i32x4(quad[8 + i], quad[12 + i], 0x44);
        __m512i high_0 = _mm512_shuffle_i32x4(quad[i], quad[4 + i], 0xEE);
        __m512i high_1 = _mm512_shuffle_i32x4(quad[8 + i], quad[12 + i], 0xEE);
        out[i] = _mm512_shuffle_i32x4(low_0, low_1, 0x88);
        out[4 + i] = _mm512_shuffle_i32x4(low_0, low_1, 0xDD);
        out[8 + i] = _mm512_shuffle_i32x4(high_0, high_1, 0x88);
        out[12 + i] = _mm512_shuffle_i32x4(high_0, high_1, 0xDD);
    }
}

#endif
