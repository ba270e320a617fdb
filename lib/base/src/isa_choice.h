/*
 * The choice of the ISA level as a pure function, so that every machine can be tested on any.
 */
#ifndef FM_BASE_ISA_CHOICE_H
#define FM_BASE_ISA_CHOICE_H

#include "fathom/cpu.h"

/** The CPUID registers that FM_CPU_FEATURE_LIST names. */
enum fm_cpuid_register { LEAF1_ECX, LEAF7_EBX, LEAF7_ECX, LEAF7_EDX, LEAF7_1_EAX, FM_CPUID_REGISTERS };

/** The state components that the system must enable in XCR0 for a level: x87 is not ours, SSE+AVX,
 * opmask+zmm, tiles. */
enum {
    FM_XCR0_AVX = 0x6,
    FM_XCR0_AVX512 = FM_XCR0_AVX | 0xE0,
    FM_XCR0_AMX = FM_XCR0_AVX512 | 0x60000,
};

struct fm_isa_input {
    uint32_t features; /**< FM_CPU_* that the CPU has */
    uint64_t xcr0;     /**< 0 where XGETBV is not enabled */
    int amx_errno;     /**< 0: tiles are permitted; else why not */
    const char *env;   /**< FM_ISA; NULL when unset */
};

struct fm_isa_choice {
    fm_isa isa;
    int env_unknown; /**< FM_ISA is set, and not to a level */
    uint32_t usable; /**< FM_CPU_* that kernels may use at `isa` */
    char reason[FM_ISA_COUNT][192];
};

/** FM_CPU_* bits from the registers of CPUID. */
uint32_t fm_base_isa_features(const uint32_t registers[FM_CPUID_REGISTERS]);
void fm_base_isa_choose(const struct fm_isa_input *input, struct fm_isa_choice *out_choice);

#endif
