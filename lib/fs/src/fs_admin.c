// What who runs a cluster asks its managers: how all stands, and changes.
#include <stdlib.h>

#include "fs_chunks_private.h"

// A manager that hangs is left for the next one after this.
static const int64_t try_ns = (int64_t)2 * 1000000000;
static const int64_t pause_ns = (int64_t)20 * 1000000;

struct ask {
    fm_fs_chunks *chunks;
    fm_fs_call call;
    fm_status status;
    fm_fs_buffer *payload;
};

static void ask_done(fm_fs_call *call)
{
    struct ask *ask = call->context;
    ask->status = call->status;
    // A refusal says why.
    if (call->status < 0 && call->reply_args_bytes > 0)
        ask->status = fm_base_error_set(call->status, "%.*s", (int)call->reply_args_bytes,
                                        (const char *)call->reply_args);
    ask->payload = fm_fs_buffer_ref(call->reply_payload);
    ask->chunks->done = 1;
}

static int is_unanswered(fm_status status)
{
    return status == FM_ERR_UNAVAILABLE || status == FM_ERR_TIMEOUT || status == FM_ERR_NET_CLOSED ||
           status == FM_ERR_NET_REFUSED;
}

// Tries one manager after the other until the primary answers, or the time is over. Whatever is asked may be asked twice.
static fm_status ask_managers(fm_fs_chunks *chunks, enum fm_fs_method method, const void *args,
                              size_t args_bytes, size_t reply_bytes, int64_t timeout_ms,
                              fm_fs_buffer **out_payload)
{
    int64_t deadline = fm_fs_now(chunks->runtime) + timeout_ms * 1000000;
    for (;;) {
        int64_t left = deadline - fm_fs_now(chunks->runtime);
        if (left <= 0)
            return fm_base_error_set(FM_ERR_TIMEOUT,
                                     "the cluster's manager does not answer; is the cluster up?");
        struct ask ask = {.chunks = chunks};
        ask.call = (fm_fs_call){.node = chunks->managers.nodes[chunks->manager],
                                .method = (uint16_t)method,
                                .timeout_ns = left < try_ns ? left : try_ns,
                                .args = args,
                                .args_bytes = args_bytes,
                                .reply_bytes = reply_bytes,
                                .done = ask_done,
                                .context = &ask};
        chunks->done = 0;
        fm_fs_call_start(chunks->runtime, &ask.call);
        FM_TRY(fm_fs_chunks_wait(chunks));
        if (!is_unanswered(ask.status)) {
            if (ask.status == FM_OK)
                *out_payload = ask.payload;
            return ask.status;
        }
        chunks->manager = (chunks->manager + 1) % chunks->managers.count;
        FM_TRY(fm_net_loop_progress(fm_fs_host_loop(chunks->host), pause_ns));
    }
}

/* How all stands */

static const char *name_of_local(uint8_t local)
{
    return local == FM_FS_UPTODATE ? "complete"
           : local == FM_FS_ONLINE ? "alive"
           : local == FM_FS_DOWN   ? "down"
                                   : "nothing";
}

static fm_fs_cluster_target *find_target(fm_fs_chunks *chunks, uint32_t count, uint32_t id)
{
    for (uint32_t i = 0; i < count; i++)
        if (chunks->targets[i].id == id)
            return &chunks->targets[i];
    return NULL;
}

static int by_id(const void *left, const void *right)
{
    const fm_fs_cluster_target *a = left;
    const fm_fs_cluster_target *b = right;
    return (a->id > b->id) - (a->id < b->id);
}

// Those of the chains, with what was heard of each, and those that were only heard of.
static uint32_t show_targets(fm_fs_chunks *chunks)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < chunks->routing.chain_count; i++) {
        const fm_fs_chain *chain = &chunks->routing.chains[i];
        for (uint32_t m = 0; m < chain->count; m++)
            chunks->targets[count++] =
                (fm_fs_cluster_target){.id = chain->members[m].target,
                                       .node = chain->members[m].node,
                                       .chain = chain->id,
                                       .state = fm_fs_public_name(chain->members[m].state),
                                       .says = name_of_local(FM_FS_UNKNOWN)};
    }
    for (uint32_t i = 0; i < chunks->report_count; i++) {
        const fm_fs_node_report *node = &chunks->reports[i];
        for (uint32_t r = 0; r < node->last.count; r++) {
            const fm_fs_report *report = &node->last.reports[r];
            fm_fs_cluster_target *target = find_target(chunks, count, report->target);
            if (target && target->node != node->last.node)
                continue; // it was there once
            if (!target) {
                target = &chunks->targets[count++];
                *target =
                    (fm_fs_cluster_target){.id = report->target, .node = node->last.node, .state = "unused"};
            }
            target->says = name_of_local(report->local);
            target->chain_version = report->chain_version;
            target->health = report->health;
            target->other_disk = node->other_disks >> r & 1;
            target->used_bytes = report->used_bytes;
            target->capacity_bytes = report->capacity_bytes;
        }
    }
    qsort(chunks->targets, count, sizeof *chunks->targets, by_id);
    return count;
}

