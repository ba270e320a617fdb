// The cache of keys and values: gets of requests' blocks from a cold cache, and puts until they are durable, in a directory
// and in a cluster, against io_uring on a file of the same disk; in a directory also against plain files, since there the
// cache goes through the kernel's page cache on purpose: what was put lately is got from memory.
#include "bench_fs.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fathom/clock.h"
#include "fathom/fs_cluster.h"
#include "fathom/fs_kvcache.h"
#include "fathom/mem.h"
#include "fathom/rng.h"

enum {
    BLOCK = 512 * 576 * 2, // 512 tokens in a layer of DeepSeek-V3
    REQUEST = 24,          // blocks of one, as public traces have them on average
    REQUESTS = 4,          // of a run
    BLOCKS = 240,          // that are there for gets: 135 MiB
    TIMES = 512            // that are kept, of each side
};

struct kvcache_kind {
    int in_cluster, puts;
};

struct kvcache_bench {
    const struct kvcache_kind *kind;
    char folder[FM_BENCH_FS_PATH];
    pid_t cluster;
    fm_fs *fs;
    fm_fs_kvcache *cache;
    fm_bench_fs_raw *raw;
    uint8_t *data; // REQUEST blocks
    int plain;     // a file that is read past no page cache
    uint64_t runs, raw_runs, plain_runs, next;
    double times[2][TIMES]; // of requests: ours, and those of the disk alone
    unsigned time_count[2];
};

static void note_time(struct kvcache_bench *bench, int side, uint64_t begun_ns)
{
    if (bench->time_count[side] < TIMES)
        bench->times[side][bench->time_count[side]++] = (double)(fm_base_clock_ns() - begun_ns) * 1e-9;
}

static fm_fs_kvcache_key key_of(uint64_t number)
{
    fm_fs_kvcache_key key;
    fm_fs_kvcache_key_next(NULL, &number, sizeof number, &key);
    return key;
}

// Where a request's blocks begin: they follow one another, as they were put.
static uint64_t place_of(uint64_t request)
{
    return fm_base_rng_at(1, 1, request) % (BLOCKS / REQUEST) * REQUEST;
}

static fm_status sync_files(struct kvcache_bench *bench)
{
    fm_fs_list *list;
    const fm_fs_entry *entry;
    FM_TRY(fm_fs_list_open(bench->fs, "kv", &list));
    fm_status status;
    while ((status = fm_fs_list_next(list, &entry)) == FM_OK && entry) {
        char path[FM_FS_PATH_MAX + 1];
        fm_fs_file *file;
        snprintf(path, sizeof path, "kv/%s", entry->name);
        if ((status = fm_fs_file_open(bench->fs, path, FM_FS_READ, &file)) < 0)
            break;
        status = fm_fs_file_sync(file);
        fm_fs_file_close(file);
        if (status < 0)
            break;
    }
    fm_fs_list_close(list);
    return status;
}

static fm_status put_request(struct kvcache_bench *bench)
{
    fm_fs_kvcache_block blocks[REQUEST];
    for (unsigned i = 0; i < REQUEST; i++)
        blocks[i] = (fm_fs_kvcache_block){
            .key = key_of(bench->next++), .buffer = bench->data + (size_t)i * BLOCK, .size = BLOCK};
    return fm_fs_kvcache_write(bench->cache, blocks, REQUEST);
}

static fm_status run_puts(void *state, int threads)
{
    struct kvcache_bench *bench = state;
    (void)threads;
    for (int r = 0; r < REQUESTS; r++) {
        uint64_t begun = fm_base_clock_ns();
        FM_TRY(put_request(bench));
        note_time(bench, 0, begun);
    }
    return sync_files(bench);
}

static fm_status run_gets(void *state, int threads)
{
    struct kvcache_bench *bench = state;
    (void)threads;
    for (int r = 0; r < REQUESTS; r++) {
        fm_fs_kvcache_block blocks[REQUEST];
        size_t hits;
        uint64_t first = place_of(bench->runs++);
        for (unsigned i = 0; i < REQUEST; i++)
            blocks[i] = (fm_fs_kvcache_block){key_of(first + i), bench->data + (size_t)i * BLOCK, BLOCK, 0};
        uint64_t begun = fm_base_clock_ns();
        FM_TRY(fm_fs_kvcache_read(bench->cache, blocks, REQUEST, &hits));
        note_time(bench, 0, begun);
        if (hits != REQUEST)
            return fm_base_error_set(FM_ERR_INTERNAL, "%zu of %d blocks were found", hits, REQUEST);
    }
    return FM_OK;
}

