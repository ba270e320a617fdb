/* The report of a trace as text for people. */
#ifndef FM_TRACE_TEXT_H
#define FM_TRACE_TEXT_H

#include "fathom/trace_report.h"

/* Writes to standard output; `top` kernels. */
FM_MUST_USE fm_status fm_app_trace_print(const fm_trace_report *report, int top);

#endif
