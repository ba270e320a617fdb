/**
 * @file trace.h
 * Traces read: Chrome trace JSON as PyTorch's profiler (Kineto), Fathom and others write it, plain or gzip-compressed, of
 * any size, into columns in memory.
 *
 *     const char *paths[] = {"rank0.json.gz", "rank1.json.gz"};
 *     fm_trace *trace;
 *     FM_TRY(fm_trace_data_read(paths, 2, NULL, &trace));
 *     for (size_t i = 0; i < trace->slice_count; i++)
 *         ... trace->slices[i] ...
 *     fm_trace_data_free(trace);
 *
 * A file is one JSON array of events, or an object whose `traceEvents` is that array (the Trace Event Format). The reader
 * streams: a file takes a buffer of 256 KiB while it is read, and what is kept is about 40 bytes an event.
 *
 * Taken as they come: events in any order; process and thread IDs that are numbers or strings; times in microseconds,
 * whole or with a fraction, absolute or relative to `baseTimeNanoseconds`; begin and end events (B, E), asynchronous ones
 * (b, n, e), flows without partner; nested arguments; NaN and Infinity in arguments; bytes that are not UTF-8 (kept; who
 * shows them makes them safe); trailing commas; a bare array without its closing bracket. Of a key that occurs twice in an
 * event the last counts. Values that are not read are skipped by their brackets and quotes alone.
 *
 * A trace is read-only once it is read: any number of threads may use it.
 */
#ifndef FATHOM_TRACE_H
#define FATHOM_TRACE_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/** No such index. */
#define FM_TRACE_NONE UINT32_MAX

/** What a slice is. */
typedef enum fm_trace_kind {
    FM_TRACE_SPAN,    /**< from begin to end on a thread; spans of one thread nest */
    FM_TRACE_ASYNC,   /**< from begin to end, overlapping others freely */
    FM_TRACE_INSTANT, /**< a moment: duration 0 */
    FM_TRACE_GPU      /**< work on a device: a kernel, a copy, a memset; `gpu` says more */
} fm_trace_kind;

/** Something that took time. Names and categories are indices for fm_trace_data_text(). */
typedef struct fm_trace_slice {
    int64_t begin_ns;
    int64_t duration_ns; /**< never negative */
    uint32_t name, category;
    uint32_t track;
    uint32_t correlation; /**< of a kernel and the call that launched it; 0: none */
    uint32_t gpu;         /**< index into fm_trace::gpus, or FM_TRACE_NONE */
    uint32_t kind;        /**< fm_trace_kind */
} fm_trace_slice;

/** What is known of work on a device. */
typedef struct fm_trace_gpu {
    uint32_t slice;
    int32_t device, stream; /**< -1: not said */
    uint32_t blocks;        /**< of the grid, all dimensions; 0: not said */
    uint32_t threads;       /**< a block */
    int64_t bytes;          /**< copied or set; 0: not said */
} fm_trace_gpu;

/** One end of an arrow, or a step of it. */
typedef struct fm_trace_flow {
    int64_t at_ns;
    uint64_t id; /**< the same at all ends, within its name and category */
    uint32_t name, category;
    uint32_t track;
    char phase; /**< 's', 't' or 'f' */
} fm_trace_flow;

/** A value of a counter from this moment on. */
typedef struct fm_trace_counter {
    int64_t at_ns;
    double value;
    uint32_t name, series; /**< the series is the argument's key */
    uint32_t track;
} fm_trace_counter;

typedef struct fm_trace_track {
    uint32_t process; /**< index into fm_trace::processes */
    uint32_t name;    /**< thread_name, or FM_TRACE_NONE */
    int64_t tid;      /**< a number, or the index of its text where `tid_is_text` */
    int64_t sort_index;
    int32_t tid_is_text;
    int32_t is_async; /**< holds asynchronous slices of one category: they overlap */
} fm_trace_track;

