#include "gemm_cases.h"

#include "fm_test.h"

#include "fathom/gemm_indexer.h"
#include "fathom/numfmt.h"

#include "gemm_candidates.h"

#include <math.h>

struct scene {
    fm_gemm_index_queries queries;
    fm_gemm_index_keys keys;
    struct gemm_matrix q, k;
    float *weights, *scales;
    int32_t *first, *end, *table;
    uint8_t *blocks;
};

static double key_at(const struct scene *scene, int64_t query, int64_t j, int64_t x, double *out_scale)
{
    const fm_gemm_index_keys *keys = &scene->keys;
    if (!keys->block_table) {
        *out_scale = keys->scales ? (double)keys->scales[j] : 1;
        const void *data = scene->k.data;
        int64_t at = j * keys->stride + x;
        return (double)(scene->queries.dtype == FM_DTYPE_BF16 ? fm_bf16_to_f32(((const fm_bf16 *)data)[at])
                                                              : fm_e4m3_to_f32(((const fm_e4m3 *)data)[at]));
    }
    int64_t request = query / keys->queries_per_request;
    const uint8_t *block =
        scene->blocks + scene->table[request * keys->table_stride + j / keys->block_size] * keys->block_bytes;
    float scale;
    memcpy(&scale, block + keys->block_size * scene->queries.d + 4 * (j % keys->block_size), 4);
    *out_scale = (double)scale;
    return (double)fm_e4m3_to_f32(block[j % keys->block_size * scene->queries.d + x]);
}

static double query_at(const struct scene *scene, int64_t query, int64_t at)
{
    int64_t from = query * scene->queries.stride + at;
    return (double)(scene->queries.dtype == FM_DTYPE_BF16
                        ? fm_bf16_to_f32(((const fm_bf16 *)scene->q.data)[from])
                        : fm_e4m3_to_f32(((const fm_e4m3 *)scene->q.data)[from]));
}

static void make_pages(fm_gen *gen, struct scene *scene)
{
    fm_gemm_index_keys *keys = &scene->keys;
    int64_t d = scene->queries.d;
    keys->queries_per_request = (int)fm_gen_int(gen, 1, 3);
    keys->block_size = 64;
    keys->block_bytes = 64 * (d + 4) + 4 * fm_gen_int(gen, 0, 3);
    keys->blocks = 40;
    int64_t requests = (scene->queries.count + keys->queries_per_request - 1) / keys->queries_per_request;
    keys->table_stride = (keys->count + 63) / 64 + 1;
    scene->table = fm_base_mem_alloc((size_t)(requests * keys->table_stride + 1) * sizeof *scene->table);
    for (int64_t i = 0; i < requests * keys->table_stride; i++)
        scene->table[i] =
            i % keys->table_stride * 64 < keys->count ? (int32_t)fm_gen_int(gen, 0, 39) : 0x7FFFFFF0;
    scene->blocks = fm_base_mem_alloc((size_t)(keys->blocks * keys->block_bytes));
    for (int64_t b = 0; b < keys->blocks; b++) {
        uint8_t *block = scene->blocks + b * keys->block_bytes;
        for (int64_t i = 0; i < 64 * d; i++)
            block[i] = fm_f32_to_e4m3(100 * fm_gen_normal(gen));
        for (int64_t i = 0; i < 64; i++) {
            float scale = (float)fm_gen_real(gen, 0.001, 0.01);
            memcpy(block + 64 * d + 4 * i, &scale, 4);
        }
    }
    keys->block_table = scene->table;
    keys->data = scene->blocks;
}

