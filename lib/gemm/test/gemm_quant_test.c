#include "gemm_cases.h"

#include "fm_test.h"

#include "fathom/gemm_quant.h"
#include "fathom/numfmt.h"

#include <math.h>

// Plain numbers, and room for what they are quantised to.
struct source {
    fm_gemm_operand operand;
    int64_t rows, k;
    float *values; // rows x k, what the operand holds
    void *data;
};

static struct source source_make(fm_gen *gen, int64_t rows, int64_t k, fm_dtype dtype, int transposed,
                                 int extreme)
{
    struct source source = {.rows = rows, .k = k};
    int64_t stride = (transposed ? rows : k) + fm_gen_int(gen, 0, 5), lines = transposed ? k : rows;
    size_t element = dtype == FM_DTYPE_F32 ? 4 : 2;
    source.operand = (fm_gemm_operand){.dtype = dtype, .transposed = transposed, .stride = stride};
    source.values = fm_base_mem_zalloc((size_t)(rows * k) + 1, sizeof(float));
    source.data = fm_base_mem_alloc((size_t)(lines * stride) * element + 1);
    source.operand.data = source.data;
    memset(source.data, 0xFF, (size_t)(lines * stride) * element);
    float size = (float)fm_gen_real(gen, 1e-6, 10);
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < k; i++) {
            int64_t at = transposed ? i * stride + row : row * stride + i;
            float value =
                extreme && fm_gen_chance(gen, 0.1) ? fm_gen_any_float(gen) : size * fm_gen_normal(gen);
            if (dtype == FM_DTYPE_BF16) {
                ((fm_bf16 *)source.data)[at] = fm_f32_to_bf16(value);
                value = fm_bf16_to_f32(fm_f32_to_bf16(value));
            } else {
                ((float *)source.data)[at] = value;
            }
            source.values[row * k + i] = value;
        }
    return source;
}

static void source_free(struct source *source)
{
    fm_base_mem_free(source->values);
    fm_base_mem_free(source->data);
}

enum { MARGIN = 16 };

// Poisoned throughout, with margins.
struct target {
    fm_gemm_quantised to;
    uint8_t *data, *scales;
    size_t bytes, scale_bytes;
};

static struct target target_make(fm_gen *gen, int64_t rows, int64_t k, const struct gemm_format *format,
                                 int64_t scale_columns)
{
    struct target target = {.to = {.dtype = format->dtype,
                                   .stride = k + fm_gen_int(gen, 0, 5),
                                   .scale_rows = format->scale_rows,
                                   .scale_k = format->scale_k,
                                   .scale_dtype = format->scale_dtype,
                                   .scale_stride = scale_columns + fm_gen_int(gen, 0, 2),
                                   .powers = format->powers == GEMM_POWERS}};
    target.to.stride += target.to.stride % 2;
    target.bytes = (size_t)(rows * target.to.stride * fm_base_dtype_bits(format->dtype) / 8) + MARGIN;
    int64_t down = (rows + format->scale_rows - 1) / format->scale_rows;
    target.scale_bytes = (size_t)(down * target.to.scale_stride) * 4 + MARGIN;
    target.data = fm_base_mem_alloc(target.bytes);
    target.scales = fm_base_mem_alloc(target.scale_bytes);
    memset(target.data, 0x3C, target.bytes);
    memset(target.scales, 0x3C, target.scale_bytes);
    target.to.data = target.data;
    target.to.scales = target.scales;
    return target;
}

static void target_free(struct target *target)
{
    fm_base_mem_free(target->data);
    fm_base_mem_free(target->scales);
}

static void targets_equal(const struct target *a, const struct target *b)
{
    assert_memory_equal(a->data, b->data, a->bytes);
    assert_memory_equal(a->scales, b->scales, a->scale_bytes);
}

static float flush(float value)
{
    return fabsf(value) < 0x1p-126f ? copysignf(0, value) : value;
}

