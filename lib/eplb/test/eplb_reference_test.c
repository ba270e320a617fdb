#include "eplb_reference.h"

#include <math.h>

#include "eplb_oracle.h"
#include "fm_gen.h"
#include "fm_test.h"

#include "fathom/doc.h"

static int integer(const fm_doc *node, const char *key)
{
    int64_t value = 0;
    assert_ok(fm_base_doc_int(fm_base_doc_get(node, key), key, 0, 1 << 20, &value));
    return (int)value;
}

static double number_at(const fm_doc *row, size_t at)
{
    double value = 0;
    assert_ok(fm_base_doc_real(fm_base_doc_at(row, at), "element", &value));
    return value;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

// Whether no two experts have replicas of equal share, nor two groups equal loads.
static int is_distinct(const fm_eplb_shape *shape, const fm_doc *weight, const fm_doc *logcnt)
{
    double share[512];
    double group[64] = {0};
    for (int e = 0; e < shape->experts; e++) {
        share[e] = (double)(float)(number_at(weight, (size_t)e) / number_at(logcnt, (size_t)e));
        group[e / (shape->experts / shape->groups)] += number_at(weight, (size_t)e);
    }
    qsort(share, (size_t)shape->experts, sizeof share[0], ascending);
    qsort(group, (size_t)shape->groups, sizeof group[0], ascending);
    int distinct = 1;
    for (int e = 1; e < shape->experts; e++)
        distinct &= share[e - 1] < share[e];
    for (int g = 1; g < shape->groups; g++)
        distinct &= group[g - 1] < group[g];
    return distinct;
}

static void compare_layer(const fm_eplb_plan *plan, const fm_doc *root, int layer, int *exact)
{
    const fm_eplb_shape *shape = &plan->shape;
    const fm_doc *weight = fm_base_doc_at(fm_base_doc_get(root, "weight"), (size_t)layer);
    const fm_doc *phy2log = fm_base_doc_at(fm_base_doc_get(root, "phy2log"), (size_t)layer);
    const fm_doc *log2phy = fm_base_doc_at(fm_base_doc_get(root, "log2phy"), (size_t)layer);
    const fm_doc *logcnt = fm_base_doc_at(fm_base_doc_get(root, "logcnt"), (size_t)layer);
    const int32_t *row = plan->phy2log + layer * plan->slots;
    const int32_t *count = plan->logcnt + layer * shape->experts;
    int room = plan->slots / shape->gpus;
    if (is_distinct(shape, weight, logcnt)) {
        ++*exact;
        for (int slot = 0; slot < plan->slots; slot++)
            assert_int_equal(row[slot], (int)number_at(phy2log, (size_t)slot));
        for (int e = 0; e < shape->experts; e++) {
            assert_int_equal(count[e], (int)number_at(logcnt, (size_t)e));
            for (int c = 0; c < count[e]; c++)
                assert_int_equal(plan->log2phy[(layer * shape->experts + e) * plan->copies_max + c],
                                 (int)number_at(fm_base_doc_at(log2phy, (size_t)e), (size_t)c));
        }
        return;
    }
    double ours[512] = {0};
    double golden[512] = {0};
    for (int slot = 0; slot < plan->slots; slot++) {
        int e = (int)number_at(phy2log, (size_t)slot);
        ours[slot / room] += number_at(weight, (size_t)row[slot]) / count[row[slot]];
        golden[slot / room] += number_at(weight, (size_t)e) / number_at(logcnt, (size_t)e);
    }
    qsort(ours, (size_t)shape->gpus, sizeof ours[0], ascending);
    qsort(golden, (size_t)shape->gpus, sizeof golden[0], ascending);
    for (int gpu = 0; gpu < shape->gpus; gpu++)
        assert_true(fabs(ours[gpu] - golden[gpu]) <= 1e-5 * golden[gpu]);
}

static void tables_are_those_of_the_original(void **state)
{
    (void)state;
    int exact = 0;
    for (int i = 0; i < 10; i++) {
        char path[4200];
        const char *source = getenv("FM_SOURCE_DIR");
        snprintf(path, sizeof path, "%s/lib/eplb/test/golden/case%02d.json", source ? source : ".", i);
        fm_doc *root;
        assert_ok(fm_base_doc_load(path, &root));
        fm_eplb_shape shape = {integer(root, "layers"), integer(root, "experts"), integer(root, "replicas"),
                               integer(root, "groups"), integer(root, "nodes"),   integer(root, "gpus")};
        float *weight = test_malloc((size_t)(shape.layers * shape.experts) * sizeof *weight);
        for (int layer = 0; layer < shape.layers; layer++)
            for (int e = 0; e < shape.experts; e++)
                weight[layer * shape.experts + e] = (float)number_at(
                    fm_base_doc_at(fm_base_doc_get(root, "weight"), (size_t)layer), (size_t)e);
        fm_eplb_options options = FM_EPLB_OPTIONS_INIT;
        options.policy = FM_EPLB_REFERENCE;
        fm_eplb_plan *plan;
        assert_ok(fm_eplb_rebalance(&shape, weight, &options, &plan));
        for (int layer = 0; layer < shape.layers; layer++)
            compare_layer(plan, root, layer, &exact);
        fm_eplb_plan_free(plan);
        test_free(weight);
        fm_base_doc_free(root);
    }
    // Both layers of case00, one of case03, case05 and half of case07 have distinct loads at the least.
    assert_in_range(exact, 4, 1000);
}

// The README example of the original, as its authors print it.
static void the_published_example(void **state)
{
    (void)state;
    const float weight[2][12] = {{90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86},
                                 {20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27}};
    const int32_t hierarchical[2][16] = {{5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1},
                                         {7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1}};
    const int32_t global[2][16] = {{10, 6, 10, 7, 0, 2, 11, 4, 5, 9, 5, 4, 8, 3, 1, 1},
                                   {1, 10, 2, 4, 5, 11, 5, 0, 6, 7, 6, 3, 8, 8, 9, 7}};
    const int32_t log2phy[12][2] = {{12, -1}, {15, 13}, {11, -1}, {6, -1}, {7, 5},  {0, 2},
                                    {1, -1},  {3, -1},  {4, -1},  {9, -1}, {8, 10}, {14, -1}};
    fm_eplb_options options = FM_EPLB_OPTIONS_INIT;
    options.policy = FM_EPLB_REFERENCE;
    fm_eplb_shape shape = {2, 12, 16, 4, 2, 8};
    fm_eplb_plan *plan;
    assert_ok(fm_eplb_rebalance(&shape, &weight[0][0], &options, &plan));
    assert_memory_equal(plan->phy2log, hierarchical, sizeof hierarchical);
    assert_int_equal(plan->copies_max, 2);
    assert_memory_equal(plan->log2phy, log2phy, sizeof log2phy);
    assert_int_equal(plan->hierarchical, 1);
    fm_eplb_plan_free(plan);
    shape.groups = 3;
    assert_ok(fm_eplb_rebalance(&shape, &weight[0][0], &options, &plan));
    assert_memory_equal(plan->phy2log, global, sizeof global);
    fm_eplb_plan_free(plan);
}

// Greedy packing word for word, with a search over all packs and a stable selection in place of keys, sort
// and heap.
static void naive_pack(const float *load, int count, int packs, int32_t *pack, int32_t *rank)
{
    int fill[64] = {0};
    float sum[64] = {0};
    char done[512] = {0};
    for (int k = 0; k < count; k++) {
        int item = -1;
        for (int i = 0; i < count; i++)
            if (!done[i] && (item < 0 || load[i] > load[item]))
                item = i;
        done[item] = 1;
        int best = -1;
        for (int p = 0; p < packs; p++)
            if (fill[p] < count / packs && (best < 0 || sum[p] < sum[best]))
                best = p;
        pack[item] = best;
        rank[item] = fill[best]++;
        sum[best] += load[item];
    }
}

static void packing_is_greedy(fm_gen *gen)
{
    float load[512];
    int32_t pack[512];
    int32_t rank[512];
    int packs = (int)fm_gen_int(gen, 1, 60);
    int count = packs * (int)fm_gen_int(gen, 2, 8);
    oracle_loads(gen, (int)fm_gen_int(gen, 0, 4), count, load);
    fm_eplb_reference reference;
    assert_ok(fm_eplb_reference_init(&reference, 1, count, 1, packs));
    naive_pack(load, count, packs, pack, rank);
    fm_eplb_reference_pack(&reference, load, count, packs);
    assert_memory_equal(reference.pack, pack, (size_t)count * sizeof pack[0]);
    assert_memory_equal(reference.rank, rank, (size_t)count * sizeof rank[0]);
    fm_eplb_reference_clean_up(&reference);
}

static void replication_is_greedy(fm_gen *gen)
{
    float load[128];
    int experts = (int)fm_gen_int(gen, 1, 60);
    int gpus = (int)fm_gen_int(gen, 1, 12);
    int replicas = experts + (int)fm_gen_size(gen, 0, 2 * experts);
    replicas = (replicas + gpus - 1) / gpus * gpus;
    oracle_loads(gen, (int)fm_gen_int(gen, 0, 4), experts, load);
    int32_t count[128] = {0};
    int32_t item[512] = {0};
    float share[512] = {0};
    for (int e = 0; e < experts; e++) {
        count[e] = 1;
        item[e] = e;
    }
    for (int r = experts; r < replicas; r++) {
        int best = 0;
        for (int e = 1; e < experts; e++)
            if (load[e] / (float)count[e] > load[best] / (float)count[best])
                best = e;
        item[r] = best;
        count[best]++;
    }
    for (int r = 0; r < replicas; r++)
        share[r] = load[item[r]] / (float)count[item[r]];
    int32_t pack[512];
    int32_t rank[512];
    naive_pack(share, replicas, gpus, pack, rank);
    fm_eplb_reference reference;
    int32_t slot[512];
    assert_ok(fm_eplb_reference_init(&reference, experts, replicas, 1, gpus));
    fm_eplb_reference_node(&reference, load, experts, replicas, gpus, slot, NULL);
    int room = replicas / gpus;
    for (int r = 0; r < replicas; r++)
        assert_int_equal(slot[room == 1 ? r : pack[r] * room + rank[r]], item[r]);
    fm_eplb_reference_clean_up(&reference);
}

static void reference_property(void **state)
{
    (void)state;
    fm_gen_property(150, packing_is_greedy);
    fm_gen_property(150, replication_is_greedy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables_are_those_of_the_original),
        cmocka_unit_test(the_published_example),
        cmocka_unit_test(reference_property),
    };
    return fm_test_run("eplb.reference", tests);
}
