// The mount's requests about names and attributes.
#include "mount_fuse.h"

#include <errno.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>

// Takes what was written here to the volume, so that size and time are right. A failure is told to who wrote.
static fm_status freshen(fm_fs_mount *mount, fm_fs_node *node)
{
    struct fm_fs_mount_file *file = S_ISREG(node->mode) ? fm_fs_mount_use(mount, node->ino) : NULL;
    if (!file)
        return FM_OK;
    pthread_rwlock_rdlock(&file->lock);
    int waits = file->count > 0 || file->unsettled;
    pthread_rwlock_unlock(&file->lock);
    if (waits && fm_fs_mount_flush(mount, file) < 0)
        waits = 1; // what is there is told
    fm_fs_mount_leave(mount, file);
    return waits ? fm_fs_meta_node(mount->meta, node->ino, node) : FM_OK;
}

static void on_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    fm_fs_mount *mount = fm_fs_mount_of(request);
    fm_fs_node node;
    fm_status status = fm_fs_meta_lookup(mount->meta, NULL, parent, name, &node);
    if (status == FM_OK && freshen(mount, &node) < 0)
        status = FM_ERR_NOT_FOUND; // it went meanwhile
    if (status == FM_OK)
        fm_fs_mount_reply_entry(request, &node);
    else
        fm_fs_mount_reply_status(request, status);
}

static void on_forget(fuse_req_t request, fuse_ino_t ino, uint64_t count)
{
    (void)ino;
    (void)count;
    fuse_reply_none(request);
}

// A number that the kernel knows and the names do not: another mount has removed it.
static void reply_gone(fuse_req_t request, fm_status status)
{
    fm_fs_mount_reply_error(request, status == FM_ERR_NOT_FOUND ? ESTALE : fm_fs_mount_errno(status));
}

static void on_getattr(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
    fm_fs_node node;
    struct stat attr;
    (void)info;
    fm_fs_mount *mount = fm_fs_mount_of(request);
    fm_status status = fm_fs_meta_node(mount->meta, ino, &node);
    if (status == FM_OK)
        status = freshen(mount, &node);
    if (status < 0) {
        reply_gone(request, status);
        return;
    }
    fm_fs_mount_stat(&node, &attr);
    fuse_reply_attr(request, &attr, FM_FS_MOUNT_ATTR_S);
}

