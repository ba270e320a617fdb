/**
 * @file pipe_mlp.h
 * A small network in double precision, cut into stages, and its unpipelined run: what the executor's tests train with.
 *
 * Stage s computes y = tanh(x W_s^T) on MLP_ROWS rows of MLP_WIDTH numbers; the loss is the mean over micro-batches of
 * half the squared distance to a target. Weights, inputs and targets follow from their numbers alone, so every rank makes
 * its own.
 */
#ifndef MLP_H
#define MLP_H

#include "pipe_cases.h"

#include "fathom/pipe_exec.h"

enum { MLP_ROWS = 3, MLP_WIDTH = 5, MLP_CELLS = MLP_ROWS * MLP_WIDTH, MLP_WEIGHTS = MLP_WIDTH * MLP_WIDTH };

extern const fm_pipe_message_type mlp_message;

/** What backward needs of a visit. */
struct mlp_saved {
    int live; /**< 1 + micro-batch while the visit is under way */
    double y[MLP_CELLS];
    double dz[MLP_CELLS];
};

/** One rank's part. */
struct mlp_rank {
    const fm_pipe_program *program;
    struct mlp_saved *saved;
    int saved_slots;
    double (*gradients)[MLP_WEIGHTS]; /**< [lanes] */
    double loss;
    int overlapped; /**< pairs that mlp_overlapped() ran */
    int faults;     /**< saved slots that were handed out twice, or inputs that changed */
    int stall_op;   /**< the op count at which the rank sleeps for ever; -1: never */
    int ops;
};

struct mlp_rank mlp_rank_make(const fm_pipe_program *program, const fm_pipe_plan *plan, int rank);
void mlp_rank_free(struct mlp_rank *rank);

fm_status mlp_forward(void *context, const fm_pipe_task *task);
fm_status mlp_backward(void *context, const fm_pipe_task *task, int with_weights);
fm_status mlp_weight(void *context, const fm_pipe_task *task);
fm_status mlp_overlapped(void *context, const fm_pipe_task *forward, const fm_pipe_task *backward);

/** Options for one rank with the callbacks above; `pairs` 0 leaves `overlapped` out. */
fm_pipe_executor_options mlp_options(struct mlp_rank *mlp, const fm_pipe_plan *plan, int rank,
                                     fm_pipe_link link, int pairs);

/** Loss and gradients [stages][MLP_WEIGHTS] of the unpipelined run. */
double mlp_reference(int stages, int micro_batches, double (*out_gradients)[MLP_WEIGHTS]);

/**
 * Adds up what the ranks found (losses [ranks], gradients [ranks][lanes]) and fails the test when loss or any gradient is
 * more than 1e-12 (relative to the largest) away from the reference.
 */
void mlp_compare(const fm_pipe_program *program, const double *losses, double (*gradients)[MLP_WEIGHTS]);

#endif
