#include "eplb_limited.h"

#include <limits.h>
#include <math.h>

#include "eplb_oracle.h"
#include "fm_test.h"

struct task {
    oracle_problem oracle;
    fm_eplb_shape shape;
    float weight[ORACLE_EXPERTS_MAX];
    int32_t gpu_slots_old[ORACLE_GPUS_MAX];
    int32_t gpu_slots[ORACLE_GPUS_MAX];
    int32_t current[ORACLE_SLOTS_MAX];
    fm_eplb_placement placement;
    fm_eplb_options options;
};

enum change { SAME, LOSE, SHRINK };

// What becomes of a GPU's slots.
static int slots_after(fm_gen *gen, enum change change, int gpu, int lost, int slots)
{
    if (change == SHRINK)
        return (int)fm_gen_int(gen, 0, slots);
    return gpu == lost ? 0 : slots;
}

// A full placement; LOSE: then a GPU goes, with its slots. SHRINK: then any of them may have fewer slots.
static void draw(struct task *task, fm_gen *gen, int experts_max, int gpus_max, int room_max,
                 enum change change)
{
    fm_eplb_problem *p = &task->oracle.problem;
    do
        oracle_draw(&task->oracle, gen, experts_max, gpus_max, room_max, 0);
    while (change == LOSE && p->gpus < 2);
    p->replicas = p->slots;
    oracle_fill(p, gen, task->current);
    int lost = change == LOSE ? (int)fm_gen_int(gen, 0, p->gpus - 1) : -1;
    int slots_old = p->slots;
    for (int gpu = 0; gpu < p->gpus; gpu++) {
        task->gpu_slots_old[gpu] = p->slot_begin[gpu + 1] - p->slot_begin[gpu];
        task->gpu_slots[gpu] = slots_after(gen, change, gpu, lost, task->gpu_slots_old[gpu]);
    }
    memset(task->oracle.before, 0, sizeof task->oracle.before);
    for (int gpu = 0; gpu < p->gpus; gpu++)
        for (int slot = p->slot_begin[gpu]; task->gpu_slots[gpu] > 0 && slot < p->slot_begin[gpu + 1]; slot++)
            task->oracle.before[gpu * (p->experts + 1) + task->current[slot]]++;
    for (int gpu = 0; gpu < p->gpus; gpu++)
        task->oracle.slot_begin[gpu + 1] = task->oracle.slot_begin[gpu] + task->gpu_slots[gpu];
    p->slots = p->replicas = task->oracle.slot_begin[p->gpus];
    p->before = task->oracle.before;
    for (int e = 0; e < p->experts; e++)
        task->weight[e] = (float)task->oracle.load[e];
    task->shape = (fm_eplb_shape){1, p->experts, p->replicas, 1, 1, p->gpus};
    task->placement = (fm_eplb_placement){task->current, slots_old, task->gpu_slots_old};
    task->options = (fm_eplb_options)FM_EPLB_OPTIONS_INIT;
    task->options.gpu_slots = task->gpu_slots;
    task->options.gpu_speed = task->oracle.speed;
    task->options.current = &task->placement;
}

static void compare_with_trying_all(struct task *task)
{
    const fm_eplb_problem *p = &task->oracle.problem;
    double best = oracle_best(p);
    fm_eplb_plan *plan = NULL;
    fm_status status = fm_eplb_rebalance(&task->shape, task->weight, &task->options, &plan);
    if (isinf(best)) {
        assert_int_equal(status, FM_ERR_NOT_FOUND);
        assert_null(plan);
        return;
    }
    assert_ok(status);
    assert_true(fabs(plan->certificate[0].max_load - best) <= 1e-6 * best);
    int most;
    int moves = oracle_moves(p, plan->phy2log, &most);
    assert_int_equal(plan->certificate[0].moves, moves);
    assert_true(moves <= p->moves_total);
    assert_true(most <= p->moves_per_gpu);
    fm_eplb_plan_free(plan);
}