static void show_nodes(fm_fs_chunks *chunks)
{
    const fm_fs_routing *routing = &chunks->routing;
    for (uint32_t i = 0; i < routing->node_count; i++) {
        fm_fs_cluster_node *node = &chunks->nodes[i];
        *node = (fm_fs_cluster_node){routing->nodes[i].id, routing->nodes[i].draining,
                                     routing->nodes[i].address, -1};
        for (uint32_t r = 0; r < chunks->report_count; r++)
            if (chunks->reports[r].last.node == node->id && chunks->reports[r].silent_ms != FM_FS_NEVER)
                node->silent_ms = chunks->reports[r].silent_ms;
    }
}

static void show_chains(fm_fs_chunks *chunks)
{
    for (uint32_t i = 0; i < chunks->routing.chain_count; i++) {
        const fm_fs_chain *chain = &chunks->routing.chains[i];
        chunks->chains[i] = (fm_fs_cluster_chain){chain->id, chain->version, chain->count, {{0}}};
        for (uint32_t m = 0; m < chain->count; m++)
            chunks->chains[i].members[m] = (fm_fs_cluster_member){
                chain->members[m].target, chain->members[m].node, fm_fs_public_name(chain->members[m].state)};
    }
}

static fm_status show(fm_fs_chunks *chunks, fm_fs_cluster_state *out_state)
{
    const fm_fs_routing *routing = &chunks->routing;
    size_t targets = 1;
    for (uint32_t i = 0; i < routing->chain_count; i++)
        targets += routing->chains[i].count;
    for (uint32_t i = 0; i < chunks->report_count; i++)
        targets += chunks->reports[i].last.count;
    fm_base_mem_free(chunks->chains);
    fm_base_mem_free(chunks->nodes);
    fm_base_mem_free(chunks->targets);
    chunks->chains = fm_base_mem_zalloc(routing->chain_count + 1, sizeof *chunks->chains);
    chunks->nodes = fm_base_mem_zalloc(routing->node_count + 1, sizeof *chunks->nodes);
    chunks->targets = fm_base_mem_zalloc(targets, sizeof *chunks->targets);
    if (!chunks->chains || !chunks->nodes || !chunks->targets)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the cluster's state");
    show_chains(chunks);
    show_nodes(chunks);
    *out_state = (fm_fs_cluster_state){.version = routing->version,
                                       .chain_count = routing->chain_count,
                                       .node_count = routing->node_count,
                                       .target_count = show_targets(chunks),
                                       .chains = chunks->chains,
                                       .nodes = chunks->nodes,
                                       .targets = chunks->targets};
    return FM_OK;
}

static fm_status ask_routing(fm_fs_chunks *chunks, int64_t timeout_ms)
{
    static const uint8_t none[8];
    fm_fs_buffer *payload = NULL;
    fm_fs_routing routing = {0};
    FM_TRY(ask_managers(chunks, FM_FS_ROUTING, none, sizeof none, FM_FS_ROUTING_BYTES_MAX, timeout_ms,
                        &payload));
    fm_status status = payload ? fm_fs_routing_decode(payload->data, payload->size, &routing) : FM_OK;
    fm_fs_buffer_drop(payload);
    FM_TRY(status);
    fm_fs_routing_clear(&chunks->routing);
    chunks->routing = routing;
    return FM_OK;
}

