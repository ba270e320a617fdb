// Experts that change places between steps.
#include "model_fixture.h"

enum { MOVES = 3 };

// Experts that change places take their moments along: the losses are those of experts that stay, but for rounding; and the
// parameters those of before, to the bit.
static void experts_move_as_a_plan_says(void **state)
{
    static fm_model_step_result one[MOVES], many[MOVES];
    char path[1024];
    int64_t all_moved = 0;
    (void)state;
    snprintf(path, sizeof path, "%s/moved.safetensors", fm_test_tmpdir());
    fm_trainer *alone = model_fixture_open(1, 1, FM_PIPE_CUSTOM);
    model_fixture_train(alone, MOVES, one);
    fm_model_trainer_close(alone);
    for (int i = 0; i < LAYOUTS; i++) {
        if (model_fixture_layouts[i].experts < 2)
            continue;
        fm_trainer *trainer = model_fixture_open_layout(i);
        for (int step = 0; step < MOVES; step++) {
            int64_t moved = 0;
            fm_eplb_plan *plan =
                model_fixture_plan(trainer, model_fixture_layouts[i].experts, (uint64_t)step);
            fm_trainer *before = model_fixture_open(1, 1, FM_PIPE_CUSTOM),
                       *after = model_fixture_open(1, 1, FM_PIPE_CUSTOM);
            assert_ok(fm_model_trainer_save(trainer, path, NULL));
            assert_ok(fm_model_trainer_load(before, path));
            assert_ok(fm_model_trainer_place(trainer, plan, &moved));
            for (int layer = 0; layer < 4; layer++)
                assert_memory_equal(fm_model_trainer_placement(trainer, layer + 1), plan->phy2log + layer * 6,
                                    6 * sizeof(int32_t));
            assert_ok(fm_model_trainer_save(trainer, path, NULL));
            assert_ok(fm_model_trainer_load(after, path));
            assert_memory_equal(after->values, before->values, (size_t)before->count * sizeof(float));
            assert_memory_equal(after->mean, before->mean, (size_t)before->count * sizeof(float));
            assert_memory_equal(after->square, before->square, (size_t)before->count * sizeof(float));
            model_fixture_train(trainer, step + 1, many);
            model_fixture_near(i, "the loss", many[step].loss, one[step].loss);
            model_fixture_near(i, "the gradient's norm", many[step].gradient_norm, one[step].gradient_norm);
            all_moved += moved;
            fm_eplb_plan_free(plan);
            fm_model_trainer_close(before);
            fm_model_trainer_close(after);
        }
        fm_model_trainer_close(trainer);
    }
    assert_true(all_moved > 60);
}

// A state that was saved after a move goes on to the same bits.
static void moved_experts_resume_exactly(void **state)
{
    static fm_model_step_result first[STEPS], second[STEPS];
    char path[1024];
    int64_t moved;
    (void)state;
    snprintf(path, sizeof path, "%s/resumed.safetensors", fm_test_tmpdir());
    for (int i = 0; i < LAYOUTS; i++) {
        if (model_fixture_layouts[i].experts < 2)
            continue;
        fm_trainer *trainer = model_fixture_open_layout(i), *other = model_fixture_open_layout(i);
        model_fixture_train(trainer, 2, first);
        fm_eplb_plan *plan = model_fixture_plan(trainer, model_fixture_layouts[i].experts, 77);
        assert_ok(fm_model_trainer_place(trainer, plan, &moved));
        assert_true(moved > 0);
        assert_ok(fm_model_trainer_save(trainer, path, NULL));
        model_fixture_train(trainer, 6, first);
        assert_ok(fm_model_trainer_load(other, path));
        model_fixture_train(other, 6, second);
        assert_memory_equal(first + 2, second + 2, 4 * sizeof *first);
        fm_eplb_plan_free(plan);
        fm_model_trainer_close(trainer);
        fm_model_trainer_close(other);
    }
}

static void plans_that_do_not_fit_are_named(void **state)
{
    fm_trainer *trainer = model_fixture_open(1, 2, FM_PIPE_1F1B),
               *alone = model_fixture_open(1, 1, FM_PIPE_CUSTOM);
    fm_eplb_shape shape = {.layers = 4, .experts = 6, .replicas = 8, .groups = 1, .nodes = 1, .gpus = 2};
    float weight[24];
    fm_eplb_plan *plan;
    int64_t moved;
    (void)state;
    for (int i = 0; i < 24; i++)
        weight[i] = (float)(i + 1);
    assert_ok(fm_eplb_rebalance(&shape, weight, NULL, &plan));
    assert_fails(fm_model_trainer_place(trainer, plan, &moved), FM_ERR_ARG, "8 slots");
    assert_fails(fm_model_trainer_place(alone, plan, &moved), FM_ERR_STATE, "one expert rank");
    assert_null(fm_model_trainer_placement(alone, 1));
    assert_null(fm_model_trainer_placement(trainer, 0)); // dense
    fm_eplb_plan_free(plan);
    fm_model_trainer_close(trainer);
    fm_model_trainer_close(alone);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(experts_move_as_a_plan_says),
        cmocka_unit_test(moved_experts_resume_exactly),
        cmocka_unit_test(plans_that_do_not_fit_are_named),
    };
    return fm_test_run("model_move", tests);
}
