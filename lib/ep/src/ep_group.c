// One rank's membership: joining, leaving, masks, rejoining, statistics.
#include <inttypes.h>
#include <string.h>

#include "ep_private.h"
#include "ep_flags.h"

static void free_ops(fm_ep_group *group)
{
    for (int i = 0; group->ops && i < group->plan.in_flight; i++)
        fm_base_mem_free(group->ops[i].is_open);
    fm_base_mem_free(group->ops);
}

void fm_ep_group_free(fm_ep_group *group)
{
    if (!group)
        return;
    // Whoever leaves while a rank is masked, or after waiting for one in vain, cannot count on it at the end either.
    for (int peer = 0; group->world->mpi && group->masked && peer < group->ranks; peer++)
        group->world->is_broken |= group->masked[peer] || group->has_timed_out;
    fm_ep_mail_free(group);
    free_ops(group);
    fm_base_mem_free(group->masked);
    fm_base_mem_free(group->mirror_of);
    fm_base_mem_free(group->rank_count);
    fm_base_mem_free(group->cursor);
    fm_base_mem_free(group->mirror_row);
    fm_base_mem_free(group->views);
    fm_base_mem_free(group->peers);
    fm_base_mem_free(group);
}

static fm_status allocate_ops(fm_ep_group *group)
{
    group->ops = fm_base_mem_zalloc((size_t)group->plan.in_flight, sizeof *group->ops);
    if (!group->ops)
        return FM_ERR_NOMEM;
    size_t ranks = (size_t)group->ranks;
    for (int i = 0; i < group->plan.in_flight; i++) {
        fm_ep_op *op = &group->ops[i];
        op->group = group;
        op->is_open = fm_base_mem_zalloc(2 * ranks + (size_t)group->plan.nodes, 1);
        if (!op->is_open)
            return FM_ERR_NOMEM;
        op->mirror_ready = op->is_open + ranks;
        op->mailed = op->mirror_ready + ranks;
    }
    return FM_OK;
}

static fm_status allocate_private(fm_ep_group *group)
{
    size_t ranks = (size_t)group->ranks;
    group->masked = fm_base_mem_zalloc(ranks, 1);
    group->mirror_of = fm_base_mem_zalloc(ranks, sizeof *group->mirror_of);
    group->rank_count = fm_base_mem_zalloc(ranks + 1, sizeof *group->rank_count);
    group->cursor = fm_base_mem_zalloc(ranks, sizeof *group->cursor);
    group->views = fm_base_mem_zalloc(ranks, sizeof *group->views);
    group->peers = fm_base_mem_zalloc(ranks, sizeof *group->peers);
    size_t rows = (size_t)group->options.tokens_max > ranks ? (size_t)group->options.tokens_max : ranks;
    group->mirror_row = fm_base_mem_zalloc(rows, sizeof *group->mirror_row);
    if (!group->masked || !group->mirror_of || !group->rank_count || !group->cursor || !group->views ||
        !group->peers || !group->mirror_row || allocate_ops(group) < 0)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a group of %d ranks", group->ranks);
    return FM_OK;
}

/** Numbers the mirrors on this node: those of one rail count up from 0, by source. */
static void number_mirrors(fm_ep_group *group)
{
    for (int source = 0; source < group->ranks; source++) {
        group->mirror_of[source] = -1;
        if (fm_ep_node_of(&group->plan, source) == group->node)
            continue;
        int rail = fm_ep_rail(&group->plan, group->node, source);
        group->mirror_of[source] = 0;
        for (int before = 0; before < source; before++)
            group->mirror_of[source] += fm_ep_node_of(&group->plan, before) != group->node &&
                                        fm_ep_rail(&group->plan, group->node, before) == rail;
    }
}

/** The segment, its flags and queue counters zero; the rest is written before it is read. */
static fm_status make_segment(fm_ep_world *world, const fm_ep_plan *plan, char **out_segment)
{
    char *segment = NULL;
    if (world->mpi)
        FM_TRY(fm_ep_world_mpi_share(world, plan, &segment));
    else
        segment = fm_base_mem_aligned(plan->total, FM_EP_ALIGN);
    if (!segment)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a segment of %zu bytes", plan->total);
    memset(segment, 0, plan->slots);
    for (size_t queue = 0; queue < 2 && plan->ring_queue_bytes > 0; queue++)
        memset(segment + plan->ring + queue * plan->ring_queue_bytes, 0, 2 * sizeof(fm_ep_flag));
    *out_segment = segment;
    return FM_OK;
}

