/* Operands as they lie, on their way to f32. */
#include "gemm_private.h"

#include <string.h>

// Codes number `from` and on. E2M1 from an odd number on needs the half byte before it.
static void widen(const struct fm_gemm_kernels *kernels, const fm_gemm_operand *operand, int64_t from,
                  int64_t count, float *out)
{
    switch (operand->dtype) {
    case FM_DTYPE_F32:
        memcpy(out, (const float *)operand->data + from, (size_t)count * sizeof *out);
        break;
    case FM_DTYPE_BF16:
        kernels->widen_bf16((const fm_bf16 *)operand->data + from, (size_t)count, out);
        break;
    case FM_DTYPE_F8_E4M3:
        kernels->widen_e4m3((const fm_e4m3 *)operand->data + from, (size_t)count, out);
        break;
    default:
        if (from % 2 && count) {
            *out++ = fm_e2m1_to_f32(((const fm_e2m1x2 *)operand->data)[from / 2] >> 4);
            from++;
            count--;
        }
        fm_base_e2m1_to_f32((const fm_e2m1x2 *)operand->data + from / 2, (size_t)count, out);
        break;
    }
}

// The squares that lie within `lines` rows of `count` floats each, which are padded to whole squares.
static void transpose(const struct fm_gemm_kernels *kernels, const float *from, int64_t count, float *to,
                      size_t to_stride)
{
    for (int64_t at = 0; at < count; at += FM_GEMM_SQUARE)
        kernels->transpose(from + at, FM_GEMM_LINE, to + (size_t)at * to_stride, to_stride);
}

// Scales are powers of two between these: no product of codes or sum of such comes near the ends of f32.
static int is_foldable(float scale)
{
    uint32_t bits = fm_f32_bits(scale);
    return (bits & 0x007FFFFF) == 0 && scale >= 0x1p-50f && scale <= 0x1p50f;
}

int fm_gemm_source_row_folds(const fm_gemm_operand *operand, int64_t row, int64_t k)
{
    int64_t blocks = fm_gemm_ceil_div(k, FM_GEMM_SCALE_BLOCK);
    for (int64_t block = 0; block < blocks; block++)
        if (!is_foldable(fm_gemm_scale_at(operand, row, block)))
            return 0;
    return 1;
}

int fm_gemm_source_folds(const fm_gemm_operand *operand, int64_t rows, int64_t k)
{
    if (operand->dtype == FM_DTYPE_BF16)
        return 0;
    if (fm_gemm_scale_k(operand) == FM_GEMM_SCALE_BLOCK_MX)
        return 1;
    for (int64_t row = 0; row < rows; row += operand->scale_rows)
        if (!fm_gemm_source_row_folds(operand, row, k))
            return 0;
    return 1;
}

// Scales of 32, and those that fold, go into the values.
static void scale_a(const struct fm_gemm_piece *piece, int64_t row, int64_t k_from, int64_t length,
                    float *out)
{
    const fm_gemm_operand *a = piece->a;
    if (a->dtype == FM_DTYPE_BF16 || a->dtype == FM_DTYPE_F32)
        return;
    int64_t scale_k = fm_gemm_scale_k(a);
    if (scale_k == FM_GEMM_SCALE_BLOCK && !piece->folds)
        return;
    for (int64_t at = 0; at < length; at += scale_k)
        piece->kernels->scale_line(out + at, fm_gemm_min(length - at, scale_k),
                                   fm_gemm_scale_at(a, row, (k_from + at) / scale_k));
}

