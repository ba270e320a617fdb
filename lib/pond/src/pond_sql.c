#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fathom/mem.h"
#include "fathom/pond.h"
#include "fathom/table.h"

#ifdef FM_HAVE_DUCKDB
#include "pond_output.h"
#include "pond_session.h"
#include "pond_team.h"

struct show {
    fm_table table;
    FILE *file;
    int csv, columns;
};

static fm_status take_name(void *context, const fm_pond_text *values, int count)
{
    struct show *show = context;
    (void)count;
    if (show->csv)
        fprintf(show->file, "%s%.*s", show->columns ? "," : "", (int)values[0].length, values[0].text);
    else if (show->columns < FM_TABLE_COLUMNS_MAX) {
        char name[256];
        snprintf(name, sizeof name, "%.*s", (int)values[0].length, values[0].text);
        fm_base_table_column(&show->table, name, NULL, FM_ALIGN_LEFT);
    }
    show->columns++;
    return FM_OK;
}

static void put_csv(FILE *file, const fm_pond_text *value)
{
    int quote = 0;
    for (size_t i = 0; i < value->length; i++)
        quote |= value->text[i] == ',' || value->text[i] == '"' || value->text[i] == '\n' ||
                 value->text[i] == '\r';
    if (quote)
        fputc('"', file);
    for (size_t i = 0; i < value->length; i++) {
        if (value->text[i] == '"')
            fputc('"', file);
        fputc(value->text[i], file);
    }
    if (quote)
        fputc('"', file);
}

static fm_status take_values(void *context, const fm_pond_text *values, int count)
{
    struct show *show = context;
    for (int i = 0; i < count; i++) {
        if (show->csv) {
            if (i)
                fputc(',', show->file);
            put_csv(show->file, &values[i]);
        } else if (i < FM_TABLE_COLUMNS_MAX) {
            fm_base_table_cell(&show->table, "%.*s", values[i].text ? (int)values[i].length : 4,
                               values[i].text ? values[i].text : "NULL");
        }
    }
    if (show->csv)
        fputc('\n', show->file);
    else
        fm_base_table_end_row(&show->table);
    return FM_OK;
}

// Runs the last statement and shows its rows; what is no query (CREATE, COPY) has none.
static fm_status show_last(const fm_pond_session *session, const char *sql, int csv, FILE *file)
{
    fm_pond_text text = {0};
    struct show show = {.file = file, .csv = csv};
    fm_pond_text_add(&text, "SELECT column_name FROM (DESCRIBE SELECT * FROM (%s\n))", sql);
    fm_status status = fm_pond_text_status(&text);
    if (status == FM_OK && fm_pond_session_each(session, text.text, take_name, &show) < 0) {
        fm_pond_text_clear(&text);
        return fm_pond_session_run(session, sql);
    }
    if (csv)
        fputc('\n', file);
    fm_pond_text_clear(&text);
    fm_pond_text_add(&text, "SELECT CAST(COLUMNS(*) AS VARCHAR) FROM (%s\n)", sql);
    if (status == FM_OK)
        status = fm_pond_text_status(&text);
    if (status == FM_OK)
        status = fm_pond_session_each(session, text.text, take_values, &show);
    fm_pond_text_clear(&text);
    if (csv)
        return status;
    fm_status written = fm_base_table_finish(&show.table, status < 0 ? NULL : file, 0);
    return status < 0 ? status : written;
}

// Where the last statement begins, without the semicolons that end it.
static size_t find_last(char *sql)
{
    size_t length = strlen(sql), begin = 0;
    while (length && (isspace((unsigned char)sql[length - 1]) || sql[length - 1] == ';'))
        sql[--length] = '\0';
    for (const char *at = sql; *at; at = fm_pond_text_skip(at))
        if (*at == ';')
            begin = (size_t)(at - sql) + 1;
    return begin;
}

static fm_status run_on(const fm_pond_session *session, const char *given, int csv, FILE *file)
{
    char *sql = fm_base_mem_strdup(given);
    if (!sql)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a statement");
    size_t last = find_last(sql);
    fm_status status = FM_OK;
    if (!*sql)
        status = fm_base_error_set(FM_ERR_ARG, "an empty statement; expected one such as SELECT 1");
    if (status == FM_OK && last) {
        sql[last - 1] = '\0';
        status = fm_pond_session_run(session, sql);
    }
    if (status == FM_OK)
        status = show_last(session, sql + last, csv, file);
    fm_base_mem_free(sql);
    return status;
}

fm_status fm_pond_sql_run(const char *sql, int csv, void *file)
{
    fm_pond_session session;
    fm_pond_text scratch = {0};
    const char *folder = getenv("TMPDIR");
    fm_pond_text_add(&scratch, "%s/fathom-sql-%d", folder ? folder : "/tmp", (int)getpid());
    fm_status status = fm_pond_text_status(&scratch);
    if (status == FM_OK)
        status = fm_pond_session_open(fm_pond_team_cores(), 0, scratch.text, &session);
    if (status == FM_OK) {
        status = run_on(&session, sql, csv, file);
        fm_pond_session_close(&session);
        fm_pond_folder_discard(scratch.text);
    }
    fm_pond_text_clear(&scratch);
    return status;
}
#else
fm_status fm_pond_sql_run(const char *sql, int csv, void *file)
{
    (void)sql, (void)csv, (void)file;
    return fm_base_error_set(FM_ERR_UNAVAILABLE, "built without DuckDB (setup/install.sh fetches it)");
}
#endif
