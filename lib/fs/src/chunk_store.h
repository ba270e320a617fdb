/**
 * @file chunk_store.h
 * The chunks of one target, on one disk: versions that are written beside each other, never over each other while anybody
 * may ask for them, a checksum for every grain, and a journal that makes each step whole.
 *
 *     file 0, 1    journals, used in turn        what changed since a checkpoint
 *     file 2, 3    checkpoints, used in turn     all that is known, as of the beginning of a journal
 *     file 4 ...   blocks of one size class each, 64 KiB, 128 KiB, ... 64 MiB
 *
 * A chunk has at most two versions: the *committed* one, and a *pending* one that waits for the rest of its
 * chain. Applying a change reads the committed bytes, writes the merged ones to a free block, has them made durable,
 * and then journals where they are; committing journals one small record. A block is used again only when the
 * record that freed it is durable, and nobody reads it any more. Which blocks are in use is not stored: it follows
 * from the chunks.
 *
 * A *small* change (up to 32 KiB of pages, within the room of the chunk's block) goes into the journal itself: one flush, and
 * nothing is copied. Both versions then have one block, and the later one keeps the changed bytes in memory as well, until they
 * can be written over the older ones: chunk_patch.c, chunk_land.c. A longer append is written into the room of its block.
 *
 * What a power cut leaves is what the journal's durable prefix says. Records that follow it may survive as well,
 * as a prefix too.
 *
 * Each change may carry the tag of the request that made it (client, channel, sequence number). The last one of each
 * channel is kept with the chunks, by the same record, so that a request that is sent again is recognised after any
 * crash.
 *
 * All in memory: some 100 bytes a chunk and 4 for each grain. A removed chunk keeps an entry at first, because its
 * version must not begin anew. Such entries are forgotten together: the *floor* is a version that all chunks of the target
 * which are not there have reached, so that a chunk without an entry is as good as one that was removed in that version.
 */
#ifndef FATHOM_CHUNK_STORE_H
#define FATHOM_CHUNK_STORE_H

#include "fs_runtime.h"

enum {
    FM_FS_CHUNK_CLASSES = 11, // 64 KiB << 0 ... 64 KiB << 10
    FM_FS_CHUNK_CLASS_MIN = 64 << 10,
    FM_FS_CHUNK_BYTES_MAX = 64 << 20,
    FM_FS_CHUNK_GRAINS_MAX =
        256, // 1 KiB of checksums for a chunk of 1 MiB or more: 0.1 % of the disk in memory
    FM_FS_STORE_FILES = 4 + FM_FS_CHUNK_CLASSES
};

// Ordered as memcmp() has it.
typedef struct fm_fs_chunk_id {
    uint8_t bytes[16];
} fm_fs_chunk_id;

static inline int fm_fs_chunk_id_compare(const fm_fs_chunk_id *a, const fm_fs_chunk_id *b)
{
    return memcmp(a->bytes, b->bytes, sizeof a->bytes);
}

// One version of a chunk, shared by those who read it. Its contents never change, nor does what is public but `refs` and
// `chain_version`.
typedef struct fm_fs_chunk_copy {
    unsigned refs;
    uint8_t removed; // this version says that the chunk is not there; it has no block
    uint8_t size_class;
    uint32_t chain_version; // under which it was written, then committed
    uint64_t version;
    uint32_t block;
    uint32_t size; // bytes; 0: no block
    uint32_t crc;  // CRC32C of the grains' checksums as they are stored: equal contents have equal ones
    struct fm_fs_share *share;     // private: with whom it has its block in common; NULL: with nobody
    struct fm_fs_overlay *overlay; // private: what its block does not have yet; NULL: nothing
    uint32_t grains;               // CRC32C of each grain; the last one may be short
    uint32_t grain_crc[];
} fm_fs_chunk_copy;

typedef struct fm_fs_chunk {
    struct fm_fs_chunk *child[2];
    uint64_t priority;
    fm_fs_chunk_id id;
    fm_fs_chunk_copy *committed; // NULL: never there
    fm_fs_chunk_copy *pending;   // NULL: clean
} fm_fs_chunk;

// Bytes of one grain of a chunk of this class.
static inline uint32_t fm_fs_chunk_grain(unsigned size_class)
{
    uint32_t grain = (uint32_t)((FM_FS_CHUNK_CLASS_MIN << size_class) / FM_FS_CHUNK_GRAINS_MAX);
    return grain < FM_FS_PAGE ? FM_FS_PAGE : grain;
}

