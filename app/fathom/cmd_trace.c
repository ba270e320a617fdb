// `fathom trace ...`: what a training or inference run did.
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "commands.h"
#include "fathom/table.h"
#include "fathom/trace_compare.h"
#include "fathom/trace_page.h"
#include "fathom/trace_query.h"
#include "fathom/trace_write.h"
#include "trace_text.h"

struct trace_options {
    const char *rules;
    int salvage;
    const char *clocks;
    int64_t top;
    const char *fail_if;
    const char *format;
    const char *out;
    const char *scale;
};

#define READING                                                                                             \
    {"rules", FM_OPTION_STRING, offsetof(struct trace_options, rules), .metavar = "FILE",                   \
     .help = "what is communication, what waits, what is which group ('fathom trace rules' prints the "     \
             "built-in ones)"},                                                                             \
        {"clocks",                                                                                          \
         FM_OPTION_CHOICE,                                                                                  \
         offsetof(struct trace_options, clocks),                                                            \
         .value = "align",                                                                                  \
         .choices = "align|keep",                                                                           \
         .help = "of several files: move times that contradict each other, by common collectives, or not"}, \
    {                                                                                                       \
        "salvage", FM_OPTION_FLAG, offsetof(struct trace_options, salvage),                                 \
            .help = "step over damage and use what is whole"                                                \
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
    if (status == FM_OK && strcmp(options->clocks, "align") == 0)
        status = fm_trace_clocks_align(loaded->trace, loaded->rules);
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

static const fm_option query_schema[] = {
    READING,
    {"format", FM_OPTION_CHOICE, offsetof(struct trace_options, format), .value = "table",
     .choices = "table|csv|json|parquet", .help = "how the rows are written"},
    {"out", FM_OPTION_STRING, offsetof(struct trace_options, out), .letter = 'o', .metavar = "FILE",
     .help = "where they are written (standard output)"},
    {0},
};

static fm_status run_query(const fm_invocation *invocation, const void *opaque, int *out_exit)
{
    (void)out_exit;
    const struct trace_options *options = opaque;
    static const char *const names[] = {"table", "csv", "json", "parquet"};
    int format = 0, last = invocation->operand_count - 1;
    while (strcmp(options->format, names[format]) != 0)
        format++;
    struct loaded loaded;
    FM_TRY(load(options, invocation->operands, last, 1, &loaded));
    fm_status status = fm_trace_query_run(loaded.report, invocation->operands[last], (fm_trace_format)format,
                                          options->out, stdout);
    unload(&loaded);
    return status;
}

static const fm_command query_command = {
    .name = "query",
    .summary =
        "ask in SQL (DuckDB): tables slices, kernels, phases, tracks, processes, flows, counters, args",
    .operands = "FILE... SQL",
    .details =
        "  fathom trace query run.json.gz \"SELECT group_name, sum(dur_us) FROM kernels GROUP BY 1 ORDER BY "
        "2\"\n"
        "slices: id, ts_us, dur_us, name, category, track, process, kind, correlation, device, stream, "
        "blocks,\n"
        "threads, bytes, group_name, work_kind, phase. The other tables: DESCRIBE, or fathom/trace_query.h.",
    .options = query_schema,
    .options_size = sizeof(struct trace_options),
    .operands_min = 2,
    .operands_max = -1,
    .run = run_query,
};

static const fm_option diff_schema[] = {
    READING,
    {"fail-if", FM_OPTION_STRING, offsetof(struct trace_options, fail_if), .metavar = "CONDITION",
     .help = "exit with 1 when this holds of the change from A to B: 'span_us > 5 or exposed_pct > 1 or "
             "slower > 0' "
             "(in percent of A; of figures in percent, in points)"},
    {0},
};

static fm_status print_diff(const fm_trace_diff *diff)
{
    static const char *const figures[] = {"span_us", "idle_us",    "compute_us",
                                          "comm_us", "overlap_us", "exposed_us"};
    fm_table table = {0};
    fm_base_table_column(&table, "figure", NULL, FM_ALIGN_LEFT);
    fm_base_table_column(&table, "A", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "B", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "change", "%", FM_ALIGN_POINT);
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++) {
        double a = 0, b = 0;
        FM_TRY(fm_trace_report_figure(diff->a, figures[i], &a));
        FM_TRY(fm_trace_report_figure(diff->b, figures[i], &b));
        fm_base_table_cell(&table, "%s", figures[i]);
        fm_base_table_cell(&table, "%.0f", a);
        fm_base_table_cell(&table, "%.0f", b);
        fm_base_table_cell(&table, "%+.2f", a > 0 ? 100 * (b - a) / a : 0);
    }
    FM_TRY(fm_base_table_finish(&table, stdout, 0));
    printf("\n");
    fm_base_table_column(&table, "group or phase", NULL, FM_ALIGN_LEFT);
    fm_base_table_column(&table, "samples", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "mean A", "us", FM_ALIGN_POINT);
    fm_base_table_column(&table, "mean B", "us", FM_ALIGN_POINT);
    fm_base_table_column(&table, "change", "%", FM_ALIGN_POINT);
    fm_base_table_column(&table, "costs", "us", FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "p", NULL, FM_ALIGN_LEFT);
    for (size_t i = 0; i < diff->change_count; i++) {
        const fm_trace_change *change = &diff->changes[i];
        fm_base_table_cell(&table, "%s%s", change->is_phase ? "phase " : "", change->name);
        fm_base_table_cell(&table, "%llu, %llu", (unsigned long long)change->count_a,
                           (unsigned long long)change->count_b);
        fm_base_table_cell(&table, "%.1f", change->mean_a_us);
        fm_base_table_cell(&table, "%.1f", change->mean_b_us);
        fm_base_table_cell(&table, "%+.2f",
                           change->mean_a_us > 0 ? 100 * (change->mean_b_us / change->mean_a_us - 1) : 0);
        fm_base_table_cell(&table, "%+.0f", change->total_us);
        fm_base_table_cell(&table, "%.3f%s", change->p,
                           !fm_trace_diff_counts(change)           ? ""
                           : change->mean_b_us > change->mean_a_us ? " slower"
                                                                   : " faster");
    }
    FM_TRY(fm_base_table_finish(&table, stdout, 0));
    printf("\n%zu slower, %zu faster (p below 0.01, by 1 %% or more)\n", diff->slower, diff->faster);
    return FM_OK;
}

