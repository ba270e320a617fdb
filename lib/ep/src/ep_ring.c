// Messages between pipeline neighbours: in each rank's segment two queues, to the next rank and to the one before, each
// with one writer and one reader.
#include <string.h>

#include "ep_private.h"

/** Stands before every message. */
typedef struct message {
    uint64_t tag_bytes, bytes;
} message;

/** 0 to the next rank, 1 to the one before. Among two ranks, next and previous are the same and the first serves. */
static int way(const fm_ep_group *group, int owner, int reader)
{
    return reader == (owner + 1) % group->ranks ? 0 : 1;
}

/** The queue in `owner`'s segment towards `reader`. */
static char *queue_of(const fm_ep_group *group, int owner, int reader)
{
    return group->base[owner] + group->plan.ring +
           (size_t)way(group, owner, reader) * group->plan.ring_queue_bytes;
}

static fm_ep_flag *sent_of(char *queue)
{
    return (fm_ep_flag *)(void *)queue;
}

static fm_ep_flag *taken_of(char *queue)
{
    return (fm_ep_flag *)(void *)queue + 1;
}

static message *message_at(const fm_ep_group *group, char *queue, uint64_t number)
{
    size_t slot = (size_t)(number % (uint64_t)group->options.ring_depth);
    return (message *)(void *)(queue + 2 * sizeof(fm_ep_flag) + slot * group->plan.ring_message_bytes);
}

static fm_status check_neighbour(const fm_ep_group *group, int peer)
{
    int next = (group->rank + 1) % group->ranks, previous = (group->rank + group->ranks - 1) % group->ranks;
    if (group->options.ring_bytes_max == 0)
        return fm_base_error_set(FM_ERR_ARG, "the group has no ring: ring_bytes_max is 0");
    if (peer != next && peer != previous)
        return fm_base_error_set(FM_ERR_ARG,
                                 "peer is %d; expected a neighbour of rank %d on the ring, %d or %d", peer,
                                 group->rank, previous, next);
    return FM_OK;
}

/** The oldest message from a peer on this node; FM_ERR_BUSY when there is none. */
static fm_status peek(const fm_ep_group *group, int peer, void **out_message)
{
    char *queue = queue_of(group, peer, group->rank);
    uint64_t taken = atomic_load_explicit(&taken_of(queue)->value, memory_order_relaxed);
    if (atomic_load_explicit(&sent_of(queue)->value, memory_order_acquire) == taken)
        return FM_ERR_BUSY;
    *out_message = message_at(group, queue, taken);
    return FM_OK;
}

fm_status fm_ep_ring_send(fm_ep_group *group, int peer, const void *tag, size_t tag_bytes,
                          const void *payload, size_t bytes)
{
    FM_TRY(check_neighbour(group, peer));
    size_t room = group->options.ring_bytes_max;
    if (tag_bytes > room || bytes > room - tag_bytes)
        return fm_base_error_set(FM_ERR_ARG,
                                 "tag of %zu and payload of %zu bytes; expected at most %zu in all",
                                 tag_bytes, bytes, room);
    int which = way(group, group->rank, peer);
    char *queue = NULL;
    void *to = NULL;
    if (fm_ep_sees(group, peer)) {
        queue = queue_of(group, group->rank, peer);
        uint64_t sent = atomic_load_explicit(&sent_of(queue)->value, memory_order_relaxed);
        uint64_t taken = atomic_load_explicit(&taken_of(queue)->value, memory_order_acquire);
        if (sent - taken == (uint64_t)group->options.ring_depth)
            return FM_ERR_BUSY;
        to = message_at(group, queue, sent);
    } else {
        FM_TRY(fm_ep_mail_ring_slot(group, which, peer, &to));
    }
    *(message *)to = (message){tag_bytes, bytes};
    char *content = (char *)to + sizeof(message);
    if (tag_bytes > 0)
        memcpy(content, tag, tag_bytes);
    if (bytes > 0)
        memcpy(content + tag_bytes, payload, bytes);
    if (!fm_ep_sees(group, peer))
        return fm_ep_mail_ring_post(group, which, peer, sizeof(message) + tag_bytes + bytes);
    atomic_fetch_add_explicit(&sent_of(queue)->value, 1, memory_order_release);
    return FM_OK;
}

fm_status fm_ep_ring_receive(fm_ep_group *group, int peer, void *out_tag, size_t tag_bytes, void *out_payload,
                             size_t capacity, size_t *out_bytes)
{
    FM_TRY(check_neighbour(group, peer));
    int which = way(group, peer, group->rank);
    void *at = NULL;
    if (fm_ep_sees(group, peer))
        FM_TRY(peek(group, peer, &at));
    else
        FM_TRY(fm_ep_mail_ring_peek(group, which, peer, &at));
    const message *from = at;
    const char *content = (const char *)(from + 1);
    if (from->tag_bytes != tag_bytes)
        return fm_base_error_set(FM_ERR_STATE, "rank %d sent a tag of %llu bytes; expected %zu", peer,
                                 (unsigned long long)from->tag_bytes, tag_bytes);
    if (tag_bytes > 0)
        memcpy(out_tag, content, tag_bytes);
    if (from->bytes > capacity)
        return fm_base_error_set(FM_ERR_LIMIT, "rank %d sent a payload of %llu bytes; there is room for %zu",
                                 peer, (unsigned long long)from->bytes, capacity);
    if (from->bytes > 0)
        memcpy(out_payload, content + tag_bytes, from->bytes);
    *out_bytes = from->bytes;
    if (!fm_ep_sees(group, peer))
        return fm_ep_mail_ring_take(group, which, peer);
    atomic_fetch_add_explicit(&taken_of(queue_of(group, peer, group->rank))->value, 1, memory_order_release);
    return FM_OK;
}
