// Dispatch and combine between processes, against MPI itself: hidden 7168, 8 of 256 experts, FP8 out, BF16 back. Started
// without mpirun it starts itself under it, with 4 ranks; cases of 2 leave the others asleep.
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench_ep_mpi.h"
#include "fathom/clock.h"
#include "fathom/mem.h"
#include "fathom/rng.h"

typedef enum ep_job { JOB_END, JOB_JOIN, JOB_LEAVE, JOB_OURS, JOB_ALLTOALLV, JOB_RAW, JOB_RMA, JOBS } ep_job;

/** What rank 0, which runs the harness, tells the others; in memory of all. */
typedef struct ep_orders {
    _Atomic unsigned generation, finished;
    _Atomic int failed;
    ep_job job;
    ep_shape of;
} ep_orders;

static fm_ep_world *world;
static int world_rank, world_size;
static ep_orders *orders;
static ep_mpi_rank self;

/* ---- jobs, on every rank ---- */

static fm_status dispatch(ep_mpi_rank *rank)
{
    fm_ep_dispatch arguments = {.size = sizeof arguments,
                                .tokens = rank->tokens,
                                .topk = EP_BENCH_TOPK,
                                .topk_idx = rank->topk_idx,
                                .topk_weights = rank->topk_weights,
                                .x_format = FM_EP_FP8_F32,
                                .recv_format = FM_EP_FP8_F32,
                                .x = rank->x,
                                .x_scales = rank->x_scales,
                                .recv_x = rank->recv_x,
                                .recv_scales = rank->recv_scales,
                                .recv_rows_max = fm_ep_handle_rows_max(rank->handle)};
    return fm_ep_dispatch_run(rank->group, &arguments, rank->handle);
}

static fm_status combine(ep_mpi_rank *rank)
{
    fm_ep_combine arguments = {.size = sizeof arguments, .x = rank->y, .out = rank->out};
    return fm_ep_combine_run(rank->group, &arguments, rank->handle);
}

static void *take(char **memory, size_t bytes)
{
    char *at = *memory;
    *memory += fm_round_up(bytes, 4096);
    return at;
}

static fm_status allocate(const ep_shape *of)
{
    size_t tokens = (size_t)of->tokens, rows = tokens * (size_t)of->ranks;
    size_t bytes = tokens * EP_BENCH_HIDDEN + rows * EP_BENCH_HIDDEN * sizeof *self.y;
    bytes += tokens * EP_BENCH_SCALES * sizeof(float) + 4 * 4096;
    fm_ep_options options = {.size = sizeof options,
                             .hidden = EP_BENCH_HIDDEN,
                             .experts = EP_BENCH_EXPERTS,
                             .topk_max = EP_BENCH_TOPK,
                             .tokens_max = of->tokens,
                             .in_flight = 2,
                             .memory_bytes = bytes};
    FM_TRY(fm_ep_group_create(self.world, self.rank, &options, &self.group));
    FM_TRY(fm_ep_handle_create(self.group, FM_EP_PLAIN, 1, &self.handle));
    char *memory = fm_ep_group_memory(self.group, &bytes);
    self.x = take(&memory, tokens * EP_BENCH_HIDDEN);
    self.y = take(&memory, rows * EP_BENCH_HIDDEN * sizeof *self.y);
    self.x_scales = take(&memory, tokens * EP_BENCH_SCALES * sizeof(float));
    struct {
        void *at;
        size_t bytes;
    } blocks[] = {
        {&self.topk_idx, tokens * EP_BENCH_TOPK * 4},      {&self.topk_weights, tokens * EP_BENCH_TOPK * 4},
        {&self.out, tokens * EP_BENCH_HIDDEN * 2},         {&self.packed, rows * EP_BENCH_HIDDEN},
        {&self.packed_scales, rows * EP_BENCH_SCALES * 4}, {&self.packed_weights, rows * EP_BENCH_TOPK * 4},
        {&self.packed_idx, rows * EP_BENCH_TOPK * 4},      {&self.recv_weights, rows * EP_BENCH_TOPK * 4},
        {&self.recv_idx, rows * EP_BENCH_TOPK * 4},        {&self.arrived, rows * EP_BENCH_HIDDEN * 2}};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
        void *block = fm_bench_alloc(blocks[i].bytes);
        if (!block)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for %d tokens", of->tokens);
        memset(block, 0, blocks[i].bytes);
        memcpy(blocks[i].at, &block, sizeof block);
    }
    return FM_OK;
}

