/**
 * @file fm_gen.h
 * Random values for property tests, drawn from a byte stream.
 *
 * The stream is either a seeded generator (property tests) or the bytes that libFuzzer proposes (fuzz
 * targets), so one generator of inputs serves both, and a failing fuzz input replays as a test. When fuzz
 * bytes run out, zeros follow.
 */
#ifndef FM_GEN_H
#define FM_GEN_H

#include <stddef.h>
#include <stdint.h>

typedef struct fm_gen {
    const uint8_t *bytes; /**< NULL: seeded */
    size_t size;
    size_t used;
    uint64_t state;
} fm_gen;

/** A generator whose sequence depends on `seed` alone. */
fm_gen fm_gen_seeded(uint64_t seed);
/** A generator that consumes `size` bytes; they stay the caller's and must outlive it. */
fm_gen fm_gen_bytes(const void *bytes, size_t size);

/** 64 bits. */
uint64_t fm_gen_u64(fm_gen *gen);
/** An integer in [low, high], both ends included. */
int64_t fm_gen_int(fm_gen *gen, int64_t low, int64_t high);
/** Like fm_gen_int(), but small values, powers of two and their neighbours, and the ends come often. */
int64_t fm_gen_size(fm_gen *gen, int64_t low, int64_t high);
/** Uniform in [low, high). */
double fm_gen_real(fm_gen *gen, double low, double high);
/** Standard normal. */
float fm_gen_normal(fm_gen *gen);
/** True with this probability. */
int fm_gen_chance(fm_gen *gen, double probability);
/** Any float bit pattern: subnormals, infinities and NaN included. */
float fm_gen_any_float(fm_gen *gen);
/** Fills with raw bytes. */
void fm_gen_fill(fm_gen *gen, void *to, size_t size);

/**
 * Runs a property with seeds 1..rounds (times FM_TEST_ROUNDS when that is set), and prints the seed when the
 * test aborts in one: rerun it alone with FM_TEST_SEED=<seed>.
 */
void fm_gen_property(int rounds, void (*property)(fm_gen *gen));

#endif
