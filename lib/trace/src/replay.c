#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "depend.h"
#include "fathom/trace_compare.h"
#include "intervals.h"
#include "messages.h"

struct player {
    const fm_trace_report *report;
    double group_factor[FM_TRACE_GROUPS_MAX];
    double launch_factor;
    const struct fm_trace_dependency *dependencies;
    const struct fm_trace_message *messages; // those of work i: first[i] .. first[i + 1] - 1
    const size_t *first;
    struct fm_trace_interval *played; // by work; as it was until it is played
    unsigned char *state;             // by work: WAITING, ...
    size_t *next;                     // by work: the cause that is looked at next
    uint32_t *stack;
};

enum { WAITING, ON_STACK, PLAYED };

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

static double factor_of(const struct player *player, const fm_trace_work *work)
{
    return player->group_factor[work->group];
}

static int64_t scaled(int64_t ns, double factor)
{
    return factor == 1 ? ns : (int64_t)((double)ns * factor);
}

/* When the message is sent in the replay. */
static int64_t sent_at(const struct player *player, const struct fm_trace_message *message)
{
    const fm_trace_work *sender = &player->report->works[message->sender];
    return player->played[message->sender].begin +
           scaled(message->sent_ns - sender->begin_ns, factor_of(player, sender));
}

/* When the work begins: what it waited for has been played. */
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
    begin = begin == INT64_MIN ? work->begin_ns : begin;
    for (size_t i = player->first[index]; i < player->first[index + 1]; i++)
        if (!fm_trace_message_held_up(&player->messages[i], work))
            begin = later(begin, sent_at(player, &player->messages[i]) +
                                     scaled(player->messages[i].flight_ns, factor_of(player, work)));
    return begin;
}

/* When work ends that begins then. Work that waited for a message goes on when the message comes. */
static int64_t end_of(const struct player *player, size_t index, int64_t begin)
{
    const fm_trace_work *work = &player->report->works[index];
    double factor = factor_of(player, work);
    int64_t end = INT64_MIN;
    for (size_t i = player->first[index]; i < player->first[index + 1]; i++) {
        const struct fm_trace_message *message = &player->messages[i];
        if (!fm_trace_message_held_up(message, work))
            continue;
        int64_t taken = sent_at(player, message) + scaled(message->taken_ns - message->sent_ns, factor);
        end = later(end, later(begin, taken) + scaled(work->end_ns - message->taken_ns, factor));
    }
    return end == INT64_MIN ? begin + scaled(work->end_ns - work->begin_ns, factor) : end;
}

/* The next cause of a work that has not been looked at; FM_TRACE_NONE when there is none left. */
static uint32_t next_cause(struct player *player, uint32_t index)
{
    const struct fm_trace_dependency *dependency = &player->dependencies[index];
    while (player->next[index] < 2 + player->first[index + 1] - player->first[index]) {
        size_t which = player->next[index]++;
        uint32_t cause = which == 0 ? dependency->previous
                         : which == 1
                             ? (dependency->cause == FM_TRACE_CAUSE_OTHER ? dependency->other : FM_TRACE_NONE)
                             : player->messages[player->first[index] + which - 2].sender;
        if (cause != FM_TRACE_NONE && player->state[cause] == WAITING)
            return cause;
    }
    return FM_TRACE_NONE;
}

/* Plays a work after its causes. Messages may run in circles where clocks differ: who is met again keeps its time. */
static void play_work(struct player *player, uint32_t index)
{
    size_t depth = 0;
    player->stack[depth++] = index;
    player->state[index] = ON_STACK;
    while (depth > 0) {
        uint32_t at = player->stack[depth - 1], cause = next_cause(player, at);
        if (cause != FM_TRACE_NONE) {
            player->state[cause] = ON_STACK;
            player->stack[depth++] = cause;
            continue;
        }
        int64_t begin = begin_of(player, at);
        player->played[at] = (struct fm_trace_interval){begin, end_of(player, at, begin)};
        player->state[at] = PLAYED;
        depth--;
    }
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
    for (size_t i = 0; i < report->work_count; i++)
        player->played[i] = (struct fm_trace_interval){report->works[i].begin_ns, report->works[i].end_ns};
    for (size_t i = 0; i < report->work_count; i++)
        if (player->state[i] == WAITING)
            play_work(player, (uint32_t)i);
    for (size_t i = 0; i < report->work_count; i++) {
        works[i] = report->works[i];
        works[i].begin_ns = player->played[i].begin;
        works[i].end_ns = player->played[i].end;
    }
    for (size_t i = 0; i < report->work_count;) {
        size_t first = i;
        while (i < report->work_count && report->works[i].unit == report->works[first].unit)
            i++;
        measure_unit(works + first, i - first, sets, after);
    }
}

static fm_status take(fm_arena *arena, size_t count, size_t size, void *out_pointer)
{
    size_t bytes = 0;
    FM_TRY(fm_mul_size(count, size, &bytes));
    void *block = fm_base_arena_alloc(arena, bytes);
    if (!block)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to replay a trace");
    memset(block, 0, bytes);
    memcpy(out_pointer, &block, sizeof block);
    return FM_OK;
}

static fm_status prepare(struct player *player, fm_arena *arena, fm_trace_work **out_works,
                         struct fm_trace_set sets[3])
{
    size_t count = player->report->work_count + 1;
    struct fm_trace_dependency *dependencies;
    struct fm_trace_message *messages;
    size_t *first;
    FM_TRY(fm_trace_dependencies(player->report, arena, &dependencies));
    FM_TRY(fm_trace_messages(player->report, arena, &messages, &first));
    player->dependencies = dependencies;
    player->messages = messages;
    player->first = first;
    FM_TRY(take(arena, count, sizeof **out_works, out_works));
    FM_TRY(take(arena, count, sizeof *player->played, &player->played));
    FM_TRY(take(arena, count, sizeof *player->state, &player->state));
    FM_TRY(take(arena, count, sizeof *player->next, &player->next));
    FM_TRY(take(arena, count, sizeof *player->stack, &player->stack));
    for (int i = 0; i < 3; i++)
        FM_TRY(take(arena, count, sizeof *sets[i].at, &sets[i].at));
    return FM_OK;
}

fm_status fm_trace_replay_run(const fm_trace_report *report, const char *scale, fm_trace_replay *out_replay)
{
    struct player player = {.report = report};
    struct fm_trace_set sets[3] = {{0}};
    fm_trace_work *works;
    fm_arena arena = {0};
    FM_TRY(read_scale(&player, scale));
    fm_status status = prepare(&player, &arena, &works, sets);
    if (status == FM_OK) {
        fm_trace_replay replay = {.before = report->by_name};
        play(&player, works, sets, &replay.after);
        *out_replay = replay;
    }
    fm_base_arena_clear(&arena);
    return status;
}
