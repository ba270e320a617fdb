#include "probe_fma.h"
#include "probe_kernels.h"

#include <immintrin.h>

#define STEP(c) __asm__ volatile("vfmadd213ps %2, %1, %0" : "+x"(c) : "x"(factor), "x"(addend))
FM_BENCH_FMA_CHUNK(fm_bench_chunk_fma_avx2, __m256, 8, _mm256_set1_ps, STEP)
#undef STEP

#define SPLAT(x) (x)
#define STEP(c)  __asm__ volatile("vfmadd213ss %2, %1, %0" : "+x"(c) : "x"(factor), "x"(addend))
FM_BENCH_FMA_CHUNK(fm_bench_chunk_fma_scalar, float, 1, SPLAT, STEP)
