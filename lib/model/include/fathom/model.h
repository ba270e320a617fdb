/**
 * @file model.h
 * Models of the DeepSeek-V2 and V3 architecture: read from Hugging Face directories, run, and made to generate.
 *
 *     fm_model *model;
 *     fm_model_session *session;
 *     fm_model_options options = {.size = sizeof options};
 *     FM_TRY(fm_model_open("DeepSeek-V2-Lite", &options, &model));
 *     FM_TRY(fm_model_session_open(model, 4096, &session));
 *     FM_TRY(fm_model_feed(session, ids, count, FM_MODEL_LAST, logits));     // logits: [vocab]
 *     ...
 *     fm_model_session_close(session);
 *     fm_model_close(model);
 *
 * The architecture (DeepSeek-V2, arXiv 2405.04434; DeepSeek-V3, arXiv 2412.19437): embedding; layers of RMSNorm,
 * multi-head latent attention (queries through a low rank or not, rotary embedding in interleaved pairs, YaRN), RMSNorm and
 * a SwiGLU network, dense in the first layers and a mixture of experts after them (softmax or sigmoid gate, correction
 * bias, groups, shared experts); RMSNorm and the output head. A head for multi-token prediction can draft
 * (fm_model_draft_batch()).
 *
 * Arithmetic is f32, whatever the weights are stored as, unless BF16 or FP8 is asked for. Results do not depend on the
 * instruction set, the number of threads, how a text is cut into calls of fm_model_feed(), or what is fed beside it.
 *
 * Threads. A model serves one call at a time, on the calling thread and an OpenMP team: its sessions take turns.
 */
#ifndef FATHOM_MODEL_H
#define FATHOM_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/status.h"
#include "fathom/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fm_model_family {
    FM_MODEL_V2 = 1, /**< `deepseek_v2` */
    FM_MODEL_V3,     /**< `deepseek_v3` */
} fm_model_family;

/** How the gate turns logits into scores. */
typedef enum fm_model_gate {
    FM_MODEL_SOFTMAX = 1,
    FM_MODEL_SIGMOID,
} fm_model_gate;

/** YaRN (arXiv 2309.00071): how far positions reach beyond what the model was trained for. `factor` 0: none. */
typedef struct fm_model_yarn {
    double factor, beta_fast, beta_slow, mscale, mscale_all_dim;
    int original_context;
} fm_model_yarn;

/** The shape of a model, as config.json tells it; the comment is its key there where the name differs. */
typedef struct fm_model_config {
    fm_model_family family;  /**< model_type */
    int vocab;               /**< vocab_size */
    int hidden;              /**< hidden_size */
    int intermediate;        /**< intermediate_size: of the dense layers */
    int layers;              /**< num_hidden_layers */
    int dense_layers;        /**< first_k_dense_replace */
    int heads;               /**< num_attention_heads */
    int q_lora;              /**< q_lora_rank; 0: queries have one projection */
    int kv_lora;             /**< kv_lora_rank */
    int nope;                /**< qk_nope_head_dim */
    int rope;                /**< qk_rope_head_dim */
    int value;               /**< v_head_dim */
    int experts;             /**< n_routed_experts; 0: all layers are dense */
    int expert_intermediate; /**< moe_intermediate_size */
    int shared_experts;      /**< n_shared_experts */
    int topk;                /**< num_experts_per_tok */
    int groups;              /**< n_group */
    int topk_groups;         /**< topk_group */
    fm_model_gate gate;      /**< scoring_func */
    int correction_bias;     /**< topk_method noaux_tc: a bias chooses, a group scores by its best two */
    int normalise_topk;      /**< norm_topk_prob */
    double routed_scale;     /**< routed_scaling_factor */
    double epsilon;          /**< rms_norm_eps */
    double rope_theta;
    fm_model_yarn yarn; /**< rope_scaling */
    int context;        /**< max_position_embeddings */
    int predict_layers; /**< num_nextn_predict_layers: multi-token prediction */
    int tied_head;      /**< tie_word_embeddings */
    int bos, eos;       /**< bos_token_id, eos_token_id; -1: none */
} fm_model_config;

/**
 * Reads a config.json. FM_ERR_FORMAT: a key is missing, out of range or contradicts another (message: file, line, what was
 * expected); FM_ERR_UNSUPPORTED: another architecture (the message lists those known), or a feature that is none of the
 * above (attention_bias, other activations, other topk_method); or as fm_base_doc_load() fails.
 */
FM_API FM_MUST_USE fm_status fm_model_config_load(const char *path, fm_model_config *out_config);
/** Checks a configuration that was filled by hand. FM_ERR_ARG. */
FM_API FM_MUST_USE fm_status fm_model_config_check(const fm_model_config *config);
/** Writes it as config.json, with "torch_dtype": `dtype` ("bfloat16", "float32"). Fails as fm_model_config_check() and
 *  fm_base_file_save() do. */
