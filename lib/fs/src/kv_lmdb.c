/*
 * The key-value store on LMDB, the embedded default. The only file that knows lmdb.h.
 *
 * LMDB has one writer at a time and flushes twice a commit, so a commit for each transaction would bind all
 * writers together to one disk. Instead they queue; whoever finds no leader becomes it, takes the whole queue,
 * runs the closures one after another inside one LMDB transaction, and commits once. Those that come meanwhile
 * form the next batch. Each closure sees the writes of those before it in the batch; therefore the commit's
 * outcome is the outcome of all of them, of failing closures too.
 *
 * Writes are applied after their closure has returned, so a closure that fails leaves no trace and needs no
 * nested transaction (some 7 us each). Applying fails only when the map is full or memory runs out. Then the
 * batch is thrown away and its closures run again, each alone, so that only those fail that do not fit.
 *
 * Read-only transactions read a snapshot in their own thread, beside the writer.
 */
#include "kv_backend.h"

#include <errno.h>
#include <lmdb.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "fathom/clock.h"

enum {
    // A batch holds its writers' pages in memory: 64 times FM_FS_KV_BYTES_MAX at most. Beyond some 32 closures
    // the flush is a small part of the batch already.
    BATCH_MAX = 64,
    READERS_MAX = 1024, // slots of the shared reader table, 64 bytes each, over all processes
    MESSAGE_BYTES = 1024
};

// One writer's place in the queue; lives on its stack.
struct request {
    struct request *next;
    fm_fs_kv_tx *tx;
    fm_status status;
    int done;
    pthread_cond_t wake;         // it is done, or first in the queue with no leader
    char message[MESSAGE_BYTES]; // the failure's, from the leader's thread
};

struct reader {
    struct reader *next;
    MDB_txn *txn; // reset; keeps its slot in the reader table
};

struct lmdb {
    fm_fs_kv base;
    MDB_env *env;
    MDB_dbi dbi;
    dev_t device;
    ino_t inode;
    struct lmdb *next_open;
    pthread_mutex_t lock; // guards what follows
    struct request *first;
    struct request **last;
    int leading; // somebody runs a batch
    struct reader *readers;
};

// LMDB's file locks break when one process opens a directory twice, so those that are open are known.
static pthread_mutex_t open_lock = PTHREAD_MUTEX_INITIALIZER;
static struct lmdb *open_stores;

static fm_status fails(int rc, const char *what)
{
    fm_status status = FM_ERR_IO;
    if (rc == MDB_MAP_FULL || rc == ENOSPC || rc == EDQUOT)
        status = FM_ERR_SPACE;
    else if (rc == ENOMEM)
        status = FM_ERR_NOMEM;
    else if (rc == MDB_READERS_FULL || rc == EMFILE || rc == ENFILE)
        status = FM_ERR_LIMIT;
    else if (rc == EACCES || rc == EPERM || rc == EROFS)
        status = FM_ERR_PERM;
    else if (rc == ENOENT)
        status = FM_ERR_NOT_FOUND;
    else if (rc == MDB_INVALID || rc == MDB_CORRUPTED || rc == MDB_PAGE_NOTFOUND || rc == ENOTDIR)
        status = FM_ERR_FORMAT;
    else if (rc == MDB_VERSION_MISMATCH)
        status = FM_ERR_VERSION;
    return fm_base_error_set(status, "%s: %s", what, mdb_strerror(rc));
}

// LMDB's own type has no const; it does not write through it.
static MDB_val val_of(fm_fs_kv_bytes bytes)
{
    MDB_val val = {.mv_size = bytes.size};
    memcpy(&val.mv_data, &bytes.data, sizeof val.mv_data);
    return val;
}

// ---- writers

static int apply(struct lmdb *lmdb, MDB_txn *txn, const fm_fs_kv_tx *tx)
{
    for (size_t i = 0; i < tx->write_count; i++) {
        const struct fm_fs_kv_write *own = &tx->writes[i];
        MDB_val key = val_of(own->key);
        MDB_val value = val_of(own->value);
        int rc = 0;
        if (own->kind == FM_FS_KV_PUT)
            rc = mdb_put(txn, lmdb->dbi, &key, &value, 0);
        else if (own->kind == FM_FS_KV_DELETE)
            rc = mdb_del(txn, lmdb->dbi, &key, NULL);
        if (rc && rc != MDB_NOTFOUND)
            return rc;
    }
    return 0;
}

