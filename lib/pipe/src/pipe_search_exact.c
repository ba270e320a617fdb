// Branch and bound over all programs, by time: at each moment every idle rank either starts something that is ready or
// waits for the next event. Ops only ever start when their rank becomes free or a message arrives, so this meets an
// optimal program. Micro-batches of a direction are alike, so each lane takes them in order without loss.
#include <math.h>
#include <string.h>

#include "fathom/mem.h"
#include "pipe_search_internal.h"

enum {
    LANES_MAX = 4,    // 4 F, 4 B, 4 I, 4 W and 16 pairs: what a rank may start fits 32 bits
    VISITS_MAX = 256, // bounds the depth of the recursion; no larger instance ends within any patience
    CACHE_ENTRIES = 1 << 18,
};

struct lane {
    int forwards, backwards, weights, queued;
    int32_t queue[VISITS_MAX];
};

struct state {
    double free_at;
    double link_free[2];
    double memory;
    fm_pipe_op running; // the op that ends at free_at
    // While it idles: what it could have started meanwhile and did not. To start that later is never better, and what
    // it starts must begin before the quickest of them that might have fitted in would have ended.
    uint32_t passed_over;
    double deadline;
    size_t count;
};

struct rank {
    struct state state;
    fm_pipe_op ops[3 * VISITS_MAX];
};

// A state met before, at that time or earlier, leads nowhere better. Older entries give way to newer ones.
struct seen {
    uint64_t key[2];
    double now;
};

struct exact {
    const struct fm_pipe_problem *problem;
    struct rank *ranks;
    struct lane *lanes;
    double *arrival[2];
    struct seen *cache;
    struct fm_pipe_best *best;
    double quantum; // times are compared in these units
    int64_t nodes;
    fm_status status;
};

static struct lane *lane_of(const struct exact *exact, int rank, int lane)
{
    return &exact->lanes[rank * exact->problem->layout.lanes + lane];
}

static const struct fm_pipe_route *route_of(const struct exact *exact, int rank, int lane)
{
    return &exact->problem->routes[rank * exact->problem->layout.lanes + lane];
}

static uint32_t bit_of(const fm_pipe_op *op)
{
    if (op->kind == FM_PIPE_FB)
        return 1u << (16 + LANES_MAX * op->lane + op->back_lane);
    return 1u << (LANES_MAX * op->kind + op->lane);
}

static int forward_ready(const struct exact *exact, int rank, int lane, double now)
{
    const fm_pipe_program *layout = &exact->problem->layout;
    const struct lane *mine = lane_of(exact, rank, lane);
    if (mine->forwards == layout->chunks[fm_pipe_direction(layout, lane)])
        return 0;
    if (fm_pipe_exceeds(exact->ranks[rank].state.memory +
                            fm_pipe_lane_cost(exact->problem, rank, lane)->memory,
                        exact->problem->cap))
        return 0;
    if (route_of(exact, rank, lane)->prev_rank < 0)
        return 1;
    double arrival = exact->arrival[FM_PIPE_ACTIVATION][fm_pipe_visit(layout, rank, lane, mine->forwards)];
    return arrival >= 0 && arrival <= now;
}

static int backward_ready(const struct exact *exact, int rank, int lane, double now)
{
    const struct lane *mine = lane_of(exact, rank, lane);
    if (mine->backwards == mine->forwards)
        return 0;
    if (route_of(exact, rank, lane)->next_rank < 0)
        return 1;
    double arrival =
        exact->arrival[FM_PIPE_GRADIENT][fm_pipe_visit(&exact->problem->layout, rank, lane, mine->backwards)];
    return arrival >= 0 && arrival <= now;
}

