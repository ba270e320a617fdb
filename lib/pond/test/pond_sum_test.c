#include "fm_test.h"

#include "fathom/pond_records.h"
#include "fm_gen.h"

static void sum_without_order(fm_gen *gen)
{
    enum { COUNT = 20, SIZE_MAX_BYTES = 130 };
    uint8_t records[COUNT * SIZE_MAX_BYTES];
    size_t size = (size_t)fm_gen_int(gen, 1, SIZE_MAX_BYTES);
    fm_gen_fill(gen, records, COUNT * size);
    fm_pond_sum forward = {0}, backward = {0}, changed = {0};
    fm_pond_sum_add(&forward, records, size, COUNT);
    for (int i = COUNT - 1; i >= 0; i--)
        fm_pond_sum_add(&backward, records + (size_t)i * size, size, 1);
    assert_int_equal(forward.records, COUNT);
    assert_memory_equal(&forward, &backward, sizeof forward);
    records[fm_gen_int(gen, 0, (int64_t)(COUNT * size) - 1)] ^= (uint8_t)(1 << fm_gen_int(gen, 0, 7));
    fm_pond_sum_add(&changed, records, size, COUNT);
    assert_true(changed.hash != forward.hash);
}

static void it_depends_on_every_bit_and_not_on_order(void **state)
{
    (void)state;
    fm_gen_property(300, sum_without_order);
}

static void it_tells_exchanged_halves_apart(void **state)
{
    (void)state;
    // Two records that swap their tails hold the same bytes, and are other records.
    fm_pond_sum a = {0}, b = {0};
    fm_pond_sum_add(&a, "AAAAAAAAAAAAAAAA1111111111111111BBBBBBBBBBBBBBBB2222222222222222", 32, 2);
    fm_pond_sum_add(&b, "AAAAAAAAAAAAAAAA2222222222222222BBBBBBBBBBBBBBBB1111111111111111", 32, 2);
    assert_true(a.hash != b.hash);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_depends_on_every_bit_and_not_on_order),
        cmocka_unit_test(it_tells_exchanged_halves_apart),
    };
    return fm_test_run("pond_sum", tests);
}
