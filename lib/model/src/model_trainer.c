#include "model_low.h"
#include "model_front.h"

#include <math.h>
#include <stdio.h>

#include "fathom/cpu.h"
#include "fathom/rng.h"

enum { RANGE = 1 << 14, INITIAL_STREAM = 1 << 20 };
// Tokens of a micro-batch where none is asked for: enough rows to fill the products' tiles.
enum { MICRO_TOKENS = 512 };

static int finite_at_least(double value, double low)
{
    return value >= low && value <= 1e300;
}

static fm_status check_training(const fm_model_training *t)
{
    if (t->size != sizeof *t)
        return fm_base_error_set(FM_ERR_ARG, "training.size is %zu; expected %zu", t->size, sizeof *t);
    if (t->threads < 0 || t->threads > 1024)
        return fm_base_error_set(FM_ERR_ARG, "threads is %d; expected 0 to 1024", t->threads);
    if (t->steps < 1 || t->warmup_steps < 0 || t->warmup_steps > t->steps)
        return fm_base_error_set(FM_ERR_ARG,
                                 "%lld steps, %lld of them to warm up; expected at least one, and no more",
                                 (long long)t->steps, (long long)t->warmup_steps);
    if (!finite_at_least(t->rate, 0) || !finite_at_least(t->rate_end, 0) || !finite_at_least(t->decay, 0) ||
        !finite_at_least(t->clip, 0) || !finite_at_least(t->balance, 0) ||
        !finite_at_least(t->bias_rate, 0) || !finite_at_least(t->predict_weight, 0) ||
        !finite_at_least(t->deviation, 0) || !finite_at_least(t->epsilon, 0))
        return fm_base_error_set(FM_ERR_ARG, "a rate or weight of the training is negative or not finite");
    if (!(t->beta1 >= 0 && t->beta1 < 1) || !(t->beta2 >= 0 && t->beta2 < 1))
        return fm_base_error_set(FM_ERR_ARG, "beta1 is %g and beta2 %g; expected 0 to below 1", t->beta1,
                                 t->beta2);
    if (t->dtype != FM_DTYPE_F32 && t->dtype != FM_DTYPE_BF16 && t->dtype != FM_DTYPE_F8_E4M3)
        return fm_base_error_set(FM_ERR_UNSUPPORTED, "products in %s; known: F32, BF16, F8_E4M3",
                                 fm_base_dtype_name(t->dtype));
    if (t->micro_batch < 0)
        return fm_base_error_set(FM_ERR_ARG, "micro_batch is %d; expected 0 or more", t->micro_batch);
    return FM_OK;
}

static fm_status count_one(void *context, const char *name, struct fm_model_weight *weight)
{
    (void)name;
    *(int64_t *)context += fm_model_weight_cells(weight);
    return FM_OK;
}

struct place {
    struct fm_trainer *trainer;
    int64_t at;
};

static fm_status place_one(void *context, const char *name, struct fm_model_weight *weight)
{
    struct place *place = context;
    float *values = place->trainer->values + place->at;
    (void)name;
    weight->values = weight->vector = values;
    weight->gradient = place->trainer->gradients + place->at;
    weight->matrix = fm_model_rows(values, weight->columns);
    place->at += fm_model_weight_cells(weight);
    return FM_OK;
}

struct draw {
    const fm_model_training *training;
    uint64_t number;
};

// Norms begin as 1, biases as 0, matrices as normal numbers; a parameter's depend on its number alone.
static fm_status draw_one(void *context, const char *name, struct fm_model_weight *weight)
{
    struct draw *draw = context;
    float constant = strstr(name, "correction_bias") ? 0 : 1;
    fm_rng rng = fm_base_rng_begin(draw->training->seed, INITIAL_STREAM + draw->number++);
    if (!weight->values) // another rank's
        return FM_OK;
    for (int64_t i = 0; i < fm_model_weight_cells(weight); i++)
        weight->values[i] =
            weight->rows ? (float)(draw->training->deviation * fm_rng_normal(&rng)) : constant;
    return FM_OK;
}

static size_t load_count(const fm_model_config *c)
{
    return (size_t)(c->layers + c->predict_layers) * (size_t)c->experts;
}

fm_status fm_model_trainer_draw(struct fm_trainer *trainer)
{
    struct draw draw = {.training = &trainer->training};
    return fm_model_weights_each(&trainer->model.config, &trainer->model.weights, 1, draw_one, &draw);
}

