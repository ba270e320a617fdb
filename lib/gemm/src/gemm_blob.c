#include "gemm_blob.h"

#include "gemm_private.h"

#include "fathom/crc.h"

#include <string.h>

struct layout {
    size_t scale_rows, scale_columns; // of the table of scales
    size_t scale_bytes;               // of one
    size_t panel_bytes, panels_at, bytes;
};

int64_t fm_gemm_panel_bytes(fm_dtype dtype, int64_t pairs)
{
    return pairs * 2 * FM_GEMM_PANEL * fm_base_dtype_bits(dtype) / 8;
}

static fm_status lay_out(int64_t n, int64_t k, const fm_gemm_operand *b, struct layout *out_layout)
{
    struct layout layout = {0};
    if (b->dtype != FM_DTYPE_BF16) {
        layout.scale_rows = (size_t)fm_gemm_ceil_div(n, b->scale_rows);
        layout.scale_columns = (size_t)fm_gemm_ceil_div(k, fm_gemm_scale_k(b));
        layout.scale_bytes = b->scale_dtype == FM_DTYPE_F8_UE8M0 ? 1 : sizeof(float);
    }
    // Extents are at most 2^30 and an element at most 4 bytes, so that nothing overflows 64 bits before the check.
    size_t scales = layout.scale_rows * layout.scale_columns * layout.scale_bytes;
    layout.panels_at = FM_GEMM_BLOB_HEADER + fm_round_up(scales, FM_GEMM_BLOB_ALIGN);
    int64_t pairs = fm_gemm_ceil_div(k, FM_GEMM_STEP) * (FM_GEMM_STEP / 2);
    layout.panel_bytes = (size_t)fm_gemm_panel_bytes(b->dtype, pairs);
    layout.bytes = layout.panels_at + (size_t)fm_gemm_ceil_div(n, FM_GEMM_PANEL) * layout.panel_bytes;
    if (layout.bytes > PTRDIFF_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "packed weights of n %lld and k %lld are larger than memory",
                                 (long long)n, (long long)k);
    *out_layout = layout;
    return FM_OK;
}

fm_status fm_gemm_weights_plain(int64_t n, int64_t k, const fm_gemm_operand *b, fm_gemm_weights *out_weights)
{
    FM_TRY(fm_gemm_args_extent("n", n));
    FM_TRY(fm_gemm_args_extent("k", k));
    FM_TRY(fm_gemm_args_operand("b", n, k, b));
    if (!out_weights)
        return fm_base_error_set(FM_ERR_ARG, "out_weights is null; expected where to put the view");
    *out_weights = (fm_gemm_weights){.operand = *b, .n = n, .k = k, .folds = fm_gemm_source_folds(b, n, k)};
    return FM_OK;
}

static fm_status plan(int64_t n, int64_t k, const fm_gemm_operand *b, struct layout *out_layout)
{
    FM_TRY(fm_gemm_args_extent("n", n));
    FM_TRY(fm_gemm_args_extent("k", k));
    FM_TRY(fm_gemm_args_operand("b", n, k, b));
    return lay_out(n, k, b, out_layout);
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
    static const uint8_t magic[8] = FM_GEMM_BLOB_MAGIC;
    uint32_t dtype = FM_GEMM_BLOB_BF16;
    if (b->dtype != FM_DTYPE_BF16)
        dtype = b->dtype == FM_DTYPE_F8_E4M3 ? FM_GEMM_BLOB_E4M3 : FM_GEMM_BLOB_E2M1;
    memcpy(blob, magic, sizeof magic);
    fm_put_le32(blob + FM_GEMM_BLOB_AT_VERSION, FM_GEMM_BLOB_VERSION);
    fm_put_le32(blob + FM_GEMM_BLOB_AT_DTYPE, dtype);
    fm_put_le64(blob + FM_GEMM_BLOB_AT_N, (uint64_t)n);
    fm_put_le64(blob + FM_GEMM_BLOB_AT_K, (uint64_t)k);
    fm_put_le64(blob + FM_GEMM_BLOB_AT_BYTES, bytes);
    if (dtype != FM_GEMM_BLOB_BF16) {
        fm_put_le32(blob + FM_GEMM_BLOB_AT_SCALE_ROWS, (uint32_t)b->scale_rows);
        fm_put_le32(blob + FM_GEMM_BLOB_AT_SCALE_K, (uint32_t)fm_gemm_scale_k(b));
        fm_put_le16(blob + FM_GEMM_BLOB_AT_SCALE_DTYPE,
                    b->scale_dtype == FM_DTYPE_F8_UE8M0 ? FM_GEMM_BLOB_UE8M0 : FM_GEMM_BLOB_F32);
        fm_put_le16(blob + FM_GEMM_BLOB_AT_FOLDS, (uint16_t)fm_gemm_source_folds(b, n, k));
    }
    fm_put_le32(blob + FM_GEMM_BLOB_AT_CRC, fm_base_crc32c(0, blob, FM_GEMM_BLOB_AT_CRC));
}

