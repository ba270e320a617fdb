// Rows copied past the caches arrive whole, wherever they lie.
#include "ep_private.h"
#include "fathom/cpu.h"
#include "fm_gen.h"
#include "fm_test.h"

enum { BYTES_MAX = 1024, MARGIN = 128 };

static void any_copy(fm_gen *gen)
{
    _Alignas(64) uint8_t from[BYTES_MAX + MARGIN], to[BYTES_MAX + 2 * MARGIN], want[BYTES_MAX + 2 * MARGIN];
    size_t bytes = (size_t)fm_gen_size(gen, 0, BYTES_MAX), at = MARGIN;
    size_t in = (size_t)fm_gen_int(gen, 0, 70);
    if (fm_gen_chance(gen, 0.5))
        bytes = bytes / 64 * 64;
    if (fm_gen_chance(gen, 0.5))
        at += (size_t)fm_gen_int(gen, 0, 63);
    fm_gen_fill(gen, from, sizeof from);
    memset(want, 0xA5, sizeof want);
    memcpy(want + at, from + in, bytes);
    const struct {
        fm_isa level;
        fm_ep_copy_kernel stream;
    } kernels[] = {
        {FM_ISA_REF, NULL},
        {FM_ISA_REF, fm_ep_copy_ref},
#if defined(__x86_64__)
        {FM_ISA_AVX2, fm_ep_copy_avx2},
        {FM_ISA_AVX512, fm_ep_copy_avx512},
#endif
    };
    for (size_t k = 0;
         k < sizeof kernels / sizeof kernels[0] && fm_base_cpu_isa(kernels[k].level) == kernels[k].level;
         k++) {
        memset(to, 0xA5, sizeof to);
        fm_ep_copy_row(kernels[k].stream, to + at, from + in, bytes, from);
        fm_ep_copy_fence();
        assert_memory_equal(to, want, sizeof to);
    }
}

static void rows_arrive_whole(void **state)
{
    (void)state;
    fm_gen_property(1000, any_copy);
}

static void only_what_exceeds_the_cache_streams(void **state)
{
    (void)state;
    assert_null(fm_ep_copy_choose(4096));
    assert_non_null(fm_ep_copy_choose((size_t)1 << 32));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_arrive_whole),
        cmocka_unit_test(only_what_exceeds_the_cache_streams),
    };
    return fm_test_run("ep_copy", tests);
}
