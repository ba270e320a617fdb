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
 * once. Bytes that the kernel keeps are dropped when a file is opened, and when its size or time has changed, so who opens
 * a file sees all that was written before it was closed elsewhere. write() has stored its bytes durably when it returns;
 * fsync() has nothing left to do. A file that is removed on the same mount lives as long as it is open; one that another
 * mount removes is gone (ESTALE). Locks (flock, fcntl) hold within one mount.
 *
 * Threads: libfuse's, as many as requests need; one more renews the lease on removed open files and collects what removals
 * leave. Children of a process that has mounted do not use it.
 */
#ifndef FATHOM_FS_MOUNT_H
#define FATHOM_FS_MOUNT_H

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
} fm_fs_mount_options;

typedef struct fm_fs_mount fm_fs_mount;

/** Mounts the cluster in `cluster` on the directory `dir`. FM_ERR_UNSUPPORTED (built without FUSE), FM_ERR_UNAVAILABLE
 *  (the machine has no FUSE, or does not let this process mount), and as fm_fs_volume_open(). */
FM_API FM_MUST_USE fm_status fm_fs_mount_open(const char *cluster, const char *dir,
                                              const fm_fs_mount_options *options, fm_fs_mount **out_mount);
/** Serves. FM_ERR_IO. */
FM_API FM_MUST_USE fm_status fm_fs_mount_run(fm_fs_mount *mount);
/** Unmounts, if it is still mounted, and ends it; NULL is allowed. */
FM_API void fm_fs_mount_close(fm_fs_mount *mount);

#ifdef __cplusplus
}
#endif
#endif
