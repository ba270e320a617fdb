/* What goes wrong while a job runs: memory that is not enough, tasks that hang, the user's Ctrl-C, keys out of range. */
#include "fm_test.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "fathom/clock.h"
#include "fathom/file.h"
#include "fathom/interrupt.h"
#include "pond_jobs.h"

enum { GUARD_STEPS = 6000 }; // of 10 ms: what takes so long hangs

// Whether this call is the first to make the file.
static int is_first(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static fm_status copy_ids(const fm_pond_batch *batch, fm_pond_rows *out)
{
    for (size_t i = 0; i < batch->rows; i++) {
        FM_TRY(fm_pond_rows_int(out, batch->columns[0].integers[i]));
        FM_TRY(fm_pond_rows_end(out));
    }
    return FM_OK;
}

static void it_gives_more_memory_to_a_task_that_lacks_it(void **state)
{
    (void)state;
    fm_pond_run_report report;
    pond_jobs_need_duckdb();
    // One list of 4 million numbers: 32 MB, which cannot be spilled.
    static const char *const job =
        "steps:\n"
        "  - {source: query, query: 'SELECT len(list(range)) AS n FROM range(4000000)'}\n"
        "  - {sink: csv, path: '@/memory', mode: overwrite}\n";
    assert_ok(pond_jobs_run_with(
        job, &(fm_pond_run_options){.executors = 1, .memory_bytes = (uint64_t)24 << 20, .retries = 8},
        &report));
    assert_true(report.retries >= 1);
    assert_string_equal(pond_jobs_query("SELECT * FROM '@/memory/*.csv'"), "4000000\n");
}

// The first copy of partition 3 hangs until the second copy has run.
static fm_status hang_once(void *context, const fm_pond_batch *batch, fm_pond_rows *out)
{
    const char *folder = context;
    char first[512], second[512];
    snprintf(first, sizeof first, "%s/hangs", folder);
    snprintf(second, sizeof second, "%s/helps", folder);
    if (batch->partition == 3 && batch->rows > 0) {
        if (!is_first(first))
            FM_TRY(fm_base_file_save(second, "x", 1));
        else
            for (int i = 0; access(second, F_OK) != 0 && i < GUARD_STEPS; i++)
                fm_base_clock_sleep_ns(10000000);
    }
    return copy_ids(batch, out);
}

static void it_runs_a_second_copy_of_a_task_that_hangs(void **state)
{
    (void)state;
    fm_pond_run_report report;
    pond_jobs_need_duckdb();
    char *folder = pond_jobs_expand("@");
    assert_ok(fm_pond_function_register("hang_once", hang_once, folder, "1"));
    assert_ok(pond_jobs_run("steps:\n"
                            "  - {source: range, low: 0, high: 8000, partitions: 8}\n"
                            "  - {map_batches: hang_once, schema: id BIGINT}\n"
                            "  - {sink: parquet, path: '@/copied'}\n",
                            2, &report));
    assert_true(report.speculative >= 1);
    assert_int_equal(report.tasks_run, 8);
    assert_string_equal(pond_jobs_query("SELECT count(*), count(DISTINCT id) FROM '@/copied/*.parquet'"),
                        "8000,8000\n");
    fm_base_mem_free(folder);
}

// Presses Ctrl-C, as it were, in the driver: its executors are its children.
static fm_status interrupt_once(void *context, const fm_pond_batch *batch, fm_pond_rows *out)
{
    if (batch->partition == 2 && batch->rows > 0 && is_first(context)) {
        kill(getppid(), SIGINT);
        for (int i = 0; i < GUARD_STEPS; i++) // until the driver ends this process
            fm_base_clock_sleep_ns(10000000);
    }
    return copy_ids(batch, out);
}

static void it_goes_on_after_ctrl_c(void **state)
{
    (void)state;
    fm_pond_run_report report;
    pond_jobs_need_duckdb();
    static const char *const job = "steps:\n"
                                   "  - {source: range, low: 0, high: 4000, partitions: 4}\n"
                                   "  - {map_batches: interrupt_once, schema: id BIGINT}\n"
                                   "  - {sink: parquet, path: '@/interrupted'}\n";
    char *mark = pond_jobs_expand("@/pressed"), *out = pond_jobs_expand("@/interrupted");
    assert_ok(fm_pond_function_register("interrupt_once", interrupt_once, mark, "1"));
    assert_ok(fm_base_interrupt_install());
    assert_fails(pond_jobs_run(job, 1, &report), FM_ERR_CANCELLED, "");
    fm_base_interrupt_restore();
    assert_int_not_equal(access(out, F_OK), 0);
    assert_ok(pond_jobs_run(job, 1, &report));
    assert_int_equal(report.tasks_kept, 2); // those before the one that was interrupted
    assert_int_equal(report.tasks_run, 2);
    assert_string_equal(pond_jobs_query("SELECT count(*), sum(id) FROM '@/interrupted/*.parquet'"),
                        "4000,7998000\n");
    fm_base_mem_free(mark);
    fm_base_mem_free(out);
}

static void it_names_partition_keys_out_of_range(void **state)
{
    (void)state;
    pond_jobs_need_duckdb();
    static const struct {
        const char *by, *message;
        fm_status status;
    } wrong[] = {{"id - 1", "partition key -1 of \"id - 1\" is out of range; expected 0 to 19", FM_ERR_LIMIT},
                 {"id + 11", "partition key 20 of \"id + 11\" is out of range", FM_ERR_LIMIT},
                 {"id << 40", "is out of range", FM_ERR_LIMIT},
                 {"NULLIF(id, 3)", "partition key NULL of", FM_ERR_LIMIT},
                 {"'three'", "three", FM_ERR_FORMAT}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char job[512];
        snprintf(job, sizeof job,
                 "steps:\n"
                 "  - {source: range, low: 0, high: 10}\n"
                 "  - {repartition: column, by: \"%s\", partitions: 20}\n"
                 "  - {sink: csv, path: '@/none'}\n",
                 wrong[i].by);
        assert_fails(pond_jobs_run(job, 1, NULL), wrong[i].status, wrong[i].message);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_gives_more_memory_to_a_task_that_lacks_it),
        cmocka_unit_test(it_runs_a_second_copy_of_a_task_that_hangs),
        cmocka_unit_test(it_goes_on_after_ctrl_c),
        cmocka_unit_test(it_names_partition_keys_out_of_range),
    };
    return fm_test_run("pond_fault", tests);
}
