/* E4M3 of BF16 and of f32, in rows and turned, of blocks that have been looked at and are finite. */
#include "gemm_turn_avx512.h"

#include <string.h>

enum { LANES = 16, WORDS = 32, BYTES = 64 };

static __mmask64 first_lanes(int64_t count)
{
    return count >= BYTES ? ~0ull : (1ull << count) - 1;
}

// Without signs the bits of numbers are in their order.
static uint32_t peak_bf16(const fm_bf16 *from, int64_t count)
{
    const __m512i magnitude = _mm512_set1_epi16(0x7FFF);
    __m512i peak = _mm512_setzero_si512();
    for (int64_t i = 0; i < count; i += WORDS) {
        __mmask32 lanes = (__mmask32)first_lanes(fm_gemm_min(count - i, WORDS));
        __m512i bits = _mm512_and_si512(_mm512_maskz_loadu_epi16(lanes, from + i), magnitude);
        peak = _mm512_max_epu16(peak, bits);
    }
    // What is compared as 32 bits is decided by the upper halves; the lower ones move there.
    peak = _mm512_max_epu32(peak, _mm512_slli_epi32(peak, 16));
    return _mm512_reduce_max_epu32(peak) & 0xFFFF0000;
}

static uint32_t peak_f32(const float *from, int64_t count)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
    __m512i peak = _mm512_setzero_si512();
    for (int64_t i = 0; i < count; i += LANES) {
        __mmask16 lanes = (__mmask16)first_lanes(fm_gemm_min(count - i, LANES));
        peak = _mm512_max_epu32(peak, _mm512_and_si512(_mm512_maskz_loadu_epi32(lanes, from + i), magnitude));
    }
    return _mm512_reduce_max_epu32(peak);
}

static int scales_of_peaks(const uint32_t *peaks, int64_t count, float least, float *scales, float *factors)
{
    for (int64_t i = 0; i < count; i += LANES) {
        __mmask16 lanes = (__mmask16)first_lanes(fm_gemm_min(count - i, LANES));
        __m512i bits = _mm512_maskz_loadu_epi32(lanes, peaks + i);
        if (_mm512_cmpge_epu32_mask(bits, _mm512_set1_epi32(0x7F800000)))
            return 0;
        __m512 amax = _mm512_max_ps(_mm512_castsi512_ps(bits), _mm512_set1_ps(least));
        __m512 scale = _mm512_div_ps(amax, _mm512_set1_ps(FM_E4M3_MAX));
        _mm512_mask_storeu_ps(scales + i, lanes, scale);
        _mm512_mask_storeu_ps(factors + i, lanes, _mm512_div_ps(_mm512_set1_ps(1), scale));
    }
    return 1;
}

static void peaks_down(const float *tile, size_t stride, int64_t rows, uint32_t peaks[LANES])
{
    const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
    __m512i peak = _mm512_setzero_si512();
    for (int64_t row = 0; row < rows; row++)
        peak = _mm512_max_epu32(peak,
                                _mm512_and_si512(_mm512_loadu_si512(tile + (size_t)row * stride), magnitude));
    _mm512_storeu_si512(peaks, peak);
}

/*
 * Rounding by addition: a power of two whose last bit has the weight of the code's last bit is added, and the sum, rounded to
 * nearest even, ends in the number of such weights. What is added depends on the binade, of 2^-6 or above, and holds the
 * code that the binade starts from besides, less the 8 that a normal number's own leading bit adds. So the low 16 bits of a
 * sum are the code.
 */
struct rounding {
    __m512 least;  // 2^-6, the smallest normal
    __m512 addend; // of a binade, at the low four bits of its exponent, which tell those of E4M3 apart
};

FM_INLINE struct rounding rounding_make(void)
{
#define ADDEND(binade) (int)(((uint32_t)(141 + (binade)) << 23) | ((uint32_t)(binade) << 3))
    const __m512i addends = _mm512_setr_epi32(ADDEND(7), ADDEND(8), ADDEND(9), ADDEND(10), ADDEND(11),
                                              ADDEND(12), ADDEND(13), ADDEND(14), 0, ADDEND(0), ADDEND(1),
                                              ADDEND(2), ADDEND(3), ADDEND(4), ADDEND(5), ADDEND(6));
    return (struct rounding){_mm512_set1_ps(0x1p-6f), _mm512_castsi512_ps(addends)};
#undef ADDEND
}

