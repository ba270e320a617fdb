// Experts that change ranks while a model is trained: the same losses, less on the busiest rank, and the same bits after a break.
#include "model_fixture.h"

enum { INTERVAL = 3, CUT = 7 };

static void layouts_run(void (*check)(int layout))
{
    for (int i = 0; i < LAYOUTS; i++)
        if (model_fixture_layouts[i].experts > 1)
            check(i);
}

// Trains to a number of steps, rebalancing behind each.
static void train(fm_trainer *trainer, fm_rebalance *rebalance, int64_t steps, fm_model_step_result *results)
{
    while (fm_model_trainer_steps(trainer) < steps) {
        model_fixture_train(trainer, fm_model_trainer_steps(trainer) + 1, results);
        assert_ok(fm_model_rebalance_step(rebalance, trainer, NULL));
    }
}

static fm_rebalance *open_for(fm_trainer *trainer, int layout)
{
    fm_rebalance *rebalance;
    assert_ok(fm_model_rebalance_open(trainer, model_fixture_layouts[layout].experts, INTERVAL, &rebalance));
    return rebalance;
}

static void check_losses(int layout)
{
    static fm_model_step_result one[STEPS], many[STEPS];
    fm_trainer *alone = model_fixture_open(1, 1, FM_PIPE_CUSTOM),
               *trainer = model_fixture_open_layout(layout);
    fm_rebalance *rebalance = open_for(trainer, layout);
    model_fixture_train(alone, STEPS, one);
    train(trainer, rebalance, STEPS, many);
    for (int i = 0; i < STEPS; i++)
        model_fixture_near(layout, "the loss", many[i].loss, one[i].loss);
    fm_model_rebalance_figures figures = fm_model_rebalance_figures_of(rebalance);
    int ranks = model_fixture_layouts[layout].experts;
    // 3 layers of experts, 2 experts of a token.
    assert_int_equal(figures.steps, STEPS);
    assert_int_equal(figures.load, (int64_t)STEPS * 3 * 2 * SEQUENCES * LENGTH);
    assert_true(figures.plans > 0 && figures.moved > 0);
    assert_true(figures.busiest * ranks >= figures.load);
    assert_true(figures.busiest < figures.busiest_in_order);
    fm_model_rebalance_close(rebalance);
    fm_model_trainer_close(trainer);
    fm_model_trainer_close(alone);
}

static void losses_are_those_of_experts_that_stay(void **state)
{
    (void)state;
    layouts_run(check_losses);
}

static void check_resume(int layout)
{
    static fm_model_step_result first[STEPS], second[STEPS];
    fm_trainer *trainer = model_fixture_open_layout(layout), *other = model_fixture_open_layout(layout);
    fm_rebalance *rebalance = open_for(trainer, layout), *taken_up = open_for(other, layout);
    void *bytes, *loads;
    size_t length, loads_length;
    train(trainer, rebalance, CUT, first);
    assert_ok(fm_model_trainer_pack(trainer, NULL, &bytes, &length));
    assert_ok(fm_model_rebalance_pack(rebalance, &loads, &loads_length));
    train(trainer, rebalance, STEPS, first);
    assert_ok(fm_model_trainer_unpack(other, bytes, length, "state"));
    assert_ok(fm_model_rebalance_unpack(taken_up, loads, loads_length, "loads"));
    train(other, taken_up, STEPS, second);
    assert_memory_equal(first + CUT, second + CUT, (STEPS - CUT) * sizeof *first);
    fm_model_rebalance_figures a = fm_model_rebalance_figures_of(rebalance),
                               b = fm_model_rebalance_figures_of(taken_up);
    assert_memory_equal(&a, &b, sizeof a);
    fm_base_mem_free(bytes);
    fm_base_mem_free(loads);
    fm_model_rebalance_close(rebalance);
    fm_model_rebalance_close(taken_up);
    fm_model_trainer_close(trainer);
    fm_model_trainer_close(other);
}

static void training_that_was_cut_short_goes_on_to_the_same_bits(void **state)
{
    (void)state;
    layouts_run(check_resume);
}

static fm_status pack_once(void *context)
{
    fm_trainer *trainer = context;
    fm_rebalance *rebalance;
    void *bytes;
    size_t length;
    FM_TRY(fm_model_rebalance_open(trainer, 2, INTERVAL, &rebalance));
    fm_status status = fm_model_rebalance_pack(rebalance, &bytes, &length);
    if (status == FM_OK)
        fm_base_mem_free(bytes);
    fm_model_rebalance_close(rebalance);
    return status;
}

static void bad_records_and_options_are_refused(void **state)
{
    fm_trainer *trainer = model_fixture_open(1, 2, FM_PIPE_1F1B),
               *alone = model_fixture_open(1, 1, FM_PIPE_CUSTOM);
    fm_rebalance *rebalance;
    void *bytes;
    size_t length;
    (void)state;
    assert_fails(fm_model_rebalance_open(trainer, 2, 1, &rebalance), FM_ERR_ARG, "every 1 steps");
    assert_fails(fm_model_rebalance_open(trainer, 1, 5, &rebalance), FM_ERR_ARG, "1 expert ranks");
    assert_fails(fm_model_rebalance_open(alone, 2, 5, &rebalance), FM_ERR_ARG, "as the trainer has them");
    assert_ok(fm_model_rebalance_open(trainer, 2, 5, &rebalance));
    assert_ok(fm_model_rebalance_pack(rebalance, &bytes, &length));
    unsigned char *record = bytes;
    for (size_t cut = 0; cut < length; cut++)
        assert_fails(fm_model_rebalance_unpack(rebalance, record, cut, "cut.bin"), FM_ERR_FORMAT, "cut.bin");
    for (size_t at = 0; at < 24; at++) { // magic, version, sizes
        record[at] ^= 1;
        assert_fails(fm_model_rebalance_unpack(rebalance, record, length, "odd.bin"), FM_ERR_FORMAT,
                     "odd.bin");
        record[at] ^= 1;
    }
    record[24] = 5; // as many steps as an interval has
    assert_fails(fm_model_rebalance_unpack(rebalance, record, length, "odd.bin"), FM_ERR_FORMAT, "5 steps");
    record[24] = 4;
    record[length - 1] = 0x80;
    assert_fails(fm_model_rebalance_unpack(rebalance, record, length, "odd.bin"), FM_ERR_FORMAT, "a load of");
    record[length - 1] = 0;
    assert_ok(fm_model_rebalance_unpack(rebalance, record, length, "odd.bin"));
    fm_base_mem_free(bytes);
    fm_model_rebalance_close(rebalance);
    fm_test_each_alloc_fails(pack_once, trainer);
    fm_model_trainer_close(trainer);
    fm_model_trainer_close(alone);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(losses_are_those_of_experts_that_stay),
        cmocka_unit_test(training_that_was_cut_short_goes_on_to_the_same_bits),
        cmocka_unit_test(bad_records_and_options_are_refused),
    };
    return fm_test_run("model_rebalance", tests);
}
