// Training over several ranks: it learns what one rank learns, whatever the layout and schedule.
#include "fm_test.h"

#include <math.h>

#include "fathom/rng.h"
#include "model_rank.h"

static fm_model_config tiny(void)
{
    fm_model_config config = {.family = FM_MODEL_V3,
                              .vocab = 40,
                              .hidden = 24,
                              .intermediate = 40,
                              .layers = 4,
                              .dense_layers = 1,
                              .heads = 2,
                              .q_lora = 16,
                              .kv_lora = 12,
                              .nope = 8,
                              .rope = 4,
                              .value = 6,
                              .experts = 6,
                              .expert_intermediate = 16,
                              .shared_experts = 1,
                              .topk = 2,
                              .groups = 3,
                              .topk_groups = 2,
                              .gate = FM_MODEL_SIGMOID,
                              .correction_bias = 1,
                              .normalise_topk = 1,
                              .routed_scale = 1.5,
                              .epsilon = 1e-6,
                              .rope_theta = 100,
                              .context = 96,
                              .predict_layers = 1,
                              .bos = -1,
                              .eos = -1};
    return config;
}

enum { SEQUENCES = 8, LENGTH = 12, WIDTH = LENGTH + 2, STEPS = 12 };

// Sequences that count upwards from a random start.
static void counting_ids(int64_t step, int32_t *out)
{
    for (int s = 0; s < SEQUENCES; s++) {
        int first = (int)(fm_base_rng_at(3, 0, (uint64_t)(step * SEQUENCES + s)) % 40);
        for (int i = 0; i < WIDTH; i++)
            out[s * WIDTH + i] = (first + i) % 40;
    }
}

static fm_model_training training_of(int pipe, int experts, fm_pipe_schedule schedule)
{
    fm_model_training training = FM_MODEL_TRAINING_INIT;
    training.steps = STEPS;
    training.warmup_steps = 2;
    training.rate = 5e-3;
    training.deviation = 0.1;
    training.threads = 1;
    training.pipe_ranks = pipe;
    training.expert_ranks = experts;
    training.schedule = schedule;
    training.micro_batch = 1;
    training.timeout_ms = 60000;
    return training;
}

static fm_trainer *open_trainer(int pipe, int experts, fm_pipe_schedule schedule)
{
    fm_model_config config = tiny();
    fm_model_training training = training_of(pipe, experts, schedule);
    fm_trainer *trainer = NULL;
    assert_ok(fm_model_trainer_open(&config, &training, &trainer));
    return trainer;
}

static void train_to(fm_trainer *trainer, int64_t steps, fm_model_step_result *results)
{
    int32_t ids[SEQUENCES * WIDTH];
    while (fm_model_trainer_steps(trainer) < steps) {
        int64_t step = fm_model_trainer_steps(trainer);
        counting_ids(step, ids);
        assert_ok(fm_model_trainer_step(trainer, ids, SEQUENCES, LENGTH, &results[step]));
    }
}

static const struct layout {
    int pipe, experts;
    fm_pipe_schedule schedule;
} layouts[] = {
    {1, 2, FM_PIPE_1F1B},     {1, 3, FM_PIPE_1F1B},        {2, 1, FM_PIPE_1F1B},
    {2, 1, FM_PIPE_ZB_H1},    {2, 1, FM_PIPE_DUALPIPEV},   {2, 1, FM_PIPE_DUALPIPE},
    {2, 2, FM_PIPE_1F1B},     {2, 2, FM_PIPE_INTERLEAVED}, {2, 2, FM_PIPE_DUALPIPEV},
    {2, 2, FM_PIPE_DUALPIPE}, {4, 1, FM_PIPE_DUALPIPE},    {1, 1, FM_PIPE_CUSTOM},
};
enum { LAYOUTS = sizeof layouts / sizeof layouts[0] };

static fm_trainer *open_layout(int i)
{
    return open_trainer(layouts[i].pipe, layouts[i].experts, layouts[i].schedule);
}

static void check_near(int layout, const char *what, double is, double wanted)
{
    if (!(fabs(is - wanted) <= 2e-6 * fabs(wanted) + 2e-7)) // f32 sums in another order
        fail_msg("%d x %d, %s: %s is %.9g, with one rank %.9g", layouts[layout].pipe, layouts[layout].experts,
                 fm_pipe_schedule_name(layouts[layout].schedule), what, is, wanted);
}

