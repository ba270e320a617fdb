#include "pond_run.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fathom/clock.h"
#include "fathom/file.h"
#include "pond_batch.h"
#include "pond_output.h"
#include "pond_schema.h"
#include "pond_task.h"
#include "pond_team.h"

/* The document of a task */

static const char *const scheme_names[] = {"", "files", "rows", "hash", "column", "range", "random"};
static const char *const format_names[] = {"",      "parquet", "csv",   "json", "text",
                                           "files", "range",   "query", "raw"};

static int place_of(const int *list, int count, int value)
{
    int i = 0;
    while (i < count && list[i] != value)
        i++;
    return i;
}

static void name_of(const fm_pond_stage *stage, fm_pond_ref ref, char out_name[16])
{
    if (ref < 0)
        snprintf(out_name, 16, "i%d", place_of(stage->datasets, stage->dataset_count, -1 - ref));
    else
        snprintf(out_name, 16, "v%d", place_of(stage->defs, stage->def_count, ref));
}

// SQL with {0}, {1}, ... and {partition}, {partitions} filled in.
static void fill_in(const fm_pond_stage *stage, const fm_pond_def *def, int task, fm_pond_text *sql)
{
    for (const char *at = def->sql; *at;) {
        int number = at[0] == '{' && at[1] >= '0' && at[1] <= '7' && at[2] == '}' ? at[1] - '0' : -1;
        if (number >= 0 && number < def->ref_count) {
            char name[16];
            name_of(stage, def->refs[number], name);
            fm_pond_text_add(sql, "%s", name);
            at += 3;
        } else if (strncmp(at, "{partition}", 11) == 0) {
            fm_pond_text_add(sql, "%d", task);
            at += 11;
        } else if (strncmp(at, "{partitions}", 12) == 0) {
            fm_pond_text_add(sql, "%d", stage->tasks);
            at += 12;
        } else {
            fm_pond_text_add_bytes(sql, at++, 1);
        }
    }
}

// Takes the text.
static fm_status add_step(fm_json *json, const char *what, fm_pond_text *sql)
{
    fm_status status = fm_pond_text_status(sql);
    if (status == FM_OK) {
        fm_base_json_begin(json, NULL, '{');
        fm_base_json_string(json, what, sql->text);
        fm_base_json_end(json);
    }
    fm_pond_text_clear(sql);
    return status;
}

static fm_status add_function(const fm_pond_stage *stage, const fm_pond_def *def, const char *into,
                              fm_json *json, fm_pond_text *stamp)
{
    fm_pond_found found;
    char from[16];
    name_of(stage, def->refs[0], from);
    FM_TRY(fm_pond_function_find(def->function, &found));
    fm_pond_text_add(stamp, "%s ", found.version);
    fm_base_json_begin(json, NULL, '{');
    fm_base_json_string(json, "function", def->function);
    fm_base_json_string(json, "from", from);
    fm_base_json_string(json, "into", into);
    fm_base_json_string(json, "schema", def->schema);
    fm_base_json_end(json);
    return FM_OK;
}

static int is_shuffled(const fm_pond_run *run, int dataset)
{
    return run->physical.datasets[dataset].kind == FM_POND_DATASET_SHUFFLED;
}

static fm_status add_inputs(const fm_pond_run *run, const fm_pond_stage *stage, int task, fm_json *json,
                            fm_pond_text *stamp)
{
    for (int i = 0; i < stage->dataset_count; i++) {
        int dataset = stage->datasets[i];
        int partition = run->physical.datasets[dataset].partitions == 1 ? 0 : task;
        fm_pond_text sql = {0};
        char name[16];
        snprintf(name, sizeof name, "i%d", i);
        fm_status status = fm_pond_view_check(run, dataset, partition, &sql);
        if (status == FM_OK && sql.length)
            status = add_step(json, "clash", &sql);
        if (status == FM_OK)
            status = fm_pond_view_add(run, dataset, partition, name, &sql);
        if (status == FM_OK)
            status = add_step(json, "input", &sql);
        fm_pond_text_clear(&sql);
        FM_TRY(status);
        fm_pond_view_stamp(run, dataset, partition, stamp);
    }
    return FM_OK;
}

