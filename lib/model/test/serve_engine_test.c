// Requests through the engine get the tokens that they would get alone: batched, preempted, cancelled, from kept caches.
#include "fm_test.h"

#include <pthread.h>

#include "fathom/rng.h"
#include "serve_private.h"

enum { VOCAB = 256, TEXT_MAX = 400 };

struct answer {
    int32_t ids[TEXT_MAX];
    int count, stop_after; // 0: never
    int ended, cached;
    fm_serve_finish how;
    float logprob; // of the last token
    int top_count;
    float top_logprob;
};

static int on_token(void *context, const fm_serve_token *token)
{
    struct answer *answer = context;
    assert_int_equal(answer->ended, 0);
    answer->ids[answer->count++] = token->id;
    answer->logprob = token->logprob;
    answer->top_count = token->top_count;
    answer->top_logprob = token->top_count ? token->top_logprobs[0] : 0;
    return answer->count == answer->stop_after;
}

static void on_end(void *context, fm_serve_finish how, int cached, const char *message)
{
    struct answer *answer = context;
    assert_int_equal(answer->ended, 0);
    assert_int_equal(message != NULL, how == FM_SERVE_FAILED);
    answer->cached = cached;
    answer->how = how;
    answer->ended = 1;
}

static fm_model *open_golden(const char *name, int threads, fm_dtype dtype, fm_dtype cache)
{
    char path[64];
    fm_model *model;
    fm_model_options options = {
        .size = sizeof options, .threads = threads, .dtype = dtype, .cache_dtype = cache};
    snprintf(path, sizeof path, "golden/model/%s", name);
    assert_ok(fm_model_open(fm_test_shared(path), &options, &model));
    return model;
}

static fm_model *open_narrow(const char *name, fm_dtype dtype, fm_dtype cache)
{
    return open_golden(name, 1, dtype, cache);
}

static fm_model *open_model(const char *name)
{
    return open_narrow(name, FM_DTYPE_F32, FM_DTYPE_F32);
}

// A random model with a head for drafts.
static fm_model *open_drawn(int vocab, int predict, fm_dtype dtype, fm_dtype cache)
{
    const fm_model_config config = {.family = FM_MODEL_V3,
                                    .vocab = vocab,
                                    .hidden = 32,
                                    .intermediate = 64,
                                    .layers = 2,
                                    .dense_layers = 1,
                                    .heads = 2,
                                    .q_lora = 16,
                                    .kv_lora = 16,
                                    .nope = 16,
                                    .rope = 16,
                                    .value = 16,
                                    .experts = 4,
                                    .expert_intermediate = 32,
                                    .shared_experts = 1,
                                    .topk = 2,
                                    .groups = 1,
                                    .topk_groups = 1,
                                    .gate = FM_MODEL_SIGMOID,
                                    .routed_scale = 1,
                                    .epsilon = 1e-6,
                                    .rope_theta = 10000,
                                    .context = 200,
                                    .predict_layers = 1,
                                    .bos = -1,
                                    .eos = 1};
    fm_model *model;
    fm_model_options options = {
        .size = sizeof options, .threads = 1, .dtype = dtype, .cache_dtype = cache, .predict = predict};
    assert_ok(fm_model_open_random(&config, &options, 11, &model));
    return model;
}

// So few tokens that guesses come true.
static fm_model *open_guessing(int predict)
{
    return open_drawn(6, predict, FM_DTYPE_F32, FM_DTYPE_F32);
}

