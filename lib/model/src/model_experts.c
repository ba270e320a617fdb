/*
 * Workers share memory, so that a plan is carried out by changing a table: a copy of an expert is another worker that
 * computes rows of it. What is moved is which caches its weights lie in.
 *
 * Work is counted in units of a few rows: so few that reading the expert's weights takes longer than multiplying with them,
 * so one row costs as much as all of a unit, and to split one among workers would only read the weights twice.
 */
#include "model_experts.h"

#include "fathom/eplb.h"
#include "model_low.h"

#include <math.h>
#include <stdio.h>

enum { UNIT = 8 };

/** How much the newest interval counts for in a plan. */
static const double newest = 0.5;

/* For a layer: with a few hundred experts the search finds what it finds in less, and it is the length of one short step. */
static const double plan_ms = 5;

struct worker {
    struct fm_model_compute compute; // of one thread
    struct fm_model_scratch scratch;
    fm_status status; // of the call
    char message[256];
};

/** Rows of one expert, by one worker. */
struct job {
    int expert;
    int64_t first, rows;
};

struct place {
    fm_eplb_router *router;
    int32_t *phy2log; // [slots]: the expert of each, worker after worker
};

struct fm_model_experts {
    int layers, experts, slots, workers;
    struct worker *worker;
    struct place *place; // [layers]; none in dense ones
    int32_t *slot_begin; // [workers + 1]
    float *counted;      // [layers, experts]: units since the interval began
    float *weights;      // [layers, experts]: what plans are made from
    int64_t *units;      // [experts]: of the call
    int64_t *split;      // [slots]: theirs
    int64_t *loads;      // [workers]
    double *planned;     // [workers]
    struct job *jobs;    // [slots]
    fm_eplb_history *history;
    int turns, next_layer; // of the interval; the layer to plan, `layers`: none
    fm_model_expert_stats stats;
};

static void close_worker(struct worker *worker)
{
    fm_model_compute_close(&worker->compute);
    fm_model_scratch_free(&worker->scratch);
}

void fm_model_experts_close(struct fm_model_experts *experts)
{
    if (!experts)
        return;
    for (int i = 0; experts->worker && i < experts->workers; i++)
        close_worker(&experts->worker[i]);
    for (int i = 0; experts->place && i < experts->layers; i++) {
        fm_eplb_router_free(experts->place[i].router);
        fm_base_mem_free(experts->place[i].phy2log);
    }
    fm_eplb_history_free(experts->history);
    fm_base_mem_free(experts->worker);
    fm_base_mem_free(experts->place);
    fm_base_mem_free(experts->slot_begin);
    fm_base_mem_free(experts->counted);
    fm_base_mem_free(experts->weights);
    fm_base_mem_free(experts->units);
    fm_base_mem_free(experts->split);
    fm_base_mem_free(experts->loads);
    fm_base_mem_free(experts->planned);
    fm_base_mem_free(experts->jobs);
    fm_base_mem_free(experts);
}

// The plan of a layer becomes its placement; on failure all is as before.
static fm_status take_up(struct fm_model_experts *experts, struct place *place, const fm_eplb_plan *plan)
{
    fm_eplb_router *router;
    int32_t *phy2log = fm_base_mem_zalloc((size_t)experts->slots, sizeof *phy2log);
    if (!phy2log)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to place %d experts", experts->experts);
    fm_status status = fm_eplb_router_new(experts->experts, experts->workers, plan->phy2log, plan->slot_begin,
                                          NULL, &router);
    if (status < 0) {
        fm_base_mem_free(phy2log);
        return status;
    }
    memcpy(phy2log, plan->phy2log, (size_t)experts->slots * sizeof *phy2log);
    memcpy(experts->slot_begin, plan->slot_begin, ((size_t)experts->workers + 1) * sizeof *plan->slot_begin);
    fm_eplb_router_free(place->router);
    fm_base_mem_free(place->phy2log);
    *place = (struct place){router, phy2log};
    return FM_OK;
}

