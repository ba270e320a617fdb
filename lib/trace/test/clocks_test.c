#include "fm_test.h"
#include "fm_gen.h"

#include "fathom/trace_report.h"

enum { FILES = 3, COLLECTIVES_MAX = 64 };

/* Ranks that meet in collectives: who comes last lets all go, a little apart. */
struct run {
    const char *name;        // of the collectives
    int64_t ahead_us[FILES]; // of each rank's clock
    int count[FILES];        // collectives that each rank's file holds
    int64_t apart_us;        // of their ends, at most
    int64_t wander_us;       // what each clock moves about, at most
};

static char path_bytes[FILES][4200];
static const char *paths[FILES] = {path_bytes[0], path_bytes[1], path_bytes[2]};

static int64_t draw(fm_gen *gen, int64_t most)
{
    return most ? fm_gen_int(gen, 0, most) : 0;
}

static fm_trace *make(fm_gen *gen, const struct run *run)
{
    static int64_t begin[FILES][COLLECTIVES_MAX], end[FILES][COLLECTIVES_MAX];
    int64_t now[FILES] = {1000000, 1000000, 1000000};
    for (int i = 0; i < COLLECTIVES_MAX; i++) {
        int64_t last = 0;
        for (int f = 0; f < FILES; f++) {
            begin[f][i] = now[f] + fm_gen_int(gen, 10, 3000);
            last = begin[f][i] > last ? begin[f][i] : last;
        }
        for (int f = 0; f < FILES; f++)
            now[f] = end[f][i] = last + 5 + draw(gen, run->apart_us);
    }
    for (int f = 0; f < FILES; f++) {
        static char text[COLLECTIVES_MAX * 300];
        size_t length = (size_t)sprintf(text, "[");
        for (int i = 0; i < run->count[f]; i++) {
            long long at = begin[f][i] + run->ahead_us[f] + draw(gen, run->wander_us);
            long long took = end[f][i] - begin[f][i];
            length += (size_t)sprintf(
                text + length,
                "{\"ph\":\"X\",\"cat\":\"kernel\",\"name\":\"%s\",\"pid\":0,\"tid\":7,\"ts\":%lld,\"dur\":%"
                "lld},\n"
                "{\"ph\":\"s\",\"cat\":\"m\",\"name\":\"m\",\"id\":%d,\"pid\":0,\"tid\":7,\"ts\":%lld},\n",
                run->name, at, took, i, at);
        }
        FILE *file = fopen(paths[f], "w");
        assert_non_null(file);
        assert_int_equal(fwrite(text, 1, length, file), length);
        assert_int_equal(fclose(file), 0);
    }
    fm_trace *trace;
    assert_ok(fm_trace_data_read(paths, FILES, NULL, &trace));
    return trace;
}

static fm_trace_rules *rules;

/* Clocks that are less apart than collectives are long need not contradict each other. */
static void assert_shifts(const fm_trace *trace, const struct run *run)
{
    enum { LONG_US = 4000 };
    for (int f = 1; f < FILES; f++) {
        int64_t expected = run->ahead_us[0] - run->ahead_us[f];
        int64_t off = trace->files[f].clock_shift_ns / 1000 - expected;
        int64_t most = expected > LONG_US || expected < -LONG_US ? run->apart_us : LONG_US;
        if (off > most || off < -most)
            fail_msg("file %d was moved by %lld ns, expected %lld us", f,
                     (long long)trace->files[f].clock_shift_ns, (long long)expected);
    }
}

static void apart_property(fm_gen *gen)
{
    struct run run = {.name = "ncclDevKernel_AllReduce_Sum", .apart_us = 20, .count = {50, 50, 50}};
    for (int f = 0; f < FILES; f++)
        run.ahead_us[f] = fm_gen_int(gen, -5000000, 5000000) * 10;
    fm_trace *trace = make(gen, &run);
    int64_t before = trace->slices[60].duration_ns,
            flow = trace->flows[60].at_ns - trace->slices[60].begin_ns;
    assert_ok(fm_trace_clocks_align(trace, rules));
    assert_shifts(trace, &run);
    assert_int_equal(trace->files[1].clock_points, 50);
    assert_int_equal(trace->slices[60].duration_ns, before);
    assert_int_equal(trace->flows[60].at_ns - trace->slices[60].begin_ns, flow);
    assert_int_equal(trace->files[0].clock_shift_ns, 0);
    fm_trace_data_free(trace);
}

