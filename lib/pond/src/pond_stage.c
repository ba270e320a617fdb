#include "pond_stage.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "pond_team.h"

enum {
    PARTITIONS_A_CORE = 4, // of a source that does not say: enough to even out, few enough to be worth a task
    SORT_SAMPLES = 4096,   // rows of each partition that a range partition looks at
};

// A relation that is being built: nothing has been computed, or a data set stands.
struct stream {
    fm_pond_ref ref;
    int partitions;
    fm_pond_scheme
        scheme; // by which rows came into their partitions; 0: as they lay in a source, or another way
};

static const char *const scheme_names[] = {"", "files", "rows", "hash", "column", "range", "random"};

struct planner {
    fm_pond_physical *physical;
    int *readers;           // [node]
    struct stream *streams; // [node]; partitions 0: not lowered yet
};

static fm_status no_memory(void)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory to plan");
}

static int is_dataset(fm_pond_ref ref)
{
    return ref < 0;
}

static const char *text_of(struct planner *planner, const char *format, ...) FM_PRINTF(2, 3);
static const char *text_of(struct planner *planner, const char *format, ...)
{
    char *text = NULL;
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (length >= 0)
        text = fm_base_arena_alloc(&planner->physical->texts, (size_t)length + 1);
    va_start(arguments, format);
    if (text)
        vsnprintf(text, (size_t)length + 1, format, arguments);
    va_end(arguments);
    return text;
}

// Room for one more; NULL when there is no memory. `*array` holds `*count` of `*capacity`.
static void *grow(void **array, int *count, int *capacity, size_t size)
{
    if (*count == *capacity) {
        int wanted = *capacity ? 2 * *capacity : 16;
        void *grown = fm_base_mem_realloc(*array, (size_t)wanted, size);
        if (!grown)
            return NULL;
        *array = grown;
        *capacity = wanted;
    }
    char *place = (char *)*array + (size_t)*count * size;
    ++*count;
    return memset(place, 0, size);
}

static fm_status add_dataset(struct planner *planner, const fm_pond_dataset *dataset, struct stream *out)
{
    fm_pond_physical *physical = planner->physical;
    void *array = physical->datasets;
    fm_pond_dataset *place =
        grow(&array, &physical->dataset_count, &physical->dataset_capacity, sizeof *place);
    physical->datasets = array;
    if (!place)
        return no_memory();
    *place = *dataset;
    *out = (struct stream){.ref = FM_POND_REF_DATASET(physical->dataset_count - 1),
                           .partitions = dataset->partitions};
    return FM_OK;
}

static fm_status add_def(struct planner *planner, const char *sql, const struct stream *inputs, int count,
                         struct stream *out)
{
    fm_pond_physical *physical = planner->physical;
    void *array = physical->defs;
    if (!sql)
        return no_memory();
    fm_pond_def *def = grow(&array, &physical->def_count, &physical->def_capacity, sizeof *def);
    physical->defs = array;
    if (!def)
        return no_memory();
    int partitions = 1;
    def->sql = sql;
    for (int i = 0; i < count; i++) {
        def->refs[i] = inputs[i].ref;
        partitions = inputs[i].partitions > partitions ? inputs[i].partitions : partitions;
    }
    def->ref_count = count;
    *out = (struct stream){.ref = physical->def_count - 1,
                           .partitions = partitions,
                           .scheme = count ? inputs[0].scheme : (fm_pond_scheme)0};
    return FM_OK;
}

static uint64_t bytes_of(const fm_pond_physical *physical, fm_pond_ref ref)
{
    if (is_dataset(ref))
        return physical->datasets[-1 - ref].bytes;
    uint64_t bytes = 0;
    for (int i = 0; i < physical->defs[ref].ref_count; i++)
        bytes += bytes_of(physical, physical->defs[ref].refs[i]);
    return bytes;
}

