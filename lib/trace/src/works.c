/* Work: what devices did, or, in processes without one, what threads spent in spans. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mangled.h"
#include "report_build.h"
#include "store.h"

struct worker {
    struct fm_trace_builder *builder;
    size_t capacity;
    struct fm_trace_map group_of;  /* (name, category) */
    struct fm_trace_map stream_of; /* (track, device stream) */
    struct fm_trace_map launch_of; /* (correlation, file) */
    uint32_t *unit_of_process;     /* FM_TRACE_NONE */
    unsigned char *file_has_gpu;
};

static uint32_t file_of(const fm_trace *trace, const fm_trace_slice *slice)
{
    return trace->processes[trace->tracks[slice->track].process].file;
}

static fm_status group_of(struct worker *worker, const fm_trace_slice *slice, fm_trace_work *work)
{
    const fm_trace *trace = worker->builder->report.trace;
    const fm_trace_rules *rules = worker->builder->report.rules;
    size_t count;
    uint32_t *group;
    int known;
    FM_TRY(fm_trace_map_put(&worker->group_of, slice->name, slice->category, 0, &group, &known));
    if (!known) {
        char readable[2048]; // rules look for the beginning of names that are longer
        const char *name = fm_trace_data_text(trace, slice->name);
        if (fm_trace_unmangle(name, readable, sizeof readable))
            name = readable;
        *group = fm_trace_rules_group_of(rules, name, fm_trace_data_text(trace, slice->category));
    }
    work->group = (uint16_t)*group;
    work->kind = (uint16_t)fm_trace_rules_groups(rules, &count)[*group].kind;
    return FM_OK;
}

static void name_unit(const fm_trace *trace, fm_trace_unit *unit, int64_t device)
{
    const fm_trace_process *process = &trace->processes[unit->process];
    const fm_trace_file *file = &trace->files[process->file];
    const char *name = fm_trace_data_text(trace, process->name);
    char rank[32] = "";
    int number;
    if (file->rank >= 0 && trace->file_count > 1)
        snprintf(rank, sizeof rank, "rank %lld ", (long long)file->rank);
    else if (trace->file_count > 1)
        snprintf(rank, sizeof rank, "file %u ", process->file);
    else if (unit->is_device &&
             sscanf(name, "rank %d ", &number) == 1) // merged files keep their ranks in names
        snprintf(rank, sizeof rank, "rank %d ", number);
    if (unit->is_device)
        snprintf(unit->label, sizeof unit->label, "%sGPU %lld", rank, (long long)device);
    else if (name[0])
        snprintf(unit->label, sizeof unit->label, "%s%.60s", rank, name);
    else if (process->pid_is_text)
        snprintf(unit->label, sizeof unit->label, "%s%.60s", rank,
                 fm_trace_data_text(trace, (uint32_t)process->pid));
    else
        snprintf(unit->label, sizeof unit->label, "%sprocess %lld", rank, (long long)process->pid);
}

static void find_unit(struct worker *worker, uint32_t process, int64_t device, uint32_t *out)
{
    struct fm_trace_builder *builder = worker->builder;
    const fm_trace *trace = builder->report.trace;
    if (worker->unit_of_process[process] == FM_TRACE_NONE) {
        fm_trace_unit *unit = &builder->units[builder->report.unit_count];
        *unit =
            (fm_trace_unit){.process = process,
                            .is_device = worker->file_has_gpu[trace->processes[process].file],
                            .multiprocessors = trace->files[trace->processes[process].file].multiprocessors};
        name_unit(trace, unit, device);
        worker->unit_of_process[process] = (uint32_t)builder->report.unit_count++;
    }
    *out = worker->unit_of_process[process];
}

static fm_status find_stream(struct worker *worker, uint32_t unit, uint32_t track, int64_t id, uint32_t *out)
{
    struct fm_trace_builder *builder = worker->builder;
    uint32_t *found;
    int known;
    FM_TRY(fm_trace_map_put(&worker->stream_of, track, (uint64_t)id, (uint32_t)builder->report.stream_count,
                            &found, &known));
    if (!known)
        builder->streams[builder->report.stream_count++] =
            (fm_trace_stream){.unit = unit, .stream = id, .track = track};
    *out = *found;
    return FM_OK;
}

