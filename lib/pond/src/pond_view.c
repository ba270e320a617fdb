/* The SQL by which a task sees its input. */
#include <stdio.h>
#include <string.h>

#include "pond_reader.h"
#include "pond_run.h"
#include "pond_schema.h"

static void add_name(fm_pond_text *sql, const char *name)
{
    fm_pond_text_add(sql, "\"");
    for (; *name; name++)
        fm_pond_text_add(sql, *name == '"' ? "\"\"" : "%c", *name);
    fm_pond_text_add(sql, "\"");
}

// "SELECT *", with the types that its writer could not write.
static fm_status add_select(const char *columns, fm_pond_text *sql)
{
    fm_doc *list = NULL;
    int replaced = 0;
    fm_pond_text_add(sql, "SELECT *");
    if (!columns)
        return FM_OK;
    FM_TRY(fm_base_doc_parse_json(columns, strlen(columns), "columns", &list));
    fm_status status = FM_OK;
    for (size_t i = 0; i < fm_base_doc_count(list) && status == FM_OK; i++) {
        const char *name = NULL, *type = NULL;
        status = fm_base_doc_string(fm_base_doc_at(fm_base_doc_at(list, i), 0), "name", &name);
        if (status == FM_OK)
            status = fm_base_doc_string(fm_base_doc_at(fm_base_doc_at(list, i), 1), "type", &type);
        fm_pond_text stored = {0};
        int differs = status == FM_OK && fm_pond_schema_add_stored(type, strlen(type), 0, &stored);
        fm_pond_text_clear(&stored);
        if (!differs)
            continue;
        fm_pond_text_add(sql, replaced++ ? ", CAST(" : " REPLACE (CAST(");
        add_name(sql, name);
        fm_pond_text_add(sql, " AS %s) AS ", type);
        add_name(sql, name);
    }
    if (replaced)
        fm_pond_text_add(sql, ")");
    fm_base_doc_free(list);
    return status;
}

static void add_made(const fm_pond_run *run, const fm_pond_made *made, const char *file, fm_pond_text *list)
{
    fm_pond_text path = {0};
    fm_pond_text_add(&path, "%s/%s/%s", run->tasks.text, made->key, file);
    fm_pond_text_add(list, list->length ? ", " : "");
    fm_pond_text_add_quoted(list, path.text ? path.text : "");
    list->failed |= path.failed;
    fm_pond_text_clear(&path);
}

static const fm_pond_part *find_part(const fm_pond_made *made, int partition)
{
    size_t low = 0, high = made->part_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (made->parts[middle].number < (uint32_t)partition)
            low = middle + 1;
        else
            high = middle;
    }
    return low < made->part_count && made->parts[low].number == (uint32_t)partition ? &made->parts[low]
                                                                                    : NULL;
}

// Files of what tasks `first` ... `end` - 1 of a stage have made; of a shuffle, those of partition `part` (-1: of all).
static void list_made(const fm_pond_run *run, const fm_pond_dataset *dataset, int first, int end, int part,
                      fm_pond_text *list)
{
    const fm_pond_stage_run *stage = &run->stages[dataset->stage];
    for (int i = first; i < end; i++) {
        const fm_pond_made *made = &stage->made[i];
        char pattern[64];
        if (dataset->kind == FM_POND_DATASET_PLAIN)
            add_made(run, made, "out.parquet", list);
        else if (part < 0 && made->part_count)
            add_made(run, made, "__p=*/*.parquet", list);
        else if (part >= 0 && find_part(made, part)) {
            snprintf(pattern, sizeof pattern, "__p=%d/*.parquet", part);
            add_made(run, made, pattern, list);
        }
    }
    if (list->length == 0 && !list->failed)
        add_made(run, &stage->made[0],
                 dataset->kind == FM_POND_DATASET_PLAIN ? "out.parquet" : "none.parquet", list);
}

static const char *columns_of(const fm_pond_run *run, const fm_pond_dataset *dataset)
{
    return run->stages[dataset->stage].made[0].columns;
}

static fm_status add_parquet(const fm_pond_run *run, const fm_pond_dataset *dataset, const fm_pond_text *list,
                             int nothing, fm_pond_text *sql)
{
    FM_TRY(fm_pond_text_status(list));
    FM_TRY(add_select(columns_of(run, dataset), sql));
    fm_pond_text_add(sql, " FROM read_parquet([%s], hive_partitioning = false)%s", list->text,
                     nothing ? " WHERE false" : "");
    return FM_OK;
}

/* Sources */

static void list_files(const fm_pond_dataset *dataset, size_t first, size_t end, fm_pond_text *list)
{
    for (size_t i = first; i < end; i++) {
        fm_pond_text_add(list, list->length ? ", " : "");
        fm_pond_text_add_quoted(list, dataset->files[i].path);
    }
}

