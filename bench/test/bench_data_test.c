#include "fm_test.h"
#include "fm_gen.h"

#include "fm_bench.h"

#include "fathom/clock.h"

#include <math.h>

static void every_bit_counts(fm_gen *gen)
{
    unsigned char bytes[256];
    size_t size = (size_t)fm_gen_size(gen, 1, sizeof bytes);
    fm_gen_fill(gen, bytes, size);
    uint64_t hash = fm_bench_hash(0, bytes, size);
    assert_true(hash == fm_bench_hash(0, bytes, size));
    size_t bit = (size_t)fm_gen_int(gen, 0, (int64_t)size * 8 - 1);
    bytes[bit / 8] ^= (unsigned char)(1u << (bit % 8));
    assert_true(hash != fm_bench_hash(0, bytes, size));
    assert_true(hash != fm_bench_hash(1, bytes, size));
}

static void hash_property(void **state)
{
    (void)state;
    fm_gen_property(500, every_bit_counts);
}

// Committed hashes stand or fall with these values, which a second program of the definition gave.
static void hash_is_for_ever(void **state)
{
    (void)state;
    unsigned char bytes[12] = {0};
    assert_true(fm_bench_hash(0, bytes, 0) != fm_bench_hash(0, bytes, 1));
    assert_true(fm_bench_hash(0, bytes, 8) != fm_bench_hash(0, bytes, 9));
    memcpy(bytes, "hello world", sizeof bytes);
    assert_true(fm_bench_hash(0, bytes, 11) == 0x2278ee0a83460b97u);
    assert_true(fm_bench_hash(fm_bench_hash(0, bytes, 5), bytes + 5, 6) == 0x74547b6cb24bc3d7u);
}

static void fills_are_seeded_and_in_range(void **state)
{
    (void)state;
    enum { COUNT = 4096 };
    float a[COUNT];
    float b[COUNT];
    fm_bench_fill_floats(1, a, COUNT);
    fm_bench_fill_floats(1, b, COUNT);
    assert_memory_equal(a, b, sizeof a);
    fm_bench_fill_floats(2, b, COUNT);
    assert_memory_not_equal(a, b, sizeof a);
    double sum = 0;
    for (int i = 0; i < COUNT; i++) {
        assert_true(a[i] >= -1 && a[i] < 1);
        sum += (double)a[i];
    }
    // The mean of n uniform values in [-1, 1) has a deviation of 1 / sqrt(3 n): 0.009.
    assert_true(fabs(sum / COUNT) < 0.05);
    fm_bench_fill(3, a, sizeof a - 1);
    fm_bench_fill(3, b, sizeof b - 1);
    assert_memory_equal(a, b, sizeof a - 1);
}

static void eviction_keeps_the_bytes(void **state)
{
    (void)state;
    size_t size = (3 << 20) + 5;
    unsigned char *bytes = fm_bench_alloc(size);
    assert_non_null(bytes);
    assert_int_equal((uintptr_t)bytes % (2 << 20), 0);
    fm_bench_fill(1, bytes, size);
    uint64_t hash = fm_bench_hash(0, bytes, size);
    fm_bench_evict(bytes + 1, size - 1);
    assert_true(fm_bench_hash(0, bytes, size) == hash);
    fm_base_mem_free(bytes);
}

// Least time of a walk over the lines, in nanoseconds.
static double walk(const unsigned char *bytes, size_t size, int evict)
{
    double least = 1e12;
    for (int i = 0; i < 10; i++) {
        if (evict)
            fm_bench_evict(bytes, size);
        unsigned sum = 0;
        uint64_t begin = fm_base_clock_thread_cpu_ns();
        for (size_t at = 0; at < size; at += FM_CACHE_LINE)
            sum += bytes[at];
        FM_BENCH_KEEP(sum);
        least = fmin(least, (double)(fm_base_clock_thread_cpu_ns() - begin));
    }
    return least;
}

static void evicted_bytes_come_from_memory(void **state)
{
    (void)state;
    size_t size = 1 << 20; // stays in the second-level cache when nobody throws it out
    unsigned char *bytes = fm_bench_alloc(size);
    assert_non_null(bytes);
    fm_bench_fill(1, bytes, size);
    double warm = walk(bytes, size, 0);
    double cold = walk(bytes, size, 1);
    fm_base_mem_free(bytes);
    if (cold < 1.5 * warm)
        fail_msg("a walk takes %.0f ns, after eviction %.0f ns", warm, cold);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hash_property),
        cmocka_unit_test(hash_is_for_ever),
        cmocka_unit_test(fills_are_seeded_and_in_range),
        cmocka_unit_test(eviction_keeps_the_bytes),
        cmocka_unit_test(evicted_bytes_come_from_memory),
    };
    return fm_test_run("bench.data", tests);
}
