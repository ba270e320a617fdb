// The client of a cluster that is up: each call runs the loop until its answer is there.
#include <stdio.h>
#include <sys/random.h>

#include "fathom/clock.h"
#include "fs_chunks_private.h"

fm_status fm_fs_chunks_client_id(uint64_t *out_id)
{
    uint32_t low;
    if (getrandom(&low, sizeof low, 0) != (ssize_t)sizeof low)
        return fm_base_error_set(FM_ERR_IO, "the system gives no random numbers");
    *out_id = fm_base_clock_unix_ns() / 1000000000 << 32 | low;
    return FM_OK;
}

static fm_status start(fm_fs_chunks *chunks, const char *dir)
{
    char path[FM_FS_CLUSTER_PATH_MAX];
    fm_net_key key;
    FM_TRY(fm_fs_cluster_path(dir, "key", path));
    FM_TRY(fm_net_key_read(path, &key));
    fm_net_tls *tls = NULL;
    fm_status status = fm_fs_cluster_tls_open(dir, NULL, &tls);
    if (status == FM_OK)
        status = fm_fs_host_new(&key, tls, NULL, &chunks->host);
    fm_net_tls_free(tls);
    fm_net_key_clear(&key);
    FM_TRY(status);
    FM_TRY(fm_fs_host_node(chunks->host, FM_FS_CLIENT_NODE, NULL, NULL, &chunks->runtime));
    FM_TRY(fm_fs_cluster_managers_read(dir, &chunks->managers));
    for (uint32_t i = 0; i < chunks->managers.count; i++)
        FM_TRY(fm_fs_host_know(chunks->host, chunks->managers.nodes[i], chunks->managers.addresses[i]));
    fm_fs_client_options options = {.managers = chunks->managers.nodes,
                                    .manager_count = chunks->managers.count,
                                    .call_timeout_ns = (int64_t)5 * 1000000000};
    FM_TRY(fm_fs_chunks_client_id(&options.id));
    return fm_fs_client_new(chunks->runtime, &options, &chunks->client);
}

fm_status fm_fs_chunks_open(const char *dir, fm_fs_chunks **out_chunks)
{
    fm_fs_chunks *chunks = fm_base_mem_zalloc(1, sizeof *chunks);
    if (!chunks)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a client");
    fm_status status = start(chunks, dir);
    if (status < 0) {
        fm_fs_chunks_close(chunks);
        return status;
    }
    *out_chunks = chunks;
    return FM_OK;
}

void fm_fs_chunks_close(fm_fs_chunks *chunks)
{
    if (!chunks)
        return;
    fm_fs_host_end(chunks->host);
    fm_fs_client_free(chunks->client);
    fm_fs_host_free(chunks->host);
    fm_fs_routing_clear(&chunks->routing);
    fm_base_mem_free(chunks->reports);
    fm_base_mem_free(chunks->chains);
    fm_base_mem_free(chunks->nodes);
    fm_base_mem_free(chunks->targets);
    fm_base_mem_free(chunks);
}

fm_status fm_fs_chunks_wait(fm_fs_chunks *chunks)
{
    while (!chunks->done)
        FM_TRY(fm_net_loop_progress(fm_fs_host_loop(chunks->host), (int64_t)1000000000));
    return FM_OK;
}

/* Operations */

enum { AT_ONCE = 128 }; // of one batch: more would wait for each other, and each holds what it reads

struct slot {
    fm_fs_client_io io;
    fm_fs_buffer data; // what is written lies with the caller
    fm_fs_chunk_op *op;
    struct batch *batch;
};

struct batch {
    fm_fs_chunks *chunks;
    fm_fs_chunk_op *ops;
    size_t count;
    size_t next; // to be begun
    size_t left; // to come to their end
    int64_t deadline_ns;
};

static void slot_done(fm_fs_client_io *io);

static fm_status check_op(const fm_fs_chunk_op *op)
{
    if (op->kind < FM_FS_CHUNK_READ || op->kind > FM_FS_CHUNK_REMOVE)
        return fm_base_error_set(FM_ERR_ARG, "kind %d; expected an fm_fs_chunk_kind", (int)op->kind);
    if ((uint64_t)op->offset + op->size > FM_FS_CHUNK_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "%u bytes at %u; a chunk has at most %d", op->size, op->offset,
                                 FM_FS_CHUNK_MAX);
    return FM_OK;
}

// Begins the next operation that can be. 0: there is none.
static int begin_next(struct slot *slot)
{
    static const enum fm_fs_client_kind kinds[] = {[FM_FS_CHUNK_READ] = FM_FS_CLIENT_READ,
                                                   [FM_FS_CHUNK_WRITE] = FM_FS_CLIENT_WRITE,
                                                   [FM_FS_CHUNK_TRUNCATE] = FM_FS_CLIENT_TRUNCATE,
                                                   [FM_FS_CHUNK_REMOVE] = FM_FS_CLIENT_REMOVE};
    struct batch *batch = slot->batch;
    while (batch->next < batch->count) {
        fm_fs_chunk_op *op = &batch->ops[batch->next++];
        op->status = check_op(op);
        if (op->status < 0) {
            batch->left--;
            continue;
        }
        slot->op = op;
        slot->io = (fm_fs_client_io){.kind = kinds[op->kind],
                                     .chain = op->chain,
                                     .offset = op->offset,
                                     .size = op->size,
                                     .timeout_ns = batch->deadline_ns - fm_fs_now(batch->chunks->runtime),
                                     .done = slot_done,
                                     .context = slot};
        memcpy(slot->io.id.bytes, op->id, FM_FS_CHUNK_ID_BYTES);
        if (op->kind == FM_FS_CHUNK_WRITE) {
            // Its references stay: a call that has just ended drops its own only after this. It is never written to.
            slot->data.size = slot->data.room = op->size;
            slot->data.summed = 0;
            memcpy(&slot->data.data, &op->bytes, sizeof slot->data.data);
            slot->io.data = &slot->data;
        }
        fm_fs_client_start(batch->chunks->client, &slot->io);
        return 1;
    }
    return 0;
}

