#include "pipe_mlp.h"

#include <pthread.h>

#include "fathom/span.h"

// One rank of a group of threads.
struct thread_rank {
    const fm_pipe_plan *plan;
    fm_pipe_link link;
    struct mlp_rank mlp;
    int rank;
    int pairs;
    int steps;
    fm_status status;
    char message[1024];
};

static void *thread_main(void *context)
{
    struct thread_rank *mine = context;
    fm_pipe_executor_options options =
        mlp_options(&mine->mlp, mine->plan, mine->rank, mine->link, mine->pairs);
    fm_pipe_executor *executor = NULL;
    mine->status = fm_pipe_executor_create(&options, &executor);
    for (int step = 0; step < mine->steps && mine->status == FM_OK; step++) {
        mine->mlp.loss = 0;
        memset(mine->mlp.gradients, 0, (size_t)mine->mlp.program->lanes * sizeof *mine->mlp.gradients);
        mine->status = fm_pipe_executor_run(executor, (uint64_t)step);
    }
    if (mine->status != FM_OK)
        snprintf(mine->message, sizeof mine->message, "%s", fm_error_message());
    fm_pipe_executor_free(executor);
    return NULL;
}

static fm_pipe_ring *make_ring(int ranks, int depth)
{
    size_t bytes;
    fm_pipe_ring *ring;
    assert_ok(fm_pipe_ring_bytes(ranks, depth, mlp_message.bytes, &bytes));
    void *memory = fm_base_mem_aligned(bytes, FM_CACHE_LINE);
    assert_non_null(memory);
    assert_ok(fm_pipe_ring_init(memory, ranks, depth, mlp_message.bytes, &ring));
    return ring;
}

static int pairs_of(const fm_pipe_program *program, int rank)
{
    int pairs = 0;
    for (size_t i = 0; i < fm_pipe_count_of(program, rank); i++)
        pairs += fm_pipe_ops_of(program, rank)[i].kind == FM_PIPE_FB;
    return pairs;
}

// Trains `steps` steps with one thread a rank and compares the last with the unpipelined run. Takes the program over.
static void train_on_threads(fm_pipe_program *program, int depth, int pairs, int steps)
{
    enum { MOST = 8 };
    struct thread_rank ranks[MOST];
    pthread_t threads[MOST];
    double losses[MOST];
    double(*gradients)[MLP_WEIGHTS] =
        calloc((size_t)program->ranks * (size_t)program->lanes, sizeof *gradients);
    fm_pipe_plan *plan = NULL;
    assert_ok(fm_pipe_plan_create(program, &plan));
    fm_pipe_ring *ring = make_ring(program->ranks, depth);
    for (int rank = 0; rank < program->ranks; rank++)
        ranks[rank] = (struct thread_rank){.plan = plan,
                                           .rank = rank,
                                           .link = fm_pipe_ring_link(ring, rank),
                                           .pairs = pairs,
                                           .steps = steps,
                                           .mlp = mlp_rank_make(program, plan, rank)};
    for (int rank = 0; rank < program->ranks; rank++)
        assert_int_equal(pthread_create(&threads[rank], NULL, thread_main, &ranks[rank]), 0);
    for (int rank = 0; rank < program->ranks; rank++)
        pthread_join(threads[rank], NULL);
    for (int rank = 0; rank < program->ranks; rank++) {
        if (ranks[rank].status != FM_OK)
            fail_msg("rank %d: %s", rank, ranks[rank].message);
        assert_int_equal(ranks[rank].mlp.faults, 0);
        assert_int_equal(ranks[rank].mlp.overlapped, pairs ? pairs_of(program, rank) * steps : 0);
        losses[rank] = ranks[rank].mlp.loss;
        memcpy(gradients[rank * program->lanes], ranks[rank].mlp.gradients,
               (size_t)program->lanes * sizeof *gradients);
        mlp_rank_free(&ranks[rank].mlp);
    }
    mlp_compare(program, losses, gradients);
    fm_base_mem_free(ring);
    fm_pipe_plan_free(plan);
    fm_pipe_program_free(program);
    free(gradients);
}

static void every_schedule_trains_like_one_rank(void **state)
{
    (void)state;
    for (int schedule = 1; schedule < FM_PIPE_SCHEDULE_COUNT; schedule++)
        for (int ranks = 2; ranks <= 8; ranks *= 2)
            train_on_threads(pipe_case((fm_pipe_schedule)schedule, ranks, 2 * ranks + 3, 0), 1, 1, 1);
}

