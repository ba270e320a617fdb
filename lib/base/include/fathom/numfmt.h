/**
 * @file numfmt.h
 * The small number formats and their conversions: bf16, fp16, e4m3fn, e5m2, e2m1 and ue8m0.
 *
 *     type       sign/exp/mantissa  bias  largest  least normal, subnormal  infinity  NaN
 *     fm_bf16    1/8/7              127   3.4e38   2^-126    2^-133         yes       as IEEE 754
 *     fm_fp16    1/5/10             15    65504    2^-14     2^-24          yes       as IEEE 754
 *     fm_e4m3    1/4/3              7     448      2^-6      2^-9           none      0x7F, 0xFF
 *     fm_e5m2    1/5/2              15    57344    2^-14     2^-16          yes       0x7D-0x7F, 0xFD-0xFF
 *     (e2m1)     1/2/1              1     6        1         0.5            none      none
 *     fm_ue8m0   0/8/0              127   2^127    2^-127    none           none      0xFF
 *
 * Sources: bf16 and fp16 are the top half of IEEE 754 binary32, and binary16; e4m3 (the variant called
 * e4m3fn) and e5m2 are OCP FP8; e2m1 and ue8m0 (there E8M0, without a zero and without a sign) are OCP
 * Microscaling (MX) 1.0.
 *
 * From f32, every format but ue8m0 rounds once, to nearest, ties to the even code; signs are kept, that of
 * zero too.
 *
 *     to         too large for the format        infinity      NaN
 *     bf16       infinity, as IEEE 754 rounds    infinity      quiet; sign and top mantissa bits kept
 *     fp16       infinity, from 65520 on         infinity      quiet; sign and top mantissa bits kept
 *     e4m3       +-448                           +-448         0x7F with the sign
 *     e5m2       infinity, from 61440 on         infinity      0x7E with the sign
 *     e2m1       +-6                             +-6           +6: the format has nothing better
 *     ue8m0      ceil: 2^127; exact: NaN         as too large  0xFF
 *
 * e4m3 saturates because quantisers divide by amax/448 and a last-bit excess must not become NaN; so do
 * NVIDIA's `satfinite` conversions, which also give +6 for an e2m1 of NaN. A caller who wants e5m2 to
 * saturate clamps to +-57344 first. (DeepGEMM's Python quantiser for FP4 is different: ties go toward zero,
 * and a negative zero loses its sign.)
 *
 * To f32 and between small formats every conversion is exact. A NaN stays one: quiet, with its sign, and with
 * its mantissa bits at the top of the new mantissa (bf16 to f32 is the one that copies a signalling NaN as it
 * is).
 *
 * Every array function gives the same bits at every ISA level, NaN included, and the same as the scalar
 * function of its name. The caller's floating-point mode (rounding, FTZ, DAZ) and flags neither matter nor
 * change. None fails or allocates; any thread may call any of them. Pointers need no more alignment than their
 * type; exactly the n elements are touched; `from` and `out` must not overlap; with n = 0 both may be NULL.
 * The scalar functions compute with integers, or exactly, and do not depend on the mode either.
 */
#ifndef FATHOM_NUMFMT_H
#define FATHOM_NUMFMT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef uint16_t fm_bf16;
typedef uint16_t fm_fp16;
typedef uint8_t fm_e4m3;
typedef uint8_t fm_e5m2;
typedef uint8_t fm_ue8m0;
/** Two e2m1 codes: element 2i in the low four bits of byte i, element 2i + 1 in the high ones. */
typedef uint8_t fm_e2m1x2;

#define FM_E4M3_MAX 448.0f
#define FM_E5M2_MAX 57344.0f
#define FM_E2M1_MAX 6.0f

/** The bits of an f32. */
static inline uint32_t fm_f32_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/** The f32 with these bits. */
static inline float fm_f32_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/**
 * The common part of narrowing: the code, without sign, that is nearest to the f32 whose bits without sign
 * are `magnitude`, in a format with this many mantissa bits and this bias. Codes count up through subnormals
 * and binades, so a carry out of the mantissa is right, and the result runs on past the largest code: the
 * caller clamps it. The biases here are small enough that every f32 subnormal rounds to 0.
 */
