#include "eplb_exact.h"

#include <limits.h>
#include <math.h>

#include "eplb_oracle.h"
#include "fm_test.h"

static void optimum_is_that_of_trying_all(fm_gen *gen)
{
    oracle_problem oracle;
    oracle_draw(&oracle, gen, 4, 3, 3, fm_gen_chance(gen, 0.3));
    fm_eplb_problem *p = &oracle.problem;
    p->distinct = fm_gen_chance(gen, 0.5);
    if (fm_gen_chance(gen, 0.5)) { // a limit on moves, from a random placement
        int32_t old[ORACLE_SLOTS_MAX];
        oracle_fill(p, gen, old);
        memset(oracle.before, 0, sizeof oracle.before);
        for (int gpu = 0; gpu < p->gpus; gpu++)
            for (int slot = p->slot_begin[gpu]; slot < p->slot_begin[gpu + 1]; slot++)
                if (old[slot] < p->experts)
                    oracle.before[gpu * (p->experts + 1) + old[slot]]++;
        p->before = oracle.before;
        p->moves_per_gpu = (int)fm_gen_int(gen, 0, 3);
        p->moves_total = fm_gen_chance(gen, 0.5) ? INT_MAX : (int)fm_gen_int(gen, 0, 5);
    }
    double best = oracle_best(p);
    double time = HUGE_VAL;
    int32_t solution[ORACLE_SLOTS_MAX];
    assert_int_equal(fm_eplb_exact_solve(p, INT_MAX, FM_EPLB_NO_DEADLINE, &time, solution), 1);
    if (isinf(best)) {
        assert_true(isinf(time));
        return;
    }
    assert_true(fabs(time - best) <= 1e-9 * best);
    assert_true(fabs(oracle_time(p, solution) - time) <= 1e-9 * best);
    // Nothing is below the optimum, and the solution stays as it is then.
    int32_t first = solution[0];
    assert_int_equal(fm_eplb_exact_solve(p, INT_MAX, FM_EPLB_NO_DEADLINE, &time, solution), 1);
    assert_int_equal(solution[0], first);
}

static void exact_property(void **state)
{
    (void)state;
    fm_gen_property(400, optimum_is_that_of_trying_all);
}

static void runs_out_of_nodes_honestly(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(1);
    oracle_problem oracle;
    do
        oracle_draw(&oracle, &gen, 8, 8, 3, 1);
    while (oracle.problem.experts < 6 || oracle.problem.gpus < 6);
    double time = HUGE_VAL;
    int32_t solution[ORACLE_SLOTS_MAX];
    assert_int_equal(fm_eplb_exact_solve(&oracle.problem, 40, FM_EPLB_NO_DEADLINE, &time, solution), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(exact_property),
                                       cmocka_unit_test(runs_out_of_nodes_honestly)};
    return fm_test_run("eplb.exact", tests);
}
