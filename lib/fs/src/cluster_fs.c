// The back end of fathom/fs.h on a cluster: paths to inode numbers, and a volume below.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cluster_fs.h"
#include "fathom/file.h"

enum {
    // Work that a removal does for the collector before it returns: its own, when it was small.
    COLLECT = 16
};

struct cluster_list {
    fm_fs_list base;
    struct cluster_fs *fs;
    uint64_t dir;
    fm_fs_meta_entry page[FM_FS_META_PAGE_MAX];
    size_t count, at;
    int more;
    fm_fs_entry entry;
    char name[FM_FS_META_NAME_MAX + 1];
};

fm_status fm_fs_cluster_said(fm_status status)
{
    switch (status) {
    case FM_ERR_FS_ACCESS:
        return FM_ERR_PERM;
    case FM_ERR_FS_QUOTA:
        return FM_ERR_SPACE;
    case FM_ERR_FS_CROSS:
        return FM_ERR_UNSUPPORTED;
    case FM_ERR_FS_CONFLICT:
    case FM_ERR_STATE: // others changed the file again and again
        return FM_ERR_UNAVAILABLE;
    case FM_ERR_FS_MAYBE:
        return FM_ERR_TIMEOUT;
    case FM_ERR_FS_ROT:
        return FM_ERR_IO;
    default:
        return status;
    }
}

static fm_status failed(fm_status status, const char *doing, const char *path)
{
    return status == FM_OK ? FM_OK
                           : fm_base_error_prefix(fm_fs_cluster_said(status), "cannot %s %s", doing, path);
}

/* Opening */

// The process's mask for new files: there is no call that only asks.
static uint32_t read_umask(void)
{
    char *text;
    size_t length;
    uint32_t mask = 022;
    if (fm_base_file_read("/proc/self/status", 1 << 16, &text, &length) < 0)
        return mask;
    const char *line = strstr(text, "\nUmask:");
    if (line)
        mask = (uint32_t)strtoul(line + 7, NULL, 8) & 0777;
    fm_base_mem_free(text);
    return mask;
}

static void cluster_close(fm_fs *fs)
{
    struct cluster_fs *cluster = (struct cluster_fs *)fs;
    fm_fs_volume_close(cluster->volume);
    fm_base_mem_free(cluster);
}

static fm_status cluster_open(const char *where, unsigned flags, fm_fs **out_fs)
{
    (void)flags; // the root is there when the cluster is
    struct cluster_fs *cluster = fm_base_mem_zalloc(1, sizeof *cluster);
    if (!cluster)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to open %s", where);
    cluster->base.ops = &fm_fs_cluster_ops;
    fm_status status = fm_fs_volume_open(where, NULL, &cluster->volume);
    if (status < 0) {
        fm_base_mem_free(cluster);
        return fm_fs_cluster_said(status);
    }
    status = fm_fs_volume_self(cluster->volume, &cluster->user);
    if (status < 0) {
        cluster_close(&cluster->base);
        return fm_fs_cluster_said(status);
    }
    cluster->who = (fm_fs_who){.uid = cluster->user.uid,
                               .gid = cluster->user.gid,
                               .groups = cluster->user.groups,
                               .group_count = cluster->user.group_count};
    cluster->meta = fm_fs_volume_meta(cluster->volume);
    cluster->umask = read_umask();
    *out_fs = &cluster->base;
    return FM_OK;
}

/* Names */

static fm_status find(const struct cluster_fs *fs, const char *path, fm_fs_node *out_node)
{
    return fm_fs_meta_resolve(fs->meta, &fs->who, FM_FS_META_ROOT, path, 1, out_node);
}

static fm_status find_parent(const struct cluster_fs *fs, const char *path, uint64_t *out_ino)
{
    char parent[FM_FS_PATH_MAX + 1];
    fm_fs_node node;
    fm_fs_path_parent(path, parent);
    FM_TRY(find(fs, parent, &node));
    if (!S_ISDIR(node.mode))
        return fm_base_error_set(FM_ERR_FS_NOT_DIR, "%s is not a directory", parent);
    *out_ino = node.ino;
    return FM_OK;
}

