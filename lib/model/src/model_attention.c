/*
 * Attention over the latent cache, in the absorbed form (V2 report, 2.1.2): a head's query is carried into the latent space
 * by its key projection, scores are products with the cached latents themselves, and the weighted latents leave it by the
 * value projection. So a position costs kv_lora + rope numbers a layer, and no keys or values of heads are ever stored.
 *
 * Where both products and cache are f32 all of it is this library's own; otherwise scores and sums are mla's decode over its
 * paged cache. The projections of heads are f32, but packed BF16 where products are FP8.
 */
#include "model_low.h"
#include "model_private.h"

#include "fathom/numfmt.h"

static int64_t latent_width(const fm_model_config *config)
{
    return config->kv_lora + config->rope;
}

/** One layer's attention over the new tokens. */
struct attention_work {
    const struct fm_model_pieces *pieces;
    const struct fm_model_layer *layer;
    int index;            // of the layer's cache
    const float *queries; // [rows, heads, nope + rope], rotated
    float *out;           // [rows, heads, value]
    float *spaces;        // a thread's: see space_floats()
    size_t space_floats;
};

static char *page_of(const fm_model_session *session, int layer, int block)
{
    const fm_model *model = session->model;
    return session->blocks + (size_t)session->table[block] * fm_model_block_bytes(model) +
           (size_t)layer * fm_model_page_bytes(model);
}

/** The latent row of a position in a layer. */
static float *latent(const fm_model_session *session, int layer, int position)
{
    int64_t width = latent_width(&session->model->config);
    return (float *)(void *)page_of(session, layer, position / FM_MODEL_BLOCK) +
           position % FM_MODEL_BLOCK * width;
}

// The cache of a layer as mla sees it.
static fm_mla_cache cache_of(const fm_model_session *session, int layer)
{
    const fm_model *model = session->model;
    return (fm_mla_cache){.form = model->form,
                          .page = FM_MODEL_BLOCK,
                          .h_kv = 1,
                          .d_qk = model->config.kv_lora + model->config.rope,
                          .d_v = model->config.kv_lora,
                          .blocks = session->pool ? session->pool->capacity : session->block_count,
                          .block_stride = (int64_t)fm_model_block_bytes(model),
                          .data = session->blocks + (size_t)layer * fm_model_page_bytes(model)};
}

// What mla takes queries in for this cache.
static fm_dtype query_dtype(const fm_model *model)
{
    return model->form == FM_MLA_FORM_F32 ? FM_DTYPE_F32 : FM_DTYPE_BF16;
}

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
    const fm_model_config *c = &work->pieces->model->config;
    struct fm_model_matrix rows = work->layer->kv_b.matrix;
    rows.row = (int64_t)head * (c->nope + c->value) + (of_values ? c->nope : 0);
    rows.data = (const char *)rows.data + rows.row * rows.stride * (fm_base_dtype_bits(rows.dtype) / 8);
    return rows;
}

// A head's queries of the rows from `first` on in the latent space, and their rotary part behind it: rows of `stride`.
static void absorb(const struct attention_work *work, int64_t first, int count, int head, int thread,
                   float *query, int64_t stride)
{
    const fm_model_config *c = &work->pieces->model->config;
    int64_t query_width = c->nope + c->rope, from_stride = c->heads * query_width;
    const float *from = work->queries + first * from_stride + head * query_width;
    struct fm_model_matrix nope = fm_model_rows(from, from_stride),
                           keys = fm_model_flip(head_rows(work, head, 0));
    fm_model_matmul_alone(&work->pieces->model->compute, thread, count, c->kv_lora, c->nope, &nope, &keys,
                          query, stride, 0);
    for (int i = 0; i < count; i++)
        memcpy(query + i * stride + c->kv_lora, from + i * from_stride + c->nope,
               (size_t)c->rope * sizeof *query);
}

