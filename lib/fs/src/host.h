/**
 * @file host.h
 * The runtime for real: nodes of a cluster in one process and one thread, on a loop of lib/net, with calls between
 * them that copy nothing, calls to other processes over authenticated connections, and one thread for the
 * transactions of the key-value store, which block.
 */
#ifndef FATHOM_HOST_H
#define FATHOM_HOST_H

#include "fs_runtime.h"

#include "fathom/net.h"

typedef struct fm_fs_host fm_fs_host;

// `tls` is for connections over the network, NULL for none. `kv` may be NULL; then no manager runs here. All stay the
// caller's.
fm_status fm_fs_host_new(const fm_net_key *key, fm_net_tls *tls, fm_fs_kv *kv, fm_fs_host **out_host);
// No callback comes any more. Then free the services of its nodes.
void fm_fs_host_end(fm_fs_host *host);
// After the services of its nodes have been freed, and before their disks are closed.
void fm_fs_host_free(fm_fs_host *host);
fm_net_loop *fm_fs_host_loop(fm_fs_host *host);
fm_fs_pool *fm_fs_host_pool(fm_fs_host *host); // of what arrives
// Others reach all nodes of this host at the address; those on this machine also at `local`, a UNIX socket, where one can
// be made (NULL: not asked for). FM_ERR_* of fm_net_loop_listen().
fm_status fm_fs_host_listen(fm_fs_host *host, const char *address, const char *local);
const char *fm_fs_host_address(const fm_fs_host *host); // "" when nothing listens
const char *fm_fs_host_announcement(
    const fm_fs_host *host); // what others are told (host_address.h), and fm_fs_host_know()
// A node of this host; `serve` takes its requests (NULL: it only calls). Lives as long as the host.
fm_status fm_fs_host_node(fm_fs_host *host, uint32_t node,
                          void (*serve)(void *context, fm_fs_request *request), void *context,
                          fm_fs_runtime **out_runtime);
// Where a node that is elsewhere can be reached.
fm_status fm_fs_host_know(fm_fs_host *host, uint32_t node, const char *address);

#endif
