#include "fm_gen.h"
#include "fm_test.h"

#include <math.h>

#include "fathom/npy.h"

/** A version 1 file with this header and `size` bytes of data 0, 1, 2, ..., in an exact block. */
static char *build(const char *header, size_t size, size_t *out_length)
{
    size_t header_length = strlen(header);
    *out_length = 10 + header_length + size;
    char *bytes = malloc(*out_length);
    assert_non_null(bytes);
    static const char version_1[8] = "\x93NUMPY\1";
    memcpy(bytes, version_1, sizeof version_1);
    fm_put_le16(bytes + 8, (uint16_t)header_length);
    for (size_t i = 0; i < header_length; i++)
        bytes[10 + i] = header[i];
    for (size_t i = 0; i < size; i++)
        bytes[10 + header_length + i] = (char)i;
    return bytes;
}

static void refuse_bytes(const void *bytes, size_t length, fm_status code, const char *message)
{
    char *copy = malloc(length ? length : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, length);
    fm_tensor tensor = {.ndim = 77};
    assert_fails(fm_base_npy_parse(copy, length, "a.npy", &tensor), code, message);
    assert_non_null(strstr(fm_error_message(), "a.npy"));
    assert_int_equal(tensor.ndim, 77);
    free(copy);
}

static void refuse(const char *header, size_t size, fm_status code, const char *message)
{
    size_t length;
    char *bytes = build(header, size, &length);
    refuse_bytes(bytes, length, code, message);
    free(bytes);
}

static void accept(const char *header, size_t size, fm_dtype dtype, int ndim, int64_t first, int64_t second)
{
    size_t length;
    char *bytes = build(header, size, &length);
    fm_tensor tensor;
    assert_ok(fm_base_npy_parse(bytes, length, "a.npy", &tensor));
    assert_int_equal(tensor.dtype, dtype);
    assert_int_equal(tensor.ndim, ndim);
    assert_true((ndim < 1 || tensor.shape[0] == first) && (ndim < 2 || tensor.shape[1] == second));
    assert_ptr_equal(tensor.data, bytes + length - size);
    free(bytes);
}

static void spellings_of_python_are_read(void **state)
{
    (void)state;
    accept("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }   \n", 24, FM_DTYPE_F32, 2, 2, 3);
    accept("{\"shape\":(2,3,),\"descr\":\"|u1\",\"fortran_order\":False}", 6, FM_DTYPE_U8, 2, 2, 3);
    accept("{'descr': '<f8', 'fortran_order': False, 'shape': (), }\n", 8, FM_DTYPE_F64, 0, 0, 0);
    accept("{'descr': '<i8', 'fortran_order': False, 'shape': (3L,), }\n", 24, FM_DTYPE_I64, 1, 3, 0);
    accept("{'descr': '<u2', 'fortran_order': True, 'shape': (0, 5), }\n", 0, FM_DTYPE_U16, 2, 0, 5);
    accept("{'descr': '|b1', 'fortran_order': False, 'shape': (1,), }\n", 1, FM_DTYPE_BOOL, 1, 1, 0);
    accept("{'descr': '<i1', 'fortran_order': False, 'shape': (1,), }\n", 1, FM_DTYPE_I8, 1, 1, 0);
}

static void later_versions_have_a_longer_length(void **state)
{
    (void)state;
    static const char header[] = "{'descr': '<f2', 'fortran_order': False, 'shape': (2,), }\n";
    char bytes[200] = "\x93NUMPY\2\0";
    fm_put_le32(bytes + 8, sizeof header - 1);
    memcpy(bytes + 12, header, sizeof header);
    for (char version = 2; version <= 3; version++) {
        bytes[6] = version;
        fm_tensor tensor;
        assert_ok(fm_base_npy_parse(bytes, 12 + sizeof header - 1 + 4, "a.npy", &tensor));
        assert_int_equal(tensor.dtype, FM_DTYPE_F16);
        assert_ptr_equal(tensor.data, bytes + 12 + sizeof header - 1);
    }
    bytes[6] = 4;
    refuse_bytes(bytes, 80, FM_ERR_VERSION, "version 4.0; expected 1.0, 2.0 or 3.0");
    bytes[6] = 1;
    bytes[7] = 1;
    refuse_bytes(bytes, 80, FM_ERR_VERSION, "version 1.1");
}

