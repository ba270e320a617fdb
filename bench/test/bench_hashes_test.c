#include "fm_test.h"

#include "bench_hashes.h"

static void a_file_survives_the_round_trip(void **state)
{
    (void)state;
    char path[512];
    snprintf(path, sizeof path, "%s/hashes.txt", fm_test_tmpdir());
    fm_bench_hashes hashes = {0};
    assert_ok(fm_bench_hashes_set(&hashes, "gemm", "b", 2));
    assert_ok(fm_bench_hashes_set(&hashes, "base", "z", 0xFEDCBA9876543210u));
    assert_ok(fm_bench_hashes_set(&hashes, "gemm", "a", 1));
    assert_ok(fm_bench_hashes_set(&hashes, "gemm", "b", 3));
    assert_int_equal(hashes.count, 3);
    assert_ok(fm_bench_hashes_save(&hashes, path));
    fm_bench_hashes_clear(&hashes);

    assert_ok(fm_bench_hashes_load(path, &hashes));
    assert_int_equal(hashes.count, 3);
    assert_string_equal(hashes.lines[0].bench, "base");
    assert_string_equal(hashes.lines[1].name, "a");
    assert_true(fm_bench_hashes_find(&hashes, "base", "z")->hash == 0xFEDCBA9876543210u);
    assert_true(fm_bench_hashes_find(&hashes, "gemm", "b")->hash == 3);
    assert_null(fm_bench_hashes_find(&hashes, "gemm", "z"));
    assert_null(fm_bench_hashes_find(&hashes, "mla", "a"));
    fm_bench_hashes_clear(&hashes);
}

static void a_missing_file_is_empty(void **state)
{
    (void)state;
    fm_bench_hashes hashes;
    assert_ok(fm_bench_hashes_load("/nowhere/at/all", &hashes));
    assert_int_equal(hashes.count, 0);
    assert_fails(fm_bench_hashes_save(&hashes, "/nowhere/at/all"), FM_ERR_NOT_FOUND, "/nowhere");
    fm_bench_hashes_clear(&hashes);
}

static void bad_lines_are_named(void **state)
{
    (void)state;
    const char *bad[] = {"base crc\n", "base crc 12 34\n", "base crc xyz\n", "base\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[128];
        int length = snprintf(text, sizeof text, "# comment\n\nbase ok 0123456789abcdef\n%s", bad[i]);
        const char *path = fm_test_file("bad.txt", text, (size_t)length);
        fm_bench_hashes hashes = {0};
        assert_fails(fm_bench_hashes_load(path, &hashes), FM_ERR_FORMAT, "bad.txt:4");
        assert_null(hashes.lines);
    }
}

static fm_status load_once(void *context)
{
    fm_bench_hashes hashes;
    FM_TRY(fm_bench_hashes_load(context, &hashes));
    fm_bench_hashes_clear(&hashes);
    return FM_OK;
}

static void refused_memory_is_reported(void **state)
{
    (void)state;
    const char text[] = "a b 1\na c 2\n";
    char path[512];
    snprintf(path, sizeof path, "%s", fm_test_file("few.txt", text, sizeof text - 1));
    fm_test_each_alloc_fails(load_once, path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_survives_the_round_trip),
        cmocka_unit_test(a_missing_file_is_empty),
        cmocka_unit_test(bad_lines_are_named),
        cmocka_unit_test(refused_memory_is_reported),
    };
    return fm_test_run("bench.hashes", tests);
}
