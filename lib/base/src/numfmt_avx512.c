/*
 * The conversions with AVX-512 F, BW, DQ and VL. Each is a step of 16, 32 or 64 elements under a mask: all lanes
 * in the loop, the first few in the tail; what the mask leaves out is not touched.
 *
 * VCVTNEPS2BF16 is not used: it flushes subnormals, and not all CPUs of this level have it.
 */
#include <immintrin.h>

#include "numfmt_table.h"

// As many elements as fill one store or one load, whichever needs more.
enum {
    f32_to_bf16_STEP = 32,
    f32_to_fp16_STEP = 16,
    f32_to_e4m3_STEP = 64,
    f32_to_e5m2_STEP = 64,
    f32_to_e2m1_STEP = 64,
    f32_to_ue8m0_ceil_STEP = 16,
    f32_to_ue8m0_exact_STEP = 16,
    bf16_to_f32_STEP = 16,
    fp16_to_f32_STEP = 16,
    e4m3_to_f32_STEP = 16,
    e5m2_to_f32_STEP = 16,
    e2m1_to_f32_STEP = 16,
    ue8m0_to_f32_STEP = 16,
    e4m3_to_bf16_STEP = 32,
    e2m1_to_bf16_STEP = 32,
};

static inline __m512i load16(const float *from, uint64_t mask)
{
    return _mm512_castps_si512(_mm512_maskz_loadu_ps((__mmask16)mask, from));
}

static inline __m512i magnitude_of(__m512i bits)
{
    return _mm512_and_si512(bits, _mm512_set1_epi32(0x7FFFFFFF));
}

static inline __mmask16 is_nan(__m512i bits)
{
    return _mm512_cmp_ps_mask(_mm512_castsi512_ps(bits), _mm512_castsi512_ps(bits), _CMP_UNORD_Q);
}

static inline void store16_bytes(uint8_t *out, uint64_t mask, __m512i lanes)
{
    _mm_mask_storeu_epi8(out, (__mmask16)mask, _mm512_cvtepi32_epi8(lanes));
}

// a | (b & bits), in one instruction.
static inline __m512i or_masked(__m512i a, __m512i b, __m512i bits)
{
    return _mm512_ternarylogic_epi32(a, b, bits, 0xF8);
}

// The signed 32-bit lanes of four vectors as bytes, saturated; 128-bit part by 128-bit part, which in_order64()
// undoes.
static inline __m512i pack64(const __m512i lanes[4])
{
    return _mm512_packs_epi16(_mm512_packs_epi32(lanes[0], lanes[1]), _mm512_packs_epi32(lanes[2], lanes[3]));
}

static inline __m512i in_order64(__m512i bytes)
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(order, bytes);
}

/*
 * The code without sign in a format of few mantissa bits: the number is scaled by the power of two that makes the
 * spacing of codes around it 1, rounded to an integer, and added to the code at which its binade starts. Magnitudes
 * above `largest` are taken for `largest`. A NaN passes through to the conversion to integer, which makes it 2^31: a
 * negative lane, which pack64() turns into 0x80, above every code.
 */
static inline __m512i narrow(__m512i bits, int mantissa_bits, int bias, float largest)
{
    const int smallest = 128 - bias; // the f32 exponent field of the smallest normal
    // Of two operands one of which is a NaN, VMINPS takes the second.
    __m512 clamped = _mm512_min_ps(_mm512_set1_ps(largest), _mm512_castsi512_ps(magnitude_of(bits)));
    // The exponent above that of the smallest normal. The lower half of each lane is 0, so that a saturating
    // subtraction of 16-bit lanes serves.
    __m512i binade = _mm512_and_si512(_mm512_castps_si512(clamped), _mm512_set1_epi32(0x7F800000));
    binade = _mm512_subs_epu16(binade, _mm512_set1_epi32(smallest << 23));
    __m512i scale = _mm512_sub_epi32(_mm512_set1_epi32((254 + mantissa_bits - smallest) << 23), binade);
    __m512 scaled = _mm512_mul_ps(clamped, _mm512_castsi512_ps(scale));
    __m512i code = _mm512_srli_epi32(binade, (unsigned)(23 - mantissa_bits));
    return _mm512_add_epi32(code, _mm512_cvtps_epi32(scaled));
}

