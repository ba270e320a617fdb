// Periodic programs, after the building blocks of Qi et al. 2024 ("Pipeline Parallelism with Controllable Memory"): one
// micro-batch's way through the stages is drawn, and every other takes it a period later. How long a rank holds a visit,
// and so the memory of the whole, follows from how steep the way is; so what is tried is the steepness of each lane,
// forwards and backwards.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fathom/mem.h"
#include "pipe_search_internal.h"

enum {
    // Steepnesses of a lane that are tried: the op's time, and more by sixths of the period. Finer steps were not seen to
    // find better programs; large instances get coarser ones.
    STEPS_MOST = 6,
    STEPS_LEAST = 2,
    LANES_MAX = 2, // lanes that have a steepness of their own; more share the second's
    GENES = 2 * LANES_MAX,
};
// Ops that all patterns together may have: a few seconds at some 100 ns each.
static const double ops_max = 5e7;

struct pattern {
    const struct fm_pipe_problem *problem;
    int steps;
    int genes[GENES]; // steepness of lanes 0 and 1 forwards, then backwards, below `steps`
    double period;
    double *forward_at; // [directions][stages] when the first micro-batch's forward begins there
    double *backward_at;
};

// A forward or backward with the time at which the pattern has it.
struct placed {
    double at;
    fm_pipe_op op;
};

static double steepness(const struct pattern *pattern, int lane, int backward)
{
    int gene = pattern->genes[(backward ? LANES_MAX : 0) + (lane < LANES_MAX ? lane : LANES_MAX - 1)];
    return pattern->period * gene / pattern->steps;
}

static void draw_way(const struct pattern *pattern, int direction)
{
    const fm_pipe_program *layout = &pattern->problem->layout;
    double *forward = pattern->forward_at + direction * layout->stages;
    double *backward = pattern->backward_at + direction * layout->stages;
    double at = 0;
    for (int stage = 0; stage < layout->stages; stage++) {
        int rank;
        int lane = fm_pipe_locate(layout, direction, stage, &rank);
        forward[stage] = at;
        at += fm_pipe_lane_cost(pattern->problem, rank, lane)->f;
        const struct fm_pipe_route *route = &pattern->problem->routes[rank * layout->lanes + lane];
        if (route->next_rank >= 0 && route->next_rank != rank)
            at += steepness(pattern, lane, 0);
    }
    for (int stage = layout->stages - 1; stage >= 0; stage--) {
        int rank;
        int lane = fm_pipe_locate(layout, direction, stage, &rank);
        const fm_pipe_stage_cost *cost = fm_pipe_lane_cost(pattern->problem, rank, lane);
        backward[stage] = at;
        at += pattern->problem->search->no_split ? cost->b : cost->i;
        const struct fm_pipe_route *route = &pattern->problem->routes[rank * layout->lanes + lane];
        if (route->prev_rank >= 0 && route->prev_rank != rank)
            at += steepness(pattern, lane, 1);
    }
}

static int compare_placed(const void *a, const void *b)
{
    const struct placed *x = a;
    const struct placed *y = b;
    if (x->at != y->at)
        return x->at < y->at ? -1 : 1;
    if (x->op.kind != y->op.kind)
        return x->op.kind == FM_PIPE_F ? 1 : -1; // backwards first: they make room
    return (x->op.lane > y->op.lane) - (x->op.lane < y->op.lane);
}

static void order_rank(const struct pattern *pattern, int rank, struct placed *placed, fm_pipe_op *order)
{
    const fm_pipe_program *layout = &pattern->problem->layout;
    size_t count = 0;
    for (int lane = 0; lane < layout->lanes; lane++) {
        int direction = fm_pipe_direction(layout, lane);
        int at = direction * layout->stages + fm_pipe_stage(layout, rank, lane);
        fm_pipe_op forward = {.kind = FM_PIPE_F, .lane = (uint8_t)lane};
        fm_pipe_op backward = forward;
        backward.kind = pattern->problem->search->no_split ? FM_PIPE_B : FM_PIPE_I;
        for (int chunk = 0; chunk < layout->chunks[direction]; chunk++) {
            forward.chunk = backward.chunk = chunk;
            placed[count++] = (struct placed){pattern->forward_at[at] + chunk * pattern->period, forward};
            placed[count++] = (struct placed){pattern->backward_at[at] + chunk * pattern->period, backward};
        }
    }
    qsort(placed, count, sizeof *placed, compare_placed);
    for (size_t i = 0; i < count; i++)
        order[i] = placed[i].op;
}

