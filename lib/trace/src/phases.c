/* Phases, their totals by name, and what of one direction's communication hides under another's compute. */
#include <stdlib.h>
#include <string.h>

#include "report_build.h"
#include "store.h"

struct phase_sets {
    struct fm_trace_set busy, compute, communication;
};

static uint32_t phase_of(const fm_trace_work *work)
{
    return work->phase;
}

static fm_status take_sets(struct fm_trace_builder *builder, struct phase_sets *sets)
{
    size_t count = builder->report.work_count + 1;
    memset(sets, 0, sizeof *sets);
    FM_TRY(fm_trace_take(&builder->scratch, count, sizeof *sets->busy.at, &sets->busy.at));
    FM_TRY(fm_trace_take(&builder->scratch, count, sizeof *sets->busy.at, &sets->compute.at));
    return fm_trace_take(&builder->scratch, count, sizeof *sets->busy.at, &sets->communication.at);
}

static void measure_phase(struct fm_trace_builder *builder, const uint32_t *order,
                          struct fm_trace_range range, struct phase_sets *sets, fm_trace_phase *phase)
{
    sets->busy.count = sets->compute.count = sets->communication.count = 0;
    for (size_t i = range.begin; i < range.end; i++) {
        const fm_trace_work *work = &builder->works[order[i]];
        fm_trace_set_add(&sets->busy, work->begin_ns, work->end_ns);
        fm_trace_set_add(fm_trace_is_communication(work) ? &sets->communication : &sets->compute,
                         work->begin_ns, work->end_ns);
        phase->first_ns = phase->work_count++ ? phase->first_ns : work->begin_ns;
        phase->last_ns =
            work->end_ns > phase->last_ns || phase->work_count == 1 ? work->end_ns : phase->last_ns;
        phase->unit = work->unit;
    }
    phase->busy_ns = fm_trace_set_measure(&sets->busy);
    phase->compute_ns = fm_trace_set_measure(&sets->compute);
    phase->communication_ns = fm_trace_set_measure(&sets->communication);
    phase->overlap_ns = fm_trace_set_common(&sets->communication, &builder->compute[phase->unit]);
    phase->exposed_ns = phase->communication_ns - phase->overlap_ns;
}

static int in_time(const void *a, const void *b)
{
    const fm_trace_phase *x = a, *y = b;
    if (x->begin_ns != y->begin_ns)
        return x->begin_ns < y->begin_ns ? -1 : 1;
    return x->name < y->name ? -1 : x->name > y->name;
}

static void add_to_total(fm_trace_phase *total, const fm_trace_phase *phase)
{
    total->occurrences++;
    total->work_count += phase->work_count;
    total->host_ns += phase->host_ns;
    total->last_ns = phase->last_ns > total->last_ns ? phase->last_ns : total->last_ns;
    total->busy_ns += phase->busy_ns;
    total->compute_ns += phase->compute_ns;
    total->communication_ns += phase->communication_ns;
    total->overlap_ns += phase->overlap_ns;
    total->exposed_ns += phase->exposed_ns;
}

static fm_status sum_phases(struct fm_trace_builder *builder, const fm_trace_phase *in_order)
{
    fm_trace_report *report = &builder->report;
    uint32_t *total_of;
    FM_TRY(fm_trace_take(&builder->scratch, report->trace->text_count + 1, sizeof *total_of, &total_of));
    FM_TRY(fm_trace_take(&builder->arena, report->phase_count + 1, sizeof *builder->phase_totals,
                         &builder->phase_totals));
    for (size_t i = 0; i < report->phase_count; i++) {
        const fm_trace_phase *phase = &in_order[i];
        if (!total_of[phase->name]) {
            fm_trace_phase *total = &builder->phase_totals[report->phase_total_count++];
            *total = (fm_trace_phase){.name = phase->name,
                                      .unit = phase->unit,
                                      .direction = phase->direction,
                                      .begin_ns = phase->begin_ns,
                                      .first_ns = phase->first_ns,
                                      .last_ns = phase->last_ns};
            total_of[phase->name] = (uint32_t)report->phase_total_count;
        }
        add_to_total(&builder->phase_totals[total_of[phase->name] - 1], phase);
    }
    report->phase_totals = builder->phase_totals;
    return FM_OK;
}

/* Sets of each direction within a unit; the last entry of `compute` is that of B and W together. */
struct direction_sets {
    struct fm_trace_set compute[FM_TRACE_DIRECTIONS + 1], communication[FM_TRACE_DIRECTIONS];
};

