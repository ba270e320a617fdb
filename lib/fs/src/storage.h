/**
 * @file storage.h
 * The storage service of a node: its targets, each a replica of one chain.
 *
 * A change goes down the chain and its commit comes back (CRAQ: Terrace and Freedman, "Object storage on CRAQ",
 * 2009):
 *
 *     client --update--> head --forward--> middle --forward--> tail
 *                        apply             apply               apply, commit
 *            <--reply--  commit <--reply-- commit <--reply--
 *
 * Each replica applies a change as pending (durable) before it passes it on, and commits once its successor has. A
 * replica without a pending version of a chunk reads it alone; one that has some asks the tail which version is
 * committed. So a read sees every change that was acknowledged before it began, on any replica.
 *
 * What holds it together:
 *  - the version of the chain goes with every message, and is looked at again once the chunk's lock is held and
 *    whenever a change is about to be committed. A change of the chain therefore ends what was under way, and each
 *    member then brings its own pending versions to the end;
 *  - a target reads only while its lease runs: a heartbeat was answered less than `lease_ns` ago, and the routing
 *    that the manager then had is known here. The manager takes nobody out of a chain before twice that time;
 *  - a service that has started says that its targets are down until they are out of their chains, so each comes
 *    back through recovery;
 *  - a request is recognised by (client, channel, sequence number), stored with the change that it made;
 *  - a chunk's versions only grow, also when it was removed, forgotten and made again: storage_forget.c.
 */
#ifndef FATHOM_STORAGE_H
#define FATHOM_STORAGE_H

#include "cluster.h"

typedef struct fm_fs_storage fm_fs_storage;

typedef struct fm_fs_storage_disk {
    uint32_t target;
    fm_fs_disk *disk;
    int format;           // the disk is empty
    uint8_t identity[16]; // of a disk that is formatted
} fm_fs_storage_disk;

typedef struct fm_fs_storage_options {
    const char *address; // at which others reach this node
    const uint32_t *managers;
    uint32_t manager_count;
    uint64_t incarnation; // greater than that of any earlier start, if known
    int64_t heartbeat_ns; // between two
    int64_t lease_ns;     // how long an answered heartbeat allows reads
    int64_t call_timeout_ns;
    int64_t scrub_ns;          // between two chunks of a target
    int64_t forget_ns;         // between two looks for removed chunks to forget; 0: none are
    uint64_t sync_bytes_per_s; // recovery sends no more; 0: as fast as it can
    uint64_t journal_bytes;
    size_t land_bytes; // chunk_store.h
    uint32_t sessions; // chunk_store.h
    fm_fs_pool *pool;  // of buffers; NULL: none. The caller's, and outlives the service
} fm_fs_storage_options;

// The disks stay the caller's, and must outlive the service.
fm_status fm_fs_storage_new(fm_fs_runtime *runtime, const fm_fs_storage_options *options,
                            const fm_fs_storage_disk *disks, uint32_t count, fm_fs_storage **out_storage);
void fm_fs_storage_free(fm_fs_storage *storage);
// Takes a request with a method below FM_FS_HEARTBEAT.
void fm_fs_storage_serve(fm_fs_storage *storage, fm_fs_request *request);

// For those who look from outside.
const fm_fs_store *fm_fs_storage_store(const fm_fs_storage *storage,
                                       uint32_t target); // NULL: not there or not open
// FM_OK, or why the target cannot be used: it did not open, or broke since. FM_ERR_BUSY: it is being opened.
fm_status fm_fs_storage_health(const fm_fs_storage *storage, uint32_t target);
const fm_fs_routing *fm_fs_storage_routing(const fm_fs_storage *storage);
int fm_fs_storage_idle(const fm_fs_storage *storage); // no request is in service
typedef struct fm_fs_storage_counts {
    uint64_t reads, dirty_reads, updates, resumed, driven, synced, repaired, rotten, forgotten;
} fm_fs_storage_counts;
fm_fs_storage_counts fm_fs_storage_count(const fm_fs_storage *storage);

#endif
