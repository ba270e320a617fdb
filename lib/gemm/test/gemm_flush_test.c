#include "gemm_flush.h"

#include "fm_gen.h"
#include "fm_test.h"

#include "fathom/cpu.h"
#include "fathom/numfmt.h"

#if defined(__x86_64__)
#include <immintrin.h>

// The processor's own fma under FTZ and DAZ.
__attribute__((target("fma"))) static void hardware(float a, float b, float c, float out[3])
{
    unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040);
    volatile __m128 x = _mm_set_ss(a), y = _mm_set_ss(b), z = _mm_set_ss(c);
    volatile __m128 fused = _mm_fmadd_ss(x, y, z), product = _mm_mul_ss(x, y), sum = _mm_add_ss(x, z);
    _mm_setcsr(mode);
    out[0] = _mm_cvtss_f32(fused);
    out[1] = _mm_cvtss_f32(product);
    out[2] = _mm_cvtss_f32(sum);
}

static void same(float expected, float got, const char *what, float a, float b, float c)
{
    if (fm_f32_bits(expected) != fm_f32_bits(got) && !(isnan(expected) && isnan(got)))
        fail_msg("%s of %a, %a, %a is %a; the processor says %a", what, (double)a, (double)b, (double)c,
                 (double)got, (double)expected);
}

static void compare(float a, float b, float c)
{
    float expected[3];
    hardware(a, b, c, expected);
    same(expected[0], fm_gemm_flush_fma(a, b, c), "fma", a, b, c);
    same(expected[1], fm_gemm_flush_mul(a, b), "product", a, b, c);
    same(expected[2], fm_gemm_flush_add(a, c), "sum", a, b, c);
}

// Products and sums that end within a few units of 2^-126.
static void near_the_smallest_normal(fm_gen *gen)
{
    int exponent = (int)fm_gen_int(gen, -30, 30);
    float sign = fm_gen_chance(gen, 0.5) ? 1.0f : -1.0f;
    float a = sign * ldexpf(1 + 0x1p-23f * (float)fm_gen_size(gen, 0, 0x7FFFFF), exponent);
    float b = ldexpf(1 + 0x1p-23f * (float)fm_gen_size(gen, 0, 0x7FFFFF),
                     -127 - exponent + (int)fm_gen_int(gen, -2, 2));
    compare(a, b, 0);
    float c = fm_f32_from_bits(0x00800000u + (uint32_t)fm_gen_size(gen, 0, 0x1000000));
    compare(a, b, fm_gen_chance(gen, 0.5) ? c : -c);
    // The sliver: c a unit or a few above 2^-126, less a product of about 2^-150.
    float p = ldexpf(1 + 0x1p-23f * (float)fm_gen_size(gen, 0, 0x7FFFFF), (int)fm_gen_int(gen, -28, -22));
    compare(p, -sign * 0x1p-126f, sign * fm_f32_from_bits(0x00800000u + (uint32_t)fm_gen_int(gen, 0, 2)));
}

static void any_values(fm_gen *gen)
{
    compare(fm_gen_any_float(gen), fm_gen_any_float(gen), fm_gen_any_float(gen));
}

static void near_underflow_it_is_what_the_processor_does(void **state)
{
    (void)state;
    if (!fm_base_cpu_allows(FM_CPU_FMA))
        fm_test_skip("no FMA to compare with");
    fm_gen_property(20000, near_the_smallest_normal);
}

static void elsewhere_it_is_what_the_processor_does(void **state)
{
    (void)state;
    if (!fm_base_cpu_allows(FM_CPU_FMA))
        fm_test_skip("no FMA to compare with");
    fm_gen_property(20000, any_values);
}
#endif

static void the_smallest_normal_that_rounds_up_is_flushed(void **state)
{
    (void)state;
    // 2^-126 - 1.5 * 2^-151 is 2^-126 to a subnormal's precision, and 2^-126 - 2^-150 to 24 bits.
    assert_true(fm_gemm_flush_fma(-1.5f * 0x1p-25f, 0x1p-126f, 0x1p-126f) == 0);
    assert_true(fm_gemm_flush_fma(-1.0f * 0x1p-25f, 0x1p-126f, 0x1p-126f) == 0x1p-126f);
    assert_true(signbit(fm_gemm_flush_mul(-0x1p-100f, 0x1p-100f)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#if defined(__x86_64__)
        cmocka_unit_test(near_underflow_it_is_what_the_processor_does),
        cmocka_unit_test(elsewhere_it_is_what_the_processor_does),
#endif
        cmocka_unit_test(the_smallest_normal_that_rounds_up_is_flushed),
    };
    return fm_test_run("gemm_flush", tests);
}
