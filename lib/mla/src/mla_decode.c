#include "mla_plan.h"
#include "mla_source.h"

#include "mla_exp.h"

#include "fathom/span.h"

#include <math.h>
#include <string.h>

struct decode {
    fm_mla_context *context;
    const fm_mla_plan *plan;
    const fm_mla_decode_args *args;
    struct fm_mla_pages pages, extra;
    struct fm_mla_block block; // of all blocks; rows differ
    int inner;                 // units of a sequence: key heads, or queries where keys are listed
    int rows;                  // of a unit
};

// A unit's rows from `first` on.
struct place {
    const struct decode *decode;
    int sequence, unit, first;
};

static int heads_per_key(const struct decode *decode)
{
    return decode->plan->shape.h_q / decode->plan->shape.h_kv;
}

// Query and head of a row.
static void row_place(const struct place *place, int row, int *out_query, int *out_head)
{
    const struct decode *decode = place->decode;
    int at = place->first + row, group = heads_per_key(decode);
    *out_query = decode->plan->sparse ? place->unit : at / group;
    *out_head = decode->plan->sparse ? at : place->unit * group + at % group;
}

static int64_t row_of(const fm_tensor *tensor, const struct place *place, int row)
{
    int query, head;
    row_place(place, row, &query, &head);
    return place->sequence * tensor->stride[0] + query * tensor->stride[1] + head * tensor->stride[2];
}

static int64_t q_at(const void *arg, int row)
{
    const struct place *place = arg;
    return row_of(place->decode->args->q, place, row);
}

static void attend_dense(const struct place *place, const struct fm_mla_piece *piece,
                         const struct fm_mla_block *block, struct fm_mla_space *space)
{
    const struct decode *decode = place->decode;
    const fm_mla_shape *shape = &decode->plan->shape;
    int64_t length = decode->plan->lengths[place->sequence], end = 0;
    for (int r = 0; r < block->rows; r++) {
        int query, head;
        row_place(place, r, &query, &head);
        int64_t limit = shape->causal ? length - shape->s_q + query + 1 : length;
        space->limit[r] = (int32_t)(limit < 0 ? 0 : limit);
        end = limit > end ? limit : end;
    }
    struct fm_mla_table_source source = {
        .source = {fm_mla_table_next, fm_mla_table_next_bf16, piece->begin},
        .pages = &decode->pages,
        .table = decode->args->block_table + place->sequence * decode->args->max_blocks,
        .head = place->unit,
        .end = fm_mla_min(piece->end, end),
    };
    fm_mla_block_attend(block, &decode->context->kernels, &source.source, space);
}

static void attend_list(const struct place *place, const struct fm_mla_piece *piece,
                        const struct fm_mla_block *block, struct fm_mla_space *space)
{
    const struct decode *decode = place->decode;
    const fm_mla_plan *plan = decode->plan;
    int64_t query = (int64_t)place->sequence * plan->shape.s_q + place->unit;
    struct fm_mla_list_source source = {
        .source = {fm_mla_list_next, fm_mla_list_next_bf16, piece->begin},
        .pages = {&decode->pages, &decode->extra},
        .lists = {plan->topk ? decode->args->indices + query * plan->topk : NULL,
                  plan->extra_topk ? decode->args->extra_indices + query * plan->extra_topk : NULL},
        .first_extra = plan->lengths[place->sequence],
        .end = piece->end,
    };
    fm_mla_block_attend(block, &decode->context->kernels, &source.source, space);
}

// Writes a row whose sums are complete.
static void write_row(const struct place *place, int row, float *o, float max, float sum)
{
    const struct decode *decode = place->decode;
    const fm_mla_decode_args *args = decode->args;
    int query, head;
    row_place(place, row, &query, &head);
    size_t d_v = (size_t)decode->block.d_v;
    float lse = fm_mla_block_finish(&decode->context->kernels, max, sum,
                                    args->sink ? args->sink + head : NULL, d_v, o);
    fm_mla_row_write(args->out, row_of(args->out, place, row), d_v, o);
    if (args->lse)
        ((float *)args->lse->data)[place->sequence * args->lse->stride[0] + head * args->lse->stride[1] +
                                   query * args->lse->stride[2]] = lse;
}

static float *partial_row(const struct place *place, int64_t slot, int row)
{
    const struct decode *decode = place->decode;
    int64_t at = (slot * decode->inner + place->unit) * decode->rows + place->first + row;
    return decode->plan->partial + (size_t)at * fm_mla_partial_floats(decode->plan);
}

