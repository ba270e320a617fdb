// The files that are open here: how often, what the kernel's pages of them rest on, and who keeps removed ones.
#include "mount_fuse.h"

#include <fcntl.h>

#include "fathom/clock.h"

// What was written waits here for more so long, at most: what the kernel's own write-back waits, too.
static const uint64_t age_ns = (uint64_t)5 * 1000000000;

// With the mount's lock held.
static struct fm_fs_mount_file *find(fm_fs_mount *mount, uint64_t ino)
{
    struct fm_fs_mount_file *file = mount->files[ino % FM_FS_MOUNT_BUCKETS];
    while (file && file->ino != ino)
        file = file->next;
    return file;
}

struct fm_fs_mount_file *fm_fs_mount_use(fm_fs_mount *mount, uint64_t ino)
{
    pthread_mutex_lock(&mount->lock);
    struct fm_fs_mount_file *file = find(mount, ino);
    if (file)
        file->uses++;
    pthread_mutex_unlock(&mount->lock);
    return file;
}

static struct fm_fs_mount_paged *paged(fm_fs_mount *mount, uint64_t ino)
{
    return &mount->paged[ino % FM_FS_MOUNT_PAGED];
}

static struct fm_fs_mount_file *make(fm_fs_mount *mount, uint64_t ino)
{
    pthread_rwlockattr_t attributes;
    struct fm_fs_mount_file *file = fm_base_mem_zalloc(1, sizeof *file);
    if (!file)
        return NULL;
    file->ino = ino;
    file->version = paged(mount, ino)->ino == ino ? paged(mount, ino)->version : FM_FS_VOLUME_UNKNOWN;
    pthread_rwlockattr_init(&attributes);
    // Otherwise readers that never cease would keep a writer out for ever.
    pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&file->lock, &attributes);
    pthread_rwlockattr_destroy(&attributes);
    struct fm_fs_mount_file **bucket = &mount->files[ino % FM_FS_MOUNT_BUCKETS];
    file->next = *bucket;
    *bucket = file;
    return file;
}

static void end(struct fm_fs_mount_file *file)
{
    if (fm_fs_mount_behind_end(file) < 0) // nobody is left to be told
        file->dirty = 0;
    for (size_t i = 0; i < file->count; i++)
        fm_base_mem_free(file->extents[i].bytes);
    fm_base_mem_free(file->extents);
    pthread_rwlock_destroy(&file->lock);
    fm_base_mem_free(file);
}

void fm_fs_mount_leave(fm_fs_mount *mount, struct fm_fs_mount_file *file)
{
    pthread_mutex_lock(&mount->lock);
    int last = --file->uses == 0;
    if (last) {
        struct fm_fs_mount_file **at = &mount->files[file->ino % FM_FS_MOUNT_BUCKETS];
        while (*at != file)
            at = &(*at)->next;
        *at = file->next;
        mount->held -= file->held ? 1u : 0;
        *paged(mount, file->ino) = (struct fm_fs_mount_paged){file->ino, file->version};
    }
    pthread_mutex_unlock(&mount->lock);
    if (!last)
        return;
    // If it cannot be told, the lease tells it later.
    if (file->held && fm_fs_meta_release(mount->meta, mount->client, file->ino) < 0)
        file->held = 0;
    end(file);
}

fm_status fm_fs_mount_file_open(fm_fs_mount *mount, const fm_fs_node *node, int flags,
                                struct fm_fs_mount_handle **out_handle, int *out_keep)
{
    struct fm_fs_mount_handle *handle = fm_base_mem_zalloc(1, sizeof *handle);
    if (!handle)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for an open file");
    pthread_mutex_lock(&mount->lock);
    struct fm_fs_mount_file *file = find(mount, node->ino);
    if (!file)
        file = make(mount, node->ino);
    if (file) {
        file->opens++;
        file->uses++;
    }
    pthread_mutex_unlock(&mount->lock);
    if (!file) {
        fm_base_mem_free(handle);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for an open file");
    }
    pthread_rwlock_wrlock(&file->lock);
    file->size_max = fm_fs_meta_size_max(&node->layout);
    *handle = (struct fm_fs_mount_handle){.file = file,
                                          .error_turn = file->error_turn,
                                          .direct = (flags & O_DIRECT) != 0,
                                          .dropping = FM_FS_VOLUME_UNKNOWN};
    *out_keep = file->version == node->version;
    // The kernel drops the pages after it has the answer; until it is known to have done so others must not keep them.
    if (!*out_keep) {
        file->version = FM_FS_VOLUME_UNKNOWN;
        handle->dropping = node->version;
    }
    pthread_rwlock_unlock(&file->lock);
    *out_handle = handle;
    return FM_OK;
}

