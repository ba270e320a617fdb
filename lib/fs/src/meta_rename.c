// Renaming: one transaction over both directories, both entries, what moves and what is replaced.
#include "meta_remote.h"

struct move {
    fm_fs_node from, to; // the directories; the same node twice when they are one
    fm_fs_node node;     // what moves
    fm_fs_node there;    // what bears the new name already; ino 0: nothing
    int same_dir;
};

// Whether `ino` is `dir` or above it.
static fm_status is_above(fm_fs_kv_tx *tx, uint64_t dir, uint64_t ino, int *out_above)
{
    *out_above = 1;
    while (dir != ino) {
        fm_fs_node node = {0};
        if (dir != FM_FS_META_ROOT)
            FM_TRY(fm_fs_meta_load(tx, dir, FM_FS_KV_LOCK_SHARE, &node));
        if (node.nlink == 0) { // the root, or a removed directory: above it there is nothing
            *out_above = 0;
            return FM_OK;
        }
        dir = node.parent;
    }
    return FM_OK;
}

// Whether a node may be taken from `from` and put into `to`.
static fm_status may_move(fm_fs_kv_tx *tx, const struct fm_fs_meta_op *op, const fm_fs_node *node,
                          const fm_fs_node *from, const fm_fs_node *to, const char *name)
{
    int above;
    FM_TRY(fm_fs_meta_may_take(op->who, from, node));
    if (from->ino != to->ino && S_ISDIR(node->mode)) {
        FM_TRY(fm_fs_meta_access(op->who, node, 2)); // its ".." changes
        FM_TRY(is_above(tx, to->ino, node->ino, &above));
        if (above && !FM_FS_PLANT(FM_FS_PLANT_NAMES_LOOP))
            return fm_base_error_set(FM_ERR_ARG, "%s cannot move into itself", name);
    }
    if (node->project != to->project && node->project != node->ino)
        return fm_base_error_set(FM_ERR_FS_CROSS, "%s counts for another quota than its new directory", name);
    return FM_OK;
}

static fm_status load_entry(fm_fs_kv_tx *tx, uint64_t dir, const char *name, fm_fs_node *out_node)
{
    uint64_t ino;
    FM_TRY(fm_fs_meta_entry_get(tx, dir, name, FM_FS_KV_LOCK_UPDATE, &ino));
    *out_node = (fm_fs_node){0};
    return ino ? fm_fs_meta_load(tx, ino, FM_FS_KV_LOCK_UPDATE, out_node) : FM_OK;
}

static fm_status load_all(fm_fs_kv_tx *tx, const struct fm_fs_meta_op *op, struct move *move)
{
    FM_TRY(fm_fs_meta_load_parent(tx, op->who, op->parent, &move->from));
    FM_TRY(fm_fs_meta_load_parent(tx, op->who, op->to_parent, &move->to));
    move->same_dir = op->parent == op->to_parent;
    FM_TRY(load_entry(tx, op->parent, op->name, &move->node));
    FM_TRY(load_entry(tx, op->to_parent, op->to_name, &move->there));
    if (!move->node.ino)
        return fm_base_error_set(FM_ERR_NOT_FOUND, "%s does not exist", op->name);
    return FM_OK;
}

// Stores the directories after their numbers of subdirectories have changed.
static fm_status touch_both(fm_fs_kv_tx *tx, const struct fm_fs_meta_op *op, struct move *move, int from,
                            int to)
{
    if (move->same_dir)
        return fm_fs_meta_touch_dir(tx, op, &move->from, from + to);
    FM_TRY(fm_fs_meta_touch_dir(tx, op, &move->from, from));
    return fm_fs_meta_touch_dir(tx, op, &move->to, to);
}

