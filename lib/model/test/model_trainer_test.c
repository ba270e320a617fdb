// Training: every parameter's gradient by finite differences, learning, resumption, checkpoints.
#include "fm_test.h"

#include <math.h>

#include "fathom/file.h"
#include "fathom/rng.h"
#include "model_small.h"
#include "model_trainer.h"

static fm_model_config tiny(fm_model_family family)
{
    fm_model_config config = model_small_config();
    if (family == FM_MODEL_V3) {
        config.predict_layers = 2;
        return config;
    }
    config.family = family;
    config.q_lora = 0;
    config.groups = config.topk_groups = 1;
    config.gate = FM_MODEL_SOFTMAX;
    config.correction_bias = config.normalise_topk = 0;
    return config;
}

static void draw_ids(const fm_model_config *config, uint64_t seed, int sequences, int length, int32_t *out)
{
    fm_rng rng = fm_base_rng_begin(seed, 7);
    for (int i = 0; i < sequences * (length + 1 + config->predict_layers); i++)
        out[i] = (int32_t)fm_base_rng_below(&rng, (uint64_t)config->vocab);
}

/** The whole loss that the gradient is of. */
static double loss_of(fm_trainer *trainer, const int32_t *ids, int sequences, int length)
{
    double loss;
    assert_ok(fm_model_trainer_evaluate(trainer, ids, sequences, length, &loss));
    const fm_model_config *c = &trainer->model.config;
    if (c->predict_layers)
        loss += trainer->predict_sum * trainer->weight * trainer->training.predict_weight / c->predict_layers;
    return loss + trainer->balance_sum * trainer->training.balance;
}

struct probe {
    fm_trainer *trainer;
    const int32_t *ids;
    int sequences, length;
    uint64_t number;
    int checked, number_of;
};

// The loss with a weight moved by `step` along `direction`; *out_same tells whether every expert got as many tokens as
// in `loads`: where a choice flips, the loss jumps.
static double moved_loss(const struct probe *probe, const struct fm_model_weight *weight, const float *kept,
                         const float *direction, int64_t count, double step, const int64_t *loads,
                         int *out_same)
{
    const fm_model_config *c = &probe->trainer->model.config;
    for (int64_t i = 0; i < count; i++)
        weight->values[i] = kept[i] + (float)step * direction[i];
    double loss = loss_of(probe->trainer, probe->ids, probe->sequences, probe->length);
    size_t size = (size_t)(c->layers + c->predict_layers) * (size_t)c->experts * sizeof *loads;
    *out_same = memcmp(loads, probe->trainer->loads, size) == 0;
    memcpy(weight->values, kept, (size_t)count * sizeof *kept);
    return loss;
}

// A parameter's gradient along a direction, half random and half its own: what moving that way a little does to the loss.
static fm_status probe_one(void *context, const char *name, struct fm_model_weight *weight)
{
    struct probe *probe = context;
    int64_t count = (weight->rows ? weight->rows : 1) * weight->columns, loads[64];
    double slope = 0, size = 0, error = 0, allowed = 0;
    if (strstr(name, "correction_bias")) // it chooses alone, and has no gradient
        return FM_OK;
    float *direction = fm_base_mem_alloc((size_t)count * sizeof *direction);
    float *kept = fm_base_mem_alloc((size_t)count * sizeof *kept);
    fm_rng rng = fm_base_rng_begin(99, probe->number++);
    double own = 0;
    for (int64_t i = 0; i < count; i++)
        own += (double)weight->gradient[i] * (double)weight->gradient[i];
    for (int64_t i = 0; i < count; i++) {
        direction[i] =
            (float)fm_rng_normal(&rng) / sqrtf((float)count) + weight->gradient[i] / (float)sqrt(own + 1e-30);
        slope += (double)direction[i] * (double)weight->gradient[i];
        size += (double)direction[i] * (double)direction[i];
    }
    memcpy(kept, weight->values, (size_t)count * sizeof *kept);
    (void)loss_of(probe->trainer, probe->ids, probe->sequences, probe->length);
    const fm_model_config *c = &probe->trainer->model.config;
    memcpy(loads, probe->trainer->loads,
           (size_t)(c->layers + c->predict_layers) * (size_t)c->experts * sizeof *loads);
    int same[2] = {0, 0}, tries = 0;
    for (double step = 4e-3 / sqrt(size); !(same[0] && same[1]) && tries < 8; tries++, step *= 0.5) {
        double below = moved_loss(probe, weight, kept, direction, count, -step, loads, &same[0]);
        double above = moved_loss(probe, weight, kept, direction, count, step, loads, &same[1]);
        error = fabs((above - below) / (2 * step) - slope);
        allowed = 0.02 * fabs(slope) + 1e-6 / step; // the loss is rounded to about 1e-6
    }
    if (same[0] && same[1]) {
        probe->checked++;
        if (error > allowed)
            fail_msg("%s: the slope along a direction is %g, off by %g", name, slope, error);
    }
    probe->number_of++;
    fm_base_mem_free(direction);
    fm_base_mem_free(kept);
    return FM_OK;
}

