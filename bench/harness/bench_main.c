#include "fm_bench.h"

#include "bench_cases.h"
#include "bench_hashes.h"
#include "bench_host.h"
#include "bench_judge.h"
#include "bench_output.h"
#include "bench_probe.h"

#include "fathom/config.h"
#include "fathom/cpu.h"
#include "fathom/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct options {
    int quick, smoke, list, check, record_hashes;
    int64_t threads, samples;
    const char *filter, *json, *hashes;
};

#define OPTION(field) offsetof(struct options, field)
static const fm_option schema[] = {
    {"quick", FM_OPTION_FLAG, OPTION(quick),
     .help = "fewer samples, and no case that is only for full runs: under 60 s"},
    {"filter", FM_OPTION_STRING, OPTION(filter), .metavar = "TEXT[,TEXT...]",
     .help = "run the cases whose name contains one of these"},
    {"threads", FM_OPTION_INT, OPTION(threads), .min = 0, .max = 4096,
     .help = "the larger of the two thread counts that cases run on (the other is 1); 0: as many as there "
             "are CPUs"},
    {"samples", FM_OPTION_INT, OPTION(samples), .min = 0, .max = 10000,
     .help = "clean samples wanted of each figure; 0: 21, under --quick 5"},
    {"json", FM_OPTION_STRING, OPTION(json), .metavar = "FILE",
     .help = "also write the records as JSON lines"},
    {"check", FM_OPTION_FLAG, OPTION(check),
     .help = "exit 1 where a goal that must be met is missed, or a result has no recorded hash"},
    {"list", FM_OPTION_FLAG, OPTION(list), .help = "name the cases and stop"},
    {"hashes", FM_OPTION_STRING, OPTION(hashes), .value = FM_BENCH_SOURCE_DIR "/bench/results/hashes.txt",
     .metavar = "FILE", .help = "the recorded hashes of results"},
    {"record-hashes", FM_OPTION_FLAG, OPTION(record_hashes),
     .help = "record the hashes instead of comparing them"},
    {"smoke", FM_OPTION_FLAG, OPTION(smoke),
     .help = "run the smallest cases once, judge nothing but results: for the test suite"},
    {0}};

enum {
    SAMPLES_FULL = 21, // quartiles with five samples beyond each
    SAMPLES_QUICK = 5,
    SMOKE_MEMORY = 64 << 20,
};
// Short, so that a change of the machine's state falls between samples rather than into one; long against the clock.
#define SAMPLE_SECONDS 2e-3
// For all cases together: leaves 15 of the promised 60 for set-up.
#define QUICK_SECONDS 45.0
#define CASE_SECONDS  60.0

struct run {
    const fm_bench_program *program;
    const struct options *options;
    fm_bench bench;
    fm_bench_probes *probes;
    fm_bench_hashes hashes;
    fm_bench_records records;
    fm_bench_output output;
    int threads;
    size_t left; // selected cases that are not done
    double end;  // of a quick run
    int failures;
    int missed, voided, met;
    int changed;    // results that are not the recorded ones
    int unrecorded; // results without a record
};

static int selected(const struct run *run, const fm_bench_case *item)
{
    const struct options *options = run->options;
    if (options->smoke && item->mode != FM_BENCH_IN_SMOKE)
        return 0;
    if (options->quick && item->mode == FM_BENCH_IN_FULL)
        return 0;
    return fm_bench_filter_passes(options->filter, item->name);
}

static double machine_wall(void *context)
{
    (void)context;
    return fm_bench_wall();
}

static double machine_cpu(void *context)
{
    (void)context;
    return fm_bench_process_cpu();
}

static int machine_core(void *context)
{
    (void)context;
    return sched_getcpu();
}

static double machine_probe(void *context, fm_bench_limit limit, int threads)
{
    return fm_bench_probe_take(context, limit, threads);
}

static void machine_settle(void *context)
{
    (void)context;
    fm_bench_settle();
}

// The limit of the case where this machine has it, else what sees a disturbance at least.
static fm_status choose_guard(struct run *run, const fm_bench_case *item, void *state, fm_bench_plan *plan)
{
    fm_bench_limit limit = item->limit;
    if (limit == FM_BENCH_OWN_LIMIT) {
        plan->guard = item->own_limit(state, plan->counts[0]) > 0 ? limit : FM_BENCH_FMA_SCALAR;
    } else {
        fm_status status =
            limit == FM_BENCH_NO_LIMIT ? FM_ERR_UNAVAILABLE : fm_bench_probe_prepare(run->probes, limit, 1);
        if (status < 0 && status != FM_ERR_UNAVAILABLE)
            return status;
        plan->guard = status == FM_OK ? limit : FM_BENCH_FMA_SCALAR;
    }
    plan->bound = fm_bench_limit_bound(plan->guard);
    if (plan->guard == FM_BENCH_OWN_LIMIT && item->own_limit_bound > 0)
        plan->bound = item->own_limit_bound;
    for (int i = 0; plan->guard != FM_BENCH_OWN_LIMIT && i < FM_BENCH_COUNTS_MAX && plan->counts[i]; i++)
        FM_TRY(fm_bench_probe_prepare(run->probes, plan->guard, plan->counts[i]));
    return FM_OK;
}

