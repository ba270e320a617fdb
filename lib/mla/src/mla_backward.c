/*
 * A task is a key head of a sequence, with all query heads that use it. Its keys come in blocks, whose dK and dV are
 * summed up over all queries while the block stays in the cache; dQ of the whole sequence is summed up in memory, block
 * after block. Both have one order whatever the threads do.
 */
#include "mla_prefill.h"

#include "mla_exp.h"

#include "fathom/mem.h"
#include "fathom/span.h"

#include <math.h>
#include <string.h>

struct backward {
    struct fm_mla_prefill prefill;
    const fm_tensor *d_out, *dq, *dk, *dv;
    int group; // query heads of a key head
    int keys;  // of a block
    int rows;
    size_t thread_floats;
    float *sums; // of each thread: for all queries of the group lse2, then delta, then dQ
};

// Sums of a task. Query i of head h of the group has the number h * queries + i.
struct task {
    const struct backward *backward;
    int sequence, head; // key head
    int64_t queries, keys;
    float *lse2, *delta, *dq;
    struct fm_mla_space *space;
};

static int64_t query_row(const struct task *task, int64_t query)
{
    return task->backward->prefill.args->cu_seqlens_q[task->sequence] + query;
}

static int64_t key_row(const struct task *task, int64_t key)
{
    return task->backward->prefill.args->cu_seqlens_k[task->sequence] + key;
}

static int query_head(const struct task *task, int h)
{
    return task->head * task->backward->group + h;
}

// lse in base 2, and out . d_out, of every query of a head.
static void take_rows(const struct task *task, int h)
{
    const struct fm_mla_prefill *prefill = &task->backward->prefill;
    const fm_mla_prefill_args *args = prefill->args;
    const fm_tensor *d_out = task->backward->d_out;
    float *out_row = task->space->lines, *d_out_row = out_row + FM_MLA_LINE_MAX;
    size_t d_v = (size_t)prefill->d_v;
    int head = query_head(task, h);
    for (int64_t i = 0; i < task->queries; i++) {
        int64_t row = query_row(task, i), number = h * task->queries + i;
        double lse = (double)((const float *)args->lse->data)[fm_mla_prefill_row(args->lse, row, head)];
        fm_mla_row_read(&prefill->context->kernels, args->out, fm_mla_prefill_row(args->out, row, head), d_v,
                        out_row);
        fm_mla_row_read(&prefill->context->kernels, d_out, fm_mla_prefill_row(d_out, row, head), d_v,
                        d_out_row);
        double delta = 0;
        for (size_t j = 0; j < d_v; j++)
            delta += (double)out_row[j] * (double)d_out_row[j];
        task->lse2[number] = (float)(lse * 0x1.71547652b82fep+0);
        task->delta[number] = (float)delta;
    }
}

// Rows of q or d_out, as they are and in strips.
static void take_block(const struct task *task, const fm_tensor *tensor, int64_t first, int h, int rows,
                       int columns, float *lines, float *strips)
{
    const struct fm_mla_kernels *kernels = &task->backward->prefill.context->kernels;
    size_t line = fm_mla_line((size_t)columns);
    fm_mla_prefill_widen(kernels, tensor, query_row(task, first), query_head(task, h), rows, columns, lines);
    for (int r = rows; r % FM_MLA_LANES; r++)
        memset(lines + (size_t)r * line, 0, (size_t)columns * sizeof *lines);
    for (int r = 0; r < rows; r += FM_MLA_LANES)
        fm_mla_block_strip(kernels, lines + (size_t)r * line, line, r, rows, columns, strips);
}

// A block of queries against a block of keys.
struct pair {
    int64_t key, first; // of the sequence
    int h;              // of the group
    int keys, rows;
    int behind; // rows before the first that sees any of the keys, whole steps of them
};

// Keys that no row sees, and rows that see no key, are left out.
static struct pair pair_of(const struct task *task, int64_t key, int keys, int64_t first, int h, int rows)
{
    const struct fm_mla_prefill *prefill = &task->backward->prefill;
    struct pair pair = {.key = key, .first = first, .h = h, .rows = rows};
    int64_t seen = fm_mla_prefill_limit(prefill, task->sequence, first + rows - 1) - key;
    pair.keys = seen < 0 ? 0 : (int)fm_mla_min(seen, keys);
    while (pair.behind + FM_MLA_STEP < rows &&
           fm_mla_prefill_limit(prefill, task->sequence, first + pair.behind + FM_MLA_STEP - 1) <= key)
        pair.behind += FM_MLA_STEP;
    return pair;
}

