// The mount's requests about open files and their bytes.
#include "mount_fuse.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <unistd.h>

enum { COPY_BYTES = 4 << 20 };

static int write_errno(fm_status status)
{
    return status == FM_ERR_NOT_FOUND ? ESTALE : status == FM_ERR_LIMIT ? EFBIG : fm_fs_mount_errno(status);
}

static fm_status open_node(fm_fs_mount *mount, fm_fs_node *node, int made, struct fuse_file_info *info)
{
    struct fm_fs_mount_handle *handle;
    int keep;
    if ((info->flags & O_ACCMODE) != O_RDONLY && node->flags & FM_FS_NODE_IMMUTABLE)
        return fm_base_error_set(FM_ERR_PERM, "inode %llu is immutable", (unsigned long long)node->ino);
    if ((info->flags & O_TRUNC) && !made) // also of an empty file: its time changes
        FM_TRY(fm_fs_volume_truncate(mount->volume, NULL, node->ino, 0, node));
    FM_TRY(fm_fs_mount_file_open(mount, node, info->flags, &handle, &keep));
    info->fh = (uintptr_t)handle;
    // Where an append lands is decided here, so the kernel must not put its bytes into pages where it believes the end to be.
    // Who reads through the descriptor as well may want to map it, which direct I/O does not allow.
    info->direct_io = (info->flags & O_APPEND) && (info->flags & O_ACCMODE) == O_WRONLY;
    info->keep_cache = keep ? 1 : 0;
    // The size that a look-up told may be older than this opening, and the kernel would read no further.
    if (!keep && fuse_lowlevel_notify_inval_inode(mount->session, node->ino, -1, 0) < 0)
        return FM_OK; // it knows none
    return FM_OK;
}

// Whether the kernel has come here by a name that another mount has taken away: one that is open here it may know by /proc.
static int is_stale(fm_fs_mount *mount, const fm_fs_node *node)
{
    struct fm_fs_mount_file *file = node->nlink ? NULL : fm_fs_mount_use(mount, node->ino);
    if (file)
        fm_fs_mount_leave(mount, file);
    return !node->nlink && !file;
}

static void on_open(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
    fm_fs_mount *mount = fm_fs_mount_of(request);
    fm_fs_node node;
    // What another opening here has written comes before this one. A failure is told to those who wrote.
    fm_status status = fm_fs_mount_flush_ino(mount, ino);
    status = fm_fs_meta_node(mount->meta, ino, &node);
    if (status == FM_OK && mount->options.names_ms && is_stale(mount, &node))
        status = FM_ERR_NOT_FOUND; // the kernel then asks for the name
    if (status == FM_OK)
        status = open_node(mount, &node, 0, info);
    if (status < 0)
        fm_fs_mount_reply_error(request, write_errno(status));
    else if (fuse_reply_open(request, info) != 0) // the caller was interrupted and will not close it
        fm_fs_mount_file_close(mount, fm_fs_mount_handle_of(info));
}

static void on_create(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode,
                      struct fuse_file_info *info)
{
    fm_fs_mount *mount = fm_fs_mount_of(request);
    struct fm_fs_mount_who asker;
    struct fuse_entry_param entry;
    fm_fs_node node;
    fm_fs_mount_who(request, &asker);
    int made = 0;
    fm_status status = fm_fs_meta_create(mount->meta, &asker.who, parent, name, S_IFREG | (mode & 07777), 0,
                                         (info->flags & O_EXCL) != 0, &node, &made);
    if (status == FM_OK)
        status = open_node(mount, &node, made, info);
    if (status < 0) {
        fm_fs_mount_reply_status(request, status);
        return;
    }
    if (made) // then there is nothing to be dropped
        fm_fs_mount_handle_used(fm_fs_mount_handle_of(info));
    fm_fs_mount_entry(mount, &node, &entry);
    if (fuse_reply_create(request, &entry, info) != 0)
        fm_fs_mount_file_close(mount, fm_fs_mount_handle_of(info));
}

// Under locks that went with the lease nothing is read or written any more.
static int is_lost(const struct fuse_file_info *info)
{
    fm_fs_mount_handle_used(fm_fs_mount_handle_of(info));
    return __atomic_load_n(&fm_fs_mount_handle_of(info)->file->lost, __ATOMIC_RELAXED);
}

