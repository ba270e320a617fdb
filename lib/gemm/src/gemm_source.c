/* Operands as they lie, on their way to f32. */
#include "gemm_private.h"

#include "fathom/numfmt.h"

#include <string.h>

static void widen(fm_dtype dtype, const void *data, int64_t from, int64_t count, float *out)
{
    if (dtype == FM_DTYPE_BF16)
        fm_base_bf16_to_f32((const fm_bf16 *)data + from, (size_t)count, out);
    else
        fm_base_e4m3_to_f32((const fm_e4m3 *)data + from, (size_t)count, out);
}

static float widen_one(fm_dtype dtype, const void *data, int64_t at)
{
    return dtype == FM_DTYPE_BF16 ? fm_bf16_to_f32(((const fm_bf16 *)data)[at])
                                  : fm_e4m3_to_f32(((const fm_e4m3 *)data)[at]);
}

void fm_gemm_source_a(const fm_gemm_operand *a, const int64_t *rows, int64_t first, int count, int64_t k_from,
                      int64_t length, float *out, size_t out_stride)
{
    int64_t padded = fm_gemm_ceil_div(length, FM_GEMM_STEP) * FM_GEMM_STEP;
    for (int i = 0; i < count; i++) {
        int64_t row = rows ? rows[i] : first + i;
        float *to = out + (size_t)i * out_stride;
        if (a->transposed) {
            for (int64_t at = 0; at < length; at++)
                to[at] = widen_one(a->dtype, a->data, (k_from + at) * a->stride + row);
        } else {
            widen(a->dtype, a->data, row * a->stride + k_from, length, to);
        }
        memset(to + length, 0, (size_t)(padded - length) * sizeof *to);
    }
}

void fm_gemm_source_b(const fm_gemm_weights *b, int64_t from, int64_t k_from, int64_t length, float *line,
                      float *out)
{
    const fm_gemm_operand *operand = &b->operand;
    int64_t columns = fm_gemm_min(b->n - from, FM_GEMM_STRIP);
    int64_t padded = fm_gemm_ceil_div(length, FM_GEMM_STEP) * FM_GEMM_STEP;
    if (columns < FM_GEMM_STRIP || length < padded)
        memset(out, 0, (size_t)(padded * FM_GEMM_STRIP) * sizeof *out);
    if (operand->transposed) {
        for (int64_t i = 0; i < length; i++)
            widen(operand->dtype, operand->data, (k_from + i) * operand->stride + from, columns,
                  out + i * FM_GEMM_STRIP);
        return;
    }
    for (int64_t column = 0; column < columns; column++) {
        widen(operand->dtype, operand->data, (from + column) * operand->stride + k_from, length, line);
        for (int64_t i = 0; i < length; i++)
            out[i * FM_GEMM_STRIP + column] = line[i];
    }
}
