// What the parts of the storage service share.
#ifndef FATHOM_STORAGE_PRIVATE_H
#define FATHOM_STORAGE_PRIVATE_H

#include "storage.h"

enum { FM_FS_LOCK_BUCKETS = 64 };

typedef struct fm_fs_op fm_fs_op;

typedef struct fm_fs_target {
    fm_fs_storage *storage;
    uint32_t id;
    fm_fs_disk *disk;
    fm_fs_store *store;
    int open;
    fm_status health;  // of opening
    uint8_t local;     // enum fm_fs_local
    fm_fs_chain chain; // as the routing has it; version 0: in none
    uint8_t state;     // this target's there
    uint32_t place;
    fm_fs_op *locks[FM_FS_LOCK_BUCKETS]; // FIFO of those who hold or want a lock
    fm_fs_op *sync;                      // fills the successor
    int64_t sync_not_before_ns;
    int sync_failing;
    uint32_t synced_version; // of the chain, for which filling the successor was begun last
    fm_fs_timer scrub;
    fm_fs_chunk_id scrubbed;
    int scrubbed_any;
    uint32_t
        below_permille; // how full the fullest of those behind it in the chain is, as the last answer told
    int asks_below;     // new chunks were refused for it: it is asked again
    fm_fs_timer forget;
    fm_fs_op *raising;            // the head's, which raises the floor of the chain
    uint64_t floor_next;          // new chunks begin behind it: the floor, or what it is about to be
    uint64_t floor_safe;          // up to here removed chunks may be forgotten
    uint32_t floor_chain_version; // in which the floor was taken over from the predecessor
} fm_fs_target;

enum fm_fs_op_kind {
    FM_FS_OP_CLIENT,  // an update at the head
    FM_FS_OP_FORWARD, // an update from the predecessor
    FM_FS_OP_DRIVE,   // brings a pending version to its end
    FM_FS_OP_PUSH,    // sends a committed version to a successor that is being filled
    FM_FS_OP_REPAIR,  // fetches a chunk that has rotted here
    FM_FS_OP_READ,
    FM_FS_OP_FETCH,
    FM_FS_OP_SYNC, // fills a successor
    FM_FS_OP_SCRUB,
    FM_FS_OP_FLUSH, // waits until a sync's beginning or end is durable
    FM_FS_OP_FLOOR  // raises the floor
};

// Work under way. One struct for all kinds, so that each is found and freed alike.
struct fm_fs_op {
    fm_fs_op *before; // ring of all
    fm_fs_op *after;
    fm_fs_target *target;
    enum fm_fs_op_kind kind;
    int step;
    fm_fs_request *request;
    fm_fs_message message;
    fm_fs_op *lock_next;
    int locked;  // in the list of its lock
    int waiting; // in `timer`, for the successor: routing wakes it
    uint32_t tries;
    uint64_t version; // that the update makes
    uint64_t base;
    uint8_t flags;
    fm_fs_tag tag;         // of the request that makes it
    uint32_t sent_version; // of the chain, when it was forwarded last
    int driving;           // an older pending version goes first
    int whole;             // `payload` is all of the chunk
    int calling;
    uint32_t peer;         // index of the member asked
    fm_fs_buffer *payload; // delta, or the whole chunk
    fm_fs_timer timer;
    fm_fs_call call;
    fm_fs_apply apply;
    fm_fs_chunk_read read;
    fm_fs_flush flush;

    // Sync
    uint32_t chain_version;
    fm_fs_op *parent;
    uint32_t children;
    int child_failed;
    fm_fs_chunk_id after_id; // compared so far
    int after_any;
    int remote_done;
    fm_fs_buffer *entries;
    uint32_t entry;
    int64_t began_ns;
    uint64_t sent_bytes;
};