static void fill(const ep_shape *of)
{
    size_t tokens = (size_t)of->tokens, rows = tokens * (size_t)of->ranks;
    fm_rng rng = fm_base_rng_begin(1, (uint64_t)self.rank);
    int deck[EP_BENCH_EXPERTS];
    for (int e = 0; e < EP_BENCH_EXPERTS; e++)
        deck[e] = e;
    for (size_t t = 0; t < tokens; t++)
        for (size_t k = 0; k < EP_BENCH_TOPK; k++) { // distinct experts: a partial shuffle
            size_t other = k + (size_t)fm_base_rng_below(&rng, EP_BENCH_EXPERTS - k);
            int expert = deck[other];
            deck[other] = deck[k];
            deck[k] = self.topk_idx[t * EP_BENCH_TOPK + k] = expert;
        }
    fm_bench_fill((uint64_t)self.rank, self.x, tokens * EP_BENCH_HIDDEN);
    fm_bench_fill_floats((uint64_t)self.rank, self.x_scales, tokens * EP_BENCH_SCALES);
    fm_bench_fill_floats((uint64_t)self.rank, self.topk_weights, tokens * EP_BENCH_TOPK);
    fm_bench_fill((uint64_t)self.rank + 100, self.y, rows * EP_BENCH_HIDDEN * sizeof *self.y);
    for (size_t i = 0; i < rows * EP_BENCH_HIDDEN; i++)
        self.y[i] = (fm_bf16)((self.y[i] & 0x8FFF) | 0x3000); // numbers around 1, no NaN
}

static fm_status join(const ep_shape *of)
{
    self = (ep_mpi_rank){.ranks = of->ranks, .tokens = of->tokens};
    int is_in = world_rank < of->ranks;
    MPI_Comm_split(MPI_COMM_WORLD, !is_in, 0, &self.comm);
    FM_TRY(fm_ep_world_split_mpi(world, !is_in, &self.world, &self.rank));
    if (!is_in)
        return FM_OK;
    FM_TRY(allocate(of));
    fill(of);
    ep_mpi_peers_create(&self);
    FM_TRY(ep_mpi_alltoallv_dispatch(&self)); // the bare exchanges, and both combines, need its counts
    return dispatch(&self);
}

static fm_status leave(const ep_shape *of)
{
    void *const blocks[] = {self.topk_idx,      self.topk_weights,   self.out,        self.packed,
                            self.packed_scales, self.packed_weights, self.packed_idx, self.recv_weights,
                            self.recv_idx,      self.arrived};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        fm_base_mem_free(blocks[i]);
    if (world_rank < of->ranks)
        ep_mpi_peers_free(&self);
    fm_ep_handle_free(self.handle);
    fm_ep_group_free(self.group);
    fm_ep_world_free(self.world);
    MPI_Comm_free(&self.comm);
    return FM_OK;
}

static fm_status do_job(void)
{
    const ep_shape *of = &orders->of;
    static fm_status (*const dispatches[JOBS])(ep_mpi_rank *) = {[JOB_OURS] = dispatch,
                                                                 [JOB_ALLTOALLV] = ep_mpi_alltoallv_dispatch,
                                                                 [JOB_RAW] = ep_mpi_raw_dispatch,
                                                                 [JOB_RMA] = ep_mpi_put_dispatch};
    static fm_status (*const combines[JOBS])(ep_mpi_rank *) = {[JOB_OURS] = combine,
                                                               [JOB_ALLTOALLV] = ep_mpi_alltoallv_combine,
                                                               [JOB_RAW] = ep_mpi_raw_combine,
                                                               [JOB_RMA] = ep_mpi_get_combine};
    if (orders->job == JOB_JOIN)
        return join(of);
    if (orders->job == JOB_LEAVE)
        return leave(of);
    if (world_rank >= of->ranks)
        return FM_OK;
    for (int round = 0; round < of->rounds; round++) {
        if (of->work & EP_DISPATCH)
            FM_TRY(dispatches[orders->job](&self));
        if (of->work & EP_COMBINE)
            FM_TRY(combines[orders->job](&self));
    }
    return FM_OK;
}

static void serve(void)
{
    for (unsigned seen = 0;;) {
        fm_wait wait = fm_base_wait_begin(-1);
        while (atomic_load(&orders->generation) == seen)
            if (fm_base_wait_step(&wait) < 0) // it has no deadline
                return;
        seen++;
        if (orders->job == JOB_END)
            return;
        // Ranks that a run does not need are not woken by it, nor waited for.
        if (world_rank >= orders->of.ranks && orders->job >= JOB_OURS)
            continue;
        if (do_job() < 0) {
            fprintf(stderr, "rank %d: %s\n", world_rank, fm_error_message());
            atomic_store(&orders->failed, 1);
        }
        atomic_fetch_add(&orders->finished, 1);
    }
}

/* ---- the harness's callbacks, on rank 0 ---- */

