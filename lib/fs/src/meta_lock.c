// Advisory locks on files: one record of each inode has all of them.
#include "meta_remote.h"

enum {
    LOCKS_MAX = 400 // of an inode: what a transaction's closure keeps on its stack twice
};

struct locks {
    fm_fs_lock held[LOCKS_MAX];
    size_t count;
};

struct request {
    const fm_fs_lock *wanted;
    fm_fs_lock conflict;
    int conflicts;
    struct locks before, after; // of one run of the closure
};

void fm_fs_meta_lock_decode(const uint8_t bytes[FM_FS_META_LOCK_BYTES], fm_fs_lock *out_lock)
{
    *out_lock = (fm_fs_lock){.client = fm_get_le64(bytes),
                             .owner = fm_get_le64(bytes + 8),
                             .begin = fm_get_le64(bytes + 16),
                             .end = fm_get_le64(bytes + 24),
                             .kind = (fm_fs_lock_kind)bytes[32],
                             .flock = bytes[33] != 0,
                             .pid = fm_get_le32(bytes + 36)};
}

void fm_fs_meta_lock_encode(const fm_fs_lock *lock, uint8_t out_bytes[FM_FS_META_LOCK_BYTES])
{
    fm_put_le64(out_bytes, lock->client);
    fm_put_le64(out_bytes + 8, lock->owner);
    fm_put_le64(out_bytes + 16, lock->begin);
    fm_put_le64(out_bytes + 24, lock->end);
    fm_put_le32(out_bytes + 32, (uint32_t)lock->kind | (lock->flock ? 1u << 8 : 0));
    fm_put_le32(out_bytes + 36, lock->pid);
}

static void decode(fm_fs_kv_bytes value, struct locks *out_locks)
{
    const uint8_t *from = value.data;
    size_t count = value.size / FM_FS_META_LOCK_BYTES;
    out_locks->count = count < LOCKS_MAX ? count : LOCKS_MAX;
    for (size_t i = 0; i < out_locks->count; i++)
        fm_fs_meta_lock_decode(from + i * FM_FS_META_LOCK_BYTES, &out_locks->held[i]);
}

static fm_status store(fm_fs_kv_tx *tx, const struct fm_fs_meta_key *key, const struct locks *locks)
{
    uint8_t bytes[LOCKS_MAX * FM_FS_META_LOCK_BYTES];
    if (!locks->count)
        return fm_fs_meta_delete(tx, key);
    for (size_t i = 0; i < locks->count; i++)
        fm_fs_meta_lock_encode(&locks->held[i], bytes + i * FM_FS_META_LOCK_BYTES);
    return fm_fs_meta_put(tx, key, bytes, locks->count * FM_FS_META_LOCK_BYTES);
}

static fm_status is_alive(fm_fs_kv_tx *tx, const struct fm_fs_meta_op *op, uint64_t client, int *out_alive)
{
    struct fm_fs_meta_key key = fm_fs_meta_key('C', client);
    fm_fs_kv_bytes until;
    FM_TRY(fm_fs_meta_get(tx, &key, FM_FS_KV_LOCK_SHARE, &until));
    *out_alive = until.size == 8 && fm_get_le64(until.data) > (uint64_t)op->now_ns;
    return FM_OK;
}

static int is_same(const fm_fs_lock *a, const fm_fs_lock *b)
{
    return a->client == b->client && a->owner == b->owner;
}

static int overlaps(const fm_fs_lock *a, const fm_fs_lock *b)
{
    return a->begin <= b->end && b->begin <= a->end;
}

static fm_status keep(struct locks *locks, fm_fs_lock lock, uint64_t begin, uint64_t end)
{
    if (locks->count == LOCKS_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "more than %d locks on one inode", LOCKS_MAX);
    lock.begin = begin;
    lock.end = end;
    locks->held[locks->count++] = lock;
    return FM_OK;
}

// What is left of an own lock beside the wanted one; of the same kind they become one.
static fm_status cut(struct locks *after, const fm_fs_lock *own, fm_fs_lock *wanted)
{
    int touches = (own->end < UINT64_MAX && own->end + 1 == wanted->begin) ||
                  (wanted->end < UINT64_MAX && wanted->end + 1 == own->begin);
    if (own->kind == wanted->kind && (overlaps(own, wanted) || touches)) {
        wanted->begin = own->begin < wanted->begin ? own->begin : wanted->begin;
        wanted->end = own->end > wanted->end ? own->end : wanted->end;
        return FM_OK;
    }
    if (!overlaps(own, wanted))
        return keep(after, *own, own->begin, own->end);
    if (own->begin < wanted->begin)
        FM_TRY(keep(after, *own, own->begin, wanted->begin - 1));
    return own->end > wanted->end ? keep(after, *own, wanted->end + 1, own->end) : FM_OK;
}

