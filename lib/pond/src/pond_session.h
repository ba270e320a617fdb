/**
 * @file pond_session.h
 * A DuckDB of one task's own.
 */
#ifndef POND_SESSION_H
#define POND_SESSION_H

#include "fathom/duckdb_api.h"
#include "fathom/status.h"
#include "pond_text.h"

typedef struct fm_pond_session {
    const fm_duckdb *api;
    duckdb_database database;
    duckdb_connection connection;
} fm_pond_session;

/** Opens a database in memory. `scratch`: where it may put what does not fit; NULL: nowhere. */
FM_MUST_USE fm_status fm_pond_session_open(int threads, uint64_t memory_bytes, const char *scratch,
                                           fm_pond_session *out_session);
void fm_pond_session_close(fm_pond_session *session);

/** Runs a statement. Failures are DuckDB's, with its message: FM_ERR_NOMEM where memory ran out, FM_ERR_SPACE for a full disk,
 * FM_ERR_FORMAT otherwise. */
FM_MUST_USE fm_status fm_pond_session_run(const fm_pond_session *session, const char *sql);
/** Runs a query; the caller destroys the result. */
FM_MUST_USE fm_status fm_pond_session_query(const fm_pond_session *session, const char *sql,
                                            duckdb_result *out_result);
/** The message and code for a failed result. */
fm_status fm_pond_session_failure(const char *message);

/** Calls row(context, values, count) for each row of a query whose columns are all VARCHAR or NULL (NULL: no value). */
typedef fm_status (*fm_pond_row)(void *context, const fm_pond_text *values, int count);
FM_MUST_USE fm_status fm_pond_session_each(const fm_pond_session *session, const char *sql, fm_pond_row row,
                                           void *context);

#endif