static void put_scales(uint8_t *to, const struct layout *layout, const fm_gemm_operand *b)
{
    for (size_t row = 0; row < layout->scale_rows; row++)
        for (size_t block = 0; block < layout->scale_columns; block++) {
            int64_t from = (int64_t)row * b->scale_stride + (int64_t)block;
            size_t at = row * layout->scale_columns + block;
            uint32_t bits;
            if (layout->scale_bytes == 1) {
                to[at] = ((const uint8_t *)b->scales)[from];
                continue;
            }
            memcpy(&bits, (const float *)b->scales + from, sizeof bits);
            fm_put_le32(to + 4 * at, bits);
        }
}

static uint8_t half_at(const uint8_t *halves, int64_t at)
{
    return halves[at / 2] >> (at % 2 ? 4 : 0) & 15;
}

// The codes of one panel, columns from `first` on, into zeroed bytes.
static void put_panel(uint8_t *panel, int64_t first, int64_t n, int64_t k, const fm_gemm_operand *b)
{
    int64_t columns = fm_gemm_min(n - first, FM_GEMM_PANEL);
    int64_t row_step = b->transposed ? 1 : b->stride, k_step = b->transposed ? b->stride : 1;
    for (int64_t i = 0; i < k; i++)
        for (int64_t column = 0; column < columns; column++) {
            int64_t from = (first + column) * row_step + i * k_step;
            if (b->dtype == FM_DTYPE_BF16)
                fm_put_le16(panel + 2 * fm_gemm_blob_at_bf16(i, column), ((const uint16_t *)b->data)[from]);
            else if (b->dtype == FM_DTYPE_F8_E4M3)
                panel[fm_gemm_blob_at_e4m3(i, column)] = ((const uint8_t *)b->data)[from];
            else
                panel[fm_gemm_blob_at_e2m1(i, column)] |=
                    (uint8_t)(half_at(b->data, from) << (i % 2 ? 4 : 0));
        }
}

struct packing {
    int64_t n, k;
    const fm_gemm_operand *b;
    uint8_t *panels;
    size_t panel_bytes;
};

static void pack_panel(void *argument, int64_t task, struct fm_gemm_space *space)
{
    const struct packing *packing = argument;
    (void)space;
    uint8_t *panel = packing->panels + (size_t)task * packing->panel_bytes;
    memset(panel, 0, packing->panel_bytes);
    put_panel(panel, task * FM_GEMM_PANEL, packing->n, packing->k, packing->b);
}

fm_status fm_gemm_weights_pack(fm_gemm_context *context, int64_t n, int64_t k, const fm_gemm_operand *b,
                               void *blob, size_t bytes)
{
    struct layout layout;
    if (!context)
        return fm_base_error_set(FM_ERR_ARG, "context is null; expected an open one");
    FM_TRY(plan(n, k, b, &layout));
    if (!blob || (uintptr_t)blob % FM_GEMM_BLOB_ALIGN)
        return fm_base_error_set(FM_ERR_ARG, "blob is at %p; expected an address that is a multiple of %d",
                                 blob, FM_GEMM_BLOB_ALIGN);
    if (bytes != layout.bytes)
        return fm_base_error_set(FM_ERR_ARG,
                                 "the blob has %zu bytes; expected %zu, as fm_gemm_weights_pack_size() says",
                                 bytes, layout.bytes);
    uint8_t *to = blob;
    memset(to, 0, layout.panels_at);
    put_header(to, n, k, b, bytes);
    put_scales(to + FM_GEMM_BLOB_HEADER, &layout, b);
    struct packing packing = {n, k, b, to + layout.panels_at, layout.panel_bytes};
    fm_gemm_deal(context, layout.panel_bytes ? fm_gemm_ceil_div(n, FM_GEMM_PANEL) : 0, pack_panel, &packing);
    return FM_OK;
}

