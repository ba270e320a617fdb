#include "fm_test.h"

#include "fm_gen.h"
#include "pond_entry.h"

static int by_value(const void *a, const void *b)
{
    const fm_pond_entry *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

// Keys of every kind that distribution could stumble over: wide, narrow, few, exponential, all equal.
static fm_pond_entry draw(fm_gen *gen, int kind, uint64_t place)
{
    uint64_t high = fm_gen_u64(gen);
    uint64_t low = fm_gen_u64(gen) >> FM_POND_PLACE_BITS;
    switch (kind) {
    case 0:
        break;
    case 1:
        high = 42 + high % 3;
        break;
    case 2:
        high >>= high % 64;
        break;
    case 3:
        high = 7, low %= 5;
        break;
    case 4:
        high = low = 0;
        break;
    default:
        high = ~(uint64_t)0, low = 0xFFFF;
    }
    return (fm_pond_entry)high << 64 | (fm_pond_entry)low << FM_POND_PLACE_BITS | place;
}

static void sort_like_qsort(fm_gen *gen)
{
    size_t count = (size_t)fm_gen_size(gen, 0, 20000);
    int kind = (int)fm_gen_int(gen, 0, 5);
    fm_pond_entry *from = fm_base_mem_alloc((count + 1) * sizeof *from);
    fm_pond_entry *to = fm_base_mem_alloc((count + 1) * sizeof *to);
    fm_pond_entry *expected = fm_base_mem_alloc((count + 1) * sizeof *expected);
    assert_true(from && to && expected);
    for (size_t i = 0; i < count; i++)
        expected[i] = from[i] = draw(gen, kind, i);
    qsort(expected, count, sizeof *expected, by_value);
    fm_pond_entries_sort(from, to, count);
    assert_memory_equal(to, expected, count * sizeof *to);
    fm_base_mem_free(from);
    fm_base_mem_free(to);
    fm_base_mem_free(expected);
}

static void it_sorts_entries_like_qsort(void **state)
{
    (void)state;
    fm_gen_property(60, sort_like_qsort);
}

static void classify_by_counting(fm_gen *gen)
{
    enum { COUNT = 500, PADDED = 64 };
    fm_pond_entry entries[COUNT], scratch[COUNT], sorted[COUNT], splitters[PADDED];
    uint16_t parts[COUNT];
    int kind = (int)fm_gen_int(gen, 0, 5);
    size_t wanted = (size_t)fm_gen_int(gen, 1, PADDED);
    for (size_t i = 0; i < COUNT; i++)
        scratch[i] = entries[i] = draw(gen, kind, i);
    fm_pond_entries_sort(scratch, sorted, COUNT);
    fm_pond_splitters_choose(sorted, COUNT, wanted, PADDED, splitters);
    fm_pond_entries_classify(entries, COUNT, splitters, PADDED, parts);
    size_t sizes[PADDED] = {0};
    for (size_t i = 0; i < COUNT; i++) {
        size_t below = 0;
        while (below < PADDED - 1 && splitters[below] <= entries[i])
            below++;
        assert_int_equal(parts[i], below);
        sizes[parts[i]]++;
    }
    // Even equal keys are cut into equal parts: all entries were the sample here.
    for (size_t part = 0; part < PADDED; part++)
        assert_true(part < wanted ? sizes[part] <= COUNT / wanted + 1 : sizes[part] == 0);
}

static void it_classifies_and_cuts_evenly_whatever_the_keys(void **state)
{
    (void)state;
    fm_gen_property(60, classify_by_counting);
}

static void it_orders_keys_as_memcmp_does(void **state)
{
    (void)state;
    const uint8_t records[4][12] = {"\x00\xFF", "\x01", "\x7F\x80\x01", "\x80"};
    fm_pond_entry entries[4];
    fm_pond_entries_make(records[0], 12, 10, 0, 4, entries);
    for (int i = 1; i < 4; i++)
        assert_true(entries[i - 1] < entries[i]);
    assert_int_equal(fm_pond_entry_place(entries[3]), 36);
    // A short key does not look beyond its end.
    fm_pond_entries_make((const uint8_t *)"ab1ab0", 3, 2, 0, 2, entries);
    assert_true(entries[0] < entries[1] && entries[0] >> 48 == entries[1] >> 48);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_sorts_entries_like_qsort),
        cmocka_unit_test(it_classifies_and_cuts_evenly_whatever_the_keys),
        cmocka_unit_test(it_orders_keys_as_memcmp_does),
    };
    return fm_test_run("pond_entry", tests);
}
