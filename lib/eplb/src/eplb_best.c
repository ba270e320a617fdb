#include "eplb_best.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eplb_bound.h"
#include "eplb_exact.h"
#include "eplb_greedy.h"
#include "eplb_hierarchy.h"
#include "eplb_pairs.h"

enum {
    // Kicks for a placement as good as the reference's, which is mostly a few away; these are spent late or not.
    LAST_PATIENCE = 100,
    // Changes of counts per expert without gain, in the two-slot search, whose steps cost a fiftieth of a
    // kick.
    PAIRS_PATIENCE = 64,
    // Rounds of the threshold bound: its gain ends before.
    BOUND_ROUNDS = 600,
    // Putting groups on nodes is settled in the first pass, so it gets little: the usual 8 groups need a few
    // hundred nodes.
    GROUP_NODES = 1 << 14,
    GROUP_PATIENCE = 100,
};

/** The share of a layer's time that the search gets before the bound does. */
#define SEARCH_SHARE 0.7

static int is_above(double a, double b)
{
    return a > b * (1 + FM_EPLB_TOLERANCE);
}

double fm_eplb_best_bound(fm_eplb_planner *planner)
{
    const fm_eplb_shape *shape = planner->shape;
    double speed_max = 0;
    for (int gpu = 0; gpu < shape->gpus; gpu++)
        if (planner->slot_begin[gpu + 1] > planner->slot_begin[gpu])
            speed_max = fmax(speed_max, planner->speed[gpu]);
    fm_eplb_problem layer = {
        .experts = shape->experts,
        .gpus = shape->gpus,
        .slots = planner->slots,
        .replicas = shape->replicas,
        .load = planner->load,
        .slot_begin = planner->slot_begin,
        .speed = planner->speed,
    };
    double share = fm_eplb_greedy_counts(&layer, planner->heap, planner->count);
    return fmax(fm_eplb_bound_mean(&layer), share / speed_max);
}

/*
 * Within a hierarchy, the node that holds a group has replicas for that group left once all its other experts
 * have one: a bound of the same kind as the largest share, group by group.
 */
