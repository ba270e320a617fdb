/* Training: what forward leaves for backward, and the trainer. */
#ifndef FM_MODEL_TRAINER_H
#define FM_MODEL_TRAINER_H

#include "fathom/ep.h"
#include "fathom/gemm_quant.h"
#include "fathom/mla.h"
#include "fathom/model_train.h"
#include "model_layout.h"
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

/** What mla gets and gives: rows as wide as it takes them. */
struct fm_model_mla_saved {
    fm_bf16 *q, *k;  // [tokens, heads, nope + rope]
    fm_bf16 *v;      // [tokens, heads, value]
    float *out;      // likewise
    float *lse;      // [tokens, heads]
    int32_t *starts; // [sequences + 1]
};

struct fm_model_attention_saved {
    const float *x;                                  // [tokens, hidden], normalised
    float *low, *low_normed, *low_inverse;           // of queries, where they have a low rank
    float *queries;                                  // [tokens, heads, nope + rope], rotated
    float *latents, *latent_normed, *latent_inverse; // [tokens, kv_lora + rope], [tokens, kv_lora]
    float *key_rope;                                 // [tokens, rope], rotated
    float *keys_values;                              // [tokens, heads, nope + value]
    float *probabilities;                            // [sequence, head][length, length], in f32
    struct fm_model_mla_saved mla;                   // in BF16 and FP8
    float *heads;                                    // [tokens, heads, value]
};

/** Rows that lie one expert's after the other. */
struct fm_model_groups {
    int count;
    const int64_t *offsets; // [count + 1]: group g has the rows from offsets[g] to below offsets[g + 1]
    struct fm_model_mlp *const *experts; // [count], in the order in which they are placed in memory
};

struct fm_model_moe_saved {
    struct fm_model_route route;
    const float *x; // [tokens, hidden], normalised
    struct fm_model_groups groups;
    fm_gemm_operand x_rows;            // [tokens, hidden]: x as it travels: F32, BF16, or E4M3 with scales
    fm_gemm_quantised in;              // [rows, hidden] of this rank's experts
    float *out;                        // likewise
    struct fm_model_mlp_saved experts; // of those rows
    // Backward:
    const float *dy;         // [tokens, hidden]
    fm_gemm_operand dy_rows; // as it travels
    fm_gemm_quantised drows; // [rows, hidden]: gradients of `out`
    float *din;              // [rows, hidden]
    float *dweights;         // [tokens, topk]
    // Where experts lie on several ranks:
    int layer; // its number
    fm_ep_handle *handle;
    fm_ep_op *sent, *returned; // on their way, or NULL
    int32_t *slots;            // [tokens, topk]
    float *sum;                // [tokens, hidden]
};

struct fm_model_layer_saved {
    const float *x; // [tokens, hidden]: before attention
    float *middle;  // before the network
    float *x_normed, *middle_normed;
    float *x_inverse, *middle_inverse;
    float *out;
    float *dnormed;            // backward
    struct fm_model_mark mark; // of scratch, before it
    struct fm_model_attention_saved attention;
    struct fm_model_mlp_saved mlp;
    struct fm_model_moe_saved moe;
};

struct fm_model_predictor_saved {
    const float *hidden; // [tokens, hidden]: what it goes on from
    float *embedded, *embed_inverse, *hidden_inverse, *joined, *normed, *inverse;
    float *dx; // gradient of its layer's out, by its own loss and by the predictors after it
    struct fm_model_layer_saved layer;
};

/** A micro-batch in a stage. Everything it points to lies in the lane's scratch. */
struct fm_model_visit {
    struct fm_model_stage stage;
    struct fm_model_batch batch;
    const int32_t *ids; // [sequences, length + 1 + predict_layers]
    int unit, step;     // of the walk
    const float *x;     // [tokens, hidden]: where forward stands; at the end what the stage gives
    float *dx;          // the same of backward
    struct fm_model_layer_saved *layers;
    struct fm_model_predictor_saved *predictors;
    int32_t *column, *targets; // [tokens]
    const float *hidden;       // of the head: before and after its norm
    float *normed, *inverse, *dnormed;
};

