/**
 * @file eplb_private.h
 * What the files of the planner share.
 *
 * A *problem* is one packing task: experts to be replicated and put into the slots of GPUs. A layer is one
 * problem when the placement is global; when it is hierarchical each node is one, and so is putting groups on
 * nodes, one in which nothing is replicated. A *solution* is a slot array: the expert in each slot, VOID (=
 * the problem's `experts`) in an empty one.
 */
#ifndef FATHOM_EPLB_PRIVATE_H
#define FATHOM_EPLB_PRIVATE_H

#include <stdint.h>

#include "fathom/clock.h"
#include "fathom/eplb.h"

/**
 * Loads that differ by a smaller share are equal. Sums of up to 65535 doubles taken in different orders agree
 * to about 1e-11, and no measured load is known to ten digits.
 */
#define FM_EPLB_TOLERANCE 1e-10

typedef struct fm_eplb_problem {
    int experts;
    int gpus;
    int slots;
    int replicas;              /* slots to fill; the rest stay empty */
    const double *load;        /* [experts] */
    const int32_t *slot_begin; /* [gpus + 1], from 0 */
    const double *speed;       /* [gpus], above 0 */
    int distinct;              /* no two replicas of an expert on one GPU */
    const uint16_t *before;    /* [gpus][experts + 1] copies held before; NULL: moves are free */
    int moves_per_gpu;
    int moves_total;
} fm_eplb_problem;

/** For a deadline_ns that never comes. */
#define FM_EPLB_NO_DEADLINE UINT64_MAX

static inline int fm_eplb_late(uint64_t deadline_ns)
{
    return deadline_ns != FM_EPLB_NO_DEADLINE && fm_base_clock_ns() >= deadline_ns;
}

/** When the first of `parts` equal parts of the time that is left ends. */
static inline uint64_t fm_eplb_share_of(uint64_t deadline_ns, int parts)
{
    if (deadline_ns == FM_EPLB_NO_DEADLINE)
        return deadline_ns;
    uint64_t now = fm_base_clock_ns();
    return now < deadline_ns && parts > 0 ? now + (deadline_ns - now) / (uint64_t)parts : now;
}

/** SplitMix64: a walk needs no more than that it does not repeat itself. A number below `bound`. */
static inline int fm_eplb_draw(uint64_t *state, int bound)
{
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (int)(((z ^ (z >> 31)) >> 32) * (uint64_t)bound >> 32);
}

#endif
