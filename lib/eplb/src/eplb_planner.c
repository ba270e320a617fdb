#include "eplb_planner.h"

#include <string.h>

#include "eplb_pairs.h"

#include "fathom/mem.h"

// Nodes as GPUs that hold groups, and each node's slots numbered from 0.
static void number_nodes(fm_eplb_planner *planner)
{
    const fm_eplb_shape *shape = planner->shape;
    int n = planner->node_gpus;
    for (int node = 0; node < planner->nodes; node++) {
        const int32_t *begin = planner->slot_begin + (size_t)node * (size_t)n;
        int32_t *own = planner->node_slot_begin + (size_t)node * (size_t)(n + 1);
        planner->node_speed[node] = 0;
        for (int i = 0; i <= n; i++)
            own[i] = begin[i] - begin[0];
        for (int i = 0; i < n; i++)
            if (own[i + 1] > own[i])
                planner->node_speed[node] += planner->speed[node * n + i];
        planner->group_slot_begin[node + 1] = (node + 1) * (planner->groups / planner->nodes);
        planner->node_replicas[node] =
            planner->slots == shape->replicas ? own[n] : shape->replicas / planner->nodes;
    }
    planner->group_slot_begin[0] = 0;
}

static fm_status allocate(fm_eplb_planner *planner)
{
    size_t experts = (size_t)planner->shape->experts;
    size_t gpus = (size_t)planner->shape->gpus;
    size_t nodes = (size_t)planner->nodes;
    size_t groups = (size_t)planner->groups;
    size_t slots = (size_t)planner->slots;
    planner->speed = fm_base_mem_alloc(gpus * sizeof(double));
    planner->node_slot_begin = fm_base_mem_alloc((gpus + nodes) * sizeof(int32_t));
    planner->node_replicas = fm_base_mem_alloc(nodes * sizeof(int32_t));
    planner->group_slot_begin = fm_base_mem_alloc((nodes + 1) * sizeof(int32_t));
    planner->node_speed = fm_base_mem_alloc(nodes * sizeof(double));
    planner->weight = fm_base_mem_alloc(experts * sizeof(float));
    planner->load = fm_base_mem_alloc(experts * sizeof(double));
    planner->group_load = fm_base_mem_alloc(groups * sizeof(double));
    planner->group_node = fm_base_mem_zalloc(groups, sizeof(int32_t));
    planner->member = fm_base_mem_alloc(experts * sizeof(int32_t));
    planner->local = fm_base_mem_alloc(experts * sizeof(int32_t));
    planner->member_load = fm_base_mem_alloc(experts * sizeof(double));
    planner->member_weight = fm_base_mem_alloc(experts * sizeof(float));
    planner->gpu_load = fm_base_mem_alloc(gpus * sizeof(double));
    planner->count = fm_base_mem_alloc(experts * sizeof(int32_t));
    planner->heap = fm_base_mem_alloc((2 * experts + gpus) * sizeof(int32_t));
    planner->solution = fm_base_mem_alloc(slots * sizeof(int32_t));
    planner->row = fm_base_mem_alloc(slots * sizeof(int32_t));
    planner->pairs = fm_base_mem_alloc(fm_eplb_pairs_workspace(planner->node_experts, planner->slots));
    const fm_eplb_planner *p = planner;
    if (p->speed && p->node_slot_begin && p->node_replicas && p->group_slot_begin && p->node_speed &&
        p->weight && p->load && p->group_load && p->group_node && p->member && p->local && p->member_load &&
        p->member_weight && p->gpu_load && p->count && p->heap && p->solution && p->row && p->pairs)
        return FM_OK;
    return fm_base_error_set(FM_ERR_NOMEM, "no memory to plan %d experts on %d GPUs", p->shape->experts,
                             p->shape->gpus);
}

fm_status fm_eplb_planner_init(fm_eplb_planner *planner, const fm_eplb_shape *shape,
                               const int32_t *slot_begin, const double *speed)
{
    int hierarchical = shape->groups % shape->nodes == 0;
    *planner = (fm_eplb_planner){
        .shape = shape,
        .groups = hierarchical ? shape->groups : 1,
        .nodes = hierarchical ? shape->nodes : 1,
        .slots = slot_begin[shape->gpus],
        .slot_begin = slot_begin,
        .even = slot_begin[shape->gpus] == shape->replicas,
    };
    planner->node_gpus = shape->gpus / planner->nodes;
    planner->node_experts = shape->experts / planner->nodes;
    // The search serves the nodes' problems and that of the groups.
    int gpus = planner->node_gpus > planner->nodes ? planner->node_gpus : planner->nodes;
    int experts = planner->node_experts > planner->groups ? planner->node_experts : planner->groups;
    int slots = planner->slots > planner->groups ? planner->slots : planner->groups;
    fm_status status = allocate(planner);
    if (status == FM_OK)
        status =
            fm_eplb_reference_init(&planner->reference, shape->experts, slots, planner->groups, shape->gpus);
    if (status == FM_OK)
        status = fm_eplb_search_init(&planner->search, experts, gpus, slots);
    if (status < 0) {
        fm_eplb_planner_clean_up(planner);
        return status;
    }
    for (int gpu = 0; gpu < shape->gpus; gpu++) {
        planner->speed[gpu] = speed ? speed[gpu] : 1;
        planner->even &= planner->speed[gpu] == planner->speed[0] &&
                         slot_begin[gpu + 1] - slot_begin[gpu] == slot_begin[1] - slot_begin[0];
    }
    number_nodes(planner);
    return FM_OK;
}

