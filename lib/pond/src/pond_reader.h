/**
 * @file pond_reader.h
 * The SQL that reads source files. `schema` is as in pond_schema.h, NULL where none was given or detected; `list` holds SQL strings,
 * separated by commas.
 */
#ifndef POND_READER_H
#define POND_READER_H

#include "pond_plan.h"
#include "pond_text.h"

/** Adds a SELECT of the files' rows. */
void fm_pond_reader_add(const fm_pond_op *op, const char *schema, const char *list, fm_pond_text *sql);

/** Adds the select list that gives rows of Parquet files the columns of a schema; "*" for NULL. */
void fm_pond_reader_add_columns(const char *schema, fm_pond_text *sql);

/** Adds a SELECT that counts the lines of JSON files that are not of the schema. */
void fm_pond_reader_add_malformed(const char *schema, const char *list, fm_pond_text *sql);
/** Adds a SELECT that counts the lines of these files that DuckDB's reader of CSV has noted as malformed: after they were read, and
 * where the table reject_errors is there. */
void fm_pond_reader_add_rejected(const char *list, fm_pond_text *sql);

/** Adds a SELECT of the first difference between the columns of Parquet files and those of `like` (an SQL string): file, column,
 * its type, the type expected; NULL for a type where the column is not there. */
void fm_pond_reader_add_clash(const char *like, const char *list, fm_pond_text *sql);

#endif
