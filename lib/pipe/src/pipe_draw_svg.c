// The Gantt chart as SVG: a row a rank, a box an op, the memory held as a strip below, the critical path underlined.
#include <math.h>
#include <string.h>

#include "fathom/mem.h"
#include "pipe_internal.h"

enum {
    LEFT = 64, // rank labels
    RIGHT = 24,
    TOP = 92,    // title, figures, legend
    BOX = 28,    // height of an op
    STRIP = 8,   // height of the memory strip
    ROW = 46,    // box, strip and the gap to the next rank
    AXIS = 40,   // time below
    WIDE = 1240, // width of the plot that is aimed at
    TONES = 8,   // lanes that are told apart by tone
};
// An op narrower than this cannot show its number; wider plots than this no viewer opens gladly.
static const double op_width_min = 15;
static const double plot_width_max = 16000;

struct chart {
    struct fm_pipe_writer writer;
    const fm_pipe_program *program;
    const fm_pipe_simulation *simulation;
    double scale; // pixels per unit of time
    double width;
    uint8_t *critical; // [ops]
};

static int tone_of(const fm_pipe_program *program, int lane)
{
    return program->lanes <= TONES ? lane : lane * TONES / program->lanes;
}

static double x_of(const struct chart *chart, double time)
{
    return LEFT + time * chart->scale;
}

// One rule a kind and tone. Lanes of a kind share a hue and differ in lightness; text is dark on light, light on dark.
static void write_colors(struct chart *chart, double darkest, double lightest)
{
    static const struct {
        const char *kind;
        int hue;
        int saturation;
    } hues[] = {{"F", 214, 72}, {"B", 142, 46}, {"I", 176, 55}, {"W", 36, 60}};
    int tones = chart->program->lanes < TONES ? chart->program->lanes : TONES;
    for (size_t i = 0; i < sizeof hues / sizeof hues[0]; i++)
        for (int tone = 0; tone < tones; tone++) {
            double lightness = darkest + (tones > 1 ? (lightest - darkest) * tone / (tones - 1) : 0);
            fm_pipe_writer_print(&chart->writer, ".%s%d{fill:hsl(%d,%d%%,%.0f%%)}.%s%d+text{fill:%s}",
                                 hues[i].kind, tone, hues[i].hue, hues[i].saturation, lightness, hues[i].kind,
                                 tone, lightness > 58 ? "#10151c" : "#fff");
        }
}

// Plain rules, no custom properties: viewers other than browsers do not know these.
struct theme {
    const char *paper, *ink, *soft, *line, *held, *edge, *path;
    double darkest, lightest; // lightness of the boxes
};

static void write_theme(struct chart *chart, const struct theme *theme)
{
    fm_pipe_writer_print(
        &chart->writer,
        "text{fill:%s}.s{fill:%s}.bg{fill:%s}.o{stroke:%s}.g{stroke:%s}.row{fill:%s}.m{fill:%s}"
        ".p{stroke:%s}.c{stroke:%s}",
        theme->ink, theme->soft, theme->paper, theme->paper, theme->line, theme->line, theme->held,
        theme->edge, theme->path);
    write_colors(chart, theme->darkest, theme->lightest);
}

static void write_style(struct chart *chart)
{
    static const struct theme light = {"#ffffff", "#1b2430", "#5b6675", "#dde3ea", "#b9c4d2",
                                       "#10151c", "#d6336c", 44,        70};
    static const struct theme dark = {"#12161c", "#e8edf3", "#98a4b3", "#2a323d", "#4d5a6b",
                                      "#f2f5f8", "#ff6b9a", 36,        64};
    fm_pipe_writer_print(
        &chart->writer,
        "<style>text{font:12px system-ui,-apple-system,'Segoe UI',sans-serif}"
        ".n{font-size:10px;text-anchor:middle;pointer-events:none}.t{font-size:17px;font-weight:600}"
        ".r{text-anchor:end}.row{fill-opacity:.45}.o{stroke-width:.8}.p{fill:none;stroke-width:1.6}"
        ".c{stroke-width:2.5}");
    write_theme(chart, &light);
    fm_pipe_writer_print(&chart->writer, "@media(prefers-color-scheme:dark){");
    write_theme(chart, &dark);
    fm_pipe_writer_print(&chart->writer, "}</style>");
}

static void write_box(struct chart *chart, const char *kind, int tone, double x, double y, double width,
                      double height, int number)
{
    fm_pipe_writer_print(&chart->writer,
                         "<rect class=\"o %s%d\" x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"%.1f\"/>",
                         kind, tone, x, y, width, height);
    int digits = number > 99 ? 3 : number > 9 ? 2 : 1;
    if (number >= 0 && width >= 6.2 * digits + 2) // digits of the 10 px face are 6 px wide
        fm_pipe_writer_print(&chart->writer, "<text class=\"n\" x=\"%.2f\" y=\"%.1f\">%d</text>",
                             x + width / 2, y + height / 2 + 3.5, number);
}

