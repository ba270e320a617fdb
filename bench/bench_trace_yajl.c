// yajl reading a trace: a streaming parser in C with callbacks.
#include "bench_trace.h"

#include <stdio.h>
#include <string.h>

#include <yajl/yajl_parse.h>

struct reader {
    struct trace_totals *out, event;
    int depth;          // of maps and arrays
    int in_events;      // inside traceEvents
    int next_is_events; // the key before was traceEvents
    int is_slice;
    char key[16]; // the last one, cut
    uint64_t product;
    int in_grid;
};

// Inside an event's own map and inside its arguments.
enum { EVENT = 3, ARGS = 4 };

static int take_integer(void *context, long long value)
{
    struct reader *r = context;
    if (!r->in_events)
        return 1;
    uint64_t v = (uint64_t)value;
    if (r->in_grid)
        r->product *= v;
    else if (r->depth == EVENT && strcmp(r->key, "ts") == 0)
        r->event.begin_us = v;
    else if (r->depth == EVENT && strcmp(r->key, "dur") == 0)
        r->event.duration_us = v;
    else if (r->depth == ARGS && strcmp(r->key, "correlation") == 0)
        r->event.correlation = v;
    else if (r->depth == ARGS && strcmp(r->key, "stream") == 0)
        r->event.stream = v;
    return 1;
}

static int take_double(void *context, double value)
{
    (void)context;
    (void)value;
    return 1;
}

static int take_string(void *context, const unsigned char *text, size_t length)
{
    struct reader *r = context;
    if (!r->in_events || r->depth != EVENT)
        return 1;
    if (strcmp(r->key, "ph") == 0)
        r->is_slice = length == 1 && text[0] == 'X';
    else if (strcmp(r->key, "name") == 0)
        r->event.name_bytes = length;
    else if (strcmp(r->key, "cat") == 0)
        r->event.category_bytes = length;
    return 1;
}

static int take_key(void *context, const unsigned char *text, size_t length)
{
    struct reader *r = context;
    size_t kept = length < sizeof r->key - 1 ? length : sizeof r->key - 1;
    memcpy(r->key, text, kept);
    r->key[kept] = 0;
    r->next_is_events = r->depth == 1 && strcmp(r->key, "traceEvents") == 0;
    return 1;
}

static int begin_map(void *context)
{
    struct reader *r = context;
    if (++r->depth == EVENT && r->in_events) {
        memset(&r->event, 0, sizeof r->event);
        r->is_slice = 0;
    }
    return 1;
}

static int end_map(void *context)
{
    struct reader *r = context;
    if (r->depth-- != EVENT || !r->in_events || !r->is_slice)
        return 1;
    r->out->slices++;
    r->out->name_bytes += r->event.name_bytes;
    r->out->category_bytes += r->event.category_bytes;
    r->out->begin_us += r->event.begin_us;
    r->out->duration_us += r->event.duration_us;
    r->out->correlation += r->event.correlation;
    r->out->stream += r->event.stream;
    r->out->blocks += r->event.blocks;
    return 1;
}

static int begin_array(void *context)
{
    struct reader *r = context;
    r->depth++;
    if (r->next_is_events) {
        r->in_events = 1;
        r->next_is_events = 0;
    } else if (r->in_events && r->depth == ARGS + 1 && strcmp(r->key, "grid") == 0) {
        r->in_grid = 1;
        r->product = 1;
    }
    return 1;
}

static int end_array(void *context)
{
    struct reader *r = context;
    if (r->in_grid) {
        r->event.blocks = r->product;
        r->in_grid = 0;
    }
    if (--r->depth <= 1)
        r->in_events = 0;
    return 1;
}

int bench_trace_yajl(const char *path, struct trace_totals *out)
{
    static const yajl_callbacks callbacks = {.yajl_integer = take_integer,
                                             .yajl_double = take_double,
                                             .yajl_string = take_string,
                                             .yajl_map_key = take_key,
                                             .yajl_start_map = begin_map,
                                             .yajl_end_map = end_map,
                                             .yajl_start_array = begin_array,
                                             .yajl_end_array = end_array};
    memset(out, 0, sizeof *out);
    struct reader reader = {.out = out};
    yajl_handle handle = yajl_alloc(&callbacks, NULL, &reader);
    if (!handle)
        return -1;
    yajl_config(handle, yajl_dont_validate_strings, 1);
    static unsigned char buffer[256 << 10];
    yajl_status status = yajl_status_ok;
    FILE *file = fopen(path, "rb");
    size_t got;
    while (file && status == yajl_status_ok && (got = fread(buffer, 1, sizeof buffer, file)) > 0)
        status = yajl_parse(handle, buffer, got);
    if (!file || ferror(file))
        status = yajl_status_error;
    if (file)
        fclose(file);
    if (status == yajl_status_ok)
        status = yajl_complete_parse(handle);
    yajl_free(handle);
    return status == yajl_status_ok ? 0 : -1;
}
