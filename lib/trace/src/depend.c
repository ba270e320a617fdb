#include "depend.h"

#include <stdlib.h>
#include <string.h>

// Kernels of one stream follow each other within this when nothing else holds them up.
#define FOLLOWS_NS 10000

struct end {
    int64_t end_ns;
    uint32_t work;
};

static int by_end(const void *a, const void *b)
{
    const struct end *x = a, *y = b;
    if (x->end_ns != y->end_ns)
        return x->end_ns < y->end_ns ? -1 : 1;
    return x->work < y->work ? -1 : x->work > y->work;
}

/* The work that ended last so far, and the last one on another stream than that. */
struct latest {
    uint32_t work, other;
};

static void note_end(const fm_trace_work *works, struct latest *latest, uint32_t work)
{
    if (latest->work != FM_TRACE_NONE && works[latest->work].stream != works[work].stream)
        latest->other = latest->work;
    latest->work = work;
}

static int64_t launch_end(const fm_trace_report *report, const fm_trace_work *work)
{
    const fm_trace_slice *call = &report->trace->slices[work->launch];
    return call->begin_ns + call->duration_ns;
}

/* Of all that ended before the work began, what ended last is what it waited for. */
static void find_cause(const fm_trace_report *report, uint32_t index, const struct latest *latest,
                       struct fm_trace_dependency *dependency)
{
    const fm_trace_work *works = report->works, *work = &works[index];
    uint32_t previous = dependency->previous, other = latest->work;
    if (other != FM_TRACE_NONE && works[other].stream == work->stream)
        other = latest->other;
    dependency->latest = latest->work;
    dependency->other = other;
    if (previous != FM_TRACE_NONE && work->begin_ns - works[previous].end_ns <= FOLLOWS_NS) {
        dependency->cause = FM_TRACE_CAUSE_STREAM;
        return;
    }
    int64_t since = INT64_MIN;
    if (previous != FM_TRACE_NONE) {
        since = works[previous].end_ns;
        dependency->cause = FM_TRACE_CAUSE_STREAM;
    }
    if (other != FM_TRACE_NONE && works[other].end_ns >= since) {
        since = works[other].end_ns;
        dependency->cause = FM_TRACE_CAUSE_OTHER;
    }
    if (work->launch != FM_TRACE_NONE && launch_end(report, work) > since &&
        launch_end(report, work) <= work->begin_ns)
        dependency->cause = FM_TRACE_CAUSE_LAUNCH;
}

/* The works of one unit: those from `begin` to `end`. */
static void find_in_unit(const fm_trace_report *report, size_t begin, size_t end, struct end *ends,
                         uint32_t *last_of_stream, struct fm_trace_dependency *dependencies)
{
    const fm_trace_work *works = report->works;
    for (size_t i = begin; i < end; i++)
        ends[i - begin] = (struct end){works[i].end_ns, (uint32_t)i};
    qsort(ends, end - begin, sizeof *ends, by_end);
    struct latest latest = {FM_TRACE_NONE, FM_TRACE_NONE};
    size_t ended = 0;
    for (size_t i = begin; i < end; i++) {
        // Work without duration ends when it begins: it must not be its own cause, nor that of what came before.
        while (ended < end - begin && ends[ended].end_ns <= works[i].begin_ns && ends[ended].work < i)
            note_end(works, &latest, ends[ended++].work);
        dependencies[i].previous = last_of_stream[works[i].stream];
        find_cause(report, (uint32_t)i, &latest, &dependencies[i]);
        last_of_stream[works[i].stream] = (uint32_t)i;
    }
}

fm_status fm_trace_dependencies(const fm_trace_report *report, fm_arena *arena,
                                struct fm_trace_dependency **out_dependencies)
{
    size_t bytes = 0;
    FM_TRY(fm_mul_size(report->work_count + 1, sizeof(struct fm_trace_dependency), &bytes));
    struct fm_trace_dependency *dependencies = fm_base_arena_alloc(arena, bytes);
    struct end *ends = fm_base_mem_zalloc(report->work_count + 1, sizeof *ends);
    uint32_t *last = fm_base_mem_zalloc(report->stream_count + 1, sizeof *last);
    if (dependencies && ends && last) {
        memset(dependencies, 0, bytes);
        memset(last, 0xFF, (report->stream_count + 1) * sizeof *last);
        for (size_t i = 0; i < report->work_count;) {
            size_t begin = i;
            while (i < report->work_count && report->works[i].unit == report->works[begin].unit)
                i++;
            find_in_unit(report, begin, i, ends, last, dependencies);
        }
    }
    fm_base_mem_free(ends);
    fm_base_mem_free(last);
    if (!dependencies || !ends || !last)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the dependencies of a trace");
    *out_dependencies = dependencies;
    return FM_OK;
}
