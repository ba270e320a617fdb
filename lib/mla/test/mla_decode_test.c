#include "mla_cases.h"

#include "fm_test.h"

#include <math.h>

enum { BATCH_MAX = 64 };

// A cache of its own memory, all poison but for the slots that were written, with what decode should find there.
struct store {
    fm_mla_cache cache;
    int64_t written; // slots order[0] ... order[written - 1]
    int64_t *order;  // all slots, shuffled
    float *rows;     // of all slots: h_kv x d_qk
};

struct problem {
    fm_mla_shape shape;
    fm_mla_split split;
    int sparse, topk, extra_topk, with_extra_length, with_length;
    int32_t lengths[BATCH_MAX], extra_lengths[BATCH_MAX];
    struct store store, extra;
    int64_t max_blocks;
    int32_t *table, *indices, *extra_indices;
    float scale, *sink;
    struct mla_array q, out, lse;
};

static void *taken(size_t count, size_t size)
{
    void *memory = fm_base_mem_zalloc(count + 1, size);
    assert_non_null(memory);
    return memory;
}

static fm_dtype dtype_of(const fm_mla_cache *cache)
{
    return cache->form == FM_MLA_FORM_F32    ? FM_DTYPE_F32
           : cache->form == FM_MLA_FORM_FP16 ? FM_DTYPE_F16
                                             : FM_DTYPE_BF16;
}

static void shuffle(fm_gen *gen, int64_t *values, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        values[i] = i;
    for (int64_t i = count - 1; i > 0; i--) {
        int64_t j = fm_gen_int(gen, 0, i), kept = values[i];
        values[i] = values[j];
        values[j] = kept;
    }
}

static void store_make(fm_gen *gen, struct store *store)
{
    fm_mla_cache *cache = &store->cache;
    size_t page_bytes = 0;
    assert_ok(fm_mla_cache_page_bytes(cache, &page_bytes));
    cache->block_stride = (int64_t)(page_bytes + 3) / 4 * 4 + 4 * fm_gen_int(gen, 0, 3);
    size_t bytes = (size_t)(cache->blocks * cache->block_stride);
    cache->data = fm_base_mem_aligned(bytes + 64, 64);
    assert_non_null(cache->data);
    memset(cache->data, 0xFF, bytes + 64);
    int64_t slots = cache->blocks * cache->page;
    store->order = taken((size_t)slots, sizeof *store->order);
    store->rows = taken((size_t)(slots * cache->h_kv * cache->d_qk), sizeof *store->rows);
    for (int64_t i = 0; i < slots * cache->h_kv * cache->d_qk; i++)
        store->rows[i] = NAN;
    shuffle(gen, store->order, slots);
}

static void store_free(struct store *store)
{
    fm_base_mem_free(store->cache.data);
    fm_base_mem_free(store->order);
    fm_base_mem_free(store->rows);
}

// Appends random keys, and reads them back.
static void store_fill(fm_gen *gen, struct store *store, const int64_t *slots, int64_t n)
{
    const fm_mla_cache *cache = &store->cache;
    int64_t shape[] = {n, cache->h_kv, cache->d_qk}, row = (int64_t)cache->h_kv * cache->d_qk;
    struct mla_array rows = mla_array_make(gen, FM_DTYPE_BF16, 3, shape);
    mla_array_fill(gen, &rows, 0.1);
    float *back = taken((size_t)(n * row), sizeof *back);
    fm_tensor read;
    assert_ok(fm_base_tensor_init(&read, FM_DTYPE_F32, 3, shape, back));
    fm_mla_context *context = mla_open(FM_ISA_AVX512, 1);
    assert_ok(fm_mla_cache_append(context, cache, slots, &rows.tensor));
    assert_ok(fm_mla_cache_read(context, cache, slots, &read));
    for (int64_t i = 0; i < n; i++)
        memcpy(store->rows + slots[i] * row, back + i * row, (size_t)row * sizeof *back);
    fm_mla_context_close(context);
    fm_base_mem_free(back);
    mla_array_free(&rows);
}

