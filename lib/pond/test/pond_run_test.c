#include "fm_test.h"

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

static void it_names_partition_keys_out_of_range(void **state)
{
    (void)state;
    pond_jobs_need_duckdb();
    assert_fails(pond_jobs_run("steps:\n"
                               "  - {source: range, low: 0, high: 10}\n"
                               "  - {repartition: column, by: id - 1, partitions: 20}\n"
                               "  - {sink: csv, path: '@/none'}\n",
                               1, NULL),
                 FM_ERR_LIMIT, "partition key -1 of \"id - 1\" is out of range; expected 0 to 19");
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_keeps_what_an_edit_does_not_change),
        cmocka_unit_test(it_names_partition_keys_out_of_range),
        cmocka_unit_test(it_protects_what_others_wrote),
    };
    return fm_test_run("pond_run", tests);
}
