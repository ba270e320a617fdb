// Rows of tokens on their way to experts: rounded where they are sent, once, and multiplied as they come.
#include "fathom/numfmt.h"
#include "model_low.h"
#include "model_trainer.h"

enum { BLOCK = FM_MODEL_SCALE_BLOCK };

static fm_status no_memory(int64_t rows)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory for %lld rows on their way", (long long)rows);
}

static size_t row_bytes(const fm_gemm_operand *rows)
{
    return (size_t)rows->stride * fm_base_dtype_bits(rows->dtype) / 8;
}

fm_status fm_model_rows_round(struct fm_trainer *trainer, const struct fm_model_layer *layer, int64_t tokens,
                              const float *x, fm_gemm_operand *out)
{
    struct fm_model_low *low = trainer->model.compute.low;
    int64_t hidden = trainer->model.config.hidden;
    fm_dtype dtype = fm_model_low_dtype(low, &layer->experts[0].gate);
    if (dtype !=
        FM_DTYPE_F32) // scales are powers of two, so that requantising by columns rounds as little as can be
        return fm_model_low_round(low, &trainer->model.scratch, dtype, tokens, hidden, x, 1, out);
    *out = (fm_gemm_operand){.dtype = FM_DTYPE_F32, .data = x, .stride = hidden};
    return FM_OK;
}

fm_status fm_model_rows_take(struct fm_trainer *trainer, const fm_gemm_operand *like, int64_t rows,
                             fm_gemm_quantised *out)
{
    struct fm_model_scratch *scratch = &trainer->model.scratch;
    void *data = fm_model_scratch_take(scratch, ((size_t)rows * row_bytes(like) + 3) / 4);
    float *scales = fm_model_scratch_take(scratch, (size_t)(rows * like->scale_stride));
    if (!data || !scales)
        return no_memory(rows);
    *out = (fm_gemm_quantised){.dtype = like->dtype,
                               .data = data,
                               .stride = like->stride,
                               .scales = scales,
                               .scale_stride = like->scale_stride,
                               .scale_rows = 1};
    return FM_OK;
}

const void *fm_model_rows_at(const fm_gemm_operand *rows, int64_t row)
{
    return (const char *)rows->data + (size_t)row * row_bytes(rows);
}

const float *fm_model_rows_scales(const fm_gemm_operand *rows, int64_t row)
{
    return rows->dtype == FM_DTYPE_F8_E4M3 ? (const float *)rows->scales + row * rows->scale_stride : NULL;
}

void fm_model_rows_put(const fm_gemm_quantised *to, int64_t row, const void *data, const float *scales)
{
    size_t bytes = (size_t)to->stride * fm_base_dtype_bits(to->dtype) / 8;
    memcpy((char *)to->data + (size_t)row * bytes, data, bytes);
    if (to->dtype == FM_DTYPE_F8_E4M3)
        memcpy((float *)to->scales + row * to->scale_stride, scales,
               (size_t)to->scale_stride * sizeof *scales);
}

void fm_model_rows_weigh(const fm_gemm_quantised *to, int64_t row, const void *data, const float *scales,
                         float weight, float *wide)
{
    int64_t hidden = to->stride;
    if (to->dtype == FM_DTYPE_F8_E4M3) { // codes stay, so that nothing is rounded again
        float *weighed = (float *)to->scales + row * to->scale_stride;
        fm_model_rows_put(to, row, data, scales);
        fm_base_e4m3_to_f32(data, (size_t)hidden, wide);
        for (int64_t i = 0; i < hidden; i++)
            wide[i] *= scales[i / BLOCK];
        for (int64_t i = 0; i < to->scale_stride; i++)
            weighed[i] *= weight;
    } else if (to->dtype == FM_DTYPE_BF16) {
        fm_bf16 *weighed = (fm_bf16 *)to->data + row * hidden;
        fm_base_bf16_to_f32(data, (size_t)hidden, wide);
        for (int64_t i = 0; i < hidden; i++)
            weighed[i] = fm_f32_to_bf16(weight * wide[i]);
    } else {
        float *weighed = (float *)to->data + row * hidden;
        memcpy(wide, data, (size_t)hidden * sizeof *wide);
        for (int64_t i = 0; i < hidden; i++)
            weighed[i] = weight * wide[i];
    }
}
