// Sorting the benchmark's records: in memory against GNU sort and DuckDB on the same bytes, and through disk against the disk.
#include "bench_pond.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fathom/clock.h"
#include "fathom/file.h"
#include "fathom/mem.h"
#include "fathom/pond_records.h"

struct sort_job {
    uint64_t records;
    uint64_t memory_bytes; // 0: enough for one pass
    int cold;              // the input comes from the disk
};

struct state {
    struct sort_job job;
    char folder[512], input[600], output[600];
};

fm_status bench_pond_folder(char *out_folder, size_t size)
{
    const char *base = getenv("TMPDIR");
    snprintf(out_folder, size, "%s/fathom-bench-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(out_folder))
        return fm_base_error_set(FM_ERR_IO, "cannot make a folder like %s", out_folder);
    return FM_OK;
}

static void teardown(void *given)
{
    struct state *state = given;
    if (!state)
        return;
    if (fm_base_dir_remove(state->folder) < 0)
        fprintf(stderr, "bench_pond: %s\n", fm_error_message());
    fm_base_mem_free(state);
}

static fm_status setup(const fm_bench_setup *given, void **out_state)
{
    struct state *state = fm_base_mem_zalloc(1, sizeof *state);
    if (!state)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a case");
    state->job = *(const struct sort_job *)given->argument;
    fm_status status = bench_pond_folder(state->folder, sizeof state->folder);
    if (status < 0) {
        fm_base_mem_free(state);
        return status;
    }
    snprintf(state->input, sizeof state->input, "%s/in", state->folder);
    snprintf(state->output, sizeof state->output, "%s/out", state->folder);
    const fm_pond_make_options make = {
        .size = sizeof make, .records = state->job.records, .layout = FM_POND_LAYOUT_ASCII};
    status = fm_pond_records_write(state->input, &make);
    // One file for all, since GNU sort and DuckDB are given one.
    snprintf(state->input, sizeof state->input, "%s/in/part-00000.dat", state->folder);
    if (state->job.cold)
        snprintf(state->input, sizeof state->input, "%s/in", state->folder);
    if (status < 0) {
        teardown(state);
        return status;
    }
    *out_state = state;
    return FM_OK;
}

// The input as the case wants it, in the page cache or not; nothing of the run before left to be written.
static fm_status before(void *given)
{
    enum { BLOCK = 4 << 20 };
    const struct state *state = given;
    unlink(state->output);
    sync();
    if (state->job.cold)
        return FM_OK; // it was written past the cache, and is read past it
    int fd = open(state->input, O_RDONLY);
    char *block = fm_base_mem_alloc(BLOCK);
    while (fd >= 0 && block && read(fd, block, BLOCK) > 0)
        ;
    fm_base_mem_free(block);
    if (fd >= 0)
        close(fd);
    return FM_OK;
}

static fm_status run(void *given, int threads)
{
    struct state *state = given;
    const char *input = state->input;
    const fm_pond_sort_options options = {.size = sizeof options,
                                          .memory_bytes = state->job.memory_bytes
                                                              ? state->job.memory_bytes
                                                              : state->job.records * 160 + (256 << 20),
                                          .threads = threads};
    return fm_pond_records_sort(&input, 1, state->output, &options, NULL);
}

static fm_status sync_output(const struct state *state)
{
    int fd = open(state->output, O_RDONLY);
    int failed = fd < 0 || fsync(fd) != 0;
    if (fd >= 0)
        close(fd);
    return failed ? fm_base_error_set(FM_ERR_IO, "%s cannot be synced", state->output) : FM_OK;
}

static fm_status run_gnu_sort(void *given, int threads)
{
    struct state *state = given;
    char parallel[32];
    // Its interface wants them writable.
    char name[] = "sort", size[] = "-S", bytes[] = "4G", scratch[] = "-T", output[] = "-o",
         locale[] = "LC_ALL=C";
    char *arguments[] = {name,          size,   bytes,         parallel,     scratch,
                         state->folder, output, state->output, state->input, NULL};
    char *environment[] = {locale, NULL};
    pid_t pid;
    int exit_status;
    snprintf(parallel, sizeof parallel, "--parallel=%d", threads);
    if (posix_spawnp(&pid, "sort", NULL, NULL, arguments, environment) != 0)
        return fm_base_error_set(FM_ERR_UNAVAILABLE, "no sort program");
    if (waitpid(pid, &exit_status, 0) != pid || exit_status != 0)
        return fm_base_error_set(FM_ERR_IO, "sort failed");
    return sync_output(state);
}

static fm_status run_duckdb(void *given, int threads)
{
    struct state *state = given;
    char settings[128], sql[2048];
    // A line is one value; DuckDB ends lines with LF alone, so that the CR is put back as part of the value.
    snprintf(settings, sizeof settings, "SET threads = %d", threads);
    snprintf(
        sql, sizeof sql,
        "COPY (SELECT line || chr(13) FROM read_csv('%s', columns = {'line': 'VARCHAR'}, header = false, "
        "auto_detect = false, delim = '\x01', quote = '', escape = '', new_line = '\\r\\n', "
        "strict_mode = false) ORDER BY line) TO '%s' (FORMAT csv, HEADER false, DELIMITER '\x01', QUOTE '', "
        "ESCAPE '')",
        state->input, state->output);
    const char *statements[] = {settings, sql};
    FM_TRY(bench_pond_duckdb(statements, 2));
    return sync_output(state);
}

// Size and a thousand records of the output, evenly from all over it.
static uint64_t hash(const void *given)
{
    const struct state *state = given;
    uint8_t record[FM_POND_RECORD_BYTES] = {0};
    int fd = open(state->output, O_RDONLY);
    uint64_t size = fd >= 0 ? (uint64_t)lseek(fd, 0, SEEK_END) : 0;
    uint64_t value = fm_bench_hash(0, &size, sizeof size);
    for (uint64_t i = 0; fd >= 0 && i < 1000; i++) {
        uint64_t at = state->job.records * i / 1000 * FM_POND_RECORD_BYTES;
        if (pread(fd, record, sizeof record, (off_t)at) == (ssize_t)sizeof record)
            value = fm_bench_hash(value, record, sizeof record);
    }
    if (fd >= 0)
        close(fd);
    return value;
}

// What the disk gives past the page cache: bytes a second.
static double disk_rate(const char *path, int write_it)
{
    enum { BLOCK = 8 << 20, BLOCKS = 48 };
    int fd = open(path, (write_it ? O_RDWR | O_CREAT : O_RDONLY) | O_DIRECT, 0600);
    char *block = fm_base_mem_aligned(BLOCK, 4096);
    double rate = 0;
    uint64_t moved = 0;
    if (fd >= 0 && block) {
        fm_bench_fill(1, block, BLOCK);
        if (write_it && posix_fallocate(fd, 0, (off_t)BLOCK * BLOCKS) != 0)
            goto out;
        uint64_t begin = fm_base_clock_ns();
        for (int i = 0; i < BLOCKS; i++) {
            ssize_t size = write_it ? pwrite(fd, block, BLOCK, (off_t)i * BLOCK)
                                    : pread(fd, block, BLOCK, (off_t)i * BLOCK);
            if (size <= 0)
                break;
            moved += (uint64_t)size;
        }
        rate = (double)moved / ((double)(fm_base_clock_ns() - begin) * 1e-9);
    }
out:
    fm_base_mem_free(block);
    if (fd >= 0)
        close(fd);
    return rate;
}

static double two_pass_limit(void *given, int threads)
{
    (void)threads;
    const struct state *state = given;
    char path[700];
    snprintf(path, sizeof path, "%s/probe", state->folder);
    double write_rate = disk_rate(path, 1);
    unlink(path);
    // The input itself: a file that was just written may still lie in a cache below this machine's disk.
    snprintf(path, sizeof path, "%s/part-00000.dat", state->input);
    double read_rate = disk_rate(path, 0);
    return read_rate > 0 && write_rate > 0 ? 2 / (1 / read_rate + 1 / write_rate) : 0;
}

static const struct sort_job small = {.records = 100000};
static const struct sort_job million = {.records = 1000000};
static const struct sort_job large = {.records = 10000000};
static const struct sort_job beyond = {.records = 20000000, .memory_bytes = (uint64_t)512 << 20, .cold = 1};

static fm_status cases(fm_bench *bench)
{
    FM_TRY(bench_pond_group_cases(bench));
    static const struct {
        const char *name;
        const struct sort_job *job;
        fm_bench_mode mode;
    } in_memory[] = {{"sort.100k", &small, FM_BENCH_IN_SMOKE},
                     {"sort.1M", &million, FM_BENCH_IN_QUICK},
                     {"sort.10M", &large, FM_BENCH_IN_FULL}};
    for (int i = 0; i < 3; i++) {
        int goal = i == 2; // 1 GB, the size for which the goals are set
        FM_TRY(fm_bench_add(
            bench, &(fm_bench_case){
                       .name = in_memory[i].name,
                       .argument = in_memory[i].job,
                       .clock = FM_BENCH_WALL,
                       .mode = in_memory[i].mode,
                       .threads = bench_pond_threads(),
                       .bytes = (double)in_memory[i].job->records * FM_POND_RECORD_BYTES,
                       .setup = setup,
                       .before = before,
                       .run = run,
                       .hash = hash,
                       .teardown = teardown,
                       .peers = {{.name = "gnu_sort", .run = run_gnu_sort, .same_result = 1},
                                 {.name = "duckdb", .run = run_duckdb, .same_result = 1}},
                       .goals = {{FM_BENCH_RATIO, .peer = "gnu_sort", .must = goal ? 4 : 0, .hope = 4},
                                 {FM_BENCH_RATIO, .peer = "duckdb", .must = goal ? 3 : 0, .hope = 3}}}));
    }
    return fm_bench_add(bench, &(fm_bench_case){.name = "sort.20M.disk",
                                                .argument = &beyond,
                                                .clock = FM_BENCH_WALL,
                                                .mode = FM_BENCH_IN_FULL,
                                                .threads = bench_pond_threads(),
                                                .limit = FM_BENCH_OWN_LIMIT,
                                                .own_limit = two_pass_limit,
                                                .own_limit_name = "disk, read and written twice",
                                                .own_limit_bound = 0.3,
                                                .bytes = (double)beyond.records * FM_POND_RECORD_BYTES * 4,
                                                .setup = setup,
                                                .before = before,
                                                .run = run,
                                                .hash = hash,
                                                .teardown = teardown,
                                                .goals = {{FM_BENCH_FRACTION, .must = 0.60, .hope = 0.80}}});
}

int main(int argc, char **argv)
{
    static const fm_bench_program program = {"pond", "sorting records, partitioned queries", cases};
    return fm_bench_main(&program, argc, argv);
}
