#include "fm_test.h"
#include "fm_gen.h"

#include "fathom/trace.h"

static const char *text(const fm_trace *trace, uint32_t index)
{
    return fm_trace_data_text(trace, index);
}

static fm_trace *parse(const char *json)
{
    fm_trace *trace = NULL;
    assert_ok(fm_trace_data_parse(json, strlen(json), "t", NULL, &trace));
    return trace;
}

static void empty_traces(void **state)
{
    (void)state;
    static const char *const cases[] = {"[]",
                                        "[",
                                        " [ ",
                                        "{}",
                                        "{\"traceEvents\": []}",
                                        "\xEF\xBB\xBF{\"traceEvents\":[ ] , \"a\": [1, {\"b\": \"]\"}]}\n"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fm_trace *trace = parse(cases[i]);
        assert_int_equal(trace->slice_count, 0);
        assert_int_equal(trace->file_count, 1);
        fm_trace_data_free(trace);
    }
}

static void every_phase(void **state)
{
    (void)state;
    fm_trace *trace = parse(
        "[{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":1,\"args\":{\"name\":\"rank\\u0020 0\"}},"
        "{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":1,\"tid\":\"x\",\"args\":{\"name\":\"main\"}},"
        "{\"ph\":\"B\",\"name\":\"outer\",\"pid\":1,\"tid\":2,\"ts\":10},"
        "{\"ph\":\"B\",\"name\":\"inner\",\"pid\":1,\"tid\":2,\"ts\":12.5},"
        "{\"ph\":\"E\",\"pid\":1,\"tid\":2,\"ts\":13},"
        "{\"ph\":\"E\",\"pid\":1,\"tid\":2,\"ts\":20},"
        "{\"ph\":\"E\",\"pid\":1,\"tid\":2,\"ts\":21},"
        "{\"ph\":\"b\",\"cat\":\"net\",\"id\":\"0x7\",\"name\":\"send\",\"pid\":1,\"tid\":2,\"ts\":30},"
        "{\"ph\":\"b\",\"cat\":\"net\",\"id\":8,\"name\":\"send\",\"pid\":1,\"tid\":2,\"ts\":31},"
        "{\"ph\":\"e\",\"cat\":\"net\",\"id\":\"0x7\",\"name\":\"send\",\"pid\":1,\"tid\":3,\"ts\":40},"
        "{\"ph\":\"i\",\"name\":\"mark\",\"pid\":1,\"tid\":\"x\",\"ts\":50,\"s\":\"t\"},"
        "{\"ph\":\"C\",\"name\":\"depth\",\"pid\":1,\"ts\":51,\"args\":{\"a\":1.5,\"b\":-2}},"
        "{\"ph\":\"s\",\"cat\":\"f\",\"name\":\"go\",\"id\":5,\"pid\":1,\"tid\":2,\"ts\":52},"
        "{\"ph\":\"f\",\"bp\":\"e\",\"cat\":\"f\",\"name\":\"go\",\"id\":5,\"pid\":2,\"tid\":2,\"ts\":53},"
        "{\"ph\":\"N\",\"name\":\"object\",\"id\":1,\"ts\":1},"
        "{\"ph\":\"X\",\"name\":\"late\",\"pid\":2,\"tid\":2,\"ts\":60,\"dur\":-1},]");
    assert_int_equal(trace->slice_count, 6);
    const fm_trace_slice *s = trace->slices;
    assert_string_equal(text(trace, s[0].name), "outer");
    assert_true(s[0].begin_ns == 10000 && s[0].duration_ns == 10000);
    assert_true(s[1].begin_ns == 12500 && s[1].duration_ns == 500 && s[1].track == s[0].track);
    assert_int_equal(s[2].kind, FM_TRACE_ASYNC);
    assert_true(s[2].duration_ns == 10000 &&
                s[3].duration_ns == 29000); // unfinished: to the end of the trace
    assert_true(trace->tracks[s[2].track].is_async);
    assert_true(s[4].kind == FM_TRACE_INSTANT && trace->tracks[s[4].track].tid_is_text);
    assert_string_equal(text(trace, trace->tracks[s[4].track].name), "main");
    assert_string_equal(text(trace, trace->processes[0].name), "rank  0");
    assert_int_equal(s[5].duration_ns, 0);
    assert_int_equal(trace->flow_count, 2);
    assert_true(trace->flows[0].id == trace->flows[1].id && trace->flows[1].phase == 'f');
    assert_int_equal(trace->counter_count, 2);
    assert_true(trace->counters[1].value == -2);
    assert_string_equal(text(trace, trace->counters[1].series), "b");
    assert_true(trace->files[0].unmatched == 2 && trace->files[0].skipped == 1 &&
                trace->files[0].events == 16);
    fm_trace_data_free(trace);
}

