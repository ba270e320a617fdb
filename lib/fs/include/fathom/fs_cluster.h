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
 * Or each service has a process of its own, on one machine or many: fm_fs_cluster_serve() runs a manager, or a node's
 * storage. Every machine then has a directory with the same `key`, and a text `managers` of lines "NODE ADDRESS", one for
 * each manager, where they listen ("1 10.0.0.1:7000"; without it there is one manager, 1, at DIR/socket). Addresses are
 * those of fathom/net.h. Managers share one store: an LMDB directory on one machine, PostgreSQL from many. Nodes are
 * numbers: managers from 1 to 100, storage from 101 on.
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
    uint32_t
        nodes; /**< on which the targets are, the same number on each: node 101 has the first ones. As many as
                       targets. Members of a chain are on different nodes, by
                       fm_fs_placement_solve() */
    const char
        *store; /**< of the cluster's state, as fm_fs_kv_open() names stores; it must hold no cluster. Then
                            managers are served apart, and told the same. NULL: lmdb:DIR/meta */
    /** All or none: files in PEM for TLS between members on different machines, as fm_net_tls_options has them. Where they
     *  are is written to DIR/tls, as lines "cert PATH", "key PATH" and "ca PATH", which services and
     *  clients read; add "crl PATH" or "name NAME" for more of fm_net_tls_options. */
    const char *tls_cert, *tls_key, *tls_ca;
} fm_fs_cluster_options;

/**
 * Makes a cluster in `dir`, a directory that is made if it is missing. `options` may be NULL. FM_ERR_EXISTS (there is
 * one, or in the store), FM_ERR_ARG, FM_ERR_PERM, FM_ERR_IO, FM_ERR_UNSUPPORTED (built without LMDB).
 */
FM_API FM_MUST_USE fm_status fm_fs_cluster_init(const char *dir, const fm_fs_cluster_options *options);

typedef struct fm_fs_cluster fm_fs_cluster;

/** Opens it, with all its services. FM_ERR_NOT_FOUND (no cluster there), FM_ERR_BUSY (it is up already), FM_ERR_IO,
 *  FM_ERR_FORMAT, FM_ERR_NOMEM. */
FM_API FM_MUST_USE fm_status fm_fs_cluster_up(const char *dir, fm_fs_cluster **out_cluster);

typedef enum fm_fs_role { FM_FS_MANAGER = 1, FM_FS_STORAGE } fm_fs_role;
/** Zero it and set `size`, `role` and `node`; what is 0 has its default. */
typedef struct fm_fs_serve_options {
    size_t size;
    fm_fs_role role;
    uint32_t node;
    /** Where. A manager: what `managers` says of it. Storage: DIR/socket-<node>, where it listens also when `listen` is on
     *  the network: who is on its machine takes the socket, and bulk then goes through shared memory. */
    const char *listen;
    const char *store; /**< manager: the cluster's state, as fm_fs_kv_open() names stores. lmdb:DIR/meta */
    const uint32_t *
        targets; /**< storage: which, in DIR/target-<id>, made if missing. Those that cluster.conf gives the node */
    uint32_t target_count;
    uint64_t target_bytes;     /**< storage: the most that each may hold. What cluster.conf says, or 64 GiB */
    uint64_t sync_bytes_per_s; /**< storage: filling another replica sends no more. 0: as fast as it can */
    const char *tls_cert, *tls_key,
        *tls_ca; /**< as in fm_fs_cluster_options. Those of DIR/tls, if it is there */
} fm_fs_serve_options;
/** Opens one service of the cluster whose directory is `dir`, to be run, stopped and ended as below. FM_ERR_ARG,
 *  FM_ERR_BUSY (that manager, or a target, is open already), and as fm_fs_cluster_up(). */
FM_API FM_MUST_USE fm_status fm_fs_cluster_serve(const char *dir, const fm_fs_serve_options *options,
                                                 fm_fs_cluster **out_cluster);