// The header's formulas, number by number; `offset` is added to columns, `scale_column` to those of scales.
static void expect(const float *values, int64_t rows, int64_t k, int64_t value_stride,
                   const struct target *target, int64_t row_from, int64_t offset, int64_t scale_column)
{
    const fm_gemm_quantised *to = &target->to;
    int64_t scale_k = to->scale_k ? to->scale_k : 128;
    for (int64_t row = 0; row < rows; row += to->scale_rows)
        for (int64_t at = 0; at < k; at += scale_k) {
            float amax = 1e-4f;
            for (int64_t r = row; r < rows && r < row + to->scale_rows; r++)
                for (int64_t i = at; i < k && i < at + scale_k; i++)
                    amax = fabsf(values[r * value_stride + i]) > amax ? fabsf(values[r * value_stride + i])
                                                                      : amax;
            float scale = amax / (to->dtype == FM_DTYPE_F8_E4M3 ? 448.0f : 6.0f);
            int exponent;
            if (isfinite(scale) && (to->scale_dtype == FM_DTYPE_F8_UE8M0 || to->powers))
                scale = frexpf(scale, &exponent) == 0.5f ? scale : ldexpf(1, exponent);
            else if (to->scale_dtype == FM_DTYPE_F8_UE8M0)
                scale = 0x1p127f;
            int64_t scale_at =
                (row_from + row) / to->scale_rows * to->scale_stride + scale_column + at / scale_k;
            if (to->scale_dtype == FM_DTYPE_F8_UE8M0)
                assert_true(fm_ue8m0_to_f32(((fm_ue8m0 *)to->scales)[scale_at]) == scale);
            else
                assert_true(((float *)to->scales)[scale_at] == scale);
            float inverse = flush(1 / scale);
            for (int64_t r = row; r < rows && r < row + to->scale_rows; r++)
                for (int64_t i = at; i < k && i < at + scale_k; i++) {
                    float x = flush(flush(values[r * value_stride + i]) * inverse);
                    int64_t code_at = (row_from + r) * to->stride + offset + i;
                    if (to->dtype == FM_DTYPE_F8_E4M3)
                        assert_int_equal(((fm_e4m3 *)to->data)[code_at] & (isnan(x) ? 0x7F : 0xFF),
                                         fm_f32_to_e4m3(x) & (isnan(x) ? 0x7F : 0xFF));
                    else
                        assert_int_equal(((uint8_t *)to->data)[code_at / 2] >> (code_at % 2 ? 4 : 0) & 15,
                                         fm_f32_to_e2m1(x));
                }
        }
}

static struct gemm_format any_target(fm_gen *gen)
{
    struct gemm_format format = {.dtype = fm_gen_chance(gen, 0.7) ? FM_DTYPE_F8_E4M3 : FM_DTYPE_F4_E2M1};
    format.scale_rows = fm_gen_chance(gen, 0.5) ? 128 : 1;
    format.powers = fm_gen_chance(gen, 0.3) ? GEMM_POWERS : GEMM_NO_POWERS;
    format.scale_dtype = fm_gen_chance(gen, 0.4) ? FM_DTYPE_F8_UE8M0 : FM_DTYPE_F32;
    if (format.scale_dtype == FM_DTYPE_F8_UE8M0 && fm_gen_chance(gen, 0.5)) {
        format.scale_k = 32;
        format.scale_rows = 1;
    }
    return format;
}

static int64_t columns_of(const struct gemm_format *format, int64_t k)
{
    int64_t scale_k = format->scale_k ? format->scale_k : 128;
    return (k + scale_k - 1) / scale_k;
}

static void random_matrix(fm_gen *gen)
{
    int64_t rows = fm_gen_size(gen, 0, 150), k = fm_gen_chance(gen, 0.05) ? 4500 : fm_gen_size(gen, 0, 300);
    struct source from = source_make(gen, rows, k, fm_gen_chance(gen, 0.5) ? FM_DTYPE_F32 : FM_DTYPE_BF16,
                                     fm_gen_chance(gen, 0.3), fm_gen_chance(gen, 0.3));
    struct gemm_format format = any_target(gen);
    fm_gen again = *gen;
    struct target reference = {0};
    for (int isa = FM_ISA_REF; isa <= FM_ISA_AVX512; isa++) {
        *gen = again;
        struct target target = target_make(gen, rows, k, &format, columns_of(&format, k));
        fm_gemm_context *context = gemm_open((fm_isa)isa, isa + 1);
        assert_ok(fm_gemm_quantise(context, rows, k, &from.operand, &target.to));
        fm_gemm_context_close(context);
        if (isa == FM_ISA_REF) {
            expect(from.values, rows, k, k, &target, 0, 0, 0);
            reference = target;
            continue;
        }
        targets_equal(&reference, &target);
        target_free(&target);
    }
    target_free(&reference);
    source_free(&from);
}