static struct scene scene_make(fm_gen *gen)
{
    struct scene scene = {.queries = {.count = fm_gen_size(gen, 0, 20),
                                      .heads = (int)fm_gen_size(gen, 1, 40),
                                      .d = fm_gen_chance(gen, 0.7) ? 64 : fm_gen_size(gen, 1, 200)}};
    int64_t count = fm_gen_chance(gen, 0.2) ? 1100 : fm_gen_size(gen, 0, 200), queries = scene.queries.count;
    int paged = scene.queries.d == 64 && fm_gen_chance(gen, 0.5);
    struct gemm_format format = {.dtype = paged || fm_gen_chance(gen, 0.7) ? FM_DTYPE_F8_E4M3 : FM_DTYPE_BF16,
                                 .scale_rows = 1};
    scene.queries.dtype = format.dtype;
    scene.q = gemm_matrix_make(gen, queries, scene.queries.heads * scene.queries.d, &format, GEMM_NORMAL);
    scene.k = gemm_matrix_make(gen, count, scene.queries.d, &format, GEMM_NORMAL);
    scene.queries.data = scene.q.data;
    scene.queries.stride = scene.q.operand.stride;
    scene.queries.weight_stride = scene.queries.heads + fm_gen_int(gen, 0, 2);
    scene.weights = fm_base_mem_alloc((size_t)(queries * scene.queries.weight_stride + 1) * sizeof(float));
    for (int64_t i = 0; i < queries * scene.queries.weight_stride; i++)
        scene.weights[i] = fm_gen_normal(gen);
    scene.scales = fm_base_mem_alloc((size_t)(count + 1) * sizeof(float));
    for (int64_t i = 0; i < count; i++)
        scene.scales[i] = (float)fm_gen_real(gen, 0.001, 0.01);
    scene.first = fm_base_mem_alloc((size_t)(queries + 1) * 4);
    scene.end = fm_base_mem_alloc((size_t)(queries + 1) * 4);
    for (int64_t i = 0; i < queries; i++) {
        scene.first[i] = (int32_t)fm_gen_int(gen, 0, count / 2);
        scene.end[i] = (int32_t)fm_gen_int(gen, 0, count);
    }
    scene.queries.weights = scene.weights;
    scene.queries.end = scene.end;
    scene.queries.first = fm_gen_chance(gen, 0.5) ? scene.first : NULL;
    scene.keys = (fm_gemm_index_keys){.count = count,
                                      .data = scene.k.data,
                                      .stride = scene.k.operand.stride,
                                      .scales = fm_gen_chance(gen, 0.8) ? scene.scales : NULL};
    if (paged)
        make_pages(gen, &scene);
    return scene;
}

static void scene_free(struct scene *scene)
{
    gemm_matrix_free(&scene->q);
    gemm_matrix_free(&scene->k);
    fm_base_mem_free(scene->weights);
    fm_base_mem_free(scene->scales);
    fm_base_mem_free(scene->first);
    fm_base_mem_free(scene->end);
    fm_base_mem_free(scene->table);
    fm_base_mem_free(scene->blocks);
}

static void check_score(const struct scene *scene, int64_t query, int64_t j, float got)
{
    double sum = 0, size = 0, scale = 1;
    for (int head = 0; head < scene->queries.heads; head++) {
        double dot = 0, dot_size = 0;
        for (int64_t x = 0; x < scene->queries.d; x++) {
            double term =
                query_at(scene, query, head * scene->queries.d + x) * key_at(scene, query, j, x, &scale);
            dot += term;
            dot_size += fabs(term);
        }
        double weight = (double)scene->weights[query * scene->queries.weight_stride + head];
        sum += weight * fmax(dot, 0);
        size += fabs(weight) * dot_size;
    }
    if (!(fabs((double)got - sum * scale) <= size * scale * 0x1p-17 + 1e-30))
        fail_msg("score of query %lld and key %lld is %g; expected %g", (long long)query, (long long)j,
                 (double)got, sum * scale);
}

static int in_range(const struct scene *scene, int64_t query, int64_t j)
{
    return j >= (scene->queries.first ? scene->first[query] : 0) && j < scene->end[query];
}

