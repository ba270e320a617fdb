// lib/pipe: planning a large pipeline, searching a small one, and what the executor adds to the callbacks.
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "fm_bench.h"

#include "fathom/mem.h"
#include "fathom/pipe.h"
#include "fathom/pipe_exec.h"

/* Planning: generate, verify and simulate one schedule. */

enum { PLAN_RANKS = 64, PLAN_MICRO_BATCHES = 512 };

static const fm_pipe_stage_cost even_cost = {.f = 1, .i = 1, .w = 1, .fb = 2.5};
static const fm_pipe_costs even_costs = {.size = sizeof even_costs, .stages = &even_cost, .stage_count = 1};

struct planned {
    fm_pipe_shape shape;
    uint64_t hash;
};

static fm_status plan_setup(const fm_bench_setup *setup, void **out_state)
{
    struct planned *planned = fm_base_mem_zalloc(1, sizeof *planned);
    if (!planned)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a plan");
    planned->shape = *(const fm_pipe_shape *)setup->argument;
    *out_state = planned;
    return FM_OK;
}

static uint64_t hash_program(const fm_pipe_program *program, double makespan)
{
    uint64_t hash = fm_bench_hash(0, program->ops, program->first[program->ranks] * sizeof *program->ops);
    return fm_bench_hash(hash, &makespan, sizeof makespan);
}

static fm_status plan_run(void *state, int threads)
{
    (void)threads;
    struct planned *planned = state;
    fm_pipe_program *program = NULL;
    fm_pipe_simulation *simulation = NULL;
    FM_TRY(fm_pipe_program_generate(&planned->shape, &program));
    fm_status status = fm_pipe_program_verify(program, 1, NULL);
    if (status == FM_OK)
        status = fm_pipe_simulation_run(program, &even_costs, &simulation);
    if (status == FM_OK)
        planned->hash = hash_program(program, simulation->makespan);
    fm_pipe_simulation_free(simulation);
    fm_pipe_program_free(program);
    return status;
}

static uint64_t plan_hash(const void *state)
{
    return ((const struct planned *)state)->hash;
}

static fm_status add_plans(fm_bench *bench)
{
    static fm_pipe_shape shapes[FM_PIPE_SCHEDULE_COUNT];
    static char names[FM_PIPE_SCHEDULE_COUNT][64];
    for (int i = FM_PIPE_CUSTOM + 1; i < FM_PIPE_SCHEDULE_COUNT; i++) {
        shapes[i] = (fm_pipe_shape){.size = sizeof shapes[i],
                                    .schedule = (fm_pipe_schedule)i,
                                    .ranks = PLAN_RANKS,
                                    .micro_batches = PLAN_MICRO_BATCHES};
        snprintf(names[i], sizeof names[i], "plan.%s.%dx%d", fm_pipe_schedule_name((fm_pipe_schedule)i),
                 PLAN_RANKS, PLAN_MICRO_BATCHES);
        fm_bench_case item = {.name = names[i],
                              .argument = &shapes[i],
                              .mode = FM_BENCH_IN_SMOKE,
                              .threads = 1,
                              .setup = plan_setup,
                              .run = plan_run,
                              .hash = plan_hash,
                              .teardown = fm_base_mem_free,
                              .goals = {{FM_BENCH_TIME, .must = 0.1}}};
        FM_TRY(fm_bench_add(bench, &item));
    }
    return FM_OK;
}

/* Searching: a V of eight stages under a cap. */

struct searched {
    uint64_t hash;
    double makespan;
    double bound;
};

static fm_status search_setup(const fm_bench_setup *setup, void **out_state)
{
    (void)setup;
    *out_state = fm_base_mem_zalloc(1, sizeof(struct searched));
    return *out_state ? FM_OK : fm_base_error_set(FM_ERR_NOMEM, "no memory for a search");
}

