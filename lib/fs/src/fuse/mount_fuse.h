/**
 * @file mount_fuse.h
 * A mount and its requests. Inode numbers are the kernel's, too, and are never used again, so no table of nodes is kept;
 * only of the files that are open here.
 */
#ifndef FATHOM_MOUNT_FUSE_H
#define FATHOM_MOUNT_FUSE_H

#define FUSE_USE_VERSION 312
#include <fuse_lowlevel.h>
#include <pthread.h>

#include "fathom/fs_cluster.h"
#include "fathom/fs_mount.h"
#include "fathom/mem.h"

#include "mount_cache.h"
#include "volume.h"

enum {
    FM_FS_MOUNT_BUCKETS = 256,
    FM_FS_MOUNT_GROUPS = 64,
    // Files of which it is remembered what the kernel's pages of them rest on: 16 bytes each.
    FM_FS_MOUNT_PAGED = 1 << 16,
    // For so many seconds the kernel answers for attributes itself. A path is looked up each time, unless names_ms is given.
    FM_FS_MOUNT_ATTR_S = 1
};

// Bytes that were written and are not in the volume yet.
struct fm_fs_mount_extent {
    uint64_t offset;
    size_t size, room;
    uint8_t *bytes;
};

struct fm_fs_mount_flight;

// A file that is open here.
struct fm_fs_mount_file {
    struct fm_fs_mount_file *next; // in its bucket; this and the next three with the mount's lock
    uint64_t ino;
    unsigned opens, uses; // an opening is a use, too
    int held;             // its last name was removed; it is held by this mount
    // All below. Held for reading while bytes are read, so that they do not move from here to the volume meanwhile.
    pthread_rwlock_t lock;
    uint64_t version;                   // that the kernel's pages have, or unknown
    struct fm_fs_mount_extent *extents; // in order, with gaps between them
    size_t count, capacity, dirty;
    uint64_t size_max; // that its layout allows
    uint64_t end;      // while `ends`: where the file ended when the first of the extents was appended
    int ends;
    uint64_t dirty_ns;                 // since when
    struct fm_fs_mount_flight *flight; // what is on its way to the volume, without these
    int unsettled;                     // the last change has not been told
    int through;                       // a flush has failed: from now on writes wait for the volume
    int lost;                          // its locks went with the lease: it must be opened anew; atomic
    int locked, flocked;               // had a lock here of fcntl(), of flock(); atomic
    fm_status error;                   // of the last flush that failed,
    unsigned error_turn;               // and how many have
};

// One opening of it.
struct fm_fs_mount_handle {
    struct fm_fs_mount_file *file;
    unsigned error_turn; // up to where errors were told
    int direct;          // O_DIRECT
    uint64_t dropping;   // the version that the kernel's pages have once it has dropped those it had; atomic
};

// What the kernel's pages of a file that is not open rest on.
struct fm_fs_mount_paged {
    uint64_t ino, version;
};

struct fm_fs_mount {
    fm_fs_mount_options options;
    fm_fs_volume *volume;
    fm_fs_meta *meta;
    uint64_t client; // in whose name removed open files are held
    struct fuse_session *session;
    int mounted, signals;
    pthread_t keeper;
    int keeping;
    pthread_mutex_t lock; // all below
    pthread_cond_t wake;
    int ending;
    uint64_t renewed_ns; // the lease; atomic
    unsigned held;
    struct fm_fs_mount_file *files[FM_FS_MOUNT_BUCKETS];
    struct fm_fs_mount_paged *paged; // by ino mod FM_FS_MOUNT_PAGED
    size_t dirty;                    // of all files; atomic
    fm_fs_cache *cache;              // what was read
    struct fm_fs_mount_wait *waits;  // for locks, in order of their coming
    unsigned wait_count;
    pthread_cond_t waiting;
    pthread_t attendant; // tries for them
    int attending;
    uint32_t *word;  // counted up when a lock is let go; atomic
    int word_shared; // with all mounts of this cluster
    // mount_ring.c
    struct fm_fs_hub *hub;
    uint32_t device[2];     // major and minor number, by which its files are known
    fm_fs_cluster *cluster; // that runs in this process, or NULL
    pthread_t cluster_thread;
    int cluster_runs;
    // mount_count.c
    struct fm_fs_mount_counts *counts;
    struct fm_fs_metrics *metrics;
    struct fm_net_loop *metrics_loop; // NULL: the cluster's
    pthread_t metrics_thread;
    int metrics_runs;
    // mount_move.c: reads in its thread, or NULL
    struct fm_fs_mover *mover;
    struct fm_net_loop *loop;
};

