// Inference in FP8 with layers of DeepSeek-V2-Lite's shape and random weights. A token's time is mostly that of reading the
// weights that it meets, so decoding is held against reading them at the read probe's rate; a prompt's is that of its
// products and attention, so prefill is held against gemm and mla alone.
#include <stdlib.h>
#include <string.h>

#include "bench_model.h"
#include "bench_probe.h"
#include "fathom/clock.h"
#include "fathom/gemm.h"
#include "fathom/mem.h"
#include "fathom/mla.h"
#include "fathom/numfmt.h"
#include "fathom/rng.h"
#include "fathom/serve.h"

enum { USERS_MAX = 8, POSITIONS = 128, PREFILL = 256, PREFIX = 240 };

// DeepSeek-V2-Lite's config.json, but for 3 of its 26 layers of experts, without the dense one, and with a vocabulary that is
// cut alike: so what attention, experts and the head each take of a token stays as in the whole model.
static const fm_model_config lite = {.family = FM_MODEL_V2,
                                     .vocab = 11776,
                                     .hidden = 2048,
                                     .intermediate = 10944,
                                     .layers = 3,
                                     .dense_layers = 0,
                                     .heads = 16,
                                     .kv_lora = 512,
                                     .nope = 128,
                                     .rope = 64,
                                     .value = 128,
                                     .experts = 64,
                                     .expert_intermediate = 1408,
                                     .shared_experts = 2,
                                     .topk = 6,
                                     .groups = 1,
                                     .topk_groups = 1,
                                     .gate = FM_MODEL_SOFTMAX,
                                     .routed_scale = 1,
                                     .epsilon = 1e-6,
                                     .rope_theta = 10000,
                                     .context = 1024,
                                     .bos = -1,
                                     .eos = -1};

// What all cases share: drawing the weights takes longer than a case.
static fm_model *shared_model;
static fm_bench_probes *shared_probes;

static void close_shared(void)
{
    fm_model_close(shared_model);
    fm_bench_probes_free(shared_probes);
}

static fm_status open_shared(void)
{
    fm_model_options options = {.size = sizeof options, .threads = 1, .dtype = FM_DTYPE_F8_E4M3};
    if (shared_model)
        return FM_OK;
    atexit(close_shared);
    FM_TRY(fm_bench_probes_new(0, &shared_probes));
    FM_TRY(fm_bench_probe_prepare(shared_probes, FM_BENCH_READ, 1));
    return fm_model_open_random(&lite, &options, 5, &shared_model);
}

static int32_t token(uint64_t seed, int text, int position)
{
    return (int32_t)(fm_base_rng_at(seed, (uint64_t)text, (uint64_t)position) % (uint64_t)lite.vocab);
}

/** Users in the middle of their answers. */
struct decode_state {
    uint64_t seed;
    int users, tokens; // tokens: fed to each so far
    fm_model_session *sessions[USERS_MAX];
    float *logits;
    int64_t *seen;   // loads when last looked
    int64_t experts; // that were touched, in all steps
    int64_t steps;
};

static void decode_teardown(void *given)
{
    struct decode_state *state = given;
    for (int i = 0; i < state->users; i++)
        fm_model_session_close(state->sessions[i]);
    fm_base_mem_free(state->logits);
    fm_base_mem_free(state->seen);
    fm_base_mem_free(state);
}

// Experts of all layers that got tokens since the last look.
static int64_t look(struct decode_state *state)
{
    int64_t touched = 0;
    for (int layer = lite.dense_layers; layer < lite.layers; layer++) {
        const int64_t *loads = fm_model_expert_loads(shared_model, layer);
        int64_t *seen = state->seen + (int64_t)layer * lite.experts;
        for (int e = 0; e < lite.experts; e++) {
            touched += loads[e] > seen[e];
            seen[e] = loads[e];
        }
    }
    return touched;
}

static fm_status fill_sessions(struct decode_state *state)
{
    int32_t ids[POSITIONS];
    for (int user = 0; user < state->users; user++) {
        FM_TRY(fm_model_session_open(shared_model, 0, &state->sessions[user]));
        for (int i = 0; i < POSITIONS; i++)
            ids[i] = token(state->seed, user, i);
        FM_TRY(fm_model_feed(state->sessions[user], ids, POSITIONS, FM_MODEL_LAST, state->logits));
    }
    return FM_OK;
}

