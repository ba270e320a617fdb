#include "report_build.h"

#include <stdlib.h>
#include <string.h>

static int compare(const void *a, const void *b)
{
    const struct fm_trace_annotation *x = a, *y = b;
    if (x->track != y->track)
        return x->track < y->track ? -1 : 1;
    if (x->begin_ns != y->begin_ns)
        return x->begin_ns < y->begin_ns ? -1 : 1;
    if (x->end_ns != y->end_ns) // the outer one first
        return x->end_ns > y->end_ns ? -1 : 1;
    return x->slice < y->slice ? -1 : x->slice > y->slice;
}

/* 1 for categories of phases, by text; each distinct category is matched once. */
static int is_phase(struct fm_trace_builder *builder, const fm_trace_slice *slice, signed char *known)
{
    const fm_trace *trace = builder->report.trace;
    if (slice->kind != FM_TRACE_SPAN)
        return 0;
    if (known[slice->category] < 0)
        known[slice->category] = (signed char)fm_trace_rules_is_phase(
            builder->report.rules, fm_trace_data_text(trace, slice->category));
    return known[slice->category] &&
           !fm_trace_rules_is_step(builder->report.rules, fm_trace_data_text(trace, slice->name));
}

static fm_status collect(struct fm_trace_builder *builder)
{
    const fm_trace *trace = builder->report.trace;
    signed char *known;
    size_t count = 0;
    FM_TRY(fm_trace_take(&builder->scratch, trace->text_count + 1, 1, &known));
    memset(known, -1, trace->text_count);
    for (size_t i = 0; i < trace->slice_count; i++)
        count += (size_t)is_phase(builder, &trace->slices[i], known);
    FM_TRY(fm_trace_take(&builder->scratch, count + 1, sizeof *builder->annotations, &builder->annotations));
    for (size_t i = 0; i < trace->slice_count; i++) {
        const fm_trace_slice *slice = &trace->slices[i];
        if (is_phase(builder, slice, known))
            builder->annotations[builder->annotation_count++] =
                (struct fm_trace_annotation){slice->begin_ns, slice->begin_ns + slice->duration_ns,
                                             (uint32_t)i, slice->track, FM_TRACE_NONE};
    }
    return FM_OK;
}

static void find_parents(struct fm_trace_annotation *at, size_t count)
{
    uint32_t top = FM_TRACE_NONE;
    for (size_t i = 0; i < count; i++) {
        while (top != FM_TRACE_NONE && (at[top].track != at[i].track || at[top].end_ns <= at[i].begin_ns))
            top = at[top].parent;
        at[i].parent = top;
        top = (uint32_t)i;
    }
}

fm_status fm_trace_build_annotations(struct fm_trace_builder *builder)
{
    const fm_trace *trace = builder->report.trace;
    FM_TRY(collect(builder));
    struct fm_trace_annotation *at = builder->annotations;
    qsort(at, builder->annotation_count, sizeof *at, compare);
    find_parents(at, builder->annotation_count);
    FM_TRY(fm_trace_take(&builder->scratch, trace->track_count + 1, sizeof *builder->annotations_of_track,
                         &builder->annotations_of_track));
    FM_TRY(fm_trace_take(&builder->scratch, trace->process_count + 1, sizeof *builder->main_track,
                         &builder->main_track));
    for (size_t i = 0; i < trace->process_count; i++)
        builder->main_track[i] = FM_TRACE_NONE;
    for (size_t i = 0; i < builder->annotation_count;) {
        size_t begin = i;
        uint32_t track = at[i].track, *main = &builder->main_track[trace->tracks[track].process];
        while (i < builder->annotation_count && at[i].track == track)
            i++;
        builder->annotations_of_track[track] = (struct fm_trace_range){begin, i};
        const struct fm_trace_range *best =
            *main == FM_TRACE_NONE ? NULL : &builder->annotations_of_track[*main];
        if (!best || i - begin > best->end - best->begin)
            *main = track;
    }
    return FM_OK;
}

static uint32_t find_on_track(const struct fm_trace_builder *builder, uint32_t track, int64_t at_ns)
{
    struct fm_trace_range range = builder->annotations_of_track[track];
    const struct fm_trace_annotation *at = builder->annotations;
    size_t low = range.begin, high = range.end; // the last that begins at or before the time
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (at[middle].begin_ns <= at_ns)
            low = middle + 1;
        else
            high = middle;
    }
    uint32_t found = low > range.begin ? (uint32_t)(low - 1) : FM_TRACE_NONE;
    while (found != FM_TRACE_NONE && at[found].end_ns <= at_ns)
        found = at[found].parent;
    return found;
}

uint32_t fm_trace_find_annotation(const struct fm_trace_builder *builder, uint32_t track, int64_t at_ns)
{
    uint32_t found = find_on_track(builder, track, at_ns);
    uint32_t main = builder->main_track[builder->report.trace->tracks[track].process];
    if (found == FM_TRACE_NONE && main != FM_TRACE_NONE && main != track)
        found = find_on_track(builder, main, at_ns);
    return found;
}
