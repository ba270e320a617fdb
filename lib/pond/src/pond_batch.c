#include "pond_batch.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fathom/file.h"
#include "fathom/mem.h"

const fm_pond_column *fm_pond_batch_find(const fm_pond_batch *batch, const char *name)
{
    for (size_t i = 0; i < batch->column_count; i++)
        if (strcmp(batch->columns[i].name, name) == 0)
            return &batch->columns[i];
    return NULL;
}

#ifdef FM_HAVE_DUCKDB

enum { BATCH_ROWS = 2048, COLUMNS_MAX = 128 };

struct fm_pond_rows {
    const fm_duckdb *api;
    duckdb_appender appender;
    uint64_t rows;
};

static fm_status put(fm_pond_rows *rows, duckdb_state state)
{
    return state == DuckDBError ? fm_pond_session_failure(rows->api->appender_error(rows->appender)) : FM_OK;
}

fm_status fm_pond_rows_int(fm_pond_rows *rows, int64_t value)
{
    return put(rows, rows->api->append_int64(rows->appender, value));
}

fm_status fm_pond_rows_real(fm_pond_rows *rows, double value)
{
    return put(rows, rows->api->append_double(rows->appender, value));
}

fm_status fm_pond_rows_bytes(fm_pond_rows *rows, const void *bytes, size_t length)
{
    // As a BLOB it goes into BLOB and VARCHAR columns alike; DuckDB checks that text is UTF-8.
    return put(rows, rows->api->append_blob(rows->appender, bytes, length));
}

fm_status fm_pond_rows_null(fm_pond_rows *rows)
{
    return put(rows, rows->api->append_null(rows->appender));
}

fm_status fm_pond_rows_end(fm_pond_rows *rows)
{
    rows->rows++;
    return put(rows, rows->api->appender_end_row(rows->appender));
}

// A streamed query whose columns are all BIGINT, DOUBLE, VARCHAR or BLOB.
struct reader {
    const fm_pond_session *session;
    duckdb_prepared_statement statement;
    duckdb_pending_result pending;
    duckdb_result result;
    int has_result;
    fm_pond_column columns[COLUMNS_MAX];
    size_t column_count;
    uint8_t *nulls;        // [column][row]
    fm_pond_bytes *values; // [column][row]
};

static fm_status add_cast(void *context, const fm_pond_text *values, int count)
{
    static const char *const integers[] = {"BIGINT",   "INTEGER",   "SMALLINT", "TINYINT",
                                           "UINTEGER", "USMALLINT", "UTINYINT", "BOOLEAN"};
    fm_pond_text *sql = context;
    (void)count;
    const char *type = "VARCHAR";
    if (strncmp(values[1].text, "DECIMAL", 7) == 0 || strncmp(values[1].text, "DOUBLE", 6) == 0 ||
        strncmp(values[1].text, "FLOAT", 5) == 0)
        type = "DOUBLE";
    if (values[1].length == 4 && memcmp(values[1].text, "BLOB", 4) == 0)
        type = "BLOB";
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++)
        if (values[1].length == strlen(integers[i]) &&
            memcmp(values[1].text, integers[i], values[1].length) == 0)
            type = "BIGINT";
    fm_pond_text_add(sql, "%sCAST(\"", sql->length > 7 ? ", " : "");
    fm_pond_text_add_bytes(sql, values[0].text, values[0].length);
    fm_pond_text_add(sql, "\" AS %s) AS \"", type);
    fm_pond_text_add_bytes(sql, values[0].text, values[0].length);
    fm_pond_text_add(sql, "\"");
    return FM_OK;
}

static void close_reader(struct reader *reader)
{
    const fm_duckdb *api = reader->session->api;
    if (reader->has_result)
        api->destroy_result(&reader->result);
    api->destroy_pending(&reader->pending);
    api->destroy_prepare(&reader->statement);
    fm_base_mem_free(reader->nulls);
    fm_base_mem_free(reader->values);
}

