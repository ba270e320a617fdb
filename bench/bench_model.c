// The model: a training step against its products and attention alone, on one rank and on 2 x 2; from nothing to the first
// step.
#include <string.h>

#include "bench_model.h"
#include "fathom/gemm.h"
#include "fathom/mem.h"
#include "fathom/mla.h"
#include "fathom/model_train.h"
#include "fathom/numfmt.h"
#include "fathom/rng.h"

/** What a training case is: `sequences` of `tokens` each, processed one by one, by one thread or by side x side ranks, which
 *  are threads. */
struct train_size {
    fm_dtype dtype;
    int hidden, layers, tokens, sequences, side;
};

static const struct train_size small_f32 = {FM_DTYPE_F32, 64, 2, 64, 1, 1};
static const struct train_size large_f32 = {FM_DTYPE_F32, 512, 3, 512, 4, 1};
static const struct train_size large_bf16 = {FM_DTYPE_BF16, 512, 3, 512, 4, 1};
static const struct train_size large_fp8 = {FM_DTYPE_F8_E4M3, 512, 3, 512, 4, 1};
static const struct train_size ranks_fp8 = {FM_DTYPE_F8_E4M3, 512, 4, 256, 8, 2};

enum { VOCAB = 2048, EXPERTS = 8, TOPK = 2 };

static fm_model_config config_of(const struct train_size *size)
{
    return (fm_model_config){.family = FM_MODEL_V3,
                             .vocab = VOCAB,
                             .hidden = size->hidden,
                             .intermediate = 4 * size->hidden,
                             .layers = size->layers,
                             .dense_layers = 1,
                             .heads = size->hidden / 64,
                             .q_lora = size->hidden / 2,
                             .kv_lora = size->hidden / 4,
                             .nope = 32,
                             .rope = 16,
                             .value = 32,
                             .experts = EXPERTS,
                             .expert_intermediate = size->hidden,
                             .shared_experts = 1,
                             .topk = TOPK,
                             .groups = 1,
                             .topk_groups = 1,
                             .gate = FM_MODEL_SIGMOID,
                             .correction_bias = 1,
                             .normalise_topk = 1,
                             .routed_scale = 1,
                             .epsilon = 1e-6,
                             .rope_theta = 10000,
                             .context = 1024,
                             .bos = -1,
                             .eos = -1};
}

/** A product that a step is made of: rows x n x k, so many times. */
struct product {
    int64_t rows, n, k, times;
};

enum { PRODUCTS_MAX = 16 };

struct train_state {
    const struct train_size *size;
    fm_trainer *trainer;
    int32_t *ids;
    fm_model_step_result result;
    // The peer: gemm and mla alone on the same shapes.
    fm_gemm_context *gemm;
    fm_mla_context *mla;
    struct attention {
        fm_tensor q, k, v, out, lse, d_out, dq, dk, dv;
        void *memory[9];
    } attention;
    fm_bf16 *a, *b;
    float *d;
    struct product products[PRODUCTS_MAX];
    int count;
};

// Forward products of a step with their times; each has two of the same size in backward.
static int list_products(const struct train_size *size, struct product *out)
{
    fm_model_config c = config_of(size);
    int64_t t = size->tokens, queries = (int64_t)c.heads * (c.nope + c.rope), moe = c.layers - c.dense_layers;
    // An expert gets rows from the micro-batches of all expert ranks at once.
    int64_t rows = t * size->side * c.topk / c.experts, width = c.expert_intermediate;
    const struct product list[] = {
        {t, c.q_lora, c.hidden, c.layers},
        {t, queries, c.q_lora, c.layers},
        {t, c.kv_lora + c.rope, c.hidden, c.layers},
        {t, (int64_t)c.heads * (c.nope + c.value), c.kv_lora, c.layers},
        {t, c.hidden, (int64_t)c.heads * c.value, c.layers},
        {t, c.intermediate, c.hidden, 2},
        {t, c.hidden, c.intermediate, 1},
        {t, width, c.hidden, 2 * moe},
        {t, c.hidden, width, moe},
        {rows, width, c.hidden, 2 * moe * c.experts / size->side},
        {rows, c.hidden, width, moe * c.experts / size->side},
        {t, c.vocab, c.hidden, 1},
    };
    memcpy(out, list, sizeof list);
    return (int)(sizeof list / sizeof list[0]);
}

static void train_teardown(void *given)
{
    struct train_state *state = given;
    fm_model_trainer_close(state->trainer);
    fm_gemm_context_close(state->gemm);
    fm_mla_context_close(state->mla);
    for (size_t i = 0; i < sizeof state->attention.memory / sizeof state->attention.memory[0]; i++)
        fm_base_mem_free(state->attention.memory[i]);
    fm_base_mem_free(state->ids);
    fm_base_mem_free(state->a);
    fm_base_mem_free(state->b);
    fm_base_mem_free(state->d);
    fm_base_mem_free(state);
}

/** Threads of a case: on ranks, as many as there are CPUs for them. */
static int threads_of(const struct train_size *size)
{
    int ranks = size->side * size->side, cpus = fm_base_cpu_threads();
    return ranks < cpus ? ranks : cpus;
}

