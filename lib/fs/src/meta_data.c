// Lengths and contents of files: inline ones whole, of all others the records.
#include "meta_remote.h"

enum {
    FORGET_PAGE = 64,
    CLIENTS_PAGE = 64 // where there are more, some live
};

static const uint64_t forget_ns = (uint64_t)3600 * 1000000000;

struct piece {
    uint64_t offset;
    const void *from;
    void *to;
    size_t length, read;
    uint64_t version, data, size, cuts;
};

// A file that is still there, if only because somebody holds it open.
static fm_status load_file(fm_fs_kv_tx *tx, uint64_t ino, fm_fs_kv_lock lock, fm_fs_node *out_node)
{
    FM_TRY(fm_fs_meta_load(tx, ino, lock, out_node));
    if (S_ISDIR(out_node->mode))
        return fm_base_error_set(FM_ERR_FS_IS_DIR, "inode %llu is a directory", (unsigned long long)ino);
    if (!S_ISREG(out_node->mode))
        return fm_base_error_set(FM_ERR_ARG, "inode %llu is not a file", (unsigned long long)ino);
    return FM_OK;
}

// Gives the file another size, as far as the quota lets it. A removed one counts for nobody.
static fm_status resize(fm_fs_kv_tx *tx, fm_fs_node *node, uint64_t size)
{
    if (size > node->size && size > fm_fs_meta_size_max(&node->layout))
        return fm_base_error_set(FM_ERR_LIMIT, "a file of %llu bytes; with chunks of %u bytes at most %llu",
                                 (unsigned long long)size, node->layout.chunk_bytes,
                                 (unsigned long long)fm_fs_meta_size_max(&node->layout));
    if (node->nlink)
        FM_TRY(fm_fs_meta_charge(tx, node->project, (int64_t)(size - node->size), 0));
    node->size = size;
    return FM_OK;
}

static void changed(const struct fm_fs_meta_op *op, fm_fs_node *node)
{
    node->mtime_ns = op->now_ns;
    node->ctime_ns = op->now_ns;
}

static fm_status inline_read(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    struct piece *piece = op->more;
    fm_fs_kv_bytes value = {0};
    struct fm_fs_meta_key key = fm_fs_meta_key('B', op->ino);
    FM_TRY(load_file(tx, op->ino, FM_FS_KV_LOCK_NONE, &op->node));
    piece->read = 0;
    if (!(op->node.flags & FM_FS_NODE_INLINE) || piece->offset >= op->node.size)
        return FM_OK;
    FM_TRY(fm_fs_meta_get(tx, &key, FM_FS_KV_LOCK_NONE, &value));
    uint64_t left = op->node.size - piece->offset;
    piece->read = left < piece->length ? (size_t)left : piece->length;
    size_t stored = value.size > piece->offset ? value.size - (size_t)piece->offset : 0;
    if (stored > piece->read)
        stored = piece->read;
    if (stored)
        memcpy(piece->to, (const uint8_t *)value.data + piece->offset, stored);
    memset((uint8_t *)piece->to + stored, 0, piece->read - stored);
    return FM_OK;
}

fm_status fm_fs_meta_inline_read(fm_fs_meta *meta, uint64_t ino, uint64_t offset, void *buffer, size_t length,
                                 size_t *out_read, fm_fs_node *out_node)
{
    struct piece piece = {.offset = offset, .to = buffer, .length = length};
    struct fm_fs_meta_op op = {.meta = meta, .body = inline_read, .ino = ino, .more = &piece};
    if (meta->remote)
        return fm_fs_meta_remote_inline_read(meta, ino, offset, buffer, length, out_read, out_node);
    FM_TRY(fm_fs_meta_read(&op));
    *out_read = piece.read;
    *out_node = op.node;
    return FM_OK;
}

static fm_status not_inline(uint64_t ino)
{
    return fm_base_error_set(FM_ERR_STATE, "inode %llu is not inline, or would be too large for it",
                             (unsigned long long)ino);
}

