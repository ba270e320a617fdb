// List scheduling: time runs on, and whichever rank can start something first does: backwards before forwards, or what
// a given order has next; weight parts where they fit.
#include <math.h>
#include <string.h>

#include "fathom/mem.h"
#include "pipe_search_internal.h"

// A lane of a rank. Chunks pass it in order, so counts say all.
struct lane {
    int forwards;
    int backwards;
    int weights;
    int queued;     // I done
    int32_t *queue; // [chunks] chunks of those I, in order
};

// What a rank would start next.
struct choice {
    double start;
    fm_pipe_op op;
};

struct lister {
    const struct fm_pipe_problem *problem;
    const struct fm_pipe_list_rule *rule;
    struct lane *lanes;    // [ranks * lanes]
    double *arrival[2];    // [visits] by message kind; negative: not sent
    double *rank_free;     // [ranks]
    double *link_free;     // [ranks * 2]
    double *memory;        // [ranks]
    struct choice *choice; // [ranks]; start HUGE_VAL: nothing
    fm_pipe_op *ops;       // [ranks][ops_per_rank]
    size_t *counts;        // [ranks]
    size_t *taken;         // [ranks] ops of rule->order that have started
    size_t ops_per_rank;
};

static struct lane *lane_of(const struct lister *lister, int rank, int lane)
{
    return &lister->lanes[rank * lister->problem->layout.lanes + lane];
}

static const struct fm_pipe_route *route_of(const struct lister *lister, int rank, int lane)
{
    return &lister->problem->routes[rank * lister->problem->layout.lanes + lane];
}

// When the lane's next forward could start; HUGE_VAL when that is not known, or not allowed.
static double forward_ready(const struct lister *lister, int rank, int lane)
{
    const fm_pipe_program *layout = &lister->problem->layout;
    const struct lane *mine = lane_of(lister, rank, lane);
    if (mine->forwards == layout->chunks[fm_pipe_direction(layout, lane)])
        return HUGE_VAL;
    double held = lister->memory[rank] + fm_pipe_lane_cost(lister->problem, rank, lane)->memory;
    if (fm_pipe_exceeds(held, lister->problem->cap))
        return HUGE_VAL;
    if (route_of(lister, rank, lane)->prev_rank < 0) {
        int entered = mine->forwards - mine->backwards;
        return lister->rule->order || entered < lister->rule->in_flight ? lister->rank_free[rank] : HUGE_VAL;
    }
    double arrival = lister->arrival[FM_PIPE_ACTIVATION][fm_pipe_visit(layout, rank, lane, mine->forwards)];
    return arrival < 0 ? HUGE_VAL : fmax(arrival, lister->rank_free[rank]);
}

static double backward_ready(const struct lister *lister, int rank, int lane)
{
    const fm_pipe_program *layout = &lister->problem->layout;
    const struct lane *mine = lane_of(lister, rank, lane);
    if (mine->backwards == mine->forwards)
        return HUGE_VAL;
    if (route_of(lister, rank, lane)->next_rank < 0)
        return lister->rank_free[rank];
    double arrival = lister->arrival[FM_PIPE_GRADIENT][fm_pipe_visit(layout, rank, lane, mine->backwards)];
    return arrival < 0 ? HUGE_VAL : fmax(arrival, lister->rank_free[rank]);
}

// A pair instead of the better of its halves, where it ends both sooner than one after the other.
static void consider_pair(const struct lister *lister, int rank, int lane, double forward, int back_lane,
                          double backward, struct choice *choice)
{
    const struct fm_pipe_problem *problem = lister->problem;
    const struct lane *f = lane_of(lister, rank, lane);
    const struct lane *b = lane_of(lister, rank, back_lane);
    if (forward == HUGE_VAL || backward == HUGE_VAL || (lane == back_lane && f->forwards == b->backwards))
        return;
    double first = fmin(forward, backward);
    double start = fmax(forward, backward);
    double apart = forward <= backward ? fmax(first + fm_pipe_lane_cost(problem, rank, lane)->f, start) +
                                             fm_pipe_lane_cost(problem, rank, back_lane)->b
                                       : fmax(first + fm_pipe_lane_cost(problem, rank, back_lane)->b, start) +
                                             fm_pipe_lane_cost(problem, rank, lane)->f;
    if (start + fm_pipe_pair_cost(problem, rank, lane, back_lane) >= apart)
        return;
    if (choice->op.kind == FM_PIPE_FB && choice->start <= start)
        return;
    *choice = (struct choice){start,
                              {.kind = FM_PIPE_FB,
                               .lane = (uint8_t)lane,
                               .back_lane = (uint8_t)back_lane,
                               .chunk = f->forwards,
                               .back_chunk = b->backwards}};
}

