#include "model_private.h"

#include <stdio.h>

#include "fathom/cpu.h"

static fm_status open_parts(const char *directory, int threads, fm_model *model)
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
    return fm_model_compute_open(threads, &model->compute);
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
    fm_model *model = fm_base_mem_zalloc(1, sizeof *model);
    if (!model)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a model");
    fm_status status = open_parts(directory, threads ? threads : fm_base_cpu_threads(), model);
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
