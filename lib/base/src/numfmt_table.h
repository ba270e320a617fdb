/*
 * The array conversions as a table, one for each ISA level. The reference fills every slot, then each wider
 * level that the target has overrides what it does better; the public functions go through the table of the
 * process's level.
 * They expect the mode of fm_base_fp_enter().
 */
#ifndef FM_BASE_NUMFMT_TABLE_H
#define FM_BASE_NUMFMT_TABLE_H

#include "fathom/cpu.h"
#include "fathom/numfmt.h"

// X(name, source type, elements in one source object, destination type, elements in one destination object)
#define FM_NUMFMT_LIST(X)                        \
    X(f32_to_bf16, float, 1, fm_bf16, 1)         \
    X(f32_to_fp16, float, 1, fm_fp16, 1)         \
    X(f32_to_e4m3, float, 1, fm_e4m3, 1)         \
    X(f32_to_e5m2, float, 1, fm_e5m2, 1)         \
    X(f32_to_e2m1, float, 1, fm_e2m1x2, 2)       \
    X(f32_to_ue8m0_ceil, float, 1, fm_ue8m0, 1)  \
    X(f32_to_ue8m0_exact, float, 1, fm_ue8m0, 1) \
    X(bf16_to_f32, fm_bf16, 1, float, 1)         \
    X(fp16_to_f32, fm_fp16, 1, float, 1)         \
    X(e4m3_to_f32, fm_e4m3, 1, float, 1)         \
    X(e5m2_to_f32, fm_e5m2, 1, float, 1)         \
    X(e2m1_to_f32, fm_e2m1x2, 2, float, 1)       \
    X(ue8m0_to_f32, fm_ue8m0, 1, float, 1)       \
    X(e4m3_to_bf16, fm_e4m3, 1, fm_bf16, 1)      \
    X(e2m1_to_bf16, fm_e2m1x2, 2, fm_bf16, 1)

struct fm_numfmt_table {
#define FM_NUMFMT_SLOT(name, S, s_per, D, d_per) void (*name)(const S *from, size_t n, D *out);
    FM_NUMFMT_LIST(FM_NUMFMT_SLOT)
#undef FM_NUMFMT_SLOT
};

/** The table of a level, which need not be this machine's: call its functions only where the machine has the
 * level. */
const struct fm_numfmt_table *fm_base_numfmt_table(fm_isa level);

void fm_base_numfmt_install_ref(struct fm_numfmt_table *table);
void fm_base_numfmt_install_avx2(struct fm_numfmt_table *table);
void fm_base_numfmt_install_avx512(struct fm_numfmt_table *table);

#endif
