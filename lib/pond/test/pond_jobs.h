/* Jobs as tests write them, and what they made. */
#ifndef POND_JOBS_H
#define POND_JOBS_H

#include "fathom/pond.h"

/** Reads a job from YAML; "@" stands for the test's folder. Fails the test where it cannot. */
fm_pond_plan *pond_jobs_plan(const char *yaml);
/** Runs a job in the test's folder with `executors` local processes. */
fm_status pond_jobs_run(const char *yaml, int executors, fm_pond_run_report *out_report);
/** The same with options, of which size and work are filled in. */
fm_status pond_jobs_run_with(const char *yaml, const fm_pond_run_options *given,
                             fm_pond_run_report *out_report);
/** What a query gives, as CSV without its names; "@" as above. Valid until the next call. */
const char *pond_jobs_query(const char *sql);
/** Skips where there is no DuckDB. */
void pond_jobs_need_duckdb(void);
/** `text` with the test's folder for "@"; the caller frees it. */
char *pond_jobs_expand(const char *text);

#endif
