#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "depend.h"
#include "fathom/trace_compare.h"
#include "intervals.h"

struct player {
    const fm_trace_report *report;
    double group_factor[FM_TRACE_GROUPS_MAX];
    double launch_factor;
    const struct fm_trace_dependency *dependencies;
    struct fm_trace_interval *played; // by work
};

/* Sets the factor of what `name` names; 0 when it names nothing. */
static int set_factor(struct player *player, const char *name, double factor)
{
    const fm_trace_report *report = player->report;
    int found = strcmp(name, "launch") == 0;
    if (found)
        player->launch_factor = factor;
    for (size_t i = 0; i < report->group_count; i++) {
        fm_trace_work_kind kind = report->groups[i].kind;
        if (strcmp(name, report->groups[i].name) == 0 ||
            (strcmp(name, "compute") == 0 && kind == FM_TRACE_COMPUTE) ||
            (strcmp(name, "transfer") == 0 && kind == FM_TRACE_TRANSFER) ||
            (strcmp(name, "wait") == 0 && kind == FM_TRACE_WAIT) ||
            (strcmp(name, "comm") == 0 && kind != FM_TRACE_COMPUTE)) {
            player->group_factor[i] = factor;
            found = 1;
        }
    }
    return found;
}

static fm_status unknown_name(const fm_trace_report *report, const char *name)
{
    char known[600];
    size_t used = (size_t)snprintf(known, sizeof known, "compute, transfer, wait, comm, launch");
    for (size_t i = 0; i < report->group_count && used < sizeof known; i++)
        if (report->groups[i].count)
            used += (size_t)snprintf(known + used, sizeof known - used, ", %s", report->groups[i].name);
    return fm_base_error_set(FM_ERR_ARG, "nothing is named '%s'; known: %s", name, known);
}

static fm_status read_scale(struct player *player, const char *scale)
{
    for (size_t i = 0; i < FM_TRACE_GROUPS_MAX; i++)
        player->group_factor[i] = 1;
    player->launch_factor = 1;
    for (const char *p = scale;; p++) {
        char name[64];
        double factor;
        int read = 0;
        // A factor of a million is beyond any question, and keeps times within 64 bits.
        if (sscanf(p, " %63[^*, ] * %lf %n", name, &factor, &read) != 2 || !(factor >= 0 && factor <= 1e6))
            return fm_base_error_set(FM_ERR_ARG, "the scale '%s' is not of the form 'comm*0.5,launch*0'", p);
        if (!set_factor(player, name, factor))
            return unknown_name(player->report, name);
        p += read;
        if (!*p)
            return FM_OK;
        if (*p != ',')
            return fm_base_error_set(FM_ERR_ARG, "the scale goes on with '%s'; expected ','", p);
    }
}

