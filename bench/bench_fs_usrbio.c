// Random reads through a ring that is shared with a mount whose process runs the cluster, against the same mount through
// FUSE, and against io_uring on a file of the same disk.
#include "bench_fs.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fathom/fs_cluster.h"
#include "fathom/fs_mount.h"
#include "fathom/mem.h"
#include "fathom/rng.h"
#include "hf3fs_usrbio.h"

// A file far larger than what the processors' caches hold; reads past the page cache in all three ways.
enum { PAGE = 4096, DEPTH = 32, READS = 4096, PIECE = 1 << 20, PIECES = 256, WAKE = 8 };

struct usrbio_bench {
    char folder[FM_BENCH_FS_PATH];
    char dir[FM_BENCH_FS_PATH + 16];
    pid_t mount;
    int fd;
    struct hf3fs_ior ior;
    struct hf3fs_iov iov;
    fm_bench_fs_raw *disk, *fuse;
    void *data;
    uint64_t offsets[READS];
    const void *slots[DEPTH];
};

static fm_status fill(const char *path, const void *data)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int good = fd >= 0;
    for (int i = 0; good && i < PIECES; i++)
        good = write(fd, data, PIECE) == PIECE;
    good = good && fsync(fd) == 0;
    if (fd >= 0)
        close(fd);
    return good ? FM_OK : fm_base_error_set(FM_ERR_IO, "%s cannot be written", path);
}

static fm_status take_results(struct usrbio_bench *bench, int min, unsigned *free_count)
{
    struct hf3fs_cqe cqes[DEPTH];
    int count = hf3fs_wait_for_ios(&bench->ior, cqes, DEPTH, min, NULL);
    for (int i = 0; i < count; i++) {
        if (cqes[i].result != PAGE)
            return fm_base_error_set(FM_ERR_IO, "a read gave %lld", (long long)cqes[i].result);
        bench->slots[(*free_count)++] = cqes[i].userdata;
    }
    return count < 0 ? fm_base_error_set(FM_ERR_IO, "waiting gave %d", count) : FM_OK;
}

static fm_status run_ring(void *state, int threads)
{
    struct usrbio_bench *bench = state;
    unsigned free_count = DEPTH;
    unsigned next = 0;
    (void)threads;
    for (unsigned i = 0; i < DEPTH; i++)
        bench->slots[i] = bench->iov.base + (size_t)i * PAGE;
    while (next < READS || free_count < DEPTH) {
        while (free_count && next < READS) {
            uint8_t *at = bench->iov.base + ((const uint8_t *)bench->slots[free_count - 1] - bench->iov.base);
            if (hf3fs_prep_io(&bench->ior, &bench->iov, true, at, bench->fd, bench->offsets[next], PAGE, at) <
                0)
                return fm_base_error_set(FM_ERR_IO, "a read cannot be prepared");
            free_count--;
            next++;
        }
        if (hf3fs_submit_ios(&bench->ior) != 0)
            return fm_base_error_set(FM_ERR_IO, "reads cannot be submitted");
        unsigned under_way = DEPTH - free_count;
        FM_TRY(take_results(bench, (int)(under_way < WAKE ? under_way : WAKE), &free_count));
    }
    return FM_OK;
}

static fm_status run_fuse(void *state, int threads)
{
    struct usrbio_bench *bench = state;
    (void)threads;
    return fm_bench_fs_raw_run(bench->fuse, FM_BENCH_FS_READ, bench->offsets, READS, PAGE, bench->data);
}

static fm_status run_disk(void *state, int threads)
{
    struct usrbio_bench *bench = state;
    (void)threads;
    return fm_bench_fs_raw_run(bench->disk, FM_BENCH_FS_READ, bench->offsets, READS, PAGE, bench->data);
}

