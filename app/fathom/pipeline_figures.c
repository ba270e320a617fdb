#include "pipeline_figures.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fathom/mem.h"
#include "fathom/trace.h"

enum { KINDS = FM_PIPE_FB + 1 };

/** Operations of a step, or of several. */
struct work {
    int64_t first, last, busy;
    int64_t count[KINDS], time[KINDS];
};

static int is_text(const fm_trace *trace, uint32_t text, const char *expected)
{
    return strcmp(fm_trace_data_text(trace, text), expected) == 0;
}

// The kind of operation that a slice is; -1: none.
static int kind_of(const fm_trace *trace, const fm_trace_slice *slice)
{
    if (slice->kind != FM_TRACE_SPAN || !is_text(trace, slice->category, "pipe"))
        return -1;
    for (int kind = 0; kind < KINDS; kind++)
        if (is_text(trace, slice->name, fm_pipe_kind_name((fm_pipe_kind)kind)))
            return kind;
    return -1;
}

static struct work within(const fm_trace *trace, int64_t begin, int64_t end)
{
    struct work work = {.first = INT64_MAX, .last = INT64_MIN};
    for (size_t i = 0; i < trace->slice_count; i++) {
        const fm_trace_slice *slice = &trace->slices[i];
        int64_t stop = slice->begin_ns + slice->duration_ns;
        int kind = slice->begin_ns >= begin && stop <= end ? kind_of(trace, slice) : -1;
        if (kind < 0)
            continue;
        work.first = slice->begin_ns < work.first ? slice->begin_ns : work.first;
        work.last = stop > work.last ? stop : work.last;
        work.busy += slice->duration_ns;
        work.count[kind]++;
        work.time[kind] += slice->duration_ns;
    }
    return work;
}

// Micro-batches of a step by its forwards: each passes every stage once. 0: the step is not whole.
static int micro_batches_of(const struct work *step, const fm_pipe_program *program, int expert_ranks)
{
    int64_t forwards = step->count[FM_PIPE_F] + step->count[FM_PIPE_FB];
    int64_t backwards = step->count[FM_PIPE_B] + step->count[FM_PIPE_I] + step->count[FM_PIPE_FB];
    int64_t each = (int64_t)program->stages * expert_ranks;
    return forwards == backwards && forwards % each == 0 ? (int)(forwards / each) : 0;
}

static double mean(const struct work *work, int kind)
{
    return work->count[kind] ? (double)work->time[kind] / (double)work->count[kind] : 0;
}

static fm_status simulate(const struct work *all, const fm_pipe_shape *shape, fm_pipeline_figures *figures)
{
    fm_pipe_program *program = NULL;
    fm_pipe_simulation *simulation = NULL;
    // In forward times, which suit the drawing's axis; the last stage's loss is in the means as all else.
    double unit = mean(all, FM_PIPE_F) > 0 ? mean(all, FM_PIPE_F) : 1;
    fm_pipe_stage_cost cost = {.f = mean(all, FM_PIPE_F) / unit,
                               .i = mean(all, FM_PIPE_I) / unit,
                               .w = mean(all, FM_PIPE_W) / unit,
                               .b = mean(all, FM_PIPE_B) / unit,
                               .fb = mean(all, FM_PIPE_FB) / unit};
    fm_pipe_costs costs = {.size = sizeof costs, .stages = &cost, .stage_count = 1};
    FM_TRY(fm_pipe_program_generate(shape, &program));
    fm_status status = fm_pipe_simulation_run(program, &costs, &simulation);
    if (status == FM_OK)
        status = fm_pipe_draw_svg(program, simulation, &figures->drawing);
    if (status == FM_OK)
        figures->simulated = simulation->bubble_ratio;
    fm_pipe_simulation_free(simulation);
    fm_pipe_program_free(program);
    return status;
}

