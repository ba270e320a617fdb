#include "gemm_cases.h"

#include "fm_test.h"

#include "fathom/numfmt.h"

#include <math.h>

struct product {
    int64_t m, n, k;
    struct gemm_format a, b;
    fm_dtype d_dtype;
    int with_c;
    enum gemm_values values;
};

struct run {
    struct product product;
    struct gemm_matrix a, b;
    fm_gen gen;
};

static struct run prepare(fm_gen *gen, const struct product *product)
{
    struct run run = {.product = *product};
    run.a = gemm_matrix_make(gen, product->m, product->k, &product->a, product->values);
    run.b = gemm_matrix_make(gen, product->n, product->k, &product->b, product->values);
    run.gen = *gen; // outputs made from it are all alike
    return run;
}

static void discard(struct run *run)
{
    gemm_matrix_free(&run->a);
    gemm_matrix_free(&run->b);
}

static struct gemm_output compute(const struct run *run, fm_isa isa, int threads, int packed)
{
    const struct product *product = &run->product;
    fm_gen gen = run->gen;
    struct gemm_output output =
        gemm_output_make(&gen, product->m, product->n, product->d_dtype, product->with_c);
    fm_gemm_context *context = gemm_open(isa, threads);
    fm_gemm_weights weights;
    void *blob = NULL;
    if (packed)
        blob = gemm_pack(&run->b, &weights);
    else
        assert_ok(fm_gemm_weights_plain(product->n, product->k, &run->b.operand, &weights));
    assert_ok(fm_gemm_dense(context, product->m, &run->a.operand, &weights, &output.result));
    gemm_output_untouched(&output, -1);
    fm_base_mem_free(blob);
    fm_gemm_context_close(context);
    return output;
}

static void check_against_double(const struct run *run, const struct gemm_output *output)
{
    for (int64_t row = 0; row < run->product.m; row++)
        for (int64_t column = 0; column < run->product.n; column++)
            gemm_output_near(output, row, column, &run->a, row, &run->b, column);
}

static void check_all_ways(fm_gen *gen, const struct product *product, int oracle)
{
    struct run run = prepare(gen, product);
    struct gemm_output reference = compute(&run, FM_ISA_REF, 1, 0);
    if (oracle)
        check_against_double(&run, &reference);
    for (int isa = FM_ISA_REF; isa <= FM_ISA_AVX512; isa++) {
        for (int packed = isa == FM_ISA_REF; packed < 2; packed++) {
            struct gemm_output output =
                compute(&run, (fm_isa)isa, packed && isa == FM_ISA_AVX512 ? 3 : 1, packed);
            gemm_output_equal(&reference, &output, fm_base_isa_name((fm_isa)isa));
            gemm_output_free(&output);
        }
    }
    gemm_output_free(&reference);
    discard(&run);
}

static struct product any_product(fm_gen *gen, int64_t extent_max)
{
    int wide = fm_gen_chance(gen, 0.3);
    return (struct product){
        .m = fm_gen_size(gen, 0, extent_max),
        .n = fm_gen_size(gen, 0, extent_max),
        .k = fm_gen_size(gen, 0, 3 * extent_max),
        .a = gemm_format_any(gen, wide),
        .b = gemm_format_any(gen, wide),
        .d_dtype = fm_gen_chance(gen, 0.5) ? FM_DTYPE_BF16 : FM_DTYPE_F32,
        .with_c = fm_gen_chance(gen, 0.5),
    };
}

static void random_product(fm_gen *gen)
{
    struct product product = any_product(gen, 48);
    check_all_ways(gen, &product, 1);
}

static void every_way_gives_the_same_right_product(void **state)
{
    (void)state;
    fm_gen_property(60, random_product);
}

static void extreme_product(fm_gen *gen)
{
    struct product product = any_product(gen, 24);
    product.values = GEMM_EXTREME;
    check_all_ways(gen, &product, 0);
}

static void every_way_gives_the_same_with_any_codes(void **state)
{
    (void)state;
    fm_gen_property(100, extreme_product);
}

// Each extent from 1 to 129 while the others are small: all tails of tiles, panels, strips, steps and blocks.
static void tails_of_every_extent(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(7);
    static const struct gemm_format formats[2][2] = {
        {{.dtype = FM_DTYPE_BF16}, {.dtype = FM_DTYPE_BF16}},
        {{.dtype = FM_DTYPE_F8_E4M3, .scale_rows = 1}, {.dtype = FM_DTYPE_F8_E4M3, .scale_rows = 128}}};
    for (int64_t size = 1; size <= 129; size++) {
        struct product tall = {.m = size,
                               .n = 5,
                               .k = 9,
                               .a = formats[size % 2][0],
                               .b = formats[size % 2][1],
                               .d_dtype = size % 4 < 2 ? FM_DTYPE_F32 : FM_DTYPE_BF16,
                               .with_c = size % 3 == 0};
        struct product wide = tall, deep = tall;
        wide.m = deep.m = 3;
        wide.n = deep.k = size;
        check_all_ways(&gen, &tall, 1);
        check_all_ways(&gen, &wide, 1);
        check_all_ways(&gen, &deep, 1);
        deep.a = formats[1 - size % 2][0];
        deep.b = formats[1 - size % 2][1];
        check_all_ways(&gen, &deep, 1);
    }
}

