#include "gemm_blob.h"

#include "gemm_private.h"

#include "fathom/crc.h"
#include "fathom/mem.h"

#include <string.h>

struct layout {
    size_t scale_rows, scale_columns; // of the table of scales
    size_t panels_at, bytes;
};

static fm_status lay_out(int64_t n, int64_t k, int element_bytes, int scale_rows, struct layout *out_layout)
{
    struct layout layout = {0};
    if (scale_rows) {
        layout.scale_rows = (size_t)fm_gemm_ceil_div(n, scale_rows);
        layout.scale_columns = (size_t)fm_gemm_ceil_div(k, FM_GEMM_SCALE_BLOCK);
    }
    // Extents are at most 2^30 and an element at most 4 bytes, so that nothing overflows 64 bits before the check.
    size_t scales = layout.scale_rows * layout.scale_columns * sizeof(float);
    layout.panels_at = FM_GEMM_BLOB_HEADER + fm_round_up(scales, FM_GEMM_BLOB_ALIGN);
    size_t codes = fm_round_up((size_t)n, FM_GEMM_PANEL) * fm_round_up((size_t)k, FM_GEMM_STEP);
    layout.bytes = layout.panels_at + codes * (size_t)element_bytes;
    if (layout.bytes > PTRDIFF_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "packed weights of n %lld and k %lld are larger than memory",
                                 (long long)n, (long long)k);
    *out_layout = layout;
    return FM_OK;
}

static int element_bytes_of(fm_dtype dtype)
{
    return dtype == FM_DTYPE_BF16 ? 2 : 1;
}

fm_status fm_gemm_weights_plain(int64_t n, int64_t k, const fm_gemm_operand *b, fm_gemm_weights *out_weights)
{
    FM_TRY(fm_gemm_args_extent("n", n));
    FM_TRY(fm_gemm_args_extent("k", k));
    FM_TRY(fm_gemm_args_operand("b", n, k, b));
    if (!out_weights)
        return fm_base_error_set(FM_ERR_ARG, "out_weights is null; expected where to put the view");
    *out_weights = (fm_gemm_weights){.operand = *b, .n = n, .k = k};
    return FM_OK;
}

static fm_status plan(int64_t n, int64_t k, const fm_gemm_operand *b, struct layout *out_layout)
{
    FM_TRY(fm_gemm_args_extent("n", n));
    FM_TRY(fm_gemm_args_extent("k", k));
    FM_TRY(fm_gemm_args_operand("b", n, k, b));
    return lay_out(n, k, element_bytes_of(b->dtype), b->dtype == FM_DTYPE_BF16 ? 0 : b->scale_rows,
                   out_layout);
}

fm_status fm_gemm_weights_pack_size(int64_t n, int64_t k, const fm_gemm_operand *b, size_t *out_bytes)
{
    struct layout layout;
    if (!out_bytes)
        return fm_base_error_set(FM_ERR_ARG, "out_bytes is null; expected where to put the size");
    FM_TRY(plan(n, k, b, &layout));
    *out_bytes = layout.bytes;
    return FM_OK;
}

static void put_header(uint8_t *blob, int64_t n, int64_t k, const fm_gemm_operand *b, size_t bytes)
{
    int wide = b->dtype == FM_DTYPE_BF16;
    static const uint8_t magic[8] = FM_GEMM_BLOB_MAGIC;
    memcpy(blob, magic, sizeof magic);
    fm_put_le32(blob + FM_GEMM_BLOB_AT_VERSION, FM_GEMM_BLOB_VERSION);
    fm_put_le32(blob + FM_GEMM_BLOB_AT_DTYPE, wide ? FM_GEMM_BLOB_BF16 : FM_GEMM_BLOB_E4M3);
    fm_put_le64(blob + FM_GEMM_BLOB_AT_N, (uint64_t)n);
    fm_put_le64(blob + FM_GEMM_BLOB_AT_K, (uint64_t)k);
    fm_put_le32(blob + FM_GEMM_BLOB_AT_SCALE_ROWS, wide ? 0 : (uint32_t)b->scale_rows);
    fm_put_le64(blob + FM_GEMM_BLOB_AT_BYTES, bytes);
    fm_put_le32(blob + FM_GEMM_BLOB_AT_CRC, fm_base_crc32c(0, blob, FM_GEMM_BLOB_AT_CRC));
}

// The codes of one panel, columns from `first` on.
static void put_panel(uint8_t *panel, int64_t first, int64_t n, int64_t k, const fm_gemm_operand *b)
{
    int64_t columns = fm_gemm_min(n - first, FM_GEMM_PANEL);
    int64_t row_step = b->transposed ? 1 : b->stride, k_step = b->transposed ? b->stride : 1;
    for (int64_t i = 0; i < k; i++) {
        for (int64_t column = 0; column < columns; column++) {
            int64_t from = (first + column) * row_step + i * k_step;
            int64_t to = i / 2 * 2 * FM_GEMM_PANEL + 2 * column + i % 2;
            if (b->dtype == FM_DTYPE_BF16)
                fm_put_le16(panel + 2 * to, ((const uint16_t *)b->data)[from]);
            else
                panel[to] = ((const uint8_t *)b->data)[from];
        }
    }
}

