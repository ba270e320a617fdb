#include "doc_private.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "fathom/file.h"
#include "utf8.h"

static int ends_with(const char *text, const char *tail)
{
    size_t length = strlen(text);
    size_t tail_length = strlen(tail);
    return length >= tail_length && strcmp(text + length - tail_length, tail) == 0;
}

fm_status fm_base_doc_load(const char *path, fm_doc **out_root)
{
    int standard_input = strcmp(path, "-") == 0;
    const char *name = standard_input ? "<standard input>" : path;
    char *text;
    size_t length;
    FM_TRY(fm_base_file_read(standard_input ? NULL : path, FM_DOC_BYTES_MAX, &text, &length));
    int yaml = ends_with(path, ".yaml") || ends_with(path, ".yml");
    fm_status status = yaml ? fm_base_doc_parse_yaml(text, length, name, out_root)
                            : fm_base_doc_parse_json(text, length, name, out_root);
    fm_base_mem_free(text);
    return status;
}

void fm_base_doc_free(fm_doc *root)
{
    if (!root)
        return;
    struct fm_document *document = root->document;
    fm_base_arena_clear(&document->arena);
    fm_base_mem_free(document);
}

fm_doc_type fm_base_doc_type(const fm_doc *node)
{
    return node ? (fm_doc_type)node->type : FM_DOC_NULL;
}

int fm_base_doc_line(const fm_doc *node)
{
    return node ? (int)node->line : 0;
}

static const struct fm_doc_items *items_of(const fm_doc *node)
{
    return node && (node->type == FM_DOC_ARRAY || node->type == FM_DOC_OBJECT) ? node->value.items : NULL;
}

size_t fm_base_doc_count(const fm_doc *node)
{
    const struct fm_doc_items *items = items_of(node);
    return items ? items->count : 0;
}

const fm_doc *fm_base_doc_at(const fm_doc *node, size_t index)
{
    return index < fm_base_doc_count(node) ? &node->value.items->nodes[index] : NULL;
}

const char *fm_base_doc_key(const fm_doc *node, size_t index)
{
    if (fm_base_doc_type(node) != FM_DOC_OBJECT || index >= node->value.items->count)
        return NULL;
    return node->value.items->members[index].key;
}