static fm_status add_steps(const fm_pond_run *run, const fm_pond_stage *stage, int task, fm_json *json,
                           fm_pond_text *stamp)
{
    fm_base_json_begin(json, "steps", '[');
    FM_TRY(add_inputs(run, stage, task, json, stamp));
    for (int i = 0; i < stage->def_count; i++) {
        const fm_pond_def *def = &run->physical.defs[stage->defs[i]];
        fm_pond_text sql = {0};
        char name[16];
        snprintf(name, sizeof name, "v%d", i);
        if (!def->sql) {
            FM_TRY(add_function(stage, def, name, json, stamp));
            continue;
        }
        fm_pond_text_add(&sql, "CREATE VIEW %s AS ", name);
        fill_in(stage, def, task, &sql);
        FM_TRY(add_step(json, "sql", &sql));
    }
    fm_base_json_end(json);
    return FM_OK;
}

// What each shuffled input must hold: the sum over those who sent.
static void add_proofs(const fm_pond_run *run, const fm_pond_stage *stage, int task, fm_json *json)
{
    fm_base_json_begin(json, "proofs", '[');
    for (int i = 0; i < stage->dataset_count; i++) {
        const fm_pond_dataset *dataset = &run->physical.datasets[stage->datasets[i]];
        if (!is_shuffled(run, stage->datasets[i]))
            continue;
        uint64_t rows = 0, sum = 0;
        int partition = dataset->partitions == 1 ? 0 : task;
        for (int producer = 0; producer < run->physical.stages[dataset->stage].tasks; producer++) {
            const fm_pond_made *made = &run->stages[dataset->stage].made[producer];
            for (size_t part = 0; part < made->part_count; part++)
                if (made->parts[part].number == (uint32_t)partition) {
                    rows += made->parts[part].rows;
                    sum += made->parts[part].sum;
                }
        }
        char text[32], view[16];
        snprintf(text, sizeof text, "%llu", (unsigned long long)sum);
        snprintf(view, sizeof view, "i%d", i);
        fm_base_json_begin(json, NULL, '{');
        fm_base_json_string(json, "view", view);
        fm_base_json_int(json, "rows", (int64_t)rows);
        fm_base_json_string(json, "sum", text);
        fm_base_json_end(json);
    }
    fm_base_json_end(json);
}

static fm_status add_skipped(const fm_pond_run *run, const fm_pond_stage *stage, int task, fm_json *json)
{
    fm_status status = FM_OK;
    fm_base_json_begin(json, "skipped", '[');
    for (int i = 0; i < stage->dataset_count && status == FM_OK; i++) {
        int dataset = stage->datasets[i];
        int partition = run->physical.datasets[dataset].partitions == 1 ? 0 : task;
        fm_pond_text malformed = {0}, rejected = {0};
        status = fm_pond_view_skipped(run, dataset, partition, &malformed, &rejected);
        if (status == FM_OK && malformed.length)
            status = add_step(json, "malformed", &malformed);
        if (status == FM_OK && rejected.length)
            status = add_step(json, "rejected", &rejected);
        fm_pond_text_clear(&malformed);
        fm_pond_text_clear(&rejected);
    }
    fm_base_json_end(json);
    return status;
}

static void add_output(const fm_pond_run *run, const fm_pond_stage *stage, fm_json *json)
{
    static const char *const kinds[] = {"plain", "shuffle", "sink"};
    const fm_pond_op *op = &run->plan->nodes[stage->node].op;
    char name[16];
    name_of(stage, stage->out, name);
    fm_base_json_string(json, "out", name);
    fm_base_json_string(json, "kind", kinds[stage->kind]);
    if (stage->kind == FM_POND_OUT_SHUFFLE) {
        fm_base_json_string(json, "scheme", scheme_names[stage->scheme]);
        if (stage->by)
            fm_base_json_string(json, "by", stage->by);
        fm_base_json_int(json, "parts", stage->parts);
        if (stage->samples >= 0) {
            name_of(stage, FM_POND_REF_DATASET(stage->samples), name);
            fm_base_json_string(json, "samples", name);
        }
    } else if (stage->kind == FM_POND_OUT_SINK) {
        fm_base_json_string(json, "format", format_names[op->format]);
        if (op->schema)
            fm_base_json_string(json, "columns", op->schema);
    }
}

