/*
 * A forward pass for inference: tokens of many texts at once, and the head that drafts the token after the next (V3 report,
 * 2.2): a layer over a projection of the model's last normalised row of a position and the embedding of the token behind it.
 */
#include "model_experts.h"
#include "model_low.h"
#include "model_private.h"

static fm_status no_memory(int count)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory to feed %d tokens", count);
}

/** The networks of a layer: those of experts that got rows, and the dense or shared one of all rows. */
struct networks {
    const struct fm_model_route *route; // NULL: there are no experts
    int64_t choices;                    // rows of experts
    int32_t *tokens;                    // [choices]: whose rows they are
    int64_t width, dense_width;         // of an expert inside, and of the other
    float *hidden, *out;                // of all, experts' rows first
    const struct fm_model_layer *layer;
    int has_dense;
};

// Products with gate and up (`down` 0), to `hidden` and `up`, or with down, to `out`; returns how many.
static int list_products(const struct networks *n, const fm_model_config *c, int down, float *up,
                         struct fm_model_product *list)
{
    int count = 0;
    for (int e = 0; n->route && e < c->experts; e++) {
        int64_t first = n->route->offsets[e], rows = n->route->offsets[e + 1] - first;
        const struct fm_model_mlp *mlp = &n->layer->experts[e];
        if (rows == 0)
            continue;
        if (down) {
            list[count++] = (struct fm_model_product){0, first, rows, &mlp->down, n->out + first * c->hidden};
            continue;
        }
        list[count++] = (struct fm_model_product){0, first, rows, &mlp->gate, n->hidden + first * n->width};
        list[count++] = (struct fm_model_product){0, first, rows, &mlp->up, up + first * n->width};
    }
    return count;
}

static int list_dense(const struct networks *n, const fm_model_config *c, int64_t rows, int down, float *up,
                      int source, struct fm_model_product *list)
{
    const struct fm_model_mlp *mlp = &n->layer->mlp;
    int64_t at = n->choices * n->width;
    if (!n->has_dense)
        return 0;
    if (down) {
        list[0] = (struct fm_model_product){source, 0, rows, &mlp->down, n->out + n->choices * c->hidden};
        return 1;
    }
    list[0] = (struct fm_model_product){source, 0, rows, &mlp->gate, n->hidden + at};
    list[1] = (struct fm_model_product){source, 0, rows, &mlp->up, up + at};
    return 2;
}

// All networks of a layer in two sets of products, so that weights of many experts are read side by side.
static fm_status run_networks(fm_model *model, const struct networks *n, int64_t rows, const float *normed)
{
    const fm_model_config *c = &model->config;
    struct fm_model_scratch *scratch = &model->scratch;
    int64_t inside = n->choices * n->width + (n->has_dense ? rows * n->dense_width : 0);
    float *up = fm_model_scratch_take(scratch, (size_t)inside);
    size_t products = 2 * (size_t)(n->route ? c->experts : 0) + 2;
    struct fm_model_product *list =
        (struct fm_model_product *)(void *)fm_model_scratch_take(scratch, products * sizeof *list);
    if (!up || !list)
        return no_memory((int)rows);
    for (int down = 0; down < 2; down++) {
        struct fm_model_source sources[FM_MODEL_SOURCES_MAX];
        int count = 0, source_count = 0;
        if (n->route) {
            sources[source_count++] =
                down ? (struct fm_model_source){.x = n->hidden, .rows = n->choices, .columns = n->width}
                     : (struct fm_model_source){normed, rows, c->hidden, n->tokens, n->choices};
            count = list_products(n, c, down, up, list);
        }
        if (n->has_dense) {
            const float *inner = n->hidden + n->choices * n->width;
            count += list_dense(n, c, rows, down, up, source_count, list + count);
            sources[source_count++] =
                down ? (struct fm_model_source){.x = inner, .rows = rows, .columns = n->dense_width}
                     : (struct fm_model_source){.x = normed, .rows = rows, .columns = c->hidden};
        }
        FM_TRY(fm_model_products(&model->compute, scratch, sources, source_count, list, count));
        if (!down)
            fm_model_swiglu_rows(&model->compute, inside, n->hidden, up, n->hidden);
    }
    return FM_OK;
}

