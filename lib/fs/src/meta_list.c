// Looking: nodes, entries, paths, pages of directories.
#include "meta_remote.h"

enum { LINKS_MAX = 40 }; // followed for one path, as Linux has it

static fm_status node_of(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    return fm_fs_meta_load(tx, op->ino, FM_FS_KV_LOCK_NONE, &op->node);
}

fm_status fm_fs_meta_node(fm_fs_meta *meta, uint64_t ino, fm_fs_node *out_node)
{
    struct fm_fs_meta_op op = {.meta = meta, .body = node_of, .ino = ino};
    if (meta->remote)
        return fm_fs_meta_remote_node(meta, ino, out_node);
    FM_TRY(fm_fs_meta_read(&op));
    *out_node = op.node;
    return FM_OK;
}

// The entry `name` of `dir`, which is searched for `who`.
static fm_status step(fm_fs_kv_tx *tx, const fm_fs_who *who, const fm_fs_node *dir, const char *name,
                      fm_fs_node *out_node)
{
    uint64_t ino;
    if (!S_ISDIR(dir->mode))
        return fm_base_error_set(FM_ERR_FS_NOT_DIR, "%s: what is above it is not a directory", name);
    FM_TRY(fm_fs_meta_access(who, dir, 1));
    if (strcmp(name, ".") == 0)
        ino = dir->ino;
    else if (strcmp(name, "..") == 0)
        ino = dir->parent;
    else {
        FM_TRY(fm_fs_meta_name_check(name));
        FM_TRY(fm_fs_meta_entry_get(tx, dir->ino, name, FM_FS_KV_LOCK_NONE, &ino));
    }
    if (!ino)
        return fm_base_error_set(FM_ERR_NOT_FOUND, "%s does not exist", name);
    return fm_fs_meta_load(tx, ino, FM_FS_KV_LOCK_NONE, out_node);
}

static fm_status look_up(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    fm_fs_node dir;
    FM_TRY(fm_fs_meta_load(tx, op->parent, FM_FS_KV_LOCK_NONE, &dir));
    return step(tx, op->who, &dir, op->name, &op->node);
}

fm_status fm_fs_meta_lookup(fm_fs_meta *meta, const fm_fs_who *who, uint64_t parent, const char *name,
                            fm_fs_node *out_node)
{
    struct fm_fs_meta_op op = {.meta = meta, .who = who, .body = look_up, .parent = parent, .name = name};
    if (!name)
        return fm_base_error_set(FM_ERR_ARG, "name is NULL");
    if (meta->remote)
        return fm_fs_meta_remote_lookup(meta, who, parent, name, out_node);
    FM_TRY(fm_fs_meta_read(&op));
    *out_node = op.node;
    return FM_OK;
}

static fm_status target_of(fm_fs_kv_tx *tx, const fm_fs_node *node, char *out_target)
{
    fm_fs_kv_bytes value;
    struct fm_fs_meta_key key = fm_fs_meta_key('B', node->ino);
    if (!S_ISLNK(node->mode))
        return fm_base_error_set(FM_ERR_ARG, "inode %llu is no symbolic link", (unsigned long long)node->ino);
    FM_TRY(fm_fs_meta_get(tx, &key, FM_FS_KV_LOCK_NONE, &value));
    if (!value.size || value.size > FM_FS_META_LINK_MAX)
        return fm_base_error_set(FM_ERR_FORMAT, "link %llu has a target of %zu bytes",
                                 (unsigned long long)node->ino, value.size);
    memcpy(out_target, value.data, value.size);
    out_target[value.size] = 0;
    return FM_OK;
}

static fm_status read_link(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    FM_TRY(fm_fs_meta_load(tx, op->ino, FM_FS_KV_LOCK_NONE, &op->node));
    return target_of(tx, &op->node, op->more);
}

