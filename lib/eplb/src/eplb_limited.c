#include "eplb_limited.h"

#include <float.h>
#include <limits.h>
#include <math.h>
#include <string.h>

#include "eplb_exact.h"

#include "fathom/mem.h"

enum {
    // As in the free search; see eplb_best.c.
    PATIENCE = 400,
};

struct limited {
    fm_eplb_planner *planner;
    fm_eplb_search *search;
    const fm_eplb_options *options;
    const fm_eplb_index *old;
    const int32_t *current;
    int node;
    fm_eplb_problem problem;
    uint16_t *before; /* [node_gpus][node_experts + 1] */
};

// Which node has which group, from where the groups' experts are.
static fm_status read_groups(const struct limited *limited)
{
    fm_eplb_planner *planner = limited->planner;
    const fm_eplb_index *old = limited->old;
    int size = planner->shape->experts / planner->groups;
    int32_t *groups_on = planner->count; // scratch
    memset(groups_on, 0, (size_t)planner->nodes * sizeof *groups_on);
    for (int group = 0; group < planner->groups; group++) {
        int *node = &planner->group_node[group];
        *node = -1;
        for (int32_t i = old->begin[group * size]; i < old->begin[(group + 1) * size]; i++) {
            int gpu = old->gpu[old->slot[i]];
            int here = gpu / planner->node_gpus;
            if (planner->slot_begin[gpu] == planner->slot_begin[gpu + 1] && *node >= 0)
                continue;
            if (*node >= 0 && *node != here)
                return fm_base_error_set(
                    FM_ERR_NOT_FOUND,
                    "the current placement has group %d on nodes %d and %d; a hierarchical plan "
                    "with limited moves needs each group on one node",
                    group, *node, here);
            *node = here;
        }
        if (*node >= 0)
            groups_on[*node]++;
    }
    int room = planner->groups / planner->nodes;
    for (int group = 0; group < planner->groups; group++)
        for (int node = 0; planner->group_node[group] < 0 && node < planner->nodes; node++)
            if (groups_on[node] < room) {
                planner->group_node[group] = node;
                groups_on[node]++;
            }
    for (int node = 0; node < planner->nodes; node++)
        if (groups_on[node] != room)
            return fm_base_error_set(
                FM_ERR_NOT_FOUND,
                "the current placement has %d groups on node %d; a hierarchical plan with limited "
                "moves needs %d on each",
                (int)groups_on[node], node, room);
    fm_eplb_planner_seat_groups(planner);
    return FM_OK;
}

static uint16_t *before_of(const struct limited *limited, int gpu, int expert)
{
    return &limited->before[(size_t)gpu * ((size_t)limited->problem.experts + 1) + (size_t)expert];
}

// What the GPUs of the node hold, as far as their slots reach: solution and before[].
static void keep_old(const struct limited *limited, int32_t *count, int32_t *solution)
{
    const fm_eplb_problem *p = &limited->problem;
    const fm_eplb_planner *planner = limited->planner;
    const fm_eplb_index *old = limited->old;
    int first_gpu = limited->node * planner->node_gpus;
    memset(count, 0, ((size_t)p->experts) * sizeof *count);
    memset(limited->before, 0, (size_t)p->gpus * ((size_t)p->experts + 1) * sizeof(uint16_t));
    for (int gpu = 0; gpu < p->gpus; gpu++) {
        if (p->slot_begin[gpu] == p->slot_begin[gpu + 1])
            continue;
        for (int slot = old->slot_begin[first_gpu + gpu]; slot < old->slot_begin[first_gpu + gpu + 1]; slot++)
            if (limited->current[slot] >= 0) {
                int expert = planner->local[limited->current[slot]];
                count[expert]++;
                ++*before_of(limited, gpu, expert);
            }
    }
    for (int gpu = 0; gpu < p->gpus; gpu++) {
        int slot = p->slot_begin[gpu];
        int held = 0;
        for (int e = 0; e < p->experts; e++)
            held += *before_of(limited, gpu, e);
        for (int e = 0; e < p->experts; e++)
            for (int copy = 0; copy < *before_of(limited, gpu, e); copy++) {
                // A GPU that has got smaller gives up experts that have other copies, as far as there are
                // any.
                int spare = held - (p->slot_begin[gpu + 1] - slot);
                if (slot == p->slot_begin[gpu + 1] || (spare > 0 && count[e] > 1))
                    count[e]--;
                else
                    solution[slot++] = e;
                held--;
            }
        while (slot < p->slot_begin[gpu + 1])
            solution[slot++] = p->experts;
    }
}

