/**
 * @file trace_write.h
 * Traces written: Fathom's own spans (span.h) as Chrome trace JSON that chrome://tracing, Perfetto and PyTorch's tools open.
 *
 *     FM_TRY(fm_base_span_enable(0));
 *     FM_TRY(fm_trace_writer_open("run.trace.json", &writer));
 *     ...
 *     FM_TRY(fm_trace_writer_drain(writer));      // from time to time: several times a second under load
 *     ...
 *     FM_TRY(fm_trace_writer_close(writer));      // drains what is left
 *
 * Ranks are processes, threads are tracks; spans are X, moments i, counters C, flows s and f (which bind to the span around
 * them). Times are nanoseconds: microseconds with three digits behind the point, relative to `baseTimeNanoseconds`.
 *
 * **The file is whole JSON after every drain**: each one overwrites the closing brackets of the one before and writes new
 * ones. A program that crashes leaves what was drained.
 *
 * A writer belongs to one thread at a time; recording goes on in all others. Programs of several processes write a file
 * each; fm_trace_data_read() takes them together and fm_trace_data_save() makes one of them.
 */
#ifndef FATHOM_TRACE_WRITE_H
#define FATHOM_TRACE_WRITE_H

#include "fathom/trace.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fm_trace_writer fm_trace_writer;

/** Creates the file, or empties it. FM_ERR_NOT_FOUND (no such folder), FM_ERR_PERM, FM_ERR_SPACE, FM_ERR_IO, FM_ERR_NOMEM. */
FM_API FM_MUST_USE fm_status fm_trace_writer_open(const char *path, fm_trace_writer **out_writer);
/** Takes all spans out of the rings and appends them. What fails stays in the rings or is lost with the file: FM_ERR_SPACE,
 *  FM_ERR_IO, FM_ERR_NOMEM. */
FM_API FM_MUST_USE fm_status fm_trace_writer_drain(fm_trace_writer *writer);
/** Drains, and frees the writer whether or not that succeeds. NULL is allowed. */
FM_API FM_MUST_USE fm_status fm_trace_writer_close(fm_trace_writer *writer);

/** Writes a trace that was read (of several files, say) as one file, arguments included where they were kept: each process
 *  of each file becomes one of its own. The file appears whole or not at all. */
FM_API FM_MUST_USE fm_status fm_trace_data_save(const fm_trace *trace, const char *path);

#ifdef __cplusplus
}
#endif
#endif
