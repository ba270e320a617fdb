/**
 * @file mla_exp.h
 * 2^x for x of up to FM_MLA_SLACK: the polynomial, which every ISA level evaluates alike.
 *
 * n is x rounded to an integer (by adding MAGIC and taking it away), f = x - n, 2^f comes from Horner's rule with fused
 * multiply-adds and is multiplied by 2^n. The coefficients minimise the relative error over [-0.5, 0.5] among those with
 * 2^0 = 1: 2.1e-8, a third of an f32's rounding.
 */
#ifndef MLA_EXP_H
#define MLA_EXP_H

#include "fathom/numfmt.h"

#include <math.h>

#define FM_MLA_EXP_MAGIC \
    0x1.8p23f // its ulp is 1: what is added rounds to an integer, which the low bits then hold
#define FM_MLA_EXP_LEAST (-125.0f) // 2^x is 0 below: nothing subnormal arises
#define FM_MLA_EXP_C1    0x1.62e432p-1f
#define FM_MLA_EXP_C2    0x1.ebfbe2p-3f
#define FM_MLA_EXP_C3    0x1.c6ae72p-5f
#define FM_MLA_EXP_C4    0x1.3b270ep-7f
#define FM_MLA_EXP_C5    0x1.5f7276p-10f
#define FM_MLA_EXP_C6    0x1.470b4ap-13f
#define FM_MLA_LOG2E     0x1.715476p+0f
#define FM_MLA_LN2       0x1.62e43p-1f
#define FM_MLA_SLACK     8.0f // p may be up to 2^8 before what it is relative to follows

static inline float fm_mla_exp2(float x)
{
    if (x < FM_MLA_EXP_LEAST)
        return 0;
    float shifted = x + FM_MLA_EXP_MAGIC;
    float f = x - (shifted - FM_MLA_EXP_MAGIC);
    float y = fmaf(FM_MLA_EXP_C6, f, FM_MLA_EXP_C5);
    y = fmaf(y, f, FM_MLA_EXP_C4);
    y = fmaf(y, f, FM_MLA_EXP_C3);
    y = fmaf(y, f, FM_MLA_EXP_C2);
    y = fmaf(y, f, FM_MLA_EXP_C1);
    y = fmaf(y, f, 1.0f);
    // A multiplication, not an addition to the exponent: NaN stays NaN.
    return y * fm_f32_from_bits((fm_f32_bits(shifted) + 127) << 23);
}

#endif
