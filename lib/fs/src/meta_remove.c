// Removing names: of files, of empty directories, of whole trees.
#include "meta_remote.h"

static const uint64_t others_ns = (uint64_t)FM_FS_META_GRACE_S * 1000000000;

fm_status fm_fs_meta_touch_dir(fm_fs_kv_tx *tx, const struct fm_fs_meta_op *op, fm_fs_node *dir,
                               int subdirectories)
{
    dir->nlink = (uint32_t)((int64_t)dir->nlink + subdirectories);
    dir->mtime_ns = op->now_ns;
    dir->ctime_ns = op->now_ns;
    return fm_fs_meta_store(tx, dir);
}

fm_status fm_fs_meta_check_empty(fm_fs_kv_tx *tx, const fm_fs_node *dir, const char *name)
{
    int any;
    FM_TRY(fm_fs_meta_any(tx, 'D', dir->ino, &any));
    return any && !FM_FS_PLANT(FM_FS_PLANT_NAMES_NOT_EMPTY)
               ? fm_base_error_set(FM_ERR_FS_NOT_EMPTY, "%s is not empty", name)
               : FM_OK;
}

fm_status fm_fs_meta_work_put(fm_fs_kv_tx *tx, const struct fm_fs_meta_op *op, enum fm_fs_meta_work kind,
                              const fm_fs_node *node, uint64_t grace_ns)
{
    uint8_t value[FM_FS_META_DATA_WORK_BYTES];
    uint64_t due = (uint64_t)op->now_ns + op->meta->options.retention_ns + grace_ns;
    struct fm_fs_meta_key key =
        fm_fs_meta_key_two('G', due, kind == FM_FS_META_WORK_DATA ? node->data : node->ino);
    fm_put_le32(value, kind);
    fm_put_le64(value + 4, node->reach);
    fm_fs_meta_layout_put(value + 12, &node->layout);
    return fm_fs_meta_put(tx, &key, value, kind == FM_FS_META_WORK_DATA ? sizeof value : 4);
}

fm_status fm_fs_meta_drop_link(fm_fs_kv_tx *tx, const struct fm_fs_meta_op *op, fm_fs_node *node)
{
    int held = 0;
    int others = 0;
    node->nlink = S_ISDIR(node->mode) ? 0 : node->nlink - 1;
    node->ctime_ns = op->now_ns;
    if (FM_FS_PLANT(FM_FS_PLANT_NAMES_LINKS) && node->nlink > 0)
        node->nlink++;
    if (node->nlink > 0)
        return fm_fs_meta_store(tx, node);
    if (!FM_FS_PLANT(FM_FS_PLANT_NAMES_QUOTA))
        FM_TRY(fm_fs_meta_charge(tx, node->project, -(int64_t)(S_ISREG(node->mode) ? node->size : 0), -1));
    if (node->project == node->ino) {
        struct fm_fs_meta_key quota = fm_fs_meta_key('Q', node->ino);
        FM_TRY(fm_fs_meta_delete(tx, &quota));
    }
    FM_TRY(fm_fs_meta_any(tx, 'S', node->ino, &held));
    if (S_ISREG(node->mode))
        FM_TRY(fm_fs_meta_other_clients(tx, op, &others));
    if (held || others || (node->flags & FM_FS_NODE_XATTRS) || node->reach) {
        FM_TRY(fm_fs_meta_store(tx, node));
        return fm_fs_meta_work_put(tx, op, FM_FS_META_WORK_NODE, node, others ? others_ns : 0);
    }
    struct fm_fs_meta_key locks = fm_fs_meta_key('L', node->ino);
    struct fm_fs_meta_key record = fm_fs_meta_key('I', node->ino);
    struct fm_fs_meta_key content = fm_fs_meta_key('B', node->ino);
    if (node->flags & FM_FS_NODE_INLINE)
        FM_TRY(fm_fs_meta_delete(tx, &content));
    FM_TRY(fm_fs_meta_delete(tx, &locks));
    return fm_fs_meta_delete(tx, &record);
}

// The directory and the node of an entry that is to be taken away.
static fm_status load_both(fm_fs_kv_tx *tx, const struct fm_fs_meta_op *op, fm_fs_node *dir, fm_fs_node *node)
{
    uint64_t ino;
    FM_TRY(fm_fs_meta_load_parent(tx, op->who, op->parent, dir));
    FM_TRY(fm_fs_meta_entry_get(tx, op->parent, op->name, FM_FS_KV_LOCK_UPDATE, &ino));
    if (!ino)
        return fm_base_error_set(FM_ERR_NOT_FOUND, "%s does not exist", op->name);
    FM_TRY(fm_fs_meta_load(tx, ino, FM_FS_KV_LOCK_UPDATE, node));
    return fm_fs_meta_may_take(op->who, dir, node);
}

static fm_status unlink_file(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    fm_fs_node dir;
    fm_fs_node node;
    FM_TRY(load_both(tx, op, &dir, &node));
    if (S_ISDIR(node.mode))
        return fm_base_error_set(FM_ERR_FS_IS_DIR, "%s is a directory", op->name);
    FM_TRY(fm_fs_meta_entry_delete(tx, op->parent, op->name));
    FM_TRY(fm_fs_meta_drop_link(tx, op, &node));
    return fm_fs_meta_touch_dir(tx, op, &dir, 0);
}