static void depth_pairs_and_steps_change_nothing(void **state)
{
    (void)state;
    train_on_threads(pipe_case(FM_PIPE_DUALPIPE, 4, 8, 0), 4, 0, 3);
    train_on_threads(pipe_case(FM_PIPE_DUALPIPEV, 2, 5, 0), 2, 1, 3);
    train_on_threads(pipe_case(FM_PIPE_INTERLEAVED, 2, 6, 4), 1, 1, 2);
    train_on_threads(pipe_case(FM_PIPE_ZB_V, 1, 3, 0), 1, 1, 2);
    fm_pipe_program *program = NULL;
    assert_ok(fm_pipe_program_generate(&(fm_pipe_shape){.size = sizeof(fm_pipe_shape),
                                                        .schedule = FM_PIPE_DUALPIPEV,
                                                        .ranks = 3,
                                                        .micro_batches = 5,
                                                        .forward_only = 1},
                                       &program));
    train_on_threads(program, 1, 1, 2);
}

static void a_found_program_trains_as_well(void **state)
{
    (void)state;
    fm_pipe_stage_cost cost = {.f = 1, .i = 1.2, .w = 0.8, .fb = 2.3};
    fm_pipe_costs costs = {.size = sizeof costs, .stages = &cost, .stage_count = 1};
    for (int placement = 0; placement <= FM_PIPE_MIRROR; placement++) {
        fm_pipe_search search = {.size = sizeof search,
                                 .placement = (fm_pipe_placement)placement,
                                 .ranks = 4,
                                 .micro_batches = 7,
                                 .costs = &costs,
                                 .memory_max = 5,
                                 .trials = 1000,
                                 .exact_nodes = -1};
        fm_pipe_found found;
        assert_ok(fm_pipe_search_run(&search, &found));
        train_on_threads(found.program, 1, 1, 1);
    }
}

// Rank 0 alone, its neighbours never there: one executor in this thread.
struct alone {
    fm_pipe_program *program;
    fm_pipe_plan *plan;
    fm_pipe_ring *ring;
    struct mlp_rank mlp;
    fm_pipe_executor_options options;
    fm_pipe_executor *executor;
};

static struct alone begin_alone(fm_pipe_program *program, int rank, int depth)
{
    struct alone alone = {.program = program};
    assert_ok(fm_pipe_plan_create(program, &alone.plan));
    alone.ring = make_ring(program->ranks, depth);
    alone.mlp = mlp_rank_make(program, alone.plan, rank);
    alone.options = mlp_options(NULL, alone.plan, rank, fm_pipe_ring_link(alone.ring, rank), 0);
    alone.options.timeout_ms = 50;
    return alone;
}

static fm_status run_alone(struct alone *alone, uint64_t step)
{
    alone->options.compute.context = &alone->mlp;
    if (!alone->executor)
        assert_ok(fm_pipe_executor_create(&alone->options, &alone->executor));
    return fm_pipe_executor_run(alone->executor, step);
}

static void end_alone(struct alone *alone)
{
    fm_pipe_executor_free(alone->executor);
    mlp_rank_free(&alone->mlp);
    fm_base_mem_free(alone->ring);
    fm_pipe_plan_free(alone->plan);
    fm_pipe_program_free(alone->program);
}

static void a_stalled_peer_is_named(void **state)
{
    (void)state;
    struct alone alone = begin_alone(pipe_case(FM_PIPE_1F1B, 2, 4, 0), 0, 8);
    assert_fails(run_alone(&alone, 5), FM_ERR_TIMEOUT, "rank 0, step 5, op 2 (B lane 0 chunk 0): waited ");
    assert_non_null(strstr(fm_error_message(), "ms for rank 1 to send the gradient of stage 0 chunk 0"));
    assert_true(fm_pipe_executor_last(alone.executor).wait >= 50000000);
    assert_fails(run_alone(&alone, 6), FM_ERR_STATE, "an earlier step of rank 0 failed");
    end_alone(&alone);
    // Nobody takes what is sent: the buffer that the next forward needs never becomes free.
    alone = begin_alone(pipe_case(FM_PIPE_GPIPE, 2, 6, 0), 0, 1);
    assert_fails(run_alone(&alone, 0), FM_ERR_TIMEOUT,
                 "for rank 1 to take the activation of stage 1 chunk 1");
    end_alone(&alone);
    // At the end of the step, what is left under way.
    alone = begin_alone(pipe_case(FM_PIPE_GPIPE, 2, 1, 0), 1, 1);
    fm_pipe_tag tag = {
        .step = 0, .bytes = mlp_message.bytes, .type = mlp_message.type, .stage = 1, .program = 1};
    double payload[MLP_CELLS] = {0};
    fm_pipe_link other = fm_pipe_ring_link(alone.ring, 0);
    assert_ok(other.send(other.context, 1, &tag, payload));
    assert_fails(run_alone(&alone, 0), FM_ERR_FORMAT, "rank 0 runs another program");
    end_alone(&alone);
}

