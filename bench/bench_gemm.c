#include "bench_gemm.h"
#include "bench_gemm_case.h"
#include "bench_gemm_indexer.h"
#include "bench_gemm_moe.h"
#include "bench_gemm_quant.h"
#include "fm_bench.h"

#include "fathom/gemm.h"
#include "fathom/mem.h"
#include "fathom/numfmt.h"

#include <stdio.h>
#include <string.h>

// A product D = A B^T with packed weights, D in BF16.
struct shape {
    int64_t m, n, k;
    fm_bench_mode mode;
};

struct argument {
    struct shape shape;
    fm_dtype dtype;
    int powers; // scales are powers of two
    fm_isa isa;
};

struct product {
    struct argument argument;
    fm_gemm_context *one, *all;
    fm_gemm_operand a;
    fm_gemm_weights weights;
    fm_gemm_result d;
    void *a_codes, *b_codes, *blob, *out;
    float *a_scales, *b_scales;
    struct bench_gemm_peers *peers;
    size_t blob_bytes;
};

static size_t code_bytes(const struct argument *argument)
{
    return argument->dtype == FM_DTYPE_BF16 ? 2 : 1;
}

// Random codes of values in [-1, 1), or of all magnitudes that E4M3 has, with their scales.
static fm_status make_operand(const struct argument *argument, uint64_t seed, int64_t rows, int scale_rows,
                              fm_gemm_operand *out_operand, void **out_codes, float **out_scales)
{
    int64_t k = argument->shape.k, blocks = (k + FM_GEMM_SCALE_BLOCK - 1) / FM_GEMM_SCALE_BLOCK;
    size_t count = (size_t)(rows * k);
    size_t scale_count = (size_t)((rows + scale_rows - 1) / scale_rows * blocks);
    float *values = fm_base_mem_alloc(count * sizeof *values);
    *out_codes = fm_bench_alloc(count * code_bytes(argument));
    *out_scales = fm_base_mem_alloc(scale_count * sizeof **out_scales);
    if (!values || !*out_codes || !*out_scales) {
        fm_base_mem_free(values);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu elements", count);
    }
    fm_bench_fill_floats(seed, values, count);
    if (argument->dtype == FM_DTYPE_BF16) {
        fm_base_f32_to_bf16(values, count, *out_codes);
    } else {
        for (size_t i = 0; i < count; i++)
            values[i] *= FM_E4M3_MAX;
        fm_base_f32_to_e4m3(values, count, *out_codes);
    }
    fm_base_mem_free(values);
    fm_bench_fill_floats(seed + 1, *out_scales, scale_count);
    for (size_t i = 0; i < scale_count && argument->powers; i++)
        (*out_scales)[i] = fm_ue8m0_to_f32(fm_f32_to_ue8m0_ceil((*out_scales)[i]));
    *out_operand = (fm_gemm_operand){.dtype = argument->dtype,
                                     .data = *out_codes,
                                     .stride = k,
                                     .scales = *out_scales,
                                     .scale_stride = blocks,
                                     .scale_rows = scale_rows};
    return FM_OK;
}

static void teardown(void *state)
{
    struct product *product = state;
    fm_gemm_context_close(product->one);
    fm_gemm_context_close(product->all);
    fm_base_mem_free(product->a_codes);
    fm_base_mem_free(product->a_scales);
    fm_base_mem_free(product->b_codes);
    fm_base_mem_free(product->b_scales);
    bench_gemm_peers_close(product->peers);
    fm_base_mem_free(product->blob);
    fm_base_mem_free(product->out);
    fm_base_mem_free(product);
}

static int has_peers(const struct argument *argument)
{
    return argument->isa >= FM_ISA_AVX512 && !argument->powers;
}

static fm_status pack(struct product *product, const fm_bench_setup *given)
{
    const struct argument *argument = &product->argument;
    const struct shape *shape = &argument->shape;
    fm_gemm_operand b;
    FM_TRY(make_operand(argument, given->seed + 2, shape->n, FM_GEMM_SCALE_BLOCK, &b, &product->b_codes,
                        &product->b_scales));
    FM_TRY(fm_gemm_weights_pack_size(shape->n, shape->k, &b, &product->blob_bytes));
    product->blob = fm_bench_alloc(product->blob_bytes);
    if (!product->blob)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the packed weights");
    FM_TRY(fm_gemm_weights_pack(product->all, shape->n, shape->k, &b, product->blob, product->blob_bytes));
    if (has_peers(argument))
        FM_TRY(bench_gemm_peers_open(shape->m, shape->n, &product->a, &b, shape->k, given->threads_max,
                                     &product->peers));
    return fm_gemm_weights_open(product->blob, product->blob_bytes, &product->weights);
}