FM_API FM_MUST_USE fm_status fm_model_config_save(const fm_model_config *config, const char *dtype,
                                                  const char *path);
/** Parameters in all, and those that a token meets (shared ones and its topk experts). Multi-token heads not counted. */
FM_API int64_t fm_model_config_parameters(const fm_model_config *config, int64_t *out_active);

/** Zero-initialise, then set `size`. */
typedef struct fm_model_options {
    size_t size;
    int threads; /**< 0: fm_base_cpu_threads() */
    /** What products with weights are computed in: FM_DTYPE_F32, which 0 means; FM_DTYPE_BF16; or FM_DTYPE_F8_E4M3 with a
     *  scale for 128 channels of activations and 128 x 128 of weights, but BF16 for the head and for the projections inside
     *  attention. BF16 and FP8 weights are packed into memory, rounded once where they are stored otherwise. The router is f32
     *  always. */
    fm_dtype dtype;
    /** What attention and its cache are held in: FM_DTYPE_F32, FM_DTYPE_BF16, or FM_DTYPE_F8_E4M3 with a scale for 128 channels,
     *  which BF16 queries meet. 0: BF16 with products in FP8, else F32. Others than F32 need kv_lora_rank and
     *  qk_rope_head_dim to be multiples of 16, and so do products in BF16 and FP8. */
    fm_dtype cache_dtype;
    int predict; /**< 1: load the first head for multi-token prediction, to draft with */
} fm_model_options;

typedef struct fm_model fm_model;

/**
 * Opens a directory with config.json and model.safetensors, or the shards that model.safetensors.index.json names. Weights
 * (F32, BF16, or F8_E4M3 with a `<name>_scale_inv` of 128x128 blocks) are mapped and used as they lie. FM_ERR_NOT_FOUND: no
 * such file, a shard is missing, or a tensor (named); FM_ERR_FORMAT: a tensor's shape is not what config.json asks for
 * (message: its name and both shapes); FM_ERR_UNSUPPORTED: its dtype, or sizes that the options do not allow; FM_ERR_LIMIT:
 * packed weights would not fit into memory (said before anything is packed, with both sizes); FM_ERR_ARG: `predict` without
 * such a head; or as fm_model_config_load() and fm_base_safetensors_open() fail; FM_ERR_NOMEM.
 */
FM_API FM_MUST_USE fm_status fm_model_open(const char *directory, const fm_model_options *options,
                                           fm_model **out_model);
/** A model of random weights, equal for equal configurations, dtypes and seeds: to measure and to test with. Fails as
 *  fm_model_config_check() and fm_model_open() do. */
FM_API FM_MUST_USE fm_status fm_model_open_random(const fm_model_config *config,
                                                  const fm_model_options *options, uint64_t seed,
                                                  fm_model **out_model);
/** After its sessions. NULL is allowed. */
FM_API void fm_model_close(fm_model *model);
FM_API const fm_model_config *fm_model_config_of(const fm_model *model);

/** Tokens that each expert of a layer has got since the model was opened, [experts]; NULL for a dense layer. */
FM_API const int64_t *fm_model_expert_loads(const fm_model *model, int layer);

/**
 * Experts with workers. A model that is opened shares every product out over its threads. Placed, an expert is computed by the
 * worker that has it, a thread whose caches its weights then stay in, or by several that have copies of it and split its rows;
 * workers do not wait for one another between an expert's products. A plan of `eplb` says who has which, and is made anew from
 * loads; it is taken up between two calls of fm_model_feed(). Results are the same to the bit.
 *
 * It pays where workers have caches or memory of their own. Where all share them it evens out worse than sharing each product,
 * most of all with few rows. Workers share one copy of the weights in memory.
 */
#define FM_MODEL_WORKERS_MAX 64

/** Places all experts evenly, with so many copies more in each layer; 0 and 0: shares all products again. FM_ERR_ARG: no experts; `workers` beyond the model's
 *  threads or FM_MODEL_WORKERS_MAX; `replicas` more than would give each worker each expert. FM_ERR_NOMEM. */
FM_API FM_MUST_USE fm_status fm_model_experts_place(fm_model *model, int workers, int replicas);
/** Plans all layers from `loads` [layers, experts] (rows of dense layers are not read), or, where that is NULL, from what was
 *  counted since the last plan. A layer whose plan is no better stays. FM_ERR_STATE: not placed; FM_ERR_ARG: a load is negative
 *  or not finite; FM_ERR_NOMEM. */
FM_API FM_MUST_USE fm_status fm_model_experts_plan(fm_model *model, const float *loads);
/** To be called after each step: every `interval`-th time a plan from the loads since then (a moving average over intervals)
 *  begins, one layer in each call, at most some milliseconds long. Fails as fm_model_experts_plan(). */
FM_API FM_MUST_USE fm_status fm_model_experts_turn(fm_model *model, int interval);