static void on_read(fuse_req_t request, fuse_ino_t ino, size_t size, off_t offset,
                    struct fuse_file_info *info)
{
    (void)ino;
    if (is_lost(info)) {
        fm_fs_mount_reply_error(request, EIO);
        return;
    }
    fm_status status = fm_fs_mount_read(fm_fs_mount_of(request), fm_fs_mount_handle_of(info), request, size,
                                        (uint64_t)offset);
    if (status < 0)
        fm_fs_mount_reply_error(request, write_errno(status));
}

// An append goes behind what the file has, which may be more than the kernel knows of: other mounts append, too.
static fm_status append(fm_fs_mount *mount, fuse_ino_t ino, const char *bytes, size_t size, uint64_t believed,
                        const struct fuse_file_info *info)
{
    const struct fm_fs_mount_handle *handle = fm_fs_mount_handle_of(info);
    uint64_t at;
    FM_TRY(fm_fs_mount_buffer_append(mount, handle->file, bytes, size, believed, handle->direct, &at));
    // Other descriptors see it at once. Without direct I/O this request has pages locked, and would wait for itself.
    int direct = (info->flags & O_ACCMODE) == O_WRONLY;
    if (at != believed && direct &&
        fuse_lowlevel_notify_inval_inode(mount->session, ino, (off_t)at, (off_t)size) < 0)
        return FM_OK; // the kernel knows none
    return FM_OK;
}

static void on_write(fuse_req_t request, fuse_ino_t ino, const char *bytes, size_t size, off_t offset,
                     struct fuse_file_info *info)
{
    fm_fs_mount *mount = fm_fs_mount_of(request);
    const struct fm_fs_mount_handle *handle = fm_fs_mount_handle_of(info);
    fm_status status;
    if (is_lost(info)) {
        fm_fs_mount_reply_error(request, EIO);
        return;
    }
    if ((info->flags & O_APPEND) && !info->writepage)
        status = append(mount, ino, bytes, size, (uint64_t)offset, info);
    else
        status = fm_fs_mount_buffer_write(mount, handle->file, bytes, size, (uint64_t)offset, handle->direct);
    if (status < 0) {
        fm_fs_mount_reply_error(request, write_errno(status));
        return;
    }
    fm_fs_mount_count_written(fm_fs_mount_of(request), size);
    fuse_reply_write(request, size);
}

static int sync_handle(fm_fs_mount *mount, struct fm_fs_mount_handle *handle, int closing)
{
    fm_fs_mount_handle_used(handle);
    fm_status flushed =
        closing ? fm_fs_mount_flush(mount, handle->file) : fm_fs_mount_sync(mount, handle->file);
    fm_status status = fm_fs_mount_error(handle); // this one's, or one before it
    return write_errno(status < 0 ? status : flushed);
}

static void on_flush(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
    struct fm_fs_mount_handle *handle = fm_fs_mount_handle_of(info);
    int err = sync_handle(fm_fs_mount_of(request), handle, 1);
    (void)ino;
    fm_fs_mount_unlock(fm_fs_mount_of(request), handle, info, 0); // as a close does for its process
    fm_fs_mount_reply_error(request, err);
}

static void on_fsync(fuse_req_t request, fuse_ino_t ino, int only_data, struct fuse_file_info *info)
{
    (void)ino;
    (void)only_data;
    fm_fs_mount_reply_error(request, sync_handle(fm_fs_mount_of(request), fm_fs_mount_handle_of(info), 0));
}

static void on_release(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
    fm_fs_mount *mount = fm_fs_mount_of(request);
    struct fm_fs_mount_handle *handle = fm_fs_mount_handle_of(info);
    // Pages of a mapping that outlived the descriptor come after its flush; there is nobody left to be told of a failure.
    fm_status status = fm_fs_mount_flush_ino(mount, ino);
    if (info->flock_release)
        fm_fs_mount_unlock(mount, handle, info, 1);
    fm_fs_mount_file_close(mount, handle);
    fm_fs_mount_reply_error(request, status < 0 ? fm_fs_mount_errno(status) : 0);
}

// Space is not set aside: the chunks of a range that was never written take none.
static fm_status reserve(fm_fs_mount *mount, uint64_t ino, uint64_t end, int keep_size)
{
    fm_fs_node node;
    FM_TRY(fm_fs_meta_node(mount->meta, ino, &node));
    return keep_size || end <= node.size ? FM_OK
                                         : fm_fs_volume_truncate(mount->volume, NULL, ino, end, &node);
}

