#include "fm_test.h"

#include "fathom/safetensors.h"

static const char *const tidy = "{\"__metadata__\":{\"format\":\"pt\",\"by\":\"hand\"},"
                                "\"b\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[4,12]},"
                                "\"a\":{\"dtype\":\"I16\",\"shape\":[2],\"data_offsets\":[0,4]},"
                                "\"none\":{\"dtype\":\"BF16\",\"shape\":[3,0],\"data_offsets\":[12,12]},"
                                "\"one\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[12,13]}}   ";

/** A file in an exact block, so that a sanitizer sees the first byte read past it: a length, the header, data 0, 1, 2... */
static char *build(const char *header, uint64_t header_length, size_t data_length, size_t *out_length)
{
    size_t header_bytes = strlen(header);
    char *bytes = malloc(8 + header_bytes + data_length);
    assert_non_null(bytes);
    fm_put_le64(bytes, header_length);
    for (size_t i = 0; i < header_bytes; i++)
        bytes[8 + i] = header[i];
    for (size_t i = 0; i < data_length; i++)
        bytes[8 + header_bytes + i] = (char)i;
    *out_length = 8 + header_bytes + data_length;
    return bytes;
}

static void refuse_bytes(const void *bytes, size_t length, fm_status code, const char *message)
{
    char *copy = malloc(length ? length : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, length);
    fm_safetensors *file = NULL;
    assert_fails(fm_base_safetensors_open_memory(copy, length, "m.safetensors", &file), code, message);
    assert_non_null(strstr(fm_error_message(), "m.safetensors"));
    assert_null(file);
    free(copy);
}

static void refuse(const char *header, size_t data_length, fm_status code, const char *message)
{
    size_t length;
    char *bytes = build(header, strlen(header), data_length, &length);
    refuse_bytes(bytes, length, code, message);
    free(bytes);
}

static void tensors_are_found_where_they_lie(void **state)
{
    (void)state;
    size_t length;
    char *bytes = build(tidy, strlen(tidy), 13, &length);
    const char *data = bytes + 8 + strlen(tidy);
    fm_safetensors *file;
    assert_ok(fm_base_safetensors_open_memory(bytes, length, "m", &file));
    assert_int_equal(fm_base_safetensors_count(file), 4);
    // In the order of the data, not of the header.
    static const char *const names[] = {"a", "b", "none", "one"};
    static const size_t offsets[] = {0, 4, 12, 12};
    static const fm_dtype dtypes[] = {FM_DTYPE_I16, FM_DTYPE_F32, FM_DTYPE_BF16, FM_DTYPE_U8};
    for (size_t i = 0; i < 4; i++) {
        const fm_tensor *tensor = fm_base_safetensors_at(file, i);
        assert_string_equal(fm_base_safetensors_name(file, i), names[i]);
        assert_ptr_equal(fm_base_safetensors_get(file, names[i]), tensor);
        assert_ptr_equal(tensor->data, data + offsets[i]);
        assert_int_equal(tensor->dtype, dtypes[i]);
    }
    const fm_tensor *b = fm_base_safetensors_at(file, 1);
    assert_true(b->ndim == 2 && b->shape[0] == 2 && b->shape[1] == 1 && b->stride[0] == 1);
    assert_null(fm_base_safetensors_at(file, 4));
    assert_null(fm_base_safetensors_name(file, 4));
    assert_null(fm_base_safetensors_get(file, "c"));
    assert_null(fm_base_safetensors_get(file, "__metadata__"));
    const char *format;
    const fm_doc *metadata = fm_base_safetensors_metadata(file);
    assert_ok(fm_base_doc_string(fm_base_doc_get(metadata, "format"), "format", &format));
    assert_string_equal(format, "pt");
    fm_base_safetensors_close(file);
    free(bytes);
}

static void an_empty_object_is_a_file(void **state)
{
    (void)state;
    fm_safetensors *file;
    assert_ok(fm_base_safetensors_open(fm_test_file("empty.safetensors", "\2\0\0\0\0\0\0\0{}", 10), &file));
    assert_int_equal(fm_base_safetensors_count(file), 0);
    assert_null(fm_base_safetensors_metadata(file));
    fm_base_safetensors_close(file);
    fm_base_safetensors_close(NULL);
}

static void lying_lengths_are_refused(void **state)
{
    (void)state;
    refuse_bytes("", 0, FM_ERR_FORMAT, "m.safetensors: 0 bytes; a safetensors file begins with");
    refuse_bytes("\2\0\0\0\0\0\0", 7, FM_ERR_FORMAT, "7 bytes");
    refuse_bytes("\0\0\0\0\0\0\0\0", 8, FM_ERR_FORMAT, "not a JSON object");
    refuse_bytes("\3\0\0\0\0\0\0\0{}", 10, FM_ERR_FORMAT,
                 "a header of 3 bytes goes beyond the file, which has 10");
    refuse_bytes("\1\xE1\xF5\5\0\0\0\0{}", 10, FM_ERR_FORMAT,
                 "a header of 100000001 bytes; the format allows 100000000");
    refuse_bytes("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF{}", 10, FM_ERR_FORMAT,
                 "a header of 18446744073709551615 bytes");
    size_t length;
    char *bytes = build(tidy, strlen(tidy), 13, &length);
    for (size_t cut = 0; cut < length; cut++) // every truncation of a good file
        refuse_bytes(bytes, cut, FM_ERR_FORMAT, "");
    free(bytes);
}

