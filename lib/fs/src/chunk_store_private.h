// What the parts of the chunk store share. chunk_store.h says what it does.
#ifndef FATHOM_CHUNK_STORE_PRIVATE_H
#define FATHOM_CHUNK_STORE_PRIVATE_H

#include "chunk_store.h"

/*
 * Batch of the journal, at a multiple of FM_FS_PAGE, padded to one with zeros:
 *
 *     OFFSET SIZE
 *          0    8  magic "FMJRNL02"
 *          8    8  generation of the checkpoint that it follows
 *         16    8  number of its first record, counted from the formatting of the disk
 *         24    8  all records up to and with this one were durable when the batch was written
 *         32    4  records
 *         36    4  their bytes
 *         40    4  0
 *         44    4  CRC32C of bytes 0 to 43 and of the records
 *         48       records
 *
 * Checkpoint, header in page 0, records from page 1 on:
 *
 *     OFFSET SIZE
 *          0    8  magic "FMCHKP02"
 *          8    8  generation
 *         16    8  number of the last record before its journal
 *         24    8  bytes of its records
 *         32   16  identity of the disk
 *         48    8  all records up to and with this one were durable before the header was written
 *         56    4  CRC32C of its records
 *         60    4  CRC32C of bytes 0 to 59
 *
 * Record: type (1), bytes of the body (2), body. Copy: version (8), chain version (4), block (4), size (4), class (1),
 * removed (1), grains (2), CRC32C of each grain (4 each). Session: client (8), channel (4), sequence (8), chunk id
 * (16), version (8), chain version (4).
 *
 *     APPLY     id (16), has a session (1), session, copy       pending becomes this copy
 *     COMMIT    id (16), version (8), chain version (4)         the pending copy, if it has that version
 *     REPLACE   as APPLY                                        committed becomes this copy, nothing is pending
 *     SESSION   session
 *     FORGET    chain version (4)                               sessions of earlier ones
 *     FLOOR     version (8)                                     of what is not there
 *     CLIENTS   client (8)                                      sessions up to this one
 *     PATCH     as APPLY, offset (4), bytes (or none)           as APPLY; its block is the committed copy's, with these bytes
 *     OWED      id (16), offset (4), bytes                      the committed copy's block lacks these bytes (checkpoints)
 *
 * All are absolute: replaying one on a state that has it already changes nothing in the end (for patches chunk_patch.c says
 * why). So a checkpoint may be written while records are added.
 *
 * The last digits of a magic are the format's version. Version 1 had no PATCH and OWED. A store of version 1 is opened, and two
 * checkpoints are taken before anything else happens, so that an older release finds none that it takes for whole.
 */
enum {
    FM_FS_RECORD_APPLY = 1,
    FM_FS_RECORD_COMMIT,
    FM_FS_RECORD_REPLACE,
    FM_FS_RECORD_SESSION,
    FM_FS_RECORD_FORGET,
    FM_FS_RECORD_FLOOR,
    FM_FS_RECORD_PATCH,
    FM_FS_RECORD_OWED,
    FM_FS_RECORD_CLIENTS
};
enum {
    FM_FS_STORE_VERSION = 2, // one digit of the magics
    FM_FS_BATCH_HEADER = 48,
    FM_FS_CHECKPOINT_HEADER = 64,
    FM_FS_SESSION_BYTES = 48,
    FM_FS_COPY_BYTES = 24, // without its checksums
    // Without the bytes of a patch.
    FM_FS_RECORD_MAX = 3 + 17 + FM_FS_SESSION_BYTES + FM_FS_COPY_BYTES + 4 * FM_FS_CHUNK_GRAINS_MAX + 4,
    // A change of more bytes gets a block of its own. They are written twice, and a record holds less than 64 KiB.
    FM_FS_PATCH_BYTES = 32 << 10,
    FM_FS_OVERLAY_MAX = 64,      // patches of a version: what a read has to look through
    FM_FS_OWED_BYTES = 64 << 20, // beyond, changes get blocks of their own until the disk has caught up
    // A batch beyond this waits for the next: what is read at once when the journal is replayed.
    FM_FS_BATCH_BYTES = 1 << 20,
    FM_FS_SESSIONS_MAX = 65536 // 4 MiB
};

struct fm_fs_patch { // from the beginning of a page to the end of one, or of the chunk as it then was
    unsigned refs;
    uint32_t from; // in the chunk
    fm_fs_buffer *bytes;
};

struct fm_fs_overlay { // never changes
    unsigned refs;
    uint32_t count;
    struct fm_fs_patch *patches[]; // in the order of their changes
};