fm_status fm_pond_run_describe(const fm_pond_run *run, int number, int task, fm_pond_text *out)
{
    const fm_pond_stage *stage = &run->physical.stages[number];
    fm_json json = {0};
    fm_pond_text stamp = {0};
    fm_pond_text_add(&stamp, "%s ", run->engine);
    fm_base_json_begin(&json, NULL, '{');
    fm_status status = add_steps(run, stage, task, &json, &stamp);
    if (status == FM_OK)
        status = add_skipped(run, stage, task, &json);
    if (status == FM_OK) {
        add_proofs(run, stage, task, &json);
        add_output(run, stage, &json);
        fm_base_json_int(&json, "partition", task);
        fm_base_json_int(&json, "partitions", stage->tasks);
        // Random numbers are a task's own, and the same whenever it runs.
        fm_base_json_int(&json, "seed", (int64_t)((stage->seed * 1000003 + (uint64_t)task) & INT32_MAX));
        fm_base_json_string(&json, "stamp", stamp.text);
        fm_base_json_end(&json);
        fm_pond_text_add_bytes(out, json.text ? json.text : "", json.length);
        status = fm_pond_text_status(&stamp);
    }
    fm_pond_text_clear(&stamp);
    fm_status finished = fm_base_json_finish(&json, NULL);
    return status < 0 ? status : finished < 0 ? finished : fm_pond_text_status(out);
}

/* Results */

static fm_status take_figure(const fm_doc *result, const char *name, uint64_t *out_figure)
{
    int64_t figure;
    FM_TRY(fm_base_doc_int(fm_base_doc_get(result, name), name, 0, INT64_MAX, &figure));
    *out_figure = (uint64_t)figure;
    return FM_OK;
}

static fm_status take_figures(const fm_doc *result, fm_pond_made *made)
{
    const struct {
        const char *name;
        uint64_t *figure;
    } figures[] = {{"rows", &made->rows},
                   {"rows_in", &made->rows_in},
                   {"bytes", &made->bytes},
                   {"skipped", &made->skipped},
                   {"begin_unix_ns", &made->usage.begin_unix_ns},
                   {"wall_ns", &made->usage.wall_ns},
                   {"cpu_ns", &made->usage.cpu_ns},
                   {"rss_bytes", &made->usage.rss_bytes},
                   {"read_bytes", &made->usage.read_bytes},
                   {"written_bytes", &made->usage.written_bytes}};
    const fm_doc *phases = fm_base_doc_get(result, "phases");
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++)
        FM_TRY(take_figure(result, figures[i].name, figures[i].figure));
    for (size_t i = 0; i < FM_POND_PHASES && i < fm_base_doc_count(phases); i++) {
        int64_t length;
        FM_TRY(fm_base_doc_int(fm_base_doc_at(phases, i), "a phase", 0, INT64_MAX, &length));
        made->usage.phase_ns[i] = (uint64_t)length;
    }
    return FM_OK;
}

static fm_status take_parts(const fm_doc *parts, fm_pond_made *made)
{
    size_t count = fm_base_doc_count(parts);
    made->parts = fm_base_mem_zalloc(count + 1, sizeof *made->parts);
    if (!made->parts)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu parts", count);
    for (size_t i = 0; i < count; i++) {
        const fm_doc *part = fm_base_doc_at(parts, i);
        int64_t number, rows;
        const char *sum;
        FM_TRY(fm_base_doc_int(fm_base_doc_at(part, 0), "part", 0, UINT32_MAX, &number));
        FM_TRY(fm_base_doc_int(fm_base_doc_at(part, 1), "rows of a part", 0, INT64_MAX, &rows));
        FM_TRY(fm_base_doc_string(fm_base_doc_at(part, 2), "sum of a part", &sum));
        made->parts[i] = (fm_pond_part){(uint32_t)number, (uint64_t)rows, strtoull(sum, NULL, 10)};
    }
    made->part_count = count;
    return FM_OK;
}

