#include "eplb_check.h"

#include <math.h>

static fm_status check_count(const char *what, int value)
{
    if (value < 1)
        return fm_base_error_set(FM_ERR_ARG, "%s is %d; expected at least 1", what, value);
    if (value > FM_EPLB_COUNT_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "%s is %d; expected at most %d", what, value,
                                 FM_EPLB_COUNT_MAX);
    return FM_OK;
}

fm_status fm_eplb_check_shape(const fm_eplb_shape *shape)
{
    FM_TRY(check_count("layers", shape->layers));
    FM_TRY(check_count("experts", shape->experts));
    FM_TRY(check_count("replicas", shape->replicas));
    FM_TRY(check_count("groups", shape->groups));
    FM_TRY(check_count("nodes", shape->nodes));
    FM_TRY(check_count("gpus", shape->gpus));
    if (shape->replicas < shape->experts)
        return fm_base_error_set(FM_ERR_ARG, "replicas is %d; expected at least %d, one for each expert",
                                 shape->replicas, shape->experts);
    return FM_OK;
}

fm_status fm_eplb_check_loads(int layers, int experts, const float *loads, const char *what)
{
    for (int layer = 0; layer < layers; layer++)
        for (int e = 0; e < experts; e++) {
            float load = loads[(size_t)layer * (size_t)experts + (size_t)e];
            if (!(load >= 0) || isinf(load))
                return fm_base_error_set(
                    FM_ERR_ARG, "%s of layer %d, expert %d is %g; expected a finite number, 0 or more", what,
                    layer, e, (double)load);
        }
    return FM_OK;
}

static fm_status check_divides(const char *small_name, int small, const char *large_name, int large)
{
    if (large % small != 0)
        return fm_base_error_set(FM_ERR_ARG, "%s is %d; expected a multiple of %s (%d)", large_name, large,
                                 small_name, small);
    return FM_OK;
}

static fm_status sum_slots(const int32_t *gpu_slots, int gpus, const char *what, int *out_slots)
{
    int slots = 0;
    for (int gpu = 0; gpu < gpus; gpu++) {
        if (gpu_slots[gpu] < 0 || gpu_slots[gpu] > FM_EPLB_COUNT_MAX - slots)
            return fm_base_error_set(FM_ERR_ARG,
                                     "%s of GPU %d is %d; expected 0 or more, and at most %d in all", what,
                                     gpu, (int)gpu_slots[gpu], FM_EPLB_COUNT_MAX);
        slots += gpu_slots[gpu];
    }
    *out_slots = slots;
    return FM_OK;
}

fm_status fm_eplb_check_placement(const fm_eplb_shape *shape, const fm_eplb_placement *placement)
{
    FM_TRY(check_count("slots of the current placement", placement->slots));
    if (placement->gpu_slots) {
        int slots = 0;
        FM_TRY(sum_slots(placement->gpu_slots, shape->gpus, "current slots", &slots));
        if (slots != placement->slots)
            return fm_base_error_set(FM_ERR_ARG,
                                     "the slots of the current placement's GPUs sum to %d; expected %d",
                                     slots, placement->slots);
    }
    for (int layer = 0; layer < shape->layers; layer++)
        for (int slot = 0; slot < placement->slots; slot++) {
            int expert = placement->phy2log[(size_t)layer * (size_t)placement->slots + (size_t)slot];
            if (expert < -1 || expert >= shape->experts)
                return fm_base_error_set(
                    FM_ERR_ARG,
                    "layer %d, slot %d of the current placement holds expert %d; expected 0 to %d, "
                    "or -1 for an empty slot",
                    layer, slot, expert, shape->experts - 1);
        }
    return FM_OK;
}

// What only a greedy packing with equal packs needs.
static fm_status check_reference(const fm_eplb_shape *shape, const fm_eplb_options *options)
{
    if (options->gpu_slots || options->gpu_speed)
        return fm_base_error_set(FM_ERR_ARG, "the reference policy knows GPUs of equal slots and speed only; "
                                             "expected the policy best");
    if (options->moves != FM_EPLB_MOVES_ANY)
        return fm_base_error_set(FM_ERR_ARG,
                                 "the reference policy cannot limit moves; expected the policy best");
    return check_divides("gpus", shape->gpus, "replicas", shape->replicas);
}

