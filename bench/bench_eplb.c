#include "fm_bench.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "fathom/doc.h"
#include "fathom/eplb.h"
#include "fathom/mem.h"
#include "fathom/rng.h"

/*
 * What DeepSeek's eplb.py took for the same shapes: the best of several runs with PyTorch 1.13 on two cores
 * of a Sapphire Rapids machine. Recorded, not measured in this run.
 */
#define ORIGINAL_HIERARCHICAL_S 0.57
#define ORIGINAL_GLOBAL_S       4.8

enum loads { LOADS_ZIPF, LOADS_LOGNORMAL, LOADS_MILD, LOADS_UNIFORM, LOADS_GOLDEN };

struct model {
    const char *name;
    fm_eplb_shape shape;
    enum loads loads;
    fm_eplb_policy policy;
    const char *golden; // file of LOADS_GOLDEN
    double budget_ms;
    double original_s; // 0: not recorded
    int moves_per_gpu; // 0: any number
};

struct state {
    struct model model;
    float *weight;
    fm_eplb_plan *plan;
    fm_eplb_plan *before; // for plans that move little
    fm_eplb_placement current;
    fm_eplb_options options;
};

static void teardown(void *given)
{
    struct state *state = given;
    if (!state)
        return;
    fm_eplb_plan_free(state->plan);
    fm_eplb_plan_free(state->before);
    fm_base_mem_free(state->weight);
    fm_base_mem_free(state);
}

static fm_status read_golden(struct state *state)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s.json", FM_EPLB_GOLDEN_DIR, state->model.golden);
    fm_doc *root;
    FM_TRY(fm_base_doc_load(path, &root));
    const fm_doc *rows = fm_base_doc_get(root, "weight");
    fm_status status =
        fm_base_doc_count(rows) == (size_t)state->model.shape.layers
            ? FM_OK
            : fm_base_error_set(FM_ERR_FORMAT, "%s: %zu layers", path, fm_base_doc_count(rows));
    size_t experts = (size_t)state->model.shape.experts;
    for (size_t i = 0; status == FM_OK && i < (size_t)state->model.shape.layers * experts; i++) {
        double value = 0;
        status = fm_base_doc_real(fm_base_doc_at(fm_base_doc_at(rows, i / experts), i % experts), "a load",
                                  &value);
        state->weight[i] = (float)value;
    }
    fm_base_doc_free(root);
    return status;
}

static void draw_loads(struct state *state, uint64_t seed)
{
    const fm_eplb_shape *shape = &state->model.shape;
    for (int layer = 0; layer < shape->layers; layer++)
        for (int e = 0; e < shape->experts; e++) {
            uint64_t bits = fm_base_rng_at(seed, (uint64_t)layer, (uint64_t)e);
            double x = (double)(bits >> 11) * 0x1p-53;
            if (state->model.loads == LOADS_ZIPF) // a rank for each expert, other ones in each layer
                x = pow(1 + (e * 37 + layer * 101) % shape->experts, -0.8);
            else if (state->model.loads != LOADS_UNIFORM)
                x = exp((state->model.loads == LOADS_MILD ? 0.5 : 1) * fm_base_rng_to_normal(bits));
            state->weight[(size_t)layer * (size_t)shape->experts + (size_t)e] = (float)(1000 * x);
        }
}

// NULL when there is no memory.
static struct state *state_new(const fm_bench_setup *given)
{
    const struct model *model = given->argument;
    struct state *state = fm_base_mem_zalloc(1, sizeof *state);
    if (!state)
        return NULL;
    state->model = *model;
    state->options = (fm_eplb_options)FM_EPLB_OPTIONS_INIT;
    state->options.policy = model->policy;
    state->options.budget_ms = model->budget_ms;
    state->weight =
        fm_base_mem_zalloc((size_t)model->shape.layers * (size_t)model->shape.experts, sizeof(float));
    if (!state->weight) {
        fm_base_mem_free(state);
        return NULL;
    }
    return state;
}

static fm_status no_memory(void)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory for a case");
}

static fm_status setup(const fm_bench_setup *given, void **out_state)
{
    struct state *state = state_new(given);
    if (!state)
        return no_memory();
    fm_status status = FM_OK;
    if (state->model.loads == LOADS_GOLDEN)
        status = read_golden(state);
    else
        draw_loads(state, given->seed);
    if (status == FM_OK)
        *out_state = state;
    else
        teardown(state);
    return status;
}

