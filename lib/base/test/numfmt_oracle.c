#include "numfmt_oracle.h"

#include <math.h>
#include <string.h>

static struct numfmt_oracle oracles[NUMFMT_COUNT] = {
    [NUMFMT_BF16] = {.name = "bf16", .mantissa_bits = 7, .bias = 127, .sign = 0x8000, .largest = 0x7F7F},
    [NUMFMT_FP16] = {.name = "fp16", .mantissa_bits = 10, .bias = 15, .sign = 0x8000, .largest = 0x7BFF},
    [NUMFMT_E4M3] = {.name = "e4m3", .mantissa_bits = 3, .bias = 7, .sign = 0x80, .largest = 0x7E},
    [NUMFMT_E5M2] = {.name = "e5m2", .mantissa_bits = 2, .bias = 15, .sign = 0x80, .largest = 0x7B},
    [NUMFMT_E2M1] = {.name = "e2m1", .mantissa_bits = 1, .bias = 1, .sign = 0x8, .largest = 7},
    [NUMFMT_UE8M0] = {.name = "ue8m0", .mantissa_bits = 0, .bias = 127, .sign = 0, .largest = 254},
};

static uint32_t bits_of(double value)
{
    float narrow = (float)value; // all values that come here are exact in f32
    uint32_t bits;
    memcpy(&bits, &narrow, sizeof bits);
    return bits;
}

double numfmt_oracle_value(const struct numfmt_oracle *oracle, uint32_t code)
{
    int exponent = (int)(code >> oracle->mantissa_bits);
    int significand = (int)(code - ((uint32_t)exponent << oracle->mantissa_bits));
    if (oracle->sign == 0) // ue8m0 has no subnormals
        return ldexp(1, exponent - oracle->bias);
    if (exponent > 0)
        significand += 1 << oracle->mantissa_bits;
    else
        exponent = 1;
    return ldexp(significand, exponent - oracle->bias - oracle->mantissa_bits);
}

const struct numfmt_oracle *numfmt_oracle_get(enum numfmt format)
{
    struct numfmt_oracle *oracle = &oracles[format];
    if (oracle->infinity)
        return oracle;
    int has_infinity = format == NUMFMT_BF16 || format == NUMFMT_FP16 || format == NUMFMT_E5M2;
    for (uint32_t code = 0; code <= oracle->largest; code++) {
        double value = numfmt_oracle_value(oracle, code);
        // The value that would follow; for the largest code it is the one that infinity stands for.
        double middle = (value + numfmt_oracle_value(oracle, code + 1)) / 2;
        if (format == NUMFMT_UE8M0)
            oracle->last[code] = bits_of(value);
        else
            oracle->last[code] = bits_of(middle) - (code % 2); // the tie belongs to the even code
    }
    oracle->infinity = oracle->largest + (has_infinity ? 1 : 0);
    oracle->last[oracle->infinity] = 0x7F800000;
    return oracle;
}

uint32_t numfmt_oracle_nan(const struct numfmt_oracle *oracle, uint32_t bits)
{
    uint32_t negative = bits >> 31 ? oracle->sign : 0;
    switch ((int)(oracle - oracles)) {
    case NUMFMT_BF16:
        return negative | 0x7FC0 | (bits & 0x7FFFFF) >> 16;
    case NUMFMT_FP16:
        return negative | 0x7E00 | (bits & 0x7FFFFF) >> 13;
    case NUMFMT_E4M3:
        return negative | 0x7F;
    case NUMFMT_E5M2:
        return negative | 0x7E;
    case NUMFMT_E2M1:
        return 7;
    default:
        return 0xFF;
    }
}

uint32_t numfmt_oracle_narrow(const struct numfmt_oracle *oracle, uint32_t bits)
{
    uint32_t magnitude = bits & 0x7FFFFFFF;
    if (magnitude > 0x7F800000)
        return numfmt_oracle_nan(oracle, bits);
    uint32_t low = 0;
    uint32_t high = oracle->infinity;
    while (low < high) { // the first code whose last number is not below
        uint32_t middle = (low + high) / 2;
        if (oracle->last[middle] < magnitude)
            low = middle + 1;
        else
            high = middle;
    }
    return low | (bits >> 31 ? oracle->sign : 0);
}

uint32_t numfmt_oracle_widen(const struct numfmt_oracle *oracle, uint32_t code)
{
    uint32_t negative = code & oracle->sign ? 0x80000000 : 0;
    uint32_t magnitude = code & ~oracle->sign;
    if (magnitude <= oracle->largest)
        return negative | bits_of(numfmt_oracle_value(oracle, magnitude));
    if (magnitude == oracle->infinity)
        return negative | 0x7F800000;
    uint32_t mantissa = magnitude & ((1u << oracle->mantissa_bits) - 1);
    uint32_t quiet = oracle == &oracles[NUMFMT_BF16] ? 0x7F800000 : 0x7FC00000;
    return negative | quiet | mantissa << (23 - oracle->mantissa_bits);
}