static void teardown(void *state)
{
    struct usrbio_bench *bench = state;
    if (!bench)
        return;
    fm_bench_fs_raw_close(bench->fuse);
    fm_bench_fs_raw_close(bench->disk);
    hf3fs_iordestroy(&bench->ior);
    hf3fs_iovdestroy(&bench->iov);
    if (bench->fd >= 0) {
        hf3fs_dereg_fd(bench->fd);
        close(bench->fd);
    }
    fm_bench_fs_mount_end(bench->mount, bench->dir);
    fm_bench_fs_folder_remove(bench->folder);
    fm_base_mem_free(bench->data);
    fm_base_mem_free(bench);
}

static fm_status open_files(struct usrbio_bench *bench)
{
    char path[FM_BENCH_FS_PATH + 32];
    snprintf(path, sizeof path, "%s/raw", bench->folder);
    FM_TRY(fill(path, bench->data));
    FM_TRY(fm_bench_fs_raw_open_as(path, DEPTH, FM_BENCH_FS_RAW_TUNED, &bench->disk));
    snprintf(path, sizeof path, "%s/file", bench->dir);
    FM_TRY(fill(path, bench->data));
    FM_TRY(fm_bench_fs_raw_open(path, DEPTH, &bench->fuse));
    bench->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (bench->fd < 0 || hf3fs_reg_fd(bench->fd, 0) > 0 ||
        hf3fs_iorcreate(&bench->ior, bench->dir, DEPTH, true, 0, -1) != 0 ||
        hf3fs_iovcreate(&bench->iov, bench->dir, (size_t)DEPTH * PAGE, 0, -1) != 0)
        return fm_base_error_set(FM_ERR_IO, "%s: no ring", bench->dir);
    return FM_OK;
}

static fm_status open_all(struct usrbio_bench *bench)
{
    char cluster[FM_BENCH_FS_PATH + 16];
    const fm_fs_cluster_options options = {
        .size = sizeof options, .targets = 1, .replicas = 1, .target_bytes = (uint64_t)2 << 30};
    const fm_fs_mount_options mounting = {.size = sizeof mounting, .serve_cluster = 1};
    FM_TRY(fm_bench_fs_folder(bench->folder));
    snprintf(cluster, sizeof cluster, "%s/cluster", bench->folder);
    snprintf(bench->dir, sizeof bench->dir, "%s/mount", bench->folder);
    FM_TRY(fm_fs_cluster_init(cluster, &options));
    FM_TRY(fm_bench_fs_mount_start(cluster, bench->dir, &mounting, &bench->mount));
    return open_files(bench);
}

static fm_status setup(const fm_bench_setup *given, void **out_state)
{
    struct usrbio_bench *bench = fm_base_mem_zalloc(1, sizeof *bench);
    if (!bench)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the case");
    bench->fd = -1;
    bench->data = fm_bench_alloc(PIECE);
    if (bench->data)
        fm_bench_fill(given->seed, bench->data, PIECE);
    for (uint64_t i = 0; i < READS; i++)
        bench->offsets[i] =
            fm_base_rng_at(given->seed, 1, i) % ((uint64_t)PIECES * PIECE / PAGE) * (uint64_t)PAGE;
    fm_status status =
        bench->data ? open_all(bench) : fm_base_error_set(FM_ERR_NOMEM, "no memory for a file");
    if (status < 0) {
        teardown(bench);
        return status == FM_ERR_UNSUPPORTED ? FM_ERR_UNAVAILABLE : status;
    }
    *out_state = bench;
    return FM_OK;
}

fm_status fm_bench_fs_usrbio_cases(fm_bench *bench)
{
    return fm_bench_add(
        bench, &(fm_bench_case){
                   .name = "usrbio.read.4KiB",
                   .items = READS,
                   .bytes = (double)READS * PAGE,
                   .clock = FM_BENCH_WALL,
                   .threads = 1, // of the program
                   .setup = setup,
                   .run = run_ring,
                   .teardown = teardown,
                   .peers = {{.name = "io_uring", .run = run_disk}, {.name = "fuse", .run = run_fuse}},
                   .goals = {{FM_BENCH_RATIO, .peer = "io_uring", .must = 0.85},
                             {FM_BENCH_RATIO, .peer = "fuse", .must = 3}},
               });
}