static size_t pair_line(const struct pair *pair)
{
    return fm_mla_line(((size_t)pair->rows + FM_MLA_LANES - 1) / FM_MLA_LANES * FM_MLA_LANES);
}

// Whether operands are numbers of BF16, and products on tiles.
static int on_tiles(const struct task *task)
{
    const struct fm_mla_prefill *prefill = &task->backward->prefill;
    return prefill->context->kernels.tiles.multiply && prefill->round == FM_MLA_ROUND_BF16;
}

static void multiply(const struct task *task, const struct fm_mla_product *product)
{
    const struct fm_mla_kernels *kernels = &task->backward->prefill.context->kernels;
    if (on_tiles(task))
        fm_mla_product_tiles(product, 0, kernels, task->space);
    else
        kernels->multiply(product);
}

// Dots of all keys of a block, `a`, with rows `first` ... `rows` of what lies in strips.
static void dots(const struct task *task, const float *a, int keys, const float *strips, int first, int rows,
                 int depth, float *c, size_t c_stride)
{
    const struct fm_mla_kernels *kernels = &task->backward->prefill.context->kernels;
    size_t a_stride = fm_mla_line((size_t)depth);
    if (!on_tiles(task)) {
        fm_mla_block_dots(kernels, a, a_stride, keys, strips, first, rows, depth, c, c_stride, NULL, 0);
        return;
    }
    for (int strip = first; strip < rows; strip += FM_MLA_STRIP) {
        int width = fm_mla_lanes(rows) - strip < FM_MLA_STRIP ? FM_MLA_LANES : FM_MLA_STRIP;
        fm_mla_product_tiles(&(struct fm_mla_product){.a = a,
                                                      .a_row = a_stride,
                                                      .a_index = 1,
                                                      .b = strips + (size_t)strip * (size_t)depth,
                                                      .b_stride = (size_t)width,
                                                      .c = c + strip,
                                                      .c_stride = c_stride,
                                                      .rows = keys,
                                                      .columns = width,
                                                      .depth = depth,
                                                      .fresh = 1},
                             strip > first, kernels, task->space);
    }
}

// P and dS in space->p and space->dp.
static void probabilities(const struct task *task, const struct pair *pair)
{
    const struct fm_mla_prefill *prefill = &task->backward->prefill;
    const struct fm_mla_kernels *kernels = &prefill->context->kernels;
    struct fm_mla_space *space = task->space;
    int rows = pair->rows, behind = pair->behind, partly = 0;
    int lanes = (rows + FM_MLA_LANES - 1) / FM_MLA_LANES * FM_MLA_LANES;
    size_t line = pair_line(pair);
    dots(task, space->k, pair->keys, space->q, behind, rows, prefill->d_qk, space->p, line);
    dots(task, space->v, pair->keys, space->o, behind, rows, prefill->d_v, space->dp, line);
    for (int r = behind; r < lanes; r++) {
        int64_t number = pair->h * task->queries + pair->first + r;
        int64_t left = fm_mla_prefill_limit(prefill, task->sequence, pair->first + r) - pair->key;
        space->visible[r] = left < 0 ? 0 : (int32_t)fm_mla_min(left, pair->keys);
        partly |= space->visible[r] < pair->keys;
        space->max[r] = r < rows ? task->lse2[number] : INFINITY;
        space->sum[r] = r < rows ? task->delta[number] : 0;
    }
    kernels->softmax_back(&(struct fm_mla_softmax_back){
        .s = space->p + behind,
        .dp = space->dp + behind,
        .stride = line,
        .keys = pair->keys,
        .rows = lanes - behind,
        .visible = partly ? space->visible + behind : NULL,
        .factor = prefill->factor,
        .round = prefill->round,
        .lse2 = space->max + behind,
        .delta = space->sum + behind,
    });
}

