#include "fm_test.h"

#include "text_pool.h"

static uint32_t intern(struct fm_trace_text_pool *pool, const char *spelling)
{
    uint32_t text = UINT32_MAX;
    assert_ok(fm_trace_pool_intern(pool, spelling, strlen(spelling), &text));
    return text;
}

static void spellings_of_one_text_are_one(void **state)
{
    (void)state;
    struct fm_trace_text_pool pool = {0};
    uint32_t plain = intern(&pool, "a/b"), escaped = intern(&pool, "a\\/b"),
             point = intern(&pool, "\\u0061/b");
    assert_int_equal(plain, escaped);
    assert_int_equal(plain, point);
    // The text whose bytes are those of a spelling is another text.
    uint32_t backslash = intern(&pool, "a\\\\/b");
    assert_int_not_equal(backslash, escaped);
    assert_string_equal(pool.texts[backslash], "a\\/b");
    assert_int_equal(intern(&pool, "a\\\\/b"), backslash);
    assert_int_equal(intern(&pool, ""), intern(&pool, ""));
    fm_trace_pool_clear(&pool);
}

static void many_texts(void **state)
{
    (void)state;
    struct fm_trace_text_pool pool = {0};
    char text[64];
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < 20000; i++) {
            snprintf(text, sizeof text, "%*s%d", i % 40, "", i);
            assert_int_equal(intern(&pool, text), i);
        }
    assert_string_equal(pool.texts[12345], "                         12345");
    fm_trace_pool_clear(&pool);
}

static void escapes(void **state)
{
    (void)state;
    static const struct {
        const char *spelling, *text;
    } cases[] = {
        {"\\\"\\\\\\/\\b\\f\\n\\r\\t", "\"\\/\b\f\n\r\t"},
        {"\\u00e9 \\u20AC \\ud83d\\ude00", "\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80"},
        {"\\ud83d \\ude00 \\u0000", "\xEF\xBF\xBD \xEF\xBF\xBD \xEF\xBF\xBD"},
        {"\\u12 \\x \\", "\\u12 \\x \\"},
        {"\\ud83d\\u0041", "\xEF\xBF\xBD\x41"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char to[64] = {0};
        to[fm_trace_unescape(cases[i].spelling, strlen(cases[i].spelling), to)] = 0;
        assert_string_equal(to, cases[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spellings_of_one_text_are_one),
        cmocka_unit_test(many_texts),
        cmocka_unit_test(escapes),
    };
    return fm_test_run("text_pool", tests);
}
