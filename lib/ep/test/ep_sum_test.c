// The kernels agree with the definition, bit for bit (NaN by class).
#include "ep_private.h"
#include "fathom/cpu.h"
#include "fm_gen.h"
#include "fm_test.h"

enum { HIDDEN_MAX = 300, ROWS_MAX = FM_EP_TOPK_MAX + 2 };

static int is_nan(fm_bf16 code)
{
    return (code & 0x7FFF) > 0x7F80;
}

static void any_sum(fm_gen *gen)
{
    static fm_bf16 rows[ROWS_MAX][HIDDEN_MAX];
    fm_ep_sum of;
    int hidden = (int)fm_gen_int(gen, 1, HIDDEN_MAX), count = (int)fm_gen_size(gen, 0, ROWS_MAX);
    int wild = fm_gen_chance(gen, 0.3);
    for (int r = 0; r < count; r++) {
        of.rows[r] = rows[r];
        of.weights[r] = fm_gen_chance(gen, 0.3) ? 1.0f : fm_gen_normal(gen);
        for (int i = 0; i < hidden; i++)
            rows[r][i] = wild ? (fm_bf16)fm_gen_u64(gen) : fm_f32_to_bf16(fm_gen_normal(gen));
    }
    of.count = count;
    const struct {
        fm_isa level;
        fm_ep_sum_kernel sum;
    } kernels[] = {
        {FM_ISA_REF, fm_ep_sum_ref},
#if defined(__x86_64__)
        {FM_ISA_AVX2, fm_ep_sum_avx2},
        {FM_ISA_AVX512, fm_ep_sum_avx512},
#endif
    };
    for (size_t k = 0;
         k < sizeof kernels / sizeof kernels[0] && fm_base_cpu_isa(kernels[k].level) == kernels[k].level;
         k++) {
        _Alignas(64) fm_bf16 out[HIDDEN_MAX + 1];
        out[hidden] = 0x1234;
        kernels[k].sum(&of, hidden, fm_gen_chance(gen, 0.5) ? &of : NULL, fm_gen_chance(gen, 0.5), out);
        fm_ep_copy_fence();
        assert_int_equal(out[hidden], 0x1234);
        for (int i = 0; i < hidden; i++) {
            float sum = 0;
            for (int r = 0; r < count; r++) {
                float product = fm_bf16_to_f32(rows[r][i]) * of.weights[r];
                sum = sum + product;
            }
            fm_bf16 want = fm_f32_to_bf16(sum);
            if (is_nan(want))
                assert_true(is_nan(out[i]));
            else
                assert_int_equal(out[i], want);
        }
    }
}

static void kernels_agree_with_the_definition(void **state)
{
    (void)state;
    fm_gen_property(400, any_sum);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(kernels_agree_with_the_definition)};
    return fm_test_run("ep_sum", tests);
}