static fm_status no_memory(const struct fm_trainer *trainer)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory to train %lld parameters", (long long)trainer->count);
}

// What a trainer, a lane and a rank have each of its own.
static fm_status allocate_sums(struct fm_trainer *trainer)
{
    trainer->gradients = fm_base_mem_zalloc((size_t)trainer->count, sizeof(float));
    trainer->loads = fm_base_mem_zalloc(load_count(&trainer->model.config) + 1, sizeof(int64_t));
    return trainer->gradients && trainer->loads ? FM_OK : no_memory(trainer);
}

fm_status fm_model_trainer_allocate(struct fm_trainer *trainer)
{
    size_t bytes = (size_t)trainer->count * sizeof(float);
    trainer->values = fm_base_mem_aligned(bytes, FM_CACHE_LINE);
    trainer->mean = fm_base_mem_zalloc((size_t)trainer->moment_count, sizeof(float));
    trainer->square = fm_base_mem_zalloc((size_t)trainer->moment_count, sizeof(float));
    if (!trainer->values || !trainer->mean || !trainer->square)
        return no_memory(trainer);
    memset(trainer->values, 0, bytes);
    return allocate_sums(trainer);
}

// The structs over `values` and gradients, and a team of `threads`.
static fm_status make_views(struct fm_trainer *trainer, int threads)
{
    struct fm_model *model = &trainer->model;
    struct place place = {.trainer = trainer};
    FM_TRY(fm_model_weights_each(&model->config, &model->weights, 1, place_one, &place));
    if (model->config.tied_head)
        model->weights.head = model->weights.embed;
    return fm_model_compute_open(threads, trainer->training.dtype, &model->compute);
}

static fm_status make_lanes(struct fm_trainer *trainer, int count)
{
    trainer->lanes = fm_base_mem_zalloc((size_t)count, sizeof *trainer->lanes);
    if (!trainer->lanes)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %d lanes", count);
    for (; trainer->lane_count < count; trainer->lane_count++) {
        struct fm_trainer *lane = &trainer->lanes[trainer->lane_count];
        struct fm_model_weights weights;
        FM_TRY(fm_model_weights_create(&trainer->model.config, &weights));
        *lane = (struct fm_trainer){
            .training = trainer->training, .count = trainer->count, .values = trainer->values};
        lane->model.config = trainer->model.config;
        lane->model.rotary = trainer->model.rotary;
        lane->model.weights = weights;
        fm_status status = allocate_sums(lane);
        if (status == FM_OK)
            status = make_views(lane, 1);
        if (status == FM_OK)
            status = fm_model_mla_open(lane, 1);
        if (status < 0) {
            trainer->lane_count++; // to be freed with the others
            return status;
        }
    }
    return FM_OK;
}

static fm_status make_alone(struct fm_trainer *trainer, int threads)
{
    struct fm_model *model = &trainer->model;
    FM_TRY(fm_model_weights_create(&model->config, &model->weights));
    FM_TRY(fm_model_weights_each(&model->config, &model->weights, 1, count_one, &trainer->count));
    trainer->moment_count = trainer->count;
    trainer->segments[0] = (struct fm_model_segment){.count = trainer->count, .shard = trainer->count};
    trainer->segment_count = 1;
    FM_TRY(fm_model_trainer_allocate(trainer));
    FM_TRY(make_views(trainer, threads));
    FM_TRY(fm_model_trainer_draw(trainer));
    FM_TRY(fm_model_rotary_open(&model->config, &model->rotary));
    return make_lanes(trainer, threads);
}

static fm_status make_process(struct fm_trainer *trainer, const struct fm_model_layout *layout, int threads)
{
    fm_ep_world *world;
    int number;
    FM_TRY(fm_ep_world_open_mpi(&world, &number));
    int ranks = fm_ep_world_ranks(world);
    fm_status status =
        ranks == layout->ranks
            ? fm_model_rank_make(trainer, layout, number, threads / ranks > 0 ? threads / ranks : 1)
            : fm_base_error_set(FM_ERR_ARG, "%d pipeline ranks times %d expert ranks; mpirun has started %d",
                                layout->pipe, layout->experts, ranks);
    if (trainer->rank)
        trainer->rank->mpi = world; // freed with the rank
    else
        fm_ep_world_free(world);
    return status;
}

