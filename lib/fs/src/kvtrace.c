// Traces of requests: read from text, cut, and what caches could find in them.
#include "kvtrace.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "fathom/doc.h"

enum { NAME_MAX_BYTES = 4200 };

void fm_fs_kvtrace_free(fm_fs_kvtrace *trace)
{
    if (!trace)
        return;
    fm_base_mem_free(trace->requests);
    fm_base_mem_free(trace->blocks);
    *trace = (fm_fs_kvtrace){0};
}

fm_status fm_fs_kvtrace_add_request(struct fm_fs_kvtrace_builder *builder,
                                    const fm_fs_kvtrace_request *request)
{
    fm_fs_kvtrace *trace = &builder->trace;
    if (trace->count == builder->request_capacity) {
        size_t capacity = builder->request_capacity ? 2 * builder->request_capacity : 256;
        fm_fs_kvtrace_request *moved = fm_base_mem_realloc(trace->requests, capacity, sizeof *moved);
        if (!moved)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu requests", capacity);
        trace->requests = moved;
        builder->request_capacity = capacity;
    }
    trace->requests[trace->count] = *request;
    trace->requests[trace->count].first = trace->block_count;
    trace->requests[trace->count++].count = 0;
    return FM_OK;
}

fm_status fm_fs_kvtrace_add_block(struct fm_fs_kvtrace_builder *builder, uint32_t block)
{
    fm_fs_kvtrace *trace = &builder->trace;
    if (trace->block_count == builder->block_capacity) {
        size_t capacity = builder->block_capacity ? 2 * builder->block_capacity : 4096;
        uint32_t *moved = fm_base_mem_realloc(trace->blocks, capacity, sizeof *moved);
        if (!moved)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu blocks", capacity);
        trace->blocks = moved;
        builder->block_capacity = capacity;
    }
    trace->blocks[trace->block_count++] = block;
    trace->requests[trace->count - 1].count++;
    if (block >= trace->distinct)
        trace->distinct = block + 1;
    return FM_OK;
}

void fm_fs_kvtrace_cut(fm_fs_kvtrace *trace, size_t requests)
{
    if (requests >= trace->count)
        return;
    trace->count = requests;
    trace->block_count =
        requests ? trace->requests[requests - 1].first + trace->requests[requests - 1].count : 0;
    trace->distinct = 0;
    for (size_t i = 0; i < trace->block_count; i++)
        if (trace->blocks[i] >= trace->distinct)
            trace->distinct = trace->blocks[i] + 1;
}

/* Numbers for ids: a hash table with open addressing, never more than half full */

struct numbers {
    uint64_t *ids;
    uint32_t *numbers; // of the id beside it, counted from 1; 0: a free place
    size_t size;       // a power of two
    uint32_t count;
};

static size_t place_of(const struct numbers *numbers, uint64_t id)
{
    // Ids are consecutive in the published files; the odd constant (2^64 divided by the golden ratio) spreads any.
    size_t place = (size_t)(id * 0x9e3779b97f4a7c15U >> 20) & (numbers->size - 1);
    while (numbers->numbers[place] && numbers->ids[place] != id)
        place = (place + 1) & (numbers->size - 1);
    return place;
}

static void numbers_free(struct numbers *numbers)
{
    fm_base_mem_free(numbers->ids);
    fm_base_mem_free(numbers->numbers);
}

static fm_status numbers_grow(struct numbers *numbers)
{
    struct numbers larger = {.size = numbers->size ? 2 * numbers->size : 4096, .count = numbers->count};
    larger.ids = fm_base_mem_zalloc(larger.size, sizeof *larger.ids);
    larger.numbers = fm_base_mem_zalloc(larger.size, sizeof *larger.numbers);
    if (!larger.ids || !larger.numbers) {
        numbers_free(&larger);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu ids", larger.size);
    }
    for (size_t i = 0; i < numbers->size; i++)
        if (numbers->numbers[i]) {
            size_t place = place_of(&larger, numbers->ids[i]);
            larger.ids[place] = numbers->ids[i];
            larger.numbers[place] = numbers->numbers[i];
        }
    numbers_free(numbers);
    *numbers = larger;
    return FM_OK;
}

