// The collector: what removals and truncations left, in pieces that each are one transaction, or one call of the remover
// between two. Everything may be done twice.
#include "meta_remote.h"

enum {
    // Entries of a tree in one transaction: each writes up to eight records, of a hundred that one may.
    TREE_STEP = 12,
    XATTR_STEP = 32,
    PAGE = 32,
    // How much later a removed file that is held open is looked at again.
    HELD_AGAIN_NS = 1000000000,
};

// Requests are not repeated after so long.
static const uint64_t request_age_ns = (uint64_t)1800 * 1000000000;

struct work {
    struct fm_fs_meta_key key;
    uint32_t kind;
    fm_fs_node node; // DATA: what the remover needs of one
    uint64_t number;
    int held;  // looked at too early
    int ready; // to be removed from disk
    int more;  // another transaction is needed
};

struct agenda {
    struct work work[PAGE];
    size_t count, max;
};

static fm_status take_page(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    struct agenda *agenda = op->more;
    struct fm_fs_meta_key lo = fm_fs_meta_key('G', 0);
    struct fm_fs_meta_key hi = fm_fs_meta_key('G', (uint64_t)op->now_ns + 1);
    fm_fs_kv_item items[PAGE];
    FM_TRY(fm_fs_kv_range(tx, fm_fs_meta_bytes(&lo), fm_fs_meta_bytes(&hi), agenda->max, 0, items,
                          &agenda->count));
    for (size_t i = 0; i < agenda->count; i++) {
        struct work *work = &agenda->work[i];
        const uint8_t *value = items[i].value.data;
        size_t size = items[i].value.size;
        *work = (struct work){.kind = size >= 4 ? fm_get_le32(value) : 0};
        if (items[i].key.size != 17 ||
            (work->kind == FM_FS_META_WORK_DATA && size < FM_FS_META_DATA_WORK_BYTES))
            return fm_base_error_set(FM_ERR_FORMAT, "the collector's work is malformed");
        work->key.size = items[i].key.size;
        memcpy(work->key.bytes, items[i].key.data, work->key.size);
        work->number = fm_fs_meta_number_at(work->key.bytes + 9);
        if (work->kind == FM_FS_META_WORK_DATA) {
            work->node.data = work->number;
            work->node.reach = fm_get_le64(value + 4);
            fm_fs_meta_layout_get(value + 12, &work->node.layout);
        }
    }
    return FM_OK;
}

// Whether a client with a lease holds the node; what others hold is let go.
static fm_status is_held(fm_fs_kv_tx *tx, const struct fm_fs_meta_op *op, uint64_t ino, int *out_held)
{
    struct fm_fs_meta_key lo;
    struct fm_fs_meta_key hi;
    fm_fs_kv_item items[PAGE];
    size_t count;
    fm_fs_meta_span('S', ino, &lo, &hi);
    FM_TRY(fm_fs_kv_range(tx, fm_fs_meta_bytes(&lo), fm_fs_meta_bytes(&hi), PAGE, 0, items, &count));
    *out_held = 0;
    for (size_t i = 0; i < count; i++) {
        struct fm_fs_meta_key key =
            fm_fs_meta_key('C', fm_fs_meta_number_at((const uint8_t *)items[i].key.data + 9));
        fm_fs_kv_bytes until;
        FM_TRY(fm_fs_meta_get(tx, &key, FM_FS_KV_LOCK_SHARE, &until));
        if (until.size == 8 && fm_get_le64(until.data) > (uint64_t)op->now_ns)
            *out_held = 1;
        else
            FM_TRY(fm_fs_kv_delete(tx, items[i].key));
    }
    if (count == PAGE) // more than fit a page: the rest another time
        *out_held = 1;
    return FM_OK;
}

static fm_status put_off(fm_fs_kv_tx *tx, const struct fm_fs_meta_op *op, struct work *work)
{
    uint8_t kind[4];
    struct fm_fs_meta_key key = fm_fs_meta_key_two('G', (uint64_t)op->now_ns + HELD_AGAIN_NS, work->number);
    fm_put_le32(kind, work->kind);
    work->held = 1;
    FM_TRY(fm_fs_meta_delete(tx, &work->key));
    return fm_fs_meta_put(tx, &key, kind, sizeof kind);
}

