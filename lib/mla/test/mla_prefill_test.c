#include "mla_cases.h"

#include "fm_test.h"

#include <math.h>

struct shape {
    int batch, h_q, h_kv, d_qk, d_v, causal;
    fm_dtype dtype, out_dtype;
    int32_t cu_q[9], cu_k[9];
    float scale;
};

struct problem {
    struct shape shape;
    struct mla_array q, k, v, out, lse, d_out, dq, dk, dv;
};

static struct shape any_shape(fm_gen *gen, int length_max)
{
    static const fm_dtype dtypes[] = {FM_DTYPE_F32, FM_DTYPE_BF16, FM_DTYPE_F16};
    struct shape shape = {
        .batch = (int)fm_gen_int(gen, 0, 3),
        .h_kv = (int)fm_gen_int(gen, 1, 2),
        .d_qk = 16 * (int)fm_gen_int(gen, 1, 5),
        .d_v = 16 * (int)fm_gen_int(gen, 1, 4),
        .causal = fm_gen_chance(gen, 0.6),
        .dtype = dtypes[fm_gen_int(gen, 0, 2)],
        .scale = (float[]){0, 0, 0.3F, 6}[fm_gen_int(gen, 0, 3)],
    };
    shape.h_q = shape.h_kv * (int)fm_gen_int(gen, 1, 3);
    shape.out_dtype = fm_gen_chance(gen, 0.4) ? FM_DTYPE_F32 : shape.dtype;
    for (int i = 0; i < shape.batch; i++) {
        shape.cu_q[i + 1] = shape.cu_q[i] + (int32_t)fm_gen_size(gen, 0, length_max);
        shape.cu_k[i + 1] = shape.cu_k[i] + (int32_t)fm_gen_size(gen, 0, length_max);
    }
    return shape;
}

static struct problem make(fm_gen *gen, const struct shape *shape)
{
    int64_t rows = shape->cu_q[shape->batch], keys = shape->cu_k[shape->batch];
    int64_t h_q = shape->h_q, h_kv = shape->h_kv, d_qk = shape->d_qk, d_v = shape->d_v;
    struct problem problem = {.shape = *shape};
    problem.q = mla_array_make(gen, shape->dtype, 3, (int64_t[]){rows, h_q, d_qk});
    problem.k = mla_array_make(gen, shape->dtype, 3, (int64_t[]){keys, h_kv, d_qk});
    problem.v = mla_array_make(gen, shape->dtype, 3, (int64_t[]){keys, h_kv, d_v});
    problem.d_out = mla_array_make(gen, shape->dtype, 3, (int64_t[]){rows, h_q, d_v});
    problem.out = mla_array_make(gen, shape->out_dtype, 3, (int64_t[]){rows, h_q, d_v});
    problem.lse = mla_array_make(gen, FM_DTYPE_F32, 2, (int64_t[]){rows, h_q});
    problem.dq = mla_array_make(gen, shape->out_dtype, 3, (int64_t[]){rows, h_q, d_qk});
    problem.dk = mla_array_make(gen, shape->out_dtype, 3, (int64_t[]){keys, h_kv, d_qk});
    problem.dv = mla_array_make(gen, shape->out_dtype, 3, (int64_t[]){keys, h_kv, d_v});
    mla_array_fill(gen, &problem.q, 0.4);
    mla_array_fill(gen, &problem.k, 0.4);
    mla_array_fill(gen, &problem.v, 0.1);
    mla_array_fill(gen, &problem.d_out, 0.1);
    return problem;
}

static void discard(struct problem *problem)
{
    struct mla_array *all[] = {&problem->q,     &problem->k,  &problem->v,  &problem->out, &problem->lse,
                               &problem->d_out, &problem->dq, &problem->dk, &problem->dv};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        mla_array_free(all[i]);
}

