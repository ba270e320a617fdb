/* Checkpoints that other programs load: config.json and safetensors in the Hugging Face layout, one file, or one for each
 * rank and an index. A parameter is written by the first rank that holds it. */
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "fathom/doc.h"
#include "fathom/file.h"
#include "fathom/numfmt.h"
#include "model_front.h"

static const char index_name[] = "model.safetensors.index.json", whole_name[] = "model.safetensors";

struct writing {
    const struct fm_trainer *trainer;
    fm_safetensors_writer *writer;
    fm_dtype dtype;
    int declare;
    int64_t largest; // cells of a tensor
    fm_bf16 *space;  // for so many
};

/** The rank that writes a parameter. */
static int writer_of(const struct fm_trainer *trainer, const char *name)
{
    const struct fm_model_rank *rank = trainer->rank;
    struct fm_model_part_of part = fm_model_layout_part(name);
    int first = 0;
    while (rank && !fm_model_layout_holds(&rank->layout, &trainer->model.config, first, part, rank->slot_of))
        first++;
    return first;
}

static int number_of(const struct fm_trainer *trainer)
{
    return trainer->rank ? trainer->rank->number : 0;
}

static fm_dtype dtype_of(const char *name, fm_dtype dtype)
{
    return strstr(name, "correction_bias") ? FM_DTYPE_F32 : dtype;
}

static fm_status write_one(void *context, const char *name, struct fm_model_weight *weight)
{
    struct writing *w = context;
    int64_t shape[2] = {weight->rows, weight->columns}, count = fm_model_weight_cells(weight);
    fm_dtype dtype = dtype_of(name, w->dtype);
    if (writer_of(w->trainer, name) != number_of(w->trainer))
        return FM_OK;
    w->largest = count > w->largest ? count : w->largest;
    if (w->declare)
        return fm_base_safetensors_declare(w->writer, name, dtype, weight->rows ? 2 : 1,
                                           weight->rows ? shape : shape + 1);
    if (dtype == FM_DTYPE_F32)
        return fm_base_safetensors_put(w->writer, name, 0, weight->values, (size_t)count * sizeof(float));
    fm_base_f32_to_bf16(weight->values, (size_t)count, w->space);
    return fm_base_safetensors_put(w->writer, name, 0, w->space, (size_t)count * sizeof *w->space);
}

static fm_status each(struct writing *writing)
{
    struct fm_model_weights weights = writing->trainer->model.weights; // visitors take what they may change
    return fm_model_weights_each(&writing->trainer->model.config, &weights, 1, write_one, writing);
}

static fm_status write_tensors(struct writing *writing)
{
    writing->declare = 1;
    FM_TRY(fm_base_safetensors_note(writing->writer, "format", "pt")); // loaders of PyTorch ask for it
    FM_TRY(each(writing));
    FM_TRY(fm_base_safetensors_start(writing->writer));
    writing->space = fm_base_mem_alloc((size_t)writing->largest * sizeof *writing->space);
    if (!writing->space)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to write a checkpoint");
    writing->declare = 0;
    return each(writing);
}

static fm_status write_file(const struct fm_trainer *trainer, fm_dtype dtype, const char *path)
{
    struct writing writing = {.trainer = trainer, .dtype = dtype};
    FM_TRY(fm_base_safetensors_create(path, &writing.writer));
    fm_status status = write_tensors(&writing);
    fm_base_mem_free(writing.space);
    if (status == FM_OK)
        return fm_base_safetensors_finish(writing.writer);
    fm_base_safetensors_abandon(writing.writer);
    return status;
}

static void shard_name(const struct fm_trainer *trainer, int rank, char name[static 64])
{
    snprintf(name, 64, "model-%05d-of-%05d.safetensors", rank + 1, trainer->rank->layout.ranks);
}

struct indexing {
    const struct fm_trainer *trainer;
    fm_dtype dtype;
    int64_t bytes;
    fm_json *json; // NULL: bytes are counted alone
};

static fm_status index_one(void *context, const char *name, struct fm_model_weight *weight)
{
    struct indexing *indexing = context;
    char shard[64];
    if (!indexing->json) {
        indexing->bytes +=
            fm_model_weight_cells(weight) *
            (int64_t)(dtype_of(name, indexing->dtype) == FM_DTYPE_F32 ? sizeof(float) : sizeof(fm_bf16));
        return FM_OK;
    }
    shard_name(indexing->trainer, writer_of(indexing->trainer, name), shard);
    fm_base_json_string(indexing->json, name, shard);
    return FM_OK;
}

