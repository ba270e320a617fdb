/**
 * @file pond_run.h
 * A run: stages one after the other, tasks given to executors, what they made.
 */
#ifndef POND_RUN_H
#define POND_RUN_H

#include "fathom/progress.h"
#include "pond_protocol.h"
#include "pond_stage.h"
#include "pond_trace.h"

/** What a shuffle's task has sent to one partition. */
typedef struct fm_pond_part {
    uint32_t number;
    uint64_t rows, sum;
} fm_pond_part;

/** What a task has made, once it is done. */
typedef struct fm_pond_made {
    char key[33];
    int done;
    uint64_t rows, rows_in, skipped, bytes;
    fm_pond_usage usage;
    fm_pond_part *parts; /**< in the order of their numbers */
    size_t part_count;
    char *columns; /**< the first task's of a stage: JSON [[name, type]] */
} fm_pond_made;

typedef struct fm_pond_stage_run {
    fm_pond_made *made; /**< [task] */
} fm_pond_stage_run;

/** Names and types of a source of text, as they were detected or given: "{'a': 'BIGINT'}"; NULL: not yet. */
typedef struct fm_pond_run {
    const fm_pond_plan *plan;
    fm_pond_physical physical;
    fm_pond_run_options options; /**< with the job's values where the caller gave none */
    fm_pond_text key_path;       /**< of the key that was made for this run; empty: none */
    fm_pond_text tasks;          /**< the folder of tasks */
    fm_pond_stage_run *stages;
    char **schemas; /**< [data set] */
    const char *engine;
    int lock; /**< of the work folder */
    fm_pond_run_report report;
    uint64_t tasks_planned;
    fm_progress progress;
    struct fm_pond_driver *driver;
} fm_pond_run;

/** Adds "CREATE VIEW <name> AS ..." of a data set's partition. */
FM_MUST_USE fm_status fm_pond_view_add(const fm_pond_run *run, int dataset, int partition, const char *name,
                                       fm_pond_text *sql);
/** Adds sizes and times of the source files of a data set's partition: what its tasks' keys depend on beside names. */
void fm_pond_view_stamp(const fm_pond_run *run, int dataset, int partition, fm_pond_text *out);
/** Adds what finds clashes between the columns of Parquet files (pond_reader.h); nothing where there can be none. */
FM_MUST_USE fm_status fm_pond_view_check(const fm_pond_run *run, int dataset, int partition,
                                         fm_pond_text *sql);
/** Adds what counts malformed lines that were left out (pond_reader.h); nothing where none may be. */
FM_MUST_USE fm_status fm_pond_view_skipped(const fm_pond_run *run, int dataset, int partition,
                                           fm_pond_text *malformed, fm_pond_text *rejected);
/** What a source of text is asked for its columns: a SELECT over a few of its files. */
FM_MUST_USE fm_status fm_pond_view_detect(const fm_pond_run *run, int dataset, fm_pond_text *sql);
/** The document of a task without its key, folder and resources: what the key is taken of. */
FM_MUST_USE fm_status fm_pond_run_describe(const fm_pond_run *run, int stage, int task, fm_pond_text *out);

/** Runs tasks with these bodies (NULL where made[i].done) until all are done. `made` gets keys and results. */
FM_MUST_USE fm_status fm_pond_driver_new(fm_pond_run *run, struct fm_pond_driver **out_driver);
FM_MUST_USE fm_status fm_pond_driver_run(struct fm_pond_driver *driver, const char *stage,
                                         char *const *bodies, fm_pond_made *made, size_t count);
/** Sends executors home and waits for the local ones. NULL is allowed. */
void fm_pond_driver_free(struct fm_pond_driver *driver);

/** Starts executors elsewhere, which are to join at `address`; the first line that the command prints is their id. */
FM_MUST_USE fm_status fm_pond_launch_start(const fm_pond_run *run, const char *address, int how_many,
                                           char *out_id, size_t size);
void fm_pond_launch_stop(const fm_pond_run *run, const char *id);

/** Writes the status file of the work folder; what goes wrong is logged. */
void fm_pond_status_save(const fm_pond_run *run, const char *state, const char *stage, int executors);

/** Puts a sink's files where they belong. */
FM_MUST_USE fm_status fm_pond_sink_commit(fm_pond_run *run, int stage);
/** Fails where a sink could not be put: before anything runs. */
FM_MUST_USE fm_status fm_pond_sink_check(const fm_pond_run *run, int stage);

/** Reads what a task left into *made. */
FM_MUST_USE fm_status fm_pond_made_read(const char *text, size_t length, fm_pond_made *made);

#endif
