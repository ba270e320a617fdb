/*
 * Inference: tokens are appended to a latent cache. Attention is computed in the absorbed form (V2 report, 2.1.2): a head's
 * query is carried into the latent space by its key projection, scores are products with the cached latents themselves,
 * and the weighted latents leave it by the value projection. So a position costs kv_lora + rope floats a layer, and no
 * keys or values of heads are ever stored.
 */
#include "model_private.h"

#include <math.h>

struct fm_model_session {
    fm_model *model;
    int positions_max, length;
    int block_count; // that have memory
    float **blocks;  // [block] -> [layer][FM_MODEL_BLOCK][kv_lora + rope]
};

fm_status fm_model_session_open(fm_model *model, int positions_max, fm_model_session **out_session)
{
    int context = model->config.context;
    if (positions_max == 0)
        positions_max = context;
    if (positions_max < 0 || positions_max > context)
        return fm_base_error_set(FM_ERR_LIMIT, "a session of %d positions; the model's context has %d",
                                 positions_max, context);
    fm_model_session *session = fm_base_mem_zalloc(1, sizeof *session);
    if (session)
        session->blocks = fm_base_mem_zalloc(((size_t)positions_max + FM_MODEL_BLOCK - 1) / FM_MODEL_BLOCK,
                                             sizeof *session->blocks);
    if (!session || !session->blocks) {
        fm_base_mem_free(session);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a session of %d positions", positions_max);
    }
    session->model = model;
    session->positions_max = positions_max;
    *out_session = session;
    return FM_OK;
}

void fm_model_session_close(fm_model_session *session)
{
    if (!session)
        return;
    for (int i = 0; i < session->block_count; i++)
        fm_base_mem_free(session->blocks[i]);
    fm_base_mem_free(session->blocks);
    fm_base_mem_free(session);
}

int fm_model_session_length(const fm_model_session *session)
{
    return session->length;
}

fm_status fm_model_session_cut(fm_model_session *session, int length)
{
    if (length < 0 || length > session->length)
        return fm_base_error_set(FM_ERR_ARG, "length is %d; the session has %d positions", length,
                                 session->length);
    session->length = length;
    return FM_OK;
}

static int64_t latent_width(const fm_model_config *config)
{
    return config->kv_lora + config->rope;
}

static fm_status grow(fm_model_session *session, int positions)
{
    const fm_model_config *config = &session->model->config;
    size_t floats = (size_t)config->layers * FM_MODEL_BLOCK * (size_t)latent_width(config);
    while (session->block_count * FM_MODEL_BLOCK < positions) {
        float *block = fm_base_mem_aligned(floats * sizeof *block, FM_CACHE_LINE);
        if (!block)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for the cache of position %d",
                                     session->block_count * FM_MODEL_BLOCK);
        session->blocks[session->block_count++] = block;
    }
    return FM_OK;
}

/** The latent row of a position in a layer. */
static float *latent(const fm_model_session *session, int layer, int position)
{
    int64_t width = latent_width(&session->model->config);
    return session->blocks[position / FM_MODEL_BLOCK] +
           ((int64_t)layer * FM_MODEL_BLOCK + position % FM_MODEL_BLOCK) * width;
}

/** One layer's attention over the new tokens, by heads. */
struct attention_work {
    const fm_model_session *session;
    const struct fm_model_layer *layer;
    int layer_index, count;
    const float *queries; // [count, heads, nope + rope], rotated
    float *out;           // [count, heads, value]
    float *spaces;        // a thread's: see space_floats()
    size_t space_floats;
};

// Of one thread and one head: queries and weighted sums in the latent space, scores.
static size_t space_floats(const fm_model_config *config, int count, int positions)
{
    size_t rows = (size_t)count;
    return fm_round_up(2 * rows * (size_t)latent_width(config), 16) +
           fm_round_up(rows * (size_t)positions, 16);
}

