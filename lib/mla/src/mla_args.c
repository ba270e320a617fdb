#include "mla_private.h"

#include "fathom/numfmt.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

fm_status fm_mla_args_extent(const char *name, int64_t value, int64_t least, int64_t most)
{
    if (value < least)
        return fm_base_error_set(FM_ERR_ARG, "%s is %lld; expected at least %lld", name, (long long)value,
                                 (long long)least);
    if (value > most)
        return fm_base_error_set(FM_ERR_LIMIT, "%s is %lld; expected at most %lld", name, (long long)value,
                                 (long long)most);
    return FM_OK;
}

fm_status fm_mla_args_heads(int h_q, int h_kv)
{
    FM_TRY(fm_mla_args_extent("h_q", h_q, 1, FM_MLA_HEADS_MAX));
    FM_TRY(fm_mla_args_extent("h_kv", h_kv, 1, FM_MLA_HEADS_MAX));
    if (h_q % h_kv)
        return fm_base_error_set(FM_ERR_ARG, "h_q is %d and h_kv %d; expected a multiple", h_q, h_kv);
    return FM_OK;
}

fm_status fm_mla_args_dim(const char *name, int64_t dim)
{
    FM_TRY(fm_mla_args_extent(name, dim, FM_MLA_LANES, FM_MLA_DIM_MAX));
    if (dim % FM_MLA_LANES)
        return fm_base_error_set(FM_ERR_ARG, "%s is %lld; expected a multiple of %d", name, (long long)dim,
                                 FM_MLA_LANES);
    return FM_OK;
}

fm_status fm_mla_args_scale(float given, int d_qk, float *out_scale)
{
    if (!isfinite(given))
        return fm_base_error_set(FM_ERR_ARG,
                                 "softmax_scale is %g; expected a finite number, or 0 for 1 / sqrt(d_qk)",
                                 (double)given);
    *out_scale = given != 0 ? given : (float)(1 / sqrt((double)d_qk));
    return FM_OK;
}

static size_t element_bytes(const fm_tensor *tensor)
{
    return (size_t)fm_base_dtype_bits(tensor->dtype) / 8;
}

// "[2, 1, 128, 576]"
static const char *shape_text(int ndim, const int64_t *shape, char text[128])
{
    int at = snprintf(text, 128, "[");
    for (int i = 0; i < ndim && at < 100; i++)
        at += snprintf(text + at, (size_t)(128 - at), "%s%lld", i ? ", " : "", (long long)shape[i]);
    snprintf(text + at, (size_t)(128 - at), "]");
    return text;
}

static fm_status check_shape(const char *name, const fm_tensor *tensor, int ndim, const int64_t *shape)
{
    int same = tensor->ndim == ndim;
    for (int i = 0; same && i < ndim; i++)
        same = tensor->shape[i] == shape[i];
    if (same)
        return FM_OK;
    char given[128], expected[128];
    int given_ndim = tensor->ndim >= 0 && tensor->ndim <= FM_TENSOR_NDIM_MAX ? tensor->ndim : 0;
    return fm_base_error_set(FM_ERR_ARG, "%s has the shape %s; expected %s", name,
                             shape_text(given_ndim, tensor->shape, given), shape_text(ndim, shape, expected));
}

static fm_status check_strides(const char *name, const fm_tensor *tensor, int rows)
{
    int64_t last = 0, bytes = (int64_t)element_bytes(tensor);
    for (int i = 0; i < tensor->ndim; i++) {
        int64_t span;
        if (tensor->stride[i] < 0)
            return fm_base_error_set(FM_ERR_ARG, "stride %d of %s is %lld; expected at least 0", i, name,
                                     (long long)tensor->stride[i]);
        if (rows && i == tensor->ndim - 1 && tensor->stride[i] != 1)
            return fm_base_error_set(FM_ERR_ARG, "the last stride of %s is %lld; expected 1", name,
                                     (long long)tensor->stride[i]);
        if (__builtin_mul_overflow(tensor->shape[i], tensor->stride[i], &span) ||
            __builtin_add_overflow(last, span, &last) || last > PTRDIFF_MAX / bytes - 1)
            return fm_base_error_set(FM_ERR_LIMIT, "%s with these strides is larger than memory", name);
    }
    return FM_OK;
}

