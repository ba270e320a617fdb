/**
 * @file meta.h
 * The names' records in the store, and what the operations on them share. Keys are a letter and big-endian numbers, so that
 * what belongs to one node is one range; values are little-endian.
 *
 *     KEY                 VALUE
 *     F                   format: 4, inline_max: 4
 *     A                   8: the next inode or data number that nobody has
 *     O                   8: of restored names, the first number that was not given away before; when that was 8
 *     I ino               a node, below
 *     D dir name          an entry: ino 8, type 4 (S_IFMT of its mode)
 *     B ino               an inline file's bytes, or a link's target
 *     X ino name          an extended attribute
 *     S ino client        4: how often the client holds the file open
 *     L ino               its locks, 40 each: client 8, owner 8, begin 8, end 8, kind 1, whether of flock 1, 2 of 0, pid 4
 *     C client            8: when its lease ends
 *     Q dir               a quota: bytes_max, inodes_max, bytes, inodes, 8 each
 *     R client slot(4)    the slot's last request: sequence 8, time 8, ino of the result 8, made 4
 *     G due number        work for the collector: kind 4; for DATA also reach 8 and a layout
 *
 *     a node: OFFSET SIZE
 *          0    4  format: 1        40    8  atime         80    8  project
 *          4    4  mode             48    8  mtime         88    8  data
 *          8    4  nlink            56    8  ctime         96    8  reach
 *         12    4  uid              64    8  version      104   16  layout: chunk_bytes, stripe,
 *         16    4  gid              72    8  parent                 chains, base
 *         20    4  flags            32    8  size
 *         24    8  rdev; of a file: cuts
 */
#ifndef FATHOM_META_H
#define FATHOM_META_H

#include <pthread.h>
#include <string.h>
#include <sys/stat.h>

#include "fathom/fs_meta.h"
#include "fathom/mem.h"
#include "fs_planted.h"

enum {
    FM_FS_META_FORMAT = 1,
    FM_FS_META_NODE_BYTES = 120,
    FM_FS_META_DIRENT_BYTES = 12,
    FM_FS_META_REQUEST_BYTES = 28,
    FM_FS_META_QUOTA_BYTES = 32,
    FM_FS_META_RESTORED_BYTES = 16,
    FM_FS_META_DATA_WORK_BYTES = 28,
    FM_FS_META_INLINE_MAX = 16384,
    FM_FS_META_SLOTS = 64 // requests that change something, at once, in one process
};

enum fm_fs_meta_work {
    FM_FS_META_WORK_NODE = 1, // a node without names: `number` is its ino
    FM_FS_META_WORK_TREE = 2, // a directory without a name, to be emptied
    FM_FS_META_WORK_DATA = 3  // chunks that a truncation left: `number` is their data
};

struct fm_fs_meta {
    fm_fs_kv *kv;                     // NULL: they are asked of a service
    struct fm_fs_meta_remote *remote; // the way there
    fm_fs_meta_options options;
    uint64_t client; // drawn: names this process's slots
    uint64_t leased; // the client of this process that has a lease; atomic
    pthread_mutex_t lock;
    pthread_cond_t slot_free;
    uint64_t busy_slots; // a bit each
    uint64_t sequences[FM_FS_META_SLOTS];
    uint64_t next_number, end_number; // numbers that are this process's
    uint8_t sweep[13];                // the key behind which old requests are looked for next
    size_t sweep_size;
};

struct fm_fs_meta_key {
    uint8_t bytes[FM_FS_KV_KEY_MAX];
    size_t size;
};

// A request: what the operations' bodies take and give back. A body may run several times.
struct fm_fs_meta_op {
    fm_fs_meta *meta;
    const fm_fs_who *who;
    fm_status (*body)(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op);
    uint64_t ino, parent, to_parent;
    const char *name, *to_name;
    uint32_t mode;
    unsigned flags;
    uint64_t number; // a fresh one
    void *more;      // what else the operation has
    fm_fs_node node; // the result
    int made;
    int once; // must not happen twice: protected by its slot
    int own;  // no part of what a served client asked for
    int64_t now_ns;
    uint64_t client, sequence; // set by fm_fs_meta_run()
    uint32_t slot;
    int look;        // for the record of an earlier try
    uint64_t leased; // the asker's client, if it has a lease
};

// meta.c

// Runs op->body in transactions until it is known to have happened, or failed.
fm_status fm_fs_meta_run(struct fm_fs_meta_op *op);
// Likewise, only reading.
fm_status fm_fs_meta_read(struct fm_fs_meta_op *op);
// What this thread asks for from now on is `who`'s, a client elsewhere (NULL: its own again): every change is made once by
// that client's slot.
void fm_fs_meta_serve_for(const fm_fs_who *who);
// `count` (1 or 2) consecutive numbers that nobody ever had.
fm_status fm_fs_meta_number(fm_fs_meta *meta, uint64_t *out_number);

// meta_remote.c: see meta_remote.h

void fm_fs_meta_remote_free(struct fm_fs_meta_remote *remote);

// meta_record.c

