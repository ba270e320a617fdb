/**
 * @file bench_cases.h
 * The cases and groups that a program has added.
 */
#ifndef BENCH_CASES_H
#define BENCH_CASES_H

#include "fm_bench.h"

#include "fathom/mem.h"

struct fm_bench {
    fm_bench_case *cases;
    size_t case_count;
    fm_bench_group *groups;
    size_t group_count;
    fm_arena names;
};

void fm_bench_cases_clear(fm_bench *bench);

/** Whether `text` contains one of the comma-separated words of `filter`; NULL or empty lets all pass. */
int fm_bench_filter_passes(const char *filter, const char *text);

#endif
