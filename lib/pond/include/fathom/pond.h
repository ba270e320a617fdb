/**
 * @file pond.h
 * Partitioned data processing on DuckDB: plans, and running them on processes of one machine or many.
 *
 * A plan is a graph of operations on rows. A source reads files; what follows transforms rows within their partition (SQL,
 * filter, map, a C function on batches) or moves them between partitions (repartition, distinct, group-by, join, sort); a
 * sink writes files. Nothing happens until the plan runs.
 *
 *     fm_pond_plan *plan;
 *     int lines, tokens, sink;
 *     FM_TRY(fm_pond_plan_new(&plan));
 *     FM_TRY(fm_pond_plan_add(plan, &(fm_pond_op){.size = sizeof(fm_pond_op), .kind = FM_POND_SOURCE,
 *                                                 .format = FM_POND_PARQUET, .paths = (const char *[]){"in"},
 *                                                 .path_count = 1, .partitions = 8}, &lines));
 *     FM_TRY(fm_pond_function_register("tokenise", tokenise, &tokenizer, "v1"));
 *     FM_TRY(fm_pond_plan_add(plan, &(fm_pond_op){.size = sizeof(fm_pond_op), .kind = FM_POND_MAP_BATCHES,
 *                                                 .text = "tokenise", .schema = "tokens BLOB"}, &tokens));
 *     FM_TRY(fm_pond_plan_add(plan, &(fm_pond_op){.size = sizeof(fm_pond_op), .kind = FM_POND_SINK,
 *                                                 .format = FM_POND_RAW, .paths = (const char *[]){"out"},
 *                                                 .path_count = 1, .mode = FM_POND_OVERWRITE}, &sink));
 *     FM_TRY(fm_pond_plan_run(plan, &(fm_pond_run_options){.size = sizeof(fm_pond_run_options), .work = "work"}, NULL));
 *     fm_pond_plan_free(plan);
 *
 * **How it runs.** The plan is cut into stages where rows move between partitions; a stage is a task for each partition. Tasks
 * run in executors, processes of their own with a DuckDB each, and leave their rows as Parquet files in a folder of `work`
 * whose name is the hash of all that the task depends on: its operations, its function's version, its input. The folder appears
 * by rename when it is complete. So a run that was stopped, in whatever way, goes on where it was, and a job that was edited runs
 * again only what the edit changes. Rows that move between partitions are counted and summed on both sides.
 * There are as many executors as there is work for: they are started when tasks wait and sent home when there are none. `work` also
 * holds trace.json, which says what each task of the last run did and used: time, processor time, memory, bytes from and to disks
 * (`fathom trace` reads it).
 *
 * **Threads.** A plan belongs to one thread at a time. fm_pond_plan_run() forks its local executors at its beginning: no other
 * thread of the caller may then hold a lock that the C library or a registered function needs.
 */
#ifndef FATHOM_POND_H
#define FATHOM_POND_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/doc.h"
#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fm_pond_plan fm_pond_plan;

/** What an operation does. In SQL, {0}, {1}, ... stand for its inputs. */
typedef enum fm_pond_kind {
    FM_POND_SOURCE = 1, /**< `format`, `paths` or `text`; `partitions` */
    FM_POND_SQL, /**< `text`: a SELECT on each partition of {0}, {1}, ...; an input of one partition is given to all
                            tasks, others have equally many, by hash or by column where they were repartitioned */
    FM_POND_FILTER,      /**< `text`: a condition */
    FM_POND_MAP,         /**< `text`: a select list: "a, b + 1 AS c" */
    FM_POND_FLAT_MAP,    /**< `text`: a select list in which unnest(list) makes a row of each element */
    FM_POND_MAP_BATCHES, /**< `text`: a function, registered or "file.so:symbol"; `schema`: what it makes */
    FM_POND_SAMPLE,      /**< `fraction` of the rows, at random by `seed` */
    FM_POND_LIMIT,       /**< any `rows` rows; one partition comes out */
    FM_POND_DISTINCT,    /**< `by`: columns, of which one row for each value stays; NULL: all */
    FM_POND_GROUP_BY,    /**< `by`: expressions; `text`: aggregates ("count(*) AS n, sum(x) AS s") */
    FM_POND_JOIN, /**< {0} with {1} on equal columns `by`; `join`: "inner", "left", "right", "full", "semi", "anti" */
    FM_POND_REPARTITION, /**< `scheme`, `by`, `partitions` */
    FM_POND_SORT,        /**< `by`: ORDER BY terms; partition i then lies before partition i + 1 */
    FM_POND_SINK /**< `format`, `paths[0]`: a folder, `mode`; HUGEINT, as sums are, becomes DECIMAL(38,0) in Parquet */
} fm_pond_kind;

