#include "fathom/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "fathom/mem.h"
#include "fathom/file.h"
#include "safetensors_private.h"
#include "utf8.h"

struct declared {
    const char *name;
    fm_dtype dtype;
    int ndim;
    int64_t shape[FM_TENSOR_NDIM_MAX];
    size_t begin;
    size_t bytes;
    size_t written;
};

struct note {
    const char *key;
    const char *value;
};

struct fm_safetensors_writer {
    fm_arena names;
    const char *path;
    struct declared *tensors; // by name, once started
    size_t count;
    size_t capacity;
    struct note *notes; // by key, once started
    size_t note_count;
    size_t note_capacity;
    fm_file_draft draft;
    int in_memory;
    char *image;        // of a file in memory, once started
    size_t data_offset; // of the data within the file
    size_t data_bytes;
    int started;
};

fm_status fm_base_safetensors_create(const char *path, fm_safetensors_writer **out_writer)
{
    fm_safetensors_writer *writer = fm_base_mem_zalloc(1, sizeof *writer);
    if (writer)
        writer->path = fm_base_arena_strndup(&writer->names, path, strlen(path));
    if (!writer || !writer->path) {
        fm_base_safetensors_abandon(writer);
        fm_base_error_set(FM_ERR_NOMEM, "%s: no memory to write it", path);
        return FM_ERR_NOMEM;
    }
    *out_writer = writer;
    return FM_OK;
}

fm_status fm_base_safetensors_create_memory(const char *name, fm_safetensors_writer **out_writer)
{
    FM_TRY(fm_base_safetensors_create(name, out_writer));
    (*out_writer)->in_memory = 1;
    return FM_OK;
}

static fm_status begin_file(fm_safetensors_writer *writer)
{
    size_t bytes = 0;
    if (!writer->in_memory)
        return fm_base_file_begin(&writer->draft, writer->path);
    FM_TRY(fm_add_size(writer->data_offset, writer->data_bytes, &bytes));
    writer->image = fm_base_mem_alloc(bytes);
    return writer->image
               ? FM_OK
               : fm_base_error_set(FM_ERR_NOMEM, "%s: no memory for %zu bytes", writer->path, bytes);
}

static fm_status store(fm_safetensors_writer *writer, size_t at, const void *bytes, size_t size)
{
    if (!writer->in_memory)
        return fm_base_file_write(&writer->draft, at, bytes, size);
    if (size)
        memcpy(writer->image + at, bytes, size);
    return FM_OK;
}

/** A copy of text that can stand in the header. */
static fm_status copy_text(fm_safetensors_writer *writer, const char *what, const char *text,
                           const char **out_copy)
{
    size_t length = strlen(text);
    for (size_t at = 0, step; at < length; at += step) {
        step = fm_utf8_character(text + at, length - at);
        if (step == 0)
            return fm_base_error_set(FM_ERR_ARG, "%s: %s is not UTF-8 at byte %zu", writer->path, what, at);
    }
    *out_copy = fm_base_arena_strndup(&writer->names, text, length);
    return *out_copy ? FM_OK : fm_base_error_set(FM_ERR_NOMEM, "%s: no memory for a name", writer->path);
}

/** Room for one more element of `size` bytes in a list. */
static fm_status grow(const fm_safetensors_writer *writer, void **list, size_t count, size_t *capacity,
                      size_t size)
{
    if (count < *capacity)
        return FM_OK;
    size_t doubled = *capacity ? 2 * *capacity : 16;
    void *moved = fm_base_mem_realloc(*list, doubled, size);
    if (!moved)
        return fm_base_error_set(FM_ERR_NOMEM, "%s: no memory for %zu names", writer->path, doubled);
    *list = moved;
    *capacity = doubled;
    return FM_OK;
}

static fm_status started_already(const fm_safetensors_writer *writer)
{
    return fm_base_error_set(FM_ERR_STATE, "%s: its header is written; names come before the start",
                             writer->path);
}

fm_status fm_base_safetensors_declare(fm_safetensors_writer *writer, const char *name, fm_dtype dtype,
                                      int ndim, const int64_t *shape)
{
    if (writer->started)
        return started_already(writer);
    if (strcmp(name, SAFETENSORS_METADATA) == 0)
        return fm_base_error_set(FM_ERR_ARG, "%s: a tensor cannot be named %s", writer->path, name);
    struct declared tensor = {.dtype = dtype, .ndim = ndim};
    fm_status status = fm_base_tensor_bytes(dtype, ndim, shape, &tensor.bytes);
    if (status < 0)
        return fm_base_error_prefix(status, "%s: tensor \"%s\"", writer->path, name);
    for (int i = 0; i < ndim; i++)
        tensor.shape[i] = shape[i];
    void *list = writer->tensors;
    FM_TRY(grow(writer, &list, writer->count, &writer->capacity, sizeof tensor));
    writer->tensors = list;
    FM_TRY(copy_text(writer, "a tensor's name", name, &tensor.name));
    writer->tensors[writer->count++] = tensor;
    return FM_OK;
}

