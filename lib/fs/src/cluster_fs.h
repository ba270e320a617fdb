// The back end of fathom/fs.h on a cluster, as its parts share it.
#ifndef FATHOM_CLUSTER_FS_H
#define FATHOM_CLUSTER_FS_H

#include "fathom/fs_volume.h"
#include "fathom/mem.h"
#include "fs_backend.h"

struct cluster_fs {
    fm_fs base;
    fm_fs_volume *volume;
    fm_fs_meta *meta;
    fm_fs_who who;
    fm_fs_user user;
    uint32_t umask;
};

struct cluster_file {
    fm_fs_file base;
    uint64_t ino;
    int written; // since the time of change was told
};

// cluster_fs.c

// The codes that fs.h promises for those that the names have.
fm_status fm_fs_cluster_said(fm_status status);

// cluster_queue.c

fm_status fm_fs_cluster_queue_open(fm_fs *fs, unsigned depth, fm_fs_queue **out_queue);

#endif