// Who asks, with the further groups of the asking process.
struct fm_fs_mount_who {
    fm_fs_who who;
    uint32_t groups[FM_FS_MOUNT_GROUPS];
};

// mount_fuse.c

fm_fs_mount *fm_fs_mount_of(fuse_req_t request);
void fm_fs_mount_who(fuse_req_t request, struct fm_fs_mount_who *out_who);
int fm_fs_mount_errno(fm_status status);
void fm_fs_mount_stat(const fm_fs_node *node, struct stat *out_stat);
void fm_fs_mount_entry(const fm_fs_mount *mount, const fm_fs_node *node, struct fuse_entry_param *out_entry);
void fm_fs_mount_reply_entry(fuse_req_t request, const fm_fs_node *node);
void fm_fs_mount_reply_status(fuse_req_t request, fm_status status);
fm_status fm_fs_mount_renew(fm_fs_mount *mount); // its lease

// mount_ring.c

fm_status fm_fs_mount_cluster_start(fm_fs_mount *mount, const char *cluster);
void fm_fs_mount_cluster_stop(fm_fs_mount *mount);
fm_status fm_fs_mount_rings_start(fm_fs_mount *mount, const char *dir);
// When the kernel asks this process nothing any more: closing what programs sent could wait for it.
void fm_fs_mount_rings_stop(fm_fs_mount *mount);
// Whether the ioctl is about rings; then it was answered. `room` is for the answer.
int fm_fs_mount_ring_ioctl(fuse_req_t request, unsigned command, size_t room);

// mount_open.c

// Opens a file whose node is `node`. `*out_keep`: the kernel's pages of it are still right.
fm_status fm_fs_mount_file_open(fm_fs_mount *mount, const fm_fs_node *node, int flags,
                                struct fm_fs_mount_handle **out_handle, int *out_keep);
// A request about the opening: the kernel has done what belongs to it.
void fm_fs_mount_handle_used(struct fm_fs_mount_handle *handle);
void fm_fs_mount_file_close(fm_fs_mount *mount, struct fm_fs_mount_handle *handle);
// The open file, for use until fm_fs_mount_leave(); NULL: it is not open here.
struct fm_fs_mount_file *fm_fs_mount_use(fm_fs_mount *mount, uint64_t ino);
void fm_fs_mount_leave(fm_fs_mount *mount, struct fm_fs_mount_file *file);
// Before a name is removed: if the node is open here and this is its last name, it is held.
fm_status fm_fs_mount_keep(fm_fs_mount *mount, uint64_t parent, const char *name);
// Ends what is still open, when the mount ends.
void fm_fs_mount_files_end(fm_fs_mount *mount);
// What is due once a second: old bytes go to the volume, files that others have removed are held.
void fm_fs_mount_tend(fm_fs_mount *mount);

// mount_buffer.c

// Takes bytes; they are in the volume at the next flush, or before. FM_ERR_NOMEM, or as a write to the volume.
fm_status fm_fs_mount_buffer_write(fm_fs_mount *mount, struct fm_fs_mount_file *file, const void *bytes,
                                   size_t size, uint64_t offset, int direct);
// Whether the volume alone cannot answer a read of which it gave `read` bytes: some are here, or the file's end is. With the
// file's lock.
int fm_fs_mount_buffer_has(const struct fm_fs_mount_file *file, uint64_t offset, size_t size, size_t read);
// The same at the end of the file, as the names or what waits here have it. Where the kernel believed it to be elsewhere, its
// pages are no longer known to be right: the next opening, or lock, drops them.
fm_status fm_fs_mount_buffer_append(fm_fs_mount *mount, struct fm_fs_mount_file *file, const void *bytes,
                                    size_t size, uint64_t believed, int direct, uint64_t *out_offset);
fm_status fm_fs_mount_buffer_read(fm_fs_mount *mount, struct fm_fs_mount_file *file, void *buffer,
                                  size_t size, uint64_t offset, size_t *out_read);
// Takes what is here to the volume and tells the time of the last change. A failure is remembered for all who have the
// file open; the bytes are gone then. The second one with the file's lock held for writing.
fm_status fm_fs_mount_flush(fm_fs_mount *mount, struct fm_fs_mount_file *file);
fm_status fm_fs_mount_flush_locked(fm_fs_mount *mount, struct fm_fs_mount_file *file, int settle);
// Tells the time of the last change, if it has not been told. With the file's lock held for writing.
fm_status fm_fs_mount_settle_locked(fm_fs_mount *mount, struct fm_fs_mount_file *file);
// A flush that tells the time only if others might look; otherwise that is done within a second (fm_fs_mount_tend()).
fm_status fm_fs_mount_sync(fm_fs_mount *mount, struct fm_fs_mount_file *file);
// The same of the file `ino`, if it is open here and has anything.
fm_status fm_fs_mount_flush_ino(fm_fs_mount *mount, uint64_t ino);
// The first failure that this opening has not been told of.
fm_status fm_fs_mount_error(struct fm_fs_mount_handle *handle);