static void bounded_plans_are_the_best_reachable(fm_gen *gen)
{
    struct task task;
    draw(&task, gen, 5, 3, 3, (enum change)fm_gen_int(gen, SAME, SHRINK));
    if (task.shape.replicas < task.shape.experts)
        return;
    task.options.moves = FM_EPLB_MOVES_BOUNDED;
    task.options.moves_per_gpu = (int)fm_gen_int(gen, 0, 3);
    task.oracle.problem.moves_per_gpu = task.options.moves_per_gpu;
    task.oracle.problem.moves_total = INT_MAX;
    compare_with_trying_all(&task);
}

// The fewest moves of any placement: the limit is raised until there is one.
static void recovery_moves_the_fewest(fm_gen *gen)
{
    struct task task;
    draw(&task, gen, 5, 4, 3, fm_gen_chance(gen, 0.5) ? LOSE : SHRINK);
    if (task.shape.replicas < task.shape.experts)
        return;
    task.options.moves = FM_EPLB_MOVES_FEWEST;
    fm_eplb_problem *p = &task.oracle.problem;
    p->moves_per_gpu = INT_MAX;
    p->moves_total = 0;
    while (isinf(oracle_best(p)))
        p->moves_total++;
    compare_with_trying_all(&task);
}

static void limited_property(void **state)
{
    (void)state;
    fm_gen_property(200, bounded_plans_are_the_best_reachable);
    fm_gen_property(200, recovery_moves_the_fewest);
}

// A layer of real size loses a GPU: what comes back is the orphans, one copy each, and the balance is near
// what free moves reach.
static void a_large_layer_recovers(void **state)
{
    (void)state;
    enum { EXPERTS = 256, GPUS = 32, ROOM = 9, LOST = 7 };
    fm_gen gen = fm_gen_seeded(11);
    float weight[EXPERTS];
    oracle_loads(&gen, 1, EXPERTS, weight);
    fm_eplb_shape shape = {1, EXPERTS, GPUS * ROOM, 1, 1, GPUS};
    fm_eplb_plan *before;
    fm_eplb_plan *after;
    fm_eplb_plan *free_moves;
    fm_eplb_options options = FM_EPLB_OPTIONS_INIT;
    assert_ok(fm_eplb_rebalance(&shape, weight, &options, &before));
    int orphans = 0;
    for (int e = 0; e < EXPERTS; e++) {
        int elsewhere = 0;
        for (int c = 0; c < before->logcnt[e]; c++)
            elsewhere += before->log2phy[e * before->copies_max + c] / ROOM != LOST;
        orphans += elsewhere == 0;
    }
    fm_eplb_placement current = {before->phy2log, GPUS * ROOM, NULL};
    int32_t gpu_slots[GPUS];
    for (int gpu = 0; gpu < GPUS; gpu++)
        gpu_slots[gpu] = gpu == LOST ? 0 : ROOM;
    shape.replicas -= ROOM;
    options.gpu_slots = gpu_slots;
    options.current = &current;
    assert_ok(fm_eplb_rebalance(&shape, weight, &options, &free_moves));
    options.moves = FM_EPLB_MOVES_FEWEST;
    assert_ok(fm_eplb_rebalance(&shape, weight, &options, &after));
    assert_true(orphans > 0);
    assert_int_equal(after->certificate[0].moves, orphans);
    assert_true(free_moves->certificate[0].moves > orphans);
    // Seven moves reach less than the two hundred that free ones are.
    assert_true(after->certificate[0].max_load < 1.15 * free_moves->certificate[0].max_load);
    fm_eplb_transfers *transfers;
    assert_ok(fm_eplb_transfers_new(&current, after, 1 << 20, 0, &transfers));
    assert_int_equal(transfers->count, orphans);
    for (size_t i = 0; i < transfers->count; i++)
        assert_int_equal(transfers->item[i].from_gpu, -1); // the only copy is gone: from storage
    fm_eplb_transfers_free(transfers);
    fm_eplb_plan_free(before);
    fm_eplb_plan_free(after);
    fm_eplb_plan_free(free_moves);
}

