#include "pond_reader.h"

#include <string.h>

#include "pond_schema.h"

// A line is one value: nothing separates, nothing quotes. The longest has 16 MiB; of buffers, DuckDB would take sixteen lines'.
#define LINES                                                                                             \
    "read_csv([%s], columns = {'line': 'VARCHAR'}, header = false, auto_detect = false, delim = '\x01', " \
    "quote = '', escape = '', strict_mode = false, null_padding = true, max_line_size = 16777216, "       \
    "buffer_size = 33554432%s)"

// Lines as JSON (NULL: they are none) and as a row of the schema, in which what does not fit is NULL.
static void add_json_rows(const char *schema, const char *list, fm_pond_text *sql)
{
    fm_pond_schema_column column;
    fm_pond_text_add(sql, "(SELECT __j, TRY_CAST(__j AS STRUCT(");
    for (const char *at = schema, *next; (next = fm_pond_schema_next(at, &column)); at = next) {
        fm_pond_text_add(sql, "%s", at == schema ? "" : ", ");
        fm_pond_schema_add_name(&column, sql);
        fm_pond_text_add(sql, " ");
        fm_pond_schema_add_type(&column, sql);
    }
    fm_pond_text_add(
        sql, ")) AS __o FROM (SELECT TRY_CAST(line AS JSON) AS __j FROM " LINES " WHERE trim(line) <> ''))",
        list, ", store_rejects = true");
}

// A row is well-formed where its line is an object whose values became their columns'.
static void add_json_condition(const char *schema, fm_pond_text *sql)
{
    fm_pond_schema_column column;
    fm_pond_text_add(sql, "coalesce(json_type(__j) = 'OBJECT'");
    for (const char *at = schema; (at = fm_pond_schema_next(at, &column));) {
        fm_pond_text name = {0}, pointer = {0};
        fm_pond_schema_add_plain(column.name, column.name_length, &name);
        fm_pond_text_add(&pointer, "/");
        for (size_t i = 0; i < name.length; i++)
            fm_pond_text_add(&pointer,
                             name.text[i] == '~'   ? "~0"
                             : name.text[i] == '/' ? "~1"
                                                   : "%c",
                             name.text[i]);
        fm_pond_text_add(sql, " AND (__o.");
        fm_pond_schema_add_name(&column, sql);
        fm_pond_text_add(sql, " IS NOT NULL OR coalesce(json_type(__j, ");
        fm_pond_text_add_quoted(sql, pointer.text ? pointer.text : "");
        fm_pond_text_add(sql, "), 'NULL') = 'NULL')");
        sql->failed |= name.failed | pointer.failed;
        fm_pond_text_clear(&name);
        fm_pond_text_clear(&pointer);
    }
    fm_pond_text_add(sql, ", false)");
}

static void add_json(const fm_pond_op *op, const char *schema, const char *list, fm_pond_text *sql)
{
    if (op->on_error == FM_POND_SKIP) { // such a source has a schema
        fm_pond_text_add(sql, "SELECT unnest(__o) FROM ");
        add_json_rows(schema, list, sql);
        fm_pond_text_add(sql, " WHERE ");
        add_json_condition(schema, sql);
        return;
    }
    fm_pond_text_add(sql, "SELECT * FROM read_json([%s], format = 'newline_delimited'", list);
    if (schema)
        fm_pond_text_add(sql, ", columns = %s", schema);
    fm_pond_text_add(sql, ")");
}

void fm_pond_reader_add_columns(const char *schema, fm_pond_text *sql)
{
    fm_pond_schema_column column;
    if (!schema)
        fm_pond_text_add(sql, "*");
    for (const char *at = schema, *next; at && (next = fm_pond_schema_next(at, &column)); at = next) {
        fm_pond_text_add(sql, "%sCAST(", at == schema ? "" : ", ");
        fm_pond_schema_add_name(&column, sql);
        fm_pond_text_add(sql, " AS ");
        fm_pond_schema_add_type(&column, sql);
        fm_pond_text_add(sql, ") AS ");
        fm_pond_schema_add_name(&column, sql);
    }
}

