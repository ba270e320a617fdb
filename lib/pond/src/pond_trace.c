#include "pond_trace.h"

#include <errno.h>
#include <stdio.h>

#include "fathom/clock.h"
#include "fathom/doc.h"
#include "fathom/file.h"
#include "fathom/log.h"
#include "fathom/mem.h"

struct fm_pond_trace {
    FILE *file;
    uint64_t begin_unix_ns;
    int tracks, failed;
    fm_json json; // of an event
};

// Events are the lines of an array that needs no end: what a run that is killed leaves can be read.
fm_status fm_pond_trace_open(const char *path, fm_pond_trace **out_trace)
{
    fm_pond_trace *trace = fm_base_mem_zalloc(1, sizeof *trace);
    if (!trace)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a trace");
    trace->file = fopen(path, "we");
    if (!trace->file) {
        int err = errno;
        fm_base_mem_free(trace);
        return fm_base_file_error(err, "%s", path);
    }
    trace->begin_unix_ns = fm_base_clock_unix_ns();
    fputs("[\n{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":1,\"args\":{\"name\":\"pond\"}}\n",
          trace->file);
    *out_trace = trace;
    return FM_OK;
}

static fm_json *begin_event(fm_pond_trace *trace, const char *phase, const char *name, int track)
{
    fm_base_json_begin(&trace->json, NULL, '{');
    fm_base_json_string(&trace->json, "ph", phase);
    fm_base_json_string(&trace->json, "name", name);
    fm_base_json_string(&trace->json, "cat", "pond");
    fm_base_json_int(&trace->json, "pid", 1);
    fm_base_json_int(&trace->json, "tid", track);
    return &trace->json;
}

static void end_event(fm_pond_trace *trace)
{
    fm_base_json_end(&trace->json);
    fputc(',', trace->file);
    trace->failed |= fm_base_json_finish(&trace->json, trace->file) < 0;
}

// Microseconds since the run began.
static void add_time(fm_json *json, const char *key, uint64_t ns)
{
    fm_base_json_real(json, key, (double)ns * 1e-3);
}

static uint64_t since_begin(const fm_pond_trace *trace, uint64_t unix_ns)
{
    return unix_ns > trace->begin_unix_ns ? unix_ns - trace->begin_unix_ns : 0;
}

int fm_pond_trace_track(fm_pond_trace *trace, const char *name)
{
    if (!trace)
        return 0;
    int track = ++trace->tracks;
    fm_json *json = begin_event(trace, "M", "thread_name", track);
    fm_base_json_begin(json, "args", '{');
    fm_base_json_string(json, "name", name);
    fm_base_json_end(json);
    end_event(trace);
    return track;
}

void fm_pond_trace_mark(fm_pond_trace *trace, int track, const char *what)
{
    if (!trace)
        return;
    fm_json *json = begin_event(trace, "i", what, track);
    fm_base_json_string(json, "s", "t");
    add_time(json, "ts", since_begin(trace, fm_base_clock_unix_ns()));
    end_event(trace);
}

static void add_figures(fm_json *json, const fm_pond_trace_task *task)
{
    fm_base_json_begin(json, "args", '{');
    fm_base_json_int(json, "task", (int64_t)task->number);
    fm_base_json_string(json, "key", task->key);
    fm_base_json_string(json, "status", fm_base_status_name(task->status));
    fm_base_json_int(json, "attempt", task->attempt);
    fm_base_json_int(json, "rows_in", (int64_t)task->rows_in);
    fm_base_json_int(json, "rows", (int64_t)task->rows);
    fm_base_json_int(json, "bytes", (int64_t)task->bytes);
    fm_base_json_int(json, "cpu_ns", (int64_t)task->usage.cpu_ns);
    fm_base_json_int(json, "memory_bytes", (int64_t)task->memory_bytes);
    fm_base_json_int(json, "rss_bytes", (int64_t)task->usage.rss_bytes);
    fm_base_json_int(json, "read_bytes", (int64_t)task->usage.read_bytes);
    fm_base_json_int(json, "written_bytes", (int64_t)task->usage.written_bytes);
    fm_base_json_end(json);
}

void fm_pond_trace_task_add(fm_pond_trace *trace, int track, const fm_pond_trace_task *task)
{
    if (!trace)
        return;
    uint64_t at = since_begin(trace, task->usage.begin_unix_ns), end = at + task->usage.wall_ns;
    fm_json *json = begin_event(trace, "X", task->stage, track);
    add_time(json, "ts", at);
    add_time(json, "dur", task->usage.wall_ns);
    add_figures(json, task);
    end_event(trace);
    for (int i = 0; i < FM_POND_PHASES && task->usage.phase_ns[i]; i++) {
        uint64_t length = task->usage.phase_ns[i] < end - at ? task->usage.phase_ns[i] : end - at;
        json = begin_event(trace, "X", fm_pond_phase_names[i], track);
        add_time(json, "ts", at);
        add_time(json, "dur", length);
        end_event(trace);
        at += length;
    }
}

void fm_pond_trace_close(fm_pond_trace *trace)
{
    if (!trace)
        return;
    fputs("]\n", trace->file);
    if (fclose(trace->file) != 0 || trace->failed)
        fm_log_warn("pond", "the trace of the run could not be written to its end");
    fm_base_mem_free(trace);
}
