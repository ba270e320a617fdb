// The timing core: runs all ranks' programs against op times, message by message, and nothing else.
#include <string.h>

#include "fathom/mem.h"
#include "pipe_internal.h"

// Cuts `count * size` bytes off the block at *at, aligned for doubles; with a NULL block it only counts.
static void *cut(char *block, size_t *at, size_t count, size_t size)
{
    void *piece = block ? block + *at : NULL;
    *at += fm_round_up(count * size, sizeof(double));
    return piece;
}

static size_t lay_out(struct fm_pipe_timing *timing, size_t ops, char *block)
{
    const fm_pipe_program *program = timing->program;
    size_t visits = fm_pipe_visit_total(program);
    size_t ranks = (size_t)program->ranks;
    size_t at = 0;
    timing->start = cut(block, &at, ops, sizeof(double));
    timing->finish = cut(block, &at, ops, sizeof(double));
    timing->arrival[FM_PIPE_ACTIVATION] = cut(block, &at, visits, sizeof(double));
    timing->arrival[FM_PIPE_GRADIENT] = cut(block, &at, visits, sizeof(double));
    timing->link_free = cut(block, &at, 2 * ranks, sizeof(double));
    timing->rank_free = cut(block, &at, ranks, sizeof(double));
    timing->cursor = cut(block, &at, ranks, sizeof(size_t));
    timing->routes = cut(block, &at, ranks * (size_t)program->lanes, sizeof(struct fm_pipe_route));
    timing->stack = cut(block, &at, ranks, sizeof(int));
    timing->stacked = cut(block, &at, ranks, 1);
    return at;
}

fm_status fm_pipe_timing_init(const fm_pipe_program *program, size_t ops, struct fm_pipe_timing *out_timing)
{
    struct fm_pipe_timing timing = {.program = program};
    size_t bytes = lay_out(&timing, ops, NULL);
    timing.memory = fm_base_mem_alloc(bytes);
    if (!timing.memory)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to time a program of %zu ops", ops);
    lay_out(&timing, ops, timing.memory);
    fm_pipe_routes_fill(program, timing.routes);
    *out_timing = timing;
    return FM_OK;
}

void fm_pipe_timing_free(struct fm_pipe_timing *timing)
{
    fm_base_mem_free(timing->memory);
    timing->memory = NULL;
}

static double arrival_of(const struct fm_pipe_timing *timing, int kind, int rank, int lane, int chunk)
{
    return timing->arrival[kind][fm_pipe_visit(timing->program, rank, lane, chunk)];
}

// When the op's messages are all there; negative while one is not.
static double ready_at(const struct fm_pipe_timing *timing, int rank, const fm_pipe_op *op)
{
    int lanes = timing->program->lanes;
    double ready = 0;
    if (fm_pipe_has_forward(op) && timing->routes[rank * lanes + op->lane].prev_rank >= 0)
        ready = arrival_of(timing, FM_PIPE_ACTIVATION, rank, op->lane, op->chunk);
    if (ready >= 0 && fm_pipe_has_backward(op)) {
        int lane = fm_pipe_back_lane(op);
        if (timing->routes[rank * lanes + lane].next_rank >= 0) {
            double gradient = arrival_of(timing, FM_PIPE_GRADIENT, rank, lane, fm_pipe_back_chunk(op));
            ready = gradient < 0 || gradient > ready ? gradient : ready;
        }
    }
    return ready;
}

// Hands a result over at time `now`: at once on the same rank, over the link to another.
static void deliver(struct fm_pipe_timing *timing, int kind, int rank, int to_rank, int to_lane, int chunk,
                    double now, int *depth)
{
    double *arrival = &timing->arrival[kind][fm_pipe_visit(timing->program, to_rank, to_lane, chunk)];
    if (to_rank == rank) {
        *arrival = now;
        return;
    }
    int ranks = timing->program->ranks;
    double *link = &timing->link_free[2 * rank + (to_rank != (rank + 1) % ranks)];
    double begin = now > *link ? now : *link;
    *link = begin + timing->transfer;
    *arrival = *link + timing->latency;
    if (!timing->stacked[to_rank]) {
        timing->stacked[to_rank] = 1;
        timing->stack[(*depth)++] = to_rank;
    }
}

static void run_rank(struct fm_pipe_timing *timing, int rank, int *depth)
{
    const fm_pipe_program *program = timing->program;
    size_t end = program->first[rank + 1];
    size_t i = program->first[rank] + timing->cursor[rank];
    double free_at = timing->rank_free[rank];
    for (; i < end; i++) {
        const fm_pipe_op *op = &program->ops[i];
        double ready = ready_at(timing, rank, op);
        if (ready < 0)
            break;
        timing->start[i] = ready > free_at ? ready : free_at;
        timing->finish[i] = free_at = timing->start[i] + timing->op_time[i];
        if (fm_pipe_has_forward(op)) {
            const struct fm_pipe_route *route = &timing->routes[rank * program->lanes + op->lane];
            if (route->next_rank >= 0)
                deliver(timing, FM_PIPE_ACTIVATION, rank, route->next_rank, route->next_lane, op->chunk,
                        free_at, depth);
        }
        if (fm_pipe_has_backward(op)) {
            const struct fm_pipe_route *route =
                &timing->routes[rank * program->lanes + fm_pipe_back_lane(op)];
            if (route->prev_rank >= 0)
                deliver(timing, FM_PIPE_GRADIENT, rank, route->prev_rank, route->prev_lane,
                        fm_pipe_back_chunk(op), free_at, depth);
        }
    }
    timing->rank_free[rank] = free_at;
    timing->cursor[rank] = i - program->first[rank];
}

double fm_pipe_timing_run(struct fm_pipe_timing *timing)
{
    const fm_pipe_program *program = timing->program;
    size_t visits = fm_pipe_visit_total(program);
    for (size_t i = 0; i < visits; i++)
        timing->arrival[0][i] = timing->arrival[1][i] = -1;
    memset(timing->link_free, 0, 2 * (size_t)program->ranks * sizeof(double));
    memset(timing->rank_free, 0, (size_t)program->ranks * sizeof(double));
    memset(timing->cursor, 0, (size_t)program->ranks * sizeof(size_t));
    int depth = 0;
    for (int rank = program->ranks - 1; rank >= 0; rank--) {
        timing->stack[depth++] = rank;
        timing->stacked[rank] = 1;
    }
    while (depth > 0) {
        int rank = timing->stack[--depth];
        timing->stacked[rank] = 0;
        run_rank(timing, rank, &depth);
    }
    double makespan = 0;
    for (int rank = 0; rank < program->ranks; rank++) {
        if (timing->cursor[rank] < fm_pipe_count_of(program, rank))
            return -1;
        makespan = timing->rank_free[rank] > makespan ? timing->rank_free[rank] : makespan;
    }
    return makespan;
}
