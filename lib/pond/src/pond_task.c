#include "pond_task.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fathom/file.h"
#include "fathom/mem.h"
#include "pond_batch.h"
#include "pond_fs.h"
#include "pond_output.h"
#include "pond_schema.h"
#include "pond_trace.h"

#ifdef FM_HAVE_DUCKDB

#include "pond_session.h"

struct work {
    const fm_doc *task;
    fm_pond_session session;
    fm_pond_text draft;   // the folder in the making
    fm_pond_text columns; // JSON: [["a", "BIGINT"], ...]
    fm_pond_text select;  // how its columns are written where Parquet knows fewer types than DuckDB
    fm_pond_text parts;   // JSON: [[number, rows, sum], ...]
    uint64_t rows, rows_in, skipped, bytes;
    int is_sink;
    fm_pond_meter meter;
    fm_pond_fetched fetched; // files on fs that DuckDB could not read itself
};

static const char *get(const fm_doc *node, const char *key)
{
    const char *text = NULL;
    return fm_base_doc_string(fm_base_doc_get(node, key), key, &text) == FM_OK ? text : NULL;
}

static int64_t get_int(const fm_doc *node, const char *key)
{
    int64_t value = 0;
    return fm_base_doc_int(fm_base_doc_get(node, key), key, INT64_MIN, INT64_MAX, &value) == FM_OK ? value
                                                                                                   : 0;
}

static fm_status run_text(struct work *work, fm_pond_text *sql)
{
    fm_status status = fm_pond_text_status(sql);
    if (status == FM_OK)
        status = fm_pond_session_run(&work->session, sql->text);
    fm_pond_text_clear(sql);
    return status;
}

static uint64_t number_of(const fm_pond_text *value)
{
    uint64_t number = 0;
    for (size_t i = 0; i < value->length && value->text[i] >= '0' && value->text[i] <= '9'; i++)
        number = number * 10 + (uint64_t)(value->text[i] - '0');
    return number;
}

static fm_status take_numbers(void *context, const fm_pond_text *values, int count)
{
    uint64_t *numbers = context;
    for (int i = 0; i < count; i++)
        numbers[i] = values[i].text ? number_of(&values[i]) : 0;
    return FM_OK;
}

/* The sum of the hashes of rows, modulo 2^64, with their number: what goes in on one side of a shuffle comes out on the other. */
#define COUNT_AND_SUM \
    "CAST(count(*) AS VARCHAR), CAST(coalesce(sum(hash(__row)), 0) % 18446744073709551616 AS VARCHAR)"

static fm_status check_proofs(struct work *work)
{
    const fm_doc *proofs = fm_base_doc_get(work->task, "proofs");
    for (size_t i = 0; i < fm_base_doc_count(proofs); i++) {
        const fm_doc *proof = fm_base_doc_at(proofs, i);
        char sql[256];
        uint64_t seen[2] = {0};
        const char *sum = get(proof, "sum");
        snprintf(sql, sizeof sql, "SELECT %s FROM %s AS __row", COUNT_AND_SUM, get(proof, "view"));
        FM_TRY(fm_pond_session_each(&work->session, sql, take_numbers, seen));
        if (seen[0] != (uint64_t)get_int(proof, "rows") || seen[1] != strtoull(sum ? sum : "", NULL, 10))
            return fm_base_error_set(
                FM_ERR_INTERNAL,
                "%lld rows with sum %s were sent to partition %lld, %llu with sum %llu arrived",
                (long long)get_int(proof, "rows"), sum ? sum : "?",
                (long long)get_int(work->task, "partition"), (unsigned long long)seen[0],
                (unsigned long long)seen[1]);
        work->rows_in += seen[0];
    }
    return FM_OK;
}