fm_status fm_fs_meta_readlink(fm_fs_meta *meta, uint64_t ino, char out_target[FM_FS_META_LINK_MAX + 1])
{
    char target[FM_FS_META_LINK_MAX + 1];
    struct fm_fs_meta_op op = {.meta = meta, .body = read_link, .ino = ino, .more = target};
    if (meta->remote)
        return fm_fs_meta_remote_readlink(meta, ino, out_target);
    FM_TRY(fm_fs_meta_read(&op));
    memcpy(out_target, target, strlen(target) + 1);
    return FM_OK;
}

/* Paths */

// What is left of a path, to which a link's target is put in front.
struct rest {
    char text[2 * FM_FS_META_LINK_MAX + 2];
    size_t at; // where it begins in text
};

// Cuts the first component off; "" when nothing is left. FM_ERR_LIMIT.
static fm_status cut(struct rest *rest, char out_name[FM_FS_META_NAME_MAX + 1])
{
    rest->at += strspn(rest->text + rest->at, "/");
    size_t length = strcspn(rest->text + rest->at, "/");
    if (length > FM_FS_META_NAME_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "a name of %zu bytes; expected at most %d", length,
                                 FM_FS_META_NAME_MAX);
    memcpy(out_name, rest->text + rest->at, length);
    out_name[length] = 0;
    rest->at += length;
    return FM_OK;
}

static fm_status put_in_front(struct rest *rest, const char *target)
{
    size_t length = strlen(target);
    size_t left = strlen(rest->text + rest->at);
    if (*target == '/')
        return fm_base_error_set(FM_ERR_PERM, "a symbolic link leads to the absolute path %s", target);
    if (length + left + 1 > sizeof rest->text)
        return fm_base_error_set(FM_ERR_LIMIT, "links make a path longer than %zu bytes",
                                 sizeof rest->text - 1);
    memmove(rest->text + length, rest->text + rest->at, left + 1);
    for (size_t i = 0; i < length; i++)
        rest->text[i] = target[i];
    rest->at = 0;
    return FM_OK;
}

static fm_status resolve(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    struct rest rest = {.at = 0};
    char name[FM_FS_META_NAME_MAX + 1];
    char target[FM_FS_META_LINK_MAX + 1];
    fm_fs_node dir;
    int links = 0;
    memcpy(rest.text, op->name, strlen(op->name) + 1);
    FM_TRY(fm_fs_meta_load(tx, op->ino, FM_FS_KV_LOCK_NONE, &dir));
    op->node = dir;
    for (;;) {
        FM_TRY(cut(&rest, name));
        if (!*name)
            return FM_OK;
        dir = op->node;
        if (strcmp(name, "..") == 0 && dir.ino == op->ino)
            return fm_base_error_set(FM_ERR_PERM, "%s leads out of its root", op->name);
        FM_TRY(step(tx, op->who, &dir, name, &op->node));
        int last = rest.text[rest.at + strspn(rest.text + rest.at, "/")] == 0;
        if (!S_ISLNK(op->node.mode) || (last && !op->flags))
            continue;
        if (++links > LINKS_MAX)
            return fm_base_error_set(FM_ERR_LIMIT, "%s: over %d symbolic links", op->name, LINKS_MAX);
        FM_TRY(target_of(tx, &op->node, target));
        FM_TRY(put_in_front(&rest, target));
        op->node = dir;
    }
}

fm_status fm_fs_meta_resolve(fm_fs_meta *meta, const fm_fs_who *who, uint64_t from, const char *path,
                             int follow, fm_fs_node *out_node)
{
    struct fm_fs_meta_op op = {
        .meta = meta, .who = who, .body = resolve, .ino = from, .name = path, .flags = follow ? 1 : 0};
    if (!path)
        return fm_base_error_set(FM_ERR_ARG, "path is NULL");
    if (strlen(path) > FM_FS_META_LINK_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "a path of %zu bytes; expected at most %d", strlen(path),
                                 FM_FS_META_LINK_MAX);
    if (meta->remote)
        return fm_fs_meta_remote_resolve(meta, who, from, path, follow, out_node);
    FM_TRY(fm_fs_meta_read(&op));
    *out_node = op.node;
    return FM_OK;
}

