#include "fathom/trace_query.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fathom/file.h"
#include "fathom/mem.h"
#include "fathom/table.h"

#ifdef FM_HAVE_DUCKDB

#include "fathom/duckdb_api.h"

enum { COLUMNS_MAX = 20, ROWS_SHOWN_MAX = 100000 };

struct session {
    const fm_duckdb *duckdb;
    duckdb_database database;
    duckdb_connection connection;
    const fm_trace_report *report;
    int64_t first_ns;        // what times are relative to
    const uint32_t *work_of; // by slice, plus 1; 0: none
};

/* One value to be appended. */
struct cell {
    enum { CELL_NULL, CELL_INT, CELL_REAL, CELL_TEXT } type;
    int64_t integer;
    double real;
    const char *text;
    size_t length;
};

static struct cell integer(int64_t value)
{
    return (struct cell){.type = CELL_INT, .integer = value};
}

static struct cell real(double value)
{
    return (struct cell){.type = CELL_REAL, .real = value};
}

/* NULL and "" are NULL. */
static struct cell text(const char *value)
{
    size_t length = value ? strlen(value) : 0;
    return length ? (struct cell){.type = CELL_TEXT, .text = value, .length = length} : (struct cell){0};
}

static fm_status execute(const struct session *session, const char *sql)
{
    duckdb_result result;
    fm_status status = FM_OK;
    if (session->duckdb->query(session->connection, sql, &result) == DuckDBError)
        status = fm_base_error_set(FM_ERR_ARG, "%s", session->duckdb->result_error(&result));
    session->duckdb->destroy_result(&result);
    return status;
}

/* Text must be UTF-8 for DuckDB: what is not is made safe in a copy. */
static fm_status put_text(const struct session *session, duckdb_vector vector, idx_t row,
                          const struct cell *cell)
{
    char small[256], *copy = cell->length < sizeof small ? small : fm_base_mem_alloc(cell->length + 1);
    if (!copy)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a query");
    memcpy(copy, cell->text, cell->length);
    copy[cell->length] = 0;
    fm_base_text_clean(copy);
    session->duckdb->vector_assign_string_element_len(vector, row, copy, cell->length);
    if (copy != small)
        fm_base_mem_free(copy);
    return FM_OK;
}

static fm_status put_cell(const struct session *session, duckdb_vector vector, idx_t row,
                          const struct cell *cell)
{
    const fm_duckdb *duckdb = session->duckdb;
    switch (cell->type) {
    case CELL_NULL:
        duckdb->vector_ensure_validity_writable(vector);
        duckdb->validity_set_row_invalid(duckdb->vector_get_validity(vector), row);
        return FM_OK;
    case CELL_INT:
        ((int64_t *)duckdb->vector_get_data(vector))[row] = cell->integer;
        return FM_OK;
    case CELL_REAL:
        ((double *)duckdb->vector_get_data(vector))[row] = cell->real;
        return FM_OK;
    default:
        return put_text(session, vector, row, cell);
    }
}

/* A table of the schema: its name, its columns' types (i, r, t) in order, its rows. */
struct source {
    const char *name, *types, *create;
    size_t count;
    void (*row)(const struct session *session, size_t index, struct cell *cells);
};

static fm_status append_rows(const struct session *session, const struct source *source,
                             duckdb_appender appender, duckdb_data_chunk chunk)
{
    const fm_duckdb *duckdb = session->duckdb;
    size_t columns = strlen(source->types), room = duckdb->vector_size();
    for (size_t i = 0; i < source->count;) {
        duckdb->data_chunk_reset(chunk);
        size_t rows = source->count - i < room ? source->count - i : room;
        for (size_t row = 0; row < rows; row++, i++) {
            struct cell cells[COLUMNS_MAX] = {0};
            source->row(session, i, cells);
            for (size_t c = 0; c < columns; c++)
                FM_TRY(put_cell(session, duckdb->data_chunk_get_vector(chunk, c), row, &cells[c]));
        }
        duckdb->data_chunk_set_size(chunk, rows);
        if (duckdb->append_data_chunk(appender, chunk) == DuckDBError)
            return fm_base_error_set(FM_ERR_INTERNAL, "filling %s: %s", source->name,
                                     duckdb->appender_error(appender));
    }
    return FM_OK;
}

