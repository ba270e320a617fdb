/**
 * @file ep.h
 * Expert parallelism: tokens go to the ranks that own their experts (dispatch), and the experts' outputs come
 * back and are summed (combine).
 *
 * R ranks hold `experts / R` experts each: expert e lies on rank e / (experts / R). Every rank has tokens
 * [tokens][hidden] and, for each, `topk` chosen experts. One round:
 *
 *     fm_ep_dispatch dispatch = {.size = sizeof dispatch, .tokens = t, .topk = 8, .topk_idx = idx,
 *                                .topk_weights = weights, .x = x, .recv_x = rows, .recv_rows_max = n};
 *     FM_TRY(fm_ep_dispatch_run(group, &dispatch, handle));
 *     const fm_ep_received *received = fm_ep_handle_received(handle);
 *     ... the experts compute on `rows`, in place ...
 *     fm_ep_combine combine = {.size = sizeof combine, .x = rows, .topk_weights = weights, .out = y};
 *     FM_TRY(fm_ep_combine_run(group, &combine, handle));
 *
 * The terms, and what is asked of each call, follow DeepEP (github.com/deepseek-ai/DeepEP). Different here:
 * rows move by being read. A rank *posts* where its rows lie and which of them each peer needs; the peer
 * copies them from there to their final place. No row is packed, staged or copied twice within a node, the
 * order of rows never depends on timing, and combine adds in top-k order in f32 with one rounding, whatever
 * the number of ranks, the shape of nodes, or the transport.
 *
 * Operations are collective: all ranks of a group post the same operations in the same order. The number of
 * an operation is its *epoch*. Each may be split, so that computation runs between its halves:
 *
 *     FM_TRY(fm_ep_dispatch_post(group, &dispatch, handle, &op));    // returns at once
 *     ... compute ...
 *     FM_TRY(fm_ep_op_wait(op));                                     // or fm_ep_op_test() now and then
 *
 * No thread runs behind the caller's back: rows move inside post, test and wait of any operation of the
 * group. Memory named in a posted operation stays as it is until the operation has ended: `x` is read by
 * others, outputs are written by this rank.
 *
 * For decoding, where rows are few and time is short: a FIXED handle, whose shapes never change; a dispatch that pulls
 * (fm_ep_dispatch.is_pull), so that no row is copied before the experts' first product gathers it; and one
 * handle for each micro-batch, so that one computes while another's rows move.
 *
 * Threads: a group belongs to one thread at a time; different ranks' groups are used at the same time.
 *
 * Faults: whoever does not arrive within `timeout_ms` is named in an FM_ERR_TIMEOUT, with operation and
 * epoch. The operation stays in flight: wait again, or fm_ep_group_mask() the peer and wait again.
 */
#ifndef FATHOM_EP_H
#define FATHOM_EP_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/numfmt.h"
#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Ranks at most: the flags grow with the square of the number of ranks, to 256 MB in all at this many. */
#define FM_EP_RANKS_MAX 1024
/** Choices of a token at most; published models choose 1 to 16. */
#define FM_EP_TOPK_MAX 32
/** Operations in flight at most. Two micro-batches need 2 to 4. */
#define FM_EP_IN_FLIGHT_MAX 16
/** Consecutive channels that share one FP8 scale. */
#define FM_EP_SCALE_BLOCK 128

/* ---- the world: where ranks meet ---- */

/** Where the ranks of one run meet: memory that all of them see. */
typedef struct fm_ep_world fm_ep_world;

/** A world whose ranks are `ranks` threads of this process, which the caller starts. FM_ERR_ARG: not in
 * 1..FM_EP_RANKS_MAX; FM_ERR_NOMEM. */
