#include <math.h>
#include <string.h>

#include "eplb_best.h"
#include "eplb_check.h"
#include "eplb_index.h"
#include "eplb_limited.h"
#include "eplb_relabel.h"

#include "fathom/mem.h"

/** One call of fm_eplb_rebalance(). */
struct rebalance {
    const fm_eplb_shape *shape;
    const float *weight;
    fm_eplb_options options;
    uint64_t deadline_ns;
    fm_eplb_plan *plan;
    fm_eplb_planner planner;
    fm_eplb_layer_state *state; /* [layers] */
    int32_t *copy; /* [layers][slots] which copy of its expert a slot holds; NULL: in the order of slots */
    fm_eplb_index old; /* of the current placement */
    fm_eplb_relabeler relabeler;
};

void fm_eplb_plan_free(fm_eplb_plan *plan)
{
    if (!plan)
        return;
    fm_base_mem_free(plan->slot_begin);
    fm_base_mem_free(plan->phy2log);
    fm_base_mem_free(plan->log2phy);
    fm_base_mem_free(plan->logcnt);
    fm_base_mem_free(plan->certificate);
    fm_base_mem_free(plan);
}

static fm_status no_memory(const fm_eplb_shape *shape)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory for a plan of %d layers", shape->layers);
}

// NULL when there is no memory.
static fm_eplb_plan *plan_new(const fm_eplb_shape *shape, const fm_eplb_options *options, int slots)
{
    fm_eplb_plan *plan = fm_base_mem_zalloc(1, sizeof *plan);
    if (!plan)
        return NULL;
    size_t layers = (size_t)shape->layers;
    plan->shape = *shape;
    plan->slots = slots;
    plan->hierarchical = shape->groups % shape->nodes == 0;
    plan->slot_begin = fm_base_mem_alloc(((size_t)shape->gpus + 1) * sizeof(int32_t));
    plan->phy2log = fm_base_mem_zalloc(layers * (size_t)slots, sizeof(int32_t));
    plan->logcnt = fm_base_mem_zalloc(layers * (size_t)shape->experts, sizeof(int32_t));
    plan->certificate = fm_base_mem_zalloc(layers, sizeof(fm_eplb_certificate));
    if (!plan->slot_begin || !plan->phy2log || !plan->logcnt || !plan->certificate) {
        fm_eplb_plan_free(plan);
        return NULL;
    }
    fm_eplb_slot_begin(shape, slots, options->gpu_slots, plan->slot_begin);
    return plan;
}

static int32_t *row_of(const struct rebalance *call, int layer)
{
    return call->plan->phy2log + (size_t)layer * (size_t)call->plan->slots;
}

static const float *weight_of(const struct rebalance *call, int layer)
{
    return call->weight + (size_t)layer * (size_t)call->shape->experts;
}

static const int32_t *current_of(const struct rebalance *call, int layer)
{
    const fm_eplb_placement *current = call->options.current;
    return current->phy2log + (size_t)layer * (size_t)current->slots;
}

// Counts the replicas, and finds what the placement can be compared with at next to no cost.
static void certify_reference(struct rebalance *call, int layer)
{
    fm_eplb_planner *planner = &call->planner;
    fm_eplb_layer_state *state = &call->state[layer];
    state->time = fm_eplb_planner_time(planner, row_of(call, layer));
    double load = 0;
    double largest = 0;     // share
    double next = HUGE_VAL; // share of an expert with one replica less
    for (int e = 0; e < call->shape->experts; e++) {
        int count = planner->count[e];
        double share = planner->load[e] / count;
        load += planner->load[e];
        largest = share > largest ? share : largest;
        if (count > 1 && planner->load[e] < next * (count - 1))
            next = planner->load[e] / (count - 1);
    }
    // Other counts than these give some expert fewer replicas, hence a share of at least `next`.
    state->bound = fmax(load / call->shape->gpus, fmin(largest, next));
    for (int group = 0; group < planner->groups; group++)
        state->bound = fmax(state->bound, planner->group_load[group] / planner->node_gpus);
}

static fm_status plan_reference(struct rebalance *call)
{
    fm_eplb_planner *planner = &call->planner;
    size_t slots = (size_t)call->plan->slots;
    call->copy = fm_base_mem_alloc((size_t)call->shape->layers * slots * sizeof(int32_t));
    if (!call->copy)
        return no_memory(call->shape);
    for (int layer = 0; layer < call->shape->layers; layer++) {
        fm_eplb_planner_load(planner, weight_of(call, layer));
        fm_eplb_reference_layer(&planner->reference, call->shape, planner->groups, planner->nodes,
                                planner->weight, row_of(call, layer), call->copy + (size_t)layer * slots);
        certify_reference(call, layer);
    }
    return FM_OK;
}

