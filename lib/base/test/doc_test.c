#include "fm_test.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fathom/doc.h"

static fm_doc *parse(const char *text)
{
    fm_doc *root = NULL;
    assert_ok(fm_base_doc_parse_json(text, strlen(text), "loads.json", &root));
    return root;
}

static void null_nodes_are_empty(void **state)
{
    (void)state;
    assert_int_equal(fm_base_doc_type(NULL), FM_DOC_NULL);
    assert_int_equal(fm_base_doc_line(NULL), 0);
    assert_int_equal(fm_base_doc_count(NULL), 0);
    assert_null(fm_base_doc_at(NULL, 0));
    assert_null(fm_base_doc_key(NULL, 0));
    assert_null(fm_base_doc_get(NULL, "a"));
    fm_base_doc_free(NULL);
    int64_t integer = 5;
    double real = 5;
    int truth = 5;
    const char *text = "5";
    const char *const none[] = {NULL};
    assert_fails(fm_base_doc_int(NULL, "n", 0, 1, &integer), FM_ERR_FORMAT, "n is missing");
    assert_fails(fm_base_doc_real(NULL, "n", &real), FM_ERR_FORMAT, "n is missing");
    assert_fails(fm_base_doc_bool(NULL, "n", &truth), FM_ERR_FORMAT, "n is missing");
    assert_fails(fm_base_doc_string(NULL, "n", &text), FM_ERR_FORMAT, "n is missing");
    assert_fails(fm_base_doc_expect(NULL, "n", FM_DOC_ARRAY), FM_ERR_FORMAT, "n is missing");
    assert_fails(fm_base_doc_known_keys(NULL, "n", none), FM_ERR_FORMAT, "n is missing");
    assert_true(integer == 5 && real == 5 && truth == 5 && strcmp(text, "5") == 0);
}

static void messages_name_place_value_and_expectation(void **state)
{
    (void)state;
    fm_doc *root =
        parse("{\"word\":\n\"many\", \"n\": 70000,\n\"r\": 1.5, \"list\": [], \"no\": null,\n\"f\": false, "
              "\"esc\": \"a\\u001b[0m\"}");
    int64_t integer = 5;
    double real;
    int truth;
    const char *text;
    const fm_doc *n = fm_base_doc_get(root, "n");
    assert_fails(fm_base_doc_int(fm_base_doc_get(root, "word"), "replicas", 1, 65536, &integer),
                 FM_ERR_FORMAT, "loads.json:2: replicas is \"many\"; expected an integer from 1 to 65536");
    assert_fails(fm_base_doc_int(n, "n", 1, 65536, &integer), FM_ERR_FORMAT,
                 "loads.json:2: n is 70000; expected an integer from 1 to 65536");
    assert_fails(fm_base_doc_int(n, "n", 70001, INT64_MAX, &integer), FM_ERR_FORMAT,
                 "an integer of at least 70001");
    assert_fails(fm_base_doc_int(n, "n", INT64_MIN, 4, &integer), FM_ERR_FORMAT, "an integer of at most 4");
    assert_fails(fm_base_doc_int(fm_base_doc_get(root, "r"), "n", INT64_MIN, INT64_MAX, &integer),
                 FM_ERR_FORMAT, "loads.json:3: n is 1.5; expected an integer");
    assert_int_equal(integer, 5);
    assert_fails(fm_base_doc_real(fm_base_doc_get(root, "list"), "r", &real), FM_ERR_FORMAT,
                 "r is an array; expected a number");
    assert_fails(fm_base_doc_bool(fm_base_doc_get(root, "no"), "b", &truth), FM_ERR_FORMAT,
                 "b is null; expected true or false");
    assert_fails(fm_base_doc_string(fm_base_doc_get(root, "f"), "s", &text), FM_ERR_FORMAT,
                 "loads.json:4: s is false; expected a string");
    assert_fails(fm_base_doc_expect(root, "x", FM_DOC_ARRAY), FM_ERR_FORMAT,
                 "x is an object; expected an array");
    assert_fails(fm_base_doc_int(fm_base_doc_get(root, "esc"), "e", 0, 1, &integer), FM_ERR_FORMAT,
                 "\"a?[0m\"");
    assert_fails(fm_base_doc_error(FM_ERR_LIMIT, n, "sum %d", 3), FM_ERR_LIMIT, "loads.json:2: sum 3");
    assert_ok(fm_base_doc_real(n, "n", &real));
    assert_true(real == 70000);
    fm_base_doc_free(root);
}

