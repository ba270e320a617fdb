/*
 * The conversions with AVX2 and F16C. Each is a block of 32 elements; the tail goes through a padded block on
 * the stack, so that no byte outside the arrays is touched.
 */
#include <immintrin.h>

#include "numfmt_table.h"

enum { BLOCK = 32 };

static inline __m256i load8(const float *from)
{
    return _mm256_castps_si256(_mm256_loadu_ps(from));
}

static inline __m256i magnitude_of(__m256i bits)
{
    return _mm256_and_si256(bits, _mm256_set1_epi32(0x7FFFFFFF));
}

static inline __m256i is_nan(__m256i bits)
{
    __m256 value = _mm256_castsi256_ps(bits);
    return _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
}

// The lanes of two or four vectors as halves or bytes. The packs work within 128-bit parts; in_order32() undoes that.
static inline __m256i pack16(__m256i a, __m256i b)
{
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xD8);
}

static inline __m256i pack32(const __m256i lanes[4])
{
    return _mm256_packs_epi16(_mm256_packs_epi32(lanes[0], lanes[1]), _mm256_packs_epi32(lanes[2], lanes[3]));
}

static inline __m256i in_order32(__m256i bytes)
{
    return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

/*
 * The code without sign in a format of few mantissa bits: the number is scaled by the power of two that makes the
 * spacing of codes around it 1, rounded to an integer, and added to the code at which its binade starts. Magnitudes
 * above `largest` are taken for `largest`. A NaN passes through to the conversion to integer, which makes it 2^31: a
 * negative lane, which pack32() turns into 0x80, above every code.
 */
static inline __m256i narrow(__m256i bits, int mantissa_bits, int bias, float largest)
{
    const int smallest = 128 - bias; // the f32 exponent field of the smallest normal
    // Of two operands one of which is a NaN, VMINPS takes the second.
    __m256 clamped = _mm256_min_ps(_mm256_set1_ps(largest), _mm256_castsi256_ps(magnitude_of(bits)));
    // The exponent above that of the smallest normal. The lower half of each lane is 0, so that a saturating
    // subtraction of 16-bit lanes serves.
    __m256i binade = _mm256_and_si256(_mm256_castps_si256(clamped), _mm256_set1_epi32(0x7F800000));
    binade = _mm256_subs_epu16(binade, _mm256_set1_epi32(smallest << 23));
    __m256i scale = _mm256_sub_epi32(_mm256_set1_epi32((254 + mantissa_bits - smallest) << 23), binade);
    __m256 scaled = _mm256_mul_ps(clamped, _mm256_castsi256_ps(scale));
    return _mm256_add_epi32(_mm256_srli_epi32(binade, 23 - mantissa_bits), _mm256_cvtps_epi32(scaled));
}

// The codes without sign of 32 numbers as bytes, 0x80 for a NaN, and beside them bytes with the numbers' signs.
static inline __m256i narrow32(const float *from, int mantissa_bits, int bias, float largest,
                               __m256i *out_signs)
{
    __m256i bits[4];
    __m256i code[4];
    for (int i = 0; i < 4; i++) {
        bits[i] = load8(from + 8 * i);
        code[i] = narrow(bits[i], mantissa_bits, bias, largest);
    }
    *out_signs = pack32(bits);
    return pack32(code);
}

static inline __m256i f32_to_bf16_lanes(__m256i bits)
{
    __m256i top = _mm256_srli_epi32(bits, 16);
    __m256i odd = _mm256_and_si256(top, _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
    __m256i quiet = _mm256_or_si256(top, _mm256_set1_epi32(0x40));
    return _mm256_blendv_epi8(_mm256_srli_epi32(rounded, 16), quiet, is_nan(bits));
}

static inline void f32_to_bf16_block(const float *from, fm_bf16 *out)
{
    for (int i = 0; i < BLOCK; i += 16) {
        __m256i low = f32_to_bf16_lanes(load8(from + i));
        __m256i high = f32_to_bf16_lanes(load8(from + i + 8));
        _mm256_storeu_si256((__m256i *)(out + i), pack16(low, high));
    }
}

static inline void f32_to_fp16_block(const float *from, fm_fp16 *out)
{
    for (int i = 0; i < BLOCK; i += 8)
        _mm_storeu_si128((__m128i *)(out + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
}

// Both FP8 formats: 1 sign bit, then the code.
static inline void f32_to_fp8(const float *from, uint8_t *out, int mantissa_bits, int bias, float largest,
                              int nan)
{
    __m256i signs;
    __m256i codes = narrow32(from, mantissa_bits, bias, largest, &signs);
    codes = _mm256_min_epu8(codes, _mm256_set1_epi8((char)nan));
    codes = _mm256_or_si256(codes, _mm256_and_si256(signs, _mm256_set1_epi8((char)0x80)));
    _mm256_storeu_si256((__m256i *)out, in_order32(codes));
}

static inline void f32_to_e4m3_block(const float *from, fm_e4m3 *out)
{
    f32_to_fp8(from, out, 3, 7, FM_E4M3_MAX, 0x7F);
}

static inline void f32_to_e5m2_block(const float *from, fm_e5m2 *out)
{
    f32_to_fp8(from, out, 2, 15, 0x1p16f, 0x7E); // 2^16 has the code of infinity
}

static inline void f32_to_e2m1_block(const float *from, fm_e2m1x2 *out)
{
    __m256i signs;
    __m256i codes = narrow32(from, 1, 1, FM_E2M1_MAX, &signs);
    __m256i signed_codes =
        _mm256_or_si256(codes, _mm256_and_si256(_mm256_srli_epi16(signs, 4), _mm256_set1_epi8(8)));
    codes = _mm256_blendv_epi8(signed_codes, _mm256_set1_epi8(7), codes); // the top bit says NaN
    // Each pair of bytes becomes low + 16 * high.
    __m256i pairs = _mm256_maddubs_epi16(in_order32(codes), _mm256_set1_epi16(0x1001));
    __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    _mm_storeu_si128((__m128i *)out, bytes);
}

// Lanes of 0..255.
static inline void store32_bytes(uint8_t *out, const __m256i lanes[4])
{
    __m256i bytes =
        _mm256_packus_epi16(_mm256_packs_epi32(lanes[0], lanes[1]), _mm256_packs_epi32(lanes[2], lanes[3]));
    _mm256_storeu_si256((__m256i *)out, in_order32(bytes));
}

static inline void f32_to_ue8m0_ceil_block(const float *from, fm_ue8m0 *out)
{
    __m256i lanes[4];
    for (int i = 0; i < BLOCK / 8; i++) {
        __m256i bits = load8(from + 8 * i);
        __m256i magnitude = magnitude_of(bits);
        __m256i code = _mm256_srli_epi32(_mm256_add_epi32(magnitude, _mm256_set1_epi32(0x7FFFFF)), 23);
        code = _mm256_min_epi32(code, _mm256_set1_epi32(254));
        code = _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(0x400001), magnitude), code);
        lanes[i] = _mm256_or_si256(code, _mm256_and_si256(is_nan(bits), _mm256_set1_epi32(0xFF)));
    }
    store32_bytes(out, lanes);
}

static inline void f32_to_ue8m0_exact_block(const float *from, fm_ue8m0 *out)
{
    __m256i lanes[4];
    for (int i = 0; i < BLOCK / 8; i++) {
        __m256i bits = load8(from + 8 * i);
        __m256i exponent = _mm256_srli_epi32(bits, 23); // 256 and more for negative numbers
        __m256i power = _mm256_cmpeq_epi32(_mm256_slli_epi32(bits, 9), _mm256_setzero_si256());
        __m256i range = _mm256_and_si256(_mm256_cmpgt_epi32(exponent, _mm256_setzero_si256()),
                                         _mm256_cmpgt_epi32(_mm256_set1_epi32(255), exponent));
        __m256i code = _mm256_blendv_epi8(_mm256_set1_epi32(0xFF), exponent, _mm256_and_si256(power, range));
        lanes[i] = _mm256_andnot_si256(_mm256_cmpeq_epi32(bits, _mm256_set1_epi32(0x400000)), code);
    }
    store32_bytes(out, lanes);
}

static inline void bf16_to_f32_block(const fm_bf16 *from, float *out)
{
    for (int i = 0; i < BLOCK; i += 8) {
        __m256i lanes = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(from + i)));
        _mm256_storeu_ps(out + i, _mm256_castsi256_ps(_mm256_slli_epi32(lanes, 16)));
    }
}