// The same where experts have workers; what is no expert's is shared out over the team.
static fm_status run_placed(fm_model *model, const struct networks *n, int index, int64_t rows,
                            const float *normed)
{
    const struct fm_model_experts_call call = {.layer = n->layer,
                                               .index = index,
                                               .route = n->route,
                                               .tokens = n->tokens,
                                               .normed = normed,
                                               .rows = rows,
                                               .choices = n->choices,
                                               .out = n->out};
    struct networks rest = *n;
    FM_TRY(fm_model_experts_run(model, &call));
    rest.route = NULL;
    rest.choices = 0;
    rest.out = n->out + n->choices * model->config.hidden;
    return n->has_dense ? run_networks(model, &rest, rows, normed) : FM_OK;
}

// x += the networks of the normalised rows.
static fm_status feed_forward(fm_model *model, const struct fm_model_layer *layer, int index, int64_t rows,
                              const float *normed, float *x)
{
    const fm_model_config *c = &model->config;
    struct fm_model_scratch *scratch = &model->scratch;
    struct fm_model_route route;
    int64_t hidden = c->hidden;
    struct networks n = {.layer = layer,
                         .width = c->expert_intermediate,
                         .dense_width = layer->mlp.gate.rows,
                         .has_dense = !layer->experts || c->shared_experts};
    if (layer->experts) {
        FM_TRY(fm_model_route(c, &model->compute, scratch, layer, rows, normed, &route));
        for (int e = 0; model->loads && index < c->layers && e < c->experts; e++)
            model->loads[(int64_t)index * c->experts + e] += route.offsets[e + 1] - route.offsets[e];
        n.route = &route;
        n.choices = rows * c->topk;
        n.tokens = (int32_t *)fm_model_scratch_take(scratch, (size_t)n.choices);
        if (!n.tokens)
            return no_memory((int)rows);
        for (int64_t i = 0; i < n.choices; i++)
            n.tokens[route.rows[i]] = (int32_t)(i / c->topk);
    }
    n.hidden = fm_model_scratch_take(scratch, (size_t)(n.choices * n.width + rows * n.dense_width));
    n.out = fm_model_scratch_take(scratch, (size_t)((n.choices + rows) * hidden));
    if (!n.hidden || !n.out)
        return no_memory((int)rows);
    FM_TRY(model->placed && n.route && index < c->layers ? run_placed(model, &n, index, rows, normed)
                                                         : run_networks(model, &n, rows, normed));
    for (int64_t i = 0; i < n.choices; i++)
        model->compute.kernels->axpy(route.weights[i], n.out + route.rows[i] * hidden,
                                     x + i / c->topk * hidden, hidden);
    if (n.has_dense)
        model->compute.kernels->axpy(1, n.out + n.choices * hidden, x, rows * hidden);
    return FM_OK;
}

fm_status fm_model_run_layer(const struct fm_model_pieces *pieces, const struct fm_model_layer *layer,
                             int index, float *x)
{
    fm_model *model = pieces->model;
    const fm_model_config *c = &model->config;
    struct fm_model_mark mark = fm_model_scratch_mark(&model->scratch);
    float *normed = fm_model_scratch_take(&model->scratch, (size_t)pieces->rows * (size_t)c->hidden);
    if (!normed)
        return no_memory(pieces->rows);
    fm_model_norm_rows(&model->compute, pieces->rows, c->hidden, x, c->hidden, &layer->input_norm,
                       (float)c->epsilon, normed, c->hidden, NULL);
    FM_TRY(fm_model_attend(pieces, layer, index, normed, x));
    fm_model_norm_rows(&model->compute, pieces->rows, c->hidden, x, c->hidden, &layer->post_norm,
                       (float)c->epsilon, normed, c->hidden, NULL);
    FM_TRY(feed_forward(model, layer, index, pieces->rows, normed, x));
    fm_model_scratch_release(&model->scratch, mark);
    return FM_OK;
}

