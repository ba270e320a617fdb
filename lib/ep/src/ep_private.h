/*
 * What the files of ep share: the memory that ranks see of each other, and the exchange that every operation is.
 *
 * Each rank owns a segment that all can read:
 *
 *     | flags | for each slot: publication, lists, choices, weights, checksums, staged rows | ring |
 *     |       | and for each slot and mirrored source: publication, lists, rows             |      |
 *
 * An operation of epoch e uses slot e % in_flight of every rank. To post is to fill the slot's publication (where the
 * rows lie, and for each reader a list of the rows it needs) and then to set posted[slot] = e. A reader that has
 * fetched its rows sets done[slot][reader] = e in the publisher's segment; the publisher's operation ends when all
 * have. Flags hold epochs and only grow, so nothing is ever cleared and a late reader cannot take one operation for
 * another.
 *
 * Between nodes a *mirror* stands in for the publication: for each source outside, one rank of the reader's node, the
 * source's rail, copies the rows that anyone on the node needs, each once, and publishes them in its own segment with
 * lists of the same form. Readers do not know the difference.
 *
 * Every place in a publication is an offset from the base of the segment that holds the publication. (Rows that stay
 * in their owner's private memory, which only threads of one process can read, have offsets beyond the segment.)
 */
#ifndef FM_EP_PRIVATE_H
#define FM_EP_PRIVATE_H

#include <stdatomic.h>

#include "fathom/clock.h"
#include "fathom/ep.h"
#include "fathom/mem.h"

#include "ep_mpi.h"

enum {
    FM_EP_ALIGN = FM_CACHE_LINE,
    FM_EP_PARTS = 4,
};

/** The arrays of which a row consists. */
enum { FM_EP_PART_ROW, FM_EP_PART_SCALES, FM_EP_PART_IDX, FM_EP_PART_WEIGHTS };

typedef enum fm_ep_kind {
    FM_EP_KIND_BARRIER,
    FM_EP_KIND_DISPATCH,
    FM_EP_KIND_COMBINE,
    FM_EP_KIND_ALL_GATHER,
    FM_EP_KIND_REDUCE_SCATTER,
} fm_ep_kind;

typedef struct fm_ep_part {
    int64_t offset;
    uint64_t stride; /**< from row to row */
    uint64_t bytes;  /**< of a row; 0: the part is absent */
} fm_ep_part;

typedef struct fm_ep_publication {
    uint64_t epoch;
    uint64_t detail; /**< what reader and publisher must agree on besides the kind */
    int32_t kind;
    int32_t rows;
    int64_t begin_offset;  /**< int32 [ranks + 1]: the list of reader q is [begin[q], begin[q + 1]) */
    int64_t list_offset;   /**< int32: row numbers */
    int64_t origin_offset; /**< int32 [rows]: row numbers at the source; 0: a row's own number */
    int64_t check_offset;  /**< uint32, one for each entry of the lists; 0: no checksums */
    fm_ep_part parts[FM_EP_PARTS];
} fm_ep_publication;

/** A flag on its own cache line, so that polling it disturbs nobody else. */
typedef struct fm_ep_flag {
    _Alignas(FM_EP_ALIGN) _Atomic uint64_t value;
} fm_ep_flag;

/** Where things lie in every segment; equal on all ranks. Offsets from the base. */
typedef struct fm_ep_plan {
    int ranks, node_ranks, nodes, in_flight, mirrors; /**< mirrors: that one rank holds, at most */
    int64_t choices_max; /**< ranks * tokens_max * min(topk_max, local experts) */
    size_t posted, done, mirrored, mirror_done, rejoin; /**< flags */
    size_t slots, slot_bytes;
    size_t begin, list, idx, weights, check, stage, stage_scales, stage_weights; /**< inside a slot */
    size_t mirror_slots, mirror_bytes; /**< what a mirror needs at most */
    size_t memory, memory_bytes;       /**< the caller's own */
    size_t ring, ring_queue_bytes, ring_message_bytes;
    size_t total;
} fm_ep_plan;

