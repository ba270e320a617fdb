// Dispatch and combine between threads, with the shapes of DeepSeek-V3: hidden 7168, 8 of 256 experts, FP8 out, BF16 back.
#include <pthread.h>
#include <string.h>

#include "bench_ep.h"
#include "fathom/clock.h"
#include "fathom/mem.h"
#include "fathom/rng.h"

typedef fm_status (*rank_job)(ep_bench *bench, int rank);

/** The ranks' threads live from set-up to teardown; each job is a generation. Rank 0 is the harness's own thread. */
typedef struct ep_team {
    ep_bench bench;
    const ep_shape *shape;
    rank_job job;
    int rounds; /**< of the job */
    _Atomic unsigned generation, finished;
    _Atomic int failed;
    int started;
    pthread_t thread[EP_BENCH_RANKS_MAX];
    fm_ep_world *world;
} ep_team;

typedef struct ep_member {
    ep_team *team;
    int rank;
} ep_member;

static void do_job(ep_team *team, int rank)
{
    for (int round = 0; team->job && round < team->rounds; round++)
        if (team->job(&team->bench, rank) < 0)
            atomic_store(&team->failed, 1);
}

static void *serve(void *argument)
{
    ep_member self = *(ep_member *)argument;
    fm_base_mem_free(argument);
    for (unsigned seen = 0;;) {
        fm_wait wait = fm_base_wait_begin(-1);
        while (atomic_load(&self.team->generation) == seen)
            if (fm_base_wait_step(&wait) < 0) // it has no deadline
                return NULL;
        seen++;
        if (!self.team->job)
            return NULL;
        do_job(self.team, self.rank);
        atomic_fetch_add(&self.team->finished, 1);
    }
}

static fm_status run_job(ep_team *team, rank_job job, int rounds)
{
    team->job = job;
    team->rounds = rounds;
    atomic_store(&team->finished, 0);
    atomic_fetch_add(&team->generation, 1);
    do_job(team, 0);
    fm_wait wait = fm_base_wait_begin(-1);
    while (atomic_load(&team->finished) < (unsigned)team->started)
        FM_TRY(fm_base_wait_step(&wait));
    return atomic_load(&team->failed) ? fm_base_error_set(FM_ERR_INTERNAL, "a rank failed") : FM_OK;
}

/* ---- the jobs ---- */

static fm_status dispatch(ep_bench *bench, int rank)
{
    ep_bench_rank *self = &bench->rank[rank];
    fm_ep_dispatch arguments = {.size = sizeof arguments,
                                .tokens = bench->tokens,
                                .topk = EP_BENCH_TOPK,
                                .topk_idx = self->topk_idx,
                                .x_format = FM_EP_FP8_F32,
                                .recv_format = FM_EP_FP8_F32,
                                .x = self->x,
                                .x_scales = self->x_scales,
                                .recv_x = self->recv_x,
                                .recv_scales = self->recv_scales,
                                .recv_rows_max = fm_ep_handle_rows_max(self->handle)};
    return fm_ep_dispatch_run(self->group, &arguments, self->handle);
}

static fm_status combine(ep_bench *bench, int rank)
{
    ep_bench_rank *self = &bench->rank[rank];
    fm_ep_combine arguments = {.size = sizeof arguments, .x = self->y, .out = self->out};
    return fm_ep_combine_run(self->group, &arguments, self->handle);
}

static fm_status play_round(ep_bench *bench, int rank)
{
    FM_TRY(dispatch(bench, rank));
    return combine(bench, rank);
}

static fm_status play_peer_round(ep_bench *bench, int rank)
{
    FM_TRY(ep_bench_peer_dispatch(bench, rank));
    return ep_bench_peer_combine(bench, rank);
}

static fm_status join(ep_bench *bench, int rank)
{
    // The bench is the first member of its team.
    ep_team *mine = (ep_team *)(void *)bench;
    ep_bench_rank *self = &bench->rank[rank];
    fm_ep_options options = {.size = sizeof options,
                             .hidden = EP_BENCH_HIDDEN,
                             .experts = EP_BENCH_EXPERTS,
                             .topk_max = EP_BENCH_TOPK,
                             .tokens_max = bench->tokens};
    FM_TRY(fm_ep_group_create(mine->world, rank, &options, &self->group));
    FM_TRY(fm_ep_handle_create(self->group, FM_EP_PLAIN, 1, &self->handle));
    size_t tokens = (size_t)bench->tokens, rows = (size_t)fm_ep_handle_rows_max(self->handle);
    self->topk_idx = fm_base_mem_zalloc(tokens * EP_BENCH_TOPK, sizeof *self->topk_idx);
    self->x = fm_bench_alloc(tokens * EP_BENCH_HIDDEN);
    self->x_scales = fm_bench_alloc(tokens * EP_BENCH_SCALES * sizeof(float));
    self->recv_x = fm_bench_alloc(rows * EP_BENCH_HIDDEN);
    self->recv_scales = fm_bench_alloc(rows * EP_BENCH_SCALES * sizeof(float));
    self->packed = fm_bench_alloc(rows * EP_BENCH_HIDDEN);
    self->packed_scales = fm_bench_alloc(rows * EP_BENCH_SCALES * sizeof(float));
    self->y = fm_bench_alloc(rows * EP_BENCH_HIDDEN * sizeof(fm_bf16));
    self->arrived = fm_bench_alloc(rows * EP_BENCH_HIDDEN * sizeof(fm_bf16));
    self->out = fm_bench_alloc(tokens * EP_BENCH_HIDDEN * sizeof(fm_bf16));
    if (!self->topk_idx || !self->x || !self->x_scales || !self->recv_x || !self->recv_scales ||
        !self->packed || !self->packed_scales || !self->y || !self->arrived || !self->out)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %d tokens", bench->tokens);
    fm_rng rng = fm_base_rng_begin(1, (uint64_t)rank);
    int deck[EP_BENCH_EXPERTS];
    for (int e = 0; e < EP_BENCH_EXPERTS; e++)
        deck[e] = e;
    for (size_t t = 0; t < tokens; t++)
        for (size_t k = 0; k < EP_BENCH_TOPK; k++) { // distinct experts: a partial shuffle
            size_t other = k + (size_t)fm_base_rng_below(&rng, EP_BENCH_EXPERTS - k);
            int expert = deck[other];
            deck[other] = deck[k];
            deck[k] = self->topk_idx[t * EP_BENCH_TOPK + k] = expert;
        }
    fm_bench_fill((uint64_t)rank, self->x, tokens * EP_BENCH_HIDDEN);
    fm_bench_fill_floats((uint64_t)rank, self->x_scales, tokens * EP_BENCH_SCALES);
    fm_bench_fill((uint64_t)rank + 100, self->y, rows * EP_BENCH_HIDDEN * sizeof(fm_bf16));
    for (size_t i = 0; i < rows * EP_BENCH_HIDDEN; i++)
        self->y[i] = (fm_bf16)((self->y[i] & 0x8FFF) | 0x3000); // numbers around 1, no NaN
    return dispatch(bench, rank);                               // combine needs its handle
}

