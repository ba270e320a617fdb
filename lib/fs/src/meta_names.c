// Making names: files, directories, symbolic and hard links.
#include "meta_remote.h"

struct creation {
    const char *target; // of a symbolic link; NULL otherwise
    uint64_t rdev;      // of a device
    int exclusive;
};

static fm_status exists(const char *name)
{
    return fm_base_error_set(FM_ERR_EXISTS, "%s exists", name);
}

// What a new node gets from its request and its directory.
static void fill(const struct fm_fs_meta_op *op, const fm_fs_node *dir, fm_fs_node *node)
{
    const fm_fs_who *who = op->who;
    const struct creation *creation = op->more;
    int is_dir = S_ISDIR(op->mode);
    *node = (fm_fs_node){.ino = op->number,
                         .mode = op->mode,
                         .nlink = is_dir ? 2 : 1,
                         .uid = who ? who->uid : 0,
                         .gid = dir->mode & S_ISGID ? dir->gid : (who ? who->gid : 0),
                         .rdev = S_ISCHR(op->mode) || S_ISBLK(op->mode) ? creation->rdev : 0,
                         .atime_ns = op->now_ns,
                         .mtime_ns = op->now_ns,
                         .ctime_ns = op->now_ns,
                         .parent = is_dir ? dir->ino : 0,
                         .project = dir->project,
                         .layout = dir->layout};
    if (is_dir && (dir->mode & S_ISGID))
        node->mode |= S_ISGID;
    else if (!is_dir && !fm_fs_meta_in_group(who, node->gid) && (node->mode & S_IXGRP))
        node->mode &= ~(uint32_t)S_ISGID;
    if (S_ISREG(op->mode)) {
        node->data = node->ino;
        node->flags = op->meta->options.inline_max ? FM_FS_NODE_INLINE : 0;
        // Consecutive numbers, multiplied so that neither all files of a time nor all of a stride begin on one chain.
        node->layout.base = (uint32_t)(node->data * 0x9e3779b97f4a7c15U >> 33) % node->layout.chains;
    }
}

static fm_status open_existing(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op, uint64_t ino)
{
    const struct creation *creation = op->more;
    if (creation->exclusive || !S_ISREG(op->mode))
        return exists(op->name);
    FM_TRY(fm_fs_meta_load(tx, ino, FM_FS_KV_LOCK_NONE, &op->node));
    if (S_ISDIR(op->node.mode))
        return fm_base_error_set(FM_ERR_FS_IS_DIR, "%s is a directory", op->name);
    return FM_OK;
}

static fm_status create(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    const struct creation *creation = op->more;
    fm_fs_node dir;
    fm_fs_node node;
    uint64_t ino;
    fm_status may = fm_fs_meta_load_parent(tx, op->who, op->parent, &dir);
    if (may < 0 && may != FM_ERR_FS_ACCESS && may != FM_ERR_PERM)
        return may;
    FM_TRY(fm_fs_meta_access(op->who, &dir, 1));
    FM_TRY(fm_fs_meta_entry_get(tx, op->parent, op->name, FM_FS_KV_LOCK_UPDATE, &ino));
    if (ino)
        return open_existing(tx, op, ino);
    if (may < 0) // what is there may be opened where nothing may be made
        return fm_base_error_set(may, "%s may not be made in directory %llu", op->name,
                                 (unsigned long long)op->parent);
    fill(op, &dir, &node);
    FM_TRY(fm_fs_meta_charge(tx, node.project, 0, 1));
    if (creation->target) {
        struct fm_fs_meta_key key = fm_fs_meta_key('B', node.ino);
        node.size = strlen(creation->target);
        node.flags = FM_FS_NODE_INLINE;
        FM_TRY(fm_fs_meta_put(tx, &key, creation->target, node.size));
    }
    FM_TRY(fm_fs_meta_store(tx, &node));
    FM_TRY(fm_fs_meta_entry_put(tx, op->parent, op->name, &node));
    FM_TRY(fm_fs_meta_touch_dir(tx, op, &dir, S_ISDIR(node.mode) ? 1 : 0));
    op->node = node;
    op->made = 1;
    return FM_OK;
}

