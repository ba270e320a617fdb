#include "doc_private.h"

#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static fm_status no_memory(const struct fm_doc_builder *builder, size_t line)
{
    return fm_base_doc_build_error(builder, FM_ERR_NOMEM, line, 0, "no memory for the document");
}

fm_status fm_base_doc_build_error(const struct fm_doc_builder *builder, fm_status status, size_t line,
                                  size_t column, const char *format, ...)
{
    char text[768];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    // Messages quote the file, and a file must not steer the terminal that shows them.
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7F)
            *c = '?';
    const char *name = builder->document->name;
    if (column)
        return fm_base_error_set(status, "%s:%zu:%zu: %s", name, line, column, text);
    return fm_base_error_set(status, "%s:%zu: %s", name, line, text);
}

fm_status fm_base_doc_build_start(struct fm_doc_builder *builder, const char *name, size_t length)
{
    if (length > FM_DOC_BYTES_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "%s: %zu bytes; a document has at most %d", name, length,
                                 FM_DOC_BYTES_MAX);
    *builder = (struct fm_doc_builder){0};
    struct fm_document *document = fm_base_mem_zalloc(1, sizeof *document);
    if (!document)
        return fm_base_error_set(FM_ERR_NOMEM, "%s: no memory for the document", name);
    document->name = fm_base_arena_strndup(&document->arena, name, strlen(name));
    if (!document->name) {
        fm_base_mem_free(document);
        return fm_base_error_set(FM_ERR_NOMEM, "%s: no memory for the document", name);
    }
    document->root.document = document;
    builder->document = document;
    return FM_OK;
}

int fm_base_doc_build_wants_key(const struct fm_doc_builder *builder)
{
    return builder->depth > 0 && builder->open[builder->depth - 1].type == FM_DOC_OBJECT &&
           !builder->member.key;
}

/** Copies text into the arena; what readers get is 0-terminated, so a 0 inside would cut it short unseen. */
static fm_status copy_text(struct fm_doc_builder *builder, const char *text, size_t length, size_t line,
                           const char **out_copy)
{
    if (length && memchr(text, 0, length))
        return fm_base_doc_build_error(builder, FM_ERR_FORMAT, line, 0,
                                       "a string contains the character U+0000");
    const char *copy = fm_base_arena_strndup(&builder->document->arena, text, length);
    if (!copy)
        return no_memory(builder, line);
    *out_copy = copy;
    return FM_OK;
}

fm_status fm_base_doc_build_key(struct fm_doc_builder *builder, const char *text, size_t length, size_t line)
{
    builder->member.line = (uint32_t)line;
    return copy_text(builder, text, length, line, &builder->member.key);
}

static fm_status add(struct fm_doc_builder *builder, struct fm_doc node)
{
    node.document = builder->document;
    if (builder->depth == 0) {
        builder->document->root = node;
        return FM_OK;
    }
    if (builder->count == builder->capacity) {
        size_t capacity = builder->capacity ? 2 * builder->capacity : 64;
        struct fm_doc_pending *moved = fm_base_mem_realloc(builder->pending, capacity, sizeof *moved);
        if (!moved)
            return no_memory(builder, node.line);
        builder->pending = moved;
        builder->capacity = capacity;
    }
    builder->pending[builder->count++] = (struct fm_doc_pending){node, builder->member};
    builder->member.key = NULL;
    return FM_OK;
}

fm_status fm_base_doc_build_constant(struct fm_doc_builder *builder, fm_doc_type type, int value, size_t line)
{
    return add(builder, (struct fm_doc){.type = type, .line = (uint32_t)line, .value.integer = value});
}

fm_status fm_base_doc_build_string(struct fm_doc_builder *builder, const char *text, size_t length,
                                   size_t line)
{
    struct fm_doc node = {.type = FM_DOC_STRING, .line = (uint32_t)line};
    FM_TRY(copy_text(builder, text, length, line, &node.value.text));
    return add(builder, node);
}

static int skip_digits(const char *text, size_t length, size_t *at)
{
    size_t first = *at;
    while (*at < length && text[*at] >= '0' && text[*at] <= '9')
        (*at)++;
    return *at > first;
}

int fm_base_doc_is_number(const char *text, size_t length)
{
    size_t at = length && text[0] == '-';
    size_t first = at;
    if (!skip_digits(text, length, &at) || (text[first] == '0' && at - first > 1))
        return 0;
    if (at < length && text[at] == '.') {
        at++;
        if (!skip_digits(text, length, &at))
            return 0;
    }
    if (at < length && (text[at] == 'e' || text[at] == 'E')) {
        at++;
        if (at < length && (text[at] == '+' || text[at] == '-'))
            at++;
        if (!skip_digits(text, length, &at))
            return 0;
    }
    return at == length;
}