static fm_status decode_run(void *given, int threads)
{
    struct decode_state *state = given;
    fm_model_part parts[USERS_MAX];
    int32_t ids[USERS_MAX];
    (void)threads;
    for (int i = 0; i < state->users; i++) {
        ids[i] = token(state->seed, i, POSITIONS + state->tokens);
        parts[i] = (fm_model_part){state->sessions[i], &ids[i], 1, FM_MODEL_LAST,
                                   state->logits + (int64_t)i * lite.vocab};
    }
    state->tokens++;
    return fm_model_feed_batch(parts, state->users);
}

// Takes back what the last run fed, and counts what it read.
static fm_status decode_before(void *given)
{
    struct decode_state *state = given;
    for (int i = 0; i < state->users; i++)
        FM_TRY(fm_model_session_cut(state->sessions[i], POSITIONS));
    int64_t touched = look(state);
    if (state->tokens > 0) {
        state->experts += touched;
        state->steps = state->tokens;
    }
    return FM_OK;
}

static fm_status decode_setup(const fm_bench_setup *setup, void **out_state)
{
    struct decode_state *state = fm_base_mem_zalloc(1, sizeof *state);
    if (!state)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a benchmark");
    state->seed = setup->seed;
    state->users = *(const int *)setup->argument;
    state->logits = fm_bench_alloc((size_t)state->users * (size_t)lite.vocab * sizeof *state->logits);
    state->seen = fm_base_mem_zalloc((size_t)lite.layers * (size_t)lite.experts, sizeof *state->seen);
    fm_status status = state->logits && state->seen
                           ? open_shared()
                           : fm_base_error_set(FM_ERR_NOMEM, "no memory for a benchmark");
    if (status == FM_OK)
        status = fill_sessions(state);
    if (status == FM_OK)
        status = decode_before(state); // what prompts touched does not count
    if (status == FM_OK)
        status = decode_run(state, 1);
    if (status == FM_OK)
        status = decode_before(state);
    if (status < 0)
        decode_teardown(state);
    else
        *out_state = state;
    return status;
}

// A step's bytes: FP8 weights of attention, networks and experts with their scales, the f32 router, the BF16 head, and each
// user's cache.
static double step_bytes(const struct decode_state *state)
{
    double code = 1 + 4.0 / (128 * 128);
    double attention = (double)lite.hidden * lite.heads * (lite.nope + lite.rope) +
                       (double)lite.hidden * (lite.kv_lora + lite.rope) +
                       (double)lite.kv_lora * lite.heads * (lite.nope + lite.value) +
                       (double)lite.hidden * lite.heads * lite.value;
    double expert = 3.0 * lite.hidden * lite.expert_intermediate;
    int moe = lite.layers - lite.dense_layers;
    double codes = lite.layers * attention + 3.0 * lite.dense_layers * lite.hidden * lite.intermediate +
                   moe * lite.shared_experts * expert +
                   expert * (double)state->experts / (double)state->steps;
    double cache = 2.0 * lite.layers * (lite.kv_lora + lite.rope) * POSITIONS * state->users;
    return codes * code + moe * 4.0 * lite.experts * lite.hidden + 2.0 * lite.hidden * lite.vocab + cache;
}

// Steps a second if all that they read came at the read probe's rate.
static double decode_limit(void *given, int threads)
{
    struct decode_state *state = given;
    (void)threads;
    return fm_bench_probe_take(shared_probes, FM_BENCH_READ, 1) / step_bytes(state) * state->users;
}

static void decode_metrics(void *given, fm_bench_metrics *to)
{
    struct decode_state *state = given;
    fm_bench_metric_add(to, "experts touched", (double)state->experts / (double)state->steps, "1");
    fm_bench_metric_add(to, "read a step", step_bytes(state), "B");
}

static fm_status add_decode(fm_bench *bench, const char *name, const int *users)
{
    return fm_bench_add(bench, &(fm_bench_case){.name = name,
                                                .argument = users,
                                                .limit = FM_BENCH_OWN_LIMIT,
                                                .own_limit = decode_limit,
                                                .own_limit_name = "reading what is met",
                                                .items = *users,
                                                .mode = FM_BENCH_IN_QUICK,
                                                .threads = 1,
                                                .setup = decode_setup,
                                                .before = decode_before,
                                                .run = decode_run,
                                                .metrics = decode_metrics,
                                                .teardown = decode_teardown,
                                                .goals = {{FM_BENCH_FRACTION, .must = 0.70}}});
}

/** A prompt, and what it is made of: the same products and attention with nothing between them. */
struct prefill_state {
    fm_model_session *session;
    int32_t ids[PREFILL];
    float *logits;
    fm_gemm_context *gemm;
    fm_mla_context *mla;
    uint8_t *codes, *cache;
    float *scales, *out;
    fm_bf16 *rows;
    char *blobs;
    size_t used;
    fm_gemm_weights q, kv_a, o, up, down, shared_up, shared_down, keys, values;
};

