// `fathom pond ...`: partitioned data processing.
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "commands.h"
#include "fathom/clock.h"
#include "fathom/interrupt.h"
#include "fathom/mem.h"
#include "fathom/pond.h"
#include "fathom/pond_records.h"
#include "fathom/progress.h"
#include "fathom/text.h"
#include "token_plan.h"

struct pond_options {
    int64_t records;
    int64_t first;
    const char *layout;
    int skew;
    const char *output;
    int64_t memory;
    int64_t record_bytes;
    int64_t key_bytes;
    int64_t threads;
    const char *scratch;
};

#define OPTION(member) offsetof(struct pond_options, member)
#define THREADS_OPTION                                                                                  \
    {                                                                                                   \
        "threads", FM_OPTION_INT, OPTION(threads), .value = "0", .min = 0, .max = 128,                  \
                                                   .help = "threads that compute (0: as many as cores)" \
    }
#define RECORD_OPTIONS                                                  \
    {"record-bytes",                                                    \
     FM_OPTION_INT,                                                     \
     OPTION(record_bytes),                                              \
     .value = "100",                                                    \
     .min = 1,                                                          \
     .max = FM_POND_RECORD_BYTES_MAX,                                   \
     .help = "size of a record"},                                       \
    {                                                                   \
        "key-bytes", FM_OPTION_INT, OPTION(key_bytes),                  \
            .value = "0", .min = 0, .max = FM_POND_KEY_BYTES,           \
            .help = "its first bytes, compared as unsigned (0: 10, or " \
                    "the whole record where it is shorter)"             \
    }

static void begin_progress(fm_progress *progress, const char *label)
{
    fm_base_progress_begin(progress, label, "B", 0);
}

static void show_progress(void *context, uint64_t done, uint64_t total)
{
    fm_progress *progress = context;
    progress->total = total;
    fm_base_progress_update(progress, done);
}

static const fm_option gensort_schema[] = {
    {"records", FM_OPTION_INT, OPTION(records), .required = 1, .min = 0, .max = 0x1p42, .help = "how many"},
    {"first", FM_OPTION_INT, OPTION(first), .value = "0", .min = 0, .max = 0x1p62,
     .help = "number of the first, so that parts can be made apart"},
    {"layout", FM_OPTION_CHOICE, OPTION(layout), .value = "1.5", .choices = "1.5|1.4|ascii",
     .help = "of the gensort version, or lines of text"},
    {"skew", FM_OPTION_FLAG, OPTION(skew), .help = "crowd half of the keys into a few places"},
    THREADS_OPTION,
    {"output", FM_OPTION_STRING, OPTION(output), .letter = 'o', .metavar = "DIR", .required = 1,
     .help = "folder for part-00000.dat, ..."},
    {0},
};

static fm_pond_layout layout_of(const char *name)
{
    return name[0] == 'a'             ? FM_POND_LAYOUT_ASCII
           : strcmp(name, "1.4") == 0 ? FM_POND_LAYOUT_14
                                      : FM_POND_LAYOUT_15;
}

static fm_status run_gensort(const fm_invocation *invocation, const void *given, int *out_exit)
{
    (void)invocation;
    (void)out_exit;
    const struct pond_options *options = given;
    const fm_pond_make_options make = {.size = sizeof make,
                                       .first = (uint64_t)options->first,
                                       .records = (uint64_t)options->records,
                                       .layout = layout_of(options->layout),
                                       .skew = options->skew,
                                       .threads = (int)options->threads};
    return fm_pond_records_write(options->output, &make);
}

static const fm_command gensort_command = {
    .name = "gensort",
    .summary = "make records of the sort benchmark: 100 bytes, of which the first 10 are the key",
    .details = "  fathom pond gensort --records 10000000 -o in",
    .options = gensort_schema,
    .options_size = sizeof(struct pond_options),
    .run = run_gensort,
};

static const fm_option sort_schema[] = {
    {"memory", FM_OPTION_SIZE, OPTION(memory), .value = "0", .metavar = "SIZE",
     .help = "for buffers, at least 8M; input that needs more goes through disk (0: half of what is free)"},
    {"scratch", FM_OPTION_STRING, OPTION(scratch), .metavar = "DIR",
     .help = "folder for what does not fit in memory (that of the output)"},
    RECORD_OPTIONS,
    THREADS_OPTION,
    {"output", FM_OPTION_STRING, OPTION(output), .letter = 'o', .metavar = "FILE", .required = 1,
     .help = "the sorted records; appears when they are proved complete and in order"},
    {0},
};

