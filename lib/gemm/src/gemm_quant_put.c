#include "gemm_quant_put.h"

#include <math.h>
#include <string.h>

// Below this a block counts as zeros: its scale would leave what products of scales can hold. DeepGEMM's value.
static const float AMAX_MIN = 1e-4f;

// Stores the scale of a block with this amax; returns by what its numbers are multiplied.
static float put_scale(const fm_gemm_quantised *to, int64_t row, int64_t column, float amax)
{
    float scale = amax / (to->dtype == FM_DTYPE_F8_E4M3 ? FM_E4M3_MAX : FM_E2M1_MAX);
    int64_t at = row / to->scale_rows * to->scale_stride + column;
    if (to->scale_dtype == FM_DTYPE_F8_UE8M0) {
        fm_ue8m0 code = fm_f32_to_ue8m0_ceil(scale);
        ((fm_ue8m0 *)to->scales)[at] = code;
        return 1 / fm_ue8m0_to_f32(code);
    }
    if (to->powers && isfinite(scale))
        scale = fm_ue8m0_to_f32(fm_f32_to_ue8m0_ceil(scale));
    ((float *)to->scales)[at] = scale;
    return 1 / scale;
}

static void put_codes(const fm_gemm_quantised *to, int64_t row, int64_t column, const float *line,
                      int64_t count)
{
    int64_t at = row * to->stride + column;
    if (to->dtype == FM_DTYPE_F8_E4M3)
        fm_base_f32_to_e4m3(line, (size_t)count, (fm_e4m3 *)to->data + at);
    else
        fm_base_f32_to_e2m1(line, (size_t)count, (fm_e2m1x2 *)to->data + at / 2);
}

void fm_gemm_quant_put(const struct fm_gemm_kernels *kernels, const struct fm_gemm_quant_place *place,
                       int64_t rows, int64_t count, float *tile, size_t stride)
{
    const fm_gemm_quantised *to = place->to;
    int64_t scale_k = fm_gemm_quant_scale_k(to);
    for (int64_t row = 0; row < rows; row += to->scale_rows) {
        int64_t height = fm_gemm_min(rows - row, to->scale_rows);
        float *block = tile + (size_t)row * stride;
        for (int64_t at = 0; at < count; at += scale_k) {
            int64_t width = fm_gemm_min(count - at, scale_k);
            float amax = AMAX_MIN;
            for (int64_t i = 0; i < height; i++)
                amax = kernels->amax(block + (size_t)i * stride + at, width, amax);
            float inverse = put_scale(to, place->row + row, place->scale_column + at / scale_k, amax);
            for (int64_t i = 0; i < height; i++)
                kernels->scale_line(block + (size_t)i * stride + at, width, inverse);
        }
        for (int64_t i = 0; i < height; i++)
            put_codes(to, place->row + row + i, place->column, block + (size_t)i * stride, count);
    }
}

void fm_gemm_quant_put_bf16(const struct fm_gemm_kernels *kernels, const struct fm_gemm_quant_place *place,
                            int64_t rows, int64_t count, const fm_bf16 *from, int64_t stride)
{
    const fm_gemm_quantised *to = place->to;
    int64_t scale_k = fm_gemm_quant_scale_k(to), blocks = fm_gemm_ceil_div(count, scale_k);
    float factors[FM_GEMM_QUANT_COLUMNS / FM_GEMM_SCALE_BLOCK_MX]; // amax first
    for (int64_t row = 0; row < rows; row += to->scale_rows) {
        int64_t height = fm_gemm_min(rows - row, to->scale_rows);
        for (int64_t i = 0; i < blocks; i++)
            factors[i] = AMAX_MIN;
        for (int64_t r = row; r < row + height; r++)
            for (int64_t i = 0; i < blocks; i++)
                factors[i] = kernels->amax_bf16(from + r * stride + i * scale_k,
                                                fm_gemm_min(count - i * scale_k, scale_k), factors[i]);
        for (int64_t i = 0; i < blocks; i++)
            factors[i] = put_scale(to, place->row + row, place->scale_column + i, factors[i]);
        for (int64_t r = row; r < row + height; r++) {
            fm_e4m3 *codes = (fm_e4m3 *)to->data + (place->row + r) * to->stride + place->column;
            for (int64_t i = 0; i < blocks; i++)
                kernels->codes_of_bf16(from + r * stride + i * scale_k,
                                       fm_gemm_min(count - i * scale_k, scale_k), factors[i],
                                       codes + i * scale_k);
        }
    }
}

