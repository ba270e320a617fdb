#include "gemm_private.h"

#include <sys/mman.h>

// Rows of accumulators and of A lie pages apart otherwise, more than a first-level TLB holds. fm_base_mem_aligned() rounds
// sizes up to the alignment.
enum { HUGE_PAGE = 2 << 20 };

static void install(fm_isa isa, struct fm_gemm_kernels *kernels)
{
    fm_gemm_install_ref(kernels);
    fm_gemm_install_lanes_ref(kernels);
#if defined(__x86_64__)
    if (isa >= FM_ISA_AVX2) {
        fm_gemm_install_avx2(kernels);
        fm_gemm_install_lanes_avx2(kernels);
    }
    if (isa >= FM_ISA_AVX512) {
        fm_gemm_install_avx512(kernels);
        fm_gemm_install_few_avx512(kernels);
        if (fm_base_cpu_allows(FM_CPU_AVX512VBMI | FM_CPU_GFNI))
            fm_gemm_install_few_vbmi(kernels);
        fm_gemm_install_lanes_avx512(kernels);
        fm_gemm_install_quant_avx512(kernels);
    }
    if (isa >= FM_ISA_AMX) {
        struct fm_gemm_kernels tiles = *kernels;
        fm_gemm_install_amx(&tiles);
        if (fm_gemm_tiles_agree(&tiles, kernels))
            *kernels = tiles;
    }
#else
    (void)isa;
#endif
}

static fm_status check_options(const fm_gemm_options *options)
{
    if (options->size != sizeof *options)
        return fm_base_error_set(FM_ERR_ARG, "fm_gemm_options.size is %zu; expected %zu", options->size,
                                 sizeof *options);
    if (options->threads < 0 || options->threads > FM_GEMM_THREADS_MAX)
        return fm_base_error_set(FM_ERR_ARG, "threads is %d; expected 1 to %d, or 0 for all",
                                 options->threads, FM_GEMM_THREADS_MAX);
    if (options->device != FM_GEMM_CPU)
        return fm_base_error_set(FM_ERR_ARG, "device is %d; expected FM_GEMM_CPU", (int)options->device);
    if (options->capped && (int)options->isa_max < 0)
        return fm_base_error_set(FM_ERR_ARG, "isa_max is %d; expected a level of fm_isa",
                                 (int)options->isa_max);
    if (options->capped && options->isa_max >= FM_ISA_COUNT)
        return fm_base_error_set(FM_ERR_ARG, "isa_max is %d; expected a level of fm_isa",
                                 (int)options->isa_max);
    if (options->team && !options->team->run)
        return fm_base_error_set(FM_ERR_ARG, "run of the team is null; expected what runs its threads");
    return FM_OK;
}

fm_status fm_gemm_context_open(const fm_gemm_options *options, fm_gemm_context **out_context)
{
    const fm_gemm_options defaults = {.size = sizeof defaults};
    if (!out_context)
        return fm_base_error_set(FM_ERR_ARG, "out_context is null; expected where to put the context");
    if (!options)
        options = &defaults;
    FM_TRY(check_options(options));

    fm_gemm_context *context = fm_base_mem_zalloc(1, sizeof *context);
    if (!context)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a gemm context");
    int threads = options->threads ? options->threads : fm_base_cpu_threads();
    context->threads = threads < FM_GEMM_THREADS_MAX ? threads : FM_GEMM_THREADS_MAX;
    if (options->team)
        context->team = *options->team;
    // Not touched here: a page belongs to the NUMA node of the thread that writes it first.
    size_t bytes = (size_t)context->threads * sizeof *context->spaces;
    context->spaces = fm_base_mem_aligned(bytes, HUGE_PAGE);
#if defined(MADV_HUGEPAGE)
    if (context->spaces)
        (void)madvise(context->spaces, fm_round_up(bytes, HUGE_PAGE),
                      MADV_HUGEPAGE); // slower without, no worse
#endif
    context->shares = fm_base_mem_aligned((size_t)context->threads * sizeof *context->shares, FM_CACHE_LINE);
    if (!context->spaces || !context->shares) {
        fm_gemm_context_close(context);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the workspace of %d threads", threads);
    }
    fm_isa limit = options->capped ? options->isa_max : FM_ISA_AMX;
    install(fm_base_cpu_isa(limit), &context->kernels);
    *out_context = context;
    return FM_OK;
}

void fm_gemm_context_close(fm_gemm_context *context)
{
    if (!context)
        return;
    fm_base_mem_free(context->spaces);
    fm_base_mem_free(context->shares);
    fm_base_mem_free(context);
}

fm_isa fm_gemm_context_isa(const fm_gemm_context *context)
{
    return context->kernels.isa;
}