// Rows that lie side by side in a transposed A: lines of them are widened, and squares of those turned.
static void take_turned_rows(const struct fm_gemm_piece *piece, int64_t k_from, int64_t length, float *out,
                             size_t out_stride)
{
    float *lines = piece->space->lines;
    int whole = piece->count / FM_GEMM_SQUARE * FM_GEMM_SQUARE;
    for (int64_t at = 0; at < length; at += FM_GEMM_SQUARE) {
        int64_t count = fm_gemm_min(length - at, FM_GEMM_SQUARE);
        for (int64_t i = 0; i < count; i++)
            widen(piece->kernels, piece->a, (k_from + at + i) * piece->a->stride + piece->first, piece->count,
                  lines + i * FM_GEMM_LINE);
        for (int64_t i = count; i < FM_GEMM_SQUARE; i++)
            memset(lines + i * FM_GEMM_LINE, 0, (size_t)piece->count * sizeof *lines);
        transpose(piece->kernels, lines, whole, out + at, out_stride);
        for (int row = whole; row < piece->count; row++)
            for (int64_t i = 0; i < FM_GEMM_SQUARE; i++)
                out[(size_t)row * out_stride + (size_t)(at + i)] = lines[i * FM_GEMM_LINE + row];
    }
}

void fm_gemm_source_a(const struct fm_gemm_piece *piece, int scaled, int64_t k_from, int64_t length,
                      float *out, size_t out_stride)
{
    const fm_gemm_operand *a = piece->a;
    int64_t padded = fm_gemm_ceil_div(length, FM_GEMM_STEP) * FM_GEMM_STEP;
    int side_by_side = a->transposed && !piece->rows && !piece->a_rows;
    if (side_by_side)
        take_turned_rows(piece, k_from, length, out, out_stride);
    for (int i = 0; i < piece->count; i++) {
        int64_t row = fm_gemm_piece_a_row(piece, i);
        float *to = out + (size_t)i * out_stride;
        if (a->transposed && !side_by_side)
            for (int64_t at = 0; at < length; at++)
                widen(piece->kernels, a, (k_from + at) * a->stride + row, 1, to + at);
        else if (!a->transposed)
            widen(piece->kernels, a, row * a->stride + k_from, length, to);
        if (scaled)
            scale_a(piece, row, k_from, length, to);
        memset(to + length, 0, (size_t)(padded - length) * sizeof *to);
    }
}

void fm_gemm_source_load(const struct fm_gemm_kernels *kernels, const fm_gemm_operand *from, int64_t row,
                         int rows, int64_t k_from, int64_t length, struct fm_gemm_space *space, float *out,
                         size_t out_stride)
{
    fm_gemm_source_a(
        &(struct fm_gemm_piece){
            .kernels = kernels, .a = from, .first = row, .count = rows, .folds = 1, .space = space},
        1, k_from, length, out, out_stride);
}

void fm_gemm_source_b(const struct fm_gemm_piece *piece, int64_t from, int64_t k_from, int64_t length,
                      float *out)
{
    const fm_gemm_operand *b = &piece->b->operand;
    float *lines = piece->space->lines;
    int64_t columns = fm_gemm_min(piece->b->n - from, FM_GEMM_STRIP);
    int64_t padded = fm_gemm_ceil_div(length, FM_GEMM_STEP) * FM_GEMM_STEP;
    if (b->transposed) {
        if (columns < FM_GEMM_STRIP || length < padded)
            memset(out, 0, (size_t)(padded * FM_GEMM_STRIP) * sizeof *out);
        for (int64_t i = 0; i < length; i++)
            widen(piece->kernels, b, (k_from + i) * b->stride + from, columns, out + i * FM_GEMM_STRIP);
        return;
    }
    for (int64_t column = 0; column < FM_GEMM_STRIP; column += FM_GEMM_SQUARE) {
        for (int64_t i = 0; i < FM_GEMM_SQUARE; i++) {
            int64_t have = column + i < columns ? length : 0;
            if (have)
                widen(piece->kernels, b, (from + column + i) * b->stride + k_from, have,
                      lines + i * FM_GEMM_LINE);
            memset(lines + i * FM_GEMM_LINE + have, 0, (size_t)(padded - have) * sizeof *lines);
        }
        transpose(piece->kernels, lines, padded, out + column, FM_GEMM_STRIP);
    }
}
