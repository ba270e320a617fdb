#include "fathom/model.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "fathom/doc.h"
#include "fathom/file.h"
#include "fathom/mem.h"

enum {
    WIDTH_MAX = 1 << 20
}; // of any dimension: keeps every product of two in 64 bits, and is far beyond any model

/** A key of config.json that holds a whole number. `low` below 0 stands for an optional key, absent or null. */
struct whole_key {
    const char *key;
    size_t offset;
    int low, high;
    int optional, value;
};

#define AT(field) offsetof(fm_model_config, field)
static const struct whole_key whole_keys[] = {
    {"vocab_size", AT(vocab), 1, INT_MAX / 2, 0, 0},
    {"hidden_size", AT(hidden), 1, WIDTH_MAX, 0, 0},
    {"intermediate_size", AT(intermediate), 1, WIDTH_MAX, 0, 0},
    {"num_hidden_layers", AT(layers), 1, 4096, 0, 0},
    {"first_k_dense_replace", AT(dense_layers), 0, 4096, 1, 0},
    {"num_attention_heads", AT(heads), 1, 4096, 0, 0},
    {"q_lora_rank", AT(q_lora), 1, WIDTH_MAX, 1, 0},
    {"kv_lora_rank", AT(kv_lora), 1, WIDTH_MAX, 0, 0},
    {"qk_nope_head_dim", AT(nope), 1, 65536, 0, 0},
    {"qk_rope_head_dim", AT(rope), 2, 65536, 0, 0},
    {"v_head_dim", AT(value), 1, 65536, 0, 0},
    {"n_routed_experts", AT(experts), 0, 65536, 1, 0},
    {"moe_intermediate_size", AT(expert_intermediate), 1, WIDTH_MAX, 1, 0},
    {"n_shared_experts", AT(shared_experts), 0, 1024, 1, 0},
    {"num_experts_per_tok", AT(topk), 1, 1024, 1, 0},
    {"n_group", AT(groups), 1, 65536, 1, 1},
    {"topk_group", AT(topk_groups), 1, 65536, 1, 1},
    {"max_position_embeddings", AT(context), 1, INT_MAX / 2, 0, 0},
    {"num_nextn_predict_layers", AT(predict_layers), 0, 16, 1, 0},
    {"bos_token_id", AT(bos), 0, INT_MAX / 2, 1, -1},
    {"eos_token_id", AT(eos), 0, INT_MAX / 2, 1, -1},
};

static int *field_of(fm_model_config *config, const struct whole_key *key)
{
    return (int *)((char *)config + key->offset);
}

static fm_status read_whole(const fm_doc *root, fm_model_config *config)
{
    for (size_t i = 0; i < sizeof whole_keys / sizeof whole_keys[0]; i++) {
        const struct whole_key *key = &whole_keys[i];
        const fm_doc *node = fm_base_doc_get(root, key->key);
        int64_t value = key->value;
        if (!key->optional || (node && fm_base_doc_type(node) != FM_DOC_NULL))
            FM_TRY(fm_base_doc_int(node, key->key, key->low, key->high, &value));
        *field_of(config, key) = (int)value;
    }
    return FM_OK;
}

static int present(const fm_doc *node)
{
    return node && fm_base_doc_type(node) != FM_DOC_NULL;
}

static fm_status read_real(const fm_doc *object, const char *key, double standard, double *out_value)
{
    const fm_doc *node = fm_base_doc_get(object, key);
    *out_value = standard;
    return present(node) ? fm_base_doc_real(node, key, out_value) : FM_OK;
}

static fm_status read_flag(const fm_doc *object, const char *key, int *out_value)
{
    const fm_doc *node = fm_base_doc_get(object, key);
    *out_value = 0;
    return present(node) ? fm_base_doc_bool(node, key, out_value) : FM_OK;
}

// The index of a string among `known` (NULL-terminated); `standard` where the key is absent.
static fm_status read_word(const fm_doc *object, const char *key, const char *const *known, int standard,
                           int *out_index)
{
    const fm_doc *node = fm_base_doc_get(object, key);
    const char *word;
    char list[256] = "";
    *out_index = standard;
    if (!present(node))
        return FM_OK;
    FM_TRY(fm_base_doc_string(node, key, &word));
    for (int i = 0; known[i]; i++) {
        if (strcmp(known[i], word) == 0) {
            *out_index = i;
            return FM_OK;
        }
        size_t length = strlen(list);
        snprintf(list + length, sizeof list - length, "%s%s", i ? ", " : "", known[i]);
    }
    return fm_base_doc_error(FM_ERR_UNSUPPORTED, node, "%s is \"%s\"; known: %s", key, word, list);
}

