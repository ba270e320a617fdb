/* One rank of several that train one model. */
#ifndef FM_MODEL_RANK_H
#define FM_MODEL_RANK_H

#include "fathom/pipe_exec.h"
#include "model_trainer.h"

/** A rank among those it talks with: no group where it would be alone. */
struct fm_model_party {
    struct fm_model_seat seat;
    fm_ep_world *world; // of threads: the crew's
    fm_ep_group *group;
};

/** A visit's memory: a lane that shares values and gradients with its rank. */
struct fm_model_slot {
    struct fm_trainer lane;
    struct fm_model_visit visit;
    struct fm_model_queue queue;
    struct fm_model_exchange exchange;
};

/** How sequences of one number and length run: as the schedule says, forward alone or with backward. */
struct fm_model_run {
    int sequences, length;
    int at_once, micro_batches; // of one pipeline
    fm_pipe_program *program;
    fm_pipe_plan *plan;
    fm_pipe_executor *executor;
};

struct fm_model_rank {
    struct fm_model_layout layout;
    int number;
    fm_ep_world *mpi; // NULL: ranks are threads
    struct fm_model_party parties[FM_MODEL_PARTIES];
    int64_t tokens_max;           // of a micro-batch, that the parties have room for; 0: there are none yet
    int32_t *slot_of, *expert_in; // as in fm_model_exchange
    size_t map_count;             // of each
    struct fm_model_run runs[2];  // [evaluate]
    struct fm_model_slot *slots;
    int slot_count;
    float *staging;
    uint64_t run_count;
    const int32_t *ids; // of the step that runs
    int is_broken;      // a step has failed on the way: messages may be under way
};

/* model_party.c: who talks with whom. */

/** Whether ranks of this layout need parties of the kind. */
int fm_model_party_is_needed(const struct fm_model_rank *rank, const fm_model_config *config,
                             enum fm_model_party_kind kind);
/** Joins all parties, with room for micro-batches of `tokens`. Collective. Threads: worlds are set. */
FM_MUST_USE fm_status fm_model_parties_join(struct fm_trainer *trainer, int64_t tokens);
void fm_model_parties_leave(struct fm_trainer *trainer);
/** The segment's gradients, summed over its party in rank order, in this rank's shard. */
FM_MUST_USE fm_status fm_model_party_reduce(struct fm_trainer *trainer,
                                            const struct fm_model_segment *segment);
/** Every rank's shard of the segment: out [count], in which `shard` may lie at this rank's place. */
FM_MUST_USE fm_status fm_model_party_gather(struct fm_trainer *trainer,
                                            const struct fm_model_segment *segment, const float *shard,
                                            float *out);
/** `bytes` of every rank, up to fm_model_party_report_max(): out [ranks][bytes]. */
FM_MUST_USE fm_status fm_model_party_report(struct fm_trainer *trainer, const void *mine, size_t bytes,
                                            void *out);
size_t fm_model_party_report_max(const fm_model_config *config);

/* model_run.c: one run of the pipeline. */

/** Cuts the sequences and makes ready for them; tells the tokens of a micro-batch. */
int64_t fm_model_run_tokens(const struct fm_model_layout *layout, const fm_model_training *training,
                            int sequences, int length, int *out_at_once, int *out_micro_batches);
/** Runs all micro-batches; sums of losses, loads and gradients are this rank's alone. Collective. */
FM_MUST_USE fm_status fm_model_run_all(struct fm_trainer *trainer, const int32_t *ids, int sequences,
                                       int length);
void fm_model_runs_free(struct fm_model_rank *rank);

/* model_rank.c: a trainer that is one rank. */

FM_MUST_USE fm_status fm_model_rank_make(struct fm_trainer *trainer, const struct fm_model_layout *layout,
                                         int number, int threads);
void fm_model_rank_free(struct fm_trainer *trainer);
/** Runs micro-batches, reduces gradients, sums what is to be summed over ranks, into `trainer`. *out_square: the square of
 *  the gradient's norm. */
FM_MUST_USE fm_status fm_model_rank_pass(struct fm_trainer *trainer, const int32_t *ids, int sequences,
                                         int length, double *out_square);

/** Gives all ranks the values that each has updated. */
FM_MUST_USE fm_status fm_model_rank_spread(struct fm_trainer *trainer);
/** FM_ERR_STATE: it failed on the way before. */
FM_MUST_USE fm_status fm_model_rank_check(const struct fm_trainer *trainer);
/** The first rank's failure, the same on all ranks; this one's is `status`. Collective. */
FM_MUST_USE fm_status fm_model_rank_agree(struct fm_trainer *trainer, fm_status status);
/** Calls `work` for every rank that is here: those of a crew side by side, or the trainer itself. */
FM_MUST_USE fm_status fm_model_ranks_run(struct fm_trainer *trainer,
                                         fm_status (*work)(struct fm_trainer *rank, void *context),
                                         void *context);
/** Takes up a map of all experts: [layers + predict_layers][experts], the expert in each slot. What the slots hold does not
 *  move. */
FM_MUST_USE fm_status fm_model_rank_map(struct fm_trainer *trainer, const int32_t *expert_in);
/** Moves this rank's experts as a whole map says; collective. *out_moved: experts that came here. */
FM_MUST_USE fm_status fm_model_rank_move(struct fm_trainer *trainer, const int32_t *expert_in,
                                         int64_t *out_moved);
/** Layers that have experts, predictors' too. */
int fm_model_expert_layers(const fm_model_config *config);
/** Gives parameters their places in values and gradients, or (assign 0) only counts them. */
FM_MUST_USE fm_status fm_model_rank_place(struct fm_trainer *trainer, int assign);

/* model_crew.c: ranks that are threads of this process. */

struct fm_model_crew {
    struct fm_model_layout layout;
    struct fm_trainer **ranks;
    fm_ep_world **worlds; // [FM_MODEL_PARTIES][ranks]: of a kind and color
    int64_t tokens_max;
};

FM_MUST_USE fm_status fm_model_crew_open(struct fm_trainer *trainer, const struct fm_model_layout *layout,
                                         int threads);
void fm_model_crew_free(struct fm_model_crew *crew);
/** Calls `work` for each rank, on a thread of its own; the first rank's failure that is no timeout, or its timeout. */
FM_MUST_USE fm_status fm_model_crew_run(struct fm_model_crew *crew,
                                        fm_status (*work)(struct fm_trainer *rank, void *context),
                                        void *context);
/** Makes worlds with room for micro-batches of `tokens`, which the ranks will join. */
FM_MUST_USE fm_status fm_model_crew_fit(struct fm_model_crew *crew, int64_t tokens);

#endif
