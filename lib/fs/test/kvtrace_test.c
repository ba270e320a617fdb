#include "fm_test.h"
#include "fm_gen.h"

#include <string.h>

#include "fathom/fs_kvtrace.h"

static fm_status parse(const char *text, fm_fs_kvtrace *out_trace)
{
    return fm_fs_kvtrace_parse(text, strlen(text), "trace.jsonl", out_trace);
}

static void both_published_formats_are_read(void **state)
{
    (void)state;
    fm_fs_kvtrace trace;
    assert_ok(parse(
        "{\"timestamp\": 3000, \"input_length\": 1200, \"output_length\": 52, \"hash_ids\": [46, 47, 2353]}\n"
        "\r\n\n"
        "{\"timestamp\": 3000, \"input_length\": 700, \"output_length\": 1, \"hash_ids\": [46, -7]}\n"
        "{\"chat_id\": 9, \"parent_chat_id\": -1, \"timestamp\": 61.114, \"input_length\": 0, "
        "\"output_length\": 3, \"type\": \"text\", \"turn\": 1, \"hash_ids\": []}\n"
        "{\"hash_ids\":[46,47,-7],\"timestamp\":61200.5,\"input_length\":4294967295,\"output_length\":0}",
        &trace));
    const uint32_t blocks[] = {0, 1, 2, 0, 3, 0, 1, 3};
    assert_int_equal(trace.count, 4);
    assert_int_equal(trace.distinct, 4);
    assert_int_equal(trace.block_count, 8);
    assert_memory_equal(trace.blocks, blocks, sizeof blocks);
    assert_int_equal(trace.requests[0].time_us, 3000000);
    assert_int_equal(trace.requests[2].time_us, 61114000);
    assert_int_equal(trace.requests[3].time_us, 61200500);
    assert_int_equal(trace.requests[3].input_tokens, UINT32_MAX);
    assert_true(trace.requests[1].first == 3 && trace.requests[1].count == 2 && trace.requests[2].count == 0);
    fm_fs_kvtrace_cut(&trace, 9);
    assert_int_equal(trace.count, 4);
    fm_fs_kvtrace_cut(&trace, 1);
    assert_true(trace.count == 1 && trace.block_count == 3 && trace.distinct == 3);
    fm_fs_kvtrace_cut(&trace, 0);
    assert_true(trace.count == 0 && trace.block_count == 0 && trace.distinct == 0);
    fm_fs_kvtrace_free(&trace);
    fm_fs_kvtrace_free(NULL);
}

#define GOOD "{\"timestamp\": 5, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": [1]}\n"

static void a_bad_line_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *line, *message;
    } cases[] = {
        {"{\"timestamp\": 5, ", "trace.jsonl:3"},
        {"[]", "trace.jsonl:3:1: a request"},
        {"{\"input_length\": 1, \"output_length\": 1, \"hash_ids\": [1]}", "timestamp is missing"},
        {"{\"timestamp\": -1, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": [1]}",
         "timestamp is -1"},
        {"{\"timestamp\": 1e300, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": [1]}", "to a year"},
        {"{\"timestamp\": 4, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": [1]}",
         "before that of"},
        {"{\"timestamp\": 5, \"input_length\": -1, \"output_length\": 1, \"hash_ids\": [1]}",
         "input_length is -1"},
        {"{\"timestamp\": 5, \"input_length\": 1, \"output_length\": 1.5, \"hash_ids\": [1]}",
         "output_length"},
        {"{\"timestamp\": 5, \"input_length\": 1, \"output_length\": 1}", "hash_ids is missing"},
        {"{\"timestamp\": 5, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": 1}", "hash_ids"},
        {"{\"timestamp\": 5, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": [\"a\"]}",
         "a hash id is"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[400];
        fm_fs_kvtrace trace = {.count = 77};
        snprintf(text, sizeof text, "%s\n%s\n%s", GOOD, cases[i].line, GOOD);
        assert_fails(parse(text, &trace), FM_ERR_FORMAT, cases[i].message);
        assert_fails(parse(text, &trace), FM_ERR_FORMAT, "trace.jsonl:3");
        assert_int_equal(trace.count, 77);
    }
    fm_fs_kvtrace trace;
    assert_fails(parse("", &trace), FM_ERR_FORMAT, "no request");
    assert_fails(parse("\n\n", &trace), FM_ERR_FORMAT, "no request");
    assert_fails(fm_fs_kvtrace_parse(NULL, 1, "x", &trace), FM_ERR_ARG, "NULL");
}

