#include "fathom/safetensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "doc_private.h"
#include "fathom/file.h"
#include "safetensors_private.h"

struct entry {
    fm_tensor tensor;
    const char *name;
    size_t begin; // of its bytes within the data
    size_t end;
    uint32_t member; // its place in the header
};

struct fm_safetensors {
    fm_file_map map; // empty over borrowed memory
    fm_doc *header;
    const fm_doc *metadata; // NULL: none
    size_t count;
    struct entry *entries; // in the order of the data
    uint32_t *place;       // of a header member in `entries`; unset for the metadata
};

static fm_status read_shape(const fm_doc *node, const char *quoted, int *out_ndim, int64_t *out_shape)
{
    char what[FM_DOC_QUOTE_BYTES + 32];
    snprintf(what, sizeof what, "tensor %s: shape", quoted);
    FM_TRY(fm_base_doc_expect(node, what, FM_DOC_ARRAY));
    size_t ndim = fm_base_doc_count(node);
    if (ndim > FM_TENSOR_NDIM_MAX)
        return fm_base_doc_error(FM_ERR_UNSUPPORTED, node,
                                 "tensor %s has %zu dimensions; at most %d are supported", quoted, ndim,
                                 FM_TENSOR_NDIM_MAX);
    for (size_t i = 0; i < ndim; i++) {
        snprintf(what, sizeof what, "tensor %s: shape[%zu]", quoted, i);
        FM_TRY(fm_base_doc_int(fm_base_doc_at(node, i), what, 0, INT64_MAX, &out_shape[i]));
    }
    *out_ndim = (int)ndim;
    return FM_OK;
}

static fm_status read_offsets(const fm_doc *node, const char *quoted, size_t data_length, struct entry *entry)
{
    char what[FM_DOC_QUOTE_BYTES + 32];
    snprintf(what, sizeof what, "tensor %s: data_offsets", quoted);
    FM_TRY(fm_base_doc_expect(node, what, FM_DOC_ARRAY));
    if (fm_base_doc_count(node) != 2)
        return fm_base_doc_error(FM_ERR_FORMAT, node, "%s has %zu elements; expected [begin, end]", what,
                                 fm_base_doc_count(node));
    int64_t offsets[2];
    for (size_t i = 0; i < 2; i++)
        FM_TRY(fm_base_doc_int(fm_base_doc_at(node, i), what, 0, INT64_MAX, &offsets[i]));
    entry->begin = (size_t)offsets[0];
    entry->end = (size_t)offsets[1];
    if (entry->begin > entry->end)
        return fm_base_doc_error(FM_ERR_FORMAT, node, "%s [%zu, %zu] end before they begin", what,
                                 entry->begin, entry->end);
    if (entry->end > data_length)
        return fm_base_doc_error(FM_ERR_FORMAT, node,
                                 "%s [%zu, %zu] go beyond the file, which holds %zu bytes of data", what,
                                 entry->begin, entry->end, data_length);
    return FM_OK;
}

/** The field of a tensor's entry. */
static fm_status find_field(const fm_doc *node, const char *quoted, const char *key, const fm_doc **out_field)
{
    const fm_doc *field = fm_base_doc_get(node, key);
    if (!field)
        return fm_base_doc_error(FM_ERR_FORMAT, node, "tensor %s has no %s", quoted, key);
    *out_field = field;
    return FM_OK;
}

