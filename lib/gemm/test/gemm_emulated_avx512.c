/* The kernel for AMX, its very source, over emulated tiles. The test that uses it asks whether there is AVX-512. */
#define fm_gemm_install_amx fm_gemm_test_install_emulated
#include "fm_tiles_emulated.h"

#include "gemm_block_amx.c" // NOLINT(bugprone-suspicious-include): the source itself is what is tested