// What the request gives without an engine.
static void alone(fm_model *model, const fm_serve_request *request, struct answer *out)
{
    fm_model_session *session;
    const fm_model_config *config = fm_model_config_of(model);
    float logits[VOCAB];
    memset(out, 0, sizeof *out);
    assert_ok(fm_model_session_open(model, 0, &session));
    assert_ok(fm_model_feed(session, request->prompt, request->prompt_count, FM_MODEL_LAST, logits));
    for (;;) {
        int32_t id;
        assert_ok(fm_model_sample(logits, config->vocab, &request->sampling,
                                  request->prompt_count + out->count, &id));
        out->how = FM_SERVE_STOP;
        if (id == config->eos && !request->ignore_end)
            break;
        out->ids[out->count++] = id;
        out->how = FM_SERVE_LENGTH;
        if (out->count == request->max_tokens || request->prompt_count + out->count == config->context)
            break;
        assert_ok(fm_model_feed(session, &id, 1, FM_MODEL_LAST, logits));
    }
    fm_model_session_close(session);
}

static fm_serve_request make_request(const int32_t *prompt, int count, int max_tokens, struct answer *answer)
{
    memset(answer, 0, sizeof *answer);
    return (fm_serve_request){.size = sizeof(fm_serve_request),
                              .prompt = prompt,
                              .prompt_count = count,
                              .max_tokens = max_tokens,
                              .on_token = on_token,
                              .on_end = on_end,
                              .context = answer};
}

static void run_dry(fm_serve *serve)
{
    for (int steps = 0; fm_model_serve_wait(serve, 0); steps++) {
        assert_true(steps < 5000);
        assert_ok(fm_model_serve_step(serve));
    }
}

static int64_t block_bytes(const fm_model *model)
{
    return fm_model_session_block_bytes(model);
}

static void same_text(const struct answer *got, const struct answer *expected)
{
    assert_int_equal(got->ended, 1);
    assert_int_equal(got->count, expected->count);
    assert_memory_equal(got->ids, expected->ids, (size_t)expected->count * sizeof *got->ids);
    assert_int_equal(got->how, expected->how);
}

enum { MANY = 8 };

// Requests of many lengths arrive over time; greedy ones and drawn ones.
static fm_serve_stats check_mixed(fm_model *model, int many, int blocks, int expect_preemption)
{
    int vocab = fm_model_config_of(model)->vocab;
    fm_serve *serve;
    fm_serve_options options = {.size = sizeof options,
                                .cache_bytes = blocks * block_bytes(model),
                                .running_max = 6,
                                .chunk_tokens = 13};
    static struct answer answers[MANY], expected[MANY];
    static int32_t prompts[MANY][TEXT_MAX];
    fm_serve_request requests[MANY];
    fm_rng rng = fm_base_rng_begin(5, 0);
    uint64_t ticket;
    int context = fm_model_config_of(model)->context;
    for (int i = 0; i < many; i++) {
        int count = 1 + (int)fm_base_rng_below(&rng, 90), most = 1 + (int)fm_base_rng_below(&rng, 60);
        count = count < context ? count : context - 1;
        for (int j = 0; j < count; j++)
            prompts[i][j] = (int32_t)fm_base_rng_below(&rng, (uint64_t)vocab);
        requests[i] = make_request(prompts[i], count, most, &answers[i]);
        requests[i].ignore_end = i % 4 != 0;
        if (i % 3 == 1)
            requests[i].sampling = (fm_model_sampling){.temperature = 0.8, .top_p = 0.9, .seed = (uint64_t)i};
        alone(model, &requests[i], &expected[i]);
    }
    assert_ok(fm_model_serve_open(model, &options, &serve));
    for (int i = 0; i < many; i++) {
        assert_ok(fm_model_serve_submit(serve, &requests[i], &ticket));
        if (i >= 4)
            assert_ok(fm_model_serve_step(serve));
    }
    run_dry(serve);
    fm_serve_stats stats;
    fm_model_serve_stats(serve, &stats);
    for (int i = 0; i < many; i++)
        same_text(&answers[i], &expected[i]);
    assert_int_equal(stats.running + stats.waiting + stats.blocks_running, 0);
    assert_true(stats.blocks_kept <= stats.blocks_total);
    assert_int_equal(stats.preemptions > 0, expect_preemption);
    fm_model_serve_close(serve);
    fm_model_close(model);
    return stats;
}