static void on_fallocate(fuse_req_t request, fuse_ino_t ino, int mode, off_t offset, off_t length,
                         struct fuse_file_info *info)
{
    fm_fs_mount *mount = fm_fs_mount_of(request);
    int keep_size = (mode & FALLOC_FL_KEEP_SIZE) != 0;
    uint64_t end = (uint64_t)offset + (uint64_t)length;
    struct fm_fs_mount_file *file = fm_fs_mount_handle_of(info)->file;
    fm_status status = FM_ERR_UNSUPPORTED;
    pthread_rwlock_wrlock(&file->lock);
    fm_status flushed = fm_fs_mount_flush_locked(mount, file, 1);
    file->version = FM_FS_VOLUME_UNKNOWN; // whatever this makes of it: the next opening begins anew
    fm_fs_cache_drop(mount->cache, ino, (uint64_t)offset, (uint64_t)length);
    switch (mode & ~FALLOC_FL_KEEP_SIZE) {
    case 0:
        status = reserve(mount, ino, end, keep_size);
        break;
    case FALLOC_FL_PUNCH_HOLE:
        status = fm_fs_volume_punch(mount->volume, ino, (uint64_t)offset, (uint64_t)length);
        break;
    case FALLOC_FL_ZERO_RANGE:
        status = fm_fs_volume_punch(mount->volume, ino, (uint64_t)offset, (uint64_t)length);
        if (status == FM_OK)
            status = reserve(mount, ino, end, keep_size);
        break;
    default:
        break;
    }
    pthread_rwlock_unlock(&file->lock);
    if (flushed < 0 && status == FM_OK) // what was to be there before is not
        status = flushed;
    fm_fs_mount_reply_error(request, write_errno(status));
}

static void on_lseek(fuse_req_t request, fuse_ino_t ino, off_t offset, int whence,
                     struct fuse_file_info *info)
{
    fm_fs_mount *mount = fm_fs_mount_of(request);
    uint64_t at = 0;
    if (whence != SEEK_DATA && whence != SEEK_HOLE) {
        fm_fs_mount_reply_error(request, EINVAL);
        return;
    }
    fm_status status = fm_fs_mount_flush(mount, fm_fs_mount_handle_of(info)->file);
    if (status == FM_OK)
        status = offset < 0
                     ? FM_ERR_NOT_FOUND
                     : fm_fs_volume_seek(mount->volume, ino, (uint64_t)offset, whence == SEEK_HOLE, &at);
    if (status == FM_OK)
        fuse_reply_lseek(request, (off_t)at);
    else
        fm_fs_mount_reply_error(request, status == FM_ERR_NOT_FOUND ? ENXIO : fm_fs_mount_errno(status));
}

static void on_copy(fuse_req_t request, fuse_ino_t from, off_t from_offset, struct fuse_file_info *from_info,
                    fuse_ino_t to, off_t to_offset, struct fuse_file_info *to_info, size_t length, int flags)
{
    fm_fs_mount *mount = fm_fs_mount_of(request);
    char *buffer = fm_base_mem_alloc(COPY_BYTES);
    (void)from;
    (void)to;
    fm_status status = buffer ? FM_OK : FM_ERR_NOMEM;
    size_t done = 0;
    size_t read = 1;
    struct fm_fs_mount_file *target = fm_fs_mount_handle_of(to_info)->file;
    (void)flags;
    while (status == FM_OK && done < length && read) {
        size_t wanted = length - done < COPY_BYTES ? length - done : COPY_BYTES;
        status = fm_fs_mount_buffer_read(mount, fm_fs_mount_handle_of(from_info)->file, buffer, wanted,
                                         (uint64_t)from_offset + done, &read);
        if (status == FM_OK && read)
            status = fm_fs_mount_buffer_write(mount, target, buffer, read, (uint64_t)to_offset + done, 1);
        done += status == FM_OK ? read : 0;
    }
    fm_base_mem_free(buffer);
    if (done) {
        pthread_rwlock_wrlock(&target->lock);
        fm_status settled = fm_fs_mount_flush_locked(mount, target, 1);
        pthread_rwlock_unlock(&target->lock);
        if (settled < 0)
            status = settled;
    }
    if (status < 0 && !done)
        fm_fs_mount_reply_error(request, write_errno(status));
    else
        fuse_reply_write(request, done);
}

void fm_fs_mount_files(struct fuse_lowlevel_ops *ops)
{
    ops->open = on_open;
    ops->create = on_create;
    ops->read = on_read;
    ops->write = on_write;
    ops->flush = on_flush;
    ops->fsync = on_fsync;
    ops->release = on_release;
    ops->fallocate = on_fallocate;
    ops->lseek = on_lseek;
    ops->copy_file_range = on_copy;
}