static void run_piece(const struct decode *decode, const struct fm_mla_piece *piece, int unit,
                      struct fm_mla_space *space)
{
    int at_once = fm_mla_block_rows(&decode->context->kernels, decode->block.d_qk, decode->block.d_v);
    size_t d_v = (size_t)decode->block.d_v, line = fm_mla_line(d_v);
    for (int first = 0; first < decode->rows; first += at_once) {
        struct place place = {decode, piece->sequence, unit, first};
        struct fm_mla_block block = decode->block;
        block.rows = decode->rows - first < at_once ? decode->rows - first : at_once;
        fm_mla_block_pack(&block, &decode->context->kernels, decode->args->q, q_at, &place, space);
        (decode->plan->sparse ? attend_list : attend_dense)(&place, piece, &block, space);
        for (int r = 0; r < block.rows; r++) {
            float *o = space->o + (size_t)r * line;
            if (piece->slot < 0) {
                write_row(&place, r, o, space->max[r], space->sum[r]);
                continue;
            }
            float *to = partial_row(&place, piece->slot, r);
            memcpy(to, o, d_v * sizeof *o);
            to[d_v] = space->max[r];
            to[d_v + 1] = space->sum[r];
        }
    }
}

static void run_part(void *arg, int64_t task, struct fm_mla_space *space)
{
    const struct decode *decode = arg;
    int64_t part = task / decode->inner;
    for (int64_t i = decode->plan->parts[part]; i < decode->plan->parts[part + 1]; i++)
        run_piece(decode, &decode->plan->pieces[i], (int)(task % decode->inner), space);
}

// One row's splits, in order.
static void merge_row(const struct place *place, struct fm_mla_space *space)
{
    const struct decode *decode = place->decode;
    size_t d_v = (size_t)decode->block.d_v;
    int64_t begin = decode->plan->splits[place->sequence], end = decode->plan->splits[place->sequence + 1];
    float max = -INFINITY, sum = 0;
    for (int64_t slot = begin; slot < end; slot++) {
        float of_slot = partial_row(place, slot, 0)[d_v];
        max = of_slot > max ? of_slot : max;
    }
    memset(space->o, 0, d_v * sizeof *space->o);
    for (int64_t slot = begin; slot < end; slot++) {
        const float *from = partial_row(place, slot, 0);
        if (from[d_v + 1] == 0)
            continue; // no key: its max is -inf
        float weight = fm_mla_exp2(from[d_v] - max);
        sum = fmaf(from[d_v + 1], weight, sum);
        decode->context->kernels.add_scaled(from, d_v, weight, space->o);
    }
    write_row(place, 0, space->o, max, sum);
}

enum { MERGE_ROWS = 16 }; // of a task: some microseconds

static int64_t merge_tasks_of_unit(const struct decode *decode)
{
    return fm_mla_ceil_div(decode->rows, MERGE_ROWS);
}

static void merge_rows(void *arg, int64_t task, struct fm_mla_space *space)
{
    const struct decode *decode = arg;
    int64_t unit = task / merge_tasks_of_unit(decode);
    int first = (int)(task % merge_tasks_of_unit(decode)) * MERGE_ROWS,
        sequence = (int)(unit / decode->inner);
    if (decode->plan->splits[sequence] == decode->plan->splits[sequence + 1])
        return;
    for (int row = first; row < decode->rows && row < first + MERGE_ROWS; row++)
        merge_row(&(struct place){decode, sequence, (int)(unit % decode->inner), row}, space);
}

static fm_status check_table(const fm_mla_plan *plan, const fm_mla_decode_args *args)
{
    FM_TRY(fm_mla_args_extent("max_blocks", args->max_blocks, 0, FM_MLA_EXTENT_MAX));
    for (int64_t i = 0; i < plan->shape.batch; i++) {
        int64_t pages = fm_mla_ceil_div(plan->lengths[i], args->cache->page);
        if (pages > args->max_blocks)
            return fm_base_error_set(
                FM_ERR_ARG,
                "cache_seqlens[%lld] is %lld, %lld pages of %d; expected at most max_blocks, %lld",
                (long long)i, (long long)plan->lengths[i], (long long)pages, args->cache->page,
                (long long)args->max_blocks);
        if (pages && !args->block_table)
            return fm_base_error_set(FM_ERR_ARG, "block_table is null; expected the pages of each sequence");
        const int32_t *row = args->block_table + i * args->max_blocks;
        for (int64_t j = 0; j < pages; j++)
            if (row[j] < 0 || row[j] >= args->cache->blocks)
                return fm_base_error_set(FM_ERR_ARG, "block_table[%lld, %lld] is %d; expected 0 to %lld",
                                         (long long)i, (long long)j, row[j],
                                         (long long)args->cache->blocks - 1);
    }
    return FM_OK;
}

static fm_status check_lists(const fm_mla_plan *plan, const fm_mla_decode_args *args)
{
    int some = plan->shape.batch && plan->shape.s_q;
    if (some && plan->topk && !args->indices)
        return fm_base_error_set(FM_ERR_ARG, "indices is null; expected %d for each query", plan->topk);
    if (!plan->extra_topk)
        return FM_OK;
    FM_TRY(fm_mla_cache_check("extra_cache", args->extra_cache));
    if (args->extra_cache->d_qk != args->cache->d_qk || args->extra_cache->d_v != args->cache->d_v ||
        args->extra_cache->h_kv != 1 ||
        fm_mla_cache_dtype(args->extra_cache) != fm_mla_cache_dtype(args->cache))
        return fm_base_error_set(FM_ERR_ARG,
                                 "extra_cache differs from cache in d_qk, d_v, h_kv or its q's dtype; "
                                 "expected the same");
    if (some && !args->extra_indices)
        return fm_base_error_set(FM_ERR_ARG, "extra_indices is null; expected %d for each query",
                                 plan->extra_topk);
    return FM_OK;
}

