/** What all cases of bench_gemm do alike. */
#ifndef BENCH_GEMM_CASE_H
#define BENCH_GEMM_CASE_H

#include "fm_bench.h"

#include "fathom/gemm.h"

/** A case's setup(): a zeroed state of `bytes`, which begins with a copy of the case's argument, then filled. Where that
 *  fails it is torn down. */
fm_status bench_gemm_setup(const fm_bench_setup *given, size_t argument_bytes, size_t bytes,
                           fm_status (*fill)(const fm_bench_setup *given, void *state),
                           void (*teardown)(void *state), void **out_state) FM_MUST_USE;

/** A context of one thread and one of all, at this level. FM_ERR_UNAVAILABLE: the machine has not got it. What is open when
 *  it fails is the caller's to close, too. */
fm_status bench_gemm_contexts_open(fm_isa isa, int threads_max, fm_gemm_context **out_one,
                                   fm_gemm_context **out_all) FM_MUST_USE;

#endif
