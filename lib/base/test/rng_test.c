#include "fm_test.h"
#include "fm_gen.h"

#include "fathom/rng.h"

#include <math.h>

static void assert_block(uint64_t seed, uint64_t stream, uint64_t block, uint64_t low, uint64_t high)
{
    uint64_t values[2];
    fm_base_rng_block(seed, stream, block, values);
    assert_true(values[0] == low);
    assert_true(values[1] == high);
}

static void published_vectors(void **state)
{
    (void)state;
    // philox4x32-10 in Random123's kat_vectors, whose 32-bit words stand low word first in our 64-bit ones.
    assert_block(0, 0, 0, UINT64_C(0xe169c58d6627e8d5), UINT64_C(0x9b00dbd8bc57ac4c));
    assert_block(UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_C(0x41c83b0e408f276d),
                 UINT64_C(0x6d5451fda20bc7c6));
    assert_block(UINT64_C(0x299f31d0a4093822), UINT64_C(0x0370734413198a2e), UINT64_C(0x85a308d3243f6a88),
                 UINT64_C(0x94fdccebd16cfe09), UINT64_C(0x24126ea15001e420));
}

static void results_never_change(void **state)
{
    (void)state;
    fm_rng rng = fm_base_rng_begin(42, 7);
    assert_true(fm_base_rng_u64(&rng) == UINT64_C(0xe55410cc67ee6f2c));
    assert_int_equal(fm_base_rng_below(&rng, 1000), 333);
    assert_true(fm_rng_double(&rng) == 0x1.803d865b9777ap-2);
    assert_true(fm_rng_float(&rng) == 0x1.6476cp-3f);
    assert_true(fm_rng_normal(&rng) == 0x1.88c18ca413acfp+0);
    assert_true(fm_base_rng_to_normal(0) == -0x1.06b48528cea51p+3);
    uint32_t order[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    fm_base_rng_shuffle(&rng, order, 8, sizeof order[0]);
    static const uint32_t expected[8] = {1, 4, 2, 7, 0, 5, 3, 6};
    assert_memory_equal(order, expected, sizeof order);
    // A hash over many normals, tails included: every machine and compiler must reach it.
    uint64_t hash = 0;
    for (int i = 0; i < 200000; i++) {
        double normal = fm_rng_normal(&rng);
        uint64_t bits;
        memcpy(&bits, &normal, sizeof bits);
        hash = (hash ^ bits) * UINT64_C(0x100000001b3);
    }
    assert_true(hash == UINT64_C(0xec6c852911832046));
}

static void any_order_of_access_gives_the_same(fm_gen *gen)
{
    uint64_t seed = fm_gen_u64(gen), stream = fm_gen_u64(gen);
    fm_rng rng = fm_base_rng_begin(seed, stream);
    for (uint64_t i = 0; i < 20; i++)
        assert_true(fm_base_rng_u64(&rng) == fm_base_rng_at(seed, stream, i));
    uint64_t index = fm_gen_u64(gen);
    fm_base_rng_seek(&rng, index);
    for (uint64_t i = 0; i < 5; i++)
        assert_true(fm_base_rng_u64(&rng) == fm_base_rng_at(seed, stream, index + i));
    uint8_t bytes[43], again[8];
    size_t size = (size_t)fm_gen_int(gen, 0, sizeof bytes);
    fm_base_rng_seek(&rng, 3);
    fm_base_rng_fill(&rng, bytes, size);
    for (size_t i = 0; i < size; i++) {
        fm_put_le64(again, fm_base_rng_at(seed, stream, 3 + i / 8));
        assert_int_equal(bytes[i], again[i % 8]);
    }
    assert_int_equal(rng.index, 3 + (size + 7) / 8);
}

static void access(void **state)
{
    (void)state;
    fm_gen_property(50, any_order_of_access_gives_the_same);
}

static void below_is_in_range_and_unbiased(void **state)
{
    (void)state;
    fm_rng rng = fm_base_rng_begin(1, 0);
    enum { DRAWS = 60000 };
    int counts[6] = {0};
    for (int i = 0; i < DRAWS; i++)
        counts[fm_base_rng_below(&rng, 6)]++;
    double chi2 = 0;
    for (int i = 0; i < 6; i++)
        chi2 += (counts[i] - DRAWS / 6.0) * (counts[i] - DRAWS / 6.0) / (DRAWS / 6.0);
    assert_true(chi2 < 20.5); // 5 degrees of freedom: one seed in a thousand exceeds it, this one does not

    // With a bound of 3 * 2^62, reducing by modulo would put half of all results below 2^62; a third belongs
    // there.
    int low = 0;
    for (int i = 0; i < DRAWS; i++) {
        uint64_t value = fm_base_rng_below(&rng, UINT64_C(3) << 62);
        assert_true(value < UINT64_C(3) << 62);
        low += value < UINT64_C(1) << 62;
    }
    assert_true(abs(low - DRAWS / 3) < 600);
    assert_int_equal(fm_base_rng_below(&rng, 1), 0);
    uint64_t raw = fm_base_rng_at(1, 0, rng.index);
    assert_true(fm_base_rng_below(&rng, 0) == raw);
}

static void uniforms_stay_below_one(void **state)
{
    (void)state;
    assert_true(fm_rng_to_double(UINT64_MAX) < 1 && fm_rng_to_double(0) == 0);
    assert_true(fm_rng_to_float(UINT64_MAX) < 1 && fm_rng_to_float(0) == 0);
    assert_true(fm_rng_to_double(UINT64_C(1) << 63) == 0.5);
    assert_true(fm_rng_to_float(UINT64_C(1) << 63) == 0.5f);
}

/* The lower tail of the normal distribution at x, in long double. */
static long double lower_tail(double x)
{
    return 0.5L * erfcl(-(long double)x / sqrtl(2.0L));
}

/* The exact inverse near `x`: one Newton step in long double, whose own error is that of x squared. */
static long double inverse_near(double x, long double probability)
{
    long double density = expl(-0.5L * (long double)x * (long double)x) / sqrtl(2 * acosl(-1.0L));
    return (long double)x - (lower_tail(x) - probability) / density;
}

static void normal_is_the_inverse_of_its_distribution(fm_gen *gen)
{
    // Half of the values from the whole range, half with a random number of leading zeros: the far tail.
    uint64_t value = fm_gen_u64(gen);
    if (fm_gen_chance(gen, 0.5))
        value >>= fm_gen_int(gen, 1, 63);
    double normal = fm_base_rng_to_normal(value);
    assert_true(fm_base_rng_to_normal(~value) == -normal);
    if (normal > 0)
        normal = -normal;
    uint64_t low = value >> 63 ? ~value : value;
    long double exact = inverse_near(normal, ((long double)(low >> 12) + 0.5L) * 0x1p-52L);
    assert_true(fabsl((long double)normal - exact) <= 1e-15L * fabsl(exact));
    assert_true(fabs(normal) < 8.3);
}

static void normals(void **state)
{
    (void)state;
    fm_gen_property(20000, normal_is_the_inverse_of_its_distribution);
    fm_rng rng = fm_base_rng_begin(3, 0);
    enum { DRAWS = 200000 };
    double moments[5] = {0};
    for (int i = 0; i < DRAWS; i++) {
        double x = fm_rng_normal(&rng), power = 1;
        for (int k = 1; k <= 4; k++)
            moments[k] += power *= x;
    }
    static const double expected[5] = {0, 0, 1, 0, 3};
    static const double deviation[5] = {0, 1.0, 1.42, 3.9, 9.8}; // of one draw's k-th power
    for (int k = 1; k <= 4; k++)
        assert_true(fabs(moments[k] / DRAWS - expected[k]) < 4 * deviation[k] / sqrt(DRAWS));
}

static void shuffle_permutes(fm_gen *gen)
{
    enum { COUNT_MAX = 50, SIZE_MAX_ = 200 };
    size_t count = (size_t)fm_gen_int(gen, 0, COUNT_MAX), size = (size_t)fm_gen_int(gen, 1, SIZE_MAX_);
    static uint8_t elements[COUNT_MAX * SIZE_MAX_];
    for (size_t i = 0; i < count; i++)
        memset(elements + i * size, (int)i, size);
    fm_rng rng = fm_base_rng_begin(fm_gen_u64(gen), 0);
    fm_base_rng_shuffle(&rng, elements, count, size);
    uint8_t seen[COUNT_MAX] = {0};
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 1; j < size; j++)
            assert_int_equal(elements[i * size + j], elements[i * size]);
        seen[elements[i * size]]++;
    }
    for (size_t i = 0; i < count; i++)
        assert_int_equal(seen[i], 1);
}