static fm_status make(struct fm_trainer *trainer)
{
    struct fm_model_layout layout;
    int threads = trainer->training.threads ? trainer->training.threads : fm_base_cpu_threads();
    FM_TRY(fm_model_layout_make(&trainer->model.config, &trainer->training, &layout));
    if (trainer->training.transport == FM_MODEL_MPI)
        return make_process(trainer, &layout, threads);
    if (trainer->training.transport == FM_MODEL_PROCESSES)
        return fm_model_front_open(trainer, &layout);
    return layout.ranks > 1 ? fm_model_crew_open(trainer, &layout, threads) : make_alone(trainer, threads);
}

fm_status fm_model_trainer_open(const fm_model_config *config, const fm_model_training *training,
                                fm_trainer **out_trainer)
{
    FM_TRY(fm_model_config_check(config));
    FM_TRY(check_training(training));
    struct fm_trainer *trainer = fm_base_mem_zalloc(1, sizeof *trainer);
    if (!trainer)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a trainer");
    trainer->model.config = *config;
    trainer->training = *training;
    fm_status status = make(trainer);
    if (status < 0)
        fm_model_trainer_close(trainer);
    else
        *out_trainer = trainer;
    return status;
}

// All but what lanes share.
static void free_views(struct fm_trainer *trainer)
{
    struct fm_model *model = &trainer->model;
    fm_model_compute_close(&model->compute);
    fm_model_weights_destroy(&model->config, &model->weights);
    fm_model_scratch_free(&model->scratch);
    fm_model_scratch_free(&trainer->rounded);
    fm_mla_context_close(trainer->mla);
    fm_base_mem_free(trainer->gradients);
    fm_base_mem_free(trainer->loads);
}

void fm_model_trainer_close(fm_trainer *trainer)
{
    if (!trainer)
        return;
    fm_model_front_close(trainer);
    fm_model_crew_free(trainer->crew);
    fm_model_rank_free(trainer);
    for (int i = 0; i < trainer->lane_count; i++)
        free_views(&trainer->lanes[i]);
    fm_base_mem_free(trainer->lanes);
    free_views(trainer);
    fm_model_rotary_close(&trainer->model.rotary);
    fm_base_mem_free(trainer->values);
    fm_base_mem_free(trainer->mean);
    fm_base_mem_free(trainer->square);
    fm_base_mem_free(trainer);
}

/** Where there are ranks: one of them, which knows what all know. */
static const fm_trainer *any_rank(const fm_trainer *trainer)
{
    return trainer->crew ? trainer->crew->ranks[0] : trainer;
}

int64_t fm_model_trainer_steps(const fm_trainer *trainer)
{
    return any_rank(trainer)->step;
}

fm_model *fm_model_trainer_model(fm_trainer *trainer)
{
    return trainer->crew ? &trainer->crew->ranks[0]->model : &trainer->model;
}

const int64_t *fm_model_trainer_loads(const fm_trainer *trainer, int layer)
{
    const fm_model_config *c = &trainer->model.config;
    if (layer < 0 || layer >= c->layers || !fm_model_is_moe(c, layer))
        return NULL;
    return any_rank(trainer)->loads + (int64_t)layer * c->experts;
}

static fm_status check_ids(const fm_model_config *c, const int32_t *ids, int sequences, int length)
{
    if (sequences < 1 || length < 1)
        return fm_base_error_set(FM_ERR_ARG, "%d sequences of %d tokens; expected at least one of each",
                                 sequences, length);
    if (length > c->context)
        return fm_base_error_set(FM_ERR_ARG, "sequences of %d tokens; the model's context has %d", length,
                                 c->context);
    int64_t width = length + 1 + c->predict_layers;
    for (int64_t i = 0; i < sequences * width; i++)
        if (ids[i] < 0 || ids[i] >= c->vocab)
            return fm_base_error_set(FM_ERR_ARG, "token %lld of sequence %lld has id %d; expected 0 to %d",
                                     (long long)(i % width), (long long)(i / width), (int)ids[i],
                                     c->vocab - 1);
    return FM_OK;
}

struct wave {
    struct fm_trainer *trainer;
    const int32_t *ids; // of the wave's first micro-batch
    int sequences, length, at_once;
};

