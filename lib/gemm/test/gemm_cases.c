#include "gemm_cases.h"

#include "fm_test.h"

#include "fathom/numfmt.h"

#include <math.h>

enum { POISON = 0xFF, MARGIN = 64 }; // all ones are a NaN in every format here

static void fill_codes(fm_gen *gen, struct gemm_matrix *matrix, int64_t lines, int64_t inner,
                       enum gemm_values values)
{
    const fm_gemm_operand *operand = &matrix->operand;
    for (int64_t line = 0; line < lines; line++)
        for (int64_t i = 0; i < inner; i++) {
            int64_t at = line * operand->stride + i;
            uint64_t any = fm_gen_u64(gen);
            float value = fm_gen_normal(gen);
            if (operand->dtype == FM_DTYPE_BF16)
                ((fm_bf16 *)matrix->data)[at] = values == GEMM_EXTREME ? (fm_bf16)any : fm_f32_to_bf16(value);
            else
                ((fm_e4m3 *)matrix->data)[at] =
                    values == GEMM_EXTREME ? (fm_e4m3)any : fm_f32_to_e4m3(100 * value);
        }
}

struct gemm_matrix gemm_matrix_make(fm_gen *gen, int64_t rows, int64_t k, fm_dtype dtype, int transposed,
                                    int scale_rows, enum gemm_values values)
{
    struct gemm_matrix matrix = {.rows = rows, .k = k};
    int64_t lines = transposed ? k : rows, inner = transposed ? rows : k;
    size_t element = (size_t)fm_base_dtype_bits(dtype) / 8;
    matrix.operand =
        (fm_gemm_operand){.dtype = dtype, .transposed = transposed, .stride = inner + fm_gen_int(gen, 0, 9)};
    size_t bytes = (size_t)(lines * matrix.operand.stride) * element;
    matrix.data = fm_base_mem_alloc(bytes + 1);
    assert_non_null(matrix.data);
    memset(matrix.data, POISON, bytes);
    matrix.operand.data = matrix.data;
    fill_codes(gen, &matrix, lines, inner, values);
    if (dtype == FM_DTYPE_F8_E4M3) {
        int64_t down = (rows + scale_rows - 1) / scale_rows, across = (k + 127) / 128;
        matrix.operand.scale_rows = scale_rows;
        matrix.operand.scale_stride = across + fm_gen_int(gen, 0, 3);
        size_t count = (size_t)(down * matrix.operand.scale_stride);
        matrix.scales = fm_base_mem_alloc(count * sizeof(float) + 1);
        assert_non_null(matrix.scales);
        for (size_t i = 0; i < count; i++)
            matrix.scales[i] =
                values == GEMM_EXTREME ? fm_gen_any_float(gen) : (float)fm_gen_real(gen, 0.001, 0.01);
        matrix.operand.scales = matrix.scales;
    }
    return matrix;
}

void gemm_matrix_free(struct gemm_matrix *matrix)
{
    fm_base_mem_free(matrix->data);
    fm_base_mem_free(matrix->scales);
}

double gemm_matrix_at(const struct gemm_matrix *matrix, int64_t row, int64_t i)
{
    const fm_gemm_operand *operand = &matrix->operand;
    int64_t at = operand->transposed ? i * operand->stride + row : row * operand->stride + i;
    if (operand->dtype == FM_DTYPE_BF16)
        return (double)fm_bf16_to_f32(((const fm_bf16 *)matrix->data)[at]);
    return (double)fm_e4m3_to_f32(((const fm_e4m3 *)matrix->data)[at]) *
           (double)matrix->scales[row / operand->scale_rows * operand->scale_stride + i / 128];
}

