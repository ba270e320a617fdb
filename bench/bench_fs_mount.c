/*
 * Reads through a mount, against a FUSE file system that does nothing and against the disk.
 *
 * Each read is a request that reaches the mount's process: the kernel's pages of all files are dropped before each run,
 * and no run reads a page twice. (What the kernel still has costs the same on every FUSE file system.)
 *
 * Warm: the bytes lie in memory of the mount's process, which has read them before. The peer answers the same requests of the
 * same programs from one buffer, on a mount with the same options, readahead and number of threads.
 *
 * Cold: neither the kernel nor the mount has any of the file, which is several times as large as the mount's own memory;
 * chunks are read with O_DIRECT. One program reads from the beginning to the end. The peer is io_uring with O_DIRECT, of the
 * same size and with as many reads at once as the kernel's readahead makes.
 *
 * "up": the cluster runs in the mount's process (fathom fs mount --up); otherwise it is a process of its own.
 */
#include "bench_fs.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fathom/fs_cluster.h"
#include "fathom/fs_mount.h"
#include "fathom/mem.h"
#include "fathom/rng.h"

enum {
    MIB = 1 << 20,
    WARM = 128 * MIB, // more than processors' caches hold
    WARM_CACHE = 256 * MIB,
    COLD = 256 * MIB,
    COLD_CACHE = 32 * MIB,
    DEPTH = 16, // of io_uring: two of the kernel's readahead windows of 8 MiB
    PAGE = 4096,
    READERS = 4,
    READS = 16384
};

struct shape {
    int up, cold;
    unsigned size; // of a read
    unsigned readers;
};

struct mount_bench {
    struct shape shape;
    char folder[FM_BENCH_FS_PATH];
    char dir[FM_BENCH_FS_PATH + 16], null_dir[FM_BENCH_FS_PATH + 16];
    pid_t cluster, mount, null;
    int fd, null_fd;
    fm_bench_fs_raw *raw;
    uint8_t *data; // READERS or DEPTH of a MiB
    unsigned count;
    uint64_t *offsets; // in order, or none twice
};

/* Runs */

struct reader {
    const struct mount_bench *bench;
    int fd;
    unsigned index;
    int bad;
    pthread_t thread;
};

static void *read_part(void *argument)
{
    struct reader *reader = argument;
    const struct mount_bench *bench = reader->bench;
    uint8_t *into = bench->data + (size_t)reader->index * MIB;
    for (unsigned i = reader->index; i < bench->count; i += bench->shape.readers)
        reader->bad |= pread(reader->fd, into, bench->shape.size, (off_t)bench->offsets[i]) !=
                       (ssize_t)bench->shape.size;
    return NULL;
}

static fm_status read_all(const struct mount_bench *bench, int fd)
{
    struct reader readers[READERS];
    unsigned started = 0;
    int bad = 0;
    for (; started < bench->shape.readers; started++) {
        readers[started] = (struct reader){.bench = bench, .fd = fd, .index = started};
        if (pthread_create(&readers[started].thread, NULL, read_part, &readers[started]) != 0)
            break;
    }
    bad = started < bench->shape.readers;
    for (unsigned i = 0; i < started; i++) {
        pthread_join(readers[i].thread, NULL);
        bad |= readers[i].bad;
    }
    return bad ? fm_base_error_set(FM_ERR_IO, "reads came short, or no thread for them") : FM_OK;
}

static fm_status run_mount(void *state, int threads)
{
    const struct mount_bench *bench = state;
    (void)threads;
    return read_all(bench, bench->fd);
}

static fm_status run_null(void *state, int threads)
{
    const struct mount_bench *bench = state;
    (void)threads;
    return read_all(bench, bench->null_fd);
}

static fm_status run_raw(void *state, int threads)
{
    const struct mount_bench *bench = state;
    (void)threads;
    return bench->raw ? fm_bench_fs_raw_run(bench->raw, 0, bench->offsets, bench->count, MIB, bench->data)
                      : FM_ERR_UNAVAILABLE;
}

