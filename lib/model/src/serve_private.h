/* The engine's state. */
#ifndef FM_SERVE_PRIVATE_H
#define FM_SERVE_PRIVATE_H

#include <pthread.h>

#include "fathom/serve.h"
#include "model_private.h"

/** A request, and after it its cache. */
struct serve_entry {
    struct serve_entry *next;
    uint64_t ticket;
    fm_serve_request request; // `prompt` is the caller's: look at `ids`
    int32_t *ids;             // prompt and answer
    int count, count_max;
    int fed;    // of them, to the session
    int cached; // of them, found in a cache when it was admitted first
    int started, cancelled;
    int has_draft;
    int32_t draft;             // a guess of the token behind the one that is to be fed next
    fm_model_session *session; // NULL while it waits
    int64_t blocks;            // that the session has, or has reserved
};

struct fm_serve {
    fm_model *model;
    int running_max, waiting_max, chunk;
    pthread_mutex_t mutex;
    pthread_cond_t work;
    struct serve_entry *waiting, *running, *kept; // oldest first
    uint64_t last_ticket;
    fm_serve_stats stats;
    int drafts;                                // 1: the model has a head to guess with
    int tokens_now, drafted_now, accepted_now; // of the running step

    // Of the step: [running_max], and [running_max, 1 + drafts, vocab].
    fm_model_part *parts;
    fm_model_draft *drafted;
    struct serve_entry **batch;
    float *logits;
};

#endif
