// `fathom fs bench`: what a cluster, or a directory, does for whoever uses it, beside what its disk does.
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd_fs.h"
#include "cmd_fs_spot.h"
#include "fathom/clock.h"
#include "fathom/file.h"
#include "fathom/fs.h"
#include "fathom/mem.h"
#include "fathom/rng.h"
#include "fathom/text.h"

enum { LARGE = 1 << 20, SMALL = 4096, LARGE_DEPTH = 8, SMALL_DEPTH = 32, CLIENTS = 32 };

struct bench_options {
    const char *disk;
    int64_t bytes, files, targets, replicas, seed;
};

#define FIELD(name) offsetof(struct bench_options, name)

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
    (void)number;
    interrupted = 1;
}

// Ctrl-C: what was made is removed first. A second one ends it as it stands.
static void expect_signals(void)
{
    const struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

static fm_status go_on(void)
{
    return interrupted ? fm_base_error_set(FM_ERR_CANCELLED, "interrupted") : FM_OK;
}

// One row: so many pieces of a size, at so many places at once.
struct cell {
    const char *name;
    int writes, random;
    uint32_t size, depth;
};

static const struct cell cells[] = {
    {"sequential write, 1 MiB", 1, 0, LARGE, LARGE_DEPTH},
    {"sequential read, 1 MiB", 0, 0, LARGE, LARGE_DEPTH},
    {"random read, 4 KiB", 0, 1, SMALL, SMALL_DEPTH},
    {"random write, 4 KiB", 1, 1, SMALL, SMALL_DEPTH},
    {"random read, 1 MiB", 0, 1, LARGE, LARGE_DEPTH},
};

struct bench {
    const struct bench_options *options;
    fm_json *json; // NULL: a table
    fm_fs *fs;
    char dir[FM_FS_PATH_MAX + 1]; // in fs
    char raw[4096];               // the file of this machine that is the limit
    uint8_t *buffers;
    int direct; // the raw file is read past the page cache
};

static uint64_t count_of(const struct bench *bench, const struct cell *cell)
{
    uint64_t pieces = (uint64_t)bench->options->bytes / cell->size;
    // Small pieces need not cover the file to be a fair sample of it.
    return cell->size == SMALL && pieces > 8192 ? 8192 : pieces;
}

static uint64_t offset_of(const struct bench *bench, const struct cell *cell, uint64_t i)
{
    uint64_t pieces = (uint64_t)bench->options->bytes / cell->size;
    if (cell->random)
        i = fm_base_rng_at((uint64_t)bench->options->seed, cell->size, i) % pieces;
    return i * cell->size;
}

/* The disk: threads that wait, as many as pieces are under way elsewhere */

struct reader {
    const struct bench *bench;
    const struct cell *cell;
    uint32_t index;
    int fd, failed;
    pthread_t thread;
};

static void *use_disk(void *context)
{
    struct reader *reader = context;
    const struct cell *cell = reader->cell;
    uint8_t *buffer = reader->bench->buffers + (size_t)reader->index * cell->size;
    uint64_t count = count_of(reader->bench, cell);
    for (uint64_t i = reader->index; i < count; i += cell->depth) {
        off_t at = (off_t)offset_of(reader->bench, cell, i);
        ssize_t done = cell->writes ? pwrite(reader->fd, buffer, cell->size, at)
                                    : pread(reader->fd, buffer, cell->size, at);
        if (done != (ssize_t)cell->size)
            reader->failed = done < 0 ? errno : EIO;
    }
    return NULL;
}

static fm_status run_disk(const struct bench *bench, const struct cell *cell, double *out_seconds)
{
    struct reader readers[SMALL_DEPTH];
    int fd = open(bench->raw, O_RDWR | O_CLOEXEC | (bench->direct ? O_DIRECT : 0));
    if (fd < 0)
        return fm_base_file_error(errno, "%s", bench->raw);
    uint32_t started = 0;
    int failed = 0;
    uint64_t begin = fm_base_clock_ns();
    for (; started < cell->depth; started++) {
        readers[started] = (struct reader){.bench = bench, .cell = cell, .index = started, .fd = fd};
        if (pthread_create(&readers[started].thread, NULL, use_disk, &readers[started]) != 0)
            break;
    }
    for (uint32_t i = 0; i < started; i++) {
        pthread_join(readers[i].thread, NULL);
        failed = failed ? failed : readers[i].failed;
    }
    if (cell->writes && !failed && fdatasync(fd) != 0)
        failed = errno;
    *out_seconds = (double)(fm_base_clock_ns() - begin) * 1e-9;
    close(fd);
    if (started < cell->depth)
        return fm_base_error_set(FM_ERR_LIMIT, "no thread for reader %u", started);
    return failed ? fm_base_file_error(failed, "%s", bench->raw) : FM_OK;
}

// Makes the raw file, whole: what was never written would be read from nowhere.
static fm_status make_raw(struct bench *bench)
{
    double seconds;
    const struct cell fill = {"", 1, 0, LARGE, LARGE_DEPTH};
    int fd = open(bench->raw, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return fm_base_file_error(errno, "%s", bench->raw);
    close(fd);
    fd = open(bench->raw, O_RDWR | O_CLOEXEC | O_DIRECT);
    bench->direct = fd >= 0;
    if (fd >= 0)
        close(fd);
    return run_disk(bench, &fill, &seconds);
}

/* The file system */

static fm_status run_file(struct bench *bench, const struct cell *cell, fm_fs_queue *queue, fm_fs_file *file,
                          double *out_seconds)
{
    fm_fs_io ios[SMALL_DEPTH];
    fm_fs_io *done[SMALL_DEPTH];
    uint64_t count = count_of(bench, cell);
    uint64_t begun = 0;
    uint64_t ended = 0;
    uint64_t begin = fm_base_clock_ns();
    for (; begun < cell->depth && begun < count; begun++) {
        ios[begun] = (fm_fs_io){.kind = cell->writes ? FM_FS_IO_WRITE : FM_FS_IO_READ,
                                .file = file,
                                .buffer = bench->buffers + (size_t)begun * cell->size,
                                .length = cell->size,
                                .offset = offset_of(bench, cell, begun)};
        FM_TRY(fm_fs_queue_submit(queue, &ios[begun], 1));
    }
    while (ended < count) {
        size_t got;
        FM_TRY(fm_fs_queue_wait(queue, 1, -1, done, SMALL_DEPTH, &got));
        for (size_t i = 0; i < got; i++, ended++) {
            FM_TRY(done[i]->status);
            if (begun == count)
                continue;
            done[i]->offset = offset_of(bench, cell, begun++);
            FM_TRY(fm_fs_queue_submit(queue, done[i], 1));
        }
    }
    if (cell->writes)
        FM_TRY(fm_fs_file_sync(file));
    *out_seconds = (double)(fm_base_clock_ns() - begin) * 1e-9;
    return FM_OK;
}

static void show(const struct bench *bench, const char *name, double ours, double limit, const char *unit)
{
    if (bench->json) {
        fm_base_json_begin(bench->json, NULL, '{');
        fm_base_json_string(bench->json, "what", name);
        fm_base_json_real(bench->json, "per_s", ours);
        fm_base_json_string(bench->json, "unit", unit);
        if (limit > 0) {
            fm_base_json_real(bench->json, "disk_per_s", limit);
            fm_base_json_real(bench->json, "fraction", ours / limit);
        }
        fm_base_json_end(bench->json);
        return;
    }
    char shown[2][40];
    for (int i = 0; i < 2; i++) {
        double rate = i ? limit : ours;
        if (strcmp(unit, "bytes") == 0)
            snprintf(shown[i], sizeof shown[i], "%s/s", fm_base_text_bytes(rate).text);
        else
            snprintf(shown[i], sizeof shown[i], "%.0f/s", rate);
    }
    printf("%-28s %14s", name, shown[0]);
    if (limit > 0)
        printf(" %14s %8.2f", shown[1], ours / limit);
    printf("\n");
}

static fm_status run_cells(struct bench *bench)
{
    char path[FM_FS_PATH_MAX + 1];
    fm_fs_file *file;
    fm_fs_queue *queue;
    FM_TRY(fm_cmd_spot_join(bench->dir, "data", path));
    FM_TRY(fm_fs_file_open(bench->fs, path, FM_FS_READ | FM_FS_WRITE | FM_FS_CREATE, &file));
    fm_status status = fm_fs_queue_open(bench->fs, SMALL_DEPTH, &queue);
    if (status == FM_OK) {
        for (size_t i = 0; i < sizeof cells / sizeof *cells && status == FM_OK; i++) {
            double limit = 0;
            double ours = 0;
            double bytes = (double)count_of(bench, &cells[i]) * cells[i].size;
            status = run_disk(bench, &cells[i], &limit);
            if (status == FM_OK)
                status = go_on();
            if (status == FM_OK)
                status = run_file(bench, &cells[i], queue, file, &ours);
            if (status == FM_OK)
                show(bench, cells[i].name, bytes / ours, bytes / limit, "bytes");
            if (status == FM_OK)
                status = go_on();
        }
        fm_fs_queue_close(queue);
    }
    fm_fs_file_close(file);
    return status;
}

/* Names */

struct client {
    const struct bench *bench;
    int first, count;
    fm_status status;
    char message[256];
    pthread_t thread;
};

static fm_status make_file(const struct bench *bench, int number)
{
    char path[FM_FS_PATH_MAX + 1];
    char name[32];
    fm_fs_file *file;
    FM_TRY(go_on());
    snprintf(name, sizeof name, "names/%d", number);
    FM_TRY(fm_cmd_spot_join(bench->dir, name, path));
    FM_TRY(fm_fs_file_open(bench->fs, path, FM_FS_WRITE | FM_FS_CREATE | FM_FS_EXCLUSIVE, &file));
    fm_fs_file_close(file);
    return FM_OK;
}

static void *make_files(void *context)
{
    struct client *client = context;
    for (int i = 0; i < client->count && client->status == FM_OK; i++)
        client->status = make_file(client->bench, client->first + i);
    if (client->status < 0)
        snprintf(client->message, sizeof client->message, "%s", fm_error_message());
    return NULL;
}

static fm_status create(const struct bench *bench, int clients, int first, double *out_seconds)
{
    struct client of[CLIENTS];
    fm_status status = FM_OK;
    int started = 0;
    int each = (int)bench->options->files / clients;
    uint64_t begin = fm_base_clock_ns();
    for (; started < clients; started++) {
        of[started] = (struct client){.bench = bench, .first = first + started * each, .count = each};
        if (pthread_create(&of[started].thread, NULL, make_files, &of[started]) != 0)
            break;
    }
    for (int i = 0; i < started; i++) {
        pthread_join(of[i].thread, NULL);
        if (status == FM_OK && of[i].status < 0)
            status = fm_base_error_set(of[i].status, "%s", of[i].message);
    }
    *out_seconds = (double)(fm_base_clock_ns() - begin) * 1e-9;
    return started == clients ? status : fm_base_error_set(FM_ERR_LIMIT, "no thread for client %d", started);
}

// How often a second the disk makes a small write durable: what one create after the other cannot pass.
static fm_status time_flushes(const struct bench *bench, double *out_per_s)
{
    enum { FLUSHES = 32 };
    int fd = open(bench->raw, O_RDWR | O_CLOEXEC);
    int failed = fd < 0 ? errno : 0;
    uint64_t begin = fm_base_clock_ns();
    for (int i = 0; i < FLUSHES && !failed; i++)
        if (pwrite(fd, bench->buffers, SMALL, (off_t)i * SMALL) != SMALL || fdatasync(fd) != 0)
            failed = errno ? errno : EIO;
    *out_per_s = FLUSHES / ((double)(fm_base_clock_ns() - begin) * 1e-9);
    if (fd >= 0)
        close(fd);
    return failed ? fm_base_file_error(failed, "%s", bench->raw) : FM_OK;
}

static fm_status look_at_all(const struct bench *bench, const char *dir, double *out_stats,
                             double *out_entries)
{
    char path[FM_FS_PATH_MAX + 1];
    char name[32];
    fm_fs_info info;
    fm_fs_list *list;
    const fm_fs_entry *entry;
    int count = (int)bench->options->files;
    uint64_t begin = fm_base_clock_ns();
    for (int i = 0; i < count; i++) {
        snprintf(name, sizeof name, "%d", i);
        FM_TRY(fm_cmd_spot_join(dir, name, path));
        FM_TRY(fm_fs_stat(bench->fs, path, &info));
    }
    *out_stats = count / ((double)(fm_base_clock_ns() - begin) * 1e-9);
    begin = fm_base_clock_ns();
    uint64_t entries = 0;
    FM_TRY(fm_fs_list_open(bench->fs, dir, &list));
    fm_status status;
    while ((status = fm_fs_list_next(list, &entry)) == FM_OK && entry)
        entries++;
    fm_fs_list_close(list);
    *out_entries = (double)entries / ((double)(fm_base_clock_ns() - begin) * 1e-9);
    return status;
}

static fm_status run_names(struct bench *bench)
{
    char dir[FM_FS_PATH_MAX + 1];
    double seconds;
    double stats;
    double entries;
    double flushes = 0;
    int files = (int)bench->options->files / CLIENTS * CLIENTS;
    FM_TRY(fm_cmd_spot_join(bench->dir, "names", dir));
    FM_TRY(fm_fs_mkdir(bench->fs, dir, 0));
    FM_TRY(time_flushes(bench, &flushes));
    FM_TRY(create(bench, 1, 0, &seconds));
    show(bench, "create, 1 client", (double)bench->options->files / seconds, flushes, "files");
    FM_TRY(create(bench, CLIENTS, (int)bench->options->files, &seconds));
    show(bench, "create, 32 clients", files / seconds, flushes, "files");
    FM_TRY(look_at_all(bench, dir, &stats, &entries));
    show(bench, "stat", stats, 0, "files");
    show(bench, "list", entries, 0, "files");
    return FM_OK;
}

/* Where */

static fm_status run_in(struct bench *bench, fm_cmd_spot *spot)
{
    char name[40];
    size_t bytes = (size_t)LARGE * LARGE_DEPTH;
    fm_rng rng = fm_base_rng_begin((uint64_t)bench->options->seed, 1);
    snprintf(name, sizeof name, "fathom-bench-%d", (int)getpid());
    bench->fs = spot->fs;
    bench->buffers = fm_base_mem_aligned(bytes, SMALL);
    if (!bench->buffers)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu bytes", bytes);
    for (size_t i = 0; i < bytes; i += 8)
        fm_put_le64(bench->buffers + i, fm_base_rng_u64(&rng));
    snprintf(bench->raw, sizeof bench->raw, "%s/%s.raw", bench->options->disk, name);
    fm_status status = fm_cmd_spot_join(spot->path, name, bench->dir);
    if (status == FM_OK)
        status = fm_fs_mkdir(bench->fs, bench->dir, 0);
    if (status == FM_OK) {
        status = make_raw(bench);
        if (status == FM_OK && !bench->json)
            printf("%-28s %14s %14s %8s\n", "", "here", bench->direct ? "disk" : "disk (cached)", "fraction");
        if (status == FM_OK)
            status = run_cells(bench);
        if (status == FM_OK)
            status = run_names(bench);
        unlink(bench->raw);
        fm_status removed = fm_fs_remove_all(bench->fs, bench->dir);
        status = status < 0 ? status : removed;
    }
    fm_base_mem_free(bench->buffers);
    return status;
}

static void *run_cluster(void *context)
{
    if (fm_fs_cluster_run(context) < 0)
        fprintf(stderr, "fathom: %s\n", fm_error_message());
    return NULL;
}

// A cluster of its own in this process, on the disk that is measured.
static fm_status run_own(struct bench *bench)
{
    char dir[4096];
    char place[4200];
    fm_fs_cluster *cluster;
    fm_cmd_spot spot;
    pthread_t thread;
    const fm_fs_cluster_options options = {.size = sizeof options,
                                           .targets = (uint32_t)bench->options->targets,
                                           .replicas = (uint32_t)bench->options->replicas};
    if (snprintf(dir, sizeof dir, "%s/fathom-bench-cluster-%d", bench->options->disk, (int)getpid()) >=
        (int)sizeof dir)
        return fm_base_error_set(FM_ERR_LIMIT, "%s: its path is too long", bench->options->disk);
    fm_status status = fm_fs_cluster_init(dir, &options);
    if (status == FM_OK && (status = fm_fs_cluster_up(dir, &cluster)) == FM_OK) {
        if (pthread_create(&thread, NULL, run_cluster, cluster) != 0) {
            status = fm_base_error_set(FM_ERR_LIMIT, "no thread for the cluster");
        } else {
            snprintf(place, sizeof place, "%s:/", dir);
            status = fm_cmd_spot_open(&spot, place);
            if (status == FM_OK) {
                status = run_in(bench, &spot);
                fm_fs_close(spot.fs);
            }
            fm_fs_cluster_stop(cluster);
            pthread_join(thread, NULL);
        }
        fm_fs_cluster_down(cluster);
    }
    fm_status removed = fm_base_dir_remove(dir);
    return status < 0 ? status : removed;
}

static fm_status run_bench(const fm_invocation *invocation, const void *given, int *out_exit)
{
    struct bench bench = {.options = given};
    fm_json json = {0};
    fm_cmd_spot spot;
    fm_status status;
    (void)out_exit;
    if (access(bench.options->disk, W_OK) != 0)
        return fm_base_file_error(errno, "%s", bench.options->disk);
    if (invocation->json)
        bench.json = &json;
    expect_signals();
    fm_base_json_begin(&json, NULL, '[');
    if (invocation->operand_count == 0) {
        status = run_own(&bench);
    } else {
        status = fm_cmd_spot_open(&spot, invocation->operands[0]);
        if (status == FM_OK) {
            status = run_in(&bench, &spot);
            fm_fs_close(spot.fs);
        }
    }
    fm_base_json_end(&json);
    fm_status shown = fm_base_json_finish(&json, status == FM_OK && invocation->json ? stdout : NULL);
    return status < 0 ? status : shown;
}

static const fm_option bench_schema[] = {
    {"disk", FM_OPTION_STRING, FIELD(disk), .value = "/tmp", .metavar = "DIR",
     .help = "where a file is read and written raw, for comparison, and where a cluster of its own is made"},
    {"bytes", FM_OPTION_SIZE, FIELD(bytes), .value = "256M", .min = 1 << 20, .max = 0x1p40,
     .help = "of the file that is written and read"},
    {"files", FM_OPTION_INT, FIELD(files), .value = "512", .min = CLIENTS, .max = 1000000,
     .help = "that are created, twice"},
    {"targets", FM_OPTION_INT, FIELD(targets), .value = "3", .min = 1, .max = FM_FS_CLUSTER_TARGETS_MAX,
     .help = "of a cluster of its own"},
    {"replicas", FM_OPTION_INT, FIELD(replicas), .value = "1", .min = 1, .max = FM_FS_CLUSTER_REPLICAS_MAX,
     .help = "of a cluster of its own"},
    {"seed", FM_OPTION_INT, FIELD(seed), .value = "1", .min = 0, .max = 0x1p62, .help = "of data and places"},
    {0},
};

const fm_command fm_cmd_fs_bench = {
    .name = "bench",
    .summary = "what a cluster or a directory does, beside what its disk does",
    .operands = "[CLUSTER:/DIR]",
    .details =
        "Without an operand a cluster is made in this process and removed again. Each row is measured beside "
        "the\n"
        "raw disk, with as many pieces under way, past the page cache where the disk allows; creates beside\n"
        "flushes. What is written is durable when it counts, on all replicas.\n"
        "  fathom fs bench --disk /mnt/nvme --replicas 3\n"
        "  fathom fs bench /data/cluster:/scratch --disk /data",
    .options = bench_schema,
    .options_size = sizeof(struct bench_options),
    .operands_min = 0,
    .operands_max = 1,
    .has_json = 1,
    .run = run_bench,
};
