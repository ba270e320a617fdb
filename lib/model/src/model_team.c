#include "model_compute.h"

#include "fathom/cpu.h"

#if defined(FM_HAVE_OPENMP)
#include <omp.h>
#endif

void fm_model_share(const struct fm_model_compute *compute, int64_t count, int64_t grain, fm_model_work work,
                    void *context)
{
    int64_t parts = (count + grain - 1) / grain;
    if (parts <= 1 || compute->threads == 1) {
        if (count > 0)
            work(context, 0, count, 0);
        return;
    }
#if defined(FM_HAVE_OPENMP)
    int team = parts < compute->threads ? (int)parts : compute->threads;
#pragma omp parallel for schedule(dynamic) num_threads(team)
    for (int64_t part = 0; part < parts; part++) {
        uint32_t mode = fm_base_fp_enter();
        int64_t end = (part + 1) * grain;
        work(context, part * grain, end < count ? end : count, omp_get_thread_num());
        fm_base_fp_leave(mode);
    }
#else
    work(context, 0, count, 0);
#endif
}

void fm_model_each(const struct fm_model_compute *compute, int count, fm_model_work work, void *context)
{
#if defined(FM_HAVE_OPENMP)
#pragma omp parallel for schedule(static, 1) num_threads(compute->threads) if (count > 1)
    for (int part = 0; part < count; part++) {
        uint32_t mode = fm_base_fp_enter();
        work(context, part, part + 1, omp_get_thread_num());
        fm_base_fp_leave(mode);
    }
#else
    (void)compute;
    for (int part = 0; part < count; part++)
        work(context, part, part + 1, 0);
#endif
}