// The codes without sign of 64 numbers as bytes, 0x80 for a NaN, and beside them bytes with the numbers' signs.
static inline __m512i narrow64(const float *from, uint64_t mask, int mantissa_bits, int bias, float largest,
                               __m512i *out_signs)
{
    __m512i bits[4];
    __m512i code[4];
    for (int i = 0; i < 4; i++) {
        bits[i] = load16(from + 16 * i, mask >> 16 * i);
        code[i] = narrow(bits[i], mantissa_bits, bias, largest);
    }
    *out_signs = pack64(bits);
    return pack64(code);
}

static inline __m512i f32_to_bf16_lanes(__m512i bits)
{
    __m512i top = _mm512_srli_epi32(bits, 16);
    __m512i odd = _mm512_and_si512(top, _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd);
    return _mm512_mask_or_epi32(_mm512_srli_epi32(rounded, 16), is_nan(bits), top, _mm512_set1_epi32(0x40));
}

static inline void f32_to_bf16_step(const float *from, uint64_t in, fm_bf16 *out, uint64_t mask)
{
    __m512i low = f32_to_bf16_lanes(load16(from, in));
    __m512i high = f32_to_bf16_lanes(load16(from + 16, in >> 16));
    __m512i codes = _mm512_packus_epi32(low, high);
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    _mm512_mask_storeu_epi16(out, (__mmask32)mask, _mm512_permutexvar_epi64(order, codes));
}

static inline void f32_to_fp16_step(const float *from, uint64_t in, fm_fp16 *out, uint64_t mask)
{
    __m512 value = _mm512_castsi512_ps(load16(from, in));
    __m256i code = _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT);
    _mm256_mask_storeu_epi16(out, (__mmask16)mask, code);
}

// Both FP8 formats: 1 sign bit, then the code.
static inline void f32_to_fp8(const float *from, uint64_t in, uint8_t *out, uint64_t mask, int mantissa_bits,
                              int bias, float largest, int nan)
{
    __m512i signs;
    __m512i codes = narrow64(from, in, mantissa_bits, bias, largest, &signs);
    codes = _mm512_min_epu8(codes, _mm512_set1_epi8((char)nan));
    codes = or_masked(codes, signs, _mm512_set1_epi8((char)0x80));
    _mm512_mask_storeu_epi8(out, mask, in_order64(codes));
}

static inline void f32_to_e4m3_step(const float *from, uint64_t in, fm_e4m3 *out, uint64_t mask)
{
    f32_to_fp8(from, in, out, mask, 3, 7, FM_E4M3_MAX, 0x7F);
}

static inline void f32_to_e5m2_step(const float *from, uint64_t in, fm_e5m2 *out, uint64_t mask)
{
    f32_to_fp8(from, in, out, mask, 2, 15, 0x1p16f, 0x7E); // 2^16 has the code of infinity
}

static inline void f32_to_e2m1_step(const float *from, uint64_t in, fm_e2m1x2 *out, uint64_t mask)
{
    __m512i signs;
    __m512i codes = narrow64(from, in, 1, 1, FM_E2M1_MAX, &signs);
    __mmask64 nan = _mm512_movepi8_mask(codes);
    codes = or_masked(codes, _mm512_srli_epi16(signs, 4), _mm512_set1_epi8(8));
    codes = _mm512_mask_mov_epi8(codes, nan, _mm512_set1_epi8(7));
    // Each pair of bytes becomes low + 16 * high.
    __m512i pairs = _mm512_maddubs_epi16(in_order64(codes), _mm512_set1_epi16(0x1001));
    _mm256_mask_storeu_epi8(out, (__mmask32)mask, _mm512_cvtepi16_epi8(pairs));
}

static inline void f32_to_ue8m0_ceil_step(const float *from, uint64_t in, fm_ue8m0 *out, uint64_t mask)
{
    __m512i bits = load16(from, in);
    __m512i magnitude = magnitude_of(bits);
    __mmask16 above = _mm512_cmpgt_epi32_mask(magnitude, _mm512_set1_epi32(0x400000)); // 2^-127, the code 0
    __m512i code = _mm512_srli_epi32(_mm512_add_epi32(magnitude, _mm512_set1_epi32(0x7FFFFF)), 23);
    code = _mm512_maskz_min_epi32(above, code, _mm512_set1_epi32(254));
    store16_bytes(out, mask, _mm512_mask_mov_epi32(code, is_nan(bits), _mm512_set1_epi32(0xFF)));
}

