#include "eplb_limited.h"

#include <limits.h>
#include <math.h>
#include <string.h>

#include "eplb_exact.h"

#include "fathom/mem.h"

fm_status fm_eplb_limited_init(fm_eplb_limited *limited, fm_eplb_planner *planner,
                               const fm_eplb_options *options, const fm_eplb_index *old)
{
    size_t gpus = (size_t)planner->node_gpus;
    *limited = (fm_eplb_limited){
        .planner = planner,
        .search = &planner->search,
        .options = options,
        .old = old,
        .before = fm_base_mem_alloc(gpus * ((size_t)planner->node_experts + 1) * sizeof(uint16_t)),
        .kept = fm_base_mem_alloc(gpus * sizeof(int32_t)),
        .wanted_by = fm_base_mem_alloc(gpus * sizeof(int32_t)),
        .queue = fm_base_mem_alloc(gpus * sizeof(int32_t)),
    };
    if (limited->before && limited->kept && limited->wanted_by && limited->queue)
        return FM_OK;
    fm_eplb_limited_clean_up(limited);
    return fm_base_error_set(FM_ERR_NOMEM, "no memory to compare placements on %d GPUs",
                             planner->shape->gpus);
}

void fm_eplb_limited_clean_up(fm_eplb_limited *limited)
{
    fm_base_mem_free(limited->before);
    fm_base_mem_free(limited->kept);
    fm_base_mem_free(limited->wanted_by);
    fm_base_mem_free(limited->queue);
    *limited = (fm_eplb_limited){0};
}

// Which node has which group, from where the groups' experts are.
static fm_status read_groups(const fm_eplb_limited *limited)
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

static uint16_t *before_of(const fm_eplb_limited *limited, int gpu, int expert)
{
    return &limited->before[(size_t)gpu * ((size_t)limited->problem.experts + 1) + (size_t)expert];
}

// before[]: what the node's GPUs held, those that are lost nothing. Returns whether one has fewer slots than that.
static int read_before(const fm_eplb_limited *limited)
{
    const fm_eplb_problem *p = &limited->problem;
    const fm_eplb_planner *planner = limited->planner;
    const fm_eplb_index *old = limited->old;
    int size = planner->shape->experts / planner->groups;
    int first_gpu = limited->node * planner->node_gpus;
    int smaller = 0;
    memset(limited->before, 0, (size_t)p->gpus * ((size_t)p->experts + 1) * sizeof(uint16_t));
    for (int gpu = 0; gpu < p->gpus; gpu++) {
        int room = p->slot_begin[gpu + 1] - p->slot_begin[gpu];
        int held = 0;
        if (room == 0)
            continue;
        for (int slot = old->slot_begin[first_gpu + gpu]; slot < old->slot_begin[first_gpu + gpu + 1]; slot++)
            if (limited->current[slot] >= 0 &&
                planner->group_node[limited->current[slot] / size] == limited->node) {
                ++*before_of(limited, gpu, planner->local[limited->current[slot]]);
                held++;
            }
        smaller |= held > room;
    }
    return smaller;
}

// Queues the GPUs that hold an expert, and hence may keep it, and that the search has not reached yet.
static void reach_keepers(const fm_eplb_limited *limited, int expert, int *queued)
{
    for (int gpu = 0; gpu < limited->problem.gpus; gpu++)
        if (*before_of(limited, gpu, expert) > 0 && limited->wanted_by[gpu] < 0) {
            limited->wanted_by[gpu] = expert;
            limited->queue[(*queued)++] = gpu;
        }
}

/*
 * keeper[expert]: one GPU that keeps a copy of it, or -1. GPUs that have got smaller cannot keep all they held;
 * as many experts as possible find a keeper, because each of the others is a copy to be moved: a matching, by
 * augmenting paths.
 */