static fm_status read_yarn(const fm_doc *root, fm_model_yarn *yarn)
{
    static const char *const kinds[] = {"yarn", NULL};
    const fm_doc *scaling = fm_base_doc_get(root, "rope_scaling");
    int64_t original;
    int kind;
    *yarn = (fm_model_yarn){0};
    if (!present(scaling))
        return FM_OK;
    FM_TRY(fm_base_doc_expect(scaling, "rope_scaling", FM_DOC_OBJECT));
    FM_TRY(read_word(scaling, "type", kinds, 0, &kind));
    FM_TRY(fm_base_doc_real(fm_base_doc_get(scaling, "factor"), "factor", &yarn->factor));
    FM_TRY(fm_base_doc_int(fm_base_doc_get(scaling, "original_max_position_embeddings"),
                           "original_max_position_embeddings", 1, INT_MAX / 2, &original));
    yarn->original_context = (int)original;
    FM_TRY(read_real(scaling, "beta_fast", 32, &yarn->beta_fast));
    FM_TRY(read_real(scaling, "beta_slow", 1, &yarn->beta_slow));
    FM_TRY(read_real(scaling, "mscale", 1, &yarn->mscale));
    FM_TRY(read_real(scaling, "mscale_all_dim", 0, &yarn->mscale_all_dim));
    if (!(yarn->factor > 0 && yarn->beta_fast > 0 && yarn->beta_slow > 0))
        return fm_base_doc_error(
            FM_ERR_FORMAT, scaling,
            "rope_scaling has factor %g, beta_fast %g, beta_slow %g; expected all above 0", yarn->factor,
            yarn->beta_fast, yarn->beta_slow);
    return FM_OK;
}

static fm_status read_words(const fm_doc *root, fm_model_config *config)
{
    static const char *const families[] = {"deepseek_v2", "deepseek_v3", NULL};
    static const char *const gates[] = {"softmax", "sigmoid", NULL};
    static const char *const methods[] = {"greedy", "group_limited_greedy", "noaux_tc", NULL};
    static const char *const activations[] = {"silu", NULL};
    int index, bias;
    FM_TRY(fm_base_doc_expect(fm_base_doc_get(root, "model_type"), "model_type", FM_DOC_STRING));
    FM_TRY(read_word(root, "model_type", families, 0, &index));
    config->family = index == 0 ? FM_MODEL_V2 : FM_MODEL_V3;
    FM_TRY(read_word(root, "scoring_func", gates, config->family == FM_MODEL_V3, &index));
    config->gate = index == 0 ? FM_MODEL_SOFTMAX : FM_MODEL_SIGMOID;
    FM_TRY(read_word(root, "topk_method", methods, config->family == FM_MODEL_V3 ? 2 : 0, &index));
    config->correction_bias = index == 2;
    if (index == 0) // "greedy" looks at no groups, whatever their number
        config->groups = config->topk_groups = 1;
    FM_TRY(read_word(root, "hidden_act", activations, 0, &index));
    FM_TRY(read_flag(root, "attention_bias", &bias));
    if (bias)
        return fm_base_doc_error(FM_ERR_UNSUPPORTED, fm_base_doc_get(root, "attention_bias"),
                                 "attention_bias is true; expected false: no published model has it");
    return FM_OK;
}

static fm_status read_config(const fm_doc *root, fm_model_config *config)
{
    const fm_doc *frequency = fm_base_doc_get(root, "moe_layer_freq");
    int64_t one;
    FM_TRY(fm_base_doc_expect(root, "config.json", FM_DOC_OBJECT));
    FM_TRY(read_words(root, config)); // first: another architecture has other keys
    FM_TRY(read_whole(root, config));
    FM_TRY(read_words(root, config));
    FM_TRY(read_yarn(root, &config->yarn));
    FM_TRY(read_flag(root, "norm_topk_prob", &config->normalise_topk));
    FM_TRY(read_flag(root, "tie_word_embeddings", &config->tied_head));
    FM_TRY(read_real(root, "routed_scaling_factor", 1, &config->routed_scale));
    FM_TRY(read_real(root, "rms_norm_eps", 1e-6, &config->epsilon));
    FM_TRY(read_real(root, "rope_theta", 10000, &config->rope_theta));
    if (present(frequency))
        FM_TRY(fm_base_doc_int(frequency, "moe_layer_freq", 1, 1, &one));
    if (config->experts == 0)
        config->dense_layers = config->layers;
    return FM_OK;
}