static void attend(const struct attention_work *work, int head, int thread)
{
    const fm_model_session *session = work->session;
    const fm_model_config *c = &session->model->config;
    const struct fm_model_compute *compute = &session->model->compute;
    int count = work->count, positions = session->length + count;
    int64_t width = latent_width(c), query_width = c->nope + c->rope,
            row = (int64_t)head * (c->nope + c->value);
    float *space = work->spaces + (size_t)thread * work->space_floats;
    float *query = space, *sum = query + count * width, *scores = sum + count * width;
    // The head's rows of kv_b: first its keys' part, then its values'.
    struct fm_model_matrix keys = work->layer->kv_b.matrix;
    int size = fm_base_dtype_bits(keys.dtype) / 8;
    keys.data = (const char *)keys.data + row * keys.stride * size;
    keys.row = row;
    struct fm_model_matrix values = keys;
    values.data = (const char *)values.data + c->nope * values.stride * size;
    values.row = row + c->nope;

    const float *from = work->queries + head * query_width;
    int64_t from_stride = c->heads * query_width;
    struct fm_model_matrix nope = fm_model_rows(from, from_stride), keys_flipped = fm_model_flip(keys);
    fm_model_matmul_alone(compute, thread, count, c->kv_lora, c->nope, &nope, &keys_flipped, query, width, 0);
    for (int i = 0; i < count; i++)
        memcpy(query + i * width + c->kv_lora, from + i * from_stride + c->nope,
               (size_t)c->rope * sizeof *query);
    struct fm_model_matrix query_rows = fm_model_rows(query, width);
    for (int at = 0; at < positions; at += FM_MODEL_BLOCK) {
        int rows = positions - at < FM_MODEL_BLOCK ? positions - at : FM_MODEL_BLOCK;
        struct fm_model_matrix block = fm_model_rows(latent(session, work->layer_index, at), width);
        fm_model_matmul_alone(compute, thread, count, rows, width, &query_rows, &block, scores + at,
                              positions, 0);
    }
    for (int i = 0; i < count; i++) {
        float *line = scores + (int64_t)i * positions;
        int visible = session->length + i + 1;
        compute->kernels->softmax(session->model->rotary.softmax_scale, line, visible);
        memset(line + visible, 0, (size_t)(positions - visible) * sizeof *line);
    }
    for (int at = 0; at < positions; at += FM_MODEL_BLOCK) {
        int rows = positions - at < FM_MODEL_BLOCK ? positions - at : FM_MODEL_BLOCK;
        struct fm_model_matrix part = fm_model_rows(scores + at, positions);
        struct fm_model_matrix block = fm_model_transposed(latent(session, work->layer_index, at), width);
        fm_model_matmul_alone(compute, thread, count, c->kv_lora, rows, &part, &block, sum, width, at > 0);
    }
    struct fm_model_matrix sums = fm_model_rows(sum, width);
    fm_model_matmul_alone(compute, thread, count, c->value, c->kv_lora, &sums, &values,
                          work->out + (int64_t)head * c->value, (int64_t)c->heads * c->value, 0);
}

static void attend_part(void *context, int64_t begin, int64_t end, int thread)
{
    for (int64_t head = begin; head < end; head++)
        attend(context, (int)head, thread);
}

static fm_status no_memory(int count)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory to feed %d tokens", count);
}

