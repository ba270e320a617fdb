/**
 * @file trace_page.h
 * A report as one self-contained HTML page: timeline, overlap bars, findings, phases, kernels. It loads nothing from
 * anywhere and works from a file; a million slices pan and zoom smoothly.
 */
#ifndef FATHOM_TRACE_PAGE_H
#define FATHOM_TRACE_PAGE_H

#include "fathom/trace_report.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Writes the page, about 12 bytes a slice and the report's JSON; it appears whole or not at all. FM_ERR_IO and what
 *  fm_base_file_begin() returns; FM_ERR_NOMEM. */
FM_API FM_MUST_USE fm_status fm_trace_page_save(const fm_trace_report *report, const char *path);

#ifdef __cplusplus
}
#endif
#endif