/** What gradients of all experts' weights need, in BF16 or FP8. */
struct fm_model_grouped_gradient {
    const struct fm_model_groups *groups;
    fm_gemm_operand in;                // [rows, hidden]
    const float *product;              // [rows, width]
    fm_gemm_operand d_out, dgate, dup; // by columns
};

/** Gradients of weights that wait: what a backward for the input alone leaves for later. */
struct fm_model_queue {
    struct fm_model_queue_item {
        int64_t rows;
        const float *x; // in the visit's scratch
        const struct fm_model_weight *weight;
        float *dy;                                // a copy
        struct fm_model_grouped_gradient experts; // where weight is NULL
    } * items;
    int count, capacity;
    struct fm_model_scratch scratch;
    fm_status status; // FM_ERR_NOMEM sticks until the queue is run
};

void fm_model_queue_add(struct fm_model_queue *queue, int64_t rows, const float *x,
                        const struct fm_model_weight *weight, const float *dy);
/** Its columns lie in the queue's scratch. */
void fm_model_queue_add_experts(struct fm_model_queue *queue,
                                const struct fm_model_grouped_gradient *gradient);
/** Computes what waits, in the order in which it came, and empties the queue. */
FM_MUST_USE fm_status fm_model_queue_run(struct fm_model_queue *queue,
                                         const struct fm_model_compute *compute);
void fm_model_queue_free(struct fm_model_queue *queue);

/** What a lane needs where experts lie on several ranks. */
struct fm_model_exchange {
    fm_ep_group *group;
    int first; // slot of this rank
    const int32_t *slot_of,
        *expert_in;         // [layers + predict_layers][experts]: where an expert lies, what lies where
    fm_ep_handle **handles; // [layers + predict_layers], made when they are needed
};

/** Parameters that the same ranks hold, and of which each updates its shard: [at, at + count) of values and gradients. */
struct fm_model_segment {
    enum fm_model_party_kind party;
    int64_t at, count; // padded to equal shards
    int64_t first;     // of this rank's shard
    int64_t shard;     // its cells
    int64_t moments;   // where its moments lie
};
enum { FM_MODEL_SEGMENTS = 3 };

struct fm_model_rank;
struct fm_model_crew;
struct fm_model_front;

/**
 * Micro-batches run side by side, each by one thread from beginning to end: a lane has what one needs of its own, gradients,
 * scratch and sums, and shares the values. Gradients are summed in the order of the micro-batches, so the result does not
 * depend on how many lanes there are. A lane is a trainer without lanes.
 */
struct fm_trainer {
    struct fm_model model; // values instead of files; sessions run on it
    fm_model_training training;
    int64_t count, moment_count; // of parameters, padding of shards included; of those that are updated here
    float *values, *gradients;   // [count]
    float *mean, *square;        // of the shards
    int64_t step;
    // Of the step that runs:
    double loss_sum, predict_sum, balance_sum;
    double weight;                   // of a token's loss: 1 / tokens of the step
    double balance_weight;           // of a sequence's balance loss
    int evaluate;                    // forward alone
    int64_t *loads;                  // [layers + predict_layers][experts]: tokens of this step
    fm_mla_context *mla;             // attention in BF16 and FP8; NULL: f32
    struct fm_model_scratch rounded; // weights of the step that runs, as products take them
    struct fm_model_segment segments[FM_MODEL_SEGMENTS];
    int segment_count;
    struct fm_model_exchange *exchange; // NULL: all experts are here
    struct fm_model_rank *rank;         // where this is one rank of several
    struct fm_model_crew *crew;         // the ranks, where this stands for all of them
    struct fm_model_front *front;       // the same, where they are processes
    struct fm_trainer *lanes;           // NULL in a lane
    int lane_count;
    fm_status status; // of a lane's micro-batch
    char message[256];
};

/** Values, gradients, moments and loads for `count` parameters and `moment_count` of them to update here. */
FM_MUST_USE fm_status fm_model_trainer_allocate(struct fm_trainer *trainer);
/** The initial weights of what lies here. */
FM_MUST_USE fm_status fm_model_trainer_draw(struct fm_trainer *trainer);
/** The square of the norm of the gradient, as far as this trainer updates parameters by it. */
double fm_model_trainer_square(const struct fm_trainer *trainer);