static void add_gradients(const struct task *task, const struct pair *pair)
{
    const struct fm_mla_prefill *prefill = &task->backward->prefill;
    struct fm_mla_space *space = task->space;
    size_t line = pair_line(pair), behind = (size_t)pair->behind;
    size_t qk_line = fm_mla_line((size_t)prefill->d_qk), v_line = fm_mla_line((size_t)prefill->d_v);
    struct fm_mla_product product = {
        .a = space->p + behind,
        .a_row = line,
        .a_index = 1,
        .b = space->do_rows + behind * v_line,
        .b_stride = v_line,
        .c = space->dv,
        .c_stride = v_line,
        .rows = pair->keys,
        .columns = prefill->d_v,
        .depth = pair->rows - pair->behind,
    };
    multiply(task, &product); // dV += P^T dO
    product.a = space->dp + behind;
    product.b = space->q_rows + behind * qk_line;
    product.c = space->dk;
    product.b_stride = product.c_stride = qk_line;
    product.columns = prefill->d_qk;
    multiply(task, &product); // dK += dS^T Q
    product.a_row = 1;
    product.a_index = line;
    product.b = space->k;
    product.c = task->dq + ((size_t)(pair->h * task->queries + pair->first) + behind) * qk_line;
    product.rows = pair->rows - pair->behind;
    product.depth = pair->keys;
    multiply(task, &product); // dQ += dS K
}

static void write_rows(const struct task *task, const fm_tensor *tensor, int64_t first, int head,
                       int64_t rows, int columns, float scale, float *lines)
{
    for (int64_t r = 0; r < rows; r++) {
        float *row = lines + (size_t)r * fm_mla_line((size_t)columns);
        task->backward->prefill.context->kernels.scale(row, (size_t)columns, scale);
        fm_mla_row_write(tensor, fm_mla_prefill_row(tensor, first + r, head), (size_t)columns, row);
    }
}

static void run_keys(const struct task *task, int64_t key, int keys)
{
    const struct backward *backward = task->backward;
    const struct fm_mla_prefill *prefill = &backward->prefill;
    struct fm_mla_space *space = task->space;
    fm_mla_prefill_widen(&prefill->context->kernels, prefill->args->k, key_row(task, key), task->head, keys,
                         prefill->d_qk, space->k);
    fm_mla_prefill_widen(&prefill->context->kernels, prefill->args->v, key_row(task, key), task->head, keys,
                         prefill->d_v, space->v);
    memset(space->dk, 0, (size_t)keys * fm_mla_line((size_t)prefill->d_qk) * sizeof *space->dk);
    memset(space->dv, 0, (size_t)keys * fm_mla_line((size_t)prefill->d_v) * sizeof *space->dv);
    for (int h = 0; h < backward->group; h++)
        for (int64_t first = 0; first < task->queries; first += backward->rows) {
            int rows = (int)fm_mla_min(task->queries - first, backward->rows);
            struct pair pair = pair_of(task, key, keys, first, h, rows);
            if (!pair.keys)
                continue;
            take_block(task, prefill->args->q, first, h, rows, prefill->d_qk, space->q_rows, space->q);
            take_block(task, backward->d_out, first, h, rows, prefill->d_v, space->do_rows, space->o);
            probabilities(task, &pair);
            add_gradients(task, &pair);
        }
    write_rows(task, backward->dk, key_row(task, key), task->head, keys, prefill->d_qk, prefill->scale,
               space->dk);
    write_rows(task, backward->dv, key_row(task, key), task->head, keys, prefill->d_v, 1, space->dv);
}

static void run(void *arg, int64_t number, struct fm_mla_space *space)
{
    const struct backward *backward = arg;
    const struct fm_mla_prefill *prefill = &backward->prefill;
    int sequence = (int)(number / prefill->h_kv);
    int64_t queries = fm_mla_prefill_length(prefill->args->cu_seqlens_q, sequence);
    float *sums = backward->sums + (size_t)(space - prefill->context->spaces) * backward->thread_floats;
    size_t all = (size_t)(queries * backward->group), line = fm_mla_line((size_t)prefill->d_qk);
    struct task task = {
        .backward = backward,
        .sequence = sequence,
        .head = (int)(number % prefill->h_kv),
        .queries = queries,
        .keys = fm_mla_prefill_length(prefill->args->cu_seqlens_k, sequence),
        .lse2 = sums,
        .delta = sums + all,
        .dq = sums + 2 * all,
        .space = space,
    };
    memset(task.dq, 0, all * line * sizeof *task.dq);
    for (int h = 0; h < backward->group; h++)
        take_rows(&task, h);
    for (int64_t key = 0; key < task.keys; key += backward->keys)
        run_keys(&task, key, (int)fm_mla_min(task.keys - key, backward->keys));
    for (int h = 0; h < backward->group; h++)
        write_rows(&task, backward->dq, query_row(&task, 0), query_head(&task, h), queries, prefill->d_qk,
                   prefill->scale, task.dq + (size_t)(h * queries) * line);
}

