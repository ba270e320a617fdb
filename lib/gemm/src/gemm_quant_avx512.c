/* BF16 to E4M3 in two passes over a block that is in the first-level cache: its largest magnitude, then its codes. */
#include "gemm_private.h"

#include <immintrin.h>

enum { LANES = 16, WORDS = 32, BYTES = 64, AHEAD = 2048 };

static __mmask64 first_lanes(int64_t count)
{
    return count >= BYTES ? ~0ull : (1ull << count) - 1;
}

// Of magnitudes the bits are in order; those above infinity's are NaN.
static float amax_bf16(const fm_bf16 *from, int64_t count, float least)
{
    const __m512i magnitude = _mm512_set1_epi16(0x7FFF), infinity = _mm512_set1_epi16(0x7F80);
    __m512i largest = _mm512_setzero_si512();
    for (int64_t i = 0; i < count; i += WORDS) {
        __mmask32 lanes = (__mmask32)first_lanes(count - i < WORDS ? count - i : WORDS);
        _mm_prefetch((const char *)(from + i + AHEAD),
                     _MM_HINT_T0); // one sequential stream gets half of what memory has
        __m512i bits = _mm512_and_si512(_mm512_maskz_loadu_epi16(lanes, from + i), magnitude);
        largest = _mm512_mask_max_epu16(largest, _mm512_cmple_epu16_mask(bits, infinity), largest, bits);
    }
    __m512i halves = _mm512_max_epu32(_mm512_srli_epi32(largest, 16),
                                      _mm512_and_si512(largest, _mm512_set1_epi32(0xFFFF)));
    float amax = fm_bf16_to_f32((fm_bf16)_mm512_reduce_max_epu32(halves));
    return amax > least ? amax : least;
}

/*
 * The code without sign: the number is scaled by the power of two that makes the spacing of codes around it 1, rounded to an
 * integer, and added to the code at which its binade starts. A NaN passes through the minimum, which takes the second of
 * two operands one of which is a NaN, and becomes 2^31, which packing makes 0x80.
 */
static inline __m512i code_of(__m512 value)
{
    const int smallest = 121, mantissa_bits = 3; // the f32 exponent field of 2^-6, the smallest normal
    __m512 clamped = _mm512_min_ps(_mm512_set1_ps(FM_E4M3_MAX), _mm512_abs_ps(value));
    __m512i binade = _mm512_and_si512(_mm512_castps_si512(clamped), _mm512_set1_epi32(0x7F800000));
    binade = _mm512_subs_epu16(binade, _mm512_set1_epi32(smallest << 23)); // the lower halves are 0
    __m512i scale = _mm512_sub_epi32(_mm512_set1_epi32((254 + mantissa_bits - smallest) << 23), binade);
    __m512i steps = _mm512_cvtps_epi32(_mm512_mul_ps(clamped, _mm512_castsi512_ps(scale)));
    return _mm512_add_epi32(_mm512_srli_epi32(binade, 23 - mantissa_bits), steps);
}

static inline __m512i pack(const __m512i lanes[4])
{
    return _mm512_packs_epi16(_mm512_packs_epi32(lanes[0], lanes[1]), _mm512_packs_epi32(lanes[2], lanes[3]));
}

static void codes_of_bf16(const fm_bf16 *from, int64_t count, float factor, fm_e4m3 *out)
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512 factors = _mm512_set1_ps(factor);
    for (int64_t i = 0; i < count; i += BYTES) {
        __mmask64 lanes = first_lanes(count - i);
        __m512i code[4], sign[4];
        for (int part = 0; part < 4; part++) {
            __m256i words =
                _mm256_maskz_loadu_epi16((__mmask16)(lanes >> (LANES * part)), from + i + LANES * part);
            __m512i bits = _mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16);
            __m512 value = _mm512_mul_ps(_mm512_castsi512_ps(bits), factors);
            sign[part] = _mm512_castps_si512(value);
            code[part] = code_of(value);
        }
        __m512i codes = _mm512_min_epu8(pack(code), _mm512_set1_epi8(0x7F));
        codes = _mm512_ternarylogic_epi32(codes, pack(sign), _mm512_set1_epi8((char)0x80), 0xF8);
        _mm512_mask_storeu_epi8(out + i, lanes, _mm512_permutexvar_epi32(order, codes));
    }
}

void fm_gemm_install_quant_avx512(struct fm_gemm_kernels *kernels)
{
    kernels->amax_bf16 = amax_bf16;
    kernels->codes_of_bf16 = codes_of_bf16;
}