static void any_cache(fm_gen *gen, fm_mla_cache *cache, int h_kv)
{
    static const int pages[] = {1, 2, 7, 16, 64, 69};
    static const fm_mla_form forms[] = {FM_MLA_FORM_BF16, FM_MLA_FORM_BF16, FM_MLA_FORM_FP16, FM_MLA_FORM_F32,
                                        FM_MLA_FORM_FP8};
    cache->form = forms[fm_gen_int(gen, 0, 4)];
    cache->page = pages[fm_gen_int(gen, 0, 5)];
    cache->h_kv = h_kv;
    cache->d_v = 16 * (int)fm_gen_int(gen, 1, 4);
    cache->d_qk = cache->d_v + 16 * (int)fm_gen_int(gen, 0, 2);
    cache->group = 0;
    if (cache->form == FM_MLA_FORM_FP8)
        cache->group = fm_gen_chance(gen, 0.5) ? 0 : 16 * (int)fm_gen_int(gen, 1, 3);
    if (h_kv == 1 && fm_gen_chance(gen, 0.1)) {
        cache->form = FM_MLA_FORM_FP8_584;
        cache->d_qk = cache->d_v = 512;
        cache->group = 0;
    }
}

static void make_outputs(fm_gen *gen, struct problem *problem)
{
    const fm_mla_shape *shape = &problem->shape;
    const fm_mla_cache *cache = &problem->store.cache;
    fm_dtype dtype = dtype_of(cache);
    problem->q =
        mla_array_make(gen, dtype, 4, (int64_t[]){shape->batch, shape->s_q, shape->h_q, cache->d_qk});
    problem->out = mla_array_make(gen, fm_gen_chance(gen, 0.5) ? dtype : FM_DTYPE_F32, 4,
                                  (int64_t[]){shape->batch, shape->s_q, shape->h_q, shape->d_v});
    problem->lse = mla_array_make(gen, FM_DTYPE_F32, 3, (int64_t[]){shape->batch, shape->h_q, shape->s_q});
    mla_array_fill(gen, &problem->q, 0.8);
    // With the last p spreads over so many powers of two that what it is relative to moves.
    problem->scale = (float[]){0, 0, 0.4F, 15}[fm_gen_int(gen, 0, 3)];
    if (fm_gen_chance(gen, 0.5)) {
        problem->sink = taken((size_t)shape->h_q, sizeof *problem->sink);
        for (int h = 0; h < shape->h_q; h++)
            problem->sink[h] = fm_gen_chance(gen, 0.2)   ? INFINITY
                               : fm_gen_chance(gen, 0.2) ? -INFINITY
                                                         : 3 * fm_gen_normal(gen);
    }
}

// The rest of a problem whose shape and cache are chosen.
static struct problem dense_of(fm_gen *gen, struct problem problem, int length_max)
{
    fm_mla_shape *shape = &problem.shape;
    fm_mla_cache *cache = &problem.store.cache;
    shape->d_v = cache->d_v;
    int64_t pages[BATCH_MAX], blocks = 0;
    for (int i = 0; i < shape->batch; i++) {
        problem.lengths[i] = fm_gen_chance(gen, 0.2) ? 0 : (int32_t)fm_gen_size(gen, 0, length_max);
        pages[i] = (problem.lengths[i] + cache->page - 1) / cache->page;
        problem.max_blocks = pages[i] > problem.max_blocks ? pages[i] : problem.max_blocks;
        blocks += pages[i];
    }
    problem.max_blocks += fm_gen_int(gen, 0, 2);
    cache->blocks = blocks + fm_gen_int(gen, 0, 2);
    store_make(gen, &problem.store);
    int64_t *order = taken((size_t)cache->blocks, sizeof *order), next = 0;
    shuffle(gen, order, cache->blocks);
    problem.table = taken((size_t)(shape->batch * problem.max_blocks), sizeof *problem.table);
    int64_t *slots = taken((size_t)length_max, sizeof *slots);
    for (int i = 0; i < shape->batch; i++) {
        int32_t *row = problem.table + i * problem.max_blocks;
        for (int64_t j = 0; j < problem.max_blocks; j++)
            row[j] = j < pages[i] ? (int32_t)order[next++] : 2147480000; // garbage where nobody may look
        for (int64_t j = 0; j < problem.lengths[i]; j++)
            slots[j] = (int64_t)row[j / cache->page] * cache->page + j % cache->page;
        store_fill(gen, &problem.store, slots, problem.lengths[i]);
    }
    fm_base_mem_free(order);
    fm_base_mem_free(slots);
    make_outputs(gen, &problem);
    return problem;
}

