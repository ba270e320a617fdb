/* Random plans against DuckDB alone: the same rows, whatever the partitions. */
#include "fm_test.h"

#include "fm_gen.h"
#include "pond_jobs.h"
#include "pond_text.h"

// A step of a job with the SQL that does the same to all rows at once; {0} stands for the rows before.
struct pair {
    const char *step;
    const char *sql;
};

// Rows are (k BIGINT, v BIGINT, s VARCHAR); every step keeps that, so that any may follow any.
static const struct pair pairs[] = {
    {"{filter: k % 3 <> 1}", "SELECT * FROM {0} WHERE k % 3 <> 1"},
    {"{map: 'k + 1 AS k, v * 2 AS v, s'}", "SELECT k + 1 AS k, v * 2 AS v, s FROM {0}"},
    {"{map: \"unnest([k, v]) AS k, v, s\"}", "SELECT unnest([k, v]) AS k, v, s FROM {0}"},
    {"{sql: \"SELECT k, v + 1 AS v, s || '!' AS s FROM {0}\"}",
     "SELECT k, v + 1 AS v, s || '!' AS s FROM {0}"},
    {"{repartition: hash, by: k, partitions: 3}", "SELECT * FROM {0}"},
    {"{repartition: hash, partitions: 2}", "SELECT * FROM {0}"},
    {"{repartition: column, by: 'abs(v) % 4', partitions: 4}", "SELECT * FROM {0}"},
    {"{repartition: range, by: 's, k DESC', partitions: 3}", "SELECT * FROM {0}"},
    {"{repartition: random, partitions: 2, seed: 5}", "SELECT * FROM {0}"},
    {"{repartition: files, partitions: 2}", "SELECT * FROM {0}"},
    {"{repartition: rows, partitions: 3}", "SELECT * FROM {0}"},
    {"{distinct: true}", "SELECT DISTINCT * FROM {0}"},
    {"{group_by: 'k % 5 AS k, s', aggregate: 'sum(v) AS v', partitions: 2}",
     "SELECT k, CAST(v AS HUGEINT) AS v, s FROM (SELECT k % 5 AS k, s, sum(v) AS v FROM {0} GROUP BY 1, 2)"},
    {"{group_by: k, aggregate: 'median(v)::BIGINT AS v, min(s) AS s'}",
     "SELECT k, median(v)::BIGINT AS v, min(s) AS s FROM {0} GROUP BY k"},
    {"{sort: 'v DESC, k', partitions: 2}", "SELECT * FROM {0} ORDER BY v DESC, k"},
};

static const char *const sources[][2] = {
    {"{source: query, partitions: 3, query: \"SELECT range * 3 + {partition} AS k, range % 11 AS v, 's' || "
     "range % 4 AS "
     "s FROM range(40)\"}",
     "SELECT range AS k, range // 3 % 11 AS v, 's' || range // 3 % 4 AS s FROM range(120)"},
    // One value for all, and a partition without rows.
    {"{source: query, partitions: 2, query: \"SELECT 7::BIGINT AS k, 1::BIGINT AS v, 'x' AS s FROM "
     "range({partition} * "
     "50)\"}",
     "SELECT 7::BIGINT AS k, 1::BIGINT AS v, 'x' AS s FROM range(50)"},
    {"{source: query, partitions: 2, query: \"SELECT NULL::BIGINT AS k, range AS v, NULL::VARCHAR AS s FROM "
     "range({partition} * 9) WHERE range > 100\"}",
     "SELECT NULL::BIGINT AS k, range AS v, NULL::VARCHAR AS s FROM range(0)"},
};

static void add_sql(fm_pond_text *to, const char *sql, const char *before)
{
    for (const char *at = sql; *at;)
        if (strncmp(at, "{0}", 3) == 0) {
            fm_pond_text_add(to, "(%s)", before);
            at += 3;
        } else {
            fm_pond_text_add_bytes(to, at++, 1);
        }
}

// Columns come in any order, and sums as HUGEINT: what is compared are the values.
#define SORTED "SELECT CAST(k AS DOUBLE), CAST(v AS DOUBLE), s FROM (%s) ORDER BY ALL"

