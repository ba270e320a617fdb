#include "mla_plan.h"

#include "fathom/mem.h"

#include <string.h>

enum {
    PARTS_DEFAULT_MAX = 64,
    PART_ROWS = 128, // fewer take little less time, as their keys have to be read all the same
    PART_ROW_BLOCKS = 16 * PART_ROWS // blocks times rows of a part by default: 1024 keys that 128 rows see
};

static int64_t blocks_of(int64_t length)
{
    return length > 0 ? fm_mla_ceil_div(length, FM_MLA_SPLIT_BLOCK)
                      : 1; // an empty list still has rows to write
}

static int64_t total_length(const fm_mla_plan *plan, int64_t i)
{
    return plan->lengths[i] + (plan->extra_lengths ? plan->extra_lengths[i] : 0);
}

// Where pieces go; without memory for them, or `dry`, they are only counted.
struct pieces {
    fm_mla_plan *plan;
    int dry;
    int64_t count, parts, slots;
};

static void add_piece(struct pieces *to, int64_t sequence, int64_t begin, int64_t end, int split)
{
    if (to->plan->pieces && !to->dry)
        to->plan->pieces[to->count] =
            (struct fm_mla_piece){(int)sequence, begin, end, split ? to->slots : -1};
    to->count++;
    to->slots += split;
}

static void end_part(struct pieces *to)
{
    to->parts++;
    if (to->plan->parts && !to->dry)
        to->plan->parts[to->parts] = to->count;
}

static void end_sequence(struct pieces *to, int64_t sequence)
{
    if (to->plan->splits && !to->dry)
        to->plan->splits[sequence + 1] = to->slots;
}

// Every list alone.
static void cut_invariant(struct pieces *to)
{
    for (int64_t i = 0; i < to->plan->shape.batch; i++) {
        int64_t length = total_length(to->plan, i), at = 0;
        do {
            int64_t end = fm_mla_min(length, at + FM_MLA_SPLIT_INVARIANT);
            add_piece(to, i, at, end, length > FM_MLA_SPLIT_INVARIANT);
            end_part(to);
            at = end;
        } while (at < length);
        end_sequence(to, i);
    }
}

// FlashMLA's: parts of equal payload, a list going on in the next part where the payload ends.
static void cut_by_payload(struct pieces *to, int64_t payload)
{
    const fm_mla_plan *plan = to->plan;
    int64_t batch = plan->shape.batch, sequence = 0, block = 0;
    while (sequence < batch) {
        int64_t left = payload;
        while (sequence < batch) {
            int64_t length = total_length(plan, sequence), rest = blocks_of(length) - block;
            int64_t begin = block * FM_MLA_SPLIT_BLOCK;
            if (left < rest + FM_MLA_SPLIT_OVERHEAD) {
                int64_t taken = left - FM_MLA_SPLIT_OVERHEAD;
                if (taken > 0) {
                    add_piece(to, sequence, begin, begin + taken * FM_MLA_SPLIT_BLOCK, 1);
                    block += taken;
                }
                break;
            }
            add_piece(to, sequence, begin, length, block > 0);
            end_sequence(to, sequence);
            left -= rest + FM_MLA_SPLIT_OVERHEAD;
            block = 0;
            sequence++;
        }
        end_part(to);
    }
}

// The least payload that fills no more than so many parts. FlashMLA's has room for one overhead more in each, and leaves
// the last one short.
static void cut_evenly(struct pieces *to, int64_t parts)
{
    const fm_mla_plan *plan = to->plan;
    int64_t all = 0;
    for (int64_t i = 0; i < plan->shape.batch; i++)
        all += blocks_of(total_length(plan, i)) + FM_MLA_SPLIT_OVERHEAD;
    int64_t payload = fm_mla_ceil_div(all, parts);
    if (payload <= FM_MLA_SPLIT_OVERHEAD)
        payload = FM_MLA_SPLIT_OVERHEAD + 1; // a block at least
    for (;; payload++) {
        struct pieces trial = {.plan = to->plan, .dry = 1};
        cut_by_payload(&trial, payload);
        if (trial.parts <= parts)
            break;
    }
    cut_by_payload(to, payload);
}

static void cut(struct pieces *to, const fm_mla_split *split)
{
    const fm_mla_plan *plan = to->plan;
    if (split->batch_invariant) {
        cut_invariant(to);
        return;
    }
    int64_t parts = split->parts, work = 0;
    if (!parts) {
        int64_t rows = (int64_t)plan->shape.s_q * plan->shape.h_q;
        rows = rows > PART_ROWS ? rows : PART_ROWS;
        for (int64_t i = 0; i < plan->shape.batch; i++)
            work += blocks_of(total_length(plan, i)) * rows;
        parts = fm_mla_min(fm_mla_ceil_div(work, PART_ROW_BLOCKS), PARTS_DEFAULT_MAX);
    }
    cut_evenly(to, parts ? parts : 1);
}

static fm_status no_memory(void)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory for a decode plan");
}