static fm_status fill(const fm_bench_setup *given, void *state)
{
    struct product *product = state;
    const struct shape *shape = &product->argument.shape;
    FM_TRY(bench_gemm_contexts_open(product->argument.isa, given->threads_max, &product->one, &product->all));
    FM_TRY(make_operand(&product->argument, given->seed, shape->m, 1, &product->a, &product->a_codes,
                        &product->a_scales));
    FM_TRY(pack(product, given));
    size_t bytes = (size_t)(shape->m * shape->n) * sizeof(fm_bf16);
    product->out = fm_bench_alloc(bytes);
    if (!product->out)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu bytes of results", bytes);
    memset(product->out, 0xA5, bytes); // so that its pages are there
    product->d = (fm_gemm_result){.dtype = FM_DTYPE_BF16, .data = product->out, .stride = shape->n};
    return FM_OK;
}

static fm_status setup(const fm_bench_setup *given, void **out_state)
{
    return bench_gemm_setup(given, sizeof(struct argument), sizeof(struct product), fill, teardown,
                            out_state);
}

// A decoder's weights come from memory: there are gigabytes of them between two uses.
static fm_status make_cold(void *state)
{
    struct product *product = state;
    fm_bench_evict(product->blob, product->blob_bytes);
    return FM_OK;
}

static fm_status run(void *state, int threads)
{
    struct product *product = state;
    return fm_gemm_dense(threads == 1 ? product->one : product->all, product->argument.shape.m, &product->a,
                         &product->weights, &product->d);
}

static uint64_t hash(const void *state)
{
    const struct product *product = state;
    const struct shape *shape = &product->argument.shape;
    return fm_bench_hash(0, product->out, (size_t)(shape->m * shape->n) * sizeof(fm_bf16));
}

static fm_status run_dnnl(void *state, int threads)
{
    return bench_gemm_dnnl(((struct product *)state)->peers, threads);
}

static fm_status run_dequantise_dnnl(void *state, int threads)
{
    return bench_gemm_dequantise_dnnl(((struct product *)state)->peers, threads);
}

static fm_status run_openblas(void *state, int threads)
{
    return bench_gemm_openblas(((struct product *)state)->peers, threads);
}

// What a core must and may be hoped to reach. At AVX-512 and AVX2 groups have goals, and the few rows that read weights.
static fm_bench_goal fraction_of(const struct argument *argument)
{
    int64_t m = argument->shape.m;
    int fp8 = argument->dtype == FM_DTYPE_F8_E4M3;
    fm_bench_goal goal = {.metric = FM_BENCH_FRACTION};
    if (m == 1 && fp8 && argument->isa == FM_ISA_AVX512)
        goal.must = 0.85, goal.hope = 0.93;
    if (argument->isa != FM_ISA_AMX)
        return goal;
    if (m == 16 && fp8)
        goal.must = 0.70, goal.hope = 0.85;
    if (m == 128 && !fp8)
        goal.must = 0.35, goal.hope = 0.50;
    if (m == 4096)
        goal.must = fp8 && !argument->powers ? 0.40 : 0.50, goal.hope = fp8 ? 0.55 : 0.70;
    if (m == 4096 && argument->powers)
        goal.hope = 0.65;
    return goal;
}

