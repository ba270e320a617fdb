/**
 * @file npy.h
 * NumPy's .npy files: one array, read by mapping and written atomically.
 *
 *     OFFSET  SIZE    CONTENT
 *     0       6       \x93 N U M P Y
 *     6       2       version: 1.0, 2.0 or 3.0
 *     8       2 or 4  n, little-endian: bytes of the header; 2 in version 1, 4 from version 2 on
 *     ...     n       {'descr': '<f4', 'fortran_order': False, 'shape': (24, 256), } then spaces and a newline
 *     ...     rest    the elements
 *
 * Read are little-endian floats f2, f4, f8, integers i1 to i8 and u1 to u8, and booleans b1. Big-endian arrays are
 * refused (the message says what to do in NumPy), for a mapping cannot swap bytes; so are complex, text, object and
 * structured arrays. Fortran order is read as it lies, with strides. The header is read strictly, never evaluated: the
 * three keys once each, and a data size that is exactly what dtype and shape take.
 */
#ifndef FATHOM_NPY_H
#define FATHOM_NPY_H

#include <stddef.h>

#include "fathom/status.h"
#include "fathom/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Reads an array over `length` bytes in memory; `out_tensor->data` points into them. `name` stands for them in messages.
 * NumPy starts the elements on a multiple of 16 bytes, but other writers need not.
 * FM_ERR_FORMAT: malformed or truncated; FM_ERR_VERSION: another version; FM_ERR_UNSUPPORTED: a dtype other than those
 * above, or more than FM_TENSOR_NDIM_MAX dimensions; FM_ERR_LIMIT: the size overflows.
 */
FM_API FM_MUST_USE fm_status fm_base_npy_parse(const void *bytes, size_t length, const char *name,
                                               fm_tensor *out_tensor);

/** A mapped file. Immutable: any number of threads may read it. */
typedef struct fm_npy fm_npy;

/** Maps a file; nothing is copied. Do not truncate it while it is open: touching what is gone ends the program with
 *  SIGBUS. Fails as fm_base_npy_parse() and fm_base_file_map() do, and with FM_ERR_NOMEM. */
FM_API FM_MUST_USE fm_status fm_base_npy_open(const char *path, fm_npy **out_file);
/** Its array: read-only, gone with the close. */
FM_API const fm_tensor *fm_base_npy_tensor(const fm_npy *file);
/** NULL is allowed. */
FM_API void fm_base_npy_close(fm_npy *file);

/** Reads a file into memory as float32, row-major and contiguous, whatever its dtype and order: integers and doubles
 *  are rounded to nearest, booleans become 0 and 1, NaN and infinities stay. The caller frees `out_tensor->data` with
 *  fm_base_mem_free(). Fails as fm_base_npy_open() does. */
FM_API FM_MUST_USE fm_status fm_base_npy_load_f32(const char *path, fm_tensor *out_tensor);

/** Writes a contiguous tensor as version 1.0, as NumPy would to the byte. The file appears whole or not at all.
 *  FM_ERR_ARG: not contiguous, or as fm_base_tensor_bytes(); FM_ERR_UNSUPPORTED: a dtype that NumPy lacks; or as a
 *  draft of fathom/file.h fails. */
FM_API FM_MUST_USE fm_status fm_base_npy_write(const char *path, const fm_tensor *tensor);

#ifdef __cplusplus
}
#endif
#endif