// x [count, hidden] += attention of the normalised rows `normed`.
static fm_status attention(fm_model_session *session, int index, int count, const float *normed, float *x)
{
    fm_model *model = session->model;
    const fm_model_config *c = &model->config;
    const struct fm_model_layer *layer = &model->weights.layers[index];
    struct fm_model_scratch *scratch = &model->scratch;
    size_t rows = (size_t)count;
    int64_t width = latent_width(c), query_width = c->nope + c->rope;
    float *low = fm_model_scratch_take(scratch, rows * (size_t)(c->q_lora ? c->q_lora : 1));
    float *queries = fm_model_scratch_take(scratch, rows * (size_t)(c->heads * query_width));
    float *latents = fm_model_scratch_take(scratch, rows * (size_t)width);
    float *heads = fm_model_scratch_take(scratch, rows * (size_t)c->heads * (size_t)c->value);
    float *out = fm_model_scratch_take(scratch, rows * (size_t)c->hidden);
    size_t space = space_floats(c, count, session->length + count);
    float *spaces = fm_model_scratch_take(scratch, space * (size_t)model->compute.threads);
    if (!low || !queries || !latents || !heads || !out || !spaces)
        return no_memory(count);
    if (c->q_lora) {
        fm_model_linear(&model->compute, count, normed, &layer->q_a, low);
        fm_model_norm_rows(&model->compute, count, c->q_lora, low, c->q_lora, &layer->q_a_norm,
                           (float)c->epsilon, low, c->q_lora, NULL);
    }
    fm_model_linear(&model->compute, count, c->q_lora ? low : normed, &layer->q_b, queries);
    fm_model_linear(&model->compute, count, normed, &layer->kv_a, latents);
    for (int i = 0; i < count; i++) {
        int position = session->length + i;
        float *cached = latent(session, index, position);
        memcpy(cached, latents + i * width, (size_t)width * sizeof *cached);
        model->compute.kernels->norm(cached, layer->kv_a_norm.vector, (float)c->epsilon, cached, c->kv_lora);
        fm_model_rotary_apply(&model->rotary, position, 1, cached + c->kv_lora);
        for (int h = 0; h < c->heads; h++)
            fm_model_rotary_apply(&model->rotary, position, 1,
                                  queries + ((int64_t)i * c->heads + h) * query_width + c->nope);
    }
    struct attention_work work = {session, layer, index, count, queries, heads, spaces, space};
    // Heads are shared once they are some 50 us of work.
    int64_t products = (int64_t)count * (session->length + count) * width * c->heads;
    fm_model_share(&model->compute, c->heads, products < 1 << 20 ? c->heads : 1, attend_part, &work);
    fm_model_linear(&model->compute, count, heads, &layer->o, out);
    model->compute.kernels->axpy(1, out, x, (int64_t)count * c->hidden);
    return FM_OK;
}

// out [rows, hidden] = the SwiGLU network of x.
static fm_status mlp(fm_model *model, const struct fm_model_mlp *mlp, int64_t rows, const float *x,
                     float *out)
{
    size_t count = (size_t)rows * (size_t)mlp->gate.rows;
    float *gate = fm_model_scratch_take(&model->scratch, count),
          *up = fm_model_scratch_take(&model->scratch, count);
    if (!gate || !up)
        return no_memory((int)rows);
    fm_model_linear(&model->compute, rows, x, &mlp->gate, gate);
    fm_model_linear(&model->compute, rows, x, &mlp->up, up);
    fm_model_swiglu_rows(&model->compute, (int64_t)count, gate, up, gate);
    fm_model_linear(&model->compute, rows, gate, &mlp->down, out);
    return FM_OK;
}

// x += the routed experts of the normalised rows.
static fm_status experts(fm_model *model, const struct fm_model_layer *layer, int count, const float *normed,
                         float *x)
{
    const fm_model_config *c = &model->config;
    struct fm_model_route route;
    int64_t hidden = c->hidden;
    FM_TRY(fm_model_route(c, &model->compute, &model->scratch, layer, count, normed, &route));
    size_t cells = (size_t)count * (size_t)c->topk * (size_t)hidden;
    float *in = fm_model_scratch_take(&model->scratch, cells),
          *out = fm_model_scratch_take(&model->scratch, cells);
    if (!in || !out)
        return no_memory(count);
    for (int64_t i = 0; i < (int64_t)count * c->topk; i++)
        memcpy(in + route.rows[i] * hidden, normed + i / c->topk * hidden, (size_t)hidden * sizeof *in);
    for (int e = 0; e < c->experts; e++) {
        int64_t begin = route.offsets[e], rows = route.offsets[e + 1] - begin;
        struct fm_model_mark mark = fm_model_scratch_mark(&model->scratch);
        if (rows > 0)
            FM_TRY(mlp(model, &layer->experts[e], rows, in + begin * hidden, out + begin * hidden));
        fm_model_scratch_release(&model->scratch, mark);
    }
    for (int64_t i = 0; i < (int64_t)count * c->topk; i++)
        model->compute.kernels->axpy(route.weights[i], out + route.rows[i] * hidden, x + i / c->topk * hidden,
                                     hidden);
    return FM_OK;
}

