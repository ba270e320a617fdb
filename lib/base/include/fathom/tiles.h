/**
 * @file tiles.h
 * The tile instructions of AMX that kernels use, on tiles of 16 rows of 64 bytes. For files that are compiled for AMX; a
 * test that runs a kernel's source where there is none defines the instructions itself.
 *
 * The compiler's own _tile_loadconfig() will not do: gcc 12 takes it to read 8 bytes, and drops stores to the rest of a
 * configuration that lies on the stack.
 */
#ifndef FATHOM_TILES_H
#define FATHOM_TILES_H

#include <stdint.h>
#include <string.h>

/** What LDTILECFG reads: 64 bytes. */
struct fm_tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/** Eight tiles of 16 rows of 64 bytes. */
static inline struct fm_tile_config fm_tile_config_whole(void)
{
    struct fm_tile_config config;
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (int tile = 0; tile < 8; tile++) {
        config.row_bytes[tile] = 64;
        config.rows[tile] = 16;
    }
    return config;
}

/* Compiled for AMX (clang below 15 has its own name for it); else the includer defines the rest. */
#if defined(__AMX_BF16__) || defined(__AMXBF16__)

#include <immintrin.h>

static inline void fm_tile_configure(const struct fm_tile_config *config)
{
    __asm__ volatile("ldtilecfg %0" : : "m"(*config));
}

static inline void fm_tile_release(void)
{
    __asm__ volatile("tilerelease");
}

/* Tile numbers are literals. `stride` is in bytes. */
#define FM_TILE_ZERO(tile)               _tile_zero(tile)
#define FM_TILE_LOAD(tile, from, stride) _tile_loadd(tile, from, stride)
#define FM_TILE_STREAM(tile, from, stride) \
    _tile_stream_loadd(tile, from, stride) /* spares what else is cached */
#define FM_TILE_STORE(tile, to, stride) _tile_stored(tile, to, stride)
#define FM_TILE_MULTIPLY(sum, a, b)     _tile_dpbf16ps(sum, a, b)

#endif
#endif