static void a_message_that_is_not_the_next_is_refused(void **state)
{
    (void)state;
    static const struct {
        fm_pipe_tag change; // what is not 0 replaces
        const char *message;
    } cases[] = {
        {{.step = 9}, "came the activation of direction 0 stage 1 chunk 0 step 9"},
        {{.type = 7},
         "(120 bytes of type 7); expected the activation of direction 0 stage 1 chunk 0 step 2 (120 bytes of "
         "type 64)"},
        {{.chunk = 1}, "chunk 1 step 2"},
        {{.stage = 3}, "stage 3"},
        {{.kind = FM_PIPE_GRADIENT}, "came the gradient"},
        {{.direction = 1}, "came the activation of direction 1"},
        {{.bytes = 8}, "(8 bytes"},
        {{.program = 5}, "rank 0, step 2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        // Rank 0's first message is taken from its link, changed, and put back for rank 1.
        struct alone sender = begin_alone(pipe_case(FM_PIPE_1F1B, 2, 2, 0), 0, 4);
        assert_int_equal(run_alone(&sender, 2), FM_ERR_TIMEOUT);
        fm_pipe_link at_1 = fm_pipe_ring_link(sender.ring, 1);
        fm_pipe_tag tag;
        double payload[MLP_CELLS];
        assert_ok(at_1.receive(at_1.context, 0, sizeof payload, &tag, payload));
        const fm_pipe_tag *change = &cases[i].change;
        tag.step = change->step ? change->step : tag.step;
        tag.type = change->type ? change->type : tag.type;
        tag.chunk = change->chunk ? change->chunk : tag.chunk;
        tag.stage = change->stage ? change->stage : tag.stage;
        tag.kind = change->kind ? change->kind : tag.kind;
        tag.direction = change->direction ? change->direction : tag.direction;
        tag.bytes = change->bytes ? change->bytes : tag.bytes;
        tag.program = change->program ? change->program : tag.program;
        struct alone receiver = begin_alone(pipe_case(FM_PIPE_1F1B, 2, 2, 0), 1, 4);
        fm_pipe_link at_0 = fm_pipe_ring_link(receiver.ring, 0);
        assert_ok(at_0.send(at_0.context, 1, &tag, payload));
        assert_int_equal(run_alone(&receiver, 2), FM_ERR_FORMAT);
        if (!strstr(fm_error_message(), cases[i].message) && !change->program)
            fail_msg("\"%s\" lacks \"%s\"", fm_error_message(), cases[i].message);
        end_alone(&receiver);
        end_alone(&sender);
    }
}

static fm_status too_long(void *context, int peer, size_t capacity, fm_pipe_tag *out_tag, void *out_payload)
{
    (void)context, (void)peer, (void)out_payload;
    *out_tag = (fm_pipe_tag){.bytes = capacity + 1};
    return fm_base_error_set(FM_ERR_LIMIT, "too long");
}

static fm_status broken_send(void *context, int peer, const fm_pipe_tag *tag, const void *payload)
{
    (void)context, (void)peer, (void)tag, (void)payload;
    return fm_base_error_set(FM_ERR_NET_CLOSED, "the cable is cut");
}

static void failures_of_the_link_name_op_and_peer(void **state)
{
    (void)state;
    struct alone alone = begin_alone(pipe_case(FM_PIPE_1F1B, 2, 2, 0), 0, 1);
    alone.options.link.send = broken_send;
    assert_fails(run_alone(&alone, 1), FM_ERR_NET_CLOSED,
                 "rank 0, step 1, op 1 (F lane 0 chunk 1): send to rank 1, activation of stage 1 chunk 0: "
                 "the cable is cut");
    end_alone(&alone);
    alone = begin_alone(pipe_case(FM_PIPE_1F1B, 2, 2, 0), 1, 1);
    alone.options.link.receive = too_long;
    assert_fails(run_alone(&alone, 1), FM_ERR_FORMAT, "rank 0 runs another program");
    end_alone(&alone);
}

static fm_status failing_forward(void *context, const fm_pipe_task *task)
{
    (void)context;
    return task->chunk == 1 ? fm_base_error_set(FM_ERR_UNAVAILABLE, "no device") : FM_OK;
}

static void failures_of_a_callback_end_the_step(void **state)
{
    (void)state;
    struct alone alone = begin_alone(pipe_case(FM_PIPE_GPIPE, 1, 3, 0), 0, 1);
    alone.options.compute.forward = failing_forward;
    assert_fails(run_alone(&alone, 0), FM_ERR_UNAVAILABLE, "no device");
    assert_int_equal(run_alone(&alone, 1), FM_ERR_STATE);
    end_alone(&alone);
}

static void costs_are_measured_by_kind(void **state)
{
    (void)state;
    struct alone alone = begin_alone(pipe_case(FM_PIPE_ZB_V, 1, 4, 0), 0, 1);
    assert_ok(run_alone(&alone, 0));
    fm_pipe_stage_cost costs[2] = {{.b = 7, .fb = 9}, {.memory = 3}};
    fm_pipe_executor_costs(alone.executor, costs);
    for (int lane = 0; lane < 2; lane++)
        assert_true(costs[lane].f > 0 && costs[lane].i > 0 && costs[lane].w > 0 && costs[lane].f < 1);
    assert_true(costs[0].b == 7 && costs[0].fb == 9 && costs[1].memory == 3);
    costs[0].f = 5;
    fm_pipe_executor_costs(alone.executor, costs); // nothing ran since
    assert_true(costs[0].f == 5);
    fm_pipe_executor_times times = fm_pipe_executor_last(alone.executor);
    assert_true(times.compute > 0 && times.total >= times.compute && times.wait == 0);
    end_alone(&alone);
}

struct span_counts {
    int ops;
    int pairs;
    int sends;
    int flows;
};

static fm_status count_span(void *context, const fm_span_event *event)
{
    struct span_counts *counts = context;
    if (strcmp(event->site->category, "pipe") != 0)
        return FM_OK;
    const char *name = event->site->name;
    counts->ops += strlen(name) == 1;
    counts->pairs += strcmp(name, "FB") == 0;
    counts->sends += strcmp(name, "send") == 0;
    counts->flows += event->site->kind == FM_SPAN_KIND_FLOW_BEGIN;
    if (strcmp(name, "F") == 0)
        assert_string_equal(event->site->arg_names[1], "micro_batch");
    return FM_OK;
}

static void every_op_and_message_is_a_span(void **state)
{
    (void)state;
    struct span_counts counts = {0};
    assert_ok(fm_base_span_enable(0));
    train_on_threads(pipe_case(FM_PIPE_DUALPIPEV, 2, 4, 0), 1, 1, 1);
    fm_base_span_disable();
    assert_ok(fm_base_span_drain(count_span, &counts));
    fm_base_span_release_thread();
    assert_int_equal(counts.pairs, 6);
    assert_int_equal(counts.ops, 31 - 6);
    assert_int_equal(counts.sends, 16);
    assert_int_equal(counts.flows, 16);
}

static void stages_may_have_messages_of_their_own(void **state)
{
    (void)state;
    struct alone alone = begin_alone(pipe_case(FM_PIPE_DUALPIPEV, 1, 4, 0), 0, 1);
    fm_pipe_message_type types[2] = {{.bytes = 0}, {.bytes = 1000, .type = 2}}; // [0]: nothing enters stage 0
    fm_pipe_message_type gradients[2] = {{.bytes = 500, .type = 2}, {.bytes = 0}};
    alone.options.activations = types;
    alone.options.gradients = gradients;
    alone.options.message_count = 2;
    assert_ok(run_alone(&alone, 0));
    end_alone(&alone);
}

static void bad_options_are_refused(void **state)
{
    (void)state;
    struct alone alone = begin_alone(pipe_case(FM_PIPE_ZB_H1, 2, 4, 0), 0, 1);
    fm_pipe_executor *executor = NULL;
    const fm_pipe_executor_options good = alone.options;
    fm_pipe_executor_options bad = good;
    bad.rank = 2;
    assert_fails(fm_pipe_executor_create(&bad, &executor), FM_ERR_ARG, "rank is 2; expected 0 to 1");
    bad = good;
    bad.compute.weight = NULL;
    assert_fails(fm_pipe_executor_create(&bad, &executor), FM_ERR_ARG, "forward, backward, weight");
    bad = good;
    bad.link.send = NULL;
    assert_fails(fm_pipe_executor_create(&bad, &executor), FM_ERR_ARG, "link lacks send or receive");
    bad = good;
    bad.gradients = NULL;
    assert_fails(fm_pipe_executor_create(&bad, &executor), FM_ERR_ARG, "must not be NULL");
    bad = good;
    bad.message_count = 3;
    assert_fails(fm_pipe_executor_create(&bad, &executor), FM_ERR_ARG, "message_count is 3; expected 1 or 2");
    bad = good;
    fm_pipe_message_type type = {.bytes = 0};
    bad.activations = &type;
    assert_fails(fm_pipe_executor_create(&bad, &executor), FM_ERR_ARG, "have 0 bytes");
    type.bytes = SIZE_MAX - 1;
    assert_fails(fm_pipe_executor_create(&bad, &executor), FM_ERR_LIMIT, "overflows");
    bad.rank = 1; // holds two micro-batches
    type.bytes = SIZE_MAX / 2 + 1;
    assert_fails(fm_pipe_executor_create(&bad, &executor), FM_ERR_LIMIT, "overflows");
    bad = good;
    bad.size++;
    assert_fails(fm_pipe_executor_create(&bad, &executor), FM_ERR_VERSION,
                 "size of fm_pipe_executor_options");
    assert_fails(fm_pipe_executor_create(NULL, &executor), FM_ERR_ARG, "NULL");
    assert_fails(fm_pipe_executor_create(&good, NULL), FM_ERR_ARG, "NULL");
    assert_fails(fm_pipe_executor_run(NULL, 0), FM_ERR_ARG, "NULL");
    assert_null(executor);
    end_alone(&alone);
}

static fm_status create_and_free(void *context)
{
    fm_pipe_executor *executor = NULL;
    fm_status status = fm_pipe_executor_create(context, &executor);
    fm_pipe_executor_free(executor);
    return status;
}

static void refused_allocations_leave_nothing(void **state)
{
    (void)state;
    struct alone alone = begin_alone(pipe_case(FM_PIPE_DUALPIPE, 4, 8, 0), 1, 1);
    fm_test_each_alloc_fails(create_and_free, &alone.options);
    end_alone(&alone);
}

static int refuse_all(void *context, size_t size)
{
    (void)context, (void)size;
    return 1;
}

static void a_step_allocates_nothing(void **state)
{
    (void)state;
    struct alone alone = begin_alone(pipe_case(FM_PIPE_DUALPIPEV, 1, 6, 0), 0, 1);
    assert_ok(run_alone(&alone, 0));
    fm_base_mem_set_gate(refuse_all, NULL);
    assert_ok(run_alone(&alone, 1));
    fm_base_mem_set_gate(NULL, NULL);
    end_alone(&alone);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_schedule_trains_like_one_rank),
        cmocka_unit_test(depth_pairs_and_steps_change_nothing),
        cmocka_unit_test(a_found_program_trains_as_well),
        cmocka_unit_test(a_stalled_peer_is_named),
        cmocka_unit_test(a_message_that_is_not_the_next_is_refused),
        cmocka_unit_test(failures_of_the_link_name_op_and_peer),
        cmocka_unit_test(failures_of_a_callback_end_the_step),
        cmocka_unit_test(costs_are_measured_by_kind),
        cmocka_unit_test(every_op_and_message_is_a_span),
        cmocka_unit_test(stages_may_have_messages_of_their_own),
        cmocka_unit_test(bad_options_are_refused),
        cmocka_unit_test(refused_allocations_leave_nothing),
        cmocka_unit_test(a_step_allocates_nothing),
    };
    return fm_test_run("pipe.pipe_execute", tests);
}