static void lying_lengths_are_refused(void **state)
{
    (void)state;
    refuse_bytes("", 0, FM_ERR_FORMAT, "a.npy is not a .npy file");
    refuse_bytes("\x93NUMPZ\1\0\0\0", 10, FM_ERR_FORMAT, "it does not begin with \\x93NUMPY");
    refuse_bytes("\x93NUMPY\2\0\0\0", 10, FM_ERR_FORMAT, "ends within the length of its header");
    refuse_bytes("\x93NUMPY\1\0\xFF\xFF{}", 12, FM_ERR_FORMAT,
                 "a header of 65535 bytes goes beyond the file, which has 12");
    refuse_bytes("\x93NUMPY\2\0\xFF\xFF\xFF\xFF", 12, FM_ERR_FORMAT, "a header of 4294967295 bytes");
    static const char header[] = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n";
    size_t length;
    char *bytes = build(header, 8, &length);
    for (size_t cut = 0; cut < length; cut++)
        refuse_bytes(bytes, cut, FM_ERR_FORMAT, "");
    free(bytes);
    refuse(header, 9, FM_ERR_FORMAT, "dtype and shape take 8 bytes; the file holds 9");
    refuse("{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807,), }\n", 8, FM_ERR_LIMIT,
           "overflows");
    refuse("{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775808,), }\n", 8, FM_ERR_LIMIT,
           "a dimension overflows 64 bits");
    refuse("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296, 0), }\n", 8,
           FM_ERR_LIMIT, "overflows");
}

static void unsupported_arrays_are_refused(void **state)
{
    (void)state;
    refuse("{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }\n", 8, FM_ERR_UNSUPPORTED,
           "a.npy: the array is big-endian (>f4); save it with .astype('<f4')");
    refuse("{'descr': '<c8', 'fortran_order': False, 'shape': (2,), }\n", 16, FM_ERR_UNSUPPORTED,
           "dtype '<c8' is not supported; expected <f2");
    refuse("{'descr': '|O', 'fortran_order': False, 'shape': (2,), }\n", 16, FM_ERR_UNSUPPORTED,
           "dtype '|O'");
    refuse("{'descr': '|f4', 'fortran_order': False, 'shape': (2,), }\n", 8, FM_ERR_UNSUPPORTED,
           "dtype '|f4'");
    refuse("{'descr': '', 'fortran_order': False, 'shape': (2,), }\n", 8, FM_ERR_UNSUPPORTED, "dtype ''");
    refuse("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }\n", 8, FM_ERR_UNSUPPORTED,
           "structured arrays are not supported");
    refuse("{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1), }\n", 4,
           FM_ERR_UNSUPPORTED, "more than 8 dimensions");
}