static void relabel(struct rebalance *call, int layer)
{
    if (!call->options.current)
        return;
    fm_eplb_index_build(&call->old, current_of(call, layer));
    if (call->options.moves == FM_EPLB_MOVES_ANY)
        fm_eplb_relabel(&call->relabeler, current_of(call, layer), row_of(call, layer));
    else
        fm_eplb_seat(&call->relabeler, current_of(call, layer), row_of(call, layer));
    int most;
    call->plan->certificate[layer].moves = fm_eplb_moves_count(&call->relabeler, row_of(call, layer), &most);
}

// Whether a row is a placement that the plan could be: every expert has a slot, none has two on a GPU, groups
// are whole on nodes.
static int is_complete(struct rebalance *call, const int32_t *row)
{
    const fm_eplb_planner *planner = &call->planner;
    const fm_eplb_shape *shape = call->shape;
    int32_t *seen = planner->count; // the last GPU that was seen to hold an expert, or -1
    int32_t *node_of = planner->heap;
    int size = shape->experts / planner->groups;
    int filled = 0;
    memset(seen, 0xff, (size_t)shape->experts * sizeof *seen);
    memset(node_of, 0xff, (size_t)planner->groups * sizeof *node_of);
    for (int gpu = 0; gpu < shape->gpus; gpu++)
        for (int slot = planner->slot_begin[gpu]; slot < planner->slot_begin[gpu + 1]; slot++) {
            int expert = row[slot];
            if (expert < 0)
                continue;
            int32_t *node = &node_of[expert / size];
            if (seen[expert] == gpu || (*node >= 0 && *node != gpu / planner->node_gpus))
                return 0;
            seen[expert] = gpu;
            *node = gpu / planner->node_gpus;
            filled++;
        }
    for (int e = 0; e < shape->experts; e++)
        if (seen[e] < 0)
            return 0;
    return filled == shape->replicas;
}

// Where what is running is at least as good as the first placement, the search goes on from there: what it
// finds moves less.
static void start_from_current(struct rebalance *call, int layer)
{
    const fm_eplb_plan *plan = call->plan;
    if (!call->options.current || call->old.slots != plan->slots ||
        memcmp(call->old.slot_begin, plan->slot_begin, ((size_t)call->shape->gpus + 1) * sizeof(int32_t)) !=
            0 ||
        !is_complete(call, current_of(call, layer)))
        return;
    double time = fm_eplb_planner_time(&call->planner, current_of(call, layer));
    if (time > call->state[layer].time)
        return;
    call->state[layer].time = time;
    memcpy(row_of(call, layer), current_of(call, layer), (size_t)plan->slots * sizeof(int32_t));
}

/*
 * What is left of the budget goes to the layers whose gap is worth it, in equal parts; what one of them
 * leaves goes to the rest.
 */
static void plan_best(struct rebalance *call)
{
    int layers = call->shape->layers;
    int timed = call->deadline_ns != FM_EPLB_NO_DEADLINE;
    int left = 0;
    for (int layer = 0; layer < layers; layer++) {
        fm_eplb_layer_state *state = &call->state[layer];
        fm_eplb_best_begin(&call->planner, weight_of(call, layer), row_of(call, layer), state,
                           fm_eplb_share_of(call->deadline_ns, layers - layer));
        start_from_current(call, layer);
        left += state->time > state->bound * (1 + FM_EPLB_GAP_ENOUGH);
    }
    for (int layer = 0; layer < layers; layer++) {
        fm_eplb_layer_state *state = &call->state[layer];
        int worth = state->time > state->bound * (1 + FM_EPLB_GAP_ENOUGH);
        uint64_t until_ns = fm_eplb_share_of(call->deadline_ns, left);
        if (worth || !timed)
            fm_eplb_best_improve(&call->planner, weight_of(call, layer), layer, row_of(call, layer), state,
                                 until_ns);
        left -= worth;
        fm_eplb_best_end(&call->planner, weight_of(call, layer), row_of(call, layer), state,
                         call->deadline_ns);
        relabel(call, layer);
    }
}

/*
 * The best placement of all may need few moves: it is taken instead of the one within the limit where it keeps
 * the limit and is better, or where there is none (state->time is HUGE_VAL).
 */