fm_status fm_model_config_load(const char *path, fm_model_config *out_config)
{
    fm_doc *root;
    fm_model_config config = {0};
    FM_TRY(fm_base_doc_load(path, &root));
    fm_status status = read_config(root, &config);
    if (status == FM_OK) {
        status = fm_model_config_check(&config);
        if (status < 0)
            status = fm_base_error_prefix(FM_ERR_FORMAT, "%s", path);
    }
    fm_base_doc_free(root);
    if (status == FM_OK)
        *out_config = config;
    return status;
}

static fm_status check_experts(const fm_model_config *c)
{
    if (c->dense_layers == c->layers)
        return FM_OK;
    if (c->experts < 1 || c->expert_intermediate < 1 || c->topk < 1 || c->topk > c->experts)
        return fm_base_error_set(
            FM_ERR_ARG,
            "n_routed_experts is %d, moe_intermediate_size %d, num_experts_per_tok %d; expected "
            "experts, a width, and at most as many per token as there are",
            c->experts, c->expert_intermediate, c->topk);
    if (c->groups < 1 || c->experts % c->groups || c->topk_groups < 1 || c->topk_groups > c->groups ||
        c->topk > c->experts / c->groups * c->topk_groups)
        return fm_base_error_set(
            FM_ERR_ARG,
            "n_group is %d and topk_group %d for %d experts and %d per token; expected groups that "
            "divide the experts and hold enough of them",
            c->groups, c->topk_groups, c->experts, c->topk);
    if (c->shared_experts < 0 || (int64_t)c->shared_experts * c->expert_intermediate > WIDTH_MAX)
        return fm_base_error_set(FM_ERR_ARG, "n_shared_experts is %d; expected 0 to 1024", c->shared_experts);
    return FM_OK;
}

fm_status fm_model_config_check(const fm_model_config *config)
{
    fm_model_config c = *config;
    for (size_t i = 0; i < sizeof whole_keys / sizeof whole_keys[0]; i++) {
        const struct whole_key *key = &whole_keys[i];
        int value = *field_of(&c, key);
        if ((value < key->low || value > key->high) &&
            !(key->optional && (value == key->value || value == 0)))
            return fm_base_error_set(FM_ERR_ARG, "%s is %d; expected %d to %d", key->key, value, key->low,
                                     key->high);
    }
    if (c.dense_layers > c.layers)
        return fm_base_error_set(FM_ERR_ARG,
                                 "first_k_dense_replace is %d; expected at most num_hidden_layers, %d",
                                 c.dense_layers, c.layers);
    if (c.rope % 2)
        return fm_base_error_set(FM_ERR_ARG, "qk_rope_head_dim is %d; expected an even number", c.rope);
    if ((int64_t)c.heads * (c.nope + c.rope) > WIDTH_MAX || (int64_t)c.heads * (c.nope + c.value) > WIDTH_MAX)
        return fm_base_error_set(FM_ERR_ARG,
                                 "%d heads of %d, %d and %d channels; expected at most %d channels in all",
                                 c.heads, c.nope, c.rope, c.value, WIDTH_MAX);
    if (c.bos >= c.vocab || c.eos >= c.vocab)
        return fm_base_error_set(FM_ERR_ARG,
                                 "bos_token_id is %d and eos_token_id %d; expected below vocab_size, %d",
                                 c.bos, c.eos, c.vocab);
    if (!(c.epsilon > 0) || !(c.rope_theta > 1) || !(c.routed_scale > 0))
        return fm_base_error_set(
            FM_ERR_ARG,
            "rms_norm_eps is %g, rope_theta %g, routed_scaling_factor %g; expected above 0, 1 and 0",
            c.epsilon, c.rope_theta, c.routed_scale);
    return check_experts(&c);
}

