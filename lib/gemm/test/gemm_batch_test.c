#include "gemm_cases.h"

#include "fm_test.h"

#include <pthread.h>

// Every product of a batch must be what the dense product is.
enum { PRODUCTS_MAX = 6 };

struct part {
    struct gemm_matrix a, b;
    struct gemm_output d, dense;
};

static struct part part_make(fm_gen *gen)
{
    int64_t m = fm_gen_size(gen, 0, 40), n = fm_gen_size(gen, 0, 70), k = fm_gen_size(gen, 0, 200);
    struct gemm_format format = {.dtype = fm_gen_chance(gen, 0.5) ? FM_DTYPE_BF16 : FM_DTYPE_F8_E4M3,
                                 .transposed = fm_gen_chance(gen, 0.5),
                                 .scale_rows = 1};
    struct part part = {.a = gemm_matrix_make(gen, m, k, &format, GEMM_NORMAL)};
    format.transposed = fm_gen_chance(gen, 0.5);
    part.b = gemm_matrix_make(gen, n, k, &format, GEMM_NORMAL);
    fm_gen again = *gen;
    part.d = gemm_output_make(gen, m, n, FM_DTYPE_F32, 1);
    part.dense = gemm_output_make(&again, m, n, FM_DTYPE_F32, 1);
    return part;
}

static void random_batch(fm_gen *gen)
{
    struct part parts[PRODUCTS_MAX];
    fm_gemm_product products[PRODUCTS_MAX];
    int count = (int)fm_gen_int(gen, 0, PRODUCTS_MAX);
    fm_gemm_context *context = gemm_open(FM_ISA_AVX512, (int)fm_gen_int(gen, 1, 3));
    for (int i = 0; i < count; i++) {
        parts[i] = part_make(gen);
        products[i] =
            (fm_gemm_product){.m = parts[i].a.rows, .a = parts[i].a.operand, .d = parts[i].d.result};
        assert_ok(fm_gemm_weights_plain(parts[i].b.rows, parts[i].b.k, &parts[i].b.operand, &products[i].b));
        assert_ok(
            fm_gemm_dense(context, products[i].m, &products[i].a, &products[i].b, &parts[i].dense.result));
    }
    assert_ok(fm_gemm_batched(context, count, products));
    for (int i = 0; i < count; i++) {
        gemm_output_untouched(&parts[i].d, -1);
        gemm_output_equal(&parts[i].dense, &parts[i].d, "batched");
        gemm_matrix_free(&parts[i].a);
        gemm_matrix_free(&parts[i].b);
        gemm_output_free(&parts[i].d);
        gemm_output_free(&parts[i].dense);
    }
    fm_gemm_context_close(context);
}

static void batches_are_dense_products(void **state)
{
    (void)state;
    fm_gen_property(40, random_batch);
}

/* Groups of k: each must be the dense product of copies of its columns. */

enum { GROUPS = 4, M = 20, N = 37 };

// Columns `from` ... of `whole`, whose scales begin at column `block`, as a matrix of its own that borrows all memory.
static struct gemm_matrix columns_of(const struct gemm_matrix *whole, int64_t from, int64_t k, int64_t block)
{
    struct gemm_matrix part = *whole;
    int64_t at = whole->operand.transposed ? from * whole->operand.stride : from;
    int64_t bits = fm_base_dtype_bits(whole->operand.dtype);
    part.k = k;
    part.operand.data = (const uint8_t *)whole->data + at * bits / 8;
    if (whole->scales)
        part.operand.scales = (const float *)whole->scales + block;
    return part;
}

