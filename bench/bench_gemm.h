/** What products are measured against; bench_gemm_peers.c alone includes the peers' headers. */
#ifndef BENCH_GEMM_H
#define BENCH_GEMM_H

#include "fathom/gemm.h"

struct bench_gemm_peers;

/** Prepares every peer that this build has for D[m, n] = A B^T with operands of BF16 or E4M3, which stay the caller's. */
fm_status bench_gemm_peers_open(int64_t m, int64_t n, const fm_gemm_operand *a, const fm_gemm_operand *b,
                                int64_t k, int threads_max, struct bench_gemm_peers **out_peers) FM_MUST_USE;
void bench_gemm_peers_close(struct bench_gemm_peers *peers);

/* A run each. FM_ERR_UNAVAILABLE: not in this build. */
/** oneDNN's matmul in BF16, weights reordered beforehand to what it likes best. */
fm_status bench_gemm_dnnl(struct bench_gemm_peers *peers, int threads) FM_MUST_USE;
/** For FP8: both operands dequantised to BF16, then the same without reordered weights. */
fm_status bench_gemm_dequantise_dnnl(struct bench_gemm_peers *peers, int threads) FM_MUST_USE;
/** OpenBLAS' sgemm, on operands made f32 beforehand. */
fm_status bench_gemm_openblas(struct bench_gemm_peers *peers, int threads) FM_MUST_USE;

#endif
