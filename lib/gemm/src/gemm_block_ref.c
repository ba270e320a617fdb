/* The reference: the summation order as fathom/gemm.h states it, one operation after the other. */
#include "gemm_blob.h"
#include "gemm_flush.h"
#include "gemm_private.h"

// e + o of one step; b's rows are a strip apart.
static float step_sum(const float *a, const float *b)
{
    float sum[2] = {0, 0};
    for (int i = 0; i < FM_GEMM_STEP; i++)
        sum[i % 2] = fm_gemm_flush_fma(a[i], b[(size_t)i * FM_GEMM_STRIP], sum[i % 2]);
    return fm_gemm_flush_add(sum[0], sum[1]);
}

static void multiply(const struct fm_gemm_block *block)
{
    for (int row = 0; row < block->rows; row++) {
        const float *a = block->a + (size_t)row * block->a_stride;
        for (int column = 0; column < FM_GEMM_STRIP; column++) {
            const float *b = block->b + column;
            float *acc = block->acc + (size_t)row * block->acc_stride + column;
            float sum = block->a_scales ? 0 : *acc;
            for (size_t i = 0; i < (size_t)block->steps * FM_GEMM_STEP; i += FM_GEMM_STEP)
                sum = fm_gemm_flush_add(sum, step_sum(a + i, b + i * FM_GEMM_STRIP));
            if (block->a_scales) {
                float scale = fm_gemm_flush_mul(block->a_scales[row], block->b_scales[column]);
                sum = fm_gemm_flush_fma(sum, scale, *acc);
            }
            *acc = sum;
        }
    }
}

static void unpack_bf16(const uint8_t *panel, int64_t pairs, float *out)
{
    for (int64_t i = 0; i < 2 * pairs; i++)
        for (int64_t column = 0; column < FM_GEMM_PANEL; column++)
            out[i * FM_GEMM_STRIP + column] =
                fm_bf16_to_f32(fm_get_le16(panel + 2 * fm_gemm_blob_at_bf16(i, column)));
}

static void unpack_e4m3(const uint8_t *panel, int64_t pairs, float *out)
{
    for (int64_t i = 0; i < 2 * pairs; i++)
        for (int64_t column = 0; column < FM_GEMM_PANEL; column++)
            out[i * FM_GEMM_STRIP + column] = fm_e4m3_to_f32(panel[fm_gemm_blob_at_e4m3(i, column)]);
}

static void unpack_e2m1(const uint8_t *panel, int64_t pairs, float *out)
{
    for (int64_t i = 0; i < 2 * pairs; i++)
        for (int64_t column = 0; column < FM_GEMM_PANEL; column++) {
            uint8_t code = panel[fm_gemm_blob_at_e2m1(i, column)] >> (i % 2 ? 4 : 0);
            out[i * FM_GEMM_STRIP + column] = fm_e2m1_to_f32(code);
        }
}

static void scale_strip(float *strip, int64_t rows, const float *scales)
{
    for (int64_t i = 0; i < rows * FM_GEMM_STRIP; i++)
        strip[i] = fm_gemm_flush_mul(strip[i], scales[i % FM_GEMM_STRIP]);
}

static void scale_line(float *line, int64_t count, float scale)
{
    for (int64_t i = 0; i < count; i++)
        line[i] = fm_gemm_flush_mul(line[i], scale);
}

static void transpose(const float *from, size_t from_stride, float *to, size_t to_stride)
{
    for (size_t i = 0; i < FM_GEMM_SQUARE; i++)
        for (size_t j = 0; j < FM_GEMM_SQUARE; j++)
            to[j * to_stride + i] = from[i * from_stride + j];
}

void fm_gemm_install_ref(struct fm_gemm_kernels *kernels)
{
    *kernels = (struct fm_gemm_kernels){
        .isa = FM_ISA_REF,
        .multiply = multiply,
        .unpack_bf16 = unpack_bf16,
        .unpack_e4m3 = unpack_e4m3,
        .unpack_e2m1 = unpack_e2m1,
        .widen_bf16 = fm_base_bf16_to_f32,
        .widen_e4m3 = fm_base_e4m3_to_f32,
        .scale_strip = scale_strip,
        .scale_line = scale_line,
        .transpose = transpose,
    };
}
