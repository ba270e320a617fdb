#include "model_fixture.h"
#include "model_small.h"

#include <math.h>

#include "fathom/rng.h"

const struct model_fixture_layout model_fixture_layouts[LAYOUTS] = {
    {1, 2, FM_PIPE_1F1B},     {1, 3, FM_PIPE_1F1B},        {2, 1, FM_PIPE_1F1B},
    {2, 1, FM_PIPE_ZB_H1},    {2, 1, FM_PIPE_DUALPIPEV},   {2, 1, FM_PIPE_DUALPIPE},
    {2, 2, FM_PIPE_1F1B},     {2, 2, FM_PIPE_INTERLEAVED}, {2, 2, FM_PIPE_DUALPIPEV},
    {2, 2, FM_PIPE_DUALPIPE}, {4, 1, FM_PIPE_DUALPIPE},    {1, 1, FM_PIPE_CUSTOM},
};

fm_model_config model_fixture_config(void)
{
    fm_model_config config = model_small_config();
    config.layers = 4;
    config.predict_layers = 1;
    return config;
}

// Sequences that count upwards from a random start.
void model_fixture_ids(int64_t step, int32_t *out)
{
    for (int s = 0; s < SEQUENCES; s++) {
        int first = (int)(fm_base_rng_at(3, 0, (uint64_t)(step * SEQUENCES + s)) % 40);
        for (int i = 0; i < WIDTH; i++)
            out[s * WIDTH + i] = (first + i) % 40;
    }
}

fm_model_training model_fixture_training(int pipe, int experts, fm_pipe_schedule schedule)
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

fm_trainer *model_fixture_open(int pipe, int experts, fm_pipe_schedule schedule)
{
    fm_model_config config = model_fixture_config();
    fm_model_training training = model_fixture_training(pipe, experts, schedule);
    fm_trainer *trainer = NULL;
    assert_ok(fm_model_trainer_open(&config, &training, &trainer));
    return trainer;
}

fm_trainer *model_fixture_open_layout(int i)
{
    return model_fixture_open(model_fixture_layouts[i].pipe, model_fixture_layouts[i].experts,
                              model_fixture_layouts[i].schedule);
}

void model_fixture_train(fm_trainer *trainer, int64_t steps, fm_model_step_result *results)
{
    int32_t ids[SEQUENCES * WIDTH];
    while (fm_model_trainer_steps(trainer) < steps) {
        int64_t step = fm_model_trainer_steps(trainer);
        model_fixture_ids(step, ids);
        assert_ok(fm_model_trainer_step(trainer, ids, SEQUENCES, LENGTH, &results[step]));
    }
}

void model_fixture_near(int layout, const char *what, double is, double wanted)
{
    if (!(fabs(is - wanted) <= 2e-6 * fabs(wanted) + 2e-7)) // f32 sums in another order
        fail_msg("%d x %d, %s: %s is %.9g, with one rank %.9g", model_fixture_layouts[layout].pipe,
                 model_fixture_layouts[layout].experts,
                 fm_pipe_schedule_name(model_fixture_layouts[layout].schedule), what, is, wanted);
}

/** A plan for the trainer's experts from loads that a seed gives. */
fm_eplb_plan *model_fixture_plan(const fm_trainer *trainer, int ranks, uint64_t seed)
{
    int32_t current[4 * 6];
    float weight[4 * 6];
    fm_eplb_shape shape = {.layers = 4, .experts = 6, .replicas = 6, .groups = 1, .nodes = 1, .gpus = ranks};
    fm_eplb_placement placement = {.phy2log = current, .slots = 6};
    fm_eplb_options options = FM_EPLB_OPTIONS_INIT;
    fm_eplb_plan *plan = NULL;
    options.current = &placement;
    for (int layer = 0; layer < 4; layer++) // layers 1 to 3, and the predictor's
        memcpy(current + layer * 6, fm_model_trainer_placement(trainer, layer + 1), 6 * sizeof *current);
    for (int i = 0; i < 4 * 6; i++)
        weight[i] = (float)(1 + fm_base_rng_at(seed, 1, (uint64_t)i) % 100);
    assert_ok(fm_eplb_rebalance(&shape, weight, &options, &plan));
    return plan;
}