static fm_status exchange(fm_fs_kv_tx *tx, const struct fm_fs_meta_op *op, struct move *move)
{
    fm_fs_node *node = &move->node;
    fm_fs_node *there = &move->there;
    if (!there->ino)
        return fm_base_error_set(FM_ERR_NOT_FOUND, "%s does not exist", op->to_name);
    if (node->ino == there->ino)
        return FM_OK;
    FM_TRY(may_move(tx, op, node, &move->from, &move->to, op->name));
    FM_TRY(may_move(tx, op, there, &move->to, &move->from, op->to_name));
    FM_TRY(fm_fs_meta_entry_put(tx, op->parent, op->name, there));
    FM_TRY(fm_fs_meta_entry_put(tx, op->to_parent, op->to_name, node));
    node->ctime_ns = op->now_ns;
    there->ctime_ns = op->now_ns;
    if (S_ISDIR(node->mode))
        node->parent = op->to_parent;
    if (S_ISDIR(there->mode))
        there->parent = op->parent;
    FM_TRY(fm_fs_meta_store(tx, node));
    FM_TRY(fm_fs_meta_store(tx, there));
    int shift = (S_ISDIR(there->mode) ? 1 : 0) - (S_ISDIR(node->mode) ? 1 : 0);
    return touch_both(tx, op, move, shift, -shift);
}

static fm_status check_replace(fm_fs_kv_tx *tx, const struct fm_fs_meta_op *op, const struct move *move)
{
    const fm_fs_node *there = &move->there;
    int above = 0;
    FM_TRY(fm_fs_meta_may_take(op->who, &move->to, there));
    if (S_ISDIR(move->node.mode) && !S_ISDIR(there->mode))
        return fm_base_error_set(FM_ERR_FS_NOT_DIR, "%s is not a directory; %s is one", op->to_name,
                                 op->name);
    if (S_ISDIR(there->mode))
        FM_TRY(is_above(tx, op->parent, there->ino, &above));
    if (above) // it holds what moves, which Linux says before all else
        return fm_base_error_set(FM_ERR_FS_NOT_EMPTY, "%s is not empty", op->to_name);
    if (!S_ISDIR(move->node.mode) && S_ISDIR(there->mode))
        return fm_base_error_set(FM_ERR_FS_IS_DIR, "%s is a directory; %s is none", op->to_name, op->name);
    return S_ISDIR(there->mode) ? fm_fs_meta_check_empty(tx, there, op->to_name) : FM_OK;
}

static fm_status rename_entry(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    struct move move;
    int from = 0;
    int to = 0;
    FM_TRY(load_all(tx, op, &move));
    if (op->flags & FM_FS_META_EXCHANGE)
        return exchange(tx, op, &move);
    if (move.there.ino && (op->flags & FM_FS_META_NOREPLACE))
        return fm_base_error_set(FM_ERR_EXISTS, "%s exists", op->to_name);
    if (move.there.ino == move.node.ino)
        return FM_OK; // two names of one file: POSIX has nothing happen
    FM_TRY(may_move(tx, op, &move.node, &move.from, &move.to, op->name));
    if (move.there.ino) {
        FM_TRY(check_replace(tx, op, &move));
        to -= S_ISDIR(move.there.mode) ? 1 : 0;
        FM_TRY(fm_fs_meta_drop_link(tx, op, &move.there));
    }
    FM_TRY(fm_fs_meta_entry_delete(tx, op->parent, op->name));
    FM_TRY(fm_fs_meta_entry_put(tx, op->to_parent, op->to_name, &move.node));
    if (S_ISDIR(move.node.mode)) {
        move.node.parent = op->to_parent;
        from--;
        to++;
    }
    move.node.ctime_ns = op->now_ns;
    FM_TRY(fm_fs_meta_store(tx, &move.node));
    return touch_both(tx, op, &move, from, to);
}

fm_status fm_fs_meta_rename(fm_fs_meta *meta, const fm_fs_who *who, uint64_t parent, const char *name,
                            uint64_t to_parent, const char *to_name, unsigned flags)
{
    struct fm_fs_meta_op op = {.meta = meta,
                               .who = who,
                               .body = rename_entry,
                               .parent = parent,
                               .to_parent = to_parent,
                               .name = name,
                               .to_name = to_name,
                               .flags = flags,
                               .once = 1};
    FM_TRY(fm_fs_meta_name_check(name));
    FM_TRY(fm_fs_meta_name_check(to_name));
    if (flags > FM_FS_META_EXCHANGE)
        return fm_base_error_set(FM_ERR_ARG, "rename with flags 0x%x; expected one of two", flags);
    if (meta->remote)
        return fm_fs_meta_remote_rename(meta, who, parent, name, to_parent, to_name, flags);
    return fm_fs_meta_run(&op);
}
