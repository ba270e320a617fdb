/* Any shapes, strides and forms: every level gives the same bits, within rounding of a sum in double precision. */
#include "gemm_cases.h"

#include "fm_test.h"

enum { GROUPS = 5, ROWS_MAX = 200, LEVELS = FM_ISA_AVX512 + 1 };

/* Products of rows, which form groups or are all one. */

struct rows {
    enum { DENSE, OFFSETS, IDS, MASKED, FORMS } form;
    int groups;
    int64_t m, n, offsets[GROUPS + 1];
    int32_t owner[ROWS_MAX], masked_m[GROUPS];
    struct gemm_matrix a, b[GROUPS];
    fm_gemm_weights weights[GROUPS];
    void *blobs[GROUPS];
};

static void divide(fm_gen *gen, struct rows *rows)
{
    int64_t each = rows->m / rows->groups;
    rows->offsets[0] = fm_gen_int(gen, 0, rows->m);
    for (int g = 0; g < rows->groups; g++) {
        rows->offsets[g + 1] =
            fm_gen_chance(gen, 0.2) ? rows->offsets[g] : fm_gen_int(gen, rows->offsets[g], rows->m);
        rows->masked_m[g] = (int32_t)fm_gen_int(gen, 0, each);
    }
    for (int64_t row = 0; row < rows->m; row++) {
        rows->owner[row] = -1;
        if (rows->form == DENSE)
            rows->owner[row] = 0;
        if (rows->form == IDS)
            rows->owner[row] = (int32_t)fm_gen_int(gen, -1, rows->groups - 1);
        for (int g = 0; g < rows->groups && rows->form == OFFSETS; g++)
            if (row >= rows->offsets[g] && row < rows->offsets[g + 1])
                rows->owner[row] = g;
        if (rows->form == MASKED && row % each < rows->masked_m[row / each])
            rows->owner[row] = (int32_t)(row / each);
    }
}

static void multiply(const struct rows *rows, fm_isa isa, int threads, const fm_gemm_result *d)
{
    fm_gemm_context *context = gemm_open(isa, threads);
    const fm_gemm_operand *a = &rows->a.operand;
    if (rows->form == DENSE)
        assert_ok(fm_gemm_dense(context, rows->m, a, rows->weights, d));
    else if (rows->form == OFFSETS)
        assert_ok(fm_gemm_grouped(context, rows->groups, rows->offsets, rows->m, a, rows->weights, d));
    else if (rows->form == IDS)
        assert_ok(fm_gemm_grouped_by_id(context, rows->groups, rows->owner, rows->m, a, rows->weights, d));
    else
        assert_ok(fm_gemm_grouped_masked(context, rows->groups, rows->masked_m, rows->m / rows->groups, a,
                                         rows->weights, d));
    fm_gemm_context_close(context);
}

static struct rows rows_make(fm_gen *gen, int form)
{
    struct rows rows = {.form = form, .groups = form == DENSE ? 1 : (int)fm_gen_int(gen, 1, GROUPS)};
    int wide = fm_gen_chance(gen, 0.3);
    struct gemm_format a = gemm_format_any(gen, wide), b = gemm_format_any(gen, wide);
    int64_t k = fm_gen_size(gen, 0, 700);
    rows.m = fm_gen_size(gen, 0, ROWS_MAX / rows.groups) * rows.groups;
    rows.n = fm_gen_size(gen, 0, 100);
    divide(gen, &rows);
    rows.a = gemm_matrix_make(gen, rows.m, k, &a, GEMM_NORMAL);
    for (int g = 0; g < rows.groups; g++) {
        struct gemm_format own = gemm_format_any(gen, wide); // groups share a dtype, and nothing else
        own.dtype = b.dtype;
        rows.b[g] = gemm_matrix_make(gen, rows.n, k, &own, GEMM_NORMAL);
        if (fm_gen_chance(gen, 0.5))
            rows.blobs[g] = gemm_pack(&rows.b[g], &rows.weights[g]);
        else
            assert_ok(fm_gemm_weights_plain(rows.n, k, &rows.b[g].operand, &rows.weights[g]));
    }
    return rows;
}

static void rows_free(struct rows *rows)
{
    gemm_matrix_free(&rows->a);
    for (int g = 0; g < rows->groups; g++) {
        gemm_matrix_free(&rows->b[g]);
        fm_base_mem_free(rows->blobs[g]);
    }
}

static void check_rows(fm_gen *gen, int form)
{
    struct rows rows = rows_make(gen, form);
    fm_dtype dtype = fm_gen_chance(gen, 0.5) ? FM_DTYPE_F32 : FM_DTYPE_BF16;
    int with_c = fm_gen_chance(gen, 0.5);
    struct gemm_output d[LEVELS];
    for (int isa = 0; isa < LEVELS; isa++) {
        fm_gen alike = *gen;
        d[isa] = gemm_output_make(&alike, rows.m, rows.n, dtype, with_c);
        multiply(&rows, (fm_isa)isa, 1 + isa, &d[isa].result);
        gemm_output_untouched(&d[isa], -1);
        gemm_output_equal(&d[0], &d[isa], fm_base_isa_name((fm_isa)isa));
    }
    for (int64_t row = 0; row < rows.m; row++) {
        if (rows.owner[row] < 0)
            gemm_output_untouched(&d[0], row);
        for (int64_t column = 0; column < rows.n && rows.owner[row] >= 0; column++)
            gemm_output_near(&d[0], row, column, &rows.a, row, &rows.b[rows.owner[row]], column);
    }
    for (int isa = 0; isa < LEVELS; isa++)
        gemm_output_free(&d[isa]);
    rows_free(&rows);
}