static void clocks_that_are_apart_are_brought_together(void **state)
{
    (void)state;
    fm_gen_property(40, apart_property);
}

static void agreeing_property(fm_gen *gen)
{
    struct run run = {
        .name = "void deep_ep::internode::dispatch<1>()", .apart_us = 500, .count = {64, 64, 64}};
    fm_trace *trace = make(gen, &run);
    assert_ok(fm_trace_clocks_align(trace, rules));
    for (int f = 1; f < FILES; f++) {
        assert_int_equal(trace->files[f].clock_shift_ns, 0);
        assert_int_equal(trace->files[f].clock_points, 64);
    }
    fm_trace_data_free(trace);
}

static void clocks_that_agree_stay(void **state)
{
    (void)state;
    fm_gen_property(40, agreeing_property);
}

static void untold_property(fm_gen *gen)
{
    // Sends and receives are no collectives; files with other numbers of them, and too few, are not compared.
    struct run run = {
        .name = "ncclDevKernel_SendRecv", .ahead_us = {0, 70000, -90000}, .count = {64, 64, 64}};
    fm_trace *trace = make(gen, &run);
    assert_ok(fm_trace_clocks_align(trace, rules));
    assert_true(trace->files[1].clock_shift_ns == 0 && trace->files[1].clock_points == 0);
    fm_trace_data_free(trace);
    run = (struct run){.name = "ncclDevKernel_AllReduce", .ahead_us = {0, 70000, -90000}, .count = {2, 2, 3}};
    trace = make(gen, &run);
    assert_ok(fm_trace_clocks_align(trace, rules));
    assert_true(trace->files[1].clock_shift_ns == 0 && trace->files[1].clock_points == 2);
    assert_true(trace->files[2].clock_shift_ns == 0 && trace->files[2].clock_points == 0);
    fm_trace_data_free(trace);
    // Where everything contradicts everything nothing is told.
    run = (struct run){.name = "ncclDevKernel_AllReduce", .wander_us = 1000000, .count = {64, 64, 64}};
    trace = make(gen, &run);
    assert_ok(fm_trace_clocks_align(trace, rules));
    assert_int_equal(trace->files[1].clock_shift_ns, 0);
    fm_trace_data_free(trace);
}

static void what_tells_nothing_moves_nothing(void **state)
{
    (void)state;
    fm_gen_property(40, untold_property);
}

static fm_status align_once(void *trace)
{
    return fm_trace_clocks_align(trace, rules);
}

static void alloc_property(fm_gen *gen)
{
    struct run run = {
        .name = "ncclDevKernel_AllReduce", .ahead_us = {0, 70000, -90000}, .count = {20, 20, 20}};
    fm_trace *trace = make(gen, &run);
    fm_test_each_alloc_fails(align_once, trace);
    fm_trace_data_free(trace);
}

static void failing_allocations(void **state)
{
    (void)state;
    fm_gen_property(1, alloc_property);
}

int main(void)
{
    for (int f = 0; f < FILES; f++)
        snprintf(path_bytes[f], sizeof path_bytes[f], "%s/rank%d.json", fm_test_tmpdir(), f);
    if (fm_trace_rules_load(NULL, &rules) < 0)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clocks_that_are_apart_are_brought_together),
        cmocka_unit_test(clocks_that_agree_stay),
        cmocka_unit_test(what_tells_nothing_moves_nothing),
        cmocka_unit_test(failing_allocations),
    };
    int failed = fm_test_run("clocks", tests);
    fm_trace_rules_free(rules);
    return failed;
}