static fm_status run(void *given, int threads)
{
    (void)threads;
    struct state *state = given;
    fm_eplb_plan_free(state->plan);
    state->plan = NULL;
    return fm_eplb_rebalance(&state->model.shape, state->weight, &state->options, &state->plan);
}

static uint64_t hash(const void *given)
{
    const struct state *state = given;
    const fm_eplb_plan *plan = state->plan;
    return fm_bench_hash(0, plan->phy2log,
                         (size_t)plan->shape.layers * (size_t)plan->slots * sizeof(int32_t));
}

// max/mean - 1, or that of the bound, averaged over layers: 0.03 when the busiest GPU has 3 % more than its
// part.
static double mean_excess(const fm_eplb_plan *plan, int of_bound)
{
    double sum = 0;
    for (int layer = 0; layer < plan->shape.layers; layer++) {
        const fm_eplb_certificate *c = &plan->certificate[layer];
        sum += (of_bound ? c->lower_bound : c->max_load) / c->mean_load;
    }
    return sum / plan->shape.layers - 1;
}

// One copy of each expert, in order.
static double single_excess(const struct state *state)
{
    const fm_eplb_shape *shape = &state->model.shape;
    double sum = 0;
    for (int layer = 0; layer < shape->layers; layer++) {
        const float *weight = state->weight + (size_t)layer * (size_t)shape->experts;
        double total = 0;
        double worst = 0;
        for (int gpu = 0; gpu < shape->gpus; gpu++) {
            double here = 0;
            for (int e = shape->experts * gpu / shape->gpus; e < shape->experts * (gpu + 1) / shape->gpus;
                 e++)
                here += (double)weight[e];
            worst = fmax(worst, here);
            total += here;
        }
        sum += worst / (total / shape->gpus);
    }
    return sum / shape->layers - 1;
}

// How much more than the mean the busiest GPU has: without replication, by the reference, by the search in its
// budget and to its end, and at least by the bound.
static void quality(void *given, fm_bench_metrics *to)
{
    struct state *state = given;
    static const struct {
        const char *metric;
        fm_eplb_policy policy;
        int to_the_end;
    } ways[] = {{"excess.reference", FM_EPLB_REFERENCE, 0},
                {"excess.best", FM_EPLB_BEST, 0},
                {"excess.best_to_the_end", FM_EPLB_BEST, 1}};
    fm_bench_metric_add(to, "excess.none", single_excess(state), "1");
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        fm_eplb_options options = FM_EPLB_OPTIONS_INIT;
        options.policy = ways[i].policy;
        options.budget_ms = ways[i].to_the_end ? 0 : state->model.budget_ms;
        fm_eplb_plan *plan = NULL;
        if (fm_eplb_rebalance(&state->model.shape, state->weight, &options, &plan) < 0)
            return;
        fm_bench_metric_add(to, ways[i].metric, mean_excess(plan, 0), "1");
        if (ways[i].to_the_end) {
            fm_bench_metric_add(to, "excess.bound", mean_excess(plan, 1), "1");
            fm_bench_metric_add(to, "gap", (1 + mean_excess(plan, 0)) / (1 + mean_excess(plan, 1)) - 1, "1");
        }
        fm_eplb_plan_free(plan);
    }
}

static void original(void *given, fm_bench_metrics *to)
{
    const struct state *state = given;
    if (state->model.original_s > 0)
        fm_bench_metric_add(to, "original_recorded", state->model.original_s, "s");
}

static void toy_optimum(void *given, fm_bench_metrics *to)
{
    const struct state *state = given;
    fm_bench_metric_add(to, "max_load", state->plan->certificate[0].max_load, "1");
}

// --- moving little: the plan of other loads is running ---

static fm_status setup_moving(const fm_bench_setup *given, void **out_state)
{
    struct state *state = state_new(given);
    if (!state)
        return no_memory();
    draw_loads(state, given->seed + 1);
    fm_eplb_options before = FM_EPLB_OPTIONS_INIT;
    before.policy = FM_EPLB_REFERENCE;
    fm_status status = fm_eplb_rebalance(&state->model.shape, state->weight, &before, &state->before);
    if (status < 0) {
        teardown(state);
        return status;
    }
    draw_loads(state, given->seed);
    state->current = (fm_eplb_placement){state->before->phy2log, state->before->slots, NULL};
    state->options.current = &state->current;
    if (state->model.moves_per_gpu > 0)
        state->options.moves = FM_EPLB_MOVES_BOUNDED;
    state->options.moves_per_gpu = state->model.moves_per_gpu;
    *out_state = state;
    return FM_OK;
}

