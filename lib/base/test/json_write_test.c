#include "fm_gen.h"
#include "fm_test.h"

#include <float.h>
#include <math.h>

#include "doc_compare.h"
#include "fathom/doc.h"

static void assert_text(fm_json *json, const char *expected)
{
    if (json->length != strlen(expected) || memcmp(json->text, expected, json->length) != 0)
        fail_msg("written: %.*s\nexpected: %s", (int)json->length, json->text, expected);
    assert_ok(fm_base_json_finish(json, NULL));
}

static void every_kind_is_written(void **state)
{
    (void)state;
    for (int pretty = 0; pretty < 2; pretty++) {
        fm_json json = {.pretty = pretty};
        fm_base_json_begin(&json, NULL, '{');
        fm_base_json_int(&json, "n", INT64_MIN);
        fm_base_json_begin(&json, "list", '[');
        fm_base_json_real(&json, NULL, 1.5);
        fm_base_json_bool(&json, NULL, 7);
        fm_base_json_null(&json, NULL);
        fm_base_json_string(&json, NULL, NULL);
        fm_base_json_end(&json);
        fm_base_json_begin(&json, "none", '{');
        fm_base_json_end(&json);
        fm_base_json_string(&json, "a\"b", "x");
        fm_base_json_end(&json);
        assert_text(&json,
                    pretty
                        ? "{\n  \"n\": -9223372036854775808,\n  \"list\": [\n    1.5,\n    true,\n    null,\n"
                          "    null\n  ],\n  \"none\": {},\n  \"a\\\"b\": \"x\"\n}"
                        : "{\"n\":-9223372036854775808,\"list\":[1.5,true,null,null],\"none\":{},"
                          "\"a\\\"b\":\"x\"}");
    }
}

