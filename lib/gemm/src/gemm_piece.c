#include "gemm_flush.h"
#include "gemm_private.h"

#include <string.h>

static int64_t row_of(const struct fm_gemm_piece *piece, int i)
{
    return piece->rows ? piece->rows[i] : piece->first + i;
}

static int is_promoted(const struct fm_gemm_piece *piece)
{
    return piece->a->dtype != FM_DTYPE_BF16 && !piece->folds;
}

// A's scales for `blocks` blocks from `block` on, block after block. Those of 32 are in the codes by now.
static void take_a_scales(const struct fm_gemm_piece *piece, int64_t block, int64_t blocks)
{
    float *out = piece->space->a_scales;
    int fine = fm_gemm_scale_k(piece->a) == FM_GEMM_SCALE_BLOCK_MX;
    for (int64_t j = 0; j < blocks; j++)
        for (int i = 0; i < piece->count; i++)
            *out++ = fine ? 1 : fm_gemm_scale_at(piece->a, row_of(piece, i), block + j);
}

static void take_b_scales(const struct fm_gemm_piece *piece, int64_t column, int64_t block)
{
    const fm_gemm_operand *b = &piece->b->operand;
    float *out = piece->space->b_scales;
    int fine = fm_gemm_scale_k(b) == FM_GEMM_SCALE_BLOCK_MX;
    if (b->scale_rows == FM_GEMM_SCALE_BLOCK) { // a strip lies within a block
        float scale = fm_gemm_scale_at(b, column, block);
        for (int64_t i = 0; i < FM_GEMM_STRIP; i++)
            out[i] = scale;
        return;
    }
    for (int64_t i = 0; i < FM_GEMM_STRIP; i++) {
        float scale = column + i < piece->b->n && !fine ? fm_gemm_scale_at(b, column + i, block) : 1;
        out[i] = scale;
    }
}

// Where a packed B has the codes of a panel from k_from (a multiple of 32) on.
static const uint8_t *panel_at(const fm_gemm_weights *b, int64_t column, int64_t k_from)
{
    int64_t pairs = fm_gemm_ceil_div(b->k, FM_GEMM_STEP) * (FM_GEMM_STEP / 2);
    return b->panels + fm_gemm_panel_bytes(b->operand.dtype, column / FM_GEMM_PANEL * pairs + k_from / 2);
}

// Asks for a block of B that a later take_b() will want: it comes from memory while the block before it is multiplied,
// since the hardware loses the stream in that long pause.
static void prefetch_b(const struct fm_gemm_piece *piece, int64_t column, int64_t k_from)
{
    const fm_gemm_weights *b = piece->b;
    int64_t bytes = fm_gemm_panel_bytes(b->operand.dtype, FM_GEMM_BLOCK / 2);
    for (int64_t half = 0; half < FM_GEMM_STRIP && column + half < b->n; half += FM_GEMM_PANEL) {
        const uint8_t *panel = panel_at(b, column + half, k_from);
        for (int64_t at = 0; at < bytes; at += 64)
            __builtin_prefetch(panel + at, 0, 2);
    }
}

static void unpack(const struct fm_gemm_piece *piece, int64_t column, int64_t k_from, int64_t pairs,
                   float *out)
{
    const uint8_t *panel = panel_at(piece->b, column, k_from);
    switch (piece->b->operand.dtype) {
    case FM_DTYPE_BF16:
        piece->kernels->unpack_bf16(panel, pairs, out);
        break;
    case FM_DTYPE_F8_E4M3:
        piece->kernels->unpack_e4m3(panel, pairs, out);
        break;
    default:
        piece->kernels->unpack_e2m1(panel, pairs, out);
        break;
    }
}

// The codes of a strip of B times those scales that are not left to promotion.
static void scale_b(const struct fm_gemm_piece *piece, int64_t column, int64_t k_from, int64_t length)
{
    const fm_gemm_operand *b = &piece->b->operand;
    int64_t scale_k = b->dtype == FM_DTYPE_BF16 ? 0 : fm_gemm_scale_k(b);
    if (!scale_k || (scale_k == FM_GEMM_SCALE_BLOCK && !piece->folds))
        return;
    for (int64_t at = 0; at < length; at += scale_k) {
        float *scales = piece->space->b_scales;
        for (int64_t i = 0; i < FM_GEMM_STRIP; i++)
            scales[i] =
                column + i < piece->b->n ? fm_gemm_scale_at(b, column + i, (k_from + at) / scale_k) : 1;
        int64_t rows = fm_gemm_ceil_div(fm_gemm_min(length - at, scale_k), FM_GEMM_STEP) * FM_GEMM_STEP;
        piece->kernels->scale_strip(piece->space->b + at * FM_GEMM_STRIP, rows, scales);
    }
}