// Plans a layer anew; what stands stays where the plan is no better.
static fm_status plan_layer(struct fm_model_experts *experts, int layer, const float *weights)
{
    struct place *place = &experts->place[layer];
    fm_eplb_shape shape = {1, experts->experts, experts->slots, 1, 1, experts->workers};
    fm_eplb_options options = FM_EPLB_OPTIONS_INIT;
    fm_eplb_placement current = {place->phy2log, experts->slots, NULL};
    fm_eplb_plan *plan;
    double most = HUGE_VAL;
    options.budget_ms = plan_ms;
    if (place->router) {
        options.current = &current;
        FM_TRY(fm_eplb_gpu_loads(experts->experts, experts->workers, weights, place->phy2log,
                                 experts->slot_begin, experts->planned));
        most = 0;
        for (int i = 0; i < experts->workers; i++)
            most = fmax(most, experts->planned[i]);
    }
    FM_TRY(fm_eplb_rebalance(&shape, weights, &options, &plan));
    fm_status status = FM_OK;
    if (plan->certificate[0].max_load < most) {
        status = take_up(experts, place, plan);
        if (status == FM_OK && options.current) {
            experts->stats.plans++;
            experts->stats.moves += plan->certificate[0].moves;
        }
    }
    fm_eplb_plan_free(plan);
    return status;
}

static fm_status open_worker(const fm_model *model, struct worker *worker)
{
    return fm_model_compute_open(1, model->compute.low ? model->compute.low->dtype : FM_DTYPE_F32,
                                 &worker->compute);
}

static fm_status open_experts(const fm_model *model, struct fm_model_experts *x)
{
    const fm_model_config *c = &model->config;
    size_t cells = (size_t)x->layers * (size_t)x->experts, workers = (size_t)x->workers;
    x->worker = fm_base_mem_zalloc(workers, sizeof *x->worker);
    x->place = fm_base_mem_zalloc((size_t)x->layers, sizeof *x->place);
    x->slot_begin = fm_base_mem_zalloc(workers + 1, sizeof *x->slot_begin);
    x->counted = fm_base_mem_zalloc(cells, sizeof *x->counted);
    x->weights = fm_base_mem_zalloc(cells, sizeof *x->weights);
    x->units = fm_base_mem_zalloc((size_t)x->experts, sizeof *x->units);
    x->split = fm_base_mem_zalloc((size_t)x->slots, sizeof *x->split);
    x->loads = fm_base_mem_zalloc(workers, sizeof *x->loads);
    x->planned = fm_base_mem_zalloc(workers, sizeof *x->planned);
    x->jobs = fm_base_mem_zalloc((size_t)x->slots, sizeof *x->jobs);
    if (!x->worker || !x->place || !x->slot_begin || !x->counted || !x->weights || !x->units || !x->split ||
        !x->loads || !x->planned || !x->jobs)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to place %d experts", x->experts);
    FM_TRY(fm_eplb_history_new(x->layers, x->experts, 1, newest, &x->history));
    for (int i = 0; i < x->workers; i++)
        FM_TRY(open_worker(model, &x->worker[i]));
    for (int i = c->dense_layers; i < x->layers; i++)
        FM_TRY(plan_layer(x, i, x->weights)); // without loads: evenly
    return FM_OK;
}

fm_status fm_model_experts_place(fm_model *model, int workers, int replicas)
{
    const fm_model_config *c = &model->config;
    if (c->experts == 0)
        return fm_base_error_set(FM_ERR_ARG, "the model has no experts to place");
    if (workers == 0 && replicas == 0) {
        fm_model_experts_close(model->placed);
        model->placed = NULL;
        return FM_OK;
    }
    if (workers < 1 || workers > model->compute.threads || workers > FM_MODEL_WORKERS_MAX)
        return fm_base_error_set(
            FM_ERR_ARG, "%d workers for experts; expected 1 to %d, one for each thread", workers,
            model->compute.threads < FM_MODEL_WORKERS_MAX ? model->compute.threads : FM_MODEL_WORKERS_MAX);
    if (replicas < 0 || replicas > c->experts * (workers - 1))
        return fm_base_error_set(FM_ERR_ARG, "%d replicas of %d experts; expected 0 to %d for %d workers",
                                 replicas, c->experts, c->experts * (workers - 1), workers);
    struct fm_model_experts *experts = fm_base_mem_zalloc(1, sizeof *experts);
    if (!experts)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to place %d experts", c->experts);
    *experts = (struct fm_model_experts){.layers = c->layers,
                                         .experts = c->experts,
                                         .slots = c->experts + replicas,
                                         .workers = workers,
                                         .next_layer = c->layers,
                                         .stats = {.workers = workers, .replicas = replicas}};
    fm_status status = open_experts(model, experts);
    if (status < 0) {
        fm_model_experts_close(experts);
        return status;
    }
    fm_model_experts_close(model->placed);
    model->placed = experts;
    return FM_OK;
}