static fm_status run(void *state, int threads)
{
    const struct kvcache_bench *bench = state;
    return bench->kind->puts ? run_puts(state, threads) : run_gets(state, threads);
}

static fm_status run_raw(void *state, int threads)
{
    struct kvcache_bench *bench = state;
    uint64_t offsets[REQUEST];
    (void)threads;
    if (!bench->raw)
        return FM_ERR_UNAVAILABLE;
    for (int r = 0; r < REQUESTS; r++) {
        uint64_t first = place_of(bench->raw_runs++);
        for (unsigned i = 0; i < REQUEST; i++)
            offsets[i] = (first + i) * BLOCK;
        uint64_t begun = fm_base_clock_ns();
        FM_TRY(fm_bench_fs_raw_run(bench->raw, bench->kind->puts ? FM_BENCH_FS_WRITE : FM_BENCH_FS_READ,
                                   offsets, REQUEST, BLOCK, bench->data));
        note_time(bench, 1, begun);
    }
    return FM_OK;
}

// Plain calls on a plain file: puts write a new one and remove the one before the last, as the cache removes segments.
static fm_status write_plain(struct kvcache_bench *bench)
{
    char path[FM_BENCH_FS_PATH + 48];
    snprintf(path, sizeof path, "%s/plain-%llu", bench->folder, (unsigned long long)bench->plain_runs);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int good = fd >= 0;
    for (int i = 0; good && i < REQUESTS * REQUEST; i++)
        good = write(fd, bench->data + (size_t)(i % REQUEST) * BLOCK, BLOCK) == BLOCK;
    good = good && fdatasync(fd) == 0;
    if (fd >= 0)
        close(fd);
    if (bench->plain_runs >= 2) {
        snprintf(path, sizeof path, "%s/plain-%llu", bench->folder,
                 (unsigned long long)bench->plain_runs - 2);
        good = good && unlink(path) == 0;
    }
    bench->plain_runs++;
    return good ? FM_OK : fm_base_error_set(FM_ERR_IO, "%s cannot be written", path);
}

static fm_status run_plain(void *state, int threads)
{
    struct kvcache_bench *bench = state;
    (void)threads;
    if (bench->kind->puts)
        return write_plain(bench);
    for (int r = 0; r < REQUESTS; r++) {
        uint64_t first = place_of(bench->plain_runs++);
        for (unsigned i = 0; i < REQUEST; i++)
            if (pread(bench->plain, bench->data + (size_t)i * BLOCK, BLOCK, (off_t)((first + i) * BLOCK)) !=
                BLOCK)
                return fm_base_error_set(FM_ERR_IO, "a plain read failed");
    }
    return FM_OK;
}

static fm_status open_plain(struct kvcache_bench *bench)
{
    char path[FM_BENCH_FS_PATH + 16];
    snprintf(path, sizeof path, "%s/plain", bench->folder);
    bench->plain = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int good = bench->plain >= 0 && posix_fadvise(bench->plain, 0, 0, POSIX_FADV_RANDOM) == 0;
    for (int i = 0; good && i < BLOCKS; i++)
        good = write(bench->plain, bench->data + (size_t)(i % REQUEST) * BLOCK, BLOCK) == BLOCK;
    return good && fdatasync(bench->plain) == 0 ? FM_OK : fm_base_error_set(FM_ERR_IO, "no plain file");
}