static inline void f32_to_ue8m0_exact_step(const float *from, uint64_t in, fm_ue8m0 *out, uint64_t mask)
{
    __m512i bits = load16(from, in);
    __m512i exponent = _mm512_srli_epi32(bits, 23); // 256 and more for negative numbers
    __mmask16 power = _mm512_testn_epi32_mask(bits, _mm512_set1_epi32(0x7FFFFF));
    __mmask16 range =
        _mm512_cmplt_epu32_mask(_mm512_sub_epi32(exponent, _mm512_set1_epi32(1)), _mm512_set1_epi32(254));
    __mmask16 smallest = _mm512_cmpeq_epi32_mask(bits, _mm512_set1_epi32(0x400000)); // exponent 0, code 0
    __m512i code =
        _mm512_mask_mov_epi32(_mm512_set1_epi32(0xFF), (__mmask16)((power & range) | smallest), exponent);
    store16_bytes(out, mask, code);
}

static inline void bf16_to_f32_step(const fm_bf16 *from, uint64_t in, float *out, uint64_t mask)
{
    __m512i words = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16((__mmask16)in, from));
    _mm512_mask_storeu_ps(out, (__mmask16)mask, _mm512_castsi512_ps(_mm512_slli_epi32(words, 16)));
}

static inline void fp16_to_f32_step(const fm_fp16 *from, uint64_t in, float *out, uint64_t mask)
{
    __m256i half = _mm256_maskz_loadu_epi16((__mmask16)in, from);
    _mm512_mask_storeu_ps(out, (__mmask16)mask, _mm512_cvtph_ps(half));
}

static inline __m256i load16_bytes(const uint8_t *from, uint64_t mask)
{
    return _mm256_cvtepu8_epi16(_mm_maskz_loadu_epi8((__mmask16)mask, from));
}

/*
 * By way of fp16, which VCVTPH2PS widens without trouble over subnormals: the e4m3 code shifted by 7 is the
 * fp16 number 2^-8 times as large, except that 0x7F must be made a NaN.
 */
static inline void e4m3_to_f32_step(const fm_e4m3 *from, uint64_t in, float *out, uint64_t mask)
{
    __m256i words = load16_bytes(from, in);
    __m256i magnitude = _mm256_and_si256(words, _mm256_set1_epi16(0x7F));
    __mmask16 nan = _mm256_cmpeq_epi16_mask(magnitude, _mm256_set1_epi16(0x7F));
    __m256i half = _mm256_slli_epi16(magnitude, 7);
    half = _mm256_mask_mov_epi16(half, nan, _mm256_set1_epi16(0x7F80));
    half =
        _mm256_ternarylogic_epi32(half, _mm256_slli_epi16(words, 8), _mm256_set1_epi16((short)0x8000), 0xF8);
    __m512 value = _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(0x1p8f));
    _mm512_mask_storeu_ps(out, (__mmask16)mask, value);
}

static inline void e5m2_to_f32_step(const fm_e5m2 *from, uint64_t in, float *out, uint64_t mask)
{
    __m256i half = _mm256_slli_epi16(load16_bytes(from, in), 8);
    _mm512_mask_storeu_ps(out, (__mmask16)mask, _mm512_cvtph_ps(half));
}

static inline void e2m1_to_f32_step(const fm_e2m1x2 *from, uint64_t in, float *out, uint64_t mask)
{
    const __m512 values =
        _mm512_setr_ps(0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6);
    const __m512i word = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    const __m512i nibble = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
    __m512i packed = _mm512_castsi128_si512(_mm_maskz_loadu_epi8((__mmask16)in, from));
    // The permutation looks at the low four bits of each lane only.
    __m512i code = _mm512_srlv_epi32(_mm512_permutexvar_epi32(word, packed), nibble);
    _mm512_mask_storeu_ps(out, (__mmask16)mask, _mm512_permutexvar_ps(code, values));
}

