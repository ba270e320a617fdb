/* One trace event, decoded from its text by walking the structural index. Nothing is stored or allocated here. */
#ifndef FM_TRACE_EVENT_H
#define FM_TRACE_EVENT_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/status.h"

/* A piece of the text. A string's is what stands between its quotes; `bytes` is NULL where the key was absent. */
struct fm_trace_span {
    const char *bytes;
    uint32_t length;
    int quoted;
};

struct fm_trace_event {
    struct fm_trace_span name, category, id, pid, tid;
    struct fm_trace_span args;  /* with its braces */
    struct fm_trace_span label; /* args.name or args.labels */
    int64_t ts_ns, duration_ns;
    int has_ts, has_duration;
    char phase; /* 0: absent */
    /* Arguments of work on a device, of calls that launch it, and of metadata. */
    int64_t correlation, stream, device, bytes, sort_index;
    int64_t blocks, threads;
    int has_stream, has_device;
};

/* Where the walk stands. `entries` are offsets into `text`, ended by FM_TRACE_SENTINELS times the text's length, where
 * there is a 0 byte. */
struct fm_trace_cursor {
    const char *text;
    const uint32_t *entry;
    const char *expected; /* on failure: what should have stood there */
    uint32_t at;          /* on failure: where */
};

enum { FM_TRACE_SENTINELS = 4 };

/* All times lie within +-this (146 years), so that sums and differences of two of them fit 64 bits. */
#define FM_TRACE_TIME_MAX (INT64_MAX / 2)

/* Bytes that are readable behind the text. */
enum { FM_TRACE_TEXT_SLACK = 16 };

/* Decodes the event whose '{' is the cursor's entry; on success the cursor's entry is the one behind its '}'. Returns 0 on
 * success, -1 when the text ends first or is malformed. */
int fm_trace_event_decode(struct fm_trace_cursor *cursor, struct fm_trace_event *out_event);

/* Whether arguments of the event's category mean nothing here: a third of a profile. Anything may stand in them. */
int fm_trace_event_ignores_arguments(const struct fm_trace_event *event);

/* Microseconds as JSON writes them to nanoseconds, rounded; `out_end` is the first byte behind the number. 0, or -1 when
 * there is no number or it does not fit. `text` ends with a byte that no number contains, behind which FM_TRACE_TEXT_SLACK bytes are readable. */
int fm_trace_microseconds(const char *text, int64_t *out_ns, const char **out_end);

/* A whole number (a fraction is cut off); -1 when there is none or it does not fit. */
int fm_trace_integer(const char *text, int64_t *out_value, const char **out_end);

/* The entry behind the value that begins with the bracket of `entry`; NULL when the text ends first. */
const uint32_t *fm_trace_skip_brackets(const char *text, const uint32_t *entry);

static inline int fm_trace_is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

#endif
