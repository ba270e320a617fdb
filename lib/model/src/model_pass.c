/*
 * A micro-batch on its way through a stage: units (layers, the output head, heads for multi-token prediction), each in one
 * step or, with experts, in three. Between steps the experts' rows may be on their way, so a visit can be taken step by step
 * beside another's.
 */
#include "model_trainer.h"

enum { STEPS = 3 }; // of a unit with experts

static fm_status no_memory(const struct fm_model_batch *batch)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory for %d sequences of %d tokens", batch->sequences,
                             batch->length);
}

// Column `shift` of the batch's ids, ..., as rows of tokens.
static void take_ids(const struct fm_model_batch *batch, int predict_layers, const int32_t *ids, int shift,
                     int32_t *out)
{
    for (int64_t s = 0; s < batch->sequences; s++)
        memcpy(out + s * batch->length, ids + s * (batch->length + 1 + predict_layers) + shift,
               (size_t)batch->length * sizeof *out);
}

/** What a unit is. */
struct unit {
    int is_head, predictor; // predictor: its index, or -1
    const struct fm_model_layer *layer;
    struct fm_model_layer_saved *saved;
    int64_t *loads;
};

static int layers_of(const struct fm_model_visit *visit)
{
    return visit->stage.end - visit->stage.begin;
}

static int units_of(const struct fm_trainer *trainer, const struct fm_model_visit *visit)
{
    return layers_of(visit) + (visit->stage.is_last ? 1 + trainer->model.config.predict_layers : 0);
}

static struct unit unit_at(const struct fm_trainer *trainer, const struct fm_model_visit *visit, int index)
{
    const fm_model_config *c = &trainer->model.config;
    const struct fm_model_weights *weights = &trainer->model.weights;
    int layers = layers_of(visit), number = visit->stage.begin + index;
    if (index < layers)
        return (struct unit){0, -1, &weights->layers[number], &visit->layers[index],
                             trainer->loads + (int64_t)number * c->experts};
    int predictor = index - layers - 1;
    if (predictor < 0)
        return (struct unit){.is_head = 1, .predictor = -1};
    return (struct unit){0, predictor, &weights->predictors[predictor].layer,
                         &visit->predictors[predictor].layer,
                         trainer->loads + (int64_t)(c->layers + predictor) * c->experts};
}

fm_status fm_model_forward_begin(struct fm_trainer *trainer, struct fm_model_visit *visit, const float *input)
{
    const fm_model_config *c = &trainer->model.config;
    struct fm_model_scratch *scratch = &trainer->model.scratch;
    size_t tokens = (size_t)visit->batch.tokens, cells = tokens * (size_t)c->hidden;
    visit->unit = visit->step = 0;
    visit->x = input;
    visit->layers = fm_model_scratch_bytes(scratch, (size_t)layers_of(visit) * sizeof *visit->layers);
    visit->predictors =
        fm_model_scratch_bytes(scratch, (size_t)c->predict_layers * sizeof *visit->predictors);
    visit->column = (int32_t *)fm_model_scratch_take(scratch, tokens);
    visit->targets = (int32_t *)fm_model_scratch_take(scratch, tokens);
    if (!visit->layers || !visit->predictors || !visit->column || !visit->targets)
        return no_memory(&visit->batch);
    for (int i = 0; i < layers_of(visit); i++)
        visit->layers[i].moe.layer = visit->stage.begin + i;
    for (int i = 0; i < c->predict_layers; i++)
        visit->predictors[i].layer.moe.layer = c->layers + i;
    if (!visit->stage.is_first)
        return FM_OK;
    float *x = fm_model_scratch_take(scratch, cells);
    if (!x)
        return no_memory(&visit->batch);
    take_ids(&visit->batch, c->predict_layers, visit->ids, 0, visit->column);
    fm_model_embed(&trainer->model.weights.embed, visit->column, visit->batch.tokens, x);
    visit->x = x;
    return FM_OK;
}