fm_status fm_gemm_weights_pack(int64_t n, int64_t k, const fm_gemm_operand *b, void *blob, size_t bytes)
{
    struct layout layout;
    FM_TRY(plan(n, k, b, &layout));
    if (!blob || (uintptr_t)blob % FM_GEMM_BLOB_ALIGN)
        return fm_base_error_set(FM_ERR_ARG, "blob is at %p; expected an address that is a multiple of %d",
                                 blob, FM_GEMM_BLOB_ALIGN);
    if (bytes != layout.bytes)
        return fm_base_error_set(FM_ERR_ARG,
                                 "the blob has %zu bytes; expected %zu, as fm_gemm_weights_pack_size() says",
                                 bytes, layout.bytes);
    uint8_t *to = blob;
    memset(to, 0, bytes);
    put_header(to, n, k, b, bytes);
    for (size_t row = 0; row < layout.scale_rows; row++)
        for (size_t block = 0; block < layout.scale_columns; block++) {
            uint32_t bits;
            memcpy(&bits, &b->scales[(int64_t)row * b->scale_stride + (int64_t)block], sizeof bits);
            fm_put_le32(to + FM_GEMM_BLOB_HEADER + 4 * (row * layout.scale_columns + block), bits);
        }
    size_t panel_bytes =
        FM_GEMM_PANEL * fm_round_up((size_t)k, FM_GEMM_STEP) * (size_t)element_bytes_of(b->dtype);
    for (int64_t first = 0; first < n; first += FM_GEMM_PANEL)
        put_panel(to + layout.panels_at + (size_t)(first / FM_GEMM_PANEL) * panel_bytes, first, n, k, b);
    return FM_OK;
}

// What a header with a right CRC may still say wrongly: it comes from a file.
static fm_status read_header(const uint8_t *blob, size_t bytes, fm_gemm_weights *weights,
                             struct layout *layout)
{
    uint64_t n = fm_get_le64(blob + FM_GEMM_BLOB_AT_N), k = fm_get_le64(blob + FM_GEMM_BLOB_AT_K);
    uint32_t dtype = fm_get_le32(blob + FM_GEMM_BLOB_AT_DTYPE);
    uint32_t scale_rows = fm_get_le32(blob + FM_GEMM_BLOB_AT_SCALE_ROWS);
    uint64_t size = fm_get_le64(blob + FM_GEMM_BLOB_AT_BYTES);
    int wide = dtype == FM_GEMM_BLOB_BF16;
    if (!wide && dtype != FM_GEMM_BLOB_E4M3)
        return fm_base_error_set(FM_ERR_FORMAT, "packed weights have dtype %u; expected %d or %d", dtype,
                                 FM_GEMM_BLOB_BF16, FM_GEMM_BLOB_E4M3);
    if (wide ? scale_rows != 0 : scale_rows != 1 && scale_rows != FM_GEMM_SCALE_BLOCK)
        return fm_base_error_set(FM_ERR_FORMAT, "packed weights have scale_rows %u; expected %s", scale_rows,
                                 wide ? "0" : "1 or 128");
    if (n > (uint64_t)FM_GEMM_EXTENT_MAX || k > (uint64_t)FM_GEMM_EXTENT_MAX)
        return fm_base_error_set(FM_ERR_FORMAT,
                                 "packed weights have n %llu and k %llu; expected at most %lld",
                                 (unsigned long long)n, (unsigned long long)k, (long long)FM_GEMM_EXTENT_MAX);
    FM_TRY(lay_out((int64_t)n, (int64_t)k, wide ? 2 : 1, (int)scale_rows, layout));
    if (size != layout->bytes || bytes != layout->bytes)
        return fm_base_error_set(FM_ERR_FORMAT,
                                 "packed weights have %zu bytes, and %llu by their header; expected %zu",
                                 bytes, (unsigned long long)size, layout->bytes);
    *weights = (fm_gemm_weights){.n = (int64_t)n, .k = (int64_t)k};
    weights->operand.dtype = wide ? FM_DTYPE_BF16 : FM_DTYPE_F8_E4M3;
    weights->operand.scale_rows = (int)scale_rows;
    return FM_OK;
}

fm_status fm_gemm_weights_open(const void *blob, size_t bytes, fm_gemm_weights *out_weights)
{
    if (!out_weights)
        return fm_base_error_set(FM_ERR_ARG, "out_weights is null; expected where to put the view");
    if (!blob || (uintptr_t)blob % FM_GEMM_BLOB_ALIGN)
        return fm_base_error_set(FM_ERR_ARG, "blob is at %p; expected an address that is a multiple of %d",
                                 blob, FM_GEMM_BLOB_ALIGN);
    const uint8_t *from = blob;
    if (bytes < FM_GEMM_BLOB_HEADER || memcmp(from, FM_GEMM_BLOB_MAGIC, 8) != 0)
        return fm_base_error_set(FM_ERR_FORMAT,
                                 "%zu bytes that are not packed weights; expected the magic FMGEMMW", bytes);
    uint32_t version = fm_get_le32(from + FM_GEMM_BLOB_AT_VERSION);
    if (version != FM_GEMM_BLOB_VERSION)
        return fm_base_error_set(FM_ERR_VERSION,
                                 "packed weights have version %u; expected %d: pack them again", version,
                                 FM_GEMM_BLOB_VERSION);
    if (fm_get_le32(from + FM_GEMM_BLOB_AT_CRC) != fm_base_crc32c(0, from, FM_GEMM_BLOB_AT_CRC))
        return fm_base_error_set(FM_ERR_FORMAT,
                                 "packed weights have a damaged header: its CRC32C does not match");
    fm_gemm_weights weights;
    struct layout layout;
    FM_TRY(read_header(from, bytes, &weights, &layout));
    weights.operand.scales = (const float *)(const void *)(from + FM_GEMM_BLOB_HEADER);
    weights.operand.scale_stride = (int64_t)layout.scale_columns;
    weights.panels = from + layout.panels_at;
    *out_weights = weights;
    return FM_OK;
}
