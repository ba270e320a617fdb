#include "fm_test.h"

#include "bench_team.h"

#include <sched.h>
#include <stdatomic.h>

enum { SIZE = 3 };

struct meeting {
    atomic_int present;  // members inside the body
    atomic_int seen_all; // members that saw all others inside
    int calls[SIZE];
    int cpus[SIZE];
};

// Every member waits inside until all are: it ends only when they run together.
static void meet(void *context, int member)
{
    struct meeting *meeting = context;
    meeting->calls[member]++;
    meeting->cpus[member] = sched_getcpu();
    atomic_fetch_add(&meeting->present, 1);
    while (atomic_load(&meeting->present) % SIZE != 0)
        sched_yield();
    atomic_fetch_add(&meeting->seen_all, 1);
}

static void members_run_together(void **state)
{
    (void)state;
    fm_bench_team *team;
    assert_ok(fm_bench_team_new(SIZE, &team));
    assert_int_equal(fm_bench_team_size(team), SIZE);
    struct meeting meeting = {0};
    for (int round = 1; round <= 50; round++) {
        fm_bench_team_run(team, meet, &meeting);
        for (int i = 0; i < SIZE; i++)
            assert_int_equal(meeting.calls[i], round);
        assert_int_equal(atomic_load(&meeting.seen_all), SIZE * round);
    }
    cpu_set_t allowed;
    assert_int_equal(sched_getaffinity(0, sizeof allowed, &allowed), 0);
    if (CPU_COUNT(&allowed) >= 2)
        assert_int_not_equal(meeting.cpus[0], meeting.cpus[1]);
    fm_bench_team_free(team);
    fm_bench_team_free(NULL);
}

static fm_status start_team(void *context)
{
    (void)context;
    fm_bench_team *team;
    FM_TRY(fm_bench_team_new(2, &team));
    fm_bench_team_free(team);
    return FM_OK;
}

static void refused_memory_is_reported(void **state)
{
    (void)state;
    fm_test_each_alloc_fails(start_team, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(members_run_together),
        cmocka_unit_test(refused_memory_is_reported),
    };
    return fm_test_run("bench.team", tests);
}