static void add_range_source(const fm_pond_op *op, int partition, int partitions, fm_pond_text *sql)
{
    __extension__ typedef __int128 wide;
    wide count = (wide)op->high - op->low;
    int64_t low = (int64_t)(op->low + count * partition / partitions);
    int64_t high = (int64_t)(op->low + count * (partition + 1) / partitions);
    fm_pond_text_add(sql, "SELECT range AS id FROM range(%lld, %lld)", (long long)low, (long long)high);
}

static void add_query_source(const char *query, int partition, int partitions, fm_pond_text *sql)
{
    for (const char *at = query; *at;) {
        if (strncmp(at, "{partition}", 11) == 0) {
            fm_pond_text_add(sql, "%d", partition);
            at += 11;
        } else if (strncmp(at, "{partitions}", 12) == 0) {
            fm_pond_text_add(sql, "%d", partitions);
            at += 12;
        } else {
            fm_pond_text_add_bytes(sql, at++, 1);
        }
    }
}

// Which files a partition has: those whose middle byte lies in its share of all bytes.
static void share_files(const fm_pond_dataset *dataset, int partition, int partitions, size_t *out_first,
                        size_t *out_end)
{
    __extension__ typedef unsigned __int128 wide;
    uint64_t before = 0, total = dataset->bytes + dataset->file_count; // an empty file counts, too
    size_t first = 0, end = 0;
    for (size_t i = 0; i < dataset->file_count; i++) {
        uint64_t size = dataset->files[i].bytes + 1;
        int owner = (int)((wide)(before + size / 2) * (unsigned)partitions / total);
        before += size;
        first += owner < partition;
        end += owner <= partition;
    }
    *out_first = first;
    *out_end = end;
}

// A partition of fewer files than partitions: a stretch of one file's rows.
static void add_stretch(const fm_pond_dataset *dataset, const char *schema, int partition, int partitions,
                        fm_pond_text *sql)
{
    size_t count = dataset->file_count, file = (size_t)partition * count / (size_t)partitions;
    // The first partition of this file and of the next.
    size_t begin = (file * (size_t)partitions + count - 1) / count;
    size_t next = ((file + 1) * (size_t)partitions + count - 1) / count;
    fm_pond_text path = {0};
    fm_pond_text_add_quoted(&path, dataset->files[file].path);
    const char *name = path.text ? path.text : "''";
    unsigned long long part = (unsigned long long)((size_t)partition - begin), parts = next - begin;
    fm_pond_text_add(sql, "SELECT ");
    fm_pond_reader_add_columns(schema, sql);
    fm_pond_text_add(sql,
                     "%s FROM read_parquet([%s], file_row_number = true) WHERE "
                     "file_row_number >= (SELECT num_rows * %llu // %llu FROM parquet_file_metadata(%s)) AND "
                     "file_row_number < (SELECT num_rows * %llu // %llu FROM parquet_file_metadata(%s))",
                     schema ? "" : " EXCLUDE (file_row_number)", name, part, parts, name, part + 1, parts,
                     name);
    sql->failed |= path.failed;
    fm_pond_text_clear(&path);
}

// The files of a partition, of which a stretch may be meant; 0: none.
static size_t files_of(const fm_pond_dataset *dataset, int partition, int partitions, size_t *out_first)
{
    size_t first = (size_t)partition * dataset->file_count / (size_t)partitions, end = first + 1;
    if ((size_t)partitions <= dataset->file_count)
        share_files(dataset, partition, partitions, &first, &end);
    *out_first = first;
    return end - first;
}

static fm_status add_source(const fm_pond_run *run, int number, int partition, int partitions,
                            fm_pond_text *sql)
{
    const fm_pond_dataset *dataset = &run->physical.datasets[number];
    const fm_pond_op *op = &run->plan->nodes[dataset->node].op;
    if (op->format == FM_POND_RANGE) {
        add_range_source(op, partition, partitions, sql);
        return FM_OK;
    }
    if (op->format == FM_POND_QUERY) {
        add_query_source(op->text, partition, partitions, sql);
        return FM_OK;
    }
    if (op->format == FM_POND_PARQUET && (size_t)partitions > dataset->file_count) {
        add_stretch(dataset, run->schemas[number], partition, partitions, sql);
        return FM_OK;
    }
    fm_pond_text list = {0};
    size_t first = 0, count = files_of(dataset, partition, partitions, &first);
    // Columns of a partition without files are those of the first file.
    list_files(dataset, count ? first : 0, count ? first + count : 1, &list);
    fm_status status = fm_pond_text_status(&list);
    if (status == FM_OK && !count)
        fm_pond_text_add(sql, "SELECT * FROM (");
    if (status == FM_OK)
        fm_pond_reader_add(op, run->schemas[number], list.text, sql);
    if (!count)
        fm_pond_text_add(sql, ") LIMIT 0");
    fm_pond_text_clear(&list);
    return status;
}