static void random_k_groups(fm_gen *gen)
{
    int64_t offsets[GROUPS + 1] = {fm_gen_int(gen, 0, 3)}, blocks = 0;
    for (int g = 0; g < GROUPS; g++) {
        int64_t size = fm_gen_chance(gen, 0.25) ? 0 : fm_gen_size(gen, 0, 200);
        offsets[g + 1] = offsets[g] + size;
        blocks += (size + 127) / 128;
    }
    int64_t k = offsets[GROUPS];
    struct gemm_format format = {.dtype = fm_gen_chance(gen, 0.3) ? FM_DTYPE_BF16 : FM_DTYPE_F8_E4M3,
                                 .transposed = fm_gen_chance(gen, 0.5),
                                 .scale_rows = 1,
                                 .powers = (enum gemm_powers)fm_gen_int(gen, 0, 2)};
    // Made with more columns than it has, so that there are scales for all blocks.
    int64_t made = k > blocks * 128 ? k : blocks * 128;
    struct gemm_matrix a = gemm_matrix_make(gen, M, made, &format, GEMM_NORMAL);
    struct gemm_matrix b = gemm_matrix_make(gen, N, made, &format, GEMM_NORMAL);
    fm_gen again = *gen;
    int with_c = fm_gen_chance(gen, 0.5);
    struct gemm_output d = gemm_output_make(gen, (int64_t)GROUPS * M, N, FM_DTYPE_F32, with_c);
    struct gemm_output dense =
        (fm_gen_chance(&again, 0.5), gemm_output_make(&again, (int64_t)GROUPS * M, N, FM_DTYPE_F32, with_c));
    fm_gemm_context *context = gemm_open(FM_ISA_AVX512, 2);
    int64_t apart = M * d.result.stride;
    assert_ok(fm_gemm_grouped_k(context, GROUPS, offsets, M, N, &a.operand, &b.operand, &d.result, apart));
    gemm_output_untouched(&d, -1);
    blocks = 0;
    for (int g = 0; g < GROUPS; g++) {
        int64_t size = offsets[g + 1] - offsets[g];
        struct gemm_matrix a_part = columns_of(&a, offsets[g], size, blocks);
        struct gemm_matrix b_part = columns_of(&b, offsets[g], size, blocks);
        fm_gemm_weights weights;
        fm_gemm_result result = dense.result;
        result.data = (float *)dense.result.data + g * apart;
        result.c = dense.c ? (const float *)dense.result.c + g * apart : NULL;
        assert_ok(fm_gemm_weights_plain(N, size, &b_part.operand, &weights));
        assert_ok(fm_gemm_dense(context, M, &a_part.operand, &weights, &result));
        blocks += (size + 127) / 128;
    }
    gemm_output_equal(&dense, &d, "grouped by k");
    fm_gemm_context_close(context);
    gemm_output_free(&d);
    gemm_output_free(&dense);
    gemm_matrix_free(&a);
    gemm_matrix_free(&b);
}

static void groups_of_k_are_dense_products(void **state)
{
    (void)state;
    fm_gen_property(40, random_k_groups);
}

/* A team of the caller's. */

struct member {
    pthread_t thread;
    void (*body)(void *argument, int index);
    void *argument;
    int index;
};

static void *begin(void *argument)
{
    const struct member *member = argument;
    member->body(member->argument, member->index);
    return NULL;
}

static void run_threads(void *state, int threads, void (*body)(void *argument, int index), void *argument)
{
    struct member members[8];
    int *calls = state;
    ++*calls;
    for (int i = 0; i < threads; i++) {
        members[i] = (struct member){.body = body, .argument = argument, .index = i};
        assert_int_equal(pthread_create(&members[i].thread, NULL, begin, &members[i]), 0);
    }
    for (int i = 0; i < threads; i++)
        pthread_join(members[i].thread, NULL);
}

static void the_callers_threads_do_the_same(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(3);
    int calls = 0;
    const fm_gemm_team team = {&calls, run_threads};
    fm_gemm_context *context, *alone = gemm_open(FM_ISA_AVX512, 1);
    assert_ok(fm_gemm_context_open(
        &(fm_gemm_options){.size = sizeof(fm_gemm_options), .threads = 4, .team = &team}, &context));
    struct gemm_format format = {.dtype = FM_DTYPE_F8_E4M3, .scale_rows = 1};
    struct gemm_matrix a = gemm_matrix_make(&gen, 33, 300, &format, GEMM_NORMAL);
    struct gemm_matrix b = gemm_matrix_make(&gen, 500, 300, &format, GEMM_NORMAL);
    struct gemm_output d[2] = {gemm_output_make(&gen, 33, 500, FM_DTYPE_F32, 0),
                               gemm_output_make(&gen, 33, 500, FM_DTYPE_F32, 0)};
    size_t bytes;
    assert_ok(fm_gemm_weights_pack_size(500, 300, &b.operand, &bytes));
    uint8_t *blobs[2];
    for (int i = 0; i < 2; i++) {
        fm_gemm_weights weights;
        blobs[i] = fm_base_mem_aligned(bytes, FM_GEMM_BLOB_ALIGN);
        assert_ok(fm_gemm_weights_pack(i ? context : alone, 500, 300, &b.operand, blobs[i], bytes));
        assert_ok(fm_gemm_weights_open(blobs[i], bytes, &weights));
        assert_ok(fm_gemm_dense(i ? context : alone, 33, &a.operand, &weights, &d[i].result));
    }
    assert_true(calls == 2);
    assert_memory_equal(blobs[0], blobs[1], bytes);
    gemm_output_equal(&d[0], &d[1], "a team of threads");
    for (int i = 0; i < 2; i++) {
        fm_base_mem_free(blobs[i]);
        gemm_output_free(&d[i]);
    }
    gemm_matrix_free(&a);
    gemm_matrix_free(&b);
    fm_gemm_context_close(context);
    fm_gemm_context_close(alone);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batches_are_dense_products),
        cmocka_unit_test(groups_of_k_are_dense_products),
        cmocka_unit_test(the_callers_threads_do_the_same),
    };
    return fm_test_run("gemm_batch", tests);
}
