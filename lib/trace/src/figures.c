/* Figures of a report by name, and conditions over them: for gates. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "condition.h"
#include "fathom/trace_report.h"

static double us(int64_t ns)
{
    return (double)ns / 1000;
}

static double percent(int64_t part, int64_t whole)
{
    return whole > 0 ? 100.0 * (double)part / (double)whole : 0;
}

/* X(name, value): `o` is the overlap by name, `r` the report. */
#define FIGURES(X)                                                               \
    X(span_us, us(o->span_ns))                                                   \
    X(busy_us, us(o->busy_ns))                                                   \
    X(idle_us, us(o->idle_ns))                                                   \
    X(idle_pct, percent(o->idle_ns, o->span_ns))                                 \
    X(compute_us, us(o->compute_ns))                                             \
    X(comm_us, us(o->communication_ns))                                          \
    X(overlap_us, us(o->overlap_ns))                                             \
    X(overlap_pct, percent(o->overlap_ns, o->communication_ns))                  \
    X(exposed_us, us(o->exposed_ns))                                             \
    X(exposed_pct, percent(o->exposed_ns, o->span_ns))                           \
    X(wait_us, us(r->path.kind_ns[FM_TRACE_WAIT]))                               \
    X(launch_gap_pct, percent(r->compute_gaps.short_ns, o->span_ns))             \
    X(comm_sm_pct, percent(r->sm_time.communication_ns, r->sm_time.capacity_ns)) \
    X(findings, (double)r->finding_count)

fm_status fm_trace_report_figure(const fm_trace_report *report, const char *name, double *out_value)
{
    const fm_trace_overlap *o = &report->by_name;
    const fm_trace_report *r = report;
#define TRY_FIGURE(figure, value)     \
    if (strcmp(name, #figure) == 0) { \
        *out_value = (value);         \
        return FM_OK;                 \
    }
    FIGURES(TRY_FIGURE)
#define NAME_FIGURE(figure, value) #figure " "
    return fm_base_error_set(FM_ERR_ARG, "there is no figure '%s'; known: " FIGURES(NAME_FIGURE), name);
}

/* One comparison; *text moves behind it. */
static fm_status compare(const char **text, fm_trace_figure_of figure_of, const void *context, int *out_true)
{
    char name[32], sign[3];
    double limit, value = 0;
    int read = 0;
    if (sscanf(*text, " %31[a-z_] %2[<>=] %lf%n", name, sign, &limit, &read) != 3)
        return fm_base_error_set(FM_ERR_ARG, "the condition '%s' is not of the form 'exposed_pct > 5'",
                                 *text);
    FM_TRY(figure_of(context, name, &value));
    if (strcmp(sign, ">") == 0)
        *out_true = value > limit;
    else if (strcmp(sign, ">=") == 0)
        *out_true = value >= limit;
    else if (strcmp(sign, "<") == 0)
        *out_true = value < limit;
    else if (strcmp(sign, "<=") == 0)
        *out_true = value <= limit;
    else
        return fm_base_error_set(
            FM_ERR_ARG, "the condition '%s' compares with '%s'; expected >, >=, < or <=", *text, sign);
    *text += read;
    return FM_OK;
}

fm_status fm_trace_condition_test(const char *condition, fm_trace_figure_of figure_of, const void *context,
                                  int *out_true)
{
    int any = 0;
    for (const char *text = condition;;) {
        int is_true = 0;
        FM_TRY(compare(&text, figure_of, context, &is_true));
        any |= is_true;
        text += strspn(text, " ");
        if (!*text)
            break;
        if (strncmp(text, "or ", 3) != 0)
            return fm_base_error_set(FM_ERR_ARG, "the condition '%s' goes on with '%s'; expected 'or'",
                                     condition, text);
        text += 3;
    }
    *out_true = any;
    return FM_OK;
}

static fm_status figure_of_report(const void *report, const char *name, double *out_value)
{
    return fm_trace_report_figure(report, name, out_value);
}

fm_status fm_trace_report_test(const fm_trace_report *report, const char *condition, int *out_true)
{
    return fm_trace_condition_test(condition, figure_of_report, report, out_true);
}
