#include "mla_private.h"

#include "mla_exp.h"

#include <math.h>
#include <string.h>

int fm_mla_block_rows(int d_qk, int d_v)
{
    int by_q = FM_MLA_Q_FLOATS / d_qk / FM_MLA_STRIP * FM_MLA_STRIP;
    int by_o = FM_MLA_O_FLOATS / d_v / FM_MLA_STRIP * FM_MLA_STRIP;
    int rows = by_q < by_o ? by_q : by_o;
    return rows < FM_MLA_ROWS ? rows : FM_MLA_ROWS;
}

static int lanes_of(int rows)
{
    return (rows + FM_MLA_LANES - 1) / FM_MLA_LANES * FM_MLA_LANES;
}

void fm_mla_block_strip(const struct fm_mla_kernels *kernels, const float *lines, size_t line, int first,
                        int rows, int depth, float *strips)
{
    int strip = first / FM_MLA_STRIP * FM_MLA_STRIP, left = lanes_of(rows) - strip;
    size_t width = left < FM_MLA_STRIP ? (size_t)left : FM_MLA_STRIP;
    kernels->transpose(lines, line, (size_t)depth, strips + (size_t)strip * (size_t)depth + (first - strip),
                       width);
}

static int is_few(const struct fm_mla_block *block, const struct fm_mla_kernels *kernels,
                  const struct fm_mla_source *source)
{
    return block->rows <= FM_MLA_FEW_ROWS && kernels->few_dots && source->next_few;
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
        fm_mla_block_strip(kernels, space->lines, line, first, block->rows, block->d_qk, space->q);
    }
    if (block->rows <= FM_MLA_FEW_ROWS)
        memcpy(space->q_rows, space->lines, FM_MLA_FEW_ROWS * line * sizeof *space->lines);
}

void fm_mla_block_dots(const struct fm_mla_kernels *kernels, const float *a, size_t a_stride, int keys,
                       const float *strips, int first, int rows, int depth, float *c, size_t c_stride,
                       struct fm_mla_ahead *ahead, int ahead_lines)
{
    int lanes = lanes_of(rows);
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

// Fills space->visible; false when every row sees all keys of the chunk.
static int partly_visible(const struct fm_mla_block *block, int64_t at, int keys, struct fm_mla_space *space)
{
    int partly = 0, rows = lanes_of(block->rows);
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

// Rows before the first that sees a key of a chunk, whole strips of them: later rows see more.
static int rows_behind(const struct fm_mla_block *block, int64_t at, const struct fm_mla_space *space)
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
        (int64_t)keys * lanes_of(block->rows) / TILE * ((block->d_qk + FM_MLA_STEP - 1) / FM_MLA_STEP) +
        (int64_t)block->rows * block->d_v / TILE * ((keys + FM_MLA_STEP - 1) / FM_MLA_STEP);
    int64_t lines = (int64_t)ahead->count * ((ahead->bytes + 63) / 64);
    return (int)fm_mla_ceil_div(lines, steps + 1);
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
        .a_index = fm_mla_line((size_t)lanes_of(block->rows)),
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
    product.rows = 1;
    for (int r = first; r < block->rows; r++) {
        product.a = space->p + r;
        product.c = space->o + (size_t)r * line;
        product.depth = space->visible[r];
        kernels->multiply(&product);
    }
}

// Multiplies what O is so far by alpha.
static void rescale(const struct fm_mla_block *block, const struct fm_mla_kernels *kernels, int first,
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
    int lanes = lanes_of(block->rows), first = rows_behind(block, at, space);
    size_t p_line = fm_mla_line((size_t)lanes), o_line = fm_mla_line((size_t)block->d_v);
    if (fresh)
        memset(space->o, 0, (size_t)first * o_line * sizeof *space->o);
    fm_mla_block_dots(kernels, space->k, fm_mla_line((size_t)block->d_qk), keys, space->q, first, block->rows,
                      block->d_qk, space->p, p_line, &space->ahead, ahead_lines(block, keys, &space->ahead));
    int partly = partly_visible(block, at, keys, space);
    kernels->softmax(&(struct fm_mla_softmax){
        .s = space->p + first,
        .stride = p_line,
        .keys = keys,
        .rows = lanes - first,
        .visible = partly ? space->visible + first : NULL,
        .factor = block->factor,
        .round = block->round,
        .max = space->max + first,
        .sum = space->sum + first,
        .alpha = space->alpha + first,
    });
    if (!fresh)
        rescale(block, kernels, first, space);
    add_values(block, kernels, first, keys, partly, fresh, space);
}

// The same for few rows, from where the keys lie.
static void take_few(const struct fm_mla_block *block, const struct fm_mla_kernels *kernels, int64_t at,
                     const uint8_t *const *keys, int count, int fresh, struct fm_mla_space *space)
{
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
    };
    kernels->few_dots(&few);
    int partly = partly_visible(block, at, count, space);
    kernels->softmax(&(struct fm_mla_softmax){
        .s = space->p,
        .stride = few.p_stride,
        .keys = count,
        .rows = FM_MLA_LANES,
        .visible = partly ? space->visible : NULL,
        .factor = block->factor,
        .round = block->round,
        .max = space->max,
        .sum = space->sum,
        .alpha = space->alpha,
    });
    if (!fresh)
        rescale(block, kernels, 0, space);
    if (partly) { // rare, and add_values() knows what to do about NaN
        for (int t = 0; t < count; t++)
            kernels->widen_bf16(keys[t], (size_t)block->d_qk, space->k + (size_t)t * line);
        add_values(block, kernels, 0, count, partly, fresh, space);
        return;
    }
    few.depth = block->d_v;
    kernels->few_values(&few);
}

