#include "gemm_flush.h"
#include "gemm_private.h"

enum { LANES = 1 };
typedef float vec;

static inline vec v_load(const float *from)
{
    return *from;
}

static inline void v_store(float *to, vec v)
{
    *to = v;
}

static inline vec v_set(float x)
{
    return x;
}

static inline vec v_add(vec a, vec b)
{
    return fm_gemm_flush_add(a, b);
}

static inline vec v_sub(vec a, vec b)
{
    return fm_gemm_flush_add(a, -b);
}

static inline vec v_mul(vec a, vec b)
{
    return fm_gemm_flush_mul(a, b);
}

static inline vec v_div(vec a, vec b)
{
    return fm_gemm_flush_div(a, b);
}

static inline vec v_fma(vec a, vec b, vec c)
{
    return fm_gemm_flush_fma(a, b, c);
}

static inline vec v_round(vec a)
{
    return rintf(a);
}

static inline vec v_scale(vec a, vec n)
{
    float power = n >= -126 && n <= 127 ? fm_f32_from_bits((uint32_t)((int32_t)n + 127) << 23) : 1;
    return fm_gemm_flush_mul(a, power);
}

static inline vec v_min(vec a, vec b)
{
    return a < b ? a : b;
}

static inline vec v_max(vec a, vec b)
{
    return a > b ? a : b;
}

static inline vec v_greater(vec a, vec b, vec x, vec y)
{
    return a > b ? x : y;
}

#include "gemm_swiglu_lanes.h"

static float amax(const float *line, int64_t count, float least)
{
    for (int64_t i = 0; i < count; i++) {
        float magnitude = fabsf(line[i]);
        least = magnitude > least ? magnitude : least;
    }
    return least;
}

void fm_gemm_install_lanes_ref(struct fm_gemm_kernels *kernels)
{
    kernels->amax = amax;
    kernels->add_scaled = add_scaled;
    kernels->add_relu = add_relu;
    kernels->multiply_lines = multiply_lines;
    kernels->swiglu_forward = swiglu_forward;
    kernels->swiglu_backward = swiglu_backward;
}