static struct problem dense_problem(fm_gen *gen, int length_max)
{
    struct problem problem = {
        .shape = {.batch = (int)fm_gen_int(gen, 0, 3),
                  .s_q = (int)fm_gen_int(gen, 0, 3),
                  .h_kv = (int)fm_gen_int(gen, 1, 2),
                  .causal = fm_gen_chance(gen, 0.6)},
        .split = {.parts = (int)fm_gen_int(gen, 0, 5), .batch_invariant = fm_gen_chance(gen, 0.3)},
    };
    fm_mla_shape *shape = &problem.shape;
    fm_mla_cache *cache = &problem.store.cache;
    shape->h_q = shape->h_kv * (int)fm_gen_size(gen, 1, 20);
    any_cache(gen, cache, shape->h_kv);
    return dense_of(gen, problem, length_max);
}

// Slots that were written, some twice, and what names none. What lies behind `length` names poison.
static int32_t *any_list(fm_gen *gen, const struct store *store, int64_t lists, int topk,
                         const int32_t *lengths, int64_t lists_per_length)
{
    static const int32_t invalid[] = {INT32_MIN, -123456, -1, 114514, 1919810, 2147480000, INT32_MAX};
    int32_t *list = taken((size_t)(lists * topk), sizeof *list);
    int64_t slots = store->cache.blocks * store->cache.page;
    double chance = fm_gen_chance(gen, 0.2) ? 1 : 0.2;
    for (int64_t i = 0; i < lists; i++)
        for (int j = 0; j < topk; j++) {
            int32_t *entry = &list[i * topk + j];
            if (j >= lengths[i / lists_per_length])
                *entry = store->written < slots ? (int32_t)store->order[slots - 1] : -1;
            else if (!store->written || fm_gen_chance(gen, chance))
                *entry = fm_gen_chance(gen, 0.2) ? (int32_t)slots : invalid[fm_gen_int(gen, 0, 6)];
            else
                *entry = (int32_t)store->order[fm_gen_int(gen, 0, store->written - 1)];
        }
    return list;
}

static void fill_some(fm_gen *gen, struct store *store)
{
    store_make(gen, store);
    int64_t slots = store->cache.blocks * store->cache.page;
    store->written = fm_gen_int(gen, 0, slots);
    store_fill(gen, store, store->order, store->written);
}

