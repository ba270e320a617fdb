/**
 * @file eplb_index.h
 * Slots by expert and GPUs by slot, for one layer of a placement.
 */
#ifndef FATHOM_EPLB_INDEX_H
#define FATHOM_EPLB_INDEX_H

#include <stdint.h>

#include "fathom/eplb.h"

/** The slots of expert e are slot[begin[e]] .. slot[begin[e + 1] - 1], ascending. */
typedef struct fm_eplb_index {
    int experts;
    int gpus;
    int slots;
    int32_t *slot_begin; /* [gpus + 1] */
    int32_t *gpu;        /* [slots] */
    int32_t *begin;      /* [experts + 1] */
    int32_t *slot;       /* [slots] */
} fm_eplb_index;

/** For a placement of this shape with `slots` slots a layer, spread as `gpu_slots` says (see
 *  fm_eplb_slot_begin()). */
fm_status fm_eplb_index_init(fm_eplb_index *index, const fm_eplb_shape *shape, int slots,
                             const int32_t *gpu_slots);
void fm_eplb_index_clean_up(fm_eplb_index *index);
/** Indexes a layer; `phy2log` is [slots] with -1 (or anything outside 0 .. experts-1) for empty. */
void fm_eplb_index_build(fm_eplb_index *index, const int32_t *phy2log);

/**
 * out_begin[gpus + 1] from slot counts. NULL: as even as possible, over the GPUs of each node when the shape
 * is hierarchical and the slots divide by nodes, else over all; the first GPUs get one more where it does not
 * come out even.
 */
void fm_eplb_slot_begin(const fm_eplb_shape *shape, int slots, const int32_t *gpu_slots, int32_t *out_begin);

#endif
