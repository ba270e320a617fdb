#include "model_private.h"

#include <stdio.h>

#include "fathom/doc.h"
#include "fathom/file.h"
#include "fathom/numfmt.h"

enum { FILES_MAX = 4096 };

static fm_status add_file(struct fm_model_files *files, const char *directory, const char *name)
{
    char path[4096];
    for (int i = 0; i < files->count; i++)
        if (strcmp(files->shards[i].name, name) == 0)
            return FM_OK;
    if (files->count == FILES_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "the checkpoint has more than %d files", FILES_MAX);
    if (strchr(name, '/'))
        return fm_base_error_set(FM_ERR_FORMAT, "shard \"%s\": expected a file name without '/'", name);
    void *shards = fm_base_mem_realloc(files->shards, (size_t)files->count + 1, sizeof *files->shards);
    if (shards)
        files->shards = shards;
    char *copy = shards ? fm_base_mem_strdup(name) : NULL;
    if (!copy)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the list of shards");
    snprintf(path, sizeof path, "%s/%s", directory, name);
    fm_status status = fm_base_safetensors_open(path, &files->shards[files->count].map);
    if (status < 0) {
        fm_base_mem_free(copy);
        return status;
    }
    files->shards[files->count++].name = copy;
    return FM_OK;
}

static fm_status open_shards(const char *directory, const fm_doc *index, struct fm_model_files *files)
{
    const fm_doc *map = fm_base_doc_get(index, "weight_map");
    FM_TRY(fm_base_doc_expect(map, "weight_map", FM_DOC_OBJECT));
    for (size_t i = 0; i < fm_base_doc_count(map); i++) {
        const char *name;
        FM_TRY(fm_base_doc_string(fm_base_doc_at(map, i), "shard", &name));
        FM_TRY(add_file(files, directory, name));
    }
    return FM_OK;
}

fm_status fm_model_files_open(const char *directory, struct fm_model_files *out_files)
{
    char path[4096];
    fm_doc *index = NULL;
    struct fm_model_files files = {0};
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", directory);
    fm_status status = fm_base_doc_load(path, &index);
    if (status == FM_OK) {
        status = open_shards(directory, index, &files);
        fm_base_doc_free(index);
    } else if (status == FM_ERR_NOT_FOUND) {
        status = add_file(&files, directory, "model.safetensors");
    }
    if (status < 0)
        fm_model_files_close(&files);
    else
        *out_files = files;
    return status;
}

void fm_model_files_close(struct fm_model_files *files)
{
    for (int i = 0; i < files->count; i++) {
        fm_base_safetensors_close(files->shards[i].map);
        fm_base_mem_free(files->shards[i].name);
    }
    fm_base_mem_free(files->shards);
    *files = (struct fm_model_files){0};
}

static const fm_tensor *find(const struct fm_model_files *files, const char *name)
{
    for (int i = 0; i < files->count; i++) {
        const fm_tensor *tensor = fm_base_safetensors_get(files->shards[i].map, name);
        if (tensor)
            return tensor;
    }
    return NULL;
}

// "[2, 3]": for messages.
static void show_shape(const int64_t *shape, int ndim, char text[static 96])
{
    int length = snprintf(text, 96, "[");
    for (int i = 0; i < ndim && length < 80; i++)
        length += snprintf(text + length, 96 - (size_t)length, "%s%lld", i ? ", " : "", (long long)shape[i]);
    snprintf(text + length, 96 - (size_t)length, "]");
}

static fm_status check_shape(const char *name, const fm_tensor *tensor, int ndim, const int64_t *expected)
{
    char have[96], want[96];
    int equal = tensor->ndim == ndim;
    for (int i = 0; equal && i < ndim; i++)
        equal = tensor->shape[i] == expected[i];
    if (equal)
        return FM_OK;
    show_shape(tensor->shape, tensor->ndim, have);
    show_shape(expected, ndim, want);
    return fm_base_error_set(FM_ERR_FORMAT, "%s is %s; config.json asks for %s", name, have, want);
}

