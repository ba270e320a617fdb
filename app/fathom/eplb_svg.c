#include "eplb_svg.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "fathom/file.h"

// Two panels, one above the other; user units are pixels at the drawing's own size.
enum {
    WIDTH = 960,
    HEIGHT = 640,
    LEFT = 64,
    RIGHT = 24,
    PANEL = WIDTH - LEFT - RIGHT,
    TOP_GPUS = 88,
    TOP_LAYERS = 388,
    PANEL_HEIGHT = 200,
};

static const char head[] =
    "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" role=\"img\" "
    "aria-labelledby=\"t\">\n"
    "<title id=\"t\">Load of the GPUs before and after expert placement</title>\n"
    "<style>\n"
    "text{font:13px "
    "system-ui,sans-serif;fill:#1c2330}.soft{fill:#5b6472}.title{font-size:16px;font-weight:600}"
    ".page{fill:#fff}.grid{stroke:#d8dde6}.old{fill:#c2c8d2}.new{fill:#2563eb}.line{fill:none;stroke-width:2}"
    ".oldline{stroke:#c2c8d2}.newline{stroke:#2563eb}.mean{stroke:#d97706;stroke-width:1.5;stroke-dasharray:"
    "5 4}"
    ".end{text-anchor:end}.mid{text-anchor:middle}\n"
    "@media(prefers-color-scheme:dark){text{fill:#e6e9ef}.soft{fill:#9aa4b2}.page{fill:#12161d}.grid{stroke:#"
    "2c3442}"
    ".old{fill:#4b5565}.new{fill:#60a5fa}.oldline{stroke:#4b5565}.newline{stroke:#60a5fa}.mean{stroke:#"
    "fbbf24}}\n"
    "</style>\n"
    "<rect class=\"page\" width=\"%d\" height=\"%d\"/>\n";

double fm_app_eplb_ratio(const double *load, int count, double mean)
{
    double worst = 0;
    for (int i = 0; i < count; i++)
        worst = fmax(worst, load[i]);
    return mean > 0 ? worst / mean : 1;
}

// A round step that divides a range into four to eight parts.
static double step_for(double range)
{
    double step = pow(10, floor(log10(range / 4)));
    if (range / step > 20)
        return 5 * step;
    return range / step > 8 ? 2 * step : step;
}

static double y_of(double value, double low, double high, int top)
{
    return top + PANEL_HEIGHT * (1 - (value - low) / (high - low));
}

static void draw_grid(FILE *svg, double low, double high, int top)
{
    double step = step_for(high - low);
    int first = (int)ceil(low / step - 1e-9);
    int last = (int)floor(high / step + 1e-9);
    for (int i = first; i <= last; i++) {
        double value = i * step;
        double y = y_of(value, low, high, top);
        fprintf(svg, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>", LEFT,
                WIDTH - RIGHT, y, y);
        fprintf(svg, "<text class=\"soft end\" x=\"%d\" y=\"%.1f\">%.3g</text>\n", LEFT - 8, y + 4, value);
    }
}

static void draw_legend(FILE *svg, const struct fm_eplb_view *view)
{
    fprintf(
        svg,
        "<rect class=\"old\" x=\"%d\" y=\"34\" width=\"12\" height=\"12\" rx=\"2\"/><text x=\"%d\" "
        "y=\"45\">%s</text>\n"
        "<rect class=\"new\" x=\"%d\" y=\"34\" width=\"12\" height=\"12\" rx=\"2\"/><text x=\"%d\" "
        "y=\"45\">%s</text>\n"
        "<line class=\"mean\" x1=\"%d\" x2=\"%d\" y1=\"40\" y2=\"40\"/><text x=\"%d\" y=\"45\">mean</text>\n",
        LEFT, LEFT + 18, view->before_name, LEFT + 140, LEFT + 158, view->after_name, LEFT + 216, LEFT + 240,
        LEFT + 248);
}