/** out = bf16(((0 + weights[0] * rows[0]) + weights[1] * rows[1]) + ...), in f32, each product and each sum rounded. */
typedef struct fm_ep_sum {
    const void *rows[FM_EP_TOPK_MAX + 2];
    const void *scales[FM_EP_TOPK_MAX + 2]; /**< of a row that is not BF16; NULL otherwise */
    float weights[FM_EP_TOPK_MAX + 2];
    int count;
} fm_ep_sum;

/** Meanwhile the rows of `next` (NULL: none) are fetched. `stream`: out goes past the caches, where its place allows. */
typedef void (*fm_ep_sum_kernel)(const fm_ep_sum *sum, int hidden, const fm_ep_sum *next, int stream,
                                 fm_bf16 *out);

struct fm_ep_op {
    fm_ep_group *group;
    enum {
        FM_EP_FREE,
        FM_EP_POSTED,
        FM_EP_ARRIVED, /**< pulled rows may be read; their publishers are not told yet */
        FM_EP_RECEIVED,
        FM_EP_ENDED
    } state;
    int is_pull;
    fm_ep_kind kind;
    int slot;
    uint64_t epoch;
    uint64_t detail;
    fm_status status; /**< of what was received; its message is kept below */
    char message[256];
    fm_status (*receive)(fm_ep_op *op);
    uint8_t *is_open;      /**< [ranks] sources of which this rank reads, until it has told them */
    uint8_t *mirror_ready; /**< [ranks] sources outside that this rank, their rail, has mirrored */
    uint8_t *mailed;       /**< [nodes] what has become of the message to each node: fm_ep_mail_state */
    /* What receive() works on. */
    fm_ep_handle *handle;
    union {
        fm_ep_dispatch dispatch;
        fm_ep_combine combine;
        struct {
            void *out;
            size_t bytes;
        } collective;
    } as;
};

/** What each process tells all others while it joins. */
typedef struct fm_ep_card {
    fm_ep_options options;
    fm_status status;
} fm_ep_card;

struct fm_ep_world {
    int ranks;
    const fm_ep_mpi *mpi; /**< NULL: ranks are threads of this process */
    fm_ep_mpi_party *party;
    int rank;         /**< with mpi: this process's */
    int *machine;     /**< [ranks] with mpi: the lowest rank on the same machine */
    fm_ep_card *card; /**< [1 + ranks] with mpi: this rank's, then all */
    int is_broken;    /**< a rank is missing for good: nothing collective may be done any more */
    char **
        base; /**< [ranks] segments; NULL until their owners have joined, and where they lie on other nodes */
    fm_ep_options *options;  /**< [ranks] */
    _Atomic int *status;     /**< [ranks] of each rank's own part of joining */
    _Atomic uint32_t *phase; /**< [ranks] how far each has come */
};

struct fm_ep_group {
    fm_ep_world *world;
    fm_ep_options options;
    fm_ep_plan plan;
    int rank, ranks, node, local_experts;
    char **base; /**< the world's */
    uint64_t epoch;
    uint64_t rejoins;
    int is_rejoining;        /**< it has been called, and has not succeeded yet */
    int has_timed_out;       /**< and no operation has ended well since */
    int late_peer;           /**< whom the last timeout named; -1: none */
    struct fm_ep_mail *mail; /**< NULL unless other nodes are reached by messages */
    fm_ep_op *ops;           /**< [in_flight] */
    uint8_t *masked;         /**< [ranks] */
    int32_t *
        mirror_of; /**< [ranks] number of the source's mirror at its rail on this node; -1: it is on this node */
    int32_t *rank_count;      /**< [ranks + 1] scratch of layout */
    int32_t *cursor;          /**< [ranks] scratch of combine */
    struct fm_ep_view *views; /**< [ranks] scratch: what each source has for this rank */
    int32_t *
        mirror_row; /**< [max(tokens_max, ranks)] scratch: row of the mirror that a source row has become, or -1 */
    fm_ep_sum_kernel sum;
    fm_ep_stats stats;
    fm_ep_peer_stats *peers; /**< [ranks] */
};