static int64_t ns_of(struct timespec time)
{
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

// A descriptor that is open for writing may set the size, whoever has it.
static fm_status set_size(fm_fs_mount *mount, const fm_fs_who *who, uint64_t ino, uint64_t size, int opened,
                          fm_fs_node *node)
{
    FM_TRY(fm_fs_meta_node(mount->meta, ino, node));
    if (!opened)
        FM_TRY(fm_fs_meta_access(who, node, 2));
    struct fm_fs_mount_file *file = fm_fs_mount_use(mount, ino);
    if (!file)
        return fm_fs_volume_truncate(mount->volume, who, ino, size, node);
    pthread_rwlock_wrlock(&file->lock);
    fm_status status = fm_fs_mount_flush_locked(mount, file, 1);
    if (status == FM_OK)
        status =
            fm_fs_volume_truncate(mount->volume, who, ino, size, node); // another version, so nothing is kept
    // The kernel cuts its pages as this cuts the file.
    if (status == FM_OK)
        file->version = file->version != FM_FS_VOLUME_UNKNOWN && node->version == file->version + 1
                            ? node->version
                            : FM_FS_VOLUME_UNKNOWN;
    pthread_rwlock_unlock(&file->lock);
    fm_fs_mount_leave(mount, file);
    return status;
}

// Writing ends set-user-ID and set-group-ID: the kernel then sends the mode without them in the writer's name, who need not
// be the owner. A user's own wish it has checked itself.
static int only_ends_powers(fm_fs_mount *mount, uint64_t ino, uint32_t mode)
{
    const uint32_t powers = S_ISUID | S_ISGID;
    fm_fs_node node;
    if (fm_fs_meta_node(mount->meta, ino, &node) < 0)
        return 0;
    return (mode & 07777 & ~powers) == (node.mode & 07777 & ~powers) && (mode & powers & ~node.mode) == 0;
}

static void on_setattr(fuse_req_t request, fuse_ino_t ino, struct stat *attr, int to_set,
                       struct fuse_file_info *info)
{
    static const struct {
        int fuse;
        unsigned meta;
    } bits[] = {
        {FUSE_SET_ATTR_MODE, FM_FS_META_MODE},
        {FUSE_SET_ATTR_UID, FM_FS_META_UID},
        {FUSE_SET_ATTR_GID, FM_FS_META_GID},
        {FUSE_SET_ATTR_ATIME, FM_FS_META_ATIME},
        {FUSE_SET_ATTR_MTIME, FM_FS_META_MTIME},
        {FUSE_SET_ATTR_ATIME_NOW, FM_FS_META_ATIME_NOW},
        {FUSE_SET_ATTR_MTIME_NOW, FM_FS_META_MTIME_NOW},
    };
    fm_fs_mount *mount = fm_fs_mount_of(request);
    struct fm_fs_mount_who asker;
    fm_fs_node node = {.mode = attr->st_mode,
                       .uid = attr->st_uid,
                       .gid = attr->st_gid,
                       .atime_ns = ns_of(attr->st_atim),
                       .mtime_ns = ns_of(attr->st_mtim)};
    fm_fs_node out;
    fm_status status = FM_OK;
    unsigned set = 0;
    for (size_t i = 0; i < sizeof bits / sizeof *bits; i++)
        if (to_set & bits[i].fuse)
            set |= bits[i].meta;
    if (set & FM_FS_META_ATIME_NOW) // then the exact one's bit is set as well
        set &= ~(unsigned)FM_FS_META_ATIME;
    if (set & FM_FS_META_MTIME_NOW)
        set &= ~(unsigned)FM_FS_META_MTIME;
    fm_fs_mount_who(request, &asker);
    if (fm_fs_mount_flush_ino(mount, ino) < 0) // a time that is set stays; a failure is told to who wrote
        status = FM_OK;
    if (to_set & FUSE_SET_ATTR_SIZE)
        status = set_size(mount, &asker.who, ino, (uint64_t)attr->st_size, info != NULL, &out);
    int ends = set == FM_FS_META_MODE && only_ends_powers(mount, ino, attr->st_mode);
    if (status == FM_OK && (set || !(to_set & FUSE_SET_ATTR_SIZE)))
        status = fm_fs_meta_setattr(mount->meta, ends ? NULL : &asker.who, ino, set, &node, &out);
    if (status < 0) {
        if (status == FM_ERR_LIMIT)
            fm_fs_mount_reply_error(request, EFBIG);
        else
            reply_gone(request, status);
        return;
    }
    fm_fs_mount_stat(&out, attr);
    fuse_reply_attr(request, attr, FM_FS_MOUNT_ATTR_S);
}

static void on_readlink(fuse_req_t request, fuse_ino_t ino)
{
    char target[FM_FS_META_LINK_MAX + 1];
    fm_status status = fm_fs_meta_readlink(fm_fs_mount_of(request)->meta, ino, target);
    if (status == FM_OK)
        fuse_reply_readlink(request, target);
    else
        fm_fs_mount_reply_status(request, status);
}

static void make(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
    struct fm_fs_mount_who asker;
    fm_fs_node node;
    fm_fs_mount_who(request, &asker);
    fm_status status = fm_fs_meta_create(fm_fs_mount_of(request)->meta, &asker.who, parent, name, mode, rdev,
                                         1, &node, NULL);
    if (status == FM_OK)
        fm_fs_mount_reply_entry(request, &node);
    else
        fm_fs_mount_reply_status(request, status);
}

static void on_mknod(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
    make(request, parent, name, mode & S_IFMT ? mode : mode | S_IFREG, rdev);
}

static void on_mkdir(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode)
{
    make(request, parent, name, S_IFDIR | (mode & 07777), 0);
}

static void on_symlink(fuse_req_t request, const char *target, fuse_ino_t parent, const char *name)
{
    struct fm_fs_mount_who asker;
    fm_fs_node node;
    fm_fs_mount_who(request, &asker);
    fm_status status =
        fm_fs_meta_symlink(fm_fs_mount_of(request)->meta, &asker.who, parent, name, target, &node);
    if (status == FM_OK)
        fm_fs_mount_reply_entry(request, &node);
    else
        fm_fs_mount_reply_status(request, status);
}

static void on_link(fuse_req_t request, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
    struct fm_fs_mount_who asker;
    fm_fs_node node;
    fm_fs_mount_who(request, &asker);
    fm_status status = fm_fs_meta_link(fm_fs_mount_of(request)->meta, &asker.who, ino, parent, name, &node);
    if (status == FM_OK)
        fm_fs_mount_reply_entry(request, &node);
    else
        fm_fs_mount_reply_error(request, status == FM_ERR_LIMIT && strlen(name) <= FM_FS_META_NAME_MAX
                                             ? EMLINK
                                             : fm_fs_mount_errno(status));
}

static void on_unlink(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    fm_fs_mount *mount = fm_fs_mount_of(request);
    struct fm_fs_mount_who asker;
    fm_fs_mount_who(request, &asker);
    fm_status status = fm_fs_mount_keep(mount, parent, name);
    if (status == FM_OK)
        status = fm_fs_meta_unlink(mount->meta, &asker.who, parent, name);
    fm_fs_mount_reply_status(request, status);
}

static void on_rmdir(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    struct fm_fs_mount_who asker;
    fm_fs_mount_who(request, &asker);
    fm_fs_mount_reply_status(request,
                             fm_fs_meta_rmdir(fm_fs_mount_of(request)->meta, &asker.who, parent, name));
}

static void on_rename(fuse_req_t request, fuse_ino_t parent, const char *name, fuse_ino_t to_parent,
                      const char *to_name, unsigned flags)
{
    fm_fs_mount *mount = fm_fs_mount_of(request);
    struct fm_fs_mount_who asker;
    fm_fs_mount_who(request, &asker);
    fm_status status = flags ? FM_OK : fm_fs_mount_keep(mount, to_parent, to_name);
    if (status == FM_OK) // the kernel's RENAME_NOREPLACE and RENAME_EXCHANGE have these values
        status = fm_fs_meta_rename(mount->meta, &asker.who, parent, name, to_parent, to_name, flags);
    fm_fs_mount_reply_status(request, status);
}

/* Directories: their entries are read when they are opened, so that positions stay what they were */

struct listing {
    fm_fs_meta_entry *entries;
    size_t count, capacity;
    fm_fs_node dir;
};

static fm_status read_all(fm_fs_mount *mount, struct listing *listing)
{
    size_t count = FM_FS_META_PAGE_MAX;
    listing->count = 0;
    while (count == FM_FS_META_PAGE_MAX) {
        if (listing->capacity - listing->count < FM_FS_META_PAGE_MAX) {
            size_t capacity = 2 * listing->capacity + FM_FS_META_PAGE_MAX;
            fm_fs_meta_entry *moved = fm_base_mem_realloc(listing->entries, capacity, sizeof *moved);
            if (!moved)
                return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu entries", capacity);
            listing->entries = moved;
            listing->capacity = capacity;
        }
        const char *after = listing->count ? listing->entries[listing->count - 1].name : NULL;
        FM_TRY(fm_fs_meta_list(mount->meta, NULL, listing->dir.ino, after, listing->entries + listing->count,
                               FM_FS_META_PAGE_MAX, &count));
        listing->count += count;
    }
    return FM_OK;
}

static void free_listing(struct listing *listing)
{
    fm_base_mem_free(listing->entries);
    fm_base_mem_free(listing);
}

static void on_opendir(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
    fm_fs_mount *mount = fm_fs_mount_of(request);
    struct listing *listing = fm_base_mem_zalloc(1, sizeof *listing);
    fm_status status = listing ? fm_fs_meta_node(mount->meta, ino, &listing->dir) : FM_ERR_NOMEM;
    if (status < 0) {
        fm_base_mem_free(listing);
        reply_gone(request, status);
        return;
    }
    info->fh = (uintptr_t)listing;
    if (fuse_reply_open(request, info) != 0)
        free_listing(listing);
}

static struct listing *listing_of(const struct fuse_file_info *info)
{
    return (struct listing *)(uintptr_t)info->fh; // NOLINT(performance-no-int-to-ptr): FUSE hands it back so
}

// Entry `at`: ".", "..", and the others.
static const char *entry_at(const struct listing *listing, size_t at, fm_fs_node *out_node)
{
    static const char *const dots[] = {".", ".."};
    if (at < 2) {
        *out_node = listing->dir;
        if (at == 1)
            out_node->ino = listing->dir.parent;
        return dots[at];
    }
    *out_node = listing->entries[at - 2].node;
    return listing->entries[at - 2].name;
}

static void list(fuse_req_t request, size_t size, off_t offset, const struct fuse_file_info *info, int plus)
{
    fm_fs_mount *mount = fm_fs_mount_of(request);
    struct listing *listing = listing_of(info);
    fm_status status = offset == 0 ? read_all(mount, listing) : FM_OK;
    char *buffer = fm_base_mem_alloc(size);
    size_t used = 0;
    if (status < 0 || !buffer) {
        fm_base_mem_free(buffer);
        fm_fs_mount_reply_status(request, status < 0 ? status : FM_ERR_NOMEM);
        return;
    }
    for (size_t at = (size_t)offset; at < listing->count + 2; at++) {
        fm_fs_node node;
        const char *name = entry_at(listing, at, &node);
        struct fuse_entry_param entry;
        int known = plus && at >= 2; // of the dots the kernel wants no lookup
        // What was read for an earlier request may have changed since, and the kernel would believe it.
        if (known && offset > 0)
            known = fm_fs_meta_lookup(mount->meta, NULL, listing->dir.ino, name, &node) == FM_OK;
        if (known)
            known = freshen(mount, &node) == FM_OK;
        fm_fs_mount_entry(mount, &node, &entry);
        if (!known) // it went meanwhile: a name without attributes
            entry.ino = 0;
        size_t needed =
            plus ? fuse_add_direntry_plus(request, buffer + used, size - used, name, &entry, (off_t)at + 1)
                 : fuse_add_direntry(request, buffer + used, size - used, name, &entry.attr, (off_t)at + 1);
        if (needed > size - used)
            break;
        used += needed;
    }
    fuse_reply_buf(request, buffer, used);
    fm_base_mem_free(buffer);
}

static void on_readdir(fuse_req_t request, fuse_ino_t ino, size_t size, off_t offset,
                       struct fuse_file_info *info)
{
    (void)ino;
    list(request, size, offset, info, 0);
}

static void on_readdirplus(fuse_req_t request, fuse_ino_t ino, size_t size, off_t offset,
                           struct fuse_file_info *info)
{
    (void)ino;
    list(request, size, offset, info, 1);
}

static void on_releasedir(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
    (void)ino;
    free_listing(listing_of(info));
    fm_fs_mount_reply_error(request, 0);
}

static void on_fsyncdir(fuse_req_t request, fuse_ino_t ino, int only_data, struct fuse_file_info *info)
{
    (void)ino;
    (void)only_data;
    (void)info;
    fm_fs_mount_reply_error(request, 0); // names are durable when they are there
}

static void on_statfs(fuse_req_t request, fuse_ino_t ino)
{
    uint64_t capacity;
    uint64_t left;
    (void)ino;
    fm_status status = fm_fs_volume_space(fm_fs_mount_of(request)->volume, &capacity, &left);
    if (status < 0) {
        fm_fs_mount_reply_status(request, status);
        return;
    }
    const struct statvfs space = {.f_bsize = 4096,
                                  .f_frsize = 4096,
                                  .f_blocks = capacity / 4096,
                                  .f_bfree = left / 4096,
                                  .f_bavail = left / 4096,
                                  .f_namemax = FM_FS_META_NAME_MAX};
    fuse_reply_statfs(request, &space);
}

/* Extended attributes */

static void reply_xattr(fuse_req_t request, fm_status status, const void *value, size_t size, size_t capacity)
{
    if (status == FM_ERR_LIMIT)
        fm_fs_mount_reply_error(request, ERANGE);
    else if (status == FM_ERR_NOT_FOUND)
        fm_fs_mount_reply_error(request, ENODATA);
    else if (status < 0)
        fm_fs_mount_reply_status(request, status);
    else if (capacity == 0)
        fuse_reply_xattr(request, size);
    else
        fuse_reply_buf(request, value, size);
}

// Access control lists; and labels, which SELinux itself takes from elsewhere on FUSE.
static int is_never_kept(const char *name)
{
    return strncmp(name, "system.", 7) == 0 || strcmp(name, "security.selinux") == 0;
}

static void on_getxattr(fuse_req_t request, fuse_ino_t ino, const char *name, size_t capacity)
{
    struct fm_fs_mount_who asker;
    size_t size = 0;
    if (is_never_kept(name)) { // then ls asks for no other file's
        fm_fs_mount_reply_error(request, EOPNOTSUPP);
        return;
    }
    char *value = capacity ? fm_base_mem_alloc(capacity) : NULL;
    fm_fs_mount_who(request, &asker);
    fm_status status = capacity && !value ? FM_ERR_NOMEM
                                          : fm_fs_meta_xattr_get(fm_fs_mount_of(request)->meta, &asker.who,
                                                                 ino, name, value, capacity, &size);
    reply_xattr(request, status, value, size, capacity);
    fm_base_mem_free(value);
}

static void on_listxattr(fuse_req_t request, fuse_ino_t ino, size_t capacity)
{
    size_t size = 0;
    char *names = capacity ? fm_base_mem_alloc(capacity) : NULL;
    fm_status status = capacity && !names ? FM_ERR_NOMEM
                                          : fm_fs_meta_xattr_list(fm_fs_mount_of(request)->meta, ino, names,
                                                                  capacity, &size);
    reply_xattr(request, status, names, size, capacity);
    fm_base_mem_free(names);
}

static void on_setxattr(fuse_req_t request, fuse_ino_t ino, const char *name, const char *value, size_t size,
                        int flags)
{
    struct fm_fs_mount_who asker;
    if (is_never_kept(name)) {
        fm_fs_mount_reply_error(request, EOPNOTSUPP);
        return;
    }
    fm_fs_mount_who(request, &asker);
    unsigned set = (flags & XATTR_CREATE ? FM_FS_META_XATTR_CREATE : 0) |
                   (flags & XATTR_REPLACE ? FM_FS_META_XATTR_REPLACE : 0);
    fm_status status =
        fm_fs_meta_xattr_set(fm_fs_mount_of(request)->meta, &asker.who, ino, name, value, size, set);
    fm_fs_mount_reply_error(request, status == FM_ERR_NOT_FOUND ? ENODATA : fm_fs_mount_errno(status));
}

static void on_removexattr(fuse_req_t request, fuse_ino_t ino, const char *name)
{
    struct fm_fs_mount_who asker;
    fm_fs_mount_who(request, &asker);
    fm_status status = fm_fs_meta_xattr_remove(fm_fs_mount_of(request)->meta, &asker.who, ino, name);
    fm_fs_mount_reply_error(request, status == FM_ERR_NOT_FOUND ? ENODATA : fm_fs_mount_errno(status));
}

void fm_fs_mount_names(struct fuse_lowlevel_ops *ops)
{
    ops->lookup = on_lookup;
    ops->forget = on_forget;
    ops->getattr = on_getattr;
    ops->setattr = on_setattr;
    ops->readlink = on_readlink;
    ops->mknod = on_mknod;
    ops->mkdir = on_mkdir;
    ops->symlink = on_symlink;
    ops->link = on_link;
    ops->unlink = on_unlink;
    ops->rmdir = on_rmdir;
    ops->rename = on_rename;
    ops->opendir = on_opendir;
    ops->readdir = on_readdir;
    ops->readdirplus = on_readdirplus;
    ops->releasedir = on_releasedir;
    ops->fsyncdir = on_fsyncdir;
    ops->statfs = on_statfs;
    ops->getxattr = on_getxattr;
    ops->listxattr = on_listxattr;
    ops->setxattr = on_setxattr;
    ops->removexattr = on_removexattr;
}
