/**
 * @file fs_kv.h
 * A transactional key-value store: one flat, ordered space of keys that many programs change at once, each
 * change whole and as if it were alone. Metadata and cluster state live in it.
 *
 *     static fm_status move(fm_fs_kv_tx *tx, void *context)        // takes one from "a", gives it to "b"
 *     {
 *         fm_fs_kv_item items[2] = {{.key = {"a", 1}}, {.key = {"b", 1}}};
 *         uint64_t a, b;
 *         FM_TRY(fm_fs_kv_get(tx, items, 2, FM_FS_KV_LOCK_UPDATE));  // one round trip
 *         ...
 *         FM_TRY(fm_fs_kv_put(tx, items[0].key, (fm_fs_kv_bytes){&a, 8}));
 *         return fm_fs_kv_put(tx, items[1].key, (fm_fs_kv_bytes){&b, 8});
 *     }
 *     FM_TRY(fm_fs_kv_open("lmdb:/data/meta", NULL, &kv));
 *     FM_TRY(fm_fs_kv_run(kv, 0, move, context));                    // durable when it returns FM_OK
 *     fm_fs_kv_close(kv);
 *
 * ## Transactions
 * A transaction is a closure: a function that reads and writes through the fm_fs_kv_tx it is given, and
 * returns FM_OK to have its writes committed, or a failure to have nothing happen. fm_fs_kv_run() is the only
 * way to run one. There is no begin and commit in the open, because that is what lets LMDB put the closures
 * of many threads into one commit.
 *
 * A closure may be run any number of times, and **by another thread** that is inside fm_fs_kv_run() on the
 * same store at that moment. So it has no effect but through `tx` and variables that it sets afresh in each
 * run, keeps nothing in thread-local storage, takes no lock that its caller holds, calls no fm_fs_kv_run()
 * (FM_ERR_STATE), and returns soon: LMDB runs closures one after another, and PostgreSQL keeps memory for each
 * open one. 5 s is the longest that every engine bears well. What a closure computed is to be believed only when
 * fm_fs_kv_run() has returned what the closure returned.
 *
 * ## Promises
 * - Transactions are strictly serializable: every one, read-only and failing ones included, sees the store as
 *   if all ran one after another, in an order in which one that began after another had returned comes later.
 *   A range that was read is part of it: no key can appear in it unseen.
 * - FM_OK: committed whole, and durable (a power cut does not undo it), unless FM_FS_KV_NO_SYNC.
 * - FM_ERR_FS_MAYBE: the outcome is unknown; the commit was sent and the answer is lost. It happened whole or
 *   not at all. Whoever must know stores a record under a key of his own (client, sequence number) in the
 *   same transaction and looks for it in the next. It is never run again by itself.
 * - Any other failure: nothing was changed.
 * - Conflicts are met by running the closure again after a random pause (from 50 us, doubling to at most 25
 *   ms). After 128 runs fm_fs_kv_run() gives up with FM_ERR_FS_CONFLICT.
 *
 * A transaction sees its own writes, in gets and in ranges. Such a read of its own write is no read of the
 * store.
 *
 * ## Errors
 * A call on a `tx` that fails spoils the run: nothing will be committed and every later call returns that
 * same failure. The closure passes it on; fm_fs_kv_run() reacts to it whatever the closure returns. Any call
 * may fail with FM_ERR_ARG, FM_ERR_LIMIT (a limit below is exceeded, or too many read at once),
 * FM_ERR_NOMEM, FM_ERR_IO, FM_ERR_FS_CONFLICT (inside closures; fm_fs_kv_run() handles it) and
 * FM_ERR_UNAVAILABLE (a server cannot be reached).
 *
 * ## Threads, processes
 * A store is used by any number of threads. No threads are started. The directory of an LMDB store may be open
 * in many processes of one machine (never over a network file system), once in each. Stores do not survive
 * fork(): the child leaves them alone.
 */
#ifndef FATHOM_FS_KV_H
#define FATHOM_FS_KV_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The same limits for every engine, so that what runs on one runs on all. */
#define FM_FS_KV_KEY_MAX \
    320 /**< bytes of a key, at least 1; a name of 255 with what goes before it; LMDB allows 511 */
#define FM_FS_KV_VALUE_MAX 65536   /**< bytes of a value; may be 0 */
#define FM_FS_KV_OPS_MAX   100     /**< puts, deletes and guards of a transaction; keys of one get */
#define FM_FS_KV_BYTES_MAX 1048576 /**< keys and values that a transaction writes, together */
#define FM_FS_KV_PAGE_MAX  1000    /**< items of one range */

/** Flags of fm_fs_kv_run() and fm_fs_kv_range(). */
enum {
    FM_FS_KV_READ_ONLY = 1, /**< writing fails with FM_ERR_STATE; LMDB readers wait for nobody */
    FM_FS_KV_NO_SYNC = 2,   /**< a power cut may undo it, with all that came after it (the end of the program
                                 may not); flushes less */
    FM_FS_KV_REVERSE = 4    /**< a range from its upper end */
};

/**
 * What a get expects to do with the keys. A hint: no result depends on it, only who waits for whom. An engine
 * that locks rows does so at once, instead of finding out at the commit that the work was in vain.
 */
typedef enum fm_fs_kv_lock {
    FM_FS_KV_LOCK_NONE,
    FM_FS_KV_LOCK_SHARE, /**< the keys should not change until I commit */
    FM_FS_KV_LOCK_UPDATE /**< I am going to write them */
} fm_fs_kv_lock;

typedef struct fm_fs_kv fm_fs_kv;
typedef struct fm_fs_kv_tx fm_fs_kv_tx;