static fm_status ask_reports(fm_fs_chunks *chunks, int64_t timeout_ms)
{
    fm_fs_buffer *payload = NULL;
    fm_fs_node_report *reports = NULL;
    uint32_t count = 0;
    FM_TRY(ask_managers(chunks, FM_FS_REPORTS, NULL, 0, FM_FS_ROUTING_BYTES_MAX, timeout_ms, &payload));
    fm_status status = payload ? fm_fs_reports_decode(payload->data, payload->size, &reports, &count) : FM_OK;
    fm_fs_buffer_drop(payload);
    FM_TRY(status);
    fm_base_mem_free(chunks->reports);
    chunks->reports = reports;
    chunks->report_count = count;
    return FM_OK;
}

fm_status fm_fs_chunks_state(fm_fs_chunks *chunks, int64_t timeout_ms, fm_fs_cluster_state *out_state)
{
    int64_t begin = fm_fs_now(chunks->runtime);
    FM_TRY(ask_routing(chunks, timeout_ms));
    FM_TRY(ask_reports(chunks, timeout_ms - (fm_fs_now(chunks->runtime) - begin) / 1000000));
    return show(chunks, out_state);
}

/* Changes */

static fm_status change_cluster(fm_fs_chunks *chunks, const fm_fs_change *change, int64_t timeout_ms)
{
    uint8_t args[FM_FS_CHANGE_BYTES_MAX];
    fm_fs_buffer *payload = NULL;
    fm_status status =
        ask_managers(chunks, FM_FS_CHANGE, args, fm_fs_change_encode(args, change), 0, timeout_ms, &payload);
    fm_fs_buffer_drop(payload);
    return status;
}

fm_status fm_fs_chunks_drain(fm_fs_chunks *chunks, uint32_t node, int drain, int64_t timeout_ms)
{
    const fm_fs_change change = {.kind = FM_FS_CHANGE_DRAIN, .value = drain != 0, .node = node};
    return change_cluster(chunks, &change, timeout_ms);
}

fm_status fm_fs_chunks_node_remove(fm_fs_chunks *chunks, uint32_t node, int64_t timeout_ms)
{
    const fm_fs_change change = {.kind = FM_FS_CHANGE_NODE_REMOVE, .node = node};
    return change_cluster(chunks, &change, timeout_ms);
}

static fm_status change_member(fm_fs_chunks *chunks, uint32_t chain, fm_fs_member member, uint8_t joins,
                               int64_t timeout_ms)
{
    const fm_fs_change change = {
        .kind = FM_FS_CHANGE_MEMBER, .value = joins, .chain = {.id = chain, .count = 1, .members = {member}}};
    return change_cluster(chunks, &change, timeout_ms);
}

fm_status fm_fs_chunks_target_add(fm_fs_chunks *chunks, uint32_t chain, uint32_t target, uint32_t node,
                                  int64_t timeout_ms)
{
    return change_member(chunks, chain, (fm_fs_member){target, node, FM_FS_OFFLINE}, 1, timeout_ms);
}

fm_status fm_fs_chunks_target_remove(fm_fs_chunks *chunks, uint32_t chain, uint32_t target,
                                     int64_t timeout_ms)
{
    return change_member(chunks, chain, (fm_fs_member){target, 0, FM_FS_OFFLINE}, 0, timeout_ms);
}

fm_status fm_fs_chunks_chain_add(fm_fs_chunks *chunks, uint32_t chain, const uint32_t *targets,
                                 const uint32_t *nodes, uint32_t count, int64_t timeout_ms)
{
    fm_fs_change change = {.kind = FM_FS_CHANGE_CHAIN, .chain = {.id = chain, .count = count}};
    if (count > FM_FS_REPLICAS_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "%u targets in a chain; expected at most %d", count,
                                 FM_FS_REPLICAS_MAX);
    for (uint32_t i = 0; i < count; i++)
        change.chain.members[i] = (fm_fs_member){targets[i], nodes[i], FM_FS_SERVING};
    return change_cluster(chunks, &change, timeout_ms);
}

fm_status fm_fs_chunks_chain_remove(fm_fs_chunks *chunks, uint32_t chain, int64_t timeout_ms)
{
    const fm_fs_change change = {.kind = FM_FS_CHANGE_CHAIN_REMOVE, .chain = {.id = chain}};
    return change_cluster(chunks, &change, timeout_ms);
}

fm_status fm_fs_chunks_chain_rotate(fm_fs_chunks *chunks, uint32_t chain, uint32_t version,
                                    int64_t timeout_ms)
{
    const fm_fs_change change = {.kind = FM_FS_CHANGE_ROTATE, .chain = {.id = chain, .version = version}};
    return change_cluster(chunks, &change, timeout_ms);
}