FM_INLINE __m512i sums(const struct rounding *rounding, __m512 magnitude)
{
    __m512i exponent = _mm512_srli_epi32(_mm512_castps_si512(_mm512_max_ps(magnitude, rounding->least)), 23);
    return _mm512_castps_si512(_mm512_add_ps(magnitude, _mm512_permutexvar_ps(exponent, rounding->addend)));
}

// The codes without sign of pairs of BF16, as 16 bits each.
FM_INLINE __m512i codes_of_pairs(const struct rounding *rounding, __m512i words, __m512 even_factor,
                                 __m512 odd_factor)
{
    __m512i even = _mm512_slli_epi32(words, 16);
    __m512 magnitude[2] = {_mm512_castsi512_ps(_mm512_and_si512(even, _mm512_set1_epi32(0x7FFF0000))),
                           _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(0x7FFF0000)))};
    __m512i low = sums(rounding, _mm512_mul_ps(magnitude[0], even_factor));
    __m512i high = sums(rounding, _mm512_mul_ps(magnitude[1], odd_factor));
    return _mm512_mask_blend_epi16(0xAAAAAAAA, low, _mm512_slli_epi32(high, 16));
}

FM_INLINE void store_codes(fm_e4m3 *out, __mmask64 lanes, int streamed, __m512i codes)
{
    if (streamed)
        _mm512_stream_si512((__m512i *)(void *)out, codes);
    else
        _mm512_mask_storeu_epi8(out, lanes, codes);
}

FM_INLINE int is_streamed(const struct fm_gemm_codes *codes, const fm_e4m3 *out, int64_t count)
{
    return codes->streamed && count >= BYTES && (uintptr_t)out % BYTES == 0;
}

static void codes_of_bf16(const fm_bf16 *from, int64_t count, const struct fm_gemm_codes *codes, fm_e4m3 *out)
{
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    const __m512 factor = _mm512_set1_ps(codes->factor);
    const struct rounding rounding = rounding_make();
    const char *ahead = codes->ahead;
    for (int64_t i = 0; i < count; i += BYTES) {
        __mmask64 lanes = first_lanes(count - i);
        __m512i low = _mm512_maskz_loadu_epi16((__mmask32)lanes, from + i);
        __m512i high = _mm512_maskz_loadu_epi16((__mmask32)(lanes >> WORDS), from + i + WORDS);
        _mm_prefetch(ahead + 2 * i, _MM_HINT_T0);
        _mm_prefetch(ahead + 2 * i + FM_CACHE_LINE, _MM_HINT_T0);
        __m512i bytes = _mm512_packus_epi16(codes_of_pairs(&rounding, low, factor, factor),
                                            codes_of_pairs(&rounding, high, factor, factor));
        bytes = _mm512_ternarylogic_epi32(bytes, _mm512_packs_epi16(low, high), _mm512_set1_epi8((char)0x80),
                                          0xF8); // a saturated word keeps its sign
        store_codes(out + i, lanes, is_streamed(codes, out + i, count - i),
                    _mm512_permutexvar_epi64(order, bytes));
    }
}

FM_INLINE __m512i magnitude_of(__m512i bits)
{
    return _mm512_and_si512(bits, _mm512_set1_epi32(0x7FFFFFFF));
}

