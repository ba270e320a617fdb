#include "pond_schema.h"

#include <ctype.h>
#include <string.h>

static void add_column(fm_pond_text *out, const char *name, const char *type)
{
    fm_pond_text_add(out, "%s", out->length > 1 ? ", " : "");
    fm_pond_text_add_quoted(out, name);
    fm_pond_text_add(out, ": ");
    fm_pond_text_add_quoted(out, type);
}

static const char *skip_blanks(const char *at)
{
    while (isspace((unsigned char)*at))
        at++;
    return at;
}

// Content of "name" in quotes, which doubles those inside; or the name itself.
static const char *take_name(const char *at, fm_pond_text *name)
{
    if (*at != '"') {
        const char *begin = at;
        while (*at && *at != ',' && !isspace((unsigned char)*at))
            at++;
        fm_pond_text_add_bytes(name, begin, (size_t)(at - begin));
        return at;
    }
    for (at++; *at && (*at != '"' || at[1] == '"'); at++) {
        fm_pond_text_add_bytes(name, at, 1);
        at += *at == '"';
    }
    return at + (*at == '"');
}

static const char *take_type(const char *at, fm_pond_text *type)
{
    const char *begin = skip_blanks(at);
    for (at = begin; *at && *at != ',';)
        at = fm_pond_text_skip(at);
    fm_pond_text_add_bytes(type, begin, (size_t)(at - begin));
    while (type->length && isspace((unsigned char)type->text[type->length - 1]))
        type->text[--type->length] = '\0';
    return at;
}

static fm_status add_given(const char *given, fm_pond_text *out)
{
    fm_status status = FM_OK;
    for (const char *at = skip_blanks(given); *at && status == FM_OK; at = skip_blanks(at)) {
        fm_pond_text name = {0}, type = {0};
        at = take_type(take_name(at, &name), &type);
        if (name.failed || type.failed)
            out->failed = 1;
        else if (!name.length || !type.length)
            status =
                fm_base_error_set(FM_ERR_ARG, "schema is '%s'; expected 'name TYPE, name TYPE, ...'", given);
        else
            add_column(out, name.text, type.text);
        fm_pond_text_clear(&name);
        fm_pond_text_clear(&type);
        at += *at == ',';
    }
    return status;
}

fm_status fm_pond_schema_make(const char *given, const fm_doc *columns, fm_pond_text *out)
{
    fm_pond_text_add(out, "{");
    if (given)
        FM_TRY(add_given(given, out));
    for (size_t i = 0; i < fm_base_doc_count(columns); i++) {
        const char *name, *type;
        FM_TRY(fm_base_doc_string(fm_base_doc_at(fm_base_doc_at(columns, i), 0), "name", &name));
        FM_TRY(fm_base_doc_string(fm_base_doc_at(fm_base_doc_at(columns, i), 1), "type", &type));
        add_column(out, name, type);
    }
    if (!out->failed && out->length == 1)
        return fm_base_error_set(FM_ERR_ARG, "a schema without columns; expected 'name TYPE, ...'");
    fm_pond_text_add(out, "}");
    return fm_pond_text_status(out);
}

// Where a string ends that doubles the quotes inside it.
static const char *skip_quoted(const char *at)
{
    for (at++; *at && (*at != '\'' || at[1] == '\''); at++)
        at += *at == '\'';
    return at + (*at == '\'');
}

const char *fm_pond_schema_next(const char *at, fm_pond_schema_column *out_column)
{
    at += strcspn(at, "'");
    if (!*at)
        return NULL;
    const char *name_end = skip_quoted(at), *type = name_end + strcspn(name_end, "'");
    const char *end = *type ? skip_quoted(type) : type;
    *out_column = (fm_pond_schema_column){.name = at,
                                          .name_length = (size_t)(name_end - at),
                                          .type = type,
                                          .type_length = (size_t)(end - type)};
    return end;
}

void fm_pond_schema_add_plain(const char *quoted, size_t length, fm_pond_text *out)
{
    for (size_t i = 1; i + 1 < length; i++) {
        fm_pond_text_add_bytes(out, quoted + i, 1);
        i += quoted[i] == '\'';
    }
}

void fm_pond_schema_add_name(const fm_pond_schema_column *column, fm_pond_text *out)
{
    fm_pond_text plain = {0};
    fm_pond_schema_add_plain(column->name, column->name_length, &plain);
    out->failed |= plain.failed;
    fm_pond_text_add(out, "\"");
    for (size_t i = 0; i < plain.length; i++)
        fm_pond_text_add(out, plain.text[i] == '"' ? "\"\"" : "%c", plain.text[i]);
    fm_pond_text_add(out, "\"");
    fm_pond_text_clear(&plain);
}

void fm_pond_schema_add_type(const fm_pond_schema_column *column, fm_pond_text *out)
{
    fm_pond_schema_add_plain(column->type, column->type_length, out);
}

// The type word at the head of `at`, of `left` bytes.
static const char *stored_word(const char *at, size_t left, int exact_only, size_t *out_length)
{
    static const struct {
        const char *word, *stored;
        int loses_digits;
    } words[] = {{"HUGEINT", "DECIMAL(38,0)", 1}, {"UHUGEINT", "VARCHAR", 1},
                 {"BIT", "VARCHAR", 0},           {"INTERVAL", "VARCHAR", 0},
                 {"ENUM", "VARCHAR", 0},          {"TIME WITH TIME ZONE", "VARCHAR", 0}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t length = strlen(words[i].word);
        if (length > left || memcmp(at, words[i].word, length) != 0 ||
            (exact_only && !words[i].loses_digits) ||
            (length < left && (isalnum((unsigned char)at[length]) || at[length] == '_')))
            continue;
        *out_length = length;
        if (strcmp(words[i].word, "ENUM") == 0 && length < left && at[length] == '(')
            *out_length = (size_t)(fm_pond_text_skip(at + length) - at);
        return words[i].stored;
    }
    return NULL;
}

int fm_pond_schema_add_stored(const char *type, size_t length, int exact_only, fm_pond_text *out)
{
    int differs = 0;
    for (size_t at = 0; at < length;) {
        int begins = at == 0 || !(isalnum((unsigned char)type[at - 1]) || type[at - 1] == '_');
        size_t taken = 0;
        const char *stored = begins ? stored_word(type + at, length - at, exact_only, &taken) : NULL;
        if (!stored) {
            taken = type[at] == '"' || type[at] == '\'' ? (size_t)(fm_pond_text_skip(type + at) - (type + at))
                                                        : 1;
            taken = taken < length - at ? taken : length - at;
            fm_pond_text_add_bytes(out, type + at, taken);
        } else {
            fm_pond_text_add(out, "%s", stored);
            differs = 1;
        }
        at += taken;
    }
    return differs;
}
