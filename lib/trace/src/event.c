#include "event.h"

#include <math.h>
#include <stdlib.h>

#include "json_number.h"

#define K2(a, b)                   ((uint64_t)(a) | (uint64_t)(b) << 8)
#define K4(a, b, c, d)             (K2(a, b) | K2(c, d) << 16)
#define K8(a, b, c, d, e, f, g, h) (K4(a, b, c, d) | K4(e, f, g, h) << 32)

static inline const char *skip_space(const char *p)
{
    while (fm_trace_is_space(*p))
        p++;
    return p;
}

static int fail(struct fm_trace_cursor *cursor, const char *at, const char *expected)
{
    cursor->at = (uint32_t)(at - cursor->text);
    cursor->expected = expected;
    return -1;
}

/* A number with an exponent, which no profiler is known to write: exact as far as a double is. */
int fm_trace_scientific(const char *text, const char *exponent, int64_t *out_ns, const char **out_end)
{
    char *end;
    double ns = strtod(text, &end) * 1000;
    // Also false for NaN. The bound is a power of two: exact as a double.
    if (!(fabs(ns) < (double)FM_TRACE_TIME_MAX) || end <= exponent)
        return -1;
    *out_ns = llround(ns);
    *out_end = end;
    return 0;
}

int fm_trace_microseconds(const char *text, int64_t *out_ns, const char **out_end)
{
    return fm_trace_take_microseconds(text, out_ns, out_end);
}

int fm_trace_integer(const char *text, int64_t *out_value, const char **out_end)
{
    return fm_trace_take_integer(text, out_value, out_end);
}

const uint32_t *fm_trace_skip_brackets(const char *text, const uint32_t *entry)
{
    size_t depth = 0;
    for (;; entry++) {
        char c = text[*entry];
        if (c == '{' || c == '[') {
            depth++;
        } else if (c == '}' || c == ']') {
            if (--depth == 0)
                return entry + 1;
        } else if (c == 0) { // a sentinel: 0 is neither quote nor bracket
            return NULL;
        }
    }
}

/*
 * A key and the beginning of its value. The cursor's entry is the key's opening quote; afterwards it is the first entry at
 * or behind the value. Returns the value's first byte, or NULL.
 */
FM_TRACE_INLINE const char *take_key(struct fm_trace_cursor *cursor, const char **out_key, size_t *out_length)
{
    const char *text = cursor->text;
    const uint32_t *entry = cursor->entry;
    if (text[entry[0]] != '"' || text[entry[1]] != '"') {
        fail(cursor, text + entry[0], "a key or '}'");
        return NULL;
    }
    *out_key = text + entry[0] + 1;
    *out_length = entry[1] - entry[0] - 1;
    const char *p = text + entry[1] + 1;
    if (*p != ':') {
        p = skip_space(p);
        if (*p != ':') {
            fail(cursor, p, "':' behind a key");
            return NULL;
        }
    }
    cursor->entry = entry + 2;
    p++;
    if (*p == ' ')
        p++;
    return fm_trace_is_space(*p) ? skip_space(p) : p;
}

/* A value of any kind as a span; the cursor's entry moves behind it, *p too. */
FM_TRACE_INLINE int take_value(struct fm_trace_cursor *cursor, const char **p, struct fm_trace_span *out)
{
    const char *text = cursor->text, *begin = *p;
    if (*begin == '"') {
        const uint32_t *entry = cursor->entry;
        // Inside an object a quote that is no entry would be an escaped one, which is no value.
        if (text + entry[0] != begin || text[entry[1]] != '"')
            return fail(cursor, begin, "a string with its closing quote");
        *out = (struct fm_trace_span){begin + 1, entry[1] - entry[0] - 1, 1};
        cursor->entry = entry + 2;
        *p = text + entry[1] + 1;
        return 0;
    }
    if (*begin == '{' || *begin == '[') {
        const uint32_t *behind =
            text + *cursor->entry == begin ? fm_trace_skip_brackets(text, cursor->entry) : NULL;
        if (!behind)
            return fail(cursor, begin, "a value with its closing bracket");
        const char *end = text + behind[-1] + 1;
        *out = (struct fm_trace_span){begin, (uint32_t)(end - begin), 0};
        cursor->entry = behind;
        *p = end;
        return 0;
    }
    const char *q = begin;
    while (*q && *q != ',' && *q != '}' && *q != ']' && *q != '"' && !fm_trace_is_space(*q))
        q++;
    if (q == begin)
        return fail(cursor, begin, "a value");
    *out = (struct fm_trace_span){begin, (uint32_t)(q - begin), 0};
    *p = q;
    return 0;
}