// The ops that `rank` could start at `now`, the likeliest to be best first.
static int startable(const struct exact *exact, int rank, double now, fm_pipe_op out[32])
{
    const struct fm_pipe_problem *problem = exact->problem;
    int lanes = problem->layout.lanes;
    int count = 0;
    int forward[LANES_MAX] = {0};
    int backward[LANES_MAX] = {0};
    for (int lane = 0; lane < lanes; lane++) {
        forward[lane] = forward_ready(exact, rank, lane, now);
        backward[lane] = backward_ready(exact, rank, lane, now);
    }
    // A pair, or a B, that takes no less than its parts is never better than they are one after the other.
    for (int lane = 0; lane < lanes && !problem->search->no_pairs; lane++)
        for (int back_lane = 0; back_lane < lanes; back_lane++) {
            const struct fm_pipe_stage_cost *back = fm_pipe_lane_cost(problem, rank, back_lane);
            double apart = fm_pipe_lane_cost(problem, rank, lane)->f +
                           (problem->search->no_split ? back->b : fmin(back->b, back->i + back->w));
            int32_t chunk = lane_of(exact, rank, lane)->forwards;
            int32_t back_chunk = lane_of(exact, rank, back_lane)->backwards;
            if (forward[lane] && backward[back_lane] && (lane != back_lane || chunk != back_chunk) &&
                fm_pipe_pair_cost(problem, rank, lane, back_lane) < apart)
                out[count++] =
                    (fm_pipe_op){FM_PIPE_FB, (uint8_t)lane, (uint8_t)back_lane, 0, chunk, back_chunk};
        }
    for (int lane = 0; lane < lanes; lane++) {
        const fm_pipe_stage_cost *cost = fm_pipe_lane_cost(problem, rank, lane);
        int32_t chunk = lane_of(exact, rank, lane)->backwards;
        if (backward[lane] && !problem->search->no_split)
            out[count++] = (fm_pipe_op){.kind = FM_PIPE_I, .lane = (uint8_t)lane, .chunk = chunk};
        if (backward[lane] && (problem->search->no_split || cost->b < cost->i + cost->w))
            out[count++] = (fm_pipe_op){.kind = FM_PIPE_B, .lane = (uint8_t)lane, .chunk = chunk};
    }
    for (int lane = lanes - 1; lane >= 0; lane--)
        if (forward[lane])
            out[count++] = (fm_pipe_op){
                .kind = FM_PIPE_F, .lane = (uint8_t)lane, .chunk = lane_of(exact, rank, lane)->forwards};
    for (int lane = 0; lane < lanes; lane++) {
        const struct lane *mine = lane_of(exact, rank, lane);
        if (mine->weights < mine->queued)
            out[count++] =
                (fm_pipe_op){.kind = FM_PIPE_W, .lane = (uint8_t)lane, .chunk = mine->queue[mine->weights]};
    }
    return count;
}

static void deliver(struct exact *exact, int kind, int rank, int to_rank, int to_lane, int chunk, double now)
{
    double *arrival = &exact->arrival[kind][fm_pipe_visit(&exact->problem->layout, to_rank, to_lane, chunk)];
    *arrival = now;
    if (to_rank == rank)
        return;
    double *link = &exact->ranks[rank].state.link_free[to_rank != (rank + 1) % exact->problem->layout.ranks];
    *link = fmax(*link, now) + exact->problem->transfer;
    *arrival = *link + exact->problem->latency;
}

static void apply(struct exact *exact, int rank, const fm_pipe_op *op, double now)
{
    const struct fm_pipe_problem *problem = exact->problem;
    struct state *mine = &exact->ranks[rank].state;
    double end = now + fm_pipe_problem_op_cost(problem, rank, op);
    int lane = fm_pipe_back_lane(op);
    struct lane *back = lane_of(exact, rank, lane);
    exact->ranks[rank].ops[mine->count++] = *op;
    mine->free_at = end;
    mine->running = *op;
    mine->passed_over = 0;
    mine->deadline = HUGE_VAL;
    if (fm_pipe_has_forward(op)) {
        const struct fm_pipe_route *route = route_of(exact, rank, op->lane);
        lane_of(exact, rank, op->lane)->forwards++;
        mine->memory += fm_pipe_lane_cost(problem, rank, op->lane)->memory;
        if (route->next_rank >= 0)
            deliver(exact, FM_PIPE_ACTIVATION, rank, route->next_rank, route->next_lane, op->chunk, end);
    }
    if (fm_pipe_has_backward(op)) {
        const struct fm_pipe_route *route = route_of(exact, rank, lane);
        back->backwards++;
        if (op->kind == FM_PIPE_I)
            back->queue[back->queued++] = op->chunk;
        if (route->prev_rank >= 0)
            deliver(exact, FM_PIPE_GRADIENT, rank, route->prev_rank, route->prev_lane, fm_pipe_back_chunk(op),
                    end);
    }
    back->weights += op->kind == FM_PIPE_W;
    if (fm_pipe_ends_visit(op))
        mine->memory -= fm_pipe_lane_cost(problem, rank, lane)->memory;
}