// The inline bytes with room for `size`, zeros behind what is stored.
static fm_status inline_load(fm_fs_kv_tx *tx, uint64_t ino, uint8_t bytes[FM_FS_META_INLINE_MAX])
{
    fm_fs_kv_bytes value;
    struct fm_fs_meta_key key = fm_fs_meta_key('B', ino);
    FM_TRY(fm_fs_meta_get(tx, &key, FM_FS_KV_LOCK_UPDATE, &value));
    memset(bytes, 0, FM_FS_META_INLINE_MAX);
    if (value.size > FM_FS_META_INLINE_MAX)
        return fm_base_error_set(FM_ERR_FORMAT, "inode %llu has %zu inline bytes", (unsigned long long)ino,
                                 value.size);
    if (value.size)
        memcpy(bytes, value.data, value.size);
    return FM_OK;
}

static fm_status inline_write(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    const struct piece *piece = op->more;
    uint8_t bytes[FM_FS_META_INLINE_MAX];
    uint64_t end = piece->offset + piece->length;
    struct fm_fs_meta_key key = fm_fs_meta_key('B', op->ino);
    fm_fs_node node;
    FM_TRY(load_file(tx, op->ino, FM_FS_KV_LOCK_UPDATE, &node));
    if (!(node.flags & FM_FS_NODE_INLINE) || end > op->meta->options.inline_max)
        return not_inline(op->ino);
    FM_TRY(inline_load(tx, op->ino, bytes));
    memcpy(bytes + piece->offset, piece->from, piece->length);
    if (end > node.size)
        FM_TRY(resize(tx, &node, end));
    node.version++;
    changed(op, &node);
    FM_TRY(fm_fs_meta_put(tx, &key, bytes, (size_t)node.size));
    op->node = node;
    return fm_fs_meta_store(tx, &node);
}

fm_status fm_fs_meta_inline_write(fm_fs_meta *meta, uint64_t ino, uint64_t offset, const void *bytes,
                                  size_t length, fm_fs_node *out_node)
{
    struct piece piece = {.offset = offset, .from = bytes, .length = length};
    struct fm_fs_meta_op op = {.meta = meta, .body = inline_write, .ino = ino, .more = &piece};
    if (length > FM_FS_META_INLINE_MAX || offset > FM_FS_META_INLINE_MAX)
        return not_inline(ino);
    if (meta->remote)
        return fm_fs_meta_remote_inline_write(meta, ino, offset, bytes, length, out_node);
    FM_TRY(fm_fs_meta_run(&op));
    *out_node = op.node;
    return FM_OK;
}

static fm_status spill(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    const struct piece *piece = op->more;
    struct fm_fs_meta_key key = fm_fs_meta_key('B', op->ino);
    fm_fs_node node;
    FM_TRY(load_file(tx, op->ino, FM_FS_KV_LOCK_UPDATE, &node));
    if (!(node.flags & FM_FS_NODE_INLINE) || node.version != piece->version)
        return fm_base_error_set(FM_ERR_STATE, "inode %llu was changed meanwhile",
                                 (unsigned long long)op->ino);
    node.flags &= ~(uint32_t)FM_FS_NODE_INLINE;
    node.version++;
    node.reach = node.size;
    FM_TRY(fm_fs_meta_delete(tx, &key));
    op->node = node;
    return fm_fs_meta_store(tx, &node);
}

fm_status fm_fs_meta_spill(fm_fs_meta *meta, uint64_t ino, uint64_t version, fm_fs_node *out_node)
{
    struct piece piece = {.version = version};
    struct fm_fs_meta_op op = {.meta = meta, .body = spill, .ino = ino, .more = &piece};
    if (meta->remote)
        return fm_fs_meta_remote_spill(meta, ino, version, out_node);
    FM_TRY(fm_fs_meta_run(&op));
    *out_node = op.node;
    return FM_OK;
}

static fm_status other_contents(const fm_fs_node *node)
{
    return fm_base_error_set(FM_ERR_STATE, "inode %llu has other contents by now",
                             (unsigned long long)node->ino);
}

