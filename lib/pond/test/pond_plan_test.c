/* Random plans against DuckDB alone: the same rows, whatever the partitions. */
#include "fm_test.h"

#include "fm_gen.h"
#include "pond_jobs.h"
#include "pond_text.h"

// A step of a job with the SQL that does the same to all rows at once; {0} stands for the rows before, and in a step $ for the name
// of the step before.
struct pair {
    const char *step;
    const char *sql;
};

#define SIDE "(SELECT range % 9 AS k FROM range(12))"

// Rows are (k BIGINT, v BIGINT, s VARCHAR); every step keeps that, so that any may follow any.
static const struct pair pairs[] = {
    {"{filter: k % 3 <> 1, input: $}", "SELECT * FROM {0} WHERE k % 3 <> 1"},
    {"{map: 'k + 1 AS k, v * 2 AS v, s', input: $}", "SELECT k + 1 AS k, v * 2 AS v, s FROM {0}"},
    {"{flat_map: \"unnest([k, v]) AS k, v, s\", input: $}", "SELECT unnest([k, v]) AS k, v, s FROM {0}"},
    {"{map: 'k::BIGINT AS k, v::BIGINT AS v, s', input: $}\n  - {map_batches: add_one, schema: 'k BIGINT, v "
     "BIGINT, s VARCHAR'}",
     "SELECT k + 1 AS k, v, s FROM {0}"},
    {"{sql: \"SELECT k, v + 1 AS v, s || '!' AS s FROM {0}\", input: $}",
     "SELECT k, v + 1 AS v, s || '!' AS s FROM {0}"},
    {"{sql: 'SELECT x.* FROM {0} x WHERE x.k NOT IN (SELECT k FROM {1})', inputs: [$, all]}",
     "SELECT * FROM {0} x WHERE x.k NOT IN (SELECT k FROM " SIDE ")"},
    {"{repartition: hash, by: k, partitions: 3, input: $}", "SELECT * FROM {0}"},
    {"{repartition: hash, partitions: 2, input: $}", "SELECT * FROM {0}"},
    {"{repartition: column, by: 'abs(v) % 4', partitions: 4, input: $}", "SELECT * FROM {0}"},
    {"{repartition: range, by: 's, k DESC', partitions: 3, input: $}", "SELECT * FROM {0}"},
    {"{repartition: random, partitions: 2, seed: 5, input: $}", "SELECT * FROM {0}"},
    {"{repartition: files, partitions: 2, input: $}", "SELECT * FROM {0}"},
    {"{repartition: rows, partitions: 3, input: $}", "SELECT * FROM {0}"},
    {"{distinct: true, input: $}", "SELECT DISTINCT * FROM {0}"},
    {"{group_by: 'k % 5 AS k, s', aggregate: 'sum(v) AS v', partitions: 2, input: $}",
     "SELECT k, CAST(v AS HUGEINT) AS v, s FROM (SELECT k % 5 AS k, s, sum(v) AS v FROM {0} GROUP BY 1, 2)"},
    {"{group_by: k, aggregate: 'median(v)::BIGINT AS v, min(s) AS s', input: $}",
     "SELECT k, median(v)::BIGINT AS v, min(s) AS s FROM {0} GROUP BY k"},
    {"{sort: 'v DESC, k', partitions: 2, input: $}", "SELECT * FROM {0} ORDER BY v DESC, k"},
    {"{sample: 1, input: $}", "SELECT * FROM {0}"},
    {"{sample: 0, input: $}", "SELECT * FROM {0} WHERE false"},
    {"{limit: 100000, input: $}", "SELECT * FROM {0}"},
    {"{join: inner, inputs: [$, side], on: k}", "SELECT * FROM {0} JOIN " SIDE " USING (k)"},
    {"{join: left, inputs: [side, $], on: k, partitions: 3}",
     "SELECT * FROM " SIDE " LEFT JOIN {0} USING (k)"},
    {"{join: right, inputs: [$, side], on: k, partitions: 2}",
     "SELECT * FROM {0} RIGHT JOIN " SIDE " USING (k)"},
    {"{join: full, inputs: [$, side], on: k}", "SELECT * FROM {0} FULL JOIN " SIDE " USING (k)"},
    {"{join: semi, inputs: [$, side], on: k}", "SELECT * FROM {0} SEMI JOIN " SIDE " USING (k)"},
    {"{join: anti, inputs: [$, side], on: k, partitions: 4}",
     "SELECT * FROM {0} ANTI JOIN " SIDE " USING (k)"},
};

