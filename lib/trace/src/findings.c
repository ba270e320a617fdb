/* What to mend, in sentences: the largest saving first. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "report_build.h"

enum { FINDINGS_MAX = 24, GAPS_SHOWN = 3 };

struct finder {
    struct fm_trace_builder *builder;
    fm_trace_finding *findings;
    size_t count;
};

static double us(int64_t ns)
{
    return (double)ns * 1e-3;
}

static double percent(int64_t part, int64_t whole)
{
    return whole > 0 ? 100.0 * (double)part / (double)whole : 0;
}

/* A new finding, its text and evidence to be filled in; NULL when there are enough. */
static fm_trace_finding *find(struct finder *finder, const char *id, int64_t saving_ns)
{
    if (finder->count == FINDINGS_MAX)
        return NULL;
    fm_trace_finding *finding = &finder->findings[finder->count++];
    finding->id = id;
    finding->saving_ns = saving_ns;
    return finding;
}

static void FM_PRINTF(2, 3) say(char text[320], const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, 320, format, arguments);
    va_end(arguments);
}

static const char *phase_name(const struct fm_trace_builder *builder, const fm_trace_work *work)
{
    if (work->phase == FM_TRACE_NONE)
        return "no phase";
    return fm_trace_data_text(builder->report.trace, builder->phases[work->phase].name);
}

/* What no rule knows is communication where it runs on a stream of such: else a renamed kernel would be no cause of anything. */
static int counts_as_communication(const struct fm_trace_builder *builder, const fm_trace_work *work)
{
    return fm_trace_is_communication(work) || builder->streams[work->stream].is_communication;
}

/* The communication that runs longest within a gap, and how long all of it does. */
static const fm_trace_work *communication_in(const struct fm_trace_builder *builder, const fm_trace_gap *gap,
                                             int64_t *out_covered)
{
    struct fm_trace_range range = builder->works_of_unit[gap->unit];
    const fm_trace_work *longest = NULL;
    int64_t most = 0, end = gap->begin_ns + gap->duration_ns, done = gap->begin_ns;
    *out_covered = 0;
    for (size_t i = range.begin; i < range.end && builder->works[i].begin_ns < end; i++) {
        const fm_trace_work *work = &builder->works[i];
        int64_t from = work->begin_ns > gap->begin_ns ? work->begin_ns : gap->begin_ns;
        int64_t to = work->end_ns < end ? work->end_ns : end;
        if (!counts_as_communication(builder, work) || to <= from)
            continue;
        if (to - from > most) {
            most = to - from;
            longest = work;
        }
        if (to > done) {
            *out_covered += to - (from > done ? from : done);
            done = to;
        }
    }
    return longest;
}

static void explain_gap(struct finder *finder, const fm_trace_gap *gap)
{
    const struct fm_trace_builder *builder = finder->builder;
    const fm_trace *trace = builder->report.trace;
    int64_t covered, at = gap->begin_ns - builder->units[gap->unit].first_ns;
    const fm_trace_work *work = communication_in(builder, gap, &covered);
    int is_exposed = work && covered > gap->duration_ns / 2;
    fm_trace_finding *finding = find(finder, is_exposed ? "exposed_gap" : "stall", gap->duration_ns);
    if (!finding)
        return;
    finding->begin_ns = gap->begin_ns;
    finding->end_ns = gap->begin_ns + gap->duration_ns;
    if (is_exposed)
        say(finding->text,
            "Computation on %s stands still for %.0f us at %.0f us while %s runs in phase %s: %.0f %% of all "
            "exposed "
            "communication. Start that communication earlier, or give computation that does not need it.",
            builder->units[gap->unit].label, us(gap->duration_ns), us(at),
            fm_trace_is_communication(work) ? builder->groups[work->group].name
                                            : "an unknown kernel of a communication stream",
            phase_name(builder, work),
            percent(covered, fm_trace_is_communication(work) ? builder->report.by_name.exposed_ns
                                                             : builder->report.by_stream.exposed_ns));
    else
        say(finding->text,
            "Computation on %s stands still for %.0f us at %.0f us, and communication fills only %.0f us of "
            "that: "
            "it waits for the host, for a copy or for other work. Find what the next kernel waits for.",
            builder->units[gap->unit].label, us(gap->duration_ns), us(at), us(covered));
    say(finding->evidence, "between '%.90s' and '%.90s'%s%.60s%s",
        fm_trace_data_text(trace, trace->slices[gap->after].name),
        fm_trace_data_text(trace, trace->slices[gap->before].name), work ? ", beside '" : "",
        work ? fm_trace_data_text(trace, trace->slices[work->slice].name) : "", work ? "'" : "");
}