static fm_status write_index(const struct fm_trainer *trainer, fm_dtype dtype, const char *folder)
{
    char path[4096];
    fm_json json = {0};
    struct fm_model_weights weights = trainer->model.weights;
    struct indexing indexing = {.trainer = trainer, .dtype = dtype};
    FM_TRY(fm_model_weights_each(&trainer->model.config, &weights, 1, index_one, &indexing));
    fm_base_json_begin(&json, NULL, '{');
    fm_base_json_begin(&json, "metadata", '{');
    fm_base_json_int(&json, "total_size", indexing.bytes);
    fm_base_json_end(&json);
    fm_base_json_begin(&json, "weight_map", '{');
    indexing.json = &json;
    fm_status status = fm_model_weights_each(&trainer->model.config, &weights, 1, index_one, &indexing);
    fm_base_json_end(&json);
    fm_base_json_end(&json);
    snprintf(path, sizeof path, "%s/%s", folder, index_name);
    if (status == FM_OK && json.status == FM_OK)
        status = fm_base_file_save(path, json.text, json.length);
    fm_status finished = fm_base_json_finish(&json, NULL);
    return finished < 0 ? finished : status;
}

// What an export of another layout has left would be loaded instead, or lie there for nothing: the index that the folder had,
// and the shards that it names but `kept`.
static void remove_others(const char *folder, const fm_doc *old_index, const char *kept)
{
    const fm_doc *map = fm_base_doc_get(old_index, "weight_map");
    char path[4096];
    for (size_t i = 0; map && fm_base_doc_type(map) == FM_DOC_OBJECT && i < fm_base_doc_count(map); i++) {
        const char *name;
        if (fm_base_doc_string(fm_base_doc_at(map, i), "shard", &name) < 0 || strchr(name, '/') ||
            (kept && strstr(name, kept)))
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, name);
        (void)unlink(path);
    }
    snprintf(path, sizeof path, "%s/%s", folder, kept ? whole_name : index_name);
    (void)unlink(path);
}

// The index that lies in the folder; NULL: none.
static fm_doc *old_index(const char *folder)
{
    char path[4096];
    fm_doc *index = NULL;
    snprintf(path, sizeof path, "%s/%s", folder, index_name);
    return fm_base_doc_load(path, &index) < 0 ? NULL : index;
}

static fm_status export_alone(const struct fm_trainer *trainer, fm_dtype dtype, const char *folder)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, whole_name);
    fm_doc *before = old_index(folder);
    fm_status status = write_file(trainer, dtype, path);
    if (status == FM_OK)
        remove_others(folder, before, NULL);
    fm_base_doc_free(before);
    return status;
}

struct exporting {
    fm_dtype dtype;
    const char *folder;
};

static fm_status export_rank(struct fm_trainer *trainer, void *context)
{
    const struct exporting *exporting = context;
    char path[4096], name[64];
    shard_name(trainer, number_of(trainer), name);
    snprintf(path, sizeof path, "%s/%s", exporting->folder, name);
    FM_TRY(fm_model_rank_agree(trainer, write_file(trainer, exporting->dtype, path)));
    fm_status status = FM_OK;
    if (number_of(trainer) == 0) {
        fm_doc *before = old_index(exporting->folder);
        snprintf(name, sizeof name, "-of-%05d.", trainer->rank->layout.ranks);
        status = write_index(trainer, exporting->dtype, exporting->folder);
        if (status == FM_OK)
            remove_others(exporting->folder, before, name);
        fm_base_doc_free(before);
    }
    return fm_model_rank_agree(trainer, status);
}

fm_status fm_model_trainer_export(fm_trainer *trainer, fm_dtype dtype, const char *folder)
{
    char path[4096];
    if (dtype != FM_DTYPE_BF16 && dtype != FM_DTYPE_F32)
        return fm_base_error_set(FM_ERR_ARG, "dtype is %s; expected BF16 or F32", fm_base_dtype_name(dtype));
    if (trainer->front)
        return fm_model_front_export(trainer, dtype, folder);
    FM_TRY(fm_base_dir_create(folder));
    snprintf(path, sizeof path, "%s/config.json", folder);
    if (number_of(trainer) == 0)
        FM_TRY(fm_model_config_save(&trainer->model.config, dtype == FM_DTYPE_BF16 ? "bfloat16" : "float32",
                                    path));
    struct exporting exporting = {dtype, folder};
    return trainer->crew || trainer->rank ? fm_model_ranks_run(trainer, export_rank, &exporting)
                                          : export_alone(trainer, dtype, folder);
}
