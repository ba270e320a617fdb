#include "fm_test.h"
#include "fm_gen.h"

#include "bench_output.h"

// What fm_bench_output_records() prints for these records.
static void print(const fm_bench_output *output, const fm_bench_record *items, size_t count, char **out_text)
{
    size_t size;
    FILE *file = open_memstream(out_text, &size);
    assert_non_null(file);
    fm_bench_output to = *output;
    if (to.json)
        to.json = file;
    else
        to.text = file;
    fm_bench_records records = {0};
    for (size_t i = 0; i < count; i++)
        assert_non_null(fm_bench_records_add(&records, &items[i]));
    assert_ok(fm_bench_output_records(&to, &records, 0));
    fm_bench_records_clear(&records);
    fclose(file);
}

static const fm_bench_record sample[] = {
    {.name = "case",
     .metric = "time",
     .unit = "s",
     .threads = 1,
     .value = 0.01,
     .spread = 0.02,
     .samples = 5,
     .clean = 5},
    {.name = "case",
     .metric = "rate",
     .unit = "B/s",
     .threads = 1,
     .value = 1e10,
     .samples = 5,
     .clean = 5,
     .limit = "read",
     .limit_rate = 2e10,
     .fraction = 0.5,
     .verdict = FM_BENCH_MISSED,
     .goal = 0.6,
     .hope = 0.8},
    {.name = "case",
     .metric = "rate",
     .unit = "B/s",
     .threads = 1,
     .value = 4e9,
     .samples = 5,
     .clean = 1,
     .peer = "zlib",
     .ratio = 2.5,
     .verdict = FM_BENCH_VOID,
     .goal = 2,
     .note = "zlib has 1 clean samples"},
    {.name = "case",
     .metric = "item_time",
     .unit = "s",
     .threads = 1,
     .value = 2.5e-9,
     .samples = 5,
     .clean = 5,
     .verdict = FM_BENCH_MET,
     .goal = 5.5e-9,
     .at_most = 1},
};
enum { SAMPLE_COUNT = sizeof sample / sizeof *sample };

static void people_see_one_row_for_time_and_rate(void **state)
{
    (void)state;
    char *text;
    print(&(fm_bench_output){.bench = "base", .name_width = 11}, sample, SAMPLE_COUNT, &text);
    assert_string_equal(text, "case          1    10.0 ms +- 2%      10.0 GB/s             read 20.0 GB/s  "
                              "0.500            >= 0.6 (0.8)  NO\n"
                              "  vs zlib     1                       4.00 GB/s                               "
                              "      2.50             >= 2  "
                              "void: zlib has 1 clean samples\n"
                              "  item_time   1          2.50 ns                                              "
                              "                 <= 5.50 ns  "
                              "yes\n");
    free(text);
}

// Where both the time and the rate have a goal, the time's follows.
static void two_goals_take_two_rows(void **state)
{
    (void)state;
    fm_bench_record both[] = {sample[0], sample[1]};
    both[0].verdict = FM_BENCH_MET;
    both[0].goal = 0.02;
    both[0].at_most = 1;
    char *text;
    print(&(fm_bench_output){.bench = "base", .markdown = 1}, both, 2, &text);
    assert_string_equal(
        text, "| case | 1 | 10.0 ms +- 2% | 10.0 GB/s | read 20.0 GB/s | 0.500 |  | >= 0.6 (0.8) | NO |\n"
              "|   time | 1 | 10.0 ms |  |  |  |  | <= 20.0 ms | yes |\n");
    free(text);
    both[1].verdict = FM_BENCH_NO_GOAL;
    both[1].goal = both[1].hope = 0;
    print(&(fm_bench_output){.bench = "base", .markdown = 1}, both, 2, &text);
    assert_string_equal(
        text, "| case | 1 | 10.0 ms +- 2% | 10.0 GB/s | read 20.0 GB/s | 0.500 |  | <= 20.0 ms | yes |\n");
    free(text);
}

