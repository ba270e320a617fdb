// The chunk store of one target: random reads, verified by their checksums, against io_uring on the same file.
#include "bench_fs.h"

#include <stdio.h>
#include <string.h>

#include "chunk_store.h"
#include "disk_file.h"
#include "fathom/rng.h"

enum { CHUNK = 1 << 20, CHUNKS = 128, READS_MAX = 256, DEPTH_MAX = 32, TURN_NS = 1000000000 };

struct shape {
    unsigned size, count, depth;
};

struct store_bench {
    struct shape shape;
    char folder[FM_BENCH_FS_PATH];
    fm_net_loop *loop;
    fm_fs_disk *disk;
    fm_fs_pool *pool;
    fm_fs_store *store;
    int opened;
    fm_status status; // the first failure
    fm_bench_fs_raw *raw;
    void *buffers;
    uint64_t round; // each reads elsewhere
    uint64_t offsets[READS_MAX];
    unsigned next, left;
    struct reader {
        fm_fs_chunk_read read;
        struct store_bench *bench;
    } readers[DEPTH_MAX];
    fm_fs_apply apply;
};

static void note(struct store_bench *bench, fm_status status)
{
    if (bench->status == FM_OK)
        bench->status = status;
}

static fm_fs_chunk_id id_of(uint64_t chunk)
{
    fm_fs_chunk_id id = {{0}};
    fm_put_le64(id.bytes, chunk);
    return id;
}

static void read_done(fm_fs_chunk_read *read);

static void begin_read(struct reader *reader)
{
    struct store_bench *bench = reader->bench;
    if (bench->next == bench->shape.count)
        return;
    uint64_t offset = bench->offsets[bench->next++];
    const fm_fs_chunk_id id = id_of(offset / CHUNK);
    reader->read = (fm_fs_chunk_read){.copy = fm_fs_store_find(bench->store, &id)->committed,
                                      .offset = (uint32_t)(offset % CHUNK),
                                      .size = bench->shape.size,
                                      .done = read_done,
                                      .context = reader};
    fm_fs_store_read(bench->store, &reader->read);
}

static void read_done(fm_fs_chunk_read *read)
{
    struct reader *reader = read->context;
    note(reader->bench, read->status);
    if (read->status == FM_OK)
        fm_fs_buffer_drop(read->bytes);
    reader->bench->left--;
    begin_read(reader);
}

static void draw_offsets(struct store_bench *bench)
{
    uint64_t places = (uint64_t)CHUNKS * CHUNK / bench->shape.size;
    for (unsigned i = 0; i < bench->shape.count; i++)
        bench->offsets[i] = fm_base_rng_at(2, bench->round, i) % places * bench->shape.size;
    bench->round++;
}

static fm_status run_store(void *state, int threads)
{
    struct store_bench *bench = state;
    (void)threads;
    draw_offsets(bench);
    bench->next = 0;
    bench->left = bench->shape.count;
    for (unsigned i = 0; i < bench->shape.depth; i++)
        begin_read(&bench->readers[i]);
    while (bench->left > 0)
        FM_TRY(fm_net_loop_progress(bench->loop, TURN_NS));
    return bench->status;
}

static fm_status run_raw(void *state, int threads)
{
    struct store_bench *bench = state;
    (void)threads;
    if (!bench->raw)
        return FM_ERR_UNAVAILABLE;
    draw_offsets(bench);
    return fm_bench_fs_raw_run(bench->raw, FM_BENCH_FS_READ, bench->offsets, bench->shape.count,
                               bench->shape.size, bench->buffers);
}

static void teardown(void *state)
{
    struct store_bench *bench = state;
    if (!bench)
        return;
    fm_bench_fs_raw_close(bench->raw);
    fm_fs_disk_close(bench->disk);
    fm_fs_store_free(bench->store);
    fm_fs_pool_free(bench->pool);
    fm_net_loop_free(bench->loop);
    fm_bench_fs_folder_remove(bench->folder);
    fm_base_mem_free(bench->buffers);
    fm_base_mem_free(bench);
}

static void on_opened(void *context, fm_status status)
{
    struct store_bench *bench = context;
    bench->opened = 1;
    note(bench, status);
}

