#include "fm_test.h"

#include "fathom/pond_records.h"

static fm_pond_check_report check(const char *const *paths, size_t count, uint32_t record, uint32_t key)
{
    const fm_pond_sort_options options = {.size = sizeof options, .record_bytes = record, .key_bytes = key};
    fm_pond_check_report report;
    assert_ok(fm_pond_records_check(paths, count, &options, &report));
    return report;
}

static void it_finds_disorder_and_duplicates(void **state)
{
    (void)state;
    const char *path = fm_test_file("mixed", "a1b1b2c1b3d1", 12);
    fm_pond_check_report report = check(&path, 1, 2, 1);
    assert_int_equal(report.records, 6);
    assert_int_equal(report.duplicate_keys, 1);
    assert_int_equal(report.unordered, 1);
    assert_int_equal(report.first_unordered, 4);
}

static void it_looks_across_files(void **state)
{
    (void)state;
    const char *a = fm_test_file("a", "a1b1", 4), *b = fm_test_file("b", "b2c1", 4);
    const char *forward[] = {a, b}, *backward[] = {b, a};
    fm_pond_check_report report = check(forward, 2, 2, 1);
    assert_int_equal(report.unordered, 0);
    assert_int_equal(report.duplicate_keys, 1);
    fm_pond_check_report other = check(backward, 2, 2, 1);
    assert_int_equal(other.unordered, 1);
    assert_int_equal(other.first_unordered, 2);
    assert_memory_equal(&report.sum, &other.sum, sizeof report.sum);
    assert_true(report.checksum_low == other.checksum_low);
}

static void it_names_what_it_cannot_read(void **state)
{
    (void)state;
    const fm_pond_sort_options options = {.size = sizeof options};
    const fm_pond_sort_options wide = {.size = sizeof options, .record_bytes = 4, .key_bytes = 5};
    fm_pond_check_report report;
    const char *odd = fm_test_file("odd", "12345", 5), *missing = "/nonexistent/file";
    assert_fails(fm_pond_records_check(&odd, 1, &options, &report), FM_ERR_FORMAT, "odd has 5 bytes");
    assert_fails(fm_pond_records_check(&missing, 1, &options, &report), FM_ERR_NOT_FOUND, missing);
    assert_fails(fm_pond_records_check(&odd, 1, &wide, &report), FM_ERR_ARG, "keys of 5");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_finds_disorder_and_duplicates),
        cmocka_unit_test(it_looks_across_files),
        cmocka_unit_test(it_names_what_it_cannot_read),
    };
    return fm_test_run("pond_valsort", tests);
}
