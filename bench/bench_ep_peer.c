// Pack, all-to-all, reduce: the peer of ep.
#include <string.h>

#include "bench_ep.h"
#include "fathom/clock.h"

/** Every rank has arrived `round` times. */
static fm_status meet(ep_bench *bench)
{
    unsigned ranks = (unsigned)bench->ranks;
    unsigned target = (atomic_fetch_add(&bench->peer_barrier, 1) / ranks + 1) * ranks;
    fm_wait wait = fm_base_wait_begin(60000);
    while ((int)(atomic_load(&bench->peer_barrier) - target) < 0)
        FM_TRY(fm_base_wait_step(&wait));
    return FM_OK;
}

static int goes_to(const ep_bench *bench, const int32_t *choice, int rank)
{
    for (int k = 0; k < EP_BENCH_TOPK; k++)
        if (choice[k] / (EP_BENCH_EXPERTS / bench->ranks) == rank)
            return 1;
    return 0;
}

fm_status ep_bench_peer_dispatch(ep_bench *bench, int rank)
{
    ep_bench_rank *self = &bench->rank[rank];
    int packed = 0;
    for (int to = 0; to < bench->ranks; to++) {
        self->packed_begin[to] = packed;
        for (size_t t = 0; t < (size_t)bench->tokens; t++)
            if (goes_to(bench, self->topk_idx + t * EP_BENCH_TOPK, to)) {
                memcpy(self->packed + (size_t)packed * EP_BENCH_HIDDEN, self->x + t * EP_BENCH_HIDDEN,
                       EP_BENCH_HIDDEN);
                memcpy(self->packed_scales + (size_t)packed * EP_BENCH_SCALES,
                       self->x_scales + t * EP_BENCH_SCALES, EP_BENCH_SCALES * sizeof(float));
                packed++;
            }
    }
    self->packed_begin[bench->ranks] = packed;
    FM_TRY(meet(bench));
    size_t at = 0;
    for (int from = 0; from < bench->ranks; from++) {
        const ep_bench_rank *other = &bench->rank[from];
        size_t first = (size_t)other->packed_begin[rank],
               rows = (size_t)other->packed_begin[rank + 1] - first;
        memcpy(self->recv_x + at * EP_BENCH_HIDDEN, other->packed + first * EP_BENCH_HIDDEN,
               rows * EP_BENCH_HIDDEN);
        memcpy(self->recv_scales + at * EP_BENCH_SCALES, other->packed_scales + first * EP_BENCH_SCALES,
               rows * EP_BENCH_SCALES * sizeof(float));
        at += rows;
    }
    return meet(bench);
}

fm_status ep_bench_peer_combine(ep_bench *bench, int rank)
{
    ep_bench_rank *self = &bench->rank[rank];
    fm_bf16 *arrived = (fm_bf16 *)(void *)self->arrived;
    size_t at = 0, begin[EP_BENCH_RANKS_MAX];
    FM_TRY(meet(bench)); // rows lie by source already: nothing to pack
    for (int from = 0; from < bench->ranks; from++) {
        const fm_ep_received *other = fm_ep_handle_received(bench->rank[from].handle);
        size_t first = (size_t)other->source_begin[rank],
               rows = (size_t)other->source_begin[rank + 1] - first;
        memcpy(arrived + at * EP_BENCH_HIDDEN, bench->rank[from].y + first * EP_BENCH_HIDDEN,
               rows * EP_BENCH_HIDDEN * sizeof *arrived);
        begin[from] = at;
        at += rows;
    }
    int local = EP_BENCH_EXPERTS / bench->ranks;
    for (size_t t = 0; t < (size_t)bench->tokens; t++) {
        float sum[EP_BENCH_HIDDEN];
        int done[EP_BENCH_RANKS_MAX] = {0}, is_first = 1;
        for (int k = 0; k < EP_BENCH_TOPK; k++) {
            int owner = self->topk_idx[t * EP_BENCH_TOPK + (size_t)k] / local;
            if (done[owner]++)
                continue;
            ep_bench_sum_row(arrived + begin[owner]++ * EP_BENCH_HIDDEN, is_first, sum);
            is_first = 0;
        }
        fm_base_f32_to_bf16(sum, EP_BENCH_HIDDEN, self->out + t * EP_BENCH_HIDDEN);
    }
    return meet(bench);
}
