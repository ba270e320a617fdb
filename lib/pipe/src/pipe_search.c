// The search's frame: what is known already, what the parts find, and the bound that ends it early.
#include <math.h>
#include <string.h>

#include "fathom/mem.h"
#include "pipe_search_internal.h"

// The local search stops after about a second: this many ops are timed in that time, at some 20 ns each.
static const int64_t ops_per_second = 50000000;
// 2 million states of 24 bytes are 48 MB, and some seconds.
static const int64_t exact_nodes_default = 2000000;

double fm_pipe_rank_memory(const struct fm_pipe_problem *problem, int rank, const fm_pipe_op *ops,
                           size_t count)
{
    double memory = 0;
    double peak = 0;
    for (size_t i = 0; i < count; i++) {
        if (fm_pipe_has_forward(&ops[i]))
            memory += fm_pipe_lane_cost(problem, rank, ops[i].lane)->memory;
        peak = memory > peak ? memory : peak;
        if (fm_pipe_ends_visit(&ops[i]))
            memory -= fm_pipe_lane_cost(problem, rank, fm_pipe_back_lane(&ops[i]))->memory;
    }
    return peak;
}

static double peak_of(const struct fm_pipe_problem *problem, const fm_pipe_program *program)
{
    double peak = 0;
    for (int rank = 0; rank < program->ranks; rank++)
        peak = fmax(peak, fm_pipe_rank_memory(problem, rank, fm_pipe_ops_of(program, rank),
                                              fm_pipe_count_of(program, rank)));
    return peak;
}

static fm_status time_program(const struct fm_pipe_problem *problem, const fm_pipe_program *program,
                              double *out_makespan, double *out_settle)
{
    struct fm_pipe_timing timing;
    FM_TRY(fm_pipe_timing_init(program, fm_pipe_op_total(program), &timing));
    double *op_time = fm_base_mem_alloc(fm_pipe_op_total(program) * sizeof *op_time);
    if (!op_time) {
        fm_pipe_timing_free(&timing);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to time %zu ops", fm_pipe_op_total(program));
    }
    for (int rank = 0; rank < program->ranks; rank++)
        for (size_t i = program->first[rank]; i < program->first[rank + 1]; i++)
            op_time[i] = fm_pipe_problem_op_cost(problem, rank, &program->ops[i]);
    timing.op_time = op_time;
    timing.latency = problem->latency;
    timing.transfer = problem->transfer;
    *out_makespan = fm_pipe_timing_run(&timing);
    *out_settle = 0;
    for (int rank = 0; rank < program->ranks; rank++)
        *out_settle += timing.rank_free[rank];
    fm_base_mem_free(op_time);
    fm_pipe_timing_free(&timing);
    return FM_OK;
}

fm_status fm_pipe_candidate_offer(const struct fm_pipe_problem *problem, fm_pipe_program *program,
                                  struct fm_pipe_best *best)
{
    if (fm_pipe_exceeds(peak_of(problem, program), problem->cap)) {
        fm_pipe_program_free(program);
        return FM_OK;
    }
    double makespan = 0;
    double settle = 0;
    fm_status status = time_program(problem, program, &makespan, &settle);
    int better = status == FM_OK && makespan >= 0 &&
                 (!best->program || makespan < best->makespan ||
                  (makespan == best->makespan && settle < best->settle));
    if (!better) {
        fm_pipe_program_free(program);
        return status;
    }
    fm_pipe_program_free(best->program);
    program->schedule = FM_PIPE_CUSTOM;
    *best = (struct fm_pipe_best){program, makespan, settle};
    return FM_OK;
}