static void times_relative_to_a_base(void **state)
{
    (void)state;
    fm_trace *trace =
        parse("{\"traceEvents\":[{\"ph\":\"X\",\"pid\":1,\"tid\":1,\"ts\":1.001,\"dur\":2}],"
              "\"baseTimeNanoseconds\": 1700000000000000007, \"distributedInfo\": {\"rank\": 3, "
              "\"world_size\": 8}, \"deviceProperties\": [{\"name\": \"H800\", \"numSms\": 132}]}");
    assert_true(trace->slices[0].begin_ns == 1700000000000001008);
    assert_true(trace->files[0].rank == 3 && trace->files[0].world_size == 8 &&
                trace->files[0].multiprocessors == 132);
    assert_string_equal(trace->files[0].device, "H800");
    fm_trace_data_free(trace);
}

static void damage_names_its_place(void **state)
{
    (void)state;
    static const struct {
        const char *json, *message;
    } cases[] = {
        {"", "t: byte 0: the file ends inside the space before a trace"},
        {"hello", "t: byte 0: expected '[' or '{'"},
        {"{\"traceEvents\": [", "t: byte 17: the file ends inside the array of events"},
        {"{\"traceEvents\": [{\"ph\": \"X\", \"ts\": 1", "t: byte 17: the file ends inside an event"},
        {"[{\"ph\":\"X\",\"ts\":1,\"pid\":1,\"tid\":1} x", "t: byte 35: expected an event or the ']'"},
        {"[{\"ph\":\"X\",\"ts\":zzz,\"pid\":1,\"tid\":1}]", "t: byte 16: expected a time in microseconds"},
        {"[{\"name\": \"x\"}]", "t: byte 1: an event lacks its phase"},
        {"[{\"ph\": \"X\"}]", "t: byte 1: an event of phase 'X' lacks \"ts\""},
        {"[] x", "t: byte 3: text behind the end"},
        {"{\"a\": 1 \"b\": 2}", "t: byte"},
        {"{\"a\" 1}", "t: byte 5: expected ':'"},
        {"{\"a\": \"b", "t: byte 1: the file ends inside"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fm_trace *trace;
        if (strcmp(cases[i].message, "t: byte") ==
            0) { // missing commas between the run's own values are let pass
            assert_ok(fm_trace_data_parse(cases[i].json, strlen(cases[i].json), "t", NULL, &trace));
            fm_trace_data_free(trace);
            continue;
        }
        assert_fails(fm_trace_data_parse(cases[i].json, strlen(cases[i].json), "t", NULL, &trace),
                     FM_ERR_FORMAT, cases[i].message);
    }
}

static void salvage_takes_what_is_whole(void **state)
{
    (void)state;
    static const char json[] =
        "{\"schemaVersion\": 1, \"traceEvents\": [\n"
        "{\"ph\":\"X\",\"name\":\"a\",\"pid\":1,\"tid\":1,\"ts\":1,\"dur\":1},\n"
        "{\"ph\":\"X\",\"name\":\"b\",\"pid\":1,\"tid\":1,\"ts\":zz,\"dur\":1, \"args\": {\"name\": 1}},\n"
        "{\"ph\":\"X\",\"name\":\"c\",\"pid\":1,\"tid\":1,\"ts\":3,\"dur\":1},\n"
        "\x01\x02\"{{{ garbage \"\",\n"
        "{\"ph\":\"X\",\"name\":\"d\",\"pid\":1,\"tid\":1,\"ts\":4,\"dur\":1},\n"
        "{\"ph\":\"X\",\"name\":\"e\",\"pid\":1,\"ti";
    fm_trace_read_options options = {.size = sizeof options, .salvage = 1};
    fm_trace *trace;
    assert_ok(fm_trace_data_parse(json, sizeof json - 1, "t", &options, &trace));
    assert_int_equal(trace->slice_count, 3);
    assert_string_equal(text(trace, trace->slices[2].name), "d");
    assert_int_equal(trace->files[0].damaged, 3);
    assert_non_null(strstr(trace->files[0].damage, "expected a time"));
    fm_trace_data_free(trace);
}

/* A trace with `count` events, some of them longer than the reader's buffer; the caller frees it. */
static char *make_long(int count, size_t *out_length)
{
    size_t room = (size_t)count * 120 + (size_t)(count / 400 + 1) * 400000 + 100, length = 0;
    char *json = fm_base_mem_alloc(room);
    assert_non_null(json);
    length += (size_t)sprintf(json, "{\"pad\": [\"");
    memset(json + length, '[', 300000); // a value of no interest, longer than the buffer
    length += 300000;
    length += (size_t)sprintf(json + length, "\"], \"traceEvents\": [");
    for (int i = 0; i < count; i++) {
        length += (size_t)sprintf(json + length,
                                  "%s\n  {\"ph\": \"X\", \"name\": \"n%d\", \"pid\": %d, \"tid\": 1, \"ts\": "
                                  "%d, \"dur\": %d, \"args\": {\"s\": \"",
                                  i ? "," : "", i % 7, i % 3, i * 2, i % 5);
        if (i % 400 == 399) {
            memset(json + length, '\\', 350000); // an even number: escaped backslashes
            length += 350000;
        }
        length += (size_t)sprintf(json + length, "\"}}");
    }
    length += (size_t)sprintf(json + length, "]}");
    assert_true(length < room);
    *out_length = length;
    return json;
}

static void events_across_buffers(void **state)
{
    (void)state;
    enum { COUNT = 20000 };
    size_t length;
    char *json = make_long(COUNT, &length);
    fm_trace *trace;
    assert_ok(fm_trace_data_parse(json, length, "long", NULL, &trace));
    assert_int_equal(trace->slice_count, COUNT);
    assert_int_equal(trace->process_count, 3);
    for (int i = 0; i < COUNT; i++) {
        assert_true(trace->slices[i].begin_ns == i * 2000 && trace->slices[i].duration_ns == i % 5 * 1000);
        assert_int_equal(text(trace, trace->slices[i].name)[1] - '0', i % 7);
    }
    assert_int_equal(trace->files[0].bytes, length);
    fm_trace_data_free(trace);
    fm_base_mem_free(json);
}

/* An event that is too large is an error with its offset; a salvaging reader takes what is around it. */
static void too_large_an_event(void **state)
{
    (void)state;
    static const char before[] = "[{\"ph\":\"X\",\"name\":\"a\",\"pid\":1,\"tid\":1,\"ts\":1},\n",
                      opening[] =
                          "{\"ph\":\"X\",\"name\":\"b\",\"pid\":1,\"tid\":1,\"ts\":2,\"args\":{\"x\":\"",
                      behind[] = "\"}},\n{\"ph\":\"X\",\"name\":\"c\",\"pid\":1,\"tid\":1,\"ts\":3}]";
    enum { LARGE_BYTES = 65 << 20 };
    char *json = fm_base_mem_alloc(LARGE_BYTES + 1000), *p = json;
    assert_non_null(json);
    p += sprintf(p, "%s%s", before, opening);
    memset(p, 'x', LARGE_BYTES);
    p += LARGE_BYTES;
    p += sprintf(p, "%s", behind);
    fm_trace *trace;
    char place[40];
    snprintf(place, sizeof place, "large: byte %zu: an event", sizeof before - 1);
    assert_fails(fm_trace_data_parse(json, (size_t)(p - json), "large", NULL, &trace), FM_ERR_LIMIT, place);
    fm_trace_read_options options = {.size = sizeof options, .salvage = 1};
    assert_ok(fm_trace_data_parse(json, (size_t)(p - json), "large", &options, &trace));
    assert_int_equal(trace->slice_count, 2);
    assert_string_equal(text(trace, trace->slices[1].name), "c");
    assert_int_equal(trace->files[0].damaged, 1);
    fm_trace_data_free(trace);
    fm_base_mem_free(json);
}

#define assert_same_column(a, b, column, count)                                          \
    do {                                                                                 \
        assert_int_equal((a)->count, (b)->count);                                        \
        assert_memory_equal((a)->column, (b)->column, (a)->count * sizeof *(a)->column); \
    } while (0)

static void assert_same_trace(const fm_trace *a, const fm_trace *b)
{
    assert_same_column(a, b, processes, process_count);
    assert_same_column(a, b, tracks, track_count);
    assert_same_column(a, b, slices, slice_count);
    assert_int_equal(a->gpu_count, b->gpu_count);
    assert_int_equal(a->flow_count, b->flow_count);
    assert_int_equal(a->counter_count, b->counter_count);
    for (size_t i = 0; i < a->gpu_count; i++) { // by member: there is padding between them
        const fm_trace_gpu *x = &a->gpus[i], *y = &b->gpus[i];
        assert_true(x->slice == y->slice && x->device == y->device && x->stream == y->stream &&
                    x->blocks == y->blocks && x->threads == y->threads && x->bytes == y->bytes);
    }
    for (size_t i = 0; i < a->counter_count; i++) {
        const fm_trace_counter *x = &a->counters[i], *y = &b->counters[i];
        assert_true(x->at_ns == y->at_ns && x->value == y->value && x->name == y->name &&
                    x->series == y->series && x->track == y->track);
    }
    for (size_t i = 0; i < a->flow_count; i++) {
        const fm_trace_flow *x = &a->flows[i], *y = &b->flows[i];
        assert_true(x->at_ns == y->at_ns && x->id == y->id && x->name == y->name &&
                    x->category == y->category && x->track == y->track && x->phase == y->phase);
    }
    assert_int_equal(a->text_count, b->text_count);
    for (uint32_t i = 0; i < a->text_count; i++)
        assert_string_equal(text(a, i), text(b, i));
    for (size_t i = 0; i < a->slice_count; i++) {
        assert_int_equal(a->args[i].length, b->args[i].length);
        assert_memory_equal(a->args_text + a->args[i].offset, b->args_text + b->args[i].offset,
                            a->args[i].length);
    }
    for (size_t i = 0; i < a->file_count; i++) {
        const fm_trace_file *x = &a->files[i], *y = &b->files[i];
        assert_true(x->bytes == y->bytes && x->events == y->events && x->skipped == y->skipped &&
                    x->unmatched == y->unmatched && x->rank == y->rank && x->world_size == y->world_size &&
                    x->multiprocessors == y->multiprocessors);
        assert_string_equal(x->device, y->device);
    }
}

/* What makes a large trace hard to read in parts. */
enum trouble { NO_TROUBLE, FAKE_EVENTS, BEGINS_AND_ENDS };

/* A file of 10 MB; `length` is cut off it where it is not 0. */
static const char *make_large(enum trouble trouble, size_t length)
{
    enum { BYTES = 10 << 20 };
    char *json = fm_base_mem_alloc(BYTES + 2000), *to = json;
    assert_non_null(json);
    to += sprintf(
        to,
        "{\"deviceProperties\":[{\"name\":\"D\",\"numSms\":9}],\"baseTimeNanoseconds\":5,\"traceEvents\":[");
    for (int i = 0; to - json < BYTES; i++) {
        // Arguments that look like an event.
        const char *fake = trouble == FAKE_EVENTS ? ",{\"ph\":\"X\",\"ts\":1}" : "";
        static const char *const phases[] = {"X", "X", "s", "f", "C", "i"};
        const char *phase = trouble == BEGINS_AND_ENDS ? i % 2 ? "E" : "B" : phases[i % 6];
        to += sprintf(to,
                      "%s\n{\"ph\":\"%s\",\"cat\":\"%s\",\"name\":\"n%d\",\"pid\":\"p%d\",\"tid\":%d,\"ts\":%"
                      "d.5,\"dur\":3,"
                      "\"id\":\"0x%x\",\"args\":{\"stream\":%d,\"fake\":[{}%s]}}",
                      i ? "," : "", phase, i % 3 ? "cpu_op" : "kernel", i % 1000, i % 5, i / 70000, i,
                      i % 9000, i % 4, fake);
    }
    to += sprintf(to, "\n],\"distributedInfo\":{\"rank\":3,\"world_size\":8}}");
    const char *path = fm_test_file("large.json", json, length ? length : (size_t)(to - json));
    fm_base_mem_free(json);
    return path;
}

static fm_trace *read_by(const char *path, int threads)
{
    fm_trace_read_options options = {.size = sizeof options, .keep_args = 1, .threads = threads};
    const char *twice[] = {path, path};
    fm_trace *trace;
    assert_ok(fm_trace_data_read(twice, 2, &options, &trace));
    return trace;
}

static void parts_make_the_same_trace(void **state)
{
    (void)state;
    for (enum trouble trouble = NO_TROUBLE; trouble <= BEGINS_AND_ENDS; trouble++) {
        const char *path = make_large(trouble, 0);
        fm_trace *one = read_by(path, 1), *many = read_by(path, 4);
        assert_same_trace(one, many);
        fm_trace_data_free(one);
        fm_trace_data_free(many);
    }
}

static void damage_in_a_part_names_its_place(void **state)
{
    (void)state;
    char messages[2][512];
    const char *path = make_large(NO_TROUBLE, 9 << 20);
    for (int i = 0; i < 2; i++) {
        fm_trace_read_options options = {.size = sizeof options, .threads = 1 + 3 * i};
        fm_trace *trace;
        assert_fails(fm_trace_data_read(&path, 1, &options, &trace), FM_ERR_FORMAT, "ends inside an event");
        snprintf(messages[i], sizeof messages[i], "%s", fm_error_message());
    }
    assert_string_equal(messages[0], messages[1]);
}

static void arguments_are_kept(void **state)
{
    (void)state;
    static const char json[] =
        "[{\"ph\":\"X\",\"ts\":1,\"args\":{\"k\": [1, \"}\"]}},{\"ph\":\"X\",\"ts\":1}]";
    fm_trace_read_options options = {.size = sizeof options, .keep_args = 1};
    fm_trace *trace;
    assert_ok(fm_trace_data_parse(json, sizeof json - 1, "t", &options, &trace));
    assert_int_equal(trace->args[0].length, 15);
    assert_memory_equal(trace->args_text + trace->args[0].offset, "{\"k\": [1, \"}\"]}", 15);
    assert_int_equal(trace->args[1].length, 0);
    fm_trace_data_free(trace);
    options.size = 3;
    assert_fails(fm_trace_data_parse(json, 1, "t", &options, &trace), FM_ERR_ARG, "size =");
}

static void the_published_trace(void **state)
{
    (void)state;
    const char *path = fm_test_shared("data/profile/train.json");
    fm_trace *trace;
    assert_ok(fm_trace_data_read(&path, 1, NULL, &trace));
    assert_int_equal(trace->files[0].events, 14240);
    assert_int_equal(trace->gpu_count, 983);
    assert_int_equal(trace->slice_count, 4387 + 3853 + 963 + 42 + 40 + 20 + 2 + 1);
    assert_int_equal(trace->flow_count, 3836 + 1040 + 16);
    assert_int_equal(trace->files[0].bytes, 3132978);
    assert_int_equal(trace->files[0].multiprocessors, 132);
    assert_int_equal(trace->files[0].world_size, 64);
    int64_t sum = 0;
    for (size_t i = 0; i < trace->gpu_count; i++)
        sum += trace->slices[trace->gpus[i].slice].duration_ns;
    assert_int_equal(sum, 244069000);
    fm_trace_data_free(trace);
}

static fm_status parse_small(void *unused)
{
    (void)unused;
    static const char json[] = "[{\"ph\":\"B\",\"name\":\"a\\n\",\"pid\":\"p\",\"tid\":1,\"ts\":1,\"args\":{"
                               "\"x\":1}},{\"ph\":\"b\",\"cat\":\"c\",\"id\":1,"
                               "\"pid\":1,\"tid\":2,\"ts\":1},{\"ph\":\"X\",\"cat\":\"kernel\",\"ts\":1,"
                               "\"dur\":1},{\"ph\":\"s\",\"id\":1,\"ts\":1},"
                               "{\"ph\":\"C\",\"ts\":1,\"args\":{\"v\":1}}]";
    fm_trace_read_options options = {.size = sizeof options, .keep_args = 1};
    fm_trace *trace;
    fm_status status = fm_trace_data_parse(json, sizeof json - 1, "t", &options, &trace);
    if (status == FM_OK)
        fm_trace_data_free(trace);
    return status;
}

static void without_memory(void **state)
{
    (void)state;
    fm_test_each_alloc_fails(parse_small, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(empty_traces),
        cmocka_unit_test(every_phase),
        cmocka_unit_test(times_relative_to_a_base),
        cmocka_unit_test(damage_names_its_place),
        cmocka_unit_test(salvage_takes_what_is_whole),
        cmocka_unit_test(events_across_buffers),
        cmocka_unit_test(too_large_an_event),
        cmocka_unit_test(parts_make_the_same_trace),
        cmocka_unit_test(damage_in_a_part_names_its_place),
        cmocka_unit_test(arguments_are_kept),
        cmocka_unit_test(the_published_trace),
        cmocka_unit_test(without_memory),
    };
    return fm_test_run("trace_read", tests);
}