/** Where the others reach it. */
FM_API const char *fm_fs_cluster_address(const fm_fs_cluster *cluster);
/** Answers GET /metrics at the TCP address, in Prometheus' text, while it runs; `*out_address` (the cluster's) has the port that
 *  was chosen. Anybody who reaches it may read. FM_ERR_ARG, FM_ERR_EXISTS, FM_ERR_IO. */
FM_API FM_MUST_USE fm_status fm_fs_cluster_metrics(fm_fs_cluster *cluster, const char *address,
                                                   const char **out_address);
/** Serves until fm_fs_cluster_stop(). */
FM_API FM_MUST_USE fm_status fm_fs_cluster_run(fm_fs_cluster *cluster);
FM_API void fm_fs_cluster_stop(fm_fs_cluster *cluster);
/** Ends it: as safe as a kill, only tidier. NULL is allowed. */
FM_API void fm_fs_cluster_down(fm_fs_cluster *cluster);
/** The process that has the cluster up, or its manager 1; 0: none on this machine. FM_ERR_NOT_FOUND: no cluster there. */
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
    const char *address; /**< for everybody, and behind a blank perhaps a socket for who is on its machine */
    int64_t silent_ms;   /**< since its last heartbeat; -1: this manager has had none */
} fm_fs_cluster_node;
/** A target that is in a chain, or that a node told of. */
typedef struct fm_fs_cluster_target {
    uint32_t id, node;
    uint32_t chain;          /**< 0: in none */
    const char *state;       /**< there; "unused" */
    const char *says;        /**< of itself: "complete", "alive", "down"; "nothing" when nothing was heard */
    uint32_t chain_version;  /**< that it knows */
    fm_status health;        /**< FM_OK, FM_ERR_BUSY (it is being opened), or why it cannot be used */
    int other_disk;          /**< its disk is not the one that was complete */
    uint64_t used_bytes;     /**< by blocks of chunks */
    uint64_t capacity_bytes; /**< 0: not heard */
} fm_fs_cluster_target;

/** How the cluster stands. */
typedef struct fm_fs_cluster_state {
    uint64_t version;
    uint32_t chain_count, node_count, target_count;
    const fm_fs_cluster_chain *chains;   /**< ascending by id, as all of these */
    const fm_fs_cluster_node *nodes;     /**< those that are known */
    const fm_fs_cluster_target *targets; /**< all */
} fm_fs_cluster_state;

/** A connection to a cluster that is up. */
typedef struct fm_fs_chunks fm_fs_chunks;

/** Connects to the cluster in `dir`; it need not be up yet. FM_ERR_NOT_FOUND, FM_ERR_PERM (the key), FM_ERR_NOMEM. */
FM_API FM_MUST_USE fm_status fm_fs_chunks_open(const char *dir, fm_fs_chunks **out_chunks);
FM_API void fm_fs_chunks_close(fm_fs_chunks *chunks);
/** Asks the managers for the primary's view. The state is valid until the next call here. FM_ERR_TIMEOUT. */
FM_API FM_MUST_USE fm_status fm_fs_chunks_state(fm_fs_chunks *chunks, int64_t timeout_ms,
                                                fm_fs_cluster_state *out_state);

/*
 * Changes of the cluster by who runs it. One that is so already is no failure. FM_ERR_NOT_FOUND, FM_ERR_EXISTS and
 * FM_ERR_STATE say why it cannot be; FM_ERR_TIMEOUT: nobody knows whether it was made, ask again.
 */
/** Takes a node's targets out of the chains that can spare them (`drain` 1), or lets them back in. */
FM_API FM_MUST_USE fm_status fm_fs_chunks_drain(fm_fs_chunks *chunks, uint32_t node, int drain,
                                                int64_t timeout_ms);
/** Forgets a node that is silent and has no target in a chain. */
FM_API FM_MUST_USE fm_status fm_fs_chunks_node_remove(fm_fs_chunks *chunks, uint32_t node,
                                                      int64_t timeout_ms);