static fm_status drop_pages(void *state)
{
    const struct mount_bench *bench = state;
    int failed = posix_fadvise(bench->fd, 0, 0, POSIX_FADV_DONTNEED);
    if (bench->null_fd >= 0)
        failed |= posix_fadvise(bench->null_fd, 0, 0, POSIX_FADV_DONTNEED);
    return failed ? fm_base_error_set(FM_ERR_IO, "the kernel does not drop its pages") : FM_OK;
}

/* Set-up */

static void teardown(void *state)
{
    struct mount_bench *bench = state;
    if (!bench)
        return;
    fm_bench_fs_raw_close(bench->raw);
    if (bench->fd >= 0)
        close(bench->fd);
    if (bench->null_fd >= 0)
        close(bench->null_fd);
    fm_bench_fs_mount_end(bench->null, bench->null_dir);
    fm_bench_fs_mount_end(bench->mount, bench->dir);
    fm_bench_fs_cluster_end(bench->cluster);
    fm_bench_fs_folder_remove(bench->folder);
    fm_base_mem_free(bench->offsets);
    fm_base_mem_free(bench->data);
    fm_base_mem_free(bench);
}

static uint64_t file_bytes(const struct mount_bench *bench)
{
    return bench->shape.cold ? COLD : WARM;
}

static fm_status fill(const struct mount_bench *bench, const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int good = fd >= 0;
    for (uint64_t i = 0; good && i < file_bytes(bench) / MIB; i++)
        good = write(fd, bench->data + i % DEPTH * MIB, MIB) == MIB;
    good = good && fsync(fd) == 0;
    if (fd >= 0)
        close(fd);
    return good ? FM_OK : fm_base_error_set(FM_ERR_IO, "%s cannot be written", path);
}

// The mount's process reads all of the file once.
static fm_status warm_up(struct mount_bench *bench)
{
    char path[FM_BENCH_FS_PATH + 32];
    FM_TRY(fm_bench_fs_null_start(bench->null_dir, WARM, &bench->null));
    snprintf(path, sizeof path, "%s/file", bench->null_dir);
    bench->null_fd = open(path, O_RDONLY | O_CLOEXEC);
    FM_TRY(drop_pages(bench));
    for (uint64_t i = 0; i < WARM; i += MIB)
        if (pread(bench->fd, bench->data, MIB, (off_t)i) != MIB)
            return fm_base_error_set(FM_ERR_IO, "the mount's file cannot be read");
    if (bench->shape.size == PAGE && (posix_fadvise(bench->fd, 0, 0, POSIX_FADV_RANDOM) != 0 ||
                                      posix_fadvise(bench->null_fd, 0, 0, POSIX_FADV_RANDOM) != 0))
        return fm_base_error_set(FM_ERR_IO, "readahead cannot be turned off");
    return FM_OK;
}

static fm_status open_all(struct mount_bench *bench)
{
    char path[FM_BENCH_FS_PATH + 32];
    const fm_fs_cluster_options options = {
        .size = sizeof options, .targets = 1, .replicas = 1, .target_bytes = (uint64_t)2 << 30};
    const fm_fs_mount_options mounting = {.size = sizeof mounting,
                                          .serve_cluster = bench->shape.up,
                                          .cache_bytes = bench->shape.cold ? COLD_CACHE : WARM_CACHE};
    FM_TRY(fm_bench_fs_folder(bench->folder));
    snprintf(bench->dir, sizeof bench->dir, "%s/mount", bench->folder);
    snprintf(bench->null_dir, sizeof bench->null_dir, "%s/null", bench->folder);
    snprintf(path, sizeof path, "%s/cluster", bench->folder);
    FM_TRY(fm_fs_cluster_init(path, &options));
    if (!bench->shape.up)
        bench->cluster = fm_bench_fs_cluster_start(path);
    FM_TRY(fm_bench_fs_mount_start(path, bench->dir, &mounting, &bench->mount));
    snprintf(path, sizeof path, "%s/file", bench->dir);
    FM_TRY(fill(bench, path));
    bench->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (bench->fd < 0)
        return fm_base_error_set(FM_ERR_IO, "%s cannot be opened", path);
    if (!bench->shape.cold)
        return warm_up(bench);
    snprintf(path, sizeof path, "%s/raw", bench->folder);
    FM_TRY(fill(bench, path));
    return fm_bench_fs_raw_open(path, DEPTH, &bench->raw);
}