static fm_status look_at_node(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    struct work *work = op->more;
    int held;
    work->held = 0;
    work->ready = 0;
    fm_status status = fm_fs_meta_load(tx, work->number, FM_FS_KV_LOCK_UPDATE, &work->node);
    if (status == FM_ERR_NOT_FOUND || (status == FM_OK && work->node.nlink > 0))
        return fm_fs_meta_delete(tx, &work->key); // done by another server
    FM_TRY(status);
    FM_TRY(is_held(tx, op, work->number, &held));
    if (held)
        return put_off(tx, op, work);
    work->ready = 1;
    return FM_OK;
}

// Removes some of a node's extended attributes, and the node when none is left.
static fm_status clear_node(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    struct work *work = op->more;
    struct fm_fs_meta_key lo;
    struct fm_fs_meta_key hi;
    struct fm_fs_meta_key record = fm_fs_meta_key('I', work->number);
    struct fm_fs_meta_key content = fm_fs_meta_key('B', work->number);
    struct fm_fs_meta_key quota = fm_fs_meta_key('Q', work->number);
    struct fm_fs_meta_key locks = fm_fs_meta_key('L', work->number);
    fm_fs_kv_item items[XATTR_STEP];
    size_t count;
    fm_fs_meta_span('X', work->number, &lo, &hi);
    FM_TRY(fm_fs_kv_range(tx, fm_fs_meta_bytes(&lo), fm_fs_meta_bytes(&hi), XATTR_STEP, 0, items, &count));
    for (size_t i = 0; i < count; i++)
        FM_TRY(fm_fs_kv_delete(tx, items[i].key));
    work->more = count == XATTR_STEP;
    if (work->more)
        return FM_OK;
    FM_TRY(fm_fs_meta_delete(tx, &record));
    FM_TRY(fm_fs_meta_delete(tx, &content));
    FM_TRY(fm_fs_meta_delete(tx, &quota));
    FM_TRY(fm_fs_meta_delete(tx, &locks));
    return fm_fs_meta_delete(tx, &work->key);
}

static fm_status clear_data(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    const struct work *work = op->more;
    return fm_fs_meta_delete(tx, &work->key);
}

// Takes some entries out of a directory without a name; directories among them become work of their own.
static fm_status empty_dir(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    struct work *work = op->more;
    struct fm_fs_meta_key lo;
    struct fm_fs_meta_key hi;
    fm_fs_kv_item items[TREE_STEP];
    size_t count;
    fm_fs_meta_span('D', work->number, &lo, &hi);
    FM_TRY(fm_fs_kv_range(tx, fm_fs_meta_bytes(&lo), fm_fs_meta_bytes(&hi), TREE_STEP, 0, items, &count));
    for (size_t i = 0; i < count; i++) {
        fm_fs_node node;
        if (items[i].value.size != FM_FS_META_DIRENT_BYTES)
            return fm_base_error_set(FM_ERR_FORMAT, "an entry of inode %llu is malformed",
                                     (unsigned long long)work->number);
        FM_TRY(fm_fs_meta_load(tx, fm_get_le64(items[i].value.data), FM_FS_KV_LOCK_UPDATE, &node));
        FM_TRY(fm_fs_kv_delete(tx, items[i].key));
        if (S_ISDIR(node.mode)) {
            node.nlink = 0;
            FM_TRY(fm_fs_meta_charge(tx, node.project, 0, -1));
            FM_TRY(fm_fs_meta_store(tx, &node));
            FM_TRY(fm_fs_meta_work_put(tx, op, FM_FS_META_WORK_TREE, &node, 0));
        } else {
            FM_TRY(fm_fs_meta_drop_link(tx, op, &node));
        }
    }
    work->more = 1;
    if (count > 0)
        return FM_OK;
    return clear_node(tx, op);
}

static fm_status run(fm_fs_meta *meta, struct work *work,
                     fm_status (*body)(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op))
{
    struct fm_fs_meta_op op = {.meta = meta, .body = body, .more = work};
    return fm_fs_meta_run(&op);
}

static fm_status run_all(fm_fs_meta *meta, struct work *work,
                         fm_status (*body)(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op))
{
    do {
        work->more = 0;
        FM_TRY(run(meta, work, body));
    } while (work->more);
    return FM_OK;
}