// The versions that have one block. There is one where a block has, or had, an overlay.
struct fm_fs_share {
    fm_fs_store *store;
    fm_fs_chunk_id id;
    unsigned copies;            // in memory, readers' too
    uint64_t lsn;               // when this is durable, those that went before are gone after a crash too
    uint32_t reach;             // no version had more bytes of the block
    struct fm_fs_share *before; // in the ring of those that owe
    struct fm_fs_share *after;
    fm_fs_chunk_copy *landing; // NULL: not under way
    struct fm_fs_overlay *overlay;
    uint32_t at; // the patch that is written
    int failed;
    struct fm_fs_share *next; // that lands too
    fm_fs_disk_io io;
};

struct fm_fs_store_bytes { // grows
    uint8_t *data;
    size_t size;
    size_t room;
};

struct fm_fs_store_class {
    uint64_t *used; // a bit for each block
    uint32_t words;
    uint32_t hint;          // no free block before this word
    uint32_t (*shift)[256]; // chunk_crc.c; NULL: not needed yet
    int syncing;
    struct fm_fs_apply *written; // wait for the next sync
    struct fm_fs_apply *in_sync; // wait for the one under way
    fm_fs_disk_io io;
};

struct fm_fs_store_freed {
    uint8_t size_class;
    uint32_t block;
    uint64_t lsn; // the block is free when this is durable
};

struct fm_fs_store {
    fm_fs_disk *disk;
    fm_fs_store_options options;
    uint8_t identity[16];
    fm_status broken;
    int open; // opened() was told FM_OK

    fm_fs_chunk *root;
    size_t live_count;
    size_t pending_count;
    size_t creating_count;
    uint64_t used_bytes;

    // Removed chunks, a ring in order of removal. One that was made again has an entry here still.
    uint64_t floor;
    uint64_t removed_max;
    fm_fs_chunk_id *removed;
    size_t removed_first;
    size_t removed_count;
    size_t removed_room;

    struct fm_fs_store_class classes[FM_FS_CHUNK_CLASSES];
    struct fm_fs_store_freed *freed; // ascending by lsn
    size_t freed_count;
    size_t freed_room;

    fm_fs_session *sessions;
    uint32_t session_count;
    uint32_t session_room;
    uint32_t *session_heads; // by hash; UINT32_MAX: none
    uint32_t session_buckets;
    uint64_t forgotten_client; // no session of one up to this is there
    uint64_t newest_client;    // of which one was

    // Journal. `lsn` numbers records.
    uint64_t generation;
    uint64_t lsn;                   // of the last record
    uint64_t durable;               // up to this one
    uint64_t flushing;              // the last one of the batch on its way
    int flush_step;                 // 0: none
    uint64_t journal_at;            // where the next batch goes
    struct fm_fs_store_bytes batch; // records that wait, behind room for a header
    uint32_t batch_records;
    fm_fs_buffer *flush_bytes;
    fm_fs_disk_io flush_io;
    struct fm_fs_apply *waiting_first; // for their record, ascending by lsn
    struct fm_fs_apply *waiting_last;
    fm_fs_flush *flushes; // in any order

    // Checkpoint
    int checkpoint_step; // 0: none
    uint64_t checkpoint_generation;
    uint64_t checkpoint_lsn;  // before its journal
    uint64_t checkpoint_need; // must be durable before it counts
    uint64_t checkpoint_at;
    uint64_t checkpoint_bytes;
    uint32_t checkpoint_crc;
    fm_fs_chunk_id checkpoint_after;
    int checkpoint_any; // `checkpoint_after` is set
    int checkpoint_sessions_done;
    struct fm_fs_store_bytes checkpoint_out;
    fm_fs_buffer *checkpoint_io_bytes;
    fm_fs_disk_io checkpoint_io;

    // Patches
    size_t owed_bytes;           // of all patches in memory
    struct fm_fs_share owing;    // head of a ring
    int land_soon;               // an overlay has become long
    struct fm_fs_share *landing; // all that land now
    unsigned landing_writes;     // under way
    unsigned landing_classes;    // a bit for each that is to be synced
    fm_fs_disk_io landing_io;

    // Opening
    struct fm_fs_store_opening *opening;
    int checkpoints_due; // before it is open

    fm_fs_apply live_applies; // heads of rings
    fm_fs_chunk_read live_reads;
};