// How many copies move with and without relabelling.
static void moves(void *given, fm_bench_metrics *to)
{
    struct state *state = given;
    int64_t relabelled = 0;
    int64_t as_planned = 0;
    for (int layer = 0; layer < state->plan->shape.layers; layer++)
        relabelled += state->plan->certificate[layer].moves;
    fm_eplb_options options = state->options;
    options.current = NULL;
    fm_eplb_plan *plan = NULL;
    if (fm_eplb_rebalance(&state->model.shape, state->weight, &options, &plan) < 0)
        return;
    int room = plan->slots / plan->shape.gpus;
    for (int layer = 0; layer < plan->shape.layers; layer++)
        for (int slot = 0; slot < plan->slots; slot++) {
            const int32_t *old =
                state->before->phy2log + (size_t)layer * (size_t)plan->slots + (size_t)(slot / room * room);
            int held = 0;
            for (int i = 0; i < room; i++)
                held |= old[i] == plan->phy2log[(size_t)layer * (size_t)plan->slots + (size_t)slot];
            as_planned += !held;
        }
    fm_eplb_plan_free(plan);
    fm_bench_metric_add(to, "copies_moved", (double)relabelled, "1");
    fm_bench_metric_add(to, "copies_moved.unrelabelled", (double)as_planned, "1");
}

// What a limit on moves leaves of the balance: as it runs, within the limit in the budget and to the end, and freely.
static void limited_moves(void *given, fm_bench_metrics *to)
{
    struct state *state = given;
    const struct {
        const char *metric;
        fm_eplb_moves moves;
        int moves_per_gpu;
        double budget_ms;
    } ways[] = {{"excess.running", FM_EPLB_MOVES_BOUNDED, 0, 0},
                {"excess.best", FM_EPLB_MOVES_BOUNDED, state->model.moves_per_gpu, state->model.budget_ms},
                {"excess.best_to_the_end", FM_EPLB_MOVES_BOUNDED, state->model.moves_per_gpu, 0},
                {"excess.any_moves", FM_EPLB_MOVES_ANY, 0, 0}};
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        fm_eplb_options options = state->options;
        options.moves = ways[i].moves;
        options.moves_per_gpu = ways[i].moves_per_gpu;
        options.budget_ms = ways[i].budget_ms;
        fm_eplb_plan *plan = NULL;
        if (fm_eplb_rebalance(&state->model.shape, state->weight, &options, &plan) < 0)
            return;
        fm_bench_metric_add(to, ways[i].metric, mean_excess(plan, 0), "1");
        fm_eplb_plan_free(plan);
    }
}

// --- routing a batch ---

struct routing {
    fm_eplb_plan *plan;
    fm_eplb_router *router;
    int64_t *tokens;
    int64_t *split;
    double *load; // of each GPU
    double busiest;
    double even; // the busiest GPU when every expert's tokens are spread evenly over its replicas
};

static void teardown_routing(void *given)
{
    struct routing *routing = given;
    if (!routing)
        return;
    fm_eplb_router_free(routing->router);
    fm_eplb_plan_free(routing->plan);
    fm_base_mem_free(routing->tokens);
    fm_base_mem_free(routing->split);
    fm_base_mem_free(routing->load);
    fm_base_mem_free(routing);
}