static fm_status head_step(struct fm_trainer *trainer, struct fm_model_visit *visit)
{
    const fm_model_config *c = &trainer->model.config;
    struct fm_model_scratch *scratch = &trainer->model.scratch;
    int64_t tokens = visit->batch.tokens;
    size_t cells = (size_t)tokens * (size_t)c->hidden;
    visit->hidden = visit->x;
    visit->normed = fm_model_scratch_take(scratch, cells);
    visit->inverse = fm_model_scratch_take(scratch, (size_t)tokens);
    visit->dnormed = fm_model_scratch_take(scratch, cells);
    if (!visit->normed || !visit->inverse || !visit->dnormed)
        return no_memory(&visit->batch);
    fm_model_norm_rows(&trainer->model.compute, tokens, c->hidden, visit->x, c->hidden,
                       &trainer->model.weights.norm, (float)c->epsilon, visit->normed, c->hidden,
                       visit->inverse);
    take_ids(&visit->batch, c->predict_layers, visit->ids, 1, visit->targets);
    visit->x = visit->normed; // which the first predictor goes on from
    return fm_model_head(trainer, tokens, visit->normed, visit->targets, trainer->weight, &trainer->loss_sum,
                         visit->dnormed);
}

static fm_status open_step(struct fm_trainer *trainer, struct fm_model_visit *visit, const struct unit *unit)
{
    const fm_model_config *c = &trainer->model.config;
    const float *x = visit->x;
    if (unit->predictor >= 0) {
        float *joined;
        take_ids(&visit->batch, c->predict_layers, visit->ids, unit->predictor + 1, visit->column);
        FM_TRY(fm_model_predictor_open(trainer, unit->predictor, &visit->batch, x, visit->column,
                                       &visit->predictors[unit->predictor], &joined));
        x = joined;
    }
    return fm_model_layer_open(trainer, unit->layer, unit->loads, &visit->batch, x, unit->saved);
}

static fm_status close_step(struct fm_trainer *trainer, struct fm_model_visit *visit, const struct unit *unit)
{
    const fm_model_config *c = &trainer->model.config;
    FM_TRY(fm_model_layer_close(trainer, unit->layer, &visit->batch, unit->saved));
    visit->x = unit->saved->out;
    if (unit->predictor < 0)
        return FM_OK;
    take_ids(&visit->batch, c->predict_layers, visit->ids, unit->predictor + 2, visit->targets);
    return fm_model_predictor_close(trainer, unit->predictor, &visit->batch, visit->x, visit->targets,
                                    &visit->predictors[unit->predictor]);
}

int fm_model_forward_done(const struct fm_trainer *trainer, const struct fm_model_visit *visit)
{
    return visit->unit == units_of(trainer, visit);
}

fm_status fm_model_forward_step(struct fm_trainer *trainer, struct fm_model_visit *visit)
{
    struct unit unit = unit_at(trainer, visit, visit->unit);
    int is_whole = unit.is_head || !unit.layer->experts; // one step does it all
    if (unit.is_head)
        FM_TRY(head_step(trainer, visit));
    else if (visit->step == 0)
        FM_TRY(open_step(trainer, visit, &unit));
    else if (visit->step == 1)
        FM_TRY(fm_model_layer_experts(trainer, unit.layer, &visit->batch, unit.saved));
    if (!unit.is_head && (is_whole || visit->step == STEPS - 1))
        FM_TRY(close_step(trainer, visit, &unit));
    visit->step = is_whole ? 0 : (visit->step + 1) % STEPS;
    visit->unit += visit->step == 0;
    return FM_OK;
}

fm_status fm_model_back_begin(struct fm_trainer *trainer, struct fm_model_visit *visit,
                              const float *output_gradient)
{
    size_t cells = (size_t)(visit->batch.tokens * trainer->model.config.hidden);
    visit->dx = fm_model_scratch_zero(&trainer->model.scratch, cells);
    if (!visit->dx)
        return no_memory(&visit->batch);
    visit->unit = units_of(trainer, visit);
    visit->step = 0;
    if (output_gradient)
        memcpy(visit->dx, output_gradient, cells * sizeof *visit->dx);
    return FM_OK;
}