// The same program with I joined into B, W dropped, pairs taken apart, as the model needs.
static fm_status offer_converted(const struct fm_pipe_problem *problem, const fm_pipe_program *known,
                                 int no_split, int no_pairs, struct fm_pipe_best *best)
{
    fm_pipe_program *program;
    FM_TRY(fm_pipe_program_alloc(&problem->layout, fm_pipe_program_capacity(&problem->layout), &program));
    fm_pipe_op *ops = fm_pipe_ops_mutable(program);
    size_t count = 0;
    for (int rank = 0; rank < known->ranks; rank++) {
        for (size_t i = known->first[rank]; i < known->first[rank + 1]; i++) {
            fm_pipe_op op = known->ops[i];
            if (no_split && op.kind == FM_PIPE_W)
                continue;
            if (no_split && op.kind == FM_PIPE_I)
                op.kind = FM_PIPE_B;
            if (no_pairs && op.kind == FM_PIPE_FB) {
                ops[count++] = (fm_pipe_op){.kind = FM_PIPE_F, .lane = op.lane, .chunk = op.chunk};
                op = (fm_pipe_op){.kind = FM_PIPE_B, .lane = op.back_lane, .chunk = op.back_chunk};
            }
            ops[count++] = op;
        }
        fm_pipe_first_mutable(program)[rank + 1] = count;
    }
    return fm_pipe_candidate_offer(problem, program, best);
}

static fm_status offer_known(const struct fm_pipe_problem *problem, struct fm_pipe_best *best)
{
    const fm_pipe_program *layout = &problem->layout;
    for (int i = FM_PIPE_CUSTOM + 1; i < FM_PIPE_SCHEDULE_COUNT; i++) {
        fm_pipe_shape shape = {.size = sizeof shape,
                               .schedule = (fm_pipe_schedule)i,
                               .ranks = layout->ranks,
                               .micro_batches = layout->micro_batches};
        if (shape.schedule == FM_PIPE_INTERLEAVED)
            shape.lanes = layout->lanes;
        if (fm_pipe_schedule_placement(shape.schedule) != layout->placement)
            continue;
        fm_pipe_program *known = NULL;
        fm_status status = fm_pipe_program_generate(&shape, &known);
        if (status == FM_ERR_NOMEM)
            return status;
        if (status != FM_OK ||
            known->lanes != layout->lanes) { // an odd number of ranks, or plain where lanes are more
            fm_pipe_program_free(known);
            continue;
        }
        status = offer_converted(problem, known, problem->search->no_split, 1, best);
        if (status == FM_OK && !problem->search->no_pairs)
            status = offer_converted(problem, known, problem->search->no_split, 0, best);
        fm_pipe_program_free(known);
        FM_TRY(status);
    }
    return FM_OK;
}

// One micro-batch after the other: holds as little as any program can.
static fm_status offer_serial(const struct fm_pipe_problem *problem, struct fm_pipe_best *best)
{
    const fm_pipe_program *layout = &problem->layout;
    fm_pipe_program *program;
    FM_TRY(fm_pipe_program_alloc(layout, fm_pipe_program_capacity(layout), &program));
    fm_pipe_op *ops = fm_pipe_ops_mutable(program);
    size_t count = 0;
    for (int rank = 0; rank < layout->ranks; rank++) {
        for (int chunk = 0; chunk < layout->chunks[0]; chunk++)
            for (int direction = 0; direction < 2; direction++) {
                if (chunk >= layout->chunks[direction])
                    continue;
                // Lanes of a rank are in the order of their stages, so forwards go up them and backwards down.
                for (int lane = 0; lane < layout->lanes; lane++)
                    if (fm_pipe_direction(layout, lane) == direction)
                        ops[count++] = (fm_pipe_op){.kind = FM_PIPE_F, .lane = (uint8_t)lane, .chunk = chunk};
                for (int lane = layout->lanes - 1; lane >= 0; lane--)
                    if (fm_pipe_direction(layout, lane) == direction)
                        ops[count++] = (fm_pipe_op){.kind = FM_PIPE_B, .lane = (uint8_t)lane, .chunk = chunk};
            }
        fm_pipe_first_mutable(program)[rank + 1] = count;
    }
    return fm_pipe_candidate_offer(problem, program, best);
}

