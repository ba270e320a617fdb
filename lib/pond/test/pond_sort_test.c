#include "fm_test.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fathom/file.h"
#include "fathom/interrupt.h"
#include "fathom/pond_records.h"
#include "fm_gen.h"

static size_t given_record, given_key;

static int by_key_then_place(const void *a, const void *b)
{
    const uint8_t *const *x = a, *const *y = b;
    int order = memcmp(*x, *y, given_key);
    return order ? order : (*x > *y) - (*x < *y);
}

// What a stable sort by qsort() of pointers makes of the records.
static uint8_t *sorted_copy(const uint8_t *records, size_t count)
{
    const uint8_t **order = fm_base_mem_alloc((count + 1) * sizeof *order);
    uint8_t *copy = fm_base_mem_alloc(count * given_record + 1);
    assert_true(order && copy);
    for (size_t i = 0; i < count; i++)
        order[i] = records + i * given_record;
    qsort(order, count, sizeof *order, by_key_then_place);
    for (size_t i = 0; i < count; i++)
        memcpy(copy + i * given_record, order[i], given_record);
    fm_base_mem_free(order);
    return copy;
}

static void assert_sorts(const char *const *inputs, size_t input_count, const uint8_t *records, size_t count,
                         uint64_t memory, uint32_t passes)
{
    char output[600];
    char *bytes = NULL;
    size_t length = 0;
    const fm_pond_sort_options options = {.size = sizeof options,
                                          .record_bytes = (uint32_t)given_record,
                                          .key_bytes = (uint32_t)given_key,
                                          .memory_bytes = memory,
                                          .threads = 2};
    fm_pond_sort_report report;
    snprintf(output, sizeof output, "%s/sorted", fm_test_tmpdir());
    assert_ok(fm_pond_records_sort(inputs, input_count, output, &options, &report));
    assert_int_equal(report.passes, passes);
    assert_int_equal(report.in.records, count);
    assert_memory_equal(&report.in, &report.out, sizeof report.in);
    assert_ok(fm_base_file_read(output, SIZE_MAX, &bytes, &length));
    assert_int_equal(length, count * given_record);
    uint8_t *expected = sorted_copy(records, count);
    assert_true(length == 0 || memcmp(bytes, expected, length) == 0);
    fm_base_mem_free(expected);
    fm_base_mem_free(bytes);
    unlink(output);
}

static void sort_any_records(fm_gen *gen)
{
    given_record = (size_t)fm_gen_size(gen, 1, 300);
    given_key = given_record < 10 ? given_record : 10;
    given_key = (size_t)fm_gen_int(gen, 1, (int64_t)given_key);
    size_t count = (size_t)fm_gen_size(gen, 0, 20000);
    uint8_t *records = fm_base_mem_alloc(count * given_record + 1);
    assert_non_null(records);
    fm_gen_fill(gen, records, count * given_record);
    int few = fm_gen_chance(gen, 0.4);
    for (size_t i = 0; few && i < count; i++)
        memset(records + i * given_record, "xyz"[records[i * given_record] % 3], given_key);
    size_t first = count ? (size_t)fm_gen_int(gen, 0, (int64_t)count) : 0;
    const char *inputs[] = {
        fm_test_file("in-a", records, first * given_record),
        fm_test_file("in-b", records + first * given_record, (count - first) * given_record)};
    assert_sorts(inputs, 2, records, count, (uint64_t)64 << 20, 1);
    fm_base_mem_free(records);
}

static void it_sorts_in_memory_like_a_stable_qsort(void **state)
{
    (void)state;
    fm_gen_property(25, sort_any_records);
}

// 12 MB with 8 MiB of memory.
static void sort_through_disk(int skew, int same)
{
    enum { COUNT = 120000 };
    given_record = FM_POND_RECORD_BYTES;
    given_key = FM_POND_KEY_BYTES;
    uint8_t *records = fm_base_mem_alloc((size_t)COUNT * given_record);
    assert_non_null(records);
    fm_pond_records_make(FM_POND_LAYOUT_15, skew, 77, COUNT, records);
    for (size_t i = 0; same && i < COUNT; i++)
        memset(records + i * given_record, 's', FM_POND_KEY_BYTES);
    const char *inputs[] = {
        fm_test_file("disk-a", records, 50001 * given_record),
        fm_test_file("disk-b", records + 50001 * given_record, (COUNT - 50001) * given_record)};
    assert_sorts(inputs, 2, records, COUNT, (uint64_t)8 << 20, 2);
    fm_base_mem_free(records);
}

static void it_sorts_through_disk(void **state)
{
    (void)state;
    sort_through_disk(0, 0);
}

static void it_sorts_skewed_keys_through_disk(void **state)
{
    (void)state;
    sort_through_disk(1, 0);
}

static void it_cuts_equal_keys_into_partitions_that_fit(void **state)
{
    (void)state;
    sort_through_disk(0, 1);
}

