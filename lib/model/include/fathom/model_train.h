/**
 * @file model_train.h
 * Training of the models of model.h, from random weights.
 *
 *     fm_model_training training = FM_MODEL_TRAINING_INIT;
 *     training.steps = 500;
 *     FM_TRY(fm_model_trainer_open(&config, &training, &trainer));
 *     while (fm_model_trainer_steps(trainer) < training.steps)
 *         FM_TRY(fm_model_trainer_step(trainer, ids, batch, length, &result));
 *     FM_TRY(fm_model_trainer_export(trainer, FM_DTYPE_BF16, "model"));        // config.json, model.safetensors
 *
 * A step: forward and backward of a batch of token sequences, the gradient clipped to a norm, AdamW (decoupled decay on
 * matrices alone), a rate that warms up linearly and falls along a cosine. Products with weights, rows on their way to
 * experts and attention are in `dtype` (attention of FP8 in BF16); all else, masters and moments too, is f32.
 *
 * Experts are balanced as in the DeepSeek-V3 report (2.1.2): after each step the correction bias of an expert moves by
 * `bias_rate` up where it had fewer tokens than the mean and down where it had more; a small loss per sequence keeps extremes
 * away. Models with `predict_layers` also learn the tokens after the next (2.2).
 *
 * For one seed, training, layout of ranks and sequence of batches the result is the same to the bit on every machine, at
 * every ISA level and with any number of threads. A trainer serves one call at a time.
 *
 * Ranks. `pipe_ranks` x `expert_ranks` ranks train one model together. The layers are cut into stages, which lie on the
 * pipeline ranks as `schedule` says (fathom/pipe.h); the experts of a stage, and the sequences of a step, are shared out among
 * the expert ranks, which send each other rows (fathom/ep.h). Each rank keeps the moments of a part of what it holds (ZeRO-1).
 * Layouts differ by the order of f32 sums alone, and in FP8 by which rows share a scale. Ranks are threads of this process,
 * and then one trainer stands for all of them; or processes that the trainer starts; or MPI's processes: each opens a trainer,
 * all make the same calls with the same arguments, and all get the same results. `threads` are shared out among the ranks, at least one each. A rank that is lost, or fails on the way, makes
 * the others fail with FM_ERR_TIMEOUT; from then on the trainer answers FM_ERR_STATE, and a new one can load a saved state.
 */
#ifndef FATHOM_MODEL_TRAIN_H
#define FATHOM_MODEL_TRAIN_H

#include "fathom/eplb.h"
#include "fathom/model.h"
#include "fathom/pipe.h"

