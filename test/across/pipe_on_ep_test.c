// pipe's executor over ep's neighbour ring: every schedule trains as one rank does, with ranks that are threads and, under
// mpirun (argument: ranks per node), processes that share memory or send each other messages.
#include "pipe_mlp.h"

#include <pthread.h>

#include "fathom/ep.h"

enum { RANKS_MAX = 8, MICRO_BATCHES_PER_RANK = 2 };

/* ---- the link: all that it takes ---- */

static fm_status link_send(void *context, int peer, const fm_pipe_tag *tag, const void *payload)
{
    return fm_ep_ring_send(context, peer, tag, sizeof *tag, payload, tag->bytes);
}

static fm_status link_receive(void *context, int peer, size_t capacity, fm_pipe_tag *out_tag,
                              void *out_payload)
{
    size_t bytes;
    return fm_ep_ring_receive(context, peer, out_tag, sizeof *out_tag, out_payload, capacity, &bytes);
}

/** What a rank found, as it is gathered. */
struct report {
    double loss;
    double gradients[4][MLP_WEIGHTS]; /**< [lanes] */
};

/** One rank's part of one schedule; all get the reports of all. */
static fm_status train(fm_ep_group *group, const fm_pipe_program *program, const fm_pipe_plan *plan,
                       struct report *out_reports)
{
    int rank = fm_ep_group_rank(group);
    struct mlp_rank mlp = mlp_rank_make(program, plan, rank);
    fm_pipe_link link = {.context = group, .send = link_send, .receive = link_receive};
    fm_pipe_executor_options options = mlp_options(&mlp, plan, rank, link, 1);
    fm_pipe_executor *executor = NULL;
    fm_status status = fm_pipe_executor_create(&options, &executor);
    if (status == FM_OK)
        status = fm_pipe_executor_run(executor, 0);
    struct report mine = {.loss = mlp.faults == 0 ? mlp.loss : -1};
    memcpy(mine.gradients, mlp.gradients, (size_t)program->lanes * sizeof mine.gradients[0]);
    fm_pipe_executor_free(executor);
    mlp_rank_free(&mlp);
    FM_TRY(status);
    return fm_ep_all_gather(group, &mine, sizeof mine, out_reports);
}

static void compare(const fm_pipe_program *program, const struct report *reports)
{
    double losses[RANKS_MAX], gradients[RANKS_MAX * 4][MLP_WEIGHTS];
    for (int rank = 0; rank < program->ranks; rank++) {
        losses[rank] = reports[rank].loss;
        memcpy(gradients[rank * program->lanes], reports[rank].gradients,
               (size_t)program->lanes * sizeof gradients[0]);
    }
    mlp_compare(program, losses, gradients);
}

static fm_ep_options ring_options(int ranks, int per_node)
{
    return (fm_ep_options){.size = sizeof(fm_ep_options),
                           .ranks_per_node = per_node,
                           .hidden = 1,
                           .experts = ranks,
                           .topk_max = 1,
                           .timeout_ms = 20000,
                           .collective_bytes_max = sizeof(struct report),
                           .ring_bytes_max = sizeof(fm_pipe_tag) + MLP_CELLS * sizeof(double)};
}

/* ---- ranks that are threads ---- */

struct thread_rank {
    fm_ep_world *world;
    const fm_pipe_program *program;
    const fm_pipe_plan *plan;
    int rank;
    struct report reports[RANKS_MAX];
    fm_status status;
    char message[256];
};

static void *live(void *argument)
{
    struct thread_rank *self = argument;
    fm_ep_group *group = NULL;
    fm_ep_options options = ring_options(self->program->ranks, 0);
    self->status = fm_ep_group_create(self->world, self->rank, &options, &group);
    if (self->status == FM_OK)
        self->status = train(group, self->program, self->plan, self->reports);
    if (self->status < 0)
        snprintf(self->message, sizeof self->message, "%s", fm_error_message());
    fm_ep_group_free(group);
    return NULL;
}

static void train_on_threads(fm_pipe_schedule schedule, int ranks)
{
    static struct thread_rank all[RANKS_MAX];
    pthread_t threads[RANKS_MAX];
    fm_pipe_program *program = pipe_case(schedule, ranks, MICRO_BATCHES_PER_RANK * ranks, 0);
    fm_pipe_plan *plan = NULL;
    fm_ep_world *world = NULL;
    assert_ok(fm_pipe_plan_create(program, &plan));
    assert_ok(fm_ep_world_create(ranks, &world));
    for (int r = 0; r < ranks; r++) {
        all[r] = (struct thread_rank){.world = world, .program = program, .plan = plan, .rank = r};
        assert_int_equal(pthread_create(&threads[r], NULL, live, &all[r]), 0);
    }
    for (int r = 0; r < ranks; r++)
        pthread_join(threads[r], NULL);
    for (int r = 0; r < ranks; r++)
        if (all[r].status < 0)
            fail_msg("rank %d: %s", r, all[r].message);
    compare(program, all[0].reports);
    fm_ep_world_free(world);
    fm_pipe_plan_free(plan);
    fm_pipe_program_free(program);
}

static void every_schedule_trains_on_threads(void **state)
{
    (void)state;
    for (int ranks = 2; ranks <= 4; ranks += 2)
        for (int schedule = 1; schedule < FM_PIPE_SCHEDULE_COUNT; schedule++)
            train_on_threads((fm_pipe_schedule)schedule, ranks);
}

/* ---- ranks that are processes ---- */

static fm_ep_group *process_group;

static void every_schedule_trains_on_processes(void **state)
{
    (void)state;
    int ranks = fm_ep_group_ranks(process_group);
    struct report reports[RANKS_MAX];
    for (int schedule = 1; schedule < FM_PIPE_SCHEDULE_COUNT; schedule++) {
        fm_pipe_program *program =
            pipe_case((fm_pipe_schedule)schedule, ranks, MICRO_BATCHES_PER_RANK * ranks, 0);
        fm_pipe_plan *plan = NULL;
        assert_ok(fm_pipe_plan_create(program, &plan));
        assert_ok(train(process_group, program, plan, reports));
        compare(program, reports);
        fm_pipe_plan_free(plan);
        fm_pipe_program_free(program);
    }
}

static int run_processes(int per_node)
{
    fm_ep_world *world = NULL;
    int rank = 0;
    fm_status status = fm_ep_world_open_mpi(&world, &rank);
    if (status == FM_OK) {
        fm_ep_options options = ring_options(fm_ep_world_ranks(world), per_node);
        status = fm_ep_group_create(world, rank, &options, &process_group);
    }
    if (status < 0) {
        fprintf(stderr, "%s\n", fm_error_message());
        return 1;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_schedule_trains_on_processes)};
    int failed = fm_test_run("pipe_on_ep_mpi", tests);
    fm_ep_group_free(process_group);
    fm_ep_world_free(world);
    return failed;
}

int main(int count, char **arguments)
{
    if (count > 1)
        return run_processes(atoi(arguments[1])); // NOLINT(cert-err34-c): CMakeLists.txt wrote it
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_schedule_trains_on_threads)};
    return fm_test_run("pipe_on_ep", tests);
}
