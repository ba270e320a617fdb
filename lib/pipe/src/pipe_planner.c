// From a program to what the executor does: when each message is posted, and in which slot each tensor lies.
#include <string.h>

#include "fathom/mem.h"
#include "pipe_internal.h"

// Times of the simulation that places the receives. Any positive ones prove freedom from deadlock; these are
// whole numbers, so sums of them compare exactly.
static double planning_time(fm_pipe_kind kind)
{
    static const double times[FM_PIPE_KIND_COUNT] = {
        [FM_PIPE_F] = 1, [FM_PIPE_B] = 2, [FM_PIPE_I] = 1, [FM_PIPE_W] = 1, [FM_PIPE_FB] = 3};
    return times[kind];
}

// Numbers handed out from 0; freed ones are reused, the longest free first, so that a slot rests for as long
// as possible between its uses and a late send rarely holds up its next one.
struct pool {
    int32_t *free; // ring of `capacity`
    size_t capacity;
    size_t head, count;
    int32_t made;
};

static int32_t pool_take(struct pool *pool)
{
    if (!pool->count)
        return pool->made++;
    int32_t slot = pool->free[pool->head];
    pool->head = (pool->head + 1) % pool->capacity;
    pool->count--;
    return slot;
}

static void pool_give(struct pool *pool, int32_t slot)
{
    if (slot < 0)
        return;
    pool->free[(pool->head + pool->count) % pool->capacity] = slot;
    pool->count++;
}

enum { SAVED = 2, POOLS }; // beside FM_PIPE_ACTIVATION and FM_PIPE_GRADIENT

struct planner {
    const fm_pipe_program *program;
    struct fm_pipe_plan *plan;
    fm_pipe_fault *out_fault;
    struct fm_pipe_timing timing;
    double *op_time;
    struct pool pools[POOLS];
    int32_t *held[POOLS]; // [visits] the slot of a visit's input, output gradient, saved state; -1: none
    size_t *bucket;       // [ops of the longest rank + 2] counting sort
    size_t sends_made;
    // Outputs of the op before, whose sends are posted at the present boundary.
    int32_t leaving[2];
};

// The messages that an op of `rank` sends; returns how many. A pair's activation goes before its gradient.
static int outgoing(const struct planner *planner, int rank, const fm_pipe_op *op, struct fm_pipe_post out[2])
{
    const fm_pipe_program *program = planner->program;
    int count = 0;
    if (fm_pipe_has_forward(op)) {
        const struct fm_pipe_route *route = &planner->timing.routes[rank * program->lanes + op->lane];
        if (route->next_rank >= 0 && route->next_rank != rank)
            out[count++] = (struct fm_pipe_post){.kind = FM_PIPE_ACTIVATION,
                                                 .direction = (uint8_t)route->direction,
                                                 .stage = (uint16_t)(route->stage + 1),
                                                 .chunk = op->chunk,
                                                 .peer = route->next_rank};
    }
    if (fm_pipe_has_backward(op)) {
        const struct fm_pipe_route *route =
            &planner->timing.routes[rank * program->lanes + fm_pipe_back_lane(op)];
        if (route->prev_rank >= 0 && route->prev_rank != rank)
            out[count++] = (struct fm_pipe_post){.kind = FM_PIPE_GRADIENT,
                                                 .direction = (uint8_t)route->direction,
                                                 .stage = (uint16_t)(route->stage - 1),
                                                 .chunk = fm_pipe_back_chunk(op),
                                                 .peer = route->prev_rank};
    }
    return count;
}

// The first op of `rank` from *at on that starts at or after `time`; its op count when none does.
static uint32_t boundary_at(const struct planner *planner, int rank, double time, size_t *at)
{
    const double *start = planner->timing.start + planner->program->first[rank];
    size_t count = fm_pipe_count_of(planner->program, rank);
    while (*at < count && start[*at] < time)
        (*at)++;
    return (uint32_t)*at;
}

