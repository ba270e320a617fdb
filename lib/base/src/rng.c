#include "fathom/rng.h"

#include "fathom/mem.h"

#include <float.h>
#include <math.h>

_Static_assert(FLT_EVAL_METHOD == 0, "wider intermediate results would change fm_base_rng_to_normal()");

enum { ROUNDS = 10 };

// The paper's multipliers, and the Weyl constants that step the key: the golden ratio and the square root of
// 3, less 1.
#define MULTIPLIER_0 0xD2511F53u
#define MULTIPLIER_1 0xCD9E8D57u
#define WEYL_0       0x9E3779B9u
#define WEYL_1       0xBB67AE85u

void fm_base_rng_block(uint64_t seed, uint64_t stream, uint64_t block, uint64_t out_values[2])
{
    uint32_t key_0 = (uint32_t)seed, key_1 = (uint32_t)(seed >> 32);
    uint32_t c0 = (uint32_t)block, c1 = (uint32_t)(block >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t product_0 = (uint64_t)MULTIPLIER_0 * c0;
        uint64_t product_1 = (uint64_t)MULTIPLIER_1 * c2;
        c0 = (uint32_t)(product_1 >> 32) ^ c1 ^ key_0;
        c1 = (uint32_t)product_1;
        c2 = (uint32_t)(product_0 >> 32) ^ c3 ^ key_1;
        c3 = (uint32_t)product_0;
        key_0 += WEYL_0;
        key_1 += WEYL_1;
    }
    out_values[0] = c0 | (uint64_t)c1 << 32;
    out_values[1] = c2 | (uint64_t)c3 << 32;
}

uint64_t fm_base_rng_at(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint64_t pair[2];
    fm_base_rng_block(seed, stream, index / 2, pair);
    return pair[index % 2];
}

fm_rng fm_base_rng_begin(uint64_t seed, uint64_t stream)
{
    fm_rng rng = {.seed = seed, .stream = stream};
    return rng;
}

void fm_base_rng_seek(fm_rng *rng, uint64_t index)
{
    rng->index = index;
    fm_base_rng_block(rng->seed, rng->stream, index / 2, rng->pair);
}

uint64_t fm_base_rng_u64(fm_rng *rng)
{
    uint64_t index = rng->index++;
    if (index % 2 == 0)
        fm_base_rng_block(rng->seed, rng->stream, index / 2, rng->pair);
    return rng->pair[index % 2];
}

uint64_t fm_base_rng_below(fm_rng *rng, uint64_t bound)
{
    uint64_t value = fm_base_rng_u64(rng);
    if (bound == 0)
        return value;
    unsigned __int128 product = (unsigned __int128)value * bound;
    if ((uint64_t)product < bound) { // the division below is needed for few bounds, or rarely
        uint64_t passed_over = -bound % bound;
        while ((uint64_t)product < passed_over)
            product = (unsigned __int128)fm_base_rng_u64(rng) * bound;
    }
    return (uint64_t)(product >> 64);
}

/*
 * The natural logarithm of a positive normal number, within 2 units in the last place. libm's would be as
 * good, but its last bit differs between versions.
 */
static double logarithm(double x)
{
    int exponent;
    double mantissa = frexp(x, &exponent); // exact, in [1/2, 1)
    if (mantissa < 0.70710678118654752) {
        mantissa *= 2;
        exponent--;
    }
    // log m = 2 atanh s, |s| <= 0.1716; the series ends where the next term is below 2^-56 of the sum.
    double s = (mantissa - 1) / (mantissa + 1);
    double s2 = s * s, sum = 0;
    for (int odd = 21; odd >= 3; odd -= 2)
        sum = (sum + 1.0 / odd) * s2;
    return exponent * 0.69314718055994531 + 2 * (s + s * sum);
}

/* The value of a polynomial whose coefficients are given from that of x^0 up, by Horner's rule. */
static double polynomial(const double coefficients[8], double x)
{
    double sum = coefficients[7];
    for (int i = 6; i >= 0; i--)
        sum = sum * x + coefficients[i];
    return sum;
}