static fm_bench_plan make_plan(const struct run *run, const fm_bench_case *item)
{
    const struct options *options = run->options;
    fm_bench_plan plan = {.sample_s = SAMPLE_SECONDS};
    plan.counts[0] = item->threads ? item->threads : 1;
    plan.counts[1] = item->threads || run->threads == 1 ? 0 : run->threads;
    plan.samples = options->samples ? (int)options->samples : options->quick ? SAMPLES_QUICK : SAMPLES_FULL;
    plan.rounds_min = options->quick ? 1 : FM_BENCH_CLEAN_MIN;
    plan.budget_s = CASE_SECONDS;
    if (options->quick)
        plan.budget_s = fmax(0, run->end - fm_bench_wall()) / (double)run->left;
    if (options->smoke) {
        plan.samples = plan.rounds_min = 1;
        plan.sample_s = plan.budget_s = 0;
    }
    return plan;
}

static fm_status check_hash(struct run *run, const fm_bench_case *item, uint64_t hash)
{
    const char *bench = run->program->name;
    if (run->options->record_hashes)
        return fm_bench_hashes_set(&run->hashes, bench, item->name, hash);
    const fm_bench_hash_line *line = fm_bench_hashes_find(&run->hashes, bench, item->name);
    if (!line) {
        run->unrecorded++;
        fprintf(stderr, "bench_%s: %s: no hash of its result is recorded; it is %016" PRIx64 "\n", bench,
                item->name, hash);
    } else if (line->hash != hash) {
        run->changed++;
        fprintf(stderr,
                "bench_%s: %s: the result has changed: hash %016" PRIx64 ", recorded %016" PRIx64 "\n", bench,
                item->name, hash, line->hash);
    }
    return FM_OK;
}

static fm_status sample_case(struct run *run, const fm_bench_case *item, void *state)
{
    fm_bench_plan plan = make_plan(run, item);
    FM_TRY(choose_guard(run, item, state, &plan));
    fm_bench_machine machine = {run->probes,  machine_wall,  machine_cpu,
                                machine_core, machine_probe, machine_settle};
    fm_bench_series series;
    FM_TRY(fm_bench_series_take(&machine, item, &plan, state, &series));
    size_t first = run->records.count;
    fm_bench_judge_case(item, &plan, &series, state, !run->options->smoke, &run->records);
    fm_status status = run->records.status;
    if (status == FM_OK && item->hash)
        status = check_hash(run, item, series.hash);
    if (status == FM_OK)
        status = fm_bench_output_records(&run->output, &run->records, first);
    fm_bench_series_clear(&series);
    return status;
}

static fm_status run_case(struct run *run, const fm_bench_case *item)
{
    // The seed is arbitrary, but for ever: the recorded hashes depend on it.
    const fm_bench_setup setup = {.argument = item->argument, .seed = 2024, .threads_max = run->threads};
    void *state = NULL;
    fm_status status = item->setup ? item->setup(&setup, &state) : FM_OK;
    if (status == FM_ERR_UNAVAILABLE)
        return fm_bench_output_skipped(&run->output, item->name, fm_error_message());
    if (status < 0)
        return fm_base_error_prefix(status, "%s: set-up", item->name);
    status = sample_case(run, item, state);
    if (item->teardown)
        item->teardown(state);
    return status;
}

static fm_status judge_groups(struct run *run)
{
    const fm_bench *bench = &run->bench;
    size_t first = run->records.count;
    for (size_t i = 0; i < bench->group_count; i++) {
        size_t expected = 0;
        size_t run_here = 0;
        for (size_t j = 0; j < bench->case_count; j++) {
            int member = strstr(bench->cases[j].name, bench->groups[i].cases) != NULL;
            expected += member;
            run_here += member && selected(run, &bench->cases[j]);
        }
        if (run_here > 0)
            fm_bench_judge_group(&bench->groups[i], expected, !run->options->smoke, &run->records);
    }
    FM_TRY(run->records.status);
    return fm_bench_output_records(&run->output, &run->records, first);
}

static void count_verdicts(struct run *run)
{
    for (size_t i = 0; i < run->records.count; i++) {
        const fm_bench_record *record = &run->records.items[i];
        if (record->goal == 0)
            continue;
        run->met += record->verdict == FM_BENCH_MET;
        run->missed += record->verdict == FM_BENCH_MISSED;
        run->voided += record->verdict == FM_BENCH_VOID;
    }
    if (strcmp(FM_BENCH_BUILD_TYPE, "Debug") == 0)
        printf("\nThis is a debug build: what it measures says nothing about speed.\n");
    printf("\ngoals: %d met, %d missed, %d void; results: %d changed, %d unrecorded; %d cases failed\n",
           run->met, run->missed, run->voided, run->changed, run->unrecorded, run->failures);
}

