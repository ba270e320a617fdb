#include "fathom/config.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "config_value.h"

size_t fm_base_config_count(const fm_option *schema)
{
    size_t count = 0;
    while (schema && schema[count].name)
        count++;
    return count;
}

static int same_name(const char *option, const char *given)
{
    for (; *option && *given; option++, given++)
        if (*option != (*given == '_' ? '-' : *given))
            return 0;
    return *option == *given;
}

int fm_base_config_find(const fm_option *schema, const char *name)
{
    for (size_t i = 0; i < fm_base_config_count(schema); i++)
        if (same_name(schema[i].name, name))
            return (int)i;
    return -1;
}

static int has_range(const fm_option *option)
{
    return option->max > option->min;
}

void fm_base_config_expected(const fm_option *option, char *out_text, size_t size)
{
    const char *kind = "a text";
    switch (option->type) {
    case FM_OPTION_FLAG:
        kind = "true or false";
        break;
    case FM_OPTION_INT:
        kind = "an integer";
        break;
    case FM_OPTION_REAL:
        kind = "a number";
        break;
    case FM_OPTION_SIZE:
        kind = "a size such as 4096, 64KiB or 2GB";
        break;
    case FM_OPTION_CHOICE: {
        int used = snprintf(out_text, size, "one of ");
        for (const char *c = option->choices; *c && used + 3 < (int)size; c++)
            used += snprintf(out_text + used, size - (size_t)used, *c == '|' ? ", " : "%c", *c);
        return;
    }
    case FM_OPTION_STRING:
        break;
    }
    if (has_range(option) && option->type != FM_OPTION_SIZE)
        snprintf(out_text, size, "%s from %.15g to %.15g", kind, option->min, option->max);
    else
        snprintf(out_text, size, "%s", kind);
}

static fm_status bad_value(const fm_option *option, const char *text)
{
    char expected[256];
    fm_base_config_expected(option, expected, sizeof expected);
    return fm_base_error_set(FM_ERR_ARG, "%s is \"%s\"; expected %s", option->name, text, expected);
}

static int in_range(const fm_option *option, double value)
{
    return !has_range(option) || (value >= option->min && value <= option->max);
}

// The double beside an integer is rounded to an integer, never the integer to a double, which is exact up to 2^53 only.
static int in_range_exactly(const fm_option *option, int64_t value)
{
    if (!has_range(option))
        return 1;
    int above = option->min < -0x1p63 || (option->min < 0x1p63 && value >= (int64_t)ceil(option->min));
    int below = option->max >= 0x1p63 || (option->max >= -0x1p63 && value <= (int64_t)floor(option->max));
    return above && below;
}

static int parse_flag(const char *text, int *out_value)
{
    static const char *const yes[] = {"true", "1", "yes", "on"};
    static const char *const no[] = {"false", "0", "no", "off"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(text, yes[i]) == 0 || strcmp(text, no[i]) == 0) {
            *out_value = strcmp(text, yes[i]) == 0;
            return 1;
        }
    }
    return 0;
}

static int parse_int(const char *text, int64_t *out_value)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    // strtoll skips leading space, which "--n ' 3'" should not.
    if (end == text || *end || errno || isspace((unsigned char)*text))
        return 0;
    *out_value = value;
    return 1;
}

static int parse_real(const char *text, double *out_value)
{
    char *end;
    double value = strtod(text, &end);
    // strtod reads hexadecimal too, which nobody means here.
    if (end == text || *end || !isfinite(value) || isspace((unsigned char)*text) || strpbrk(text, "xX"))
        return 0;
    *out_value = value;
    return 1;
}

// The bytes of a unit such as "KiB" or "gb"; 0 when it is none.
static int64_t unit_bytes(const char *unit)
{
    static const char letters[] = "KMGT";
    if (!*unit || strcmp(unit, "B") == 0)
        return 1;
    const char *letter = strchr(letters, toupper((unsigned char)*unit));
    if (!letter)
        return 0;
    const char *rest = unit + 1;
    int decimal = strcasecmp(rest, "B") == 0;
    int binary = !*rest || (*rest == 'i' && (!rest[1] || strcasecmp(rest + 1, "B") == 0));
    if (!decimal && !binary)
        return 0;
    int64_t bytes = 1;
    for (const char *at = letters; at <= letter; at++)
        bytes *= decimal ? 1000 : 1024;
    return bytes;
}

