#include "fm_test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mount_home.h"

enum { MEMORY_MIN = 2 << 10 }; // MiB: what the tests' clusters and files need, several times

static struct mount_home *open_home; // unmounted when a test fails in its middle

void mount_home_in_memory(void)
{
    struct statvfs space;
    if (access("/dev/shm", W_OK) == 0 && statvfs("/dev/shm", &space) == 0 &&
        space.f_bavail / 1024 * space.f_frsize / 1024 >= MEMORY_MIN)
        setenv("TMPDIR", "/dev/shm", 1);
}

static void take_away(const char *dir)
{
    if (umount2(dir, MNT_DETACH) != 0 && errno == EPERM) {
        char command[600];
        snprintf(command, sizeof command, "fusermount3 -u -z '%s' 2>/dev/null", dir);
        if (system(command) != 0) // NOLINT(concurrency-mt-unsafe): a test of one thread
            print_message("%s stays mounted\n", dir);
    }
}

static void leave(void)
{
    for (int i = 0; open_home && i < 2; i++)
        if (open_home->pids[i] > 0) {
            kill(open_home->pids[i], SIGKILL);
            take_away(open_home->dirs[i]);
        }
}

static void serve(const struct mount_home *home, int mount, const fm_fs_mount_options *options, int ready)
{
    fm_fs_mount *served;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    fm_status status = fm_fs_mount_open(home->home.dir, home->dirs[mount], options, &served);
    const char *text = status < 0 ? fm_error_message() : "";
    if (write(ready, text, strlen(text) + 1) < 0 || status < 0)
        _exit(1);
    close(ready);
    status = fm_fs_mount_run(served);
    fm_fs_mount_close(served);
    _exit(status < 0);
}

void mount_home_start(struct mount_home *home, int mount, const fm_fs_mount_options *options)
{
    int ready[2];
    char said[1024] = "";
    assert_int_equal(pipe(ready), 0);
    home->pids[mount] = fork();
    assert_true(home->pids[mount] >= 0);
    if (home->pids[mount] == 0) {
        close(ready[0]);
        serve(home, mount, options, ready[1]);
    }
    close(ready[1]);
    assert_true(read(ready[0], said, sizeof said - 1) > 0);
    close(ready[0]);
    if (!*said)
        return;
    waitpid(home->pids[mount], NULL, 0);
    home->pids[mount] = 0;
    if (!strstr(said, "cannot mount") && !strstr(said, "libfuse3"))
        fail_msg("%s", said);
    mount_home_close(home);
    fm_test_skip("%s", said);
}

void mount_home_open(struct mount_home *home, int count, const fm_fs_mount_options *options)
{
    memset(home, 0, sizeof *home);
    home_open(&home->home);
    if (!open_home)
        atexit(leave);
    open_home = home;
    for (int i = 0; i < 2; i++) { // a test may start the second one later
        snprintf(home->dirs[i], sizeof home->dirs[i], "%s-mount-%d", home->home.dir, i);
        assert_int_equal(mkdir(home->dirs[i], 0755), 0);
    }
    for (int i = 0; i < count; i++)
        mount_home_start(home, i, options);
}

void mount_home_stop(struct mount_home *home, int mount, int how)
{
    int state;
    kill(home->pids[mount], how);
    assert_int_equal(waitpid(home->pids[mount], &state, 0), home->pids[mount]);
    if (how == SIGKILL)
        take_away(home->dirs[mount]);
    home->pids[mount] = 0;
}

void mount_home_close(struct mount_home *home)
{
    for (int i = 0; i < 2; i++)
        if (home->pids[i] > 0)
            mount_home_stop(home, i, SIGTERM);
    fm_fs_volume *volume;
    assert_ok(fm_fs_volume_open(home->home.dir, NULL, &volume));
    home_check(volume);
    fm_fs_volume_close(volume);
    home_close(&home->home);
}

const char *mount_path(const struct mount_home *home, int mount, const char *name)
{
    static char paths[8][8192];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", home->dirs[mount], name);
    return path;
}

int mount_file(const struct mount_home *home, int mount, const char *name, int flags)
{
    int fd = open(mount_path(home, mount, name), flags | O_CLOEXEC, 0644);
    if (fd < 0)
        print_error("open %s: %s\n", name, strerror(errno));
    assert_true(fd >= 0);
    return fd;
}
