/* The parameters of a model, by the names that Hugging Face checkpoints give them. */
#ifndef FM_MODEL_WEIGHTS_H
#define FM_MODEL_WEIGHTS_H

#include "fathom/gemm.h"
#include "fathom/model.h"
#include "model_compute.h"

/** A parameter: [rows, columns], or a vector of `columns` where rows is 0. */
struct fm_model_weight {
    int64_t rows, columns;
    fm_dtype floor;                // the narrowest type it may be multiplied in; 0: any
    struct fm_model_matrix matrix; // as stored
    fm_gemm_weights packed; // for products in BF16 or FP8, in the model's region; n is 0: there is none
    void *memory;           // of `matrix`, where no file and no master holds it
    float *vector;          // of a vector: as f32; owned where the file has another type
    float *values;          // in training: the f32 master, which `matrix` and `vector` view
    float *gradient;        // in training
    fm_gemm_operand
        rounded; // in training: `values` as products take them in the step that runs; dtype 0: not rounded
};

/** Its numbers. */
static inline int64_t fm_model_weight_cells(const struct fm_model_weight *weight)
{
    return (weight->rows ? weight->rows : 1) * weight->columns;
}

struct fm_model_mlp {
    struct fm_model_weight gate, up, down;
};

struct fm_model_layer {
    struct fm_model_weight input_norm, q_a, q_a_norm, q_b; // q_b is q_proj where there is no low rank
    struct fm_model_weight kv_a, kv_a_norm, kv_b, o, post_norm;
    fm_gemm_weights
        *kv_heads; // [2, heads] or NULL: kv_b's keys, transposed, and values of each head, packed BF16
    struct fm_model_mlp mlp; // of a dense layer, or the shared experts
    struct fm_model_weight router, router_bias;
    struct fm_model_mlp *experts; // NULL in a dense layer
};

/** A multi-token prediction head (V3 report, 2.2): a layer behind a projection of what it follows and the next token. */
struct fm_model_predictor {
    struct fm_model_weight embed_norm, hidden_norm, project, norm;
    struct fm_model_layer layer;
};

struct fm_model_weights {
    struct fm_model_weight embed, norm, head; // head views embed where they are tied
    struct fm_model_layer *layers;
    struct fm_model_predictor *predictors;
};

/** Makes the structs with their shapes; no values yet. */
FM_MUST_USE fm_status fm_model_weights_create(const fm_model_config *config,
                                              struct fm_model_weights *out_weights);
void fm_model_weights_destroy(const fm_model_config *config, struct fm_model_weights *weights);

/** Called with every parameter's name, in a fixed order. */
typedef fm_status (*fm_model_weight_visitor)(void *context, const char *name, struct fm_model_weight *weight);
/** Heads for multi-token prediction are visited last, and only when asked for. Stops at the first failure. */
FM_MUST_USE fm_status fm_model_weights_each(const fm_model_config *config, struct fm_model_weights *weights,
                                            int with_predictors, fm_model_weight_visitor visit,
                                            void *context);

/** Tells whether layer `index` is a mixture of experts. */
static inline int fm_model_is_moe(const fm_model_config *config, int index)
{
    return index >= config->dense_layers && config->experts > 0;
}

/** A layer's experts and its other network. */
enum { FM_MODEL_SOURCES_MAX = 2 };

/** Rows that products share: they are rounded once, where products are BF16 or FP8, and then picked. */
struct fm_model_source {
    const float *x; // [rows, columns]
    int64_t rows, columns;
    const int32_t *picks; // [pick_count]: the source's rows are these of x; NULL: all of x
    int64_t pick_count;
};

/** out [rows, weight's rows] = rows [first, first + rows) of a source, times the weight transposed. */
struct fm_model_product {
    int source; // its number
    int64_t first, rows;
    const struct fm_model_weight *weight;
    float *out;
};

#endif