typedef enum fm_pond_format {
    FM_POND_PARQUET = 1,
    FM_POND_CSV,  /**< the first line holds the names of columns */
    FM_POND_JSON, /**< an object a line */
    FM_POND_TEXT, /**< source: a line, of 16 MiB at most, is a row with the column `line`; sink: the only column, a line each */
    FM_POND_FILES, /**< source: a file is a row with the columns filename, content (VARCHAR), size */
    FM_POND_RANGE, /**< source: the integers from `low` to `high` - 1 as the column `id` */
    FM_POND_QUERY, /**< source: `text`, a SELECT that may use {partition} and {partitions} */
    FM_POND_RAW /**< sink: the bytes of the only column, a BLOB, one value behind another: part-00000.bin, ... */
} fm_pond_format;

typedef enum fm_pond_scheme {
    FM_POND_BY_FILES = 1, /**< whole files, evenly by their bytes; no row moves */
    FM_POND_BY_ROWS,      /**< equal numbers of rows, in order; no row moves */
    FM_POND_BY_HASH,      /**< by the hash of columns `by` (NULL: of the row) */
    FM_POND_BY_COLUMN,    /**< by the integer expression `by`, which must be in [0, partitions) */
    FM_POND_BY_RANGE, /**< by ORDER BY terms `by`, cut at sampled values; heaps of equal keys are spread */
    FM_POND_BY_RANDOM /**< at random by `seed`, and shuffled within partitions */
} fm_pond_scheme;

typedef enum fm_pond_mode {
    FM_POND_ERROR = 0, /**< fail when the folder holds anything that this very sink did not write */
    FM_POND_OVERWRITE, /**< replace the folder, in one step, when all is written */
    FM_POND_APPEND     /**< add files */
} fm_pond_mode;

typedef enum fm_pond_on_error {
    FM_POND_FAIL = 0, /**< a malformed line fails the job, which names file and line */
    FM_POND_SKIP      /**< it is left out and counted */
} fm_pond_on_error;

/** An operation. Zero what is not needed. All that it points to is copied. */
typedef struct fm_pond_op {
    size_t size; /**< sizeof(fm_pond_op) */
    fm_pond_kind kind;
    const char *name; /**< for people; NULL: one is made */
    /** Nodes that the operation reads; NULL: the node added before. */
    const int *inputs;
    size_t input_count;
    fm_pond_format format;
    fm_pond_scheme scheme;
    fm_pond_mode mode;
    fm_pond_on_error on_error; /**< CSV sources, and JSON sources with a schema */
    /** Source: files, folders or patterns (* ? [..]); sink: a folder. fs:SPEC//PATH is PATH in the file system that fm_fs_open()
     * opens by SPEC ("fs:dir:/data//in/" followed by a pattern). Where the kernel knows no name for its files, tasks fetch what they
     * read beside their work, and the results are copied. */
    const char *const *paths;
    size_t path_count;
    const char *text, *by, *join;
    /** MAP_BATCHES: columns of its result ("tokens BLOB, n BIGINT"; types BIGINT, DOUBLE, VARCHAR, BLOB). CSV and JSON sources:
     * columns and types, NULL to detect them. Parquet sources: columns, and types that each file's are cast to; NULL: all files
     * have the columns of the first, or the job fails. Sinks: hive partition columns. */
    const char *schema;
    int64_t partitions; /**< 0: sources: as many as files, at most 4 a core; others: as many as the input */
    int64_t low, high;
    int64_t rows;
    double fraction;
    uint64_t seed;
} fm_pond_op;

