/** @file mount_home.h  A cluster, and up to two mounts of it in processes of their own, for tests by system calls. */
#ifndef FM_MOUNT_HOME_H
#define FM_MOUNT_HOME_H

#include "cluster_home.h"
#include "fathom/fs_mount.h"

struct mount_home {
    struct home home;
    char dirs[2][440];
    pid_t pids[2];
};

/** In memory, where /dev/shm has room: what is tested is what the mount does, not how fast the disk flushes. To be called
 *  first in main(). */
void mount_home_in_memory(void);
/** Starts a cluster and `count` mounts. Skips the test where nothing can be mounted. */
void mount_home_open(struct mount_home *home, int count, const fm_fs_mount_options *options);
void mount_home_start(struct mount_home *home, int mount, const fm_fs_mount_options *options);
/** Ends a mount's process in this way; SIGKILL leaves a dead mount, which is taken away as well. */
void mount_home_stop(struct mount_home *home, int mount, int how);
void mount_home_close(struct mount_home *home);
/** The path of a name on a mount; of the last eight calls. */
const char *mount_path(const struct mount_home *home, int mount, const char *name);
/** Opens such a path, and fails the test where it cannot. */
int mount_file(const struct mount_home *home, int mount, const char *name, int flags);

#endif