static fm_status begin_reading(struct reader *reader, const char *sql)
{
    const fm_duckdb *api = reader->session->api;
    if (api->prepare(reader->session->connection, sql, &reader->statement) == DuckDBError)
        return fm_pond_session_failure(api->prepare_error(reader->statement));
    if (api->pending_prepared_streaming(reader->statement, &reader->pending) == DuckDBError)
        return fm_pond_session_failure(api->pending_error(reader->pending));
    duckdb_state state = api->execute_pending(reader->pending, &reader->result);
    reader->has_result = 1;
    if (state == DuckDBError)
        return fm_pond_session_failure(api->result_error(&reader->result));
    reader->column_count = (size_t)api->column_count(&reader->result);
    if (reader->column_count > COLUMNS_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "a function is given %zu columns; expected at most %d",
                                 reader->column_count, COLUMNS_MAX);
    for (size_t i = 0; i < reader->column_count; i++) {
        duckdb_type type = api->column_type(&reader->result, i);
        reader->columns[i].name = api->column_name(&reader->result, i);
        reader->columns[i].type = type == DUCKDB_TYPE_BIGINT   ? FM_POND_INT64
                                  : type == DUCKDB_TYPE_DOUBLE ? FM_POND_REAL
                                  : type == DUCKDB_TYPE_BLOB   ? FM_POND_BYTES
                                                               : FM_POND_TEXT_VALUE;
    }
    reader->nulls = fm_base_mem_zalloc(reader->column_count + 1, BATCH_ROWS);
    reader->values = fm_base_mem_zalloc((reader->column_count + 1) * BATCH_ROWS, sizeof *reader->values);
    return reader->nulls && reader->values ? FM_OK : fm_base_error_set(FM_ERR_NOMEM, "no memory for a batch");
}

static fm_status open_reader(const fm_pond_session *session, const char *from, struct reader *out_reader)
{
    fm_pond_text sql = {0}, describe = {0};
    *out_reader = (struct reader){.session = session};
    fm_pond_text_add(&describe, "SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM %s)", from);
    fm_pond_text_add(&sql, "SELECT ");
    fm_status status = fm_pond_text_status(&describe);
    if (status == FM_OK)
        status = fm_pond_session_each(session, describe.text, add_cast, &sql);
    fm_pond_text_add(&sql, " FROM %s", from);
    if (status == FM_OK)
        status = fm_pond_text_status(&sql);
    if (status == FM_OK)
        status = begin_reading(out_reader, sql.text);
    fm_pond_text_clear(&describe);
    fm_pond_text_clear(&sql);
    if (status < 0)
        close_reader(out_reader);
    return status;
}

static void show_column(struct reader *reader, duckdb_data_chunk chunk, size_t number, size_t rows)
{
    const fm_duckdb *api = reader->session->api;
    fm_pond_column *column = &reader->columns[number];
    duckdb_vector vector = api->data_chunk_get_vector(chunk, number);
    void *data = api->vector_get_data(vector);
    uint64_t *valid = api->vector_get_validity(vector);
    uint8_t *nulls = reader->nulls + number * BATCH_ROWS;
    for (size_t i = 0; valid && i < rows; i++)
        nulls[i] = !api->validity_row_is_valid(valid, i);
    column->is_null = valid ? nulls : NULL;
    column->integers = column->type == FM_POND_INT64 ? data : NULL;
    column->reals = column->type == FM_POND_REAL ? data : NULL;
    if (column->type != FM_POND_TEXT_VALUE && column->type != FM_POND_BYTES)
        return;
    fm_pond_bytes *values = reader->values + number * BATCH_ROWS;
    duckdb_string_t *texts = data;
    for (size_t i = 0; i < rows; i++) {
        uint32_t length = texts[i].value.inlined.length;
        values[i] =
            column->is_null && nulls[i]
                ? (fm_pond_bytes){"", 0}
                : (fm_pond_bytes){length <= 12 ? texts[i].value.inlined.inlined : texts[i].value.pointer.ptr,
                                  length};
    }
    column->values = values;
}

static fm_status call(struct reader *reader, const fm_pond_found *found, int64_t partition, fm_pond_rows *out)
{
    const fm_duckdb *api = reader->session->api;
    fm_pond_batch batch = {
        .column_count = reader->column_count, .columns = reader->columns, .partition = partition};
    fm_status status = FM_OK;
    for (duckdb_data_chunk chunk; status == FM_OK && (chunk = api->fetch_chunk(reader->result));) {
        batch.rows = (size_t)api->data_chunk_get_size(chunk);
        for (size_t i = 0; i < reader->column_count; i++)
            show_column(reader, chunk, i, batch.rows);
        if (batch.rows)
            status = found->function(found->context, &batch, out);
        api->destroy_data_chunk(&chunk);
    }
    // A stream that breaks ends like one that is done.
    const char *message = status == FM_OK ? api->result_error(&reader->result) : NULL;
    if (message)
        return fm_pond_session_failure(message);
    batch.rows = 0;
    return status < 0 ? status : found->function(found->context, &batch, out);
}

