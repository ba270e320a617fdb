/* Trace events as text, appended to a growing buffer. */
#ifndef FM_TRACE_JSON_TEXT_H
#define FM_TRACE_JSON_TEXT_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/status.h"

/* Zero-initialise; errors stick. Free `at` with fm_base_mem_free(). */
struct fm_trace_text {
    char *at;
    size_t length, capacity;
    fm_status status;
};

void fm_trace_text_put(struct fm_trace_text *text, const char *bytes, size_t length);
void fm_trace_text_format(struct fm_trace_text *text, const char *format, ...) FM_PRINTF(2, 3);
/* A string with its quotes; what JSON must escape is escaped, bytes that are not UTF-8 become U+FFFD. */
void fm_trace_text_string(struct fm_trace_text *text, const char *string);
/* Nanoseconds as microseconds with three digits behind the point. */
void fm_trace_text_time(struct fm_trace_text *text, int64_t ns);

#endif
