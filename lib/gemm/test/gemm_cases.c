#include "gemm_cases.h"

#include "fm_test.h"

#include "fathom/numfmt.h"

#include <math.h>

enum { POISON = 0xFF, MARGIN = 64 }; // all ones are a NaN in every format here

static void put_code(struct gemm_matrix *matrix, int64_t at, float value)
{
    uint8_t *byte = (uint8_t *)matrix->data + at / 2;
    switch (matrix->operand.dtype) {
    case FM_DTYPE_BF16:
        ((fm_bf16 *)matrix->data)[at] = fm_f32_to_bf16(value);
        break;
    case FM_DTYPE_F8_E4M3:
        ((fm_e4m3 *)matrix->data)[at] = fm_f32_to_e4m3(100 * value);
        break;
    default:
        *byte = (uint8_t)((*byte & (at % 2 ? 0x0F : 0xF0)) | fm_f32_to_e2m1(2 * value) << (at % 2 ? 4 : 0));
        break;
    }
}

static void fill_codes(fm_gen *gen, struct gemm_matrix *matrix, int64_t lines, int64_t inner,
                       enum gemm_values values)
{
    const fm_gemm_operand *operand = &matrix->operand;
    for (int64_t line = 0; line < lines; line++)
        for (int64_t i = 0; i < inner; i++) {
            int64_t at = line * operand->stride + i;
            uint64_t any = fm_gen_u64(gen);
            float value = fm_gen_normal(gen);
            if (values != GEMM_EXTREME || operand->dtype == FM_DTYPE_F4_E2M1)
                put_code(matrix, at, value);
            else if (operand->dtype == FM_DTYPE_BF16)
                ((fm_bf16 *)matrix->data)[at] = (fm_bf16)any;
            else
                ((fm_e4m3 *)matrix->data)[at] = (fm_e4m3)any;
        }
}

// Powers of two from `powers` on: all rows, or half of them.
static void fill_scales(fm_gen *gen, struct gemm_matrix *matrix, const struct gemm_format *format,
                        int64_t lines, enum gemm_values values)
{
    fm_gemm_operand *operand = &matrix->operand;
    for (int64_t line = 0; line < lines; line++) {
        int power =
            format->powers == GEMM_POWERS || (format->powers == GEMM_SOME_POWERS && fm_gen_chance(gen, 0.5));
        for (int64_t i = 0; i < operand->scale_stride; i++) {
            int64_t at = line * operand->scale_stride + i;
            uint8_t any = (uint8_t)fm_gen_u64(gen), usual = (uint8_t)fm_gen_int(gen, 117, 123);
            float scale =
                power ? ldexpf(1, (int)fm_gen_int(gen, -10, -4)) : (float)fm_gen_real(gen, 0.001, 0.01);
            if (operand->scale_dtype == FM_DTYPE_F8_UE8M0)
                ((fm_ue8m0 *)matrix->scales)[at] = values == GEMM_EXTREME ? any : usual;
            else
                ((float *)matrix->scales)[at] = values == GEMM_EXTREME ? fm_gen_any_float(gen) : scale;
        }
    }
}

struct gemm_format gemm_format_any(fm_gen *gen, int wide)
{
    struct gemm_format format = {.dtype = FM_DTYPE_BF16, .transposed = fm_gen_chance(gen, 0.3)};
    if (wide)
        return format;
    format.dtype = fm_gen_chance(gen, 0.7) ? FM_DTYPE_F8_E4M3 : FM_DTYPE_F4_E2M1;
    format.scale_rows = fm_gen_chance(gen, 0.5) ? 128 : 1;
    if (fm_gen_chance(gen, 0.3))
        format.scale_dtype = FM_DTYPE_F8_UE8M0;
    if (format.scale_dtype == FM_DTYPE_F8_UE8M0 && fm_gen_chance(gen, 0.5)) {
        format.scale_k = 32;
        format.scale_rows = 1;
    }
    format.powers = (enum gemm_powers)fm_gen_int(gen, GEMM_NO_POWERS, GEMM_POWERS);
    return format;
}