// What a relation is made of, each once, in order.
static void collect(const fm_pond_physical *physical, fm_pond_ref ref, fm_pond_stage *stage)
{
    int *list = is_dataset(ref) ? stage->datasets : stage->defs;
    int *count = is_dataset(ref) ? &stage->dataset_count : &stage->def_count;
    int index = is_dataset(ref) ? -1 - ref : ref;
    for (int i = 0; i < *count; i++)
        if (list[i] == index)
            return;
    if (!is_dataset(ref))
        for (int i = 0; i < physical->defs[ref].ref_count; i++)
            collect(physical, physical->defs[ref].refs[i], stage);
    list[(*count)++] = index;
}

// Ends a stage with `in`; `like` says what becomes of its rows.
static fm_status add_stage(struct planner *planner, struct stream in, const fm_pond_stage *like, int samples,
                           struct stream *out)
{
    fm_pond_physical *physical = planner->physical;
    void *array = physical->stages;
    fm_pond_stage *stage = grow(&array, &physical->stage_count, &physical->stage_capacity, sizeof *stage);
    physical->stages = array;
    if (!stage)
        return no_memory();
    *stage = *like;
    stage->out = in.ref;
    stage->tasks = in.partitions;
    stage->samples = samples;
    stage->defs = fm_base_arena_alloc(&physical->texts, ((size_t)physical->def_count + 1) * sizeof(int));
    stage->datasets =
        fm_base_arena_alloc(&physical->texts, ((size_t)physical->dataset_count + 1) * sizeof(int));
    if (!stage->defs || !stage->datasets)
        return no_memory();
    collect(physical, in.ref, stage);
    if (samples >= 0)
        collect(physical, FM_POND_REF_DATASET(samples), stage);
    fm_pond_dataset dataset = {.kind = like->kind == FM_POND_OUT_SHUFFLE ? FM_POND_DATASET_SHUFFLED
                                                                         : FM_POND_DATASET_PLAIN,
                               .partitions = like->kind == FM_POND_OUT_SHUFFLE ? like->parts : in.partitions,
                               .stage = physical->stage_count - 1,
                               .bytes = bytes_of(physical, in.ref)};
    return add_dataset(planner, &dataset, out);
}

static fm_status materialise(struct planner *planner, struct stream in, const char *name, int node,
                             struct stream *out)
{
    if (is_dataset(in.ref)) {
        *out = in;
        return FM_OK;
    }
    const fm_pond_stage like = {.name = name, .kind = FM_POND_OUT_PLAIN, .node = node};
    FM_TRY(add_stage(planner, in, &like, -1, out));
    out->scheme = in.scheme;
    return FM_OK;
}

static fm_status shuffle(struct planner *planner, struct stream in, const char *name, fm_pond_scheme scheme,
                         const char *by, int parts, const fm_pond_node *node, struct stream *out)
{
    const fm_pond_stage like = {.name = name,
                                .kind = FM_POND_OUT_SHUFFLE,
                                .scheme = scheme,
                                .by = by,
                                .parts = parts,
                                .seed = node->op.seed,
                                .node = (int)(node - planner->physical->plan->nodes)};
    FM_TRY(add_stage(planner, in, &like, -1, out));
    out->scheme = scheme;
    return FM_OK;
}

// Whether files (or rows) of a data set can be shared out as they lie: those of a source, and of a stage's own output.
static int lies_ready(const fm_pond_physical *physical, fm_pond_ref ref, fm_pond_dataset_kind kind)
{
    if (!is_dataset(ref))
        return 0;
    const fm_pond_dataset *dataset = &physical->datasets[-1 - ref];
    // A query says itself what its partitions are.
    if (dataset->kind == FM_POND_DATASET_SOURCE &&
        physical->plan->nodes[dataset->node].op.format == FM_POND_QUERY)
        return 0;
    return dataset->kind == FM_POND_DATASET_PLAIN || kind == FM_POND_DATASET_FILES;
}

