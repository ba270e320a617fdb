/**
 * @file pond_stage.h
 * A plan cut into stages: what is computed within partitions is one stage, and a stage ends where rows move between them.
 */
#ifndef POND_STAGE_H
#define POND_STAGE_H

#include "pond_plan.h"
#include "pond_text.h"

/** What a definition reads: definitions count from 0 up, data sets from -1 down. */
typedef int fm_pond_ref;
#define FM_POND_REF_DATASET(index) (-1 - (index))

/** A relation made of others, within a partition: a view, or the result of a function. */
typedef struct fm_pond_def {
    const char *sql; /**< {0}, {1}, ... stand for what it reads; {partition} and {partitions} for numbers */
    const char *function, *schema; /**< instead of sql: its only input through a function */
    fm_pond_ref refs[FM_POND_INPUTS_MAX];
    int ref_count;
} fm_pond_def;

typedef enum fm_pond_dataset_kind {
    FM_POND_DATASET_SOURCE,   /**< of a source node */
    FM_POND_DATASET_PLAIN,    /**< partition i is what task i of a stage has made */
    FM_POND_DATASET_SHUFFLED, /**< partition i is the i-th part of what every task of a stage has made */
    FM_POND_DATASET_FILES,    /**< another data set's files, evenly by bytes */
    FM_POND_DATASET_ROWS      /**< another data set's rows, evenly */
} fm_pond_dataset_kind;

typedef struct fm_pond_source_file {
    const char *path;
    uint64_t bytes, mtime_ns;
} fm_pond_source_file;

typedef struct fm_pond_dataset {
    fm_pond_dataset_kind kind;
    int partitions;
    int node;                   /**< SOURCE */
    int stage;                  /**< PLAIN, SHUFFLED */
    int of;                     /**< FILES, ROWS */
    fm_pond_source_file *files; /**< SOURCE of files, in the order of their names */
    size_t file_count;
    uint64_t bytes; /**< of source files; predicted for others */
} fm_pond_dataset;

typedef enum fm_pond_output_kind {
    FM_POND_OUT_PLAIN,
    FM_POND_OUT_SHUFFLE,
    FM_POND_OUT_SINK
} fm_pond_output_kind;

typedef struct fm_pond_stage {
    const char *name;
    int *defs; /**< in an order in which each comes after what it reads */
    int def_count;
    int *datasets; /**< that it reads */
    int dataset_count;
    fm_pond_ref out;
    int tasks;
    fm_pond_output_kind kind;
    fm_pond_scheme scheme; /**< SHUFFLE */
    const char *by;
    int parts;
    int samples; /**< BY_RANGE: the data set of samples, among `datasets` */
    uint64_t seed;
    int node; /**< SINK: its node; else the node that the stage ends with */
} fm_pond_stage;

typedef struct fm_pond_physical {
    const fm_pond_plan *plan;
    fm_arena texts;
    fm_pond_def *defs;
    fm_pond_dataset *datasets;
    fm_pond_stage *stages; /**< in an order in which each comes after what it reads */
    int def_count, dataset_count, stage_count;
    int def_capacity, dataset_capacity, stage_capacity;
} fm_pond_physical;

/** Cuts a plan. Looks for the files of sources: FM_ERR_NOT_FOUND names a pattern that matches none. */
FM_MUST_USE fm_status fm_pond_physical_make(const fm_pond_plan *plan, fm_pond_physical *out_physical);
void fm_pond_physical_clear(fm_pond_physical *physical);

/** The relation SQL of a group-by, whole or in two steps around a shuffle. Private to the planner and its test. */
typedef struct fm_pond_group_sql {
    fm_pond_text first; /**< before the shuffle; empty: rows move as they are */
    fm_pond_text hash;  /**< what to shuffle by */
    fm_pond_text last;
} fm_pond_group_sql;
FM_MUST_USE fm_status fm_pond_group_sql_make(const char *by, const char *aggregates, fm_pond_group_sql *out);
void fm_pond_group_sql_clear(fm_pond_group_sql *sql);

/** The files that paths (files, folders, patterns) name, sorted, into `arena`. */
FM_MUST_USE fm_status fm_pond_source_find(const fm_pond_op *op, fm_arena *arena,
                                          fm_pond_source_file **out_files, size_t *out_count);

/** The first line of each CSV file names the columns of "{'a': 'BIGINT', ...}", in their order: DuckDB, which is given names and
 * types, does not look at it. FM_ERR_FORMAT: which file and column. */
FM_MUST_USE fm_status fm_pond_source_check_headers(const fm_pond_dataset *dataset, const char *schema);

#endif
