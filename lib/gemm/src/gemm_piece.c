#include "gemm_flush.h"
#include "gemm_private.h"

#include <string.h>

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
            *out++ = fine ? 1 : fm_gemm_scale_at(piece->a, fm_gemm_piece_a_row(piece, i), block + j);
}

// Of `count` columns, at most a strip.
static void take_b_scales(const struct fm_gemm_piece *piece, int64_t column, int64_t count, int64_t block,
                          float *out)
{
    const fm_gemm_operand *b = &piece->b->operand;
    int fine = fm_gemm_scale_k(b) == FM_GEMM_SCALE_BLOCK_MX;
    if (b->scale_rows == FM_GEMM_SCALE_BLOCK) { // a strip lies within a block
        float scale = fm_gemm_scale_at(b, column, block);
        for (int64_t i = 0; i < count; i++)
            out[i] = scale;
        return;
    }
    for (int64_t i = 0; i < count; i++) {
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

// Where the block of B after this one lies, which is to come from memory while this one is multiplied: the hardware loses
// the stream in that long pause.
static void name_next(const struct fm_gemm_piece *piece, int64_t column, int64_t k_from,
                      struct fm_gemm_block *block)
{
    const fm_gemm_weights *b = piece->b;
    if (!b->panels || column >= b->n)
        return;
    int64_t pairs = fm_gemm_min(b->k - k_from, FM_GEMM_BLOCK) / 2;
    block->next_lines = (int)(fm_gemm_panel_bytes(b->operand.dtype, pairs) / FM_CACHE_LINE);
    block->next[0] = panel_at(b, column, k_from);
    block->next[1] =
        column + FM_GEMM_PANEL < b->n ? panel_at(b, column + FM_GEMM_PANEL, k_from) : block->next[0];
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

// B's block as tiles: those that a blob of BF16 consists of, or made of the strip.
static void take_tiles(const struct fm_gemm_piece *piece, int64_t column, int64_t k_from, int64_t length,
                       struct fm_gemm_tiles *tiles)
{
    uint16_t *made[2] = {piece->space->tiles[0], piece->space->tiles[1]};
    const fm_gemm_operand *b = &piece->b->operand;
    int64_t pairs = fm_gemm_ceil_div(length, FM_GEMM_STEP) * (FM_GEMM_STEP / 2);
    int by_panel = piece->b->panels && column + FM_GEMM_PANEL < piece->b->n;
    int codes_only =
        b->dtype == FM_DTYPE_F8_E4M3 && fm_gemm_scale_k(b) == FM_GEMM_SCALE_BLOCK && !piece->folds;
    tiles->b[0] = made[0];
    tiles->b[1] = made[1];
    if (by_panel && b->dtype == FM_DTYPE_BF16) {
        for (int64_t half = 0; half < 2; half++)
            tiles->b[half] =
                (const uint16_t *)(const void *)panel_at(piece->b, column + half * FM_GEMM_PANEL, k_from);
    } else if (by_panel && codes_only && piece->kernels->unpack_pairs) {
        for (int64_t half = 0; half < 2; half++)
            piece->kernels->unpack_pairs(panel_at(piece->b, column + half * FM_GEMM_PANEL, k_from), pairs,
                                         made[half]);
    } else {
        take_b(piece, column, k_from, length);
        piece->kernels->narrow_strip(piece->space->b, pairs, made);
    }
}

// Asks for a part of the rows of A that the next chunk will want, while this one is multiplied: rows are far apart, so
// that the hardware does not see the next piece of each coming.
static void prefetch_a(const struct fm_gemm_piece *piece, int64_t k_from, int64_t length, int64_t part,
                       int64_t parts)
{
    const fm_gemm_operand *a = piece->a;
    int64_t bits = fm_base_dtype_bits(a->dtype), bytes = length * bits / 8;
    if (a->transposed)
        return;
    for (int64_t i = piece->count * part / parts; i < piece->count * (part + 1) / parts; i++) {
        const char *from =
            (const char *)a->data + (fm_gemm_piece_a_row(piece, (int)i) * a->stride + k_from) * bits / 8;
        for (int64_t at = 0; at < bytes; at += FM_CACHE_LINE)
            __builtin_prefetch(from + at, 0, 2);
    }
}

// All columns of the piece against k_from ... k_from + length - 1 of A, which the workspace holds.
static void multiply_chunk(const struct fm_gemm_piece *piece, int64_t k_from, int64_t length, size_t a_stride)
{
    struct fm_gemm_space *space = piece->space;
    int promoted = is_promoted(piece);
    int64_t strips = fm_gemm_ceil_div(piece->columns, FM_GEMM_STRIP);
    int64_t next = fm_gemm_min(piece->b->k - k_from - length, length);
    for (int64_t column = 0; column < piece->columns; column += FM_GEMM_STRIP) {
        if (next > 0)
            prefetch_a(piece, k_from + length, next, column / FM_GEMM_STRIP, strips);
        for (int64_t at = 0; at < length; at += FM_GEMM_BLOCK) {
            int64_t part = fm_gemm_min(length - at, FM_GEMM_BLOCK);
            struct fm_gemm_tiles tiles = {.a = (const uint16_t *)(const void *)space->a + at,
                                          .a_stride = a_stride};
            if (piece->kernels->multiply_tiles)
                take_tiles(piece, piece->column + column, k_from + at, part, &tiles);
            else
                take_b(piece, piece->column + column, k_from + at, part);
            if (promoted)
                take_b_scales(piece, piece->column + column, FM_GEMM_STRIP, (k_from + at) / FM_GEMM_BLOCK,
                              space->b_scales);
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
            int last = at + FM_GEMM_BLOCK >= length;
            name_next(piece, piece->column + column + (last ? FM_GEMM_STRIP : 0),
                      k_from + (last ? 0 : at + FM_GEMM_BLOCK), &block);
            if (!piece->kernels->multiply_tiles) {
                piece->kernels->multiply(&block);
                continue;
            }
            tiles.block = block;
            piece->kernels->multiply_tiles(&tiles);
        }
    }
}

static int is_few(const struct fm_gemm_piece *piece)
{
    const fm_gemm_operand *b = &piece->b->operand;
    if (!piece->b->panels || piece->count > FM_GEMM_FEW || !piece->kernels->few_bf16)
        return 0;
    if (b->dtype == FM_DTYPE_BF16)
        return 1;
    // Scales of 32 may be anything; those of 128 fold in a range where it does not matter when they are multiplied.
    return b->dtype == FM_DTYPE_F8_E4M3 && fm_gemm_scale_k(b) == FM_GEMM_SCALE_BLOCK &&
           fm_gemm_scale_k(piece->a) == FM_GEMM_SCALE_BLOCK;
}

// As multiply_chunk(), for few rows: panels that are far apart are read side by side, each through the whole chunk.
static void multiply_few(const struct fm_gemm_piece *piece, int64_t k_from, int64_t length, size_t a_stride)
{
    struct fm_gemm_space *space = piece->space;
    int is_bf16 = piece->b->operand.dtype == FM_DTYPE_BF16;
    int64_t panels = fm_gemm_ceil_div(piece->columns, FM_GEMM_PANEL);
    int64_t apart = fm_gemm_ceil_div(panels, FM_GEMM_STREAMS);
    for (int64_t first = 0; first < apart; first++)
        for (int64_t at = 0; at < length; at += FM_GEMM_BLOCK) {
            int64_t part = fm_gemm_min(length - at, FM_GEMM_BLOCK);
            struct fm_gemm_few few = {.a = space->a + at,
                                      .a_stride = a_stride,
                                      .rows = piece->count,
                                      .steps = (int)fm_gemm_ceil_div(part, FM_GEMM_STEP),
                                      .acc = space->acc,
                                      .acc_stride = FM_GEMM_ACC_STRIDE,
                                      .folds = piece->folds,
                                      .a_scales = space->a_scales + at / FM_GEMM_BLOCK * piece->count,
                                      .b_scales = space->lines};
            for (int64_t panel = first; panel < panels; panel += apart, few.count++) {
                int64_t column = piece->column + panel * FM_GEMM_PANEL;
                few.panels[few.count] = panel_at(piece->b, column, k_from + at);
                few.columns[few.count] = panel * FM_GEMM_PANEL;
                if (!is_bf16)
                    take_b_scales(piece, column, FM_GEMM_PANEL, (k_from + at) / FM_GEMM_BLOCK,
                                  space->lines + (size_t)few.count * FM_GEMM_PANEL);
            }
            (is_bf16 ? piece->kernels->few_bf16 : piece->kernels->few_e4m3)(&few);
        }
}

// D of row i of the piece.
static void finish_row(const struct fm_gemm_piece *piece, int i)
{
    const fm_gemm_result *d = piece->d;
    float *sum = piece->space->acc + (size_t)i * FM_GEMM_ACC_STRIDE;
    float *line = piece->space->lines;
    int64_t to = fm_gemm_piece_row(piece, i) * d->stride + piece->column;
    size_t columns = (size_t)piece->columns;
    if (d->c) {
        int64_t from = fm_gemm_piece_row(piece, i) * d->c_stride + piece->column;
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
    int few = is_few(piece), by_tiles = !few && piece->kernels->multiply_tiles != NULL;
    int rows = by_tiles ? (piece->count + 15) / 16 * 16 : piece->count; // tiles add to whole ones
    for (int i = 0; i < rows; i++)
        memset(space->acc + (size_t)i * FM_GEMM_ACC_STRIDE, 0,
               (size_t)fm_gemm_ceil_div(piece->columns, FM_GEMM_STRIP) * FM_GEMM_STRIP * sizeof *space->acc);
    int64_t per_row =
        by_tiles ? fm_gemm_piece_tiles_chunk(piece->count) : FM_GEMM_A_FLOATS / piece->count - FM_GEMM_A_PAD;
    int64_t chunk = fm_gemm_min(per_row, fm_gemm_ceil_div(k, FM_GEMM_BLOCK) * FM_GEMM_BLOCK) / FM_GEMM_BLOCK *
                    FM_GEMM_BLOCK;
    size_t a_stride =
        (size_t)chunk + (size_t)(by_tiles ? FM_GEMM_STEP : FM_GEMM_A_PAD); // a cache line either way
    for (int64_t k_from = 0; k_from < k; k_from += chunk) {
        int64_t length = fm_gemm_min(k - k_from, chunk);
        if (by_tiles)
            fm_gemm_piece_tiles_a(piece, k_from, length, a_stride);
        else
            fm_gemm_source_a(piece, !few, k_from, length, space->a, a_stride);
        if (is_promoted(piece) || (few && piece->folds))
            take_a_scales(piece, k_from / FM_GEMM_BLOCK, fm_gemm_ceil_div(length, FM_GEMM_BLOCK));
        (few ? multiply_few : multiply_chunk)(piece, k_from, length, a_stride);
    }
    for (int i = 0; i < piece->count; i++)
        finish_row(piece, i);
}
