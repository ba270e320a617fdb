#include "model_low.h"

#include <stdio.h>

#include "fathom/numfmt.h"

enum { BLOCK = FM_MODEL_SCALE_BLOCK };

static int64_t blocks(int64_t count)
{
    return (count + BLOCK - 1) / BLOCK;
}

fm_status fm_model_low_open(fm_dtype dtype, int threads, struct fm_model_low **out_low)
{
    fm_gemm_options options = {.size = sizeof options, .threads = threads};
    struct fm_model_low *low = fm_base_mem_zalloc(1, sizeof *low);
    if (!low)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for products");
    low->dtype = dtype;
    fm_status status = fm_gemm_context_open(&options, &low->gemm);
    if (status < 0) {
        fm_base_mem_free(low);
        return status;
    }
    *out_low = low;
    return FM_OK;
}

void fm_model_low_close(struct fm_model_low *low)
{
    if (!low)
        return;
    fm_gemm_context_close(low->gemm);
    fm_model_scratch_free(&low->scratch);
    fm_base_mem_free(low);
}

fm_status fm_model_low_check(struct fm_model_low *low)
{
    if (!low || low->status == FM_OK)
        return FM_OK;
    fm_status status = fm_base_error_set(low->status, "%s", low->message);
    low->status = FM_OK;
    return status;
}

static void fail(struct fm_model_low *low, fm_status status)
{
    low->status = status;
    snprintf(low->message, sizeof low->message, "%s", fm_base_error_message());
}

fm_dtype fm_model_low_dtype(const struct fm_model_low *low, const struct fm_model_weight *weight)
{
    if (!low || weight->floor == FM_DTYPE_F32)
        return FM_DTYPE_F32;
    return weight->floor == FM_DTYPE_BF16 ? FM_DTYPE_BF16 : low->dtype;
}

static void *take_from(struct fm_model_scratch *scratch, size_t bytes)
{
    return fm_model_scratch_take(scratch, (bytes + sizeof(float) - 1) / sizeof(float));
}

static void *take(struct fm_model_low *low, size_t bytes)
{
    return take_from(&low->scratch, bytes);
}

static fm_status no_memory(int64_t rows, int64_t columns)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory to round %lld x %lld numbers", (long long)rows,
                             (long long)columns);
}

// Where rounded numbers go: codes, and scales for `scale_rows` x 128 of E4M3.
static fm_status take_rounded(struct fm_model_scratch *scratch, fm_dtype dtype, int64_t rows, int64_t columns,
                              int scale_rows, fm_gemm_quantised *out)
{
    size_t count = (size_t)(rows * columns),
           scales = (size_t)((rows + scale_rows - 1) / scale_rows * blocks(columns));
    int is_bf16 = dtype == FM_DTYPE_BF16;
    *out = (fm_gemm_quantised){.dtype = dtype,
                               .data = take_from(scratch, count * (is_bf16 ? sizeof(fm_bf16) : 1)),
                               .stride = columns,
                               .scales = is_bf16 ? NULL : take_from(scratch, scales * sizeof(float)),
                               .scale_stride = is_bf16 ? 0 : blocks(columns),
                               .scale_rows = scale_rows};
    return out->data && (is_bf16 || out->scales) ? FM_OK : no_memory(rows, columns);
}

static fm_status round_into(struct fm_model_low *low, int64_t rows, int64_t columns, const float *x,
                            const fm_gemm_quantised *to)
{
    fm_gemm_operand from = {.dtype = FM_DTYPE_F32, .data = x, .stride = columns};
    if (to->dtype != FM_DTYPE_BF16)
        return fm_gemm_quantise(low->gemm, rows, columns, &from, to);
    fm_base_f32_to_bf16(x, (size_t)(rows * columns), to->data);
    return FM_OK;
}