// Larger than a task in each extent: 480 rows, 512 columns, a chunk of k.
static void a_row_alone_gives_what_it_gives_among_others(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(11);
    static const struct gemm_format formats[3][2] = {
        {{.dtype = FM_DTYPE_BF16}, {.dtype = FM_DTYPE_BF16}},
        {{.dtype = FM_DTYPE_F8_E4M3, .scale_rows = 1}, {.dtype = FM_DTYPE_F8_E4M3, .scale_rows = 128}},
        {{.dtype = FM_DTYPE_F8_E4M3, .scale_rows = 1, .powers = GEMM_SOME_POWERS},
         {.dtype = FM_DTYPE_F8_E4M3, .scale_rows = 128, .powers = GEMM_POWERS}}};
    for (int i = 0; i < 3; i++) {
        struct run run = prepare(&gen, &(struct product){.m = 490,
                                                         .n = 530,
                                                         .k = 700,
                                                         .a = formats[i][0],
                                                         .b = formats[i][1],
                                                         .d_dtype = FM_DTYPE_F32});
        struct gemm_output together = compute(&run, FM_ISA_AVX512, 1, 1),
                           team = compute(&run, FM_ISA_AVX512, 3, 0);
        gemm_output_equal(&together, &team, "three threads");
        for (int64_t row = 0; row < 490; row += 163) {
            struct run alone = run;
            alone.product.m = 1;
            alone.a.operand.data =
                (const uint8_t *)run.a.data + row * run.a.operand.stride * (i == 0 ? 2 : 1);
            if (run.a.scales)
                alone.a.operand.scales = (const float *)run.a.scales + row * run.a.operand.scale_stride;
            struct gemm_output single = compute(&alone, FM_ISA_AVX512, 1, 1);
            for (int64_t column = 0; column < 530; column++)
                assert_true(fm_f32_bits(gemm_output_at(&single, 0, column)) ==
                            fm_f32_bits(gemm_output_at(&together, row, column)));
            gemm_output_free(&single);
        }
        gemm_output_free(&together);
        gemm_output_free(&team);
        discard(&run);
    }
}

/*
 * What quantisation costs: the distance to the product of the unquantised operands, as DeepGEMM measures and bounds it
 * (calc_diff: 1 - 2 sum(xy) / sum(x^2 + y^2)). Here A is quantised per 1x128 and B per 128x128 with amax / 448.
 */
static void quantise(const float *values, int64_t rows, int64_t k, int scale_rows, fm_e4m3 *codes,
                     float *scales)
{
    int64_t across = (k + 127) / 128;
    for (int64_t row = 0; row < rows; row += scale_rows)
        for (int64_t block = 0; block < across; block++) {
            float largest = 1e-4f;
            for (int64_t r = row; r < row + scale_rows && r < rows; r++)
                for (int64_t i = block * 128; i < block * 128 + 128 && i < k; i++)
                    largest = fmaxf(largest, fabsf(values[r * k + i]));
            float scale = largest / FM_E4M3_MAX;
            scales[row / scale_rows * across + block] = scale;
            for (int64_t r = row; r < row + scale_rows && r < rows; r++)
                for (int64_t i = block * 128; i < block * 128 + 128 && i < k; i++)
                    codes[r * k + i] = fm_f32_to_e4m3(values[r * k + i] / scale);
        }
}

enum { DIFF_M = 40, DIFF_N = 150, DIFF_K = 1000 };

static double calc_diff(const float *a, const float *b, const fm_bf16 *d)
{
    double both = 0, squares = 0;
    for (int row = 0; row < DIFF_M; row++)
        for (int column = 0; column < DIFF_N; column++) {
            double x = 0, y = (double)fm_bf16_to_f32(d[row * DIFF_N + column]);
            for (int i = 0; i < DIFF_K; i++)
                x += (double)a[row * DIFF_K + i] * (double)b[column * DIFF_K + i];
            both += x * y;
            squares += x * x + y * y;
        }
    return 1 - 2 * both / squares;
}