static void codes_and_scales_are_as_documented(void **state)
{
    (void)state;
    fm_gen_property(40, random_matrix);
}

static void random_dequantisation(fm_gen *gen)
{
    int64_t rows = fm_gen_size(gen, 0, 150), k = fm_gen_size(gen, 0, 300);
    struct gemm_format format = any_target(gen);
    format.transposed = fm_gen_chance(gen, 0.3);
    struct gemm_matrix from = gemm_matrix_make(gen, rows, k, &format, GEMM_NORMAL);
    int64_t stride = k + fm_gen_int(gen, 0, 3);
    int wide = fm_gen_chance(gen, 0.5);
    size_t bytes = (size_t)(rows * stride) * 4 + 1;
    uint8_t *out = fm_base_mem_alloc(bytes);
    for (int isa = FM_ISA_REF; isa <= FM_ISA_AVX512; isa++) {
        fm_gemm_context *context = gemm_open((fm_isa)isa, 2);
        memset(out, 0xFF, bytes);
        assert_ok(fm_gemm_dequantise(context, rows, k, &from.operand, wide ? FM_DTYPE_F32 : FM_DTYPE_BF16,
                                     out, stride));
        for (int64_t row = 0; row < rows; row++)
            for (int64_t i = 0; i < k; i++) {
                float value = (float)gemm_matrix_at(&from, row, i);
                float got = wide ? ((float *)(void *)out)[row * stride + i]
                                 : fm_bf16_to_f32(((fm_bf16 *)(void *)out)[row * stride + i]);
                assert_true(fm_f32_bits(got) ==
                            fm_f32_bits(wide ? value : fm_bf16_to_f32(fm_f32_to_bf16(value))));
            }
        fm_gemm_context_close(context);
    }
    fm_base_mem_free(out);
    gemm_matrix_free(&from);
}

static void dequantised_numbers_are_codes_times_scales(void **state)
{
    (void)state;
    fm_gen_property(40, random_dequantisation);
}

/* Turned: by groups of rows. */

enum { GROUPS = 3 };

static int64_t random_offsets(fm_gen *gen, int even, int64_t offsets[GROUPS + 1])
{
    offsets[0] = 2 * fm_gen_int(gen, 0, 2);
    for (int g = 0; g < GROUPS; g++)
        offsets[g + 1] = offsets[g] + fm_gen_size(gen, 0, 150) * (even ? 2 : 1);
    return offsets[GROUPS];
}

static int64_t blocks_of(const struct gemm_format *format, const int64_t *offsets, int groups)
{
    int64_t blocks = 0;
    for (int g = 0; g < groups; g++)
        blocks += columns_of(format, offsets[g + 1] - offsets[g]);
    return blocks;
}

// values[rows][k], of rows in groups, as `target` of k rows from row_from on ought to have them.
static void expect_turned(const float *values, int64_t k, const int64_t *offsets,
                          const struct gemm_format *format, const struct target *target, int64_t row_from)
{
    for (int g = 0; g < GROUPS; g++) {
        int64_t size = offsets[g + 1] - offsets[g];
        float *turned = fm_base_mem_alloc((size_t)(size * k + 1) * sizeof(float));
        for (int64_t row = 0; row < size; row++)
            for (int64_t i = 0; i < k; i++)
                turned[i * size + row] = values[(offsets[g] + row) * k + i];
        expect(turned, k, size, size, target, row_from, offsets[g], blocks_of(format, offsets, g));
        fm_base_mem_free(turned);
    }
}