// chunk_tree.c
fm_fs_chunk *fm_fs_store_get(const fm_fs_store *store, const fm_fs_chunk_id *id); // NULL: never there
fm_fs_chunk *fm_fs_store_make(fm_fs_store *store, const fm_fs_chunk_id *id); // finds or adds; NULL: no memory
fm_fs_chunk_copy *fm_fs_chunk_copy_new(uint32_t size, unsigned size_class);  // one reference, no block
void fm_fs_chunk_copy_drop(fm_fs_store *store, fm_fs_chunk_copy *copy);      // NULL is allowed
void fm_fs_chunk_copy_sum(fm_fs_chunk_copy *copy, const uint8_t *bytes);     // sets the checksums
fm_status fm_fs_chunk_copy_check(const fm_fs_chunk_copy *copy, const uint8_t *bytes, uint32_t from,
                                 uint32_t size);
unsigned fm_fs_chunk_class(uint32_t size);
void fm_fs_store_drop(fm_fs_store *store, fm_fs_chunk *chunk); // its entry; there is no pending version
void fm_fs_store_tree_free(fm_fs_store *store);
void fm_fs_store_set_pending(fm_fs_store *store, fm_fs_chunk *chunk, fm_fs_chunk_copy *copy);
void fm_fs_store_promote(fm_fs_store *store, fm_fs_chunk *chunk, uint32_t chain_version);
void fm_fs_store_set_committed(fm_fs_store *store, fm_fs_chunk *chunk, fm_fs_chunk_copy *copy);

// chunk_alloc.c
fm_status fm_fs_store_block_take(fm_fs_store *store, unsigned size_class, uint32_t *out_block);
fm_status fm_fs_store_block_mark(fm_fs_store *store, unsigned size_class,
                                 uint32_t block);                                     // used, if it was free
void fm_fs_store_block_free(fm_fs_store *store, unsigned size_class, uint32_t block); // once it is safe
void fm_fs_store_block_release(fm_fs_store *store);                                   // what has become safe

// chunk_overlay.c
struct fm_fs_patch *fm_fs_patch_new(fm_fs_store *store, uint32_t from,
                                    fm_fs_buffer *bytes); // NULL: no memory
void fm_fs_patch_drop(fm_fs_store *store, struct fm_fs_patch *patch);
// Without what the patch covers; NULL: no memory.
struct fm_fs_overlay *fm_fs_overlay_with(const struct fm_fs_overlay *old, struct fm_fs_patch *patch);
struct fm_fs_overlay *fm_fs_overlay_ref(struct fm_fs_overlay *overlay);
void fm_fs_overlay_drop(fm_fs_store *store, struct fm_fs_overlay *overlay);
// Lays it over these bytes of the chunk.
void fm_fs_overlay_lay(const struct fm_fs_overlay *overlay, uint8_t *bytes, uint32_t from, uint32_t size);
// Takes the patches of `paid` from the copy's overlay.
void fm_fs_overlay_settle(fm_fs_store *store, fm_fs_chunk_copy *copy, const struct fm_fs_overlay *paid);
// `copy` gets the block's share and the overlay of `base`, which it may be, and the patch (NULL: none). `base` NULL: it has the
// block alone.
fm_status fm_fs_share_owe(fm_fs_store *store, const fm_fs_chunk_id *id, fm_fs_chunk_copy *base,
                          fm_fs_chunk_copy *copy, struct fm_fs_patch *patch);
int fm_fs_share_leave(fm_fs_store *store, fm_fs_chunk_copy *copy); // 1: nobody else has its block
void fm_fs_share_end(fm_fs_chunk_copy *copy);                      // nobody else has its block
void fm_fs_share_list(fm_fs_store *store, struct fm_fs_share *share, int first);
void fm_fs_share_unlist(struct fm_fs_share *share);

// chunk_patch.c
int fm_fs_patch_plan(fm_fs_apply *apply, uint32_t size); // whether it is a patch; sets its ranges
int fm_fs_patch_needs_base(const fm_fs_apply *apply);
// `work` has room, and the base's bytes where they are needed.
fm_status fm_fs_patch_apply(fm_fs_store *store, fm_fs_apply *apply, uint32_t size);
// What follows the copy in a PATCH, and the chunk in an OWED.
fm_status fm_fs_patch_replay(fm_fs_store *store, fm_fs_chunk *chunk, fm_fs_chunk_copy *copy,
                             const uint8_t *from, size_t size);
fm_status fm_fs_owed_replay(fm_fs_store *store, fm_fs_chunk *chunk, const uint8_t *from, size_t size);

// chunk_land.c
void fm_fs_store_land(fm_fs_store *store); // something has become durable
void fm_fs_store_land_free(fm_fs_store *store);

