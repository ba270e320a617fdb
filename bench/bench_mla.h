/**
 * @file bench_mla.h
 * A layer's attention as a user would write it over libdnnl: what bench_mla compares with.
 */
#ifndef BENCH_MLA_H
#define BENCH_MLA_H

#include "fathom/mla.h"

typedef struct fm_bench_mla_dnnl fm_bench_mla_dnnl;

/**
 * Prepares dense decode of one query against `keys` keys of a BF16 cache: primitives are created, and their memory
 * allocated, once. `f32`: the keys are converted and everything is multiplied in f32, for machines whose BF16 is
 * emulated. FM_ERR_UNAVAILABLE: a build without libdnnl, or it lacks a primitive here.
 */
FM_MUST_USE fm_status fm_bench_mla_dnnl_open(int heads, int64_t keys, const fm_mla_cache *cache,
                                             const int32_t *block_table, const fm_tensor *q, int f32,
                                             fm_bench_mla_dnnl **out_peer);
FM_MUST_USE fm_status fm_bench_mla_dnnl_run(fm_bench_mla_dnnl *peer, int threads);
/** The result [heads, d_v] of the last run, as f32. */
const float *fm_bench_mla_dnnl_out(const fm_bench_mla_dnnl *peer);
void fm_bench_mla_dnnl_close(fm_bench_mla_dnnl *peer);

#endif