// The normalised rows that the head which drafts will look at.
static fm_status keep_hidden(const struct fm_model_pieces *pieces, const float *normed)
{
    int64_t hidden = pieces->model->config.hidden;
    for (const struct fm_model_piece *piece = pieces->list; piece < pieces->list + pieces->count; piece++) {
        fm_model_session *session = piece->session;
        int kept = piece->at - session->drafted, rows = kept + piece->count;
        if (rows > session->hidden_room) {
            float *more = fm_base_mem_realloc(session->hidden, (size_t)rows * (size_t)hidden, sizeof *more);
            if (!more)
                return no_memory(piece->count);
            session->hidden = more;
            session->hidden_room = rows;
        }
        memcpy(session->hidden + kept * hidden, normed, (size_t)(piece->count * hidden) * sizeof *normed);
        normed += piece->count * hidden;
    }
    return FM_OK;
}

// The logits that parts want: their rows together, so that the head is read once.
static fm_status answer(const struct fm_model_pieces *pieces, const fm_model_part *parts, const float *normed)
{
    fm_model *model = pieces->model;
    const fm_model_config *c = &model->config;
    int64_t rows = 0;
    float *wanted = fm_model_scratch_take(&model->scratch, (size_t)pieces->rows * (size_t)c->hidden);
    if (!wanted)
        return no_memory(pieces->rows);
    for (int i = 0; i < pieces->count; i++) {
        int first = parts[i].which == FM_MODEL_ALL ? 0 : parts[i].count - 1, count = parts[i].count - first;
        if (parts[i].logits) {
            memcpy(wanted + rows * c->hidden, normed + (int64_t)first * c->hidden,
                   (size_t)count * (size_t)c->hidden * sizeof *wanted);
            rows += count;
        }
        normed += (int64_t)parts[i].count * c->hidden;
    }
    if (rows == 0)
        return FM_OK;
    int alone = pieces->count == 1; // then they go where they are wanted
    float *logits =
        alone ? parts[0].logits : fm_model_scratch_take(&model->scratch, (size_t)(rows * c->vocab));
    if (!logits)
        return no_memory(pieces->rows);
    fm_model_linear(&model->compute, rows, wanted, &model->weights.head, logits);
    for (int i = 0; i < pieces->count && !alone; i++) {
        int64_t cells = (parts[i].which == FM_MODEL_ALL ? parts[i].count : 1) * (int64_t)c->vocab;
        if (parts[i].logits) {
            memcpy(parts[i].logits, logits, (size_t)cells * sizeof *logits);
            logits += cells;
        }
    }
    return FM_OK;
}

static fm_status feed(const struct fm_model_pieces *pieces, const fm_model_part *parts)
{
    fm_model *model = pieces->model;
    const fm_model_config *c = &model->config;
    size_t cells = (size_t)pieces->rows * (size_t)c->hidden;
    float *x = fm_model_scratch_take(&model->scratch, cells), *row = x;
    float *normed = fm_model_scratch_take(&model->scratch, cells);
    if (!x || !normed)
        return no_memory(pieces->rows);
    for (int i = 0; i < pieces->count; i++) {
        FM_TRY(fm_model_session_reserve(parts[i].session, pieces->list[i].at + parts[i].count));
        fm_model_embed(&model->weights.embed, parts[i].ids, parts[i].count, row);
        row += (int64_t)parts[i].count * c->hidden;
    }
    for (int i = 0; i < c->layers; i++)
        FM_TRY(fm_model_run_layer(pieces, &model->weights.layers[i], i, x));
    fm_model_norm_rows(&model->compute, pieces->rows, c->hidden, x, c->hidden, &model->weights.norm,
                       (float)c->epsilon, normed, c->hidden, NULL);
    if (model->predict)
        FM_TRY(keep_hidden(pieces, normed));
    return answer(pieces, parts, normed);
}