// [[name, type]] as text.
static fm_status take_columns(const fm_doc *columns, fm_pond_made *made)
{
    fm_json json = {0};
    fm_pond_text text = {0};
    fm_status status = FM_OK;
    fm_base_json_begin(&json, NULL, '[');
    for (size_t i = 0; i < fm_base_doc_count(columns) && status == FM_OK; i++) {
        const char *name = "", *type = "";
        status = fm_base_doc_string(fm_base_doc_at(fm_base_doc_at(columns, i), 0), "column", &name);
        if (status == FM_OK)
            status = fm_base_doc_string(fm_base_doc_at(fm_base_doc_at(columns, i), 1), "type", &type);
        fm_base_json_begin(&json, NULL, '[');
        fm_base_json_string(&json, NULL, name);
        fm_base_json_string(&json, NULL, type);
        fm_base_json_end(&json);
    }
    fm_base_json_end(&json);
    fm_pond_text_add_bytes(&text, json.text ? json.text : "", json.length);
    fm_status finished = fm_base_json_finish(&json, NULL);
    status = status < 0 ? status : finished < 0 ? finished : fm_pond_text_status(&text);
    if (status < 0)
        fm_pond_text_clear(&text);
    made->columns = text.text;
    return status;
}

fm_status fm_pond_made_read(const char *text, size_t length, fm_pond_made *made)
{
    fm_doc *doc = NULL;
    fm_pond_made read = *made;
    FM_TRY(fm_base_doc_parse_json(text, length, "result of a task", &doc));
    fm_status status = take_figures(doc, &read);
    if (status == FM_OK)
        status = take_parts(fm_base_doc_get(doc, "parts"), &read);
    if (status == FM_OK)
        status = take_columns(fm_base_doc_get(doc, "columns"), &read);
    fm_base_doc_free(doc);
    if (status == FM_OK)
        *made = read;
    else
        fm_base_mem_free(read.parts);
    return status;
}

static void clear_made(fm_pond_made *made, size_t count)
{
    for (size_t i = 0; made && i < count; i++) {
        fm_base_mem_free(made[i].parts);
        fm_base_mem_free(made[i].columns);
    }
    fm_base_mem_free(made);
}

// Reads what a task in a folder has left; FM_ERR_FORMAT where a power cut has left less than it wrote.
static fm_status read_folder(const char *folder, fm_pond_made *made)
{
    fm_pond_text path = {0};
    char *text = NULL;
    size_t length = 0;
    fm_pond_text_add(&path, "%s/" FM_POND_RESULT_NAME, folder);
    fm_status status = fm_pond_text_status(&path);
    if (status == FM_OK)
        status = fm_base_file_read(path.text, FM_POND_TASK_BYTES_MAX, &text, &length);
    if (status == FM_OK)
        status = fm_pond_made_read(text, length, made);
    if (status == FM_OK && fm_pond_folder_bytes(folder) != made->bytes + length)
        status = fm_base_error_set(FM_ERR_FORMAT, "%s holds not what its task wrote", folder);
    fm_base_mem_free(text);
    fm_pond_text_clear(&path);
    return status;
}

// A task whose folder is there was done by a run before.
static fm_status look_up(const fm_pond_run *run, fm_pond_made *made)
{
    fm_pond_text folder = {0};
    fm_pond_made found = *made;
    fm_pond_text_add(&folder, "%s/%s", run->tasks.text, made->key);
    fm_status status = fm_pond_text_status(&folder);
    if (status == FM_OK && access(folder.text, F_OK) == 0) {
        status = read_folder(folder.text, &found);
        found.done = status == FM_OK;
        if (found.done) {
            *made = found;
        } else {
            fm_base_mem_free(found.parts);
            fm_base_mem_free(found.columns);
        }
        // What is not whole is done again.
        if (status == FM_ERR_FORMAT || status == FM_ERR_NOT_FOUND)
            status = fm_base_dir_remove(folder.text);
    }
    fm_pond_text_clear(&folder);
    return status;
}

/* Stages */

static fm_status run_bodies(fm_pond_run *run, const char *stage, char **bodies, fm_pond_made *made,
                            size_t count)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        fm_pond_text_digest(bodies[i], strlen(bodies[i]), made[i].key);
        FM_TRY(look_up(run, &made[i]));
        kept += made[i].done != 0;
    }
    run->report.tasks += count;
    run->report.tasks_kept += kept;
    if (kept == count)
        return FM_OK;
    if (!run->driver)
        FM_TRY(fm_pond_driver_new(run, &run->driver));
    return fm_pond_driver_run(run->driver, stage, bodies, made, count);
}

