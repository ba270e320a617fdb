#include "pipe_mlp.h"

#include <math.h>
#include <unistd.h>

const fm_pipe_message_type mlp_message = {.bytes = MLP_CELLS * sizeof(double), .type = 64};

// A fixed pseudo-random number in (-1, 1).
static double number(int kind, int which, int index)
{
    return sin(1 + 12.9898 * kind + 78.233 * which + 37.719 * index);
}

static void fill(int kind, int which, int count, double *out)
{
    for (int i = 0; i < count; i++)
        out[i] = number(kind, which, i);
}

static void stage_forward(int stage, const double *x, double *y)
{
    double weights[MLP_WEIGHTS];
    fill(0, stage, MLP_WEIGHTS, weights);
    for (int row = 0; row < MLP_ROWS; row++)
        for (int i = 0; i < MLP_WIDTH; i++) {
            double sum = 0;
            for (int j = 0; j < MLP_WIDTH; j++)
                sum += weights[i * MLP_WIDTH + j] * x[row * MLP_WIDTH + j];
            y[row * MLP_WIDTH + i] = tanh(sum);
        }
}

static void stage_input_gradient(int stage, const double *y, const double *dy, double *dz, double *dx)
{
    double weights[MLP_WEIGHTS];
    fill(0, stage, MLP_WEIGHTS, weights);
    for (int i = 0; i < MLP_CELLS; i++)
        dz[i] = dy[i] * (1 - y[i] * y[i]);
    for (int row = 0; dx && row < MLP_ROWS; row++)
        for (int j = 0; j < MLP_WIDTH; j++) {
            double sum = 0;
            for (int i = 0; i < MLP_WIDTH; i++)
                sum += weights[i * MLP_WIDTH + j] * dz[row * MLP_WIDTH + i];
            dx[row * MLP_WIDTH + j] = sum;
        }
}

static void stage_weight_gradient(const double *x, const double *dz, double *gradient)
{
    for (int row = 0; row < MLP_ROWS; row++)
        for (int i = 0; i < MLP_WIDTH; i++)
            for (int j = 0; j < MLP_WIDTH; j++)
                gradient[i * MLP_WIDTH + j] += dz[row * MLP_WIDTH + i] * x[row * MLP_WIDTH + j];
}

static double stage_loss(int micro_batch, int micro_batches, const double *y, double *dy)
{
    double target[MLP_CELLS];
    double loss = 0;
    fill(2, micro_batch, MLP_CELLS, target);
    for (int i = 0; i < MLP_CELLS; i++) {
        dy[i] = (y[i] - target[i]) / micro_batches;
        loss += (y[i] - target[i]) * (y[i] - target[i]) / 2 / micro_batches;
    }
    return loss;
}

double mlp_reference(int stages, int micro_batches, double (*out_gradients)[MLP_WEIGHTS])
{
    double(*x)[MLP_CELLS] = calloc((size_t)stages + 1, sizeof *x);
    double loss = 0;
    memset(out_gradients, 0, (size_t)stages * sizeof *out_gradients);
    for (int batch = 0; batch < micro_batches; batch++) {
        fill(1, batch, MLP_CELLS, x[0]);
        for (int stage = 0; stage < stages; stage++)
            stage_forward(stage, x[stage], x[stage + 1]);
        double dy[MLP_CELLS];
        double dz[MLP_CELLS];
        loss += stage_loss(batch, micro_batches, x[stages], dy);
        for (int stage = stages - 1; stage >= 0; stage--) {
            double dx[MLP_CELLS];
            stage_input_gradient(stage, x[stage + 1], dy, dz, dx);
            stage_weight_gradient(x[stage], dz, out_gradients[stage]);
            memcpy(dy, dx, sizeof dy);
        }
    }
    free(x);
    return loss;
}

struct mlp_rank mlp_rank_make(const fm_pipe_program *program, const fm_pipe_plan *plan, int rank)
{
    fm_pipe_needs needs;
    assert_ok(fm_pipe_plan_needs(plan, rank, &needs));
    struct mlp_rank mlp = {.program = program, .saved_slots = needs.saved_slots, .stall_op = -1};
    mlp.saved = calloc((size_t)needs.saved_slots, sizeof *mlp.saved);
    mlp.gradients = calloc((size_t)program->lanes, sizeof *mlp.gradients);
    assert_true(mlp.saved && mlp.gradients);
    return mlp;
}

void mlp_rank_free(struct mlp_rank *rank)
{
    free(rank->saved);
    free(rank->gradients);
}

static void maybe_stall(struct mlp_rank *mlp)
{
    if (mlp->ops++ == mlp->stall_op)
        for (;;)
            pause();
}