static fm_fs_type type_of(uint32_t mode)
{
    return S_ISREG(mode)   ? FM_FS_TYPE_FILE
           : S_ISDIR(mode) ? FM_FS_TYPE_DIR
           : S_ISLNK(mode) ? FM_FS_TYPE_LINK
                           : FM_FS_TYPE_OTHER;
}

static void info_of(const fm_fs_node *node, fm_fs_info *out_info)
{
    *out_info = (fm_fs_info){.type = type_of(node->mode),
                             .size = S_ISREG(node->mode) ? node->size : 0,
                             .mtime_ns = node->mtime_ns,
                             .id = node->ino};
}

static fm_status cluster_stat(fm_fs *fs, const char *path, fm_fs_info *out_info)
{
    fm_fs_node node;
    FM_TRY(failed(find((struct cluster_fs *)fs, path, &node), "look at", path));
    info_of(&node, out_info);
    return FM_OK;
}

static fm_status cluster_mkdir(fm_fs *fs, const char *path)
{
    const struct cluster_fs *cluster = (struct cluster_fs *)fs;
    uint64_t parent = 0;
    fm_fs_node node;
    fm_status status = find_parent(cluster, path, &parent);
    if (status == FM_OK)
        status = fm_fs_meta_create(cluster->meta, &cluster->who, parent, fm_fs_path_leaf(path),
                                   S_IFDIR | (0777 & ~cluster->umask), 0, 1, &node, NULL);
    return failed(status, "make directory", path);
}

// What a removal leaves is done at once, as far as it is little. A cluster that cannot be reached is no failure of it.
static void collect(const struct cluster_fs *cluster)
{
    size_t done;
    if (fm_fs_volume_collect(cluster->volume, COLLECT, &done) < 0)
        return;
}

static fm_status remove_name(fm_fs *fs, const char *path, const char *doing,
                             fm_status (*call)(fm_fs_meta *meta, const fm_fs_who *who, uint64_t parent,
                                               const char *name))
{
    const struct cluster_fs *cluster = (struct cluster_fs *)fs;
    uint64_t parent = 0;
    fm_status status = find_parent(cluster, path, &parent);
    if (status == FM_OK)
        status = call(cluster->meta, &cluster->who, parent, fm_fs_path_leaf(path));
    if (status == FM_OK)
        collect(cluster);
    return failed(status, doing, path);
}

static fm_status cluster_unlink(fm_fs *fs, const char *path)
{
    return remove_name(fs, path, "remove", fm_fs_meta_unlink);
}

static fm_status cluster_rmdir(fm_fs *fs, const char *path)
{
    return remove_name(fs, path, "remove directory", fm_fs_meta_rmdir);
}

static fm_status cluster_remove_all(fm_fs *fs, const char *path)
{
    return remove_name(fs, path, "remove", fm_fs_meta_remove_all);
}

static fm_status cluster_rename(fm_fs *fs, const char *from, const char *to, unsigned flags)
{
    const struct cluster_fs *cluster = (struct cluster_fs *)fs;
    uint64_t parent = 0;
    uint64_t to_parent = 0;
    fm_status status = find_parent(cluster, from, &parent);
    if (status == FM_OK)
        status = find_parent(cluster, to, &to_parent);
    if (status == FM_OK)
        status = fm_fs_meta_rename(cluster->meta, &cluster->who, parent, fm_fs_path_leaf(from), to_parent,
                                   fm_fs_path_leaf(to), flags & FM_FS_EXCLUSIVE ? FM_FS_META_NOREPLACE : 0);
    return failed(status, "rename", from);
}

static fm_status cluster_link(fm_fs *fs, const char *from, const char *to)
{
    const struct cluster_fs *cluster = (struct cluster_fs *)fs;
    uint64_t parent = 0;
    fm_fs_node node = {.ino = 0};
    fm_status status = find(cluster, from, &node);
    if (status == FM_OK && S_ISDIR(node.mode))
        status = fm_base_error_set(FM_ERR_FS_IS_DIR, "it is a directory");
    if (status == FM_OK)
        status = find_parent(cluster, to, &parent);
    if (status == FM_OK)
        status = fm_fs_meta_link(cluster->meta, &cluster->who, node.ino, parent, fm_fs_path_leaf(to), &node);
    return failed(status, "link", from);
}