// Micro-batches [begin, end) of a wave, one a lane.
static void lane_part(void *context, int64_t begin, int64_t end, int thread)
{
    const struct wave *wave = context;
    int64_t width = wave->length + 1 + wave->trainer->model.config.predict_layers;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        struct fm_trainer *lane = &wave->trainer->lanes[i];
        int first = (int)i * wave->at_once, left = wave->sequences - first;
        int count = left < wave->at_once ? left : wave->at_once;
        struct fm_model_batch batch = {count, wave->length, (int64_t)count * wave->length};
        lane->loss_sum = lane->predict_sum = lane->balance_sum = 0;
        memset(lane->loads, 0, load_count(&lane->model.config) * sizeof *lane->loads);
        if (!lane->evaluate)
            memset(lane->gradients, 0, (size_t)lane->count * sizeof *lane->gradients);
        lane->status = fm_model_pass(lane, &batch, wave->ids + first * width);
        fm_status low = fm_model_low_check(lane->model.compute.low);
        lane->status = lane->status < 0 ? lane->status : low;
        if (lane->status < 0)
            snprintf(lane->message, sizeof lane->message, "%s", fm_base_error_message());
    }
}

struct gather {
    float *to;
    const float *from;
    const struct fm_model_kernels *kernels;
};

static void gather_part(void *context, int64_t begin, int64_t end, int thread)
{
    const struct gather *gather = context;
    (void)thread;
    gather->kernels->axpy(1, gather->from + begin, gather->to + begin, end - begin);
}

static fm_status gather_lane(struct fm_trainer *trainer, const struct fm_trainer *lane)
{
    if (lane->status < 0)
        return fm_base_error_set(lane->status, "%s", lane->message);
    trainer->loss_sum += lane->loss_sum;
    trainer->predict_sum += lane->predict_sum;
    trainer->balance_sum += lane->balance_sum;
    for (size_t i = 0; i < load_count(&trainer->model.config); i++)
        trainer->loads[i] += lane->loads[i];
    struct gather gather = {trainer->gradients, lane->gradients, trainer->model.compute.kernels};
    if (!trainer->evaluate)
        fm_model_share(&trainer->model.compute, trainer->count, RANGE, gather_part, &gather);
    return FM_OK;
}

// All micro-batches of a step, as many at a time as there are lanes.
static fm_status pass_lanes(struct fm_trainer *trainer, const int32_t *ids, int sequences, int length)
{
    const fm_model_config *c = &trainer->model.config;
    int at_once = trainer->training.micro_batch;
    if (at_once == 0)
        at_once = length < MICRO_TOKENS ? MICRO_TOKENS / length : 1;
    for (int i = 0; i < trainer->lane_count; i++) {
        trainer->lanes[i].weight = trainer->weight;
        trainer->lanes[i].balance_weight = trainer->balance_weight;
        trainer->lanes[i].evaluate = trainer->evaluate;
    }
    int per_wave = trainer->lane_count * at_once;
    for (int first = 0; first < sequences; first += per_wave) {
        int count = sequences - first < per_wave ? sequences - first : per_wave;
        int lanes = (count + at_once - 1) / at_once;
        struct wave wave = {trainer, ids + (int64_t)first * (length + 1 + c->predict_layers), count, length,
                            at_once};
        fm_model_share(&trainer->model.compute, lanes, 1, lane_part, &wave);
        for (int i = 0; i < lanes; i++)
            FM_TRY(gather_lane(trainer, &trainer->lanes[i]));
    }
    return FM_OK;
}

double fm_model_trainer_square(const struct fm_trainer *trainer)
{
    double sum = 0;
    for (int s = 0; s < trainer->segment_count; s++) {
        const struct fm_model_segment *segment = &trainer->segments[s];
        for (int64_t i = 0; i < segment->shard; i += RANGE) {
            const float *part = trainer->gradients + segment->first + i;
            int64_t n = segment->shard - i < RANGE ? segment->shard - i : RANGE;
            sum += (double)trainer->model.compute.kernels->dot(part, part, n);
        }
    }
    return sum;
}

// Sums of losses and loads, and of gradients unless the trainer evaluates; *out_norm is that of the gradient.
static fm_status pass_all(struct fm_trainer *trainer, const int32_t *ids, int sequences, int length,
                          double *out_norm)
{
    double square = 0;
    trainer->loss_sum = trainer->predict_sum = trainer->balance_sum = 0;
    trainer->weight = 1.0 / ((double)sequences * length);
    trainer->balance_weight = 1.0 / sequences;
    memset(trainer->loads, 0, load_count(&trainer->model.config) * sizeof *trainer->loads);
    if (!trainer->evaluate)
        memset(trainer->gradients, 0, (size_t)trainer->count * sizeof *trainer->gradients);
    fm_status status = fm_model_weights_round(trainer);
    if (status == FM_OK)
        status = trainer->rank ? fm_model_rank_pass(trainer, ids, sequences, length, &square)
                               : pass_lanes(trainer, ids, sequences, length);
    if (status == FM_OK && !trainer->rank && !trainer->evaluate)
        square = fm_model_trainer_square(trainer);
    if (status < 0 && trainer->rank)
        trainer->rank->is_broken = 1;
    fm_status forgotten = fm_model_weights_forget(trainer);
    FM_TRY(status < 0 ? status : forgotten);
    *out_norm = sqrt(square);
    return FM_OK;
}