static fm_status fill(const struct session *session, const struct source *source)
{
    const fm_duckdb *duckdb = session->duckdb;
    duckdb_appender appender = NULL;
    duckdb_logical_type types[COLUMNS_MAX];
    size_t columns = strlen(source->types);
    FM_TRY(execute(session, source->create));
    for (size_t c = 0; c < columns; c++)
        types[c] = duckdb->create_logical_type(source->types[c] == 'i'   ? DUCKDB_TYPE_BIGINT
                                               : source->types[c] == 'r' ? DUCKDB_TYPE_DOUBLE
                                                                         : DUCKDB_TYPE_VARCHAR);
    duckdb_data_chunk chunk = duckdb->create_data_chunk(types, columns);
    fm_status status = FM_OK;
    if (duckdb->appender_create(session->connection, NULL, source->name, &appender) == DuckDBError)
        status = fm_base_error_set(FM_ERR_INTERNAL, "the table %s cannot be filled", source->name);
    if (status == FM_OK)
        status = append_rows(session, source, appender, chunk);
    if (duckdb->appender_destroy(&appender) == DuckDBError && status == FM_OK)
        status = fm_base_error_set(FM_ERR_INTERNAL, "the table %s cannot be filled", source->name);
    duckdb->destroy_data_chunk(&chunk);
    for (size_t c = 0; c < columns; c++)
        duckdb->destroy_logical_type(&types[c]);
    return status;
}

static double us(const struct session *session, int64_t at_ns)
{
    return (double)(at_ns - session->first_ns) / 1000;
}

static const char *name_of(const struct session *session, uint32_t index)
{
    return fm_trace_data_text(session->report->trace, index);
}

static void slice_row(const struct session *session, size_t i, struct cell *cells)
{
    static const char *const kinds[] = {"span", "async", "instant", "gpu"}, *const works[] = {"compute",
                                                                                              "transfer",
                                                                                              "wait"};
    const fm_trace *trace = session->report->trace;
    const fm_trace_slice *slice = &trace->slices[i];
    cells[0] = integer((int64_t)i);
    cells[1] = real(us(session, slice->begin_ns));
    cells[2] = real((double)slice->duration_ns / 1000);
    cells[3] = text(name_of(session, slice->name));
    cells[4] = text(name_of(session, slice->category));
    cells[5] = integer(slice->track);
    cells[6] = integer(trace->tracks[slice->track].process);
    cells[7] = text(kinds[slice->kind]);
    if (slice->correlation)
        cells[8] = integer(slice->correlation);
    if (slice->gpu != FM_TRACE_NONE) {
        const fm_trace_gpu *gpu = &trace->gpus[slice->gpu];
        cells[9] = integer(gpu->device);
        cells[10] = integer(gpu->stream);
        cells[11] = integer(gpu->blocks);
        cells[12] = integer(gpu->threads);
        cells[13] = integer(gpu->bytes);
    }
    if (session->work_of[i]) {
        const fm_trace_work *work = &session->report->works[session->work_of[i] - 1];
        cells[14] = text(session->report->groups[work->group].name);
        cells[15] = text(works[work->kind]);
        if (work->phase != FM_TRACE_NONE)
            cells[16] = text(name_of(session, session->report->phases[work->phase].name));
    }
}

static void track_row(const struct session *session, size_t i, struct cell *cells)
{
    const fm_trace_track *track = &session->report->trace->tracks[i];
    char tid[32];
    snprintf(tid, sizeof tid, "%lld", (long long)track->tid);
    cells[0] = integer((int64_t)i);
    cells[1] = integer(track->process);
    if (!track->tid_is_text)
        cells[2] = integer(track->tid);
    cells[3] = text(track->name != FM_TRACE_NONE ? name_of(session, track->name)
                    : track->tid_is_text         ? name_of(session, (uint32_t)track->tid)
                                                 : NULL);
    cells[4] = integer(track->is_async);
}

static void process_row(const struct session *session, size_t i, struct cell *cells)
{
    const fm_trace *trace = session->report->trace;
    const fm_trace_process *process = &trace->processes[i];
    cells[0] = integer((int64_t)i);
    cells[1] = text(trace->files[process->file].path);
    cells[2] = integer(trace->files[process->file].rank);
    if (!process->pid_is_text)
        cells[3] = integer(process->pid);
    cells[4] = text(process->name != FM_TRACE_NONE ? name_of(session, process->name)
                    : process->pid_is_text         ? name_of(session, (uint32_t)process->pid)
                                                   : NULL);
    cells[5] = text(name_of(session, process->labels));
}