static fm_status check_ids(const fm_model *model, const int32_t *ids, int count)
{
    for (int i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= model->config.vocab)
            return fm_base_error_set(FM_ERR_ARG, "token %d has id %d; expected 0 to %d", i, (int)ids[i],
                                     model->config.vocab - 1);
    return FM_OK;
}

static fm_status check_part(const fm_model_part *part)
{
    const fm_model_session *session = part->session;
    if (part->count < 1)
        return fm_base_error_set(FM_ERR_ARG, "%d tokens to feed; expected at least one", part->count);
    if (part->count > session->positions_max - session->length)
        return fm_base_error_set(FM_ERR_LIMIT, "%d tokens after %d; the session has room for %d in all",
                                 part->count, session->length, session->positions_max);
    return check_ids(session->model, part->ids, part->count);
}

// The pieces of a batch, in scratch; of sessions of one model, each once.
static fm_status open_pieces(const fm_model_part *parts, int count, struct fm_model_pieces *out_pieces)
{
    fm_model *model = parts[0].session->model;
    struct fm_model_piece *list =
        (struct fm_model_piece *)(void *)fm_model_scratch_take(&model->scratch, (size_t)count * sizeof *list);
    struct fm_model_pieces pieces = {model, list, count, 0};
    if (!list)
        return no_memory(count);
    for (int i = 0; i < count; i++) {
        FM_TRY(check_part(&parts[i]));
        if (parts[i].session->model != model)
            return fm_base_error_set(FM_ERR_ARG, "part %d belongs to another model than part 0", i);
        for (int j = 0; j < i; j++)
            if (parts[j].session == parts[i].session)
                return fm_base_error_set(FM_ERR_ARG, "parts %d and %d are of one session", j, i);
        if (__builtin_add_overflow(pieces.rows, parts[i].count, &pieces.rows))
            return fm_base_error_set(FM_ERR_LIMIT, "more than %d tokens in one batch", INT32_MAX);
        list[i] = (struct fm_model_piece){parts[i].session, parts[i].session->length, parts[i].count};
    }
    *out_pieces = pieces;
    return FM_OK;
}

// Gives scratch back, and what failed in products.
static fm_status close_batch(fm_model *model, struct fm_model_mark mark, fm_status status)
{
    fm_status low = fm_model_low_check(model->compute.low);
    fm_model_scratch_release(&model->scratch, mark);
    return status < 0 ? status : low;
}

