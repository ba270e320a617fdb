/**
 * @file trace_query.h
 * A trace as tables in DuckDB.
 *
 * | table | columns |
 * |---|---|
 * | slices | id, ts_us, dur_us, name, category, track, process, kind ('span', 'async', 'instant', 'gpu'), correlation, device, stream, blocks, threads, bytes; of work also group_name, work_kind ('compute', 'transfer', 'wait'), phase |
 * | kernels (a view) | slices of kind 'gpu', and the rank of their file |
 * | phases | id, name, unit, direction, ts_us, host_us, kernels, busy_us, compute_us, comm_us, exposed_us: one row an occurrence |
 * | tracks | id, process, tid, name, is_async |
 * | processes | id, file, rank, pid, name, labels |
 * | flows | id, ts_us, name, category, phase ('s', 't', 'f'), track |
 * | counters | ts_us, name, series, value, track |
 * | args | slice, args (JSON text: `args->>'$.stream'`); empty unless the trace was read with keep_args |
 *
 * Times are microseconds from the first event on, as doubles. Needs DuckDB at run time (engine.h); what SQL can do, and the
 * files it can write, are DuckDB's.
 */
#ifndef FATHOM_TRACE_QUERY_H
#define FATHOM_TRACE_QUERY_H

#include "fathom/trace_report.h"

#ifdef __cplusplus
extern "C" {
#endif

/** How a result is written. */
typedef enum fm_trace_format {
    FM_TRACE_TABLE,
    FM_TRACE_CSV,
    FM_TRACE_JSON,
    FM_TRACE_PARQUET
} fm_trace_format;

/**
 * Runs one SQL statement over the report's trace and writes its rows to `path`, or, when that is NULL, to standard output
 * (`file`, a FILE *; not for Parquet). FM_ERR_UNAVAILABLE: no DuckDB; FM_ERR_ARG: the statement fails (DuckDB's message);
 * FM_ERR_LIMIT: a table of more than 100,000 rows for a terminal; FM_ERR_IO; FM_ERR_NOMEM.
 */
FM_API FM_MUST_USE fm_status fm_trace_query_run(const fm_trace_report *report, const char *sql,
                                                fm_trace_format format, const char *path, void *file);

#ifdef __cplusplus
}
#endif
#endif
