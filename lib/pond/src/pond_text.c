#include "pond_text.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "fathom/mem.h"
#include "fathom/pond_records.h"

static int reserve(fm_pond_text *text, size_t more)
{
    if (text->failed)
        return 0;
    if (text->length + more < text->capacity)
        return 1;
    size_t capacity = text->capacity ? 2 * text->capacity : 256;
    while (capacity <= text->length + more)
        capacity *= 2;
    char *grown = fm_base_mem_realloc(text->text, capacity, 1);
    if (!grown) {
        text->failed = 1;
        return 0;
    }
    text->text = grown;
    text->capacity = capacity;
    return 1;
}

void fm_pond_text_add(fm_pond_text *text, const char *format, ...)
{
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (length >= 0 && reserve(text, (size_t)length)) {
        vsnprintf(text->text + text->length, (size_t)length + 1, format, again);
        text->length += (size_t)length;
    }
    va_end(again);
}

void fm_pond_text_add_bytes(fm_pond_text *text, const char *bytes, size_t length)
{
    if (!reserve(text, length))
        return;
    memcpy(text->text + text->length, bytes, length);
    text->length += length;
    text->text[text->length] = '\0';
}

void fm_pond_text_add_quoted(fm_pond_text *text, const char *value)
{
    fm_pond_text_add_bytes(text, "'", 1);
    for (const char *at = value; *at;) {
        size_t plain = strcspn(at, "'");
        fm_pond_text_add_bytes(text, at, plain);
        at += plain;
        if (*at == '\'') {
            fm_pond_text_add_bytes(text, "''", 2);
            at++;
        }
    }
    fm_pond_text_add_bytes(text, "'", 1);
}

const char *fm_pond_text_skip(const char *at)
{
    size_t depth = 0;
    do {
        if (*at == '\'' || *at == '"') {
            const char *end = at + 1;
            while (*end && *end != *at)
                end++;
            at = *end ? end + 1 : end;
            continue;
        }
        depth += *at == '(' || *at == '[' || *at == '{';
        depth -= depth && (*at == ')' || *at == ']' || *at == '}');
        at++;
    } while (depth && *at);
    return at;
}

// Cuts a word off the end of a term, with the blanks before it.
static int take_word(const char *begin, const char **end, const char *word)
{
    size_t length = strlen(word);
    const char *stop = *end;
    while (stop > begin && isspace((unsigned char)stop[-1]))
        stop--;
    if ((size_t)(stop - begin) <= length || strncasecmp(stop - length, word, length) != 0 ||
        !isspace((unsigned char)stop[-(ptrdiff_t)length - 1]))
        return 0;
    *end = stop - length;
    return 1;
}

void fm_pond_text_add_sort_key(fm_pond_text *text, const char *terms)
{
    int count = 0;
    fm_pond_text_add(text, "create_sort_key(");
    for (const char *at = terms; *at;) {
        const char *begin = at;
        while (*at && *at != ',')
            at = fm_pond_text_skip(at);
        const char *end = at;
        int first = take_word(begin, &end, "first");
        int nulls = first || take_word(begin, &end, "last");
        if (nulls)
            take_word(begin, &end, "nulls");
        int down = take_word(begin, &end, "desc");
        if (!down)
            take_word(begin, &end, "asc");
        while (begin < end && isspace((unsigned char)*begin))
            begin++;
        while (end > begin && isspace((unsigned char)end[-1]))
            end--;
        fm_pond_text_add(text, "%s%.*s, '%s NULLS %s'", count++ ? ", " : "", (int)(end - begin), begin,
                         down ? "DESC" : "ASC", first ? "FIRST" : "LAST");
        if (*at)
            at++;
    }
    fm_pond_text_add(text, ")");
}

fm_status fm_pond_text_status(const fm_pond_text *text)
{
    return text->failed ? fm_base_error_set(FM_ERR_NOMEM, "no memory for a text of %zu bytes", text->length)
                        : FM_OK;
}

void fm_pond_text_clear(fm_pond_text *text)
{
    fm_base_mem_free(text->text);
    *text = (fm_pond_text){0};
}

void fm_pond_text_digest(const char *text, size_t length, char out_digest[33])
{
    // Two 64-bit hashes: of the text, and of it behind the first.
    fm_pond_sum first = {0}, second = {0};
    uint8_t head[16];
    fm_pond_sum_add(&first, text, length, 1);
    memcpy(head, &first.hash, 8);
    memset(head + 8, 0x5A, 8);
    fm_pond_sum_add(&second, head, sizeof head, 1);
    uint64_t mixed = second.hash;
    for (size_t at = 0; at < length; at += 1024) {
        second = (fm_pond_sum){0};
        fm_pond_sum_add(&second, text + at, length - at < 1024 ? length - at : 1024, 1);
        mixed = (mixed ^ second.hash) * 0x9E3779B97F4A7C15ULL;
        mixed ^= mixed >> 29;
    }
    snprintf(out_digest, 33, "%016llx%016llx", (unsigned long long)first.hash, (unsigned long long)mixed);
}