// Rows of f32 as BF16, or as E4M3 with a scale for `scale_rows` x 128.
static fm_status round_rows(struct fm_model_low *low, fm_dtype dtype, int64_t rows, int64_t columns,
                            const float *x, int scale_rows, fm_gemm_operand *out)
{
    fm_gemm_quantised to;
    FM_TRY(take_rounded(&low->scratch, dtype, rows, columns, scale_rows, &to));
    FM_TRY(round_into(low, rows, columns, x, &to));
    *out = fm_gemm_quantised_operand(&to);
    return FM_OK;
}

fm_status fm_model_low_round(struct fm_model_low *low, struct fm_model_scratch *scratch, fm_dtype dtype,
                             int64_t rows, int64_t columns, const float *x, int powers, fm_gemm_operand *out)
{
    fm_gemm_quantised to;
    FM_TRY(take_rounded(scratch, dtype, rows, columns, 1, &to));
    to.powers = powers;
    FM_TRY(round_into(low, rows, columns, x, &to));
    *out = fm_gemm_quantised_operand(&to);
    return FM_OK;
}

fm_status fm_model_low_take_weight(struct fm_model_low *low, struct fm_model_scratch *scratch,
                                   const struct fm_model_weight *weight, fm_gemm_quantised *out)
{
    return take_rounded(scratch, fm_model_low_dtype(low, weight), weight->rows, weight->columns, BLOCK, out);
}

fm_status fm_model_low_round_weight(struct fm_model_low *low, const struct fm_model_weight *weight,
                                    const fm_gemm_quantised *to)
{
    return round_into(low, weight->rows, weight->columns, weight->values, to);
}

// Rows of f32, transposed: BF16 as a view, E4M3 requantised with a scale for each 128 rows of a channel.
static fm_status round_columns(struct fm_model_low *low, fm_dtype dtype, int64_t rows, int64_t columns,
                               const float *x, fm_gemm_operand *out)
{
    if (dtype == FM_DTYPE_BF16) {
        FM_TRY(round_rows(low, dtype, rows, columns, x, 1, out));
        out->transposed = 1;
        return FM_OK;
    }
    fm_gemm_operand from = {.dtype = FM_DTYPE_F32, .data = x, .stride = columns};
    int64_t offsets[2] = {0, rows};
    fm_gemm_quantised to = {.dtype = FM_DTYPE_F8_E4M3,
                            .data = take(low, (size_t)(rows * columns)),
                            .stride = rows,
                            .scales = take(low, (size_t)(columns * blocks(rows)) * sizeof(float)),
                            .scale_stride = blocks(rows),
                            .scale_rows = 1};
    if (!to.data || !to.scales)
        return no_memory(rows, columns);
    FM_TRY(fm_gemm_quantise_transposed(low->gemm, 1, offsets, columns, &from, &to));
    *out = fm_gemm_quantised_operand(&to);
    return FM_OK;
}

// The weight as stored, as rounded for the step, or rounded now.
static fm_status operand_of(struct fm_model_low *low, fm_dtype dtype, const struct fm_model_weight *weight,
                            fm_gemm_operand *out)
{
    const struct fm_model_matrix *stored = &weight->matrix;
    if (weight->rounded.dtype == dtype) {
        *out = weight->rounded;
        return FM_OK;
    }
    if (stored->dtype != dtype)
        return round_rows(low, dtype, weight->rows, weight->columns, weight->values, BLOCK, out);
    *out = (fm_gemm_operand){.dtype = dtype, .data = stored->data, .stride = stored->stride};
    if (dtype == FM_DTYPE_F8_E4M3) {
        out->scales = stored->scales;
        out->scale_stride = stored->scale_stride;
        out->scale_rows = BLOCK;
    }
    return FM_OK;
}

static fm_status weights_of(struct fm_model_low *low, fm_dtype dtype, const struct fm_model_weight *weight,
                            fm_gemm_weights *out)
{
    fm_gemm_operand operand;
    if (weight->packed.n) {
        *out = weight->packed;
        return FM_OK;
    }
    FM_TRY(operand_of(low, dtype, weight, &operand));
    return fm_gemm_weights_plain(weight->rows, weight->columns, &operand, out);
}

