#include "eplb_bound.h"

#include <math.h>

#include "eplb_exact.h"
#include "eplb_greedy.h"
#include "eplb_oracle.h"
#include "fm_test.h"

static void no_bound_is_above_the_optimum(fm_gen *gen)
{
    oracle_problem oracle;
    oracle_draw(&oracle, gen, 7, 6, 3, fm_gen_chance(gen, 0.5));
    fm_eplb_problem *p = &oracle.problem;
    double best = HUGE_VAL;
    int32_t solution[ORACLE_SLOTS_MAX];
    if (!fm_eplb_exact_solve(p, 1 << 16, FM_EPLB_NO_DEADLINE, &best, solution))
        return;
    double mean = fm_eplb_bound_mean(p);
    assert_true(mean <= best * (1 + 1e-12));
    // Even when it is told of a solution that is too good to be true.
    double bound = fm_eplb_bound_raise(p, mean, best * fm_gen_real(gen, 1, 2), 200, FM_EPLB_NO_DEADLINE);
    assert_true(bound >= mean);
    assert_true(bound <= best * (1 + 1e-9));
}

static void bound_property(void **state)
{
    (void)state;
    fm_gen_property(400, no_bound_is_above_the_optimum);
}

// One slot a GPU: the largest share. Two: the threshold bound must come close to the optimum where the mean
// does not.
static void thresholds_prove_more_than_the_mean(void **state)
{
    (void)state;
    enum { EXPERTS = 128, GPUS = 72 };
    double load[EXPERTS];
    int32_t slot_begin[GPUS + 1];
    double speed[GPUS];
    for (int e = 0; e < EXPERTS; e++)
        load[e] = pow(e + 1, -0.8);
    for (int gpu = 0; gpu <= GPUS; gpu++)
        slot_begin[gpu] = 2 * gpu;
    for (int gpu = 0; gpu < GPUS; gpu++)
        speed[gpu] = 1;
    fm_eplb_problem problem = {.experts = EXPERTS,
                               .gpus = GPUS,
                               .slots = 2 * GPUS,
                               .replicas = 2 * GPUS,
                               .load = load,
                               .slot_begin = slot_begin,
                               .speed = speed};
    int32_t heap[EXPERTS];
    int32_t count[EXPERTS];
    double share = fm_eplb_greedy_counts(&problem, heap, count);
    double simple = fmax(fm_eplb_bound_mean(&problem), share);
    double bound = fm_eplb_bound_raise(&problem, simple, 2 * simple, 400, FM_EPLB_NO_DEADLINE);
    assert_true(bound > 1.05 * simple);
    // A GPU that has gone counts for nothing.
    slot_begin[GPUS] = slot_begin[GPUS - 1];
    problem.slots = problem.replicas = 2 * (GPUS - 1);
    double without = fm_eplb_bound_raise(&problem, simple, 2 * simple, 400, FM_EPLB_NO_DEADLINE);
    problem.gpus--;
    assert_true(without == fm_eplb_bound_raise(&problem, simple, 2 * simple, 400, FM_EPLB_NO_DEADLINE));
}

// Equal experts, two to a GPU, and some GPUs of half the speed: these take twice as long, whatever the mean is.
static void slow_gpus_raise_the_bound(void **state)
{
    (void)state;
    enum { GPUS = 12, SLOW = 3, EXPERTS = 2 * GPUS };
    double load[EXPERTS];
    int32_t slot_begin[GPUS + 1];
    double speed[GPUS];
    for (int e = 0; e < EXPERTS; e++)
        load[e] = 1;
    for (int gpu = 0; gpu <= GPUS; gpu++)
        slot_begin[gpu] = 2 * gpu;
    for (int gpu = 0; gpu < GPUS; gpu++)
        speed[gpu] = gpu < SLOW ? 0.5 : 1;
    fm_eplb_problem problem = {.experts = EXPERTS,
                               .gpus = GPUS,
                               .slots = EXPERTS,
                               .replicas = EXPERTS,
                               .load = load,
                               .slot_begin = slot_begin,
                               .speed = speed};
    double bound = fm_eplb_bound_raise(&problem, fm_eplb_bound_mean(&problem), 4, 1000, FM_EPLB_NO_DEADLINE);
    assert_true(bound > 3.9);
    assert_true(bound <= 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bound_property),
        cmocka_unit_test(thresholds_prove_more_than_the_mean),
        cmocka_unit_test(slow_gpus_raise_the_bound),
    };
    return fm_test_run("eplb.bound", tests);
}