static fm_status search_run(void *state, int threads)
{
    (void)threads;
    // Half stages, half of what ZB-V holds: no schedule that has a name fits.
    static const fm_pipe_stage_cost half = {.f = 0.5, .i = 0.55, .w = 0.45, .memory = 0.5};
    const fm_pipe_costs costs = {.size = sizeof costs, .stages = &half, .stage_count = 1, .latency = 0.05};
    const fm_pipe_search search = {.size = sizeof search,
                                   .placement = FM_PIPE_V,
                                   .ranks = 4,
                                   .micro_batches = 16,
                                   .costs = &costs,
                                   .memory_max = 2,
                                   .trials = 20000,
                                   .exact_nodes = -1};
    struct searched *searched = state;
    fm_pipe_found found;
    FM_TRY(fm_pipe_search_run(&search, &found));
    searched->hash = hash_program(found.program, found.makespan);
    searched->makespan = found.makespan;
    searched->bound = found.lower_bound;
    fm_pipe_program_free(found.program);
    return FM_OK;
}

static uint64_t search_hash(const void *state)
{
    return ((const struct searched *)state)->hash;
}

static void search_metrics(void *state, fm_bench_metrics *to)
{
    const struct searched *searched = state;
    fm_bench_metric_add(to, "gap", searched->makespan / searched->bound - 1, "1");
}

static fm_status add_search(fm_bench *bench)
{
    return fm_bench_add(bench, &(fm_bench_case){.name = "search.v.4x16.cap2",
                                                .mode = FM_BENCH_IN_QUICK,
                                                .threads = 1,
                                                .setup = search_setup,
                                                .run = search_run,
                                                .hash = search_hash,
                                                .metrics = search_metrics,
                                                .teardown = fm_base_mem_free,
                                                .goals = {{FM_BENCH_TIME, .must = 1}}});
}

/*
 * Executing: one rank's step with callbacks that do next to nothing, against the same callbacks called in a plain loop.
 * The rank's messages are recorded in set-up, from a step with a thread for every rank, and replayed, so that what is
 * timed is the interpreter alone: it never waits.
 */

enum { STEP_MICRO_BATCHES = 64, MESSAGES_MAX = 4 * STEP_MICRO_BATCHES, RANKS_MAX = 4, PAYLOAD = 64 };

struct stepped {
    fm_pipe_program *program;
    fm_pipe_plan *plan;
    fm_pipe_executor *executor;
    int rank;
    uint64_t calls;
    fm_pipe_link ring;                         // while recording
    fm_pipe_tag tags[RANKS_MAX][MESSAGES_MAX]; // received, by peer
    size_t recorded[RANKS_MAX], replayed[RANKS_MAX];
    size_t sends, receives;
    char payload[PAYLOAD];
};

static fm_status count_forward(void *context, const fm_pipe_task *task)
{
    ((struct stepped *)context)->calls += (uint64_t)task->chunk;
    return FM_OK;
}

static fm_status count_backward(void *context, const fm_pipe_task *task, int with_weights)
{
    ((struct stepped *)context)->calls += (uint64_t)(task->chunk + with_weights);
    return FM_OK;
}

static fm_status record_send(void *context, int peer, const fm_pipe_tag *tag, const void *payload)
{
    const struct stepped *stepped = context;
    return stepped->ring.send(stepped->ring.context, peer, tag, payload);
}

static fm_status record_receive(void *context, int peer, size_t capacity, fm_pipe_tag *out_tag,
                                void *out_payload)
{
    struct stepped *stepped = context;
    fm_status status = stepped->ring.receive(stepped->ring.context, peer, capacity, out_tag, out_payload);
    if (status == FM_OK)
        stepped->tags[peer][stepped->recorded[peer]++] = *out_tag;
    return status;
}

static fm_status replay_send(void *context, int peer, const fm_pipe_tag *tag, const void *payload)
{
    struct stepped *stepped = context;
    memcpy(stepped->payload, payload, tag->bytes);
    stepped->sends += peer >= 0;
    return FM_OK;
}

