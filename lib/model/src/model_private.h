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
                                            int with_predictors, struct fm_model_weights *weights);

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
    int predict;                     // 1: the first head for the token after the next is loaded
    fm_mla_form form;                // of the latent cache, where mla attends
    fm_mla_context *mla;             // NULL: attention is this library's own, in f32
    size_t page_bytes;               // of a layer's FM_MODEL_BLOCK positions in mla's cache
    void *region;                    // of packed weights
    int64_t *loads;                  // [layers, experts]: see fm_model_expert_loads(); NULL while training
    struct fm_model_experts *placed; // where experts have workers; NULL: the team shares all products out
    int is_part;                     // one rank's part, which no session can run on
};

/** Packs what is multiplied in BF16 or FP8. FM_ERR_LIMIT: it does not fit into memory. */
FM_MUST_USE fm_status fm_model_pack(fm_model *model);
/** Makes random weights instead of those of files, packed likewise. */
FM_MUST_USE fm_status fm_model_draw(fm_model *model, uint64_t seed);

/** Blocks of caches that several sessions share: a fixed number of them, each given to one holder at a time. */
struct fm_model_pool {
    char *memory; // [capacity] blocks; what was never given takes none
    int capacity, free_count;
    int32_t *free; // [capacity]: the first `free_count` are to be had, the last one next
};

/**
 * A text in the making. Its cache is blocks, [layer][page] each, that a table names in the order of positions; a page is what mla
 * calls so. The blocks lie in one piece of memory that grows in place, or in a pool: then the first `borrowed` of them belong to
 * somebody else, who has filled them.
 *
 * With a head that predicts, `hidden` has the rows of positions [drafted, length), which the head has not seen yet.
 */
struct fm_model_session {
    fm_model *model;
    struct fm_model_pool *pool; // NULL: memory of its own
    int positions_max, length;
    int block_count, block_room, borrowed;
    char *blocks;   // its own, or the pool's
    int32_t *table; // [block_room]; the first `block_count` are in use
    int drafted;
    float *hidden; // [hidden_room, hidden]
    int hidden_room;
};

static inline size_t fm_model_page_bytes(const fm_model *model)
{
    return model->mla ? model->page_bytes
                      : sizeof(float) * FM_MODEL_BLOCK * (size_t)(model->config.kv_lora + model->config.rope);
}

/** Bytes of a block: of all layers, and of the head that predicts behind them. */
static inline size_t fm_model_block_bytes(const fm_model *model)
{
    return fm_model_page_bytes(model) * (size_t)(model->config.layers + model->predict);
}

/** Tokens of one text that run together with others: positions [at, at + count). */
struct fm_model_piece {
    fm_model_session *session;
    int at, count;
};

/** One after the other in the rows of every operator, apart in attention alone. */
struct fm_model_pieces {
    fm_model *model;
    const struct fm_model_piece *list;
    int count, rows; // rows: tokens of all
};

/** Makes room for positions up to `positions`. */
FM_MUST_USE fm_status fm_model_session_reserve(fm_model_session *session, int positions);
/** Gives back all memory but that of the cache, and with it the positions that the head has not seen; gives the new length. */
int fm_model_session_rest(fm_model_session *session);
/** 1: the model has its head for drafts. */
static inline int fm_model_drafts(const fm_model *model)
{
    return model->predict;
}
/** Positions that the head has seen. */
static inline int fm_model_session_drafted(const fm_model_session *session)
{
    return session->drafted;
}
/** The cache of block `index`. */
void *fm_model_session_block(const fm_model_session *session, int index);

/** FM_ERR_NOMEM. */
FM_MUST_USE fm_status fm_model_pool_open(const fm_model *model, int capacity, struct fm_model_pool *out_pool);
void fm_model_pool_close(struct fm_model_pool *pool);
/** A block; -1: none is left. */
int32_t fm_model_pool_take(struct fm_model_pool *pool);
void fm_model_pool_give(struct fm_model_pool *pool, int32_t block);
/** A session of the model's whole context whose blocks come from a pool, which must outlive it. */
FM_MUST_USE fm_status fm_model_pool_session(struct fm_model_pool *pool, fm_model *model,
                                            fm_model_session **out_session);
/** Makes a block of the pool, filled, the session's next whole one: it ends there, and borrows it. What it held of its own there
 *  goes back. FM_ERR_NOMEM. */
FM_MUST_USE fm_status fm_model_session_borrow(fm_model_session *session, int32_t block);
/** The first block that is the session's own becomes somebody else's, who is to free it; `block` is what it borrows from then on:
 *  the same one, or another with equal bytes, for which its own goes back. */
void fm_model_session_share(fm_model_session *session, int32_t block);

/** x [rows, hidden] through a layer whose cache is the `index`-th. */
FM_MUST_USE fm_status fm_model_run_layer(const struct fm_model_pieces *pieces,
                                         const struct fm_model_layer *layer, int index, float *x);
/** x += attention of the normalised rows. */
FM_MUST_USE fm_status fm_model_attend(const struct fm_model_pieces *pieces,
                                      const struct fm_model_layer *layer, int index, const float *normed,
                                      float *x);

/** out[rows, weight's rows] = x[rows, weight's columns] weight^T. */
void fm_model_linear(const struct fm_model_compute *compute, int64_t rows, const float *x,
                     const struct fm_model_weight *weight, float *out);
/** A set of products at once: of several weights with the same rows, of experts with theirs. All weights are multiplied in
 *  one type. FM_ERR_NOMEM. */
FM_MUST_USE fm_status fm_model_products(const struct fm_model_compute *compute,
                                        struct fm_model_scratch *scratch,
                                        const struct fm_model_source *sources, int source_count,
                                        const struct fm_model_product *list, int count);
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