FM_API FM_MUST_USE fm_status fm_ep_world_create(int ranks, fm_ep_world **out_world);
/**
 * The world of an MPI program (mpirun): this process is rank *out_rank of it. MPI is started unless the program has
 * done so; one thread of a process uses its groups. Ranks of a node (fm_ep_options.ranks_per_node) share memory that MPI
 * gives them, which they read and write directly; nodes send each other messages. A node lies on one machine; a machine
 * may hold several, which then exchange messages as machines would.
 *
 * Collective, without a timeout of its own (mpirun has one). Joining a group has the group's. If a rank is lost, the
 * others' operations fail with FM_ERR_TIMEOUT, provided that mpirun lets them live (Open MPI: --enable-recovery); a world
 * that has lost a rank is freed without ending MPI, which only all together could do.
 *
 * The plug-in that knows MPI is looked for at FM_EP_MPI_PLUGIN, beside the program in ../lib/fathom, and where it was built.
 *
 * FM_ERR_UNAVAILABLE: no plug-in of this build, or no MPI library for it; FM_ERR_UNSUPPORTED: MPI does not
 * start, or has ended already; FM_ERR_NOMEM.
 */
FM_API FM_MUST_USE fm_status fm_ep_world_open_mpi(fm_ep_world **out_world, int *out_rank);
/**
 * Splits an MPI world: the ranks that give the same `color` (0 or more) form a world of their own, numbered in the same
 * order. So a job of P x E ranks gets worlds of E for its experts and of P for its pipeline's ring. Collective, and so is
 * freeing each part; the whole is freed last. FM_ERR_ARG: no MPI world, or a negative color; else as above.
 */
FM_API FM_MUST_USE fm_status fm_ep_world_split_mpi(fm_ep_world *world, int color, fm_ep_world **out_world,
                                                   int *out_rank);
FM_API int fm_ep_world_ranks(const fm_ep_world *world);
/** Frees the memory that ranks read from each other: call it when no rank uses its group any more and all
 * groups are freed. NULL is allowed. */
FM_API void fm_ep_world_free(fm_ep_world *world);

/* ---- the group: one rank's membership ---- */

/** What the ranks agree on. All must give the same. */
typedef struct fm_ep_options {
    size_t size;        /**< sizeof(fm_ep_options) */
    int ranks_per_node; /**< nodes are runs of this many ranks, the last may have fewer; 0: all ranks on one, or
                             over MPI as many as run on the first rank's machine */
    int hidden;         /**< channels of a row; any */
    int experts;        /**< a multiple of the number of ranks */
    int topk_max;       /**< choices of a token, at most; up to FM_EP_TOPK_MAX */
    int tokens_max;     /**< tokens of one rank in one operation, at most; may be 0 */
    int in_flight;      /**< operations in flight at a time; 0: 4 */
    int check;  /**< not 0: every row carries a checksum of (epoch, source, row number, bytes), which the
                             reader verifies. Costs a pass over each row on both sides */
    int staged; /**< not 0: post copies rows into shared memory, so that x may change as soon as it returns;
                             costs a copy. Among processes of one node always so, for rows outside
                             fm_ep_group_memory() */
    int casts_combine; /**< not 0: combines may name a format other than BF16, for which there is room then */
    size_t memory_bytes;         /**< of fm_ep_group_memory() */
    int ring_depth;              /**< messages under way between two neighbours; 0: 4 */
    size_t collective_bytes_max; /**< largest contribution to fm_ep_all_gather(), input of
                                      fm_ep_reduce_scatter() */
    size_t ring_bytes_max;       /**< largest message of fm_ep_ring_send(), tag included; 0: no ring */
    int64_t timeout_ms;          /**< a wait fails after this long; 0: 100 s, negative: never */
    int wide;                    /**< not 0: rows may be FM_EP_F32, for which there is room then */
} fm_ep_options;

typedef struct fm_ep_group fm_ep_group;

/**
 * Bytes of shared memory that each rank of a group will hold: flags, lists, rows cast to FP8, the ring, and,
 * where there are several nodes, rows on their way between them. All is sized for the worst case that the
 * options allow (every token of every rank to one rank), once; what is never used is never touched, so costs
 * address space only. Over MPI with several nodes each rank also keeps messages in private memory, as many bytes for each
 * other node and operation in flight as the rows that it can send there. FM_ERR_ARG as for fm_ep_group_create(); FM_ERR_LIMIT when a size overflows.
 */
