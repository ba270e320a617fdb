#include "fm_test.h"
#include "fm_gen.h"

#include "net_timer.h"

enum { TIMERS = 100 };

// Against an array that is searched for the soonest each time.
static void any_sequence(fm_gen *gen)
{
    struct net_timers timers = {0};
    fm_net_timer timer[TIMERS] = {0};
    int64_t due[TIMERS];
    uint64_t set_at[TIMERS];
    int set[TIMERS] = {0};
    uint64_t serial = 0;
    for (int step = 0; step < 600; step++) {
        int i = (int)fm_gen_int(gen, 0, TIMERS - 1);
        switch (fm_gen_int(gen, 0, 3)) {
        case 0:
        case 1: // few distinct times, so that ties are common
            due[i] = fm_gen_int(gen, 0, 20);
            set[i] = 1;
            set_at[i] = serial++;
            assert_ok(fm_net_timers_set(&timers, &timer[i], due[i]));
            break;
        case 2:
            set[i] = 0;
            fm_net_timers_unset(&timers, &timer[i]);
            break;
        default: {
            int best = -1;
            for (int k = 0; k < TIMERS; k++)
                if (set[k] &&
                    (best < 0 || due[k] < due[best] || (due[k] == due[best] && set_at[k] < set_at[best])))
                    best = k;
            int64_t now = fm_gen_int(gen, 0, 20);
            assert_true(fm_net_timers_due_ns(&timers) == (best < 0 ? FM_NET_FOREVER : due[best]));
            fm_net_timer *popped = fm_net_timers_pop(&timers, now);
            if (best >= 0 && due[best] <= now) {
                assert_ptr_equal(popped, &timer[best]);
                set[best] = 0;
            } else {
                assert_null(popped);
            }
        }
        }
        for (int k = 0; k < TIMERS; k++)
            assert_int_equal(timer[k].place != 0, set[k]);
    }
    fm_net_timers_clear(&timers);
    for (int k = 0; k < TIMERS; k++)
        assert_int_equal(timer[k].place, 0);
}

static void the_soonest_comes_first(void **state)
{
    (void)state;
    fm_gen_property(50, any_sequence);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_soonest_comes_first)};
    return fm_test_run("net.timer", tests);
}