static void write_half_title(struct chart *chart, int rank, const char *what, int lane, int chunk)
{
    fm_pipe_writer_print(&chart->writer, "%s of micro-batch %d, stage %d (lane %d, chunk %d)", what,
                         fm_pipe_micro_batch(chart->program, lane, chunk),
                         fm_pipe_stage(chart->program, rank, lane), lane, chunk);
}

static void write_op(struct chart *chart, int rank, size_t i, double y)
{
    static const char *const names[FM_PIPE_KIND_COUNT] = {"forward", "backward", "input gradient",
                                                          "weight gradient", "forward"};
    const fm_pipe_program *program = chart->program;
    const fm_pipe_op *op = &program->ops[i];
    double x = x_of(chart, chart->simulation->start[i]);
    double width = x_of(chart, chart->simulation->finish[i]) - x;
    fm_pipe_writer_print(&chart->writer, "<g><title>rank %d, op %zu: ", rank, i - program->first[rank]);
    write_half_title(chart, rank, names[op->kind], op->lane, op->chunk);
    if (op->kind == FM_PIPE_FB) {
        fm_pipe_writer_print(&chart->writer, "\noverlapped with ");
        write_half_title(chart, rank, "backward", op->back_lane, op->back_chunk);
    }
    fm_pipe_writer_print(&chart->writer, "\n%.6g to %.6g, holding %.6g%s</title>",
                         chart->simulation->start[i], chart->simulation->finish[i],
                         chart->simulation->memory[i], chart->critical[i] ? ", on the critical path" : "");
    if (op->kind == FM_PIPE_FB) {
        write_box(chart, "F", tone_of(program, op->lane), x, y, width, BOX / 2.0, op->chunk);
        write_box(chart, "B", tone_of(program, op->back_lane), x, y + BOX / 2.0, width, BOX / 2.0,
                  op->back_chunk);
        fm_pipe_writer_print(
            &chart->writer,
            "<rect class=\"p\" x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"%.1f\" rx=\"2\"/>", x + 0.8,
            y + 0.8, fmax(width - 1.6, 0.4), BOX - 1.6);
    } else {
        write_box(chart, fm_pipe_kind_name((fm_pipe_kind)op->kind), tone_of(program, op->lane), x, y, width,
                  BOX, op->chunk);
    }
    if (chart->critical[i])
        fm_pipe_writer_print(&chart->writer, "<path class=\"c\" d=\"M%.2f %.1fh%.2f\"/>", x, y + BOX + 1,
                             width);
    fm_pipe_writer_print(&chart->writer, "</g>\n");
}

// The memory held, as steps from the strip's lower edge; full height is the peak of all ranks.
static void write_memory(struct chart *chart, int rank, double y)
{
    const fm_pipe_simulation *simulation = chart->simulation;
    size_t begin = chart->program->first[rank];
    size_t end = chart->program->first[rank + 1];
    double peak = simulation->memory_peak;
    fm_pipe_writer_print(&chart->writer, "<path class=\"m\" d=\"M%.2f %.1f",
                         x_of(chart, simulation->start[begin]), y + STRIP);
    for (size_t i = begin; i < end && peak > 0; i++)
        fm_pipe_writer_print(&chart->writer, "V%.2fH%.2f", y + STRIP * (1 - simulation->memory[i] / peak),
                             x_of(chart, i + 1 < end ? simulation->start[i + 1] : simulation->finish[i]));
    fm_pipe_writer_print(&chart->writer, "V%.1fz\"><title>rank %d holds up to %.6g</title></path>\n",
                         y + STRIP, rank, simulation->ranks[rank].memory_peak);
}

static void write_row(struct chart *chart, int rank)
{
    double y = TOP + (double)rank * ROW;
    fm_pipe_writer_print(
        &chart->writer,
        "<text class=\"s r\" x=\"%d\" y=\"%.1f\">rank %d</text><rect class=\"row\" x=\"%d\" y=\"%.1f\" "
        "width=\"%.2f\" height=\"%d\"/>\n",
        LEFT - 10, y + BOX / 2.0 + 4, rank, LEFT, y, chart->width, BOX);
    for (size_t i = chart->program->first[rank]; i < chart->program->first[rank + 1]; i++)
        write_op(chart, rank, i, y);
    write_memory(chart, rank, y + BOX + 3);
}

// A step of 1, 2 or 5 times a power of ten that puts a tick every 60 pixels or more.
static void write_axis(struct chart *chart)
{
    double y = TOP + (double)chart->program->ranks * ROW;
    if (chart->scale <= 0)
        return;
    double step = pow(10, floor(log10(60 / chart->scale)));
    static const double factors[] = {1, 2, 5, 10};
    for (size_t i = 0; i < 4; i++)
        if (step * factors[i] * chart->scale >= 60) {
            step *= factors[i];
            break;
        }
    for (int i = 0; i * step <= chart->simulation->makespan * (1 + 1e-9); i++)
        fm_pipe_writer_print(
            &chart->writer,
            "<path class=\"g\" d=\"M%.2f %.1fv6\"/><text class=\"s\" text-anchor=\"middle\" x=\"%.2f\" "
            "y=\"%.1f\">%.6g</text>\n",
            x_of(chart, i * step), y, x_of(chart, i * step), y + 20, i * step);
}

