#include "model_weights.h"

#include <stdarg.h>
#include <stdio.h>

static void shape(struct fm_model_weight *weight, int64_t rows, int64_t columns)
{
    *weight = (struct fm_model_weight){.rows = rows, .columns = columns};
}

static void shape_mlp(struct fm_model_mlp *mlp, int64_t hidden, int64_t intermediate)
{
    shape(&mlp->gate, intermediate, hidden);
    shape(&mlp->up, intermediate, hidden);
    shape(&mlp->down, hidden, intermediate);
}

static fm_status shape_layer(const fm_model_config *c, int is_moe, struct fm_model_layer *layer)
{
    int64_t queries = (int64_t)c->heads * (c->nope + c->rope);
    shape(&layer->input_norm, 0, c->hidden);
    if (c->q_lora) {
        shape(&layer->q_a, c->q_lora, c->hidden);
        shape(&layer->q_a_norm, 0, c->q_lora);
    }
    shape(&layer->q_b, queries, c->q_lora ? c->q_lora : c->hidden);
    shape(&layer->kv_a, c->kv_lora + c->rope, c->hidden);
    shape(&layer->kv_a_norm, 0, c->kv_lora);
    shape(&layer->kv_b, (int64_t)c->heads * (c->nope + c->value), c->kv_lora);
    shape(&layer->o, c->hidden, (int64_t)c->heads * c->value);
    shape(&layer->post_norm, 0, c->hidden);
    if (!is_moe) {
        shape_mlp(&layer->mlp, c->hidden, c->intermediate);
        return FM_OK;
    }
    if (c->shared_experts)
        shape_mlp(&layer->mlp, c->hidden, (int64_t)c->shared_experts * c->expert_intermediate);
    shape(&layer->router, c->experts, c->hidden);
    layer->router.floor = FM_DTYPE_F32;
    if (c->correction_bias)
        shape(&layer->router_bias, 0, c->experts);
    layer->experts = fm_base_mem_zalloc((size_t)c->experts, sizeof *layer->experts);
    if (!layer->experts)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %d experts", c->experts);
    for (int i = 0; i < c->experts; i++)
        shape_mlp(&layer->experts[i], c->hidden, c->expert_intermediate);
    return FM_OK;
}

fm_status fm_model_weights_create(const fm_model_config *config, struct fm_model_weights *out_weights)
{
    struct fm_model_weights weights = {0};
    fm_status status = FM_OK;
    int64_t hidden = config->hidden;
    shape(&weights.embed, config->vocab, hidden);
    shape(&weights.norm, 0, hidden);
    shape(&weights.head, config->vocab, hidden);
    weights.embed.floor = weights.head.floor = FM_DTYPE_BF16;
    weights.layers = fm_base_mem_zalloc((size_t)config->layers, sizeof *weights.layers);
    weights.predictors = fm_base_mem_zalloc((size_t)config->predict_layers, sizeof *weights.predictors);
    if (!weights.layers || !weights.predictors)
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory for %d layers", config->layers);
    for (int i = 0; status == FM_OK && i < config->layers; i++)
        status = shape_layer(config, fm_model_is_moe(config, i), &weights.layers[i]);
    for (int i = 0; status == FM_OK && i < config->predict_layers; i++) {
        struct fm_model_predictor *predictor = &weights.predictors[i];
        shape(&predictor->embed_norm, 0, hidden);
        shape(&predictor->hidden_norm, 0, hidden);
        shape(&predictor->project, hidden, 2 * hidden);
        shape(&predictor->norm, 0, hidden);
        status = shape_layer(config, fm_model_is_moe(config, config->layers), &predictor->layer);
    }
    if (status < 0)
        fm_model_weights_destroy(config, &weights);
    else
        *out_weights = weights;
    return status;
}

static fm_status forget(void *context, const char *name, struct fm_model_weight *weight)
{
    (void)context;
    (void)name;
    fm_base_mem_free(weight->memory);
    if (weight->vector && weight->vector != weight->matrix.data && !weight->values)
        fm_base_mem_free(weight->vector);
    return FM_OK;
}

static void forget_layer(struct fm_model_layer *layer)
{
    fm_base_mem_free(layer->experts);
    fm_base_mem_free(layer->kv_heads);
}