static fm_status regroup(struct planner *planner, struct stream in, fm_pond_dataset_kind kind, int partitions,
                         int node, const char *name, struct stream *out)
{
    struct stream whole = in;
    int lies = lies_ready(planner->physical, in.ref, kind);
    if (is_dataset(in.ref) && !lies)
        FM_TRY(add_def(planner, "SELECT * FROM {0}", &in, 1, &whole));
    FM_TRY(materialise(planner, whole, name, node, &whole));
    if (whole.partitions == partitions && kind == FM_POND_DATASET_FILES && partitions == 1) {
        *out = whole;
        return FM_OK;
    }
    fm_pond_dataset dataset = {.kind = kind,
                               .partitions = partitions,
                               .of = -1 - whole.ref,
                               .bytes = bytes_of(planner->physical, whole.ref)};
    return add_dataset(planner, &dataset, out);
}

static fm_status lower_source(struct planner *planner, int node, struct stream *out)
{
    const fm_pond_op *op = &planner->physical->plan->nodes[node].op;
    fm_pond_dataset dataset = {
        .kind = FM_POND_DATASET_SOURCE, .node = node, .partitions = (int)op->partitions};
    if (op->format >= FM_POND_PARQUET && op->format <= FM_POND_FILES) {
        FM_TRY(fm_pond_source_find(op, &planner->physical->texts, &dataset.files, &dataset.file_count));
        for (size_t i = 0; i < dataset.file_count; i++)
            dataset.bytes += dataset.files[i].bytes;
        int most = PARTITIONS_A_CORE * fm_pond_team_cores();
        if (dataset.partitions == 0)
            dataset.partitions = dataset.file_count < (size_t)most ? (int)dataset.file_count : most;
        if (op->format == FM_POND_PARQUET || (size_t)dataset.partitions <= dataset.file_count)
            return add_dataset(planner, &dataset, out);
        // Files of text are not split: more partitions than files would be empty.
        dataset.partitions = (int)dataset.file_count;
        return add_dataset(planner, &dataset, out);
    }
    if (op->format == FM_POND_RANGE)
        dataset.bytes = (uint64_t)(op->high - op->low) * 8;
    if (dataset.partitions == 0)
        dataset.partitions = 1;
    return add_dataset(planner, &dataset, out);
}

static fm_status lower_range(struct planner *planner, const fm_pond_node *node, struct stream in, int parts,
                             struct stream *out)
{
    struct stream whole, sampled, samples, gathered;
    int number = (int)(node - planner->physical->plan->nodes);
    fm_pond_text key = {0};
    FM_TRY(materialise(planner, in, "before range", number, &whole));
    fm_pond_text_add_sort_key(&key, node->op.by);
    fm_status status = fm_pond_text_status(&key);
    if (status == FM_OK)
        status = add_def(
            planner,
            text_of(planner,
                    "SELECT __k AS k, (SELECT count(*) FROM {0}) / count(*) OVER () AS w FROM (SELECT "
                    "%s AS __k FROM {0} USING SAMPLE reservoir(%d ROWS) REPEATABLE (%llu))",
                    key.text, SORT_SAMPLES, (unsigned long long)(node->op.seed % 1000000007u + 1)),
            &whole, 1, &sampled);
    fm_pond_text_clear(&key);
    FM_TRY(status);
    FM_TRY(materialise(planner, sampled, "sample", number, &samples));
    FM_TRY(regroup(planner, samples, FM_POND_DATASET_FILES, 1, number, "sample", &gathered));
    const fm_pond_stage like = {.name = "range",
                                .kind = FM_POND_OUT_SHUFFLE,
                                .scheme = FM_POND_BY_RANGE,
                                .by = node->op.by,
                                .parts = parts,
                                .seed = node->op.seed,
                                .node = number};
    FM_TRY(add_stage(planner, whole, &like, -1 - gathered.ref, out));
    out->scheme = FM_POND_BY_RANGE;
    return FM_OK;
}

