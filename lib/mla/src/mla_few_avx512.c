/*
 * A vector holds a dword of 16 keys each, two values of BF16: 16 x 16 dwords, transposed in registers, are a step of the
 * order of sums, and even and odd values are a shift and a mask away.
 */
#include "mla_private.h"

#include "mla_turn_avx512.h"

#include <immintrin.h>

#include "fathom/kernel.h"
#include "fathom/mem.h"
#include "fathom/numfmt.h"

#include <math.h>

enum { LANES = 16, PAIRS = FM_MLA_STEP / 2 };

// Dword i of 16 keys, from byte `at` on; only the first `pairs` dwords are there.
FM_INLINE void load_transposed(const uint8_t *const *keys, size_t at, int pairs, __m512i out[PAIRS])
{
    const __mmask16 there = (__mmask16)((1U << pairs) - 1);
    __m512i row[LANES];
    FM_UNROLL for (int r = 0; r < LANES; r++) row[r] = _mm512_maskz_loadu_epi32(there, keys[r] + at);
    fm_mla_turn(row, out);
}

// To add to the sum of a step: tiles fill it up with zeros, after which it is not -0. Adding -0 changes nothing.
FM_INLINE __m512 filled_up(int count)
{
    return _mm512_set1_ps(count < FM_MLA_STEP ? 0.0F : -0.0F);
}

// Logits of 16 keys, from `key` on, with the rows.
FM_INLINE void dots_of_16(const struct fm_mla_few *few, int key, int rows, __m512 acc[FM_MLA_FEW_ROWS])
{
    const __m512i high = _mm512_set1_epi32((int)0xFFFF0000);
    FM_UNROLL for (int r = 0; r < rows; r++) acc[r] = _mm512_setzero_ps();
    for (int at = 0; at < few->depth; at += FM_MLA_STEP) {
        int pairs =
            few->depth - at < FM_MLA_STEP ? (few->depth - at) / 2 : PAIRS; // a depth is a multiple of 16
        __m512i dwords[PAIRS];
        __m512 even[FM_MLA_FEW_ROWS], odd[FM_MLA_FEW_ROWS];
        load_transposed(few->keys + key, (size_t)at * 2, pairs, dwords);
        fm_mla_ahead_ask(few->ahead, few->ahead_lines);
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
            _mm512_add_ps(acc[r], _mm512_add_ps(_mm512_add_ps(even[r], odd[r]), filled_up(2 * pairs)));
    }
}

FM_INLINE void dots(const struct fm_mla_few *few, int rows)
{
    for (int key = 0; key < few->count; key += LANES) {
        __m512 acc[FM_MLA_FEW_ROWS];
        float lanes[LANES];
        dots_of_16(few, key, rows, acc);
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
        _mm512_storeu_ps(
            o, _mm512_add_ps(before, _mm512_add_ps(_mm512_add_ps(sum[0][r], sum[1][r]), filled_up(count))));
    }
}

// Sums of columns 2 i and 2 i + 1 added to 32 of O.
FM_INLINE void add_columns(float *o, int fresh, __m512 even, __m512 odd)
{
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    __m512 sums[2] = {_mm512_permutex2var_ps(even, low, odd), _mm512_permutex2var_ps(even, high, odd)};
    FM_UNROLL for (size_t half = 0; half < 2; half++)
    {
        float *to = o + half * LANES;
        __m512 before = fresh ? _mm512_setzero_ps() : _mm512_loadu_ps(to);
        _mm512_storeu_ps(to, _mm512_add_ps(before, sums[half]));
    }
}

// 32 columns: even and odd ones are a shift and a mask away. sum[parity of the key][parity of the column].
FM_INLINE void values_of_32(const struct fm_mla_few *few, int key, int count, size_t column, int rows)
{
    enum { MOST = FM_MLA_FEW_ROWS / 2 };
    const __m512i upper = _mm512_set1_epi32((int)0xFFFF0000);
    __m512 sum[2][2][MOST];
    FM_UNROLL for (int r = 0; r < rows; r++) sum[0][0][r] = sum[0][1][r] = sum[1][0][r] = sum[1][1][r] =
        _mm512_setzero_ps();
    for (int t = 0; t < count; t += 2) {
        FM_UNROLL for (int parity = 0; parity < 2; parity++)
        {
            if (t + parity < count) {
                __m512i pairs = _mm512_loadu_si512(few->keys[key + t + parity] + column * 2);
                __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
                __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(pairs, upper));
                const float *p = few->p + (size_t)(key + t + parity) * few->p_stride;
                FM_UNROLL for (int r = 0; r < rows; r++)
                {
                    sum[parity][0][r] = _mm512_fmadd_ps(_mm512_set1_ps(p[r]), even, sum[parity][0][r]);
                    sum[parity][1][r] = _mm512_fmadd_ps(_mm512_set1_ps(p[r]), odd, sum[parity][1][r]);
                }
            }
        }
    }
    FM_UNROLL for (int r = 0; r < rows; r++)
        add_columns(few->o + (size_t)r * few->o_stride + column, !key && few->fresh,
                    _mm512_add_ps(_mm512_add_ps(sum[0][0][r], sum[1][0][r]), filled_up(count)),
                    _mm512_add_ps(_mm512_add_ps(sum[0][1][r], sum[1][1][r]), filled_up(count)));
}