static void write_yarn(fm_json *json, const fm_model_yarn *yarn)
{
    if (yarn->factor == 0) {
        fm_base_json_null(json, "rope_scaling");
        return;
    }
    fm_base_json_begin(json, "rope_scaling", '{');
    fm_base_json_string(json, "type", "yarn");
    fm_base_json_real(json, "factor", yarn->factor);
    fm_base_json_int(json, "original_max_position_embeddings", yarn->original_context);
    fm_base_json_real(json, "beta_fast", yarn->beta_fast);
    fm_base_json_real(json, "beta_slow", yarn->beta_slow);
    fm_base_json_real(json, "mscale", yarn->mscale);
    fm_base_json_real(json, "mscale_all_dim", yarn->mscale_all_dim);
    fm_base_json_end(json);
}

static void write_config(fm_json *json, const fm_model_config *config, const char *dtype)
{
    fm_model_config c = *config;
    int v3 = c.family == FM_MODEL_V3;
    fm_base_json_begin(json, NULL, '{');
    fm_base_json_begin(json, "architectures", '[');
    fm_base_json_string(json, NULL, v3 ? "DeepseekV3ForCausalLM" : "DeepseekV2ForCausalLM");
    fm_base_json_end(json);
    fm_base_json_string(json, "model_type", v3 ? "deepseek_v3" : "deepseek_v2");
    for (size_t i = 0; i < sizeof whole_keys / sizeof whole_keys[0]; i++) {
        const struct whole_key *key = &whole_keys[i];
        int value = *field_of(&c, key);
        if (value < key->low && key->optional)
            fm_base_json_null(json, key->key);
        else
            fm_base_json_int(json, key->key, value);
    }
    fm_base_json_int(json, "moe_layer_freq", 1);
    fm_base_json_int(json, "num_key_value_heads", c.heads);
    fm_base_json_string(json, "topk_method",
                        c.correction_bias ? "noaux_tc"
                        : c.groups > 1    ? "group_limited_greedy"
                                          : "greedy");
    fm_base_json_string(json, "scoring_func", c.gate == FM_MODEL_SIGMOID ? "sigmoid" : "softmax");
    fm_base_json_bool(json, "norm_topk_prob", c.normalise_topk);
    fm_base_json_real(json, "routed_scaling_factor", c.routed_scale);
    fm_base_json_real(json, "rms_norm_eps", c.epsilon);
    fm_base_json_real(json, "rope_theta", c.rope_theta);
    write_yarn(json, &c.yarn);
    fm_base_json_string(json, "hidden_act", "silu");
    fm_base_json_bool(json, "tie_word_embeddings", c.tied_head);
    fm_base_json_bool(json, "attention_bias", 0);
    fm_base_json_string(json, "torch_dtype", dtype);
    fm_base_json_end(json);
}

fm_status fm_model_config_save(const fm_model_config *config, const char *dtype, const char *path)
{
    fm_json json = {.pretty = 1};
    FM_TRY(fm_model_config_check(config));
    write_config(&json, config, dtype);
    fm_status status = json.status == FM_OK ? fm_base_file_save(path, json.text, json.length) : FM_OK;
    fm_status finished = fm_base_json_finish(&json, NULL);
    return finished < 0 ? finished : status;
}

int64_t fm_model_config_parameters(const fm_model_config *c, int64_t *out_active)
{
    int64_t hidden = c->hidden, queries = (int64_t)c->heads * (c->nope + c->rope);
    int64_t attention =
        (c->q_lora ? hidden * c->q_lora + c->q_lora + c->q_lora * queries : hidden * queries) +
        hidden * (c->kv_lora + c->rope) + c->kv_lora + (int64_t)c->kv_lora * c->heads * (c->nope + c->value) +
        hidden * c->heads * c->value + 2 * hidden;
    int64_t expert = 3 * hidden * c->expert_intermediate;
    int64_t moe_layers = c->layers - c->dense_layers;
    int64_t always = (c->tied_head ? 1 : 2) * hidden * c->vocab + hidden + c->layers * attention +
                     c->dense_layers * 3 * hidden * c->intermediate +
                     moe_layers * (hidden * c->experts + (c->correction_bias ? c->experts : 0) +
                                   c->shared_experts * expert);
    if (out_active)
        *out_active = always + moe_layers * c->topk * expert;
    return always + moe_layers * c->experts * expert;
}