struct fm_fs_storage {
    fm_fs_runtime *runtime;
    fm_fs_storage_options options;
    fm_fs_target *targets;
    uint32_t count;
    fm_fs_routing routing;
    int64_t lease_until_ns;
    uint64_t incarnation;
    uint32_t manager; // index of the one that answered last
    fm_fs_timer heartbeat;
    fm_fs_call beat;
    int beating;
    int64_t beat_sent_ns;
    uint64_t beat_routing;
    fm_fs_call fetch;
    int fetching;
    fm_fs_op ops; // head of the ring
    fm_fs_storage_counts counts;
};

static inline int fm_fs_id_equal(const fm_fs_chunk_id *a, const fm_fs_chunk_id *b)
{
    return fm_fs_chunk_id_compare(a, b) == 0;
}

// storage.c
fm_fs_op *fm_fs_op_new(fm_fs_target *target, enum fm_fs_op_kind kind,
                       fm_fs_request *request); // NULL: no memory
void fm_fs_op_free(fm_fs_op *op);
// Answers the request, if there is one, with this status and version, and frees the operation.
void fm_fs_op_end(fm_fs_op *op, fm_status status, uint64_t version, fm_fs_buffer *payload);
int fm_fs_target_serves(const fm_fs_target *target);
int fm_fs_target_reads(fm_fs_target *target);               // and its lease runs
uint32_t fm_fs_target_fullness(const fm_fs_target *target); // permille: its own, or of one behind it
void fm_fs_target_fail(fm_fs_target *target);               // leaves its chain, to be filled anew
const fm_fs_member *fm_fs_target_successor(const fm_fs_target *target);
const fm_fs_member *fm_fs_target_tail(const fm_fs_target *target); // the last that is SERVING; NULL: none
void fm_fs_storage_refresh(fm_fs_storage *storage);
// Calls a member of the op's chain; `done` finds the op in call->context.
void fm_fs_op_call(fm_fs_op *op, const fm_fs_member *to, enum fm_fs_method method,
                   const fm_fs_message *message, fm_fs_buffer *payload, size_t reply_bytes,
                   void (*done)(fm_fs_call *call));
// The reply's message. FM_ERR_* of the call.
fm_status fm_fs_op_reply(const fm_fs_call *call, fm_fs_message *out_reply);
// Waits a while that grows with each try.
void fm_fs_op_wait(fm_fs_op *op, void (*fire)(void *context));

// storage_update.c
void fm_fs_lock_take(fm_fs_op *op, void (*granted)(void *op));
void fm_fs_lock_release(fm_fs_op *op);
void fm_fs_update_serve(fm_fs_target *target, fm_fs_request *request, const fm_fs_message *message);
void fm_fs_update_drive_all(fm_fs_target *target);
void fm_fs_update_push(fm_fs_op *sync, const fm_fs_chunk_id *id); // a child of `sync`

// storage_read.c
void fm_fs_read_serve(fm_fs_target *target, fm_fs_request *request, const fm_fs_message *message);
void fm_fs_ask_serve(fm_fs_target *target, fm_fs_request *request, const fm_fs_message *message);
void fm_fs_list_serve(fm_fs_target *target, fm_fs_request *request, const fm_fs_message *message);
void fm_fs_fetch_serve(fm_fs_target *target, fm_fs_request *request, const fm_fs_message *message);
void fm_fs_repair(fm_fs_target *target, const fm_fs_chunk_id *id);
void fm_fs_scrub_start(fm_fs_target *target);

// storage_forget.c
void fm_fs_forget_start(fm_fs_target *target);
void fm_fs_floor_serve(fm_fs_target *target, fm_fs_request *request, const fm_fs_message *message);
fm_status fm_fs_floor_take(fm_fs_target *target, uint64_t version); // that of the predecessor

// storage_sync.c
void fm_fs_sync_poll(fm_fs_target *target); // begins, where this target fills another
void fm_fs_sync_child(fm_fs_op *sync, fm_status status);
void fm_fs_sync_serve(fm_fs_target *target, fm_fs_request *request, const fm_fs_message *message);

#endif