static void take_back(struct exact *exact, int rank, const fm_pipe_op *op, const struct state *before)
{
    const fm_pipe_program *layout = &exact->problem->layout;
    int lane = fm_pipe_back_lane(op);
    struct lane *back = lane_of(exact, rank, lane);
    exact->ranks[rank].state = *before;
    if (fm_pipe_has_forward(op)) {
        const struct fm_pipe_route *route = route_of(exact, rank, op->lane);
        lane_of(exact, rank, op->lane)->forwards--;
        if (route->next_rank >= 0)
            exact->arrival[FM_PIPE_ACTIVATION]
                          [fm_pipe_visit(layout, route->next_rank, route->next_lane, op->chunk)] = -1;
    }
    if (fm_pipe_has_backward(op)) {
        const struct fm_pipe_route *route = route_of(exact, rank, lane);
        back->backwards--;
        back->queued -= op->kind == FM_PIPE_I;
        if (route->prev_rank >= 0)
            exact->arrival[FM_PIPE_GRADIENT][fm_pipe_visit(layout, route->prev_rank, route->prev_lane,
                                                           fm_pipe_back_chunk(op))] = -1;
    }
    back->weights -= op->kind == FM_PIPE_W;
}

// Least time at which a rank can be through with its work, whatever the others do.
static double rank_bound(const struct exact *exact, int rank, double now)
{
    const struct fm_pipe_problem *problem = exact->problem;
    const fm_pipe_program *layout = &problem->layout;
    int no_split = problem->search->no_split;
    double work = 0;
    double saving = 0;
    int forwards = 0;
    int backwards = 0;
    for (int lane = 0; lane < layout->lanes; lane++) {
        const fm_pipe_stage_cost *cost = fm_pipe_lane_cost(problem, rank, lane);
        const struct lane *mine = lane_of(exact, rank, lane);
        int chunks = layout->chunks[fm_pipe_direction(layout, lane)];
        double backward = no_split ? cost->b : fmin(cost->b, cost->i + cost->w);
        work += (chunks - mine->forwards) * cost->f + (chunks - mine->backwards) * backward +
                (mine->queued - mine->weights) * cost->w;
        forwards += chunks - mine->forwards;
        backwards += chunks - mine->backwards;
        for (int back_lane = 0; back_lane < layout->lanes && !problem->search->no_pairs; back_lane++) {
            const struct fm_pipe_stage_cost *back = fm_pipe_lane_cost(problem, rank, back_lane);
            double apart = cost->f + (no_split ? back->b : fmin(back->b, back->i + back->w));
            saving = fmax(saving, apart - fm_pipe_pair_cost(problem, rank, lane, back_lane));
        }
    }
    int pairs = forwards < backwards ? forwards : backwards;
    return fmax(exact->ranks[rank].state.free_at, now) + work - pairs * saving;
}

// Least time at which the last micro-batch of a direction can be out again: its way from where it is.
static double chain_bound(const struct exact *exact, int direction, double now)
{
    const struct fm_pipe_problem *problem = exact->problem;
    const fm_pipe_program *layout = &problem->layout;
    int last = layout->chunks[direction] - 1;
    double left = 0;
    for (int stage = 0; stage < layout->stages && last >= 0; stage++) {
        int rank;
        int lane = fm_pipe_locate(layout, direction, stage, &rank);
        const fm_pipe_stage_cost *cost = fm_pipe_lane_cost(problem, rank, lane);
        const struct lane *mine = lane_of(exact, rank, lane);
        left += mine->forwards <= last ? cost->f : 0;
        if (mine->backwards <= last)
            left += problem->search->no_split ? cost->b : fmin(cost->b, cost->i);
    }
    return now + left;
}

static int is_hopeless(const struct exact *exact, double now)
{
    const fm_pipe_program *layout = &exact->problem->layout;
    double limit = exact->best->makespan * (1 - 1e-9);
    for (int direction = 0; direction < 2; direction++)
        if (chain_bound(exact, direction, now) >= limit)
            return 1;
    for (int rank = 0; rank < layout->ranks; rank++)
        if (rank_bound(exact, rank, now) >= limit)
            return 1;
    return 0;
}

static void mix(uint64_t key[2], uint64_t value)
{
    // Two different odd multipliers (SplitMix64's and a xorshift*'s): a state is mistaken for another once in 2^128.
    key[0] = (key[0] ^ value) * 0xBF58476D1CE4E5B9u;
    key[0] ^= key[0] >> 29;
    key[1] = (key[1] + value) * 0x2545F4914F6CDD1Du;
    key[1] ^= key[1] >> 32;
}