static fm_status offer_listed(const struct fm_pipe_problem *problem, struct fm_pipe_best *best)
{
    static const double graces[] = {0, 0.5, 1};
    const fm_pipe_program *layout = &problem->layout;
    int most = 2 * layout->stages + 1 < layout->chunks[0] ? 2 * layout->stages + 1 : layout->chunks[0];
    // All limits where the pipeline is short, some twenty where it is long.
    int step = most > 20 ? most / 20 : 1;
    for (int in_flight = 1; in_flight <= most; in_flight += step)
        for (int variant = 0; variant < 4 * (int)(sizeof graces / sizeof graces[0]); variant++) {
            struct fm_pipe_list_rule rule = {.in_flight = in_flight,
                                             .pairs = variant & 1,
                                             .split = (variant & 2) != 0,
                                             .w_grace = graces[variant / 4]};
            if ((rule.pairs && problem->search->no_pairs) || (rule.split && problem->search->no_split) ||
                (!rule.split && rule.w_grace > 0))
                continue;
            fm_pipe_program *program = NULL;
            FM_TRY(fm_pipe_list_schedule(problem, &rule, &program));
            if (program)
                FM_TRY(fm_pipe_candidate_offer(problem, program, best));
        }
    return FM_OK;
}

// The least that a rank's work can take: for each visit the cheaper kind of backward, every pair that helps.
static double least_work(const struct fm_pipe_problem *problem, int rank)
{
    const fm_pipe_program *layout = &problem->layout;
    double work = 0;
    double best_saving = 0;
    int visits = 0;
    for (int lane = 0; lane < layout->lanes; lane++) {
        const fm_pipe_stage_cost *cost = fm_pipe_lane_cost(problem, rank, lane);
        double backward = problem->search->no_split ? cost->b : fmin(cost->b, cost->i + cost->w);
        int chunks = layout->chunks[fm_pipe_direction(layout, lane)];
        work += chunks * (cost->f + backward);
        visits += chunks;
        for (int back_lane = 0; back_lane < layout->lanes && !problem->search->no_pairs; back_lane++) {
            const fm_pipe_stage_cost *back = fm_pipe_lane_cost(problem, rank, back_lane);
            double apart = cost->f + (problem->search->no_split ? back->b : fmin(back->b, back->i + back->w));
            best_saving = fmax(best_saving, apart - fm_pipe_pair_cost(problem, rank, lane, back_lane));
        }
    }
    // A rank's first forward and its last backward have nothing to pair with, so pairs are fewer than visits.
    return work - (visits - 1) * best_saving;
}

// One micro-batch alone: down all stages, up again, and the first stage's weights.
static double chain_bound(const struct fm_pipe_problem *problem, int direction)
{
    const fm_pipe_program *layout = &problem->layout;
    int no_split = problem->search->no_split;
    double chain = 0;
    for (int stage = 0; stage < layout->stages; stage++) {
        int rank;
        int lane = fm_pipe_locate(layout, direction, stage, &rank);
        const fm_pipe_stage_cost *cost = fm_pipe_lane_cost(problem, rank, lane);
        const struct fm_pipe_route *route = &problem->routes[rank * layout->lanes + lane];
        double whole = no_split ? cost->b : fmin(cost->b, cost->i + cost->w);
        chain += cost->f + (no_split || stage == 0 ? whole : fmin(cost->b, cost->i));
        if (route->next_rank >= 0 && route->next_rank != rank)
            chain += 2 * (problem->latency + problem->transfer);
    }
    return chain;
}

