/*
 * Writing behind the writer's back: what a file has gathered goes to the volume by a thread of its own, while the next bytes are
 * gathered. One such flight a file, so that what is written later comes later; whoever needs the bytes there waits for it
 * with the file's lock held for writing, as for a flush.
 */
#include "mount_fuse.h"

#include <stdio.h>

struct fm_fs_mount_flight {
    fm_fs_mount *mount;
    uint64_t ino;
    struct fm_fs_mount_extent *extents;
    size_t count, bytes;
    pthread_t thread;
    int landed; // atomic
    uint64_t began, version;
    fm_status status;
    char message[256];
};

fm_status fm_fs_mount_extents_write(fm_fs_mount *mount, uint64_t ino,
                                    const struct fm_fs_mount_extent *extents, size_t count, uint64_t *version)
{
    struct fm_fs_volume_piece few[16] = {0};
    struct fm_fs_volume_piece *pieces = count <= 16 ? few : fm_base_mem_realloc(NULL, count, sizeof *pieces);
    if (!pieces)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu pieces that are to be written", count);
    for (size_t i = 0; i < count; i++)
        pieces[i] = (struct fm_fs_volume_piece){
            .offset = extents[i].offset, .size = extents[i].size, .bytes = extents[i].bytes};
    fm_status status = fm_fs_volume_write_pieces(mount->volume, ino, pieces, count, version);
    if (pieces != few)
        fm_base_mem_free(pieces);
    return status;
}

static void *fly(void *context)
{
    struct fm_fs_mount_flight *flight = context;
    flight->status = fm_fs_mount_extents_write(flight->mount, flight->ino, flight->extents, flight->count,
                                               &flight->version);
    if (flight->status < 0)
        snprintf(flight->message, sizeof flight->message, "%s", fm_error_message());
    __atomic_store_n(&flight->landed, 1, __ATOMIC_RELEASE);
    return NULL;
}

fm_status fm_fs_mount_behind_begin(fm_fs_mount *mount, struct fm_fs_mount_file *file)
{
    struct fm_fs_mount_flight *flight = fm_base_mem_zalloc(1, sizeof *flight);
    if (!flight)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to write behind");
    *flight = (struct fm_fs_mount_flight){.mount = mount,
                                          .ino = file->ino,
                                          .extents = file->extents,
                                          .count = file->count,
                                          .bytes = file->dirty,
                                          .began = file->version,
                                          .version = file->version};
    if (pthread_create(&flight->thread, NULL, fly, flight) != 0) {
        fm_base_mem_free(flight);
        return fm_base_error_set(FM_ERR_LIMIT, "no thread to write behind");
    }
    file->extents = NULL;
    file->count = 0;
    file->capacity = 0;
    file->dirty = 0;
    file->ends = 0;
    file->unsettled = 1;
    file->flight = flight;
    return FM_OK;
}

int fm_fs_mount_behind_is_over(const struct fm_fs_mount_file *file)
{
    return !file->flight || __atomic_load_n(&file->flight->landed, __ATOMIC_ACQUIRE);
}

fm_status fm_fs_mount_behind_end(struct fm_fs_mount_file *file)
{
    struct fm_fs_mount_flight *flight = file->flight;
    if (!flight)
        return FM_OK;
    pthread_join(flight->thread, NULL);
    file->flight = NULL;
    // Somebody may have looked meanwhile and found another version than was known here.
    file->version = file->version == flight->began ? flight->version : FM_FS_VOLUME_UNKNOWN;
    for (size_t i = 0; i < flight->count; i++) {
        fm_fs_cache_drop(flight->mount->cache, flight->ino, flight->extents[i].offset,
                         flight->extents[i].size);
        fm_base_mem_free(flight->extents[i].bytes);
    }
    __atomic_sub_fetch(&flight->mount->dirty, flight->bytes, __ATOMIC_RELAXED);
    fm_status status = flight->status < 0 ? fm_base_error_set(flight->status, "%s", flight->message) : FM_OK;
    fm_base_mem_free(flight->extents);
    fm_base_mem_free(flight);
    return status;
}

int fm_fs_mount_behind_has(const struct fm_fs_mount_file *file, uint64_t offset, size_t size, size_t read)
{
    return file->flight &&
           fm_fs_mount_extents_have(file->flight->extents, file->flight->count, offset, size, read);
}

uint64_t fm_fs_mount_behind_reach(const struct fm_fs_mount_file *file)
{
    if (!file->flight)
        return 0;
    const struct fm_fs_mount_extent *last = &file->flight->extents[file->flight->count - 1];
    return last->offset + last->size;
}