FM_INLINE void values(const struct fm_mla_few *few, int rows)
{
    enum { PAIRED = 32 };
    for (int key = 0; key < few->count; key += FM_MLA_STEP) {
        int count = few->count - key < FM_MLA_STEP ? few->count - key : FM_MLA_STEP;
        size_t column = 0;
        if (rows <= FM_MLA_FEW_ROWS / 2) // there are registers for both
            for (; column + PAIRED <= (size_t)few->depth; column += PAIRED) {
                fm_mla_ahead_ask(few->ahead, few->ahead_lines);
                values_of_32(few, key, count, column, rows);
            }
        for (; column < (size_t)few->depth; column += LANES) {
            fm_mla_ahead_ask(few->ahead, few->ahead_lines);
            values_of_16(few, key, count, column, rows);
        }
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

enum { WORDS = 32 };

// 32 codes at `offset`, or the first 16 of them.
FM_INLINE void narrow(const uint8_t *codes, uint16_t *out, int all, int is_power, __m512i offset,
                      __m512i exceptions, __m512 scales)
{
    __m256i bytes = all ? _mm256_loadu_si256((const __m256i *)codes)
                        : _mm256_zextsi128_si256(_mm_loadu_si128((const __m128i *)codes));
    __m512i words = shifted(_mm512_cvtepu8_epi16(bytes), offset, exceptions);
    if (!is_power) {
        __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
        __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32((int)0xFFFF0000)));
        __m512i low = _mm512_srli_epi32(rounded_bits(_mm512_mul_ps(even, scales)), 16);
        words = _mm512_mask_blend_epi16(0xAAAAAAAA, low, rounded_bits(_mm512_mul_ps(odd, scales)));
    }
    if (all)
        _mm512_storeu_si512(out, words);
    else
        _mm256_storeu_si256((__m256i *)(void *)out, _mm512_castsi512_si256(words));
}

FM_INLINE void narrow_all(const uint8_t *codes, size_t n, uint16_t *out, int is_power, __m512i offset,
                          __m512i exceptions, float scale)
{
    const __m512 scales = _mm512_set1_ps(scale);
    size_t i = 0;
    for (; i + WORDS <= n; i += WORDS)
        narrow(codes + i, out + i, 1, is_power, offset, exceptions, scales);
    if (i < n) // n is a multiple of 16
        narrow(codes + i, out + i, 0, is_power, offset, exceptions, scales);
}

void fm_mla_narrow_e4m3_avx512(const uint8_t *codes, size_t n, float scale, uint16_t *out)
{
    enum { LEAST = -100, MOST = 100 }; // powers that leave all values within BF16's normal numbers
    const __m512i exceptions = _mm512_zextsi256_si512(_mm256_setr_epi16(
        0x7FC0, 0, 0x3B00, 0x3B80, 0x3BC0, 0x3C00, 0x3C20, 0x3C40, 0x3C60, 0, 0, 0, 0, 0, 0, 0));
    const __m512i offset = _mm512_set1_epi16(120 << 7);
    const uint32_t bits = fm_f32_bits(scale);
    const int power = (int)(bits >> 23) - 127;
    if ((bits & 0x7FFFFF) == 0 && power >= LEAST && power <= MOST) {
        const __m512i by = _mm512_set1_epi16((short)(power * 128));
        // All but the NaN and the zero move with the others.
        const __m512i moved = _mm512_mask_add_epi16(exceptions, 0x1FC, exceptions, by);
        narrow_all(codes, n, out, 1, _mm512_add_epi16(offset, by), moved, 1);
        return;
    }
    narrow_all(codes, n, out, 0, offset, exceptions, scale == scale ? scale : NAN);
}