static void set_outcome(struct request *request, fm_status status)
{
    request->status = status;
    if (status < 0)
        snprintf(request->message, MESSAGE_BYTES, "%s", fm_base_error_message());
}

// What a failed commit means. LMDB writes and flushes the pages first and then one meta page, which is what
// commits; when that write fails it forbids all further transactions.
static fm_status commit_failure(struct lmdb *lmdb, int rc)
{
    MDB_txn *probe;
    if (rc == MDB_MAP_FULL || rc == MDB_TXN_FULL || rc == ENOMEM || rc == ENOSPC || rc == EDQUOT) {
        if (mdb_txn_begin(lmdb->env, NULL, 0, &probe) == 0) {
            mdb_txn_abort(probe);
            return fails(rc, "commit");
        }
    }
    return fm_base_error_set(FM_ERR_FS_MAYBE, "commit: %s; it may be on disk or not", mdb_strerror(rc));
}

// Runs the closures of the list and commits. A failure that is not a single closure's own is returned, and no
// closure has an outcome then.
static fm_status run_together(struct lmdb *lmdb, struct request *batch)
{
    MDB_txn *txn;
    int rc = mdb_txn_begin(lmdb->env, NULL, 0, &txn);
    if (rc)
        return fails(rc, "beginning a write transaction");
    unsigned no_sync = FM_FS_KV_NO_SYNC;
    size_t writes = 0;
    for (struct request *request = batch; request && !rc; request = request->next) {
        request->tx->engine = txn;
        set_outcome(request, fm_fs_kv_tx_body(request->tx));
        if (request->status != FM_OK)
            continue;
        rc = apply(lmdb, txn, request->tx);
        writes += request->tx->write_count;
        no_sync &= request->tx->flags;
    }
    if (rc || writes == 0) {
        mdb_txn_abort(txn);
        return rc ? fails(rc, "writing") : FM_OK;
    }
    // Without any flush the meta page could reach the disk before the pages it names, and a power cut would ruin
    // what others were promised. So the pages are always flushed and only the meta page's flush is spared.
    mdb_env_set_flags(lmdb->env, MDB_NOMETASYNC, no_sync != 0);
    rc = mdb_txn_commit(txn);
    return rc ? commit_failure(lmdb, rc) : FM_OK;
}

static void run_batch(struct lmdb *lmdb, struct request *batch)
{
    fm_status status = run_together(lmdb, batch);
    if (status == FM_OK)
        return;
    int alone = !batch->next || status == FM_ERR_FS_MAYBE || status == FM_ERR_IO;
    for (struct request *request = batch, *next; request; request = next) {
        next = request->next;
        if (!alone) {
            request->next = NULL;
            status = run_together(lmdb, request);
            request->next = next;
        }
        if (status != FM_OK)
            set_outcome(request, status);
    }
}

// Takes up to BATCH_MAX requests off the queue; the lock is held.
static struct request *take_batch(struct lmdb *lmdb)
{
    struct request *batch = lmdb->first;
    struct request *end = batch;
    for (int i = 1; i < BATCH_MAX && end->next; i++)
        end = end->next;
    lmdb->first = end->next;
    if (!lmdb->first)
        lmdb->last = &lmdb->first;
    end->next = NULL;
    return batch;
}

// Runs the batch that begins with `self`; the lock is held, except while it runs.
static void lead(struct lmdb *lmdb, struct request *self)
{
    struct request *batch = take_batch(lmdb);
    lmdb->leading = 1;
    pthread_mutex_unlock(&lmdb->lock);
    run_batch(lmdb, batch);
    pthread_mutex_lock(&lmdb->lock);
    lmdb->leading = 0;
    for (struct request *request = batch, *next; request; request = next) {
        next = request->next; // once it is done, its owner may free it
        request->done = 1;
        if (request != self)
            pthread_cond_signal(&request->wake);
    }
    if (lmdb->first)
        pthread_cond_signal(&lmdb->first->wake);
}

static fm_status attempt_write(struct lmdb *lmdb, fm_fs_kv_tx *tx)
{
    struct request self = {.tx = tx, .wake = PTHREAD_COND_INITIALIZER};
    pthread_mutex_lock(&lmdb->lock);
    *lmdb->last = &self;
    lmdb->last = &self.next;
    while (!self.done) {
        if (!lmdb->leading && lmdb->first == &self)
            lead(lmdb, &self);
        else
            pthread_cond_wait(&self.wake, &lmdb->lock);
    }
    pthread_mutex_unlock(&lmdb->lock);
    pthread_cond_destroy(&self.wake);
    if (self.status < 0)
        fm_base_error_set(self.status, "%s", self.message);
    return self.status;
}

