#include "fm_test.h"

#include "fathom/doc.h"

static fm_doc *parse(const char *text)
{
    fm_doc *root = NULL;
    assert_ok(fm_base_doc_parse_yaml(text, strlen(text), "a.yaml", &root));
    return root;
}

static void refuse(const char *text, size_t length, fm_status code, const char *message)
{
    fm_doc *root = NULL;
    char *copy = malloc(length ? length : 1);
    assert_non_null(copy);
    memcpy(copy, text, length);
    assert_fails(fm_base_doc_parse_yaml(copy, length, "a.yaml", &root), code, message);
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
    fm_doc *root = parse("# a recipe\n"
                         "name: quick start\n"
                         "train:\n"
                         "  ranks: 4\n"
                         "  rate: 1e-3\n"
                         "  stages: [a, 'b', \"c\\n\"]\n"
                         "  more:\n"
                         "    - 1\n"
                         "    - {x: true}\n"
                         "empty:\n"
                         "text: |\n"
                         "  one\n"
                         "  two\n");
    assert_int_equal(fm_base_doc_count(root), 4);
    const fm_doc *train = fm_base_doc_get(root, "train");
    assert_int_equal(fm_base_doc_line(train), 4);
    int64_t ranks;
    assert_ok(fm_base_doc_int(fm_base_doc_get(train, "ranks"), "ranks", 1, 8, &ranks));
    assert_int_equal(ranks, 4);
    double rate;
    assert_ok(fm_base_doc_real(fm_base_doc_get(train, "rate"), "rate", &rate));
    assert_true(rate == 1e-3);
    const fm_doc *stages = fm_base_doc_get(train, "stages");
    assert_int_equal(fm_base_doc_count(stages), 3);
    const char *text;
    assert_ok(fm_base_doc_string(fm_base_doc_at(stages, 2), "stage", &text));
    assert_string_equal(text, "c\n");
    const fm_doc *more = fm_base_doc_get(train, "more");
    assert_int_equal(fm_base_doc_line(fm_base_doc_at(more, 1)), 9);
    int x;
    assert_ok(fm_base_doc_bool(fm_base_doc_get(fm_base_doc_at(more, 1), "x"), "x", &x));
    assert_int_equal(x, 1);
    assert_int_equal(fm_base_doc_type(fm_base_doc_get(root, "empty")), FM_DOC_NULL);
    assert_non_null(fm_base_doc_get(root, "empty"));
    assert_ok(fm_base_doc_string(fm_base_doc_get(root, "text"), "text", &text));
    assert_string_equal(text, "one\ntwo\n");
    fm_base_doc_free(root);
}

static void plain_scalars_are_read_as_json_would(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        fm_doc_type type;
    } cases[] = {
        {"null", FM_DOC_NULL},         {"~", FM_DOC_NULL},
        {"true", FM_DOC_BOOL},         {"false", FM_DOC_BOOL},
        {"True", FM_DOC_STRING},       {"yes", FM_DOC_STRING},
        {"no", FM_DOC_STRING},         {"on", FM_DOC_STRING},
        {"Null", FM_DOC_STRING},       {"'true'", FM_DOC_STRING},
        {"\"1\"", FM_DOC_STRING},      {"1", FM_DOC_INT},
        {"-12", FM_DOC_INT},           {"0", FM_DOC_INT},
        {"007", FM_DOC_STRING},        {"0x10", FM_DOC_STRING},
        {"+1", FM_DOC_STRING},         {"1_000", FM_DOC_STRING},
        {"1.5", FM_DOC_REAL},          {"1.", FM_DOC_STRING},
        {".5", FM_DOC_STRING},         {"1e3", FM_DOC_REAL},
        {"1e", FM_DOC_STRING},         {"1.2.3", FM_DOC_STRING},
        {"-", FM_DOC_STRING},          {".nan", FM_DOC_STRING},
        {"2024-01-01", FM_DOC_STRING}, {"9223372036854775808", FM_DOC_REAL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[64];
        snprintf(text, sizeof text, "[%s]", cases[i].text);
        fm_doc *root = parse(strcmp(cases[i].text, "-") == 0 ? "['-']" : text);
        if (fm_base_doc_type(fm_base_doc_at(root, 0)) != cases[i].type)
            fail_msg("%s is read as type %d", cases[i].text, (int)fm_base_doc_type(fm_base_doc_at(root, 0)));
        fm_base_doc_free(root);
    }
}