static void any_rows(fm_gen *gen)
{
    for (int form = 0; form < FORMS; form++)
        check_rows(gen, form);
}

static void products_of_any_shape_are_right_at_every_level(void **state)
{
    (void)state;
    fm_gen_property(8, any_rows);
}

/* Products grouped by k. */

// Columns from `from` on, whose scales begin at column `block`, as a matrix that borrows its memory.
static struct gemm_matrix columns_of(const struct gemm_matrix *whole, int64_t from, int64_t k, int64_t block)
{
    struct gemm_matrix part = *whole;
    int64_t at = whole->operand.transposed ? from * whole->operand.stride : from;
    part.k = k;
    part.data = (uint8_t *)whole->data + at * fm_base_dtype_bits(whole->operand.dtype) / 8;
    if (whole->scales)
        part.scales =
            (uint8_t *)whole->scales + block * (whole->operand.scale_dtype == FM_DTYPE_F8_UE8M0 ? 1 : 4);
    return part;
}

struct division {
    int groups;
    int64_t m, n, offsets[GROUPS + 1], apart; // between the D of groups, in elements
    struct gemm_matrix a, b;
};

static int64_t blocks_of(int64_t k, const struct gemm_matrix *matrix)
{
    int64_t scale_k = matrix->operand.scale_k ? matrix->operand.scale_k : 128;
    return (k + scale_k - 1) / scale_k;
}

static void check_groups(const struct division *division, const struct gemm_output *d)
{
    int64_t a_blocks = 0, b_blocks = 0;
    for (int g = 0; g < division->groups; g++) {
        int64_t from = division->offsets[g], k = division->offsets[g + 1] - from;
        struct gemm_matrix a = columns_of(&division->a, from, k, a_blocks);
        struct gemm_matrix b = columns_of(&division->b, from, k, b_blocks);
        for (int64_t row = 0; row < division->m; row++)
            for (int64_t column = 0; column < division->n; column++)
                gemm_output_near(d, g * (division->apart / d->result.stride) + row, column, &a, row, &b,
                                 column);
        a_blocks += blocks_of(k, &a);
        b_blocks += blocks_of(k, &b);
    }
}

// A matrix with columns of scales for every group's blocks.
static struct gemm_matrix make_columns(fm_gen *gen, int64_t rows, int64_t k, const struct gemm_format *format)
{
    int64_t made = k + (int64_t)GROUPS * 128;
    return gemm_matrix_make(gen, rows, made, format, GEMM_NORMAL);
}

static void any_division(fm_gen *gen)
{
    struct division division = {.groups = (int)fm_gen_int(gen, 1, GROUPS),
                                .m = fm_gen_size(gen, 0, 60),
                                .n = fm_gen_size(gen, 0, 60)};
    int wide = fm_gen_chance(gen, 0.3);
    struct gemm_format a = gemm_format_any(gen, wide), b = gemm_format_any(gen, wide);
    int step = a.dtype == FM_DTYPE_F4_E2M1 || b.dtype == FM_DTYPE_F4_E2M1 ? 2 : 1;
    division.offsets[0] = step * fm_gen_int(gen, 0, 3);
    for (int g = 0; g < division.groups; g++)
        division.offsets[g + 1] =
            division.offsets[g] + (fm_gen_chance(gen, 0.3) ? 0 : step * fm_gen_size(gen, 1, 300 / step));
    division.a = make_columns(gen, division.m, division.offsets[division.groups], &a);
    division.b = make_columns(gen, division.n, division.offsets[division.groups], &b);

    fm_dtype dtype = fm_gen_chance(gen, 0.5) ? FM_DTYPE_F32 : FM_DTYPE_BF16;
    int with_c = fm_gen_chance(gen, 0.5);
    int64_t between = fm_gen_int(gen, 0, 2); // rows that are of no group
    struct gemm_output d[LEVELS];
    for (int isa = 0; isa < LEVELS; isa++) {
        fm_gen alike = *gen;
        d[isa] =
            gemm_output_make(&alike, division.groups * (division.m + between), division.n, dtype, with_c);
        division.apart = (division.m + between) * d[isa].result.stride;
        fm_gemm_context *context = gemm_open((fm_isa)isa, 1 + isa);
        assert_ok(fm_gemm_grouped_k(context, division.groups, division.offsets, division.m, division.n,
                                    &division.a.operand, &division.b.operand, &d[isa].result,
                                    division.apart));
        fm_gemm_context_close(context);
        gemm_output_untouched(&d[isa], -1);
        for (int64_t row = 0; row < d[isa].rows; row++)
            if (row % (division.m + between) >= division.m)
                gemm_output_untouched(&d[isa], row);
        gemm_output_equal(&d[0], &d[isa], fm_base_isa_name((fm_isa)isa));
    }
    if (d[0].result.stride)
        check_groups(&division, &d[0]);
    for (int isa = 0; isa < LEVELS; isa++)
        gemm_output_free(&d[isa]);
    gemm_matrix_free(&division.a);
    gemm_matrix_free(&division.b);
}

static void groups_of_k_are_right_at_every_level(void **state)
{
    (void)state;
    fm_gen_property(20, any_division);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_of_any_shape_are_right_at_every_level),
        cmocka_unit_test(groups_of_k_are_right_at_every_level),
    };
    return fm_test_run("gemm_shapes", tests);
}