static fm_status run_layer(fm_model_session *session, int index, int count, float *x)
{
    fm_model *model = session->model;
    const fm_model_config *c = &model->config;
    const struct fm_model_layer *layer = &model->weights.layers[index];
    size_t cells = (size_t)count * (size_t)c->hidden;
    float *normed = fm_model_scratch_take(&model->scratch, cells),
          *out = fm_model_scratch_take(&model->scratch, cells);
    if (!normed || !out)
        return no_memory(count);
    fm_model_norm_rows(&model->compute, count, c->hidden, x, c->hidden, &layer->input_norm, (float)c->epsilon,
                       normed, c->hidden, NULL);
    FM_TRY(attention(session, index, count, normed, x));
    fm_model_norm_rows(&model->compute, count, c->hidden, x, c->hidden, &layer->post_norm, (float)c->epsilon,
                       normed, c->hidden, NULL);
    if (layer->experts)
        FM_TRY(experts(model, layer, count, normed, x));
    if (!layer->experts || c->shared_experts) {
        FM_TRY(mlp(model, &layer->mlp, count, normed, out));
        model->compute.kernels->axpy(1, out, x, (int64_t)cells);
    }
    return FM_OK;
}

static fm_status feed(fm_model_session *session, const int32_t *ids, int count, fm_model_logits which,
                      float *logits)
{
    fm_model *model = session->model;
    const fm_model_config *c = &model->config;
    struct fm_model_scratch *scratch = &model->scratch;
    float *x = fm_model_scratch_take(scratch, (size_t)count * (size_t)c->hidden);
    if (!x)
        return no_memory(count);
    FM_TRY(grow(session, session->length + count));
    fm_model_embed(&model->weights.embed, ids, count, x);
    for (int i = 0; i < c->layers; i++) {
        struct fm_model_mark mark = fm_model_scratch_mark(scratch);
        FM_TRY(run_layer(session, i, count, x));
        fm_model_scratch_release(scratch, mark);
    }
    int first = which == FM_MODEL_ALL ? 0 : count - 1;
    x += (int64_t)first * c->hidden;
    fm_model_norm_rows(&model->compute, count - first, c->hidden, x, c->hidden, &model->weights.norm,
                       (float)c->epsilon, x, c->hidden, NULL);
    fm_model_linear(&model->compute, count - first, x, &model->weights.head, logits);
    return FM_OK;
}

fm_status fm_model_feed(fm_model_session *session, const int32_t *ids, int count, fm_model_logits which,
                        float *out_logits)
{
    const fm_model_config *c = &session->model->config;
    if (count < 1)
        return fm_base_error_set(FM_ERR_ARG, "%d tokens to feed; expected at least one", count);
    if (count > session->positions_max - session->length)
        return fm_base_error_set(FM_ERR_LIMIT, "%d tokens after %d; the session has room for %d in all",
                                 count, session->length, session->positions_max);
    for (int i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= c->vocab)
            return fm_base_error_set(FM_ERR_ARG, "token %d has id %d; expected 0 to %d", i, (int)ids[i],
                                     c->vocab - 1);
    struct fm_model_mark mark = fm_model_scratch_mark(&session->model->scratch);
    fm_status status = feed(session, ids, count, which, out_logits);
    fm_model_scratch_release(&session->model->scratch, mark);
    if (status == FM_OK)
        session->length += count;
    return status;
}