static void write_sort_json(const fm_pond_sort_report *report, double seconds, fm_json *json)
{
    char sum[32];
    snprintf(sum, sizeof sum, "%016llx", (unsigned long long)report->out.hash);
    fm_base_json_begin(json, NULL, '{');
    fm_base_json_int(json, "records", (int64_t)report->out.records);
    fm_base_json_int(json, "bytes", (int64_t)report->bytes);
    fm_base_json_string(json, "sum", sum);
    fm_base_json_bool(json, "proved", 1);
    fm_base_json_int(json, "passes", report->passes);
    fm_base_json_int(json, "partitions", report->partitions);
    fm_base_json_int(json, "partition_bytes_max", (int64_t)report->partition_bytes_max);
    fm_base_json_real(json, "read_s", (double)report->read_ns * 1e-9);
    fm_base_json_real(json, "partition_s", (double)report->partition_ns * 1e-9);
    fm_base_json_real(json, "sort_s", (double)report->sort_ns * 1e-9);
    fm_base_json_real(json, "sync_s", (double)report->sync_ns * 1e-9);
    fm_base_json_real(json, "seconds", seconds);
    fm_base_json_end(json);
}

static void print_sort(const fm_pond_sort_report *report, double seconds)
{
    printf("%llu records, %s in %s (%s/s), %s\n", (unsigned long long)report->out.records,
           fm_base_text_bytes((double)report->bytes).text, fm_base_text_duration(seconds * 1e9).text,
           fm_base_text_bytes((double)report->bytes / seconds).text,
           report->passes == 1 ? "in memory" : "through disk");
    if (report->passes == 2)
        printf("%u partitions, the largest %s\n", report->partitions,
               fm_base_text_bytes((double)report->partition_bytes_max).text);
    printf("proved: as many out as in, sum %016llx out as in, keys in order\n",
           (unsigned long long)report->out.hash);
}

static fm_status run_sort(const fm_invocation *invocation, const void *given, int *out_exit)
{
    (void)out_exit;
    const struct pond_options *options = given;
    fm_progress progress;
    fm_pond_sort_report report;
    const fm_pond_sort_options sort = {.size = sizeof sort,
                                       .record_bytes = (uint32_t)options->record_bytes,
                                       .key_bytes = (uint32_t)options->key_bytes,
                                       .memory_bytes = (uint64_t)options->memory,
                                       .threads = (int)options->threads,
                                       .scratch = options->scratch,
                                       .progress = show_progress,
                                       .progress_context = &progress};
    FM_TRY(fm_base_interrupt_install());
    begin_progress(&progress, "sort");
    uint64_t begin = fm_base_clock_ns();
    fm_status status =
        fm_pond_records_sort((const char *const *)invocation->operands, (size_t)invocation->operand_count,
                             options->output, &sort, &report);
    double seconds = (double)(fm_base_clock_ns() - begin) * 1e-9;
    fm_base_progress_finish(&progress, status);
    if (status < 0)
        return status;
    if (!invocation->json) {
        print_sort(&report, seconds);
        return FM_OK;
    }
    fm_json json = {0};
    write_sort_json(&report, seconds, &json);
    return fm_base_json_finish(&json, stdout);
}

static const fm_command sort_command = {
    .name = "sort",
    .summary = "sort fixed binary records, in memory or through disk, and prove it",
    .operands = "IN...",
    .details = "IN is a file of records or a folder of them. Records with equal keys keep their order.\n"
               "  fathom pond sort --memory 1G in -o out.dat",
    .options = sort_schema,
    .options_size = sizeof(struct pond_options),
    .operands_min = 1,
    .operands_max = -1,
    .has_json = 1,
    .run = run_sort,
};

static const fm_option valsort_schema[] = {
    RECORD_OPTIONS,
    THREADS_OPTION,
    {0},
};