static fm_status read_entry(const fm_doc *node, const char *data, size_t data_length, struct entry *entry)
{
    static const char *const known[] = {"dtype", "shape", "data_offsets", NULL};
    char quoted[FM_DOC_QUOTE_BYTES];
    char what[FM_DOC_QUOTE_BYTES + 32];
    fm_base_doc_quote(entry->name, quoted);
    snprintf(what, sizeof what, "tensor %s", quoted);
    FM_TRY(fm_base_doc_known_keys(node, what, known));
    const fm_doc *field = NULL;
    FM_TRY(find_field(node, quoted, "dtype", &field));
    snprintf(what, sizeof what, "tensor %s: dtype", quoted);
    const char *dtype_name = NULL;
    fm_dtype dtype = FM_DTYPE_NONE;
    FM_TRY(fm_base_doc_string(field, what, &dtype_name));
    fm_status status = fm_base_dtype_from_name(dtype_name, &dtype);
    if (status < 0)
        return fm_base_doc_error(status, node, "tensor %s: %s", quoted, fm_error_message());
    int ndim = 0;
    int64_t shape[FM_TENSOR_NDIM_MAX];
    FM_TRY(find_field(node, quoted, "shape", &field));
    FM_TRY(read_shape(field, quoted, &ndim, shape));
    FM_TRY(find_field(node, quoted, "data_offsets", &field));
    FM_TRY(read_offsets(field, quoted, data_length, entry));
    size_t bytes;
    status = fm_base_tensor_bytes(dtype, ndim, shape, &bytes);
    if (status < 0)
        return fm_base_doc_error(status == FM_ERR_ARG ? FM_ERR_FORMAT : status, node, "tensor %s: %s", quoted,
                                 fm_error_message());
    if (bytes != entry->end - entry->begin)
        return fm_base_doc_error(
            FM_ERR_FORMAT, node,
            "tensor %s: its dtype and shape take %zu bytes, its data_offsets [%zu, %zu] %zu", quoted, bytes,
            entry->begin, entry->end, entry->end - entry->begin);
    // Tensors have one pointer, for readers and writers alike; the public header says that these data are read-only.
    const char *from = data + entry->begin;
    void *writable;
    memcpy(&writable, &from, sizeof writable);
    return fm_base_tensor_init(&entry->tensor, dtype, ndim, shape, writable);
}