static struct problem sparse_problem(fm_gen *gen, int topk_max)
{
    struct problem problem = {
        .shape = {.batch = (int)fm_gen_int(gen, 0, 3),
                  .s_q = (int)fm_gen_int(gen, 0, 2),
                  .h_kv = 1,
                  .h_q = (int)fm_gen_size(gen, 1, 20)},
        .split = {.parts = (int)fm_gen_int(gen, 0, 5), .batch_invariant = fm_gen_chance(gen, 0.3)},
        .sparse = 1,
        .topk = (int)fm_gen_size(gen, 0, topk_max),
        .extra_topk = fm_gen_chance(gen, 0.5) ? (int)fm_gen_size(gen, 0, topk_max) : 0,
        .with_length = fm_gen_chance(gen, 0.5),
        .with_extra_length = fm_gen_chance(gen, 0.5),
    };
    any_cache(gen, &problem.store.cache, 1);
    problem.shape.d_v = problem.store.cache.d_v;
    problem.extra.cache = problem.store.cache; // of the other form with BF16 queries where there is one
    if (problem.store.cache.form == FM_MLA_FORM_BF16)
        problem.extra.cache.form = FM_MLA_FORM_FP8;
    problem.extra.cache.page = 5;
    problem.store.cache.blocks = fm_gen_int(gen, 1, 40);
    problem.extra.cache.blocks = fm_gen_int(gen, 1, 9);
    fill_some(gen, &problem.store);
    fill_some(gen, &problem.extra);
    for (int i = 0; i < problem.shape.batch; i++) {
        problem.lengths[i] = problem.with_length ? (int32_t)fm_gen_int(gen, 0, problem.topk) : problem.topk;
        problem.extra_lengths[i] =
            problem.with_extra_length ? (int32_t)fm_gen_int(gen, 0, problem.extra_topk) : problem.extra_topk;
    }
    int64_t lists = (int64_t)problem.shape.batch * problem.shape.s_q;
    problem.indices = any_list(gen, &problem.store, lists, problem.topk, problem.lengths, problem.shape.s_q);
    problem.extra_indices =
        any_list(gen, &problem.extra, lists, problem.extra_topk, problem.extra_lengths, problem.shape.s_q);
    make_outputs(gen, &problem);
    return problem;
}

static void discard(struct problem *problem)
{
    store_free(&problem->store);
    store_free(&problem->extra);
    fm_base_mem_free(problem->table);
    fm_base_mem_free(problem->indices);
    fm_base_mem_free(problem->extra_indices);
    fm_base_mem_free(problem->sink);
    mla_array_free(&problem->q);
    mla_array_free(&problem->out);
    mla_array_free(&problem->lse);
}

static fm_mla_plan *plan_of(const struct problem *problem)
{
    fm_mla_plan *plan;
    if (problem->sparse)
        assert_ok(fm_mla_plan_sparse(&problem->shape, problem->topk,
                                     problem->with_length ? problem->lengths : NULL, problem->extra_topk,
                                     problem->with_extra_length ? problem->extra_lengths : NULL,
                                     &problem->split, &plan));
    else
        assert_ok(fm_mla_plan_dense(&problem->shape, problem->lengths, &problem->split, &plan));
    return plan;
}

static fm_mla_decode_args args_of(const struct problem *problem)
{
    return (fm_mla_decode_args){
        .q = &problem->q.tensor,
        .cache = &problem->store.cache,
        .softmax_scale = problem->scale,
        .block_table = problem->sparse ? NULL : problem->table,
        .max_blocks = problem->max_blocks,
        .indices = problem->sparse ? problem->indices : NULL,
        .extra_cache = problem->sparse ? &problem->extra.cache : NULL,
        .extra_indices = problem->sparse ? problem->extra_indices : NULL,
        .sink = problem->sink,
        .out = &problem->out.tensor,
        .lse = &problem->lse.tensor,
    };
}

// Twice with one plan, as two layers would.
static void compute(struct problem *problem, fm_isa isa, int threads)
{
    fm_mla_context *context = mla_open(isa, threads);
    fm_mla_plan *plan = plan_of(problem);
    fm_mla_decode_args args = args_of(problem);
    if (isa != FM_ISA_REF)
        assert_ok(fm_mla_decode(context, plan, &args));
    assert_ok(fm_mla_decode(context, plan, &args));
    fm_mla_plan_free(plan);
    fm_mla_context_close(context);
    mla_array_gaps_untouched(&problem->out);
    mla_array_gaps_untouched(&problem->lse);
}

