// What the embedded cluster and its client share: the directory.
#ifndef FATHOM_FS_CLUSTER_PRIVATE_H
#define FATHOM_FS_CLUSTER_PRIVATE_H

#include "fathom/fs_cluster.h"

enum { FM_FS_CLUSTER_PATH_MAX = 512 };

struct fm_fs_cluster_conf {
    uint32_t targets, replicas; // chain c is targets c * replicas + 1 and those that follow
    uint64_t target_bytes;
};

fm_status fm_fs_cluster_conf_read(const char *dir, struct fm_fs_cluster_conf *out_conf);
// `out_path` has FM_FS_CLUSTER_PATH_MAX bytes. FM_ERR_LIMIT.
fm_status fm_fs_cluster_path(const char *dir, const char *name, char *out_path);

#endif
