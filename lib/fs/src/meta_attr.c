// Attributes of nodes, and extended ones.
#include "meta_remote.h"

#include "fathom/fs_cluster.h"

static fm_status not_owner(const fm_fs_who *who, const fm_fs_node *node)
{
    return fm_base_error_set(FM_ERR_PERM, "inode %llu belongs to user %u, not to user %u",
                             (unsigned long long)node->ino, node->uid, who->uid);
}

static fm_status set_owner(const fm_fs_who *who, unsigned set, const fm_fs_node *values, fm_fs_node *node)
{
    int gives = (set & FM_FS_META_UID) && values->uid != node->uid;
    int regroups = (set & FM_FS_META_GID) && values->gid != node->gid;
    if (!fm_fs_meta_is_super(who) &&
        (!fm_fs_meta_is_owner(who, node) || gives || (regroups && !fm_fs_meta_in_group(who, values->gid))))
        return fm_base_error_set(FM_ERR_PERM, "user %u may not give inode %llu to user %u, group %u",
                                 who->uid, (unsigned long long)node->ino, values->uid, values->gid);
    if (set & FM_FS_META_UID)
        node->uid = values->uid;
    if (set & FM_FS_META_GID)
        node->gid = values->gid;
    // A program that changes hands does not keep its owner's powers.
    if (!S_ISDIR(node->mode)) {
        node->mode &= ~(uint32_t)S_ISUID;
        if (node->mode & S_IXGRP)
            node->mode &= ~(uint32_t)S_ISGID;
    }
    return FM_OK;
}

static fm_status set_mode(const fm_fs_who *who, uint32_t mode, fm_fs_node *node)
{
    if (!fm_fs_meta_is_owner(who, node))
        return not_owner(who, node);
    if (!fm_fs_meta_in_group(who, node->gid))
        mode &= ~(uint32_t)S_ISGID;
    node->mode = (node->mode & S_IFMT) | (mode & 07777);
    return FM_OK;
}

static fm_status set_times(const struct fm_fs_meta_op *op, fm_fs_node *node)
{
    const fm_fs_node *values = op->more;
    unsigned exact = op->flags & (FM_FS_META_ATIME | FM_FS_META_MTIME);
    if (!fm_fs_meta_is_owner(op->who, node)) {
        if (exact)
            return not_owner(op->who, node);
        FM_TRY(fm_fs_meta_access(op->who, node, 2));
    }
    if (op->flags & FM_FS_META_ATIME)
        node->atime_ns = values->atime_ns;
    if (op->flags & FM_FS_META_MTIME)
        node->mtime_ns = values->mtime_ns;
    if (op->flags & FM_FS_META_ATIME_NOW)
        node->atime_ns = op->now_ns;
    if (op->flags & FM_FS_META_MTIME_NOW)
        node->mtime_ns = op->now_ns;
    return FM_OK;
}

static fm_status set_attributes(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    const fm_fs_node *values = op->more;
    const unsigned times = FM_FS_META_ATIME | FM_FS_META_MTIME | FM_FS_META_ATIME_NOW | FM_FS_META_MTIME_NOW;
    fm_fs_node node;
    FM_TRY(fm_fs_meta_load(tx, op->ino, FM_FS_KV_LOCK_UPDATE, &node));
    if (op->flags & FM_FS_META_FLAGS) {
        if (!fm_fs_meta_is_super(op->who))
            return fm_base_error_set(FM_ERR_PERM, "only the superuser changes flags");
        node.flags = (node.flags & ~(uint32_t)FM_FS_NODE_IMMUTABLE) | (values->flags & FM_FS_NODE_IMMUTABLE);
    } else {
        FM_TRY(fm_fs_meta_may_change(&node));
    }
    if (op->flags & (FM_FS_META_UID | FM_FS_META_GID))
        FM_TRY(set_owner(op->who, op->flags, values, &node));
    if (op->flags & FM_FS_META_MODE)
        FM_TRY(set_mode(op->who, values->mode, &node));
    if (op->flags & times)
        FM_TRY(set_times(op, &node));
    if (op->flags)
        node.ctime_ns = op->now_ns;
    op->node = node;
    return op->flags ? fm_fs_meta_store(tx, &node) : FM_OK;
}

