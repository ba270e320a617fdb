/**
 * @file bench_sample.h
 * Takes the samples of one case: rounds in which every variant (the case and its peers, at each thread count) runs once,
 * bracketed by probes.
 *
 *     round 0:   [probe A probe] [probe B probe] [probe A2 probe] [probe B2 probe]
 *     round 1:   [probe B probe] [probe A2 probe] [probe B2 probe] [probe A probe]   ...
 *
 * Time and probes come through a table of functions, so that tests can put a machine of their own underneath.
 */
#ifndef BENCH_SAMPLE_H
#define BENCH_SAMPLE_H

#include "fm_bench.h"

enum {
    FM_BENCH_COUNTS_MAX = 2,
    FM_BENCH_VARIANTS_MAX = FM_BENCH_COUNTS_MAX * (FM_BENCH_PEERS_MAX + 1),
    // Rounds are tried this many times as often as samples are wanted. On a machine that is disturbed more than half of
    // the time (seen) that still gives most of them.
    FM_BENCH_ATTEMPTS = 4,
};

/** The machine as the sampler sees it. */
typedef struct fm_bench_machine {
    void *context;
    double (*wall)(void *context); /**< seconds */
    double (*cpu)(void *context);  /**< CPU seconds of the process */
    int (*core)(void *context);    /**< the CPU that the caller runs on */
    double (*probe)(void *context, fm_bench_limit limit, int threads);
    /** Waits until the process's other threads sleep. Called after a peer's runs: its library's threads may spin for a
     *  while, and would take cores from the probe and the sample that follow, and CPU time in their name. */
    void (*settle)(void *context);
} fm_bench_machine;

typedef struct fm_bench_plan {
    int samples;                     /**< clean ones wanted of each variant, at least 1 */
    double sample_s;                 /**< what the runs of a sample shall last at least */
    double budget_s;                 /**< after this no further round begins ... */
    int rounds_min;                  /**< ... once there are this many */
    int counts[FM_BENCH_COUNTS_MAX]; /**< thread counts, ascending; 0: none */
    /** What brackets the samples: the case's limit, or where it has none FM_BENCH_FMA_SCALAR. */
    fm_bench_limit guard;
    double bound; /**< how far its probes around a clean sample may differ, relative to the greater */
} fm_bench_plan;

typedef struct fm_bench_sample {
    double wall, cpu;     /**< of one run, in seconds */
    double before, after; /**< the probes */
    int clean;
} fm_bench_sample;

typedef struct fm_bench_variant {
    int threads;
    int peer;                 /**< index in the case's list; -1: the case itself */
    fm_status status;         /**< FM_ERR_UNAVAILABLE: this peer cannot run here, and has no samples */
    int iterations;           /**< runs a sample */
    int clean;                /**< clean samples */
    fm_bench_sample *samples; /**< one a round */
} fm_bench_variant;

typedef struct fm_bench_series {
    int rounds;
    int variant_count;
    fm_bench_variant variants[FM_BENCH_VARIANTS_MAX];
    uint64_t hash; /**< of the result, where the case hashes it */
    fm_bench_sample *memory;
} fm_bench_series;

/**
 * Samples the case on its `state`. Fails with what a run returns (a peer's FM_ERR_UNAVAILABLE aside), with FM_ERR_NOMEM,
 * and with FM_ERR_INTERNAL when a result differs from the first one.
 */
FM_MUST_USE fm_status fm_bench_series_take(const fm_bench_machine *machine, const fm_bench_case *item,
                                           const fm_bench_plan *plan, void *state,
                                           fm_bench_series *out_series);
void fm_bench_series_clear(fm_bench_series *series);

/** The variant of `peer` (-1: the case) at this thread count, or NULL. */
const fm_bench_variant *fm_bench_series_find(const fm_bench_series *series, int peer, int threads);

#endif
