#include "gemm_blob.h"
#include "gemm_cases.h"

#include "fm_test.h"

#include "fathom/crc.h"

static struct gemm_matrix any_matrix(fm_gen *gen)
{
    static const struct gemm_format formats[] = {
        {.dtype = FM_DTYPE_BF16},
        {.dtype = FM_DTYPE_F8_E4M3, .scale_rows = 1, .powers = GEMM_POWERS},
        {.dtype = FM_DTYPE_F8_E4M3, .scale_rows = 128},
        {.dtype = FM_DTYPE_F8_E4M3, .scale_rows = 128, .scale_dtype = FM_DTYPE_F8_UE8M0},
        {.dtype = FM_DTYPE_F4_E2M1, .scale_rows = 1, .scale_k = 32, .scale_dtype = FM_DTYPE_F8_UE8M0}};
    struct gemm_format format = formats[fm_gen_int(gen, 0, 4)];
    format.transposed = fm_gen_chance(gen, 0.5);
    return gemm_matrix_make(gen, fm_gen_size(gen, 0, 70), fm_gen_size(gen, 0, 300), &format, GEMM_NORMAL);
}

// By the table of gemm_blob.h, not by the library's reader.
static void check_scales(const uint8_t *blob, const struct gemm_matrix *b, int64_t down, int64_t across)
{
    const fm_gemm_operand *operand = &b->operand;
    size_t size = operand->scale_dtype == FM_DTYPE_F8_UE8M0 ? 1 : 4;
    for (int64_t row = 0; row < down; row++)
        assert_memory_equal(blob + 64 + (size_t)(row * across) * size,
                            (const uint8_t *)b->scales + (size_t)(row * operand->scale_stride) * size,
                            (size_t)across * size);
}

static unsigned code_of(const struct gemm_matrix *b, int64_t row, int64_t i)
{
    const fm_gemm_operand *operand = &b->operand;
    int64_t from = operand->transposed ? i * operand->stride + row : row * operand->stride + i;
    if (row >= b->rows || i >= b->k)
        return 0;
    if (operand->dtype == FM_DTYPE_BF16)
        return ((const uint16_t *)b->data)[from];
    const uint8_t *bytes = b->data;
    return operand->dtype == FM_DTYPE_F8_E4M3 ? bytes[from] : bytes[from / 2] >> (from % 2 ? 4 : 0) & 15;
}

static unsigned packed_code(fm_dtype dtype, const uint8_t *panel, int64_t i, int64_t column)
{
    if (dtype == FM_DTYPE_BF16)
        return fm_get_le16(panel + i / 2 * 64 + column * 4 + i % 2 * 2);
    if (dtype == FM_DTYPE_F8_E4M3)
        return panel[i / 4 * 64 + column / 4 * 16 + i % 4 / 2 * 8 + column % 4 * 2 + i % 2];
    return panel[i / 2 * 16 + column] >> (i % 2 ? 4 : 0) & 15;
}

static void every_code_is_where_the_layout_says(fm_gen *gen)
{
    struct gemm_matrix b = any_matrix(gen);
    const fm_gemm_operand *operand = &b.operand;
    fm_gemm_weights weights;
    uint8_t *blob = gemm_pack(&b, &weights);
    int bits = fm_base_dtype_bits(operand->dtype);
    int64_t k_padded = (b.k + 31) / 32 * 32, down = 0, across = 0;
    if (bits < 16) {
        int64_t scale_k = operand->scale_k ? operand->scale_k : 128;
        down = (b.rows + operand->scale_rows - 1) / operand->scale_rows;
        across = (b.k + scale_k - 1) / scale_k;
    }
    check_scales(blob, &b, down, across);
    int64_t scale_bytes = down * across * (operand->scale_dtype == FM_DTYPE_F8_UE8M0 ? 1 : 4);
    const uint8_t *panels = blob + 64 + (scale_bytes + 63) / 64 * 64;
    for (int64_t row = 0; row < (b.rows + 15) / 16 * 16; row++)
        for (int64_t i = 0; i < k_padded; i++) {
            const uint8_t *panel = panels + row / 16 * 16 * k_padded * bits / 8;
            assert_int_equal(packed_code(operand->dtype, panel, i, row % 16), code_of(&b, row, i));
        }
    fm_base_mem_free(blob);
    gemm_matrix_free(&b);
}

static void the_layout_is_as_documented(void **state)
{
    (void)state;
    fm_gen_property(50, every_code_is_where_the_layout_says);
}

