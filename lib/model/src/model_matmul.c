/*
 * Products in f32, blocked as Goto and van de Geijn describe: B is packed into panels of a tile's columns and KC rows of
 * k, A into panels of a tile's rows, and tiles run over the packed panels. What a team shares are rows or columns of the
 * result, so that no element's sum is ever split.
 */
#include "model_low.h"

#include "fathom/numfmt.h"

// Packed blocks of A (MC x KC, up to 960 KiB) and B (512 KiB) stay in the second-level cache; with so many rows nearly every
// product packs each of its sides once.
enum { KC = 256, MC = 960, NC = 512, TILE_MAX = 32, PACK_COLUMNS = 16, ROW_MAX = MC };
// Below so many products, some 50 us of work, a second thread costs more than it brings.
enum { SHARE_PRODUCTS = 1 << 21 };
enum { PACK_FLOATS = (MC + TILE_MAX) * KC + (NC + TILE_MAX) * KC };

// `count` consecutive stored elements of stored row `row` from column `column` on, as f32; in place where they are that.
static const float *stored(const struct fm_model_matrix *x, int64_t row, int64_t column, int64_t count,
                           float *space)
{
    int64_t at = row * x->stride + column;
    if (x->dtype == FM_DTYPE_F32)
        return (const float *)x->data + at;
    if (x->dtype == FM_DTYPE_BF16) {
        fm_base_bf16_to_f32((const fm_bf16 *)x->data + at, (size_t)count, space);
        return space;
    }
    fm_base_e4m3_to_f32((const fm_e4m3 *)x->data + at, (size_t)count, space);
    const float *scales = x->scales + (x->row + row) / FM_MODEL_SCALE_BLOCK * x->scale_stride;
    for (int64_t i = 0; i < count; i++)
        space[i] *= scales[(column + i) / FM_MODEL_SCALE_BLOCK];
    return space;
}

// Rows [row, row + rows) and columns [p, p + length) into panels of `width` rows, the column running outside; rows
// beyond the last are zeros.
static void pack(const struct fm_model_matrix *x, int64_t row, int64_t rows, int64_t p, int64_t length,
                 int width, float *out)
{
    float space[ROW_MAX];
    int64_t padded = (rows + width - 1) / width * width;
    if (padded > rows)
        memset(out + (padded - width) * length, 0, (size_t)(width * length) * sizeof *out);
    if (x->transposed) {
        for (int64_t q = 0; q < length; q++) {
            const float *from = stored(x, p + q, row, rows, space);
            for (int64_t i = 0; i < rows; i += width) {
                int64_t count = rows - i < width ? rows - i : width;
                memcpy(out + i * length + q * width, from + i, (size_t)count * sizeof *out);
            }
        }
        return;
    }
    // A few columns of all rows at a time, so that what is written stays in the first-level cache.
    for (int64_t q = 0; q < length; q += PACK_COLUMNS) {
        int64_t columns = length - q < PACK_COLUMNS ? length - q : PACK_COLUMNS;
        for (int64_t i = 0; i < rows; i++) {
            const float *from = stored(x, row + i, p + q, columns, space);
            float *to = out + i / width * width * length + q * width + i % width;
            for (int64_t j = 0; j < columns; j++)
                to[j * width] = from[j];
        }
    }
}

