// Ranks that a trainer starts as processes, of this very program: with two arguments it is a rank.
#include "model_fixture.h"

#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "model_front.h"

static char self[4096];
static const char *launcher;

static fm_status open_front(const char *const *command, int pipe, int experts, fm_trainer **out_trainer)
{
    fm_model_config config = model_fixture_config();
    fm_model_training training = model_fixture_training(pipe, experts, FM_PIPE_DUALPIPEV);
    training.transport = FM_MODEL_PROCESSES;
    training.rank_command = command;
    return fm_model_trainer_open(&config, &training, out_trainer);
}

static void need_launcher(void)
{
    if (!launcher)
        fm_test_skip("no mpirun, or a build without MPI");
}

static void processes_are_started_and_train_as_one_rank(void **state)
{
    static fm_model_step_result one[STEPS], many[STEPS], again[STEPS];
    const char *const command[] = {launcher, "-n", "4", self, NULL};
    char path[1024], folder[1024];
    void *bytes;
    size_t length;
    int64_t moved;
    double loss, wanted;
    int32_t ids[SEQUENCES * WIDTH];
    fm_trainer *trainer;
    (void)state;
    need_launcher();
    snprintf(path, sizeof path, "%s/state.safetensors", fm_test_tmpdir());
    snprintf(folder, sizeof folder, "%s/export", fm_test_tmpdir());
    fm_trainer *alone = model_fixture_open(1, 1, FM_PIPE_CUSTOM);
    assert_ok(open_front(command, 2, 2, &trainer));
    model_fixture_train(alone, 6, one);
    model_fixture_train(trainer, 3, many);
    assert_ok(fm_model_trainer_pack(trainer, NULL, &bytes, &length));
    assert_ok(fm_model_trainer_save(trainer, path, NULL));
    model_fixture_train(trainer, 6, many);
    for (int step = 0; step < 6; step++)
        model_fixture_near(8, "the loss", many[step].loss, one[step].loss);
    for (int layer = 1; layer < 4; layer++)
        assert_memory_equal(fm_model_trainer_loads(trainer, layer), fm_model_trainer_loads(alone, layer),
                            EXPERTS * sizeof(int64_t));
    model_fixture_ids(99, ids);
    assert_ok(fm_model_trainer_evaluate(trainer, ids, SEQUENCES, LENGTH, &loss));
    assert_ok(fm_model_trainer_evaluate(alone, ids, SEQUENCES, LENGTH, &wanted));
    model_fixture_near(8, "the loss of an evaluation", loss, wanted);
    assert_int_equal(fm_model_trainer_products(trainer, FM_DTYPE_BF16), 0);
    assert_ok(fm_model_trainer_unpack(trainer, bytes, length, "packed"));
    assert_int_equal(fm_model_trainer_steps(trainer), 3);
    model_fixture_train(trainer, 6, again);
    assert_memory_equal(again + 3, many + 3, 3 * sizeof *many);
    assert_ok(fm_model_trainer_load(trainer, path));
    fm_eplb_plan *plan = model_fixture_plan(trainer, 2, 9);
    assert_ok(fm_model_trainer_place(trainer, plan, &moved));
    assert_true(moved > 0);
    assert_memory_equal(fm_model_trainer_placement(trainer, 1), plan->phy2log, EXPERTS * sizeof(int32_t));
    model_fixture_train(trainer, 6, again);
    for (int step = 3; step < 6; step++)
        model_fixture_near(8, "the loss after a move", again[step].loss, many[step].loss);
    assert_ok(fm_model_trainer_export(trainer, FM_DTYPE_F32, folder));
    fm_model *model;
    assert_ok(fm_model_open(folder, NULL, &model));
    fm_model_close(model);
    assert_fails(fm_model_trainer_load(trainer, "/nowhere/state"), FM_ERR_NOT_FOUND, "/nowhere/state");
    assert_fails(fm_model_trainer_unpack(trainer, bytes, 100, "torn"), FM_ERR_FORMAT, "torn");
    fm_eplb_plan_free(plan);
    fm_base_mem_free(bytes);
    fm_model_trainer_close(trainer);
    fm_model_trainer_close(alone);
}

static void what_cannot_be_started_is_named(void **state)
{
    const char *const nothing[] = {NULL}, *const missing[] = {"no-such-launcher", NULL},
                      *const failing[] = {"false", NULL};
    fm_trainer *trainer;
    (void)state;
    assert_fails(open_front(nothing, 2, 1, &trainer), FM_ERR_ARG, "rank_command is empty");
    assert_fails(open_front(missing, 2, 1, &trainer), FM_ERR_UNAVAILABLE, "no-such-launcher");
    assert_fails(open_front(failing, 2, 1, &trainer), FM_ERR_UNAVAILABLE, "status 1");
    assert_fails(fm_model_rank_run("/nowhere/socket", "12", NULL), FM_ERR_ARG, "2 digits");
}

// As when one end is killed: this one has an error, and the ranks end by themselves.
static void a_lost_connection_ends_the_ranks(void **state)
{
    static fm_model_step_result results[STEPS];
    const char *const command[] = {launcher, "-n", "2", self, NULL};
    int32_t ids[SEQUENCES * WIDTH];
    fm_model_step_result result;
    fm_trainer *trainer;
    int ended;
    (void)state;
    need_launcher();
    assert_ok(open_front(command, 1, 2, &trainer));
    model_fixture_train(trainer, 1, results);
    assert_int_equal(shutdown(trainer->front->socket, SHUT_RDWR), 0);
    model_fixture_ids(1, ids);
    assert_fails(fm_model_trainer_step(trainer, ids, SEQUENCES, LENGTH, &result), FM_ERR_IO,
                 "the other end has gone");
    assert_int_equal(waitpid(trainer->front->launcher, &ended, 0), trainer->front->launcher);
    assert_true(WIFEXITED(ended) && WEXITSTATUS(ended) == 0);
    trainer->front->launcher = 0;
    fm_model_trainer_close(trainer);
}

int main(int count, char **arguments)
{
    if (count == 3) {
        fm_status status = fm_model_rank_run(arguments[1], arguments[2], NULL);
        if (status < 0)
            fprintf(stderr, "%s\n", fm_error_message());
        return status < 0;
    }
    if (readlink("/proc/self/exe", self, sizeof self - 1) < 0)
        return 2;
    launcher = count > 1 ? arguments[1] : NULL;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(processes_are_started_and_train_as_one_rank),
        cmocka_unit_test(what_cannot_be_started_is_named),
        cmocka_unit_test(a_lost_connection_ends_the_ranks),
    };
    return fm_test_run("model_front", tests);
}