typedef struct fm_trace_process {
    uint32_t file;         /**< index into fm_trace::files */
    uint32_t name, labels; /**< process_name, process_labels, or FM_TRACE_NONE */
    int32_t pid_is_text;
    int64_t pid; /**< a number, or the index of its text where `pid_is_text` */
    int64_t sort_index;
} fm_trace_process;

typedef struct fm_trace_file {
    const char *path;
    uint64_t bytes;   /**< of JSON text read */
    uint64_t events;  /**< of any phase */
    uint64_t skipped; /**< events of phases that are not kept (object snapshots, samples, ...) */
    uint64_t damaged; /**< places that a salvaging reader stepped over */
    uint64_t
        unmatched; /**< ends without a begin, begins without an end (they last to the end of the trace) */
    int64_t rank;  /**< distributedInfo, or -1 */
    int64_t world_size;     /**< distributedInfo, or 0 */
    int64_t clock_shift_ns; /**< was added to its times: fm_trace_clocks_align() */
    uint64_t clock_points;  /**< collectives that its clock was compared by */
    int multiprocessors;    /**< deviceProperties: numSms of the first device, or 0 */
    char device[64];        /**< deviceProperties: name, or "" */
    char damage[256];       /**< what the first damage was; "" */
} fm_trace_file;

/** Arguments of an event as JSON text: {"External id": 12, ...}. */
typedef struct fm_trace_args {
    uint64_t offset; /**< into fm_trace::args_text */
    uint32_t length; /**< 0: the event has none */
} fm_trace_args;

/** All of it owned by the library and not to be written to. */
typedef struct fm_trace {
    const fm_trace_file *files;
    size_t file_count;
    const fm_trace_process *processes;
    size_t process_count;
    const fm_trace_track *tracks;
    size_t track_count;
    const fm_trace_slice *slices; /**< in file order */
    size_t slice_count;
    const fm_trace_gpu *gpus; /**< in file order */
    size_t gpu_count;
    const fm_trace_flow *flows;
    size_t flow_count;
    const fm_trace_counter *counters;
    size_t counter_count;
    const fm_trace_args *args; /**< of each slice; NULL unless asked for */
    const char *args_text;
    size_t text_count; /**< texts are 0 .. text_count - 1 */
} fm_trace;

/** Zero-initialise and set `size` to sizeof(fm_trace_read_options). */
typedef struct fm_trace_read_options {
    size_t size;
    int keep_args; /**< keep the arguments' text: as many bytes as they take in the file */
    int salvage; /**< step over damage and events of more than 64 MiB and take what is whole; fm_trace_file::damaged
                      counts both */
    int threads; /**< that read a large plain file, started and joined within the call; 0: one a CPU. The trace does not
                    depend on it */
} fm_trace_read_options;

/**
 * Reads files ("-": standard input) into one trace. `options` may be NULL. FM_ERR_FORMAT: damaged or cut short (message:
 * file, byte offset in the JSON text, what was expected); FM_ERR_LIMIT: an event of more than 64 MiB, or more than 2^32 - 2
 * of something; FM_ERR_NOT_FOUND, FM_ERR_IO, FM_ERR_NOMEM, FM_ERR_CANCELLED (interrupt.h).
 */
FM_API FM_MUST_USE fm_status fm_trace_data_read(const char *const *paths, size_t path_count,
                                                const fm_trace_read_options *options, fm_trace **out_trace);
/** The same from memory; `name` stands for the file in messages. */
FM_API FM_MUST_USE fm_status fm_trace_data_parse(const char *text, size_t length, const char *name,
                                                 const fm_trace_read_options *options, fm_trace **out_trace);
/** Frees it; NULL is allowed. */
FM_API void fm_trace_data_free(fm_trace *trace);
/** The text of a name or category, 0-terminated, escapes resolved; "" for FM_TRACE_NONE. Lives as long as the trace. */
FM_API const char *fm_trace_data_text(const fm_trace *trace, uint32_t text);

#ifdef __cplusplus
}
#endif
#endif
