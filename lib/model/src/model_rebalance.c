/*
 * Rebalancing while training: loads of the steps since the last plan make the next one, which is carried out between two
 * steps. What is summed is part of what training goes on from, so that one that was cut short comes to the same plans, and
 * with them to the same order of sums.
 */
#include "fathom/eplb.h"
#include "fathom/mem.h"
#include "fathom/model_train.h"
#include "model_rank.h"

#include <math.h>

/* A layer whose busiest rank would lose less than this share of the mean keeps its placement: moving costs a part of a step. */
static const double gain_least = 0.02;

/* The steps of an interval that plans are made from, and those that they are judged by: a router that learns, with a bias that
 * evens loads out, makes loads that are gone when a plan for them is carried out. */
enum { EARLIER, LATER, HALVES };

/*  OFFSET  SIZE
 *  0       8     magic
 *  8       4     version
 *  12      4     layers with experts
 *  16      4     experts
 *  20      4     0
 *  24      8     steps summed
 *  32      48    plans, moved, load, busiest, busiest_in_order, steps: the figures
 *  80      8 n   sums, [halves, layers, experts]
 * All numbers are little-endian. */
enum { HEADER = 80, VERSION = 1 };
static const char magic[8] = "FMBALNCE";

struct fm_rebalance {
    int64_t interval;
    int first, layers, predictors, experts,
        ranks;               // first: layer with experts; layers: of them, predictors apart
    int64_t steps;           // summed
    int64_t *sums;           // [HALVES, layers, experts]
    float *weights, *judges; // [layers + predictors, experts]: of the halves
    int32_t *current;        // [layers + predictors, experts]
    double *loads;           // [ranks]
    fm_model_rebalance_figures figures;
};

void fm_model_rebalance_close(fm_rebalance *r)
{
    if (!r)
        return;
    fm_base_mem_free(r->sums);
    fm_base_mem_free(r->weights);
    fm_base_mem_free(r->judges);
    fm_base_mem_free(r->current);
    fm_base_mem_free(r->loads);
    fm_base_mem_free(r);
}

fm_status fm_model_rebalance_open(fm_trainer *trainer, int expert_ranks, int64_t interval,
                                  fm_rebalance **out_rebalance)
{
    const fm_model_config *c = fm_model_config_of(fm_model_trainer_model(trainer));
    if (interval < HALVES)
        return fm_base_error_set(FM_ERR_ARG, "a plan every %lld steps; expected at least 2",
                                 (long long)interval);
    if (c->experts == 0 || !fm_model_trainer_placement(trainer, c->dense_layers) || expert_ranks < 2 ||
        c->experts % expert_ranks)
        return fm_base_error_set(
            FM_ERR_ARG, "%d experts on %d expert ranks; expected at least 2, as the trainer has them",
            c->experts, expert_ranks);
    fm_rebalance *r = fm_base_mem_zalloc(1, sizeof *r);
    if (!r)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to balance experts");
    *r = (fm_rebalance){.interval = interval,
                        .first = c->dense_layers,
                        .layers = c->layers - c->dense_layers,
                        .predictors = c->predict_layers,
                        .experts = c->experts,
                        .ranks = expert_ranks};
    size_t cells = (size_t)(r->layers + r->predictors) * (size_t)r->experts;
    r->sums = fm_base_mem_zalloc(HALVES * cells, sizeof *r->sums);
    r->weights = fm_base_mem_zalloc(cells, sizeof *r->weights);
    r->judges = fm_base_mem_zalloc(cells, sizeof *r->judges);
    r->current = fm_base_mem_zalloc(cells, sizeof *r->current);
    r->loads = fm_base_mem_zalloc((size_t)r->ranks, sizeof *r->loads);
    if (!r->sums || !r->weights || !r->judges || !r->current || !r->loads) {
        fm_model_rebalance_close(r);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to balance %d experts", c->experts);
    }
    *out_rebalance = r;
    return FM_OK;
}

// What the busiest rank gets; `expert_in` NULL: with experts in order.
static int64_t busiest(const fm_rebalance *r, const int64_t *tokens, const int32_t *expert_in)
{
    int local = r->experts / r->ranks;
    int64_t most = 0;
    for (int rank = 0; rank < r->ranks; rank++) {
        int64_t load = 0;
        for (int slot = rank * local; slot < (rank + 1) * local; slot++)
            load += tokens[expert_in ? expert_in[slot] : slot];
        most = load > most ? load : most;
    }
    return most;
}

static void count_step(fm_rebalance *r, const fm_trainer *trainer)
{
    int64_t half = r->steps < r->interval / 2 ? EARLIER : LATER;
    for (int i = 0; i < r->layers; i++) {
        const int64_t *tokens = fm_model_trainer_loads(trainer, r->first + i);
        int64_t *sums = r->sums + (half * r->layers + i) * r->experts;
        for (int e = 0; e < r->experts; e++) {
            sums[e] += tokens[e];
            r->figures.load += tokens[e];
        }
        r->figures.busiest += busiest(r, tokens, fm_model_trainer_placement(trainer, r->first + i));
        r->figures.busiest_in_order += busiest(r, tokens, NULL);
    }
    r->figures.steps++;
    r->steps++;
}

// What the busiest rank gets of the later half.
static fm_status judge(const fm_rebalance *r, int layer, const int32_t *phy2log, const int32_t *slot_begin,
                       double *out_most)
{
    *out_most = 0;
    FM_TRY(fm_eplb_gpu_loads(r->experts, r->ranks, r->judges + (int64_t)layer * r->experts, phy2log,
                             slot_begin, r->loads));
    for (int rank = 0; rank < r->ranks; rank++)
        *out_most = fmax(*out_most, r->loads[rank]);
    return FM_OK;
}