static void compare_with_duckdb(fm_gen *gen)
{
    fm_pond_text job = {0}, sql = {0}, query = {0};
    const char *const *source = sources[fm_gen_int(gen, 0, 2)];
    int steps = (int)fm_gen_int(gen, 1, 4);
    fm_pond_text_add(&job, "steps:\n  - %s\n", source[0]);
    fm_pond_text_add(&sql, "%s", source[1]);
    for (int i = 0; i < steps; i++) {
        const struct pair *pair = &pairs[fm_gen_int(gen, 0, (int64_t)(sizeof pairs / sizeof *pairs) - 1)];
        fm_pond_text next = {0};
        fm_pond_text_add(&job, "  - %s\n", pair->step);
        add_sql(&next, pair->sql, sql.text);
        fm_pond_text_clear(&sql);
        sql = next;
    }
    fm_pond_text_add(&job, "  - {sink: parquet, path: '@/random', mode: overwrite}\n");
    fm_status status = pond_jobs_run(job.text, 2, NULL);
    if (status < 0)
        fail_msg("%s\n%s", fm_error_message(), job.text);
    fm_pond_text_add(&query, SORTED, sql.text);
    char *expected = strdup(pond_jobs_query(query.text));
    fm_pond_text_clear(&query);
    fm_pond_text_add(&query, SORTED, "SELECT k, v, s FROM read_parquet('@/random/*.parquet')");
    const char *got = pond_jobs_query(query.text);
    if (strcmp(got, expected) != 0)
        fail_msg("%s\ngot:\n%.500s\nexpected:\n%.500s", job.text, got, expected);
    free(expected);
    fm_pond_text_clear(&query);
    fm_pond_text_clear(&job);
    fm_pond_text_clear(&sql);
}

static void it_gives_what_duckdb_gives_alone(void **state)
{
    (void)state;
    pond_jobs_need_duckdb();
    fm_gen_property(4, compare_with_duckdb);
}

static void it_joins_like_duckdb(void **state)
{
    (void)state;
    pond_jobs_need_duckdb();
    static const char *const joins[] = {"inner", "left", "right", "full", "semi", "anti"};
    for (size_t i = 0; i < sizeof joins / sizeof *joins; i++)
        for (int partitions = 1; partitions <= 2; partitions++) {
            char job[1024], sql[512];
            snprintf(job, sizeof job,
                     "steps:\n"
                     "  - {source: query, partitions: 2, query: 'SELECT range * 2 + {partition} AS k, range "
                     "AS a FROM "
                     "range(20)', name: left}\n"
                     "  - {source: query, partitions: %d, query: 'SELECT range * 3 + {partition} AS k, range "
                     "AS b FROM "
                     "range(20)', name: right}\n"
                     "  - {join: %s, inputs: [left, right], on: k}\n"
                     "  - {sink: parquet, path: '@/joined', mode: overwrite}\n",
                     partitions, joins[i]);
            snprintf(sql, sizeof sql,
                     "SELECT * FROM (SELECT range AS k, range // 2 AS a FROM range(40)) %s JOIN (SELECT r * "
                     "3 + p AS k, "
                     "r AS b FROM range(20) t(r), range(%d) u(p)) USING (k) ORDER BY ALL",
                     joins[i], partitions);
            assert_ok(pond_jobs_run(job, 2, NULL));
            char *expected = strdup(pond_jobs_query(sql));
            assert_string_equal(
                pond_jobs_query("SELECT * FROM read_parquet('@/joined/*.parquet') ORDER BY ALL"), expected);
            free(expected);
        }
}

static void it_sorts_globally(void **state)
{
    (void)state;
    pond_jobs_need_duckdb();
    assert_ok(pond_jobs_run(
        "steps:\n"
        "  - {source: query, partitions: 3, query: \"SELECT CASE WHEN range % 3 = 0 THEN NULL WHEN "
        "range % 2 = 0 THEN 5 ELSE hash(range) % 1000 END AS k FROM range(2000)\"}\n"
        "  - {sort: k DESC NULLS FIRST, partitions: 4}\n"
        "  - {sink: parquet, path: '@/sorted', mode: overwrite}\n",
        2, NULL));
    // File by file, row by row, no key is above the one before; a third of all are NULL and a third equal.
    assert_string_equal(
        pond_jobs_query(
            "SELECT count(*), count(*) FILTER (before < k), count(*) FILTER (before IS NOT NULL AND k IS "
            "NULL) FROM (SELECT k, lag(k) OVER (ORDER BY filename, file_row_number) AS before FROM "
            "read_parquet('@/sorted/*.parquet', filename = true, file_row_number = true))"),
        "6000,0,0\n");
    assert_string_equal(
        pond_jobs_query("SELECT count(*) FROM (SELECT filename FROM read_parquet('@/sorted/*.parquet', "
                        "filename = true) GROUP BY 1 HAVING count(*) > 3000)"),
        "0\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_gives_what_duckdb_gives_alone),
        cmocka_unit_test(it_joins_like_duckdb),
        cmocka_unit_test(it_sorts_globally),
    };
    return fm_test_run("pond_plan", tests);
}
