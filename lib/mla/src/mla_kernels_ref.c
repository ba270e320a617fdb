#include "mla_private.h"

#include "mla_exp.h"

static void multiply(const struct fm_mla_product *product)
{
    const float *b = product->b;
    for (int row = 0; row < product->rows; row++)
        for (int column = 0; column < product->columns; column++) {
            const float *a = product->a + (size_t)row * product->a_row;
            float *c = product->c + (size_t)row * product->c_stride + column;
            float acc = product->fresh ? 0 : *c;
            for (int step = 0; step < product->depth; step += FM_MLA_STEP) {
                int end = product->depth - step < FM_MLA_STEP ? product->depth : step + FM_MLA_STEP;
                float parity[2] = {0, 0};
                for (int i = step; i < end; i++)
                    parity[i & 1] = fmaf(a[(size_t)i * product->a_index],
                                         b[(size_t)i * product->b_stride + (size_t)column], parity[i & 1]);
                float sum = parity[0] + parity[1];
                acc += end < step + FM_MLA_STEP ? sum + 0.0F : sum; // tiles add zeros: not -0
            }
            *c = acc;
        }
}

static float rounded(float value, enum fm_mla_round round)
{
    if (round == FM_MLA_ROUND_BF16)
        return fm_bf16_to_f32(fm_f32_to_bf16(value));
    return round == FM_MLA_ROUND_FP16 ? fm_fp16_to_f32(fm_f32_to_fp16(value)) : value;
}

// Halves added: sum j takes sum j + 8, then + 4, + 2, + 1.
static float folded(float sums[FM_MLA_LANES])
{
    for (int half = FM_MLA_LANES / 2; half; half /= 2)
        for (int j = 0; j < half; j++)
            sums[j] += sums[j + half];
    return sums[0];
}

static void softmax_row(const struct fm_mla_softmax *softmax, int row)
{
    int keys = softmax->visible ? softmax->visible[row] : softmax->keys;
    float *s = softmax->s + row;
    float before = softmax->max[row], top = -INFINITY;
    for (int t = 0; t < keys; t++) {
        float x = s[(size_t)t * softmax->stride] * softmax->factor;
        top = x > top ? x : top;
    }
    softmax->peak[row] = top > softmax->peak[row] ? top : softmax->peak[row];
    float max = top > before + FM_MLA_SLACK ? top : before;
    float base = max == -INFINITY ? 0 : max;
    float sums[FM_MLA_LANES] = {0};
    for (int t = 0; t < softmax->keys; t++) {
        float *at = s + (size_t)t * softmax->stride;
        float p = t < keys ? fm_mla_exp2(*at * softmax->factor - base) : 0;
        sums[t % FM_MLA_LANES] += p;
        *at = rounded(p, softmax->round);
    }
    float alpha = fm_mla_exp2(before - base);
    softmax->alpha[row] = alpha;
    softmax->max[row] = max;
    softmax->sum[row] = fmaf(softmax->sum[row], alpha, folded(sums));
}

static void softmax(const struct fm_mla_softmax *softmax)
{
    for (int row = 0; row < softmax->rows; row++)
        softmax_row(softmax, row);
}

static void softmax_back(const struct fm_mla_softmax_back *softmax)
{
    for (int row = 0; row < softmax->rows; row++) {
        int keys = softmax->visible ? softmax->visible[row] : softmax->keys;
        float lse2 = softmax->lse2[row], delta = softmax->delta[row];
        for (int t = 0; t < softmax->keys; t++) {
            float *s = softmax->s + (size_t)t * softmax->stride + row;
            float *dp = softmax->dp + (size_t)t * softmax->stride + row;
            float p = t < keys ? fm_mla_exp2(*s * softmax->factor - lse2) : 0;
            *dp = t < keys ? rounded(p * (*dp - delta), softmax->round) : 0;
            *s = rounded(p, softmax->round);
        }
    }
}

static void widen_bf16(const void *from, size_t n, float *out)
{
    const fm_bf16 *codes = from;
    for (size_t i = 0; i < n; i++)
        out[i] = fm_bf16_to_f32(codes[i]);
}

static void widen_fp16(const void *from, size_t n, float *out)
{
    const fm_fp16 *codes = from;
    for (size_t i = 0; i < n; i++)
        out[i] = fm_fp16_to_f32(codes[i]);
}

static void widen_e4m3(const void *from, size_t n, float *out)
{
    const fm_e4m3 *codes = from;
    for (size_t i = 0; i < n; i++)
        out[i] = fm_e4m3_to_f32(codes[i]);
}

static void scale_bf16(float *x, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++)
        x[i] = rounded(x[i] * scale, FM_MLA_ROUND_BF16);
}

static void scale(float *x, size_t n, float by)
{
    for (size_t i = 0; i < n; i++)
        x[i] *= by;
}

static void add_scaled(const float *x, size_t n, float by, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = fmaf(x[i], by, out[i]);
}

static void transpose(const float *x, size_t x_stride, size_t n, float *out, size_t out_stride)
{
    for (size_t i = 0; i < n; i++)
        for (size_t r = 0; r < FM_MLA_LANES; r++)
            out[i * out_stride + r] = x[r * x_stride + i];
}

void fm_mla_install_ref(struct fm_mla_kernels *kernels)
{
    *kernels = (struct fm_mla_kernels){
        .isa = FM_ISA_REF,
        .multiply = multiply,
        .softmax = softmax,
        .softmax_back = softmax_back,
        .widen_bf16 = widen_bf16,
        .widen_fp16 = widen_fp16,
        .widen_e4m3 = widen_e4m3,
        .scale_bf16 = scale_bf16,
        .scale = scale,
        .add_scaled = add_scaled,
        .transpose = transpose,
    };
}