// What must happen before a visit of `lane` can begin (forwards) or after it has ended (backwards).
static double way_to_stage(const struct fm_pipe_problem *problem, int rank, int lane, int backward)
{
    const struct fm_pipe_route *route = &problem->routes[rank * problem->layout.lanes + lane];
    double time = 0;
    while (route->prev_rank >= 0) {
        const fm_pipe_stage_cost *cost = fm_pipe_lane_cost(problem, route->prev_rank, route->prev_lane);
        time += backward ? cost->b : cost->f;
        time += route->prev_rank != rank ? problem->latency + problem->transfer : 0;
        rank = route->prev_rank;
        route = &problem->routes[rank * problem->layout.lanes + route->prev_lane];
    }
    return time;
}

// No program beats its busiest rank: what must come before its first op, its work, what must follow its last backward
// (nothing when that may be a W).
static double lower_bound(const struct fm_pipe_problem *problem)
{
    const fm_pipe_program *layout = &problem->layout;
    double bound = chain_bound(problem, 0);
    if (layout->chunks[1])
        bound = fmax(bound, chain_bound(problem, 1));
    for (int rank = 0; rank < layout->ranks; rank++) {
        double head = HUGE_VAL;
        double tail = HUGE_VAL;
        for (int lane = 0; lane < layout->lanes; lane++)
            if (layout->chunks[fm_pipe_direction(layout, lane)]) {
                head = fmin(head, way_to_stage(problem, rank, lane, 0));
                tail = fmin(tail, problem->search->no_split ? way_to_stage(problem, rank, lane, 1) : 0);
            }
        bound = fmax(bound, head + least_work(problem, rank) + tail);
    }
    return bound;
}

static fm_status check_search(const fm_pipe_search *search, fm_pipe_program *out_layout)
{
    if (!search)
        return fm_base_error_set(FM_ERR_ARG, "search must not be NULL");
    FM_TRY(fm_pipe_size_check("fm_pipe_search", search->size, sizeof *search));
    fm_pipe_program layout = {.schedule = FM_PIPE_CUSTOM,
                              .placement = search->placement,
                              .ranks = search->ranks,
                              .lanes = search->lanes,
                              .micro_batches = search->micro_batches};
    if (layout.lanes == 0)
        layout.lanes = layout.placement == FM_PIPE_LOOP ? 1 : 2;
    FM_TRY(fm_pipe_layout_check(&layout));
    if (!isfinite(search->memory_max) || search->memory_max < 0)
        return fm_base_error_set(FM_ERR_ARG, "memory_max is %g; expected finite and not negative",
                                 search->memory_max);
    FM_TRY(fm_pipe_costs_check(search->costs, layout.stages, layout.ranks));
    *out_layout = layout;
    return FM_OK;
}

static fm_status check_cap(const struct fm_pipe_problem *problem)
{
    const fm_pipe_program *layout = &problem->layout;
    for (int rank = 0; rank < layout->ranks; rank++) {
        double alone[2] = {0, 0};
        for (int lane = 0; lane < layout->lanes; lane++)
            alone[fm_pipe_direction(layout, lane)] += fm_pipe_lane_cost(problem, rank, lane)->memory;
        double needed = layout->chunks[1] ? fmax(alone[0], alone[1]) : alone[0];
        if (fm_pipe_exceeds(needed, problem->cap))
            return fm_base_error_set(FM_ERR_ARG,
                                     "memory_max is %g; one micro-batch alone needs %g on rank %d",
                                     problem->cap, needed, rank);
    }
    return FM_OK;
}

// The bounds count on it.
static fm_status check_pairs(const struct fm_pipe_problem *problem)
{
    const fm_pipe_program *layout = &problem->layout;
    for (int rank = 0; rank < layout->ranks && !problem->search->no_pairs; rank++)
        for (int lane = 0; lane < layout->lanes; lane++)
            for (int back_lane = 0; back_lane < layout->lanes; back_lane++) {
                double longer = fmax(fm_pipe_lane_cost(problem, rank, lane)->f,
                                     fm_pipe_lane_cost(problem, rank, back_lane)->b);
                double pair = fm_pipe_pair_cost(problem, rank, lane, back_lane);
                if (fm_pipe_exceeds(longer, pair))
                    return fm_base_error_set(
                        FM_ERR_ARG, "fb of stage %d is %g; expected at least %g, the longer of its halves",
                        fm_pipe_stage(layout, rank, lane), pair, longer);
            }
    return FM_OK;
}

