/* A trace that was read, written again as one file. */
#include <stdio.h>
#include <string.h>

#include "fathom/file.h"
#include "fathom/trace_write.h"
#include "fathom/mem.h"
#include "json_text.h"

struct saver {
    const fm_trace *trace;
    fm_file_draft draft;
    struct fm_trace_text text;
    uint64_t written;
    int64_t base_ns; // the earliest time: what times are relative to
    uint64_t stride; // added to correlations for each file before: several ranks count from the same number
};

// Written in pieces of about this size.
enum { PIECE_BYTES = 1 << 20 };

static fm_status flush(struct saver *saver, size_t least)
{
    FM_TRY(saver->text.status);
    if (saver->text.length < least)
        return FM_OK;
    FM_TRY(fm_base_file_write(&saver->draft, saver->written, saver->text.at, saver->text.length));
    saver->written += saver->text.length;
    saver->text.length = 0;
    return FM_OK;
}

/* The beginning of an event. Process IDs of several files may be equal: each process gets a number of its own. */
static void begin_event(struct saver *saver, char phase, uint32_t track)
{
    const fm_trace_track *t = &saver->trace->tracks[track];
    fm_trace_text_format(&saver->text, ",\n{\"ph\":\"%c\",\"pid\":%u,\"tid\":%lld", phase, t->process,
                         t->is_async || t->tid_is_text ? 1000000000LL + track : (long long)t->tid);
}

static void put_text(struct saver *saver, const char *key, uint32_t text)
{
    fm_trace_text_format(&saver->text, ",\"%s\":", key);
    fm_trace_text_string(&saver->text, fm_trace_data_text(saver->trace, text));
}

static void put_time(struct saver *saver, const char *key, int64_t ns)
{
    fm_trace_text_format(&saver->text, ",\"%s\":", key);
    fm_trace_text_time(&saver->text, ns);
}

static void put_processes(struct saver *saver)
{
    const fm_trace *trace = saver->trace;
    for (size_t i = 0; i < trace->process_count; i++) {
        const fm_trace_process *process = &trace->processes[i];
        const fm_trace_file *file = &trace->files[process->file];
        const char *name = fm_trace_data_text(trace, process->name);
        char rank[300] = "";
        if (trace->file_count > 1 && file->rank >= 0)
            snprintf(rank, sizeof rank, "rank %lld ", (long long)file->rank);
        else if (trace->file_count > 1)
            snprintf(rank, sizeof rank, "%.250s ", file->path);
        if (!name[0] && process->pid_is_text)
            name = fm_trace_data_text(trace, (uint32_t)process->pid);
        fm_trace_text_format(
            &saver->text,
            "%s{\"ph\":\"M\",\"pid\":%zu,\"tid\":0,\"name\":\"process_name\",\"args\":{\"name\":",
            i ? ",\n" : "", i);
        char full[600];
        snprintf(full, sizeof full, "%s%.290s", rank, name);
        fm_trace_text_string(&saver->text, full);
        fm_trace_text_put(&saver->text, "}}", 2);
        if (process->labels != FM_TRACE_NONE) {
            fm_trace_text_format(
                &saver->text,
                ",\n{\"ph\":\"M\",\"pid\":%zu,\"tid\":0,\"name\":\"process_labels\",\"args\":{\"labels\":",
                i);
            fm_trace_text_string(&saver->text, fm_trace_data_text(trace, process->labels));
            fm_trace_text_put(&saver->text, "}}", 2);
        }
    }
    for (size_t i = 0; i < trace->track_count; i++) {
        const char *name = fm_trace_data_text(trace, trace->tracks[i].name);
        if (!name[0] && trace->tracks[i].tid_is_text)
            name = fm_trace_data_text(trace, (uint32_t)trace->tracks[i].tid);
        if (!name[0])
            continue;
        begin_event(saver, 'M', (uint32_t)i);
        fm_trace_text_format(&saver->text, ",\"name\":\"thread_name\",\"args\":{\"name\":");
        fm_trace_text_string(&saver->text, name);
        fm_trace_text_put(&saver->text, "}}", 2);
    }
}

static uint32_t file_of(const struct saver *saver, uint32_t track)
{
    return saver->trace->processes[saver->trace->tracks[track].process].file;
}

/* Arguments as they were read, or those that the reader understood. */
static void put_args(struct saver *saver, size_t index)
{
    const fm_trace *trace = saver->trace;
    const fm_trace_slice *slice = &trace->slices[index];
    if (trace->args && trace->file_count == 1) {
        const fm_trace_args *args = &trace->args[index];
        if (args->length) {
            fm_trace_text_put(&saver->text, ",\"args\":", 8);
            fm_trace_text_put(&saver->text, trace->args_text + args->offset, args->length);
        }
        return;
    }
    if (!slice->correlation && slice->gpu == FM_TRACE_NONE)
        return;
    uint64_t correlation =
        slice->correlation ? slice->correlation + file_of(saver, slice->track) * saver->stride : 0;
    fm_trace_text_format(&saver->text, ",\"args\":{\"correlation\":%llu", (unsigned long long)correlation);
    if (slice->gpu != FM_TRACE_NONE) {
        const fm_trace_gpu *gpu = &trace->gpus[slice->gpu];
        fm_trace_text_format(&saver->text,
                             ",\"device\":%d,\"stream\":%d,\"grid\":[%u,1,1],\"block\":[%u,1,1]", gpu->device,
                             gpu->stream, gpu->blocks, gpu->threads);
    }
    fm_trace_text_put(&saver->text, "}", 1);
}