static fm_mla_prefill_args args_of(const struct problem *problem)
{
    return (fm_mla_prefill_args){
        .q = &problem->q.tensor,
        .k = &problem->k.tensor,
        .v = &problem->v.tensor,
        .batch = problem->shape.batch,
        .cu_seqlens_q = problem->shape.cu_q,
        .cu_seqlens_k = problem->shape.cu_k,
        .causal = problem->shape.causal,
        .softmax_scale = problem->shape.scale,
        .out = &problem->out.tensor,
        .lse = &problem->lse.tensor,
    };
}

static void compute(struct problem *problem, fm_isa isa, int threads)
{
    fm_mla_context *context = mla_open(isa, threads);
    fm_mla_prefill_args args = args_of(problem);
    assert_ok(fm_mla_prefill_forward(context, &args));
    assert_ok(fm_mla_prefill_backward(context, &args, &problem->d_out.tensor, &problem->dq.tensor,
                                      &problem->dk.tensor, &problem->dv.tensor));
    fm_mla_context_close(context);
    mla_array_gaps_untouched(&problem->out);
    mla_array_gaps_untouched(&problem->lse);
    mla_array_gaps_untouched(&problem->dq);
    mla_array_gaps_untouched(&problem->dk);
    mla_array_gaps_untouched(&problem->dv);
}

// All of it in double precision, contiguous.
struct exact {
    double *out, *lse, *dq, *dk, *dv;
};

static double *zeros(int64_t count)
{
    double *values = fm_base_mem_zalloc((size_t)count + 1, sizeof *values);
    assert_non_null(values);
    return values;
}

static double scale_of(const struct shape *shape)
{
    return shape->scale != 0 ? (double)shape->scale : 1 / sqrt((double)shape->d_qk);
}

static void exact_query(const struct problem *problem, int sequence, int64_t i, int h, struct exact *exact)
{
    const struct shape *shape = &problem->shape;
    int64_t d_qk = shape->d_qk, d_v = shape->d_v, row = shape->cu_q[sequence] + i,
            head = h * shape->h_kv / shape->h_q;
    int64_t s_q = shape->cu_q[sequence + 1] - shape->cu_q[sequence];
    int64_t s_k = shape->cu_k[sequence + 1] - shape->cu_k[sequence];
    int64_t count = shape->causal ? s_k - s_q + i + 1 : s_k;
    count = count < 0 ? 0 : count;
    double *q = zeros(d_qk), *keys = zeros(count * d_qk), *values = zeros(count * d_v), *d_out = zeros(d_v);
    for (int64_t j = 0; j < count; j++) {
        for (int64_t x = 0; x < d_qk; x++)
            keys[j * d_qk + x] = mla_at(&problem->k.tensor, (int64_t[]){shape->cu_k[sequence] + j, head, x});
        for (int64_t x = 0; x < d_v; x++)
            values[j * d_v + x] = mla_at(&problem->v.tensor, (int64_t[]){shape->cu_k[sequence] + j, head, x});
    }
    for (int64_t x = 0; x < d_qk; x++)
        q[x] = mla_at(&problem->q.tensor, (int64_t[]){row, h, x});
    double *out = exact->out + (row * shape->h_q + h) * d_v, scale = scale_of(shape), delta = 0;
    double lse = mla_exact_row(shape->d_qk, shape->d_v, q, count, keys, values, scale, NULL, out);
    exact->lse[row * shape->h_q + h] = lse;
    for (int64_t x = 0; x < d_v; x++) {
        d_out[x] = mla_at(&problem->d_out.tensor, (int64_t[]){row, h, x});
        delta += d_out[x] * out[x];
    }
    for (int64_t j = 0; j < count; j++) {
        double s = 0, dp = 0;
        for (int64_t x = 0; x < d_qk; x++)
            s += q[x] * keys[j * d_qk + x];
        for (int64_t x = 0; x < d_v; x++)
            dp += d_out[x] * values[j * d_v + x];
        double p = exp(s * scale - lse), ds = p * (dp - delta) * scale;
        int64_t key = (shape->cu_k[sequence] + j) * shape->h_kv + head;
        for (int64_t x = 0; x < d_qk; x++) {
            exact->dq[(row * shape->h_q + h) * d_qk + x] += ds * keys[j * d_qk + x];
            exact->dk[key * d_qk + x] += ds * q[x];
        }
        for (int64_t x = 0; x < d_v; x++)
            exact->dv[key * d_v + x] += p * d_out[x];
    }
    fm_base_mem_free(q);
    fm_base_mem_free(keys);
    fm_base_mem_free(values);
    fm_base_mem_free(d_out);
}