/* Whether nothing but space (or control characters) lies between; eight bytes are readable behind. */
static inline int only_space(const char *begin, const char *end)
{
    for (; begin < end; begin += 8) {
        size_t left = (size_t)(end - begin);
        uint64_t bytes = fm_trace_key_of(begin, left < 8 ? left : 8);
        // Adding 0x5F carries into the high bit of every byte above 0x20.
        if (((bytes & 0x7F7F7F7F7F7F7F7F) + 0x5F5F5F5F5F5F5F5F) & 0x8080808080808080 ||
            bytes & 0x8080808080808080)
            return 0;
    }
    return 1;
}

/* What the cursor's entry is behind a value: 1 for another key, 0 for the object's '}', which is stepped over, -1. */
FM_TRACE_INLINE int take_entry(struct fm_trace_cursor *cursor)
{
    const char *next = cursor->text + *cursor->entry;
    if (*next == '"')
        return 1;
    if (*next != '}')
        return fail(cursor, next, "',' or '}'");
    cursor->entry++;
    return 0;
}

/* What follows a value: as take_entry(). Between a comma and the next key only space may stand. */
FM_TRACE_INLINE int take_separator(struct fm_trace_cursor *cursor, const char *p)
{
    const char *next = cursor->text + *cursor->entry;
    if (*p != ',')
        p = skip_space(p);
    if (*p == ',' && !only_space(p + 1, next))
        return fail(cursor, skip_space(p + 1), "a key or '}'");
    if (*p != ',' && (*p != '}' || p != next))
        return fail(cursor, p, "',' or '}'");
    return take_entry(cursor);
}

/* A value of no interest and what follows it, by the entries alone. */
FM_TRACE_INLINE int skip_member(struct fm_trace_cursor *cursor, const char *p)
{
    const char *text = cursor->text;
    if (*p == '"') {
        if (text + cursor->entry[0] != p || text[cursor->entry[1]] != '"')
            return fail(cursor, p, "a string with its closing quote");
        cursor->entry += 2;
    } else if (*p == '{' || *p == '[') {
        const uint32_t *behind =
            text + *cursor->entry == p ? fm_trace_skip_brackets(text, cursor->entry) : NULL;
        if (!behind)
            return fail(cursor, p, "a value with its closing bracket");
        cursor->entry = behind;
    }
    return take_entry(cursor);
}

static int take_time(struct fm_trace_cursor *cursor, const char **p, int64_t *out_ns)
{
    if (fm_trace_take_microseconds(*p, out_ns, p) < 0)
        return fail(cursor, *p, "a time in microseconds");
    return 0;
}

/* Whole numbers of the arguments, some writers quote them: what is no number is no argument of this meaning. */
static int take_integer(struct fm_trace_cursor *cursor, const char **p, int64_t *value)
{
    struct fm_trace_span text;
    const char *end;
    if (fm_trace_integer(*p, value, &end) == 0 && (*end == ',' || *end == '}' || fm_trace_is_space(*end))) {
        *p = end;
        return 1;
    }
    *value = 0;
    if (take_value(cursor, p, &text) < 0)
        return -1;
    if (text.quoted && fm_trace_integer(text.bytes, value, &end) == 0 && end == text.bytes + text.length)
        return 1;
    *value = 0;
    return 0;
}

/* [x, y, z] as a product, saturated at 2^31 - 1; 0 when it is something else. */
static int take_product(struct fm_trace_cursor *cursor, const char **p, int64_t *out)
{
    struct fm_trace_span list;
    if (take_value(cursor, p, &list) < 0)
        return -1;
    int64_t product = 1, factor;
    *out = 0;
    if (list.bytes[0] != '[')
        return 0;
    for (const char *q = skip_space(list.bytes + 1); *q != ']'; q = skip_space(q)) {
        if (fm_trace_integer(q, &factor, &q) < 0 || factor < 0)
            return 0;
        product = fm_trace_product(product, factor);
        q = skip_space(q);
        if (*q == ',')
            q++;
    }
    *out = product;
    return 0;
}

/* A value that was not looked at: skip_member() goes on behind it. */
enum { SKIPPED = 2 };

FM_TRACE_INLINE int take_argument(struct fm_trace_cursor *cursor, const char *key, size_t length,
                                  const char **p, struct fm_trace_event *event)
{
    int taken;
    switch (fm_trace_key_of(key, length)) {
    case K8('c', 'o', 'r', 'r', 'e', 'l', 'a', 't'):
        return length == 11 ? take_integer(cursor, p, &event->correlation) : SKIPPED;
    case K8('s', 't', 'r', 'e', 'a', 'm', 0, 0):
        taken = take_integer(cursor, p, &event->stream);
        event->has_stream = taken == 1;
        return taken;
    case K8('d', 'e', 'v', 'i', 'c', 'e', 0, 0):
        taken = take_integer(cursor, p, &event->device);
        event->has_device = taken == 1;
        return taken;
    case K8('b', 'y', 't', 'e', 's', 0, 0, 0):
        return take_integer(cursor, p, &event->bytes);
    case K4('g', 'r', 'i', 'd'):
        return take_product(cursor, p, &event->blocks);
    case K8('b', 'l', 'o', 'c', 'k', 0, 0, 0):
        return take_product(cursor, p, &event->threads);
    case K4('n', 'a', 'm', 'e'):
    case K8('l', 'a', 'b', 'e', 'l', 's', 0, 0):
        return take_value(cursor, p, &event->label);
    case K8('s', 'o', 'r', 't', '_', 'i', 'n', 'd'):
        return length == 10 ? take_integer(cursor, p, &event->sort_index) : SKIPPED;
    default:
        return SKIPPED;
    }
}