static void every_layout_learns_what_one_rank_learns(void **state)
{
    static fm_model_step_result one[STEPS], many[STEPS];
    int64_t loads[4][6];
    (void)state;
    fm_trainer *alone = open_trainer(1, 1, FM_PIPE_CUSTOM);
    train_to(alone, STEPS, one);
    assert_true(one[STEPS - 1].loss < one[0].loss - 0.3);
    for (int layer = 1; layer < 4; layer++)
        memcpy(loads[layer], fm_model_trainer_loads(alone, layer), sizeof loads[layer]);
    fm_model_trainer_close(alone);
    for (int i = 0; i < LAYOUTS; i++) {
        fm_trainer *trainer = open_layout(i);
        train_to(trainer, STEPS, many);
        for (int step = 0; step < STEPS; step++) {
            check_near(i, "the loss", many[step].loss, one[step].loss);
            check_near(i, "the predictors' loss", many[step].predict_loss, one[step].predict_loss);
            check_near(i, "the balance loss", many[step].balance_loss, one[step].balance_loss);
            check_near(i, "the gradient's norm", many[step].gradient_norm, one[step].gradient_norm);
        }
        for (int layer = 1; layer < 4; layer++)
            assert_memory_equal(fm_model_trainer_loads(trainer, layer), loads[layer], sizeof loads[layer]);
        fm_model_trainer_close(trainer);
    }
}

static void a_layout_gives_the_same_bits_again(void **state)
{
    static fm_model_step_result first[STEPS], second[STEPS];
    (void)state;
    for (int i = 0; i < LAYOUTS; i++) {
        fm_trainer *one = open_layout(i), *two = open_layout(i);
        train_to(one, 4, first);
        train_to(two, 4, second);
        assert_memory_equal(first, second, 4 * sizeof *first);
        fm_model_trainer_close(one);
        fm_model_trainer_close(two);
    }
}

// Fewer sequences than ranks, numbers that do not divide, lengths that change: growing is joining anew.
static void batches_may_have_any_shape(void **state)
{
    static const int shapes[][2] = {{1, 5}, {3, 12}, {8, 2}, {1, 12}, {5, 7}};
    int32_t ids[SEQUENCES * WIDTH];
    (void)state;
    for (int i = 0; i < LAYOUTS; i++) {
        fm_trainer *alone = open_trainer(1, 1, FM_PIPE_CUSTOM), *trainer = open_layout(i);
        for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
            fm_model_step_result one, many;
            double loss, wanted;
            counting_ids((int64_t)s, ids);
            assert_ok(fm_model_trainer_step(alone, ids, shapes[s][0], shapes[s][1], &one));
            assert_ok(fm_model_trainer_step(trainer, ids, shapes[s][0], shapes[s][1], &many));
            check_near(i, "the loss", many.loss, one.loss);
            assert_ok(fm_model_trainer_evaluate(alone, ids, 1, LENGTH, &wanted));
            assert_ok(fm_model_trainer_evaluate(trainer, ids, 1, LENGTH, &loss));
            check_near(i, "the loss of one sequence", loss, wanted);
        }
        fm_model_trainer_close(alone);
        fm_model_trainer_close(trainer);
    }
}

static void narrow_products_learn_alike(void **state)
{
    static const fm_dtype dtypes[] = {FM_DTYPE_BF16, FM_DTYPE_F8_E4M3};
    static fm_model_step_result one[STEPS], many[STEPS];
    fm_model_config config = tiny();
    (void)state;
    for (int i = 0; i < 2; i++) {
        fm_model_training training = training_of(1, 1, FM_PIPE_CUSTOM);
        fm_trainer *alone, *trainer;
        training.dtype = dtypes[i];
        assert_ok(fm_model_trainer_open(&config, &training, &alone));
        training.pipe_ranks = training.expert_ranks = 2;
        training.schedule = FM_PIPE_DUALPIPEV;
        assert_ok(fm_model_trainer_open(&config, &training, &trainer));
        train_to(alone, STEPS, one);
        train_to(trainer, STEPS, many);
        assert_true(fm_model_trainer_products(trainer, dtypes[i]) > 1000);
        for (int step = 0; step < STEPS; step++)
            assert_true(fabs(many[step].loss - one[step].loss) < (i == 0 ? 0.01 : 0.05));
        fm_model_trainer_close(alone);
        fm_model_trainer_close(trainer);
    }
}

