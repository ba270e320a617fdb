#include "bench_gemm_case.h"

#include "fathom/mem.h"

#include <string.h>

fm_status bench_gemm_setup(const fm_bench_setup *given, size_t argument_bytes, size_t bytes,
                           fm_status (*fill)(const fm_bench_setup *given, void *state),
                           void (*teardown)(void *state), void **out_state)
{
    void *state = fm_base_mem_zalloc(1, bytes);
    if (!state)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the case");
    memcpy(state, given->argument, argument_bytes);
    fm_status status = fill(given, state);
    if (status != FM_OK) {
        teardown(state);
        return status;
    }
    *out_state = state;
    return FM_OK;
}

fm_status bench_gemm_contexts_open(fm_isa isa, int threads_max, fm_gemm_context **out_one,
                                   fm_gemm_context **out_all)
{
    fm_gemm_options options = {.size = sizeof options, .threads = 1, .capped = 1, .isa_max = isa};
    FM_TRY(fm_gemm_context_open(&options, out_one));
    options.threads = threads_max;
    FM_TRY(fm_gemm_context_open(&options, out_all));
    if (fm_gemm_context_isa(*out_one) != isa)
        return fm_base_error_set(FM_ERR_UNAVAILABLE, "no %s here: %s", fm_base_isa_name(isa),
                                 fm_base_cpu_isa_reason(isa));
    return FM_OK;
}
