#include "fathom/progress.h"

#include "fathom/clock.h"
#include "fathom/text.h"
#include "log_line.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NS_PER_S UINT64_C(1000000000)
// Ten frames a second look smooth and cost a terminal nothing.
#define BAR_INTERVAL_NS      (NS_PER_S / 10)
#define LINE_INTERVAL_NS     (10 * NS_PER_S)
#define LINE_INTERVAL_MIN_NS NS_PER_S
// The rate shown forgets what was longer ago than this: long enough for a steady figure, short enough to see a stall.
#define RATE_SECONDS     5.0
#define RATE_SECONDS_MIN 0.05

enum {
    BAR_COLUMNS_MAX = 30,
    BAR_COLUMNS_MIN = 8, // below, the percentage says more
    COLUMNS_DEFAULT = 80,
    LINE_BYTES = 1024,
};

static uint64_t now_ns(const fm_progress *progress)
{
    const fm_progress_output *output = &progress->output;
    return output->clock_ns ? output->clock_ns(output->clock) : fm_base_clock_ns();
}

static void copy_text(char *to, size_t size, const char *from)
{
    snprintf(to, size, "%.*s", (int)size - 1, from);
    fm_base_text_clean(to);
}

void fm_base_progress_begin(fm_progress *progress, const char *label, const char *unit, uint64_t total)
{
    const char *terminal = getenv("TERM");
    const char *no_colour = getenv("NO_COLOR");
    fm_progress_output output = {.fd = STDERR_FILENO};
    output.bar = isatty(STDERR_FILENO) && terminal && strcmp(terminal, "dumb") != 0;
    output.colour = !no_colour || !no_colour[0];
    fm_base_progress_begin_on(progress, &output, label, unit, total);
}

void fm_base_progress_begin_on(fm_progress *progress, const fm_progress_output *output, const char *label,
                               const char *unit, uint64_t total)
{
    *progress = (fm_progress){.output = *output, .total = total};
    copy_text(progress->label, sizeof progress->label, label);
    copy_text(progress->unit, sizeof progress->unit, unit);
    progress->begun_ns = progress->shown_ns = now_ns(progress);
}

static fm_text amount(const fm_progress *progress, double value)
{
    return strcmp(progress->unit, "B") == 0 ? fm_base_text_bytes(value) : fm_base_text_count(value);
}

/* " tokens", or nothing after bytes, whose unit is in the number. */
static fm_text unit_suffix(const fm_progress *progress)
{
    fm_text text;
    int is_bytes = strcmp(progress->unit, "B") == 0;
    snprintf(text.text, sizeof text.text, "%s%s", is_bytes ? "" : " ", is_bytes ? "" : progress->unit);
    return text;
}

/* 100 only when all is done. */
static int percent(const fm_progress *progress)
{
    if (progress->done >= progress->total)
        return 100;
    int floored = (int)(100.0 * (double)progress->done / (double)progress->total);
    return floored < 100 ? floored : 99;
}

/* "  42 %  ETA 1 min 02 s  1.26 M/3.00 M tokens  24.1 k tokens/s": what matters least comes last, where a narrow screen
 * cuts. `gap` stands between the parts. */
static int describe(const fm_progress *progress, const char *gap, char *out_text, size_t size)
{
    char share[64] = "", left[160] = "", of_total[160] = "", rate[200] = "";
    fm_text unit = unit_suffix(progress);
    if (progress->total) {
        snprintf(share, sizeof share, "%3d %%%s", percent(progress), gap);
        snprintf(of_total, sizeof of_total, "/%s", amount(progress, (double)progress->total).text);
    }
    if (progress->total > progress->done && progress->rate > 0) {
        double ns = (double)(progress->total - progress->done) / progress->rate * (double)NS_PER_S;
        snprintf(left, sizeof left, "ETA %s%s", fm_base_text_duration(ns).text, gap);
    }
    if (progress->rate > 0)
        snprintf(rate, sizeof rate, "%s%s%s/s", gap, amount(progress, progress->rate).text, unit.text);
    return snprintf(out_text, size, "%s%s%s%s%s%s", share, left,
                    amount(progress, (double)progress->done).text, of_total, unit.text, rate);
}