// From a head's weighted latents, rows of `stride`, to its values.
static void leave(const struct attention_work *work, int64_t first, int count, int head, int thread,
                  const float *sum, int64_t stride)
{
    const fm_model_config *c = &work->pieces->model->config;
    int64_t out_stride = (int64_t)c->heads * c->value;
    struct fm_model_matrix sums = fm_model_rows(sum, stride), values = head_rows(work, head, 1);
    fm_model_matmul_alone(&work->pieces->model->compute, thread, count, c->value, c->kv_lora, &sums, &values,
                          work->out + first * out_stride + (int64_t)head * c->value, out_stride, 0);
}

// `first` is the row of the piece's first token.
static void attend(const struct attention_work *work, const struct fm_model_piece *piece, int64_t first,
                   int head, int thread)
{
    const fm_model_session *session = piece->session;
    const fm_model_config *c = &session->model->config;
    const struct fm_model_compute *compute = &session->model->compute;
    int count = piece->count, positions = piece->at + count;
    int64_t width = latent_width(c);
    float *query = work->spaces + (size_t)thread * work->space_floats;
    float *sum = query + count * width, *scores = sum + count * width;
    absorb(work, first, count, head, thread, query, width);
    struct fm_model_matrix query_rows = fm_model_rows(query, width);
    for (int at = 0; at < positions; at += FM_MODEL_BLOCK) {
        int rows = positions - at < FM_MODEL_BLOCK ? positions - at : FM_MODEL_BLOCK;
        struct fm_model_matrix block = fm_model_rows(latent(session, work->index, at), width);
        fm_model_matmul_alone(compute, thread, count, rows, width, &query_rows, &block, scores + at,
                              positions, 0);
    }
    for (int i = 0; i < count; i++) {
        float *line = scores + (int64_t)i * positions;
        int visible = piece->at + i + 1;
        compute->kernels->softmax(session->model->rotary.softmax_scale, line, visible);
        memset(line + visible, 0, (size_t)(positions - visible) * sizeof *line);
    }
    for (int at = 0; at < positions; at += FM_MODEL_BLOCK) {
        int rows = positions - at < FM_MODEL_BLOCK ? positions - at : FM_MODEL_BLOCK;
        struct fm_model_matrix weights = fm_model_rows(scores + at, positions);
        struct fm_model_matrix block = fm_model_transposed(latent(session, work->index, at), width);
        fm_model_matmul_alone(compute, thread, count, c->kv_lora, rows, &weights, &block, sum, width, at > 0);
    }
    leave(work, first, count, head, thread, sum, width);
}

// Shared item i is head i / pieces of piece i % pieces.
static void attend_share(void *context, int64_t begin, int64_t end, int thread)
{
    const struct attention_work *work = context;
    const struct fm_model_pieces *pieces = work->pieces;
    for (int64_t i = begin; i < end; i++) {
        int64_t first = 0;
        for (int p = 0; p < i % pieces->count; p++)
            first += pieces->list[p].count;
        attend(work, &pieces->list[i % pieces->count], first, (int)(i / pieces->count), thread);
    }
}

static fm_status no_memory(int count)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory to feed %d tokens", count);
}

