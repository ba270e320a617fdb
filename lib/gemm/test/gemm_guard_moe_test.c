/* Experts and the indexer between pages that nobody may touch. */
#include "gemm_fences.h"

#include "fathom/gemm_indexer.h"
#include "fathom/gemm_mlp.h"
#include "fathom/numfmt.h"

enum { EXPERTS = 3, TOPK = 2, TOKENS_MAX = 40 };

struct layer {
    int64_t tokens, d, h;
    struct gemm_matrix x, up[EXPERTS], down[EXPERTS];
    int32_t idx[TOKENS_MAX * TOPK];
    float weights[TOKENS_MAX * TOPK];
    struct gemm_output out;
};

static void run_layer(struct call *call, fm_gemm_context *context, struct fences *fences)
{
    const struct layer *layer = call->of;
    size_t count = (size_t)(layer->tokens * TOPK), bytes;
    fm_gemm_weights up[EXPERTS], down[EXPERTS];
    for (int e = 0; e < EXPERTS; e++) {
        up[e] = fence_weights(fences, context, &layer->up[e], call->packed);
        down[e] = fence_weights(fences, context, &layer->down[e], call->packed);
    }
    fm_gemm_mlp mlp = {.experts = EXPERTS, .gate_up = up, .down = down};
    fm_gemm_operand x = fence_matrix(fences, &layer->x, layer->d, 0);
    const int32_t *idx = fence_copy(fences, layer->idx, count * sizeof *idx);
    const float *weights = fence_copy(fences, layer->weights, count * sizeof *weights);
    assert_ok(fm_gemm_mlp_workspace(&mlp, layer->tokens, TOPK, &bytes));
    bytes = (bytes + 63) / 64 * 64; // so that it is aligned where it ends with a page
    void *workspace = fence(fences, bytes);
    fm_gemm_result out = fence_output(fences, &layer->out);
    assert_ok(fm_gemm_mlp_run(context, &mlp, layer->tokens, TOPK, idx, weights, &x, workspace, bytes, &out));
    check_same(&call->expected[0], out.data, extent(out.dtype, layer->tokens, layer->d, out.stride));
}

static void any_layer(fm_gen *gen)
{
    struct layer layer = {
        .tokens = fm_gen_int(gen, 0, TOKENS_MAX), .d = fm_gen_int(gen, 1, 140), .h = fm_gen_int(gen, 1, 140)};
    int wide = fm_gen_chance(gen, 0.4);
    const struct gemm_format plain = {.dtype = FM_DTYPE_BF16},
                             fp8 = {.dtype = FM_DTYPE_F8_E4M3, .scale_rows = 128, .powers = GEMM_SOME_POWERS};
    layer.x = gemm_matrix_make(gen, layer.tokens, layer.d, &plain, GEMM_NORMAL);
    for (int e = 0; e < EXPERTS; e++) {
        layer.up[e] = gemm_matrix_make(gen, 2 * layer.h, layer.d, wide ? &plain : &fp8, GEMM_NORMAL);
        layer.down[e] = gemm_matrix_make(gen, layer.d, layer.h, wide ? &plain : &fp8, GEMM_NORMAL);
    }
    for (int64_t i = 0; i < layer.tokens * TOPK; i++) {
        layer.idx[i] = (int32_t)fm_gen_int(gen, -1, EXPERTS - 1);
        layer.weights[i] = (float)fm_gen_real(gen, 0, 1);
    }
    layer.out = gemm_output_make(gen, layer.tokens, layer.d, FM_DTYPE_BF16, fm_gen_chance(gen, 0.5));
    everywhere(&(struct call){.run = run_layer, .of = &layer, .packs = 1});
    gemm_output_free(&layer.out);
    gemm_matrix_free(&layer.x);
    for (int e = 0; e < EXPERTS; e++) {
        gemm_matrix_free(&layer.up[e]);
        gemm_matrix_free(&layer.down[e]);
    }
}

static void experts_keep_within_their_matrices(void **state)
{
    (void)state;
    fm_gen_property(4, any_layer);
}

enum { QUERIES_MAX = 5, KEYS_MAX = 700, HEADS_MAX = 20, DEPTH_MAX = 140, BEST = 9, PAGE = 64 };

struct index {
    fm_dtype dtype;
    int64_t queries, keys, d;
    int heads, paged;
    const uint8_t *codes; // of either dtype, enough for all
    float weights[QUERIES_MAX * HEADS_MAX], scales[KEYS_MAX];
    int32_t first[QUERIES_MAX], end[QUERIES_MAX];
};