// Whatever can start first.
static struct choice choose_any(const struct lister *lister, int rank)
{
    int lanes = lister->problem->layout.lanes;
    struct choice choice = {.start = HUGE_VAL};
    double forward[FM_PIPE_LANES_MAX];
    double backward[FM_PIPE_LANES_MAX];
    for (int lane = 0; lane < lanes; lane++) {
        backward[lane] = backward_ready(lister, rank, lane);
        if (backward[lane] < choice.start)
            choice = (struct choice){backward[lane],
                                     {.kind = lister->rule->split ? FM_PIPE_I : FM_PIPE_B,
                                      .lane = (uint8_t)lane,
                                      .chunk = lane_of(lister, rank, lane)->backwards}};
    }
    for (int lane = lanes - 1; lane >= 0; lane--) { // the deeper lane first: what it holds is needed soonest
        forward[lane] = forward_ready(lister, rank, lane);
        if (forward[lane] < choice.start)
            choice = (struct choice){
                forward[lane],
                {.kind = FM_PIPE_F, .lane = (uint8_t)lane, .chunk = lane_of(lister, rank, lane)->forwards}};
    }
    for (int lane = 0; lane < lanes && lister->rule->pairs; lane++)
        for (int back_lane = 0; back_lane < lanes; back_lane++)
            consider_pair(lister, rank, lane, forward[lane], back_lane, backward[back_lane], &choice);
    return choice;
}

// The next of the given order, or a pair of the next two.
static struct choice choose_next(const struct lister *lister, int rank)
{
    const fm_pipe_op *order = lister->rule->order + (size_t)rank * lister->rule->order_stride;
    size_t left = lister->rule->order_stride - lister->taken[rank];
    if (left == 0)
        return (struct choice){.start = HUGE_VAL};
    const fm_pipe_op *op = &order[lister->taken[rank]];
    struct choice choice = {.op = *op};
    choice.start = op->kind == FM_PIPE_F ? forward_ready(lister, rank, op->lane)
                                         : backward_ready(lister, rank, op->lane);
    if (lister->rule->pairs && left > 1 && fm_pipe_has_forward(op) != fm_pipe_has_forward(op + 1)) {
        const fm_pipe_op *forward = fm_pipe_has_forward(op) ? op : op + 1;
        const fm_pipe_op *backward = fm_pipe_has_forward(op) ? op + 1 : op;
        consider_pair(lister, rank, forward->lane, forward_ready(lister, rank, forward->lane), backward->lane,
                      backward_ready(lister, rank, backward->lane), &choice);
    }
    return choice;
}

static void choose(struct lister *lister, int rank)
{
    const struct fm_pipe_problem *problem = lister->problem;
    struct choice choice = lister->rule->order ? choose_next(lister, rank) : choose_any(lister, rank);
    for (int lane = 0; lane < problem->layout.lanes; lane++) {
        const struct lane *mine = lane_of(lister, rank, lane);
        double weight = fm_pipe_lane_cost(problem, rank, lane)->w * (1 - lister->rule->w_grace);
        if (mine->weights < mine->queued && lister->rank_free[rank] + weight <= choice.start) {
            choice = (struct choice){
                lister->rank_free[rank],
                {.kind = FM_PIPE_W, .lane = (uint8_t)lane, .chunk = mine->queue[mine->weights]}};
            break;
        }
    }
    lister->choice[rank] = choice;
}

static void deliver(struct lister *lister, int kind, int rank, int to_rank, int to_lane, int chunk,
                    double now)
{
    double *arrival =
        &lister->arrival[kind][fm_pipe_visit(&lister->problem->layout, to_rank, to_lane, chunk)];
    *arrival = now;
    if (to_rank == rank)
        return;
    double *link = &lister->link_free[2 * rank + (to_rank != (rank + 1) % lister->problem->layout.ranks)];
    *link = fmax(*link, now) + lister->problem->transfer;
    *arrival = *link + lister->problem->latency;
    choose(lister, to_rank);
}

static void start(struct lister *lister, int rank)
{
    const struct fm_pipe_problem *problem = lister->problem;
    const fm_pipe_op op = lister->choice[rank].op;
    lister->ops[(size_t)rank * lister->ops_per_rank + lister->counts[rank]++] = op;
    double end = lister->choice[rank].start + fm_pipe_problem_op_cost(problem, rank, &op);
    lister->rank_free[rank] = end;
    lister->taken[rank] += op.kind == FM_PIPE_W ? 0 : op.kind == FM_PIPE_FB ? 2 : 1;
    if (fm_pipe_has_forward(&op)) {
        const struct fm_pipe_route *route = route_of(lister, rank, op.lane);
        lane_of(lister, rank, op.lane)->forwards++;
        lister->memory[rank] += fm_pipe_lane_cost(problem, rank, op.lane)->memory;
        if (route->next_rank >= 0)
            deliver(lister, FM_PIPE_ACTIVATION, rank, route->next_rank, route->next_lane, op.chunk, end);
    }
    int lane = fm_pipe_back_lane(&op);
    struct lane *mine = lane_of(lister, rank, lane);
    if (fm_pipe_has_backward(&op)) {
        const struct fm_pipe_route *route = route_of(lister, rank, lane);
        mine->backwards++;
        if (op.kind == FM_PIPE_I)
            mine->queue[mine->queued++] = op.chunk;
        if (route->prev_rank >= 0)
            deliver(lister, FM_PIPE_GRADIENT, rank, route->prev_rank, route->prev_lane,
                    fm_pipe_back_chunk(&op), end);
    }
    mine->weights += op.kind == FM_PIPE_W;
    if (fm_pipe_ends_visit(&op))
        lister->memory[rank] -= fm_pipe_lane_cost(problem, rank, lane)->memory;
    choose(lister, rank);
}

