/**
 * @file gemm_tiles.h
 * The tile instructions of AMX that gemm_block_amx.c uses, on tiles of 16 rows of 64 bytes; a test
 * that runs that source where there are none defines them itself.
 *
 * The compiler's own _tile_loadconfig() will not do: gcc 12 takes it to read 8 bytes, and drops stores to the rest of a
 * configuration that lies on the stack.
 */
#ifndef GEMM_TILES_H
#define GEMM_TILES_H

#include <stdint.h>

/** What LDTILECFG reads. */
struct fm_gemm_tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};
_Static_assert(sizeof(struct fm_gemm_tile_config) == 64, "LDTILECFG reads 64 bytes");

#if !defined(FM_GEMM_TILES_EMULATED) // else the includer has defined the rest

#include <immintrin.h>

static inline void fm_gemm_tile_configure(const struct fm_gemm_tile_config *config)
{
    __asm__ volatile("ldtilecfg %0" : : "m"(*config));
}

static inline void fm_gemm_tile_release(void)
{
    __asm__ volatile("tilerelease");
}

// Tile numbers are literals. `stride` is in bytes.
#define FM_GEMM_TILE_ZERO(tile)               _tile_zero(tile)
#define FM_GEMM_TILE_LOAD(tile, from, stride) _tile_loadd(tile, from, stride)
#define FM_GEMM_TILE_STREAM(tile, from, stride) \
    _tile_stream_loadd(tile, from, stride) // does not evict the other operand
#define FM_GEMM_TILE_STORE(tile, to, stride) _tile_stored(tile, to, stride)
#define FM_GEMM_TILE_MULTIPLY(sum, a, b)     _tile_dpbf16ps(sum, a, b)

#endif
#endif
