#include "model_low.h"
#include "model_trainer.h"

// Elements that a thread takes at a time: some 20 us of work.
enum { GRAIN = 1 << 16 };

static int64_t row_grain(int64_t width)
{
    return width < GRAIN ? GRAIN / width : 1;
}

void fm_model_linear_weight(const struct fm_model_compute *compute, int64_t rows, const float *x,
                            const struct fm_model_weight *weight, const float *dy)
{
    if (fm_model_low_dtype(compute->low, weight) != FM_DTYPE_F32) {
        fm_model_low_weight(compute->low, rows, x, weight, dy);
        return;
    }
    int64_t n = weight->rows, k = weight->columns;
    struct fm_model_matrix dy_columns = fm_model_transposed(dy, n), x_columns = fm_model_transposed(x, k);
    fm_model_matmul(compute, n, k, rows, &dy_columns, &x_columns, weight->gradient, k, 1);
}

void fm_model_linear_back(const struct fm_model_compute *compute, int64_t rows, const float *x,
                          const struct fm_model_weight *weight, const float *dy, float *dx, int accumulate)
{
    int64_t n = weight->rows, k = weight->columns;
    if (fm_model_low_dtype(compute->low, weight) != FM_DTYPE_F32) {
        fm_model_low_back(compute->low, rows, weight, dy, dx, accumulate);
    } else {
        struct fm_model_matrix dy_rows = fm_model_rows(dy, n), values = fm_model_flip(weight->matrix);
        fm_model_matmul(compute, rows, k, n, &dy_rows, &values, dx, k, accumulate);
    }
    if (compute->queue)
        fm_model_queue_add(compute->queue, rows, x, weight, dy);
    else
        fm_model_linear_weight(compute, rows, x, weight, dy);
}

struct norm_back_work {
    const struct fm_model_kernels *kernels;
    int64_t rows, width, x_stride, dy_stride, dx_stride;
    const float *x, *weight, *inverses, *dy;
    float *dx, *gradient;
};

static void norm_back_part(void *context, int64_t begin, int64_t end, int thread)
{
    const struct norm_back_work *w = context;
    (void)thread;
    for (int64_t i = begin; i < end; i++)
        w->kernels->norm_back(w->x + i * w->x_stride, w->weight, w->inverses[i], w->dy + i * w->dy_stride,
                              w->dx + i * w->dx_stride, w->width);
}

// A part of the columns, all rows: the sums do not depend on the team.
static void norm_weight_part(void *context, int64_t begin, int64_t end, int thread)
{
    const struct norm_back_work *w = context;
    (void)thread;
    for (int64_t i = 0; i < w->rows; i++) {
        const float *x = w->x + i * w->x_stride, *dy = w->dy + i * w->dy_stride;
        for (int64_t j = begin; j < end; j++)
            w->gradient[j] += dy[j] * x[j] * w->inverses[i];
    }
}

void fm_model_norm_back_rows(const struct fm_model_compute *compute, int64_t rows, int64_t width,
                             const float *x, int64_t x_stride, const struct fm_model_weight *weight,
                             const float *inverses, const float *dy, int64_t dy_stride, float *dx,
                             int64_t dx_stride)
{
    struct norm_back_work work = {compute->kernels, rows,     width, x_stride, dy_stride,       dx_stride, x,
                                  weight->vector,   inverses, dy,    dx,       weight->gradient};
    fm_model_share(compute, width, row_grain(rows + 1), norm_weight_part, &work); // first: dx may be dy
    fm_model_share(compute, rows, row_grain(width), norm_back_part, &work);
}

struct swiglu_back_work {
    const struct fm_model_kernels *kernels;
    const float *gate, *up, *dy;
    float *dgate, *dup;
};

static void swiglu_back_part(void *context, int64_t begin, int64_t end, int thread)
{
    const struct swiglu_back_work *w = context;
    (void)thread;
    w->kernels->swiglu_back(w->gate + begin, w->up + begin, w->dy + begin, w->dgate + begin, w->dup + begin,
                            end - begin);
}

void fm_model_swiglu_back_rows(const struct fm_model_compute *compute, int64_t count, const float *gate,
                               const float *up, const float *dy, float *dgate, float *dup)
{
    struct swiglu_back_work work = {compute->kernels, gate, up, dy, dgate, dup};
    fm_model_share(compute, count, GRAIN, swiglu_back_part, &work);
}

struct embed_back_work {
    const struct fm_model_weight *embed;
    const int32_t *ids;
    int64_t count;
    const float *dy;
};

static void embed_back_part(void *context, int64_t begin, int64_t end, int thread)
{
    const struct embed_back_work *w = context;
    int64_t width = w->embed->columns;
    (void)thread;
    for (int64_t i = 0; i < w->count; i++) {
        float *row = w->embed->gradient + w->ids[i] * width;
        for (int64_t j = begin; j < end; j++)
            row[j] += w->dy[i * width + j];
    }
}

void fm_model_embed_back(const struct fm_model_compute *compute, const struct fm_model_weight *embed,
                         const int32_t *ids, int64_t count, const float *dy)
{
    struct embed_back_work work = {embed, ids, count, dy};
    fm_model_share(compute, embed->columns, row_grain(count + 1), embed_back_part, &work);
}
