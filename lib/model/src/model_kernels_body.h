/* The element-wise kernels, written once over vectors of 16 lanes and compiled for each instruction set. The including
 * file defines FM_MODEL_TABLE and the tile kernel. Products and sums are not fused, so that every compiler and every level
 * computes the same bits. */
#include "model_kernels.h"

#include <math.h>
#include <string.h>

// Vectors wider than the level's registers are passed between inlined functions alone, where no ABI is concerned.
#pragma GCC diagnostic ignored "-Wpsabi"

typedef float lanes __attribute__((vector_size(64), aligned(4)));
typedef int32_t integers __attribute__((vector_size(64), aligned(4)));

#define INLINE static inline __attribute__((always_inline))

INLINE lanes broadcast(float x)
{
    return (lanes){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
}

// The elements from `from` on, zeros beyond the n-th.
INLINE lanes take(const float *from, int64_t n)
{
    lanes x;
    if (n >= FM_MODEL_LANES) {
        memcpy(&x, from, sizeof x);
        return x;
    }
    x = broadcast(0);
    memcpy(&x, from, (size_t)n * sizeof *from);
    return x;
}

INLINE void put(float *to, lanes x, int64_t n)
{
    memcpy(to, &x, (n >= FM_MODEL_LANES ? FM_MODEL_LANES : (size_t)n) * sizeof *to);
}

// A full vector is the common case; the compiler makes it a single load or store.
#define FOR_LANES(i, n) for (int64_t i = 0; i < (n); i += FM_MODEL_LANES)

INLINE float sum(lanes x)
{
    float half[8], quarter[4];
    for (int i = 0; i < 8; i++)
        half[i] = x[i] + x[i + 8];
    for (int i = 0; i < 4; i++)
        quarter[i] = half[i] + half[i + 4];
    return (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
}

INLINE lanes choose(integers mask, lanes yes, lanes no)
{
    return (lanes)((mask & (integers)yes) | (~mask & (integers)no));
}

/* exp(x) by 2^k e^r with |r| <= ln(2) / 2: the polynomial of Cephes' expf, within 2 ulp. Below -87 the result is taken as
 * that of -87, 1e-38, which no sum here feels. */
INLINE lanes exponential(lanes x)
{
    const lanes low = broadcast(-87.0f), high = broadcast(88.0f),
                magic = broadcast(12582912.0f); // 1.5 * 2^23
    x = choose(x < low, low, x);
    x = choose(x > high, high, x);
    lanes k = x * broadcast(1.44269504f) + magic; // rounds to an integer, which its low bits then hold
    integers exponent = ((integers)k - (integers)magic + 127) << 23;
    k -= magic;
    lanes r = x - k * broadcast(0.693359375f) + k * broadcast(2.12194440e-4f);
    lanes p = broadcast(1.9875691500e-4f);
    p = p * r + broadcast(1.3981999507e-3f);
    p = p * r + broadcast(8.3334519073e-3f);
    p = p * r + broadcast(4.1665795894e-2f);
    p = p * r + broadcast(1.6666665459e-1f);
    p = p * r + broadcast(5.0000001201e-1f);
    p = p * r * r + r + broadcast(1);
    return p * (lanes)exponent;
}

INLINE lanes sigmoid(lanes x)
{
    return broadcast(1) / (broadcast(1) + exponential(-x));
}

static float dot(const float *a, const float *b, int64_t n)
{
    lanes total = broadcast(0);
    FOR_LANES(i, n)
    total += take(a + i, n - i) * take(b + i, n - i);
    return sum(total);
}

static void axpy(float factor, const float *x, float *y, int64_t n)
{
    FOR_LANES(i, n)
    put(y + i, take(y + i, n - i) + broadcast(factor) * take(x + i, n - i), n - i);
}

static float norm(const float *x, const float *weight, float epsilon, float *y, int64_t n)
{
    float inverse = 1 / sqrtf(dot(x, x, n) / (float)n + epsilon);
    FOR_LANES(i, n)
    put(y + i, take(x + i, n - i) * broadcast(inverse) * take(weight + i, n - i), n - i);
    return inverse;
}

// With h = x * inverse and g = dy * weight: dx = inverse * (g - h * mean(g * h)).
static void norm_back(const float *x, const float *weight, float inverse, const float *dy, float *dx,
                      int64_t n)
{
    lanes total = broadcast(0);
    FOR_LANES(i, n)
    total += take(dy + i, n - i) * take(weight + i, n - i) * take(x + i, n - i);
    float mean = sum(total) * inverse * inverse / (float)n;
    FOR_LANES(i, n)
    put(dx + i,
        take(dx + i, n - i) + broadcast(inverse) * (take(dy + i, n - i) * take(weight + i, n - i) -
                                                    take(x + i, n - i) * broadcast(mean)),
        n - i);
}

static void swiglu(const float *gate, const float *up, float *out, int64_t n)
{
    FOR_LANES(i, n)
    {
        lanes g = take(gate + i, n - i);
        put(out + i, g * sigmoid(g) * take(up + i, n - i), n - i);
    }
}

static void swiglu_back(const float *gate, const float *up, const float *dy, float *dgate, float *dup,
                        int64_t n)
{
    FOR_LANES(i, n)
    {
        lanes g = take(gate + i, n - i), u = take(up + i, n - i), d = take(dy + i, n - i);
        lanes s = sigmoid(g);
        put(dup + i, d * g * s, n - i);
        put(dgate + i, d * u * s * (broadcast(1) + g * (broadcast(1) - s)), n - i);
    }
}

static float softmax(float scale, float *x, int64_t n)
{
    lanes most = broadcast(-INFINITY);
    int64_t whole_lanes = n / FM_MODEL_LANES * FM_MODEL_LANES;
    FOR_LANES(i, whole_lanes)
    {
        lanes y = take(x + i, FM_MODEL_LANES);
        most = choose(y > most, y, most);
    }
    float largest = -INFINITY;
    for (int i = 0; i < FM_MODEL_LANES; i++)
        largest = most[i] > largest ? most[i] : largest;
    for (int64_t i = whole_lanes; i < n; i++)
        largest = x[i] > largest ? x[i] : largest;
    lanes total = broadcast(0);
    FOR_LANES(i, n)
    {
        lanes e = exponential((take(x + i, n - i) - broadcast(largest)) * broadcast(scale));
        put(x + i, e, n - i);
        total += take(x + i, n - i);
    }
    float whole = sum(total), inverse = 1 / whole;
    FOR_LANES(i, n)
    put(x + i, take(x + i, n - i) * broadcast(inverse), n - i);
    return scale * largest + logf(whole);
}

static void softmax_back(float scale, const float *p, float *dp, int64_t n)
{
    float mean = dot(p, dp, n);
    FOR_LANES(i, n)
    put(dp + i, take(p + i, n - i) * (take(dp + i, n - i) - broadcast(mean)) * broadcast(scale), n - i);
}

INLINE lanes root(lanes x)
{
    float each[FM_MODEL_LANES];
    memcpy(each, &x, sizeof each);
    for (int i = 0; i < FM_MODEL_LANES; i++)
        each[i] = sqrtf(each[i]);
    memcpy(&x, each, sizeof each);
    return x;
}

static void adam(const struct fm_model_adam_terms *terms, float *weight, const float *gradient, float *mean,
                 float *square, int64_t n)
{
    const lanes b1 = broadcast(terms->beta1), b2 = broadcast(terms->beta2), one = broadcast(1);
    FOR_LANES(i, n)
    {
        lanes w = take(weight + i, n - i), g = take(gradient + i, n - i) * broadcast(terms->clip);
        lanes m = b1 * take(mean + i, n - i) + (one - b1) * g;
        lanes v = b2 * take(square + i, n - i) + (one - b2) * g * g;
        put(mean + i, m, n - i);
        put(square + i, v, n - i);
        lanes step = m * broadcast(terms->correction1) /
                     (root(v * broadcast(terms->correction2)) + broadcast(terms->epsilon));
        put(weight + i, w - broadcast(terms->rate) * (step + broadcast(terms->decay) * w), n - i);
    }
}

const struct fm_model_kernels FM_MODEL_TABLE = {
    .tile_rows = TILE_ROWS,
    .tile_columns = TILE_COLUMNS,
    .tile = tile,
    .dot = dot,
    .axpy = axpy,
    .norm = norm,
    .norm_back = norm_back,
    .swiglu = swiglu,
    .swiglu_back = swiglu_back,
    .softmax = softmax,
    .softmax_back = softmax_back,
    .adam = adam,
};
