#include "fm_test.h"

#include "fathom/file.h"
#include "pond_jobs.h"

// Each word of `line` becomes two bytes: its length and its first letter; the last call adds the number of lines.
static fm_status encode(void *context, const fm_pond_batch *batch, fm_pond_rows *out)
{
    static int64_t lines;
    uint8_t code[64];
    (void)context;
    lines += (int64_t)batch->rows;
    if (batch->rows == 0) {
        size_t size = (size_t)snprintf((char *)code, sizeof code, "%lld;", (long long)lines);
        lines = 0;
        FM_TRY(fm_pond_rows_bytes(out, code, size));
        FM_TRY(fm_pond_rows_int(out, -1));
        return fm_pond_rows_end(out);
    }
    const fm_pond_column *column = fm_pond_batch_find(batch, "line");
    if (!column || !column->values)
        return fm_base_error_set(FM_ERR_FORMAT, "no column 'line' of text");
    for (size_t i = 0; i < batch->rows; i++) {
        size_t size = 0;
        for (size_t at = 0; at < column->values[i].length && size + 2 < sizeof code;) {
            size_t end = at;
            while (end < column->values[i].length && column->values[i].bytes[end] != ' ')
                end++;
            code[size++] = (uint8_t)('0' + (end - at));
            code[size++] = (uint8_t)column->values[i].bytes[at];
            at = end + 1;
        }
        FM_TRY(fm_pond_rows_bytes(out, code, size));
        FM_TRY(fm_pond_rows_int(out, (int64_t)size));
        FM_TRY(fm_pond_rows_end(out));
    }
    return FM_OK;
}

static const char *const job = "steps:\n"
                               "  - {source: text, paths: ['@/corpus']}\n"
                               "  - {map_batches: encode, schema: 'code BLOB, size BIGINT'}\n"
                               "  - {map: code}\n"
                               "  - {sink: raw, path: '@/shards', mode: overwrite}\n";

static void make_corpus(void)
{
    char *folder = pond_jobs_expand("@/corpus"), *a = pond_jobs_expand("@/corpus/a.txt");
    char *b = pond_jobs_expand("@/corpus/b.txt");
    assert_ok(fm_base_dir_create(folder));
    assert_ok(fm_base_file_save(a, "one two three\n\"quoted, it is\"\n", 30));
    assert_ok(fm_base_file_save(b, "four\n", 5));
    fm_base_mem_free(folder);
    fm_base_mem_free(a);
    fm_base_mem_free(b);
}

static void assert_file(const char *name, const char *expected)
{
    char *path = pond_jobs_expand(name), *bytes = NULL;
    size_t length = 0;
    assert_ok(fm_base_file_read(path, 1 << 20, &bytes, &length));
    assert_int_equal(length, strlen(expected));
    assert_memory_equal(bytes, expected, length);
    fm_base_mem_free(bytes);
    fm_base_mem_free(path);
}

static void it_maps_batches_into_raw_shards(void **state)
{
    (void)state;
    pond_jobs_need_duckdb();
    make_corpus();
    fm_pond_run_report report;
    assert_ok(fm_pond_function_register("encode", encode, NULL, "1"));
    assert_ok(pond_jobs_run(job, 2, &report));
    assert_int_equal(report.rows, 5);
    assert_file("@/shards/part-00000.bin", "3o3t5t8\"2i3i2;");
    assert_file("@/shards/part-00001.bin", "4f1;");
    // The same again is found done; another version of the function is not.
    assert_ok(pond_jobs_run(job, 2, &report));
    assert_int_equal(report.tasks_run, 0);
    assert_ok(fm_pond_function_register("encode", encode, NULL, "2"));
    assert_ok(pond_jobs_run(job, 2, &report));
    assert_int_equal(report.tasks_run, 2);
}

static fm_status refuse(void *context, const fm_pond_batch *batch, fm_pond_rows *out)
{
    (void)context, (void)batch, (void)out;
    return fm_base_error_set(FM_ERR_FORMAT, "the tokenizer has no vocabulary");
}

static void it_hands_on_what_a_function_says(void **state)
{
    (void)state;
    pond_jobs_need_duckdb();
    make_corpus();
    assert_ok(fm_pond_function_register("encode", refuse, NULL, "3"));
    assert_fails(pond_jobs_run(job, 1, NULL), FM_ERR_FORMAT,
                 "function encode: the tokenizer has no vocabulary");
}

static fm_status sum_types(void *context, const fm_pond_batch *batch, fm_pond_rows *out)
{
    (void)context;
    for (size_t i = 0; i < batch->rows; i++) {
        const fm_pond_column *columns = batch->columns;
        if (columns[0].is_null && columns[0].is_null[i])
            FM_TRY(fm_pond_rows_null(out));
        else
            FM_TRY(fm_pond_rows_int(out, columns[0].integers[i] + 1));
        FM_TRY(fm_pond_rows_real(out, columns[1].reals[i] / 2));
        FM_TRY(fm_pond_rows_bytes(out, columns[2].values[i].bytes, columns[2].values[i].length));
        FM_TRY(fm_pond_rows_end(out));
    }
    return FM_OK;
}

static void it_converts_types_both_ways(void **state)
{
    (void)state;
    pond_jobs_need_duckdb();
    assert_ok(fm_pond_function_register("sum_types", sum_types, NULL, "1"));
    assert_ok(pond_jobs_run(
        "steps:\n"
        "  - source: query\n"
        "    query: \"SELECT CASE WHEN i % 2 = 0 THEN i::SMALLINT END AS a, i::DECIMAL(8,2) AS b, "
        "DATE '2026-01-01' + i::INT AS c FROM range(3000) t(i)\"\n"
        "  - {map_batches: sum_types, schema: 'a BIGINT, b DOUBLE, c VARCHAR'}\n"
        "  - {sink: parquet, path: '@/types', mode: overwrite}\n",
        1, NULL));
    assert_string_equal(pond_jobs_query("SELECT count(*), count(a), sum(a), sum(b), max(c) FROM "
                                        "read_parquet('@/types/*.parquet')"),
                        "3000,1500,2250000,2249250.0,2034-03-19\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_maps_batches_into_raw_shards),
        cmocka_unit_test(it_hands_on_what_a_function_says),
        cmocka_unit_test(it_converts_types_both_ways),
    };
    return fm_test_run("pond_batch", tests);
}
