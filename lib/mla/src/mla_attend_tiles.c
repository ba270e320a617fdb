/* A block of rows with tiles: BF16 keys, in stretches of several chunks whose values are added to O in one go. */
#include "mla_private.h"

#include <string.h>

enum { TILE = 16 };

static size_t padded(int depth)
{
    return (size_t)fm_mla_ceil_div(depth, FM_MLA_STEP) * FM_MLA_STEP;
}

size_t fm_mla_key_line(int d_qk)
{
    size_t lines = padded(d_qk) / FM_MLA_STEP;
    return (lines | 1) * FM_MLA_STEP;
}

int fm_mla_stretch(int d_qk, int d_v)
{
    int by_keys = FM_MLA_KEY_CODES / (int)fm_mla_key_line(d_qk);
    int by_values = FM_MLA_VALUE_CODES / (int)padded(d_v);
    int keys = by_keys < by_values ? by_keys : by_values;
    return keys < FM_MLA_STRETCH ? keys / FM_MLA_CHUNK * FM_MLA_CHUNK : FM_MLA_STRETCH;
}

int fm_mla_block_on_tiles(const struct fm_mla_block *block, const struct fm_mla_kernels *kernels)
{
    return kernels->tiles.multiply && block->round == FM_MLA_ROUND_BF16;
}

static int strip_width(const struct fm_mla_block *block, int strip)
{
    return fm_mla_lanes(block->rows) - strip < FM_MLA_STRIP ? FM_MLA_LANES : FM_MLA_STRIP;
}

void fm_mla_block_pack_tiles(const struct fm_mla_block *block, const struct fm_mla_kernels *kernels,
                             const float *lines, int first, struct fm_mla_space *space)
{
    int strip = first / FM_MLA_STRIP * FM_MLA_STRIP, width = strip_width(block, strip);
    uint16_t *out = space->tile_q + (size_t)strip * padded(block->d_qk);
    kernels->tiles.pack_columns(lines, fm_mla_line((size_t)block->d_qk), block->d_qk,
                                out + (first > strip ? FM_MLA_TILE_CODES : 0),
                                (size_t)(width / TILE) * FM_MLA_TILE_CODES);
}

// A stretch of keys on its way through.
struct stretch {
    const struct fm_mla_block *block;
    const struct fm_mla_kernels *kernels;
    struct fm_mla_space *space;
    int64_t at; // its first key's place in the list
    int keys;
    size_t p_line;
    size_t v_keys; // that a strip of V has room for
    int ahead_lines;
    int seen[FM_MLA_ROWS /
             FM_MLA_STRIP]; // keys that each strip of rows meets: all of the chunks that it sees any of
    const uint8_t *groups[FM_MLA_STRETCH / TILE]; // of 16 keys each
    size_t group_bytes[FM_MLA_STRETCH / TILE];    // from key to key
};

// Whether tiles can be loaded from 16 keys where they lie. Some distances would put all of them into few sets of a cache.
static int lie_well(const uint8_t *const *keys, int d_qk, size_t *out_bytes)
{
    enum { FAR = 4096, NARROW = 256 };
    ptrdiff_t bytes = keys[1] - keys[0];
    if (d_qk % FM_MLA_STEP || bytes <= 0 || bytes > FAR || bytes % NARROW == 0)
        return 0;
    for (int t = 1; t + 1 < TILE; t++)
        if (keys[t + 1] - keys[t] != bytes)
            return 0;
    *out_bytes = (size_t)bytes;
    return 1;
}

// What does not lie well is copied, and filled up with zeros to whole tiles.
static void group_keys(struct stretch *stretch)
{
    struct fm_mla_space *space = stretch->space;
    int d_qk = stretch->block->d_qk;
    size_t line = fm_mla_key_line(d_qk), bytes = (size_t)d_qk * sizeof(uint16_t);
    for (int first = 0; first < stretch->keys; first += TILE) {
        const uint8_t *const *keys = space->places.keys + first;
        uint16_t *to = space->keys + (size_t)first * line;
        int there = stretch->keys - first < TILE ? stretch->keys - first : TILE;
        stretch->groups[first / TILE] = keys[0];
        if (there == TILE && lie_well(keys, d_qk, &stretch->group_bytes[first / TILE]))
            continue;
        stretch->groups[first / TILE] = (const uint8_t *)to;
        stretch->group_bytes[first / TILE] = line * sizeof *to;
        for (int t = 0; t < TILE; t++, to += line) {
            if (t < there && keys[t] != (const uint8_t *)to)
                memcpy(to, keys[t], bytes);
            else if (t >= there)
                memset(to, 0, bytes);
            memset(to + d_qk, 0, padded(d_qk) * sizeof *to - bytes);
        }
    }
}

