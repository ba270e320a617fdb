// SwiGLU of BF16 where it lies: right, the same as of f32, and of no number beside its own.
#include "gemm_private.h"

#include <math.h>
#include <string.h>

#include "fm_gen.h"
#include "fm_test.h"

enum { MOST = 70, ROOM = 96 };

static int install(struct fm_gemm_kernels *kernels)
{
#if defined(__x86_64__)
    if (fm_base_cpu_isa(FM_ISA_AVX512) < FM_ISA_AVX512)
        return 0;
    fm_gemm_install_ref(kernels);
    fm_gemm_install_lanes_avx512(kernels);
    return 1;
#else
    (void)kernels;
    return 0;
#endif
}

static double swiglu(double gate, double up, double weight, double limit)
{
    gate = fmin(gate, limit);
    up = fmax(fmin(up, limit), -limit);
    return weight * gate / (1 + exp(-gate)) * up;
}

// One line of each length. What is beyond its numbers is NaN in the inputs, which nothing may take up.
static void check_line(fm_gen *gen, const struct fm_gemm_kernels *kernels, int count, float weight,
                       float limit)
{
    fm_bf16 inputs[2][ROOM];
    float wide[2][ROOM], h[2][ROOM];
    int whole = (count + FM_GEMM_SUMS - 1) / FM_GEMM_SUMS * FM_GEMM_SUMS;
    for (int part = 0; part < 2; part++)
        for (int i = 0; i < ROOM; i++) {
            inputs[part][i] = i < count ? fm_f32_to_bf16(4 * fm_gen_normal(gen)) : 0x7FC0;
            wide[part][i] = i < count ? fm_bf16_to_f32(inputs[part][i]) : 0;
            h[part][i] = 77;
        }
    struct fm_gemm_swiglu_line line = {
        .count = whole, .gate = wide[0], .up = wide[1], .h = h[0], .weight = weight, .limit = limit};
    kernels->swiglu_forward(&line);
    line.h = h[1];
    line.gate = line.up = NULL;
    const fm_bf16 *from[] = {inputs[0], inputs[1]};
    kernels->swiglu_forward_bf16(&line, count, from, from);
    assert_memory_equal(h[0], h[1], sizeof h[0]);
    for (int i = 0; i < ROOM; i++) {
        double want = i < count ? swiglu((double)fm_bf16_to_f32(inputs[0][i]),
                                         (double)fm_bf16_to_f32(inputs[1][i]), (double)weight, (double)limit)
                                : (i < whole ? 0 : 77);
        if (!(fabs((double)h[1][i] - want) <= fabs(want) * 0x1p-20))
            fail_msg("number %d of %d, weight %g, limit %g: %g; expected %g", i, count, (double)weight,
                     (double)limit, (double)h[1][i], want);
    }
}

static void swiglu_of_bf16_lines(void **state)
{
    (void)state;
    struct fm_gemm_kernels kernels;
    fm_gen gen = fm_gen_seeded(5);
    if (!install(&kernels))
        fm_test_skip("no AVX-512 here");
    for (int count = 1; count <= MOST; count++)
        for (int way = 0; way < 4; way++)
            check_line(&gen, &kernels, count, way & 1 ? 0.375f : 1, way & 2 ? 2.5f : INFINITY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(swiglu_of_bf16_lines),
    };
    return fm_test_run("gemm_lanes", tests);
}
