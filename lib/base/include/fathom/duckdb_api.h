/**
 * @file duckdb_api.h
 * DuckDB's C API through a table that is filled at run time, so that programs build and start without DuckDB.
 *
 *     const fm_duckdb *duckdb;
 *     FM_TRY(fm_base_duckdb(&duckdb));
 *     duckdb_database database;
 *     if (duckdb->open(NULL, &database) == DuckDBError) ...
 *
 * For the libraries of the house: it needs duckdb.h, which set-up fetches (FM_HAVE_DUCKDB says whether it was there), and
 * is not installed. The functions
 * are DuckDB's own, documented in duckdb.h; a user of another one adds a line to FM_DUCKDB_FUNCTIONS.
 */
#ifndef FATHOM_DUCKDB_API_H
#define FATHOM_DUCKDB_API_H

#include "fathom/status.h"

#include <duckdb.h>

#ifdef __cplusplus
extern "C" {
#endif

/* X(name): the table's member is `name`, the function duckdb_<name>. */
#define FM_DUCKDB_FUNCTIONS(X)          \
    X(library_version)                  \
    X(open)                             \
    X(open_ext)                         \
    X(close)                            \
    X(connect)                          \
    X(disconnect)                       \
    X(interrupt)                        \
    X(query_progress)                   \
    X(create_config)                    \
    X(set_config)                       \
    X(destroy_config)                   \
    X(query)                            \
    X(destroy_result)                   \
    X(result_error)                     \
    X(column_count)                     \
    X(column_name)                      \
    X(column_type)                      \
    X(column_logical_type)              \
    X(rows_changed)                     \
    X(fetch_chunk)                      \
    X(prepare)                          \
    X(prepare_error)                    \
    X(destroy_prepare)                  \
    X(bind_int64)                       \
    X(bind_double)                      \
    X(bind_varchar)                     \
    X(execute_prepared)                 \
    X(value_varchar)                    \
    X(free)                             \
    X(create_data_chunk)                \
    X(destroy_data_chunk)               \
    X(data_chunk_reset)                 \
    X(data_chunk_get_size)              \
    X(data_chunk_set_size)              \
    X(data_chunk_get_vector)            \
    X(data_chunk_get_column_count)      \
    X(vector_size)                      \
    X(vector_get_data)                  \
    X(vector_get_validity)              \
    X(vector_ensure_validity_writable)  \
    X(vector_assign_string_element_len) \
    X(validity_row_is_valid)            \
    X(validity_set_row_invalid)         \
    X(create_logical_type)              \
    X(destroy_logical_type)             \
    X(get_type_id)                      \
    X(appender_create)                  \
    X(appender_error)                   \
    X(appender_flush)                   \
    X(appender_close)                   \
    X(appender_destroy)                 \
    X(append_data_chunk)                \
    X(append_int64)                     \
    X(append_double)                    \
    X(append_varchar_length)            \
    X(append_blob)                      \
    X(append_null)                      \
    X(appender_end_row)                 \
    X(pending_prepared_streaming)       \
    X(execute_pending)                  \
    X(pending_error)                    \
    X(destroy_pending)

typedef struct fm_duckdb {
#define FM_DUCKDB_MEMBER(name) __typeof__(&duckdb_##name) name;
    FM_DUCKDB_FUNCTIONS(FM_DUCKDB_MEMBER)
#undef FM_DUCKDB_MEMBER
} fm_duckdb;

/** The table; loads the library at the first call. It lives as long as the process. Any thread.
 *  FM_ERR_UNAVAILABLE: no library, or it lacks a function (message: where it was looked for, or which). */
FM_API FM_MUST_USE fm_status fm_base_duckdb(const fm_duckdb **out_table);

#ifdef __cplusplus
}
#endif
#endif