/** Sums since the experts were placed. Loads are in units of up to 8 rows of one expert in one call: fewer rows take as long,
 *  because it is the weights that must be read. busiest * workers / load is the imbalance, 1 at best. */
typedef struct fm_model_expert_stats {
    int workers, replicas; /**< 0 workers: not placed */
    int64_t plans, moves;  /**< layers that took a new plan up, and copies that changed workers in them */
    int64_t load;          /**< of all workers */
    int64_t busiest;       /**< of the busiest one in each layer and call */
    int64_t
        busiest_in_order; /**< what that would have been with consecutive experts to each worker and no copies */
    int64_t worker_load[FM_MODEL_WORKERS_MAX];
} fm_model_expert_stats;
FM_API void fm_model_experts_stats(const fm_model *model, fm_model_expert_stats *out_stats);

/** A text in the making: its latent cache, in blocks of FM_MODEL_BLOCK positions. */
typedef struct fm_model_session fm_model_session;
#define FM_MODEL_BLOCK 64

/** `positions_max` 0: the model's context. FM_ERR_LIMIT: more than that; FM_ERR_NOMEM. Blocks are allocated as positions
 *  fill them. */
FM_API FM_MUST_USE fm_status fm_model_session_open(fm_model *model, int positions_max,
                                                   fm_model_session **out_session);
/** NULL is allowed. */
FM_API void fm_model_session_close(fm_model_session *session);
/** Positions that are filled. */
FM_API int fm_model_session_length(const fm_model_session *session);
/** Forgets all positions from `length` on. FM_ERR_ARG: more than there are. */
FM_API FM_MUST_USE fm_status fm_model_session_cut(fm_model_session *session, int length);
/** What FM_MODEL_BLOCK positions take in a session's cache. */
FM_API int64_t fm_model_session_block_bytes(const fm_model *model);

typedef enum fm_model_logits {
    FM_MODEL_LAST = 1, /**< of the last token: [vocab] */
    FM_MODEL_ALL,      /**< of every token fed: [count, vocab] */
} fm_model_logits;

/**
 * Appends `count` tokens and computes the logits that follow them, f32. FM_ERR_ARG: no token, or an id outside
 * the vocabulary (message: which); FM_ERR_LIMIT: more positions than the session has; FM_ERR_NOMEM. The session is as
 * before where it fails.
 */
FM_API FM_MUST_USE fm_status fm_model_feed(fm_model_session *session, const int32_t *ids, int count,
                                           fm_model_logits which, float *out_logits);

/** One text's share of a batch. */
typedef struct fm_model_part {
    fm_model_session *session;
    const int32_t *ids; /**< [count] */
    int count;
    fm_model_logits which;
    float *logits; /**< out, as fm_model_feed() has them; NULL: not wanted */
} fm_model_part;

/**
 * fm_model_feed() of several sessions of one model at once, so that every weight is read once for all of them. Each
 * part's results are, to the bit, those of feeding it alone. Fails as that does, and FM_ERR_ARG: no part, a session twice
 * or of another model; all sessions are as before then.
 */
FM_API FM_MUST_USE fm_status fm_model_feed_batch(const fm_model_part *parts, int count);

/** One text's share of a batch of drafts. */
typedef struct fm_model_draft {
    fm_model_session *session;
    const int32_t *next; /**< the tokens behind each position that was fed since the last draft */
    int32_t *out_id;     /**< the likeliest token behind the last of them; NULL: not wanted */
} fm_model_draft;

/**
 * Guesses tokens after the next by the model's first head for multi-token prediction (DeepSeek-V3 report, 2.2), which
 * `predict` loads. With n positions fed since the session's last draft, next[i] follows the i-th of them, and *out_id is a
 * guess of what follows next[n - 1]. Feed next[n - 1] and the guess together (FM_MODEL_ALL): where the model itself chooses
 * the guess its logits are right and a pass is saved, otherwise fm_model_session_cut() takes it back. FM_ERR_ARG: no draft,
 * sessions of several models, one without positions to draft from, an id outside the vocabulary; FM_ERR_NOMEM.
 */
FM_API FM_MUST_USE fm_status fm_model_draft_batch(const fm_model_draft *drafts, int count);

/** How the next token is drawn; zeros: the likeliest. */
typedef struct fm_model_sampling {
    double temperature; /**< 0: greedy */
    double top_p;       /**< among the likeliest whose probabilities reach this sum; 0 or 1: all */
    int top_k;          /**< among so many likeliest; 0: all */
    uint64_t seed;
} fm_model_sampling;

/** Draws a token from logits: equal for equal logits, sampling and `position`. Of equally likely ones the lowest id is the
 *  likeliest. FM_ERR_ARG: a negative or NaN field, top_p above 1, or no finite logit; FM_ERR_NOMEM. */
FM_API FM_MUST_USE fm_status fm_model_sample(const float *logits, int vocab,
                                             const fm_model_sampling *sampling, int position,
                                             int32_t *out_id);

#ifdef __cplusplus
}
#endif
#endif
