#include "gemm_private.h"

#include <immintrin.h>

enum { LANES = 8 };
typedef __m256 vec;

static inline vec v_load(const float *from)
{
    return _mm256_loadu_ps(from);
}

static inline void v_store(float *to, vec v)
{
    _mm256_storeu_ps(to, v);
}

static inline vec v_set(float x)
{
    return _mm256_set1_ps(x);
}

static inline vec v_add(vec a, vec b)
{
    return _mm256_add_ps(a, b);
}

static inline vec v_sub(vec a, vec b)
{
    return _mm256_sub_ps(a, b);
}

static inline vec v_mul(vec a, vec b)
{
    return _mm256_mul_ps(a, b);
}

static inline vec v_div(vec a, vec b)
{
    return _mm256_div_ps(a, b);
}

static inline vec v_fma(vec a, vec b, vec c)
{
    return _mm256_fmadd_ps(a, b, c);
}

static inline vec v_round(vec a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline vec v_scale(vec a, vec n)
{
    __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(a, _mm256_castsi256_ps(power));
}

static inline vec v_min(vec a, vec b)
{
    return _mm256_min_ps(a, b);
}

static inline vec v_max(vec a, vec b)
{
    return _mm256_max_ps(a, b);
}

static inline vec v_greater(vec a, vec b, vec x, vec y)
{
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_GT_OQ));
}

#include "gemm_swiglu_lanes.h"

// Of two operands one of which is a NaN, VMAXPS takes the second.
static float amax(const float *line, int64_t count, float least)
{
    vec largest = v_set(least);
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        largest = _mm256_max_ps(_mm256_andnot_ps(v_set(-0.0f), v_load(line + i)), largest);
    float lanes[LANES];
    v_store(lanes, largest);
    for (int lane = 0; lane < LANES; lane++)
        least = lanes[lane] > least ? lanes[lane] : least;
    for (; i < count; i++) {
        float magnitude = __builtin_fabsf(line[i]);
        least = magnitude > least ? magnitude : least;
    }
    return least;
}

void fm_gemm_install_lanes_avx2(struct fm_gemm_kernels *kernels)
{
    kernels->amax = amax;
    kernels->add_scaled = add_scaled;
    kernels->add_relu = add_relu;
    kernels->multiply_lines = multiply_lines;
    kernels->swiglu_forward = swiglu_forward;
    kernels->swiglu_backward = swiglu_backward;
}