static void count_seen(struct stretch *stretch)
{
    const struct fm_mla_block *block = stretch->block;
    memset(stretch->seen, 0, sizeof stretch->seen);
    for (int key = 0; key < stretch->keys; key += FM_MLA_CHUNK) {
        int first = fm_mla_block_behind(block, stretch->at + key, stretch->space);
        for (int strip = first; strip < block->rows; strip += FM_MLA_STRIP)
            stretch->seen[strip / FM_MLA_STRIP] = (int)fm_mla_min(stretch->keys, key + FM_MLA_CHUNK);
    }
}

static void logits(const struct stretch *stretch)
{
    const struct fm_mla_block *block = stretch->block;
    for (int strip = 0; strip < block->rows; strip += FM_MLA_STRIP)
        stretch->kernels->tiles.multiply(&(struct fm_mla_tile_product){
            .a = stretch->groups,
            .a_bytes = stretch->group_bytes,
            .b = stretch->space->tile_q + (size_t)strip * padded(block->d_qk),
            .c = stretch->space->p + strip,
            .c_stride = stretch->p_line,
            .rows = stretch->seen[strip / FM_MLA_STRIP],
            .columns = strip_width(block, strip),
            .depth = block->d_qk,
            .fresh = 1,
            .ahead = &stretch->space->ahead,
            .ahead_lines = stretch->ahead_lines,
        });
}

// P of keys `from` on as rows of BF16, strip by strip; only rows that see some of them.
static void pack_p(const struct stretch *stretch, int from, int to)
{
    const struct fm_mla_block *block = stretch->block;
    struct fm_mla_space *space = stretch->space;
    for (int row = 0; row < block->rows; row += TILE) {
        int seen = stretch->seen[row / FM_MLA_STRIP];
        stretch->kernels->tiles.pack_turned(
            space->p + (size_t)from * stretch->p_line + row, stretch->p_line, (seen < to ? seen : to) - from,
            space->tile_p + (size_t)row * FM_MLA_TILE_P_LINE, FM_MLA_TILE_P_LINE);
    }
}

// O += P V of keys `from` (a multiple of a chunk) to `to`: 32 columns of V, which stay in the first-level cache, for all
// rows.
static void add_keys(const struct stretch *stretch, int from, int to, int fresh)
{
    enum { P_BYTES = FM_MLA_TILE_P_LINE * sizeof(uint16_t) };
    const struct fm_mla_block *block = stretch->block;
    struct fm_mla_space *space = stretch->space;
    size_t line = fm_mla_line((size_t)block->d_v);
    struct fm_mla_tile_product product = {
        .a_bytes = (size_t[]){P_BYTES, P_BYTES},
        .c_stride = line,
        .fresh = fresh,
        .ahead = &space->ahead,
        .ahead_lines = stretch->ahead_lines,
    };
    pack_p(stretch, from, to);
    for (int column = 0; column < block->d_v; column += FM_MLA_STRIP) {
        product.columns = block->d_v - column < FM_MLA_STRIP ? TILE : FM_MLA_STRIP;
        product.b = space->tile_v + (size_t)column * stretch->v_keys + (size_t)from * (size_t)product.columns;
        for (int strip = 0; strip < block->rows; strip += FM_MLA_STRIP) {
            const uint16_t *p = space->tile_p + (size_t)strip * FM_MLA_TILE_P_LINE;
            int seen = stretch->seen[strip / FM_MLA_STRIP], more = strip + FM_MLA_STRIP < block->rows;
            product.a = (const uint8_t *const[]){(const uint8_t *)p,
                                                 (const uint8_t *)(p + TILE * FM_MLA_TILE_P_LINE)};
            product.c = space->o + (size_t)strip * line + column;
            product.c_next = more ? product.c + FM_MLA_STRIP * line : space->o + column + FM_MLA_STRIP;
            product.rows = strip_width(block, strip);
            product.depth = (seen < to ? seen : to) - from;
            if (product.depth > 0)
                stretch->kernels->tiles.multiply(&product);
            for (int r = 0; product.depth <= 0 && fresh && r < product.rows; r++)
                memset(product.c + (size_t)r * line, 0, (size_t)product.columns * sizeof *product.c);
        }
    }
}