struct fm_ep_handle {
    fm_ep_group *group;
    fm_ep_arrangement arrangement;
    int alignment;
    int64_t rows_max;
    uint64_t epoch;   /**< of the dispatch whose choices these are; 0: none */
    uint64_t rejoins; /**< the group's, then */
    int is_received;  /**< that dispatch has learnt what arrives */
    /* The sending side. */
    int tokens, topk;
    int has_weights;
    int32_t *topk_idx;   /**< [tokens][topk] */
    float *topk_weights; /**< [tokens][topk] */
    int32_t *send_begin; /**< [ranks + 1] */
    int32_t *send_list;  /**< tokens for each rank, ascending */
    int32_t *seen;       /**< [ranks] scratch */
    /* The receiving side: the arrays of `received`, and where the next row of each expert goes. */
    fm_ep_received received;
    int32_t *expert_count, *expert_begin, *expert_next, *source_begin, *item_token, *recv_idx, *choice_begin;
    int32_t *choice_row, *row_item;
    float *recv_weights, *row_weight;
    const void **row_at, **row_scales_at; /**< [rows_max] */
};

/* ep_plan.c */
fm_status fm_ep_plan_make(const fm_ep_options *options, int ranks, fm_ep_plan *out_plan);
/** Options with defaults filled in. */
fm_ep_options fm_ep_options_complete(const fm_ep_options *options);
static inline int fm_ep_node_of(const fm_ep_plan *plan, int rank)
{
    return rank / plan->node_ranks;
}
/** The rank of `node` that fetches what `source` sends there. */
int fm_ep_rail(const fm_ep_plan *plan, int node, int source);

/* ep_world.c */
/** The first half of joining: all ranks learn all options, or fail alike. `status` is how far this rank has come: a
 * failure is told to the others. */
fm_status fm_ep_world_meet(fm_ep_world *world, int rank, const fm_ep_options *options, fm_status status,
                           int64_t timeout_ms);
/** The second: this rank's segment (NULL and a failure when it has none), which becomes the world's. */
fm_status fm_ep_world_share(fm_ep_world *world, int rank, char *segment, fm_status status,
                            int64_t timeout_ms);

/* ep_world_mpi.c: the same over MPI. */

/** Tells all ranks this one's options and status, and learns theirs. */
fm_status fm_ep_world_mpi_tell(fm_ep_world *world, const fm_ep_options *options, fm_status status,
                               int64_t timeout_ms);
/** What over MPI follows from where the processes run: fills in ranks_per_node and staged. */
fm_status fm_ep_world_mpi_place(const fm_ep_world *world, fm_ep_options *options);
/** Makes the segments of all ranks of this rank's node; collective. */
fm_status fm_ep_world_mpi_share(fm_ep_world *world, const fm_ep_plan *plan, char **out_segment);

/* ep_view.c: what is read. */

/** What one source has for this rank. */
typedef struct fm_ep_view {
    const char *base;
    const fm_ep_publication *publication;
    const int32_t *list;
    const int32_t *origin; /**< NULL: a row's own number */
    const uint32_t *check; /**< like list; NULL: no checksums */
    int count;             /**< 0 for a masked source */
} fm_ep_view;

fm_ep_view fm_ep_view_at(const char *base, const fm_ep_publication *publication, int reader);
/** What `source`, whose memory this rank sees, has posted for a reader. */
fm_ep_view fm_ep_view_direct(const fm_ep_op *op, int source, int reader);
static inline const void *fm_ep_view_row(const fm_ep_view *view, int part, int row)
{
    const fm_ep_part *p = &view->publication->parts[part];
    return view->base + p->offset + (int64_t)p->stride * row;
}
/** Fills the group's views: empty for masked sources and for those that posted something else. */
void fm_ep_views_open(fm_ep_op *op);
/** Tells the publishers that this rank has read. A flag that has moved on meanwhile says that what was read may have
 * been overwritten. */
