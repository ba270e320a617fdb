#include "eplb_greedy.h"

#include <math.h>

#include "eplb_oracle.h"
#include "fm_test.h"

// The least largest share over all count vectors, expert by expert.
static double least_share(const fm_eplb_problem *p, int expert, int left, double largest)
{
    if (expert == p->experts)
        return largest;
    double best = HUGE_VAL;
    for (int c = 1; c <= left - (p->experts - 1 - expert); c++)
        best = fmin(best, least_share(p, expert + 1, left - c, fmax(largest, p->load[expert] / c)));
    return best;
}

static void counts_make_the_largest_share_least(fm_gen *gen)
{
    oracle_problem oracle;
    oracle_draw(&oracle, gen, 6, 4, 3, 0);
    int32_t heap[8];
    int32_t count[8];
    const fm_eplb_problem *p = &oracle.problem;
    double share = fm_eplb_greedy_counts(p, heap, count);
    assert_true(share == least_share(p, 0, p->replicas, 0));
    int sum = 0;
    for (int e = 0; e < p->experts; e++)
        sum += count[e];
    assert_int_equal(sum, p->replicas);
}

static void solutions_are_complete(fm_gen *gen)
{
    oracle_problem oracle;
    oracle_draw(&oracle, gen, 20, 12, 5, 0);
    int32_t workspace[2 * 20 + 12];
    double load[12];
    int32_t solution[60];
    fm_eplb_greedy_solve(&oracle.problem, workspace, load, solution);
    assert_true(oracle_time(&oracle.problem, solution) > 0);
}

static void greedy_property(void **state)
{
    (void)state;
    fm_gen_property(200, counts_make_the_largest_share_least);
    fm_gen_property(200, solutions_are_complete);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(greedy_property)};
    return fm_test_run("eplb.greedy", tests);
}