// A batch differs from the loads that were planned for by a factor for each expert: log-normal, deviation 0.5.
static fm_status fill_routing(struct routing *routing, const struct state *state, uint64_t seed)
{
    const fm_eplb_shape *shape = &state->model.shape;
    FM_TRY(fm_eplb_rebalance(shape, state->weight, &state->options, &routing->plan));
    routing->tokens = fm_base_mem_zalloc((size_t)shape->experts, sizeof(int64_t));
    routing->split = fm_base_mem_zalloc((size_t)shape->replicas, sizeof(int64_t));
    routing->load = fm_base_mem_zalloc((size_t)shape->gpus, sizeof(double));
    if (!routing->tokens || !routing->split || !routing->load)
        return no_memory();
    for (int e = 0; e < shape->experts; e++) {
        double noise = fm_base_rng_to_normal(fm_base_rng_at(seed, 99, (uint64_t)e));
        routing->tokens[e] = (int64_t)((double)state->weight[e] * exp(0.5 * noise) / 10);
        state->weight[e] = (float)routing->tokens[e];
    }
    FM_TRY(fm_eplb_gpu_loads(shape->experts, shape->gpus, state->weight, routing->plan->phy2log,
                             routing->plan->slot_begin, routing->load));
    for (int gpu = 0; gpu < shape->gpus; gpu++)
        routing->even = fmax(routing->even, routing->load[gpu]);
    return fm_eplb_router_new(shape->experts, shape->gpus, routing->plan->phy2log, routing->plan->slot_begin,
                              NULL, &routing->router);
}

static fm_status setup_routing(const fm_bench_setup *given, void **out_state)
{
    struct state *state = state_new(given);
    struct routing *routing = fm_base_mem_zalloc(1, sizeof *routing);
    if (!state || !routing) {
        teardown(state);
        fm_base_mem_free(routing);
        return no_memory();
    }
    draw_loads(state, given->seed);
    fm_status status = fill_routing(routing, state, given->seed);
    teardown(state);
    if (status == FM_OK)
        *out_state = routing;
    else
        teardown_routing(routing);
    return status;
}

static fm_status run_routing(void *given, int threads)
{
    (void)threads;
    struct routing *routing = given;
    return fm_eplb_router_split(routing->router, routing->tokens, routing->split, &routing->busiest);
}

static uint64_t hash_routing(const void *given)
{
    const struct routing *routing = given;
    return fm_bench_hash(0, &routing->busiest, sizeof routing->busiest);
}

static void busiest(void *given, fm_bench_metrics *to)
{
    const struct routing *routing = given;
    fm_bench_metric_add(to, "busiest_of_even_split", routing->busiest / routing->even, "1");
}

// --- cases ---

#define V3_HIERARCHICAL        \
    {                          \
        58, 256, 288, 8, 4, 32 \
    }
#define V3_GLOBAL               \
    {                           \
        58, 256, 288, 1, 1, 144 \
    }

static const struct model reference_models[] = {
    {"reference.58x256.288.gpus32.nodes4", V3_HIERARCHICAL, LOADS_LOGNORMAL, FM_EPLB_REFERENCE, NULL, 0,
     ORIGINAL_HIERARCHICAL_S, 0},
    {"reference.58x256.288.gpus144", V3_GLOBAL, LOADS_LOGNORMAL, FM_EPLB_REFERENCE, NULL, 0,
     ORIGINAL_GLOBAL_S, 0},
};
static const double reference_goals_s[] = {1e-3, 5e-3};

static const struct model best_models[] = {
    {"best.58x256.288.gpus32.nodes4", V3_HIERARCHICAL, LOADS_LOGNORMAL, FM_EPLB_BEST, NULL, 50,
     ORIGINAL_HIERARCHICAL_S, 0},
    {"best.58x256.288.gpus144", V3_GLOBAL, LOADS_LOGNORMAL, FM_EPLB_BEST, NULL, 50, ORIGINAL_GLOBAL_S, 0},
};

static const struct model toy = {
    "toy.8.16.gpus8", {1, 8, 16, 1, 1, 8}, LOADS_UNIFORM, FM_EPLB_BEST, NULL, 0, 0, 0};

static const struct model moving_models[] = {
    {"relabel.58x256.288.gpus32.nodes4", V3_HIERARCHICAL, LOADS_LOGNORMAL, FM_EPLB_REFERENCE, NULL, 0, 0, 0},
    {"relabel.58x256.288.gpus144", V3_GLOBAL, LOADS_LOGNORMAL, FM_EPLB_REFERENCE, NULL, 0, 0, 0},
};

// Two of nine copies, and one of two, may change.
static const struct model limited_models[] = {
    {"moves2.58x256.288.gpus32", {58, 256, 288, 1, 1, 32}, LOADS_LOGNORMAL, FM_EPLB_BEST, NULL, 50, 0, 2},
    {"moves1.58x256.288.gpus144", V3_GLOBAL, LOADS_LOGNORMAL, FM_EPLB_BEST, NULL, 50, 0, 1},
};

