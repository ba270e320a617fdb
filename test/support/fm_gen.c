#include "fm_gen.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// SplitMix64 (Steele, Lea, Flood 2014).
static uint64_t split_mix(uint64_t *state)
{
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

// The seed is mixed first: seeds that only differ by the generator's own step would give one sequence, shifted.
fm_gen fm_gen_seeded(uint64_t seed)
{
    return (fm_gen){.state = split_mix(&seed)};
}

fm_gen fm_gen_bytes(const void *bytes, size_t size)
{
    return (fm_gen){.bytes = bytes, .size = size};
}

uint64_t fm_gen_u64(fm_gen *gen)
{
    if (!gen->bytes)
        return split_mix(&gen->state);
    uint64_t value = 0;
    for (int i = 0; i < 8 && gen->used < gen->size; i++)
        value |= (uint64_t)gen->bytes[gen->used++] << (8 * i);
    return value;
}

int64_t fm_gen_int(fm_gen *gen, int64_t low, int64_t high)
{
    uint64_t span = (uint64_t)high - (uint64_t)low + 1;
    if (gen->bytes && span && span <= 256) // spend one byte of a fuzz input where one is enough
        return low + (int64_t)((gen->used < gen->size ? gen->bytes[gen->used++] : 0) % span);
    uint64_t value = fm_gen_u64(gen);
    return (int64_t)((uint64_t)low + (span ? value % span : value));
}

int64_t fm_gen_size(fm_gen *gen, int64_t low, int64_t high)
{
    int64_t value;
    switch (fm_gen_int(gen, 0, 3)) {
    case 0: // small
        return fm_gen_int(gen, low, low + 8 < high ? low + 8 : high);
    case 1: // around a power of two
        value = ((int64_t)1 << fm_gen_int(gen, 0, 40)) + fm_gen_int(gen, -1, 1);
        if (value >= low && value <= high)
            return value;
        return fm_gen_chance(gen, 0.5) ? low : high;
    default:
        return fm_gen_int(gen, low, high);
    }
}

double fm_gen_real(fm_gen *gen, double low, double high)
{
    return low + (high - low) * ((double)(fm_gen_u64(gen) >> 11) * 0x1p-53);
}

float fm_gen_normal(fm_gen *gen)
{
    double u = fm_gen_real(gen, 0, 1);
    double v = fm_gen_real(gen, 0, 1);
    return (float)(sqrt(-2 * log(1 - u)) * cos(6.283185307179586 * v));
}

int fm_gen_chance(fm_gen *gen, double probability)
{
    return (double)fm_gen_int(gen, 0, 255) < probability * 256;
}

float fm_gen_any_float(fm_gen *gen)
{
    uint32_t bits = (uint32_t)fm_gen_u64(gen);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

void fm_gen_fill(fm_gen *gen, void *to, size_t size)
{
    uint8_t *bytes = to;
    for (size_t i = 0; i < size; i += 8) {
        uint64_t value = fm_gen_u64(gen);
        memcpy(bytes + i, &value, size - i < 8 ? size - i : 8);
    }
}

static uint64_t running_seed;

static void say_seed(void)
{
    if (running_seed)
        fprintf(stderr, "property stopped at seed %llu: rerun with FM_TEST_SEED=%llu\n",
                (unsigned long long)running_seed, (unsigned long long)running_seed);
}

void fm_gen_property(int rounds, void (*property)(fm_gen *gen))
{
    static int registered;
    if (!registered++)
        atexit(
            say_seed); // cmocka leaves a failing test by longjmp; the seed is still set when the program ends
    const char *only = getenv("FM_TEST_SEED");
    const char *factor = getenv("FM_TEST_ROUNDS");
    uint64_t first = only ? strtoull(only, NULL, 10) : 1;
    uint64_t last = only ? first : (uint64_t)rounds * (factor ? strtoull(factor, NULL, 10) : 1);
    for (uint64_t seed = first; seed <= last; seed++) {
        running_seed = seed;
        fm_gen gen = fm_gen_seeded(seed);
        property(&gen);
    }
    running_seed = 0;
}
