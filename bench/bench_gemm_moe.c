#include "bench_gemm_moe.h"

#include "bench_gemm_case.h"

#include "fathom/gemm_mlp.h"
#include "fathom/mem.h"
#include "fathom/numfmt.h"

#include <stdio.h>
#include <string.h>

// FP8 with f32 scales, weights packed, each token with `topk` experts of its own.
struct argument {
    enum { GROUPED, LAYER } what; // a product of rows sorted by expert; or gate and up, SwiGLU, down
    fm_isa isa;
    fm_bench_mode mode;
    int experts, topk;
    int64_t tokens, n, k; // of a layer: n is the experts' own width
    double must, hope;
};

struct moe {
    struct argument argument;
    fm_gemm_context *one, *all;
    fm_gemm_weights *weights[2]; // of a layer: gate and up, and down
    void *blobs[2];
    size_t blob_bytes[2]; // of all experts
    fm_e4m3 *a_codes;
    float *a_scales;
    fm_bf16 *out;
    size_t out_bytes;
    int32_t *topk_idx;
    int64_t *offsets, rows;
    void *workspace;
    size_t workspace_bytes;
};

static int is_layer(const struct argument *argument)
{
    return argument->what == LAYER;
}

static void teardown(void *state)
{
    struct moe *moe = state;
    fm_gemm_context_close(moe->one);
    fm_gemm_context_close(moe->all);
    for (int i = 0; i < 2; i++) {
        fm_base_mem_free(moe->weights[i]);
        fm_base_mem_free(moe->blobs[i]);
    }
    fm_base_mem_free(moe->a_codes);
    fm_base_mem_free(moe->a_scales);
    fm_base_mem_free(moe->out);
    fm_base_mem_free(moe->topk_idx);
    fm_base_mem_free(moe->offsets);
    fm_base_mem_free(moe->workspace);
    fm_base_mem_free(moe);
}

static fm_status no_memory(const char *what)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory for %s", what);
}

// Any codes but NaN, and scales that keep sums of k such products near 1.
static void fill_operand(uint64_t seed, fm_e4m3 *codes, size_t count, float *scales, size_t scale_count)
{
    fm_bench_fill(seed, codes, count);
    for (size_t i = 0; i < count; i++)
        codes[i] = (codes[i] & 0x7F) == 0x7F ? 0 : codes[i];
    fm_bench_fill_floats(seed + 1, scales, scale_count);
    for (size_t i = 0; i < scale_count; i++)
        scales[i] = (scales[i] + 1.5f) * 1e-3f;
}

// All experts' matrices of [n, k], one blob behind the other.
static fm_status pack_all(struct moe *moe, uint64_t seed, int which, int64_t n, int64_t k)
{
    int experts = moe->argument.experts;
    int64_t across = (k + FM_GEMM_SCALE_BLOCK - 1) / FM_GEMM_SCALE_BLOCK;
    size_t scale_count = (size_t)((n + FM_GEMM_SCALE_BLOCK - 1) / FM_GEMM_SCALE_BLOCK * across), bytes;
    fm_e4m3 *codes = fm_base_mem_alloc((size_t)(n * k));
    float *scales = fm_base_mem_alloc(scale_count * sizeof *scales);
    fm_gemm_operand b = {.dtype = FM_DTYPE_F8_E4M3,
                         .data = codes,
                         .stride = k,
                         .scales = scales,
                         .scale_stride = across,
                         .scale_rows = FM_GEMM_SCALE_BLOCK};
    fm_status status = codes && scales ? fm_gemm_weights_pack_size(n, k, &b, &bytes) : no_memory("weights");
    if (status == FM_OK) {
        moe->blob_bytes[which] = bytes * (size_t)experts;
        moe->blobs[which] = fm_bench_alloc(moe->blob_bytes[which]);
        moe->weights[which] = fm_base_mem_zalloc((size_t)experts, sizeof *moe->weights[which]);
        if (!moe->blobs[which] || !moe->weights[which])
            status = no_memory("packed weights");
    }
    for (int e = 0; status == FM_OK && e < experts; e++) {
        uint8_t *blob = (uint8_t *)moe->blobs[which] + (size_t)e * bytes;
        fill_operand(seed + (uint64_t)(2 * e), codes, (size_t)(n * k), scales, scale_count);
        status = fm_gemm_weights_pack(moe->all, n, k, &b, blob, bytes);
        if (status == FM_OK)
            status = fm_gemm_weights_open(blob, bytes, &moe->weights[which][e]);
    }
    fm_base_mem_free(codes);
    fm_base_mem_free(scales);
    return status;
}