// Sinks, with what reads them again; $ stands for the folder.
static const struct pair sinks[] = {
    {"{sink: parquet, path: '$', mode: overwrite}", "read_parquet('$/*.parquet')"},
    {"{sink: csv, path: '$', mode: overwrite}", "read_csv('$/*.csv', header = true, all_varchar = true)"},
    {"{sink: json, path: '$', mode: overwrite}",
     "read_json('$/part-*.json', format = 'newline_delimited', columns = {'k': 'VARCHAR', 'v': "
     "'VARCHAR', 's': 'VARCHAR'})"},
};

// What every task of an SQL step is given.
static const char *const all = "{source: query, name: all, query: 'SELECT range % 9 AS k FROM range(12)'}";
// The same as a side that joins, in one partition or in several.
static const char *const sides[] = {
    "{source: query, name: side, query: 'SELECT range % 9 AS k FROM range(12)'}",
    "{source: query, name: side, partitions: 2, query: 'SELECT (range + 6 * {partition}) % 9 AS k FROM "
    "range(6)'}",
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

static void add_filled(fm_pond_text *to, const char *text, const char *place, const char *value)
{
    for (const char *at = text; *at;)
        if (strncmp(at, place, strlen(place)) == 0) {
            fm_pond_text_add(to, "%s", value);
            at += strlen(place);
        } else {
            fm_pond_text_add_bytes(to, at++, 1);
        }
}

static fm_status add_one(void *context, const fm_pond_batch *batch, fm_pond_rows *out)
{
    const fm_pond_column *k = fm_pond_batch_find(batch, "k"), *v = fm_pond_batch_find(batch, "v");
    const fm_pond_column *s = fm_pond_batch_find(batch, "s");
    (void)context;
    for (size_t i = 0; i < batch->rows; i++) {
        FM_TRY(k->is_null && k->is_null[i] ? fm_pond_rows_null(out)
                                           : fm_pond_rows_int(out, k->integers[i] + 1));
        FM_TRY(v->is_null && v->is_null[i] ? fm_pond_rows_null(out) : fm_pond_rows_int(out, v->integers[i]));
        FM_TRY(s->is_null && s->is_null[i]
                   ? fm_pond_rows_null(out)
                   : fm_pond_rows_bytes(out, s->values[i].bytes, s->values[i].length));
        FM_TRY(fm_pond_rows_end(out));
    }
    return FM_OK;
}

// Adds a step to the job, which reads the rows named `before` and whose rows are named `name`.
static void add_step(const struct pair *pair, const char *before, const char *name, fm_pond_text *job)
{
    fm_pond_text step = {0};
    add_filled(&step, pair->step, "$", before);
    step.text[--step.length] = '\0'; // the bracket that ends the step, to be put behind its name
    fm_pond_text_add(job, "  - %s, name: %s}\n", step.text, name);
    fm_pond_text_clear(&step);
}

// Puts the SQL of a step around that of the rows before.
static void add_sql(const struct pair *pair, const char *before, fm_pond_text *sql)
{
    fm_pond_text inside = {0};
    fm_pond_text_add(&inside, "(%s)", before);
    add_filled(sql, pair->sql, "{0}", inside.text);
    fm_pond_text_clear(&inside);
}

static void add_sink(const struct pair *sink, const char *folder, fm_pond_text *job)
{
    fm_pond_text_add(job, "  - ");
    add_filled(job, sink->step, "$", folder);
    fm_pond_text_add(job, "\n");
}

// Columns come in any order, and sums as HUGEINT: what is compared are the values.
#define VALUES "SELECT CAST(k AS DOUBLE) AS k, CAST(v AS DOUBLE) AS v, s FROM "

// Adds a query for the rows by which a sink's folder and a query differ.
static void add_comparison(const struct pair *sink, const char *folder, const char *sql, fm_pond_text *query)
{
    fm_pond_text rows = {0};
    add_filled(&rows, sink->sql, "$", folder);
    fm_pond_text_add(query,
                     "%sFROM (WITH got AS (" VALUES "%s), expected AS (" VALUES "(%s)) "
                     "SELECT '%s', 'not got', * FROM (FROM expected EXCEPT ALL FROM got) UNION ALL "
                     "SELECT '%s', 'not expected', * FROM (FROM got EXCEPT ALL FROM expected))",
                     query->length ? " UNION ALL " : "", rows.text, sql, folder, folder);
    fm_pond_text_clear(&rows);
}

static void run_and_compare(fm_pond_text *job, fm_pond_text *query)
{
    fm_status status = pond_jobs_run(job->text, 2, NULL);
    if (status < 0)
        fail_msg("%s\n%s", fm_error_message(), job->text);
    const char *differences = pond_jobs_query(query->text);
    if (*differences)
        fail_msg("%s\n%.1000s", job->text, differences);
    fm_pond_text_clear(job);
    fm_pond_text_clear(query);
}

#define PICK(array) (&(array)[fm_gen_int(gen, 0, (int64_t)(sizeof(array) / sizeof(array)[0]) - 1)])

static void add_source(const char *source, fm_pond_text *job)
{
    fm_pond_text_add(job, "  - %.*s, name: s0}\n", (int)strlen(source) - 1, source);
}

static void compare_with_duckdb(fm_gen *gen)
{
    fm_pond_text job = {0}, sql = {0}, query = {0};
    const char *const *source = *PICK(sources);
    const struct pair *sink = PICK(sinks);
    int steps = (int)fm_gen_int(gen, 1, 4);
    fm_pond_text_add(&job, "steps:\n  - %s\n  - %s\n", all, *PICK(sides));
    add_source(source[0], &job);
    fm_pond_text_add(&sql, "%s", source[1]);
    for (int i = 1; i <= steps; i++) {
        const struct pair *pair = PICK(pairs);
        char before[16], name[16];
        fm_pond_text next = {0};
        snprintf(before, sizeof before, "s%d", i - 1);
        snprintf(name, sizeof name, "s%d", i);
        add_step(pair, before, name, &job);
        add_sql(pair, sql.text, &next);
        fm_pond_text_clear(&sql);
        sql = next;
    }
    add_sink(sink, "@/random", &job);
    add_comparison(sink, "@/random", sql.text, &query);
    run_and_compare(&job, &query);
    fm_pond_text_clear(&sql);
}

// Each step once, so that none is left to chance: one job with a branch for each.
static void it_does_each_step_as_duckdb_does(void **state)
{
    (void)state;
    fm_pond_text job = {0}, query = {0};
    pond_jobs_need_duckdb();
    assert_ok(fm_pond_function_register("add_one", add_one, NULL, "1"));
    fm_pond_text_add(&job, "steps:\n  - %s\n  - %s\n", all, sides[1]);
    add_source(sources[0][0], &job);
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        fm_pond_text sql = {0};
        char name[16], folder[32];
        snprintf(name, sizeof name, "p%zu", i);
        snprintf(folder, sizeof folder, "@/each/%zu", i);
        add_step(&pairs[i], "s0", name, &job);
        add_sql(&pairs[i], sources[0][1], &sql);
        add_sink(&sinks[i % 3], folder, &job);
        add_comparison(&sinks[i % 3], folder, sql.text, &query);
        fm_pond_text_clear(&sql);
    }
    run_and_compare(&job, &query);
}