static fm_status add_work(struct worker *worker, uint32_t slice_index, int64_t begin, int64_t end,
                          int64_t stream, int64_t device)
{
    struct fm_trace_builder *builder = worker->builder;
    const fm_trace_slice *slice = &builder->report.trace->slices[slice_index];
    fm_trace_work *work = &builder->works[builder->report.work_count];
    *work = (fm_trace_work){.begin_ns = begin,
                            .end_ns = end,
                            .slice = slice_index,
                            .launch = FM_TRACE_NONE,
                            .phase = FM_TRACE_NONE};
    find_unit(worker, builder->report.trace->tracks[slice->track].process, device, &work->unit);
    FM_TRY(find_stream(worker, work->unit, slice->track, stream, &work->stream));
    FM_TRY(group_of(worker, slice, work));
    builder->report.work_count++;
    return FM_OK;
}

/* The call that launched each piece of work: the span with its correlation. */
static fm_status find_launches(struct worker *worker)
{
    struct fm_trace_builder *builder = worker->builder;
    const fm_trace *trace = builder->report.trace;
    uint32_t *found;
    int known;
    for (size_t i = 0; i < builder->report.work_count; i++) {
        const fm_trace_slice *slice = &trace->slices[builder->works[i].slice];
        if (slice->correlation)
            FM_TRY(fm_trace_map_put(&worker->launch_of, slice->correlation, file_of(trace, slice),
                                    FM_TRACE_NONE, &found, &known));
    }
    for (size_t i = 0; i < trace->slice_count; i++) {
        const fm_trace_slice *slice = &trace->slices[i];
        if (!slice->correlation || slice->kind != FM_TRACE_SPAN)
            continue;
        FM_TRY(fm_trace_map_put(&worker->launch_of, slice->correlation, file_of(trace, slice), (uint32_t)i,
                                &found, &known));
        if (*found == FM_TRACE_NONE)
            *found = (uint32_t)i;
    }
    for (size_t i = 0; i < builder->report.work_count; i++) {
        const fm_trace_slice *slice = &trace->slices[builder->works[i].slice];
        if (!slice->correlation)
            continue;
        FM_TRY(fm_trace_map_put(&worker->launch_of, slice->correlation, file_of(trace, slice), FM_TRACE_NONE,
                                &found, &known));
        builder->works[i].launch = *found;
    }
    return FM_OK;
}

static fm_status add_device_works(struct worker *worker)
{
    const fm_trace *trace = worker->builder->report.trace;
    for (size_t i = 0; i < trace->gpu_count; i++) {
        const fm_trace_gpu *gpu = &trace->gpus[i];
        const fm_trace_slice *slice = &trace->slices[gpu->slice];
        FM_TRY(add_work(worker, gpu->slice, slice->begin_ns, slice->begin_ns + slice->duration_ns,
                        gpu->stream, gpu->device));
    }
    return find_launches(worker);
}

struct host_span {
    int64_t begin, end;
    uint32_t slice, track;
};

static int compare_host(const void *a, const void *b)
{
    const struct host_span *x = a, *y = b;
    if (x->track != y->track)
        return x->track < y->track ? -1 : 1;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end)
        return x->end > y->end ? -1 : 1;
    return x->slice < y->slice ? -1 : x->slice > y->slice;
}

/* The spans of processes that use no device; steps and the profiler's own are not work. */
static fm_status collect_host(struct worker *worker, struct host_span **out_spans, size_t *out_count)
{
    struct fm_trace_builder *builder = worker->builder;
    const fm_trace *trace = builder->report.trace;
    size_t count = 0;
    for (size_t i = 0; i < trace->slice_count; i++)
        count += trace->slices[i].kind == FM_TRACE_SPAN &&
                 !worker->file_has_gpu[file_of(trace, &trace->slices[i])];
    struct host_span *spans;
    FM_TRY(fm_trace_take(&builder->scratch, count + 1, sizeof *spans, &spans));
    *out_spans = spans;
    *out_count = 0;
    if (!count)
        return FM_OK;
    for (size_t i = 0; i < trace->slice_count; i++) {
        const fm_trace_slice *slice = &trace->slices[i];
        const char *category = fm_trace_data_text(trace, slice->category);
        if (slice->kind != FM_TRACE_SPAN || worker->file_has_gpu[file_of(trace, slice)] ||
            strcmp(category, "Trace") == 0 || strcmp(category, "overhead") == 0 ||
            fm_trace_rules_is_step(builder->report.rules, fm_trace_data_text(trace, slice->name)))
            continue;
        spans[(*out_count)++] = (struct host_span){slice->begin_ns, slice->begin_ns + slice->duration_ns,
                                                   (uint32_t)i, slice->track};
    }
    qsort(spans, *out_count, sizeof *spans, compare_host);
    return FM_OK;
}

