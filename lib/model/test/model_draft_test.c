// Drafts of a model that has learnt to count: the head for multi-token prediction learnt it, too, so that its guesses are
// nearly all right, and the text is the same with them and without.
#include "fm_test.h"

#include "fathom/model_train.h"
#include "fathom/rng.h"
#include "fathom/serve.h"
#include "model_small.h"

enum { VOCAB = 40, STEPS = 120, SEQUENCES = 8, LENGTH = 24, ANSWER = 60 };

static fm_model_config counting(void)
{
    fm_model_config config = model_small_config();
    config.hidden = config.expert_intermediate = 32;
    config.intermediate = 64;
    config.kv_lora = config.nope = config.rope = config.value = 16;
    config.experts = 4;
    config.groups = config.topk_groups = 1;
    config.routed_scale = 1;
    config.context = 128;
    config.predict_layers = 1;
    return config;
}

// Texts that count up from anywhere, round and round.
static void train(const char *folder)
{
    static int32_t ids[SEQUENCES * (LENGTH + 2)];
    fm_model_training training = FM_MODEL_TRAINING_INIT;
    fm_model_step_result result;
    fm_trainer *trainer;
    training.threads = 1;
    training.steps = STEPS;
    training.warmup_steps = 10;
    training.rate = 1e-2;
    const fm_model_config config = counting();
    assert_ok(fm_model_trainer_open(&config, &training, &trainer));
    for (int step = 0; step < STEPS; step++) {
        for (int i = 0; i < SEQUENCES * (LENGTH + 2); i++)
            ids[i] = (int32_t)((fm_base_rng_at(9, (uint64_t)step, (uint64_t)(i / (LENGTH + 2))) +
                                (uint64_t)(i % (LENGTH + 2))) %
                               VOCAB);
        assert_ok(fm_model_trainer_step(trainer, ids, SEQUENCES, LENGTH, &result));
    }
    assert_true(result.loss < 0.5 && result.predict_loss < 1); // chance is ln 40 = 3.7
    assert_ok(fm_model_trainer_export(trainer, FM_DTYPE_BF16, folder));
    fm_model_trainer_close(trainer);
}

struct text {
    int32_t ids[ANSWER];
    int count;
};

static int on_token(void *context, const fm_serve_token *token)
{
    struct text *text = context;
    text->ids[text->count++] = token->id;
    return 0;
}

static fm_serve_stats answer(const char *folder, fm_dtype dtype, int predict, struct text *out)
{
    fm_model_options options = {.size = sizeof options, .threads = 1, .dtype = dtype, .predict = predict};
    fm_serve_options serve_options = {
        .size = sizeof serve_options, .cache_bytes = 1 << 20, .chunk_tokens = 3};
    int32_t prompt[8] = {3, 4, 5, 6, 7, 8, 9, 10};
    fm_model *model;
    fm_serve *serve;
    fm_serve_stats stats;
    uint64_t ticket;
    out->count = 0;
    assert_ok(fm_model_open(folder, &options, &model));
    assert_ok(fm_model_serve_open(model, &serve_options, &serve));
    fm_serve_request request = {.size = sizeof request,
                                .prompt = prompt,
                                .prompt_count = 8,
                                .max_tokens = ANSWER,
                                .on_token = on_token,
                                .context = out};
    assert_ok(fm_model_serve_submit(serve, &request, &ticket));
    while (fm_model_serve_wait(serve, 0))
        assert_ok(fm_model_serve_step(serve));
    fm_model_serve_stats(serve, &stats);
    fm_model_serve_close(serve);
    fm_model_close(model);
    return stats;
}

static void guesses_of_what_was_learnt_come_true(void **state)
{
    static const fm_dtype dtypes[] = {FM_DTYPE_F32, FM_DTYPE_BF16, FM_DTYPE_F8_E4M3};
    char folder[1024];
    (void)state;
    snprintf(folder, sizeof folder, "%s/counting", fm_test_tmpdir());
    train(folder);
    for (int i = 0; i < 3; i++) {
        struct text plain, guessed;
        fm_serve_stats without = answer(folder, dtypes[i], 0, &plain);
        fm_serve_stats with = answer(folder, dtypes[i], 1, &guessed);
        assert_int_equal(guessed.count, ANSWER);
        assert_memory_equal(guessed.ids, plain.ids, sizeof plain.ids);
        assert_int_equal(plain.ids[0], 11);
        assert_int_equal(without.drafted_tokens, 0);
        if (with.accepted_tokens < with.drafted_tokens * 3 / 4)
            fail_msg("%s: %d of %d guesses", fm_base_dtype_name(dtypes[i]), (int)with.accepted_tokens,
                     (int)with.drafted_tokens);
        assert_true(with.steps * 3 < without.steps * 2);
    }
}

