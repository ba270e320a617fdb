/* Products that each have operands of their own: batches, and gradients of grouped weights. */
#include "gemm_private.h"

static fm_status check_product(const fm_gemm_product *product)
{
    const fm_gemm_weights *b = &product->b;
    FM_TRY(fm_gemm_args_extent("m", product->m));
    FM_TRY(fm_gemm_args_operand("a", product->m, b->k, &product->a));
    FM_TRY(fm_gemm_args_pair(&product->a, &b->operand));
    return fm_gemm_args_result(product->m, b->n, &product->d);
}

static fm_status run(fm_gemm_context *context, int count, const fm_gemm_product *products)
{
    struct fm_gemm_segment *segments = fm_base_mem_zalloc((size_t)count, sizeof *segments);
    if (!segments)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a list of %d products", count);
    for (int i = 0; i < count; i++) {
        const fm_gemm_product *product = &products[i];
        segments[i] = (struct fm_gemm_segment){
            .a = &product->a, .b = &product->b, .d = &product->d, .count = product->m};
    }
    fm_gemm_run(context, segments, count);
    fm_base_mem_free(segments);
    return FM_OK;
}

fm_status fm_gemm_batched(fm_gemm_context *context, int count, const fm_gemm_product *products)
{
    if (!context)
        return fm_base_error_set(FM_ERR_ARG, "context is null; expected an open one");
    if (count < 0)
        return fm_base_error_set(FM_ERR_ARG, "count is %d; expected at least 0", count);
    if (count && !products)
        return fm_base_error_set(FM_ERR_ARG, "products is null; expected %d", count);
    for (int i = 0; i < count; i++) {
        fm_status status = check_product(&products[i]);
        if (status != FM_OK)
            return fm_base_error_prefix(status, "product %d", i);
    }
    return count ? run(context, count, products) : FM_OK;
}

// Columns of k from `offset` on, with scales from column `scale_column` on.
static fm_gemm_operand columns_of(const fm_gemm_operand *operand, int64_t offset, int64_t scale_column)
{
    fm_gemm_operand part = *operand;
    int64_t codes = operand->transposed ? offset * operand->stride : offset;
    int64_t bits = fm_base_dtype_bits(operand->dtype);
    if (operand->data)
        part.data = (const uint8_t *)operand->data + codes * bits / 8;
    if (operand->dtype != FM_DTYPE_BF16 && operand->scales)
        part.scales = (const uint8_t *)operand->scales +
                      scale_column * (operand->scale_dtype == FM_DTYPE_F8_UE8M0 ? 1 : 4);
    return part;
}

// The operand as a whole: its k is offsets[groups], its blocks of scales begin anew with each group.
static fm_status check_columns(const char *name, int groups, const int64_t *offsets, int64_t rows,
                               const fm_gemm_operand *operand)
{
    FM_TRY(fm_gemm_args_operand(name, rows, offsets[groups], operand));
    if (operand->dtype == FM_DTYPE_BF16)
        return FM_OK;
    int64_t blocks = 0;
    for (int g = 0; g < groups; g++) {
        blocks += fm_gemm_ceil_div(offsets[g + 1] - offsets[g], fm_gemm_scale_k(operand));
        if (operand->dtype == FM_DTYPE_F4_E2M1 && !operand->transposed && offsets[g] % 2)
            return fm_base_error_set(FM_ERR_ARG, "offsets[%d] is %lld; expected an even one, since %s is F4",
                                     g, (long long)offsets[g], name);
    }
    if (rows > operand->scale_rows && operand->scale_stride < blocks)
        return fm_base_error_set(FM_ERR_ARG,
                                 "scale_stride of %s is %lld; expected at least %lld, the groups' blocks",
                                 name, (long long)operand->scale_stride, (long long)blocks);
    return FM_OK;
}

static fm_status check_groups(int groups, const int64_t *offsets, int64_t m, int64_t n,
                              const fm_gemm_operand *a, const fm_gemm_operand *b, const fm_gemm_result *d,
                              int64_t d_group_stride)
{
    if (groups < 1)
        return fm_base_error_set(FM_ERR_ARG, "groups is %d; expected at least 1", groups);
    if (!offsets)
        return fm_base_error_set(FM_ERR_ARG, "offsets is null; expected %d", groups + 1);
    FM_TRY(fm_gemm_args_extent("m", m));
    FM_TRY(fm_gemm_args_extent("n", n));
    FM_TRY(fm_gemm_args_offsets(groups, offsets, FM_GEMM_EXTENT_MAX));
    FM_TRY(check_columns("a", groups, offsets, m, a));
    FM_TRY(check_columns("b", groups, offsets, n, b));
    FM_TRY(fm_gemm_args_pair(a, b));
    FM_TRY(fm_gemm_args_result(m, n, d));
    int64_t bytes, used = m * d->stride; // of one group; it fits, or the check before would have failed
    if (groups > 1 && m && n && d_group_stride < used)
        return fm_base_error_set(FM_ERR_ARG,
                                 "d_group_stride is %lld; expected at least %lld, m * stride of d",
                                 (long long)d_group_stride, (long long)used);
    if (groups > 1 && (__builtin_mul_overflow(d_group_stride, groups, &bytes) ||
                       __builtin_mul_overflow(bytes, 4, &bytes) || bytes > PTRDIFF_MAX))
        return fm_base_error_set(FM_ERR_LIMIT, "d has %d groups with a stride of %lld: larger than memory",
                                 groups, (long long)d_group_stride);
    return FM_OK;
}

static fm_gemm_result group_of(const fm_gemm_result *d, int64_t offset)
{
    fm_gemm_result part = *d;
    int64_t bytes = offset * fm_base_dtype_bits(d->dtype) / 8;
    if (d->data)
        part.data = (uint8_t *)d->data + bytes;
    if (d->c)
        part.c = (const uint8_t *)d->c + bytes;
    return part;
}

fm_status fm_gemm_grouped_k(fm_gemm_context *context, int groups, const int64_t *offsets, int64_t m,
                            int64_t n, const fm_gemm_operand *a, const fm_gemm_operand *b,
                            const fm_gemm_result *d, int64_t d_group_stride)
{
    if (!context)
        return fm_base_error_set(FM_ERR_ARG, "context is null; expected an open one");
    FM_TRY(check_groups(groups, offsets, m, n, a, b, d, d_group_stride));
    fm_gemm_product *products = fm_base_mem_zalloc((size_t)groups, sizeof *products);
    if (!products)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a list of %d groups", groups);
    int64_t a_blocks = 0, b_blocks = 0;
    for (int g = 0; g < groups; g++) {
        int64_t k = offsets[g + 1] - offsets[g];
        fm_gemm_operand b_part = columns_of(b, offsets[g], b_blocks);
        products[g] = (fm_gemm_product){
            .m = m,
            .a = columns_of(a, offsets[g], a_blocks),
            .b = {.operand = b_part, .n = n, .k = k, .folds = fm_gemm_source_folds(&b_part, n, k)},
            .d = group_of(d, g * d_group_stride),
        };
        if (a->dtype != FM_DTYPE_BF16) {
            a_blocks += fm_gemm_ceil_div(k, fm_gemm_scale_k(a));
            b_blocks += fm_gemm_ceil_div(k, fm_gemm_scale_k(b));
        }
    }
    fm_status status = run(context, groups, products);
    fm_base_mem_free(products);
    return status;
}
