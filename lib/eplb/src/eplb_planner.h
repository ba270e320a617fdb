/**
 * @file eplb_planner.h
 * One layer in work: how it falls into problems, and back.
 *
 * A global placement is one node. Each node has experts/nodes experts, numbered from 0 within it in the order
 * of member[]; its GPUs' slots are numbered from 0 as well. A *row* is a layer's phy2log over all slots, with
 * experts of the layer and -1 for empty slots; a node's solution is the same for its slots with its own
 * numbers.
 */
#ifndef FATHOM_EPLB_PLANNER_H
#define FATHOM_EPLB_PLANNER_H

#include "eplb_private.h"
#include "eplb_reference.h"
#include "eplb_search.h"

typedef struct fm_eplb_planner {
    const fm_eplb_shape *shape;
    int groups; /* 1 when the placement is global, as are nodes */
    int nodes;
    int slots;
    int even; /* equal slots and speeds everywhere and no slot empty: the reference can be computed */
    int node_gpus;
    int node_experts;
    const int32_t *slot_begin; /* [gpus + 1] */
    double *speed;             /* [gpus] */
    int32_t *node_slot_begin;  /* [nodes][node_gpus + 1], from 0 */
    int32_t *node_replicas;    /* [nodes] */
    int32_t *group_slot_begin; /* [nodes + 1]: a node as a GPU with slots for groups */
    double *node_speed;        /* [nodes] */

    float *weight;        /* [experts] of the layer; ones when all its loads are 0 */
    double *load;         /* [experts] the same */
    double *group_load;   /* [groups] */
    int32_t *group_node;  /* [groups] */
    int32_t *member;      /* [experts] experts of node 0, of node 1, ... */
    int32_t *local;       /* [experts] number of an expert within its node */
    double *member_load;  /* [experts] in the order of member */
    float *member_weight; /* [experts] */
    double *gpu_load;     /* [gpus] scratch */
    int32_t *count;       /* [experts] scratch */
    int32_t *heap;        /* [2 * experts + gpus] scratch */
    int32_t *solution;    /* [slots] scratch */
    int32_t *row;         /* [slots] scratch */
    void *pairs;          /* workspace of eplb_pairs.h */

    fm_eplb_reference reference;
    fm_eplb_search search;
} fm_eplb_planner;

/** `speed` is [gpus] or NULL. Shape and slot_begin are borrowed. */
fm_status fm_eplb_planner_init(fm_eplb_planner *planner, const fm_eplb_shape *shape,
                               const int32_t *slot_begin, const double *speed);
void fm_eplb_planner_clean_up(fm_eplb_planner *planner);

/** Takes up a layer. */
void fm_eplb_planner_load(fm_eplb_planner *planner, const float *weight);
/** Fills member, local, member_load and member_weight from group_node. */
void fm_eplb_planner_seat_groups(fm_eplb_planner *planner);
/** Fills group_node (and what follows from it) from a row that keeps the hierarchy. */
void fm_eplb_planner_read_groups(fm_eplb_planner *planner, const int32_t *row);
/** A node's problem: no duplicates where the slots allow it, free moves. Borrows from the planner. */
fm_eplb_problem fm_eplb_planner_node(const fm_eplb_planner *planner, int node);
/** Putting groups on nodes, as a problem. */
fm_eplb_problem fm_eplb_planner_groups(const fm_eplb_planner *planner);

/** A node's part of a row as a solution, and back. */
void fm_eplb_planner_from_row(const fm_eplb_planner *planner, int node, const int32_t *row,
                              int32_t *solution);
void fm_eplb_planner_to_row(const fm_eplb_planner *planner, int node, const int32_t *solution, int32_t *row);

/** Time of each GPU under a row in gpu_load; returns the largest. Needs the loads alone. */
double fm_eplb_planner_time(fm_eplb_planner *planner, const int32_t *row);

#endif
