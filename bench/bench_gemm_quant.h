/** The cases of quantisers. */
#ifndef BENCH_GEMM_QUANT_H
#define BENCH_GEMM_QUANT_H

#include "fm_bench.h"

fm_status bench_gemm_quant_add(fm_bench *bench) FM_MUST_USE;

#endif
