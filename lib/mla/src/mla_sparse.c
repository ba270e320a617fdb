#include "mla_source.h"

#include "mla_exp.h"

#include "fathom/span.h"

struct prefill {
    fm_mla_context *context;
    const fm_mla_sparse_args *args;
    const fm_mla_cache *kv;
    struct fm_mla_block block;
    int s_q, h_q;
};

struct place {
    const struct prefill *prefill;
    int64_t sequence, query;
    int first; // head
};

static int64_t at_of(const fm_tensor *tensor, const struct place *place, int row)
{
    return place->sequence * tensor->stride[0] + place->query * tensor->stride[1] +
           (place->first + row) * tensor->stride[2];
}

static int64_t q_at(const void *arg, int row)
{
    const struct place *place = arg;
    return at_of(place->prefill->args->q, place, row);
}

static void put(const fm_tensor *tensor, const struct place *place, int row, float value)
{
    if (tensor)
        ((float *)tensor->data)[at_of(tensor, place, row)] = value;
}

static void write_rows(const struct place *place, int rows, struct fm_mla_space *space)
{
    const fm_mla_sparse_args *args = place->prefill->args;
    size_t d_v = (size_t)place->prefill->block.d_v;
    for (int r = 0; r < rows; r++) {
        float *o = space->o + (size_t)r * fm_mla_line(d_v);
        float lse = fm_mla_block_finish(&place->prefill->context->kernels, space->max[r], space->sum[r],
                                        args->sink ? args->sink + place->first + r : NULL, d_v, o);
        fm_mla_row_write(args->out, at_of(args->out, place, r), d_v, o);
        put(args->lse, place, r, lse);
        put(args->max_logits, place, r, space->peak[r] * FM_MLA_LN2);
    }
}

// A query: its list, for all its heads.
static void run_query(void *arg, int64_t task, struct fm_mla_space *space)
{
    const struct prefill *prefill = arg;
    const fm_mla_sparse_args *args = prefill->args;
    struct place place = {prefill, task / prefill->s_q, task % prefill->s_q, 0};
    struct fm_mla_pages pages = fm_mla_pages_of(prefill->kv);
    pages.data += (size_t)place.sequence * pages.block_bytes;
    pages.slots = pages.page;
    int64_t length = args->topk_length ? args->topk_length[task] : args->topk;
    int at_once = fm_mla_block_rows(&prefill->context->kernels, prefill->block.d_qk, prefill->block.d_v);
    for (; place.first < prefill->h_q; place.first += at_once) {
        struct fm_mla_list_source source = {
            .source = {fm_mla_list_next, fm_mla_list_next_bf16, 0},
            .pages = {&pages, &pages},
            .lists = {args->topk ? args->indices + task * args->topk : NULL, NULL},
            .first_extra = length,
            .end = length,
        };
        struct fm_mla_block block = prefill->block;
        block.rows = prefill->h_q - place.first < at_once ? prefill->h_q - place.first : at_once;
        fm_mla_block_pack(&block, &prefill->context->kernels, args->q, q_at, &place, space);
        fm_mla_block_attend(&block, &prefill->context->kernels, &source.source, space);
        write_rows(&place, block.rows, space);
    }
}

static fm_status check_lists(const fm_mla_sparse_args *args, int64_t queries)
{
    FM_TRY(fm_mla_args_extent("topk", args->topk, 0, INT32_MAX));
    if (args->topk && queries && !args->indices)
        return fm_base_error_set(FM_ERR_ARG, "indices is null; expected %d for each query", args->topk);
    for (int64_t i = 0; args->topk_length && i < queries; i++)
        if (args->topk_length[i] < 0 || args->topk_length[i] > args->topk)
            return fm_base_error_set(FM_ERR_ARG, "topk_length[%lld] is %d; expected 0 to %d", (long long)i,
                                     args->topk_length[i], args->topk);
    return FM_OK;
}

static fm_status check_outputs(const fm_mla_sparse_args *args, int64_t batch, int64_t s_q, int64_t h_q)
{
    const fm_tensor *outs[] = {args->out, args->lse, args->max_logits};
    const char *names[] = {"out", "lse", "max_logits"};
    size_t bytes = args->kv->blocks ? (size_t)args->kv->blocks * fm_mla_pages_of(args->kv).block_bytes : 0;
    for (int i = 0; i < 3; i++) {
        if (i && !outs[i])
            continue;
        uint32_t dtypes = FM_MLA_DTYPE_BIT(FM_DTYPE_F32) | (i ? 0 : FM_MLA_DTYPE_BIT(args->q->dtype));
        FM_TRY(fm_mla_args_tensor(names[i], outs[i], dtypes, i ? 3 : 4,
                                  (int64_t[]){batch, s_q, h_q, args->kv->d_v}, !i));
        FM_TRY(fm_mla_args_apart(names[i], outs[i], "q", args->q));
        FM_TRY(fm_mla_args_apart_bytes(names[i], outs[i], "kv", args->kv->data, bytes));
        if (i)
            FM_TRY(fm_mla_args_apart(names[i], outs[i], "out", args->out));
    }
    return fm_mla_args_apart("lse", args->lse, "max_logits", args->max_logits);
}

fm_status fm_mla_sparse_prefill(fm_mla_context *context, const fm_mla_sparse_args *args)
{
    FM_SPAN_ARGS(span, "sparse prefill", "mla", "queries", "topk");
    if (!context || !args || !args->q)
        return fm_base_error_set(FM_ERR_ARG, "%s is null; expected an address",
                                 !context ? "context" : (!args ? "args" : "q"));
    FM_TRY(fm_mla_cache_check("kv", args->kv));
    if (args->kv->h_kv != 1)
        return fm_base_error_set(FM_ERR_ARG, "h_kv of kv is %d; expected 1 where keys are listed",
                                 args->kv->h_kv);
    const fm_tensor *q = args->q;
    int64_t batch = q->ndim == 4 ? q->shape[0] : 0, s_q = q->ndim == 4 ? q->shape[1] : 0;
    int64_t h_q = q->ndim == 4 ? q->shape[2] : 1;
    FM_TRY(fm_mla_args_extent("the batch", batch, 0, args->kv->blocks));
    FM_TRY(fm_mla_args_extent("s_q", s_q, 0, INT32_MAX));
    FM_TRY(fm_mla_args_extent("h_q", h_q, 1, FM_MLA_HEADS_MAX));
    FM_TRY(fm_mla_args_tensor("q", q, FM_MLA_DTYPE_BIT(fm_mla_cache_dtype(args->kv)), 4,
                              (int64_t[]){batch, s_q, h_q, args->kv->d_qk}, 1));
    FM_TRY(check_lists(args, batch * s_q));
    FM_TRY(check_outputs(args, batch, s_q, h_q));
    float scale;
    FM_TRY(fm_mla_args_scale(args->softmax_scale, args->kv->d_qk, &scale));
    struct prefill prefill = {
        .context = context,
        .args = args,
        .kv = args->kv,
        .block = {.d_qk = args->kv->d_qk,
                  .d_v = args->kv->d_v,
                  .factor = scale * FM_MLA_LOG2E,
                  .round = fm_mla_round_of(q->dtype)},
        .s_q = (int)s_q,
        .h_q = (int)h_q,
    };
    span.args[0] = batch * s_q;
    span.args[1] = args->topk;
    fm_mla_team_run(context, 1, &(struct fm_mla_stage){batch * s_q, run_query}, &prefill);
    return FM_OK;
}