static fm_status take_clash(void *context, const fm_pond_text *values, int count)
{
    (void)context, (void)count;
    fm_pond_text message = {0};
    fm_pond_text_add(&message, "%.*s: column '%.*s' is ", (int)values[0].length, values[0].text,
                     (int)values[1].length, values[1].text);
    for (int i = 2; i < 4; i++) {
        if (values[i].text)
            fm_pond_text_add_bytes(&message, values[i].text, values[i].length);
        else
            fm_pond_text_add(&message, "not there");
        fm_pond_text_add(&message, "%s", i == 2 ? "; expected " : ", as in the source's first file");
    }
    fm_status status = fm_base_error_set(FM_ERR_FORMAT, "%s", message.text ? message.text : "columns clash");
    fm_pond_text_clear(&message);
    return status;
}

// Runs SQL that names source files: what lies on fs is fetched first. With a row to call, it is a query.
static fm_status read_source(struct work *work, const char *sql, fm_pond_row row, void *context)
{
    fm_pond_text local = {0}, folder = {0};
    if (strstr(sql, "'fs:")) {
        fm_pond_text_add(&folder, "%s.fetch", work->draft.text);
        fm_status status = fm_pond_text_status(&folder);
        if (status == FM_OK)
            status = fm_pond_fs_fetch(&work->fetched, folder.text, sql, &local);
        fm_pond_text_clear(&folder);
        if (status < 0) {
            fm_pond_text_clear(&local);
            return status;
        }
    }
    const char *text = local.text ? local.text : sql;
    fm_status status = row ? fm_pond_session_each(&work->session, text, row, context)
                           : fm_pond_session_run(&work->session, text);
    fm_pond_text_clear(&local);
    return status;
}

static fm_status run_steps(struct work *work)
{
    const fm_doc *steps = fm_base_doc_get(work->task, "steps");
    for (size_t i = 0; i < fm_base_doc_count(steps); i++) {
        const fm_doc *step = fm_base_doc_at(steps, i);
        const char *sql = get(step, "sql"), *input = get(step, "input"), *clash = get(step, "clash");
        if (clash || input)
            FM_TRY(read_source(work, clash ? clash : input, clash ? take_clash : NULL, NULL));
        else if (sql)
            FM_TRY(fm_pond_session_run(&work->session, sql));
        else
            FM_TRY(fm_pond_batch_run(&work->session, get(step, "function"), get(step, "from"),
                                     get(step, "into"), get(step, "schema"),
                                     get_int(work->task, "partition")));
    }
    return FM_OK;
}

static void add_json(fm_pond_text *to, const char *bytes, size_t length)
{
    fm_pond_text_add(to, "\"");
    for (size_t i = 0; i < length; i++) {
        if (bytes[i] == '"' || bytes[i] == '\\')
            fm_pond_text_add(to, "\\");
        if ((unsigned char)bytes[i] < 0x20)
            fm_pond_text_add(to, "\\u%04x", bytes[i]);
        else
            fm_pond_text_add_bytes(to, bytes + i, 1);
    }
    fm_pond_text_add(to, "\"");
}

static void add_name(fm_pond_text *to, const char *bytes, size_t length)
{
    fm_pond_text_add(to, "\"");
    for (size_t i = 0; i < length; i++)
        fm_pond_text_add(to, bytes[i] == '"' ? "\"\"" : "%c", bytes[i]);
    fm_pond_text_add(to, "\"");
}

static fm_status take_column(void *context, const fm_pond_text *values, int count)
{
    struct work *work = context;
    const char *type = values[1].text;
    (void)count;
    fm_pond_text_add(&work->columns, work->columns.length > 1 ? ", [" : "[");
    add_json(&work->columns, values[0].text, values[0].length);
    fm_pond_text_add(&work->columns, ", ");
    add_json(&work->columns, type, values[1].length);
    fm_pond_text_add(&work->columns, "]");
    // Copied, since what DuckDB gives does not end with a 0.
    fm_pond_text plain = {0}, stored = {0};
    fm_pond_text_add_bytes(&plain, type, values[1].length);
    fm_status status = fm_pond_text_status(&plain);
    if (status == FM_OK && fm_pond_schema_add_stored(plain.text, plain.length, work->is_sink, &stored)) {
        fm_pond_text_add(&work->select, work->select.length ? ", CAST(" : " REPLACE (CAST(");
        add_name(&work->select, values[0].text, values[0].length);
        fm_pond_text_add(&work->select, " AS %s) AS ", stored.text ? stored.text : "");
        add_name(&work->select, values[0].text, values[0].length);
        work->select.failed |= stored.failed;
    }
    fm_pond_text_clear(&plain);
    fm_pond_text_clear(&stored);
    return status;
}