static void random_turn(fm_gen *gen)
{
    struct gemm_format format = any_target(gen);
    format.scale_rows = 1;
    int64_t offsets[GROUPS + 1], k = fm_gen_size(gen, 0, 150);
    int64_t rows = random_offsets(gen, format.dtype == FM_DTYPE_F4_E2M1, offsets);
    struct source from = source_make(gen, rows, k, FM_DTYPE_BF16, fm_gen_chance(gen, 0.3), 0);
    fm_gen again = *gen;
    struct target reference = {0};
    for (int isa = FM_ISA_REF; isa <= FM_ISA_AVX512; isa++) {
        *gen = again;
        struct target target = target_make(gen, k, rows, &format, blocks_of(&format, offsets, GROUPS));
        fm_gemm_context *context = gemm_open((fm_isa)isa, isa + 1);
        assert_ok(fm_gemm_quantise_transposed(context, GROUPS, offsets, k, &from.operand, &target.to));
        fm_gemm_context_close(context);
        if (isa == FM_ISA_REF) {
            expect_turned(from.values, k, offsets, &format, &target, 0);
            reference = target;
            continue;
        }
        targets_equal(&reference, &target);
        target_free(&target);
    }
    target_free(&reference);
    source_free(&from);
}

static void turned_groups_are_as_documented(void **state)
{
    (void)state;
    fm_gen_property(30, random_turn);
}

// dW = dY^T X for two experts, from FP8 activations: near the gradient of what was quantised.
static void gradients_of_weights_from_fp8(void **state)
{
    (void)state;
    enum { TOKENS = 500, OUT = 60, IN = 90, EXPERTS = 2 };
    const int64_t offsets[] = {0, 203, TOKENS};
    static float scales[TOKENS], scales_out[2][IN * 6], d[EXPERTS * OUT * IN];
    static fm_e4m3 x_codes[TOKENS * IN], codes[2][IN * TOKENS];
    fm_gen gen = fm_gen_seeded(9);
    fm_gemm_context *context = gemm_open(FM_ISA_AVX512, 2);
    struct source x = source_make(&gen, TOKENS, IN, FM_DTYPE_BF16, 0, 0);
    struct source dy = source_make(&gen, TOKENS, OUT, FM_DTYPE_BF16, 0, 0);
    fm_gemm_quantised fp8 = {.dtype = FM_DTYPE_F8_E4M3,
                             .data = x_codes,
                             .stride = IN,
                             .scales = scales,
                             .scale_stride = 1,
                             .scale_rows = 1};
    assert_ok(fm_gemm_quantise(context, TOKENS, IN, &x.operand, &fp8));
    fm_gemm_operand x_fp8 = fm_gemm_quantised_operand(&fp8), operands[2];
    for (int i = 0; i < 2; i++) {
        fm_gemm_quantised turned = {.dtype = FM_DTYPE_F8_E4M3,
                                    .data = codes[i],
                                    .stride = TOKENS,
                                    .scales = scales_out[i],
                                    .scale_stride = 6,
                                    .scale_rows = 1};
        assert_ok(fm_gemm_quantise_transposed(context, EXPERTS, offsets, i ? IN : OUT,
                                              i ? &x_fp8 : &dy.operand, &turned));
        operands[i] = fm_gemm_quantised_operand(&turned);
    }
    fm_gemm_result result = {.dtype = FM_DTYPE_F32, .data = d, .stride = IN};
    assert_ok(fm_gemm_grouped_k(context, EXPERTS, offsets, OUT, IN, &operands[0], &operands[1], &result,
                                (int64_t)OUT * IN));
    double both = 0, squares = 0;
    for (int g = 0; g < EXPERTS; g++)
        for (int64_t o = 0; o < OUT; o++)
            for (int64_t i = 0; i < IN; i++) {
                double want = 0, got = (double)d[(g * OUT + o) * IN + i];
                for (int64_t t = offsets[g]; t < offsets[g + 1]; t++)
                    want += (double)dy.values[t * OUT + o] * (double)x.values[t * IN + i];
                both += want * got;
                squares += want * want + got * got;
            }
    assert_true(1 - 2 * both / squares < 2e-3); // X is quantised twice
    source_free(&x);
    source_free(&dy);
    fm_gemm_context_close(context);
}

