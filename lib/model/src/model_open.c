#include "model_low.h"
#include "model_private.h"

#include <stdio.h>

#include "fathom/cpu.h"

static fm_status prepare_one(void *context, const char *name, struct fm_model_weight *weight)
{
    (void)name;
    return fm_model_low_prepare(context, weight);
}

static fm_status open_parts(const char *directory, int threads, fm_dtype dtype, fm_model *model)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/config.json", directory);
    FM_TRY(fm_model_config_load(path, &model->config));
    FM_TRY(fm_model_weights_create(&model->config, &model->weights));
    FM_TRY(fm_model_files_open(directory, &model->files));
    fm_status status = fm_model_files_attach(&model->files, &model->config, &model->weights);
    if (status < 0)
        return fm_base_error_prefix(status, "%s", directory);
    FM_TRY(fm_model_rotary_open(&model->config, &model->rotary));
    FM_TRY(fm_model_compute_open(threads, dtype, &model->compute));
    if (!model->compute.low)
        return FM_OK;
    FM_TRY(fm_model_weights_each(&model->config, &model->weights, 0, prepare_one, model->compute.low));
    if (model->config.tied_head)
        model->weights.head = model->weights.embed;
    fm_mla_options options = {.size = sizeof options, .threads = threads};
    return fm_mla_context_open(&options, &model->mla);
}

fm_status fm_model_open(const char *directory, const fm_model_options *options, fm_model **out_model)
{
    int threads = options ? options->threads : 0;
    if (!directory || !out_model)
        return fm_base_error_set(FM_ERR_ARG, "directory and out_model must not be NULL");
    if (options && options->size != sizeof *options)
        return fm_base_error_set(FM_ERR_ARG, "options.size is %zu; expected %zu", options->size,
                                 sizeof *options);
    if (threads < 0 || threads > 1024)
        return fm_base_error_set(FM_ERR_ARG, "threads is %d; expected 0 to 1024", threads);
    fm_dtype dtype = options && options->dtype ? options->dtype : FM_DTYPE_F32;
    if (dtype != FM_DTYPE_F32 && dtype != FM_DTYPE_BF16 && dtype != FM_DTYPE_F8_E4M3)
        return fm_base_error_set(FM_ERR_UNSUPPORTED, "products in %s; known: F32, BF16, F8_E4M3",
                                 fm_base_dtype_name(dtype));
    fm_model *model = fm_base_mem_zalloc(1, sizeof *model);
    if (!model)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a model");
    fm_status status = open_parts(directory, threads ? threads : fm_base_cpu_threads(), dtype, model);
    if (status < 0)
        fm_model_close(model);
    else
        *out_model = model;
    return status;
}

void fm_model_close(fm_model *model)
{
    if (!model)
        return;
    fm_mla_context_close(model->mla);
    fm_model_compute_close(&model->compute);
    fm_model_rotary_close(&model->rotary);
    fm_model_weights_destroy(&model->config, &model->weights);
    fm_model_files_close(&model->files);
    fm_model_scratch_free(&model->scratch);
    fm_base_mem_free(model);
}

const fm_model_config *fm_model_config_of(const fm_model *model)
{
    return &model->config;
}
