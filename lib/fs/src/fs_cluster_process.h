// What of a cluster is in this process, for whoever looks at it from the loop's thread.
#ifndef FATHOM_FS_CLUSTER_PROCESS_H
#define FATHOM_FS_CLUSTER_PROCESS_H

#include "fathom/fs_cluster.h"
#include "manager.h"
#include "metrics.h"
#include "storage.h"

struct fm_fs_cluster_process {
    const fm_fs_manager *manager; // NULL: none
    uint32_t storage_count;
    const fm_fs_storage *storage[FM_FS_CLUSTER_TARGETS_MAX];
    uint32_t nodes[FM_FS_CLUSTER_TARGETS_MAX]; // of each
    uint32_t target_count;
    uint32_t targets[FM_FS_CLUSTER_TARGETS_MAX];
    uint64_t capacities[FM_FS_CLUSTER_TARGETS_MAX]; // of each
};

void fm_fs_cluster_metrics_write(const struct fm_fs_cluster_process *process,
                                 struct fm_fs_metrics_text *text);

#endif
