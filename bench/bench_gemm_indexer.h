/** The cases of the indexer: scores, and the best of them. */
#ifndef BENCH_GEMM_INDEXER_H
#define BENCH_GEMM_INDEXER_H

#include "fm_bench.h"

fm_status bench_gemm_indexer_add(fm_bench *bench) FM_MUST_USE;

#endif