static void bad_arguments_are_refused(void **state)
{
    (void)state;
    fm_gemm_context *context = gemm_open(FM_ISA_REF, 1);
    float values[256] = {0}, scales[4];
    fm_e4m3 codes[256];
    fm_gemm_operand from = {.dtype = FM_DTYPE_F32, .data = values, .stride = 128};
    fm_gemm_quantised to = {.dtype = FM_DTYPE_F8_E4M3,
                            .data = codes,
                            .stride = 128,
                            .scales = scales,
                            .scale_stride = 1,
                            .scale_rows = 1};
    fm_gemm_quantised bad = to;
    const int64_t falling[] = {0, 2, 1}, odd[] = {0, 1, 2};
    bad.dtype = FM_DTYPE_BF16;
    assert_fails(fm_gemm_quantise(context, 2, 128, &from, &bad), FM_ERR_UNSUPPORTED, "dtype of to is BF16");
    bad = to;
    bad.stride = 127;
    assert_fails(fm_gemm_quantise(context, 2, 128, &from, &bad), FM_ERR_ARG, "stride of to is 127");
    bad = to;
    bad.scales = NULL;
    assert_fails(fm_gemm_quantise(context, 2, 128, &from, &bad), FM_ERR_ARG, "scales of to is null");
    assert_fails(fm_gemm_quantise(context, 2, 128, &from, NULL), FM_ERR_ARG, "to is null");
    assert_fails(fm_gemm_quantise(context, 2, 128, NULL, &to), FM_ERR_ARG, "from is null");
    assert_fails(fm_gemm_quantise(NULL, 2, 128, &from, &to), FM_ERR_ARG, "context");
    assert_fails(fm_gemm_quantise(context, -1, 128, &from, &to), FM_ERR_ARG, "rows is -1");
    assert_fails(fm_gemm_quantise_transposed(context, 2, falling, 64, &from, &to), FM_ERR_ARG, "offsets[2]");
    bad = to;
    bad.dtype = FM_DTYPE_F4_E2M1;
    assert_fails(fm_gemm_quantise_transposed(context, 2, odd, 64, &from, &bad), FM_ERR_ARG,
                 "expected an even one");
    bad = to;
    bad.scale_stride = 1;
    assert_fails(fm_gemm_quantise_transposed(context, 2, odd, 64, &from, &bad), FM_ERR_ARG,
                 "the groups' blocks");
    assert_fails(fm_gemm_dequantise(context, 2, 128, &from, FM_DTYPE_F16, values, 128), FM_ERR_UNSUPPORTED,
                 "dtype of out");
    fm_gemm_swiglu gate = {.dtype = FM_DTYPE_F32, .gate = values, .up = values, .stride = 128, .limit = -1};
    assert_fails(fm_gemm_swiglu_quantise(context, 2, 128, &gate, &to), FM_ERR_ARG, "limit is -1");
    gate.limit = 0;
    gate.up = NULL;
    assert_fails(fm_gemm_swiglu_quantise(context, 2, 128, &gate, &to), FM_ERR_ARG, "up is null");
    gate.up = values;
    bad = to;
    bad.scale_rows = 128;
    assert_fails(fm_gemm_swiglu_quantise(context, 2, 128, &gate, &bad), FM_ERR_ARG,
                 "scale_rows of to is 128");
    fm_gemm_swiglu_gradient gradient = {.rows = &to};
    const int64_t one[] = {0, 2};
    assert_fails(fm_gemm_swiglu_backward(context, 1, one, 60, &gate, FM_DTYPE_F32, values, 128, &gradient),
                 FM_ERR_ARG, "k is 60");
    assert_fails(fm_gemm_swiglu_backward(context, 1, one, 60, &gate, FM_DTYPE_F32, values, 128, NULL),
                 FM_ERR_ARG, "to is null");
    fm_gemm_context_close(context);
}

/* SwiGLU. */

struct swiglu {
    struct source gate_up, dh;
    int64_t rows, k;
    fm_gemm_swiglu from;
    float *weights;
};