static void malformed_headers_are_refused(void **state)
{
    (void)state;
    refuse("[]", 0, FM_ERR_FORMAT, "expected it to begin with '{'");
    refuse(" {}", 0, FM_ERR_FORMAT, "expected it to begin with '{'");
    refuse("{", 0, FM_ERR_FORMAT, "m.safetensors (header):1:");
    refuse("{}{}", 0, FM_ERR_FORMAT, "end of file expected");
    refuse("{\"a\xFF\":1}", 0, FM_ERR_FORMAT, "unable to decode byte 0xff");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]},"
           "\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[1,2]}}",
           2, FM_ERR_FORMAT, "duplicate object key near '\"a\"'");
    refuse("{\"a\":1}", 0, FM_ERR_FORMAT, "tensor \"a\" is 1; expected an object");
    refuse("{\"a\":{}}", 0, FM_ERR_FORMAT, "tensor \"a\" has no dtype");
    refuse("{\"a\":{\"dtype\":\"U8\"}}", 0, FM_ERR_FORMAT, "tensor \"a\" has no shape");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[]}}", 0, FM_ERR_FORMAT, "tensor \"a\" has no data_offsets");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shapes\":[]}}", 0, FM_ERR_FORMAT,
           "unknown key \"shapes\" in tensor \"a\"; did you mean \"shape\"?");
    refuse("{\"__metadata__\":[]}", 0, FM_ERR_FORMAT, "__metadata__ is an array; expected an object");
    refuse("{\"__metadata__\":{\"n\":1}}", 0, FM_ERR_FORMAT, "__metadata__: \"n\" is 1; expected a string");
    char deep[700] = "{\"a\":";
    memset(deep + 5, '[', 300);
    memset(deep + 305, ']', 300);
    deep[605] = '}';
    refuse(deep, 0, FM_ERR_LIMIT, "nested more than 256 deep");
}

/** A header of one tensor, "t". */
static const char *one(const char *dtype, const char *shape, const char *offsets)
{
    static char header[512];
    snprintf(header, sizeof header, "{\"t\":{\"dtype\":%s,\"shape\":%s,\"data_offsets\":%s}}", dtype, shape,
             offsets);
    return header;
}

static void lying_tensors_are_refused(void **state)
{
    (void)state;
    refuse(one("\"F99\"", "[1]", "[0,4]"), 4, FM_ERR_UNSUPPORTED,
           "tensor \"t\": dtype \"F99\" is not supported; expected one of BOOL");
    refuse(one("7", "[1]", "[0,4]"), 4, FM_ERR_FORMAT, "tensor \"t\": dtype is 7; expected a string");
    refuse(one("\"F32\"", "4", "[0,4]"), 4, FM_ERR_FORMAT, "tensor \"t\": shape is 4; expected an array");
    refuse(one("\"F32\"", "[-1]", "[0,4]"), 4, FM_ERR_FORMAT,
           "tensor \"t\": shape[0] is -1; expected an integer of at least 0");
    refuse(one("\"F32\"", "[1.0]", "[0,4]"), 4, FM_ERR_FORMAT, "shape[0] is 1; expected an integer");
    refuse(one("\"F32\"", "[1,\"1\"]", "[0,4]"), 4, FM_ERR_FORMAT, "shape[1] is \"1\"");
    refuse(one("\"F32\"", "[NaN]", "[0,4]"), 4, FM_ERR_FORMAT, "invalid token near 'NaN'");
    refuse(one("\"F32\"", "[null]", "[0,4]"), 4, FM_ERR_FORMAT, "shape[0] is null");
    refuse(one("\"F32\"", "[99999999999999999999]", "[0,4]"), 4, FM_ERR_FORMAT, "shape[0] is 1e+20");
    refuse(one("\"F32\"", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, FM_ERR_UNSUPPORTED,
           "tensor \"t\" has 9 dimensions; at most 8");
    refuse(one("\"F32\"", "[4294967296,4294967296]", "[0,0]"), 0, FM_ERR_LIMIT,
           "[4294967296, 4294967296] of F32 overflows");
    refuse(one("\"F32\"", "[1]", "[0]"), 4, FM_ERR_FORMAT,
           "data_offsets has 1 elements; expected [begin, end]");
    refuse(one("\"F32\"", "[1]", "{}"), 4, FM_ERR_FORMAT, "data_offsets is an object; expected an array");
    refuse(one("\"F32\"", "[1]", "[-4,0]"), 4, FM_ERR_FORMAT,
           "data_offsets is -4; expected an integer of at least 0");
    refuse(one("\"F32\"", "[1]", "[4,0]"), 4, FM_ERR_FORMAT, "data_offsets [4, 0] end before they begin");
    refuse(one("\"F32\"", "[1]", "[4,8]"), 4, FM_ERR_FORMAT,
           "data_offsets [4, 8] go beyond the file, which holds 4 bytes of data");
    refuse(one("\"F32\"", "[1]", "[0,9223372036854775807]"), 4, FM_ERR_FORMAT, "go beyond the file");
    refuse(one("\"F32\"", "[2]", "[0,4]"), 4, FM_ERR_FORMAT,
           "tensor \"t\": its dtype and shape take 8 bytes, its data_offsets [0, 4] 4");
    refuse(one("\"F4\"", "[3]", "[0,1]"), 1, FM_ERR_FORMAT, "odd number of 4-bit elements");
    refuse(one("\"F32\"", "[1]", "[0,4]"), 5, FM_ERR_FORMAT, "bytes 4 to 5 of the data belong to no tensor");
    refuse(one("\"F32\"", "[1]", "[1,5]"), 5, FM_ERR_FORMAT, "bytes 0 to 1 of the data belong to no tensor");
    refuse("{}", 3, FM_ERR_FORMAT, "bytes 0 to 3 of the data belong to no tensor");
}

static void overlaps_and_holes_are_refused(void **state)
{
    (void)state;
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
           "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[3,7]}}",
           7, FM_ERR_FORMAT, "tensors \"a\" and \"b\" overlap at byte 3");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
           "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
           4, FM_ERR_FORMAT, "overlap at byte 0");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
           "\"b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[2,2]}}",
           4, FM_ERR_FORMAT, "overlap at byte 2");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
           "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[5,9]}}",
           9, FM_ERR_FORMAT, "bytes 4 to 5 of the data belong to no tensor");
}