FM_API FM_MUST_USE fm_status fm_ep_size_hint(const fm_ep_options *options, int ranks, size_t *out_bytes);

/**
 * Joins the world as `rank`. Returns when all ranks have joined, on all of them with FM_OK or on none.
 *
 * FM_ERR_ARG: an option out of range, or options that differ between ranks (the message names both ranks and
 * values); FM_ERR_TIMEOUT: a rank did not come; FM_ERR_EXISTS: the rank is taken; FM_ERR_NOMEM or
 * FM_ERR_LIMIT: here or on another rank. After a failure a new world is needed.
 */
FM_API FM_MUST_USE fm_status fm_ep_group_create(fm_ep_world *world, int rank, const fm_ep_options *options,
                                                fm_ep_group **out_group);
/** Leaves. Operations in flight are forgotten; NULL is allowed. */
FM_API void fm_ep_group_free(fm_ep_group *group);

FM_API int fm_ep_group_rank(const fm_ep_group *group);
FM_API int fm_ep_group_ranks(const fm_ep_group *group);
/**
 * Memory that all ranks of the node see, for the caller to use as it likes: memory_bytes of it, aligned to cache lines,
 * until the group is freed. Rows that lie in it need not be staged: among processes, what dispatch and combine post is
 * best kept here. NULL, and 0 bytes, where the group has none.
 */
FM_API void *fm_ep_group_memory(fm_ep_group *group, size_t *out_bytes);
/** The epoch of the operation posted last; 0 before the first. */
FM_API uint64_t fm_ep_group_epoch(const fm_ep_group *group);

/** Changes this rank's timeout (fm_ep_options.timeout_ms): 0: 100 s, negative: never. */
FM_API void fm_ep_group_set_timeout(fm_ep_group *group, int64_t timeout_ms);

/* ---- layout ---- */

/**
 * What a choice of experts means for traffic: a pure function, which dispatch itself does not need.
 *
 * topk_idx [tokens][topk]: expert numbers, -1 for none. Outputs, each of which may be NULL:
 * out_tokens_per_rank [ranks] and out_tokens_per_node [nodes]: tokens with at least one choice there (a token
 * counts once); out_tokens_per_expert [experts]: choices; out_in_rank [tokens][ranks]: 1 where the token goes.
 * FM_ERR_ARG: sizes below 0 or not divisible, topk above FM_EP_TOPK_MAX, a choice outside -1..experts-1 or made twice.
 */
FM_API FM_MUST_USE fm_status fm_ep_layout(const int32_t *topk_idx, int tokens, int topk, int experts,
                                          int ranks, int ranks_per_node, int32_t *out_tokens_per_rank,
                                          int32_t *out_tokens_per_node, int32_t *out_tokens_per_expert,
                                          uint8_t *out_in_rank);

/* ---- handles ---- */

/** How received rows lie. */
typedef enum fm_ep_arrangement {
    /** One row for each (token, rank): by source rank, then token. */
    FM_EP_PLAIN,
    /** One row for each choice of a local expert: by expert, then source rank, token, lane. Each expert's
     * block begins at a multiple of the alignment and is filled up with zero rows: the input of a grouped
     * GEMM. */
    FM_EP_EXPANDED,
    /** As EXPANDED, but the block of local expert e begins at row e * tokens_max * ranks, whatever arrives: the
     * form for decoding, whose shapes never change. Rows that nothing arrived for are left as they are. */
    FM_EP_FIXED,
} fm_ep_arrangement;

/** What is known of one dispatch: what combine, and every further dispatch of the same choices, needs. */
typedef struct fm_ep_handle fm_ep_handle;