static void quantised_products_are_near_the_unquantised(void **state)
{
    (void)state;
    static float values[2][DIFF_N * DIFF_K], scales[2][DIFF_M * 8];
    static fm_e4m3 small[2][DIFF_N * DIFF_K];
    static fm_bf16 wide[2][DIFF_N * DIFF_K], d[DIFF_M * DIFF_N];
    fm_gen gen = fm_gen_seeded(17);
    for (int i = 0; i < DIFF_N * DIFF_K; i++)
        for (int j = 0; j < 2; j++) {
            wide[j][i] = fm_f32_to_bf16(fm_gen_normal(&gen));
            values[j][i] =
                fm_bf16_to_f32(wide[j][i]); // DeepGEMM's tensors are BF16 before they are quantised
        }
    quantise(values[0], DIFF_M, DIFF_K, 1, small[0], scales[0]);
    quantise(values[1], DIFF_N, DIFF_K, 128, small[1], scales[1]);
    fm_gemm_operand a = {FM_DTYPE_F8_E4M3, 0, small[0], DIFF_K, scales[0], 8, 1, 0, 0};
    fm_gemm_operand b = {FM_DTYPE_F8_E4M3, 0, small[1], DIFF_K, scales[1], 8, 128, 0, 0};
    fm_gemm_result result = {.dtype = FM_DTYPE_BF16, .data = d, .stride = DIFF_N};
    fm_gemm_weights weights;
    fm_gemm_context *context = gemm_open(FM_ISA_AVX512, 1);
    assert_ok(fm_gemm_weights_plain(DIFF_N, DIFF_K, &b, &weights));
    assert_ok(fm_gemm_dense(context, DIFF_M, &a, &weights, &result));
    assert_true(calc_diff(values[0], values[1], d) < 1e-3);

    a = (fm_gemm_operand){.dtype = FM_DTYPE_BF16, .data = wide[0], .stride = DIFF_K};
    b = (fm_gemm_operand){.dtype = FM_DTYPE_BF16, .data = wide[1], .stride = DIFF_K};
    assert_ok(fm_gemm_weights_plain(DIFF_N, DIFF_K, &b, &weights));
    assert_ok(fm_gemm_dense(context, DIFF_M, &a, &weights, &result));
    assert_true(calc_diff(values[0], values[1], d) < 1e-5);
    fm_gemm_context_close(context);
}

static void c_may_be_d(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(13);
    struct run run = prepare(&gen, &(struct product){.m = 37,
                                                     .n = 41,
                                                     .k = 130,
                                                     .a.dtype = FM_DTYPE_BF16,
                                                     .b.dtype = FM_DTYPE_BF16,
                                                     .d_dtype = FM_DTYPE_BF16,
                                                     .with_c = 1});
    struct gemm_output apart = compute(&run, FM_ISA_AVX512, 1, 0);
    fm_gen again = run.gen;
    struct gemm_output same = gemm_output_make(&again, 37, 41, FM_DTYPE_BF16, 1);
    fm_gemm_context *context = gemm_open(FM_ISA_AVX512, 1);
    fm_gemm_weights weights;
    assert_ok(fm_gemm_weights_plain(41, 130, &run.b.operand, &weights));
    memcpy(same.result.data, same.c, (size_t)(37 * same.result.stride) * 2);
    same.result.c = same.result.data;
    assert_ok(fm_gemm_dense(context, 37, &run.a.operand, &weights, &same.result));
    gemm_output_equal(&apart, &same, "in place");
    fm_gemm_context_close(context);
    gemm_output_free(&apart);
    gemm_output_free(&same);
    discard(&run);
}

/* Grouped: every row of a group must be what the dense product of that row with the group's B is. */

enum { GROUPS = 4, GROUP_N = 50, GROUP_K = 200 };

struct grouped {
    int64_t m;
    int32_t owner[400]; // the group of each row, -1: none
    struct gemm_matrix a, b[GROUPS];
    fm_gemm_weights weights[GROUPS];
    void *blobs[GROUPS];
    fm_gen gen;
    fm_gemm_context *context;
};

static struct grouped grouped_make(fm_gen *gen, int64_t m)
{
    struct grouped grouped = {.m = m};
    fm_dtype dtype = fm_gen_chance(gen, 0.5) ? FM_DTYPE_BF16 : FM_DTYPE_F8_E4M3;
    struct gemm_format format = {.dtype = dtype, .scale_rows = 1};
    grouped.a = gemm_matrix_make(gen, m, GROUP_K, &format, GEMM_NORMAL);
    format.scale_rows = 128;
    for (int g = 0; g < GROUPS; g++) {
        grouped.b[g] = gemm_matrix_make(gen, GROUP_N, GROUP_K, &format, GEMM_NORMAL);
        if (g % 2)
            grouped.blobs[g] = gemm_pack(&grouped.b[g], &grouped.weights[g]);
        else
            assert_ok(fm_gemm_weights_plain(GROUP_N, GROUP_K, &grouped.b[g].operand, &grouped.weights[g]));
    }
    grouped.gen = *gen;
    grouped.context = gemm_open(FM_ISA_AVX512, 2);
    return grouped;
}

