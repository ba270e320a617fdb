#include "pipe_cases.h"

// A visit's saved slot is its own from its forward to its last op, and all slots are within what is said to be needed.
static void check_saved_slots(const fm_pipe_program *program, const fm_pipe_plan *plan)
{
    for (int rank = 0; rank < program->ranks; rank++) {
        fm_pipe_needs needs;
        assert_ok(fm_pipe_plan_needs(plan, rank, &needs));
        int *owner = calloc((size_t)needs.saved_slots, sizeof *owner); // 1 + visit
        int live = 0;
        int peak = 0;
        for (size_t i = program->first[rank]; i < program->first[rank + 1]; i++) {
            const fm_pipe_op *op = &program->ops[i];
            const struct fm_pipe_slots *slots = &plan->slots[i];
            if (fm_pipe_has_forward(op)) {
                assert_in_range(slots->saved, 0, needs.saved_slots - 1);
                assert_int_equal(owner[slots->saved], 0);
                owner[slots->saved] = 1 + (int)fm_pipe_visit(program, rank, op->lane, op->chunk);
                peak = ++live > peak ? live : peak;
            }
            if (op->kind != FM_PIPE_F)
                assert_int_equal(
                    owner[slots->back_saved],
                    1 + (int)fm_pipe_visit(program, rank, fm_pipe_back_lane(op), fm_pipe_back_chunk(op)));
            if (fm_pipe_ends_visit(op) || program->forward_only) {
                owner[program->forward_only ? slots->saved : slots->back_saved] = 0;
                live--;
            }
        }
        assert_int_equal(needs.saved_slots, peak); // none too many
        free(owner);
    }
}

static void a_random_plan_holds(fm_gen *gen)
{
    fm_pipe_program *program = pipe_case_any(gen, 10, 30);
    fm_pipe_plan *plan = NULL;
    assert_ok(fm_pipe_plan_create(program, &plan));
    check_saved_slots(program, plan);
    size_t sends = 0;
    size_t receives = 0;
    for (int rank = 0; rank < program->ranks; rank++) {
        sends += plan->ranks[rank].needs.sends;
        receives += plan->ranks[rank].needs.receives;
    }
    assert_int_equal(sends, receives);
    fm_pipe_plan_free(plan);
    fm_pipe_program_free(program);
}

static void random_plans_hold(void **state)
{
    (void)state;
    fm_gen_property(100, a_random_plan_holds);
}

// The steady state of 1F1B on a middle rank: inputs of the micro-batches in flight, one output on its way.
static void buffers_are_few(void **state)
{
    (void)state;
    fm_pipe_program *program = pipe_case(FM_PIPE_1F1B, 8, 100, 0);
    fm_pipe_plan *plan = NULL;
    fm_pipe_needs needs;
    assert_ok(fm_pipe_plan_create(program, &plan));
    for (int rank = 1; rank < 7; rank++) {
        assert_ok(fm_pipe_plan_needs(plan, rank, &needs));
        assert_int_equal(needs.saved_slots, 8 - rank);
        assert_in_range(needs.activation_slots, 8 - rank, 8 - rank + 2);
        assert_in_range(needs.gradient_slots, 1, 3);
        assert_int_equal(needs.sends, 200);
        assert_int_equal(needs.receives, 200);
    }
    assert_fails(fm_pipe_plan_needs(plan, 8, &needs), FM_ERR_ARG, "rank is 8; expected 0 to 7");
    assert_fails(fm_pipe_plan_needs(plan, -1, &needs), FM_ERR_ARG, "rank is -1");
    fm_pipe_plan_free(plan);
    fm_pipe_program_free(program);
}

static void what_stays_on_a_rank_is_no_message(void **state)
{
    (void)state;
    fm_pipe_program *program = pipe_case(FM_PIPE_DUALPIPEV, 1, 4, 0);
    fm_pipe_plan *plan = NULL;
    fm_pipe_needs needs;
    assert_ok(fm_pipe_plan_create(program, &plan));
    assert_ok(fm_pipe_plan_needs(plan, 0, &needs));
    assert_int_equal(needs.sends + needs.receives, 0);
    assert_true(needs.activation_slots > 0 && needs.gradient_slots > 0);
    fm_pipe_plan_free(plan);
    fm_pipe_program_free(program);
}

static void wrong_programs_have_no_plan(void **state)
{
    (void)state;
    fm_pipe_program layout = {.ranks = 2, .lanes = 1, .micro_batches = 2};
    static const char *const texts[] = {"F0.0 B0.0 F0.1 B0.1", "F0.0 F0.1 B0.0 B0.1"};
    fm_pipe_program *program = pipe_case_text(layout, texts);
    fm_pipe_plan *plan = NULL;
    assert_fails(fm_pipe_plan_create(program, &plan), FM_ERR_FORMAT, "deadlock");
    assert_fails(fm_pipe_plan_create(NULL, &plan), FM_ERR_ARG, "NULL");
    assert_null(plan);
    fm_pipe_program_free(program);
}

static fm_status make_plan(void *context)
{
    fm_pipe_plan *plan = NULL;
    fm_status status = fm_pipe_plan_create(context, &plan);
    fm_pipe_plan_free(plan);
    return status;
}

static void refused_allocations_leave_nothing(void **state)
{
    (void)state;
    fm_pipe_program *program = pipe_case(FM_PIPE_ZB_V, 3, 6, 0);
    fm_test_each_alloc_fails(make_plan, program);
    fm_pipe_program_free(program);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_plans_hold),
        cmocka_unit_test(buffers_are_few),
        cmocka_unit_test(what_stays_on_a_rank_is_no_message),
        cmocka_unit_test(wrong_programs_have_no_plan),
        cmocka_unit_test(refused_allocations_leave_nothing),
    };
    return fm_test_run("pipe.pipe_planner", tests);
}