int64_t fm_base_doc_find(const fm_doc *object, const char *key)
{
    if (fm_base_doc_type(object) != FM_DOC_OBJECT)
        return -1;
    const struct fm_doc_items *items = object->value.items;
    size_t low = 0;
    size_t high = items->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(key, items->members[items->sorted[middle]].key);
        if (order == 0)
            return items->sorted[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return -1;
}

const fm_doc *fm_base_doc_get(const fm_doc *node, const char *key)
{
    int64_t index = fm_base_doc_find(node, key);
    return index < 0 ? NULL : &node->value.items->nodes[index];
}

fm_status fm_base_doc_error(fm_status status, const fm_doc *node, const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return fm_base_error_set(status, "%s:%u: %s", node->document->name, node->line, text);
}

const char *fm_base_doc_quote(const char *text, char out[FM_DOC_QUOTE_BYTES])
{
    const size_t room = FM_DOC_QUOTE_BYTES - sizeof "...\"";
    const size_t length = strlen(text);
    size_t at = 0;
    size_t used = 1;
    out[0] = '"';
    for (size_t step; (step = fm_utf8_character(text + at, length - at)) && used + step <= room; at += step) {
        memcpy(out + used, text + at, step);
        if ((unsigned char)text[at] < 0x20 || text[at] == 0x7F)
            out[used] = '?';
        used += step;
    }
    snprintf(out + used, FM_DOC_QUOTE_BYTES - used, at == length ? "\"" : "...\"");
    return out;
}

/** What a node is, for a message: `"many"`, `1.5`, `an array`. */
static const char *describe(const fm_doc *node, char out[FM_DOC_QUOTE_BYTES])
{
    switch ((fm_doc_type)node->type) {
    case FM_DOC_NULL:
        return "null";
    case FM_DOC_BOOL:
        return node->value.integer ? "true" : "false";
    case FM_DOC_INT:
        snprintf(out, FM_DOC_QUOTE_BYTES, "%" PRId64, node->value.integer);
        return out;
    case FM_DOC_REAL:
        snprintf(out, FM_DOC_QUOTE_BYTES, "%.15g", node->value.real);
        return out;
    case FM_DOC_STRING:
        return fm_base_doc_quote(node->value.text, out);
    case FM_DOC_ARRAY:
        return "an array";
    case FM_DOC_OBJECT:
        return "an object";
    }
    return "?";
}

static fm_status missing(const char *what)
{
    return fm_base_error_set(FM_ERR_FORMAT, "%s is missing", what);
}

static fm_status unexpected(const fm_doc *node, const char *what, const char *expected)
{
    char given[FM_DOC_QUOTE_BYTES];
    return fm_base_doc_error(FM_ERR_FORMAT, node, "%s is %s; expected %s", what, describe(node, given),
                             expected);
}

fm_status fm_base_doc_int(const fm_doc *node, const char *what, int64_t low, int64_t high, int64_t *out_value)
{
    if (!node)
        return missing(what);
    if (node->type != FM_DOC_INT || node->value.integer < low || node->value.integer > high) {
        char expected[96] = "an integer";
        if (low > INT64_MIN && high < INT64_MAX)
            snprintf(expected, sizeof expected, "an integer from %" PRId64 " to %" PRId64, low, high);
        else if (low > INT64_MIN)
            snprintf(expected, sizeof expected, "an integer of at least %" PRId64, low);
        else if (high < INT64_MAX)
            snprintf(expected, sizeof expected, "an integer of at most %" PRId64, high);
        return unexpected(node, what, expected);
    }
    *out_value = node->value.integer;
    return FM_OK;
}

fm_status fm_base_doc_real(const fm_doc *node, const char *what, double *out_value)
{
    if (!node)
        return missing(what);
    if (node->type == FM_DOC_INT)
        *out_value = (double)node->value.integer;
    else if (node->type == FM_DOC_REAL)
        *out_value = node->value.real;
    else
        return unexpected(node, what, "a number");
    return FM_OK;
}

fm_status fm_base_doc_bool(const fm_doc *node, const char *what, int *out_value)
{
    FM_TRY(fm_base_doc_expect(node, what, FM_DOC_BOOL));
    *out_value = (int)node->value.integer;
    return FM_OK;
}

fm_status fm_base_doc_string(const fm_doc *node, const char *what, const char **out_text)
{
    FM_TRY(fm_base_doc_expect(node, what, FM_DOC_STRING));
    *out_text = node->value.text;
    return FM_OK;
}

fm_status fm_base_doc_expect(const fm_doc *node, const char *what, fm_doc_type type)
{
    static const char *const names[] = {
        [FM_DOC_NULL] = "null",       [FM_DOC_BOOL] = "true or false", [FM_DOC_INT] = "an integer",
        [FM_DOC_REAL] = "a real",     [FM_DOC_STRING] = "a string",    [FM_DOC_ARRAY] = "an array",
        [FM_DOC_OBJECT] = "an object"};
    if (!node)
        return missing(what);
    return node->type == type ? FM_OK : unexpected(node, what, names[type]);
}

static fm_status unknown_key(const fm_doc *object, size_t index, const char *what, const char *const *known)
{
    // The line of the key rather than of its value, which may begin further down.
    const struct fm_doc_member *member = &object->value.items->members[index];
    char given[FM_DOC_QUOTE_BYTES];
    fm_base_doc_quote(member->key, given);
    const char *nearest = fm_base_nearest(member->key, known);
    char list[512] = "none";
    size_t used = 0;
    for (const char *const *name = known; *name && used < sizeof list; name++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", name == known ? "" : ", ", *name);
    return fm_base_error_set(
        FM_ERR_FORMAT, "%s:%u: unknown key %s in %s; %s%s%s", object->document->name, member->line, given,
        what, nearest ? "did you mean \"" : "known keys: ", nearest ? nearest : list, nearest ? "\"?" : "");
}

fm_status fm_base_doc_known_keys(const fm_doc *object, const char *what, const char *const *known)
{
    FM_TRY(fm_base_doc_expect(object, what, FM_DOC_OBJECT));
    for (size_t i = 0; i < object->value.items->count; i++) {
        const char *const *name = known;
        while (*name && strcmp(*name, object->value.items->members[i].key) != 0)
            name++;
        if (!*name)
            return unknown_key(object, i, what, known);
    }
    return FM_OK;
}