static void flow_row(const struct session *session, size_t i, struct cell *cells)
{
    static const char phases[][2] = {"s", "t", "f"};
    const fm_trace_flow *flow = &session->report->trace->flows[i];
    cells[0] = integer((int64_t)flow->id);
    cells[1] = real(us(session, flow->at_ns));
    cells[2] = text(name_of(session, flow->name));
    cells[3] = text(name_of(session, flow->category));
    cells[4] = text(phases[flow->phase == 's' ? 0 : flow->phase == 't' ? 1 : 2]);
    cells[5] = integer(flow->track);
}

static void counter_row(const struct session *session, size_t i, struct cell *cells)
{
    const fm_trace_counter *counter = &session->report->trace->counters[i];
    cells[0] = real(us(session, counter->at_ns));
    cells[1] = text(name_of(session, counter->name));
    cells[2] = text(name_of(session, counter->series));
    cells[3] = real(counter->value);
    cells[4] = integer(counter->track);
}

static void args_row(const struct session *session, size_t i, struct cell *cells)
{
    const fm_trace *trace = session->report->trace;
    const fm_trace_args *args = &trace->args[i];
    cells[0] = integer((int64_t)i);
    if (args->length)
        cells[1] =
            (struct cell){.type = CELL_TEXT, .text = trace->args_text + args->offset, .length = args->length};
}

static void phase_row(const struct session *session, size_t i, struct cell *cells)
{
    const fm_trace_phase *phase = &session->report->phases[i];
    cells[0] = integer((int64_t)i);
    cells[1] = text(name_of(session, phase->name));
    cells[2] = integer(phase->unit);
    cells[3] = text(phase->direction < 0 ? NULL : (const char *[]){"F", "B", "W"}[phase->direction]);
    cells[4] = real(us(session, phase->begin_ns));
    cells[5] = real((double)phase->host_ns / 1000);
    cells[6] = integer((int64_t)phase->work_count);
    cells[7] = real((double)phase->busy_ns / 1000);
    cells[8] = real((double)phase->compute_ns / 1000);
    cells[9] = real((double)phase->communication_ns / 1000);
    cells[10] = real((double)phase->exposed_ns / 1000);
}

static fm_status fill_all(const struct session *session)
{
    const fm_trace *trace = session->report->trace;
    const struct source sources[] = {
        {"slices",
         "irrttiit"
         "iiiiiittt",
         "CREATE TABLE slices (id BIGINT, ts_us DOUBLE, dur_us DOUBLE, name VARCHAR, category VARCHAR, track "
         "BIGINT, process "
         "BIGINT, kind VARCHAR, correlation BIGINT, device BIGINT, stream BIGINT, blocks BIGINT, threads "
         "BIGINT, bytes "
         "BIGINT, group_name VARCHAR, work_kind VARCHAR, phase VARCHAR)",
         trace->slice_count, slice_row},
        {"tracks", "iiiti",
         "CREATE TABLE tracks (id BIGINT, process BIGINT, tid BIGINT, name VARCHAR, is_async BIGINT)",
         trace->track_count, track_row},
        {"processes", "itiitt",
         "CREATE TABLE processes (id BIGINT, file VARCHAR, rank BIGINT, pid BIGINT, name VARCHAR, labels "
         "VARCHAR)",
         trace->process_count, process_row},
        {"flows", "irttti",
         "CREATE TABLE flows (id BIGINT, ts_us DOUBLE, name VARCHAR, category VARCHAR, phase VARCHAR, track "
         "BIGINT)",
         trace->flow_count, flow_row},
        {"counters", "rttri",
         "CREATE TABLE counters (ts_us DOUBLE, name VARCHAR, series VARCHAR, value DOUBLE, track BIGINT)",
         trace->counter_count, counter_row},
        {"args", "it", "CREATE TABLE args (slice BIGINT, args VARCHAR)", trace->args ? trace->slice_count : 0,
         args_row},
        {"phases", "ititrrirrrr",
         "CREATE TABLE phases (id BIGINT, name VARCHAR, unit BIGINT, direction VARCHAR, ts_us DOUBLE, "
         "host_us DOUBLE, "
         "kernels BIGINT, busy_us DOUBLE, compute_us DOUBLE, comm_us DOUBLE, exposed_us DOUBLE)",
         session->report->phase_count, phase_row},
    };
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++)
        FM_TRY(fill(session, &sources[i]));
    return execute(
        session,
        "CREATE VIEW kernels AS SELECT s.*, p.rank FROM slices s JOIN processes p ON p.id = s.process "
        "WHERE s.kind = 'gpu'");
}

