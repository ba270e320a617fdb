// What the services of a cluster in this process count.
#include <stdio.h>

#include "fs_cluster_process.h"
#include "manager.h"
#include "metrics.h"
#include "storage.h"

/* Manager */

static void write_chains(const fm_fs_routing *routing, struct fm_fs_metrics_text *text)
{
    uint64_t whole = 0;
    uint64_t degraded = 0;
    uint64_t down = 0;
    for (uint32_t c = 0; c < routing->chain_count; c++) {
        const fm_fs_chain *chain = &routing->chains[c];
        uint32_t serving = 0;
        for (uint32_t m = 0; m < chain->count; m++)
            serving += chain->members[m].state == FM_FS_SERVING;
        whole += serving == chain->count;
        degraded += serving > 0 && serving < chain->count;
        down += serving == 0;
    }
    fm_fs_metrics_begin(text, "chains", "gauge",
                        "Chains: whole (all replicas serve), degraded (some do), down (none does).");
    fm_fs_metrics_value(text, "chains", "state", "whole", (double)whole);
    fm_fs_metrics_value(text, "chains", "state", "degraded", (double)degraded);
    fm_fs_metrics_value(text, "chains", "state", "down", (double)down);
    fm_fs_metrics_one(text, "nodes", "gauge", "Nodes that are known.", (double)routing->node_count);
    fm_fs_metrics_one(text, "routing_version", "gauge", "Of the cluster's state, which each change raises.",
                      (double)routing->version);
}

static void write_manager(const fm_fs_manager *manager, struct fm_fs_metrics_text *text)
{
    int primary = fm_fs_manager_is_primary(manager);
    fm_fs_metrics_one(text, "manager_primary", "gauge", "1: this manager leads.", primary);
    if (primary)
        write_chains(fm_fs_manager_routing(manager), text);
}

/* Storage */

struct column {
    const char *name, *help;
    size_t offset; // in fm_fs_storage_counts
};

#define COLUMN(field, help)                                                     \
    {                                                                           \
        "storage_" #field "_total", help, offsetof(fm_fs_storage_counts, field) \
    }

static const struct column columns[] = {
    COLUMN(reads, "Reads that were asked for."),
    COLUMN(dirty_reads, "Reads that asked the tail, because a change was pending."),
    COLUMN(updates, "Changes that were asked for."),
    COLUMN(resumed, "Changes that were asked for again."),
    COLUMN(driven, "Pending changes that were brought to their end after the chain had changed."),
    COLUMN(synced, "Chunks sent to fill a replica."),
    COLUMN(repaired, "Chunks fetched from another replica because they had rotted."),
    COLUMN(rotten, "Chunks found rotten."),
    COLUMN(forgotten, "Removed chunks that were forgotten."),
};

static void write_storage(const struct fm_fs_cluster_process *process, struct fm_fs_metrics_text *text)
{
    char node[16];
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++) {
        fm_fs_metrics_begin(text, columns[i].name, "counter", columns[i].help);
        for (uint32_t s = 0; s < process->storage_count; s++) {
            const fm_fs_storage_counts counts = fm_fs_storage_count(process->storage[s]);
            uint64_t value;
            memcpy(&value, (const char *)&counts + columns[i].offset, sizeof value);
            snprintf(node, sizeof node, "%u", process->nodes[s]);
            fm_fs_metrics_value(text, columns[i].name, "node", node, (double)value);
        }
    }
}

static const fm_fs_storage *owner(const struct fm_fs_cluster_process *process, uint32_t target)
{
    for (uint32_t s = 0; s < process->storage_count; s++)
        if (fm_fs_storage_health(process->storage[s], target) != FM_ERR_NOT_FOUND)
            return process->storage[s];
    return NULL;
}

static void write_targets(const struct fm_fs_cluster_process *process, struct fm_fs_metrics_text *text)
{
    static const char *const names[] = {"target_up", "target_used_bytes", "target_capacity_bytes"};
    static const char *const helps[] = {"1: the target can be used.", "Bytes of blocks that chunks use.",
                                        "The most that the target may hold."};
    char label[16];
    for (int i = 0; i < 3; i++) {
        fm_fs_metrics_begin(text, names[i], "gauge", helps[i]);
        for (uint32_t t = 0; t < process->target_count; t++) {
            const fm_fs_storage *storage = owner(process, process->targets[t]);
            const fm_fs_store *store = storage ? fm_fs_storage_store(storage, process->targets[t]) : NULL;
            double up = storage && fm_fs_storage_health(storage, process->targets[t]) == FM_OK;
            double used = store ? (double)fm_fs_store_used_bytes(store) : 0;
            snprintf(label, sizeof label, "%u", process->targets[t]);
            fm_fs_metrics_value(text, names[i], "target", label,
                                i == 0   ? up
                                : i == 1 ? used
                                         : (double)process->capacities[t]);
        }
    }
}

void fm_fs_cluster_metrics_write(const struct fm_fs_cluster_process *process, struct fm_fs_metrics_text *text)
{
    if (process->manager)
        write_manager(process->manager, text);
    if (process->storage_count) {
        write_storage(process, text);
        write_targets(process, text);
    }
}
