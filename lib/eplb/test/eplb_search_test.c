#include "eplb_search.h"

#include <limits.h>
#include <math.h>

#include "eplb_oracle.h"
#include "fm_test.h"

static void check_state(const fm_eplb_search *search)
{
    const fm_eplb_problem *p = search->problem;
    fm_eplb_problem plain = *p;
    plain.distinct = 0;
    plain.before = NULL;
    double time = search->time[fm_eplb_search_busiest(search)];
    assert_true(fabs(oracle_time(&plain, search->expert) - time) <= 1e-12 * time);
    for (int e = 0; e <= p->experts; e++) {
        int count = 0;
        for (int slot = search->head[e]; slot >= 0; slot = search->next[slot]) {
            assert_int_equal(search->expert[slot], e);
            count++;
        }
        assert_int_equal(count, search->count[e]);
    }
    if (!p->before)
        return;
    int most;
    assert_int_equal(search->moves_total, oracle_moves(p, search->expert, &most));
    assert_true(most <= p->moves_per_gpu);
    assert_true(search->moves_total <= p->moves_total);
}

static int count_duplicates(const fm_eplb_search *search)
{
    int duplicates = 0;
    for (int gpu = 0; gpu < search->problem->gpus; gpu++)
        for (int e = 0; e < search->problem->experts; e++) {
            int held = fm_eplb_search_held(search, gpu, e);
            duplicates += held > 1 ? held - 1 : 0;
        }
    return duplicates;
}

static void searching_keeps_the_rules(fm_gen *gen)
{
    oracle_problem oracle;
    oracle_draw(&oracle, gen, 20, 12, 4, fm_gen_chance(gen, 0.5));
    fm_eplb_problem *p = &oracle.problem;
    int32_t solution[ORACLE_SLOTS_MAX];
    oracle_fill(p, gen, solution);
    if (fm_gen_chance(gen, 0.5)) {
        memset(oracle.before, 0, sizeof oracle.before);
        for (int gpu = 0; gpu < p->gpus; gpu++)
            for (int slot = p->slot_begin[gpu]; slot < p->slot_begin[gpu + 1]; slot++)
                oracle.before[gpu * (p->experts + 1) + solution[slot]]++;
        p->before = oracle.before;
        p->moves_per_gpu = (int)fm_gen_int(gen, 0, 3);
        p->moves_total = fm_gen_chance(gen, 0.5) ? INT_MAX : (int)fm_gen_int(gen, 0, 6);
    }
    fm_eplb_search search;
    assert_ok(fm_eplb_search_init(&search, p->experts, p->gpus, p->slots));
    fm_eplb_search_load(&search, p, solution);
    check_state(&search);
    double time = search.time[fm_eplb_search_busiest(&search)];
    p->distinct = fm_gen_chance(gen, 0.5);
    int duplicates = count_duplicates(&search);
    if (p->distinct && !p->before) {
        fm_eplb_search_repair(&search, HUGE_VAL);
        check_state(&search);
        assert_true(count_duplicates(&search) <= duplicates);
        duplicates = count_duplicates(&search);
        time = search.time[fm_eplb_search_busiest(&search)];
    }
    double descended = fm_eplb_search_descend(&search, HUGE_VAL, FM_EPLB_NO_DEADLINE);
    check_state(&search);
    assert_true(descended <= time);
    double explored = fm_eplb_search_explore(&search, 0, 30, 7, FM_EPLB_NO_DEADLINE);
    check_state(&search);
    assert_true(explored <= descended);
    assert_true(fabs(explored - search.time[fm_eplb_search_busiest(&search)]) <= 1e-9 * explored);
    if (p->distinct)
        assert_true(count_duplicates(&search) <= duplicates);
    fm_eplb_search_clean_up(&search);
}

// What relabel_time() foresees is what relabel() brings.
static void relabelling_is_foreseen(fm_gen *gen)
{
    oracle_problem oracle;
    oracle_draw(&oracle, gen, 8, 6, 4, 0);
    fm_eplb_problem *p = &oracle.problem;
    int32_t solution[ORACLE_SLOTS_MAX];
    oracle_fill(p, gen, solution);
    fm_eplb_search search;
    assert_ok(fm_eplb_search_init(&search, p->experts, p->gpus, p->slots));
    fm_eplb_search_load(&search, p, solution);
    for (int i = 0; i < 20; i++) {
        int slot = (int)fm_gen_int(gen, 0, p->slots - 1);
        int expert = (int)fm_gen_int(gen, 0, p->experts);
        int old = search.expert[slot];
        if (expert == old || (old != p->experts && search.count[old] < 2))
            continue;
        double foreseen = fm_eplb_search_relabel_time(&search, slot, expert);
        fm_eplb_search_relabel(&search, slot, expert);
        double worst = search.time[search.gpu[slot]];
        for (int e = 0; e < p->experts; e++)
            if (e == expert || e == old)
                for (int s = search.head[e]; s >= 0; s = search.next[s])
                    worst = fmax(worst, search.time[search.gpu[s]]);
        assert_true(fabs(foreseen - worst) <= 1e-12 * (1 + worst));
    }
    fm_eplb_search_clean_up(&search);
}

static void search_property(void **state)
{
    (void)state;
    fm_gen_property(300, searching_keeps_the_rules);
    fm_gen_property(200, relabelling_is_foreseen);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(search_property)};
    return fm_test_run("eplb.search", tests);
}