static void random_scene(fm_gen *gen)
{
    struct scene scene = scene_make(gen);
    int64_t stride = scene.keys.count + fm_gen_int(gen, 0, 3), count = scene.queries.count;
    size_t bytes = (size_t)(count * stride + 1) * sizeof(float);
    int topk = (int)fm_gen_size(gen, 1, 150);
    float *reference = NULL;
    for (int isa = FM_ISA_REF; isa <= FM_ISA_AVX512; isa++) {
        float *out = fm_base_mem_alloc(bytes), *best = fm_base_mem_alloc((size_t)(count * topk + 1) * 4);
        int32_t *idx = fm_base_mem_alloc((size_t)(count * topk + 1) * 4);
        memset(out, 0x3C, bytes);
        fm_gemm_context *context = gemm_open((fm_isa)isa, isa + 1);
        int clean = isa != FM_ISA_AVX2;
        assert_ok(fm_gemm_index_logits(context, &scene.queries, &scene.keys, out, stride, clean));
        assert_ok(fm_gemm_index_topk(context, &scene.queries, &scene.keys, topk, idx, best));
        fm_gemm_context_close(context);
        for (int64_t query = 0; query < count; query++) {
            int64_t seen = 0;
            for (int64_t j = 0; j < stride; j++) {
                float got = out[query * stride + j], poison;
                memset(&poison, 0x3C, sizeof poison);
                if (j < scene.keys.count && in_range(&scene, query, j)) {
                    seen++;
                    if (!reference)
                        check_score(&scene, query, j, got);
                    else
                        assert_true(fm_f32_bits(got) == fm_f32_bits(reference[query * stride + j]));
                } else {
                    assert_true(got == (clean && j < scene.keys.count ? -INFINITY : poison));
                }
            }
            // The chosen are in order and in range, and nothing that was left out beats the last of them.
            const int32_t *chosen = idx + query * topk;
            const float *row = out + query * stride, *scores = best + query * topk;
            int64_t expected = seen < topk ? seen : topk;
            uint64_t last = UINT64_MAX;
            for (int64_t i = 0; i < topk; i++) {
                if (i >= expected) {
                    assert_true(chosen[i] == -1 && scores[i] == -INFINITY);
                    continue;
                }
                assert_true(in_range(&scene, query, chosen[i]) && row[chosen[i]] == scores[i]);
                assert_true(fm_gemm_candidate(scores[i], chosen[i]) < last);
                last = fm_gemm_candidate(scores[i], chosen[i]);
            }
            int64_t better = 0;
            for (int64_t j = 0; j < scene.keys.count; j++)
                better += in_range(&scene, query, j) && fm_gemm_candidate(row[j], (int32_t)j) >= last;
            assert_true(better == expected || expected == 0);
        }
        fm_base_mem_free(idx);
        fm_base_mem_free(best);
        if (reference)
            fm_base_mem_free(out);
        else
            reference = out;
    }
    fm_base_mem_free(reference);
    scene_free(&scene);
}

static void scores_and_the_best_of_them(void **state)
{
    (void)state;
    fm_gen_property(12, random_scene);
}

static void candidates_keep_their_order(void **state)
{
    (void)state;
    static const float rising[] = {-1e30f, -1, -0x1p-140f, -0.0f, 0, 0x1p-140f, 1, 3e38f, INFINITY};
    for (size_t i = 0; i < sizeof rising / sizeof *rising; i++) {
        uint64_t candidate = fm_gemm_candidate(rising[i], 7);
        assert_true(fm_f32_bits(fm_gemm_candidate_score(candidate)) == fm_f32_bits(rising[i]));
        assert_int_equal(fm_gemm_candidate_index(candidate), 7);
        assert_true(candidate > 0 && fm_gemm_candidate(rising[i], 6) > candidate);
        if (i)
            assert_true(candidate > fm_gemm_candidate(rising[i - 1], 0));
    }
}

