/* Where nothing runs, and where no compute runs, between a unit's first work and its last. */
#include <string.h>

#include "report_build.h"

enum { LONGEST = sizeof((fm_trace_gaps *)0)->longest / sizeof(fm_trace_gap) };

// Below this a gap between two kernels is what starting a kernel costs; above it, something was waited for.
#define SHORT_NS 10000

static void keep_longest(fm_trace_gap *longest, fm_trace_gap gap)
{
    int at = LONGEST;
    while (at > 0 && gap.duration_ns > longest[at - 1].duration_ns)
        at--;
    if (at == LONGEST)
        return;
    memmove(&longest[at + 1], &longest[at], (size_t)(LONGEST - 1 - at) * sizeof gap);
    longest[at] = gap;
}

static void add_gap(fm_trace_gaps *gaps, fm_trace_gap gap)
{
    gaps->count++;
    gaps->sum_ns += gap.duration_ns;
    if (gap.duration_ns < SHORT_NS) {
        gaps->short_count++;
        gaps->short_ns += gap.duration_ns;
    }
    keep_longest(gaps->longest, gap);
}

/* The gaps of a unit; with `compute_only` those of its streams that are not communication. */
static void find_gaps(struct fm_trace_builder *builder, size_t unit, int compute_only, fm_trace_gaps *gaps)
{
    struct fm_trace_range range = builder->works_of_unit[unit];
    int64_t end = INT64_MIN;
    uint32_t last = FM_TRACE_NONE;
    for (size_t i = range.begin; i < range.end; i++) {
        const fm_trace_work *work = &builder->works[i];
        // A piece of work without duration neither ends a gap nor begins one.
        if (work->end_ns == work->begin_ns ||
            (compute_only && builder->streams[work->stream].is_communication))
            continue;
        if (last != FM_TRACE_NONE && work->begin_ns > end)
            add_gap(gaps, (fm_trace_gap){(uint32_t)unit, end, work->begin_ns - end, last, work->slice});
        if (last == FM_TRACE_NONE || work->end_ns > end) {
            end = work->end_ns;
            last = work->slice;
        }
    }
}

fm_status fm_trace_build_gaps(struct fm_trace_builder *builder)
{
    for (size_t unit = 0; unit < builder->report.unit_count; unit++) {
        find_gaps(builder, unit, 0, &builder->report.idle);
        find_gaps(builder, unit, 1, &builder->report.compute_gaps);
    }
    return FM_OK;
}
