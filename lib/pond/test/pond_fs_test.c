#include "pond_fs.h"

#include <unistd.h>

#include "fathom/file.h"
#include "fm_test.h"
#include "pond_jobs.h"

static void save(const char *path, const char *text)
{
    char *expanded = pond_jobs_expand(path), *slash = strrchr(expanded, '/');
    *slash = '\0';
    assert_ok(fm_base_dir_create(expanded));
    *slash = '/';
    assert_ok(fm_base_file_save(expanded, text, strlen(text)));
    fm_base_mem_free(expanded);
}

static fm_status list_name(void *context, const char *path, const fm_fs_info *info)
{
    fm_pond_text *names = context;
    fm_pond_text_add(names, "%s:%d ", path, (int)info->size);
    return FM_OK;
}

static void check_found(fm_fs *fs, const char *pattern, const char *expected)
{
    fm_pond_text names = {0};
    assert_ok(fm_pond_fs_find(fs, pattern, list_name, &names));
    assert_string_equal(names.text, expected);
    fm_pond_text_clear(&names);
}

static void it_finds_files_by_name_folder_and_pattern(void **state)
{
    (void)state;
    fm_fs *fs;
    const char *path;
    fm_pond_text names = {0};
    save("@/tree/a/1.csv", "x");
    save("@/tree/a/2.csv", "xx");
    save("@/tree/a/_hidden", "x");
    save("@/tree/a/.draft", "x");
    save("@/tree/b/1.csv", "xxx");
    save("@/tree/b/deep/3.csv", "xxxx");
    char *url = pond_jobs_expand("fs:dir:@/tree//a/*.csv");
    assert_ok(fm_pond_fs_open(url, 0, &fs, &path));
    assert_string_equal(path, "a/*.csv");
    check_found(fs, path, "a/1.csv:1 a/2.csv:2 ");
    check_found(fs, "*/1.csv", "a/1.csv:1 b/1.csv:3 ");
    check_found(fs, "b", "b/1.csv:3 b/deep/3.csv:4 ");
    check_found(fs, ".", "a/1.csv:1 a/2.csv:2 b/1.csv:3 b/deep/3.csv:4 ");
    check_found(fs, "?/d*/[0-9].csv", "b/deep/3.csv:4 ");
    check_found(fs, "a/1.csv", "a/1.csv:1 ");
    assert_fails(fm_pond_fs_find(fs, "*/4.csv", list_name, &names), FM_ERR_NOT_FOUND, "no file matches");
    assert_fails(fm_pond_fs_find(fs, "c/*.csv", list_name, &names), FM_ERR_NOT_FOUND, "c");
    assert_null(names.text);
    fm_fs_close(fs);
    fm_base_mem_free(url);
    assert_fails(fm_pond_fs_open("fs:dir:/data/in", 0, &fs, &path), FM_ERR_ARG, "expected fs:SPEC//PATH");
    assert_fails(fm_pond_fs_open("fs://in", 0, &fs, &path), FM_ERR_ARG, "expected fs:SPEC//PATH");
    assert_fails(fm_pond_fs_open("fs:nfs:x//in", 0, &fs, &path), FM_ERR_UNSUPPORTED, "nfs");
}

static void it_fetches_what_sql_names(void **state)
{
    (void)state;
    fm_pond_fetched fetched = {0};
    fm_pond_text sql = {0}, expected = {0}, message = {0};
    char *folder = pond_jobs_expand("@/fetched"), *content;
    size_t length;
    save("@/tree/a/1.csv", "x");
    save("@/tree/it's/1.csv", "y");
    char *given = pond_jobs_expand(
        "SELECT 'it''s', 'fs' FROM f(['fs:dir:@/tree//a/1.csv', 'fs:dir:@/tree//it''s/1.csv'], "
        "'fs:dir:@/tree//a/1.csv')");
    assert_ok(fm_pond_fs_fetch(&fetched, folder, given, &sql));
    fm_pond_text_add(&expected, "SELECT 'it''s', 'fs' FROM f(['%s/0/1.csv', '%s/1/1.csv'], '%s/0/1.csv')",
                     folder, folder, folder);
    assert_string_equal(sql.text, expected.text);
    fm_pond_text_clear(&expected);
    fm_pond_text_add(&expected, "%s/1/1.csv", folder);
    assert_ok(fm_base_file_read(expected.text, 100, &content, &length));
    assert_int_equal(length, 1);
    assert_int_equal(content[0], 'y');
    fm_pond_fs_name(&fetched, expected.text, &message);
    char *url = pond_jobs_expand("fs:dir:@/tree//it's/1.csv");
    assert_string_equal(message.text, url);
    fm_pond_text_clear(&sql);
    assert_fails(fm_pond_fs_fetch(&fetched, folder, "'fs:dir:/nowhere//x'", &sql), FM_ERR_NOT_FOUND,
                 "nowhere");
    fm_pond_fs_forget(&fetched);
    assert_int_not_equal(access(folder, F_OK), 0);
    fm_base_mem_free(url);
    fm_base_mem_free(given);
    fm_base_mem_free(folder);
    fm_base_mem_free(content);
    fm_pond_text_clear(&sql);
    fm_pond_text_clear(&expected);
    fm_pond_text_clear(&message);
}

