#include "fm_test.h"

#include "pond_text.h"

static void it_quotes_and_grows(void **state)
{
    (void)state;
    fm_pond_text text = {0};
    for (int i = 0; i < 1000; i++)
        fm_pond_text_add(&text, "%d", i % 10);
    assert_int_equal(text.length, 1000);
    fm_pond_text_clear(&text);
    fm_pond_text_add_quoted(&text, "it's 'so'");
    assert_string_equal(text.text, "'it''s ''so'''");
    fm_pond_text_clear(&text);
}

static void assert_key(const char *terms, const char *expected)
{
    fm_pond_text text = {0};
    fm_pond_text_add_sort_key(&text, terms);
    assert_string_equal(text.text, expected);
    fm_pond_text_clear(&text);
}

static void it_makes_sort_keys_of_order_by_terms(void **state)
{
    (void)state;
    assert_key("a", "create_sort_key(a, 'ASC NULLS LAST')");
    assert_key("f(a, b) desc, \"x,y\" ASC nulls first",
               "create_sort_key(f(a, b), 'DESC NULLS LAST', \"x,y\", 'ASC NULLS FIRST')");
    assert_key("descent", "create_sort_key(descent, 'ASC NULLS LAST')");
}

static void it_skips_strings_and_brackets(void **state)
{
    (void)state;
    const char *text = "('a)' || \"b(\")rest";
    assert_string_equal(fm_pond_text_skip(text), "rest");
    assert_string_equal(fm_pond_text_skip("'open"), "");
    assert_string_equal(fm_pond_text_skip("(open"), "");
}

static void it_tells_texts_apart(void **state)
{
    (void)state;
    char a[33], b[33];
    char bytes[5000] = {0};
    fm_pond_text_digest(bytes, sizeof bytes, a);
    for (size_t i = 0; i < sizeof bytes; i += 99) {
        bytes[i] ^= 1;
        fm_pond_text_digest(bytes, sizeof bytes, b);
        assert_int_equal(strlen(b), 32);
        assert_true(memcmp(a, b, 16) != 0 && memcmp(a + 16, b + 16, 16) != 0);
        bytes[i] ^= 1;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_quotes_and_grows),
        cmocka_unit_test(it_makes_sort_keys_of_order_by_terms),
        cmocka_unit_test(it_skips_strings_and_brackets),
        cmocka_unit_test(it_tells_texts_apart),
    };
    return fm_test_run("pond_text", tests);
}
