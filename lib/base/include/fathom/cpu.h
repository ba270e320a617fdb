/**
 * @file cpu.h
 * The CPU: its instruction sets, the level that kernels run at and why, the cores that are ours, the
 * floating-point mode.
 *
 * Every kernel of the house exists as portable C (`ref`) and, where it pays, for wider instruction sets.
 * Which one runs is decided once per process, from CPUID, from what the system saves on a context switch
 * (XCR0), from the permission that Linux asks for AMX tiles, and from the environment:
 *
 *     FM_ISA=ref|avx2|avx512|amx      run at this level at most (unset or empty: no limit)
 *
 * A level that FM_ISA names but the machine lacks falls to the best one below it. A value that is none of the
 * four is ignored by the kernels and is reported by fm_base_cpu_isa_check(): a program calls that first and
 * stops.
 *
 * Levels are nested; each promises all of the one before it:
 *
 *     ref      portable C, on any CPU
 *     avx2     AVX, AVX2, FMA, F16C, POPCNT; ymm state enabled              Haswell 2013, Zen 1
 *     avx512   AVX-512 F, BW, DQ, VL; zmm and mask state enabled            Skylake-X 2017, Zen 4
 *     amx      AVX512_BF16, AMX-TILE, AMX-BF16, AMX-INT8; tile state        Sapphire Rapids 2023
 *              enabled and permitted by the kernel (Linux 5.16)
 *
 * What only some CPUs of a level have (VBMI, GFNI, AVX512_FP16, ...) a kernel asks for with
 * fm_base_cpu_allows(). On a CPU other than x86-64 the level is `ref`. Results do not depend on the level.
 *
 * Any thread may call any function here at any time.
 */
#ifndef FATHOM_CPU_H
#define FATHOM_CPU_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fm_isa {
    FM_ISA_REF,
    FM_ISA_AVX2,
    FM_ISA_AVX512,
    FM_ISA_AMX,
} fm_isa;

#define FM_ISA_COUNT 4

/*
 * X(name, bit, text, CPUID register, CPUID bit, level). `level` is the lowest one whose kernels may use the
 * feature. The registers are those of leaf 1, leaf 7 subleaf 0 and leaf 7 subleaf 1.
 */
#define FM_CPU_FEATURE_LIST(X)                                            \
    X(FM_CPU_POPCNT, 0, "popcnt", LEAF1_ECX, 23, FM_ISA_AVX2)             \
    X(FM_CPU_AVX, 1, "avx", LEAF1_ECX, 28, FM_ISA_AVX2)                   \
    X(FM_CPU_FMA, 2, "fma", LEAF1_ECX, 12, FM_ISA_AVX2)                   \
    X(FM_CPU_F16C, 3, "f16c", LEAF1_ECX, 29, FM_ISA_AVX2)                 \
    X(FM_CPU_AVX2, 4, "avx2", LEAF7_EBX, 5, FM_ISA_AVX2)                  \
    X(FM_CPU_AVX_VNNI, 5, "avx_vnni", LEAF7_1_EAX, 4, FM_ISA_AVX2)        \
    X(FM_CPU_GFNI, 6, "gfni", LEAF7_ECX, 8, FM_ISA_AVX2)                  \
    X(FM_CPU_AVX512F, 7, "avx512f", LEAF7_EBX, 16, FM_ISA_AVX512)         \
    X(FM_CPU_AVX512DQ, 8, "avx512dq", LEAF7_EBX, 17, FM_ISA_AVX512)       \
    X(FM_CPU_AVX512BW, 9, "avx512bw", LEAF7_EBX, 30, FM_ISA_AVX512)       \
    X(FM_CPU_AVX512VL, 10, "avx512vl", LEAF7_EBX, 31, FM_ISA_AVX512)      \
    X(FM_CPU_AVX512VBMI, 11, "avx512vbmi", LEAF7_ECX, 1, FM_ISA_AVX512)   \
    X(FM_CPU_AVX512VBMI2, 12, "avx512vbmi2", LEAF7_ECX, 6, FM_ISA_AVX512) \
    X(FM_CPU_AVX512VNNI, 13, "avx512vnni", LEAF7_ECX, 11, FM_ISA_AVX512)  \
    X(FM_CPU_AVX512BF16, 14, "avx512bf16", LEAF7_1_EAX, 5, FM_ISA_AVX512) \
    X(FM_CPU_AVX512FP16, 15, "avx512fp16", LEAF7_EDX, 23, FM_ISA_AVX512)  \
    X(FM_CPU_AMX_TILE, 16, "amx-tile", LEAF7_EDX, 24, FM_ISA_AMX)         \
    X(FM_CPU_AMX_BF16, 17, "amx-bf16", LEAF7_EDX, 22, FM_ISA_AMX)         \
    X(FM_CPU_AMX_INT8, 18, "amx-int8", LEAF7_EDX, 25, FM_ISA_AMX)         \
    X(FM_CPU_AMX_FP16, 19, "amx-fp16", LEAF7_1_EAX, 21, FM_ISA_AMX)

