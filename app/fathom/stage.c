#include "stage.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct fm_stage *const stages[] = {
    &fm_stage_machine,  &fm_stage_corpus,    &fm_stage_data,     &fm_stage_train,  &fm_stage_balance,
    &fm_stage_generate, &fm_stage_placement, &fm_stage_schedule, &fm_stage_report,
};

enum { STAGE_COUNT = sizeof stages / sizeof stages[0] };

const struct fm_stage *fm_app_stage_find(const char *name)
{
    for (int i = 0; i < STAGE_COUNT; i++)
        if (strcmp(stages[i]->name, name) == 0)
            return stages[i];
    return NULL;
}

const char *const *fm_app_stage_names(void)
{
    static const char *names[STAGE_COUNT + 1];
    for (int i = 0; i < STAGE_COUNT; i++)
        names[i] = stages[i]->name;
    return names;
}

fm_status fm_app_stage_fs(const struct fm_stage_run *run, fm_fs **out_fs)
{
    char spec[4200];
    snprintf(spec, sizeof spec, "dir:%s", run->run_folder);
    return fm_fs_open(spec, 0, out_fs);
}

static void begin_fact(fm_json *facts, const char *what)
{
    fm_base_json_begin(facts, NULL, '{');
    fm_base_json_string(facts, "what", what);
}

static void end_fact(fm_json *facts, const char *unit)
{
    fm_base_json_string(facts, "unit", unit);
    fm_base_json_end(facts);
}

void fm_app_stage_text(struct fm_stage_run *run, const char *what, const char *format, ...)
{
    // A path is the longest that a stage tells of.
    char text[4096];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    begin_fact(run->facts, what);
    fm_base_json_string(run->facts, "value", text);
    end_fact(run->facts, NULL);
}

// Beyond 2^53 a double is whole, but no count that somebody made.
static int is_count(double value)
{
    return value == trunc(value) && fabs(value) <= 0x1p53;
}

void fm_app_stage_number(struct fm_stage_run *run, const char *what, double value, const char *unit)
{
    begin_fact(run->facts, what);
    if (is_count(value))
        fm_base_json_int(run->facts, "value", (int64_t)value);
    else
        fm_base_json_real(run->facts, "value", value);
    end_fact(run->facts, unit);
}

fm_status fm_app_stage_fact_show(const fm_doc *fact, const char **out_what, char *out_shown, size_t size)
{
    const fm_doc *value = fm_base_doc_get(fact, "value");
    const fm_doc *unit_node = fm_base_doc_get(fact, "unit");
    const char *what;
    const char *text;
    const char *unit = NULL;
    double number = (double)NAN;
    FM_TRY(fm_base_doc_string(fm_base_doc_get(fact, "what"), "what", &what));
    if (fm_base_doc_type(unit_node) != FM_DOC_NULL)
        FM_TRY(fm_base_doc_string(unit_node, "unit", &unit));
    if (fm_base_doc_type(value) == FM_DOC_STRING) {
        FM_TRY(fm_base_doc_string(value, "value", &text));
        snprintf(out_shown, size, "%s", text);
        *out_what = what;
        return FM_OK;
    }
    if (value && fm_base_doc_type(value) != FM_DOC_NULL) // null is a number that JSON lacks
        FM_TRY(fm_base_doc_real(value, "value", &number));
    if (unit && strcmp(unit, "B") == 0)
        snprintf(out_shown, size, "%s", fm_base_text_bytes(number).text);
    else
        // Four significant digits, trailing zeros among them; from 999.5 on they would be a whole number.
        snprintf(out_shown, size, is_count(number) || fabs(number) >= 999.5 ? "%.0f%s%s" : "%#.4g%s%s",
                 number, unit ? " " : "", unit ? unit : "");
    *out_what = what;
    return FM_OK;
}
