#include "model_low.h"
#include "model_private.h"

#include "fathom/numfmt.h"

// Elements that a thread takes at a time: some 20 us of work.
enum { GRAIN = 1 << 16 };

static int64_t row_grain(int64_t width)
{
    return width < GRAIN ? GRAIN / width : 1;
}

void fm_model_linear(const struct fm_model_compute *compute, int64_t rows, const float *x,
                     const struct fm_model_weight *weight, float *out)
{
    if (fm_model_low_dtype(compute->low, weight) != FM_DTYPE_F32) {
        fm_model_low_forward(compute->low, rows, x, weight, out);
        return;
    }
    struct fm_model_matrix a = fm_model_rows(x, weight->columns);
    fm_model_matmul(compute, rows, weight->rows, weight->columns, &a, &weight->matrix, out, weight->rows, 0);
}

// Sets each source's rows as products find them: picked ones copied together.
static fm_status pick(struct fm_model_scratch *scratch, const struct fm_model_source *source,
                      const float **out_rows)
{
    size_t row = (size_t)source->columns;
    *out_rows = source->x;
    if (!source->picks)
        return FM_OK;
    float *rows = fm_model_scratch_take(scratch, (size_t)source->pick_count * row);
    if (!rows)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %lld rows", (long long)source->pick_count);
    for (int64_t i = 0; i < source->pick_count; i++)
        memcpy(rows + (size_t)i * row, source->x + (size_t)source->picks[i] * row, row * sizeof *rows);
    *out_rows = rows;
    return FM_OK;
}

fm_status fm_model_products(const struct fm_model_compute *compute, struct fm_model_scratch *scratch,
                            const struct fm_model_source *sources, int source_count,
                            const struct fm_model_product *list, int count)
{
    if (count > 0 && fm_model_low_dtype(compute->low, list[0].weight) != FM_DTYPE_F32) {
        fm_model_low_products(compute->low, sources, source_count, list, count);
        return FM_OK;
    }
    const float *rows[FM_MODEL_SOURCES_MAX];
    struct fm_model_mark mark = fm_model_scratch_mark(scratch);
    for (int i = 0; i < source_count; i++)
        FM_TRY(pick(scratch, &sources[i], &rows[i]));
    for (const struct fm_model_product *product = list; product < list + count; product++)
        fm_model_linear(compute, product->rows,
                        rows[product->source] + product->first * sources[product->source].columns,
                        product->weight, product->out);
    fm_model_scratch_release(scratch, mark);
    return FM_OK;
}

struct norm_work {
    const struct fm_model_kernels *kernels;
    int64_t width, x_stride, out_stride;
    const float *x, *weight;
    float epsilon;
    float *out, *inverses;
};

static void norm_part(void *context, int64_t begin, int64_t end, int thread)
{
    const struct norm_work *work = context;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        float inverse = work->kernels->norm(work->x + i * work->x_stride, work->weight, work->epsilon,
                                            work->out + i * work->out_stride, work->width);
        if (work->inverses)
            work->inverses[i] = inverse;
    }
}

void fm_model_norm_rows(const struct fm_model_compute *compute, int64_t rows, int64_t width, const float *x,
                        int64_t x_stride, const struct fm_model_weight *weight, float epsilon, float *out,
                        int64_t out_stride, float *inverses)
{
    struct norm_work work = {compute->kernels, width,   x_stride, out_stride, x,
                             weight->vector,   epsilon, out,      inverses};
    fm_model_share(compute, rows, row_grain(width), norm_part, &work);
}

struct swiglu_work {
    const struct fm_model_kernels *kernels;
    const float *gate, *up;
    float *out;
};

static void swiglu_part(void *context, int64_t begin, int64_t end, int thread)
{
    const struct swiglu_work *work = context;
    (void)thread;
    work->kernels->swiglu(work->gate + begin, work->up + begin, work->out + begin, end - begin);
}

void fm_model_swiglu_rows(const struct fm_model_compute *compute, int64_t count, const float *gate,
                          const float *up, float *out)
{
    struct swiglu_work work = {compute->kernels, gate, up, out};
    fm_model_share(compute, count, GRAIN, swiglu_part, &work);
}

void fm_model_embed(const struct fm_model_weight *embed, const int32_t *ids, int64_t count, float *out)
{
    const struct fm_model_matrix *matrix = &embed->matrix;
    int64_t width = embed->columns;
    for (int64_t i = 0; i < count; i++, out += width) {
        int64_t at = ids[i] * matrix->stride;
        if (matrix->dtype == FM_DTYPE_F32) {
            memcpy(out, (const float *)matrix->data + at, (size_t)width * sizeof *out);
        } else if (matrix->dtype == FM_DTYPE_BF16) {
            fm_base_bf16_to_f32((const fm_bf16 *)matrix->data + at, (size_t)width, out);
        } else {
            fm_base_e4m3_to_f32((const fm_e4m3 *)matrix->data + at, (size_t)width, out);
            for (int64_t j = 0; j < width; j++)
                out[j] *= matrix->scales[ids[i] / FM_MODEL_SCALE_BLOCK * matrix->scale_stride +
                                         j / FM_MODEL_SCALE_BLOCK];
        }
    }
}
