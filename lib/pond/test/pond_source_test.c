/* Sources as they come: malformed lines, files whose columns clash, columns by a schema. */
#include "fm_test.h"

#include "fathom/file.h"
#include "pond_jobs.h"

static void save(const char *path, const char *text)
{
    char *expanded = pond_jobs_expand(path);
    assert_ok(fm_base_file_save(expanded, text, strlen(text)));
    fm_base_mem_free(expanded);
}

static void it_names_file_and_line_of_what_is_malformed(void **state)
{
    (void)state;
    pond_jobs_need_duckdb();
    save("@/bad.csv", "a,b\n1,2\nx,3\n5,6,7\n8,9\n");
    assert_fails(pond_jobs_run("steps:\n"
                               "  - {source: csv, paths: '@/bad.csv', schema: 'a BIGINT, b BIGINT'}\n"
                               "  - {sink: csv, path: '@/none'}\n",
                               1, NULL),
                 FM_ERR_FORMAT, "Line: 3");
    assert_non_null(strstr(fm_error_message(), "bad.csv"));
    save("@/bad.json", "{\"a\": 1}\n{\"a\": nothing}\n");
    assert_fails(pond_jobs_run("steps:\n"
                               "  - {source: json, paths: '@/bad.json', schema: a BIGINT}\n"
                               "  - {sink: csv, path: '@/none'}\n",
                               1, NULL),
                 FM_ERR_FORMAT, "bad.json");
}

static void it_leaves_out_and_counts_malformed_lines(void **state)
{
    (void)state;
    fm_pond_run_report report;
    pond_jobs_need_duckdb();
    save("@/bad.csv", "a,b\n1,2\nx,3\n5,6,7\n8,9\n");
    assert_ok(
        pond_jobs_run("steps:\n"
                      "  - {source: csv, paths: '@/bad.csv', schema: 'a BIGINT, b BIGINT', on_error: "
                      "skip, name: lines}\n"
                      "  - {sql: 'SELECT x.a FROM {0} x JOIN {1} y USING (a)', inputs: [lines, lines]}\n"
                      "  - {sink: csv, path: '@/skipped', mode: overwrite}\n",
                      1, &report));
    assert_int_equal(report.skipped, 2);
    assert_string_equal(pond_jobs_query("SELECT sum(a) FROM '@/skipped/*.csv'"), "9\n");
    save("@/bad.json", "{\"a\": 1, \"b\": [{\"c\": \"x\"}]}\n"
                       "not JSON\n"
                       "\n"
                       "{\"a\": \"two\"}\n"
                       "{\"b\": null, \"more\": 1}\n"
                       "[3]\n"
                       "{\"a\": 4}\n"
                       "{\"a\": \"\xff\"}\n"
                       "{\"a\": 5, \"b\"");
    assert_ok(pond_jobs_run("steps:\n"
                            "  - {source: json, paths: '@/bad.json', schema: 'a BIGINT, b STRUCT(c "
                            "VARCHAR)[]', on_error: skip}\n"
                            "  - {sink: json, path: '@/skipped', mode: overwrite}\n",
                            1, &report));
    assert_int_equal(report.rows, 3);
    assert_int_equal(report.skipped, 5);
    assert_string_equal(
        pond_jobs_query("SELECT a, b[1].c FROM read_json('@/skipped/part*.json') ORDER BY a NULLS LAST"),
        "1,x\n4,\n,\n");
}

static void it_counts_no_lines_that_need_not_be_read(void **state)
{
    (void)state;
    fm_pond_run_report report;
    pond_jobs_need_duckdb();
    save("@/bad.csv", "a,b\n1,2\nx,3\n");
    assert_ok(
        pond_jobs_run("steps:\n"
                      "  - {source: csv, paths: '@/bad.csv', schema: 'a BIGINT, b BIGINT', on_error: skip}\n"
                      "  - {limit: 0}\n"
                      "  - {sink: csv, path: '@/skipped', mode: overwrite}\n",
                      1, &report));
    assert_int_equal(report.rows, 0);
}

static void it_names_the_file_whose_columns_clash(void **state)
{
    (void)state;
    pond_jobs_need_duckdb();
    static const char *const job = "steps:\n"
                                   "  - {source: parquet, paths: '@/types/*.parquet', partitions: 2%s}\n"
                                   "  - {sink: parquet, path: '@/typed', mode: overwrite}\n";
    char text[512];
    char *folder = pond_jobs_expand("@/types");
    assert_ok(fm_base_dir_create(folder));
    fm_base_mem_free(folder);
    pond_jobs_query("COPY (SELECT 1::BIGINT AS x, 'a' AS y) TO '@/types/a.parquet'");
    pond_jobs_query("COPY (SELECT '2' AS x, 'b' AS y) TO '@/types/b.parquet'");
    snprintf(text, sizeof text, job, "");
    assert_fails(pond_jobs_run(text, 1, NULL), FM_ERR_FORMAT,
                 "b.parquet: column 'x' is VARCHAR; expected BIGINT, as in the source's first file");
    pond_jobs_query("COPY (SELECT 2::BIGINT AS x) TO '@/types/b.parquet'");
    assert_fails(pond_jobs_run(text, 1, NULL), FM_ERR_FORMAT,
                 "b.parquet: column 'y' is not there; expected VARCHAR");
    pond_jobs_query("COPY (SELECT 2::BIGINT AS x, 'b' AS y, [1] AS z) TO '@/types/b.parquet'");
    assert_fails(pond_jobs_run(text, 1, NULL), FM_ERR_FORMAT, "expected not there");
    // A schema says what all are to become.
    pond_jobs_query("COPY (SELECT '2' AS x, 'b' AS y) TO '@/types/b.parquet'");
    snprintf(text, sizeof text, job, ", schema: 'y VARCHAR, x INTEGER'");
    assert_ok(pond_jobs_run(text, 1, NULL));
    assert_string_equal(pond_jobs_query("SELECT y, x, typeof(x) FROM '@/typed/*.parquet' ORDER BY x"),
                        "a,1,INTEGER\nb,2,INTEGER\n");
    pond_jobs_query("COPY (SELECT 'two' AS x, 'b' AS y) TO '@/types/b.parquet'");
    assert_fails(pond_jobs_run(text, 1, NULL), FM_ERR_FORMAT, "two");
}

static void it_reads_files_without_rows(void **state)
{
    (void)state;
    fm_pond_run_report report;
    pond_jobs_need_duckdb();
    save("@/empty-1.csv", "a,b\n");
    save("@/empty-2.csv", "a,b\n");
    assert_ok(pond_jobs_run("steps:\n"
                            "  - {source: csv, paths: '@/empty-*.csv'}\n"
                            "  - {repartition: hash, by: a, partitions: 3}\n"
                            "  - {group_by: a, aggregate: count(*) AS n}\n"
                            "  - {sort: n, partitions: 2}\n"
                            "  - {sink: parquet, path: '@/empty', mode: overwrite}\n",
                            2, &report));
    assert_int_equal(report.rows, 0);
    assert_string_equal(pond_jobs_query("SELECT count(*) FROM '@/empty/*.parquet'"), "0\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_names_file_and_line_of_what_is_malformed),
        cmocka_unit_test(it_leaves_out_and_counts_malformed_lines),
        cmocka_unit_test(it_counts_no_lines_that_need_not_be_read),
        cmocka_unit_test(it_names_the_file_whose_columns_clash),
        cmocka_unit_test(it_reads_files_without_rows),
    };
    return fm_test_run("pond_source", tests);
}
