/**
 * @file probe_kernels.h
 * The inner loops of the probes: each does a fixed chunk of work, some 10 us of it, and returns how much that was.
 */
#ifndef PROBE_KERNELS_H
#define PROBE_KERNELS_H

#include <stddef.h>

/** One thread's part of the memory that the memory probes walk: FM_BENCH_STREAMS streams, one behind the other. */
typedef struct fm_bench_lane {
    char *memory;
    size_t stream_bytes; /**< of each stream; a multiple of FM_BENCH_STREAM_CHUNK */
    size_t cursor;       /**< where in each stream the next chunk begins; wraps at stream_bytes */
} fm_bench_lane;

enum {
    /* One core keeps a limited number of lines in flight for one stream of addresses, so that a single stream shows
     * only 70 % of what the core can read; from 4 streams on it is flat. Eight serve both cores measured on. */
    FM_BENCH_STREAMS = 8,
    /* Per stream and chunk: 256 KiB a chunk, some 15 us, so that the clock that is read after each costs nothing. */
    FM_BENCH_STREAM_CHUNK = 32 * 1024,
};

double fm_bench_chunk_clock(fm_bench_lane *lane);
/** Where the CPU has no FMA: a multiplication and an addition. */
double fm_bench_chunk_muladd_scalar(fm_bench_lane *lane);
double fm_bench_chunk_fma_scalar(fm_bench_lane *lane);
double fm_bench_chunk_fma_avx2(fm_bench_lane *lane);
double fm_bench_chunk_fma_avx512(fm_bench_lane *lane);
double fm_bench_chunk_amx(fm_bench_lane *lane);
double fm_bench_chunk_read(fm_bench_lane *lane);
double fm_bench_chunk_copy(fm_bench_lane *lane);
double fm_bench_chunk_copy_streamed(fm_bench_lane *lane);

#endif
