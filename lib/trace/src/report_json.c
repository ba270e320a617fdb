#include <stdio.h>
#include <string.h>

#include "fathom/trace_report.h"

/* Microseconds: an integer where they are whole. */
static void put_us(fm_json *json, const char *key, int64_t ns)
{
    if (ns % 1000 == 0)
        fm_base_json_int(json, key, ns / 1000);
    else
        fm_base_json_real(json, key, (double)ns / 1000);
}

static double percent(int64_t part, int64_t whole)
{
    return whole > 0 ? 100.0 * (double)part / (double)whole : 0;
}

static void put_overlap(fm_json *json, const char *key, const fm_trace_overlap *overlap)
{
    fm_base_json_begin(json, key, '{');
    put_us(json, "span_us", overlap->span_ns);
    put_us(json, "busy_us", overlap->busy_ns);
    put_us(json, "idle_us", overlap->idle_ns);
    put_us(json, "compute_busy_us", overlap->compute_ns);
    put_us(json, "comm_busy_us", overlap->communication_ns);
    put_us(json, "overlap_us", overlap->overlap_ns);
    put_us(json, "exposed_comm_us", overlap->exposed_ns);
    fm_base_json_real(json, "overlap_pct_of_comm", percent(overlap->overlap_ns, overlap->communication_ns));
    fm_base_json_real(json, "exposed_comm_pct_of_span", percent(overlap->exposed_ns, overlap->span_ns));
    fm_base_json_real(json, "idle_pct_of_span", percent(overlap->idle_ns, overlap->span_ns));
    fm_base_json_end(json);
}

static void put_files(const fm_trace *trace, fm_json *json)
{
    fm_base_json_begin(json, "files", '[');
    for (size_t i = 0; i < trace->file_count; i++) {
        const fm_trace_file *file = &trace->files[i];
        fm_base_json_begin(json, NULL, '{');
        fm_base_json_string(json, "path", file->path);
        fm_base_json_int(json, "bytes", (int64_t)file->bytes);
        fm_base_json_int(json, "events", (int64_t)file->events);
        fm_base_json_int(json, "damaged", (int64_t)file->damaged);
        if (file->damaged)
            fm_base_json_string(json, "damage", file->damage);
        fm_base_json_int(json, "rank", file->rank);
        put_us(json, "clock_shift_us", file->clock_shift_ns);
        fm_base_json_int(json, "world_size", file->world_size);
        fm_base_json_string(json, "device", file->device);
        fm_base_json_int(json, "multiprocessors", file->multiprocessors);
        fm_base_json_end(json);
    }
    fm_base_json_end(json);
}

static void put_units(const fm_trace_report *report, fm_json *json)
{
    fm_base_json_begin(json, "units", '[');
    for (size_t i = 0; i < report->unit_count; i++) {
        const fm_trace_unit *unit = &report->units[i];
        fm_base_json_begin(json, NULL, '{');
        fm_base_json_string(json, "label", unit->label);
        fm_base_json_bool(json, "is_device", unit->is_device);
        put_overlap(json, "by_name", &unit->by_name);
        put_overlap(json, "by_stream", &unit->by_stream);
        fm_base_json_end(json);
    }
    fm_base_json_end(json);
}

static void put_streams(const fm_trace_report *report, fm_json *json)
{
    fm_base_json_begin(json, "streams", '[');
    for (size_t i = 0; i < report->stream_count; i++) {
        const fm_trace_stream *stream = &report->streams[i];
        const fm_trace_unit *unit = &report->units[stream->unit];
        fm_base_json_begin(json, NULL, '{');
        fm_base_json_string(json, "unit", unit->label);
        fm_base_json_int(json, "stream", stream->stream);
        fm_base_json_string(json, "name",
                            fm_trace_data_text(report->trace, report->trace->tracks[stream->track].name));
        fm_base_json_bool(json, "communication", stream->is_communication);
        fm_base_json_int(json, "events", (int64_t)stream->count);
        put_us(json, "sum_dur_us", stream->sum_ns);
        put_us(json, "busy_us", stream->busy_ns);
        put_us(json, "first_us", stream->first_ns - unit->first_ns);
        put_us(json, "last_us", stream->last_ns - unit->first_ns);
        fm_base_json_end(json);
    }
    fm_base_json_end(json);
}

static const char *const kinds[] = {"compute", "transfer", "wait"};

static void put_groups(const fm_trace_report *report, fm_json *json)
{
    fm_base_json_begin(json, "groups", '{');
    for (size_t i = 0; i < report->group_count; i++) {
        const fm_trace_group *group = &report->groups[i];
        if (!group->count)
            continue;
        fm_base_json_begin(json, group->name, '{');
        fm_base_json_string(json, "kind", kinds[group->kind]);
        fm_base_json_int(json, "count", (int64_t)group->count);
        put_us(json, "sum_dur_us", group->sum_ns);
        put_us(json, "union_us", group->union_ns);
        fm_base_json_real(json, "pct_of_span", percent(group->union_ns, report->by_name.span_ns));
        if (group->kind != FM_TRACE_COMPUTE) {
            put_us(json, "overlap_us", group->overlap_ns);
            put_us(json, "exposed_us", group->exposed_ns);
        }
        put_us(json, "critical_path_us", report->path.group_ns[i]);
        fm_base_json_end(json);
    }
    fm_base_json_end(json);
}