// Names are durable when they are there.
static fm_status cluster_dir_sync(fm_fs *fs, const char *path)
{
    fm_fs_node node;
    fm_status status = find((struct cluster_fs *)fs, path, &node);
    if (status == FM_OK && !S_ISDIR(node.mode))
        status = fm_base_error_set(FM_ERR_FS_NOT_DIR, "it is not a directory");
    return failed(status, "sync directory", path);
}

/* Lists */

static fm_status next_page(struct cluster_list *list, const char *after)
{
    list->at = 0;
    FM_TRY(fm_fs_meta_list(list->fs->meta, &list->fs->who, list->dir, after, list->page, FM_FS_META_PAGE_MAX,
                           &list->count));
    list->more = list->count == FM_FS_META_PAGE_MAX;
    return FM_OK;
}

static fm_status cluster_list_open(fm_fs *fs, const char *path, fm_fs_list **out_list)
{
    struct cluster_fs *cluster = (struct cluster_fs *)fs;
    fm_fs_node node;
    FM_TRY(failed(find(cluster, path, &node), "list", path));
    struct cluster_list *list = fm_base_mem_zalloc(1, sizeof *list);
    if (!list)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to list %s", path);
    list->fs = cluster;
    list->dir = node.ino;
    fm_status status = next_page(list, NULL);
    if (status < 0) {
        fm_base_mem_free(list);
        return failed(status, "list", path);
    }
    *out_list = &list->base;
    return FM_OK;
}

static fm_status cluster_list_next(fm_fs_list *base, const fm_fs_entry **out_entry)
{
    struct cluster_list *list = (struct cluster_list *)base;
    if (list->at == list->count && list->more) {
        char after[FM_FS_META_NAME_MAX + 1];
        memcpy(after, list->name, sizeof after);
        FM_TRY(fm_fs_cluster_said(next_page(list, after)));
    }
    if (list->at == list->count) {
        *out_entry = NULL;
        return FM_OK;
    }
    const fm_fs_meta_entry *entry = &list->page[list->at++];
    memcpy(list->name, entry->name, sizeof list->name);
    list->entry = (fm_fs_entry){.name = list->name, .type = type_of(entry->node.mode)};
    *out_entry = &list->entry;
    return FM_OK;
}

static void cluster_list_close(fm_fs_list *list)
{
    fm_base_mem_free(list);
}

/* Files */

static fm_status open_node(const struct cluster_fs *cluster, const char *path, unsigned flags,
                           fm_fs_node *out_node)
{
    uint64_t parent = 0;
    int made = 0;
    unsigned want = (flags & FM_FS_READ ? 4u : 0) | (flags & FM_FS_WRITE ? 2u : 0);
    fm_status status =
        flags & FM_FS_EXCLUSIVE ? FM_ERR_NOT_FOUND : find(cluster, path, out_node); // a link is followed
    if (status == FM_ERR_NOT_FOUND && (flags & FM_FS_CREATE)) {
        FM_TRY(find_parent(cluster, path, &parent));
        status = fm_fs_meta_create(cluster->meta, &cluster->who, parent, fm_fs_path_leaf(path),
                                   S_IFREG | (0666 & ~cluster->umask), 0, (flags & FM_FS_EXCLUSIVE) != 0,
                                   out_node, &made);
    }
    FM_TRY(status);
    if (S_ISDIR(out_node->mode))
        return fm_base_error_set(FM_ERR_FS_IS_DIR, "it is a directory");
    if (!S_ISREG(out_node->mode))
        return fm_base_error_set(FM_ERR_UNSUPPORTED, "it is no file");
    if (!made)
        FM_TRY(fm_fs_meta_access(&cluster->who, out_node, want));
    if ((flags & FM_FS_TRUNCATE) && out_node->size > 0)
        return fm_fs_volume_truncate(cluster->volume, &cluster->who, out_node->ino, 0, out_node);
    return FM_OK;
}

