/**
 * @file mla.h
 * Attention: multi-head latent attention over a paged cache (decode, dense and sparse), and the attention of variable
 * length sequences that prefill and training need, forward and backward. The contract is that of FlashMLA
 * (github.com/deepseek-ai/FlashMLA), without its limits on heads, page sizes and dimensions, with FP8 caches for dense
 * decode, and with attention sinks everywhere.
 *
 *     fm_mla_context *mla;
 *     fm_mla_plan *plan;
 *     FM_TRY(fm_mla_context_open(NULL, &mla));
 *     fm_mla_cache cache = {.form = FM_MLA_FORM_BF16, .page = 64, .h_kv = 1, .d_qk = 576, .d_v = 512,
 *                           .blocks = blocks, .data = memory};
 *     FM_TRY(fm_mla_cache_append(mla, &cache, slots, &rows));          // a token's latent and rotary values
 *     FM_TRY(fm_mla_plan_dense(&(fm_mla_shape){.batch = b, .s_q = 1, .h_q = 128, .h_kv = 1, .d_v = 512},
 *                              cache_seqlens, &(fm_mla_split){0}, &plan));
 *     for (layer ...)                                                  // a plan serves all layers of a step
 *         FM_TRY(fm_mla_decode(mla, plan, &(fm_mla_decode_args){.q = &q, .cache = &cache, .block_table = table,
 *                                                               .max_blocks = columns, .out = &out, .lse = &lse}));
 *     fm_mla_plan_free(plan);
 *     fm_mla_context_close(mla);
 *
 * What is computed. Row (query i, head h) has the logits s_j = softmax_scale * (q . k_j) over the keys j that it sees, and
 *
 *     out = sum_j exp(s_j) v_j / sum_j exp(s_j)         lse = ln(sum_j exp(s_j)), the natural logarithm
 *
 * Query head h uses key head h / (h_q / h_kv). With `causal`, query i sees key j when j <= s_k - s_q + i (aligned at the
 * bottom right). A row that sees no key, or only keys whose logits are -inf, has out = 0 and lse = +inf. An attention
 * sink is a logit for a key without a value: out is multiplied by exp(lse) / (exp(lse) + exp(sink[h])), so that +inf
 * gives 0 and -inf changes nothing; lse is returned without it.
 *
 * What lies behind the last key never matters, NaN or not: the rest of a page, pages and slots of `block_table` behind
 * cache_seqlens, entries behind topk_length, and what invalid entries of a list would name are never read.
 *
 * Tensors are fm_tensor of base: shapes as written at each call, any strides of at least 0 except that the elements of
 * a row (the last dimension, of d_qk or d_v) are contiguous. They stay the caller's. d_qk and d_v are multiples of 16
 * from 16 to FM_MLA_DIM_MAX, heads are 1 to FM_MLA_HEADS_MAX. softmax_scale 0 means 1 / sqrt(d_qk). Batches, lengths and
 * lists may be empty.
 *
 * Arithmetic: one order of sums, whatever the ISA level, the number of threads, of heads and of queries in a call, and
 * which pages the keys lie on. Results are equal bit for bit. (They depend on how a plan splits a sequence; see
 * fm_mla_split.)
 *
 *     dot     step after step of 32 consecutive indices, acc = acc + (e + o), from 0; in a step e = fma(a[i], b[i], e)
 *             over its even i and o likewise over its odd i, each from 0: what TDPBF16PS computes; the last step is
 *             filled up with zeros
 *     tokens  come in chunks of FM_MLA_CHUNK, counted from the start of a split (lists: of their valid entries)
 *     x = s * (softmax_scale * log2 e);  m becomes the largest x of a chunk where that is above m + 8, so that p is at
 *             most 2^8;  p = 2^(x - m), a polynomial of degree 6, and 0 below 2^-125;  sum and out are multiplied by
 *             2^(old m - m) when a chunk raises m
 *     sum     p before it is rounded; in a chunk 16 sums over tokens t, t + 16, ..., then halves added
 *     out     p, rounded to BF16 (FP16 for FP16 keys; not at all for F32 keys), times v, as a dot over tokens
 *
 * All of it is f32, rounded to nearest even, subnormals taken and given as zero. Keys of FP8 caches are code times
 * scale, rounded to BF16 (which changes nothing for scales that are powers of two). The caller's floating-point mode
 * does not matter and does not change. NaN follows IEEE 754; which NaN comes out is open.
 *
 * Threads. A context, and a plan, serve one call at a time; any number work side by side. A call runs on the calling
 * thread and up to threads - 1 more of an OpenMP team; a build without OpenMP computes the same on the calling thread.
 *
 * Failure. Arguments are checked before anything is computed, indices in tables included; outputs are untouched when a
 * call fails. Beside the errors named below every function reports FM_ERR_ARG for a null pointer, a struct's wrong
 * `size`, a shape or stride that does not fit (the message names the tensor and what was expected), for h_q that h_kv
 * does not divide, a softmax_scale that is not finite, and for an output whose memory overlaps an input's (from first
 * to last byte, whether or not the gaps would fit); FM_ERR_LIMIT for a size above a limit; FM_ERR_UNSUPPORTED for a
 * dtype that does not fit.
 *
 * What this version computes: all of this on the CPU, at levels ref, avx2, avx512 and amx (BF16 products; those of
 * FP16 and F32 keys stay at avx512). A context takes amx only where the hardware's tiles gave the bits that avx512 gives.
 */