static fm_status describe(struct work *work, const char *out)
{
    char sql[256];
    fm_pond_text_add(&work->columns, "[");
    snprintf(sql, sizeof sql, "SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM %s)", out);
    FM_TRY(fm_pond_session_each(&work->session, sql, take_column, work));
    fm_pond_text_add(&work->columns, "]");
    if (work->select.length)
        fm_pond_text_add(&work->select, ")");
    return FM_OK;
}

// Runs a COPY and counts its rows.
static fm_status copy(struct work *work, fm_pond_text *sql)
{
    duckdb_result result;
    fm_status status = fm_pond_text_status(sql);
    if (status == FM_OK)
        status = fm_pond_session_query(&work->session, sql->text, &result);
    fm_pond_text_clear(sql);
    if (status == FM_OK) {
        work->rows += (uint64_t)work->session.api->rows_changed(&result);
        work->session.api->destroy_result(&result);
    }
    return status;
}

static fm_status write_plain(struct work *work, const char *out)
{
    fm_pond_text sql = {0}, path = {0};
    fm_pond_text_add(&path, "%s/out.parquet", work->draft.text);
    fm_pond_text_add(&sql, "COPY (SELECT *%s FROM %s) TO ", work->select.text ? work->select.text : "", out);
    fm_pond_text_add_quoted(&sql, path.text ? path.text : "");
    // Intermediate data live as long as the job: compression costs more than it saves on a local disk.
    fm_pond_text_add(&sql, " (FORMAT PARQUET, COMPRESSION snappy)");
    fm_pond_text_clear(&path);
    return copy(work, &sql);
}

struct splitters {
    fm_pond_text all; // keys as hexadecimal, one behind another
    size_t *begins;
    size_t count, capacity;
};

static fm_status take_splitter(void *context, const fm_pond_text *values, int count)
{
    struct splitters *splitters = context;
    (void)count;
    if (splitters->count + 1 >= splitters->capacity)
        return FM_OK;
    fm_pond_text_add_bytes(&splitters->all, values[0].text, values[0].length);
    splitters->begins[++splitters->count] = splitters->all.length;
    return FM_OK;
}

static int equal_keys(const struct splitters *splitters, size_t a, size_t b)
{
    size_t length = splitters->begins[a + 1] - splitters->begins[a];
    return length == splitters->begins[b + 1] - splitters->begins[b] &&
           memcmp(splitters->all.text + splitters->begins[a], splitters->all.text + splitters->begins[b],
                  length) == 0;
}

static void add_literal(fm_pond_text *sql, const struct splitters *splitters, size_t i)
{
    fm_pond_text_add(sql, "from_hex('%.*s')", (int)(splitters->begins[i + 1] - splitters->begins[i]),
                     splitters->all.text + splitters->begins[i]);
}

// The partition of __k: how many of the splitters [low, high) are not above it, by halves. Rows whose key several splitters
// share may go to any partition between them, and are spread.
static void add_search(fm_pond_text *sql, const struct splitters *splitters, size_t low, size_t high)
{
    if (low >= high) {
        fm_pond_text_add(sql, "%zu", low);
        return;
    }
    size_t middle = low + (high - low) / 2, first = middle, last = middle + 1;
    while (first > low && equal_keys(splitters, first - 1, middle))
        first--;
    while (last < high && equal_keys(splitters, last, middle))
        last++;
    fm_pond_text_add(sql, "CASE WHEN __k < ");
    add_literal(sql, splitters, middle);
    fm_pond_text_add(sql, " THEN ");
    add_search(sql, splitters, low, first);
    if (last - first > 1) {
        fm_pond_text_add(sql, " WHEN __k = ");
        add_literal(sql, splitters, middle);
        fm_pond_text_add(sql, " THEN %zu + CAST(floor(random() * %zu) AS BIGINT)", first, last - first + 1);
    }
    fm_pond_text_add(sql, " ELSE ");
    add_search(sql, splitters, last, high);
    fm_pond_text_add(sql, " END");
}