// chunk_crc.c: the CRC32C of these verified bytes of a copy
uint32_t fm_fs_store_crc(fm_fs_store *store, const fm_fs_chunk_copy *copy, const uint8_t *bytes,
                         uint32_t offset, uint32_t size);

// chunk_session.c
void fm_fs_store_session_set(fm_fs_store *store, const fm_fs_session *session, fm_status *status);
void fm_fs_store_session_drop(fm_fs_store *store, uint32_t chain_version);
void fm_fs_store_clients_drop(fm_fs_store *store, uint64_t client);

// chunk_forget.c
void fm_fs_store_removed_add(fm_fs_store *store, const fm_fs_chunk *chunk);
void fm_fs_store_floor_replay(fm_fs_store *store, uint64_t version);

// chunk_record.c
size_t fm_fs_record_floor(uint8_t *to, uint64_t version);
size_t fm_fs_record_clients(uint8_t *to, uint64_t client);
fm_status fm_fs_store_bytes_room(struct fm_fs_store_bytes *to, size_t size); // for so many more
fm_status fm_fs_store_bytes_add(struct fm_fs_store_bytes *to, const void *bytes, size_t size);
size_t fm_fs_record_copy(uint8_t *to, int type, const fm_fs_chunk_id *id, const fm_fs_chunk_copy *copy,
                         const fm_fs_session *session);
// The patch's bytes, if there is one, follow them.
size_t fm_fs_record_patch(uint8_t *to, const fm_fs_chunk_id *id, const fm_fs_chunk_copy *copy,
                          const struct fm_fs_patch *patch, const fm_fs_session *session);
size_t fm_fs_record_owed(uint8_t *to, const fm_fs_chunk_id *id, const struct fm_fs_patch *patch);
size_t fm_fs_record_commit(uint8_t *to, const fm_fs_chunk_id *id, uint64_t version, uint32_t chain_version);
size_t fm_fs_record_session(uint8_t *to, const fm_fs_session *session);
size_t fm_fs_record_forget(uint8_t *to, uint32_t chain_version);
// Applies the record at the beginning of these bytes and tells its size; 0: more bytes are needed. FM_ERR_FORMAT.
fm_status fm_fs_record_replay(fm_fs_store *store, const uint8_t *bytes, size_t size, size_t *out_used);
// The records of the batch at the beginning of these bytes, if there is a sound one.
struct fm_fs_batch {
    uint64_t generation, first, durable;
    uint32_t records, bytes;
};
int fm_fs_batch_read(const uint8_t *bytes, size_t size, struct fm_fs_batch *out_batch);
void fm_fs_batch_seal(uint8_t *bytes, const struct fm_fs_batch *batch); // records are behind the header

// chunk_journal.c
fm_status fm_fs_journal_add(fm_fs_store *store, const uint8_t *record, size_t size, uint64_t *out_lsn);
// A record that ends with these bytes. `patch` may be NULL.
fm_status fm_fs_journal_add_patch(fm_fs_store *store, const uint8_t *record, size_t size,
                                  const struct fm_fs_patch *patch, uint64_t *out_lsn);
void fm_fs_journal_kick(fm_fs_store *store);
void fm_fs_journal_fail(fm_fs_store *store, fm_status status);

// chunk_open.c
fm_status fm_fs_store_open_begin(fm_fs_store *store);
void fm_fs_store_open_end(fm_fs_store *store, fm_status status);
void fm_fs_store_open_free(fm_fs_store *store);
void fm_fs_store_open_checkpointed(fm_fs_store *store); // a checkpoint that belongs to opening is durable

// chunk_checkpoint.c
struct fm_fs_store_header {
    uint64_t generation, lsn, bytes, durable;
    uint32_t crc;
    uint8_t identity[16];
    unsigned version;
};
// 0: it is none that is sound.
int fm_fs_store_checkpoint_header(const uint8_t *from, struct fm_fs_store_header *out_header);
// After the journal's switch; the record before that journal is `lsn`.
void fm_fs_store_checkpoint(fm_fs_store *store, uint64_t lsn);
void fm_fs_store_checkpoint_poll(fm_fs_store *store); // something has become durable

// chunk_store.c
// Writes the work's bytes from `from` on into the block of `fresh`, then goes on as below.
void fm_fs_store_apply_write(fm_fs_store *store, fm_fs_apply *apply, uint32_t from);
void fm_fs_store_apply_durable(fm_fs_store *store, fm_fs_apply *apply);
void fm_fs_store_apply_end(fm_fs_store *store, fm_fs_apply *apply, fm_status status);

#endif