// Whether O of any row must be multiplied.
static int has_moved(const struct stretch *stretch, int first)
{
    for (int r = first; r < stretch->block->rows; r++)
        if (stretch->space->alpha[r] != 1)
            return 1;
    return 0;
}

// Chunk by chunk p is computed, as the order wants; values are added up to where O has to be rescaled, or where a value that
// is not finite must not meet the rows that do not see it.
static void weigh(const struct stretch *stretch, int fresh)
{
    const struct fm_mla_block *block = stretch->block;
    const struct fm_mla_kernels *kernels = stretch->kernels;
    struct fm_mla_space *space = stretch->space;
    int added = 0; // keys whose values O has
    for (int key = 0; key < stretch->keys; key += FM_MLA_CHUNK) {
        int keys = (int)fm_mla_min(stretch->keys - key, FM_MLA_CHUNK);
        int first = fm_mla_block_behind(block, stretch->at + key, space);
        int partly = fm_mla_block_partly(block, stretch->at + key, keys, space);
        float *p = space->p + (size_t)key * stretch->p_line;
        fm_mla_block_softmax(block, kernels, first, keys, partly, p, stretch->p_line, space);
        int moved = !(fresh && !key) && has_moved(stretch, first);
        int spoiled = partly && !kernels->tiles.finite(space->places.values + key, keys, block->d_v);
        if ((moved || spoiled) && added < key) {
            add_keys(stretch, added, key, fresh);
            added = key;
            fresh = 0;
        }
        if (moved)
            fm_mla_block_rescale(block, kernels, first, space);
        if (spoiled) {
            if (fresh)
                memset(space->o, 0, (size_t)block->rows * fm_mla_line((size_t)block->d_v) * sizeof *space->o);
            for (int t = 0; t < keys; t++)
                kernels->widen_bf16(space->places.values[key + t], (size_t)block->d_v,
                                    space->v + (size_t)t * fm_mla_line((size_t)block->d_v));
            fm_mla_block_add_alone(block, kernels, first, p, stretch->p_line, space->v,
                                   fm_mla_line((size_t)block->d_v), space);
            added = key + keys;
            fresh = 0;
        }
    }
    if (added < stretch->keys)
        add_keys(stretch, added, stretch->keys, fresh);
}

// Lines to ask for with each step of a pair of tiles, and of packing V, so that all are under way when the stretch is done.
static int ahead_lines(const struct stretch *stretch)
{
    const struct fm_mla_block *block = stretch->block;
    const struct fm_mla_ahead *ahead = &stretch->space->ahead;
    int64_t strips = fm_mla_ceil_div(block->rows, FM_MLA_STRIP);
    int64_t steps = fm_mla_ceil_div(stretch->keys, FM_MLA_STEP) *
                    (strips * fm_mla_ceil_div(block->d_qk, FM_MLA_STEP) +
                     (strips + 1) * fm_mla_ceil_div(block->d_v, FM_MLA_STRIP));
    int64_t lines = (int64_t)ahead->count * ((ahead->bytes + 63) / 64);
    return (int)fm_mla_ceil_div(lines, steps);
}

int fm_mla_block_attend_tiles(const struct fm_mla_block *block, const struct fm_mla_kernels *kernels,
                              struct fm_mla_source *source, struct fm_mla_space *space)
{
    int most = fm_mla_stretch(block->d_qk, block->d_v), fresh = 1;
    struct stretch stretch = {.block = block,
                              .kernels = kernels,
                              .space = space,
                              .at = source->at,
                              .p_line = fm_mla_line((size_t)fm_mla_lanes(block->rows)),
                              .v_keys = (size_t)most};
    // Nothing has asked for the first keys: few of them, so that the next are soon on their way.
    while ((stretch.keys = source->next_bf16(source, kernels, space, fresh ? FM_MLA_CHUNK : most, most)) >
           0) {
        stretch.ahead_lines = ahead_lines(&stretch);
        group_keys(&stretch);
        count_seen(&stretch);
        logits(&stretch);
        kernels->tiles.pack_rows(space->places.values, stretch.keys, block->d_v, space->tile_v,
                                 (size_t)most * FM_MLA_STRIP, &space->ahead, stretch.ahead_lines);
        weigh(&stretch, fresh);
        fresh = 0;
        stretch.at = source->at;
    }
    return fresh;
}