static void batches_give_the_tokens_of_each_alone(void **state)
{
    (void)state;
    (void)check_mixed(open_model("v2"), MANY, 40, 0);
    (void)check_mixed(open_model("v3"), MANY, 40, 0);
}

static void narrow_types_change_nothing_about_it(void **state)
{
    (void)state;
    (void)check_mixed(open_narrow("v3", FM_DTYPE_BF16, FM_DTYPE_F32), 5, 40, 0);
    (void)check_mixed(open_narrow("v2", FM_DTYPE_F8_E4M3, FM_DTYPE_BF16), 5, 40, 0);
    (void)check_mixed(open_narrow("v3", FM_DTYPE_F8_E4M3, FM_DTYPE_F8_E4M3), MANY, 4, 1);
}

static void guesses_change_nothing(void **state)
{
    (void)state;
    fm_serve_stats without = check_mixed(open_guessing(0), MANY, 40, 0),
                   with = check_mixed(open_guessing(1), MANY, 40, 0);
    assert_int_equal(without.drafted_tokens, 0);
    assert_true(with.accepted_tokens > 0 && with.accepted_tokens < with.drafted_tokens);
    assert_int_equal(with.tokens, without.tokens);
    with = check_mixed(open_guessing(1), MANY, 4, 1);
    assert_true(with.accepted_tokens > 0);
}

static void preempted_requests_lose_nothing(void **state)
{
    (void)state;
    (void)check_mixed(open_model("v3"), MANY, 4, 1);
}

// Users who all say much the same keep few experts busy, which change workers while they are answered.
static void experts_change_workers_under_load(void **state)
{
    fm_model *model = open_golden("v3", 2, FM_DTYPE_BF16, FM_DTYPE_F32);
    fm_serve *serve;
    fm_serve_options options = {.size = sizeof options,
                                .cache_bytes = 40 * block_bytes(model),
                                .chunk_tokens = 60,
                                .replan_steps = 4};
    static struct answer answers[MANY], expected[MANY];
    int32_t prompt[100];
    uint64_t ticket;
    fm_serve_stats stats;
    (void)state;
    for (int i = 0; i < 100; i++)
        prompt[i] = i % 3;
    for (int i = 0; i < MANY; i++) {
        fm_serve_request request = make_request(prompt + i, 90, 12, &answers[i]);
        request.ignore_end = 1;
        alone(model, &request, &expected[i]);
    }
    assert_ok(fm_model_experts_place(model, 2, 4));
    assert_ok(fm_model_serve_open(model, &options, &serve));
    for (int i = 0; i < MANY; i++) {
        fm_serve_request request = make_request(prompt + i, 90, 12, &answers[i]);
        request.ignore_end = 1;
        assert_ok(fm_model_serve_submit(serve, &request, &ticket));
        assert_ok(fm_model_serve_step(serve));
    }
    run_dry(serve);
    for (int i = 0; i < MANY; i++)
        same_text(&answers[i], &expected[i]);
    fm_model_serve_stats(serve, &stats);
    assert_int_equal(stats.experts.workers, 2);
    assert_true(stats.experts.plans > 0 && stats.experts.moves > 0);
    assert_true(stats.experts.busiest <= stats.experts.busiest_in_order);
    assert_int_equal(stats.experts.worker_load[0] + stats.experts.worker_load[1], stats.experts.load);
    fm_model_serve_close(serve);
    fm_model_close(model);
}

