/* A round of dispatch and combine, and a serial oracle of it that sees all ranks' inputs at once. */
#ifndef EP_ORACLE_H
#define EP_ORACLE_H

#include "ep_team.h"
#include "fm_gen.h"

enum { ORACLE_RANKS_MAX = 16 };

typedef struct ep_shape {
    int ranks, ranks_per_node;
    int hidden, experts, topk;
    int tokens[ORACLE_RANKS_MAX];
    fm_ep_arrangement arrangement;
    int alignment;
    fm_ep_format x_format, recv_format;
    int weighted, biases, check, staged;
    int cached;        /**< repeat the dispatch from the handle, with other rows */
    double masked;     /**< share of choices that are -1 */
    int all_to_expert; /**< every token's first choice; -1: any */
    int stride;        /**< rows of x and of the experts' outputs lie apart */
    fm_ep_format back; /**< format of combine */
    int pull;          /**< rows are gathered from where they lie */
    size_t
        memory; /**< bytes of the group's memory, where x and the experts' outputs lie as far as they fit */
} ep_shape;

/** Everything that all ranks put in. Drawn from `gen`; the same for all ways to spread it over ranks. */
typedef struct ep_inputs {
    ep_shape shape;
    int total; /**< tokens of all ranks */
    int first[ORACLE_RANKS_MAX + 1];
    int32_t *idx;     /**< [total][topk] */
    float *weights;   /**< [total][topk] */
    fm_bf16 *x;       /**< [total][hidden] */
    fm_bf16 *bias[2]; /**< [total][hidden] */
} ep_inputs;

ep_inputs ep_inputs_draw(fm_gen *gen, const ep_shape *shape);
void ep_inputs_free(ep_inputs *inputs);
/** A shape that a property may draw. */
ep_shape ep_shape_draw(fm_gen *gen, int ranks_max);

/**
 * Runs the round on threads and compares everything with the oracle: what arrived and where, the outputs, the gradients of
 * the weights. out_combined [total][hidden] (may be NULL) receives the outputs.
 */
void ep_round_check(const ep_inputs *inputs, fm_bf16 *out_combined);

/** Plays this rank's part in a group that exists, whose tokens_max is the largest of the shape, and compares what this
 * rank got. */
void ep_round_check_rank(fm_ep_group *group, const ep_inputs *inputs);

#endif