static fm_status run_valsort(const fm_invocation *invocation, const void *given, int *out_exit)
{
    const struct pond_options *options = given;
    fm_progress progress;
    fm_pond_check_report report;
    const fm_pond_sort_options check = {.size = sizeof check,
                                        .record_bytes = (uint32_t)options->record_bytes,
                                        .key_bytes = (uint32_t)options->key_bytes,
                                        .threads = (int)options->threads,
                                        .progress = show_progress,
                                        .progress_context = &progress};
    FM_TRY(fm_base_interrupt_install());
    begin_progress(&progress, "valsort");
    fm_status status = fm_pond_records_check((const char *const *)invocation->operands,
                                             (size_t)invocation->operand_count, &check, &report);
    fm_base_progress_finish(&progress, status);
    if (status < 0)
        return status;
    char checksum[40];
    if (report.checksum_high)
        snprintf(checksum, sizeof checksum, "%llx%016llx", (unsigned long long)report.checksum_high,
                 (unsigned long long)report.checksum_low);
    else
        snprintf(checksum, sizeof checksum, "%llx", (unsigned long long)report.checksum_low);
    *out_exit = report.unordered != 0;
    if (invocation->json) {
        fm_json json = {0};
        fm_base_json_begin(&json, NULL, '{');
        fm_base_json_int(&json, "records", (int64_t)report.records);
        fm_base_json_string(&json, "checksum", checksum);
        fm_base_json_int(&json, "duplicate_keys", (int64_t)report.duplicate_keys);
        fm_base_json_int(&json, "unordered", (int64_t)report.unordered);
        fm_base_json_bool(&json, "sorted", report.unordered == 0);
        fm_base_json_end(&json);
        return fm_base_json_finish(&json, stdout);
    }
    printf("records: %llu\nchecksum: %s\nduplicate keys: %llu\n", (unsigned long long)report.records,
           checksum, (unsigned long long)report.duplicate_keys);
    if (report.unordered)
        printf("NOT sorted: %llu records are below the one before, the first of them record %llu\n",
               (unsigned long long)report.unordered, (unsigned long long)report.first_unordered);
    else
        printf("sorted\n");
    return FM_OK;
}

static const fm_command valsort_command = {
    .name = "valsort",
    .summary = "check that records are in order; print their count, checksum and duplicate keys",
    .operands = "FILE...",
    .details =
        "Several files, or those of a folder, are checked as one. The checksum is the benchmark's: the "
        "sum of each record's CRC-32.\nExits with 1 when they are not in order.",
    .options = valsort_schema,
    .options_size = sizeof(struct pond_options),
    .operands_min = 1,
    .operands_max = -1,
    .has_json = 1,
    .run = run_valsort,
};

struct job_options {
    int64_t executors;
    int64_t threads;
    int64_t memory;
    int64_t retries;
    double idle_s;
    const char *work;
    const char *listen;
    const char *key;
    const char *format;
    int explain;
    const char *launch;
    const char *launch_stop;
    const char *slurm;
};

#define JOB_OPTION(member) offsetof(struct job_options, member)

static const fm_option run_schema[] = {
    {"explain", FM_OPTION_FLAG, JOB_OPTION(explain), .help = "show stages and bytes, and run nothing"},
    {"executors", FM_OPTION_INT, JOB_OPTION(executors), .value = "0", .min = -1, .max = 256,
     .help =
         "processes at most: local, or of --slurm or --launch (0: the job's, or as many as cores; -1: none, "
         "others will join)"},
    {"idle", FM_OPTION_REAL, JOB_OPTION(idle_s), .value = "10", .min = 0.1, .max = 86400, .unit = "s",
     .help = "executors without work for so long are sent home"},
    {"threads", FM_OPTION_INT, JOB_OPTION(threads), .value = "0", .min = 0, .max = 256,
     .help = "of each task (0: the job's, or 1)"},
    {"memory", FM_OPTION_SIZE, JOB_OPTION(memory), .value = "0", .metavar = "SIZE",
     .help = "of each task (0: the job's, or half of what is free, shared by the executors)"},
    {"retries", FM_OPTION_INT, JOB_OPTION(retries), .value = "3", .min = 1, .max = 100,
     .help = "of a task before the job fails"},
    {"work", FM_OPTION_STRING, JOB_OPTION(work), .metavar = "DIR",
     .help = "what tasks make, for this run and the next (the job's, or .pond)"},
    {"listen", FM_OPTION_STRING, JOB_OPTION(listen), .metavar = "ADDRESS",
     .help = "where executors of other machines may join ('*:7000')"},
    {"slurm", FM_OPTION_STRING, JOB_OPTION(slurm), .metavar = "OPTIONS",
     .help = "executors are Slurm's pilot jobs, with these options of sbatch: 'partition=batch,time=60'"},
    {"launch", FM_OPTION_STRING, JOB_OPTION(launch), .metavar = "COMMAND",
     .help = "executors are started by this command; {address}, {key}, {fathom}, {work} and {count} are "
             "filled in"},
    {"launch-stop", FM_OPTION_STRING, JOB_OPTION(launch_stop), .metavar = "COMMAND",
     .help = "ends them; {id} is the first line that --launch printed"},
    {"key", FM_OPTION_STRING, JOB_OPTION(key), .metavar = "FILE",
     .help = "key file that they share (made for the run with --slurm and --launch)"},
    {0},
};