static fm_status check_hierarchy(const fm_eplb_shape *shape, const fm_eplb_options *options)
{
    FM_TRY(check_divides("groups", shape->groups, "experts", shape->experts));
    FM_TRY(check_divides("nodes", shape->nodes, "gpus", shape->gpus));
    if (!options->gpu_slots)
        FM_TRY(check_divides("nodes", shape->nodes, "replicas", shape->replicas));
    return FM_OK;
}

fm_status fm_eplb_check_speeds(int gpus, const double *speed)
{
    for (int gpu = 0; speed && gpu < gpus; gpu++)
        if (!(speed[gpu] >= FM_EPLB_SPEED_MIN && speed[gpu] <= FM_EPLB_SPEED_MAX))
            return fm_base_error_set(FM_ERR_ARG,
                                     "speed of GPU %d is %g; expected %g to %g, relative to others", gpu,
                                     speed[gpu], FM_EPLB_SPEED_MIN, FM_EPLB_SPEED_MAX);
    return FM_OK;
}

static fm_status check_moves(const fm_eplb_options *options)
{
    if (options->moves == FM_EPLB_MOVES_ANY)
        return FM_OK;
    if (options->moves != FM_EPLB_MOVES_BOUNDED && options->moves != FM_EPLB_MOVES_FEWEST)
        return fm_base_error_set(FM_ERR_ARG, "moves is %d; expected an fm_eplb_moves", (int)options->moves);
    if (!options->current)
        return fm_base_error_set(FM_ERR_ARG, "a limit on moves needs the current placement");
    if (options->moves == FM_EPLB_MOVES_BOUNDED && options->moves_per_gpu < 0)
        return fm_base_error_set(FM_ERR_ARG, "moves per GPU is %d; expected 0 or more",
                                 options->moves_per_gpu);
    return FM_OK;
}

// The slots of each node must hold its experts, and their share of the replicas.
static fm_status check_room(const fm_eplb_shape *shape, const fm_eplb_options *options, int nodes, int slots)
{
    if (slots < shape->replicas)
        return fm_base_error_set(FM_ERR_ARG,
                                 "the GPUs have %d slots; expected at least %d, one for each replica", slots,
                                 shape->replicas);
    if (nodes == 1 || !options->gpu_slots)
        return FM_OK;
    if (slots != shape->replicas)
        FM_TRY(check_divides("nodes", nodes, "replicas", shape->replicas));
    int least = slots == shape->replicas ? shape->experts / nodes : shape->replicas / nodes;
    for (int node = 0, gpu = 0; node < nodes; node++) {
        int here = 0;
        for (int last = gpu + shape->gpus / nodes; gpu < last; gpu++)
            here += options->gpu_slots[gpu];
        if (here < least)
            return fm_base_error_set(FM_ERR_ARG, "node %d has %d slots; expected at least %d", node, here,
                                     least);
    }
    return FM_OK;
}

fm_status fm_eplb_check_request(const fm_eplb_shape *shape, const fm_eplb_options *options, int *out_slots)
{
    FM_TRY(fm_eplb_check_shape(shape));
    int hierarchical = shape->groups % shape->nodes == 0;
    int slots = shape->replicas;
    if (options->policy == FM_EPLB_REFERENCE)
        FM_TRY(check_reference(shape, options));
    else if (options->policy != FM_EPLB_BEST)
        return fm_base_error_set(FM_ERR_ARG, "policy is %d; expected an fm_eplb_policy",
                                 (int)options->policy);
    if (!(options->budget_ms >= 0))
        return fm_base_error_set(FM_ERR_ARG, "budget is %g ms; expected 0 (none) or more",
                                 options->budget_ms);
    if (hierarchical)
        FM_TRY(check_hierarchy(shape, options));
    if (options->gpu_slots)
        FM_TRY(sum_slots(options->gpu_slots, shape->gpus, "slots", &slots));
    FM_TRY(fm_eplb_check_speeds(shape->gpus, options->gpu_speed));
    FM_TRY(check_room(shape, options, hierarchical ? shape->nodes : 1, slots));
    if (options->current)
        FM_TRY(fm_eplb_check_placement(shape, options->current));
    FM_TRY(check_moves(options));
    if ((int64_t)shape->gpus * (shape->experts + 1) > FM_EPLB_PAIRS_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "gpus * experts is %lld; expected at most %lld",
                                 (long long)shape->gpus * shape->experts, (long long)FM_EPLB_PAIRS_MAX);
    *out_slots = slots;
    return FM_OK;
}
