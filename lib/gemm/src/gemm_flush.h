/**
 * @file gemm_flush.h
 * The arithmetic of fathom/gemm.h in portable C: f32, rounded to nearest even, with subnormals taken as and flushed to
 * zero as x86 does under FTZ and DAZ. Right whether or not the processor flushes by itself; NaN pass.
 */
#ifndef GEMM_FLUSH_H
#define GEMM_FLUSH_H

#include <math.h>

static inline float fm_gemm_flush(float value)
{
    return fabsf(value) < 0x1p-126f ? copysignf(0.0f, value) : value;
}

/**
 * The flush of a rounded result whose exact value is `high + low`. A result is tiny when it is below 2^-126 after
 * rounding to 24 bits with no bound on the exponent. An f32 that has lost bits to underflow is tiny for sure, but for
 * one: what lies from 2^-126 - 2^-150 up to (not including) 2^-126 - 2^-151 rounds to 2^-126 as a subnormal would, and
 * to 2^-126 - 2^-150 in 24 bits.
 */
static inline float fm_gemm_flush_exact(float rounded, double high, double low)
{
    const double threshold = 0x1p-126 - 0x1p-151;
    if (fabsf(rounded) != 0x1p-126f)
        return fm_gemm_flush(rounded);
    double sign = rounded < 0 ? -1 : 1;
    double above = sign * high - threshold; // exact: the two are within a factor of 2
    return above + sign * low < 0 ? (float)copysign(0, sign) : rounded;
}

/** a * b + c rounded once. The product of two f32 is exact in double, and so is what their sum loses to rounding. */
static inline float fm_gemm_flush_fma(float a, float b, float c)
{
    a = fm_gemm_flush(a);
    b = fm_gemm_flush(b);
    c = fm_gemm_flush(c);
    double product = (double)a * (double)b;
    double high = product + (double)c;
    double back = high - product;
    double low = (product - (high - back)) + ((double)c - back);
    return fm_gemm_flush_exact(fmaf(a, b, c), high, low);
}

static inline float fm_gemm_flush_mul(float a, float b)
{
    a = fm_gemm_flush(a);
    b = fm_gemm_flush(b);
    return fm_gemm_flush_exact(a * b, (double)a * (double)b, 0);
}

/** A quotient differs from the threshold by more than a double's rounding, or not at all. */
static inline float fm_gemm_flush_div(float a, float b)
{
    a = fm_gemm_flush(a);
    b = fm_gemm_flush(b);
    return fm_gemm_flush_exact(a / b, (double)a / (double)b, 0);
}

/** A sum that is tiny is exact. */
static inline float fm_gemm_flush_add(float a, float b)
{
    return fm_gemm_flush(fm_gemm_flush(a) + fm_gemm_flush(b));
}

#endif