static void choose_keepers(const fm_eplb_limited *limited, int32_t *keeper)
{
    const fm_eplb_problem *p = &limited->problem;
    memset(limited->kept, 0, (size_t)p->gpus * sizeof *limited->kept);
    for (int e = 0; e < p->experts; e++) {
        int queued = 0;
        int found = -1;
        keeper[e] = -1;
        memset(limited->wanted_by, 0xff, (size_t)p->gpus * sizeof *limited->wanted_by);
        reach_keepers(limited, e, &queued);
        for (int next = 0; next < queued && found < 0; next++) {
            int gpu = limited->queue[next];
            if (limited->kept[gpu] < p->slot_begin[gpu + 1] - p->slot_begin[gpu])
                found = gpu;
            for (int other = 0; found < 0 && other < e; other++)
                if (keeper[other] == gpu)
                    reach_keepers(limited, other, &queued);
        }
        if (found < 0)
            continue;
        limited->kept[found]++;
        for (int gpu = found; gpu >= 0;) {
            int expert = limited->wanted_by[gpu];
            int left = keeper[expert];
            keeper[expert] = gpu;
            gpu = left;
        }
    }
}

// What the node's GPUs keep, as far as their slots reach: solution, and in count[] the copies of each expert.
static void keep_old(const fm_eplb_limited *limited, int32_t *keeper, int32_t *count, int32_t *solution)
{
    const fm_eplb_problem *p = &limited->problem;
    if (read_before(limited))
        choose_keepers(limited, keeper);
    else // every copy stays, so there is nothing to choose
        memset(keeper, 0xff, (size_t)p->experts * sizeof *keeper);
    memset(count, 0, (size_t)p->experts * sizeof *count);
    for (int gpu = 0; gpu < p->gpus; gpu++) {
        int slot = p->slot_begin[gpu];
        int last = p->slot_begin[gpu + 1];
        for (int e = 0; e < p->experts; e++)
            if (keeper[e] == gpu) {
                solution[slot++] = e;
                count[e]++;
            }
        for (int e = 0; e < p->experts; e++)
            for (int copy = keeper[e] == gpu; copy < *before_of(limited, gpu, e) && slot < last; copy++) {
                solution[slot++] = e;
                count[e]++;
            }
        while (slot < last)
            solution[slot++] = p->experts;
    }
}

// The best slot for one more replica of an expert: an empty one, or that of an expert with other replicas.
static int choose_slot(const fm_eplb_limited *limited, int expert, int empty_only)
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

static fm_status place_orphans(fm_eplb_limited *limited)
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

static int filled_slots(const fm_eplb_limited *limited)
{
    return limited->problem.slots - limited->search->count[limited->problem.experts];
}

// Brings the number of replicas to what was asked for, as far as moves and copies allow.
static void match_replicas(fm_eplb_limited *limited)
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
static int relocate(fm_eplb_limited *limited, int slot, uint64_t deadline_ns)
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

static int relocate_any(fm_eplb_limited *limited, uint64_t deadline_ns)
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

// The limits that the options set, on top of what read_before() found. `orphans`: the moves that there must be.
static void set_limits(fm_eplb_limited *limited, int orphans)
{
    fm_eplb_problem *p = &limited->problem;
    int bounded = limited->options->moves == FM_EPLB_MOVES_BOUNDED;
    p->before = limited->before;
    p->moves_per_gpu = bounded ? limited->options->moves_per_gpu : INT_MAX;
    p->moves_total = bounded ? INT_MAX : orphans;
}

static fm_status complete(fm_eplb_limited *limited, uint64_t deadline_ns)
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