// The tensors of one sequence's attention, as mla attends in training: BF16, sums and gradients in f32.
static fm_status open_attention(struct train_state *state)
{
    fm_model_config c = config_of(state->size);
    struct attention *a = &state->attention;
    const int64_t keys = (int64_t)c.nope + c.rope, t = state->size->tokens;
    const struct {
        fm_tensor *tensor;
        fm_dtype dtype;
        int ndim;
        int64_t width;
    } list[] = {{&a->q, FM_DTYPE_BF16, 3, keys},    {&a->k, FM_DTYPE_BF16, 3, keys},
                {&a->v, FM_DTYPE_BF16, 3, c.value}, {&a->out, FM_DTYPE_F32, 3, c.value},
                {&a->lse, FM_DTYPE_F32, 2, 1},      {&a->d_out, FM_DTYPE_BF16, 3, c.value},
                {&a->dq, FM_DTYPE_F32, 3, keys},    {&a->dk, FM_DTYPE_F32, 3, keys},
                {&a->dv, FM_DTYPE_F32, 3, c.value}};
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        const int64_t shape[3] = {t, c.heads, list[i].width};
        size_t count = (size_t)(t * c.heads * list[i].width);
        float *floats = a->memory[i] = fm_bench_alloc(count * sizeof(float));
        if (!floats)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for attention");
        fm_bench_fill_floats(11 + i, floats, count);
        if (list[i].dtype == FM_DTYPE_BF16) // in place: a code is written behind where its float was read
            for (size_t j = 0; j < count; j++) {
                fm_bf16 code = fm_f32_to_bf16(floats[j]);
                memcpy((char *)floats + j * sizeof code, &code, sizeof code);
            }
        FM_TRY(fm_base_tensor_init(list[i].tensor, list[i].dtype, list[i].ndim, shape, floats));
    }
    const fm_mla_options options = {.size = sizeof options, .threads = threads_of(state->size)};
    return fm_mla_context_open(&options, &state->mla);
}

static fm_status attention_run(struct train_state *state)
{
    struct attention *a = &state->attention;
    const int32_t starts[2] = {0, state->size->tokens};
    const fm_mla_prefill_args args = {.q = &a->q,
                                      .k = &a->k,
                                      .v = &a->v,
                                      .batch = 1,
                                      .cu_seqlens_q = starts,
                                      .cu_seqlens_k = starts,
                                      .causal = 1,
                                      .out = &a->out,
                                      .lse = &a->lse};
    FM_TRY(fm_mla_prefill_forward(state->mla, &args));
    return fm_mla_prefill_backward(state->mla, &args, &a->d_out, &a->dq, &a->dk, &a->dv);
}

static fm_status open_peer(struct train_state *state)
{
    size_t largest = 0;
    fm_gemm_options options = {.size = sizeof options, .threads = threads_of(state->size)};
    state->count = list_products(state->size, state->products);
    for (int i = 0; i < state->count; i++) {
        const struct product *p = &state->products[i];
        size_t sides[3] = {(size_t)(p->rows * p->k), (size_t)(p->n * p->k), (size_t)(p->rows * p->n)};
        for (int j = 0; j < 3; j++)
            largest = sides[j] > largest ? sides[j] : largest;
    }
    state->a = fm_bench_alloc(largest * sizeof *state->a);
    state->b = fm_bench_alloc(largest * sizeof *state->b);
    state->d = fm_bench_alloc(largest * sizeof *state->d);
    if (!state->a || !state->b || !state->d)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for products");
    fm_bench_fill_floats(7, state->d, largest);
    fm_base_f32_to_bf16(state->d, largest, state->a);
    fm_base_f32_to_bf16(state->d, largest, state->b);
    FM_TRY(open_attention(state));
    return fm_gemm_context_open(&options, &state->gemm);
}

static fm_model_training training_of(const struct train_size *size)
{
    fm_model_training training = FM_MODEL_TRAINING_INIT;
    training.threads = size->side > 1 ? threads_of(size) : 1;
    training.dtype = size->dtype;
    training.micro_batch = 1;
    training.pipe_ranks = training.expert_ranks = size->side;
    training.schedule = size->side > 1 ? FM_PIPE_DUALPIPEV : FM_PIPE_CUSTOM;
    return training;
}

static fm_status train_setup(const fm_bench_setup *setup, void **out_state)
{
    struct train_state *state = fm_base_mem_zalloc(1, sizeof *state);
    if (!state)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a benchmark");
    state->size = setup->argument;
    const fm_model_training training = training_of(state->size);
    fm_model_config config = config_of(state->size);
    fm_status status = fm_model_trainer_open(&config, &training, &state->trainer);
    if (status == FM_OK)
        status = open_peer(state);
    int count = state->size->sequences * (state->size->tokens + 1);
    state->ids = fm_base_mem_zalloc((size_t)count, sizeof *state->ids);
    if (status == FM_OK && !state->ids)
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory for a batch");
    for (int i = 0; status == FM_OK && i < count; i++)
        state->ids[i] = (int32_t)(fm_base_rng_at(setup->seed, 1, (uint64_t)i) % VOCAB);
    if (status < 0)
        train_teardown(state);
    else
        *out_state = state;
    return status;
}

