#include "gemm_cases.h"

#include "fm_test.h"

// A good product, of which each test breaks one argument.
struct call {
    struct gemm_matrix a, b;
    struct gemm_output d;
    fm_gemm_weights weights[2];
    fm_gemm_context *context;
};

static struct call begin(fm_dtype dtype)
{
    fm_gen gen = fm_gen_seeded(2);
    struct gemm_format fine = {.dtype = dtype, .scale_rows = 1}, coarse = {.dtype = dtype, .scale_rows = 128};
    struct call call = {.a = gemm_matrix_make(&gen, 12, 200, &fine, GEMM_NORMAL),
                        .b = gemm_matrix_make(&gen, 30, 200, &coarse, GEMM_NORMAL),
                        .d = gemm_output_make(&gen, 12, 30, FM_DTYPE_F32, 1),
                        .context = gemm_open(FM_ISA_AVX512, 1)};
    for (int g = 0; g < 2; g++)
        assert_ok(fm_gemm_weights_plain(30, 200, &call.b.operand, &call.weights[g]));
    return call;
}

static void end(struct call *call)
{
    for (int64_t row = 0; row < 12; row++)
        gemm_output_untouched(&call->d, row);
    gemm_matrix_free(&call->a);
    gemm_matrix_free(&call->b);
    gemm_output_free(&call->d);
    fm_gemm_context_close(call->context);
}

static void refused_a(struct call *call, fm_gemm_operand a, fm_status status, const char *text)
{
    assert_fails(fm_gemm_dense(call->context, 12, &a, call->weights, &call->d.result), status, text);
}

static void bad_operands_are_refused(void **state)
{
    (void)state;
    struct call call = begin(FM_DTYPE_F8_E4M3);
    fm_gemm_operand a;
#define WITH(field, value, status, text)       \
    do {                                       \
        a = call.a.operand;                    \
        a.field = (value);                     \
        refused_a(&call, a, (status), (text)); \
    } while (0)
    WITH(data, NULL, FM_ERR_ARG, "a is null");
    WITH(stride, 199, FM_ERR_ARG, "stride of a is 199");
    WITH(stride, -200, FM_ERR_ARG, "stride of a is -200");
    WITH(stride, INT64_MAX / 2, FM_ERR_LIMIT, "larger than memory");
    WITH(dtype, FM_DTYPE_F8_E5M2, FM_ERR_UNSUPPORTED, "F8_E5M2");
    WITH(dtype, FM_DTYPE_NONE, FM_ERR_UNSUPPORTED, "dtype of a");
    WITH(scales, NULL, FM_ERR_ARG, "scales of a is null");
    WITH(scales, (const float *)(const void *)((const char *)call.a.scales + 1), FM_ERR_ARG, "multiple of");
    WITH(scale_stride, 1, FM_ERR_ARG, "stride of scales of a is 1");
    WITH(scale_rows, 64, FM_ERR_ARG, "scale_rows of a is 64");
    WITH(scale_rows, 0, FM_ERR_ARG, "scale_rows of a is 0");
    WITH(scale_k, 64, FM_ERR_ARG, "scale_k of a is 64");
    WITH(scale_k, 32, FM_ERR_UNSUPPORTED, "expected F8_E8M0");
    WITH(scale_dtype, FM_DTYPE_BF16, FM_ERR_UNSUPPORTED, "scale_dtype of a is BF16");
#undef WITH
    a = call.a.operand;
    a.dtype = FM_DTYPE_F4_E2M1;
    a.stride = 201;
    refused_a(&call, a, FM_ERR_ARG, "stride of a is 201; expected an even");
    a = call.a.operand;
    a.transposed = 1;
    a.stride = 11;
    refused_a(&call, a, FM_ERR_ARG, "stride of a is 11");
    assert_fails(fm_gemm_dense(call.context, 12, NULL, call.weights, &call.d.result), FM_ERR_ARG,
                 "a is null");
    assert_fails(fm_gemm_dense(call.context, 12, &call.a.operand, NULL, &call.d.result), FM_ERR_ARG,
                 "b is null");
    assert_fails(fm_gemm_dense(NULL, 12, &call.a.operand, call.weights, &call.d.result), FM_ERR_ARG,
                 "context");
    assert_fails(fm_gemm_dense(call.context, -1, &call.a.operand, call.weights, &call.d.result), FM_ERR_ARG,
                 "m is -1");
    assert_fails(fm_gemm_dense(call.context, INT64_MAX, &call.a.operand, call.weights, &call.d.result),
                 FM_ERR_LIMIT, "m is");
    call.weights[0].operand.dtype = FM_DTYPE_BF16;
    refused_a(&call, call.a.operand, FM_ERR_UNSUPPORTED, "b is BF16");
    end(&call);
}

