// The timeline of the last steps: this process's, and that of ranks in processes of their own.
#include <stdio.h>
#include <string.h>

#include "fathom/file.h"
#include "fathom/log.h"
#include "fathom/mem.h"
#include "fathom/span.h"
#include "fathom/trace_report.h"
#include "train_job.h"

// Ranks that are processes write what they did to files that begin so.
#define RANK_TRACES "trace.rank"

fm_status fm_app_train_record(struct fm_train_job *job)
{
    char path[FM_TRAIN_PATH_BYTES];
    fm_app_train_path(job, "trace.json", path);
    FM_TRY(fm_trace_writer_open(path, &job->trace));
    FM_TRY(fm_base_span_enable(0));
    fm_app_train_path(job, RANK_TRACES, path);
    return fm_model_trainer_record(job->trainer, path);
}

// The traces of all ranks and of this process become one, by one clock.
static fm_status join_traces(const struct fm_train_job *job)
{
    const fm_trace_read_options reading = {.size = sizeof reading, .keep_args = 1};
    int count = 1 + (int)(job->options->pipe_ranks * job->options->expert_ranks);
    char(*names)[FM_TRAIN_PATH_BYTES] = fm_base_mem_zalloc((size_t)count, sizeof *names);
    const char **paths = fm_base_mem_zalloc((size_t)count, sizeof *paths);
    fm_trace *trace = NULL;
    fm_trace_rules *rules = NULL;
    fm_status status =
        names && paths ? FM_OK : fm_base_error_set(FM_ERR_NOMEM, "no memory to join %d traces", count);
    for (int i = 0; i < count && status == FM_OK; i++) {
        fm_app_train_path(job, i ? RANK_TRACES : "trace.json", names[i]);
        if (i > 0)
            snprintf(names[i] + strlen(names[i]), 16, "%d", i - 1);
        paths[i] = names[i];
    }
    if (status == FM_OK)
        status = fm_trace_data_read(paths, (size_t)count, &reading, &trace);
    if (status == FM_OK)
        status = fm_trace_rules_load(NULL, &rules);
    if (status == FM_OK)
        status = fm_trace_clocks_align(trace, rules);
    if (status == FM_OK)
        status = fm_trace_data_save(trace, names[0]);
    for (int i = 1; i < count && names; i++)
        if (names[i][0])
            (void)!fm_base_dir_remove(names[i]); // whatever is left is removed with the stage's folder
    fm_trace_rules_free(rules);
    fm_trace_data_free(trace);
    fm_base_mem_free(paths);
    fm_base_mem_free(names);
    return status;
}

fm_status fm_app_train_recorded(struct fm_train_job *job)
{
    fm_trace_writer *trace = job->trace;
    if (!trace)
        return FM_OK;
    fm_base_span_disable();
    job->trace = NULL;
    fm_status recorded = fm_model_trainer_record(job->trainer, NULL), closed = fm_trace_writer_close(trace);
    FM_TRY(closed);
    if (strcmp(job->options->transport, "processes") != 0)
        return recorded;
    // What ranks did is a drawing in the report; a run is not lost for it.
    if (recorded == FM_OK)
        recorded = join_traces(job);
    if (recorded < 0)
        fm_log_warn("train", "the timeline lacks what ranks did: %s", fm_error_message());
    return FM_OK;
}
