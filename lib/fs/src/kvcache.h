/**
 * @file kvcache.h
 * The cache's index and its segment files, which this describes. A segment's name is "kv-", 16 hexadecimal digits
 * (created, nanoseconds since 1970), "-", 16 more (who writes it), ".seg". All numbers are little-endian.
 *
 *     head of a segment              record, one behind the other
 *     OFFSET SIZE                    OFFSET SIZE
 *          0    8  "FMKVSEG1"             0    4  "KVR1"
 *          8    4  CRC32C of 12..31       4    4  CRC32C of 8..63
 *         12    4  version: 1             8   32  key
 *         16    8  created               40    4  bytes of the value, at least 1
 *         24    8  writer                44    4  CRC32C of the value
 *                                        48    8  time of the put
 *                                        56    8  place of this record in the file
 *                                        64       the value
 *
 * Records that are put together are written by one call. A writer that is killed in it leaves a part: in a directory, where
 * a file grows as it is written, the beginning, and a head whose value is not whole within the file is not good; in a
 * cluster any pieces, and a value with a gap fails its checksum. The first place where no good head stands ends the
 * segment: its writer died there, or is at work.
 */
#ifndef FATHOM_KVCACHE_H
#define FATHOM_KVCACHE_H

#include <pthread.h>

#include "fathom/fs_kvcache.h"
#include "fathom/mem.h"

enum {
    FM_FS_KVCACHE_SEGMENT_HEAD = 32,
    FM_FS_KVCACHE_RECORD_HEAD = 64,
    FM_FS_KVCACHE_NAME_BYTES = 3 + 16 + 1 + 16 + 4 + 1
};

struct fm_fs_kvcache_segment;

struct fm_fs_kvcache_entry {
    struct fm_fs_kvcache_entry *next;    // in its bucket
    struct fm_fs_kvcache_entry *sibling; // in its segment, written before it
    struct fm_fs_kvcache_segment *segment;
    fm_fs_kvcache_key key;
    uint64_t offset; // of the value
    uint64_t used_ns;
    uint32_t size;
    uint32_t crc;
    uint32_t uses; // since it was written or opened
};

struct fm_fs_kvcache_segment {
    char name[FM_FS_KVCACHE_NAME_BYTES];
    uint64_t created_ns;
    uint64_t writer;
    fm_fs_file *file; // NULL: not open now
    uint64_t end;     // behind the last record
    uint64_t size;    // of the file, as far as it is known: `end`, and what a writer that died left behind it
    uint64_t opened;  // number of the get that used the file last
    struct fm_fs_kvcache_entry *entries;
    unsigned pins; // gets that read from it
    int gone;      // out of the folder; freed by who drops its last pin
    int seen;      // by a refresh
};

struct fm_fs_kvcache {
    fm_fs *fs;
    fm_fs_kvcache_options options;
    uint64_t writer;
    pthread_mutex_t put_lock;                // taken first: whoever changes the set of segments, or appends
    pthread_mutex_t lock;                    // all below
    struct fm_fs_kvcache_segment **segments; // ascending by time of creation, then writer
    size_t segment_count, segment_capacity;
    struct fm_fs_kvcache_segment *active; // that puts append to; NULL: none
    struct fm_fs_kvcache_entry **buckets; // a power of two
    size_t bucket_count;
    fm_fs_kvcache_info info;
    uint64_t opens;
    uint8_t *staging; // records on their way to the file; `put_lock`'s
    size_t staging_size;
    pthread_mutex_t queue_lock; // never with `lock`
    fm_fs_queue *queue;
    char folder[FM_FS_PATH_MAX + 1];
};

// kvcache_index.c: with `lock` held

struct fm_fs_kvcache_entry *fm_fs_kvcache_find(const fm_fs_kvcache *cache, const fm_fs_kvcache_key *key);
// Makes an entry, in place of one that the key has already. FM_ERR_NOMEM.
fm_status fm_fs_kvcache_insert(fm_fs_kvcache *cache, const struct fm_fs_kvcache_entry *entry);
// Takes it out of its bucket and its segment and frees it.
void fm_fs_kvcache_forget(fm_fs_kvcache *cache, struct fm_fs_kvcache_entry *entry);
void fm_fs_kvcache_forget_all(fm_fs_kvcache *cache, struct fm_fs_kvcache_segment *segment);

// kvcache_segment.c: with `put_lock` held; each takes `lock` where it changes what gets see

// Makes the next segment the active one. Whoever has `put_lock` may read the set of segments without `lock`.
fm_status fm_fs_kvcache_begin(fm_fs_kvcache *cache);
// Appends records to the active segment, which must have room, and enters them into the index. Of the entries key, size and
// used_ns are given. After FM_ERR_NOMEM any of them may be in the index.
fm_status fm_fs_kvcache_append(fm_fs_kvcache *cache, struct fm_fs_kvcache_entry *entries, size_t count,
                               const void *const *values);
// Removes a segment with its entries.
fm_status fm_fs_kvcache_remove(fm_fs_kvcache *cache, struct fm_fs_kvcache_segment *segment);
// Reads the folder: segments that came, grew or went.
fm_status fm_fs_kvcache_scan(fm_fs_kvcache *cache);
// With `lock` held: opens the segment's file, if it is not, and keeps it from closing until it is dropped.
fm_status fm_fs_kvcache_pin(fm_fs_kvcache *cache, struct fm_fs_kvcache_segment *segment);
// With `lock` held; returns the segment if the caller must free it, when it has let go of the lock.
struct fm_fs_kvcache_segment *fm_fs_kvcache_unpin(struct fm_fs_kvcache_segment *segment);
// NULL is allowed. It closes the file, which may take long: best without `lock`.
void fm_fs_kvcache_segment_free(struct fm_fs_kvcache_segment *segment);

#endif