static double group_bound(fm_eplb_planner *planner)
{
    int size = planner->shape->experts / planner->groups;
    int replicas = 0;
    double speed_max = 0;
    for (int node = 0; node < planner->nodes; node++)
        if (planner->node_replicas[node] > replicas)
            replicas = planner->node_replicas[node];
    for (int gpu = 0; gpu < planner->shape->gpus; gpu++)
        speed_max = fmax(speed_max, planner->speed[gpu]);
    double bound = 0;
    for (int group = 0; group < planner->groups; group++) {
        fm_eplb_problem own = {
            .experts = size,
            .replicas = replicas - (planner->node_experts - size),
            .load = planner->load + (size_t)group * (size_t)size,
        };
        bound = fmax(bound, fm_eplb_greedy_counts(&own, planner->heap, planner->count) / speed_max);
    }
    return bound;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

// The heaviest group shares its node with others, at best with the lightest ones.
static double company_bound(fm_eplb_planner *planner)
{
    double *sorted = planner->member_load; // scratch until groups are seated
    int company = planner->groups / planner->nodes - 1;
    memcpy(sorted, planner->group_load, (size_t)planner->groups * sizeof *sorted);
    qsort(sorted, (size_t)planner->groups, sizeof *sorted, ascending);
    double load = sorted[planner->groups - 1];
    for (int i = 0; i < company; i++)
        load += sorted[i];
    double speed_max = 0;
    for (int node = 0; node < planner->nodes; node++)
        speed_max = fmax(speed_max, planner->node_speed[node]);
    return load / speed_max;
}

// Puts groups on nodes as evenly as can be found. Returns a lower bound on the time of the busiest node.
static double place_groups(fm_eplb_planner *planner, uint64_t deadline_ns)
{
    fm_eplb_problem groups = fm_eplb_planner_groups(planner);
    fm_eplb_search *search = &planner->search;
    double bound = fmax(fm_eplb_bound_mean(&groups), company_bound(planner));
    fm_eplb_greedy_solve(&groups, planner->heap, planner->gpu_load, planner->solution);
    fm_eplb_search_load(search, &groups, planner->solution);
    double time = fm_eplb_search_descend(search, HUGE_VAL, deadline_ns);
    if (groups.gpus > 1 && is_above(time, bound) && fm_eplb_exact_applies(&groups)) {
        memcpy(planner->solution, search->expert, (size_t)groups.slots * sizeof(int32_t));
        if (fm_eplb_exact_solve(&groups, GROUP_NODES, deadline_ns, &time, planner->solution))
            bound = time;
    } else {
        fm_eplb_search_explore(search, bound, GROUP_PATIENCE, 0, deadline_ns);
        memcpy(planner->solution, search->expert, (size_t)groups.slots * sizeof(int32_t));
    }
    for (int slot = 0; slot < groups.slots; slot++)
        planner->group_node[planner->solution[slot]] = slot / (planner->groups / planner->nodes);
    fm_eplb_planner_seat_groups(planner);
    return bound;
}

static void greedy_node(fm_eplb_planner *planner, int node, const fm_eplb_problem *problem, int32_t *solution)
{
    if (planner->even)
        fm_eplb_reference_node(&planner->reference,
                               planner->member_weight + (size_t)node * (size_t)planner->node_experts,
                               problem->experts, problem->slots, problem->gpus, solution, NULL);
    else
        fm_eplb_greedy_solve(problem, planner->heap, planner->gpu_load, solution);
}

void fm_eplb_best_greedy(fm_eplb_planner *planner, int32_t *row)
{
    if (planner->even) {
        fm_eplb_reference_layer(&planner->reference, planner->shape, planner->groups, planner->nodes,
                                planner->weight, row, NULL);
        fm_eplb_planner_read_groups(planner, row);
        return;
    }
    fm_eplb_problem groups = fm_eplb_planner_groups(planner);
    fm_eplb_greedy_solve(&groups, planner->heap, planner->gpu_load, planner->solution);
    for (int slot = 0; slot < groups.slots; slot++)
        planner->group_node[planner->solution[slot]] = slot / (planner->groups / planner->nodes);
    fm_eplb_planner_seat_groups(planner);
    for (int node = 0; node < planner->nodes; node++) {
        fm_eplb_problem problem = fm_eplb_planner_node(planner, node);
        fm_eplb_greedy_solve(&problem, planner->heap, planner->gpu_load, planner->solution);
        fm_eplb_planner_to_row(planner, node, planner->solution, row);
    }
}

// A first placement for the present choice of groups. However late it is, it has no duplicates that single steps
// can mend, and is as good as `enough` where descent gets there.
static void place_experts(fm_eplb_planner *planner, int32_t *row, double enough, uint64_t deadline_ns)
{
    for (int node = 0; node < planner->nodes; node++) {
        fm_eplb_problem problem = fm_eplb_planner_node(planner, node);
        if (planner->nodes == 1) // the greedy placement was made for the comparison
            fm_eplb_planner_from_row(planner, node, planner->row, planner->solution);
        else
            greedy_node(planner, node, &problem, planner->solution);
        fm_eplb_search_load(&planner->search, &problem, planner->solution);
        fm_eplb_search_repair(&planner->search, HUGE_VAL);
        fm_eplb_search_descend(&planner->search, enough, deadline_ns);
        fm_eplb_planner_to_row(planner, node, planner->search.expert, row);
    }
}

void fm_eplb_best_begin(fm_eplb_planner *planner, const float *weight, int32_t *row,
                        fm_eplb_layer_state *state, uint64_t deadline_ns)
{
    fm_eplb_planner_load(planner, weight);
    fm_eplb_best_greedy(planner, planner->row);
    state->reference_time = fm_eplb_planner_time(planner, planner->row);
    state->bound = fm_eplb_best_bound(planner);
    if (planner->nodes > 1) {
        state->bound = fmax(state->bound, place_groups(planner, deadline_ns));
        state->bound = fmax(state->bound, group_bound(planner));
    }
    place_experts(planner, row, state->reference_time, deadline_ns);
    state->time = fm_eplb_planner_time(planner, row);
}

// Improves one node; returns its time. Nothing below `least` is of use, and walks end a little above. Where nothing
// is better the row stays as it is: walks go sideways, and another placement of the same time would only be copies
// moved for nothing.
static double improve_node(fm_eplb_planner *planner, int node, int32_t *row, double least, uint64_t seed,
                           uint64_t deadline_ns)
{
    double target = least * (1 + FM_EPLB_GAP_ENOUGH);
    fm_eplb_search *search = &planner->search;
    fm_eplb_problem problem = fm_eplb_planner_node(planner, node);
    fm_eplb_planner_from_row(planner, node, row, planner->solution);
    fm_eplb_search_load(search, &problem, planner->solution);
    double before = search->time[fm_eplb_search_busiest(search)];
    if (fm_eplb_pairs_apply(&problem)) {
        fm_eplb_pairs_search(&problem, planner->pairs, target, PAIRS_PATIENCE * problem.experts, seed,
                             deadline_ns, planner->solution);
        fm_eplb_search_load(search, &problem, planner->solution);
        fm_eplb_search_repair(search, HUGE_VAL);
        if (fm_eplb_search_descend(search, HUGE_VAL, deadline_ns) > before) {
            fm_eplb_planner_from_row(planner, node, row, planner->solution);
            fm_eplb_search_load(search, &problem, planner->solution);
        }
    }
    double time = fm_eplb_search_explore(search, target, FM_EPLB_PATIENCE, seed, deadline_ns);
    memcpy(planner->solution, search->expert, (size_t)problem.slots * sizeof(int32_t));
    if (is_above(time, least) && fm_eplb_exact_applies(&problem))
        fm_eplb_exact_solve(&problem, FM_EPLB_EXACT_NODES, deadline_ns, &time, planner->solution);
    if (is_above(before, time))
        fm_eplb_planner_to_row(planner, node, planner->solution, row);
    return time;
}

static double node_time(const fm_eplb_planner *planner, int node)
{
    double worst = 0;
    for (int i = 0; i < planner->node_gpus; i++)
        worst = fmax(worst, planner->gpu_load[node * planner->node_gpus + i]);
    return worst;
}

// Works on the busiest node until another is, and so on, until the busiest cannot be improved.
static void improve_nodes(fm_eplb_planner *planner, int layer, int32_t *row, fm_eplb_layer_state *state,
                          uint64_t deadline_ns)
{
    uint64_t seed = (uint64_t)layer << 32;
    while (is_above(state->time, state->bound) && !fm_eplb_late(deadline_ns)) {
        fm_eplb_planner_time(planner, row);
        int busiest = 0;
        for (int node = 1; node < planner->nodes; node++)
            if (node_time(planner, node) > node_time(planner, busiest))
                busiest = node;
        double least = state->bound;
        for (int node = 0; node < planner->nodes; node++)
            if (node != busiest)
                least = fmax(least, node_time(planner, node));
        double before = node_time(planner, busiest);
        double after = improve_node(planner, busiest, row, least, seed++, deadline_ns);
        state->time = fm_eplb_planner_time(planner, row);
        if (!is_above(before, after))
            break;
    }
}

// Raises the bound of a layer that is one node.
static void raise_bound(fm_eplb_planner *planner, fm_eplb_layer_state *state, uint64_t deadline_ns)
{
    fm_eplb_problem problem = fm_eplb_planner_node(planner, 0);
    state->bound = fm_eplb_bound_raise(&problem, state->bound, state->time, BOUND_ROUNDS, deadline_ns);
    if (!is_above(state->time, state->bound) || !fm_eplb_exact_applies(&problem))
        return;
    // The bound is over all placements, duplicates included; the solution stays as it is.
    problem.distinct = 0;
    double time = state->time;
    if (fm_eplb_exact_solve(&problem, FM_EPLB_EXACT_NODES, deadline_ns, &time, planner->solution))
        state->bound = fmax(state->bound, time);
}

// Raises the bound of a hierarchical layer, and tries the choice of groups that the bound points to.
static void raise_hierarchy_bound(fm_eplb_planner *planner, int layer, int32_t *row,
                                  fm_eplb_layer_state *state, uint64_t deadline_ns)
{
    if (!fm_eplb_hierarchy_applies(planner) || state->time <= state->bound * (1 + FM_EPLB_GAP_ENOUGH))
        return;
    state->bound = fm_eplb_hierarchy_bound(planner, state->bound, state->time, BOUND_ROUNDS, deadline_ns);
    if (state->time <= state->bound * (1 + FM_EPLB_GAP_ENOUGH) || fm_eplb_late(deadline_ns))
        return;
    fm_eplb_layer_state other = *state;
    place_experts(planner, planner->row, HUGE_VAL, deadline_ns);
    other.time = fm_eplb_planner_time(planner, planner->row);
    improve_nodes(planner, layer, planner->row, &other, deadline_ns);
    if (other.time < state->time) {
        *state = other;
        memcpy(row, planner->row, (size_t)planner->slots * sizeof *row);
    }
}

void fm_eplb_best_improve(fm_eplb_planner *planner, const float *weight, int layer, int32_t *row,
                          fm_eplb_layer_state *state, uint64_t deadline_ns)
{
    fm_eplb_planner_load(planner, weight);
    fm_eplb_planner_read_groups(planner, row);
    uint64_t search_ns = deadline_ns;
    if (deadline_ns != FM_EPLB_NO_DEADLINE) {
        uint64_t now = fm_base_clock_ns();
        search_ns = deadline_ns > now ? now + (uint64_t)((double)(deadline_ns - now) * SEARCH_SHARE) : now;
    }
    improve_nodes(planner, layer, row, state, search_ns);
    if (!is_above(state->time, state->bound))
        return;
    if (planner->nodes == 1)
        raise_bound(planner, state, deadline_ns);
    else
        raise_hierarchy_bound(planner, layer, row, state, deadline_ns);
}

// A short walk for what the reference reached and single steps did not; few layers need one. Returns whether it got
// there.
static int walk_to_reference(fm_eplb_planner *planner, int32_t *row, fm_eplb_layer_state *state)
{
    fm_eplb_planner_read_groups(planner, row);
    for (int node = 0; node < planner->nodes; node++) {
        fm_eplb_problem problem = fm_eplb_planner_node(planner, node);
        fm_eplb_planner_from_row(planner, node, row, planner->solution);
        fm_eplb_search_load(&planner->search, &problem, planner->solution);
        fm_eplb_search_explore(&planner->search, state->reference_time, LAST_PATIENCE, 0,
                               FM_EPLB_NO_DEADLINE);
        fm_eplb_planner_to_row(planner, node, planner->search.expert, row);
    }
    state->time = fm_eplb_planner_time(planner, row);
    return !is_above(state->time, state->reference_time);
}

void fm_eplb_best_end(fm_eplb_planner *planner, const float *weight, int32_t *row, fm_eplb_layer_state *state,
                      uint64_t deadline_ns)
{
    if (!is_above(state->time, state->reference_time))
        return;
    fm_eplb_planner_load(planner, weight);
    if (walk_to_reference(planner, row, state))
        return;
    fm_eplb_best_greedy(planner, row);
    for (int node = 0; node < planner->nodes; node++) {
        fm_eplb_problem problem = fm_eplb_planner_node(planner, node);
        fm_eplb_planner_from_row(planner, node, row, planner->solution);
        fm_eplb_search_load(&planner->search, &problem, planner->solution);
        // Duplicates that balance can do without go, the others stay, and no more come in.
        fm_eplb_search_repair(&planner->search, state->reference_time);
        double time = fm_eplb_search_descend(&planner->search, HUGE_VAL, deadline_ns);
        memcpy(planner->solution, planner->search.expert, (size_t)problem.slots * sizeof(int32_t));
        problem.distinct = 0;
        if (planner->nodes == 1 && fm_eplb_exact_applies(&problem))
            fm_eplb_exact_solve(&problem, FM_EPLB_EXACT_NODES, deadline_ns, &time, planner->solution);
        fm_eplb_planner_to_row(planner, node, planner->solution, row);
    }
    state->time = fm_eplb_planner_time(planner, row);
}
