// The executor on MPI processes: the link is MPI_Isend and MPI_Recv. Run by mpirun with 2, 4 and 8 ranks.
#include "pipe_mlp.h"

#include <mpi.h>

enum { RANKS_MAX = 8 };

static int world_rank;
static int world_size;

struct wire_message {
    fm_pipe_tag tag;
    double payload[MLP_CELLS];
};

// A message to a peer is copied and sent; the next one waits until that copy is free again.
struct mpi_link {
    struct wire_message out[RANKS_MAX];
    MPI_Request request[RANKS_MAX];
};

static fm_status mpi_send(void *context, int peer, const fm_pipe_tag *tag, const void *payload)
{
    struct mpi_link *link = context;
    int free = 0;
    MPI_Test(&link->request[peer], &free, MPI_STATUS_IGNORE);
    if (!free)
        return FM_ERR_BUSY;
    link->out[peer].tag = *tag;
    memcpy(link->out[peer].payload, payload, tag->bytes);
    // Synchronous, so that a send is done only when the receive is there: the rendezvous of large messages.
    MPI_Issend(&link->out[peer], sizeof link->out[peer], MPI_BYTE, peer, 0, MPI_COMM_WORLD,
               &link->request[peer]);
    return FM_OK;
}

static fm_status mpi_receive(void *context, int peer, size_t capacity, fm_pipe_tag *out_tag,
                             void *out_payload)
{
    (void)context;
    int there = 0;
    MPI_Iprobe(peer, 0, MPI_COMM_WORLD, &there, MPI_STATUS_IGNORE);
    if (!there)
        return FM_ERR_BUSY;
    struct wire_message in;
    MPI_Recv(&in, sizeof in, MPI_BYTE, peer, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    *out_tag = in.tag;
    if (in.tag.bytes > capacity)
        return fm_base_error_set(FM_ERR_LIMIT, "too long");
    memcpy(out_payload, in.payload, in.tag.bytes);
    return FM_OK;
}

static void train(fm_pipe_program *program)
{
    struct mpi_link wires;
    for (int peer = 0; peer < RANKS_MAX; peer++)
        wires.request[peer] = MPI_REQUEST_NULL;
    fm_pipe_plan *plan = NULL;
    fm_pipe_executor *executor = NULL;
    assert_ok(fm_pipe_plan_create(program, &plan));
    struct mlp_rank mlp = mlp_rank_make(program, plan, world_rank);
    fm_pipe_link link = {.context = &wires, .send = mpi_send, .receive = mpi_receive};
    fm_pipe_executor_options options = mlp_options(&mlp, plan, world_rank, link, 1);
    assert_ok(fm_pipe_executor_create(&options, &executor));
    assert_ok(fm_pipe_executor_run(executor, 0));
    MPI_Waitall(RANKS_MAX, wires.request, MPI_STATUSES_IGNORE);
    assert_int_equal(mlp.faults, 0);

    double losses[RANKS_MAX];
    int count = program->lanes * MLP_WEIGHTS;
    double(*gradients)[MLP_WEIGHTS] = calloc((size_t)world_size * (size_t)program->lanes, sizeof *gradients);
    MPI_Gather(&mlp.loss, 1, MPI_DOUBLE, losses, 1, MPI_DOUBLE, 0, MPI_COMM_WORLD);
    MPI_Gather(mlp.gradients, count, MPI_DOUBLE, gradients, count, MPI_DOUBLE, 0, MPI_COMM_WORLD);
    if (world_rank == 0)
        mlp_compare(program, losses, gradients);
    free(gradients);
    fm_pipe_executor_free(executor);
    mlp_rank_free(&mlp);
    fm_pipe_plan_free(plan);
    fm_pipe_program_free(program);
}

static void every_schedule_trains_like_one_rank(void **state)
{
    (void)state;
    for (int schedule = 1; schedule < FM_PIPE_SCHEDULE_COUNT; schedule++)
        train(pipe_case((fm_pipe_schedule)schedule, world_size, 2 * world_size + 1, 0));
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &world_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world_size);
    if (world_size < 2 || world_size > RANKS_MAX || world_size % 2) {
        fprintf(stderr, "run me with 2, 4, 6 or 8 ranks, not %d\n", world_size);
        MPI_Finalize();
        return 1;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_schedule_trains_like_one_rank)};
    int failures = fm_test_run("pipe.pipe_mpi", tests);
    if (failures) // the others may wait for this rank in a gather
        MPI_Abort(MPI_COMM_WORLD, 1);
    MPI_Finalize();
    return 0;
}
