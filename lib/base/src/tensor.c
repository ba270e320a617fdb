#include "fathom/tensor.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "doc_private.h"

static const struct {
    const char *name;
    int bits;
} dtypes[FM_DTYPE_COUNT] = {[FM_DTYPE_NONE] = {"?", 0},
#define ROW(dtype, text, bits) [dtype] = {text, bits},
                            FM_DTYPE_LIST(ROW)
#undef ROW
};

static int is_dtype(fm_dtype dtype)
{
    return (unsigned)dtype > FM_DTYPE_NONE && (unsigned)dtype < FM_DTYPE_COUNT;
}

const char *fm_base_dtype_name(fm_dtype dtype)
{
    return dtypes[is_dtype(dtype) ? dtype : FM_DTYPE_NONE].name;
}

int fm_base_dtype_bits(fm_dtype dtype)
{
    return dtypes[is_dtype(dtype) ? dtype : FM_DTYPE_NONE].bits;
}

fm_status fm_base_dtype_from_name(const char *name, fm_dtype *out_dtype)
{
    char list[256] = "";
    size_t used = 0;
    for (int i = FM_DTYPE_NONE + 1; i < FM_DTYPE_COUNT; i++) {
        if (strcmp(name, dtypes[i].name) == 0) {
            *out_dtype = (fm_dtype)i;
            return FM_OK;
        }
        used += (size_t)snprintf(list + used, sizeof list - used, " %s", dtypes[i].name);
    }
    char quoted[FM_DOC_QUOTE_BYTES];
    return fm_base_error_set(FM_ERR_UNSUPPORTED, "dtype %s is not supported; expected one of%s",
                             fm_base_doc_quote(name, quoted), list);
}

static fm_status overflows(fm_dtype dtype, int ndim, const int64_t *shape)
{
    char text[FM_TENSOR_NDIM_MAX * 24];
    size_t used = 0;
    for (int i = 0; i < ndim; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%" PRId64, i ? ", " : "", shape[i]);
    return fm_base_error_set(FM_ERR_LIMIT, "size of shape [%s] of %s overflows", text,
                             fm_base_dtype_name(dtype));
}

fm_status fm_base_tensor_bytes(fm_dtype dtype, int ndim, const int64_t *shape, size_t *out_bytes)
{
    if (!is_dtype(dtype))
        return fm_base_error_set(FM_ERR_ARG, "dtype is %d; expected 1 to %d", (int)dtype, FM_DTYPE_COUNT - 1);
    if (ndim < 0 || ndim > FM_TENSOR_NDIM_MAX)
        return fm_base_error_set(FM_ERR_ARG, "%d dimensions; expected 0 to %d", ndim, FM_TENSOR_NDIM_MAX);
    for (int i = 0; i < ndim; i++)
        if (shape[i] < 0)
            return fm_base_error_set(FM_ERR_ARG, "dimension %d is %" PRId64 "; expected at least 0", i,
                                     shape[i]);
    // An empty dimension counts as one: then no product of some of the dimensions, such as a stride,
    // overflows either.
    int64_t bits = dtypes[dtype].bits;
    int empty = 0;
    for (int i = 0; i < ndim; i++) {
        empty |= shape[i] == 0;
        if (__builtin_mul_overflow(bits, shape[i] ? shape[i] : 1, &bits))
            return overflows(dtype, ndim, shape);
    }
    if (!empty && bits % 8)
        return fm_base_error_set(FM_ERR_ARG, "an odd number of 4-bit elements does not fill whole bytes");
    *out_bytes = empty ? 0 : (size_t)(bits / 8);
    return FM_OK;
}

fm_status fm_base_tensor_init(fm_tensor *tensor, fm_dtype dtype, int ndim, const int64_t *shape, void *data)
{
    size_t bytes;
    FM_TRY(fm_base_tensor_bytes(dtype, ndim, shape, &bytes));
    *tensor = (fm_tensor){.dtype = dtype, .ndim = ndim, .data = data};
    int64_t stride = 1;
    for (int i = ndim - 1; i >= 0; i--) {
        tensor->shape[i] = shape[i];
        tensor->stride[i] = stride;
        stride *= shape[i];
    }
    return FM_OK;
}

int64_t fm_base_tensor_count(const fm_tensor *tensor)
{
    int64_t count = 1;
    for (int i = 0; i < tensor->ndim; i++)
        count *= tensor->shape[i];
    return count;
}

int fm_base_tensor_is_contiguous(const fm_tensor *tensor)
{
    int64_t stride = 1;
    for (int i = tensor->ndim - 1; i >= 0; i--) {
        if (tensor->shape[i] != 1 && tensor->stride[i] != stride)
            return 0;
        stride *= tensor->shape[i];
    }
    return 1;
}