// Finds what stands against the wanted lock; locks of clients that are gone stand against nothing, and go.
static fm_status weigh(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op, struct request *request, fm_fs_lock *wanted)
{
    request->after.count = 0;
    request->conflicts = 0;
    for (size_t i = 0; i < request->before.count; i++) {
        const fm_fs_lock *lock = &request->before.held[i];
        int mine = lock->flock == wanted->flock && is_same(lock, wanted);
        if (mine) {
            FM_TRY(cut(&request->after, lock, wanted));
            continue;
        }
        int against = lock->flock == wanted->flock && overlaps(lock, wanted) &&
                      wanted->kind != FM_FS_LOCK_NONE &&
                      (lock->kind == FM_FS_LOCK_EXCLUSIVE || wanted->kind == FM_FS_LOCK_EXCLUSIVE);
        int alive = 1;
        if (against)
            FM_TRY(is_alive(tx, op, lock->client, &alive));
        if (against && alive && !request->conflicts) {
            request->conflict = *lock;
            request->conflicts = 1;
        }
        if (alive)
            FM_TRY(keep(&request->after, *lock, lock->begin, lock->end));
    }
    return FM_OK;
}

static fm_status load(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op, struct fm_fs_meta_key *out_key,
                      fm_fs_kv_lock lock)
{
    struct request *request = op->more;
    fm_fs_kv_bytes value;
    *out_key = fm_fs_meta_key('L', op->ino);
    FM_TRY(fm_fs_meta_load(tx, op->ino, FM_FS_KV_LOCK_NONE, &op->node));
    FM_TRY(fm_fs_meta_get(tx, out_key, lock, &value));
    decode(value, &request->before);
    return FM_OK;
}

static fm_status set(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    struct request *request = op->more;
    struct fm_fs_meta_key key;
    fm_fs_lock wanted = *request->wanted;
    FM_TRY(load(tx, op, &key, FM_FS_KV_LOCK_UPDATE));
    FM_TRY(weigh(tx, op, request, &wanted));
    // flock() gives up what it had before it waits for another kind, so that two who want more do not wait for each other.
    op->made = !request->conflicts; // what a repeated request is told, too
    if (request->conflicts)
        return wanted.flock ? store(tx, &key, &request->after) : FM_OK;
    if (wanted.kind != FM_FS_LOCK_NONE)
        FM_TRY(keep(&request->after, wanted, wanted.begin, wanted.end));
    return store(tx, &key, &request->after);
}

static fm_status test(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    struct request *request = op->more;
    struct fm_fs_meta_key key;
    fm_fs_lock wanted = *request->wanted;
    FM_TRY(load(tx, op, &key, FM_FS_KV_LOCK_NONE));
    return weigh(tx, op, request, &wanted);
}

static fm_status check(const fm_fs_lock *wanted)
{
    if (wanted->begin > wanted->end || wanted->kind < FM_FS_LOCK_NONE || wanted->kind > FM_FS_LOCK_EXCLUSIVE)
        return fm_base_error_set(FM_ERR_ARG, "a lock of kind %d from %llu to %llu", (int)wanted->kind,
                                 (unsigned long long)wanted->begin, (unsigned long long)wanted->end);
    return FM_OK;
}

fm_status fm_fs_meta_lock(fm_fs_meta *meta, uint64_t ino, const fm_fs_lock *wanted, int *out_granted,
                          fm_fs_node *out_node)
{
    FM_TRY(check(wanted));
    if (meta->remote)
        return fm_fs_meta_remote_lock(meta, ino, wanted, out_granted, out_node);
    struct request *request = fm_base_mem_zalloc(1, sizeof *request);
    if (!request)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a lock");
    request->wanted = wanted;
    struct fm_fs_meta_op op = {.meta = meta, .body = set, .ino = ino, .more = request};
    fm_status status = fm_fs_meta_run(&op);
    if (status == FM_OK) {
        *out_granted = op.made;
        *out_node = op.node;
    }
    fm_base_mem_free(request);
    return status;
}

fm_status fm_fs_meta_lock_test(fm_fs_meta *meta, uint64_t ino, const fm_fs_lock *wanted,
                               fm_fs_lock *out_conflict)
{
    FM_TRY(check(wanted));
    if (meta->remote)
        return fm_fs_meta_remote_lock_test(meta, ino, wanted, out_conflict);
    struct request *request = fm_base_mem_zalloc(1, sizeof *request);
    if (!request)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a lock");
    request->wanted = wanted;
    struct fm_fs_meta_op op = {.meta = meta, .body = test, .ino = ino, .more = request};
    fm_status status = fm_fs_meta_read(&op);
    if (status == FM_OK)
        *out_conflict = request->conflicts ? request->conflict : (fm_fs_lock){.kind = FM_FS_LOCK_NONE};
    fm_base_mem_free(request);
    return status;
}
