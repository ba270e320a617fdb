// What the cluster's services and its clients share: the directory.
#ifndef FATHOM_FS_CLUSTER_PRIVATE_H
#define FATHOM_FS_CLUSTER_PRIVATE_H

#include "cluster.h"
#include "fathom/fs_cluster.h"
#include "fathom/net.h"

enum {
    FM_FS_CLUSTER_PATH_MAX = 512,
    FM_FS_MANAGERS_MAX = 9,
    FM_FS_FIRST_STORAGE = 101, // nodes below are managers
    FM_FS_CLIENT_NODE = 0x7fffffff
};

struct fm_fs_client;
struct fm_net_loop;
// A client in the cluster's own loop, whose calls to the nodes of this process copy nothing. Once; it ends with the cluster.
// Nobody runs the loop meanwhile.
fm_status fm_fs_cluster_client(fm_fs_cluster *cluster, struct fm_fs_client **out_client,
                               struct fm_net_loop **out_loop);
// What it counts, for Prometheus. In its loop.
struct fm_fs_metrics_text;
void fm_fs_cluster_metrics_text(const fm_fs_cluster *cluster, struct fm_fs_metrics_text *text);

struct fm_fs_cluster_conf {
    uint32_t targets, replicas, nodes;
    uint64_t target_bytes;
};

struct fm_fs_cluster_managers {
    uint32_t count;
    uint32_t nodes[FM_FS_MANAGERS_MAX];
    char addresses[FM_FS_MANAGERS_MAX][FM_FS_ADDRESS_MAX + 1];
};

fm_status fm_fs_cluster_conf_read(const char *dir, struct fm_fs_cluster_conf *out_conf);
fm_status fm_fs_cluster_conf_write(const char *dir, const struct fm_fs_cluster_conf *conf);
fm_status fm_fs_cluster_managers_read(const char *dir, struct fm_fs_cluster_managers *out_managers);
// Files of certificates as an option gives them, NULL for none; and what the directory's file `tls` says, which alone has the
// last two.
struct fm_fs_cluster_tls {
    const char *cert, *key, *ca;
    const char *crl, *name; // as in fm_net_tls_options
};
// The TLS of these files, or where none is given of those that the directory names; NULL where it names none. What is revoked
// and how services are called is the directory's in both cases. The caller frees it.
fm_status fm_fs_cluster_tls_open(const char *dir, const struct fm_fs_cluster_tls *given,
                                 fm_net_tls **out_tls);
// Checks the files, and writes where they are. Without any there is nothing to do.
fm_status fm_fs_cluster_tls_write(const char *dir, const struct fm_fs_cluster_tls *given);
// `out_path` has FM_FS_CLUSTER_PATH_MAX bytes. FM_ERR_LIMIT.
fm_status fm_fs_cluster_path(const char *dir, const char *name, char *out_path);
// The address of a socket in the directory, a whole path: who reads it may be elsewhere. It has FM_FS_ADDRESS_MAX + 1 bytes.
fm_status fm_fs_cluster_socket(const char *dir, const char *name, char *out_address);

static inline uint32_t fm_fs_cluster_node_of(const struct fm_fs_cluster_conf *conf, uint32_t target)
{
    return FM_FS_FIRST_STORAGE + (target - 1) / (conf->targets / conf->nodes);
}

#endif
