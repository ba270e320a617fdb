// What was written and is not in the volume yet: small writes wait here to become large ones.
#include "mount_fuse.h"

#include <string.h>

#include "fathom/clock.h"
#include "fathom/log.h"

enum {
    FILE_MAX = 16 << 20,   // of one file: as many chunks of the usual size as travel at once
    MOUNT_MAX = 256 << 20, // of all files; who meets it waits for the volume
    EXTENTS_MAX = 4096,    // of one file: what is scattered wider gains little by waiting
    ROOM_MIN = 4096
};

// The first extent that ends at `offset` or behind it.
static size_t first_at(const struct fm_fs_mount_extent *extents, size_t count, uint64_t offset)
{
    size_t low = 0;
    size_t high = count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        const struct fm_fs_mount_extent *extent = &extents[middle];
        if (extent->offset + extent->size < offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static fm_status make_room(struct fm_fs_mount_extent *extent, size_t size)
{
    size_t room = extent->room ? extent->room : ROOM_MIN;
    while (room < size)
        room *= 2;
    if (room == extent->room)
        return FM_OK;
    uint8_t *bytes = fm_base_mem_realloc(extent->bytes, room, 1);
    if (!bytes)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu bytes that are to be written", room);
    extent->bytes = bytes;
    extent->room = room;
    return FM_OK;
}

static void dirtied(fm_fs_mount *mount, struct fm_fs_mount_file *file, size_t before, size_t after)
{
    if (!file->dirty)
        file->dirty_ns = fm_base_clock_ns();
    file->dirty += after - before; // also where that is negative
    __atomic_add_fetch(&mount->dirty, after - before, __ATOMIC_RELAXED);
}

static fm_status insert(fm_fs_mount *mount, struct fm_fs_mount_file *file, size_t at, const void *bytes,
                        size_t size, uint64_t offset)
{
    struct fm_fs_mount_extent extent = {.offset = offset, .size = size};
    if (file->count == file->capacity) {
        size_t capacity = file->capacity ? 2 * file->capacity : 4;
        struct fm_fs_mount_extent *moved = fm_base_mem_realloc(file->extents, capacity, sizeof *moved);
        if (!moved)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for what is to be written");
        file->extents = moved;
        file->capacity = capacity;
    }
    FM_TRY(make_room(&extent, size));
    memcpy(extent.bytes, bytes, size);
    memmove(file->extents + at + 1, file->extents + at, (file->count - at) * sizeof extent);
    file->extents[at] = extent;
    file->count++;
    dirtied(mount, file, 0, size);
    return FM_OK;
}

static fm_status overlay(fm_fs_mount *mount, struct fm_fs_mount_file *file, struct fm_fs_mount_extent *extent,
                         const void *bytes, size_t size, uint64_t offset)
{
    size_t end = (size_t)(offset - extent->offset) + size;
    size_t before = extent->size;
    if (end > extent->size) {
        FM_TRY(make_room(extent, end));
        extent->size = end;
    }
    memcpy(extent->bytes + (offset - extent->offset), bytes, size);
    dirtied(mount, file, before, extent->size);
    return FM_OK;
}

// Adds bytes to the extents. FM_ERR_LIMIT: they are too scattered; FM_ERR_NOMEM. Both leave all as it was.
static fm_status add(fm_fs_mount *mount, struct fm_fs_mount_file *file, const void *bytes, size_t size,
                     uint64_t offset)
{
    size_t at = first_at(file->extents, file->count, offset);
    int follows = at < file->count && file->extents[at].offset + file->extents[at].size == offset;
    // What lies at the offset or behind it: the one that is grown if any follows it at once.
    size_t next = follows ? at + 1 : at;
    int within = next < file->count && file->extents[next].offset <= offset;
    size_t behind = within ? next + 1 : next;
    // Reaching over the end of one into another one is rare enough to be a flush's affair.
    if (behind < file->count && file->extents[behind].offset < offset + size)
        return FM_ERR_LIMIT;
    if (within || follows)
        return overlay(mount, file, &file->extents[within ? next : at], bytes, size, offset);
    return file->count == EXTENTS_MAX ? FM_ERR_LIMIT : insert(mount, file, next, bytes, size, offset);
}

static void clear(fm_fs_mount *mount, struct fm_fs_mount_file *file)
{
    for (size_t i = 0; i < file->count; i++)
        fm_base_mem_free(file->extents[i].bytes);
    file->count = 0;
    file->ends = 0;
    dirtied(mount, file, file->dirty, 0);
}

static fm_status fail(struct fm_fs_mount_file *file, fm_status status)
{
    file->error = status;
    file->error_turn++;
    file->through = 1;
    fm_log_warn("fs", "inode %llu: what was written is lost: %s", (unsigned long long)file->ino,
                fm_error_message());
    return status;
}

// Waits for what is on its way.
static fm_status land(struct fm_fs_mount_file *file)
{
    fm_status status = fm_fs_mount_behind_end(file);
    return status < 0 ? fail(file, status) : FM_OK;
}

fm_status fm_fs_mount_flush_locked(fm_fs_mount *mount, struct fm_fs_mount_file *file, int settle)
{
    fm_status landed = land(file);
    if (file->count) {
        fm_status status =
            fm_fs_mount_extents_write(mount, file->ino, file->extents, file->count, &file->version);
        for (size_t i = 0; i < file->count; i++)
            fm_fs_cache_drop(mount->cache, file->ino, file->extents[i].offset, file->extents[i].size);
        clear(mount, file);
        file->unsettled = 1;
        if (status < 0)
            return fail(file, status);
    }
    fm_status settled = settle ? fm_fs_mount_settle_locked(mount, file) : FM_OK;
    return landed < 0 ? landed : settled;
}

fm_status fm_fs_mount_settle_locked(fm_fs_mount *mount, struct fm_fs_mount_file *file)
{
    FM_TRY(land(file));
    if (!file->unsettled)
        return FM_OK;
    file->unsettled = 0;
    fm_status status = fm_fs_volume_settle(mount->volume, file->ino, &file->version);
    // A file that was removed elsewhere meanwhile has no time to be told.
    return status < 0 && status != FM_ERR_NOT_FOUND ? fail(file, status) : FM_OK;
}

static fm_status flush(fm_fs_mount *mount, struct fm_fs_mount_file *file, int settle)
{
    pthread_rwlock_wrlock(&file->lock);
    fm_status status = fm_fs_mount_flush_locked(mount, file, settle);
    pthread_rwlock_unlock(&file->lock);
    return status;
}

fm_status fm_fs_mount_flush(fm_fs_mount *mount, struct fm_fs_mount_file *file)
{
    return flush(mount, file, 1);
}

fm_status fm_fs_mount_sync(fm_fs_mount *mount, struct fm_fs_mount_file *file)
{
    int others = 1;
    // Asked afterwards: who comes later reads what is in the volume by now.
    fm_status status = flush(mount, file, 0);
    if (fm_fs_meta_others(mount->meta, &others) == FM_OK && !others)
        return status;
    fm_status settled = flush(mount, file, 1);
    return status < 0 ? status : settled;
}

fm_status fm_fs_mount_flush_ino(fm_fs_mount *mount, uint64_t ino)
{
    struct fm_fs_mount_file *file = fm_fs_mount_use(mount, ino);
    if (!file)
        return FM_OK;
    fm_status status = fm_fs_mount_flush(mount, file);
    fm_fs_mount_leave(mount, file);
    return status;
}

fm_status fm_fs_mount_error(struct fm_fs_mount_handle *handle)
{
    struct fm_fs_mount_file *file = handle->file;
    pthread_rwlock_wrlock(&file->lock);
    fm_status status = handle->error_turn == file->error_turn ? FM_OK : file->error;
    handle->error_turn = file->error_turn;
    pthread_rwlock_unlock(&file->lock);
    return status;
}

static fm_status write_through(fm_fs_mount *mount, struct fm_fs_mount_file *file, const void *bytes,
                               size_t size, uint64_t offset)
{
    const struct fm_fs_volume_piece piece = {.offset = offset, .size = size, .bytes = bytes};
    FM_TRY(fm_fs_mount_flush_locked(mount, file, 0)); // what was written before comes before
    fm_status status = fm_fs_volume_write_pieces(mount->volume, file->ino, &piece, 1, &file->version);
    fm_fs_cache_drop(mount->cache, file->ino, offset, size); // a part of it may be there
    FM_TRY(status);
    file->unsettled = 1;
    return FM_OK;
}

// What is here goes to the volume, if it can while more is gathered.
static fm_status pass_on(fm_fs_mount *mount, struct fm_fs_mount_file *file)
{
    FM_TRY(land(file));
    return fm_fs_mount_behind_begin(mount, file) == FM_OK ? FM_OK : fm_fs_mount_flush_locked(mount, file, 0);
}

static fm_status write_locked(fm_fs_mount *mount, struct fm_fs_mount_file *file, const void *bytes,
                              size_t size, uint64_t offset, int direct)
{
    if (size > file->size_max || offset > file->size_max - size)
        return fm_base_error_set(FM_ERR_LIMIT, "inode %llu may not grow beyond %llu bytes",
                                 (unsigned long long)file->ino, (unsigned long long)file->size_max);
    if (direct || file->through || __atomic_load_n(&mount->dirty, __ATOMIC_RELAXED) + size > MOUNT_MAX)
        return write_through(mount, file, bytes, size, offset);
    fm_status status = add(mount, file, bytes, size, offset);
    if (status == FM_ERR_LIMIT) {
        if (pass_on(mount, file) < 0) // told at fsync or close
            return write_through(mount, file, bytes, size, offset);
        status = add(mount, file, bytes, size, offset);
    }
    if (status < 0)
        return write_through(mount, file, bytes, size, offset);
    // A failure is told at fsync or close, as by the kernel's own cache: these bytes were taken.
    if (file->dirty >= FILE_MAX && pass_on(mount, file) < 0)
        return FM_OK;
    return FM_OK;
}

fm_status fm_fs_mount_buffer_write(fm_fs_mount *mount, struct fm_fs_mount_file *file, const void *bytes,
                                   size_t size, uint64_t offset, int direct)
{
    pthread_rwlock_wrlock(&file->lock);
    fm_status status = write_locked(mount, file, bytes, size, offset, direct);
    pthread_rwlock_unlock(&file->lock);
    return status;
}

// With the file's lock held for writing. While nothing waits here, only the names know.
static fm_status find_end(fm_fs_mount *mount, struct fm_fs_mount_file *file, uint64_t *out_end)
{
    if (!file->count || !file->ends) {
        fm_fs_node node;
        FM_TRY(fm_fs_meta_node(mount->meta, file->ino, &node));
        uint64_t behind = fm_fs_mount_behind_reach(file);
        file->end = node.size > behind ? node.size : behind;
        file->ends = file->count > 0;
    }
    *out_end = file->end;
    if (file->count) {
        const struct fm_fs_mount_extent *last = &file->extents[file->count - 1];
        if (last->offset + last->size > *out_end)
            *out_end = last->offset + last->size;
    }
    return FM_OK;
}

fm_status fm_fs_mount_buffer_append(fm_fs_mount *mount, struct fm_fs_mount_file *file, const void *bytes,
                                    size_t size, uint64_t believed, int direct, uint64_t *out_offset)
{
    uint64_t end;
    pthread_rwlock_wrlock(&file->lock);
    fm_status status = find_end(mount, file, &end);
    if (status == FM_OK)
        status = write_locked(mount, file, bytes, size, end, direct);
    if (status == FM_OK && end != believed)
        file->version = FM_FS_VOLUME_UNKNOWN;
    pthread_rwlock_unlock(&file->lock);
    if (status == FM_OK)
        *out_offset = end;
    return status;
}

int fm_fs_mount_extents_have(const struct fm_fs_mount_extent *extents, size_t count, uint64_t offset,
                             size_t size, size_t read)
{
    if (!count)
        return 0;
    const struct fm_fs_mount_extent *last = &extents[count - 1];
    if (read < size && last->offset + last->size > offset + read)
        return 1;
    size_t at = first_at(extents, count, offset + 1);
    return at < count && extents[at].offset < offset + size;
}

int fm_fs_mount_buffer_has(const struct fm_fs_mount_file *file, uint64_t offset, size_t size, size_t read)
{
    return fm_fs_mount_extents_have(file->extents, file->count, offset, size, read) ||
           fm_fs_mount_behind_has(file, offset, size, read);
}

fm_status fm_fs_mount_buffer_read(fm_fs_mount *mount, struct fm_fs_mount_file *file, void *buffer,
                                  size_t size, uint64_t offset, size_t *out_read)
{
    fm_status status;
    int missed;
    size_t read;
    do {
        read = 0;
        pthread_rwlock_rdlock(&file->lock);
        missed = fm_fs_mount_buffer_has(file, offset, size, size);
        status = missed ? FM_OK : fm_fs_volume_read(mount->volume, file->ino, buffer, size, offset, &read);
        missed = missed || (status == FM_OK && fm_fs_mount_buffer_has(file, offset, size, read));
        pthread_rwlock_unlock(&file->lock);
        if (missed) {
            pthread_rwlock_wrlock(&file->lock);
            status = fm_fs_mount_flush_locked(mount, file, 0); // told at fsync or close; what is left is read
            pthread_rwlock_unlock(&file->lock);
        }
    } while (missed);
    FM_TRY(status);
    *out_read = read;
    return FM_OK;
}
