#include "mla_private.h"

#include "fm_gen.h"
#include "fm_test.h"

#include "fathom/numfmt.h"

#include <math.h>

static int install(struct fm_mla_kernels *reference, struct fm_mla_kernels *kernels)
{
#if defined(__x86_64__)
    if (fm_base_cpu_isa(FM_ISA_AVX512) < FM_ISA_AVX512)
        return 0;
    fm_mla_install_ref(reference);
    fm_mla_install_avx512(kernels);
    return 1;
#else
    (void)reference;
    (void)kernels;
    return 0;
#endif
}

// What a key is when it is widened to f32, of any number of codes and between margins.
static void check_scale(const struct fm_mla_kernels *reference, const struct fm_mla_kernels *kernels,
                        float scale, size_t n)
{
    enum { CODES = 256, MARGIN = 16, POISON = 0x5A5A };
    uint8_t codes[CODES];
    float want[CODES];
    uint16_t got[CODES + MARGIN];
    for (int i = 0; i < CODES; i++)
        codes[i] = (uint8_t)i;
    for (int i = 0; i < CODES + MARGIN; i++)
        got[i] = POISON;
    reference->widen_e4m3(codes + CODES - n, n, want);
    reference->scale_bf16(want, n, scale);
    kernels->narrow_e4m3(codes + CODES - n, n, scale, got);
    for (size_t i = 0; i < n; i++) {
        float value = fm_bf16_to_f32(got[i]);
        assert_true(isnan(want[i]) ? isnan(value) : fm_f32_bits(value) == fm_f32_bits(want[i]));
    }
    for (size_t i = n; i < CODES + MARGIN; i++)
        assert_int_equal(got[i], POISON);
}

static void check_scales(const struct fm_mla_kernels *reference, const struct fm_mla_kernels *kernels)
{
    static const float scales[] = {
        1,         0.25F,          0x1p-30F, 0x1p100F, 0x1p101F, 0x1p127F, 0x1p-100F, 0x1.8p-10F,
        0.333333F, 0x1.fffffep-3F, -2,       -0.7F,    0,        -0.0F,    INFINITY,  NAN};
    for (size_t i = 0; i < sizeof scales / sizeof *scales; i++)
        for (size_t n = 16; n <= 256; n += 16)
            check_scale(reference, kernels, scales[i], n);
    check_scale(reference, kernels, fm_f32_from_bits(0x7FFFFFFF),
                256); // a NaN that rounding would carry away
}

static void fp8_becomes_what_it_is_when_widened(void **state)
{
    (void)state;
    static struct fm_mla_kernels reference, kernels;
    if (!install(&reference, &kernels))
        fm_test_skip("no AVX-512 here");
    check_scales(&reference, &kernels);
}

static void so_it_does_by_products_of_bits(void **state)
{
    (void)state;
    static struct fm_mla_kernels reference, kernels;
    if (!install(&reference, &kernels) || !fm_base_cpu_allows(FM_CPU_GFNI))
        fm_test_skip("no AVX-512 and GFNI here");
#if defined(__x86_64__)
    kernels.narrow_e4m3 = fm_mla_narrow_e4m3_gfni;
#endif
    check_scales(&reference, &kernels);
}

static void random_scale(fm_gen *gen)
{
    static struct fm_mla_kernels reference, kernels;
    if (!install(&reference, &kernels))
        return;
    check_scale(&reference, &kernels, (float)fm_gen_real(gen, 1e-6, 2), (size_t)fm_gen_int(gen, 1, 16) * 16);
}

static void fp8_with_any_scale(void **state)
{
    (void)state;
    fm_gen_property(200, random_scale);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fp8_becomes_what_it_is_when_widened),
        cmocka_unit_test(so_it_does_by_products_of_bits),
        cmocka_unit_test(fp8_with_any_scale),
    };
    return fm_test_run("mla_few", tests);
}
