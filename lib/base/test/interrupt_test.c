#include "fm_test.h"

#include "fathom/interrupt.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void first_signal_sets_the_flag(void **state)
{
    (void)state;
    assert_int_equal(fm_base_interrupted(), 0);
    assert_ok(fm_base_interrupt_check());
    assert_ok(fm_base_interrupt_install());
    assert_fails(fm_base_interrupt_install(), FM_ERR_STATE, "already");
    raise(SIGTERM);
    assert_int_equal(fm_base_interrupted(), 1);
    assert_int_equal(fm_base_interrupt_signal, SIGTERM);
    assert_fails(fm_base_interrupt_check(), FM_ERR_CANCELLED, "Terminated");
    fm_base_interrupt_restore();
    assert_int_equal(fm_base_interrupted(), 0);
    fm_base_interrupt_restore();
}

/* Runs `child` in a process of its own; returns its wait status. */
static int in_child(void (*child)(void))
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        child();
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void interrupted_twice(void)
{
    if (fm_base_interrupt_install() < 0)
        _exit(1);
    raise(SIGTERM);
    raise(SIGINT); // another signal than the first counts as the second, too
    _exit(2);
}

static void second_signal_ends_the_process(void **state)
{
    (void)state;
    int status = in_child(interrupted_twice);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGINT);
}

static void interrupted_while_ignoring(void)
{
    signal(SIGINT, SIG_IGN);
    if (fm_base_interrupt_install() < 0)
        _exit(1);
    raise(SIGINT);
    _exit(fm_base_interrupted() ? 2 : 0);
}

static void ignored_signals_stay_ignored(void **state)
{
    (void)state;
    int status = in_child(interrupted_while_ignoring);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void *poll_flag(void *context)
{
    (void)context;
    while (!fm_base_interrupted())
        usleep(1000);
    return NULL;
}

static void other_threads_see_the_flag(void **state)
{
    (void)state;
    assert_ok(fm_base_interrupt_install());
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, poll_flag, NULL), 0);
    kill(getpid(), SIGINT);
    pthread_join(thread, NULL);
    assert_fails(fm_base_interrupt_check(), FM_ERR_CANCELLED, "Interrupt");
    fm_base_interrupt_restore();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_signal_sets_the_flag),
        cmocka_unit_test(second_signal_ends_the_process),
        cmocka_unit_test(ignored_signals_stay_ignored),
        cmocka_unit_test(other_threads_see_the_flag),
    };
    return fm_test_run("base.interrupt", tests);
}
