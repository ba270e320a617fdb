/*
 * Inference: tokens are appended to a latent cache. Attention is computed in the absorbed form (V2 report, 2.1.2): a head's
 * query is carried into the latent space by its key projection, scores are products with the cached latents themselves,
 * and the weighted latents leave it by the value projection. So a position costs kv_lora + rope floats a layer, and no
 * keys or values of heads are ever stored.
 *
 * In f32 the products are this library's own; for BF16 and FP8 they are mla's decode over its paged cache, which is f32 for
 * BF16 and BF16 for FP8.
 */
#include "model_low.h"
#include "model_private.h"

#include "fathom/numfmt.h"

#include <math.h>

struct fm_model_session {
    fm_model *model;
    int positions_max, length;
    int block_count; // that have memory
    float **blocks;  // [block] -> [layer][FM_MODEL_BLOCK][kv_lora + rope]
    // With mla: pages that are one after the other, a layer's after the last one's; touched as positions fill them.
    void *pages;
    size_t page_bytes;
    int page_count;
    int32_t *table; // [page_count]: 0, 1, ...
};

// What attention by mla, and so its cache, is held in: a step finer than what products round to, so that it adds little to
// their noise.
static fm_dtype attention_dtype(const fm_model *model)
{
    return model->compute.low->dtype == FM_DTYPE_BF16 ? FM_DTYPE_F32 : FM_DTYPE_BF16;
}

// The cache of a layer as mla sees it.
static fm_mla_cache cache_of(const fm_model_session *session, int layer)
{
    const fm_model_config *c = &session->model->config;
    fm_dtype dtype = attention_dtype(session->model);
    fm_mla_cache cache = {.form = dtype == FM_DTYPE_F32 ? FM_MLA_FORM_F32 : FM_MLA_FORM_BF16,
                          .page = FM_MODEL_BLOCK,
                          .h_kv = 1,
                          .d_qk = c->kv_lora + c->rope,
                          .d_v = c->kv_lora,
                          .blocks = session->page_count};
    if (session->pages)
        cache.data =
            (char *)session->pages + session->page_bytes * (size_t)session->page_count * (size_t)layer;
    return cache;
}

static fm_status open_pages(fm_model_session *session)
{
    const fm_model_config *c = &session->model->config;
    size_t bytes = 0;
    fm_mla_cache cache = cache_of(session, 0);
    if (c->kv_lora % 16 || c->rope % 16)
        return fm_base_error_set(
            FM_ERR_UNSUPPORTED,
            "kv_lora_rank is %d and qk_rope_head_dim %d; products in BF16 and FP8 need multiples of 16",
            c->kv_lora, c->rope);
    FM_TRY(fm_mla_cache_page_bytes(&cache, &session->page_bytes));
    session->page_count = (session->positions_max + FM_MODEL_BLOCK - 1) / FM_MODEL_BLOCK;
    FM_TRY(fm_mul_size(session->page_bytes * (size_t)session->page_count, (size_t)c->layers, &bytes));
    session->pages = fm_base_mem_aligned(bytes, FM_CACHE_LINE);
    session->table = fm_base_mem_zalloc((size_t)session->page_count, sizeof *session->table);
    if (!session->pages || !session->table)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a cache of %d positions",
                                 session->positions_max);
    for (int i = 0; i < session->page_count; i++)
        session->table[i] = i;
    return FM_OK;
}

fm_status fm_model_session_open(fm_model *model, int positions_max, fm_model_session **out_session)
{
    int context = model->config.context;
    if (model->is_part)
        return fm_base_error_set(FM_ERR_STATE, "this is one rank's part of a model; expected a whole one, as "
                                               "fm_model_trainer_export() writes");
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
    fm_status status = model->mla ? open_pages(session) : FM_OK;
    if (status < 0)
        fm_model_session_close(session);
    else
        *out_session = session;
    return status;
}

