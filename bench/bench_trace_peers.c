// Which build of simdjson runs: that for the best level of this machine.
#include "bench_trace.h"

#include "fathom/cpu.h"

#define PEER(kind)                                                                                       \
    int bench_trace_haswell_##kind(const char *path, struct trace_totals *out);                          \
    int bench_trace_icelake_server_##kind(const char *path, struct trace_totals *out);                   \
    int bench_trace_simdjson_##kind(const char *path, struct trace_totals *out)                          \
    {                                                                                                    \
        if (fm_base_cpu_allows(FM_CPU_AVX512F | FM_CPU_AVX512BW | FM_CPU_AVX512VL | FM_CPU_AVX512VBMI2)) \
            return bench_trace_icelake_server_##kind(path, out);                                         \
        if (fm_base_cpu_allows(FM_CPU_AVX2))                                                             \
            return bench_trace_haswell_##kind(path, out);                                                \
        return 1;                                                                                        \
    }

PEER(ondemand)
PEER(dom)