static fm_status check_placed(const fm_model *model)
{
    if (model->placed)
        return FM_OK;
    return fm_base_error_set(FM_ERR_STATE,
                             "the model's experts are not placed; fm_model_experts_place() does it");
}

fm_status fm_model_experts_plan(fm_model *model, const float *loads)
{
    FM_TRY(check_placed(model));
    struct fm_model_experts *experts = model->placed;
    for (int i = model->config.dense_layers; i < experts->layers; i++)
        FM_TRY(plan_layer(experts, i, (loads ? loads : experts->counted) + (int64_t)i * experts->experts));
    if (!loads)
        memset(experts->counted, 0,
               (size_t)experts->layers * (size_t)experts->experts * sizeof *experts->counted);
    return FM_OK;
}

fm_status fm_model_experts_turn(fm_model *model, int interval)
{
    FM_TRY(check_placed(model));
    struct fm_model_experts *experts = model->placed;
    if (interval < 1)
        return fm_base_error_set(FM_ERR_ARG, "plans every %d turns; expected at least 1", interval);
    if (++experts->turns >= interval && experts->next_layer == experts->layers) {
        FM_TRY(fm_eplb_history_push(experts->history, experts->counted));
        FM_TRY(fm_eplb_history_average(experts->history, experts->weights));
        memset(experts->counted, 0,
               (size_t)experts->layers * (size_t)experts->experts * sizeof *experts->counted);
        experts->turns = 0;
        experts->next_layer = model->config.dense_layers;
    }
    if (experts->next_layer == experts->layers)
        return FM_OK;
    int layer = experts->next_layer++;
    return plan_layer(experts, layer, experts->weights + (int64_t)layer * experts->experts);
}

void fm_model_experts_stats(const fm_model *model, fm_model_expert_stats *out_stats)
{
    *out_stats = model->placed ? model->placed->stats : (fm_model_expert_stats){0};
}

// Whose rows are whose, in `jobs`, and what that comes to.
static fm_status share_out(struct fm_model_experts *x, const struct fm_model_experts_call *call)
{
    const int64_t *offsets = call->route->offsets;
    struct place *place = &x->place[call->index];
    int64_t busiest = 0, in_order = 0, total = 0;
    memset(x->loads, 0, (size_t)x->workers * sizeof *x->loads);
    for (int e = 0; e < x->experts; e++) {
        x->units[e] = (offsets[e + 1] - offsets[e] + UNIT - 1) / UNIT;
        x->counted[(int64_t)call->index * x->experts + e] += (float)x->units[e];
        x->loads[(int64_t)e * x->workers / x->experts] += x->units[e];
        total += x->units[e];
    }
    for (int i = 0; i < x->workers; i++)
        in_order = x->loads[i] > in_order ? x->loads[i] : in_order;
    FM_TRY(fm_eplb_router_split(place->router, x->units, x->split, NULL));
    memset(x->units, 0, (size_t)x->experts * sizeof *x->units); // from here on: rows that are given out
    for (int i = 0; i < x->workers; i++) {
        int64_t load = 0;
        for (int s = x->slot_begin[i]; s < x->slot_begin[i + 1]; s++) {
            int e = place->phy2log[s];
            int64_t first = offsets[e] + x->units[e], rows = x->split[s] * UNIT;
            rows = rows < offsets[e + 1] - first ? rows : offsets[e + 1] - first;
            x->jobs[s] = (struct job){e, first, rows};
            x->units[e] += rows;
            load += x->split[s];
        }
        x->stats.worker_load[i] += load;
        busiest = load > busiest ? load : busiest;
    }
    x->stats.load += total;
    x->stats.busiest += busiest;
    x->stats.busiest_in_order += in_order;
    return FM_OK;
}