FM_API FM_MUST_USE fm_status fm_pond_plan_new(fm_pond_plan **out_plan);
/** NULL is allowed. */
FM_API void fm_pond_plan_free(fm_pond_plan *plan);
/** Adds an operation; its number goes to *out_node, for `inputs` of later ones. FM_ERR_ARG: what is wrong; FM_ERR_NOMEM. */
FM_API FM_MUST_USE fm_status fm_pond_plan_add(fm_pond_plan *plan, const fm_pond_op *op, int *out_node);

/**
 * Reads a job: a document with the keys `name`, `work`, `executors`, `threads`, `memory` and `steps`. A step is an object with
 * one of the keys source, sql, filter, map, flat_map, map_batches, sample, limit, distinct, group_by, join, repartition, sort, sink, and
 * those of its details; `name` names it, and `input` or `inputs` name the steps it reads (default: the one before).
 *
 *     steps:
 *       - {source: csv, paths: [in], name: sales}
 *       - {group_by: city, aggregate: "sum(price) AS price", partitions: 8}
 *       - {sort: price DESC}
 *       - {sink: parquet, path: out, mode: overwrite}
 *
 * FM_ERR_FORMAT names file, line and what was expected; unknown keys are errors that name the nearest.
 */
FM_API FM_MUST_USE fm_status fm_pond_plan_read(const fm_doc *job, fm_pond_plan **out_plan);

/** Stages, tasks, bytes and predicted transfers, as text; the caller frees it with fm_base_mem_free(). Looks at the sizes of
 * sources, and runs nothing. */
FM_API FM_MUST_USE fm_status fm_pond_plan_explain(fm_pond_plan *plan, char **out_text);

/* Functions on batches */

typedef enum fm_pond_type { FM_POND_INT64 = 1, FM_POND_REAL, FM_POND_TEXT_VALUE, FM_POND_BYTES } fm_pond_type;

typedef struct fm_pond_bytes {
    const char *bytes; /**< not terminated */
    size_t length;
} fm_pond_bytes;

/** A column of a batch. Integers of all sizes and booleans come as INT64, DECIMAL and floats as REAL, all other types but BLOB as
 * their text. */
typedef struct fm_pond_column {
    const char *name;
    fm_pond_type type;
    const uint8_t *is_null;      /**< [rows]; NULL: none is */
    const int64_t *integers;     /**< [rows], or NULL: of another type */
    const double *reals;         /**< [rows], or NULL */
    const fm_pond_bytes *values; /**< [rows], or NULL: texts and bytes */
} fm_pond_column;

typedef struct fm_pond_batch {
    size_t rows; /**< at most 2048 */
    size_t column_count;
    const fm_pond_column *columns;
    int64_t partition; /**< of the task */
} fm_pond_batch;

/** The column of this name, or NULL. */
FM_API const fm_pond_column *fm_pond_batch_find(const fm_pond_batch *batch, const char *name);

/** Where a function puts its rows, value by value, columns from left to right. */
typedef struct fm_pond_rows fm_pond_rows;
FM_API FM_MUST_USE fm_status fm_pond_rows_int(fm_pond_rows *rows, int64_t value);
FM_API FM_MUST_USE fm_status fm_pond_rows_real(fm_pond_rows *rows, double value);
/** For VARCHAR (UTF-8) and BLOB columns; copied. */
FM_API FM_MUST_USE fm_status fm_pond_rows_bytes(fm_pond_rows *rows, const void *bytes, size_t length);
FM_API FM_MUST_USE fm_status fm_pond_rows_null(fm_pond_rows *rows);
/** Ends a row; all of its columns have been given. */
FM_API FM_MUST_USE fm_status fm_pond_rows_end(fm_pond_rows *rows);

/** Makes rows of a batch. A failure fails the task, with the thread's message. Called for the batches of a partition in order, and
 * once more with rows 0 at the partition's end, for what it has kept. */