static void it_gives_what_duckdb_gives_alone(void **state)
{
    (void)state;
    pond_jobs_need_duckdb();
    assert_ok(fm_pond_function_register("add_one", add_one, NULL, "1"));
    fm_gen_property(5, compare_with_duckdb);
}

// Every join, with a right side of one partition, which all tasks are given, and of two.
static void it_joins_like_duckdb(void **state)
{
    (void)state;
    fm_pond_text job = {0}, query = {0};
    pond_jobs_need_duckdb();
    static const char *const joins[] = {"inner", "left", "right", "full", "semi", "anti"};
    fm_pond_text_add(
        &job, "steps:\n  - {source: query, partitions: 2, query: 'SELECT range * 2 + {partition} AS k, range "
              "AS a FROM range(20)', name: left}\n");
    for (int partitions = 1; partitions <= 2; partitions++)
        fm_pond_text_add(
            &job,
            "  - {source: query, partitions: %d, query: 'SELECT range * 3 + {partition} AS k, range AS "
            "b FROM range(20)', name: right%d}\n",
            partitions, partitions);
    for (int i = 0; i < 12; i++) {
        const char *join = joins[i % 6];
        int partitions = 1 + i / 6;
        fm_pond_text_add(&job,
                         "  - {join: %s, inputs: [left, right%d], on: k}\n"
                         "  - {sink: parquet, path: '@/joined/%d', mode: overwrite}\n",
                         join, partitions, i);
        fm_pond_text_add(
            &query,
            "%sSELECT DISTINCT '%s of %d' FROM (WITH got AS (FROM read_parquet('@/joined/%d/*.parquet')), "
            "expected AS (SELECT * FROM (SELECT range AS k, range // 2 AS a FROM range(40)) %s JOIN "
            "(SELECT r * 3 + p AS k, r AS b FROM range(20) t(r), range(%d) u(p)) USING (k)) "
            "(FROM got EXCEPT ALL FROM expected) UNION ALL (FROM expected EXCEPT ALL FROM got))",
            i ? " UNION ALL " : "", join, partitions, i, join, partitions);
    }
    run_and_compare(&job, &query);
}

