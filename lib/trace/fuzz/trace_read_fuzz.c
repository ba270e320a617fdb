// Any bytes are read as a trace, strictly and salvaging, in every way that there is; what is taken is analysed.
#include <stdlib.h>

#include "../test/read_ways.h"
#include "fathom/trace_report.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_one(const uint8_t *data, size_t size, int salvage)
{
    fm_trace_read_options options = {.size = sizeof options, .keep_args = !salvage, .salvage = salvage};
    fm_trace *trace;
    static fm_trace_rules
        *rules; // of the whole process: compiling them takes longer than reading a small trace
    fm_trace_report *report;
    if (fm_trace_data_parse((const char *)data, size, "fuzz", &options, &trace) < 0)
        return;
    for (size_t i = 0; i < trace->slice_count; i++)
        if (trace->slices[i].duration_ns < 0 || !fm_trace_data_text(trace, trace->slices[i].name))
            abort();
    if (!rules && fm_trace_rules_load(NULL, &rules) < 0)
        abort();
    if (fm_trace_report_make(trace, rules, &report) < 0)
        abort();
    fm_json json = {0};
    fm_base_json_begin(&json, NULL, '{');
    fm_trace_report_json(report, &json);
    fm_base_json_end(&json);
    if (fm_base_json_finish(&json, NULL) < 0)
        abort();
    fm_trace_report_free(report);
    fm_trace_data_free(trace);
}

/* The shapes of events change speed, never results. */
static void compare_ways(const uint8_t *data, size_t size, int salvage)
{
    char expected[512], message[512];
    fm_trace_shape_kernel kernels[4];
    int ways = read_ways(kernels);
    fm_trace *first = read_this_way((const char *)data, size, NULL, !salvage, salvage, expected);
    for (int i = 1; i < ways; i++) {
        fm_trace *trace = read_this_way((const char *)data, size, kernels[i], !salvage, salvage, message);
        if (!first || !trace || strcmp(message, expected) != 0 || different(first, trace))
            abort();
        fm_trace_data_free(trace);
    }
    fm_trace_data_free(first);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    compare_ways(data, size, 0);
    compare_ways(data, size, 1);
    read_one(data, size, 0);
    read_one(data, size, 1);
    return 0;
}