/** What arrived. Arrays belong to the handle and are valid until its next dispatch that is not cached. */
typedef struct fm_ep_received {
    int rows;  /**< rows of recv_x that are in use, zero rows included; FIXED: all */
    int items; /**< (token, this rank) pairs */
    int topk;
    int local_experts;
    const int32_t *expert_count; /**< [local_experts] choices of each */
    const int32_t *expert_begin; /**< [local_experts + 1] first row of each block; PLAIN: all 0 */
    const int32_t *source_begin; /**< [ranks + 1] first item of each source rank */
    const int32_t *item_token;   /**< [items] number of the token at its source */
    const int32_t *topk_idx;     /**< [items][topk] local expert numbers, -1 where not local */
    const float *topk_weights;   /**< [items][topk] 0 where not local, or where the source gave no weights */
    const int32_t *choice_begin; /**< [items + 1] first choice of each item */
    const int32_t *choice_row;   /**< [choices] row of each choice of a local expert, in lane order */
    const float *row_weight;     /**< [rows] weight of each row; 0 where nothing arrived. NULL when PLAIN */
    const int32_t
        *row_item; /**< [rows] item of each row; -1 where nothing arrived. NULL when PLAIN (row = item) */
    /** After a pull [rows] addresses of the rows and of their scales where they lie, NULL where nothing arrived; valid
     * from the operation's arrival until its release. Otherwise undefined. */
    const void *const *row_at;
    const void *const *row_scales_at;
} fm_ep_received;

/**
 * A handle for dispatches of this arrangement, sized for the worst case of the group. `alignment`: of EXPANDED
 * blocks, in rows, at least 1. FM_ERR_ARG, FM_ERR_LIMIT (sizes overflow), FM_ERR_NOMEM. Belongs to the group's
 * thread, and is freed before the group.
 */
FM_API FM_MUST_USE fm_status fm_ep_handle_create(fm_ep_group *group, fm_ep_arrangement arrangement,
                                                 int alignment, fm_ep_handle **out_handle);
FM_API void fm_ep_handle_free(fm_ep_handle *handle);
/** Rows that a dispatch with this handle can receive at most: for sizing recv_x once. */
FM_API int64_t fm_ep_handle_rows_max(const fm_ep_handle *handle);
/** Valid once a dispatch with this handle has ended with FM_OK. */
FM_API const fm_ep_received *fm_ep_handle_received(const fm_ep_handle *handle);

/* ---- operations ---- */

/** An operation in flight. Each is waited for, or tested until done; after that it is gone. */
typedef struct fm_ep_op fm_ep_op;

/** Moves what can be moved now and tells whether the operation has ended (1) or not (0). When it has ended,
 * the result is the operation's, as from fm_ep_op_wait(). */
FM_API FM_MUST_USE fm_status fm_ep_op_test(fm_ep_op *op, int *out_done);
/**
 * Ends the operation: this rank has what it is to receive, and all peers have read what they need from it.
 * FM_ERR_TIMEOUT: see the top; the only failure that leaves the operation in flight. FM_ERR_STATE: a peer
 * posted another operation at this epoch, or has gone on without this rank; FM_ERR_FORMAT: a row's checksum
 * is wrong (option `check`).
 */
FM_API FM_MUST_USE fm_status fm_ep_op_wait(fm_ep_op *op);

/**
 * Waits, as fm_ep_op_wait() does, but only until this rank has what it is to receive: outputs are complete, peers may
 * still be reading what this rank posted. The operation stays in flight in any case, and is ended by fm_ep_op_wait() or
 * fm_ep_op_test(), whose result is the same.
 */
FM_API FM_MUST_USE fm_status fm_ep_op_arrive(fm_ep_op *op);
/** Whether it has come so far: 1 or 0. Moves nothing; fm_ep_op_test() does. */
FM_API int fm_ep_op_has_arrived(const fm_ep_op *op);
/** Pulled rows (fm_ep_dispatch.is_pull) are not looked at any more: their owners are told. fm_ep_op_wait() does it, too;
 * fm_ep_op_test() does not, and reports a pull that was not released as not done. */
FM_API void fm_ep_op_release(fm_ep_op *op);

