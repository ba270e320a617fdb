/* A hundred thousand tiny files. */
#include "fm_test.h"

#include "fathom/file.h"
#include "pond_jobs.h"

enum { FILES = 100000, FILES_A_FOLDER = 1000 };

static void make_files(void)
{
    for (int i = 0; i < FILES; i++) {
        char path[64], text[64];
        snprintf(path, sizeof path, "@/tiny/%03d", i / FILES_A_FOLDER);
        char *folder = pond_jobs_expand(path);
        if (i % FILES_A_FOLDER == 0)
            assert_ok(fm_base_dir_create(folder));
        fm_base_mem_free(folder);
        snprintf(path, sizeof path, "@/tiny/%03d/%05d.csv", i / FILES_A_FOLDER, i);
        snprintf(text, sizeof text, "k,v\n%d,%d\n", i % 97, i);
        char *name = pond_jobs_expand(path);
        FILE *file = fopen(name, "w"); // not made durable, one by one: that would take minutes
        assert_non_null(file);
        fputs(text, file);
        assert_int_equal(fclose(file), 0);
        fm_base_mem_free(name);
    }
}

static void it_reads_a_hundred_thousand_files(void **state)
{
    (void)state;
    fm_pond_run_report report;
    static const char *const job =
        "steps:\n"
        "  - {source: csv, paths: '@/tiny', partitions: 16}\n"
        "  - {group_by: k, aggregate: 'count(*) AS n, sum(v) AS v', partitions: 2}\n"
        "  - {sink: parquet, path: '@/groups', mode: overwrite}\n";
    pond_jobs_need_duckdb();
    make_files();
    assert_ok(pond_jobs_run(job, 2, &report));
    assert_int_equal(report.rows, 97);
    assert_string_equal(pond_jobs_query("SELECT sum(n), sum(v) FROM '@/groups/*.parquet'"),
                        "100000,4999950000\n");
    assert_ok(pond_jobs_run(job, 2, &report));
    assert_int_equal(report.tasks_run, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_reads_a_hundred_thousand_files),
    };
    return fm_test_run("pond_tiny", tests);
}