static fm_status make_problem(const fm_pipe_search *search, struct fm_pipe_problem *problem)
{
    FM_TRY(check_search(search, &problem->layout));
    const fm_pipe_program *layout = &problem->layout;
    size_t lanes = (size_t)layout->ranks * (size_t)layout->lanes;
    problem->search = search;
    problem->cap = search->memory_max > 0 ? search->memory_max : HUGE_VAL;
    problem->latency = search->costs->latency;
    problem->transfer = fm_pipe_transfer_cost(search->costs);
    problem->exact_nodes = search->exact_nodes ? search->exact_nodes : exact_nodes_default;
    problem->trials = search->trials;
    if (!problem->trials)
        problem->trials = ops_per_second / (int64_t)fm_pipe_program_capacity(layout);
    problem->routes = fm_base_mem_alloc(lanes * sizeof *problem->routes);
    problem->costs = fm_base_mem_alloc(lanes * sizeof *problem->costs);
    if (!problem->routes || !problem->costs)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to search over %zu stages", lanes);
    fm_pipe_routes_fill(layout, problem->routes);
    for (int rank = 0; rank < layout->ranks; rank++)
        for (int lane = 0; lane < layout->lanes; lane++) {
            fm_pipe_stage_cost cost = fm_pipe_cost_of(search->costs, fm_pipe_stage(layout, rank, lane));
            double factor = search->costs->rank_time ? search->costs->rank_time[rank] : 1;
            cost.f *= factor;
            cost.b *= factor;
            cost.i *= factor;
            cost.w *= factor;
            cost.fb *= factor;
            problem->costs[rank * layout->lanes + lane] = cost;
        }
    FM_TRY(check_pairs(problem));
    return check_cap(problem);
}

// Ends as soon as the bound is met: nothing can be better.
static fm_status run_stages(const struct fm_pipe_problem *problem, struct fm_pipe_best *best, int *out_proven)
{
    FM_TRY(offer_serial(problem, best));
    FM_TRY(offer_known(problem, best));
    FM_TRY(offer_listed(problem, best));
    *out_proven = !fm_pipe_exceeds(best->makespan, problem->bound);
    if (!*out_proven)
        FM_TRY(fm_pipe_search_pattern(problem, best));
    *out_proven = !fm_pipe_exceeds(best->makespan, problem->bound);
    if (!*out_proven && problem->trials > 0)
        FM_TRY(fm_pipe_search_local(problem, best));
    *out_proven = !fm_pipe_exceeds(best->makespan, problem->bound);
    if (!*out_proven && problem->exact_nodes > 0)
        FM_TRY(fm_pipe_search_exact(problem, best, out_proven));
    return FM_OK;
}

fm_status fm_pipe_search_run(const fm_pipe_search *search, fm_pipe_found *out_found)
{
    if (!out_found)
        return fm_base_error_set(FM_ERR_ARG, "out_found must not be NULL");
    struct fm_pipe_problem problem = {0};
    struct fm_pipe_best best = {0};
    int proven = 0;
    fm_status status = make_problem(search, &problem);
    if (status == FM_OK) {
        problem.bound = lower_bound(&problem);
        status = run_stages(&problem, &best, &proven);
    }
    if (status == FM_OK)
        *out_found = (fm_pipe_found){.program = best.program,
                                     .makespan = best.makespan,
                                     .memory_peak = peak_of(&problem, best.program),
                                     .lower_bound = proven ? best.makespan : problem.bound,
                                     .proven = proven};
    else
        fm_pipe_program_free(best.program);
    fm_base_mem_free(problem.costs);
    fm_base_mem_free(problem.routes);
    return status;
}