// What the kernel keeps of the cache's files is dropped; a cluster's nodes read past it.
static fm_status make_cold(void *state)
{
    struct kvcache_bench *bench = state;
    fm_fs_list *list;
    const fm_fs_entry *entry;
    if (bench->kind->in_cluster || bench->kind->puts)
        return FM_OK;
    if (posix_fadvise(bench->plain, 0, 0, POSIX_FADV_DONTNEED) != 0)
        return fm_base_error_set(FM_ERR_IO, "the plain file cannot be dropped from memory");
    FM_TRY(fm_fs_list_open(bench->fs, "kv", &list));
    fm_status status;
    while ((status = fm_fs_list_next(list, &entry)) == FM_OK && entry) {
        char path[FM_BENCH_FS_PATH + 300];
        snprintf(path, sizeof path, "%s/kv/%s", bench->folder, entry->name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        int failed = fd < 0 || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0;
        if (fd >= 0)
            close(fd);
        if (failed) {
            status = fm_base_error_set(FM_ERR_IO, "%s cannot be dropped from memory", path);
            break;
        }
    }
    fm_fs_list_close(list);
    return status;
}

static void teardown(void *state)
{
    struct kvcache_bench *bench = state;
    if (!bench)
        return;
    if (bench->plain >= 0)
        close(bench->plain);
    fm_bench_fs_raw_close(bench->raw);
    fm_fs_kvcache_close(bench->cache);
    fm_fs_close(bench->fs);
    fm_bench_fs_cluster_end(bench->cluster);
    fm_bench_fs_folder_remove(bench->folder);
    fm_base_mem_free(bench->data);
    fm_base_mem_free(bench);
}

// A cluster serves a moment after its process has begun.
static fm_status open_cluster(struct kvcache_bench *bench)
{
    enum { TRIES = 600 };
    char spec[FM_BENCH_FS_PATH + 32];
    const fm_fs_cluster_options options = {
        .size = sizeof options, .targets = 1, .replicas = 1, .target_bytes = (uint64_t)3 << 30};
    snprintf(spec, sizeof spec, "cluster:%s/cluster", bench->folder);
    FM_TRY(fm_fs_cluster_init(strchr(spec, ':') + 1, &options));
    bench->cluster = fm_bench_fs_cluster_start(strchr(spec, ':') + 1);
    fm_status status = FM_ERR_UNAVAILABLE;
    for (int i = 0; i < TRIES && status == FM_ERR_UNAVAILABLE; i++) {
        status = fm_fs_open(spec, 0, &bench->fs);
        if (status == FM_ERR_UNAVAILABLE)
            fm_base_clock_sleep_ns(50000000);
    }
    return status == FM_ERR_UNAVAILABLE ? FM_ERR_TIMEOUT : status;
}

static fm_status open_all(struct kvcache_bench *bench)
{
    char path[FM_BENCH_FS_PATH + 16];
    // Room for what gets look for, and few enough segments that puts make room all the time.
    const fm_fs_kvcache_options options = {.size = sizeof options, .bytes_max = (uint64_t)512 << 20};
    FM_TRY(fm_bench_fs_folder(bench->folder));
    snprintf(path, sizeof path, "%s/raw", bench->folder);
    fm_status status = fm_bench_fs_raw_open(path, REQUEST, &bench->raw);
    if (status < 0 && status != FM_ERR_UNAVAILABLE)
        return status;
    for (uint64_t at = 0; bench->raw && at < BLOCKS; at += REQUEST) { // never written is never read
        uint64_t offsets[REQUEST];
        for (unsigned i = 0; i < REQUEST; i++)
            offsets[i] = (at + i) * BLOCK;
        FM_TRY(fm_bench_fs_raw_run(bench->raw, FM_BENCH_FS_WRITE, offsets, REQUEST, BLOCK, bench->data));
    }
    if (!bench->kind->in_cluster && !bench->kind->puts)
        FM_TRY(open_plain(bench));
    FM_TRY(bench->kind->in_cluster ? open_cluster(bench) : fm_fs_open(bench->folder, 0, &bench->fs));
    FM_TRY(fm_fs_kvcache_open(bench->fs, "kv", &options, &bench->cache));
    for (int i = 0; i < BLOCKS / REQUEST; i++)
        FM_TRY(put_request(bench));
    return sync_files(bench);
}

static fm_status setup(const fm_bench_setup *given, void **out_state)
{
    struct kvcache_bench *bench = fm_base_mem_zalloc(1, sizeof *bench);
    if (!bench)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the case");
    bench->kind = given->argument;
    bench->plain = -1;
    bench->data = fm_bench_alloc((size_t)REQUEST * BLOCK);
    if (bench->data)
        fm_bench_fill(given->seed, bench->data, (size_t)REQUEST * BLOCK);
    fm_status status =
        bench->data ? open_all(bench) : fm_base_error_set(FM_ERR_NOMEM, "no memory for blocks");
    if (status < 0) {
        teardown(bench);
        return status == FM_ERR_UNSUPPORTED ? FM_ERR_UNAVAILABLE : status;
    }
    *out_state = bench;
    return FM_OK;
}

static int by_value(const void *a, const void *b)
{
    const double *x = a;
    const double *y = b;
    return (*x > *y) - (*x < *y);
}

static double p99_of(double *times, unsigned count)
{
    qsort(times, count, sizeof *times, by_value);
    return count ? times[count - 1 - count / 100] : 0;
}

static void metrics(void *state, fm_bench_metrics *to)
{
    struct kvcache_bench *bench = state;
    double ours = p99_of(bench->times[0], bench->time_count[0]);
    double raw = p99_of(bench->times[1], bench->time_count[1]);
    fm_bench_metric_add(to, "request_p99", ours, "s");
    if (raw > 0) {
        fm_bench_metric_add(to, "disk_p99", raw, "s");
        fm_bench_metric_add(to, "p99_ratio", ours / raw, "1");
    }
}

/*
 * Gets from a cluster must be half as fast as the disk, those from a directory nearly as fast as plain reads (they are faster,
 * being many at once). Tails are shown and not judged, for on a disk that others use the disk's own vary more. Puts in a
 * directory are bound by the copy into fresh pages of the page cache, so plain files are what they are held to. Puts in a
 * cluster are a commit of the file's length, and then all chunks at once, each with a record in a journal: a request ends
 * before the next begins, and a request is too little to fill the disk.
 */
fm_status fm_bench_fs_kvcache_cases(fm_bench *bench)
{
    static const struct kvcache_kind get_dir = {0, 0};
    static const struct kvcache_kind put_dir = {0, 1};
    static const struct kvcache_kind get_cluster = {1, 0};
    static const struct kvcache_kind put_cluster = {1, 1};
    fm_bench_case to_do = {
        .bytes = (double)REQUESTS * REQUEST * BLOCK,
        .clock = FM_BENCH_WALL,
        .threads = 1, // of the client
        .setup = setup,
        .before = make_cold,
        .run = run,
        .metrics = metrics,
        .teardown = teardown,
        .peers = {{.name = "io_uring", .run = run_raw}, {.name = "plain_file", .run = run_plain}},
    };
    to_do.name = "kvcache.get.dir";
    to_do.argument = &get_dir;
    to_do.goals[0] = (fm_bench_goal){FM_BENCH_RATIO, .peer = "plain_file", .must = 0.8, .hope = 1};
    to_do.goals[1] = (fm_bench_goal){FM_BENCH_OWN_AT_MOST, .name = "p99_ratio", .hope = 2};
    FM_TRY(fm_bench_add(bench, &to_do));
    to_do.name = "kvcache.put.dir";
    to_do.argument = &put_dir;
    to_do.goals[0] = (fm_bench_goal){FM_BENCH_RATIO, .peer = "plain_file", .must = 0.6, .hope = 1};
    to_do.goals[1] = (fm_bench_goal){.metric = 0};
    FM_TRY(fm_bench_add(bench, &to_do));
    to_do.peers[1] = (fm_bench_peer){.name = NULL};
    to_do.name = "kvcache.get.cluster";
    to_do.argument = &get_cluster;
    to_do.goals[0] = (fm_bench_goal){FM_BENCH_RATIO, .peer = "io_uring", .must = 0.5, .hope = 0.9};
    to_do.goals[1] = (fm_bench_goal){FM_BENCH_OWN_AT_MOST, .name = "p99_ratio", .hope = 2};
    FM_TRY(fm_bench_add(bench, &to_do));
    to_do.name = "kvcache.put.cluster";
    to_do.argument = &put_cluster;
    to_do.goals[0] = (fm_bench_goal){FM_BENCH_RATIO, .peer = "io_uring", .must = 0.2, .hope = 0.5};
    to_do.goals[1] = (fm_bench_goal){.metric = 0};
    return fm_bench_add(bench, &to_do);
}