static void it_takes_as_many_rows_as_it_is_told(void **state)
{
    (void)state;
    fm_pond_run_report report;
    pond_jobs_need_duckdb();
    assert_ok(pond_jobs_run("steps:\n"
                            "  - {source: range, low: 0, high: 5000, partitions: 3}\n"
                            "  - {limit: 1234}\n"
                            "  - {sink: parquet, path: '@/limited', mode: overwrite}\n",
                            2, &report));
    assert_int_equal(report.rows, 1234);
    static const char *const job = "steps:\n"
                                   "  - {source: range, low: 0, high: 5000, partitions: 3}\n"
                                   "  - {sample: 0.3, seed: %d}\n"
                                   "  - {sink: parquet, path: '@/sample-%d', mode: overwrite}\n";
    for (int seed = 1; seed <= 2; seed++) {
        char text[512];
        snprintf(text, sizeof text, job, seed, seed);
        assert_ok(pond_jobs_run(text, 2, &report));
        assert_in_range(report.rows, 1300, 1700); // 1500, and six sigma
    }
    assert_string_equal(
        pond_jobs_query("SELECT count(*) > 0 FROM (SELECT * FROM '@/sample-1/*.parquet' EXCEPT "
                        "SELECT * FROM '@/sample-2/*.parquet')"),
        "true\n");
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
        cmocka_unit_test(it_does_each_step_as_duckdb_does),
        cmocka_unit_test(it_gives_what_duckdb_gives_alone),
        cmocka_unit_test(it_joins_like_duckdb),
        cmocka_unit_test(it_takes_as_many_rows_as_it_is_told),
        cmocka_unit_test(it_sorts_globally),
    };
    return fm_test_run("pond_plan", tests);
}