#ifndef FATHOM_MLA_H
#define FATHOM_MLA_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/cpu.h"
#include "fathom/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Of d_qk and d_v: bounds a thread's workspace. */
#define FM_MLA_DIM_MAX 1024
/** Of h_q. */
#define FM_MLA_HEADS_MAX 4096
/** Of lengths, pages, batches and their products with heads, so that none of them overflows. */
#define FM_MLA_EXTENT_MAX ((int64_t)1 << 31)
/** Tokens between two looks at the largest logit; part of the order of sums. */
#define FM_MLA_CHUNK 64
/** A context has a workspace of about 6 MiB for each thread, of which a call touches what it needs. */
#define FM_MLA_THREADS_MAX 1024

typedef enum fm_mla_device {
    FM_MLA_CPU,
} fm_mla_device;

/** Zero-initialise, then set `size` to sizeof(fm_mla_options); fields that are 0 take the default. */
typedef struct fm_mla_options {
    size_t size;
    int threads; /**< at most so many; 0: fm_base_cpu_threads() */
    fm_mla_device device;
    int capped; /**< not 0: run at level `isa_max` at most. To compare levels; FM_ISA does it for a process */
    fm_isa isa_max;
} fm_mla_options;

typedef struct fm_mla_context fm_mla_context;

/** NULL options: all defaults. FM_ERR_ARG: `size`, threads, device or level out of range. FM_ERR_NOMEM. */
FM_API fm_status fm_mla_context_open(const fm_mla_options *options, fm_mla_context **out_context) FM_MUST_USE;
/** NULL is allowed. Not while a call runs. */
FM_API void fm_mla_context_close(fm_mla_context *context);
/** The level that the context's kernels are written for. */
FM_API fm_isa fm_mla_context_isa(const fm_mla_context *context);

/* ---- The cache ---- */

/**
 * How a cache holds a token. Its key has d_qk values of which the first d_v are also its value: the latent, then what
 * the rotary embedding turned. All numbers are little-endian.
 *
 *     form      bytes of a token, per key head                                                    d_qk, d_v
 *     F32       4 d_qk                                                                            any
 *     BF16      2 d_qk                                                                            any
 *     FP16      2 d_qk                                                                            any
 *     FP8       d_v E4M3 codes, ceil(d_v / group) f32 scales, d_qk - d_v BF16                     any; 576, 512 with
 *               value = code * scale of its group of `group` consecutive values                   groups of 128: 656 B
 *     FP8_584   448 E4M3 codes, 64 BF16; and apart from them 7 UE8M0 scales, one for each 64      512, 512
 *               codes, and a byte of padding
 *
 * A page holds `page` tokens one after the other, within a token its key heads one after the other. A page of FP8_584
 * holds the 576 bytes of codes and BF16 of all its tokens, then the 8 bytes of scales of all its tokens, padded to a
 * multiple of 576; it has one key head, and its value is the whole key, rotary values included.
 */
typedef enum fm_mla_form {
    FM_MLA_FORM_F32 = 1,
    FM_MLA_FORM_BF16,
    FM_MLA_FORM_FP16,
    FM_MLA_FORM_FP8,
    FM_MLA_FORM_FP8_584,
} fm_mla_form;

/** Values that share a scale in FP8, at most; and the default. */
#define FM_MLA_GROUP_MAX 128

/**
 * A cache of `blocks` pages. Token t of block k has the *slot* k * page + t. The memory is the caller's, aligned to 4
 * bytes (FP8, F32) or 2 (BF16, FP16).
 */
