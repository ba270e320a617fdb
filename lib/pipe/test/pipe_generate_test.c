#include "pipe_cases.h"

static void every_size_of_every_schedule_is_right(void **state)
{
    (void)state;
    for (int schedule = 1; schedule < FM_PIPE_SCHEDULE_COUNT; schedule++)
        for (int ranks = 1; ranks <= 8; ranks++)
            for (int micro_batches = 1; micro_batches <= 2 * ranks + 5; micro_batches++) {
                if (ranks % 2 && fm_pipe_schedule_placement((fm_pipe_schedule)schedule) == FM_PIPE_MIRROR)
                    continue;
                fm_pipe_program *program = pipe_case((fm_pipe_schedule)schedule, ranks, micro_batches, 0);
                fm_pipe_fault fault = {0};
                if (fm_pipe_program_verify(program, 2, &fault) != FM_OK)
                    fail_msg("%s, %d ranks, %d micro-batches: %s",
                             fm_pipe_schedule_name((fm_pipe_schedule)schedule), ranks, micro_batches,
                             fault.text);
                fm_pipe_program_free(program);
            }
}

static void a_random_size_is_right(fm_gen *gen)
{
    fm_pipe_program *program = pipe_case_any(gen, 32, 100);
    assert_ok(fm_pipe_program_verify(program, 0, NULL));
    // Micro-batches of a lane pass in order: what a stage gets first it also hands on first.
    for (int rank = 0; rank < program->ranks; rank++) {
        int next[2][FM_PIPE_LANES_MAX] = {{0}};
        for (size_t i = 0; i < fm_pipe_count_of(program, rank); i++) {
            const fm_pipe_op *op = &fm_pipe_ops_of(program, rank)[i];
            if (fm_pipe_has_forward(op))
                assert_int_equal(op->chunk, next[0][op->lane]++);
            if (fm_pipe_has_backward(op))
                assert_int_equal(fm_pipe_back_chunk(op), next[1][fm_pipe_back_lane(op)]++);
        }
    }
    fm_pipe_program_free(program);
}

static void random_sizes_are_right(void **state)
{
    (void)state;
    fm_gen_property(100, a_random_size_is_right);
}

static void forward_only_holds_forwards(void **state)
{
    (void)state;
    for (int schedule = 1; schedule < FM_PIPE_SCHEDULE_COUNT; schedule++) {
        fm_pipe_shape shape = {.size = sizeof shape,
                               .schedule = (fm_pipe_schedule)schedule,
                               .ranks = 4,
                               .micro_batches = 9,
                               .forward_only = 1};
        fm_pipe_program *program = NULL;
        assert_ok(fm_pipe_program_generate(&shape, &program));
        assert_int_equal(fm_pipe_op_total(program), program->stages * 9);
        assert_ok(fm_pipe_program_verify(program, 1, NULL));
        fm_pipe_program_free(program);
    }
}

