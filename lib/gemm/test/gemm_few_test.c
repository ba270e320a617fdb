#include "gemm_private.h"

#include "fm_gen.h"
#include "fm_test.h"

// The kernels that a CPU with VBMI has, beside those that it would have without: a context takes only the former.
static int install(struct fm_gemm_kernels kernels[2])
{
#if defined(__x86_64__)
    if (fm_base_cpu_isa(FM_ISA_AVX512) < FM_ISA_AVX512)
        return 0;
    for (int i = 0; i < 2; i++) {
        fm_gemm_install_ref(&kernels[i]);
        fm_gemm_install_few_avx512(&kernels[i]);
    }
    if (fm_base_cpu_allows(FM_CPU_AVX512VBMI | FM_CPU_GFNI))
        fm_gemm_install_few_vbmi(&kernels[1]);
    return 1;
#else
    (void)kernels;
    return 0;
#endif
}

static void all_codes_are_unpacked_as_the_reference_does(void **state)
{
    (void)state;
    struct fm_gemm_kernels kernels[2], reference;
    static uint8_t panel[16 * 32];
    static float want[32 * FM_GEMM_STRIP], got[32 * FM_GEMM_STRIP];
    fm_gemm_install_ref(&reference);
    if (!install(kernels))
        fm_test_skip("no AVX-512 here");
    for (int i = 0; i < (int)sizeof panel; i++)
        panel[i] = (uint8_t)i;
    reference.unpack_e4m3(panel, 16, want);
    for (int i = 0; i < 2; i++) {
        kernels[i].unpack_e4m3(panel, 16, got);
        for (int at = 0; at < 32 * FM_GEMM_STRIP; at++)
            assert_true(fm_f32_bits(got[at]) == fm_f32_bits(want[at]) ||
                        (got[at] != got[at] && want[at] != want[at]));
    }
}

// Of E4M3: leaves one subnormal or NaN in some 4096 codes.
static void make_most_normal(fm_gen *gen, uint8_t *codes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int special = (codes[i] & 0x78) == 0 || (codes[i] & 0x7F) == 0x7F;
        if (special && !fm_gen_chance(gen, 128.0 / 9 / 4096))
            codes[i] ^= 0x40;
    }
}

static void random_block(fm_gen *gen)
{
    struct fm_gemm_kernels kernels[2];
    enum { COLUMNS = FM_GEMM_STREAMS * FM_GEMM_PANEL, STRIDE = FM_GEMM_BLOCK };
    static uint8_t panels[FM_GEMM_STREAMS][2 * FM_GEMM_BLOCK * FM_GEMM_PANEL];
    float a[FM_GEMM_FEW * STRIDE], scales[FM_GEMM_FEW], b_scales[COLUMNS],
        acc[2][FM_GEMM_FEW * COLUMNS] = {{0}};
    if (!install(kernels))
        fm_test_skip("no AVX-512 here");
    int is_bf16 = fm_gen_chance(gen, 0.3);
    struct fm_gemm_few few = {.count = (int)fm_gen_int(gen, 1, FM_GEMM_STREAMS),
                              .a = a,
                              .a_stride = STRIDE,
                              .rows = (int)fm_gen_int(gen, 1, FM_GEMM_FEW),
                              .steps = (int)fm_gen_int(gen, 1, 4),
                              .acc_stride = COLUMNS,
                              .folds = fm_gen_chance(gen, 0.5),
                              .a_scales = scales,
                              .b_scales = b_scales};
    fm_gen_fill(gen, panels, sizeof panels);
    if (fm_gen_chance(gen, 0.7)) // else hardly a step is without subnormals
        make_most_normal(gen, panels[0], sizeof panels);
    for (size_t i = 0; i < sizeof a / sizeof *a; i++)
        a[i] = fm_gen_normal(gen);
    for (int i = 0; i < FM_GEMM_FEW; i++)
        scales[i] = 0.25f;
    for (int i = 0; i < COLUMNS; i++)
        b_scales[i] = 2;
    for (int i = 0; i < few.count; i++) {
        few.panels[i] = panels[i];
        few.columns[i] = (int64_t)i * FM_GEMM_PANEL;
    }
    for (int i = 0; i < 2; i++) {
        few.acc = acc[i];
        (is_bf16 ? kernels[i].few_bf16 : kernels[i].few_e4m3)(&few);
    }
    for (int i = 0; i < FM_GEMM_FEW * COLUMNS; i++)
        assert_true(fm_f32_bits(acc[0][i]) == fm_f32_bits(acc[1][i]) ||
                    (acc[0][i] != acc[0][i] && acc[1][i] != acc[1][i]));
}