// What a plain list of the blocks held, in the order of their last use, finds.
static uint64_t hits_of_list(const fm_fs_kvtrace *trace, size_t capacity)
{
    uint32_t held[64];
    size_t count = 0;
    uint64_t hits = 0;
    for (size_t r = 0; r < trace->count; r++) {
        int known = 1;
        for (size_t b = 0; b < trace->requests[r].count; b++) {
            uint32_t block = trace->blocks[trace->requests[r].first + b];
            size_t at = 0;
            while (at < count && held[at] != block)
                at++;
            known = known && at < count;
            hits += (uint64_t)known;
            if (at == count)
                count++;
            memmove(held + 1, held, at * sizeof *held);
            held[0] = block;
            if (count > capacity)
                count = capacity;
        }
    }
    return hits;
}

static void any_trace(fm_gen *gen)
{
    char text[8000] = "";
    size_t length = 0;
    fm_fs_kvtrace trace;
    int requests = (int)fm_gen_int(gen, 1, 30);
    for (int i = 0; i < requests; i++) {
        length +=
            (size_t)snprintf(text + length, sizeof text - length,
                             "{\"timestamp\":%d,\"input_length\":1,\"output_length\":1,\"hash_ids\":[", i);
        int blocks = (int)fm_gen_int(gen, 0, 9);
        for (int b = 0; b < blocks; b++)
            length += (size_t)snprintf(text + length, sizeof text - length, "%s%d", b ? "," : "",
                                       (int)fm_gen_int(gen, 0, 39) * 1000);
        length += (size_t)snprintf(text + length, sizeof text - length, "]}\n");
    }
    assert_ok(parse(text, &trace));
    for (size_t capacity = 1; capacity < 50; capacity += 3) {
        uint64_t hits;
        assert_ok(fm_fs_kvtrace_hits(&trace, capacity, &hits));
        assert_int_equal(hits, hits_of_list(&trace, capacity));
    }
    fm_fs_kvtrace_free(&trace);
}

static void hits_are_those_of_a_list(void **state)
{
    (void)state;
    uint64_t hits;
    fm_fs_kvtrace trace;
    fm_gen_property(100, any_trace);
    // 1 2 3, then 1 2 4, then 3: of two blocks held, none; of all, the first two of the second and the third's.
    assert_ok(parse("{\"timestamp\":0,\"input_length\":1,\"output_length\":1,\"hash_ids\":[1,2,3]}\n"
                    "{\"timestamp\":0,\"input_length\":1,\"output_length\":1,\"hash_ids\":[1,2,4]}\n"
                    "{\"timestamp\":0,\"input_length\":1,\"output_length\":1,\"hash_ids\":[3]}\n",
                    &trace));
    assert_ok(fm_fs_kvtrace_hits(&trace, 2, &hits));
    assert_int_equal(hits, 0);
    assert_ok(fm_fs_kvtrace_hits(&trace, 3, &hits));
    assert_int_equal(hits, 2);
    assert_ok(fm_fs_kvtrace_hits(&trace, UINT64_MAX, &hits));
    assert_int_equal(hits, 3);
    fm_fs_kvtrace_free(&trace);
}

static void many_ids_keep_their_numbers(void **state)
{
    (void)state;
    enum { IDS = 20000, LINE = 80 };
    char *text = fm_base_mem_alloc((size_t)2 * IDS * LINE);
    size_t length = 0;
    fm_fs_kvtrace trace;
    assert_non_null(text);
    for (uint64_t i = 0; i < (uint64_t)2 * IDS; i++)
        length +=
            (size_t)snprintf(text + length, LINE + 1,
                             "{\"timestamp\":1,\"input_length\":1,\"output_length\":1,\"hash_ids\":[%llu]}\n",
                             (unsigned long long)(i % IDS << 20));
    assert_ok(fm_fs_kvtrace_parse(text, length, "many", &trace));
    assert_int_equal(trace.distinct, IDS);
    for (size_t i = 0; i < trace.block_count; i++)
        assert_int_equal(trace.blocks[i], i % IDS);
    fm_fs_kvtrace_free(&trace);
    fm_base_mem_free(text);
}

static fm_status use_it(void *context)
{
    uint64_t hits;
    fm_fs_kvtrace trace;
    (void)context;
    FM_TRY(parse(GOOD GOOD, &trace));
    fm_status status = fm_fs_kvtrace_hits(&trace, 1, &hits);
    fm_fs_kvtrace_free(&trace);
    return status;
}

static void lack_of_memory_is_survived(void **state)
{
    (void)state;
    fm_test_each_alloc_fails(use_it, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_published_formats_are_read), cmocka_unit_test(a_bad_line_is_named),
        cmocka_unit_test(hits_are_those_of_a_list),        cmocka_unit_test(many_ids_keep_their_numbers),
        cmocka_unit_test(lack_of_memory_is_survived),
    };
    return fm_test_run("kvtrace", tests);
}
