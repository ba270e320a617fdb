/* Tasks for threads: of OpenMP, or of the caller. */
#include "gemm_private.h"

#if defined(FM_HAVE_OPENMP)
#include <omp.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

struct deal {
    fm_gemm_context *context;
    void (*body)(void *argument, int64_t task, struct fm_gemm_space *space);
    void *argument;
    int64_t tasks;
    int team;
};

static uint32_t enter(const struct fm_gemm_kernels *kernels)
{
    uint32_t mode = fm_base_fp_enter();
#if defined(__x86_64__)
    if (kernels->flushes)
        _mm_setcsr(_mm_getcsr() | _MM_FLUSH_ZERO_ON | 0x0040); // and denormals are zero
#else
    (void)kernels;
#endif
    return mode;
}

// The next task of thread `owner`'s share, or -1.
static int64_t take(const struct deal *deal, int owner)
{
    int64_t end = deal->tasks * (owner + 1) / deal->team;
    int64_t task = __atomic_fetch_add(&deal->context->shares[owner].next, 1, __ATOMIC_RELAXED);
    return task < end ? task : -1;
}

static void work(void *argument, int index)
{
    const struct deal *deal = argument;
    fm_gemm_context *context = deal->context;
    uint32_t mode = enter(&context->kernels);
    if (context->kernels.enter)
        context->kernels.enter();
    for (int i = 0; i < deal->team; i++) {
        int owner = (index + i) % deal->team;
        for (int64_t task; (task = take(deal, owner)) >= 0;)
            deal->body(deal->argument, task, &context->spaces[index]);
    }
    if (context->kernels.leave)
        context->kernels.leave();
#if defined(__x86_64__)
    _mm_sfence(); // what was stored past the caches comes before what the caller does next
#endif
    fm_base_fp_leave(mode);
}

void fm_gemm_deal(fm_gemm_context *context, int64_t tasks,
                  void (*body)(void *argument, int64_t task, struct fm_gemm_space *space), void *argument)
{
    struct deal deal = {context, body, argument, tasks, (int)fm_gemm_min(context->threads, tasks)};
    for (int i = 0; i < deal.team; i++)
        context->shares[i].next = tasks * i / deal.team;
    if (deal.team > 1 && context->team.run) {
        context->team.run(context->team.state, deal.team, work, &deal);
        return;
    }
#if defined(FM_HAVE_OPENMP)
    if (deal.team > 1) {
#pragma omp parallel num_threads(deal.team)
        work(&deal, omp_get_thread_num());
        return;
    }
#endif
    if (tasks > 0)
        work(&deal, 0); // takes the others' shares, too
}
