/* Ranks as threads, for tests. Assertions belong to the test's own thread, so ranks return what they found. */
#ifndef EP_TEAM_H
#define EP_TEAM_H

#include "fathom/ep.h"

/** One rank's life between joining and leaving. */
typedef fm_status (*ep_member)(fm_ep_group *group, void *context);

typedef struct ep_outcome {
    fm_status status;
    char message[512];
} ep_outcome;

/** Options with which most tests can do. */
fm_ep_options ep_team_options(int hidden, int experts, int topk, int tokens);

/** Runs `member` on `ranks` threads of a new world; out_outcomes [ranks] (NULL: every rank must succeed). */
void ep_team_run(int ranks, const fm_ep_options *options, ep_member member, void *context,
                 ep_outcome *out_outcomes);
/** As above; rank r joins with options[r]. */
void ep_team_run_each(int ranks, const fm_ep_options *options, ep_member member, void *context,
                      ep_outcome *out_outcomes);

#endif
