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

FM_INLINE vec load_bf16(const fm_bf16 *from, __mmask16 lanes)
{
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, from)), 16));
}

FM_INLINE void forward_bf16(const struct fm_gemm_swiglu_line *given, int64_t count,
                            const fm_bf16 *const from[2], const fm_bf16 *const ahead[2], int limited)
{
    const struct fm_gemm_swiglu_line line = *given; // which what is stored cannot change
    const fm_bf16 *gate = from[0], *up = from[1], *next_gate = ahead[0], *next_up = ahead[1];
    for (int64_t i = 0; i < count; i += LANES) {
        __mmask16 lanes = count - i >= LANES ? 0xFFFF : (__mmask16)((1u << (count - i)) - 1);
        // Two vectors are a cache line, of gate at one, of up at the other.
        const fm_bf16 *next = i % (2 * LANES) ? next_up : next_gate;
        _mm_prefetch((const char *)(next + i / (2 * LANES) * (2 * LANES)), _MM_HINT_T0);
        v_store(line.h + i, v_swiglu(load_bf16(gate + i, lanes), load_bf16(up + i, lanes), &line, limited));
    }
}

static void swiglu_forward_bf16(const struct fm_gemm_swiglu_line *line, int64_t count,
                                const fm_bf16 *const from[2], const fm_bf16 *const ahead[2])
{
    if (line->limit == INFINITY)
        forward_bf16(line, count, from, ahead, 0);
    else
        forward_bf16(line, count, from, ahead, 1);
}

void fm_gemm_install_lanes_avx512(struct fm_gemm_kernels *kernels)
{
    kernels->amax = amax;
    kernels->add_scaled = add_scaled;
    kernels->add_relu = add_relu;
    kernels->multiply_lines = multiply_lines;
    kernels->swiglu_forward = swiglu_forward;
    kernels->swiglu_forward_bf16 = swiglu_forward_bf16;
    kernels->swiglu_backward = swiglu_backward;
}
