/**
 * @file eplb.h
 * Expert placement: which experts of a mixture-of-experts layer get copies, and which GPU holds
 * which copy, so that the busiest GPU has as little to do as possible.
 *
 * A layer has `experts` logical experts, each with a load (tokens routed to it in some window of time).
 * `replicas` slots are spread over `gpus` GPUs; every expert gets at least one slot, hot experts get several,
 * and an expert's load is shared evenly by its replicas. The load of a GPU is the sum over its slots. What
 * the planner returns:
 *
 *     phy2log [layers][slots]                 the expert in each slot
 *     log2phy [layers][experts][copies_max]   the slots of each expert, padded with -1
 *     logcnt  [layers][experts]               how many slots each expert has
 *
 * GPU g owns the slots slot_begin[g] .. slot_begin[g+1]-1. When `groups` is a multiple of `nodes` the
 * placement is hierarchical: experts form `groups` equal runs, a node holds groups/nodes whole groups with
 * all their replicas, and replicas never cross nodes, so that a gate that picks few groups sends tokens to
 * few nodes. Otherwise it is global. GPUs gpus/nodes*n .. gpus/nodes*(n+1)-1 form node n.
 *
 * With every plan comes a certificate per layer: the load of the busiest GPU, a lower bound that no placement
 * of that shape can beat (proof: README.md of the library), and the gap between the two.
 *
 * The library is a pure planner: no input or output, no threads, no state outside the arguments. Any number
 * of threads may call any function with arguments of their own; layers are independent, so a caller may split
 * them over threads. Failures leave outputs untouched; the sentence for people is fm_error_message().
 */
#ifndef FATHOM_EPLB_H
#define FATHOM_EPLB_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fm_eplb_policy {
    /** At least as balanced as FM_EPLB_REFERENCE on every layer: joint local search over replication and
     *  packing, exact branch and bound where the layer is small. A GPU holds an expert twice only where
     *  balance would otherwise be worse than the reference's, or slots outnumber experts. (Where sizes do not
     *  divide or GPUs differ, the same greedy algorithm without these demands takes the reference's place.) */
    FM_EPLB_BEST = 0,
    /** The tables of DeepSeek's EPLB: greedy packing of groups on nodes, greedy replication, greedy packing
     *  on GPUs, in float32. Equal loads are taken in index order. */
    FM_EPLB_REFERENCE = 1
} fm_eplb_policy;

/** How many expert copies a new plan may move. A move is a copy that a GPU holds in the new plan and did not
 *  hold before. */
typedef enum fm_eplb_moves {
    /** Any number. With a current placement the search of FM_EPLB_BEST starts from it where it is good, and
     *  GPUs that are alike change places so that the fewest copies move (an assignment problem, solved
     *  exactly); experts that stay on a GPU keep their slots. */
    FM_EPLB_MOVES_ANY = 0,
    /** At most `moves_per_gpu` on each GPU and layer; balance alone counts, so duplicates may occur. */
    FM_EPLB_MOVES_BOUNDED = 1,
    /** Only what gives every expert a copy again (after GPUs are lost, or have got smaller). */
    FM_EPLB_MOVES_FEWEST = 2
} fm_eplb_moves;

/** What is to be placed. Limits: every count up to 65535, layers * slots * copies within memory. */
typedef struct fm_eplb_shape {
    int layers;
    int experts;  /**< logical experts of a layer */
    int replicas; /**< copies to place in a layer; at least `experts` */
    int groups;   /**< expert groups of the gate; 1 when it has none */
    int nodes;    /**< machines; 1 when it does not matter */
    int gpus;
} fm_eplb_shape;

/** A placement that exists. */
typedef struct fm_eplb_placement {
    const int32_t *phy2log; /**< [layers][slots]; -1 for an empty slot */
    int slots;              /**< slots of a layer */
    /** [gpus] slots of each GPU, summing to `slots`; NULL: spread as fm_eplb_options says. */
    const int32_t *gpu_slots;
} fm_eplb_placement;

/** Zero-initialise and set `size`, or start from FM_EPLB_OPTIONS_INIT. New fields come last. */
typedef struct fm_eplb_options {
    size_t size; /**< sizeof(fm_eplb_options) */
    fm_eplb_policy policy;
    /** FM_EPLB_BEST: milliseconds for the whole call; 0: until the gap is below 1e-4 or the search finds
     *  nothing better, which gives the same result on every run. With a budget, however short, what
     *  FM_EPLB_BEST promises holds as well, but the result is the same only where the search ended before the
     *  budget did. */
    double budget_ms;
    /** [gpus] slots that each GPU has room for (0: the GPU is lost); NULL: `replicas` spread as evenly as
     *  possible, the first GPUs (of each node, when hierarchical) one more where it does not come out even.
     *  When they sum to more than `replicas` the planner leaves slots empty (-1 in phy2log). FM_EPLB_BEST
     *  only. */
    const int32_t *gpu_slots;
    /** [gpus] relative speeds, 1e-6 to 1e6; NULL: all 1. Loads of the certificate are then load / speed. FM_EPLB_BEST
     *  only. */
    const double *gpu_speed;
    /** The placement that is running, or NULL. */
    const fm_eplb_placement *current;
    fm_eplb_moves moves; /**< other than FM_EPLB_MOVES_ANY: needs `current` and FM_EPLB_BEST */
    int moves_per_gpu;   /**< for FM_EPLB_MOVES_BOUNDED */
} fm_eplb_options;

