/* What the device was used for beside time: SMs held, calls that launched, sends and receives that hold nothing. */
#include <stdlib.h>
#include <string.h>

#include "report_build.h"
#include "store.h"

static void add_sm_time(struct fm_trace_builder *builder, const fm_trace_work *work)
{
    const fm_trace *trace = builder->report.trace;
    const fm_trace_slice *slice = &trace->slices[work->slice];
    int64_t most = builder->units[work->unit].multiprocessors;
    if (!fm_trace_is_communication(work) || slice->gpu == FM_TRACE_NONE || most == 0)
        return;
    int64_t blocks = trace->gpus[slice->gpu].blocks, held;
    // A product that does not fit belongs to no device.
    if (__builtin_mul_overflow(blocks < most ? blocks : most, work->end_ns - work->begin_ns, &held))
        return;
    builder->report.sm_time.communication_ns += held;
    if (work->kind == FM_TRACE_WAIT)
        builder->report.sm_time.wait_ns += held;
}

static int ascending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static fm_status measure_launches(struct fm_trace_builder *builder)
{
    fm_trace_report *report = &builder->report;
    fm_trace_launch *launch = &report->launch;
    int64_t *delays;
    FM_TRY(fm_trace_take(&builder->scratch, report->work_count + 1, sizeof *delays, &delays));
    for (size_t i = 0; i < report->work_count; i++) {
        const fm_trace_work *work = &builder->works[i];
        if (!builder->units[work->unit].is_device)
            continue;
        if (work->launch == FM_TRACE_NONE) {
            launch->unlaunched++;
            continue;
        }
        delays[launch->count++] = work->begin_ns - report->trace->slices[work->launch].begin_ns;
    }
    if (launch->count == 0)
        return FM_OK;
    qsort(delays, launch->count, sizeof *delays, ascending);
    launch->min_ns = delays[0];
    launch->median_ns = delays[launch->count / 2];
    launch->p90_ns = delays[launch->count * 9 / 10];
    launch->max_ns = delays[launch->count - 1];
    return FM_OK;
}

/* Calls of the runtime that wait: each distinct name is looked at once. */
static fm_status count_waits(struct fm_trace_builder *builder)
{
    enum { UNSEEN, OTHER, SYNC, POLL };
    const fm_trace *trace = builder->report.trace;
    fm_trace_launch *launch = &builder->report.launch;
    unsigned char *meaning;
    FM_TRY(fm_trace_take(&builder->scratch, trace->text_count + 1, 1, &meaning));
    for (size_t i = 0; trace->gpu_count && i < trace->slice_count; i++) {
        const fm_trace_slice *slice = &trace->slices[i];
        if (slice->gpu != FM_TRACE_NONE)
            continue;
        if (meaning[slice->name] == UNSEEN) {
            const char *name = fm_trace_data_text(trace, slice->name);
            int is_call =
                strncmp(name, "cuda", 4) == 0 || strncmp(name, "hip", 3) == 0 || strncmp(name, "cu", 2) == 0;
            meaning[slice->name] = !is_call                      ? OTHER
                                   : strstr(name, "Synchronize") ? SYNC
                                   : strstr(name, "EventQuery")  ? POLL
                                                                 : OTHER;
        }
        launch->polls += meaning[slice->name] == POLL;
        launch->sync_calls += meaning[slice->name] == SYNC;
        launch->sync_ns += meaning[slice->name] == SYNC ? slice->duration_ns : 0;
    }
    return FM_OK;
}

static uint32_t stream_of(const fm_trace_work *work)
{
    return work->stream;
}

/* Of the paired kernels of one name on one stream the odd ones send, the even ones receive. `sends` holds the work that waits
 * for its partner, by stream and name, plus 1. */