static fm_status lower_repartition(struct planner *planner, const fm_pond_node *node, struct stream in,
                                   struct stream *out)
{
    int number = (int)(node - planner->physical->plan->nodes), parts = (int)node->op.partitions;
    struct stream moved;
    switch (node->op.scheme) {
    case FM_POND_BY_FILES:
        return regroup(planner, in, FM_POND_DATASET_FILES, parts, number, "before files", out);
    case FM_POND_BY_ROWS:
        return regroup(planner, in, FM_POND_DATASET_ROWS, parts, number, "before rows", out);
    case FM_POND_BY_RANGE:
        return lower_range(planner, node, in, parts, out);
    case FM_POND_BY_RANDOM:
        FM_TRY(shuffle(planner, in, "random", FM_POND_BY_RANDOM, NULL, parts, node, &moved));
        return add_def(planner, "SELECT * FROM {0} ORDER BY random()", &moved, 1, out);
    default:
        return shuffle(planner, in, node->op.scheme == FM_POND_BY_HASH ? "hash" : "column", node->op.scheme,
                       node->op.by, parts, node, out);
    }
}

static fm_status lower_distinct(struct planner *planner, const fm_pond_node *node, struct stream in,
                                struct stream *out)
{
    const char *sql = node->op.by ? text_of(planner, "SELECT DISTINCT ON (%s) * FROM {0}", node->op.by)
                                  : "SELECT DISTINCT * FROM {0}";
    int parts = node->op.partitions ? (int)node->op.partitions : in.partitions;
    struct stream once, moved;
    FM_TRY(add_def(planner, sql, &in, 1, &once));
    if (in.partitions == 1) {
        *out = once;
        return FM_OK;
    }
    FM_TRY(shuffle(planner, once, "distinct", FM_POND_BY_HASH, node->op.by, parts, node, &moved));
    return add_def(planner, sql, &moved, 1, out);
}

static fm_status lower_group(struct planner *planner, const fm_pond_node *node, struct stream in,
                             struct stream *out)
{
    fm_pond_group_sql sql;
    int parts = node->op.partitions ? (int)node->op.partitions : in.partitions;
    FM_TRY(fm_pond_group_sql_make(node->op.by, node->op.text, &sql));
    struct stream grouped = in, moved = in;
    fm_status status = FM_OK;
    if (sql.first.text)
        status = add_def(planner, text_of(planner, "%s", sql.first.text), &in, 1, &grouped);
    moved = grouped;
    const char *hash = text_of(planner, "%s", sql.hash.text);
    if (status == FM_OK && !hash)
        status = no_memory();
    if (status == FM_OK && in.partitions > 1)
        status = shuffle(planner, grouped, "group", FM_POND_BY_HASH, hash, parts, node, &moved);
    if (status == FM_OK)
        status = add_def(planner, text_of(planner, "%s", sql.last.text), &moved, 1, out);
    fm_pond_group_sql_clear(&sql);
    return status;
}

static fm_status lower_join(struct planner *planner, const fm_pond_node *node, const struct stream *in,
                            struct stream *out)
{
    const char *join = node->op.join ? node->op.join : "inner";
    struct stream sides[2] = {in[0], in[1]};
    // A side of one partition is given to all tasks where no row of it can come out of several of them unmatched.
    int right_to_all = in[1].partitions == 1 && strcmp(join, "right") != 0 && strcmp(join, "full") != 0;
    int left_to_all = in[0].partitions == 1 && (strcmp(join, "inner") == 0 || strcmp(join, "right") == 0);
    if (!right_to_all && !left_to_all) {
        int parts = in[0].partitions > in[1].partitions ? in[0].partitions : in[1].partitions;
        parts = node->op.partitions ? (int)node->op.partitions : parts;
        for (int i = 0; i < 2; i++)
            FM_TRY(shuffle(planner, in[i], i ? "join, right" : "join, left", FM_POND_BY_HASH, node->op.by,
                           parts, node, &sides[i]));
    }
    return add_def(planner, text_of(planner, "SELECT * FROM {0} %s JOIN {1} USING (%s)", join, node->op.by),
                   sides, 2, out);
}

