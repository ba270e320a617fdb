#include "mla_private.h"

#include "mla_exp.h"

#include <math.h>
#include <string.h>

// Tiles take more keys at once, which the second-level cache has to hold, too.
int fm_mla_block_rows(const struct fm_mla_kernels *kernels, int d_qk, int d_v)
{
    int share = kernels->tiles.multiply ? 2 : 1;
    int by_q = FM_MLA_Q_FLOATS / share / d_qk / FM_MLA_STRIP * FM_MLA_STRIP;
    int by_o = FM_MLA_O_FLOATS / share / d_v / FM_MLA_STRIP * FM_MLA_STRIP;
    int rows = by_q < by_o ? by_q : by_o;
    return rows < FM_MLA_ROWS ? rows : FM_MLA_ROWS;
}

void fm_mla_block_strip(const struct fm_mla_kernels *kernels, const float *lines, size_t line, int first,
                        int rows, int depth, float *strips)
{
    int strip = first / FM_MLA_STRIP * FM_MLA_STRIP, left = fm_mla_lanes(rows) - strip;
    size_t width = left < FM_MLA_STRIP ? (size_t)left : FM_MLA_STRIP;
    kernels->transpose(lines, line, (size_t)depth, strips + (size_t)strip * (size_t)depth + (first - strip),
                       width);
}

static int is_few(const struct fm_mla_block *block, const struct fm_mla_kernels *kernels)
{
    return block->rows <= FM_MLA_FEW_ROWS && kernels->few_dots && block->round == FM_MLA_ROUND_BF16 &&
           !block->apart;
}

void fm_mla_block_pack(const struct fm_mla_block *block, const struct fm_mla_kernels *kernels,
                       const fm_tensor *q, int64_t (*at)(const void *arg, int row), const void *arg,
                       struct fm_mla_space *space)
{
    size_t d_qk = (size_t)block->d_qk, line = fm_mla_line(d_qk);
    for (int first = 0; first < block->rows; first += FM_MLA_LANES) {
        for (int r = 0; r < FM_MLA_LANES; r++) {
            if (first + r < block->rows)
                fm_mla_row_read(kernels, q, at(arg, first + r), d_qk, space->lines + (size_t)r * line);
            else
                memset(space->lines + (size_t)r * line, 0, d_qk * sizeof *space->lines);
        }
        if (fm_mla_block_on_tiles(block, kernels))
            fm_mla_block_pack_tiles(block, kernels, space->lines, first, space);
        else
            fm_mla_block_strip(kernels, space->lines, line, first, block->rows, block->d_qk, space->q);
    }
    if (block->rows <= FM_MLA_FEW_ROWS)
        memcpy(space->q_rows, space->lines, FM_MLA_FEW_ROWS * line * sizeof *space->lines);
}

void fm_mla_block_dots(const struct fm_mla_kernels *kernels, const float *a, size_t a_stride, int keys,
                       const float *strips, int first, int rows, int depth, float *c, size_t c_stride,
                       struct fm_mla_ahead *ahead, int ahead_lines)
{
    int lanes = fm_mla_lanes(rows);
    for (int strip = first; strip < lanes; strip += FM_MLA_STRIP) {
        int width = lanes - strip < FM_MLA_STRIP ? lanes - strip : FM_MLA_STRIP;
        const float *b = strips + (size_t)strip * (size_t)depth;
        for (int at = 0; at < depth; at += FM_MLA_DEPTH)
            kernels->multiply(&(struct fm_mla_product){
                .a = a + at,
                .a_row = a_stride,
                .a_index = 1,
                .b = b + (size_t)at * (size_t)width,
                .b_stride = (size_t)width,
                .c = c + strip,
                .c_stride = c_stride,
                .rows = keys,
                .columns = width,
                .depth = depth - at < FM_MLA_DEPTH ? depth - at : FM_MLA_DEPTH,
                .fresh = !at,
                .ahead = ahead,
                .ahead_lines = ahead_lines,
            });
    }
}

int fm_mla_block_partly(const struct fm_mla_block *block, int64_t at, int keys, struct fm_mla_space *space)
{
    int partly = 0, rows = fm_mla_lanes(block->rows);
    if (!block->limited)
        return 0;
    for (int r = 0; r < rows; r++) {
        int64_t left = space->limit[r < block->rows ? r : block->rows - 1] - at;
        int32_t visible = left < 0 ? 0 : (int32_t)fm_mla_min(left, keys);
        space->visible[r] = visible;
        partly |= visible < keys;
    }
    return partly;
}

int fm_mla_block_behind(const struct fm_mla_block *block, int64_t at, const struct fm_mla_space *space)
{
    int row = 0;
    while (block->limited && row + FM_MLA_STRIP < block->rows && space->limit[row + FM_MLA_STRIP - 1] <= at)
        row += FM_MLA_STRIP;
    return row;
}

