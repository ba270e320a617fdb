/*
 * The sum of weighted rows, written once for all instruction sets: each source that includes this is compiled with its
 * level's flags, and the compiler lowers the vectors to what the level has. Every lane computes what the scalar tail
 * computes, so results do not depend on the level. Word halves are taken in little-endian order.
 */
#ifndef FM_EP_SUM_BODY_H
#define FM_EP_SUM_BODY_H

#include <string.h>

#include "ep_private.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum {
    SUM_LINE = 64,     // bytes: one AVX-512 register of 32-bit lanes
    SUM_LINES = 2,     // at a time: four sums in flight cover the latency of an addition
    SUM_CHANNELS = 32, // of a line
};

typedef float sum_f32 __attribute__((vector_size(SUM_LINE)));
typedef uint32_t sum_u32 __attribute__((vector_size(SUM_LINE)));

/** The BF16 code of each lane, NaN kept quiet. */
static inline void sum_round(const sum_f32 *total, sum_u32 *out_codes)
{
    sum_u32 bits;
    memcpy(&bits, total, sizeof bits);
    sum_u32 rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    sum_u32 quiet = bits >> 16 | 0x40;
    sum_u32 is_nan = (sum_u32)((bits & 0x7FFFFFFF) > 0x7F800000);
    *out_codes = (rounded & ~is_nan) | (quiet & is_nan);
}

static inline void sum_store(fm_bf16 *out, const sum_u32 *codes, int stream)
{
#if defined(__AVX512F__)
    if (stream) {
        _mm512_stream_si512((void *)out, (__m512i)*codes);
        return;
    }
#elif defined(__x86_64__)
    __m128i quarters[4];
    memcpy(quarters, codes, sizeof quarters);
    for (int i = 0; i < 4 && stream; i++)
        _mm_stream_si128((__m128i *)(void *)out + i, quarters[i]);
    if (stream)
        return;
#endif
    (void)stream;
    memcpy(out, codes, sizeof *codes);
}

static inline void sum_rows(const fm_ep_sum *sum, int hidden, const fm_ep_sum *next, int stream, fm_bf16 *out)
{
    int column = 0, next_count = next ? next->count : 0;
    stream = stream && (uintptr_t)out % SUM_LINE == 0;
    for (; column + SUM_CHANNELS * SUM_LINES <= hidden; column += SUM_CHANNELS * SUM_LINES) {
        // Two channels lie in a 32-bit word; each half, moved to the top, is its value in f32.
        sum_f32 low[SUM_LINES] = {{0}}, high[SUM_LINES] = {{0}};
        // Each row of the next sum is fetched while this one is made: they lie anywhere, where the hardware does not look.
        for (int r = 0; r < next_count; r++) {
#pragma GCC unroll 2
            for (int line = 0; line < SUM_LINES; line++)
                __builtin_prefetch((const fm_bf16 *)next->rows[r] + column + line * SUM_CHANNELS, 0, 2);
        }
        for (int r = 0; r < sum->count; r++) {
#pragma GCC unroll 2
            for (int line = 0; line < SUM_LINES; line++) {
                sum_u32 words, bits;
                sum_f32 values;
                memcpy(&words, (const fm_bf16 *)sum->rows[r] + column + line * SUM_CHANNELS, sizeof words);
                bits = words << 16;
                memcpy(&values, &bits, sizeof values);
                low[line] += values * sum->weights[r];
                bits = words & 0xFFFF0000;
                memcpy(&values, &bits, sizeof values);
                high[line] += values * sum->weights[r];
            }
        }
#pragma GCC unroll 2
        for (int line = 0; line < SUM_LINES; line++) {
            sum_u32 low_codes, high_codes;
            sum_round(&low[line], &low_codes);
            sum_round(&high[line], &high_codes);
            low_codes |= high_codes << 16;
            sum_store(out + column + line * SUM_CHANNELS, &low_codes, stream);
        }
    }
    for (; column < hidden; column++) {
        float total = 0.0f;
        for (int r = 0; r < sum->count; r++)
            total += fm_bf16_to_f32(((const fm_bf16 *)sum->rows[r])[column]) * sum->weights[r];
        out[column] = fm_f32_to_bf16(total);
    }
}

#endif
