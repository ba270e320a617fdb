#include "json_index.h"

#include "fathom/cpu.h"

fm_trace_index_kernel fm_trace_index_choose(void)
{
#if defined(__x86_64__)
    fm_isa isa = fm_base_cpu_isa(FM_ISA_AVX512);
    if (isa == FM_ISA_AVX512)
        return fm_trace_index_avx512;
    if (isa == FM_ISA_AVX2)
        return fm_trace_index_avx2;
#endif
    return fm_trace_index_ref;
}