static void write_run_json(const fm_pond_run_report *report, fm_json *json)
{
    fm_base_json_begin(json, NULL, '{');
    fm_base_json_int(json, "tasks", (int64_t)report->tasks);
    fm_base_json_int(json, "tasks_run", (int64_t)report->tasks_run);
    fm_base_json_int(json, "tasks_kept", (int64_t)report->tasks_kept);
    fm_base_json_int(json, "retries", (int64_t)report->retries);
    fm_base_json_int(json, "speculative", (int64_t)report->speculative);
    fm_base_json_int(json, "rows", (int64_t)report->rows);
    fm_base_json_int(json, "moved_rows", (int64_t)report->moved_rows);
    fm_base_json_int(json, "skipped", (int64_t)report->skipped);
    fm_base_json_real(json, "seconds", (double)report->wall_ns * 1e-9);
    fm_base_json_real(json, "cpu_seconds", (double)report->cpu_ns * 1e-9);
    fm_base_json_int(json, "rss_bytes_max", (int64_t)report->rss_bytes_max);
    fm_base_json_end(json);
}

static fm_status show_run(const fm_invocation *invocation, const fm_pond_run_report *report)
{
    if (invocation->json) {
        fm_json json = {0};
        write_run_json(report, &json);
        return fm_base_json_finish(&json, stdout);
    }
    printf("%llu rows written in %s; %llu tasks run, %llu kept from before, %llu retried\n",
           (unsigned long long)report->rows, fm_base_text_duration((double)report->wall_ns).text,
           (unsigned long long)report->tasks_run, (unsigned long long)report->tasks_kept,
           (unsigned long long)report->retries);
    printf("tasks took %s of processor time, and at most %s of memory\n",
           fm_base_text_duration((double)report->cpu_ns).text,
           fm_base_text_bytes((double)report->rss_bytes_max).text);
    if (report->moved_rows)
        printf("%llu rows moved between partitions, as many and the same on both sides\n",
               (unsigned long long)report->moved_rows);
    if (report->skipped)
        printf("%llu malformed lines left out\n", (unsigned long long)report->skipped);
    return FM_OK;
}

static fm_status explain_or_run(const fm_invocation *invocation, const struct job_options *options,
                                fm_pond_plan *plan)
{
    fm_pond_run_report report;
    if (options->explain) {
        char *text;
        FM_TRY(fm_pond_plan_explain(plan, &text));
        fputs(text, stdout);
        fm_base_mem_free(text);
        return FM_OK;
    }
    int launches = options->launch || options->slurm;
    const fm_pond_run_options run = {.size = sizeof run,
                                     .work = options->work,
                                     .executors = launches ? -1 : (int)options->executors,
                                     .launch = options->launch,
                                     .launch_stop = options->launch_stop,
                                     .slurm = options->slurm,
                                     .launch_count = options->executors > 0 ? (int)options->executors : 1,
                                     .idle_ms = (int)(options->idle_s * 1000),
                                     .threads = (int)options->threads,
                                     .memory_bytes = (uint64_t)options->memory,
                                     .retries = (int)options->retries,
                                     .progress = 1,
                                     .listen = options->listen,
                                     .key_path = options->key};
    FM_TRY(fm_base_interrupt_install());
    FM_TRY(fm_pond_plan_run(plan, &run, &report));
    return show_run(invocation, &report);
}

