#include "gemm_quant_put.h"

#include <math.h>
#include <string.h>

// Below this a block counts as zeros: its scale would leave what products of scales can hold. DeepGEMM's value.
static const float AMAX_MIN = 1e-4f;

static int64_t scale_at(const struct fm_gemm_quant_place *place)
{
    return place->row / place->to->scale_rows * place->to->scale_stride + place->scale_column;
}

// Stores scale number `at`, of a block with this amax; returns by what its numbers are multiplied.
static float put_scale(const fm_gemm_quantised *to, int64_t at, float amax)
{
    float scale = amax / (to->dtype == FM_DTYPE_F8_E4M3 ? FM_E4M3_MAX : FM_E2M1_MAX);
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

// Stores the scales of blocks with these peaks, `across` of them side by side from `place` on and the others in rows of
// scales below, and tells their factors. False: a block is not finite.
static int put_scales(const struct fm_gemm_kernels *kernels, const struct fm_gemm_quant_place *place,
                      const uint32_t *peaks, int64_t count, int64_t across, float *factors)
{
    const fm_gemm_quantised *to = place->to;
    int64_t at = scale_at(place);
    float scales[FM_GEMM_QUANT_SCALES];
    if (!kernels->scales_of_peaks(peaks, count, AMAX_MIN, scales, factors))
        return 0;
    int plain = to->scale_dtype != FM_DTYPE_F8_UE8M0 && !to->powers;
    for (int64_t i = 0; i < count; i += across, at += to->scale_stride)
        for (int64_t column = 0; column < across; column++) {
            float amax = fm_f32_from_bits(peaks[i + column]);
            if (plain)
                ((float *)to->scales)[at + column] = scales[i + column];
            else
                factors[i + column] = put_scale(to, at + column, amax > AMAX_MIN ? amax : AMAX_MIN);
        }
    return 1;
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

// One block with a scale, of numbers of any kind; it is overwritten.
static void put_block(const struct fm_gemm_kernels *kernels, const struct fm_gemm_quant_place *place,
                      int64_t height, int64_t width, float *block, size_t stride)
{
    float amax = AMAX_MIN;
    for (int64_t i = 0; i < height; i++)
        amax = kernels->amax(block + (size_t)i * stride, width, amax);
    float inverse = put_scale(place->to, scale_at(place), amax);
    for (int64_t i = 0; i < height; i++) {
        float *line = block + (size_t)i * stride;
        kernels->scale_line(line, width, inverse);
        put_codes(place->to, place->row + i, place->column, line, width);
    }
}

static fm_e4m3 *codes_at(const struct fm_gemm_quant_place *place, int64_t row)
{
    return (fm_e4m3 *)place->to->data + (place->row + row) * place->to->stride + place->column;
}

static struct fm_gemm_quant_place place_of(const struct fm_gemm_quant_place *place, int64_t row,
                                           int64_t column)
{
    return (struct fm_gemm_quant_place){place->to, place->row + row, place->column + column,
                                        place->scale_column + column / fm_gemm_quant_scale_k(place->to),
                                        place->streamed};
}

// Of rows that have FM_GEMM_QUANT_SCALES scales at most, at once. False: the level has no kernels, or they are not finite.
static int put_finite(const struct fm_gemm_kernels *kernels, const struct fm_gemm_quant_place *place,
                      int64_t rows, int64_t count, const float *tile, size_t stride)
{
    if (!kernels->codes_of_f32 || place->to->dtype != FM_DTYPE_F8_E4M3)
        return 0;
    int64_t height = place->to->scale_rows, scale_k = fm_gemm_quant_scale_k(place->to);
    int64_t across = fm_gemm_ceil_div(count, scale_k);
    uint32_t peaks[FM_GEMM_QUANT_SCALES] = {0};
    float factors[FM_GEMM_QUANT_SCALES];
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < across; i++) {
            uint32_t *of_block = &peaks[row / height * across + i];
            uint32_t peak = kernels->peak_f32(tile + (size_t)row * stride + i * scale_k,
                                              fm_gemm_min(count - i * scale_k, scale_k));
            *of_block = peak > *of_block ? peak : *of_block;
        }
    if (!put_scales(kernels, place, peaks, fm_gemm_ceil_div(rows, height) * across, across, factors))
        return 0;
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < across; i++) {
            struct fm_gemm_codes codes = {.factor = factors[row / height * across + i],
                                          .streamed = place->streamed};
            kernels->codes_of_f32(tile + (size_t)row * stride + i * scale_k,
                                  fm_gemm_min(count - i * scale_k, scale_k), &codes,
                                  codes_at(place, row) + i * scale_k);
        }
    return 1;
}

void fm_gemm_quant_put(const struct fm_gemm_kernels *kernels, const struct fm_gemm_quant_place *place,
                       int64_t rows, int64_t count, float *tile, size_t stride)
{
    int64_t height = place->to->scale_rows, scale_k = fm_gemm_quant_scale_k(place->to);
    int64_t slice = FM_GEMM_QUANT_SCALES / fm_gemm_ceil_div(count, scale_k) * height;
    for (int64_t from = 0; from < rows; from += slice) {
        int64_t end = fm_gemm_min(from + slice, rows);
        struct fm_gemm_quant_place of_slice = place_of(place, from, 0);
        if (put_finite(kernels, &of_slice, end - from, count, tile + (size_t)from * stride, stride))
            continue;
        for (int64_t row = from; row < end; row += height)
            for (int64_t at = 0; at < count; at += scale_k) {
                struct fm_gemm_quant_place of_block = place_of(place, row, at);
                put_block(kernels, &of_block, fm_gemm_min(end - row, height),
                          fm_gemm_min(count - at, scale_k), tile + (size_t)row * stride + at, stride);
            }
    }
}

