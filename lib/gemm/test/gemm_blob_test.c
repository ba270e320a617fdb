#include "gemm_blob.h"
#include "gemm_cases.h"

#include "fm_test.h"

#include "fathom/crc.h"

static struct gemm_matrix any_matrix(fm_gen *gen)
{
    int64_t n = fm_gen_size(gen, 0, 70), k = fm_gen_size(gen, 0, 300);
    fm_dtype dtype = fm_gen_chance(gen, 0.5) ? FM_DTYPE_BF16 : FM_DTYPE_F8_E4M3;
    return gemm_matrix_make(gen, n, k, dtype, fm_gen_chance(gen, 0.5), fm_gen_chance(gen, 0.5) ? 1 : 128,
                            GEMM_NORMAL);
}

// By the offsets of gemm_blob.h, not by the library's reader.
static void every_code_is_where_the_layout_says(fm_gen *gen)
{
    struct gemm_matrix b = any_matrix(gen);
    const fm_gemm_operand *operand = &b.operand;
    fm_gemm_weights weights;
    uint8_t *blob = gemm_pack(&b, &weights);
    int wide = operand->dtype == FM_DTYPE_BF16;
    int64_t k_padded = (b.k + 31) / 32 * 32, across = (b.k + 127) / 128;
    int64_t down = wide ? 0 : (b.rows + operand->scale_rows - 1) / operand->scale_rows;
    for (int64_t row = 0; row < down; row++)
        for (int64_t block = 0; block < across; block++)
            assert_memory_equal(blob + 64 + 4 * (row * across + block),
                                &b.scales[row * operand->scale_stride + block], 4);
    const uint8_t *panels = blob + 64 + (down * across * 4 + 63) / 64 * 64;
    for (int64_t row = 0; row < (b.rows + 15) / 16 * 16; row++)
        for (int64_t i = 0; i < k_padded; i++) {
            int64_t at = row / 16 * 16 * k_padded + i / 2 * 32 + row % 16 * 2 + i % 2;
            int64_t from = operand->transposed ? i * operand->stride + row : row * operand->stride + i;
            int inside = row < b.rows && i < b.k;
            if (wide)
                assert_int_equal(fm_get_le16(panels + 2 * at), inside ? ((const uint16_t *)b.data)[from] : 0);
            else
                assert_int_equal(panels[at], inside ? ((const uint8_t *)b.data)[from] : 0);
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
    struct gemm_matrix b = gemm_matrix_make(&gen, 20, 40, FM_DTYPE_F8_E4M3, 0, 128, GEMM_NORMAL);
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
    assert_fails(fm_gemm_weights_pack(20, 40, &b.operand, blob + 4, bytes), FM_ERR_ARG, "multiple of 64");
    assert_fails(fm_gemm_weights_pack(20, 40, &b.operand, NULL, bytes), FM_ERR_ARG, "multiple of 64");
    assert_fails(fm_gemm_weights_pack(20, 40, &b.operand, blob, bytes - 1), FM_ERR_ARG, "expected");
    assert_ok(fm_gemm_weights_pack(20, 40, &b.operand, blob, bytes));
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
    struct gemm_matrix b = gemm_matrix_make(&gen, 20, 40, FM_DTYPE_F8_E4M3, 0, 128, GEMM_NORMAL);
    _Alignas(64) uint8_t blob[4096] = {0}, good[4096] = {0};
    fm_gemm_weights weights;
    size_t bytes;
    assert_ok(fm_gemm_weights_pack_size(20, 40, &b.operand, &bytes));
    assert_ok(fm_gemm_weights_pack(20, 40, &b.operand, good, bytes));
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
        {FM_GEMM_BLOB_AT_VERSION, 2, FM_ERR_VERSION, "version 2"},
        {FM_GEMM_BLOB_AT_DTYPE, 7, FM_ERR_FORMAT, "dtype 7"},
        {FM_GEMM_BLOB_AT_SCALE_ROWS, 64, FM_ERR_FORMAT, "scale_rows 64"},
        {FM_GEMM_BLOB_AT_SCALE_ROWS, 0, FM_ERR_FORMAT, "scale_rows 0"},
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