static void files_are_mapped(void **state)
{
    (void)state;
    fm_safetensors *file = NULL;
    assert_fails(fm_base_safetensors_open("/no/such/file", &file), FM_ERR_NOT_FOUND,
                 "cannot open /no/such/file");
    assert_fails(fm_base_safetensors_open(fm_test_tmpdir(), &file), FM_ERR_IO, "is not a regular file");
    assert_fails(fm_base_safetensors_open(fm_test_file("none.safetensors", "", 0), &file), FM_ERR_FORMAT,
                 "0 bytes");
    assert_null(file);
    size_t length;
    char *bytes = build(tidy, strlen(tidy), 13, &length);
    assert_ok(fm_base_safetensors_open(fm_test_file("tidy.safetensors", bytes, length), &file));
    assert_memory_equal(fm_base_safetensors_get(file, "b")->data, bytes + length - 9, 8);
    fm_base_safetensors_close(file);
    free(bytes);
}

static fm_status open_and_close(void *context)
{
    size_t length;
    char *bytes = build(context, strlen(context), 13, &length);
    fm_safetensors *file;
    fm_status status = fm_base_safetensors_open_memory(bytes, length, "m", &file);
    if (status == FM_OK)
        fm_base_safetensors_close(file);
    free(bytes);
    return status;
}

static void refused_allocations_leave_nothing(void **state)
{
    (void)state;
    char header[600];
    snprintf(header, sizeof header, "%s", tidy);
    fm_test_each_alloc_fails(open_and_close, header);
}

/** The checkpoints that the original programs wrote are read, and their values are those of a trained net's scale. */
static void published_checkpoints_are_read(void **state)
{
    (void)state;
    static const char *const models[] = {"v2", "v3", "v3-yarn"};
    for (size_t m = 0; m < 3; m++) {
        char relative[64];
        snprintf(relative, sizeof relative, "golden/model/%s/model.safetensors", models[m]);
        fm_safetensors *file;
        assert_ok(fm_base_safetensors_open(fm_test_shared(relative), &file));
        const fm_tensor *embed = fm_base_safetensors_get(file, "model.embed_tokens.weight");
        assert_non_null(embed);
        assert_int_equal(embed->dtype, FM_DTYPE_BF16);
        assert_true(embed->ndim == 2 && embed->shape[0] == 256 && embed->shape[1] == 128);
        for (int64_t i = 0; i < fm_base_tensor_count(embed); i++) {
            uint32_t bits = (uint32_t)fm_get_le16((const char *)embed->data + 2 * i) << 16;
            float value;
            memcpy(&value, &bits, sizeof value);
            assert_true(value > -100 && value < 100); // NaN fails too
        }
        fm_base_safetensors_close(file);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_are_found_where_they_lie),
        cmocka_unit_test(an_empty_object_is_a_file),
        cmocka_unit_test(lying_lengths_are_refused),
        cmocka_unit_test(malformed_headers_are_refused),
        cmocka_unit_test(lying_tensors_are_refused),
        cmocka_unit_test(overlaps_and_holes_are_refused),
        cmocka_unit_test(files_are_mapped),
        cmocka_unit_test(refused_allocations_leave_nothing),
        cmocka_unit_test(published_checkpoints_are_read),
    };
    return fm_test_run("base.safetensors", tests);
}