static void refused_d(struct call *call, fm_gemm_result d, fm_status status, const char *text)
{
    assert_fails(fm_gemm_dense(call->context, 12, &call->a.operand, call->weights, &d), status, text);
}

static void bad_results_are_refused(void **state)
{
    (void)state;
    struct call call = begin(FM_DTYPE_BF16);
    fm_gemm_result d;
#define WITH(field, value, status, text)       \
    do {                                       \
        d = call.d.result;                     \
        d.field = (value);                     \
        refused_d(&call, d, (status), (text)); \
    } while (0)
    WITH(data, NULL, FM_ERR_ARG, "d is null");
    WITH(data, call.d.data + 1, FM_ERR_ARG, "d is at");
    WITH(stride, 29, FM_ERR_ARG, "stride of d is 29");
    WITH(stride, INT64_MAX, FM_ERR_LIMIT, "d has 12 lines");
    WITH(dtype, FM_DTYPE_F16, FM_ERR_UNSUPPORTED, "dtype of d is F16");
    WITH(c_stride, 29, FM_ERR_ARG, "stride of c is 29");
    WITH(c, call.d.c + 2, FM_ERR_ARG, "c is at");
#undef WITH
    d = call.d.result;
    d.c = d.data;
    d.c_stride = d.stride + 1;
    refused_d(&call, d, FM_ERR_ARG, "c is d");
    assert_fails(fm_gemm_dense(call.context, 12, &call.a.operand, call.weights, NULL), FM_ERR_ARG,
                 "d is null");
    end(&call);
}

