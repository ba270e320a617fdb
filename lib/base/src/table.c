#include "fathom/table.h"

#include <stdarg.h>
#include <stdio.h>

enum {
    GAP = 2,             // spaces between columns
    CUT_COLUMNS_MIN = 8, // a column of names cut further tells nothing
    CELLS_FIRST = 64,
};

#define CUT_MARK "…" // one column

/* How a column is drawn. */
struct extent {
    size_t width;
    size_t point; // FM_ALIGN_POINT: columns in front of the point
};

static void fail_without_memory(fm_table *table)
{
    if (table->status == FM_OK)
        table->status =
            fm_base_error_set(FM_ERR_NOMEM, "no memory for a table of %zu cells", table->cell_count);
}

/* Formats into the table's arena, made safe; NULL, with the table's status set, without memory. */
static FM_PRINTF(2, 0) char *keep_text(fm_table *table, const char *format, va_list arguments)
{
    va_list again;
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    // With room for the mark of a cut behind all but the last character.
    char *kept = length < 0 ? NULL : fm_base_arena_alloc(&table->texts, (size_t)length + sizeof CUT_MARK);
    if (kept) {
        vsnprintf(kept, (size_t)length + 1, format, again);
        fm_base_text_clean(kept);
        while (length > 0 && kept[length - 1] == ' ') // the column's width brings them back
            kept[--length] = 0;
    } else {
        fail_without_memory(table);
    }
    va_end(again);
    return kept;
}

static FM_PRINTF(2, 3) char *keep(fm_table *table, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    char *kept = keep_text(table, format, arguments);
    va_end(arguments);
    return kept;
}

void fm_base_table_column(fm_table *table, const char *title, const char *unit, fm_align align)
{
    if (table->status < 0)
        return;
    if (table->cell_count > 0 || table->column_count == FM_TABLE_COLUMNS_MAX) {
        table->status =
            fm_base_error_set(FM_ERR_ARG,
                              "table column \"%s\" after %d columns and %zu cells; expected it "
                              "before the first cell, and at most %d",
                              title, table->column_count, table->cell_count, FM_TABLE_COLUMNS_MAX);
        return;
    }
    char *kept = unit ? keep(table, "%s (%s)", title, unit) : keep(table, "%s", title);
    table->columns[table->column_count].title = kept;
    table->columns[table->column_count++].align = align;
}

static void add_cell(fm_table *table, char *text)
{
    if (table->cell_count == table->cell_capacity) {
        size_t capacity = table->cell_capacity ? table->cell_capacity * 2 : CELLS_FIRST;
        char **moved = fm_base_mem_realloc(table->cells, capacity, sizeof *moved);
        if (!moved) {
            fail_without_memory(table);
            return;
        }
        table->cells = moved;
        table->cell_capacity = capacity;
    }
    table->cells[table->cell_count++] = text;
}

void fm_base_table_cell(fm_table *table, const char *format, ...)
{
    if (table->status == FM_OK && table->column_count == 0)
        table->status = fm_base_error_set(FM_ERR_ARG, "a table cell without a column");
    if (table->status < 0)
        return;
    va_list arguments;
    va_start(arguments, format);
    char *text = keep_text(table, format, arguments);
    va_end(arguments);
    if (text)
        add_cell(table, text);
}

void fm_base_table_end_row(fm_table *table)
{
    while (table->status == FM_OK && table->column_count && table->cell_count % (size_t)table->column_count)
        fm_base_table_cell(table, "%s", "");
}

void fm_base_table_rule(fm_table *table)
{
    fm_base_table_end_row(table);
    for (int i = 0; i < table->column_count && table->status == FM_OK; i++)
        add_cell(table, NULL);
}

/* Bytes in front of a number's decimal point, or of what follows its last whole digit. */
static size_t whole_part(const char *text)
{
    return strspn(text, "+-0123456789,");
}

static struct extent measure(const fm_table *table, int column)
{
    struct extent extent = {fm_base_text_columns(table->columns[column].title), 0};
    int at_point = table->columns[column].align == FM_ALIGN_POINT;
    size_t before = 0, after = 0;
    for (size_t i = (size_t)column; i < table->cell_count; i += (size_t)table->column_count) {
        if (!table->cells[i])
            continue;
        size_t whole = at_point ? whole_part(table->cells[i]) : 0; // ASCII: bytes are columns
        size_t rest = fm_base_text_columns(table->cells[i] + whole);
        before = whole > before ? whole : before;
        after = rest > after ? rest : after;
    }
    if (before + after > extent.width)
        extent.width = before + after;
    extent.point = extent.width - after;
    return extent;
}

