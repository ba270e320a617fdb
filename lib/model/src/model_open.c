#include "model_experts.h"
#include "model_low.h"
#include "model_private.h"

#include <stdio.h>

#include "fathom/cpu.h"

/** Options with their defaults filled in. */
struct choices {
    int threads, predict;
    fm_dtype dtype, cache_dtype;
};

static fm_status choose_dtype(const char *name, fm_dtype dtype)
{
    if (dtype == FM_DTYPE_F32 || dtype == FM_DTYPE_BF16 || dtype == FM_DTYPE_F8_E4M3)
        return FM_OK;
    return fm_base_error_set(FM_ERR_UNSUPPORTED, "%s in %s; known: F32, BF16, F8_E4M3", name,
                             fm_base_dtype_name(dtype));
}

static fm_status choose(const fm_model_options *options, struct choices *out)
{
    fm_model_options given = {.size = sizeof given};
    if (options && options->size != sizeof *options)
        return fm_base_error_set(FM_ERR_ARG, "options.size is %zu; expected %zu", options->size,
                                 sizeof *options);
    given = options ? *options : given;
    if (given.threads < 0 || given.threads > 1024)
        return fm_base_error_set(FM_ERR_ARG, "threads is %d; expected 0 to 1024", given.threads);
    if (given.predict != 0 && given.predict != 1)
        return fm_base_error_set(FM_ERR_ARG, "predict is %d; expected 0 or 1", given.predict);
    out->threads = given.threads ? given.threads : fm_base_cpu_threads();
    out->predict = given.predict;
    out->dtype = given.dtype ? given.dtype : FM_DTYPE_F32;
    out->cache_dtype = given.cache_dtype                ? given.cache_dtype
                       : out->dtype == FM_DTYPE_F8_E4M3 ? FM_DTYPE_BF16
                                                        : FM_DTYPE_F32;
    FM_TRY(choose_dtype("products", out->dtype));
    return choose_dtype("a cache", out->cache_dtype);
}

// mla attends unless all is f32.
static fm_status open_attention(fm_model *model, const struct choices *choices)
{
    const fm_model_config *c = &model->config;
    if (choices->dtype == FM_DTYPE_F32 && choices->cache_dtype == FM_DTYPE_F32)
        return FM_OK;
    if (c->kv_lora % 16 || c->rope % 16)
        return fm_base_error_set(
            FM_ERR_UNSUPPORTED,
            "kv_lora_rank is %d and qk_rope_head_dim %d; BF16 and FP8 need multiples of 16", c->kv_lora,
            c->rope);
    model->form = choices->cache_dtype == FM_DTYPE_F32    ? FM_MLA_FORM_F32
                  : choices->cache_dtype == FM_DTYPE_BF16 ? FM_MLA_FORM_BF16
                                                          : FM_MLA_FORM_FP8;
    const fm_mla_cache cache = {.form = model->form,
                                .page = FM_MODEL_BLOCK,
                                .h_kv = 1,
                                .d_qk = c->kv_lora + c->rope,
                                .d_v = c->kv_lora};
    const fm_mla_options options = {.size = sizeof options, .threads = choices->threads};
    FM_TRY(fm_mla_cache_page_bytes(&cache, &model->page_bytes));
    return fm_mla_context_open(&options, &model->mla);
}

// All but the weights' values, for a configuration that is set.
static fm_status open_parts(fm_model *model, const struct choices *choices)
{
    if (choices->predict && model->config.predict_layers == 0)
        return fm_base_error_set(FM_ERR_ARG,
                                 "the model has no head for multi-token prediction; config.json's "
                                 "num_nextn_predict_layers is 0");
    model->predict = choices->predict;
    model->loads = fm_base_mem_zalloc((size_t)model->config.layers * (size_t)model->config.experts,
                                      sizeof *model->loads);
    if (!model->loads)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to count what experts get");
    FM_TRY(fm_model_rotary_open(&model->config, &model->rotary));
    FM_TRY(fm_model_compute_open(choices->threads, choices->dtype, &model->compute));
    FM_TRY(open_attention(model, choices));
    return fm_model_weights_create(&model->config, &model->weights);
}

static fm_status open_files(const char *directory, const struct choices *choices, fm_model *model)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/config.json", directory);
    FM_TRY(fm_model_config_load(path, &model->config));
    FM_TRY(open_parts(model, choices));
    FM_TRY(fm_model_files_open(directory, &model->files));
    fm_status status = fm_model_files_attach(&model->files, &model->config, model->predict, &model->weights);
    if (status == FM_OK)
        status = fm_model_pack(model);
    return status < 0 ? fm_base_error_prefix(status, "%s", directory) : status;
}

static fm_status open_drawn(const fm_model_config *config, const struct choices *choices, uint64_t seed,
                            fm_model *model)
{
    FM_TRY(fm_model_config_check(config));
    model->config = *config;
    FM_TRY(open_parts(model, choices));
    return fm_model_draw(model, seed);
}

// From `directory`, or drawn where that is NULL.
static fm_status open_model(const char *directory, const fm_model_config *config,
                            const fm_model_options *options, uint64_t seed, fm_model **out_model)
{
    struct choices choices;
    FM_TRY(choose(options, &choices));
    fm_model *model = fm_base_mem_zalloc(1, sizeof *model);
    if (!model)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a model");
    fm_status status =
        directory ? open_files(directory, &choices, model) : open_drawn(config, &choices, seed, model);
    if (status < 0)
        fm_model_close(model);
    else
        *out_model = model;
    return status;
}

fm_status fm_model_open(const char *directory, const fm_model_options *options, fm_model **out_model)
{
    if (!directory || !out_model)
        return fm_base_error_set(FM_ERR_ARG, "directory and out_model must not be NULL");
    return open_model(directory, NULL, options, 0, out_model);
}

fm_status fm_model_open_random(const fm_model_config *config, const fm_model_options *options, uint64_t seed,
                               fm_model **out_model)
{
    if (!config || !out_model)
        return fm_base_error_set(FM_ERR_ARG, "config and out_model must not be NULL");
    return open_model(NULL, config, options, seed, out_model);
}

void fm_model_close(fm_model *model)
{
    if (!model)
        return;
    fm_model_experts_close(model->placed);
    fm_mla_context_close(model->mla);
    fm_model_compute_close(&model->compute);
    fm_model_rotary_close(&model->rotary);
    fm_model_weights_destroy(&model->config, &model->weights);
    fm_model_files_close(&model->files);
    fm_model_scratch_free(&model->scratch);
    fm_base_mem_free(model->region);
    fm_base_mem_free(model->loads);
    fm_base_mem_free(model);
}

const fm_model_config *fm_model_config_of(const fm_model *model)
{
    return &model->config;
}

const int64_t *fm_model_expert_loads(const fm_model *model, int layer)
{
    if (!model->loads || layer < 0 || layer >= model->config.layers ||
        !fm_model_is_moe(&model->config, layer))
        return NULL;
    return model->loads + (int64_t)layer * model->config.experts;
}
