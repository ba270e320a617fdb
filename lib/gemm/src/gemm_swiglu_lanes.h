/*
 * SwiGLU and its gradient on LANES numbers at a time, included by one file for each ISA level. That file defines the
 * type `vec` and, each one operation of f32 to nearest even that takes and gives zero for subnormals:
 *
 *     v_load(p) v_store(p, v) v_set(x) v_add v_sub v_mul v_div v_fma(a, b, c)
 *     v_round(a)                 to the nearest integer, ties to even
 *     v_scale(a, n)              a * 2^n for an integer n in -126 ... 127; anything for others
 *     v_min(a, b) v_max(a, b)    b where one is a NaN
 *     v_greater(a, b, x, y)      a > b ? x : y, y where one is a NaN
 *
 * The results are therefore the same at every level.
 */

#include <math.h>
#include <string.h>

#include "fathom/kernel.h"

// exp(-x), with a relative error below 2^-22, of x cut to -88 ... 87, where it nears the ends of f32.
static inline vec v_exp_of_minus(vec x)
{
    // Cody and Waite: ln 2 in two parts, of which the first times an integer is exact; the polynomial is that of Cephes. All
    // that is odd in x has the other sign.
    x = v_min(v_set(87), v_max(v_set(-88), x));
    vec n = v_round(v_mul(x, v_set(-1.44269504f)));
    vec r = v_fma(n, v_set(0.693359375f), x);
    r = v_fma(n, v_set(-2.12194440e-4f), r);
    vec p = v_set(-1.9875691500e-4f);
    p = v_fma(p, r, v_set(1.3981999507e-3f));
    p = v_fma(p, r, v_set(-8.3334519073e-3f));
    p = v_fma(p, r, v_set(4.1665795894e-2f));
    p = v_fma(p, r, v_set(-1.6666665459e-1f));
    p = v_fma(p, r, v_set(5.0000001201e-1f));
    p = v_fma(v_mul(r, r), p, v_sub(v_set(1), r));
    return v_scale(p, n);
}

// 0 below -87.4, as 1 / exp(88) is a subnormal.
static inline vec v_sigmoid(vec x)
{
    return v_div(v_set(1), v_add(v_set(1), v_exp_of_minus(x)));
}

// Cut to -limit ... limit.
static inline vec v_cut(vec x, float limit)
{
    x = v_greater(x, v_set(limit), v_set(limit), x);
    return v_greater(v_set(-limit), x, v_set(-limit), x);
}

// The last lanes of a line, zeros beyond it.
static inline vec v_load_rest(const float *from, int64_t count)
{
    float rest[LANES] = {0};
    memcpy(rest, from, (size_t)count * sizeof *from);
    return v_load(rest);
}

static inline void v_store_rest(float *to, int64_t count, vec v)
{
    float rest[LANES];
    v_store(rest, v);
    memcpy(to, rest, (size_t)count * sizeof *to);
}

static void add_scaled(const float *from, float factor, int64_t count, float *sum)
{
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        v_store(sum + i, v_fma(v_load(from + i), v_set(factor), v_load(sum + i)));
    if (i < count)
        v_store_rest(sum + i, count - i,
                     v_fma(v_load_rest(from + i, count - i), v_set(factor), v_load_rest(sum + i, count - i)));
}

static inline vec v_relu(vec x)
{
    return v_greater(v_set(0), x, v_set(0), x);
}

static void add_relu(const float *from, float factor, int64_t count, float *sum)
{
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        v_store(sum + i, v_fma(v_relu(v_load(from + i)), v_set(factor), v_load(sum + i)));
    if (i < count)
        v_store_rest(
            sum + i, count - i,
            v_fma(v_relu(v_load_rest(from + i, count - i)), v_set(factor), v_load_rest(sum + i, count - i)));
}

static void multiply_lines(const float *from, int64_t count, float *to)
{
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        v_store(to + i, v_mul(v_load(to + i), v_load(from + i)));
    if (i < count)
        v_store_rest(to + i, count - i,
                     v_mul(v_load_rest(to + i, count - i), v_load_rest(from + i, count - i)));
}

FM_INLINE vec v_swiglu(vec gate, vec up, const struct fm_gemm_swiglu_line *line, int limited)
{
    if (limited) {
        gate = v_greater(gate, v_set(line->limit), v_set(line->limit), gate);
        up = v_cut(up, line->limit);
    }
    return v_mul(v_mul(v_mul(gate, v_sigmoid(gate)), up), v_set(line->weight));
}

FM_INLINE void forward_line(const struct fm_gemm_swiglu_line *given, int limited)
{
    const struct fm_gemm_swiglu_line line = *given; // which what is stored cannot change
    for (int64_t i = 0; i < line.count; i += LANES)
        v_store(line.h + i, v_swiglu(v_load(line.gate + i), v_load(line.up + i), &line, limited));
}

static void swiglu_forward(const struct fm_gemm_swiglu_line *line)
{
    if (isinf(line->limit))
        forward_line(line, 0);
    else
        forward_line(line, 1);
}

static void swiglu_backward(const struct fm_gemm_swiglu_line *line)
{
    vec zero = v_set(0), limit = v_set(line->limit), lower = v_set(-line->limit),
        weight = v_set(line->weight);
    for (int64_t i = 0; i < line->count; i += LANES) {
        vec gate_in = v_load(line->gate + i), up_in = v_load(line->up + i), dh = v_load(line->dh + i);
        vec gate = v_greater(gate_in, limit, limit, gate_in), up = v_cut(up_in, line->limit);
        vec s = v_sigmoid(gate), silu = v_mul(gate, s);
        vec slope = v_fma(silu, v_add(v_set(1), v_mul(s, v_set(-1))), s);
        vec h = v_mul(silu, up), from_h = v_mul(dh, weight);
        vec d_gate = v_mul(v_mul(from_h, up), slope), d_up = v_mul(from_h, silu);
        d_up = v_greater(up_in, limit, zero, v_greater(lower, up_in, zero, d_up));
        v_store(line->gate + i, v_greater(gate_in, limit, zero, d_gate));
        v_store(line->up + i, d_up);
        v_store(line->h + i, v_mul(h, weight));
        float *sum = line->sums + i % FM_GEMM_SUMS;
        v_store(sum, v_fma(dh, h, v_load(sum)));
    }
}
