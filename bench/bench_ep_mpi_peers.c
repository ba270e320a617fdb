// What a user of MPI would write in place of ep: pack and all-to-all, or one-sided puts and gets.
#include <string.h>

#include "bench_ep_mpi.h"

static MPI_Datatype make_row(int bytes)
{
    MPI_Datatype row;
    MPI_Type_contiguous(bytes, MPI_BYTE, &row);
    MPI_Type_commit(&row);
    return row;
}

void ep_mpi_peers_create(ep_mpi_rank *self)
{
    self->row = make_row(EP_BENCH_HIDDEN);
    self->scale_row = make_row(EP_BENCH_SCALES * (int)sizeof(float));
    self->choice_row = make_row(EP_BENCH_TOPK * (int)sizeof(float));
    self->bf16_row = make_row(EP_BENCH_HIDDEN * (int)sizeof(fm_bf16));
    size_t rows = (size_t)self->ranks * (size_t)self->tokens;
    // Allocated by MPI, so that it can place them where its peers reach them directly.
    MPI_Win_allocate((MPI_Aint)(rows * (EP_BENCH_HIDDEN + EP_BENCH_SCALES * sizeof(float))), 1, MPI_INFO_NULL,
                     self->comm, &self->recv_x, &self->window);
    self->recv_scales = (float *)(void *)(self->recv_x + rows * EP_BENCH_HIDDEN);
    MPI_Win_create(self->y, (MPI_Aint)(rows * EP_BENCH_HIDDEN * sizeof *self->y), 1, MPI_INFO_NULL,
                   self->comm, &self->back_window);
}

void ep_mpi_peers_free(ep_mpi_rank *self)
{
    MPI_Win_free(&self->window);
    MPI_Win_free(&self->back_window);
    MPI_Type_free(&self->row);
    MPI_Type_free(&self->scale_row);
    MPI_Type_free(&self->choice_row);
    MPI_Type_free(&self->bf16_row);
}

static fm_status check(int error)
{
    return error == MPI_SUCCESS ? FM_OK : fm_base_error_set(FM_ERR_INTERNAL, "MPI error %d", error);
}

/** Which ranks a token goes to. */
static unsigned ranks_of(const ep_mpi_rank *self, const int32_t *choice)
{
    unsigned ranks = 0;
    for (int k = 0; k < EP_BENCH_TOPK; k++)
        ranks |= 1U << choice[k] / (EP_BENCH_EXPERTS / self->ranks);
    return ranks;
}

static void begin_of(const int *count, int ranks, int *begin)
{
    begin[0] = 0;
    for (int r = 1; r < ranks; r++)
        begin[r] = begin[r - 1] + count[r - 1];
}

/** Counts rows for each rank, and exchanges the counts. */
static fm_status exchange_counts(ep_mpi_rank *self)
{
    memset(self->send_count, 0, sizeof self->send_count);
    for (size_t t = 0; t < (size_t)self->tokens; t++) {
        unsigned ranks = ranks_of(self, self->topk_idx + t * EP_BENCH_TOPK);
        for (int r = 0; r < self->ranks; r++)
            self->send_count[r] += (int)(ranks >> r & 1);
    }
    FM_TRY(check(MPI_Alltoall(self->send_count, 1, MPI_INT, self->recv_count, 1, MPI_INT, self->comm)));
    begin_of(self->send_count, self->ranks, self->send_begin);
    begin_of(self->recv_count, self->ranks, self->recv_begin);
    return FM_OK;
}

static fm_status exchange(ep_mpi_rank *self, const void *from, void *to, MPI_Datatype row)
{
    return check(MPI_Alltoallv(from, self->send_count, self->send_begin, row, to, self->recv_count,
                               self->recv_begin, row, self->comm));
}

fm_status ep_mpi_alltoallv_dispatch(ep_mpi_rank *self)
{
    FM_TRY(exchange_counts(self));
    int next[EP_BENCH_RANKS_MAX];
    memcpy(next, self->send_begin, sizeof next);
    // Token by token, so that a row is read from memory once, however many ranks it goes to.
    for (size_t t = 0; t < (size_t)self->tokens; t++) {
        unsigned ranks = ranks_of(self, self->topk_idx + t * EP_BENCH_TOPK);
        for (int r = 0; r < self->ranks; r++) {
            if (!(ranks >> r & 1))
                continue;
            size_t at = (size_t)next[r]++;
            memcpy(self->packed + at * EP_BENCH_HIDDEN, self->x + t * EP_BENCH_HIDDEN, EP_BENCH_HIDDEN);
            memcpy(self->packed_scales + at * EP_BENCH_SCALES, self->x_scales + t * EP_BENCH_SCALES,
                   EP_BENCH_SCALES * sizeof(float));
            memcpy(self->packed_idx + at * EP_BENCH_TOPK, self->topk_idx + t * EP_BENCH_TOPK,
                   EP_BENCH_TOPK * sizeof(int32_t));
            memcpy(self->packed_weights + at * EP_BENCH_TOPK, self->topk_weights + t * EP_BENCH_TOPK,
                   EP_BENCH_TOPK * sizeof(float));
        }
    }
    FM_TRY(exchange(self, self->packed, self->recv_x, self->row));
    FM_TRY(exchange(self, self->packed_scales, self->recv_scales, self->scale_row));
    FM_TRY(exchange(self, self->packed_idx, self->recv_idx, self->choice_row));
    return exchange(self, self->packed_weights, self->recv_weights, self->choice_row);
}

