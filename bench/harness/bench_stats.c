#include "bench_stats.h"

#include <math.h>
#include <stdlib.h>

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(const double *sorted, size_t count, double q)
{
    double place = q * (double)(count - 1);
    size_t below = (size_t)place;
    size_t above = below + 1 < count ? below + 1 : below;
    return sorted[below] + (place - (double)below) * (sorted[above] - sorted[below]);
}

fm_bench_stats fm_bench_stats_of(double *values, size_t count)
{
    if (count == 0)
        return (fm_bench_stats){0};
    qsort(values, count, sizeof *values, ascending);
    return (fm_bench_stats){
        .count = count,
        .median = quantile(values, count, 0.5),
        .low = quantile(values, count, 0.25),
        .high = quantile(values, count, 0.75),
        .least = values[0],
        .greatest = values[count - 1],
    };
}

double fm_bench_stats_spread(const fm_bench_stats *stats)
{
    return stats->median == 0 ? 0 : (stats->high - stats->low) / 2 / fabs(stats->median);
}
