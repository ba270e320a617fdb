#include "pipe_cases.h"

static fm_pipe_plan *plan_of(fm_pipe_schedule schedule, int ranks, int micro_batches,
                             fm_pipe_program **out_program)
{
    fm_pipe_plan *plan = NULL;
    *out_program = pipe_case(schedule, ranks, micro_batches, 0);
    assert_ok(fm_pipe_plan_create(*out_program, &plan));
    return plan;
}

static void free_both(fm_pipe_plan *plan, fm_pipe_program *program)
{
    fm_pipe_plan_free(plan);
    fm_pipe_program_free(program);
}

static struct fm_pipe_post *sends_of(fm_pipe_plan *plan, int rank)
{
    return plan->sends + plan->ranks[rank].first_send;
}

static struct fm_pipe_post *receives_of(fm_pipe_plan *plan, int rank)
{
    return plan->receives + plan->ranks[rank].first_receive;
}

static void lost_and_swapped_messages_are_found(void **state)
{
    (void)state;
    fm_pipe_program *program;
    fm_pipe_fault fault;
    fm_pipe_plan *plan = plan_of(FM_PIPE_1F1B, 2, 3, &program);
    assert_ok(fm_pipe_plan_check(plan, &fault));
    plan->ranks[0].needs.sends--;
    assert_fails(fm_pipe_plan_check(plan, &fault), FM_ERR_FORMAT,
                 "receives the activation of stage 1 chunk 2 from rank 0, which never sends it");
    assert_int_equal(fault.rank, 1);
    plan->ranks[0].needs.sends++;
    plan->ranks[0].needs.receives--;
    assert_fails(fm_pipe_plan_check(plan, &fault), FM_ERR_FORMAT,
                 "sends the gradient of stage 0 chunk 2 to rank 0, which never receives it");
    assert_int_equal(fault.rank, 1);
    plan->ranks[0].needs.receives++;
    struct fm_pipe_post *posts = receives_of(plan, 1);
    int32_t chunk = posts[0].chunk;
    posts[0].chunk = posts[1].chunk;
    posts[1].chunk = chunk;
    assert_fails(fm_pipe_plan_check(plan, &fault), FM_ERR_FORMAT,
                 "receives the activation of stage 1 chunk 1 from rank 0, but the activation of stage 1 "
                 "chunk 0 is sent");
    free_both(plan, program);
}

static void wrong_buffers_are_found(void **state)
{
    (void)state;
    fm_pipe_program *program;
    fm_pipe_fault fault;
    fm_pipe_plan *plan = plan_of(FM_PIPE_1F1B, 4, 8, &program);
    struct fm_pipe_slots *slots = plan->slots + program->first[1];
    struct fm_pipe_slots kept = slots[0];
    slots[0].x = slots[0].y;
    assert_fails(fm_pipe_plan_check(plan, &fault), FM_ERR_FORMAT, "has not been written there");
    slots[0] = kept;
    slots[0].y = slots[0].x;
    assert_fails(fm_pipe_plan_check(plan, &fault), FM_ERR_FORMAT, "read and written by the same op");
    slots[0].y = plan->ranks[1].needs.activation_slots;
    assert_fails(fm_pipe_plan_check(plan, &fault), FM_ERR_FORMAT, "does not exist");
    assert_int_equal(fault.rank, 1);
    assert_int_equal(fault.op, 0);
    slots[0] = kept;
    // A second micro-batch into the first one's buffer, whose backward still needs it.
    struct fm_pipe_post *posts = receives_of(plan, 1);
    int32_t slot = posts[1].slot;
    posts[1].slot = posts[0].slot;
    slots[1].x = posts[0].slot;
    assert_fails(fm_pipe_plan_check(plan, &fault), FM_ERR_FORMAT, "or not any more");
    posts[1].slot = slot;
    slots[1].x = slot;
    assert_ok(fm_pipe_plan_check(plan, &fault));
    // Received into what is being sent at that moment.
    sends_of(plan, 1)[0].slot = posts[1].slot;
    slots[0].y = posts[1].slot;
    posts[1].boundary = sends_of(plan, 1)[0].boundary;
    assert_fails(fm_pipe_plan_check(plan, &fault), FM_ERR_FORMAT, "received into while it is being sent");
    free_both(plan, program);
}

static void a_post_at_no_boundary_is_found(void **state)
{
    (void)state;
    fm_pipe_program *program;
    fm_pipe_fault fault;
    fm_pipe_plan *plan = plan_of(FM_PIPE_GPIPE, 2, 4, &program);
    sends_of(plan, 0)[3].boundary = 0;
    assert_fails(fm_pipe_plan_check(plan, &fault), FM_ERR_FORMAT, "come at no boundary in ascending order");
    free_both(plan, program);
}

// Two pipelines towards each other: each rank sends its first forward before it looks for the other's. With receives
// posted only by the op that needs them, that stands still; where the plan posts them, it runs.
static void late_receives_deadlock_under_rendezvous(void **state)
{
    (void)state;
    static const char *const texts[] = {"F0.0 F0.1 F1.0 F1.1 B1.0 B1.1 B0.0 B0.1",
                                        "F1.0 F1.1 F0.0 F0.1 B0.0 B0.1 B1.0 B1.1"};
    fm_pipe_program layout = {.placement = FM_PIPE_MIRROR, .ranks = 2, .lanes = 2, .micro_batches = 4};
    fm_pipe_program *program = pipe_case_text(layout, texts);
    fm_pipe_plan *plan = NULL;
    fm_pipe_fault fault;
    assert_ok(fm_pipe_program_verify(program, 2, NULL));
    assert_ok(fm_pipe_plan_create(program, &plan));
    for (int rank = 0; rank < 2; rank++)
        for (size_t i = 0; i < plan->ranks[rank].needs.receives; i++) {
            struct fm_pipe_post *post = &receives_of(plan, rank)[i];
            if (post->kind == FM_PIPE_ACTIVATION)
                post->boundary = 2 + (uint32_t)post->chunk; // where its F stands
        }
    assert_fails(fm_pipe_plan_check_links(plan, 0, &fault), FM_ERR_FORMAT,
                 "deadlock over links that hold 0 messages");
    assert_int_equal(fault.rank, 0);
    assert_int_equal(fault.op, 1);
    assert_non_null(strstr(fault.text, "a send to rank 1 waits; that rank stands before op 1"));
    // Links that take two messages are enough.
    assert_ok(fm_pipe_plan_check_links(plan, 2, &fault));
    fm_pipe_plan_free(plan);
    fm_pipe_program_free(program);
}

// With two ranks and a loop of four stages, both kinds of messages of both directions share one link each way.
static void two_ranks_share_one_link_each_way(void **state)
{
    (void)state;
    fm_pipe_program *program = pipe_case(FM_PIPE_INTERLEAVED, 2, 6, 4);
    assert_ok(fm_pipe_program_verify(program, 4, NULL));
    fm_pipe_program_free(program);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lost_and_swapped_messages_are_found),
        cmocka_unit_test(wrong_buffers_are_found),
        cmocka_unit_test(a_post_at_no_boundary_is_found),
        cmocka_unit_test(late_receives_deadlock_under_rendezvous),
        cmocka_unit_test(two_ranks_share_one_link_each_way),
    };
    return fm_test_run("pipe.pipe_verify", tests);
}
