// Reads: of what the mount has in memory, where that is still right, and of what is missing there from the volume.
#include "mount_fuse.h"

#include <errno.h>
#include <string.h>

enum { INLINE_MAX = 16384, PIECES = FM_FS_CACHE_PIECES * FM_FS_CACHE_HOLES };

struct reading {
    fm_fs_mount *mount;
    struct fm_fs_mount_file *file;
    uint64_t offset;
    size_t size, read;
    struct fm_fs_cache_view view;
    int in_view;    // otherwise they are
    uint8_t *bytes; // here: `small`, or allocated
    uint8_t small[INLINE_MAX];
};

// Runs of missing pages, up to the file's end, as pieces of the volume.
static size_t missing_pieces(const struct fm_fs_cache_view *view, uint64_t file_size,
                             struct fm_fs_volume_piece *pieces)
{
    size_t count = 0;
    for (unsigned i = 0; i < view->count; i++) {
        uint64_t missing = view->pieces[i].missing;
        while (missing) {
            unsigned first = (unsigned)__builtin_ctzll(missing);
            uint64_t above = ~(missing >> first);
            unsigned pages = above ? (unsigned)__builtin_ctzll(above) : 64 - first;
            uint64_t at = view->pieces[i].offset + (uint64_t)first * FM_FS_CACHE_PAGE;
            size_t size = (size_t)pages * FM_FS_CACHE_PAGE;
            if (at + size > file_size)
                size = (size_t)(file_size - at);
            pieces[count++] = (struct fm_fs_volume_piece){
                .offset = at, .size = size, .into = view->pieces[i].bytes + (size_t)first * FM_FS_CACHE_PAGE};
            missing &= pages + first == 64 ? 0 : UINT64_MAX << (first + pages);
        }
    }
    return count;
}

// 1: the range is in the view. The gate of the inode is entered.
static int from_cache(struct reading *reading, const fm_fs_node *node, fm_status *status)
{
    fm_fs_mount *mount = reading->mount;
    struct fm_fs_volume_piece pieces[PIECES];
    *status = FM_OK;
    if (!fm_fs_cache_take(mount->cache, node->ino, node->version, reading->offset, reading->read,
                          &reading->view))
        return 0;
    if (reading->view.missing) {
        size_t count = missing_pieces(&reading->view, node->size, pieces);
        for (size_t i = 0; i < count; i++)
            fm_fs_mount_count_missed(mount, pieces[i].size);
        *status = fm_fs_mount_fetch(mount, node, pieces, count);
        fm_fs_cache_filled(mount->cache, &reading->view, *status == FM_OK);
    }
    if (*status < 0)
        fm_fs_cache_leave(mount->cache, &reading->view);
    return *status == FM_OK;
}

// With the file's lock held for reading. FM_ERR_STATE: bytes that wait to be written belong there.
static fm_status read_locked(struct reading *reading)
{
    fm_fs_mount *mount = reading->mount;
    const uint64_t ino = reading->file->ino;
    fm_fs_node node;
    fm_status status;
    size_t small = reading->size < INLINE_MAX ? reading->size : INLINE_MAX;
    if (fm_fs_mount_buffer_has(reading->file, reading->offset, reading->size, reading->size))
        return FM_ERR_STATE;
    fm_fs_volume_enter(mount->volume, ino);
    status = fm_fs_meta_inline_read(mount->meta, ino, reading->offset, reading->small, small, &reading->read,
                                    &node);
    if (status == FM_OK && !(node.flags & FM_FS_NODE_INLINE) && reading->offset < node.size) {
        uint64_t left = node.size - reading->offset;
        reading->read = left < reading->size ? (size_t)left : reading->size;
        reading->in_view = from_cache(reading, &node, &status);
        if (status == FM_OK && !reading->in_view)
            status = FM_ERR_STATE; // the cache is full of what others read just now
    }
    fm_fs_volume_exit(mount->volume, ino);
    if (status == FM_OK &&
        fm_fs_mount_buffer_has(reading->file, reading->offset, reading->size, reading->read)) {
        if (reading->in_view)
            fm_fs_cache_leave(mount->cache, &reading->view);
        reading->in_view = 0;
        return FM_ERR_STATE;
    }
    return status;
}

// Past the cache.
static fm_status read_plainly(struct reading *reading)
{
    reading->bytes = fm_base_mem_alloc(reading->size);
    if (!reading->bytes)
        return FM_ERR_NOMEM;
    FM_TRY(fm_fs_mount_buffer_read(reading->mount, reading->file, reading->bytes, reading->size,
                                   reading->offset, &reading->read));
    fm_fs_mount_count_missed(reading->mount, reading->read);
    return FM_OK;
}

static void reply(fuse_req_t request, const struct reading *reading)
{
    struct iovec pieces[FM_FS_CACHE_PIECES];
    fm_fs_mount_count_read(reading->mount, reading->read);
    if (!reading->in_view) {
        fuse_reply_buf(request, (const char *)reading->bytes, reading->read);
        return;
    }
    size_t left = reading->read;
    size_t skip = (size_t)(reading->offset % FM_FS_CACHE_BLOCK);
    for (unsigned i = 0; i < reading->view.count; i++) {
        size_t size = FM_FS_CACHE_BLOCK - skip < left ? FM_FS_CACHE_BLOCK - skip : left;
        pieces[i] = (struct iovec){reading->view.pieces[i].bytes + skip, size};
        left -= size;
        skip = 0;
    }
    fuse_reply_iov(request, pieces, (int)reading->view.count);
}

fm_status fm_fs_mount_read(fm_fs_mount *mount, const struct fm_fs_mount_handle *handle, fuse_req_t request,
                           size_t size, uint64_t offset)
{
    struct reading reading;
    fm_status status = FM_ERR_STATE;
    reading.mount = mount;
    reading.file = handle->file;
    reading.offset = offset;
    reading.size = size;
    reading.read = 0;
    reading.in_view = 0;
    reading.bytes = reading.small;
    // O_DIRECT is for those who want what the cluster has now.
    if (mount->cache && !handle->direct && size && size <= FM_FS_CACHE_RANGE_MAX) {
        pthread_rwlock_rdlock(&handle->file->lock);
        status = read_locked(&reading);
        pthread_rwlock_unlock(&handle->file->lock);
    }
    if (status == FM_ERR_STATE)
        status = read_plainly(&reading);
    if (status == FM_OK)
        reply(request, &reading);
    if (reading.in_view)
        fm_fs_cache_leave(mount->cache, &reading.view);
    if (reading.bytes != reading.small)
        fm_base_mem_free(reading.bytes);
    return status;
}