fm_status fm_fs_meta_setattr(fm_fs_meta *meta, const fm_fs_who *who, uint64_t ino, unsigned set,
                             const fm_fs_node *values, fm_fs_node *out_node)
{
    fm_fs_node copy = *values;
    struct fm_fs_meta_op op = {
        .meta = meta, .who = who, .body = set_attributes, .ino = ino, .flags = set, .more = &copy};
    if (meta->remote)
        return fm_fs_meta_remote_setattr(meta, who, ino, set, values, out_node);
    FM_TRY(fm_fs_meta_run(&op));
    *out_node = op.node;
    return FM_OK;
}

static fm_status set_layout(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    fm_fs_node node;
    FM_TRY(fm_fs_meta_load(tx, op->ino, FM_FS_KV_LOCK_UPDATE, &node));
    FM_TRY(fm_fs_meta_may_change(&node));
    if (!S_ISDIR(node.mode))
        return fm_base_error_set(FM_ERR_FS_NOT_DIR, "a file's layout is fixed when it is made");
    if (!fm_fs_meta_is_owner(op->who, &node))
        return not_owner(op->who, &node);
    node.layout = *(const fm_fs_layout *)op->more;
    node.ctime_ns = op->now_ns;
    return fm_fs_meta_store(tx, &node);
}

fm_status fm_fs_meta_layout_set(fm_fs_meta *meta, const fm_fs_who *who, uint64_t dir,
                                const fm_fs_layout *layout)
{
    fm_fs_layout copy = *layout;
    struct fm_fs_meta_op op = {.meta = meta, .who = who, .body = set_layout, .ino = dir, .more = &copy};
    uint32_t bytes = layout->chunk_bytes;
    if (bytes < 65536 || bytes > FM_FS_CHUNK_MAX || (bytes & (bytes - 1)) || !layout->stripe ||
        !layout->chains || layout->stripe > layout->chains)
        return fm_base_error_set(
            FM_ERR_ARG,
            "chunks of %u bytes, %u of %u chains; expected a power of two from 64 KiB to "
            "%d, and at least 1 chain of as many",
            bytes, layout->stripe, layout->chains, FM_FS_CHUNK_MAX);
    if (meta->remote)
        return fm_fs_meta_remote_layout_set(meta, who, dir, layout);
    return fm_fs_meta_run(&op);
}

/* Extended attributes */

struct xattr {
    const void *value;
    void *buffer;
    size_t size, capacity;
};

// As on Linux: who may do what to an attribute follows from what its name begins with, so others are refused.
static fm_status xattr_name_check(const char *name)
{
    static const char *const spaces[] = {"user.", "trusted.", "security.", "system."};
    size_t space = 0;
    if (!name || !*name)
        return fm_base_error_set(FM_ERR_ARG, "an attribute without a name");
    while (space < sizeof spaces / sizeof *spaces && strncmp(name, spaces[space], strlen(spaces[space])) != 0)
        space++;
    if (space == sizeof spaces / sizeof *spaces)
        return fm_base_error_set(FM_ERR_UNSUPPORTED,
                                 "attribute '%s'; names begin with user., trusted., security. or system.",
                                 name);
    if (!name[strlen(spaces[space])])
        return fm_base_error_set(FM_ERR_ARG, "attribute '%s' lacks a name behind the dot", name);
    if (strlen(name) > FM_FS_META_NAME_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "an attribute's name of %zu bytes; expected at most %d",
                                 strlen(name), FM_FS_META_NAME_MAX);
    return FM_OK;
}

static fm_status fit(const struct xattr *xattr)
{
    if (xattr->capacity && xattr->size > xattr->capacity)
        return fm_base_error_set(FM_ERR_LIMIT, "%zu bytes; there is room for %zu", xattr->size,
                                 xattr->capacity);
    return FM_OK;
}

