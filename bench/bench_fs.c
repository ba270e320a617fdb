// The key-value store: what committing many closures at once gains. And what the parts of this program share.
#include "bench_fs.h"

#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fathom/clock.h"
#include "fathom/fs_kv.h"
#include "fathom/mem.h"
#include "fathom/rng.h"

enum {
    WRITERS = 32,
    CREATES = 8, // of each writer in a run
    DIRS = 64,
    FLUSHES = 32, // timed, each after a page was written
    PAGE = 4096,
    INODE_BYTES = 200,
    DENT_BYTES = 64
};

struct bench_kv {
    char folder[FM_BENCH_FS_PATH];
    fm_fs_kv *kv;
    pthread_mutex_t alone; // makes each create a commit of its own
    int grouped;
    uint64_t created; // files so far; those of a run are numbered from here
    fm_status status[WRITERS];
    double flush_s;
};

struct create {
    uint64_t dir;
    uint64_t number;
};

// The transaction of creating a file: the directory is there and the name is not; an inode and a name come.
static fm_status create(fm_fs_kv_tx *tx, void *context)
{
    const struct create *file = context;
    uint8_t dir[9] = "i";
    uint8_t inode[9] = "i";
    uint8_t dent[17] = "d";
    uint8_t value[INODE_BYTES] = {1};
    fm_put_le64(dir + 1, file->dir);
    fm_put_le64(inode + 1, fm_base_rng_at(1, 1, file->number) | (uint64_t)1 << 63);
    fm_put_le64(dent + 1, file->dir);
    fm_put_le64(dent + 9, fm_base_rng_at(1, 2, file->number));
    fm_fs_kv_item items[2] = {{.key = {dir, sizeof dir}}, {.key = {dent, sizeof dent}}};
    FM_TRY(fm_fs_kv_get(tx, items, 2, FM_FS_KV_LOCK_NONE));
    if (!items[0].found || items[1].found)
        return fm_base_error_set(FM_ERR_INTERNAL, "file %llu: directory %s, name %s",
                                 (unsigned long long)file->number, items[0].found ? "there" : "missing",
                                 items[1].found ? "taken" : "free");
    FM_TRY(fm_fs_kv_put(tx, (fm_fs_kv_bytes){inode, sizeof inode}, (fm_fs_kv_bytes){value, INODE_BYTES}));
    return fm_fs_kv_put(tx, items[1].key, (fm_fs_kv_bytes){value, DENT_BYTES});
}

static fm_status make_dirs(fm_fs_kv_tx *tx, void *context)
{
    (void)context;
    for (uint64_t i = 0; i < DIRS; i++) {
        uint8_t dir[9] = "i";
        fm_put_le64(dir + 1, i);
        FM_TRY(fm_fs_kv_put(tx, (fm_fs_kv_bytes){dir, sizeof dir}, (fm_fs_kv_bytes){dir, sizeof dir}));
    }
    return FM_OK;
}

struct writer {
    struct bench_kv *bench;
    int index;
};

static void *write_files(void *argument)
{
    const struct writer *writer = argument;
    struct bench_kv *bench = writer->bench;
    fm_status status = FM_OK;
    for (int i = 0; i < CREATES && status == FM_OK; i++) {
        uint64_t number = bench->created + (uint64_t)(writer->index * CREATES + i);
        struct create file = {fm_base_rng_at(1, 3, number) % DIRS, number};
        if (!bench->grouped)
            pthread_mutex_lock(&bench->alone);
        status = fm_fs_kv_run(bench->kv, 0, create, &file);
        if (!bench->grouped)
            pthread_mutex_unlock(&bench->alone);
    }
    bench->status[writer->index] = status;
    return NULL;
}

static fm_status run_writers(struct bench_kv *bench, int grouped)
{
    pthread_t threads[WRITERS];
    struct writer writers[WRITERS];
    fm_status status = FM_OK;
    int started = 0;
    bench->grouped = grouped;
    for (; started < WRITERS; started++) {
        writers[started] = (struct writer){bench, started};
        if (pthread_create(&threads[started], NULL, write_files, &writers[started]) != 0)
            break;
    }
    for (int i = 0; i < started; i++) {
        pthread_join(threads[i], NULL);
        status = status ? status : bench->status[i];
    }
    bench->created += (uint64_t)WRITERS * CREATES;
    return started == WRITERS ? status : fm_base_error_set(FM_ERR_LIMIT, "no thread for writer %d", started);
}

static fm_status run_grouped(void *state, int threads)
{
    (void)threads;
    return run_writers(state, 1);
}

static fm_status run_single(void *state, int threads)
{
    (void)threads;
    return run_writers(state, 0);
}

// One writer alone: the cost of the transaction itself, where nothing is flushed.
static fm_status run_one(void *state, int threads)
{
    struct bench_kv *bench = state;
    struct writer writer = {bench, 0};
    (void)threads;
    bench->grouped = 1;
    write_files(&writer);
    bench->created += CREATES;
    return bench->status[0];
}

// What a flush of the disk below the store costs: the median of some, each after a page was written.
static int by_value(const void *a, const void *b)
{
    const double *x = a;
    const double *y = b;
    return (*x > *y) - (*x < *y);
}