static fm_status order(ep_job job)
{
    unsigned others = (unsigned)(job >= JOB_OURS ? orders->of.ranks : world_size) - 1;
    orders->job = job;
    atomic_store(&orders->finished, 0);
    atomic_fetch_add(&orders->generation, 1);
    if (job == JOB_END)
        return FM_OK;
    FM_TRY(do_job());
    fm_wait wait = fm_base_wait_begin(60000);
    while (atomic_load(&orders->finished) < others)
        FM_TRY(fm_base_wait_step(&wait));
    return atomic_load(&orders->failed) ? fm_base_error_set(FM_ERR_INTERNAL, "a rank failed") : FM_OK;
}

static fm_status setup(const fm_bench_setup *given, void **out_state)
{
    orders->of = *(const ep_shape *)given->argument;
    *out_state = &self;
    return order(JOB_JOIN);
}

static void teardown(void *state)
{
    (void)state;
    if (order(JOB_LEAVE) < 0)
        fprintf(stderr, "%s\n", fm_error_message());
}

static fm_status run_ours(void *state, int threads)
{
    (void)state;
    (void)threads;
    return order(JOB_OURS);
}

static fm_status run_alltoallv(void *state, int threads)
{
    (void)state;
    (void)threads;
    return order(JOB_ALLTOALLV);
}

static fm_status run_raw(void *state, int threads)
{
    (void)state;
    (void)threads;
    return order(JOB_RAW);
}

static fm_status run_rma(void *state, int threads)
{
    (void)state;
    (void)threads;
    return order(JOB_RMA);
}

/** Of rank 0's part. */
static uint64_t hash(const void *state)
{
    const ep_mpi_rank *rank = state;
    if (orders->of.work & EP_COMBINE)
        return fm_bench_hash(0, rank->out, (size_t)rank->tokens * EP_BENCH_HIDDEN * sizeof(fm_bf16));
    size_t rows = (size_t)fm_ep_handle_received(rank->handle)->rows;
    return fm_bench_hash(fm_bench_hash(0, rank->recv_x, rows * EP_BENCH_HIDDEN), rank->recv_scales,
                         rows * EP_BENCH_SCALES * sizeof(float));
}

static fm_status cases(fm_bench *bench)
{
    return ep_bench_add_shapes(
        bench, "mpi.",
        &(fm_bench_case){.setup = setup,
                         .run = run_ours,
                         .hash = hash,
                         .teardown = teardown,
                         .peers = {{.name = "pack+alltoallv", .run = run_alltoallv, .same_result = 1},
                                   {.name = "rma", .run = run_rma, .same_result = 1},
                                   {.name = "bare alltoallv", .run = run_raw}}});
}

/** All ranks wait for orders in memory that they share, asleep, so that the probes have the cores to themselves. */
static int make_orders(MPI_Win *out_window)
{
    MPI_Aint bytes;
    int unit;
    if (MPI_Win_allocate_shared(world_rank == 0 ? sizeof *orders : 0, 1, MPI_INFO_NULL, MPI_COMM_WORLD,
                                &orders, out_window) != MPI_SUCCESS ||
        MPI_Win_shared_query(*out_window, 0, &bytes, &unit, &orders) != MPI_SUCCESS)
        return -1;
    if (world_rank == 0)
        memset(orders, 0, sizeof *orders);
    return MPI_Barrier(MPI_COMM_WORLD) == MPI_SUCCESS ? 0 : -1;
}

static int start_mpirun(int argc, char **argv)
{
    static char words[][24] = {
        "mpirun", "--oversubscribe", "--allow-run-as-root", "--mca", "mpi_yield_when_idle", "1", "-n", "4"};
    char *arguments[64] = {NULL};
    int count = 0;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        arguments[count++] = words[i];
    for (int i = 0; i < argc && count < 63; i++)
        arguments[count++] = argv[i];
    execvp(arguments[0], arguments);
    fprintf(stderr, "mpirun could not be started: no figures of ranks that are processes\n");
    return 0;
}

int main(int argc, char **argv)
{
    static const fm_bench_program program = {
        "ep_mpi", "Measures lib/ep: dispatch and combine between processes, against MPI", cases};
    if (!getenv("OMPI_COMM_WORLD_SIZE"))
        return start_mpirun(argc, argv);
    // Set already, so that the harness need not start the program anew, which MPI does not survive.
    setenv("OMP_WAIT_POLICY", "passive", 0);
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &world_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world_size);
    MPI_Win window;
    if (world_size < EP_BENCH_RANKS_MAX || fm_ep_world_open_mpi(&world, &world_rank) < 0 ||
        make_orders(&window) < 0) {
        fprintf(stderr, "%d ranks, expected %d; %s\n", world_size, EP_BENCH_RANKS_MAX, fm_error_message());
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    int exit_status = 0;
    if (world_rank == 0) {
        exit_status = fm_bench_main(&program, argc, argv);
        if (order(JOB_END) < 0)
            exit_status = 1;
    } else {
        serve();
    }
    fm_ep_world_free(world);
    MPI_Win_free(&window);
    MPI_Finalize();
    return exit_status;
}