static struct swiglu swiglu_make(fm_gen *gen, int64_t rows, int64_t k, int extreme)
{
    fm_dtype dtype = fm_gen_chance(gen, 0.5) ? FM_DTYPE_F32 : FM_DTYPE_BF16;
    struct swiglu swiglu = {.rows = rows, .k = k};
    swiglu.gate_up = source_make(gen, rows, 2 * k, dtype, 0, extreme);
    swiglu.dh = source_make(gen, rows, k, dtype, 0, extreme);
    swiglu.from =
        (fm_gemm_swiglu){.dtype = dtype,
                         .gate = swiglu.gate_up.data,
                         .up = (const uint8_t *)swiglu.gate_up.data + k * (dtype == FM_DTYPE_F32 ? 4 : 2),
                         .stride = swiglu.gate_up.operand.stride};
    swiglu.weights = fm_base_mem_alloc((size_t)(rows + 1) * sizeof(float));
    for (int64_t row = 0; row < rows; row++)
        swiglu.weights[row] = (float)fm_gen_real(gen, 0, 1);
    if (fm_gen_chance(gen, 0.5))
        swiglu.from.weights = swiglu.weights;
    if (fm_gen_chance(gen, 0.5))
        swiglu.from.limit = (float)fm_gen_real(gen, 0.5, 8);
    return swiglu;
}

static void swiglu_free(struct swiglu *swiglu)
{
    source_free(&swiglu->gate_up);
    source_free(&swiglu->dh);
    fm_base_mem_free(swiglu->weights);
}

static void near(double got, double want, double size)
{
    if (!(fabs(got - want) <= size * 0x1p-20 + 1e-35))
        fail_msg("got %g; expected %g", got, want);
}

// In doubles: h, and the gradients given dh.
static void check_row(const struct swiglu *swiglu, int64_t row, const float *h, const float *gradient,
                      const float *d_weight)
{
    double limit = swiglu->from.limit > 0 ? (double)swiglu->from.limit : (double)INFINITY, sum = 0, size = 0;
    double w = swiglu->from.weights ? (double)swiglu->weights[row] : 1;
    int64_t k = swiglu->k;
    for (int64_t i = 0; i < k; i++) {
        double g_in = (double)swiglu->gate_up.values[row * 2 * k + i];
        double u_in = (double)swiglu->gate_up.values[row * 2 * k + k + i];
        double g = fmin(g_in, limit), u = fmax(fmin(u_in, limit), -limit), s = 1 / (1 + exp(-g));
        double dh = (double)swiglu->dh.values[row * k + i];
        near((double)h[i], w * g * s * u, fabs(w * g * s * u));
        if (!gradient)
            continue;
        double d_gate = g_in > limit ? 0 : dh * w * u * s * (1 + g * (1 - s));
        double d_up = fabs(u_in) > limit ? 0 : dh * w * g * s;
        near((double)gradient[i], d_gate, fabs(dh * w * u * s) * (1 + fabs(g)));
        near((double)gradient[k + i], d_up, fabs(d_up));
        sum += dh * g * s * u;
        size += fabs(dh * g * s * u);
    }
    if (gradient)
        near((double)*d_weight, sum, 4 * size);
}

static void random_forward(fm_gen *gen)
{
    int64_t rows = fm_gen_size(gen, 0, 20), k = fm_gen_chance(gen, 0.1) ? 2100 : fm_gen_size(gen, 0, 200);
    int extreme = fm_gen_chance(gen, 0.3);
    struct swiglu swiglu = swiglu_make(gen, rows, k, extreme);
    struct gemm_format format = any_target(gen);
    format.scale_rows = 1;
    fm_gen again = *gen;
    float *plain[3];
    struct target targets[3];
    for (int isa = FM_ISA_REF; isa <= FM_ISA_AVX512; isa++) {
        fm_gemm_context *context = gemm_open((fm_isa)isa, 2);
        *gen = again;
        targets[isa] = target_make(gen, rows, k, &format, columns_of(&format, k));
        plain[isa] = fm_base_mem_zalloc((size_t)(rows * k) + 1, sizeof(float));
        assert_ok(fm_gemm_swiglu_run(context, rows, k, &swiglu.from, FM_DTYPE_F32, plain[isa], k));
        assert_ok(fm_gemm_swiglu_quantise(context, rows, k, &swiglu.from, &targets[isa].to));
        fm_gemm_context_close(context);
        for (int64_t i = 0; i < rows * k; i++)
            assert_true(fm_f32_bits(plain[isa][i]) == fm_f32_bits(plain[0][i]) ||
                        (isnan(plain[isa][i]) && isnan(plain[0][i])));
    }
    for (int64_t row = 0; row < rows && !extreme; row++)
        check_row(&swiglu, row, plain[0] + row * k, NULL, NULL);
    for (int isa = FM_ISA_REF; isa <= FM_ISA_AVX512; isa++)
        expect(plain[0], rows, k, k, &targets[isa], 0, 0, 0);
    for (int isa = FM_ISA_REF; isa <= FM_ISA_AVX512; isa++) {
        target_free(&targets[isa]);
        fm_base_mem_free(plain[isa]);
    }
    swiglu_free(&swiglu);
}

