/**
 * @file gemm_quant.h
 * Wider numbers made FP8 (E4M3) and FP4 (E2M1) with scales, and back: for activations per 1x128, for weights per 128x128,
 * for gradients of weights per channel, and what a SwiGLU gives, forward and backward, without a detour through memory.
 *
 *     fm_gemm_quantised x = {.dtype = FM_DTYPE_F8_E4M3, .data = codes, .stride = k,
 *                            .scales = scales, .scale_stride = k / 128, .scale_rows = 1};
 *     FM_TRY(fm_gemm_quantise(gemm, m, k, &(fm_gemm_operand){.dtype = FM_DTYPE_BF16, .data = bf16, .stride = k}, &x));
 *     fm_gemm_operand a = fm_gemm_quantised_operand(&x);
 *
 * Rounding. Of each block of numbers that shares a scale:
 *
 *     amax   = the largest magnitude, NaN aside, but at least 1e-4
 *     scale  = amax / 448 (E4M3) or amax / 6 (E2M1), rounded to f32; where scales are powers of two, the least one that is
 *              not below that
 *     code   = x * (1 / scale), 1 / scale rounded to f32, the product too, then to the nearest code, ties to even
 *
 * So finite numbers never leave the format's range. A NaN becomes E4M3's NaN, and +6 in E2M1, which has none. An infinity
 * makes the block's f32 scale infinite and every number of the block a NaN when it is dequantised; a UE8M0 scale becomes
 * 2^127. Arithmetic is f32 to nearest even, subnormals taken as zero; results are the same at every ISA level and
 * for any number of threads, and what a block gives does not depend on others.
 *
 * Operands, strides, threads, aliasing and failure are as in gemm.h; what is read may also be F32. Errors of all
 * functions here: FM_ERR_UNSUPPORTED, a dtype; FM_ERR_ARG, a stride, scale_stride, scale_rows or scale_k; FM_ERR_LIMIT.
 */
#ifndef FATHOM_GEMM_QUANT_H
#define FATHOM_GEMM_QUANT_H

#include "fathom/gemm.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Where codes and scales go: the fields of fm_gemm_operand, row-major. E2M1 rows of odd length end in a zero half. */
typedef struct fm_gemm_quantised {
    fm_dtype dtype; /**< FM_DTYPE_F8_E4M3 or FM_DTYPE_F4_E2M1 */
    void *data;
    int64_t stride;
    void *scales;
    int64_t scale_stride;
    int scale_rows;
    int scale_k;
    fm_dtype scale_dtype;
    int powers; /**< not 0: f32 scales are powers of two, too, so that products fold (gemm.h) */
} fm_gemm_quantised;

/** What was written, for a product. */
static inline fm_gemm_operand fm_gemm_quantised_operand(const fm_gemm_quantised *quantised)
{
    fm_gemm_operand operand = {quantised->dtype,      0,
                               quantised->data,       quantised->stride,
                               quantised->scales,     quantised->scale_stride,
                               quantised->scale_rows, quantised->scale_k,
                               quantised->scale_dtype};
    return operand;
}

/**
 * Quantises `from`, [rows, k], as `to` says: scale_rows 1 is per token, FM_GEMM_SCALE_BLOCK per block. `from` is F32, BF16,
 * or quantised already; transposed ones give scales per channel of what lies in memory.
 */
FM_API fm_status fm_gemm_quantise(fm_gemm_context *context, int64_t rows, int64_t k,
                                  const fm_gemm_operand *from, const fm_gemm_quantised *to) FM_MUST_USE;

/**
 * Quantises the transpose of `from`, [offsets[groups], k], by channel: `to` is [k, offsets[groups]] with blocks of scale_k
 * (1x128 here is 128x1 there) along the rows of `from`, which begin anew with each group, as fm_gemm_grouped_k() takes
 * them: group g has the rows offsets[g] ... offsets[g + 1] - 1, and its first column of scales is the sum of
 * ceil(size / scale_k) over the groups before it. scale_rows is 1. Rows before offsets[0] are left alone. From FP8 this is
 * the requantisation for gradients of weights. FM_ERR_ARG: offsets that decrease, or are odd for E2M1.
 */
