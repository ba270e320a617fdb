#include "pond_jobs.h"

#include <sys/wait.h>
#include <unistd.h>

#include "fm_test.h"
#include "pond_task.h"
#include "pond_text.h"

char *pond_jobs_expand(const char *text)
{
    fm_pond_text expanded = {0};
    fm_pond_text_add(&expanded, "%s", "");
    for (const char *at = text; *at; at++)
        if (*at == '@')
            fm_pond_text_add(&expanded, "%s", fm_test_tmpdir());
        else
            fm_pond_text_add_bytes(&expanded, at, 1);
    assert_false(expanded.failed);
    return expanded.text;
}

fm_pond_plan *pond_jobs_plan(const char *yaml)
{
    char *text = pond_jobs_expand(yaml);
    fm_doc *doc = NULL;
    fm_pond_plan *plan = NULL;
    assert_ok(fm_base_doc_parse_yaml(text, strlen(text), "job", &doc));
    assert_ok(fm_pond_plan_read(doc, &plan));
    fm_base_doc_free(doc);
    fm_base_mem_free(text);
    return plan;
}

fm_status pond_jobs_run(const char *yaml, int executors, fm_pond_run_report *out_report)
{
    return pond_jobs_run_with(
        yaml, &(fm_pond_run_options){.executors = executors, .memory_bytes = (uint64_t)256 << 20},
        out_report);
}

fm_status pond_jobs_run_with(const char *yaml, const fm_pond_run_options *given,
                             fm_pond_run_report *out_report)
{
    fm_pond_run_report report;
    fm_pond_plan *plan = pond_jobs_plan(yaml);
    char *work = pond_jobs_expand("@/work");
    fm_pond_run_options options = *given;
    options.size = sizeof options;
    options.work = work;
    fm_status status = fm_pond_plan_run(plan, &options, out_report ? out_report : &report);
    fm_pond_plan_free(plan);
    fm_base_mem_free(work);
    return status;
}

const char *pond_jobs_query(const char *sql)
{
    static char text[1 << 16];
    char *expanded = pond_jobs_expand(sql), *rows = NULL;
    size_t size = 0;
    // DuckDB runs in a process of its own: what runs here later forks, and must not have threads then.
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        FILE *out = open_memstream(&rows, &size);
        fm_status status = fm_pond_sql_run(expanded, 1, out);
        fclose(out);
        FILE *end = fdopen(ends[1], "w");
        const char *names_end =
            status < 0 ? NULL : strchr(rows, '\n'); // a statement without rows prints nothing
        fputs(status < 0 ? fm_error_message() : names_end ? names_end + 1 : "", end);
        fclose(end);
        _exit(0);
    }
    close(ends[1]);
    FILE *end = fdopen(ends[0], "r");
    size_t length = fread(text, 1, sizeof text - 1, end);
    fclose(end);
    text[length] = '\0';
    assert_int_equal(waitpid(child, NULL, 0), child);
    fm_base_mem_free(expanded);
    return text;
}

void pond_jobs_need_duckdb(void)
{
    const char *version;
    if (fm_pond_task_engine(&version) < 0)
        fm_test_skip("%s", fm_error_message());
}
