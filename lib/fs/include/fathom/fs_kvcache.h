/**
 * @file fs_kvcache.h
 * A cache of attention keys and values on disk: immutable blocks under the hash of what they stand for, in a folder of a
 * file system (fathom/fs.h). It outlives its programs, several may share it, and it stays within its size.
 *
 *     fm_fs_kvcache *cache;
 *     fm_fs_kvcache_options options = {.size = sizeof options, .bytes_max = (uint64_t)8 << 30};
 *     fm_fs_kvcache_key keys[BLOCKS];
 *     FM_TRY(fm_fs_kvcache_open(fs, "kv/my-model-fp8", &options, &cache));
 *
 *     for (size_t i = 0; i < blocks; i++)                       // each key covers all tokens up to its block's end
 *         fm_fs_kvcache_key_next(i ? &keys[i - 1] : NULL, tokens + i * 64, 64 * sizeof *tokens, &keys[i]);
 *     FM_TRY(fm_fs_kvcache_match(cache, keys, blocks, &known)); // so many leading blocks need no prefill
 *     FM_TRY(fm_fs_kvcache_read(cache, reads, known, &hits));   // many at once
 *     FM_TRY(fm_fs_kvcache_write(cache, fresh, blocks - known)); // what was computed instead
 *     fm_fs_kvcache_close(cache);
 *
 * ## What is promised
 * - A get returns the bytes that were put under that key, checked by CRC32C, or nothing: what is damaged, cut off by a
 *   crash, too old or removed is not found, and never an error.
 * - A value never changes. The first one put under a key stays; later ones are dropped unread, so put the same bytes.
 * - What was put survives the end of its program at any moment. A power cut may lose what was put last.
 * - The folder's files together stay within `bytes_max`. Blocks leave in the order in which they were written, a segment
 *   file at a time; those that this program has used since they were written are kept a round longer.
 * - Nothing is made per block but a record in a segment file: a folder holds bytes_max / segment_bytes files.
 *
 * One folder is one namespace: a model, a layout of blocks, a number format. Give each its own, or mix what distinguishes
 * them into the first key.
 *
 * ## Sharing
 * Each open cache appends to segments of its own, so several processes (on a cluster: machines) may have one folder open.
 * What others have put is seen after fm_fs_kvcache_refresh(). Each keeps the folder within its own `bytes_max`.
 *
 * ## Threads
 * Any number of threads may use one cache. Puts follow one another; gets run beside them and beside each other. The file
 * system must stay open longer than the cache. An entry takes about 120 bytes of memory.
 *
 * Errors are those of fs.h and what is said here.
 */
#ifndef FATHOM_FS_KVCACHE_H
#define FATHOM_FS_KVCACHE_H

#include "fathom/fs.h"