static fm_status show_diff(const fm_trace_diff *diff, int as_json)
{
    if (!as_json)
        return print_diff(diff);
    fm_json json = {.pretty = 1};
    fm_base_json_begin(&json, NULL, '{');
    fm_trace_diff_json(diff, &json);
    fm_base_json_end(&json);
    return fm_base_json_finish(&json, stdout);
}

static fm_status run_diff(const fm_invocation *invocation, const void *opaque, int *out_exit)
{
    const struct trace_options *options = opaque;
    struct loaded a, b = {0};
    fm_trace_diff *diff = NULL;
    int is_true = 0;
    FM_TRY(load(options, invocation->operands, 1, 0, &a));
    fm_status status = load(options, invocation->operands + 1, 1, 0, &b);
    if (status == FM_OK)
        status = fm_trace_diff_make(a.report, b.report, &diff);
    if (status == FM_OK)
        status = show_diff(diff, invocation->json);
    if (status == FM_OK && options->fail_if)
        status = fm_trace_diff_test(diff, options->fail_if, &is_true);
    if (is_true) {
        fprintf(stderr, "gate: %s holds\n", options->fail_if);
        *out_exit = 1;
    }
    fm_trace_diff_free(diff);
    if (b.trace)
        unload(&b);
    unload(&a);
    return status;
}

static const fm_command diff_command = {
    .name = "diff",
    .summary = "what got slower from trace A to trace B, and whether it is more than chance",
    .operands = "A B",
    .options = diff_schema,
    .options_size = sizeof(struct trace_options),
    .operands_min = 2,
    .operands_max = 2,
    .has_json = 1,
    .run = run_diff,
};

static const fm_option whatif_schema[] = {
    READING,
    {"scale", FM_OPTION_STRING, offsetof(struct trace_options, scale), .metavar = "SCALE", .required = 1,
     .help = "'comm*0.5,comm_notify*0': compute, transfer, wait, comm, launch, or groups, times a factor"},
    {0},
};

static fm_status print_replay(const fm_trace_replay *replay)
{
    const struct {
        const char *name;
        int64_t before, after;
    } rows[] = {
        {"span", replay->before.span_ns, replay->after.span_ns},
        {"idle", replay->before.idle_ns, replay->after.idle_ns},
        {"computation", replay->before.compute_ns, replay->after.compute_ns},
        {"communication", replay->before.communication_ns, replay->after.communication_ns},
        {"  overlapped", replay->before.overlap_ns, replay->after.overlap_ns},
        {"  exposed", replay->before.exposed_ns, replay->after.exposed_ns},
    };
    fm_table table = {0};
    fm_base_table_column(&table, "", NULL, FM_ALIGN_LEFT);
    fm_base_table_column(&table, "measured", "us", FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "replayed", "us", FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "change", "%", FM_ALIGN_POINT);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fm_base_table_cell(&table, "%s", rows[i].name);
        fm_base_table_cell(&table, "%.0f", (double)rows[i].before / 1000);
        fm_base_table_cell(&table, "%.0f", (double)rows[i].after / 1000);
        fm_base_table_cell(
            &table, "%+.2f",
            rows[i].before ? 100.0 * (double)(rows[i].after - rows[i].before) / (double)rows[i].before : 0);
    }
    return fm_base_table_finish(&table, stdout, 0);
}