// "1.5GiB" is read; the product must be a whole number of bytes that fits int64_t. A double would round above 2^53.
static int parse_size(const char *text, int64_t *out_bytes)
{
    size_t whole_digits = strspn(text, "0123456789");
    const char *unit = text + whole_digits;
    const char *fraction = unit;
    if (*unit == '.') {
        fraction = ++unit;
        unit += strspn(unit, "0123456789");
    }
    int64_t scale = unit_bytes(unit);
    if (whole_digits == 0 || scale == 0)
        return 0;
    int64_t bytes = 0;
    for (size_t i = 0; i < whole_digits; i++)
        if (__builtin_mul_overflow(bytes, 10, &bytes) || __builtin_add_overflow(bytes, text[i] - '0', &bytes))
            return 0;
    // From its last digit on, a fraction that is whole in bytes leaves no remainder at any digit.
    int64_t part = 0;
    for (const char *digit = unit; digit > fraction; digit--) {
        part += (digit[-1] - '0') * scale;
        if (part % 10)
            return 0;
        part /= 10;
    }
    if (__builtin_mul_overflow(bytes, scale, &bytes) || __builtin_add_overflow(bytes, part, &bytes))
        return 0;
    *out_bytes = bytes;
    return 1;
}

static const char *find_choice(const char *choices, const char *text, size_t *out_length)
{
    size_t length = strlen(text);
    for (const char *c = choices; c && *c;) {
        size_t n = strcspn(c, "|");
        if (n == length && memcmp(c, text, n) == 0) {
            *out_length = n;
            return c;
        }
        c += n + (c[n] == '|');
    }
    return NULL;
}

fm_status fm_base_config_set(const fm_option *option, const char *text, void *out_options)
{
    void *slot = (char *)out_options + option->offset;
    int ok = 0;
    switch (option->type) {
    case FM_OPTION_FLAG: {
        int value = 0;
        if ((ok = parse_flag(text, &value)))
            memcpy(slot, &value, sizeof value);
        break;
    }
    case FM_OPTION_INT:
    case FM_OPTION_SIZE: {
        int64_t value = 0;
        ok = option->type == FM_OPTION_INT ? parse_int(text, &value) : parse_size(text, &value);
        if ((ok = ok && in_range_exactly(option, value)))
            memcpy(slot, &value, sizeof value);
        break;
    }
    case FM_OPTION_REAL: {
        double value = 0;
        if ((ok = parse_real(text, &value) && in_range(option, value)))
            memcpy(slot, &value, sizeof value);
        break;
    }
    case FM_OPTION_CHOICE: {
        size_t length;
        if (!find_choice(option->choices, text, &length))
            break;
    }
    // fall through
    case FM_OPTION_STRING:
        memcpy(slot, &text, sizeof text);
        ok = 1;
        break;
    }
    return ok ? FM_OK : bad_value(option, text);
}

fm_status fm_base_config_defaults(const fm_option *schema, void *out_options)
{
    for (size_t i = 0; i < fm_base_config_count(schema); i++) {
        const fm_option *option = &schema[i];
        if (option->value) {
            if (fm_base_config_set(option, option->value, out_options) < 0)
                return fm_base_error_prefix(FM_ERR_INTERNAL, "default of option");
            continue;
        }
        static const size_t sizes[] = {[FM_OPTION_FLAG] = sizeof(int),
                                       [FM_OPTION_INT] = sizeof(int64_t),
                                       [FM_OPTION_REAL] = sizeof(double),
                                       [FM_OPTION_SIZE] = sizeof(int64_t),
                                       [FM_OPTION_STRING] = sizeof(const char *),
                                       [FM_OPTION_CHOICE] = sizeof(const char *)};
        memset((char *)out_options + option->offset, 0, sizes[option->type]);
    }
    return FM_OK;
}

