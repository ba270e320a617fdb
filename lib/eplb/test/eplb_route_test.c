#include <math.h>

#include "fm_gen.h"
#include "fm_test.h"

#include "fathom/eplb.h"

enum { EXPERTS_MAX = 10, GPUS_MAX = 8, ROOM_MAX = 4, SLOTS_MAX = GPUS_MAX * ROOM_MAX };

struct layer {
    int experts;
    int gpus;
    int32_t slot_begin[GPUS_MAX + 1];
    int32_t phy2log[SLOTS_MAX];
    double speed[GPUS_MAX];
    int64_t tokens[EXPERTS_MAX];
};

static void draw(struct layer *layer, fm_gen *gen, int experts_max, int gpus_max, int tokens_max, int even)
{
    layer->gpus = (int)fm_gen_int(gen, 1, gpus_max);
    layer->slot_begin[0] = 0;
    for (int gpu = 0; gpu < layer->gpus; gpu++) {
        layer->slot_begin[gpu + 1] = layer->slot_begin[gpu] + (int)fm_gen_int(gen, gpu > 0 ? 0 : 1, ROOM_MAX);
        layer->speed[gpu] = even ? 1 : fm_gen_real(gen, 0.5, 3);
    }
    int slots = layer->slot_begin[layer->gpus];
    layer->experts = (int)fm_gen_int(gen, 1, experts_max < slots ? experts_max : slots);
    for (int slot = 0; slot < slots; slot++)
        layer->phy2log[slot] =
            slot < layer->experts ? slot : (int32_t)fm_gen_int(gen, -1, layer->experts - 1);
    for (int slot = slots - 1; slot > 0; slot--) {
        int other = (int)fm_gen_int(gen, 0, slot);
        int32_t swap = layer->phy2log[slot];
        layer->phy2log[slot] = layer->phy2log[other];
        layer->phy2log[other] = swap;
    }
    for (int e = 0; e < layer->experts; e++)
        layer->tokens[e] = fm_gen_chance(gen, 0.2) ? 0 : fm_gen_int(gen, 0, tokens_max);
}

static double split(const struct layer *layer, int64_t *out_split)
{
    fm_eplb_router *router;
    assert_ok(fm_eplb_router_new(layer->experts, layer->gpus, layer->phy2log, layer->slot_begin, layer->speed,
                                 &router));
    double busiest = -1;
    double again = -1;
    int64_t second[SLOTS_MAX];
    assert_ok(fm_eplb_router_split(router, layer->tokens, out_split, &busiest));
    assert_ok(fm_eplb_router_split(router, layer->tokens, second, &again));
    fm_eplb_router_free(router);
    assert_true(busiest == again);
    int64_t sum[EXPERTS_MAX] = {0};
    double worst = 0;
    for (int gpu = 0; gpu < layer->gpus; gpu++) {
        int64_t here = 0;
        for (int slot = layer->slot_begin[gpu]; slot < layer->slot_begin[gpu + 1]; slot++) {
            assert_true(out_split[slot] >= 0);
            assert_true(out_split[slot] == second[slot]);
            here += out_split[slot];
            if (layer->phy2log[slot] >= 0)
                sum[layer->phy2log[slot]] += out_split[slot];
            else
                assert_int_equal(out_split[slot], 0);
        }
        worst = fmax(worst, (double)here / layer->speed[gpu]);
    }
    for (int e = 0; e < layer->experts; e++)
        assert_int_equal(sum[e], layer->tokens[e]);
    assert_true(worst == busiest);
    return busiest;
}

// Token by token over all ways.
static void try_tokens(const struct layer *layer, int expert, int64_t left, int64_t *load, double *best)
{
    while (expert < layer->experts && left == 0)
        left = ++expert < layer->experts ? layer->tokens[expert] : 0;
    double worst = 0;
    for (int gpu = 0; gpu < layer->gpus; gpu++)
        worst = fmax(worst, (double)load[gpu] / layer->speed[gpu]);
    if (worst >= *best)
        return;
    if (expert >= layer->experts) {
        *best = worst;
        return;
    }
    for (int gpu = 0; gpu < layer->gpus; gpu++) {
        int holds = 0;
        for (int slot = layer->slot_begin[gpu]; slot < layer->slot_begin[gpu + 1]; slot++)
            holds |= layer->phy2log[slot] == expert;
        if (!holds)
            continue;
        load[gpu]++;
        try_tokens(layer, expert, left - 1, load, best);
        load[gpu]--;
    }
}