static fm_status cut_meanwhile(const fm_fs_node *node)
{
    return fm_base_error_set(FM_ERR_STATE, "inode %llu was cut meanwhile", (unsigned long long)node->ino);
}

// Whoever lets it grow has seen its last cut; below its reach, that is his own. Also where it would not matter: what has failed
// once must fail for ever, for a slow server may still try it.
static fm_status may_grow(const fm_fs_node *node, const struct piece *piece)
{
    return piece->size <= node->size || piece->cuts == node->cuts || FM_FS_PLANT(FM_FS_PLANT_NAMES_TAIL)
               ? FM_OK
               : cut_meanwhile(node);
}

static fm_status extend(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    const struct piece *piece = op->more;
    fm_fs_node node;
    FM_TRY(load_file(tx, op->ino, FM_FS_KV_LOCK_UPDATE, &node));
    if (node.data != piece->data || (node.flags & FM_FS_NODE_INLINE))
        return other_contents(&node);
    FM_TRY(may_grow(&node, piece));
    if (piece->size > node.size)
        FM_TRY(resize(tx, &node, piece->size));
    if (piece->size > node.reach)
        node.reach = piece->size;
    node.version++;
    changed(op, &node);
    op->node = node;
    return fm_fs_meta_store(tx, &node);
}

fm_status fm_fs_meta_extend(fm_fs_meta *meta, uint64_t ino, uint64_t data, uint64_t end, uint64_t cuts,
                            fm_fs_node *out_node)
{
    struct piece piece = {.data = data, .size = end, .cuts = cuts};
    struct fm_fs_meta_op op = {.meta = meta, .body = extend, .ino = ino, .more = &piece};
    if (meta->remote)
        return fm_fs_meta_remote_extend(meta, ino, data, end, cuts, out_node);
    FM_TRY(fm_fs_meta_run(&op));
    *out_node = op.node;
    return FM_OK;
}

// For the record of a request: one that is repeated finds the node as it is by then, perhaps with a number of somebody else.
static int cuts_made(const fm_fs_node *node)
{
    return (int)(node->cuts & INT32_MAX);
}

static fm_status fence(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    const struct piece *piece = op->more;
    FM_TRY(load_file(tx, op->ino, FM_FS_KV_LOCK_UPDATE, &op->node));
    if (op->node.data != piece->data || (op->node.flags & FM_FS_NODE_INLINE))
        return other_contents(&op->node);
    op->node.cuts++;
    op->made = cuts_made(&op->node);
    return fm_fs_meta_store(tx, &op->node);
}

fm_status fm_fs_meta_fence(fm_fs_meta *meta, uint64_t ino, uint64_t data, fm_fs_node *out_node)
{
    struct piece piece = {.data = data};
    struct fm_fs_meta_op op = {.meta = meta, .body = fence, .ino = ino, .more = &piece};
    if (meta->remote)
        return fm_fs_meta_remote_fence(meta, ino, data, out_node);
    FM_TRY(fm_fs_meta_run(&op));
    if (op.made != cuts_made(&op.node))
        return cut_meanwhile(&op.node);
    *out_node = op.node;
    return FM_OK;
}

// An inline file's new size; FM_ERR_STATE where it must leave the store first.
static fm_status truncate_inline(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op, uint64_t size)
{
    uint8_t bytes[FM_FS_META_INLINE_MAX];
    struct fm_fs_meta_key key = fm_fs_meta_key('B', op->ino);
    if (size > op->meta->options.inline_max)
        return not_inline(op->ino);
    FM_TRY(inline_load(tx, op->ino, bytes));
    if (size < op->node.size)
        memset(bytes + size, 0, (size_t)(op->node.size - size));
    return size ? fm_fs_meta_put(tx, &key, bytes, (size_t)size) : fm_fs_meta_delete(tx, &key);
}

