// The client of a cluster that is up: each call runs the loop until its answer is there.
#include <stdio.h>
#include <sys/random.h>

#include "fs_chunks_private.h"

enum { CLIENT_NODE = 0x7fffffff };

static fm_status start(fm_fs_chunks *chunks, const char *dir)
{
    char path[FM_FS_CLUSTER_PATH_MAX];
    fm_net_key key;
    FM_TRY(fm_fs_cluster_path(dir, "key", path));
    FM_TRY(fm_net_key_read(path, &key));
    fm_status status = fm_fs_host_new(&key, NULL, &chunks->host);
    fm_net_key_clear(&key);
    FM_TRY(status);
    FM_TRY(fm_fs_host_node(chunks->host, CLIENT_NODE, NULL, NULL, &chunks->runtime));
    FM_TRY(fm_fs_cluster_managers_read(dir, &chunks->managers));
    for (uint32_t i = 0; i < chunks->managers.count; i++)
        FM_TRY(fm_fs_host_know(chunks->host, chunks->managers.nodes[i], chunks->managers.addresses[i]));
    fm_fs_client_options options = {.managers = chunks->managers.nodes,
                                    .manager_count = chunks->managers.count,
                                    .call_timeout_ns = (int64_t)5 * 1000000000};
    if (getrandom(&options.id, sizeof options.id, 0) != (ssize_t)sizeof options.id)
        return fm_base_error_set(FM_ERR_IO, "the system gives no random numbers");
    options.id |= 1; // never 0
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

/* Operations */

static void io_done(fm_fs_client_io *io)
{
    fm_fs_chunks *chunks = io->context;
    chunks->done = 1;
}

fm_status fm_fs_chunks_wait(fm_fs_chunks *chunks)
{
    while (!chunks->done)
        FM_TRY(fm_net_loop_progress(fm_fs_host_loop(chunks->host), (int64_t)1000000000));
    return FM_OK;
}

static fm_status run(fm_fs_chunks *chunks, fm_fs_client_io *io, uint32_t chain, const uint8_t *id,
                     int64_t timeout_ms)
{
    io->chain = chain;
    memcpy(io->id.bytes, id, FM_FS_CHUNK_ID_BYTES);
    io->timeout_ns = timeout_ms * 1000000;
    io->done = io_done;
    io->context = chunks;
    chunks->done = 0;
    fm_fs_client_start(chunks->client, io);
    fm_status status = fm_fs_chunks_wait(chunks);
    return status < 0 ? status : io->status;
}

fm_status fm_fs_chunks_write(fm_fs_chunks *chunks, uint32_t chain, const uint8_t *id, uint32_t offset,
                             const void *bytes, uint32_t size, int64_t timeout_ms)
{
    if ((uint64_t)offset + size > FM_FS_CHUNK_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "%u bytes at %u; a chunk has at most %d", size, offset,
                                 FM_FS_CHUNK_MAX);
    fm_fs_client_io io = {.kind = FM_FS_CLIENT_WRITE, .offset = offset, .data = fm_fs_buffer_new(size)};
    if (!io.data)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %u bytes", size);
    if (size)
        memcpy(io.data->data, bytes, size);
    fm_status status = run(chunks, &io, chain, id, timeout_ms);
    fm_fs_buffer_drop(io.data);
    return status;
}

fm_status fm_fs_chunks_read(fm_fs_chunks *chunks, uint32_t chain, const uint8_t *id, uint32_t offset,
                            void *bytes, uint32_t size, int64_t timeout_ms, uint32_t *out_read,
                            uint32_t *out_crc)
{
    if ((uint64_t)offset + size > FM_FS_CHUNK_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "%u bytes at %u; a chunk has at most %d", size, offset,
                                 FM_FS_CHUNK_MAX);
    fm_fs_client_io io = {.kind = FM_FS_CLIENT_READ, .offset = offset, .size = size};
    FM_TRY(run(chunks, &io, chain, id, timeout_ms));
    if (io.absent)
        return fm_base_error_set(FM_ERR_NOT_FOUND, "chain %u has no such chunk", chain);
    if (io.bytes->size)
        memcpy(bytes, io.bytes->data, io.bytes->size);
    *out_read = (uint32_t)io.bytes->size;
    if (out_crc)
        *out_crc = io.crc;
    fm_fs_buffer_drop(io.bytes);
    return FM_OK;
}

fm_status fm_fs_chunks_truncate(fm_fs_chunks *chunks, uint32_t chain, const uint8_t *id, uint32_t size,
                                int64_t timeout_ms)
{
    fm_fs_client_io io = {.kind = FM_FS_CLIENT_TRUNCATE, .size = size};
    if (size > FM_FS_CHUNK_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "%u bytes; a chunk has at most %d", size, FM_FS_CHUNK_MAX);
    return run(chunks, &io, chain, id, timeout_ms);
}

fm_status fm_fs_chunks_remove(fm_fs_chunks *chunks, uint32_t chain, const uint8_t *id, int64_t timeout_ms)
{
    fm_fs_client_io io = {.kind = FM_FS_CLIENT_REMOVE};
    return run(chunks, &io, chain, id, timeout_ms);
}
