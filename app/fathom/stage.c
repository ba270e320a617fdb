#include "stage.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct fm_stage *const stages[] = {
    &fm_stage_machine,
    &fm_stage_placement,
    &fm_stage_report,
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

void fm_app_stage_fact(struct fm_stage_run *run, const char *label, const char *format, ...)
{
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fm_base_json_begin(run->facts, NULL, '[');
    fm_base_json_string(run->facts, NULL, label);
    fm_base_json_string(run->facts, NULL, text);
    fm_base_json_end(run->facts);
}
