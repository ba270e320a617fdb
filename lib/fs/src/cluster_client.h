/**
 * @file cluster_client.h
 * Reads and writes of chunks by a client of the cluster: finds the chain, chooses a replica, and tries again until
 * a deadline.
 *
 * Reads go to the replica whose node has the fewest calls of this client under way, of two drawn at random
 * (Mitzenmacher, "The power of two choices", 2001). An update takes a channel of a fixed pool for as long as it runs;
 * with the channel's next sequence number it is made once, however often it is sent.
 *
 * A storage node remembers the requests of so many clients, the latest ones, and refuses those of others. A client that is
 * refused goes on under a new number; only a request that may have been made before that ends with FM_ERR_FS_MAYBE.
 */
#ifndef FATHOM_CLUSTER_CLIENT_H
#define FATHOM_CLUSTER_CLIENT_H

#include "cluster.h"

typedef struct fm_fs_client fm_fs_client;

typedef struct fm_fs_client_options {
    uint64_t
        id; // no other client has it, ever; not 0. Larger for those that begin later: fm_fs_chunks_client_id()
    const uint32_t *managers;
    uint32_t manager_count;
    int64_t call_timeout_ns; // of one try
    uint32_t channels;       // updates at once, up to 255; later ones wait. 0: 32
} fm_fs_client_options;

enum fm_fs_client_kind {
    FM_FS_CLIENT_READ,
    FM_FS_CLIENT_WRITE,
    FM_FS_CLIENT_TRUNCATE,
    FM_FS_CLIENT_REMOVE,
    FM_FS_CLIENT_LIST // the ids of chunks behind `id`, as the read's bytes; `offset` 1: from the first on
};

// An operation. Zero it, set the first block; it stays until done().
typedef struct fm_fs_client_io {
    enum fm_fs_client_kind kind;
    uint32_t chain;
    fm_fs_chunk_id id;
    uint32_t offset;
    uint32_t size;      // read: at most; truncate: the new size
    uint64_t only_if;   // update: of this version of the chunk alone; another one is FM_ERR_STATE. 0: of any
    fm_fs_buffer *data; // write; referenced until done()
    fm_fs_buffer *into; // read: NULL, or where the bytes shall lie, as fm_fs_call::reply_into
    int64_t timeout_ns;
    void (*done)(struct fm_fs_client_io *io);
    void *context;

    // FM_OK; FM_ERR_TIMEOUT: not done in time, and for an update: never will be. FM_ERR_FS_MAYBE: an update that may have
    // happened, or may still. FM_ERR_ARG, FM_ERR_LIMIT, FM_ERR_SPACE, FM_ERR_NOMEM.
    fm_status status;
    uint64_t version;    // of the chunk that was read or made
    int absent;          // read: there is no chunk
    fm_fs_buffer *bytes; // read: the caller drops it; NULL when absent; `into`, or another
    uint32_t crc;        // their CRC32C, from the replica that verified them

    int64_t deadline_ns; // private, as all that follows
    fm_fs_client *client;
    uint32_t channel; // 0: none yet
    fm_fs_tag tag;
    uint32_t tries;
    uint32_t failures; // of replicas, so that another is chosen
    int unknown;       // a try may have been executed
    uint32_t node;
    uint32_t rotations; // of the chain, as it was asked
    int calling;
    fm_fs_call call;
    fm_fs_timer timer;
    struct fm_fs_client_io *before;
    struct fm_fs_client_io *after;
} fm_fs_client_io;

fm_status fm_fs_client_new(fm_fs_runtime *runtime, const fm_fs_client_options *options,
                           fm_fs_client **out_client);
// No operation completes any more.
void fm_fs_client_free(fm_fs_client *client);
void fm_fs_client_start(fm_fs_client *client, fm_fs_client_io *io);
const fm_fs_routing *fm_fs_client_routing(const fm_fs_client *client);
void fm_fs_client_refresh(fm_fs_client *client);

#endif