#define FM_EPLB_OPTIONS_INIT                                                             \
    {                                                                                    \
        sizeof(fm_eplb_options), FM_EPLB_BEST, 0, NULL, NULL, NULL, FM_EPLB_MOVES_ANY, 0 \
    }

/** What is known about one layer of a plan. Loads are those given, divided by a GPU's speed. */
typedef struct fm_eplb_certificate {
    double max_load;  /**< of the busiest GPU */
    double mean_load; /**< sum of loads / sum of speeds */
    /** No placement of this shape is below it, duplicates included. Where a layer with limited moves was
     *  searched to the end: no placement within the limit is. */
    double lower_bound;
    double gap;         /**< max_load / lower_bound - 1; 0 when all loads are 0 */
    int32_t moves;      /**< copies that GPUs hold and did not hold in the current placement; 0 without one */
    int32_t duplicates; /**< slots that hold an expert which an earlier slot of the same GPU holds */
    int32_t optimal;    /**< 1: proven, the gap is 0 up to rounding */
    int32_t reserved;
} fm_eplb_certificate;

/** A plan, owned by the caller and freed by fm_eplb_plan_free(). */
typedef struct fm_eplb_plan {
    fm_eplb_shape shape;
    int slots;                        /**< columns of phy2log: replicas plus the empty slots */
    int copies_max;                   /**< the largest entry of logcnt */
    int hierarchical;                 /**< 1: replicas stay within their group's node */
    int32_t *slot_begin;              /**< [gpus + 1] */
    int32_t *phy2log;                 /**< [layers][slots] */
    int32_t *log2phy;                 /**< [layers][experts][copies_max] */
    int32_t *logcnt;                  /**< [layers][experts] */
    fm_eplb_certificate *certificate; /**< [layers] */
} fm_eplb_plan;

/**
 * Plans all layers. `weight` is [layers][experts], finite and not negative; a layer whose loads are all 0 is
 * spread evenly. `options` may be NULL for the defaults (FM_EPLB_BEST, no budget).
 *
 * FM_ERR_ARG: a count below 1, replicas < experts, a load that is negative, NaN or infinite (the message
 * names layer and expert), sizes that do not divide in FM_EPLB_REFERENCE or in a hierarchical placement (the
 * message says which), a current placement of another shape or with an expert out of range, slots that do not
 * hold the replicas. FM_ERR_NOT_FOUND: no placement that keeps the move limit was found (in small layers:
 * there is none), or the current placement is not hierarchical where the plan is to be. FM_ERR_LIMIT: counts
 * beyond the limits. FM_ERR_NOMEM.
 */
FM_API FM_MUST_USE fm_status fm_eplb_rebalance(const fm_eplb_shape *shape, const float *weight,
                                               const fm_eplb_options *options, fm_eplb_plan **out_plan);
/** Frees a plan; NULL is allowed. */
FM_API void fm_eplb_plan_free(fm_eplb_plan *plan);

/**
 * The load of every GPU under any placement, one layer: out_load[gpus]. `phy2log` is that layer's [slots]
 * row, `slot_begin` [gpus + 1], `weight` the layer's [experts]. FM_ERR_ARG: an expert out of range, or one
 * with load and no slot; FM_ERR_NOMEM.
 */
FM_API FM_MUST_USE fm_status fm_eplb_gpu_loads(int experts, int gpus, const float *weight,
                                               const int32_t *phy2log, const int32_t *slot_begin,
                                               double *out_load);

/** One expert copied. */
typedef struct fm_eplb_transfer {
    int32_t layer;
    int32_t expert;
    int32_t from_gpu;  /**< -1: no GPU holds it, read it from storage */
    int32_t from_slot; /**< in the old placement; -1: the sender's spare buffer (or storage) */
    int32_t to_gpu;
    int32_t to_slot; /**< in the new plan; -1: the receiver's spare buffer */
    int32_t round;   /**< from 0, within the layer */
    int32_t reserved;
} fm_eplb_transfer;

/**
 * How to get from a placement to a plan. Transfers are ordered by layer, then round. All transfers of a round
 * may run at once; a round begins when the one before has ended. No slot is overwritten before the last read
 * of what it held. Layers are independent; run one after another they need at most `spare_slots` spare expert
 * buffers on any GPU.
 */