static fm_status run_cases(struct run *run)
{
    const char *mode = run->options->smoke ? "smoke" : run->options->quick ? "quick" : "full";
    FM_TRY(fm_bench_probes_new(run->options->smoke ? SMOKE_MEMORY : 0, &run->probes));
    int wanted[FM_BENCH_LIMITS] = {0};
    for (size_t i = 0; i < run->bench.case_count && !run->options->smoke; i++)
        wanted[run->bench.cases[i].limit] |= selected(run, &run->bench.cases[i]);
    wanted[FM_BENCH_CLOCK] = !run->options->smoke;
    FM_TRY(fm_bench_host_report(&run->output, mode, run->probes, wanted, run->threads));
    fm_bench_output_head(&run->output);
    for (size_t i = 0; i < run->bench.case_count; i++) {
        const fm_bench_case *item = &run->bench.cases[i];
        if (!selected(run, item))
            continue;
        // One that fails does not keep the others from being measured.
        if (run_case(run, item) < 0) {
            run->failures++;
            fprintf(stderr, "bench_%s: %s\n", run->program->name, fm_error_message());
        }
        run->left--;
    }
    FM_TRY(judge_groups(run));
    count_verdicts(run);
    if (run->options->record_hashes)
        FM_TRY(fm_bench_hashes_save(&run->hashes, run->options->hashes));
    return FM_OK;
}

static fm_status prepare(struct run *run)
{
    FM_TRY(fm_base_cpu_isa_check());
    FM_TRY(run->program->cases(&run->bench));
    FM_TRY(fm_bench_hashes_load(run->options->hashes, &run->hashes));
    run->threads = run->options->threads ? (int)run->options->threads : fm_base_cpu_threads();
    run->end = fm_bench_wall() + QUICK_SECONDS;
    run->output = (fm_bench_output){.bench = run->program->name, .text = stdout};
    for (size_t i = 0; i < run->bench.case_count; i++) {
        int length = (int)strlen(run->bench.cases[i].name);
        if (!selected(run, &run->bench.cases[i]))
            continue;
        run->left++;
        if (length > run->output.name_width)
            run->output.name_width = length;
    }
    if (run->left == 0)
        return fm_base_error_set(FM_ERR_NOT_FOUND, "no case matches; --list names them");
    if (run->options->json && !(run->output.json = fopen(run->options->json, "we")))
        return fm_base_error_set_errno(FM_ERR_IO, errno, "cannot write %s", run->options->json);
    return FM_OK;
}

static void list_cases(const struct run *run)
{
    static const char *const modes[] = {"quick", "smoke", "full"};
    for (size_t i = 0; i < run->bench.case_count; i++)
        if (selected(run, &run->bench.cases[i]))
            printf("%-*s from %s on\n", run->output.name_width, run->bench.cases[i].name,
                   modes[run->bench.cases[i].mode]);
}

// What fm_base_command_main() does not pass on.
static const fm_bench_program *the_program;

static fm_status command_run(const fm_invocation *invocation, const void *options, int *out_exit)
{
    (void)invocation;
    struct run run = {.program = the_program, .options = options};
    fm_status status = prepare(&run);
    if (status == FM_OK && run.options->list)
        list_cases(&run);
    else if (status == FM_OK)
        status = run_cases(&run);
    if (run.output.json && fclose(run.output.json) != 0 && status == FM_OK)
        status = fm_base_error_set_errno(FM_ERR_IO, errno, "cannot write %s", run.options->json);
    if (run.failures || run.changed || (run.options->check && (run.missed || run.unrecorded)))
        *out_exit = 1;
    fm_bench_records_clear(&run.records);
    fm_bench_hashes_clear(&run.hashes);
    fm_bench_cases_clear(&run.bench);
    fm_bench_probes_free(run.probes);
    return status;
}

int fm_bench_main(const fm_bench_program *program, int argc, char **argv)
{
    // An OpenMP team that spins after its region would take the cores from what is measured next, the probes first.
    // The runtime reads this before main(), so that only a new start can set it.
    if (!getenv("OMP_WAIT_POLICY") && setenv("OMP_WAIT_POLICY", "passive", 1) == 0)
        execv("/proc/self/exe", argv);
    char name[64];
    snprintf(name, sizeof name, "bench_%s", program->name);
    the_program = program;
    const fm_command command = {.name = name,
                                .summary = program->summary,
                                .options = schema,
                                .options_size = sizeof(struct options),
                                .run = command_run};
    return fm_base_command_main(&command, argc - 1, argv + 1);
}
