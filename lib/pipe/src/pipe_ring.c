// The in-memory link: single-writer single-reader queues between neighbours, free of pointers so that processes may share
// them.
#include <stdatomic.h>
#include <string.h>

#include "fathom/mem.h"
#include "pipe_internal.h"

/*
 * Memory:   | fm_pipe_ring | ends [ranks] | queue [ranks][2] |
 * A queue:  | written | taken | message [depth] |, a message: | tag | bytes_max bytes |, all on cache lines of their own.
 * Queue (r, 0) carries what rank r sends to the next rank, (r, 1) to the one before; with two ranks only side 0 is used.
 */
struct end {
    _Alignas(FM_CACHE_LINE) int rank;
    uint64_t ring_offset; // from the ring to this end
};

struct fm_pipe_ring {
    _Alignas(FM_CACHE_LINE) uint64_t magic;
    int ranks;
    int depth;
    uint64_t bytes_max;
    uint64_t message_stride;
    uint64_t queue_stride;
    uint64_t queues_offset; // from the ring
};

struct queue {
    // Counts of messages since the beginning. The writer owns `written`, the reader `taken`; release after the copy,
    // acquire before it.
    _Alignas(FM_CACHE_LINE) _Atomic uint64_t written;
    _Alignas(FM_CACHE_LINE) _Atomic uint64_t taken;
    _Alignas(FM_CACHE_LINE) char messages[];
};

_Static_assert(sizeof(fm_pipe_tag) == 32,
               "the tag has no padding: ranks of different builds may share a ring");

static const uint64_t ring_magic = 0x676E697265706970; // "pipering"

static fm_status lay_out(int ranks, int depth, size_t bytes_max, struct fm_pipe_ring *out_ring,
                         size_t *out_bytes)
{
    if (ranks < 1 || ranks > FM_PIPE_RANKS_MAX)
        return fm_base_error_set(FM_ERR_ARG, "ranks is %d; expected 1 to %d", ranks, FM_PIPE_RANKS_MAX);
    if (depth < 1)
        return fm_base_error_set(FM_ERR_ARG, "depth is %d; expected at least 1 message", depth);
    size_t stride = 0;
    FM_TRY(fm_add_size(bytes_max, sizeof(fm_pipe_tag) + FM_CACHE_LINE - 1, &stride));
    stride -= stride % FM_CACHE_LINE;
    struct fm_pipe_ring ring = {.magic = ring_magic, .ranks = ranks, .depth = depth, .bytes_max = bytes_max};
    ring.message_stride = stride;
    FM_TRY(fm_mul_size(stride, (size_t)depth, &stride));
    FM_TRY(fm_add_size(stride, sizeof(struct queue), &stride));
    ring.queue_stride = stride;
    ring.queues_offset = sizeof ring + (size_t)ranks * sizeof(struct end);
    FM_TRY(fm_mul_size(stride, 2 * (size_t)ranks, &stride));
    FM_TRY(fm_add_size(stride, ring.queues_offset, out_bytes));
    *out_ring = ring;
    return FM_OK;
}

fm_status fm_pipe_ring_bytes(int ranks, int depth, size_t bytes_max, size_t *out_bytes)
{
    if (!out_bytes)
        return fm_base_error_set(FM_ERR_ARG, "out_bytes must not be NULL");
    struct fm_pipe_ring ring;
    size_t bytes = 0;
    FM_TRY(lay_out(ranks, depth, bytes_max, &ring, &bytes));
    *out_bytes = bytes;
    return FM_OK;
}

static struct end *end_of(fm_pipe_ring *ring, int rank)
{
    return (struct end *)(ring + 1) + rank;
}

static struct queue *queue_of(fm_pipe_ring *ring, int from, int to)
{
    int side = to != (from + 1) % ring->ranks;
    return (struct queue *)((char *)ring + ring->queues_offset +
                            (size_t)(2 * from + side) * ring->queue_stride);
}

static char *message_of(const fm_pipe_ring *ring, struct queue *queue, uint64_t number)
{
    return queue->messages + number % (uint64_t)ring->depth * ring->message_stride;
}