void fm_ep_views_close(fm_ep_op *op);
/** The first rank whose rows, or whose mirror of another's rows, are not there yet; -1 when all are. */
int fm_ep_views_missing(const fm_ep_op *op);

void fm_ep_check_write(const fm_ep_op *op);
/** Checks entry `i` of the view's list, whose row and scales were copied to `row` and `scales` (or lie there still),
 * against the publisher's checksum, where there is one. */
fm_status fm_ep_view_check(const fm_ep_op *op, const fm_ep_view *view, int source, int i, const void *row,
                           const void *scales);

/* ep_mirror.c */

/** Whether this rank sees the memory of `peer`. */
int fm_ep_sees(const fm_ep_group *group, int peer);
/** Whose segment holds what this rank reads of a source: its own, or that of its rail on this node. Threads can read
 * a source directly when its rail is masked. */
int fm_ep_holder_of(const fm_ep_group *group, int source);
size_t fm_ep_mirror_offset(const fm_ep_group *group, int slot, int source);
/**
 * Writes what the ranks of `node` need of a publication, whose offsets count from `base`, to `to`: a publication, its lists
 * and the rows, each once. Offsets in it count from `at` bytes before `to`. Returns its length, a multiple of FM_EP_ALIGN.
 */
size_t fm_ep_mirror_build(const fm_ep_group *group, const char *base, const fm_ep_publication *publication,
                          int node, char *to, size_t at);
/** Mirrors the sources outside whose rail this rank is, as they post; over MPI, as their messages come. */
void fm_ep_mirrors_serve(fm_ep_op *op);

/* ep_mail.c: messages between nodes. */

typedef enum fm_ep_mail_state { FM_EP_MAIL_WAITING, FM_EP_MAIL_SENT, FM_EP_MAIL_TAKEN } fm_ep_mail_state;

fm_status fm_ep_mail_create(fm_ep_group *group);
void fm_ep_mail_free(fm_ep_group *group);
/** Sends to other nodes what their ranks need of an operation, and sees what has arrived of what was sent. */
void fm_ep_mail_send(fm_ep_op *op);
/** 1 when the mirror of a source is complete in this rank's segment. */
int fm_ep_mail_receive(fm_ep_op *op, int source);
/** All ranks give their epoch and learn the highest. */
fm_status fm_ep_mail_rejoin(fm_ep_group *group, uint64_t *out_epoch);
/** Messages of the ring to and from a neighbour on another node: `which` 0 for the queue to the next rank, 1 to the one
 * before. out_message stays valid until fm_ep_mail_ring_take(). FM_ERR_BUSY: none free, none there. */
fm_status fm_ep_mail_ring_slot(fm_ep_group *group, int which, int peer, void **out_message);
fm_status fm_ep_mail_ring_post(fm_ep_group *group, int which, int peer, size_t bytes);
fm_status fm_ep_mail_ring_peek(fm_ep_group *group, int which, int peer, void **out_message);
fm_status fm_ep_mail_ring_take(fm_ep_group *group, int which, int peer);

/* ep_exchange.c: what every operation does. */

/** Keeps the first failure of an operation, which goes on to its end so that no peer waits for it. */
void fm_ep_op_fail(fm_ep_op *op, fm_status status);
const char *fm_ep_kind_name(int kind);

/** Takes the slot of the next epoch. The publication and the caller's part of the op are filled in before
 * fm_ep_exchange_post(); until then nothing has happened. */
fm_status fm_ep_exchange_begin(fm_ep_group *group, fm_ep_kind kind, fm_ep_op **out_op,
                               fm_ep_publication **out_pub);
void fm_ep_exchange_post(fm_ep_op *op);
/** Address of something in this rank's slot. */
static inline void *fm_ep_slot_at(const fm_ep_op *op, size_t offset)
{
    const fm_ep_group *group = op->group;
    return group->base[group->rank] + group->plan.slots + (size_t)op->slot * group->plan.slot_bytes + offset;
}
/** The offset by which peers find an address of this rank. */
static inline int64_t fm_ep_offset_of(const fm_ep_group *group, const void *address)
{
    return (int64_t)((uintptr_t)address - (uintptr_t)group->base[group->rank]);
}
/** Whether peers on this node can read `rows` rows there, so that they need not be staged. */
int fm_ep_exchange_is_seen(const fm_ep_group *group, const void *rows_at, size_t stride, int64_t rows);