enum { BLOBS_BYTES = 64 << 20, CODES_MAX = 3072 * 2048 };

static void prefill_teardown(void *given)
{
    struct prefill_state *state = given;
    fm_model_session_close(state->session);
    fm_gemm_context_close(state->gemm);
    fm_mla_context_close(state->mla);
    fm_base_mem_free(state->logits);
    fm_base_mem_free(state->codes);
    fm_base_mem_free(state->scales);
    fm_base_mem_free(state->out);
    fm_base_mem_free(state->rows);
    fm_base_mem_free(state->cache);
    fm_base_mem_free(state->blobs);
    fm_base_mem_free(state);
}

static fm_gemm_operand fp8(const struct prefill_state *state, int64_t k, int scale_rows)
{
    return (fm_gemm_operand){.dtype = FM_DTYPE_F8_E4M3,
                             .data = state->codes,
                             .stride = k,
                             .scales = state->scales,
                             .scale_stride = (k + 127) / 128,
                             .scale_rows = scale_rows};
}

static fm_status pack(struct prefill_state *state, int64_t n, int64_t k, int bf16, fm_gemm_weights *out)
{
    fm_gemm_operand b = fp8(state, k, 128);
    size_t bytes;
    if (bf16)
        b = (fm_gemm_operand){.dtype = FM_DTYPE_BF16, .data = state->rows, .stride = k};
    FM_TRY(fm_gemm_weights_pack_size(n, k, &b, &bytes));
    char *blob = state->blobs + state->used;
    state->used += fm_round_up(bytes, FM_GEMM_BLOB_ALIGN);
    if (state->used > BLOBS_BYTES)
        return fm_base_error_set(FM_ERR_INTERNAL, "the benchmark's weights do not fit");
    FM_TRY(fm_gemm_weights_pack(state->gemm, n, k, &b, blob, bytes));
    return fm_gemm_weights_open(blob, bytes, out);
}

static fm_status open_alone(struct prefill_state *state, uint64_t seed)
{
    fm_gemm_options options = {.size = sizeof options, .threads = 1};
    fm_mla_options mla_options = {.size = sizeof mla_options, .threads = 1};
    size_t rows = (size_t)PREFILL * (size_t)lite.heads * (size_t)(lite.kv_lora + lite.rope);
    state->codes = fm_bench_alloc(CODES_MAX);
    state->scales = fm_bench_alloc(CODES_MAX / 128 * sizeof(float));
    state->rows = fm_bench_alloc(rows * sizeof *state->rows);
    state->out = fm_bench_alloc(rows * sizeof *state->out);
    state->cache = fm_bench_alloc((size_t)PREFILL * (size_t)(lite.kv_lora + lite.rope) * 2);
    state->blobs = fm_bench_alloc(BLOBS_BYTES);
    if (!state->codes || !state->scales || !state->rows || !state->out || !state->cache || !state->blobs)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a benchmark");
    fm_bench_fill(seed, state->codes, CODES_MAX);
    for (int i = 0; i < CODES_MAX; i++)
        state->codes[i] &= 0xbf; // numbers below 2, so that nothing overflows
    fm_bench_fill_floats(seed, state->scales, CODES_MAX / 128);
    fm_bench_fill_floats(seed + 1, state->out, rows);
    fm_base_f32_to_bf16(state->out, rows, state->rows);
    fm_base_f32_to_bf16(state->out, (size_t)PREFILL * (size_t)(lite.kv_lora + lite.rope),
                        (fm_bf16 *)(void *)state->cache);
    FM_TRY(fm_gemm_context_open(&options, &state->gemm));
    FM_TRY(fm_mla_context_open(&mla_options, &state->mla));
    int64_t shared = (int64_t)lite.shared_experts * lite.expert_intermediate;
    FM_TRY(pack(state, (int64_t)lite.heads * (lite.nope + lite.rope), lite.hidden, 0, &state->q));
    FM_TRY(pack(state, lite.kv_lora + lite.rope, lite.hidden, 0, &state->kv_a));
    FM_TRY(pack(state, lite.hidden, (int64_t)lite.heads * lite.value, 0, &state->o));
    FM_TRY(pack(state, lite.expert_intermediate, lite.hidden, 0, &state->up));
    FM_TRY(pack(state, lite.hidden, lite.expert_intermediate, 0, &state->down));
    FM_TRY(pack(state, shared, lite.hidden, 0, &state->shared_up));
    FM_TRY(pack(state, lite.hidden, shared, 0, &state->shared_down));
    FM_TRY(pack(state, lite.kv_lora, lite.nope, 1, &state->keys));
    return pack(state, lite.value, lite.kv_lora, 1, &state->values);
}