static fm_status no_attribute(const char *name)
{
    return fm_base_error_set(FM_ERR_NOT_FOUND, "there is no attribute %s", name);
}

static fm_status xattr_get(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    struct xattr *xattr = op->more;
    fm_fs_kv_bytes value;
    struct fm_fs_meta_key key = fm_fs_meta_key_name('X', op->ino, op->name);
    fm_fs_node node;
    FM_TRY(fm_fs_meta_load(tx, op->ino, FM_FS_KV_LOCK_NONE, &node));
    if (strncmp(op->name, "user.", 5) == 0)
        FM_TRY(fm_fs_meta_access(op->who, &node, 4));
    if (strncmp(op->name, "trusted.", 8) == 0 && !fm_fs_meta_is_super(op->who))
        return no_attribute(op->name);
    FM_TRY(fm_fs_meta_get(tx, &key, FM_FS_KV_LOCK_NONE, &value));
    if (!value.data)
        return no_attribute(op->name);
    xattr->size = value.size;
    FM_TRY(fit(xattr));
    if (xattr->capacity && value.size)
        memcpy(xattr->buffer, value.data, value.size);
    return FM_OK;
}

fm_status fm_fs_meta_xattr_get(fm_fs_meta *meta, const fm_fs_who *who, uint64_t ino, const char *name,
                               void *value, size_t capacity, size_t *out_size)
{
    struct xattr xattr = {.buffer = value, .capacity = capacity};
    struct fm_fs_meta_op op = {
        .meta = meta, .who = who, .body = xattr_get, .ino = ino, .name = name, .more = &xattr};
    FM_TRY(xattr_name_check(name));
    if (meta->remote)
        return fm_fs_meta_remote_xattr_get(meta, who, ino, name, value, capacity, out_size);
    FM_TRY(fm_fs_meta_read(&op));
    *out_size = xattr.size;
    return FM_OK;
}

// Attributes of users follow the permission bits, and stand on files and directories alone; all others are their owner's.
static fm_status may_write_xattr(const struct fm_fs_meta_op *op, const fm_fs_node *node)
{
    FM_TRY(fm_fs_meta_may_change(node));
    if (strncmp(op->name, "user.", 5) == 0) {
        if (!S_ISREG(node->mode) && !S_ISDIR(node->mode))
            return fm_base_error_set(FM_ERR_PERM, "%s: only files and directories have users' attributes",
                                     op->name);
        return fm_fs_meta_access(op->who, node, 2);
    }
    return fm_fs_meta_is_super(op->who) ? FM_OK : not_owner(op->who, node);
}

static fm_status xattr_set(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    const struct xattr *xattr = op->more;
    fm_fs_kv_bytes value;
    struct fm_fs_meta_key key = fm_fs_meta_key_name('X', op->ino, op->name);
    fm_fs_node node;
    FM_TRY(fm_fs_meta_load(tx, op->ino, FM_FS_KV_LOCK_UPDATE, &node));
    FM_TRY(may_write_xattr(op, &node));
    FM_TRY(fm_fs_meta_get(tx, &key, FM_FS_KV_LOCK_UPDATE, &value));
    if (value.data && (op->flags & FM_FS_META_XATTR_CREATE))
        return fm_base_error_set(FM_ERR_EXISTS, "there is an attribute %s", op->name);
    if (!value.data && (op->flags & FM_FS_META_XATTR_REPLACE))
        return no_attribute(op->name);
    node.flags |= FM_FS_NODE_XATTRS;
    node.ctime_ns = op->now_ns;
    FM_TRY(fm_fs_meta_store(tx, &node));
    return fm_fs_meta_put(tx, &key, xattr->value, xattr->size);
}