static fm_status attach_scales(const struct fm_model_files *files, const char *name,
                               struct fm_model_weight *weight)
{
    char scale_name[192];
    int64_t blocks[2] = {(weight->rows + FM_MODEL_SCALE_BLOCK - 1) / FM_MODEL_SCALE_BLOCK,
                         (weight->columns + FM_MODEL_SCALE_BLOCK - 1) / FM_MODEL_SCALE_BLOCK};
    snprintf(scale_name, sizeof scale_name, "%s_scale_inv", name);
    const fm_tensor *scales = find(files, scale_name);
    if (!scales)
        return fm_base_error_set(FM_ERR_NOT_FOUND, "%s is F8_E4M3, and its %s is not in the checkpoint", name,
                                 scale_name);
    FM_TRY(check_shape(scale_name, scales, 2, blocks));
    if (scales->dtype != FM_DTYPE_F32 || (uintptr_t)scales->data % sizeof(float))
        return fm_base_error_set(FM_ERR_UNSUPPORTED, "%s is %s; expected F32, aligned", scale_name,
                                 fm_base_dtype_name(scales->dtype));
    weight->matrix.scales = scales->data;
    weight->matrix.scale_stride = blocks[1];
    return FM_OK;
}

static fm_status attach_vector(const char *name, const fm_tensor *tensor, struct fm_model_weight *weight)
{
    if (tensor->dtype == FM_DTYPE_F32) {
        // Read-only like the file; nothing writes through a weight that has no `values`.
        weight->vector = tensor->data;
        return FM_OK;
    }
    if (tensor->dtype != FM_DTYPE_BF16)
        return fm_base_error_set(FM_ERR_UNSUPPORTED, "%s is %s; expected F32 or BF16", name,
                                 fm_base_dtype_name(tensor->dtype));
    weight->vector = fm_base_mem_alloc((size_t)weight->columns * sizeof(float));
    if (!weight->vector)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %s", name);
    fm_base_bf16_to_f32(tensor->data, (size_t)weight->columns, weight->vector);
    return FM_OK;
}

static fm_status attach_one(void *context, const char *name, struct fm_model_weight *weight)
{
    const struct fm_model_files *files = context;
    const fm_tensor *tensor = find(files, name);
    int64_t shape[2] = {weight->rows, weight->columns};
    if (!tensor)
        return fm_base_error_set(FM_ERR_NOT_FOUND,
                                 "the checkpoint has no tensor %s, which config.json asks for", name);
    FM_TRY(check_shape(name, tensor, weight->rows ? 2 : 1, weight->rows ? shape : shape + 1));
    size_t size = (size_t)fm_base_dtype_bits(tensor->dtype) / 8;
    if (size && (uintptr_t)tensor->data % size)
        return fm_base_error_set(FM_ERR_UNSUPPORTED, "%s is not aligned to its type in the file", name);
    weight->matrix =
        (struct fm_model_matrix){.dtype = tensor->dtype, .data = tensor->data, .stride = weight->columns};
    if (!weight->rows)
        return attach_vector(name, tensor, weight);
    if (tensor->dtype == FM_DTYPE_F8_E4M3)
        return attach_scales(files, name, weight);
    if (tensor->dtype != FM_DTYPE_F32 && tensor->dtype != FM_DTYPE_BF16)
        return fm_base_error_set(FM_ERR_UNSUPPORTED, "%s is %s; expected F32, BF16 or F8_E4M3", name,
                                 fm_base_dtype_name(tensor->dtype));
    return FM_OK;
}

fm_status fm_model_files_attach(const struct fm_model_files *files, const fm_model_config *config,
                                int with_predictors, struct fm_model_weights *weights)
{
    struct fm_model_files borrowed = *files; // the visitor's context is not const
    FM_TRY(fm_model_weights_each(config, weights, with_predictors, attach_one, &borrowed));
    if (config->tied_head)
        weights->head = weights->embed;
    return FM_OK;
}
