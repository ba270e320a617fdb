#include "fm_gen.h"
#include "fm_test.h"

#include <locale.h>

#include "fathom/doc.h"

static fm_doc *parse(const char *text)
{
    fm_doc *root = NULL;
    assert_ok(fm_base_doc_parse_json(text, strlen(text), "a.json", &root));
    return root;
}

static void refuse(const char *text, size_t length, fm_status code, const char *message)
{
    fm_doc *root = NULL;
    // An exact block: a sanitizer then sees a byte read past the end.
    char *copy = malloc(length ? length : 1);
    assert_non_null(copy);
    memcpy(copy, text, length);
    assert_fails(fm_base_doc_parse_json(copy, length, "a.json", &root), code, message);
    assert_null(root);
    free(copy);
}

static void refuse_text(const char *text, const char *message)
{
    refuse(text, strlen(text), FM_ERR_FORMAT, message);
}

static void values_and_lines(void **state)
{
    (void)state;
    fm_doc *root = parse("{\n"
                         "  \"name\": \"a\\n\\\"\\u00e9\\ud83d\\ude00]\",\n"
                         "  \"list\": [1, -2.5e1,\n"
                         "           true, false, null, [ ], {}],\n"
                         "  \"deep\":\n"
                         "    {\"x\"\n:\n7}\n"
                         "}\n");
    assert_int_equal(fm_base_doc_type(root), FM_DOC_OBJECT);
    assert_int_equal(fm_base_doc_count(root), 3);
    assert_string_equal(fm_base_doc_key(root, 1), "list");
    assert_null(fm_base_doc_key(root, 3));
    const char *text;
    assert_ok(fm_base_doc_string(fm_base_doc_get(root, "name"), "name", &text));
    assert_string_equal(text, "a\n\"\xC3\xA9\xF0\x9F\x98\x80]");
    const fm_doc *list = fm_base_doc_get(root, "list");
    assert_int_equal(fm_base_doc_line(list), 3);
    const fm_doc_type types[] = {FM_DOC_INT,  FM_DOC_REAL,  FM_DOC_BOOL,  FM_DOC_BOOL,
                                 FM_DOC_NULL, FM_DOC_ARRAY, FM_DOC_OBJECT};
    assert_int_equal(fm_base_doc_count(list), 7);
    for (size_t i = 0; i < 7; i++) {
        assert_int_equal(fm_base_doc_type(fm_base_doc_at(list, i)), types[i]);
        assert_int_equal(fm_base_doc_line(fm_base_doc_at(list, i)), i < 2 ? 3 : 4);
        assert_null(fm_base_doc_key(list, i));
    }
    assert_null(fm_base_doc_at(list, 7));
    const fm_doc *deep = fm_base_doc_get(root, "deep");
    assert_int_equal(fm_base_doc_line(deep), 6);
    assert_int_equal(fm_base_doc_line(fm_base_doc_get(deep, "x")), 8);
    fm_base_doc_free(root);
}

static void scalar_roots(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        fm_doc_type type;
    } cases[] = {
        {" 7 ", FM_DOC_INT}, {"-0.0", FM_DOC_REAL}, {"\"\"", FM_DOC_STRING}, {"\n null", FM_DOC_NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fm_doc *root = parse(cases[i].text);
        assert_int_equal(fm_base_doc_type(root), cases[i].type);
        fm_base_doc_free(root);
    }
}

static void numbers(void **state)
{
    (void)state;
    fm_doc *root =
        parse("[9223372036854775807, -9223372036854775808, -0, 9223372036854775808, -9223372036854775809,"
              " 1e2, 1.7976931348623157e308, 1e-400,"
              " 0.1000000000000000055511151231257827021181583404541015625000000000000000000000000000]");
    static const int64_t integers[] = {INT64_MAX, INT64_MIN, 0};
    static const double reals[] = {0x1p63, -0x1p63, 100, 1.7976931348623157e308, 0, 0.1};
    for (size_t i = 0; i < 3; i++) {
        int64_t value;
        assert_ok(fm_base_doc_int(fm_base_doc_at(root, i), "n", INT64_MIN, INT64_MAX, &value));
        assert_true(value == integers[i]);
    }
    for (size_t i = 0; i < 6; i++) {
        double value;
        assert_int_equal(fm_base_doc_type(fm_base_doc_at(root, 3 + i)), FM_DOC_REAL);
        assert_ok(fm_base_doc_real(fm_base_doc_at(root, 3 + i), "n", &value));
        assert_true(value == reals[i]);
    }
    fm_base_doc_free(root);
}

static void numbers_do_not_depend_on_the_locale(void **state)
{
    (void)state;
    if (!setlocale(LC_NUMERIC, "de_DE.UTF-8"))
        fm_test_skip("locale de_DE.UTF-8 is not installed");
    fm_doc *root = parse("[0.5]");
    double value = 0;
    fm_status status = fm_base_doc_real(fm_base_doc_at(root, 0), "n", &value);
    fm_json json = {0};
    fm_base_json_real(&json, NULL, value);
    int written = json.length == 3 && memcmp(json.text, "0.5", 3) == 0;
    setlocale(LC_NUMERIC, "C");
    assert_ok(fm_base_json_finish(&json, NULL));
    assert_ok(status);
    assert_true(value == 0.5);
    assert_true(written);
    fm_base_doc_free(root);
}