/** Rounds all weights of products in BF16 or FP8, for what runs until they are forgotten. */
FM_MUST_USE fm_status fm_model_weights_round(struct fm_trainer *trainer);
FM_MUST_USE fm_status fm_model_weights_forget(struct fm_trainer *trainer);

/* Backward operators. "dx +=" unless said otherwise; gradients of weights are added. */

/** dx [rows, columns] = (or +=) dy weight; weight.gradient += dy^T x, or that is queued (compute.queue). */
void fm_model_linear_back(const struct fm_model_compute *compute, int64_t rows, const float *x,
                          const struct fm_model_weight *weight, const float *dy, float *dx, int accumulate);
/** weight.gradient += dy^T x. */
void fm_model_linear_weight(const struct fm_model_compute *compute, int64_t rows, const float *x,
                            const struct fm_model_weight *weight, const float *dy);
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

/** Opens trainer.mla where products are not f32. */
FM_MUST_USE fm_status fm_model_mla_open(struct fm_trainer *trainer, int threads);
/** Takes what it saves; 0 without memory. */
int fm_model_mla_take(struct fm_trainer *trainer, const struct fm_model_batch *batch,
                      struct fm_model_mla_saved *saved);
/** saved.heads, from saved.queries, keys_values and key_rope. */
FM_MUST_USE fm_status fm_model_mla_forward(struct fm_trainer *trainer, const struct fm_model_batch *batch,
                                           struct fm_model_attention_saved *saved);
/** dqueries and dkeys_values = gradients of those; dkey_rope +=. */
FM_MUST_USE fm_status fm_model_mla_back(struct fm_trainer *trainer, const struct fm_model_batch *batch,
                                        const struct fm_model_attention_saved *saved, const float *dheads,
                                        float *dqueries, float *dkeys_values, float *dkey_rope);

FM_MUST_USE fm_status fm_model_attention_forward(struct fm_trainer *trainer,
                                                 const struct fm_model_layer *layer,
                                                 const struct fm_model_batch *batch, const float *x,
                                                 float *out, struct fm_model_attention_saved *saved);
/** dx = gradient of x. */
FM_MUST_USE fm_status fm_model_attention_back(struct fm_trainer *trainer, const struct fm_model_layer *layer,
                                              const struct fm_model_batch *batch,
                                              const struct fm_model_attention_saved *saved, const float *dy,
                                              float *dx);

/** Takes what rows save; 0 without memory. */
int fm_model_mlp_take(struct fm_model_scratch *scratch, int64_t rows, int64_t width,
                      struct fm_model_mlp_saved *saved);
/** out = the network of saved.x. */
void fm_model_mlp_run(const struct fm_model_compute *compute, const struct fm_model_mlp *mlp, int64_t rows,
                      float *out, const struct fm_model_mlp_saved *saved);
FM_MUST_USE fm_status fm_model_mlp_forward(struct fm_trainer *trainer, const struct fm_model_mlp *mlp,
                                           int64_t rows, const float *x, float *out,
                                           struct fm_model_mlp_saved *saved);
/** dx = (or +=) gradient of x. */
FM_MUST_USE fm_status fm_model_mlp_back(struct fm_trainer *trainer, const struct fm_model_mlp *mlp,
                                        int64_t rows, const struct fm_model_mlp_saved *saved, const float *dy,
                                        float *dx, int accumulate);

/* The mixture of experts. `out` and `dx` are given to receive; what lies in them by then (of the shared experts) is given to
 * the step before it, too, as `shared`, and must not change in between. */

/** Chooses experts, counts their tokens in `loads` [experts], and sends rows to them. */
FM_MUST_USE fm_status fm_model_moe_send(struct fm_trainer *trainer, const struct fm_model_layer *layer,
                                        const struct fm_model_batch *batch, const float *x, int64_t *loads,
                                        struct fm_model_moe_saved *saved);
FM_MUST_USE fm_status fm_model_moe_experts(struct fm_trainer *trainer, const struct fm_model_layer *layer,
                                           const struct fm_model_batch *batch, const float *shared,
                                           struct fm_model_moe_saved *saved);