fm_status fm_pipe_ring_init(void *memory, int ranks, int depth, size_t bytes_max, fm_pipe_ring **out_ring)
{
    if (!memory || !out_ring || (uintptr_t)memory % FM_CACHE_LINE)
        return fm_base_error_set(FM_ERR_ARG, "memory must be aligned to %d bytes, and out_ring not NULL",
                                 FM_CACHE_LINE);
    fm_pipe_ring *ring = memory;
    size_t bytes = 0;
    FM_TRY(lay_out(ranks, depth, bytes_max, ring, &bytes));
    for (int rank = 0; rank < ranks; rank++) {
        struct end *end = end_of(ring, rank);
        end->rank = rank;
        end->ring_offset = (uint64_t)((char *)end - (char *)ring);
        for (int side = 0; side < 2; side++) {
            struct queue *queue = (struct queue *)((char *)ring + ring->queues_offset +
                                                   (size_t)(2 * rank + side) * ring->queue_stride);
            atomic_init(&queue->written, 0);
            atomic_init(&queue->taken, 0);
        }
    }
    *out_ring = ring;
    return FM_OK;
}

fm_status fm_pipe_ring_open(void *memory, fm_pipe_ring **out_ring)
{
    fm_pipe_ring *ring = memory;
    if (!memory || !out_ring)
        return fm_base_error_set(FM_ERR_ARG, "memory and out_ring must not be NULL");
    if (ring->magic != ring_magic)
        return fm_base_error_set(FM_ERR_FORMAT, "no ring begins here: magic is %llx",
                                 (unsigned long long)ring->magic);
    *out_ring = ring;
    return FM_OK;
}

static fm_status check_peer(const fm_pipe_ring *ring, int rank, int peer)
{
    int next = (rank + 1) % ring->ranks;
    int before = (rank + ring->ranks - 1) % ring->ranks;
    if (peer == next || peer == before)
        return FM_OK;
    return fm_base_error_set(FM_ERR_ARG, "rank %d is no neighbour of rank %d; expected %d or %d", peer, rank,
                             before, next);
}

static fm_status ring_send(void *context, int peer, const fm_pipe_tag *tag, const void *payload)
{
    struct end *end = context;
    fm_pipe_ring *ring = (fm_pipe_ring *)((char *)end - end->ring_offset);
    FM_TRY(check_peer(ring, end->rank, peer));
    if (tag->bytes > ring->bytes_max)
        return fm_base_error_set(FM_ERR_LIMIT, "the message has %llu bytes; the ring was made for %llu",
                                 (unsigned long long)tag->bytes, (unsigned long long)ring->bytes_max);
    struct queue *queue = queue_of(ring, end->rank, peer);
    uint64_t number = atomic_load_explicit(&queue->written, memory_order_relaxed);
    if (number - atomic_load_explicit(&queue->taken, memory_order_acquire) >= (uint64_t)ring->depth)
        return FM_ERR_BUSY;
    char *message = message_of(ring, queue, number);
    memcpy(message, tag, sizeof *tag);
    memcpy(message + sizeof *tag, payload, tag->bytes);
    atomic_store_explicit(&queue->written, number + 1, memory_order_release);
    return FM_OK;
}

static fm_status ring_receive(void *context, int peer, size_t capacity, fm_pipe_tag *out_tag,
                              void *out_payload)
{
    struct end *end = context;
    fm_pipe_ring *ring = (fm_pipe_ring *)((char *)end - end->ring_offset);
    FM_TRY(check_peer(ring, end->rank, peer));
    struct queue *queue = queue_of(ring, peer, end->rank);
    uint64_t number = atomic_load_explicit(&queue->taken, memory_order_relaxed);
    if (atomic_load_explicit(&queue->written, memory_order_acquire) == number)
        return FM_ERR_BUSY;
    const char *message = message_of(ring, queue, number);
    memcpy(out_tag, message, sizeof *out_tag);
    if (out_tag->bytes > capacity)
        return fm_base_error_set(FM_ERR_LIMIT, "the message has %llu bytes; expected at most %zu",
                                 (unsigned long long)out_tag->bytes, capacity);
    memcpy(out_payload, message + sizeof *out_tag, out_tag->bytes);
    atomic_store_explicit(&queue->taken, number + 1, memory_order_release);
    return FM_OK;
}

fm_pipe_link fm_pipe_ring_link(fm_pipe_ring *ring, int rank)
{
    return (fm_pipe_link){.context = end_of(ring, rank), .send = ring_send, .receive = ring_receive};
}