static fm_status do_work(fm_fs_meta *meta, struct work *work, fm_fs_meta_remover remover, void *context)
{
    fm_status removed = FM_OK;
    switch (work->kind) {
    case FM_FS_META_WORK_TREE:
        return run_all(meta, work, empty_dir);
    case FM_FS_META_WORK_DATA:
        FM_TRY(remover(context, &work->node, 0));
        return run(meta, work, clear_data);
    case FM_FS_META_WORK_NODE:
        FM_TRY(run(meta, work, look_at_node));
        if (!work->ready)
            return FM_OK;
        if (work->node.reach)
            removed = remover(context, &work->node, 0);
        if (!FM_FS_PLANT(FM_FS_PLANT_NAMES_COLLECT))
            FM_TRY(removed);
        return run_all(meta, work, clear_node);
    default:
        return fm_base_error_set(FM_ERR_FORMAT, "the collector knows no work of kind %u", work->kind);
    }
}

/* Old requests */

struct sweep {
    struct fm_fs_meta_key from, last;
};

static fm_status forget_requests(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    struct sweep *sweep = op->more;
    static const uint8_t behind[1] = {'R' + 1};
    fm_fs_kv_item items[PAGE];
    size_t count;
    FM_TRY(fm_fs_kv_range(tx, fm_fs_meta_bytes(&sweep->from), (fm_fs_kv_bytes){behind, 1}, PAGE, 0, items,
                          &count));
    for (size_t i = 0; i < count; i++) {
        const uint8_t *record = items[i].value.data;
        if (items[i].value.size != FM_FS_META_REQUEST_BYTES ||
            fm_get_le64(record + 8) + request_age_ns < (uint64_t)op->now_ns)
            FM_TRY(fm_fs_kv_delete(tx, items[i].key));
    }
    sweep->last = (struct fm_fs_meta_key){.bytes = "R", .size = 1};
    if (count == PAGE && items[count - 1].key.size <= sizeof op->meta->sweep) {
        sweep->last.size = items[count - 1].key.size;
        memcpy(sweep->last.bytes, items[count - 1].key.data, sweep->last.size);
    }
    return FM_OK;
}

// Looks at one page of the requests' records; the next call goes on behind it.
static fm_status forget(fm_fs_meta *meta)
{
    struct sweep sweep = {.from = {.bytes = "R", .size = 1}};
    struct fm_fs_meta_op op = {.meta = meta, .body = forget_requests, .more = &sweep};
    pthread_mutex_lock(&meta->lock);
    if (meta->sweep_size) {
        memcpy(sweep.from.bytes, meta->sweep, meta->sweep_size);
        sweep.from.size = meta->sweep_size;
    }
    pthread_mutex_unlock(&meta->lock);
    FM_TRY(fm_fs_meta_run(&op));
    pthread_mutex_lock(&meta->lock);
    meta->sweep_size = sweep.last.size;
    memcpy(meta->sweep, sweep.last.bytes, sweep.last.size);
    pthread_mutex_unlock(&meta->lock);
    return FM_OK;
}

fm_status fm_fs_meta_collect(fm_fs_meta *meta, fm_fs_meta_remover remover, void *context, size_t max,
                             size_t *out_done)
{
    size_t done = 0;
    fm_status failure = FM_OK;
    struct agenda agenda = {.max = max < PAGE ? max : PAGE};
    struct fm_fs_meta_op op = {.meta = meta, .body = take_page, .more = &agenda};
    if (meta->remote) { // its services do
        *out_done = 0;
        return FM_OK;
    }
    FM_TRY(forget(meta));
    // Emptying a directory makes more work, so it goes on while anything comes of it.
    for (size_t before = SIZE_MAX; done != before && done < max && failure == FM_OK;) {
        before = done;
        FM_TRY(fm_fs_meta_read(&op));
        for (size_t i = 0; i < agenda.count && done < max; i++) {
            fm_status status = do_work(meta, &agenda.work[i], remover, context);
            if (status < 0)
                failure = status;
            done += status == FM_OK && !agenda.work[i].held;
        }
    }
    FM_TRY(failure);
    *out_done = done;
    return FM_OK;
}
