#include "fm_test.h"
#include "fm_gen.h"

#include "bench_stats.h"

#include <math.h>

static void quartiles_are_interpolated(void **state)
{
    (void)state;
    double values[] = {9, 1, 3, 7, 5};
    fm_bench_stats stats = fm_bench_stats_of(values, 5);
    assert_true(stats.count == 5 && stats.median == 5 && stats.low == 3 && stats.high == 7);
    assert_true(stats.least == 1 && stats.greatest == 9);
    assert_true(fm_bench_stats_spread(&stats) == 0.4);
    double even[] = {4, 1, 3, 2};
    stats = fm_bench_stats_of(even, 4);
    assert_true(stats.median == 2.5 && stats.low == 1.75 && stats.high == 3.25);
}

static void few_values_are_fine(void **state)
{
    (void)state;
    fm_bench_stats stats = fm_bench_stats_of(NULL, 0);
    assert_true(stats.count == 0 && stats.median == 0 && fm_bench_stats_spread(&stats) == 0);
    double one[] = {-2};
    stats = fm_bench_stats_of(one, 1);
    assert_true(stats.median == -2 && stats.low == -2 && stats.least == -2 &&
                fm_bench_stats_spread(&stats) == 0);
}

// One wild sample moves the greatest value and nothing else by more than a neighbour's distance.
static void outliers_do_not_move_the_median(fm_gen *gen)
{
    enum { COUNT = 31 };
    double values[COUNT];
    for (int i = 0; i < COUNT; i++)
        values[i] = fm_gen_real(gen, 1, 2);
    double copy[COUNT];
    memcpy(copy, values, sizeof copy);
    copy[fm_gen_int(gen, 0, COUNT - 1)] = 1e9;
    fm_bench_stats calm = fm_bench_stats_of(values, COUNT);
    fm_bench_stats wild = fm_bench_stats_of(copy, COUNT);
    assert_true(wild.greatest == 1e9);
    assert_true(wild.median == values[COUNT / 2] || wild.median == values[COUNT / 2 + 1]);
    assert_true(calm.median == values[COUNT / 2]);
}

static void outliers_property(void **state)
{
    (void)state;
    fm_gen_property(50, outliers_do_not_move_the_median);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quartiles_are_interpolated),
        cmocka_unit_test(few_values_are_fine),
        cmocka_unit_test(outliers_property),
    };
    return fm_test_run("bench.stats", tests);
}
