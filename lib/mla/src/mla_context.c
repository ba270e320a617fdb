#include "mla_private.h"

#include "fathom/mem.h"

#if defined(FM_HAVE_OPENMP)
#include <omp.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

static uint32_t enter(const struct fm_mla_kernels *kernels)
{
    uint32_t mode = fm_base_fp_enter();
#if defined(__x86_64__)
    _mm_setcsr(_mm_getcsr() | _MM_FLUSH_ZERO_ON | 0x0040); // and denormals are zero
#endif
    if (kernels->tiles.enter)
        kernels->tiles.enter();
    return mode;
}

static void leave(const struct fm_mla_kernels *kernels, uint32_t mode)
{
    if (kernels->tiles.leave)
        kernels->tiles.leave();
    fm_base_fp_leave(mode);
}

static void install(fm_isa isa, struct fm_mla_kernels *kernels)
{
    fm_mla_install_ref(kernels);
#if defined(__x86_64__)
    if (isa >= FM_ISA_AVX2)
        fm_mla_install_avx2(kernels);
    if (isa >= FM_ISA_AVX512)
        fm_mla_install_avx512(kernels);
    if (isa >= FM_ISA_AVX512 && fm_base_cpu_allows(FM_CPU_GFNI))
        kernels->narrow_e4m3 = fm_mla_narrow_e4m3_gfni;
    if (isa >= FM_ISA_AMX) {
        struct fm_mla_kernels tiles = *kernels;
        fm_mla_install_amx(&tiles);
        uint32_t mode = enter(&tiles);
        if (fm_mla_tiles_agree(&tiles, kernels))
            *kernels = tiles;
        leave(&tiles, mode);
    }
#else
    (void)isa;
#endif
}

static fm_status check_options(const fm_mla_options *options)
{
    if (options->size != sizeof *options)
        return fm_base_error_set(FM_ERR_ARG, "fm_mla_options.size is %zu; expected %zu", options->size,
                                 sizeof *options);
    if (options->threads < 0 || options->threads > FM_MLA_THREADS_MAX)
        return fm_base_error_set(FM_ERR_ARG, "threads is %d; expected 1 to %d, or 0 for all",
                                 options->threads, FM_MLA_THREADS_MAX);
    if (options->device != FM_MLA_CPU)
        return fm_base_error_set(FM_ERR_ARG, "device is %d; expected FM_MLA_CPU", (int)options->device);
    if (options->capped && ((int)options->isa_max < 0 || options->isa_max >= FM_ISA_COUNT))
        return fm_base_error_set(FM_ERR_ARG, "isa_max is %d; expected a level of fm_isa",
                                 (int)options->isa_max);
    return FM_OK;
}

fm_status fm_mla_context_open(const fm_mla_options *options, fm_mla_context **out_context)
{
    const fm_mla_options defaults = {.size = sizeof defaults};
    if (!out_context)
        return fm_base_error_set(FM_ERR_ARG, "out_context is null; expected where to put the context");
    if (!options)
        options = &defaults;
    FM_TRY(check_options(options));

    fm_mla_context *context = fm_base_mem_zalloc(1, sizeof *context);
    if (!context)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for an attention context");
    int threads = options->threads ? options->threads : fm_base_cpu_threads();
    context->threads = threads < FM_MLA_THREADS_MAX ? threads : FM_MLA_THREADS_MAX;
    // Not touched here: a page belongs to the NUMA node of the thread that writes it first.
    context->spaces = fm_base_mem_aligned((size_t)context->threads * sizeof *context->spaces, 64);
    if (!context->spaces) {
        fm_base_mem_free(context);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the workspace of %d threads", threads);
    }
    fm_isa limit = options->capped ? options->isa_max : FM_ISA_AMX;
    install(fm_base_cpu_isa(limit), &context->kernels);
    *out_context = context;
    return FM_OK;
}

void fm_mla_context_close(fm_mla_context *context)
{
    if (!context)
        return;
    fm_base_mem_free(context->spaces);
    fm_base_mem_free(context);
}

fm_isa fm_mla_context_isa(const fm_mla_context *context)
{
    return context->kernels.isa;
}

void fm_mla_team_run(fm_mla_context *context, int stages, const struct fm_mla_stage *stage, void *arg)
{
#if defined(FM_HAVE_OPENMP)
    int team = (int)fm_mla_min(context->threads, stage->tasks);
    if (team > 1) {
#pragma omp parallel num_threads(team)
        {
            uint32_t mode = enter(&context->kernels);
            for (int i = 0; i < stages; i++) {
#pragma omp for schedule(dynamic) nowait
                for (int64_t task = 0; task < stage[i].tasks; task++)
                    stage[i].body(arg, task, &context->spaces[omp_get_thread_num()]);
                if (i + 1 < stages) { // the team ends with a barrier of its own
#pragma omp barrier
                }
            }
            leave(&context->kernels, mode);
        }
        return;
    }
#endif
    uint32_t mode = enter(&context->kernels);
    for (int i = 0; i < stages; i++)
        for (int64_t task = 0; task < stage[i].tasks; task++)
            stage[i].body(arg, task, context->spaces);
    leave(&context->kernels, mode);
}
