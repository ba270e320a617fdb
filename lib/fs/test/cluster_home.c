#include "fm_test.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cluster_home.h"
#include "fathom/fs_cluster.h"

uint64_t home_target_bytes;

static fm_fs_cluster *running;

static void stop(int signal_number)
{
    (void)signal_number;
    fm_fs_cluster_stop(running); // NOLINT(bugprone-signal-handler): its contract allows it
}

static void start(struct home *home)
{
    home->pid = fork();
    assert_true(home->pid >= 0);
    if (home->pid > 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL); // a test that fails leaves nothing running
    if (fm_fs_cluster_up(home->dir, &running) < 0) {
        fprintf(stderr, "up: %s\n", fm_error_message());
        _exit(1);
    }
    signal(SIGTERM, stop);
    fm_status status = fm_fs_cluster_run(running);
    fm_fs_cluster_down(running);
    _exit(status < 0);
}

void home_open(struct home *home)
{
    static int number;
    fm_fs_cluster_options options = {
        .size = sizeof options, .targets = 2, .replicas = 1, .target_bytes = home_target_bytes};
    snprintf(home->dir, sizeof home->dir, "%s/home-%d", fm_test_tmpdir(), number++);
    assert_ok(fm_fs_cluster_init(home->dir, &options));
    start(home);
}

static void end(struct home *home, int how)
{
    int state;
    kill(home->pid, how);
    assert_int_equal(waitpid(home->pid, &state, 0), home->pid);
}

void home_restart(struct home *home, int how)
{
    end(home, how);
    start(home);
}

void home_close(struct home *home)
{
    end(home, SIGTERM);
}

static void tell(void *context, const char *text)
{
    (void)context;
    print_error("found: %s\n", text);
}

fm_fs_meta_census home_check(fm_fs_volume *volume)
{
    fm_fs_meta_census census;
    assert_ok(fm_fs_meta_check(fm_fs_volume_meta(volume), tell, NULL, &census));
    assert_int_equal(census.findings, 0);
    return census;
}
