#include "fm_test.h"
#include "fm_gen.h"

#include "fathom/text.h"

#include <math.h>

#define assert_text(value, expected) assert_string_equal((value).text, expected)

static void counts(void **state)
{
    (void)state;
    assert_text(fm_base_text_count(0), "0");
    assert_text(fm_base_text_count(7), "7");
    assert_text(fm_base_text_count(999), "999");
    assert_text(fm_base_text_count(1000), "1.00 k");
    assert_text(fm_base_text_count(12345678), "12.3 M");
    assert_text(fm_base_text_count(0.25), "0.250");
    assert_text(fm_base_text_count(0.9999), "1.00");
    assert_text(fm_base_text_count(9.999), "10.0");
    assert_text(fm_base_text_count(99.99), "100");
    assert_text(fm_base_text_count(999.7), "1.00 k"); // never "1000"
    assert_text(fm_base_text_count(999499), "999 k");
    assert_text(fm_base_text_count(999999), "1.00 M");
    assert_text(fm_base_text_count(-12345), "-12.3 k");
    assert_text(fm_base_text_count(1.5e18), "1.50 E");
    assert_text(fm_base_text_count(1e24), "1000000 E");
    assert_text(fm_base_text_count((double)INFINITY), "inf");
    assert_text(fm_base_text_count(-(double)INFINITY), "-inf");
    assert_non_null(strstr(fm_base_text_count((double)NAN).text, "nan"));
}

static void bytes(void **state)
{
    (void)state;
    assert_text(fm_base_text_bytes(0), "0 B");
    assert_text(fm_base_text_bytes(1023), "1023 B");
    assert_text(fm_base_text_bytes(1024), "1.00 KiB");
    assert_text(fm_base_text_bytes(1.5 * (1 << 30)), "1.50 GiB");
    assert_text(fm_base_text_bytes(1023.0 * 1024), "1023 KiB");
    assert_text(fm_base_text_bytes(1023.9 * 1024), "1.00 MiB");
    assert_text(fm_base_text_bytes(0x1p64), "16.0 EiB");
}

static void durations(void **state)
{
    (void)state;
    const double second = 1e9;
    assert_text(fm_base_text_duration(0), "0 ns");
    assert_text(fm_base_text_duration(250), "250 ns");
    assert_text(fm_base_text_duration(0.35), "0.350 ns");
    assert_text(fm_base_text_duration(1.2e6), "1.20 ms");
    assert_text(fm_base_text_duration(999.9e3), "1.00 ms");
    assert_text(fm_base_text_duration(59.9 * second), "59.9 s");
    assert_text(fm_base_text_duration(59.97 * second), "1 min 00 s");
    assert_text(fm_base_text_duration(65 * second), "1 min 05 s");
    assert_text(fm_base_text_duration(3599.4 * second), "59 min 59 s");
    assert_text(fm_base_text_duration(3599.6 * second), "1 h 00 min");
    assert_text(fm_base_text_duration(9000 * second), "2 h 30 min");
    assert_text(fm_base_text_duration(86399 * second), "1 d 00 h");
    assert_text(fm_base_text_duration((3 * 24 + 4) * 3600 * second), "3 d 04 h");
    assert_text(fm_base_text_duration(-65 * second), "-1 min 05 s");
    assert_text(fm_base_text_duration((double)INFINITY), "inf ns");
}

static void bars(void **state)
{
    (void)state;
    assert_text(fm_base_text_bar(0, 4), "    ");
    assert_text(fm_base_text_bar(1, 4), "████");
    assert_text(fm_base_text_bar(0.5, 4), "██  ");
    assert_text(fm_base_text_bar(0.375, 4), "█▌  ");
    assert_text(fm_base_text_bar(1 / 32.0, 4), "▏   ");
    assert_text(fm_base_text_bar(7, 2), "██");
    assert_text(fm_base_text_bar(-1, 2), "  ");
    assert_text(fm_base_text_bar((double)NAN, 2), "  ");
    assert_int_equal(fm_base_text_columns(fm_base_text_bar(0.7, 1000).text), 40);
    assert_int_equal(fm_base_text_columns(fm_base_text_bar(0.7, -3).text), 1);
}

static void columns(void **state)
{
    (void)state;
    assert_int_equal(fm_base_text_columns(""), 0);
    assert_int_equal(fm_base_text_columns("abc"), 3);
    assert_int_equal(fm_base_text_columns("Zürich"), 6);
    assert_int_equal(fm_base_text_columns("u\u0308ber"), 4); // a combining diaeresis
    assert_int_equal(fm_base_text_columns("模型"), 4);
    assert_int_equal(fm_base_text_columns("한글 ok"), 7);
    assert_int_equal(fm_base_text_columns("\U0001F680"), 2);
    assert_int_equal(fm_base_text_columns("a\xFF\xC3"), 3);
    assert_int_equal(fm_base_text_fit("模型", 3), 3);
    assert_int_equal(fm_base_text_fit("模型", 4), 6);
    assert_int_equal(fm_base_text_fit("ab", 9), 2);
    assert_int_equal(fm_base_text_fit("u\u0308b", 1), 3); // the mark stays with its letter
    assert_int_equal(fm_base_text_terminal(-1), 0);
}

static void cleaned_text_is_safe(fm_gen *gen)
{
    char text[40], before[40];
    size_t size = (size_t)fm_gen_int(gen, 0, sizeof text - 1);
    for (size_t i = 0; i < size; i++) // often the bytes of UTF-8 and of control sequences
        text[i] = (char)(fm_gen_chance(gen, 0.5) ? fm_gen_int(gen, 1, 255)
                                                 : "\xE2\x96\x88\xC2\x9B\x1b[a\x80"[fm_gen_int(gen, 0, 8)]);
    text[size] = 0;
    memcpy(before, text, sizeof text);
    fm_base_text_clean(text);
    assert_int_equal(strlen(text), strlen(before));
    for (size_t i = 0; text[i]; i++)
        assert_true((unsigned char)text[i] >= ' ' && text[i] != 127);
    assert_null(strstr(text, "\xC2\x9B")); // CSI of C1
    // Cleaning again finds nothing; a cut at any column is a clean beginning of it.
    memcpy(before, text, sizeof text);
    fm_base_text_clean(text);
    assert_string_equal(text, before);
    size_t limit = (size_t)fm_gen_int(gen, 0, 45);
    text[fm_base_text_fit(text, limit)] = 0;
    assert_true(fm_base_text_columns(text) <= limit);
    memcpy(before, text, sizeof text);
    fm_base_text_clean(text);
    assert_string_equal(text, before);
}

static void cleaning(void **state)
{
    (void)state;
    fm_gen_property(2000, cleaned_text_is_safe);
    char text[] = "a\tb\033[31mc\x9f"
                  "d\xC2\x85"
                  "é";
    fm_base_text_clean(text);
    assert_string_equal(text, "a b [31mc?d  é");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts), cmocka_unit_test(bytes),   cmocka_unit_test(durations),
        cmocka_unit_test(bars),   cmocka_unit_test(columns), cmocka_unit_test(cleaning),
    };
    return fm_test_run("base.text", tests);
}