// Whether these `size` bytes are the copy's contents, by their checksums.
int fm_fs_chunk_copy_matches(const fm_fs_chunk_copy *copy, const uint8_t *bytes);

// Who asked for a change. `client` 0: nobody, nothing is remembered.
typedef struct fm_fs_tag {
    uint64_t client;
    uint32_t channel;
    uint64_t sequence;
} fm_fs_tag;

// The last request of a channel that was applied here.
typedef struct fm_fs_session {
    fm_fs_tag tag;
    fm_fs_chunk_id id;
    uint64_t version; // that it made
    uint32_t chain_version;
    uint32_t next; // private
} fm_fs_session;

typedef struct fm_fs_store fm_fs_store;

typedef struct fm_fs_store_options {
    uint8_t identity[16];   // of a disk that is formatted now
    int format;             // the disk is empty: begin on it
    uint64_t journal_bytes; // after which a checkpoint is taken. 0: 16 MiB
    size_t
        land_bytes; // of small changes are kept in memory before they are written to their places. 0: 1 MiB
    uint32_t sessions; // that are remembered, of the clients with the greatest numbers. 0: 65536
    fm_fs_pool *pool;  // of the buffers that it makes; NULL: none. It may be freed while the store is there
    void (*opened)(void *context, fm_status status);
    void *context;
} fm_fs_store_options;

/**
 * Begins to open; `opened` tells how it went: FM_ERR_FORMAT and FM_ERR_VERSION (the disk holds something else),
 * FM_ERR_IO, also when what was durable is not there any more; FM_ERR_NOMEM. Where the disk is empty and `format` is
 * not set: FM_ERR_NOT_FOUND.
 */
fm_status fm_fs_store_new(fm_fs_disk *disk, const fm_fs_store_options *options, fm_fs_store **out_store);
// Frees all memory, of operations under way too; none of them completes.
void fm_fs_store_free(fm_fs_store *store);

const uint8_t *fm_fs_store_identity(const fm_fs_store *store); // 16 bytes that no other formatted disk has
// FM_OK, or why nothing works any more: a flush failed, and what the disk holds is unknown.
fm_status fm_fs_store_health(const fm_fs_store *store);
uint64_t fm_fs_store_used_bytes(const fm_fs_store *store); // by blocks
size_t fm_fs_store_count(const fm_fs_store *store);        // chunks that are not removed
size_t fm_fs_store_pending_count(const fm_fs_store *store);
// Pending versions of chunks that are not there.
size_t fm_fs_store_creating_count(const fm_fs_store *store);

const fm_fs_chunk *fm_fs_store_find(const fm_fs_store *store, const fm_fs_chunk_id *id);
// The first chunk behind `id` (NULL: of all), removed ones too; NULL at the end.
const fm_fs_chunk *fm_fs_store_after(const fm_fs_store *store, const fm_fs_chunk_id *id);

static inline int fm_fs_chunk_is_there(const fm_fs_chunk *chunk) // NULL: never
{
    return chunk && chunk->committed && !chunk->committed->removed;
}
// The version in which the chunk is, or is not there. `chunk` may be NULL: it has no entry.
uint64_t fm_fs_store_version(const fm_fs_store *store, const fm_fs_chunk *chunk);

/* Forgetting */

uint64_t fm_fs_store_floor(const fm_fs_store *store);
// Chunks that are not there have at least this version from now on. A lower floor than before forgets first what the old
// one covered. Durable as a commit is.
fm_status fm_fs_store_floor_set(fm_fs_store *store, uint64_t version);
// Forgets removed chunks of this version (at most the floor) and of earlier ones; those that have a pending version stay.
// Looks at no more than `limit` entries. Returns how many it forgot.
size_t fm_fs_store_forget(fm_fs_store *store, uint64_t version, size_t limit);
size_t fm_fs_store_removed_count(const fm_fs_store *store); // entries that may be forgotten some day, or more
uint64_t fm_fs_store_removed_max(const fm_fs_store *store); // no removed chunk has a later version

enum fm_fs_apply_kind {
    FM_FS_APPLY_WRITE,    // `data` at `offset`; a gap before it becomes zeros
    FM_FS_APPLY_TRUNCATE, // to `size` bytes, shorter or longer
    FM_FS_APPLY_REMOVE,
    FM_FS_APPLY_WHOLE,          // `data` is all of it, whatever was there
    FM_FS_APPLY_REPLACE,        // `data` is all of it; committed at once, whatever was there
    FM_FS_APPLY_REPLACE_REMOVED // committed at once as removed
};

