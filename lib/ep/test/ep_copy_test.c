// Rows copied past the caches arrive whole, wherever they lie.
#include "ep_private.h"
#include "fm_gen.h"
#include "fm_test.h"

enum { BYTES_MAX = 1024, MARGIN = 128 };

static void any_copy(fm_gen *gen)
{
    _Alignas(64) uint8_t from[BYTES_MAX + MARGIN], to[BYTES_MAX + 2 * MARGIN], want[BYTES_MAX + 2 * MARGIN];
    size_t bytes = (size_t)fm_gen_size(gen, 0, BYTES_MAX), at = MARGIN;
    size_t in = (size_t)fm_gen_int(gen, 0, 70);
    if (fm_gen_chance(gen, 0.5))
        bytes = bytes / 64 * 64;
    if (fm_gen_chance(gen, 0.5))
        at += (size_t)fm_gen_int(gen, 0, 63);
    fm_gen_fill(gen, from, sizeof from);
    memset(to, 0xA5, sizeof to);
    memset(want, 0xA5, sizeof want);
    memcpy(want + at, from + in, bytes);
    fm_ep_copy_row(to + at, from + in, bytes, fm_gen_chance(gen, 0.8));
    fm_ep_copy_fence();
    assert_memory_equal(to, want, sizeof to);
}

static void rows_arrive_whole(void **state)
{
    (void)state;
    fm_gen_property(1000, any_copy);
}

static void only_what_exceeds_the_cache_streams(void **state)
{
    (void)state;
    assert_false(fm_ep_copy_streams(4096));
    assert_true(fm_ep_copy_streams((size_t)1 << 32));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_arrive_whole),
        cmocka_unit_test(only_what_exceeds_the_cache_streams),
    };
    return fm_test_run("ep_copy", tests);
}