static fm_status no_memory(int64_t rows)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory for %lld rows of experts", (long long)rows);
}

/** A worker's own rows, side by side. */
struct share {
    int64_t rows;
    int32_t *tokens; // [rows]
    float *hidden, *up;
    struct fm_model_product *list;
};

static fm_status run_share(const fm_model *model, const struct fm_model_experts_call *call, int number)
{
    const fm_model_config *c = &model->config;
    const struct fm_model_experts *x = model->placed;
    struct worker *worker = &x->worker[number];
    const struct job *begin = x->jobs + x->slot_begin[number], *end = x->jobs + x->slot_begin[number + 1];
    struct share share = {0};
    int64_t width = c->expert_intermediate, at = 0;
    int count = 0;
    for (const struct job *job = begin; job < end; job++)
        share.rows += job->rows;
    if (share.rows == 0)
        return FM_OK;
    share.tokens = (int32_t *)fm_model_scratch_take(&worker->scratch, (size_t)share.rows);
    share.hidden = fm_model_scratch_take(&worker->scratch, (size_t)(share.rows * width));
    share.up = fm_model_scratch_take(&worker->scratch, (size_t)(share.rows * width));
    share.list = fm_model_scratch_bytes(&worker->scratch, 2 * (size_t)(end - begin) * sizeof *share.list);
    if (!share.tokens || !share.hidden || !share.up || !share.list)
        return no_memory(share.rows);
    for (const struct job *job = begin; job < end; job++) {
        const struct fm_model_mlp *mlp = &call->layer->experts[job->expert];
        if (job->rows == 0)
            continue;
        memcpy(share.tokens + at, call->tokens + job->first, (size_t)job->rows * sizeof *share.tokens);
        share.list[count++] =
            (struct fm_model_product){0, at, job->rows, &mlp->gate, share.hidden + at * width};
        share.list[count++] = (struct fm_model_product){0, at, job->rows, &mlp->up, share.up + at * width};
        at += job->rows;
    }
    const struct fm_model_source in = {call->normed, call->rows, c->hidden, share.tokens, share.rows};
    FM_TRY(fm_model_products(&worker->compute, &worker->scratch, &in, 1, share.list, count));
    fm_model_swiglu_rows(&worker->compute, share.rows * width, share.hidden, share.up, share.hidden);
    at = count = 0;
    for (const struct job *job = begin; job < end; job++) {
        if (job->rows == 0)
            continue;
        share.list[count++] = (struct fm_model_product){
            0, at, job->rows, &call->layer->experts[job->expert].down, call->out + job->first * c->hidden};
        at += job->rows;
    }
    const struct fm_model_source inner = {.x = share.hidden, .rows = share.rows, .columns = width};
    return fm_model_products(&worker->compute, &worker->scratch, &inner, 1, share.list, count);
}

struct run {
    const fm_model *model;
    const struct fm_model_experts_call *call;
};

static void run_part(void *context, int64_t begin, int64_t end, int thread)
{
    const struct run *run = context;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        struct worker *worker = &run->model->placed->worker[i];
        struct fm_model_mark mark = fm_model_scratch_mark(&worker->scratch);
        worker->status = run_share(run->model, run->call, (int)i);
        fm_status low = fm_model_low_check(worker->compute.low);
        worker->status = worker->status < 0 ? worker->status : low;
        if (worker->status < 0)
            snprintf(worker->message, sizeof worker->message, "%s", fm_base_error_message());
        fm_model_scratch_release(&worker->scratch, mark);
    }
}

fm_status fm_model_experts_run(fm_model *model, const struct fm_model_experts_call *call)
{
    struct fm_model_experts *experts = model->placed;
    struct run run = {model, call};
    FM_TRY(share_out(experts, call));
    fm_model_each(&model->compute, experts->workers, run_part, &run);
    for (int i = 0; i < experts->workers; i++)
        if (experts->worker[i].status < 0)
            return fm_base_error_set(experts->worker[i].status, "%s", experts->worker[i].message);
    return FM_OK;
}