/** True when the number is written as an integer and fits. */
static int read_integer(const char *text, size_t length, int64_t *out_value)
{
    int64_t value = 0;
    size_t first = text[0] == '-';
    for (size_t i = first; i < length; i++) {
        int digit = text[i] - '0';
        if (digit < 0 || digit > 9 || __builtin_mul_overflow(value, 10, &value) ||
            __builtin_sub_overflow(value, digit, &value)) // downwards, where there is one more
            return 0;
    }
    if (!first && __builtin_sub_overflow((int64_t)0, value, &value))
        return 0;
    *out_value = value;
    return 1;
}

static locale_t c_locale;

static void make_c_locale(void)
{
    c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
}

/** strtod() that reads a decimal point whatever the program's locale is. */
static fm_status read_real(struct fm_doc_builder *builder, const char *text, size_t length, size_t line,
                           double *out_value)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_c_locale);
    char small[64];
    char *copy = small;
    if (length < sizeof small) {
        memcpy(small, text, length);
        small[length] = 0;
    } else {
        copy = fm_base_arena_strndup(&builder->document->arena, text, length);
    }
    if (!copy || !c_locale)
        return no_memory(builder, line);
    double value = strtod_l(copy, NULL, c_locale);
    if (isinf(value))
        return fm_base_doc_build_error(builder, FM_ERR_FORMAT, line, 0,
                                       "number %.40s%s is too large; a double holds up to 1.8e308", copy,
                                       length > 40 ? "..." : "");
    *out_value = value;
    return FM_OK;
}

fm_status fm_base_doc_build_number(struct fm_doc_builder *builder, const char *text, size_t length,
                                   size_t line)
{
    struct fm_doc node = {.type = FM_DOC_INT, .line = (uint32_t)line};
    if (!read_integer(text, length, &node.value.integer)) {
        node.type = FM_DOC_REAL;
        FM_TRY(read_real(builder, text, length, line, &node.value.real));
    }
    return add(builder, node);
}

fm_status fm_base_doc_build_open(struct fm_doc_builder *builder, fm_doc_type type, size_t line)
{
    if (builder->depth == FM_DOC_DEPTH_MAX)
        return fm_base_doc_build_error(builder, FM_ERR_LIMIT, line, 0, "nested more than %d deep",
                                       FM_DOC_DEPTH_MAX);
    builder->open[builder->depth++] = (struct fm_doc_open){
        .first = builder->count, .member = builder->member, .line = (uint32_t)line, .type = type};
    builder->member.key = NULL;
    return FM_OK;
}

static int compare_keys(const void *a, const void *b, void *context)
{
    const struct fm_doc_member *members = context;
    uint32_t i = *(const uint32_t *)a;
    uint32_t j = *(const uint32_t *)b;
    int order = strcmp(members[i].key, members[j].key);
    return order ? order : (i > j) - (i < j); // the earlier of two equal keys first
}

static fm_status index_members(struct fm_doc_builder *builder, struct fm_doc_items *items, size_t first)
{
    fm_arena *arena = &builder->document->arena;
    struct fm_doc_member *members = fm_base_arena_alloc(arena, items->count * sizeof *members);
    uint32_t *sorted = fm_base_arena_alloc(arena, items->count * sizeof *sorted);
    if (!members || !sorted)
        return no_memory(builder, builder->open[builder->depth - 1].line);
    for (size_t i = 0; i < items->count; i++) {
        members[i] = builder->pending[first + i].member;
        sorted[i] = (uint32_t)i;
    }
    qsort_r(sorted, items->count, sizeof *sorted, compare_keys, members);
    for (size_t i = 1; i < items->count; i++) {
        const struct fm_doc_member *a = &members[sorted[i - 1]];
        const struct fm_doc_member *b = &members[sorted[i]];
        if (strcmp(a->key, b->key) == 0)
            return fm_base_doc_build_error(builder, FM_ERR_FORMAT, b->line, 0,
                                           "key \"%.80s\" comes twice; the first is on line %u", b->key,
                                           a->line);
    }
    items->members = members;
    items->sorted = sorted;
    return FM_OK;
}

fm_status fm_base_doc_build_close(struct fm_doc_builder *builder)
{
    const struct fm_doc_open *open = &builder->open[builder->depth - 1];
    size_t count = builder->count - open->first;
    struct fm_doc_items *items =
        fm_base_arena_alloc(&builder->document->arena, sizeof *items + count * sizeof items->nodes[0]);
    if (!items)
        return no_memory(builder, open->line);
    *items = (struct fm_doc_items){.count = count};
    for (size_t i = 0; i < count; i++)
        items->nodes[i] = builder->pending[open->first + i].node;
    if (open->type == FM_DOC_OBJECT)
        FM_TRY(index_members(builder, items, open->first));
    builder->count = open->first;
    builder->member = open->member;
    builder->depth--;
    return add(builder, (struct fm_doc){.type = open->type, .line = open->line, .value.items = items});
}

void fm_base_doc_build_finish(struct fm_doc_builder *builder, fm_doc **out_root)
{
    fm_base_mem_free(builder->pending);
    *out_root = &builder->document->root;
}

void fm_base_doc_build_abandon(struct fm_doc_builder *builder)
{
    fm_base_mem_free(builder->pending);
    fm_base_doc_free(&builder->document->root);
}
