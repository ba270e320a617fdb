/* What the files of bench_pond share. */
#ifndef BENCH_POND_H
#define BENCH_POND_H

#include <stddef.h>

#include "fathom/status.h"
#include "fm_bench.h"

/* Cores that this process may use. */
int bench_pond_threads(void);
/* A new folder below TMPDIR. */
fm_status bench_pond_folder(char *out_folder, size_t size);
/* Runs statements in a DuckDB of their own. FM_ERR_UNAVAILABLE where there is none. */
fm_status bench_pond_duckdb(const char *const *statements, int count);

/* Cases of the group-by. */
fm_status bench_pond_group_cases(fm_bench *bench);

#endif
