#include "probe_kernels.h"

#include <stdint.h>

/*
 * All tile instructions are our own asm. gcc 12's _tile_loadconfig() declares an 8-byte memory operand, so that stores
 * to the other 56 bytes of a local configuration are dropped at -O2 and the instruction faults; its _tile_loadd()
 * declares no memory at all. Here the configuration is an operand of its full 64 bytes, and tile loads clobber memory.
 * The compilers never use tile registers by themselves, so that nothing needs saving; gcc 12 has no names to clobber
 * them by.
 */

enum {
    ROWS = 16,
    ROW_BYTES = 64,
    STEPS = 512, // of 4 products: 33 thousand cycles, 15 us; configuring and loading cost some 300 of them
    PRODUCTS_PER_STEP = 4,
    // One TDPBF16PS: 16 x 16 sums of 32 products.
    FLOPS_PER_PRODUCT = 2 * 16 * 16 * 32,
};

// Intel SDM volume 1, table 18-2: palette, start row, 14 reserved bytes, bytes a row of 16 tiles, rows of 16 tiles. The
// tiles beyond 7 do not exist in palette 1 and stay 0.
struct tile_config {
    uint8_t palette;
    uint8_t start_row;
    uint8_t reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};
_Static_assert(sizeof(struct tile_config) == 64, "LDTILECFG reads 64 bytes");

static const struct tile_config config = {
    .palette = 1,
    .row_bytes = {ROW_BYTES, ROW_BYTES, ROW_BYTES, ROW_BYTES, ROW_BYTES, ROW_BYTES, ROW_BYTES, ROW_BYTES},
    .rows = {ROWS, ROWS, ROWS, ROWS, ROWS, ROWS, ROWS, ROWS},
};

// Pseudo-random bf16 values of magnitude 1 to 2 and either sign: no zeros, infinities or subnormals.
static void fill_tile(uint16_t tile[ROWS][ROW_BYTES / 2])
{
    uint32_t state = 1;
    for (int row = 0; row < ROWS; row++)
        for (int column = 0; column < ROW_BYTES / 2; column++) {
            state = state * 1664525u + 1013904223u;
            tile[row][column] = (uint16_t)(0x3F80u | (state >> 16 & 0x807Fu));
        }
}

#define TILE_LOAD(tile) \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile : : "r"(values), "r"((long)ROW_BYTES) : "memory")

double fm_bench_chunk_amx(fm_bench_lane *lane)
{
    (void)lane;
    static _Thread_local uint16_t values[ROWS][ROW_BYTES / 2];
    if (!values[0][0])
        fill_tile(values); // in the warm-up chunk: it would be a tenth of the time of each
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
    __asm__ volatile("tilezero %tmm0\n\ttilezero %tmm1\n\ttilezero %tmm2\n\ttilezero %tmm3");
    TILE_LOAD(4);
    TILE_LOAD(5);
    TILE_LOAD(6);
    TILE_LOAD(7);
    // The 2 x 2 block of a GEMM's inner loop: two tiles of A against two of B into four sums.
    for (int step = 0; step < STEPS; step++)
        __asm__ volatile("tdpbf16ps %tmm6, %tmm4, %tmm0\n\t"
                         "tdpbf16ps %tmm7, %tmm4, %tmm1\n\t"
                         "tdpbf16ps %tmm6, %tmm5, %tmm2\n\t"
                         "tdpbf16ps %tmm7, %tmm5, %tmm3");
    __asm__ volatile("tilerelease");
    return (double)STEPS * PRODUCTS_PER_STEP * FLOPS_PER_PRODUCT;
}