// The best slot for one more replica of an expert: an empty one, or that of an expert with other replicas.
static int choose_slot(const struct limited *limited, int expert, int empty_only)
{
    const fm_eplb_problem *p = &limited->problem;
    fm_eplb_search *search = limited->search;
    int best = -1;
    double best_time = HUGE_VAL;
    for (int slot = 0; slot < p->slots; slot++) {
        int held = search->expert[slot];
        int is_empty = held == p->experts;
        if ((!is_empty && (empty_only || search->count[held] < 2)) ||
            !fm_eplb_search_admits(search, slot, expert))
            continue;
        double time = fm_eplb_search_relabel_time(search, slot, expert);
        if (time < best_time) {
            best = slot;
            best_time = time;
        }
    }
    return best;
}

static fm_status place_orphans(struct limited *limited)
{
    const fm_eplb_problem *p = &limited->problem;
    fm_eplb_search *search = limited->search;
    for (;;) {
        int orphan = -1;
        for (int e = 0; e < p->experts; e++)
            if (search->count[e] == 0 && (orphan < 0 || p->load[e] > p->load[orphan]))
                orphan = e;
        if (orphan < 0)
            return FM_OK;
        int slot = choose_slot(limited, orphan, 0);
        if (slot < 0)
            return fm_base_error_set(FM_ERR_NOT_FOUND,
                                     "expert %d has no copy, and none can be made within the limit on moves",
                                     (int)limited->planner->member[limited->node * p->experts + orphan]);
        fm_eplb_search_relabel(search, slot, orphan);
    }
}

static int filled_slots(const struct limited *limited)
{
    return limited->problem.slots - limited->search->count[limited->problem.experts];
}

// Brings the number of replicas to what was asked for, as far as moves and copies allow.
static void match_replicas(struct limited *limited)
{
    fm_eplb_problem *p = &limited->problem;
    fm_eplb_search *search = limited->search;
    while (filled_slots(limited) > p->replicas) {
        int best = -1;
        double best_time = HUGE_VAL;
        for (int slot = 0; slot < p->slots; slot++) {
            if (search->expert[slot] == p->experts || search->count[search->expert[slot]] < 2)
                continue;
            double time = fm_eplb_search_relabel_time(search, slot, p->experts);
            if (time < best_time) {
                best = slot;
                best_time = time;
            }
        }
        if (best < 0)
            break;
        fm_eplb_search_relabel(search, best, p->experts);
    }
    while (filled_slots(limited) < p->replicas) {
        int best = -1;
        int best_expert = -1;
        for (int e = 0; e < p->experts; e++) {
            if (best_expert >= 0 && search->unit[e] <= search->unit[best_expert])
                continue;
            int slot = choose_slot(limited, e, 1);
            if (slot >= 0) {
                best = slot;
                best_expert = e;
            }
        }
        if (best < 0)
            break;
        fm_eplb_search_relabel(search, best, best_expert);
    }
    p->replicas = filled_slots(limited);
}

/*
 * Takes a copy back and makes it elsewhere: the slot of a moved expert returns to one that its GPU held
 * before, and the expert takes another slot. Neither half is possible alone when all moves are used up.
 * Returns whether that lowered the busiest GPU.
 */
static int relocate(struct limited *limited, int slot, uint64_t deadline_ns)
{
    const fm_eplb_problem *p = &limited->problem;
    fm_eplb_search *search = limited->search;
    int expert = search->expert[slot];
    int gpu = search->gpu[slot];
    int busiest = fm_eplb_search_busiest(search);
    double time = search->time[busiest];
    for (int target = 0; target < p->slots && !fm_eplb_late(deadline_ns); target++) {
        int leaving = search->expert[target];
        if (search->gpu[target] == gpu || leaving == expert || leaving == p->experts ||
            search->count[leaving] < 2)
            continue;
        for (int back = 0; back < p->experts; back++) {
            if (back == expert || *before_of(limited, gpu, back) <= fm_eplb_search_held(search, gpu, back))
                continue;
            // Nothing else takes load off the busiest GPU.
            if (gpu != busiest && search->gpu[target] != busiest &&
                fm_eplb_search_held(search, busiest, back) == 0)
                continue;
            fm_eplb_search_relabel(search, target, expert);
            fm_eplb_search_relabel(search, slot, back);
            int allowed = search->moves[search->gpu[target]] <= p->moves_per_gpu &&
                          search->moves_total <= p->moves_total &&
                          (!p->distinct || fm_eplb_search_held(search, search->gpu[target], expert) == 1);
            if (allowed && search->time[fm_eplb_search_busiest(search)] < time * (1 - FM_EPLB_TOLERANCE))
                return 1;
            fm_eplb_search_relabel(search, slot, expert);
            fm_eplb_search_relabel(search, target, leaving);
        }
    }
    return 0;
}

static int relocate_any(struct limited *limited, uint64_t deadline_ns)
{
    const fm_eplb_search *search = limited->search;
    for (int slot = 0; slot < limited->problem.slots; slot++) {
        int expert = search->expert[slot];
        if (expert != limited->problem.experts && *before_of(limited, search->gpu[slot], expert) == 0 &&
            relocate(limited, slot, deadline_ns))
            return 1;
    }
    return 0;
}