static double time_flush(const char *folder)
{
    char path[600];
    uint8_t page[PAGE];
    double times[FLUSHES] = {0};
    snprintf(path, sizeof path, "%s/flush", folder);
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    fm_bench_fill(1, page, sizeof page);
    for (int i = 0; fd >= 0 && i < FLUSHES; i++) {
        uint64_t begin = fm_base_clock_ns();
        if (pwrite(fd, page, sizeof page, (off_t)i * PAGE) != PAGE || fdatasync(fd) != 0)
            break;
        times[i] = (double)(fm_base_clock_ns() - begin) * 1e-9;
    }
    if (fd >= 0)
        close(fd);
    qsort(times, FLUSHES, sizeof times[0], by_value);
    return times[FLUSHES / 2];
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *where)
{
    (void)info;
    (void)type;
    (void)where;
    return remove(path);
}

fm_status fm_bench_fs_folder(char *out_folder)
{
    const char *base = getenv("TMPDIR");
    snprintf(out_folder, FM_BENCH_FS_PATH, "%s/fathom-bench-XXXXXX", base ? base : "/tmp");
    if (mkdtemp(out_folder))
        return FM_OK;
    out_folder[0] = 0;
    return fm_base_error_set(FM_ERR_IO, "cannot make a folder in %s", base ? base : "/tmp");
}

void fm_bench_fs_folder_remove(const char *folder)
{
    if (*folder)
        nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static void teardown(void *state)
{
    struct bench_kv *bench = state;
    if (!bench)
        return;
    fm_fs_kv_close(bench->kv);
    fm_bench_fs_folder_remove(bench->folder);
    pthread_mutex_destroy(&bench->alone);
    fm_base_mem_free(bench);
}

static fm_status setup(const fm_bench_setup *given, void **out_state)
{
    const char *engine = given->argument;
    struct bench_kv *bench = fm_base_mem_zalloc(1, sizeof *bench);
    char spec[600];
    if (!bench)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the case");
    pthread_mutex_init(&bench->alone, NULL);
    fm_status status = fm_bench_fs_folder(bench->folder);
    snprintf(spec, sizeof spec, "%s:%s%s", engine, strcmp(engine, "lmdb") == 0 ? bench->folder : "",
             strcmp(engine, "lmdb") == 0 ? "/store" : "");
    if (status == FM_OK)
        status = fm_fs_kv_open(spec, NULL, &bench->kv);
    if (status == FM_OK)
        status = fm_fs_kv_run(bench->kv, 0, make_dirs, NULL);
    bench->flush_s = time_flush(bench->folder);
    if (status < 0) {
        teardown(bench);
        return status == FM_ERR_UNSUPPORTED ? FM_ERR_UNAVAILABLE : status;
    }
    *out_state = bench;
    return FM_OK;
}

fm_status fm_bench_fs_nothing_before(void *state)
{
    (void)state;
    return FM_OK;
}

static void metrics(void *state, fm_bench_metrics *to)
{
    const struct bench_kv *bench = state;
    fm_bench_metric_add(to, "flush_before", bench->flush_s, "s");
    fm_bench_metric_add(to, "flush_after", time_flush(bench->folder), "s");
}

static fm_status cases(fm_bench *bench)
{
    FM_TRY(fm_bench_add(
        bench, &(fm_bench_case){
                   .name = "kv.memory.create",
                   .argument = "memory",
                   .items = CREATES,
                   .mode = FM_BENCH_IN_SMOKE,
                   .threads = 1,
                   .setup = setup,
                   .before = fm_bench_fs_nothing_before, // each run makes files anew, so runs stay few
                   .run = run_one,
                   .teardown = teardown,
               }));
    FM_TRY(fm_bench_fs_store_cases(bench));
    FM_TRY(fm_bench_fs_cluster_cases(bench));
    FM_TRY(fm_bench_fs_usrbio_cases(bench));
    FM_TRY(fm_bench_fs_queue_cases(bench));
    FM_TRY(fm_bench_fs_mount_cases(bench));
    FM_TRY(fm_bench_fs_names_cases(bench));
    FM_TRY(fm_bench_fs_kvcache_cases(bench));
    return fm_bench_add(bench, &(fm_bench_case){
                                   .name = "kv.lmdb.create.32",
                                   .argument = "lmdb",
                                   .items = (double)WRITERS * CREATES,
                                   .clock = FM_BENCH_WALL,
                                   .threads = 1, // as the harness counts; the writers are the case's own
                                   .setup = setup,
                                   .before = fm_bench_fs_nothing_before,
                                   .run = run_grouped,
                                   .metrics = metrics,
                                   .teardown = teardown,
                                   .peers = {{.name = "single_commit", .run = run_single}},
                                   .goals = {{FM_BENCH_RATIO, .peer = "single_commit", .must = 4}},
                               });
}

int main(int argc, char **argv)
{
    static const fm_bench_program program = {"fs", "Measures lib/fs: chunks, replicated writes, transactions",
                                             cases};
    return fm_bench_main(&program, argc, argv);
}