/** Feature bits; combine them with |. */
enum fm_cpu_feature {
#define FM_CPU_ENUM(name, bit, text, reg, cpuid_bit, level) name = 1 << (bit),
    FM_CPU_FEATURE_LIST(FM_CPU_ENUM)
#undef FM_CPU_ENUM
};

/** What the machine is. */
typedef struct fm_cpu {
    char
        brand[80]; /**< "Intel(R) Xeon(R) Platinum 8480C"; the architecture's name where the CPU tells none */
    uint32_t features; /**< FM_CPU_* bits that the CPU has, whether or not they may be used */
    size_t l1d_bytes;  /**< per core; 0: unknown, as for the two below */
    size_t l2_bytes;   /**< per core */
    size_t l3_bytes;   /**< of the whole package: a virtual machine usually gets a small part of it */
} fm_cpu;

/** Never NULL, and the same for the whole process. */
FM_API const fm_cpu *fm_base_cpu_get(void);

/**
 * The level to run at: the best that the machine and FM_ISA allow, and at most `limit`. A library passes the
 * highest level that it has kernels for. The first call with limit FM_ISA_AMX on a CPU with AMX asks the
 * kernel for the permission to use tiles (arch_prctl ARCH_REQ_XCOMP_PERM) for the whole process; it is never
 * asked for before, and not at all under a lower FM_ISA. Threads made later inherit it; a process started by
 * exec asks anew.
 */
FM_API fm_isa fm_base_cpu_isa(fm_isa limit);

/** FM_OK, or FM_ERR_ARG when FM_ISA is set to something that is not a level. */
FM_API fm_status fm_base_cpu_isa_check(void) FM_MUST_USE;

/** True when kernels may use all of these FM_CPU_* features: the CPU has them, and their level is allowed. */
FM_API int fm_base_cpu_allows(uint32_t features);

/**
 * Why a level was chosen or not, for people: "chosen: the best of this machine", "not available: CPU lacks
 * amx-tile", "not available: the kernel refused the tile permission (Operation not permitted)", "capped by
 * FM_ISA=avx2". Asks for the AMX permission if nobody has yet. Never NULL.
 */
FM_API const char *fm_base_cpu_isa_reason(fm_isa level);

/** "ref", "avx2", "avx512" or "amx": what FM_ISA takes. "?" for anything else. */
FM_API const char *fm_base_isa_name(fm_isa level);

/** CPUs that the calling thread may run on now (its affinity mask); at least 1. */
FM_API int fm_base_cpu_count(void);

/** CPU time that the control group (v1 or v2) grants, in CPUs: 1.5, for example; 0 when there is no limit.
 * Reads files. */
FM_API double fm_base_cpu_quota(void);

/** How many busy threads are worth starting from here: fm_base_cpu_count(), or the quota rounded up where
 * that is less. */
FM_API int fm_base_cpu_threads(void);

/**
 * Puts the calling thread into the floating-point mode that all kernels compute in: round to nearest even,
 * subnormals kept (no FTZ, no DAZ), exceptions masked. Returns the mode found, to be handed to
 * fm_base_fp_leave() by the same thread; flags raised in between are forgotten. On x86-64 that is MXCSR;
 * elsewhere only the rounding direction is set.
 *
 *     uint32_t mode = fm_base_fp_enter();
 *     ... the kernel, in this thread ...
 *     fm_base_fp_leave(mode);
 */
FM_API uint32_t fm_base_fp_enter(void) FM_MUST_USE;
/** Restores what fm_base_fp_enter() returned. */
FM_API void fm_base_fp_leave(uint32_t mode);

#ifdef __cplusplus
}
#endif
#endif