static void try_free_plan(struct rebalance *call, int layer, int32_t *row, uint64_t deadline_ns)
{
    fm_eplb_layer_state free_state;
    const float *weight = weight_of(call, layer);
    fm_eplb_best_begin(&call->planner, weight, row, &free_state, deadline_ns);
    // Half of the time: what the limit asks for is found by the search that knows it.
    fm_eplb_best_improve(&call->planner, weight, layer, row, &free_state, fm_eplb_share_of(deadline_ns, 2));
    fm_eplb_best_end(&call->planner, weight, row, &free_state, deadline_ns);
    fm_eplb_relabel(&call->relabeler, current_of(call, layer), row);
    int most;
    fm_eplb_moves_count(&call->relabeler, row, &most);
    fm_eplb_layer_state *state = &call->state[layer];
    state->bound = fmax(state->bound, free_state.bound);
    if (most <= call->options.moves_per_gpu && free_state.time < state->time * (1 - FM_EPLB_TOLERANCE)) {
        memcpy(row_of(call, layer), row, (size_t)call->plan->slots * sizeof *row);
        state->time = free_state.time;
    }
}

// Whether more than half of the slots of every GPU may change: then the free plan may well be within the limit.
static int is_loose(const struct rebalance *call)
{
    const int32_t *begin = call->plan->slot_begin;
    for (int gpu = 0; gpu < call->shape->gpus; gpu++)
        if (begin[gpu + 1] - begin[gpu] >= 2 * (int64_t)call->options.moves_per_gpu)
            return 0;
    return 1;
}

static fm_status begin_limited(struct rebalance *call, fm_eplb_limited *limited, int layer, int32_t *row)
{
    fm_eplb_layer_state *state = &call->state[layer];
    int bounded = call->options.moves == FM_EPLB_MOVES_BOUNDED;
    uint64_t until_ns = fm_eplb_share_of(call->deadline_ns, call->shape->layers - layer);
    fm_eplb_index_build(&call->old, current_of(call, layer));
    fm_status status = fm_eplb_limited_begin(limited, current_of(call, layer), weight_of(call, layer),
                                             row_of(call, layer), state, until_ns);
    if (status != FM_OK && (status != FM_ERR_NOT_FOUND || !bounded))
        return fm_base_error_prefix(status, "layer %d", layer);
    if (status != FM_OK)
        state->time = HUGE_VAL;
    if (bounded && (status != FM_OK || call->deadline_ns == FM_EPLB_NO_DEADLINE || is_loose(call)))
        try_free_plan(call, layer, row, until_ns);
    return state->time < HUGE_VAL ? FM_OK : fm_base_error_prefix(status, "layer %d", layer);
}

static fm_status plan_limited(struct rebalance *call)
{
    fm_eplb_limited limited;
    int layers = call->shape->layers;
    int32_t *row = fm_base_mem_alloc((size_t)call->plan->slots * sizeof *row);
    if (!row)
        return no_memory(call->shape);
    fm_status status = fm_eplb_limited_init(&limited, &call->planner, &call->options, &call->old);
    for (int layer = 0; layer < layers && status == FM_OK; layer++)
        status = begin_limited(call, &limited, layer, row);
    for (int layer = 0; layer < layers && status == FM_OK; layer++) {
        const int32_t *current = current_of(call, layer);
        fm_eplb_index_build(&call->old, current);
        fm_eplb_limited_improve(&limited, current, weight_of(call, layer), layer, row_of(call, layer),
                                &call->state[layer], fm_eplb_share_of(call->deadline_ns, layers - layer));
        relabel(call, layer);
    }
    fm_eplb_limited_clean_up(&limited);
    fm_base_mem_free(row);
    return status;
}

// The last word on each layer: replicas and duplicates counted anew from its row.
static void certify(struct rebalance *call, int layer)
{
    fm_eplb_plan *plan = call->plan;
    const fm_eplb_layer_state *state = &call->state[layer];
    const int32_t *row = row_of(call, layer);
    const float *weight = weight_of(call, layer);
    int32_t *count = plan->logcnt + (size_t)layer * (size_t)call->shape->experts;
    int32_t *holder = call->planner.count; // the last GPU seen to hold an expert
    int duplicates = 0;
    memset(holder, 0xff, (size_t)call->shape->experts * sizeof *holder);
    for (int gpu = 0; gpu < call->shape->gpus; gpu++)
        for (int slot = plan->slot_begin[gpu]; slot < plan->slot_begin[gpu + 1]; slot++) {
            int expert = row[slot];
            if (expert < 0)
                continue;
            count[expert]++;
            duplicates += holder[expert] == gpu;
            holder[expert] = gpu;
        }
    double load = 0;
    for (int e = 0; e < call->shape->experts; e++) {
        load += (double)weight[e];
        plan->copies_max = count[e] > plan->copies_max ? count[e] : plan->copies_max;
    }
    double speed = 0;
    for (int gpu = 0; gpu < call->shape->gpus; gpu++)
        speed += plan->slot_begin[gpu + 1] > plan->slot_begin[gpu] ? call->planner.speed[gpu] : 0;
    fm_eplb_certificate *certificate = &plan->certificate[layer];
    certificate->duplicates = duplicates;
    certificate->mean_load = load / speed;
    if (load > 0) { // a layer of zeros was spread as if its loads were 1; its times are 0
        certificate->max_load = state->time;
        // A bound that is reached may lie above by rounding.
        certificate->lower_bound = state->bound < state->time ? state->bound : state->time;
        certificate->gap = certificate->max_load / certificate->lower_bound - 1;
    }
    certificate->optimal = certificate->gap <= FM_EPLB_TOLERANCE;
}

