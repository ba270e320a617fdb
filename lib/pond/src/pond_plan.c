#include "pond_plan.h"

#include <string.h>

static const char *const kind_names[] = {"",         "source",      "sql",         "filter", "map",
                                         "flat_map", "map_batches", "sample",      "limit",  "distinct",
                                         "group_by", "join",        "repartition", "sort",   "sink"};

const char *fm_pond_kind_name(fm_pond_kind kind)
{
    return kind >= FM_POND_SOURCE && kind <= FM_POND_SINK ? kind_names[kind] : "?";
}

fm_status fm_pond_plan_new(fm_pond_plan **out_plan)
{
    fm_pond_plan *plan = fm_base_mem_zalloc(1, sizeof *plan);
    if (!plan)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a plan");
    *out_plan = plan;
    return FM_OK;
}

void fm_pond_plan_free(fm_pond_plan *plan)
{
    if (!plan)
        return;
    fm_base_mem_free(plan->nodes);
    fm_base_arena_clear(&plan->texts);
    fm_base_mem_free(plan);
}

static fm_status needs(const fm_pond_op *op, const char *what, int is_there)
{
    return is_there ? FM_OK
                    : fm_base_error_set(FM_ERR_ARG, "%s%s%s needs %s", fm_pond_kind_name(op->kind),
                                        op->name ? " " : "", op->name ? op->name : "", what);
}

static fm_status check_source(const fm_pond_op *op)
{
    if (op->format == FM_POND_QUERY)
        return needs(op, "a query", op->text != NULL);
    if (op->format == FM_POND_RANGE)
        return needs(op, "low and high, low not above high", op->low <= op->high);
    FM_TRY(needs(op, "a format of files", op->format >= FM_POND_PARQUET && op->format <= FM_POND_FILES));
    if (op->on_error == FM_POND_SKIP && op->format != FM_POND_CSV && op->format != FM_POND_JSON)
        return fm_base_error_set(FM_ERR_ARG,
                                 "source: on_error is skip; only lines of CSV and JSON can be skipped");
    if (op->on_error == FM_POND_SKIP && op->format == FM_POND_JSON)
        FM_TRY(needs(op, "a schema, by which lines are malformed or not", op->schema != NULL));
    return needs(op, "paths", op->path_count > 0);
}

static fm_status check_repartition(const fm_pond_op *op)
{
    FM_TRY(needs(op, "a scheme", op->scheme >= FM_POND_BY_FILES && op->scheme <= FM_POND_BY_RANDOM));
    FM_TRY(needs(op, "partitions", op->partitions > 0));
    return needs(op, "an expression to partition by",
                 op->by || (op->scheme != FM_POND_BY_COLUMN && op->scheme != FM_POND_BY_RANGE));
}

static fm_status check_join(const fm_pond_op *op)
{
    static const char *const joins[] = {"inner", "left", "right", "full", "semi", "anti", NULL};
    FM_TRY(needs(op, "columns to join on", op->by != NULL));
    for (int i = 0; op->join && joins[i]; i++)
        if (strcmp(op->join, joins[i]) == 0)
            return FM_OK;
    return op->join
               ? fm_base_error_set(FM_ERR_ARG,
                                   "join is '%s'; expected inner, left, right, full, semi or anti", op->join)
               : FM_OK;
}

static fm_status check_sink(const fm_pond_op *op)
{
    FM_TRY(needs(op, "a folder", op->path_count == 1));
    return needs(op, "parquet, csv, json, text or raw as its format",
                 op->format == FM_POND_RAW || (op->format >= FM_POND_PARQUET && op->format <= FM_POND_TEXT));
}