static fm_status find_splitters(struct work *work, const char *samples, size_t parts,
                                struct splitters *splitters)
{
    char sql[1024];
    splitters->capacity = parts;
    splitters->begins = fm_base_mem_zalloc(parts + 1, sizeof *splitters->begins);
    if (!splitters->begins)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu splitters", parts);
    snprintf(sql, sizeof sql,
             "SELECT hex(min(k)) FROM (SELECT k, sum(w) OVER (ORDER BY k ROWS UNBOUNDED PRECEDING) / sum(w) "
             "OVER () AS "
             "q FROM %s), range(1, %zu) r(i) WHERE q >= i / %zu.0 GROUP BY i ORDER BY i",
             samples, parts, parts);
    return fm_pond_session_each(&work->session, sql, take_splitter, splitters);
}

static fm_status add_range(struct work *work, const char *by, size_t parts, fm_pond_text *sql)
{
    struct splitters splitters = {0};
    fm_status status = find_splitters(work, get(work->task, "samples"), parts, &splitters);
    if (status == FM_OK)
        status = fm_pond_text_status(&splitters.all);
    if (status == FM_OK) {
        fm_pond_text_add(sql, "SELECT * EXCLUDE (__k), ");
        add_search(sql, &splitters, 0, splitters.count);
        fm_pond_text_add(sql, " AS __p FROM (SELECT *, ");
        fm_pond_text_add_sort_key(sql, by);
        fm_pond_text_add(sql, " AS __k FROM %s)", get(work->task, "out"));
    }
    fm_base_mem_free(splitters.begins);
    fm_pond_text_clear(&splitters.all);
    return status;
}

// The rows with the number of their partition.
static fm_status add_partition(struct work *work, fm_pond_text *sql)
{
    const char *scheme = get(work->task, "scheme"), *by = get(work->task, "by"),
               *out = get(work->task, "out");
    long long parts = (long long)get_int(work->task, "parts");
    if (strcmp(scheme, "range") == 0)
        return add_range(work, by, (size_t)parts, sql);
    if (strcmp(scheme, "random") == 0)
        fm_pond_text_add(sql, "SELECT *, CAST(floor(random() * %lld) AS BIGINT) AS __p FROM %s", parts, out);
    else if (strcmp(scheme, "column") == 0)
        fm_pond_text_add(sql, "SELECT *, CAST(%s AS BIGINT) AS __p FROM %s", by, out);
    else if (by)
        fm_pond_text_add(sql, "SELECT *, CAST(hash(%s) %% %lld AS BIGINT) AS __p FROM %s", by, parts, out);
    else
        fm_pond_text_add(sql, "SELECT *, CAST(hash(__row) %% %lld AS BIGINT) AS __p FROM %s AS __row", parts,
                         out);
    return FM_OK;
}

static fm_status take_part(void *context, const fm_pond_text *values, int count)
{
    struct work *work = context;
    int64_t parts = get_int(work->task, "parts");
    (void)count;
    if (!values[0].text || values[0].text[0] == '-' || number_of(&values[0]) >= (uint64_t)parts)
        return fm_base_error_set(
            FM_ERR_LIMIT, "partition key %.*s of \"%s\" is out of range; expected 0 to %lld",
            values[0].text ? (int)values[0].length : 4, values[0].text ? values[0].text : "NULL",
            get(work->task, "by"), (long long)parts - 1);
    fm_pond_text_add(&work->parts, "%s[%.*s, %.*s, \"%.*s\"]", work->parts.length > 1 ? ", " : "",
                     (int)values[0].length, values[0].text, (int)values[1].length, values[1].text,
                     (int)values[2].length, values[2].text);
    return FM_OK;
}