static void small_batches_are_split_as_well_as_can_be(fm_gen *gen)
{
    struct layer layer = {0};
    draw(&layer, gen, 4, 4, 4, fm_gen_chance(gen, 0.5));
    int64_t out[SLOTS_MAX];
    double busiest = split(&layer, out);
    int64_t load[GPUS_MAX] = {0};
    double best = HUGE_VAL;
    try_tokens(&layer, 0, layer.tokens[0], load, &best);
    assert_true(fabs(busiest - best) <= 1e-9 * (1 + best));
}

/*
 * By max-flow min-cut the least time with equal speeds is the largest, over sets of experts, of their tokens
 * over the number of GPUs that hold any of them, rounded up.
 */
static void large_batches_reach_the_cut(fm_gen *gen)
{
    struct layer layer = {0};
    draw(&layer, gen, EXPERTS_MAX, GPUS_MAX, 1 << 20, 1);
    int64_t out[SLOTS_MAX];
    double busiest = split(&layer, out);
    int64_t bound = 0;
    for (int set = 1; set < 1 << layer.experts; set++) {
        int64_t tokens = 0;
        int gpus = 0;
        for (int e = 0; e < layer.experts; e++)
            tokens += set >> e & 1 ? layer.tokens[e] : 0;
        for (int gpu = 0; gpu < layer.gpus; gpu++) {
            int holds = 0;
            for (int slot = layer.slot_begin[gpu]; slot < layer.slot_begin[gpu + 1]; slot++)
                holds |= layer.phy2log[slot] >= 0 && (set >> layer.phy2log[slot] & 1);
            gpus += holds;
        }
        int64_t least = gpus > 0 ? (tokens + gpus - 1) / gpus : 0;
        bound = least > bound ? least : bound;
    }
    assert_true(busiest == (double)bound);
}

static void route_property(void **state)
{
    (void)state;
    fm_gen_property(300, small_batches_are_split_as_well_as_can_be);
    fm_gen_property(300, large_batches_reach_the_cut);
}

static void bad_batches_are_refused(void **state)
{
    (void)state;
    const int32_t phy2log[4] = {0, 1, 0, -1};
    const int32_t slot_begin[3] = {0, 2, 4};
    fm_eplb_router *router = NULL;
    assert_fails(fm_eplb_router_new(1, 2, phy2log, slot_begin, NULL, &router), FM_ERR_ARG, "expert 1");
    assert_fails(fm_eplb_router_new(2, 2, phy2log, slot_begin, (double[]){1, 0}, &router), FM_ERR_ARG,
                 "speed of GPU 1");
    assert_fails(fm_eplb_router_new(2, 2, phy2log, (int32_t[]){0, 3, 2}, NULL, &router), FM_ERR_ARG, "GPU 1");
    assert_null(router);
    assert_ok(fm_eplb_router_new(3, 2, phy2log, slot_begin, NULL, &router));
    int64_t out[4] = {9, 9, 9, 9};
    assert_fails(fm_eplb_router_split(router, (int64_t[]){1, -1, 0}, out, NULL), FM_ERR_ARG,
                 "expert 1 has -1");
    assert_fails(fm_eplb_router_split(router, (int64_t[]){1, 1, 1}, out, NULL), FM_ERR_ARG, "no slot");
    assert_fails(fm_eplb_router_split(router, (int64_t[]){(int64_t)1 << 39, 1, 0}, out, NULL), FM_ERR_LIMIT,
                 "tokens");
    assert_int_equal(out[0], 9);
    assert_ok(fm_eplb_router_split(router, (int64_t[]){0, 0, 0}, out, NULL));
    assert_int_equal(out[0], 0);
    // Copies on one GPU share what falls to it.
    fm_eplb_router_free(router);
    const int32_t twice[4] = {0, 0, 1, -1};
    assert_ok(fm_eplb_router_new(2, 2, twice, slot_begin, NULL, &router));
    assert_ok(fm_eplb_router_split(router, (int64_t[]){7, 2}, out, NULL));
    assert_int_equal(out[0], 4);
    assert_int_equal(out[1], 3);
    assert_int_equal(out[2], 2);
    fm_eplb_router_free(router);
}

static fm_status make_router(void *context)
{
    (void)context;
    const int32_t phy2log[4] = {0, 1, 0, -1};
    const int32_t slot_begin[3] = {0, 2, 4};
    fm_eplb_router *router = NULL;
    FM_TRY(fm_eplb_router_new(2, 2, phy2log, slot_begin, NULL, &router));
    fm_eplb_router_free(router);
    return FM_OK;
}

static void router_survives_without_memory(void **state)
{
    (void)state;
    fm_test_each_alloc_fails(make_router, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(route_property),
        cmocka_unit_test(bad_batches_are_refused),
        cmocka_unit_test(router_survives_without_memory),
    };
    return fm_test_run("eplb.route", tests);
}