// A state goes on exactly where it was saved, in the same layout to the bit; in another one as that rounds.
static void states_go_on_in_any_layout(void **state)
{
    static fm_model_step_result whole[STEPS], rest[STEPS], one[STEPS];
    char path[1024];
    (void)state;
    snprintf(path, sizeof path, "%s/state.safetensors", fm_test_tmpdir());
    fm_trainer *alone = open_trainer(1, 1, FM_PIPE_CUSTOM);
    train_to(alone, STEPS, one);
    fm_model_trainer_close(alone);
    for (int i = 0; i < LAYOUTS; i++) {
        fm_trainer *first = open_layout(i), *second = open_layout(i), *other = open_layout((i + 5) % LAYOUTS);
        train_to(first, 3, whole);
        assert_ok(fm_model_trainer_save(first, path, NULL));
        assert_ok(fm_model_trainer_load(second, path));
        assert_ok(fm_model_trainer_load(other, path));
        train_to(first, 6, whole);
        train_to(second, 6, rest);
        train_to(other, 6, one);
        assert_memory_equal(whole + 3, rest + 3, 3 * sizeof *whole);
        for (int step = 3; step < 6; step++)
            check_near((i + 5) % LAYOUTS, "the loss after a change", one[step].loss, whole[step].loss);
        fm_model_trainer_close(first);
        fm_model_trainer_close(second);
        fm_model_trainer_close(other);
    }
}

static void checkpoints_are_those_of_one_rank(void **state)
{
    char path[1024], again[1024], folder[1024];
    int32_t ids[5] = {3, 4, 5, 6, 7};
    float wanted[5 * 40], logits[5 * 40];
    fm_model *model;
    fm_model_session *session;
    (void)state;
    snprintf(path, sizeof path, "%s/state.safetensors", fm_test_tmpdir());
    snprintf(again, sizeof again, "%s/again.safetensors", fm_test_tmpdir());
    snprintf(folder, sizeof folder, "%s/export", fm_test_tmpdir());
    for (int i = 0; i < LAYOUTS; i++) {
        static fm_model_step_result results[STEPS], others[STEPS];
        fm_trainer *trainer = open_layout(i), *alone = open_trainer(1, 1, FM_PIPE_CUSTOM);
        train_to(trainer, 2, results);
        assert_ok(fm_model_trainer_export(trainer, FM_DTYPE_F32, folder));
        assert_ok(fm_model_trainer_save(trainer, path, NULL));
        assert_ok(fm_model_trainer_load(alone, path)); // the same numbers, whatever the files
        assert_ok(fm_model_session_open(fm_model_trainer_model(alone), 0, &session));
        assert_ok(fm_model_feed(session, ids, 5, FM_MODEL_ALL, wanted));
        fm_model_session_close(session);
        assert_ok(fm_model_open(folder, NULL, &model));
        assert_ok(fm_model_session_open(model, 0, &session));
        assert_ok(fm_model_feed(session, ids, 5, FM_MODEL_ALL, logits));
        fm_model_session_close(session);
        fm_model_close(model);
        assert_memory_equal(logits, wanted, sizeof logits); // bit-equal
        void *bytes;
        size_t length;
        assert_ok(fm_model_trainer_pack(trainer, NULL, &bytes, &length));
        fm_trainer *unpacked = open_layout((i + 3) % LAYOUTS);
        assert_ok(fm_model_trainer_unpack(unpacked, bytes, length, "packed"));
        assert_int_equal(fm_model_trainer_steps(unpacked), 2);
        train_to(unpacked, 3, results);
        train_to(trainer, 3, others);
        check_near((i + 3) % LAYOUTS, "the loss after packing", results[2].loss, others[2].loss);
        fm_model_trainer_close(unpacked);
        fm_base_mem_free(bytes);
        fm_model_trainer_close(trainer);
        // And through a state of one rank back into ranks: every moment is there.
        trainer = open_layout(i);
        assert_ok(fm_model_trainer_save(alone, again, NULL));
        assert_ok(fm_model_trainer_load(trainer, again));
        assert_ok(fm_model_trainer_save(trainer, path, NULL));
        fm_trainer *back = open_trainer(1, 1, FM_PIPE_CUSTOM);
        assert_ok(fm_model_trainer_load(back, path));
        assert_memory_equal(back->values, alone->values, (size_t)alone->count * sizeof(float));
        assert_memory_equal(back->mean, alone->mean, (size_t)alone->count * sizeof(float));
        assert_memory_equal(back->square, alone->square, (size_t)alone->count * sizeof(float));
        fm_model_trainer_close(back);
        fm_model_trainer_close(alone);
        fm_model_trainer_close(trainer);
    }
}

