/**
 * @file cluster_change.h
 * What an operator's change makes of a cluster: checked against how the cluster stands, and nothing else. A change that
 * is made already is no failure, so that one whose answer was lost may be asked for again.
 */
#ifndef FATHOM_CLUSTER_CHANGE_H
#define FATHOM_CLUSTER_CHANGE_H

#include "cluster.h"

typedef struct fm_fs_plan { // all 0: nothing is left to do
    int has_node;           // `node` is written
    fm_fs_node_info node;
    uint32_t node_removed; // 0: none
    int has_chain;         // `chain` is written
    int chain_removed;     // `chain` is taken away
    uint32_t old_version;  // of the chain; 0: it is new
    fm_fs_chain chain;
} fm_fs_plan;

// FM_ERR_NOT_FOUND, FM_ERR_EXISTS, FM_ERR_STATE, FM_ERR_ARG, FM_ERR_LIMIT, FM_ERR_FS_CONFLICT (the chain has another version by now).
fm_status fm_fs_change_plan(const fm_fs_routing *routing, const fm_fs_change *change, fm_fs_plan *out_plan);

#endif