static void lines_are_json_with_all_keys(void **state)
{
    (void)state;
    static const char *const keys[] = {"bench",    "case", "threads", "metric", "value", "unit",
                                       "spread",   "best", "samples", "clean",  "limit", "limit_value",
                                       "fraction", "peer", "ratio",   "goal",   "hope",  "bound",
                                       "met",      "note", NULL};
    char *text;
    print(&(fm_bench_output){.bench = "base", .json = stdout}, sample, SAMPLE_COUNT, &text);
    char *at = text;
    for (int i = 0; i < SAMPLE_COUNT; i++) {
        char *end = strchr(at, '\n');
        assert_non_null(end);
        fm_doc *line;
        assert_ok(fm_base_doc_parse_json(at, (size_t)(end - at), "line", &line));
        assert_ok(fm_base_doc_known_keys(line, "line", keys));
        for (int key = 0; keys[key]; key++)
            assert_non_null(fm_base_doc_get(line, keys[key]));
        const char *bench;
        assert_ok(fm_base_doc_string(fm_base_doc_get(line, "bench"), "bench", &bench));
        assert_string_equal(bench, "base");
        const fm_doc_type met[] = {FM_DOC_NULL, FM_DOC_BOOL, FM_DOC_NULL, FM_DOC_BOOL};
        assert_int_equal(fm_base_doc_type(fm_base_doc_get(line, "met")), met[i]);
        fm_base_doc_free(line);
        at = end + 1;
    }
    assert_int_equal(*at, 0);
    free(text);
}

static void assert_same_text(const char *a, const char *b)
{
    if (a || b)
        assert_string_equal(a ? a : "(none)", b ? b : "(none)");
}

static void records_survive_the_round_trip(fm_gen *gen)
{
    static const char *const names[] = {NULL, "read", "zlib", "a \"quoted\" name"};
    fm_bench_record record = {.name = "case",
                              .metric = fm_gen_chance(gen, 0.5) ? "rate" : "scaling",
                              .unit = "B/s",
                              .threads = (int)fm_gen_int(gen, 1, 100),
                              .value = fm_gen_real(gen, 0.001, 1e12),
                              .spread = fm_gen_real(gen, 0, 1),
                              .best = fm_gen_real(gen, 0.001, 1e12),
                              .samples = (int)fm_gen_int(gen, 0, 100),
                              .clean = (int)fm_gen_int(gen, 0, 100),
                              .limit = names[fm_gen_int(gen, 0, 3)],
                              .limit_rate = fm_gen_real(gen, 0, 1e12),
                              .fraction = fm_gen_real(gen, 0, 1),
                              .peer = names[fm_gen_int(gen, 0, 3)],
                              .ratio = fm_gen_real(gen, 0, 1),
                              .verdict = (fm_bench_verdict)fm_gen_int(gen, FM_BENCH_NO_GOAL, FM_BENCH_VOID)};
    if (record.verdict != FM_BENCH_NO_GOAL) {
        record.goal = fm_gen_real(gen, 0.1, 1);
        record.at_most = fm_gen_chance(gen, 0.5);
    }
    if (record.verdict == FM_BENCH_VOID)
        snprintf(record.note, sizeof record.note, "why not");
    char *text;
    print(&(fm_bench_output){.bench = "base", .json = stdout}, &record, 1, &text);
    fm_doc *line;
    assert_ok(fm_base_doc_parse_json(text, strlen(text), "line", &line));
    fm_bench_record back;
    assert_ok(fm_bench_output_parse(line, &back));
    assert_same_text(back.metric, record.metric);
    assert_same_text(back.limit, record.limit);
    assert_same_text(back.peer, record.peer);
    assert_same_text(back.note, record.note);
    assert_int_equal(back.threads, record.threads);
    assert_int_equal(back.samples, record.samples);
    assert_int_equal(back.clean, record.clean);
    assert_int_equal(back.verdict, record.verdict);
    assert_int_equal(back.at_most, record.at_most);
    assert_true(back.value == record.value && back.spread == record.spread && back.best == record.best);
    assert_true(back.limit_rate == record.limit_rate && back.fraction == record.fraction);
    assert_true(back.ratio == record.ratio && back.goal == record.goal && back.hope == record.hope);
    fm_base_doc_free(line);
    free(text);
}

static void round_trip_property(void **state)
{
    (void)state;
    fm_gen_property(50, records_survive_the_round_trip);
}

static void bad_lines_are_refused(void **state)
{
    (void)state;
    const char *bad[] = {"{}", "{\"case\": 1}", "[]",
                         "{\"case\": \"a\", \"metric\": \"rate\", \"unit\": \"1\", \"threads\": 0}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        fm_doc *line;
        fm_bench_record record;
        assert_ok(fm_base_doc_parse_json(bad[i], strlen(bad[i]), "bad.jsonl", &line));
        assert_fails(fm_bench_output_parse(line, &record), FM_ERR_FORMAT, "");
        fm_base_doc_free(line);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(people_see_one_row_for_time_and_rate),
        cmocka_unit_test(two_goals_take_two_rows),
        cmocka_unit_test(lines_are_json_with_all_keys),
        cmocka_unit_test(round_trip_property),
        cmocka_unit_test(bad_lines_are_refused),
    };
    return fm_test_run("bench.output", tests);
}