// Collects a row's keys and values; returns how many.
static int64_t keys_of(const struct problem *problem, int b, int i, int head, double *keys, double *values)
{
    const fm_mla_cache *cache = &problem->store.cache;
    int64_t length = problem->lengths[b], count = 0;
    if (problem->shape.causal) {
        length += i + 1 - problem->shape.s_q;
        length = length < 0 ? 0 : length;
    }
    int64_t extra = problem->sparse ? problem->extra_lengths[b] : 0,
            query = (int64_t)b * problem->shape.s_q + i;
    for (int64_t j = 0; j < length + extra; j++) {
        const struct store *store = j < length ? &problem->store : &problem->extra;
        int64_t slot;
        if (j >= length)
            slot = problem->extra_indices[query * problem->extra_topk + j - length];
        else if (problem->sparse)
            slot = problem->indices[query * problem->topk + j];
        else
            slot = (int64_t)problem->table[b * problem->max_blocks + j / cache->page] * cache->page +
                   j % cache->page;
        if (slot < 0 || slot >= store->cache.blocks * store->cache.page)
            continue;
        const float *row = store->rows + (slot * cache->h_kv + head) * cache->d_qk;
        for (int x = 0; x < cache->d_qk; x++)
            keys[count * cache->d_qk + x] = (double)row[x];
        for (int x = 0; x < cache->d_v; x++)
            values[count * cache->d_v + x] = (double)row[x];
        count++;
    }
    return count;
}

static void check_against_double(const struct problem *problem)
{
    const fm_mla_shape *shape = &problem->shape;
    const fm_mla_cache *cache = &problem->store.cache;
    size_t rows = (size_t)shape->batch * (size_t)shape->s_q * (size_t)shape->h_q, longest = 1;
    for (int b = 0; b < shape->batch; b++) {
        size_t length = (size_t)problem->lengths[b] + (size_t)problem->extra_lengths[b];
        longest = length > longest ? length : longest;
    }
    double *out = taken(rows * (size_t)cache->d_v, sizeof *out), *lse = taken(rows, sizeof *lse);
    double *q = taken((size_t)cache->d_qk, sizeof *q),
           *keys = taken(longest * (size_t)cache->d_qk, sizeof *keys);
    double *values = taken(longest * (size_t)cache->d_v, sizeof *values);
    double scale = problem->scale != 0 ? (double)problem->scale : 1 / sqrt((double)cache->d_qk);
    for (int b = 0; b < shape->batch; b++)
        for (int i = 0; i < shape->s_q; i++)
            for (int h = 0; h < shape->h_q; h++) {
                for (int x = 0; x < cache->d_qk; x++)
                    q[x] = mla_at(&problem->q.tensor, (int64_t[]){b, i, h, x});
                int64_t count = keys_of(problem, b, i, h * shape->h_kv / shape->h_q, keys, values);
                lse[(b * shape->h_q + h) * shape->s_q + i] =
                    mla_exact_row(cache->d_qk, cache->d_v, q, count, keys, values, scale,
                                  problem->sink ? problem->sink + h : NULL,
                                  out + ((b * shape->s_q + i) * shape->h_q + h) * cache->d_v);
            }
    struct mla_bound bound = dtype_of(cache) != FM_DTYPE_F32 ? mla_bound_out : mla_bound_f32;
    if (problem->scale > 1)
        bound.absolute *= 8; // few keys count, whose rounding does not average out
    mla_array_near(&problem->out, out, bound, "out");
    mla_array_near(&problem->lse, lse, mla_bound_lse, "lse");
    fm_base_mem_free(out);
    fm_base_mem_free(lse);
    fm_base_mem_free(q);
    fm_base_mem_free(keys);
    fm_base_mem_free(values);
}

// Every level from `least` on gives what `problem` has.
static void compare_levels(fm_gen *gen, const struct problem *problem, fm_isa least)
{
    struct problem other = *problem;
    for (int isa = (int)least; isa <= (int)MLA_EMULATED; isa++) {
        if (!mla_is_there((fm_isa)isa))
            continue;
        other.out = mla_array_make(gen, problem->out.tensor.dtype, 4, problem->out.tensor.shape);
        other.lse = mla_array_make(gen, FM_DTYPE_F32, 3, problem->lse.tensor.shape);
        compute(&other, (fm_isa)isa, isa == FM_ISA_AVX2 ? 1 : 3);
        mla_array_equal(&problem->out, &other.out, mla_level_name((fm_isa)isa));
        mla_array_equal(&problem->lse, &other.lse, mla_level_name((fm_isa)isa));
        mla_array_free(&other.out);
        mla_array_free(&other.lse);
    }
}