static fm_status list_slots(struct rebalance *call)
{
    fm_eplb_plan *plan = call->plan;
    size_t layers = (size_t)call->shape->layers;
    size_t experts = (size_t)call->shape->experts;
    size_t slots = (size_t)plan->slots;
    size_t width = (size_t)plan->copies_max;
    size_t bytes = 0;
    FM_TRY(fm_mul_size(layers * experts, width * sizeof(int32_t), &bytes));
    plan->log2phy = fm_base_mem_alloc(bytes);
    if (!plan->log2phy)
        return no_memory(call->shape);
    memset(plan->log2phy, 0xff, bytes);
    // Relabelling has broken the order in which the reference numbers copies.
    const int32_t *copy = call->options.current ? NULL : call->copy;
    int32_t *seen = call->planner.count;
    for (size_t layer = 0; layer < layers; layer++) {
        memset(seen, 0, experts * sizeof *seen);
        for (size_t slot = 0; slot < slots; slot++) {
            int expert = plan->phy2log[layer * slots + slot];
            if (expert < 0)
                continue;
            int place = copy ? copy[layer * slots + slot] : seen[expert]++;
            plan->log2phy[(layer * experts + (size_t)expert) * width + (size_t)place] = (int32_t)slot;
        }
    }
    return FM_OK;
}

static fm_status run(struct rebalance *call, int slots)
{
    const fm_eplb_options *options = &call->options;
    call->plan = plan_new(call->shape, options, slots);
    if (!call->plan)
        return no_memory(call->shape);
    FM_TRY(fm_eplb_planner_init(&call->planner, call->shape, call->plan->slot_begin, options->gpu_speed));
    if (options->current) {
        FM_TRY(fm_eplb_index_init(&call->old, call->shape, options->current->slots,
                                  options->current->gpu_slots));
        FM_TRY(fm_eplb_relabeler_init(&call->relabeler, call->planner.nodes, call->shape->gpus, slots,
                                      call->plan->slot_begin, call->planner.speed, &call->old));
    }
    call->state = fm_base_mem_zalloc((size_t)call->shape->layers, sizeof *call->state);
    if (!call->state)
        return no_memory(call->shape);
    if (options->policy == FM_EPLB_REFERENCE) {
        FM_TRY(plan_reference(call));
        for (int layer = 0; layer < call->shape->layers; layer++)
            relabel(call, layer);
    } else if (options->moves == FM_EPLB_MOVES_ANY) {
        plan_best(call);
    } else {
        FM_TRY(plan_limited(call));
    }
    for (int layer = 0; layer < call->shape->layers; layer++)
        certify(call, layer);
    return list_slots(call);
}

fm_status fm_eplb_rebalance(const fm_eplb_shape *shape, const float *weight, const fm_eplb_options *options,
                            fm_eplb_plan **out_plan)
{
    uint64_t begin_ns = fm_base_clock_ns();
    fm_eplb_options resolved = FM_EPLB_OPTIONS_INIT;
    if (options) {
        if (options->size < offsetof(fm_eplb_options, policy) + sizeof options->policy ||
            options->size > sizeof resolved)
            return fm_base_error_set(FM_ERR_VERSION,
                                     "options.size is %zu; expected sizeof(fm_eplb_options), %zu",
                                     options->size, sizeof resolved);
        memcpy(&resolved, options, options->size);
    }
    int slots = 0;
    FM_TRY(fm_eplb_check_request(shape, &resolved, &slots));
    FM_TRY(fm_eplb_check_loads(shape->layers, shape->experts, weight, "weight"));
    struct rebalance call = {
        .shape = shape, .weight = weight, .options = resolved, .deadline_ns = FM_EPLB_NO_DEADLINE};
    if (resolved.budget_ms > 0 && resolved.budget_ms < 1e12)
        call.deadline_ns = begin_ns + (uint64_t)(resolved.budget_ms * 1e6);
    fm_status status = run(&call, slots);
    if (status == FM_OK)
        *out_plan = call.plan;
    else
        fm_eplb_plan_free(call.plan);
    fm_eplb_relabeler_clean_up(&call.relabeler);
    fm_eplb_index_clean_up(&call.old);
    fm_eplb_planner_clean_up(&call.planner);
    fm_base_mem_free(call.state);
    fm_base_mem_free(call.copy);
    return status;
}