// A file's name is that by which it was found, where DuckDB reads a copy, too: a string that begins as paths on fs do would become
// the copy's name (pond_fs.h), but not the two halves of it.
static void add_files(const char *list, fm_pond_text *sql)
{
    if (!strstr(list, "'fs:")) {
        fm_pond_text_add(sql, "SELECT filename, content, size FROM read_text([%s])", list);
        return;
    }
    fm_pond_text_add(sql, "SELECT MAP([%s], [", list);
    for (const char *at = list, *end; *at; at = end) {
        int halves = strncmp(at, "'fs:", 4) == 0 && (at == list || at[-1] == ' ');
        end = fm_pond_text_skip(at);
        fm_pond_text_add(sql, "%s%.*s", halves ? "'f' || '" : "", (int)(end - at) - 2 * halves,
                         at + 2 * halves);
    }
    fm_pond_text_add(sql, "])[filename] AS filename, content, size FROM read_text([%s])", list);
}

void fm_pond_reader_add(const fm_pond_op *op, const char *schema, const char *list, fm_pond_text *sql)
{
    switch (op->format) {
    case FM_POND_PARQUET:
        fm_pond_text_add(sql, "SELECT ");
        fm_pond_reader_add_columns(schema, sql);
        fm_pond_text_add(sql, " FROM read_parquet([%s]%s)", list, schema ? ", union_by_name = true" : "");
        break;
    case FM_POND_CSV:
        fm_pond_text_add(sql, "SELECT * FROM read_csv([%s], header = true", list);
        if (schema)
            fm_pond_text_add(sql, ", columns = %s, auto_detect = false", schema);
        if (op->on_error == FM_POND_SKIP)
            fm_pond_text_add(sql, ", store_rejects = true");
        fm_pond_text_add(sql, ")");
        break;
    case FM_POND_JSON:
        add_json(op, schema, list, sql);
        break;
    case FM_POND_TEXT:
        fm_pond_text_add(sql, "SELECT coalesce(line, '') AS line FROM " LINES, list, "");
        break;
    default:
        add_files(list, sql);
    }
}

void fm_pond_reader_add_malformed(const char *schema, const char *list, fm_pond_text *sql)
{
    fm_pond_text_add(sql, "SELECT CAST(count(*) AS VARCHAR) FROM ");
    add_json_rows(schema, list, sql);
    fm_pond_text_add(sql, " WHERE NOT ");
    add_json_condition(schema, sql);
}

void fm_pond_reader_add_rejected(const char *list, fm_pond_text *sql)
{
    // A file that is read twice (by a query that names its input twice) is noted twice.
    fm_pond_text_add(sql,
                     "SELECT CAST(count(DISTINCT (file_path, line)) AS VARCHAR) FROM reject_errors JOIN "
                     "reject_scans USING (scan_id, file_id) WHERE file_path IN (%s)",
                     list);
}

void fm_pond_reader_add_clash(const char *like, const char *list, fm_pond_text *sql)
{
    // Of nested columns, how many fields they have; the fields follow as columns of their own.
    fm_pond_text_add(
        sql,
        "WITH s AS (SELECT file_name AS f, name AS n, coalesce(duckdb_type, num_children || ' fields') AS t, "
        "column_id AS c FROM parquet_schema([%s, %s]) WHERE column_id > 0), "
        "r AS (SELECT DISTINCT n, t, c FROM s WHERE f = %s), o AS (SELECT DISTINCT f FROM s WHERE f <> %s) "
        "SELECT f, n, t, e FROM ("
        "SELECT f, n, t, (SELECT min(r.t) FROM r WHERE r.n = s.n) AS e, c FROM s WHERE f <> %s AND NOT "
        "EXISTS "
        "(FROM r WHERE r.n = s.n AND r.t = s.t) UNION ALL "
        "SELECT f, n, NULL, t, c FROM o, r WHERE NOT EXISTS (FROM s WHERE s.f = o.f AND s.n = r.n)) "
        "ORDER BY f, c, n LIMIT 1",
        like, list, like, like, like);
}
