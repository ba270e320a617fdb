/**
 * @file gemm_mlp.h
 * The experts of a mixture: for each token t, over its experts e = topk_idx[t][j],
 *
 *     out[t] = C[t] + sum over j of topk_weights[t][j] * down_e(SwiGLU(gate_up_e(x[t])))
 *
 * as one call: rows are sorted by expert, multiplied with gate and up, put through SwiGLU, requantised, multiplied with
 * down and summed up. For many tokens and for few; experts that nobody chose cost nothing.
 *
 * What comes out is bit for bit what the calls of gemm.h and gemm_quant.h give one after the other:
 *
 *     x    quantised per 1x128, where it is F32 or BF16 and the weights are not BF16
 *     g    = x gate_up^T, in BF16                fm_gemm_grouped()
 *     h    = SwiGLU of g, in f32, without weights; then E4M3 per 1x128, or BF16 where the weights are
 *     y    = h down^T, in BF16                   fm_gemm_grouped()
 *     out  = C, or 0, then fma(topk_weights[t][j], y, out) for j = 0, 1, ... in f32, rounded to out's type
 *
 * Failure and threads are as in gemm.h.
 */
#ifndef FATHOM_GEMM_MLP_H
#define FATHOM_GEMM_MLP_H

#include "fathom/gemm.h"

#ifdef __cplusplus
extern "C" {
#endif

/** The experts of a layer. All gate_up are [2 h, d], gate's rows first, and all down [d, h], of one dtype. */
typedef struct fm_gemm_mlp {
    int experts;
    const fm_gemm_weights *gate_up;
    const fm_gemm_weights *down;
    float limit; /**< of SwiGLU; 0: none */
    int powers; /**< not 0: scales of x and h are rounded up to powers of two, so that they fold with such weights */
} fm_gemm_mlp;

/** Bytes of workspace that a call with at most so many tokens and experts a token needs. FM_ERR_ARG: a shape that does
 *  not fit; FM_ERR_UNSUPPORTED: dtypes; FM_ERR_LIMIT. */
FM_API fm_status fm_gemm_mlp_workspace(const fm_gemm_mlp *mlp, int64_t tokens, int topk,
                                       size_t *out_bytes) FM_MUST_USE;

/**
 * x is [tokens, d]: F32, BF16, or quantised where the weights are. topk_idx is [tokens, topk], an expert or -1 for none
 * each; topk_weights likewise, NULL for ones. `workspace`, aligned to 64, is the caller's and holds nothing between
 * calls. D of `out` is [tokens, d]. FM_ERR_ARG: an index that is neither -1 nor an expert; a workspace that is too small.
 */
FM_API fm_status fm_gemm_mlp_run(fm_gemm_context *context, const fm_gemm_mlp *mlp, int64_t tokens, int topk,
                                 const int32_t *topk_idx, const float *topk_weights, const fm_gemm_operand *x,
                                 void *workspace, size_t workspace_bytes,
                                 const fm_gemm_result *out) FM_MUST_USE;

#ifdef __cplusplus
}
#endif
#endif