static fm_status number_of(struct numbers *numbers, uint64_t id, uint32_t *out_number)
{
    if (numbers->count >= numbers->size / 2)
        FM_TRY(numbers_grow(numbers));
    size_t place = place_of(numbers, id);
    if (!numbers->numbers[place]) {
        if (numbers->count == UINT32_MAX - 1)
            return fm_base_error_set(FM_ERR_LIMIT, "a trace of 2^32 blocks or more");
        numbers->ids[place] = id;
        numbers->numbers[place] = ++numbers->count;
    }
    *out_number = numbers->numbers[place] - 1;
    return FM_OK;
}

/* Lines */

// The member called `name`; NULL, with a message, if there is none.
static const fm_doc *member(const fm_doc *line, const char *name)
{
    const fm_doc *node = fm_base_doc_get(line, name);
    if (!node)
        (void)fm_base_doc_error(FM_ERR_FORMAT, line, "%s is missing", name);
    return node;
}

static fm_status read_count(const fm_doc *line, const char *name, uint32_t *out_count)
{
    const fm_doc *node = member(line, name);
    int64_t value;
    if (!node)
        return FM_ERR_FORMAT;
    FM_TRY(fm_base_doc_int(node, name, 0, UINT32_MAX, &value));
    *out_count = (uint32_t)value;
    return FM_OK;
}

static fm_status read_time(const fm_doc *line, uint64_t earliest_us, uint64_t *out_us)
{
    const double year_s = 31556952; // longer than any trace, and short enough for the counters
    const fm_doc *node = member(line, "timestamp");
    double time;
    if (!node)
        return FM_ERR_FORMAT;
    FM_TRY(fm_base_doc_real(node, "timestamp", &time));
    double unit_us = fm_base_doc_get(line, "chat_id") ? 1e6 : 1e3;
    if (time < 0 || time * unit_us > year_s * 1e6)
        return fm_base_doc_error(FM_ERR_FORMAT, node, "timestamp is %g; expected 0 to a year", time);
    *out_us = (uint64_t)llround(time * unit_us);
    if (*out_us < earliest_us)
        return fm_base_doc_error(FM_ERR_FORMAT, node, "timestamp is %g, before that of the request before it",
                                 time);
    return FM_OK;
}

static fm_status read_line(const fm_doc *line, struct fm_fs_kvtrace_builder *builder, struct numbers *numbers)
{
    int64_t value;
    fm_fs_kvtrace_request request = {0};
    const fm_fs_kvtrace *trace = &builder->trace;
    FM_TRY(fm_base_doc_expect(line, "a request", FM_DOC_OBJECT));
    FM_TRY(read_time(line, trace->count ? trace->requests[trace->count - 1].time_us : 0, &request.time_us));
    FM_TRY(read_count(line, "input_length", &request.input_tokens));
    FM_TRY(read_count(line, "output_length", &request.output_tokens));
    const fm_doc *ids = member(line, "hash_ids");
    if (!ids)
        return FM_ERR_FORMAT;
    FM_TRY(fm_base_doc_expect(ids, "hash_ids", FM_DOC_ARRAY));
    FM_TRY(fm_fs_kvtrace_add_request(builder, &request));
    for (size_t i = 0; i < fm_base_doc_count(ids); i++) {
        uint32_t number = 0;
        FM_TRY(fm_base_doc_int(fm_base_doc_at(ids, i), "a hash id", INT64_MIN, INT64_MAX, &value));
        FM_TRY(number_of(numbers, (uint64_t)value, &number));
        FM_TRY(fm_fs_kvtrace_add_block(builder, number));
    }
    return FM_OK;
}