static const struct model routing_models[] = {
    {"route.256.288.gpus32", {1, 256, 288, 1, 1, 32}, LOADS_LOGNORMAL, FM_EPLB_REFERENCE, NULL, 0, 0, 0},
    {"route.256.288.gpus144", {1, 256, 288, 1, 1, 144}, LOADS_LOGNORMAL, FM_EPLB_REFERENCE, NULL, 0, 0, 0},
};

// Each layer has its part of the 50 ms that the 58 of the whole model get.
#define BUDGET(layers) (50.0 * (layers) / 58)

enum { LAYERS = 16, SHAPES = 5, KINDS = 4 };

static const struct {
    const char *name;
    fm_eplb_shape shape;
} quality_shapes[SHAPES] = {
    {"gpus32.nodes4", {LAYERS, 256, 288, 8, 4, 32}}, {"gpus32", {LAYERS, 256, 288, 1, 1, 32}},
    {"gpus64.nodes8", {LAYERS, 256, 320, 8, 8, 64}}, {"gpus96", {LAYERS, 256, 288, 1, 1, 96}},
    {"gpus144", {LAYERS, 256, 288, 1, 1, 144}},
};
static const char *const kind_names[KINDS] = {"zipf0.8", "lognormal1", "lognormal0.5", "uniform"};

static const struct model golden_models[] = {
    {"quality.golden00", {2, 12, 16, 4, 2, 8}, LOADS_GOLDEN, FM_EPLB_BEST, "case00", BUDGET(2), 0, 0},
    {"quality.golden01", {8, 256, 288, 8, 4, 32}, LOADS_GOLDEN, FM_EPLB_BEST, "case01", BUDGET(8), 0, 0},
    {"quality.golden02", {8, 256, 288, 8, 18, 144}, LOADS_GOLDEN, FM_EPLB_BEST, "case02", BUDGET(8), 0, 0},
    {"quality.golden03", {3, 64, 64, 8, 2, 8}, LOADS_GOLDEN, FM_EPLB_BEST, "case03", BUDGET(3), 0, 0},
    {"quality.golden04", {4, 64, 96, 1, 1, 16}, LOADS_GOLDEN, FM_EPLB_BEST, "case04", BUDGET(4), 0, 0},
    {"quality.golden05", {1, 8, 8, 1, 1, 8}, LOADS_GOLDEN, FM_EPLB_BEST, "case05", BUDGET(1), 0, 0},
    {"quality.golden06", {5, 160, 200, 8, 5, 40}, LOADS_GOLDEN, FM_EPLB_BEST, "case06", BUDGET(5), 0, 0},
    {"quality.golden07", {8, 256, 320, 8, 40, 320}, LOADS_GOLDEN, FM_EPLB_BEST, "case07", BUDGET(8), 0, 0},
    {"quality.golden08", {2, 256, 256, 8, 8, 64}, LOADS_GOLDEN, FM_EPLB_BEST, "case08", BUDGET(2), 0, 0},
    {"quality.golden09", {7, 128, 160, 4, 2, 16}, LOADS_GOLDEN, FM_EPLB_BEST, "case09", BUDGET(7), 0, 0},
};

static fm_status setup_toy(const fm_bench_setup *given, void **out_state)
{
    static const float weight[] = {600, 560, 120, 120, 20, 10, 10, 10};
    FM_TRY(setup(given, out_state));
    memcpy(((struct state *)*out_state)->weight, weight, sizeof weight);
    return FM_OK;
}

static fm_status add_speed(fm_bench *bench)
{
    for (size_t i = 0; i < sizeof reference_models / sizeof reference_models[0]; i++)
        FM_TRY(
            fm_bench_add(bench, &(fm_bench_case){.name = reference_models[i].name,
                                                 .argument = &reference_models[i],
                                                 .mode = FM_BENCH_IN_SMOKE,
                                                 .threads = 1,
                                                 .setup = setup,
                                                 .run = run,
                                                 .hash = hash,
                                                 .metrics = original,
                                                 .teardown = teardown,
                                                 .goals = {{FM_BENCH_TIME, .must = reference_goals_s[i]}}}));
    // The budget is wall time; a fifth more is for what else runs on the machine.
    for (size_t i = 0; i < sizeof best_models / sizeof best_models[0]; i++)
        FM_TRY(
            fm_bench_add(bench, &(fm_bench_case){.name = best_models[i].name,
                                                 .argument = &best_models[i],
                                                 .clock = FM_BENCH_WALL,
                                                 .threads = 1,
                                                 .setup = setup,
                                                 .run = run,
                                                 .metrics = original,
                                                 .teardown = teardown,
                                                 .goals = {{FM_BENCH_TIME, .must = 60e-3, .hope = 51e-3}}}));
    return fm_bench_add(
        bench, &(fm_bench_case){.name = toy.name,
                                .argument = &toy,
                                .mode = FM_BENCH_IN_SMOKE,
                                .threads = 1,
                                .setup = setup_toy,
                                .run = run,
                                .hash = hash,
                                .metrics = toy_optimum,
                                .teardown = teardown,
                                .goals = {{FM_BENCH_OWN_AT_MOST, .name = "max_load", .must = 196.667}}});
}