static void reals_are_short(void **state)
{
    (void)state;
    static const struct {
        double value;
        const char *text;
    } cases[] = {
        {0.1, "0.1"},
        {1, "1.0"},
        {-0.0, "-0.0"},
        {1e21, "1e+21"},
        {1.0 / 3, "0.3333333333333333"},
        {5e-324, "5e-324"},
        {DBL_MAX, "1.7976931348623157e+308"},
        {(double)NAN, "null"},
        {-(double)INFINITY, "null"},
        {123456789012, "123456789012.0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fm_json json = {0};
        fm_base_json_real(&json, NULL, cases[i].value);
        assert_text(&json, cases[i].text);
    }
}

static void strings_are_escaped(void **state)
{
    (void)state;
    static const struct {
        const char *value;
        const char *text;
    } cases[] = {
        {"", "\"\""},
        {"a\n\t\r\"\\/\x01\x7F", "\"a\\n\\t\\r\\\"\\\\/\\u0001\x7F\""},
        {"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80", "\"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\""},
        // A stray byte, an overlong form, a surrogate, beyond U+10FFFF, a cut character.
        {"a\xFF"
         "b",
         "\"a\xEF\xBF\xBD"
         "b\""},
        {"\xC0\x80", "\"\xEF\xBF\xBD\xEF\xBF\xBD\""},
        {"\xED\xA0\x80", "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\""},
        {"\xF4\x90\x80\x80", "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\""},
        {"\xE2\x82", "\"\xEF\xBF\xBD\xEF\xBF\xBD\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fm_json json = {0};
        fm_base_json_string(&json, NULL, cases[i].value);
        assert_text(&json, cases[i].text);
    }
}

static void misuse_is_an_error_at_the_end(void **state)
{
    (void)state;
    fm_json json = {0};
    assert_fails(fm_base_json_finish(&json, NULL), FM_ERR_STATE, "no value");
    fm_base_json_begin(&json, NULL, '[');
    assert_fails(fm_base_json_finish(&json, NULL), FM_ERR_STATE, "left open");
    fm_base_json_end(&json);
    assert_fails(fm_base_json_finish(&json, NULL), FM_ERR_STATE, "not opened");
    fm_base_json_int(&json, NULL, 1);
    fm_base_json_int(&json, NULL, 2);
    assert_fails(fm_base_json_finish(&json, NULL), FM_ERR_STATE, "second outermost");
    fm_base_json_int(&json, "key", 1);
    assert_fails(fm_base_json_finish(&json, NULL), FM_ERR_STATE, "outermost value has a key");
    fm_base_json_begin(&json, NULL, '[');
    fm_base_json_int(&json, "key", 1);
    fm_base_json_end(&json);
    assert_fails(fm_base_json_finish(&json, NULL), FM_ERR_STATE, "array has a key");
    fm_base_json_begin(&json, NULL, '{');
    fm_base_json_int(&json, NULL, 1);
    assert_fails(fm_base_json_finish(&json, NULL), FM_ERR_STATE, "object has no key");
    fm_base_json_begin(&json, NULL, '(');
    assert_fails(fm_base_json_finish(&json, NULL), FM_ERR_ARG, "neither");
    for (int i = 0; i < 65; i++)
        fm_base_json_begin(&json, NULL, '[');
    assert_fails(fm_base_json_finish(&json, NULL), FM_ERR_LIMIT, "64 deep");
    for (int i = 0; i < 64; i++)
        fm_base_json_begin(&json, NULL, '[');
    for (int i = 0; i < 64; i++)
        fm_base_json_end(&json);
    assert_ok(fm_base_json_finish(&json, NULL));
}

static void files_get_a_line_or_an_error(void **state)
{
    (void)state;
    char path[4200];
    snprintf(path, sizeof path, "%s", fm_test_file("out.json", "", 0));
    FILE *file = fopen(path, "w+");
    assert_non_null(file);
    fm_json json = {0};
    fm_base_json_int(&json, NULL, 12);
    assert_ok(fm_base_json_finish(&json, file));
    rewind(file);
    char line[16] = "";
    assert_non_null(fgets(line, sizeof line, file));
    assert_string_equal(line, "12\n");
    fclose(file);

    file = fopen("/dev/full", "w");
    if (!file)
        fm_test_skip("there is no /dev/full");
    fm_base_json_int(&json, NULL, 12);
    assert_fails(fm_base_json_finish(&json, file), FM_ERR_IO, "No space left on device");
    fclose(file);
}

static fm_status write_something(void *context)
{
    (void)context;
    fm_json json = {0};
    fm_base_json_begin(&json, NULL, '[');
    for (int i = 0; i < 1000; i++)
        fm_base_json_string(&json, NULL, "a string that fills the buffer");
    fm_base_json_end(&json);
    return fm_base_json_finish(&json, NULL);
}

static void refused_allocations_leave_nothing(void **state)
{
    (void)state;
    fm_test_each_alloc_fails(write_something, NULL);
}

/** A random value of at most this depth; counts on the writer for the brackets. */
static void write_random(fm_gen *gen, fm_json *json, const char *key, int depth)
{
    char text[8] = {0};
    double real;
    switch (fm_gen_int(gen, 0, depth > 0 ? 7 : 5)) {
    case 0:
        fm_base_json_null(json, key);
        break;
    case 1:
        fm_base_json_bool(json, key, fm_gen_chance(gen, 0.5));
        break;
    case 2:
        fm_base_json_int(json, key, (int64_t)fm_gen_u64(gen));
        break;
    case 3: {
        uint64_t bits = fm_gen_u64(gen);
        memcpy(&real, &bits, sizeof real);
        fm_base_json_real(json, key, real);
        break;
    }
    case 4:
        fm_base_json_real(json, key, (double)fm_gen_int(gen, -1000, 1000) / 8);
        break;
    case 5:
        fm_gen_fill(gen, text, sizeof text - 1);
        fm_base_json_string(json, key, text);
        break;
    default: {
        int object = fm_gen_chance(gen, 0.5);
        fm_base_json_begin(json, key, object ? '{' : '[');
        for (int64_t i = 0, count = fm_gen_size(gen, 0, 12); i < count; i++) {
            snprintf(text, sizeof text, "%lld", (long long)(i * 7 % 13));
            write_random(gen, json, object ? text : NULL, depth - 1);
        }
        fm_base_json_end(json);
    }
    }
}

/** Written, read by either reader and written again, a document is the same to the byte. */
static void documents_round_trip(fm_gen *gen)
{
    fm_json first = {.pretty = fm_gen_chance(gen, 0.5)};
    write_random(gen, &first, NULL, 4);
    assert_int_equal(first.status, FM_OK);
    for (int yaml = 0; yaml < 2; yaml++) {
        // YAML reads the escapes of JSON, but lets fewer characters stand unescaped.
        fm_doc *root = NULL;
        fm_status status = yaml ? fm_base_doc_parse_yaml(first.text, first.length, "round", &root)
                                : fm_base_doc_parse_json(first.text, first.length, "round", &root);
        if (yaml && status == FM_ERR_FORMAT && strstr(fm_error_message(), "control characters"))
            continue;
        assert_ok(status);
        fm_json second = {.pretty = first.pretty};
        doc_rewrite(&second, NULL, root);
        assert_int_equal(second.length, first.length);
        assert_memory_equal(second.text, first.text, first.length);
        assert_ok(fm_base_json_finish(&second, NULL));
        fm_base_doc_free(root);
    }
    assert_ok(fm_base_json_finish(&first, NULL));
}

static void round_trip_property(void **state)
{
    (void)state;
    fm_gen_property(500, documents_round_trip);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_is_written),        cmocka_unit_test(reals_are_short),
        cmocka_unit_test(strings_are_escaped),          cmocka_unit_test(misuse_is_an_error_at_the_end),
        cmocka_unit_test(files_get_a_line_or_an_error), cmocka_unit_test(refused_allocations_leave_nothing),
        cmocka_unit_test(round_trip_property),
    };
    return fm_test_run("base.json_write", tests);
}