static fm_status read_lines(const char *text, size_t length, const char *name,
                            struct fm_fs_kvtrace_builder *builder, struct numbers *numbers)
{
    size_t number = 1;
    for (const char *at = text, *end = text + length; at < end; number++) {
        char place[NAME_MAX_BYTES];
        fm_doc *line;
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t size = (size_t)((newline ? newline : end) - at);
        const char *begin = at;
        at += size + 1;
        if (size == 0 || (size == 1 && *begin == '\r'))
            continue;
        snprintf(place, sizeof place, "%.4096s:%zu", name, number);
        FM_TRY(fm_base_doc_parse_json(begin, size, place, &line));
        fm_status status = read_line(line, builder, numbers);
        fm_base_doc_free(line);
        FM_TRY(status);
    }
    return FM_OK;
}

fm_status fm_fs_kvtrace_parse(const char *text, size_t length, const char *name, fm_fs_kvtrace *out_trace)
{
    struct fm_fs_kvtrace_builder builder = {.request_capacity = 0};
    struct numbers numbers = {.size = 0};
    if ((length && !text) || !name || !out_trace)
        return fm_base_error_set(FM_ERR_ARG, "%zu bytes, but a pointer is NULL", length);
    fm_status status = length ? read_lines(text, length, name, &builder, &numbers) : FM_OK;
    if (status == FM_OK && !builder.trace.count)
        status = fm_base_error_set(FM_ERR_FORMAT, "%s: no request; expected one a line", name);
    numbers_free(&numbers);
    if (status < 0) {
        fm_fs_kvtrace_free(&builder.trace);
        return status;
    }
    *out_trace = builder.trace;
    return FM_OK;
}

/* What can be found */

// The blocks that a cache holds, in a ring by their last use: `next[distinct]` is the one used longest ago.
struct held {
    uint32_t *next, *previous;
    uint8_t *there;
    uint32_t end; // the number of no block
    uint64_t count;
};

static void take_out(struct held *held, uint32_t block)
{
    held->next[held->previous[block]] = held->next[block];
    held->previous[held->next[block]] = held->previous[block];
}

static void put_last(struct held *held, uint32_t block)
{
    uint32_t last = held->previous[held->end];
    held->next[last] = block;
    held->previous[block] = last;
    held->next[block] = held->end;
    held->previous[held->end] = block;
}

// Uses a block, which the cache has afterwards; returns whether it had it.
static int use(struct held *held, uint32_t block, uint64_t capacity)
{
    int there = held->there[block];
    if (there)
        take_out(held, block);
    put_last(held, block);
    held->there[block] = 1;
    held->count += (uint64_t)!there;
    if (held->count > capacity) {
        uint32_t oldest = held->next[held->end];
        take_out(held, oldest);
        held->there[oldest] = 0;
        held->count--;
    }
    return there;
}

fm_status fm_fs_kvtrace_hits(const fm_fs_kvtrace *trace, uint64_t capacity, uint64_t *out_hits)
{
    uint64_t hits = 0;
    size_t places = (size_t)trace->distinct + 1;
    struct held held = {.end = trace->distinct};
    held.next = fm_base_mem_zalloc(places, sizeof *held.next);
    held.previous = fm_base_mem_zalloc(places, sizeof *held.previous);
    held.there = fm_base_mem_zalloc(places, 1);
    int good = held.next && held.previous && held.there;
    if (good) {
        held.next[held.end] = held.previous[held.end] = held.end;
        for (size_t i = 0; i < trace->count; i++) {
            const fm_fs_kvtrace_request *request = &trace->requests[i];
            int known = 1;
            for (size_t b = 0; b < request->count; b++) {
                known = use(&held, trace->blocks[request->first + b], capacity) && known;
                hits += (uint64_t)known;
            }
        }
    }
    fm_base_mem_free(held.next);
    fm_base_mem_free(held.previous);
    fm_base_mem_free(held.there);
    if (!good)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu blocks", places);
    *out_hits = hits;
    return FM_OK;
}