static double rate_at(const fm_model_training *t, int64_t step)
{
    if (step < t->warmup_steps)
        return t->rate * (double)(step + 1) / (double)t->warmup_steps;
    double done = t->steps > t->warmup_steps
                      ? fmin(1, (double)(step - t->warmup_steps) / (double)(t->steps - t->warmup_steps))
                      : 1;
    return t->rate_end + (t->rate - t->rate_end) * 0.5 * (1 + cos(M_PI * done));
}

struct adam_work {
    const struct fm_trainer *trainer;
    struct fm_model_adam_terms terms;
    int64_t first, moments; // where the range's cells lie, and its moments
};

static void adam_part(void *context, int64_t begin, int64_t end, int thread)
{
    const struct adam_work *w = context;
    int64_t at = w->first + begin, moments = w->moments + begin;
    (void)thread;
    w->trainer->model.compute.kernels->adam(&w->terms, w->trainer->values + at, w->trainer->gradients + at,
                                            w->trainer->mean + moments, w->trainer->square + moments,
                                            end - begin);
}

// What of the weight lies in this rank's shards.
static fm_status adam_one(void *context, const char *name, struct fm_model_weight *weight)
{
    struct adam_work *work = context;
    const struct fm_trainer *trainer = work->trainer;
    (void)name;
    if (!weight->values) // another rank's
        return FM_OK;
    int64_t begin = weight->values - trainer->values, end = begin + fm_model_weight_cells(weight);
    work->terms.decay = weight->rows ? (float)trainer->training.decay : 0;
    for (int s = 0; s < trainer->segment_count; s++) {
        const struct fm_model_segment *segment = &trainer->segments[s];
        int64_t last = segment->first + segment->shard < end ? segment->first + segment->shard : end;
        work->first = segment->first > begin ? segment->first : begin;
        work->moments = segment->moments + work->first - segment->first;
        fm_model_share(&trainer->model.compute, last - work->first, RANGE, adam_part, work);
    }
    return FM_OK;
}

static fm_status update(struct fm_trainer *trainer, double rate, double norm)
{
    const fm_model_training *t = &trainer->training;
    double steps = (double)(trainer->step + 1);
    struct adam_work work = {.trainer = trainer};
    work.terms = (struct fm_model_adam_terms){
        .rate = (float)rate,
        .beta1 = (float)t->beta1,
        .beta2 = (float)t->beta2,
        .epsilon = (float)t->epsilon,
        .correction1 = (float)(1 / (1 - pow(t->beta1, steps))),
        .correction2 = (float)(1 / (1 - pow(t->beta2, steps))),
        .clip = (float)(t->clip > 0 && norm > t->clip ? t->clip / norm : 1),
    };
    FM_TRY(fm_model_weights_each(&trainer->model.config, &trainer->model.weights, 1, adam_one, &work));
    return trainer->rank ? fm_model_rank_spread(trainer) : FM_OK;
}

static void move_biases(const struct fm_trainer *trainer)
{
    const fm_model_config *c = &trainer->model.config;
    for (int i = 0; c->correction_bias && i < c->layers + c->predict_layers; i++) {
        const struct fm_model_layer *layer = i < c->layers
                                                 ? &trainer->model.weights.layers[i]
                                                 : &trainer->model.weights.predictors[i - c->layers].layer;
        const int64_t *loads = trainer->loads + (int64_t)i * c->experts;
        int64_t total = 0;
        if (!layer->experts || !layer->router_bias.values)
            continue;
        for (int e = 0; e < c->experts; e++)
            total += loads[e];
        for (int e = 0; e < c->experts; e++)
            layer->router_bias.values[e] +=
                (float)trainer->training.bias_rate *
                (float)((loads[e] * c->experts < total) - (loads[e] * c->experts > total));
    }
}

