/* Products in BF16 and FP8 through gemm. Activations stay f32 between operators; what is multiplied is rounded.
 *
 * BF16: both sides are rounded to BF16. FP8 as in the V3 report (3.3): activations and gradients get a scale for each 128
 * channels of a token, weights one for each 128 x 128, gradients of weights are products of both sides requantised along
 * the tokens; all sums are f32. What a weight bears is said by its `floor`: the router stays f32, the head BF16. */
#ifndef FM_MODEL_LOW_H
#define FM_MODEL_LOW_H

#include "fathom/gemm_quant.h"
#include "model_weights.h"

/** One thread's, or one team's. Errors stick: products after the first failure do nothing. */
struct fm_model_low {
    fm_dtype dtype; // BF16 or F8_E4M3
    fm_gemm_context *gemm;
    struct fm_model_scratch scratch;
    fm_status status;
    char message[256];
    int64_t products[FM_DTYPE_COUNT]; // by dtype
};

FM_MUST_USE fm_status fm_model_low_open(fm_dtype dtype, int threads, struct fm_model_low **out_low);
void fm_model_low_close(struct fm_model_low *low);
/** The first failure since the last look, which is forgotten. NULL: there is none. */
FM_MUST_USE fm_status fm_model_low_check(struct fm_model_low *low);

/** What `weight` is multiplied in: F32, BF16 or F8_E4M3. */
fm_dtype fm_model_low_dtype(const struct fm_model_low *low, const struct fm_model_weight *weight);

/** out [rows, n] = x [rows, k] weight^T. */
void fm_model_low_forward(struct fm_model_low *low, int64_t rows, const float *x,
                          const struct fm_model_weight *weight, float *out);
/** dx [rows, k] = (or +=) dy weight. */
void fm_model_low_back(struct fm_model_low *low, int64_t rows, const struct fm_model_weight *weight,
                       const float *dy, float *dx, int accumulate);
/** weight.gradient += dy^T x. */
void fm_model_low_weight(struct fm_model_low *low, int64_t rows, const float *x,
                         const struct fm_model_weight *weight, const float *dy);

/** x [rows, columns] as BF16, or as E4M3 with a scale for 128 channels, a power of two where `powers`; in `scratch`. */
FM_MUST_USE fm_status fm_model_low_round(struct fm_model_low *low, struct fm_model_scratch *scratch,
                                         fm_dtype dtype, int64_t rows, int64_t columns, const float *x,
                                         int powers, fm_gemm_operand *out);
/** Room in `scratch` for a weight's master, rounded, and the rounding: fm_gemm_quantised_operand() of it is weight.rounded. */
FM_MUST_USE fm_status fm_model_low_take_weight(struct fm_model_low *low, struct fm_model_scratch *scratch,
                                               const struct fm_model_weight *weight, fm_gemm_quantised *out);
FM_MUST_USE fm_status fm_model_low_round_weight(struct fm_model_low *low,
                                                const struct fm_model_weight *weight,
                                                const fm_gemm_quantised *to);
/** The weight as products in `dtype` take it, or, `transposed`, as those for gradients of rows do. */
FM_MUST_USE fm_status fm_model_low_weights(struct fm_model_low *low, fm_dtype dtype,
                                           const struct fm_model_weight *weight, int transposed,
                                           fm_gemm_weights *out);

/** All products of a set, as fm_model_products() has them. */
void fm_model_low_products(struct fm_model_low *low, const struct fm_model_source *sources, int source_count,
                           const struct fm_model_product *products, int count);

/** Bytes that the weight takes when it is packed. */
FM_MUST_USE fm_status fm_model_low_pack_bytes(struct fm_model_low *low, const struct fm_model_weight *weight,
                                              size_t *out_bytes);
/** Packs the weight into `blob`, of so many bytes: as it is stored, or rounded where it is stored otherwise. FM_ERR_NOMEM. */
FM_MUST_USE fm_status fm_model_low_pack(struct fm_model_low *low, struct fm_model_weight *weight, void *blob,
                                        size_t bytes);

/** Rows [first, first + rows) of a weight as f32. */
void fm_model_low_widen(const struct fm_model_weight *weight, int64_t first, int64_t rows, float *out);

#endif
