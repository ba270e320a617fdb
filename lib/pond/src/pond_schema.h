/**
 * @file pond_schema.h
 * Names and types of columns, as DuckDB's readers take them: "{'a': 'BIGINT', 'b': 'VARCHAR'}".
 */
#ifndef POND_SCHEMA_H
#define POND_SCHEMA_H

#include "fathom/doc.h"
#include "pond_text.h"

/** The schema that is given as text ("a BIGINT, \"b c\" DECIMAL(9,2)"; NULL: none) followed by detected columns ([[name, type]];
 * NULL: none). FM_ERR_ARG: not of that form. */
FM_MUST_USE fm_status fm_pond_schema_make(const char *given, const fm_doc *columns, fm_pond_text *out);

/** A column of a schema: two SQL strings with their quotes. */
typedef struct fm_pond_schema_column {
    const char *name, *type;
    size_t name_length, type_length;
} fm_pond_schema_column;

/** The first column at or after `at` in a schema, and where to look for the next; NULL: there is none. */
const char *fm_pond_schema_next(const char *at, fm_pond_schema_column *out_column);

/** Adds the type as which Parquet keeps values of a type of DuckDB that it does not know; returns whether it is another. Sums of
 * integers are HUGEINT, which DuckDB would write as DOUBLE. `exact_only`: only such that would lose digits, for files that others
 * read: what remains a type of Parquet's own stays. */
int fm_pond_schema_add_stored(const char *type, size_t length, int exact_only, fm_pond_text *out);

/** Adds the content of an SQL string that has its quotes. */
void fm_pond_schema_add_plain(const char *quoted, size_t length, fm_pond_text *out);
/** Adds a column's name as SQL writes names: "a". */
void fm_pond_schema_add_name(const fm_pond_schema_column *column, fm_pond_text *out);
/** Adds a column's type as SQL writes types. */
void fm_pond_schema_add_type(const fm_pond_schema_column *column, fm_pond_text *out);

#endif