double fm_base_rng_to_normal(uint64_t value)
{
    // Rational approximations of AS 241: a/b in the middle, c/d in the tails, e/f beyond probability
    // exp(-25).
    static const double a[8] = {3.3871328727963666080e0,  1.3314166789178437745e+2, 1.9715909503065514427e+3,
                                1.3731693765509461125e+4, 4.5921953931549871457e+4, 6.7265770927008700853e+4,
                                3.3430575583588128105e+4, 2.5090809287301226727e+3};
    static const double b[8] = {1.0,
                                4.2313330701600911252e+1,
                                6.8718700749205790830e+2,
                                5.3941960214247511077e+3,
                                2.1213794301586595867e+4,
                                3.9307895800092710610e+4,
                                2.8729085735721942674e+4,
                                5.2264952788528545610e+3};
    static const double c[8] = {1.42343711074968357734e0,  4.63033784615654529590e0,
                                5.76949722146069140550e0,  3.64784832476320460504e0,
                                1.27045825245236838258e0,  2.41780725177450611770e-1,
                                2.27238449892691845833e-2, 7.74545014278341407640e-4};
    static const double d[8] = {1.0,
                                2.05319162663775882187e0,
                                1.67638483018380384940e0,
                                6.89767334985100004550e-1,
                                1.48103976427480074590e-1,
                                1.51986665636164571966e-2,
                                5.47593808499534494600e-4,
                                1.05075007164441684324e-9};
    static const double e[8] = {6.65790464350110377720e0,  5.46378491116411436990e0,
                                1.78482653991729133580e0,  2.96560571828504891230e-1,
                                2.65321895265761230930e-2, 1.24266094738807843860e-3,
                                2.71155556874348757815e-5, 2.01033439929228813265e-7};
    static const double f[8] = {1.0,
                                5.99832206555887937690e-1,
                                1.36929880922735805310e-1,
                                1.48753612908506148525e-2,
                                7.86869131145613259100e-4,
                                1.84631831751005468180e-5,
                                1.42151175831644588870e-7,
                                2.04426310338993978564e-15};
    double q = ((double)(value >> 12) + 0.5) * 0x1p-52 - 0.5; // exact, and symmetric around 0
    if (fabs(q) <= 0.425) {
        double r = 0.180625 - q * q; // 0.425^2 - q^2
        return q * polynomial(a, r) / polynomial(b, r);
    }
    double r = sqrt(-logarithm(0.5 - fabs(q)));
    double tail = r <= 5 ? polynomial(c, r - 1.6) / polynomial(d, r - 1.6)
                         : polynomial(e, r - 5) / polynomial(f, r - 5);
    return q < 0 ? -tail : tail;
}

static void exchange(char *a, char *b, size_t size)
{
    char piece[64];
    while (size > 0) {
        size_t bytes = size < sizeof piece ? size : sizeof piece;
        memcpy(piece, a, bytes);
        memmove(a, b, bytes); // an element may be exchanged with itself
        memcpy(b, piece, bytes);
        a += bytes;
        b += bytes;
        size -= bytes;
    }
}

void fm_base_rng_shuffle(fm_rng *rng, void *array, size_t count, size_t size)
{
    char *elements = array;
    for (size_t i = count; i-- > 1;) {
        size_t j = (size_t)fm_base_rng_below(rng, (uint64_t)i + 1);
        exchange(elements + i * size, elements + j * size, size);
    }
}

void fm_base_rng_fill(fm_rng *rng, void *to, size_t size)
{
    char *at = to;
    for (; size >= 8; size -= 8, at += 8)
        fm_put_le64(at, fm_base_rng_u64(rng));
    if (size > 0) {
        char rest[8];
        fm_put_le64(rest, fm_base_rng_u64(rng));
        memcpy(at, rest, size);
    }
}
