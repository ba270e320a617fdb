/* One product of matrices of f32 on tiles, packed for it alone: what the backward pass does with each operand once or twice. */
#include "mla_private.h"

enum { TILE = 16 };

// Strides of whole cache lines, an odd number of them.
static size_t line_of(int depth)
{
    return fm_mla_key_line(depth);
}

static void pack_a(const struct fm_mla_product *product, int rows, const struct fm_mla_kernels *kernels,
                   uint16_t *out)
{
    size_t line = line_of(product->depth);
    if (product->a_index == 1) {
        kernels->tiles.pack_lines(product->a, product->a_row, rows, product->depth, out, line);
        return;
    }
    for (int row = 0; row < rows; row += TILE)
        kernels->tiles.pack_turned(product->a + row, product->a_index, product->depth,
                                   out + (size_t)row * line, line);
}

void fm_mla_product_tiles(const struct fm_mla_product *product, int again,
                          const struct fm_mla_kernels *kernels, struct fm_mla_space *space)
{
    const uint8_t *groups[FM_MLA_BACK_KEYS / TILE];
    size_t bytes[FM_MLA_BACK_KEYS / TILE], line = line_of(product->depth);
    int rows = product->rows / TILE * TILE;
    for (int row = 0; row < rows; row += TILE) {
        groups[row / TILE] = (const uint8_t *)(space->keys + (size_t)row * line);
        bytes[row / TILE] = line * sizeof *space->keys;
    }
    if (!again)
        pack_a(product, rows, kernels, space->keys);
    for (int column = 0; rows && product->depth > 0 && column < product->columns; column += FM_MLA_STRIP) {
        int columns = product->columns - column < FM_MLA_STRIP ? TILE : FM_MLA_STRIP;
        kernels->tiles.pack_pairs(product->b + column, product->b_stride, product->depth, columns,
                                  space->tile_v);
        kernels->tiles.multiply(&(struct fm_mla_tile_product){.a = groups,
                                                              .a_bytes = bytes,
                                                              .b = space->tile_v,
                                                              .c = product->c + column,
                                                              .c_stride = product->c_stride,
                                                              .rows = rows,
                                                              .columns = columns,
                                                              .depth = product->depth,
                                                              .fresh = product->fresh});
    }
    if (rows == product->rows)
        return;
    // A tile would write rows of C that are not there.
    struct fm_mla_product rest = *product;
    rest.a += (size_t)rows * product->a_row;
    rest.c += (size_t)rows * product->c_stride;
    rest.rows -= rows;
    kernels->multiply(&rest);
}
