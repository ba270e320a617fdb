/*
 * The kernel for AMX over emulated tiles: every way in which a product reaches it gives what the reference gives. What
 * this cannot show is that hardware does what the emulation does.
 */
#include "gemm_cases.h"

#include "gemm_private.h"

#include "fm_test.h"

#include <math.h>

void fm_gemm_test_install_emulated(struct fm_gemm_kernels *kernels);

static fm_gemm_context *open_emulated(int threads)
{
    fm_gemm_context *context = gemm_open(FM_ISA_AVX512, threads);
    if (fm_gemm_context_isa(context) == FM_ISA_AVX512)
        fm_gemm_test_install_emulated(&context->kernels);
    return context;
}

static int is_there(void)
{
    return fm_base_cpu_isa(FM_ISA_AVX512) >= FM_ISA_AVX512;
}

static void check(fm_gen *gen, int64_t m, int64_t n, int64_t k, enum gemm_values values)
{
    int wide = fm_gen_chance(gen, 0.4), with_c = fm_gen_chance(gen, 0.5);
    struct gemm_format formats[2] = {gemm_format_any(gen, wide), gemm_format_any(gen, wide)};
    struct gemm_matrix a = gemm_matrix_make(gen, m, k, &formats[0], values);
    struct gemm_matrix b = gemm_matrix_make(gen, n, k, &formats[1], values);
    fm_dtype dtype = fm_gen_chance(gen, 0.5) ? FM_DTYPE_F32 : FM_DTYPE_BF16;
    fm_gemm_context *contexts[2] = {gemm_open(FM_ISA_REF, 1), open_emulated((int)fm_gen_int(gen, 1, 2))};
    struct gemm_output out[3];
    fm_gen again = *gen;
    for (int i = 0; i < 3; i++) { // the reference, plain, packed
        fm_gemm_weights weights;
        void *blob = NULL;
        fm_gen same = again;
        out[i] = gemm_output_make(&same, m, n, dtype, with_c);
        if (i == 2)
            blob = gemm_pack(&b, &weights);
        else
            assert_ok(fm_gemm_weights_plain(n, k, &b.operand, &weights));
        assert_ok(fm_gemm_dense(contexts[i > 0], m, &a.operand, &weights, &out[i].result));
        gemm_output_untouched(&out[i], -1);
        if (i)
            gemm_output_equal(&out[0], &out[i], i == 1 ? "plain" : "packed");
        fm_base_mem_free(blob);
    }
    for (int i = 0; i < 3; i++)
        gemm_output_free(&out[i]);
    gemm_matrix_free(&a);
    gemm_matrix_free(&b);
    fm_gemm_context_close(contexts[0]);
    fm_gemm_context_close(contexts[1]);
}

static void random_product(fm_gen *gen)
{
    check(gen, fm_gen_size(gen, 0, 70), fm_gen_size(gen, 0, 70), fm_gen_size(gen, 0, 300),
          fm_gen_chance(gen, 0.3) ? GEMM_EXTREME : GEMM_NORMAL);
}

static void tiles_give_what_the_reference_gives(void **state)
{
    (void)state;
    if (!is_there())
        fm_test_skip("no AVX-512 here, which the kernel for AMX uses, too");
    fm_gen_property(40, random_product);
}

// More rows than a task has, more of k than a chunk.
static void large_products_are_cut_alike(void **state)
{
    (void)state;
    if (!is_there())
        fm_test_skip("no AVX-512 here, which the kernel for AMX uses, too");
    fm_gen gen = fm_gen_seeded(3);
    check(&gen, 500, 33, 300, GEMM_NORMAL);
    check(&gen, 9, 20, 9000, GEMM_NORMAL);
}

// The check that a context makes before it trusts the hardware: passed by tiles that are right, failed by others.
static void zero_rows(const struct fm_gemm_tiles *tiles)
{
    for (int row = 0; row < tiles->block.rows; row++)
        memset(tiles->block.acc + (size_t)row * tiles->block.acc_stride, 0, FM_GEMM_STRIP * sizeof(float));
}

static void wrong_tiles_are_found(void **state)
{
    (void)state;
    if (!is_there())
        fm_test_skip("no AVX-512 here, which the kernel for AMX uses, too");
    fm_gemm_context *plain = gemm_open(FM_ISA_AVX512, 1), *reference = gemm_open(FM_ISA_REF, 1),
                    *tiles = open_emulated(1);
    assert_true(fm_gemm_tiles_agree(&tiles->kernels, &plain->kernels));
    assert_true(fm_gemm_tiles_agree(&tiles->kernels, &reference->kernels));
    tiles->kernels.multiply_tiles = zero_rows;
    assert_false(fm_gemm_tiles_agree(&tiles->kernels, &plain->kernels));
    fm_gemm_context_close(plain);
    fm_gemm_context_close(reference);
    fm_gemm_context_close(tiles);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiles_give_what_the_reference_gives),
        cmocka_unit_test(large_products_are_cut_alike),
        cmocka_unit_test(wrong_tiles_are_found),
    };
    return fm_test_run("gemm_tiles", tests);
}