static void drafts_need_a_head_and_something_fed(void **state)
{
    fm_model_config config = counting();
    fm_model_options options = {.size = sizeof options, .threads = 1, .predict = 1};
    fm_model *model;
    fm_model_session *session;
    float logits[VOCAB];
    int32_t ids[2] = {1, 2}, id, outside = VOCAB;
    (void)state;
    assert_ok(fm_model_open_random(&config, &options, 1, &model));
    assert_ok(fm_model_session_open(model, 0, &session));
    fm_model_draft draft = {session, ids + 1, &id};
    assert_fails(fm_model_draft_batch(&draft, 0), FM_ERR_ARG, "at least one");
    assert_fails(fm_model_draft_batch(&draft, 1), FM_ERR_ARG, "no token was fed");
    assert_ok(fm_model_feed(session, ids, 1, FM_MODEL_LAST, logits));
    draft.next = &outside;
    assert_fails(fm_model_draft_batch(&draft, 1), FM_ERR_ARG, "id 40");
    draft.next = ids + 1;
    assert_ok(fm_model_draft_batch(&draft, 1));
    assert_true(id >= 0 && id < VOCAB);
    fm_model_session_close(session);
    fm_model_close(model);
    options.predict = 0;
    assert_ok(fm_model_open_random(&config, &options, 1, &model));
    assert_ok(fm_model_session_open(model, 0, &session));
    draft.session = session;
    assert_fails(fm_model_draft_batch(&draft, 1), FM_ERR_ARG, "without its head");
    fm_model_session_close(session);
    fm_model_close(model);
    options.predict = 1;
    config.predict_layers = 0;
    assert_fails(fm_model_open_random(&config, &options, 1, &model), FM_ERR_ARG, "no head");
}

// A model of 671 billion parameters is refused in an instant, with what it would take.
static void what_does_not_fit_is_said_before_loading(void **state)
{
    fm_model_config config = counting();
    fm_model_options options = {.size = sizeof options, .threads = 1, .dtype = FM_DTYPE_F8_E4M3};
    fm_model *model;
    (void)state;
    config.hidden = 7168;
    config.layers = 61;
    config.experts = 256;
    config.expert_intermediate = 65536;
    assert_fails(fm_model_open_random(&config, &options, 1, &model), FM_ERR_LIMIT, "GiB are available");
}

// Opens, feeds and drafts; whatever memory is missing, nothing is left.
static fm_status use_all(void *context)
{
    fm_model_options options = *(const fm_model_options *)context;
    fm_model *model;
    fm_model_session *session = NULL;
    float logits[VOCAB];
    int32_t ids[3] = {1, 2, 3}, id;
    const fm_model_config config = counting();
    FM_TRY(fm_model_open_random(&config, &options, 1, &model));
    fm_status status = fm_model_session_open(model, 0, &session);
    if (status == FM_OK)
        status = fm_model_feed(session, ids, 2, FM_MODEL_LAST, logits);
    if (status == FM_OK)
        status = fm_model_draft_batch(&(fm_model_draft){session, ids + 1, &id}, 1);
    fm_model_session_close(session);
    fm_model_close(model);
    return status;
}

static void missing_memory_is_survived(void **state)
{
    fm_model_options options = {.size = sizeof options, .threads = 1, .predict = 1};
    (void)state;
    fm_test_each_alloc_fails(use_all, &options);
    options.dtype = FM_DTYPE_F8_E4M3;
    options.cache_dtype = FM_DTYPE_F8_E4M3;
    fm_test_each_alloc_fails(use_all, &options);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(guesses_of_what_was_learnt_come_true),
        cmocka_unit_test(drafts_need_a_head_and_something_fed),
        cmocka_unit_test(what_does_not_fit_is_said_before_loading),
        cmocka_unit_test(missing_memory_is_survived),
    };
    return fm_test_run("model_draft", tests);
}
