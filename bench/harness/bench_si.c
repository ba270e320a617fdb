#include "bench_si.h"

#include <stdio.h>
#include <string.h>

fm_text fm_bench_si(double value, const char *unit)
{
    if (strcmp(unit, "s") == 0)
        return fm_base_text_duration(value * 1e9);
    fm_text text;
    if (strcmp(unit, "1") == 0) {
        snprintf(text.text, sizeof text.text, "%.3g", value);
        return text;
    }
    text = fm_base_text_count(value);
    size_t length = strlen(text.text);
    // "12.3 k" and "B/s" make "12.3 kB/s"; "7" and "B/s" make "7 B/s".
    int has_prefix = strchr(text.text, ' ') != NULL;
    snprintf(text.text + length, sizeof text.text - length, "%s%s", has_prefix ? "" : " ", unit);
    return text;
}
