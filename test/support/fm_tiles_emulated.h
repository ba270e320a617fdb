/**
 * @file fm_tiles_emulated.h
 * The tile instructions of fathom/tiles.h after the operation sections of Intel's manual, for files that are compiled for
 * AVX-512 and then include the source of a kernel. Anything that the hardware would fault on aborts the test.
 *
 * TDPBF16PS takes subnormals as zero and flushes results; here the thread's mode has to say so, as it does in kernels.
 */
#ifndef FM_TILES_EMULATED_H
#define FM_TILES_EMULATED_H

#include "fathom/tiles.h"

#include <immintrin.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

struct fm_tile_file {
    int configured;
    struct fm_tile_config config;
    uint8_t rows[8][16][64];
};
static _Thread_local struct fm_tile_file fm_tile_file;

static inline void fm_tile_require(int good)
{
    if (!good)
        abort();
}

static inline void fm_tile_configure(const struct fm_tile_config *config)
{
    fm_tile_require(config->palette == 1 && config->start_row == 0);
    for (int i = 0; i < 16; i++) {
        fm_tile_require(config->row_bytes[i] <= 64 && config->rows[i] <= 16);
        fm_tile_require(!config->row_bytes[i] == !config->rows[i]);
        fm_tile_require(i < 8 || !config->rows[i]);
    }
    fm_tile_file = (struct fm_tile_file){.configured = 1, .config = *config};
}

static inline void fm_tile_release(void)
{
    fm_tile_file = (struct fm_tile_file){0};
}

static inline int fm_tile_rows(int tile)
{
    fm_tile_require(fm_tile_file.configured && tile >= 0 && tile < 8);
    fm_tile_require(fm_tile_file.config.rows[tile] > 0);
    return fm_tile_file.config.rows[tile];
}

static inline void fm_tile_zero(int tile)
{
    (void)fm_tile_rows(tile);
    memset(fm_tile_file.rows[tile], 0, sizeof fm_tile_file.rows[tile]);
}

static inline void fm_tile_load(int tile, const void *from, size_t stride)
{
    int rows = fm_tile_rows(tile);
    fm_tile_zero(tile);
    for (int row = 0; row < rows; row++)
        memcpy(fm_tile_file.rows[tile][row], (const uint8_t *)from + (size_t)row * stride,
               fm_tile_file.config.row_bytes[tile]);
}

static inline void fm_tile_store(int tile, void *to, size_t stride)
{
    int rows = fm_tile_rows(tile);
    for (int row = 0; row < rows; row++)
        memcpy((uint8_t *)to + (size_t)row * stride, fm_tile_file.rows[tile][row],
               fm_tile_file.config.row_bytes[tile]);
}

// TDPBF16PS: for each row and column a chain for even numbers and one for odd ones, whose sum is added to the tile; all
// f32 to nearest even.
static inline void fm_tile_multiply(int sum, int a, int b)
{
    enum { FLUSHES = 0x8040 }; // MXCSR: results to zero, operands, too
    const struct fm_tile_config *config = &fm_tile_file.config;
    const __m512i high = _mm512_set1_epi32((int)0xFFFF0000);
    int rows = fm_tile_rows(sum), pairs = config->row_bytes[a] / 4;
    fm_tile_require((_mm_getcsr() & FLUSHES) == FLUSHES);
    fm_tile_require(fm_tile_rows(a) == rows && fm_tile_rows(b) == pairs);
    fm_tile_require(config->row_bytes[b] == config->row_bytes[sum] && sum != a && a != b && sum != b);
    for (int row = 0; row < rows; row++) {
        __m512 even = _mm512_setzero_ps(), odd = even;
        for (int k = 0; k < pairs; k++) {
            uint32_t pair;
            memcpy(&pair, &fm_tile_file.rows[a][row][4 * k], sizeof pair);
            __m512i column = _mm512_loadu_si512(fm_tile_file.rows[b][k]);
            even = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_set1_epi32((int)(pair << 16))),
                                   _mm512_castsi512_ps(_mm512_slli_epi32(column, 16)), even);
            odd = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_set1_epi32((int)(pair & 0xFFFF0000))),
                                  _mm512_castsi512_ps(_mm512_and_si512(column, high)), odd);
        }
        float *total = (float *)(void *)fm_tile_file.rows[sum][row];
        _mm512_storeu_ps(total, _mm512_add_ps(_mm512_loadu_ps(total), _mm512_add_ps(even, odd)));
    }
}

#define FM_TILE_ZERO(tile)                 fm_tile_zero(tile)
#define FM_TILE_LOAD(tile, from, stride)   fm_tile_load(tile, from, stride)
#define FM_TILE_STREAM(tile, from, stride) fm_tile_load(tile, from, stride)
#define FM_TILE_STORE(tile, to, stride)    fm_tile_store(tile, to, stride)
#define FM_TILE_MULTIPLY(sum, a, b)        fm_tile_multiply(sum, a, b)

#endif