typedef struct fm_eplb_transfers {
    size_t count;
    fm_eplb_transfer *item; /**< [count] */
    int64_t bytes;          /**< over all transfers between different GPUs or from storage */
    int64_t bytes_in_max;   /**< the most that one GPU receives */
    int64_t bytes_out_max;  /**< the most that one GPU sends */
    int rounds_max;         /**< rounds of the longest layer */
    int spare_slots;        /**< spare buffers that a GPU needs at most */
    int64_t spare_bytes; /**< spare_slots times the bytes of an expert: the peak of extra memory on a GPU */
} fm_eplb_transfers;

/**
 * The transfers from `from` to `plan`. `expert_bytes` is what one expert's weights (and scales) take. A GPU
 * that has no slot in the plan counts as lost and is not read, unless `drained` is not 0. FM_ERR_ARG: shapes
 * differ; FM_ERR_NOMEM.
 */
FM_API FM_MUST_USE fm_status fm_eplb_transfers_new(const fm_eplb_placement *from, const fm_eplb_plan *plan,
                                                   int64_t expert_bytes, int drained,
                                                   fm_eplb_transfers **out_transfers);
/** Frees it; NULL is allowed. */
FM_API void fm_eplb_transfers_free(fm_eplb_transfers *transfers);

/**
 * Routing within a layer whose placement stands: how many of a batch's tokens for an expert go to which of
 * its replicas. A router holds a placement and workspace, serves one thread at a time, and allocates nothing
 * per batch.
 */
typedef struct fm_eplb_router fm_eplb_router;

/** A router for one layer: `phy2log` [slots] (-1: empty), `slot_begin` [gpus + 1], `gpu_speed` [gpus] as in
 *  fm_eplb_options; all are copied. FM_ERR_ARG, FM_ERR_LIMIT, FM_ERR_NOMEM. */
FM_API FM_MUST_USE fm_status fm_eplb_router_new(int experts, int gpus, const int32_t *phy2log,
                                                const int32_t *slot_begin, const double *gpu_speed,
                                                fm_eplb_router **out_router);
/**
 * Splits tokens[experts] so that the busiest GPU (tokens / speed) is as little busy as whole tokens allow;
 * this is the exact minimum. out_split[slots] are the tokens of each slot. `out_busiest`, when not NULL, is
 * that minimum. FM_ERR_ARG: a negative count, or tokens for an expert without a slot. FM_ERR_LIMIT: more than
 * 2^39 tokens in all.
 */
FM_API FM_MUST_USE fm_status fm_eplb_router_split(fm_eplb_router *router, const int64_t *tokens,
                                                  int64_t *out_split, double *out_busiest);
/** Frees it; NULL is allowed. */
FM_API void fm_eplb_router_free(fm_eplb_router *router);

/**
 * Loads over time: samples of [layers][experts] pushed one after another, and estimates drawn from them as
 * the `weight` of fm_eplb_rebalance(). Keeps the last `window` samples; one thread at a time.
 */
typedef struct fm_eplb_history fm_eplb_history;

/** `window` >= 1 samples are kept; `alpha` in (0, 1] is the weight of the newest sample in the moving
 *  average. FM_ERR_ARG, FM_ERR_LIMIT, FM_ERR_NOMEM. */
FM_API FM_MUST_USE fm_status fm_eplb_history_new(int layers, int experts, int window, double alpha,
                                                 fm_eplb_history **out_history);
/** Adds a sample, dropping the oldest when the window is full. FM_ERR_ARG: a load that is negative, NaN or
 *  infinite. */
FM_API FM_MUST_USE fm_status fm_eplb_history_push(fm_eplb_history *history, const float *loads);
/** Samples in the window. */
FM_API int fm_eplb_history_count(const fm_eplb_history *history);
/** out_weight[layers][experts]: the sum over the window. FM_ERR_STATE: no sample yet (here and below). */
FM_API FM_MUST_USE fm_status fm_eplb_history_sum(const fm_eplb_history *history, float *out_weight);
/** The exponential moving average over all samples ever pushed: y = y + alpha * (x - y), beginning with the
 *  first sample. */
FM_API FM_MUST_USE fm_status fm_eplb_history_average(const fm_eplb_history *history, float *out_weight);
/** The q-quantile over the window of each expert by itself, q in [0, 1], linear between order statistics: 0.5
 *  is the median, 1 the maximum. A plan for a high quantile stands up to bursts. FM_ERR_ARG, FM_ERR_STATE. */
FM_API FM_MUST_USE fm_status fm_eplb_history_quantile(fm_eplb_history *history, double q, float *out_weight);
/** Frees it; NULL is allowed. */
FM_API void fm_eplb_history_free(fm_eplb_history *history);

#ifdef __cplusplus
}
#endif
#endif