// Normalises and rotates the new latents, and rotates the queries.
static void turn(const struct fm_model_pieces *pieces, const struct fm_model_layer *layer, float *latents,
                 float *queries)
{
    fm_model *model = pieces->model;
    const fm_model_config *c = &model->config;
    int64_t width = latent_width(c), query_width = c->nope + c->rope;
    for (const struct fm_model_piece *piece = pieces->list; piece < pieces->list + pieces->count; piece++)
        for (int i = 0; i < piece->count; i++, latents += width) {
            int position = piece->at + i;
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
    const struct fm_model_pieces *pieces = mla->work->pieces;
    int64_t width = latent_width(&pieces->model->config);
    for (int64_t head = begin; head < end; head++)
        absorb(mla->work, 0, pieces->rows, (int)head, thread, mla->query + head * width,
               pieces->model->config.heads * width);
}

static void leave_share(void *context, int64_t begin, int64_t end, int thread)
{
    const struct mla_work *mla = context;
    const struct fm_model_pieces *pieces = mla->work->pieces;
    int64_t width = pieces->model->config.kv_lora;
    for (int64_t head = begin; head < end; head++)
        leave(mla->work, 0, pieces->rows, (int)head, thread, mla->sum + head * width,
              pieces->model->config.heads * width);
}

// The products of heads by gemm, rows of `from` being BF16 and those of `to` f32: of queries with keys, or of sums with
// values.
static fm_status multiply_heads(const struct attention_work *work, int of_values, const fm_bf16 *from,
                                int64_t from_head, float *to, int64_t to_head)
{
    const struct fm_model_pieces *pieces = work->pieces;
    struct fm_model_low *low = pieces->model->compute.low;
    int heads = pieces->model->config.heads;
    fm_gemm_product *list = (fm_gemm_product *)(void *)fm_model_scratch_take(&pieces->model->scratch,
                                                                             (size_t)heads * sizeof *list);
    if (!list)
        return no_memory(pieces->rows);
    for (int h = 0; h < heads; h++)
        list[h] = (fm_gemm_product){
            .m = pieces->rows,
            .a = {.dtype = FM_DTYPE_BF16, .data = from + h * from_head, .stride = heads * from_head},
            .b = work->layer->kv_heads[of_values ? heads + h : h],
            .d = {.dtype = FM_DTYPE_F32, .data = to + h * to_head, .stride = heads * to_head}};
    low->products[FM_DTYPE_BF16] += heads;
    return fm_gemm_batched(low->gemm, heads, list);
}

static fm_bf16 *rounded(fm_model *model, size_t count, const float *from)
{
    fm_bf16 *codes = (fm_bf16 *)fm_model_scratch_take(&model->scratch, (count + 1) / 2);
    if (codes)
        fm_base_f32_to_bf16(from, count, codes);
    return codes;
}

// All queries into the latent space.
static fm_status absorb_all(struct mla_work *mla, int64_t grain)
{
    const struct attention_work *work = mla->work;
    fm_model *model = work->pieces->model;
    const fm_model_config *c = &model->config;
    int64_t pairs = (int64_t)work->pieces->rows * c->heads, width = latent_width(c),
            query = c->nope + c->rope;
    if (!work->layer->kv_heads) {
        fm_model_share(&model->compute, c->heads, grain, absorb_share, mla);
        return FM_OK;
    }
    const fm_bf16 *codes = rounded(model, (size_t)(pairs * query), work->queries);
    if (!codes)
        return no_memory(work->pieces->rows);
    for (int64_t i = 0; i < pairs; i++)
        memcpy(mla->query + i * width + c->kv_lora, work->queries + i * query + c->nope,
               (size_t)c->rope * sizeof *mla->query);
    return multiply_heads(work, 0, codes, query, mla->query, width);
}

// All weighted latents to values.
static fm_status leave_all(struct mla_work *mla, int64_t grain)
{
    const struct attention_work *work = mla->work;
    fm_model *model = work->pieces->model;
    const fm_model_config *c = &model->config;
    if (!work->layer->kv_heads) {
        fm_model_share(&model->compute, c->heads, grain, leave_share, mla);
        return FM_OK;
    }
    const fm_bf16 *codes =
        rounded(model, (size_t)work->pieces->rows * (size_t)c->heads * (size_t)c->kv_lora, mla->sum);
    if (!codes)
        return no_memory(work->pieces->rows);
    return multiply_heads(work, 1, codes, c->kv_lora, work->out, c->value);
}

// The latents of a text's new tokens, [count, kv_lora + rope], into its cache.
static fm_status append_pages(const struct fm_model_piece *piece, int layer, float *latents)
{
    fm_model *model = piece->session->model;
    int64_t *slots = (int64_t *)fm_model_scratch_take(&model->scratch, 2 * (size_t)piece->count);
    fm_mla_cache cache = cache_of(piece->session, layer);
    int64_t shape[3] = {piece->count, 1, latent_width(&model->config)};
    fm_tensor rows;
    if (!slots)
        return no_memory(piece->count);
    for (int i = 0; i < piece->count; i++)
        slots[i] = (int64_t)piece->session->table[(piece->at + i) / FM_MODEL_BLOCK] * FM_MODEL_BLOCK +
                   (piece->at + i) % FM_MODEL_BLOCK;
    FM_TRY(fm_base_tensor_init(&rows, FM_DTYPE_F32, 3, shape, latents));
    return fm_mla_cache_append(model->mla, &cache, slots, &rows);
}

// One text's attention by mla: `queries` are in the latent space, `sums` gets its weighted latents.
static fm_status decode(const struct fm_model_piece *piece, int layer, void *queries, float *sums)
{
    const fm_model_session *session = piece->session;
    const fm_model *model = session->model;
    const fm_model_config *c = &model->config;
    int32_t length = piece->at + piece->count;
    int64_t query_shape[4] = {1, piece->count, c->heads, latent_width(c)};
    int64_t sum_shape[4] = {1, piece->count, c->heads, c->kv_lora};
    fm_tensor query, sum;
    fm_mla_plan *plan;
    FM_TRY(fm_base_tensor_init(&query, query_dtype(model), 4, query_shape, queries));
    FM_TRY(fm_base_tensor_init(&sum, FM_DTYPE_F32, 4, sum_shape, sums));
    fm_mla_cache cache = cache_of(session, layer);
    fm_mla_shape shape = {
        .batch = 1, .s_q = piece->count, .h_q = c->heads, .h_kv = 1, .d_v = c->kv_lora, .causal = 1};
    fm_mla_decode_args args = {.q = &query,
                               .cache = &cache,
                               .softmax_scale = model->rotary.softmax_scale,
                               .block_table = session->table,
                               .max_blocks = session->block_count,
                               .out = &sum};
    FM_TRY(fm_mla_plan_dense(&shape, &length, &(fm_mla_split){.batch_invariant = 1}, &plan));
    fm_status status = fm_mla_decode(model->mla, plan, &args);
    fm_mla_plan_free(plan);
    return status;
}

static fm_status attend_pages(struct attention_work *work, int64_t grain, float *latents)
{
    const struct fm_model_pieces *pieces = work->pieces;
    fm_model *model = pieces->model;
    const fm_model_config *c = &model->config;
    size_t rows = (size_t)pieces->rows, heads = (size_t)c->heads, width = (size_t)latent_width(c);
    struct mla_work mla = {.work = work};
    mla.query = fm_model_scratch_take(&model->scratch, rows * heads * width);
    mla.sum = fm_model_scratch_take(&model->scratch, rows * heads * (size_t)c->kv_lora);
    fm_dtype dtype = query_dtype(model);
    fm_bf16 *codes = NULL;
    if (dtype == FM_DTYPE_BF16)
        codes = (fm_bf16 *)fm_model_scratch_take(&model->scratch, (rows * heads * width + 1) / 2);
    if (!mla.query || !mla.sum || (dtype == FM_DTYPE_BF16 && !codes))
        return no_memory(pieces->rows);
    FM_TRY(absorb_all(&mla, grain));
    if (codes)
        fm_base_f32_to_bf16(mla.query, rows * heads * width, codes);
    char *queries = codes ? (char *)codes : (char *)mla.query;
    size_t query_bytes = heads * width * (size_t)(fm_base_dtype_bits(dtype) / 8);
    float *sums = mla.sum;
    for (const struct fm_model_piece *piece = pieces->list; piece < pieces->list + pieces->count; piece++) {
        FM_TRY(append_pages(piece, work->index, latents));
        FM_TRY(decode(piece, work->index, queries, sums));
        latents += (size_t)piece->count * width;
        queries += (size_t)piece->count * query_bytes;
        sums += (size_t)piece->count * heads * (size_t)c->kv_lora;
    }
    return leave_all(&mla, grain);
}

// Attention of the new tokens over all positions, their own latents being `latents`.
static fm_status attend_all(struct attention_work *work, float *latents)
{
    const struct fm_model_pieces *pieces = work->pieces;
    fm_model *model = pieces->model;
    const fm_model_config *c = &model->config;
    int64_t width = latent_width(c), items = (int64_t)c->heads * pieces->count;
    int64_t products = 0; // of queries and positions
    for (int i = 0; i < pieces->count; i++) {
        const struct fm_model_piece *piece = &pieces->list[i];
        int positions = piece->at + piece->count;
        size_t floats = space_floats(c, piece->count, positions);
        products += (int64_t)piece->count * positions;
        work->space_floats = floats > work->space_floats ? floats : work->space_floats;
    }
    // Heads are shared once they are some 50 us of work.
    int shared = products * width * c->heads >= 1 << 20;
    if (model->mla)
        return attend_pages(work, shared ? 1 : c->heads, latents);
    for (const struct fm_model_piece *piece = pieces->list; piece < pieces->list + pieces->count; piece++)
        for (int i = 0; i < piece->count; i++, latents += width)
            memcpy(latent(piece->session, work->index, piece->at + i), latents,
                   (size_t)width * sizeof *latents);
    work->spaces =
        fm_model_scratch_take(&model->scratch, work->space_floats * (size_t)model->compute.threads);
    if (!work->spaces)
        return no_memory(pieces->rows);
    fm_model_share(&model->compute, items, shared ? 1 : items, attend_share, work);
    return FM_OK;
}

fm_status fm_model_attend(const struct fm_model_pieces *pieces, const struct fm_model_layer *layer, int index,
                          const float *normed, float *x)
{
    fm_model *model = pieces->model;
    const fm_model_config *c = &model->config;
    struct fm_model_scratch *scratch = &model->scratch;
    int64_t width = latent_width(c), query_width = c->nope + c->rope, count = pieces->rows;
    size_t rows = (size_t)count;
    float *low = fm_model_scratch_take(scratch, rows * (size_t)(c->q_lora ? c->q_lora : 1));
    float *queries = fm_model_scratch_take(scratch, rows * (size_t)(c->heads * query_width));
    float *latents = fm_model_scratch_take(scratch, rows * (size_t)width);
    float *heads = fm_model_scratch_take(scratch, rows * (size_t)c->heads * (size_t)c->value);
    float *out = fm_model_scratch_take(scratch, rows * (size_t)c->hidden);
    if (!low || !queries || !latents || !heads || !out)
        return no_memory(pieces->rows);
    const struct fm_model_source source = {.x = normed, .rows = count, .columns = c->hidden};
    const struct fm_model_product products[2] = {
        {0, 0, count, c->q_lora ? &layer->q_a : &layer->q_b, c->q_lora ? low : queries},
        {0, 0, count, &layer->kv_a, latents}};
    FM_TRY(fm_model_products(&model->compute, scratch, &source, 1, products, 2));
    if (c->q_lora) {
        fm_model_norm_rows(&model->compute, count, c->q_lora, low, c->q_lora, &layer->q_a_norm,
                           (float)c->epsilon, low, c->q_lora, NULL);
        fm_model_linear(&model->compute, count, low, &layer->q_b, queries);
    }
    turn(pieces, layer, latents, queries);
    struct attention_work work = {
        .pieces = pieces, .layer = layer, .index = index, .queries = queries, .out = heads};
    FM_TRY(attend_all(&work, latents));
    fm_model_linear(&model->compute, count, heads, &layer->o, out);
    model->compute.kernels->axpy(1, out, x, count * c->hidden);
    return FM_OK;
}
