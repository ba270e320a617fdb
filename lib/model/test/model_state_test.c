// States and checkpoints of several ranks.
#include "model_fixture.h"

#include <unistd.h>

// A state goes on exactly where it was saved, in the same layout to the bit; in another one as that rounds.
static void states_go_on_in_any_layout(void **state)
{
    static fm_model_step_result whole[STEPS], rest[STEPS], one[STEPS];
    char path[1024];
    (void)state;
    snprintf(path, sizeof path, "%s/state.safetensors", fm_test_tmpdir());
    fm_trainer *alone = model_fixture_open(1, 1, FM_PIPE_CUSTOM);
    model_fixture_train(alone, STEPS, one);
    fm_model_trainer_close(alone);
    for (int i = 0; i < LAYOUTS; i++) {
        fm_trainer *first = model_fixture_open_layout(i), *second = model_fixture_open_layout(i),
                   *other = model_fixture_open_layout((i + 5) % LAYOUTS);
        model_fixture_train(first, 3, whole);
        assert_ok(fm_model_trainer_save(first, path, NULL));
        assert_ok(fm_model_trainer_load(second, path));
        assert_ok(fm_model_trainer_load(other, path));
        model_fixture_train(first, 6, whole);
        model_fixture_train(second, 6, rest);
        model_fixture_train(other, 6, one);
        assert_memory_equal(whole + 3, rest + 3, 3 * sizeof *whole);
        for (int step = 3; step < 6; step++)
            model_fixture_near((i + 5) % LAYOUTS, "the loss after a change", one[step].loss,
                               whole[step].loss);
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
        fm_trainer *trainer = model_fixture_open_layout(i), *alone = model_fixture_open(1, 1, FM_PIPE_CUSTOM);
        model_fixture_train(trainer, 2, results);
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
        fm_trainer *unpacked = model_fixture_open_layout((i + 3) % LAYOUTS);
        assert_ok(fm_model_trainer_unpack(unpacked, bytes, length, "packed"));
        assert_int_equal(fm_model_trainer_steps(unpacked), 2);
        model_fixture_train(unpacked, 3, results);
        model_fixture_train(trainer, 3, others);
        model_fixture_near((i + 3) % LAYOUTS, "the loss after packing", results[2].loss, others[2].loss);
        fm_model_trainer_close(unpacked);
        fm_base_mem_free(bytes);
        fm_model_trainer_close(trainer);
        // And through a state of one rank back into ranks: every moment is there.
        trainer = model_fixture_open_layout(i);
        assert_ok(fm_model_trainer_save(alone, again, NULL));
        assert_ok(fm_model_trainer_load(trainer, again));
        assert_ok(fm_model_trainer_save(trainer, path, NULL));
        fm_trainer *back = model_fixture_open(1, 1, FM_PIPE_CUSTOM);
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
    fm_trainer *trainer = model_fixture_open(2, 2, FM_PIPE_1F1B);
    model_fixture_train(trainer, 1, results);
    assert_ok(fm_model_trainer_save(trainer, path, NULL));
    model_fixture_train(trainer, 2, results);
    assert_int_equal(remove(shard), 0);
    assert_fails(fm_model_trainer_load(trainer, path), FM_ERR_NOT_FOUND, "a2-of-4");
    assert_int_equal(fm_model_trainer_steps(trainer), 2);
    model_fixture_train(trainer, 3, results); // nothing is broken
    assert_ok(fm_model_trainer_save(trainer, path, NULL));
    assert_ok(fm_model_trainer_load(trainer, path));
    fm_model_trainer_close(trainer);
}

static int is_there(const char *folder, const char *name)
{
    char path[1200];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return access(path, F_OK) == 0;
}

static void an_export_leaves_nothing_of_another_layout(void **state)
{
    char folder[1024];
    (void)state;
    snprintf(folder, sizeof folder, "%s/layouts", fm_test_tmpdir());
    static const struct {
        int pipe, experts;
        const char *there, *gone;
    } exports[] = {
        {1, 1, "model.safetensors", "model.safetensors.index.json"},
        {2, 1, "model-00002-of-00002.safetensors", "model.safetensors"},
        {2, 2, "model-00004-of-00004.safetensors", "model-00002-of-00002.safetensors"},
        {1, 1, "model.safetensors", "model-00004-of-00004.safetensors"},
        {1, 1, "model.safetensors", "model.safetensors.index.json"},
    };
    for (size_t i = 0; i < sizeof exports / sizeof exports[0]; i++) {
        fm_trainer *trainer = model_fixture_open(exports[i].pipe, exports[i].experts, FM_PIPE_1F1B);
        fm_model *model;
        assert_ok(fm_model_trainer_export(trainer, FM_DTYPE_BF16, folder));
        assert_true(is_there(folder, exports[i].there));
        assert_false(is_there(folder, exports[i].gone));
        assert_ok(fm_model_open(folder, NULL, &model));
        fm_model_close(model);
        fm_model_trainer_close(trainer);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(states_go_on_in_any_layout),
        cmocka_unit_test(checkpoints_are_those_of_one_rank),
        cmocka_unit_test(a_state_that_lacks_a_file_changes_nothing),
        cmocka_unit_test(an_export_leaves_nothing_of_another_layout),
    };
    return fm_test_run("model_state", tests);
}
