/* Conditions over named figures: "exposed_pct > 5 or idle_pct > 1". */
#ifndef FM_TRACE_CONDITION_H
#define FM_TRACE_CONDITION_H

#include "fathom/status.h"

typedef fm_status (*fm_trace_figure_of)(const void *context, const char *name, double *out_value);

FM_MUST_USE fm_status fm_trace_condition_test(const char *condition, fm_trace_figure_of figure_of,
                                              const void *context, int *out_true);

#endif
