/*
 * The sum of weighted rows, written once for all instruction sets: each source that includes this is compiled with its
 * level's flags, and the compiler lowers the 16-lane vectors to what the level has. Every lane computes what the scalar
 * tail computes, so results do not depend on the level.
 */
#ifndef FM_EP_SUM_BODY_H
#define FM_EP_SUM_BODY_H

#include <string.h>

#include "ep_private.h"

enum {
    SUM_LANES = 16,  // one AVX-512 register
    SUM_VECTORS = 4, // independent sums in flight cover the latency of an addition
};

typedef float sum_f32 __attribute__((vector_size(SUM_LANES * sizeof(float))));
typedef uint32_t sum_u32 __attribute__((vector_size(SUM_LANES * sizeof(uint32_t))));
typedef uint16_t sum_u16 __attribute__((vector_size(SUM_LANES * sizeof(uint16_t))));

static inline void sum_rows(const fm_bf16 *const *rows, const float *weights, int count, int hidden,
                            fm_bf16 *out)
{
    int column = 0;
    for (; column + SUM_LANES * SUM_VECTORS <= hidden; column += SUM_LANES * SUM_VECTORS) {
        sum_f32 sum[SUM_VECTORS] = {0};
        for (int r = 0; r < count; r++)
            for (int v = 0; v < SUM_VECTORS; v++) {
                sum_u16 codes;
                memcpy(&codes, rows[r] + column + v * SUM_LANES, sizeof codes);
                sum_u32 bits = __builtin_convertvector(codes, sum_u32) << 16;
                sum_f32 values;
                memcpy(&values, &bits, sizeof values);
                sum[v] += values * weights[r];
            }
        for (int v = 0; v < SUM_VECTORS; v++) {
            sum_u32 bits;
            memcpy(&bits, &sum[v], sizeof bits);
            sum_u32 rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
            sum_u32 quiet = bits >> 16 | 0x40;
            sum_u32 is_nan = (sum_u32)((bits & 0x7FFFFFFF) > 0x7F800000);
            sum_u16 codes = __builtin_convertvector((rounded & ~is_nan) | (quiet & is_nan), sum_u16);
            memcpy(out + column + v * SUM_LANES, &codes, sizeof codes);
        }
    }
    for (; column < hidden; column++) {
        float sum = 0.0f;
        for (int r = 0; r < count; r++)
            sum += fm_bf16_to_f32(rows[r][column]) * weights[r];
        out[column] = fm_f32_to_bf16(sum);
    }
}

#endif
