/* A report while it is made. Each step fills its part from the parts before it. */
#ifndef FM_TRACE_REPORT_BUILD_H
#define FM_TRACE_REPORT_BUILD_H

#include "fathom/mem.h"
#include "fathom/trace_report.h"
#include "intervals.h"
#include "rules.h"

/* An annotation that is a phase. */
struct fm_trace_annotation {
    int64_t begin_ns, end_ns;
    uint32_t slice, track;
    uint32_t parent; /* the annotation around it on its track, or FM_TRACE_NONE */
};

struct fm_trace_range {
    size_t begin, end;
};

struct fm_trace_builder {
    fm_trace_report report; /* what the user sees; first, so that the one is the other */
    fm_arena arena;         /* what the report keeps */
    fm_arena scratch;       /* what only making it needs */
    fm_trace_unit *units;
    fm_trace_work *works;
    struct fm_trace_range *works_of_unit;
    fm_trace_stream *streams;
    fm_trace_group *groups;
    fm_trace_phase *phases;
    fm_trace_phase *phase_totals;
    struct fm_trace_annotation *annotations; /* by track, then by begin, outer ones first */
    size_t annotation_count;
    struct fm_trace_range *annotations_of_track;
    uint32_t *main_track;         /* by process: the track with the most annotations, or FM_TRACE_NONE */
    struct fm_trace_set *compute; /* by unit: the union of compute */
};

/* Zeroed; FM_ERR_NOMEM. */
FM_MUST_USE fm_status fm_trace_take(fm_arena *arena, size_t count, size_t size, void *out_pointer);
/* A permutation of the works that sorts them by a key below `keys`, stable; ranges[key] is where each begins and ends.
 * Works whose key is FM_TRACE_NONE are left out. */
FM_MUST_USE fm_status fm_trace_order_works(struct fm_trace_builder *builder,
                                           uint32_t (*key_of)(const fm_trace_work *), size_t keys,
                                           uint32_t **out_order, struct fm_trace_range **out_ranges);

FM_MUST_USE fm_status fm_trace_build_annotations(struct fm_trace_builder *builder);
/* The innermost annotation at this time for a call on this track. */
uint32_t fm_trace_find_annotation(const struct fm_trace_builder *builder, uint32_t track, int64_t at_ns);
FM_MUST_USE fm_status fm_trace_build_works(struct fm_trace_builder *builder);
FM_MUST_USE fm_status fm_trace_build_overlap(struct fm_trace_builder *builder);
FM_MUST_USE fm_status fm_trace_build_groups(struct fm_trace_builder *builder);
FM_MUST_USE fm_status fm_trace_build_kernels(struct fm_trace_builder *builder);
FM_MUST_USE fm_status fm_trace_build_phases(struct fm_trace_builder *builder);
FM_MUST_USE fm_status fm_trace_build_gaps(struct fm_trace_builder *builder);
FM_MUST_USE fm_status fm_trace_build_device(struct fm_trace_builder *builder);
FM_MUST_USE fm_status fm_trace_build_skew(struct fm_trace_builder *builder);
FM_MUST_USE fm_status fm_trace_build_path(struct fm_trace_builder *builder);
FM_MUST_USE fm_status fm_trace_build_findings(struct fm_trace_builder *builder);

static inline int fm_trace_is_communication(const fm_trace_work *work)
{
    return work->kind != FM_TRACE_COMPUTE;
}

#endif