static int64_t later(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* When the work begins: all before it in the order of works have been played. */
static int64_t begin_of(const struct player *player, size_t index)
{
    const fm_trace_work *works = player->report->works, *work = &works[index];
    const struct fm_trace_dependency *dependency = &player->dependencies[index];
    int64_t begin = INT64_MIN;
    if (dependency->cause == FM_TRACE_CAUSE_NONE)
        return work->begin_ns;
    if (work->launch != FM_TRACE_NONE) {
        const fm_trace_slice *call = &player->report->trace->slices[work->launch];
        int64_t called = call->begin_ns + call->duration_ns;
        if (dependency->cause == FM_TRACE_CAUSE_LAUNCH)
            begin = work->begin_ns;
        else if (called <= work->begin_ns) // clocks of host and device may differ by some microseconds
            begin = called;
    }
    if (dependency->previous != FM_TRACE_NONE) {
        int64_t gap = work->begin_ns - works[dependency->previous].end_ns;
        int64_t end = player->played[dependency->previous].end;
        int follows = dependency->cause == FM_TRACE_CAUSE_STREAM;
        // Work of a stream that overlaps its predecessor goes on doing so.
        if (follows || gap < 0)
            end += gap > 0 ? (int64_t)((double)gap * player->launch_factor) : gap;
        begin = later(begin, end);
    }
    if (dependency->cause == FM_TRACE_CAUSE_OTHER)
        begin = later(begin, player->played[dependency->other].end +
                                 (work->begin_ns - works[dependency->other].end_ns));
    return begin == INT64_MIN ? work->begin_ns : begin;
}

static int by_begin(const void *a, const void *b)
{
    const fm_trace_work *x = a, *y = b;
    return x->begin_ns < y->begin_ns ? -1 : x->begin_ns > y->begin_ns;
}

/* The overlap of a unit's works, which are sorted here. */
static void measure_unit(fm_trace_work *works, size_t count, struct fm_trace_set sets[3],
                         fm_trace_overlap *sum)
{
    qsort(works, count, sizeof *works, by_begin);
    int64_t end = works[0].end_ns;
    for (int i = 0; i < 3; i++)
        sets[i].count = 0;
    for (size_t i = 0; i < count; i++) {
        fm_trace_set_add(&sets[0], works[i].begin_ns, works[i].end_ns);
        fm_trace_set_add(&sets[works[i].kind == FM_TRACE_COMPUTE ? 1 : 2], works[i].begin_ns,
                         works[i].end_ns);
        end = later(end, works[i].end_ns);
    }
    int64_t span = end - works[0].begin_ns, busy = fm_trace_set_measure(&sets[0]);
    int64_t communication = fm_trace_set_measure(&sets[2]), overlap = fm_trace_set_common(&sets[2], &sets[1]);
    sum->span_ns += span;
    sum->busy_ns += busy;
    sum->idle_ns += span - busy;
    sum->compute_ns += fm_trace_set_measure(&sets[1]);
    sum->communication_ns += communication;
    sum->overlap_ns += overlap;
    sum->exposed_ns += communication - overlap;
}

static void play(struct player *player, fm_trace_work *works, struct fm_trace_set sets[3],
                 fm_trace_overlap *after)
{
    const fm_trace_report *report = player->report;
    for (size_t i = 0; i < report->work_count; i++) {
        const fm_trace_work *work = &report->works[i];
        int64_t begin = begin_of(player, i);
        int64_t duration = work->end_ns - work->begin_ns;
        double factor = player->group_factor[work->group];
        duration = factor == 1 ? duration : (int64_t)((double)duration * factor);
        player->played[i] = (struct fm_trace_interval){begin, begin + duration};
        works[i] = *work;
        works[i].begin_ns = begin;
        works[i].end_ns = begin + duration;
    }
    for (size_t i = 0; i < report->work_count;) {
        size_t first = i;
        while (i < report->work_count && report->works[i].unit == report->works[first].unit)
            i++;
        measure_unit(works + first, i - first, sets, after);
    }
}

fm_status fm_trace_replay_run(const fm_trace_report *report, const char *scale, fm_trace_replay *out_replay)
{
    struct player player = {.report = report};
    struct fm_trace_dependency *dependencies;
    struct fm_trace_set sets[3] = {{0}};
    fm_arena arena = {0};
    FM_TRY(read_scale(&player, scale));
    fm_status status = fm_trace_dependencies(report, &arena, &dependencies);
    size_t count = report->work_count + 1;
    fm_trace_work *works = fm_base_mem_zalloc(count, sizeof *works);
    player.played = fm_base_mem_zalloc(count, sizeof *player.played);
    for (int i = 0; i < 3; i++)
        sets[i].at = fm_base_mem_zalloc(count, sizeof *sets[i].at);
    if (status == FM_OK && (!works || !player.played || !sets[0].at || !sets[1].at || !sets[2].at))
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory to replay a trace");
    if (status == FM_OK) {
        player.dependencies = dependencies;
        fm_trace_replay replay = {.before = report->by_name};
        play(&player, works, sets, &replay.after);
        *out_replay = replay;
    }
    for (int i = 0; i < 3; i++)
        fm_base_mem_free(sets[i].at);
    fm_base_mem_free(player.played);
    fm_base_mem_free(works);
    fm_base_arena_clear(&arena);
    return status;
}
