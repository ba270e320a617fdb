/* What a template computes with. */
#include <math.h>
#include <stdio.h>

#include "chat_private.h"

struct chat_value fm_model_chat_value_text(const char *bytes, size_t length)
{
    return (struct chat_value){.type = CHAT_TYPE_TEXT, .text = {bytes, length}};
}

struct chat_value fm_model_chat_value_of(const fm_doc *doc)
{
    struct chat_value value = {.type = CHAT_TYPE_DOC, .doc = doc};
    const char *text = "";
    int truth = 0;
    fm_status status = FM_OK;
    switch (fm_base_doc_type(doc)) {
    case FM_DOC_NULL:
        value.type = doc ? CHAT_TYPE_NONE : CHAT_TYPE_UNDEFINED;
        break;
    case FM_DOC_BOOL:
        status = fm_base_doc_bool(doc, "", &truth);
        value.type = CHAT_TYPE_BOOL;
        value.number = truth;
        break;
    case FM_DOC_INT:
        status = fm_base_doc_int(doc, "", INT64_MIN, INT64_MAX, &value.number);
        value.type = CHAT_TYPE_INT;
        break;
    case FM_DOC_STRING:
        status = fm_base_doc_string(doc, "", &text);
        value = fm_model_chat_value_text(text, strlen(text));
        break;
    case FM_DOC_REAL:
    case FM_DOC_ARRAY:
    case FM_DOC_OBJECT:
        break;
    }
    (void)status; // the type was looked at first
    return value;
}

static double real_of(const struct chat_value *value)
{
    double real = (double)value->number;
    if (value->type == CHAT_TYPE_DOC && fm_base_doc_real(value->doc, "", &real) < 0)
        return (double)NAN;
    return real;
}

static int is_number(const struct chat_value *value)
{
    return value->type == CHAT_TYPE_BOOL || value->type == CHAT_TYPE_INT ||
           (value->type == CHAT_TYPE_DOC && fm_base_doc_type(value->doc) == FM_DOC_REAL);
}

int fm_model_chat_value_truth(const struct chat_value *value)
{
    switch (value->type) {
    case CHAT_TYPE_UNDEFINED:
    case CHAT_TYPE_NONE:
        return 0;
    case CHAT_TYPE_BOOL:
    case CHAT_TYPE_INT:
    case CHAT_TYPE_LIST:
        return value->number != 0;
    case CHAT_TYPE_TEXT:
        return value->text.length != 0;
    case CHAT_TYPE_DOC:
        return is_number(value) ? real_of(value) != 0 : fm_base_doc_count(value->doc) != 0;
    case CHAT_TYPE_NAMESPACE:
        return 1;
    }
    return 0;
}

int64_t fm_model_chat_value_count(const struct chat_value *value)
{
    switch (value->type) {
    case CHAT_TYPE_UNDEFINED:
        return 0;
    case CHAT_TYPE_LIST:
        return value->number;
    case CHAT_TYPE_TEXT: {
        int64_t characters = 0;
        for (size_t i = 0; i < value->text.length; i++)
            characters += ((unsigned char)value->text.bytes[i] & 0xc0) != 0x80;
        return characters;
    }
    case CHAT_TYPE_DOC:
        return is_number(value) ? -1 : (int64_t)fm_base_doc_count(value->doc);
    case CHAT_TYPE_NONE:
    case CHAT_TYPE_BOOL:
    case CHAT_TYPE_INT:
    case CHAT_TYPE_NAMESPACE:
        break;
    }
    return -1;
}

static int is_list(const struct chat_value *value)
{
    return value->type == CHAT_TYPE_LIST ||
           (value->type == CHAT_TYPE_DOC && fm_base_doc_type(value->doc) == FM_DOC_ARRAY);
}

struct chat_value fm_model_chat_value_item(const struct chat_value *value, int64_t index)
{
    int64_t count = is_list(value) ? fm_model_chat_value_count(value) : 0;
    if (index < 0)
        index += count;
    if (index < 0 || index >= count)
        return (struct chat_value){.type = CHAT_TYPE_UNDEFINED};
    return value->type == CHAT_TYPE_LIST ? value->items[index]
                                         : fm_model_chat_value_of(fm_base_doc_at(value->doc, (size_t)index));
}

// No deeper than the caller's document, which has a limit: the template's own lists hold texts alone.
int fm_model_chat_value_equal(const struct chat_value *a, const struct chat_value *b)
{
    if (is_number(a) && is_number(b))
        return a->type == CHAT_TYPE_DOC || b->type == CHAT_TYPE_DOC ? real_of(a) == real_of(b)
                                                                    : a->number == b->number;
    if (is_list(a) && is_list(b)) {
        int64_t count = fm_model_chat_value_count(a);
        int equal = count == fm_model_chat_value_count(b);
        for (int64_t i = 0; i < count && equal; i++) {
            struct chat_value left = fm_model_chat_value_item(a, i), right = fm_model_chat_value_item(b, i);
            equal = fm_model_chat_value_equal(&left, &right);
        }
        return equal;
    }
    if (a->type != b->type)
        return 0;
    switch (a->type) {
    case CHAT_TYPE_UNDEFINED:
    case CHAT_TYPE_NONE:
        return 1;
    case CHAT_TYPE_TEXT:
        return a->text.length == b->text.length && memcmp(a->text.bytes, b->text.bytes, a->text.length) == 0;
    case CHAT_TYPE_NAMESPACE:
        return a->space == b->space;
    case CHAT_TYPE_DOC: {
        size_t count = fm_base_doc_count(a->doc);
        int equal =
            fm_base_doc_type(a->doc) == fm_base_doc_type(b->doc) && count == fm_base_doc_count(b->doc);
        for (size_t i = 0; i < count && equal; i++) {
            struct chat_value left = fm_model_chat_value_of(fm_base_doc_at(a->doc, i)),
                              right =
                                  fm_model_chat_value_of(fm_base_doc_get(b->doc, fm_base_doc_key(a->doc, i)));
            equal = fm_model_chat_value_equal(&left, &right);
        }
        return equal;
    }
    case CHAT_TYPE_BOOL:
    case CHAT_TYPE_INT:
    case CHAT_TYPE_LIST:
        break; // compared above
    }
    return 0;
}

