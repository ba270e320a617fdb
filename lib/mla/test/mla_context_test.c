#include "fm_float_mode.h"

#include "fathom/mla.h"

// A call that needs each kind of allocation there is.
static fm_status open_and_run(void *context_of_test)
{
    (void)context_of_test;
    static float zeros[8 * 16]; // will do
    float out[2 * 16], dq[2 * 16], dk[4 * 16], dv[4 * 16], lse[2];
    fm_tensor q, k, to, to_lse, to_dq, to_dk, to_dv;
    FM_TRY(fm_base_tensor_init(&q, FM_DTYPE_F32, 3, (int64_t[]){2, 1, 16}, zeros));
    FM_TRY(fm_base_tensor_init(&k, FM_DTYPE_F32, 3, (int64_t[]){4, 1, 16}, zeros));
    FM_TRY(fm_base_tensor_init(&to, FM_DTYPE_F32, 3, (int64_t[]){2, 1, 16}, out));
    FM_TRY(fm_base_tensor_init(&to_lse, FM_DTYPE_F32, 2, (int64_t[]){2, 1}, lse));
    FM_TRY(fm_base_tensor_init(&to_dq, FM_DTYPE_F32, 3, (int64_t[]){2, 1, 16}, dq));
    FM_TRY(fm_base_tensor_init(&to_dk, FM_DTYPE_F32, 3, (int64_t[]){4, 1, 16}, dk));
    FM_TRY(fm_base_tensor_init(&to_dv, FM_DTYPE_F32, 3, (int64_t[]){4, 1, 16}, dv));
    const fm_mla_prefill_args args = {.q = &q,
                                      .k = &k,
                                      .v = &k,
                                      .batch = 1,
                                      .cu_seqlens_q = (int32_t[]){0, 2},
                                      .cu_seqlens_k = (int32_t[]){0, 4},
                                      .out = &to,
                                      .lse = &to_lse};
    fm_mla_context *context;
    FM_TRY(fm_mla_context_open(NULL, &context));
    fm_status status = fm_mla_prefill_forward(context, &args);
    if (status == FM_OK)
        status = fm_mla_prefill_backward(context, &args, &q, &to_dq, &to_dk, &to_dv);
    fm_mla_context_close(context);
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
    fm_mla_context *context;
    fm_mla_options options = {.size = sizeof options};
    assert_fails(fm_mla_context_open(&options, NULL), FM_ERR_ARG, "out_context");
    options.size = 3;
    assert_fails(fm_mla_context_open(&options, &context), FM_ERR_ARG, "size is 3");
    options = (fm_mla_options){.size = sizeof options, .threads = -1};
    assert_fails(fm_mla_context_open(&options, &context), FM_ERR_ARG, "threads is -1");
    options.threads = FM_MLA_THREADS_MAX + 1;
    assert_fails(fm_mla_context_open(&options, &context), FM_ERR_ARG, "threads is 1025");
    options = (fm_mla_options){.size = sizeof options, .device = (fm_mla_device)5};
    assert_fails(fm_mla_context_open(&options, &context), FM_ERR_ARG, "device is 5");
    options = (fm_mla_options){.size = sizeof options, .capped = 1, .isa_max = (fm_isa)9};
    assert_fails(fm_mla_context_open(&options, &context), FM_ERR_ARG, "isa_max is 9");
    fm_mla_context_close(NULL);
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
    return fm_test_run("mla_context", tests);
}
