/* The kernels for AMX, their very source, over emulated tiles. mla_open() asks whether there is AVX-512. */
#define fm_mla_install_amx fm_mla_test_install_emulated
#include "fm_tiles_emulated.h"

#include "mla_tiles_amx.c" // NOLINT(bugprone-suspicious-include): the source itself is what is tested