void fm_eplb_planner_clean_up(fm_eplb_planner *planner)
{
    void *blocks[] = {planner->speed,         planner->node_slot_begin,
                      planner->node_replicas, planner->group_slot_begin,
                      planner->node_speed,    planner->weight,
                      planner->load,          planner->group_load,
                      planner->group_node,    planner->member,
                      planner->local,         planner->member_load,
                      planner->gpu_load,      planner->member_weight,
                      planner->count,         planner->heap,
                      planner->solution,      planner->row,
                      planner->pairs};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        fm_base_mem_free(blocks[i]);
    fm_eplb_reference_clean_up(&planner->reference);
    fm_eplb_search_clean_up(&planner->search);
    *planner = (fm_eplb_planner){0};
}

void fm_eplb_planner_load(fm_eplb_planner *planner, const float *weight)
{
    int experts = planner->shape->experts;
    int any = 0;
    for (int e = 0; e < experts && !any; e++)
        any = weight[e] > 0;
    for (int e = 0; e < experts; e++) {
        planner->weight[e] = any ? weight[e] : 1;
        planner->load[e] = (double)planner->weight[e];
    }
    int size = experts / planner->groups;
    for (int group = 0; group < planner->groups; group++) {
        planner->group_load[group] = 0;
        for (int e = group * size; e < (group + 1) * size; e++)
            planner->group_load[group] += planner->load[e];
    }
}

void fm_eplb_planner_seat_groups(fm_eplb_planner *planner)
{
    int size = planner->shape->experts / planner->groups;
    int filled = 0;
    for (int node = 0; node < planner->nodes; node++)
        for (int group = 0; group < planner->groups; group++) {
            if (planner->group_node[group] != node)
                continue;
            for (int e = group * size; e < (group + 1) * size; e++, filled++) {
                planner->member[filled] = e;
                planner->local[e] = filled - node * planner->node_experts;
                planner->member_load[filled] = planner->load[e];
                planner->member_weight[filled] = planner->weight[e];
            }
        }
}

void fm_eplb_planner_read_groups(fm_eplb_planner *planner, const int32_t *row)
{
    int size = planner->shape->experts / planner->groups;
    for (int node = 0; node < planner->nodes; node++)
        for (int slot = planner->slot_begin[node * planner->node_gpus];
             slot < planner->slot_begin[(node + 1) * planner->node_gpus]; slot++)
            if (row[slot] >= 0)
                planner->group_node[row[slot] / size] = node;
    fm_eplb_planner_seat_groups(planner);
}

fm_eplb_problem fm_eplb_planner_node(const fm_eplb_planner *planner, int node)
{
    const int32_t *begin = planner->node_slot_begin + (size_t)node * (size_t)(planner->node_gpus + 1);
    int different = 0; // replicas that the GPUs can hold when none holds an expert twice
    for (int gpu = 0; gpu < planner->node_gpus; gpu++) {
        int room = begin[gpu + 1] - begin[gpu];
        different += room < planner->node_experts ? room : planner->node_experts;
    }
    return (fm_eplb_problem){
        .experts = planner->node_experts,
        .gpus = planner->node_gpus,
        .slots = begin[planner->node_gpus],
        .replicas = planner->node_replicas[node],
        .load = planner->member_load + (size_t)node * (size_t)planner->node_experts,
        .slot_begin = begin,
        .speed = planner->speed + (size_t)node * (size_t)planner->node_gpus,
        .distinct = planner->node_replicas[node] <= different,
    };
}

fm_eplb_problem fm_eplb_planner_groups(const fm_eplb_planner *planner)
{
    return (fm_eplb_problem){
        .experts = planner->groups,
        .gpus = planner->nodes,
        .slots = planner->groups,
        .replicas = planner->groups,
        .load = planner->group_load,
        .slot_begin = planner->group_slot_begin,
        .speed = planner->node_speed,
        .distinct = 1,
    };
}

void fm_eplb_planner_from_row(const fm_eplb_planner *planner, int node, const int32_t *row, int32_t *solution)
{
    int first = planner->slot_begin[node * planner->node_gpus];
    int last = planner->slot_begin[(node + 1) * planner->node_gpus];
    for (int slot = first; slot < last; slot++)
        solution[slot - first] = row[slot] < 0 ? planner->node_experts : planner->local[row[slot]];
}

void fm_eplb_planner_to_row(const fm_eplb_planner *planner, int node, const int32_t *solution, int32_t *row)
{
    const int32_t *member = planner->member + (size_t)node * (size_t)planner->node_experts;
    int first = planner->slot_begin[node * planner->node_gpus];
    int last = planner->slot_begin[(node + 1) * planner->node_gpus];
    for (int slot = first; slot < last; slot++)
        row[slot] = solution[slot - first] == planner->node_experts ? -1 : member[solution[slot - first]];
}

double fm_eplb_planner_time(fm_eplb_planner *planner, const int32_t *row)
{
    memset(planner->count, 0, (size_t)planner->shape->experts * sizeof *planner->count);
    for (int slot = 0; slot < planner->slots; slot++)
        if (row[slot] >= 0)
            planner->count[row[slot]]++;
    double worst = 0;
    for (int gpu = 0; gpu < planner->shape->gpus; gpu++) {
        double sum = 0;
        for (int slot = planner->slot_begin[gpu]; slot < planner->slot_begin[gpu + 1]; slot++)
            if (row[slot] >= 0)
                sum += planner->load[row[slot]] / planner->count[row[slot]];
        planner->gpu_load[gpu] = sum / planner->speed[gpu];
        worst = planner->gpu_load[gpu] > worst ? planner->gpu_load[gpu] : worst;
    }
    return worst;
}
