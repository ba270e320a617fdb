// Simulation: the timing core, then what people ask of it: bubbles, memory, the critical path.
#include <string.h>

#include "fathom/mem.h"
#include "fathom/rng.h"
#include "pipe_internal.h"

static void fill_op_times(const fm_pipe_program *program, const fm_pipe_costs *costs, double *op_time)
{
    for (int rank = 0; rank < program->ranks; rank++) {
        // A stream for each rank: one rank's jitter does not move with another's program.
        fm_rng rng = fm_base_rng_begin(costs->seed, (uint64_t)rank);
        for (size_t i = program->first[rank]; i < program->first[rank + 1]; i++) {
            op_time[i] = fm_pipe_op_cost(program, costs, rank, &program->ops[i]);
            if (costs->jitter)
                op_time[i] *= 1 + costs->jitter[rank] * (2 * fm_rng_double(&rng) - 1);
        }
    }
}

// The result and its arrays are one block.
struct simulated {
    fm_pipe_simulation public;
    fm_pipe_rank_result *ranks;
    double *start;
    double *finish;
    double *memory;
    size_t *critical;
};

static fm_status alloc_result(const fm_pipe_program *program, struct simulated **out_result)
{
    size_t ops = fm_pipe_op_total(program);
    size_t ranks = (size_t)program->ranks;
    size_t per_op = 3 * sizeof(double) + sizeof(size_t);
    char *block =
        fm_base_mem_zalloc(sizeof(struct simulated) + ranks * sizeof(fm_pipe_rank_result) + ops * per_op, 1);
    if (!block) {
        fm_base_error_set(FM_ERR_NOMEM, "no memory for the simulation of %zu ops", ops);
        return FM_ERR_NOMEM;
    }
    struct simulated *result = (struct simulated *)block;
    result->ranks = (fm_pipe_rank_result *)(result + 1);
    result->start = (double *)(result->ranks + ranks);
    result->finish = result->start + ops;
    result->memory = result->finish + ops;
    result->critical = (size_t *)(result->memory + ops);
    result->public = (fm_pipe_simulation){.ranks = result->ranks,
                                          .start = result->start,
                                          .finish = result->finish,
                                          .memory = result->memory,
                                          .critical = result->critical};
    *out_result = result;
    return FM_OK;
}

static void sum_rank(const fm_pipe_program *program, const fm_pipe_costs *costs, const double *op_time,
                     int rank, struct simulated *result)
{
    fm_pipe_rank_result *sums = &result->ranks[rank];
    double memory = 0;
    int saved = 0;
    int queued = 0;
    for (size_t i = program->first[rank]; i < program->first[rank + 1]; i++) {
        const fm_pipe_op *op = &program->ops[i];
        if (fm_pipe_has_forward(op)) {
            memory += fm_pipe_cost_of(costs, fm_pipe_stage(program, rank, op->lane)).memory;
            saved++;
        }
        queued += (op->kind == FM_PIPE_I) - (op->kind == FM_PIPE_W);
        result->memory[i] = memory;
        sums->busy += op_time[i];
        sums->memory_peak = memory > sums->memory_peak ? memory : sums->memory_peak;
        sums->saved_peak = saved > sums->saved_peak ? saved : sums->saved_peak;
        sums->queued_peak = queued > sums->queued_peak ? queued : sums->queued_peak;
        if (fm_pipe_ends_visit(op) || program->forward_only) {
            memory -= fm_pipe_cost_of(costs, fm_pipe_stage(program, rank, fm_pipe_back_lane(op))).memory;
            saved--;
        }
    }
    size_t begin = program->first[rank];
    size_t end = program->first[rank + 1];
    sums->first = result->start[begin];
    sums->last = result->finish[end - 1];
    sums->bubble = result->public.makespan - sums->busy;
    sums->inner_bubble = sums->last - sums->first - sums->busy;
}

// producer[kind][visit that receives] = op that sends.
static void fill_producers(const fm_pipe_program *program, const struct fm_pipe_route *routes,
                           size_t *producer[2])
{
    for (int rank = 0; rank < program->ranks; rank++)
        for (size_t i = program->first[rank]; i < program->first[rank + 1]; i++) {
            const fm_pipe_op *op = &program->ops[i];
            const struct fm_pipe_route *route = &routes[rank * program->lanes + op->lane];
            if (fm_pipe_has_forward(op) && route->next_rank >= 0)
                producer[FM_PIPE_ACTIVATION]
                        [fm_pipe_visit(program, route->next_rank, route->next_lane, op->chunk)] = i;
            route = &routes[rank * program->lanes + fm_pipe_back_lane(op)];
            if (fm_pipe_has_backward(op) && route->prev_rank >= 0)
                producer[FM_PIPE_GRADIENT][fm_pipe_visit(program, route->prev_rank, route->prev_lane,
                                                         fm_pipe_back_chunk(op))] = i;
        }
}