static void check_gradients(fm_model_family family)
{
    fm_model_config config = tiny(family);
    fm_model_training training = FM_MODEL_TRAINING_INIT;
    enum { SEQUENCES = 2, LENGTH = 70 }; // more than one block of rows
    int32_t ids[SEQUENCES * (LENGTH + 3)];
    fm_trainer *trainer;
    fm_model_step_result result;
    training.deviation = 0.3;
    training.rate = training.rate_end = training.bias_rate =
        0; // the step computes gradients and changes nothing
    training.balance = 0.1;
    training.threads = 1;
    training.micro_batch = 1;
    draw_ids(&config, 5, SEQUENCES, LENGTH, ids);
    assert_ok(fm_model_trainer_open(&config, &training, &trainer));
    assert_ok(fm_model_trainer_step(trainer, ids, SEQUENCES, LENGTH, &result));
    struct probe probe = {trainer, ids, SEQUENCES, LENGTH, 0, 0, 0};
    assert_ok(fm_model_weights_each(&config, &trainer->model.weights, 1, probe_one, &probe));
    assert_true(probe.checked * 10 >=
                probe.number_of * 9); // where choices flip at every step there is nothing to measure
    fm_model_trainer_close(trainer);
}

static void gradients_of_v2_are_those_of_the_loss(void **state)
{
    (void)state;
    check_gradients(FM_MODEL_V2);
}

static void gradients_of_v3_are_those_of_the_loss(void **state)
{
    (void)state;
    check_gradients(FM_MODEL_V3);
}

enum { BATCH = 4, SPAN = 16, STEPS = 60 };

// Sequences that count upwards from a random start: what follows is certain.
static void counting_ids(const fm_model_config *config, int64_t step, int32_t *out)
{
    int width = SPAN + 1 + config->predict_layers;
    for (int s = 0; s < BATCH; s++) {
        int first = (int)(fm_base_rng_at(3, 0, (uint64_t)(step * BATCH + s)) % (uint64_t)config->vocab);
        for (int i = 0; i < width; i++)
            out[s * width + i] = (first + i) % config->vocab;
    }
}

static double train_to(fm_trainer *trainer, int64_t steps)
{
    fm_model_step_result result = {0};
    int32_t ids[BATCH * (SPAN + 3)];
    while (fm_model_trainer_steps(trainer) < steps) {
        counting_ids(&trainer->model.config, fm_model_trainer_steps(trainer), ids);
        assert_ok(fm_model_trainer_step(trainer, ids, BATCH, SPAN, &result));
    }
    return result.loss;
}

static fm_trainer *narrow_trainer(int threads, fm_dtype dtype)
{
    fm_model_config config = tiny(FM_MODEL_V3);
    fm_model_training training = FM_MODEL_TRAINING_INIT;
    fm_trainer *trainer = NULL;
    training.steps = STEPS;
    training.warmup_steps = 5;
    training.rate = 1e-2;
    training.deviation = 0.1;
    training.threads = threads;
    training.dtype = dtype;
    assert_ok(fm_model_trainer_open(&config, &training, &trainer));
    return trainer;
}

static fm_trainer *counting_trainer(int threads)
{
    return narrow_trainer(threads, FM_DTYPE_F32);
}

static void it_learns_to_count_and_resumes_exactly(void **state)
{
    char path[1024];
    static const char *const notes[] = {"corpus", "numbers", NULL};
    fm_trainer *whole = counting_trainer(2), *first = counting_trainer(1), *second = counting_trainer(2),
               *third = counting_trainer(1);
    void *packed;
    char *saved;
    size_t length, saved_length;
    (void)state;
    double loss = train_to(whole, STEPS);
    assert_true(loss < 0.7); // chance is ln 40 = 3.7
    train_to(first, STEPS / 2);
    snprintf(path, sizeof path, "%s/state.safetensors", fm_test_tmpdir());
    assert_ok(fm_model_trainer_save(first, path, notes));
    assert_ok(fm_model_trainer_pack(first, notes, &packed, &length));
    assert_ok(fm_base_file_read(path, SIZE_MAX, &saved, &saved_length));
    assert_int_equal(length, saved_length);
    assert_memory_equal(packed, saved, length);
    assert_ok(fm_model_trainer_unpack(third, packed, length, "what was packed"));
    assert_memory_equal(third->square, first->square, (size_t)first->count * sizeof(float));
    fm_base_mem_free(packed);
    fm_base_mem_free(saved);
    assert_ok(fm_model_trainer_load(second, path));
    assert_int_equal(fm_model_trainer_steps(second), STEPS / 2);
    assert_true(train_to(second, STEPS) == loss);
    assert_memory_equal(second->values, whole->values, (size_t)whole->count * sizeof(float));
    fm_model_trainer_close(whole);
    fm_model_trainer_close(first);
    fm_model_trainer_close(second);
    fm_model_trainer_close(third);
}