static fm_status measure(const fm_trace *trace, const fm_pipe_program *program, int expert_ranks,
                         fm_pipeline_figures *figures)
{
    struct work all = {0};
    double idle = 0;
    for (size_t i = 0; i < trace->slice_count; i++) {
        const fm_trace_slice *slice = &trace->slices[i];
        if (!is_text(trace, slice->name, "step") || !is_text(trace, slice->category, "train"))
            continue;
        struct work step = within(trace, slice->begin_ns, slice->begin_ns + slice->duration_ns);
        int micro_batches = micro_batches_of(&step, program, expert_ranks);
        if (micro_batches == 0 || (figures->micro_batches && micro_batches != figures->micro_batches))
            continue;
        double span = (double)(step.last - step.first) * program->ranks * expert_ranks;
        figures->micro_batches = micro_batches;
        figures->steps++;
        idle += span > 0 ? fmax(0, 1 - (double)step.busy / span) : 0;
        for (int kind = 0; kind < KINDS; kind++) {
            all.count[kind] += step.count[kind];
            all.time[kind] += step.time[kind];
        }
    }
    if (figures->steps == 0)
        return fm_base_error_set(FM_ERR_NOT_FOUND, "the trace has no whole step of a pipeline");
    figures->measured = idle / figures->steps;
    fm_pipe_shape shape = {.size = sizeof shape,
                           .schedule = program->schedule,
                           .ranks = program->ranks,
                           .micro_batches = figures->micro_batches};
    return simulate(&all, &shape, figures);
}

/** An operation of a rank, a receive of a thread, or the sending of a message. */
struct interval {
    uint64_t id;    // of a message sent
    uint32_t place; // process or track of the trace
    int64_t begin, end;
    double bytes; // of a receive
};

static int by_begin(const void *left, const void *right)
{
    const struct interval *a = left, *b = right;
    if (a->place != b->place)
        return a->place < b->place ? -1 : 1;
    return (a->begin > b->begin) - (a->begin < b->begin);
}

static int by_id(const void *left, const void *right)
{
    const struct interval *a = left, *b = right;
    return (a->id > b->id) - (a->id < b->id);
}