static fm_status truncate(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    const struct piece *piece = op->more;
    fm_fs_node *node = &op->node;
    FM_TRY(load_file(tx, op->ino, FM_FS_KV_LOCK_UPDATE, node));
    FM_TRY(fm_fs_meta_may_change(node));
    if (node->flags & FM_FS_NODE_INLINE) {
        FM_TRY(truncate_inline(tx, op, piece->size));
    } else if (piece->size == 0) {
        if (node->reach && !FM_FS_PLANT(FM_FS_PLANT_NAMES_CHUNKS))
            FM_TRY(fm_fs_meta_work_put(tx, op, FM_FS_META_WORK_DATA, node, 0));
        node->data = op->number;
        node->reach = 0;
        if (op->meta->options.inline_max)
            node->flags |= FM_FS_NODE_INLINE;
    } else if (node->data != piece->data) {
        return other_contents(node);
    } else if (node->cuts != piece->cuts) {
        return cut_meanwhile(node); // see may_grow()
    } else if (piece->size < node->size) {
        node->cuts++;
        op->made = cuts_made(node);
    } else if (piece->size > node->reach) {
        node->reach = piece->size; // where nothing was written there is no chunk, and it reads as zeros
    }
    FM_TRY(resize(tx, node, piece->size));
    node->version++;
    changed(op, node);
    return fm_fs_meta_store(tx, node);
}

fm_status fm_fs_meta_truncate(fm_fs_meta *meta, const fm_fs_who *who, uint64_t ino, uint64_t data,
                              uint64_t size, uint64_t cuts, fm_fs_node *out_node)
{
    struct piece piece = {.data = data, .size = size, .cuts = cuts};
    struct fm_fs_meta_op op = {
        .meta = meta, .who = who, .body = truncate, .ino = ino, .more = &piece, .once = 1};
    if (size > INT64_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "a size of %llu bytes", (unsigned long long)size);
    if (meta->remote)
        return fm_fs_meta_remote_truncate(meta, who, ino, data, size, cuts, out_node);
    FM_TRY(fm_fs_meta_number(meta, &op.number));
    FM_TRY(fm_fs_meta_run(&op));
    if (op.made != cuts_made(&op.node))
        op.node.cuts = 0;
    *out_node = op.node;
    return FM_OK;
}

/* Open files */

struct hold {
    uint64_t client, until_ns;
    int by;
};

static fm_status hold(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    const struct hold *wanted = op->more;
    struct fm_fs_meta_key key = fm_fs_meta_key_two('S', op->ino, wanted->client);
    fm_fs_kv_bytes value;
    uint8_t count[4];
    if (wanted->by > 0)
        FM_TRY(fm_fs_meta_load(tx, op->ino, FM_FS_KV_LOCK_SHARE, &op->node));
    FM_TRY(fm_fs_meta_get(tx, &key, FM_FS_KV_LOCK_UPDATE, &value));
    int64_t holds = (value.size == sizeof count ? (int64_t)fm_get_le32(value.data) : 0) + wanted->by;
    if (holds <= 0)
        return fm_fs_meta_delete(tx, &key);
    fm_put_le32(count, (uint32_t)holds);
    return fm_fs_meta_put(tx, &key, count, sizeof count);
}

fm_status fm_fs_meta_hold(fm_fs_meta *meta, uint64_t client, uint64_t ino, fm_fs_node *out_node)
{
    struct hold wanted = {.client = client, .by = 1};
    struct fm_fs_meta_op op = {.meta = meta, .body = hold, .ino = ino, .more = &wanted, .once = 1};
    if (meta->remote)
        return fm_fs_meta_remote_session(meta, FM_FS_META_HOLD, client, ino, out_node);
    FM_TRY(fm_fs_meta_run(&op));
    *out_node = op.node;
    return FM_OK;
}

fm_status fm_fs_meta_release(fm_fs_meta *meta, uint64_t client, uint64_t ino)
{
    struct hold wanted = {.client = client, .by = -1};
    struct fm_fs_meta_op op = {.meta = meta, .body = hold, .ino = ino, .more = &wanted, .once = 1};
    if (meta->remote)
        return fm_fs_meta_remote_session(meta, FM_FS_META_RELEASE, client, ino, NULL);
    return fm_fs_meta_run(&op);
}