static fm_status replay_receive(void *context, int peer, size_t capacity, fm_pipe_tag *out_tag,
                                void *out_payload)
{
    struct stepped *stepped = context;
    *out_tag = stepped->tags[peer][stepped->replayed[peer]++ % stepped->recorded[peer]];
    memcpy(out_payload, stepped->payload, capacity);
    stepped->receives++;
    return FM_OK;
}

static fm_pipe_executor_options step_options(struct stepped *stepped, fm_pipe_link link)
{
    static const fm_pipe_message_type type = {.bytes = PAYLOAD};
    return (fm_pipe_executor_options){.size = sizeof(fm_pipe_executor_options),
                                      .plan = stepped->plan,
                                      .rank = stepped->rank,
                                      .compute = {.context = stepped,
                                                  .forward = count_forward,
                                                  .backward = count_backward,
                                                  .weight = count_forward},
                                      .link = link,
                                      .activations = &type,
                                      .gradients = &type,
                                      .message_count = 1,
                                      .timeout_ms = 10000};
}

static void *record_rank(void *context)
{
    struct stepped *stepped = context;
    fm_pipe_link link = {.context = stepped, .send = record_send, .receive = record_receive};
    fm_pipe_executor_options options = step_options(stepped, link);
    fm_pipe_executor *executor = NULL;
    fm_status status = fm_pipe_executor_create(&options, &executor);
    if (status == FM_OK)
        status = fm_pipe_executor_run(executor, 0);
    fm_pipe_executor_free(executor);
    return status == FM_OK ? NULL : stepped;
}

// Runs one step with a thread for each rank; what `kept` receives stays recorded.
static fm_status record(struct stepped *kept)
{
    int count = kept->program->ranks;
    size_t bytes = 0;
    FM_TRY(fm_pipe_ring_bytes(count, 4, PAYLOAD, &bytes));
    struct stepped *ranks = fm_base_mem_zalloc(RANKS_MAX, sizeof *ranks);
    void *memory = fm_base_mem_aligned(bytes, FM_CACHE_LINE);
    fm_pipe_ring *ring = NULL;
    fm_status status = FM_ERR_NOMEM;
    if (ranks && memory)
        status = fm_pipe_ring_init(memory, count, 4, PAYLOAD, &ring);
    else
        fm_base_error_set(status, "no memory to record a step");
    pthread_t threads[RANKS_MAX];
    int started = 0;
    for (; started < count && status == FM_OK; started++) {
        struct stepped *rank = started == kept->rank ? kept : &ranks[started];
        if (rank != kept) {
            rank->program = kept->program;
            rank->plan = kept->plan;
            rank->rank = started;
        }
        rank->ring = fm_pipe_ring_link(ring, started);
        if (pthread_create(&threads[started], NULL, record_rank, rank) != 0)
            status = fm_base_error_set(FM_ERR_LIMIT, "no thread to record a step");
    }
    for (int rank = 0; rank < started; rank++) {
        void *failed = NULL;
        pthread_join(threads[rank], &failed);
        if (failed && status == FM_OK)
            status = fm_base_error_set(FM_ERR_INTERNAL, "rank %d failed while a step was recorded", rank);
    }
    fm_base_mem_free(memory);
    fm_base_mem_free(ranks);
    return status;
}

static void step_teardown(void *state)
{
    struct stepped *stepped = state;
    fm_pipe_executor_free(stepped->executor);
    fm_pipe_plan_free(stepped->plan);
    fm_pipe_program_free(stepped->program);
    fm_base_mem_free(stepped);
}

