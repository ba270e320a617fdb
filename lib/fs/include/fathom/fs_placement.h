/**
 * @file fs_placement.h
 * Which nodes share chains, and in which order files use them. Pure functions: the same arguments give the same result
 * on every machine and in every version.
 *
 * When a node is lost, the nodes that share chains with it serve its reads and fill its successor. If each pair of nodes
 * shares the same number of chains, that load falls on all others alike: a *balanced incomplete block design*, whose
 * blocks are the chains. Where none exists, or none is found, the numbers differ as little as the search can make them.
 *
 *     uint32_t places[10 * 3];                                // 5 nodes of 6 targets, 3 replicas: 10 chains
 *     FM_TRY(fm_fs_placement_solve(5, 6, 3, places));         // each pair of nodes shares 3 of them
 *
 * Threads: any.
 */
#ifndef FATHOM_FS_PLACEMENT_H
#define FATHOM_FS_PLACEMENT_H

#include <stdint.h>

#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { FM_FS_PLACEMENT_NODES_MAX = 1024, FM_FS_PLACEMENT_TARGETS_MAX = 1024 /**< of a node */ };

/**
 * Chains of `replicas` places on `nodes` nodes with `targets` targets each: nodes * targets / replicas of them.
 * `out_places[chain * replicas + i]` is the node (from 0) of the chain's i-th member; the first is the head. Each node
 * is in `targets` chains, never twice in one, and heads as many chains as any other, or one more or less. Designs are
 * constructed for all triples, planes, and most other families of up to a hundred nodes; where there is none and replicas
 * divide targets, pairs mostly differ by one at most, up to 1000 nodes. Takes a second at most, and mostly a few
 * milliseconds. FM_ERR_ARG: fewer nodes than replicas, or targets that replicas do not divide;
 * FM_ERR_LIMIT, FM_ERR_NOMEM.
 */
FM_API FM_MUST_USE fm_status fm_fs_placement_solve(uint32_t nodes, uint32_t targets, uint32_t replicas,
                                                   uint32_t *out_places);

/** How even a placement is: chains that a pair of nodes shares, chains that a node heads. */
typedef struct fm_fs_placement_spread {
    uint32_t pair_min, pair_max, head_min, head_max;
} fm_fs_placement_spread;
/** Measures what fm_fs_placement_solve() gave, or any places of that shape. FM_ERR_ARG, FM_ERR_LIMIT, FM_ERR_NOMEM. */
FM_API FM_MUST_USE fm_status fm_fs_placement_measure(uint32_t nodes, uint32_t targets, uint32_t replicas,
                                                     const uint32_t *places,
                                                     fm_fs_placement_spread *out_spread);

/**
 * Puts `ids` into an order that follows from `seed` alone: files that start at different chains do not march in step.
 * Part of the format of files, so it never changes: with x = seed, and draw() = splitmix64 (x += 0x9E3779B97F4A7C15;
 * z = x; z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9; z = (z ^ z >> 27) * 0x94D049BB133111EB; z ^ z >> 31), for i from
 * count - 1 down to 1, ids[i] and ids[j] change places, where j is the upper 64 bits of draw() * (i + 1).
 */
FM_API void fm_fs_placement_shuffle(uint64_t seed, uint32_t *ids, uint32_t count);

#ifdef __cplusplus
}
#endif
#endif