// Finds out the columns of a source of text whose schema nobody gave: one task, whose result says them.
static fm_status detect(fm_pond_run *run, int dataset)
{
    fm_pond_text sql = {0}, stamp = {0};
    fm_json json = {0};
    fm_pond_made made = {.done = 0};
    fm_pond_text_add(&sql, "CREATE VIEW v0 AS SELECT * FROM (");
    fm_status status = fm_pond_view_detect(run, dataset, &sql);
    fm_pond_text_add(&sql, ") LIMIT 0");
    const fm_pond_dataset *source = &run->physical.datasets[dataset];
    fm_pond_text_add(&stamp, "%s ", run->engine);
    for (size_t i = 0; i < source->file_count; i++)
        fm_pond_text_add(&stamp, "%llu.%llu ", (unsigned long long)source->files[i].bytes,
                         (unsigned long long)source->files[i].mtime_ns);
    if (status == FM_OK)
        status = fm_pond_text_status(&stamp);
    fm_base_json_begin(&json, NULL, '{');
    fm_base_json_begin(&json, "steps", '[');
    if (status == FM_OK)
        status = add_step(&json, "input", &sql);
    fm_base_json_end(&json);
    fm_base_json_string(&json, "out", "v0");
    fm_base_json_string(&json, "kind", "plain");
    fm_base_json_string(&json, "stamp", stamp.text);
    fm_base_json_end(&json);
    char *body = NULL;
    if (status == FM_OK) {
        fm_pond_text text = {0};
        fm_pond_text_add_bytes(&text, json.text ? json.text : "", json.length);
        status = fm_pond_text_status(&text);
        body = text.text;
    }
    fm_status finished = fm_base_json_finish(&json, NULL);
    status = status < 0 ? status : finished;
    if (status == FM_OK)
        status = run_bodies(run, "detect columns", &body, &made, 1);
    fm_pond_text schema = {0};
    fm_doc *columns = NULL;
    if (status == FM_OK)
        status = fm_base_doc_parse_json(made.columns, strlen(made.columns), "columns", &columns);
    if (status == FM_OK)
        status = fm_pond_schema_make(NULL, columns, &schema);
    run->schemas[dataset] = schema.text;
    fm_base_doc_free(columns);
    fm_base_mem_free(made.parts);
    fm_base_mem_free(made.columns);
    fm_base_mem_free(body);
    fm_pond_text_clear(&sql);
    fm_pond_text_clear(&stamp);
    return status;
}

static fm_status learn_schemas(fm_pond_run *run)
{
    for (int i = 0; i < run->physical.dataset_count; i++) {
        const fm_pond_dataset *dataset = &run->physical.datasets[i];
        if (dataset->kind != FM_POND_DATASET_SOURCE)
            continue;
        const fm_pond_op *op = &run->plan->nodes[dataset->node].op;
        int is_text = op->format == FM_POND_CSV || op->format == FM_POND_JSON;
        if (!is_text && !(op->format == FM_POND_PARQUET && op->schema))
            continue;
        fm_pond_text schema = {0};
        if (op->schema)
            FM_TRY(fm_pond_schema_make(op->schema, NULL, &schema));
        if (op->schema)
            run->schemas[i] = schema.text;
        else
            FM_TRY(detect(run, i));
        if (op->format == FM_POND_CSV)
            FM_TRY(fm_pond_source_check_headers(dataset, run->schemas[i]));
    }
    return FM_OK;
}

static fm_status run_one(fm_pond_run *run, int number)
{
    const fm_pond_stage *stage = &run->physical.stages[number];
    size_t count = (size_t)stage->tasks;
    fm_pond_made *made = fm_base_mem_zalloc(count, sizeof *made);
    char **bodies = fm_base_mem_zalloc(count, sizeof *bodies);
    fm_status status =
        made && bodies ? FM_OK : fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu tasks", count);
    for (size_t i = 0; i < count && status == FM_OK; i++) {
        fm_pond_text body = {0};
        status = fm_pond_run_describe(run, number, (int)i, &body);
        bodies[i] = body.text;
    }
    run->stages[number].made = made;
    if (status == FM_OK)
        status = run_bodies(run, stage->name, bodies, made, count);
    for (size_t i = 0; bodies && i < count; i++)
        fm_base_mem_free(bodies[i]);
    fm_base_mem_free(bodies);
    for (size_t i = 0; i < count && status == FM_OK; i++) {
        run->report.skipped += made[i].skipped;
        run->report.cpu_ns += made[i].usage.cpu_ns;
        if (made[i].usage.rss_bytes > run->report.rss_bytes_max)
            run->report.rss_bytes_max = made[i].usage.rss_bytes;
        run->report.moved_rows += stage->kind == FM_POND_OUT_SHUFFLE ? made[i].rows : 0;
        run->report.rows += stage->kind == FM_POND_OUT_SINK ? made[i].rows : 0;
    }
    return status;
}

