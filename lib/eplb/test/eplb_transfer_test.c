#include <string.h>

#include "eplb_oracle.h"
#include "fm_test.h"

#include "fathom/eplb.h"

enum { LAYERS = 3, GPUS_MAX = 6, ROOM_MAX = 4, SLOTS_MAX = GPUS_MAX * ROOM_MAX, EXPERTS_MAX = 12 };

struct cluster {
    fm_eplb_shape shape;
    int slots_old;
    int32_t gpu_slots_old[GPUS_MAX];
    int32_t old[LAYERS * SLOTS_MAX];
    int32_t begin_old[GPUS_MAX + 1];
    int32_t begin[GPUS_MAX + 1];
    int32_t to[LAYERS * SLOTS_MAX];
    fm_eplb_plan plan;
};

static void draw(struct cluster *c, fm_gen *gen)
{
    memset(c, 0, sizeof *c);
    c->shape.gpus = (int)fm_gen_int(gen, 1, GPUS_MAX);
    c->shape.nodes = fm_gen_chance(gen, 0.5) ? c->shape.gpus : 1;
    c->shape.groups = 1;
    c->shape.layers = LAYERS;
    c->shape.experts = (int)fm_gen_int(gen, 1, EXPERTS_MAX);
    int same = fm_gen_chance(gen, 0.7); // as many slots as before
    for (int gpu = 0; gpu < c->shape.gpus; gpu++) {
        c->gpu_slots_old[gpu] = (int32_t)fm_gen_int(gen, 1, ROOM_MAX);
        c->begin_old[gpu + 1] = c->begin_old[gpu] + c->gpu_slots_old[gpu];
        int room = same ? c->gpu_slots_old[gpu] : (int)fm_gen_int(gen, gpu > 0 ? 0 : 1, ROOM_MAX);
        c->begin[gpu + 1] = c->begin[gpu] + room;
    }
    c->slots_old = c->begin_old[c->shape.gpus];
    c->plan.shape = c->shape;
    c->plan.slots = c->begin[c->shape.gpus];
    c->plan.slot_begin = c->begin;
    c->plan.phy2log = c->to;
    int permute = same && fm_gen_chance(gen, 0.5); // many cycles
    for (int layer = 0; layer < LAYERS; layer++) {
        int32_t *old = c->old + layer * c->slots_old;
        int32_t *to = c->to + layer * c->plan.slots;
        for (int slot = 0; slot < c->slots_old; slot++)
            old[slot] =
                permute ? slot % c->shape.experts : (int32_t)fm_gen_int(gen, -1, c->shape.experts - 1);
        for (int slot = 0; slot < c->plan.slots; slot++)
            to[slot] = permute ? old[slot] : (int32_t)fm_gen_int(gen, -1, c->shape.experts - 1);
        for (int slot = c->plan.slots - 1; permute && slot > 0; slot--) {
            int other = (int)fm_gen_int(gen, 0, slot);
            int32_t swap = to[slot];
            to[slot] = to[other];
            to[other] = swap;
        }
    }
}

// What each GPU holds while the transfers run: its slots by position, then its spare buffers.
struct memory {
    int32_t slot[GPUS_MAX][ROOM_MAX];
    int32_t spare[GPUS_MAX][SLOTS_MAX];
    int spares[GPUS_MAX];
};

static int32_t read_source(const struct cluster *c, const struct memory *memory, const fm_eplb_transfer *t)
{
    if (t->from_gpu < 0)
        return t->expert; // from storage
    if (t->from_slot >= 0)
        return memory->slot[t->from_gpu][t->from_slot - c->begin_old[t->from_gpu]];
    for (int i = 0; i < memory->spares[t->from_gpu]; i++)
        if (memory->spare[t->from_gpu][i] == t->expert)
            return t->expert;
    return -1;
}

// One layer: within a round all reads see the memory as the round began, and no slot that is read is written.
static void run_layer(const struct cluster *c, const fm_eplb_transfers *transfers, size_t first, size_t last,
                      int layer)
{
    struct memory memory;
    memset(&memory, 0xff, sizeof memory);
    memset(memory.spares, 0, sizeof memory.spares);
    for (int gpu = 0; gpu < c->shape.gpus; gpu++)
        for (int i = 0; i < c->gpu_slots_old[gpu]; i++)
            memory.slot[gpu][i] = c->old[layer * c->slots_old + c->begin_old[gpu] + i];
    for (size_t i = first; i < last;) {
        struct memory before = memory;
        int round = transfers->item[i].round;
        size_t end = i;
        while (end < last && transfers->item[end].round == round)
            end++;
        for (size_t k = i; k < end; k++) {
            const fm_eplb_transfer *t = &transfers->item[k];
            assert_int_equal(read_source(c, &before, t), t->expert);
            for (size_t w = i; w < end; w++) {
                const fm_eplb_transfer *writer = &transfers->item[w];
                assert_false(t->from_slot >= 0 && writer->to_slot >= 0 && writer->to_gpu == t->from_gpu &&
                             writer->to_slot - c->begin[t->from_gpu] ==
                                 t->from_slot - c->begin_old[t->from_gpu]);
            }
            if (t->to_slot >= 0)
                memory.slot[t->to_gpu][t->to_slot - c->begin[t->to_gpu]] = t->expert;
            else
                memory.spare[t->to_gpu][memory.spares[t->to_gpu]++] = t->expert;
        }
        i = end;
    }
    for (int gpu = 0; gpu < c->shape.gpus; gpu++) {
        assert_true(memory.spares[gpu] <= transfers->spare_slots);
        for (int slot = c->begin[gpu]; slot < c->begin[gpu + 1]; slot++) {
            int32_t expert = c->to[layer * c->plan.slots + slot];
            if (expert >= 0)
                assert_int_equal(memory.slot[gpu][slot - c->begin[gpu]], expert);
        }
    }
}