static void on_applied(fm_fs_apply *apply)
{
    struct store_bench *bench = apply->context;
    bench->left = 0;
    note(bench, apply->status);
}

static fm_status fill(struct store_bench *bench)
{
    fm_fs_buffer *data = fm_fs_buffer_new(CHUNK);
    if (!data)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a chunk");
    for (uint64_t chunk = 0; chunk < CHUNKS && bench->status == FM_OK; chunk++) {
        fm_bench_fill(chunk, data->data, CHUNK);
        bench->apply = (fm_fs_apply){.kind = FM_FS_APPLY_REPLACE,
                                     .id = id_of(chunk),
                                     .version = 1,
                                     .chain_version = 1,
                                     .size = CHUNK,
                                     .data = data,
                                     .done = on_applied,
                                     .context = bench};
        bench->left = 1;
        fm_fs_store_apply(bench->store, &bench->apply);
        while (bench->left > 0)
            if (fm_net_loop_progress(bench->loop, TURN_NS) < 0)
                note(bench, FM_ERR_IO);
    }
    fm_fs_buffer_drop(data);
    return bench->status;
}

static fm_status open_store(struct store_bench *bench)
{
    char path[FM_BENCH_FS_PATH + 32];
    const fm_net_loop_options loop = {.size = sizeof loop};
    bench->pool = fm_fs_pool_new();
    const fm_fs_store_options options = {
        .identity = {1}, .format = 1, .pool = bench->pool, .opened = on_opened, .context = bench};
    FM_TRY(fm_bench_fs_folder(bench->folder));
    FM_TRY(fm_net_loop_new(&loop, &bench->loop));
    snprintf(path, sizeof path, "%s/target", bench->folder);
    FM_TRY(fm_fs_disk_open(bench->loop, path, (uint64_t)1 << 30, 0, &bench->disk));
    FM_TRY(fm_fs_store_new(bench->disk, &options, &bench->store));
    while (!bench->opened)
        FM_TRY(fm_net_loop_progress(bench->loop, TURN_NS));
    FM_TRY(bench->status);
    FM_TRY(fill(bench));
    snprintf(path, sizeof path, "%s/target/blocks-1024k", bench->folder);
    fm_status status = fm_bench_fs_raw_open(path, bench->shape.depth, &bench->raw);
    return status == FM_ERR_UNAVAILABLE ? FM_OK : status; // its peer says so
}

static fm_status setup(const fm_bench_setup *given, void **out_state)
{
    struct store_bench *bench = fm_base_mem_zalloc(1, sizeof *bench);
    if (!bench)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the case");
    bench->shape = *(const struct shape *)given->argument;
    for (unsigned i = 0; i < bench->shape.depth; i++)
        bench->readers[i].bench = bench;
    bench->buffers = fm_bench_alloc((size_t)bench->shape.depth * bench->shape.size);
    fm_status status =
        bench->buffers ? open_store(bench) : fm_base_error_set(FM_ERR_NOMEM, "no memory for reads");
    if (status < 0) {
        teardown(bench);
        return status;
    }
    *out_state = bench;
    return FM_OK;
}

static fm_status add(fm_bench *bench, const char *name, const struct shape *shape, double ratio)
{
    return fm_bench_add(bench, &(fm_bench_case){
                                   .name = name,
                                   .argument = shape,
                                   .bytes = (double)shape->size * shape->count,
                                   .clock = FM_BENCH_WALL,
                                   .threads = 1,
                                   .setup = setup,
                                   .run = run_store,
                                   .teardown = teardown,
                                   .peers = {{.name = "io_uring", .run = run_raw}},
                                   .goals = {{FM_BENCH_RATIO, .peer = "io_uring", .must = ratio}},
                               });
}

fm_status fm_bench_fs_store_cases(fm_bench *bench)
{
    static const struct shape small = {4096, 256, 32};
    static const struct shape large = {1 << 20, 32, 8};
    FM_TRY(add(bench, "store.read.4KiB", &small, 0.85));
    return add(bench, "store.read.1MiB", &large, 0.90);
}
