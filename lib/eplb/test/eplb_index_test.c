#include "eplb_index.h"

#include "fm_gen.h"
#include "fm_test.h"

enum { COUNT_MAX = 40 };

static void every_slot_is_found_under_its_expert(fm_gen *gen)
{
    fm_eplb_shape shape = {.layers = 1, .groups = 1, .nodes = 1};
    shape.experts = (int)fm_gen_int(gen, 1, COUNT_MAX);
    shape.gpus = (int)fm_gen_int(gen, 1, COUNT_MAX);
    int slots = (int)fm_gen_int(gen, 1, COUNT_MAX);
    int32_t phy2log[COUNT_MAX];
    for (int slot = 0; slot < slots; slot++)
        phy2log[slot] = (int32_t)fm_gen_int(gen, -1, shape.experts - 1);
    fm_eplb_index index;
    assert_ok(fm_eplb_index_init(&index, &shape, slots, NULL));
    fm_eplb_index_build(&index, phy2log);
    int seen = 0;
    for (int e = 0; e < shape.experts; e++)
        for (int32_t i = index.begin[e]; i < index.begin[e + 1]; i++) {
            assert_int_equal(phy2log[index.slot[i]], e);
            assert_true(i == index.begin[e] || index.slot[i - 1] < index.slot[i]);
            seen++;
        }
    for (int slot = 0; slot < slots; slot++) {
        seen -= phy2log[slot] >= 0;
        int gpu = index.gpu[slot];
        assert_in_range(slot, index.slot_begin[gpu], index.slot_begin[gpu + 1] - 1);
    }
    assert_int_equal(seen, 0);
    fm_eplb_index_clean_up(&index);
}

static void index_property(void **state)
{
    (void)state;
    fm_gen_property(200, every_slot_is_found_under_its_expert);
}

static void slots_spread_evenly(void **state)
{
    (void)state;
    int32_t begin[9];
    fm_eplb_shape global = {1, 12, 18, 3, 2, 8};
    fm_eplb_slot_begin(&global, 18, NULL, begin); // 3 3 2 2 2 2 2 2
    assert_int_equal(begin[2], 6);
    assert_int_equal(begin[8], 18);
    fm_eplb_shape hierarchical = {1, 12, 18, 4, 2, 8};
    fm_eplb_slot_begin(&hierarchical, 18, NULL, begin); // 3 2 2 2 on each node
    assert_int_equal(begin[1], 3);
    assert_int_equal(begin[4], 9);
    assert_int_equal(begin[5], 12);
    const int32_t given[8] = {4, 0, 5, 1, 2, 2, 2, 2};
    fm_eplb_slot_begin(&global, 18, given, begin);
    assert_int_equal(begin[1], 4);
    assert_int_equal(begin[3], 9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(index_property),
                                       cmocka_unit_test(slots_spread_evenly)};
    return fm_test_run("eplb.index", tests);
}
