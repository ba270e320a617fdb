#include "gemm_cases.h"

#include "fm_test.h"

#include "fathom/gemm_mlp.h"
#include "fathom/gemm_quant.h"
#include "fathom/numfmt.h"

#include <math.h>

enum { EXPERTS = 5, TOPK = 3 };

struct layer {
    int64_t tokens, d, h;
    struct gemm_matrix x, up[EXPERTS], down[EXPERTS];
    fm_gemm_weights weights[2][EXPERTS];
    void *blobs[2][EXPERTS];
    int32_t *idx;
    float *topk_weights;
    fm_gemm_mlp mlp;
    struct gemm_output out; // an example, poisoned
    fm_gen gen;
};

static struct layer layer_make(fm_gen *gen)
{
    struct layer layer = {
        .tokens = fm_gen_size(gen, 0, 40), .d = fm_gen_size(gen, 1, 200), .h = fm_gen_size(gen, 1, 150)};
    int wide = fm_gen_chance(gen, 0.4);
    struct gemm_format plain = {.dtype = FM_DTYPE_BF16},
                       fp8 = {.dtype = FM_DTYPE_F8_E4M3, .scale_rows = 128, .powers = GEMM_SOME_POWERS},
                       fine = fp8;
    fine.scale_rows = 1;
    layer.x = gemm_matrix_make(gen, layer.tokens, layer.d, wide || fm_gen_chance(gen, 0.5) ? &plain : &fine,
                               GEMM_NORMAL);
    for (int e = 0; e < EXPERTS; e++) {
        layer.up[e] = gemm_matrix_make(gen, 2 * layer.h, layer.d, wide ? &plain : &fp8, GEMM_NORMAL);
        layer.down[e] = gemm_matrix_make(gen, layer.d, layer.h, wide ? &plain : &fp8, GEMM_NORMAL);
        layer.blobs[0][e] = gemm_pack(&layer.up[e], &layer.weights[0][e]);
        layer.blobs[1][e] = gemm_pack(&layer.down[e], &layer.weights[1][e]);
    }
    size_t count = (size_t)(layer.tokens * TOPK);
    layer.idx = fm_base_mem_alloc(count * sizeof *layer.idx + 1);
    layer.topk_weights = fm_base_mem_alloc(count * sizeof(float) + 1);
    for (size_t i = 0; i < count; i++) {
        layer.idx[i] = (int32_t)fm_gen_int(gen, -1, EXPERTS - 2); // the last expert is chosen by nobody
        layer.topk_weights[i] = (float)fm_gen_real(gen, 0, 1);
    }
    layer.mlp = (fm_gemm_mlp){.experts = EXPERTS,
                              .limit = fm_gen_chance(gen, 0.5) ? 2.0f : 0.0f,
                              .powers = fm_gen_chance(gen, 0.5)};
    layer.gen = *gen;
    return layer;
}

static void layer_free(struct layer *layer)
{
    gemm_matrix_free(&layer->x);
    for (int e = 0; e < EXPERTS; e++) {
        gemm_matrix_free(&layer->up[e]);
        gemm_matrix_free(&layer->down[e]);
        fm_base_mem_free(layer->blobs[0][e]);
        fm_base_mem_free(layer->blobs[1][e]);
    }
    fm_base_mem_free(layer->idx);
    fm_base_mem_free(layer->topk_weights);
}

