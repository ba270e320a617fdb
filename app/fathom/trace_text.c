#include "trace_text.h"

#include <stdio.h>
#include <unistd.h>

#include "fathom/table.h"
#include "fathom/text.h"

static double us(int64_t ns)
{
    return (double)ns / 1000;
}

static double percent(int64_t part, int64_t whole)
{
    return whole > 0 ? 100.0 * (double)part / (double)whole : 0;
}

static fm_status finish(fm_table *table)
{
    return fm_base_table_finish(table, stdout, fm_base_text_terminal(STDOUT_FILENO));
}

static void print_files(const fm_trace *trace)
{
    for (size_t i = 0; i < trace->file_count; i++) {
        const fm_trace_file *file = &trace->files[i];
        printf("%s: %s, %llu events", file->path, fm_base_text_bytes((double)file->bytes).text,
               (unsigned long long)file->events);
        if (file->device[0])
            printf(", %s with %d SMs", file->device, file->multiprocessors);
        if (file->rank >= 0)
            printf(", rank %lld of %lld", (long long)file->rank, (long long)file->world_size);
        if (file->clock_shift_ns)
            printf("\n  its clock contradicts the first file's: times moved by %+.3f us, by %llu collectives",
                   us(file->clock_shift_ns), (unsigned long long)file->clock_points);
        if (file->damaged)
            printf("\n  salvaged over %llu damaged places; the first: %s", (unsigned long long)file->damaged,
                   file->damage);
        printf("\n");
    }
}

static fm_status print_overlap(const fm_trace_report *report)
{
    const fm_trace_overlap *columns[] = {&report->by_name, &report->transfer_only, &report->by_stream};
    fm_table table = {0};
    fm_base_table_column(&table, "overlap", NULL, FM_ALIGN_LEFT);
    fm_base_table_column(&table, "by name", "us", FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "without waits", "us", FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "by stream", "us", FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "of the span, by name", NULL, FM_ALIGN_LEFT);
#define ROW(title, field)                                                                         \
    fm_base_table_cell(&table, title);                                                            \
    for (int i = 0; i < 3; i++)                                                                   \
        fm_base_table_cell(&table, "%.0f", us(columns[i]->field));                                \
    fm_base_table_cell(                                                                           \
        &table, "%s %5.1f %%",                                                                    \
        fm_base_text_bar(percent(report->by_name.field, report->by_name.span_ns) / 100, 20).text, \
        percent(report->by_name.field, report->by_name.span_ns))
    ROW("span", span_ns);
    ROW("busy", busy_ns);
    ROW("idle", idle_ns);
    ROW("computation", compute_ns);
    ROW("communication", communication_ns);
    ROW("  overlapped", overlap_ns);
    ROW("  exposed", exposed_ns);
#undef ROW
    return finish(&table);
}

static fm_status print_streams(const fm_trace_report *report)
{
    fm_table table = {0};
    fm_base_table_column(&table, "unit", NULL, FM_ALIGN_LEFT);
    fm_base_table_column(&table, "stream", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "what", NULL, FM_ALIGN_LEFT);
    fm_base_table_column(&table, "events", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "busy", "us", FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "of the span", "%", FM_ALIGN_POINT);
    for (size_t i = 0; i < report->stream_count; i++) {
        const fm_trace_stream *stream = &report->streams[i];
        const fm_trace_unit *unit = &report->units[stream->unit];
        fm_base_table_cell(&table, "%s", unit->label);
        fm_base_table_cell(&table, "%lld", (long long)stream->stream);
        fm_base_table_cell(&table, "%s", stream->is_communication ? "communication" : "computation");
        fm_base_table_cell(&table, "%llu", (unsigned long long)stream->count);
        fm_base_table_cell(&table, "%.0f", us(stream->busy_ns));
        fm_base_table_cell(&table, "%.1f", percent(stream->busy_ns, unit->last_ns - unit->first_ns));
    }
    return finish(&table);
}