// Improves the node's placement into planner->solution. Returns whether it is proven the best within the limit.
static int improve(struct limited *limited, double target, uint64_t seed, uint64_t deadline_ns)
{
    fm_eplb_problem *p = &limited->problem;
    fm_eplb_search *search = limited->search;
    int32_t *solution = limited->planner->solution;
    size_t bytes = (size_t)p->slots * sizeof *solution;
    double before = search->time[fm_eplb_search_busiest(search)];
    memcpy(solution, search->expert, bytes);
    double time = fm_eplb_search_descend(search, deadline_ns);
    do
        time = fm_eplb_search_explore(search, target, PATIENCE, seed++, deadline_ns);
    while (time > target && !fm_eplb_late(deadline_ns) && relocate_any(limited, deadline_ns));
    // Another placement of the same time would only be copies moved for nothing.
    if (time < before * (1 - FM_EPLB_TOLERANCE))
        memcpy(solution, search->expert, bytes);
    else
        time = before;
    if (!fm_eplb_exact_applies(p))
        return 0;
    // Without duplicates first, so that one is taken only where it is better.
    fm_eplb_exact_solve(p, FM_EPLB_EXACT_NODES, deadline_ns, &time, solution);
    p->distinct = 0;
    return fm_eplb_exact_solve(p, FM_EPLB_EXACT_NODES, deadline_ns, &time, solution);
}

// What the options allow, in the node's problem. `count` are the copies that keep_old() found of each expert.
static void set_limits(struct limited *limited, const int32_t *count)
{
    fm_eplb_problem *p = &limited->problem;
    p->before = limited->before;
    p->moves_per_gpu = INT_MAX;
    p->moves_total = INT_MAX;
    if (limited->options->moves == FM_EPLB_MOVES_BOUNDED) {
        p->moves_per_gpu = limited->options->moves_per_gpu;
        return;
    }
    p->moves_total = 0;
    for (int e = 0; e < p->experts; e++)
        p->moves_total += count[e] == 0;
}

static fm_status complete(struct limited *limited, uint64_t deadline_ns)
{
    fm_status status = place_orphans(limited);
    if (status == FM_OK) {
        match_replicas(limited);
        return FM_OK;
    }
    // One orphan after another may run into the limit where all together do not.
    int32_t *solution = limited->planner->solution;
    double time = HUGE_VAL;
    if (fm_eplb_exact_applies(&limited->problem))
        fm_eplb_exact_solve(&limited->problem, FM_EPLB_EXACT_NODES, deadline_ns, &time, solution);
    if (time == HUGE_VAL)
        return status;
    fm_eplb_search_load(limited->search, &limited->problem, solution);
    return FM_OK;
}

static fm_status plan_node(struct limited *limited, double target, uint64_t seed, uint64_t deadline_ns,
                           int32_t *row, int *out_proven)
{
    fm_eplb_planner *planner = limited->planner;
    int32_t *count = planner->heap;
    limited->problem = fm_eplb_planner_node(planner, limited->node);
    keep_old(limited, count, planner->solution);
    set_limits(limited, count);
    fm_eplb_search_load(limited->search, &limited->problem, planner->solution);
    FM_TRY(complete(limited, deadline_ns));
    *out_proven = improve(limited, target, seed, deadline_ns);
    fm_eplb_planner_to_row(planner, limited->node, planner->solution, row);
    return FM_OK;
}

fm_status fm_eplb_limited_plan(fm_eplb_planner *planner, const fm_eplb_options *options,
                               const fm_eplb_index *old, const int32_t *current, const float *weight,
                               int layer, int32_t *row, fm_eplb_layer_state *state, uint64_t deadline_ns)
{
    fm_eplb_planner_load(planner, weight);
    state->bound = fm_eplb_best_bound(planner);
    struct limited limited = {
        .planner = planner, .search = &planner->search, .options = options, .old = old, .current = current};
    FM_TRY(read_groups(&limited));
    limited.before = fm_base_mem_alloc((size_t)planner->node_gpus * ((size_t)planner->node_experts + 1) *
                                       sizeof(uint16_t));
    if (!limited.before)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to compare placements on %d GPUs",
                                 planner->shape->gpus);
    fm_status status = FM_OK;
    int proven = 0;
    for (int node = 0; node < planner->nodes && status == FM_OK; node++) {
        limited.node = node;
        uint64_t until_ns = fm_eplb_share_of(deadline_ns, planner->nodes - node);
        status = plan_node(&limited, state->bound, (uint64_t)layer << 32, until_ns, row, &proven);
    }
    fm_base_mem_free(limited.before);
    if (status < 0)
        return status;
    state->time = fm_eplb_planner_time(planner, row);
    if (planner->nodes == 1 && proven)
        state->bound = fmax(state->bound, state->time);
    return FM_OK;
}