// As blocks of a cache, each with its scales, all seen by one request.
static void fence_pages(struct fences *fences, const struct index *index, fm_gemm_index_keys *keys)
{
    int64_t blocks = (index->keys + PAGE - 1) / PAGE;
    size_t block = (size_t)(PAGE * (index->d + 4));
    int32_t table[(KEYS_MAX + PAGE - 1) / PAGE];
    uint8_t *data = fence(fences, (size_t)blocks * block);
    for (int64_t b = 0; b < blocks; b++) {
        table[b] = (int32_t)(blocks - 1 - b);
        uint8_t *to = data + (size_t)table[b] * block;
        memcpy(to, index->codes + (size_t)b * (size_t)(PAGE * index->d), (size_t)(PAGE * index->d));
        for (int64_t i = 0; i < PAGE; i++)
            memcpy(to + PAGE * index->d + 4 * i, &index->scales[(b * PAGE + i) % index->keys], 4);
    }
    keys->data = data;
    keys->block_table = fence_copy(fences, table, (size_t)blocks * sizeof *table);
    keys->table_stride = blocks;
    keys->block_size = PAGE;
    keys->blocks = blocks;
    keys->block_bytes = (int64_t)block;
    keys->queries_per_request = (int)index->queries;
}

static void run_index(struct call *call, fm_gemm_context *context, struct fences *fences)
{
    const struct index *index = call->of;
    size_t size = (size_t)fm_base_dtype_bits(index->dtype) / 8, queries = (size_t)index->queries;
    size_t keys_count = (size_t)index->keys, width = (size_t)index->heads * (size_t)index->d;
    fm_gemm_index_queries q = {
        .dtype = index->dtype,
        .count = index->queries,
        .heads = index->heads,
        .d = index->d,
        .data = fence_copy(fences, index->codes, queries * width * size),
        .stride = (int64_t)width,
        .weights = fence_copy(fences, index->weights, queries * (size_t)index->heads * sizeof(float)),
        .weight_stride = index->heads,
        .first = fence_copy(fences, index->first, queries * sizeof(int32_t)),
        .end = fence_copy(fences, index->end, queries * sizeof(int32_t)),
    };
    fm_gemm_index_keys keys = {.count = index->keys};
    if (index->paged) {
        fence_pages(fences, index, &keys);
    } else {
        keys.stride = index->d;
        keys.data = fence_copy(fences, index->codes, keys_count * (size_t)index->d * size);
        keys.scales = fence_copy(fences, index->scales, keys_count * sizeof(float));
    }
    size_t bytes[] = {queries * keys_count * sizeof(float), queries * BEST * sizeof(int32_t),
                      queries * BEST * sizeof(float)};
    void *out[] = {fence(fences, bytes[0]), fence(fences, bytes[1]), fence(fences, bytes[2])};
    assert_ok(fm_gemm_index_logits(context, &q, &keys, out[0], index->keys, 1));
    assert_ok(fm_gemm_index_topk(context, &q, &keys, BEST, out[1], out[2]));
    for (int i = 0; i < 3; i++)
        check_same(&call->expected[i], out[i], bytes[i]);
}

static void any_index(fm_gen *gen)
{
    enum { BYTES = 2 * DEPTH_MAX * (KEYS_MAX + PAGE) };
    static uint8_t codes[BYTES];
    struct index index = {.dtype = fm_gen_chance(gen, 0.5) ? FM_DTYPE_BF16 : FM_DTYPE_F8_E4M3,
                          .queries = fm_gen_int(gen, 1, QUERIES_MAX),
                          .keys = fm_gen_int(gen, 1, KEYS_MAX),
                          .d = fm_gen_int(gen, 1, DEPTH_MAX),
                          .heads = (int)fm_gen_int(gen, 1, HEADS_MAX),
                          .codes = codes};
    index.paged = index.dtype == FM_DTYPE_F8_E4M3 && fm_gen_chance(gen, 0.5);
    for (int i = 0; i < BYTES / 2; i++) {
        fm_bf16 number = fm_f32_to_bf16(fm_gen_normal(gen));
        if (index.dtype == FM_DTYPE_BF16)
            memcpy(codes + (size_t)2 * (size_t)i, &number, sizeof number);
        else
            codes[i] = fm_f32_to_e4m3(fm_bf16_to_f32(number));
    }
    for (int i = 0; i < QUERIES_MAX * HEADS_MAX; i++)
        index.weights[i] = fm_gen_normal(gen);
    for (int i = 0; i < KEYS_MAX; i++)
        index.scales[i] = (float)fm_gen_real(gen, 0.1, 1);
    for (int i = 0; i < QUERIES_MAX; i++) {
        index.first[i] = (int32_t)fm_gen_int(gen, 0, index.keys / 2);
        index.end[i] = (int32_t)fm_gen_int(gen, 0, index.keys);
    }
    everywhere(&(struct call){.run = run_index, .of = &index});
}

static void the_indexer_keeps_within_its_matrices(void **state)
{
    (void)state;
    fm_gen_property(4, any_index);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(experts_keep_within_their_matrices),
        cmocka_unit_test(the_indexer_keeps_within_its_matrices),
    };
    return fm_test_run("gemm_guard_moe", tests);
}