void fm_model_session_close(fm_model_session *session)
{
    if (!session)
        return;
    for (int i = 0; i < session->block_count; i++)
        fm_base_mem_free(session->blocks[i]);
    fm_base_mem_free(session->blocks);
    fm_base_mem_free(session->pages);
    fm_base_mem_free(session->table);
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
    while (!session->pages && session->block_count * FM_MODEL_BLOCK < positions) {
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

/** The texts that run together: one after the other in the rows of every operator, apart in attention alone. */
struct batch {
    fm_model *model;
    const fm_model_part *parts;
    int part_count, rows; // rows: tokens of all parts
};

/** One layer's attention over the new tokens, by parts and heads. */
struct attention_work {
    const struct batch *batch;
    const struct fm_model_layer *layer;
    int layer_index;
    const float *queries; // [rows, heads, nope + rope], rotated
    float *out;           // [rows, heads, value]
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

// The rows of kv_b that make a head's keys (`of_values` 0) or values.
static struct fm_model_matrix head_rows(const struct attention_work *work, int head, int of_values)
{
    const fm_model_config *c = &work->batch->model->config;
    struct fm_model_matrix rows = work->layer->kv_b.matrix;
    rows.row = (int64_t)head * (c->nope + c->value) + (of_values ? c->nope : 0);
    rows.data = (const char *)rows.data + rows.row * rows.stride * (fm_base_dtype_bits(rows.dtype) / 8);
    return rows;
}

// A head's queries of the rows from `first` on in the latent space, and their rotary part behind it: rows of `stride`.
static void absorb(const struct attention_work *work, int64_t first, int count, int head, int thread,
                   float *query, int64_t stride)
{
    const fm_model_config *c = &work->batch->model->config;
    int64_t query_width = c->nope + c->rope, from_stride = c->heads * query_width;
    const float *from = work->queries + first * from_stride + head * query_width;
    struct fm_model_matrix nope = fm_model_rows(from, from_stride),
                           keys = fm_model_flip(head_rows(work, head, 0));
    fm_model_matmul_alone(&work->batch->model->compute, thread, count, c->kv_lora, c->nope, &nope, &keys,
                          query, stride, 0);
    for (int i = 0; i < count; i++)
        memcpy(query + i * stride + c->kv_lora, from + i * from_stride + c->nope,
               (size_t)c->rope * sizeof *query);
}

// From a head's weighted latents, rows of `stride`, to its values.
static void leave(const struct attention_work *work, int64_t first, int count, int head, int thread,
                  const float *sum, int64_t stride)
{
    const fm_model_config *c = &work->batch->model->config;
    int64_t out_stride = (int64_t)c->heads * c->value;
    struct fm_model_matrix sums = fm_model_rows(sum, stride), values = head_rows(work, head, 1);
    fm_model_matmul_alone(&work->batch->model->compute, thread, count, c->value, c->kv_lora, &sums, &values,
                          work->out + first * out_stride + (int64_t)head * c->value, out_stride, 0);
}

// `first` is the row of the part's first token.
static void attend(const struct attention_work *work, const fm_model_part *part, int64_t first, int head,
                   int thread)
{
    const fm_model_session *session = part->session;
    const fm_model_config *c = &session->model->config;
    const struct fm_model_compute *compute = &session->model->compute;
    int count = part->count, positions = session->length + count;
    int64_t width = latent_width(c);
    float *query = work->spaces + (size_t)thread * work->space_floats;
    float *sum = query + count * width, *scores = sum + count * width;
    absorb(work, first, count, head, thread, query, width);
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
        struct fm_model_matrix weights = fm_model_rows(scores + at, positions);
        struct fm_model_matrix block = fm_model_transposed(latent(session, work->layer_index, at), width);
        fm_model_matmul_alone(compute, thread, count, c->kv_lora, rows, &weights, &block, sum, width, at > 0);
    }
    leave(work, first, count, head, thread, sum, width);
}

// Shared item i is head i / parts of part i % parts.
static void attend_share(void *context, int64_t begin, int64_t end, int thread)
{
    const struct attention_work *work = context;
    const struct batch *batch = work->batch;
    for (int64_t i = begin; i < end; i++) {
        int64_t first = 0;
        for (int p = 0; p < i % batch->part_count; p++)
            first += batch->parts[p].count;
        attend(work, &batch->parts[i % batch->part_count], first, (int)(i / batch->part_count), thread);
    }
}

static fm_status no_memory(int count)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory to feed %d tokens", count);
}

// Normalises and rotates the new latents, and rotates the queries.
static void turn(const struct batch *batch, int index, float *latents, float *queries)
{
    fm_model *model = batch->model;
    const fm_model_config *c = &model->config;
    const struct fm_model_layer *layer = &model->weights.layers[index];
    int64_t width = latent_width(c), query_width = c->nope + c->rope;
    for (const fm_model_part *part = batch->parts; part < batch->parts + batch->part_count; part++)
        for (int i = 0; i < part->count; i++, latents += width) {
            int position = part->session->length + i;
            model->compute.kernels->norm(latents, layer->kv_a_norm.vector, (float)c->epsilon, latents,
                                         c->kv_lora);
            fm_model_rotary_apply(&model->rotary, position, 1, latents + c->kv_lora);
            for (int h = 0; h < c->heads; h++, queries += query_width)
                fm_model_rotary_apply(&model->rotary, position, 1, queries + c->nope);
        }
}

/** What mla is given and gives: [rows, heads, ...]. */
struct mla_work {
    struct attention_work *work;
    float *query; // [rows, heads, kv_lora + rope]
    float *sum;   // [rows, heads, kv_lora]
};

static void absorb_share(void *context, int64_t begin, int64_t end, int thread)
{
    const struct mla_work *mla = context;
    const struct batch *batch = mla->work->batch;
    int64_t width = latent_width(&batch->model->config);
    for (int64_t head = begin; head < end; head++)
        absorb(mla->work, 0, batch->rows, (int)head, thread, mla->query + head * width,
               batch->model->config.heads * width);
}

static void leave_share(void *context, int64_t begin, int64_t end, int thread)
{
    const struct mla_work *mla = context;
    const struct batch *batch = mla->work->batch;
    int64_t width = batch->model->config.kv_lora;
    for (int64_t head = begin; head < end; head++)
        leave(mla->work, 0, batch->rows, (int)head, thread, mla->sum + head * width,
              batch->model->config.heads * width);
}

// The latents of a part's new tokens, [count, kv_lora + rope], into its cache.
static fm_status append_pages(const fm_model_session *session, int layer, int count, float *latents)
{
    int64_t *slots = (int64_t *)fm_model_scratch_take(&session->model->scratch, 2 * (size_t)count);
    fm_mla_cache cache = cache_of(session, layer);
    int64_t shape[3] = {count, 1, latent_width(&session->model->config)};
    fm_tensor rows;
    if (!slots)
        return no_memory(count);
    for (int i = 0; i < count; i++)
        slots[i] = session->length + i; // the table is the identity, so a position is its slot
    FM_TRY(fm_base_tensor_init(&rows, FM_DTYPE_F32, 3, shape, latents));
    return fm_mla_cache_append(session->model->mla, &cache, slots, &rows);
}

// One part's attention by mla: `queries` are in the latent space, `sums` gets its weighted latents.
static fm_status decode(const fm_model_part *part, int layer, void *queries, float *sums)
{
    const fm_model_session *session = part->session;
    const fm_model *model = session->model;
    const fm_model_config *c = &model->config;
    int32_t length = session->length + part->count;
    int64_t query_shape[4] = {1, part->count, c->heads, latent_width(c)};
    int64_t sum_shape[4] = {1, part->count, c->heads, c->kv_lora};
    fm_tensor query, sum;
    fm_mla_plan *plan;
    FM_TRY(fm_base_tensor_init(&query, attention_dtype(model), 4, query_shape, queries));
    FM_TRY(fm_base_tensor_init(&sum, FM_DTYPE_F32, 4, sum_shape, sums));
    fm_mla_cache cache = cache_of(session, layer);
    fm_mla_shape shape = {
        .batch = 1, .s_q = part->count, .h_q = c->heads, .h_kv = 1, .d_v = c->kv_lora, .causal = 1};
    fm_mla_decode_args args = {.q = &query,
                               .cache = &cache,
                               .softmax_scale = model->rotary.softmax_scale,
                               .block_table = session->table,
                               .max_blocks = session->page_count,
                               .out = &sum};
    FM_TRY(fm_mla_plan_dense(&shape, &length, &(fm_mla_split){.batch_invariant = 1}, &plan));
    fm_status status = fm_mla_decode(model->mla, plan, &args);
    fm_mla_plan_free(plan);
    return status;
}

static fm_status attend_pages(struct attention_work *work, int64_t grain, float *latents)
{
    const struct batch *batch = work->batch;
    fm_model *model = batch->model;
    const fm_model_config *c = &model->config;
    size_t rows = (size_t)batch->rows, heads = (size_t)c->heads, width = (size_t)latent_width(c);
    struct mla_work mla = {.work = work};
    mla.query = fm_model_scratch_take(&model->scratch, rows * heads * width);
    mla.sum = fm_model_scratch_take(&model->scratch, rows * heads * (size_t)c->kv_lora);
    fm_dtype dtype = attention_dtype(model);
    fm_bf16 *codes = NULL;
    if (dtype == FM_DTYPE_BF16)
        codes = (fm_bf16 *)fm_model_scratch_take(&model->scratch, (rows * heads * width + 1) / 2);
    if (!mla.query || !mla.sum || (dtype == FM_DTYPE_BF16 && !codes))
        return no_memory(batch->rows);
    fm_model_share(&model->compute, c->heads, grain, absorb_share, &mla);
    if (codes)
        fm_base_f32_to_bf16(mla.query, rows * heads * width, codes);
    char *queries = codes ? (char *)codes : (char *)mla.query;
    size_t query_bytes = heads * width * (size_t)(fm_base_dtype_bits(dtype) / 8);
    float *sums = mla.sum;
    for (const fm_model_part *part = batch->parts; part < batch->parts + batch->part_count; part++) {
        FM_TRY(append_pages(part->session, work->layer_index, part->count, latents));
        FM_TRY(decode(part, work->layer_index, queries, sums));
        latents += (size_t)part->count * width;
        queries += (size_t)part->count * query_bytes;
        sums += (size_t)part->count * heads * (size_t)c->kv_lora;
    }
    fm_model_share(&model->compute, c->heads, grain, leave_share, &mla);
    return FM_OK;
}

// Attention of the new tokens over all positions, their own latents being `latents`.
static fm_status attend_all(struct attention_work *work, float *latents)
{
    const struct batch *batch = work->batch;
    fm_model *model = batch->model;
    const fm_model_config *c = &model->config;
    int64_t width = latent_width(c), items = (int64_t)c->heads * batch->part_count;
    int64_t products = 0; // of queries and positions
    for (int i = 0; i < batch->part_count; i++) {
        const fm_model_part *part = &batch->parts[i];
        int positions = part->session->length + part->count;
        size_t floats = space_floats(c, part->count, positions);
        products += (int64_t)part->count * positions;
        work->space_floats = floats > work->space_floats ? floats : work->space_floats;
    }
    // Heads are shared once they are some 50 us of work.
    int shared = products * width * c->heads >= 1 << 20;
    if (model->mla)
        return attend_pages(work, shared ? 1 : c->heads, latents);
    for (const fm_model_part *part = batch->parts; part < batch->parts + batch->part_count; part++)
        for (int i = 0; i < part->count; i++, latents += width)
            memcpy(latent(part->session, work->layer_index, part->session->length + i), latents,
                   (size_t)width * sizeof *latents);
    work->spaces =
        fm_model_scratch_take(&model->scratch, work->space_floats * (size_t)model->compute.threads);
    if (!work->spaces)
        return no_memory(batch->rows);
    fm_model_share(&model->compute, items, shared ? 1 : items, attend_share, work);
    return FM_OK;
}

// x [rows, hidden] += attention of the normalised rows `normed`.
static fm_status attention(const struct batch *batch, int index, const float *normed, float *x)
{
    fm_model *model = batch->model;
    const fm_model_config *c = &model->config;
    int count = batch->rows;
    const struct fm_model_layer *layer = &model->weights.layers[index];
    struct fm_model_scratch *scratch = &model->scratch;
    size_t rows = (size_t)count;
    int64_t width = latent_width(c), query_width = c->nope + c->rope;
    float *low = fm_model_scratch_take(scratch, rows * (size_t)(c->q_lora ? c->q_lora : 1));
    float *queries = fm_model_scratch_take(scratch, rows * (size_t)(c->heads * query_width));
    float *latents = fm_model_scratch_take(scratch, rows * (size_t)width);
    float *heads = fm_model_scratch_take(scratch, rows * (size_t)c->heads * (size_t)c->value);
    float *out = fm_model_scratch_take(scratch, rows * (size_t)c->hidden);
    if (!low || !queries || !latents || !heads || !out)
        return no_memory(count);
    if (c->q_lora) {
        fm_model_linear(&model->compute, count, normed, &layer->q_a, low);
        fm_model_norm_rows(&model->compute, count, c->q_lora, low, c->q_lora, &layer->q_a_norm,
                           (float)c->epsilon, low, c->q_lora, NULL);
    }
    fm_model_linear(&model->compute, count, c->q_lora ? low : normed, &layer->q_b, queries);
    fm_model_linear(&model->compute, count, normed, &layer->kv_a, latents);
    turn(batch, index, latents, queries);
    struct attention_work work = {
        .batch = batch, .layer = layer, .layer_index = index, .queries = queries, .out = heads};
    FM_TRY(attend_all(&work, latents));
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

static fm_status run_layer(const struct batch *batch, int index, float *x)
{
    fm_model *model = batch->model;
    int count = batch->rows;
    const fm_model_config *c = &model->config;
    const struct fm_model_layer *layer = &model->weights.layers[index];
    size_t cells = (size_t)count * (size_t)c->hidden;
    float *normed = fm_model_scratch_take(&model->scratch, cells),
          *out = fm_model_scratch_take(&model->scratch, cells);
    if (!normed || !out)
        return no_memory(count);
    fm_model_norm_rows(&model->compute, count, c->hidden, x, c->hidden, &layer->input_norm, (float)c->epsilon,
                       normed, c->hidden, NULL);
    FM_TRY(attention(batch, index, normed, x));
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

// The rows of x whose logits are wanted, normalised, then through the head.
static fm_status answer(const struct batch *batch, const float *x)
{
    fm_model *model = batch->model;
    const fm_model_config *c = &model->config;
    for (const fm_model_part *part = batch->parts; part < batch->parts + batch->part_count; part++) {
        int first = part->which == FM_MODEL_ALL ? 0 : part->count - 1, count = part->count - first;
        const float *rows = x + (int64_t)first * c->hidden;
        x += (int64_t)part->count * c->hidden;
        if (!part->logits)
            continue;
        struct fm_model_mark mark = fm_model_scratch_mark(&model->scratch);
        float *normed = fm_model_scratch_take(&model->scratch, (size_t)count * (size_t)c->hidden);
        if (!normed)
            return no_memory(count);
        fm_model_norm_rows(&model->compute, count, c->hidden, rows, c->hidden, &model->weights.norm,
                           (float)c->epsilon, normed, c->hidden, NULL);
        fm_model_linear(&model->compute, count, normed, &model->weights.head, part->logits);
        fm_model_scratch_release(&model->scratch, mark);
    }
    return FM_OK;
}

static fm_status feed(const struct batch *batch)
{
    fm_model *model = batch->model;
    const fm_model_config *c = &model->config;
    struct fm_model_scratch *scratch = &model->scratch;
    float *x = fm_model_scratch_take(scratch, (size_t)batch->rows * (size_t)c->hidden), *row = x;
    if (!x)
        return no_memory(batch->rows);
    for (const fm_model_part *part = batch->parts; part < batch->parts + batch->part_count; part++) {
        FM_TRY(grow(part->session, part->session->length + part->count));
        fm_model_embed(&model->weights.embed, part->ids, part->count, row);
        row += (int64_t)part->count * c->hidden;
    }
    for (int i = 0; i < c->layers; i++) {
        struct fm_model_mark mark = fm_model_scratch_mark(scratch);
        FM_TRY(run_layer(batch, i, x));
        fm_model_scratch_release(scratch, mark);
    }
    return answer(batch, x);
}

static fm_status check_part(const fm_model_part *part)
{
    const fm_model_session *session = part->session;
    const fm_model_config *c = &session->model->config;
    if (part->count < 1)
        return fm_base_error_set(FM_ERR_ARG, "%d tokens to feed; expected at least one", part->count);
    if (part->count > session->positions_max - session->length)
        return fm_base_error_set(FM_ERR_LIMIT, "%d tokens after %d; the session has room for %d in all",
                                 part->count, session->length, session->positions_max);
    for (int i = 0; i < part->count; i++)
        if (part->ids[i] < 0 || part->ids[i] >= c->vocab)
            return fm_base_error_set(FM_ERR_ARG, "token %d has id %d; expected 0 to %d", i, (int)part->ids[i],
                                     c->vocab - 1);
    return FM_OK;
}

fm_status fm_model_feed_batch(const fm_model_part *parts, int count)
{
    if (count < 1)
        return fm_base_error_set(FM_ERR_ARG, "%d parts to feed; expected at least one", count);
    struct batch batch = {parts[0].session->model, parts, count, 0};
    for (int i = 0; i < count; i++) {
        FM_TRY(check_part(&parts[i]));
        if (parts[i].session->model != batch.model)
            return fm_base_error_set(FM_ERR_ARG, "part %d belongs to another model than part 0", i);
        for (int j = 0; j < i; j++)
            if (parts[j].session == parts[i].session)
                return fm_base_error_set(FM_ERR_ARG, "parts %d and %d are of one session", j, i);
        if (__builtin_add_overflow(batch.rows, parts[i].count, &batch.rows))
            return fm_base_error_set(FM_ERR_LIMIT, "more than %d tokens in one batch", INT32_MAX);
    }
    struct fm_model_mark mark = fm_model_scratch_mark(&batch.model->scratch);
    fm_status status = feed(&batch);
    fm_status low = fm_model_low_check(batch.model->compute.low);
    status = status < 0 ? status : low;
    fm_model_scratch_release(&batch.model->scratch, mark);
    for (int i = 0; i < count && status == FM_OK; i++)
        parts[i].session->length += parts[i].count;
    return status;
}

fm_status fm_model_feed(fm_model_session *session, const int32_t *ids, int count, fm_model_logits which,
                        float *out_logits)
{
    fm_model_part part = {session, ids, count, which, out_logits};
    return fm_model_feed_batch(&part, 1);
}
