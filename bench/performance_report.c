/**
 * Renders recorded results as Markdown: performance_report FILE.jsonl... > docs/performance.md
 */
#include "bench_output.h"
#include "bench_si.h"

#include "fathom/config.h"
#include "fathom/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct report {
    fm_bench_output output;
    fm_bench_records records; // not printed yet: a time and its rate share a row
    fm_doc **lines;           // from which they borrow their texts
    size_t line_count;
};

static fm_status flush(struct report *report)
{
    fm_status status = fm_bench_output_records(&report->output, &report->records, 0);
    fm_bench_records_clear(&report->records);
    for (size_t i = 0; i < report->line_count; i++)
        fm_base_doc_free(report->lines[i]);
    fm_base_mem_free(report->lines);
    report->lines = NULL;
    report->line_count = 0;
    return status;
}

// Prints a member of the machine's record as text; "?" where it is missing.
static void print_member(const char *before, const fm_doc *line, const char *key)
{
    const fm_doc *node = fm_base_doc_get(line, key);
    const char *text;
    double real;
    if (node && fm_base_doc_type(node) == FM_DOC_STRING && fm_base_doc_string(node, key, &text) == FM_OK)
        printf("%s%s", before, text);
    else if (node && fm_base_doc_real(node, key, &real) == FM_OK)
        printf("%s%s", before, fm_bench_si(real, "1").text);
    else
        printf("%s?", before);
}

static void print_machine(const fm_doc *line)
{
    static const char *const parts[][2] = {
        {"", "cpu"},         {", CPUs: ", "cpus"},       {"; Linux ", "kernel"},      {"; level ", "isa"},
        {"; ", "build"},     {" build by ", "compiler"}, {"; revision ", "revision"}, {" at ", "date"},
        {"; load ", "load"}, {"; mode: ", "mode"},
    };
    print_member("\n## ", line, "bench");
    printf("\n\n");
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        print_member(parts[i][0], line, parts[i][1]);
    printf(".\n\n");
}

static fm_status print_limits(const fm_doc *limits)
{
    if (fm_base_doc_count(limits) == 0)
        return FM_OK;
    printf("| limit | 1 thread | all threads |\n| --- | ---: | ---: |\n");
    for (size_t i = 0; i < fm_base_doc_count(limits); i++) {
        const fm_doc *limit = fm_base_doc_at(limits, i);
        double one;
        double all;
        const char *unit;
        FM_TRY(fm_base_doc_real(fm_base_doc_get(limit, "one"), "one", &one));
        FM_TRY(fm_base_doc_real(fm_base_doc_get(limit, "all"), "all", &all));
        FM_TRY(fm_base_doc_string(fm_base_doc_get(limit, "unit"), "unit", &unit));
        printf("| %s | %s | %s |\n", fm_base_doc_key(limits, i), fm_bench_si(one, unit).text,
               fm_bench_si(all, unit).text);
    }
    printf("\n");
    return FM_OK;
}

static fm_status add_record(struct report *report, const fm_doc *line)
{
    fm_bench_record record;
    FM_TRY(fm_bench_output_parse(line, &record));
    fm_bench_records_add(&report->records, &record);
    return report->records.status;
}

static fm_status handle(struct report *report, const fm_doc *line)
{
    if (fm_base_doc_get(line, "record")) {
        print_machine(line);
        FM_TRY(print_limits(fm_base_doc_get(line, "limits")));
        fm_bench_output_head(&report->output);
        return FM_OK;
    }
    const fm_doc *skipped = fm_base_doc_get(line, "skipped");
    if (!skipped)
        return add_record(report, line);
    const char *name;
    const char *why;
    FM_TRY(fm_base_doc_string(fm_base_doc_get(line, "case"), "case", &name));
    FM_TRY(fm_base_doc_string(skipped, "skipped", &why));
    return fm_bench_output_skipped(&report->output, name, why);
}

// Every line but a record's, and every record that begins a case, first prints what waits.
static int begins_block(const fm_doc *line)
{
    const fm_doc *metric = fm_base_doc_get(line, "metric");
    const char *text;
    return !metric || fm_base_doc_string(metric, "metric", &text) < 0 || strcmp(text, "time") == 0;
}

static fm_status add_line(struct report *report, const char *text, size_t length, const char *name)
{
    fm_doc *line;
    FM_TRY(fm_base_doc_parse_json(text, length, name, &line));
    fm_status status = begins_block(line) ? flush(report) : FM_OK;
    fm_doc **lines = fm_base_mem_realloc(report->lines, report->line_count + 1, sizeof(void *));
    if (!lines) {
        fm_base_doc_free(line);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a line of %s", name);
    }
    report->lines = lines;
    report->lines[report->line_count++] = line;
    return status < 0 ? status : handle(report, line);
}

static fm_status add_file(struct report *report, const char *path)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return fm_base_error_set_errno(FM_ERR_IO, errno, "cannot open %s", path);
    char *text = NULL;
    size_t capacity = 0;
    fm_status status = FM_OK;
    ssize_t length;
    for (int number = 1; status == FM_OK && (length = getline(&text, &capacity, file)) >= 0; number++) {
        status = add_line(report, text, (size_t)length, path);
        if (status < 0)
            (void)fm_base_error_prefix(status, "line %d", number);
    }
    if (status == FM_OK && ferror(file))
        status = fm_base_error_set(FM_ERR_IO, "cannot read %s", path);
    free(text);
    fclose(file);
    return status;
}

static fm_status command_run(const fm_invocation *invocation, const void *options, int *out_exit)
{
    (void)options;
    (void)out_exit;
    struct report report = {.output = {.text = stdout, .markdown = 1}};
    printf(
        "# Performance\n\n"
        "Rendered by `performance_report` from the JSON lines in `bench/results/`; what the columns mean and "
        "how "
        "they are "
        "measured is in `bench/README.md`. Times are of one run (median, and half the distance between the "
        "quartiles). *frac* is the fraction of the limit that was probed around the same samples, *ratio* "
        "the "
        "peer's time by ours in the same rounds. A goal is a minimum or maximum for one of these; what is "
        "hoped "
        "for stands in brackets.\n");
    fm_status status = FM_OK;
    for (int i = 0; i < invocation->operand_count && status == FM_OK; i++)
        status = add_file(&report, invocation->operands[i]);
    fm_status last = flush(&report);
    return status < 0 ? status : last;
}

int main(int argc, char **argv)
{
    static const fm_option no_options[] = {{0}};
    static const fm_command command = {.name = "performance_report",
                                       .summary = "Renders recorded benchmark results as Markdown",
                                       .operands = "FILE...",
                                       .operands_min = 1,
                                       .operands_max = -1,
                                       .options = no_options,
                                       .run = command_run};
    return fm_base_command_main(&command, argc - 1, argv + 1);
}