// Layers that would have gained too little keep their rows.
static fm_status keep_rows(fm_rebalance *r, fm_eplb_plan *plan, int *out_changes)
{
    int changes = 0;
    for (int i = 0; i < r->layers + r->predictors; i++) {
        int64_t at = (int64_t)i * r->experts;
        double now, then, mean = 0;
        FM_TRY(judge(r, i, r->current + at, plan->slot_begin, &now));
        FM_TRY(judge(r, i, plan->phy2log + at, plan->slot_begin, &then));
        for (int e = 0; e < r->experts; e++)
            mean += (double)r->judges[at + e] / r->ranks;
        if (i < r->layers && now - then > gain_least * mean)
            changes += plan->certificate[i].moves > 0;
        else
            memcpy(plan->phy2log + at, r->current + at, (size_t)r->experts * sizeof *plan->phy2log);
    }
    *out_changes = changes;
    return FM_OK;
}

static fm_status plan_and_move(fm_rebalance *r, fm_trainer *trainer, int64_t *out_moved)
{
    int layers = r->layers + r->predictors, changes = 0;
    fm_eplb_shape shape = {layers, r->experts, r->experts, 1, 1, r->ranks};
    fm_eplb_placement current = {.phy2log = r->current, .slots = r->experts};
    fm_eplb_options options =
        FM_EPLB_OPTIONS_INIT; // without a budget, so that plans depend on nothing but loads
    fm_eplb_plan *plan;
    options.current = &current;
    for (int i = 0; i < layers; i++)
        for (int e = 0; e < r->experts; e++) {
            int64_t at = (int64_t)i * r->experts + e;
            r->weights[at] = i < r->layers ? (float)r->sums[at] : 1;
            r->judges[at] = i < r->layers ? (float)r->sums[(int64_t)LATER * r->layers * r->experts + at] : 1;
            r->current[at] = fm_model_trainer_placement(trainer, r->first + i)[e];
        }
    FM_TRY(fm_eplb_rebalance(&shape, r->weights, &options, &plan));
    fm_status status = keep_rows(r, plan, &changes);
    if (status == FM_OK && changes > 0)
        status = fm_model_trainer_place(trainer, plan, out_moved);
    fm_eplb_plan_free(plan);
    if (status == FM_OK) {
        r->figures.plans += changes > 0;
        r->figures.moved += *out_moved;
    }
    return status;
}

fm_status fm_model_rebalance_step(fm_rebalance *r, fm_trainer *trainer, int64_t *out_moved)
{
    int64_t moved = 0;
    count_step(r, trainer);
    if (r->steps >= r->interval) {
        FM_TRY(plan_and_move(r, trainer, &moved));
        memset(r->sums, 0, HALVES * (size_t)r->layers * (size_t)r->experts * sizeof *r->sums);
        r->steps = 0;
    }
    if (out_moved)
        *out_moved = moved;
    return FM_OK;
}

fm_model_rebalance_figures fm_model_rebalance_figures_of(const fm_rebalance *r)
{
    return r->figures;
}

static size_t packed_length(const fm_rebalance *r)
{
    return HEADER + HALVES * (size_t)r->layers * (size_t)r->experts * sizeof *r->sums;
}

fm_status fm_model_rebalance_pack(const fm_rebalance *r, void **out_bytes, size_t *out_length)
{
    const uint32_t head[4] = {VERSION, (uint32_t)r->layers, (uint32_t)r->experts, 0};
    size_t length = packed_length(r);
    char *bytes = fm_base_mem_alloc(length);
    if (!bytes)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the loads of %d experts", r->experts);
    memcpy(bytes, magic, sizeof magic);
    memcpy(bytes + 8, head, sizeof head);
    memcpy(bytes + 24, &r->steps, sizeof r->steps);
    memcpy(bytes + 32, &r->figures, sizeof r->figures);
    memcpy(bytes + HEADER, r->sums, length - HEADER);
    *out_bytes = bytes;
    *out_length = length;
    return FM_OK;
}

fm_status fm_model_rebalance_unpack(fm_rebalance *r, const void *bytes, size_t length, const char *name)
{
    const uint32_t head[4] = {VERSION, (uint32_t)r->layers, (uint32_t)r->experts, 0};
    const char *from = bytes;
    if (length != packed_length(r) || memcmp(from, magic, sizeof magic) != 0 ||
        memcmp(from + 8, head, sizeof head) != 0)
        return fm_base_error_set(
            FM_ERR_FORMAT,
            "%s is no record of the loads of %d experts in %d layers: expected %zu bytes of version %d", name,
            r->experts, r->layers, packed_length(r), VERSION);
    int64_t steps;
    memcpy(&steps, from + 24, sizeof steps);
    if (steps < 0 || steps >= r->interval)
        return fm_base_error_set(FM_ERR_FORMAT, "%s has loads of %lld steps; expected fewer than %lld", name,
                                 (long long)steps, (long long)r->interval);
    for (size_t at = HEADER; at < length; at += sizeof *r->sums) {
        int64_t sum;
        memcpy(&sum, from + at, sizeof sum);
        if (sum < 0)
            return fm_base_error_set(FM_ERR_FORMAT, "%s has a load of %lld", name, (long long)sum);
    }
    r->steps = steps;
    memcpy(&r->figures, from + 32, sizeof r->figures);
    memcpy(r->sums, from + HEADER, length - HEADER);
    return FM_OK;
}