typedef fm_status (*fm_pond_function)(void *context, const fm_pond_batch *batch, fm_pond_rows *out);

/** Makes a function known to this process and the executors that it will fork. `version` goes into the key of tasks: change it
 * when the function changes what it makes. A name that is known is replaced. FM_ERR_NOMEM. */
FM_API FM_MUST_USE fm_status fm_pond_function_register(const char *name, fm_pond_function function,
                                                       void *context, const char *version);

/* Running */

typedef struct fm_pond_run_options {
    size_t size;      /**< sizeof(fm_pond_run_options) */
    const char *work; /**< folder for what tasks make; NULL: the job's `work`, or ".pond" */
    int executors; /**< local processes at most; 0: the job's, or as many as cores; -1: none, others will join */
    int threads;           /**< of each task; 0: the job's, or 1 */
    uint64_t memory_bytes; /**< of each task; 0: the job's, or half of what is free, divided by executors */
    int retries;           /**< of a task, after which the job fails; 0: 3 */
    int progress;          /**< show it on standard error */
    const char *listen;    /**< address for executors of other machines, "*:7000"; NULL: none */
    /** Executors started elsewhere, by a command of the shell in which {address}, {key}, {fathom} (this program), {work} and {count}
     * are filled in, or by Slurm: `slurm` holds options of sbatch ("partition=batch,time=60"), "" for none. What the command prints
     * first is an id, for {id} in `launch_stop`. All see the work folder under its name. */
    const char *launch, *launch_stop, *slurm;
    int launch_count; /**< how many at a time, at most; with launch or slurm, at least 1 */
    int idle_ms;      /**< executors without work for so long are sent home, all but one; 0: 10,000 */
    const char *
        key_path; /**< key file that they share; required with listen, made for the run with launch and slurm */
} fm_pond_run_options;

typedef struct fm_pond_run_report {
    uint64_t tasks, tasks_run, tasks_kept; /**< in all; run now; found done */
    uint64_t retries;                      /**< tasks run again after a failure or the loss of an executor */
    uint64_t speculative;                  /**< second copies of slow tasks */
    uint64_t rows;                         /**< written by sinks */
    uint64_t moved_rows;                   /**< between partitions, proved */
    uint64_t skipped;                      /**< malformed lines left out */
    uint64_t wall_ns;
    uint64_t cpu_ns;        /**< of all tasks, those that were kept included */
    uint64_t rss_bytes_max; /**< of the task that took most memory */
} fm_pond_run_report;

/**
 * Runs a plan to its sinks. FM_ERR_FORMAT: malformed input, unknown columns, wrong SQL (with DuckDB's message);
 * FM_ERR_LIMIT: a partition number out of range, or not enough memory even with all of it; FM_ERR_EXISTS: a sink's folder is not
 * empty; FM_ERR_UNAVAILABLE: no DuckDB; FM_ERR_SPACE, FM_ERR_IO, FM_ERR_INTERNAL (a proof failed), FM_ERR_CANCELLED (interrupted:
 * run again to go on).
 */
FM_API FM_MUST_USE fm_status fm_pond_plan_run(fm_pond_plan *plan, const fm_pond_run_options *options,
                                              fm_pond_run_report *out_report);

/** Writes what a run in this folder does, or has done, to `file` (a FILE *): stage, tasks, executors; as JSON or for people.
 * FM_ERR_NOT_FOUND: none has run there. */
FM_API FM_MUST_USE fm_status fm_pond_status_write(const char *work, int json, void *file);

/** Executes tasks for a run that listens at `address`, until it ends. */
FM_API FM_MUST_USE fm_status fm_pond_executor_run(const char *address, const char *key_path);

/** Runs statements in a DuckDB of their own, on all cores, and writes the last one's rows to `file` (a FILE *), as a table, or as
 * CSV. FM_ERR_ARG: nothing to run; else as a task fails. */
FM_API FM_MUST_USE fm_status fm_pond_sql_run(const char *sql, int csv, void *file);

#ifdef __cplusplus
}
#endif
#endif
