/*
 * What the tests of decode and prefill do not ask of the kernels for AMX, over emulated tiles: the check that a context
 * makes before it trusts the hardware is passed by tiles that are right and failed by others.
 */
#include "mla_private.h"

#include "mla_cases.h"

#include "fm_test.h"

static int agree(const struct fm_mla_kernels *tiles, const struct fm_mla_kernels *other)
{
    uint32_t mode = fm_base_fp_enter();
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr(__builtin_ia32_stmxcsr() | 0x8040); // results and operands flushed, as in kernels
#endif
    tiles->tiles.enter();
    int result = fm_mla_tiles_agree(tiles, other);
    tiles->tiles.leave();
    fm_base_fp_leave(mode);
    return result;
}

static void (*right_multiply)(const struct fm_mla_tile_product *product);

// Wrong in one of the sums.
static void multiply_wrongly(const struct fm_mla_tile_product *product)
{
    right_multiply(product);
    float *last = product->c + (size_t)(product->rows - 1) * product->c_stride + product->columns - 1;
    *last = 0;
}

static void wrong_tiles_are_found(void **state)
{
    (void)state;
    if (!mla_is_there(MLA_EMULATED))
        fm_test_skip("no AVX-512 here, which the kernels for AMX use, too");
    fm_mla_context *tiles = mla_open(MLA_EMULATED, 1), *vectors = mla_open(FM_ISA_AVX512, 1),
                   *reference = mla_open(FM_ISA_REF, 1);
    assert_true(agree(&tiles->kernels, &vectors->kernels));
    assert_true(agree(&tiles->kernels, &reference->kernels));
    right_multiply = tiles->kernels.tiles.multiply;
    tiles->kernels.tiles.multiply = multiply_wrongly;
    assert_false(agree(&tiles->kernels, &vectors->kernels));
    fm_mla_context_close(tiles);
    fm_mla_context_close(vectors);
    fm_mla_context_close(reference);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_tiles_are_found),
    };
    return fm_test_run("mla_tiles", tests);
}