// Drops leases that ended so long ago that nobody asks for them: of clients that were killed.
static fm_status forget_clients(fm_fs_kv_tx *tx, const struct fm_fs_meta_op *op)
{
    static const uint8_t from[1] = {'C'};
    static const uint8_t behind[1] = {'C' + 1};
    fm_fs_kv_item items[FORGET_PAGE];
    size_t count;
    FM_TRY(fm_fs_kv_range(tx, (fm_fs_kv_bytes){from, 1}, (fm_fs_kv_bytes){behind, 1}, FORGET_PAGE, 0, items,
                          &count));
    for (size_t i = 0; i < count; i++)
        if (items[i].value.size != 8 || ((uint64_t)op->now_ns > forget_ns &&
                                         fm_get_le64(items[i].value.data) < (uint64_t)op->now_ns - forget_ns))
            FM_TRY(fm_fs_kv_delete(tx, items[i].key));
    return FM_OK;
}

static fm_status lease(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    const struct hold *wanted = op->more;
    struct fm_fs_meta_key key = fm_fs_meta_key('C', wanted->client);
    uint8_t until[8];
    FM_TRY(forget_clients(tx, op));
    if (!wanted->until_ns)
        return fm_fs_meta_delete(tx, &key);
    fm_put_le64(until, wanted->until_ns);
    return fm_fs_meta_put(tx, &key, until, sizeof until);
}

fm_status fm_fs_meta_lease_other(fm_fs_meta *meta, uint64_t client, uint64_t until_ns)
{
    struct hold wanted = {.client = client, .until_ns = until_ns};
    struct fm_fs_meta_op op = {.meta = meta, .body = lease, .more = &wanted};
    return fm_fs_meta_run(&op);
}

fm_status fm_fs_meta_lease(fm_fs_meta *meta, uint64_t client, uint64_t until_ns)
{
    if (until_ns || __atomic_load_n(&meta->leased, __ATOMIC_RELAXED) == client)
        __atomic_store_n(&meta->leased, until_ns ? client : 0, __ATOMIC_RELAXED);
    return meta->remote ? fm_fs_meta_remote_session(meta, FM_FS_META_LEASE, client, until_ns, NULL)
                        : fm_fs_meta_lease_other(meta, client, until_ns);
}

fm_status fm_fs_meta_other_clients(fm_fs_kv_tx *tx, const struct fm_fs_meta_op *op, int *out_others)
{
    static const uint8_t from[1] = {'C'};
    static const uint8_t behind[1] = {'C' + 1};
    fm_fs_kv_item items[CLIENTS_PAGE];
    size_t count;
    FM_TRY(fm_fs_kv_range(tx, (fm_fs_kv_bytes){from, 1}, (fm_fs_kv_bytes){behind, 1}, CLIENTS_PAGE, 0, items,
                          &count));
    *out_others = count == CLIENTS_PAGE;
    for (size_t i = 0; i < count && !*out_others; i++)
        *out_others = items[i].key.size == 9 && items[i].value.size == 8 &&
                      fm_fs_meta_number_at((const uint8_t *)items[i].key.data + 1) != op->leased &&
                      fm_get_le64(items[i].value.data) > (uint64_t)op->now_ns;
    return FM_OK;
}

static fm_status others(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    return fm_fs_meta_other_clients(tx, op, &op->made);
}

fm_status fm_fs_meta_others(fm_fs_meta *meta, int *out_others)
{
    struct fm_fs_meta_op op = {.meta = meta, .body = others, .made = 1};
    op.leased = __atomic_load_n(&meta->leased, __ATOMIC_RELAXED);
    if (!meta->remote)
        FM_TRY(fm_fs_meta_read(&op));
    *out_others = op.made;
    return FM_OK;
}