/* Narrows the widest columns of text until the table fits or they are all as narrow as may be. */
static void narrow(const fm_table *table, struct extent *extents, size_t columns_max)
{
    for (;;) {
        size_t total = 0;
        int widest = -1;
        for (int i = 0; i < table->column_count; i++) {
            total += extents[i].width + (i > 0 ? GAP : 0);
            if (table->columns[i].align == FM_ALIGN_LEFT && extents[i].width > CUT_COLUMNS_MIN &&
                (widest < 0 || extents[i].width > extents[widest].width))
                widest = i;
        }
        if (total <= columns_max || widest < 0)
            return;
        extents[widest].width--;
    }
}

/* Spaces are owed until text follows, so that no line ends in them. */
struct line {
    FILE *file;
    size_t owed;
};

static void put(struct line *line, const char *text, size_t bytes)
{
    if (bytes == 0)
        return;
    fprintf(line->file, "%*s", (int)line->owed, "");
    line->owed = 0;
    fwrite(text, 1, bytes, line->file);
}

static void end_line(struct line *line)
{
    fputc('\n', line->file);
    line->owed = 0;
}

/* Draws a text that is no wider than its column. */
static void put_cell(struct line *line, const char *text, fm_align align, struct extent extent)
{
    size_t before = 0, columns = fm_base_text_columns(text);
    if (align == FM_ALIGN_RIGHT)
        before = extent.width - columns;
    else if (align == FM_ALIGN_POINT)
        before = extent.point - whole_part(text);
    line->owed += before;
    put(line, text, strlen(text));
    line->owed += extent.width - before - columns;
}

static void put_rule(struct line *line, const fm_table *table, const struct extent *extents)
{
    for (int i = 0; i < table->column_count; i++) {
        for (size_t j = 0; j < extents[i].width; j++)
            put(line, "-", 1);
        line->owed += GAP;
    }
    end_line(line);
}

static void put_row(struct line *line, const fm_table *table, const struct extent *extents,
                    char *const *cells)
{
    for (int i = 0; i < table->column_count; i++) {
        put_cell(line, cells[i], table->columns[i].align, extents[i]);
        line->owed += GAP;
    }
    end_line(line);
}

static void cut(char *text, size_t width)
{
    if (fm_base_text_columns(text) > width)
        memcpy(text + fm_base_text_fit(text, width - 1), CUT_MARK, sizeof CUT_MARK);
}

static void cut_column(fm_table *table, int column, size_t width)
{
    cut(table->columns[column].title, width);
    for (size_t i = (size_t)column; i < table->cell_count; i += (size_t)table->column_count)
        if (table->cells[i])
            cut(table->cells[i], width);
}

static void draw(fm_table *table, FILE *file, int columns_max)
{
    struct extent extents[FM_TABLE_COLUMNS_MAX];
    for (int i = 0; i < table->column_count; i++)
        extents[i] = measure(table, i);
    if (columns_max > 0)
        narrow(table, extents, (size_t)columns_max);

    struct line line = {.file = file};
    for (int i = 0; i < table->column_count; i++) {
        if (table->columns[i].align == FM_ALIGN_LEFT)
            cut_column(table, i, extents[i].width);
        put_cell(&line, table->columns[i].title,
                 table->columns[i].align == FM_ALIGN_LEFT ? FM_ALIGN_LEFT : FM_ALIGN_RIGHT, extents[i]);
        line.owed += GAP;
    }
    end_line(&line);
    put_rule(&line, table, extents);
    for (size_t row = 0; row < table->cell_count; row += (size_t)table->column_count) {
        if (table->cells[row])
            put_row(&line, table, extents, table->cells + row);
        else
            put_rule(&line, table, extents);
    }
}

fm_status fm_base_table_finish(fm_table *table, void *file, int columns_max)
{
    fm_base_table_end_row(table);
    fm_status status = table->status;
    if (status == FM_OK && file && table->column_count > 0) {
        draw(table, file, columns_max);
        if (fflush(file) != 0 || ferror(file))
            status = fm_base_error_set(FM_ERR_IO, "cannot write a table");
    }
    fm_base_mem_free(table->cells);
    fm_base_arena_clear(&table->texts);
    *table = (fm_table){0};
    return status;
}