static void codes_of_f32(const float *from, int64_t count, const struct fm_gemm_codes *codes, fm_e4m3 *out)
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512 factor = _mm512_set1_ps(codes->factor);
    const struct rounding rounding = rounding_make();
    for (int64_t i = 0; i < count; i += BYTES) {
        __mmask64 lanes = first_lanes(count - i);
        __m512i bits[4], code[4];
        FM_UNROLL for (int part = 0; part < 4; part++)
        {
            bits[part] =
                _mm512_maskz_loadu_epi32((__mmask16)(lanes >> (LANES * part)), from + i + LANES * part);
            __m512 magnitude = _mm512_castsi512_ps(magnitude_of(bits[part]));
            code[part] =
                _mm512_and_si512(sums(&rounding, _mm512_mul_ps(magnitude, factor)), _mm512_set1_epi32(0x7F));
        }
        __m512i bytes =
            _mm512_packus_epi16(_mm512_packs_epi32(code[0], code[1]), _mm512_packs_epi32(code[2], code[3]));
        __m512i signs =
            _mm512_packs_epi16(_mm512_packs_epi32(bits[0], bits[1]), _mm512_packs_epi32(bits[2], bits[3]));
        bytes = _mm512_ternarylogic_epi32(bytes, signs, _mm512_set1_epi8((char)0x80), 0xF8);
        store_codes(out + i, lanes, is_streamed(codes, out + i, count - i),
                    _mm512_permutexvar_epi32(order, bytes));
    }
}

// Four rows of 16 columns: a column's codes in its lane, from the lowest byte on.
FM_INLINE __m512i codes_down(const struct rounding *rounding, const float *tile, size_t stride,
                             __m512 factors)
{
    __m512i bits[4], sum[4];
    FM_UNROLL for (size_t row = 0; row < 4; row++)
    {
        bits[row] = _mm512_loadu_si512(tile + row * stride);
        sum[row] = sums(rounding, _mm512_mul_ps(_mm512_castsi512_ps(magnitude_of(bits[row])), factors));
    }
    __m512i low = _mm512_or_si512(sum[0], _mm512_slli_epi32(sum[1], 8));
    __m512i high = _mm512_or_si512(sum[2], _mm512_slli_epi32(sum[3], 8));
    __m512i codes = _mm512_mask_blend_epi16(0xAAAAAAAA, low, _mm512_slli_epi32(high, 16));
    codes = _mm512_ternarylogic_epi32(codes, _mm512_srli_epi32(bits[0], 24), _mm512_set1_epi32(0x80), 0xF8);
    codes = _mm512_ternarylogic_epi32(codes, _mm512_srli_epi32(bits[1], 16), _mm512_set1_epi32(0x8000), 0xF8);
    codes =
        _mm512_ternarylogic_epi32(codes, _mm512_srli_epi32(bits[2], 8), _mm512_set1_epi32(0x800000), 0xF8);
    return _mm512_ternarylogic_epi32(codes, bits[3], _mm512_set1_epi32((int)0x80000000), 0xF8);
}

static void codes_turned(const float *tile, size_t stride, int64_t rows, int64_t columns,
                         const struct fm_gemm_codes *codes, fm_e4m3 *out, int64_t out_stride)
{
    const __m512 factors = _mm512_loadu_ps(codes->factors);
    const struct rounding rounding = rounding_make();
    _Alignas(64) float quads[LANES * LANES] = {0};
    for (int64_t row = 0; row < rows; row += BYTES) {
        // The last four may have rows that are none: within the workspace, and what becomes of them is not stored.
        int64_t used = fm_gemm_ceil_div(fm_gemm_min(rows - row, BYTES), 4);
        for (int64_t quad = 0; quad < used; quad++)
            _mm512_store_si512(
                quads + quad * LANES,
                codes_down(&rounding, tile + (size_t)(row + 4 * quad) * stride, stride, factors));
        turn_square(quads, LANES, quads, LANES);
        __mmask64 lanes = first_lanes(rows - row);
        for (int64_t column = 0; column < columns; column++) {
            fm_e4m3 *to = out + column * out_stride + row;
            store_codes(to, lanes, is_streamed(codes, to, rows - row),
                        _mm512_load_si512(quads + column * LANES));
        }
    }
}

static void peaks_down_bf16(const fm_bf16 *from, int64_t stride, int64_t rows, int64_t columns, fm_bf16 *copy,
                            uint32_t peaks[WORDS])
{
    __mmask32 lanes = (__mmask32)first_lanes(columns);
    __m512i peak = _mm512_setzero_si512();
    for (int64_t row = 0; row < rows; row++) {
        __m512i words = _mm512_maskz_loadu_epi16(lanes, from + row * stride);
        _mm512_storeu_si512(copy + row * WORDS, words);
        peak = _mm512_max_epu16(peak, _mm512_and_si512(words, _mm512_set1_epi16(0x7FFF)));
    }
    const __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(peak));
    const __m512i high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(peak, 1));
    _mm512_storeu_si512(peaks, _mm512_slli_epi32(low, 16));
    _mm512_storeu_si512(peaks + LANES, _mm512_slli_epi32(high, 16));
}