fm_status fm_model_feed_batch(const fm_model_part *parts, int count)
{
    if (count < 1)
        return fm_base_error_set(FM_ERR_ARG, "%d parts to feed; expected at least one", count);
    fm_model *model = parts[0].session->model;
    struct fm_model_mark mark = fm_model_scratch_mark(&model->scratch);
    struct fm_model_pieces pieces;
    fm_status status = open_pieces(parts, count, &pieces);
    if (status == FM_OK)
        status = feed(&pieces, parts);
    status = close_batch(model, mark, status);
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

// Rows of the head's layer: normalised hidden rows beside normalised embeddings of the tokens behind them, projected.
static fm_status join(const struct fm_model_pieces *pieces, const fm_model_draft *drafts, float *x)
{
    fm_model *model = pieces->model;
    const fm_model_config *c = &model->config;
    const struct fm_model_predictor *head = &model->weights.predictors[0];
    int64_t hidden = c->hidden;
    size_t cells = (size_t)pieces->rows * (size_t)hidden;
    float *joined = fm_model_scratch_take(&model->scratch, 2 * cells), *at = joined;
    float *embedded = fm_model_scratch_take(&model->scratch, cells), *row = embedded;
    if (!joined || !embedded)
        return no_memory(pieces->rows);
    for (int i = 0; i < pieces->count; i++) {
        int count = pieces->list[i].count;
        fm_model_embed(&model->weights.embed, drafts[i].next, count, row);
        fm_model_norm_rows(&model->compute, count, hidden, row, hidden, &head->embed_norm, (float)c->epsilon,
                           at, 2 * hidden, NULL);
        fm_model_norm_rows(&model->compute, count, hidden, drafts[i].session->hidden, hidden,
                           &head->hidden_norm, (float)c->epsilon, at + hidden, 2 * hidden, NULL);
        row += count * hidden;
        at += 2 * count * hidden;
    }
    fm_model_linear(&model->compute, pieces->rows, joined, &head->project, x);
    return FM_OK;
}

// The likeliest token behind the last row of each text that wants one.
static fm_status choose(const struct fm_model_pieces *pieces, const fm_model_draft *drafts, const float *x)
{
    fm_model *model = pieces->model;
    const fm_model_config *c = &model->config;
    const struct fm_model_predictor *head = &model->weights.predictors[0];
    int64_t rows = 0, hidden = c->hidden;
    float *normed = fm_model_scratch_take(&model->scratch, (size_t)(pieces->count * hidden));
    float *logits = fm_model_scratch_take(&model->scratch, (size_t)pieces->count * (size_t)c->vocab);
    if (!normed || !logits)
        return no_memory(pieces->rows);
    for (int i = 0; i < pieces->count; i++) {
        x += pieces->list[i].count * hidden;
        if (drafts[i].out_id)
            fm_model_norm_rows(&model->compute, 1, hidden, x - hidden, hidden, &head->norm, (float)c->epsilon,
                               normed + rows++ * hidden, hidden, NULL);
    }
    if (rows > 0)
        fm_model_linear(&model->compute, rows, normed, &model->weights.head, logits);
    for (int i = 0; i < pieces->count; i++)
        if (drafts[i].out_id) {
            int32_t best = 0;
            for (int32_t id = 1; id < c->vocab; id++)
                best = logits[id] > logits[best] ? id : best;
            *drafts[i].out_id = best;
            logits += c->vocab;
        }
    return FM_OK;
}

static fm_status draft(const struct fm_model_pieces *pieces, const fm_model_draft *drafts)
{
    fm_model *model = pieces->model;
    float *x = fm_model_scratch_take(&model->scratch, (size_t)pieces->rows * (size_t)model->config.hidden);
    if (!x)
        return no_memory(pieces->rows);
    FM_TRY(join(pieces, drafts, x));
    FM_TRY(fm_model_run_layer(pieces, &model->weights.predictors[0].layer, model->config.layers, x));
    return choose(pieces, drafts, x);
}

static fm_status check_draft(const fm_model_draft *draft)
{
    const fm_model_session *session = draft->session;
    if (!session->model->predict)
        return fm_base_error_set(FM_ERR_ARG, "the model was opened without its head for drafts");
    if (session->drafted == session->length)
        return fm_base_error_set(FM_ERR_ARG, "no token was fed since the last draft");
    return check_ids(session->model, draft->next, session->length - session->drafted);
}

fm_status fm_model_draft_batch(const fm_model_draft *drafts, int count)
{
    if (count < 1)
        return fm_base_error_set(FM_ERR_ARG, "%d drafts; expected at least one", count);
    fm_model *model = drafts[0].session->model;
    struct fm_model_mark mark = fm_model_scratch_mark(&model->scratch);
    struct fm_model_piece *list =
        (struct fm_model_piece *)(void *)fm_model_scratch_take(&model->scratch, (size_t)count * sizeof *list);
    struct fm_model_pieces pieces = {model, list, count, 0};
    fm_status status = list ? FM_OK : no_memory(count);
    for (int i = 0; i < count && status == FM_OK; i++) {
        fm_model_session *session = drafts[i].session;
        list[i] = (struct fm_model_piece){session, session->drafted, session->length - session->drafted};
        pieces.rows += list[i].count;
        status = check_draft(&drafts[i]);
        if (status == FM_OK && session->model != model)
            status = fm_base_error_set(FM_ERR_ARG, "draft %d belongs to another model than draft 0", i);
    }
    if (status == FM_OK)
        status = draft(&pieces, drafts);
    status = close_batch(model, mark, status);
    for (int i = 0; i < count && status == FM_OK; i++)
        drafts[i].session->drafted = drafts[i].session->length;
    return status;
}