static void slot_done(fm_fs_client_io *io)
{
    struct slot *slot = io->context;
    struct batch *batch = slot->batch;
    fm_fs_chunk_op *op = slot->op;
    op->status = io->status;
    if (io->status == FM_OK && io->kind == FM_FS_CLIENT_READ && io->absent) {
        op->status = fm_base_error_set(FM_ERR_NOT_FOUND, "chain %u has no such chunk", op->chain);
    } else if (io->status == FM_OK && io->kind == FM_FS_CLIENT_READ) {
        if (io->bytes->size)
            memcpy(op->into, io->bytes->data, io->bytes->size);
        op->done = (uint32_t)io->bytes->size;
        op->crc = io->crc;
        fm_fs_buffer_drop(io->bytes);
    }
    batch->left--;
    begin_next(slot);
    batch->chunks->done = batch->left == 0;
}

fm_status fm_fs_chunks_batch(fm_fs_chunks *chunks, fm_fs_chunk_op *ops, size_t count, int64_t timeout_ms)
{
    struct batch batch = {.chunks = chunks,
                          .ops = ops,
                          .count = count,
                          .left = count,
                          .deadline_ns = fm_fs_now(chunks->runtime) + timeout_ms * 1000000};
    size_t width = count < AT_ONCE ? count : AT_ONCE;
    struct slot *slots = fm_base_mem_zalloc(width + 1, sizeof *slots);
    if (!slots)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a batch of %zu", count);
    for (size_t i = 0; i < width; i++) {
        slots[i].batch = &batch;
        slots[i].data.refs = 1; // held here, so that no end of a call frees what is the caller's
        if (!begin_next(&slots[i]))
            break;
    }
    chunks->done = batch.left == 0;
    fm_status status = fm_fs_chunks_wait(chunks);
    fm_base_mem_free(slots);
    for (size_t i = 0; i < count && status == FM_OK; i++)
        status = ops[i].status;
    return status;
}

fm_status fm_fs_chunks_write(fm_fs_chunks *chunks, uint32_t chain, const uint8_t *id, uint32_t offset,
                             const void *bytes, uint32_t size, int64_t timeout_ms)
{
    fm_fs_chunk_op op = {
        .kind = FM_FS_CHUNK_WRITE, .chain = chain, .offset = offset, .size = size, .bytes = bytes};
    memcpy(op.id, id, sizeof op.id);
    return fm_fs_chunks_batch(chunks, &op, 1, timeout_ms);
}

fm_status fm_fs_chunks_read(fm_fs_chunks *chunks, uint32_t chain, const uint8_t *id, uint32_t offset,
                            void *bytes, uint32_t size, int64_t timeout_ms, uint32_t *out_read,
                            uint32_t *out_crc)
{
    fm_fs_chunk_op op = {
        .kind = FM_FS_CHUNK_READ, .chain = chain, .offset = offset, .size = size, .into = bytes};
    memcpy(op.id, id, sizeof op.id);
    FM_TRY(fm_fs_chunks_batch(chunks, &op, 1, timeout_ms));
    *out_read = op.done;
    if (out_crc)
        *out_crc = op.crc;
    return FM_OK;
}

fm_status fm_fs_chunks_truncate(fm_fs_chunks *chunks, uint32_t chain, const uint8_t *id, uint32_t size,
                                int64_t timeout_ms)
{
    fm_fs_chunk_op op = {.kind = FM_FS_CHUNK_TRUNCATE, .chain = chain, .size = size};
    memcpy(op.id, id, sizeof op.id);
    return fm_fs_chunks_batch(chunks, &op, 1, timeout_ms);
}

fm_status fm_fs_chunks_remove(fm_fs_chunks *chunks, uint32_t chain, const uint8_t *id, int64_t timeout_ms)
{
    fm_fs_chunk_op op = {.kind = FM_FS_CHUNK_REMOVE, .chain = chain};
    memcpy(op.id, id, sizeof op.id);
    return fm_fs_chunks_batch(chunks, &op, 1, timeout_ms);
}

static void list_done(fm_fs_client_io *io)
{
    fm_fs_chunks *chunks = io->context;
    chunks->done = 1;
}

fm_status fm_fs_chunks_list(fm_fs_chunks *chunks, uint32_t chain, const uint8_t *after,
                            uint8_t (*out_ids)[FM_FS_CHUNK_ID_BYTES], uint32_t max, int64_t timeout_ms,
                            uint32_t *out_count)
{
    fm_fs_client_io io = {.kind = FM_FS_CLIENT_LIST,
                          .chain = chain,
                          .offset = !after,
                          .size = (max < FM_FS_ENTRIES_MAX ? max : FM_FS_ENTRIES_MAX) * FM_FS_CHUNK_ID_BYTES,
                          .timeout_ns = timeout_ms * 1000000,
                          .done = list_done,
                          .context = chunks};
    if (after)
        memcpy(io.id.bytes, after, sizeof io.id.bytes);
    chunks->done = 0;
    fm_fs_client_start(chunks->client, &io);
    FM_TRY(fm_fs_chunks_wait(chunks));
    FM_TRY(io.status);
    if (io.bytes->size)
        memcpy(out_ids, io.bytes->data, io.bytes->size);
    *out_count = (uint32_t)(io.bytes->size / FM_FS_CHUNK_ID_BYTES);
    fm_fs_buffer_drop(io.bytes);
    return FM_OK;
}