#ifdef __cplusplus
extern "C" {
#endif

/** The name of a block: 32 bytes that nobody can find another block for. */
typedef struct fm_fs_kvcache_key {
    uint8_t bytes[32];
} fm_fs_kvcache_key;

/** The key of a block behind `parent` (NULL: the first): SHA-256 over the parent's key (or 32 zero bytes) and the `size`
 *  bytes that stand for the block, its token ids for example. Equal keys so mean equal beginnings. */
FM_API void fm_fs_kvcache_key_next(const fm_fs_kvcache_key *parent, const void *block, size_t size,
                                   fm_fs_kvcache_key *out_key);

/** Zero it and set `size`; what is 0 has its default. */
typedef struct fm_fs_kvcache_options {
    size_t size;        /**< sizeof(fm_fs_kvcache_options) */
    uint64_t bytes_max; /**< the most that the folder may hold, at least 4096. 16 GiB */
    uint64_t
        segment_bytes; /**< of one file, at most bytes_max / 4; several values should fit, for up to half of what a
                                 file holds is kept. 64 MiB, or bytes_max / 8 if that is less */
    uint64_t age_max_ns; /**< what was neither put nor used for so long is not found any more. 0: no limit */
    /** Nanoseconds since 1970 UTC; NULL: the calendar clock. For tests. */
    uint64_t (*now)(void *context);
    void *now_context;
} fm_fs_kvcache_options;

typedef struct fm_fs_kvcache fm_fs_kvcache;

/** Opens the cache in `folder`, which is made with its parents if it is missing, and reads the heads of all records in
 *  it. `options` may be NULL. FM_ERR_ARG. What other programs left there is not touched. */
FM_API FM_MUST_USE fm_status fm_fs_kvcache_open(fm_fs *fs, const char *folder,
                                                const fm_fs_kvcache_options *options,
                                                fm_fs_kvcache **out_cache);
/** Closes it; NULL is allowed. No other call may be running. */
FM_API void fm_fs_kvcache_close(fm_fs_kvcache *cache);

/** Stores `size` bytes (at least 1) under `key`, unless there are some already; makes room as it needs. FM_ERR_LIMIT:
 *  more than a segment holds. After FM_ERR_SPACE (the disk is full) what was there is still there. */
FM_API FM_MUST_USE fm_status fm_fs_kvcache_put(fm_fs_kvcache *cache, const fm_fs_kvcache_key *key,
                                               const void *value, size_t size);

/** How many of `keys`, from the first on without a gap, are there. They count as used. A get may still miss: another
 *  thread's put may have made room meanwhile, or the bytes are damaged. */
FM_API FM_MUST_USE fm_status fm_fs_kvcache_match(fm_fs_kvcache *cache, const fm_fs_kvcache_key *keys,
                                                 size_t count, size_t *out_count);
/** The size of a key's value. FM_ERR_NOT_FOUND. */
FM_API FM_MUST_USE fm_status fm_fs_kvcache_size(fm_fs_kvcache *cache, const fm_fs_kvcache_key *key,
                                                size_t *out_size);
/** Reads a value into `buffer`. FM_ERR_NOT_FOUND; FM_ERR_LIMIT: it is larger than `capacity`. After a failure the buffer
 *  may hold anything. */
FM_API FM_MUST_USE fm_status fm_fs_kvcache_get(fm_fs_kvcache *cache, const fm_fs_kvcache_key *key,
                                               void *buffer, size_t capacity, size_t *out_size);

/** One value of many. */
typedef struct fm_fs_kvcache_block {
    fm_fs_kvcache_key key;
    void *buffer;    /**< of `capacity` bytes; a write only reads them */
    size_t capacity; /**< of a read: a larger value counts as not found */
    size_t size;     /**< of the value; a read sets it: 0: not found, and the buffer may hold anything */
} fm_fs_kvcache_block;

/** Reads many values with many reads in flight; `*out_hits` of them were found. */
FM_API FM_MUST_USE fm_status fm_fs_kvcache_read(fm_fs_kvcache *cache, fm_fs_kvcache_block *blocks,
                                                size_t count, size_t *out_hits);
/** Puts many values, in order, as fm_fs_kvcache_put() does each, but with few large writes: on a cluster many times as
 *  fast. A failure ends it; what came before may be stored. FM_ERR_LIMIT, and nothing is. */
FM_API FM_MUST_USE fm_status fm_fs_kvcache_write(fm_fs_kvcache *cache, const fm_fs_kvcache_block *blocks,
                                                 size_t count);

/** Learns what other programs have put into the folder, and removed from it. */
FM_API FM_MUST_USE fm_status fm_fs_kvcache_refresh(fm_fs_kvcache *cache);
/** Removes the segments in which everything is too old. Puts do so, too, whenever they begin a segment. */
FM_API FM_MUST_USE fm_status fm_fs_kvcache_trim(fm_fs_kvcache *cache);

/** How it stands, and what was done since it was opened. */
typedef struct fm_fs_kvcache_info {
    uint64_t entries, segments, bytes; /**< of the folder, as far as it is known */
    uint64_t hits, misses;             /**< of gets and reads */
    uint64_t hit_bytes, put_bytes;
    uint64_t puts, duplicates; /**< stored; dropped because the key was there */
    uint64_t evicted, kept;    /**< entries that left for room or age; that were written again instead */
    uint64_t damaged;          /**< values that failed their checksum, among the misses */
} fm_fs_kvcache_info;
FM_API void fm_fs_kvcache_info_get(fm_fs_kvcache *cache, fm_fs_kvcache_info *out_info);

#ifdef __cplusplus
}
#endif
#endif
