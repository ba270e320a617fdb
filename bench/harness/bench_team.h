/**
 * @file bench_team.h
 * Threads, one pinned to each CPU, that run something together and sleep in between.
 *
 * They never spin outside fm_bench_team_run(): the cores belong to what is measured. The caller sleeps while they run,
 * so that the CPU it sits on is free for the member pinned there.
 */
#ifndef BENCH_TEAM_H
#define BENCH_TEAM_H

#include "fathom/status.h"

typedef struct fm_bench_team fm_bench_team;

/** `size` >= 1 threads on the CPUs this process may use, in order and round again. FM_ERR_NOMEM, FM_ERR_LIMIT. */
FM_MUST_USE fm_status fm_bench_team_new(int size, fm_bench_team **out_team);
/** Ends and joins the threads; NULL is allowed. */
void fm_bench_team_free(fm_bench_team *team);

int fm_bench_team_size(const fm_bench_team *team);

/** Runs body(context, 0..size-1), one on each thread, begun together (each waits until all are awake); returns when
 *  all have. One caller at a time. */
void fm_bench_team_run(fm_bench_team *team, void (*body)(void *context, int member), void *context);

#endif
