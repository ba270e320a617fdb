#include "isa_choice.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *text;
    uint32_t feature;
    enum fm_cpuid_register reg;
    int cpuid_bit;
    fm_isa level;
} feature_table[] = {
#define ROW(name, bit, text, reg, cpuid_bit, level) {text, name, reg, cpuid_bit, level},
    FM_CPU_FEATURE_LIST(ROW)
#undef ROW
};

enum { FEATURE_COUNT = sizeof(feature_table) / sizeof(feature_table[0]) };

// What a level requires beyond the one below it. All that its compiler flags let the compiler emit must be
// here.
static const struct {
    const char *name;
    uint32_t features;
    uint64_t xcr0;
} level_table[FM_ISA_COUNT] = {
    [FM_ISA_REF] = {"ref", 0, 0},
    [FM_ISA_AVX2] = {"avx2", FM_CPU_POPCNT | FM_CPU_AVX | FM_CPU_FMA | FM_CPU_F16C | FM_CPU_AVX2,
                     FM_XCR0_AVX},
    [FM_ISA_AVX512] = {"avx512", FM_CPU_AVX512F | FM_CPU_AVX512DQ | FM_CPU_AVX512BW | FM_CPU_AVX512VL,
                       FM_XCR0_AVX512},
    [FM_ISA_AMX] = {"amx", FM_CPU_AVX512BF16 | FM_CPU_AMX_TILE | FM_CPU_AMX_BF16 | FM_CPU_AMX_INT8,
                    FM_XCR0_AMX},
};

const char *fm_base_isa_name(fm_isa level)
{
    return (unsigned)level < FM_ISA_COUNT ? level_table[level].name : "?";
}

uint32_t fm_base_isa_features(const uint32_t registers[FM_CPUID_REGISTERS])
{
    uint32_t features = 0;
    for (int i = 0; i < FEATURE_COUNT; i++)
        if (registers[feature_table[i].reg] >> feature_table[i].cpuid_bit & 1)
            features |= feature_table[i].feature;
    return features;
}

// The level that FM_ISA names; the highest when it is unset, empty or unknown.
static fm_isa cap_of(const char *env, int *out_unknown)
{
    *out_unknown = 0;
    if (!env || !*env)
        return FM_ISA_AMX;
    for (int level = 0; level < FM_ISA_COUNT; level++)
        if (strcmp(env, level_table[level].name) == 0)
            return (fm_isa)level;
    *out_unknown = 1;
    return FM_ISA_AMX;
}

// Appends to a text that is cut at `size`, never overrun.
static void append(char *text, size_t size, const char *more)
{
    size_t used = strlen(text);
    snprintf(text + used, size - used, "%s", more);
}

// Whether the machine offers `level`, given that it offers the level below; writes why not.
static int level_offered(const struct fm_isa_input *input, fm_isa level, char *out_reason, size_t size)
{
    uint32_t missing = level_table[level].features & ~input->features;
    uint64_t xcr0 = level_table[level].xcr0;
    if (missing) {
        snprintf(out_reason, size, "not available: CPU lacks");
        const char *separator = " ";
        for (int i = 0; i < FEATURE_COUNT; i++) {
            if (!(missing & feature_table[i].feature))
                continue;
            append(out_reason, size, separator);
            append(out_reason, size, feature_table[i].text);
            separator = ", ";
        }
        return 0;
    }
    if ((input->xcr0 & xcr0) != xcr0) {
        snprintf(out_reason, size,
                 "not available: the system does not enable its registers (XCR0 is 0x%llx, needs 0x%llx)",
                 (unsigned long long)input->xcr0, (unsigned long long)xcr0);
        return 0;
    }
    return 1;
}

static int amx_permitted(const struct fm_isa_input *input, char *out_reason, size_t size)
{
    if (input->amx_errno == 0)
        return 1;
    char buffer[64];
    snprintf(out_reason, size, "not available: the kernel refused the tile permission (%s)",
             strerror_r(input->amx_errno, buffer, sizeof buffer));
    return 0;
}

static void explain_chosen(const struct fm_isa_input *input, fm_isa cap, struct fm_isa_choice *choice)
{
    char *reason = choice->reason[choice->isa];
    size_t size = sizeof choice->reason[0];
    if (choice->env_unknown)
        snprintf(reason, size,
                 "chosen: the best of this machine (FM_ISA=%.32s is not a level and is ignored)", input->env);
    else if (!input->env || !*input->env)
        snprintf(reason, size, "chosen: the best of this machine");
    else if (cap == choice->isa)
        snprintf(reason, size, "chosen: FM_ISA=%s", level_table[cap].name);
    else
        snprintf(reason, size, "chosen: FM_ISA=%s is not available, this is the best below it",
                 level_table[cap].name);
}

void fm_base_isa_choose(const struct fm_isa_input *input, struct fm_isa_choice *out_choice)
{
    struct fm_isa_choice choice = {.isa = FM_ISA_REF};
    size_t size = sizeof choice.reason[0];
    fm_isa cap = cap_of(input->env, &choice.env_unknown);
    int offered = 1;
    for (int i = FM_ISA_REF; i < FM_ISA_COUNT; i++) {
        fm_isa level = (fm_isa)i;
        char *reason = choice.reason[level];
        if (!offered) {
            snprintf(reason, size, "not available: needs %s", level_table[level - 1].name);
            continue;
        }
        offered = level_offered(input, level, reason, size);
        if (!offered)
            continue;
        // The cap comes before the permission: nobody asks for what may not be used.
        if (level > cap) {
            snprintf(reason, size, "capped by FM_ISA=%s", level_table[cap].name);
            continue;
        }
        offered = level < FM_ISA_AMX || amx_permitted(input, reason, size);
        if (!offered)
            continue;
        snprintf(reason, size, "available");
        choice.isa = level;
    }
    explain_chosen(input, cap, &choice);
    for (int i = 0; i < FEATURE_COUNT; i++)
        if (feature_table[i].level <= choice.isa)
            choice.usable |= feature_table[i].feature & input->features;
    *out_choice = choice;
}
