// The mount's requests about open files and their bytes.
#include "mount_fuse.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <unistd.h>

enum { COPY_BYTES = 4 << 20 };

// Counts an opening. FM_ERR_NOMEM.
static fm_status count_open(fm_fs_mount *mount, uint64_t ino)
{
    struct fm_fs_mount_file *made = fm_base_mem_zalloc(1, sizeof *made);
    if (!made)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for an open file");
    pthread_mutex_lock(&mount->lock);
    struct fm_fs_mount_file *file = fm_fs_mount_file(mount, ino);
    if (file) {
        file->opens++;
        fm_base_mem_free(made);
    } else {
        struct fm_fs_mount_file **bucket = &mount->files[ino % FM_FS_MOUNT_BUCKETS];
        *made = (struct fm_fs_mount_file){.next = *bucket, .ino = ino, .opens = 1};
        *bucket = made;
    }
    pthread_mutex_unlock(&mount->lock);
    return FM_OK;
}

static void count_close(fm_fs_mount *mount, uint64_t ino)
{
    int held = 0;
    pthread_mutex_lock(&mount->lock);
    struct fm_fs_mount_file *file = fm_fs_mount_file(mount, ino);
    if (file && --file->opens == 0) {
        struct fm_fs_mount_file **at = &mount->files[ino % FM_FS_MOUNT_BUCKETS];
        while (*at != file)
            at = &(*at)->next;
        *at = file->next;
        held = file->held;
        mount->held -= held ? 1u : 0;
        fm_base_mem_free(file);
    }
    pthread_mutex_unlock(&mount->lock);
    // If it cannot be told, the lease tells it later.
    if (held && fm_fs_meta_release(mount->meta, mount->client, ino) < 0)
        return;
}

static void note_written(fm_fs_mount *mount, uint64_t ino)
{
    pthread_mutex_lock(&mount->lock);
    struct fm_fs_mount_file *file = fm_fs_mount_file(mount, ino);
    if (file)
        file->written = 1;
    pthread_mutex_unlock(&mount->lock);
}

// Tells the time of the last write, for others to see that there was one.
static fm_status settle(fm_fs_mount *mount, uint64_t ino)
{
    pthread_mutex_lock(&mount->lock);
    struct fm_fs_mount_file *file = fm_fs_mount_file(mount, ino);
    int written = file && file->written;
    if (file)
        file->written = 0;
    pthread_mutex_unlock(&mount->lock);
    return written ? fm_fs_volume_touch(mount->volume, ino) : FM_OK;
}

static void on_open(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
    fm_fs_mount *mount = fm_fs_mount_of(request);
    fm_fs_node node;
    fm_status status = fm_fs_meta_node(mount->meta, ino, &node);
    if (status == FM_OK)
        status = count_open(mount, ino);
    if (status == FM_OK && (info->flags & O_TRUNC) && node.size) {
        status = fm_fs_volume_truncate(mount->volume, NULL, ino, 0, &node);
        if (status < 0)
            count_close(mount, ino);
    }
    if (status < 0)
        fuse_reply_err(request, status == FM_ERR_NOT_FOUND ? ESTALE : fm_fs_mount_errno(status));
    else if (fuse_reply_open(request, info) != 0) // the caller was interrupted and will not close it
        count_close(mount, ino);
}

static void on_create(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode,
                      struct fuse_file_info *info)
{
    fm_fs_mount *mount = fm_fs_mount_of(request);
    struct fm_fs_mount_who asker;
    struct fuse_entry_param entry = {.ino = 0};
    fm_fs_node node;
    fm_fs_mount_who(request, &asker);
    fm_status status = fm_fs_meta_create(mount->meta, &asker.who, parent, name, S_IFREG | (mode & 07777), 0,
                                         (info->flags & O_EXCL) != 0, &node, NULL);
    if (status == FM_OK && (info->flags & O_TRUNC) && node.size)
        status = fm_fs_volume_truncate(mount->volume, &asker.who, node.ino, 0, &node);
    if (status == FM_OK)
        status = count_open(mount, node.ino);
    if (status < 0) {
        fm_fs_mount_reply_status(request, status);
        return;
    }
    entry.ino = node.ino;
    fm_fs_mount_stat(&node, &entry.attr);
    if (fuse_reply_create(request, &entry, info) != 0)
        count_close(mount, node.ino);
}

