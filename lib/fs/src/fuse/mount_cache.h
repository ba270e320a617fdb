/**
 * @file mount_cache.h
 * Bytes of files that a mount has read from the cluster, in its own memory, for when the kernel asks again.
 *
 * A block belongs to a node in one version (fm_fs_node::version), and has those of its pages that were read. Whoever reads
 * looks the node up first; what is here of another version is of no use any more. So a read from here is as fresh as the node
 * is, which counts up whenever somebody has changed, synced, closed or unlocked the file. Changes of this mount's own need not
 * count: what they touch is dropped.
 *
 * Threads: any number.
 */
#ifndef FATHOM_MOUNT_CACHE_H
#define FATHOM_MOUNT_CACHE_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/status.h"

enum {
    FM_FS_CACHE_PAGE = 4096,
    FM_FS_CACHE_BLOCK = 64 * FM_FS_CACHE_PAGE, // a bit for each page of it
    FM_FS_CACHE_RANGE_MAX = 1 << 20,           // of one read: what FUSE moves in one request
    FM_FS_CACHE_PIECES = FM_FS_CACHE_RANGE_MAX / FM_FS_CACHE_BLOCK + 1,
    // A block whose wanted pages are there in parts is read in so many pieces at most.
    FM_FS_CACHE_HOLES = FM_FS_CACHE_BLOCK / FM_FS_CACHE_PAGE / 2 + 1
};

typedef struct fm_fs_cache fm_fs_cache;
struct fm_fs_cache_block;

// A range of a file: where it lies, and which of its pages the caller has to read first.
struct fm_fs_cache_view {
    struct {
        struct fm_fs_cache_block *block;
        uint8_t *bytes;   // the block's
        uint64_t missing; // pages that the caller reads, a bit each
        uint64_t offset;  // of the block, in the file
    } pieces[FM_FS_CACHE_PIECES];
    unsigned count;
    int missing; // whether any is
};

// For `bytes` at most, a multiple of blocks, which are taken as they are needed. FM_ERR_NOMEM.
fm_status fm_fs_cache_new(uint64_t bytes, fm_fs_cache **out_cache);
void fm_fs_cache_free(fm_fs_cache *cache); // NULL is allowed

// The pages of [offset, offset + size) of the node in this version; size is 1 to FM_FS_CACHE_RANGE_MAX. Waits for those that
// another thread is reading. 1: the view must be handed to fm_fs_cache_leave(). 0: there is no room.
int fm_fs_cache_take(fm_fs_cache *cache, uint64_t ino, uint64_t version, uint64_t offset, size_t size,
                     struct fm_fs_cache_view *out_view);
// What was missing is there now, or (`read` 0) could not be read.
void fm_fs_cache_filled(fm_fs_cache *cache, struct fm_fs_cache_view *view, int read);
void fm_fs_cache_leave(fm_fs_cache *cache, struct fm_fs_cache_view *view);
// Forgets what the node has in the range, whatever its version.
void fm_fs_cache_drop(fm_fs_cache *cache, uint64_t ino, uint64_t offset, uint64_t size);
uint64_t fm_fs_cache_bytes(fm_fs_cache *cache); // in use

#endif
