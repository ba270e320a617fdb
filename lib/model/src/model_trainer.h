/* Training: what forward leaves for backward, and the trainer. */
#ifndef FM_MODEL_TRAINER_H
#define FM_MODEL_TRAINER_H

#include "fathom/model_train.h"
#include "model_private.h"

/** Sequences of one length, processed together. Rows are tokens, sequence after sequence. */
struct fm_model_batch {
    int sequences, length;
    int64_t tokens;
};

/** What backward of a SwiGLU network needs. */
struct fm_model_mlp_saved {
    const float *x; // [rows, hidden]
    float *gate, *up, *product;
};

struct fm_model_attention_saved {
    const float *x;                                  // [tokens, hidden], normalised
    float *low, *low_normed, *low_inverse;           // of queries, where they have a low rank
    float *queries;                                  // [tokens, heads, nope + rope], rotated
    float *latents, *latent_normed, *latent_inverse; // [tokens, kv_lora + rope], [tokens, kv_lora]
    float *key_rope;                                 // [tokens, rope], rotated
    float *keys_values;                              // [tokens, heads, nope + value]
    float *probabilities;                            // [sequence, head][length, length]
    float *heads;                                    // [tokens, heads, value]
};

struct fm_model_moe_saved {
    struct fm_model_route route;
    const float *x;                    // [tokens, hidden], normalised
    float *in, *out;                   // [tokens * topk, hidden], in the order of rows
    struct fm_model_mlp_saved experts; // all experts' rows, one after the other
};

struct fm_model_layer_saved {
    float *x, *middle; // [tokens, hidden]: before attention, and before the network
    float *x_normed, *middle_normed;
    float *x_inverse, *middle_inverse;
    struct fm_model_attention_saved attention;
    struct fm_model_mlp_saved mlp;
    struct fm_model_moe_saved moe;
};

/**
 * Micro-batches run side by side, each by one thread from beginning to end: a lane has what one needs of its own, gradients,
 * scratch and sums, and shares the values. Gradients are summed in the order of the micro-batches, so the result does not
 * depend on how many lanes there are. A lane is a trainer without lanes.
 */
struct fm_trainer {
    struct fm_model model; // values instead of files; sessions run on it
    fm_model_training training;
    int64_t count;                             // of parameters
    float *values, *gradients, *mean, *square; // [count]
    int64_t step;
    // Of the step that runs:
    double loss_sum, predict_sum, balance_sum;
    double weight;            // of a token's loss: 1 / tokens of the step
    double balance_weight;    // of a sequence's balance loss
    int evaluate;             // forward alone
    int64_t *loads;           // [layers + predict_layers][experts]: tokens of this step
    struct fm_trainer *lanes; // NULL in a lane
    int lane_count;
    fm_status status; // of a lane's micro-batch
    char message[256];
};

/* Backward operators. "dx +=" unless said otherwise; gradients of weights are added. */

/** dx [rows, columns] = (or +=) dy weight; weight.gradient += dy^T x. */
void fm_model_linear_back(const struct fm_model_compute *compute, int64_t rows, const float *x,
                          const struct fm_model_weight *weight, const float *dy, float *dx, int accumulate);
/** dx += and weight.gradient += of normalised rows. */
void fm_model_norm_back_rows(const struct fm_model_compute *compute, int64_t rows, int64_t width,
                             const float *x, int64_t x_stride, const struct fm_model_weight *weight,
                             const float *inverses, const float *dy, int64_t dy_stride, float *dx,
                             int64_t dx_stride);
void fm_model_swiglu_back_rows(const struct fm_model_compute *compute, int64_t count, const float *gate,
                               const float *up, const float *dy, float *dgate, float *dup);
/** embed.gradient rows += dy. */
void fm_model_embed_back(const struct fm_model_compute *compute, const struct fm_model_weight *embed,
                         const int32_t *ids, int64_t count, const float *dy);

FM_MUST_USE fm_status fm_model_attention_forward(struct fm_trainer *trainer,
                                                 const struct fm_model_layer *layer,
                                                 const struct fm_model_batch *batch, const float *x,
                                                 float *out, struct fm_model_attention_saved *saved);
/** dx = gradient of x. */
FM_MUST_USE fm_status fm_model_attention_back(struct fm_trainer *trainer, const struct fm_model_layer *layer,
                                              const struct fm_model_batch *batch,
                                              const struct fm_model_attention_saved *saved, const float *dy,
                                              float *dx);

FM_MUST_USE fm_status fm_model_mlp_forward(struct fm_trainer *trainer, const struct fm_model_mlp *mlp,
                                           int64_t rows, const float *x, float *out,
                                           struct fm_model_mlp_saved *saved);
/** dx = (or +=) gradient of x. */
FM_MUST_USE fm_status fm_model_mlp_back(struct fm_trainer *trainer, const struct fm_model_mlp *mlp,
                                        int64_t rows, const struct fm_model_mlp_saved *saved, const float *dy,
                                        float *dx, int accumulate);

/** out += the routed experts; `loads` [experts] counts their tokens. */
FM_MUST_USE fm_status fm_model_moe_forward(struct fm_trainer *trainer, const struct fm_model_layer *layer,
                                           const struct fm_model_batch *batch, const float *x, float *out,
                                           int64_t *loads, struct fm_model_moe_saved *saved);
/** dx += gradient of x. */
FM_MUST_USE fm_status fm_model_moe_back(struct fm_trainer *trainer, const struct fm_model_layer *layer,
                                        const struct fm_model_batch *batch,
                                        const struct fm_model_moe_saved *saved, const float *dy, float *dx);

/** Runs forward and, unless the trainer evaluates, backward of one micro-batch; adds to losses, loads and gradients.
 * `ids` is [sequences, length + 1 + predict_layers]. */
FM_MUST_USE fm_status fm_model_pass(struct fm_trainer *trainer, const struct fm_model_batch *batch,
                                    const int32_t *ids);

#endif