static void kept_caches_are_gone_on_from(void **state)
{
    fm_model *model = open_model("v3");
    fm_serve *serve;
    fm_serve_options options = {.size = sizeof options, .cache_bytes = 8 * block_bytes(model)};
    struct answer first, second, expected;
    int32_t prompt[TEXT_MAX];
    uint64_t ticket;
    (void)state;
    assert_ok(fm_model_serve_open(model, &options, &serve));
    for (int i = 0; i < 100; i++)
        prompt[i] = (i * 37 + 11) % VOCAB;
    fm_serve_request request = make_request(prompt, 70, 10, &first);
    request.ignore_end = 1;
    assert_ok(fm_model_serve_submit(serve, &request, &ticket));
    run_dry(serve);
    assert_int_equal(first.cached, 0);
    // The conversation goes on: the prompt is the first one, its answer, and more.
    memcpy(prompt + 70, first.ids, 10 * sizeof *prompt);
    request = make_request(prompt, 90, 10, &second);
    request.ignore_end = 1;
    alone(model, &request, &expected);
    assert_ok(fm_model_serve_submit(serve, &request, &ticket));
    run_dry(serve);
    assert_int_equal(second.cached, 79); // the last token of the answer was never fed
    same_text(&second, &expected);
    // The same prompt again: all but its last token are there.
    request = make_request(prompt, 90, 10, &second);
    request.ignore_end = 1;
    assert_ok(fm_model_serve_submit(serve, &request, &ticket));
    run_dry(serve);
    assert_int_equal(second.cached, 89);
    same_text(&second, &expected);
    fm_model_serve_close(serve);
    fm_model_close(model);
}

// No block is lost, and none is given twice: those of the tree, those reserved and those that are free are all there are.
static void check_blocks(const fm_serve *serve)
{
    int64_t known = serve->reserved + serve->prefix.used + serve->prefix.unused;
    assert_true(serve->reserved >= 0 && known <= serve->pool.capacity);
    assert_true(serve->pool.free_count >= serve->pool.capacity - known);
    if (!serve->running && !serve->waiting) {
        assert_int_equal(serve->reserved + serve->prefix.used + serve->prefix.shared, 0);
        assert_int_equal(serve->pool.free_count + serve->prefix.unused, serve->pool.capacity);
    }
}

// Users who come together and begin alike: the beginning is computed once, and lies in the cache once.
static void check_shared(fm_model *model)
{
    enum { USERS = 6, SHARED = 150, OWN = 20, ANSWER = 6 };
    fm_serve *serve;
    // Two shared blocks and one more of each; without sharing two requests would fill it.
    fm_serve_options options = {
        .size = sizeof options, .cache_bytes = (2 + USERS) * block_bytes(model), .chunk_tokens = 100};
    static struct answer answers[USERS], expected[USERS];
    static int32_t prompts[USERS][SHARED + OWN];
    fm_serve_request requests[USERS];
    fm_serve_stats stats;
    uint64_t ticket;
    int vocab = fm_model_config_of(model)->vocab, most = 0;
    for (int i = 0; i < USERS; i++) {
        for (int j = 0; j < SHARED + OWN; j++)
            prompts[i][j] = (j < SHARED ? j * 37 + 11 : j * (i + 3) + i) % vocab;
        requests[i] = make_request(prompts[i], SHARED + OWN, ANSWER, &answers[i]);
        requests[i].ignore_end = 1;
        alone(model, &requests[i], &expected[i]);
    }
    assert_ok(fm_model_serve_open(model, &options, &serve));
    for (int i = 0; i < USERS; i++)
        assert_ok(fm_model_serve_submit(serve, &requests[i], &ticket));
    while (fm_model_serve_wait(serve, 0)) {
        assert_ok(fm_model_serve_step(serve));
        check_blocks(serve);
        fm_model_serve_stats(serve, &stats);
        most = stats.blocks_shared > most ? (int)stats.blocks_shared : most;
        assert_int_equal(stats.waiting, 0);
    }
    for (int i = 0; i < USERS; i++) {
        same_text(&answers[i], &expected[i]);
        assert_int_equal(answers[i].cached, i ? 128 : 0);
    }
    assert_int_equal(most, 2 * (USERS - 1));
    assert_int_equal(stats.preemptions, 0);
    assert_int_equal(stats.prompt_tokens, 128 + USERS * (SHARED + OWN - 128));
    assert_int_equal(stats.cached_tokens, 128 * (USERS - 1));
    fm_model_serve_close(serve);
    fm_model_close(model);
}

