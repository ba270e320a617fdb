/* The gate: scores by softmax or sigmoid; a choice among the best groups, biased where there is a correction bias; weights
 * from the unbiased scores. Ties go to the lower number. */
#include "model_private.h"

#include <math.h>

struct route_work {
    const fm_model_config *config;
    const struct fm_model_kernels *kernels;
    const float *bias; // [experts] or NULL
    struct fm_model_route *route;
    float *choice; // [tokens, experts]: what the choice looks at
};

// The sum of a group's two best (its best one, without correction bias).
static float group_score(const float *choice, int count, int best_two)
{
    float first = -INFINITY, second = -INFINITY;
    for (int i = 0; i < count; i++)
        if (choice[i] > first) {
            second = first;
            first = choice[i];
        } else if (choice[i] > second) {
            second = choice[i];
        }
    return best_two && count > 1 ? first + second : first;
}

// Rules out the experts of all but the best groups.
static void keep_groups(const fm_model_config *config, float *choice)
{
    int size = config->experts / config->groups;
    for (int dropped = 0; dropped < config->groups - config->topk_groups; dropped++) {
        int worst = -1;
        float worst_score = INFINITY;
        for (int g = 0; g < config->groups; g++) {
            float score = group_score(choice + (int64_t)g * size, size, config->correction_bias);
            if (choice[(int64_t)g * size] != -INFINITY && (worst < 0 || score <= worst_score)) {
                worst = g;
                worst_score = score;
            }
        }
        for (int i = 0; worst >= 0 && i < size; i++)
            choice[(int64_t)worst * size + i] = -INFINITY;
    }
}

static void choose(const fm_model_config *config, float *choice, int32_t *experts)
{
    if (config->groups > config->topk_groups)
        keep_groups(config, choice);
    for (int j = 0; j < config->topk; j++) {
        int best = 0;
        for (int e = 1; e < config->experts; e++)
            if (choice[e] > choice[best])
                best = e;
        experts[j] = best;
        choice[best] = -INFINITY;
    }
}

static void route_part(void *context, int64_t begin, int64_t end, int thread)
{
    const struct route_work *work = context;
    const fm_model_config *config = work->config;
    int count = config->experts;
    (void)thread;
    for (int64_t t = begin; t < end; t++) {
        float *scores = work->route->scores + t * count, *choice = work->choice + t * count;
        float *weights = work->route->weights + t * config->topk, total = 0;
        int32_t *experts = work->route->experts + t * config->topk;
        if (config->gate == FM_MODEL_SOFTMAX)
            work->kernels->softmax(1, scores, count);
        else
            for (int e = 0; e < count; e++)
                scores[e] = 1 / (1 + expf(-scores[e]));
        for (int e = 0; e < count; e++)
            choice[e] = scores[e] + (work->bias ? work->bias[e] : 0);
        choose(config, choice, experts);
        for (int j = 0; j < config->topk; j++)
            total += scores[experts[j]];
        float scale = (float)config->routed_scale / (config->normalise_topk ? total + 1e-20f : 1);
        for (int j = 0; j < config->topk; j++)
            weights[j] = scores[experts[j]] * scale;
    }
}

// Rows sorted by expert, tokens in order.
static void sort_rows(const fm_model_config *config, struct fm_model_route *route)
{
    int64_t choices = route->tokens * config->topk, *offsets = route->offsets;
    memset(offsets, 0, ((size_t)config->experts + 1) * sizeof *offsets);
    for (int64_t i = 0; i < choices; i++)
        offsets[route->experts[i] + 1]++;
    for (int e = 0; e < config->experts; e++)
        offsets[e + 1] += offsets[e];
    for (int64_t i = 0; i < choices; i++)
        route->rows[i] = (int32_t)offsets[route->experts[i]]++;
    memmove(offsets + 1, offsets, (size_t)config->experts * sizeof *offsets);
    offsets[0] = 0;
}

fm_status fm_model_route(const fm_model_config *config, const struct fm_model_compute *compute,
                         struct fm_model_scratch *scratch, const struct fm_model_layer *layer, int64_t tokens,
                         const float *x, struct fm_model_route *out_route)
{
    size_t scores = (size_t)tokens * (size_t)config->experts, choices = (size_t)tokens * (size_t)config->topk;
    struct fm_model_route route = {.tokens = tokens};
    route.scores = fm_model_scratch_take(scratch, scores);
    route.weights = fm_model_scratch_take(scratch, choices);
    route.experts = (int32_t *)fm_model_scratch_take(scratch, choices);
    route.rows = (int32_t *)fm_model_scratch_take(scratch, choices);
    route.offsets = (int64_t *)fm_model_scratch_take(scratch, 2 * ((size_t)config->experts + 1));
    struct fm_model_mark mark = fm_model_scratch_mark(scratch);
    float *choice = fm_model_scratch_take(scratch, scores);
    if (!route.scores || !route.weights || !route.experts || !route.rows || !route.offsets || !choice)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to route %lld tokens", (long long)tokens);
    fm_model_linear(compute, tokens, x, &layer->router, route.scores);
    struct route_work work = {config, compute->kernels,
                              config->correction_bias ? layer->router_bias.vector : NULL, &route, choice};
    fm_model_share(compute, tokens, 128, route_part, &work);
    sort_rows(config, &route);
    fm_model_scratch_release(scratch, mark);
    *out_route = route;
    return FM_OK;
}