// The source that a data set reads, itself or shared out by files; NULL: none of files.
static const fm_pond_dataset *source_of(const fm_pond_run *run, int number)
{
    const fm_pond_dataset *dataset = &run->physical.datasets[number];
    if (dataset->kind == FM_POND_DATASET_FILES)
        dataset = &run->physical.datasets[dataset->of];
    return dataset->kind == FM_POND_DATASET_SOURCE && dataset->file_count ? dataset : NULL;
}

fm_status fm_pond_view_check(const fm_pond_run *run, int number, int partition, fm_pond_text *sql)
{
    const fm_pond_dataset *source = source_of(run, number);
    const fm_pond_op *op = source ? &run->plan->nodes[source->node].op : NULL;
    size_t first = 0, count = 0;
    if (!source || op->format != FM_POND_PARQUET || op->schema)
        return FM_OK;
    count = files_of(source, partition, run->physical.datasets[number].partitions, &first);
    if (count == 0 || first + count == 1)
        return FM_OK; // the first file is as it is
    fm_pond_text like = {0}, list = {0};
    list_files(source, 0, 1, &like);
    list_files(source, first, first + count, &list);
    fm_status status = fm_pond_text_status(&like);
    if (status == FM_OK)
        status = fm_pond_text_status(&list);
    if (status == FM_OK)
        fm_pond_reader_add_clash(like.text, list.text, sql);
    fm_pond_text_clear(&like);
    fm_pond_text_clear(&list);
    return status;
}

fm_status fm_pond_view_skipped(const fm_pond_run *run, int number, int partition, fm_pond_text *malformed,
                               fm_pond_text *rejected)
{
    const fm_pond_dataset *source = source_of(run, number);
    const fm_pond_op *op = source ? &run->plan->nodes[source->node].op : NULL;
    size_t first = 0, count = 0;
    if (source && op->on_error == FM_POND_SKIP)
        count = files_of(source, partition, run->physical.datasets[number].partitions, &first);
    if (!count)
        return FM_OK;
    fm_pond_text list = {0};
    list_files(source, first, first + count, &list);
    fm_status status = fm_pond_text_status(&list);
    if (status == FM_OK && op->format == FM_POND_JSON)
        fm_pond_reader_add_malformed(run->schemas[source - run->physical.datasets], list.text, malformed);
    if (status == FM_OK)
        fm_pond_reader_add_rejected(list.text, rejected);
    fm_pond_text_clear(&list);
    return status;
}

void fm_pond_view_stamp(const fm_pond_run *run, int number, int partition, fm_pond_text *out)
{
    const fm_pond_dataset *source = source_of(run, number);
    size_t first = 0,
           count =
               source ? files_of(source, partition, run->physical.datasets[number].partitions, &first) : 0;
    for (size_t i = first; i < first + count; i++)
        fm_pond_text_add(out, "%llu.%llu ", (unsigned long long)source->files[i].bytes,
                         (unsigned long long)source->files[i].mtime_ns);
}

fm_status fm_pond_view_detect(const fm_pond_run *run, int number, fm_pond_text *sql)
{
    enum { FILES = 32 }; // looked at; a job whose files differ beyond gives its schema
    const fm_pond_dataset *dataset = &run->physical.datasets[number];
    fm_pond_text list = {0};
    size_t step = dataset->file_count / FILES + 1;
    for (size_t i = 0; i < dataset->file_count; i += step)
        list_files(dataset, i, i + 1, &list);
    fm_status status = fm_pond_text_status(&list);
    if (status == FM_OK)
        fm_pond_reader_add(&run->plan->nodes[dataset->node].op, NULL, list.text, sql);
    fm_pond_text_clear(&list);
    return status;
}

/* Others */

// Tasks whose rows a partition takes when a stage's files are shared out: those whose middle row lies in its share.
static void share_made(const fm_pond_stage_run *stage, int tasks, int partition, int partitions,
                       int *out_first, int *out_end)
{
    uint64_t total = 0, before = 0;
    for (int i = 0; i < tasks; i++)
        total += stage->made[i].rows + 1;
    *out_first = *out_end = 0;
    for (int i = 0; i < tasks; i++) {
        uint64_t size = stage->made[i].rows + 1;
        __extension__ typedef unsigned __int128 wide;
        int owner = (int)((wide)(before + size / 2) * (unsigned)partitions / total);
        before += size;
        *out_first += owner < partition;
        *out_end += owner <= partition;
    }
}