static void it_takes_folders_of_many_small_files(void **state)
{
    (void)state;
    enum { FILES = 1000 };
    char folder[512], path[600];
    uint8_t *records = fm_base_mem_alloc(FILES * 100);
    assert_non_null(records);
    given_record = 100, given_key = 10;
    fm_pond_records_make(FM_POND_LAYOUT_15, 0, 0, FILES, records);
    snprintf(folder, sizeof folder, "%s/small", fm_test_tmpdir());
    assert_ok(fm_base_dir_create(folder));
    for (int i = 0; i < FILES; i++) {
        snprintf(path, sizeof path, "%s/f%04d", folder, i);
        FILE *file = fopen(path, "wb");
        assert_non_null(file);
        assert_int_equal(fwrite(records + (size_t)i * 100, 1, 100, file), 100);
        fclose(file);
    }
    snprintf(path, sizeof path, "%s/part.77.tmp", folder); // a file in the making is no input
    FILE *draft = fopen(path, "wb");
    assert_non_null(draft);
    fputs("x", draft);
    fclose(draft);
    const char *inputs[] = {folder};
    assert_sorts(inputs, 1, records, FILES, (uint64_t)64 << 20, 1);
    fm_base_mem_free(records);
}

static void it_explains_bad_input(void **state)
{
    (void)state;
    char output[600], *bytes = NULL;
    size_t length = 0;
    fm_pond_sort_options options = {.size = sizeof options};
    const char *odd = fm_test_file("odd.dat", "12345", 5), *missing = "/nonexistent/x";
    const char *kept = fm_test_file("kept", "old", 3);
    assert_fails(fm_pond_records_sort(&odd, 1, kept, &options, NULL), FM_ERR_FORMAT,
                 "odd.dat has 5 bytes; expected a multiple of 100");
    assert_fails(fm_pond_records_sort(&missing, 1, kept, &options, NULL), FM_ERR_NOT_FOUND, missing);
    assert_ok(fm_base_file_read(kept, 100, &bytes, &length));
    assert_int_equal(length, 3);
    fm_base_mem_free(bytes);
    snprintf(output, sizeof output, "%s/no/such/folder", fm_test_tmpdir());
    const char *empty = fm_test_file("empty", "", 0);
    assert_fails(fm_pond_records_sort(&empty, 1, output, &options, NULL), FM_ERR_NOT_FOUND, "no/such");
    options.memory_bytes = 1 << 20;
    assert_fails(fm_pond_records_sort(&empty, 1, kept, &options, NULL), FM_ERR_ARG, "at least 8388608");
    options.memory_bytes = 0;
    options.key_bytes = 11;
    assert_fails(fm_pond_records_sort(&empty, 1, kept, &options, NULL), FM_ERR_ARG, "a key of 11 bytes");
    options.key_bytes = 0;
    options.record_bytes = FM_POND_RECORD_BYTES_MAX + 1;
    assert_fails(fm_pond_records_sort(&empty, 1, kept, &options, NULL), FM_ERR_ARG, "65537");
}

static void stop(void *context, uint64_t done, uint64_t total)
{
    (void)total;
    if (done >= *(uint64_t *)context)
        raise(SIGTERM);
    *(uint64_t *)context = UINT64_MAX; // a second signal would end the program
}

static void it_leaves_nothing_when_interrupted(void **state)
{
    (void)state;
    char output[600];
    uint64_t when = 0;
    uint8_t *records = fm_base_mem_alloc(10000000);
    assert_non_null(records);
    fm_pond_records_make(FM_POND_LAYOUT_15, 0, 0, 100000, records);
    const char *input = fm_test_file("interrupted", records, 10000000);
    fm_base_mem_free(records);
    const fm_pond_sort_options options = {
        .size = sizeof options, .memory_bytes = 8 << 20, .progress = stop, .progress_context = &when};
    snprintf(output, sizeof output, "%s/never", fm_test_tmpdir());
    assert_ok(fm_base_interrupt_install());
    assert_fails(fm_pond_records_sort(&input, 1, output, &options, NULL), FM_ERR_CANCELLED, "interrupted");
    fm_base_interrupt_restore();
    assert_int_equal(access(output, F_OK), -1);
}

static fm_status sort_little(void *context)
{
    const char *const *paths = context;
    const fm_pond_sort_options options = {
        .size = sizeof options, .record_bytes = 4, .memory_bytes = 8 << 20, .threads = 1};
    return fm_pond_records_sort(paths, 1, paths[1], &options, NULL);
}

static void it_survives_without_memory(void **state)
{
    (void)state;
    char output[600];
    snprintf(output, sizeof output, "%s/little", fm_test_tmpdir());
    const char *paths[] = {fm_test_file("little-in",
                                        "dddd"
                                        "aaaa"
                                        "cccc",
                                        12),
                           output};
    fm_test_each_alloc_fails(sort_little, paths);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_sorts_in_memory_like_a_stable_qsort),
        cmocka_unit_test(it_sorts_through_disk),
        cmocka_unit_test(it_sorts_skewed_keys_through_disk),
        cmocka_unit_test(it_cuts_equal_keys_into_partitions_that_fit),
        cmocka_unit_test(it_takes_folders_of_many_small_files),
        cmocka_unit_test(it_explains_bad_input),
        cmocka_unit_test(it_leaves_nothing_when_interrupted),
        cmocka_unit_test(it_survives_without_memory),
    };
    return fm_test_run("pond_sort", tests);
}