static int all_finite(const float *values, size_t stride, int rows, int columns)
{
    for (int r = 0; r < rows; r++) {
        uint32_t large = 0;
        const float *row = values + (size_t)r * stride;
        for (int i = 0; i < columns; i++) {
            uint32_t magnitude = fm_f32_bits(row[i]) & 0x7FFFFFFF;
            large = magnitude > large ? magnitude : large;
        }
        if (large >= 0x7F800000)
            return 0;
    }
    return 1;
}

// Lines to ask for with each step of a tile, so that all are under way when the chunk is done.
static int ahead_lines(const struct fm_mla_block *block, int keys, const struct fm_mla_ahead *ahead)
{
    enum { TILE = 12 * FM_MLA_LANES }; // sums that a tile has, about
    int64_t steps =
        (int64_t)keys * fm_mla_lanes(block->rows) / TILE * ((block->d_qk + FM_MLA_STEP - 1) / FM_MLA_STEP) +
        (int64_t)block->rows * block->d_v / TILE * ((keys + FM_MLA_STEP - 1) / FM_MLA_STEP);
    int64_t lines = (int64_t)ahead->count * ((ahead->bytes + 63) / 64);
    return (int)fm_mla_ceil_div(lines, steps + 1);
}

void fm_mla_block_add_alone(const struct fm_mla_block *block, const struct fm_mla_kernels *kernels, int first,
                            const float *p, size_t p_line, const float *v, size_t v_line,
                            struct fm_mla_space *space)
{
    size_t line = fm_mla_line((size_t)block->d_v);
    for (int r = first; r < block->rows; r++)
        kernels->multiply(&(struct fm_mla_product){
            .a = p + r,
            .a_row = 1,
            .a_index = p_line,
            .b = v,
            .b_stride = v_line,
            .c = space->o + (size_t)r * line,
            .c_stride = line,
            .rows = 1,
            .columns = block->d_v,
            .depth = space->visible[r],
        });
}

void fm_mla_block_softmax(const struct fm_mla_block *block, const struct fm_mla_kernels *kernels, int first,
                          int keys, int partly, float *p, size_t p_line, struct fm_mla_space *space)
{
    kernels->softmax(&(struct fm_mla_softmax){
        .s = p + first,
        .stride = p_line,
        .keys = keys,
        .rows = fm_mla_lanes(block->rows) - first,
        .visible = partly ? space->visible + first : NULL,
        .factor = block->factor,
        .round = block->round,
        .max = space->max + first,
        .sum = space->sum + first,
        .peak = space->peak + first,
        .alpha = space->alpha + first,
    });
}

// O += P V, of rows `first` on. Where rows see different keys and a value is NaN or infinite, its product with a p of 0
// would spoil the rows that do not see it, so that each row gets its own keys then.
static void add_values(const struct fm_mla_block *block, const struct fm_mla_kernels *kernels, int first,
                       int keys, int partly, int fresh, struct fm_mla_space *space)
{
    size_t line = fm_mla_line((size_t)block->d_v);
    struct fm_mla_product product = {
        .a = space->p + first,
        .a_row = 1,
        .a_index = fm_mla_line((size_t)fm_mla_lanes(block->rows)),
        .b = block->apart ? space->v : space->k,
        .b_stride = fm_mla_line((size_t)(block->apart ? block->d_v : block->d_qk)),
        .c = space->o + (size_t)first * line,
        .c_stride = line,
        .rows = block->rows - first,
        .columns = block->d_v,
        .depth = keys,
        .fresh = fresh,
        .ahead = &space->ahead,
        .ahead_lines = ahead_lines(block, keys, &space->ahead),
    };
    if (!partly || all_finite(product.b, product.b_stride, keys, block->d_v)) {
        kernels->multiply(&product);
        return;
    }
    for (int r = first; fresh && r < block->rows; r++)
        memset(space->o + (size_t)r * line, 0, (size_t)block->d_v * sizeof *space->o);
    fm_mla_block_add_alone(block, kernels, first, space->p, product.a_index, product.b, product.b_stride,
                           space);
}

void fm_mla_block_rescale(const struct fm_mla_block *block, const struct fm_mla_kernels *kernels, int first,
                          struct fm_mla_space *space)
{
    for (int r = first; r < block->rows; r++)
        if (space->alpha[r] != 1)
            kernels->scale(space->o + (size_t)r * fm_mla_line((size_t)block->d_v), (size_t)block->d_v,
                           space->alpha[r]);
}

static void take_chunk(const struct fm_mla_block *block, const struct fm_mla_kernels *kernels, int64_t at,
                       int keys, int fresh, struct fm_mla_space *space)
{
    int lanes = fm_mla_lanes(block->rows), first = fm_mla_block_behind(block, at, space);
    size_t p_line = fm_mla_line((size_t)lanes), o_line = fm_mla_line((size_t)block->d_v);
    if (fresh)
        memset(space->o, 0, (size_t)first * o_line * sizeof *space->o);
    fm_mla_block_dots(kernels, space->k, fm_mla_line((size_t)block->d_qk), keys, space->q, first, block->rows,
                      block->d_qk, space->p, p_line, &space->ahead, ahead_lines(block, keys, &space->ahead));
    int partly = fm_mla_block_partly(block, at, keys, space);
    fm_mla_block_softmax(block, kernels, first, keys, partly, space->p, p_line, space);
    if (!fresh)
        fm_mla_block_rescale(block, kernels, first, space);
    add_values(block, kernels, first, keys, partly, fresh, space);
}

