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
 * A step: forward and backward of a batch of token sequences in f32, the gradient clipped to a norm, AdamW (decoupled
 * decay on matrices alone), a rate that warms up linearly and falls along a cosine. Experts are balanced as in the
 * DeepSeek-V3 report (2.1.2): after each step the correction bias of an expert moves by `bias_rate` up where it had fewer
 * tokens than the mean and down where it had more; a small loss per sequence keeps extremes away. Models with
 * `predict_layers` also learn the tokens after the next (2.2).
 *
 * For one seed, training and sequence of batches the result is the same to the bit on every machine, at every ISA level and
 * with any number of threads. A trainer serves one call at a time.
 */
#ifndef FATHOM_MODEL_TRAIN_H
#define FATHOM_MODEL_TRAIN_H

#include "fathom/model.h"

#ifdef __cplusplus
extern "C" {
#endif

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
    int micro_batch; /**< sequences that are processed together; 0: all. Memory grows with it */
    fm_dtype
        dtype; /**< of products with weights, as in fm_model_options; F32, BF16 or F8_E4M3. Masters and moments are f32 */
} fm_model_training;

#define FM_MODEL_TRAINING_INIT                                                                          \
    {                                                                                                   \
        sizeof(fm_model_training), 0, 1000, 50, 2e-3, 2e-4, 0.9, 0.95, 1e-8, 0.1, 1.0, 1e-4, 1e-3, 0.3, \
            0.02, 1, 0, FM_DTYPE_F32                                                                    \
    }

typedef struct fm_trainer fm_trainer;

/** Makes a model with random weights. FM_ERR_ARG: a field of the training, or as fm_model_config_check(); FM_ERR_NOMEM. */
FM_API FM_MUST_USE fm_status fm_model_trainer_open(const fm_model_config *config,
                                                   const fm_model_training *training,
                                                   fm_trainer **out_trainer);
/** NULL is allowed. */
FM_API void fm_model_trainer_close(fm_trainer *trainer);
/** Steps that are done. */
FM_API int64_t fm_model_trainer_steps(const fm_trainer *trainer);
/** Its model, to run sessions on between steps. */
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
 * Where it fails no parameter has changed.
 */
FM_API FM_MUST_USE fm_status fm_model_trainer_step(fm_trainer *trainer, const int32_t *ids, int sequences,
                                                   int length, fm_model_step_result *out_result);
/** The mean loss of sequences, without learning from them. Fails as a step does. */
FM_API FM_MUST_USE fm_status fm_model_trainer_evaluate(fm_trainer *trainer, const int32_t *ids, int sequences,
                                                       int length, double *out_loss);
/** Products that steps and evaluations have computed through gemm in BF16 or F8_E4M3 so far. */
FM_API int64_t fm_model_trainer_products(const fm_trainer *trainer, fm_dtype dtype);
/** Tokens that each expert of a layer got in the last step; [experts]. NULL for a dense layer. */
FM_API const int64_t *fm_model_trainer_loads(const fm_trainer *trainer, int layer);

/** Writes a checkpoint in the Hugging Face layout to a folder, which is made: config.json and model.safetensors, in `dtype`
 *  (BF16 or F32; the correction bias is F32). Fails as fm_base_safetensors_create() and fm_model_config_save() do. */
FM_API FM_MUST_USE fm_status fm_model_trainer_export(const fm_trainer *trainer, fm_dtype dtype,
                                                     const char *folder);
/** Writes all that training goes on from: parameters, moments, steps. `notes` (or NULL) are key, value, ..., NULL, kept
 *  with it. */
FM_API FM_MUST_USE fm_status fm_model_trainer_save(const fm_trainer *trainer, const char *path,
                                                   const char *const *notes);
/** Reads it into a trainer of the same configuration: FM_ERR_FORMAT where a tensor differs or is missing (named). */
FM_API FM_MUST_USE fm_status fm_model_trainer_load(fm_trainer *trainer, const char *path);
/** The bytes of the file that a save would write: a copy of the state of this moment, to be stored in any way while training
 *  goes on. The caller frees it with fm_base_mem_free(). FM_ERR_NOMEM. */
FM_API FM_MUST_USE fm_status fm_model_trainer_pack(const fm_trainer *trainer, const char *const *notes,
                                                   void **out_bytes, size_t *out_length);
/** A load from memory; `name` stands for it in messages. */
FM_API FM_MUST_USE fm_status fm_model_trainer_unpack(fm_trainer *trainer, const void *bytes, size_t length,
                                                     const char *name);

#ifdef __cplusplus
}
#endif
#endif
