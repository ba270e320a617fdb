#include "gemm_private.h"

#include <immintrin.h>

enum { LANES = 16 };
typedef __m512 vec;

static inline vec v_load(const float *from)
{
    return _mm512_loadu_ps(from);
}

static inline void v_store(float *to, vec v)
{
    _mm512_storeu_ps(to, v);
}

static inline vec v_set(float x)
{
    return _mm512_set1_ps(x);
}

static inline vec v_add(vec a, vec b)
{
    return _mm512_add_ps(a, b);
}

static inline vec v_sub(vec a, vec b)
{
    return _mm512_sub_ps(a, b);
}

static inline vec v_mul(vec a, vec b)
{
    return _mm512_mul_ps(a, b);
}

// In halves: a division of 16 takes more than that of 8 twice.
static inline vec v_div(vec a, vec b)
{
    __m256 low = _mm256_div_ps(_mm512_castps512_ps256(a), _mm512_castps512_ps256(b));
    __m256 high = _mm256_div_ps(_mm512_extractf32x8_ps(a, 1), _mm512_extractf32x8_ps(b, 1));
    return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
}

static inline vec v_fma(vec a, vec b, vec c)
{
    return _mm512_fmadd_ps(a, b, c);
}

static inline vec v_round(vec a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline vec v_scale(vec a, vec n)
{
    return _mm512_scalef_ps(a, n);
}

static inline vec v_min(vec a, vec b)
{
    return _mm512_min_ps(a, b);
}

static inline vec v_max(vec a, vec b)
{
    return _mm512_max_ps(a, b);
}

static inline vec v_greater(vec a, vec b, vec x, vec y)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), y, x);
}

#include "gemm_swiglu_lanes.h"

// Of two operands one of which is a NaN, VMAXPS takes the second.
static float amax(const float *line, int64_t count, float least)
{
    vec largest = v_set(least);
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        largest = _mm512_max_ps(_mm512_abs_ps(v_load(line + i)), largest);
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

void fm_gemm_install_lanes_avx512(struct fm_gemm_kernels *kernels)
{
    kernels->amax = amax;
    kernels->add_scaled = add_scaled;
    kernels->add_relu = add_relu;
    kernels->multiply_lines = multiply_lines;
    kernels->swiglu_forward = swiglu_forward;
    kernels->swiglu_backward = swiglu_backward;
}