// The last interval of a place that begins at `at` or before; the first of all where there is none. Intervals of a place do not
// overlap.
static size_t find(const struct interval *intervals, size_t count, uint32_t place, int64_t at)
{
    const struct interval probe = {.place = place, .begin = at};
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (by_begin(&intervals[middle], &probe) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low > 0 ? low - 1 : 0;
}

// Time between two moments in which a rank's operations ran.
static int64_t covered(const struct interval *ops, size_t count, uint32_t place, int64_t begin, int64_t end)
{
    int64_t sum = 0;
    for (size_t i = find(ops, count, place, begin); i < count; i++) {
        if (ops[i].place > place || (ops[i].place == place && ops[i].begin >= end))
            break;
        int64_t from = ops[i].begin > begin ? ops[i].begin : begin;
        int64_t to = ops[i].end < end ? ops[i].end : end;
        sum += ops[i].place == place && to > from ? to - from : 0;
    }
    return sum;
}

static double bytes_of(const fm_trace *trace, const fm_trace_slice *slice)
{
    const fm_trace_args *args = &trace->args[slice - trace->slices];
    if (args->length == 0)
        return 0; // a trace without any has no text
    const char *key = memmem(trace->args_text + args->offset, args->length, "\"bytes\":", 8);
    return key ? strtod(key + 8, NULL) : 0;
}

struct traffic {
    struct interval *ops, *sent, *received;
    size_t op_count, sent_count, received_count;
};

static void sort(struct interval *intervals, size_t count, int (*compare)(const void *, const void *))
{
    if (count)
        qsort(intervals, count, sizeof *intervals, compare);
}

static void collect(const fm_trace *trace, struct traffic *traffic)
{
    for (size_t i = 0; i < trace->slice_count; i++) {
        const fm_trace_slice *slice = &trace->slices[i];
        struct interval interval = {.place = trace->tracks[slice->track].process,
                                    .begin = slice->begin_ns,
                                    .end = slice->begin_ns + slice->duration_ns};
        if (kind_of(trace, slice) >= 0) {
            traffic->ops[traffic->op_count++] = interval;
        } else if (is_text(trace, slice->name, "receive") && is_text(trace, slice->category, "pipe")) {
            interval.place = slice->track;
            interval.bytes = bytes_of(trace, slice);
            traffic->received[traffic->received_count++] = interval;
        }
    }
    for (size_t i = 0; i < trace->flow_count; i++)
        if (trace->flows[i].phase == 's' && is_text(trace, trace->flows[i].category, "pipe"))
            traffic->sent[traffic->sent_count++] =
                (struct interval){.id = trace->flows[i].id, .begin = trace->flows[i].at_ns};
    sort(traffic->ops, traffic->op_count, by_begin);
    sort(traffic->received, traffic->received_count, by_begin);
    sort(traffic->sent, traffic->sent_count, by_id);
}

// A message that has arrived: how much of its way its receiver computed.
static void add_message(const fm_trace *trace, const struct traffic *traffic, const fm_trace_flow *flow,
                        fm_pipeline_figures *figures)
{
    const struct interval key = {.id = flow->id};
    const struct interval *sent =
        traffic->sent_count ? bsearch(&key, traffic->sent, traffic->sent_count, sizeof key, by_id) : NULL;
    if (!sent || sent->begin >= flow->at_ns || traffic->received_count == 0)
        return;
    const struct interval *received =
        &traffic->received[find(traffic->received, traffic->received_count, flow->track, flow->at_ns)];
    if (received->place != flow->track || received->begin > flow->at_ns || received->end < flow->at_ns)
        return;
    int64_t busy = covered(traffic->ops, traffic->op_count, trace->tracks[flow->track].process, sent->begin,
                           flow->at_ns);
    figures->sent_bytes += received->bytes;
    figures->hidden_bytes += received->bytes * (double)busy / (double)(flow->at_ns - sent->begin);
}

static fm_status measure_traffic(const fm_trace *trace, fm_pipeline_figures *figures)
{
    struct traffic traffic = {
        .ops = fm_base_mem_zalloc(trace->slice_count + 1, sizeof *traffic.ops),
        .sent = fm_base_mem_zalloc(trace->flow_count + 1, sizeof *traffic.sent),
        .received = fm_base_mem_zalloc(trace->slice_count + 1, sizeof *traffic.received),
    };
    fm_status status = traffic.ops && traffic.sent && traffic.received
                           ? FM_OK
                           : fm_base_error_set(FM_ERR_NOMEM, "no memory for the messages of a trace");
    if (status == FM_OK)
        collect(trace, &traffic);
    for (size_t i = 0; status == FM_OK && i < trace->flow_count; i++)
        if (trace->flows[i].phase == 'f' && is_text(trace, trace->flows[i].category, "pipe"))
            add_message(trace, &traffic, &trace->flows[i], figures);
    fm_base_mem_free(traffic.ops);
    fm_base_mem_free(traffic.sent);
    fm_base_mem_free(traffic.received);
    return status;
}

fm_status fm_app_pipeline_measure(const char *trace_path, fm_pipe_schedule schedule, int pipe_ranks,
                                  int expert_ranks, fm_pipeline_figures *out_figures)
{
    fm_trace *trace = NULL;
    fm_pipe_program *program = NULL;
    fm_pipeline_figures figures = {0};
    // Any number of micro-batches has the same stages.
    fm_pipe_shape shape = {
        .size = sizeof shape, .schedule = schedule, .ranks = pipe_ranks, .micro_batches = 2 * pipe_ranks};
    FM_TRY(fm_pipe_program_generate(&shape, &program));
    const fm_trace_read_options options = {.size = sizeof options, .keep_args = 1};
    fm_status status = fm_trace_data_read(&trace_path, 1, &options, &trace);
    if (status == FM_OK)
        status = measure_traffic(trace, &figures);
    if (status == FM_OK)
        status = measure(trace, program, expert_ranks, &figures);
    fm_trace_data_free(trace);
    fm_pipe_program_free(program);
    if (status == FM_OK)
        *out_figures = figures;
    return status;
}
