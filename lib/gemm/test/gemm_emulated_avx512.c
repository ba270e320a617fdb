/* The kernel for AMX, its very source, over emulated tiles. The test that uses it asks whether there is AVX-512. */
#define FM_GEMM_TILES_EMULATED 1
#define fm_gemm_install_amx    fm_gemm_test_install_emulated
#include "gemm_tiles.h"
#include "gemm_tiles_emulated.h"

#include "gemm_block_amx.c" // NOLINT(bugprone-suspicious-include): the source itself is what is tested

_Thread_local struct fm_gemm_tile_file fm_gemm_test_tiles;
