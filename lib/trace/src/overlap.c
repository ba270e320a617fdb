/* Overlap of computation and communication, by name and by stream; streams, groups, kernels. */
#include <stdlib.h>
#include <string.h>

#include "report_build.h"
#include "store.h"

struct sets {
    struct fm_trace_set all, compute, communication;
};

static fm_status take_sets(struct fm_trace_builder *builder, size_t count, struct sets *sets)
{
    memset(sets, 0, sizeof *sets);
    FM_TRY(fm_trace_take(&builder->scratch, count, sizeof *sets->all.at, &sets->all.at));
    FM_TRY(fm_trace_take(&builder->scratch, count, sizeof *sets->all.at, &sets->compute.at));
    return fm_trace_take(&builder->scratch, count, sizeof *sets->all.at, &sets->communication.at);
}

static void clear_sets(struct sets *sets)
{
    sets->all.count = sets->compute.count = sets->communication.count = 0;
}

static void add(struct sets *sets, const fm_trace_work *work, int is_communication)
{
    fm_trace_set_add(&sets->all, work->begin_ns, work->end_ns);
    fm_trace_set_add(is_communication ? &sets->communication : &sets->compute, work->begin_ns, work->end_ns);
}

static fm_trace_overlap measure(const struct sets *sets, int64_t span)
{
    fm_trace_overlap overlap = {
        .span_ns = span,
        .busy_ns = fm_trace_set_measure(&sets->all),
        .compute_ns = fm_trace_set_measure(&sets->compute),
        .communication_ns = fm_trace_set_measure(&sets->communication),
        .overlap_ns = fm_trace_set_common(&sets->communication, &sets->compute),
    };
    overlap.exposed_ns = overlap.communication_ns - overlap.overlap_ns;
    overlap.idle_ns = overlap.span_ns - overlap.busy_ns;
    return overlap;
}

static void accumulate(fm_trace_overlap *sum, const fm_trace_overlap *part)
{
    sum->span_ns += part->span_ns;
    sum->busy_ns += part->busy_ns;
    sum->compute_ns += part->compute_ns;
    sum->communication_ns += part->communication_ns;
    sum->overlap_ns += part->overlap_ns;
    sum->exposed_ns += part->exposed_ns;
    sum->idle_ns += part->idle_ns;
}

static uint32_t stream_of(const fm_trace_work *work)
{
    return work->stream;
}

static fm_status measure_streams(struct fm_trace_builder *builder)
{
    uint32_t *order;
    struct fm_trace_range *ranges;
    FM_TRY(fm_trace_order_works(builder, stream_of, builder->report.stream_count, &order, &ranges));
    for (size_t s = 0; s < builder->report.stream_count; s++) {
        fm_trace_stream *stream = &builder->streams[s];
        int64_t end = INT64_MIN;
        for (size_t i = ranges[s].begin; i < ranges[s].end; i++) {
            const fm_trace_work *work = &builder->works[order[i]];
            int64_t duration = work->end_ns - work->begin_ns;
            int64_t fresh = work->end_ns - (work->begin_ns > end ? work->begin_ns : end);
            stream->unit = work->unit;
            stream->first_ns = stream->count++ ? stream->first_ns : work->begin_ns;
            stream->sum_ns += duration;
            stream->busy_ns += fresh > 0 ? fresh : 0;
            stream->communication_ns += fm_trace_is_communication(work) ? duration : 0;
            end = work->end_ns > end ? work->end_ns : end;
        }
        stream->last_ns = end;
        stream->is_communication = stream->communication_ns > stream->sum_ns / 2 ||
                                   fm_trace_rules_has_stream(builder->report.rules, stream->stream);
    }
    return FM_OK;
}

static fm_status keep_set(struct fm_trace_builder *builder, const struct fm_trace_set *from,
                          struct fm_trace_set *to)
{
    FM_TRY(fm_trace_take(&builder->scratch, from->count + 1, sizeof *from->at, &to->at));
    memcpy(to->at, from->at, from->count * sizeof *from->at);
    to->count = from->count;
    return FM_OK;
}

static fm_status measure_unit(struct fm_trace_builder *builder, size_t index, struct sets *sets)
{
    fm_trace_unit *unit = &builder->units[index];
    struct fm_trace_range range = builder->works_of_unit[index];
    int64_t span = unit->last_ns - unit->first_ns;
    clear_sets(sets);
    for (size_t i = range.begin; i < range.end; i++)
        add(sets, &builder->works[i], builder->streams[builder->works[i].stream].is_communication);
    unit->by_stream = measure(sets, span);
    clear_sets(sets);
    for (size_t i = range.begin; i < range.end; i++)
        if (builder->works[i].kind != FM_TRACE_WAIT)
            add(sets, &builder->works[i], fm_trace_is_communication(&builder->works[i]));
    fm_trace_overlap transfer = measure(sets, span);
    clear_sets(sets);
    for (size_t i = range.begin; i < range.end; i++)
        add(sets, &builder->works[i], fm_trace_is_communication(&builder->works[i]));
    unit->by_name = measure(sets, span);
    accumulate(&builder->report.by_name, &unit->by_name);
    accumulate(&builder->report.by_stream, &unit->by_stream);
    accumulate(&builder->report.transfer_only, &transfer);
    return keep_set(builder, &sets->compute, &builder->compute[index]);
}

