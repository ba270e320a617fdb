/**
 * @file pond_team.h
 * Threads that do one thing together and end.
 */
#ifndef POND_TEAM_H
#define POND_TEAM_H

#include "fathom/status.h"

enum { FM_POND_TEAM_MAX = 256 };

typedef struct fm_pond_team {
    int members;
    int failed; /**< some member has returned a failure: the others may stop */
} fm_pond_team;

/** 1 once a member has failed or the process was asked to end. */
int fm_pond_team_stopped(const fm_pond_team *team);

/** Runs work(context, 0..members-1), each on its own thread, the last on the caller's. Returns what the first that failed
 * returned, with its message; fewer threads than wanted are no failure as long as one can run, so `work` must share out what
 * there is to do by itself. FM_ERR_CANCELLED when the process was asked to end meanwhile. */
FM_MUST_USE fm_status fm_pond_team_run(fm_pond_team *team, fm_status (*work)(void *context, int member),
                                       void *context);

/** Cores that this process may use. */
int fm_pond_team_cores(void);

#endif
