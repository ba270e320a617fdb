#include "fm_test.h"

#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fathom/cpu.h"

/*
 * The choice is made once per process, so each test of another FM_ISA runs in a child that has not chosen
 * yet. The parent therefore must not look at the CPU before the children are done: these tests come first in
 * main().
 */
static void in_child(const char *isa, int (*body)(void))
{
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        setenv("FM_ISA", isa, 1);
        _exit(body());
    }
    int result;
    assert_int_equal(waitpid(child, &result, 0), child);
    if (!WIFEXITED(result) || WEXITSTATUS(result) != 0)
        fail_msg("under FM_ISA=%s: check %d failed", isa, WIFEXITED(result) ? WEXITSTATUS(result) : -1);
}

static unsigned long permitted_state(void)
{
    unsigned long mask = 0;
#if defined(__x86_64__)
    syscall(SYS_arch_prctl, 0x1022, &mask); // ARCH_GET_XCOMP_PERM; fails on kernels that know no permission
#endif
    return mask;
}

static int ref_is_obeyed(void)
{
    if (fm_base_cpu_isa_check() != FM_OK)
        return 1;
    if (fm_base_cpu_isa(FM_ISA_AMX) != FM_ISA_REF)
        return 2;
    if (fm_base_cpu_allows(FM_CPU_AVX2) || fm_base_cpu_allows(FM_CPU_AVX512F) ||
        fm_base_cpu_allows(FM_CPU_AMX_TILE))
        return 3;
    if (!fm_base_cpu_allows(0))
        return 4;
    if (strcmp(fm_base_cpu_isa_reason(FM_ISA_REF), "chosen: FM_ISA=ref") != 0)
        return 5;
    return permitted_state() >> 18 & 1 ? 6 : 0; // nobody asked for tiles
}

static int avx2_is_a_cap(void)
{
    fm_isa isa = fm_base_cpu_isa(FM_ISA_AMX);
    if (isa > FM_ISA_AVX2 || fm_base_cpu_isa(FM_ISA_REF) != FM_ISA_REF)
        return 1;
    return fm_base_cpu_allows(FM_CPU_AVX512F) ? 2 : 0;
}

static int unknown_is_reported(void)
{
    if (fm_base_cpu_isa_check() != FM_ERR_ARG)
        return 1;
    return strstr(fm_error_message(), "FM_ISA is \"avx10\"; expected ref, avx2, avx512 or amx") ? 0 : 2;
}

static int amx_means_permission(void)
{
    fm_isa below = fm_base_cpu_isa(FM_ISA_AVX512);
    if (below > FM_ISA_AVX512 || permitted_state() >> 18 & 1)
        return 1; // a library without AMX kernels made the process ask
    int chosen = fm_base_cpu_isa(FM_ISA_AMX) == FM_ISA_AMX;
    return chosen == (int)(permitted_state() >> 18 & 1) ? 0 : 2;
}

static void environment_is_obeyed(void **state)
{
    (void)state;
    in_child("ref", ref_is_obeyed);
    in_child("avx2", avx2_is_a_cap);
    in_child("avx10", unknown_is_reported);
    in_child("amx", amx_means_permission);
}

static void *read_choice(void *out)
{
    *(fm_isa *)out = fm_base_cpu_isa(FM_ISA_AMX);
    return NULL;
}

static void threads_agree(void **state)
{
    (void)state;
    enum { THREADS = 8 };
    pthread_t thread[THREADS];
    fm_isa seen[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, read_choice, &seen[i]), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    for (int i = 1; i < THREADS; i++)
        assert_int_equal(seen[i], seen[0]);
}

static void machine_is_described(void **state)
{
    (void)state;
    const fm_cpu *cpu = fm_base_cpu_get();
    assert_true(cpu->brand[0] != 0 && cpu->brand[0] != ' ');
    assert_null(memchr(cpu->brand, '\n', strlen(cpu->brand)));
    int chosen = 0;
    for (int level = 0; level < FM_ISA_COUNT; level++)
        chosen += strncmp(fm_base_cpu_isa_reason((fm_isa)level), "chosen", 6) == 0;
    assert_int_equal(chosen, 1);
    assert_string_equal(fm_base_isa_name(FM_ISA_AVX512), "avx512");
    assert_string_equal(fm_base_isa_name((fm_isa)9), "?");
    assert_string_equal(fm_base_cpu_isa_reason((fm_isa)9), "not a level");
#if defined(__x86_64__)
    // The compilers' own knowledge of CPUID, where it covers ours.
    assert_int_equal(!!(cpu->features & FM_CPU_AVX512VBMI), !!__builtin_cpu_supports("avx512vbmi"));
    assert_int_equal(!!(cpu->features & FM_CPU_AVX512F), !!__builtin_cpu_supports("avx512f"));
    assert_int_equal(!!(cpu->features & FM_CPU_AVX512BW), !!__builtin_cpu_supports("avx512bw"));
    assert_int_equal(!!(cpu->features & FM_CPU_AVX2), !!__builtin_cpu_supports("avx2"));
    assert_int_equal(!!(cpu->features & FM_CPU_FMA), !!__builtin_cpu_supports("fma"));
    assert_int_equal(!!(cpu->features & FM_CPU_GFNI), !!__builtin_cpu_supports("gfni"));
    assert_int_equal(!!(cpu->features & FM_CPU_POPCNT), !!__builtin_cpu_supports("popcnt"));
#endif
}

static void affinity_is_counted(void **state)
{
    (void)state;
    cpu_set_t before[8];
    assert_int_equal(sched_getaffinity(0, sizeof before, before), 0);
    assert_int_equal(fm_base_cpu_count(), CPU_COUNT_S(sizeof before, before));
    int first = 0;
    while (!CPU_ISSET_S((size_t)first, sizeof before, before))
        first++;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET((size_t)first, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    int count = fm_base_cpu_count();
    int threads = fm_base_cpu_threads();
    assert_int_equal(sched_setaffinity(0, sizeof before, before), 0);
    assert_int_equal(count, 1);
    assert_int_equal(threads, 1);
    assert_in_range(fm_base_cpu_threads(), 1, fm_base_cpu_count());
}

static void floating_point_mode_is_set_and_restored(void **state)
{
    (void)state;
#if defined(__x86_64__)
    const uint32_t odd = 0xFFC0; // toward zero, FTZ, DAZ, masked
    volatile float third = 3;
    volatile float subnormal = 0x1p-140f;
    uint32_t before = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(odd);
    uint32_t mode = fm_base_fp_enter();
    volatile float nearest = 2 / third;
    volatile float kept = subnormal * 2;
    fm_base_fp_leave(mode);
    uint32_t restored = __builtin_ia32_stmxcsr();
    volatile float cut = 2 / third;
    volatile float flushed = subnormal * 2;
    __builtin_ia32_ldmxcsr(before);
    assert_int_equal(mode, odd);
    assert_int_equal(restored, odd);
    assert_true(nearest > cut);
    assert_true(kept == 0x1p-139f);
    assert_true(flushed == 0);
#else
    fm_base_fp_leave(fm_base_fp_enter());
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(environment_is_obeyed), // first: see in_child()
        cmocka_unit_test(threads_agree),         cmocka_unit_test(machine_is_described),
        cmocka_unit_test(affinity_is_counted),   cmocka_unit_test(floating_point_mode_is_set_and_restored),
    };
    return fm_test_run("base.cpu", tests);
}