static void beginnings_are_shared(void **state)
{
    (void)state;
    check_shared(open_drawn(VOCAB, 0, FM_DTYPE_F32, FM_DTYPE_F32));
    check_shared(open_drawn(VOCAB, 1, FM_DTYPE_F32, FM_DTYPE_BF16));
    check_shared(open_drawn(VOCAB, 0, FM_DTYPE_BF16, FM_DTYPE_F8_E4M3));
    check_shared(open_drawn(VOCAB, 0, FM_DTYPE_F8_E4M3, FM_DTYPE_BF16));
}

// Requests of a family of texts come and are cancelled at random, while the cache is too small for all of them.
static void check_storm(fm_model *model, int blocks, uint64_t seed)
{
    enum { TEXTS = 6, REQUESTS = 40, LONGEST = 150, ANSWER = 30 };
    fm_serve *serve;
    fm_serve_options options = {.size = sizeof options,
                                .cache_bytes = blocks * block_bytes(model),
                                .running_max = 5,
                                .chunk_tokens = 37};
    static struct answer answers[REQUESTS], expected[TEXTS];
    static int32_t texts[TEXTS][LONGEST];
    fm_serve_request requests[TEXTS];
    uint64_t tickets[REQUESTS];
    int which[REQUESTS], vocab = fm_model_config_of(model)->vocab, ended = 0;
    fm_serve_stats stats;
    fm_rng rng = fm_base_rng_begin(seed, 0);
    for (int i = 0; i < TEXTS; i++) { // each goes along with the one before for a while
        int same = i ? 30 + (int)fm_base_rng_below(&rng, 80) : 0,
            count = 70 + (int)fm_base_rng_below(&rng, 75);
        for (int j = 0; j < LONGEST; j++)
            texts[i][j] = j < same ? texts[i - 1][j] : (int32_t)fm_base_rng_below(&rng, (uint64_t)vocab);
        requests[i] = make_request(texts[i], count, ANSWER, &expected[i]);
        requests[i].ignore_end = 1;
        alone(model, &requests[i], &expected[i]);
    }
    assert_ok(fm_model_serve_open(model, &options, &serve));
    for (int i = 0; i < REQUESTS; i++) {
        which[i] = (int)fm_base_rng_below(&rng, TEXTS);
        fm_serve_request request = requests[which[i]];
        memset(&answers[i], 0, sizeof answers[i]);
        request.context = &answers[i];
        assert_ok(fm_model_serve_submit(serve, &request, &tickets[i]));
        for (int steps = (int)fm_base_rng_below(&rng, 12); steps > 0; steps--) {
            assert_ok(fm_model_serve_step(serve));
            check_blocks(serve);
        }
        if (fm_base_rng_below(&rng, 3) == 0)
            fm_model_serve_cancel(serve, tickets[fm_base_rng_below(&rng, (uint64_t)i + 1)]);
    }
    while (fm_model_serve_wait(serve, 0)) {
        assert_ok(fm_model_serve_step(serve));
        check_blocks(serve);
    }
    for (int i = 0; i < REQUESTS; i++) {
        assert_int_equal(answers[i].ended, 1);
        ended += answers[i].how == FM_SERVE_LENGTH;
        if (answers[i].how == FM_SERVE_LENGTH)
            same_text(&answers[i], &expected[which[i]]);
        else
            assert_memory_equal(answers[i].ids, expected[which[i]].ids,
                                (size_t)answers[i].count * sizeof(int32_t));
    }
    fm_model_serve_stats(serve, &stats);
    assert_true(ended > REQUESTS / 3 && stats.finished[FM_SERVE_CANCELLED] > 3 && stats.preemptions > 0);
    assert_int_equal(stats.finished[FM_SERVE_FAILED], 0);
    assert_true(stats.cached_tokens > 500);
    fm_model_serve_close(serve);
    fm_model_close(model);
}

