#include "fm_test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fathom/fs_kvtrace.h"

enum { REQUESTS = 12031, MEDIAN = REQUESTS / 2, NINTH_DECILE = REQUESTS / 10 * 9 }; // of the published trace

static double hits_of(const fm_fs_kvtrace *trace, uint64_t capacity)
{
    uint64_t hits;
    assert_ok(fm_fs_kvtrace_hits(trace, capacity, &hits));
    return (double)hits / (double)trace->block_count;
}

static void assert_near(double value, double expected, double off)
{
    if (!(fabs(value - expected) <= off))
        fail_msg("%g; expected %g, %g at most away", value, expected, off);
}

static int by_value(const void *a, const void *b)
{
    return (*(const uint32_t *)a > *(const uint32_t *)b) - (*(const uint32_t *)a < *(const uint32_t *)b);
}

// What the published trace has, which no line of the drawing says: it must come out of what is drawn.
static void what_is_drawn_has_the_published_shape(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        fm_fs_kvtrace trace;
        double input = 0;
        double output = 0;
        size_t resumed = 0;
        assert_ok(fm_fs_kvtrace_draw(seed, REQUESTS, &trace));
        uint8_t *uses = fm_base_mem_zalloc(trace.distinct, 1);
        uint32_t *lengths = fm_base_mem_zalloc(REQUESTS, sizeof *lengths);
        assert_true(uses && lengths);
        for (size_t i = 0; i < REQUESTS; i++) {
            const fm_fs_kvtrace_request *request = &trace.requests[i];
            lengths[i] = request->input_tokens;
            input += request->input_tokens;
            output += request->output_tokens;
            assert_int_equal(request->count, (request->input_tokens + 511) / 512);
            assert_int_equal(trace.blocks[request->first], 0);
            resumed += request->count > 1 && uses[trace.blocks[request->first + 1]] > 0;
            for (size_t b = 0; b < request->count; b++)
                uses[trace.blocks[request->first + b]] =
                    (uint8_t)(uses[trace.blocks[request->first + b]] +
                              (uses[trace.blocks[request->first + b]] < 9));
        }
        // Table 2 of the paper.
        assert_near(input / REQUESTS, 12035, 1200);
        assert_near(output / REQUESTS, 343, 35);
        assert_near((double)trace.requests[REQUESTS - 1].time_us, 3537e6, 200e6);
        // The rest is of the file. Lengths: its median and its ninth decile.
        qsort(lengths, REQUESTS, sizeof *lengths, by_value);
        assert_near(lengths[MEDIAN], 6909, 700);
        assert_near(lengths[NINTH_DECILE], 27367, 2700);
        // 39 % of its requests go on from more than the block that begins all.
        assert_near((double)resumed / REQUESTS, 0.36, 0.05);
        // 76 % of its blocks are used once, 14 % twice.
        size_t once = 0;
        size_t twice = 0;
        for (uint32_t i = 0; i < trace.distinct; i++) {
            once += uses[i] == 1;
            twice += uses[i] == 2;
        }
        assert_near((double)once / trace.distinct, 0.758, 0.03);
        assert_near((double)twice / trace.distinct, 0.139, 0.03);
        // Least recently used, by capacity: this is what reuse distances decide.
        assert_near(hits_of(&trace, 1000), 0.0445, 0.02);
        assert_near(hits_of(&trace, 5000), 0.110, 0.03);
        assert_near(hits_of(&trace, 10000), 0.211, 0.03);
        assert_near(hits_of(&trace, 20000), 0.288, 0.04);
        assert_near(hits_of(&trace, 30000), 0.326, 0.04);
        // The paper's "approximately 40 %"; 36.6 % of the file's blocks, which the paper's tokens weigh otherwise.
        assert_near(hits_of(&trace, UINT64_MAX), 0.38, 0.03);
        // As the cache fills: 26 % less after 4000 requests, 42 % less after 1000.
        fm_fs_kvtrace_cut(&trace, 4000);
        assert_near(hits_of(&trace, UINT64_MAX), 0.326, 0.04);
        fm_fs_kvtrace_cut(&trace, 1000);
        assert_near(hits_of(&trace, UINT64_MAX), 0.212, 0.06);
        fm_base_mem_free(lengths);
        fm_base_mem_free(uses);
        fm_fs_kvtrace_free(&trace);
    }
}

static void longer_ones_begin_as_shorter_ones(void **state)
{
    (void)state;
    fm_fs_kvtrace shorter;
    fm_fs_kvtrace longer;
    fm_fs_kvtrace other;
    assert_ok(fm_fs_kvtrace_draw(7, 100, &shorter));
    assert_ok(fm_fs_kvtrace_draw(7, 1000, &longer));
    assert_ok(fm_fs_kvtrace_draw(8, 100, &other));
    assert_memory_equal(shorter.blocks, longer.blocks, shorter.block_count * sizeof *shorter.blocks);
    for (size_t i = 0; i < 100; i++) {
        assert_int_equal(shorter.requests[i].time_us, longer.requests[i].time_us);
        assert_true(i == 0 || shorter.requests[i].time_us >= shorter.requests[i - 1].time_us);
    }
    assert_true(other.block_count != shorter.block_count);
    fm_fs_kvtrace_cut(&longer, 100);
    assert_int_equal(longer.distinct, shorter.distinct);
    assert_int_equal(longer.block_count, shorter.block_count);
    fm_fs_kvtrace_free(&shorter);
    fm_fs_kvtrace_free(&longer);
    fm_fs_kvtrace_free(&other);
    assert_fails(fm_fs_kvtrace_draw(7, 0, &other), FM_ERR_ARG, "0 requests");
    assert_fails(fm_fs_kvtrace_draw(7, SIZE_MAX, &other), FM_ERR_ARG, "expected 1 to");
}

static fm_status draw_some(void *context)
{
    fm_fs_kvtrace trace;
    (void)context;
    FM_TRY(fm_fs_kvtrace_draw(1, 300, &trace));
    fm_fs_kvtrace_free(&trace);
    return FM_OK;
}

static void lack_of_memory_is_survived(void **state)
{
    (void)state;
    fm_test_each_alloc_fails(draw_some, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_drawn_has_the_published_shape),
        cmocka_unit_test(longer_ones_begin_as_shorter_ones),
        cmocka_unit_test(lack_of_memory_is_survived),
    };
    return fm_test_run("kvtrace_draw", tests);
}