/** The form of rows. */
typedef enum fm_ep_format {
    FM_EP_BF16,
    FM_EP_FP8_F32,   /**< e4m3, and an f32 scale for each 128 channels: value = code * scale */
    FM_EP_FP8_UE8M0, /**< e4m3, and a ue8m0 scale for each 128 channels */
    /** Combine only: 10 bits a channel, a sign and a logarithm in 510 even steps between the least and the greatest
     * magnitude of 128 channels (at most 32 octaves apart), which travel as two BF16 numbers. Zero and NaN have codes of
     * their own. */
    FM_EP_LOGFMT10,
    /** f32, neither cast nor rounded: for training that is to equal one rank's. Where the group is `wide`. */
    FM_EP_F32,
} fm_ep_format;

/** Scales of a row: hidden / 128, rounded up. */
static inline int fm_ep_scales(int hidden)
{
    return (hidden + FM_EP_SCALE_BLOCK - 1) / FM_EP_SCALE_BLOCK;
}

/** Bytes of a row, and of its scales (or, LogFMT-10, ends of ranges), in a format. */
FM_API size_t fm_ep_row_bytes(fm_ep_format format, int hidden);
FM_API size_t fm_ep_scale_bytes(fm_ep_format format, int hidden);

/**
 * Casts one BF16 row as dispatch and combine do (F32: widens it, which neither does). FP8: over each 128 channels, scale = max(amax, 1e-4) / 448, rounded up
 * to a power of two for UE8M0, and code = e4m3(x / scale) computed as x * (448 / max(amax, 1e-4)), or x divided
 * exactly by the power of two. Channels that are NaN or infinite become NaN and do not count for amax, in LogFMT-10,
 * too; there each channel takes the level that is nearest to it, and numbers below 2^-126 become 0 or that.
 */
FM_API void fm_ep_cast_row(const fm_bf16 *row, int hidden, fm_ep_format format, void *out_row,
                           void *out_scales);
/** The values that a row in a format stands for: out [hidden]. */
FM_API void fm_ep_uncast_row(const void *row, const void *scales, int hidden, fm_ep_format format,
                             float *out);

/**
 * One dispatch. x [tokens][hidden]; rows lie `x_stride` bytes apart (0: without gaps). recv_x likewise, rows
 * without gaps, scales [rows][fm_ep_scales(hidden)]. All caller's.
 */
typedef struct fm_ep_dispatch {
    size_t size; /**< sizeof(fm_ep_dispatch) */
    int cached;  /**< not 0: the choices of the handle's last dispatch; tokens, topk_* are not looked at */
    int is_pull; /**< not 0: rows are not copied. From fm_ep_op_arrive() to fm_ep_op_release() the handle's row_at tells
                      where they lie; recv_* are not looked at. Each rank may choose for itself */
    int tokens;                /**< up to tokens_max */
    int topk;                  /**< up to topk_max; the same on all ranks */
    const int32_t *topk_idx;   /**< [tokens][topk] experts, each at most once in a token; -1 for none */
    const float *topk_weights; /**< [tokens][topk], travel with the rows; NULL: none */
    fm_ep_format x_format;     /**< BF16, FP8 or F32 */
    fm_ep_format recv_format;  /**< x_format, or FP8 where x is BF16: cast once, at the source */
    const void *x;
    size_t x_stride;
    const void *x_scales; /**< where x is FP8: without gaps */
    void *recv_x;
    void *recv_scales;     /**< where recv_format is FP8 */
    int64_t recv_rows_max; /**< room in recv_x. FM_ERR_LIMIT, on this rank alone, when more arrive */
} fm_ep_dispatch;

/**
 * Posts a dispatch. FM_ERR_ARG: a size or choice out of range (the message names token, lane and value);
 * FM_ERR_STATE: cached without a dispatch before, or not cached (or a pull) while an operation with this handle is in
 * flight; FM_ERR_BUSY: `in_flight` operations are not ended. After such a failure nothing is posted and the
 * epoch is not used up, so the call may be made again.
 */
FM_API FM_MUST_USE fm_status fm_ep_dispatch_post(fm_ep_group *group, const fm_ep_dispatch *dispatch,
                                                 fm_ep_handle *handle, fm_ep_op **out_op);
/** Posts and waits. */
FM_API FM_MUST_USE fm_status fm_ep_dispatch_run(fm_ep_group *group, const fm_ep_dispatch *dispatch,
                                                fm_ep_handle *handle);

