#include "fm_test.h"

#include "fathom/engine.h"
#include "fathom/file.h"
#include "fathom/trace_query.h"

static const char json[] =
    "{\"traceEvents\":[{\"ph\":\"X\",\"cat\":\"kernel\",\"name\":\"nccl\\u00e9Kernel\\u0001\",\"pid\":0,"
    "\"tid\":7,\"ts\":10,\"dur\":2.5,"
    "\"args\":{\"stream\":7,\"x\":\"q\"}},{\"ph\":\"X\",\"cat\":\"kernel\",\"name\":\"gemm_bf16\",\"pid\":0,"
    "\"tid\":8,\"ts\":11,\"dur\":4,"
    "\"args\":{\"stream\":8}},{\"ph\":\"X\",\"name\":\"host\",\"pid\":1,\"tid\":1,\"ts\":9,\"dur\":1}]}";

/* Runs over a small trace; the text of the output file in *out, which the caller frees. */
static fm_status run(const char *sql, fm_trace_format format, char **out)
{
    fm_trace_read_options options = {.size = sizeof options, .keep_args = 1};
    fm_trace *trace;
    fm_trace_rules *rules;
    fm_trace_report *report;
    char path[4200];
    size_t length;
    snprintf(path, sizeof path, "%s/result", fm_test_tmpdir());
    assert_ok(fm_trace_data_parse(json, sizeof json - 1, "t", &options, &trace));
    assert_ok(fm_trace_rules_load(NULL, &rules));
    assert_ok(fm_trace_report_make(trace, rules, &report));
    fm_status status;
    if (format == FM_TRACE_TABLE || format == FM_TRACE_CSV) {
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        status = fm_trace_query_run(report, sql, format, NULL, file);
        fclose(file);
    } else {
        status = fm_trace_query_run(report, sql, format, path, NULL);
    }
    if (status == FM_OK) {
        assert_ok(fm_base_file_read(path, 1 << 20, out, &length));
        *out = fm_base_mem_realloc(*out, length + 1, 1);
        assert_non_null(*out);
        (*out)[length] = 0;
    }
    fm_trace_report_free(report);
    fm_trace_rules_free(rules);
    fm_trace_data_free(trace);
    return status;
}

static void need_duckdb(void)
{
    fm_engine_info info;
    fm_base_engine_probe(FM_ENGINE_DUCKDB, &info);
    if (!info.found)
        fm_test_skip("%s", info.reason);
}

static void expect(const char *sql, fm_trace_format format, const char *expected)
{
    char *text = NULL;
    assert_ok(run(sql, format, &text));
    assert_string_equal(text, expected);
    fm_base_mem_free(text);
}

static void results_in_every_format(void **state)
{
    (void)state;
    need_duckdb();
    expect("SELECT name, dur_us, stream, group_name, work_kind FROM kernels ORDER BY ts_us;", FM_TRACE_CSV,
           "name,dur_us,stream,group_name,work_kind\nnccl\xC3\xA9Kernel ,2.5,7,elementwise_other,compute\n"
           "gemm_bf16,4.0,8,gemm_other,compute\n");
    expect("SELECT count(*) AS n, sum(dur_us) AS us FROM slices WHERE kind = 'gpu'", FM_TRACE_TABLE,
           "n   us\n-  ---\n2  6.5\n");
    expect("SELECT id, ts_us FROM slices ORDER BY 1 LIMIT 1", FM_TRACE_JSON,
           "[\n\t{\"id\":0,\"ts_us\":1.0}\n]\n");
    expect("SELECT args->>'$.x' AS x FROM args WHERE slice = 0", FM_TRACE_CSV, "x\nq\n");
    expect("SELECT count(*) AS n FROM flows, counters, phases", FM_TRACE_CSV, "n\n0\n");
    char *parquet = NULL;
    assert_ok(run("SELECT * FROM slices", FM_TRACE_PARQUET, &parquet));
    assert_memory_equal(parquet, "PAR1", 4);
    fm_base_mem_free(parquet);
}

static void bad_statements(void **state)
{
    (void)state;
    need_duckdb();
    char *text;
    assert_fails(run("SELECT nonsense FROM slices", FM_TRACE_TABLE, &text), FM_ERR_ARG, "nonsense");
    assert_fails(run("", FM_TRACE_CSV, &text), FM_ERR_ARG, "");
    assert_fails(run("SELECT * FROM range(200000)", FM_TRACE_TABLE, &text), FM_ERR_LIMIT,
                 "more than 100000 rows");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(results_in_every_format),
        cmocka_unit_test(bad_statements),
    };
    return fm_test_run("query", tests);
}