static fm_status cluster_file_open(fm_fs *fs, const char *path, unsigned flags, fm_fs_file **out_file)
{
    fm_fs_node node;
    FM_TRY(failed(open_node((struct cluster_fs *)fs, path, flags, &node), "open", path));
    struct cluster_file *file = fm_base_mem_zalloc(1, sizeof *file);
    if (!file)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to open %s", path);
    file->ino = node.ino;
    *out_file = &file->base;
    return FM_OK;
}

// Tells the time of the last change, once.
static fm_status settle(struct cluster_file *file)
{
    const struct cluster_fs *cluster = (struct cluster_fs *)file->base.fs;
    if (!__atomic_exchange_n(&file->written, 0, __ATOMIC_RELAXED))
        return FM_OK;
    return fm_fs_volume_touch(cluster->volume, file->ino);
}

static void cluster_file_close(fm_fs_file *base)
{
    struct cluster_file *file = (struct cluster_file *)base;
    if (settle(file) < 0)
        file->written = 0; // closing reports nothing
    fm_base_mem_free(file);
}

static fm_status cluster_file_stat(fm_fs_file *base, fm_fs_info *out_info)
{
    const struct cluster_file *file = (struct cluster_file *)base;
    const struct cluster_fs *cluster = (struct cluster_fs *)base->fs;
    fm_fs_node node;
    FM_TRY(failed(fm_fs_meta_node(cluster->meta, file->ino, &node), "look at", base->path));
    info_of(&node, out_info);
    return FM_OK;
}

static fm_status cluster_file_read(fm_fs_file *base, void *buffer, size_t length, uint64_t offset,
                                   size_t *out_length)
{
    const struct cluster_file *file = (struct cluster_file *)base;
    const struct cluster_fs *cluster = (struct cluster_fs *)base->fs;
    return failed(fm_fs_volume_read(cluster->volume, file->ino, buffer, length, offset, out_length), "read",
                  base->path);
}

static fm_status cluster_file_write(fm_fs_file *base, const void *data, size_t length, uint64_t offset)
{
    struct cluster_file *file = (struct cluster_file *)base;
    const struct cluster_fs *cluster = (struct cluster_fs *)base->fs;
    __atomic_store_n(&file->written, 1, __ATOMIC_RELAXED);
    return failed(fm_fs_volume_write(cluster->volume, file->ino, data, length, offset), "write", base->path);
}

static fm_status cluster_file_truncate(fm_fs_file *base, uint64_t size)
{
    const struct cluster_file *file = (struct cluster_file *)base;
    const struct cluster_fs *cluster = (struct cluster_fs *)base->fs;
    fm_fs_node node;
    return failed(fm_fs_volume_truncate(cluster->volume, &cluster->who, file->ino, size, &node), "truncate",
                  base->path);
}

// Bytes are durable when they are written.
static fm_status cluster_file_sync(fm_fs_file *base)
{
    return failed(settle((struct cluster_file *)base), "sync", base->path);
}

const struct fm_fs_ops fm_fs_cluster_ops = {
    .scheme = "cluster",
    .open = cluster_open,
    .close = cluster_close,
    .stat = cluster_stat,
    .mkdir = cluster_mkdir,
    .unlink = cluster_unlink,
    .rmdir = cluster_rmdir,
    .remove_all = cluster_remove_all,
    .rename = cluster_rename,
    .link = cluster_link,
    .dir_sync = cluster_dir_sync,
    .list_open = cluster_list_open,
    .list_next = cluster_list_next,
    .list_close = cluster_list_close,
    .file_open = cluster_file_open,
    .file_close = cluster_file_close,
    .file_stat = cluster_file_stat,
    .file_read = cluster_file_read,
    .file_write = cluster_file_write,
    .file_truncate = cluster_file_truncate,
    .file_sync = cluster_file_sync,
    .queue_open = fm_fs_cluster_queue_open,
};
