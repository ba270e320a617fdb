/**
 * @file rng.h
 * Random numbers that are the same for ever: Philox4x32-10, a counter-based generator.
 *
 * Philox (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011) computes value
 * `index` of stream `stream` under `seed` directly. So a weight's initial value or a sample's place in a
 * shuffle depends on its number alone, not on how many threads or ranks drew the others, and work resumes
 * anywhere without replaying. A generator with sequential state would be some 5 ns a value faster and would
 * give that up. Not for secrets.
 *
 * The sequence. The 128-bit counter is (index / 2) in words 0-1 and the stream in words 2-3, the key is the
 * seed, low words first. A block of four 32-bit outputs w0..w3 holds value 2b = w0 + 2^32 w1 and value 2b + 1
 * = w2 + 2^32 w3. Every function below says how it turns values into results; that never changes, and results
 * are equal, bit for bit, on every machine with IEEE 754 doubles (round to nearest, the default), because of
 * the mathematical library only functions whose results are exact or exactly rounded are used.
 *
 * A generator belongs to one thread at a time; any number of generators may share seed and stream.
 */
#ifndef FATHOM_RNG_H
#define FATHOM_RNG_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/** A place in a stream of 2^64 values. Copying it copies the place. */
typedef struct fm_rng {
    uint64_t seed;
    uint64_t stream;
    uint64_t index;   /**< of the next value; move it with fm_base_rng_seek() */
    uint64_t pair[2]; /**< private: the two values that `index` is among, when it is odd */
} fm_rng;

/** Philox4x32-10 itself: the values 2 * block and 2 * block + 1 of the stream. */
FM_API void fm_base_rng_block(uint64_t seed, uint64_t stream, uint64_t block, uint64_t out_values[2]);

/** Value `index` of the stream. */
FM_API uint64_t fm_base_rng_at(uint64_t seed, uint64_t stream, uint64_t index);

/** A generator at value 0. Give each use its own stream: equal (seed, stream) draws equal values. */
FM_API fm_rng fm_base_rng_begin(uint64_t seed, uint64_t stream);
/** Makes value `index` the next. */
FM_API void fm_base_rng_seek(fm_rng *rng, uint64_t index);

/** The next value: 64 bits. */
FM_API uint64_t fm_base_rng_u64(fm_rng *rng);

/**
 * Uniform in [0, bound), without bias; a bound of 0 stands for 2^64. The result is the upper half of the
 * 128-bit product value * bound; a value whose lower half is below 2^64 mod bound is passed over (Lemire,
 * "Fast random integer generation in an interval", 2019), so one result takes one value, rarely more.
 */
FM_API uint64_t fm_base_rng_below(fm_rng *rng, uint64_t bound);

/** A value's upper 53 bits as a multiple of 2^-53 in [0, 1). */
static inline double fm_rng_to_double(uint64_t value)
{
    return (double)(value >> 11) * 0x1p-53;
}

/** A value's upper 24 bits as a multiple of 2^-24 in [0, 1). */
static inline float fm_rng_to_float(uint64_t value)
{
    return (float)(value >> 40) * 0x1p-24f;
}

/**
 * A standard normal number from one value: the inverse of the normal distribution function (Wichura's AS 241,
 * PPND16, 1988) at (upper 52 bits + 1/2) 2^-52, within 1e-15 relative of the exact inverse, symmetric, and
 * between -8.3 and 8.3.
 */
FM_API double fm_base_rng_to_normal(uint64_t value);

/** The next value, so converted. */
static inline double fm_rng_double(fm_rng *rng)
{
    return fm_rng_to_double(fm_base_rng_u64(rng));
}

static inline float fm_rng_float(fm_rng *rng)
{
    return fm_rng_to_float(fm_base_rng_u64(rng));
}

static inline double fm_rng_normal(fm_rng *rng)
{
    return fm_base_rng_to_normal(fm_base_rng_u64(rng));
}

/** Permutes `count` elements of `size` bytes: for i from count - 1 down to 1, element i is exchanged with
 * element fm_base_rng_below(i + 1) (Fisher and Yates, as Durstenfeld wrote it). */
FM_API void fm_base_rng_shuffle(fm_rng *rng, void *array, size_t count, size_t size);

/** Fills with the next values in little-endian order; a rest takes the low bytes of one more value. */
FM_API void fm_base_rng_fill(fm_rng *rng, void *to, size_t size);

#ifdef __cplusplus
}
#endif
#endif