static fm_status run_job(const fm_invocation *invocation, const void *given, int *out_exit)
{
    (void)out_exit;
    const struct job_options *options = given;
    fm_doc *job;
    fm_pond_plan *plan = NULL;
    FM_TRY(fm_base_doc_load(invocation->operands[0], &job));
    fm_status status = fm_pond_plan_read(job, &plan);
    fm_base_doc_free(job);
    if (status == FM_OK)
        status = explain_or_run(invocation, options, plan);
    fm_pond_plan_free(plan);
    return status;
}

static const fm_command run_command = {
    .name = "run",
    .summary = "run a job file: sources, SQL, shuffles, sinks",
    .operands = "JOB",
    .details =
        "A job is stopped by Ctrl-C and goes on where it was when it is run again; an edited job runs again\n"
        "only what the edit changes. fathom/pond.h describes the steps. The work folder's trace.json says "
        "what\n"
        "each task took; 'fathom trace' reads it.\n"
        "  fathom pond run --executors 4 job.yaml",
    .options = run_schema,
    .options_size = sizeof(struct job_options),
    .operands_min = 1,
    .operands_max = 1,
    .has_json = 1,
    .run = run_job,
};

static const fm_option sql_schema[] = {
    {"format", FM_OPTION_CHOICE, JOB_OPTION(format), .value = "table", .choices = "table|csv",
     .help = "how the rows are written"},
    {0},
};

static fm_status run_sql(const fm_invocation *invocation, const void *given, int *out_exit)
{
    (void)out_exit;
    const struct job_options *options = given;
    return fm_pond_sql_run(invocation->operands[0], options->format[0] == 'c', stdout);
}

static const fm_command sql_command = {
    .name = "sql",
    .summary = "run SQL in DuckDB, where files are tables by their names",
    .operands = "SQL",
    .details = "  fathom pond sql \"SELECT city, count(*) FROM 'in/*.parquet' GROUP BY city\"",
    .options = sql_schema,
    .options_size = sizeof(struct job_options),
    .operands_min = 1,
    .operands_max = 1,
    .run = run_sql,
};

static fm_status run_status(const fm_invocation *invocation, const void *options, int *out_exit)
{
    (void)options;
    (void)out_exit;
    return fm_pond_status_write(invocation->operand_count ? invocation->operands[0] : ".pond",
                                invocation->json, stdout);
}

static const fm_command status_command = {
    .name = "status",
    .summary = "what the run in a work folder does, or how it ended",
    .operands = "[WORK]",
    .operands_max = 1,
    .has_json = 1,
    .run = run_status,
};

static const fm_option executor_schema[] = {
    {"join", FM_OPTION_STRING, JOB_OPTION(listen), .metavar = "ADDRESS", .required = 1,
     .help = "where the run listens"},
    {"key", FM_OPTION_STRING, JOB_OPTION(key), .metavar = "FILE", .required = 1,
     .help = "key file that it shares"},
    {0},
};

static fm_status run_executor(const fm_invocation *invocation, const void *given, int *out_exit)
{
    (void)invocation;
    (void)out_exit;
    const struct job_options *options = given;
    FM_TRY(fm_app_token_functions_register()); // what a recipe's data stage calls
    return fm_pond_executor_run(options->listen, options->key);
}

static const fm_command executor_command = {
    .name = "executor",
    .summary = "do tasks for a run that listens, until it ends",
    .details = "Both must see the work folder under the same name.\n"
               "  fathom pond executor --join node0:7000 --key job.key",
    .options = executor_schema,
    .options_size = sizeof(struct job_options),
    .run = run_executor,
};

static const fm_command *const children[] = {
    &run_command,     &status_command, &sql_command,     &executor_command,
    &gensort_command, &sort_command,   &valsort_command, NULL};

const fm_command fm_cmd_pond = {
    .name = "pond",
    .summary = "partitioned data: run jobs on DuckDB, sort records larger than memory",
    .children = children,
};
