#include "fm_test.h"
#include "fm_gen.h"

#include "fathom/crc.h"

/* The definition, one bit at a time, by the reflected polynomial. */
static uint32_t oracle(uint32_t polynomial, const uint8_t *bytes, size_t size)
{
    uint32_t crc = 0xFFFFFFFFu;
    for (size_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? (crc >> 1) ^ polynomial : crc >> 1;
    }
    return ~crc;
}

static void published_values(void **state)
{
    (void)state;
    assert_int_equal(fm_base_crc32c(0, "123456789", 9), 0xE3069283u);
    assert_int_equal(fm_base_crc32c(0, NULL, 0), 0);
    assert_int_equal(fm_base_crc32(0, "123456789", 9), 0xCBF43926u);
    assert_int_equal(fm_base_crc32(0, NULL, 0), 0);
    // RFC 3720, appendix B.4; it prints each CRC as the four bytes sent, least significant first.
    uint8_t bytes[32] = {0};
    assert_int_equal(fm_base_crc32c(0, bytes, 32), 0x8A9136AAu);
    memset(bytes, 0xFF, 32);
    assert_int_equal(fm_base_crc32c(0, bytes, 32), 0x62A8AB43u);
    for (int i = 0; i < 32; i++)
        bytes[i] = (uint8_t)i;
    assert_int_equal(fm_base_crc32c(0, bytes, 32), 0x46DD794Eu);
    for (int i = 0; i < 32; i++)
        bytes[i] = (uint8_t)(31 - i);
    assert_int_equal(fm_base_crc32c(0, bytes, 32), 0x113FDB5Cu);
    static const uint8_t scsi_read[48] = {
        0x01, 0xC0, [16] = 0x14, [22] = 0x04, [27] = 0x14, [31] = 0x18, 0x28, [40] = 0x02};
    assert_int_equal(fm_base_crc32c(0, scsi_read, 48), 0xD9963A56u);
}

static void any_split_gives_the_same(fm_gen *gen)
{
    enum { BYTES = 5000 };
    static uint8_t bytes[BYTES + 16];
    fm_gen_fill(gen, bytes, sizeof bytes);
    uint8_t *from = bytes + fm_gen_int(gen, 0, 15); // any alignment
    size_t size = (size_t)fm_gen_size(gen, 0, BYTES);
    size_t cut = (size_t)fm_gen_int(gen, 0, (int64_t)size);
    uint32_t whole = oracle(0x82F63B78u, from, size);
    uint32_t a = fm_base_crc32c(0, from, cut);
    uint32_t b = fm_base_crc32c(0, from + cut, size - cut);
    assert_int_equal(fm_base_crc32c(0, from, size), whole);
    assert_int_equal(fm_base_crc32c(a, from + cut, size - cut), whole);
    assert_int_equal(fm_base_crc32c_combine(a, b, size - cut), whole);
    uint32_t crc32 = fm_base_crc32(0, from, cut);
    assert_int_equal(fm_base_crc32(crc32, from + cut, size - cut), oracle(0xEDB88320u, from, size));
}

static void splits(void **state)
{
    (void)state;
    fm_gen_property(300, any_split_gives_the_same);
}

static void combine_takes_sizes_beyond_memory(void **state)
{
    (void)state;
    // Zeros appended in two steps or in one: associativity, with sizes that cannot be checked by summing
    // bytes.
    const uint64_t n = UINT64_C(1) << 40, m = UINT64_C(123456789012345);
    uint32_t zeros_1k = 0, block[256] = {0};
    zeros_1k = fm_base_crc32c(0, block, sizeof block);
    uint32_t zeros = zeros_1k; // the CRC of 2^40 zeros, by doubling
    for (uint64_t size = 1024; size < n; size *= 2)
        zeros = fm_base_crc32c_combine(zeros, zeros, size);
    uint32_t a = fm_base_crc32c(0, "abc", 3), b = fm_base_crc32c(0, "xyz", 3);
    uint32_t left = fm_base_crc32c_combine(fm_base_crc32c_combine(a, zeros, n), b, m);
    uint32_t right = fm_base_crc32c_combine(a, fm_base_crc32c_combine(zeros, b, m), n + m);
    assert_int_equal(left, right);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_values),
        cmocka_unit_test(splits),
        cmocka_unit_test(combine_takes_sizes_beyond_memory),
    };
    return fm_test_run("base.crc", tests);
}
