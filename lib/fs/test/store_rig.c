#include "store_rig.h"

#include "fm_test.h"

static void submitted(void *context, fm_fs_disk_io *io)
{
    store_rig *rig = context;
    assert_true(rig->queued < RIG_QUEUE_MAX);
    rig->marks[rig->queued] = sim_disk_mark(&rig->disk);
    rig->queue[rig->queued++] = io;
}

static void opened(void *context, fm_status status)
{
    store_rig *rig = context;
    rig->opened = 1;
    rig->status = status;
}

void rig_init(store_rig *rig)
{
    memset(rig, 0, sizeof *rig);
    sim_disk_init(&rig->disk, 64 << 20);
    rig->options.format = 1;
    memcpy(rig->options.identity, "0123456789abcdef", 16);
}

void rig_free(store_rig *rig)
{
    fm_fs_store_free(rig->store);
    sim_disk_free(&rig->disk);
}

int rig_turn(store_rig *rig)
{
    if (!rig->queued)
        return 0;
    fm_fs_disk_io *io = rig->queue[0];
    uint64_t mark = rig->marks[0];
    rig->queued--;
    for (size_t i = 0; i < rig->queued; i++) {
        rig->queue[i] = rig->queue[i + 1];
        rig->marks[i] = rig->marks[i + 1];
    }
    int fails = rig->failure < 0 && io->kind == rig->failing && io->file >= 4;
    sim_disk_complete(&rig->disk, io, mark, fails ? rig->failure : FM_OK);
    rig->operations++;
    return 1;
}

void rig_begin_open(store_rig *rig)
{
    rig->options.opened = opened;
    rig->options.context = rig;
    rig->disk.submitted = submitted;
    rig->disk.context = rig;
    rig->opened = 0;
    fm_status status = fm_fs_store_new(&rig->disk.base, &rig->options, &rig->store);
    if (status < 0)
        opened(rig, status);
}

fm_status rig_open(store_rig *rig)
{
    rig_begin_open(rig);
    while (!rig->opened)
        assert_true(rig_turn(rig));
    return rig->status;
}

void rig_crash(store_rig *rig, enum sim_loss loss, fm_gen *gen)
{
    for (size_t i = 0; i < rig->queued && loss == SIM_LOSE_SOME; i++)
        if (rig->queue[i]->kind == FM_FS_DISK_WRITE)
            sim_disk_tear(&rig->disk, rig->queue[i], gen);
    rig->queued = 0;
    fm_fs_store_free(rig->store);
    rig->store = NULL;
    sim_disk_power_cut(&rig->disk, loss, gen);
}

static void flushed(fm_fs_flush *flush)
{
    *(int *)flush->context = 1;
}

void rig_settle(store_rig *rig)
{
    int done = 0;
    fm_fs_flush flush = {.done = flushed, .context = &done};
    fm_fs_store_flush(rig->store, &flush);
    while (rig_turn(rig))
        ;
    assert_true(done);
}

fm_fs_chunk_id rig_id(int chunk)
{
    fm_fs_chunk_id id = {{0}};
    id.bytes[15] = (uint8_t)chunk;
    return id;
}

const fm_fs_chunk *rig_chunk(const store_rig *rig, int chunk)
{
    const fm_fs_chunk_id id = rig_id(chunk);
    return fm_fs_store_find(rig->store, &id);
}

void rig_fill(uint8_t *bytes, uint32_t size, unsigned factor)
{
    for (uint32_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(i * factor + 1);
}

static void applied(fm_fs_apply *apply)
{
    *(int *)apply->context = 1;
}

fm_status rig_change(store_rig *rig, enum fm_fs_apply_kind kind, int chunk, uint64_t version, uint32_t offset,
                     uint32_t size, unsigned factor)
{
    int done = 0;
    fm_fs_buffer *data = fm_fs_buffer_new(size);
    if (!data)
        return FM_ERR_NOMEM;
    rig_fill(data->data, size, factor);
    fm_fs_apply apply = {.kind = kind,
                         .id = rig_id(chunk),
                         .version = version,
                         .chain_version = 1,
                         .offset = offset,
                         .data = data,
                         .tag = {9, (uint32_t)chunk, version},
                         .done = applied,
                         .context = &done};
    fm_fs_store_apply(rig->store, &apply);
    while (!done)
        assert_true(rig_turn(rig));
    fm_fs_buffer_drop(data);
    return apply.status;
}

void rig_commit(store_rig *rig, int chunk, uint64_t version)
{
    const fm_fs_chunk_id id = rig_id(chunk);
    assert_ok(fm_fs_store_commit(rig->store, &id, version, 1));
}

static void was_read(fm_fs_chunk_read *read)
{
    *(int *)read->context = 1;
}

fm_status rig_compare(store_rig *rig, fm_fs_chunk_copy *copy, const uint8_t *bytes, uint32_t size)
{
    int done = 0;
    fm_fs_chunk_read read = {.copy = copy, .size = size, .done = was_read, .context = &done};
    assert_int_equal(copy->size, size);
    fm_fs_store_read(rig->store, &read);
    while (!done)
        assert_true(rig_turn(rig));
    if (read.status == FM_OK)
        assert_memory_equal(read.bytes->data, bytes, size);
    fm_fs_buffer_drop(read.bytes);
    return read.status;
}