// Each token's experts follow one another from a random one on, so that they differ; then the rows that each gets.
static fm_status route(struct moe *moe, uint64_t seed)
{
    const struct argument *argument = &moe->argument;
    size_t tokens = (size_t)argument->tokens, topk = (size_t)argument->topk;
    moe->topk_idx = fm_base_mem_alloc(tokens * topk * sizeof *moe->topk_idx);
    moe->offsets = fm_base_mem_zalloc((size_t)argument->experts + 1, sizeof *moe->offsets);
    if (!moe->topk_idx || !moe->offsets)
        return no_memory("the experts of tokens");
    for (size_t i = 0; i < tokens; i++) {
        uint64_t random;
        fm_bench_fill(seed + i, &random, sizeof random);
        for (size_t j = 0; j < topk; j++) {
            int expert = (int)((random + j) % (uint64_t)argument->experts);
            moe->topk_idx[i * topk + j] = expert;
            moe->offsets[expert + 1]++;
        }
    }
    for (int e = 0; e < argument->experts; e++)
        moe->offsets[e + 1] += moe->offsets[e];
    return FM_OK;
}

static fm_gemm_mlp layer_of(const struct moe *moe)
{
    return (fm_gemm_mlp){
        .experts = moe->argument.experts, .gate_up = moe->weights[0], .down = moe->weights[1]};
}

static fm_status fill(const fm_bench_setup *given, void *state)
{
    struct moe *moe = state;
    const struct argument *argument = &moe->argument;
    FM_TRY(bench_gemm_contexts_open(argument->isa, given->threads_max, &moe->one, &moe->all));
    FM_TRY(route(moe, given->seed + 1000));
    int64_t n = argument->n, k = argument->k, across = (k + FM_GEMM_SCALE_BLOCK - 1) / FM_GEMM_SCALE_BLOCK;
    moe->rows = is_layer(argument) ? argument->tokens : argument->tokens * argument->topk;
    moe->out_bytes = (size_t)(moe->rows * (is_layer(argument) ? k : n)) * sizeof *moe->out;
    moe->a_codes = fm_bench_alloc((size_t)(moe->rows * k));
    moe->a_scales = fm_base_mem_alloc((size_t)(moe->rows * across) * sizeof *moe->a_scales);
    moe->out = fm_bench_alloc(moe->out_bytes);
    if (!moe->a_codes || !moe->a_scales || !moe->out)
        return no_memory("rows");
    memset(moe->out, 0xA5, moe->out_bytes); // so that its pages are there
    fill_operand(given->seed, moe->a_codes, (size_t)(moe->rows * k), moe->a_scales,
                 (size_t)(moe->rows * across));
    FM_TRY(pack_all(moe, given->seed + 2000, 0, is_layer(argument) ? 2 * n : n, k));
    if (!is_layer(argument))
        return FM_OK;
    FM_TRY(pack_all(moe, given->seed + 3000, 1, k, n));
    fm_gemm_mlp layer = layer_of(moe);
    FM_TRY(fm_gemm_mlp_workspace(&layer, argument->tokens, argument->topk, &moe->workspace_bytes));
    moe->workspace = fm_bench_alloc(moe->workspace_bytes);
    return moe->workspace ? FM_OK : no_memory("the workspace");
}

static fm_status setup(const fm_bench_setup *given, void **out_state)
{
    return bench_gemm_setup(given, sizeof(struct argument), sizeof(struct moe), fill, teardown, out_state);
}

static fm_status make_cold(void *state)
{
    struct moe *moe = state;
    for (int i = 0; i < 2 && moe->blobs[i]; i++)
        fm_bench_evict(moe->blobs[i], moe->blob_bytes[i]);
    return FM_OK;
}

