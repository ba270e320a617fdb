#include "fm_test.h"

#include "fathom/pond.h"

static fm_status read_job(const char *yaml)
{
    fm_doc *doc = NULL;
    fm_pond_plan *plan = NULL;
    assert_ok(fm_base_doc_parse_yaml(yaml, strlen(yaml), "job.yaml", &doc));
    fm_status status = fm_pond_plan_read(doc, &plan);
    fm_base_doc_free(doc);
    if (status == FM_OK)
        fm_pond_plan_free(plan);
    return status;
}

static const char *const whole =
    "name: all\n"
    "work: /tmp/w\n"
    "executors: 2\n"
    "memory: 512M\n"
    "steps:\n"
    "  - {source: csv, paths: [a, b], schema: 'x BIGINT', on_error: skip, name: a}\n"
    "  - {source: range, low: 0, high: 10, partitions: 2, name: b}\n"
    "  - {join: left, inputs: [a, b], on: x}\n"
    "  - {filter: x > 1}\n"
    "  - {map: x}\n"
    "  - {sql: 'SELECT * FROM {0}', inputs: [b], name: c}\n"
    "  - {sample: 0.5, seed: 3}\n"
    "  - {distinct: true}\n"
    "  - {group_by: x, aggregate: count(*)}\n"
    "  - {repartition: range, by: x, partitions: 3}\n"
    "  - {map_batches: f, schema: y BIGINT}\n"
    "  - {sort: y DESC}\n"
    "  - {limit: 3}\n"
    "  - {sink: parquet, path: out, mode: append, partition_by: y}\n";

static void it_reads_every_kind_of_step(void **state)
{
    (void)state;
    assert_ok(read_job(whole));
}

static void it_names_the_line_and_what_was_meant(void **state)
{
    (void)state;
    assert_fails(read_job("steps:\n  - {sourze: csv}\n"), FM_ERR_FORMAT,
                 "job.yaml:2: no step is 'sourze'; did you mean 'source'");
    assert_fails(read_job("steps:\n  - {source: csv, pathz: [a]}\n"), FM_ERR_FORMAT, "paths");
    assert_fails(read_job("steps:\n  - {source: tsv, paths: [a]}\n"), FM_ERR_FORMAT,
                 "source is 'tsv'; expected one of parquet");
    assert_fails(read_job("stages: []\n"), FM_ERR_FORMAT, "stages");
    assert_fails(read_job("steps:\n  - {source: csv, filter: x}\n"), FM_ERR_FORMAT,
                 "both 'source' and 'filter'");
    assert_fails(
        read_job("steps:\n  - {source: csv, paths: [a], name: lines}\n  - {filter: x, input: line}\n"),
        FM_ERR_FORMAT, "job.yaml:3: no step above is named 'line'; did you mean 'lines'");
    assert_fails(read_job("steps:\n  - {source: csv}\n"), FM_ERR_FORMAT, "source needs paths");
    assert_fails(read_job("steps:\n  - {filter: x}\n"), FM_ERR_FORMAT, "filter reads node -1");
    assert_fails(read_job("memory: much\nsteps: []\n"), FM_ERR_FORMAT, "memory is 'much'");
    assert_fails(read_job("steps:\n  - {source: range, high: 1}\n  - {repartition: range, partitions: 2}\n"),
                 FM_ERR_FORMAT, "needs an expression");
}

static fm_status plan_job(const char *yaml)
{
    fm_doc *doc = NULL;
    fm_pond_plan *plan = NULL;
    char *text = NULL;
    assert_ok(fm_base_doc_parse_yaml(yaml, strlen(yaml), "job.yaml", &doc));
    assert_ok(fm_pond_plan_read(doc, &plan));
    fm_status status = fm_pond_plan_explain(plan, &text);
    fm_base_mem_free(text);
    fm_base_doc_free(doc);
    fm_pond_plan_free(plan);
    return status;
}

static void it_checks_that_inputs_are_partitioned_alike(void **state)
{
    (void)state;
    static const char *const job = "steps:\n"
                                   "  - {source: range, high: 10, partitions: 2, name: a}\n"
                                   "  - {repartition: %s, by: id, partitions: 3, input: a, name: x}\n"
                                   "  - {filter: id > 1, input: a, name: b}\n"
                                   "  - {repartition: %s, by: id, partitions: %d, input: b, name: y}\n"
                                   "  - {sql: 'FROM {0} JOIN {1} USING (id)', inputs: [x, y], name: both}\n"
                                   "  - {sink: csv, path: out}\n";
    static const struct {
        const char *x, *y;
        int parts;
        const char *message; // NULL: none
    } pairs[] = {{"hash", "hash", 3, NULL},
                 {"column", "column", 3, NULL},
                 {"hash", "range", 1, NULL},
                 {"hash", "hash", 4, "input 0 has 3 partitions, another has 4"},
                 {"hash", "column", 3, "input 0 is partitioned by hash, input 1 by column"},
                 {"range", "range", 3, "expected both by hash"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        char text[1024];
        snprintf(text, sizeof text, job, pairs[i].x, pairs[i].y, pairs[i].parts);
        if (pairs[i].message)
            assert_fails(plan_job(text), FM_ERR_ARG, pairs[i].message);
        else
            assert_ok(plan_job(text));
    }
}

static fm_status read_whole(void *context)
{
    (void)context;
    fm_doc *doc = NULL;
    fm_pond_plan *plan = NULL;
    FM_TRY(fm_base_doc_parse_yaml(whole, strlen(whole), "job.yaml", &doc));
    fm_status status = fm_pond_plan_read(doc, &plan);
    fm_base_doc_free(doc);
    if (status == FM_OK)
        fm_pond_plan_free(plan);
    return status;
}

static void it_survives_without_memory(void **state)
{
    (void)state;
    fm_test_each_alloc_fails(read_whole, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_reads_every_kind_of_step),
        cmocka_unit_test(it_names_the_line_and_what_was_meant),
        cmocka_unit_test(it_checks_that_inputs_are_partitioned_alike),
        cmocka_unit_test(it_survives_without_memory),
    };
    return fm_test_run("pond_job", tests);
}
