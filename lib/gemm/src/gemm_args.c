#include "gemm_private.h"

#include <stdio.h>

fm_status fm_gemm_args_extent(const char *name, int64_t value)
{
    if (value < 0)
        return fm_base_error_set(FM_ERR_ARG, "%s is %lld; expected at least 0", name, (long long)value);
    if (value > FM_GEMM_EXTENT_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "%s is %lld; expected at most %lld", name, (long long)value,
                                 (long long)FM_GEMM_EXTENT_MAX);
    return FM_OK;
}

// `outer` lines of `inner` elements that are `stride` apart.
static fm_status check_lines(const char *name, const void *data, int64_t outer, int64_t inner, int64_t stride,
                             size_t element_bytes)
{
    if (!outer || !inner)
        return FM_OK;
    if (!data)
        return fm_base_error_set(FM_ERR_ARG, "%s is null; expected %lld x %lld elements", name,
                                 (long long)outer, (long long)inner);
    if (stride < inner)
        return fm_base_error_set(FM_ERR_ARG,
                                 "stride of %s is %lld; expected at least %lld, what it steps over", name,
                                 (long long)stride, (long long)inner);
    int64_t last;
    if (__builtin_mul_overflow(outer, stride, &last) ||
        __builtin_mul_overflow(last, (int64_t)element_bytes, &last) || last > PTRDIFF_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "%s has %lld lines with a stride of %lld: larger than memory",
                                 name, (long long)outer, (long long)stride);
    if ((uintptr_t)data % element_bytes)
        return fm_base_error_set(FM_ERR_ARG, "%s is at %p; expected a multiple of its element's %zu bytes",
                                 name, data, element_bytes);
    return FM_OK;
}

// As lines of bytes, each of two elements.
static fm_status check_halves(const char *name, const void *data, int64_t outer, int64_t inner,
                              int64_t stride)
{
    if (outer > 1 && inner && stride % 2)
        return fm_base_error_set(FM_ERR_ARG, "stride of %s is %lld; expected an even number of half bytes",
                                 name, (long long)stride);
    return check_lines(name, data, outer, fm_gemm_ceil_div(inner, 2), fm_gemm_ceil_div(stride, 2), 1);
}

static fm_status check_scales(const char *name, int64_t rows, int64_t k, const fm_gemm_operand *operand)
{
    if (operand->scale_rows != 1 && operand->scale_rows != FM_GEMM_SCALE_BLOCK)
        return fm_base_error_set(FM_ERR_ARG, "scale_rows of %s is %d; expected 1 or %d", name,
                                 operand->scale_rows, FM_GEMM_SCALE_BLOCK);
    fm_dtype dtype = operand->scale_dtype;
    if (dtype != FM_DTYPE_NONE && dtype != FM_DTYPE_F32 && dtype != FM_DTYPE_F8_UE8M0)
        return fm_base_error_set(FM_ERR_UNSUPPORTED, "scale_dtype of %s is %s; expected F32 or F8_E8M0", name,
                                 fm_base_dtype_name(dtype));
    int scale_k = fm_gemm_scale_k(operand);
    if (scale_k != FM_GEMM_SCALE_BLOCK && scale_k != FM_GEMM_SCALE_BLOCK_MX)
        return fm_base_error_set(FM_ERR_ARG, "scale_k of %s is %d; expected %d or %d", name, scale_k,
                                 FM_GEMM_SCALE_BLOCK, FM_GEMM_SCALE_BLOCK_MX);
    if (scale_k == FM_GEMM_SCALE_BLOCK_MX && (dtype != FM_DTYPE_F8_UE8M0 || operand->scale_rows != 1))
        return fm_base_error_set(
            FM_ERR_UNSUPPORTED, "scales of %s are %s, for %d rows and %d of k; expected F8_E8M0 for 1 row",
            name, fm_base_dtype_name(dtype ? dtype : FM_DTYPE_F32), operand->scale_rows, scale_k);
    char text[32];
    (void)snprintf(text, sizeof text, "scales of %s", name);
    return check_lines(text, operand->scales, fm_gemm_ceil_div(rows, operand->scale_rows),
                       fm_gemm_ceil_div(k, scale_k), operand->scale_stride,
                       dtype == FM_DTYPE_F8_UE8M0 ? 1 : sizeof(float));
}

fm_status fm_gemm_args_lines(const char *name, fm_dtype dtype, const void *data, int64_t outer, int64_t inner,
                             int64_t stride)
{
    if (dtype == FM_DTYPE_F4_E2M1)
        return check_halves(name, data, outer, inner, stride);
    return check_lines(name, data, outer, inner, stride, (size_t)fm_base_dtype_bits(dtype) / 8);
}