static fm_status put_slices(struct saver *saver)
{
    const fm_trace *trace = saver->trace;
    for (size_t i = 0; i < trace->slice_count; i++) {
        const fm_trace_slice *slice = &trace->slices[i];
        int is_async = slice->kind == FM_TRACE_ASYNC;
        begin_event(saver, is_async ? 'b' : slice->kind == FM_TRACE_INSTANT ? 'i' : 'X', slice->track);
        put_text(saver, "name", slice->name);
        put_text(saver, "cat", slice->category);
        put_time(saver, "ts", slice->begin_ns - saver->base_ns);
        if (is_async)
            fm_trace_text_format(&saver->text, ",\"id\":\"s%zu\"", i);
        else if (slice->kind != FM_TRACE_INSTANT)
            put_time(saver, "dur", slice->duration_ns);
        put_args(saver, i);
        fm_trace_text_put(&saver->text, "}", 1);
        if (is_async) {
            begin_event(saver, 'e', slice->track);
            put_text(saver, "name", slice->name);
            put_text(saver, "cat", slice->category);
            put_time(saver, "ts", slice->begin_ns + slice->duration_ns - saver->base_ns);
            fm_trace_text_format(&saver->text, ",\"id\":\"s%zu\"}", i);
        }
        FM_TRY(flush(saver, PIECE_BYTES));
    }
    return FM_OK;
}

static fm_status put_rest(struct saver *saver)
{
    const fm_trace *trace = saver->trace;
    for (size_t i = 0; i < trace->flow_count; i++) {
        const fm_trace_flow *flow = &trace->flows[i];
        begin_event(saver, flow->phase, flow->track);
        put_text(saver, "name", flow->name);
        put_text(saver, "cat", flow->category);
        put_time(saver, "ts", flow->at_ns - saver->base_ns);
        // The profiler counts these anew in every process; all other IDs are the run's.
        const char *category = fm_trace_data_text(trace, flow->category);
        int is_local = strcmp(category, "ac2g") == 0 || strcmp(category, "fwdbwd") == 0;
        fm_trace_text_format(&saver->text, ",\"id\":\"%u_0x%llx\"%s}",
                             is_local ? file_of(saver, flow->track) : 0, (unsigned long long)flow->id,
                             flow->phase == 'f' ? ",\"bp\":\"e\"" : "");
        FM_TRY(flush(saver, PIECE_BYTES));
    }
    for (size_t i = 0; i < trace->counter_count; i++) {
        const fm_trace_counter *counter = &trace->counters[i];
        begin_event(saver, 'C', counter->track);
        put_text(saver, "name", counter->name);
        put_time(saver, "ts", counter->at_ns - saver->base_ns);
        fm_trace_text_put(&saver->text, ",\"args\":{", 9);
        fm_trace_text_string(&saver->text, fm_trace_data_text(trace, counter->series));
        fm_trace_text_format(&saver->text, ":%.17g}}",
                             counter->value - counter->value == 0 ? counter->value : 0.0);
        FM_TRY(flush(saver, PIECE_BYTES));
    }
    return FM_OK;
}

static fm_status save(struct saver *saver)
{
    const fm_trace *trace = saver->trace;
    for (size_t i = 0; i < trace->slice_count; i++) {
        if (i == 0 || trace->slices[i].begin_ns < saver->base_ns)
            saver->base_ns = trace->slices[i].begin_ns;
        if (trace->slices[i].correlation >= saver->stride)
            saver->stride = trace->slices[i].correlation + UINT64_C(1);
    }
    fm_trace_text_format(&saver->text,
                         "{\"schemaVersion\":1,\"displayTimeUnit\":\"ns\",\"baseTimeNanoseconds\":%lld",
                         (long long)saver->base_ns);
    // What a report needs to know of the device; several files are taken to have run on the same kind.
    if (trace->file_count && trace->files[0].multiprocessors) {
        fm_trace_text_put(&saver->text, ",\"deviceProperties\":[{\"name\":", 29);
        fm_trace_text_string(&saver->text, trace->files[0].device);
        fm_trace_text_format(&saver->text, ",\"numSms\":%d}]", trace->files[0].multiprocessors);
    }
    fm_trace_text_format(&saver->text, ",\"traceEvents\":[\n");
    put_processes(saver);
    FM_TRY(put_slices(saver));
    FM_TRY(put_rest(saver));
    fm_trace_text_format(&saver->text, "\n]}\n");
    return flush(saver, 0);
}

fm_status fm_trace_data_save(const fm_trace *trace, const char *path)
{
    struct saver saver = {.trace = trace};
    fm_status status = fm_base_file_begin(&saver.draft, path);
    if (status == FM_OK)
        status = save(&saver);
    if (status == FM_OK)
        status = fm_base_file_commit(&saver.draft);
    fm_base_file_discard(&saver.draft);
    fm_base_mem_free(saver.text.at);
    return status;
}