// Walks all messages in the order of their senders. Counts them (plan->sends is NULL) or writes the sends
// and, unsorted in the receiver's range, the receives.
static void walk_messages(struct planner *planner)
{
    const fm_pipe_program *program = planner->program;
    struct fm_pipe_plan *plan = planner->plan;
    size_t send = 0;
    for (int rank = 0; rank < program->ranks; rank++) {
        const fm_pipe_op *ops = fm_pipe_ops_of(program, rank);
        size_t at[2] = {0, 0}; // what a rank sends to one peer, it sends at ascending times
        plan->ranks[rank].first_send = send;
        for (size_t i = 0; i < fm_pipe_count_of(program, rank); i++) {
            struct fm_pipe_post out[2];
            int count = outgoing(planner, rank, &ops[i], out);
            for (int j = 0; j < count; j++, send++) {
                struct fm_pipe_rank_plan *to = &plan->ranks[out[j].peer];
                if (plan->sends) {
                    out[j].boundary = (uint32_t)i + 1;
                    plan->sends[send] = out[j];
                    struct fm_pipe_post in = out[j];
                    in.peer = rank;
                    in.boundary =
                        boundary_at(planner, out[j].peer, planner->timing.finish[program->first[rank] + i],
                                    &at[out[j].peer != (rank + 1) % program->ranks]);
                    plan->receives[to->first_receive + to->needs.receives] = in;
                }
                to->needs.receives++;
            }
        }
        plan->ranks[rank].needs.sends = send - plan->ranks[rank].first_send;
    }
}

// By boundary; the sort is stable, so the messages of one link stay in the order in which they are sent (a
// later message of a link never has an earlier boundary).
static void sort_receives(struct planner *planner, int rank, struct fm_pipe_post *copy)
{
    const struct fm_pipe_rank_plan *mine = &planner->plan->ranks[rank];
    struct fm_pipe_post *receives = planner->plan->receives + mine->first_receive;
    size_t count = mine->needs.receives;
    size_t boundaries = fm_pipe_count_of(planner->program, rank) + 1;
    memset(planner->bucket, 0, (boundaries + 1) * sizeof *planner->bucket);
    memcpy(copy, receives, count * sizeof *copy);
    for (size_t i = 0; i < count; i++)
        planner->bucket[copy[i].boundary + 1]++;
    for (size_t i = 1; i <= boundaries; i++)
        planner->bucket[i] += planner->bucket[i - 1];
    for (size_t i = 0; i < count; i++)
        receives[planner->bucket[copy[i].boundary]++] = copy[i];
}

// A result gets a slot; on the same rank the next stage finds it there, else its send is filled in.
static int32_t place_output(struct planner *planner, int kind, int rank, int to_rank, int to_lane, int chunk)
{
    if (to_rank < 0)
        return -1;
    int32_t slot = pool_take(&planner->pools[kind]);
    if (to_rank == rank) {
        planner->held[kind][fm_pipe_visit(planner->program, to_rank, to_lane, chunk)] = slot;
    } else {
        planner->plan->sends[planner->sends_made++].slot = slot;
        planner->leaving[kind] = slot;
    }
    return slot;
}

static void end_visit(struct planner *planner, size_t visit)
{
    for (int kind = 0; kind < POOLS; kind++)
        pool_give(&planner->pools[kind], planner->held[kind][visit]);
}

static void place_op(struct planner *planner, int rank, const fm_pipe_op *op, struct fm_pipe_slots *slots)
{
    const fm_pipe_program *program = planner->program;
    *slots = (struct fm_pipe_slots){-1, -1, -1, -1, -1, -1, -1};
    if (fm_pipe_has_forward(op)) {
        const struct fm_pipe_route *route = &planner->timing.routes[rank * program->lanes + op->lane];
        size_t visit = fm_pipe_visit(program, rank, op->lane, op->chunk);
        slots->x = planner->held[FM_PIPE_ACTIVATION][visit];
        slots->y =
            place_output(planner, FM_PIPE_ACTIVATION, rank, route->next_rank, route->next_lane, op->chunk);
        slots->saved = planner->held[SAVED][visit] = pool_take(&planner->pools[SAVED]);
        if (program->forward_only)
            end_visit(planner, visit);
    }
    if (op->kind == FM_PIPE_F)
        return;
    int lane = fm_pipe_back_lane(op);
    int32_t chunk = fm_pipe_back_chunk(op);
    size_t visit = fm_pipe_visit(program, rank, lane, chunk);
    slots->back_x = planner->held[FM_PIPE_ACTIVATION][visit];
    slots->dy = planner->held[FM_PIPE_GRADIENT][visit];
    slots->back_saved = planner->held[SAVED][visit];
    if (fm_pipe_has_backward(op)) {
        const struct fm_pipe_route *route = &planner->timing.routes[rank * program->lanes + lane];
        slots->dx = place_output(planner, FM_PIPE_GRADIENT, rank, route->prev_rank, route->prev_lane, chunk);
    }
    if (fm_pipe_ends_visit(op))
        end_visit(planner, visit);
}