/** Bytes, not interpreted. Keys are ordered as memcmp() has it, a prefix before what it begins. */
typedef struct fm_fs_kv_bytes {
    const void *data;
    size_t size;
} fm_fs_kv_bytes;

typedef struct fm_fs_kv_item {
    fm_fs_kv_bytes key;
    fm_fs_kv_bytes value; /**< size 0 when not found */
    int found;            /**< whether the key is there */
} fm_fs_kv_item;

typedef fm_status (*fm_fs_kv_closure)(fm_fs_kv_tx *tx, void *context);

/** Zero-initialise and set `size`; a field that is 0 stands for its default. */
typedef struct fm_fs_kv_options {
    size_t size; /**< sizeof(fm_fs_kv_options) */

    /** LMDB: the most bytes the store may grow to; address space is reserved, nothing is used up. 64 GiB. A store
     *  that is full fails with FM_ERR_SPACE and stays usable; open it anew with more. */
    uint64_t map_bytes;

    /** PostgreSQL: the most connections, each made when it is needed first. 16. A thread that finds all
     *  in use waits. */
    unsigned connections;

    /* Memory: what a simulator sets. All draws come from `seed` alone, in the order of the runs. */
    uint64_t seed;
    double conflict_rate; /**< probability that a commit is refused, so that its closure runs again */
    double maybe_rate;    /**< probability that a commit ends in FM_ERR_FS_MAYBE, having happened or not */
    /** Called for each pause before a run that follows a conflict, with no lock held: virtual time may
     *  pass and other transactions may run. NULL: no pause. */
    void (*pause)(void *context, uint64_t ns);
    void *pause_context;
} fm_fs_kv_options;

/**
 * Opens the store that `spec` names:
 *
 *     memory:                empty, gone when it is closed; for tests and simulators
 *     lmdb:DIR               in directory DIR, made if it is missing (its parent is not)
 *     postgresql:CONNINFO    in the table fathom_kv, made if it is missing, of the database that CONNINFO names
 *                            as libpq reads it ("host=/run/postgresql dbname=meta"); or a postgresql://... URI
 *
 * `options` may be NULL. FM_ERR_UNSUPPORTED: an unknown scheme, or one that this build lacks; FM_ERR_BUSY: this
 * process has that LMDB directory open already; FM_ERR_NOT_FOUND, FM_ERR_PERM; FM_ERR_FORMAT, FM_ERR_VERSION:
 * the directory holds something else.
 */
FM_API FM_MUST_USE fm_status fm_fs_kv_open(const char *spec, const fm_fs_kv_options *options,
                                           fm_fs_kv **out_kv);
/** Closes it; NULL is allowed. No transaction may be running. */
FM_API void fm_fs_kv_close(fm_fs_kv *kv);
/** "memory", "lmdb" or "postgresql". */
FM_API const char *fm_fs_kv_engine(const fm_fs_kv *kv);

/**
 * Runs `closure` as often as it takes and commits its writes. `flags`: FM_FS_KV_READ_ONLY, FM_FS_KV_NO_SYNC.
 * Returns FM_OK, what the closure returned, FM_ERR_FS_MAYBE, FM_ERR_FS_CONFLICT, FM_ERR_SPACE (full), or a
 * failure of "Errors" above.
 */
FM_API FM_MUST_USE fm_status fm_fs_kv_run(fm_fs_kv *kv, unsigned flags, fm_fs_kv_closure closure,
                                          void *context);

/* The rest is called inside a closure, with the tx that it was given. Values and keys that come out live, unchanged,
 * until the closure returns; what goes in is copied. */

/** Looks up the `key` of each of `count` items (0 to FM_FS_KV_OPS_MAX) in one round trip and sets `value` and
 *  `found`. A missing key is no failure. */
FM_API FM_MUST_USE fm_status fm_fs_kv_get(fm_fs_kv_tx *tx, fm_fs_kv_item *items, size_t count,
                                          fm_fs_kv_lock lock);

/**
 * The first `limit` (1 to FM_FS_KV_PAGE_MAX) keys of [lo, hi) in ascending order, or with FM_FS_KV_REVERSE
 * the last ones in descending order, into `items`. An empty `lo` is before all keys; an empty `hi` stands for
 * the end behind all. `hi` not above `lo`: nothing. Fewer than `limit` items: there are no more. The next page
 * begins at the last key with a 0 byte appended, or, in reverse, has the last key as its `hi`. Counts as a read
 * of all between the end where it began and the last item, or the whole of [lo, hi) when there were fewer.
 */
FM_API FM_MUST_USE fm_status fm_fs_kv_range(fm_fs_kv_tx *tx, fm_fs_kv_bytes lo, fm_fs_kv_bytes hi,
                                            size_t limit, unsigned flags, fm_fs_kv_item *items,
                                            size_t *out_count);

/** Sets a key's value, whether it was there or not. */
FM_API FM_MUST_USE fm_status fm_fs_kv_put(fm_fs_kv_tx *tx, fm_fs_kv_bytes key, fm_fs_kv_bytes value);
/** Removes a key; a missing one is no failure. */
FM_API FM_MUST_USE fm_status fm_fs_kv_delete(fm_fs_kv_tx *tx, fm_fs_kv_bytes key);
/**
 * Lets this transaction conflict with every other one that reads, writes or guards `key`, as if it wrote the
 * value that is there. For closures that rely on something they do not read. What a closure does read needs
 * no guard.
 */
FM_API FM_MUST_USE fm_status fm_fs_kv_guard(fm_fs_kv_tx *tx, fm_fs_kv_bytes key);

#ifdef __cplusplus
}
#endif
#endif
