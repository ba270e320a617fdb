#include "fm_test.h"

#include "bench_cases.h"

static fm_status run(void *state, int threads)
{
    (void)state;
    (void)threads;
    return FM_OK;
}

static void names_are_copied(void **state)
{
    (void)state;
    fm_bench bench = {0};
    char name[] = "first";
    assert_ok(fm_bench_add(&bench, &(fm_bench_case){.name = name, .run = run}));
    name[0] = 'F';
    assert_ok(fm_bench_add(&bench, &(fm_bench_case){.name = name, .run = run}));
    assert_string_equal(bench.cases[0].name, "first");
    assert_ok(fm_bench_add_group(&bench, &(fm_bench_group){name, name, {FM_BENCH_FRACTION, .must = 1}}));
    assert_int_equal(bench.case_count, 2);
    assert_int_equal(bench.group_count, 1);
    fm_bench_cases_clear(&bench);
}

static void bad_cases_are_refused(void **state)
{
    (void)state;
    fm_bench bench = {0};
#define REFUSED(text, ...) assert_fails(fm_bench_add(&bench, &(fm_bench_case){__VA_ARGS__}), FM_ERR_ARG, text)
    REFUSED("name", .run = run);
    REFUSED("without spaces", .name = "a b", .run = run);
    REFUSED("run is NULL", .name = "a");
    REFUSED("counts bytes", .name = "a", .run = run, .limit = FM_BENCH_READ, .flops = 1);
    REFUSED("counts flops", .name = "a", .run = run, .limit = FM_BENCH_FMA_AVX2, .bytes = 1);
    REFUSED("own_limit is NULL", .name = "a", .run = run, .limit = FM_BENCH_OWN_LIMIT, .bytes = 1);
    REFUSED("does no work", .name = "a", .run = run, .limit = FM_BENCH_CLOCK);
    REFUSED("neither must nor hope", .name = "a", .run = run, .goals = {{.metric = FM_BENCH_TIME}});
    REFUSED("fraction of no limit", .name = "a", .run = run, .goals = {{FM_BENCH_FRACTION, .must = 1}});
    REFUSED("ratio to no peer", .name = "a", .run = run, .goals = {{FM_BENCH_RATIO, .must = 1}});
    REFUSED("does not have", .name = "a", .run = run, .goals = {{FM_BENCH_RATIO, .peer = "x", .must = 1}});
    REFUSED("items is 0", .name = "a", .run = run, .goals = {{FM_BENCH_ITEM_TIME, .must = 1}});
    REFUSED("without a name", .name = "a", .run = run, .goals = {{FM_BENCH_OWN_AT_MOST, .must = 1}});
    REFUSED("two goals", .name = "a", .run = run,
            .goals = {{FM_BENCH_TIME, .must = 1}, {FM_BENCH_TIME, .hope = 0.5}});
    REFUSED("a peer's run", .name = "a", .run = run, .peers = {{.name = "p"}});
    REFUSED("expect_of", .name = "a", .run = run, .peers = {{.name = "p", .run = run, .expect_of = "p"}});
    REFUSED("fraction of no limit", .name = "a", .run = run,
            .peers = {{.name = "p", .run = run, .expect = 0.5}});
    assert_int_equal(bench.case_count, 0);
    assert_ok(fm_bench_add(&bench, &(fm_bench_case){.name = "a", .run = run}));
    REFUSED("taken", .name = "a", .run = run);
#undef REFUSED
    assert_fails(fm_bench_add_group(&bench, &(fm_bench_group){"g", "a", {FM_BENCH_RATIO, .must = 1}}),
                 FM_ERR_ARG, "named peer");
    fm_bench_cases_clear(&bench);
}

static void filters_take_any_of_their_words(void **state)
{
    (void)state;
    assert_true(fm_bench_filter_passes(NULL, "anything"));
    assert_true(fm_bench_filter_passes("", "anything"));
    assert_true(fm_bench_filter_passes("crc", "crc32c.256KiB"));
    assert_true(fm_bench_filter_passes("rng,256", "crc32c.256KiB"));
    assert_false(fm_bench_filter_passes("rng,json", "crc32c.256KiB"));
    assert_false(fm_bench_filter_passes(",", "crc32c.256KiB"));
}

static fm_status add_some(void *context)
{
    (void)context;
    fm_bench bench = {0};
    fm_status status = fm_bench_add(&bench, &(fm_bench_case){.name = "a", .run = run});
    if (status == FM_OK)
        status = fm_bench_add_group(&bench, &(fm_bench_group){"g", "a", {FM_BENCH_FRACTION, .must = 1}});
    fm_bench_cases_clear(&bench);
    return status;
}

static void refused_memory_is_reported(void **state)
{
    (void)state;
    fm_test_each_alloc_fails(add_some, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_copied),
        cmocka_unit_test(bad_cases_are_refused),
        cmocka_unit_test(filters_take_any_of_their_words),
        cmocka_unit_test(refused_memory_is_reported),
    };
    return fm_test_run("bench.cases", tests);
}