static fm_status lower_limit(struct planner *planner, const fm_pond_node *node, struct stream in,
                             struct stream *out)
{
    struct stream some, gathered;
    const char *sql = text_of(planner, "SELECT * FROM {0} LIMIT %lld", (long long)node->op.rows);
    FM_TRY(add_def(planner, sql, &in, 1, &some));
    if (in.partitions == 1) {
        *out = some;
        return FM_OK;
    }
    FM_TRY(regroup(planner, some, FM_POND_DATASET_FILES, 1, (int)(node - planner->physical->plan->nodes),
                   "limit", &gathered));
    return add_def(planner, sql, &gathered, 1, out);
}

static fm_status lower_sort(struct planner *planner, const fm_pond_node *node, struct stream in,
                            struct stream *out)
{
    struct stream moved = in;
    int parts = node->op.partitions ? (int)node->op.partitions : in.partitions;
    if (parts > 1)
        FM_TRY(lower_range(planner, node, in, parts, &moved));
    else if (in.partitions > 1)
        FM_TRY(regroup(planner, in, FM_POND_DATASET_FILES, 1, (int)(node - planner->physical->plan->nodes),
                       "before sort", &moved));
    return add_def(planner, text_of(planner, "SELECT * FROM {0} ORDER BY %s", node->op.by), &moved, 1, out);
}

static fm_status lower_batches(struct planner *planner, const fm_pond_node *node, struct stream in,
                               struct stream *out)
{
    FM_TRY(add_def(planner, "", &in, 1, out));
    fm_pond_def *def = &planner->physical->defs[out->ref];
    def->sql = NULL;
    def->function = node->op.text;
    def->schema = node->op.schema;
    return FM_OK;
}

static fm_status lower_sink(struct planner *planner, const fm_pond_node *node, struct stream in,
                            struct stream *out)
{
    const fm_pond_stage like = {
        .name = "sink", .kind = FM_POND_OUT_SINK, .node = (int)(node - planner->physical->plan->nodes)};
    return add_stage(planner, in, &like, -1, out);
}

// Rows of equal keys are in partitions of equal numbers where both sides were partitioned by hash, or by column. Ranges are cut
// where each side's own rows say.
static int share_no_keys(const struct stream *a, const struct stream *b)
{
    return a->partitions > 1 && b->partitions > 1 && a->scheme && b->scheme &&
           (a->scheme != b->scheme || a->scheme == FM_POND_BY_RANGE || a->scheme == FM_POND_BY_RANDOM);
}

static fm_status check_partitions(const fm_pond_node *node, const struct stream *in)
{
    int most = 1;
    for (size_t i = 0; i < node->op.input_count; i++)
        most = in[i].partitions > most ? in[i].partitions : most;
    for (size_t i = 0; i < node->op.input_count; i++)
        if (in[i].partitions != 1 && in[i].partitions != most)
            return fm_base_error_set(
                FM_ERR_ARG,
                "sql%s%s: input %zu has %d partitions, another has %d; expected equal numbers, or "
                "one: repartition them by the same columns",
                node->op.name ? " " : "", node->op.name ? node->op.name : "", i, in[i].partitions, most);
    for (size_t i = 1; i < node->op.input_count; i++)
        if (share_no_keys(&in[0], &in[i]) && in[0].ref != in[i].ref)
            return fm_base_error_set(
                FM_ERR_ARG,
                "sql%s%s: input 0 is partitioned by %s, input %zu by %s; expected both by hash, or both by "
                "column, for equal keys to meet",
                node->op.name ? " " : "", node->op.name ? node->op.name : "", scheme_names[in[0].scheme], i,
                scheme_names[in[i].scheme]);
    return FM_OK;
}

