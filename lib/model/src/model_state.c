// Checkpoints: what other programs load, and what training goes on from.
#include "model_trainer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "fathom/file.h"
#include "fathom/numfmt.h"

struct writing {
    fm_safetensors_writer *writer;
    fm_dtype dtype;
    int declare;
    const char *prefix;  // of the names
    const float *base;   // what `values` of the weights are offset from
    const float *source; // what is written instead
    fm_bf16 *space;      // as long as the largest tensor
};

static int64_t cells(const struct fm_model_weight *weight)
{
    return (weight->rows ? weight->rows : 1) * weight->columns;
}

static fm_status write_one(void *context, const char *name, struct fm_model_weight *weight)
{
    const struct writing *w = context;
    char full[192];
    int64_t shape[2] = {weight->rows, weight->columns};
    fm_dtype dtype = strstr(name, "correction_bias") ? FM_DTYPE_F32 : w->dtype;
    snprintf(full, sizeof full, "%s%s", w->prefix, name);
    if (w->declare)
        return fm_base_safetensors_declare(w->writer, full, dtype, weight->rows ? 2 : 1,
                                           weight->rows ? shape : shape + 1);
    size_t count = (size_t)cells(weight);
    const float *from = w->source + (weight->values - w->base);
    if (dtype == FM_DTYPE_F32)
        return fm_base_safetensors_put(w->writer, full, 0, from, count * sizeof *from);
    fm_base_f32_to_bf16(from, count, w->space);
    return fm_base_safetensors_put(w->writer, full, 0, w->space, count * sizeof *w->space);
}

static fm_status largest_one(void *context, const char *name, struct fm_model_weight *weight)
{
    int64_t *largest = context;
    (void)name;
    *largest = cells(weight) > *largest ? cells(weight) : *largest;
    return FM_OK;
}

// Declares, or writes, all weights.
static fm_status each(const fm_trainer *trainer, struct writing *writing)
{
    struct fm_model_weights weights = trainer->model.weights; // visitors take weights that they may change
    return fm_model_weights_each(&trainer->model.config, &weights, 1, write_one, writing);
}

static fm_status write_model(const fm_trainer *trainer, struct writing *writing)
{
    writing->declare = 1;
    FM_TRY(fm_base_safetensors_note(writing->writer, "format", "pt")); // loaders of PyTorch ask for it
    FM_TRY(each(trainer, writing));
    FM_TRY(fm_base_safetensors_start(writing->writer));
    writing->declare = 0;
    return each(trainer, writing);
}

static fm_status finish(fm_safetensors_writer *writer, fm_status status)
{
    if (status == FM_OK)
        return fm_base_safetensors_finish(writer);
    fm_base_safetensors_abandon(writer);
    return status;
}

fm_status fm_model_trainer_export(const fm_trainer *trainer, fm_dtype dtype, const char *folder)
{
    char path[4096];
    int64_t largest = 0;
    struct fm_model_weights weights = trainer->model.weights;
    struct writing writing = {
        .dtype = dtype, .prefix = "", .base = trainer->values, .source = trainer->values};
    if (dtype != FM_DTYPE_BF16 && dtype != FM_DTYPE_F32)
        return fm_base_error_set(FM_ERR_ARG, "dtype is %s; expected BF16 or F32", fm_base_dtype_name(dtype));
    FM_TRY(fm_base_dir_create(folder));
    snprintf(path, sizeof path, "%s/config.json", folder);
    FM_TRY(
        fm_model_config_save(&trainer->model.config, dtype == FM_DTYPE_BF16 ? "bfloat16" : "float32", path));
    FM_TRY(fm_model_weights_each(&trainer->model.config, &weights, 1, largest_one, &largest));
    writing.space = fm_base_mem_alloc((size_t)largest * sizeof *writing.space);
    if (!writing.space)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to write a checkpoint");
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    fm_status status = fm_base_safetensors_create(path, &writing.writer);
    if (status == FM_OK)
        status = finish(writing.writer, write_model(trainer, &writing));
    fm_base_mem_free(writing.space);
    return status;
}

/** What a state file holds of each parameter. */
enum { PARTS = 3 };
static const char *const part_names[PARTS] = {"", "adam_mean.", "adam_square."};

static float *part_of(const fm_trainer *trainer, int part)
{
    return part == 0 ? trainer->values : part == 1 ? trainer->mean : trainer->square;
}

