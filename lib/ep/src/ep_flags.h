/* The flags of a segment by name; see ep_private.h. Each is written by one rank. */
#ifndef FM_EP_FLAGS_H
#define FM_EP_FLAGS_H

#include "ep_private.h"

static inline fm_ep_flag *fm_ep_flag_at(const fm_ep_group *group, int owner, size_t array, size_t index)
{
    // The base is aligned to FM_EP_ALIGN, and so is every array.
    return (fm_ep_flag *)(void *)(group->base[owner] + array) + index;
}

/** Epoch of what `owner` has posted in the slot. */
static inline fm_ep_flag *fm_ep_flag_posted(const fm_ep_group *group, int owner, int slot)
{
    return fm_ep_flag_at(group, owner, group->plan.posted, (size_t)slot);
}

/** Epoch up to which `reader` has read what `owner` posted in the slot. */
static inline fm_ep_flag *fm_ep_flag_done(const fm_ep_group *group, int owner, int slot, int reader)
{
    return fm_ep_flag_at(group, owner, group->plan.done,
                         (size_t)slot * (size_t)group->ranks + (size_t)reader);
}

/** Epoch of the mirror of `source` (outside this node) that its rail holds. */
static inline fm_ep_flag *fm_ep_flag_mirrored(const fm_ep_group *group, int rail, int slot, int source)
{
    size_t index = (size_t)slot * (size_t)group->plan.mirrors + (size_t)group->mirror_of[source];
    return fm_ep_flag_at(group, rail, group->plan.mirrored, index);
}

/** Epoch up to which `reader` (on this node) has read that mirror. */
static inline fm_ep_flag *fm_ep_flag_mirror_done(const fm_ep_group *group, int rail, int slot, int source,
                                                 int reader)
{
    size_t index = (size_t)slot * (size_t)group->plan.mirrors + (size_t)group->mirror_of[source];
    index = index * (size_t)group->plan.node_ranks + (size_t)(reader % group->plan.node_ranks);
    return fm_ep_flag_at(group, rail, group->plan.mirror_done, index);
}

/** Three flags of rejoining: the round, and the epochs given in odd and even rounds. */
static inline fm_ep_flag *fm_ep_flag_rejoin(const fm_ep_group *group, int owner)
{
    return fm_ep_flag_at(group, owner, group->plan.rejoin, 0);
}

static inline uint64_t fm_ep_flag_get(fm_ep_flag *flag)
{
    return atomic_load_explicit(&flag->value, memory_order_acquire);
}

static inline void fm_ep_flag_set(fm_ep_flag *flag, uint64_t epoch)
{
    atomic_store_explicit(&flag->value, epoch, memory_order_release);
}

#endif
