/**
 * @file safetensors.h
 * The safetensors format of the Hugging Face project, read by mapping and written atomically.
 *
 *     OFFSET  SIZE      CONTENT
 *     0       8         n, little-endian: bytes of the header, at most 100 000 000
 *     8       n         JSON object: tensor name -> {"dtype", "shape", "data_offsets": [begin, end)}, and
 *                       perhaps "__metadata__" -> {string: string}; begins with '{', may end in spaces
 *     8 + n   the rest  data; offsets count from here; every byte belongs to exactly one tensor
 *
 * Tensors are row-major and little-endian. Data are aligned to 8 bytes in files that this library or the
 * original wrote, but the format does not promise it: check the address before a typed load where a file
 * comes from elsewhere.
 *
 * Reading checks everything above before the first tensor is handed out: sizes against shapes with overflow,
 * offsets against the file, gaps, overlaps, duplicate names, unknown types, unknown fields.
 */
#ifndef FATHOM_SAFETENSORS_H
#define FATHOM_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/doc.h"
#include "fathom/status.h"
#include "fathom/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/** An open file. Immutable: any number of threads may read it. */
typedef struct fm_safetensors fm_safetensors;

/**
 * Maps a file; nothing is copied, and pages are read as they are touched. Do not truncate the file while it
 * is open: touching what is gone ends the program with SIGBUS, as with every mapping. Fails as fm_base_file_map()
 * does; FM_ERR_NOMEM; FM_ERR_FORMAT: malformed (names the tensor, the value and what was expected);
 * FM_ERR_UNSUPPORTED: a dtype that fathom/tensor.h lacks or more than FM_TENSOR_NDIM_MAX dimensions;
 * FM_ERR_LIMIT: a size overflows, or the header nests too deep.
 */
FM_API FM_MUST_USE fm_status fm_base_safetensors_open(const char *path, fm_safetensors **out_file);
/** The same over `length` bytes in memory, which are borrowed until the close. `name` stands for them in
 * messages. */
FM_API FM_MUST_USE fm_status fm_base_safetensors_open_memory(const void *bytes, size_t length,
                                                             const char *name, fm_safetensors **out_file);
/** Every tensor and name of the file is gone with it. NULL is allowed. */
FM_API void fm_base_safetensors_close(fm_safetensors *file);

FM_API size_t fm_base_safetensors_count(const fm_safetensors *file);
/** Tensor `index` in the order of the data; NULL outside. The data are read-only. */
FM_API const fm_tensor *fm_base_safetensors_at(const fm_safetensors *file, size_t index);
/** Its name; NULL outside. */
FM_API const char *fm_base_safetensors_name(const fm_safetensors *file, size_t index);
/** The tensor of this name, found by binary search; NULL when there is none. */
FM_API const fm_tensor *fm_base_safetensors_get(const fm_safetensors *file, const char *name);
/** The object under "__metadata__" (each value is a string), or NULL when the file has none. */
FM_API const fm_doc *fm_base_safetensors_metadata(const fm_safetensors *file);

/**
 * A file being written: declare all tensors, start, put their bytes in any order and in any pieces, finish.
 *
 *     fm_safetensors_writer *writer;
 *     FM_TRY(fm_base_safetensors_create("model.safetensors", &writer));
 *     fm_status status = fm_base_safetensors_declare(writer, "embed.weight", FM_DTYPE_BF16, 2, shape);
 *     if (status == FM_OK)
 *         status = fm_base_safetensors_start(writer);
 *     if (status == FM_OK)
 *         status = fm_base_safetensors_put(writer, "embed.weight", 0, bytes, size);
 *     if (status == FM_OK)
 *         return fm_base_safetensors_finish(writer);
 *     fm_base_safetensors_abandon(writer);
 *
 * The bytes go to a file beside `path`, which replaces `path` when all is written and synced: a reader or a
 * crash finds the old file or the new one. Files are laid out as the original does it (by dtype as
 * FM_DTYPE_LIST runs, backwards; then by name; the header padded with spaces to 8 bytes), so that equal
 * content gives equal files. One thread at a time.
 */
typedef struct fm_safetensors_writer fm_safetensors_writer;

FM_API FM_MUST_USE fm_status fm_base_safetensors_create(const char *path, fm_safetensors_writer **out_writer);
/** A writer whose file lies in memory, to be kept by other means; `name` stands for it in messages. It is filled in the same way
 * and ends with fm_base_safetensors_take() instead of a finish. */
FM_API FM_MUST_USE fm_status fm_base_safetensors_create_memory(const char *name,
                                                               fm_safetensors_writer **out_writer);
/** FM_ERR_ARG: the name is not UTF-8 or is "__metadata__", or as fm_base_tensor_bytes(); FM_ERR_STATE:
 * started. */
FM_API FM_MUST_USE fm_status fm_base_safetensors_declare(fm_safetensors_writer *writer, const char *name,
                                                         fm_dtype dtype, int ndim, const int64_t *shape);
/** Adds to "__metadata__". FM_ERR_ARG: not UTF-8; FM_ERR_STATE: started. */
FM_API FM_MUST_USE fm_status fm_base_safetensors_note(fm_safetensors_writer *writer, const char *key,
                                                      const char *value);
/** Lays out the file and writes its header. FM_ERR_EXISTS: a name or key was given twice; FM_ERR_LIMIT: the
 * header or the data are too large; FM_ERR_NOMEM; or as a draft of fathom/file.h fails. */
FM_API FM_MUST_USE fm_status fm_base_safetensors_start(fm_safetensors_writer *writer);
/** Writes `size` bytes at `offset` of the tensor; each byte is to be put once. FM_ERR_NOT_FOUND: no such
 * tensor; FM_ERR_ARG: beyond its end; FM_ERR_STATE: not started; or as fm_base_file_write(). */
FM_API FM_MUST_USE fm_status fm_base_safetensors_put(fm_safetensors_writer *writer, const char *name,
                                                     size_t offset, const void *bytes, size_t size);
/** Syncs and renames the file, and frees the writer whatever happens. FM_ERR_STATE: a tensor lacks bytes (the
 * message names it), or not started; or as fm_base_file_commit(). */
FM_API FM_MUST_USE fm_status fm_base_safetensors_finish(fm_safetensors_writer *writer);
/** The bytes of a file in memory, which the caller frees with fm_base_mem_free(); frees the writer whatever happens. FM_ERR_STATE:
 * as a finish, or the writer has a path. */
FM_API FM_MUST_USE fm_status fm_base_safetensors_take(fm_safetensors_writer *writer, void **out_bytes,
                                                      size_t *out_length);
/** Removes what was written and frees the writer. NULL is allowed. */
FM_API void fm_base_safetensors_abandon(fm_safetensors_writer *writer);

/** All of that for contiguous tensors in memory (FM_ERR_ARG for others). `metadata`: key, value, key, value,
 * ..., NULL; or NULL for none. */
FM_API FM_MUST_USE fm_status fm_base_safetensors_write(const char *path, const char *const *names,
                                                       const fm_tensor *tensors, size_t count,
                                                       const char *const *metadata);

#ifdef __cplusplus
}
#endif
#endif
