/*
 * JSON through jansson. jansson checks the grammar and the encoding, finds duplicate keys and decodes
 * strings; it keeps no line per value and no integer beyond int64, so its tree and the text are walked
 * together, value by value (jansson keeps members in the order of the text). On text that jansson has
 * accepted that walk needs no checks: a token is what lies between spaces and punctuation.
 *
 * jansson allocates by malloc: its allocator is one for the whole process, which may hold other users of it. Where an
 * allocation fails within a token, it reports a syntax error.
 */
#include "doc_private.h"

#include <jansson.h>
#include <string.h>

struct scan {
    const char *at;
    const char *end;
    size_t line;
};

struct token {
    const char *text;
    size_t length;
    size_t line;
};

/** Between tokens, and after a number or a constant. */
static int is_gap(char c)
{
    return c == ' ' || c == '\n' || c == ',' || c == ':' || c == ']' || c == '}' || c == '\t' || c == '\r';
}

static struct token next_token(struct scan *scan)
{
    while (is_gap(*scan->at)) {
        scan->line += *scan->at == '\n';
        scan->at++;
    }
    const char *first = scan->at++;
    if (*first == '"') {
        while (*scan->at != '"')
            scan->at += *scan->at == '\\' ? 2 : 1;
        scan->at++;
    } else if (*first != '[' && *first != '{') {
        while (scan->at < scan->end && !is_gap(*scan->at))
            scan->at++;
    }
    return (struct token){first, (size_t)(scan->at - first), scan->line};
}

static fm_status add_scalar(struct fm_doc_builder *builder, const json_t *value, struct token token)
{
    switch (json_typeof(value)) {
    case JSON_STRING:
        return fm_base_doc_build_string(builder, json_string_value(value), json_string_length(value),
                                        token.line);
    case JSON_TRUE:
    case JSON_FALSE:
        return fm_base_doc_build_constant(builder, FM_DOC_BOOL, json_is_true(value), token.line);
    case JSON_NULL:
        return fm_base_doc_build_constant(builder, FM_DOC_NULL, 0, token.line);
    default:
        return fm_base_doc_build_number(builder, token.text, token.length, token.line);
    }
}

/** Where the walk stands in a container. */
struct place {
    json_t *container;
    size_t next;    // of an array
    void *iterator; // of an object: the next member, NULL at its end
};

/** The next value of the container, its key already built; NULL at the end. */
static fm_status next_value(struct fm_doc_builder *builder, struct place *place, struct scan *scan,
                            json_t **out_value)
{
    if (json_is_array(place->container)) {
        *out_value = json_array_get(place->container, place->next++);
        return FM_OK;
    }
    *out_value = NULL;
    if (!place->iterator)
        return FM_OK;
    const char *key = json_object_iter_key(place->iterator);
    struct token token = next_token(scan);
    FM_TRY(fm_base_doc_build_key(builder, key, strlen(key), token.line));
    *out_value = json_object_iter_value(place->iterator);
    place->iterator = json_object_iter_next(place->container, place->iterator);
    return FM_OK;
}

static fm_status build(struct fm_doc_builder *builder, json_t *root, struct scan *scan)
{
    struct place places[FM_DOC_DEPTH_MAX];
    json_t *value = root;
    for (;;) {
        struct token token = next_token(scan);
        if (json_is_array(value) || json_is_object(value)) {
            fm_doc_type type = json_is_array(value) ? FM_DOC_ARRAY : FM_DOC_OBJECT;
            FM_TRY(fm_base_doc_build_open(builder, type, token.line)); // fails before the places run out
            places[builder->depth - 1] =
                (struct place){.container = value, .iterator = json_object_iter(value)};
        } else {
            FM_TRY(add_scalar(builder, value, token));
        }
        for (;;) {
            if (builder->depth == 0)
                return FM_OK;
            FM_TRY(next_value(builder, &places[builder->depth - 1], scan, &value));
            if (value)
                break;
            FM_TRY(fm_base_doc_build_close(builder));
        }
    }
}

static fm_status parse_failed(const struct fm_doc_builder *builder, const json_error_t *error)
{
    size_t line = error->line > 0 ? (size_t)error->line : 1;
    size_t column = error->column > 0 ? (size_t)error->column : 0;
    switch (json_error_code(error)) {
    case json_error_out_of_memory:
        return fm_base_doc_build_error(builder, FM_ERR_NOMEM, line, 0, "no memory for the document");
    case json_error_stack_overflow:
        return fm_base_doc_build_error(builder, FM_ERR_LIMIT, line, 0, "nested more than %d deep",
                                       FM_DOC_DEPTH_MAX);
    case json_error_null_character:
    case json_error_null_byte_in_key:
        return fm_base_doc_build_error(builder, FM_ERR_FORMAT, line, column,
                                       "a string contains the character U+0000");
    default:
        // jansson leaves the text empty where an allocation inside it failed.
        if (!error->text[0])
            return fm_base_doc_build_error(builder, FM_ERR_NOMEM, line, 0, "no memory for the document");
        return fm_base_doc_build_error(builder, FM_ERR_FORMAT, line, column, "%s", error->text);
    }
}

fm_status fm_base_doc_parse_json(const char *text, size_t length, const char *name, fm_doc **out_root)
{
    struct fm_doc_builder builder;
    FM_TRY(fm_base_doc_build_start(&builder, name, length));
    json_error_t error = {0};
    json_t *root =
        json_loadb(text, length, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL, &error);
    fm_status status;
    if (root) {
        struct scan scan = {text, text + length, 1};
        status = build(&builder, root, &scan);
    } else {
        status = parse_failed(&builder, &error);
    }
    json_decref(root);
    if (status == FM_OK)
        fm_base_doc_build_finish(&builder, out_root);
    else
        fm_base_doc_build_abandon(&builder);
    return status;
}
