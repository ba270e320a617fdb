/* The published trace, written otherwise: what the report says must not depend on how the events are spelled and ordered. */
#include "fm_test.h"

#include <zlib.h>

#include "fathom/trace_report.h"

enum { EVENTS_MAX = 16384 };

/* The published trace, cut into what stands before its events, the events, and what stands behind. */
static struct {
    char *text;
    size_t length, head; // bytes before the first event
    const char *events[EVENTS_MAX];
    size_t lengths[EVENTS_MAX];
    size_t count;
    const char *tail;
} published;

/* The first place of `text`, which begins with `first`; NULL. Under sanitizers strstr() would measure the whole haystack. */
static const char *find(const char *from, char first, const char *text)
{
    const char *end = published.text + published.length;
    size_t length = strlen(text);
    while ((from = memchr(from, first, (size_t)(end - from))) && strncmp(from, text, length) != 0)
        from++;
    return from;
}

static void load(void)
{
    FILE *file = fopen(fm_test_shared("data/profile/train.json"), "rb");
    assert_non_null(file);
    published.text = fm_base_mem_zalloc(1 << 22, 1);
    assert_non_null(published.text);
    published.length = fread(published.text, 1, (1 << 22) - 1, file);
    fclose(file);
    const char *at = find(published.text, '"', "\"traceEvents\": [") + 16;
    published.head = (size_t)(at - published.text);
    // The profiler indents events by two spaces, and nothing else in them.
    const char *end = find(at, '\n', "\n  ],");
    assert_non_null(end);
    published.tail = end;
    while (at < end) {
        const char *begin = strchr(at, '{'), *behind = find(begin, '\n', "\n  }") + 4;
        published.events[published.count] = begin;
        published.lengths[published.count++] = (size_t)(behind - begin);
        at = behind + 1;
    }
}

static void unload(void)
{
    fm_base_mem_free(published.text);
    memset(&published, 0, sizeof published);
}

/* What the report says, less what stands in it of the file. The caller frees it. */
static char *report_of(const fm_trace *trace)
{
    fm_trace_rules *rules;
    fm_trace_report *report;
    fm_json json = {0};
    assert_ok(fm_trace_rules_load(NULL, &rules));
    assert_ok(fm_trace_report_make(trace, rules, &report));
    fm_base_json_begin(&json, NULL, '{');
    fm_trace_report_json(report, &json);
    fm_base_json_end(&json);
    char path[4200], *all = fm_base_mem_zalloc(1 << 20, 1);
    assert_non_null(all);
    snprintf(path, sizeof path, "%s/report", fm_test_tmpdir());
    FILE *file = fopen(path, "w+");
    assert_non_null(file);
    assert_ok(fm_base_json_finish(&json, file));
    rewind(file);
    assert_true(fread(all, 1, (1 << 20) - 1, file) < (1 << 20) - 1);
    fclose(file);
    fm_trace_report_free(report);
    fm_trace_rules_free(rules);
    char *overlap = strstr(all, "\"overlap\"");
    assert_non_null(overlap);
    memmove(all, overlap, strlen(overlap) + 1);
    return all;
}

static char *report_of_text(const char *text, size_t length)
{
    fm_trace *trace;
    assert_ok(fm_trace_data_parse(text, length, "variant", NULL, &trace));
    char *report = report_of(trace);
    fm_trace_data_free(trace);
    return report;
}

static void expect_same(const char *text, size_t length)
{
    char *expected = report_of_text(published.text, published.length), *got = report_of_text(text, length);
    assert_string_equal(got, expected);
    fm_base_mem_free(expected);
    fm_base_mem_free(got);
}

static void events_in_any_order(void **state)
{
    (void)state;
    load();
    char *text = fm_base_mem_alloc(published.length + EVENTS_MAX), *to = text;
    assert_non_null(text);
    uint64_t random = 42;
    for (size_t i = published.count - 1; i > 0; i--) {
        random = random * 6364136223846793005 + 1442695040888963407;
        size_t j = (size_t)(random >> 33) % (i + 1), length = published.lengths[i];
        const char *event = published.events[i];
        published.events[i] = published.events[j], published.lengths[i] = published.lengths[j];
        published.events[j] = event, published.lengths[j] = length;
    }
    to = mempcpy(to, published.text, published.head);
    for (size_t i = 0; i < published.count; i++) {
        if (i)
            *to++ = ',';
        to = mempcpy(to, published.events[i], published.lengths[i]);
    }
    to += sprintf(to, "%s", published.tail);
    expect_same(text, (size_t)(to - text));
    fm_base_mem_free(text);
    unload();
}

/* Copies the text, with what `key` is followed by up to a comma or the line's end between `before` and `behind`. */
static char *wrap_values(const char *key, const char *before, const char *behind, size_t *out_length)
{
    char *text = fm_base_mem_alloc(2 * published.length), *to = text;
    const char *from = published.text;
    assert_non_null(text);
    for (const char *at; (at = find(from, '"', key)); from = at) {
        at += strlen(key);
        to = mempcpy(to, from, (size_t)(at - from));
        size_t length = strcspn(at, ",\n");
        to +=
            sprintf(to, "%s%.*s%s", at[0] == '"' ? "" : before, (int)length, at, at[0] == '"' ? "" : behind);
        at += length;
    }
    to += sprintf(to, "%s", from);
    *out_length = (size_t)(to - text);
    return text;
}

static void numbers_spelled_otherwise(void **state)
{
    (void)state;
    static const char *const variants[][3] = {
        {"\"pid\": ", "\"", "\""}, {"\"tid\": ", "\"", "\""},         {"\"ts\": ", "", ".000"},
        {"\"dur\": ", "", ".0"},   {"\"correlation\": ", "\"", "\""}, {"\"stream\": ", "\"", "\""}};
    load();
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        size_t length;
        char *text = wrap_values(variants[i][0], variants[i][1], variants[i][2], &length);
        expect_same(text, length);
        fm_base_mem_free(text);
    }
    unload();
}

/* A compressed file that is cut or damaged is an error that says where; what came before is used by who salvages. */
static void damaged_archives(void **state)
{
    (void)state;
    load();
    uLongf packed = compressBound(published.length) + 64;
    Bytef *bytes = fm_base_mem_alloc(packed);
    assert_non_null(bytes);
    z_stream stream = {0};
    assert_int_equal(deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    stream.next_in = (Bytef *)published.text, stream.avail_in = (uInt)published.length;
    stream.next_out = bytes, stream.avail_out = (uInt)packed;
    assert_int_equal(deflate(&stream, Z_FINISH), Z_STREAM_END);
    packed = stream.total_out;
    deflateEnd(&stream);
    uint64_t before = 0;
    for (int tenths = 1; tenths < 10; tenths++) {
        size_t length = packed / 10 * (size_t)tenths;
        const char *path = fm_test_file("cut.json.gz", bytes, length);
        fm_trace_read_options options = {.size = sizeof options, .salvage = 1};
        fm_trace *trace;
        assert_fails(fm_trace_data_read(&path, 1, NULL, &trace), FM_ERR_FORMAT, "byte");
        assert_ok(fm_trace_data_read(&path, 1, &options, &trace));
        assert_int_equal(trace->files[0].damaged, 1);
        assert_true(trace->files[0].events > before && trace->files[0].events < published.count);
        before = trace->files[0].events;
        fm_trace_data_free(trace);
    }
    fm_base_mem_free(bytes);
    unload();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_in_any_order),
        cmocka_unit_test(numbers_spelled_otherwise),
        cmocka_unit_test(damaged_archives),
    };
    return fm_test_run("variants", tests);
}