static void all_levels(fm_gen *gen, struct problem *problem)
{
    compute(problem, FM_ISA_REF, 1);
    check_against_double(problem);
    compare_levels(gen, problem, FM_ISA_AVX2);
}

static void random_dense(fm_gen *gen)
{
    struct problem problem = dense_problem(gen, 200);
    all_levels(gen, &problem);
    discard(&problem);
}

static void dense_decode_is_right_at_every_level(void **state)
{
    (void)state;
    fm_gen_property(16, random_dense);
}

static void random_sparse(fm_gen *gen)
{
    struct problem problem = sparse_problem(gen, 200);
    all_levels(gen, &problem);
    discard(&problem);
}

static void sparse_decode_is_right_at_every_level(void **state)
{
    (void)state;
    fm_gen_property(16, random_sparse);
}

static void check_shape(fm_gen *gen, const fm_mla_shape *shape, int length_max)
{
    static const fm_mla_form forms[] = {FM_MLA_FORM_BF16, FM_MLA_FORM_FP16, FM_MLA_FORM_FP8};
    struct problem problem = {
        .shape = *shape,
        .store.cache = {
            .form = forms[fm_gen_int(gen, 0, 2)], .page = 64, .h_kv = shape->h_kv, .d_qk = 96, .d_v = 64}};
    problem = dense_of(gen, problem, length_max);
    compute(&problem, FM_ISA_AVX512, 2);
    check_against_double(&problem);
    compare_levels(gen, &problem, FM_ISA_AMX);
    discard(&problem);
}

// FlashMLA's own matrix: odd numbers of heads, several key heads, batches with empty sequences.
static void heads_and_queries_of_all_kinds_work(void **state)
{
    (void)state;
    static const int h_q[] = {1, 3, 9, 63, 64, 126, 128}, h_kv[] = {1, 2, 3, 8}, s_q[] = {1, 2, 4};
    fm_gen gen = fm_gen_seeded(5);
    for (int i = 0; i < 7 * 4; i++) {
        fm_mla_shape shape = {.batch = 2,
                              .s_q = s_q[i % 3],
                              .h_q = h_q[i % 7],
                              .h_kv = h_kv[i / 7],
                              .causal = fm_gen_chance(&gen, 0.5)};
        if (shape.h_q % shape.h_kv == 0)
            check_shape(&gen, &shape, fm_gen_chance(&gen, 0.5) ? 20 : 140);
    }
    check_shape(&gen, &(fm_mla_shape){.batch = BATCH_MAX, .s_q = 2, .h_q = 9, .h_kv = 3, .causal = 1}, 140);
}

static struct problem invariant_problem(fm_gen *gen, int batch_invariant)
{
    struct problem problem;
    for (;;) {
        problem = dense_problem(gen, 1500);
        if (problem.shape.batch == 3 && problem.shape.s_q && problem.lengths[1] > FM_MLA_SPLIT_INVARIANT)
            break;
        discard(&problem);
    }
    problem.split = (fm_mla_split){.batch_invariant = batch_invariant, .parts = batch_invariant ? 0 : 4};
    return problem;
}

