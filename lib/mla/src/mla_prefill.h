/**
 * @file mla_prefill.h
 * What forward and backward of prefill share: checked arguments, and sequences cut into blocks of queries.
 */
#ifndef MLA_PREFILL_H
#define MLA_PREFILL_H

#include "mla_private.h"

struct fm_mla_prefill {
    fm_mla_context *context;
    const fm_mla_prefill_args *args;
    int h_q, h_kv, d_qk, d_v;
    float scale, factor; // softmax_scale, and times log2 e
    enum fm_mla_round round;
};

/** Checks all arguments; `out` and `lse` are outputs unless `given`. */
FM_MUST_USE fm_status fm_mla_prefill_check(fm_mla_context *context, const fm_mla_prefill_args *args,
                                           int given, struct fm_mla_prefill *out_prefill);

/** Keys that query i of sequence `sequence` sees. */
int64_t fm_mla_prefill_limit(const struct fm_mla_prefill *prefill, int sequence, int64_t query);

/** Keys `at` ... of a sequence's key head as f32. */
void fm_mla_prefill_widen(const struct fm_mla_kernels *kernels, const fm_tensor *tensor, int64_t first,
                          int head, int rows, int columns, float *out);

static inline int64_t fm_mla_prefill_row(const fm_tensor *tensor, int64_t token, int head)
{
    return token * tensor->stride[0] + head * tensor->stride[1];
}

static inline int64_t fm_mla_prefill_length(const int32_t *cu_seqlens, int sequence)
{
    return (int64_t)cu_seqlens[sequence + 1] - cu_seqlens[sequence];
}

#endif