/** A target joins a chain, behind the others, and is filled. */
FM_API FM_MUST_USE fm_status fm_fs_chunks_target_add(fm_fs_chunks *chunks, uint32_t chain, uint32_t target,
                                                     uint32_t node, int64_t timeout_ms);
/** A target that does not serve leaves its chain for good. */
FM_API FM_MUST_USE fm_status fm_fs_chunks_target_remove(fm_fs_chunks *chunks, uint32_t chain, uint32_t target,
                                                        int64_t timeout_ms);
/** A new chain of `count` targets that are in none, each on the node beside it, and empty. */
FM_API FM_MUST_USE fm_status fm_fs_chunks_chain_add(fm_fs_chunks *chunks, uint32_t chain,
                                                    const uint32_t *targets, const uint32_t *nodes,
                                                    uint32_t count, int64_t timeout_ms);
/** Takes away a chain that holds nothing. */
FM_API FM_MUST_USE fm_status fm_fs_chunks_chain_remove(fm_fs_chunks *chunks, uint32_t chain,
                                                       int64_t timeout_ms);
/** Gives up the last-serving targets of a chain that waits for them, and what they alone have: the next target, whatever
 *  it lacks, may restart the chain. `version` is the chain's, as it was seen. FM_ERR_FS_CONFLICT: it has another. */
FM_API FM_MUST_USE fm_status fm_fs_chunks_chain_rotate(fm_fs_chunks *chunks, uint32_t chain, uint32_t version,
                                                       int64_t timeout_ms);

/*
 * Chunks. An update that times out returns FM_ERR_FS_MAYBE where it may have happened, or may still; FM_ERR_TIMEOUT
 * where it did not and will not. FM_ERR_LIMIT beyond FM_FS_CHUNK_MAX, FM_ERR_NOMEM. FM_ERR_SPACE: a target of the chain is full; new
 * chunks are refused from 95 % on, so that those that are there can still be changed. `id` has
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

/** The ids of up to `max` chunks of a chain, in the order of their bytes: those behind `after`, or (NULL) from the first
 *  on. Fewer than `max` (and than 4096): there are no more. Some may just be made or removed. */
FM_API FM_MUST_USE fm_status fm_fs_chunks_list(fm_fs_chunks *chunks, uint32_t chain, const uint8_t *after,
                                               uint8_t (*out_ids)[FM_FS_CHUNK_ID_BYTES], uint32_t max,
                                               int64_t timeout_ms, uint32_t *out_count);

/** What a batch does with a chunk. */
typedef enum fm_fs_chunk_kind {
    FM_FS_CHUNK_READ = 1,
    FM_FS_CHUNK_WRITE,
    FM_FS_CHUNK_TRUNCATE,
    FM_FS_CHUNK_REMOVE
} fm_fs_chunk_kind;
/** One operation of a batch: as the call of its name above. Zero it and set the first block. */
typedef struct fm_fs_chunk_op {
    fm_fs_chunk_kind kind;
    uint32_t chain;
    uint8_t id[FM_FS_CHUNK_ID_BYTES];
    uint32_t offset;
    uint32_t size;     /**< read: at most; truncate: the new one */
    const void *bytes; /**< write: stay as they are until the batch returns */
    void *into;        /**< read */

    fm_status status; /**< as the calls above return; FM_ERR_NOT_FOUND: read, there is no such chunk */
    uint32_t done;    /**< read: bytes that came */
    uint32_t crc;     /**< read: their CRC32C, from where they are stored */
} fm_fs_chunk_op;
/**
 * Runs `count` operations at once, in no order: those on one chunk must not depend on each other. Each read goes to the
 * replica whose node has the fewest calls of this client, of two drawn at random; what fails is tried again, elsewhere
 * too, until the time is over. Returns FM_OK when all did well, else the status of the first one that did not, which
 * its `status` has as well; every operation has come to its end.
 */
FM_API FM_MUST_USE fm_status fm_fs_chunks_batch(fm_fs_chunks *chunks, fm_fs_chunk_op *ops, size_t count,
                                                int64_t timeout_ms);

#ifdef __cplusplus
}
#endif
#endif