static void long_strings_are_cut_between_characters(void **state)
{
    (void)state;
    char text[400];
    int length = snprintf(text, sizeof text, "[\"");
    for (int i = 0; i < 100; i++)
        length += snprintf(text + length, sizeof text - (size_t)length, "\xC3\xA9");
    snprintf(text + length, sizeof text - (size_t)length, "\", \"\"]");
    fm_doc *root = parse(text);
    int64_t integer;
    assert_fails(fm_base_doc_int(fm_base_doc_at(root, 0), "n", 0, 1, &integer), FM_ERR_FORMAT,
                 "\xC3\xA9...\"; expected");
    assert_fails(fm_base_doc_int(fm_base_doc_at(root, 1), "n", 0, 1, &integer), FM_ERR_FORMAT,
                 "n is \"\"; expected");
    fm_base_doc_free(root);
}

static void unknown_keys_name_the_nearest(void **state)
{
    (void)state;
    static const char *const known[] = {"replicas", "nodes", NULL};
    fm_doc *root = parse("{\"nodes\": 1,\n\"replica\":\n 2}");
    assert_fails(fm_base_doc_known_keys(root, "plan", known), FM_ERR_FORMAT,
                 "loads.json:2: unknown key \"replica\" in plan; did you mean \"replicas\"?");
    fm_base_doc_free(root);
    root = parse("{\"temperature\": 1}");
    assert_fails(fm_base_doc_known_keys(root, "plan", known), FM_ERR_FORMAT,
                 "unknown key \"temperature\" in plan; known keys: replicas, nodes");
    assert_fails(fm_base_doc_known_keys(root, "plan", known + 2), FM_ERR_FORMAT, "known keys: none");
    fm_base_doc_free(root);
    root = parse("{\"nodes\": 1}");
    assert_ok(fm_base_doc_known_keys(root, "plan", known));
    assert_fails(fm_base_doc_known_keys(fm_base_doc_at(root, 0), "plan", known), FM_ERR_FORMAT,
                 "plan is 1; expected an object");
    fm_base_doc_free(root);
}

static void files_are_read_by_their_name(void **state)
{
    (void)state;
    fm_doc *root = NULL;
    assert_ok(fm_base_doc_load(fm_test_file("a.json", "{\"a\": 1}", 8), &root));
    fm_base_doc_free(root);
    assert_ok(fm_base_doc_load(fm_test_file("a.yaml", "a: 1", 4), &root));
    fm_base_doc_free(root);
    assert_ok(fm_base_doc_load(fm_test_file("a.yml", "a: 1", 4), &root));
    fm_base_doc_free(root);
    root = NULL;
    const char *path = fm_test_file("bad.json", "{\n", 2);
    assert_fails(fm_base_doc_load(path, &root), FM_ERR_FORMAT, "bad.json:2:");
    assert_fails(fm_base_doc_load("/no/such/file", &root), FM_ERR_NOT_FOUND,
                 "cannot open /no/such/file: No such file or directory");
    assert_fails(fm_base_doc_load(fm_test_tmpdir(), &root), FM_ERR_IO, "Is a directory");
    assert_null(root);
}

static void standard_input_is_read(void **state)
{
    (void)state;
    const char *path = fm_test_file("in.json", "[1, x]", 6);
    int saved = dup(STDIN_FILENO);
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    dup2(fd, STDIN_FILENO);
    close(fd);
    fm_doc *root = NULL;
    fm_status status = fm_base_doc_load("-", &root);
    dup2(saved, STDIN_FILENO);
    close(saved);
    assert_fails(status, FM_ERR_FORMAT, "<standard input>:1:");
}

static fm_status load_and_free(void *path)
{
    fm_doc *root;
    FM_TRY(fm_base_doc_load(path, &root));
    fm_base_doc_free(root);
    return FM_OK;
}

static void refused_allocations_leave_nothing(void **state)
{
    (void)state;
    char path[4200];
    snprintf(path, sizeof path, "%s", fm_test_file("b.yaml", "a: [1, 2]", 9));
    fm_test_each_alloc_fails(load_and_free, path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(null_nodes_are_empty),
        cmocka_unit_test(messages_name_place_value_and_expectation),
        cmocka_unit_test(long_strings_are_cut_between_characters),
        cmocka_unit_test(unknown_keys_name_the_nearest),
        cmocka_unit_test(files_are_read_by_their_name),
        cmocka_unit_test(standard_input_is_read),
        cmocka_unit_test(refused_allocations_leave_nothing),
    };
    return fm_test_run("base.doc", tests);
}