static void malformed_headers_are_refused(void **state)
{
    (void)state;
    refuse("[]", 0, FM_ERR_FORMAT, "byte 0 of the header: expected {");
    refuse("{}", 0, FM_ERR_FORMAT, "the header lacks 'descr'");
    refuse("{'descr': '<f4', 'shape': (2,)}", 8, FM_ERR_FORMAT, "the header lacks 'fortran_order'");
    refuse("{'descr': '<f4', 'descr': '<f4'}", 8, FM_ERR_FORMAT,
           "key 'descr' in the header; expected descr, ");
    refuse("{'dtype': '<f4'}", 8, FM_ERR_FORMAT, "key 'dtype' in the header; expected descr, ");
    refuse("{'descr' '<f4'}", 8, FM_ERR_FORMAT, "byte 9 of the header: expected a colon");
    refuse("{'descr': <f4}", 8, FM_ERR_FORMAT, "expected a string in quotes");
    refuse("{'descr': '<f4}", 8, FM_ERR_FORMAT, "expected the end of the string");
    refuse("{'descr': '<\tf4'}", 8, FM_ERR_FORMAT, "expected a printable character");
    refuse("{'descr': '<f4' 'shape': (2,)}", 8, FM_ERR_FORMAT, "expected a comma or }");
    refuse("{'fortran_order': 0}", 8, FM_ERR_FORMAT, "expected True or False");
    refuse("{'shape': 2}", 8, FM_ERR_FORMAT, "expected a tuple such as (24, 256)");
    refuse("{'shape': (2)}", 8, FM_ERR_FORMAT, "expected a comma");
    refuse("{'shape': (2 3)}", 8, FM_ERR_FORMAT, "expected a comma");
    refuse("{'shape': (2,,)}", 8, FM_ERR_FORMAT, "expected a dimension: an integer of at least 0");
    refuse("{'shape': (-2,)}", 8, FM_ERR_FORMAT, "expected a dimension: an integer of at least 0");
    refuse("{'shape': (nan,)}", 8, FM_ERR_FORMAT, "expected a dimension: an integer of at least 0");
    refuse("{'shape': (2.0,)}", 8, FM_ERR_FORMAT, "expected a comma");
    refuse("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} x", 8, FM_ERR_FORMAT,
           "expected spaces and a newline at the end");
    refuse("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)", 8, FM_ERR_FORMAT,
           "expected a comma or }");
}

static void load(const char *header, const void *data, size_t size, const float *expected, size_t count)
{
    size_t length;
    char *bytes = build(header, size, &length);
    memcpy(bytes + length - size, data, size);
    fm_tensor tensor;
    assert_ok(fm_base_npy_load_f32(fm_test_file("load.npy", bytes, length), &tensor));
    assert_int_equal(tensor.dtype, FM_DTYPE_F32);
    assert_true(fm_base_tensor_is_contiguous(&tensor));
    assert_int_equal(fm_base_tensor_count(&tensor), count);
    assert_memory_equal(tensor.data, expected, count * sizeof *expected);
    fm_base_mem_free(tensor.data);
    free(bytes);
}

#define LOAD(code, type, ...)                                                                           \
    do {                                                                                                \
        const type values[] = {__VA_ARGS__};                                                            \
        const float expected[] = {(float)values[0], (float)values[1], (float)values[2]};                \
        load("{'descr': '" code "', 'fortran_order': False, 'shape': (3,), }\n", values, sizeof values, \
             expected, 3);                                                                              \
    } while (0)

static void every_dtype_is_converted(void **state)
{
    (void)state;
    LOAD("<f8", double, 0.1, -1e300, 3);
    LOAD("<f4", float, 0.1f, -INFINITY, 3);
    LOAD("|i1", int8_t, -128, 127, 0);
    LOAD("<i2", int16_t, -32768, 32767, 0);
    LOAD("<i4", int32_t, INT32_MIN, INT32_MAX, 16777217);
    LOAD("<i8", int64_t, INT64_MIN, INT64_MAX, -1);
    LOAD("|u1", uint8_t, 0, 255, 1);
    LOAD("<u2", uint16_t, 0, 65535, 1);
    LOAD("<u4", uint32_t, 0, UINT32_MAX, 1);
    LOAD("<u8", uint64_t, 0, UINT64_MAX, 1);
    load("{'descr': '|b1', 'fortran_order': False, 'shape': (3,), }\n", "\0\1\2", 3, (float[]){0, 1, 1}, 3);
    load("{'descr': '<f2', 'fortran_order': False, 'shape': (3,), }\n", "\0\x3C\0\xC0\1\0", 6,
         (float[]){1, -2, 0x1p-24f}, 3);
    load("{'descr': '<f4', 'fortran_order': False, 'shape': (), }\n", (float[]){7}, 4, (float[]){7}, 1);
    load("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 0, 3), }\n", "", 0, (float[]){0}, 0);
}