static void put_overlap(fm_json *json, const char *key, const fm_trace_overlap *overlap)
{
    fm_base_json_begin(json, key, '{');
    fm_base_json_real(json, "span_us", (double)overlap->span_ns / 1000);
    fm_base_json_real(json, "idle_us", (double)overlap->idle_ns / 1000);
    fm_base_json_real(json, "compute_busy_us", (double)overlap->compute_ns / 1000);
    fm_base_json_real(json, "comm_busy_us", (double)overlap->communication_ns / 1000);
    fm_base_json_real(json, "overlap_us", (double)overlap->overlap_ns / 1000);
    fm_base_json_real(json, "exposed_comm_us", (double)overlap->exposed_ns / 1000);
    fm_base_json_end(json);
}

static fm_status run_whatif(const fm_invocation *invocation, const void *opaque, int *out_exit)
{
    (void)out_exit;
    const struct trace_options *options = opaque;
    struct loaded loaded;
    fm_trace_replay replay;
    FM_TRY(load(options, invocation->operands, invocation->operand_count, 0, &loaded));
    fm_status status = fm_trace_replay_run(loaded.report, options->scale, &replay);
    if (status == FM_OK && !invocation->json) {
        status = print_replay(&replay);
    } else if (status == FM_OK) {
        fm_json json = {.pretty = 1};
        fm_base_json_begin(&json, NULL, '{');
        put_overlap(&json, "before", &replay.before);
        put_overlap(&json, "after", &replay.after);
        fm_base_json_end(&json);
        status = fm_base_json_finish(&json, stdout);
    }
    unload(&loaded);
    return status;
}

static const fm_command whatif_command = {
    .name = "whatif",
    .summary = "replay the run with scaled costs over its dependencies",
    .operands = "FILE...",
    .details = "Work begins when what held it up in the trace has ended: work before it on its stream, work "
               "on another "
               "stream, or the call that launched it. Dependencies that held nothing up are not known, so a "
               "replay may be "
               "too fast, never too slow by them.",
    .options = whatif_schema,
    .options_size = sizeof(struct trace_options),
    .operands_min = 1,
    .operands_max = -1,
    .has_json = 1,
    .run = run_whatif,
};

static const fm_option html_schema[] = {
    READING,
    {"out", FM_OPTION_STRING, offsetof(struct trace_options, out), .letter = 'o', .metavar = "FILE",
     .value = "report.html", .help = "the page to write"},
    {0},
};

static fm_status run_html(const fm_invocation *invocation, const void *opaque, int *out_exit)
{
    (void)out_exit;
    const struct trace_options *options = opaque;
    struct loaded loaded;
    FM_TRY(load(options, invocation->operands, invocation->operand_count, 0, &loaded));
    fm_status status = fm_trace_page_save(loaded.report, options->out);
    unload(&loaded);
    return status;
}

static const fm_command html_command = {
    .name = "html",
    .summary = "write one self-contained page: timeline, overlap, findings, phases, kernels",
    .operands = "FILE...",
    .options = html_schema,
    .options_size = sizeof(struct trace_options),
    .operands_min = 1,
    .operands_max = -1,
    .run = run_html,
};

static const fm_option merge_schema[] = {
    READING,
    {"out", FM_OPTION_STRING, offsetof(struct trace_options, out), .letter = 'o', .metavar = "FILE",
     .required = 1, .help = "the file to write"},
    {0},
};

static fm_status run_merge(const fm_invocation *invocation, const void *opaque, int *out_exit)
{
    (void)out_exit;
    const struct trace_options *options = opaque;
    struct loaded loaded;
    FM_TRY(load(options, invocation->operands, invocation->operand_count, 1, &loaded));
    fm_status status = fm_trace_data_save(loaded.trace, options->out);
    unload(&loaded);
    return status;
}

static const fm_command merge_command = {
    .name = "merge",
    .summary = "write several traces as one file for viewers",
    .operands = "FILE...",
    .options = merge_schema,
    .options_size = sizeof(struct trace_options),
    .operands_min = 1,
    .operands_max = -1,
    .run = run_merge,
};

static const fm_command *const children[] = {&report_command, &html_command,  &query_command, &diff_command,
                                             &whatif_command, &merge_command, &rules_command, NULL};

const fm_command fm_cmd_trace = {
    .name = "trace",
    .summary = "read, explain, compare and show what a training or inference run did",
    .children = children,
};