static void check_against_double(const struct problem *problem)
{
    const struct shape *shape = &problem->shape;
    int64_t rows = shape->cu_q[shape->batch] * shape->h_q, keys = shape->cu_k[shape->batch] * shape->h_kv;
    struct exact exact = {zeros(rows * shape->d_v), zeros(rows), zeros(rows * shape->d_qk),
                          zeros(keys * shape->d_qk), zeros(keys * shape->d_v)};
    for (int s = 0; s < shape->batch; s++)
        for (int64_t i = 0; i < shape->cu_q[s + 1] - shape->cu_q[s]; i++)
            for (int h = 0; h < shape->h_q; h++)
                exact_query(problem, s, i, h, &exact);
    int narrow = shape->dtype != FM_DTYPE_F32;
    struct mla_bound bound = narrow ? mla_bound_out : mla_bound_f32;
    mla_array_near(&problem->out, exact.out, bound, "out");
    mla_array_near(&problem->lse, exact.lse, mla_bound_lse, "lse");
    // A gradient is a sum of many probabilities, rounded to 8 bits each; FlashMLA allows it this.
    if (narrow)
        bound = (struct mla_bound){3e-3, 8.01 / 128, 4e-5};
    mla_array_near(&problem->dq, exact.dq, bound, "dq");
    mla_array_near(&problem->dk, exact.dk, bound, "dk");
    mla_array_near(&problem->dv, exact.dv, bound, "dv");
    fm_base_mem_free(exact.out);
    fm_base_mem_free(exact.lse);
    fm_base_mem_free(exact.dq);
    fm_base_mem_free(exact.dk);
    fm_base_mem_free(exact.dv);
}

static void all_levels(fm_gen *gen, const struct shape *shape, int oracle)
{
    fm_gen copy = *gen;
    struct problem reference = make(gen, shape);
    compute(&reference, FM_ISA_REF, 1);
    if (oracle)
        check_against_double(&reference);
    for (int isa = FM_ISA_AVX2; isa <= (int)MLA_EMULATED; isa++) {
        if (!mla_is_there((fm_isa)isa))
            continue;
        fm_gen again = copy;
        struct problem problem = make(&again, shape);
        compute(&problem, (fm_isa)isa, isa == FM_ISA_AVX2 ? 1 : 3);
        const char *level = mla_level_name((fm_isa)isa);
        mla_array_equal(&reference.out, &problem.out, level);
        mla_array_equal(&reference.lse, &problem.lse, level);
        mla_array_equal(&reference.dq, &problem.dq, level);
        mla_array_equal(&reference.dk, &problem.dk, level);
        mla_array_equal(&reference.dv, &problem.dv, level);
        discard(&problem);
    }
    discard(&reference);
}

static void random_problem(fm_gen *gen)
{
    struct shape shape = any_shape(gen, 40);
    all_levels(gen, &shape, 1);
}

static void every_level_gives_the_same_right_results(void **state)
{
    (void)state;
    fm_gen_property(8, random_problem);
}

// One causal head, as narrow as they get; its lengths are still to be said.
static struct shape narrow(fm_dtype dtype, fm_dtype out_dtype)
{
    return (struct shape){.batch = 1,
                          .h_q = 1,
                          .h_kv = 1,
                          .d_qk = 16,
                          .d_v = 16,
                          .causal = 1,
                          .dtype = dtype,
                          .out_dtype = out_dtype};
}

