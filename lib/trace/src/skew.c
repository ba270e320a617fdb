/* Who lets the others wait: collectives that several units took part in, and who entered each last. */
#include <stdlib.h>

#include "report_build.h"

/* A collective as one unit has it. */
struct entry {
    int64_t begin, end;
    uint32_t name, unit, slice;
};

static int by_place(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->name != y->name)
        return x->name < y->name ? -1 : 1;
    if (x->unit != y->unit)
        return x->unit < y->unit ? -1 : 1;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->slice < y->slice ? -1 : x->slice > y->slice;
}

/* All of them, each once: a span of a thread is as many pieces of work as others inside it leave of it. */
static fm_status find_entries(struct fm_trace_builder *builder, struct entry **out, size_t *out_count)
{
    const fm_trace_report *report = &builder->report;
    size_t group_count, count = 0, kept = 0;
    const struct fm_trace_rule_group *groups = fm_trace_rules_groups(report->rules, &group_count);
    struct entry *entries;
    for (size_t i = 0; i < report->work_count; i++)
        count += (size_t)groups[builder->works[i].group].is_collective;
    FM_TRY(fm_trace_take(&builder->scratch, count + 1, sizeof *entries, &entries));
    count = 0;
    for (size_t i = 0; i < report->work_count; i++) {
        const fm_trace_work *work = &builder->works[i];
        const fm_trace_slice *slice = &report->trace->slices[work->slice];
        if (groups[work->group].is_collective)
            entries[count++] = (struct entry){slice->begin_ns, slice->begin_ns + slice->duration_ns,
                                              slice->name, work->unit, work->slice};
    }
    qsort(entries, count, sizeof *entries, by_place);
    for (size_t i = 0; i < count; i++)
        if (kept == 0 || entries[i].slice != entries[kept - 1].slice)
            entries[kept++] = entries[i];
    *out = entries;
    *out_count = kept;
    return FM_OK;
}

/* What one unit's coming last costs the others. */
struct account {
    uint64_t last;
    int64_t waited_ns;
};

/* One collective: the entries that are `stride` apart, one of each of `units` units. */
static void settle(struct fm_trace_builder *builder, const struct entry *entries, size_t stride, size_t units,
                   struct account *accounts)
{
    size_t last = 0;
    int64_t waited = 0;
    for (size_t u = 1; u < units; u++)
        if (entries[u * stride].begin > entries[last * stride].begin)
            last = u;
    for (size_t u = 0; u < units; u++) {
        const struct entry *entry = &entries[u * stride];
        int64_t until = entries[last * stride].begin;
        waited += (until < entry->end ? until : entry->end) - entry->begin;
    }
    accounts[entries[last * stride].unit].last++;
    accounts[entries[last * stride].unit].waited_ns += waited;
    builder->report.skew.collectives++;
    builder->report.skew.waited_ns += waited;
}

/* The entries of one name. They are common collectives where every unit that has any has as many. */
static void settle_name(struct fm_trace_builder *builder, const struct entry *entries, size_t count,
                        struct account *accounts)
{
    size_t units = 1, each = 1;
    while (each < count && entries[each].unit == entries[0].unit)
        each++;
    for (size_t i = 1; i < count; i++)
        units += entries[i].unit != entries[i - 1].unit;
    if (units < 2 || units * each != count)
        return;
    for (size_t i = 0; i < count; i++)
        if (entries[i].unit != entries[i / each * each].unit)
            return;
    for (size_t i = 0; i < each; i++)
        settle(builder, &entries[i], each, units, accounts);
}

fm_status fm_trace_build_skew(struct fm_trace_builder *builder)
{
    struct entry *entries;
    struct account *accounts;
    size_t count;
    fm_trace_skew *skew = &builder->report.skew;
    skew->last_unit = FM_TRACE_NONE;
    if (builder->report.unit_count < 2)
        return FM_OK;
    FM_TRY(find_entries(builder, &entries, &count));
    FM_TRY(fm_trace_take(&builder->scratch, builder->report.unit_count, sizeof *accounts, &accounts));
    for (size_t begin = 0, end; begin < count; begin = end) {
        for (end = begin; end < count && entries[end].name == entries[begin].name;)
            end++;
        settle_name(builder, entries + begin, end - begin, accounts);
    }
    for (uint32_t unit = 0; unit < builder->report.unit_count; unit++)
        if (accounts[unit].waited_ns > skew->last_waited_ns) {
            skew->last_unit = unit;
            skew->last_count = accounts[unit].last;
            skew->last_waited_ns = accounts[unit].waited_ns;
        }
    return FM_OK;
}
