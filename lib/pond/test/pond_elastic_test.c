/* Executors come when tasks wait and go when there are none; elsewhere, by a command, as here. */
#include "fm_test.h"

#include <unistd.h>

#include "fathom/clock.h"
#include "fathom/file.h"
#include "pond_jobs.h"

enum { GUARD_STEPS = 1200 }; // of 50 ms: what takes so long hangs

// How many executors the run in the test's folder says it has.
static int executors_of(const char *status_path)
{
    char *text = NULL;
    size_t length = 0;
    fm_doc *doc = NULL;
    int64_t count = -1;
    if (fm_base_file_read(status_path, 1 << 20, &text, &length) == FM_OK &&
        fm_base_doc_parse_json(text, length, "status", &doc) == FM_OK &&
        fm_base_doc_int(fm_base_doc_get(doc, "executors"), "executors", 0, 1000, &count) < 0)
        count = -1;
    fm_base_doc_free(doc);
    fm_base_mem_free(text);
    return (int)count;
}

// Waits until all executors but this one and a spare have gone.
static fm_status wait_for_departure(void *context, const fm_pond_batch *batch, fm_pond_rows *out)
{
    const char *status_path = context;
    for (int i = 0; batch->rows && i < GUARD_STEPS; i++) {
        int executors = executors_of(status_path);
        if (executors > 0 && executors <= 2)
            break;
        if (i == GUARD_STEPS - 1)
            return fm_base_error_set(FM_ERR_STATE, "%d executors are still there", executors);
        fm_base_clock_sleep_ns(50000000);
    }
    for (size_t i = 0; i < batch->rows; i++) {
        FM_TRY(fm_pond_rows_int(out, batch->columns[0].integers[i]));
        FM_TRY(fm_pond_rows_end(out));
    }
    return FM_OK;
}

// Waits until as many tasks as there are partitions run at the same time.
static fm_status meet(void *context, const fm_pond_batch *batch, fm_pond_rows *out)
{
    const char *folder = context;
    char path[512];
    for (size_t i = 0; i < batch->rows; i++) {
        FM_TRY(fm_pond_rows_int(out, batch->columns[0].integers[i]));
        FM_TRY(fm_pond_rows_end(out));
    }
    if (!batch->rows)
        return FM_OK;
    snprintf(path, sizeof path, "%s/met-%d", folder, (int)batch->partition);
    FM_TRY(fm_base_file_save(path, "x", 1));
    for (int i = 0, met = 0; met < 4; i++) {
        if (i == GUARD_STEPS)
            return fm_base_error_set(FM_ERR_STATE, "%d tasks run at the same time; expected 4", met);
        fm_base_clock_sleep_ns(50000000);
        met = 0;
        for (int k = 0; k < 4; k++) {
            snprintf(path, sizeof path, "%s/met-%d", folder, k);
            met += access(path, F_OK) == 0;
        }
    }
    return FM_OK;
}

static void register_functions(const char *folder)
{
    static char status_path[512], meeting[512];
    snprintf(status_path, sizeof status_path, "%s/%s/status.json", folder, "work");
    snprintf(meeting, sizeof meeting, "%s", folder);
    assert_ok(fm_pond_function_register("wait_for_departure", wait_for_departure, status_path, "1"));
    assert_ok(fm_pond_function_register("meet", meet, meeting, "1"));
}

// Four tasks at once, then one that waits until the others' executors have left, then four at once again.
static const char *const job = "steps:\n"
                               "  - {source: range, low: 0, high: 400, partitions: 4}\n"
                               "  - {repartition: hash, by: id, partitions: 1}\n"
                               "  - {map_batches: wait_for_departure, schema: id BIGINT}\n"
                               "  - {repartition: rows, partitions: 4}\n"
                               "  - {map_batches: meet, schema: id BIGINT}\n"
                               "  - {sink: parquet, path: '@/elastic', mode: overwrite}\n";

static void run_elastically(fm_pond_run_options options)
{
    fm_pond_run_report report;
    options.idle_ms = 200;
    options.memory_bytes = (uint64_t)128 << 20;
    register_functions(fm_test_tmpdir());
    char *command = pond_jobs_expand("rm -rf @/work @/met-*");
    assert_int_equal(system(command), 0);
    fm_base_mem_free(command);
    assert_ok(pond_jobs_run_with(job, &options, &report));
    assert_int_equal(report.rows, 400);
    assert_string_equal(pond_jobs_query("SELECT count(DISTINCT id) FROM '@/elastic/*.parquet'"), "400\n");
    char *trace = pond_jobs_expand("@/work"
                                   "/trace.json"),
         *text;
    size_t length;
    assert_ok(fm_base_file_read(trace, 1 << 20, &text, &length));
    assert_non_null(memmem(text, length, "\"sent home\"", 11));
    fm_base_mem_free(text);
    fm_base_mem_free(trace);
}

static void it_sends_local_executors_home_and_starts_others(void **state)
{
    (void)state;
    pond_jobs_need_duckdb();
    run_elastically((fm_pond_run_options){.executors = 4});
}

static void it_asks_for_executors_elsewhere_as_tasks_need_them(void **state)
{
    (void)state;
    pond_jobs_need_duckdb();
    char launch[1024];
    snprintf(launch, sizeof launch,
             "for i in $(seq {count}); do {fathom} executor {address} {key} %s >/dev/null 2>&1 & done; echo "
             "{count} "
             ">>%s/asked",
             fm_test_tmpdir(), fm_test_tmpdir());
    run_elastically(
        (fm_pond_run_options){.executors = -1, .listen = "127.0.0.1:0", .launch = launch, .launch_count = 4});
    char *asked = pond_jobs_expand("@/asked"), *text;
    size_t length;
    assert_ok(fm_base_file_read(asked, 1 << 20, &text, &length));
    assert_true(length > 2); // more than once
    assert_int_equal(text[0], '4');
    fm_base_mem_free(text);
    fm_base_mem_free(asked);
}

int main(int argc, char **argv)
{
    if (argc == 5 && strcmp(argv[1], "executor") == 0) { // as the command above starts it
        register_functions(argv[4]);
        return fm_pond_executor_run(argv[2], argv[3]) < 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_sends_local_executors_home_and_starts_others),
        cmocka_unit_test(it_asks_for_executors_elsewhere_as_tasks_need_them),
    };
    return fm_test_run("pond_elastic", tests);
}