static struct gemm_output run(const struct layer *layer, fm_isa isa, int threads)
{
    fm_gen gen = layer->gen;
    struct gemm_output out = gemm_output_make(&gen, layer->tokens, layer->d,
                                              fm_gen_chance(&gen, 0.5) ? FM_DTYPE_F32 : FM_DTYPE_BF16, 1);
    fm_gemm_mlp mlp = layer->mlp;
    mlp.gate_up = layer->weights[0];
    mlp.down = layer->weights[1];
    size_t bytes;
    assert_ok(fm_gemm_mlp_workspace(&mlp, layer->tokens, TOPK, &bytes));
    void *workspace = fm_base_mem_aligned(bytes, 64);
    memset(workspace, 0xFF, bytes);
    fm_gemm_context *context = gemm_open(isa, threads);
    assert_ok(fm_gemm_mlp_run(context, &mlp, layer->tokens, TOPK, layer->idx, layer->topk_weights,
                              &layer->x.operand, workspace, bytes, &out.result));
    gemm_output_untouched(&out, -1);
    fm_gemm_context_close(context);
    fm_base_mem_free(workspace);
    return out;
}

// One token and expert by the calls that the header names.
static void one_expert(const struct layer *layer, fm_gemm_context *context, int64_t token, int expert,
                       fm_bf16 *y)
{
    fm_bf16 g[2 * 150], h[150];
    fm_e4m3 codes[200], h_codes[150];
    float scales[2], h_scales[2];
    int wide = layer->down[0].operand.dtype == FM_DTYPE_BF16, powers = layer->mlp.powers;
    fm_gemm_operand x = layer->x.operand;
    int64_t d = layer->d, hidden = layer->h;
    x.data = (const uint8_t *)x.data + token * x.stride * (x.dtype == FM_DTYPE_BF16 ? 2 : 1);
    if (x.scales)
        x.scales = (const float *)x.scales + token * x.scale_stride;
    fm_gemm_quantised to = {.dtype = FM_DTYPE_F8_E4M3,
                            .data = codes,
                            .stride = d,
                            .scales = scales,
                            .scale_stride = 2,
                            .scale_rows = 1,
                            .powers = powers};
    if (!wide && x.dtype == FM_DTYPE_BF16) {
        assert_ok(fm_gemm_quantise(context, 1, d, &x, &to));
        x = fm_gemm_quantised_operand(&to);
    }
    fm_gemm_result result = {.dtype = FM_DTYPE_BF16, .data = g, .stride = 2 * hidden};
    assert_ok(fm_gemm_dense(context, 1, &x, &layer->weights[0][expert], &result));
    fm_gemm_swiglu swiglu = {
        .dtype = FM_DTYPE_BF16, .gate = g, .up = g + hidden, .stride = 2 * hidden, .limit = layer->mlp.limit};
    fm_gemm_operand between = {.dtype = FM_DTYPE_BF16, .data = h, .stride = hidden};
    to = (fm_gemm_quantised){.dtype = FM_DTYPE_F8_E4M3,
                             .data = h_codes,
                             .stride = hidden,
                             .scales = h_scales,
                             .scale_stride = 2,
                             .scale_rows = 1,
                             .powers = powers};
    if (wide) {
        assert_ok(fm_gemm_swiglu_run(context, 1, hidden, &swiglu, FM_DTYPE_BF16, h, hidden));
    } else {
        assert_ok(fm_gemm_swiglu_quantise(context, 1, hidden, &swiglu, &to));
        between = fm_gemm_quantised_operand(&to);
    }
    result = (fm_gemm_result){.dtype = FM_DTYPE_BF16, .data = y, .stride = d};
    assert_ok(fm_gemm_dense(context, 1, &between, &layer->weights[1][expert], &result));
}