static fm_status write_shuffle(struct work *work)
{
    fm_pond_text sql = {0}, path = {0};
    fm_pond_text_add(&sql, "CREATE TEMP TABLE __shuffle AS ");
    fm_status status = add_partition(work, &sql);
    if (status < 0) {
        fm_pond_text_clear(&sql);
        return status;
    }
    FM_TRY(run_text(work, &sql));
    fm_pond_text_add(&work->parts, "[");
    FM_TRY(fm_pond_session_each(&work->session,
                                "SELECT CAST(__p AS VARCHAR), CAST(count(*) AS VARCHAR), "
                                "CAST(sum(hash(__row)) % 18446744073709551616 AS VARCHAR) "
                                "FROM (SELECT __p, struct_pack(*COLUMNS(* EXCLUDE (__p))) AS __row FROM "
                                "__shuffle) GROUP BY __p ORDER BY __p",
                                take_part, work));
    fm_pond_text_add(&work->parts, "]");
    fm_pond_text_add(&path, "%s", work->draft.text);
    fm_pond_text_add(&sql, "COPY (SELECT *%s FROM __shuffle) TO ",
                     work->select.text ? work->select.text : "");
    fm_pond_text_add_quoted(&sql, path.text ? path.text : "");
    fm_pond_text_add(&sql, " (FORMAT PARQUET, COMPRESSION snappy, PARTITION_BY (__p), OVERWRITE_OR_IGNORE)");
    fm_pond_text_clear(&path);
    FM_TRY(copy(work, &sql));
    // A partition that no row went to is read from here: columns without rows.
    uint64_t rows = work->rows;
    fm_pond_text_add(&path, "%s/none.parquet", work->draft.text);
    fm_pond_text_add(&sql, "COPY (SELECT * EXCLUDE (__p)%s FROM __shuffle LIMIT 0) TO ",
                     work->select.text ? work->select.text : "");
    fm_pond_text_add_quoted(&sql, path.text ? path.text : "");
    fm_pond_text_add(&sql, " (FORMAT PARQUET)");
    fm_pond_text_clear(&path);
    status = copy(work, &sql);
    work->rows = rows;
    return status;
}

static fm_status write_sink(struct work *work, const char *out)
{
    const char *format = get(work->task, "format"), *columns = get(work->task, "columns");
    fm_pond_text sql = {0}, path = {0};
    fm_status status;
    if (strcmp(format, "raw") == 0) {
        fm_pond_text_add(&path, "%s/out.bin", work->draft.text);
        status = fm_pond_text_status(&path);
        if (status == FM_OK)
            status = fm_pond_batch_write_raw(&work->session, out, path.text, &work->rows);
        fm_pond_text_clear(&path);
        return status;
    }
    // Text keeps every digit.
    int is_parquet = strcmp(format, "parquet") == 0;
    fm_pond_text_add(&sql, "COPY (SELECT *%s FROM %s) TO ",
                     is_parquet && work->select.text ? work->select.text : "", out);
    fm_pond_text_add(&path, columns ? "%s/parts" : "%s/out.%s", work->draft.text,
                     strcmp(format, "text") == 0 ? "txt" : format);
    fm_pond_text_add_quoted(&sql, path.text ? path.text : "");
    fm_pond_text_clear(&path);
    if (is_parquet)
        fm_pond_text_add(&sql, " (FORMAT PARQUET, COMPRESSION zstd");
    else if (strcmp(format, "json") == 0)
        fm_pond_text_add(&sql, " (FORMAT JSON");
    else if (strcmp(format, "text") == 0)
        fm_pond_text_add(&sql, " (FORMAT CSV, HEADER false, DELIMITER '\x01', QUOTE '', ESCAPE ''");
    else
        fm_pond_text_add(&sql, " (FORMAT CSV, HEADER true");
    if (columns)
        fm_pond_text_add(&sql, ", PARTITION_BY (%s), OVERWRITE_OR_IGNORE", columns);
    fm_pond_text_add(&sql, ")");
    return copy(work, &sql);
}

