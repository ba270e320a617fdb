// A Gantt chart in letters.
#include <stdio.h>
#include <string.h>

#include "fathom/mem.h"
#include "pipe_internal.h"

enum { LABEL_COLUMNS = 5, COLUMNS_MIN = 20 };

// 256-colour codes, background and text: forward blue, full backward green, input gradient teal, weight gradient grey,
// pair purple; each readable on a dark and on a light terminal since both colours are set.
static const char *const colors[FM_PIPE_KIND_COUNT] = {
    "48;5;68;38;5;231", "48;5;71;38;5;231", "48;5;37;38;5;231", "48;5;245;38;5;231", "48;5;97;38;5;231"};

struct cell {
    char letter;
    int kind; // -1: idle
};

// Odd lanes in small letters: with two directions, or the two arms of a V, that is the second.
static char letter_of(fm_pipe_kind kind, int lane)
{
    char letter = kind == FM_PIPE_FB ? 'F' : fm_pipe_kind_name(kind)[0];
    return (char)(lane % 2 ? letter - 'A' + 'a' : letter);
}

// "F3", "F3+b1" for a pair; shortened to what fits.
static void write_label(const fm_pipe_op *op, struct cell *cells, size_t width)
{
    char label[48];
    char letter = letter_of((fm_pipe_kind)op->kind, op->lane);
    int length = snprintf(label, sizeof label, "%c%d", letter, op->chunk);
    if (op->kind == FM_PIPE_FB)
        length += snprintf(label + length, sizeof label - (size_t)length, "+%c%d",
                           letter_of(FM_PIPE_B, op->back_lane), op->back_chunk);
    if ((size_t)length > width) {
        label[0] = op->kind == FM_PIPE_FB ? '+' : letter;
        length = 1;
    }
    for (size_t i = 0; i < width; i++)
        cells[i] = (struct cell){(char)(i < (size_t)length ? label[i] : '-'), op->kind};
}

static void print_cells(struct fm_pipe_writer *writer, const struct cell *cells, size_t width, int color)
{
    int present = -1;
    for (size_t i = 0; i < width; i++) {
        if (color && cells[i].kind != present) {
            fm_pipe_writer_print(writer, "\033[0m");
            if (cells[i].kind >= 0)
                fm_pipe_writer_print(writer, "\033[%sm", colors[cells[i].kind]);
            present = cells[i].kind;
        }
        fm_pipe_writer_print(writer, "%c", color && cells[i].letter == '-' ? ' ' : cells[i].letter);
    }
    fm_pipe_writer_print(writer, "%s\n", color ? "\033[0m" : "");
}

fm_status fm_pipe_draw_text(const fm_pipe_program *program, const fm_pipe_simulation *simulation, int columns,
                            int color, fm_pipe_text *out_text)
{
    if (!program || !simulation || !out_text)
        return fm_base_error_set(FM_ERR_ARG, "program, simulation and out_text must not be NULL");
    if (columns < COLUMNS_MIN)
        return fm_base_error_set(FM_ERR_ARG, "columns is %d; expected at least %d", columns, COLUMNS_MIN);
    size_t width = (size_t)(columns - LABEL_COLUMNS);
    struct cell *cells = fm_base_mem_alloc(width * sizeof *cells);
    if (!cells)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %d columns", columns);
    struct fm_pipe_writer writer = {0};
    double scale = simulation->makespan > 0 ? (double)width / simulation->makespan : 0;
    for (int rank = 0; rank < program->ranks; rank++) {
        for (size_t i = 0; i < width; i++)
            cells[i] = (struct cell){' ', -1};
        for (size_t i = program->first[rank]; i < program->first[rank + 1]; i++) {
            size_t begin = (size_t)(simulation->start[i] * scale + 0.5);
            size_t end = (size_t)(simulation->finish[i] * scale + 0.5);
            if (end > begin && end <= width)
                write_label(&program->ops[i], &cells[begin], end - begin);
        }
        fm_pipe_writer_print(&writer, "%4d ", rank);
        print_cells(&writer, cells, width, color);
    }
    fm_base_mem_free(cells);
    return fm_pipe_writer_finish(&writer, out_text);
}