// Two queries of one request see its first and its last block; both are multiplied with the one between, too.
static void blocks_between_what_queries_see_are_checked(void **state)
{
    (void)state;
    enum { BLOCK = 32, D = 4, BYTES = BLOCK * (D + 4) };
    static const uint8_t codes[2 * D];
    static const float weights[2] = {1, 1};
    static _Alignas(4) uint8_t blocks[2 * BYTES];
    static const int32_t first[2] = {0, 2 * BLOCK}, end[2] = {BLOCK, 3 * BLOCK};
    int32_t table[3] = {0, -1, 1}, idx[2];
    fm_gemm_index_queries queries = {.dtype = FM_DTYPE_F8_E4M3,
                                     .count = 2,
                                     .heads = 1,
                                     .d = D,
                                     .data = codes,
                                     .stride = D,
                                     .weights = weights,
                                     .weight_stride = 1,
                                     .first = first,
                                     .end = end};
    fm_gemm_index_keys keys = {.count = 3 * BLOCK,
                               .data = blocks,
                               .block_table = table,
                               .table_stride = 3,
                               .block_size = BLOCK,
                               .blocks = 2,
                               .block_bytes = BYTES,
                               .queries_per_request = 2};
    fm_gemm_context *context = gemm_open(FM_ISA_REF, 1);
    assert_fails(fm_gemm_index_topk(context, &queries, &keys, 1, idx, NULL), FM_ERR_ARG,
                 "block 1 of request 0 is -1");
    table[1] = 1;
    assert_ok(fm_gemm_index_topk(context, &queries, &keys, 1, idx, NULL));
    assert_int_equal(idx[0], 0);
    assert_int_equal(idx[1], 2 * BLOCK);
    fm_gemm_context_close(context);
}

static void bad_arguments_are_refused(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(1);
    struct scene scene = scene_make(&gen);
    while (!scene.table || scene.queries.count < 1 || scene.keys.count < 65) {
        scene_free(&scene);
        scene = scene_make(&gen);
    }
    scene.queries.first = NULL;
    scene.end[0] = 65;
    fm_gemm_context *context = gemm_open(FM_ISA_REF, 1);
    int32_t idx[64];
    fm_gemm_index_queries queries = scene.queries;
    fm_gemm_index_keys keys = scene.keys;
#define REFUSED(status, text) \
    assert_fails(fm_gemm_index_topk(context, &queries, &keys, 1, idx, NULL), status, text)
    queries.heads = 0;
    REFUSED(FM_ERR_ARG, "heads is 0");
    queries.heads = 257;
    REFUSED(FM_ERR_LIMIT, "heads is 257");
    queries = scene.queries;
    queries.dtype = FM_DTYPE_F32;
    REFUSED(FM_ERR_UNSUPPORTED, "dtype of queries is F32");
    queries = scene.queries;
    queries.stride = 1;
    REFUSED(FM_ERR_ARG, "stride of queries is 1");
    queries = scene.queries;
    scene.end[0] = (int32_t)keys.count + 1;
    REFUSED(FM_ERR_ARG, "end[0] is");
    scene.end[0] = 65;
    scene.table[1] = 40;
    REFUSED(FM_ERR_ARG, "block 1 of request 0 is 40");
    scene.table[1] = -1;
    REFUSED(FM_ERR_ARG, "block 1 of request 0 is -1");
    scene.table[1] = 0;
    keys.block_bytes = 64 * 68 - 4;
    REFUSED(FM_ERR_ARG, "block_bytes is");
    keys = scene.keys;
    keys.block_size = 48;
    REFUSED(FM_ERR_ARG, "block_size is 48");
    keys = scene.keys;
    assert_fails(fm_gemm_index_topk(context, &queries, &keys, 0, idx, NULL), FM_ERR_ARG, "topk is 0");
    assert_fails(fm_gemm_index_topk(context, &queries, &keys, 1, NULL, NULL), FM_ERR_ARG, "out_idx is null");
    assert_fails(fm_gemm_index_topk(NULL, &queries, &keys, 1, idx, NULL), FM_ERR_ARG, "context");
#undef REFUSED
    fm_gemm_context_close(context);
    scene_free(&scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_and_the_best_of_them),
        cmocka_unit_test(candidates_keep_their_order),
        cmocka_unit_test(blocks_between_what_queries_see_are_checked),
        cmocka_unit_test(bad_arguments_are_refused),
    };
    return fm_test_run("gemm_indexer", tests);
}
