// A client of a cluster, as its parts share it.
#ifndef FATHOM_FS_CHUNKS_PRIVATE_H
#define FATHOM_FS_CHUNKS_PRIVATE_H

#include "cluster_client.h"
#include "fs_cluster_private.h"
#include "host.h"

struct fm_fs_chunks {
    fm_fs_host *host;
    fm_fs_runtime *runtime;
    fm_fs_client *client;
    struct fm_fs_cluster_managers managers;
    uint32_t manager; // index of the one that answered last
    int done;

    // What fm_fs_chunks_state() shows.
    fm_fs_routing routing;
    fm_fs_node_report *reports;
    uint32_t report_count;
    fm_fs_cluster_chain *chains;
    fm_fs_cluster_node *nodes;
    fm_fs_cluster_target *targets;
};

// A number for a client that begins now: seconds since 1970 and, below 2^32, anything.
fm_status fm_fs_chunks_client_id(uint64_t *out_id);
// Runs the loop until chunks->done.
fm_status fm_fs_chunks_wait(fm_fs_chunks *chunks);

#endif
