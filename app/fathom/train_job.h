/* What the parts of the training stage share: stage_train.c runs the steps, and each other part is one concept around them. */
#ifndef FM_TRAIN_JOB_H
#define FM_TRAIN_JOB_H

#include "fathom/fs.h"
#include "fathom/model_train.h"
#include "fathom/trace_write.h"
#include "stage.h"
#include "stage_checkpoint.h"
#include "stage_files.h"

struct fm_train_options {
    const char *data, *dtype, *schedule, *transport, *launcher, *store;
    int64_t steps, batch, length, seed, save_every;
    int64_t trace_steps, hidden, layers, heads, experts, topk, expert_intermediate, predict;
    int64_t pipe_ranks, expert_ranks, rebalance_every;
    double rate;
};

enum { FM_TRAIN_FOLDER_BYTES = 256, FM_TRAIN_PATH_BYTES = 4096 };

/** What the stage works with. */
struct fm_train_job {
    struct fm_stage_run *run;
    const struct fm_train_options *options;
    int64_t width;     // tokens of a sequence that is drawn: its own, and those predicted after them
    fm_fs *fs, *store; // the run's; the one that takes checkpoints, which may be the same
    fm_sampler *sampler;
    fm_checkpointer *checkpointer;
    char checkpoints[FM_TRAIN_FOLDER_BYTES]; // in fs
    char *held_bytes;
    const int32_t *held_ids;
    int64_t held_count;
    fm_trainer *trainer;
    fm_rebalance *rebalance; // NULL: experts stay
    float *losses;           // of the steps done, and of those that a state before them had
    int vocab;
    fm_trace_writer *trace; // NULL: nothing is recorded now
    int64_t first;          // the step that this run began at
    double seconds;         // of its steps
    uint64_t pack_ns;       // that training stood still to copy its state
    uint64_t first_step_ns; // from the beginning of the stage to the end of its first step
};

/** The path of a file in the stage's folder. */
void fm_app_train_path(const struct fm_train_job *job, const char *name,
                       char out_path[static FM_TRAIN_PATH_BYTES]);

/** Opens where checkpoints go, drops those of other options, and takes up the newest that is whole (train_state.c). */
FM_MUST_USE fm_status fm_app_train_resume(struct fm_train_job *job);
/** Copies the state and hands it to the thread that writes it. */
FM_MUST_USE fm_status fm_app_train_save(struct fm_train_job *job);

/** Records what every thread does from here on, into trace.json (train_trace.c). */
FM_MUST_USE fm_status fm_app_train_record(struct fm_train_job *job);
/** Ends the recording, where there is one, and adds what ranks in processes did. */
FM_MUST_USE fm_status fm_app_train_recorded(struct fm_train_job *job);

/** The loss of held-out sequences; writes loads.json, what each expert got of them, for the stage that balances (train_judge.c). */
FM_MUST_USE fm_status fm_app_train_judge(struct fm_train_job *job, double *out_loss);

/** The stage's facts about storage, the balance of experts and the pipeline, and schedule.svg (train_figures.c). */
FM_MUST_USE fm_status fm_app_train_figures(struct fm_train_job *job);

#endif