static fm_status collect(const struct lister *lister, fm_pipe_program **out_program)
{
    const fm_pipe_program *layout = &lister->problem->layout;
    for (int i = 0; i < layout->ranks * layout->lanes; i++) {
        int chunks = layout->chunks[fm_pipe_direction(layout, i % layout->lanes)];
        if (lister->lanes[i].backwards < chunks || lister->lanes[i].weights < lister->lanes[i].queued)
            return FM_OK; // the cap was in the way
    }
    fm_pipe_program *program;
    FM_TRY(fm_pipe_program_alloc(layout, fm_pipe_program_capacity(layout), &program));
    size_t total = 0;
    for (int rank = 0; rank < layout->ranks; rank++) {
        memcpy(fm_pipe_ops_mutable(program) + total, lister->ops + (size_t)rank * lister->ops_per_rank,
               lister->counts[rank] * sizeof *lister->ops);
        total += lister->counts[rank];
        fm_pipe_first_mutable(program)[rank + 1] = total;
    }
    *out_program = program;
    return FM_OK;
}

static void run(struct lister *lister)
{
    int ranks = lister->problem->layout.ranks;
    for (int rank = 0; rank < ranks; rank++)
        choose(lister, rank);
    for (;;) {
        int first = 0;
        for (int rank = 1; rank < ranks; rank++)
            if (lister->choice[rank].start < lister->choice[first].start)
                first = rank;
        if (lister->choice[first].start == HUGE_VAL)
            return;
        start(lister, first);
    }
}

fm_status fm_pipe_list_schedule(const struct fm_pipe_problem *problem, const struct fm_pipe_list_rule *rule,
                                fm_pipe_program **out_program)
{
    const fm_pipe_program *layout = &problem->layout;
    struct lister lister = {.problem = problem, .rule = rule};
    size_t ranks = (size_t)layout->ranks;
    size_t lanes = ranks * (size_t)layout->lanes;
    size_t visits = fm_pipe_visit_total(layout);
    lister.ops_per_rank = fm_pipe_program_capacity(layout) / ranks;
    fm_arena arena = {0};
    fm_status status = FM_OK;
    int32_t *queues = fm_base_arena_alloc(&arena, visits * sizeof *queues);
    lister.lanes = fm_base_arena_alloc(&arena, lanes * sizeof *lister.lanes);
    lister.arrival[0] = fm_base_arena_alloc(&arena, visits * sizeof(double));
    lister.arrival[1] = fm_base_arena_alloc(&arena, visits * sizeof(double));
    lister.rank_free = fm_base_arena_alloc(&arena, ranks * sizeof(double));
    lister.link_free = fm_base_arena_alloc(&arena, 2 * ranks * sizeof(double));
    lister.memory = fm_base_arena_alloc(&arena, ranks * sizeof(double));
    lister.choice = fm_base_arena_alloc(&arena, ranks * sizeof *lister.choice);
    lister.counts = fm_base_arena_alloc(&arena, ranks * sizeof *lister.counts);
    lister.taken = fm_base_arena_alloc(&arena, ranks * sizeof *lister.taken);
    lister.ops = fm_base_arena_alloc(&arena, ranks * lister.ops_per_rank * sizeof *lister.ops);
    if (!queues || !lister.lanes || !lister.arrival[0] || !lister.arrival[1] || !lister.rank_free ||
        !lister.link_free || !lister.memory || !lister.choice || !lister.counts || !lister.taken ||
        !lister.ops) {
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory to schedule %zu visits", visits);
    } else {
        for (size_t i = 0; i < visits; i++)
            lister.arrival[0][i] = lister.arrival[1][i] = -1;
        memset(lister.rank_free, 0, ranks * sizeof(double));
        memset(lister.link_free, 0, 2 * ranks * sizeof(double));
        memset(lister.memory, 0, ranks * sizeof(double));
        memset(lister.counts, 0, ranks * sizeof *lister.counts);
        memset(lister.taken, 0, ranks * sizeof *lister.taken);
        for (size_t i = 0; i < lanes; i++)
            lister.lanes[i] = (struct lane){.queue = queues + i * (size_t)layout->chunks[0]};
        run(&lister);
        status = collect(&lister, out_program);
    }
    fm_base_arena_clear(&arena);
    return status;
}