static void swiglu_is_right_and_fused_as_apart(void **state)
{
    (void)state;
    fm_gen_property(40, random_forward);
}

struct gradients {
    float *plain, *weights, *h;
    struct target rows, columns, turned_h;
};

static struct gradients run_backward(fm_gen *gen, const struct swiglu *swiglu, const int64_t *offsets,
                                     fm_isa isa, const struct gemm_format format[3])
{
    int64_t rows = swiglu->rows, k = swiglu->k;
    struct gradients out = {.plain = fm_base_mem_zalloc((size_t)(rows * 2 * k) + 1, sizeof(float)),
                            .weights = fm_base_mem_zalloc((size_t)rows + 1, sizeof(float)),
                            .h = fm_base_mem_zalloc((size_t)(rows * k) + 1, sizeof(float))};
    out.rows = target_make(gen, rows, 2 * k, &format[0], columns_of(&format[0], 2 * k));
    out.columns = target_make(gen, 2 * k, rows, &format[1], blocks_of(&format[1], offsets, GROUPS));
    out.turned_h = target_make(gen, k, rows, &format[2], blocks_of(&format[2], offsets, GROUPS));
    fm_gemm_swiglu_gradient to = {.dtype = FM_DTYPE_F32,
                                  .data = out.plain,
                                  .stride = 2 * k,
                                  .columns = &out.columns.to,
                                  .h = &out.turned_h.to,
                                  .weights = out.weights};
    int scale_k = format[0].scale_k ? format[0].scale_k : 128;
    if (k % scale_k == 0)
        to.rows = &out.rows.to;
    fm_gemm_context *context = gemm_open(isa, 2);
    assert_ok(fm_gemm_swiglu_backward(context, GROUPS, offsets, k, &swiglu->from, swiglu->from.dtype,
                                      swiglu->dh.data, swiglu->dh.operand.stride, &to));
    assert_ok(fm_gemm_swiglu_run(context, rows, k, &swiglu->from, FM_DTYPE_F32, out.h, k));
    fm_gemm_context_close(context);
    return out;
}

static void gradients_free(struct gradients *gradients)
{
    fm_base_mem_free(gradients->plain);
    fm_base_mem_free(gradients->weights);
    fm_base_mem_free(gradients->h);
    target_free(&gradients->rows);
    target_free(&gradients->columns);
    target_free(&gradients->turned_h);
}

static void random_backward(fm_gen *gen)
{
    struct gemm_format format[3];
    for (int i = 0; i < 3; i++) {
        format[i] = any_target(gen);
        format[i].scale_rows = 1;
    }
    int64_t offsets[GROUPS + 1], rows = random_offsets(gen, 1, offsets);
    int64_t k = fm_gen_chance(gen, 0.5) ? 128 * fm_gen_int(gen, 0, 2) : fm_gen_size(gen, 0, 150);
    struct swiglu swiglu = swiglu_make(gen, rows, k, 0);
    fm_gen again = *gen;
    struct gradients reference = run_backward(gen, &swiglu, offsets, FM_ISA_REF, format);
    for (int64_t row = offsets[0]; row < rows; row++)
        check_row(&swiglu, row, reference.h + row * k, reference.plain + row * 2 * k,
                  &reference.weights[row]);
    expect_turned(reference.plain, 2 * k, offsets, &format[1], &reference.columns, 0);
    expect_turned(reference.h, k, offsets, &format[2], &reference.turned_h, 0);
    int scale_k = format[0].scale_k ? format[0].scale_k : 128;
    if (k % scale_k == 0)
        expect(reference.plain + offsets[0] * 2 * k, rows - offsets[0], 2 * k, 2 * k, &reference.rows,
               offsets[0], 0, 0);
    for (int isa = FM_ISA_AVX2; isa <= FM_ISA_AVX512; isa++) {
        *gen = again;
        struct gradients same = run_backward(gen, &swiglu, offsets, (fm_isa)isa, format);
        assert_memory_equal(same.plain, reference.plain, (size_t)(rows * 2 * k) * 4);
        assert_memory_equal(same.weights, reference.weights, (size_t)rows * 4);
        targets_equal(&same.rows, &reference.rows);
        targets_equal(&same.columns, &reference.columns);
        targets_equal(&same.turned_h, &reference.turned_h);
        gradients_free(&same);
    }
    gradients_free(&reference);
    swiglu_free(&swiglu);
}