fm_status fm_pond_batch_run(const fm_pond_session *session, const char *name, const char *from,
                            const char *into, const char *schema, int64_t partition)
{
    const fm_duckdb *api = session->api;
    fm_pond_found found;
    fm_pond_text sql = {0};
    struct reader reader;
    duckdb_connection other;
    fm_pond_rows rows = {.api = api};
    FM_TRY(fm_pond_function_find(name, &found));
    fm_pond_text_add(&sql, "CREATE TABLE %s (%s)", into, schema);
    fm_status status = fm_pond_text_status(&sql);
    if (status == FM_OK)
        status = fm_pond_session_run(session, sql.text);
    fm_pond_text_clear(&sql);
    FM_TRY(status);
    // One connection runs one query: the rows go in over another.
    FM_TRY(fm_pond_session_join(session, &other));
    status = open_reader(session, from, &reader);
    if (status == FM_OK) {
        if (api->appender_create(other, NULL, into, &rows.appender) == DuckDBError)
            status = fm_pond_session_failure(api->appender_error(rows.appender));
        else
            status = call(&reader, &found, partition, &rows);
        if (status == FM_OK && api->appender_flush(rows.appender) == DuckDBError)
            status = fm_pond_session_failure(api->appender_error(rows.appender));
        api->appender_destroy(&rows.appender);
        close_reader(&reader);
    }
    api->disconnect(&other);
    return status < 0 ? fm_base_error_prefix(status, "function %s", name) : FM_OK;
}

static fm_status write_values(struct reader *reader, FILE *file, uint64_t *rows)
{
    const fm_duckdb *api = reader->session->api;
    fm_status status = FM_OK;
    for (duckdb_data_chunk chunk; status == FM_OK && (chunk = api->fetch_chunk(reader->result));) {
        size_t count = (size_t)api->data_chunk_get_size(chunk);
        show_column(reader, chunk, 0, count);
        const fm_pond_bytes *values = reader->columns[0].values;
        for (size_t i = 0; i < count && status == FM_OK; i++)
            if (values[i].length && fwrite(values[i].bytes, 1, values[i].length, file) != values[i].length)
                status = fm_base_file_error(errno, "writing rows");
        *rows += count;
        api->destroy_data_chunk(&chunk);
    }
    const char *message = status == FM_OK ? api->result_error(&reader->result) : NULL;
    return message ? fm_pond_session_failure(message) : status;
}

fm_status fm_pond_batch_write_raw(const fm_pond_session *session, const char *from, const char *path,
                                  uint64_t *out_rows)
{
    struct reader reader;
    uint64_t rows = 0;
    FM_TRY(open_reader(session, from, &reader));
    fm_status status = FM_OK;
    if (reader.column_count != 1 || reader.columns[0].type != FM_POND_BYTES)
        status = fm_base_error_set(FM_ERR_FORMAT,
                                   "a raw sink is given %zu columns, the first of another type; expected "
                                   "one BLOB",
                                   reader.column_count);
    FILE *file = status == FM_OK ? fopen(path, "wb") : NULL;
    if (status == FM_OK && !file)
        status = fm_base_error_set(FM_ERR_IO, "%s cannot be written", path);
    if (status == FM_OK)
        status = write_values(&reader, file, &rows);
    if (file && fclose(file) != 0 && status == FM_OK)
        status = fm_base_error_set(FM_ERR_SPACE, "%s cannot be written to its end", path);
    close_reader(&reader);
    *out_rows = rows;
    return status;
}

#else

// Nothing makes rows without DuckDB, but programs that would are linked all the same.
static fm_status unavailable(void)
{
    return fm_base_error_set(FM_ERR_UNAVAILABLE, "built without DuckDB (setup/install.sh fetches it)");
}

fm_status fm_pond_rows_int(fm_pond_rows *rows, int64_t value)
{
    (void)rows, (void)value;
    return unavailable();
}

fm_status fm_pond_rows_real(fm_pond_rows *rows, double value)
{
    (void)rows, (void)value;
    return unavailable();
}

fm_status fm_pond_rows_bytes(fm_pond_rows *rows, const void *bytes, size_t length)
{
    (void)rows, (void)bytes, (void)length;
    return unavailable();
}

fm_status fm_pond_rows_null(fm_pond_rows *rows)
{
    (void)rows;
    return unavailable();
}

fm_status fm_pond_rows_end(fm_pond_rows *rows)
{
    (void)rows;
    return unavailable();
}

#endif