/* A chunk of text columns as rows of the table. */
static void print_chunk(const struct session *session, duckdb_data_chunk chunk, size_t columns,
                        fm_table *table)
{
    const fm_duckdb *duckdb = session->duckdb;
    idx_t rows = duckdb->data_chunk_get_size(chunk);
    for (idx_t row = 0; row < rows; row++)
        for (size_t c = 0; c < columns; c++) {
            duckdb_vector vector = duckdb->data_chunk_get_vector(chunk, c);
            uint64_t *validity = duckdb->vector_get_validity(vector);
            if (validity && !duckdb->validity_row_is_valid(validity, row)) {
                fm_base_table_cell(table, "%s", "");
                continue;
            }
            // DuckDB keeps strings of up to 12 bytes within their header, longer ones behind a pointer.
            duckdb_string_t *string = &((duckdb_string_t *)duckdb->vector_get_data(vector))[row];
            uint32_t length = string->value.inlined.length;
            const char *bytes = length <= 12 ? string->value.inlined.inlined : string->value.pointer.ptr;
            fm_base_table_cell(table, "%.*s", (int)(length < 1000 ? length : 1000), bytes);
        }
}

static int is_number(duckdb_type type)
{
    return type == DUCKDB_TYPE_BIGINT || type == DUCKDB_TYPE_INTEGER || type == DUCKDB_TYPE_DOUBLE ||
           type == DUCKDB_TYPE_HUGEINT || type == DUCKDB_TYPE_UBIGINT || type == DUCKDB_TYPE_DECIMAL ||
           type == DUCKDB_TYPE_FLOAT;
}

/* The statement's rows as a table for people: its types tell how columns are aligned, its text what they say. */
static fm_status print_table(const struct session *session, const char *sql, char *wrapped, size_t size,
                             FILE *file)
{
    const fm_duckdb *duckdb = session->duckdb;
    fm_table table = {0};
    duckdb_result result;
    fm_status status = FM_OK;
    snprintf(wrapped, size, "SELECT * FROM (%s) LIMIT 0", sql);
    if (duckdb->query(session->connection, wrapped, &result) == DuckDBError) {
        status = fm_base_error_set(FM_ERR_ARG, "%s", duckdb->result_error(&result));
        duckdb->destroy_result(&result);
        return status;
    }
    size_t columns = duckdb->column_count(&result);
    if (columns > FM_TABLE_COLUMNS_MAX)
        status = fm_base_error_set(FM_ERR_LIMIT, "%zu columns; a table shows up to %d: write CSV or JSON",
                                   columns, FM_TABLE_COLUMNS_MAX);
    for (size_t c = 0; c < columns && status == FM_OK; c++)
        fm_base_table_column(&table, duckdb->column_name(&result, c), NULL,
                             is_number(duckdb->column_type(&result, c)) ? FM_ALIGN_POINT : FM_ALIGN_LEFT);
    duckdb->destroy_result(&result);
    FM_TRY(status);
    snprintf(wrapped, size, "SELECT COLUMNS(*)::VARCHAR FROM (%s) LIMIT %d", sql, ROWS_SHOWN_MAX + 1);
    if (duckdb->query(session->connection, wrapped, &result) == DuckDBError)
        status = fm_base_error_set(FM_ERR_ARG, "%s", duckdb->result_error(&result));
    size_t rows = 0;
    duckdb_data_chunk chunk;
    while (status == FM_OK && (chunk = duckdb->fetch_chunk(result))) {
        rows += duckdb->data_chunk_get_size(chunk);
        print_chunk(session, chunk, columns, &table);
        duckdb->destroy_data_chunk(&chunk);
    }
    duckdb->destroy_result(&result);
    if (status == FM_OK && rows > ROWS_SHOWN_MAX)
        status = fm_base_error_set(
            FM_ERR_LIMIT, "more than %d rows; write CSV, JSON or Parquet, or add LIMIT", ROWS_SHOWN_MAX);
    fm_status written = fm_base_table_finish(&table, status < 0 ? NULL : file, 0);
    return status < 0 ? status : written;
}

static fm_status copy_to(const struct session *session, const char *sql, fm_trace_format format,
                         const char *path, char *wrapped, size_t size)
{
    static const char *const formats[] = {
        [FM_TRACE_CSV] = "CSV, HEADER", [FM_TRACE_JSON] = "JSON, ARRAY true", [FM_TRACE_PARQUET] = "PARQUET"};
    if (strchr(path, '\''))
        return fm_base_error_set(FM_ERR_ARG, "the path %s contains a quote", path);
    if (snprintf(wrapped, size, "COPY (%s) TO '%s' (FORMAT %s)", sql, path, formats[format]) >= (int)size)
        return fm_base_error_set(FM_ERR_LIMIT, "the path %s is too long", path);
    return execute(session, wrapped);
}