static void find_in_gaps(struct finder *finder)
{
    const fm_trace_report *report = &finder->builder->report;
    for (int i = 0; i < GAPS_SHOWN; i++) {
        const fm_trace_gap *gap = &report->compute_gaps.longest[i];
        // Below a thousandth of the run a single gap is not worth a sentence.
        if (gap->duration_ns == 0 || gap->duration_ns < report->by_name.span_ns / 1000)
            break;
        explain_gap(finder, gap);
    }
    if (report->compute_gaps.short_count > 0 &&
        percent(report->compute_gaps.short_ns, report->by_name.span_ns) > 0.5) {
        fm_trace_finding *finding = find(finder, "launch_gaps", report->compute_gaps.short_ns);
        if (!finding)
            return;
        say(finding->text,
            "%llu gaps of less than 10 us between kernels add up to %.0f us, %.1f %% of the run: fuse small "
            "kernels, or "
            "launch them as a graph.",
            (unsigned long long)report->compute_gaps.short_count, us(report->compute_gaps.short_ns),
            percent(report->compute_gaps.short_ns, report->by_name.span_ns));
        say(finding->evidence, "%llu gaps in all, %.0f us", (unsigned long long)report->compute_gaps.count,
            us(report->compute_gaps.sum_ns));
    }
}

static void find_exposed(struct finder *finder)
{
    const fm_trace_report *report = &finder->builder->report;
    const fm_trace_overlap *overlap = &report->by_name;
    if (percent(overlap->exposed_ns, overlap->span_ns) < 1)
        return;
    fm_trace_finding *finding = find(finder, "exposed_communication", overlap->exposed_ns);
    if (!finding)
        return;
    const fm_trace_phase *worst = NULL;
    for (size_t i = 0; i < report->phase_total_count; i++)
        if (!worst || report->phase_totals[i].exposed_ns > worst->exposed_ns)
            worst = &report->phase_totals[i];
    say(finding->text,
        "%.0f us of communication, %.1f %% of the run, hide under no computation (%.1f %% of all "
        "communication do).",
        us(overlap->exposed_ns), percent(overlap->exposed_ns, overlap->span_ns),
        percent(overlap->overlap_ns, overlap->communication_ns));
    if (worst && worst->exposed_ns > 0)
        say(finding->evidence, "the most in phase %s: %.0f of %.0f us exposed in %llu occurrences",
            fm_trace_data_text(report->trace, worst->name), us(worst->exposed_ns),
            us(worst->communication_ns), (unsigned long long)worst->occurrences);
}

/* Waits in the two halves of the run: whether ranks drift apart. */
static void find_waits(struct finder *finder)
{
    struct fm_trace_builder *builder = finder->builder;
    const fm_trace_report *report = &builder->report;
    int64_t sum = 0, exposed = 0, half[2] = {0, 0};
    for (size_t g = 0; g < report->group_count; g++)
        if (report->groups[g].kind == FM_TRACE_WAIT) {
            sum += report->groups[g].union_ns;
            exposed += report->groups[g].exposed_ns;
        }
    if (percent(sum, report->by_name.communication_ns) < 10)
        return;
    for (size_t i = 0; i < report->work_count; i++) {
        const fm_trace_work *work = &builder->works[i];
        const fm_trace_unit *unit = &builder->units[work->unit];
        int64_t length = unit->last_ns - unit->first_ns;
        if (work->kind == FM_TRACE_WAIT && length > 0)
            half[work->begin_ns - unit->first_ns > length / 2] += work->end_ns - work->begin_ns;
    }
    fm_trace_finding *finding = find(finder, "waiting", exposed);
    if (!finding)
        return;
    say(finding->text,
        "%.1f %% of communication (%.0f us) moves nothing but waits for other ranks; %.0f us of it are "
        "exposed, and it "
        "holds %.2f %% of all SM time. Balance the ranks' work before tuning the transfers.",
        percent(sum, report->by_name.communication_ns), us(sum), us(exposed),
        percent(report->sm_time.wait_ns, report->sm_time.capacity_ns));
    say(finding->evidence, "%.0f us in the first half of the run, %.0f us in the second%s", us(half[0]),
        us(half[1]), half[1] > half[0] + half[0] / 3 ? ": the ranks drift apart" : "");
}

/* One unit that the others wait for. */
static void find_straggler(struct finder *finder)
{
    const fm_trace_report *report = &finder->builder->report;
    const fm_trace_skew *skew = &report->skew;
    // Of ranks that are alike each comes last as often as the others; one that does twice as often is not.
    if (skew->last_unit == FM_TRACE_NONE || percent(skew->last_waited_ns, report->by_name.span_ns) < 1 ||
        skew->last_count * report->unit_count < 2 * skew->collectives)
        return;
    int64_t each = skew->last_waited_ns / (int64_t)(report->unit_count - 1);
    fm_trace_finding *finding = find(finder, "straggler", each);
    if (!finding)
        return;
    say(finding->text,
        "%s enters %.0f %% of the %llu collectives of all ranks last; the others wait for it for %.0f us "
        "each. Find what "
        "it does more of than they do.",
        report->units[skew->last_unit].label, percent((int64_t)skew->last_count, (int64_t)skew->collectives),
        (unsigned long long)skew->collectives, us(each));
    say(finding->evidence, "%.0f of %.0f us that all units wait in collectives for the last to come",
        us(skew->last_waited_ns), us(skew->waited_ns));
}

