#include "model_kernels.h"

#include "fathom/cpu.h"

const struct fm_model_kernels *fm_model_kernels_get(void)
{
#if defined(__x86_64__)
    switch (fm_base_cpu_isa(FM_ISA_AVX512)) {
    case FM_ISA_AMX:
    case FM_ISA_AVX512:
        return &fm_model_kernels_avx512;
    case FM_ISA_AVX2:
        return &fm_model_kernels_avx2;
    case FM_ISA_REF:
        break;
    }
#endif
    return &fm_model_kernels_ref;
}
