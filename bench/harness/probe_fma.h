/**
 * @file probe_fma.h
 * The loop of the multiply-add probes, made for one width of registers by FM_BENCH_FMA_CHUNK().
 */
#ifndef PROBE_FMA_H
#define PROBE_FMA_H

enum {
    // Two ports times a latency of 4 cycles want 8 independent chains; 12 leave slack for a chain that starts late.
    FM_BENCH_FMA_CHAINS = 12,
    FM_BENCH_FMA_STEPS = 2048, // 12 to 25 thousand instructions a chunk: 5 to 10 us
};

/*
 * Defines `function`: 12 chains of c = c * factor + addend on registers of `width` floats. STEP(c) is one link of a
 * chain, in asm so that the compiler neither drops a chain nor joins several into one vector; each chain is a variable
 * of its own, not an element of an array, so that it stays in a register under a sanitizer, too. Factor and addend keep
 * the values near 1 however long it runs.
 */
#define FM_BENCH_FMA_CHUNK(function, type, width, splat, STEP)                                            \
    double function(fm_bench_lane *lane)                                                                  \
    {                                                                                                     \
        (void)lane;                                                                                       \
        const type factor = splat(0.75f);                                                                 \
        const type addend = splat(0.25f);                                                                 \
        type c0 = splat(1.0f), c1 = splat(2.0f), c2 = splat(3.0f), c3 = splat(4.0f), c4 = splat(5.0f),    \
             c5 = splat(6.0f);                                                                            \
        type c6 = splat(7.0f), c7 = splat(8.0f), c8 = splat(9.0f), c9 = splat(10.0f), c10 = splat(11.0f), \
             c11 = splat(12.0f);                                                                          \
        for (int step = 0; step < FM_BENCH_FMA_STEPS; step++) {                                           \
            STEP(c0);                                                                                     \
            STEP(c1);                                                                                     \
            STEP(c2);                                                                                     \
            STEP(c3);                                                                                     \
            STEP(c4);                                                                                     \
            STEP(c5);                                                                                     \
            STEP(c6);                                                                                     \
            STEP(c7);                                                                                     \
            STEP(c8);                                                                                     \
            STEP(c9);                                                                                     \
            STEP(c10);                                                                                    \
            STEP(c11);                                                                                    \
        }                                                                                                 \
        return 2.0 * FM_BENCH_FMA_STEPS * FM_BENCH_FMA_CHAINS * (width);                                  \
    }

#endif