static fm_status prefill_setup(const fm_bench_setup *setup, void **out_state)
{
    struct prefill_state *state = fm_base_mem_zalloc(1, sizeof *state);
    if (!state)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a benchmark");
    state->logits = fm_bench_alloc((size_t)lite.vocab * sizeof *state->logits);
    for (int i = 0; i < PREFILL; i++)
        state->ids[i] = token(setup->seed, 100, i);
    fm_status status =
        state->logits ? open_shared() : fm_base_error_set(FM_ERR_NOMEM, "no memory for a benchmark");
    if (status == FM_OK)
        status = fm_model_session_open(shared_model, 0, &state->session);
    if (status == FM_OK)
        status = open_alone(state, setup->seed);
    if (status < 0)
        prefill_teardown(state);
    else
        *out_state = state;
    return status;
}

static fm_status prefill_before(void *given)
{
    return fm_model_session_cut(((struct prefill_state *)given)->session, 0);
}

static fm_status prefill_run(void *given, int threads)
{
    struct prefill_state *state = given;
    (void)threads;
    return fm_model_feed(state->session, state->ids, PREFILL, FM_MODEL_LAST, state->logits);
}

static fm_status product(const struct prefill_state *state, int64_t m, const fm_gemm_weights *b)
{
    fm_gemm_operand a = fp8(state, b->k, 1);
    if (b->operand.dtype == FM_DTYPE_BF16)
        a = (fm_gemm_operand){.dtype = FM_DTYPE_BF16, .data = state->rows, .stride = b->k};
    fm_gemm_result d = {.dtype = FM_DTYPE_F32, .data = state->out, .stride = b->n};
    return fm_gemm_dense(state->gemm, m, &a, b, &d);
}

static fm_status attention_alone(const struct prefill_state *state)
{
    int64_t width = lite.kv_lora + lite.rope, q_shape[4] = {1, PREFILL, lite.heads, width};
    int64_t out_shape[4] = {1, PREFILL, lite.heads, lite.kv_lora};
    int32_t length = PREFILL, table[PREFILL / FM_MODEL_BLOCK];
    fm_tensor q, out;
    fm_mla_plan *plan;
    for (int i = 0; i < PREFILL / FM_MODEL_BLOCK; i++)
        table[i] = i;
    FM_TRY(fm_base_tensor_init(&q, FM_DTYPE_BF16, 4, q_shape, state->rows));
    FM_TRY(fm_base_tensor_init(&out, FM_DTYPE_F32, 4, out_shape, state->out));
    fm_mla_cache cache = {.form = FM_MLA_FORM_BF16,
                          .page = FM_MODEL_BLOCK,
                          .h_kv = 1,
                          .d_qk = (int)width,
                          .d_v = lite.kv_lora,
                          .blocks = PREFILL / FM_MODEL_BLOCK,
                          .data = state->cache};
    fm_mla_shape shape = {
        .batch = 1, .s_q = PREFILL, .h_q = lite.heads, .h_kv = 1, .d_v = lite.kv_lora, .causal = 1};
    fm_mla_decode_args args = {
        .q = &q, .cache = &cache, .block_table = table, .max_blocks = PREFILL / FM_MODEL_BLOCK, .out = &out};
    FM_TRY(fm_mla_plan_dense(&shape, &length, &(fm_mla_split){.batch_invariant = 1}, &plan));
    fm_status status = fm_mla_decode(state->mla, plan, &args);
    fm_mla_plan_free(plan);
    return status;
}

static fm_status prefill_alone(void *given, int threads)
{
    const struct prefill_state *state = given;
    int64_t rows = (int64_t)PREFILL * lite.topk / lite.experts;
    (void)threads;
    for (int layer = 0; layer < lite.layers; layer++) {
        FM_TRY(product(state, PREFILL, &state->q));
        FM_TRY(product(state, PREFILL, &state->kv_a));
        for (int h = 0; h < lite.heads; h++) {
            FM_TRY(product(state, PREFILL, &state->keys));
            FM_TRY(product(state, PREFILL, &state->values));
        }
        FM_TRY(attention_alone(state));
        FM_TRY(product(state, PREFILL, &state->o));
        for (int e = 0; e < lite.experts; e++) {
            FM_TRY(product(state, rows, &state->up));
            FM_TRY(product(state, rows, &state->up)); // gate
            FM_TRY(product(state, rows, &state->down));
        }
        FM_TRY(product(state, PREFILL, &state->shared_up));
        FM_TRY(product(state, PREFILL, &state->shared_up));
        FM_TRY(product(state, PREFILL, &state->shared_down));
    }
    return FM_OK;
}