/* Pages */

struct page {
    fm_fs_meta_entry *entries;
    size_t max, count;
};

static fm_status take_nodes(fm_fs_kv_tx *tx, struct page *page, const uint64_t *inos)
{
    struct fm_fs_meta_key keys[FM_FS_META_PAGE_MAX];
    fm_fs_kv_item items[FM_FS_META_PAGE_MAX];
    for (size_t i = 0; i < page->count; i++) {
        keys[i] = fm_fs_meta_key('I', inos[i]);
        items[i] = (fm_fs_kv_item){.key = fm_fs_meta_bytes(&keys[i])};
    }
    FM_TRY(fm_fs_kv_get(tx, items, page->count, FM_FS_KV_LOCK_NONE));
    for (size_t i = 0; i < page->count; i++)
        FM_TRY(fm_fs_meta_node_decode(inos[i], items[i].value, &page->entries[i].node));
    return FM_OK;
}

static fm_status list(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    struct page *page = op->more;
    struct fm_fs_meta_key lo;
    struct fm_fs_meta_key hi;
    fm_fs_kv_item items[FM_FS_META_PAGE_MAX];
    uint64_t inos[FM_FS_META_PAGE_MAX];
    FM_TRY(fm_fs_meta_load(tx, op->ino, FM_FS_KV_LOCK_NONE, &op->node));
    if (!S_ISDIR(op->node.mode))
        return fm_base_error_set(FM_ERR_FS_NOT_DIR, "inode %llu is not a directory",
                                 (unsigned long long)op->ino);
    FM_TRY(fm_fs_meta_access(op->who, &op->node, 4));
    fm_fs_meta_span('D', op->ino, &lo, &hi);
    if (op->name) {
        lo = fm_fs_meta_key_name('D', op->ino, op->name);
        lo.bytes[lo.size++] = 0; // behind it
    }
    FM_TRY(
        fm_fs_kv_range(tx, fm_fs_meta_bytes(&lo), fm_fs_meta_bytes(&hi), page->max, 0, items, &page->count));
    for (size_t i = 0; i < page->count; i++) {
        size_t length = items[i].key.size - 9;
        if (length > FM_FS_META_NAME_MAX || items[i].value.size != FM_FS_META_DIRENT_BYTES)
            return fm_base_error_set(FM_ERR_FORMAT, "an entry of inode %llu is malformed",
                                     (unsigned long long)op->ino);
        memcpy(page->entries[i].name, (const uint8_t *)items[i].key.data + 9, length);
        page->entries[i].name[length] = 0;
        inos[i] = fm_get_le64(items[i].value.data);
    }
    return take_nodes(tx, page, inos);
}

fm_status fm_fs_meta_list(fm_fs_meta *meta, const fm_fs_who *who, uint64_t dir, const char *after,
                          fm_fs_meta_entry *entries, size_t max, size_t *out_count)
{
    struct page page = {.entries = entries, .max = max};
    struct fm_fs_meta_op op = {
        .meta = meta, .who = who, .body = list, .ino = dir, .name = after, .more = &page};
    if (!entries || max < 1 || max > FM_FS_META_PAGE_MAX)
        return fm_base_error_set(FM_ERR_ARG, "a page of %zu entries; expected 1 to %d", max,
                                 FM_FS_META_PAGE_MAX);
    if (after && strlen(after) > FM_FS_META_NAME_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "a name of %zu bytes", strlen(after));
    if (meta->remote)
        return fm_fs_meta_remote_list(meta, who, dir, after, entries, max, out_count);
    FM_TRY(fm_fs_meta_read(&op));
    *out_count = page.count;
    return FM_OK;
}
