// Expert placement for the published V3 shape under skewed loads: what one copy of each expert, the original algorithm and
// ours make of it. Loads measured in training take the generated ones' place when a run has them.
#include <math.h>
#include <stddef.h>
#include <stdio.h>

#include "fathom/clock.h"
#include "fathom/eplb.h"
#include "fathom/file.h"
#include "fathom/mem.h"
#include "fathom/rng.h"
#include "stage.h"

struct placement_options {
    int64_t layers, experts, replicas, groups, nodes, gpus, seed;
    double skew, budget_ms;
};

#define FIELD(name) offsetof(struct placement_options, name)
static const fm_option placement_schema[] = {
    {"layers", FM_OPTION_INT, FIELD(layers), .value = "58", .min = 1, .max = 4096, .help = "MoE layers"},
    {"experts", FM_OPTION_INT, FIELD(experts), .value = "256", .min = 1, .max = 65536,
     .help = "experts of a layer"},
    {"replicas", FM_OPTION_INT, FIELD(replicas), .value = "288", .min = 1, .max = 65536,
     .help = "expert copies of a layer"},
    {"groups", FM_OPTION_INT, FIELD(groups), .value = "8", .min = 1, .max = 65536,
     .help = "expert groups of the gate"},
    {"nodes", FM_OPTION_INT, FIELD(nodes), .value = "4", .min = 1, .max = 65536, .help = "machines"},
    {"gpus", FM_OPTION_INT, FIELD(gpus), .value = "32", .min = 1, .max = 65536, .help = "GPUs"},
    {"seed", FM_OPTION_INT, FIELD(seed), .value = "1", .min = 0, .max = 1e15,
     .help = "of the generated loads"},
    {"skew", FM_OPTION_REAL, FIELD(skew), .value = "1", .min = 0, .max = 4,
     .help = "standard deviation of the loads' logarithm"},
    {"budget", FM_OPTION_REAL, FIELD(budget_ms), .value = "50", .unit = "ms", .min = 0, .max = 1e6,
     .help = "time for the search over the whole model"},
    {0},
};

// The worst layer's max/mean of a plan, and of its proven bound.
static void worst_ratio(const fm_eplb_plan *plan, double *out_max, double *out_bound)
{
    *out_max = *out_bound = 1;
    for (int layer = 0; layer < plan->shape.layers; layer++) {
        const fm_eplb_certificate *certificate = &plan->certificate[layer];
        if (certificate->mean_load <= 0)
            continue;
        *out_max = fmax(*out_max, certificate->max_load / certificate->mean_load);
        *out_bound = fmax(*out_bound, certificate->lower_bound / certificate->mean_load);
    }
}

static fm_status plan_with(struct fm_stage_run *run, const char *label, const fm_eplb_shape *shape,
                           const float *weight, const fm_eplb_options *options)
{
    fm_eplb_plan *plan;
    double max, bound;
    uint64_t begin = fm_base_clock_ns();
    FM_TRY(fm_eplb_rebalance(shape, weight, options, &plan));
    double ms = (double)(fm_base_clock_ns() - begin) * 1e-6;
    worst_ratio(plan, &max, &bound);
    fm_eplb_plan_free(plan);
    char text[96];
    snprintf(text, sizeof text, "max/mean load of the worst layer, %s", label);
    fm_app_stage_number(run, text, max, NULL);
    snprintf(text, sizeof text, "proven lower bound of it, %s", label);
    fm_app_stage_number(run, text, bound, NULL);
    snprintf(text, sizeof text, "time to plan, %s", label);
    fm_app_stage_number(run, text, ms, "ms");
    return FM_OK;
}

static fm_status run_placement(struct fm_stage_run *run, const void *given)
{
    const struct placement_options *options = given;
    fm_eplb_shape shape = {(int)options->layers, (int)options->experts, (int)options->replicas,
                           (int)options->groups, (int)options->nodes,   (int)options->gpus};
    size_t count = (size_t)shape.layers * (size_t)shape.experts;
    float *weight = fm_base_mem_zalloc(count, sizeof *weight);
    if (!weight)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu loads", count);
    for (size_t i = 0; i < count; i++)
        weight[i] =
            (float)exp(options->skew * fm_base_rng_to_normal(fm_base_rng_at((uint64_t)options->seed, 0, i)));

    fm_eplb_shape single = shape; // what there is without replication
    single.replicas = shape.experts;
    fm_eplb_options reference = FM_EPLB_OPTIONS_INIT;
    reference.policy = FM_EPLB_REFERENCE;
    fm_eplb_options best = FM_EPLB_OPTIONS_INIT;
    best.budget_ms = options->budget_ms;
    fm_status status = FM_OK;
    if (single.replicas % single.gpus == 0)
        status = plan_with(run, "one copy each", &single, weight, &reference);
    if (status == FM_OK)
        status = plan_with(run, "reference", &shape, weight, &reference);
    if (status == FM_OK)
        status = plan_with(run, "best", &shape, weight, &best);
    fm_base_mem_free(weight);
    return status;
}

const struct fm_stage fm_stage_placement = {
    .name = "placement",
    .summary = "expert placement under skewed loads: original algorithm, ours, and the proven bound",
    .schema = placement_schema,
    .options_size = sizeof(struct placement_options),
    .run = run_placement,
};