static inline void ue8m0_to_f32_step(const fm_ue8m0 *from, uint64_t in, float *out, uint64_t mask)
{
    const __m512i half = _mm512_set1_epi32(0x400000); // 2^-127, and the quiet bit
    __m512i code = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8((__mmask16)in, from));
    __mmask16 nan = _mm512_cmpeq_epi32_mask(code, _mm512_set1_epi32(0xFF));
    __m512i bits = _mm512_max_epu32(_mm512_slli_epi32(code, 23), half);
    bits = _mm512_mask_or_epi32(bits, nan, bits, half);
    _mm512_mask_storeu_ps(out, (__mmask16)mask, _mm512_castsi512_ps(bits));
}

/*
 * Normals by shift and add; what that gets wrong is looked up: the NaN, which the increment brings to index
 * 0, and the eight subnormals, multiples of 2^-9, at 1..8.
 */
static inline void e4m3_to_bf16_step(const fm_e4m3 *from, uint64_t in, fm_bf16 *out, uint64_t mask)
{
    const __m512i exceptions = _mm512_zextsi256_si512(_mm256_setr_epi16(
        0x7FF0, 0, 0x3B00, 0x3B80, 0x3BC0, 0x3C00, 0x3C20, 0x3C40, 0x3C60, 0, 0, 0, 0, 0, 0, 0));
    const __m512i low7 = _mm512_set1_epi16(0x7F);
    __m512i words = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8((__mmask32)in, from));
    __m512i index = _mm512_and_si512(_mm512_add_epi16(words, _mm512_set1_epi16(1)), low7);
    __mmask32 exceptional = _mm512_cmple_epu16_mask(index, _mm512_set1_epi16(8));
    __m512i magnitude = _mm512_and_si512(words, low7);
    __m512i code = _mm512_add_epi16(_mm512_slli_epi16(magnitude, 4), _mm512_set1_epi16(120 << 7));
    code = _mm512_mask_permutexvar_epi16(code, exceptional, index, exceptions);
    code = or_masked(code, _mm512_slli_epi16(words, 8), _mm512_set1_epi16((short)0x8000));
    _mm512_mask_storeu_epi16(out, (__mmask32)mask, code);
}

static inline void e2m1_to_bf16_step(const fm_e2m1x2 *from, uint64_t in, fm_bf16 *out, uint64_t mask)
{
    // Twice the same 16, because the permutation looks at five bits of each word, and the fifth is a
    // neighbour's.
    const __m512i values = _mm512_broadcast_i64x4(_mm256_setr_epi16(
        0, 0x3F00, 0x3F80, 0x3FC0, 0x4000, 0x4040, 0x4080, 0x40C0, (short)0x8000, (short)0xBF00,
        (short)0xBF80, (short)0xBFC0, (short)0xC000, (short)0xC040, (short)0xC080, (short)0xC0C0));
    __m512i packed = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8((__mmask16)in, from));
    __m512i codes = _mm512_or_si512(packed, _mm512_slli_epi32(packed, 12)); // the high half byte to bit 16
    _mm512_mask_storeu_epi16(out, (__mmask32)mask, _mm512_permutexvar_epi16(codes, values));
}

// The first `n` lanes, n in 1..64.
static inline uint64_t lanes(size_t n)
{
    return UINT64_MAX >> (64 - n);
}

#define ARRAY(name, S, s_per, D, d_per)                                                                 \
    static void name(const S *from, size_t n, D *out)                                                   \
    {                                                                                                   \
        const size_t step = name##_STEP;                                                                \
        for (; n >= step; n -= step) {                                                                  \
            name##_step(from, lanes(step / (s_per)), out, lanes(step / (d_per)));                       \
            from += step / (s_per);                                                                     \
            out += step / (d_per);                                                                      \
        }                                                                                               \
        if (n)                                                                                          \
            name##_step(from, lanes((n + (s_per)-1) / (s_per)), out, lanes((n + (d_per)-1) / (d_per))); \
    }
FM_NUMFMT_LIST(ARRAY)

void fm_base_numfmt_install_avx512(struct fm_numfmt_table *table)
{
#define INSTALL(name, S, s_per, D, d_per) table->name = name;
    FM_NUMFMT_LIST(INSTALL)
}
