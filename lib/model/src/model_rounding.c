/*
 * Weights in BF16 or FP8 for a step: every micro-batch, forward and both gradients multiply what was rounded once. Masters
 * change between steps, so what was rounded is forgotten at the end of each.
 */
#include "model_low.h"
#include "model_trainer.h"

// Matrices that a thread takes at a time: those of one expert, or of a layer's attention.
enum { WEIGHTS_AT_ONCE = 4 };

struct rounding {
    struct fm_trainer *trainer;
    struct rounded {
        const struct fm_model_weight *weight; // NULL: products do not take it rounded
        fm_gemm_quantised to;
    } * list; // of the weights that are visited, in order
    int64_t at;
};

// Matrices that products multiply in another type than f32. The embedding is looked up, unless it is the head, too.
static int is_rounded(const struct fm_trainer *trainer, const struct fm_model_weight *weight)
{
    const struct fm_model_weights *weights = &trainer->model.weights;
    return weight->rows && weight->values &&
           fm_model_low_dtype(trainer->model.compute.low, weight) != FM_DTYPE_F32 &&
           (weight != &weights->embed || trainer->model.config.tied_head);
}

static fm_status count_one(void *context, const char *name, struct fm_model_weight *weight)
{
    (void)name;
    (void)weight;
    (*(int64_t *)context)++;
    return FM_OK;
}

static fm_status take_one(void *context, const char *name, struct fm_model_weight *weight)
{
    struct rounding *rounding = context;
    struct fm_trainer *trainer = rounding->trainer;
    struct rounded *rounded = &rounding->list[rounding->at++];
    (void)name;
    if (!is_rounded(trainer, weight))
        return FM_OK;
    rounded->weight = weight;
    return fm_model_low_take_weight(trainer->model.compute.low, &trainer->rounded, weight, &rounded->to);
}

// Weights [begin, end) of the list. Where there are lanes each thread has its own gemm: one team for all weights is started,
// and not one for each.
static void round_part(void *context, int64_t begin, int64_t end, int thread)
{
    const struct rounding *rounding = context;
    struct fm_trainer *trainer = rounding->trainer,
                      *lane = trainer->lanes ? &trainer->lanes[thread] : trainer;
    for (int64_t i = begin; i < end && lane->status == FM_OK; i++)
        if (rounding->list[i].weight)
            lane->status = fm_model_low_round_weight(lane->model.compute.low, rounding->list[i].weight,
                                                     &rounding->list[i].to);
}

static fm_status round_all(struct fm_trainer *trainer, struct rounding *rounding)
{
    trainer->status = FM_OK;
    for (int i = 0; i < trainer->lane_count; i++)
        trainer->lanes[i].status = FM_OK;
    if (trainer->lanes)
        fm_model_share(&trainer->model.compute, rounding->at, WEIGHTS_AT_ONCE, round_part, rounding);
    else
        round_part(rounding, 0, rounding->at, 0);
    for (int i = 0; i < trainer->lane_count; i++)
        FM_TRY(trainer->lanes[i].status);
    return trainer->status;
}

static fm_status set_one(void *context, const char *name, struct fm_model_weight *weight)
{
    struct rounding *rounding = context;
    (void)name;
    const struct rounded *rounded = rounding->list ? &rounding->list[rounding->at++] : NULL;
    weight->rounded =
        rounded && rounded->weight ? fm_gemm_quantised_operand(&rounded->to) : (fm_gemm_operand){0};
    return FM_OK;
}

// To a trainer's or lane's own structs: those of the list, or, without one, none.
static fm_status set(struct fm_trainer *trainer, struct rounded *list)
{
    struct fm_model_weights *weights = &trainer->model.weights;
    struct rounding rounding = {.list = list};
    FM_TRY(fm_model_weights_each(&trainer->model.config, weights, 1, set_one, &rounding));
    if (trainer->model.config.tied_head)
        weights->head.rounded = weights->embed.rounded;
    return FM_OK;
}

static fm_status set_all(struct fm_trainer *trainer, struct rounded *list)
{
    FM_TRY(set(trainer, list));
    for (int i = 0; i < trainer->lane_count; i++)
        FM_TRY(set(&trainer->lanes[i], list));
    return FM_OK;
}

fm_status fm_model_weights_round(struct fm_trainer *trainer)
{
    const fm_model_config *c = &trainer->model.config;
    struct fm_model_weights *weights = &trainer->model.weights;
    struct rounding rounding = {.trainer = trainer};
    int64_t count = 0;
    if (!trainer->model.compute.low)
        return FM_OK;
    fm_model_scratch_release(&trainer->rounded, (struct fm_model_mark){0, 0});
    FM_TRY(fm_model_weights_each(c, weights, 1, count_one, &count));
    rounding.list = fm_model_scratch_bytes(&trainer->rounded, (size_t)count * sizeof *rounding.list);
    if (!rounding.list)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to round %lld weights", (long long)count);
    FM_TRY(fm_model_weights_each(c, weights, 1, take_one, &rounding));
    FM_TRY(round_all(trainer, &rounding));
    return set_all(trainer, rounding.list);
}

fm_status fm_model_weights_forget(struct fm_trainer *trainer)
{
    return trainer->model.compute.low ? set_all(trainer, NULL) : FM_OK;
}
