#include "pipe_cases.h"

static void stage_and_locate_are_inverse(void **state)
{
    (void)state;
    for (int schedule = 1; schedule < FM_PIPE_SCHEDULE_COUNT; schedule++)
        for (int ranks = 2; ranks <= 6; ranks += 2) {
            fm_pipe_program *program =
                pipe_case((fm_pipe_schedule)schedule, ranks, 5, schedule == FM_PIPE_INTERLEAVED ? 3 : 0);
            int seen[2][32] = {{0}};
            for (int rank = 0; rank < ranks; rank++)
                for (int lane = 0; lane < program->lanes; lane++) {
                    int stage = fm_pipe_stage(program, rank, lane);
                    int direction = fm_pipe_direction(program, lane);
                    int found = -1;
                    assert_in_range(stage, 0, program->stages - 1);
                    assert_int_equal(fm_pipe_locate(program, direction, stage, &found), lane);
                    assert_int_equal(found, rank);
                    seen[direction][stage]++;
                }
            for (int stage = 0; stage < program->stages; stage++) {
                assert_int_equal(seen[0][stage], 1);
                assert_int_equal(seen[1][stage], program->placement == FM_PIPE_MIRROR);
            }
            fm_pipe_program_free(program);
        }
}

static void routes_lead_to_neighbours_on_the_ring(void **state)
{
    (void)state;
    const fm_pipe_schedule schedules[] = {FM_PIPE_INTERLEAVED, FM_PIPE_ZB_V, FM_PIPE_DUALPIPE};
    for (int i = 0; i < 3; i++) {
        enum { RANKS = 6 };
        fm_pipe_program *program = pipe_case(schedules[i], RANKS, 4, 0);
        struct fm_pipe_route routes[2 * RANKS];
        fm_pipe_routes_fill(program, routes);
        for (int at = 0; at < 2 * RANKS; at++) {
            const struct fm_pipe_route *route = &routes[at];
            assert_int_equal(route->prev_rank < 0, route->stage == 0);
            assert_int_equal(route->next_rank < 0, route->stage == program->stages - 1);
            if (route->next_rank < 0)
                continue;
            int away = (route->next_rank - at / 2 + RANKS) % RANKS;
            assert_true(away == 0 || away == 1 || away == RANKS - 1);
            const struct fm_pipe_route *next = &routes[2 * route->next_rank + route->next_lane];
            assert_int_equal(next->stage, route->stage + 1);
            assert_int_equal(next->prev_rank, at / 2);
            assert_int_equal(next->prev_lane, at % 2);
        }
        fm_pipe_program_free(program);
    }
}

static void micro_batches_are_shared_between_directions(void **state)
{
    (void)state;
    fm_pipe_program *program = pipe_case(FM_PIPE_DUALPIPE, 2, 7, 0);
    assert_int_equal(program->chunks[0], 4);
    assert_int_equal(program->chunks[1], 3);
    assert_int_equal(fm_pipe_micro_batch(program, 0, 3), 3);
    assert_int_equal(fm_pipe_micro_batch(program, 1, 0), 4);
    assert_int_equal(fm_pipe_micro_batch(program, 1, 2), 6);
    fm_pipe_program_free(program);
}

static void bad_layouts_are_refused(void **state)
{
    (void)state;
    const fm_pipe_op ops[] = {{.kind = FM_PIPE_F}, {.kind = FM_PIPE_B}};
    size_t first[] = {0, 2};
    fm_pipe_program layout = {.ranks = 1, .lanes = 1, .micro_batches = 1, .first = first};
    fm_pipe_program *program = NULL;
    assert_ok(fm_pipe_program_create(&layout, ops, &program));
    assert_ok(fm_pipe_program_verify(program, 1, NULL));
    assert_int_equal(program->stages, 1);
    fm_pipe_program_free(program);
    program = NULL;

    layout.placement = FM_PIPE_V;
    assert_fails(fm_pipe_program_create(&layout, ops, &program), FM_ERR_ARG, "lanes is 1; expected 2");
    layout.placement = (fm_pipe_placement)9;
    assert_fails(fm_pipe_program_create(&layout, ops, &program), FM_ERR_ARG, "placement is 9");
    layout.placement = FM_PIPE_LOOP;
    layout.schedule = (fm_pipe_schedule)99;
    assert_fails(fm_pipe_program_create(&layout, ops, &program), FM_ERR_ARG, "schedule is 99");
    layout.schedule = FM_PIPE_CUSTOM;
    first[1] = (size_t)1 << 60;
    assert_fails(fm_pipe_program_create(&layout, ops, &program), FM_ERR_ARG, "first[1]");
    first[0] = 1;
    first[1] = 2;
    assert_fails(fm_pipe_program_create(&layout, ops, &program), FM_ERR_ARG, "first[0] is 1");
    first[0] = 3;
    assert_fails(fm_pipe_program_create(&layout, ops, &program), FM_ERR_ARG, "first[1] is 2 after 3");
    assert_fails(fm_pipe_program_create(&layout, NULL, &program), FM_ERR_ARG, "NULL");
    assert_null(program);
}

static void ops_have_names(void **state)
{
    (void)state;
    char text[FM_PIPE_OP_TEXT_BYTES];
    fm_pipe_op op = {.kind = FM_PIPE_I, .lane = 1, .chunk = 65535};
    assert_string_equal(fm_pipe_op_text(&op, text), "I lane 1 chunk 65535");
    op = (fm_pipe_op){
        .kind = FM_PIPE_FB, .lane = 255, .back_lane = 255, .chunk = INT32_MIN, .back_chunk = INT32_MIN};
    assert_string_equal(fm_pipe_op_text(&op, text),
                        "FB lane 255 chunk -2147483648 with lane 255 chunk -2147483648");
    assert_string_equal(fm_pipe_kind_name((fm_pipe_kind)77), "?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stage_and_locate_are_inverse),
        cmocka_unit_test(routes_lead_to_neighbours_on_the_ring),
        cmocka_unit_test(micro_batches_are_shared_between_directions),
        cmocka_unit_test(bad_layouts_are_refused),
        cmocka_unit_test(ops_have_names),
    };
    return fm_test_run("pipe.pipe_program", tests);
}
