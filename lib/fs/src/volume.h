/**
 * @file volume.h
 * A volume's connections, and many chunks at once.
 */
#ifndef FATHOM_VOLUME_H
#define FATHOM_VOLUME_H

#include <pthread.h>

#include "fathom/fs_volume.h"
#include "fs_chunks_private.h"
#include "volume_cut.h"

enum {
    FM_FS_VOLUME_CONNECTIONS_MAX = 64,
    // Enough that two inodes in use seldom share a lock.
    FM_FS_VOLUME_LOCKS = 64,
    // Chunks of one request in flight: enough to keep several chains busy; their copies are that many chunks of memory.
    FM_FS_VOLUME_BATCH = 16
};

/*
 * Who moves an inode's bytes is inside with others; who takes its chunks away is inside alone. Unlike a lock of pthread it
 * may be left by another thread than entered, as a queue's owner may change while operations are under way. Nobody enters
 * any more while somebody waits to be alone.
 */
struct fm_fs_volume_gate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned inside, waiting;
    int alone;
};

struct fm_fs_volume {
    struct fm_fs_volume *next; // of those that this process has open
    unsigned opens;
    char dir[FM_FS_CLUSTER_PATH_MAX];
    fm_fs_volume_options options;
    fm_fs_kv *kv;
    fm_fs_meta *meta;
    pthread_mutex_t lock; // the connections, and what is known of the space
    pthread_cond_t idle;
    fm_fs_chunks *connections[FM_FS_VOLUME_CONNECTIONS_MAX]; // those that nobody uses
    uint32_t idle_count, made_count;
    uint64_t capacity_bytes, free_bytes, space_ns;
    struct fm_fs_volume_gate inodes[FM_FS_VOLUME_LOCKS];
};

enum {
    // A file's time of change may lag so much behind its last write.
    FM_FS_VOLUME_TOUCH_NS = 1000000000
};

// To move the inode's bytes. try: 0: not without waiting.
void fm_fs_volume_enter(fm_fs_volume *volume, uint64_t ino);
int fm_fs_volume_try(fm_fs_volume *volume, uint64_t ino);
void fm_fs_volume_exit(fm_fs_volume *volume, uint64_t ino);

// As fm_fs_volume_open(); `store` (or NULL) has the names, whatever names.conf says.
fm_status fm_fs_volume_open_at(const char *dir, const char *store, const fm_fs_volume_options *options,
                               fm_fs_volume **out_volume);

// volume_names.c: where the names are.
struct fm_fs_volume_names {
    char spec[FM_FS_CLUSTER_PATH_MAX + 4096]; // a store, or the services' addresses
    int services;
    int may_be_made; // the store may be empty
};
fm_status fm_fs_volume_names_find(const char *dir, const char *store, struct fm_fs_volume_names *out_names);
// Opens the volume's names at the services.
fm_status fm_fs_volume_names_ask(fm_fs_volume *volume, const char *servers);

// A connection for this thread alone; made when none is idle and fewer than allowed exist.
fm_status fm_fs_volume_take(fm_fs_volume *volume, fm_fs_chunks **out_chunks);
void fm_fs_volume_leave(fm_fs_volume *volume, fm_fs_chunks *chunks);

// A part of a file within one chunk.
struct fm_fs_volume_part {
    uint32_t index, offset, size;
};

// Bytes that are to be written, or read.
struct fm_fs_volume_piece {
    uint64_t offset;
    size_t size;
    const uint8_t *bytes; // written; NULL: zeros
    uint8_t *into;        // read
};

#define FM_FS_VOLUME_UNKNOWN UINT64_MAX

/*
 * Writes pieces that do not overlap; the file grows as needed. `version` (or NULL) is the node's version as its owner knows
 * it: it follows the changes of this call, and is unknown afterwards when somebody else's came between.
 */
fm_status fm_fs_volume_write_pieces(fm_fs_volume *volume, uint64_t ino,
                                    const struct fm_fs_volume_piece *pieces, size_t count, uint64_t *version);
// The file of these chunks was written up to `end`; waits. See fm_fs_cut_settle().
fm_status fm_fs_volume_written(fm_fs_volume *volume, const fm_fs_node *node, uint64_t end);
// fm_fs_volume_touch(), with the version.
fm_status fm_fs_volume_settle(fm_fs_volume *volume, uint64_t ino, uint64_t *version);

struct fm_fs_volume_asker {
    fm_fs_volume *volume;
    const fm_fs_who *who;
};

// What is to be done with a file's chunks in a range, several at a time.
enum fm_fs_volume_action { FM_FS_VOLUME_READ, FM_FS_VOLUME_WRITE, FM_FS_VOLUME_REMOVE };

/*
 * READ: to `to`, zeros where nothing is; what a range beyond the file's end holds is the caller's. FM_ERR_STATE: something was
 * not there, and the file was cut since the node was looked at; look again. WRITE: from `from`, NULL for zeros. REMOVE: all
 * chunks that the range touches.
 */
fm_status fm_fs_volume_transfer(fm_fs_volume *volume, const fm_fs_node *node, enum fm_fs_volume_action action,
                                uint64_t offset, uint64_t length, void *to, const void *from);
// READ of several pieces.
fm_status fm_fs_volume_read_pieces(fm_fs_volume *volume, const fm_fs_node *node,
                                   const struct fm_fs_volume_piece *pieces, size_t count);

// volume_write.c: writes pieces, all of which have bytes, as many chunks at once as may be.
fm_status fm_fs_volume_write_chunks(fm_fs_volume *volume, const fm_fs_node *node,
                                    const struct fm_fs_volume_piece *pieces, size_t count);

// The volume's names and chunks, for volume_cut.h. `asker` must outlive them.
struct fm_fs_cut_ways fm_fs_volume_ways(struct fm_fs_volume_asker *asker);

#endif