struct gemm_output gemm_output_make(fm_gen *gen, int64_t rows, int64_t n, fm_dtype dtype, int with_c)
{
    struct gemm_output output = {.rows = rows, .n = n};
    size_t element = (size_t)fm_base_dtype_bits(dtype) / 8;
    int64_t stride = n + fm_gen_int(gen, 0, 9);
    output.bytes = (size_t)(rows * stride) * element + (size_t)2 * MARGIN;
    output.data = fm_base_mem_alloc(output.bytes);
    assert_non_null(output.data);
    memset(output.data, POISON, output.bytes);
    output.result = (fm_gemm_result){.dtype = dtype, .data = output.data + MARGIN, .stride = stride};
    if (!with_c)
        return output;
    size_t count = (size_t)(rows * stride);
    output.c = fm_base_mem_alloc(count * element + 1);
    assert_non_null(output.c);
    for (size_t i = 0; i < count; i++) {
        float value = 10 * fm_gen_normal(gen);
        if (dtype == FM_DTYPE_F32)
            memcpy(output.c + 4 * i, &value, 4);
        else
            fm_put_le16(output.c + 2 * i, fm_f32_to_bf16(value));
    }
    output.result.c = output.c;
    output.result.c_stride = stride;
    return output;
}

void gemm_output_free(struct gemm_output *output)
{
    fm_base_mem_free(output->data);
    fm_base_mem_free(output->c);
}

static float element(const void *data, fm_dtype dtype, int64_t at)
{
    return dtype == FM_DTYPE_F32 ? ((const float *)data)[at] : fm_bf16_to_f32(((const fm_bf16 *)data)[at]);
}

float gemm_output_at(const struct gemm_output *output, int64_t row, int64_t column)
{
    return element(output->result.data, output->result.dtype, row * output->result.stride + column);
}

float gemm_output_c(const struct gemm_output *output, int64_t row, int64_t column)
{
    return output->c ? element(output->c, output->result.dtype, row * output->result.stride + column) : 0;
}

void gemm_output_untouched(const struct gemm_output *output, int64_t row)
{
    size_t size = (size_t)fm_base_dtype_bits(output->result.dtype) / 8;
    size_t stride = (size_t)output->result.stride * size, used = (size_t)output->n * size;
    for (size_t at = 0; at < output->bytes; at++) {
        int outside = at < MARGIN || at >= output->bytes - MARGIN || (at - MARGIN) % stride >= used;
        int of_row = !outside && (int64_t)((at - MARGIN) / stride) == row;
        if ((row < 0 ? outside : of_row) && output->data[at] != POISON)
            fail_msg("byte %zu, which is not of D, was written (row %lld)", at, (long long)row);
    }
}

void gemm_output_equal(const struct gemm_output *a, const struct gemm_output *b, const char *what)
{
    for (int64_t row = 0; row < a->rows; row++)
        for (int64_t column = 0; column < a->n; column++) {
            float x = gemm_output_at(a, row, column), y = gemm_output_at(b, row, column);
            if (fm_f32_bits(x) != fm_f32_bits(y) && !(isnan(x) && isnan(y)))
                fail_msg("%s: element (%lld, %lld) is %a; expected %a", what, (long long)row,
                         (long long)column, (double)y, (double)x);
        }
}

fm_gemm_context *gemm_open(fm_isa isa, int threads)
{
    fm_gemm_context *context = NULL;
    assert_ok(fm_gemm_context_open(
        &(fm_gemm_options){.size = sizeof(fm_gemm_options), .threads = threads, .capped = 1, .isa_max = isa},
        &context));
    return context;
}

void *gemm_pack(const struct gemm_matrix *b, fm_gemm_weights *out_weights)
{
    size_t bytes;
    assert_ok(fm_gemm_weights_pack_size(b->rows, b->k, &b->operand, &bytes));
    void *blob = fm_base_mem_aligned(bytes, FM_GEMM_BLOB_ALIGN);
    assert_non_null(blob);
    assert_ok(fm_gemm_weights_pack(b->rows, b->k, &b->operand, blob, bytes));
    assert_ok(fm_gemm_weights_open(blob, bytes, out_weights));
    return blob;
}