static void malformed_text_is_refused(void **state)
{
    (void)state;
    refuse("", 0, FM_ERR_FORMAT, "a.json:1");
    refuse_text("{\"a\": 1,\n \"b\" 2}", "a.json:2:");
    refuse_text("[1,\n2,\n]", "a.json:3:");
    refuse_text("[1,\n2", "a.json:2:");
    refuse_text("[1] [2]", "end of file expected");
    refuse_text("{\"a\":1,\n\"b\":2,\n\"a\":3}", "a.json:3:");
    refuse_text("{\"a\":1,\"a\":2}", "duplicate object key near '\"a\"'");
    refuse_text("// comment\n1", "a.json:1:");
    refuse_text("[NaN]", "a.json:1:");
    refuse_text("[Infinity]", "a.json:1:");
    refuse_text("[01]", "a.json:1:");
    refuse_text("[+1]", "a.json:1:");
    refuse_text("[.5]", "a.json:1:");
    refuse_text("[1.]", "a.json:1:");
    refuse_text("['a']", "a.json:1:");
    refuse_text("[\"\\x\"]", "invalid escape");
    refuse_text("[\"\\ud800\"]", "a.json:1:");
    refuse_text("[\"a\tb\"]", "control character");
    refuse_text("\n\n[\"\xC3(\"]", "a.json:");
    refuse_text("[\"\xED\xA0\x80\"]", "unable to decode byte 0xed");
    refuse_text("\xEF\xBB\xBF[]", "a.json:1:");
    refuse_text("[1e999]", "overflow");
    refuse_text("[\"a\\u0000b\"]", "U+0000");
    refuse_text("{\"a\\u0000b\": 1}", "U+0000");
    refuse("[1]\0", 4, FM_ERR_FORMAT, "a.json:1:");
    refuse("[\"a\0b\"]", 7, FM_ERR_FORMAT, "a.json:1:");
    refuse_text("[\x1B[2J]", "a.json:1:");
    assert_null(strchr(fm_error_message(), 0x1B));
    fm_doc *root = NULL;
    assert_fails(fm_base_doc_parse_json("1", (size_t)2 << 30, "big.json", &root), FM_ERR_LIMIT,
                 "big.json: 2147483648");
}

static void an_integer_beyond_a_double_is_refused(void **state)
{
    (void)state;
    char text[500];
    memset(text, '9', sizeof text);
    refuse(text, sizeof text, FM_ERR_FORMAT, "a.json:1:");
}

/** `depth` opening brackets and as many closing ones. */
static char *nested(size_t depth)
{
    char *text = malloc(2 * depth);
    assert_non_null(text);
    memset(text, '[', depth);
    memset(text + depth, ']', depth);
    return text;
}

static void depth_is_limited(void **state)
{
    (void)state;
    char *text = nested(256);
    fm_doc *root = NULL;
    assert_ok(fm_base_doc_parse_json(text, 512, "a.json", &root));
    fm_base_doc_free(root);
    free(text);
    static const size_t too_deep[] = {257, 3000, 1000000};
    for (size_t i = 0; i < 3; i++) {
        text = nested(too_deep[i]);
        refuse(text, 2 * too_deep[i], FM_ERR_LIMIT, "nested more than 256 deep");
        free(text);
    }
}

static fm_status parse_and_free(void *context)
{
    const char *text = context;
    fm_doc *root;
    FM_TRY(fm_base_doc_parse_json(text, strlen(text), "a.json", &root));
    fm_base_doc_free(root);
    return FM_OK;
}

static void refused_allocations_leave_nothing(void **state)
{
    (void)state;
    // A string long enough for an arena block of its own, an array long enough for the builder to grow, a
    // number longer than the buffer on the stack.
    enum { LONG = 10000, COUNT = 1000 };
    char text[LONG + 2 * COUNT + 200];
    int length = snprintf(text, sizeof text, "{\"a\": \"%0*d\", \"b\": [", LONG, 0);
    for (int i = 0; i < COUNT; i++)
        length += snprintf(text + length, sizeof text - (size_t)length, "1,");
    snprintf(text + length, sizeof text - (size_t)length, "0.%080d]}", 1);
    fm_test_each_alloc_fails(parse_and_free, text);
}

// jansson's, declared here because its header belongs to doc_json.c alone.
void json_set_alloc_funcs(void *(*allocate)(size_t), void (*release)(void *));

static size_t allocations_left;

static int refuse_when_none_left(void *context, size_t size)
{
    (void)context;
    (void)size;
    if (allocations_left == 0)
        return 1;
    allocations_left--;
    return 0;
}

/** When memory ends, jansson gives up cleanly wherever it is, though it may call that a syntax error. */
static void memory_may_end_inside_jansson(void **state)
{
    (void)state;
    char text[] = "{\"a\": [1, 2.5, \"text\", {}, [], true], \"b\": {\"c\": \"\\u00e9\"}}";
    const size_t live = fm_base_mem_live();
    json_set_alloc_funcs(fm_base_mem_alloc, fm_base_mem_free);
    fm_status status = FM_ERR_NOMEM;
    for (size_t allowed = 0; status < 0; allowed++) {
        allocations_left = allowed;
        fm_base_mem_set_gate(refuse_when_none_left, NULL);
        status = parse_and_free(text);
        fm_base_mem_set_gate(NULL, NULL);
        assert_int_equal(fm_base_mem_live(), live);
        assert_true(status == FM_OK || status == FM_ERR_NOMEM || status == FM_ERR_FORMAT);
    }
    json_set_alloc_funcs(malloc, free);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_and_lines),
        cmocka_unit_test(scalar_roots),
        cmocka_unit_test(numbers),
        cmocka_unit_test(numbers_do_not_depend_on_the_locale),
        cmocka_unit_test(malformed_text_is_refused),
        cmocka_unit_test(an_integer_beyond_a_double_is_refused),
        cmocka_unit_test(depth_is_limited),
        cmocka_unit_test(refused_allocations_leave_nothing),
        cmocka_unit_test(memory_may_end_inside_jansson),
    };
    return fm_test_run("base.doc_json", tests);
}