/**
 * One combine: for each of this rank's tokens of the handle's dispatch
 *
 *     out = bf16(bias_0 + bias_1 + sum over lanes k of weight_k * row_k)
 *
 * in f32 from left to right: products are rounded, then added, starting from +0. row_k is the row of choice k:
 * EXPANDED and FIXED. With a PLAIN handle there is one row for each rank that the token went to, in the order
 * of each rank's first lane, and weights must be NULL: what a rank sums before combine is its own affair, so
 * only EXPANDED results are independent of the number of ranks.
 *
 * It is the backward pass of dispatch (x: gradients of the rows; row_weights: gradients of row_weight). The
 * backward pass of a weighted combine is a cached dispatch of the gradient of `out`: multiply the received
 * rows by row_weight, and the gradient of a weight is the product of the received row and the forward row.
 *
 * Experts' rows are added where the experts left them: combine pulls within a node.
 */
typedef struct fm_ep_combine {
    size_t size;               /**< sizeof(fm_ep_combine) */
    const void *x;             /**< [received rows][hidden] of BF16, or of F32 where that is the format */
    size_t x_stride;           /**< bytes from row to row; 0: without gaps */
    const float *topk_weights; /**< [tokens][topk] of this rank's own tokens; NULL: a plain sum */
    const void *bias[2];       /**< each [tokens][hidden], or NULL; of the type of `out` */
    const float *row_weights;  /**< one for each choice that was received, sent back to out_weights: PLAIN
                                   [items][topk] (lanes that are not local are not looked at), else [rows];
                                   NULL: none. FM_ERR_STATE where a rank wants out_weights and another that it
                                   has rows from gave none */
    /** How rows travel: BF16, or cast where they are posted (fm_ep_options.casts_combine), which costs accuracy (README.md
     * says how much) and saves bytes between nodes. The sum stays in f32. F32: rows, biases and `out` are f32, and nothing is
     * rounded at the end. */
    fm_ep_format format;
    void *out;          /**< [tokens][hidden] of BF16 (F32 where that is the format) without gaps */
    float *out_weights; /**< [tokens][topk]: row_weights of each choice, 0 for -1; NULL: not wanted */
} fm_ep_combine;

/** Posts a combine. FM_ERR_ARG, FM_ERR_BUSY as for dispatch; FM_ERR_STATE: the handle has seen no dispatch. */
FM_API FM_MUST_USE fm_status fm_ep_combine_post(fm_ep_group *group, const fm_ep_combine *combine,
                                                fm_ep_handle *handle, fm_ep_op **out_op);
FM_API FM_MUST_USE fm_status fm_ep_combine_run(fm_ep_group *group, const fm_ep_combine *combine,
                                               fm_ep_handle *handle);

/* ---- collectives ---- */

/* The functions without `_post` wait as well. One of them that fails with FM_ERR_TIMEOUT leaves an operation in flight
 * that can no longer be named: rejoining ends it. */

/** Returns when all ranks have called it. */
FM_API FM_MUST_USE fm_status fm_ep_barrier(fm_ep_group *group);
FM_API FM_MUST_USE fm_status fm_ep_barrier_post(fm_ep_group *group, fm_ep_op **out_op);
/** Every rank gives `bytes` and gets all: out [ranks][bytes], masked ranks' parts untouched. FM_ERR_ARG: more
 * than collective_bytes_max. Ranks must agree on `bytes`: FM_ERR_STATE otherwise. */
FM_API FM_MUST_USE fm_status fm_ep_all_gather(fm_ep_group *group, const void *from, size_t bytes, void *out);
FM_API FM_MUST_USE fm_status fm_ep_all_gather_post(fm_ep_group *group, const void *from, size_t bytes,
                                                   void *out, fm_ep_op **out_op);
/** x [ranks][count] of f32 on every rank; out [count] is the sum of part `rank` over all ranks, added in rank
 * order. 4 * ranks * count is at most collective_bytes_max. */