static fm_status step_setup(const fm_bench_setup *setup, void **out_state)
{
    struct stepped *stepped = fm_base_mem_zalloc(1, sizeof *stepped);
    if (!stepped)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a step");
    stepped->rank = 1; // has neighbours on both sides
    fm_status status = fm_pipe_program_generate(setup->argument, &stepped->program);
    if (status == FM_OK)
        status = fm_pipe_plan_create(stepped->program, &stepped->plan);
    if (status == FM_OK)
        status = record(stepped);
    fm_pipe_link link = {.context = stepped, .send = replay_send, .receive = replay_receive};
    fm_pipe_executor_options options = step_options(stepped, link);
    if (status == FM_OK)
        status = fm_pipe_executor_create(&options, &stepped->executor);
    if (status != FM_OK) {
        step_teardown(stepped);
        return status;
    }
    *out_state = stepped;
    return FM_OK;
}

static fm_status step_run(void *state, int threads)
{
    (void)threads;
    struct stepped *stepped = state;
    return fm_pipe_executor_run(stepped->executor, 0);
}

// The callbacks and the link's functions as often as in a step, without the executor.
static fm_status bare_run(void *state, int threads)
{
    (void)threads;
    struct stepped *stepped = state;
    const fm_pipe_program *program = stepped->program;
    fm_pipe_task task = {0};
    fm_pipe_tag tag = {.bytes = PAYLOAD};
    char buffer[PAYLOAD] = {0};
    for (size_t i = program->first[stepped->rank]; i < program->first[stepped->rank + 1]; i++) {
        const fm_pipe_op *op = &program->ops[i];
        task.chunk = op->chunk;
        fm_status status = FM_OK;
        if (op->kind != FM_PIPE_B && op->kind != FM_PIPE_I)
            status = count_forward(stepped, &task);
        if (status == FM_OK && op->kind != FM_PIPE_F && op->kind != FM_PIPE_W)
            status = count_backward(stepped, &task, op->kind != FM_PIPE_I);
        FM_TRY(status);
    }
    for (int peer = 0; peer < program->ranks; peer++)
        for (size_t i = 0; i < stepped->recorded[peer]; i++) {
            FM_TRY(replay_receive(stepped, peer, PAYLOAD, &tag, buffer));
            FM_TRY(replay_send(stepped, peer, &tag, buffer));
        }
    return FM_OK;
}

static fm_status add_steps(fm_bench *bench)
{
    static const fm_pipe_shape shapes[] = {
        {sizeof(fm_pipe_shape), FM_PIPE_1F1B, RANKS_MAX, STEP_MICRO_BATCHES, 0, 0},
        {sizeof(fm_pipe_shape), FM_PIPE_ZB_V, RANKS_MAX, STEP_MICRO_BATCHES, 0, 0},
        {sizeof(fm_pipe_shape), FM_PIPE_DUALPIPE, RANKS_MAX, STEP_MICRO_BATCHES, 0, 0}};
    static char names[3][64];
    for (int i = 0; i < 3; i++) {
        fm_pipe_program *program = NULL;
        FM_TRY(fm_pipe_program_generate(&shapes[i], &program));
        snprintf(names[i], sizeof names[i], "execute.%s.%dx%d", fm_pipe_schedule_name(shapes[i].schedule),
                 RANKS_MAX, STEP_MICRO_BATCHES);
        fm_bench_case item = {.name = names[i],
                              .argument = &shapes[i],
                              .items = (double)(program->first[2] - program->first[1]),
                              .mode = FM_BENCH_IN_SMOKE,
                              .threads = 1,
                              .setup = step_setup,
                              .run = step_run,
                              .teardown = step_teardown,
                              .peers = {{.name = "callbacks", .run = bare_run}},
                              .goals = {{FM_BENCH_EXCESS, .peer = "callbacks", .must = 2e-6}}};
        fm_pipe_program_free(program);
        FM_TRY(fm_bench_add(bench, &item));
    }
    return FM_OK;
}

static fm_status cases(fm_bench *bench)
{
    FM_TRY(add_plans(bench));
    FM_TRY(add_search(bench));
    return add_steps(bench);
}

int main(int argc, char **argv)
{
    static const fm_bench_program program = {"pipe", "Measures lib/pipe: planning, searching, executing",
                                             cases};
    return fm_bench_main(&program, argc, argv);
}
