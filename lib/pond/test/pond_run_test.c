#include "fm_test.h"

#include <signal.h>
#include <unistd.h>

#include "fathom/file.h"
#include "pond_jobs.h"

static void it_keeps_what_an_edit_does_not_change(void **state)
{
    (void)state;
    fm_pond_run_report report;
    pond_jobs_need_duckdb();
    static const char *const job = "steps:\n"
                                   "  - {source: range, low: 0, high: 1000, partitions: 3}\n"
                                   "  - {repartition: hash, by: id, partitions: 2}\n"
                                   "  - {filter: id %% 7 < %d}\n"
                                   "  - {sink: csv, path: '@/kept', mode: overwrite}\n";
    char text[512];
    snprintf(text, sizeof text, job, 3);
    assert_ok(pond_jobs_run(text, 2, &report));
    assert_int_equal(report.tasks_run, 5);
    assert_int_equal(report.moved_rows, 1000);
    assert_string_equal(pond_jobs_query("SELECT count(*), sum(id) FROM '@/kept/*.csv'"), "429,213642\n");
    snprintf(text, sizeof text, job, 4);
    assert_ok(pond_jobs_run(text, 2, &report));
    assert_int_equal(report.tasks_run, 2);
    assert_int_equal(report.tasks_kept, 3);
    assert_string_equal(pond_jobs_query("SELECT count(*) FROM '@/kept/*.csv'"), "572\n");
}

static void it_protects_what_others_wrote(void **state)
{
    (void)state;
    pond_jobs_need_duckdb();
    char *folder = pond_jobs_expand("@/others"), *file = pond_jobs_expand("@/others/x");
    assert_ok(fm_base_dir_create(folder));
    assert_ok(fm_base_file_save(file, "x", 1));
    assert_fails(pond_jobs_run("steps:\n"
                               "  - {source: range, low: 0, high: 10}\n"
                               "  - {sink: csv, path: '@/others'}\n",
                               1, NULL),
                 FM_ERR_EXISTS, "others is not empty");
    fm_base_mem_free(folder);
    fm_base_mem_free(file);
}

// Kills its own process, the first time that it runs.
static fm_status die_once(void *context, const fm_pond_batch *batch, fm_pond_rows *out)
{
    const char *mark = context;
    if (batch->partition == 1 && access(mark, F_OK) != 0) {
        FM_TRY(fm_base_file_save(mark, "x", 1));
        raise(SIGKILL);
    }
    for (size_t i = 0; i < batch->rows; i++) {
        FM_TRY(fm_pond_rows_int(out, batch->columns[0].integers[i]));
        FM_TRY(fm_pond_rows_end(out));
    }
    return FM_OK;
}

static void it_survives_the_death_of_an_executor(void **state)
{
    (void)state;
    fm_pond_run_report report;
    pond_jobs_need_duckdb();
    char *mark = pond_jobs_expand("@/died");
    assert_ok(fm_pond_function_register("die_once", die_once, mark, "1"));
    assert_ok(pond_jobs_run("steps:\n"
                            "  - {source: range, low: 0, high: 5000, partitions: 4}\n"
                            "  - {map_batches: die_once, schema: id BIGINT}\n"
                            "  - {sink: parquet, path: '@/survived'}\n",
                            2, &report));
    assert_int_equal(report.retries, 1);
    assert_string_equal(pond_jobs_query("SELECT count(*), sum(id) FROM '@/survived/*.parquet'"),
                        "5000,12497500\n");
    fm_base_mem_free(mark);
}

static void it_names_a_column_that_is_missing(void **state)
{
    (void)state;
    pond_jobs_need_duckdb();
    char *folder = pond_jobs_expand("@/clash"), *a = pond_jobs_expand("@/clash/a.csv");
    char *b = pond_jobs_expand("@/clash/b.csv");
    assert_ok(fm_base_dir_create(folder));
    assert_ok(fm_base_file_save(a, "x,y\n1,2\n", 8));
    assert_ok(fm_base_file_save(b, "x,z\nred,2\n", 10));
    assert_fails(pond_jobs_run("steps:\n"
                               "  - {source: csv, paths: '@/clash'}\n"
                               "  - {map: y}\n"
                               "  - {sink: parquet, path: '@/never'}\n",
                               1, NULL),
                 FM_ERR_FORMAT, "b.csv:1: column 2 is 'z'; expected 'y'");
    assert_fails(pond_jobs_run("steps:\n"
                               "  - {source: csv, paths: '@/clash/a.csv'}\n"
                               "  - {map: w}\n"
                               "  - {sink: parquet, path: '@/never'}\n",
                               1, NULL),
                 FM_ERR_FORMAT, "\"w\" not found");
    fm_base_mem_free(folder);
    fm_base_mem_free(a);
    fm_base_mem_free(b);
}

static void it_writes_hive_folders_and_appends(void **state)
{
    (void)state;
    fm_pond_run_report report;
    pond_jobs_need_duckdb();
    static const char *const job = "steps:\n"
                                   "  - {source: range, low: %d, high: %d, partitions: 2}\n"
                                   "  - {map: 'id, id %% 3 AS g'}\n"
                                   "  - {sink: parquet, path: '@/hive', mode: append, partition_by: g}\n";
    char text[512];
    for (int i = 0; i < 3; i++) { // the third is the second again, and adds nothing
        snprintf(text, sizeof text, job, i < 1 ? 0 : 30, i < 1 ? 30 : 90);
        assert_ok(pond_jobs_run(text, 2, &report));
    }
    assert_string_equal(pond_jobs_query("SELECT g, count(*), sum(id) FROM read_parquet('@/hive/*/*.parquet', "
                                        "hive_partitioning = true) GROUP BY g ORDER BY g"),
                        "0,30,1305\n1,30,1335\n2,30,1365\n");
}

static void it_does_again_what_a_crash_left_half_written(void **state)
{
    (void)state;
    fm_pond_run_report report;
    pond_jobs_need_duckdb();
    static const char *const job = "steps:\n"
                                   "  - {source: range, low: 0, high: 77}\n"
                                   "  - {sink: parquet, path: '@/crashed', mode: overwrite}\n";
    assert_ok(pond_jobs_run(job, 1, &report));
    char *command = pond_jobs_expand("cd @/work && for f in tasks/*/result.json; do : >$f; done");
    assert_int_equal(system(command), 0);
    fm_base_mem_free(command);
    assert_ok(pond_jobs_run(job, 1, &report));
    assert_int_equal(report.tasks_run, 1);
    command = pond_jobs_expand("cd @/work && for f in tasks/*/out.parquet; do truncate -s -1 $f; done");
    assert_int_equal(system(command), 0);
    fm_base_mem_free(command);
    assert_ok(pond_jobs_run(job, 1, &report));
    assert_int_equal(report.tasks_run, 1);
    assert_ok(pond_jobs_run(job, 1, &report));
    assert_int_equal(report.tasks_run, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_keeps_what_an_edit_does_not_change),
        cmocka_unit_test(it_protects_what_others_wrote),
        cmocka_unit_test(it_survives_the_death_of_an_executor),
        cmocka_unit_test(it_names_a_column_that_is_missing),
        cmocka_unit_test(it_writes_hive_folders_and_appends),
        cmocka_unit_test(it_does_again_what_a_crash_left_half_written),
    };
    return fm_test_run("pond_run", tests);
}
