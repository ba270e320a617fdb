#include "cluster_change.h"

static const fm_fs_chain *chain_of_target(const fm_fs_routing *routing, uint32_t target)
{
    for (uint32_t i = 0; i < routing->chain_count; i++)
        for (uint32_t m = 0; m < routing->chains[i].count; m++)
            if (routing->chains[i].members[m].target == target)
                return &routing->chains[i];
    return NULL;
}

// A chain has each target once, and a target one chain.
static fm_status check_members(const fm_fs_routing *routing, const fm_fs_chain *chain)
{
    for (uint32_t m = 0; m < chain->count; m++) {
        const fm_fs_chain *other = chain_of_target(routing, chain->members[m].target);
        if (other)
            return fm_base_error_set(FM_ERR_EXISTS, "target %u is in chain %u", chain->members[m].target,
                                     other->id);
        for (uint32_t n = 0; n < m; n++)
            if (chain->members[n].target == chain->members[m].target)
                return fm_base_error_set(FM_ERR_ARG, "target %u is named twice", chain->members[m].target);
    }
    return FM_OK;
}

static int same_members(const fm_fs_chain *a, const fm_fs_chain *b)
{
    int same = a->count == b->count;
    for (uint32_t m = 0; same && m < a->count; m++) {
        int found = 0;
        for (uint32_t n = 0; n < b->count; n++)
            found |= a->members[m].target == b->members[n].target && a->members[m].node == b->members[n].node;
        same = found;
    }
    return same;
}

static fm_status plan_new(const fm_fs_routing *routing, const fm_fs_chain *chain, fm_fs_plan *plan)
{
    const fm_fs_chain *old = fm_fs_routing_chain(routing, chain->id);
    if (old && same_members(old, chain))
        return FM_OK;
    if (old)
        return fm_base_error_set(FM_ERR_EXISTS, "there is a chain %u", chain->id);
    if (!chain->id || !chain->count)
        return fm_base_error_set(FM_ERR_ARG, "chain %u with %u targets; expected an id and targets above 0",
                                 chain->id, chain->count);
    if (routing->chain_count >= FM_FS_CHAINS_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "there are %u chains, the most", routing->chain_count);
    FM_TRY(check_members(routing, chain));
    plan->has_chain = 1;
    plan->chain = *chain;
    plan->chain.version = 1;
    return FM_OK;
}

static fm_status plan_member(const fm_fs_routing *routing, const fm_fs_chain *old, const fm_fs_change *change,
                             fm_fs_plan *plan)
{
    const fm_fs_member *member = &change->chain.members[0];
    fm_fs_chain *chain = &plan->chain;
    uint32_t at = 0;
    if (change->chain.count != 1)
        return fm_base_error_set(FM_ERR_ARG, "%u targets at once; expected 1", change->chain.count);
    while (at < old->count && old->members[at].target != member->target)
        at++;
    *chain = *old;
    chain->version++;
    plan->has_chain = 1;
    if (change->value && at < old->count && old->members[at].node == member->node) {
        plan->has_chain = 0;
    } else if (change->value) {
        if (at < old->count)
            return fm_base_error_set(FM_ERR_EXISTS, "target %u is in chain %u already, on node %u",
                                     member->target, old->id, old->members[at].node);
        if (old->count == FM_FS_REPLICAS_MAX)
            return fm_base_error_set(FM_ERR_LIMIT, "chain %u has %u targets, the most", old->id, old->count);
        FM_TRY(check_members(routing, &change->chain));
        chain->members[chain->count] = *member;
        chain->members[chain->count++].state = FM_FS_OFFLINE;
    } else if (at == old->count) {
        plan->has_chain = 0;
    } else if (old->members[at].state & (FM_FS_SERVING | FM_FS_LASTSRV)) {
        return fm_base_error_set(FM_ERR_STATE, "target %u is %s in chain %u; drain its node first",
                                 member->target, fm_fs_public_name(old->members[at].state), old->id);
    } else {
        chain->count--;
        memmove(&chain->members[at], &chain->members[at + 1], (chain->count - at) * sizeof *chain->members);
    }
    return FM_OK;
}

// The last-serving replicas are given up: the next one, whatever it lacks, is made the one that may restart.
static fm_status plan_rotation(const fm_fs_chain *old, const fm_fs_change *change, fm_fs_plan *plan)
{
    fm_fs_chain *chain = &plan->chain;
    if (change->chain.version != old->version)
        return fm_base_error_set(FM_ERR_FS_CONFLICT, "chain %u is at version %u, not %u; look at it again",
                                 old->id, old->version, change->chain.version);
    if (!old->count || old->members[0].state != FM_FS_LASTSRV)
        return fm_base_error_set(FM_ERR_STATE, "chain %u does not wait for a last-serving target", old->id);
    plan->has_chain = 1;
    *chain = *old;
    chain->version++;
    chain->rotations++;
    fm_fs_member first = chain->members[0];
    memmove(&chain->members[0], &chain->members[1], (chain->count - 1) * sizeof *chain->members);
    chain->members[chain->count - 1] = first;
    for (uint32_t i = 0; i < chain->count; i++)
        chain->members[i].state = i == 0 ? FM_FS_LASTSRV : FM_FS_OFFLINE;
    return FM_OK;
}

static fm_status plan_node(const fm_fs_routing *routing, const fm_fs_change *change, fm_fs_plan *plan)
{
    const fm_fs_node_info *node = fm_fs_routing_node(routing, change->node);
    if (change->kind == FM_FS_CHANGE_DRAIN) {
        if (!node)
            return fm_base_error_set(FM_ERR_NOT_FOUND, "there is no node %u", change->node);
        plan->node = *node;
        plan->node.draining = change->value;
        plan->has_node = node->draining != change->value;
        return FM_OK;
    }
    for (uint32_t i = 0; i < routing->chain_count; i++)
        for (uint32_t m = 0; m < routing->chains[i].count; m++)
            if (routing->chains[i].members[m].node == change->node)
                return fm_base_error_set(
                    FM_ERR_STATE, "node %u has target %u of chain %u; remove the target first", change->node,
                    routing->chains[i].members[m].target, routing->chains[i].id);
    plan->node_removed = node ? change->node : 0;
    return FM_OK;
}

fm_status fm_fs_change_plan(const fm_fs_routing *routing, const fm_fs_change *change, fm_fs_plan *out_plan)
{
    const fm_fs_chain *old = fm_fs_routing_chain(routing, change->chain.id);
    fm_fs_plan plan = {0};
    switch (change->kind) {
    case FM_FS_CHANGE_DRAIN:
    case FM_FS_CHANGE_NODE_REMOVE:
        FM_TRY(plan_node(routing, change, &plan));
        break;
    case FM_FS_CHANGE_CHAIN:
        FM_TRY(plan_new(routing, &change->chain, &plan));
        break;
    case FM_FS_CHANGE_CHAIN_REMOVE:
        plan.chain_removed = old != NULL;
        if (old)
            plan.chain = *old;
        break;
    default:
        if (!old)
            return fm_base_error_set(FM_ERR_NOT_FOUND, "there is no chain %u", change->chain.id);
        FM_TRY(change->kind == FM_FS_CHANGE_MEMBER ? plan_member(routing, old, change, &plan)
                                                   : plan_rotation(old, change, &plan));
        break;
    }
    plan.old_version = old ? old->version : 0;
    *out_plan = plan;
    return FM_OK;
}
