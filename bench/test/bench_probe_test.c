#include <math.h>

#include "fm_test.h"

#include "bench_probe.h"
#include "probe_kernels.h"

#include "fathom/cpu.h"

enum { MEMORY = 16 << 20 };

// Rates that no machine of the last twenty years or the next ten leaves, so that a wrong unit, a dropped loop or a lost
// factor of 1000 is seen even under a sanitizer on a loaded machine.
static void rates_are_physical(void **state)
{
    (void)state;
    fm_bench_probes *probes;
    assert_ok(fm_bench_probes_new(MEMORY, &probes));
    for (int limit = FM_BENCH_NO_LIMIT + 1; limit < FM_BENCH_OWN_LIMIT; limit++)
        for (int threads = 1; threads <= 3; threads += 2) {
            fm_status status = fm_bench_probe_prepare(probes, (fm_bench_limit)limit, threads);
            if (status == FM_ERR_UNAVAILABLE)
                continue;
            assert_ok(status);
            double rate = fm_bench_probe_take(probes, (fm_bench_limit)limit, threads);
            if (!(rate > 1e7 && rate < 1e14))
                fail_msg("%s on %d threads: %g", fm_bench_limit_name((fm_bench_limit)limit), threads, rate);
        }
    fm_bench_probes_free(probes);
    fm_bench_probes_free(NULL);
}

static void what_is_not_probed_is_unavailable(void **state)
{
    (void)state;
    fm_bench_probes *probes;
    assert_ok(fm_bench_probes_new(MEMORY, &probes));
    assert_fails(fm_bench_probe_prepare(probes, FM_BENCH_NO_LIMIT, 1), FM_ERR_UNAVAILABLE, "none");
    assert_fails(fm_bench_probe_prepare(probes, FM_BENCH_OWN_LIMIT, 1), FM_ERR_UNAVAILABLE, "own");
    fm_status amx = fm_bench_probe_prepare(probes, FM_BENCH_AMX_BF16, 1);
    assert_int_equal(amx == FM_OK, fm_base_cpu_allows(FM_CPU_AMX_TILE | FM_CPU_AMX_BF16) != 0);
    fm_bench_probes_free(probes);
}

// Scalar to AVX2 is a factor of 8; AVX-512 gives 1 to 2 times AVX2, as the CPU has one wide port or two.
static int are_in_order(const double best[3])
{
    return best[0] > 0 && (best[1] <= 0 || (best[1] > 5 * best[0] && best[1] < 12 * best[0])) &&
           (best[2] <= 0 || (best[2] > 0.8 * best[1] && best[2] < 2.5 * best[1]));
}

// Wider vectors do more: a probe whose chains the compiler joined or split would break the order. The best of each is taken in
// turns, and as often as other work on the machine makes it necessary.
static void widths_are_in_order(void **state)
{
    (void)state;
    fm_bench_probes *probes;
    assert_ok(fm_bench_probes_new(MEMORY, &probes));
    const fm_bench_limit limits[] = {FM_BENCH_FMA_SCALAR, FM_BENCH_FMA_AVX2, FM_BENCH_FMA_AVX512};
    double best[3] = {0};
    for (int take = 0; take < 20 || (take < 2000 && !are_in_order(best)); take++)
        for (int i = 0; i < 3; i++)
            if (fm_bench_probe_prepare(probes, limits[i], 1) == FM_OK)
                best[i] = fmax(best[i], fm_bench_probe_take(probes, limits[i], 1));
    fm_bench_probes_free(probes);
    assert_true(are_in_order(best));
}

// A lane's chunks pass every byte of every stream once before they come round.
static void lanes_walk_their_memory(void **state)
{
    (void)state;
    const size_t stream = 3 * (size_t)FM_BENCH_STREAM_CHUNK;
    const size_t size = FM_BENCH_STREAMS * stream;
    char *memory = fm_base_mem_aligned(size, 64);
    assert_non_null(memory);
    for (size_t i = 0; i < size; i++)
        memory[i] = (char)(i % stream < stream / 2 ? i / 7 % 100 + 1 : 0);
    fm_bench_lane lane = {memory, stream, 0};
    for (int pass = 0; pass < 2; pass++) {
        for (int chunk = 0; chunk < 3; chunk++) {
            assert_int_equal(lane.cursor, (size_t)chunk * FM_BENCH_STREAM_CHUNK);
            double bytes = pass ? fm_bench_chunk_copy_streamed(&lane) : fm_bench_chunk_copy(&lane);
            assert_true(bytes == (double)FM_BENCH_STREAMS * FM_BENCH_STREAM_CHUNK);
        }
        assert_int_equal(lane.cursor, 0);
        for (size_t at = 0; at < size; at += stream) {
            assert_memory_equal(memory + at, memory + at + stream / 2, stream / 2);
            memset(memory + at + stream / 2, 0, stream / 2);
        }
    }
    fm_base_mem_free(memory);
}

static fm_status prepare_all(void *context)
{
    (void)context;
    fm_bench_probes *probes;
    FM_TRY(fm_bench_probes_new(MEMORY, &probes));
    fm_status status = fm_bench_probe_prepare(probes, FM_BENCH_READ, 2);
    fm_bench_probes_free(probes);
    return status;
}

static void refused_memory_is_reported(void **state)
{
    (void)state;
    fm_test_each_alloc_fails(prepare_all, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rates_are_physical),         cmocka_unit_test(what_is_not_probed_is_unavailable),
        cmocka_unit_test(widths_are_in_order),        cmocka_unit_test(lanes_walk_their_memory),
        cmocka_unit_test(refused_memory_is_reported),
    };
    return fm_test_run("bench.probe", tests);
}
