#include "fm_test.h"

#include "fm_gen.h"
#include "pond_crc32.h"

static void it_gives_the_published_check_value(void **state)
{
    (void)state;
    assert_int_equal(fm_pond_crc32("123456789", 9), 0xCBF43926u);
    assert_int_equal(fm_pond_crc32("", 0), 0);
}

static void compare_with_bits(fm_gen *gen)
{
    uint8_t bytes[300];
    size_t size = (size_t)fm_gen_int(gen, 0, sizeof bytes);
    fm_gen_fill(gen, bytes, size);
    uint32_t crc = ~0u;
    for (size_t i = 0; i < 8 * size; i++) {
        uint32_t bit = (crc ^ (uint32_t)(bytes[i / 8] >> i % 8)) & 1;
        crc = crc >> 1 ^ (bit ? 0xEDB88320u : 0);
    }
    assert_int_equal(fm_pond_crc32(bytes, size), ~crc);
}

static void it_equals_the_division_bit_by_bit(void **state)
{
    (void)state;
    fm_gen_property(100, compare_with_bits);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_gives_the_published_check_value),
        cmocka_unit_test(it_equals_the_division_bit_by_bit),
    };
    return fm_test_run("pond_crc32", tests);
}
