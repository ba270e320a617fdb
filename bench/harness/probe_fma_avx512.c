#include "probe_fma.h"
#include "probe_kernels.h"

#include <immintrin.h>

#define STEP(c) __asm__ volatile("vfmadd213ps %2, %1, %0" : "+v"(c) : "v"(factor), "v"(addend))
FM_BENCH_FMA_CHUNK(fm_bench_chunk_fma_avx512, __m512, 16, _mm512_set1_ps, STEP)