static void draw_bar(const fm_progress *progress)
{
    int columns =
        progress->output.columns ? progress->output.columns : fm_base_text_terminal(progress->output.fd);
    if (columns <= 0)
        columns = COLUMNS_DEFAULT;
    columns--; // a full last column would wrap
    char description[LINE_BYTES / 2], line[LINE_BYTES];
    describe(progress, "  ", description, sizeof description);
    int room =
        columns - (int)fm_base_text_columns(progress->label) - (int)fm_base_text_columns(description) - 4;
    if (progress->total && room >= BAR_COLUMNS_MIN) {
        // Fits whole, so that colours, which take no columns, need no cutting.
        fm_text bar = fm_base_text_bar((double)progress->done / (double)progress->total,
                                       room < BAR_COLUMNS_MAX ? room : BAR_COLUMNS_MAX);
        snprintf(line, sizeof line, "\r%s |%s%s%s| %s\033[K", progress->label,
                 progress->output.colour ? "\033[32m" : "", bar.text,
                 progress->output.colour ? "\033[0m" : "", description);
    } else {
        char plain[LINE_BYTES];
        snprintf(plain, sizeof plain, "%s  %s", progress->label, description);
        plain[fm_base_text_fit(plain, (size_t)columns)] = 0;
        snprintf(line, sizeof line, "\r%.*s\033[K", LINE_BYTES - 8, plain);
    }
    fm_base_log_put(progress->output.fd, line, strlen(line));
    if (progress->output.fd == STDERR_FILENO)
        fm_base_log_bar(1);
}

static void write_line(const fm_progress *progress)
{
    char description[LINE_BYTES / 2], line[LINE_BYTES];
    describe(progress, ", ", description, sizeof description);
    int length =
        snprintf(line, sizeof line, "%s: %s\n", progress->label, description + strspn(description, " "));
    fm_base_log_put(progress->output.fd, line, (size_t)length);
}

/* Whether it is time to show the progress again. */
static int is_due(const fm_progress *progress, uint64_t since_ns)
{
    if (progress->output.bar)
        return since_ns >= BAR_INTERVAL_NS || progress->shown_ns == progress->begun_ns;
    if (since_ns < LINE_INTERVAL_MIN_NS)
        return 0;
    if (since_ns >= LINE_INTERVAL_NS || progress->label_changed)
        return 1;
    double tenth = (double)progress->total / 10;
    return progress->total &&
           (int)((double)progress->done / tenth) > (int)((double)progress->shown_done / tenth);
}

static void show(fm_progress *progress, uint64_t now)
{
    double seconds = (double)(now - progress->shown_ns) / (double)NS_PER_S;
    // The first frame of a bar comes at once, too early to tell a rate.
    if (seconds >= RATE_SECONDS_MIN && progress->done >= progress->shown_done) {
        double rate = (double)(progress->done - progress->shown_done) / seconds;
        // A first-order low-pass filter; the first rate is taken as it is.
        double weight = progress->rate > 0 ? seconds / (seconds + RATE_SECONDS) : 1;
        progress->rate += weight * (rate - progress->rate);
    }
    progress->shown_ns = now;
    progress->shown_done = progress->done;
    progress->label_changed = 0;
    if (progress->output.bar)
        draw_bar(progress);
    else
        write_line(progress);
}

void fm_base_progress_update(fm_progress *progress, uint64_t done)
{
    progress->done = done;
    uint64_t now = now_ns(progress);
    if (is_due(progress, now - progress->shown_ns))
        show(progress, now);
}

void fm_base_progress_label(fm_progress *progress, const char *label)
{
    copy_text(progress->label, sizeof progress->label, label);
    progress->label_changed = 1;
}

void fm_base_progress_finish(fm_progress *progress, fm_status status)
{
    double ns = (double)(now_ns(progress) - progress->begun_ns);
    fm_text done = amount(progress, (double)progress->done), unit = unit_suffix(progress),
            time = fm_base_text_duration(ns);
    char line[LINE_BYTES], rest[LINE_BYTES / 2] = "";
    if (status == FM_OK && ns > 0)
        snprintf(rest, sizeof rest, " (%s%s/s)",
                 amount(progress, (double)progress->done * (double)NS_PER_S / ns).text, unit.text);
    else if (progress->total)
        snprintf(rest, sizeof rest, ", at %d %%", percent(progress));
    int length =
        snprintf(line, sizeof line, "%s%s: %s, %s%s in %s%s\n", progress->output.bar ? "\r\033[K" : "",
                 progress->label, status == FM_OK ? "done" : fm_base_status_text(status), done.text,
                 unit.text, time.text, rest);
    fm_base_log_put(progress->output.fd, line, (size_t)length);
    if (progress->output.bar && progress->output.fd == STDERR_FILENO)
        fm_base_log_bar(0);
}