// dx becomes the gradient of what the predictor got: of the unit before it.
static fm_status predictor_step(struct fm_trainer *trainer, struct fm_model_visit *visit, int predictor)
{
    const fm_model_config *c = &trainer->model.config;
    struct fm_model_predictor_saved *saved = &visit->predictors[predictor];
    take_ids(&visit->batch, c->predict_layers, visit->ids, predictor + 1, visit->column);
    return fm_model_predictor_back(trainer, predictor, &visit->batch, visit->column, saved, saved->dx,
                                   predictor == 0 ? visit->dnormed : visit->predictors[predictor - 1].dx);
}

static void head_back(struct fm_trainer *trainer, struct fm_model_visit *visit)
{
    int64_t hidden = trainer->model.config.hidden;
    fm_model_norm_back_rows(&trainer->model.compute, visit->batch.tokens, hidden, visit->hidden, hidden,
                            &trainer->model.weights.norm, visit->inverse, visit->dnormed, hidden, visit->dx,
                            hidden);
}

int fm_model_back_done(const struct fm_model_visit *visit)
{
    return visit->unit == 0;
}

fm_status fm_model_back_step(struct fm_trainer *trainer, struct fm_model_visit *visit)
{
    const fm_model_config *c = &trainer->model.config;
    struct unit unit = unit_at(trainer, visit, visit->unit - 1);
    int is_whole = unit.is_head || !unit.layer->experts;
    float *dx = unit.predictor >= 0 ? visit->predictors[unit.predictor].dx : visit->dx;
    if (unit.is_head)
        head_back(trainer, visit);
    else if (visit->step == 0)
        FM_TRY(fm_model_layer_back_open(trainer, unit.layer, &visit->batch, dx, unit.saved));
    else if (visit->step == 1)
        FM_TRY(fm_model_layer_back_experts(trainer, &visit->batch, unit.saved));
    if (!unit.is_head && (is_whole || visit->step == STEPS - 1)) {
        FM_TRY(fm_model_layer_back_close(trainer, unit.layer, &visit->batch, dx, unit.saved));
        if (unit.predictor >= 0)
            FM_TRY(predictor_step(trainer, visit, unit.predictor));
    }
    visit->step = is_whole ? 0 : (visit->step + 1) % STEPS;
    visit->unit -= visit->step == 0;
    if (visit->unit == 0 && visit->stage.is_first) {
        take_ids(&visit->batch, c->predict_layers, visit->ids, 0, visit->column);
        fm_model_embed_back(&trainer->model.compute, &trainer->model.weights.embed, visit->column,
                            visit->batch.tokens, visit->dx);
    }
    return FM_OK;
}

static fm_status run(struct fm_trainer *trainer, struct fm_model_visit *visit)
{
    FM_TRY(fm_model_forward_begin(trainer, visit, NULL));
    while (!fm_model_forward_done(trainer, visit))
        FM_TRY(fm_model_forward_step(trainer, visit));
    if (trainer->evaluate)
        return FM_OK;
    FM_TRY(fm_model_back_begin(trainer, visit, NULL));
    while (!fm_model_back_done(visit))
        FM_TRY(fm_model_back_step(trainer, visit));
    return FM_OK;
}

fm_status fm_model_pass(struct fm_trainer *trainer, const struct fm_model_batch *batch, const int32_t *ids)
{
    struct fm_model_mark mark = fm_model_scratch_mark(&trainer->model.scratch);
    struct fm_model_visit visit = {
        .stage = {0, trainer->model.config.layers, 1, 1}, .batch = *batch, .ids = ids};
    fm_status status = run(trainer, &visit);
    fm_model_scratch_release(&trainer->model.scratch, mark);
    return status;
}