static int rank_of_op(const fm_pipe_program *program, size_t op)
{
    int low = 0;
    int high = program->ranks - 1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (program->first[middle] <= op)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

// The op whose message let op `i` start; SIZE_MAX when it waited for none.
static size_t awaited_sender(const struct fm_pipe_timing *timing, size_t *const producer[2], size_t i)
{
    const fm_pipe_program *program = timing->program;
    const fm_pipe_op *op = &program->ops[i];
    int rank = rank_of_op(program, i);
    if (fm_pipe_has_forward(op) && timing->routes[rank * program->lanes + op->lane].prev_rank >= 0) {
        size_t visit = fm_pipe_visit(program, rank, op->lane, op->chunk);
        if (timing->arrival[FM_PIPE_ACTIVATION][visit] == timing->start[i])
            return producer[FM_PIPE_ACTIVATION][visit];
    }
    int lane = fm_pipe_back_lane(op);
    if (fm_pipe_has_backward(op) && timing->routes[rank * program->lanes + lane].next_rank >= 0) {
        size_t visit = fm_pipe_visit(program, rank, lane, fm_pipe_back_chunk(op));
        if (timing->arrival[FM_PIPE_GRADIENT][visit] == timing->start[i])
            return producer[FM_PIPE_GRADIENT][visit];
    }
    return SIZE_MAX;
}

static void trace_critical(const struct fm_pipe_timing *timing, size_t *const producer[2],
                           struct simulated *result)
{
    const fm_pipe_program *program = timing->program;
    size_t op = SIZE_MAX;
    for (int rank = program->ranks - 1; rank >= 0; rank--)
        if (timing->finish[program->first[rank + 1] - 1] == result->public.makespan)
            op = program->first[rank + 1] - 1;
    size_t count = 0;
    while (op != SIZE_MAX) {
        result->critical[count++] = op;
        int is_first = op == program->first[rank_of_op(program, op)];
        if (!is_first && timing->finish[op - 1] == timing->start[op])
            op--;
        else
            op = awaited_sender(timing, producer, op);
    }
    for (size_t i = 0; i < count / 2; i++) {
        size_t swap = result->critical[i];
        result->critical[i] = result->critical[count - 1 - i];
        result->critical[count - 1 - i] = swap;
    }
    result->public.critical_count = count;
}

static fm_status fill_result(const fm_pipe_program *program, const fm_pipe_costs *costs,
                             struct fm_pipe_timing *timing, size_t *const producer[2],
                             struct simulated *result)
{
    result->public.makespan = fm_pipe_timing_run(timing);
    if (result->public.makespan < 0)
        return fm_pipe_check_circle(program, timing->cursor, NULL);
    double bubble = 0;
    for (int rank = 0; rank < program->ranks; rank++) {
        sum_rank(program, costs, timing->op_time, rank, result);
        bubble += result->ranks[rank].bubble;
        if (result->ranks[rank].memory_peak > result->public.memory_peak)
            result->public.memory_peak = result->ranks[rank].memory_peak;
    }
    if (result->public.makespan > 0)
        result->public.bubble_ratio = bubble / program->ranks / result->public.makespan;
    trace_critical(timing, producer, result);
    return FM_OK;
}

fm_status fm_pipe_simulation_run(const fm_pipe_program *program, const fm_pipe_costs *costs,
                                 fm_pipe_simulation **out_simulation)
{
    if (!program || !out_simulation)
        return fm_base_error_set(FM_ERR_ARG, "program and out_simulation must not be NULL");
    FM_TRY(fm_pipe_costs_check(costs, program->stages, program->ranks));
    FM_TRY(fm_pipe_check_ranks(program, NULL));
    struct fm_pipe_timing timing;
    FM_TRY(fm_pipe_timing_init(program, fm_pipe_op_total(program), &timing));
    struct simulated *result = NULL;
    fm_status status = alloc_result(program, &result);
    size_t visits = fm_pipe_visit_total(program);
    size_t *producers = fm_base_mem_alloc(2 * visits * sizeof(size_t));
    double *op_time = fm_base_mem_alloc(fm_pipe_op_total(program) * sizeof(double));
    if (status == FM_OK && (!producers || !op_time)) {
        fm_base_error_set(FM_ERR_NOMEM, "no memory to simulate %zu visits", visits);
        status = FM_ERR_NOMEM;
    }
    if (status == FM_OK) {
        size_t *producer[2] = {producers, producers + visits};
        fill_producers(program, timing.routes, producer);
        fill_op_times(program, costs, op_time);
        timing.op_time = op_time;
        timing.latency = costs->latency;
        timing.transfer = fm_pipe_transfer_cost(costs);
        timing.start = result->start;
        timing.finish = result->finish;
        status = fill_result(program, costs, &timing, producer, result);
    }
    fm_base_mem_free(op_time);
    fm_base_mem_free(producers);
    fm_pipe_timing_free(&timing);
    if (status != FM_OK) {
        fm_base_mem_free(result);
        return status;
    }
    *out_simulation = &result->public;
    return FM_OK;
}

void fm_pipe_simulation_free(fm_pipe_simulation *simulation)
{
    fm_base_mem_free(simulation);
}