// Offsets in order; small ones none twice and in no order.
static fm_status choose_offsets(struct mount_bench *bench, uint64_t seed)
{
    unsigned places = (unsigned)(file_bytes(bench) / bench->shape.size);
    bench->count = places < READS ? places : READS;
    bench->offsets = fm_base_mem_realloc(NULL, places, sizeof *bench->offsets);
    if (!bench->offsets)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for offsets");
    for (unsigned i = 0; i < places; i++)
        bench->offsets[i] = (uint64_t)i * bench->shape.size;
    for (unsigned i = 0; bench->shape.size == PAGE && i < bench->count; i++) {
        unsigned other = i + (unsigned)(fm_base_rng_at(seed, 1, i) % (places - i));
        uint64_t offset = bench->offsets[i];
        bench->offsets[i] = bench->offsets[other];
        bench->offsets[other] = offset;
    }
    return FM_OK;
}

static fm_status setup(const fm_bench_setup *given, void **out_state)
{
    struct mount_bench *bench = fm_base_mem_zalloc(1, sizeof *bench);
    if (!bench)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the case");
    bench->shape = *(const struct shape *)given->argument;
    bench->fd = bench->null_fd = -1;
    bench->data = fm_bench_alloc((size_t)DEPTH * MIB);
    fm_status status = bench->data ? choose_offsets(bench, given->seed)
                                   : fm_base_error_set(FM_ERR_NOMEM, "no memory for reads");
    if (status == FM_OK) {
        fm_bench_fill(given->seed, bench->data, (size_t)DEPTH * MIB);
        status = open_all(bench);
    }
    if (status < 0) {
        teardown(bench);
        return status == FM_ERR_UNSUPPORTED ? FM_ERR_UNAVAILABLE : status;
    }
    *out_state = bench;
    return FM_OK;
}

fm_status fm_bench_fs_mount_cases(fm_bench *bench)
{
    static const struct {
        const char *name;
        struct shape shape;
        double must;
        fm_bench_mode mode;
    } cases[] = {
        {"mount.up.warm.1MiB", {.up = 1, .size = MIB, .readers = 1}, 0.60, FM_BENCH_IN_QUICK},
        {"mount.up.warm.4KiB", {.up = 1, .size = PAGE, .readers = READERS}, 0.50, FM_BENCH_IN_QUICK},
        {"mount.up.cold.1MiB", {.up = 1, .cold = 1, .size = MIB, .readers = 1}, 0.85, FM_BENCH_IN_QUICK},
        // What is warm is read without the cluster, wherever that runs.
        {"mount.warm.1MiB", {.size = MIB, .readers = 1}, 0.60, FM_BENCH_IN_FULL},
        {"mount.warm.4KiB", {.size = PAGE, .readers = READERS}, 0.50, FM_BENCH_IN_FULL},
        {"mount.cold.1MiB", {.cold = 1, .size = MIB, .readers = 1}, 0.85, FM_BENCH_IN_QUICK},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct shape *shape = &cases[i].shape;
        const char *peer = shape->cold ? "io_uring" : "null_fuse";
        unsigned count = (unsigned)((shape->cold ? COLD : WARM) / shape->size);
        count = count < READS ? count : READS;
        FM_TRY(fm_bench_add(bench, &(fm_bench_case){
                                       .name = cases[i].name,
                                       .argument = shape,
                                       .items = count,
                                       .bytes = (double)count * shape->size,
                                       .clock = FM_BENCH_WALL,
                                       .mode = cases[i].mode,
                                       .threads = 1, // as the harness counts
                                       .setup = setup,
                                       .before = drop_pages,
                                       .run = run_mount,
                                       .teardown = teardown,
                                       .peers = {{.name = peer, .run = shape->cold ? run_raw : run_null}},
                                       .goals = {{FM_BENCH_RATIO, .peer = peer, .must = cases[i].must}},
                                   }));
    }
    return FM_OK;
}