void fm_mla_block_attend(const struct fm_mla_block *block, const struct fm_mla_kernels *kernels,
                         struct fm_mla_source *source, struct fm_mla_space *space)
{
    for (int r = 0; r < lanes_of(block->rows); r++) {
        space->max[r] = -INFINITY;
        space->sum[r] = 0;
    }
    int fresh = 1, keys;
    int64_t at = source->at;
    if (is_few(block, kernels, source)) {
        const uint8_t *few[FM_MLA_CHUNK];
        for (int r = 0; r < FM_MLA_LANES * FM_MLA_CHUNK; r++)
            space->p[r] = 0; // rows that are not there have logits, too
        while ((keys = source->next_few(source, kernels, space, few)) > 0) {
            take_few(block, kernels, at, few, keys, fresh, space);
            fresh = 0;
            at = source->at;
        }
    }
    while ((keys = source->next(source, kernels, space)) > 0) {
        take_chunk(block, kernels, at, keys, fresh, space);
        fresh = 0;
        at = source->at;
    }
    size_t line = fm_mla_line((size_t)block->d_v);
    for (int r = 0; fresh && r < block->rows; r++)
        memset(space->o + (size_t)r * line, 0, (size_t)block->d_v * sizeof *space->o);
}

struct fm_mla_result fm_mla_block_finish(const struct fm_mla_kernels *kernels, float max, float sum,
                                         const float *sink, size_t d_v, float *o)
{
    if (sum == 0) {
        memset(o, 0, d_v * sizeof *o); // not a product: a value with p = 0 may have been NaN
        return (struct fm_mla_result){.lse = INFINITY, .max_logit = -INFINITY};
    }
    const double ln2 = 0x1.62e42fefa39efp-1;
    double lse = (double)max * ln2 + log((double)sum);
    double share = sink ? 1 + exp((double)*sink - lse) : 1;
    kernels->scale(o, d_v, (float)(1 / ((double)sum * share)));
    return (struct fm_mla_result){.lse = (float)lse, .max_logit = (float)((double)max * ln2)};
}
