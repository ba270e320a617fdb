// Designs are held to their definition: each node in as many blocks, never twice in one, and each pair of nodes together in as
// many blocks as any other pair.
#include "fs_design.h"
#include "fm_test.h"

#include "fathom/mem.h"

struct shares {
    uint32_t least, most;
};

static struct shares check_blocks(uint32_t nodes, uint32_t targets, uint32_t replicas, const uint32_t *places)
{
    uint32_t *used = calloc(nodes, sizeof *used);
    uint32_t *shared = calloc((size_t)nodes * nodes, sizeof *shared);
    for (size_t p = 0; p < (size_t)nodes * targets; p++) {
        assert_true(places[p] < nodes);
        used[places[p]]++;
        for (size_t k = p - p % replicas; k < p; k++) {
            assert_int_not_equal(places[k], places[p]);
            shared[(size_t)places[k] * nodes + places[p]]++;
            shared[(size_t)places[p] * nodes + places[k]]++;
        }
    }
    struct shares shares = {UINT32_MAX, 0};
    for (uint32_t a = 0; a < nodes; a++) {
        assert_int_equal(used[a], targets);
        for (uint32_t b = 0; b < nodes; b++) {
            uint32_t both = shared[(size_t)a * nodes + b];
            if (a != b && both < shares.least)
                shares.least = both;
            if (a != b && both > shares.most)
                shares.most = both;
        }
    }
    free(shared);
    free(used);
    return shares;
}

struct design {
    uint32_t nodes, replicas, lambda;
};

// What a cluster of up to 100 nodes may be laid out by.
static const struct design designs[] = {
    // Triple systems, simple and multiple
    {25, 3, 1},
    {25, 3, 2},
    {7, 3, 1},
    {9, 3, 1},
    {13, 3, 1},
    {15, 3, 1},
    {19, 3, 1},
    {21, 3, 1},
    {27, 3, 1},
    {31, 3, 1},
    {33, 3, 1},
    {49, 3, 1},
    {99, 3, 1},
    {5, 3, 3},
    {6, 3, 2},
    {10, 3, 2},
    {12, 3, 2},
    {12, 3, 4},
    {30, 3, 2},
    {8, 3, 6},
    // Planes
    {13, 4, 1},
    {21, 5, 1},
    {31, 6, 1},
    {57, 8, 1},
    {16, 4, 1},
    {25, 5, 1},
    {49, 7, 1},
    {64, 8, 1},
    // Families on cyclic and other groups, with and without a subgroup or a node that stays still
    {25, 4, 1},
    {28, 4, 1},
    {37, 4, 1},
    {40, 4, 1},
    {49, 4, 1},
    {52, 4, 1},
    {61, 4, 1},
    {64, 4, 1},
    {73, 4, 1},
    {76, 4, 1},
    {85, 4, 1},
    {100, 4, 1},
    {41, 5, 1},
    {45, 5, 1},
    {61, 5, 1},
    {65, 5, 1},
    {81, 5, 1},
    {11, 5, 2},
    {43, 7, 2},
    {15, 7, 3},
    {25, 4, 2}};

static void designs_are_constructed(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof designs / sizeof designs[0]; i++) {
        const struct design *design = &designs[i];
        uint32_t targets = design->lambda * (design->nodes - 1) / (design->replicas - 1);
        uint32_t *places = calloc((size_t)design->nodes * targets, sizeof *places);
        int found = 0;
        assert_ok(fm_fs_design_find(design->nodes, targets, design->replicas, places, &found));
        if (!found)
            fail_msg("(%u, %u, %u) was not found", design->nodes, design->replicas, design->lambda);
        struct shares shares = check_blocks(design->nodes, targets, design->replicas, places);
        if (shares.least != design->lambda || shares.most != design->lambda)
            fail_msg("(%u, %u, %u): pairs share %u to %u", design->nodes, design->replicas, design->lambda,
                     shares.least, shares.most);
        free(places);
    }
}

// Where no design can be, pairs share as many as others or one more.
static void large_clusters_are_as_even_as_can_be(void **state)
{
    (void)state;
    static const struct {
        uint32_t nodes, targets, replicas;
    } shapes[] = {{50, 6, 3},   {100, 6, 3},   {100, 30, 3}, {200, 15, 3}, {500, 9, 3},
                  {1000, 6, 3}, {1000, 30, 3}, {40, 12, 4},  {30, 8, 4},   {25, 6, 3}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        uint32_t *places = calloc((size_t)shapes[i].nodes * shapes[i].targets, sizeof *places);
        int found = 0;
        assert_ok(fm_fs_design_find(shapes[i].nodes, shapes[i].targets, shapes[i].replicas, places, &found));
        assert_true(found);
        struct shares shares = check_blocks(shapes[i].nodes, shapes[i].targets, shapes[i].replicas, places);
        assert_true(shares.most - shares.least <= 1);
        free(places);
    }
}

static void what_cannot_be_is_not_found(void **state)
{
    (void)state;
    uint32_t places[512];
    int found = 1;
    assert_ok(fm_fs_design_find(22, 7, 7, places, &found)); // (22, 7, 2): excluded by Bruck, Ryser and Chowla
    assert_int_equal(found, 0);
    found = 1;
    assert_ok(fm_fs_design_find(36, 7, 6, places, &found)); // the affine plane of order 6
    assert_int_equal(found, 0);
    found = 1;
    assert_ok(fm_fs_design_find(4, 3, 4, places, &found)); // one block of all: left to others
    assert_int_equal(found, 0);
}

static fm_status find_without_memory(void *context)
{
    static const struct design small[] = {{9, 3, 1}, {16, 4, 1}, {13, 4, 1}};
    const struct design *design = &small[*(int *)context];
    uint32_t places[128];
    int found;
    return fm_fs_design_find(design->nodes, (design->nodes - 1) / (design->replicas - 1), design->replicas,
                             places, &found);
}

static void it_survives_without_memory(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++)
        fm_test_each_alloc_fails(find_without_memory, &i);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(designs_are_constructed),
        cmocka_unit_test(large_clusters_are_as_even_as_can_be),
        cmocka_unit_test(what_cannot_be_is_not_found),
        cmocka_unit_test(it_survives_without_memory),
    };
    return fm_test_run("fs_design", tests);
}