static inline uint32_t fm_narrow_magnitude(uint32_t magnitude, uint32_t mantissa_bits, uint32_t bias)
{
    uint32_t exponent = magnitude >> 23;
    uint32_t smallest = 128 - bias; // the f32 exponent field of the format's smallest normal
    uint32_t below = exponent < smallest ? smallest - exponent : 0;
    uint32_t shift = 23 - mantissa_bits + below;
    if (shift > 24) // less than half of the smallest subnormal
        return 0;
    uint32_t significand = (magnitude & 0x7FFFFF) | 0x800000;
    uint32_t quotient = significand >> shift;
    uint32_t rest = significand & ((1u << shift) - 1);
    uint32_t half = 1u << (shift - 1);
    quotient += rest > half || (rest == half && (quotient & 1));
    return quotient + ((exponent + below - smallest) << mantissa_bits);
}

static inline fm_bf16 fm_f32_to_bf16(float value)
{
    uint32_t bits = fm_f32_bits(value);
    if ((bits & 0x7FFFFFFF) > 0x7F800000)
        return (fm_bf16)(bits >> 16 | 0x40);
    return (fm_bf16)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

static inline float fm_bf16_to_f32(fm_bf16 code)
{
    return fm_f32_from_bits((uint32_t)code << 16);
}

static inline fm_fp16 fm_f32_to_fp16(float value)
{
    uint32_t bits = fm_f32_bits(value);
    uint32_t sign = bits >> 16 & 0x8000;
    uint32_t magnitude = bits & 0x7FFFFFFF;
    if (magnitude > 0x7F800000)
        return (fm_fp16)(sign | 0x7E00 | (magnitude >> 13 & 0x3FF));
    uint32_t code = fm_narrow_magnitude(magnitude, 10, 15);
    return (fm_fp16)(sign | (code < 0x7C00 ? code : 0x7C00));
}

static inline float fm_fp16_to_f32(fm_fp16 code)
{
    uint32_t sign = (uint32_t)(code & 0x8000) << 16;
    uint32_t magnitude = code & 0x7FFF;
    uint32_t bits = (magnitude << 13) + (112u << 23);
    if (magnitude > 0x7C00)
        bits = 0x7FC00000 | magnitude << 13;
    else if (magnitude == 0x7C00)
        bits = 0x7F800000;
    else if (magnitude < 0x400)
        bits = fm_f32_bits((float)magnitude * 0x1p-24f);
    return fm_f32_from_bits(sign | bits);
}

static inline fm_e4m3 fm_f32_to_e4m3(float value)
{
    uint32_t bits = fm_f32_bits(value);
    uint32_t sign = bits >> 24 & 0x80;
    uint32_t magnitude = bits & 0x7FFFFFFF;
    if (magnitude > 0x7F800000)
        return (fm_e4m3)(sign | 0x7F);
    uint32_t code = fm_narrow_magnitude(magnitude, 3, 7);
    return (fm_e4m3)(sign | (code < 0x7E ? code : 0x7E));
}

static inline float fm_e4m3_to_f32(fm_e4m3 code)
{
    uint32_t sign = (uint32_t)(code & 0x80) << 24;
    uint32_t magnitude = code & 0x7F;
    uint32_t bits = (magnitude << 20) + (120u << 23);
    if (magnitude == 0x7F)
        bits = 0x7FF00000;
    else if (magnitude < 8)
        bits = fm_f32_bits((float)magnitude * 0x1p-9f);
    return fm_f32_from_bits(sign | bits);
}

/** Exact, as is every e4m3 value in bf16. */
static inline fm_bf16 fm_e4m3_to_bf16(fm_e4m3 code)
{
    return (fm_bf16)(fm_f32_bits(fm_e4m3_to_f32(code)) >> 16);
}

static inline fm_e5m2 fm_f32_to_e5m2(float value)
{
    uint32_t bits = fm_f32_bits(value);
    uint32_t sign = bits >> 24 & 0x80;
    uint32_t magnitude = bits & 0x7FFFFFFF;
    if (magnitude > 0x7F800000)
        return (fm_e5m2)(sign | 0x7E);
    uint32_t code = fm_narrow_magnitude(magnitude, 2, 15);
    return (fm_e5m2)(sign | (code < 0x7C ? code : 0x7C));
}

/** e5m2 is the top byte of fp16. */
static inline float fm_e5m2_to_f32(fm_e5m2 code)
{
    return fm_fp16_to_f32((fm_fp16)(code << 8));
}

/** One code, 0..15. */
static inline uint8_t fm_f32_to_e2m1(float value)
{
    uint32_t bits = fm_f32_bits(value);
    uint32_t magnitude = bits & 0x7FFFFFFF;
    if (magnitude > 0x7F800000)
        return 7;
    uint32_t code = fm_narrow_magnitude(magnitude, 1, 1);
    return (uint8_t)((bits >> 28 & 8) | (code < 7 ? code : 7));
}

/** Of the low four bits of `code`. */
static inline float fm_e2m1_to_f32(uint8_t code)
{
    uint32_t sign = (uint32_t)(code & 8) << 28;
    uint32_t magnitude = code & 7;
    uint32_t bits = magnitude < 2 ? magnitude * 0x3F000000u : (magnitude << 22) + (126u << 23);
    return fm_f32_from_bits(sign | bits);
}

/** Exact. Of the low four bits of `code`. */
static inline fm_bf16 fm_e2m1_to_bf16(uint8_t code)
{
    return (fm_bf16)(fm_f32_bits(fm_e2m1_to_f32(code)) >> 16);
}

/**
 * The least power of two that is not below |value|: how DeepGEMM rounds scales, so that what is divided by
 * the scale does not outgrow its format. 0 and everything up to 2^-127 give 2^-127; above 2^127, infinity
 * too, gives 2^127.
 */
static inline fm_ue8m0 fm_f32_to_ue8m0_ceil(float value)
{
    uint32_t magnitude = fm_f32_bits(value) & 0x7FFFFFFF;
    if (magnitude > 0x7F800000)
        return 0xFF;
    if (magnitude <= 0x400000) // 2^-127 is an f32 subnormal
        return 0;
    uint32_t code = (magnitude + 0x7FFFFF) >> 23;
    return (fm_ue8m0)(code < 254 ? code : 254);
}

/** The code of a value that is a power of two in 2^-127..2^127; 0xFF (NaN) for every other value: 0, -1, 3,
 * infinity. */
static inline fm_ue8m0 fm_f32_to_ue8m0_exact(float value)
{
    uint32_t bits = fm_f32_bits(value);
    if (bits == 0x400000)
        return 0;
    // A set sign bit makes the exponent 256 or more; 0 is not representable, and a zero exponent is a
    // subnormal.
    uint32_t exponent = bits >> 23;
    return (bits & 0x7FFFFF) == 0 && exponent >= 1 && exponent <= 254 ? (fm_ue8m0)exponent : (fm_ue8m0)0xFF;
}

static inline float fm_ue8m0_to_f32(fm_ue8m0 code)
{
    uint32_t bits = code == 0 ? 0x400000 : (uint32_t)code << 23;
    return fm_f32_from_bits(code == 0xFF ? 0x7FC00000 : bits);
}

/*
 * Arrays of n elements, each converted as by the scalar function of the same name. Packed e2m1 takes (n + 1)
 * / 2 bytes; with n odd the last high half is written as 0 and not read.
 */
FM_API void fm_base_f32_to_bf16(const float *from, size_t n, fm_bf16 *out);
FM_API void fm_base_f32_to_fp16(const float *from, size_t n, fm_fp16 *out);
FM_API void fm_base_f32_to_e4m3(const float *from, size_t n, fm_e4m3 *out);
FM_API void fm_base_f32_to_e5m2(const float *from, size_t n, fm_e5m2 *out);
FM_API void fm_base_f32_to_e2m1(const float *from, size_t n, fm_e2m1x2 *out);
FM_API void fm_base_f32_to_ue8m0_ceil(const float *from, size_t n, fm_ue8m0 *out);
FM_API void fm_base_f32_to_ue8m0_exact(const float *from, size_t n, fm_ue8m0 *out);

FM_API void fm_base_bf16_to_f32(const fm_bf16 *from, size_t n, float *out);
FM_API void fm_base_fp16_to_f32(const fm_fp16 *from, size_t n, float *out);
FM_API void fm_base_e4m3_to_f32(const fm_e4m3 *from, size_t n, float *out);
FM_API void fm_base_e5m2_to_f32(const fm_e5m2 *from, size_t n, float *out);
FM_API void fm_base_e2m1_to_f32(const fm_e2m1x2 *from, size_t n, float *out);
FM_API void fm_base_ue8m0_to_f32(const fm_ue8m0 *from, size_t n, float *out);

FM_API void fm_base_e4m3_to_bf16(const fm_e4m3 *from, size_t n, fm_bf16 *out);
FM_API void fm_base_e2m1_to_bf16(const fm_e2m1x2 *from, size_t n, fm_bf16 *out);

#ifdef __cplusplus
}
#endif
#endif