// Steps whose codes bit matrices do not serve, by their number among those of a call: what each way of taking turns between
// matrices and tables meets.
static int is_special(int pattern, int step)
{
    switch (pattern) {
    case 0: // matrices alone
        return 0;
    case 1: // tables, but for a step in eight
        return 1;
    case 2: // the first is done again, and all after it at once
        return step == 0;
    case 3: // the last is done again
        return step == FM_GEMM_STREAMS * 4 - 1;
    case 4: // from matrices to tables
        return step >= 16;
    case 5: // from tables to matrices
        return step < 16;
    default: // at the brink
        return step % 8 == 7;
    }
}

static void every_turn_between_matrices_and_tables(void **state)
{
    (void)state;
    enum { STEPS = 4, COLUMNS = FM_GEMM_STREAMS * FM_GEMM_PANEL, STEP_BYTES = 32 * FM_GEMM_PANEL };
    static const uint8_t specials[] = {0x00, 0x80, 0x01, 0x87, 0x7F, 0xFF}; // zeros, subnormals, NaNs
    static uint8_t panels[FM_GEMM_STREAMS][2 * FM_GEMM_BLOCK * FM_GEMM_PANEL];
    struct fm_gemm_kernels kernels[2];
    float a[FM_GEMM_BLOCK], scales[FM_GEMM_FEW] = {0.5f}, b_scales[COLUMNS], acc[2][COLUMNS];
    fm_gen gen = fm_gen_seeded(11);
    if (!install(kernels))
        fm_test_skip("no AVX-512 here");
    struct fm_gemm_few few = {.count = FM_GEMM_STREAMS,
                              .a = a,
                              .a_stride = FM_GEMM_BLOCK,
                              .rows = 1,
                              .steps = STEPS,
                              .acc_stride = COLUMNS,
                              .a_scales = scales,
                              .b_scales = b_scales};
    for (int i = 0; i < FM_GEMM_BLOCK; i++)
        a[i] = fm_gen_normal(&gen);
    for (int i = 0; i < COLUMNS; i++)
        b_scales[i] = 2;
    for (int pattern = 0; pattern < 7; pattern++)
        for (size_t special = 0; special < sizeof specials; special++) {
            for (int i = 0; i < few.count; i++) {
                few.panels[i] = panels[i];
                few.columns[i] = (int64_t)i * FM_GEMM_PANEL;
                for (int at = 0; at < STEPS * STEP_BYTES; at++) // normal, of either sign
                    panels[i][at] =
                        (uint8_t)(fm_gen_int(&gen, 8, 0x7E) | (fm_gen_chance(&gen, 0.5) ? 0x80 : 0));
                for (int step = 0; step < STEPS; step++)
                    if (is_special(pattern, i * STEPS + step))
                        panels[i][step * STEP_BYTES + fm_gen_int(&gen, 0, STEP_BYTES - 1)] =
                            specials[special];
            }
            memset(acc, 0, sizeof acc);
            for (int i = 0; i < 2; i++) {
                few.acc = acc[i];
                kernels[i].few_e4m3(&few);
            }
            for (int i = 0; i < COLUMNS; i++)
                if (fm_f32_bits(acc[0][i]) != fm_f32_bits(acc[1][i]) &&
                    (acc[0][i] == acc[0][i] || acc[1][i] == acc[1][i]))
                    fail_msg("pattern %d, code 0x%02X, column %d: %g with tables alone, %g", pattern,
                             specials[special], i, (double)acc[0][i], (double)acc[1][i]);
        }
}

static void with_and_without_vbmi_is_the_same(void **state)
{
    (void)state;
    fm_gen_property(50, random_block);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_codes_are_unpacked_as_the_reference_does),
        cmocka_unit_test(with_and_without_vbmi_is_the_same),
        cmocka_unit_test(every_turn_between_matrices_and_tables),
    };
    return fm_test_run("gemm_few", tests);
}
