/**
 * @file pond_task.h
 * A task: what an executor does at a time. It is a JSON document, made by the driver, that says all there is to know; its result
 * is one, too.
 *
 *     {"key", "folder", "partition", "partitions", "threads", "memory", "seed",
 *      "steps": [{"sql"} | {"input": SQL that names source files} | {"clash": a query that gives no row} | {"function", "from", "into", "schema"}], "out": a relation,
 *      "kind": "plain" | "shuffle" | "sink", "scheme", "by", "parts", "samples", "format", "columns",
 *      "proofs": [{"view", "rows", "sum"}], "skipped": [{"malformed" | "rejected": a query for a number}]}
 *
 *     {"rows", "bytes", "skipped", "columns": [[name, type]], "parts": [[number, rows, sum]],
 *      "rows_in", "begin_unix_ns", "wall_ns", "cpu_ns", "rss_bytes", "read_bytes", "written_bytes", "phases": [ns]}
 */
#ifndef POND_TASK_H
#define POND_TASK_H

#include "fathom/doc.h"
#include "pond_text.h"

#define FM_POND_RESULT_NAME "result.json"

/** Does a task: leaves <folder>/<key>/ with its files and result.json, by rename. A folder that is there already is left and is
 * success. Sets *out_result to the result's text, for fm_base_mem_free(). FM_ERR_NOMEM stands for DuckDB's memory limit, too. */
FM_MUST_USE fm_status fm_pond_task_run(const fm_doc *task, char **out_result);

/** "v1.5.6", or FM_ERR_UNAVAILABLE. Opens the library, starts nothing. */
FM_MUST_USE fm_status fm_pond_task_engine(const char **out_version);

#endif
