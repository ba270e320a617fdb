#include "bench_trace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fathom/file.h"
#include "fathom/mem.h"
#include "fathom/trace_report.h"
#include "fm_bench.h"

/*
 * The published trace, repeated: each copy lies behind the one before in time and has numbers of its own, so that the run is
 * one long run and not one thing a hundred times over.
 */
enum { STEP_US = 130000, STEP_NUMBER = 100000 };

struct state {
    char *text; // while it is made
    size_t length;
    char path[256];
    struct trace_totals totals;
};

/* Copies `from`, adding to the number behind each of a few keys. Returns the end of the copy. */
static char *copy_shifted(const char *from, size_t length, int64_t copy, char *to)
{
    static const struct {
        const char *key;
        int64_t step;
    } keys[] = {{"\"ts\": ", STEP_US},
                {"\"correlation\": ", STEP_NUMBER},
                {"\"External id\": ", STEP_NUMBER},
                {"\"id\": ", STEP_NUMBER}};
    const char *end = from + length;
    while (from < end) {
        const char *quote = memchr(from, '"', (size_t)(end - from));
        size_t plain = quote ? (size_t)(quote - from) : (size_t)(end - from);
        memcpy(to, from, plain);
        to += plain;
        from += plain;
        if (!quote)
            break;
        size_t i = 0;
        while (i < 4 && strncmp(from, keys[i].key, strlen(keys[i].key)) != 0)
            i++;
        if (i == 4) {
            *to++ = *from++;
            continue;
        }
        size_t key_length = strlen(keys[i].key);
        char *behind;
        memcpy(to, from, key_length);
        to += key_length;
        long long value = strtoll(from + key_length, &behind, 10);
        to += sprintf(to, "%lld", value + copy * keys[i].step);
        from = behind;
    }
    return to;
}

static fm_status repeat(const char *source, size_t size, int copies, struct state *state)
{
    static const char opening[] = "\"traceEvents\": [";
    char *first = memmem(source, size, opening, sizeof opening - 1), *last = memrchr(source, ']', size);
    if (!first || !last)
        return fm_base_error_set(FM_ERR_FORMAT, "the published trace is not as it was");
    first += sizeof opening - 1;
    // Numbers grow by a few digits.
    state->text = fm_bench_alloc((size_t)copies * (size + size / 4) + size);
    if (!state->text)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %d copies of a trace", copies);
    char *to = state->text;
    memcpy(to, source, (size_t)(first - source));
    to += first - source;
    for (int i = 0; i < copies; i++) {
        if (i)
            *to++ = ',';
        to = copy_shifted(first, (size_t)(last - first), i, to);
    }
    memcpy(to, last, (size_t)(source + size - last));
    to += source + size - last;
    state->length = (size_t)(to - state->text);
    return FM_OK;
}

static void teardown(void *given)
{
    struct state *state = given;
    if (!state)
        return;
    if (state->path[0])
        unlink(state->path);
    fm_base_mem_free(state->text);
    fm_base_mem_free(state);
}

static fm_status load(const char *path, int copies, struct state *state)
{
    char *source;
    size_t size;
    if (fm_base_file_read(path, 1 << 24, &source, &size) < 0)
        return fm_base_error_set(FM_ERR_UNAVAILABLE,
                                 "no published trace at %s; FM_SHARED_DIR names its folder", path);
    fm_status status = repeat(source, size, copies, state);
    fm_base_mem_free(source);
    return status;
}

/* The text as a file, which the page cache holds: reading it is part of every reader's job. */
static fm_status make_file(const char *source, int copies, struct state *state)
{
    const char *folder = getenv("TMPDIR");
    FM_TRY(load(source, copies, state));
    snprintf(state->path, sizeof state->path, "%s/bench_trace.%d.%d.json", folder ? folder : "/tmp",
             (int)getpid(), copies);
    FM_TRY(fm_base_file_save(state->path, state->text, state->length));
    fm_base_mem_free(state->text);
    state->text = NULL;
    return FM_OK;
}

static fm_status setup(const fm_bench_setup *given, void **out_state)
{
    char path[4096];
    const char *shared = getenv("FM_SHARED_DIR");
    struct state *state = fm_base_mem_zalloc(1, sizeof *state);
    if (!state)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a case");
    snprintf(path, sizeof path, "%s/data/profile/train.json", shared ? shared : FM_BENCH_SHARED_DIR);
    fm_status status = make_file(path, *(const int *)given->argument, state);
    if (status < 0) {
        teardown(state);
        return status;
    }
    *out_state = state;
    return FM_OK;
}

static void sum(const fm_trace *trace, struct trace_totals *out)
{
    memset(out, 0, sizeof *out);
    for (size_t i = 0; i < trace->slice_count; i++) {
        const fm_trace_slice *slice = &trace->slices[i];
        if (slice->kind != FM_TRACE_SPAN && slice->kind != FM_TRACE_GPU)
            continue;
        out->slices++;
        out->name_bytes += strlen(fm_trace_data_text(trace, slice->name));
        out->category_bytes += strlen(fm_trace_data_text(trace, slice->category));
        out->begin_us += (uint64_t)slice->begin_ns / 1000;
        out->duration_us += (uint64_t)slice->duration_ns / 1000;
        out->correlation += slice->correlation;
        if (slice->gpu != FM_TRACE_NONE) {
            out->stream += (uint64_t)trace->gpus[slice->gpu].stream;
            out->blocks += trace->gpus[slice->gpu].blocks;
        }
    }
}