static void draw_gpus(FILE *svg, const struct fm_eplb_view *view)
{
    const double *before = view->before + (size_t)view->layer * (size_t)view->gpus;
    const double *after = view->after + (size_t)view->layer * (size_t)view->gpus;
    double mean = view->mean[view->layer];
    double scale = mean > 0 ? mean : 1;
    double high = fmax(1.2, 1.05 * fmax(fm_app_eplb_ratio(before, view->gpus, mean),
                                        fm_app_eplb_ratio(after, view->gpus, mean)));
    fprintf(svg, "<text class=\"title\" x=\"%d\" y=\"%d\">Layer %d: load of each GPU over the mean</text>\n",
            LEFT, TOP_GPUS - 14, view->layer);
    draw_grid(svg, 0, high, TOP_GPUS);
    double width = (double)PANEL / view->gpus;
    double bar = fmin(width * 0.8, 28);
    for (int gpu = 0; gpu < view->gpus; gpu++) {
        double x = LEFT + width * gpu + (width - bar) / 2;
        double old_y = y_of(before[gpu] / scale, 0, high, TOP_GPUS);
        double new_y = y_of(after[gpu] / scale, 0, high, TOP_GPUS);
        int bottom = TOP_GPUS + PANEL_HEIGHT;
        fprintf(svg,
                "<g><title>GPU %d: %.3f, then %.3f</title>"
                "<rect class=\"old\" x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\"/>"
                "<rect class=\"new\" x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\"/></g>\n",
                gpu, before[gpu] / scale, after[gpu] / scale, x, old_y, bar, bottom - old_y, x + bar * 0.25,
                new_y, bar * 0.5, bottom - new_y);
    }
    double y = y_of(1, 0, high, TOP_GPUS);
    fprintf(svg, "<line class=\"mean\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>\n", LEFT, WIDTH - RIGHT,
            y, y);
    fprintf(svg, "<text class=\"soft mid\" x=\"%d\" y=\"%d\">GPU 0 to %d</text>\n", LEFT + PANEL / 2,
            TOP_GPUS + PANEL_HEIGHT + 20, view->gpus - 1);
}

static void draw_line(FILE *svg, const struct fm_eplb_view *view, const double *load, const char *style,
                      double high)
{
    fprintf(svg, "<polyline class=\"line %sline\" points=\"", style);
    for (int layer = 0; layer < view->layers; layer++) {
        double ratio =
            fm_app_eplb_ratio(load + (size_t)layer * (size_t)view->gpus, view->gpus, view->mean[layer]);
        double x = LEFT + PANEL * (layer + 0.5) / view->layers;
        fprintf(svg, "%.1f,%.1f ", x, y_of(ratio, 1, high, TOP_LAYERS));
    }
    fprintf(svg, "\"/>\n");
    for (int layer = 0; layer < view->layers; layer++) {
        double ratio =
            fm_app_eplb_ratio(load + (size_t)layer * (size_t)view->gpus, view->gpus, view->mean[layer]);
        double x = LEFT + PANEL * (layer + 0.5) / view->layers;
        fprintf(
            svg,
            "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"><title>layer %d: %.4f</title></circle>\n",
            style, x, y_of(ratio, 1, high, TOP_LAYERS), layer, ratio);
    }
}

static void draw_layers(FILE *svg, const struct fm_eplb_view *view)
{
    double high = 1.1;
    for (int layer = 0; layer < view->layers; layer++) {
        size_t first = (size_t)layer * (size_t)view->gpus;
        high = fmax(high, fm_app_eplb_ratio(view->before + first, view->gpus, view->mean[layer]) * 1.02);
        high = fmax(high, fm_app_eplb_ratio(view->after + first, view->gpus, view->mean[layer]) * 1.02);
    }
    fprintf(svg,
            "<text class=\"title\" x=\"%d\" y=\"%d\">Every layer: the busiest GPU over the mean</text>\n",
            LEFT, TOP_LAYERS - 14);
    draw_grid(svg, 1, high, TOP_LAYERS);
    draw_line(svg, view, view->before, "old", high);
    draw_line(svg, view, view->after, "new", high);
    fprintf(svg, "<text class=\"soft mid\" x=\"%d\" y=\"%d\">layer 0 to %d</text>\n", LEFT + PANEL / 2,
            TOP_LAYERS + PANEL_HEIGHT + 20, view->layers - 1);
}

fm_status fm_app_eplb_svg_write(const char *path, const struct fm_eplb_view *view)
{
    char *text = NULL;
    size_t length = 0;
    FILE *svg = open_memstream(&text, &length);
    if (!svg)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a drawing");
    fprintf(svg, head, WIDTH, HEIGHT, WIDTH, HEIGHT, WIDTH, HEIGHT);
    draw_legend(svg, view);
    draw_gpus(svg, view);
    draw_layers(svg, view);
    fputs("</svg>\n", svg);
    fm_status status = fclose(svg) == 0 ? FM_OK : fm_base_error_set(FM_ERR_NOMEM, "no memory for a drawing");
    if (status == FM_OK)
        status = fm_base_file_save(path, text, length);
    free(text);
    return status;
}
