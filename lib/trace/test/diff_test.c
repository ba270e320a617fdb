#include "fm_test.h"

#include <math.h>

#include "perturbed.h"

static const fm_trace_change *find(const fm_trace_diff *diff, const char *name)
{
    for (size_t i = 0; i < diff->change_count; i++)
        if (strcmp(diff->changes[i].name, name) == 0)
            return &diff->changes[i];
    fail_msg("no change of %s", name);
    return NULL;
}

static void a_run_equals_itself(void **state)
{
    (void)state;
    struct fm_test_run run = {.layers = 20, .compute_us = 1000, .transfer_us = 900, .jitter_us = 7};
    struct fm_test_loaded loaded = fm_test_make_run(&run);
    fm_trace_diff *diff;
    int is_true = 1;
    assert_ok(fm_trace_diff_make(loaded.report, loaded.report, &diff));
    assert_true(diff->slower == 0 && diff->faster == 0 && diff->change_count == 5);
    for (size_t i = 0; i < diff->change_count; i++)
        assert_true(diff->changes[i].total_us == 0 && diff->changes[i].p > 0.99);
    assert_ok(fm_trace_diff_test(diff, "span_us > 0 or exposed_pct > 0 or slower > 0", &is_true));
    assert_false(is_true);
    fm_trace_diff_free(diff);
    fm_test_free_run(&loaded);
}

static void what_got_slower_comes_first(void **state)
{
    (void)state;
    struct fm_test_run before = {.layers = 20, .compute_us = 1000, .transfer_us = 900, .jitter_us = 50},
                       after = before;
    after.transfer_us = 1500;
    struct fm_test_loaded a = fm_test_make_run(&before), b = fm_test_make_run(&after);
    fm_trace_diff *diff;
    int is_true = 0;
    assert_ok(fm_trace_diff_make(a.report, b.report, &diff));
    assert_string_equal(diff->changes[0].name, "comm_dispatch");
    assert_true(fabs(diff->changes[0].total_us - 20 * 600) < 0.001);
    assert_true(diff->changes[0].p < 1e-9);
    assert_true(find(diff, "norm")->p > 0.99);
    assert_true(diff->slower >= 1 && diff->faster == 0);
    assert_ok(fm_trace_diff_test(diff, "exposed_us > 5 or findings > 100", &is_true));
    assert_true(is_true);
    assert_fails(fm_trace_diff_test(diff, "nonsense > 5", &is_true), FM_ERR_ARG, "no figure 'nonsense'");
    assert_fails(fm_trace_diff_test(diff, "span_us >", &is_true), FM_ERR_ARG, "not of the form");
    assert_fails(fm_trace_diff_test(diff, "span_us == 1", &is_true), FM_ERR_ARG, "compares with");
    assert_fails(fm_trace_diff_test(diff, "span_us > 1 and", &is_true), FM_ERR_ARG, "expected 'or'");
    fm_trace_diff_free(diff);
    fm_test_free_run(&a);
    fm_test_free_run(&b);
}

/* p of Welch's test as a statistics package gives it (two-sided): the durations below, 4 against 4. */
static void significance_is_that_of_the_textbook(void **state)
{
    (void)state;
    struct fm_test_run before = {.layers = 4, .compute_us = 100, .transfer_us = 10, .jitter_us = 20},
                       after = before;
    after.compute_us = 130;
    struct fm_test_loaded a = fm_test_make_run(&before), b = fm_test_make_run(&after);
    fm_trace_diff *diff;
    assert_ok(fm_trace_diff_make(a.report, b.report, &diff));
    // gemm_other: 50, 70, 50, 70 against 65, 85, 65, 85: t = 15 / sqrt(2 * 133.333 / 4), 6 degrees of freedom.
    const fm_trace_change *change = find(diff, "gemm_other");
    assert_true(fabs(change->p - 0.115840) < 1e-4);
    assert_false(fm_trace_diff_counts(change));
    fm_trace_diff_free(diff);
    fm_test_free_run(&a);
    fm_test_free_run(&b);
}

static void steps_are_the_samples_where_there_are_enough(void **state)
{
    (void)state;
    struct fm_test_run run = {.layers = 40, .compute_us = 100, .transfer_us = 90, .steps = 10};
    struct fm_test_loaded loaded = fm_test_make_run(&run);
    fm_trace_diff *diff;
    assert_ok(fm_trace_diff_make(loaded.report, loaded.report, &diff));
    const fm_trace_change *change = find(diff, "comm_dispatch");
    assert_int_equal(change->count_a, 10);
    assert_true(fabs(change->mean_a_us - 4 * 90) < 0.001);
    fm_trace_diff_free(diff);
    fm_test_free_run(&loaded);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_equals_itself),
        cmocka_unit_test(what_got_slower_comes_first),
        cmocka_unit_test(significance_is_that_of_the_textbook),
        cmocka_unit_test(steps_are_the_samples_where_there_are_enough),
    };
    return fm_test_run("diff", tests);
}
