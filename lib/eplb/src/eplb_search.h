/**
 * @file eplb_search.h
 * Local search on one problem: the state of a solution with its loads, moves that lower
 * the busiest GPU, and kicks that leave a local optimum.
 */
#ifndef FATHOM_EPLB_SEARCH_H
#define FATHOM_EPLB_SEARCH_H

#include "eplb_private.h"

/** A change of the state that can be taken back. */
struct fm_eplb_step {
    int32_t slot;
    int32_t other;  /* the slot it was swapped with, or -1 for a slot that changed its expert */
    int32_t expert; /* what that slot held */
};

enum {
    // A descent after a kick takes some ten steps; one that takes more than this is cut short.
    FM_EPLB_STEPS_MAX = 512,
    // Kicks without gain after which a walk is at its end: more than there are pairs of neighbouring slots to
    // try in layers of common size; four times as many gain less than a thousandth.
    FM_EPLB_PATIENCE = 400,
};

typedef struct fm_eplb_search {
    const fm_eplb_problem *problem;
    int32_t *expert;   /* [slots] */
    int32_t *gpu;      /* [slots] */
    int32_t *next;     /* [slots] the expert's other slots, a list from head[expert]; -1 ends it */
    int32_t *previous; /* [slots] */
    double *share;     /* [slots] load of the replica in the slot */
    int32_t *head;     /* [experts + 1] */
    int32_t *count;    /* [experts + 1] replicas */
    double *unit;      /* [experts + 1] load / count; 0 for VOID */
    double *load;      /* [gpus] */
    double *time;      /* [gpus] load / speed */
    double *change;    /* [gpus] scratch, zero between calls */
    uint16_t *held;    /* [gpus][experts + 1] copies */
    int32_t *moves;    /* [gpus] copies held and not held before; kept only where moves are limited */
    int moves_total;
    int logging; /* steps are recorded */
    int step_count;
    struct fm_eplb_step step[FM_EPLB_STEPS_MAX];
} fm_eplb_search;

/** Room for problems of up to this size. */
fm_status fm_eplb_search_init(fm_eplb_search *search, int experts, int gpus, int slots);
void fm_eplb_search_clean_up(fm_eplb_search *search);

/** Takes up a problem at a solution. Both are borrowed: the problem until the next load, the solution for the
 *  call. */
void fm_eplb_search_load(fm_eplb_search *search, const fm_eplb_problem *problem, const int32_t *solution);
/** The busiest GPU; the first of equals. */
int fm_eplb_search_busiest(const fm_eplb_search *search);
/** Copies of an expert on a GPU. */
int fm_eplb_search_held(const fm_eplb_search *search, int gpu, int expert);

/** Gives a slot another expert / exchanges the experts of two slots. No check of any rule. */
void fm_eplb_search_relabel(fm_eplb_search *search, int slot, int expert);
void fm_eplb_search_swap(fm_eplb_search *search, int a, int b);

/** Whether a slot may change its expert as far as moves and duplicates go. `expert` or what the slot holds
 *  may be VOID. */
int fm_eplb_search_admits(const fm_eplb_search *search, int slot, int expert);
/** The largest time among the GPUs that relabel(slot, expert) touches, after it. */
double fm_eplb_search_relabel_time(fm_eplb_search *search, int slot, int expert);

/** Removes duplicates at the least cost in balance, as far as single steps can that lift no GPU above `limit`;
 *  nothing where the problem does not ask for it. */
void fm_eplb_search_repair(fm_eplb_search *search, double limit);
/** Steps that lower the busiest GPU until there is none, or until the deadline has passed and its time is
 *  `enough` or less (HUGE_VAL: any is). Returns its time. */
double fm_eplb_search_descend(fm_eplb_search *search, double enough, uint64_t deadline_ns);
/**
 * Kicks and descends until `patience` kicks in a row brought nothing, the deadline, or a time of `target` or
 * less. The state ends at the best solution seen; returns its time. The same seed gives the same walk.
 */
double fm_eplb_search_explore(fm_eplb_search *search, double target, int patience, uint64_t seed,
                              uint64_t deadline_ns);

#endif
