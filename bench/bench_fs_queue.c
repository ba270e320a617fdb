// Random reads through a queue of fathom/fs.h, which needs no process of its own beside the program's: of a plain directory, and
// of a cluster whose services run in another process; against io_uring on a file of the same disk.
#include "bench_fs.h"

#include <stdio.h>
#include <unistd.h>

#include "fathom/fs.h"
#include "fathom/fs_cluster.h"
#include "fathom/mem.h"
#include "fathom/rng.h"

// As in bench_fs_usrbio.c. A directory is read through the page cache, and so is its peer's file.
enum { PAGE = 4096, DEPTH = 32, READS = 4096, PIECE = 1 << 20, PIECES = 256, WAKE = 8, TIMEOUT_MS = 60000 };

struct queue_bench {
    char folder[FM_BENCH_FS_PATH];
    pid_t cluster;
    fm_fs *fs;
    fm_fs_file *file;
    fm_fs_queue *queue;
    fm_bench_fs_raw *raw;
    uint8_t *data;
    uint64_t offsets[READS];
    fm_fs_io ios[DEPTH];
    int busy[DEPTH];
};

// Until the services answer; what is written before its chain serves waits by itself.
static fm_status wait_for(const char *dir)
{
    fm_fs_chunks *chunks;
    fm_fs_cluster_state now;
    FM_TRY(fm_fs_chunks_open(dir, &chunks));
    fm_status status = fm_fs_chunks_state(chunks, TIMEOUT_MS, &now);
    fm_fs_chunks_close(chunks);
    return status;
}

static fm_status write_file(fm_fs *fs, const char *name, const void *data)
{
    fm_fs_file *file;
    FM_TRY(fm_fs_file_open(fs, name, FM_FS_WRITE | FM_FS_CREATE | FM_FS_TRUNCATE, &file));
    fm_status status = FM_OK;
    for (uint64_t i = 0; status == FM_OK && i < PIECES; i++)
        status = fm_fs_file_write(file, data, PIECE, i * PIECE);
    if (status == FM_OK)
        status = fm_fs_file_sync(file);
    fm_fs_file_close(file);
    return status;
}

// Begins reads in all places that are free, those beside each other by one call.
static fm_status refill(struct queue_bench *bench, unsigned *next)
{
    for (unsigned i = 0; i < DEPTH;) {
        unsigned first = i;
        for (; i < DEPTH && !bench->busy[i] && *next < READS; i++) {
            bench->busy[i] = 1;
            bench->ios[i] = (fm_fs_io){.file = bench->file,
                                       .buffer = bench->data + (size_t)i * PAGE,
                                       .length = PAGE,
                                       .offset = bench->offsets[(*next)++],
                                       .kind = FM_FS_IO_READ};
        }
        if (i > first)
            FM_TRY(fm_fs_queue_submit(bench->queue, &bench->ios[first], i - first));
        else
            i++;
    }
    return FM_OK;
}

static fm_status run_queue(void *state, int threads)
{
    struct queue_bench *bench = state;
    fm_fs_io *done[DEPTH];
    size_t count;
    unsigned next = 0;
    (void)threads;
    for (unsigned finished = 0; finished < READS; finished += (unsigned)count) {
        FM_TRY(refill(bench, &next));
        FM_TRY(fm_fs_queue_wait(bench->queue, WAKE, -1, done, DEPTH, &count));
        for (size_t i = 0; i < count; i++) {
            if (done[i]->status < 0 || done[i]->done != PAGE)
                return fm_base_error_set(FM_ERR_IO, "a read did not give a page");
            bench->busy[done[i] - bench->ios] = 0;
        }
    }
    return FM_OK;
}

static fm_status run_raw(void *state, int threads)
{
    struct queue_bench *bench = state;
    (void)threads;
    return fm_bench_fs_raw_run(bench->raw, FM_BENCH_FS_READ, bench->offsets, READS, PAGE, bench->data);
}