static fm_status write_state(const fm_trainer *trainer, fm_safetensors_writer *writer,
                             const char *const *notes)
{
    char text[32];
    snprintf(text, sizeof text, "%" PRId64, trainer->step);
    FM_TRY(fm_base_safetensors_note(writer, "step", text));
    for (const char *const *note = notes; note && note[0]; note += 2)
        FM_TRY(fm_base_safetensors_note(writer, note[0], note[1]));
    for (int declare = 1; declare >= 0; declare--) {
        for (int part = 0; part < PARTS; part++) {
            struct writing writing = {.writer = writer,
                                      .dtype = FM_DTYPE_F32,
                                      .declare = declare,
                                      .prefix = part_names[part],
                                      .base = trainer->values,
                                      .source = part_of(trainer, part)};
            FM_TRY(each(trainer, &writing));
        }
        if (declare)
            FM_TRY(fm_base_safetensors_start(writer));
    }
    return FM_OK;
}

fm_status fm_model_trainer_save(const fm_trainer *trainer, const char *path, const char *const *notes)
{
    fm_safetensors_writer *writer;
    FM_TRY(fm_base_safetensors_create(path, &writer));
    return finish(writer, write_state(trainer, writer, notes));
}

fm_status fm_model_trainer_pack(const fm_trainer *trainer, const char *const *notes, void **out_bytes,
                                size_t *out_length)
{
    fm_safetensors_writer *writer;
    FM_TRY(fm_base_safetensors_create_memory("the state", &writer));
    fm_status status = write_state(trainer, writer, notes);
    if (status == FM_OK)
        return fm_base_safetensors_take(writer, out_bytes, out_length);
    fm_base_safetensors_abandon(writer);
    return status;
}

struct reading {
    const fm_safetensors *file;
    const fm_trainer *trainer;
    int copy; // else check alone
};

static fm_status read_one(void *context, const char *name, struct fm_model_weight *weight)
{
    const struct reading *r = context;
    for (int part = 0; part < PARTS; part++) {
        char full[192];
        snprintf(full, sizeof full, "%s%s", part_names[part], name);
        const fm_tensor *tensor = fm_base_safetensors_get(r->file, full);
        int ndim = weight->rows ? 2 : 1;
        if (!tensor)
            return fm_base_error_set(FM_ERR_FORMAT, "the state has no tensor %s, which the model asks for",
                                     full);
        if (tensor->dtype != FM_DTYPE_F32 || tensor->ndim != ndim ||
            tensor->shape[ndim - 1] != weight->columns || (ndim == 2 && tensor->shape[0] != weight->rows))
            return fm_base_error_set(FM_ERR_FORMAT, "%s of the state is no F32 [%" PRId64 ", %" PRId64 "]",
                                     full, weight->rows, weight->columns);
        if (r->copy)
            memcpy(part_of(r->trainer, part) + (weight->values - r->trainer->values), tensor->data,
                   (size_t)cells(weight) * sizeof(float));
    }
    return FM_OK;
}

static fm_status read_step(const fm_safetensors *file, int64_t *out_step)
{
    const char *text;
    char *end;
    FM_TRY(fm_base_doc_string(fm_base_doc_get(fm_base_safetensors_metadata(file), "step"), "step", &text));
    *out_step = strtoll(text, &end, 10);
    if (end == text || *end || *out_step < 0)
        return fm_base_error_set(FM_ERR_FORMAT, "step is \"%s\"; expected a number of steps", text);
    return FM_OK;
}

// Takes a state from an open file, which it closes.
static fm_status load_from(fm_trainer *trainer, fm_safetensors *file, const char *name)
{
    int64_t step = 0;
    struct reading reading = {file, trainer, 0};
    fm_status status = read_step(file, &step);
    for (; status == FM_OK && reading.copy < 2; reading.copy++) // checked whole before anything changes
        status =
            fm_model_weights_each(&trainer->model.config, &trainer->model.weights, 1, read_one, &reading);
    if (status == FM_OK)
        trainer->step = step;
    else
        status = fm_base_error_prefix(status, "%s", name);
    fm_base_safetensors_close(file);
    return status;
}

fm_status fm_model_trainer_load(fm_trainer *trainer, const char *path)
{
    fm_safetensors *file;
    FM_TRY(fm_base_safetensors_open(path, &file));
    return load_from(trainer, file, path);
}

fm_status fm_model_trainer_unpack(fm_trainer *trainer, const void *bytes, size_t length, const char *name)
{
    fm_safetensors *file;
    FM_TRY(fm_base_safetensors_open_memory(bytes, length, name, &file));
    return load_from(trainer, file, name);
}
