#ifdef FM_HAVE_DUCKDB
#include "pond_session.h"

#include <stdio.h>
#include <string.h>

#include "fathom/mem.h"

fm_status fm_pond_session_failure(const char *message)
{
    static const struct {
        const char *text;
        fm_status status;
    } known[] = {
        {"Out of Memory Error", FM_ERR_NOMEM},
        {"No space left on device", FM_ERR_SPACE},
        {"max_temp_directory_size", FM_ERR_SPACE},
        {"IO Error", FM_ERR_IO},
    };
    fm_status status = FM_ERR_FORMAT;
    for (size_t i = sizeof known / sizeof *known; i-- > 0;)
        if (message && strstr(message, known[i].text))
            status = known[i].status;
    return fm_base_error_set(status, "%s", message ? message : "DuckDB failed without a message");
}

static fm_status configure(const fm_duckdb *api, duckdb_config config, const char *name, const char *value)
{
    return api->set_config(config, name, value) == DuckDBError
               ? fm_base_error_set(FM_ERR_INTERNAL, "DuckDB does not take %s = %s", name, value)
               : FM_OK;
}

static fm_status open_database(fm_pond_session *session, int threads, uint64_t memory_bytes,
                               const char *scratch)
{
    const fm_duckdb *api = session->api;
    duckdb_config config = NULL;
    char text[32], *message = NULL;
    if (api->create_config(&config) == DuckDBError)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for DuckDB's settings");
    snprintf(text, sizeof text, "%d", threads);
    fm_status status = configure(api, config, "threads", text);
    snprintf(text, sizeof text, "%lluB", (unsigned long long)memory_bytes);
    if (status == FM_OK && memory_bytes)
        status = configure(api, config, "memory_limit", text);
    if (status == FM_OK)
        status = configure(api, config, "temp_directory", scratch ? scratch : "");
    // Order is what ORDER BY says; keeping any other costs memory. Nothing is fetched from elsewhere.
    if (status == FM_OK)
        status = configure(api, config, "autoload_known_extensions", "false");
    if (status == FM_OK && api->open_ext(NULL, &session->database, config, &message) == DuckDBError) {
        status = fm_pond_session_failure(message);
        api->free(message);
    }
    api->destroy_config(&config);
    return status;
}

fm_status fm_pond_session_open(int threads, uint64_t memory_bytes, const char *scratch,
                               fm_pond_session *out_session)
{
    fm_pond_session session = {0};
    FM_TRY(fm_base_duckdb(&session.api));
    FM_TRY(open_database(&session, threads, memory_bytes, scratch));
    if (session.api->connect(session.database, &session.connection) == DuckDBError) {
        session.api->close(&session.database);
        return fm_base_error_set(FM_ERR_NOMEM, "DuckDB does not connect");
    }
    *out_session = session;
    return FM_OK;
}

void fm_pond_session_close(fm_pond_session *session)
{
    if (!session->api)
        return;
    session->api->disconnect(&session->connection);
    session->api->close(&session->database);
    session->api = NULL;
}

#define CATALOG "__task"

// What the last task has left; NULL: nothing.
static duckdb_database left;

static fm_status set_up(const fm_pond_session *session, int threads, uint64_t memory_bytes,
                        const char *scratch)
{
    fm_pond_text sql = {0};
    fm_pond_text_add(&sql, "SET threads = %d; SET memory_limit = '%lluB'; SET temp_directory = ", threads,
                     (unsigned long long)memory_bytes);
    fm_pond_text_add_quoted(&sql, scratch);
    fm_status status = fm_pond_text_status(&sql);
    if (status == FM_OK)
        status = fm_pond_session_run(session, sql.text);
    fm_pond_text_clear(&sql);
    return status;
}

// The database of the task before, with this one's limits; its own catalog has gone. One that has spilled cannot be given another
// folder for that, and is not taken.
static int take_left(int threads, uint64_t memory_bytes, const char *scratch, fm_pond_session *session)
{
    session->database = __atomic_exchange_n(&left, NULL, __ATOMIC_ACQ_REL);
    if (!session->database || memory_bytes == 0)
        return 0;
    if (session->api->connect(session->database, &session->connection) == DuckDBSuccess) {
        if (set_up(session, threads, memory_bytes, scratch) == FM_OK)
            return 1;
        session->api->disconnect(&session->connection);
    }
    session->api->close(&session->database);
    return 0;
}