static struct gemm_output grouped_output(const struct grouped *grouped)
{
    fm_gen gen = grouped->gen;
    return gemm_output_make(&gen, grouped->m, GROUP_N, FM_DTYPE_BF16, 1);
}

// Compares with dense products of all rows with every B; frees all.
static void grouped_check(struct grouped *grouped, struct gemm_output *output)
{
    gemm_output_untouched(output, -1);
    for (int g = 0; g < GROUPS; g++) {
        struct gemm_output dense = grouped_output(grouped);
        assert_ok(fm_gemm_dense(grouped->context, grouped->m, &grouped->a.operand, &grouped->weights[g],
                                &dense.result));
        for (int64_t row = 0; row < grouped->m; row++)
            for (int64_t column = 0; column < GROUP_N && grouped->owner[row] == g; column++)
                assert_true(fm_f32_bits(gemm_output_at(&dense, row, column)) ==
                            fm_f32_bits(gemm_output_at(output, row, column)));
        gemm_output_free(&dense);
    }
    for (int64_t row = 0; row < grouped->m; row++)
        if (grouped->owner[row] < 0)
            gemm_output_untouched(output, row);
    gemm_output_free(output);
    fm_gemm_context_close(grouped->context);
    gemm_matrix_free(&grouped->a);
    for (int g = 0; g < GROUPS; g++) {
        gemm_matrix_free(&grouped->b[g]);
        fm_base_mem_free(grouped->blobs[g]);
    }
}

static void random_offsets(fm_gen *gen)
{
    int64_t offsets[GROUPS + 1] = {fm_gen_int(gen, 0, 2)};
    for (int g = 0; g < GROUPS; g++)
        offsets[g + 1] = offsets[g] + fm_gen_size(gen, 0, 40);
    struct grouped grouped = grouped_make(gen, offsets[GROUPS] + fm_gen_int(gen, 0, 2));
    for (int64_t row = 0; row < grouped.m; row++) {
        grouped.owner[row] = -1;
        for (int g = 0; g < GROUPS; g++)
            if (row >= offsets[g] && row < offsets[g + 1])
                grouped.owner[row] = g;
    }
    struct gemm_output output = grouped_output(&grouped);
    assert_ok(fm_gemm_grouped(grouped.context, GROUPS, offsets, grouped.m, &grouped.a.operand,
                              grouped.weights, &output.result));
    grouped_check(&grouped, &output);
}

static void random_ids(fm_gen *gen)
{
    struct grouped grouped = grouped_make(gen, fm_gen_size(gen, 0, 120));
    for (int64_t row = 0; row < grouped.m; row++)
        grouped.owner[row] = (int32_t)fm_gen_int(gen, -1, GROUPS - 1);
    struct gemm_output output = grouped_output(&grouped);
    assert_ok(fm_gemm_grouped_by_id(grouped.context, GROUPS, grouped.owner, grouped.m, &grouped.a.operand,
                                    grouped.weights, &output.result));
    grouped_check(&grouped, &output);
}

static void random_mask(fm_gen *gen)
{
    int64_t m_max = fm_gen_size(gen, 0, 30);
    int32_t masked_m[GROUPS];
    struct grouped grouped = grouped_make(gen, GROUPS * m_max);
    for (int g = 0; g < GROUPS; g++) {
        masked_m[g] = (int32_t)fm_gen_size(gen, 0, m_max);
        for (int64_t i = 0; i < m_max; i++)
            grouped.owner[g * m_max + i] = i < masked_m[g] ? g : -1;
    }
    struct gemm_output output = grouped_output(&grouped);
    assert_ok(fm_gemm_grouped_masked(grouped.context, GROUPS, masked_m, m_max, &grouped.a.operand,
                                     grouped.weights, &output.result));
    grouped_check(&grouped, &output);
}

static void groups_by_offsets(void **state)
{
    (void)state;
    fm_gen_property(15, random_offsets);
}

static void groups_by_row_ids(void **state)
{
    (void)state;
    fm_gen_property(15, random_ids);
}

static void groups_with_masks(void **state)
{
    (void)state;
    fm_gen_property(15, random_mask);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_way_gives_the_same_right_product),
        cmocka_unit_test(every_way_gives_the_same_with_any_codes),
        cmocka_unit_test(tails_of_every_extent),
        cmocka_unit_test(a_row_alone_gives_what_it_gives_among_others),
        cmocka_unit_test(quantised_products_are_near_the_unquantised),
        cmocka_unit_test(c_may_be_d),
        cmocka_unit_test(groups_by_offsets),
        cmocka_unit_test(groups_by_row_ids),
        cmocka_unit_test(groups_with_masks),
    };
    return fm_test_run("gemm_calls", tests);
}