typedef struct fm_mla_cache {
    fm_mla_form form;
    int page; /**< tokens of a page; 64 is usual */
    int h_kv;
    int d_qk, d_v; /**< d_v <= d_qk */
    int group;     /**< FP8: a multiple of 16 up to FM_MLA_GROUP_MAX, which 0 means. Others: 0 */
    int64_t blocks;
    int64_t block_stride; /**< bytes from page to page, a multiple of 4; 0: fm_mla_cache_page_bytes() */
    void *data;           /**< may be NULL where blocks is 0 */
} fm_mla_cache;

/** Bytes of a page. Looks at all fields but blocks, block_stride and data. FM_ERR_UNSUPPORTED: no such form, or none
 *  with this d_qk and d_v. FM_ERR_ARG: page, h_kv or group. */
FM_API fm_status fm_mla_cache_page_bytes(const fm_mla_cache *cache, size_t *out_bytes) FM_MUST_USE;

/**
 * Writes rows [n, h_kv, d_qk] (F32, BF16 or FP16) into the slots, converting to the cache's form; a slot of -1 skips
 * its row. Values round to nearest even. An FP8 group gets the least power of two that is at least amax / 448 and at
 * least 1e-4 as its scale, amax the largest finite magnitude of its values; NaN stays NaN, infinities become 448 times
 * the scale. FM_ERR_ARG: a slot outside the cache, before anything is written.
 */
FM_API fm_status fm_mla_cache_append(fm_mla_context *context, const fm_mla_cache *cache, const int64_t *slots,
                                     const fm_tensor *rows) FM_MUST_USE;
/** The reverse: fills rows [n, h_kv, d_qk] with the keys that decode would use. A slot of -1 gives zeros. */
FM_API fm_status fm_mla_cache_read(fm_mla_context *context, const fm_mla_cache *cache, const int64_t *slots,
                                   const fm_tensor *rows) FM_MUST_USE;
/** Reads n tokens of one cache and appends them to another of the same h_kv and d_qk, in any form; where either slot is
 *  -1 nothing happens. FM_ERR_ARG: the same memory. */
FM_API fm_status fm_mla_cache_convert(fm_mla_context *context, int64_t n, const fm_mla_cache *from,
                                      const int64_t *from_slots, const fm_mla_cache *to,
                                      const int64_t *to_slots) FM_MUST_USE;

/* ---- Decode ---- */

/** What the calls that share a plan have in common. */
typedef struct fm_mla_shape {
    int batch, s_q, h_q, h_kv, d_v;
    int causal; /**< dense only */
} fm_mla_shape;

/**
 * How long sequences are split so that threads share them: each split attends to its own keys, and the results are
 * merged in order. How a sequence is split changes the last bits of its result.
 *
 * By default all blocks of 64 keys of the batch are shared out evenly among `parts`, so that where a sequence is split
 * depends on the lengths of the others, though never on the number of threads. A batch-invariant plan splits every
 * sequence each FM_MLA_SPLIT_INVARIANT keys, whatever else is there; it costs a few percent.
 */
typedef struct fm_mla_split {
    int batch_invariant;
    int parts; /**< 1 to FM_MLA_PARTS_MAX; 0: one for each 1024 keys that up to 128 rows see, at most 64 */
} fm_mla_split;

#define FM_MLA_PARTS_MAX       4096
#define FM_MLA_SPLIT_INVARIANT 1024

/** Who computes what, and memory for the results of splits. It copies what it is given. */
typedef struct fm_mla_plan fm_mla_plan;

/** For dense decode: cache_seqlens[batch], the keys of each sequence. FM_ERR_ARG: a negative length, parts. */
FM_API fm_status fm_mla_plan_dense(const fm_mla_shape *shape, const int32_t *cache_seqlens,
                                   const fm_mla_split *split, fm_mla_plan **out_plan) FM_MUST_USE;
/**
 * For sparse decode: each query has a list of `topk` entries, of which the first topk_length[i] of sequence i are used
 * (NULL: all), then `extra_topk` entries of a second cache likewise (0: there is none). FM_ERR_ARG: a length that is
 * negative or larger than its list; h_kv other than 1; causal.
 */
FM_API fm_status fm_mla_plan_sparse(const fm_mla_shape *shape, int topk, const int32_t *topk_length,
                                    int extra_topk, const int32_t *extra_topk_length,
                                    const fm_mla_split *split, fm_mla_plan **out_plan) FM_MUST_USE;
/** NULL is allowed. */
FM_API void fm_mla_plan_free(fm_mla_plan *plan);