static fm_status check_operand(const char *name, int64_t rows, int64_t k, const fm_gemm_operand *operand)
{
    int64_t outer = operand->transposed ? k : rows, inner = operand->transposed ? rows : k;
    FM_TRY(fm_gemm_args_lines(name, operand->dtype, operand->data, outer, inner, operand->stride));
    if (operand->dtype == FM_DTYPE_F8_E4M3 || operand->dtype == FM_DTYPE_F4_E2M1)
        return check_scales(name, rows, k, operand);
    return FM_OK;
}

fm_status fm_gemm_args_operand(const char *name, int64_t rows, int64_t k, const fm_gemm_operand *operand)
{
    if (!operand)
        return fm_base_error_set(FM_ERR_ARG, "%s is null; expected a matrix", name);
    if (operand->dtype != FM_DTYPE_BF16 && operand->dtype != FM_DTYPE_F8_E4M3 &&
        operand->dtype != FM_DTYPE_F4_E2M1)
        return fm_base_error_set(FM_ERR_UNSUPPORTED, "dtype of %s is %s; expected BF16, F8_E4M3 or F4", name,
                                 fm_base_dtype_name(operand->dtype));
    return check_operand(name, rows, k, operand);
}

fm_status fm_gemm_args_source(const char *name, int64_t rows, int64_t k, const fm_gemm_operand *operand)
{
    if (operand && operand->dtype == FM_DTYPE_F32)
        return check_operand(name, rows, k, operand);
    return fm_gemm_args_operand(name, rows, k, operand);
}

fm_status fm_gemm_args_pair(const fm_gemm_operand *a, const fm_gemm_operand *b)
{
    if ((a->dtype == FM_DTYPE_BF16) != (b->dtype == FM_DTYPE_BF16))
        return fm_base_error_set(FM_ERR_UNSUPPORTED,
                                 "a is %s and b is %s; expected BF16 in both or in neither",
                                 fm_base_dtype_name(a->dtype), fm_base_dtype_name(b->dtype));
    return FM_OK;
}

fm_status fm_gemm_args_offsets(int groups, const int64_t *offsets, int64_t end)
{
    int64_t before = 0;
    for (int g = 0; g <= groups; g++) {
        if (offsets[g] < before || offsets[g] > end)
            return fm_base_error_set(FM_ERR_ARG,
                                     "offsets[%d] is %lld; expected %lld (the offset before it) to %lld", g,
                                     (long long)offsets[g], (long long)before, (long long)end);
        before = offsets[g];
    }
    return FM_OK;
}

fm_status fm_gemm_args_result(int64_t m, int64_t n, const fm_gemm_result *d)
{
    if (!d)
        return fm_base_error_set(FM_ERR_ARG, "d is null; expected where to put the product");
    if (d->dtype != FM_DTYPE_BF16 && d->dtype != FM_DTYPE_F32)
        return fm_base_error_set(FM_ERR_UNSUPPORTED, "dtype of d is %s; expected BF16 or F32",
                                 fm_base_dtype_name(d->dtype));
    size_t bytes = (size_t)fm_base_dtype_bits(d->dtype) / 8;
    FM_TRY(check_lines("d", d->data, m, n, d->stride, bytes));
    if (!d->c)
        return FM_OK;
    FM_TRY(check_lines("c", d->c, m, n, d->c_stride, bytes));
    if (d->c == d->data && d->c_stride != d->stride && m > 1)
        return fm_base_error_set(FM_ERR_ARG,
                                 "c is d, with a stride of %lld instead of %lld; expected the same",
                                 (long long)d->c_stride, (long long)d->stride);
    return FM_OK;
}

int64_t fm_gemm_group_blocks(int groups, const int64_t *offsets, int64_t step)
{
    int64_t blocks = 0;
    for (int g = 0; g < groups; g++)
        blocks += fm_gemm_ceil_div(offsets[g + 1] - offsets[g], step);
    return blocks;
}

struct fm_gemm_group_block fm_gemm_group_block_at(int groups, const int64_t *offsets, int64_t step,
                                                  int64_t block)
{
    struct fm_gemm_group_block at = {0};
    for (; at.group < groups; at.group++) {
        int64_t size = offsets[at.group + 1] - offsets[at.group], blocks = fm_gemm_ceil_div(size, step);
        if (block < blocks) {
            at.first = offsets[at.group] + block * step;
            at.count = fm_gemm_min(size - block * step, step);
            return at;
        }
        block -= blocks;
    }
    return at;
}