static void narrow_products_learn_alike(void **state)
{
    static const fm_dtype dtypes[] = {FM_DTYPE_F32, FM_DTYPE_BF16, FM_DTYPE_F8_E4M3};
    double losses[3];
    (void)state;
    for (int i = 0; i < 3; i++) {
        fm_trainer *one = narrow_trainer(1, dtypes[i]), *two = narrow_trainer(2, dtypes[i]);
        losses[i] = train_to(one, STEPS);
        assert_true(train_to(two, STEPS) == losses[i]); // whatever the threads
        if (i > 0)
            assert_true(fm_model_trainer_products(one, dtypes[i]) > 1000);
        fm_model_trainer_close(one);
        fm_model_trainer_close(two);
    }
    assert_true(fabs(losses[1] - losses[0]) < 0.05);
    assert_true(fabs(losses[2] - losses[0]) < 0.2);
}

static void an_exported_checkpoint_is_the_trained_model(void **state)
{
    char folder[1024];
    fm_trainer *trainer = counting_trainer(1);
    fm_model *model;
    fm_model_session *trained, *loaded;
    int32_t ids[5] = {3, 4, 5, 6, 7};
    float here[5 * 40], there[5 * 40];
    (void)state;
    train_to(trainer, STEPS);
    snprintf(folder, sizeof folder, "%s/export", fm_test_tmpdir());
    assert_ok(fm_model_trainer_export(trainer, FM_DTYPE_F32, folder));
    assert_ok(fm_model_open(folder, NULL, &model));
    assert_ok(fm_model_session_open(fm_model_trainer_model(trainer), 0, &trained));
    assert_ok(fm_model_session_open(model, 0, &loaded));
    assert_ok(fm_model_feed(trained, ids, 5, FM_MODEL_ALL, here));
    assert_ok(fm_model_feed(loaded, ids, 5, FM_MODEL_ALL, there));
    assert_memory_equal(here, there, sizeof here); // bit-equal
    for (int i = 0; i < 5; i++) {
        int32_t next;
        fm_model_sampling greedy = {0};
        assert_ok(fm_model_sample(here + i * 40, 40, &greedy, i, &next));
        assert_int_equal(next, ids[i] + 1);
    }
    fm_model_session_close(trained);
    fm_model_session_close(loaded);
    fm_model_close(model);
    // In BF16 a second export of what the first holds is the same file.
    assert_ok(fm_model_trainer_export(trainer, FM_DTYPE_BF16, folder));
    assert_ok(fm_model_open(folder, NULL, &model));
    fm_model_close(model);
    fm_model_trainer_close(trainer);
}

static void bad_input_is_named_and_changes_nothing(void **state)
{
    fm_trainer *trainer = counting_trainer(1);
    fm_model_config config = tiny(FM_MODEL_V3);
    fm_model_training training = FM_MODEL_TRAINING_INIT;
    fm_model_step_result result;
    int32_t ids[SPAN + 3] = {0};
    (void)state;
    ids[3] = 40;
    assert_fails(fm_model_trainer_step(trainer, ids, 1, SPAN, &result), FM_ERR_ARG,
                 "token 3 of sequence 0 has id 40");
    assert_fails(fm_model_trainer_step(trainer, ids, 0, SPAN, &result), FM_ERR_ARG, "0 sequences");
    assert_fails(fm_model_trainer_step(trainer, ids, 1, 97, &result), FM_ERR_ARG, "context has 96");
    assert_int_equal(fm_model_trainer_steps(trainer), 0);
    fm_model_trainer_close(trainer);
    training.beta2 = 1;
    assert_fails(fm_model_trainer_open(&config, &training, &trainer), FM_ERR_ARG, "beta2 1");
    config.topk = 7;
    assert_fails(fm_model_config_check(&config), FM_ERR_ARG, "num_experts_per_tok 7");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_of_v2_are_those_of_the_loss),
        cmocka_unit_test(gradients_of_v3_are_those_of_the_loss),
        cmocka_unit_test(it_learns_to_count_and_resumes_exactly),
        cmocka_unit_test(narrow_products_learn_alike),
        cmocka_unit_test(an_exported_checkpoint_is_the_trained_model),
        cmocka_unit_test(bad_input_is_named_and_changes_nothing),
    };
    return fm_test_run("model_trainer", tests);
}
