// Ranks that are processes: started by mpirun with arguments <pipeline ranks> <expert ranks> <schedule> <folder>. They learn
// what one rank learns, go on exactly from what they saved, and their checkpoint is that of one rank.
#include "model_fixture.h"

#include <math.h>

enum { SAVED = 3, TRAINED = 6 };

static fm_model_training given;
static const char *folder;

static void learn_and_go_on(fm_trainer *ranks)
{
    static fm_model_step_result one[TRAINED], first[TRAINED], again[TRAINED], unpacked[TRAINED];
    char path[4096];
    void *bytes;
    size_t length;
    fm_trainer *alone = model_fixture_open(1, 1, FM_PIPE_CUSTOM);
    snprintf(path, sizeof path, "%s/state.safetensors", folder);
    model_fixture_train(alone, TRAINED, one);
    model_fixture_train(ranks, SAVED, first);
    assert_ok(fm_model_trainer_save(ranks, path, NULL));
    assert_ok(fm_model_trainer_pack(ranks, NULL, &bytes, &length));
    model_fixture_train(ranks, TRAINED, first);
    for (int i = 0; i < TRAINED; i++)
        assert_true(fabs(first[i].loss - one[i].loss) < 2e-6 * one[i].loss + 2e-7);
    assert_ok(fm_model_trainer_load(ranks, path));
    assert_int_equal(fm_model_trainer_steps(ranks), SAVED);
    model_fixture_train(ranks, TRAINED, again);
    assert_memory_equal(again + SAVED, first + SAVED, (TRAINED - SAVED) * sizeof *first);
    assert_ok(fm_model_trainer_unpack(ranks, bytes, length, "packed"));
    model_fixture_train(ranks, TRAINED, unpacked);
    assert_memory_equal(unpacked + SAVED, first + SAVED, (TRAINED - SAVED) * sizeof *first);
    assert_ok(fm_model_trainer_load(alone, path));
    model_fixture_train(alone, TRAINED, again);
    for (int i = SAVED; i < TRAINED; i++)
        assert_true(fabs(first[i].loss - again[i].loss) < 2e-6 * first[i].loss + 2e-7);
    assert_fails(fm_model_trainer_unpack(alone, bytes, length, "packed"), FM_ERR_FORMAT,
                 "the pieces of rank");
    fm_base_mem_free(bytes);
    fm_model_trainer_close(alone);
}

static void move_experts(fm_trainer *ranks)
{
    static fm_model_step_result still[STEPS], after[STEPS];
    char path[4096];
    int64_t moved;
    if (given.expert_ranks < 2)
        return;
    snprintf(path, sizeof path, "%s/still.safetensors", folder);
    assert_ok(fm_model_trainer_save(ranks, path, NULL));
    fm_eplb_plan *plan = model_fixture_plan(ranks, given.expert_ranks, 5);
    assert_ok(fm_model_trainer_place(ranks, plan, &moved));
    assert_true(moved > 0);
    model_fixture_train(ranks, STEPS, after);
    assert_ok(fm_model_trainer_load(ranks, path));
    model_fixture_train(ranks, STEPS, still);
    model_fixture_near(0, "the loss after a move", after[STEPS - 1].loss, still[STEPS - 1].loss);
    fm_eplb_plan_free(plan);
}

static void export_as_one(fm_trainer *ranks)
{
    char path[4096], export[4096];
    int32_t ids[3] = {3, 4, 5};
    float wanted[40], logits[40];
    fm_trainer *alone = model_fixture_open(1, 1, FM_PIPE_CUSTOM);
    fm_model *model;
    fm_model_session *session;
    snprintf(path, sizeof path, "%s/state.safetensors", folder);
    snprintf(export, sizeof export, "%s/export", folder);
    assert_ok(fm_model_trainer_save(ranks, path, NULL));
    assert_ok(fm_model_trainer_export(ranks, FM_DTYPE_F32, export));
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
    fm_model_config config = model_fixture_config();
    (void)state;
    assert_ok(fm_model_trainer_open(&config, &given, &ranks));
    learn_and_go_on(ranks);
    move_experts(ranks);
    export_as_one(ranks);
    fm_model_trainer_close(ranks);
}

int main(int count, char **arguments)
{
    if (count != 5)
        return 2;
    int pipe = atoi(arguments[1]),
        experts = atoi(arguments[2]); // NOLINT(cert-err34-c): CMakeLists.txt wrote them
    given = model_fixture_training(pipe, experts, FM_PIPE_CUSTOM);
    given.transport = FM_MODEL_MPI;
    folder = arguments[4];
    if (fm_pipe_schedule_parse(arguments[3], &given.schedule) < 0)
        return 2;
    const struct CMUnitTest tests[] = {cmocka_unit_test(processes_train_as_one_rank_does)};
    return fm_test_run("model_mpi", tests);
}