static void no_block_is_lost_in_a_storm(void **state)
{
    (void)state;
    check_storm(open_drawn(VOCAB, 0, FM_DTYPE_F32, FM_DTYPE_F32), 6, 1);
    check_storm(open_drawn(VOCAB, 0, FM_DTYPE_BF16, FM_DTYPE_BF16), 6, 2);
    check_storm(open_guessing(1), 7, 3);
}

// One prompt through an engine of its own, on the store that `path` names; gives what was found in caches.
static int ask_stored(fm_model *model, const char *path, int count, struct answer *out, fm_serve_stats *stats)
{
    fm_fs *fs;
    fm_fs_kvcache *store;
    fm_serve *serve;
    int32_t prompt[TEXT_MAX];
    uint64_t ticket;
    int vocab = fm_model_config_of(model)->vocab;
    for (int i = 0; i < count; i++)
        prompt[i] = (i * 37 + 11) % vocab;
    fm_serve_request request = make_request(prompt, count, 12, out);
    request.ignore_end = 1;
    assert_ok(fm_fs_open(path, FM_FS_CREATE, &fs));
    assert_ok(fm_fs_kvcache_open(fs, "blocks", NULL, &store));
    fm_serve_options options = {
        .size = sizeof options, .cache_bytes = 8 * block_bytes(model), .chunk_tokens = 50, .store = store};
    assert_ok(fm_model_serve_open(model, &options, &serve));
    assert_ok(fm_model_serve_submit(serve, &request, &ticket));
    run_dry(serve);
    fm_model_serve_stats(serve, stats);
    fm_model_serve_close(serve);
    fm_fs_kvcache_close(store);
    fm_fs_close(fs);
    return out->cached;
}

static void check_store(fm_model *model, const char *path, int count)
{
    struct answer first, second;
    fm_serve_stats stats;
    int blocks = (count - 1) / FM_MODEL_BLOCK;
    assert_int_equal(ask_stored(model, path, count, &first, &stats), 0);
    assert_true(stats.stored_blocks >= blocks && stats.loaded_blocks == 0);
    assert_int_equal(ask_stored(model, path, count, &second, &stats), blocks * FM_MODEL_BLOCK);
    assert_int_equal(stats.loaded_blocks, blocks);
    assert_int_equal(stats.stored_blocks, 0); // all of it is there
    same_text(&second, &first);
    // Another prompt that begins alike goes on from its first block.
    assert_int_equal(ask_stored(model, path, FM_MODEL_BLOCK + 5, &second, &stats), FM_MODEL_BLOCK);
    fm_model_close(model);
}

// Models and number formats keep apart in one store; what is read gives the text that computing gives.
static void stored_caches_outlive_the_engine(void **state)
{
    char path[1024];
    (void)state;
    snprintf(path, sizeof path, "%s/store", fm_test_tmpdir());
    check_store(open_model("v3"), path, 100);
    check_store(open_narrow("v3", FM_DTYPE_F8_E4M3, FM_DTYPE_BF16), path, 100);
    check_store(open_narrow("v3", FM_DTYPE_F8_E4M3, FM_DTYPE_F8_E4M3), path, 100);
    check_store(open_model("v3-yarn"), path, 100);
    check_store(open_guessing(0), path, 150);
    check_store(open_guessing(1), path, 150);
}

struct short_of_memory {
    fm_model *model;
    fm_fs_kvcache *store;
};

// A request through an engine with a store; it may fail, and leaves nothing.
static fm_status ask_once(void *context)
{
    const struct short_of_memory *with = context;
    fm_serve_options options = {.size = sizeof options,
                                .cache_bytes = 8 * block_bytes(with->model),
                                .chunk_tokens = 50,
                                .store = with->store};
    fm_serve *serve;
    struct answer answer;
    int32_t prompt[80];
    uint64_t ticket;
    for (int i = 0; i < 80; i++)
        prompt[i] = i % 6;
    fm_serve_request request = make_request(prompt, 80, 6, &answer);
    request.ignore_end = 1;
    FM_TRY(fm_model_serve_open(with->model, &options, &serve));
    fm_status status = fm_model_serve_submit(serve, &request, &ticket);
    if (status == FM_OK)
        run_dry(serve);
    fm_model_serve_close(serve);
    if (status == FM_OK && answer.how == FM_SERVE_FAILED)
        return FM_ERR_NOMEM;
    return status;
}