static void bad_arguments_are_refused(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(3);
    struct gemm_matrix b = gemm_matrix_make(
        &gen, 20, 40, &(struct gemm_format){.dtype = FM_DTYPE_F8_E4M3, .scale_rows = 128}, GEMM_NORMAL);
    fm_gemm_context *context = gemm_open(FM_ISA_REF, 1);
    _Alignas(64) uint8_t blob[4096];
    fm_gemm_weights weights;
    size_t bytes = 0;
    assert_fails(fm_gemm_weights_pack_size(20, 40, &b.operand, NULL), FM_ERR_ARG, "out_bytes");
    assert_fails(fm_gemm_weights_pack_size(-1, 40, &b.operand, &bytes), FM_ERR_ARG, "n is -1");
    assert_fails(fm_gemm_weights_pack_size(20, FM_GEMM_EXTENT_MAX + 1, &b.operand, &bytes), FM_ERR_LIMIT,
                 "k is");
    assert_fails(fm_gemm_weights_pack_size(20, 40, NULL, &bytes), FM_ERR_ARG, "b is null");
    assert_ok(fm_gemm_weights_pack_size(20, 40, &b.operand, &bytes));
    assert_true(bytes <= sizeof blob - 64);
    assert_fails(fm_gemm_weights_pack(context, 20, 40, &b.operand, blob + 4, bytes), FM_ERR_ARG,
                 "multiple of 64");
    assert_fails(fm_gemm_weights_pack(context, 20, 40, &b.operand, NULL, bytes), FM_ERR_ARG,
                 "multiple of 64");
    assert_fails(fm_gemm_weights_pack(context, 20, 40, &b.operand, blob, bytes - 1), FM_ERR_ARG, "expected");
    assert_fails(fm_gemm_weights_pack(NULL, 20, 40, &b.operand, blob, bytes), FM_ERR_ARG, "context");
    assert_ok(fm_gemm_weights_pack(context, 20, 40, &b.operand, blob, bytes));
    fm_gemm_context_close(context);
    assert_fails(fm_gemm_weights_open(blob, bytes, NULL), FM_ERR_ARG, "out_weights");
    assert_fails(fm_gemm_weights_open(NULL, bytes, &weights), FM_ERR_ARG, "multiple of 64");
    assert_fails(fm_gemm_weights_open(blob + 4, bytes, &weights), FM_ERR_ARG, "multiple of 64");
    assert_fails(fm_gemm_weights_plain(20, 40, &b.operand, NULL), FM_ERR_ARG, "out_weights");
    gemm_matrix_free(&b);
}

static void seal(uint8_t *blob)
{
    fm_put_le32(blob + FM_GEMM_BLOB_AT_CRC, fm_base_crc32c(0, blob, FM_GEMM_BLOB_AT_CRC));
}

static void damaged_blobs_are_refused(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(5);
    struct gemm_matrix b = gemm_matrix_make(
        &gen, 20, 40, &(struct gemm_format){.dtype = FM_DTYPE_F8_E4M3, .scale_rows = 128}, GEMM_NORMAL);
    fm_gemm_context *context = gemm_open(FM_ISA_REF, 1);
    _Alignas(64) uint8_t blob[4096] = {0}, good[4096] = {0};
    fm_gemm_weights weights;
    size_t bytes;
    assert_ok(fm_gemm_weights_pack_size(20, 40, &b.operand, &bytes));
    assert_ok(fm_gemm_weights_pack(context, 20, 40, &b.operand, good, bytes));
    fm_gemm_context_close(context);
    for (size_t cut = 0; cut < bytes; cut++)
        assert_fails(fm_gemm_weights_open(good, cut, &weights), FM_ERR_FORMAT, "packed weights");
    for (int at = 0; at < FM_GEMM_BLOB_AT_CRC + 4;
         at++) { // any bit of what the checksum covers, and of itself
        memcpy(blob, good, bytes);
        blob[at] ^= 0x10;
        assert_true(fm_gemm_weights_open(blob, bytes, &weights) < 0);
    }
    // Wrong under a right checksum.
    static const struct {
        int at;
        uint32_t value;
        fm_status status;
        const char *text;
    } lies[] = {
        {FM_GEMM_BLOB_AT_VERSION, 1, FM_ERR_VERSION, "version 1"},
        {FM_GEMM_BLOB_AT_DTYPE, 7, FM_ERR_FORMAT, "dtype 7"},
        {FM_GEMM_BLOB_AT_SCALE_ROWS, 64, FM_ERR_FORMAT, "for 64 rows"},
        {FM_GEMM_BLOB_AT_SCALE_ROWS, 0, FM_ERR_FORMAT, "for 0 rows"},
        {FM_GEMM_BLOB_AT_SCALE_K, 32, FM_ERR_FORMAT, "32 of k"},
        {FM_GEMM_BLOB_AT_SCALE_DTYPE, 3, FM_ERR_FORMAT, "scales of dtype 3"},
        {FM_GEMM_BLOB_AT_N, 4000, FM_ERR_FORMAT, "bytes"},
        {FM_GEMM_BLOB_AT_N + 4, 1, FM_ERR_FORMAT, "at most"},
        {FM_GEMM_BLOB_AT_K + 4, 0x80000000, FM_ERR_FORMAT, "at most"},
        {FM_GEMM_BLOB_AT_BYTES, 64, FM_ERR_FORMAT, "bytes"},
    };
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        memcpy(blob, good, bytes);
        fm_put_le32(blob + lies[i].at, lies[i].value);
        seal(blob);
        assert_fails(fm_gemm_weights_open(blob, bytes, &weights), lies[i].status, lies[i].text);
    }
    gemm_matrix_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_layout_is_as_documented),
        cmocka_unit_test(bad_arguments_are_refused),
        cmocka_unit_test(damaged_blobs_are_refused),
    };
    return fm_test_run("gemm_blob", tests);
}
