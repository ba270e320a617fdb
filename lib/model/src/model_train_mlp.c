// The SwiGLU network in training.
#include "model_trainer.h"

static fm_status no_memory(int64_t rows)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory for the network of %lld rows", (long long)rows);
}

int fm_model_mlp_take(struct fm_model_scratch *scratch, int64_t rows, int64_t width,
                      struct fm_model_mlp_saved *saved)
{
    size_t count = (size_t)rows * (size_t)width;
    saved->gate = fm_model_scratch_take(scratch, count);
    saved->up = fm_model_scratch_take(scratch, count);
    saved->product = fm_model_scratch_take(scratch, count);
    return saved->gate && saved->up && saved->product;
}

void fm_model_mlp_run(const struct fm_model_compute *compute, const struct fm_model_mlp *mlp, int64_t rows,
                      float *out, const struct fm_model_mlp_saved *saved)
{
    fm_model_linear(compute, rows, saved->x, &mlp->gate, saved->gate);
    fm_model_linear(compute, rows, saved->x, &mlp->up, saved->up);
    fm_model_swiglu_rows(compute, rows * mlp->gate.rows, saved->gate, saved->up, saved->product);
    fm_model_linear(compute, rows, saved->product, &mlp->down, out);
}

fm_status fm_model_mlp_forward(struct fm_trainer *trainer, const struct fm_model_mlp *mlp, int64_t rows,
                               const float *x, float *out, struct fm_model_mlp_saved *saved)
{
    saved->x = x;
    if (!fm_model_mlp_take(&trainer->model.scratch, rows, mlp->gate.rows, saved))
        return no_memory(rows);
    fm_model_mlp_run(&trainer->model.compute, mlp, rows, out, saved);
    return FM_OK;
}

fm_status fm_model_mlp_back(struct fm_trainer *trainer, const struct fm_model_mlp *mlp, int64_t rows,
                            const struct fm_model_mlp_saved *saved, const float *dy, float *dx,
                            int accumulate)
{
    const struct fm_model_compute *compute = &trainer->model.compute;
    struct fm_model_scratch *scratch = &trainer->model.scratch;
    struct fm_model_mark mark = fm_model_scratch_mark(scratch);
    struct fm_model_mlp_saved d;
    if (!fm_model_mlp_take(scratch, rows, mlp->gate.rows, &d))
        return no_memory(rows);
    fm_model_linear_back(compute, rows, saved->product, &mlp->down, dy, d.product, 0);
    fm_model_swiglu_back_rows(compute, rows * mlp->gate.rows, saved->gate, saved->up, d.product, d.gate,
                              d.up);
    fm_model_linear_back(compute, rows, saved->x, &mlp->gate, d.gate, dx, accumulate);
    fm_model_linear_back(compute, rows, saved->x, &mlp->up, d.up, dx, 1);
    fm_model_scratch_release(scratch, mark);
    return FM_OK;
}