static void shuffles(void **state)
{
    (void)state;
    fm_gen_property(100, shuffle_permutes);
    // Each of the 24 orders of 4 equally often.
    enum { DRAWS = 24000 };
    int counts[256] = {0}, orders = 0;
    fm_rng rng = fm_base_rng_begin(5, 0);
    for (int i = 0; i < DRAWS; i++) {
        uint8_t order[4] = {0, 1, 2, 3};
        fm_base_rng_shuffle(&rng, order, 4, 1);
        counts[order[0] | order[1] << 2 | order[2] << 4 | order[3] << 6]++;
    }
    double chi2 = 0;
    for (int i = 0; i < 256; i++)
        if (counts[i]) {
            orders++;
            chi2 += (counts[i] - DRAWS / 24.0) * (counts[i] - DRAWS / 24.0) / (DRAWS / 24.0);
        }
    assert_int_equal(orders, 24);
    assert_true(chi2 < 49.7); // 23 degrees of freedom, one in a thousand
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_vectors),
        cmocka_unit_test(results_never_change),
        cmocka_unit_test(access),
        cmocka_unit_test(below_is_in_range_and_unbiased),
        cmocka_unit_test(uniforms_stay_below_one),
        cmocka_unit_test(normals),
        cmocka_unit_test(shuffles),
    };
    return fm_test_run("base.rng", tests);
}