static fm_status print_phases(const fm_trace_report *report)
{
    fm_table table = {0};
    fm_base_table_column(&table, "phase", NULL, FM_ALIGN_LEFT);
    fm_base_table_column(&table, "times", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "work", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "host", "us", FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "compute", "us", FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "comm", "us", FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "hidden", "us", FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "exposed", "us", FM_ALIGN_RIGHT);
    for (size_t i = 0; i < report->phase_total_count; i++) {
        const fm_trace_phase *phase = &report->phase_totals[i];
        fm_base_table_cell(&table, "%s", fm_trace_data_text(report->trace, phase->name));
        fm_base_table_cell(&table, "%llu", (unsigned long long)phase->occurrences);
        fm_base_table_cell(&table, "%llu", (unsigned long long)phase->work_count);
        fm_base_table_cell(&table, "%.0f", us(phase->host_ns));
        fm_base_table_cell(&table, "%.0f", us(phase->compute_ns));
        fm_base_table_cell(&table, "%.0f", us(phase->communication_ns));
        fm_base_table_cell(&table, "%.0f", us(phase->overlap_ns));
        fm_base_table_cell(&table, "%.0f", us(phase->exposed_ns));
    }
    return finish(&table);
}

static fm_status print_groups(const fm_trace_report *report)
{
    static const char *const kinds[] = {"compute", "transfer", "wait"};
    fm_table table = {0};
    fm_base_table_column(&table, "group", NULL, FM_ALIGN_LEFT);
    fm_base_table_column(&table, "kind", NULL, FM_ALIGN_LEFT);
    fm_base_table_column(&table, "count", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "sum", "us", FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "union", "us", FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "of the span", "%", FM_ALIGN_POINT);
    fm_base_table_column(&table, "exposed", "us", FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "critical", "us", FM_ALIGN_RIGHT);
    for (size_t i = 0; i < report->group_count; i++) {
        const fm_trace_group *group = &report->groups[i];
        if (!group->count)
            continue;
        fm_base_table_cell(&table, "%s", group->name);
        fm_base_table_cell(&table, "%s", kinds[group->kind]);
        fm_base_table_cell(&table, "%llu", (unsigned long long)group->count);
        fm_base_table_cell(&table, "%.0f", us(group->sum_ns));
        fm_base_table_cell(&table, "%.0f", us(group->union_ns));
        fm_base_table_cell(&table, "%.2f", percent(group->union_ns, report->by_name.span_ns));
        if (group->kind == FM_TRACE_COMPUTE)
            fm_base_table_cell(&table, "%s", "");
        else
            fm_base_table_cell(&table, "%.0f", us(group->exposed_ns));
        fm_base_table_cell(&table, "%.0f", us(report->path.group_ns[i]));
    }
    return finish(&table);
}

static fm_status print_kernels(const fm_trace_report *report, int top)
{
    fm_table table = {0};
    fm_base_table_column(&table, "sum", "us", FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "count", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "mean", "us", FM_ALIGN_POINT);
    fm_base_table_column(&table, "least", "us", FM_ALIGN_POINT);
    fm_base_table_column(&table, "most", "us", FM_ALIGN_POINT);
    fm_base_table_column(&table, "kernel", NULL, FM_ALIGN_LEFT);
    for (size_t i = 0; i < report->kernel_count && i < (size_t)top; i++) {
        const fm_trace_kernel *kernel = &report->kernels[i];
        fm_base_table_cell(&table, "%.0f", us(kernel->sum_ns));
        fm_base_table_cell(&table, "%llu", (unsigned long long)kernel->count);
        fm_base_table_cell(&table, "%.1f", us(kernel->sum_ns) / (double)kernel->count);
        fm_base_table_cell(&table, "%.1f", us(kernel->min_ns));
        fm_base_table_cell(&table, "%.1f", us(kernel->max_ns));
        fm_base_table_cell(&table, "%.100s", fm_trace_data_text(report->trace, kernel->name));
    }
    return finish(&table);
}

