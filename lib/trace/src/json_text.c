#include "json_text.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "fathom/mem.h"

static int reserve(struct fm_trace_text *text, size_t more)
{
    if (text->status < 0)
        return 0;
    if (text->capacity - text->length >= more)
        return 1;
    size_t capacity = text->capacity ? text->capacity : 65536;
    while (capacity - text->length < more)
        capacity *= 2;
    char *at = fm_base_mem_realloc(text->at, capacity, 1);
    if (!at) {
        text->status = fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu bytes of a trace", capacity);
        return 0;
    }
    text->at = at;
    text->capacity = capacity;
    return 1;
}

void fm_trace_text_put(struct fm_trace_text *text, const char *bytes, size_t length)
{
    if (!reserve(text, length))
        return;
    memcpy(text->at + text->length, bytes, length);
    text->length += length;
}

void fm_trace_text_format(struct fm_trace_text *text, const char *format, ...)
{
    // What is formatted here are numbers and fixed words; texts from outside go through fm_trace_text_string().
    enum { LINE_BYTES = 512 };
    if (!reserve(text, LINE_BYTES))
        return;
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text->at + text->length, LINE_BYTES, format, arguments);
    va_end(arguments);
    text->length += length < LINE_BYTES ? (size_t)length : LINE_BYTES - 1;
}

/* Bytes of the UTF-8 character at `s`; 0 when it is none. */
static size_t utf8_length(const unsigned char *s)
{
    size_t length = s[0] < 0x80                   ? 1
                    : s[0] >= 0xC2 && s[0] < 0xE0 ? 2
                    : (s[0] & 0xF0) == 0xE0       ? 3
                    : s[0] >= 0xF0 && s[0] < 0xF5 ? 4
                                                  : 0;
    for (size_t i = 1; i < length; i++)
        if ((s[i] & 0xC0) != 0x80)
            return 0;
    // Overlong forms, surrogates, beyond U+10FFFF.
    if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F) || (s[0] == 0xF0 && s[1] < 0x90) ||
        (s[0] == 0xF4 && s[1] > 0x8F))
        return 0;
    return length;
}

void fm_trace_text_string(struct fm_trace_text *text, const char *string)
{
    const unsigned char *s = (const unsigned char *)string;
    fm_trace_text_put(text, "\"", 1);
    while (*s) {
        const unsigned char *plain = s;
        while (*s >= 0x20 && *s < 0x7F && *s != '"' && *s != '\\')
            s++;
        fm_trace_text_put(text, (const char *)plain, (size_t)(s - plain));
        size_t length = *s ? utf8_length(s) : 0;
        if (!*s)
            break;
        if (*s == '"' || *s == '\\') {
            char escaped[2] = {'\\', (char)*s};
            fm_trace_text_put(text, escaped, 2);
        } else if (*s < 0x20 || *s == 0x7F) {
            fm_trace_text_format(text, "\\u%04x", *s);
        } else if (length == 0) {
            fm_trace_text_put(text, "\xEF\xBF\xBD", 3);
        } else {
            fm_trace_text_put(text, (const char *)s, length);
        }
        s += length ? length : 1;
    }
    fm_trace_text_put(text, "\"", 1);
}

void fm_trace_text_time(struct fm_trace_text *text, int64_t ns)
{
    uint64_t absolute = ns < 0 ? -(uint64_t)ns : (uint64_t)ns;
    fm_trace_text_format(text, "%s%llu.%03u", ns < 0 ? "-" : "", (unsigned long long)(absolute / 1000),
                         (unsigned)(absolute % 1000));
}
