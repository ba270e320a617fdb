#include "probe_fma.h"
#include "probe_kernels.h"

#include <stdint.h>

enum {
    CLOCK_STEPS = 8192,
    MULTIPLY_CYCLES = 3, // latency of a 64-bit multiplication on x86-64 cores
};

double fm_bench_chunk_clock(fm_bench_lane *lane)
{
    (void)lane;
    uint64_t value = 3;
    for (int i = 0; i < CLOCK_STEPS; i++) {
        value *= value;
        __asm__ volatile("" : "+r"(value));
    }
    return (double)CLOCK_STEPS * MULTIPLY_CYCLES;
}

#ifdef __x86_64__
#define FLOAT_REGISTER "+x"
#else
#define FLOAT_REGISTER "+w"
#endif
#define SPLAT(x) (x)
#define STEP(c)                                   \
    do {                                          \
        (c) = (c)*factor + addend;                \
        __asm__ volatile("" : FLOAT_REGISTER(c)); \
    } while (0)
FM_BENCH_FMA_CHUNK(fm_bench_chunk_muladd_scalar, float, 1, SPLAT, STEP)