static fm_status remove_dir(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    fm_fs_node dir;
    fm_fs_node node;
    FM_TRY(load_both(tx, op, &dir, &node));
    if (!S_ISDIR(node.mode))
        return fm_base_error_set(FM_ERR_FS_NOT_DIR, "%s is not a directory", op->name);
    FM_TRY(fm_fs_meta_check_empty(tx, &node, op->name));
    FM_TRY(fm_fs_meta_entry_delete(tx, op->parent, op->name));
    FM_TRY(fm_fs_meta_drop_link(tx, op, &node));
    return fm_fs_meta_touch_dir(tx, op, &dir, -1);
}

static fm_status remove_tree(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    fm_fs_node dir;
    fm_fs_node node;
    FM_TRY(load_both(tx, op, &dir, &node));
    FM_TRY(fm_fs_meta_entry_delete(tx, op->parent, op->name));
    FM_TRY(fm_fs_meta_touch_dir(tx, op, &dir, S_ISDIR(node.mode) ? -1 : 0));
    if (!S_ISDIR(node.mode))
        return fm_fs_meta_drop_link(tx, op, &node);
    node.nlink = 0;
    FM_TRY(fm_fs_meta_charge(tx, node.project, 0, -1));
    FM_TRY(fm_fs_meta_store(tx, &node));
    return fm_fs_meta_work_put(tx, op, FM_FS_META_WORK_TREE, &node, 0);
}

static fm_status remove_entry(fm_fs_meta *meta, enum fm_fs_meta_method method, const fm_fs_who *who,
                              uint64_t parent, const char *name,
                              fm_status (*body)(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op))
{
    struct fm_fs_meta_op op = {
        .meta = meta, .who = who, .body = body, .parent = parent, .name = name, .once = 1};
    FM_TRY(fm_fs_meta_name_check(name));
    if (meta->remote)
        return fm_fs_meta_remote_remove(meta, method, who, parent, name);
    return fm_fs_meta_run(&op);
}

fm_status fm_fs_meta_unlink(fm_fs_meta *meta, const fm_fs_who *who, uint64_t parent, const char *name)
{
    return remove_entry(meta, FM_FS_META_UNLINK, who, parent, name, unlink_file);
}

fm_status fm_fs_meta_rmdir(fm_fs_meta *meta, const fm_fs_who *who, uint64_t parent, const char *name)
{
    return remove_entry(meta, FM_FS_META_RMDIR, who, parent, name, remove_dir);
}

/* Trees */

struct walk {
    uint64_t *dirs; // still to be looked into
    size_t count, capacity;
};

static fm_status push(struct walk *walk, uint64_t dir)
{
    if (walk->count == walk->capacity) {
        size_t capacity = walk->capacity ? 2 * walk->capacity : 64;
        uint64_t *moved = fm_base_mem_realloc(walk->dirs, capacity, sizeof *moved);
        if (!moved)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory to walk a tree");
        walk->dirs = moved;
        walk->capacity = capacity;
    }
    walk->dirs[walk->count++] = dir;
    return FM_OK;
}

// Whether `who` may empty the directory, and what directories are in it.
static fm_status look_into(fm_fs_meta *meta, const fm_fs_who *who, uint64_t dir, struct walk *walk,
                           fm_fs_meta_entry *page)
{
    fm_fs_node node;
    size_t count = FM_FS_META_PAGE_MAX;
    char after[FM_FS_META_NAME_MAX + 1];
    FM_TRY(fm_fs_meta_node(meta, dir, &node));
    FM_TRY(fm_fs_meta_access(who, &node, 7));
    for (int first = 1; count == FM_FS_META_PAGE_MAX; first = 0) {
        FM_TRY(fm_fs_meta_list(meta, who, dir, first ? NULL : after, page, FM_FS_META_PAGE_MAX, &count));
        for (size_t i = 0; i < count; i++) {
            FM_TRY(fm_fs_meta_may_take(who, &node, &page[i].node));
            if (S_ISDIR(page[i].node.mode))
                FM_TRY(push(walk, page[i].node.ino));
        }
        if (count)
            memcpy(after, page[count - 1].name, sizeof after);
    }
    return FM_OK;
}

static fm_status may_empty(fm_fs_meta *meta, const fm_fs_who *who, uint64_t dir)
{
    struct walk walk = {0};
    fm_fs_meta_entry *page = fm_base_mem_zalloc(FM_FS_META_PAGE_MAX, sizeof *page);
    fm_status status = page ? push(&walk, dir) : fm_base_error_set(FM_ERR_NOMEM, "no memory to walk a tree");
    while (status == FM_OK && walk.count)
        status = look_into(meta, who, walk.dirs[--walk.count], &walk, page);
    fm_base_mem_free(page);
    fm_base_mem_free(walk.dirs);
    return status;
}

fm_status fm_fs_meta_remove_all(fm_fs_meta *meta, const fm_fs_who *who, uint64_t parent, const char *name)
{
    fm_fs_node node;
    FM_TRY(fm_fs_meta_name_check(name));
    if (!fm_fs_meta_is_super(who)) {
        FM_TRY(fm_fs_meta_lookup(meta, who, parent, name, &node));
        if (S_ISDIR(node.mode))
            FM_TRY(may_empty(meta, who, node.ino));
    }
    return remove_entry(meta, FM_FS_META_REMOVE_ALL, who, parent, name, remove_tree);
}