// ---- readers

static void pool_reader(struct lmdb *lmdb, struct reader *reader)
{
    pthread_mutex_lock(&lmdb->lock);
    reader->next = lmdb->readers;
    lmdb->readers = reader;
    pthread_mutex_unlock(&lmdb->lock);
}

// A reader with a snapshot of this moment, from the pool or new; NULL with *status when there is none.
static struct reader *begin_reader(struct lmdb *lmdb, fm_status *status)
{
    pthread_mutex_lock(&lmdb->lock);
    struct reader *reader = lmdb->readers;
    if (reader)
        lmdb->readers = reader->next;
    pthread_mutex_unlock(&lmdb->lock);
    if (!reader && !(reader = fm_base_mem_zalloc(1, sizeof *reader))) {
        *status = fm_base_error_set(FM_ERR_NOMEM, "no memory for a reader");
        return NULL;
    }
    int dead;
    int rc =
        reader->txn ? mdb_txn_renew(reader->txn) : mdb_txn_begin(lmdb->env, NULL, MDB_RDONLY, &reader->txn);
    // Killed processes leave their slots taken.
    if (rc == MDB_READERS_FULL && mdb_reader_check(lmdb->env, &dead) == 0 && dead)
        rc = mdb_txn_begin(lmdb->env, NULL, MDB_RDONLY, &reader->txn);
    if (rc == 0)
        return reader;
    *status = fails(rc, "beginning a read transaction");
    if (reader->txn)
        mdb_txn_abort(reader->txn);
    fm_base_mem_free(reader);
    return NULL;
}

static fm_status attempt_read(struct lmdb *lmdb, fm_fs_kv_tx *tx)
{
    fm_status status;
    struct reader *reader = begin_reader(lmdb, &status);
    if (!reader)
        return status;
    tx->engine = reader->txn;
    status = fm_fs_kv_tx_body(tx);
    mdb_txn_reset(reader->txn);
    pool_reader(lmdb, reader);
    return status;
}

static fm_status lmdb_attempt(fm_fs_kv *kv, fm_fs_kv_tx *tx)
{
    struct lmdb *lmdb = (struct lmdb *)kv;
    return tx->flags & FM_FS_KV_READ_ONLY ? attempt_read(lmdb, tx) : attempt_write(lmdb, tx);
}

static fm_status lmdb_get(fm_fs_kv_tx *tx, fm_fs_kv_item **items, size_t count, fm_fs_kv_lock lock)
{
    struct lmdb *lmdb = (struct lmdb *)tx->kv;
    (void)lock;
    for (size_t i = 0; i < count; i++) {
        MDB_val key = val_of(items[i]->key);
        MDB_val value;
        int rc = mdb_get(tx->engine, lmdb->dbi, &key, &value);
        if (rc == MDB_NOTFOUND)
            continue;
        if (rc)
            return fails(rc, "get");
        items[i]->value = (fm_fs_kv_bytes){value.mv_data, value.mv_size};
        items[i]->found = 1;
    }
    return FM_OK;
}

static int first_of(MDB_cursor *cursor, fm_fs_kv_bytes lo, fm_fs_kv_bytes hi, int reverse, MDB_val *key,
                    MDB_val *value)
{
    *key = val_of(reverse ? hi : lo);
    int rc = mdb_cursor_get(cursor, key, value, MDB_SET_RANGE);
    if (!reverse)
        return rc;
    // It stands at the first key that is not below hi, or behind all.
    return mdb_cursor_get(cursor, key, value, rc == MDB_NOTFOUND ? MDB_LAST : MDB_PREV);
}