// A change. Zero it, set the first block; it stays until done().
typedef struct fm_fs_apply {
    enum fm_fs_apply_kind kind;
    fm_fs_chunk_id id;
    uint64_t version;
    uint32_t chain_version;
    uint32_t offset;
    uint32_t size;
    fm_fs_buffer *data; // referenced until done()
    fm_fs_tag tag;
    void (*done)(struct fm_fs_apply *apply);
    void *context;

    // FM_OK: durable. FM_ERR_SPACE, FM_ERR_LIMIT (beyond 64 MiB), FM_ERR_FS_ROT (the committed bytes do not have their
    // checksum), FM_ERR_FORMAT (the data has another sum than is known of it), FM_ERR_IO, FM_ERR_NOMEM: nothing changed.
    fm_status status;

    int step; // private, as all that follows
    uint64_t lsn;
    fm_fs_store *store;
    fm_fs_chunk_copy *base;
    struct fm_fs_overlay *overlay; // that the base had when it was read
    fm_fs_chunk_copy *fresh;
    fm_fs_buffer *work;            // bytes of the chunk from `work_from` on
    uint32_t work_from, work_to;   // whole grains
    uint32_t patch_from, patch_to; // whole pages; `patch_to` 0: the change gets a block of its own
    fm_fs_disk_io io;
    struct fm_fs_apply *next;
    struct fm_fs_apply *live_before;
    struct fm_fs_apply *live_after;
} fm_fs_apply;

void fm_fs_store_apply(fm_fs_store *store, fm_fs_apply *apply);

// Makes the pending version the committed one. Durable with the next change that is; until then a crash leaves it
// pending. FM_ERR_STATE: another one, or none, is pending.
fm_status fm_fs_store_commit(fm_fs_store *store, const fm_fs_chunk_id *id, uint64_t version,
                             uint32_t chain_version);

// The channel's last request; NULL: none known.
const fm_fs_session *fm_fs_store_session(const fm_fs_store *store, uint64_t client, uint32_t channel);
// The n-th of all; NULL at the end.
const fm_fs_session *fm_fs_store_session_at(const fm_fs_store *store, size_t n);
// Remembers a request unless a later one of its channel is known. Durable as a commit is.
fm_status fm_fs_store_session_put(fm_fs_store *store, const fm_fs_session *session);
// Forgets those that were applied under an earlier version of the chain.
fm_status fm_fs_store_session_forget(fm_fs_store *store, uint32_t chain_version);
// Requests of no client up to this one are known any more: they may have been made, or not.
uint64_t fm_fs_store_forgotten_client(const fm_fs_store *store);
// None above this one has been forgotten or had a request here.
uint64_t fm_fs_store_newest_client(const fm_fs_store *store);
// Forgets all up to this one.
fm_status fm_fs_store_clients_forget(fm_fs_store *store, uint64_t client);

// Waits until all that was done so far is durable.
typedef struct fm_fs_flush {
    void (*done)(struct fm_fs_flush *flush);
    void *context;
    fm_status status;
    uint64_t lsn; // private
    struct fm_fs_flush *next;
} fm_fs_flush;
void fm_fs_store_flush(fm_fs_store *store, fm_fs_flush *flush);

// A read of one version. Zero it, set the first block; it stays until done().
typedef struct fm_fs_chunk_read {
    fm_fs_chunk_copy *copy; // of a chunk of this store, not removed
    uint32_t offset;
    uint32_t size; // cut at the end of the chunk
    // NULL, or where the bytes may lie: the disk writes there if they are whole pages and grains, and the memory aligned; else
    // they come in another buffer. The caller keeps a reference.
    fm_fs_buffer *into;
    void (*done)(struct fm_fs_chunk_read *read);
    void *context;

    // FM_OK, FM_ERR_FS_ROT (a checksum is wrong), FM_ERR_IO, FM_ERR_NOMEM.
    fm_status status;
    fm_fs_buffer *bytes; // FM_OK: what was read; its owner is the caller, who drops it
    uint32_t crc;        // their CRC32C

    uint32_t from; // private, as all that follows
    struct fm_fs_overlay *overlay;
    fm_fs_store *store;
    fm_fs_disk_io io;
    struct fm_fs_chunk_read *live_before;
    struct fm_fs_chunk_read *live_after;
} fm_fs_chunk_read;

void fm_fs_store_read(fm_fs_store *store, fm_fs_chunk_read *read);

#endif
