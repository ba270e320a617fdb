/* What bench_ep and its peer share: ranks that are threads, each with its data. */
#ifndef BENCH_EP_H
#define BENCH_EP_H

#include <stdatomic.h>

#include "bench_ep_shape.h"

typedef struct ep_bench_rank {
    fm_ep_group *group;
    fm_ep_handle *handle;
    int32_t *topk_idx; /**< [tokens][topk] */
    uint8_t *x;        /**< dispatch: e4m3 [tokens][hidden] */
    float *x_scales;   /**< [tokens][scales] */
    uint8_t *recv_x;   /**< [rows_max][hidden] */
    float *recv_scales;
    fm_bf16 *y;                /**< combine: [rows_max][hidden] */
    fm_bf16 *out;              /**< [tokens][hidden] */
    uint8_t *packed, *arrived; /**< the peer's: what it sends, what it got */
    float *packed_scales;
    int packed_begin[EP_BENCH_RANKS_MAX + 1]; /**< rows packed for each rank */
} ep_bench_rank;

typedef struct ep_bench {
    int ranks, tokens;
    int rows; /**< (token, rank) pairs of all ranks */
    ep_bench_rank rank[EP_BENCH_RANKS_MAX];
    _Atomic unsigned peer_barrier;
} ep_bench;

/** What a user without ep would write: rows packed by destination, exchanged as MPI_Alltoallv does it at its best (each
 * receiver copies its block once from the sender's memory), here among threads, so that no process switches add to it. */
fm_status ep_bench_peer_dispatch(ep_bench *bench, int rank);
fm_status ep_bench_peer_combine(ep_bench *bench, int rank);

#endif
