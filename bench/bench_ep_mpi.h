/* What bench_ep_mpi and its peers share: one process's data. */
#ifndef BENCH_EP_MPI_H
#define BENCH_EP_MPI_H

#include <mpi.h>

#include "bench_ep_shape.h"

typedef struct ep_mpi_rank {
    MPI_Comm comm; /**< the ranks of the case */
    int ranks, rank, tokens;
    fm_ep_world *world;
    fm_ep_group *group;
    fm_ep_handle *handle;
    int32_t *topk_idx;   /**< [tokens][topk] */
    float *topk_weights; /**< [tokens][topk] */
    uint8_t *x;          /**< dispatch: e4m3 [tokens][hidden] */
    float *x_scales;     /**< [tokens][scales] */
    fm_bf16 *y;          /**< combine: [rows][hidden] */
    uint8_t *recv_x;     /**< [rows_max][hidden] */
    float *recv_scales;
    fm_bf16 *out; /**< [tokens][hidden] */
    /* The peers' own. */
    uint8_t *packed;
    float *packed_scales, *packed_weights, *recv_weights;
    int32_t *packed_idx, *recv_idx;
    fm_bf16 *arrived; /**< [rows_max][hidden] */
    int send_count[EP_BENCH_RANKS_MAX], send_begin[EP_BENCH_RANKS_MAX];
    int recv_count[EP_BENCH_RANKS_MAX], recv_begin[EP_BENCH_RANKS_MAX];
    MPI_Win window;      /**< over recv_x, then recv_scales */
    MPI_Win back_window; /**< over arrived */
    MPI_Datatype row, scale_row, choice_row, bf16_row;
} ep_mpi_rank;

void ep_mpi_peers_create(ep_mpi_rank *self);
void ep_mpi_peers_free(ep_mpi_rank *self);

/** Counts exchanged, rows packed by destination, MPI_Alltoallv of rows, scales, choices and weights; they arrive in their
 * final order, so nothing is unpacked. */
fm_status ep_mpi_alltoallv_dispatch(ep_mpi_rank *self);
/** Rows lie by source already: MPI_Alltoallv back, then the sum. */
fm_status ep_mpi_alltoallv_combine(ep_mpi_rank *self);
/** The bare MPI_Alltoallv of the rows of the above, packed already. */
fm_status ep_mpi_raw_dispatch(ep_mpi_rank *self);
fm_status ep_mpi_raw_combine(ep_mpi_rank *self);
/** MPI_Put of each row from where it lies to its final place, between fences. */
fm_status ep_mpi_put_dispatch(ep_mpi_rank *self);
/** MPI_Get of the rows, then the sum. */
fm_status ep_mpi_get_combine(ep_mpi_rank *self);

#endif