fm_status fm_trace_build_overlap(struct fm_trace_builder *builder)
{
    size_t most = 0;
    struct sets sets;
    for (size_t i = 0; i < builder->report.unit_count; i++) {
        struct fm_trace_range range = builder->works_of_unit[i];
        most = range.end - range.begin > most ? range.end - range.begin : most;
    }
    FM_TRY(measure_streams(builder));
    FM_TRY(fm_trace_take(&builder->scratch, builder->report.unit_count + 1, sizeof *builder->compute,
                         &builder->compute));
    FM_TRY(take_sets(builder, most + 1, &sets));
    for (size_t i = 0; i < builder->report.unit_count; i++)
        FM_TRY(measure_unit(builder, i, &sets));
    return FM_OK;
}

static uint32_t group_of(const fm_trace_work *work)
{
    return work->group;
}

fm_status fm_trace_build_groups(struct fm_trace_builder *builder)
{
    fm_trace_report *report = &builder->report;
    const struct fm_trace_rule_group *rules = fm_trace_rules_groups(report->rules, &report->group_count);
    uint32_t *order;
    struct fm_trace_range *ranges;
    struct fm_trace_set set = {0};
    FM_TRY(fm_trace_take(&builder->arena, report->group_count, sizeof *builder->groups, &builder->groups));
    report->groups = builder->groups;
    FM_TRY(fm_trace_order_works(builder, group_of, report->group_count, &order, &ranges));
    FM_TRY(fm_trace_take(&builder->scratch, report->work_count + 1, sizeof *set.at, &set.at));
    for (size_t g = 0; g < report->group_count; g++) {
        fm_trace_group *group = &builder->groups[g];
        group->name = rules[g].name;
        group->kind = rules[g].kind;
        // The works of a group come by unit: one set a unit.
        for (size_t i = ranges[g].begin; i < ranges[g].end;) {
            uint32_t unit = builder->works[order[i]].unit;
            set.count = 0;
            for (; i < ranges[g].end && builder->works[order[i]].unit == unit; i++) {
                const fm_trace_work *work = &builder->works[order[i]];
                fm_trace_set_add(&set, work->begin_ns, work->end_ns);
                group->count++;
                group->sum_ns += work->end_ns - work->begin_ns;
            }
            int64_t measured = fm_trace_set_measure(&set);
            group->union_ns += measured;
            if (group->kind == FM_TRACE_COMPUTE)
                continue;
            int64_t common = fm_trace_set_common(&set, &builder->compute[unit]);
            group->overlap_ns += common;
            group->exposed_ns += measured - common;
        }
    }
    return FM_OK;
}

/* Equal sums by name, so that the order of events in the file does not matter. */
static int longest_first(const void *a, const void *b, void *builder)
{
    const fm_trace *trace = ((const struct fm_trace_builder *)builder)->report.trace;
    const fm_trace_kernel *x = a, *y = b;
    if (x->sum_ns != y->sum_ns)
        return x->sum_ns > y->sum_ns ? -1 : 1;
    int order = strcmp(fm_trace_data_text(trace, x->name), fm_trace_data_text(trace, y->name));
    return order ? order : (int)x->group - (int)y->group;
}

static fm_status sum_kernels(struct fm_trace_builder *builder, struct fm_trace_map *map,
                             fm_trace_kernel *kernels)
{
    fm_trace_report *report = &builder->report;
    for (size_t i = 0; i < report->work_count; i++) {
        const fm_trace_work *work = &builder->works[i];
        uint32_t name = report->trace->slices[work->slice].name, *found;
        int64_t duration = work->end_ns - work->begin_ns;
        int known;
        FM_TRY(fm_trace_map_put(map, name, work->group, (uint32_t)report->kernel_count, &found, &known));
        fm_trace_kernel *kernel = &kernels[*found];
        if (!known) {
            *kernel = (fm_trace_kernel){.name = name, .group = work->group, .min_ns = duration};
            report->kernel_count++;
        }
        kernel->count++;
        kernel->sum_ns += duration;
        kernel->min_ns = duration < kernel->min_ns ? duration : kernel->min_ns;
        kernel->max_ns = duration > kernel->max_ns ? duration : kernel->max_ns;
    }
    return FM_OK;
}

fm_status fm_trace_build_kernels(struct fm_trace_builder *builder)
{
    struct fm_trace_map map = {0};
    fm_trace_kernel *all, *kernels;
    FM_TRY(fm_trace_take(&builder->scratch, builder->report.work_count + 1, sizeof *all, &all));
    fm_status status = sum_kernels(builder, &map, all);
    fm_trace_map_clear(&map);
    FM_TRY(status);
    size_t count = builder->report.kernel_count;
    qsort_r(all, count, sizeof *all, longest_first, builder);
    FM_TRY(fm_trace_take(&builder->arena, count + 1, sizeof *kernels, &kernels));
    memcpy(kernels, all, count * sizeof *all);
    builder->report.kernels = kernels;
    return FM_OK;
}
