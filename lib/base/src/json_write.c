#include "fathom/doc.h"

#include <errno.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fathom/mem.h"
#include "utf8.h"

enum { BRACKETS_MAX = sizeof((fm_json *)0)->brackets };

/** Keeps the first failure; returns 0. */
static int fail(fm_json *json, fm_status status, const char *reason)
{
    if (json->status == FM_OK) {
        json->status = status;
        json->reason = reason;
    }
    return 0;
}

/** Room for `size` more bytes; NULL when the writer has failed. */
static char *reserve(fm_json *json, size_t size)
{
    if (json->status < 0)
        return NULL;
    if (json->capacity - json->length < size) {
        size_t capacity = json->capacity ? json->capacity : 256;
        while (capacity - json->length < size && capacity <= SIZE_MAX / 2)
            capacity *= 2;
        char *moved = capacity - json->length < size ? NULL : fm_base_mem_realloc(json->text, capacity, 1);
        if (!moved) {
            fail(json, FM_ERR_NOMEM, "no memory for the text");
            return NULL;
        }
        json->text = moved;
        json->capacity = capacity;
    }
    return json->text + json->length;
}

static void put(fm_json *json, const char *bytes, size_t size)
{
    char *to = reserve(json, size);
    if (!to)
        return;
    memcpy(to, bytes, size);
    json->length += size;
}

static void put_text(fm_json *json, const char *text)
{
    put(json, text, strlen(text));
}

/** Characters that need no escape are copied in runs. */
static void put_string(fm_json *json, const char *text)
{
    size_t length = strlen(text);
    put(json, "\"", 1);
    size_t run = 0;
    for (size_t at = 0; at < length;) {
        unsigned char c = (unsigned char)text[at];
        size_t step = fm_utf8_character(text + at, length - at);
        if (step && c >= 0x20 && c != '"' && c != '\\') {
            at += step;
            continue;
        }
        put(json, text + run, at - run);
        static const char plain[] = "\"\\\b\f\n\r\t";
        static const char letter[] = "\"\\bfnrt";
        const char *found = strchr(plain, c); // c is not 0
        char escape[8];
        if (!step)
            put_text(json, "\xEF\xBF\xBD");
        else if (found)
            put(json, (char[]){'\\', letter[found - plain]}, 2);
        else
            put(json, escape, (size_t)snprintf(escape, sizeof escape, "\\u%04x", c));
        run = ++at;
    }
    put(json, text + run, length - run);
    put(json, "\"", 1);
}

static void new_line(fm_json *json)
{
    put(json, "\n", 1);
    for (int i = 0; i < json->depth; i++)
        put(json, "  ", 2);
}

/** What precedes every value: a comma, a new line, the key. False when the value must not be written. */
static int begin_value(fm_json *json, const char *key)
{
    if (json->status < 0)
        return 0;
    if (json->depth == 0) {
        if (json->length || key)
            return fail(json, FM_ERR_STATE,
                        key ? "the outermost value has a key" : "a second outermost value was written");
        return 1;
    }
    int top = json->depth - 1;
    if ((json->brackets[top] == '{') != (key != NULL))
        return fail(json, FM_ERR_STATE,
                    key ? "a value in an array has a key" : "a value in an object has no key");
    if (json->has_items[top])
        put(json, ",", 1);
    json->has_items[top] = 1;
    if (json->pretty)
        new_line(json);
    if (key) {
        put_string(json, key);
        put(json, ": ", json->pretty ? 2 : 1);
    }
    return 1;
}

void fm_base_json_begin(fm_json *json, const char *key, char bracket)
{
    if (!begin_value(json, key))
        return;
    if (bracket != '{' && bracket != '[') {
        fail(json, FM_ERR_ARG, "a bracket is neither '{' nor '['");
        return;
    }
    if (json->depth == BRACKETS_MAX) {
        fail(json, FM_ERR_LIMIT, "brackets are open more than 64 deep");
        return;
    }
    json->brackets[json->depth] = bracket;
    json->has_items[json->depth] = 0;
    json->depth++;
    put(json, &bracket, 1);
}

void fm_base_json_end(fm_json *json)
{
    if (json->status < 0)
        return;
    if (json->depth == 0) {
        fail(json, FM_ERR_STATE, "a bracket is closed that was not opened");
        return;
    }
    json->depth--;
    if (json->pretty && json->has_items[json->depth])
        new_line(json);
    put(json, json->brackets[json->depth] == '{' ? "}" : "]", 1);
}

void fm_base_json_null(fm_json *json, const char *key)
{
    if (begin_value(json, key))
        put_text(json, "null");
}

void fm_base_json_bool(fm_json *json, const char *key, int value)
{
    if (begin_value(json, key))
        put_text(json, value ? "true" : "false");
}

void fm_base_json_int(fm_json *json, const char *key, int64_t value)
{
    char text[24];
    if (begin_value(json, key))
        put(json, text, (size_t)snprintf(text, sizeof text, "%" PRId64, value));
}

void fm_base_json_real(fm_json *json, const char *key, double value)
{
    if (!isfinite(value)) {
        fm_base_json_null(json, key);
        return;
    }
    if (!begin_value(json, key))
        return;
    // Any decimal of 15 digits survives a normal double, so nothing shorter needs to be tried; subnormals
    // hold less.
    char text[40];
    int digits = fabs(value) < DBL_MIN ? 1 : 15;
    int length;
    do
        length = snprintf(text, sizeof text, "%.*g", digits, value);
    while (digits++ < 17 && strtod(text, NULL) != value);
    // The locale may print another decimal point; and a real must not read back as an integer.
    size_t whole = strspn(text, "-0123456789");
    char *rest = text + whole + strcspn(text + whole, "0123456789e");
    put(json, text, whole);
    if (rest[0] != 'e')
        put(json, ".", 1);
    if (!rest[0])
        put(json, "0", 1);
    put(json, rest, (size_t)(text + length - rest));
}

void fm_base_json_string(fm_json *json, const char *key, const char *value)
{
    if (!value)
        fm_base_json_null(json, key);
    else if (begin_value(json, key))
        put_string(json, value);
}

fm_status fm_base_json_finish(fm_json *json, void *file)
{
    if (json->depth > 0)
        fail(json, FM_ERR_STATE, "brackets are left open");
    if (json->length == 0)
        fail(json, FM_ERR_STATE, "no value was written");
    fm_status status = json->status;
    if (status < 0)
        status = fm_base_error_set(status, "cannot write JSON: %s", json->reason);
    else if (file && (fwrite(json->text, 1, json->length, file) != json->length || putc('\n', file) == EOF ||
                      fflush(file) != 0))
        status = fm_base_error_set_errno(FM_ERR_IO, errno, "cannot write JSON");
    fm_base_mem_free(json->text);
    *json = (fm_json){.pretty = json->pretty};
    return status;
}
