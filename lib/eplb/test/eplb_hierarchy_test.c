#include "eplb_hierarchy.h"

#include <math.h>

#include "eplb_oracle.h"
#include "fm_test.h"

struct layer {
    fm_eplb_shape shape;
    float weight[ORACLE_EXPERTS_MAX];
};

// The least time of a node that holds these groups, by trying everything.
static double node_best(const struct layer *layer, int mask)
{
    const fm_eplb_shape *shape = &layer->shape;
    int size = shape->experts / shape->groups;
    int room = shape->replicas / shape->gpus;
    oracle_problem oracle;
    oracle.problem = (fm_eplb_problem){.experts = shape->experts / shape->nodes,
                                       .gpus = shape->gpus / shape->nodes,
                                       .slots = shape->replicas / shape->nodes,
                                       .replicas = shape->replicas / shape->nodes,
                                       .load = oracle.load,
                                       .slot_begin = oracle.slot_begin,
                                       .speed = oracle.speed};
    int filled = 0;
    for (int e = 0; e < shape->experts; e++)
        if (mask >> (e / size) & 1)
            oracle.load[filled++] = (double)layer->weight[e];
    for (int gpu = 0; gpu <= oracle.problem.gpus; gpu++) {
        oracle.slot_begin[gpu] = gpu * room;
        oracle.speed[gpu] = 1;
    }
    return oracle_best(&oracle.problem);
}

// The least time of the busiest node over all ways to put the groups outside `used` on the nodes from `node`
// on.
static double layer_best(const struct layer *layer, int node, int used)
{
    const fm_eplb_shape *shape = &layer->shape;
    if (node == shape->nodes)
        return 0;
    double best = HUGE_VAL;
    for (int mask = 1; mask < 1 << shape->groups; mask++)
        if ((mask & used) == 0 && __builtin_popcount((unsigned)mask) == shape->groups / shape->nodes)
            best = fmin(best, fmax(node_best(layer, mask), layer_best(layer, node + 1, used | mask)));
    return best;
}

static void draw(struct layer *layer, fm_gen *gen)
{
    fm_eplb_shape *shape = &layer->shape;
    shape->layers = 1;
    shape->nodes = 2;
    shape->groups = 2 * (int)fm_gen_int(gen, 1, 2);
    shape->experts = shape->groups * (int)fm_gen_int(gen, 1, shape->groups == 2 ? 3 : 2);
    shape->gpus = 2 * (int)fm_gen_int(gen, 1, 2);
    int least = (shape->experts + shape->gpus - 1) / shape->gpus;
    shape->replicas = shape->gpus * (int)fm_gen_int(gen, least, least + 1);
    oracle_loads(gen, (int)fm_gen_int(gen, 0, 4), shape->experts, layer->weight);
    layer->weight[0] += 1;
}

static void small_hierarchies_are_solved(fm_gen *gen)
{
    struct layer layer;
    draw(&layer, gen);
    fm_eplb_plan *plan;
    assert_ok(fm_eplb_rebalance(&layer.shape, layer.weight, NULL, &plan));
    const fm_eplb_certificate *certificate = &plan->certificate[0];
    double best = layer_best(&layer, 0, 0);
    assert_true(certificate->lower_bound <= best * (1 + 1e-9));
    assert_true(certificate->max_load >= best * (1 - 1e-9));
    assert_true(certificate->lower_bound >= best * (1 - 1e-4)); // a gap below that is not worked on
    fm_eplb_plan_free(plan);
}

static void hierarchy_property(void **state)
{
    (void)state;
    fm_gen_property(60, small_hierarchies_are_solved);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(hierarchy_property)};
    return fm_test_run("eplb.hierarchy", tests);
}