static fm_status print_hiding(const fm_trace_hiding *hiding)
{
    static const char *const names[] = {"F", "B", "W"};
    fm_table table = {0};
    fm_base_table_column(&table, "communication of", NULL, FM_ALIGN_LEFT);
    fm_base_table_column(&table, "all", "us", FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "under F", "us", FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "under B", "us", FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "under W", "us", FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "compute of it", "us", FM_ALIGN_RIGHT);
    for (int d = 0; d < FM_TRACE_DIRECTIONS; d++) {
        fm_base_table_cell(&table, "%s", names[d]);
        fm_base_table_cell(&table, "%.0f", us(hiding->communication_ns[d]));
        for (int e = 0; e < FM_TRACE_DIRECTIONS; e++)
            fm_base_table_cell(&table, "%.0f", us(hiding->under_ns[d][e]));
        fm_base_table_cell(&table, "%.0f", us(hiding->compute_ns[d]));
    }
    return finish(&table);
}

static void print_device(const fm_trace_report *report)
{
    const fm_trace_path *path = &report->path;
    const fm_trace_sm_time *sm = &report->sm_time;
    printf("critical path  %.0f us: compute %.0f, transfer %.0f, wait %.0f, launches %.0f, gaps %.0f",
           us(path->length_ns), us(path->kind_ns[FM_TRACE_COMPUTE]), us(path->kind_ns[FM_TRACE_TRANSFER]),
           us(path->kind_ns[FM_TRACE_WAIT]), us(path->launch_ns), us(path->gap_ns));
    if (path->messages)
        printf(", %llu messages %.0f", (unsigned long long)path->messages, us(path->message_ns));
    printf("\n");
    printf("compute gaps   %llu, %.0f us; below 10 us %llu, %.0f us; the longest %.0f us\n",
           (unsigned long long)report->compute_gaps.count, us(report->compute_gaps.sum_ns),
           (unsigned long long)report->compute_gaps.short_count, us(report->compute_gaps.short_ns),
           us(report->compute_gaps.longest[0].duration_ns));
    if (sm->capacity_ns > 0)
        printf("SM time        communication holds %.2f %%, of that waiting %.2f %%\n",
               percent(sm->communication_ns, sm->capacity_ns), percent(sm->wait_ns, sm->capacity_ns));
    if (report->in_flight.pairs > 0)
        printf(
            "0-SM transfer  %llu sends with their receives, in flight %.0f us, %.1f %% of that under work\n",
            (unsigned long long)report->in_flight.pairs, us(report->in_flight.union_ns),
            percent(report->in_flight.overlap_ns, report->in_flight.union_ns));
    if (report->launch.count > 0)
        printf("launch         to start: median %.0f us, 90 %% %.0f us, least %.0f us\n",
               us(report->launch.median_ns), us(report->launch.p90_ns), us(report->launch.min_ns));
}

static void print_findings(const fm_trace_report *report)
{
    printf("\nfindings\n");
    for (size_t i = 0; i < report->finding_count; i++) {
        const fm_trace_finding *finding = &report->findings[i];
        char evidence[sizeof finding->evidence];
        snprintf(evidence, sizeof evidence, "%s", finding->evidence);
        fm_base_text_clean(evidence);
        printf("%2zu. %s", i + 1, finding->text);
        if (finding->saving_ns > 0)
            printf(" [up to %.0f us, %.2f %%]", us(finding->saving_ns),
                   percent(finding->saving_ns, report->by_name.span_ns));
        printf("\n    %s\n", evidence);
    }
    if (report->finding_count == 0)
        printf("  none: nothing stands out\n");
}

fm_status fm_app_trace_print(const fm_trace_report *report, int top)
{
    print_files(report->trace);
    if (report->work_count == 0) {
        printf("no work in this trace: neither kernels nor spans\n");
        return FM_OK;
    }
    printf("\n");
    FM_TRY(print_overlap(report));
    printf("\n");
    FM_TRY(print_streams(report));
    printf("\n");
    if (report->phase_count > 0) {
        FM_TRY(print_phases(report));
        printf("\n");
        if (report->hiding.work_count[0] + report->hiding.work_count[1] > 0) {
            FM_TRY(print_hiding(&report->hiding));
            printf("\n");
        }
    }
    FM_TRY(print_groups(report));
    printf("\n");
    FM_TRY(print_kernels(report, top));
    printf("\n");
    print_device(report);
    print_findings(report);
    return FM_OK;
}