static uint64_t ahead(const struct exact *exact, double time, double now)
{
    return time > now ? (uint64_t)llround((time - now) / exact->quantum) : 0;
}

// All that the future depends on, with times as seen from `now`.
static void fill_key(const struct exact *exact, double now, uint64_t key[2])
{
    const fm_pipe_program *layout = &exact->problem->layout;
    key[0] = key[1] = 0;
    for (int rank = 0; rank < layout->ranks; rank++) {
        const struct state *mine = &exact->ranks[rank].state;
        uint64_t busy = ahead(exact, mine->free_at, now);
        mix(key, busy);
        mix(key, busy ? bit_of(&mine->running) : mine->passed_over);
        mix(key, !busy && mine->deadline != HUGE_VAL ? 1 + ahead(exact, mine->deadline, now) : 0);
        mix(key, ahead(exact, mine->link_free[0], now));
        mix(key, ahead(exact, mine->link_free[1], now));
        for (int lane = 0; lane < layout->lanes; lane++) {
            const struct lane *counts = lane_of(exact, rank, lane);
            int chunks = layout->chunks[fm_pipe_direction(layout, lane)];
            mix(key, (uint64_t)counts->forwards | (uint64_t)counts->backwards << 16 |
                         (uint64_t)counts->weights << 32 | (uint64_t)counts->queued << 48);
            size_t visit = fm_pipe_visit(layout, rank, lane, 0);
            for (int chunk = counts->forwards;
                 chunk < chunks && exact->arrival[0][visit + (size_t)chunk] >= 0; chunk++)
                mix(key, ahead(exact, exact->arrival[0][visit + (size_t)chunk], now));
            for (int chunk = counts->backwards;
                 chunk < chunks && exact->arrival[1][visit + (size_t)chunk] >= 0; chunk++)
                mix(key, ahead(exact, exact->arrival[1][visit + (size_t)chunk], now));
        }
    }
}

static int was_seen(struct exact *exact, double now)
{
    uint64_t key[2];
    fill_key(exact, now, key);
    struct seen *entry = &exact->cache[key[0] % CACHE_ENTRIES];
    if (entry->key[0] == key[0] && entry->key[1] == key[1] && entry->now <= now)
        return 1;
    *entry = (struct seen){{key[0], key[1]}, now};
    return 0;
}

static int is_finished(const struct exact *exact)
{
    const fm_pipe_program *layout = &exact->problem->layout;
    for (int i = 0; i < layout->ranks * layout->lanes; i++)
        if (exact->lanes[i].backwards < layout->chunks[fm_pipe_direction(layout, i % layout->lanes)] ||
            exact->lanes[i].weights < exact->lanes[i].queued)
            return 0;
    return 1;
}

static void keep(struct exact *exact)
{
    const fm_pipe_program *layout = &exact->problem->layout;
    fm_pipe_program *program;
    exact->status = fm_pipe_program_alloc(layout, fm_pipe_program_capacity(layout), &program);
    if (exact->status != FM_OK)
        return;
    size_t total = 0;
    for (int rank = 0; rank < layout->ranks; rank++) {
        const struct rank *mine = &exact->ranks[rank];
        memcpy(&fm_pipe_ops_mutable(program)[total], mine->ops, mine->state.count * sizeof *mine->ops);
        total += mine->state.count;
        fm_pipe_first_mutable(program)[rank + 1] = total;
    }
    exact->status = fm_pipe_candidate_offer(exact->problem, program, exact->best);
}

// The next moment after `now` at which a rank becomes free or a message arrives; HUGE_VAL: none.
static double next_event(const struct exact *exact, double now)
{
    const fm_pipe_program *layout = &exact->problem->layout;
    double next = HUGE_VAL;
    for (int rank = 0; rank < layout->ranks; rank++) {
        if (exact->ranks[rank].state.free_at > now)
            next = fmin(next, exact->ranks[rank].state.free_at);
        for (int lane = 0; lane < layout->lanes; lane++) {
            const struct lane *counts = lane_of(exact, rank, lane);
            int chunks = layout->chunks[fm_pipe_direction(layout, lane)];
            size_t visit = fm_pipe_visit(layout, rank, lane, 0);
            const double *activations = exact->arrival[FM_PIPE_ACTIVATION] + visit;
            const double *gradients = exact->arrival[FM_PIPE_GRADIENT] + visit;
            for (int chunk = counts->forwards; chunk < chunks && activations[chunk] >= 0; chunk++)
                next = activations[chunk] > now ? fmin(next, activations[chunk]) : next;
            for (int chunk = counts->backwards; chunk < chunks && gradients[chunk] >= 0; chunk++)
                next = gradients[chunk] > now ? fmin(next, gradients[chunk]) : next;
        }
    }
    return next;
}