/** out += the routed experts. */
FM_MUST_USE fm_status fm_model_moe_receive(struct fm_trainer *trainer, const struct fm_model_batch *batch,
                                           float *out, struct fm_model_moe_saved *saved);
/** dy stays as it is until it is received. */
FM_MUST_USE fm_status fm_model_moe_back_send(struct fm_trainer *trainer, const struct fm_model_layer *layer,
                                             const struct fm_model_batch *batch, const float *dy,
                                             struct fm_model_moe_saved *saved);
FM_MUST_USE fm_status fm_model_moe_back_experts(struct fm_trainer *trainer,
                                                const struct fm_model_batch *batch, const float *shared,
                                                struct fm_model_moe_saved *saved);
/** dx += gradient of x. */
FM_MUST_USE fm_status fm_model_moe_back_receive(struct fm_trainer *trainer,
                                                const struct fm_model_layer *layer,
                                                const struct fm_model_batch *batch, float *dx,
                                                struct fm_model_moe_saved *saved);

/** Takes what `rows` of the experts save, and the groups of `count` experts, to be filled in. */
FM_MUST_USE fm_status fm_model_moe_take(struct fm_trainer *trainer, int64_t rows, int count,
                                        struct fm_model_moe_saved *saved, int64_t **out_offsets,
                                        struct fm_model_mlp ***out_experts);

/* Rows on their way to experts: f32, or rounded as the experts' products take them, so that what travels is what is
 * multiplied. */

/** x [tokens, hidden] as it travels. */
FM_MUST_USE fm_status fm_model_rows_round(struct fm_trainer *trainer, const struct fm_model_layer *layer,
                                          int64_t tokens, const float *x, fm_gemm_operand *out);
/** Room for rows of the type of `like`. */
FM_MUST_USE fm_status fm_model_rows_take(struct fm_trainer *trainer, const fm_gemm_operand *like,
                                         int64_t rows, fm_gemm_quantised *out);
/** Row `row` of rows, and its scales. */
const void *fm_model_rows_at(const fm_gemm_operand *rows, int64_t row);
const float *fm_model_rows_scales(const fm_gemm_operand *rows, int64_t row);
/** Row `row` of `to` = that one. */
void fm_model_rows_put(const fm_gemm_quantised *to, int64_t row, const void *data, const float *scales);
/** Row `row` of `to` = weight times that one; `wide` [hidden] gets that one as f32. */
void fm_model_rows_weigh(const fm_gemm_quantised *to, int64_t row, const void *data, const float *scales,
                         float weight, float *wide);

/** saved.out = the experts of saved.in. */
FM_MUST_USE fm_status fm_model_grouped_run(struct fm_trainer *trainer, struct fm_model_moe_saved *saved);
/** din [rows, hidden] = the gradient of saved.in, given saved.drows; gradients of weights are added, or queued. */
FM_MUST_USE fm_status fm_model_grouped_back(struct fm_trainer *trainer,
                                            const struct fm_model_moe_saved *saved, float *din);
/** Gradients of all experts' weights are added. */
FM_MUST_USE fm_status fm_model_grouped_weights(const struct fm_model_compute *compute,
                                               const struct fm_model_grouped_gradient *gradient);

/* The same steps where experts lie on several ranks (trainer.exchange). */
FM_MUST_USE fm_status fm_model_exchange_send(struct fm_trainer *trainer, const struct fm_model_batch *batch,
                                             struct fm_model_moe_saved *saved);
FM_MUST_USE fm_status fm_model_exchange_experts(struct fm_trainer *trainer,
                                                const struct fm_model_layer *layer,
                                                const struct fm_model_batch *batch, const float *shared,
                                                struct fm_model_moe_saved *saved);
FM_MUST_USE fm_status fm_model_exchange_receive(struct fm_trainer *trainer,
                                                const struct fm_model_batch *batch, float *out,
                                                struct fm_model_moe_saved *saved);
FM_MUST_USE fm_status fm_model_exchange_back_send(struct fm_trainer *trainer,
                                                  const struct fm_model_batch *batch,
                                                  struct fm_model_moe_saved *saved);
FM_MUST_USE fm_status fm_model_exchange_back_experts(struct fm_trainer *trainer,
                                                     const struct fm_model_batch *batch, const float *shared,
                                                     struct fm_model_moe_saved *saved);