static void teardown(void *state)
{
    struct queue_bench *bench = state;
    if (!bench)
        return;
    fm_fs_queue_close(bench->queue);
    fm_fs_file_close(bench->file);
    fm_fs_close(bench->fs);
    fm_bench_fs_raw_close(bench->raw);
    fm_bench_fs_cluster_end(bench->cluster);
    fm_bench_fs_folder_remove(bench->folder);
    fm_base_mem_free(bench->data);
    fm_base_mem_free(bench);
}

static fm_status open_all(struct queue_bench *bench, int is_cluster)
{
    char path[FM_BENCH_FS_PATH + 16];
    char spec[FM_BENCH_FS_PATH + 32];
    fm_fs *plain;
    const fm_fs_cluster_options options = {
        .size = sizeof options, .targets = 1, .replicas = 1, .target_bytes = (uint64_t)2 << 30};
    FM_TRY(fm_bench_fs_folder(bench->folder));
    FM_TRY(fm_fs_open(bench->folder, 0, &plain));
    fm_status status = write_file(plain, "raw", bench->data);
    fm_fs_close(plain);
    FM_TRY(status);
    snprintf(path, sizeof path, "%s/raw", bench->folder);
    FM_TRY(fm_bench_fs_raw_open_as(
        path, DEPTH, FM_BENCH_FS_RAW_TUNED | (is_cluster ? 0 : FM_BENCH_FS_RAW_CACHED), &bench->raw));
    snprintf(path, sizeof path, "%s/cluster", bench->folder);
    snprintf(spec, sizeof spec, "cluster:%s", path);
    if (is_cluster) {
        FM_TRY(fm_fs_cluster_init(path, &options));
        bench->cluster = fm_bench_fs_cluster_start(path);
        FM_TRY(wait_for(path));
    }
    FM_TRY(fm_fs_open(is_cluster ? spec : bench->folder, 0, &bench->fs));
    FM_TRY(write_file(bench->fs, "file", bench->data));
    FM_TRY(fm_fs_file_open(bench->fs, "file", FM_FS_READ, &bench->file));
    return fm_fs_queue_open(bench->fs, DEPTH, &bench->queue);
}

static fm_status setup(const fm_bench_setup *given, int is_cluster, void **out_state)
{
    struct queue_bench *bench = fm_base_mem_zalloc(1, sizeof *bench);
    if (!bench)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the case");
    bench->data = fm_bench_alloc(PIECE);
    if (bench->data)
        fm_bench_fill(given->seed, bench->data, PIECE);
    for (uint64_t i = 0; i < READS; i++)
        bench->offsets[i] =
            fm_base_rng_at(given->seed, 1, i) % ((uint64_t)PIECES * PIECE / PAGE) * (uint64_t)PAGE;
    fm_status status =
        bench->data ? open_all(bench, is_cluster) : fm_base_error_set(FM_ERR_NOMEM, "no memory for a file");
    if (status < 0) {
        teardown(bench);
        return status == FM_ERR_UNSUPPORTED ? FM_ERR_UNAVAILABLE : status;
    }
    *out_state = bench;
    return FM_OK;
}

static fm_status setup_dir(const fm_bench_setup *given, void **out_state)
{
    return setup(given, 0, out_state);
}

static fm_status setup_cluster(const fm_bench_setup *given, void **out_state)
{
    return setup(given, 1, out_state);
}

fm_status fm_bench_fs_queue_cases(fm_bench *bench)
{
    fm_bench_case item = {.name = "queue.dir.4KiB",
                          .items = READS,
                          .bytes = (double)READS * PAGE,
                          .clock = FM_BENCH_WALL,
                          .threads = 1, // of the program
                          .setup = setup_dir,
                          .run = run_queue,
                          .teardown = teardown,
                          .peers = {{.name = "io_uring", .run = run_raw}},
                          .goals = {{FM_BENCH_RATIO, .peer = "io_uring", .must = 0.85}}};
    FM_TRY(fm_bench_add(bench, &item));
    item.name = "queue.cluster.4KiB";
    item.setup = setup_cluster;
    // Each read goes to another process and back over an authenticated socket.
    item.goals[0] = (fm_bench_goal){FM_BENCH_RATIO, .peer = "io_uring", .must = 0.5, .hope = 0.85};
    return fm_bench_add(bench, &item);
}
