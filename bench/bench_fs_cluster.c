/*
 * Writes that are durable on all replicas of a chain, by a client in another process, against io_uring on the same disk, which
 * writes as many times as there are replicas.
 *
 * Whole chunks are bound by the disk's bandwidth. Pages of 4 KiB at random are bound by flushes: a replica makes a change durable
 * before the next one hears of it, so that one at a time costs three flushes in a row, as the peer has them, of 8 KiB of journal each;
 * and the same 4 KiB once more, later and many at a time, where they belong. Many at once share flushes.
 */
#include "bench_fs.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fathom/clock.h"
#include "fathom/fs_cluster.h"
#include "fathom/mem.h"
#include "fathom/rng.h"

// More writes than are under way at once, so that most of a run is a steady stream.
enum {
    REPLICAS = 3,
    CHUNK = 1 << 20,
    WRITES = 128,
    DEPTH = 32,
    PAGE = 4096,
    PAGES = 512, // written by a run
    TIMEOUT_MS = 60000
};

struct cluster_bench {
    char folder[FM_BENCH_FS_PATH];
    pid_t cluster;
    fm_fs_chunks *chunks;
    fm_bench_fs_raw *raw;
    unsigned depth; // pages at once; 0: whole chunks are written
    uint64_t round; // each writes elsewhere
    void *data;     // DEPTH chunks
    fm_fs_chunk_op ops[PAGES];
    uint64_t offsets[PAGES * REPLICAS];
};

static fm_status run_cluster(void *state, int threads)
{
    struct cluster_bench *bench = state;
    (void)threads;
    return fm_fs_chunks_batch(bench->chunks, bench->ops, WRITES, TIMEOUT_MS);
}

// As many bytes on the disk as the replicas write together.
static fm_status run_raw(void *state, int threads)
{
    struct cluster_bench *bench = state;
    (void)threads;
    if (!bench->raw)
        return FM_ERR_UNAVAILABLE;
    return fm_bench_fs_raw_run(bench->raw, FM_BENCH_FS_WRITE, bench->offsets, WRITES * REPLICAS, CHUNK,
                               bench->data);
}

static uint64_t draw_page(struct cluster_bench *bench, unsigned i, unsigned files)
{
    return fm_base_rng_at(3, bench->round, i) % ((uint64_t)files * WRITES * CHUNK / PAGE) * PAGE;
}

static fm_status run_pages(void *state, int threads)
{
    struct cluster_bench *bench = state;
    (void)threads;
    bench->round++;
    for (unsigned i = 0; i < PAGES; i++) {
        uint64_t offset = draw_page(bench, i, 1);
        bench->ops[i] = (fm_fs_chunk_op){.kind = FM_FS_CHUNK_WRITE,
                                         .chain = 1,
                                         .id = {[15] = (uint8_t)(offset / CHUNK)},
                                         .offset = (uint32_t)(offset % CHUNK),
                                         .size = PAGE,
                                         .bytes = (const uint8_t *)bench->data + (size_t)i * PAGE};
    }
    unsigned step = bench->depth == 1 ? 1 : PAGES; // a client has DEPTH of one batch under way
    for (unsigned i = 0; i < PAGES; i += step)
        FM_TRY(fm_fs_chunks_batch(bench->chunks, bench->ops + i, step, TIMEOUT_MS));
    return FM_OK;
}

static fm_status run_raw_pages(void *state, int threads)
{
    struct cluster_bench *bench = state;
    (void)threads;
    if (!bench->raw)
        return FM_ERR_UNAVAILABLE;
    bench->round++;
    for (unsigned i = 0; i < PAGES * REPLICAS; i++)
        bench->offsets[i] = draw_page(bench, i, REPLICAS);
    return fm_bench_fs_raw_run(bench->raw, FM_BENCH_FS_WRITE_DURABLE, bench->offsets, PAGES * REPLICAS, PAGE,
                               bench->data);
}

static void teardown(void *state)
{
    struct cluster_bench *bench = state;
    if (!bench)
        return;
    fm_bench_fs_raw_close(bench->raw);
    fm_fs_chunks_close(bench->chunks);
    fm_bench_fs_cluster_end(bench->cluster);
    fm_bench_fs_folder_remove(bench->folder);
    fm_base_mem_free(bench->data);
    fm_base_mem_free(bench);
}

static int is_whole(const fm_fs_cluster_state *state)
{
    for (uint32_t m = 0; state->chain_count && m < state->chains[0].count; m++)
        if (strcmp(state->chains[0].members[m].state, "serving") != 0)
            return 0;
    return state->chain_count && state->version > 5; // it has come together once
}

