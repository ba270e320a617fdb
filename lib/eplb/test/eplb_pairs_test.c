#include "eplb_pairs.h"

#include <math.h>

#include "eplb_exact.h"
#include "eplb_oracle.h"
#include "fm_test.h"

static void draw_pairs(oracle_problem *oracle, fm_gen *gen, int experts_max, int gpus_max)
{
    do
        oracle_draw(oracle, gen, experts_max, gpus_max, 2, 1);
    while (oracle->problem.slots != 2 * oracle->problem.gpus);
}

static void pairs_are_at_least_as_good(fm_gen *gen)
{
    oracle_problem oracle;
    draw_pairs(&oracle, gen, 20, 16);
    fm_eplb_problem *p = &oracle.problem;
    assert_true(fm_eplb_pairs_apply(p));
    int32_t solution[ORACLE_SLOTS_MAX];
    oracle_fill(p, gen, solution);
    double before = oracle_time(p, solution);
    void *workspace = fm_base_mem_alloc(fm_eplb_pairs_workspace(p->experts, p->slots));
    double time = fm_eplb_pairs_search(p, workspace, 0, 200, 1, FM_EPLB_NO_DEADLINE, solution);
    fm_base_mem_free(workspace);
    assert_true(time <= before * (1 + 1e-12));
    assert_true(fabs(oracle_time(p, solution) - time) <= 1e-12 * time);
}

// With one replica for each expert only the pairing is left, and it is the optimum.
static void pairing_is_optimal(fm_gen *gen)
{
    oracle_problem oracle;
    draw_pairs(&oracle, gen, 8, 4);
    fm_eplb_problem *p = &oracle.problem;
    p->experts = p->slots;
    for (int e = 0; e < p->experts; e++)
        oracle.load[e] = fm_gen_real(gen, 0, 100);
    int32_t solution[ORACLE_SLOTS_MAX];
    oracle_fill(p, gen, solution);
    void *workspace = fm_base_mem_alloc(fm_eplb_pairs_workspace(p->experts, p->slots));
    double time = fm_eplb_pairs_search(p, workspace, 0, 10, 1, FM_EPLB_NO_DEADLINE, solution);
    fm_base_mem_free(workspace);
    double best = HUGE_VAL;
    assert_int_equal(fm_eplb_exact_solve(p, 1 << 20, FM_EPLB_NO_DEADLINE, &best, solution), 1);
    assert_true(fabs(time - best) <= 1e-9 * best);
}

static void pairs_property(void **state)
{
    (void)state;
    fm_gen_property(200, pairs_are_at_least_as_good);
    fm_gen_property(200, pairing_is_optimal);
}

static void other_shapes_are_left_to_others(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(3);
    oracle_problem oracle;
    draw_pairs(&oracle, &gen, 6, 4);
    oracle.speed[0] = 2;
    assert_int_equal(fm_eplb_pairs_apply(&oracle.problem), oracle.problem.gpus == 1);
    oracle.speed[0] = 1;
    oracle.problem.replicas--;
    assert_false(fm_eplb_pairs_apply(&oracle.problem));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(pairs_property),
                                       cmocka_unit_test(other_shapes_are_left_to_others)};
    return fm_test_run("eplb.pairs", tests);
}
