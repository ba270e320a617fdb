/**
 * @file bench_probe.h
 * Probes of the machine's limits: what the core and the memory give at this moment, measured in well under the time of
 * a sample, so that they can be taken around every one.
 *
 * On 1 thread a probe runs on the calling thread, hence on the core whose state the sample sees, and divides its work
 * by CPU time. On more it runs on helper threads, one pinned to each CPU, which begin together, work through the same
 * window of wall time and add up their rates.
 */
#ifndef BENCH_PROBE_H
#define BENCH_PROBE_H

#include "fm_bench.h"

typedef struct fm_bench_probes fm_bench_probes;

/** `memory_bytes` for the memory probes to walk, taken at the first of them; 0: four times the last-level cache, but at
 *  least 512 MiB and at most an eighth of the machine. FM_ERR_NOMEM. */
FM_MUST_USE fm_status fm_bench_probes_new(size_t memory_bytes, fm_bench_probes **out_probes);
/** NULL is allowed. */
void fm_bench_probes_free(fm_bench_probes *probes);

/**
 * Takes what the probe needs, so that taking it later costs its window alone: helper threads, memory (up to a second).
 * FM_ERR_UNAVAILABLE: this machine, or FM_ISA, does not have what the limit is about. FM_ERR_NOMEM, FM_ERR_LIMIT.
 */
FM_MUST_USE fm_status fm_bench_probe_prepare(fm_bench_probes *probes, fm_bench_limit limit, int threads);

/** The rate now, in fm_bench_limit_unit(). Only after fm_bench_probe_prepare() of the same limit and threads. */
double fm_bench_probe_take(fm_bench_probes *probes, fm_bench_limit limit, int threads);

/** "amx_bf16", "read"; "none" and "own" for the two that are not probed here. */
const char *fm_bench_limit_name(fm_bench_limit limit);
/** "flop/s", "B/s", "Hz"; "" for none and own. */
const char *fm_bench_limit_unit(fm_bench_limit limit);
/** How far the probes before and after a sample may differ, relative to the greater, for the sample to be clean. */
double fm_bench_limit_bound(fm_bench_limit limit);

/** CPU time of the whole process, in seconds. */
double fm_bench_process_cpu(void);
/** Monotonic wall time, in seconds. */
double fm_bench_wall(void);
/** Sleeps until the process's other threads use next to no CPU time, 0.1 s at most: some have work of their own. */
void fm_bench_settle(void);

#endif