// The formats that a header names, with FM_DTYPE_NONE where it names none that there is.
static fm_gemm_operand read_formats(const uint8_t *blob)
{
    static const fm_dtype dtypes[] = {FM_DTYPE_NONE, FM_DTYPE_BF16, FM_DTYPE_F8_E4M3, FM_DTYPE_F4_E2M1};
    uint32_t dtype = fm_get_le32(blob + FM_GEMM_BLOB_AT_DTYPE);
    uint32_t scale_rows = fm_get_le32(blob + FM_GEMM_BLOB_AT_SCALE_ROWS);
    uint32_t scale_k = fm_get_le32(blob + FM_GEMM_BLOB_AT_SCALE_K);
    uint32_t scale_dtype = fm_get_le16(blob + FM_GEMM_BLOB_AT_SCALE_DTYPE);
    int fine = scale_k == FM_GEMM_SCALE_BLOCK_MX;
    int good = scale_rows == 1 || (scale_rows == FM_GEMM_SCALE_BLOCK && !fine);
    good = good && (fine || scale_k == FM_GEMM_SCALE_BLOCK);
    good = good && (scale_dtype == FM_GEMM_BLOB_UE8M0 || (scale_dtype == FM_GEMM_BLOB_F32 && !fine));
    if (dtype == FM_GEMM_BLOB_BF16)
        good = !scale_rows && !scale_k && !scale_dtype;
    fm_gemm_operand operand = {.scale_rows = (int)scale_rows, .scale_k = (int)scale_k};
    operand.dtype = good && dtype <= FM_GEMM_BLOB_E2M1 ? dtypes[dtype] : FM_DTYPE_NONE;
    operand.scale_dtype = scale_dtype == FM_GEMM_BLOB_UE8M0 ? FM_DTYPE_F8_UE8M0 : FM_DTYPE_F32;
    return operand;
}

// What a header with a right CRC may still say wrongly: it comes from a file.
static fm_status read_header(const uint8_t *blob, size_t bytes, fm_gemm_weights *weights,
                             struct layout *layout)
{
    uint64_t n = fm_get_le64(blob + FM_GEMM_BLOB_AT_N), k = fm_get_le64(blob + FM_GEMM_BLOB_AT_K);
    uint64_t size = fm_get_le64(blob + FM_GEMM_BLOB_AT_BYTES);
    fm_gemm_operand operand = read_formats(blob);
    if (operand.dtype == FM_DTYPE_NONE)
        return fm_base_error_set(
            FM_ERR_FORMAT,
            "packed weights have dtype %u, and scales of dtype %u for %u rows and %u of k; "
            "expected a format that gemm_blob.h lists",
            fm_get_le32(blob + FM_GEMM_BLOB_AT_DTYPE), fm_get_le16(blob + FM_GEMM_BLOB_AT_SCALE_DTYPE),
            fm_get_le32(blob + FM_GEMM_BLOB_AT_SCALE_ROWS), fm_get_le32(blob + FM_GEMM_BLOB_AT_SCALE_K));
    if (n > (uint64_t)FM_GEMM_EXTENT_MAX || k > (uint64_t)FM_GEMM_EXTENT_MAX)
        return fm_base_error_set(FM_ERR_FORMAT,
                                 "packed weights have n %llu and k %llu; expected at most %lld",
                                 (unsigned long long)n, (unsigned long long)k, (long long)FM_GEMM_EXTENT_MAX);
    FM_TRY(lay_out((int64_t)n, (int64_t)k, &operand, layout));
    if (size != layout->bytes || bytes != layout->bytes)
        return fm_base_error_set(FM_ERR_FORMAT,
                                 "packed weights have %zu bytes, and %llu by their header; expected %zu",
                                 bytes, (unsigned long long)size, layout->bytes);
    *weights = (fm_gemm_weights){.operand = operand,
                                 .n = (int64_t)n,
                                 .k = (int64_t)k,
                                 .folds = fm_get_le16(blob + FM_GEMM_BLOB_AT_FOLDS) != 0};
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
    weights.operand.scales = from + FM_GEMM_BLOB_HEADER;
    weights.operand.scale_stride = (int64_t)layout.scale_columns;
    weights.panels = from + layout.panels_at;
    *out_weights = weights;
    return FM_OK;
}