void fm_fs_mount_handle_used(struct fm_fs_mount_handle *handle)
{
    if (__atomic_load_n(&handle->dropping, __ATOMIC_RELAXED) == FM_FS_VOLUME_UNKNOWN)
        return;
    pthread_rwlock_wrlock(&handle->file->lock);
    if (handle->file->version == FM_FS_VOLUME_UNKNOWN)
        handle->file->version = handle->dropping;
    __atomic_store_n(&handle->dropping, FM_FS_VOLUME_UNKNOWN, __ATOMIC_RELAXED);
    pthread_rwlock_unlock(&handle->file->lock);
}

void fm_fs_mount_file_close(fm_fs_mount *mount, struct fm_fs_mount_handle *handle)
{
    pthread_mutex_lock(&mount->lock);
    handle->file->opens--;
    pthread_mutex_unlock(&mount->lock);
    fm_fs_mount_leave(mount, handle->file);
    fm_base_mem_free(handle);
}

void fm_fs_mount_files_end(fm_fs_mount *mount)
{
    for (size_t i = 0; i < FM_FS_MOUNT_BUCKETS; i++) {
        struct fm_fs_mount_file *next;
        for (struct fm_fs_mount_file *file = mount->files[i]; file; file = next) {
            next = file->next;
            if (fm_fs_mount_flush(mount, file) < 0) // nobody is left to be told
                file->dirty = 0;
            end(file);
        }
        mount->files[i] = NULL;
    }
}

/* Removed files */

// Holds a file that has no name any more, once.
static fm_status hold(fm_fs_mount *mount, struct fm_fs_mount_file *file)
{
    fm_fs_node node;
    pthread_mutex_lock(&mount->lock);
    int wanted = !file->held && file->opens;
    file->held = file->held || wanted;
    mount->held += wanted ? 1u : 0;
    pthread_mutex_unlock(&mount->lock);
    if (!wanted)
        return FM_OK;
    fm_status status = fm_fs_mount_renew(mount);
    if (status == FM_OK)
        status = fm_fs_meta_hold(mount->meta, mount->client, file->ino, &node);
    if (status < 0) {
        pthread_mutex_lock(&mount->lock);
        file->held = 0;
        mount->held--;
        pthread_mutex_unlock(&mount->lock);
    }
    return status;
}

fm_status fm_fs_mount_keep(fm_fs_mount *mount, uint64_t parent, const char *name)
{
    fm_fs_node node;
    if (fm_fs_meta_lookup(mount->meta, NULL, parent, name, &node) < 0 || node.nlink != 1)
        return FM_OK; // the removal itself says what is wrong
    struct fm_fs_mount_file *file = fm_fs_mount_use(mount, node.ino);
    if (!file)
        return FM_OK;
    fm_status status = hold(mount, file);
    fm_fs_mount_leave(mount, file);
    return status;
}

/* Once a second */

static void tend(fm_fs_mount *mount, struct fm_fs_mount_file *file)
{
    fm_fs_node node;
    pthread_rwlock_rdlock(&file->lock);
    int old = file->dirty && fm_base_clock_ns() - file->dirty_ns >= age_ns;
    int unsettled = file->unsettled && fm_fs_mount_behind_is_over(file);
    pthread_rwlock_unlock(&file->lock);
    if (old && fm_fs_mount_flush(mount, file) < 0) // remembered for who has it open
        return;
    if (unsettled && !old) {
        pthread_rwlock_wrlock(&file->lock);
        fm_status status = fm_fs_mount_settle_locked(mount, file);
        pthread_rwlock_unlock(&file->lock);
        if (status < 0)
            return;
    }
    if (fm_fs_meta_node(mount->meta, file->ino, &node) == FM_OK && node.nlink == 0 &&
        hold(mount, file) < 0) // tried again a second later
        return;
}

// The file of a bucket with the next higher number, for use.
static struct fm_fs_mount_file *next_in(fm_fs_mount *mount, size_t bucket, uint64_t after)
{
    struct fm_fs_mount_file *next = NULL;
    pthread_mutex_lock(&mount->lock);
    for (struct fm_fs_mount_file *file = mount->files[bucket]; file; file = file->next)
        if (file->ino > after && (!next || file->ino < next->ino))
            next = file;
    if (next)
        next->uses++;
    pthread_mutex_unlock(&mount->lock);
    return next;
}

void fm_fs_mount_tend(fm_fs_mount *mount)
{
    for (size_t i = 0; i < FM_FS_MOUNT_BUCKETS; i++) {
        uint64_t ino = 0;
        struct fm_fs_mount_file *file;
        while ((file = next_in(mount, i, ino)) != NULL) {
            ino = file->ino;
            tend(mount, file);
            fm_fs_mount_leave(mount, file);
        }
    }
}
