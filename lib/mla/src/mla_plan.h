/**
 * @file mla_plan.h
 * Who attends to which keys in decode.
 */
#ifndef MLA_PLAN_H
#define MLA_PLAN_H

#include "mla_private.h"

enum {
    FM_MLA_SPLIT_BLOCK = 64, // keys: splits begin at multiples of it
    /** What a split costs beside its keys, in blocks: writing and merging 128 x 512 sums takes as long as 0.6 blocks of
     *  keys for 128 rows with AVX-512, and a block more with every start. */
    FM_MLA_SPLIT_OVERHEAD = 1,
};

/** Keys begin ... end - 1 of a sequence's list, for all its rows. */
struct fm_mla_piece {
    int sequence;
    int64_t begin, end;
    int64_t slot; // of its partial results; -1: it is the whole list
};

struct fm_mla_plan {
    fm_mla_shape shape;
    int sparse, topk, extra_topk;
    int64_t *lengths, *extra_lengths; // of each sequence's list: main (or all), extra
    struct fm_mla_piece *pieces;
    int64_t piece_count;
    int64_t *parts; // part i has the pieces parts[i] ... parts[i + 1] - 1
    int64_t part_count;
    int64_t *splits; // sequence i has the slots splits[i] ... splits[i + 1] - 1, none when it is not split
    float *partial;  // a slot: for each row of the sequence O (d_v), then max and sum
};

/** Floats of a row of a slot. */
static inline size_t fm_mla_partial_floats(const fm_mla_plan *plan)
{
    return (size_t)plan->shape.d_v + FM_MLA_LANES;
}

#endif
