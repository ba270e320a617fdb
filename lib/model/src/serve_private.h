/* The engine's state. */
#ifndef FM_SERVE_PRIVATE_H
#define FM_SERVE_PRIVATE_H

#include <pthread.h>

#include "fathom/serve.h"
#include "serve_prefix.h"

/** A request. */
struct serve_entry {
    struct serve_entry *next;
    uint64_t ticket;
    fm_serve_request request; // `prompt` is the caller's: look at `ids`
    int32_t *ids;             // prompt and answer
    int count, count_max;
    int fed;                  // of them, to the session
    int cached;               // of them, found in a cache when it was admitted first
    int restarted, cancelled; // restarted: it was preempted
    int looked_up;            // in the store
    int has_draft;
    int32_t draft;           // a guess of the token behind the one that is to be fed next
    int stored;              // blocks that the store has, or was given
    fm_fs_kvcache_key *keys; // of the first `key_count` blocks; NULL: none yet
    int key_count;
    fm_model_session *session; // NULL while it waits
    struct serve_node **path;  // whole blocks that it may share, from the beginning on
    int path_count;
    int64_t blocks; // of its own behind them, which it has or may take
};

struct fm_serve {
    fm_model *model;
    int running_max, waiting_max, chunk, replan;
    pthread_mutex_t mutex;
    pthread_cond_t work;
    struct serve_entry *waiting, *running; // oldest first
    struct fm_model_pool pool;
    struct serve_prefix prefix; // what caches hold, of running and finished requests
    int64_t reserved;           // blocks of running requests' own
    uint64_t last_ticket;
    fm_serve_stats stats;
    fm_fs_kvcache *store;                      // or NULL
    fm_fs_kvcache_key root;                    // that all its keys begin with
    int store_failed;                          // nothing is put any more
    int drafts;                                // 1: the model has a head to guess with
    int tokens_now, drafted_now, accepted_now; // of the running step

    // Of the step: [running_max], and [running_max, 1 + drafts, vocab].
    fm_model_part *parts;
    fm_model_draft *drafted;
    struct serve_entry **batch;
    float *logits;
};

/** Makes the key that stands for the model. */
FM_MUST_USE fm_status fm_model_serve_store_open(fm_serve *serve);
/** Reads what the store knows of the entry's prompt beyond what it has; gives the tokens that came. A miss is no failure. */
int fm_model_serve_store_load(fm_serve *serve, struct serve_entry *entry);
/** Puts the entry's full blocks; gives how many. A failure is logged once, and is the last. */
int fm_model_serve_store_save(fm_serve *serve, struct serve_entry *entry);

#endif