static void on_read(fuse_req_t request, fuse_ino_t ino, size_t size, off_t offset,
                    struct fuse_file_info *info)
{
    size_t read = 0;
    (void)info;
    char *buffer = fm_base_mem_alloc(size);
    fm_status status = buffer ? fm_fs_volume_read(fm_fs_mount_of(request)->volume, ino, buffer, size,
                                                  (uint64_t)offset, &read)
                              : FM_ERR_NOMEM;
    if (status < 0)
        fuse_reply_err(request, status == FM_ERR_NOT_FOUND ? ESTALE : fm_fs_mount_errno(status));
    else
        fuse_reply_buf(request, buffer, read);
    fm_base_mem_free(buffer);
}

static int write_errno(fm_status status)
{
    return status == FM_ERR_NOT_FOUND ? ESTALE : status == FM_ERR_LIMIT ? EFBIG : fm_fs_mount_errno(status);
}

static void on_write(fuse_req_t request, fuse_ino_t ino, const char *bytes, size_t size, off_t offset,
                     struct fuse_file_info *info)
{
    fm_fs_mount *mount = fm_fs_mount_of(request);
    (void)info;
    fm_status status = fm_fs_volume_write(mount->volume, ino, bytes, size, (uint64_t)offset);
    note_written(mount, ino);
    if (status < 0)
        fuse_reply_err(request, write_errno(status));
    else
        fuse_reply_write(request, size);
}

static void on_flush(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
    (void)info;
    fm_status status = settle(fm_fs_mount_of(request), ino);
    fuse_reply_err(request, status == FM_ERR_NOT_FOUND ? 0 : fm_fs_mount_errno(status));
}

static void on_fsync(fuse_req_t request, fuse_ino_t ino, int only_data, struct fuse_file_info *info)
{
    (void)only_data;
    on_flush(request, ino, info);
}

static void on_release(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
    (void)info;
    count_close(fm_fs_mount_of(request), ino);
    fuse_reply_err(request, 0);
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
    fm_status status = FM_ERR_UNSUPPORTED;
    (void)info;
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
    fuse_reply_err(request, write_errno(status));
}

static void on_lseek(fuse_req_t request, fuse_ino_t ino, off_t offset, int whence,
                     struct fuse_file_info *info)
{
    uint64_t at = 0;
    (void)info;
    if (whence != SEEK_DATA && whence != SEEK_HOLE) {
        fuse_reply_err(request, EINVAL);
        return;
    }
    fm_status status = offset < 0 ? FM_ERR_NOT_FOUND
                                  : fm_fs_volume_seek(fm_fs_mount_of(request)->volume, ino, (uint64_t)offset,
                                                      whence == SEEK_HOLE, &at);
    if (status == FM_OK)
        fuse_reply_lseek(request, (off_t)at);
    else
        fuse_reply_err(request, status == FM_ERR_NOT_FOUND ? ENXIO : fm_fs_mount_errno(status));
}

static void on_copy(fuse_req_t request, fuse_ino_t from, off_t from_offset, struct fuse_file_info *from_info,
                    fuse_ino_t to, off_t to_offset, struct fuse_file_info *to_info, size_t length, int flags)
{
    fm_fs_mount *mount = fm_fs_mount_of(request);
    char *buffer = fm_base_mem_alloc(COPY_BYTES);
    fm_status status = buffer ? FM_OK : FM_ERR_NOMEM;
    size_t done = 0;
    size_t read = 1;
    (void)from_info;
    (void)to_info;
    (void)flags;
    while (status == FM_OK && done < length && read) {
        size_t wanted = length - done < COPY_BYTES ? length - done : COPY_BYTES;
        status = fm_fs_volume_read(mount->volume, from, buffer, wanted, (uint64_t)from_offset + done, &read);
        if (status == FM_OK)
            status = fm_fs_volume_write(mount->volume, to, buffer, read, (uint64_t)to_offset + done);
        done += status == FM_OK ? read : 0;
    }
    fm_base_mem_free(buffer);
    note_written(mount, to);
    if (status < 0 && !done)
        fuse_reply_err(request, write_errno(status));
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