struct gemm_matrix gemm_matrix_make(fm_gen *gen, int64_t rows, int64_t k, const struct gemm_format *format,
                                    enum gemm_values values)
{
    struct gemm_matrix matrix = {.rows = rows, .k = k};
    int64_t lines = format->transposed ? k : rows, inner = format->transposed ? rows : k;
    int64_t stride = inner + fm_gen_int(gen, 0, 9);
    matrix.operand =
        (fm_gemm_operand){.dtype = format->dtype,
                          .transposed = format->transposed,
                          .stride = format->dtype == FM_DTYPE_F4_E2M1 ? stride + stride % 2 : stride};
    size_t bytes = (size_t)(lines * matrix.operand.stride) * (size_t)fm_base_dtype_bits(format->dtype) / 8;
    matrix.data = fm_base_mem_alloc(bytes + 1);
    assert_non_null(matrix.data);
    memset(matrix.data, POISON, bytes);
    matrix.operand.data = matrix.data;
    fill_codes(gen, &matrix, lines, inner, values);
    if (format->dtype != FM_DTYPE_BF16) {
        int scale_k = format->scale_k ? format->scale_k : 128;
        int64_t down = (rows + format->scale_rows - 1) / format->scale_rows,
                across = (k + scale_k - 1) / scale_k;
        matrix.operand.scale_rows = format->scale_rows;
        matrix.operand.scale_k = format->scale_k;
        matrix.operand.scale_dtype = format->scale_dtype;
        matrix.operand.scale_stride = across + fm_gen_int(gen, 0, 3);
        matrix.scales = fm_base_mem_alloc((size_t)(down * matrix.operand.scale_stride) * sizeof(float) + 1);
        assert_non_null(matrix.scales);
        fill_scales(gen, &matrix, format, down, values);
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
    const uint8_t *codes = matrix->data;
    float code = operand->dtype == FM_DTYPE_F8_E4M3 ? fm_e4m3_to_f32(codes[at])
                                                    : fm_e2m1_to_f32(codes[at / 2] >> (at % 2 ? 4 : 0));
    int64_t scale_at =
        row / operand->scale_rows * operand->scale_stride + i / (operand->scale_k ? operand->scale_k : 128);
    float scale = operand->scale_dtype == FM_DTYPE_F8_UE8M0
                      ? fm_ue8m0_to_f32(((const fm_ue8m0 *)matrix->scales)[scale_at])
                      : ((const float *)matrix->scales)[scale_at];
    return (double)code * (double)scale;
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

// A sum of k products, each off by at most an f32 rounding in any order, then rounded to D.
void gemm_output_near(const struct gemm_output *output, int64_t row, int64_t column,
                      const struct gemm_matrix *a, int64_t a_row, const struct gemm_matrix *b, int64_t b_row)
{
    double sum = (double)gemm_output_c(output, row, column), size = fabs(sum);
    for (int64_t i = 0; i < a->k; i++) {
        double term = gemm_matrix_at(a, a_row, i) * gemm_matrix_at(b, b_row, i);
        sum += term;
        size += fabs(term);
    }
    // A chain is 16 long and the sums of steps are at most k / 32 + 4 long; scales add two roundings.
    int64_t roundings = 24 + a->k / 32;
    double bound = size * 0x1p-24 * (double)roundings + 1e-30;
    bound += output->result.dtype == FM_DTYPE_BF16 ? (fabs(sum) + bound) * 0x1p-8 : 0;
    double got = (double)gemm_output_at(output, row, column);
    if (!(fabs(got - sum) <= bound))
        fail_msg("%lld x %lld, k %lld: (%lld, %lld) is %g; expected %g within %g", (long long)output->rows,
                 (long long)output->n, (long long)a->k, (long long)row, (long long)column, got, sum, bound);
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
    fm_gemm_context *context = gemm_open(FM_ISA_REF, 2);
    assert_ok(fm_gemm_weights_pack(context, b->rows, b->k, &b->operand, blob, bytes));
    fm_gemm_context_close(context);
    assert_ok(fm_gemm_weights_open(blob, bytes, out_weights));
    return blob;
}