static void fortran_order_is_turned(void **state)
{
    (void)state;
    // Element (i, j, k) is 100 i + 10 j + k; the file holds i fastest.
    float stored[24];
    float expected[24];
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 3; j++)
            for (int k = 0; k < 4; k++)
                stored[i + 2 * j + 6 * k] = expected[12 * i + 4 * j + k] = (float)(100 * i + 10 * j + k);
    load("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3, 4), }\n", stored, sizeof stored, expected,
         24);
}

static void nan_stays_nan(void **state)
{
    (void)state;
    size_t length;
    char *bytes = build("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }\n", 8, &length);
    memcpy(bytes + length - 8, &(double){(double)NAN}, 8);
    fm_tensor tensor;
    assert_ok(fm_base_npy_load_f32(fm_test_file("nan.npy", bytes, length), &tensor));
    assert_true(isnan(*(float *)tensor.data));
    fm_base_mem_free(tensor.data);
    free(bytes);
}

static void files_are_opened(void **state)
{
    (void)state;
    fm_npy *file = NULL;
    fm_tensor tensor;
    assert_fails(fm_base_npy_open("/no/such/file", &file), FM_ERR_NOT_FOUND, "cannot open /no/such/file");
    assert_fails(fm_base_npy_load_f32("/no/such/file", &tensor), FM_ERR_NOT_FOUND,
                 "cannot open /no/such/file");
    assert_fails(fm_base_npy_open(fm_test_file("empty.npy", "", 0), &file), FM_ERR_FORMAT,
                 "is not a .npy file");
    assert_null(file);
    fm_base_npy_close(NULL);
}

static void what_numpy_lacks_is_not_written(void **state)
{
    (void)state;
    char data[4] = {0};
    fm_tensor tensor;
    assert_ok(fm_base_tensor_init(&tensor, FM_DTYPE_BF16, 1, (int64_t[]){2}, data));
    assert_fails(fm_base_npy_write("x.npy", &tensor), FM_ERR_UNSUPPORTED, "x.npy: NumPy has no dtype BF16");
    assert_ok(fm_base_tensor_init(&tensor, FM_DTYPE_U8, 2, (int64_t[]){2, 2}, data));
    tensor.stride[0] = 1;
    assert_fails(fm_base_npy_write("x.npy", &tensor), FM_ERR_ARG, "x.npy: the tensor is not contiguous");
    tensor.shape[0] = -1;
    assert_fails(fm_base_npy_write("x.npy", &tensor), FM_ERR_ARG, "x.npy: dimension 0 is -1");
    assert_ok(fm_base_tensor_init(&tensor, FM_DTYPE_U8, 0, NULL, data));
    assert_fails(fm_base_npy_write("/no/such/folder/x.npy", &tensor), FM_ERR_NOT_FOUND,
                 "cannot create /no/such");
}

static const char *target(const char *name)
{
    static char path[4200];
    snprintf(path, sizeof path, "%s/%s", fm_test_tmpdir(), name);
    return path;
}

