// Which kernel sums.
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