// Nothing of a task is synced, which would take longer than many a task: after a power cut, the sizes of its files tell whether they
// are whole.
static fm_status save_result(const char *path, const fm_pond_text *text)
{
    FILE *file = fopen(path, "we");
    if (!file)
        return fm_base_file_error(errno, "%s", path);
    fwrite(text->text, 1, text->length, file);
    int failed = ferror(file), err = errno;
    if (fclose(file) != 0 && !failed) {
        failed = 1;
        err = errno;
    }
    return failed ? fm_base_file_error(err, "%s", path) : FM_OK;
}

static fm_status write_result(struct work *work, char **out_result)
{
    fm_pond_text text = {0}, path = {0};
    fm_pond_usage usage;
    work->bytes = fm_pond_folder_bytes(work->draft.text);
    fm_pond_meter_read(&work->meter, &usage);
    fm_pond_text_add(&text,
                     "{\"rows\": %llu, \"rows_in\": %llu, \"bytes\": %llu, \"skipped\": %llu, \"columns\": "
                     "%s, \"parts\": %s, ",
                     (unsigned long long)work->rows, (unsigned long long)work->rows_in,
                     (unsigned long long)work->bytes, (unsigned long long)work->skipped,
                     work->columns.text ? work->columns.text : "[]",
                     work->parts.text ? work->parts.text : "[]");
    fm_pond_text_add(&text,
                     "\"begin_unix_ns\": %llu, \"wall_ns\": %llu, \"cpu_ns\": %llu, \"rss_bytes\": %llu, "
                     "\"read_bytes\": %llu, \"written_bytes\": %llu, \"phases\": [",
                     (unsigned long long)usage.begin_unix_ns, (unsigned long long)usage.wall_ns,
                     (unsigned long long)usage.cpu_ns, (unsigned long long)usage.rss_bytes,
                     (unsigned long long)usage.read_bytes, (unsigned long long)usage.written_bytes);
    for (int i = 0; i < FM_POND_PHASES; i++)
        fm_pond_text_add(&text, "%s%llu", i ? ", " : "", (unsigned long long)usage.phase_ns[i]);
    fm_pond_text_add(&text, "]}");
    fm_pond_text_add(&path, "%s/" FM_POND_RESULT_NAME, work->draft.text);
    fm_status status = fm_pond_text_status(&text);
    if (status == FM_OK)
        status = fm_pond_text_status(&path);
    if (status == FM_OK)
        status = save_result(path.text, &text);
    fm_pond_text_clear(&path);
    if (status == FM_OK)
        *out_result = text.text;
    else
        fm_pond_text_clear(&text);
    return status;
}

static fm_status count_skipped(struct work *work)
{
    const fm_doc *queries = fm_base_doc_get(work->task, "skipped");
    uint64_t noted = 0;
    if (fm_base_doc_count(queries))
        FM_TRY(fm_pond_session_each(
            &work->session,
            "SELECT CAST(count(*) AS VARCHAR) FROM duckdb_tables() WHERE table_name = 'reject_errors'",
            take_numbers, &noted));
    for (size_t i = 0; i < fm_base_doc_count(queries); i++) {
        const char *malformed = get(fm_base_doc_at(queries, i), "malformed");
        const char *rejected = get(fm_base_doc_at(queries, i), "rejected");
        uint64_t skipped = 0;
        if (malformed || (rejected && noted)) // nothing is noted where the plan had no need to read
            FM_TRY(read_source(work, malformed ? malformed : rejected, take_numbers, &skipped));
        work->skipped += skipped;
    }
    return FM_OK;
}

