/**
 * @file pipe_cases.h
 * What the tests of this library share: making programs, writing them by hand, printing them.
 */
#ifndef PIPE_CASES_H
#define PIPE_CASES_H

#include "fm_gen.h"
#include "fm_test.h"

#include "pipe_internal.h"

/** Generates, or fails the test. lanes as in fm_pipe_shape. */
fm_pipe_program *pipe_case(fm_pipe_schedule schedule, int ranks, int micro_batches, int lanes);

/**
 * A program from text: "F0.1 I0.1 W0.1 B1.0 F0.2&B1.1", lane.chunk, one string a rank. Faults in it are kept.
 * `layout` gives placement, ranks, lanes, micro_batches.
 */
fm_pipe_program *pipe_case_text(fm_pipe_program layout, const char *const *texts);

/** Rank `rank`'s program in that form; valid until the next call. */
const char *pipe_case_print(const fm_pipe_program *program, int rank);

/** A schedule that allows this number of ranks, drawn from `gen`, and a program of it. */
fm_pipe_program *pipe_case_any(fm_gen *gen, int ranks_max, int micro_batches_max);

/** F = I = W = 1 in every stage. */
extern const fm_pipe_costs pipe_case_unit_costs;
/** F 1, I 1, W 1 for a stage of 1/ranks of the model: divided by the stages that a rank holds of it. */
fm_pipe_costs pipe_case_costs(const fm_pipe_program *program, double f, double i, double w, double fb,
                              fm_pipe_stage_cost *stage);

#endif