// The same matrix by columns; scales of 128 x 128 blocks change places with it.
static fm_status transpose(struct fm_model_low *low, int64_t rows, int64_t columns, fm_gemm_operand *operand)
{
    operand->transposed = 1;
    if (operand->dtype == FM_DTYPE_BF16)
        return FM_OK;
    const float *from = operand->scales;
    float *scales = take(low, (size_t)(blocks(rows) * blocks(columns)) * sizeof *scales);
    if (!scales)
        return no_memory(rows, columns);
    for (int64_t i = 0; i < blocks(rows); i++)
        for (int64_t j = 0; j < blocks(columns); j++)
            scales[j * blocks(rows) + i] = from[i * operand->scale_stride + j];
    operand->scales = scales;
    operand->scale_stride = blocks(rows);
    return FM_OK;
}

fm_status fm_model_low_weights(struct fm_model_low *low, fm_dtype dtype, const struct fm_model_weight *weight,
                               int transposed, fm_gemm_weights *out)
{
    fm_gemm_operand operand;
    if (!transposed)
        return weights_of(low, dtype, weight, out);
    FM_TRY(operand_of(low, dtype, weight, &operand));
    FM_TRY(transpose(low, weight->rows, weight->columns, &operand));
    return fm_gemm_weights_plain(weight->columns, weight->rows, &operand, out);
}

static fm_status multiply(struct fm_model_low *low, int64_t m, int64_t n, const fm_gemm_operand *a,
                          const fm_gemm_weights *weights, float *out, int accumulate)
{
    fm_gemm_result result = {
        .dtype = FM_DTYPE_F32, .data = out, .stride = n, .c = accumulate ? out : NULL, .c_stride = n};
    FM_TRY(fm_gemm_dense(low->gemm, m, a, weights, &result));
    low->products[a->dtype]++;
    return FM_OK;
}

// The source's rows, rounded.
static fm_status round_source(struct fm_model_low *low, fm_dtype dtype, const struct fm_model_source *source,
                              fm_gemm_operand *out)
{
    fm_gemm_operand all;
    FM_TRY(round_rows(low, dtype, source->rows, source->columns, source->x, 1, &all));
    *out = all;
    if (!source->picks)
        return FM_OK;
    int scaled = dtype == FM_DTYPE_F8_E4M3;
    size_t row = (size_t)source->columns * (scaled ? 1 : sizeof(fm_bf16)), count = (size_t)source->pick_count;
    size_t scales = scaled ? (size_t)all.scale_stride * sizeof(float) : 0;
    char *codes = take(low, count * row), *picked_scales = take(low, count * scales);
    if (!codes || !picked_scales)
        return no_memory(source->pick_count, source->columns);
    for (size_t i = 0; i < count; i++) {
        size_t from = (size_t)source->picks[i];
        memcpy(codes + i * row, (const char *)all.data + from * row, row);
        if (scaled)
            memcpy(picked_scales + i * scales, (const char *)all.scales + from * scales, scales);
    }
    out->data = codes;
    out->scales = picked_scales;
    return FM_OK;
}

// What products take is said by the first one's weight: sets do not mix types.
static fm_status products(struct fm_model_low *low, const struct fm_model_source *sources, int source_count,
                          const struct fm_model_product *list, int count)
{
    fm_dtype dtype = fm_model_low_dtype(low, list[0].weight);
    fm_gemm_operand *rounded = take(low, (size_t)source_count * sizeof *rounded);
    fm_gemm_product *batch = take(low, (size_t)count * sizeof *batch);
    if (!rounded || !batch)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a list of %d products", count);
    for (int i = 0; i < source_count; i++)
        FM_TRY(round_source(low, dtype, &sources[i], &rounded[i]));
    for (int i = 0; i < count; i++) {
        const struct fm_model_product *product = &list[i];
        fm_gemm_operand a = rounded[product->source];
        a.data = (const char *)a.data + product->first * a.stride * (fm_base_dtype_bits(dtype) / 8);
        if (dtype == FM_DTYPE_F8_E4M3)
            a.scales = (const float *)a.scales + product->first * a.scale_stride;
        batch[i] = (fm_gemm_product){
            .m = product->rows,
            .a = a,
            .d = {.dtype = FM_DTYPE_F32, .data = product->out, .stride = product->weight->rows}};
        FM_TRY(weights_of(low, dtype, product->weight, &batch[i].b));
    }
    low->products[dtype] += count;
    return fm_gemm_batched(low->gemm, count, batch);
}

