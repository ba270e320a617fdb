// Placements: designs that exist are found, all others are as even as they can nearly be, and nothing ever changes.
#include "fathom/fs_placement.h"
#include "fm_gen.h"
#include "fm_test.h"

enum { PLACES_MAX = 4096 };

static void solve(uint32_t nodes, uint32_t targets, uint32_t replicas, uint32_t *places,
                  fm_fs_placement_spread *out_spread)
{
    uint32_t used[FM_FS_PLACEMENT_NODES_MAX] = {0};
    assert_true(nodes * targets <= PLACES_MAX);
    assert_ok(fm_fs_placement_solve(nodes, targets, replicas, places));
    for (uint32_t p = 0; p < nodes * targets; p++) {
        assert_true(places[p] < nodes);
        used[places[p]]++;
        for (uint32_t k = p - p % replicas; k < p; k++)
            assert_int_not_equal(places[k], places[p]);
    }
    for (uint32_t n = 0; n < nodes; n++)
        assert_int_equal(used[n], targets);
    assert_ok(fm_fs_placement_measure(nodes, targets, replicas, places, out_spread));
    assert_true(out_spread->head_max - out_spread->head_min <= 1);
}

// Designs (v, k, lambda) that are known to exist, by their r = lambda (v - 1) / (k - 1) targets.
static void designs_are_found(void **state)
{
    (void)state;
    static const struct {
        uint32_t nodes, replicas, lambda;
    } designs[] = {{7, 3, 1},  {9, 3, 1},  {13, 3, 1}, {15, 3, 1}, {13, 4, 1}, {16, 4, 1},
                   {6, 3, 2},  {10, 4, 2}, {11, 5, 2}, {7, 4, 2},  {5, 3, 3},  {5, 2, 1},
                   {12, 2, 1}, {8, 4, 3},  {21, 5, 1}, {4, 4, 1},  {3, 1, 0}};
    uint32_t places[PLACES_MAX];
    for (size_t i = 0; i < sizeof designs / sizeof designs[0]; i++) {
        uint32_t k = designs[i].replicas;
        uint32_t targets = k > 1 ? designs[i].lambda * (designs[i].nodes - 1) / (k - 1) : 2;
        fm_fs_placement_spread spread;
        solve(designs[i].nodes, targets, k, places, &spread);
        if (spread.pair_min != designs[i].lambda || spread.pair_max != designs[i].lambda)
            fail_msg("(%u, %u, %u): pairs share %u to %u chains", designs[i].nodes, k, designs[i].lambda,
                     spread.pair_min, spread.pair_max);
    }
}

// Where there is no design, what pairs share differs by few.
static void all_others_are_nearly_even(void **state)
{
    (void)state;
    uint32_t places[PLACES_MAX];
    fm_gen gen = fm_gen_seeded(1);
    for (int i = 0; i < 40; i++) {
        uint32_t replicas = (uint32_t)fm_gen_int(&gen, 1, 5);
        uint32_t nodes = (uint32_t)fm_gen_int(&gen, replicas, 16);
        uint32_t targets = (uint32_t)fm_gen_int(&gen, 1, 12);
        fm_fs_placement_spread spread;
        if (nodes * targets % replicas)
            continue;
        solve(nodes, targets, replicas, places, &spread);
        if (spread.pair_max - spread.pair_min > 2)
            fail_msg("%u nodes of %u targets, %u replicas: pairs share %u to %u", nodes, targets, replicas,
                     spread.pair_min, spread.pair_max);
    }
}

static void what_cannot_be_placed_is_refused(void **state)
{
    (void)state;
    uint32_t places[16] = {0, 1, 0, 1, 7, 1};
    fm_fs_placement_spread spread;
    assert_fails(fm_fs_placement_solve(2, 3, 3, places), FM_ERR_ARG, "as many nodes");
    assert_fails(fm_fs_placement_solve(4, 1, 3, places), FM_ERR_ARG, "divide");
    assert_fails(fm_fs_placement_solve(4, 1, 0, places), FM_ERR_ARG, "0 replicas");
    assert_fails(fm_fs_placement_solve(5000, 1, 1, places), FM_ERR_LIMIT, "5000");
    assert_fails(fm_fs_placement_measure(2, 3, 2, places, &spread), FM_ERR_ARG, "node 7");
}

// Files rest on these orders and clusters on these chains: they are written down here.
static void nothing_ever_changes(void **state)
{
    (void)state;
    static const uint32_t fano[21] = {3, 0, 5, 0, 2, 4, 5, 2, 1, 6, 0, 1, 1, 3, 4, 2, 6, 3, 4, 5, 6};
    static const uint32_t order[10] = {8, 3, 6, 5, 4, 0, 9, 2, 1, 7};
    uint32_t places[21];
    uint32_t ids[10];
    fm_fs_placement_spread spread;
    solve(7, 3, 3, places, &spread);
    assert_memory_equal(places, fano, sizeof fano);
    for (uint32_t i = 0; i < 10; i++)
        ids[i] = i;
    fm_fs_placement_shuffle(42, ids, 10);
    assert_memory_equal(ids, order, sizeof order);
    fm_fs_placement_shuffle(42, ids, 0);
    fm_fs_placement_shuffle(42, ids, 1);
    assert_memory_equal(ids, order, sizeof order);
}

static fm_status solve_without_memory(void *context)
{
    (void)context;
    uint32_t places[15];
    return fm_fs_placement_solve(5, 3, 3, places);
}

static void it_survives_without_memory(void **state)
{
    (void)state;
    fm_test_each_alloc_fails(solve_without_memory, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(designs_are_found),
        cmocka_unit_test(all_others_are_nearly_even),
        cmocka_unit_test(what_cannot_be_placed_is_refused),
        cmocka_unit_test(nothing_ever_changes),
        cmocka_unit_test(it_survives_without_memory),
    };
    return fm_test_run("fs_placement", tests);
}
