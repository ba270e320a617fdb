#include "fm_test.h"

#include "fm_bench.h"

#include "fathom/doc.h"

// Programs of three cases, run through the same door as the real ones.

static int result;       // what the cases leave as their result
static fm_status broken; // what the case "maybe" returns
static double must;      // seconds that "sum" must keep to
static int set_up, torn_down;

static fm_status sum_setup(const fm_bench_setup *setup, void **out_state)
{
    float *values = fm_base_mem_alloc(1024 * sizeof *values);
    if (!values)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory");
    fm_bench_fill_floats(setup->seed, values, 1024);
    *out_state = values;
    set_up++;
    return FM_OK;
}

static void sum_teardown(void *state)
{
    fm_base_mem_free(state);
    torn_down++;
}

static fm_status sum_run(void *state, int threads)
{
    (void)threads;
    const float *values = state;
    float sum = 0;
    for (int i = 0; i < 1024; i++)
        sum += values[i];
    FM_BENCH_KEEP(sum);
    return FM_OK;
}

static uint64_t sum_hash(const void *state)
{
    (void)state;
    return (uint64_t)result;
}

static fm_status maybe_run(void *state, int threads)
{
    (void)state;
    (void)threads;
    return broken < 0 ? fm_base_error_set(broken, "it is broken") : FM_OK;
}

static fm_status absent_setup(const fm_bench_setup *setup, void **out_state)
{
    (void)setup;
    (void)out_state;
    return fm_base_error_set(FM_ERR_UNAVAILABLE, "no such engine");
}

static fm_status cases(fm_bench *bench)
{
    FM_TRY(fm_bench_add(bench, &(fm_bench_case){.name = "sum",
                                                .mode = FM_BENCH_IN_SMOKE,
                                                .flops = 1024,
                                                .limit = FM_BENCH_FMA_SCALAR,
                                                .setup = sum_setup,
                                                .run = sum_run,
                                                .hash = sum_hash,
                                                .teardown = sum_teardown,
                                                .goals = {{FM_BENCH_TIME, .must = must}}}));
    FM_TRY(fm_bench_add(
        bench, &(fm_bench_case){.name = "maybe", .mode = FM_BENCH_IN_SMOKE, .threads = 1, .run = maybe_run}));
    return fm_bench_add(
        bench, &(fm_bench_case){.name = "absent", .threads = 1, .setup = absent_setup, .run = maybe_run});
}

// Runs with these arguments, its output into a file; returns the exit status.
static int bench(const char *first, const char *second, const char *third)
{
    static const fm_bench_program program = {"test", "What the tests run", cases};
    char hashes[512];
    snprintf(hashes, sizeof hashes, "--hashes=%s/hashes.txt", fm_test_tmpdir());
    const char *words[] = {"bench_test", hashes, first, second, third};
    char *arguments[6] = {0};
    int count = 0;
    for (int i = 0; i < 5; i++)
        if (words[i])
            arguments[count++] = fm_base_mem_strdup(words[i]);
    int status = fm_bench_main(&program, count, arguments);
    for (int i = 0; i < count; i++)
        fm_base_mem_free(arguments[i]);
    return status;
}

static int reset(void **state)
{
    (void)state;
    result = 7;
    broken = FM_OK;
    must = 1;
    set_up = torn_down = 0;
    return 0;
}

static void hashes_are_recorded_and_compared(void **state)
{
    (void)state;
    assert_int_equal(bench("--smoke", "--check", NULL), 1); // nothing recorded yet
    assert_int_equal(bench("--smoke", NULL, NULL), 0);
    assert_int_equal(bench("--smoke", "--record-hashes", NULL), 0);
    assert_int_equal(bench("--smoke", "--check", NULL), 0);
    result = 8;
    assert_int_equal(bench("--smoke", NULL, NULL), 1);
    assert_int_equal(bench("--smoke", "--record-hashes", NULL), 0);
    assert_int_equal(bench("--smoke", "--check", NULL), 0);
    assert_int_equal(set_up, torn_down);
}

static void goals_decide_under_check(void **state)
{
    (void)state;
    assert_int_equal(bench("--quick", "--record-hashes", NULL), 0);
    assert_int_equal(bench("--quick", "--check", "--samples=2"), 0);
    must = 1e-12;
    assert_int_equal(bench("--quick", "--samples=2", NULL), 0);
    assert_int_equal(bench("--quick", "--check", "--samples=2"), 1);
    assert_int_equal(bench("--smoke", "--check", NULL), 0); // one run judges nothing
}

static void a_failing_case_does_not_stop_the_others(void **state)
{
    (void)state;
    broken = FM_ERR_IO;
    assert_int_equal(bench("--smoke", NULL, NULL), 1);
    assert_int_equal(set_up, 1);
    assert_int_equal(bench("--smoke", "--filter=sum", NULL), 0);
}

static void usage_errors_are_two(void **state)
{
    (void)state;
    assert_int_equal(bench("--smok", NULL, NULL), 2);
    assert_int_equal(bench("--samples=many", NULL, NULL), 2);
    assert_int_equal(bench("--filter=nothing", NULL, NULL), 1);
    assert_int_equal(bench("--list", NULL, NULL), 0);
    assert_int_equal(set_up, 0);
}

static void json_begins_with_the_machine(void **state)
{
    (void)state;
    char argument[512];
    snprintf(argument, sizeof argument, "--json=%s/out.jsonl", fm_test_tmpdir());
    assert_int_equal(bench("--quick", "--samples=1", argument), 0);
    FILE *file = fopen(argument + strlen("--json="), "re");
    assert_non_null(file);
    char text[4096];
    int machines = 0;
    int records = 0;
    int skipped = 0;
    for (int number = 0; fgets(text, sizeof text, file); number++) {
        fm_doc *line;
        assert_ok(fm_base_doc_parse_json(text, strlen(text), "out.jsonl", &line));
        machines += fm_base_doc_get(line, "record") != NULL;
        assert_true(number > 0 || machines == 1);
        skipped += fm_base_doc_get(line, "skipped") != NULL;
        records += fm_base_doc_get(line, "metric") != NULL;
        fm_base_doc_free(line);
    }
    fclose(file);
    assert_int_equal(machines, 1);
    assert_int_equal(skipped, 1);
    assert_true(records >= 4); // a time and a rate of each case that ran
    assert_int_equal(bench("--smoke", "--json=/nowhere/at/all", NULL), 1);
}

int main(void)
{
    // The program would start itself anew to set this.
    setenv("OMP_WAIT_POLICY", "passive", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(hashes_are_recorded_and_compared, reset),
        cmocka_unit_test_setup(goals_decide_under_check, reset),
        cmocka_unit_test_setup(a_failing_case_does_not_stop_the_others, reset),
        cmocka_unit_test_setup(usage_errors_are_two, reset),
        cmocka_unit_test_setup(json_begins_with_the_machine, reset),
    };
    return fm_test_run("bench.main", tests);
}
