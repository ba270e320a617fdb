#include "eplb_keys.h"

#include "fm_gen.h"
#include "fm_test.h"

enum { KEYS_MAX = 600 };

static void keys_sort_by_value_and_keep_ties_in_order(fm_gen *gen)
{
    uint64_t keys[KEYS_MAX];
    uint64_t scratch[KEYS_MAX];
    int count = (int)fm_gen_size(gen, 0, KEYS_MAX);
    int values = (int)fm_gen_size(gen, 1, 1000); // few values give many ties
    for (int i = 0; i < count; i++) {
        float value = (float)fm_gen_int(gen, 0, values) * 0.37F;
        keys[i] = fm_eplb_key(fm_eplb_float_bits(value), (uint32_t)i);
    }
    uint64_t sum = 0;
    for (int i = 0; i < count; i++)
        sum += keys[i];
    fm_eplb_keys_sort(keys, scratch, count);
    for (int i = 1; i < count; i++)
        assert_true(keys[i - 1] < keys[i]); // the index in the lower half settles ties
    for (int i = 0; i < count; i++)
        sum -= keys[i];
    assert_int_equal(sum, 0);
}

static void a_heap_yields_its_keys_in_order(fm_gen *gen)
{
    uint64_t heap[KEYS_MAX];
    int count = (int)fm_gen_size(gen, 1, KEYS_MAX);
    for (int i = 0; i < count; i++)
        fm_eplb_heap_push(heap, i, fm_gen_u64(gen) >> 1);
    uint64_t last = 0;
    for (int left = count; left > 0;) {
        assert_true(heap[0] >= last);
        last = heap[0];
        heap[0] = heap[--left];
        if (left > 0)
            fm_eplb_heap_sink(heap, left, 0);
    }
}

static void keys_property(void **state)
{
    (void)state;
    fm_gen_property(300, keys_sort_by_value_and_keep_ties_in_order);
    fm_gen_property(300, a_heap_yields_its_keys_in_order);
}

static void floats_order_like_their_keys(void **state)
{
    (void)state;
    const float ascending[] = {0, 1e-45F, 1e-38F, 0.5F, 1, 1.0000001F, 3e38F};
    for (size_t i = 1; i < sizeof ascending / sizeof ascending[0]; i++)
        assert_true(fm_eplb_float_bits(ascending[i - 1]) < fm_eplb_float_bits(ascending[i]));
    assert_int_equal(fm_eplb_float_bits(-0.0F), fm_eplb_float_bits(0.0F));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_property),
        cmocka_unit_test(floats_order_like_their_keys),
    };
    return fm_test_run("eplb.keys", tests);
}
