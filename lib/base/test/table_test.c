#include "fm_test.h"
#include "fm_gen.h"

#include "fathom/table.h"

/* Ends the table and returns what it wrote, in a buffer of its own. */
static const char *finished(fm_table *table, int columns_max)
{
    static char text[100000];
    memset(text, 0, sizeof text);
    FILE *file = fmemopen(text, sizeof text - 1, "w");
    assert_non_null(file);
    assert_ok(fm_base_table_finish(table, file, columns_max));
    fclose(file);
    assert_null(table->cells);
    return text;
}

static void three_columns(fm_table *table)
{
    fm_base_table_column(table, "rank", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(table, "expert", NULL, FM_ALIGN_LEFT);
    fm_base_table_column(table, "time", "ms", FM_ALIGN_POINT);
}

static void columns_are_aligned(void **state)
{
    (void)state;
    fm_table table = {0};
    three_columns(&table);
    fm_base_table_cell(&table, "%d", 0);
    fm_base_table_cell(&table, "shared");
    fm_base_table_cell(&table, "%.1f", 12.5);
    fm_base_table_cell(&table, "%d", 10);
    fm_base_table_cell(&table, "routed %d", 7);
    fm_base_table_cell(&table, "%d", -103);
    fm_base_table_cell(&table, "%d", 2);
    fm_base_table_end_row(&table);
    fm_base_table_end_row(&table); // nothing more
    fm_base_table_rule(&table);
    fm_base_table_cell(&table, "all");
    fm_base_table_cell(&table, "%s", "");
    fm_base_table_cell(&table, ".25 x");
    assert_string_equal(finished(&table, 0), "rank  expert    time (ms)\n"
                                             "----  --------  ---------\n"
                                             "   0  shared      12.5\n"
                                             "  10  routed 7  -103\n"
                                             "   2\n"
                                             "----  --------  ---------\n"
                                             " all                .25 x\n");
}

static void wide_and_unsafe_text_keeps_its_columns(void **state)
{
    (void)state;
    fm_table table = {0};
    fm_base_table_column(&table, "名", NULL, FM_ALIGN_LEFT);
    fm_base_table_column(&table, "n", NULL, FM_ALIGN_RIGHT);
    fm_base_table_cell(&table, "模型");
    fm_base_table_cell(&table, "1");
    fm_base_table_cell(&table, "é\033[2J\xFF");
    fm_base_table_cell(&table, "10");
    assert_string_equal(finished(&table, 0), "名       n\n"
                                             "------  --\n"
                                             "模型     1\n"
                                             "é [2J?  10\n");
}

static void narrow_screens_cut_text(void **state)
{
    (void)state;
    fm_table table = {0};
    three_columns(&table);
    fm_base_table_cell(&table, "1000");
    fm_base_table_cell(&table, "deepseek-ai/模模型");
    fm_base_table_cell(&table, "1234567890.5");
    const char *text = finished(&table, 4 + 2 + 14 + 2 + 12);
    // The second wide character would begin in the last column, where the mark is.
    assert_string_equal(text, "rank  expert             time (ms)\n"
                              "----  --------------  ------------\n"
                              "1000  deepseek-ai/…   1234567890.5\n");
    three_columns(&table);
    fm_base_table_cell(&table, "1000");
    fm_base_table_cell(&table, "abcdefghijk");
    fm_base_table_cell(&table, "5");
    assert_string_equal(finished(&table, 10),
                        "rank  expert    time (ms)\n" // numbers are never cut, nor text below 8
                        "----  --------  ---------\n"
                        "1000  abcdefg…          5\n");
}

static void errors_stick(void **state)
{
    (void)state;
    fm_table table = {0};
    fm_base_table_cell(&table, "x");
    three_columns(&table);
    assert_fails(fm_base_table_finish(&table, stdout, 0), FM_ERR_ARG, "without a column");
    three_columns(&table);
    fm_base_table_cell(&table, "x");
    fm_base_table_column(&table, "late", NULL, FM_ALIGN_LEFT);
    assert_fails(fm_base_table_finish(&table, stdout, 0), FM_ERR_ARG, "\"late\" after 3 columns and 1 cells");
    for (int i = 0; i < 33; i++)
        fm_base_table_column(&table, "c", NULL, FM_ALIGN_LEFT);
    assert_fails(fm_base_table_finish(&table, stdout, 0), FM_ERR_ARG, "at most 32");
    three_columns(&table);
    FILE *full = fopen("/dev/full", "w");
    assert_non_null(full);
    assert_fails(fm_base_table_finish(&table, full, 0), FM_ERR_IO, "cannot write");
    fclose(full);
    assert_ok(fm_base_table_finish(&table, NULL, 0)); // no columns, nowhere
}

static fm_status build(void *context)
{
    (void)context;
    fm_table table = {0};
    three_columns(&table);
    for (int i = 0; i < 1000; i++)
        fm_base_table_cell(&table, "%d", i);
    fm_base_table_rule(&table);
    return fm_base_table_finish(&table, NULL, 0);
}

static void refused_allocations_leave_nothing(void **state)
{
    (void)state;
    fm_test_each_alloc_fails(build, NULL);
}

static void no_line_is_too_wide(fm_gen *gen)
{
    static const char *const pieces[] = {"a", "model", " ", "é", "模", "u\u0308", "12.5", "-3", "."};
    fm_table table = {0};
    int columns = (int)fm_gen_int(gen, 1, 6);
    for (int i = 0; i < columns; i++)
        fm_base_table_column(&table, "title", NULL, FM_ALIGN_LEFT);
    int cells = (int)fm_gen_int(gen, 0, 40);
    for (int i = 0; i < cells; i++) {
        char text[200] = "";
        size_t length = 0;
        for (int64_t j = fm_gen_size(gen, 0, 20); j > 0; j--)
            length +=
                (size_t)snprintf(text + length, sizeof text - length, "%s", pieces[fm_gen_int(gen, 0, 8)]);
        fm_base_table_cell(&table, "%s", text);
    }
    // As wide as the narrowest that these columns can be, or wider.
    int columns_max = columns * 8 + (columns - 1) * 2 + (int)fm_gen_int(gen, 0, 50);
    char text[100000];
    snprintf(text, sizeof text, "%s", finished(&table, columns_max));
    int lines = 0;
    for (char *rest = text, *line; (line = strsep(&rest, "\n")) && rest; lines++) {
        assert_true(fm_base_text_columns(line) <= (size_t)columns_max);
        assert_true(!*line || line[strlen(line) - 1] != ' ');
    }
    assert_int_equal(lines, 2 + (cells + columns - 1) / columns);
}

static void lines(void **state)
{
    (void)state;
    fm_gen_property(300, no_line_is_too_wide);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(columns_are_aligned),
        cmocka_unit_test(wide_and_unsafe_text_keeps_its_columns),
        cmocka_unit_test(narrow_screens_cut_text),
        cmocka_unit_test(errors_stick),
        cmocka_unit_test(refused_allocations_leave_nothing),
        cmocka_unit_test(lines),
    };
    return fm_test_run("base.table", tests);
}
