/**
 * @file pond_session.h
 * A DuckDB of one task's own, or one after the other's.
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

/** A session for a task, in a catalog of its own. To open a database takes longer than a small task: the one that an earlier task of
 * this process has left is taken where there is one. */
FM_MUST_USE fm_status fm_pond_session_begin(int threads, uint64_t memory_bytes, const char *scratch,
                                            fm_pond_session *out_session);
/** Another connection to a task's catalog; the caller disconnects it. */
FM_MUST_USE fm_status fm_pond_session_join(const fm_pond_session *session, duckdb_connection *out_connection);
/** Ends a task's session. `reuse`: the database is sound, and serves the next. */
void fm_pond_session_end(fm_pond_session *session, int reuse);

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
