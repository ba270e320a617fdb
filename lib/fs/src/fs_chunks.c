// The client of a cluster that is up: each call runs the loop until its answer is there.
#include <stdio.h>
#include <sys/random.h>

#include "cluster_client.h"
#include "fathom/fs_cluster.h"
#include "fs_cluster_private.h"
#include "host.h"

enum { MANAGER = 1, CLIENT_NODE = 0x7fffffff };

struct fm_fs_chunks {
    fm_fs_host *host;
    fm_fs_runtime *runtime;
    fm_fs_client *client;
    uint32_t managers[1];
    fm_fs_cluster_chain *chains;
    fm_fs_cluster_node *nodes;
    fm_fs_routing routing;
    int done;
};

static fm_status start(fm_fs_chunks *chunks, const char *dir)
{
    struct fm_fs_cluster_conf conf;
    char path[FM_FS_CLUSTER_PATH_MAX + 8];
    fm_net_key key;
    FM_TRY(fm_fs_cluster_conf_read(dir, &conf));
    FM_TRY(fm_fs_cluster_path(dir, "key", path));
    FM_TRY(fm_net_key_read(path, &key));
    fm_status status = fm_fs_host_new(&key, NULL, &chunks->host);
    fm_net_key_clear(&key);
    FM_TRY(status);
    FM_TRY(fm_fs_host_node(chunks->host, CLIENT_NODE, NULL, NULL, &chunks->runtime));
    snprintf(path, sizeof path, "unix:%s/socket", dir);
    FM_TRY(fm_fs_host_know(chunks->host, MANAGER, path));
    chunks->managers[0] = MANAGER;
    fm_fs_client_options options = {
        .managers = chunks->managers, .manager_count = 1, .call_timeout_ns = (int64_t)5 * 1000000000};
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
    fm_base_mem_free(chunks->chains);
    fm_base_mem_free(chunks->nodes);
    fm_base_mem_free(chunks);
}

/* Operations */

static void io_done(fm_fs_client_io *io)
{
    fm_fs_chunks *chunks = io->context;
    chunks->done = 1;
}

static fm_status wait(fm_fs_chunks *chunks)
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
    fm_status status = wait(chunks);
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

/* Asking the manager */

struct ask {
    fm_fs_chunks *chunks;
    fm_fs_call call;
    fm_fs_timer again;
    fm_status status;
    fm_fs_buffer *payload;
};

static void ask_done(fm_fs_call *call)
{
    struct ask *ask = call->context;
    ask->status = call->status;
    ask->payload = fm_fs_buffer_ref(call->reply_payload);
    ask->chunks->done = 1;
}

// Tries until the manager answers, or the time is over.
static fm_status ask_manager(fm_fs_chunks *chunks, enum fm_fs_method method, const void *args,
                             size_t args_bytes, size_t reply_bytes, int64_t timeout_ms,
                             fm_fs_buffer **out_payload)
{
    int64_t deadline = fm_fs_now(chunks->runtime) + timeout_ms * 1000000;
    for (;;) {
        int64_t left = deadline - fm_fs_now(chunks->runtime);
        if (left <= 0)
            return fm_base_error_set(FM_ERR_TIMEOUT,
                                     "the cluster's manager does not answer; is the cluster up?");
        struct ask ask = {.chunks = chunks};
        ask.call = (fm_fs_call){.node = MANAGER,
                                .method = (uint16_t)method,
                                .timeout_ns = left,
                                .args = args,
                                .args_bytes = args_bytes,
                                .reply_bytes = reply_bytes,
                                .done = ask_done,
                                .context = &ask};
        chunks->done = 0;
        fm_fs_call_start(chunks->runtime, &ask.call);
        FM_TRY(wait(chunks));
        int down = ask.status == FM_ERR_UNAVAILABLE || ask.status == FM_ERR_NET_CLOSED ||
                   ask.status == FM_ERR_NET_REFUSED;
        if (!down) {
            if (ask.status == FM_OK)
                *out_payload = ask.payload;
            return ask.status;
        }
        FM_TRY(fm_net_loop_progress(fm_fs_host_loop(chunks->host), (int64_t)20 * 1000000));
    }
}

static fm_status show(fm_fs_chunks *chunks)
{
    const fm_fs_routing *routing = &chunks->routing;
    fm_base_mem_free(chunks->chains);
    fm_base_mem_free(chunks->nodes);
    chunks->chains = fm_base_mem_zalloc(routing->chain_count + 1, sizeof *chunks->chains);
    chunks->nodes = fm_base_mem_zalloc(routing->node_count + 1, sizeof *chunks->nodes);
    if (!chunks->chains || !chunks->nodes)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the cluster's state");
    for (uint32_t i = 0; i < routing->node_count; i++)
        chunks->nodes[i] =
            (fm_fs_cluster_node){routing->nodes[i].id, routing->nodes[i].draining, routing->nodes[i].address};
    for (uint32_t i = 0; i < routing->chain_count; i++) {
        const fm_fs_chain *chain = &routing->chains[i];
        chunks->chains[i] = (fm_fs_cluster_chain){chain->id, chain->version, chain->count, {{0}}};
        for (uint32_t m = 0; m < chain->count; m++)
            chunks->chains[i].members[m] = (fm_fs_cluster_member){
                chain->members[m].target, chain->members[m].node, fm_fs_public_name(chain->members[m].state)};
    }
    return FM_OK;
}

fm_status fm_fs_chunks_state(fm_fs_chunks *chunks, int64_t timeout_ms, fm_fs_cluster_state *out_state)
{
    static const uint8_t none[8];
    fm_fs_buffer *payload = NULL;
    FM_TRY(
        ask_manager(chunks, FM_FS_ROUTING, none, sizeof none, FM_FS_ROUTING_BYTES_MAX, timeout_ms, &payload));
    fm_fs_routing routing = {0};
    fm_status status = payload ? fm_fs_routing_decode(payload->data, payload->size, &routing) : FM_OK;
    fm_fs_buffer_drop(payload);
    FM_TRY(status);
    fm_fs_routing_clear(&chunks->routing);
    chunks->routing = routing;
    FM_TRY(show(chunks));
    *out_state = (fm_fs_cluster_state){routing.version, routing.chain_count, routing.node_count,
                                       chunks->chains, chunks->nodes};
    return FM_OK;
}

fm_status fm_fs_chunks_drain(fm_fs_chunks *chunks, uint32_t node, int drain, int64_t timeout_ms)
{
    const fm_fs_change change = {.kind = FM_FS_CHANGE_DRAIN, .value = drain != 0, .node = node};
    uint8_t args[FM_FS_CHANGE_BYTES_MAX];
    fm_fs_buffer *payload = NULL;
    fm_status status =
        ask_manager(chunks, FM_FS_CHANGE, args, fm_fs_change_encode(args, &change), 0, timeout_ms, &payload);
    fm_fs_buffer_drop(payload);
    return status;
}
