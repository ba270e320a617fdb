/**
 * @file fs_mount.h
 * A cluster's files under a directory of this machine, through FUSE (libfuse3, its low-level interface).
 *
 *     FM_TRY(fm_fs_mount_open("/data/c", "/mnt/c", NULL, &mount));
 *     FM_TRY(fm_fs_mount_run(mount));          // until it is unmounted, or SIGINT, SIGTERM or SIGHUP come
 *     fm_fs_mount_close(mount);
 *
 * Semantics are POSIX's, as fathom/fs_meta.h has them; the kernel checks permissions, and the names check them again.
 * Between mounts: names and attributes are asked for whenever they are used, so what one mount has done the others see at
 * once; of an open descriptor the attributes are a second old at most.
 *
 * Contents are close-to-open: who opens a file, or gets a lock on it, sees all that was written before it was closed, synced
 * or unlocked elsewhere. The kernel keeps the bytes of a file that nobody else has changed since, and the mount, in memory of
 * its own, what was read of the version that the file still has. O_DIRECT reads ask the cluster. What is written waits in
 * the mount for more (16 MiB a file, 5 s, 256 MiB in all) and is durable when fsync() or close() has returned; a failure
 * (ENOSPC, EDQUOT, EIO) is told there, once to each descriptor, and by write() itself from then on. O_DIRECT and O_SYNC
 * writes do not wait. A time that is set, a stat() and reads see what waits, too.
 *
 * O_APPEND writes behind what the file has on any mount, for whoever has opened or locked it since others wrote; appends of
 * two mounts at once, without a lock, may overwrite each other, as on NFS.
 *
 * A file that is removed lives as long as it is open, on whichever mounts. Locks (flock, fcntl) hold between mounts; waiting
 * ones are woken at once on the same machine, and within 100 ms elsewhere; deadlocks are not looked for.
 *
 * Programs may also read and write its files through memory that they share with this process: hf3fs_usrbio.h, 3FS's
 * interface. With `serve_cluster` such reads go from the disk to the program with one copy and no other process between.
 *
 * Threads: libfuse's, as many as requests need; one more renews the lease on locks and removed files, writes what has
 * waited and collects what removals leave; one tries for locks; one serves shared memory, with five for what it would wait
 * for; with `serve_cluster` one runs the cluster, otherwise with `metrics` one answers scrapers. Children of a process that
 * has mounted do not use it.
 */
#ifndef FATHOM_FS_MOUNT_H
#define FATHOM_FS_MOUNT_H

#include <sys/ioctl.h>

#include "fathom/fs_volume.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Zero it and set `size`; what is 0 has its default. */
typedef struct fm_fs_mount_options {
    size_t size;
    uint32_t connections; /**< to the cluster. 8 */
    int allow_other; /**< 1: other users may look, too; who is not root needs user_allow_other in fuse.conf */
    int read_only;
    /** How long a mount that is killed, or stopped, keeps its locks and the removed files that it has open. One that was away
     *  for so long fails with EIO what was locked by it, until it is opened anew. 60000 */
    uint32_t lease_ms;
    int serve_cluster; /**< 1: the cluster is not up; it runs in this process, as by fm_fs_cluster_up() */
    /** Memory for what was read, at most: for when the kernel has dropped its pages and asks again. At least 2 MiB; 256 MiB */
    uint64_t cache_bytes;
    /** Answers GET /metrics at this TCP address, in Prometheus' text, as fm_fs_cluster_metrics() does; with `serve_cluster` of
     *  the cluster, too. NULL or "": nobody. Borrowed. */
    const char *metrics;
    /** For so long the kernel answers for names that it was told, without asking: faster, and what other mounts remove, rename
     *  or put in a name's place may be seen as late. Opening a file that they have removed finds what is there now. 0: not */
    uint32_t names_ms;
} fm_fs_mount_options;

typedef struct fm_fs_mount fm_fs_mount;

/**
 * ioctl() on whatever is open on a mount: its layout; and on a directory, how files that are made in it from now on are laid
 * out (by its owner; `chunk_bytes` and `stripe` of 0 stay as they are, `chains` and `base` are not taken; ENOTDIR: a file's
 * layout is fixed when it is made). FS_IOC_GETFLAGS and FS_IOC_SETFLAGS know FS_IMMUTABLE_FL.
 */
#define FM_FS_MOUNT_LAYOUT_GET _IOR(0xf7, 1, fm_fs_layout)
#define FM_FS_MOUNT_LAYOUT_SET _IOW(0xf7, 2, fm_fs_layout)

/** Mounts the cluster in `cluster` on the directory `dir`. FM_ERR_UNSUPPORTED (built without FUSE), FM_ERR_UNAVAILABLE
 *  (the machine has no FUSE, or does not let this process mount), and as fm_fs_volume_open(). */
FM_API FM_MUST_USE fm_status fm_fs_mount_open(const char *cluster, const char *dir,
                                              const fm_fs_mount_options *options, fm_fs_mount **out_mount);
/** Serves. FM_ERR_IO. */
FM_API FM_MUST_USE fm_status fm_fs_mount_run(fm_fs_mount *mount);
/** Where metrics are, the mount's; with the port that was chosen for 0. NULL: nowhere. */
FM_API const char *fm_fs_mount_metrics(const fm_fs_mount *mount);
/** Unmounts, if it is still mounted, and ends it; NULL is allowed. */
FM_API void fm_fs_mount_close(fm_fs_mount *mount);

#ifdef __cplusplus
}
#endif
#endif
