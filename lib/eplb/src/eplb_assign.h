/**
 * @file eplb_assign.h
 * The assignment problem: rows and columns matched one to one so that the weights of the
 * matched pairs sum to the most.
 */
#ifndef FATHOM_EPLB_ASSIGN_H
#define FATHOM_EPLB_ASSIGN_H

#include <stdint.h>

#include "fathom/status.h"

/** Pairs (row, column) of positive weight, row by row; all other pairs weigh 0. */
typedef struct fm_eplb_edges {
    int rows;
    int columns;
    const int32_t *row_begin; /* [rows + 1] */
    const int32_t *column;    /* [row_begin[rows]] */
    const int32_t *weight;
} fm_eplb_edges;

/** Workspace for up to `size` rows and columns. */
typedef struct fm_eplb_assigner {
    int64_t *profit;   /* [rows] */
    int64_t *price;    /* [columns] */
    int64_t *distance; /* [columns] from the row that is being matched */
    int32_t *row_of;   /* [columns] matched row, or -1 */
    int32_t *parent;   /* [columns] row from which a column was reached */
    int32_t *reached;  /* [columns] columns in the search, the `done` settled ones first */
} fm_eplb_assigner;

fm_status fm_eplb_assigner_init(fm_eplb_assigner *assigner, int size);
void fm_eplb_assigner_clean_up(fm_eplb_assigner *assigner);

/** column_of[rows] gets each row's column, or -1 where a row is better left without one (all its pairs weigh
 *  0 then). Returns the sum of weights. */
int64_t fm_eplb_assign(fm_eplb_assigner *assigner, const fm_eplb_edges *edges, int32_t *column_of);

#endif
