#include "mla_cases.h"

#include "fm_test.h"

#include <math.h>

struct problem {
    int64_t batch, s_q, h_q, s_kv;
    int topk;
    fm_mla_cache kv;
    double *rows; // [b, s_kv, d_qk]
    int32_t *indices, *lengths;
    float *sink;
    struct mla_array q, out, lse, max_logits;
};

static void *taken(size_t count, size_t size)
{
    void *memory = fm_base_mem_zalloc(count + 1, size);
    assert_non_null(memory);
    return memory;
}

static void make_kv(fm_gen *gen, struct problem *problem)
{
    static const fm_mla_form forms[] = {FM_MLA_FORM_BF16, FM_MLA_FORM_FP16, FM_MLA_FORM_F32, FM_MLA_FORM_FP8};
    fm_mla_cache *kv = &problem->kv;
    *kv = (fm_mla_cache){.form = forms[fm_gen_int(gen, 0, 3)],
                         .page = (int)problem->s_kv,
                         .h_kv = 1,
                         .d_v = 16 * (int)fm_gen_int(gen, 1, 3),
                         .blocks = problem->batch};
    kv->d_qk = kv->d_v + 16 * (int)fm_gen_int(gen, 0, 1);
    size_t bytes = 0;
    assert_ok(fm_mla_cache_page_bytes(kv, &bytes));
    kv->block_stride = (int64_t)(bytes + 7) / 4 * 4;
    kv->data = fm_base_mem_aligned((size_t)kv->block_stride * (size_t)problem->batch + 64, 64);
    assert_non_null(kv->data);
    memset(kv->data, 0xFF, (size_t)kv->block_stride * (size_t)problem->batch + 64);
    int64_t n = problem->batch * (problem->s_kv - 1); // the last token of each sequence stays poison
    struct mla_array rows = mla_array_make(gen, FM_DTYPE_F32, 3, (int64_t[]){n, 1, kv->d_qk});
    struct mla_array back = mla_array_make(gen, FM_DTYPE_F32, 3, (int64_t[]){n, 1, kv->d_qk});
    mla_array_fill(gen, &rows, 0.1);
    int64_t *slots = taken((size_t)n, sizeof *slots);
    for (int64_t i = 0; i < n; i++)
        slots[i] = i / (problem->s_kv - 1) * problem->s_kv + i % (problem->s_kv - 1);
    fm_mla_context *context = mla_open(FM_ISA_AVX512, 1);
    assert_ok(fm_mla_cache_append(context, kv, slots, &rows.tensor));
    assert_ok(fm_mla_cache_read(context, kv, slots, &back.tensor));
    problem->rows = taken((size_t)(problem->batch * problem->s_kv * kv->d_qk), sizeof *problem->rows);
    for (int64_t i = 0; i < n; i++)
        for (int64_t x = 0; x < kv->d_qk; x++)
            problem->rows[slots[i] * kv->d_qk + x] = mla_at(&back.tensor, (int64_t[]){i, 0, x});
    fm_mla_context_close(context);
    fm_base_mem_free(slots);
    mla_array_free(&rows);
    mla_array_free(&back);
}