static void gradients_of_swiglu_are_right_and_fused_as_apart(void **state)
{
    (void)state;
    fm_gen_property(15, random_backward);
}

// Matrices of several tiles and tasks, whose codes are stored past the caches: all levels make the same of them, in blocks
// that are finite, and in a few that are not.
static void long_matrices_are_the_same_at_all_levels(void **state)
{
    (void)state;
    enum { ROWS = 2100, K = 2128, NUMBERS = ROWS * K };
    const int64_t offsets[] = {0, 700, 701, ROWS};
    fm_bf16 *values = fm_base_mem_alloc(NUMBERS * sizeof *values);
    uint8_t *codes = fm_base_mem_alloc((size_t)2 * NUMBERS);
    float *scales = fm_base_mem_alloc((size_t)2 * NUMBERS / 64 * sizeof *scales);
    assert_true(values && codes && scales);
    uint32_t bits = 1;
    for (int i = 0; i < NUMBERS; i++) {
        bits = bits * 1664525 + 1013904223;
        values[i] = (fm_bf16)((bits >> 16 & 0x8FFF) + 0x3400 - (bits >> 20 & 0x0300));
    }
    values[5 * K + 600] = 0x7FC0;
    values[1000 * K + 1024] = 0xFF80;
    for (int way = 0; way < 4; way++) {
        memset(codes, 0x3C, (size_t)2 * NUMBERS);
        memset(scales, 0x3C, (size_t)2 * NUMBERS / 64 * sizeof *scales);
        for (int level = 0; level < 2; level++) {
            fm_gemm_context *context = gemm_open(level ? FM_ISA_AVX512 : FM_ISA_AVX2, 2);
            fm_gemm_operand from = {.dtype = FM_DTYPE_BF16, .data = values, .stride = K};
            fm_gemm_swiglu swiglu = {
                .dtype = FM_DTYPE_BF16, .gate = values, .up = values + K / 2, .stride = K};
            fm_gemm_quantised to = {.dtype = FM_DTYPE_F8_E4M3,
                                    .data = codes + (size_t)level * NUMBERS,
                                    .stride = way == 2 ? ROWS : K,
                                    .scales = scales + (size_t)level * NUMBERS / 64,
                                    .scale_stride = 20,
                                    .scale_rows = way == 1 ? 128 : 1};
            if (way < 2)
                assert_ok(fm_gemm_quantise(context, ROWS, K, &from, &to));
            else if (way == 2)
                assert_ok(fm_gemm_quantise_transposed(context, 3, offsets, K, &from, &to));
            else
                assert_ok(fm_gemm_swiglu_quantise(context, ROWS, K / 2, &swiglu, &to));
            fm_gemm_context_close(context);
        }
        assert_memory_equal(codes, codes + NUMBERS, NUMBERS);
        assert_memory_equal(scales, scales + NUMBERS / 64, NUMBERS / 64 * sizeof *scales);
    }
    fm_base_mem_free(values);
    fm_base_mem_free(codes);
    fm_base_mem_free(scales);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_and_scales_are_as_documented),
        cmocka_unit_test(dequantised_numbers_are_codes_times_scales),
        cmocka_unit_test(turned_groups_are_as_documented),
        cmocka_unit_test(gradients_of_weights_from_fp8),
        cmocka_unit_test(bad_arguments_are_refused),
        cmocka_unit_test(swiglu_is_right_and_fused_as_apart),
        cmocka_unit_test(gradients_of_swiglu_are_right_and_fused_as_apart),
        cmocka_unit_test(long_matrices_are_the_same_at_all_levels),
    };
    return fm_test_run("gemm_quant", tests);
}