static void running_the_transfers_gives_the_plan(fm_gen *gen)
{
    static struct cluster c;
    draw(&c, gen);
    fm_eplb_placement from = {c.old, c.slots_old, c.gpu_slots_old};
    int drained = fm_gen_chance(gen, 0.5);
    fm_eplb_transfers *transfers;
    assert_ok(fm_eplb_transfers_new(&from, &c.plan, 10, drained, &transfers));
    size_t first = 0;
    int64_t bytes = 0;
    for (int layer = 0; layer < LAYERS; layer++) {
        size_t last = first;
        for (; last < transfers->count && transfers->item[last].layer == layer; last++) {
            const fm_eplb_transfer *t = &transfers->item[last];
            assert_true(last == first || t->round >= transfers->item[last - 1].round);
            assert_true(t->round < transfers->rounds_max);
            bytes += t->from_gpu == t->to_gpu ? 0 : 10;
            if (t->from_gpu >= 0 && !drained)
                assert_true(c.begin[t->from_gpu] < c.begin[t->from_gpu + 1]); // not from a lost GPU
        }
        run_layer(&c, transfers, first, last, layer);
        first = last;
    }
    assert_int_equal(first, transfers->count);
    assert_int_equal(bytes, transfers->bytes);
    assert_int_equal(transfers->spare_bytes, 10 * transfers->spare_slots);
    fm_eplb_transfers_free(transfers);
}

static void transfer_property(void **state)
{
    (void)state;
    fm_gen_property(400, running_the_transfers_gives_the_plan);
}

// Two GPUs exchange their only experts: one spare buffer, three rounds, two copies over the wire.
static void an_exchange_needs_one_spare_buffer(void **state)
{
    (void)state;
    const int32_t old[2] = {0, 1};
    int32_t to[2] = {1, 0};
    int32_t begin[3] = {0, 1, 2};
    fm_eplb_plan plan = {.shape = {1, 2, 2, 1, 1, 2}, .slots = 2, .slot_begin = begin, .phy2log = to};
    fm_eplb_placement from = {old, 2, NULL};
    fm_eplb_transfers *transfers;
    assert_ok(fm_eplb_transfers_new(&from, &plan, 100, 0, &transfers));
    assert_int_equal(transfers->count, 3);
    assert_int_equal(transfers->rounds_max, 3);
    assert_int_equal(transfers->spare_slots, 1);
    assert_int_equal(transfers->bytes, 200);
    assert_int_equal(transfers->bytes_in_max, 100);
    assert_int_equal(transfers->bytes_out_max, 100);
    fm_eplb_transfers_free(transfers);
    // The same placement needs nothing.
    to[0] = 0;
    to[1] = 1;
    assert_ok(fm_eplb_transfers_new(&from, &plan, 100, 0, &transfers));
    assert_int_equal(transfers->count, 0);
    fm_eplb_transfers_free(transfers);
}

static fm_status build(void *context)
{
    fm_eplb_transfers *transfers = NULL;
    struct cluster *c = context;
    fm_eplb_placement from = {c->old, c->slots_old, c->gpu_slots_old};
    fm_status status = fm_eplb_transfers_new(&from, &c->plan, 10, 0, &transfers);
    fm_eplb_transfers_free(transfers);
    return status;
}

static void transfers_survive_without_memory(void **state)
{
    (void)state;
    static struct cluster c;
    fm_gen gen = fm_gen_seeded(5);
    draw(&c, &gen);
    fm_test_each_alloc_fails(build, &c);
}

static void bad_transfers_are_refused(void **state)
{
    (void)state;
    const int32_t old[2] = {0, 7};
    int32_t to[2] = {1, 0};
    int32_t begin[3] = {0, 1, 2};
    fm_eplb_plan plan = {.shape = {1, 2, 2, 1, 1, 2}, .slots = 2, .slot_begin = begin, .phy2log = to};
    fm_eplb_placement from = {old, 2, NULL};
    fm_eplb_transfers *transfers = NULL;
    assert_fails(fm_eplb_transfers_new(&from, &plan, 1, 0, &transfers), FM_ERR_ARG, "slot 1");
    const int32_t good[2] = {0, 1};
    from.phy2log = good;
    assert_fails(fm_eplb_transfers_new(&from, &plan, -1, 0, &transfers), FM_ERR_ARG, "bytes");
    assert_null(transfers);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(transfer_property),
        cmocka_unit_test(an_exchange_needs_one_spare_buffer),
        cmocka_unit_test(transfers_survive_without_memory),
        cmocka_unit_test(bad_transfers_are_refused),
    };
    return fm_test_run("eplb.transfer", tests);
}