static void place_rank(struct planner *planner, int rank)
{
    const fm_pipe_program *program = planner->program;
    struct fm_pipe_rank_plan *mine = &planner->plan->ranks[rank];
    struct fm_pipe_post *receives = planner->plan->receives + mine->first_receive;
    size_t received = 0;
    for (int kind = 0; kind < POOLS; kind++) {
        planner->pools[kind].head = planner->pools[kind].count = 0;
        planner->pools[kind].made = 0;
    }
    planner->sends_made = mine->first_send;
    planner->leaving[0] = planner->leaving[1] = -1;
    for (size_t i = 0; i < fm_pipe_count_of(program, rank); i++) {
        for (; received < mine->needs.receives && receives[received].boundary == i; received++) {
            struct fm_pipe_post *post = &receives[received];
            post->slot = pool_take(&planner->pools[post->kind]);
            int at;
            int lane = fm_pipe_locate(program, post->direction, post->stage, &at);
            planner->held[post->kind][fm_pipe_visit(program, rank, lane, post->chunk)] = post->slot;
        }
        // The receives of this boundary pass beside its sends; only what comes after it may have the senders'
        // slots.
        for (int kind = 0; kind < 2; kind++) {
            pool_give(&planner->pools[kind], planner->leaving[kind]);
            planner->leaving[kind] = -1;
        }
        place_op(planner, rank, &fm_pipe_ops_of(program, rank)[i],
                 &planner->plan->slots[program->first[rank] + i]);
    }
    mine->needs.activation_slots = planner->pools[FM_PIPE_ACTIVATION].made;
    mine->needs.gradient_slots = planner->pools[FM_PIPE_GRADIENT].made;
    mine->needs.saved_slots = planner->pools[SAVED].made;
}

static fm_status alloc_plan(const fm_pipe_program *program, struct fm_pipe_plan **out_plan)
{
    struct fm_pipe_plan *plan = fm_base_mem_zalloc(1, sizeof *plan);
    if (!plan)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a plan");
    plan->program = program;
    plan->ranks = fm_base_mem_zalloc((size_t)program->ranks, sizeof *plan->ranks);
    plan->slots = fm_base_mem_zalloc(fm_pipe_op_total(program), sizeof *plan->slots);
    if (!plan->ranks || !plan->slots) {
        fm_pipe_plan_free(plan);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a plan of %zu ops", fm_pipe_op_total(program));
    }
    *out_plan = plan;
    return FM_OK;
}

static fm_status place_messages(struct planner *planner)
{
    const fm_pipe_program *program = planner->program;
    struct fm_pipe_plan *plan = planner->plan;
    walk_messages(planner);
    size_t total = 0;
    size_t longest = 0;
    for (int rank = 0; rank < program->ranks; rank++) {
        plan->ranks[rank].first_receive = total;
        total += plan->ranks[rank].needs.receives;
        longest = plan->ranks[rank].needs.receives > longest ? plan->ranks[rank].needs.receives : longest;
        plan->ranks[rank].needs.receives = 0;
    }
    plan->sends = fm_base_mem_zalloc(total, sizeof *plan->sends);
    plan->receives = fm_base_mem_zalloc(total, sizeof *plan->receives);
    struct fm_pipe_post *copy = fm_base_mem_zalloc(longest, sizeof *copy);
    fm_status status = FM_OK;
    if (!plan->sends || !plan->receives || !copy) {
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory to plan %zu messages", total);
    } else {
        walk_messages(planner);
        for (int rank = 0; rank < program->ranks; rank++)
            sort_receives(planner, rank, copy);
    }
    fm_base_mem_free(copy);
    return status;
}

