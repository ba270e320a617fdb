#include "fm_float_mode.h"

#include "fathom/gemm.h"

// A call that needs each kind of allocation there is.
static fm_status open_and_run(void *context_of_test)
{
    (void)context_of_test;
    static const uint16_t codes[9 * 40]; // zeros will do
    const fm_gemm_operand a = {.dtype = FM_DTYPE_BF16, .data = codes, .stride = 40};
    const int32_t ids[9] = {0, -1, 0};
    float d[9 * 9];
    const fm_gemm_result result = {.dtype = FM_DTYPE_F32, .data = d, .stride = 9};
    fm_gemm_weights weights;
    fm_gemm_context *context;
    FM_TRY(fm_gemm_weights_plain(9, 40, &a, &weights));
    FM_TRY(fm_gemm_context_open(NULL, &context));
    fm_status status = fm_gemm_grouped_by_id(context, 1, ids, 9, &a, &weights, &result);
    fm_gemm_context_close(context);
    return status;
}

static void survives_without_memory(void **state)
{
    (void)state;
    fm_test_each_alloc_fails(open_and_run, NULL);
}

static void bad_options_are_refused(void **state)
{
    (void)state;
    fm_gemm_context *context;
    fm_gemm_options options = {.size = sizeof options};
    assert_fails(fm_gemm_context_open(&options, NULL), FM_ERR_ARG, "out_context");
    options.size = 3;
    assert_fails(fm_gemm_context_open(&options, &context), FM_ERR_ARG, "size is 3");
    options = (fm_gemm_options){.size = sizeof options, .threads = -1};
    assert_fails(fm_gemm_context_open(&options, &context), FM_ERR_ARG, "threads is -1");
    options.threads = FM_GEMM_THREADS_MAX + 1;
    assert_fails(fm_gemm_context_open(&options, &context), FM_ERR_ARG, "threads is 1025");
    options = (fm_gemm_options){.size = sizeof options, .device = (fm_gemm_device)5};
    assert_fails(fm_gemm_context_open(&options, &context), FM_ERR_ARG, "device is 5");
    options = (fm_gemm_options){.size = sizeof options, .capped = 1, .isa_max = (fm_isa)9};
    assert_fails(fm_gemm_context_open(&options, &context), FM_ERR_ARG, "isa_max is 9");
    fm_gemm_context_close(NULL);
}

static void the_callers_float_mode_stays(void **state)
{
    (void)state;
    fm_test_float_mode_stays(open_and_run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(survives_without_memory),
        cmocka_unit_test(bad_options_are_refused),
        cmocka_unit_test(the_callers_float_mode_stays),
    };
    return fm_test_run("gemm_context", tests);
}
