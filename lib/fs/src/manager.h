/**
 * @file manager.h
 * The cluster manager: keeps who is there and how the chains stand in a key-value store, and changes chains as
 * their targets come and go. Any number of managers may run on one store; one of them is the primary.
 *
 * **Primary.** A lease record in the store names the primary and its epoch, and the primary counts it up. A manager
 * that has seen the record unchanged for twice the lease by its own clock takes over with the next epoch; one that
 * has not counted it up for one lease does not call itself primary any more. So no two clocks are ever compared;
 * they may differ by anything, as long as none runs at twice the speed of another. Whatever a manager writes it
 * writes in a transaction that finds its own epoch in the record, so a deposed one cannot write.
 *
 * **Targets.** Who was not heard of for `node_timeout_ns` is down. That is more than twice a storage service's lease,
 * so it has stopped reading by then. After a take-over, or when its own lease had lapsed and it turned heartbeats
 * away, every node counts as heard of. A target whose disk is not the one that was complete (another identity) is never
 * trusted to be complete.
 */
#ifndef FATHOM_MANAGER_H
#define FATHOM_MANAGER_H

#include "cluster.h"

// Whether the store holds a cluster's state.
fm_status fm_fs_manager_has_state(fm_fs_kv_tx *tx, int *out_has);
// Puts a chain's record into the store of a cluster that no manager runs yet.
fm_status fm_fs_manager_put_chain(fm_fs_kv_tx *tx, const fm_fs_chain *chain);

typedef struct fm_fs_manager fm_fs_manager;

typedef struct fm_fs_manager_options {
    int64_t lease_ns;
    int64_t tick_ns; // between two looks at the lease and the chains
    int64_t node_timeout_ns;
} fm_fs_manager_options;

fm_status fm_fs_manager_new(fm_fs_runtime *runtime, const fm_fs_manager_options *options,
                            fm_fs_manager **out_manager);
void fm_fs_manager_free(fm_fs_manager *manager);
// Takes a request with a method from FM_FS_HEARTBEAT on.
void fm_fs_manager_serve(fm_fs_manager *manager, fm_fs_request *request);
int fm_fs_manager_is_primary(const fm_fs_manager *manager);
const fm_fs_routing *fm_fs_manager_routing(const fm_fs_manager *manager); // what the primary knows

#endif