FM_API FM_MUST_USE fm_status fm_ep_reduce_scatter(fm_ep_group *group, const float *x, size_t count,
                                                  float *out);
FM_API FM_MUST_USE fm_status fm_ep_reduce_scatter_post(fm_ep_group *group, const float *x, size_t count,
                                                       float *out, fm_ep_op **out_op);

/* ---- the neighbour ring ---- */

/**
 * Messages between pipeline neighbours (rank - 1 and rank + 1, around the ring): what a pipeline's executor is
 * given as its link. A message is a tag (any bytes, `tag_bytes` the same at both ends) and a payload; those
 * from one rank to another arrive in order, whole. Neither function blocks: FM_ERR_BUSY, without a message,
 * says that there is no room, or nothing there yet. FM_ERR_ARG: peer is no neighbour, or tag and payload are
 * more than ring_bytes_max. Not collective, and independent of operations and epochs. Between nodes (over MPI) messages
 * may need either end to call something of its group before they move on; FM_ERR_IO: MPI has failed.
 */
FM_API FM_MUST_USE fm_status fm_ep_ring_send(fm_ep_group *group, int peer, const void *tag, size_t tag_bytes,
                                             const void *payload, size_t bytes);
/** FM_ERR_LIMIT: the payload has more than `capacity` bytes; the tag is filled and the message stays.
 * FM_ERR_STATE: its tag has another size. */
FM_API FM_MUST_USE fm_status fm_ep_ring_receive(fm_ep_group *group, int peer, void *out_tag, size_t tag_bytes,
                                                void *out_payload, size_t capacity, size_t *out_bytes);

/* ---- faults and statistics ---- */

/**
 * Masks a peer out (1), or in again (0; only fm_ep_group_rejoin() makes that safe): from now on, in operations
 * in flight too, this rank neither waits for it nor reads from it; its tokens are not received and what its
 * experts would have added is left out of sums. Local: other ranks find out by their own timeouts or are told
 * by the caller. Over MPI a masked rank of this node takes those with it whose rows it received for the node:
 * operations then fail with FM_ERR_UNAVAILABLE, naming them, until they are masked, too. FM_ERR_ARG: no such rank, or
 * this rank itself.
 */
FM_API FM_MUST_USE fm_status fm_ep_group_mask(fm_ep_group *group, int peer, int masked);
/** The rank that the last FM_ERR_TIMEOUT of an operation or of rejoining named; -1: none since the last rejoining. */
FM_API int fm_ep_group_late_peer(const fm_ep_group *group);
FM_API int fm_ep_group_is_masked(const fm_ep_group *group, int peer);
/**
 * All ranks, those that were masked too, call it to begin afresh: operations in flight are forgotten, masks
 * cleared, and all go on from one epoch. Handles of dispatches before it may be dispatched with anew only.
 * FM_ERR_TIMEOUT: a rank did not come; call it again.
 */
FM_API FM_MUST_USE fm_status fm_ep_group_rejoin(fm_ep_group *group);

/** Since the group was created. Rows are those this rank received (dispatch) or summed (combine). */
typedef struct fm_ep_peer_stats {
    uint64_t dispatch_rows, combine_rows; /**< (token, rank) items; rows added */
    uint64_t wait_ns;                     /**< standing still because this peer had not posted or not read */
} fm_ep_peer_stats;

typedef struct fm_ep_stats {
    uint64_t operations;
    uint64_t bytes_self;   /**< rows read that lie on this rank */
    uint64_t bytes_node;   /**< read from other ranks of this node */
    uint64_t bytes_remote; /**< that this rank fetched from other nodes, each row once for the whole node */
    uint64_t bytes_direct; /**< that would have crossed between nodes to this rank without forwarding */
} fm_ep_stats;

FM_API fm_ep_stats fm_ep_group_stats(const fm_ep_group *group);
/** FM_ERR_ARG: no such rank. */
FM_API FM_MUST_USE fm_status fm_ep_group_peer_stats(const fm_ep_group *group, int peer,
                                                    fm_ep_peer_stats *out_stats);

#ifdef __cplusplus
}
#endif
#endif