static void a_state_that_lacks_a_file_changes_nothing(void **state)
{
    static fm_model_step_result results[STEPS];
    char path[1024], shard[1100];
    (void)state;
    snprintf(path, sizeof path, "%s/lacking.safetensors", fm_test_tmpdir());
    snprintf(shard, sizeof shard, "%s.a2-of-4", path);
    fm_trainer *trainer = open_trainer(2, 2, FM_PIPE_1F1B);
    train_to(trainer, 1, results);
    assert_ok(fm_model_trainer_save(trainer, path, NULL));
    train_to(trainer, 2, results);
    assert_int_equal(remove(shard), 0);
    assert_fails(fm_model_trainer_load(trainer, path), FM_ERR_NOT_FOUND, "a2-of-4");
    assert_int_equal(fm_model_trainer_steps(trainer), 2);
    train_to(trainer, 3, results); // nothing is broken
    assert_ok(fm_model_trainer_save(trainer, path, NULL));
    assert_ok(fm_model_trainer_load(trainer, path));
    fm_model_trainer_close(trainer);
}

static void layouts_that_cannot_be_are_named(void **state)
{
    fm_model_config config = tiny();
    fm_trainer *trainer;
    fm_model_training training = training_of(1, 4, FM_PIPE_1F1B);
    (void)state;
    assert_fails(fm_model_trainer_open(&config, &training, &trainer), FM_ERR_ARG, "6 experts on 4 ranks");
    training = training_of(3, 1, FM_PIPE_DUALPIPEV);
    assert_fails(fm_model_trainer_open(&config, &training, &trainer), FM_ERR_ARG, "has 6 stages");
    training = training_of(3, 1, FM_PIPE_DUALPIPE);
    assert_fails(fm_model_trainer_open(&config, &training, &trainer), FM_ERR_ARG, "ranks");
    training = training_of(-1, 1, FM_PIPE_1F1B);
    assert_fails(fm_model_trainer_open(&config, &training, &trainer), FM_ERR_ARG, "-1 pipeline ranks");
    trainer = open_trainer(2, 1, FM_PIPE_1F1B);
    fm_model_session *session;
    assert_fails(fm_model_session_open(fm_model_trainer_model(trainer), 0, &session), FM_ERR_STATE,
                 "one rank's part");
    fm_model_trainer_close(trainer);
}

static fm_status open_many(void *context)
{
    fm_model_config config = tiny();
    fm_model_training training = training_of(2, 2, FM_PIPE_DUALPIPE);
    fm_trainer *trainer;
    (void)context;
    FM_TRY(fm_model_trainer_open(&config, &training, &trainer));
    fm_model_trainer_close(trainer);
    return FM_OK;
}

static void opening_survives_without_memory(void **state)
{
    (void)state;
    fm_test_each_alloc_fails(open_many, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_layout_learns_what_one_rank_learns),
        cmocka_unit_test(a_layout_gives_the_same_bits_again),
        cmocka_unit_test(batches_may_have_any_shape),
        cmocka_unit_test(narrow_products_learn_alike),
        cmocka_unit_test(states_go_on_in_any_layout),
        cmocka_unit_test(checkpoints_are_those_of_one_rank),
        cmocka_unit_test(a_state_that_lacks_a_file_changes_nothing),
        cmocka_unit_test(layouts_that_cannot_be_are_named),
        cmocka_unit_test(opening_survives_without_memory),
    };
    return fm_test_run("model_ranks", tests);
}