static void arrays_round_trip(fm_gen *gen)
{
    static char data[3 * 3 * 3 * 3 * 8];
    fm_tensor tensor;
    int ndim = (int)fm_gen_int(gen, 0, 4);
    int64_t shape[4];
    for (int d = 0; d < ndim; d++)
        shape[d] = fm_gen_int(gen, 0, 3);
    static const fm_dtype dtypes[] = {FM_DTYPE_BOOL, FM_DTYPE_U8,  FM_DTYPE_I8,  FM_DTYPE_I16,
                                      FM_DTYPE_U16,  FM_DTYPE_F16, FM_DTYPE_I32, FM_DTYPE_U32,
                                      FM_DTYPE_F32,  FM_DTYPE_F64, FM_DTYPE_I64, FM_DTYPE_U64};
    fm_gen_fill(gen, data, sizeof data);
    assert_ok(fm_base_tensor_init(&tensor, dtypes[fm_gen_int(gen, 0, 11)], ndim, shape, data));
    size_t bytes;
    assert_ok(fm_base_tensor_bytes(tensor.dtype, ndim, shape, &bytes));
    assert_ok(fm_base_npy_write(target("random.npy"), &tensor));
    fm_npy *file;
    assert_ok(fm_base_npy_open(target("random.npy"), &file));
    const fm_tensor *read = fm_base_npy_tensor(file);
    assert_int_equal(read->dtype, tensor.dtype);
    assert_int_equal(read->ndim, ndim);
    assert_memory_equal(read->shape, tensor.shape, sizeof read->shape);
    assert_memory_equal(read->stride, tensor.stride, sizeof read->stride);
    assert_memory_equal(read->data, data, bytes);
    assert_int_equal((uintptr_t)read->data % 64, 0);
    fm_base_npy_close(file);
}

static void round_trip_property(void **state)
{
    (void)state;
    fm_gen_property(50, arrays_round_trip);
}

static fm_status write_and_load(void *path)
{
    float data[4] = {1, 2, 3, 4};
    fm_tensor tensor;
    FM_TRY(fm_base_tensor_init(&tensor, FM_DTYPE_F32, 1, (int64_t[]){4}, data));
    FM_TRY(fm_base_npy_write(path, &tensor));
    FM_TRY(fm_base_npy_load_f32(path, &tensor));
    fm_base_mem_free(tensor.data);
    return FM_OK;
}

static void refused_allocations_leave_nothing(void **state)
{
    (void)state;
    char path[4200];
    snprintf(path, sizeof path, "%s", target("alloc.npy"));
    fm_test_each_alloc_fails(write_and_load, path);
}

/** NumPy wrote the logits; read and written again, they are the same file. */
static void numpys_own_file_is_written_again(void **state)
{
    (void)state;
    enum { ROOM = 100000 };
    char original[4200];
    snprintf(original, sizeof original, "%s", fm_test_shared("golden/model/v3/logits.npy"));
    fm_npy *file;
    assert_ok(fm_base_npy_open(original, &file));
    const fm_tensor *logits = fm_base_npy_tensor(file);
    assert_true(logits->dtype == FM_DTYPE_F32 && logits->ndim == 2 && logits->shape[0] == 24 &&
                logits->shape[1] == 256);
    assert_ok(fm_base_npy_write(target("logits.npy"), logits));
    fm_base_npy_close(file);
    const char *paths[] = {original, target("logits.npy")};
    char *bytes[2];
    size_t length[2];
    for (int i = 0; i < 2; i++) {
        bytes[i] = malloc(ROOM);
        FILE *stream = fopen(paths[i], "rb");
        assert_non_null(stream);
        length[i] = fread(bytes[i], 1, ROOM, stream);
        fclose(stream);
    }
    assert_int_equal(length[0], length[1]);
    assert_memory_equal(bytes[0], bytes[1], length[0]);
    free(bytes[0]);
    free(bytes[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spellings_of_python_are_read),
        cmocka_unit_test(later_versions_have_a_longer_length),
        cmocka_unit_test(lying_lengths_are_refused),
        cmocka_unit_test(unsupported_arrays_are_refused),
        cmocka_unit_test(malformed_headers_are_refused),
        cmocka_unit_test(every_dtype_is_converted),
        cmocka_unit_test(fortran_order_is_turned),
        cmocka_unit_test(nan_stays_nan),
        cmocka_unit_test(files_are_opened),
        cmocka_unit_test(what_numpy_lacks_is_not_written),
        cmocka_unit_test(round_trip_property),
        cmocka_unit_test(refused_allocations_leave_nothing),
        cmocka_unit_test(numpys_own_file_is_written_again),
    };
    return fm_test_run("base.npy", tests);
}