static fm_status offer_pattern(const struct pattern *pattern, struct placed *placed, fm_pipe_op *order,
                               size_t stride, struct fm_pipe_best *best)
{
    static const double graces[] = {0, 1};
    const fm_pipe_program *layout = &pattern->problem->layout;
    draw_way(pattern, 0);
    if (layout->chunks[1])
        draw_way(pattern, 1);
    for (int rank = 0; rank < layout->ranks; rank++)
        order_rank(pattern, rank, placed, order + (size_t)rank * stride);
    int split = !pattern->problem->search->no_split;
    for (int variant = 0; variant < 2 * (1 + split); variant++) {
        struct fm_pipe_list_rule rule = {.pairs = variant & 1,
                                         .split = split,
                                         .w_grace = graces[variant >> 1],
                                         .order = order,
                                         .order_stride = stride};
        if (rule.pairs && pattern->problem->search->no_pairs)
            continue;
        fm_pipe_program *program = NULL;
        FM_TRY(fm_pipe_list_schedule(pattern->problem, &rule, &program));
        if (program)
            FM_TRY(fm_pipe_candidate_offer(pattern->problem, program, best));
    }
    return FM_OK;
}

// What the busiest rank does for one micro-batch of each direction.
static double least_period(const struct fm_pipe_problem *problem)
{
    const fm_pipe_program *layout = &problem->layout;
    double period = 0;
    for (int rank = 0; rank < layout->ranks; rank++) {
        double work = 0;
        for (int lane = 0; lane < layout->lanes; lane++) {
            const fm_pipe_stage_cost *cost = fm_pipe_lane_cost(problem, rank, lane);
            work += cost->f + (problem->search->no_split ? cost->b : fmin(cost->b, cost->i + cost->w));
        }
        period = fmax(period, work);
    }
    return period;
}

// Each of `own` lanes has a steepness forwards and one backwards.
static int pattern_count(int steps, int own)
{
    return own == 1 ? steps * steps : steps * steps * steps * steps;
}

fm_status fm_pipe_search_pattern(const struct fm_pipe_problem *problem, struct fm_pipe_best *best)
{
    const fm_pipe_program *layout = &problem->layout;
    struct pattern pattern = {.problem = problem, .period = least_period(problem)};
    size_t stages = 2 * (size_t)layout->stages;
    size_t stride = 0;
    for (int lane = 0; lane < layout->lanes; lane++)
        stride += 2 * (size_t)layout->chunks[fm_pipe_direction(layout, lane)];
    fm_arena arena = {0};
    pattern.forward_at = fm_base_arena_alloc(&arena, stages * sizeof(double));
    pattern.backward_at = fm_base_arena_alloc(&arena, stages * sizeof(double));
    struct placed *placed = fm_base_arena_alloc(&arena, stride * sizeof *placed);
    fm_pipe_op *order = fm_base_arena_alloc(&arena, (size_t)layout->ranks * stride * sizeof *order);
    fm_status status = FM_OK;
    if (!pattern.forward_at || !pattern.backward_at || !placed || !order)
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory for patterns of %zu ops", stride);
    int own = layout->lanes == 1 || layout->placement == FM_PIPE_MIRROR ? 1 : LANES_MAX;
    pattern.steps = STEPS_MOST;
    while (pattern.steps > STEPS_LEAST &&
           4.0 * pattern_count(pattern.steps, own) * (double)fm_pipe_program_capacity(layout) > ops_max)
        pattern.steps--;
    int patterns = pattern_count(pattern.steps, own);
    for (int code = 0; code < patterns && status == FM_OK; code++) {
        for (int gene = 0, rest = code; gene < GENES; gene++) {
            if (gene % LANES_MAX < own) {
                pattern.genes[gene] = rest % pattern.steps;
                rest /= pattern.steps;
            } else {
                pattern.genes[gene] = pattern.genes[gene - 1];
            }
        }
        status = offer_pattern(&pattern, placed, order, stride, best);
    }
    fm_base_arena_clear(&arena);
    return status;
}
