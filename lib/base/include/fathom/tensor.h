/**
 * @file tensor.h
 * Element types, and tensors as plain structs over memory that someone else owns.
 *
 * Pure functions; any thread may call them.
 */
#ifndef FATHOM_TENSOR_H
#define FATHOM_TENSOR_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * X(name, text, bits): `text` is the name that safetensors files use. The order is that of the safetensors
 * project (by alignment, then by age), which its files are laid out by; 0 is no type.
 *
 *     F4_E2M1     4-bit floats, two to a byte, the first in the low half
 *     F8_E4M3     the variant without infinities (e4m3fn)
 *     F8_UE8M0    powers of two: the scales of the block formats
 */
#define FM_DTYPE_LIST(X)               \
    X(FM_DTYPE_BOOL, "BOOL", 8)        \
    X(FM_DTYPE_F4_E2M1, "F4", 4)       \
    X(FM_DTYPE_U8, "U8", 8)            \
    X(FM_DTYPE_I8, "I8", 8)            \
    X(FM_DTYPE_F8_E5M2, "F8_E5M2", 8)  \
    X(FM_DTYPE_F8_E4M3, "F8_E4M3", 8)  \
    X(FM_DTYPE_F8_UE8M0, "F8_E8M0", 8) \
    X(FM_DTYPE_I16, "I16", 16)         \
    X(FM_DTYPE_U16, "U16", 16)         \
    X(FM_DTYPE_F16, "F16", 16)         \
    X(FM_DTYPE_BF16, "BF16", 16)       \
    X(FM_DTYPE_I32, "I32", 32)         \
    X(FM_DTYPE_U32, "U32", 32)         \
    X(FM_DTYPE_F32, "F32", 32)         \
    X(FM_DTYPE_F64, "F64", 64)         \
    X(FM_DTYPE_I64, "I64", 64)         \
    X(FM_DTYPE_U64, "U64", 64)

typedef enum fm_dtype {
    FM_DTYPE_NONE,
#define FM_DTYPE_ENUM(name, text, bits) name,
    FM_DTYPE_LIST(FM_DTYPE_ENUM)
#undef FM_DTYPE_ENUM
        FM_DTYPE_COUNT
} fm_dtype;

/** Batch, group, head, row, column and three to spare. */
#define FM_TENSOR_NDIM_MAX 8

/**
 * `ndim` dimensions, outermost first; none at all is a single element. Element (i, j, ...) lies
 * `i * stride[0] + j * stride[1] + ...` elements behind `data`. Whoever made the tensor says who owns `data`
 * and whether it may be written.
 */
typedef struct fm_tensor {
    fm_dtype dtype;
    int ndim;
    int64_t shape[FM_TENSOR_NDIM_MAX];
    int64_t stride[FM_TENSOR_NDIM_MAX];
    void *data;
} fm_tensor;

/** "BF16" for FM_DTYPE_BF16; "?" for what is none. Never NULL. */
FM_API const char *fm_base_dtype_name(fm_dtype dtype);
/** Bits of an element; 0 for what is no type. */
FM_API int fm_base_dtype_bits(fm_dtype dtype);
/** FM_ERR_UNSUPPORTED: no type has this name; the message lists those that there are. */
FM_API FM_MUST_USE fm_status fm_base_dtype_from_name(const char *name, fm_dtype *out_dtype);

/**
 * Bytes of a contiguous tensor. FM_ERR_ARG: no such dtype, `ndim` outside 0..FM_TENSOR_NDIM_MAX, a negative
 * dimension, or an odd number of 4-bit elements; FM_ERR_LIMIT: the size overflows.
 */
FM_API FM_MUST_USE fm_status fm_base_tensor_bytes(fm_dtype dtype, int ndim, const int64_t *shape,
                                                  size_t *out_bytes);
/** Makes a contiguous row-major tensor over `data`. Fails as fm_base_tensor_bytes() does. */
FM_API FM_MUST_USE fm_status fm_base_tensor_init(fm_tensor *tensor, fm_dtype dtype, int ndim,
                                                 const int64_t *shape, void *data);
/** Elements: the product of the shape. The tensor is one that fm_base_tensor_init() accepts. */
FM_API int64_t fm_base_tensor_count(const fm_tensor *tensor);
/** True when the elements lie row-major without gaps (strides of dimensions of size 1 do not matter). */
FM_API int fm_base_tensor_is_contiguous(const fm_tensor *tensor);

#ifdef __cplusplus
}
#endif
#endif