static fm_status lmdb_range(fm_fs_kv_tx *tx, fm_fs_kv_bytes lo, fm_fs_kv_bytes hi, size_t limit,
                            unsigned flags, fm_fs_kv_item *items, size_t *count)
{
    struct lmdb *lmdb = (struct lmdb *)tx->kv;
    int reverse = (flags & FM_FS_KV_REVERSE) != 0;
    MDB_cursor *cursor;
    MDB_val key;
    MDB_val value;
    int rc = mdb_cursor_open(tx->engine, lmdb->dbi, &cursor);
    if (rc)
        return fails(rc, "range");
    *count = 0;
    rc = first_of(cursor, lo, hi, reverse, &key, &value);
    while (rc == 0) {
        fm_fs_kv_bytes found = {key.mv_data, key.mv_size};
        if (reverse ? fm_fs_kv_compare(found, lo) < 0 : fm_fs_kv_compare(found, hi) >= 0)
            break;
        items[(*count)++] = (fm_fs_kv_item){found, {value.mv_data, value.mv_size}, 1};
        if (*count == limit)
            break;
        rc = mdb_cursor_get(cursor, &key, &value, reverse ? MDB_PREV : MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    return rc == 0 || rc == MDB_NOTFOUND ? FM_OK : fails(rc, "range");
}

static void lmdb_pause(fm_fs_kv *kv, uint64_t ns)
{
    (void)kv;
    fm_base_clock_sleep_ns(ns);
}

// ---- opening

static fm_status open_env(struct lmdb *lmdb, const char *dir, uint64_t map_bytes)
{
    MDB_txn *txn;
    int dead;
    int rc = mdb_env_create(&lmdb->env);
    if (rc)
        return fails(rc, dir);
    // MDB_NOTLS ties readers to their transactions instead of to threads, so that they can be pooled.
    if ((rc = mdb_env_set_mapsize(lmdb->env, map_bytes)) == 0 &&
        (rc = mdb_env_set_maxreaders(lmdb->env, READERS_MAX)) == 0 &&
        (rc = mdb_env_open(lmdb->env, dir, MDB_NOTLS, 0666)) == 0 &&
        (rc = mdb_reader_check(lmdb->env, &dead)) == 0 &&
        (rc = mdb_txn_begin(lmdb->env, NULL, 0, &txn)) == 0) {
        if ((rc = mdb_dbi_open(txn, NULL, 0, &lmdb->dbi)) == 0)
            rc = mdb_txn_commit(txn);
        else
            mdb_txn_abort(txn);
    }
    if (rc == 0)
        return FM_OK;
    mdb_env_close(lmdb->env);
    return fails(rc, dir);
}

// Opens the store unless this process has it open; open_lock is held.
static fm_status open_once(struct lmdb *lmdb, const char *dir, uint64_t map_bytes)
{
    struct stat info;
    if (mkdir(dir, 0777) != 0 && errno != EEXIST)
        return fails(errno, dir);
    if (stat(dir, &info) != 0)
        return fails(errno, dir);
    for (struct lmdb *other = open_stores; other; other = other->next_open)
        if (other->device == info.st_dev && other->inode == info.st_ino)
            return fm_base_error_set(FM_ERR_BUSY, "%s is open in this process already; expected once", dir);
    FM_TRY(open_env(lmdb, dir, map_bytes));
    lmdb->device = info.st_dev;
    lmdb->inode = info.st_ino;
    lmdb->next_open = open_stores;
    open_stores = lmdb;
    return FM_OK;
}

static fm_status lmdb_open(const char *where, const fm_fs_kv_options *options, fm_fs_kv **out_kv)
{
    if (!*where)
        return fm_base_error_set(FM_ERR_ARG, "\"lmdb:\" names no directory; expected \"lmdb:DIR\"");
    struct lmdb *lmdb = fm_base_mem_zalloc(1, sizeof *lmdb);
    if (!lmdb)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a store");
    pthread_mutex_lock(&open_lock);
    fm_status status = open_once(lmdb, where, options->map_bytes);
    pthread_mutex_unlock(&open_lock);
    if (status < 0) {
        fm_base_mem_free(lmdb);
        return status;
    }
    pthread_mutex_init(&lmdb->lock, NULL);
    lmdb->last = &lmdb->first;
    *out_kv = &lmdb->base;
    return FM_OK;
}

static void lmdb_close(fm_fs_kv *kv)
{
    struct lmdb *lmdb = (struct lmdb *)kv;
    for (struct reader *reader = lmdb->readers, *next; reader; reader = next) {
        next = reader->next;
        mdb_txn_abort(reader->txn);
        fm_base_mem_free(reader);
    }
    pthread_mutex_lock(&open_lock);
    struct lmdb **link = &open_stores;
    while (*link != lmdb)
        link = &(*link)->next_open;
    *link = lmdb->next_open;
    mdb_env_close(lmdb->env);
    pthread_mutex_unlock(&open_lock);
    pthread_mutex_destroy(&lmdb->lock);
    fm_base_mem_free(lmdb);
}

const struct fm_fs_kv_ops fm_fs_kv_lmdb_ops = {
    .name = "lmdb",
    .open = lmdb_open,
    .close = lmdb_close,
    .attempt = lmdb_attempt,
    .get = lmdb_get,
    .range = lmdb_range,
    .pause = lmdb_pause,
};