static fm_status run_stages(fm_pond_run *run)
{
    const fm_pond_physical *physical = &run->physical;
    uint64_t tasks = 0;
    for (int i = 0; i < physical->stage_count; i++) {
        tasks += (uint64_t)physical->stages[i].tasks;
        if (physical->stages[i].kind == FM_POND_OUT_SINK)
            FM_TRY(fm_pond_sink_check(run, i));
    }
    run->tasks_planned = tasks;
    if (run->options.progress)
        fm_base_progress_begin(&run->progress, run->plan->name ? run->plan->name : "pond", "tasks", tasks);
    fm_status status = learn_schemas(run);
    for (int i = 0; i < physical->stage_count && status == FM_OK; i++)
        status = run_one(run, i);
    for (int i = 0; i < physical->stage_count && status == FM_OK; i++)
        if (physical->stages[i].kind == FM_POND_OUT_SINK)
            status = fm_pond_sink_commit(run, i);
    if (run->options.progress) {
        if (status == FM_OK)
            fm_base_progress_update(&run->progress, run->report.tasks);
        fm_base_progress_finish(&run->progress, status);
    }
    return status;
}

/* The run */

static fm_status take_options(fm_pond_run *run, const fm_pond_run_options *given)
{
    const fm_pond_plan *plan = run->plan;
    if (given->size != sizeof *given)
        return fm_base_error_set(FM_ERR_ARG, "options.size is %zu; expected %zu", given->size, sizeof *given);
    fm_pond_run_options *options = &run->options;
    *options = *given;
    options->work = options->work ? options->work : plan->work ? plan->work : ".pond";
    if (options->launch || options->slurm) // instead of local ones, where it is not said
        options->executors = options->executors ? options->executors : -1;
    options->executors = options->executors ? options->executors : (int)plan->executors;
    options->executors = options->executors ? options->executors : fm_pond_team_cores();
    options->threads = options->threads ? options->threads : plan->threads ? (int)plan->threads : 1;
    options->retries = options->retries ? options->retries : 3;
    options->idle_ms = options->idle_ms ? options->idle_ms : 10000;
    options->memory_bytes = options->memory_bytes ? options->memory_bytes : (uint64_t)plan->memory_bytes;
    int launches = options->launch || options->slurm;
    if (options->launch && options->slurm)
        return fm_base_error_set(FM_ERR_ARG, "executors by launch and by slurm; expected one of them");
    if (launches && options->launch_count < 1)
        return fm_base_error_set(FM_ERR_ARG, "launch_count is %d; expected at least 1",
                                 options->launch_count);
    if (options->executors < 0 && !options->listen && !launches)
        return fm_base_error_set(FM_ERR_ARG, "no local executors, and no address where others could join");
    if (options->memory_bytes == 0) {
        uint64_t spare = 0;
        FM_TRY(fm_base_space_memory(&spare));
        options->memory_bytes = spare / 2 / (uint64_t)(options->executors > 0 ? options->executors : 1);
    }
    return FM_OK;
}

// Drafts of tasks whose executors were killed.
static fm_status remove_drafts(const fm_pond_run *run)
{
    DIR *folder = opendir(run->tasks.text);
    if (!folder)
        return fm_base_file_error(errno, "%s", run->tasks.text);
    for (struct dirent *entry; (entry = readdir(folder));) {
        fm_pond_text path = {0};
        if (entry->d_name[0] != '.' || strlen(entry->d_name) < 32)
            continue;
        fm_pond_text_add(&path, "%s/%s", run->tasks.text, entry->d_name);
        if (path.text)
            fm_pond_folder_discard(path.text);
        fm_pond_text_clear(&path);
    }
    closedir(folder);
    return FM_OK;
}

