/**
 * @file table.h
 * Tables for people, made of text. (What programs read is JSON: doc.h.)
 *
 *     fm_table table = {0};
 *     fm_base_table_column(&table, "rank", NULL, FM_ALIGN_RIGHT);
 *     fm_base_table_column(&table, "expert", NULL, FM_ALIGN_LEFT);
 *     fm_base_table_column(&table, "time", "ms", FM_ALIGN_POINT);
 *     for (...) {
 *         fm_base_table_cell(&table, "%d", rank);
 *         fm_base_table_cell(&table, "%s", name);
 *         fm_base_table_cell(&table, "%.3g", ms);
 *     }
 *     fm_status status = fm_base_table_finish(&table, stdout, 0);     // writes and frees
 *
 *     rank  expert    time (ms)
 *     ----  --------  ---------
 *        0  shared         12.5
 *        1  routed 7      103
 *
 * Errors stick: check fm_base_table_finish() alone, and always call it, for it frees. One table belongs to one thread.
 */
#ifndef FATHOM_TABLE_H
#define FATHOM_TABLE_H

#include <stddef.h>

#include "fathom/mem.h"
#include "fathom/status.h"
#include "fathom/text.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fm_align {
    FM_ALIGN_LEFT,  /**< text; may be cut to make the table fit */
    FM_ALIGN_RIGHT, /**< whole numbers and what ends in equal units */
    FM_ALIGN_POINT  /**< numbers, whose decimal points (or last whole digits) stand below each other */
} fm_align;

/** More columns do not fit on a screen. */
#define FM_TABLE_COLUMNS_MAX 32

/** Zero-initialise; all of it is private. */
typedef struct fm_table {
    fm_status status; /**< the first error */
    int column_count;
    size_t cell_count; /**< a row is column_count of them */
    size_t cell_capacity;
    char **cells; /**< NULL as a row's first: a rule */
    struct {
        char *title;
        fm_align align;
    } columns[FM_TABLE_COLUMNS_MAX];
    fm_arena texts;
} fm_table;

/** Adds a column, before the first cell. `unit` (or NULL) follows the title in parentheses. */
FM_API void fm_base_table_column(fm_table *table, const char *title, const char *unit, fm_align align);
/** The next cell; rows fill up from left to right. Text from outside is made safe by fm_base_text_clean(). */
FM_API void fm_base_table_cell(fm_table *table, const char *format, ...) FM_PRINTF(2, 3);
/** Leaves the rest of the row empty; nothing at the beginning of one. */
FM_API void fm_base_table_end_row(fm_table *table);
/** Ends the row and puts a line below it: before a sum. */
FM_API void fm_base_table_rule(fm_table *table);
/**
 * Writes the table to `file` (a FILE *; NULL: write nowhere) and frees it. Where it is wider than `columns_max` (0: no
 * limit; fm_base_text_terminal() tells a terminal's), the widest left-aligned columns are cut, not below 8 columns each.
 * FM_ERR_ARG (columns misused), FM_ERR_NOMEM, FM_ERR_IO; of the first two nothing is written.
 */
FM_API FM_MUST_USE fm_status fm_base_table_finish(fm_table *table, void *file, int columns_max);

#ifdef __cplusplus
}
#endif
#endif
