/* A job file becomes a plan. */
#include <string.h>

#include "fathom/config.h"
#include "pond_plan.h"

enum { PATHS_MAX = 4096 };

// What a step of a kind may say, beside name and input.
static const struct {
    fm_pond_kind kind;
    const char *details;
} steps[] = {
    {FM_POND_SOURCE, "paths query low high partitions schema on_error"},
    {FM_POND_SQL, ""},
    {FM_POND_FILTER, ""},
    {FM_POND_MAP, ""},
    {FM_POND_FLAT_MAP, ""},
    {FM_POND_MAP_BATCHES, "schema"},
    {FM_POND_SAMPLE, "seed"},
    {FM_POND_LIMIT, ""},
    {FM_POND_DISTINCT, "partitions"},
    {FM_POND_GROUP_BY, "aggregate partitions"},
    {FM_POND_JOIN, "on partitions"},
    {FM_POND_REPARTITION, "by partitions seed"},
    {FM_POND_SORT, "partitions seed"},
    {FM_POND_SINK, "path mode partition_by"},
};

static const char *const source_formats[] = {"",      "parquet", "csv",   "json", "text",
                                             "files", "range",   "query", NULL};
static const char *const sink_formats[] = {"", "parquet", "csv", "json", "text", "", "", "", "raw", NULL};
static const char *const schemes[] = {"", "files", "rows", "hash", "column", "range", "random", NULL};
static const char *const modes[] = {"error", "overwrite", "append", NULL};
static const char *const on_errors[] = {"fail", "skip", NULL};

static fm_status choose(const fm_doc *node, const char *what, const char *const *words, int *out_index)
{
    const char *given;
    FM_TRY(fm_base_doc_string(node, what, &given));
    for (int i = 0; words[i]; i++)
        if (*words[i] && strcmp(words[i], given) == 0) {
            *out_index = i;
            return FM_OK;
        }
    char expected[256] = "";
    for (int i = 0; words[i]; i++)
        if (*words[i] && strlen(expected) + strlen(words[i]) + 3 < sizeof expected) {
            strcat(expected, *expected ? ", " : "");
            strcat(expected, words[i]);
        }
    return fm_base_doc_error(FM_ERR_FORMAT, node, "%s is '%s'; expected one of %s", what, given, expected);
}

static fm_status text_of(const fm_doc *node, const char *key, const char **text)
{
    const fm_doc *value = fm_base_doc_get(node, key);
    return value ? fm_base_doc_string(value, key, text) : FM_OK;
}

static fm_status int_of(const fm_doc *node, const char *key, int64_t low, int64_t high, int64_t *value)
{
    const fm_doc *found = fm_base_doc_get(node, key);
    return found ? fm_base_doc_int(found, key, low, high, value) : FM_OK;
}

static fm_status find_kind(const fm_doc *step, size_t *out_index, const fm_doc **out_value)
{
    const fm_doc *found = NULL;
    FM_TRY(fm_base_doc_expect(step, "a step", FM_DOC_OBJECT));
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        const fm_doc *value = fm_base_doc_get(step, fm_pond_kind_name(steps[i].kind));
        if (value && found)
            return fm_base_doc_error(
                FM_ERR_FORMAT, step, "the step is both '%s' and '%s'; expected one of them",
                fm_pond_kind_name(steps[*out_index].kind), fm_pond_kind_name(steps[i].kind));
        if (value) {
            found = value;
            *out_index = i;
        }
    }
    if (found) {
        *out_value = found;
        return FM_OK;
    }
    const char *kinds[FM_POND_SINK + 1];
    for (int i = 0; i < FM_POND_SINK; i++)
        kinds[i] = fm_pond_kind_name((fm_pond_kind)(i + 1));
    kinds[FM_POND_SINK] = NULL;
    for (size_t i = 0; i < fm_base_doc_count(step); i++) {
        const char *near = fm_base_nearest(fm_base_doc_key(step, i), kinds);
        if (near)
            return fm_base_doc_error(FM_ERR_FORMAT, step, "no step is '%s'; did you mean '%s'?",
                                     fm_base_doc_key(step, i), near);
    }
    return fm_base_doc_error(
        FM_ERR_FORMAT, step,
        "the step says not what it does; expected one of source, sql, filter, map, flat_map, "
        "map_batches, sample, limit, distinct, group_by, join, repartition, sort, sink");
}

static fm_status check_keys(const fm_doc *step, size_t index)
{
    enum { KEYS_MAX = 16 };
    char words[128];
    const char *keys[KEYS_MAX] = {"name", "input", "inputs", fm_pond_kind_name(steps[index].kind)};
    int count = 4;
    strcpy(words, steps[index].details);
    for (char *rest = words, *word; (word = strsep(&rest, " ")) && count + 1 < KEYS_MAX;)
        if (*word)
            keys[count++] = word;
    keys[count] = NULL;
    return fm_base_doc_known_keys(step, fm_pond_kind_name(steps[index].kind), keys);
}

