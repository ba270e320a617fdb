#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fathom/file.h"
#include "fathom/log.h"
#include "pond_run.h"

#define STATUS_NAME "status.json"

void fm_pond_status_save(const fm_pond_run *run, const char *state, const char *stage, int executors)
{
    char message[1024]; // of whoever asked
    fm_json json = {0};
    fm_pond_text path = {0};
    snprintf(message, sizeof message, "%s", fm_error_message());
    fm_base_json_begin(&json, NULL, '{');
    fm_base_json_string(&json, "job", run->plan->name ? run->plan->name : "");
    fm_base_json_string(&json, "state", state);
    fm_base_json_string(&json, "stage", stage);
    fm_base_json_int(&json, "pid", getpid());
    fm_base_json_int(&json, "tasks", (int64_t)run->tasks_planned);
    fm_base_json_int(&json, "tasks_run", (int64_t)run->report.tasks_run);
    fm_base_json_int(&json, "tasks_kept", (int64_t)run->report.tasks_kept);
    fm_base_json_int(&json, "retries", (int64_t)run->report.retries);
    fm_base_json_int(&json, "speculative", (int64_t)run->report.speculative);
    fm_base_json_int(&json, "executors", executors);
    fm_base_json_end(&json);
    fm_pond_text_add(&path, "%.*s/" STATUS_NAME, (int)(run->tasks.length - strlen("/tasks")),
                     run->tasks.text);
    fm_status status = fm_pond_text_status(&path);
    if (status == FM_OK)
        status = fm_base_file_save(path.text, json.text ? json.text : "", json.length);
    fm_status finished = fm_base_json_finish(&json, NULL);
    if (status < 0 || finished < 0)
        fm_log_warn("pond", "%s", fm_error_message());
    fm_pond_text_clear(&path);
    fm_base_error_set(FM_OK, "%s", message);
}

static int64_t count_of(const fm_doc *status, const char *key)
{
    int64_t value = 0;
    return fm_base_doc_int(fm_base_doc_get(status, key), key, 0, INT64_MAX, &value) == FM_OK ? value : 0;
}

static fm_status print(const fm_doc *status, FILE *file)
{
    const char *job, *state, *stage;
    FM_TRY(fm_base_doc_string(fm_base_doc_get(status, "job"), "job", &job));
    FM_TRY(fm_base_doc_string(fm_base_doc_get(status, "state"), "state", &state));
    FM_TRY(fm_base_doc_string(fm_base_doc_get(status, "stage"), "stage", &stage));
    fprintf(file, "%s%s%s%s%s\n", *job ? job : "job", ": ", state, *stage ? ", stage " : "", stage);
    fprintf(file,
            "tasks: %lld of %lld (%lld kept from before), %lld retried, %lld second copies; %lld executors\n",
            (long long)count_of(status, "tasks_run") + (long long)count_of(status, "tasks_kept"),
            (long long)count_of(status, "tasks"), (long long)count_of(status, "tasks_kept"),
            (long long)count_of(status, "retries"), (long long)count_of(status, "speculative"),
            (long long)count_of(status, "executors"));
    return FM_OK;
}

fm_status fm_pond_status_write(const char *work, int json, void *file)
{
    fm_pond_text path = {0};
    char *text = NULL;
    size_t length = 0;
    fm_doc *doc = NULL;
    fm_pond_text_add(&path, "%s/" STATUS_NAME, work);
    fm_status status = fm_pond_text_status(&path);
    if (status == FM_OK)
        status = fm_base_file_read(path.text, 1 << 20, &text, &length);
    if (status == FM_OK)
        status = fm_base_doc_parse_json(text, length, path.text, &doc);
    if (status == FM_OK && json)
        fprintf(file, "%.*s\n", (int)length, text);
    else if (status == FM_OK)
        status = print(doc, file);
    fm_base_doc_free(doc);
    fm_base_mem_free(text);
    fm_pond_text_clear(&path);
    return status;
}