static void random_layer(fm_gen *gen)
{
    struct layer layer = layer_make(gen);
    struct gemm_output fused = run(&layer, FM_ISA_AVX512, 2), reference = run(&layer, FM_ISA_REF, 1);
    gemm_output_equal(&reference, &fused, "avx512");
    fm_gemm_context *context = gemm_open(FM_ISA_AVX512, 1);
    for (int64_t token = 0; token < layer.tokens; token++) {
        float sum[200];
        fm_bf16 y[200];
        for (int64_t i = 0; i < layer.d; i++)
            sum[i] = gemm_output_c(&fused, token, i);
        for (int j = 0; j < TOPK; j++) {
            if (layer.idx[token * TOPK + j] < 0)
                continue;
            one_expert(&layer, context, token, layer.idx[token * TOPK + j], y);
            for (int64_t i = 0; i < layer.d; i++)
                sum[i] = fmaf(fm_bf16_to_f32(y[i]), layer.topk_weights[token * TOPK + j], sum[i]);
        }
        for (int64_t i = 0; i < layer.d; i++) {
            float want = fused.result.dtype == FM_DTYPE_F32 ? sum[i] : fm_bf16_to_f32(fm_f32_to_bf16(sum[i]));
            assert_true(gemm_output_at(&fused, token, i) == want);
        }
    }
    fm_gemm_context_close(context);
    gemm_output_free(&fused);
    gemm_output_free(&reference);
    layer_free(&layer);
}

static void fused_is_what_the_parts_give(void **state)
{
    (void)state;
    fm_gen_property(25, random_layer);
}

static void bad_arguments_are_refused(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(4);
    struct layer layer = layer_make(&gen);
    fm_gemm_mlp mlp = layer.mlp;
    mlp.gate_up = layer.weights[0];
    mlp.down = layer.weights[1];
    fm_gemm_context *context = gemm_open(FM_ISA_REF, 1);
    fm_gen again = layer.gen;
    struct gemm_output out = gemm_output_make(&again, layer.tokens, layer.d, FM_DTYPE_F32, 0);
    size_t bytes;
    assert_ok(fm_gemm_mlp_workspace(&mlp, layer.tokens, TOPK, &bytes));
    void *workspace = fm_base_mem_aligned(bytes, 64);
    const fm_gemm_operand *x = &layer.x.operand;
    assert_true(layer.tokens > 0);
    assert_fails(fm_gemm_mlp_run(context, &mlp, layer.tokens, TOPK, layer.idx, NULL, x, workspace, bytes - 1,
                                 &out.result),
                 FM_ERR_ARG, "the workspace has");
    assert_fails(
        fm_gemm_mlp_run(context, &mlp, layer.tokens, TOPK, layer.idx, NULL, x, NULL, bytes, &out.result),
        FM_ERR_ARG, "workspace is at");
    assert_fails(
        fm_gemm_mlp_run(NULL, &mlp, layer.tokens, TOPK, layer.idx, NULL, x, workspace, bytes, &out.result),
        FM_ERR_ARG, "context");
    assert_fails(
        fm_gemm_mlp_run(context, &mlp, layer.tokens, TOPK, NULL, NULL, x, workspace, bytes, &out.result),
        FM_ERR_ARG, "topk_idx is null");
    layer.idx[0] = EXPERTS;
    assert_fails(
        fm_gemm_mlp_run(context, &mlp, layer.tokens, TOPK, layer.idx, NULL, x, workspace, bytes, &out.result),
        FM_ERR_ARG, "topk_idx[0] is 5");
    assert_fails(fm_gemm_mlp_workspace(&mlp, layer.tokens, 0, &bytes), FM_ERR_ARG, "topk is 0");
    assert_fails(fm_gemm_mlp_workspace(&mlp, FM_GEMM_EXTENT_MAX, 2, &bytes), FM_ERR_LIMIT, "tokens * topk");
    assert_fails(fm_gemm_mlp_workspace(NULL, 1, 1, &bytes), FM_ERR_ARG, "null");
    layer.weights[1][2].k++;
    assert_fails(fm_gemm_mlp_workspace(&mlp, 1, 1, &bytes), FM_ERR_ARG, "expert 2 has");
    for (int64_t row = 0; row < layer.tokens; row++)
        gemm_output_untouched(&out, row);
    fm_base_mem_free(workspace);
    gemm_output_free(&out);
    fm_gemm_context_close(context);
    layer_free(&layer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fused_is_what_the_parts_give),
        cmocka_unit_test(bad_arguments_are_refused),
    };
    return fm_test_run("gemm_mlp", tests);
}
