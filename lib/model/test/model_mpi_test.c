// Ranks that are processes: started by mpirun with arguments <pipeline ranks> <expert ranks> <schedule> <folder>. They learn
// what one rank learns, go on exactly from what they saved, and their checkpoint is that of one rank.
#include "fm_test.h"

#include <math.h>

#include "fathom/rng.h"
#include "model_rank.h"

enum { SEQUENCES = 5, LENGTH = 10, WIDTH = LENGTH + 2, STEPS = 6, SAVED = 3 };

static fm_model_training given;
static const char *folder;
static fm_model_config config = {.family = FM_MODEL_V3,
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

static fm_model_training training_of(int pipe, int experts)
{
    fm_model_training training = FM_MODEL_TRAINING_INIT;
    training.steps = STEPS;
    training.warmup_steps = 2;
    training.rate = 5e-3;
    training.deviation = 0.1;
    training.threads = 1;
    training.micro_batch = 1;
    training.pipe_ranks = pipe;
    training.expert_ranks = experts;
    training.timeout_ms = 45000;
    return training;
}

static void train_to(fm_trainer *trainer, int64_t steps, fm_model_step_result *results)
{
    int32_t ids[SEQUENCES * WIDTH];
    while (fm_model_trainer_steps(trainer) < steps) {
        int64_t step = fm_model_trainer_steps(trainer);
        for (int i = 0; i < SEQUENCES * WIDTH; i++) // sequences that count upwards
            ids[i] = (int32_t)((fm_base_rng_at(3, (uint64_t)step, (uint64_t)(i / WIDTH)) % 40 +
                                (uint64_t)(i % WIDTH)) %
                               40);
        assert_ok(fm_model_trainer_step(trainer, ids, SEQUENCES, LENGTH, &results[step]));
    }
}

static void learn_and_go_on(fm_trainer *ranks)
{
    static fm_model_step_result one[STEPS], first[STEPS], again[STEPS], unpacked[STEPS];
    char path[4096];
    void *bytes;
    size_t length;
    fm_trainer *alone;
    fm_model_training training = training_of(1, 1);
    snprintf(path, sizeof path, "%s/state.safetensors", folder);
    assert_ok(fm_model_trainer_open(&config, &training, &alone));
    train_to(alone, STEPS, one);
    train_to(ranks, SAVED, first);
    assert_ok(fm_model_trainer_save(ranks, path, NULL));
    assert_ok(fm_model_trainer_pack(ranks, NULL, &bytes, &length));
    train_to(ranks, STEPS, first);
    for (int i = 0; i < STEPS; i++)
        assert_true(fabs(first[i].loss - one[i].loss) < 2e-6 * one[i].loss + 2e-7);
    assert_ok(fm_model_trainer_load(ranks, path));
    assert_int_equal(fm_model_trainer_steps(ranks), SAVED);
    train_to(ranks, STEPS, again);
    assert_memory_equal(again + SAVED, first + SAVED, (STEPS - SAVED) * sizeof *first);
    assert_ok(fm_model_trainer_unpack(ranks, bytes, length, "packed"));
    train_to(ranks, STEPS, unpacked);
    assert_memory_equal(unpacked + SAVED, first + SAVED, (STEPS - SAVED) * sizeof *first);
    assert_ok(fm_model_trainer_load(alone, path));
    train_to(alone, STEPS, again);
    for (int i = SAVED; i < STEPS; i++)
        assert_true(fabs(first[i].loss - again[i].loss) < 2e-6 * first[i].loss + 2e-7);
    assert_fails(fm_model_trainer_unpack(alone, bytes, length, "packed"), FM_ERR_FORMAT,
                 "the pieces of rank");
    fm_base_mem_free(bytes);
    fm_model_trainer_close(alone);
}

static void export_as_one(fm_trainer *ranks)
{
    char path[4096], export[4096];
    int32_t ids[3] = {3, 4, 5};
    float wanted[40], logits[40];
    fm_model_training training = training_of(1, 1);
    fm_trainer *alone;
    fm_model *model;
    fm_model_session *session;
    snprintf(path, sizeof path, "%s/state.safetensors", folder);
    snprintf(export, sizeof export, "%s/export", folder);
    assert_ok(fm_model_trainer_save(ranks, path, NULL));
    assert_ok(fm_model_trainer_export(ranks, FM_DTYPE_F32, export));
    assert_ok(fm_model_trainer_open(&config, &training, &alone));
    assert_ok(fm_model_trainer_load(alone, path));
    assert_ok(fm_model_session_open(fm_model_trainer_model(alone), 0, &session));
    assert_ok(fm_model_feed(session, ids, 3, FM_MODEL_LAST, wanted));
    fm_model_session_close(session);
    fm_model_trainer_close(alone);
    assert_ok(fm_model_open(export, NULL, &model));
    assert_ok(fm_model_session_open(model, 0, &session));
    assert_ok(fm_model_feed(session, ids, 3, FM_MODEL_LAST, logits));
    fm_model_session_close(session);
    fm_model_close(model);
    assert_memory_equal(logits, wanted, sizeof logits);
}

// One test, as MPI starts once in a process.
static void processes_train_as_one_rank_does(void **state)
{
    fm_trainer *ranks;
    (void)state;
    assert_ok(fm_model_trainer_open(&config, &given, &ranks));
    learn_and_go_on(ranks);
    export_as_one(ranks);
    fm_model_trainer_close(ranks);
}

int main(int count, char **arguments)
{
    if (count != 5)
        return 2;
    given = training_of(atoi(arguments[1]),
                        atoi(arguments[2])); // NOLINT(cert-err34-c): CMakeLists.txt wrote them
    given.transport = FM_MODEL_MPI;
    folder = arguments[4];
    if (fm_pipe_schedule_parse(arguments[3], &given.schedule) < 0)
        return 2;
    const struct CMUnitTest tests[] = {cmocka_unit_test(processes_train_as_one_rank_does)};
    return fm_test_run("model_mpi", tests);
}
