#include "report_build.h"

#include <string.h>

fm_status fm_trace_take(fm_arena *arena, size_t count, size_t size, void *out_pointer)
{
    size_t bytes = 0;
    FM_TRY(fm_mul_size(count, size, &bytes));
    void *block = fm_base_arena_alloc(arena, bytes);
    if (!block)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the report of a trace");
    memset(block, 0, bytes);
    memcpy(out_pointer, &block, sizeof block);
    return FM_OK;
}

fm_status fm_trace_order_works(struct fm_trace_builder *builder, uint32_t (*key_of)(const fm_trace_work *),
                               size_t keys, uint32_t **out_order, struct fm_trace_range **out_ranges)
{
    size_t count = builder->report.work_count;
    struct fm_trace_range *ranges;
    uint32_t *order;
    FM_TRY(fm_trace_take(&builder->scratch, keys + 1, sizeof *ranges, &ranges));
    FM_TRY(fm_trace_take(&builder->scratch, count + 1, sizeof *order, &order));
    for (size_t i = 0; i < count; i++) {
        uint32_t key = key_of(&builder->works[i]);
        if (key != FM_TRACE_NONE)
            ranges[key].end++;
    }
    size_t at = 0;
    for (size_t key = 0; key < keys; key++) {
        size_t size = ranges[key].end;
        ranges[key].begin = ranges[key].end = at;
        at += size;
    }
    for (size_t i = 0; i < count; i++) {
        uint32_t key = key_of(&builder->works[i]);
        if (key != FM_TRACE_NONE)
            order[ranges[key].end++] = (uint32_t)i;
    }
    *out_order = order;
    *out_ranges = ranges;
    return FM_OK;
}

static fm_status (*const steps[])(struct fm_trace_builder *) = {
    fm_trace_build_annotations, fm_trace_build_works,  fm_trace_build_overlap, fm_trace_build_groups,
    fm_trace_build_kernels,     fm_trace_build_phases, fm_trace_build_gaps,    fm_trace_build_device,
    fm_trace_build_skew,        fm_trace_build_path,   fm_trace_build_findings};

fm_status fm_trace_report_make(const fm_trace *trace, const fm_trace_rules *rules,
                               fm_trace_report **out_report)
{
    struct fm_trace_builder *builder = fm_base_mem_zalloc(1, sizeof *builder);
    if (!builder)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the report of a trace");
    builder->report.trace = trace;
    builder->report.rules = rules;
    fm_status status = FM_OK;
    for (size_t i = 0; i < sizeof steps / sizeof *steps && status == FM_OK; i++)
        status = steps[i](builder);
    fm_base_arena_clear(&builder->scratch);
    if (status < 0) {
        fm_trace_report_free(&builder->report);
        return status;
    }
    *out_report = &builder->report;
    return FM_OK;
}

void fm_trace_report_free(fm_trace_report *report)
{
    struct fm_trace_builder *builder = (struct fm_trace_builder *)report;
    if (!builder)
        return;
    fm_base_arena_clear(&builder->arena);
    fm_base_arena_clear(&builder->scratch);
    fm_base_mem_free(builder);
}