// The same with each step of few rows: of 16 keys, and of 32 columns (or of 16, which are done sooner).
static int few_lines(const struct fm_mla_block *block, int keys, const struct fm_mla_ahead *ahead)
{
    int64_t steps = fm_mla_ceil_div(keys, FM_MLA_LANES) * fm_mla_ceil_div(block->d_qk, FM_MLA_STEP) +
                    fm_mla_ceil_div(keys, FM_MLA_STEP) * fm_mla_ceil_div(block->d_v, FM_MLA_STRIP);
    int64_t lines = (int64_t)ahead->count * ((ahead->bytes + 63) / 64);
    return (int)fm_mla_ceil_div(lines, steps);
}

// The same for few rows, from where the keys lie.
static void take_few(const struct fm_mla_block *block, const struct fm_mla_kernels *kernels, int64_t at,
                     int count, int fresh, struct fm_mla_space *space)
{
    const uint8_t **keys = space->places.keys;
    for (int t = count; t < FM_MLA_CHUNK; t++)
        keys[t] = keys[0]; // addresses behind the last key must be readable, too
    size_t line = fm_mla_line((size_t)block->d_qk);
    struct fm_mla_few few = {
        .keys = keys,
        .count = count,
        .rows = block->rows,
        .depth = block->d_qk,
        .q = space->q_rows,
        .q_stride = line,
        .p = space->p,
        .p_stride = fm_mla_line(FM_MLA_LANES),
        .o = space->o,
        .o_stride = fm_mla_line((size_t)block->d_v),
        .fresh = fresh,
        .ahead = &space->ahead,
        .ahead_lines = few_lines(block, count, &space->ahead),
    };
    kernels->few_dots(&few);
    int partly = fm_mla_block_partly(block, at, count, space);
    fm_mla_block_softmax(block, kernels, 0, count, partly, space->p, few.p_stride, space);
    if (!fresh)
        fm_mla_block_rescale(block, kernels, 0, space);
    if (partly) { // rare, and add_values() knows what to do about NaN
        for (int t = 0; t < count; t++)
            kernels->widen_bf16(keys[t], (size_t)block->d_qk, space->k + (size_t)t * line);
        add_values(block, kernels, 0, count, partly, fresh, space);
        return;
    }
    few.depth = block->d_v;
    kernels->few_values(&few);
}

static int attend_few(const struct fm_mla_block *block, const struct fm_mla_kernels *kernels,
                      struct fm_mla_source *source, struct fm_mla_space *space)
{
    int64_t at = source->at;
    int keys, fresh = 1;
    for (int r = 0; r < FM_MLA_LANES * FM_MLA_CHUNK; r++)
        space->p[r] = 0; // rows that are not there have logits, too
    for (; (keys = source->next_bf16(source, kernels, space, FM_MLA_CHUNK, FM_MLA_CHUNK)) > 0; fresh = 0) {
        take_few(block, kernels, at, keys, fresh, space);
        at = source->at;
    }
    return fresh;
}

static int attend_all(const struct fm_mla_block *block, const struct fm_mla_kernels *kernels,
                      struct fm_mla_source *source, struct fm_mla_space *space)
{
    int64_t at = source->at;
    int keys, fresh = 1;
    for (; (keys = source->next(source, kernels, space)) > 0; fresh = 0) {
        take_chunk(block, kernels, at, keys, fresh, space);
        at = source->at;
    }
    return fresh;
}

void fm_mla_block_attend(const struct fm_mla_block *block, const struct fm_mla_kernels *kernels,
                         struct fm_mla_source *source, struct fm_mla_space *space)
{
    for (int r = 0; r < fm_mla_lanes(block->rows); r++) {
        space->max[r] = space->peak[r] = -INFINITY;
        space->sum[r] = 0;
    }
    int empty;
    if (fm_mla_block_on_tiles(block, kernels))
        empty = fm_mla_block_attend_tiles(block, kernels, source, space);
    else
        empty = (is_few(block, kernels) ? attend_few : attend_all)(block, kernels, source, space);
    size_t line = fm_mla_line((size_t)block->d_v);
    for (int r = 0; empty && r < block->rows; r++)
        memset(space->o + (size_t)r * line, 0, (size_t)block->d_v * sizeof *space->o);
}

float fm_mla_block_finish(const struct fm_mla_kernels *kernels, float max, float sum, const float *sink,
                          size_t d_v, float *o)
{
    if (sum == 0) {
        memset(o, 0, d_v * sizeof *o); // not a product: a value with p = 0 may have been NaN
        return INFINITY;
    }
    const double ln2 = 0x1.62e42fefa39efp-1;
    double lse = (double)max * ln2 + log((double)sum);
    double share = sink ? 1 + exp((double)*sink - lse) : 1;
    kernels->scale(o, d_v, (float)(1 / ((double)sum * share)));
    return (float)lse;
}