static fm_status make_work_folder(fm_pond_run *run)
{
    char absolute[PATH_MAX];
    FM_TRY(fm_base_dir_create(run->options.work));
    if (!realpath(run->options.work, absolute))
        return fm_base_file_error(errno, "%s", run->options.work);
    fm_pond_text_add(&run->tasks, "%s/tasks", absolute);
    FM_TRY(fm_pond_text_status(&run->tasks));
    FM_TRY(fm_base_dir_create(run->tasks.text));
    fm_pond_text lock = {0};
    fm_pond_text_add(&lock, "%s/.lock", absolute);
    int fd = lock.text ? open(lock.text, O_RDWR | O_CREAT | O_CLOEXEC, 0666) : -1;
    fm_pond_text_clear(&lock);
    if (fd < 0)
        return fm_base_file_error(errno, "%s/.lock", absolute);
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        close(fd);
        return fm_base_error_set(FM_ERR_BUSY, "%s is in use by another run", absolute);
    }
    run->lock = fd;
    return remove_drafts(run);
}

// Executors elsewhere prove themselves by a key that this run alone has.
static fm_status make_key(fm_pond_run *run)
{
    fm_net_key key;
    if (run->options.key_path || !(run->options.launch || run->options.slurm))
        return FM_OK;
    fm_pond_text_add(&run->key_path, "%.*s/executors-%d-%llx.key",
                     (int)(run->tasks.length - strlen("/tasks")), run->tasks.text, (int)getpid(),
                     (unsigned long long)fm_base_clock_ns());
    FM_TRY(fm_pond_text_status(&run->key_path));
    FM_TRY(fm_net_key_generate(&key));
    fm_status status = fm_net_key_write(run->key_path.text, &key);
    fm_net_key_clear(&key);
    run->options.key_path = run->key_path.text;
    return status;
}

static fm_status run_in_folder(fm_pond_run *run)
{
    FM_TRY(make_key(run));
    FM_TRY(fm_pond_task_engine(&run->engine));
    FM_TRY(fm_pond_physical_make(run->plan, &run->physical));
    run->stages = fm_base_mem_zalloc((size_t)run->physical.stage_count + 1, sizeof *run->stages);
    run->schemas = fm_base_mem_zalloc((size_t)run->physical.dataset_count + 1, sizeof *run->schemas);
    if (!run->stages || !run->schemas)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a run");
    return run_stages(run);
}

static void clear_run(fm_pond_run *run)
{
    char message[1024]; // what goes wrong in cleaning up is not the news
    snprintf(message, sizeof message, "%s", fm_error_message());
    fm_pond_driver_free(run->driver);
    if (run->key_path.text)
        unlink(run->key_path.text);
    fm_pond_text_clear(&run->key_path);
    for (int i = 0; run->stages && i < run->physical.stage_count; i++)
        clear_made(run->stages[i].made, run->stages[i].made ? (size_t)run->physical.stages[i].tasks : 0);
    for (int i = 0; run->schemas && i < run->physical.dataset_count; i++)
        fm_base_mem_free(run->schemas[i]);
    fm_base_mem_free(run->stages);
    fm_base_mem_free(run->schemas);
    fm_pond_physical_clear(&run->physical);
    fm_pond_text_clear(&run->tasks);
    fm_base_error_set(FM_ERR_INTERNAL, "%s", message);
}

fm_status fm_pond_plan_run(fm_pond_plan *plan, const fm_pond_run_options *options,
                           fm_pond_run_report *out_report)
{
    fm_pond_run run = {.plan = plan, .lock = -1};
    uint64_t begin = fm_base_clock_ns();
    FM_TRY(take_options(&run, options));
    fm_status status = make_work_folder(&run);
    if (status == FM_OK)
        status = run_in_folder(&run);
    if (run.tasks.text)
        fm_pond_status_save(&run, status == FM_OK ? "done" : fm_error_message(), "", 0);
    clear_run(&run);
    if (run.lock >= 0)
        close(run.lock);
    run.report.wall_ns = fm_base_clock_ns() - begin;
    if (status == FM_OK && out_report)
        *out_report = run.report;
    return status;
}