static fm_status add_segment(struct worker *worker, const struct host_span *span, int64_t begin, int64_t end)
{
    const fm_trace_track *track = &worker->builder->report.trace->tracks[span->track];
    if (end <= begin)
        return FM_OK;
    return add_work(worker, span->slice, begin, end, track->tid, -1);
}

/* What is left of each span of one track when the spans inside it are taken out. An inner span that outlasts its outer one
 * (clocks that were adjusted, hand-written traces) is cut there. */
static fm_status flatten_track(struct worker *worker, struct host_span *spans, size_t count, uint32_t *stack)
{
    size_t depth = 0;
    int64_t at = INT64_MIN;
    for (size_t i = 0; i <= count; i++) {
        int64_t now = i < count ? spans[i].begin : INT64_MAX;
        while (depth > 0 && spans[stack[depth - 1]].end <= now) {
            FM_TRY(add_segment(worker, &spans[stack[depth - 1]], at, spans[stack[depth - 1]].end));
            at = spans[stack[--depth]].end;
        }
        if (i == count)
            break;
        if (depth > 0) {
            FM_TRY(add_segment(worker, &spans[stack[depth - 1]], at, now));
            if (spans[i].end > spans[stack[depth - 1]].end)
                spans[i].end = spans[stack[depth - 1]].end;
        }
        at = now;
        stack[depth++] = (uint32_t)i;
    }
    return FM_OK;
}

static fm_status add_host_works(struct worker *worker, struct host_span *spans, size_t count)
{
    uint32_t *stack;
    FM_TRY(fm_trace_take(&worker->builder->scratch, count + 1, sizeof *stack, &stack));
    for (size_t i = 0; i < count;) {
        size_t begin = i;
        while (i < count && spans[i].track == spans[begin].track)
            i++;
        FM_TRY(flatten_track(worker, spans + begin, i - begin, stack));
    }
    return FM_OK;
}

struct numbered_stream {
    fm_trace_stream stream;
    uint32_t number;
};

static int compare_streams(const void *a, const void *b)
{
    const struct numbered_stream *x = a, *y = b;
    if (x->stream.unit != y->stream.unit)
        return x->stream.unit < y->stream.unit ? -1 : 1;
    if (x->stream.stream != y->stream.stream)
        return x->stream.stream < y->stream.stream ? -1 : 1;
    return x->number < y->number ? -1 : x->number > y->number;
}

/* Orders the streams by unit and ID, whatever the order of events in the file, and renumbers them in the works. */
static fm_status sort_streams(struct fm_trace_builder *builder)
{
    size_t count = builder->report.stream_count;
    struct numbered_stream *streams;
    uint32_t *new_number;
    FM_TRY(fm_trace_take(&builder->scratch, count + 1, sizeof *streams, &streams));
    FM_TRY(fm_trace_take(&builder->scratch, count + 1, sizeof *new_number, &new_number));
    for (size_t i = 0; i < count; i++)
        streams[i] = (struct numbered_stream){builder->streams[i], (uint32_t)i};
    qsort(streams, count, sizeof *streams, compare_streams);
    for (size_t i = 0; i < count; i++) {
        builder->streams[i] = streams[i].stream;
        new_number[streams[i].number] = (uint32_t)i;
    }
    for (size_t i = 0; i < builder->report.work_count; i++)
        builder->works[i].stream = new_number[builder->works[i].stream];
    return FM_OK;
}

static int compare_works(const void *a, const void *b)
{
    const fm_trace_work *x = a, *y = b;
    if (x->unit != y->unit)
        return x->unit < y->unit ? -1 : 1;
    if (x->begin_ns != y->begin_ns)
        return x->begin_ns < y->begin_ns ? -1 : 1;
    if (x->end_ns != y->end_ns)
        return x->end_ns < y->end_ns ? -1 : 1;
    return x->slice < y->slice ? -1 : x->slice > y->slice;
}