fm_status fm_mla_args_tensor(const char *name, const fm_tensor *tensor, uint32_t dtypes, int ndim,
                             const int64_t *shape, int rows)
{
    if (!tensor)
        return fm_base_error_set(FM_ERR_ARG, "%s is null; expected a tensor", name);
    if ((unsigned)tensor->dtype >= FM_DTYPE_COUNT || !(dtypes >> tensor->dtype & 1)) {
        const char *f32 = dtypes >> FM_DTYPE_F32 & 1 ? " F32" : "";
        const char *bf16 = dtypes >> FM_DTYPE_BF16 & 1 ? " BF16" : "";
        const char *fp16 = dtypes >> FM_DTYPE_F16 & 1 ? " F16" : "";
        return fm_base_error_set(FM_ERR_UNSUPPORTED, "dtype of %s is %s; expected%s%s%s", name,
                                 fm_base_dtype_name(tensor->dtype), f32, bf16, fp16);
    }
    FM_TRY(check_shape(name, tensor, ndim, shape));
    FM_TRY(check_strides(name, tensor, rows));
    if (!tensor->data && fm_base_tensor_count(tensor))
        return fm_base_error_set(FM_ERR_ARG, "data of %s is null; expected its elements", name);
    if ((uintptr_t)tensor->data % element_bytes(tensor))
        return fm_base_error_set(FM_ERR_ARG, "%s is at %p; expected a multiple of its element's %zu bytes",
                                 name, tensor->data, element_bytes(tensor));
    return FM_OK;
}

// From the first to behind the last byte; 0 for an empty tensor.
static size_t span_of(const fm_tensor *tensor)
{
    if (!tensor || !fm_base_tensor_count(tensor))
        return 0;
    int64_t last = 0;
    for (int i = 0; i < tensor->ndim; i++)
        last += (tensor->shape[i] - 1) * tensor->stride[i];
    return (size_t)(last + 1) * element_bytes(tensor);
}

fm_status fm_mla_args_apart_bytes(const char *output_name, const fm_tensor *output, const char *input_name,
                                  const void *input, size_t bytes)
{
    size_t span = span_of(output);
    if (!span || !bytes)
        return FM_OK;
    uintptr_t a = (uintptr_t)output->data, b = (uintptr_t)input;
    if (a < b + bytes && b < a + span)
        return fm_base_error_set(FM_ERR_ARG, "%s at %p overlaps %s at %p; expected memory of its own",
                                 output_name, output->data, input_name, input);
    return FM_OK;
}

fm_status fm_mla_args_apart(const char *output_name, const fm_tensor *output, const char *input_name,
                            const fm_tensor *input)
{
    size_t span = span_of(input);
    return span ? fm_mla_args_apart_bytes(output_name, output, input_name, input->data, span) : FM_OK;
}

void fm_mla_row_read(const struct fm_mla_kernels *kernels, const fm_tensor *tensor, int64_t at, size_t n,
                     float *out)
{
    if (tensor->dtype == FM_DTYPE_F32)
        memcpy(out, (const float *)tensor->data + at, n * sizeof *out);
    else if (tensor->dtype == FM_DTYPE_BF16)
        kernels->widen_bf16((const fm_bf16 *)tensor->data + at, n, out);
    else
        kernels->widen_fp16((const fm_fp16 *)tensor->data + at, n, out);
}

void fm_mla_row_write(const fm_tensor *tensor, int64_t at, size_t n, const float *row)
{
    if (tensor->dtype == FM_DTYPE_F32)
        memcpy((float *)tensor->data + at, row, n * sizeof *row);
    else if (tensor->dtype == FM_DTYPE_BF16)
        fm_base_f32_to_bf16(row, n, (fm_bf16 *)tensor->data + at);
    else
        fm_base_f32_to_fp16(row, n, (fm_fp16 *)tensor->data + at);
}
