// What ops and messages cost.
#include <math.h>

#include "pipe_internal.h"

static int is_time(double value)
{
    return isfinite(value) && value >= 0;
}

static fm_status check_rank_costs(const fm_pipe_costs *costs, int rank)
{
    if (costs->rank_time && !is_time(costs->rank_time[rank]))
        return fm_base_error_set(FM_ERR_ARG, "rank_time of rank %d is %g; expected finite and not negative",
                                 rank, costs->rank_time[rank]);
    if (costs->jitter && !(costs->jitter[rank] >= 0 && costs->jitter[rank] < 1))
        return fm_base_error_set(FM_ERR_ARG, "jitter of rank %d is %g; expected 0 <= j < 1", rank,
                                 costs->jitter[rank]);
    return FM_OK;
}

fm_status fm_pipe_costs_check(const fm_pipe_costs *costs, int stages, int ranks)
{
    if (!costs || !costs->stages)
        return fm_base_error_set(FM_ERR_ARG, "costs and its stages must not be NULL");
    FM_TRY(fm_pipe_size_check("fm_pipe_costs", costs->size, sizeof *costs));
    if (costs->stage_count != 1 && costs->stage_count != stages)
        return fm_base_error_set(FM_ERR_ARG, "stage_count is %d; expected 1 or %d, one for each stage",
                                 costs->stage_count, stages);
    for (int stage = 0; stage < costs->stage_count; stage++) {
        const fm_pipe_stage_cost *cost = &costs->stages[stage];
        const double values[] = {cost->f, cost->i, cost->w, cost->b, cost->fb, cost->memory};
        static const char *const names[] = {"f", "i", "w", "b", "fb", "memory"};
        for (size_t i = 0; i < sizeof values / sizeof values[0]; i++)
            if (!is_time(values[i]))
                return fm_base_error_set(FM_ERR_ARG, "%s of stage %d is %g; expected finite and not negative",
                                         names[i], stage, values[i]);
    }
    if (!is_time(costs->latency) || !is_time(costs->message_bytes) || !is_time(costs->bandwidth))
        return fm_base_error_set(
            FM_ERR_ARG, "latency %g, message_bytes %g, bandwidth %g; expected finite and not negative",
            costs->latency, costs->message_bytes, costs->bandwidth);
    for (int rank = 0; rank < ranks; rank++)
        FM_TRY(check_rank_costs(costs, rank));
    return FM_OK;
}

fm_pipe_stage_cost fm_pipe_cost_of(const fm_pipe_costs *costs, int stage)
{
    fm_pipe_stage_cost cost = costs->stages[costs->stage_count == 1 ? 0 : stage];
    if (cost.b == 0)
        cost.b = cost.i + cost.w;
    if (cost.memory == 0)
        cost.memory = 1;
    return cost;
}

double fm_pipe_op_cost(const fm_pipe_program *program, const fm_pipe_costs *costs, int rank,
                       const fm_pipe_op *op)
{
    fm_pipe_stage_cost cost = fm_pipe_cost_of(costs, fm_pipe_stage(program, rank, op->lane));
    double factor = costs->rank_time ? costs->rank_time[rank] : 1;
    switch (op->kind) {
    case FM_PIPE_F:
        return factor * cost.f;
    case FM_PIPE_B:
        return factor * cost.b;
    case FM_PIPE_I:
        return factor * cost.i;
    case FM_PIPE_W:
        return factor * cost.w;
    default:
        if (cost.fb > 0)
            return factor * cost.fb;
        return factor * (cost.f + fm_pipe_cost_of(costs, fm_pipe_stage(program, rank, op->back_lane)).b);
    }
}

double fm_pipe_transfer_cost(const fm_pipe_costs *costs)
{
    return costs->bandwidth > 0 ? costs->message_bytes / costs->bandwidth : 0;
}