/* A layer: open, then, with experts, experts, then close, which makes saved.out; and back. `loads`: of its experts. */
FM_MUST_USE fm_status fm_model_layer_open(struct fm_trainer *trainer, const struct fm_model_layer *layer,
                                          int64_t *loads, const struct fm_model_batch *batch, const float *x,
                                          struct fm_model_layer_saved *saved);
FM_MUST_USE fm_status fm_model_layer_experts(struct fm_trainer *trainer, const struct fm_model_layer *layer,
                                             const struct fm_model_batch *batch,
                                             struct fm_model_layer_saved *saved);
FM_MUST_USE fm_status fm_model_layer_close(struct fm_trainer *trainer, const struct fm_model_layer *layer,
                                           const struct fm_model_batch *batch,
                                           struct fm_model_layer_saved *saved);
/** dx: the gradient of what the layer gave; the last step makes it that of what it got. */
FM_MUST_USE fm_status fm_model_layer_back_open(struct fm_trainer *trainer, const struct fm_model_layer *layer,
                                               const struct fm_model_batch *batch, const float *dx,
                                               struct fm_model_layer_saved *saved);
FM_MUST_USE fm_status fm_model_layer_back_experts(struct fm_trainer *trainer,
                                                  const struct fm_model_batch *batch,
                                                  struct fm_model_layer_saved *saved);
FM_MUST_USE fm_status fm_model_layer_back_close(struct fm_trainer *trainer,
                                                const struct fm_model_layer *layer,
                                                const struct fm_model_batch *batch, float *dx,
                                                struct fm_model_layer_saved *saved);

/** Adds the cross-entropy of normalised rows to *sum; dx = its gradient, times weight. */
FM_MUST_USE fm_status fm_model_head(struct fm_trainer *trainer, int64_t tokens, const float *x,
                                    const int32_t *targets, double weight, double *sum, float *dx);
/** What a predictor's layer gets (*out_x), from the hidden rows before it and the next tokens. */
FM_MUST_USE fm_status fm_model_predictor_open(struct fm_trainer *trainer, int index,
                                              const struct fm_model_batch *batch, const float *hidden,
                                              const int32_t *next, struct fm_model_predictor_saved *saved,
                                              float **out_x);
/** Its loss on what the layer gave, and the gradient of that: saved.dx. */
FM_MUST_USE fm_status fm_model_predictor_close(struct fm_trainer *trainer, int index,
                                               const struct fm_model_batch *batch, const float *x,
                                               const int32_t *targets,
                                               struct fm_model_predictor_saved *saved);
/** dx: the gradient of what its layer got; dhidden += that of the hidden rows. */
FM_MUST_USE fm_status fm_model_predictor_back(struct fm_trainer *trainer, int index,
                                              const struct fm_model_batch *batch, const int32_t *next,
                                              const struct fm_model_predictor_saved *saved, const float *dx,
                                              float *dhidden);

/* The walk of a visit, whose stage, batch and ids are set, through its stage. Losses, loads and gradients are added to the
 * trainer's. */

/** `input` [tokens, hidden], which stays as it is until the visit's backward is done; NULL: the first stage. */
FM_MUST_USE fm_status fm_model_forward_begin(struct fm_trainer *trainer, struct fm_model_visit *visit,
                                             const float *input);
int fm_model_forward_done(const struct fm_trainer *trainer, const struct fm_model_visit *visit);
FM_MUST_USE fm_status fm_model_forward_step(struct fm_trainer *trainer, struct fm_model_visit *visit);
/** `output_gradient` is copied; NULL: the last stage. */
FM_MUST_USE fm_status fm_model_back_begin(struct fm_trainer *trainer, struct fm_model_visit *visit,
                                          const float *output_gradient);
int fm_model_back_done(const struct fm_model_visit *visit);
FM_MUST_USE fm_status fm_model_back_step(struct fm_trainer *trainer, struct fm_model_visit *visit);

/** Runs forward and, unless the trainer evaluates, backward of one micro-batch through all layers. */
FM_MUST_USE fm_status fm_model_pass(struct fm_trainer *trainer, const struct fm_model_batch *batch,
                                    const int32_t *ids);

#endif