static fm_status add_quality_case(fm_bench *bench, const struct model *model)
{
    return fm_bench_add(bench, &(fm_bench_case){.name = model->name,
                                                .argument = model,
                                                .clock = FM_BENCH_WALL,
                                                .threads = 1,
                                                .setup = setup,
                                                .run = run,
                                                .metrics = quality,
                                                .teardown = teardown,
                                                .goals = {{FM_BENCH_OWN_AT_MOST, .name = "gap", .must = 0.02,
                                                           .hope = 0.01}}});
}

static fm_status add_quality(fm_bench *bench)
{
    static struct model models[SHAPES * KINDS]; // lent to the cases until the program ends
    static char names[SHAPES * KINDS][48];
    for (int i = 0; i < SHAPES * KINDS; i++) {
        int shape = i % SHAPES;
        int kind = i / SHAPES;
        snprintf(names[i], sizeof names[i], "quality.%s.%s", quality_shapes[shape].name, kind_names[kind]);
        models[i] = (struct model){
            names[i], quality_shapes[shape].shape, (enum loads)kind, FM_EPLB_BEST, NULL, BUDGET(LAYERS), 0,
            0};
        FM_TRY(add_quality_case(bench, &models[i]));
    }
    for (size_t i = 0; i < sizeof golden_models / sizeof golden_models[0]; i++)
        FM_TRY(add_quality_case(bench, &golden_models[i]));
    return FM_OK;
}

static fm_status cases(fm_bench *bench)
{
    FM_TRY(add_speed(bench));
    for (size_t i = 0; i < sizeof moving_models / sizeof moving_models[0]; i++)
        FM_TRY(fm_bench_add(bench, &(fm_bench_case){.name = moving_models[i].name,
                                                    .argument = &moving_models[i],
                                                    .threads = 1,
                                                    .setup = setup_moving,
                                                    .run = run,
                                                    .hash = hash,
                                                    .metrics = moves,
                                                    .teardown = teardown}));
    for (size_t i = 0; i < sizeof limited_models / sizeof limited_models[0]; i++)
        FM_TRY(
            fm_bench_add(bench, &(fm_bench_case){.name = limited_models[i].name,
                                                 .argument = &limited_models[i],
                                                 .clock = FM_BENCH_WALL,
                                                 .threads = 1,
                                                 .setup = setup_moving,
                                                 .run = run,
                                                 .metrics = limited_moves,
                                                 .teardown = teardown,
                                                 .goals = {{FM_BENCH_TIME, .must = 60e-3, .hope = 51e-3}}}));
    // LPLB, which solves the same problem on a GPU to within its tolerance, reports about 100 us.
    for (size_t i = 0; i < sizeof routing_models / sizeof routing_models[0]; i++)
        FM_TRY(
            fm_bench_add(bench, &(fm_bench_case){.name = routing_models[i].name,
                                                 .argument = &routing_models[i],
                                                 .mode = FM_BENCH_IN_SMOKE,
                                                 .threads = 1,
                                                 .setup = setup_routing,
                                                 .run = run_routing,
                                                 .hash = hash_routing,
                                                 .metrics = busiest,
                                                 .teardown = teardown_routing,
                                                 .goals = {{FM_BENCH_TIME, .must = 100e-6, .hope = 20e-6}}}));
    return add_quality(bench);
}

int main(int argc, char **argv)
{
    static const fm_bench_program program = {
        "eplb", "Measures lib/eplb: time of planning and routing, balance reached and proven, copies moved",
        cases};
    return fm_bench_main(&program, argc, argv);
}