fm_status fm_fs_meta_xattr_set(fm_fs_meta *meta, const fm_fs_who *who, uint64_t ino, const char *name,
                               const void *value, size_t size, unsigned flags)
{
    struct xattr xattr = {.value = value, .size = size};
    struct fm_fs_meta_op op = {.meta = meta,
                               .who = who,
                               .body = xattr_set,
                               .ino = ino,
                               .name = name,
                               .flags = flags,
                               .more = &xattr,
                               .once = 1};
    FM_TRY(xattr_name_check(name));
    if (size > FM_FS_META_XATTR_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "an attribute of %zu bytes; expected at most %d", size,
                                 FM_FS_META_XATTR_MAX);
    if (meta->remote)
        return fm_fs_meta_remote_xattr_set(meta, who, ino, name, value, size, flags);
    return fm_fs_meta_run(&op);
}

static fm_status xattr_remove(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    fm_fs_kv_bytes value;
    struct fm_fs_meta_key key = fm_fs_meta_key_name('X', op->ino, op->name);
    fm_fs_node node;
    FM_TRY(fm_fs_meta_load(tx, op->ino, FM_FS_KV_LOCK_UPDATE, &node));
    FM_TRY(may_write_xattr(op, &node));
    FM_TRY(fm_fs_meta_get(tx, &key, FM_FS_KV_LOCK_UPDATE, &value));
    if (!value.data)
        return no_attribute(op->name);
    node.ctime_ns = op->now_ns;
    FM_TRY(fm_fs_meta_store(tx, &node));
    return fm_fs_meta_delete(tx, &key);
}

fm_status fm_fs_meta_xattr_remove(fm_fs_meta *meta, const fm_fs_who *who, uint64_t ino, const char *name)
{
    struct fm_fs_meta_op op = {
        .meta = meta, .who = who, .body = xattr_remove, .ino = ino, .name = name, .once = 1};
    FM_TRY(xattr_name_check(name));
    if (meta->remote)
        return fm_fs_meta_remote_xattr_remove(meta, who, ino, name);
    return fm_fs_meta_run(&op);
}

static fm_status xattr_list(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    struct xattr *xattr = op->more;
    struct fm_fs_meta_key lo;
    struct fm_fs_meta_key hi;
    fm_fs_kv_item items[FM_FS_META_PAGE_MAX];
    size_t count = FM_FS_META_PAGE_MAX;
    fm_fs_node node;
    FM_TRY(fm_fs_meta_load(tx, op->ino, FM_FS_KV_LOCK_NONE, &node));
    fm_fs_meta_span('X', op->ino, &lo, &hi);
    xattr->size = 0;
    while (count == FM_FS_META_PAGE_MAX) {
        FM_TRY(fm_fs_kv_range(tx, fm_fs_meta_bytes(&lo), fm_fs_meta_bytes(&hi), FM_FS_META_PAGE_MAX, 0, items,
                              &count));
        for (size_t i = 0; i < count; i++) {
            size_t at = xattr->size;
            size_t length = items[i].key.size - 9;
            xattr->size += length + 1;
            FM_TRY(fit(xattr));
            if (!xattr->capacity)
                continue;
            memcpy((char *)xattr->buffer + at, (const char *)items[i].key.data + 9, length);
            ((char *)xattr->buffer)[at + length] = 0;
        }
        if (count) {
            memcpy(lo.bytes, items[count - 1].key.data, items[count - 1].key.size);
            lo.size = items[count - 1].key.size;
            lo.bytes[lo.size++] = 0;
        }
    }
    return FM_OK;
}

fm_status fm_fs_meta_xattr_list(fm_fs_meta *meta, uint64_t ino, char *names, size_t capacity,
                                size_t *out_size)
{
    struct xattr xattr = {.buffer = names, .capacity = capacity};
    struct fm_fs_meta_op op = {.meta = meta, .body = xattr_list, .ino = ino, .more = &xattr};
    if (meta->remote)
        return fm_fs_meta_remote_xattr_list(meta, ino, names, capacity, out_size);
    FM_TRY(fm_fs_meta_read(&op));
    *out_size = xattr.size;
    return FM_OK;
}