void fm_model_weights_destroy(const fm_model_config *config, struct fm_model_weights *weights)
{
    int whole = weights->layers && weights->predictors;
    // Vectors exist only once the structs are complete; visiting cannot fail, for forget() does not.
    for (int i = 0; whole && i < config->layers; i++)
        whole = !fm_model_is_moe(config, i) || weights->layers[i].experts;
    for (int i = 0; whole && i < config->predict_layers; i++)
        whole = !fm_model_is_moe(config, config->layers) || weights->predictors[i].layer.experts;
    if (whole && fm_model_weights_each(config, weights, 1, forget, NULL) < 0)
        return;
    for (int i = 0; weights->layers && i < config->layers; i++)
        forget_layer(&weights->layers[i]);
    for (int i = 0; weights->predictors && i < config->predict_layers; i++)
        forget_layer(&weights->predictors[i].layer);
    fm_base_mem_free(weights->layers);
    fm_base_mem_free(weights->predictors);
    *weights = (struct fm_model_weights){0};
}

/** Where the visit is: failures stick, so that a layer is a plain list of names. */
struct visit {
    fm_model_weight_visitor call;
    void *context;
    fm_status status;
    char prefix[64];
};

static void FM_PRINTF(3, 4)
    visit_one(struct visit *visit, struct fm_model_weight *weight, const char *format, ...)
{
    char name[160];
    va_list arguments;
    if (visit->status < 0)
        return;
    int length = snprintf(name, sizeof name, "%s", visit->prefix);
    va_start(arguments, format);
    vsnprintf(name + length, sizeof name - (size_t)length, format, arguments);
    va_end(arguments);
    visit->status = visit->call(visit->context, name, weight);
}

static void visit_mlp(struct visit *visit, struct fm_model_mlp *mlp, const char *name)
{
    visit_one(visit, &mlp->gate, "%s.gate_proj.weight", name);
    visit_one(visit, &mlp->up, "%s.up_proj.weight", name);
    visit_one(visit, &mlp->down, "%s.down_proj.weight", name);
}

static void visit_layer(struct visit *visit, const fm_model_config *c, struct fm_model_layer *layer)
{
    visit_one(visit, &layer->input_norm, "input_layernorm.weight");
    if (c->q_lora) {
        visit_one(visit, &layer->q_a, "self_attn.q_a_proj.weight");
        visit_one(visit, &layer->q_a_norm, "self_attn.q_a_layernorm.weight");
    }
    visit_one(visit, &layer->q_b, c->q_lora ? "self_attn.q_b_proj.weight" : "self_attn.q_proj.weight");
    visit_one(visit, &layer->kv_a, "self_attn.kv_a_proj_with_mqa.weight");
    visit_one(visit, &layer->kv_a_norm, "self_attn.kv_a_layernorm.weight");
    visit_one(visit, &layer->kv_b, "self_attn.kv_b_proj.weight");
    visit_one(visit, &layer->o, "self_attn.o_proj.weight");
    visit_one(visit, &layer->post_norm, "post_attention_layernorm.weight");
    if (!layer->experts) {
        visit_mlp(visit, &layer->mlp, "mlp");
        return;
    }
    visit_one(visit, &layer->router, "mlp.gate.weight");
    if (c->correction_bias)
        visit_one(visit, &layer->router_bias, "mlp.gate.e_score_correction_bias");
    for (int i = 0; i < c->experts; i++) {
        char name[40];
        snprintf(name, sizeof name, "mlp.experts.%d", i);
        visit_mlp(visit, &layer->experts[i], name);
    }
    if (c->shared_experts)
        visit_mlp(visit, &layer->mlp, "mlp.shared_experts");
}

fm_status fm_model_weights_each(const fm_model_config *config, struct fm_model_weights *weights,
                                int with_predictors, fm_model_weight_visitor call, void *context)
{
    struct visit visit = {.call = call, .context = context};
    visit_one(&visit, &weights->embed, "model.embed_tokens.weight");
    for (int i = 0; i < config->layers; i++) {
        snprintf(visit.prefix, sizeof visit.prefix, "model.layers.%d.", i);
        visit_layer(&visit, config, &weights->layers[i]);
    }
    visit.prefix[0] = 0;
    visit_one(&visit, &weights->norm, "model.norm.weight");
    if (!config->tied_head)
        visit_one(&visit, &weights->head, "lm_head.weight");
    for (int i = 0; with_predictors && i < config->predict_layers; i++) {
        struct fm_model_predictor *predictor = &weights->predictors[i];
        snprintf(visit.prefix, sizeof visit.prefix, "model.layers.%d.", config->layers + i);
        visit_one(&visit, &predictor->embed_norm, "enorm.weight");
        visit_one(&visit, &predictor->hidden_norm, "hnorm.weight");
        visit_one(&visit, &predictor->project, "eh_proj.weight");
        visit_layer(&visit, config, &predictor->layer);
        visit_one(&visit, &predictor->norm, "shared_head.norm.weight");
    }
    return visit.status;
}