static fm_status add_files(const fm_pond_run *run, const fm_pond_dataset *dataset, int partition,
                           fm_pond_text *sql)
{
    const fm_pond_dataset *of = &run->physical.datasets[dataset->of];
    if (of->kind == FM_POND_DATASET_SOURCE)
        return add_source(run, dataset->of, partition, dataset->partitions, sql);
    fm_pond_text list = {0};
    fm_status status;
    if (of->kind == FM_POND_DATASET_SHUFFLED) {
        // Partitions stay whole; several become one.
        int first = (int)((int64_t)partition * of->partitions / dataset->partitions);
        int end = (int)((int64_t)(partition + 1) * of->partitions / dataset->partitions);
        int tasks = run->physical.stages[of->stage].tasks;
        for (int part = first; part < end; part++) {
            fm_pond_text one = {0};
            list_made(run, of, 0, tasks, part, &one);
            fm_pond_text_add(&list, "%s%s", list.length ? ", " : "", one.text ? one.text : "");
            list.failed |= one.failed;
            fm_pond_text_clear(&one);
        }
        if (first == end)
            list_made(run, of, 0, 0, 0, &list);
        status = add_parquet(run, of, &list, first == end, sql);
    } else {
        int first = 0, end = 0;
        share_made(&run->stages[of->stage], of->partitions, partition, dataset->partitions, &first, &end);
        list_made(run, of, first, end, -1, &list);
        status = add_parquet(run, of, &list, first == end, sql);
    }
    fm_pond_text_clear(&list);
    return status;
}

static fm_status add_rows(const fm_pond_run *run, const fm_pond_dataset *dataset, int partition,
                          fm_pond_text *sql)
{
    __extension__ typedef unsigned __int128 wide;
    const fm_pond_dataset *of = &run->physical.datasets[dataset->of];
    const fm_pond_stage_run *stage = &run->stages[of->stage];
    uint64_t total = 0, begin = 0;
    int pieces = 0;
    for (int i = 0; i < of->partitions; i++)
        total += stage->made[i].rows;
    uint64_t low = (uint64_t)((wide)total * (unsigned)partition / (unsigned)dataset->partitions);
    uint64_t high = (uint64_t)((wide)total * (unsigned)(partition + 1) / (unsigned)dataset->partitions);
    for (int i = 0; i < of->partitions; i++) {
        uint64_t rows = stage->made[i].rows, end = begin + rows;
        int last_chance = i == of->partitions - 1 && pieces == 0;
        if ((end > low && begin < high) || last_chance) {
            uint64_t from = low > begin ? low - begin : 0, to = high < end ? high - begin : rows;
            fm_pond_text list = {0};
            list_made(run, of, i, i + 1, -1, &list);
            fm_status status = fm_pond_text_status(&list);
            fm_pond_text_add(sql, "%s", pieces++ ? " UNION ALL " : "");
            if (status == FM_OK)
                status = add_select(columns_of(run, of), sql);
            if (status == FM_OK)
                fm_pond_text_add(
                    sql,
                    " FROM (SELECT * EXCLUDE (file_row_number) FROM read_parquet([%s], hive_partitioning = "
                    "false, file_row_number = true) WHERE file_row_number >= %llu AND file_row_number < "
                    "%llu)",
                    list.text, (unsigned long long)from,
                    (unsigned long long)(from < to && low < high ? to : from));
            fm_pond_text_clear(&list);
            FM_TRY(status);
        }
        begin = end;
    }
    return FM_OK;
}

fm_status fm_pond_view_add(const fm_pond_run *run, int number, int partition, const char *name,
                           fm_pond_text *sql)
{
    const fm_pond_dataset *dataset = &run->physical.datasets[number];
    fm_pond_text list = {0};
    fm_status status = FM_OK;
    fm_pond_text_add(sql, "CREATE VIEW %s AS ", name);
    switch (dataset->kind) {
    case FM_POND_DATASET_SOURCE:
        return add_source(run, number, partition, dataset->partitions, sql);
    case FM_POND_DATASET_FILES:
        return add_files(run, dataset, partition, sql);
    case FM_POND_DATASET_ROWS:
        return add_rows(run, dataset, partition, sql);
    case FM_POND_DATASET_PLAIN:
        list_made(run, dataset, partition, partition + 1, -1, &list);
        status = add_parquet(run, dataset, &list, 0, sql);
        break;
    case FM_POND_DATASET_SHUFFLED:
        list_made(run, dataset, 0, run->physical.stages[dataset->stage].tasks, partition, &list);
        status = add_parquet(run, dataset, &list, 0, sql);
        break;
    }
    fm_pond_text_clear(&list);
    return status;
}
