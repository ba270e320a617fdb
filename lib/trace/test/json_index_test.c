#include "fm_test.h"
#include "fm_gen.h"

#include "fathom/cpu.h"
#include "json_index.h"

enum { BYTES_MAX = 700 };

/* Bytes that often are what the index is about. */
static size_t draw(fm_gen *gen, char *text)
{
    static const char alphabet[] = "\"\"\"\\\\\\{}[]:, \n01a\xC3\xFD\x5C\x7B";
    size_t length = (size_t)fm_gen_size(gen, 0, BYTES_MAX);
    double noise = fm_gen_real(gen, 0, 1);
    for (size_t i = 0; i < length; i++)
        text[i] = fm_gen_chance(gen, noise) ? (char)fm_gen_int(gen, 0, 255)
                                            : alphabet[fm_gen_int(gen, 0, sizeof alphabet - 2)];
    return length;
}

static void compare(fm_gen *gen, fm_trace_index_kernel kernel)
{
    static char text[BYTES_MAX + FM_TRACE_INDEX_SLACK];
    static uint32_t expected[BYTES_MAX + FM_TRACE_INDEX_SLACK], got[BYTES_MAX + FM_TRACE_INDEX_SLACK];
    struct fm_trace_index_state expected_state = {0, 0}, state = {0, 0};
    // Several texts one after the other: the state is carried.
    for (int i = 0; i < 3; i++) {
        size_t length = draw(gen, text), from = (size_t)fm_gen_size(gen, 0, (int64_t)length);
        size_t count = fm_trace_index_ref(text, from, length, &expected_state, expected);
        assert_int_equal(kernel(text, from, length, &state, got), count);
        assert_memory_equal(got, expected, count * sizeof *got);
        assert_true(state.in_string == expected_state.in_string);
        assert_true(state.escaped == expected_state.escaped);
    }
}

static void avx2_property(fm_gen *gen)
{
    compare(gen, fm_trace_index_avx2);
}

static void avx512_property(fm_gen *gen)
{
    compare(gen, fm_trace_index_avx512);
}

static void avx2_equals_the_reference(void **state)
{
    (void)state;
    if (fm_base_cpu_isa(FM_ISA_AVX2) < FM_ISA_AVX2)
        fm_test_skip("this CPU lacks AVX2");
    fm_gen_property(2000, avx2_property);
}

static void avx512_equals_the_reference(void **state)
{
    (void)state;
    if (fm_base_cpu_isa(FM_ISA_AVX512) < FM_ISA_AVX512)
        fm_test_skip("this CPU lacks AVX-512");
    fm_gen_property(2000, avx512_property);
}

static void the_reference_by_hand(void **state)
{
    (void)state;
    static const char text[] = "{\"a\\\"{\": [\"\\\\\"]}";
    static const uint32_t expected[] = {0, 1, 6, 9, 10, 13, 14, 15};
    uint32_t got[sizeof text + FM_TRACE_INDEX_SLACK];
    struct fm_trace_index_state index = {0, 0};
    assert_int_equal(fm_trace_index_ref(text, 0, sizeof text - 1, &index, got), 8);
    assert_memory_equal(got, expected, sizeof expected);
    assert_true(index.in_string == 0 && index.escaped == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_reference_by_hand),
        cmocka_unit_test(avx2_equals_the_reference),
        cmocka_unit_test(avx512_equals_the_reference),
    };
    return fm_test_run("json_index", tests);
}