// Two rows of 32 columns: a column's codes in its 16 bits.
FM_INLINE __m512i codes_of_two(const struct rounding *rounding, const __m512i words[2], __m512 even_factors,
                               __m512 odd_factors)
{
    __m512i codes =
        _mm512_or_si512(codes_of_pairs(rounding, words[0], even_factors, odd_factors),
                        _mm512_slli_epi16(codes_of_pairs(rounding, words[1], even_factors, odd_factors), 8));
    codes = _mm512_ternarylogic_epi32(codes, _mm512_srli_epi16(words[0], 8), _mm512_set1_epi16(0x80), 0xF8);
    return _mm512_ternarylogic_epi32(codes, words[1], _mm512_set1_epi16((short)0x8000), 0xF8);
}

static void codes_turned_bf16(const fm_bf16 *copy, int64_t rows, int64_t columns,
                              const struct fm_gemm_codes *codes, fm_e4m3 *out, int64_t out_stride)
{
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512 low = _mm512_loadu_ps(codes->factors), high = _mm512_loadu_ps(codes->factors + LANES);
    const __m512 even_factors = _mm512_permutex2var_ps(low, even, high);
    const __m512 odd_factors = _mm512_permutex2var_ps(low, _mm512_or_si512(even, _mm512_set1_epi32(1)), high);
    const struct rounding rounding = rounding_make();
    _Alignas(64) float quads[2][2][LANES * LANES]; // of 64 rows each, of even and of odd columns
    if (rows < 2 * BYTES)
        memset(quads, 0, sizeof quads);
    for (int64_t row = 0; row < rows; row += 4) {
        // Half a line of 512 bytes.
        const char *ahead = codes->ahead + row / 8 * codes->ahead_stride + row % 8 * FM_CACHE_LINE;
        __m512i words[4];
        FM_UNROLL for (int i = 0; i < 4; i++)
        {
            words[i] = _mm512_loadu_si512(copy + (row + i) * WORDS);
            _mm_prefetch(ahead + i * FM_CACHE_LINE, _MM_HINT_T1);
        }
        __m512i first = codes_of_two(&rounding, words, even_factors, odd_factors);
        __m512i second = codes_of_two(&rounding, words + 2, even_factors, odd_factors);
        float *to = quads[row / BYTES][0] + row % BYTES / 4 * LANES;
        _mm512_store_si512(to, _mm512_mask_blend_epi16(0xAAAAAAAA, first, _mm512_slli_epi32(second, 16)));
        _mm512_store_si512(to + LANES * LANES,
                           _mm512_mask_blend_epi16(0xAAAAAAAA, _mm512_srli_epi32(first, 16), second));
    }
    for (int half = 0; half < 2; half++)
        for (int odd = 0; odd < 2; odd++)
            turn_square(quads[half][odd], LANES, quads[half][odd], LANES);
    for (int64_t column = 0; column < columns; column++)
        for (int64_t row = 0; row < rows; row += BYTES) {
            fm_e4m3 *to = out + column * out_stride + row;
            store_codes(to, first_lanes(rows - row), is_streamed(codes, to, rows - row),
                        _mm512_load_si512(quads[row / BYTES][column % 2] + column / 2 * LANES));
        }
}

void fm_gemm_install_quant_avx512(struct fm_gemm_kernels *kernels)
{
    kernels->peak_bf16 = peak_bf16;
    kernels->peak_f32 = peak_f32;
    kernels->scales_of_peaks = scales_of_peaks;
    kernels->peaks_down = peaks_down;
    kernels->codes_of_bf16 = codes_of_bf16;
    kernels->codes_of_f32 = codes_of_f32;
    kernels->codes_turned = codes_turned;
    kernels->peaks_down_bf16 = peaks_down_bf16;
    kernels->codes_turned_bf16 = codes_turned_bf16;
}