static fm_status take_directions(struct fm_trace_builder *builder, struct direction_sets *sets)
{
    size_t count = builder->report.work_count + 1;
    for (int i = 0; i <= FM_TRACE_DIRECTIONS; i++)
        FM_TRY(fm_trace_take(&builder->scratch, count, sizeof *sets->compute[i].at, &sets->compute[i].at));
    for (int i = 0; i < FM_TRACE_DIRECTIONS; i++)
        FM_TRY(
            fm_trace_take(&builder->scratch, count, sizeof *sets->compute[i].at, &sets->communication[i].at));
    return FM_OK;
}

static void hide_unit(struct fm_trace_builder *builder, size_t unit, struct direction_sets *sets)
{
    fm_trace_hiding *hiding = &builder->report.hiding;
    for (int i = 0; i <= FM_TRACE_DIRECTIONS; i++)
        sets->compute[i].count = 0;
    for (int i = 0; i < FM_TRACE_DIRECTIONS; i++)
        sets->communication[i].count = 0;
    for (size_t i = builder->works_of_unit[unit].begin; i < builder->works_of_unit[unit].end; i++) {
        const fm_trace_work *work = &builder->works[i];
        int direction = work->phase == FM_TRACE_NONE ? -1 : builder->phases[work->phase].direction;
        if (direction < 0)
            continue;
        hiding->work_count[direction]++;
        if (fm_trace_is_communication(work)) {
            fm_trace_set_add(&sets->communication[direction], work->begin_ns, work->end_ns);
            continue;
        }
        fm_trace_set_add(&sets->compute[direction], work->begin_ns, work->end_ns);
        if (direction > 0)
            fm_trace_set_add(&sets->compute[FM_TRACE_DIRECTIONS], work->begin_ns, work->end_ns);
    }
    for (int d = 0; d < FM_TRACE_DIRECTIONS; d++) {
        hiding->compute_ns[d] += fm_trace_set_measure(&sets->compute[d]);
        hiding->communication_ns[d] += fm_trace_set_measure(&sets->communication[d]);
        for (int e = 0; e < FM_TRACE_DIRECTIONS; e++)
            hiding->under_ns[d][e] += fm_trace_set_common(&sets->communication[d], &sets->compute[e]);
        hiding->under_backward_ns[d] +=
            fm_trace_set_common(&sets->communication[d], &sets->compute[FM_TRACE_DIRECTIONS]);
    }
}

/* Puts the phases in the order of time, and renumbers them in the works. */
static fm_status sort_phases(struct fm_trace_builder *builder)
{
    size_t count = builder->report.phase_count;
    uint32_t *new_number;
    FM_TRY(fm_trace_take(&builder->scratch, count + 1, sizeof *new_number, &new_number));
    for (size_t i = 0; i < count; i++)
        builder->phases[i].occurrences = i; // the old number, while sorting
    qsort(builder->phases, count, sizeof *builder->phases, in_time);
    for (size_t i = 0; i < count; i++) {
        new_number[builder->phases[i].occurrences] = (uint32_t)i;
        builder->phases[i].occurrences = 1;
    }
    for (size_t i = 0; i < builder->report.work_count; i++)
        if (builder->works[i].phase != FM_TRACE_NONE)
            builder->works[i].phase = new_number[builder->works[i].phase];
    return FM_OK;
}

fm_status fm_trace_build_phases(struct fm_trace_builder *builder)
{
    fm_trace_report *report = &builder->report;
    uint32_t *order;
    struct fm_trace_range *ranges;
    struct phase_sets sets;
    FM_TRY(sort_phases(builder));
    FM_TRY(fm_trace_order_works(builder, phase_of, report->phase_count, &order, &ranges));
    FM_TRY(take_sets(builder, &sets));
    for (size_t i = 0; i < report->phase_count; i++) {
        fm_trace_phase *phase = &builder->phases[i];
        phase->direction =
            fm_trace_rules_direction(report->rules, fm_trace_data_text(report->trace, phase->name));
        measure_phase(builder, order, ranges[i], &sets, phase);
    }
    FM_TRY(sum_phases(builder, builder->phases));
    struct direction_sets directions = {0};
    FM_TRY(take_directions(builder, &directions));
    for (size_t unit = 0; unit < report->unit_count; unit++)
        hide_unit(builder, unit, &directions);
    return FM_OK;
}