// More queries and keys than a block has.
static void long_sequences_are_cut_up_rightly(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(7);
    struct shape shape = narrow(FM_DTYPE_F32, FM_DTYPE_F32);
    shape.batch = shape.h_q = 2;
    memcpy(shape.cu_q, (int32_t[]){0, 260, 261}, 3 * sizeof *shape.cu_q);
    memcpy(shape.cu_k, (int32_t[]){0, 290, 320}, 3 * sizeof *shape.cu_k);
    all_levels(&gen, &shape, 1);
    shape = narrow(FM_DTYPE_BF16, FM_DTYPE_BF16);
    shape.batch = 2;
    shape.d_qk = 48;
    memcpy(shape.cu_q, (int32_t[]){0, 290, 292}, 3 * sizeof *shape.cu_q);
    memcpy(shape.cu_k, (int32_t[]){0, 325, 390}, 3 * sizeof *shape.cu_k);
    all_levels(&gen, &shape, 0);
}

// d(sum of out * d_out) by moving one input a little, in f32.
static double moved_loss(struct problem *problem, fm_mla_context *context)
{
    fm_mla_prefill_args args = args_of(problem);
    assert_ok(fm_mla_prefill_forward(context, &args));
    double loss = 0;
    for (int64_t i = 0; i < problem->out.tensor.shape[0]; i++)
        for (int64_t h = 0; h < problem->shape.h_q; h++)
            for (int64_t x = 0; x < problem->shape.d_v; x++)
                loss += mla_at(&problem->out.tensor, (int64_t[]){i, h, x}) *
                        mla_at(&problem->d_out.tensor, (int64_t[]){i, h, x});
    return loss;
}

static void finite_differences(fm_gen *gen)
{
    struct shape shape = any_shape(gen, 12);
    shape.dtype = shape.out_dtype = FM_DTYPE_F32;
    if (!shape.cu_q[shape.batch] || !shape.cu_k[shape.batch])
        return;
    struct problem problem = make(gen, &shape);
    compute(&problem, FM_ISA_AVX512, 1);
    fm_mla_context *context = mla_open(FM_ISA_AVX512, 1);
    struct mla_array *inputs[] = {&problem.q, &problem.k, &problem.v};
    const struct mla_array *gradients[] = {&problem.dq, &problem.dk, &problem.dv};
    for (int round = 0; round < 9; round++) {
        const fm_tensor *input = &inputs[round % 3]->tensor;
        int64_t at[3];
        for (int i = 0; i < 3; i++)
            at[i] = fm_gen_int(gen, 0, input->shape[i] - 1);
        double value = mla_at(input, at), step = 0x1p-5;
        mla_put(input, at, value + step);
        double up = moved_loss(&problem, context);
        mla_put(input, at, value - step);
        double down = moved_loss(&problem, context);
        mla_put(input, at, value);
        double slope = (up - down) / (2 * step), gradient = mla_at(&gradients[round % 3]->tensor, at);
        if (!(fabs(slope - gradient) <= 2e-3 * (1 + fabs(slope))))
            fail_msg("gradient of input %d is %g; differences say %g", round % 3, gradient, slope);
    }
    fm_mla_context_close(context);
    discard(&problem);
}

static void gradients_agree_with_finite_differences(void **state)
{
    (void)state;
    fm_gen_property(10, finite_differences);
}

// A NaN among the values of a key spoils the queries that see it, and no other.
static void a_query_does_not_know_later_keys(void **state)
{
    (void)state;
    enum { TOKENS = 300, SPOILED = 170 };
    struct shape shape = narrow(FM_DTYPE_BF16, FM_DTYPE_F32);
    shape.cu_q[1] = shape.cu_k[1] = TOKENS;
    for (int isa = FM_ISA_REF; isa <= (int)MLA_EMULATED; isa++) {
        if (!mla_is_there((fm_isa)isa))
            continue;
        fm_gen gen = fm_gen_seeded(3);
        struct problem problem = make(&gen, &shape);
        for (int64_t x = 0; x < 16; x++) {
            mla_put(&problem.k.tensor, (int64_t[]){SPOILED, 0, x}, (double)NAN);
            mla_put(&problem.v.tensor, (int64_t[]){SPOILED, 0, x}, (double)NAN);
        }
        fm_mla_context *context = mla_open((fm_isa)isa, 1);
        fm_mla_prefill_args args = args_of(&problem);
        assert_ok(fm_mla_prefill_forward(context, &args));
        for (int64_t i = 0; i < TOKENS; i++) {
            assert_int_equal(isnan(mla_at(&problem.out.tensor, (int64_t[]){i, 0, 3})), i >= SPOILED);
            assert_int_equal(isnan(mla_at(&problem.lse.tensor, (int64_t[]){i, 0})), i >= SPOILED);
        }
        fm_mla_context_close(context);
        discard(&problem);
    }
}