static void find_sm_time(struct finder *finder)
{
    const fm_trace_report *report = &finder->builder->report;
    const fm_trace_sm_time *time = &report->sm_time;
    double share = percent(time->communication_ns, time->capacity_ns);
    if (share < 5)
        return;
    fm_trace_finding *finding = find(finder, "sm_held", 0);
    if (!finding)
        return;
    say(finding->text,
        "Communication kernels hold %.1f %% of all SM time. Transfers that hold no SM (low-latency kernels "
        "that send, "
        "return and receive later) would leave it to computation.",
        share);
    say(finding->evidence, "%.0f of %.0f SM us", us(time->communication_ns), us(time->capacity_ns));
}

/* Work on a communication stream that the rules do not know as communication. */
static void find_unknown(struct finder *finder)
{
    struct fm_trace_builder *builder = finder->builder;
    const fm_trace_report *report = &builder->report;
    for (size_t s = 0; s < report->stream_count; s++) {
        const fm_trace_stream *stream = &report->streams[s];
        int64_t unknown = stream->sum_ns - stream->communication_ns;
        if (!stream->is_communication || percent(unknown, stream->sum_ns) < 10)
            continue;
        const fm_trace_work *longest = NULL;
        for (size_t i = 0; i < report->work_count; i++) {
            const fm_trace_work *work = &builder->works[i];
            if (work->stream == s && !fm_trace_is_communication(work) &&
                (!longest || work->end_ns - work->begin_ns > longest->end_ns - longest->begin_ns))
                longest = work;
        }
        // What the stream exposes and the names do not tell stands to be gained by who knows of it.
        const fm_trace_unit *unit = &builder->units[stream->unit];
        int64_t hidden = unit->by_stream.exposed_ns - unit->by_name.exposed_ns;
        fm_trace_finding *finding = find(finder, "unknown_communication", hidden > 0 ? hidden : 0);
        if (!finding)
            return;
        say(finding->text,
            "Stream %lld of %s is mostly communication, but %.0f us of its %.0f us are kernels that no rule "
            "knows as "
            "communication. If they are, add them to the rules (--rules): the overlap by name is wrong until "
            "then.",
            (long long)stream->stream, builder->units[stream->unit].label, us(unknown), us(stream->sum_ns));
        say(finding->evidence, "the longest: '%.200s'",
            fm_trace_data_text(report->trace, report->trace->slices[longest->slice].name));
    }
}

static void find_host(struct finder *finder)
{
    const fm_trace_report *report = &finder->builder->report;
    const fm_trace_launch *launch = &report->launch;
    fm_trace_finding *finding;
    if (percent(report->path.launch_ns, report->path.length_ns) > 2 &&
        (finding = find(finder, "host_bound", report->path.launch_ns))) {
        say(finding->text,
            "On the critical path the device waits %.0f us (%.1f %%) for calls of the host: make the host's "
            "part "
            "shorter, or launch graphs.",
            us(report->path.launch_ns), percent(report->path.launch_ns, report->path.length_ns));
        say(finding->evidence, "from a call to its kernel: median %.0f us, at least %.0f us",
            us(launch->median_ns), us(launch->min_ns));
    }
    // Some queries a step are normal; thousands are a loop that polls.
    if (launch->polls > 500 && (finding = find(finder, "polling", 0))) {
        say(finding->text,
            "The host polls: %llu event queries. Where it waits for counts from the device, let the "
            "device's side use them without the host.",
            (unsigned long long)launch->polls);
        say(finding->evidence, "%llu synchronising calls beside, %.0f us",
            (unsigned long long)launch->sync_calls, us(launch->sync_ns));
    }
}

static int largest_first(const void *a, const void *b)
{
    const fm_trace_finding *x = a, *y = b;
    if (x->saving_ns != y->saving_ns)
        return x->saving_ns > y->saving_ns ? -1 : 1;
    int order = strcmp(x->id, y->id);
    return order ? order : strcmp(x->text, y->text);
}

fm_status fm_trace_build_findings(struct fm_trace_builder *builder)
{
    struct finder finder = {.builder = builder};
    FM_TRY(fm_trace_take(&builder->arena, FINDINGS_MAX, sizeof *finder.findings, &finder.findings));
    find_in_gaps(&finder);
    find_exposed(&finder);
    find_waits(&finder);
    find_straggler(&finder);
    find_sm_time(&finder);
    find_unknown(&finder);
    find_host(&finder);
    qsort(finder.findings, finder.count, sizeof *finder.findings, largest_first);
    builder->report.findings = finder.findings;
    builder->report.finding_count = finder.count;
    return FM_OK;
}
