/* The f32 kernels that everything else is made of, one table for each instruction set.
 *
 * Every kernel computes the same bits at every level: a lane of a vector holds one element of the result, or one of the
 * FM_MODEL_LANES partial sums that a reduction is defined to have, whatever the width of the machine's registers. */
#ifndef FM_MODEL_KERNELS_H
#define FM_MODEL_KERNELS_H

#include <stdint.h>

/** Partial sums of a reduction: as many as the widest register has lanes. */
#define FM_MODEL_LANES 16

/** What AdamW does to a range of parameters; of a step, but for `decay`, which is of a weight. */
struct fm_model_adam_terms {
    float rate, beta1, beta2, epsilon, decay;
    float correction1, correction2; // 1 / (1 - beta^t)
    float clip;                     // gradients are multiplied by it first
};

struct fm_model_kernels {
    /** A tile of the result is `tile_rows` x `tile_columns`. */
    int tile_rows, tile_columns;
    /** c[i * stride + j] (+)= sum over p of a[p * tile_rows + i] * b[p * tile_columns + j], fused, in the order of p. */
    void (*tile)(int64_t k, const float *a, const float *b, float *c, int64_t stride, int accumulate);

    float (*dot)(const float *a, const float *b, int64_t n);
    void (*axpy)(float factor, const float *x, float *y, int64_t n); // y += factor * x
    /** y = x * weight / sqrt(mean(x^2) + epsilon); returns 1 / sqrt(...). */
    float (*norm)(const float *x, const float *weight, float epsilon, float *y, int64_t n);
    /** dx += the gradient of `norm` with respect to x. */
    void (*norm_back)(const float *x, const float *weight, float inverse, const float *dy, float *dx,
                      int64_t n);
    void (*swiglu)(const float *gate, const float *up, float *out, int64_t n); // silu(gate) * up
    void (*swiglu_back)(const float *gate, const float *up, const float *dy, float *dgate, float *dup,
                        int64_t n);
    /** x = softmax(scale * x) in place; returns log(sum(exp(scale * x))). */
    float (*softmax)(float scale, float *x, int64_t n);
    /** dp = p * (dp - sum(p * dp)) * scale in place. */
    void (*softmax_back)(float scale, const float *p, float *dp, int64_t n);
    void (*adam)(const struct fm_model_adam_terms *terms, float *weight, const float *gradient, float *mean,
                 float *square, int64_t n);
};

extern const struct fm_model_kernels fm_model_kernels_ref, fm_model_kernels_avx2, fm_model_kernels_avx512;

/** The best table that this machine and FM_ISA allow. */
const struct fm_model_kernels *fm_model_kernels_get(void);

#endif