static fm_status alloc_planner(struct planner *planner)
{
    const fm_pipe_program *program = planner->program;
    size_t ops = fm_pipe_op_total(program);
    size_t visits = fm_pipe_visit_total(program);
    size_t longest = 0;
    for (int rank = 0; rank < program->ranks; rank++)
        longest = fm_pipe_count_of(program, rank) > longest ? fm_pipe_count_of(program, rank) : longest;
    planner->op_time = fm_base_mem_alloc(ops * sizeof(double));
    planner->bucket = fm_base_mem_alloc((longest + 2) * sizeof *planner->bucket);
    int failed = !planner->op_time || !planner->bucket;
    for (int kind = 0; kind < POOLS; kind++) {
        // A rank takes at most two slots of a kind for a visit: one that arrives, one that leaves.
        planner->pools[kind].capacity = 2 * (visits / (size_t)program->ranks) + 2;
        planner->pools[kind].free = fm_base_mem_alloc(planner->pools[kind].capacity * sizeof(int32_t));
        planner->held[kind] = fm_base_mem_alloc(visits * sizeof(int32_t));
        failed |= !planner->pools[kind].free || !planner->held[kind];
        if (planner->held[kind])
            memset(planner->held[kind], -1, visits * sizeof(int32_t));
    }
    return failed ? fm_base_error_set(FM_ERR_NOMEM, "no memory to plan %zu ops", ops) : FM_OK;
}

static void free_planner(struct planner *planner)
{
    for (int kind = 0; kind < POOLS; kind++) {
        fm_base_mem_free(planner->held[kind]);
        fm_base_mem_free(planner->pools[kind].free);
    }
    fm_base_mem_free(planner->bucket);
    fm_base_mem_free(planner->op_time);
    fm_pipe_timing_free(&planner->timing);
}

static fm_status run_timing(struct planner *planner)
{
    const fm_pipe_program *program = planner->program;
    for (size_t i = 0; i < fm_pipe_op_total(program); i++)
        planner->op_time[i] = planning_time((fm_pipe_kind)program->ops[i].kind);
    planner->timing.op_time = planner->op_time;
    if (fm_pipe_timing_run(&planner->timing) < 0)
        return fm_pipe_check_circle(program, planner->timing.cursor, planner->out_fault);
    return FM_OK;
}

fm_status fm_pipe_plan_make(const fm_pipe_program *program, fm_pipe_fault *out_fault, fm_pipe_plan **out_plan)
{
    FM_TRY(fm_pipe_check_ranks(program, out_fault));
    struct planner planner = {.program = program, .out_fault = out_fault};
    FM_TRY(fm_pipe_timing_init(program, fm_pipe_op_total(program), &planner.timing));
    fm_status status = alloc_planner(&planner);
    if (status == FM_OK)
        status = run_timing(&planner);
    if (status == FM_OK)
        status = alloc_plan(program, &planner.plan);
    if (status == FM_OK)
        status = place_messages(&planner);
    if (status == FM_OK)
        for (int rank = 0; rank < program->ranks; rank++)
            place_rank(&planner, rank);
    free_planner(&planner);
    if (status != FM_OK) {
        fm_pipe_plan_free(planner.plan);
        return status;
    }
    *out_plan = planner.plan;
    return FM_OK;
}

fm_status fm_pipe_plan_create(const fm_pipe_program *program, fm_pipe_plan **out_plan)
{
    if (!program || !out_plan)
        return fm_base_error_set(FM_ERR_ARG, "program and out_plan must not be NULL");
    return fm_pipe_plan_make(program, NULL, out_plan);
}

void fm_pipe_plan_free(fm_pipe_plan *plan)
{
    if (!plan)
        return;
    fm_base_mem_free(plan->receives);
    fm_base_mem_free(plan->sends);
    fm_base_mem_free(plan->slots);
    fm_base_mem_free(plan->ranks);
    fm_base_mem_free(plan);
}

fm_status fm_pipe_plan_needs(const fm_pipe_plan *plan, int rank, fm_pipe_needs *out_needs)
{
    if (!plan || !out_needs)
        return fm_base_error_set(FM_ERR_ARG, "plan and out_needs must not be NULL");
    if (rank < 0 || rank >= plan->program->ranks)
        return fm_base_error_set(FM_ERR_ARG, "rank is %d; expected 0 to %d", rank, plan->program->ranks - 1);
    *out_needs = plan->ranks[rank].needs;
    return FM_OK;
}