void fm_model_low_products(struct fm_model_low *low, const struct fm_model_source *sources, int source_count,
                           const struct fm_model_product *list, int count)
{
    struct fm_model_mark mark = fm_model_scratch_mark(&low->scratch);
    fm_status status = low->status == FM_OK ? products(low, sources, source_count, list, count) : FM_OK;
    if (status < 0)
        fail(low, status);
    fm_model_scratch_release(&low->scratch, mark);
}

void fm_model_low_forward(struct fm_model_low *low, int64_t rows, const float *x,
                          const struct fm_model_weight *weight, float *out)
{
    const struct fm_model_source source = {.x = x, .rows = rows, .columns = weight->columns};
    const struct fm_model_product product = {0, 0, rows, weight, out};
    fm_model_low_products(low, &source, 1, &product, 1);
}

static fm_status back(struct fm_model_low *low, int64_t rows, const struct fm_model_weight *weight,
                      const float *dy, float *dx, int accumulate)
{
    fm_dtype dtype = fm_model_low_dtype(low, weight);
    int64_t n = weight->rows, k = weight->columns;
    fm_gemm_operand a;
    fm_gemm_weights weights;
    FM_TRY(round_rows(low, dtype, rows, n, dy, 1, &a));
    FM_TRY(fm_model_low_weights(low, dtype, weight, 1, &weights));
    return multiply(low, rows, k, &a, &weights, dx, accumulate);
}

void fm_model_low_back(struct fm_model_low *low, int64_t rows, const struct fm_model_weight *weight,
                       const float *dy, float *dx, int accumulate)
{
    struct fm_model_mark mark = fm_model_scratch_mark(&low->scratch);
    fm_status status = low->status == FM_OK ? back(low, rows, weight, dy, dx, accumulate) : FM_OK;
    if (status < 0)
        fail(low, status);
    fm_model_scratch_release(&low->scratch, mark);
}

static fm_status weight_back(struct fm_model_low *low, int64_t rows, const float *x,
                             const struct fm_model_weight *weight, const float *dy)
{
    fm_dtype dtype = fm_model_low_dtype(low, weight);
    int64_t n = weight->rows, k = weight->columns;
    fm_gemm_operand a, b;
    fm_gemm_weights weights;
    FM_TRY(round_columns(low, dtype, rows, n, dy, &a));
    FM_TRY(round_columns(low, dtype, rows, k, x, &b));
    FM_TRY(fm_gemm_weights_plain(k, rows, &b, &weights));
    return multiply(low, n, k, &a, &weights, weight->gradient, 1);
}

void fm_model_low_weight(struct fm_model_low *low, int64_t rows, const float *x,
                         const struct fm_model_weight *weight, const float *dy)
{
    struct fm_model_mark mark = fm_model_scratch_mark(&low->scratch);
    fm_status status = low->status == FM_OK ? weight_back(low, rows, x, weight, dy) : FM_OK;
    if (status < 0)
        fail(low, status);
    fm_model_scratch_release(&low->scratch, mark);
}

