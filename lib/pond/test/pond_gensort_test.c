#include "fm_test.h"

#include <unistd.h>

#include "fathom/pond_records.h"
#include "fm_gen.h"

enum { SIZE = FM_POND_RECORD_BYTES };

static void it_makes_the_published_first_records(void **state)
{
    (void)state;
    uint8_t record[SIZE];
    fm_pond_records_make(FM_POND_LAYOUT_15, 0, 0, 1, record);
    assert_memory_equal(record, "JimGrayRIP", 10);
    fm_pond_records_make(FM_POND_LAYOUT_ASCII, 0, 0, 1, record);
    assert_memory_equal(record,
                        "AsfAGHM5om  00000000000000000000000000000000  "
                        "0000222200002222000022220000222200002222000000001111\r\n",
                        SIZE);
}

// TeraValidate gives this sum for the first million records, which TeraGen and gensort 1.4 make alike.
static void it_has_the_published_checksum(void **state)
{
    (void)state;
    char folder[512];
    snprintf(folder, sizeof folder, "%s/million", fm_test_tmpdir());
    const char *inputs[] = {folder};
    const fm_pond_make_options make = {.size = sizeof make, .records = 1000000, .layout = FM_POND_LAYOUT_14};
    const fm_pond_sort_options check = {.size = sizeof check};
    fm_pond_check_report report;
    assert_ok(fm_pond_records_write(folder, &make));
    assert_ok(fm_pond_records_check(inputs, 1, &check, &report));
    assert_int_equal(report.records, 1000000);
    assert_int_equal(report.checksum_high, 0);
    assert_true(report.checksum_low == 0x7A27E2D0D55DEULL);
    assert_int_equal(report.duplicate_keys, 0);
}

static void make_any_range(fm_gen *gen)
{
    enum { COUNT = 40 };
    uint8_t all[COUNT * SIZE], part[COUNT * SIZE];
    fm_pond_layout layout = (fm_pond_layout)fm_gen_int(gen, 0, 2);
    int skew = fm_gen_chance(gen, 0.5);
    uint64_t first = fm_gen_u64(gen) >> fm_gen_int(gen, 1, 63);
    uint64_t skip = (uint64_t)fm_gen_int(gen, 0, COUNT - 1);
    fm_pond_records_make(layout, skew, first, COUNT, all);
    fm_pond_records_make(layout, skew, first + skip, COUNT - skip, part);
    assert_memory_equal(part, all + skip * SIZE, (COUNT - skip) * SIZE);
}

static void it_makes_any_range_alone(void **state)
{
    (void)state;
    fm_gen_property(200, make_any_range);
}

static void it_crowds_skewed_keys(void **state)
{
    (void)state;
    enum { COUNT = 1 << 16 };
    uint8_t *records = fm_base_mem_alloc((size_t)COUNT * SIZE);
    assert_non_null(records);
    // Numbers of one length share a pattern: a quarter of the keys and more begin with its 16 bits.
    fm_pond_records_make(FM_POND_LAYOUT_15, 1, COUNT, COUNT, records);
    unsigned most = 0;
    unsigned *counts = fm_base_mem_zalloc(1 << 16, sizeof *counts);
    assert_non_null(counts);
    for (size_t i = 0; i < COUNT; i++) {
        unsigned *count = &counts[records[i * SIZE] << 8 | records[i * SIZE + 1]];
        most = ++*count > most ? *count : most;
    }
    // 33 of 64 lengths replace 16 bits or more.
    assert_in_range(most, COUNT * 48 / 100, COUNT * 55 / 100);
    fm_base_mem_free(counts);
    fm_base_mem_free(records);
}

static void it_writes_none_as_an_empty_file(void **state)
{
    (void)state;
    char folder[512], path[600];
    snprintf(folder, sizeof folder, "%s/none", fm_test_tmpdir());
    snprintf(path, sizeof path, "%s/part-00000.dat", folder);
    fm_pond_make_options make = {.size = sizeof make};
    assert_ok(fm_pond_records_write(folder, &make));
    assert_int_equal(access(path, R_OK), 0);
    make.threads = -1;
    assert_fails(fm_pond_records_write(folder, &make), FM_ERR_ARG, "threads is -1");
    make.size = 3;
    assert_fails(fm_pond_records_write(folder, &make), FM_ERR_ARG, "options.size");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_makes_the_published_first_records),
        cmocka_unit_test(it_has_the_published_checksum),
        cmocka_unit_test(it_makes_any_range_alone),
        cmocka_unit_test(it_crowds_skewed_keys),
        cmocka_unit_test(it_writes_none_as_an_empty_file),
    };
    return fm_test_run("pond_gensort", tests);
}
