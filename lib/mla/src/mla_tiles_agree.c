/* Whether tiles keep the order of sums: asked of each CPU that has them, since no manual binds the next one. */
#include "mla_private.h"

#include "fathom/numfmt.h"

#include <math.h>
#include <string.h>

enum { ROWS = 32, DEPTH = 80, LINE = 96, TINY_ROWS = 8 };

struct sample {
    float a[ROWS][LINE];         // rows of A
    float b[FM_MLA_STRIP][LINE]; // columns of B
    _Alignas(64) float got[ROWS * FM_MLA_STRIP], expected[ROWS * FM_MLA_STRIP];
    uint16_t rows[ROWS][LINE];
    uint16_t strip[LINE * FM_MLA_STRIP];
    float turned[DEPTH][FM_MLA_STRIP];
};

static void fill(struct sample *sample)
{
    uint32_t state = 1;
    memset(sample, 0, sizeof *sample);
    for (int i = 0; i < (ROWS + FM_MLA_STRIP) * DEPTH; i++) {
        state = state * 1664525 + 1013904223;
        // BF16 of any sign and mantissa, of exponents from 2^-20 to 2^11. Some rows times columns underflow.
        uint32_t bits = (state & 0x80000000) | (107 + (state >> 26 & 31)) << 23 | (state & 0x007F0000);
        float value = fm_f32_from_bits(bits);
        int row = i / DEPTH, at = i % DEPTH;
        if (row < ROWS)
            sample->a[row][at] = row < TINY_ROWS ? fm_bf16_to_f32(fm_f32_to_bf16(value * 0x1p-100f)) : value;
        else
            sample->b[row - ROWS][at] = value;
    }
    sample->a[ROWS - 1][3] = INFINITY;
    for (int row = 0; row < ROWS; row++)
        for (int i = 0; i < LINE; i++)
            sample->rows[row][i] = fm_f32_to_bf16(sample->a[row][i]);
    for (int i = 0; i < DEPTH; i++)
        for (int column = 0; column < FM_MLA_STRIP; column++)
            sample->turned[i][column] = sample->b[column][i];
}

int fm_mla_tiles_agree(const struct fm_mla_kernels *tiles, const struct fm_mla_kernels *other)
{
    enum { TILE = FM_MLA_LANES };
    struct sample sample;
    fill(&sample);
    for (int half = 0; half < 2; half++)
        tiles->tiles.pack_columns(sample.b[(size_t)half * TILE], LINE, DEPTH,
                                  sample.strip + (size_t)half * FM_MLA_TILE_CODES,
                                  (size_t)2 * FM_MLA_TILE_CODES);
    tiles->tiles.multiply(&(struct fm_mla_tile_product){
        .a = (const uint8_t *const[]){(const uint8_t *)sample.rows[0], (const uint8_t *)sample.rows[TILE]},
        .a_bytes = (size_t[]){sizeof sample.rows[0], sizeof sample.rows[0]},
        .b = sample.strip,
        .c = sample.got,
        .c_stride = FM_MLA_STRIP,
        .rows = ROWS,
        .columns = FM_MLA_STRIP,
        .depth = DEPTH,
    });
    other->multiply(&(struct fm_mla_product){.a = sample.a[0],
                                             .a_row = LINE,
                                             .a_index = 1,
                                             .b = sample.turned[0],
                                             .b_stride = FM_MLA_STRIP,
                                             .c = sample.expected,
                                             .c_stride = FM_MLA_STRIP,
                                             .rows = ROWS,
                                             .columns = FM_MLA_STRIP,
                                             .depth = DEPTH});
    for (int i = 0; i < ROWS * FM_MLA_STRIP; i++)
        if (fm_f32_bits(sample.got[i]) != fm_f32_bits(sample.expected[i]) &&
            !(isnan(sample.got[i]) && isnan(sample.expected[i])))
            return 0;
    return 1;
}
