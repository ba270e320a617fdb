#include "fm_test.h"
#include "fm_gen.h"

#include "read_ways.h"

enum { TEXT_BYTES = 40000 };

struct draft {
    char text[TEXT_BYTES];
    size_t length;
};

static void put(struct draft *draft, const char *text)
{
    size_t length = strlen(text);
    if (length < TEXT_BYTES - draft->length) {
        memcpy(draft->text + draft->length, text, length);
        draft->length += length;
    }
}

static const char *pick(fm_gen *gen, const char *const *from, size_t count)
{
    return from[fm_gen_int(gen, 0, (int64_t)count - 1)];
}

#define PICK(gen, ...) \
    pick(gen, (const char *const[]){__VA_ARGS__}, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

/* A value: mostly what belongs there, now and then something else. */
static void put_value(fm_gen *gen, struct draft *draft, const char *usual)
{
    char number[32];
    if (usual[0] == '#') {
        snprintf(number, sizeof number, "%lld", (long long)fm_gen_size(gen, 0, INT64_C(3000000000000000)));
        usual = number;
    }
    put(draft,
        fm_gen_chance(gen, 0.97)
            ? usual
            : PICK(gen, "", "[1, -2, 3]", "1.5", "-3", "1e3", "true", "null", "NaN", "\"7\"", "\"a\\\"b\"",
                   "\"\\u0041\"", "[]", "[1, 2]", "{\"a\": [\"]\"]}", "[[1, [2]], {\"b\": \"{\"}, 3]",
                   "[1, 2}", "{\"a\": \"\\\\\"}", "{\"a\": \"\\\"]}\"}", "[\"\\\"[\"]", "\"\"",
                   "12345678901234567890123", "{}", "1 ", "0x1f", "\"\xFF\x01\"", "[1,2,]", "x_y"));
}

/* What the events of one kind have in common. */
struct layout {
    const char *comma, *phase, *category, *pid, *tid;
    int args_first;
    int64_t first_arg, arg_count;
};

static struct layout draw_layout(fm_gen *gen)
{
    return (struct layout){
        .comma = PICK(gen, ", ", ",\n    "),
        .phase = PICK(gen, "X", "X", "X", "X", "i", "s", "f", "B", "E", "C", "b", "e", "M"),
        .category = PICK(gen, "\"kernel\"", "\"cpu_op\"", "\"ac2g\""),
        .pid = PICK(gen, "1", "\"main\""),
        .tid = PICK(gen, "2", "\"\""),
        .args_first = fm_gen_chance(gen, 0.2),
        .first_arg = fm_gen_int(gen, 0, 5),
        .arg_count = fm_gen_int(gen, 0, 6),
    };
}

static void put_args(fm_gen *gen, struct draft *draft, const struct layout *layout)
{
    static const char *const keys[] = {"External id", "correlation", "stream",    "device",
                                       "bytes",       "grid",        "block",     "name",
                                       "correlatXYZ", "x",           "Input Dims"};
    put(draft, "{");
    for (int64_t i = layout->first_arg; i < layout->first_arg + layout->arg_count; i++) {
        put(draft, i > layout->first_arg ? layout->comma : "");
        put(draft, "\"");
        put(draft, keys[i]);
        put(draft, "\": ");
        put_value(gen, draft,
                  i == 5 || i == 6 ? PICK(gen, "[1, 2, 3]", "[4096,1,1]", "[99999, 99999]")
                  : i == 7         ? "\"n\""
                                   : "#");
    }
    put(draft, "}");
}

static void put_member(fm_gen *gen, struct draft *draft, const struct layout *layout, int key)
{
    static const char *const keys[] = {"cat", "name", "pid", "tid", "ts", "dur", "id", "args"};
    const char *const usual[] = {
        layout->category,
        PICK(gen, "\"aten::add\"", "\"a\"",
             "\"void k<1, 2>(char const*, int, long long name that goes on and on, past a register)\""),
        layout->pid, layout->tid};
    put(draft, layout->comma);
    put(draft, "\"");
    put(draft, keys[key]);
    put(draft, "\": ");
    if (key == 7)
        put_args(gen, draft, layout);
    else
        put_value(gen, draft, key < 4 ? usual[key] : "#");
}

static void put_event(fm_gen *gen, struct draft *draft, const struct layout *layout)
{
    put(draft, "{\"ph\": \"");
    put(draft, layout->phase);
    put(draft, "\"");
    for (int i = 0; i < 8; i++)
        if (!fm_gen_chance(gen, 0.01))
            put_member(gen, draft, layout, layout->args_first ? 7 - i : i);
    put(draft, "}");
}

/* What is done to a text that was whole. */
static void damage(fm_gen *gen, struct draft *draft)
{
    for (int64_t i = fm_gen_int(gen, 0, 3); i > 0 && draft->length > 1; i--) {
        size_t at = (size_t)fm_gen_int(gen, 0, (int64_t)draft->length - 1);
        if (fm_gen_chance(gen, 0.3))
            draft->length = at;
        else
            draft->text[at] = (char)(fm_gen_chance(gen, 0.5) ? "\"\\{}[],: \n0a"[fm_gen_int(gen, 0, 11)]
                                                             : fm_gen_int(gen, 0, 255));
    }
}

static void all_ways_property(fm_gen *gen)
{
    static struct draft draft;
    fm_trace_shape_kernel kernels[4];
    int ways = read_ways(kernels), keep_args = fm_gen_chance(gen, 0.5), salvage = fm_gen_chance(gen, 0.3);
    char expected[512], message[512];
    struct layout layouts[3] = {draw_layout(gen), draw_layout(gen), draw_layout(gen)};
    draft.length = 0;
    put(&draft, "{\"traceEvents\": [");
    for (int64_t i = 0, count = fm_gen_size(gen, 1, 60); i < count; i++) {
        put(&draft, i == 0 ? "" : fm_gen_chance(gen, 0.95) ? ",\n" : PICK(gen, " , ", ",", "\n", " "));
        put_event(gen, &draft, &layouts[fm_gen_int(gen, 0, 2)]);
    }
    put(&draft, "]}");
    if (fm_gen_chance(gen, 0.5))
        damage(gen, &draft);
    fm_trace *first = read_this_way(draft.text, draft.length, NULL, keep_args, salvage, expected);
    assert_non_null(first);
    for (int i = 1; i < ways; i++) {
        fm_trace *trace = read_this_way(draft.text, draft.length, kernels[i], keep_args, salvage, message);
        assert_non_null(trace);
        assert_string_equal(message, expected);
        const char *what = different(first, trace);
        if (what)
            fail_msg("way %d: not the same: %s, in %.*s", i, what, (int)draft.length, draft.text);
        fm_trace_data_free(trace);
    }
    fm_trace_data_free(first);
}

static void shapes_read_as_the_decoder(void **state)
{
    (void)state;
    fm_gen_property(3000, all_ways_property);
}

/* Reads `text` by shapes alone as far as that goes, and returns how many events they took. */
static uint32_t taken_by_shapes(const char *text)
{
    struct fm_trace_store *store;
    struct fm_trace_reader reader;
    assert_ok(fm_trace_store_create(0, &store));
    assert_ok(fm_trace_store_begin_file(store, "t"));
    fm_trace_reader_init(&reader, store, "t");
    reader.memory = text;
    reader.memory_end = text + strlen(text);
    assert_ok(fm_trace_reader_run(&reader));
    uint32_t met = reader.shapes.met;
    fm_trace_reader_clear(&reader);
    fm_trace_data_free(&store->trace);
    return met;
}

static void shapes_are_learnt_from_one_event(void **state)
{
    (void)state;
    char text[4000] = "[";
    for (int i = 0; i < 10; i++)
        snprintf(
            text + strlen(text), sizeof text - strlen(text),
            "%s{\"ph\":\"X\",\"cat\":\"kernel\",\"name\":\"k%d\",\"pid\":0,\"tid\":7,\"ts\":%d.5,\"dur\":%d,"
            "\"args\":{\"device\":0,\"stream\":7,\"grid\":[%d,1,1],\"Kind\":\"%d\",\"x\":{\"y\":[true,%d]}}}",
            i ? "," : "", i, 1 << i, i, i, i, i);
    strcat(text, "]");
    // The first has no comma before it, the second teaches; near the end of the text the decoder looks.
    assert_int_equal(taken_by_shapes(text), 8);
}

/* Events that are all of shapes of their own: the tree fills, is begun anew, and is left alone for a while. */
static void too_many_shapes(void **state)
{
    (void)state;
    enum { EVENTS = 20000, EVENT_BYTES = 120 };
    char *text = fm_base_mem_alloc(EVENTS * EVENT_BYTES + 16), message[512];
    assert_non_null(text);
    size_t length = (size_t)sprintf(text, "[");
    for (int i = 0; i < EVENTS; i++)
        length += (size_t)sprintf(
            text + length,
            "%s{\"ph\":\"X\",\"name\":\"n\",\"pid\":%d,\"tid\":%d,\"ts\":%d,\"dur\":1,\"args\":{\"k%d\":1}}",
            i ? "," : "", i % 7, i, i, i * 37 % 1999);
    strcpy(text + length, "]");
    fm_trace_shape_kernel kernels[4];
    fm_trace *first = read_this_way(text, length + 1, NULL, 0, 0, message);
    assert_string_equal(message, "");
    assert_int_equal(first->slice_count, EVENTS);
    for (int i = 1, ways = read_ways(kernels); i < ways; i++) {
        fm_trace *trace = read_this_way(text, length + 1, kernels[i], 0, 0, message);
        assert_null(different(first, trace));
        fm_trace_data_free(trace);
    }
    fm_trace_data_free(first);
    fm_base_mem_free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shapes_read_as_the_decoder),
        cmocka_unit_test(shapes_are_learnt_from_one_event),
        cmocka_unit_test(too_many_shapes),
    };
    return fm_test_run("shape", tests);
}