static fm_status step(struct fm_trainer *trainer, const int32_t *ids, int sequences, int length,
                      fm_model_step_result *out_result)
{
    const fm_model_config *c = &trainer->model.config;
    double rate = rate_at(&trainer->training, trainer->step), norm = 0;
    trainer->evaluate = 0;
    FM_TRY(pass_all(trainer, ids, sequences, length, &norm));
    double loss = trainer->loss_sum * trainer->weight;
    if (!isfinite(loss) || !isfinite(norm))
        return fm_base_error_set(FM_ERR_FORMAT,
                                 "step %lld: the loss is %g and its gradient's norm %g; try a lower rate",
                                 (long long)trainer->step, loss, norm);
    FM_TRY(update(trainer, rate, norm));
    move_biases(trainer);
    trainer->step++;
    *out_result = (fm_model_step_result){
        .loss = loss,
        .predict_loss = c->predict_layers ? trainer->predict_sum * trainer->weight / c->predict_layers : 0,
        .balance_loss = trainer->balance_sum,
        .gradient_norm = norm,
        .rate = rate};
    return FM_OK;
}

/** A batch that all ranks are given; what comes of it is the same on each. */
struct given {
    const int32_t *ids;
    int sequences, length;
    fm_model_step_result result;
    double loss;
};

static fm_status step_rank(struct fm_trainer *rank, void *context)
{
    struct given *given = context;
    fm_model_step_result result;
    FM_TRY(step(rank, given->ids, given->sequences, given->length, &result));
    if (rank->rank->number == 0)
        given->result = result;
    return FM_OK;
}

static fm_status evaluate(struct fm_trainer *trainer, const int32_t *ids, int sequences, int length,
                          double *out_loss)
{
    double norm;
    trainer->evaluate = 1;
    FM_TRY(pass_all(trainer, ids, sequences, length, &norm));
    *out_loss = trainer->loss_sum * trainer->weight;
    return FM_OK;
}

static fm_status evaluate_rank(struct fm_trainer *rank, void *context)
{
    struct given *given = context;
    double loss;
    FM_TRY(evaluate(rank, given->ids, given->sequences, given->length, &loss));
    if (rank->rank->number == 0)
        given->loss = loss;
    return FM_OK;
}

static fm_status run_crew(struct fm_trainer *trainer, struct given *given,
                          fm_status (*work)(struct fm_trainer *rank, void *context))
{
    int at_once, micro_batches;
    FM_TRY(fm_model_crew_fit(trainer->crew,
                             fm_model_run_tokens(&trainer->crew->layout, &trainer->training, given->sequences,
                                                 given->length, &at_once, &micro_batches)));
    return fm_model_crew_run(trainer->crew, work, given);
}

fm_status fm_model_trainer_step(fm_trainer *trainer, const int32_t *ids, int sequences, int length,
                                fm_model_step_result *out_result)
{
    struct given given = {.ids = ids, .sequences = sequences, .length = length};
    FM_TRY(check_ids(&trainer->model.config, ids, sequences, length));
    if (trainer->front)
        return fm_model_front_step(trainer, ids, sequences, length, out_result);
    if (!trainer->crew)
        return step(trainer, ids, sequences, length, out_result);
    FM_TRY(run_crew(trainer, &given, step_rank));
    *out_result = given.result;
    return FM_OK;
}

static int64_t products_of(const struct fm_trainer *trainer, fm_dtype dtype)
{
    const struct fm_model_low *low = trainer->model.compute.low;
    return low && dtype > FM_DTYPE_NONE && dtype < FM_DTYPE_COUNT ? low->products[dtype] : 0;
}

int64_t fm_model_trainer_products(fm_trainer *trainer, fm_dtype dtype)
{
    if (trainer->front)
        return fm_model_front_products(trainer, dtype);
    int64_t count = products_of(trainer, dtype);
    for (int i = 0; i < trainer->lane_count; i++)
        count += products_of(&trainer->lanes[i], dtype);
    for (int r = 0; trainer->crew && r < trainer->crew->layout.ranks; r++)
        count += products_of(trainer->crew->ranks[r], dtype);
    return count;
}

fm_status fm_model_trainer_evaluate(fm_trainer *trainer, const int32_t *ids, int sequences, int length,
                                    double *out_loss)
{
    struct given given = {.ids = ids, .sequences = sequences, .length = length};
    FM_TRY(check_ids(&trainer->model.config, ids, sequences, length));
    if (trainer->front)
        return fm_model_front_evaluate(trainer, ids, sequences, length, out_loss);
    if (!trainer->crew)
        return evaluate(trainer, ids, sequences, length, out_loss);
    FM_TRY(run_crew(trainer, &given, evaluate_rank));
    *out_loss = given.loss;
    return FM_OK;
}
