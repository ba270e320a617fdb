/** The cases of a mixture's experts: grouped products and whole layers. */
#ifndef BENCH_GEMM_MOE_H
#define BENCH_GEMM_MOE_H

#include "fm_bench.h"

fm_status bench_gemm_moe_add(fm_bench *bench) FM_MUST_USE;

#endif
