/**
 * @file kv_backend.h
 * What a back end of fathom/fs_kv.h implements: one table of operations.
 *
 * The front end (kv.c) checks arguments and limits, keeps the writes of a transaction to itself until the
 * closure has returned, lays them over what is read, and runs conflicts again. So a back end sees a transaction
 * as reads, followed by one batch of writes in ascending order of keys, each key once:
 *
 *     attempt(kv, tx):
 *         begin
 *         status = fm_fs_kv_tx_body(tx)         the closure; it calls get() and range()
 *         FM_OK: apply tx->writes and commit; otherwise roll back, unless reads must be validated first
 *         end
 *
 * As nothing is written while the closure runs, values may be handed out where they lie. Arguments are valid,
 * lengths within the limits, ranges not empty, the upper end of a range never empty. Messages are the back end's
 * to write.
 */
#ifndef FATHOM_KV_BACKEND_H
#define FATHOM_KV_BACKEND_H

#include <stdatomic.h>

#include "fathom/fs_kv.h"
#include "fathom/mem.h"

struct fm_fs_kv {
    const struct fm_fs_kv_ops *ops;
    uint64_t seed;        // of the pauses between runs
    atomic_ullong pauses; // taken so far
};

enum fm_fs_kv_write_kind { FM_FS_KV_PUT, FM_FS_KV_DELETE, FM_FS_KV_GUARD };

struct fm_fs_kv_write {
    enum fm_fs_kv_write_kind kind;
    fm_fs_kv_bytes key;
    fm_fs_kv_bytes value;
};

struct fm_fs_kv_tx {
    fm_fs_kv *kv;
    unsigned flags;
    fm_fs_kv_closure closure;
    void *context;
    void *engine;     // the back end's, for one attempt
    fm_arena arena;   // what this run has copied
    fm_status failed; // of the first call that failed in this run
    size_t ops;       // writing calls of this run
    size_t bytes;     // and what they were given
    size_t write_count;
    struct fm_fs_kv_write writes[FM_FS_KV_OPS_MAX]; // ascending by key, each key once
};

struct fm_fs_kv_ops {
    const char *name;
    // `where` is the specification behind the scheme; `options` are complete.
    fm_status (*open)(const char *where, const fm_fs_kv_options *options, fm_fs_kv **out_kv);
    void (*close)(fm_fs_kv *kv);
    // One run as above, by any number of threads at once. FM_ERR_FS_CONFLICT: nothing happened, run it again.
    fm_status (*attempt)(fm_fs_kv *kv, fm_fs_kv_tx *tx);
    // Sets value and found of the items.
    fm_status (*get)(fm_fs_kv_tx *tx, fm_fs_kv_item **items, size_t count, fm_fs_kv_lock lock);
    // Up to `limit` items into `items`; sets *count. Only FM_FS_KV_REVERSE may be set in `flags`.
    fm_status (*range)(fm_fs_kv_tx *tx, fm_fs_kv_bytes lo, fm_fs_kv_bytes hi, size_t limit, unsigned flags,
                       fm_fs_kv_item *items, size_t *count);
    // Lets about `ns` pass before the next attempt.
    void (*pause)(fm_fs_kv *kv, uint64_t ns);
};

extern const struct fm_fs_kv_ops fm_fs_kv_memory_ops;
extern const struct fm_fs_kv_ops fm_fs_kv_lmdb_ops;
extern const struct fm_fs_kv_ops fm_fs_kv_postgresql_ops;

// kv.c

// Runs the closure with an empty set of writes; any thread may do it. Returns the failure of a call on `tx`, if
// there was one, or else what the closure returned. Outside it the writes remain until the next run.
fm_status fm_fs_kv_tx_body(fm_fs_kv_tx *tx);
// The order of keys: negative, 0, positive.
int fm_fs_kv_compare(fm_fs_kv_bytes a, fm_fs_kv_bytes b);

#endif