static void missing_memory_fails_a_request_alone(void **state)
{
    struct short_of_memory with = {.model = open_guessing(1)};
    char path[1024];
    fm_fs *fs;
    (void)state;
    snprintf(path, sizeof path, "%s/short", fm_test_tmpdir());
    assert_ok(fm_fs_open(path, FM_FS_CREATE, &fs));
    assert_ok(fm_fs_kvcache_open(fs, "blocks", NULL, &with.store));
    assert_ok(ask_once(&with)); // writes to the store
    assert_ok(ask_once(&with)); // and reads: what store and model keep for good, they have from here on
    fm_test_each_alloc_fails(ask_once, &with);
    fm_fs_kvcache_close(with.store);
    fm_fs_close(fs);
    fm_model_close(with.model);
}

static void requests_are_cancelled_and_stopped(void **state)
{
    fm_model *model = open_model("v3");
    fm_serve *serve;
    fm_serve_options options = {
        .size = sizeof options, .cache_bytes = 8 * block_bytes(model), .running_max = 1, .waiting_max = 2};
    struct answer answers[4];
    int32_t prompt[] = {1, 2, 3};
    uint64_t tickets[4];
    fm_serve_request requests[4];
    (void)state;
    assert_ok(fm_model_serve_open(model, &options, &serve));
    for (int i = 0; i < 4; i++) {
        requests[i] = make_request(prompt, 3, 50, &answers[i]);
        requests[i].ignore_end = 1;
        requests[i].logprobs = 1;
        requests[i].top_logprobs = 3;
    }
    answers[0].stop_after = 2;
    assert_ok(fm_model_serve_submit(serve, &requests[0], &tickets[0]));
    assert_ok(fm_model_serve_submit(serve, &requests[1], &tickets[1]));
    assert_fails(fm_model_serve_submit(serve, &requests[2], &tickets[2]), FM_ERR_BUSY, "2 requests wait");
    assert_ok(fm_model_serve_step(serve));
    assert_int_equal(answers[0].count, 1);
    assert_ok(fm_model_serve_submit(serve, &requests[2], &tickets[2]));
    fm_model_serve_cancel(serve, tickets[1]); // while it waits
    fm_model_serve_cancel(serve, 12345);
    assert_ok(fm_model_serve_step(serve));
    assert_int_equal(answers[0].how, FM_SERVE_STOP);
    assert_int_equal(answers[0].count, 2);
    assert_int_equal(answers[0].top_count, 3);
    assert_true(answers[0].logprob == answers[0].top_logprob && answers[0].logprob <= 0); // greedy
    assert_int_equal(answers[1].how, FM_SERVE_CANCELLED);
    assert_ok(fm_model_serve_step(serve));
    fm_model_serve_cancel(serve, tickets[2]); // while it runs
    assert_ok(fm_model_serve_submit(serve, &requests[3], &tickets[3]));
    assert_ok(fm_model_serve_step(serve));
    assert_int_equal(answers[2].how, FM_SERVE_CANCELLED);
    assert_true(answers[2].count > 0 && answers[2].count < 50);
    fm_model_serve_close(serve); // ends the last one
    assert_int_equal(answers[3].how, FM_SERVE_CANCELLED);
    fm_model_close(model);
}