FM_API fm_status fm_gemm_quantise_transposed(fm_gemm_context *context, int groups, const int64_t *offsets,
                                             int64_t k, const fm_gemm_operand *from,
                                             const fm_gemm_quantised *to) FM_MUST_USE;

/** Code times scale, rounded to f32 and then to `dtype`: FM_DTYPE_F32 or FM_DTYPE_BF16. `out` is [rows, k]. */
FM_API fm_status fm_gemm_dequantise(fm_gemm_context *context, int64_t rows, int64_t k,
                                    const fm_gemm_operand *from, fm_dtype dtype, void *out,
                                    int64_t stride) FM_MUST_USE;

/**
 * SwiGLU: h = w * silu(gate) * up, silu(x) = x * (1 / (1 + exp(-x))), for rows of k, in f32 (exp is off by less than 2^-22). The
 * weight w of a row is the router's; h = silu(gate) * up without weights. With a limit, gate is first cut to at most
 * limit, and up to -limit ... limit.
 */
typedef struct fm_gemm_swiglu {
    fm_dtype dtype;   /**< of gate and up: FM_DTYPE_F32 or FM_DTYPE_BF16 */
    const void *gate; /**< [rows, k] */
    const void *up;   /**< with the same stride: usually gate + k, in rows of 2 k */
    int64_t stride;
    const float *weights; /**< one a row; NULL: none */
    float limit;          /**< 0: none */
} fm_gemm_swiglu;

/** h to `out`, [rows, k], F32 or BF16. */
FM_API fm_status fm_gemm_swiglu_run(fm_gemm_context *context, int64_t rows, int64_t k,
                                    const fm_gemm_swiglu *from, fm_dtype dtype, void *out,
                                    int64_t stride) FM_MUST_USE;
/** h quantised from its f32 values, with scale_rows of 1. */
FM_API fm_status fm_gemm_swiglu_quantise(fm_gemm_context *context, int64_t rows, int64_t k,
                                         const fm_gemm_swiglu *from, const fm_gemm_quantised *to) FM_MUST_USE;

/** What the backward pass leaves; each part that is NULL is not computed. Gradients of gate and up lie side by side: the
 *  columns 0 ... k - 1 and k ... 2 k - 1. */
typedef struct fm_gemm_swiglu_gradient {
    fm_dtype dtype; /**< of `data`: FM_DTYPE_F32 or FM_DTYPE_BF16 */
    void *data;     /**< [rows, 2 k] */
    int64_t stride;
    /** [rows, 2 k], scale_rows 1, k a multiple of scale_k: for the gradient of the layer's input. */
    const fm_gemm_quantised *rows;
    /** [2 k, rows] by channel, as fm_gemm_quantise_transposed(): for the gradient of the weights. */
    const fm_gemm_quantised *columns;
    const fm_gemm_quantised *h; /**< [k, rows] by channel: h itself, for the gradient of the next weights */
    float *weights;             /**< [rows]: sum of dh * silu(gate) * up */
} fm_gemm_swiglu_gradient;

/**
 * The gradients of SwiGLU given dh, [rows, k], of `dtype`, for rows in groups as in fm_gemm_quantise_transposed() (rows
 * before offsets[0] are left alone; without groups: groups 1, offsets {0, rows}). Where a limit cuts, the gradient is 0.
 */
FM_API fm_status fm_gemm_swiglu_backward(fm_gemm_context *context, int groups, const int64_t *offsets,
                                         int64_t k, const fm_gemm_swiglu *from, fm_dtype dtype,
                                         const void *dh, int64_t dh_stride,
                                         const fm_gemm_swiglu_gradient *to) FM_MUST_USE;

#ifdef __cplusplus
}
#endif
#endif
