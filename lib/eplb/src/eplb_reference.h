/**
 * @file eplb_reference.h
 * The greedy algorithm of DeepSeek's EPLB, one layer at a time, in float32 and with its tie rules.
 */
#ifndef FATHOM_EPLB_REFERENCE_H
#define FATHOM_EPLB_REFERENCE_H

#include <stdint.h>

#include "fathom/eplb.h"

/** Workspace of one thread. */
typedef struct fm_eplb_reference {
    uint64_t *keys;    /* [replicas] */
    uint64_t *scratch; /* [replicas] */
    uint64_t *more;    /* [replicas] */
    uint64_t *heap;    /* [max(experts, gpus, nodes)] */
    int32_t *pack;     /* [replicas] of each item */
    int32_t *rank;     /* [replicas] of each item within its pack */
    int32_t *fill;     /* [max(gpus, nodes)] */
    int32_t *count;    /* [experts] */
    int32_t *item;     /* [replicas] expert of each replica */
    int32_t *copy;     /* [replicas] which copy of its expert a replica is */
    uint64_t *order;   /* [experts] keys of node 0, of node 1, ... */
    int32_t *node;     /* [experts] in the order of `member` */
    int32_t *member;   /* [experts] experts in the order of their nodes */
    float *load;       /* [experts] in the order of `member` */
    float *group;      /* [groups] */
    float *share;      /* [replicas] load of each replica */
} fm_eplb_reference;

fm_status fm_eplb_reference_init(fm_eplb_reference *reference, int experts, int replicas, int groups,
                                 int packs);
void fm_eplb_reference_clean_up(fm_eplb_reference *reference);

/**
 * Puts `count` items into `packs` packs of count/packs items each: in descending order of load, each into the
 * least loaded pack with room. The answer is in reference->pack and reference->rank.
 */
void fm_eplb_reference_pack(fm_eplb_reference *reference, const float *load, int count, int packs);

/**
 * One node: replicates `experts` experts to `replicas` and packs them on `gpus` GPUs. out_slot[replicas] gets
 * the expert of each slot, out_copy[replicas] (or NULL) which copy of it that is, in the order in which
 * copies were added.
 */
void fm_eplb_reference_node(fm_eplb_reference *reference, const float *load, int experts, int replicas,
                            int gpus, int32_t *out_slot, int32_t *out_copy);

/** One layer. `groups` and `nodes` are 1 for a global placement; `out_copy` may be NULL. */
void fm_eplb_reference_layer(fm_eplb_reference *reference, const fm_eplb_shape *shape, int groups, int nodes,
                             const float *weight, int32_t *out_slot, int32_t *out_copy);

#endif
