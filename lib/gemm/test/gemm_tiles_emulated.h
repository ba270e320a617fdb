/**
 * @file gemm_tiles_emulated.h
 * The tile instructions in C, after the operation sections of Intel's manual, for one thread at a time each. Anything that
 * the hardware would fault on aborts the test.
 */
#ifndef GEMM_TILES_EMULATED_H
#define GEMM_TILES_EMULATED_H

#include "gemm_flush.h"
#include "gemm_tiles.h"

#include "fathom/mem.h"
#include "fathom/numfmt.h"

#include <stdlib.h>
#include <string.h>

struct fm_gemm_tile_file {
    int configured;
    struct fm_gemm_tile_config config;
    uint8_t rows[8][16][64];
};
extern _Thread_local struct fm_gemm_tile_file fm_gemm_test_tiles;

static inline void fm_gemm_tile_require(int good)
{
    if (!good)
        abort();
}

static inline void fm_gemm_tile_configure(const struct fm_gemm_tile_config *config)
{
    fm_gemm_tile_require(config->palette == 1 && config->start_row == 0);
    for (int i = 0; i < 16; i++) {
        fm_gemm_tile_require(config->row_bytes[i] <= 64 && config->rows[i] <= 16);
        fm_gemm_tile_require(!config->row_bytes[i] == !config->rows[i]);
        fm_gemm_tile_require(i < 8 || !config->rows[i]);
    }
    fm_gemm_test_tiles = (struct fm_gemm_tile_file){.configured = 1, .config = *config};
}

static inline void fm_gemm_tile_release(void)
{
    fm_gemm_test_tiles = (struct fm_gemm_tile_file){0};
}

static inline int fm_gemm_tile_rows(int tile)
{
    fm_gemm_tile_require(fm_gemm_test_tiles.configured && tile >= 0 && tile < 8);
    fm_gemm_tile_require(fm_gemm_test_tiles.config.rows[tile] > 0);
    return fm_gemm_test_tiles.config.rows[tile];
}

static inline void fm_gemm_tile_zero(int tile)
{
    (void)fm_gemm_tile_rows(tile);
    memset(fm_gemm_test_tiles.rows[tile], 0, sizeof fm_gemm_test_tiles.rows[tile]);
}

static inline void fm_gemm_tile_load(int tile, const void *from, size_t stride)
{
    int rows = fm_gemm_tile_rows(tile);
    fm_gemm_tile_zero(tile);
    for (int row = 0; row < rows; row++)
        memcpy(fm_gemm_test_tiles.rows[tile][row], (const uint8_t *)from + (size_t)row * stride,
               fm_gemm_test_tiles.config.row_bytes[tile]);
}

static inline void fm_gemm_tile_store(int tile, void *to, size_t stride)
{
    int rows = fm_gemm_tile_rows(tile);
    for (int row = 0; row < rows; row++)
        memcpy((uint8_t *)to + (size_t)row * stride, fm_gemm_test_tiles.rows[tile][row],
               fm_gemm_test_tiles.config.row_bytes[tile]);
}

// Number `i` of a row.
static inline float fm_gemm_tile_bf16(int tile, int row, int i)
{
    return fm_bf16_to_f32(fm_get_le16(fm_gemm_test_tiles.rows[tile][row] + 2 * i));
}

// TDPBF16PS: for each row and column a chain for even numbers and one for odd ones, whose sum is added to the tile; all
// f32 to nearest even, subnormals taken as and made zero.
static inline void fm_gemm_tile_multiply(int sum, int a, int b)
{
    const struct fm_gemm_tile_config *config = &fm_gemm_test_tiles.config;
    int rows = fm_gemm_tile_rows(sum), pairs = config->row_bytes[a] / 4, columns = config->row_bytes[sum] / 4;
    fm_gemm_tile_require(fm_gemm_tile_rows(a) == rows && fm_gemm_tile_rows(b) == pairs);
    fm_gemm_tile_require(config->row_bytes[b] == config->row_bytes[sum] && sum != a && a != b && sum != b);
    for (int row = 0; row < rows; row++)
        for (int column = 0; column < columns; column++) {
            float chains[2] = {0, 0}, total;
            for (int k = 0; k < pairs; k++)
                for (int half = 0; half < 2; half++)
                    chains[half] =
                        fm_gemm_flush_fma(fm_gemm_tile_bf16(a, row, 2 * k + half),
                                          fm_gemm_tile_bf16(b, k, 2 * column + half), chains[half]);
            memcpy(&total, fm_gemm_test_tiles.rows[sum][row] + (size_t)4 * (size_t)column, sizeof total);
            total = fm_gemm_flush_add(total, fm_gemm_flush_add(chains[0], chains[1]));
            memcpy(fm_gemm_test_tiles.rows[sum][row] + (size_t)4 * (size_t)column, &total, sizeof total);
        }
}

#define FM_GEMM_TILE_ZERO(tile)                 fm_gemm_tile_zero(tile)
#define FM_GEMM_TILE_LOAD(tile, from, stride)   fm_gemm_tile_load(tile, from, stride)
#define FM_GEMM_TILE_STREAM(tile, from, stride) fm_gemm_tile_load(tile, from, stride)
#define FM_GEMM_TILE_STORE(tile, to, stride)    fm_gemm_tile_store(tile, to, stride)
#define FM_GEMM_TILE_MULTIPLY(sum, a, b)        fm_gemm_tile_multiply(sum, a, b)

#endif