static void put_kernels(const fm_trace_report *report, fm_json *json)
{
    fm_base_json_begin(json, "kernels", '[');
    for (size_t i = 0; i < report->kernel_count; i++) {
        const fm_trace_kernel *kernel = &report->kernels[i];
        fm_base_json_begin(json, NULL, '{');
        fm_base_json_string(json, "name", fm_trace_data_text(report->trace, kernel->name));
        fm_base_json_string(json, "group", report->groups[kernel->group].name);
        fm_base_json_int(json, "count", (int64_t)kernel->count);
        put_us(json, "total_us", kernel->sum_ns);
        fm_base_json_real(json, "avg_us", (double)kernel->sum_ns / 1000 / (double)kernel->count);
        put_us(json, "min_us", kernel->min_ns);
        put_us(json, "max_us", kernel->max_ns);
        fm_base_json_end(json);
    }
    fm_base_json_end(json);
}

static void put_phase(const fm_trace_report *report, const fm_trace_phase *phase, int is_total, fm_json *json)
{
    static const char *const directions[] = {"F", "B", "W"};
    int64_t first = report->units[phase->unit].first_ns;
    fm_base_json_begin(json, NULL, '{');
    fm_base_json_string(json, "name", fm_trace_data_text(report->trace, phase->name));
    fm_base_json_string(json, "direction", phase->direction < 0 ? NULL : directions[phase->direction]);
    if (is_total)
        fm_base_json_int(json, "count", (int64_t)phase->occurrences);
    else
        put_us(json, "cpu_start_us", phase->begin_ns - first);
    fm_base_json_int(json, "kernels", (int64_t)phase->work_count);
    put_us(json, "cpu_dur_us", phase->host_ns);
    if (!is_total) {
        put_us(json, "gpu_first_us", phase->first_ns - first);
        put_us(json, "gpu_last_us", phase->last_ns - first);
    }
    put_us(json, "gpu_busy_us", phase->busy_ns);
    put_us(json, "compute_us", phase->compute_ns);
    put_us(json, "comm_us", phase->communication_ns);
    put_us(json, "comm_overlapped_us", phase->overlap_ns);
    put_us(json, "comm_exposed_us", phase->exposed_ns);
    fm_base_json_end(json);
}

static void put_phases(const fm_trace_report *report, fm_json *json)
{
    fm_base_json_begin(json, "phases", '[');
    for (size_t i = 0; i < report->phase_total_count; i++)
        put_phase(report, &report->phase_totals[i], 1, json);
    fm_base_json_end(json);
    fm_base_json_begin(json, "phases_in_order", '[');
    for (size_t i = 0; i < report->phase_count; i++)
        put_phase(report, &report->phases[i], 0, json);
    fm_base_json_end(json);
}

static void put_hiding(const fm_trace_hiding *hiding, fm_json *json)
{
    static const char *const names[] = {"F", "B", "W"};
    fm_base_json_begin(json, "hiding", '{');
    for (int d = 0; d < FM_TRACE_DIRECTIONS; d++) {
        fm_base_json_begin(json, names[d], '{');
        fm_base_json_int(json, "kernels", (int64_t)hiding->work_count[d]);
        put_us(json, "compute_us", hiding->compute_ns[d]);
        put_us(json, "comm_us", hiding->communication_ns[d]);
        fm_base_json_begin(json, "comm_under_compute_of_us", '{');
        for (int e = 0; e < FM_TRACE_DIRECTIONS; e++)
            put_us(json, names[e], hiding->under_ns[d][e]);
        put_us(json, "B_or_W", hiding->under_backward_ns[d]);
        fm_base_json_end(json);
        fm_base_json_end(json);
    }
    fm_base_json_end(json);
}

static void put_gaps(const fm_trace_report *report, const char *key, const fm_trace_gaps *gaps, fm_json *json)
{
    fm_base_json_begin(json, key, '{');
    fm_base_json_int(json, "count", (int64_t)gaps->count);
    put_us(json, "total_us", gaps->sum_ns);
    fm_base_json_int(json, "below_10_us", (int64_t)gaps->short_count);
    put_us(json, "below_10_us_total_us", gaps->short_ns);
    fm_base_json_begin(json, "longest", '[');
    for (size_t i = 0; i < sizeof gaps->longest / sizeof gaps->longest[0] && gaps->longest[i].duration_ns;
         i++) {
        fm_base_json_begin(json, NULL, '{');
        put_us(json, "us", gaps->longest[i].duration_ns);
        put_us(json, "at_us", gaps->longest[i].begin_ns - report->units[gaps->longest[i].unit].first_ns);
        fm_base_json_end(json);
    }
    fm_base_json_end(json);
    fm_base_json_end(json);
}

