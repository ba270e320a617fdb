/**
 * @file gemm_indexer.h
 * Scores of an indexer (DeepSeek's sparse attention): which keys a query should attend to.
 *
 *     score[i][j] = key_scale[j] * sum over heads of weights[i][head] * relu(q[i][head] . k[j])
 *
 * for first[i] <= j < end[i]. Either as a matrix, or only the best of each query: then no buffer of queries x keys
 * exists at any time.
 *
 * Arithmetic: q . k is a chain of steps as in gemm.h, of codes; relu(x) is 0 for x < 0, else x, so that a NaN stays one;
 * sum = fma(weight, relu, sum) over heads 0, 1, ... from 0; then times key_scale. All in f32, as there. A query's
 * scale is a factor that the caller puts into its weights. Results do not depend on the level, the threads or on which
 * queries come together.
 *
 * Threads and failure are as in gemm.h. FM_ERR_NOMEM: no memory for lists of candidates.
 */
#ifndef FATHOM_GEMM_INDEXER_H
#define FATHOM_GEMM_INDEXER_H

#include "fathom/gemm.h"

#ifdef __cplusplus
extern "C" {
#endif

#define FM_GEMM_INDEX_HEADS_MAX 256

typedef struct fm_gemm_index_queries {
    fm_dtype dtype; /**< of queries and keys: FM_DTYPE_F8_E4M3 or FM_DTYPE_BF16 */
    int64_t count;
    int heads;
    int64_t d;
    const void *data; /**< element (i, head, x) is number i * stride + head * d + x */
    int64_t stride;
    const float *weights; /**< that of (i, head) is number i * weight_stride + head */
    int64_t weight_stride;
    const int32_t *first; /**< [count]; NULL: 0 */
    const int32_t *end;   /**< [count]; at most the keys that there are; below first counts as first */
} fm_gemm_index_queries;

/** Keys in one matrix, or in the blocks of a paged cache. */
typedef struct fm_gemm_index_keys {
    int64_t count;    /**< paged: at most so many of each request */
    const void *data; /**< element (j, x) is number j * stride + x */
    int64_t stride;
    const float *scales; /**< [count]; NULL: ones */
    /** Paged, if not NULL: query i belongs to request r = i / queries_per_request, and its key j is number j %
     *  block_size in block block_table[r * table_stride + j / block_size]. A block is block_size * d codes of E4M3, then
     *  block_size f32 scales; block b begins b * block_bytes behind data, aligned to 4. `stride` and `scales` above do not
     *  count. Entries of a request outside of what its queries see, from the least `first` to the greatest `end`, are not
     *  looked at. */
    const int32_t *block_table;
    int64_t table_stride;
    int block_size;      /**< a multiple of 32 */
    int64_t blocks;      /**< that there are */
    int64_t block_bytes; /**< at least block_size * (d + 4) */
    int queries_per_request;
} fm_gemm_index_keys;

/**
 * score[i][j] to out[i * stride + j], with a stride of at least the keys' count. Elsewhere in a row `clean` not 0 puts
 * minus infinity, and 0 leaves what is there. FM_ERR_ARG: a stride or size, an `end` beyond the keys, a `first` below 0, a
 * block that is not there; FM_ERR_UNSUPPORTED: dtype, paged keys in BF16; FM_ERR_LIMIT: heads.
 */
FM_API fm_status fm_gemm_index_logits(fm_gemm_context *context, const fm_gemm_index_queries *queries,
                                      const fm_gemm_index_keys *keys, float *out, int64_t stride,
                                      int clean) FM_MUST_USE;

/**
 * The topk best keys of each query to out_idx[i * topk ...], by falling score, equal ones (0 and -0 are not) by rising
 * number; -1 after the last when there are fewer. NaN and minus infinity are never chosen. `out_scores`, [count, topk],
 * may be NULL; it has minus infinity where the index is -1. Fails as fm_gemm_index_logits() does.
 */
FM_API fm_status fm_gemm_index_topk(fm_gemm_context *context, const fm_gemm_index_queries *queries,
                                    const fm_gemm_index_keys *keys, int topk, int32_t *out_idx,
                                    float *out_scores) FM_MUST_USE;

#ifdef __cplusplus
}
#endif
#endif