static void take_b(const struct fm_gemm_piece *piece, int64_t column, int64_t k_from, int64_t length)
{
    float *out = piece->space->b;
    int64_t pairs = fm_gemm_ceil_div(length, FM_GEMM_STEP) * (FM_GEMM_STEP / 2);
    if (!piece->b->panels)
        fm_gemm_source_b(piece, column, k_from, length, out);
    for (int64_t half = 0; half < FM_GEMM_STRIP && piece->b->panels; half += FM_GEMM_PANEL) {
        if (column + half < piece->b->n) {
            unpack(piece, column + half, k_from, pairs, out + half);
            continue;
        }
        for (int64_t i = 0; i < 2 * pairs; i++)
            memset(out + i * FM_GEMM_STRIP + half, 0, FM_GEMM_PANEL * sizeof *out);
    }
    scale_b(piece, column, k_from, length);
}

// All columns of the piece against k_from ... k_from + length - 1 of A, which the workspace holds.
static void multiply_chunk(const struct fm_gemm_piece *piece, int64_t k_from, int64_t length, size_t a_stride)
{
    struct fm_gemm_space *space = piece->space;
    int promoted = is_promoted(piece);
    for (int64_t column = 0; column < piece->columns; column += FM_GEMM_STRIP) {
        for (int64_t at = 0; at < length; at += FM_GEMM_BLOCK) {
            int64_t part = fm_gemm_min(length - at, FM_GEMM_BLOCK);
            take_b(piece, piece->column + column, k_from + at, part);
            if (promoted)
                take_b_scales(piece, piece->column + column, (k_from + at) / FM_GEMM_BLOCK);
            struct fm_gemm_block block = {
                .a = space->a + at,
                .a_stride = a_stride,
                .b = space->b,
                .rows = piece->count,
                .steps = (int)fm_gemm_ceil_div(part, FM_GEMM_STEP),
                .acc = space->acc + column,
                .acc_stride = FM_GEMM_ACC_STRIDE,
                .a_scales = promoted ? space->a_scales + at / FM_GEMM_BLOCK * piece->count : NULL,
                .b_scales = space->b_scales,
            };
            if (piece->b->panels) {
                int last = at + FM_GEMM_BLOCK >= length;
                prefetch_b(piece, piece->column + column + (last ? FM_GEMM_STRIP : 0),
                           k_from + (last ? 0 : at + FM_GEMM_BLOCK));
            }
            piece->kernels->multiply(&block);
        }
    }
}

// D of row i of the piece.
static void finish_row(const struct fm_gemm_piece *piece, int i)
{
    const fm_gemm_result *d = piece->d;
    float *sum = piece->space->acc + (size_t)i * FM_GEMM_ACC_STRIDE;
    float *line = piece->space->lines;
    int64_t to = row_of(piece, i) * d->stride + piece->column;
    size_t columns = (size_t)piece->columns;
    if (d->c) {
        int64_t from = row_of(piece, i) * d->c_stride + piece->column;
        if (d->dtype == FM_DTYPE_BF16)
            fm_base_bf16_to_f32((const fm_bf16 *)d->c + from, columns, line);
        else
            memcpy(line, (const float *)d->c + from, columns * sizeof *line);
        for (size_t j = 0; j < columns; j++)
            sum[j] = fm_gemm_flush_add(line[j], sum[j]);
    }
    if (d->dtype == FM_DTYPE_BF16)
        fm_base_f32_to_bf16(sum, columns, (fm_bf16 *)d->data + to);
    else
        memcpy((float *)d->data + to, sum, columns * sizeof *sum);
}

void fm_gemm_piece_run(const struct fm_gemm_piece *piece)
{
    struct fm_gemm_space *space = piece->space;
    int64_t k = piece->b->k;
    for (int i = 0; i < piece->count; i++)
        memset(space->acc + (size_t)i * FM_GEMM_ACC_STRIDE, 0,
               (size_t)fm_gemm_ceil_div(piece->columns, FM_GEMM_STRIP) * FM_GEMM_STRIP * sizeof *space->acc);
    int64_t per_row = FM_GEMM_A_FLOATS / piece->count - FM_GEMM_A_PAD;
    int64_t chunk = fm_gemm_min(per_row, fm_gemm_ceil_div(k, FM_GEMM_BLOCK) * FM_GEMM_BLOCK) / FM_GEMM_BLOCK *
                    FM_GEMM_BLOCK;
    size_t a_stride = (size_t)chunk + FM_GEMM_A_PAD;
    for (int64_t k_from = 0; k_from < k; k_from += chunk) {
        int64_t length = fm_gemm_min(k - k_from, chunk);
        fm_gemm_source_a(piece, k_from, length, space->a, a_stride);
        if (is_promoted(piece))
            take_a_scales(piece, k_from / FM_GEMM_BLOCK, fm_gemm_ceil_div(length, FM_GEMM_BLOCK));
        multiply_chunk(piece, k_from, length, a_stride);
    }
    for (int i = 0; i < piece->count; i++)
        finish_row(piece, i);
}