int fm_trace_event_ignores_arguments(const struct fm_trace_event *event)
{
    const struct fm_trace_span *category = &event->category;
    if (!category->bytes)
        return 0;
    uint64_t key = fm_trace_key_of(category->bytes, category->length < 8 ? category->length : 8);
    return (category->length == 6 && key == K8('c', 'p', 'u', '_', 'o', 'p', 0, 0)) ||
           (category->length == 15 && key == K8('p', 'y', 't', 'h', 'o', 'n', '_', 'f'));
}

/* The object that begins at *p, walked for the arguments that mean something here. */
static int take_arguments(struct fm_trace_cursor *cursor, const char **p, struct fm_trace_event *event)
{
    const char *text = cursor->text, *begin = *p;
    if (*begin != '{' || fm_trace_event_ignores_arguments(event))
        return take_value(cursor, p, &event->args);
    if (text + *cursor->entry != begin)
        return fail(cursor, begin, "an object of arguments");
    cursor->entry++;
    const char *q = skip_space(begin + 1);
    int more = *q != '}';
    if (!more)
        cursor->entry++;
    while (more) {
        const char *key;
        size_t length;
        q = take_key(cursor, &key, &length);
        int taken = q ? take_argument(cursor, key, length, &q, event) : -1;
        if (taken < 0)
            return -1;
        more = taken == SKIPPED ? skip_member(cursor, q) : take_separator(cursor, q);
        if (more < 0)
            return -1;
    }
    const char *end = text + cursor->entry[-1] + 1;
    event->args = (struct fm_trace_span){begin, (uint32_t)(end - begin), 0};
    *p = end;
    return 0;
}

static int take_phase(struct fm_trace_cursor *cursor, const char **p, struct fm_trace_event *event)
{
    struct fm_trace_span phase;
    if (take_value(cursor, p, &phase) < 0)
        return -1;
    if (!phase.quoted || phase.length != 1)
        return fail(cursor, phase.bytes, "a phase of one letter");
    event->phase = phase.bytes[0];
    return 0;
}

FM_TRACE_INLINE int take_field(struct fm_trace_cursor *cursor, const char *key, size_t length, const char **p,
                               struct fm_trace_event *event)
{
    struct fm_trace_span ignored;
    switch (length > 8 ? 0 : fm_trace_key_of(key, length)) {
    case K2('p', 'h'):
        return take_phase(cursor, p, event);
    case K4('c', 'a', 't', 0):
        return take_value(cursor, p, &event->category);
    case K4('n', 'a', 'm', 'e'):
        return take_value(cursor, p, &event->name);
    case K4('p', 'i', 'd', 0):
        return take_value(cursor, p, &event->pid);
    case K4('t', 'i', 'd', 0):
        return take_value(cursor, p, &event->tid);
    case K2('t', 's'):
        event->has_ts = 1;
        return take_time(cursor, p, &event->ts_ns);
    case K4('d', 'u', 'r', 0):
        event->has_duration = 1;
        return take_time(cursor, p, &event->duration_ns);
    case K4('a', 'r', 'g', 's'):
        return take_arguments(cursor, p, event);
    case K2('i', 'd'):
    case K4('i', 'd', '2', 0):
        return take_value(cursor, p, &event->id);
    default:
        return take_value(cursor, p, &ignored);
    }
}

int fm_trace_event_decode(struct fm_trace_cursor *cursor, struct fm_trace_event *out_event)
{
    memset(out_event, 0, sizeof *out_event);
    const char *p = skip_space(cursor->text + *cursor->entry + 1);
    cursor->entry++;
    if (*p == '}') {
        cursor->entry++;
        return 0;
    }
    if (p != cursor->text + *cursor->entry)
        return fail(cursor, p, "a key or '}'");
    int more = 1;
    while (more > 0) {
        const char *key;
        size_t length;
        p = take_key(cursor, &key, &length);
        if (!p || take_field(cursor, key, length, &p, out_event) < 0)
            return -1;
        more = take_separator(cursor, p);
    }
    return more;
}