static struct problem make(fm_gen *gen)
{
    struct problem problem = {.batch = fm_gen_int(gen, 0, 2),
                              .s_q = fm_gen_size(gen, 0, 6),
                              .h_q = fm_gen_size(gen, 1, 20),
                              .s_kv = fm_gen_size(gen, 2, 95),
                              .topk = (int)fm_gen_size(gen, 0, 128)};
    make_kv(gen, &problem);
    const fm_mla_cache *kv = &problem.kv;
    fm_dtype dtype = kv->form == FM_MLA_FORM_F32    ? FM_DTYPE_F32
                     : kv->form == FM_MLA_FORM_FP16 ? FM_DTYPE_F16
                                                    : FM_DTYPE_BF16;
    int64_t shape[] = {problem.batch, problem.s_q, problem.h_q, kv->d_qk};
    problem.q = mla_array_make(gen, dtype, 4, shape);
    mla_array_fill(gen, &problem.q, 0.8);
    shape[3] = kv->d_v;
    problem.out = mla_array_make(gen, dtype, 4, shape);
    problem.lse = mla_array_make(gen, FM_DTYPE_F32, 3, shape);
    problem.max_logits = mla_array_make(gen, FM_DTYPE_F32, 3, shape);
    int64_t queries = problem.batch * problem.s_q;
    problem.indices = taken((size_t)(queries * problem.topk), sizeof *problem.indices);
    problem.lengths = taken((size_t)queries, sizeof *problem.lengths);
    static const int32_t invalid[] = {INT32_MIN, -123456, -1, 114514, 1919810, 2147480000, INT32_MAX};
    double chance = fm_gen_chance(gen, 0.2) ? 1 : 0.2;
    for (int64_t i = 0; i < queries; i++) {
        problem.lengths[i] = (int32_t)fm_gen_size(gen, 0, problem.topk);
        for (int j = 0; j < problem.topk; j++) {
            int32_t *entry = &problem.indices[i * problem.topk + j];
            if (j >= problem.lengths[i])
                *entry = (int32_t)problem.s_kv - 1; // the poisoned token
            else if (fm_gen_chance(gen, chance))
                *entry = fm_gen_chance(gen, 0.3) ? (int32_t)problem.s_kv : invalid[fm_gen_int(gen, 0, 6)];
            else
                *entry = (int32_t)fm_gen_int(gen, 0, problem.s_kv - 2);
        }
    }
    if (fm_gen_chance(gen, 0.5)) {
        problem.sink = taken((size_t)problem.h_q, sizeof *problem.sink);
        for (int64_t h = 0; h < problem.h_q; h++)
            problem.sink[h] = fm_gen_chance(gen, 0.2) ? INFINITY : 3 * fm_gen_normal(gen);
    }
    return problem;
}

static void discard(struct problem *problem)
{
    fm_base_mem_free(problem->kv.data);
    fm_base_mem_free(problem->rows);
    fm_base_mem_free(problem->indices);
    fm_base_mem_free(problem->lengths);
    fm_base_mem_free(problem->sink);
    mla_array_free(&problem->q);
    mla_array_free(&problem->out);
    mla_array_free(&problem->lse);
    mla_array_free(&problem->max_logits);
}

static fm_mla_sparse_args args_of(const struct problem *problem)
{
    return (fm_mla_sparse_args){
        .q = &problem->q.tensor,
        .kv = &problem->kv,
        .topk = problem->topk,
        .indices = problem->indices,
        .topk_length = problem->lengths,
        .softmax_scale = 0.35F,
        .sink = problem->sink,
        .out = &problem->out.tensor,
        .max_logits = &problem->max_logits.tensor,
        .lse = &problem->lse.tensor,
    };
}

static void compute(struct problem *problem, fm_isa isa, int threads)
{
    fm_mla_context *context = mla_open(isa, threads);
    fm_mla_sparse_args args = args_of(problem);
    assert_ok(fm_mla_sparse_prefill(context, &args));
    fm_mla_context_close(context);
    mla_array_gaps_untouched(&problem->out);
    mla_array_gaps_untouched(&problem->lse);
    mla_array_gaps_untouched(&problem->max_logits);
}