static inline void fp16_to_f32_block(const fm_fp16 *from, float *out)
{
    for (int i = 0; i < BLOCK; i += 8)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + i))));
}

static inline __m256i load16_bytes(const uint8_t *from)
{
    return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)from));
}

static inline __m256i sign_of_bytes(__m256i words)
{
    return _mm256_and_si256(_mm256_slli_epi16(words, 8), _mm256_set1_epi16((short)0x8000));
}

static inline void store16_halves(float *out, __m256i half, __m256 factor)
{
    _mm256_storeu_ps(out, _mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(half)), factor));
    _mm256_storeu_ps(out + 8, _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(half, 1)), factor));
}

/*
 * By way of fp16, which VCVTPH2PS widens without trouble over subnormals: the e4m3 code shifted by 7 is the
 * fp16 number 2^-8 times as large, except that 0x7F must be made a NaN.
 */
static inline void e4m3_to_f32_block(const fm_e4m3 *from, float *out)
{
    for (int i = 0; i < BLOCK; i += 16) {
        __m256i words = load16_bytes(from + i);
        __m256i magnitude = _mm256_and_si256(words, _mm256_set1_epi16(0x7F));
        __m256i nan = _mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x7F));
        __m256i half = _mm256_or_si256(_mm256_slli_epi16(magnitude, 7), sign_of_bytes(words));
        half = _mm256_or_si256(half, _mm256_and_si256(nan, _mm256_set1_epi16(0x7C00)));
        store16_halves(out + i, half, _mm256_set1_ps(0x1p8f));
    }
}