// Sequence 1 alone gives the same bits as among others; without the mode it does not have to, and does not.
static void sequence_alone(fm_gen *gen)
{
    struct problem all = invariant_problem(gen, 1), alone = all;
    compute(&all, FM_ISA_AVX512, 2);
    check_against_double(&all);
    alone.shape.batch = 1;
    alone.lengths[0] = all.lengths[1];
    alone.table = all.table + all.max_blocks;
    alone.q.tensor.shape[0] = 1;
    alone.q.tensor.data = (uint8_t *)all.q.tensor.data +
                          (size_t)all.q.tensor.stride[0] * (size_t)fm_base_dtype_bits(all.q.tensor.dtype) / 8;
    alone.out = mla_array_make(gen, all.out.tensor.dtype, 4,
                               (int64_t[]){1, all.shape.s_q, all.shape.h_q, all.shape.d_v});
    alone.lse = mla_array_make(gen, FM_DTYPE_F32, 3, (int64_t[]){1, all.shape.h_q, all.shape.s_q});
    compute(&alone, FM_ISA_AVX512, 1);
    for (int64_t i = 0; i < all.shape.s_q; i++)
        for (int64_t h = 0; h < all.shape.h_q; h++) {
            assert_true(mla_at(&all.lse.tensor, (int64_t[]){1, h, i}) ==
                        mla_at(&alone.lse.tensor, (int64_t[]){0, h, i}));
            for (int64_t x = 0; x < all.shape.d_v; x++)
                assert_true(mla_at(&all.out.tensor, (int64_t[]){1, i, h, x}) ==
                            mla_at(&alone.out.tensor, (int64_t[]){0, i, h, x}));
        }
    mla_array_free(&alone.out);
    mla_array_free(&alone.lse);
    discard(&all);
}

static void batch_invariant_results_do_not_know_the_batch(void **state)
{
    (void)state;
    fm_gen_property(3, sequence_alone);
}

// More rows than a block has, more keys than tiles take at once, DeepSeek's dimensions, the two FP8 forms that have names.
static void the_named_shapes_work(void **state)
{
    (void)state;
    static const struct {
        fm_mla_form form;
        int d_qk, d_v, s_q;
        size_t token_bytes;
    } cases[] = {{FM_MLA_FORM_BF16, 576, 512, 2, 1152},
                 {FM_MLA_FORM_FP8, 576, 512, 1, 656},
                 {FM_MLA_FORM_FP8_584, 512, 512, 1, 585},
                 {FM_MLA_FORM_BF16, 1024, 1024, 1, 2048}};
    enum { KEYS = 340, PAGES = 6 };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fm_gen gen = fm_gen_seeded(i + 1);
        struct problem problem = {
            .shape =
                {.batch = 1, .s_q = cases[i].s_q, .h_q = 128, .h_kv = 1, .d_v = cases[i].d_v, .causal = 1},
            .lengths = {KEYS},
            .max_blocks = PAGES,
            .store.cache = {.form = cases[i].form,
                            .page = 64,
                            .h_kv = 1,
                            .d_qk = cases[i].d_qk,
                            .d_v = cases[i].d_v,
                            .blocks = PAGES}};
        size_t page = 0;
        assert_ok(fm_mla_cache_page_bytes(&problem.store.cache, &page));
        assert_int_equal(page, cases[i].token_bytes * 64);
        store_make(&gen, &problem.store);
        problem.table = taken(PAGES, sizeof *problem.table);
        int64_t slots[KEYS];
        for (int j = 0; j < PAGES; j++)
            problem.table[j] = PAGES - 1 - j;
        for (int j = 0; j < KEYS; j++)
            slots[j] = (int64_t)problem.table[j / 64] * 64 + j % 64;
        store_fill(&gen, &problem.store, slots, KEYS);
        make_outputs(&gen, &problem);
        problem.scale = 0;
        compute(&problem, FM_ISA_AVX512, 2);
        check_against_double(&problem);
        compare_levels(&gen, &problem, FM_ISA_AMX);
        discard(&problem);
    }
}