static void leave(ep_bench *bench)
{
    for (int rank = 0; rank < bench->ranks; rank++) {
        ep_bench_rank *r = &bench->rank[rank];
        void *const blocks[] = {r->topk_idx,      r->x, r->x_scales, r->recv_x, r->recv_scales, r->packed,
                                r->packed_scales, r->y, r->arrived,  r->out};
        for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
            fm_base_mem_free(blocks[i]);
        fm_ep_handle_free(r->handle);
        fm_ep_group_free(r->group);
    }
}

/* ---- the harness's callbacks ---- */

static void teardown(void *state)
{
    ep_team *team = state;
    if (!team)
        return;
    team->job = NULL;
    atomic_fetch_add(&team->generation, 1);
    for (int i = 1; i <= team->started; i++)
        pthread_join(team->thread[i], NULL);
    leave(&team->bench);
    fm_ep_world_free(team->world);
    fm_base_mem_free(team);
}

static fm_status setup(const fm_bench_setup *given, void **out_state)
{
    const ep_shape *shape = given->argument;
    ep_team *team = fm_base_mem_zalloc(1, sizeof *team);
    if (!team)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the ranks");
    *out_state = team;
    team->bench.ranks = shape->ranks;
    team->bench.tokens = shape->tokens;
    FM_TRY(fm_ep_world_create(shape->ranks, &team->world));
    for (int rank = 1; rank < shape->ranks; rank++) {
        ep_member *member = fm_base_mem_alloc(sizeof *member);
        if (!member)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for a rank");
        member->team = team;
        member->rank = rank;
        if (pthread_create(&team->thread[rank], NULL, serve, member) != 0) {
            fm_base_mem_free(member);
            return fm_base_error_set(FM_ERR_UNAVAILABLE, "no thread for rank %d", rank);
        }
        team->started++;
    }
    team->shape = shape;
    return run_job(team, join, 1);
}

static fm_status run_work(ep_team *team, rank_job dispatch_job, rank_job combine_job, rank_job round_job)
{
    const ep_shape *shape = team->shape;
    return run_job(team,
                   shape->work == EP_DISPATCH  ? dispatch_job
                   : shape->work == EP_COMBINE ? combine_job
                                               : round_job,
                   shape->rounds);
}

static fm_status run_ours(void *state, int threads)
{
    (void)threads;
    return run_work(state, dispatch, combine, play_round);
}

static fm_status run_peer(void *state, int threads)
{
    (void)threads;
    return run_work(state, ep_bench_peer_dispatch, ep_bench_peer_combine, play_peer_round);
}

static uint64_t hash(const void *state)
{
    const ep_team *team = state;
    const ep_bench *bench = &team->bench;
    uint64_t hash = 0;
    for (int rank = 0; rank < bench->ranks; rank++) {
        const ep_bench_rank *self = &bench->rank[rank];
        size_t rows = (size_t)fm_ep_handle_received(self->handle)->rows, tokens = (size_t)bench->tokens;
        if (team->shape->work & EP_COMBINE) {
            hash = fm_bench_hash(hash, self->out, tokens * EP_BENCH_HIDDEN * sizeof(fm_bf16));
        } else {
            hash = fm_bench_hash(hash, self->recv_x, rows * EP_BENCH_HIDDEN);
            hash = fm_bench_hash(hash, self->recv_scales, rows * EP_BENCH_SCALES * sizeof(float));
        }
    }
    return hash;
}

static fm_status cases(fm_bench *bench)
{
    return ep_bench_add_shapes(
        bench, "",
        &(fm_bench_case){.setup = setup,
                         .run = run_ours,
                         .hash = hash,
                         .teardown = teardown,
                         .peers = {{.name = "pack+alltoallv", .run = run_peer, .same_result = 1}}});
}

int main(int argc, char **argv)
{
    static const fm_bench_program program = {"ep", "Measures lib/ep: dispatch and combine between threads",
                                             cases};
    return fm_bench_main(&program, argc, argv);
}