void fm_gemm_quant_put_turned(const struct fm_gemm_kernels *kernels, const struct fm_gemm_quant_place *place,
                              int64_t rows, int64_t count, float *tile, float *turned)
{
    int64_t down = fm_gemm_ceil_div(rows, FM_GEMM_SQUARE) * FM_GEMM_SQUARE;
    int64_t across = fm_gemm_ceil_div(count, FM_GEMM_SQUARE) * FM_GEMM_SQUARE;
    for (int64_t row = 0; row < down; row++) {
        int64_t used = row < rows ? count : 0;
        memset(tile + row * FM_GEMM_SQUARE_STRIDE + used, 0, (size_t)(across - used) * sizeof *tile);
    }
    for (int64_t row = 0; row < down; row += FM_GEMM_SQUARE)
        for (int64_t column = 0; column < across; column += FM_GEMM_SQUARE)
            kernels->transpose(tile + row * FM_GEMM_SQUARE_STRIDE + column, FM_GEMM_SQUARE_STRIDE,
                               turned + column * FM_GEMM_SQUARE_STRIDE + row, FM_GEMM_SQUARE_STRIDE);
    fm_gemm_quant_put(kernels, place, count, rows, turned, FM_GEMM_SQUARE_STRIDE);
}

void fm_gemm_quant_put_plain(fm_dtype dtype, void *out, int64_t at, const float *line, int64_t count)
{
    if (dtype == FM_DTYPE_BF16)
        fm_base_f32_to_bf16(line, (size_t)count, (fm_bf16 *)out + at);
    else
        memcpy((float *)out + at, line, (size_t)count * sizeof *line);
}

fm_status fm_gemm_quant_check(const char *name, int64_t rows, int64_t k, const fm_gemm_quantised *to)
{
    if (!to)
        return fm_base_error_set(FM_ERR_ARG, "%s is null; expected where to put codes and scales", name);
    if (to->dtype != FM_DTYPE_F8_E4M3 && to->dtype != FM_DTYPE_F4_E2M1)
        return fm_base_error_set(FM_ERR_UNSUPPORTED, "dtype of %s is %s; expected F8_E4M3 or F4", name,
                                 fm_base_dtype_name(to->dtype));
    fm_gemm_operand operand = fm_gemm_quantised_operand(to);
    return fm_gemm_args_operand(name, rows, k, &operand);
}

fm_status fm_gemm_quant_check_turned(const char *name, int groups, const int64_t *offsets, int64_t k,
                                     const fm_gemm_quantised *to)
{
    FM_TRY(fm_gemm_quant_check(name, k, offsets[groups], to));
    if (to->scale_rows != 1)
        return fm_base_error_set(FM_ERR_ARG, "scale_rows of %s is %d; expected 1", name, to->scale_rows);
    for (int g = 0; g < groups && to->dtype == FM_DTYPE_F4_E2M1; g++)
        if (offsets[g] % 2)
            return fm_base_error_set(FM_ERR_ARG, "offsets[%d] is %lld; expected an even one, since %s is F4",
                                     g, (long long)offsets[g], name);
    int64_t blocks = fm_gemm_group_blocks(groups, offsets, fm_gemm_quant_scale_k(to));
    if (k > 1 && to->scale_stride < blocks)
        return fm_base_error_set(FM_ERR_ARG,
                                 "scale_stride of %s is %lld; expected at least %lld, the groups' blocks",
                                 name, (long long)to->scale_stride, (long long)blocks);
    return FM_OK;
}

fm_status fm_gemm_quant_check_plain(const char *name, fm_dtype dtype, const void *data, int64_t rows,
                                    int64_t k, int64_t stride)
{
    if (dtype != FM_DTYPE_F32 && dtype != FM_DTYPE_BF16)
        return fm_base_error_set(FM_ERR_UNSUPPORTED, "dtype of %s is %s; expected F32 or BF16", name,
                                 fm_base_dtype_name(dtype));
    return fm_gemm_args_lines(name, dtype, data, rows, k, stride);
}