/** Copies `rows` rows into the slot with `staged`, else leaves them where they are; fills the part. `list` (NULL:
 * all, in order) says which rows; staged rows lie in its order. */
void fm_ep_exchange_part(fm_ep_op *op, fm_ep_part *part, int staged, size_t stage, const void *from,
                         size_t stride, size_t bytes, int rows, const int32_t *list);

/** Counts bytes that this rank has read from a source. */
void fm_ep_exchange_count(fm_ep_group *group, int source, uint64_t bytes);

/* ep_layout.c */

/** FM_OK when every choice is -1 or an expert, and no token chooses one twice. */
fm_status fm_ep_choices_check(const int32_t *topk_idx, int tokens, int topk, int experts);

/* ep_handle.c */

/** Takes over the choices of this rank's tokens and makes the lists for all ranks. */
void fm_ep_handle_send(fm_ep_handle *handle, int tokens, int topk, const int32_t *topk_idx,
                       const float *topk_weights);
/** Learns from the group's views what arrives, and gives every row its place. */
void fm_ep_handle_receive(fm_ep_handle *handle);

/* ep_cast.c, ep_log_code.c */

/** Channels `first` to `first + n - 1` of a row, which lie in one block. */
void fm_ep_uncast_block(const void *row, const void *scales, fm_ep_format format, int first, int n,
                        float *out);
size_t fm_ep_log_bytes(int hidden);
/** out_ends: for each block the least and the greatest magnitude. */
void fm_ep_log_encode(const fm_bf16 *row, int hidden, uint8_t *out_codes, fm_bf16 *out_ends);
void fm_ep_log_decode(const uint8_t *codes, const fm_bf16 *ends, int first, int n, float *out);

/* ep_copy.c */

/** Copies a row past the caches; its place and its size are multiples of a cache line. Meanwhile the row at `next`, of the
 * same size, is fetched. */
typedef void (*fm_ep_copy_kernel)(void *to, const void *from, size_t bytes, const void *next);

/** How an operation that writes so many bytes should write them: past the caches where they would not stay there, since a
 * line that is written through a cache is read from memory first. NULL: as usual. */
fm_ep_copy_kernel fm_ep_copy_choose(size_t bytes);
/** Copies a row, its whole lines by `stream` where that is given, and fetches the next one. fm_ep_copy_fence() ends a series of copies: only
 * after it does a flag tell others of them. */
void fm_ep_copy_row(fm_ep_copy_kernel stream, void *to, const void *from, size_t bytes, const void *next);
void fm_ep_copy_ref(void *to, const void *from, size_t bytes, const void *next);
void fm_ep_copy_avx2(void *to, const void *from, size_t bytes, const void *next);
void fm_ep_copy_avx512(void *to, const void *from, size_t bytes, const void *next);
void fm_ep_copy_fence(void);

/* ep_sum.c: the kernels. */

fm_ep_sum_kernel fm_ep_sum_choose(void);
/** The same sum of rows of which some are in another format. */
void fm_ep_sum_cast(const fm_ep_sum *sum, int hidden, fm_ep_format format, fm_bf16 *out);
/** The same sum of rows of F32, which is not rounded at the end. */
void fm_ep_sum_wide(const fm_ep_sum *sum, int hidden, float *out);
void fm_ep_sum_ref(const fm_ep_sum *sum, int hidden, const fm_ep_sum *next, int stream, fm_bf16 *out);
void fm_ep_sum_avx2(const fm_ep_sum *sum, int hidden, const fm_ep_sum *next, int stream, fm_bf16 *out);
void fm_ep_sum_avx512(const fm_ep_sum *sum, int hidden, const fm_ep_sum *next, int stream, fm_bf16 *out);

#endif