// mount_behind.c: with the file's lock; for writing, but for those that only look.

fm_status fm_fs_mount_extents_write(fm_fs_mount *mount, uint64_t ino,
                                    const struct fm_fs_mount_extent *extents, size_t count,
                                    uint64_t *version);
// Sends the extents on their way. FM_ERR_NOMEM, FM_ERR_LIMIT: they are still here.
fm_status fm_fs_mount_behind_begin(fm_fs_mount *mount, struct fm_fs_mount_file *file);
// Waits for what is on its way, and says what became of it.
fm_status fm_fs_mount_behind_end(struct fm_fs_mount_file *file);
int fm_fs_mount_behind_is_over(const struct fm_fs_mount_file *file);
int fm_fs_mount_behind_has(const struct fm_fs_mount_file *file, uint64_t offset, size_t size, size_t read);
uint64_t fm_fs_mount_behind_reach(const struct fm_fs_mount_file *file); // its last byte's end, or 0

// mount_buffer.c
int fm_fs_mount_extents_have(const struct fm_fs_mount_extent *extents, size_t count, uint64_t offset,
                             size_t size, size_t read);

static inline struct fm_fs_mount_handle *fm_fs_mount_handle_of(const struct fuse_file_info *info)
{
    // NOLINTNEXTLINE(performance-no-int-to-ptr): FUSE hands it back so
    return (struct fm_fs_mount_handle *)(uintptr_t)info->fh;
}

// mount_count.c

fm_status fm_fs_mount_counts_new(struct fm_fs_mount_counts **out_counts); // a block of memory
// The requests are counted from now on.
void fm_fs_mount_count_requests(struct fuse_lowlevel_ops *ops);
// Instead of fuse_reply_err().
int fm_fs_mount_reply_error(fuse_req_t request, int err);
void fm_fs_mount_count_read(fm_fs_mount *mount, size_t bytes);
void fm_fs_mount_count_missed(fm_fs_mount *mount, size_t bytes);
void fm_fs_mount_count_written(fm_fs_mount *mount, size_t bytes);
// Scrapers are answered in the loop, which nobody runs meanwhile; NULL: in one of its own.
fm_status fm_fs_mount_metrics_start(fm_fs_mount *mount, struct fm_net_loop *loop);
void fm_fs_mount_metrics_stop(fm_fs_mount *mount);

// mount_move.c

// While nobody runs the loop.
fm_status fm_fs_mount_mover_start(fm_fs_mount *mount, struct fm_fs_client *client, struct fm_net_loop *loop);
void fm_fs_mount_mover_stop(fm_fs_mount *mount);
// Reads pieces of a file that is not inline, within its size. The caller is in the gate of the inode.
fm_status fm_fs_mount_fetch(fm_fs_mount *mount, const fm_fs_node *node,
                            const struct fm_fs_volume_piece *pieces, size_t count);

// mount_read.c

// Answers the request, or returns why it could not be done.
fm_status fm_fs_mount_read(fm_fs_mount *mount, const struct fm_fs_mount_handle *handle, fuse_req_t request,
                           size_t size, uint64_t offset);

// mount_locks.c

fm_status fm_fs_mount_locks_begin(fm_fs_mount *mount);
fm_status fm_fs_mount_locks_run(fm_fs_mount *mount);
void fm_fs_mount_locks_end(fm_fs_mount *mount); // after `ending` was set
void fm_fs_mount_locks_wake(fm_fs_mount *mount);
void fm_fs_mount_locks_free(fm_fs_mount *mount);
// The lease had ended: whoever has a file locked here may not have it any more, and is told so by EIO.
void fm_fs_mount_lose_locks(fm_fs_mount *mount);
// Lets go what the owner that `info` names has locked by fcntl(), or by flock().
void fm_fs_mount_unlock(fm_fs_mount *mount, struct fm_fs_mount_handle *handle,
                        const struct fuse_file_info *info, int flock);

// mount_names.c, mount_files.c, mount_locks.c, mount_ioctl.c: fill in their requests
void fm_fs_mount_names(struct fuse_lowlevel_ops *ops);
void fm_fs_mount_files(struct fuse_lowlevel_ops *ops);
void fm_fs_mount_locks(struct fuse_lowlevel_ops *ops);
void fm_fs_mount_ioctl(struct fuse_lowlevel_ops *ops);

#endif