/** Zero-initialise. */
typedef struct fm_mla_decode_args {
    const fm_tensor *q;        /**< [b, s_q, h_q, d_qk]: BF16; FP16 or F32 for caches of that form */
    const fm_mla_cache *cache; /**< its h_kv and d_v are the plan's */
    float softmax_scale;       /**< 0: 1 / sqrt(d_qk) */

    /* dense: */
    const int32_t *block_table; /**< [b, max_blocks]: the page of each `page` keys of a sequence */
    int64_t max_blocks;

    /* sparse: [b, s_q, topk] slots; what is no slot of the cache (-1, or anything else) is skipped. A slot that comes
       twice counts twice. */
    const int32_t *indices;
    const fm_mla_cache *extra_cache; /**< of the same d_qk and d_v and of a form with the same dtype of q */
    const int32_t *extra_indices;    /**< [b, s_q, extra_topk] */

    const float *sink;    /**< [h_q] or NULL */
    const fm_tensor *out; /**< [b, s_q, h_q, d_v], of q's dtype or F32 */
    const fm_tensor *lse; /**< [b, h_q, s_q] F32, any strides; or NULL */
} fm_mla_decode_args;

/** FM_ERR_ARG: shapes other than the plan's, a plan of the other kind, a length beyond max_blocks pages, a page number
 *  of a used slot of block_table outside the cache. */
FM_API fm_status fm_mla_decode(fm_mla_context *context, fm_mla_plan *plan,
                               const fm_mla_decode_args *args) FM_MUST_USE;

/* ---- Sparse prefill ---- */

/** Zero-initialise. A list for each query, all of one call in parallel, none split. */
typedef struct fm_mla_sparse_args {
    const fm_tensor *q; /**< [b, s_q, h_q, d_qk]: as for decode */
    /** A page for each sequence: a tensor [b, s_kv, d_qk] is a cache of b blocks of s_kv tokens. h_kv is 1. */
    const fm_mla_cache *kv;
    int topk;
    const int32_t
        *indices; /**< [b, s_q, topk]: tokens of the sequence; others than 0 ... s_kv - 1 are skipped */
    const int32_t *topk_length; /**< [b, s_q], or NULL: all */
    float softmax_scale;
    const float *sink;           /**< [h_q] or NULL */
    const fm_tensor *out;        /**< [b, s_q, h_q, d_v], of q's dtype or F32 */
    const fm_tensor *max_logits; /**< [b, s_q, h_q] F32, any strides; or NULL. No key: -inf */
    const fm_tensor *lse;        /**< likewise. No key: +inf */
} fm_mla_sparse_args;

/** FM_ERR_ARG: a topk_length that is negative or above topk. */
FM_API fm_status fm_mla_sparse_prefill(fm_mla_context *context, const fm_mla_sparse_args *args) FM_MUST_USE;

/* ---- Prefill and training ---- */

/**
 * Sequences one after the other: sequence i has the queries cu_seqlens_q[i] ... cu_seqlens_q[i + 1] - 1 and the keys
 * cu_seqlens_k[i] ... cu_seqlens_k[i + 1] - 1. Zero-initialise.
 */
typedef struct fm_mla_prefill_args {
    const fm_tensor *q; /**< [total_q, h_q, d_qk]: F32, BF16 or FP16, as are k and v */
    const fm_tensor *k; /**< [total_k, h_kv, d_qk] */
    const fm_tensor *v; /**< [total_k, h_kv, d_v]; may lie within k */
    int batch;
    const int32_t *cu_seqlens_q; /**< [batch + 1], from 0 to total_q, never falling */
    const int32_t *cu_seqlens_k; /**< [batch + 1], from 0 to total_k */
    int causal;
    float softmax_scale;
    const fm_tensor *out; /**< [total_q, h_q, d_v], of q's dtype or F32 */
    const fm_tensor *lse; /**< [total_q, h_q] F32, any strides; or NULL */
} fm_mla_prefill_args;

/** FM_ERR_ARG: cu_seqlens. FM_ERR_NOMEM: for 8 bytes a sequence. */
FM_API fm_status fm_mla_prefill_forward(fm_mla_context *context, const fm_mla_prefill_args *args) FM_MUST_USE;

/**
 * The gradients of a scalar by q, k and v, from that by out (d_out [total_q, h_q, d_v] of q's dtype): dq, dk and dv have
 * the shapes of q, k and v, and are of q's dtype or F32. `out` and `lse` are what forward gave. Probabilities and
 * their gradients are rounded as in forward before they are multiplied. The same bits every time: every sum has one
 * order. FM_ERR_NOMEM: for dq of a group of query heads in f32, for each thread.
 */
FM_API fm_status fm_mla_prefill_backward(fm_mla_context *context, const fm_mla_prefill_args *args,
                                         const fm_tensor *d_out, const fm_tensor *dq, const fm_tensor *dk,
                                         const fm_tensor *dv) FM_MUST_USE;

#ifdef __cplusplus
}
#endif
#endif