static void a_file_without_values_is_null(void **state)
{
    (void)state;
    static const char *const texts[] = {"", "# nothing yet\n", "---\n", "\xEF\xBB\xBF"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        fm_doc *root = parse(texts[i]);
        assert_int_equal(fm_base_doc_type(root), FM_DOC_NULL);
        assert_int_equal(fm_base_doc_count(root), 0);
        fm_base_doc_free(root);
    }
}

static void what_json_lacks_is_refused(void **state)
{
    (void)state;
    refuse_text("a: &x 1\nb: 2\n", "a.yaml:1:4: anchors");
    refuse_text("a: 1\nb: *x\n", "a.yaml:2:4: aliases");
    refuse_text("a: !!int 1\n", "a.yaml:1:4: tags");
    refuse_text("a: &x [1]\n", "anchors");
    refuse_text("a: !t {}\n", "tags");
    refuse_text("&k a: 1\n", "anchors");
    refuse_text("a: 1\n---\nb: 2\n", "a.yaml:2:1: a second document");
    refuse_text("? [1, 2]\n: 3\n", "a.yaml:1:3: a key must be a scalar");
    refuse_text("? {a: 1}\n: 3\n", "a key must be a scalar");
}

static void malformed_text_is_refused(void **state)
{
    (void)state;
    refuse_text("a: 1\nb: [1, 2\nc: 3\n", "a.yaml:3:");
    refuse_text("a: 1\n  b: 2\n", "a.yaml:2:");
    refuse_text("a: \"x\n", "a.yaml:2:1: found unexpected end of stream while scanning a quoted scalar");
    refuse_text("a: 1\nb: 2\na: 3\n", "a.yaml:3: key \"a\" comes twice; the first is on line 1");
    refuse_text("a: {\"b\": 1, b: 2}\n", "key \"b\" comes twice");
    refuse_text("a: 1\nb: 1e999\n", "a.yaml:2: number 1e999 is too large");
    refuse_text("a: \"x\\0y\"\n", "a.yaml:1: a string contains the character U+0000");
    refuse_text("\"x\\0y\": 1\n", "a string contains the character U+0000");
    refuse_text("a: 1\nb: \xFF\n", "a.yaml:2: invalid leading UTF-8 octet");
    refuse_text("a: \x01\n", "a.yaml:1: control characters are not allowed");
    refuse("a: 1\n\0b: 2\n", 11, FM_ERR_FORMAT, "control characters are not allowed");
    refuse_text("%YAML 2.0\n---\na: 1\n", "a.yaml:1:");
    refuse_text("a:\n\t- 1\n", "a.yaml:2:");
}

static void depth_is_limited(void **state)
{
    (void)state;
    enum { DEEP = 100000 };
    char *text = malloc(DEEP);
    assert_non_null(text);
    memset(text, '[', DEEP);
    refuse(text, DEEP, FM_ERR_LIMIT, "nested more than 256 deep");
    for (int i = 0; i < DEEP; i++)
        text[i] = i % 2 ? ' ' : '-';
    refuse(text, DEEP, FM_ERR_LIMIT, "nested more than 256 deep");
    memset(text, '[', 256);
    memset(text + 256, ']', 256);
    fm_doc *root = NULL;
    assert_ok(fm_base_doc_parse_yaml(text, 512, "a.yaml", &root));
    fm_base_doc_free(root);
    free(text);
}

static fm_status parse_and_free(void *context)
{
    const char *text = context;
    fm_doc *root;
    FM_TRY(fm_base_doc_parse_yaml(text, strlen(text), "a.yaml", &root));
    fm_base_doc_free(root);
    return FM_OK;
}

static void refused_allocations_leave_nothing(void **state)
{
    (void)state;
    char full[] = "a: [1, 2.5, text]\nb: {c: {}, d: \"x\"}\n";
    fm_test_each_alloc_fails(parse_and_free, full);
    char empty[] = "# empty\n";
    fm_test_each_alloc_fails(parse_and_free, empty);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_and_lines),
        cmocka_unit_test(plain_scalars_are_read_as_json_would),
        cmocka_unit_test(a_file_without_values_is_null),
        cmocka_unit_test(what_json_lacks_is_refused),
        cmocka_unit_test(malformed_text_is_refused),
        cmocka_unit_test(depth_is_limited),
        cmocka_unit_test(refused_allocations_leave_nothing),
    };
    return fm_test_run("base.doc_yaml", tests);
}