static fm_status add_prefill(fm_bench *bench)
{
    return fm_bench_add(
        bench, &(fm_bench_case){.name = "prefill.fp8.256",
                                .items = PREFILL,
                                .mode = FM_BENCH_IN_QUICK,
                                .threads = 1,
                                .setup = prefill_setup,
                                .before = prefill_before,
                                .run = prefill_run,
                                .teardown = prefill_teardown,
                                .peers = {{.name = "gemm and mla alone", .run = prefill_alone}},
                                .goals = {{FM_BENCH_RATIO, .peer = "gemm and mla alone", .must = 0.5}}});
}

/** Two requests through the engine: a prompt that nobody had, then one that begins like it. */
struct prefix_state {
    fm_serve *serve;
    uint64_t seed, first_ns;
    int text, runs;
    double shares; // of the second's time to its first token in the first's, summed up
};

static void prefix_teardown(void *given)
{
    struct prefix_state *state = given;
    fm_model_serve_close(state->serve);
    fm_base_mem_free(state);
}

static fm_status prefix_setup(const fm_bench_setup *setup, void **out_state)
{
    struct prefix_state *state = fm_base_mem_zalloc(1, sizeof *state);
    if (!state)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a benchmark");
    state->seed = setup->seed;
    state->text = 1000;
    fm_status status = open_shared();
    fm_serve_options options = {.size = sizeof options, .cache_bytes = 64 << 20};
    if (status == FM_OK)
        status = fm_model_serve_open(shared_model, &options, &state->serve);
    if (status < 0)
        prefix_teardown(state);
    else
        *out_state = state;
    return status;
}

static int prefix_token(void *context, const fm_serve_token *id)
{
    struct prefix_state *state = context;
    (void)id;
    state->first_ns = fm_base_clock_thread_cpu_ns();
    return 1;
}

// CPU time to the first token: waiting for other programs is nobody's cache miss.
static fm_status first_token(struct prefix_state *state, int tail, double *out_ns)
{
    int32_t ids[PREFILL];
    uint64_t ticket, begin = fm_base_clock_thread_cpu_ns();
    for (int i = 0; i < PREFILL; i++)
        ids[i] = token(state->seed, i < PREFIX ? state->text : tail, i);
    fm_serve_request request = {.size = sizeof request,
                                .prompt = ids,
                                .prompt_count = PREFILL,
                                .max_tokens = 4,
                                .ignore_end = 1,
                                .on_token = prefix_token,
                                .context = state};
    FM_TRY(fm_model_serve_submit(state->serve, &request, &ticket));
    while (fm_model_serve_wait(state->serve, 0))
        FM_TRY(fm_model_serve_step(state->serve));
    *out_ns = (double)(state->first_ns - begin);
    return FM_OK;
}

static fm_status prefix_run(void *given, int threads)
{
    struct prefix_state *state = given;
    double miss, hit;
    (void)threads;
    FM_TRY(first_token(state, state->text, &miss));
    FM_TRY(first_token(state, state->text + 1, &hit));
    state->text += 2;
    state->runs++;
    state->shares += hit / miss;
    return FM_OK;
}

static fm_status prefix_before(void *given)
{
    (void)given; // so that a sample is one run
    return FM_OK;
}

static void prefix_metrics(void *given, fm_bench_metrics *to)
{
    struct prefix_state *state = given;
    fm_bench_metric_add(to, "first token after a hit, of a miss's time", state->shares / state->runs, "1");
}

static fm_status add_prefix(fm_bench *bench)
{
    return fm_bench_add(
        bench,
        &(fm_bench_case){.name = "prefix.fp8.240of256",
                         .items = 2,
                         .mode = FM_BENCH_IN_QUICK,
                         .threads = 1,
                         .setup = prefix_setup,
                         .before = prefix_before,
                         .run = prefix_run,
                         .metrics = prefix_metrics,
                         .teardown = prefix_teardown,
                         .goals = {{FM_BENCH_OWN_AT_MOST, .name = "first token after a hit, of a miss's time",
                                    .must = 0.2}}});
}

fm_status bench_model_serve_cases(fm_bench *bench)
{
    static const int one = 1, eight = USERS_MAX;
    FM_TRY(add_decode(bench, "decode.fp8.1user", &one));
    FM_TRY(add_decode(bench, "decode.fp8.8users", &eight));
    FM_TRY(add_prefill(bench));
    return add_prefix(bench);
}