static fm_status run_inside(struct work *work)
{
    const char *kind = get(work->task, "kind"), *out = get(work->task, "out");
    double seed = (double)((uint64_t)get_int(work->task, "seed") % 2000001) / 1000000 - 1;
    char sql[64];
    snprintf(sql, sizeof sql, "SELECT setseed(%.6f)", seed);
    FM_TRY(fm_pond_session_run(&work->session, sql));
    FM_TRY(run_steps(work));
    fm_pond_meter_next(&work->meter);
    FM_TRY(check_proofs(work));
    fm_pond_meter_next(&work->meter);
    work->is_sink = strcmp(kind, "sink") == 0;
    FM_TRY(describe(work, out));
    fm_status status = strcmp(kind, "plain") == 0 ? write_plain(work, out)
                       : work->is_sink            ? write_sink(work, out)
                                                  : write_shuffle(work);
    FM_TRY(status);
    return count_skipped(work);
}

static fm_status run_in_draft(struct work *work, char **out_result)
{
    fm_pond_text scratch = {0};
    FM_TRY(fm_base_dir_create(work->draft.text));
    fm_pond_text_add(&scratch, "%s.spill", work->draft.text);
    fm_status status = fm_pond_text_status(&scratch);
    int64_t threads = get_int(work->task, "threads");
    if (status == FM_OK)
        status = fm_pond_session_begin(threads > 0 ? (int)threads : 1,
                                       (uint64_t)get_int(work->task, "memory"), scratch.text, &work->session);
    if (status == FM_OK) {
        fm_pond_meter_next(&work->meter);
        status = run_inside(work);
        fm_pond_meter_next(&work->meter);
        fm_pond_session_end(&work->session, status == FM_OK);
    }
    if (status == FM_OK)
        status = write_result(work, out_result);
    else if (work->fetched.count) {
        fm_pond_text message = {0};
        fm_pond_fs_name(&work->fetched, fm_error_message(), &message);
        fm_base_error_set(status, "%s", message.text ? message.text : "");
        fm_pond_text_clear(&message);
    }
    fm_pond_fs_forget(&work->fetched);
    if (scratch.text)
        fm_pond_folder_discard(scratch.text);
    fm_pond_text_clear(&scratch);
    return status;
}

fm_status fm_pond_task_run(const fm_doc *task, char **out_result)
{
    static int attempts; // of this process
    struct work work = {.task = task};
    fm_pond_text final = {0};
    char *result = NULL;
    fm_pond_meter_begin(&work.meter);
    fm_pond_text_add(&final, "%s/%s", get(task, "folder"), get(task, "key"));
    fm_pond_text_add(&work.draft, "%s/.%s.%d.%d", get(task, "folder"), get(task, "key"), (int)getpid(),
                     __atomic_add_fetch(&attempts, 1, __ATOMIC_RELAXED));
    fm_status status = fm_pond_text_status(&final);
    if (status == FM_OK)
        status = fm_pond_text_status(&work.draft);
    if (status == FM_OK)
        status = run_in_draft(&work, &result);
    // Another copy of the task may have been faster; its result is as good.
    if (status == FM_OK && rename(work.draft.text, final.text) != 0 && errno != ENOTEMPTY && errno != EEXIST)
        status = fm_base_file_error(errno, "%s", final.text);
    if (work.draft.text)
        fm_pond_folder_discard(work.draft.text);
    fm_pond_text_clear(&final);
    fm_pond_text_clear(&work.draft);
    fm_pond_text_clear(&work.columns);
    fm_pond_text_clear(&work.select);
    fm_pond_text_clear(&work.parts);
    if (status == FM_OK)
        *out_result = result;
    else
        fm_base_mem_free(result);
    return status;
}

fm_status fm_pond_task_engine(const char **out_version)
{
    const fm_duckdb *api;
    FM_TRY(fm_base_duckdb(&api));
    *out_version = api->library_version();
    return FM_OK;
}

#else

fm_status fm_pond_task_run(const fm_doc *task, char **out_result)
{
    (void)task, (void)out_result;
    return fm_base_error_set(FM_ERR_UNAVAILABLE, "built without DuckDB (setup/install.sh fetches it)");
}

fm_status fm_pond_task_engine(const char **out_version)
{
    (void)out_version;
    return fm_base_error_set(FM_ERR_UNAVAILABLE, "built without DuckDB (setup/install.sh fetches it)");
}

#endif
