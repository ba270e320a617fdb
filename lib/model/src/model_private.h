/* What the files of the model share: the opened model, and operators over tokens. */
#ifndef FM_MODEL_PRIVATE_H
#define FM_MODEL_PRIVATE_H

#include "fathom/mla.h"
#include "fathom/safetensors.h"
#include "model_weights.h"

/** The files of a checkpoint, mapped. */
struct fm_model_files {
    struct shard {
        fm_safetensors *map;
        char *name;
    } * shards;
    int count;
};

FM_MUST_USE fm_status fm_model_files_open(const char *directory, struct fm_model_files *out_files);
void fm_model_files_close(struct fm_model_files *files);
/** Points the weights at the tensors of the files; converts vectors to f32 where they are not. */
FM_MUST_USE fm_status fm_model_files_attach(const struct fm_model_files *files, const fm_model_config *config,
                                            struct fm_model_weights *weights);

/** Cosines and sines of the rotary embedding. */
struct fm_model_rotary {
    int pairs;
    int positions;
    float *cosines, *sines; // [positions][pairs]
    float softmax_scale;    // of attention scores, YaRN's correction included
};

FM_MUST_USE fm_status fm_model_rotary_open(const fm_model_config *config, struct fm_model_rotary *out_rotary);
void fm_model_rotary_close(struct fm_model_rotary *rotary);
/** Rotates `rope` channels in pairs (2i, 2i + 1); direction -1 rotates back, which is the gradient. */
void fm_model_rotary_apply(const struct fm_model_rotary *rotary, int position, int direction,
                           float *channels);

struct fm_model {
    fm_model_config config;
    struct fm_model_compute compute;
    struct fm_model_scratch scratch;
    struct fm_model_files files;
    struct fm_model_weights weights;
    struct fm_model_rotary rotary;
    fm_mla_context *mla; // NULL: attention is f32
    int is_part;         // one rank's part, which no session can run on
};

/** out[rows, weight's rows] = x[rows, weight's columns] weight^T. */
void fm_model_linear(const struct fm_model_compute *compute, int64_t rows, const float *x,
                     const struct fm_model_weight *weight, float *out);
/** Normalises rows; `inverses` [rows] may be NULL. */
void fm_model_norm_rows(const struct fm_model_compute *compute, int64_t rows, int64_t width, const float *x,
                        int64_t x_stride, const struct fm_model_weight *weight, float epsilon, float *out,
                        int64_t out_stride, float *inverses);
/** out[rows, width] = silu(gate) * up. */
void fm_model_swiglu_rows(const struct fm_model_compute *compute, int64_t count, const float *gate,
                          const float *up, float *out);
/** Rows of the embedding, as f32. Ids are checked by the caller. */
void fm_model_embed(const struct fm_model_weight *embed, const int32_t *ids, int64_t count, float *out);

/** Which experts tokens go to. */
struct fm_model_route {
    int64_t tokens;
    float *scores;    // [tokens, experts]: softmax or sigmoid of the logits
    int32_t *experts; // [tokens, topk]
    float *weights;   // [tokens, topk]
    int64_t *offsets; // [experts + 1]: rows of each expert, sorted by it and then by token
    int32_t *rows;    // [tokens * topk]: row of choice (token, j)
};

/** x [tokens, hidden]; all arrays come from scratch. */
FM_MUST_USE fm_status fm_model_route(const fm_model_config *config, const struct fm_model_compute *compute,
                                     struct fm_model_scratch *scratch, const struct fm_model_layer *layer,
                                     int64_t tokens, const float *x, struct fm_model_route *out_route);

#endif
