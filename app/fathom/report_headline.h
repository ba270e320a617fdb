/* The figures that a run comes down to, gathered from what its stages found. */
#ifndef FM_REPORT_HEADLINE_H
#define FM_REPORT_HEADLINE_H

#include "stage.h"

/** Facts of the stages before this one that belong into the table at the end become facts of this one. What no stage measured has no
 * row. */
FM_MUST_USE fm_status fm_app_headline_make(struct fm_stage_run *run);

/** The result of a stage: {"stage": kind, "facts": [...]}. The caller frees it. */
FM_MUST_USE fm_status fm_app_result_load(const char *run_folder, const char *name, fm_doc **out_result);
/** The fact `what` of a result, or NULL. */
const fm_doc *fm_app_result_fact(const fm_doc *result, const char *what);

#endif