fm_status fm_pond_session_begin(int threads, uint64_t memory_bytes, const char *scratch,
                                fm_pond_session *out_session)
{
    fm_pond_session session = {0};
    FM_TRY(fm_base_duckdb(&session.api));
    if (!take_left(threads, memory_bytes, scratch, &session))
        FM_TRY(fm_pond_session_open(threads, memory_bytes, scratch, &session));
    fm_status status = fm_pond_session_run(&session, "ATTACH ':memory:' AS " CATALOG "; USE " CATALOG);
    if (status < 0)
        fm_pond_session_close(&session);
    else
        *out_session = session;
    return status;
}

fm_status fm_pond_session_join(const fm_pond_session *session, duckdb_connection *out_connection)
{
    fm_pond_session other = *session;
    if (session->api->connect(session->database, &other.connection) == DuckDBError)
        return fm_base_error_set(FM_ERR_NOMEM, "DuckDB does not connect");
    fm_status status = fm_pond_session_run(&other, "USE " CATALOG);
    if (status < 0)
        session->api->disconnect(&other.connection);
    else
        *out_connection = other.connection;
    return status;
}

void fm_pond_session_end(fm_pond_session *session, int reuse)
{
    if (!reuse || fm_pond_session_run(session, "USE memory; DETACH " CATALOG) < 0) {
        fm_pond_session_close(session);
        return;
    }
    session->api->disconnect(&session->connection);
    duckdb_database before = __atomic_exchange_n(&left, session->database, __ATOMIC_ACQ_REL);
    if (before)
        session->api->close(&before);
    session->api = NULL;
}

fm_status fm_pond_session_query(const fm_pond_session *session, const char *sql, duckdb_result *out_result)
{
    duckdb_result result;
    if (session->api->query(session->connection, sql, &result) == DuckDBError) {
        fm_status status = fm_pond_session_failure(session->api->result_error(&result));
        session->api->destroy_result(&result);
        return status;
    }
    *out_result = result;
    return FM_OK;
}

fm_status fm_pond_session_run(const fm_pond_session *session, const char *sql)
{
    duckdb_result result;
    FM_TRY(fm_pond_session_query(session, sql, &result));
    session->api->destroy_result(&result);
    return FM_OK;
}

static fm_status each_of_chunk(const fm_pond_session *session, duckdb_data_chunk chunk, fm_pond_row row,
                               void *context)
{
    enum { COLUMNS_MAX = 64 };
    const fm_duckdb *api = session->api;
    fm_pond_text values[COLUMNS_MAX];
    idx_t columns = api->data_chunk_get_column_count(chunk), rows = api->data_chunk_get_size(chunk);
    columns = columns > COLUMNS_MAX ? COLUMNS_MAX : columns;
    for (idx_t i = 0; i < rows; i++) {
        for (idx_t c = 0; c < columns; c++) {
            duckdb_vector vector = api->data_chunk_get_vector(chunk, c);
            duckdb_string_t *texts = api->vector_get_data(vector);
            uint64_t *valid = api->vector_get_validity(vector);
            values[c] = (fm_pond_text){0};
            if (valid && !api->validity_row_is_valid(valid, i))
                continue;
            uint32_t length = texts[i].value.inlined.length;
            values[c].text = length <= 12 ? texts[i].value.inlined.inlined : texts[i].value.pointer.ptr;
            values[c].length = length;
        }
        FM_TRY(row(context, values, (int)columns));
    }
    return FM_OK;
}

fm_status fm_pond_session_each(const fm_pond_session *session, const char *sql, fm_pond_row row,
                               void *context)
{
    duckdb_result result;
    FM_TRY(fm_pond_session_query(session, sql, &result));
    fm_status status = FM_OK;
    for (duckdb_data_chunk chunk; status == FM_OK && (chunk = session->api->fetch_chunk(result));) {
        status = each_of_chunk(session, chunk, row, context);
        session->api->destroy_data_chunk(&chunk);
    }
    session->api->destroy_result(&result);
    return status;
}
#endif