fm_status fm_fs_meta_create(fm_fs_meta *meta, const fm_fs_who *who, uint64_t parent, const char *name,
                            uint32_t mode, uint64_t rdev, int exclusive, fm_fs_node *out_node, int *out_made)
{
    struct creation creation = {.rdev = rdev, .exclusive = exclusive};
    struct fm_fs_meta_op op = {.meta = meta,
                               .who = who,
                               .body = create,
                               .parent = parent,
                               .name = name,
                               .mode = mode & (S_IFMT | 07777),
                               .more = &creation,
                               .once = 1};
    uint32_t type = mode & S_IFMT;
    FM_TRY(fm_fs_meta_name_check(name));
    if ((type == S_IFCHR || type == S_IFBLK) && !fm_fs_meta_is_super(who))
        return fm_base_error_set(FM_ERR_PERM, "%s: only the superuser makes devices", name);
    if (type != S_IFREG && type != S_IFDIR && type != S_IFIFO && type != S_IFSOCK && type != S_IFCHR &&
        type != S_IFBLK)
        return fm_base_error_set(FM_ERR_ARG, "%s: mode %o has no type that can be made so", name, mode);
    if (meta->remote)
        return fm_fs_meta_remote_create(meta, who, parent, name, mode, rdev, exclusive, out_node, out_made);
    FM_TRY(fm_fs_meta_number(meta, &op.number));
    FM_TRY(fm_fs_meta_run(&op));
    *out_node = op.node;
    if (out_made)
        *out_made = op.made;
    return FM_OK;
}

fm_status fm_fs_meta_symlink(fm_fs_meta *meta, const fm_fs_who *who, uint64_t parent, const char *name,
                             const char *target, fm_fs_node *out_node)
{
    struct creation creation = {.target = target, .exclusive = 1};
    struct fm_fs_meta_op op = {.meta = meta,
                               .who = who,
                               .body = create,
                               .parent = parent,
                               .name = name,
                               .mode = S_IFLNK | 0777,
                               .more = &creation,
                               .once = 1};
    FM_TRY(fm_fs_meta_name_check(name));
    if (!target || !*target)
        return fm_base_error_set(FM_ERR_NOT_FOUND, "%s: a link to nothing", name);
    if (strlen(target) > FM_FS_META_LINK_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "%s: a target of %zu bytes; expected at most %d", name,
                                 strlen(target), FM_FS_META_LINK_MAX);
    if (meta->remote)
        return fm_fs_meta_remote_symlink(meta, who, parent, name, target, out_node);
    FM_TRY(fm_fs_meta_number(meta, &op.number));
    FM_TRY(fm_fs_meta_run(&op));
    *out_node = op.node;
    return FM_OK;
}

static fm_status link_node(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    fm_fs_node dir;
    fm_fs_node node;
    uint64_t there;
    FM_TRY(fm_fs_meta_load(tx, op->ino, FM_FS_KV_LOCK_UPDATE, &node));
    if (S_ISDIR(node.mode))
        return fm_base_error_set(FM_ERR_PERM, "%s: directories have one name", op->name);
    FM_TRY(fm_fs_meta_load_parent(tx, op->who, op->parent, &dir));
    FM_TRY(fm_fs_meta_entry_get(tx, op->parent, op->name, FM_FS_KV_LOCK_UPDATE, &there));
    if (there)
        return exists(op->name);
    FM_TRY(fm_fs_meta_may_change(&node));
    if (node.nlink == 0)
        return fm_base_error_set(FM_ERR_NOT_FOUND, "inode %llu was removed", (unsigned long long)node.ino);
    if (node.nlink >= FM_FS_META_LINKS_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "inode %llu has %u names already",
                                 (unsigned long long)node.ino, node.nlink);
    if (node.project != dir.project)
        return fm_base_error_set(FM_ERR_FS_CROSS, "%s: the file counts for another quota", op->name);
    node.nlink++;
    node.ctime_ns = op->now_ns;
    FM_TRY(fm_fs_meta_store(tx, &node));
    FM_TRY(fm_fs_meta_entry_put(tx, op->parent, op->name, &node));
    FM_TRY(fm_fs_meta_touch_dir(tx, op, &dir, 0));
    op->node = node;
    return FM_OK;
}

fm_status fm_fs_meta_link(fm_fs_meta *meta, const fm_fs_who *who, uint64_t ino, uint64_t parent,
                          const char *name, fm_fs_node *out_node)
{
    struct fm_fs_meta_op op = {
        .meta = meta, .who = who, .body = link_node, .ino = ino, .parent = parent, .name = name, .once = 1};
    FM_TRY(fm_fs_meta_name_check(name));
    if (meta->remote)
        return fm_fs_meta_remote_link(meta, who, ino, parent, name, out_node);
    FM_TRY(fm_fs_meta_run(&op));
    *out_node = op.node;
    return FM_OK;
}