static void bad_arguments_are_refused(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(1);
    struct problem problem;
    for (;;) {
        problem = dense_problem(&gen, 100);
        if (problem.shape.batch == 2 && problem.shape.s_q == 2 && problem.lengths[1] > 1)
            break;
        discard(&problem);
    }
    fm_mla_context *context = mla_open(FM_ISA_AVX512, 1);
    fm_mla_plan *plan = plan_of(&problem), *none;
    const fm_mla_decode_args good = args_of(&problem);
    fm_mla_decode_args args = good;
    assert_fails(fm_mla_decode(NULL, plan, &args), FM_ERR_ARG, "context is null");
    assert_fails(fm_mla_decode(context, NULL, &args), FM_ERR_ARG, "plan is null");
    assert_fails(fm_mla_decode(context, plan, NULL), FM_ERR_ARG, "args is null");
    args.max_blocks = 0;
    assert_fails(fm_mla_decode(context, plan, &args), FM_ERR_ARG, "expected at most max_blocks, 0");
    args = good;
    int32_t kept = problem.table[problem.max_blocks];
    problem.table[problem.max_blocks] = (int32_t)problem.store.cache.blocks;
    assert_fails(fm_mla_decode(context, plan, &args), FM_ERR_ARG, "block_table[1, 0]");
    problem.table[problem.max_blocks] = -1;
    assert_fails(fm_mla_decode(context, plan, &args), FM_ERR_ARG, "block_table[1, 0] is -1");
    problem.table[problem.max_blocks] = kept;
    args.out = args.q;
    assert_fails(fm_mla_decode(context, plan, &args), FM_ERR_ARG, "out");
    args = good;
    fm_tensor over = problem.out.tensor;
    over.data = problem.q.tensor.data;
    args.out = &over;
    assert_fails(fm_mla_decode(context, plan, &args), FM_ERR_ARG, "overlaps q");
    args = good;
    fm_mla_cache cache = problem.store.cache;
    args.cache = &cache;
    cache.form = (fm_mla_form)9;
    assert_fails(fm_mla_decode(context, plan, &args), FM_ERR_UNSUPPORTED, "form of cache is 9");
    cache = problem.store.cache;
    cache.page = 0;
    assert_fails(fm_mla_decode(context, plan, &args), FM_ERR_ARG, "page is 0");
    cache = problem.store.cache;
    cache.h_kv++;
    cache.block_stride = 0;
    assert_fails(fm_mla_decode(context, plan, &args), FM_ERR_ARG, "h_kv and d_v of cache");
    args = good;
    args.indices = problem.lengths;
    assert_fails(fm_mla_decode(context, plan, &args), FM_ERR_ARG, "indices are given");
    fm_mla_plan_free(plan);

    problem.lengths[0] = -1;
    assert_fails(fm_mla_plan_dense(&problem.shape, problem.lengths, &problem.split, &none), FM_ERR_ARG,
                 "cache_seqlens[0] is -1");
    problem.shape.h_q = 7;
    problem.shape.h_kv = 2;
    assert_fails(fm_mla_plan_dense(&problem.shape, problem.lengths, &problem.split, &none), FM_ERR_ARG,
                 "h_q is 7 and h_kv 2");
    assert_fails(fm_mla_plan_sparse(&problem.shape, 1, NULL, 0, NULL, &problem.split, NULL), FM_ERR_ARG,
                 "out_plan");
    problem.shape.h_q = 8;
    assert_fails(fm_mla_plan_sparse(&problem.shape, 1, NULL, 0, NULL, &problem.split, &none), FM_ERR_ARG,
                 "h_kv is 2 and causal");
    problem.shape.h_kv = 1;
    problem.shape.causal = 0;
    assert_fails(fm_mla_plan_sparse(&problem.shape, 1, (int32_t[]){0, 2}, 0, NULL, &problem.split, &none),
                 FM_ERR_ARG, "topk_length[1] is 2; expected 0 to 1");
    fm_mla_context_close(context);
    discard(&problem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dense_decode_is_right_at_every_level),
        cmocka_unit_test(sparse_decode_is_right_at_every_level),
        cmocka_unit_test(heads_and_queries_of_all_kinds_work),
        cmocka_unit_test(batch_invariant_results_do_not_know_the_batch),
        cmocka_unit_test(the_named_shapes_work),
        cmocka_unit_test(bad_arguments_are_refused),
    };
    return fm_test_run("mla_decode", tests);
}