static void bad_groups_are_refused(void **state)
{
    (void)state;
    struct call call = begin(FM_DTYPE_BF16);
    const fm_gemm_operand *a = &call.a.operand;
    const fm_gemm_result *d = &call.d.result;
    static const struct {
        int64_t offsets[3];
        const char *text;
    } bad[] = {
        {{0, 5, 4}, "offsets[2] is 4"}, {{-1, 5, 6}, "offsets[0] is -1"}, {{0, 5, 13}, "offsets[2] is 13"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_fails(fm_gemm_grouped(call.context, 2, bad[i].offsets, 12, a, call.weights, d), FM_ERR_ARG,
                     bad[i].text);
    assert_fails(fm_gemm_grouped(call.context, 2, NULL, 12, a, call.weights, d), FM_ERR_ARG,
                 "offsets is null");
    assert_fails(fm_gemm_grouped(call.context, 0, bad[0].offsets, 12, a, call.weights, d), FM_ERR_ARG,
                 "groups is 0");

    int32_t ids[12] = {0, 1, -1, 2};
    assert_fails(fm_gemm_grouped_by_id(call.context, 2, ids, 12, a, call.weights, d), FM_ERR_ARG,
                 "ids[3] is 2");
    ids[3] = -2;
    assert_fails(fm_gemm_grouped_by_id(call.context, 2, ids, 12, a, call.weights, d), FM_ERR_ARG,
                 "ids[3] is -2");
    int32_t masked_m[2] = {6, 7};
    assert_fails(fm_gemm_grouped_masked(call.context, 2, masked_m, 6, a, call.weights, d), FM_ERR_ARG,
                 "masked_m[1] is 7");
    masked_m[1] = -1;
    assert_fails(fm_gemm_grouped_masked(call.context, 2, masked_m, 6, a, call.weights, d), FM_ERR_ARG,
                 "masked_m[1]");

    ids[3] = 0;
    call.weights[1].n = 29;
    assert_fails(fm_gemm_grouped_by_id(call.context, 2, ids, 12, a, call.weights, d), FM_ERR_ARG,
                 "b[1] has n 29");
    call.weights[1].n = 30;
    call.weights[1].operand.dtype = FM_DTYPE_F8_E4M3;
    assert_fails(fm_gemm_grouped_by_id(call.context, 2, ids, 12, a, call.weights, d), FM_ERR_ARG,
                 "b[1] is F8_E4M3");
    end(&call);
}

static void bad_batches_are_refused(void **state)
{
    (void)state;
    struct call call = begin(FM_DTYPE_F8_E4M3);
    fm_gemm_product products[2] = {{12, call.a.operand, call.weights[0], call.d.result}};
    products[1] = products[0];
    products[1].a.stride = 3;
    assert_fails(fm_gemm_batched(call.context, 2, products), FM_ERR_ARG, "product 1: stride of a is 3");
    assert_fails(fm_gemm_batched(call.context, 2, NULL), FM_ERR_ARG, "products is null");
    assert_fails(fm_gemm_batched(call.context, -1, products), FM_ERR_ARG, "count is -1");
    assert_fails(fm_gemm_batched(NULL, 1, products), FM_ERR_ARG, "context");
    assert_ok(fm_gemm_batched(call.context, 0, NULL));

    const fm_gemm_operand *a = &call.a.operand, *b = &call.b.operand;
    fm_gemm_operand odd = *a;
    const int64_t offsets[] = {0, 73, 200}, falling[] = {0, 73, 72};
    fm_gemm_context *context = call.context;
    const fm_gemm_result *d = &call.d.result;
    int64_t apart = 12 * d->stride;
    assert_fails(fm_gemm_grouped_k(context, 2, falling, 12, 30, a, b, d, apart), FM_ERR_ARG,
                 "offsets[2] is 72");
    assert_fails(fm_gemm_grouped_k(context, 2, offsets, 12, 30, a, b, d, apart - 1), FM_ERR_ARG,
                 "d_group_stride");
    assert_fails(fm_gemm_grouped_k(context, 2, offsets, 12, 30, a, b, d, INT64_MAX / 2), FM_ERR_LIMIT,
                 "2 groups");
    assert_fails(fm_gemm_grouped_k(context, 2, NULL, 12, 30, a, b, d, apart), FM_ERR_ARG, "offsets is null");
    odd.dtype = FM_DTYPE_F4_E2M1;
    odd.stride = 200;
    assert_fails(fm_gemm_grouped_k(context, 2, offsets, 12, 30, &odd, b, d, apart), FM_ERR_ARG,
                 "expected an even one");
    const int64_t three[] = {0, 1, 2, 200};
    odd = *a;
    odd.scale_stride = 3;
    assert_fails(fm_gemm_grouped_k(context, 3, three, 12, 30, &odd, b, d, apart), FM_ERR_ARG,
                 "the groups' blocks");
    end(&call);
}

// Nothing there to read or write: null pointers are fine.
static void empty_products_are_no_error(void **state)
{
    (void)state;
    struct call call = begin(FM_DTYPE_BF16);
    fm_gemm_operand none = {.dtype = FM_DTYPE_BF16};
    fm_gemm_result nowhere = {.dtype = FM_DTYPE_F32};
    fm_gemm_weights weights;
    assert_ok(fm_gemm_dense(call.context, 0, &none, call.weights, &nowhere));
    assert_ok(fm_gemm_weights_plain(0, 200, &none, &weights));
    assert_ok(fm_gemm_dense(call.context, 12, &call.a.operand, &weights, &nowhere));
    end(&call);

    call = begin(FM_DTYPE_BF16);
    assert_ok(fm_gemm_weights_plain(30, 0, &none, &weights));
    assert_ok(fm_gemm_dense(call.context, 12, &none, &weights, &call.d.result));
    for (int64_t row = 0; row < 12; row++)
        for (int64_t column = 0; column < 30; column++)
            assert_true(gemm_output_at(&call.d, row, column) == gemm_output_c(&call.d, row, column));
    memset(call.d.data, 0xFF, call.d.bytes);
    end(&call);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_operands_are_refused),    cmocka_unit_test(bad_results_are_refused),
        cmocka_unit_test(bad_groups_are_refused),      cmocka_unit_test(bad_batches_are_refused),
        cmocka_unit_test(empty_products_are_no_error),
    };
    return fm_test_run("gemm_args", tests);
}
