/** @file cluster_home.h  An embedded cluster in a process of its own, for tests of what stands on it. */
#ifndef FM_CLUSTER_HOME_H
#define FM_CLUSTER_HOME_H

#include <sys/types.h>

#include "fathom/fs_volume.h"

struct home {
    char dir[400];
    pid_t pid;
};

/** How large the targets of those that are made next are; 0: as usual. */
extern uint64_t home_target_bytes;

/** Makes a cluster of two chains of one target each and starts it. */
void home_open(struct home *home);
/** Ends its process in this way and starts another. */
void home_restart(struct home *home, int how);
void home_close(struct home *home);
/** Checks the names and that nothing is wrong with them. */
fm_fs_meta_census home_check(fm_fs_volume *volume);

#endif