fm_status fm_base_safetensors_note(fm_safetensors_writer *writer, const char *key, const char *value)
{
    if (writer->started)
        return started_already(writer);
    struct note note;
    void *list = writer->notes;
    FM_TRY(grow(writer, &list, writer->note_count, &writer->note_capacity, sizeof note));
    writer->notes = list;
    FM_TRY(copy_text(writer, "a metadata key", key, &note.key));
    FM_TRY(copy_text(writer, "a metadata value", value, &note.value));
    writer->notes[writer->note_count++] = note;
    return FM_OK;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct declared *)a)->name, ((const struct declared *)b)->name);
}

static int compare_layout(const void *a, const void *b)
{
    const struct declared *x = a;
    const struct declared *y = b;
    if (x->dtype != y->dtype)
        return x->dtype > y->dtype ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int compare_keys(const void *a, const void *b)
{
    return strcmp(((const struct note *)a)->key, ((const struct note *)b)->key);
}

/** qsort() that takes an empty list without an address. */
static void sort(void *list, size_t count, size_t size, int (*compare)(const void *, const void *))
{
    if (count)
        qsort(list, count, size, compare);
}

/** Sorts tensors into the order of the file and gives them their offsets. */
static fm_status lay_out(fm_safetensors_writer *writer)
{
    sort(writer->tensors, writer->count, sizeof *writer->tensors, compare_names);
    for (size_t i = 1; i < writer->count; i++)
        if (compare_names(&writer->tensors[i - 1], &writer->tensors[i]) == 0)
            return fm_base_error_set(FM_ERR_EXISTS, "%s: tensor \"%s\" is declared twice", writer->path,
                                     writer->tensors[i].name);
    sort(writer->notes, writer->note_count, sizeof *writer->notes, compare_keys);
    for (size_t i = 1; i < writer->note_count; i++)
        if (compare_keys(&writer->notes[i - 1], &writer->notes[i]) == 0)
            return fm_base_error_set(FM_ERR_EXISTS, "%s: metadata key \"%s\" is given twice", writer->path,
                                     writer->notes[i].key);
    sort(writer->tensors, writer->count, sizeof *writer->tensors, compare_layout);
    size_t end = 0;
    for (size_t i = 0; i < writer->count; i++) {
        writer->tensors[i].begin = end;
        FM_TRY(fm_add_size(end, writer->tensors[i].bytes, &end));
    }
    writer->data_bytes = end;
    return end <= INT64_MAX ? FM_OK
                            : fm_base_error_set(FM_ERR_LIMIT, "%s: %zu bytes of data", writer->path, end);
}

static void write_header(const fm_safetensors_writer *writer, fm_json *json)
{
    fm_base_json_begin(json, NULL, '{');
    if (writer->note_count) {
        fm_base_json_begin(json, SAFETENSORS_METADATA, '{');
        for (size_t i = 0; i < writer->note_count; i++)
            fm_base_json_string(json, writer->notes[i].key, writer->notes[i].value);
        fm_base_json_end(json);
    }
    for (size_t i = 0; i < writer->count; i++) {
        const struct declared *tensor = &writer->tensors[i];
        fm_base_json_begin(json, tensor->name, '{');
        fm_base_json_string(json, "dtype", fm_base_dtype_name(tensor->dtype));
        fm_base_json_begin(json, "shape", '[');
        for (int d = 0; d < tensor->ndim; d++)
            fm_base_json_int(json, NULL, tensor->shape[d]);
        fm_base_json_end(json);
        fm_base_json_begin(json, "data_offsets", '[');
        fm_base_json_int(json, NULL, (int64_t)tensor->begin);
        fm_base_json_int(json, NULL, (int64_t)(tensor->begin + tensor->bytes));
        fm_base_json_end(json);
        fm_base_json_end(json);
    }
    fm_base_json_end(json);
}

static fm_status put_header(fm_safetensors_writer *writer, const fm_json *json)
{
    if (json->status < 0)
        return FM_OK; // fm_base_json_finish() will say it
    size_t length = fm_round_up(json->length, SAFETENSORS_ALIGNMENT);
    if (length > SAFETENSORS_HEADER_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "%s: a header of %zu bytes; the format allows %d",
                                 writer->path, length, SAFETENSORS_HEADER_MAX);
    uint8_t prefix[SAFETENSORS_PREFIX];
    char spaces[SAFETENSORS_ALIGNMENT];
    fm_put_le64(prefix, length);
    memset(spaces, ' ', sizeof spaces);
    writer->data_offset = sizeof prefix + length;
    FM_TRY(begin_file(writer));
    FM_TRY(store(writer, 0, prefix, sizeof prefix));
    FM_TRY(store(writer, sizeof prefix, json->text, json->length));
    return store(writer, sizeof prefix + json->length, spaces, length - json->length);
}

fm_status fm_base_safetensors_start(fm_safetensors_writer *writer)
{
    if (writer->started)
        return started_already(writer);
    FM_TRY(lay_out(writer));
    fm_json json = {0};
    write_header(writer, &json);
    fm_status status = put_header(writer, &json);
    fm_status json_status = fm_base_json_finish(&json, NULL);
    if (status < 0 || json_status < 0) {
        fm_base_file_discard(&writer->draft);
        fm_base_mem_free(writer->image);
        writer->image = NULL;
        return status < 0 ? status : json_status;
    }
    sort(writer->tensors, writer->count, sizeof *writer->tensors, compare_names);
    writer->started = 1;
    return FM_OK;
}

fm_status fm_base_safetensors_put(fm_safetensors_writer *writer, const char *name, size_t offset,
                                  const void *bytes, size_t size)
{
    if (!writer->started)
        return fm_base_error_set(FM_ERR_STATE, "%s: bytes are put before the start", writer->path);
    struct declared key = {.name = name};
    struct declared *tensor =
        writer->count ? bsearch(&key, writer->tensors, writer->count, sizeof key, compare_names) : NULL;
    if (!tensor)
        return fm_base_error_set(FM_ERR_NOT_FOUND, "%s: tensor \"%s\" was not declared", writer->path, name);
    if (offset > tensor->bytes || size > tensor->bytes - offset)
        return fm_base_error_set(FM_ERR_ARG, "%s: %zu bytes at %zu of tensor \"%s\", which has %zu",
                                 writer->path, size, offset, name, tensor->bytes);
    FM_TRY(store(writer, writer->data_offset + tensor->begin + offset, bytes, size));
    tensor->written += size;
    return FM_OK;
}

static fm_status check_whole(const fm_safetensors_writer *writer)
{
    if (!writer->started)
        return fm_base_error_set(FM_ERR_STATE, "%s: finished before the start", writer->path);
    for (size_t i = 0; i < writer->count; i++)
        if (writer->tensors[i].written != writer->tensors[i].bytes)
            return fm_base_error_set(FM_ERR_STATE, "%s: %zu bytes of tensor \"%s\" were put; it has %zu",
                                     writer->path, writer->tensors[i].written, writer->tensors[i].name,
                                     writer->tensors[i].bytes);
    return FM_OK;
}

fm_status fm_base_safetensors_finish(fm_safetensors_writer *writer)
{
    fm_status status = check_whole(writer);
    if (status == FM_OK && writer->in_memory)
        status =
            fm_base_error_set(FM_ERR_STATE, "%s lies in memory: it is taken, not finished", writer->path);
    if (status == FM_OK)
        status = fm_base_file_commit(&writer->draft);
    fm_base_safetensors_abandon(writer); // after a commit there is no draft to remove
    return status;
}

fm_status fm_base_safetensors_take(fm_safetensors_writer *writer, void **out_bytes, size_t *out_length)
{
    fm_status status = check_whole(writer);
    if (status == FM_OK && !writer->in_memory)
        status =
            fm_base_error_set(FM_ERR_STATE, "%s is written to disk: it is finished, not taken", writer->path);
    if (status == FM_OK) {
        *out_bytes = writer->image;
        *out_length = writer->data_offset + writer->data_bytes;
        writer->image = NULL;
    }
    fm_base_safetensors_abandon(writer);
    return status;
}

void fm_base_safetensors_abandon(fm_safetensors_writer *writer)
{
    if (!writer)
        return;
    fm_base_file_discard(&writer->draft);
    fm_base_mem_free(writer->image);
    fm_base_arena_clear(&writer->names);
    fm_base_mem_free(writer->tensors);
    fm_base_mem_free(writer->notes);
    fm_base_mem_free(writer);
}

static fm_status put_all(fm_safetensors_writer *writer, const char *const *names, const fm_tensor *tensors,
                         size_t count, const char *const *metadata)
{
    for (; metadata && metadata[0]; metadata += 2)
        FM_TRY(fm_base_safetensors_note(writer, metadata[0], metadata[1]));
    for (size_t i = 0; i < count; i++) {
        if (!fm_base_tensor_is_contiguous(&tensors[i]))
            return fm_base_error_set(FM_ERR_ARG, "%s: tensor \"%s\" is not contiguous", writer->path,
                                     names[i]);
        FM_TRY(fm_base_safetensors_declare(writer, names[i], tensors[i].dtype, tensors[i].ndim,
                                           tensors[i].shape));
    }
    FM_TRY(fm_base_safetensors_start(writer));
    for (size_t i = 0; i < count; i++) {
        size_t bytes;
        FM_TRY(fm_base_tensor_bytes(tensors[i].dtype, tensors[i].ndim, tensors[i].shape, &bytes));
        FM_TRY(fm_base_safetensors_put(writer, names[i], 0, tensors[i].data, bytes));
    }
    return FM_OK;
}

fm_status fm_base_safetensors_write(const char *path, const char *const *names, const fm_tensor *tensors,
                                    size_t count, const char *const *metadata)
{
    fm_safetensors_writer *writer;
    FM_TRY(fm_base_safetensors_create(path, &writer));
    fm_status status = put_all(writer, names, tensors, count, metadata);
    if (status == FM_OK)
        return fm_base_safetensors_finish(writer);
    fm_base_safetensors_abandon(writer);
    return status;
}