fm_status mlp_forward(void *context, const fm_pipe_task *task)
{
    struct mlp_rank *mlp = context;
    maybe_stall(mlp);
    struct mlp_saved *saved = &mlp->saved[task->saved];
    mlp->faults += task->saved < 0 || task->saved >= mlp->saved_slots || saved->live;
    double first[MLP_CELLS];
    fill(1, task->micro_batch, MLP_CELLS, first);
    saved->live = 1 + task->micro_batch;
    stage_forward(task->stage, task->input ? task->input : first, saved->y);
    if (task->output)
        memcpy(task->output, saved->y, sizeof saved->y);
    else
        mlp->loss += stage_loss(task->micro_batch, mlp->program->micro_batches, saved->y, saved->dz);
    if (mlp->program->forward_only)
        saved->live = 0;
    return FM_OK;
}

fm_status mlp_weight(void *context, const fm_pipe_task *task)
{
    struct mlp_rank *mlp = context;
    struct mlp_saved *saved = &mlp->saved[task->saved];
    double first[MLP_CELLS];
    fill(1, task->micro_batch, MLP_CELLS, first);
    mlp->faults += saved->live != 1 + task->micro_batch;
    stage_weight_gradient(task->input ? task->input : first, saved->dz, mlp->gradients[task->lane]);
    saved->live = 0;
    return FM_OK;
}

fm_status mlp_backward(void *context, const fm_pipe_task *task, int with_weights)
{
    struct mlp_rank *mlp = context;
    maybe_stall(mlp);
    struct mlp_saved *saved = &mlp->saved[task->saved];
    mlp->faults += saved->live != 1 + task->micro_batch;
    double from_loss[MLP_CELLS];
    memcpy(from_loss, saved->dz, sizeof from_loss);
    stage_input_gradient(task->stage, saved->y, task->output_gradient ? task->output_gradient : from_loss,
                         saved->dz, task->input_gradient);
    return with_weights ? mlp_weight(context, task) : FM_OK;
}

// Overlapped: the backward's input half, the forward, the backward's weight half.
fm_status mlp_overlapped(void *context, const fm_pipe_task *forward, const fm_pipe_task *backward)
{
    struct mlp_rank *mlp = context;
    mlp->overlapped++;
    FM_TRY(mlp_backward(context, backward, 0));
    FM_TRY(mlp_forward(context, forward));
    return mlp_weight(context, backward);
}

fm_pipe_executor_options mlp_options(struct mlp_rank *mlp, const fm_pipe_plan *plan, int rank,
                                     fm_pipe_link link, int pairs)
{
    return (fm_pipe_executor_options){.size = sizeof(fm_pipe_executor_options),
                                      .plan = plan,
                                      .rank = rank,
                                      .compute = {.context = mlp,
                                                  .forward = mlp_forward,
                                                  .backward = mlp_backward,
                                                  .weight = mlp_weight,
                                                  .overlapped = pairs ? mlp_overlapped : NULL},
                                      .link = link,
                                      .activations = &mlp_message,
                                      .gradients = &mlp_message,
                                      .message_count = 1,
                                      .timeout_ms = 20000};
}

void mlp_compare(const fm_pipe_program *program, const double *losses, double (*gradients)[MLP_WEIGHTS])
{
    size_t stages = (size_t)program->stages;
    double(*wanted)[MLP_WEIGHTS] = calloc(stages, sizeof *wanted);
    double(*found)[MLP_WEIGHTS] = calloc(stages, sizeof *found);
    double loss = mlp_reference(program->stages, program->micro_batches, wanted);
    double largest = 0;
    double found_loss = 0;
    for (int rank = 0; rank < program->ranks; rank++) {
        found_loss += losses[rank];
        for (int lane = 0; lane < program->lanes; lane++)
            for (int i = 0; i < MLP_WEIGHTS; i++)
                found[fm_pipe_stage(program, rank, lane)][i] += gradients[rank * program->lanes + lane][i];
    }
    for (size_t stage = 0; stage < stages; stage++)
        for (int i = 0; i < MLP_WEIGHTS; i++)
            largest = fmax(largest, fabs(wanted[stage][i]));
    if (!(fabs(found_loss - loss) <= 1e-12 * fabs(loss)))
        fail_msg("%s over %d ranks: loss %.17g, expected %.17g", fm_pipe_schedule_name(program->schedule),
                 program->ranks, found_loss, loss);
    for (size_t stage = 0; !program->forward_only && stage < stages; stage++)
        for (int i = 0; i < MLP_WEIGHTS; i++)
            if (!(fabs(found[stage][i] - wanted[stage][i]) <= 1e-12 * largest))
                fail_msg("%s over %d ranks: gradient %d of stage %zu is %.17g, expected %.17g",
                         fm_pipe_schedule_name(program->schedule), program->ranks, i, stage, found[stage][i],
                         wanted[stage][i]);
    free(found);
    free(wanted);
}