static void impossible_sizes_are_refused(void **state)
{
    (void)state;
    fm_pipe_program *program = NULL;
    fm_pipe_shape shape = {.size = sizeof shape, .schedule = FM_PIPE_1F1B, .ranks = 0, .micro_batches = 4};
    assert_fails(fm_pipe_program_generate(&shape, &program), FM_ERR_ARG, "ranks is 0; expected at least 1");
    shape.ranks = INT32_MAX;
    assert_fails(fm_pipe_program_generate(&shape, &program), FM_ERR_LIMIT, "at most 1024");
    shape.ranks = 4;
    shape.micro_batches = -1;
    assert_fails(fm_pipe_program_generate(&shape, &program), FM_ERR_ARG, "micro_batches is -1");
    shape.micro_batches = INT32_MAX;
    assert_fails(fm_pipe_program_generate(&shape, &program), FM_ERR_LIMIT, "at most 65536");
    shape = (fm_pipe_shape){.size = sizeof(fm_pipe_shape),
                            .schedule = FM_PIPE_INTERLEAVED,
                            .ranks = 1024,
                            .micro_batches = 65536,
                            .lanes = 64};
    assert_fails(fm_pipe_program_generate(&shape, &program), FM_ERR_LIMIT, "ranks * lanes * chunks");
    shape.lanes = 65;
    assert_fails(fm_pipe_program_generate(&shape, &program), FM_ERR_LIMIT, "lanes is 65");
    shape.lanes = -1;
    assert_fails(fm_pipe_program_generate(&shape, &program), FM_ERR_ARG, "lanes is -1");
    shape = (fm_pipe_shape){
        .size = sizeof(fm_pipe_shape), .schedule = FM_PIPE_DUALPIPE, .ranks = 5, .micro_batches = 10};
    assert_fails(fm_pipe_program_generate(&shape, &program), FM_ERR_ARG, "nearest are 4 and 6");
    shape.schedule = FM_PIPE_CHIMERA;
    shape.ranks = 1;
    assert_fails(fm_pipe_program_generate(&shape, &program), FM_ERR_ARG, "nearest is 2");
    shape = (fm_pipe_shape){
        .size = sizeof(fm_pipe_shape), .schedule = FM_PIPE_GPIPE, .ranks = 2, .micro_batches = 2, .lanes = 2};
    assert_fails(fm_pipe_program_generate(&shape, &program), FM_ERR_ARG, "as gpipe has");
    shape.schedule = FM_PIPE_CUSTOM;
    assert_fails(fm_pipe_program_generate(&shape, &program), FM_ERR_ARG, "can be generated");
    shape.size = 0;
    assert_fails(fm_pipe_program_generate(&shape, &program), FM_ERR_VERSION, "size of fm_pipe_shape is 0");
    assert_fails(fm_pipe_program_generate(NULL, &program), FM_ERR_ARG, "NULL");
    assert_null(program);
}

static void names_are_read_loosely_and_listed(void **state)
{
    (void)state;
    fm_pipe_schedule schedule = FM_PIPE_CUSTOM;
    for (int i = 0; i < FM_PIPE_SCHEDULE_COUNT; i++) {
        assert_ok(fm_pipe_schedule_parse(fm_pipe_schedule_name((fm_pipe_schedule)i), &schedule));
        assert_int_equal(schedule, i);
    }
    assert_ok(fm_pipe_schedule_parse("ZB1P", &schedule));
    assert_int_equal(schedule, FM_PIPE_ZB_H1);
    assert_ok(fm_pipe_schedule_parse("Dual_Pipe-V", &schedule));
    assert_int_equal(schedule, FM_PIPE_DUALPIPEV);
    assert_fails(
        fm_pipe_schedule_parse("dualpip", &schedule), FM_ERR_ARG,
        "expected one of gpipe, 1f1b, interleaved, zb-h1, zb-h2, zb-v, chimera, dualpipe, dualpipev");
    assert_fails(fm_pipe_schedule_parse("", &schedule), FM_ERR_ARG, "expected one of");
    assert_int_equal(schedule, FM_PIPE_DUALPIPEV);
}

static fm_status generate(void *context)
{
    fm_pipe_program *program = NULL;
    fm_status status = fm_pipe_program_generate(context, &program);
    fm_pipe_program_free(program);
    return status;
}

static void refused_allocations_leave_nothing(void **state)
{
    (void)state;
    fm_test_each_alloc_fails(generate, &(fm_pipe_shape){.size = sizeof(fm_pipe_shape),
                                                        .schedule = FM_PIPE_DUALPIPE,
                                                        .ranks = 4,
                                                        .micro_batches = 8});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_size_of_every_schedule_is_right),
        cmocka_unit_test(random_sizes_are_right),
        cmocka_unit_test(forward_only_holds_forwards),
        cmocka_unit_test(impossible_sizes_are_refused),
        cmocka_unit_test(names_are_read_loosely_and_listed),
        cmocka_unit_test(refused_allocations_leave_nothing),
    };
    return fm_test_run("pipe.pipe_generate", tests);
}