static fm_status send(const char *path, FILE *file)
{
    char buffer[65536];
    size_t got;
    FILE *from = fopen(path, "rb");
    if (!from)
        return fm_base_file_error(errno, "cannot open %s", path);
    while ((got = fread(buffer, 1, sizeof buffer, from)) > 0)
        if (fwrite(buffer, 1, got, file) != got)
            break;
    int failed = ferror(from) || ferror(file);
    fclose(from);
    return failed ? fm_base_error_set(FM_ERR_IO, "cannot write the rows") : FM_OK;
}

/* DuckDB writes files by name alone, and would cut a standard output that is a file: the rows take a detour. */
static fm_status copy_to_stream(const struct session *session, const char *sql, fm_trace_format format,
                                char *wrapped, size_t size, FILE *file)
{
    char path[4096];
    const char *folder = getenv("TMPDIR");
    if (format == FM_TRACE_PARQUET)
        return fm_base_error_set(FM_ERR_ARG, "Parquet is written to a file, not to standard output");
    if (snprintf(path, sizeof path, "%s/fathom-query-XXXXXX", folder ? folder : "/tmp") >= (int)sizeof path)
        return fm_base_error_set(FM_ERR_LIMIT, "TMPDIR is too long");
    int fd = mkstemp(path);
    if (fd < 0)
        return fm_base_file_error(errno, "cannot create %s", path);
    close(fd);
    fm_status status = copy_to(session, sql, format, path, wrapped, size);
    if (status == FM_OK)
        status = send(path, file);
    unlink(path);
    return status;
}

static fm_status run(struct session *session, const char *sql, fm_trace_format format, const char *path,
                     void *file)
{
    // The statement without the semicolon that people end it with.
    size_t length = strlen(sql), size = length + 4300;
    while (length > 0 && strchr("; \n\t", sql[length - 1]))
        length--;
    char *bare = fm_base_mem_alloc(length + 1), *wrapped = fm_base_mem_alloc(size);
    fm_status status = FM_OK;
    if (!bare || !wrapped)
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory for a query");
    if (status == FM_OK) {
        memcpy(bare, sql, length);
        bare[length] = 0;
        status = fill_all(session);
    }
    if (status == FM_OK && format == FM_TRACE_TABLE && !path)
        status = print_table(session, bare, wrapped, size, file);
    else if (status == FM_OK && format == FM_TRACE_TABLE)
        status = fm_base_error_set(FM_ERR_ARG,
                                   "a table is written to standard output; a file is CSV, JSON or Parquet");
    else if (status == FM_OK && path)
        status = copy_to(session, bare, format, path, wrapped, size);
    else if (status == FM_OK)
        status = copy_to_stream(session, bare, format, wrapped, size, file);
    fm_base_mem_free(bare);
    fm_base_mem_free(wrapped);
    return status;
}

fm_status fm_trace_query_run(const fm_trace_report *report, const char *sql, fm_trace_format format,
                             const char *path, void *file)
{
    struct session session = {.report = report};
    const fm_trace *trace = report->trace;
    FM_TRY(fm_base_duckdb(&session.duckdb));
    uint32_t *work_of = fm_base_mem_zalloc(trace->slice_count + 1, sizeof *work_of);
    if (!work_of)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a query");
    for (size_t i = 0; i < report->work_count; i++)
        work_of[report->works[i].slice] = (uint32_t)i + 1;
    session.work_of = work_of;
    for (size_t i = 0; i < trace->slice_count; i++)
        if (i == 0 || trace->slices[i].begin_ns < session.first_ns)
            session.first_ns = trace->slices[i].begin_ns;
    fm_status status = FM_OK;
    if (session.duckdb->open(NULL, &session.database) == DuckDBError ||
        session.duckdb->connect(session.database, &session.connection) == DuckDBError)
        status = fm_base_error_set(FM_ERR_UNAVAILABLE, "DuckDB does not open a database in memory");
    if (status == FM_OK)
        status = run(&session, sql, format, path, file);
    session.duckdb->disconnect(&session.connection);
    session.duckdb->close(&session.database);
    fm_base_mem_free(work_of);
    return status;
}

#else

fm_status fm_trace_query_run(const fm_trace_report *report, const char *sql, fm_trace_format format,
                             const char *path, void *file)
{
    (void)report, (void)sql, (void)format, (void)path, (void)file;
    return fm_base_error_set(FM_ERR_UNAVAILABLE, "built without duckdb.h (setup/install.sh fetches it)");
}

#endif