// More moves a GPU never make the balance worse, none at all leave the placement, and enough reach the free
// plan.
static void balance_follows_the_limit(void **state)
{
    (void)state;
    enum { EXPERTS = 64, GPUS = 16, SLOTS = 80 };
    fm_gen gen = fm_gen_seeded(12);
    float old_weight[EXPERTS];
    float weight[EXPERTS];
    oracle_loads(&gen, 1, EXPERTS, old_weight);
    oracle_loads(&gen, 1, EXPERTS, weight);
    fm_eplb_shape shape = {1, EXPERTS, SLOTS, 1, 1, GPUS};
    fm_eplb_plan *before;
    fm_eplb_plan *best;
    assert_ok(fm_eplb_rebalance(&shape, old_weight, NULL, &before));
    fm_eplb_placement current = {before->phy2log, SLOTS, NULL};
    fm_eplb_options options = FM_EPLB_OPTIONS_INIT;
    options.current = &current;
    assert_ok(fm_eplb_rebalance(&shape, weight, &options, &best));
    options.moves = FM_EPLB_MOVES_BOUNDED;
    double last = HUGE_VAL;
    for (int limit = 0; limit <= SLOTS / GPUS; limit++) {
        fm_eplb_plan *plan;
        options.moves_per_gpu = limit;
        assert_ok(fm_eplb_rebalance(&shape, weight, &options, &plan));
        assert_true(plan->certificate[0].max_load <= last);
        assert_true(plan->certificate[0].moves <= limit * GPUS);
        if (limit == 0)
            assert_memory_equal(plan->phy2log, before->phy2log, SLOTS * sizeof(int32_t));
        last = plan->certificate[0].max_load;
        fm_eplb_plan_free(plan);
    }
    assert_true(last <= 1.001 * best->certificate[0].max_load);
    fm_eplb_plan_free(before);
    fm_eplb_plan_free(best);
}

static void hierarchies_stay_hierarchies(void **state)
{
    (void)state;
    enum { EXPERTS = 64, GPUS = 8, SLOTS = 80, NODES = 2, GROUPS = 8 };
    fm_gen gen = fm_gen_seeded(13);
    float old_weight[EXPERTS];
    float weight[EXPERTS];
    oracle_loads(&gen, 1, EXPERTS, old_weight);
    oracle_loads(&gen, 1, EXPERTS, weight);
    fm_eplb_shape shape = {1, EXPERTS, SLOTS, GROUPS, NODES, GPUS};
    fm_eplb_plan *before;
    fm_eplb_plan *plan;
    assert_ok(fm_eplb_rebalance(&shape, old_weight, NULL, &before));
    fm_eplb_placement current = {before->phy2log, SLOTS, NULL};
    fm_eplb_options options = FM_EPLB_OPTIONS_INIT;
    options.current = &current;
    options.moves = FM_EPLB_MOVES_BOUNDED;
    options.moves_per_gpu = 2;
    assert_ok(fm_eplb_rebalance(&shape, weight, &options, &plan));
    for (int e = 0; e < EXPERTS; e++)
        for (int c = 0; c < plan->logcnt[e]; c++)
            assert_int_equal(plan->log2phy[e * plan->copies_max + c] / (SLOTS / NODES),
                             plan->log2phy[e / (EXPERTS / GROUPS) * (EXPERTS / GROUPS) * plan->copies_max] /
                                 (SLOTS / NODES));
    fm_eplb_plan_free(plan);
    // A global placement is no start for a hierarchical plan.
    fm_eplb_plan *global;
    fm_eplb_shape flat = {1, EXPERTS, SLOTS, 1, 1, GPUS};
    assert_ok(fm_eplb_rebalance(&flat, old_weight, NULL, &global));
    current.phy2log = global->phy2log;
    assert_fails(fm_eplb_rebalance(&shape, weight, &options, &plan), FM_ERR_NOT_FOUND,
                 "layer 0: the current placement");
    // Where every slot may change, no start is needed.
    options.moves_per_gpu = SLOTS / GPUS;
    assert_ok(fm_eplb_rebalance(&shape, weight, &options, &plan));
    assert_true(plan->certificate[0].gap < 0.01);
    fm_eplb_plan_free(plan);
    fm_eplb_plan_free(global);
    fm_eplb_plan_free(before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(limited_property),
        cmocka_unit_test(a_large_layer_recovers),
        cmocka_unit_test(balance_follows_the_limit),
        cmocka_unit_test(hierarchies_stay_hierarchies),
    };
    return fm_test_run("eplb.limited", tests);
}
