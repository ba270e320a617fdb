#include "fm_test.h"

#include "fathom/tensor.h"

static void types_have_names_and_sizes(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        fm_dtype dtype;
        int bits;
    } rows[] = {{"F64", FM_DTYPE_F64, 64},        {"BF16", FM_DTYPE_BF16, 16},
                {"F8_E4M3", FM_DTYPE_F8_E4M3, 8}, {"F8_E8M0", FM_DTYPE_F8_UE8M0, 8},
                {"F4", FM_DTYPE_F4_E2M1, 4},      {"BOOL", FM_DTYPE_BOOL, 8}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_string_equal(fm_base_dtype_name(rows[i].dtype), rows[i].name);
        assert_int_equal(fm_base_dtype_bits(rows[i].dtype), rows[i].bits);
    }
    for (int i = FM_DTYPE_NONE + 1; i < FM_DTYPE_COUNT; i++) {
        fm_dtype dtype = FM_DTYPE_NONE;
        assert_ok(fm_base_dtype_from_name(fm_base_dtype_name((fm_dtype)i), &dtype));
        assert_int_equal(dtype, i);
    }
    assert_string_equal(fm_base_dtype_name(FM_DTYPE_NONE), "?");
    assert_string_equal(fm_base_dtype_name(FM_DTYPE_COUNT), "?");
    assert_int_equal(fm_base_dtype_bits(FM_DTYPE_NONE), 0);
    fm_dtype dtype = FM_DTYPE_NONE;
    assert_fails(fm_base_dtype_from_name("C64", &dtype), FM_ERR_UNSUPPORTED,
                 "dtype \"C64\" is not supported; expected one of BOOL F4 U8");
    assert_fails(fm_base_dtype_from_name("?", &dtype), FM_ERR_UNSUPPORTED, "U64");
    assert_int_equal(dtype, FM_DTYPE_NONE);
}

static void sizes_are_checked(void **state)
{
    (void)state;
    const int64_t big = INT64_C(1) << 40;
    size_t bytes = 7;
    assert_fails(fm_base_tensor_bytes(FM_DTYPE_NONE, 0, NULL, &bytes), FM_ERR_ARG, "dtype is 0");
    assert_fails(fm_base_tensor_bytes(FM_DTYPE_COUNT, 0, NULL, &bytes), FM_ERR_ARG, "dtype is 18");
    assert_fails(fm_base_tensor_bytes(FM_DTYPE_F32, -1, NULL, &bytes), FM_ERR_ARG, "-1 dimensions");
    assert_fails(fm_base_tensor_bytes(FM_DTYPE_F32, 9, NULL, &bytes), FM_ERR_ARG, "9 dimensions");
    assert_fails(fm_base_tensor_bytes(FM_DTYPE_F32, 2, (int64_t[]){3, -1}, &bytes), FM_ERR_ARG,
                 "dimension 1 is -1");
    assert_fails(fm_base_tensor_bytes(FM_DTYPE_F32, 2, (int64_t[]){big, big}, &bytes), FM_ERR_LIMIT,
                 "[1099511627776, 1099511627776] of F32 overflows");
    assert_fails(fm_base_tensor_bytes(FM_DTYPE_F32, 3, (int64_t[]){0, big, big}, &bytes), FM_ERR_LIMIT,
                 "overflows");
    assert_fails(fm_base_tensor_bytes(FM_DTYPE_F4_E2M1, 1, (int64_t[]){3}, &bytes), FM_ERR_ARG, "odd number");
    assert_int_equal(bytes, 7);
    assert_ok(fm_base_tensor_bytes(FM_DTYPE_F32, 0, NULL, &bytes));
    assert_int_equal(bytes, 4);
    assert_ok(fm_base_tensor_bytes(FM_DTYPE_F4_E2M1, 2, (int64_t[]){3, 2}, &bytes));
    assert_int_equal(bytes, 3);
    assert_ok(fm_base_tensor_bytes(FM_DTYPE_F4_E2M1, 2, (int64_t[]){3, 0}, &bytes));
    assert_int_equal(bytes, 0);
    assert_ok(fm_base_tensor_bytes(FM_DTYPE_U8, 1, (int64_t[]){INT64_MAX / 8}, &bytes));
    assert_true(bytes == INT64_MAX / 8);
}

static void contiguous_tensors(void **state)
{
    (void)state;
    fm_tensor tensor;
    float data[24];
    assert_ok(fm_base_tensor_init(&tensor, FM_DTYPE_F32, 3, (int64_t[]){2, 3, 4}, data));
    assert_int_equal(fm_base_tensor_count(&tensor), 24);
    assert_true(tensor.stride[0] == 12 && tensor.stride[1] == 4 && tensor.stride[2] == 1);
    assert_true(fm_base_tensor_is_contiguous(&tensor));
    tensor.stride[0] = 13;
    assert_false(fm_base_tensor_is_contiguous(&tensor));
    tensor.shape[0] = 1;
    assert_true(fm_base_tensor_is_contiguous(&tensor));
    tensor.ndim = 0;
    assert_int_equal(fm_base_tensor_count(&tensor), 1);
    assert_true(fm_base_tensor_is_contiguous(&tensor));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(types_have_names_and_sizes),
        cmocka_unit_test(sizes_are_checked),
        cmocka_unit_test(contiguous_tensors),
    };
    return fm_test_run("base.tensor", tests);
}
