// A group-by over Parquet: partitioned, with executors of its own, against DuckDB alone. The difference is the price of partitions.
#include "bench_pond.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fathom/file.h"
#include "fathom/mem.h"
#include "fathom/pond.h"

enum { FILES = 8, GROUPS = 10000 };

struct group_state {
    char folder[512];
    uint64_t rows;
};

static fm_status make_file(const struct group_state *state, int file)
{
    char sql[1024];
    uint64_t low = state->rows * (uint64_t)file / FILES, high = state->rows * ((uint64_t)file + 1) / FILES;
    snprintf(
        sql, sizeof sql,
        "COPY (SELECT hash(range) %% %d AS k, hash(range + 1) %% 1000000 AS v FROM range(%llu, %llu)) TO "
        "'%s/in/%d.parquet' (FORMAT PARQUET)",
        GROUPS, (unsigned long long)low, (unsigned long long)high, state->folder, file);
    const char *statements[] = {sql};
    return bench_pond_duckdb(statements, 1);
}

static void teardown(void *given)
{
    struct group_state *state = given;
    if (state && fm_base_dir_remove(state->folder) < 0)
        fprintf(stderr, "bench_pond: %s\n", fm_error_message());
    fm_base_mem_free(state);
}

static fm_status setup(const fm_bench_setup *given, void **out_state)
{
    struct group_state *state = fm_base_mem_zalloc(1, sizeof *state);
    char in[600];
    if (!state)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a case");
    state->rows = *(const uint64_t *)given->argument;
    fm_status status = bench_pond_folder(state->folder, sizeof state->folder);
    if (status < 0) {
        fm_base_mem_free(state);
        return status;
    }
    snprintf(in, sizeof in, "%s/in", state->folder);
    status = fm_base_dir_create(in);
    for (int i = 0; i < FILES && status == FM_OK; i++)
        status = make_file(state, i);
    if (status < 0) {
        teardown(state);
        return status;
    }
    *out_state = state;
    return FM_OK;
}

// Nothing of the run before is kept: resuming would be no run.
static fm_status before(void *given)
{
    const struct group_state *state = given;
    char path[600];
    snprintf(path, sizeof path, "%s/work", state->folder);
    FM_TRY(fm_base_dir_remove(path));
    snprintf(path, sizeof path, "%s/out", state->folder);
    FM_TRY(fm_base_dir_remove(path));
    return fm_base_dir_create(path);
}

static fm_status add(fm_pond_plan *plan, fm_pond_op op)
{
    op.size = sizeof op;
    return fm_pond_plan_add(plan, &op, NULL);
}

static fm_status make_plan(fm_pond_plan *plan, const char *in, const char *out)
{
    FM_TRY(add(plan, (fm_pond_op){
                         .kind = FM_POND_SOURCE, .format = FM_POND_PARQUET, .paths = &in, .path_count = 1}));
    FM_TRY(add(plan, (fm_pond_op){.kind = FM_POND_GROUP_BY,
                                  .by = "k",
                                  .text = "sum(v) AS v, count(*) AS n",
                                  .partitions = 2}));
    return add(plan, (fm_pond_op){.kind = FM_POND_SINK,
                                  .format = FM_POND_PARQUET,
                                  .paths = &out,
                                  .path_count = 1,
                                  .mode = FM_POND_OVERWRITE});
}

static fm_status run(void *given, int threads)
{
    const struct group_state *state = given;
    char in[600], out[600], work[600];
    fm_pond_plan *plan;
    snprintf(in, sizeof in, "%s/in", state->folder);
    snprintf(out, sizeof out, "%s/out", state->folder);
    snprintf(work, sizeof work, "%s/work", state->folder);
    FM_TRY(fm_pond_plan_new(&plan));
    fm_status status = make_plan(plan, in, out);
    const fm_pond_run_options options = {
        .size = sizeof options, .work = work, .executors = threads, .memory_bytes = (uint64_t)1 << 30};
    if (status == FM_OK)
        status = fm_pond_plan_run(plan, &options, NULL);
    fm_pond_plan_free(plan);
    return status;
}

static fm_status run_duckdb(void *given, int threads)
{
    const struct group_state *state = given;
    char settings[128], sql[2048];
    snprintf(settings, sizeof settings, "SET threads = %d", threads);
    snprintf(sql, sizeof sql,
             "COPY (SELECT k, sum(v) AS v, count(*) AS n FROM '%s/in/*.parquet' GROUP BY k) TO "
             "'%s/out/all.parquet' (FORMAT PARQUET, COMPRESSION zstd)",
             state->folder, state->folder);
    const char *statements[] = {settings, sql};
    return bench_pond_duckdb(statements, 2);
}

fm_status bench_pond_group_cases(fm_bench *bench)
{
    static const uint64_t rows[] = {1000000, 10000000, 100000000};
    static const char *const names[] = {"group.1M", "group.10M", "group.100M"};
    for (int i = 0; i < 3; i++)
        FM_TRY(fm_bench_add(
            bench, &(fm_bench_case){
                       .name = names[i],
                       .argument = &rows[i],
                       .clock = FM_BENCH_WALL,
                       .mode = i < 2 ? FM_BENCH_IN_QUICK : FM_BENCH_IN_FULL,
                       .threads = bench_pond_threads(),
                       .items = (double)rows[i],
                       .setup = setup,
                       .before = before,
                       .run = run,
                       .teardown = teardown,
                       .peers = {{.name = "duckdb", .run = run_duckdb}},
                       // 1.2 times DuckDB's time, for the size at which starting executors counts little.
                       .goals = {{FM_BENCH_RATIO, .peer = "duckdb", .must = i == 2 ? 1 / 1.2 : 0,
                                  .hope = 1 / 1.2}}}));
    return FM_OK;
}