static fm_status lower(struct planner *planner, int number)
{
    const fm_pond_node *node = &planner->physical->plan->nodes[number];
    const fm_pond_op *op = &node->op;
    struct stream in[FM_POND_INPUTS_MAX] = {{0}}, *out = &planner->streams[number];
    for (size_t i = 0; i < op->input_count; i++)
        in[i] = planner->streams[node->inputs[i]];
    switch (op->kind) {
    case FM_POND_SOURCE:
        return lower_source(planner, number, out);
    case FM_POND_SQL:
        FM_TRY(check_partitions(node, in));
        return add_def(planner, op->text, in, (int)op->input_count, out);
    case FM_POND_FILTER:
        return add_def(planner, text_of(planner, "SELECT * FROM {0} WHERE %s", op->text), in, 1, out);
    case FM_POND_MAP:
    case FM_POND_FLAT_MAP:
        return add_def(planner, text_of(planner, "SELECT %s FROM {0}", op->text), in, 1, out);
    case FM_POND_MAP_BATCHES:
        return lower_batches(planner, node, in[0], out);
    case FM_POND_SAMPLE:
        // The partition's number ends the seed's: each partition has its own.
        return add_def(
            planner,
            text_of(planner,
                    "SELECT * FROM {0} USING SAMPLE bernoulli(%.9g PERCENT) REPEATABLE (%llu{partition})",
                    100 * op->fraction, (unsigned long long)(op->seed % 10007 + 1)),
            in, 1, out);
    case FM_POND_LIMIT:
        return lower_limit(planner, node, in[0], out);
    case FM_POND_DISTINCT:
        return lower_distinct(planner, node, in[0], out);
    case FM_POND_GROUP_BY:
        return lower_group(planner, node, in[0], out);
    case FM_POND_JOIN:
        return lower_join(planner, node, in, out);
    case FM_POND_REPARTITION:
        return lower_repartition(planner, node, in[0], out);
    case FM_POND_SORT:
        return lower_sort(planner, node, in[0], out);
    case FM_POND_SINK:
        return lower_sink(planner, node, in[0], out);
    }
    return fm_base_error_set(FM_ERR_INTERNAL, "an operation of kind %d", (int)op->kind);
}

static fm_status lower_all(struct planner *planner)
{
    const fm_pond_plan *plan = planner->physical->plan;
    int sinks = 0;
    for (size_t i = 0; i < plan->count; i++) {
        for (size_t k = 0; k < plan->nodes[i].op.input_count; k++)
            planner->readers[plan->nodes[i].inputs[k]]++;
        sinks += plan->nodes[i].op.kind == FM_POND_SINK;
    }
    if (sinks == 0)
        return fm_base_error_set(FM_ERR_ARG, "the plan has no sink; expected at least one");
    for (int i = 0; i < (int)plan->count; i++) {
        const fm_pond_op *op = &plan->nodes[i].op;
        // What nobody reads is not computed.
        if (planner->readers[i] == 0 && op->kind != FM_POND_SINK)
            continue;
        fm_status status = lower(planner, i);
        // What several read is computed once.
        if (status == FM_OK && planner->readers[i] > 1)
            status = materialise(planner, planner->streams[i], "shared", i, &planner->streams[i]);
        if (status < 0)
            return op->name ? fm_base_error_prefix(status, "step %s", op->name)
                            : fm_base_error_prefix(status, "step %d", i + 1);
    }
    return FM_OK;
}

fm_status fm_pond_physical_make(const fm_pond_plan *plan, fm_pond_physical *out_physical)
{
    fm_pond_physical physical = {.plan = plan};
    struct planner planner = {.physical = &physical,
                              .readers = fm_base_mem_zalloc(plan->count + 1, sizeof(int)),
                              .streams = fm_base_mem_zalloc(plan->count + 1, sizeof(struct stream))};
    fm_status status = planner.readers && planner.streams ? lower_all(&planner) : no_memory();
    fm_base_mem_free(planner.readers);
    fm_base_mem_free(planner.streams);
    if (status < 0)
        fm_pond_physical_clear(&physical);
    else
        *out_physical = physical;
    return status;
}

void fm_pond_physical_clear(fm_pond_physical *physical)
{
    fm_base_mem_free(physical->defs);
    fm_base_mem_free(physical->datasets);
    fm_base_mem_free(physical->stages);
    fm_base_arena_clear(&physical->texts);
    memset(physical, 0, sizeof *physical);
}