static fm_status pair_up(struct fm_trace_builder *builder, const uint32_t *order, struct fm_trace_range range,
                         const struct fm_trace_rule_group *groups, struct fm_trace_map *sends,
                         struct fm_trace_interval *flights, size_t *count)
{
    for (size_t i = range.begin; i < range.end; i++) {
        const fm_trace_work *work = &builder->works[order[i]];
        uint32_t *send;
        int known;
        if (!groups[work->group].is_pair)
            continue;
        FM_TRY(fm_trace_map_put(sends, work->stream, builder->report.trace->slices[work->slice].name, 0,
                                &send, &known));
        if (*send == 0) {
            *send = order[i] + 1;
            continue;
        }
        int64_t sent = builder->works[*send - 1].end_ns;
        if (work->begin_ns > sent)
            flights[(*count)++] = (struct fm_trace_interval){sent, work->begin_ns};
        builder->report.in_flight.pairs++;
        *send = 0;
    }
    return FM_OK;
}

static int by_begin(const void *a, const void *b)
{
    const struct fm_trace_interval *x = a, *y = b;
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

/* The flights of each unit: their union, and what of it lies under work. */
static fm_status measure_flights(struct fm_trace_builder *builder, const struct fm_trace_rule_group *groups,
                                 struct fm_trace_map *sends)
{
    fm_trace_report *report = &builder->report;
    uint32_t *order;
    struct fm_trace_range *ranges;
    struct fm_trace_interval *flights;
    struct fm_trace_set all = {0}, work = {0};
    FM_TRY(fm_trace_order_works(builder, stream_of, report->stream_count, &order, &ranges));
    FM_TRY(fm_trace_take(&builder->scratch, report->work_count + 1, sizeof *flights, &flights));
    FM_TRY(fm_trace_take(&builder->scratch, report->work_count + 1, sizeof *flights, &all.at));
    FM_TRY(fm_trace_take(&builder->scratch, report->work_count + 1, sizeof *flights, &work.at));
    for (size_t unit = 0; unit < report->unit_count; unit++) {
        size_t count = 0;
        for (size_t s = 0; s < report->stream_count; s++)
            if (builder->streams[s].unit == unit)
                FM_TRY(pair_up(builder, order, ranges[s], groups, sends, flights, &count));
        qsort(flights, count, sizeof *flights, by_begin);
        all.count = work.count = 0;
        for (size_t i = 0; i < count; i++) {
            report->in_flight.sum_ns += flights[i].end - flights[i].begin;
            fm_trace_set_add(&all, flights[i].begin, flights[i].end);
        }
        for (size_t i = builder->works_of_unit[unit].begin; i < builder->works_of_unit[unit].end; i++)
            fm_trace_set_add(&work, builder->works[i].begin_ns, builder->works[i].end_ns);
        report->in_flight.union_ns += fm_trace_set_measure(&all);
        report->in_flight.overlap_ns += fm_trace_set_common(&all, &work);
    }
    return FM_OK;
}

static fm_status find_flights(struct fm_trace_builder *builder)
{
    size_t group_count, used = 0;
    const struct fm_trace_rule_group *groups = fm_trace_rules_groups(builder->report.rules, &group_count);
    struct fm_trace_map sends = {0};
    for (size_t g = 0; g < group_count; g++)
        used += groups[g].is_pair && builder->groups[g].count > 0;
    if (!used)
        return FM_OK;
    fm_status status = measure_flights(builder, groups, &sends);
    fm_trace_map_clear(&sends);
    return status;
}

fm_status fm_trace_build_device(struct fm_trace_builder *builder)
{
    for (size_t i = 0; i < builder->report.unit_count; i++) {
        const fm_trace_unit *unit = &builder->units[i];
        int64_t capacity;
        if (!__builtin_mul_overflow(unit->last_ns - unit->first_ns, (int64_t)unit->multiprocessors,
                                    &capacity))
            builder->report.sm_time.capacity_ns += unit->is_device ? capacity : 0;
    }
    for (size_t i = 0; i < builder->report.work_count; i++)
        add_sm_time(builder, &builder->works[i]);
    FM_TRY(measure_launches(builder));
    FM_TRY(count_waits(builder));
    return find_flights(builder);
}
