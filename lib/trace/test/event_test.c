#include "fm_test.h"
#include "fm_gen.h"

#include <math.h>

#include "event.h"
#include "json_index.h"

static void assert_time(const char *text, int64_t expected)
{
    int64_t ns = 12345;
    const char *end = NULL;
    char padded[64] = {0}; // the reader may look eight bytes further
    snprintf(padded, sizeof padded, "%s", text);
    text = padded;
    if (fm_trace_microseconds(text, &ns, &end) < 0)
        fail_msg("%s is refused", text);
    if (ns != expected)
        fail_msg("%s is %lld ns, expected %lld", text, (long long)ns, (long long)expected);
    assert_ptr_equal(end, text + strcspn(text, ",} "));
}

static void times(void **state)
{
    (void)state;
    assert_time("0,", 0);
    assert_time("1740461679471346,       ", 1740461679471346000);
    assert_time("1740461679471346.123}   ", 1740461679471346123);
    assert_time("5387.0005,              ", 5387001); // rounded half up
    assert_time("5387.00049,             ", 5387000);
    assert_time("-12.5 ,                 ", -12500);
    assert_time("1e3,                    ", 1000000);
    assert_time("1.5E-3,                 ", 2);
    assert_time("12345678.1234567890123456789,", 12345678123);
    assert_time("0e40,                   ", 0);
    assert_time("1e-40,                  ", 0);
    static const char *const bad[] = {
        "",     "-", "x", ".5", "1.", "1e", "1e99", "NaN", "99999999999999999999999", "4611686018427388000",
        "1e16 "};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[64] = {0};
        int64_t ns;
        const char *end;
        snprintf(text, sizeof text, "%s", bad[i]);
        if (fm_trace_microseconds(text, &ns, &end) == 0)
            fail_msg("%s is taken as %lld", bad[i], (long long)ns);
    }
}

static void time_property(fm_gen *gen)
{
    int64_t us = fm_gen_size(gen, 0, INT64_C(4000000000000000));
    int digits = (int)fm_gen_int(gen, 0, 6);
    int64_t fraction = fm_gen_int(gen, 0, 999999), expected = us * 1000;
    char text[64] = {0}, tail[8];
    snprintf(tail, sizeof tail, "%06d", (int)fraction);
    tail[digits] = 0;
    snprintf(text, sizeof text, digits ? "%lld.%s," : "%lld,", (long long)us, tail);
    int64_t scaled = 0;
    for (int i = 0; i < 6; i++)
        scaled = scaled * 10 + (i < digits ? tail[i] - '0' : 0);
    expected += (scaled + 500) / 1000;
    assert_time(text, expected);
}

static void times_round_like_integers(void **state)
{
    (void)state;
    fm_gen_property(3000, time_property);
}

/* Decodes one event; -1, and *out_at, when it is malformed. */
static int decode(const char *text, struct fm_trace_event *out, uint32_t *out_at)
{
    static char buffer[4096 + FM_TRACE_INDEX_SLACK];
    static uint32_t entries[4096 + FM_TRACE_INDEX_SLACK];
    size_t length = strlen(text);
    assert_true(length < 4096);
    memset(buffer, 0, sizeof buffer);
    memcpy(buffer, text, length + 1);
    struct fm_trace_index_state index = {0, 0};
    size_t count = fm_trace_index_ref(buffer, 0, length, &index, entries);
    for (int i = 0; i < FM_TRACE_SENTINELS; i++)
        entries[count + (size_t)i] = (uint32_t)length;
    struct fm_trace_cursor cursor = {.text = buffer, .entry = entries};
    int result = fm_trace_event_decode(&cursor, out);
    *out_at = cursor.at;
    return result;
}

static int is(struct fm_trace_span span, const char *text)
{
    return span.bytes && span.length == strlen(text) && memcmp(span.bytes, text, span.length) == 0;
}

static void a_kernel(void **state)
{
    (void)state;
    struct fm_trace_event e;
    uint32_t at;
    assert_int_equal(
        decode("{\n \"ph\": \"X\", \"cat\": \"kernel\", \"name\": \"void f<1, \\\"a\\\">({})\", \"pid\": 0, "
               "\"tid\": \"s 7\",\n \"ts\": 1740461679471346, \"dur\": 52.25,\n \"args\": {\"queued\": 0, "
               "\"device\": 3,\"stream\": 27, \"correlation\": 44479, \"blocks per SM\": 31.030304, "
               "\"grid\": [4096, 2, 1], \"block\": [128, 1, 1], \"nested\": {\"stream\": 1, \"x\": [[]]}, "
               "\"bad\": NaN, \"bytes\": 8}, \"sf\": [1,{}] }",
               &e, &at),
        0);
    assert_int_equal(e.phase, 'X');
    assert_true(is(e.category, "kernel") && is(e.name, "void f<1, \\\"a\\\">({})"));
    assert_true(is(e.pid, "0") && is(e.tid, "s 7") && e.tid.quoted && !e.pid.quoted);
    assert_true(e.ts_ns == 1740461679471346000 && e.duration_ns == 52250);
    assert_true(e.device == 3 && e.stream == 27 && e.correlation == 44479 && e.bytes == 8);
    assert_true(e.blocks == 8192 && e.threads == 128);
    assert_true(e.args.bytes[0] == '{' && e.args.bytes[e.args.length - 1] == '}');
}

static void quoted_numbers(void **state)
{
    (void)state;
    struct fm_trace_event e;
    uint32_t at;
    assert_int_equal(
        decode("{\"args\": {\"stream\": \"7\", \"correlation\": \"12\", \"bytes\": \"8 B\"}}", &e, &at), 0);
    assert_true(e.stream == 7 && e.has_stream && e.correlation == 12 && e.bytes == 0);
}

static void malformed_events(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint32_t at;
    } cases[] = {
        {"{\"ph\" \"X\"}", 6},
        {"{\"ph\": }", 7},
        {"{\"ph\": \"X\" \"ts\": 1}", 11},
        {"{\"ts\": NaN}", 7},
        {"{\"ts\": 1x}", 8},
        {"{\"ph\": \"XX\"}", 8},
        {"{ph: \"X\"}", 1},
        {"{\"args\": {\"a\" 1}}", 14},

        {"{\"dur\": 1e30}", 8},
        {"{\"a\": 1, b}", 9},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fm_trace_event e;
        uint32_t at = UINT32_MAX;
        if (decode(cases[i].text, &e, &at) == 0)
            fail_msg("%s is taken", cases[i].text);
        if (at != cases[i].at)
            fail_msg("%s fails at %u, expected %u", cases[i].text, at, cases[i].at);
    }
}

static void last_of_equal_keys_counts(void **state)
{
    (void)state;
    struct fm_trace_event e;
    uint32_t at;
    assert_int_equal(decode("{\"ts\": 1, \"ts\": 2, \"name\": \"a\", \"name\": \"b\",}", &e, &at),
                     0); // a comma too many
    assert_int_equal(decode("{\"ts\": 1, \"ts\": 2, \"name\": \"a\", \"name\": \"b\"}", &e, &at), 0);
    assert_true(e.ts_ns == 2000 && is(e.name, "b"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(times),
        cmocka_unit_test(times_round_like_integers),
        cmocka_unit_test(a_kernel),
        cmocka_unit_test(quoted_numbers),
        cmocka_unit_test(malformed_events),
        cmocka_unit_test(last_of_equal_keys_counts),
    };
    return fm_test_run("event", tests);
}