struct fm_fs_meta_key fm_fs_meta_key(char kind, uint64_t number);
struct fm_fs_meta_key fm_fs_meta_key_two(char kind, uint64_t number, uint64_t other);
struct fm_fs_meta_key fm_fs_meta_key_name(char kind, uint64_t number, const char *name);
// The range of all keys that begin with kind and number.
void fm_fs_meta_span(char kind, uint64_t number, struct fm_fs_meta_key *out_lo,
                     struct fm_fs_meta_key *out_hi);
uint64_t fm_fs_meta_number_at(const uint8_t *bytes); // big-endian
fm_fs_kv_bytes fm_fs_meta_bytes(const struct fm_fs_meta_key *key);
// The key's value; data is NULL when there is none.
fm_status fm_fs_meta_get(fm_fs_kv_tx *tx, const struct fm_fs_meta_key *key, fm_fs_kv_lock lock,
                         fm_fs_kv_bytes *out_value);
fm_status fm_fs_meta_put(fm_fs_kv_tx *tx, const struct fm_fs_meta_key *key, const void *value, size_t size);
fm_status fm_fs_meta_delete(fm_fs_kv_tx *tx, const struct fm_fs_meta_key *key);
void fm_fs_meta_node_encode(const fm_fs_node *node, uint8_t to[FM_FS_META_NODE_BYTES]);
fm_status fm_fs_meta_node_decode(uint64_t ino, fm_fs_kv_bytes value, fm_fs_node *out_node);
// FM_ERR_NOT_FOUND.
fm_status fm_fs_meta_load(fm_fs_kv_tx *tx, uint64_t ino, fm_fs_kv_lock lock, fm_fs_node *out_node);
fm_status fm_fs_meta_store(fm_fs_kv_tx *tx, const fm_fs_node *node);
// The entry of a name; ino 0: there is none.
fm_status fm_fs_meta_entry_get(fm_fs_kv_tx *tx, uint64_t dir, const char *name, fm_fs_kv_lock lock,
                               uint64_t *out_ino);
fm_status fm_fs_meta_entry_put(fm_fs_kv_tx *tx, uint64_t dir, const char *name, const fm_fs_node *node);
fm_status fm_fs_meta_entry_delete(fm_fs_kv_tx *tx, uint64_t dir, const char *name);
// Whether any key begins so.
fm_status fm_fs_meta_any(fm_fs_kv_tx *tx, char kind, uint64_t number, int *out_any);
void fm_fs_meta_layout_put(uint8_t *to, const fm_fs_layout *layout);
void fm_fs_meta_layout_get(const uint8_t *from, fm_fs_layout *out_layout);

// meta_access.c

// FM_ERR_ARG, FM_ERR_LIMIT. "." and ".." are no names.
fm_status fm_fs_meta_name_check(const char *name);
int fm_fs_meta_is_super(const fm_fs_who *who);
int fm_fs_meta_is_owner(const fm_fs_who *who, const fm_fs_node *node);
int fm_fs_meta_in_group(const fm_fs_who *who, uint32_t gid);
// Loads a directory in which names are to be changed: it exists, is one, and `who` may.
fm_status fm_fs_meta_load_parent(fm_fs_kv_tx *tx, const fm_fs_who *who, uint64_t dir, fm_fs_node *out_dir);
// Whether `who` may take `node` out of `dir`, as far as stickiness and immutability go.
fm_status fm_fs_meta_may_take(const fm_fs_who *who, const fm_fs_node *dir, const fm_fs_node *node);
fm_status fm_fs_meta_may_change(const fm_fs_node *node); // not immutable

// meta_data.c

// fm_fs_meta_lease() for a client of another process.
fm_status fm_fs_meta_lease_other(fm_fs_meta *meta, uint64_t client, uint64_t until_ns);

// meta_lock.c

enum { FM_FS_META_LOCK_BYTES = 40 };
void fm_fs_meta_lock_encode(const fm_fs_lock *lock, uint8_t out_bytes[FM_FS_META_LOCK_BYTES]);
void fm_fs_meta_lock_decode(const uint8_t bytes[FM_FS_META_LOCK_BYTES], fm_fs_lock *out_lock);

// meta_remove.c

// A node loses a name (a directory: its only one). The node is stored, or gone.
fm_status fm_fs_meta_drop_link(fm_fs_kv_tx *tx, const struct fm_fs_meta_op *op, fm_fs_node *node);
// The collector takes it `grace_ns` after what is usual.
fm_status fm_fs_meta_work_put(fm_fs_kv_tx *tx, const struct fm_fs_meta_op *op, enum fm_fs_meta_work kind,
                              const fm_fs_node *node, uint64_t grace_ns);
// A name was made or removed in a directory; `subdirectories` of them.
fm_status fm_fs_meta_touch_dir(fm_fs_kv_tx *tx, const struct fm_fs_meta_op *op, fm_fs_node *dir,
                               int subdirectories);
fm_status fm_fs_meta_check_empty(fm_fs_kv_tx *tx, const fm_fs_node *dir, const char *name);

// meta_data.c

// Whether clients of other processes live: they may have open what this one changes.
fm_status fm_fs_meta_other_clients(fm_fs_kv_tx *tx, const struct fm_fs_meta_op *op, int *out_others);

// meta_quota.c

// Adds to what a project uses. FM_ERR_FS_QUOTA.
fm_status fm_fs_meta_charge(fm_fs_kv_tx *tx, uint64_t project, int64_t bytes, int64_t inodes);

#endif