static fm_status run_ours(void *given, int threads)
{
    struct state *state = given;
    fm_trace *trace;
    const char *path = state->path;
    const fm_trace_read_options options = {.size = sizeof options, .threads = threads};
    FM_TRY(fm_trace_data_read(&path, 1, &options, &trace));
    sum(trace, &state->totals);
    fm_trace_data_free(trace);
    return FM_OK;
}

static uint64_t hash(const void *given)
{
    const struct state *state = given;
    return fm_bench_hash(0, &state->totals, sizeof state->totals);
}

static fm_status judge(int result)
{
    if (result > 0)
        return fm_base_error_set(FM_ERR_UNAVAILABLE, "the peer is not there");
    return result < 0 ? fm_base_error_set(FM_ERR_FORMAT, "the peer cannot read the trace") : FM_OK;
}

#ifdef FM_HAVE_SIMDJSON
static fm_status run_ondemand(void *given, int threads)
{
    (void)threads;
    struct state *state = given;
    return judge(bench_trace_simdjson_ondemand(state->path, &state->totals));
}

static fm_status run_dom(void *given, int threads)
{
    (void)threads;
    struct state *state = given;
    return judge(bench_trace_simdjson_dom(state->path, &state->totals));
}
#else
static fm_status run_ondemand(void *given, int threads)
{
    (void)given, (void)threads;
    return judge(1);
}
#define run_dom run_ondemand
#endif

#ifdef FM_HAVE_YAJL
static fm_status run_yajl(void *given, int threads)
{
    (void)threads;
    struct state *state = given;
    return judge(bench_trace_yajl(state->path, &state->totals));
}
#else
static fm_status run_yajl(void *given, int threads)
{
    (void)given, (void)threads;
    return judge(1);
}
#endif

static fm_status report_once(const char *path, int threads)
{
    fm_trace *trace;
    fm_trace_rules *rules;
    fm_trace_report *report;
    const fm_trace_read_options options = {.size = sizeof options, .threads = threads};
    FM_TRY(fm_trace_data_read(&path, 1, &options, &trace));
    fm_status status = fm_trace_rules_load(NULL, &rules);
    if (status == FM_OK) {
        status = fm_trace_report_make(trace, rules, &report);
        if (status == FM_OK)
            fm_trace_report_free(report);
        fm_trace_rules_free(rules);
    }
    fm_trace_data_free(trace);
    return status;
}

static fm_status run_report(void *given, int threads)
{
    return report_once(((struct state *)given)->path, threads);
}

/* Memory is that of a process of its own, which does nothing else. */
static void measure_memory(void *given, fm_bench_metrics *to)
{
    struct state *state = given;
    int ends[2];
    struct rusage idle, used;
    long size = 0;
    if (pipe(ends) < 0)
        return;
    pid_t child = fork();
    if (child == 0) {
        getrusage(RUSAGE_SELF, &idle);
        if (report_once(state->path, 0) < 0)
            _exit(1);
        getrusage(RUSAGE_SELF, &used);
        size = used.ru_maxrss - idle.ru_maxrss;
        _exit(write(ends[1], &size, sizeof size) != sizeof size);
    }
    close(ends[1]);
    int got = child > 0 && read(ends[0], &size, sizeof size) == sizeof size;
    close(ends[0]);
    waitpid(child, NULL, 0);
    if (got)
        fm_bench_metric_add(to, "memory of the file", (double)size * 1024 / (double)state->length, "1");
}

static const int copies_of[] = {1, 10, 100};

static fm_status cases(fm_bench *bench)
{
    static const char *const read_names[] = {"read.3MB", "read.30MB", "read.300MB"};
    for (int i = 0; i < 3; i++) {
        const fm_bench_case item = {
            .name = read_names[i],
            .argument = &copies_of[i],
            .limit = FM_BENCH_READ,
            .threads = i < 2, // parts of less than some megabytes are not worth a thread
            .bytes = 3132978.0 * copies_of[i],
            .mode = i == 0   ? FM_BENCH_IN_SMOKE
                    : i == 1 ? FM_BENCH_IN_QUICK
                             : FM_BENCH_IN_FULL,
            .setup = setup,
            .run = run_ours,
            .hash = hash,
            .teardown = teardown,
            .peers = {{.name = "simdjson_ondemand", .run = run_ondemand, .same_result = 1},
                      {.name = "simdjson_dom", .run = run_dom, .same_result = 1},
                      {.name = "yajl", .run = run_yajl, .same_result = 1}},
            // The goals are set for files that no cache holds. The peers have one thread, whatever there is: one of ours
            // has to do; more are shown beside.
            .goals = {{FM_BENCH_RATIO, .peer = "simdjson_ondemand", .must = i == 2 ? 1.5 : 0, .hope = 1.5},
                      {FM_BENCH_RATIO, .peer = "simdjson_dom", .must = i == 2 ? 3 : 0, .hope = 3}},
        };
        FM_TRY(fm_bench_add(bench, &item));
    }
    const fm_bench_case report = {
        .name = "report.300MB",
        .argument = &copies_of[2],
        .limit = FM_BENCH_READ,
        .threads = 1,
        .bytes = 3132978.0 * 100,
        .mode = FM_BENCH_IN_FULL,
        .setup = setup,
        .run = run_report,
        .metrics = measure_memory,
        .teardown = teardown,
        .goals = {{FM_BENCH_TIME, .must = 2},
                  {FM_BENCH_OWN_AT_MOST, .name = "memory of the file", .must = 0.6}},
    };
    FM_TRY(fm_bench_add(bench, &report));
    return fm_bench_trace_add_emit(bench);
}

int main(int argc, char **argv)
{
    static const fm_bench_program program = {"trace", "reading traces, reporting on them, writing them",
                                             cases};
    return fm_bench_main(&program, argc, argv);
}
