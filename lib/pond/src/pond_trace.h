/**
 * @file pond_trace.h
 * What every task of a run took, as a trace in Chrome's format: a track for each executor, a span for each task with its figures as
 * arguments, and spans inside it for what it did. `fathom trace` reads it.
 */
#ifndef POND_TRACE_H
#define POND_TRACE_H

#include <stdint.h>

#include "fathom/status.h"

enum { FM_POND_PHASES = 4 };
/** What a task does, one behind another; what is left of its time, it spends on committing. */
extern const char *const fm_pond_phase_names[FM_POND_PHASES];

/** What a task has used. */
typedef struct fm_pond_usage {
    uint64_t begin_unix_ns, wall_ns;
    uint64_t cpu_ns;                    /**< of all threads */
    uint64_t rss_bytes;                 /**< at most */
    uint64_t read_bytes, written_bytes; /**< from and to disks, as the kernel counts; 0 where it does not */
    uint64_t phase_ns[FM_POND_PHASES];
} fm_pond_usage;

/** A task that has ended. */
typedef struct fm_pond_trace_task {
    const char *stage, *key;
    uint64_t number, rows_in, rows, bytes, memory_bytes;
    int attempt; /**< 1: the first */
    fm_status status;
    fm_pond_usage usage;
} fm_pond_trace_task;

typedef struct fm_pond_trace fm_pond_trace;

/** Begins a file; one that is there is replaced. */
FM_MUST_USE fm_status fm_pond_trace_open(const char *path, fm_pond_trace **out_trace);
/** Names an executor; returns the number of its track. NULL does nothing, as below. */
int fm_pond_trace_track(fm_pond_trace *trace, const char *name);
void fm_pond_trace_task_add(fm_pond_trace *trace, int track, const fm_pond_trace_task *task);
/** A moment in an executor's life: "joined", "sent home", "lost". */
void fm_pond_trace_mark(fm_pond_trace *trace, int track, const char *what);
/** Ends the file. What could not be written is logged: a run does not fail for it. */
void fm_pond_trace_close(fm_pond_trace *trace);

/* Of the executor: what its process uses between two moments. */

typedef struct fm_pond_meter {
    uint64_t begin_unix_ns, begin_ns, cpu_ns, read_bytes, written_bytes;
    uint64_t phase_ns, phases[FM_POND_PHASES];
    int phase;
} fm_pond_meter;

void fm_pond_meter_begin(fm_pond_meter *meter);
/** The current phase is over, the next begins. */
void fm_pond_meter_next(fm_pond_meter *meter);
void fm_pond_meter_read(const fm_pond_meter *meter, fm_pond_usage *out_usage);

#endif