// What is overwritten is there, on both sides.
static fm_status fill(struct cluster_bench *bench)
{
    FM_TRY(run_cluster(bench, 1));
    return bench->raw ? run_raw(bench, 1) : FM_OK;
}

static fm_status open_cluster(struct cluster_bench *bench)
{
    char dir[FM_BENCH_FS_PATH + 16];
    const fm_fs_cluster_options options = {
        .size = sizeof options, .targets = REPLICAS, .replicas = REPLICAS, .target_bytes = (uint64_t)2 << 30};
    fm_fs_cluster_state now;
    FM_TRY(fm_bench_fs_folder(bench->folder));
    snprintf(dir, sizeof dir, "%s/raw", bench->folder);
    fm_status status = fm_bench_fs_raw_open(dir, bench->depth ? bench->depth : DEPTH, &bench->raw);
    if (status < 0 && status != FM_ERR_UNAVAILABLE)
        return status;
    snprintf(dir, sizeof dir, "%s/cluster", bench->folder);
    FM_TRY(fm_fs_cluster_init(dir, &options));
    bench->cluster = fm_bench_fs_cluster_start(dir);
    FM_TRY(fm_fs_chunks_open(dir, &bench->chunks));
    for (;;) {
        FM_TRY(fm_fs_chunks_state(bench->chunks, TIMEOUT_MS, &now));
        if (is_whole(&now))
            break;
        fm_base_clock_sleep_ns(10000000);
    }
    return FM_OK;
}

static fm_status setup(const fm_bench_setup *given, void **out_state)
{
    struct cluster_bench *bench = fm_base_mem_zalloc(1, sizeof *bench);
    if (!bench)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the case");
    bench->depth = given->argument ? *(const unsigned *)given->argument : 0;
    bench->data = fm_bench_alloc((size_t)DEPTH * CHUNK);
    fm_status status =
        bench->data ? open_cluster(bench) : fm_base_error_set(FM_ERR_NOMEM, "no memory for chunks");
    if (status < 0) {
        teardown(bench);
        return status == FM_ERR_UNSUPPORTED ? FM_ERR_UNAVAILABLE : status;
    }
    fm_bench_fill(given->seed, bench->data, (size_t)DEPTH * CHUNK);
    for (unsigned i = 0; i < WRITES * REPLICAS; i++)
        bench->offsets[i] = (uint64_t)i * CHUNK;
    for (unsigned i = 0; i < WRITES; i++)
        bench->ops[i] = (fm_fs_chunk_op){.kind = FM_FS_CHUNK_WRITE,
                                         .chain = 1,
                                         .id = {[15] = (uint8_t)i},
                                         .size = CHUNK,
                                         .bytes = (const uint8_t *)bench->data + (size_t)i % DEPTH * CHUNK};
    if (bench->depth) {
        status = fill(bench);
        if (status < 0) {
            teardown(bench);
            return status;
        }
    }
    *out_state = bench;
    return FM_OK;
}

static fm_status add_pages(fm_bench *bench, const char *name, const unsigned *depth, double ratio)
{
    return fm_bench_add(bench, &(fm_bench_case){
                                   .name = name,
                                   .argument = depth,
                                   .bytes = (double)PAGES * PAGE,
                                   .clock = FM_BENCH_WALL,
                                   .threads = 1,
                                   .setup = setup,
                                   .before = fm_bench_fs_nothing_before,
                                   .run = run_pages,
                                   .teardown = teardown,
                                   .peers = {{.name = "io_uring", .run = run_raw_pages}},
                                   .goals = {{FM_BENCH_RATIO, .peer = "io_uring", .must = ratio}},
                               });
}

fm_status fm_bench_fs_cluster_cases(fm_bench *bench)
{
    static const unsigned one = 1;
    static const unsigned many = DEPTH;
    FM_TRY(add_pages(bench, "cluster.overwrite.3x4KiB.1", &one, 0.4));
    FM_TRY(add_pages(bench, "cluster.overwrite.3x4KiB.32", &many, 0.1));
    return fm_bench_add(bench, &(fm_bench_case){
                                   .name = "cluster.write.3x1MiB",
                                   .bytes = (double)WRITES * CHUNK,
                                   .clock = FM_BENCH_WALL,
                                   .threads = 1, // of the client
                                   .setup = setup,
                                   .before = fm_bench_fs_nothing_before, // a run is long enough
                                   .run = run_cluster,
                                   .teardown = teardown,
                                   .peers = {{.name = "io_uring", .run = run_raw}},
                                   .goals = {{FM_BENCH_RATIO, .peer = "io_uring", .must = 0.8}},
                               });
}
