#include "bench_gemm_indexer.h"

#include "bench_gemm_case.h"

#include "fathom/gemm_indexer.h"
#include "fathom/mem.h"
#include "fathom/numfmt.h"

#include <stdio.h>
#include <string.h>

// Queries of E4M3 against one matrix of keys. The indexer has no kernel of tiles, so that FMA binds it.
struct argument {
    fm_isa isa;
    fm_bench_mode mode;
    int64_t queries, keys, d;
    int heads, topk; // 0: all scores
};

struct indexing {
    struct argument argument;
    fm_gemm_context *one, *all;
    fm_e4m3 *queries, *keys;
    float *weights, *key_scales, *scores;
    int32_t *end, *best;
    size_t score_count;
};

static void teardown(void *state)
{
    struct indexing *job = state;
    fm_gemm_context_close(job->one);
    fm_gemm_context_close(job->all);
    fm_base_mem_free(job->queries);
    fm_base_mem_free(job->keys);
    fm_base_mem_free(job->weights);
    fm_base_mem_free(job->key_scales);
    fm_base_mem_free(job->scores);
    fm_base_mem_free(job->end);
    fm_base_mem_free(job->best);
    fm_base_mem_free(job);
}

static void fill_codes(uint64_t seed, fm_e4m3 *codes, size_t count)
{
    fm_bench_fill(seed, codes, count);
    for (size_t i = 0; i < count; i++)
        codes[i] = (codes[i] & 0x7F) == 0x7F ? 0 : codes[i]; // no NaN
}

static fm_status fill(const fm_bench_setup *given, void *state)
{
    struct indexing *job = state;
    const struct argument *argument = &job->argument;
    FM_TRY(bench_gemm_contexts_open(argument->isa, given->threads_max, &job->one, &job->all));
    size_t queries = (size_t)argument->queries, keys = (size_t)argument->keys, d = (size_t)argument->d;
    size_t heads = (size_t)argument->heads;
    job->score_count = queries * (argument->topk ? (size_t)argument->topk : keys);
    job->queries = fm_bench_alloc(queries * heads * d);
    job->keys = fm_bench_alloc(keys * d);
    job->weights = fm_base_mem_alloc(queries * heads * sizeof(float));
    job->key_scales = fm_base_mem_alloc(keys * sizeof(float));
    job->scores = fm_bench_alloc(job->score_count * sizeof(float));
    job->best = fm_base_mem_zalloc(job->score_count, sizeof *job->best);
    job->end = fm_base_mem_alloc(queries * sizeof *job->end);
    if (!job->queries || !job->keys || !job->weights || !job->key_scales || !job->scores || !job->best ||
        !job->end)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu queries and %zu keys", queries, keys);
    fill_codes(given->seed, job->queries, queries * heads * d);
    fill_codes(given->seed + 1, job->keys, keys * d);
    fm_bench_fill_floats(given->seed + 2, job->weights, queries * heads);
    fm_bench_fill_floats(given->seed + 3, job->key_scales, keys);
    memset(job->scores, 0xA5, job->score_count * sizeof(float)); // so that its pages are there
    for (size_t i = 0; i < queries; i++)
        job->end[i] = (int32_t)keys;
    return FM_OK;
}

static fm_status setup(const fm_bench_setup *given, void **out_state)
{
    return bench_gemm_setup(given, sizeof(struct argument), sizeof(struct indexing), fill, teardown,
                            out_state);
}

static fm_status run(void *state, int threads)
{
    struct indexing *job = state;
    const struct argument *argument = &job->argument;
    fm_gemm_context *context = threads == 1 ? job->one : job->all;
    fm_gemm_index_queries queries = {.dtype = FM_DTYPE_F8_E4M3,
                                     .count = argument->queries,
                                     .heads = argument->heads,
                                     .d = argument->d,
                                     .data = job->queries,
                                     .stride = argument->heads * argument->d,
                                     .weights = job->weights,
                                     .weight_stride = argument->heads,
                                     .end = job->end};
    fm_gemm_index_keys keys = {
        .count = argument->keys, .data = job->keys, .stride = argument->d, .scales = job->key_scales};
    if (argument->topk)
        return fm_gemm_index_topk(context, &queries, &keys, argument->topk, job->best, job->scores);
    return fm_gemm_index_logits(context, &queries, &keys, job->scores, argument->keys, 0);
}

static uint64_t hash(const void *state)
{
    const struct indexing *job = state;
    return fm_bench_hash(fm_bench_hash(0, job->best, job->score_count * sizeof *job->best), job->scores,
                         job->score_count * sizeof *job->scores);
}

static fm_status add(fm_bench *bench, const struct argument *argument)
{
    char name[64];
    snprintf(name, sizeof name, "%s.fp8.%s.%lldx%d.%lld", argument->topk ? "index_topk" : "index_logits",
             fm_base_isa_name(argument->isa), (long long)argument->queries, argument->heads,
             (long long)argument->keys);
    return fm_bench_add(bench, &(fm_bench_case){
                                   .name = name,
                                   .argument = argument,
                                   .limit = fm_bench_limit_of_isa(argument->isa),
                                   .flops = 2.0 * (double)(argument->queries * argument->keys * argument->d) *
                                            (double)argument->heads,
                                   .mode = argument->mode,
                                   .setup = setup,
                                   .run = run,
                                   .hash = hash,
                                   .teardown = teardown,
                               });
}

fm_status bench_gemm_indexer_add(fm_bench *bench)
{
    static const fm_isa levels[] = {FM_ISA_AVX512, FM_ISA_AVX2};
    // DeepSeek-V3.2 has 64 heads of 128 and keeps 2048 keys: while it decodes, and in a piece of a prompt.
    static const struct argument shapes[] = {
        {.mode = FM_BENCH_IN_SMOKE, .queries = 3, .keys = 300, .d = 40, .heads = 5, .topk = 50},
        {.mode = FM_BENCH_IN_SMOKE, .queries = 3, .keys = 300, .d = 40, .heads = 5},
        {.queries = 1, .keys = 65536, .d = 128, .heads = 64, .topk = 2048},
        {.queries = 16, .keys = 16384, .d = 128, .heads = 64, .topk = 2048},
        {.queries = 16, .keys = 16384, .d = 128, .heads = 64},
    };
    enum { SHAPES = sizeof shapes / sizeof *shapes, LEVELS = sizeof levels / sizeof *levels };
    static struct argument arguments[LEVELS][SHAPES];
    for (int level = 0; level < LEVELS; level++)
        for (int i = 0; i < SHAPES; i++) {
            arguments[level][i] = shapes[i];
            arguments[level][i].isa = levels[level];
            FM_TRY(add(bench, &arguments[level][i]));
        }
    return FM_OK;
}