static void bad_requests_are_refused(void **state)
{
    fm_model *model = open_model("v3");
    fm_serve *serve;
    fm_serve_options options = {.size = sizeof options, .cache_bytes = block_bytes(model)};
    struct answer answer;
    int32_t prompt[] = {1, VOCAB};
    uint64_t ticket;
    (void)state;
    assert_ok(fm_model_serve_open(model, &options, &serve));
    fm_serve_request request = make_request(prompt, 2, 5, &answer);
    assert_fails(fm_model_serve_submit(serve, &request, &ticket), FM_ERR_ARG, "token 1 of the prompt");
    request.prompt_count = 0;
    assert_fails(fm_model_serve_submit(serve, &request, &ticket), FM_ERR_ARG, "empty");
    request.prompt_count = 1;
    request.max_tokens = 0;
    assert_fails(fm_model_serve_submit(serve, &request, &ticket), FM_ERR_ARG, "max_tokens");
    request.max_tokens = 64;
    assert_fails(fm_model_serve_submit(serve, &request, &ticket), FM_ERR_LIMIT, "do not fit into a cache");
    request.max_tokens = 5;
    request.top_logprobs = 21;
    assert_fails(fm_model_serve_submit(serve, &request, &ticket), FM_ERR_ARG, "top_logprobs");
    fm_model_serve_close(serve);
    options.cache_bytes = 5;
    assert_fails(fm_model_serve_open(model, &options, &serve), FM_ERR_LIMIT, "at least one block");
    options.cache_bytes = -1;
    assert_fails(fm_model_serve_open(model, &options, &serve), FM_ERR_ARG, "negative");
    fm_model_close(model);
}

struct crowd {
    fm_serve *serve;
    int number, stop;
    struct answer answers[3];
};

static void *submit_some(void *context)
{
    struct crowd *crowd = context;
    int32_t prompt[] = {crowd->number, 7, 9};
    for (int i = 0; i < 3; i++) {
        uint64_t ticket;
        fm_serve_request request = make_request(prompt, 3, 8, &crowd->answers[i]);
        request.ignore_end = 1;
        if (fm_model_serve_submit(crowd->serve, &request, &ticket) == FM_OK && i == 2)
            fm_model_serve_cancel(crowd->serve, ticket);
    }
    return NULL;
}

// Threads submit and cancel while another steps: for the thread sanitizer.
static void any_thread_may_submit(void **state)
{
    enum { THREADS = 4 };
    fm_model *model = open_model("v2");
    fm_serve *serve;
    fm_serve_options options = {.size = sizeof options, .cache_bytes = 64 * block_bytes(model)};
    pthread_t threads[THREADS];
    static struct crowd crowds[THREADS];
    (void)state;
    assert_ok(fm_model_serve_open(model, &options, &serve));
    for (int i = 0; i < THREADS; i++) {
        crowds[i] = (struct crowd){.serve = serve, .number = i};
        assert_int_equal(pthread_create(&threads[i], NULL, submit_some, &crowds[i]), 0);
    }
    fm_serve_stats stats;
    do {
        (void)fm_model_serve_wait(serve, 20);
        assert_ok(fm_model_serve_step(serve));
        fm_model_serve_stats(serve, &stats);
    } while (stats.finished[FM_SERVE_LENGTH] + stats.finished[FM_SERVE_CANCELLED] < 3 * THREADS);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(crowds[i].answers[0].count, 8);
        assert_memory_equal(crowds[i].answers[0].ids, crowds[i].answers[1].ids, 8 * sizeof(int32_t));
    }
    fm_model_serve_close(serve);
    fm_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batches_give_the_tokens_of_each_alone),
        cmocka_unit_test(narrow_types_change_nothing_about_it),
        cmocka_unit_test(guesses_change_nothing),
        cmocka_unit_test(preempted_requests_lose_nothing),
        cmocka_unit_test(experts_change_workers_under_load),
        cmocka_unit_test(kept_caches_are_gone_on_from),
        cmocka_unit_test(beginnings_are_shared),
        cmocka_unit_test(no_block_is_lost_in_a_storm),
        cmocka_unit_test(stored_caches_outlive_the_engine),
        cmocka_unit_test(missing_memory_fails_a_request_alone),
        cmocka_unit_test(requests_are_cancelled_and_stopped),
        cmocka_unit_test(bad_requests_are_refused),
        cmocka_unit_test(any_thread_may_submit),
    };
    return fm_test_run("serve_engine", tests);
}