static fm_status find_step(const fm_pond_plan *plan, const fm_doc *node, int *out_input)
{
    const char *name;
    FM_TRY(fm_base_doc_string(node, "input", &name));
    for (size_t i = 0; i < plan->count; i++)
        if (plan->nodes[i].op.name && strcmp(plan->nodes[i].op.name, name) == 0) {
            *out_input = (int)i;
            return FM_OK;
        }
    const char *known[256];
    size_t count = 0;
    for (size_t i = 0; i < plan->count && count < 255; i++)
        if (plan->nodes[i].op.name)
            known[count++] = plan->nodes[i].op.name;
    known[count] = NULL;
    const char *near = fm_base_nearest(name, known);
    return fm_base_doc_error(FM_ERR_FORMAT, node, "no step above is named '%s'%s%s%s", name,
                             near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

static fm_status read_inputs(const fm_pond_plan *plan, const fm_doc *step, int inputs[FM_POND_INPUTS_MAX],
                             fm_pond_op *op)
{
    const fm_doc *one = fm_base_doc_get(step, "input"), *list = fm_base_doc_get(step, "inputs");
    if (one && list)
        return fm_base_doc_error(FM_ERR_FORMAT, step,
                                 "the step has both input and inputs; expected one of them");
    if (one) {
        FM_TRY(find_step(plan, one, &inputs[0]));
        op->input_count = 1;
    }
    if (list) {
        FM_TRY(fm_base_doc_expect(list, "inputs", FM_DOC_ARRAY));
        op->input_count = fm_base_doc_count(list);
        if (op->input_count > FM_POND_INPUTS_MAX)
            return fm_base_doc_error(FM_ERR_FORMAT, list, "%zu inputs; expected at most %d", op->input_count,
                                     FM_POND_INPUTS_MAX);
        for (size_t i = 0; i < op->input_count; i++)
            FM_TRY(find_step(plan, fm_base_doc_at(list, i), &inputs[i]));
    }
    op->inputs = one || list ? inputs : NULL;
    return FM_OK;
}

static fm_status read_paths(const fm_doc *step, const char **paths, fm_pond_op *op)
{
    const fm_doc *list = fm_base_doc_get(step, "paths");
    const char *text = NULL;
    int choice = 0;
    if (list && fm_base_doc_type(list) == FM_DOC_STRING) {
        FM_TRY(fm_base_doc_string(list, "paths", &paths[0]));
        op->path_count = 1;
    } else if (list) {
        FM_TRY(fm_base_doc_expect(list, "paths", FM_DOC_ARRAY));
        op->path_count = fm_base_doc_count(list);
        if (op->path_count > PATHS_MAX)
            return fm_base_doc_error(FM_ERR_FORMAT, list, "%zu paths; expected at most %d, or a pattern",
                                     op->path_count, PATHS_MAX);
        for (size_t i = 0; i < op->path_count; i++)
            FM_TRY(fm_base_doc_string(fm_base_doc_at(list, i), "a path", &paths[i]));
    }
    FM_TRY(text_of(step, "path", &text));
    if (text) {
        paths[0] = text;
        op->path_count = 1;
    }
    if (fm_base_doc_get(step, "mode")) {
        FM_TRY(choose(fm_base_doc_get(step, "mode"), "mode", modes, &choice));
        op->mode = (fm_pond_mode)choice;
    }
    choice = 0;
    if (fm_base_doc_get(step, "on_error")) {
        FM_TRY(choose(fm_base_doc_get(step, "on_error"), "on_error", on_errors, &choice));
        op->on_error = (fm_pond_on_error)choice;
    }
    return FM_OK;
}

static fm_status read_value(const fm_doc *value, fm_pond_op *op)
{
    const char *name = fm_pond_kind_name(op->kind);
    int choice = 0;
    switch (op->kind) {
    case FM_POND_SOURCE:
        FM_TRY(choose(value, name, source_formats, &choice));
        op->format = (fm_pond_format)choice;
        return FM_OK;
    case FM_POND_SINK:
        FM_TRY(choose(value, name, sink_formats, &choice));
        op->format = (fm_pond_format)choice;
        return FM_OK;
    case FM_POND_REPARTITION:
        FM_TRY(choose(value, name, schemes, &choice));
        op->scheme = (fm_pond_scheme)choice;
        return FM_OK;
    case FM_POND_SAMPLE:
        return fm_base_doc_real(value, name, &op->fraction);
    case FM_POND_LIMIT:
        return fm_base_doc_int(value, name, 0, INT64_MAX, &op->rows);
    case FM_POND_GROUP_BY:
    case FM_POND_SORT:
        return fm_base_doc_string(value, name, &op->by);
    case FM_POND_DISTINCT:
        // "distinct: true" is of whole rows.
        return fm_base_doc_type(value) == FM_DOC_BOOL ? FM_OK : fm_base_doc_string(value, name, &op->by);
    case FM_POND_JOIN:
        return fm_base_doc_string(value, name, &op->join);
    default:
        return fm_base_doc_string(value, name, &op->text);
    }
}

static fm_status read_details(const fm_doc *step, fm_pond_op *op)
{
    int64_t seed = 0;
    FM_TRY(text_of(step, "name", &op->name));
    FM_TRY(text_of(step, "schema", &op->schema));
    FM_TRY(text_of(step, "partition_by", &op->schema));
    FM_TRY(text_of(step, "by", &op->by));
    FM_TRY(text_of(step, "on", &op->by));
    FM_TRY(text_of(step, "aggregate", &op->text));
    FM_TRY(text_of(step, "query", &op->text));
    FM_TRY(int_of(step, "partitions", 1, FM_POND_PARTITIONS_MAX, &op->partitions));
    FM_TRY(int_of(step, "low", INT64_MIN, INT64_MAX, &op->low));
    FM_TRY(int_of(step, "high", INT64_MIN, INT64_MAX, &op->high));
    FM_TRY(int_of(step, "seed", 0, INT64_MAX, &seed));
    op->seed = (uint64_t)seed;
    return FM_OK;
}

static fm_status read_step(fm_pond_plan *plan, const fm_doc *step, const char **paths)
{
    size_t index = 0;
    int inputs[FM_POND_INPUTS_MAX];
    const fm_doc *value = NULL;
    fm_pond_op op = {.size = sizeof op, .paths = paths};
    FM_TRY(find_kind(step, &index, &value));
    FM_TRY(check_keys(step, index));
    op.kind = steps[index].kind;
    FM_TRY(read_value(value, &op));
    FM_TRY(read_inputs(plan, step, inputs, &op));
    FM_TRY(read_paths(step, paths, &op));
    FM_TRY(read_details(step, &op));
    fm_status status = fm_pond_plan_add(plan, &op, NULL);
    if (status == FM_ERR_ARG) {
        char message[512];
        strncpy(message, fm_error_message(), sizeof message - 1);
        message[sizeof message - 1] = '\0';
        return fm_base_doc_error(FM_ERR_FORMAT, step, "%s", message);
    }
    return status;
}

static fm_status read_size(const fm_doc *node, int64_t *out_bytes)
{
    // As on the command line: "512M", "1GB".
    const fm_option option = {.name = "memory", .type = FM_OPTION_SIZE};
    const char *text;
    if (fm_base_doc_type(node) == FM_DOC_INT)
        return fm_base_doc_int(node, "memory", 1 << 20, INT64_MAX, out_bytes);
    FM_TRY(fm_base_doc_string(node, "memory", &text));
    fm_status status = fm_base_config_set(&option, text, out_bytes);
    return status < 0
               ? fm_base_doc_error(FM_ERR_FORMAT, node, "memory is '%s'; expected a size such as 512M", text)
               : FM_OK;
}

static fm_status read_job(const fm_doc *job, fm_pond_plan *plan, const char **paths)
{
    static const char *const keys[] = {"name", "work", "executors", "threads", "memory", "steps", NULL};
    FM_TRY(fm_base_doc_expect(job, "a job", FM_DOC_OBJECT));
    FM_TRY(fm_base_doc_known_keys(job, "job", keys));
    const char *name = NULL, *work = NULL;
    FM_TRY(text_of(job, "name", &name));
    FM_TRY(text_of(job, "work", &work));
    plan->name = name ? fm_base_arena_strndup(&plan->texts, name, strlen(name)) : NULL;
    plan->work = work ? fm_base_arena_strndup(&plan->texts, work, strlen(work)) : NULL;
    if ((name && !plan->name) || (work && !plan->work))
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a job");
    FM_TRY(int_of(job, "executors", 1, 256, &plan->executors));
    FM_TRY(int_of(job, "threads", 1, 256, &plan->threads));
    if (fm_base_doc_get(job, "memory"))
        FM_TRY(read_size(fm_base_doc_get(job, "memory"), &plan->memory_bytes));
    const fm_doc *list = fm_base_doc_get(job, "steps");
    FM_TRY(fm_base_doc_expect(list, "steps", FM_DOC_ARRAY));
    for (size_t i = 0; i < fm_base_doc_count(list); i++)
        FM_TRY(read_step(plan, fm_base_doc_at(list, i), paths));
    return FM_OK;
}

fm_status fm_pond_plan_read(const fm_doc *job, fm_pond_plan **out_plan)
{
    fm_pond_plan *plan;
    FM_TRY(fm_pond_plan_new(&plan));
    const char **paths = fm_base_mem_alloc(PATHS_MAX * sizeof *paths);
    fm_status status =
        paths ? read_job(job, plan, paths) : fm_base_error_set(FM_ERR_NOMEM, "no memory for a job");
    fm_base_mem_free(paths);
    if (status < 0) {
        fm_pond_plan_free(plan);
        return status;
    }
    *out_plan = plan;
    return FM_OK;
}
