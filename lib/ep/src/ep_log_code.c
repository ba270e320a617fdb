// LogFMT-10: a sign and nine bits of logarithm for each channel, between the least and the greatest magnitude of a block.
#include <string.h>

#include "ep_private.h"

enum {
    CODE_BITS = 10,
    CODE_SIGN = 1 << 9,
    CODE_NAN = 511,
    LEVELS = 510,    // codes 1 to 510; 0 is zero
    RANGE_LOG2 = 32, // what lies further below the greatest is zero, or the least level
};

size_t fm_ep_log_bytes(int hidden)
{
    return ((size_t)hidden * CODE_BITS + 7) / 8;
}

/* Logarithm and power by polynomials of plain products and sums, so that they are the same on every machine. */

/** log2 of a positive, normal number, to 1e-4: a guess that is made good by comparing. */
static float rough_log2(float x)
{
    uint32_t bits = fm_f32_bits(x);
    float m = fm_f32_from_bits((bits & 0x7FFFFF) | 0x3F800000) - 1.0f;
    return (float)((int)(bits >> 23) - 127) +
           m * (1.4413f + m * (-0.7057f + m * (0.4110f + m * (-0.1935f + m * 0.0469f))));
}

/** 2^x for x in -126 to 128, to 3e-7. */
static float power_of_two(float x)
{
    int whole = (int)(x + 1024.5f) - 1024;
    float f = (x - (float)whole) * 0.693147181f, p = 1.0f / 720;
    p = p * f + 1.0f / 120;
    p = p * f + 1.0f / 24;
    p = p * f + 1.0f / 6;
    p = p * f + 0.5f;
    p = p * f + 1.0f;
    p = p * f + 1.0f;
    return p * fm_f32_from_bits((uint32_t)(whole + 127) << 23);
}

/** What a block's codes mean; from the two numbers that travel with it. */
static void make_levels(fm_bf16 least, fm_bf16 greatest, float *out_levels)
{
    out_levels[0] = 0.0f;
    float low = fm_bf16_to_f32(least), high = fm_bf16_to_f32(greatest);
    if (high == 0.0f) {
        memset(out_levels, 0, (LEVELS + 1) * sizeof *out_levels);
        return;
    }
    float ratio = high / low, range = rough_log2(ratio);
    range +=
        (ratio / power_of_two(range) - 1.0f) * 1.44269504f; // a step of Newton's makes the guess good to f32
    float step = range / (float)(LEVELS - 1);
    for (int i = 0; i < LEVELS; i++)
        out_levels[1 + i] = low * power_of_two(step * (float)i);
    out_levels[LEVELS] = high;
}

/** The level nearest to a magnitude. */
static uint32_t nearest(float magnitude, const float *levels, float from, float per_step)
{
    if (magnitude <= levels[1])
        return magnitude > 0.5f * levels[1] ? 1 : 0;
    int guess = 1 + (int)((rough_log2(magnitude) - from) * per_step);
    guess = guess < 1 ? 1 : guess > LEVELS ? LEVELS : guess;
    while (guess < LEVELS && levels[guess + 1] <= magnitude)
        guess++;
    while (guess > 1 && levels[guess] > magnitude)
        guess--;
    if (guess < LEVELS && magnitude - levels[guess] > levels[guess + 1] - magnitude)
        guess++;
    return (uint32_t)guess;
}

/** The ends of a block's range: normal numbers, or zero twice. */
static void find_ends(const fm_bf16 *block, int n, fm_bf16 *out_least, fm_bf16 *out_greatest)
{
    int least = 0x7F80, greatest = 0; // BF16 magnitudes order as their bits do
    for (int i = 0; i < n; i++) {
        int magnitude = block[i] & 0x7FFF;
        if (magnitude >= 0x7F80)
            continue;
        greatest = magnitude > greatest ? magnitude : greatest;
        least = magnitude > 0 && magnitude < least ? magnitude : least;
    }
    const int smallest = 0x0080; // 2^-126; what is below is zero or this
    greatest = greatest > 0 && greatest < smallest ? smallest : greatest;
    int bound = greatest - (RANGE_LOG2 << 7) > smallest ? greatest - (RANGE_LOG2 << 7) : smallest;
    least = least < bound ? bound : least;
    *out_least = (fm_bf16)(greatest == 0 ? 0 : least > greatest ? greatest : least);
    *out_greatest = (fm_bf16)greatest;
}

void fm_ep_log_encode(const fm_bf16 *row, int hidden, uint8_t *out_codes, fm_bf16 *out_ends)
{
    float levels[LEVELS + 1];
    uint32_t bits = 0; // codes that do not fill a byte yet
    int count = 0;
    for (int first = 0; first < hidden; first += FM_EP_SCALE_BLOCK, out_ends += 2) {
        int n = hidden - first < FM_EP_SCALE_BLOCK ? hidden - first : FM_EP_SCALE_BLOCK;
        find_ends(row + first, n, &out_ends[0], &out_ends[1]);
        make_levels(out_ends[0], out_ends[1], levels);
        float from = levels[1] > 0 ? rough_log2(levels[1]) : 0,
              to = levels[1] > 0 ? rough_log2(levels[LEVELS]) : 0;
        float per_step = to > from ? (float)(LEVELS - 1) / (to - from) : 0;
        for (int i = first; i < first + n; i++) {
            int is_odd = (row[i] & 0x7FFF) >= 0x7F80;
            uint32_t code = is_odd
                                ? CODE_NAN
                                : nearest(fm_bf16_to_f32((fm_bf16)(row[i] & 0x7FFF)), levels, from, per_step);
            code |= row[i] >> 15 ? CODE_SIGN : 0;
            bits |= code << count;
            for (count += CODE_BITS; count >= 8; count -= 8, bits >>= 8)
                *out_codes++ = (uint8_t)bits;
        }
    }
    if (count > 0)
        *out_codes = (uint8_t)bits;
}

void fm_ep_log_decode(const uint8_t *codes, const fm_bf16 *ends, int first, int n, float *out)
{
    float levels[LEVELS + 2];
    make_levels(ends[0], ends[1], levels);
    levels[CODE_NAN] = fm_f32_from_bits(0x7FC00000);
    size_t at = (size_t)first * CODE_BITS / 8; // a block begins at a byte
    uint32_t bits = 0;
    int count = 0;
    for (int i = 0; i < n; i++) {
        for (; count < CODE_BITS; count += 8)
            bits |= (uint32_t)codes[at++] << count;
        float value = levels[bits & (CODE_SIGN - 1)];
        out[i] = bits & CODE_SIGN ? -value : value;
        bits >>= CODE_BITS;
        count -= CODE_BITS;
    }
}