fm_status fm_ep_group_create(fm_ep_world *world, int rank, const fm_ep_options *options,
                             fm_ep_group **out_group)
{
    if (!world || !options || !out_group)
        return fm_base_error_set(FM_ERR_ARG, "world, options and out_group must not be NULL");
    if (rank < 0 || rank >= world->ranks)
        return fm_base_error_set(FM_ERR_ARG, "rank is %d; expected 0 to %d", rank, world->ranks - 1);
    if (world->mpi && rank != world->rank)
        return fm_base_error_set(FM_ERR_ARG, "rank is %d; expected %d, this process's", rank, world->rank);
    fm_ep_plan plan = {0};
    fm_ep_options complete = fm_ep_options_complete(options);
    fm_status status = world->mpi ? fm_ep_world_mpi_place(world, &complete) : FM_OK;
    if (status == FM_OK)
        status = fm_ep_plan_make(&complete, world->ranks, &plan);
    FM_TRY(fm_ep_world_meet(world, rank, &complete, status, complete.timeout_ms));

    char *segment = NULL;
    fm_ep_group *group = fm_base_mem_zalloc(1, sizeof *group);
    if (!group) {
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory for a group");
    } else {
        *group = (fm_ep_group){.world = world,
                               .options = complete,
                               .plan = plan,
                               .rank = rank,
                               .late_peer = -1,
                               .ranks = world->ranks,
                               .node = fm_ep_node_of(&plan, rank),
                               .base = world->base,
                               .local_experts = complete.experts / world->ranks,
                               .sum = fm_ep_sum_choose()};
        status = allocate_private(group);
        if (status == FM_OK && world->mpi && plan.nodes > 1)
            status = fm_ep_mail_create(group);
    }
    // Making shared memory is collective, so that a rank without a group of its own takes part.
    if (status == FM_OK || world->mpi) {
        fm_status made = make_segment(world, &plan, &segment);
        status = status < 0 ? status : made;
    }
    if (group && status == FM_OK)
        number_mirrors(group);
    status = fm_ep_world_share(world, rank, segment, status, complete.timeout_ms);
    if (status < 0) {
        fm_ep_group_free(group);
        return status;
    }
    *out_group = group;
    return FM_OK;
}

void *fm_ep_group_memory(fm_ep_group *group, size_t *out_bytes)
{
    *out_bytes = group->plan.memory_bytes;
    return group->plan.memory_bytes > 0 ? group->base[group->rank] + group->plan.memory : NULL;
}

int fm_ep_group_rank(const fm_ep_group *group)
{
    return group->rank;
}

int fm_ep_group_ranks(const fm_ep_group *group)
{
    return group->ranks;
}

uint64_t fm_ep_group_epoch(const fm_ep_group *group)
{
    return group->epoch;
}

void fm_ep_group_set_timeout(fm_ep_group *group, int64_t timeout_ms)
{
    group->options.timeout_ms = timeout_ms;
    group->options = fm_ep_options_complete(&group->options);
}

static fm_status check_peer(const fm_ep_group *group, int peer)
{
    if (peer < 0 || peer >= group->ranks)
        return fm_base_error_set(FM_ERR_ARG, "peer is %d; expected 0 to %d", peer, group->ranks - 1);
    return FM_OK;
}

fm_status fm_ep_group_mask(fm_ep_group *group, int peer, int masked)
{
    FM_TRY(check_peer(group, peer));
    if (peer == group->rank)
        return fm_base_error_set(FM_ERR_ARG, "peer is %d, this rank itself, which cannot be masked", peer);
    group->masked[peer] = masked != 0;
    return FM_OK;
}

int fm_ep_group_late_peer(const fm_ep_group *group)
{
    return group->late_peer;
}

int fm_ep_group_is_masked(const fm_ep_group *group, int peer)
{
    return peer >= 0 && peer < group->ranks && group->masked[peer];
}

/** Rejoining where every rank sees every other's flags. */
static fm_status rejoin_by_flags(fm_ep_group *group, uint64_t *out_epoch)
{
    // Two words hold the epochs of this rejoining and of the last, so that a fast rank's next does not overwrite what a
    // slow one has still to read. It cannot be two ahead: it waits here for all.
    uint64_t round = group->rejoins + 1, epoch = 0;
    fm_ep_flag *mine = fm_ep_flag_rejoin(group, group->rank);
    atomic_store_explicit(&mine[1 + round % 2].value, group->epoch, memory_order_relaxed);
    atomic_store_explicit(&mine[0].value, round, memory_order_release);
    fm_wait wait = fm_base_wait_begin(group->options.timeout_ms);
    for (int peer = 0; peer < group->ranks; peer++) {
        fm_ep_flag *theirs = fm_ep_flag_rejoin(group, peer);
        while (atomic_load_explicit(&theirs[0].value, memory_order_acquire) < round)
            if (fm_base_wait_step(&wait) < 0) {
                group->late_peer = peer;
                return fm_base_error_set(FM_ERR_TIMEOUT,
                                         "rejoining: rank %d has not come within %" PRId64 " ms", peer,
                                         group->options.timeout_ms);
            }
        uint64_t other = atomic_load_explicit(&theirs[1 + round % 2].value, memory_order_relaxed);
        epoch = other > epoch ? other : epoch;
    }
    *out_epoch = epoch;
    return FM_OK;
}

fm_status fm_ep_group_rejoin(fm_ep_group *group)
{
    uint64_t epoch = 0;
    group->is_rejoining = 1; // others may have read this rank's epoch already, so it must stay
    FM_TRY(group->mail ? fm_ep_mail_rejoin(group, &epoch) : rejoin_by_flags(group, &epoch));
    group->is_rejoining = group->has_timed_out = 0;
    group->late_peer = -1;
    group->rejoins++;
    group->epoch = epoch;
    memset(group->masked, 0, (size_t)group->ranks);
    for (int i = 0; i < group->plan.in_flight; i++)
        group->ops[i].state = FM_EP_FREE;
    return FM_OK;
}

fm_ep_stats fm_ep_group_stats(const fm_ep_group *group)
{
    return group->stats;
}

fm_status fm_ep_group_peer_stats(const fm_ep_group *group, int peer, fm_ep_peer_stats *out_stats)
{
    FM_TRY(check_peer(group, peer));
    *out_stats = group->peers[peer];
    return FM_OK;
}
