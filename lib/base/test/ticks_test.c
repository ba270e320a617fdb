#include "fm_test.h"
#include "fm_gen.h"

#include "ticks.h"

#include <math.h>

static void source_is_the_kernels(void **state)
{
    (void)state;
    assert_int_equal(fm_base_ticks_source("/nonexistent"), FM_TICKS_CLOCK);
    assert_int_equal(fm_base_ticks_source(fm_test_file("hpet", "hpet\n", 5)), FM_TICKS_CLOCK);
    assert_int_equal(fm_base_ticks_source(fm_test_file("tsc-early", "tsc-early\n", 10)), FM_TICKS_CLOCK);
    // With the kernel's word, it depends on the processor alone: either answer must give ticks that rise.
    enum fm_ticks_source source = fm_base_ticks_source(fm_test_file("tsc", "tsc\n", 4));
    uint64_t ticks = fm_ticks_now(source);
    fm_base_clock_sleep_ns(1000);
    assert_true(fm_ticks_now(source) > ticks);
}

static void converted_ticks_are_times(void **state)
{
    (void)state;
    for (int source = FM_TICKS_CLOCK; source <= FM_TICKS_TSC; source++) {
        struct fm_ticks_map map = {0};
        fm_base_ticks_extend(&map, fm_base_ticks_pair(source));
        fm_base_clock_sleep_ns(FM_TICKS_FIRST_NS);
        fm_base_ticks_extend(&map, fm_base_ticks_pair(source));
        // On a busy machine the thread may lose its processor between the readings; of many tries most are
        // undisturbed.
        int near = 0;
        for (int i = 0; i < 100; i++) {
            uint64_t before = fm_base_clock_ns();
            uint64_t time = fm_base_ticks_to_ns(&map, fm_ticks_now(source));
            uint64_t after = fm_base_clock_ns();
            near += time + 2000 > before && time < after + 2000;
        }
        assert_true(near > 90);
    }
}

/* A counter of 2.9 GHz beside a clock that NTP adjusts and that is read with an error. */
struct machine {
    double true_ns;
    double clock_ns;
};

static struct fm_ticks_pair machine_pair(const struct machine *machine, fm_gen *gen)
{
    return (struct fm_ticks_pair){(uint64_t)(machine->true_ns * 2.9) + 12345678901234u,
                                  (uint64_t)(machine->clock_ns + fm_gen_real(gen, -20, 20)) + 987654321000u};
}

static void advance(struct machine *machine, double ns, double adjustment_ppm)
{
    machine->true_ns += ns;
    machine->clock_ns += ns * (1 + adjustment_ppm * 1e-6);
}

static void the_map_follows_the_clock(fm_gen *gen)
{
    enum { DRAINS = 1500, KEPT = 50 };
    struct machine machine = {.true_ns = 1e9, .clock_ns = 1e9};
    struct fm_ticks_map map = {0};
    struct {
        uint64_t ticks;
        uint64_t ns;
    } kept[KEPT];
    fm_base_ticks_extend(&map, machine_pair(&machine, gen));
    advance(&machine, FM_TICKS_FIRST_NS, 0);
    // The clock's rate wanders by up to 5 ppm from drain to drain, which come every 100 ms, or every 10 s now
    // and then.
    uint64_t last = 0;
    for (int i = 0; i < DRAINS; i++) {
        fm_base_ticks_extend(&map, machine_pair(&machine, gen));
        for (int j = 0; j < 3; j++) {
            struct fm_ticks_pair pair = machine_pair(&machine, gen);
            uint64_t ns = fm_base_ticks_to_ns(&map, pair.ticks);
            assert_true(ns > last);
            last = ns;
            // 10 s at 5 ppm off, and the first rate's 4 ppm.
            assert_true(fabs((double)ns - (double)pair.ns) < 100e3);
            if (i < KEPT && j == 0) {
                kept[i].ticks = pair.ticks;
                kept[i].ns = ns;
            }
            advance(&machine, fm_gen_real(gen, 1000, 2000), 0);
        }
        advance(&machine, fm_gen_chance(gen, 0.1) ? 10e9 : 100e6, fm_gen_real(gen, -5, 5));
        // Times once given stay, until old pieces are merged.
        for (int k = 0; k < KEPT && k <= i; k++) {
            double moved = fabs((double)fm_base_ticks_to_ns(&map, kept[k].ticks) - (double)kept[k].ns);
            assert_true(moved <= (i < 500 ? 0 : 100e3));
        }
    }
}

static void following(void **state)
{
    (void)state;
    fm_gen_property(5, the_map_follows_the_clock);
}

static void a_steady_clock_is_met_exactly(void **state)
{
    (void)state;
    // Without drift the only error is that of reading: it must not add up over two hours of drains.
    fm_gen gen = fm_gen_seeded(1);
    struct machine machine = {.true_ns = 1e9, .clock_ns = 1e9};
    struct fm_ticks_map map = {0};
    fm_base_ticks_extend(&map, machine_pair(&machine, &gen));
    advance(&machine, FM_TICKS_FIRST_NS, 0);
    uint64_t first_tick = machine_pair(&machine, &gen).ticks;
    double error_max = 0;
    for (int i = 0; i < 14400; i++) {
        struct fm_ticks_pair pair = machine_pair(&machine, &gen);
        fm_base_ticks_extend(&map, pair);
        double error = fabs((double)fm_base_ticks_to_ns(&map, pair.ticks) - (double)pair.ns);
        if (i > 4 && error > error_max)
            error_max = error;
        advance(&machine, 500e6, 0);
    }
    assert_true(error_max < 200);
    assert_true(map.count <= FM_TICKS_PIECES);
    assert_true(fabs((double)fm_base_ticks_to_ns(&map, first_tick) - (988654321000.0 + FM_TICKS_FIRST_NS)) <
                200);
}

static void clocks_that_stand_still_or_jump_back_do_no_harm(void **state)
{
    (void)state;
    struct fm_ticks_map map = {0};
    struct fm_ticks_pair pairs[] = {{1000, 1000},           {1000 + 20000000, 1000 + 20000000},
                                    {5000, 3000000000u},    {3000000000u, 3000000000u},
                                    {4000000000u, 2000000}, {5000000000u, 90000000000u}};
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++)
        fm_base_ticks_extend(&map, pairs[i]);
    uint64_t last = 0;
    for (uint64_t ticks = 1000; ticks < 10000000000u; ticks += 10000000) {
        uint64_t ns = fm_base_ticks_to_ns(&map, ticks);
        assert_true(ns >= last);
        last = ns;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(source_is_the_kernels),
        cmocka_unit_test(converted_ticks_are_times),
        cmocka_unit_test(following),
        cmocka_unit_test(a_steady_clock_is_met_exactly),
        cmocka_unit_test(clocks_that_stand_still_or_jump_back_do_no_harm),
    };
    return fm_test_run("base.ticks", tests);
}