/* The annotation of each piece of work; phases are numbered where they are first used, in the order of annotations. */
static fm_status find_phases(struct fm_trace_builder *builder)
{
    const fm_trace *trace = builder->report.trace;
    uint32_t *phase_of;
    FM_TRY(fm_trace_take(&builder->scratch, builder->annotation_count + 1, sizeof *phase_of, &phase_of));
    for (size_t i = 0; i < builder->report.work_count; i++) {
        fm_trace_work *work = &builder->works[i];
        const fm_trace_slice *launch =
            &trace->slices[work->launch == FM_TRACE_NONE ? work->slice : work->launch];
        int64_t at = work->launch == FM_TRACE_NONE ? work->begin_ns : launch->begin_ns;
        work->phase = fm_trace_find_annotation(builder, launch->track, at);
        if (work->phase != FM_TRACE_NONE)
            phase_of[work->phase] = 1;
    }
    uint32_t count = 0;
    for (size_t i = 0; i < builder->annotation_count; i++)
        phase_of[i] = phase_of[i] ? count++ : FM_TRACE_NONE;
    FM_TRY(fm_trace_take(&builder->arena, count + 1, sizeof *builder->phases, &builder->phases));
    for (size_t i = 0; i < builder->annotation_count; i++) {
        const struct fm_trace_annotation *annotation = &builder->annotations[i];
        if (phase_of[i] != FM_TRACE_NONE)
            builder->phases[phase_of[i]] =
                (fm_trace_phase){.name = trace->slices[annotation->slice].name,
                                 .occurrences = 1,
                                 .begin_ns = annotation->begin_ns,
                                 .host_ns = annotation->end_ns - annotation->begin_ns};
    }
    for (size_t i = 0; i < builder->report.work_count; i++)
        if (builder->works[i].phase != FM_TRACE_NONE)
            builder->works[i].phase = phase_of[builder->works[i].phase];
    builder->report.phase_count = count;
    return FM_OK;
}

static fm_status prepare(struct worker *worker)
{
    struct fm_trace_builder *builder = worker->builder;
    const fm_trace *trace = builder->report.trace;
    FM_TRY(fm_trace_take(&builder->scratch, trace->file_count + 1, 1, &worker->file_has_gpu));
    FM_TRY(fm_trace_take(&builder->scratch, trace->process_count + 1, sizeof *worker->unit_of_process,
                         &worker->unit_of_process));
    for (size_t i = 0; i < trace->process_count; i++)
        worker->unit_of_process[i] = FM_TRACE_NONE;
    for (size_t i = 0; i < trace->gpu_count; i++)
        worker->file_has_gpu[file_of(trace, &trace->slices[trace->gpus[i].slice])] = 1;
    FM_TRY(fm_trace_take(&builder->arena, trace->process_count + 1, sizeof *builder->units, &builder->units));
    return FM_OK;
}

static fm_status make_works(struct worker *worker)
{
    struct fm_trace_builder *builder = worker->builder;
    const fm_trace *trace = builder->report.trace;
    struct host_span *spans;
    size_t span_count;
    FM_TRY(prepare(worker));
    FM_TRY(collect_host(worker, &spans, &span_count));
    // A host span leaves at most one segment before each span inside it and one behind the last: two a span.
    size_t capacity = trace->gpu_count + 2 * span_count;
    FM_TRY(fm_trace_take(&builder->arena, capacity + 1, sizeof *builder->works, &builder->works));
    // Each track is a stream, or as many as its work names.
    FM_TRY(fm_trace_take(&builder->arena, trace->gpu_count + trace->track_count + 1, sizeof *builder->streams,
                         &builder->streams));
    FM_TRY(add_device_works(worker));
    FM_TRY(add_host_works(worker, spans, span_count));
    FM_TRY(sort_streams(builder));
    qsort(builder->works, builder->report.work_count, sizeof *builder->works, compare_works);
    return find_phases(builder);
}

static fm_status publish(struct fm_trace_builder *builder)
{
    fm_trace_report *report = &builder->report;
    FM_TRY(fm_trace_take(&builder->scratch, report->unit_count + 1, sizeof *builder->works_of_unit,
                         &builder->works_of_unit));
    for (size_t i = 0; i < report->work_count;) {
        size_t begin = i;
        uint32_t unit = builder->works[i].unit;
        for (; i < report->work_count && builder->works[i].unit == unit; i++)
            if (i == begin || builder->works[i].end_ns > builder->units[unit].last_ns)
                builder->units[unit].last_ns = builder->works[i].end_ns;
        builder->units[unit].first_ns = builder->works[begin].begin_ns;
        builder->works_of_unit[unit] = (struct fm_trace_range){begin, i};
    }
    report->works = builder->works;
    report->units = builder->units;
    report->streams = builder->streams;
    report->phases = builder->phases;
    return FM_OK;
}

fm_status fm_trace_build_works(struct fm_trace_builder *builder)
{
    struct worker worker = {.builder = builder};
    fm_status status = make_works(&worker);
    fm_trace_map_clear(&worker.group_of);
    fm_trace_map_clear(&worker.stream_of);
    fm_trace_map_clear(&worker.launch_of);
    FM_TRY(status);
    return publish(builder);
}