static void put_device(const fm_trace_report *report, fm_json *json)
{
    fm_base_json_begin(json, "sm_time", '{');
    put_us(json, "capacity", report->sm_time.capacity_ns);
    put_us(json, "comm_sm_us", report->sm_time.communication_ns);
    put_us(json, "wait_sm_us", report->sm_time.wait_ns);
    fm_base_json_end(json);
    fm_base_json_begin(json, "zero_sm", '{');
    fm_base_json_int(json, "pairs", (int64_t)report->in_flight.pairs);
    put_us(json, "sum_us", report->in_flight.sum_ns);
    put_us(json, "in_flight_us", report->in_flight.union_ns);
    put_us(json, "overlap_us", report->in_flight.overlap_ns);
    fm_base_json_end(json);
    fm_base_json_begin(json, "launch_to_start", '{');
    fm_base_json_int(json, "count", (int64_t)report->launch.count);
    fm_base_json_int(json, "without_launch", (int64_t)report->launch.unlaunched);
    put_us(json, "min_us", report->launch.min_ns);
    put_us(json, "p50_us", report->launch.median_ns);
    put_us(json, "p90_us", report->launch.p90_ns);
    put_us(json, "max_us", report->launch.max_ns);
    fm_base_json_int(json, "sync_calls", (int64_t)report->launch.sync_calls);
    put_us(json, "sync_us", report->launch.sync_ns);
    fm_base_json_int(json, "event_queries", (int64_t)report->launch.polls);
    fm_base_json_end(json);
}

static void put_path(const fm_trace_path *path, fm_json *json)
{
    fm_base_json_begin(json, "critical_path", '{');
    fm_base_json_int(json, "steps", (int64_t)path->steps);
    put_us(json, "length_us", path->length_ns);
    put_us(json, "compute_us", path->kind_ns[FM_TRACE_COMPUTE]);
    put_us(json, "transfer_us", path->kind_ns[FM_TRACE_TRANSFER]);
    put_us(json, "wait_us", path->kind_ns[FM_TRACE_WAIT]);
    fm_base_json_int(json, "messages", (int64_t)path->messages);
    put_us(json, "message_us", path->message_ns);
    put_us(json, "launch_us", path->launch_ns);
    put_us(json, "gap_us", path->gap_ns);
    fm_base_json_end(json);
}

static void put_skew(const fm_trace_report *report, fm_json *json)
{
    const fm_trace_skew *skew = &report->skew;
    fm_base_json_begin(json, "skew", '{');
    fm_base_json_int(json, "collectives", (int64_t)skew->collectives);
    put_us(json, "waited_us", skew->waited_ns);
    if (skew->last_unit != FM_TRACE_NONE) {
        fm_base_json_string(json, "last_unit", report->units[skew->last_unit].label);
        fm_base_json_int(json, "last_count", (int64_t)skew->last_count);
        put_us(json, "last_waited_us", skew->last_waited_ns);
    }
    fm_base_json_end(json);
}

static void put_findings(const fm_trace_report *report, fm_json *json)
{
    fm_base_json_begin(json, "findings", '[');
    for (size_t i = 0; i < report->finding_count; i++) {
        const fm_trace_finding *finding = &report->findings[i];
        fm_base_json_begin(json, NULL, '{');
        fm_base_json_string(json, "id", finding->id);
        fm_base_json_string(json, "text", finding->text);
        fm_base_json_string(json, "evidence", finding->evidence);
        put_us(json, "saving_us", finding->saving_ns);
        if (finding->end_ns > finding->begin_ns && report->unit_count > 0) {
            put_us(json, "at_us", finding->begin_ns - report->units[0].first_ns);
            put_us(json, "dur_us", finding->end_ns - finding->begin_ns);
        }
        fm_base_json_end(json);
    }
    fm_base_json_end(json);
}

void fm_trace_report_json(const fm_trace_report *report, fm_json *json)
{
    put_files(report->trace, json);
    fm_base_json_begin(json, "overlap", '{');
    put_overlap(json, "by_name", &report->by_name);
    put_overlap(json, "by_stream", &report->by_stream);
    put_overlap(json, "transfer_only", &report->transfer_only);
    fm_base_json_end(json);
    put_units(report, json);
    put_streams(report, json);
    put_groups(report, json);
    put_kernels(report, json);
    put_phases(report, json);
    put_hiding(&report->hiding, json);
    put_gaps(report, "idle_gaps", &report->idle, json);
    put_gaps(report, "compute_gaps", &report->compute_gaps, json);
    put_device(report, json);
    put_skew(report, json);
    put_path(&report->path, json);
    put_findings(report, json);
}
