/**
 * @file eplb_relabel.h
 * Which GPU plays which part of a plan, so that the fewest expert copies move.
 */
#ifndef FATHOM_EPLB_RELABEL_H
#define FATHOM_EPLB_RELABEL_H

#include "eplb_assign.h"
#include "eplb_index.h"

/** Workspace for one pair of shapes; every layer uses the same. */
typedef struct fm_eplb_relabeler {
    int nodes; /* 1 when replicas may cross nodes */
    int node_gpus;
    const int32_t *slot_begin; /* [gpus + 1] of the plan */
    const double *speed;       /* [gpus] */
    fm_eplb_index *old;
    fm_eplb_assigner assigner;
    int32_t *row_begin; /* [node_gpus or nodes, + 1] */
    int32_t *column;    /* edges */
    int32_t *weight;
    int32_t *common;      /* [gpus] experts that a plan's GPU and each old GPU have in common */
    int32_t *seen;        /* [gpus] */
    int32_t *touched;     /* [gpus] */
    int32_t *target;      /* [node_gpus] which GPU of a node plays each part */
    int32_t *node_target; /* [nodes] which node plays each */
    int32_t *stay;        /* [nodes][nodes] copies that stay when one plays the other */
    int32_t *waiting;     /* [slots] */
    int32_t *moved;       /* [slots] */
} fm_eplb_relabeler;

/** `old` indexes the current placement; it and the arrays are borrowed. */
fm_status fm_eplb_relabeler_init(fm_eplb_relabeler *relabeler, int nodes, int gpus, int slots,
                                 const int32_t *slot_begin, const double *speed, fm_eplb_index *old);
void fm_eplb_relabeler_clean_up(fm_eplb_relabeler *relabeler);

/**
 * Permutes GPUs that have equal slots and speed (and, when nodes > 1, nodes as a whole and GPUs within them),
 * then slots within each GPU, so that as many experts as possible stay where `current` (the layer that `old`
 * indexes) has them.
 */
void fm_eplb_relabel(fm_eplb_relabeler *relabeler, const int32_t *current, int32_t *phy2log);

/** The second half alone: GPUs stay, slots within each are permuted. */
void fm_eplb_seat(fm_eplb_relabeler *relabeler, const int32_t *current, int32_t *phy2log);

/** Copies that GPUs hold under `phy2log` and did not hold before; *out_most is the largest number on one GPU. */
int fm_eplb_moves_count(fm_eplb_relabeler *relabeler, const int32_t *phy2log, int *out_most);

#endif