static void bad_arguments_are_refused(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(3);
    struct shape shape = narrow(FM_DTYPE_BF16, FM_DTYPE_BF16);
    shape.h_q = shape.h_kv = 2;
    shape.causal = 0;
    shape.cu_q[1] = 5;
    shape.cu_k[1] = 7;
    struct problem problem = make(&gen, &shape);
    fm_mla_context *context = mla_open(FM_ISA_AVX512, 1);
    fm_mla_prefill_args good = args_of(&problem), args = good;
    assert_fails(fm_mla_prefill_forward(NULL, &args), FM_ERR_ARG, "context");
    assert_fails(fm_mla_prefill_forward(context, NULL), FM_ERR_ARG, "args");
    args.k = NULL;
    assert_fails(fm_mla_prefill_forward(context, &args), FM_ERR_ARG, "k is null");
    args = good;
    args.cu_seqlens_q = (int32_t[]){0, 4};
    assert_fails(fm_mla_prefill_forward(context, &args), FM_ERR_ARG,
                 "cu_seqlens_q goes from 0 to 4; expected 0 to 5");
    args.cu_seqlens_q = (int32_t[]){0, 6, 5};
    args.batch = 2;
    assert_fails(fm_mla_prefill_forward(context, &args), FM_ERR_ARG, "never fall");
    args = good;
    args.softmax_scale = NAN;
    assert_fails(fm_mla_prefill_forward(context, &args), FM_ERR_ARG, "softmax_scale");
    args = good;
    args.out = &problem.q.tensor;
    assert_fails(fm_mla_prefill_forward(context, &args), FM_ERR_ARG, "out at");
    fm_tensor bent = problem.q.tensor;
    args = good;
    args.q = &bent;
    bent.stride[2] = 2;
    assert_fails(fm_mla_prefill_forward(context, &args), FM_ERR_ARG, "last stride of q is 2");
    bent = problem.q.tensor;
    bent.shape[1] = 3;
    assert_fails(fm_mla_prefill_forward(context, &args), FM_ERR_ARG, "h_q is 3 and h_kv 2");
    bent = problem.q.tensor;
    bent.dtype = FM_DTYPE_I16;
    assert_fails(fm_mla_prefill_forward(context, &args), FM_ERR_UNSUPPORTED, "dtype of q is I16");
    bent = problem.q.tensor;
    bent.shape[2] = 24;
    assert_fails(fm_mla_prefill_forward(context, &args), FM_ERR_ARG, "d_qk is 24; expected a multiple of 16");
    assert_fails(fm_mla_prefill_backward(context, &good, &problem.d_out.tensor, &problem.dq.tensor,
                                         &problem.dk.tensor, &problem.k.tensor),
                 FM_ERR_ARG, "dv at");
    bent = problem.dv.tensor;
    bent.shape[0]++;
    assert_fails(fm_mla_prefill_backward(context, &good, &problem.d_out.tensor, &problem.dq.tensor,
                                         &problem.dk.tensor, &bent),
                 FM_ERR_ARG, "dv has the shape [8, 2, 16]; expected [7, 2, 16]");
    fm_mla_context_close(context);
    discard(&problem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_level_gives_the_same_right_results),
        cmocka_unit_test(long_sequences_are_cut_up_rightly),
        cmocka_unit_test(gradients_agree_with_finite_differences),
        cmocka_unit_test(a_query_does_not_know_later_keys),
        cmocka_unit_test(bad_arguments_are_refused),
    };
    return fm_test_run("mla_prefill", tests);
}
