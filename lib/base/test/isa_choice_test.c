#include "fm_test.h"

#include <errno.h>

#include "isa_choice.h"

static const uint32_t avx2_set = FM_CPU_POPCNT | FM_CPU_AVX | FM_CPU_FMA | FM_CPU_F16C | FM_CPU_AVX2;
static const uint32_t avx512_set = FM_CPU_AVX512F | FM_CPU_AVX512DQ | FM_CPU_AVX512BW | FM_CPU_AVX512VL;
static const uint32_t amx_set = FM_CPU_AVX512BF16 | FM_CPU_AMX_TILE | FM_CPU_AMX_BF16 | FM_CPU_AMX_INT8;
static const uint32_t everything = (1u << 20) - 1;

static struct fm_isa_choice choose(uint32_t features, uint64_t xcr0, int amx_errno, const char *env)
{
    struct fm_isa_input input = {features, xcr0, amx_errno, env};
    struct fm_isa_choice choice;
    fm_base_isa_choose(&input, &choice);
    return choice;
}

static int starts(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

// The rule as cpu.h states it, written down a second time: how far up the ladder can one climb.
static int best_offered(uint32_t features, uint64_t xcr0)
{
    if ((features & avx2_set) != avx2_set || !(xcr0 & 2) || !(xcr0 & 4))
        return FM_ISA_REF;
    if ((features & avx512_set) != avx512_set || (xcr0 >> 5 & 7) != 7)
        return FM_ISA_AVX2;
    if ((features & amx_set) != amx_set || (xcr0 >> 17 & 3) != 3)
        return FM_ISA_AVX512;
    return FM_ISA_AMX;
}

static void check_one(uint32_t features, uint64_t xcr0, int amx_errno, const char *env, int cap)
{
    struct fm_isa_choice choice = choose(features, xcr0, amx_errno, env);
    int offered = best_offered(features, xcr0);
    int best = offered < cap ? offered : cap;
    if (best == FM_ISA_AMX && amx_errno)
        best = FM_ISA_AVX512;
    if ((int)choice.isa != best)
        fail_msg("features %x xcr0 %llx errno %d FM_ISA=%s: %s, expected %s", features,
                 (unsigned long long)xcr0, amx_errno, env ? env : "(unset)", fm_base_isa_name(choice.isa),
                 fm_base_isa_name((fm_isa)best));
    for (int level = 0; level < FM_ISA_COUNT; level++) {
        const char *want = level == best     ? "chosen"
                           : level < best    ? "available"
                           : level > offered ? "not available"
                           : level > cap     ? "capped by FM_ISA="
                                             : "not available: the kernel refused the tile permission";
        if (!starts(choice.reason[level], want))
            fail_msg("features %x xcr0 %llx errno %d FM_ISA=%s: %s is \"%s\", expected \"%s\"", features,
                     (unsigned long long)xcr0, amx_errno, env ? env : "(unset)",
                     fm_base_isa_name((fm_isa)level), choice.reason[level], want);
    }
    uint32_t allowed = best >= FM_ISA_AVX2 ? avx2_set | FM_CPU_AVX_VNNI | FM_CPU_GFNI : 0;
    if (best >= FM_ISA_AVX512)
        allowed |= avx512_set | FM_CPU_AVX512VBMI | FM_CPU_AVX512VBMI2 | FM_CPU_AVX512VNNI |
                   FM_CPU_AVX512BF16 | FM_CPU_AVX512FP16;
    if (best >= FM_ISA_AMX)
        allowed |= FM_CPU_AMX_TILE | FM_CPU_AMX_BF16 | FM_CPU_AMX_INT8 | FM_CPU_AMX_FP16;
    assert_int_equal(choice.usable, features & allowed);
}

static void every_simulated_machine(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int cap;
    } env[] = {{NULL, 3}, {"", 3}, {"ref", 0}, {"avx2", 1}, {"avx512", 2}, {"amx", 3}, {"AVX2", 3}};
    // None, SSE alone, AVX, AVX without SSE, AVX-512 without its upper zmm half, AVX-512, tiles without
    // configuration, all.
    static const uint64_t xcr0[] = {0, 0x3, 0x7, 0x5, 0x67, 0xE7, 0x400E7, 0x602E7};
    const uint32_t required = avx2_set | avx512_set | amx_set;
    uint32_t features = 0;
    do { // every subset of the features that decide, with all others and with none
        for (size_t x = 0; x < sizeof xcr0 / sizeof xcr0[0]; x++)
            for (size_t e = 0; e < sizeof env / sizeof env[0]; e++) {
                check_one(features, xcr0[x], 0, env[e].text, env[e].cap);
                check_one(features | (everything & ~required), xcr0[x], EPERM, env[e].text, env[e].cap);
            }
        features = (features - required) & required;
    } while (features);
}

