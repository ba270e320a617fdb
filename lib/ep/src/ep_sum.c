// Which kernel sums; and the sums of rows that do not travel as BF16.
#include <string.h>

#include "ep_private.h"
#include "fathom/cpu.h"

fm_ep_sum_kernel fm_ep_sum_choose(void)
{
#if defined(__x86_64__)
    switch (fm_base_cpu_isa(FM_ISA_AVX512)) {
    case FM_ISA_AVX512:
        return fm_ep_sum_avx512;
    case FM_ISA_AVX2:
        return fm_ep_sum_avx2;
    default:
        break;
    }
#endif
    return fm_ep_sum_ref;
}

void fm_ep_sum_cast(const fm_ep_sum *sum, int hidden, fm_ep_format format, fm_bf16 *out)
{
    for (int first = 0; first < hidden; first += FM_EP_SCALE_BLOCK) {
        int n = hidden - first < FM_EP_SCALE_BLOCK ? hidden - first : FM_EP_SCALE_BLOCK;
        float total[FM_EP_SCALE_BLOCK] = {0}, values[FM_EP_SCALE_BLOCK];
        for (int r = 0; r < sum->count; r++) {
            fm_ep_uncast_block(sum->rows[r], sum->scales[r], sum->scales[r] ? format : FM_EP_BF16, first, n,
                               values);
            for (int i = 0; i < n; i++)
                total[i] += values[i] * sum->weights[r];
        }
        fm_base_f32_to_bf16(total, (size_t)n, out + first);
    }
}

void fm_ep_sum_wide(const fm_ep_sum *sum, int hidden, float *out)
{
    memset(out, 0, (size_t)hidden * sizeof *out);
    for (int r = 0; r < sum->count; r++) {
        const float *row = sum->rows[r], weight = sum->weights[r];
        for (int i = 0; i < hidden; i++)
            out[i] += row[i] * weight;
    }
}
