/*
 * Shortest augmenting paths (Kuhn 1955, Munkres 1957, in the form of Jonker and Volgenant 1987) on the pairs
 * of positive weight alone. Rows have a profit and columns a price, both >= 0, such that profit + price >=
 * weight for every pair, with equality for matched pairs, and 0 where a row or a column is unmatched. These
 * are the conditions under which a matching weighs the most. Rows enter one at a time; each search ends at a
 * free column, or at a row that is better left without one.
 */
#include "eplb_assign.h"

#include <string.h>

#include "fathom/mem.h"

fm_status fm_eplb_assigner_init(fm_eplb_assigner *assigner, int size)
{
    size_t n = (size_t)size;
    *assigner = (fm_eplb_assigner){
        .profit = fm_base_mem_alloc(n * sizeof(int64_t)),
        .price = fm_base_mem_alloc(n * sizeof(int64_t)),
        .distance = fm_base_mem_alloc(n * sizeof(int64_t)),
        .row_of = fm_base_mem_alloc(n * sizeof(int32_t)),
        .parent = fm_base_mem_alloc(n * sizeof(int32_t)),
        .reached = fm_base_mem_alloc(n * sizeof(int32_t)),
    };
    const fm_eplb_assigner *a = assigner;
    if (a->profit && a->price && a->distance && a->row_of && a->parent && a->reached)
        return FM_OK;
    fm_eplb_assigner_clean_up(assigner);
    return fm_base_error_set(FM_ERR_NOMEM, "no memory to match %d GPUs", size);
}

void fm_eplb_assigner_clean_up(fm_eplb_assigner *assigner)
{
    fm_base_mem_free(assigner->profit);
    fm_base_mem_free(assigner->price);
    fm_base_mem_free(assigner->distance);
    fm_base_mem_free(assigner->row_of);
    fm_base_mem_free(assigner->parent);
    fm_base_mem_free(assigner->reached);
    *assigner = (fm_eplb_assigner){0};
}

struct path {
    int64_t length;
    int column;  /* where it ends: a free column, or -1 */
    int row;     /* with column -1: the row that is left without one */
    int reached; /* columns in the search */
    int settled; /* of these, at the front: those whose distance is final */
};

static void reach_from(fm_eplb_assigner *assigner, const fm_eplb_edges *edges, int row, int64_t distance,
                       struct path *path)
{
    for (int32_t i = edges->row_begin[row]; i < edges->row_begin[row + 1]; i++) {
        int column = edges->column[i];
        int64_t here = distance + assigner->profit[row] + assigner->price[column] - edges->weight[i];
        if (here >= assigner->distance[column])
            continue;
        if (assigner->distance[column] == INT64_MAX)
            assigner->reached[path->reached++] = column;
        assigner->distance[column] = here;
        assigner->parent[column] = row;
    }
    if (distance + assigner->profit[row] < path->length) {
        path->length = distance + assigner->profit[row];
        path->column = -1;
        path->row = row;
    }
}

static struct path shortest_path(fm_eplb_assigner *assigner, const fm_eplb_edges *edges, int row)
{
    struct path path = {.length = INT64_MAX, .column = -1, .row = row};
    reach_from(assigner, edges, row, 0, &path);
    while (path.settled < path.reached) {
        int nearest = path.settled;
        for (int i = path.settled + 1; i < path.reached; i++)
            if (assigner->distance[assigner->reached[i]] < assigner->distance[assigner->reached[nearest]])
                nearest = i;
        int column = assigner->reached[nearest];
        int64_t distance = assigner->distance[column];
        if (distance >= path.length)
            break;
        assigner->reached[nearest] = assigner->reached[path.settled];
        assigner->reached[path.settled++] = column;
        if (assigner->row_of[column] < 0) {
            path.length = distance;
            path.column = column;
            break;
        }
        reach_from(assigner, edges, assigner->row_of[column], distance, &path);
    }
    return path;
}

static void match_row(fm_eplb_assigner *assigner, const fm_eplb_edges *edges, int row, int32_t *column_of)
{
    assigner->profit[row] = 0;
    for (int32_t i = edges->row_begin[row]; i < edges->row_begin[row + 1]; i++) {
        int64_t gain = edges->weight[i] - assigner->price[edges->column[i]];
        if (gain > assigner->profit[row])
            assigner->profit[row] = gain;
    }
    struct path path = shortest_path(assigner, edges, row);
    assigner->profit[row] -= path.length;
    for (int i = 0; i < path.settled; i++) {
        int column = assigner->reached[i];
        int64_t rest = path.length - assigner->distance[column];
        assigner->price[column] += rest;
        if (assigner->row_of[column] >= 0)
            assigner->profit[assigner->row_of[column]] -= rest;
    }
    for (int i = 0; i < path.reached; i++)
        assigner->distance[assigner->reached[i]] = INT64_MAX;
    // Along the path every row takes the column by which it was left.
    int column = path.column;
    if (column < 0) {
        if (path.row == row)
            return;
        column = column_of[path.row];
        column_of[path.row] = -1;
    }
    for (;;) {
        int parent = assigner->parent[column];
        int next = column_of[parent];
        column_of[parent] = column;
        assigner->row_of[column] = parent;
        if (parent == row)
            return;
        column = next;
    }
}

int64_t fm_eplb_assign(fm_eplb_assigner *assigner, const fm_eplb_edges *edges, int32_t *column_of)
{
    for (int column = 0; column < edges->columns; column++) {
        assigner->price[column] = 0;
        assigner->row_of[column] = -1;
        assigner->distance[column] = INT64_MAX;
    }
    for (int row = 0; row < edges->rows; row++)
        column_of[row] = -1;
    for (int row = 0; row < edges->rows; row++)
        match_row(assigner, edges, row, column_of);
    // Profits and prices certify the matching: their sum is its weight.
    int64_t weight = 0;
    for (int row = 0; row < edges->rows; row++)
        weight += assigner->profit[row];
    for (int column = 0; column < edges->columns; column++)
        weight += assigner->price[column];
    return weight;
}