static int compare_offsets(const void *a, const void *b)
{
    const struct entry *x = a;
    const struct entry *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

/** Every byte of the data belongs to one tensor. `entries` are sorted. */
static fm_status check_coverage(const fm_safetensors *file, size_t data_length)
{
    char quoted[FM_DOC_QUOTE_BYTES];
    char other[FM_DOC_QUOTE_BYTES];
    size_t covered = 0;
    for (size_t i = 0; i < file->count; i++) {
        const struct entry *entry = &file->entries[i];
        if (entry->begin > covered)
            return fm_base_doc_error(FM_ERR_FORMAT, file->header,
                                     "bytes %zu to %zu of the data belong to no tensor", covered,
                                     entry->begin);
        if (entry->begin < covered)
            return fm_base_doc_error(FM_ERR_FORMAT, file->header,
                                     "tensors %s and %s overlap at byte %zu of the data",
                                     fm_base_doc_quote(file->entries[i - 1].name, other),
                                     fm_base_doc_quote(entry->name, quoted), entry->begin);
        covered = entry->end;
    }
    if (covered != data_length)
        return fm_base_doc_error(FM_ERR_FORMAT, file->header,
                                 "bytes %zu to %zu of the data belong to no tensor", covered, data_length);
    return FM_OK;
}

static fm_status read_metadata(const fm_doc *node)
{
    FM_TRY(fm_base_doc_expect(node, SAFETENSORS_METADATA, FM_DOC_OBJECT));
    for (size_t i = 0; i < fm_base_doc_count(node); i++) {
        char quoted[FM_DOC_QUOTE_BYTES];
        char what[FM_DOC_QUOTE_BYTES + 32];
        snprintf(what, sizeof what, "%s: %s", SAFETENSORS_METADATA,
                 fm_base_doc_quote(fm_base_doc_key(node, i), quoted));
        FM_TRY(fm_base_doc_expect(fm_base_doc_at(node, i), what, FM_DOC_STRING));
    }
    return FM_OK;
}

static fm_status read_entries(fm_safetensors *file, const char *data, size_t data_length)
{
    size_t members = fm_base_doc_count(file->header);
    file->entries = fm_base_mem_zalloc(members, sizeof *file->entries);
    file->place = fm_base_mem_zalloc(members, sizeof *file->place);
    if (!file->entries || !file->place)
        return fm_base_doc_error(FM_ERR_NOMEM, file->header, "no memory for %zu tensors", members);
    for (size_t i = 0; i < members; i++) {
        const fm_doc *node = fm_base_doc_at(file->header, i);
        const char *name = fm_base_doc_key(file->header, i);
        if (strcmp(name, SAFETENSORS_METADATA) == 0) {
            FM_TRY(read_metadata(node));
            file->metadata = node;
            continue;
        }
        struct entry *entry = &file->entries[file->count++];
        entry->name = name;
        entry->member = (uint32_t)i;
        FM_TRY(read_entry(node, data, data_length, entry));
    }
    qsort(file->entries, file->count, sizeof *file->entries, compare_offsets);
    for (size_t i = 0; i < file->count; i++)
        file->place[file->entries[i].member] = (uint32_t)i;
    return check_coverage(file, data_length);
}

static fm_status read_file(fm_safetensors *file, const char *bytes, size_t length, const char *name)
{
    if (length < SAFETENSORS_PREFIX)
        return fm_base_error_set(FM_ERR_FORMAT,
                                 "%s: %zu bytes; a safetensors file begins with a header length of 8", name,
                                 length);
    uint64_t header_length = fm_get_le64(bytes);
    if (header_length > SAFETENSORS_HEADER_MAX)
        return fm_base_error_set(FM_ERR_FORMAT, "%s: a header of %" PRIu64 " bytes; the format allows %d",
                                 name, header_length, SAFETENSORS_HEADER_MAX);
    if (header_length > length - SAFETENSORS_PREFIX)
        return fm_base_error_set(FM_ERR_FORMAT,
                                 "%s: a header of %" PRIu64 " bytes goes beyond the file, which has %zu",
                                 name, header_length, length);
    const char *header = bytes + SAFETENSORS_PREFIX;
    if (header_length == 0 || header[0] != '{')
        return fm_base_error_set(FM_ERR_FORMAT,
                                 "%s: the header is not a JSON object; expected it to begin with '{'", name);
    char header_name[1024];
    snprintf(header_name, sizeof header_name, "%s (header)", name);
    FM_TRY(fm_base_doc_parse_json(header, (size_t)header_length, header_name, &file->header));
    return read_entries(file, header + header_length, length - SAFETENSORS_PREFIX - (size_t)header_length);
}

static fm_status open_bytes(fm_file_map map, const void *bytes, size_t length, const char *name,
                            fm_safetensors **out_file)
{
    fm_safetensors *file = fm_base_mem_zalloc(1, sizeof *file);
    if (!file)
        return fm_base_error_set(FM_ERR_NOMEM, "%s: no memory to read it", name);
    fm_status status = read_file(file, bytes, length, name);
    if (status < 0) {
        fm_base_safetensors_close(file);
        return status;
    }
    file->map = map;
    *out_file = file;
    return FM_OK;
}

fm_status fm_base_safetensors_open(const char *path, fm_safetensors **out_file)
{
    fm_file_map map;
    FM_TRY(fm_base_file_map(path, &map));
    fm_status status = open_bytes(map, map.bytes, map.length, path, out_file);
    if (status < 0)
        fm_base_file_unmap(&map);
    return status;
}

fm_status fm_base_safetensors_open_memory(const void *bytes, size_t length, const char *name,
                                          fm_safetensors **out_file)
{
    return open_bytes((fm_file_map){0}, bytes, length, name, out_file);
}

void fm_base_safetensors_close(fm_safetensors *file)
{
    if (!file)
        return;
    fm_base_file_unmap(&file->map);
    fm_base_doc_free(file->header);
    fm_base_mem_free(file->entries);
    fm_base_mem_free(file->place);
    fm_base_mem_free(file);
}

size_t fm_base_safetensors_count(const fm_safetensors *file)
{
    return file->count;
}

const fm_tensor *fm_base_safetensors_at(const fm_safetensors *file, size_t index)
{
    return index < file->count ? &file->entries[index].tensor : NULL;
}

const char *fm_base_safetensors_name(const fm_safetensors *file, size_t index)
{
    return index < file->count ? file->entries[index].name : NULL;
}

const fm_tensor *fm_base_safetensors_get(const fm_safetensors *file, const char *name)
{
    int64_t member = fm_base_doc_find(file->header, name);
    if (member < 0 || strcmp(name, SAFETENSORS_METADATA) == 0)
        return NULL;
    return &file->entries[file->place[member]].tensor;
}

const fm_doc *fm_base_safetensors_metadata(const fm_safetensors *file)
{
    return file->metadata;
}
