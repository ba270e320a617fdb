#include "fm_test.h"

#include "fathom/clock.h"

#include <pthread.h>
#include <signal.h>
#include <sys/time.h>
#include <time.h>

enum { NS_PER_MS = 1000000 };

static void clocks_advance(void **state)
{
    (void)state;
    uint64_t last = fm_base_clock_ns();
    for (int i = 0; i < 10000; i++) {
        uint64_t now = fm_base_clock_ns();
        assert_true(now >= last);
        last = now;
    }
    // Within a second of what libc says, and past 2020.
    assert_true(fm_base_clock_unix_ns() / 1000000000u - (uint64_t)time(NULL) + 1 <= 2);
    assert_true(fm_base_clock_unix_ns() > UINT64_C(1577836800) * 1000000000u);
}

static void sleeping_takes_time_but_no_cpu(void **state)
{
    (void)state;
    uint64_t cpu = fm_base_clock_thread_cpu_ns();
    uint64_t begin = fm_base_clock_ns();
    fm_base_clock_sleep_ns(20 * NS_PER_MS);
    assert_true(fm_base_clock_ns() - begin >= 20 * NS_PER_MS);
    assert_true(fm_base_clock_thread_cpu_ns() - cpu < 10 * NS_PER_MS);
}

static volatile sig_atomic_t alarms;

static void on_alarm(int signal_number)
{
    (void)signal_number;
    alarms++;
}

static void a_signal_does_not_shorten_a_sleep(void **state)
{
    (void)state;
    struct sigaction action = {.sa_handler = on_alarm}, before;
    sigaction(SIGALRM, &action, &before);
    struct itimerval timer = {.it_value = {.tv_usec = 5000}, .it_interval = {.tv_usec = 5000}};
    setitimer(ITIMER_REAL, &timer, NULL);
    uint64_t begin = fm_base_clock_ns();
    fm_base_clock_sleep_ns(30 * NS_PER_MS);
    uint64_t took = fm_base_clock_ns() - begin;
    memset(&timer, 0, sizeof timer);
    setitimer(ITIMER_REAL, &timer, NULL);
    sigaction(SIGALRM, &before, NULL);
    assert_true(alarms > 0);
    assert_true(took >= 30 * NS_PER_MS);
}

static void a_wait_times_out(void **state)
{
    (void)state;
    uint64_t cpu = fm_base_clock_thread_cpu_ns();
    uint64_t begin = fm_base_clock_ns();
    fm_wait wait = fm_base_wait_begin(200);
    fm_status status;
    while ((status = fm_base_wait_step(&wait)) == FM_OK)
        ;
    assert_int_equal(status, FM_ERR_TIMEOUT);
    assert_non_null(strstr(fm_error_message(), "200 ms"));
    assert_true(fm_base_clock_ns() - begin >= 200 * NS_PER_MS);
    // Some 200 wake-ups; a wait that kept spinning would use the 200 ms.
    assert_true(fm_base_clock_thread_cpu_ns() - cpu < 60 * NS_PER_MS);

    wait = fm_base_wait_begin(0);
    assert_fails(fm_base_wait_step(&wait), FM_ERR_TIMEOUT, "0 ms");
    wait = fm_base_wait_begin(INT64_MAX); // does not overflow into the past
    assert_ok(fm_base_wait_step(&wait));
}

struct turns {
    uint32_t turn;
    int rounds;
    fm_status status;
};

static fm_status take_turns(struct turns *turns, uint32_t mine)
{
    for (int i = 0; i < turns->rounds; i++) {
        fm_wait wait = fm_base_wait_begin(30000);
        while (__atomic_load_n(&turns->turn, __ATOMIC_ACQUIRE) % 2 != mine)
            FM_TRY(fm_base_wait_step(&wait));
        __atomic_fetch_add(&turns->turn, 1, __ATOMIC_RELEASE);
    }
    return FM_OK;
}

static void *other_side(void *context)
{
    struct turns *turns = context;
    turns->status = take_turns(turns, 1);
    return NULL;
}

static void two_threads_take_turns(void **state)
{
    (void)state;
    struct turns turns = {.rounds = 1000};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, other_side, &turns), 0);
    fm_status mine = take_turns(&turns, 0);
    pthread_join(thread, NULL);
    assert_ok(mine);
    assert_ok(turns.status);
    assert_int_equal(turns.turn, 2000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clocks_advance),
        cmocka_unit_test(sleeping_takes_time_but_no_cpu),
        cmocka_unit_test(a_signal_does_not_shorten_a_sleep),
        cmocka_unit_test(a_wait_times_out),
        cmocka_unit_test(two_threads_take_turns),
    };
    return fm_test_run("base.clock", tests);
}
