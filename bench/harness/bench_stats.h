/**
 * @file bench_stats.h
 * Order statistics of samples. Benchmarks' errors are one-sided and rare outliers are huge, so nothing here is a mean.
 */
#ifndef BENCH_STATS_H
#define BENCH_STATS_H

#include <stddef.h>

typedef struct fm_bench_stats {
    size_t count;
    double median;
    double low, high; /**< first and third quartile */
    double least;
    double greatest;
} fm_bench_stats;

/** Of `count` values, which it sorts. All zeros when there are none. Quantiles are interpolated between neighbours. */
fm_bench_stats fm_bench_stats_of(double *values, size_t count);

/** Half of the distance between the quartiles, relative to the median: "12.3 ms +-2 %". 0 when the median is 0. */
double fm_bench_stats_spread(const fm_bench_stats *stats);

#endif