static fm_status run(void *state, int threads)
{
    struct moe *moe = state;
    const struct argument *argument = &moe->argument;
    fm_gemm_context *context = threads == 1 ? moe->one : moe->all;
    fm_gemm_operand a = {.dtype = FM_DTYPE_F8_E4M3,
                         .data = moe->a_codes,
                         .stride = argument->k,
                         .scales = moe->a_scales,
                         .scale_stride = (argument->k + FM_GEMM_SCALE_BLOCK - 1) / FM_GEMM_SCALE_BLOCK,
                         .scale_rows = 1};
    fm_gemm_result d = {
        .dtype = FM_DTYPE_BF16, .data = moe->out, .stride = is_layer(argument) ? argument->k : argument->n};
    if (!is_layer(argument))
        return fm_gemm_grouped(context, argument->experts, moe->offsets, moe->rows, &a, moe->weights[0], &d);
    fm_gemm_mlp layer = layer_of(moe);
    return fm_gemm_mlp_run(context, &layer, argument->tokens, argument->topk, moe->topk_idx, NULL, &a,
                           moe->workspace, moe->workspace_bytes, &d);
}

static uint64_t hash(const void *state)
{
    const struct moe *moe = state;
    return fm_bench_hash(0, moe->out, moe->out_bytes);
}

// Few rows an expert are bound by reading weights, of those experts that somebody chose: here all, or those of one token.
static fm_status add(fm_bench *bench, const struct argument *argument)
{
    char name[96];
    int64_t matrices = is_layer(argument) ? 3 : 1;
    int64_t read = argument->tokens == 1 ? argument->topk : argument->experts;
    snprintf(name, sizeof name, "%s.fp8.%s.%dof%d.%lldx%lldx%lld", is_layer(argument) ? "mlp" : "grouped",
             fm_base_isa_name(argument->isa), argument->topk, argument->experts, (long long)argument->tokens,
             (long long)argument->n, (long long)argument->k);
    fm_bench_case item = {
        .name = name,
        .argument = argument,
        .limit = FM_BENCH_READ,
        .bytes = (double)(read * matrices * argument->n * argument->k),
        .mode = argument->mode,
        .setup = setup,
        .before = make_cold,
        .run = run,
        .hash = hash,
        .teardown = teardown,
    };
    if (argument->must > 0)
        item.goals[0] =
            (fm_bench_goal){.metric = FM_BENCH_FRACTION, .must = argument->must, .hope = argument->hope};
    return fm_bench_add(bench, &item);
}

fm_status bench_gemm_moe_add(fm_bench *bench)
{
    static const fm_isa levels[] = {FM_ISA_AMX, FM_ISA_AVX512, FM_ISA_AVX2};
    // DeepSeek-V3's experts are 2048 wide, of 7168. Quick runs take as many of them as give each the rows that 256 get.
    static const struct argument shapes[] = {
        {.what = GROUPED,
         .mode = FM_BENCH_IN_SMOKE,
         .experts = 9,
         .topk = 2,
         .tokens = 12,
         .n = 96,
         .k = 300},
        {.what = GROUPED, .experts = 32, .topk = 1, .tokens = 512, .n = 512, .k = 7168},
        {.what = GROUPED,
         .mode = FM_BENCH_IN_FULL,
         .experts = 256,
         .topk = 8,
         .tokens = 512,
         .n = 4096,
         .k = 7168,
         .must = 0.60,
         .hope = 0.85},
        {.what = LAYER, .mode = FM_BENCH_IN_SMOKE, .experts = 9, .topk = 2, .tokens = 12, .n = 96, .k = 300},
        {.what = LAYER, .experts = 8, .topk = 8, .tokens = 1, .n = 2048, .k = 7168},
        {.what = LAYER,
         .mode = FM_BENCH_IN_FULL,
         .experts = 32,
         .topk = 8,
         .tokens = 64,
         .n = 2048,
         .k = 7168},
    };
    enum { SHAPES = sizeof shapes / sizeof *shapes, LEVELS = sizeof levels / sizeof *levels };
    static struct argument arguments[LEVELS][SHAPES];
    for (int level = 0; level < LEVELS; level++)
        for (int i = 0; i < SHAPES; i++) {
            struct argument *argument = &arguments[level][i];
            *argument = shapes[i];
            argument->isa = levels[level];
            if (argument->isa != FM_ISA_AMX)
                argument->must = 0; // with FMA 16 rows an expert are bound by arithmetic, not by reading
            FM_TRY(add(bench, argument));
        }
    return FM_OK;
}