static fm_status check_tensors(const fm_mla_plan *plan, const fm_mla_decode_args *args)
{
    const fm_mla_shape *shape = &plan->shape;
    const fm_mla_cache *cache = args->cache;
    fm_dtype dtype = fm_mla_cache_dtype(cache);
    if (cache->h_kv != shape->h_kv || cache->d_v != shape->d_v)
        return fm_base_error_set(FM_ERR_ARG,
                                 "h_kv and d_v of cache are %d and %d; expected %d and %d, the plan's",
                                 cache->h_kv, cache->d_v, shape->h_kv, shape->d_v);
    uint32_t outputs = FM_MLA_DTYPE_BIT(dtype) | FM_MLA_DTYPE_BIT(FM_DTYPE_F32);
    FM_TRY(fm_mla_args_tensor("q", args->q, FM_MLA_DTYPE_BIT(dtype), 4,
                              (int64_t[]){shape->batch, shape->s_q, shape->h_q, cache->d_qk}, 1));
    FM_TRY(fm_mla_args_tensor("out", args->out, outputs, 4,
                              (int64_t[]){shape->batch, shape->s_q, shape->h_q, shape->d_v}, 1));
    if (args->lse)
        FM_TRY(fm_mla_args_tensor("lse", args->lse, FM_MLA_DTYPE_BIT(FM_DTYPE_F32), 3,
                                  (int64_t[]){shape->batch, shape->h_q, shape->s_q}, 0));
    const fm_tensor *outs[] = {args->out, args->lse};
    const char *names[] = {"out", "lse"};
    for (int i = 0; i < 2; i++) {
        FM_TRY(fm_mla_args_apart(names[i], outs[i], "q", args->q));
        FM_TRY(fm_mla_args_apart_bytes(names[i], outs[i], "cache", cache->data, fm_mla_cache_span(cache)));
        if (plan->extra_topk)
            FM_TRY(fm_mla_args_apart_bytes(names[i], outs[i], "extra_cache", args->extra_cache->data,
                                           fm_mla_cache_span(args->extra_cache)));
    }
    return fm_mla_args_apart("lse", args->lse, "out", args->out);
}

fm_status fm_mla_decode(fm_mla_context *context, fm_mla_plan *plan, const fm_mla_decode_args *args)
{
    FM_SPAN_ARGS(span, "decode", "mla", "sequences", "splits");
    if (!context || !plan || !args)
        return fm_base_error_set(FM_ERR_ARG, "%s is null; expected an address",
                                 !context ? "context" : (!plan ? "plan" : "args"));
    FM_TRY(fm_mla_cache_check("cache", args->cache));
    if (plan->sparse && args->block_table)
        return fm_base_error_set(FM_ERR_ARG, "block_table is given; expected NULL with a plan of lists");
    if (!plan->sparse && (args->indices || args->extra_indices))
        return fm_base_error_set(FM_ERR_ARG, "indices are given; expected NULL with a plan of cache_seqlens");
    FM_TRY((plan->sparse ? check_lists : check_table)(plan, args));
    FM_TRY(check_tensors(plan, args));
    const fm_mla_shape *shape = &plan->shape;
    struct decode decode = {
        .context = context,
        .plan = plan,
        .args = args,
        .pages = fm_mla_pages_of(args->cache),
        .block = {.d_qk = args->cache->d_qk,
                  .d_v = shape->d_v,
                  .limited = shape->causal,
                  .round = fm_mla_round_of(fm_mla_cache_dtype(args->cache))},
        .inner = plan->sparse ? shape->s_q : shape->h_kv,
        .rows = plan->sparse ? shape->h_q : shape->s_q * (shape->h_q / shape->h_kv),
    };
    if (plan->extra_topk)
        decode.extra = fm_mla_pages_of(args->extra_cache);
    float scale;
    FM_TRY(fm_mla_args_scale(args->softmax_scale, args->cache->d_qk, &scale));
    decode.block.factor = scale * FM_MLA_LOG2E;
    if (!shape->batch || !shape->s_q)
        return FM_OK;
    span.args[0] = shape->batch;
    span.args[1] = plan->splits[shape->batch];
    struct fm_mla_stage stages[] = {
        {plan->part_count * decode.inner, run_part},
        {(int64_t)shape->batch * decode.inner * merge_tasks_of_unit(&decode), merge_rows}};
    fm_mla_team_run(context, plan->partial ? 2 : 1, stages, &decode);
    return FM_OK;
}