static fm_status check(const fm_pond_op *op)
{
    if (op->partitions < 0 || op->partitions > FM_POND_PARTITIONS_MAX)
        return fm_base_error_set(FM_ERR_ARG, "%s: %lld partitions; expected 0 to %d",
                                 fm_pond_kind_name(op->kind), (long long)op->partitions,
                                 FM_POND_PARTITIONS_MAX);
    switch (op->kind) {
    case FM_POND_SOURCE:
        return check_source(op);
    case FM_POND_SQL:
    case FM_POND_FILTER:
    case FM_POND_MAP:
    case FM_POND_FLAT_MAP:
        return needs(op, "SQL", op->text != NULL);
    case FM_POND_MAP_BATCHES:
        FM_TRY(needs(op, "a function", op->text != NULL));
        return needs(op, "a schema", op->schema != NULL);
    case FM_POND_SAMPLE:
        return needs(op, "a fraction from 0 to 1", op->fraction >= 0 && op->fraction <= 1);
    case FM_POND_LIMIT:
        return needs(op, "a number of rows", op->rows >= 0);
    case FM_POND_DISTINCT:
        return FM_OK;
    case FM_POND_GROUP_BY:
        FM_TRY(needs(op, "expressions to group by", op->by != NULL));
        return needs(op, "aggregates", op->text != NULL);
    case FM_POND_JOIN:
        return check_join(op);
    case FM_POND_REPARTITION:
        return check_repartition(op);
    case FM_POND_SORT:
        return needs(op, "terms to sort by", op->by != NULL);
    case FM_POND_SINK:
        return check_sink(op);
    }
    return fm_base_error_set(FM_ERR_ARG, "an operation of kind %d; expected 1 to %d", (int)op->kind,
                             FM_POND_SINK);
}

static fm_status take_inputs(const fm_pond_plan *plan, const fm_pond_op *op, fm_pond_node *node)
{
    size_t wanted = op->kind == FM_POND_SOURCE ? 0 : op->kind == FM_POND_JOIN ? 2 : 1;
    int before = (int)plan->count - 1;
    node->op.inputs = NULL;
    node->op.input_count = op->inputs ? op->input_count : wanted == 1 ? 1 : 0;
    if (op->kind == FM_POND_SQL ? node->op.input_count == 0 || node->op.input_count > FM_POND_INPUTS_MAX
                                : node->op.input_count != wanted)
        return fm_base_error_set(FM_ERR_ARG, "%s with %zu inputs; expected %s%zu",
                                 fm_pond_kind_name(op->kind), node->op.input_count,
                                 op->kind == FM_POND_SQL ? "1 to 8, not " : "",
                                 op->kind == FM_POND_SQL ? node->op.input_count : wanted);
    for (size_t i = 0; i < node->op.input_count; i++) {
        int input = op->inputs ? op->inputs[i] : before;
        if (input < 0 || input > before || plan->nodes[input].op.kind == FM_POND_SINK)
            return fm_base_error_set(FM_ERR_ARG, "%s reads node %d; expected one of 0 to %d that is no sink",
                                     fm_pond_kind_name(op->kind), input, before);
        node->inputs[i] = input;
    }
    return FM_OK;
}

static int copy_text(fm_pond_plan *plan, const char **text)
{
    if (!*text)
        return 1;
    *text = fm_base_arena_strndup(&plan->texts, *text, strlen(*text));
    return *text != NULL;
}

static fm_status copy_texts(fm_pond_plan *plan, fm_pond_op *op)
{
    int copied = copy_text(plan, &op->name) && copy_text(plan, &op->text) && copy_text(plan, &op->by) &&
                 copy_text(plan, &op->join) && copy_text(plan, &op->schema);
    const char **paths =
        copied ? fm_base_arena_alloc(&plan->texts, (op->path_count + 1) * sizeof *paths) : NULL;
    for (size_t i = 0; paths && i < op->path_count; i++) {
        paths[i] = op->paths[i];
        if (!copy_text(plan, &paths[i]))
            paths = NULL;
    }
    op->paths = paths;
    return paths ? FM_OK : fm_base_error_set(FM_ERR_NOMEM, "no memory for an operation");
}

fm_status fm_pond_plan_add(fm_pond_plan *plan, const fm_pond_op *op, int *out_node)
{
    if (op->size != sizeof *op)
        return fm_base_error_set(FM_ERR_ARG, "op.size is %zu; expected %zu", op->size, sizeof *op);
    FM_TRY(check(op));
    if (plan->count == FM_POND_NODES_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "more than %d operations", FM_POND_NODES_MAX);
    if (plan->count == plan->capacity) {
        size_t capacity = plan->capacity ? 2 * plan->capacity : 16;
        fm_pond_node *nodes = fm_base_mem_realloc(plan->nodes, capacity, sizeof *nodes);
        if (!nodes)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu operations", capacity);
        plan->nodes = nodes;
        plan->capacity = capacity;
    }
    fm_pond_node *node = &plan->nodes[plan->count];
    node->op = *op;
    FM_TRY(take_inputs(plan, op, node));
    FM_TRY(copy_texts(plan, &node->op));
    if (out_node)
        *out_node = (int)plan->count;
    plan->count++;
    return FM_OK;
}