const char *fm_model_chat_value_type(const struct chat_value *value)
{
    switch (value->type) {
    case CHAT_TYPE_UNDEFINED:
        return "undefined";
    case CHAT_TYPE_NONE:
        return "none";
    case CHAT_TYPE_BOOL:
        return "a truth value";
    case CHAT_TYPE_INT:
        return "a number";
    case CHAT_TYPE_TEXT:
        return "text";
    case CHAT_TYPE_LIST:
        return "a list";
    case CHAT_TYPE_NAMESPACE:
        return "a namespace";
    case CHAT_TYPE_DOC:
        return is_number(value) ? "a number" : is_list(value) ? "a list" : "an object";
    }
    return "?";
}

struct writer {
    fm_arena *arena;
    char *bytes;
    size_t length, capacity;
    fm_status status;
};

static void put(struct writer *writer, const char *bytes, size_t length)
{
    if (writer->status == FM_OK && writer->capacity - writer->length < length) {
        size_t capacity = 2 * writer->capacity + length + 64;
        char *grown = fm_base_arena_alloc(writer->arena, capacity);
        if (!grown) {
            writer->status =
                fm_base_error_set(FM_ERR_NOMEM, "no memory to write %zu bytes of JSON", capacity);
            return;
        }
        if (writer->length)
            memcpy(grown, writer->bytes, writer->length);
        writer->bytes = grown;
        writer->capacity = capacity;
    }
    if (writer->status == FM_OK && length) {
        memcpy(writer->bytes + writer->length, bytes, length);
        writer->length += length;
    }
}

static void put_text(struct writer *writer, struct chat_text text)
{
    put(writer, "\"", 1);
    for (size_t i = 0; i < text.length; i++) {
        static const char special[] = "\"\\\n\r\t\b\f", names[] = "\"\\nrtbf";
        char escape[8];
        const char *found = memchr(special, text.bytes[i], sizeof special - 1);
        if (found)
            put(writer, (char[]){'\\', names[found - special]}, 2);
        else if ((unsigned char)text.bytes[i] < 0x20)
            put(writer, escape,
                (size_t)snprintf(escape, sizeof escape, "\\u%04x", (unsigned)(unsigned char)text.bytes[i]));
        else
            put(writer, text.bytes + i, 1);
    }
    put(writer, "\"", 1);
}

// The shortest digits that read back as the same number.
static void put_real(struct writer *writer, double real)
{
    char text[40];
    int length = 0;
    for (int digits = 1; digits <= 17; digits++) {
        length = snprintf(text, sizeof text - 2, "%.*g", digits, real);
        double back;
        if (sscanf(text, "%lf", &back) == 1 && back == real) // NOLINT(cert-err34-c): our own digits
            break;
    }
    if (!strpbrk(text, ".en"))
        length += snprintf(text + length, 3, ".0");
    put(writer, text, (size_t)length);
}

static void put_value(struct writer *writer, const struct chat_value *value)
{
    char text[32];
    switch (value->type) {
    case CHAT_TYPE_UNDEFINED:
    case CHAT_TYPE_NAMESPACE:
        writer->status = fm_base_error_set(FM_ERR_ARG, "tojson of %s", fm_model_chat_value_type(value));
        return;
    case CHAT_TYPE_NONE:
        put(writer, "null", 4);
        return;
    case CHAT_TYPE_BOOL:
        put(writer, value->number ? "true" : "false", value->number ? 4 : 5);
        return;
    case CHAT_TYPE_INT:
        put(writer, text, (size_t)snprintf(text, sizeof text, "%lld", (long long)value->number));
        return;
    case CHAT_TYPE_TEXT:
        put_text(writer, value->text);
        return;
    case CHAT_TYPE_LIST:
    case CHAT_TYPE_DOC:
        break;
    }
    if (is_number(value)) {
        put_real(writer, real_of(value));
        return;
    }
    int list = is_list(value);
    int64_t count = fm_model_chat_value_count(value);
    put(writer, list ? "[" : "{", 1);
    for (int64_t i = 0; i < count; i++) {
        if (i)
            put(writer, ", ", 2);
        struct chat_value item = list ? fm_model_chat_value_item(value, i)
                                      : fm_model_chat_value_of(fm_base_doc_at(value->doc, (size_t)i));
        if (!list) {
            const char *key = fm_base_doc_key(value->doc, (size_t)i);
            put_text(writer, (struct chat_text){key, strlen(key)});
            put(writer, ": ", 2);
        }
        put_value(writer, &item);
    }
    put(writer, list ? "]" : "}", 1);
}

fm_status fm_model_chat_value_json(const struct chat_value *value, fm_arena *arena,
                                   struct chat_text *out_text)
{
    struct writer writer = {.arena = arena};
    put_value(&writer, value);
    FM_TRY(writer.status);
    *out_text = (struct chat_text){writer.bytes, writer.length};
    return FM_OK;
}