int fm_gemm_quant_put_bf16(const struct fm_gemm_kernels *kernels, const struct fm_gemm_quant_place *place,
                           int64_t rows, int64_t count, const fm_bf16 *from, int64_t stride,
                           const fm_bf16 *ahead)
{
    int64_t height = place->to->scale_rows, scale_k = fm_gemm_quant_scale_k(place->to);
    int64_t across = fm_gemm_ceil_div(count, scale_k);
    uint32_t peaks[FM_GEMM_QUANT_SCALES] = {0};
    float factors[FM_GEMM_QUANT_SCALES];
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < across; i++) {
            uint32_t *of_block = &peaks[row / height * across + i];
            uint32_t peak = kernels->peak_bf16(from + row * stride + i * scale_k,
                                               fm_gemm_min(count - i * scale_k, scale_k));
            *of_block = peak > *of_block ? peak : *of_block;
        }
    if (!put_scales(kernels, place, peaks, fm_gemm_ceil_div(rows, height) * across, across, factors))
        return 0;
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < across; i++) {
            int64_t at = row * stride + i * scale_k;
            struct fm_gemm_codes codes = {.factor = factors[row / height * across + i],
                                          .ahead = (const char *)(ahead + at),
                                          .streamed = place->streamed};
            kernels->codes_of_bf16(from + at, fm_gemm_min(count - i * scale_k, scale_k), &codes,
                                   codes_at(place, row) + i * scale_k);
        }
    return 1;
}

// A block of scale_k rows at most of 16 columns, of which `columns` are there. False as above.
static int turn_finite(const struct fm_gemm_kernels *kernels, const struct fm_gemm_quant_place *place,
                       int64_t rows, int64_t columns, const float *block)
{
    uint32_t peaks[FM_GEMM_SQUARE];
    float factors[FM_GEMM_SQUARE] = {0};
    struct fm_gemm_codes codes = {.factors = factors, .streamed = place->streamed};
    kernels->peaks_down(block, FM_GEMM_SQUARE_STRIDE, rows, peaks);
    if (!put_scales(kernels, place, peaks, columns, 1, factors))
        return 0;
    kernels->codes_turned(block, FM_GEMM_SQUARE_STRIDE, rows, columns, &codes, codes_at(place, 0),
                          place->to->stride);
    return 1;
}

int fm_gemm_quant_turn_bf16(const struct fm_gemm_kernels *kernels, const struct fm_gemm_quant_place *place,
                            int64_t rows, int64_t columns, const fm_bf16 *from, int64_t stride,
                            const fm_bf16 *ahead)
{
    uint32_t peaks[FM_GEMM_QUANT_TURNED];
    float factors[FM_GEMM_QUANT_TURNED] = {0};
    struct fm_gemm_codes codes = {.factors = factors,
                                  .ahead = (const char *)ahead,
                                  .ahead_stride = stride * (int64_t)sizeof *from,
                                  .streamed = place->streamed};
    _Alignas(64) fm_bf16 copy[FM_GEMM_SQUARE_TILE * FM_GEMM_QUANT_TURNED];
    kernels->peaks_down_bf16(from, stride, rows, columns, copy, peaks);
    if (!put_scales(kernels, place, peaks, columns, 1, factors))
        return 0;
    kernels->codes_turned_bf16(copy, rows, columns, &codes, codes_at(place, 0), place->to->stride);
    return 1;
}

// What lies at column 0 of `tile`, 16 columns or less.
static void turn_columns(const struct fm_gemm_kernels *kernels, const struct fm_gemm_quant_place *place,
                         int64_t rows, int64_t columns, float *tile)
{
    float turned[FM_GEMM_SQUARE * FM_GEMM_SQUARE_STRIDE];
    int64_t down = fm_gemm_ceil_div(rows, FM_GEMM_SQUARE) * FM_GEMM_SQUARE;
    for (int64_t row = 0; row < down; row++) {
        int64_t used = row < rows ? columns : 0;
        memset(tile + row * FM_GEMM_SQUARE_STRIDE + used, 0, (size_t)(FM_GEMM_SQUARE - used) * sizeof *tile);
    }
    for (int64_t row = 0; row < down; row += FM_GEMM_SQUARE)
        kernels->transpose(tile + row * FM_GEMM_SQUARE_STRIDE, FM_GEMM_SQUARE_STRIDE, turned + row,
                           FM_GEMM_SQUARE_STRIDE);
    fm_gemm_quant_put(kernels, place, columns, rows, turned, FM_GEMM_SQUARE_STRIDE);
}

void fm_gemm_quant_put_turned(const struct fm_gemm_kernels *kernels, const struct fm_gemm_quant_place *place,
                              int64_t rows, int64_t count, float *tile)
{
    int64_t scale_k = fm_gemm_quant_scale_k(place->to);
    int has_kernels = kernels->codes_turned && place->to->dtype == FM_DTYPE_F8_E4M3;
    for (int64_t column = 0; column < count; column += FM_GEMM_SQUARE) {
        int64_t columns = fm_gemm_min(count - column, FM_GEMM_SQUARE);
        int done = has_kernels;
        for (int64_t row = 0; row < rows && done; row += scale_k) {
            // Rows here are columns there.
            struct fm_gemm_quant_place of_block = place_of(place, column, row);
            done = turn_finite(kernels, &of_block, fm_gemm_min(rows - row, scale_k), columns,
                               tile + row * FM_GEMM_SQUARE_STRIDE + column);
        }
        struct fm_gemm_quant_place of_columns = place_of(place, column, 0);
        if (!done)
            turn_columns(kernels, &of_columns, rows, columns, tile + column);
    }
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