static void check_against_double(const struct problem *problem)
{
    const fm_mla_cache *kv = &problem->kv;
    size_t rows = (size_t)(problem->batch * problem->s_q * problem->h_q), d_qk = (size_t)kv->d_qk;
    double *out = taken(rows * (size_t)kv->d_v, sizeof *out), *lse = taken(rows, sizeof *lse);
    double *max = taken(rows, sizeof *max), *q = taken(d_qk, sizeof *q);
    double *keys = taken((size_t)problem->topk * d_qk, sizeof *keys),
           *values = taken((size_t)problem->topk * d_qk, 8);
    for (int64_t row = 0; row < (int64_t)rows; row++) {
        int64_t h = row % problem->h_q, query = row / problem->h_q, b = query / problem->s_q, count = 0;
        for (int64_t x = 0; x < kv->d_qk; x++)
            q[x] = mla_at(&problem->q.tensor, (int64_t[]){b, query % problem->s_q, h, x});
        max[row] = -(double)INFINITY;
        for (int64_t j = 0; j < problem->lengths[query]; j++) {
            int64_t token = problem->indices[query * problem->topk + j];
            if (token < 0 || token >= problem->s_kv)
                continue;
            const double *from = problem->rows + (b * problem->s_kv + token) * kv->d_qk;
            double s = 0;
            for (int64_t x = 0; x < kv->d_qk; x++) {
                keys[count * kv->d_qk + x] = from[x];
                s += from[x] * q[x];
            }
            for (int64_t x = 0; x < kv->d_v; x++)
                values[count * kv->d_v + x] = from[x];
            max[row] = fmax(max[row], s * (double)0.35F);
            count++;
        }
        lse[row] = mla_exact_row(kv->d_qk, kv->d_v, q, count, keys, values, (double)0.35F,
                                 problem->sink ? problem->sink + h : NULL, out + row * kv->d_v);
    }
    struct mla_bound bound = {8e-4, 3.01 / 128, 7e-6};
    mla_array_near(&problem->out, out, bound, "out");
    mla_array_near(&problem->lse, lse, mla_bound_lse, "lse");
    mla_array_near(&problem->max_logits, max, mla_bound_lse, "max_logits");
    fm_base_mem_free(out);
    fm_base_mem_free(lse);
    fm_base_mem_free(max);
    fm_base_mem_free(q);
    fm_base_mem_free(keys);
    fm_base_mem_free(values);
}

static void random_problem(fm_gen *gen)
{
    fm_gen copy = *gen;
    struct problem reference = make(gen);
    compute(&reference, FM_ISA_REF, 1);
    check_against_double(&reference);
    for (int isa = FM_ISA_AVX2; isa <= (int)MLA_EMULATED; isa++) {
        if (!mla_is_there((fm_isa)isa))
            continue;
        fm_gen again = copy;
        struct problem problem = make(&again);
        compute(&problem, (fm_isa)isa, 3);
        mla_array_equal(&reference.out, &problem.out, "out");
        mla_array_equal(&reference.lse, &problem.lse, "lse");
        mla_array_equal(&reference.max_logits, &problem.max_logits, "max_logits");
        discard(&problem);
    }
    discard(&reference);
}

static void sparse_prefill_is_right_at_every_level(void **state)
{
    (void)state;
    fm_gen_property(40, random_problem);
}

static void bad_arguments_are_refused(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(1);
    struct problem problem;
    for (;;) {
        problem = make(&gen);
        if (problem.batch == 2 && problem.s_q > 1 && problem.topk > 1)
            break;
        discard(&problem);
    }
    fm_mla_context *context = mla_open(FM_ISA_AVX512, 1);
    const fm_mla_sparse_args good = args_of(&problem);
    fm_mla_sparse_args args = good;
    assert_fails(fm_mla_sparse_prefill(NULL, &args), FM_ERR_ARG, "context");
    args.topk = -1;
    assert_fails(fm_mla_sparse_prefill(context, &args), FM_ERR_ARG, "topk is -1");
    args.topk = problem.topk;
    problem.lengths[1] = problem.topk + 1;
    assert_fails(fm_mla_sparse_prefill(context, &args), FM_ERR_ARG, "topk_length[1]");
    args.topk_length = NULL;
    args.indices = NULL;
    assert_fails(fm_mla_sparse_prefill(context, &args), FM_ERR_ARG, "indices is null");
    args.indices = good.indices;
    fm_mla_cache kv = problem.kv;
    args.kv = &kv;
    kv.blocks = 1;
    assert_fails(fm_mla_sparse_prefill(context, &args), FM_ERR_LIMIT, "the batch is 2");
    args = good;
    args.topk_length = NULL;
    args.lse = args.max_logits;
    assert_fails(fm_mla_sparse_prefill(context, &args), FM_ERR_ARG, "lse at");
    fm_mla_context_close(context);
    discard(&problem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sparse_prefill_is_right_at_every_level),
        cmocka_unit_test(bad_arguments_are_refused),
    };
    return fm_test_run("mla_sparse", tests);
}