static fm_status train_run(void *given, int threads)
{
    struct train_state *state = given;
    (void)threads;
    return fm_model_trainer_step(state->trainer, state->ids, state->size->sequences, state->size->tokens,
                                 &state->result);
}

// From nothing to the end of a first step: what a run waits for before it learns.
static fm_status start_run(void *given, int threads)
{
    const struct train_state *state = given;
    const fm_model_training training = training_of(state->size);
    fm_model_config config = config_of(state->size);
    fm_model_step_result result;
    fm_trainer *trainer;
    (void)threads;
    FM_TRY(fm_model_trainer_open(&config, &training, &trainer));
    fm_status status =
        fm_model_trainer_step(trainer, state->ids, state->size->sequences, state->size->tokens, &result);
    fm_model_trainer_close(trainer);
    return status;
}

static fm_status one_product(const struct train_state *state, int64_t m, int64_t n, int64_t k)
{
    fm_gemm_operand a = {.dtype = FM_DTYPE_BF16, .data = state->a, .stride = k};
    fm_gemm_operand b = {.dtype = FM_DTYPE_BF16, .data = state->b, .stride = k};
    fm_gemm_result d = {.dtype = FM_DTYPE_F32, .data = state->d, .stride = n};
    fm_gemm_weights weights;
    FM_TRY(fm_gemm_weights_plain(n, k, &b, &weights));
    return fm_gemm_dense(state->gemm, m, &a, &weights, &d);
}

static fm_status parts_run(void *given, int threads)
{
    struct train_state *state = given;
    (void)threads;
    for (int i = 0; i < state->size->layers * state->size->sequences; i++)
        FM_TRY(attention_run(state));
    for (int i = 0; i < state->count; i++) {
        const struct product *p = &state->products[i];
        for (int64_t j = 0; j < p->times * state->size->sequences; j++) {
            FM_TRY(one_product(state, p->rows, p->n, p->k));
            FM_TRY(one_product(state, p->rows, p->k, p->n));
            FM_TRY(one_product(state, p->n, p->k, p->rows));
        }
    }
    return FM_OK;
}

// Forward is two products with half of length x length, backward five.
static double attention_flops(const struct train_size *size)
{
    fm_model_config c = config_of(size);
    double keys = c.nope + c.rope, pairs = 0.5 * size->tokens * size->tokens * c.heads * c.layers;
    return pairs * 2 * (keys + c.value + 3 * keys + 2 * c.value);
}

static fm_status add_train(fm_bench *bench, const char *name, const struct train_size *size,
                           fm_bench_mode mode)
{
    struct product products[PRODUCTS_MAX];
    double flops = attention_flops(size);
    int count = list_products(size, products);
    for (int i = 0; i < count; i++)
        flops += 6.0 * (double)(products[i].rows * products[i].n * products[i].k * products[i].times);
    flops *= size->sequences;
    fm_bench_case item = {.name = name,
                          .argument = size,
                          .limit = fm_bench_limit_of_isa(fm_base_cpu_isa(FM_ISA_AVX512)),
                          .flops = flops,
                          .items = (double)size->tokens * size->sequences,
                          .mode = mode,
                          .threads = threads_of(size),
                          .setup = train_setup,
                          .run = train_run,
                          .teardown = train_teardown,
                          .peers = {{.name = "gemm and mla alone, BF16", .run = parts_run}}};
    if (size->dtype != FM_DTYPE_F32)
        item.goals[0] = (fm_bench_goal){FM_BENCH_RATIO, .peer = "gemm and mla alone, BF16", .must = 0.5};
    return fm_bench_add(bench, &item);
}

static fm_status cases(fm_bench *bench)
{
    FM_TRY(bench_model_tokenizer_cases(bench));
    FM_TRY(fm_bench_add(bench, &(fm_bench_case){.name = "start.first-step",
                                                .argument = &large_f32,
                                                .items = 1,
                                                .threads = 1,
                                                .setup = train_setup,
                                                .run = start_run,
                                                .teardown = train_teardown,
                                                .goals = {{FM_BENCH_TIME, .must = 5}}}));
    FM_TRY(add_train(bench, "train.f32.small", &small_f32, FM_BENCH_IN_SMOKE));
    FM_TRY(add_train(bench, "train.f32.4x512", &large_f32, FM_BENCH_IN_QUICK));
    FM_TRY(add_train(bench, "train.bf16.4x512", &large_bf16, FM_BENCH_IN_QUICK));
    FM_TRY(add_train(bench, "train.fp8.4x512", &large_fp8, FM_BENCH_IN_QUICK));
    FM_TRY(add_train(bench, "train.fp8.2x2-ranks.8x256", &ranks_fp8, FM_BENCH_IN_QUICK));
    return bench_model_serve_cases(bench);
}

int main(int argc, char **argv)
{
    static const fm_bench_program program = {"model",
                                             "training steps against gemm and mla alone, tokenizing, "
                                             "inference against reading and gemm and mla alone",
                                             cases};
    return fm_bench_main(&program, argc, argv);
}
