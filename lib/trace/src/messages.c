#include "messages.h"

#include <stdlib.h>
#include <string.h>

#include "store.h"

/* A piece of work where it is looked up: by track and time. */
struct spot {
    int64_t begin, end;
    uint32_t track, work;
};

static int compare_spots(const void *a, const void *b)
{
    const struct spot *x = a, *y = b;
    if (x->track != y->track)
        return x->track < y->track ? -1 : 1;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->work < y->work ? -1 : x->work > y->work;
}

/* The work of a track around a moment, the later one where two meet; FM_TRACE_NONE. */
static uint32_t work_at(const struct spot *spots, size_t count, uint32_t track, int64_t at_ns)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (spots[middle].track < track || (spots[middle].track == track && spots[middle].begin <= at_ns))
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0 || spots[low - 1].track != track || spots[low - 1].end < at_ns)
        return FM_TRACE_NONE;
    return spots[low - 1].work;
}

/* Whether flows of a category are messages; most flows are of the one before's. */
struct sieve {
    const fm_trace *trace;
    uint32_t category; // of the last answer
    int is_message;
};

struct finder {
    const fm_trace_report *report;
    struct sieve sieve;
    struct spot *spots;
    size_t count; // of messages
    struct fm_trace_message *messages;
    uint32_t *name_of;                // by message, while they are found
    struct fm_trace_map sent, flight; // by ID and name: the flow that sends; by name: the fastest message
};

static int is_message(struct sieve *sieve, const fm_trace_flow *flow)
{
    if (flow->category != sieve->category) {
        const char *category = fm_trace_data_text(sieve->trace, flow->category);
        sieve->category = flow->category;
        sieve->is_message = strcmp(category, "ac2g") != 0 && strcmp(category, "fwdbwd") != 0;
    }
    return sieve->is_message;
}

static uint64_t key_of(const fm_trace_flow *flow)
{
    return (uint64_t)flow->name << 32 | flow->category;
}

static fm_status find_sends(struct finder *finder)
{
    const fm_trace *trace = finder->report->trace;
    for (size_t i = 0; i < trace->flow_count; i++) {
        const fm_trace_flow *flow = &trace->flows[i];
        uint32_t *sent;
        int known;
        if (flow->phase == 's' && is_message(&finder->sieve, flow))
            FM_TRY(fm_trace_map_put(&finder->sent, flow->id, key_of(flow), (uint32_t)i, &sent, &known));
    }
    return FM_OK;
}

/* Notes a message, and the fastest of its name so far. */
static fm_status add_message(struct finder *finder, const fm_trace_flow *sent, const fm_trace_flow *taken)
{
    size_t works = finder->report->work_count;
    struct fm_trace_message message = {.sender = work_at(finder->spots, works, sent->track, sent->at_ns),
                                       .receiver = work_at(finder->spots, works, taken->track, taken->at_ns),
                                       .sent_ns = sent->at_ns,
                                       .taken_ns = taken->at_ns};
    uint32_t *fastest;
    int known;
    if (message.sender == FM_TRACE_NONE || message.receiver == FM_TRACE_NONE ||
        message.sender == message.receiver || taken->at_ns < sent->at_ns)
        return FM_OK;
    FM_TRY(fm_trace_map_put(&finder->flight, key_of(sent), 0, (uint32_t)finder->count, &fastest, &known));
    struct fm_trace_message *best = &finder->messages[*fastest];
    if (known && message.taken_ns - message.sent_ns < best->taken_ns - best->sent_ns)
        *fastest = (uint32_t)finder->count;
    finder->messages[finder->count++] = message;
    return FM_OK;
}

/* Pairs ends with their begins; then each message learns how long the fastest of its name flew. */
static fm_status pair_up(struct finder *finder)
{
    const fm_trace *trace = finder->report->trace;
    for (size_t i = 0; i < trace->flow_count; i++) {
        const fm_trace_flow *flow = &trace->flows[i];
        uint32_t *sent;
        int known;
        if (flow->phase != 'f' || !is_message(&finder->sieve, flow))
            continue;
        FM_TRY(fm_trace_map_put(&finder->sent, flow->id, key_of(flow), FM_TRACE_NONE, &sent, &known));
        if (*sent == FM_TRACE_NONE)
            continue;
        size_t before = finder->count;
        FM_TRY(add_message(finder, &trace->flows[*sent], flow));
        if (finder->count > before)
            finder->name_of[before] = (uint32_t)i;
    }
    for (size_t i = 0; i < finder->count; i++) {
        uint32_t *fastest;
        int known;
        FM_TRY(fm_trace_map_put(&finder->flight, key_of(&trace->flows[finder->name_of[i]]), 0, 0, &fastest,
                                &known));
        const struct fm_trace_message *best = &finder->messages[*fastest];
        finder->messages[i].flight_ns = best->taken_ns - best->sent_ns;
    }
    return FM_OK;
}

static int by_receiver(const void *a, const void *b)
{
    const struct fm_trace_message *x = a, *y = b;
    if (x->receiver != y->receiver)
        return x->receiver < y->receiver ? -1 : 1;
    return x->taken_ns < y->taken_ns ? -1 : x->taken_ns > y->taken_ns;
}

static fm_status find_messages(struct finder *finder, size_t ends, fm_arena *arena)
{
    const fm_trace_report *report = finder->report;
    finder->spots = fm_base_mem_zalloc(report->work_count + 1, sizeof *finder->spots);
    finder->name_of = fm_base_mem_zalloc(ends + 1, sizeof *finder->name_of);
    size_t bytes = 0;
    FM_TRY(fm_mul_size(ends + 1, sizeof *finder->messages, &bytes));
    finder->messages = fm_base_arena_alloc(arena, bytes);
    if (!finder->spots || !finder->name_of || !finder->messages)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the messages of a trace");
    for (size_t i = 0; i < report->work_count; i++)
        finder->spots[i] = (struct spot){report->works[i].begin_ns, report->works[i].end_ns,
                                         report->trace->slices[report->works[i].slice].track, (uint32_t)i};
    qsort(finder->spots, report->work_count, sizeof *finder->spots, compare_spots);
    FM_TRY(find_sends(finder));
    FM_TRY(pair_up(finder));
    qsort(finder->messages, finder->count, sizeof *finder->messages, by_receiver);
    return FM_OK;
}

fm_status fm_trace_messages(const fm_trace_report *report, fm_arena *arena,
                            struct fm_trace_message **out_messages, size_t **out_first)
{
    struct finder finder = {.report = report, .sieve = {report->trace, FM_TRACE_NONE, 0}};
    size_t ends = 0, bytes = 0;
    fm_status status = FM_OK;
    FM_TRY(fm_mul_size(report->work_count + 2, sizeof **out_first, &bytes));
    size_t *first = fm_base_arena_alloc(arena, bytes);
    if (!first)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the messages of a trace");
    for (size_t i = 0; i < report->trace->flow_count; i++)
        ends += report->trace->flows[i].phase == 'f' && is_message(&finder.sieve, &report->trace->flows[i]);
    if (ends)
        status = find_messages(&finder, ends, arena);
    fm_base_mem_free(finder.spots);
    fm_base_mem_free(finder.name_of);
    fm_trace_map_clear(&finder.sent);
    fm_trace_map_clear(&finder.flight);
    FM_TRY(status);
    for (size_t i = 0, message = 0; i <= report->work_count; i++) {
        first[i] = message;
        while (message < finder.count && finder.messages[message].receiver == i)
            message++;
    }
    *out_messages = finder.messages;
    *out_first = first;
    return FM_OK;
}
