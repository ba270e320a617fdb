/*
 * A vector holds a dword of 16 keys each, two values of BF16: 16 x 16 dwords, transposed in registers, are a step of the
 * order of sums, and even and odd values are a shift and a mask away.
 */
#include "mla_private.h"

#include <immintrin.h>

#include "fathom/kernel.h"
#include "fathom/numfmt.h"

#include <string.h>

enum { LANES = 16, PAIRS = FM_MLA_STEP / 2 };

// Dword i of 16 keys, from byte `at` on; only the first `pairs` dwords are there.
FM_INLINE void load_transposed(const uint8_t *const *keys, size_t at, int pairs, __m512i out[PAIRS])
{
    const __mmask16 there = (__mmask16)((1U << pairs) - 1);
    __m512i row[LANES], pair[LANES];
    FM_UNROLL for (int r = 0; r < LANES; r++) row[r] = _mm512_maskz_loadu_epi32(there, keys[r] + at);
    FM_UNROLL for (int r = 0; r < LANES; r += 2)
    {
        pair[r] = _mm512_unpacklo_epi32(row[r], row[r + 1]);
        pair[r + 1] = _mm512_unpackhi_epi32(row[r], row[r + 1]);
    }
    FM_UNROLL for (int r = 0; r < LANES; r += 4)
    {
        row[r] = _mm512_unpacklo_epi64(pair[r], pair[r + 2]);
        row[r + 1] = _mm512_unpackhi_epi64(pair[r], pair[r + 2]);
        row[r + 2] = _mm512_unpacklo_epi64(pair[r + 1], pair[r + 3]);
        row[r + 3] = _mm512_unpackhi_epi64(pair[r + 1], pair[r + 3]);
    }
    FM_UNROLL for (int i = 0; i < 4; i++)
    {
        __m512i low_0 = _mm512_shuffle_i32x4(row[i], row[4 + i], 0x44);
        __m512i low_1 = _mm512_shuffle_i32x4(row[8 + i], row[12 + i], 0x44);
        __m512i high_0 = _mm512_shuffle_i32x4(row[i], row[4 + i], 0xEE);
        __m512i high_1 = _mm512_shuffle_i32x4(row[8 + i], row[12 + i], 0xEE);
        out[i] = _mm512_shuffle_i32x4(low_0, low_1, 0x88);
        out[4 + i] = _mm512_shuffle_i32x4(low_0, low_1, 0xDD);
        out[8 + i] = _mm512_shuffle_i32x4(high_0, high_1, 0x88);
        out[12 + i] = _mm512_shuffle_i32x4(high_0, high_1, 0xDD);
    }
}

// Logits of 16 keys with the rows.
FM_INLINE void dots_of_16(const struct fm_mla_few *few, const uint8_t *const *keys, int rows,
                          __m512 acc[FM_MLA_FEW_ROWS])
{
    const __m512i high = _mm512_set1_epi32((int)0xFFFF0000);
    FM_UNROLL for (int r = 0; r < rows; r++) acc[r] = _mm512_setzero_ps();
    for (int at = 0; at < few->depth; at += FM_MLA_STEP) {
        int pairs =
            few->depth - at < FM_MLA_STEP ? (few->depth - at) / 2 : PAIRS; // a depth is a multiple of 16
        __m512i dwords[PAIRS];
        __m512 even[FM_MLA_FEW_ROWS], odd[FM_MLA_FEW_ROWS];
        load_transposed(keys, (size_t)at * 2, pairs, dwords);
        fm_mla_ahead_ask(few->ahead, LANES); // a line for each that was just read
        FM_UNROLL for (int r = 0; r < rows; r++) even[r] = odd[r] = _mm512_setzero_ps();
        FM_UNROLL for (int i = 0; i < PAIRS; i++)
        {
            if (i < pairs) {
                __m512 x = _mm512_castsi512_ps(_mm512_slli_epi32(dwords[i], 16));
                __m512 y = _mm512_castsi512_ps(_mm512_and_si512(dwords[i], high));
                const float *q = few->q + at + (ptrdiff_t)2 * i;
                FM_UNROLL for (int r = 0; r < rows; r++)
                {
                    even[r] = _mm512_fmadd_ps(_mm512_set1_ps(q[(size_t)r * few->q_stride]), x, even[r]);
                    odd[r] = _mm512_fmadd_ps(_mm512_set1_ps(q[(size_t)r * few->q_stride + 1]), y, odd[r]);
                }
            }
        }
        FM_UNROLL for (int r = 0; r < rows; r++) acc[r] =
            _mm512_add_ps(acc[r], _mm512_add_ps(even[r], odd[r]));
    }
}

FM_INLINE void dots(const struct fm_mla_few *few, int rows)
{
    for (int key = 0; key < few->count; key += LANES) {
        __m512 acc[FM_MLA_FEW_ROWS];
        float lanes[LANES];
        dots_of_16(few, few->keys + key, rows, acc);
        for (int r = 0; r < rows; r++) {
            _mm512_storeu_ps(lanes, acc[r]);
            for (int t = 0; t < LANES; t++)
                few->p[(size_t)(key + t) * few->p_stride + (size_t)r] = lanes[t];
        }
    }
}