static fm_status begin_node(fm_eplb_limited *limited, int32_t *row, uint64_t deadline_ns)
{
    fm_eplb_planner *planner = limited->planner;
    int32_t *count = planner->heap;
    int orphans = 0;
    limited->problem = fm_eplb_planner_node(planner, limited->node);
    keep_old(limited, count + planner->node_experts, count, planner->solution);
    for (int e = 0; e < limited->problem.experts; e++)
        orphans += count[e] == 0;
    set_limits(limited, orphans);
    fm_eplb_search_load(limited->search, &limited->problem, planner->solution);
    FM_TRY(complete(limited, deadline_ns));
    fm_eplb_search_descend(limited->search, HUGE_VAL, deadline_ns);
    fm_eplb_planner_to_row(planner, limited->node, limited->search->expert, row);
    return FM_OK;
}

fm_status fm_eplb_limited_begin(fm_eplb_limited *limited, const int32_t *current, const float *weight,
                                int32_t *row, fm_eplb_layer_state *state, uint64_t deadline_ns)
{
    fm_eplb_planner *planner = limited->planner;
    limited->current = current;
    fm_eplb_planner_load(planner, weight);
    state->bound = fm_eplb_best_bound(planner);
    FM_TRY(read_groups(limited));
    for (limited->node = 0; limited->node < planner->nodes; limited->node++)
        FM_TRY(begin_node(limited, row, fm_eplb_share_of(deadline_ns, planner->nodes - limited->node)));
    state->time = fm_eplb_planner_time(planner, row);
    return FM_OK;
}

// Improves a node. Returns whether it is proven the best within the limit.
static int improve_node(fm_eplb_limited *limited, int32_t *row, double target, uint64_t seed,
                        uint64_t deadline_ns)
{
    fm_eplb_planner *planner = limited->planner;
    fm_eplb_problem *p = &limited->problem;
    fm_eplb_search *search = limited->search;
    int32_t *solution = planner->solution;
    *p = fm_eplb_planner_node(planner, limited->node);
    read_before(limited);
    set_limits(limited, 0);
    fm_eplb_planner_from_row(planner, limited->node, row, solution);
    fm_eplb_search_load(search, p, solution);
    set_limits(limited, search->moves_total);
    p->replicas = filled_slots(limited);
    double before = search->time[fm_eplb_search_busiest(search)];
    double time = fm_eplb_search_descend(search, HUGE_VAL, deadline_ns);
    do
        time = fm_eplb_search_explore(search, target, FM_EPLB_PATIENCE, seed++, deadline_ns);
    while (p->moves_total < INT_MAX && time > target && !fm_eplb_late(deadline_ns) &&
           relocate_any(limited, deadline_ns));
    // Another placement of the same time would only be copies moved for nothing.
    if (time < before * (1 - FM_EPLB_TOLERANCE))
        memcpy(solution, search->expert, (size_t)p->slots * sizeof *solution);
    else
        time = before;
    int proven = 0;
    if (fm_eplb_exact_applies(p)) {
        // Without duplicates first, so that one is taken only where it is better.
        fm_eplb_exact_solve(p, FM_EPLB_EXACT_NODES, deadline_ns, &time, solution);
        p->distinct = 0;
        proven = fm_eplb_exact_solve(p, FM_EPLB_EXACT_NODES, deadline_ns, &time, solution);
    }
    fm_eplb_planner_to_row(planner, limited->node, solution, row);
    return proven;
}

void fm_eplb_limited_improve(fm_eplb_limited *limited, const int32_t *current, const float *weight, int layer,
                             int32_t *row, fm_eplb_layer_state *state, uint64_t deadline_ns)
{
    fm_eplb_planner *planner = limited->planner;
    limited->current = current;
    fm_eplb_planner_load(planner, weight);
    fm_eplb_planner_read_groups(planner, row);
    int proven = 0;
    for (limited->node = 0; limited->node < planner->nodes; limited->node++)
        proven = improve_node(limited, row, state->bound, (uint64_t)layer << 32,
                              fm_eplb_share_of(deadline_ns, planner->nodes - limited->node));
    state->time = fm_eplb_planner_time(planner, row);
    if (planner->nodes == 1 && proven)
        state->bound = fmax(state->bound, state->time);
}