static fm_status add(fm_bench *bench, const struct argument *argument)
{
    const struct shape *shape = &argument->shape;
    double macs = (double)shape->m * (double)shape->n * (double)shape->k;
    int few = shape->m <= 16; // bound by reading the weights
    char name[64];
    const char *dtype = argument->dtype == FM_DTYPE_BF16 ? "bf16" : argument->powers ? "fp8p2" : "fp8";
    snprintf(name, sizeof name, "%s.%s.%lldx%lldx%lld", dtype, fm_base_isa_name(argument->isa),
             (long long)shape->m, (long long)shape->n, (long long)shape->k);
    fm_bench_case item = {
        .name = name,
        .argument = argument,
        .limit = few ? FM_BENCH_READ : fm_bench_limit_of_isa(argument->isa),
        .flops = few ? 0 : 2 * macs,
        .bytes = few ? (double)(shape->n * shape->k) * (double)code_bytes(argument) : 0,
        .mode = shape->mode,
        .setup = setup,
        .before = few ? make_cold : NULL,
        .run = run,
        .hash = hash,
        .teardown = teardown,
    };
    int goals = 0;
    fm_bench_goal fraction = fraction_of(argument);
    if (fraction.must > 0)
        item.goals[goals++] = fraction;
    if (has_peers(argument)) {
        item.peers[0] = (fm_bench_peer){.name = "onednn", .run = run_dnnl};
        // What Debian's build reaches with OPENBLAS_CORETYPE=SKYLAKEX. Left to itself, it takes a CPU of this kind without
        // AVX512_BF16 for one that has SSE alone.
        double usual = !few && argument->isa == FM_ISA_AVX512 && shape->mode != FM_BENCH_IN_SMOKE ? 0.65 : 0;
        item.peers[1] = (fm_bench_peer){.name = "openblas", .run = run_openblas, .expect = usual};
        if (argument->dtype == FM_DTYPE_F8_E4M3)
            item.peers[2] = (fm_bench_peer){.name = "dequantise+onednn", .run = run_dequantise_dnnl};
    }
    if (has_peers(argument) && shape->m >= 16 && shape->mode != FM_BENCH_IN_SMOKE) {
        // With FMA there is no such ratio to an f32 product that is near the FMA rate itself.
        if (argument->isa == FM_ISA_AMX || shape->m == 16)
            item.goals[goals++] = (fm_bench_goal){.metric = FM_BENCH_RATIO, .must = 1.5};
        item.goals[goals++] =
            (fm_bench_goal){.metric = FM_BENCH_SCALING, .must = 0.92, .threads = FM_BENCH_ALL_THREADS};
    }
    return fm_bench_add(bench, &item);
}

// DeepSeek-V3's shapes; quick runs take those that one core computes in a tenth of a second.
static const struct shape shapes[] = {
    {24, 96, 300, FM_BENCH_IN_SMOKE},     {1, 2112, 7168, FM_BENCH_IN_QUICK},
    {16, 2112, 7168, FM_BENCH_IN_QUICK},  {128, 576, 7168, FM_BENCH_IN_QUICK},
    {128, 2112, 7168, FM_BENCH_IN_QUICK}, {128, 7168, 2048, FM_BENCH_IN_FULL},
    {128, 4096, 7168, FM_BENCH_IN_FULL},  {4096, 576, 7168, FM_BENCH_IN_FULL},
    {4096, 2112, 7168, FM_BENCH_IN_FULL}, {4096, 4096, 7168, FM_BENCH_IN_FULL},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static fm_status cases(fm_bench *bench)
{
    static const fm_isa levels[] = {FM_ISA_AMX, FM_ISA_AVX512, FM_ISA_AVX2};
    static const struct {
        fm_dtype dtype;
        int powers;
    } kinds[] = {{FM_DTYPE_BF16, 0}, {FM_DTYPE_F8_E4M3, 0}, {FM_DTYPE_F8_E4M3, 1}};
    static struct argument arguments[3][3][SHAPES];
    for (int kind = 0; kind < 3; kind++)
        for (int level = 0; level < 3; level++)
            for (int i = 0; i < SHAPES; i++) {
                arguments[kind][level][i] =
                    (struct argument){shapes[i], kinds[kind].dtype, kinds[kind].powers, levels[level]};
                if (!kinds[kind].powers || shapes[i].mode == FM_BENCH_IN_SMOKE || shapes[i].n == 4096)
                    FM_TRY(add(bench, &arguments[kind][level][i]));
            }
    static const struct {
        const char *name, *cases;
    } groups[] = {{"bf16 avx512", "bf16.avx512.128x"},         {"bf16 avx2", "bf16.avx2.128x"},
                  {"fp8 avx512", "fp8.avx512.128x"},           {"fp8 avx2", "fp8.avx2.128x"},
                  {"bf16 avx512 m=4096", "bf16.avx512.4096x"}, {"bf16 avx2 m=4096", "bf16.avx2.4096x"},
                  {"fp8 avx512 m=4096", "fp8.avx512.4096x"},   {"fp8 avx2 m=4096", "fp8.avx2.4096x"}};
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++)
        FM_TRY(fm_bench_add_group(bench, &(fm_bench_group){.name = groups[i].name,
                                                           .cases = groups[i].cases,
                                                           .goal = {FM_BENCH_FRACTION, .must = 0.75}}));
    FM_TRY(bench_gemm_moe_add(bench));
    FM_TRY(bench_gemm_indexer_add(bench));
    return bench_gemm_quant_add(bench);
}

int main(int argc, char **argv)
{
    static const fm_bench_program program = {
        "gemm", "Measures lib/gemm: products in BF16 and FP8, experts, the indexer, quantisers", cases};
    return fm_bench_main(&program, argc, argv);
}