void fm_model_low_widen(const struct fm_model_weight *weight, int64_t first, int64_t rows, float *out)
{
    const struct fm_model_matrix *m = &weight->matrix;
    for (int64_t i = first; i < first + rows; i++, out += weight->columns) {
        if (m->dtype == FM_DTYPE_F32) {
            memcpy(out, (const float *)m->data + i * m->stride, (size_t)weight->columns * sizeof *out);
        } else if (m->dtype == FM_DTYPE_BF16) {
            fm_base_bf16_to_f32((const fm_bf16 *)m->data + i * m->stride, (size_t)weight->columns, out);
        } else {
            fm_base_e4m3_to_f32((const fm_e4m3 *)m->data + i * m->stride, (size_t)weight->columns, out);
            for (int64_t j = 0; j < weight->columns; j++)
                out[j] *= m->scales[i / BLOCK * m->scale_stride + j / BLOCK];
        }
    }
}

// Rounds a weight as round_rows() would, a block of rows at a time, so that no f32 copy of the whole is needed.
static fm_status round_weight(struct fm_model_low *low, fm_dtype dtype, const struct fm_model_weight *weight,
                              fm_gemm_operand *out)
{
    int64_t n = weight->rows, k = weight->columns;
    float *wide = take(low, (size_t)(BLOCK * k) * sizeof *wide);
    char *codes = take(low, (size_t)(n * k) * (dtype == FM_DTYPE_BF16 ? 2 : 1));
    float *scales = take(low, (size_t)(blocks(n) * blocks(k)) * sizeof *scales);
    if (!wide || !codes || !scales)
        return no_memory(n, k);
    for (int64_t i = 0; i < n; i += BLOCK) {
        int64_t rows = n - i < BLOCK ? n - i : BLOCK;
        fm_gemm_operand from = {.dtype = FM_DTYPE_F32, .data = wide, .stride = k};
        fm_gemm_quantised to = {.dtype = FM_DTYPE_F8_E4M3,
                                .data = codes + i * k,
                                .stride = k,
                                .scales = scales + i / BLOCK * blocks(k),
                                .scale_stride = blocks(k),
                                .scale_rows = BLOCK};
        fm_model_low_widen(weight, i, rows, wide);
        if (dtype == FM_DTYPE_BF16)
            fm_base_f32_to_bf16(wide, (size_t)(rows * k), (fm_bf16 *)(void *)codes + i * k);
        else
            FM_TRY(fm_gemm_quantise(low->gemm, rows, k, &from, &to));
    }
    *out = (fm_gemm_operand){.dtype = dtype,
                             .data = codes,
                             .stride = k,
                             .scales = scales,
                             .scale_stride = blocks(k),
                             .scale_rows = BLOCK};
    return FM_OK;
}

fm_status fm_model_low_pack_bytes(struct fm_model_low *low, const struct fm_model_weight *weight,
                                  size_t *out_bytes)
{
    static const float nothing[1];
    fm_gemm_operand shape = {.dtype = fm_model_low_dtype(low, weight),
                             .data = nothing, // the size is not a matter of what lies there
                             .stride = weight->columns,
                             .scales = nothing,
                             .scale_stride = blocks(weight->columns),
                             .scale_rows = BLOCK};
    return fm_gemm_weights_pack_size(weight->rows, weight->columns, &shape, out_bytes);
}

fm_status fm_model_low_pack(struct fm_model_low *low, struct fm_model_weight *weight, void *blob,
                            size_t bytes)
{
    fm_dtype dtype = fm_model_low_dtype(low, weight);
    struct fm_model_mark mark = fm_model_scratch_mark(&low->scratch);
    fm_gemm_operand operand;
    fm_status status = weight->matrix.dtype == dtype ? operand_of(low, dtype, weight, &operand)
                                                     : round_weight(low, dtype, weight, &operand);
    if (status == FM_OK)
        status = fm_gemm_weights_pack(low->gemm, weight->rows, weight->columns, &operand, blob, bytes);
    if (status == FM_OK)
        status = fm_gemm_weights_open(blob, bytes, &weight->packed);
    fm_model_scratch_release(&low->scratch, mark);
    return status;
}