// The tiles of one packed block; the last row and column of tiles may be cut.
static void tiles(const struct fm_model_kernels *kernels, int64_t rows, int64_t columns, int64_t length,
                  const float *a, const float *b, float *c, int64_t c_stride, int accumulate)
{
    int tr = kernels->tile_rows, tc = kernels->tile_columns;
    for (int64_t j = 0; j < columns; j += tc)
        for (int64_t i = 0; i < rows; i += tr) {
            const float *a_panel = a + i * length, *b_panel = b + j * length;
            int64_t height = rows - i < tr ? rows - i : tr, width = columns - j < tc ? columns - j : tc;
            float *corner = c + i * c_stride + j;
            if (height == tr && width == tc) {
                kernels->tile(length, a_panel, b_panel, corner, c_stride, accumulate);
                continue;
            }
            float whole[TILE_MAX * TILE_MAX] = {0};
            for (int64_t r = 0; accumulate && r < height; r++)
                memcpy(whole + r * tc, corner + r * c_stride, (size_t)width * sizeof *whole);
            kernels->tile(length, a_panel, b_panel, whole, tc, 1);
            for (int64_t r = 0; r < height; r++)
                memcpy(corner + r * c_stride, whole + r * tc, (size_t)width * sizeof *whole);
        }
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

// Rows [i0, i1) and columns [j0, j1) of the product.
static void region(const struct fm_model_kernels *kernels, float *space, int64_t i0, int64_t i1, int64_t j0,
                   int64_t j1, int64_t k, const struct fm_model_matrix *a, const struct fm_model_matrix *b,
                   float *c, int64_t c_stride, int accumulate)
{
    float *a_pack = space, *b_pack = space + (MC + TILE_MAX) * KC;
    for (int64_t i = i0; k == 0 && !accumulate && i < i1; i++)
        memset(c + i * c_stride + j0, 0, (size_t)(j1 - j0) * sizeof *c);
    for (int64_t i = i0; i < i1; i += MC)
        for (int64_t p = 0; p < k; p += KC) {
            int64_t rows = smaller(MC, i1 - i), length = smaller(KC, k - p);
            pack(a, i, rows, p, length, kernels->tile_rows, a_pack);
            for (int64_t j = j0; j < j1; j += NC) {
                int64_t columns = smaller(NC, j1 - j);
                pack(b, j, columns, p, length, kernels->tile_columns, b_pack);
                tiles(kernels, rows, columns, length, a_pack, b_pack, c + i * c_stride + j, c_stride,
                      accumulate || p > 0);
            }
        }
}

struct product {
    const struct fm_model_compute *compute;
    int64_t m, n, k;
    const struct fm_model_matrix *a, *b;
    float *c;
    int64_t c_stride;
    int accumulate, by_columns;
};

static void product_part(void *context, int64_t begin, int64_t end, int thread)
{
    const struct product *x = context;
    region(x->compute->kernels, x->compute->packs[thread], x->by_columns ? 0 : begin,
           x->by_columns ? x->m : end, x->by_columns ? begin : 0, x->by_columns ? end : x->n, x->k, x->a,
           x->b, x->c, x->c_stride, x->accumulate);
}

void fm_model_matmul(const struct fm_model_compute *compute, int64_t m, int64_t n, int64_t k,
                     const struct fm_model_matrix *a, const struct fm_model_matrix *b, float *c,
                     int64_t c_stride, int accumulate)
{
    struct product product = {compute, m, n, k, a, b, c, c_stride, accumulate, n > m};
    int64_t extent = product.by_columns ? n : m;
    int unit = product.by_columns ? compute->kernels->tile_columns : compute->kernels->tile_rows;
    int64_t grain = (extent + compute->threads - 1) / compute->threads;
    grain = (grain + unit - 1) / unit * unit;
    if (m * n * k < SHARE_PRODUCTS || m == 0 || n == 0)
        grain = extent > 0 ? extent : 1;
    if (m > 0 && n > 0)
        fm_model_share(compute, extent, grain, product_part, &product);
}

void fm_model_matmul_alone(const struct fm_model_compute *compute, int thread, int64_t m, int64_t n,
                           int64_t k, const struct fm_model_matrix *a, const struct fm_model_matrix *b,
                           float *c, int64_t c_stride, int accumulate)
{
    region(compute->kernels, compute->packs[thread], 0, m, 0, n, k, a, b, c, c_stride, accumulate);
}

fm_status fm_model_compute_open(int threads, fm_dtype dtype, struct fm_model_compute *out_compute)
{
    struct fm_model_compute compute = {.kernels = fm_model_kernels_get(), .threads = threads};
    compute.packs = fm_base_mem_zalloc((size_t)threads, sizeof *compute.packs);
    fm_status status = compute.packs ? FM_OK : FM_ERR_NOMEM;
    for (int i = 0; status == FM_OK && i < threads; i++) {
        compute.packs[i] = fm_base_mem_aligned(PACK_FLOATS * sizeof(float), FM_CACHE_LINE);
        status = compute.packs[i] ? FM_OK : FM_ERR_NOMEM;
    }
    if (status < 0)
        fm_base_error_set(status, "no memory for %d threads' workspaces", threads);
    else if (dtype != FM_DTYPE_F32)
        status = fm_model_low_open(dtype, threads, &compute.low);
    if (status < 0)
        fm_model_compute_close(&compute);
    else
        *out_compute = compute;
    return status;
}

void fm_model_compute_close(struct fm_model_compute *compute)
{
    for (int i = 0; compute->packs && i < compute->threads; i++)
        fm_base_mem_free(compute->packs[i]);
    fm_base_mem_free(compute->packs);
    fm_model_low_close(compute->low);
    *compute = (struct fm_model_compute){0};
}