static void run_on_fs(void)
{
    fm_pond_run_report report;
    char *command = pond_jobs_expand("rm -rf @/work @/out");
    assert_int_equal(system(command), 0);
    fm_base_mem_free(command);
    save("@/in/sales/1.csv", "city,price\nA,1\nB,2\n");
    save("@/in/sales/2.csv", "city,price\nA,3\n");
    static const char *const job = "steps:\n"
                                   "  - {source: csv, paths: 'fs:dir:@/in//sales/*.csv'}\n"
                                   "  - {group_by: city, aggregate: sum(price) AS price}\n"
                                   "  - {sink: %s, path: 'fs:dir:@/out//by/city', mode: %s%s}\n";
    char text[512];
    snprintf(text, sizeof text, job, "parquet", "error", "");
    for (int i = 0; i < 2; i++) { // the second is the first again, and changes nothing
        assert_ok(pond_jobs_run(text, 2, &report));
        assert_string_equal(pond_jobs_query("SELECT * FROM '@/out/by/city/*.parquet' ORDER BY 1"),
                            "A,4\nB,2\n");
    }
    snprintf(text, sizeof text, job, "csv", "error", "");
    assert_fails(pond_jobs_run(text, 1, NULL), FM_ERR_EXISTS, "expected mode overwrite");
    snprintf(text, sizeof text, job, "csv", "overwrite", "");
    assert_ok(pond_jobs_run(text, 1, NULL));
    snprintf(text, sizeof text, job, "csv", "append", "");
    save("@/in/sales/2.csv", "city,price\nC,7\nC,1\n");
    assert_ok(pond_jobs_run(text, 1, NULL));
    assert_string_equal(
        pond_jobs_query("SELECT city, sum(price) FROM '@/out/by/city/*.csv' GROUP BY 1 ORDER BY 1"),
        "A,5\nB,4\nC,8\n");
    snprintf(text, sizeof text, job, "parquet", "overwrite", ", partition_by: city");
    assert_ok(pond_jobs_run(text, 1, NULL));
    assert_string_equal(pond_jobs_query("SELECT city, price FROM read_parquet('@/out/by/city/*/*.parquet', "
                                        "hive_partitioning = true) ORDER BY 1"),
                        "A,1\nB,2\nC,8\n");
    save("@/in/sales/2.csv", "city,price\nC,seven\n");
    snprintf(text, sizeof text, job, "csv", "overwrite", "");
    char *wrong = strstr(text, "'}\n");
    memmove(wrong + 36, wrong + 1, strlen(wrong + 1) + 1);
    memcpy(wrong, "', schema: 'city VARCHAR, price INT'", 36);
    assert_fails(pond_jobs_run(text, 1, NULL), FM_ERR_FORMAT, "sales/2.csv");
    assert_non_null(strstr(fm_error_message(), "Line: 2"));
    // No draft of a folder, a task or a copy is left.
    char *tmp = pond_jobs_expand("! ls @/out/by | grep -v '^city$' && cd @/work && ! ls -d tasks/.[0-9a-f]*");
    assert_int_equal(system(tmp), 0);
    fm_base_mem_free(tmp);
}

static void it_reads_and_writes_where_the_kernel_has_names(void **state)
{
    (void)state;
    pond_jobs_need_duckdb();
    run_on_fs();
}

static void it_reads_and_writes_by_copies(void **state)
{
    (void)state;
    pond_jobs_need_duckdb();
    setenv("FM_POND_FS", "copy", 1);
    run_on_fs();
    // Whole files know their names.
    assert_ok(pond_jobs_run("steps:\n"
                            "  - {source: files, paths: 'fs:dir:@/in//sales/1.csv'}\n"
                            "  - {sink: parquet, path: '@/whole', mode: overwrite}\n",
                            1, NULL));
    assert_string_equal(
        pond_jobs_query("SELECT filename LIKE 'fs:dir:%//sales/1.csv', size FROM '@/whole/*.parquet'"),
        "true,19\n");
    // Clashes are found in copies, and named by the original.
    pond_jobs_query("COPY (SELECT 1::BIGINT AS x) TO '@/in/a.parquet'");
    pond_jobs_query("COPY (SELECT '2' AS x) TO '@/in/b.parquet'");
    assert_fails(pond_jobs_run("steps:\n"
                               "  - {source: parquet, paths: 'fs:dir:@/in//*.parquet', partitions: 4}\n"
                               "  - {sink: parquet, path: '@/whole', mode: overwrite}\n",
                               1, NULL),
                 FM_ERR_FORMAT, "//b.parquet: column 'x' is VARCHAR; expected BIGINT");
    unsetenv("FM_POND_FS");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_finds_files_by_name_folder_and_pattern),
        cmocka_unit_test(it_fetches_what_sql_names),
        cmocka_unit_test(it_reads_and_writes_where_the_kernel_has_names),
        cmocka_unit_test(it_reads_and_writes_by_copies),
    };
    return fm_test_run("pond_fs", tests);
}