// 16 columns of the values of a step of keys.
FM_INLINE void values_of_16(const struct fm_mla_few *few, int key, int count, size_t column, int rows)
{
    __m512 sum[2][FM_MLA_FEW_ROWS];
    FM_UNROLL for (int r = 0; r < rows; r++) sum[0][r] = sum[1][r] = _mm512_setzero_ps();
    for (int t = 0; t < count; t += 2) {
        FM_UNROLL for (int parity = 0; parity < 2; parity++)
        {
            if (t + parity < count) {
                const uint8_t *from = few->keys[key + t + parity] + column * 2;
                __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
                __m512 value = _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
                const float *p = few->p + (size_t)(key + t + parity) * few->p_stride;
                FM_UNROLL for (int r = 0; r < rows; r++) sum[parity][r] =
                    _mm512_fmadd_ps(_mm512_set1_ps(p[r]), value, sum[parity][r]);
            }
        }
    }
    FM_UNROLL for (int r = 0; r < rows; r++)
    {
        float *o = few->o + (size_t)r * few->o_stride + column;
        __m512 before = key || !few->fresh ? _mm512_loadu_ps(o) : _mm512_setzero_ps();
        _mm512_storeu_ps(o, _mm512_add_ps(before, _mm512_add_ps(sum[0][r], sum[1][r])));
    }
}

FM_INLINE void values(const struct fm_mla_few *few, int rows)
{
    for (int key = 0; key < few->count; key += FM_MLA_STEP) {
        int count = few->count - key < FM_MLA_STEP ? few->count - key : FM_MLA_STEP;
        for (size_t column = 0; column < (size_t)few->depth; column += LANES)
            values_of_16(few, key, count, column, rows);
    }
}

// A switch, so that each number of rows has its own registers.
#define BY_ROWS(function, few) \
    switch ((few)->rows) {     \
    case 1:                    \
        function(few, 1);      \
        break;                 \
    case 2:                    \
        function(few, 2);      \
        break;                 \
    case 3:                    \
    case 4:                    \
        function(few, 4);      \
        break;                 \
    default:                   \
        function(few, 8);      \
        break;                 \
    }

void fm_mla_few_dots_avx512(const struct fm_mla_few *few)
{
    BY_ROWS(dots, few)
}

void fm_mla_few_values_avx512(const struct fm_mla_few *few){BY_ROWS(values, few)}

// 32 codes in 16 bits each, as BF16 times 2^k for `offset` = k << 7; what shifting gets wrong is looked up: the NaN, which an
// increment brings to index 0, and the subnormals and zero, at 1 to 8.
FM_INLINE __m512i shifted(__m512i codes, __m512i offset, __m512i exceptions)
{
    const __m512i low7 = _mm512_set1_epi16(0x7F);
    __m512i index = _mm512_and_si512(_mm512_add_epi16(codes, _mm512_set1_epi16(1)), low7);
    __mmask32 exceptional = _mm512_cmple_epu16_mask(index, _mm512_set1_epi16(8));
    __m512i words = _mm512_add_epi16(_mm512_slli_epi16(_mm512_and_si512(codes, low7), 4), offset);
    words = _mm512_mask_permutexvar_epi16(words, exceptional, index, exceptions);
    return _mm512_ternarylogic_epi32(words, _mm512_slli_epi16(codes, 8), _mm512_set1_epi16((short)0x8000),
                                     0xF8);
}

// 16 values of f32 rounded to BF16, in the upper halves. A NaN here has no low bits that could carry.
FM_INLINE __m512i rounded_bits(__m512 value)
{
    __m512i bits = _mm512_castps_si512(value);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    return _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
}

void fm_mla_narrow_e4m3_avx512(const uint8_t *codes, size_t n, float scale, uint16_t *out)
{
    enum {
        WORDS = 32,
        LEAST = -100,
        MOST = 100
    }; // powers that leave all values within BF16's normal numbers
    const __m512i exceptions = _mm512_zextsi256_si512(_mm256_setr_epi16(
        0x7FC0, 0, 0x3B00, 0x3B80, 0x3BC0, 0x3C00, 0x3C20, 0x3C40, 0x3C60, 0, 0, 0, 0, 0, 0, 0));
    const uint32_t bits = fm_f32_bits(scale);
    const int power = (int)(bits >> 23) - 127,
              is_power = !(bits & 0x7FFFFF) && power >= LEAST && power <= MOST;
    const __m512i by = _mm512_set1_epi16((short)(is_power ? power * 128 : 0));
    // All but the NaN and the zero move with the others.
    const __m512i moved = _mm512_mask_add_epi16(exceptions, 0x1FC, exceptions, by);
    const __m512i offset = _mm512_add_epi16(_mm512_set1_epi16(120 << 7), by);
    const __m512 scales = _mm512_set1_ps(scale == scale ? scale : __builtin_nanf(""));
    for (size_t i = 0; i < n; i += WORDS) {
        __mmask32 lanes = n - i < WORDS ? 0xFFFF : ~0U; // n is a multiple of 16
        __m512i words =
            shifted(_mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(lanes, codes + i)), offset, moved);
        if (!is_power) {
            __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
            __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32((int)0xFFFF0000)));
            __m512i low = _mm512_srli_epi32(rounded_bits(_mm512_mul_ps(even, scales)), 16);
            words = _mm512_mask_blend_epi16(0xAAAAAAAA, low, rounded_bits(_mm512_mul_ps(odd, scales)));
        }
        _mm512_mask_storeu_epi16(out + i, lanes, words);
    }
}