static inline void e5m2_to_f32_block(const fm_e5m2 *from, float *out)
{
    for (int i = 0; i < BLOCK; i += 16) {
        __m256i half = _mm256_slli_epi16(load16_bytes(from + i), 8);
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm256_castsi256_si128(half)));
        _mm256_storeu_ps(out + i + 8, _mm256_cvtph_ps(_mm256_extracti128_si256(half, 1)));
    }
}

static inline void e2m1_to_f32_block(const fm_e2m1x2 *from, float *out)
{
    const __m256 values = _mm256_setr_ps(0, 0.5f, 1, 1.5f, 2, 3, 4, 6);
    const __m256i nibble = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    for (int i = 0; i < BLOCK; i += 8) {
        int32_t packed;
        memcpy(&packed, from + i / 2, sizeof packed);
        __m256i code =
            _mm256_srlv_epi32(_mm256_set1_epi32(packed), nibble); // bits above the fourth are not looked at
        __m256i sign = _mm256_and_si256(_mm256_slli_epi32(code, 28), _mm256_set1_epi32(INT32_MIN));
        __m256 value = _mm256_permutevar8x32_ps(values, code);
        _mm256_storeu_ps(out + i, _mm256_or_ps(value, _mm256_castsi256_ps(sign)));
    }
}

static inline void ue8m0_to_f32_block(const fm_ue8m0 *from, float *out)
{
    const __m256i half = _mm256_set1_epi32(0x400000); // 2^-127, and the quiet bit
    for (int i = 0; i < BLOCK; i += 8) {
        __m256i code = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(from + i)));
        __m256i nan = _mm256_cmpeq_epi32(code, _mm256_set1_epi32(0xFF));
        __m256i bits = _mm256_max_epu32(_mm256_slli_epi32(code, 23), half);
        bits = _mm256_or_si256(bits, _mm256_and_si256(nan, half));
        _mm256_storeu_ps(out + i, _mm256_castsi256_ps(bits));
    }
}

