#include "fm_test.h"

#include "fathom/doc.h"

enum { MANY = 200000 }; // a quadratic step would take minutes

/** {"k0": 0, "k1": 1, ...} in an order that is neither sorted nor reversed. */
static char *many_keys(size_t *out_length)
{
    const size_t room = (size_t)MANY * 24 + 16;
    char *text = malloc(room);
    assert_non_null(text);
    size_t length = 0;
    text[length++] = '{';
    for (int i = 0; i < MANY; i++) {
        int key = (int)((int64_t)i * 7919 % MANY);
        length += (size_t)snprintf(text + length, room - length, "%s\"k%d\":%d\n", i ? "," : "", key, key);
    }
    text[length++] = '}';
    *out_length = length;
    return text;
}

static void many_keys_are_found(void **state)
{
    (void)state;
    size_t length;
    char *text = many_keys(&length);
    fm_doc *root = NULL;
    assert_ok(fm_base_doc_parse_json(text, length, "many.json", &root));
    assert_int_equal(fm_base_doc_count(root), MANY);
    for (int i = 0; i < MANY; i += 97) {
        char key[16];
        snprintf(key, sizeof key, "k%d", i);
        int64_t value = -1;
        assert_ok(fm_base_doc_int(fm_base_doc_get(root, key), key, 0, MANY, &value));
        assert_int_equal(value, i);
    }
    assert_null(fm_base_doc_get(root, "k"));
    assert_null(fm_base_doc_get(root, "k200000"));
    assert_string_equal(fm_base_doc_key(root, 1), "k7919");
    assert_int_equal(fm_base_doc_line(fm_base_doc_at(root, 1)), 2);
    fm_base_doc_free(root);
    free(text);
}

static void order_of_the_file_is_kept(void **state)
{
    (void)state;
    static const char text[] = "{\"b\": 1, \"\": 2, \"a\": {\"z\": 3, \"y\": 4}, \"aa\": 5}";
    fm_doc *root = NULL;
    assert_ok(fm_base_doc_parse_json(text, sizeof text - 1, "a.json", &root));
    static const char *const keys[] = {"b", "", "a", "aa"};
    for (size_t i = 0; i < 4; i++) {
        assert_string_equal(fm_base_doc_key(root, i), keys[i]);
        assert_ptr_equal(fm_base_doc_get(root, keys[i]), fm_base_doc_at(root, i));
    }
    assert_string_equal(fm_base_doc_key(fm_base_doc_at(root, 2), 0), "z");
    fm_base_doc_free(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_keys_are_found),
        cmocka_unit_test(order_of_the_file_is_kept),
    };
    return fm_test_run("base.doc_build", tests);
}