static void write_legend(struct chart *chart)
{
    static const char *const texts[] = {"forward", "backward", "input gradient (I)", "weight gradient (W)"};
    static const char *const kinds[] = {"F", "B", "I", "W"};
    int used[FM_PIPE_KIND_COUNT] = {0};
    for (size_t i = 0; i < fm_pipe_op_total(chart->program); i++)
        used[chart->program->ops[i].kind] = 1;
    used[FM_PIPE_B] |= used[FM_PIPE_FB];
    const int of_kind[] = {FM_PIPE_F, FM_PIPE_B, FM_PIPE_I, FM_PIPE_W};
    int tones = chart->program->lanes < TONES ? chart->program->lanes : TONES;
    double x = LEFT;
    for (int i = 0; i < 4; i++) {
        if (!used[of_kind[i]])
            continue;
        fm_pipe_writer_print(&chart->writer, "<g>");
        for (int tone = 0; tone < tones; tone++, x += 15)
            write_box(chart, kinds[i], tone, x, 62, 14, 14, -1);
        fm_pipe_writer_print(&chart->writer, "</g><text class=\"s\" x=\"%.1f\" y=\"73\">%s</text>", x + 4,
                             texts[i]);
        x += 22 + 6.3 * (double)strlen(texts[i]);
    }
    if (used[FM_PIPE_FB]) {
        write_box(chart, "F", 0, x, 62, 14, 7, -1);
        write_box(chart, "B", tones - 1, x, 69, 14, 7, -1);
        fm_pipe_writer_print(&chart->writer,
                             "<rect class=\"p\" x=\"%.1f\" y=\"62\" width=\"14\" height=\"14\" rx=\"2\"/>"
                             "<text class=\"s\" x=\"%.1f\" y=\"73\">overlapped pair</text>",
                             x, x + 19);
        x += 122;
    }
    fm_pipe_writer_print(&chart->writer,
                         "<rect class=\"m\" x=\"%.1f\" y=\"64\" width=\"14\" height=\"10\"/>"
                         "<text class=\"s\" x=\"%.1f\" y=\"73\">activations held</text>",
                         x, x + 19);
    x += 122;
    fm_pipe_writer_print(
        &chart->writer,
        "<path class=\"c\" d=\"M%.1f 69h14\"/><text class=\"s\" x=\"%.1f\" y=\"73\">critical path</text>\n",
        x, x + 19);
}

static void write_chart(struct chart *chart)
{
    const fm_pipe_program *program = chart->program;
    const fm_pipe_simulation *simulation = chart->simulation;
    // The legend alone takes about 860 pixels where all of it is needed.
    double total = fmax(LEFT + chart->width + RIGHT, 960);
    double height = TOP + (double)program->ranks * ROW + AXIS;
    fm_pipe_writer_print(&chart->writer,
                         "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" "
                         "height=\"%.0f\" role=\"img\" aria-label=\"pipeline schedule %s\">\n",
                         total, height, total, height, fm_pipe_schedule_name(program->schedule));
    write_style(chart);
    fm_pipe_writer_print(
        &chart->writer,
        "<rect class=\"bg\" width=\"100%%\" height=\"100%%\"/>\n<text class=\"t\" x=\"%d\" y=\"28\">%s, "
        "%d ranks, %d micro-batches</text>\n<text class=\"s\" x=\"%d\" y=\"48\">makespan %.6g, bubble "
        "%.1f %%, at most %.6g held on a rank</text>\n",
        LEFT, fm_pipe_schedule_name(program->schedule), program->ranks, program->micro_batches, LEFT,
        simulation->makespan, 100 * simulation->bubble_ratio, simulation->memory_peak);
    write_legend(chart);
    for (int rank = 0; rank < program->ranks; rank++)
        write_row(chart, rank);
    write_axis(chart);
    fm_pipe_writer_print(&chart->writer, "</svg>\n");
}

fm_status fm_pipe_draw_svg(const fm_pipe_program *program, const fm_pipe_simulation *simulation,
                           fm_pipe_text *out_text)
{
    if (!program || !simulation || !out_text)
        return fm_base_error_set(FM_ERR_ARG, "program, simulation and out_text must not be NULL");
    struct chart chart = {.program = program, .simulation = simulation};
    size_t ops = fm_pipe_op_total(program);
    chart.critical = fm_base_mem_zalloc(ops, 1);
    if (!chart.critical)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to draw %zu ops", ops);
    for (size_t i = 0; i < simulation->critical_count; i++)
        chart.critical[simulation->critical[i]] = 1;
    double shortest = HUGE_VAL;
    for (size_t i = 0; i < ops; i++)
        if (simulation->finish[i] > simulation->start[i])
            shortest = fmin(shortest, simulation->finish[i] - simulation->start[i]);
    if (simulation->makespan > 0)
        chart.scale = fmin(fmax(WIDE / simulation->makespan, op_width_min / shortest),
                           plot_width_max / simulation->makespan);
    chart.width = simulation->makespan * chart.scale;
    write_chart(&chart);
    fm_base_mem_free(chart.critical);
    return fm_pipe_writer_finish(&chart.writer, out_text);
}