static void decide(struct exact *exact, double now, int rank);

static void advance(struct exact *exact, double now)
{
    if (is_finished(exact)) {
        keep(exact);
        return;
    }
    double next = next_event(exact, now);
    if (next == HUGE_VAL || is_hopeless(exact, next))
        return;
    for (int rank = 0; rank < exact->problem->layout.ranks; rank++)
        if (exact->ranks[rank].state.free_at <= next && next >= exact->ranks[rank].state.deadline)
            return;
    if (!was_seen(exact, next))
        decide(exact, next, 0);
}

// Decides for ranks `rank` and up what they do at `now`, then lets time pass.
static void decide(struct exact *exact, double now, int rank)
{
    const struct fm_pipe_problem *problem = exact->problem;
    while (rank < problem->layout.ranks && exact->ranks[rank].state.free_at > now)
        rank++;
    if (rank == problem->layout.ranks) {
        advance(exact, now);
        return;
    }
    if (++exact->nodes > problem->exact_nodes || exact->status != FM_OK)
        return;
    fm_pipe_op options[32];
    int count = startable(exact, rank, now, options);
    struct state before = exact->ranks[rank].state;
    uint32_t passed_over = before.passed_over;
    double deadline = before.deadline;
    for (int i = 0; i < count; i++) {
        uint32_t bit = bit_of(&options[i]);
        if (!(before.passed_over & bit)) {
            apply(exact, rank, &options[i], now);
            decide(exact, now, rank + 1);
            take_back(exact, rank, &options[i], &before);
        }
        passed_over |= bit;
        // Under a cap an earlier forward may be in the way of another op's memory; anything else only helps.
        if (!fm_pipe_has_forward(&options[i]) || problem->cap == HUGE_VAL)
            deadline = fmin(deadline, now + fm_pipe_problem_op_cost(problem, rank, &options[i]));
    }
    exact->ranks[rank].state.passed_over = passed_over;
    exact->ranks[rank].state.deadline = deadline;
    decide(exact, now, rank + 1);
    exact->ranks[rank].state = before;
}

fm_status fm_pipe_search_exact(const struct fm_pipe_problem *problem, struct fm_pipe_best *best,
                               int *out_complete)
{
    const fm_pipe_program *layout = &problem->layout;
    size_t visits = fm_pipe_visit_total(layout);
    size_t ranks = (size_t)layout->ranks;
    if (layout->lanes > LANES_MAX || visits > VISITS_MAX)
        return FM_OK;
    struct exact exact = {.problem = problem, .best = best, .quantum = best->makespan * 1e-10};
    fm_arena arena = {0};
    exact.ranks = fm_base_arena_alloc(&arena, ranks * sizeof *exact.ranks);
    exact.lanes = fm_base_arena_alloc(&arena, ranks * (size_t)layout->lanes * sizeof *exact.lanes);
    exact.arrival[0] = fm_base_arena_alloc(&arena, visits * sizeof(double));
    exact.arrival[1] = fm_base_arena_alloc(&arena, visits * sizeof(double));
    exact.cache = fm_base_mem_zalloc(CACHE_ENTRIES, sizeof *exact.cache);
    if (!exact.ranks || !exact.lanes || !exact.arrival[0] || !exact.arrival[1] || !exact.cache) {
        exact.status =
            fm_base_error_set(FM_ERR_NOMEM, "no memory for the exact search of %zu visits", visits);
    } else {
        memset(exact.lanes, 0, ranks * (size_t)layout->lanes * sizeof *exact.lanes);
        for (size_t i = 0; i < visits; i++)
            exact.arrival[0][i] = exact.arrival[1][i] = -1;
        for (size_t i = 0; i < ranks; i++)
            exact.ranks[i].state = (struct state){.deadline = HUGE_VAL};
        decide(&exact, 0, 0);
        if (exact.nodes <= problem->exact_nodes)
            *out_complete = 1;
    }
    fm_base_mem_free(exact.cache);
    fm_base_arena_clear(&arena);
    return exact.status;
}
