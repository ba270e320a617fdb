#include "gemm_few_lanes.h"

void fm_gemm_install_few_vbmi(struct fm_gemm_kernels *kernels)
{
    kernels->unpack_e4m3 = unpack_e4m3;
    kernels->unpack_pairs = unpack_pairs;
    kernels->few_bf16 = few_bf16;
    kernels->few_e4m3 = few_e4m3;
}