static fm_status unknown_key(const fm_option *schema, const fm_doc *value, const char *key)
{
    enum { NAMES_MAX = 128 };
    const char *names[NAMES_MAX + 1];
    size_t count = fm_base_config_count(schema);
    if (count > NAMES_MAX)
        count = NAMES_MAX;
    for (size_t i = 0; i < count; i++)
        names[i] = schema[i].name;
    names[count] = NULL;
    const char *nearest = fm_base_nearest(key, names);
    if (nearest)
        return fm_base_doc_error(FM_ERR_FORMAT, value, "unknown key \"%s\"; did you mean \"%s\"?", key,
                                 nearest);
    char list[512] = "none";
    size_t used = 0;
    for (size_t i = 0; i < count && used < sizeof list; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", names[i]);
    return fm_base_doc_error(FM_ERR_FORMAT, value, "unknown key \"%s\"; known keys: %s", key, list);
}

static fm_status set_from_node(const fm_option *option, const fm_doc *node, void *out_options)
{
    char text[64];
    const char *string = text;
    int64_t integer;
    double real;
    int flag;
    switch (fm_base_doc_type(node)) {
    case FM_DOC_STRING:
        FM_TRY(fm_base_doc_string(node, option->name, &string));
        break;
    case FM_DOC_INT:
        FM_TRY(fm_base_doc_int(node, option->name, INT64_MIN, INT64_MAX, &integer));
        if (option->type == FM_OPTION_STRING)
            return fm_base_doc_error(FM_ERR_FORMAT, node,
                                     "%s is a number; expected a text (put it in quotes)", option->name);
        snprintf(text, sizeof text, "%lld", (long long)integer);
        break;
    case FM_DOC_REAL:
        FM_TRY(fm_base_doc_real(node, option->name, &real));
        snprintf(text, sizeof text, "%.17g", real);
        break;
    case FM_DOC_BOOL:
        FM_TRY(fm_base_doc_bool(node, option->name, &flag));
        string = flag ? "true" : "false";
        break;
    default: {
        char expected[256];
        fm_base_config_expected(option, expected, sizeof expected);
        return fm_base_doc_error(FM_ERR_FORMAT, node, "%s: expected %s", option->name, expected);
    }
    }
    // A number's text lives in this frame: only the types that are copied by value may keep it.
    if (string == text && option->type == FM_OPTION_CHOICE)
        return fm_base_doc_error(FM_ERR_FORMAT, node, "%s is %s; expected one of %s", option->name, text,
                                 option->choices);
    if (fm_base_config_set(option, string, out_options) < 0)
        return fm_base_doc_error(FM_ERR_FORMAT, node, "%s", fm_error_message());
    return FM_OK;
}

fm_status fm_base_config_read_doc(const fm_option *schema, const fm_doc *section, void *out_options,
                                  char *given)
{
    // An empty file or section is null in YAML: nothing is set.
    if (section && fm_base_doc_type(section) == FM_DOC_NULL)
        return FM_OK;
    FM_TRY(fm_base_doc_expect(section, "the configuration", FM_DOC_OBJECT));
    for (size_t i = 0; i < fm_base_doc_count(section); i++) {
        const char *key = fm_base_doc_key(section, i);
        const fm_doc *value = fm_base_doc_at(section, i);
        int index = fm_base_config_find(schema, key);
        if (index < 0)
            return unknown_key(schema, value, key);
        FM_TRY(set_from_node(&schema[index], value, out_options));
        if (given)
            given[index] = 1;
    }
    return FM_OK;
}

fm_status fm_base_config_from_doc(const fm_option *schema, const fm_doc *section, void *out_options)
{
    return fm_base_config_read_doc(schema, section, out_options, NULL);
}

void fm_base_config_env_name(const char *prefix, const char *name, char *out_text, size_t size)
{
    snprintf(out_text, size, "FM_%s%s%s", prefix, *prefix ? "_" : "", name);
    for (char *c = out_text; *c; c++)
        *c = *c == '-' || *c == ' ' ? '_' : (char)toupper((unsigned char)*c);
}

fm_status fm_base_config_read_env(const fm_option *schema, const char *prefix, void *out_options, char *given)
{
    for (size_t i = 0; i < fm_base_config_count(schema); i++) {
        char name[128];
        fm_base_config_env_name(prefix, schema[i].name, name, sizeof name);
        const char *text = getenv(name);
        if (!text)
            continue;
        if (fm_base_config_set(&schema[i], text, out_options) < 0)
            return fm_base_error_prefix(FM_ERR_ARG, "environment variable %s", name);
        if (given)
            given[i] = 1;
    }
    return FM_OK;
}

fm_status fm_base_config_from_env(const fm_option *schema, const char *prefix, void *out_options)
{
    return fm_base_config_read_env(schema, prefix, out_options, NULL);
}

const char *fm_base_config_metavar(const fm_option *option)
{
    if (option->type == FM_OPTION_FLAG)
        return "";
    if (option->metavar)
        return option->metavar;
    if (option->unit)
        return option->unit;
    switch (option->type) {
    case FM_OPTION_CHOICE:
        return option->choices;
    case FM_OPTION_INT:
        return "N";
    case FM_OPTION_REAL:
        return "X";
    case FM_OPTION_SIZE:
        return "SIZE";
    default:
        return "TEXT";
    }
}
