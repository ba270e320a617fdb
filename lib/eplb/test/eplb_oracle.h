/**
 * @file eplb_oracle.h
 * Slow and simple: what the tests of the planner believe.
 */
#ifndef EPLB_ORACLE_H
#define EPLB_ORACLE_H

#include "eplb_private.h"
#include "fm_gen.h"

enum { ORACLE_SLOTS_MAX = 64, ORACLE_EXPERTS_MAX = 32, ORACLE_GPUS_MAX = 16 };

/** A problem with its own memory. */
typedef struct oracle_problem {
    fm_eplb_problem problem;
    double load[ORACLE_EXPERTS_MAX];
    int32_t slot_begin[ORACLE_GPUS_MAX + 1];
    double speed[ORACLE_GPUS_MAX];
    uint16_t before[ORACLE_GPUS_MAX * (ORACLE_EXPERTS_MAX + 1)];
} oracle_problem;

/** Draws a problem. `even`: equal slots and speeds, no empty slot. The sizes drawn are at most those given. */
void oracle_draw(oracle_problem *oracle, fm_gen *gen, int experts_max, int gpus_max, int room_max, int even);
/** Some solution of a problem: every expert once, the rest at random. */
void oracle_fill(const fm_eplb_problem *problem, fm_gen *gen, int32_t *solution);

/** The time of the busiest GPU, from scratch; -1 when the solution breaks a rule of the problem. */
double oracle_time(const fm_eplb_problem *problem, const int32_t *solution);
/** The least time over all solutions that keep the rules, by trying them all; HUGE_VAL when there is none. */
double oracle_best(const fm_eplb_problem *problem);
/** Copies that GPUs hold and, as `before` says, did not. *out_most: the most on one GPU. */
int oracle_moves(const fm_eplb_problem *problem, const int32_t *solution, int *out_most);

/** Loads of the kinds that measurements look like: 0 uniform, 1 log-normal, 2 Zipf, 3 few distinct values, 4
 *  with zeros. */
void oracle_loads(fm_gen *gen, int kind, int experts, float *weight);

#endif
