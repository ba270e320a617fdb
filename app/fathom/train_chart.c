#include "train_chart.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "fathom/file.h"

enum { WIDTH = 720, HEIGHT = 320, LEFT = 52, RIGHT = 16, TOP = 16, BOTTOM = 40, POINTS_MAX = 700 };

/** Where values lie on the drawing. */
struct scale {
    double low, high;
    int64_t count;
};

static double x_of(const struct scale *scale, int64_t step)
{
    return LEFT +
           (double)(WIDTH - LEFT - RIGHT) * (double)step / (double)(scale->count > 1 ? scale->count - 1 : 1);
}

static double y_of(const struct scale *scale, double loss)
{
    return TOP + (HEIGHT - TOP - BOTTOM) * (scale->high - loss) / (scale->high - scale->low);
}

static void axes(FILE *out, const struct scale *scale)
{
    double span = scale->high - scale->low, tick = span > 4 ? 1 : span > 2 ? 0.5 : span > 0.8 ? 0.25 : 0.1;
    for (double at = ceil(scale->low / tick) * tick; at <= scale->high; at += tick)
        fprintf(out,
                "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" class=\"grid\"/>"
                "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.*f</text>\n",
                LEFT, WIDTH - RIGHT, y_of(scale, at), y_of(scale, at), LEFT - 8, y_of(scale, at) + 4,
                tick < 0.5 ? 2 : 1, at);
    for (int i = 0; i <= 4; i++) {
        int64_t step = (scale->count - 1) * i / 4;
        fprintf(out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%" PRId64 "</text>\n",
                x_of(scale, step), HEIGHT - 18, step + 1);
    }
    fprintf(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">step</text>\n", WIDTH - RIGHT, HEIGHT - 2);
}

// The mean of up to `window` losses that end with each step; a window of 1 is the losses themselves.
static void curve(FILE *out, const struct scale *scale, const float *losses, int window, const char *style)
{
    int64_t every = scale->count / POINTS_MAX + 1;
    fprintf(out, "<polyline class=\"%s\" points=\"", style);
    for (int64_t i = 0; i < scale->count; i += every) {
        int64_t from = i - window + 1 > 0 ? i - window + 1 : 0;
        double sum = 0;
        for (int64_t j = from; j <= i; j++)
            sum += (double)losses[j];
        fprintf(out, "%.1f,%.1f ", x_of(scale, i), y_of(scale, sum / (double)(i - from + 1)));
    }
    fputs("\"/>\n", out);
}

fm_status fm_app_train_chart(const char *folder, const float *losses, int64_t count, double held_out)
{
    struct scale scale = {held_out, held_out, count};
    char path[4096], *text = NULL;
    size_t length = 0;
    for (int64_t i = 0; i < count; i++) {
        scale.low = fmin(scale.low, (double)losses[i]);
        scale.high = fmax(scale.high, (double)losses[i]);
    }
    scale.low -= 0.1;
    scale.high += 0.1;
    FILE *out = open_memstream(&text, &length);
    if (!out)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a drawing");
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" data-left=\"%d\" "
            "data-right=\"%d\" role=\"img\" aria-label=\"loss "
            "curve\" "
            "style=\"color:var(--ink,#1c2330)\">\n<title>Loss, nats per token</title>\n"
            "<style>text{font:12px system-ui,sans-serif;fill:currentColor;opacity:.75}"
            ".grid{stroke:currentColor;opacity:.15}.each{fill:none;stroke:#5b8def;opacity:.35}"
            ".mean{fill:none;stroke:#2f6fed;stroke-width:2}.held{stroke:#e0772f;stroke-width:1.5;stroke-"
            "dasharray:6 "
            "4}</style>\n",
            WIDTH, HEIGHT, LEFT, WIDTH - RIGHT);
    axes(out, &scale);
    curve(out, &scale, losses, 1, "each");
    curve(out, &scale, losses, 20, "mean");
    fprintf(out,
            "<line class=\"held\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>"
            "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">held out: %.2f nats</text>\n</svg>\n",
            LEFT, WIDTH - RIGHT, y_of(&scale, held_out), y_of(&scale, held_out), WIDTH - RIGHT - 4,
            y_of(&scale, held_out) + 16, held_out);
    if (fclose(out) != 0) {
        free(text);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a drawing");
    }
    snprintf(path, sizeof path, "%s/loss.svg", folder);
    fm_status status = fm_base_file_save(path, text, length);
    free(text);
    return status;
}
