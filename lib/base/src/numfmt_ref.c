/*
 * The reference: the scalar conversions of numfmt.h, element by element.
 */
#include "numfmt_table.h"

#define EACH(name, S, D)                              \
    static void name(const S *from, size_t n, D *out) \
    {                                                 \
        for (size_t i = 0; i < n; i++)                \
            out[i] = fm_##name(from[i]);              \
    }

EACH(f32_to_bf16, float, fm_bf16)
EACH(f32_to_fp16, float, fm_fp16)
EACH(f32_to_e4m3, float, fm_e4m3)
EACH(f32_to_e5m2, float, fm_e5m2)
EACH(f32_to_ue8m0_ceil, float, fm_ue8m0)
EACH(f32_to_ue8m0_exact, float, fm_ue8m0)
EACH(bf16_to_f32, fm_bf16, float)
EACH(fp16_to_f32, fm_fp16, float)
EACH(e4m3_to_f32, fm_e4m3, float)
EACH(e5m2_to_f32, fm_e5m2, float)
EACH(ue8m0_to_f32, fm_ue8m0, float)
EACH(e4m3_to_bf16, fm_e4m3, fm_bf16)

static void f32_to_e2m1(const float *from, size_t n, fm_e2m1x2 *out)
{
    for (size_t i = 0; i < n; i += 2) {
        uint8_t high = i + 1 < n ? fm_f32_to_e2m1(from[i + 1]) : 0;
        out[i / 2] = (fm_e2m1x2)(fm_f32_to_e2m1(from[i]) | high << 4);
    }
}

static void e2m1_to_f32(const fm_e2m1x2 *from, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = fm_e2m1_to_f32((uint8_t)(from[i / 2] >> (i % 2 * 4)));
}

static void e2m1_to_bf16(const fm_e2m1x2 *from, size_t n, fm_bf16 *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = fm_e2m1_to_bf16((uint8_t)(from[i / 2] >> (i % 2 * 4)));
}

void fm_base_numfmt_install_ref(struct fm_numfmt_table *table)
{
#define INSTALL(name, S, s_per, D, d_per) table->name = name;
    FM_NUMFMT_LIST(INSTALL)
}
