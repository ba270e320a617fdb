/**
 * @file fs_cluster.h
 * A cluster of replicated chunks in one directory: the embedded mode. And its client: chunks by chain and id.
 *
 *     FM_TRY(fm_fs_cluster_init("/data/c", NULL));     // once: a key, the store of the cluster's state, targets
 *     FM_TRY(fm_fs_cluster_up("/data/c", &cluster));   // manager and storage, listening on a UNIX socket
 *     FM_TRY(fm_fs_cluster_run(cluster));              // until fm_fs_cluster_stop()
 *     fm_fs_cluster_down(cluster);
 *
 *     FM_TRY(fm_fs_chunks_open("/data/c", &chunks));   // another process, with leave to read the key
 *     FM_TRY(fm_fs_chunks_write(chunks, chain, id, 0, bytes, size, timeout_ms));
 *
 * Each target keeps one replica of one chain, in a directory of its own (put them on different disks by links). What
 * fm_fs_chunks_write() has acknowledged is durable on every replica that serves, and every later read sees it,
 * whichever replica answers. lib/fs/README.md says how.
 *
 * The directory holds cluster.conf, key (mode 0600), meta/ (LMDB), target-<id>/, socket, and lock while it is up.
 *
 * Threads: each object is used by one thread at a time; fm_fs_cluster_stop() by any, and by signal handlers. A cluster
 * starts one thread of its own, for the transactions of its state, which wait for the disk.
 */
#ifndef FATHOM_FS_CLUSTER_H
#define FATHOM_FS_CLUSTER_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    FM_FS_CLUSTER_REPLICAS_MAX = 8,
    FM_FS_CLUSTER_TARGETS_MAX = 64,
    FM_FS_CHUNK_ID_BYTES = 16,
    FM_FS_CHUNK_MAX = 64 << 20 /**< bytes of a chunk */
};

/** Zero it and set `size`; what is 0 has its default. */
typedef struct fm_fs_cluster_options {
    size_t size;
    uint32_t targets; /**< 3; a multiple of the replicas */
    uint32_t
        replicas; /**< of each chunk, at most 8; as many targets make a chain. 3, or the targets if fewer */
    uint64_t target_bytes; /**< the most that a target may hold. 64 GiB */
} fm_fs_cluster_options;

/**
 * Makes a cluster in `dir`, a directory that is made if it is missing. `options` may be NULL. FM_ERR_EXISTS (there is
 * one), FM_ERR_ARG, FM_ERR_PERM, FM_ERR_IO, FM_ERR_UNSUPPORTED (built without LMDB).
 */
FM_API FM_MUST_USE fm_status fm_fs_cluster_init(const char *dir, const fm_fs_cluster_options *options);

typedef struct fm_fs_cluster fm_fs_cluster;

/** Opens it, with all its services. FM_ERR_NOT_FOUND (no cluster there), FM_ERR_BUSY (it is up already), FM_ERR_IO,
 *  FM_ERR_FORMAT, FM_ERR_NOMEM. */
FM_API FM_MUST_USE fm_status fm_fs_cluster_up(const char *dir, fm_fs_cluster **out_cluster);
/** Serves until fm_fs_cluster_stop(). */
FM_API FM_MUST_USE fm_status fm_fs_cluster_run(fm_fs_cluster *cluster);
FM_API void fm_fs_cluster_stop(fm_fs_cluster *cluster);
/** Ends it: as safe as a kill, only tidier. NULL is allowed. */
FM_API void fm_fs_cluster_down(fm_fs_cluster *cluster);
/** The process that has the cluster up; 0: none. FM_ERR_NOT_FOUND: no cluster there. */
FM_API FM_MUST_USE fm_status fm_fs_cluster_process(const char *dir, int *out_pid);

/** A member of a chain, in the chain's order. */
typedef struct fm_fs_cluster_member {
    uint32_t target, node;
    const char *state; /**< "serving", "last-serving", "syncing", "waiting", "offline" */
} fm_fs_cluster_member;
typedef struct fm_fs_cluster_chain {
    uint32_t id, version, count;
    fm_fs_cluster_member members[FM_FS_CLUSTER_REPLICAS_MAX];
} fm_fs_cluster_chain;
typedef struct fm_fs_cluster_node {
    uint32_t id;
    int draining;
    const char *address;
} fm_fs_cluster_node;

/** How the cluster stands. */
typedef struct fm_fs_cluster_state {
    uint64_t version;
    uint32_t chain_count, node_count;
    const fm_fs_cluster_chain *chains;
    const fm_fs_cluster_node *nodes;
} fm_fs_cluster_state;

/** A connection to a cluster that is up. */
typedef struct fm_fs_chunks fm_fs_chunks;

/** Connects to the cluster in `dir`; it need not be up yet. FM_ERR_NOT_FOUND, FM_ERR_PERM (the key), FM_ERR_NOMEM. */
FM_API FM_MUST_USE fm_status fm_fs_chunks_open(const char *dir, fm_fs_chunks **out_chunks);
FM_API void fm_fs_chunks_close(fm_fs_chunks *chunks);
/** Asks the manager. The state is valid until the next call here. FM_ERR_TIMEOUT. */
FM_API FM_MUST_USE fm_status fm_fs_chunks_state(fm_fs_chunks *chunks, int64_t timeout_ms,
                                                fm_fs_cluster_state *out_state);
/** Takes a node's targets out of the chains that can spare them (`drain` 1), or lets them back in. */
FM_API FM_MUST_USE fm_status fm_fs_chunks_drain(fm_fs_chunks *chunks, uint32_t node, int drain,
                                                int64_t timeout_ms);

/*
 * Chunks. An update that times out returns FM_ERR_FS_MAYBE where it may have happened, or may still; FM_ERR_TIMEOUT
 * where it did not and will not. FM_ERR_LIMIT beyond FM_FS_CHUNK_MAX, FM_ERR_SPACE, FM_ERR_NOMEM. `id` has
 * FM_FS_CHUNK_ID_BYTES bytes.
 */
/** Writes within a chunk, which is made if it is missing; a gap before `offset` reads as zeros. */
FM_API FM_MUST_USE fm_status fm_fs_chunks_write(fm_fs_chunks *chunks, uint32_t chain, const uint8_t *id,
                                                uint32_t offset, const void *bytes, uint32_t size,
                                                int64_t timeout_ms);
/** Reads up to `size` bytes; `*out_read` fewer at the chunk's end. `*out_crc` (or NULL) is their CRC32C, computed where
 *  they were stored and checked on the way. FM_ERR_NOT_FOUND: there is no such chunk. */
FM_API FM_MUST_USE fm_status fm_fs_chunks_read(fm_fs_chunks *chunks, uint32_t chain, const uint8_t *id,
                                               uint32_t offset, void *bytes, uint32_t size,
                                               int64_t timeout_ms, uint32_t *out_read, uint32_t *out_crc);
/** Makes a chunk shorter or longer. */
FM_API FM_MUST_USE fm_status fm_fs_chunks_truncate(fm_fs_chunks *chunks, uint32_t chain, const uint8_t *id,
                                                   uint32_t size, int64_t timeout_ms);
/** Removes a chunk; a missing one is no failure. */
FM_API FM_MUST_USE fm_status fm_fs_chunks_remove(fm_fs_chunks *chunks, uint32_t chain, const uint8_t *id,
                                                 int64_t timeout_ms);

#ifdef __cplusplus
}
#endif
#endif