static inline void e4m3_to_bf16_block(const fm_e4m3 *from, fm_bf16 *out)
{
    // The eight subnormals, multiples of 2^-9, looked up by two byte indices a word.
    const __m256i subnormals = _mm256_broadcastsi128_si256(
        _mm_setr_epi16(0, 0x3B00, 0x3B80, 0x3BC0, 0x3C00, 0x3C20, 0x3C40, 0x3C60));
    for (int i = 0; i < BLOCK; i += 16) {
        __m256i words = load16_bytes(from + i);
        __m256i magnitude = _mm256_and_si256(words, _mm256_set1_epi16(0x7F));
        __m256i index = _mm256_mullo_epi16(magnitude, _mm256_set1_epi16(0x0202));
        index = _mm256_add_epi16(index, _mm256_set1_epi16(0x0100));
        __m256i normal = _mm256_add_epi16(_mm256_slli_epi16(magnitude, 4), _mm256_set1_epi16(120 << 7));
        __m256i nan = _mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x7F));
        __m256i is_subnormal = _mm256_cmpgt_epi16(_mm256_set1_epi16(8), magnitude);
        __m256i code = _mm256_blendv_epi8(normal, _mm256_shuffle_epi8(subnormals, index), is_subnormal);
        code = _mm256_or_si256(code, _mm256_and_si256(nan, _mm256_set1_epi16(0x7FF0)));
        _mm256_storeu_si256((__m256i *)(out + i), _mm256_or_si256(code, sign_of_bytes(words)));
    }
}

static inline void e2m1_to_bf16_block(const fm_e2m1x2 *from, fm_bf16 *out)
{
    // 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives; the low and the high byte of each.
    const __m128i low_bytes =
        _mm_setr_epi8(0, 0, -128, -64, 0, 64, -128, -64, 0, 0, -128, -64, 0, 64, -128, -64);
    const __m128i high_bytes =
        _mm_setr_epi8(0, 0x3F, 0x3F, 0x3F, 0x40, 0x40, 0x40, 0x40, -128, -65, -65, -65, -64, -64, -64, -64);
    for (int i = 0; i < BLOCK; i += 16) {
        __m128i packed = _mm_loadl_epi64((const __m128i *)(from + i / 2));
        __m128i even = _mm_and_si128(packed, _mm_set1_epi8(15));
        __m128i odd = _mm_and_si128(_mm_srli_epi16(packed, 4), _mm_set1_epi8(15));
        __m128i codes = _mm_unpacklo_epi8(even, odd);
        __m128i low = _mm_shuffle_epi8(low_bytes, codes);
        __m128i high = _mm_shuffle_epi8(high_bytes, codes);
        _mm_storeu_si128((__m128i *)(out + i), _mm_unpacklo_epi8(low, high));
        _mm_storeu_si128((__m128i *)(out + i + 8), _mm_unpackhi_epi8(low, high));
    }
}

#define ARRAY(name, S, s_per, D, d_per)                                   \
    static void name(const S *from, size_t n, D *out)                     \
    {                                                                     \
        for (; n >= BLOCK; n -= BLOCK) {                                  \
            name##_block(from, out);                                      \
            from += BLOCK / (s_per);                                      \
            out += BLOCK / (d_per);                                       \
        }                                                                 \
        if (n == 0)                                                       \
            return;                                                       \
        S source[BLOCK / (s_per)] = {0};                                  \
        D result[BLOCK / (d_per)];                                        \
        memcpy(source, from, (n + (s_per)-1) / (s_per) * sizeof *source); \
        name##_block(source, result);                                     \
        memcpy(out, result, (n + (d_per)-1) / (d_per) * sizeof *result);  \
    }
FM_NUMFMT_LIST(ARRAY)

void fm_base_numfmt_install_avx2(struct fm_numfmt_table *table)
{
#define INSTALL(name, S, s_per, D, d_per) table->name = name;
    FM_NUMFMT_LIST(INSTALL)
}
