// `fathom trace ...`: what a training or inference run did.
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "commands.h"
#include "fathom/trace_report.h"
#include "trace_text.h"

struct trace_options {
    const char *rules;
    int salvage;
    int64_t top;
    const char *fail_if;
};

#define READING                                                                                         \
    {"rules", FM_OPTION_STRING, offsetof(struct trace_options, rules), .metavar = "FILE",               \
     .help = "what is communication, what waits, what is which group ('fathom trace rules' prints the " \
             "built-in ones)"},                                                                         \
    {                                                                                                   \
        "salvage", FM_OPTION_FLAG, offsetof(struct trace_options, salvage),                             \
            .help = "step over damage and use what is whole"                                            \
    }

static const fm_option report_schema[] = {
    READING,
    {"top", FM_OPTION_INT, offsetof(struct trace_options, top), .value = "15", .min = 0, .max = 1e6,
     .help = "kernels to list"},
    {"fail-if", FM_OPTION_STRING, offsetof(struct trace_options, fail_if), .metavar = "CONDITION",
     .help = "exit with 1 when this holds: 'exposed_pct > 5 or idle_pct > 1'"},
    {0},
};

/* A trace with its report. */
struct loaded {
    fm_trace *trace;
    fm_trace_rules *rules;
    fm_trace_report *report;
};

static void unload(struct loaded *loaded)
{
    fm_trace_report_free(loaded->report);
    fm_trace_rules_free(loaded->rules);
    fm_trace_data_free(loaded->trace);
}

static fm_status load(const struct trace_options *options, char *const *paths, int count, int keep_args,
                      struct loaded *loaded)
{
    fm_trace_read_options reading = {
        .size = sizeof reading, .keep_args = keep_args, .salvage = options->salvage};
    memset(loaded, 0, sizeof *loaded);
    fm_status status = fm_trace_rules_load(options->rules, &loaded->rules);
    if (status == FM_OK)
        status = fm_trace_data_read((const char *const *)paths, (size_t)count, &reading, &loaded->trace);
    if (status == FM_OK)
        status = fm_trace_report_make(loaded->trace, loaded->rules, &loaded->report);
    if (status < 0)
        unload(loaded);
    return status;
}

static fm_status print_json(const fm_trace_report *report)
{
    fm_json json = {.pretty = 1};
    fm_base_json_begin(&json, NULL, '{');
    fm_trace_report_json(report, &json);
    fm_base_json_end(&json);
    return fm_base_json_finish(&json, stdout);
}

static fm_status check_gate(const fm_trace_report *report, const char *condition, int *out_exit)
{
    int is_true = 0;
    if (!condition)
        return FM_OK;
    FM_TRY(fm_trace_report_test(report, condition, &is_true));
    if (is_true) {
        fprintf(stderr, "gate: %s holds\n", condition);
        *out_exit = 1;
    }
    return FM_OK;
}

static fm_status run_report(const fm_invocation *invocation, const void *opaque, int *out_exit)
{
    const struct trace_options *options = opaque;
    struct loaded loaded;
    FM_TRY(load(options, invocation->operands, invocation->operand_count, 0, &loaded));
    fm_status status =
        invocation->json ? print_json(loaded.report) : fm_app_trace_print(loaded.report, (int)options->top);
    if (status == FM_OK)
        status = check_gate(loaded.report, options->fail_if, out_exit);
    unload(&loaded);
    return status;
}

static const fm_command report_command = {
    .name = "report",
    .summary = "overlap, phases, kernels, critical path, findings",
    .operands = "FILE...",
    .details =
        "FILE is Chrome trace JSON, plain or gzip-compressed ('-': standard input): PyTorch's profiler, "
        "Fathom's own, or any other. Several files are the ranks of one run.",
    .options = report_schema,
    .options_size = sizeof(struct trace_options),
    .operands_min = 1,
    .operands_max = -1,
    .has_json = 1,
    .run = run_report,
};

static fm_status run_rules(const fm_invocation *invocation, const void *options, int *out_exit)
{
    (void)invocation;
    (void)options;
    (void)out_exit;
    fputs(fm_trace_rules_text(), stdout);
    return FM_OK;
}

static const fm_command rules_command = {
    .name = "rules",
    .summary = "print the built-in rules, to be edited and given to --rules",
    .run = run_rules,
};

static const fm_command *const children[] = {&report_command, &rules_command, NULL};

const fm_command fm_cmd_trace = {
    .name = "trace",
    .summary = "read, explain, compare and show what a training or inference run did",
    .children = children,
};