static fm_status check_gradients(const struct backward *backward)
{
    const struct fm_mla_prefill *prefill = &backward->prefill;
    const fm_mla_prefill_args *args = prefill->args;
    uint32_t given = FM_MLA_DTYPE_BIT(args->q->dtype), outputs = given | FM_MLA_DTYPE_BIT(FM_DTYPE_F32);
    FM_TRY(fm_mla_args_tensor("d_out", backward->d_out, given, 3, args->out->shape, 1));
    FM_TRY(fm_mla_args_tensor("dq", backward->dq, outputs, 3, args->q->shape, 1));
    FM_TRY(fm_mla_args_tensor("dk", backward->dk, outputs, 3, args->k->shape, 1));
    FM_TRY(fm_mla_args_tensor("dv", backward->dv, outputs, 3, args->v->shape, 1));
    const fm_tensor *results[] = {backward->dq, backward->dk, backward->dv};
    const fm_tensor *inputs[] = {args->q, args->k, args->v, args->out, args->lse, backward->d_out};
    const char *result_names[] = {"dq", "dk", "dv"}, *names[] = {"q", "k", "v", "out", "lse", "d_out"};
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 6; j++)
            FM_TRY(fm_mla_args_apart(result_names[i], results[i], names[j], inputs[j]));
    return FM_OK;
}

// Multiples of a step, so that where blocks end does not matter to the order of sums.
static int keys_of_block(int d_qk, int d_v)
{
    size_t line = fm_mla_line((size_t)(d_qk > d_v ? d_qk : d_v));
    int keys = (int)(FM_MLA_KV_FLOATS / line) / FM_MLA_STEP * FM_MLA_STEP;
    return keys < FM_MLA_BACK_KEYS ? keys : FM_MLA_BACK_KEYS;
}

fm_status fm_mla_prefill_backward(fm_mla_context *context, const fm_mla_prefill_args *args,
                                  const fm_tensor *d_out, const fm_tensor *dq, const fm_tensor *dk,
                                  const fm_tensor *dv)
{
    FM_SPAN_ARGS(span, "prefill backward", "mla", "queries", "keys");
    struct backward backward = {.d_out = d_out, .dq = dq, .dk = dk, .dv = dv, .rows = FM_MLA_BACK_ROWS};
    FM_TRY(fm_mla_prefill_check(context, args, 1, &backward.prefill));
    FM_TRY(check_gradients(&backward));
    const struct fm_mla_prefill *prefill = &backward.prefill;
    backward.group = prefill->h_q / prefill->h_kv;
    backward.keys = keys_of_block(prefill->d_qk, prefill->d_v);
    int64_t longest = 0, tasks = (int64_t)args->batch * prefill->h_kv;
    for (int i = 0; i < args->batch; i++) {
        int64_t length = fm_mla_prefill_length(args->cu_seqlens_q, i);
        longest = length > longest ? length : longest;
    }
    size_t bytes = 0;
    backward.thread_floats = (size_t)(longest * backward.group) * (fm_mla_line((size_t)prefill->d_qk) + 2) +
                             FM_MLA_LANES; // an empty sequence has sums, too
    FM_TRY(fm_mul_size(backward.thread_floats, (size_t)fm_mla_min(context->threads, tasks) * sizeof(float),
                       &bytes));
    backward.sums = fm_base_mem_aligned(bytes ? bytes : 64, 64);
    if (!backward.sums)
        return fm_base_error_set(FM_ERR_NOMEM,
                                 "no memory for the gradients of %lld queries of %d heads in f32",
                                 (long long)longest, backward.group);
    span.args[0] = args->q->shape[0];
    span.args[1] = args->k->shape[0];
    fm_mla_team_run(context, 1, &(struct fm_mla_stage){tasks, run}, &backward);
    fm_base_mem_free(backward.sums);
    return FM_OK;
}
