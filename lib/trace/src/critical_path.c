/* From the last work of each unit back to its first, over what each waited for. */
#include "depend.h"
#include "report_build.h"

static void walk_unit(struct fm_trace_builder *builder, size_t unit,
                      const struct fm_trace_dependency *dependencies)
{
    fm_trace_path *path = &builder->report.path;
    struct fm_trace_range range = builder->works_of_unit[unit];
    uint32_t at = FM_TRACE_NONE;
    for (size_t i = range.begin; i < range.end; i++)
        if (at == FM_TRACE_NONE || builder->works[i].end_ns > builder->works[at].end_ns)
            at = (uint32_t)i;
    // Every cause comes before its effect in the order of works, so the walk ends.
    while (at != FM_TRACE_NONE) {
        const fm_trace_work *work = &builder->works[at];
        const struct fm_trace_dependency *dependency = &dependencies[at];
        int64_t duration = work->end_ns - work->begin_ns;
        uint32_t next = dependency->cause == FM_TRACE_CAUSE_STREAM  ? dependency->previous
                        : dependency->cause == FM_TRACE_CAUSE_OTHER ? dependency->other
                                                                    : dependency->latest;
        path->steps++;
        path->work_ns += duration;
        path->kind_ns[work->kind] += duration;
        path->group_ns[work->group] += duration;
        if (next != FM_TRACE_NONE) {
            int64_t gap = work->begin_ns - builder->works[next].end_ns;
            *(dependency->cause == FM_TRACE_CAUSE_LAUNCH ? &path->launch_ns : &path->gap_ns) += gap;
        } else {
            path->gap_ns += work->begin_ns - builder->units[unit].first_ns;
        }
        at = next;
    }
    path->length_ns += builder->units[unit].last_ns - builder->units[unit].first_ns;
}

fm_status fm_trace_build_path(struct fm_trace_builder *builder)
{
    struct fm_trace_dependency *dependencies;
    FM_TRY(fm_trace_dependencies(&builder->report, &builder->scratch, &dependencies));
    for (size_t unit = 0; unit < builder->report.unit_count; unit++)
        walk_unit(builder, unit, dependencies);
    return FM_OK;
}
