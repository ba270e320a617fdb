#include "eplb_relabel.h"

#include "fm_gen.h"
#include "fm_test.h"

enum { GPUS_MAX = 6, ROOM_MAX = 4, SLOTS_MAX = GPUS_MAX * ROOM_MAX, EXPERTS_MAX = 10 };

struct shapes {
    int nodes;
    int gpus;
    int experts;
    int32_t begin[GPUS_MAX + 1];     // of the plan
    int32_t begin_old[GPUS_MAX + 1]; // of the current placement
    double speed[GPUS_MAX];
    int32_t plan[SLOTS_MAX];
    int32_t current[SLOTS_MAX];
};

static int common(const struct shapes *s, int part, int gpu)
{
    int sum = 0;
    for (int e = 0; e < s->experts; e++) {
        int a = 0;
        int b = 0;
        for (int slot = s->begin[part]; slot < s->begin[part + 1]; slot++)
            a += s->plan[slot] == e;
        for (int slot = s->begin_old[gpu]; slot < s->begin_old[gpu + 1]; slot++)
            b += s->current[slot] == e;
        sum += a < b ? a : b;
    }
    return sum;
}

static int alike(const struct shapes *s, int a, int b)
{
    return s->begin[a + 1] - s->begin[a] == s->begin[b + 1] - s->begin[b] && s->speed[a] == s->speed[b];
}

// The most copies that can stay, over all allowed ways to give parts to GPUs.
static int try_parts(const struct shapes *s, int part, int used, const int *node_of)
{
    if (part == s->gpus)
        return 0;
    int n = s->gpus / s->nodes;
    int best = -1;
    for (int gpu = 0; gpu < s->gpus; gpu++) {
        if (used >> gpu & 1 || !alike(s, part, gpu) || gpu / n != node_of[part / n])
            continue;
        int rest = try_parts(s, part + 1, used | 1 << gpu, node_of);
        if (rest >= 0 && rest + common(s, part, gpu) > best)
            best = rest + common(s, part, gpu);
    }
    return best;
}

static int try_nodes(const struct shapes *s, int node, int used, int *node_of)
{
    if (node == s->nodes)
        return try_parts(s, 0, 0, node_of);
    int n = s->gpus / s->nodes;
    int best = -1;
    for (int target = 0; target < s->nodes; target++) {
        int fits = !(used >> target & 1);
        for (int i = 0; fits && i < n; i++)
            fits = alike(s, node * n + i, target * n + i);
        if (!fits)
            continue;
        node_of[node] = target;
        int here = try_nodes(s, node + 1, used | 1 << target, node_of);
        best = here > best ? here : best;
    }
    return best;
}

static void draw(struct shapes *s, fm_gen *gen)
{
    s->nodes = (int)fm_gen_int(gen, 1, 3);
    s->gpus = s->nodes * (int)fm_gen_int(gen, 1, GPUS_MAX / s->nodes);
    s->experts = (int)fm_gen_int(gen, 1, EXPERTS_MAX);
    s->begin[0] = s->begin_old[0] = 0;
    int room = (int)fm_gen_int(gen, 1, ROOM_MAX);
    int uneven = fm_gen_chance(gen, 0.3);
    for (int gpu = 0; gpu < s->gpus; gpu++) {
        int here = uneven ? (int)fm_gen_int(gen, 1, ROOM_MAX) : room;
        s->begin[gpu + 1] = s->begin[gpu] + here;
        s->begin_old[gpu + 1] =
            s->begin_old[gpu] + (fm_gen_chance(gen, 0.8) ? here : (int)fm_gen_int(gen, 0, ROOM_MAX));
        s->speed[gpu] = uneven && fm_gen_chance(gen, 0.5) ? 2 : 1;
    }
    for (int slot = 0; slot < s->begin[s->gpus]; slot++)
        s->plan[slot] = (int32_t)fm_gen_int(gen, -1, s->experts - 1);
    for (int slot = 0; slot < s->begin_old[s->gpus]; slot++)
        s->current[slot] = (int32_t)fm_gen_int(gen, -1, s->experts - 1);
}

static void the_most_copies_stay(fm_gen *gen)
{
    struct shapes s = {0};
    draw(&s, gen);
    if (s.begin_old[s.gpus] == 0)
        return;
    int32_t gpu_slots[GPUS_MAX] = {0};
    for (int gpu = 0; gpu < s.gpus; gpu++)
        gpu_slots[gpu] = s.begin_old[gpu + 1] - s.begin_old[gpu];
    fm_eplb_shape shape = {1, s.experts, s.experts, 1, 1, s.gpus};
    fm_eplb_index old;
    assert_ok(fm_eplb_index_init(&old, &shape, s.begin_old[s.gpus], gpu_slots));
    fm_eplb_index_build(&old, s.current);
    fm_eplb_relabeler relabeler;
    assert_ok(fm_eplb_relabeler_init(&relabeler, s.nodes, s.gpus, s.begin[s.gpus], s.begin, s.speed, &old));
    int node_of[GPUS_MAX];
    int stay = try_nodes(&s, 0, 0, node_of);
    int filled = 0;
    int count_before[EXPERTS_MAX + 1] = {0};
    for (int slot = 0; slot < s.begin[s.gpus]; slot++) {
        filled += s.plan[slot] >= 0;
        count_before[s.plan[slot] + 1]++;
    }
    fm_eplb_relabel(&relabeler, s.current, s.plan);
    int most;
    int moves = fm_eplb_moves_count(&relabeler, s.plan, &most);
    assert_int_equal(moves, filled - stay);
    // The plan holds what it held, and whoever stays on its GPU keeps its slot.
    int kept = 0;
    for (int gpu = 0; gpu < s.gpus; gpu++)
        for (int i = 0; i < s.begin[gpu + 1] - s.begin[gpu] && i < gpu_slots[gpu]; i++) {
            int expert = s.current[s.begin_old[gpu] + i];
            kept += expert >= 0 && s.plan[s.begin[gpu] + i] == expert;
        }
    assert_true(kept <= stay);
    for (int slot = 0; slot < s.begin[s.gpus]; slot++)
        count_before[s.plan[slot] + 1]--;
    for (int e = 0; e <= s.experts; e++)
        assert_int_equal(count_before[e], 0);
    int same_slots = 1;
    for (int gpu = 0; gpu < s.gpus; gpu++)
        same_slots &= gpu_slots[gpu] <= s.begin[gpu + 1] - s.begin[gpu];
    if (same_slots)
        assert_int_equal(kept, stay);
    fm_eplb_relabeler_clean_up(&relabeler);
    fm_eplb_index_clean_up(&old);
}

static void relabel_property(void **state)
{
    (void)state;
    fm_gen_property(400, the_most_copies_stay);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(relabel_property)};
    return fm_test_run("eplb.relabel", tests);
}