static void texts_name_the_cause(void **state)
{
    (void)state;
    struct fm_isa_choice c = choose(everything & ~(uint32_t)FM_CPU_AMX_TILE, 0x602E7, 0, NULL);
    assert_string_equal(c.reason[FM_ISA_AMX], "not available: CPU lacks amx-tile");
    assert_string_equal(c.reason[FM_ISA_AVX512], "chosen: the best of this machine");
    assert_string_equal(c.reason[FM_ISA_AVX2], "available");

    c = choose(0, 0, 0, "amx");
    assert_string_equal(c.reason[FM_ISA_AMX], "not available: needs avx512");
    assert_string_equal(c.reason[FM_ISA_AVX2], "not available: CPU lacks popcnt, avx, fma, f16c, avx2");
    assert_string_equal(c.reason[FM_ISA_REF],
                        "chosen: FM_ISA=amx is not available, this is the best below it");

    c = choose(everything, 0x7, 0, NULL);
    assert_string_equal(c.reason[FM_ISA_AVX512],
                        "not available: the system does not enable its registers (XCR0 is 0x7, needs 0xe6)");

    c = choose(everything, 0x602E7, EPERM, NULL);
    assert_string_equal(c.reason[FM_ISA_AMX],
                        "not available: the kernel refused the tile permission (Operation not permitted)");

    c = choose(everything, 0x602E7, EPERM,
               "avx2"); // below the cap nobody asks, so a refusal is not the cause
    assert_string_equal(c.reason[FM_ISA_AMX], "capped by FM_ISA=avx2");
    assert_string_equal(c.reason[FM_ISA_AVX2], "chosen: FM_ISA=avx2");

    c = choose(everything, 0x602E7, 0, "amx512");
    assert_true(c.env_unknown);
    assert_string_equal(c.reason[FM_ISA_AMX],
                        "chosen: the best of this machine (FM_ISA=amx512 is not a level and is ignored)");
}

static void known_cpus(void **state)
{
    (void)state;
    // CPUID 1.ECX, 7.0 EBX ECX EDX, 7.1 EAX of one model of each family.
    const uint32_t skylake_x[FM_CPUID_REGISTERS] = {0x7FFEFBFF, 0xD39FFFFB, 0, 0x9C000000, 0};
    const uint32_t sapphire_rapids[FM_CPUID_REGISTERS] = {0x7FFEFBFF, 0xF3BFBFFB, 0x1B415F7E, 0xFFDD4432,
                                                          0x1C30};
    const uint32_t zen3[FM_CPUID_REGISTERS] = {0x7EF8320B, 0x219C97A9, 0x40069C, 0x10, 0};

    struct fm_isa_choice c = choose(fm_base_isa_features(skylake_x), 0x2FF, 0, NULL);
    assert_int_equal(c.isa, FM_ISA_AVX512);
    assert_false(c.usable & (FM_CPU_AVX512VBMI | FM_CPU_GFNI | FM_CPU_AVX512BF16));
    c = choose(fm_base_isa_features(sapphire_rapids), 0x602E7, 0, NULL);
    assert_int_equal(c.isa, FM_ISA_AMX);
    assert_true(c.usable & FM_CPU_AVX512FP16);
    assert_true(c.usable & FM_CPU_GFNI);
    assert_false(c.usable & FM_CPU_AMX_FP16);
    c = choose(fm_base_isa_features(zen3), 0x7, 0, NULL);
    assert_int_equal(c.isa, FM_ISA_AVX2);
    assert_string_equal(c.reason[FM_ISA_AVX512],
                        "not available: CPU lacks avx512f, avx512dq, avx512bw, avx512vl");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_simulated_machine),
        cmocka_unit_test(texts_name_the_cause),
        cmocka_unit_test(known_cpus),
    };
    return fm_test_run("base.isa_choice", tests);
}
