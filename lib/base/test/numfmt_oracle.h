/*
 * What the formats of numfmt.h mean, written down a second time and differently: every code's value in
 * double, and for every code the last f32 that is nearest to it. Narrowing is then a search in that table; no
 * bit of it is shared with the library.
 */
#ifndef NUMFMT_ORACLE_H
#define NUMFMT_ORACLE_H

#include <stdint.h>

enum numfmt {
    NUMFMT_BF16,
    NUMFMT_FP16,
    NUMFMT_E4M3,
    NUMFMT_E5M2,
    NUMFMT_E2M1,
    NUMFMT_UE8M0,
    NUMFMT_COUNT,
};

struct numfmt_oracle {
    const char *name;
    int mantissa_bits;
    int bias;
    uint32_t sign;     // the sign bit; 0: no sign
    uint32_t largest;  // the largest finite code
    uint32_t infinity; // the code that too large numbers become: infinity, or `largest` where they saturate
    uint32_t last[0x7F81]; // per code up to `infinity`: the bits of the largest f32 that becomes it
};

/** Built on first use by one thread. */
const struct numfmt_oracle *numfmt_oracle_get(enum numfmt format);

/** The magnitude of a finite code without sign. */
double numfmt_oracle_value(const struct numfmt_oracle *oracle, uint32_t code);

/** The code that the f32 with these bits becomes (for ue8m0: rounded up). */
uint32_t numfmt_oracle_narrow(const struct numfmt_oracle *oracle, uint32_t bits);

/** The f32 bits that any code becomes. */
uint32_t numfmt_oracle_widen(const struct numfmt_oracle *oracle, uint32_t code);

/** The code of an f32 NaN. */
uint32_t numfmt_oracle_nan(const struct numfmt_oracle *oracle, uint32_t bits);

#endif