#ifdef __cplusplus
extern "C" {
#endif

/** How ranks that train one model together reach each other. */
typedef enum fm_model_transport {
    FM_MODEL_THREADS, /**< threads of this process, which a trainer starts for the time of a call */
    FM_MODEL_MPI, /**< processes that mpirun has started: each opens a trainer, and all make the same calls */
    /** Processes that the trainer starts by `rank_command`, and which live as long as it does; it stands for all of them. They
     *  end with this process, however that ends. Paths that are given to the trainer are opened by them. */
    FM_MODEL_PROCESSES,
} fm_model_transport;

/** Start from FM_MODEL_TRAINING_INIT. */
typedef struct fm_model_training {
    size_t size;
    int threads;   /**< 0: fm_base_cpu_threads() */
    int64_t steps; /**< that the schedule reaches its end in */
    int64_t warmup_steps;
    double rate, rate_end; /**< at the end of the warm-up, and of the schedule */
    double beta1, beta2, epsilon, decay;
    double clip;    /**< largest norm of the gradient; 0: none */
    double balance; /**< weight of the sequence-wise balance loss */
    double bias_rate;
    double predict_weight; /**< of the multi-token prediction loss */
    double deviation;      /**< of the initial weights */
    uint64_t seed;
    int micro_batch;           /**< sequences that are processed together; 0: all. Memory grows with it */
    fm_dtype dtype;            /**< of products with weights, as in fm_model_options: F32, BF16 or F8_E4M3 */
    int pipe_ranks;            /**< that share out the layers; 0: 1 */
    int expert_ranks;          /**< that share out the experts and the sequences of a step; 0: 1 */
    fm_pipe_schedule schedule; /**< of the pipeline; 0: FM_PIPE_1F1B */
    fm_model_transport transport;
    int64_t timeout_ms; /**< how long a rank waits for another; 0: 100 s, negative: for ever */
    /** [NULL-terminated] What starts the ranks' processes: a launcher of MPI's programs with its arguments ("mpirun", "-n",
     *  "4"), and a program that calls fm_model_rank_run() with the two arguments which are added to these. Looked at while
     *  the trainer is opened. */
    const char *const *rank_command;
} fm_model_training;

#define FM_MODEL_TRAINING_INIT                                                                          \
    {                                                                                                   \
        sizeof(fm_model_training), 0, 1000, 50, 2e-3, 2e-4, 0.9, 0.95, 1e-8, 0.1, 1.0, 1e-4, 1e-3, 0.3, \
            0.02, 1, 0, FM_DTYPE_F32, 1, 1, FM_PIPE_CUSTOM, FM_MODEL_THREADS, 0, NULL                   \
    }

typedef struct fm_trainer fm_trainer;

/** Makes a model with random weights. FM_ERR_ARG: a field of the training, ranks that the layers or experts do not suffice for
 *  or that are not as many as mpirun has started, no command to start them, or as fm_model_config_check() and fm_pipe_program_generate(); with MPI as
 *  fm_ep_world_open_mpi(); FM_ERR_NOMEM. */
FM_API FM_MUST_USE fm_status fm_model_trainer_open(const fm_model_config *config,
                                                   const fm_model_training *training,
                                                   fm_trainer **out_trainer);
/** How a process that is a rank records spans (fathom/span.h); all on the thread that is the rank. */
typedef struct fm_model_rank_recorder {
    void *context;
    fm_status (*begin)(void *context, const char *path); /**< from here on, to a file */
    fm_status (*drain)(void *context); /**< behind every call of the trainer, while it records */
    fm_status (*end)(void *context);   /**< the file is whole */
} fm_model_rank_recorder;

/**
 * What a process does that FM_MODEL_PROCESSES has started: it is a rank until its trainer is closed. `address` and `start` are
 * the arguments that it was given; without a `recorder` it records nothing. FM_ERR_ARG: they are none; FM_ERR_IO: nobody is there; or as fm_model_trainer_open().
 */
FM_API FM_MUST_USE fm_status fm_model_rank_run(const char *address, const char *start,
                                               const fm_model_rank_recorder *recorder);
/** NULL is allowed. */
FM_API void fm_model_trainer_close(fm_trainer *trainer);
/** Steps that are done. */
FM_API int64_t fm_model_trainer_steps(const fm_trainer *trainer);
/** Its model, to run sessions on between steps; where there are several ranks it has a configuration, but no session. */
FM_API fm_model *fm_model_trainer_model(fm_trainer *trainer);

typedef struct fm_model_step_result {
    double loss;          /**< mean cross-entropy of the next token, nats */
    double predict_loss;  /**< of the tokens after it; 0 where the model does not predict them */
    double balance_loss;  /**< before its weight */
    double gradient_norm; /**< before clipping */
    double rate;
} fm_model_step_result;

/**
 * `ids` is [sequences, length + 1 + predict_layers]: each token's target is its right neighbour. FM_ERR_ARG: no sequence, an
 * id outside the vocabulary, or a length beyond the context; FM_ERR_NOMEM; FM_ERR_FORMAT: the loss is no longer a number.
 * Where it fails no parameter has changed. With ranks also FM_ERR_TIMEOUT and FM_ERR_STATE, see the top.
 */
FM_API FM_MUST_USE fm_status fm_model_trainer_step(fm_trainer *trainer, const int32_t *ids, int sequences,
                                                   int length, fm_model_step_result *out_result);
/** The mean loss of sequences, without learning from them. Fails as a step does. */
FM_API FM_MUST_USE fm_status fm_model_trainer_evaluate(fm_trainer *trainer, const int32_t *ids, int sequences,
                                                       int length, double *out_loss);
/** Products that steps and evaluations have computed through gemm in BF16 or F8_E4M3 so far. */
FM_API int64_t fm_model_trainer_products(fm_trainer *trainer, fm_dtype dtype);
/** Tokens that each expert of a layer got in the last step; [experts]. NULL for a dense layer. */
FM_API const int64_t *fm_model_trainer_loads(const fm_trainer *trainer, int layer);

/** Where ranks are processes that the trainer started: each records its spans to a file of its own, `path` and its number, from
 *  here on or, where that is NULL, no longer. Elsewhere nothing happens: spans of threads are this process's. Fails as the
 *  rank's recorder does. */
FM_API FM_MUST_USE fm_status fm_model_trainer_record(fm_trainer *trainer, const char *path);

/**
 * Carries out a plan of eplb for the layers with experts (predictors' last), each rank a GPU, as many slots as experts:
 * between two steps, experts' parameters and moments go to the ranks that are to hold them, and from then on all ranks send
 * rows there. What is computed does not change but for the order of sums. *out_moved: experts that came to ranks of this
 * process. FM_ERR_ARG: a plan of another shape, or with copies; FM_ERR_STATE: one expert rank, or ranks that were given
 * different plans; FM_ERR_NOMEM. Where it fails nothing has moved. All ranks make the call.
 */
FM_API FM_MUST_USE fm_status fm_model_trainer_place(fm_trainer *trainer, const fm_eplb_plan *plan,
                                                    int64_t *out_moved);
/** The expert in each slot of a layer: what a plan takes as current; [experts], those of rank 0 first. NULL for a dense layer, or
 *  with one rank. */
FM_API const int32_t *fm_model_trainer_placement(const fm_trainer *trainer, int layer);

/**
 * Rebalancing while training: the tokens of each expert are summed over steps, and every `interval` steps a plan of eplb is
 * made from the interval's first half and judged by its second, which it has not seen. Layers whose busiest rank would have had
 * less there, by 2 % of the mean at least, move as fm_model_trainer_place() does. Plans depend on the loads alone. Predictors'
 * experts stay where they are.
 *
 *     FM_TRY(fm_model_trainer_step(trainer, ids, sequences, length, &result));
 *     FM_TRY(fm_model_rebalance_step(rebalance, trainer, NULL));              // behind each step
 *
 * Where training is cut short and goes on from a state that was saved between these two and the next step, what was packed at
 * that moment makes it go on to the same bits. With MPI each process has one of its own and makes the same calls.
 */
typedef struct fm_rebalance fm_rebalance;

/** FM_ERR_ARG: an interval below 2; `expert_ranks` are not several, or not the trainer's; FM_ERR_NOMEM. */
FM_API FM_MUST_USE fm_status fm_model_rebalance_open(fm_trainer *trainer, int expert_ranks, int64_t interval,
                                                     fm_rebalance **out_rebalance);
/** NULL is allowed. */
FM_API void fm_model_rebalance_close(fm_rebalance *rebalance);
/** Counts the step that was made last, and plans and moves where it ends an interval. *out_moved, when not NULL, are the experts
 *  that came to ranks of this process. Fails as fm_eplb_rebalance() and fm_model_trainer_place(). */
FM_API FM_MUST_USE fm_status fm_model_rebalance_step(fm_rebalance *rebalance, fm_trainer *trainer,
                                                     int64_t *out_moved);

/** Sums over all steps; busiest * ranks / load is the imbalance, 1 at best. */
typedef struct fm_model_rebalance_figures {
    int64_t plans, moved;     /**< that changed something; experts that they moved */
    int64_t load;             /**< tokens of all experts */
    int64_t busiest;          /**< of the busiest rank in each step and layer */
    int64_t busiest_in_order; /**< the same, had experts stayed in order */
    int64_t steps;
} fm_model_rebalance_figures;
FM_API fm_model_rebalance_figures fm_model_rebalance_figures_of(const fm_rebalance *rebalance);

/** What was summed, to be kept with a state; the caller frees it with fm_base_mem_free(). FM_ERR_NOMEM. */
FM_API FM_MUST_USE fm_status fm_model_rebalance_pack(const fm_rebalance *rebalance, void **out_bytes,
                                                     size_t *out_length);
/** Goes on from it; `name` stands for it in messages. FM_ERR_FORMAT: it is none, or of another model or interval. */
FM_API FM_MUST_USE fm_status fm_model_rebalance_unpack(fm_rebalance *rebalance, const void *bytes,
                                                       size_t length, const char *name);

/** Writes a checkpoint in the Hugging Face layout to a folder, which is made: config.json and model.safetensors, or a file
 *  for each rank and their index, in `dtype` (BF16 or F32; the correction bias is F32). Fails as
 *  fm_base_safetensors_create() and fm_model_config_save() do. */
FM_API FM_MUST_USE fm_status fm_model_trainer_export(fm_trainer *trainer, fm_dtype dtype, const char *folder);
/** Writes all that training goes on from: parameters, moments, steps. `notes` (or NULL) are key, value, ..., NULL, kept
 *  with it. Ranks write a file each, "<path>.a1-of-4" or "<path>.b1-of-4", before `path` names them; so there is a whole state
 *  whenever this is cut short. */
FM_API FM_MUST_USE fm_status fm_model_trainer_save(fm_trainer *trainer, const char *path,
                                                   const char *const *notes);
/** Reads it into a trainer of the same configuration, whatever the ranks of either: FM_ERR_FORMAT where a tensor differs or
 *  is missing (named); FM_ERR_NOT_FOUND: a file is missing. */
FM_API FM_MUST_USE fm_status fm_model_trainer_load(fm_trainer *trainer, const char *path);
/** The bytes of a file that a load would read: a copy of the state of this moment, to be stored in any way while training
 *  goes on. The caller frees it with fm_base_mem_free(). A process of MPI's gets the pieces that it updates, which that
 *  rank of the same layout alone can unpack. FM_ERR_NOMEM. */
FM_API FM_MUST_USE fm_status fm_model_trainer_pack(fm_trainer *trainer, const char *const *notes,
                                                   void **out_bytes, size_t *out_length);
/** A load from memory; `name` stands for it in messages. All processes of MPI's make the call. */
FM_API FM_MUST_USE fm_status fm_model_trainer_unpack(fm_trainer *trainer, const void *bytes, size_t length,
                                                     const char *name);

#ifdef __cplusplus
}
#endif
#endif