fm_status ep_mpi_raw_dispatch(ep_mpi_rank *self)
{
    return exchange(self, self->packed, self->recv_x, self->row);
}

fm_status ep_mpi_put_dispatch(ep_mpi_rank *self)
{
    FM_TRY(exchange_counts(self));
    // Where this rank's rows begin at each receiver.
    int next[EP_BENCH_RANKS_MAX];
    FM_TRY(check(MPI_Alltoall(self->recv_begin, 1, MPI_INT, next, 1, MPI_INT, self->comm)));
    MPI_Aint scales_at = (MPI_Aint)((size_t)self->ranks * (size_t)self->tokens * EP_BENCH_HIDDEN);
    FM_TRY(check(MPI_Win_fence(MPI_MODE_NOPRECEDE, self->window)));
    for (size_t t = 0; t < (size_t)self->tokens; t++) {
        unsigned ranks = ranks_of(self, self->topk_idx + t * EP_BENCH_TOPK);
        for (int r = 0; r < self->ranks; r++) {
            if (!(ranks >> r & 1))
                continue;
            MPI_Aint at = next[r]++, scale_bytes = EP_BENCH_SCALES * (MPI_Aint)sizeof(float);
            FM_TRY(check(MPI_Put(self->x + t * EP_BENCH_HIDDEN, 1, self->row, r, at * EP_BENCH_HIDDEN, 1,
                                 self->row, self->window)));
            FM_TRY(check(MPI_Put(self->x_scales + t * EP_BENCH_SCALES, 1, self->scale_row, r,
                                 scales_at + at * scale_bytes, 1, self->scale_row, self->window)));
        }
    }
    return check(MPI_Win_fence(MPI_MODE_NOSTORE | MPI_MODE_NOSUCCEED, self->window));
}

/** Sums what has arrived, by rank in the order of each token's lanes. Rows to a rank came back in the order they went. */
static void reduce(ep_mpi_rank *self)
{
    int next[EP_BENCH_RANKS_MAX], local = EP_BENCH_EXPERTS / self->ranks;
    memcpy(next, self->send_begin, sizeof next);
    for (size_t t = 0; t < (size_t)self->tokens; t++) {
        float sum[EP_BENCH_HIDDEN];
        unsigned done = 0;
        for (size_t k = 0; k < EP_BENCH_TOPK; k++) {
            int owner = self->topk_idx[t * EP_BENCH_TOPK + k] / local;
            if (done >> owner & 1)
                continue;
            ep_bench_sum_row(self->arrived + (size_t)next[owner]++ * EP_BENCH_HIDDEN, done == 0, sum);
            done |= 1U << owner;
        }
        fm_base_f32_to_bf16(sum, EP_BENCH_HIDDEN, self->out + t * EP_BENCH_HIDDEN);
    }
}

fm_status ep_mpi_raw_combine(ep_mpi_rank *self)
{
    return check(MPI_Alltoallv(self->y, self->recv_count, self->recv_begin, self->bf16_row, self->arrived,
                               self->send_count, self->send_begin, self->bf16_row, self->comm));
}

fm_status ep_mpi_alltoallv_combine(ep_mpi_rank *self)
{
    FM_TRY(ep_mpi_raw_combine(self));
    reduce(self);
    return FM_OK;
}

fm_status ep_mpi_get_combine(ep_mpi_rank *self)
{
    int theirs[EP_BENCH_RANKS_MAX]; // where each holder keeps this rank's rows
    FM_TRY(check(MPI_Alltoall(self->recv_begin, 1, MPI_INT, theirs, 1, MPI_INT, self->comm)));
    FM_TRY(check(MPI_Win_fence(MPI_MODE_NOPRECEDE, self->back_window)));
    for (int r = 0; r < self->ranks; r++)
        FM_TRY(check(MPI_Get(self->arrived + (size_t)self->send_begin[r] * EP_BENCH_HIDDEN,
                             self->send_count[r], self->bf16_row, r,
                             (MPI_Aint)theirs[r] * EP_BENCH_HIDDEN * (MPI_Aint)sizeof(fm_bf16),
                             self->send_count[r], self->bf16_row, self->back_window)));
    FM_TRY(check(MPI_Win_fence(MPI_MODE_NOSUCCEED, self->back_window)));
    reduce(self);
    return FM_OK;
}