// Counts, allocates, fills.
static fm_status cut_into(fm_mla_plan *plan, const fm_mla_split *split)
{
    struct pieces to = {.plan = plan};
    cut(&to, split);
    size_t rows = (size_t)plan->shape.s_q * (size_t)plan->shape.h_q, floats = 0;
    FM_TRY(fm_mul_size((size_t)to.slots * rows, fm_mla_partial_floats(plan), &floats));
    plan->piece_count = to.count;
    plan->part_count = to.parts;
    plan->pieces = fm_base_mem_zalloc((size_t)to.count + 1, sizeof *plan->pieces);
    plan->parts = fm_base_mem_zalloc((size_t)to.parts + 1, sizeof *plan->parts);
    plan->splits = fm_base_mem_zalloc((size_t)plan->shape.batch + 1, sizeof *plan->splits);
    // Not touched here: a page belongs to the NUMA node of the thread that writes it first.
    if (floats)
        plan->partial =
            floats > SIZE_MAX / sizeof(float) ? NULL : fm_base_mem_aligned(floats * sizeof(float), 64);
    if (!plan->pieces || !plan->parts || !plan->splits || (floats && !plan->partial))
        return no_memory();
    to = (struct pieces){.plan = plan};
    cut(&to, split);
    return FM_OK;
}

static fm_status copy_lengths(const char *name, int64_t count, int64_t all, const int32_t *lengths,
                              int64_t **out_lengths)
{
    int64_t *copy = fm_base_mem_zalloc((size_t)count + 1, sizeof *copy);
    if (!copy)
        return no_memory();
    *out_lengths = copy; // the plan's from now on
    for (int64_t i = 0; i < count; i++) {
        copy[i] = lengths ? lengths[i] : all;
        if (copy[i] < 0 || (all >= 0 && copy[i] > all))
            return fm_base_error_set(FM_ERR_ARG, "%s[%lld] is %lld; expected 0 to %lld", name, (long long)i,
                                     (long long)copy[i], all >= 0 ? (long long)all : (long long)INT32_MAX);
    }
    return FM_OK;
}

static fm_status check_shape(const fm_mla_shape *shape, const fm_mla_split *split, fm_mla_plan **out_plan)
{
    if (!shape || !split || !out_plan)
        return fm_base_error_set(FM_ERR_ARG, "%s is null; expected an address",
                                 !shape ? "shape" : (!split ? "split" : "out_plan"));
    FM_TRY(fm_mla_args_extent("batch", shape->batch, 0, INT32_MAX));
    FM_TRY(fm_mla_args_extent("s_q", shape->s_q, 0, INT32_MAX));
    FM_TRY(fm_mla_args_heads(shape->h_q, shape->h_kv));
    FM_TRY(fm_mla_args_extent("s_q times h_q", (int64_t)shape->s_q * shape->h_q, 0, INT32_MAX));
    FM_TRY(fm_mla_args_dim("d_v", shape->d_v));
    return fm_mla_args_extent("parts", split->parts, 0, FM_MLA_PARTS_MAX);
}

fm_status fm_mla_plan_dense(const fm_mla_shape *shape, const int32_t *cache_seqlens,
                            const fm_mla_split *split, fm_mla_plan **out_plan)
{
    FM_TRY(check_shape(shape, split, out_plan));
    if (!cache_seqlens && shape->batch)
        return fm_base_error_set(FM_ERR_ARG, "cache_seqlens is null; expected %d lengths", shape->batch);
    fm_mla_plan *plan = fm_base_mem_zalloc(1, sizeof *plan);
    if (!plan)
        return no_memory();
    plan->shape = *shape;
    fm_status status = copy_lengths("cache_seqlens", shape->batch, -1, cache_seqlens, &plan->lengths);
    if (status == FM_OK)
        status = cut_into(plan, split);
    if (status != FM_OK) {
        fm_mla_plan_free(plan);
        return status;
    }
    *out_plan = plan;
    return FM_OK;
}

fm_status fm_mla_plan_sparse(const fm_mla_shape *shape, int topk, const int32_t *topk_length, int extra_topk,
                             const int32_t *extra_topk_length, const fm_mla_split *split,
                             fm_mla_plan **out_plan)
{
    FM_TRY(check_shape(shape, split, out_plan));
    FM_TRY(fm_mla_args_extent("topk", topk, 0, INT32_MAX));
    FM_TRY(fm_mla_args_extent("extra_topk", extra_topk, 0, INT32_MAX));
    if (shape->h_kv != 1 || shape->causal)
        return fm_base_error_set(FM_ERR_ARG,
                                 "h_kv is %d and causal %d; expected 1 and 0 where keys are listed",
                                 shape->h_kv, shape->causal);
    fm_mla_plan *plan = fm_base_mem_zalloc(1, sizeof *plan);
    if (!plan)
        return no_memory();
    plan->shape = *shape;
    plan->sparse = 1;
    plan->topk = topk;
    plan->extra_topk = extra_topk;
    fm_status status = copy_lengths("topk_length", shape->batch, topk, topk_length, &plan->lengths);
    if (status == FM_OK)
        status = copy_lengths("extra_topk_length", shape->batch, extra_topk, extra_topk_length,
                              &plan->extra_lengths);
    if (status == FM_OK)
        status = cut_into(plan, split);
    if (status != FM_OK) {
        fm_mla_plan_free(plan);
        return status;
    }
    *out_plan = plan;
    return FM_OK;
}

void fm_mla_plan_free(fm_mla_plan *plan)
{
    if (!plan)
        return;
    fm_base_mem_free(plan->lengths);
    fm_base_mem_free(plan->extra_lengths);
    fm_base_mem_free(plan->pieces);
    fm_base_mem_free(plan->parts);
    fm_base_mem_free(plan->splits);
    fm_base_mem_free(plan->partial);
    fm_base_mem_free(plan);
}
