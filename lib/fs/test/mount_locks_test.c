// Locks between two mounts: flock() and fcntl(), waiting, and what becomes of those whose mount is gone.
#include "fm_test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fathom/clock.h"
#include "mount_home.h"

enum { PATIENCE_S = 60, TURNS = 40 };

static struct mount_home home;

static int range_lock(int fd, int what, short type, off_t start, off_t length)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    return fcntl(fd, what, &lock);
}

static void assert_busy(int result)
{
    assert_int_equal(result, -1);
    assert_true(errno == EAGAIN || errno == EACCES);
}

static void ranges_hold_between_mounts(void **state)
{
    (void)state;
    mount_home_open(&home, 2, NULL);
    int here = mount_file(&home, 0, "a", O_RDWR | O_CREAT);
    int there = mount_file(&home, 1, "a", O_RDWR);
    assert_int_equal(range_lock(here, F_SETLK, F_WRLCK, 10, 10), 0);
    assert_busy(range_lock(there, F_SETLK, F_RDLCK, 19, 1));
    assert_int_equal(range_lock(there, F_SETLK, F_WRLCK, 20, 0), 0);
    struct flock asked = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 15};
    assert_int_equal(fcntl(there, F_GETLK, &asked), 0);
    assert_true(asked.l_type == F_WRLCK && asked.l_start == 10 && asked.l_len == 10);
    assert_int_equal(range_lock(here, F_SETLK, F_RDLCK, 12, 2), 0); // a part of it becomes shared
    assert_int_equal(range_lock(there, F_SETLK, F_RDLCK, 12, 2), 0);
    assert_busy(range_lock(there, F_SETLK, F_RDLCK, 12, 3));
    // flock() is another thing.
    assert_int_equal(flock(there, LOCK_EX | LOCK_NB), 0);
    assert_busy(flock(here, LOCK_SH | LOCK_NB));
    assert_int_equal(flock(there, LOCK_SH), 0);
    assert_int_equal(flock(here, LOCK_SH | LOCK_NB), 0);
    // Any close ends what its process has locked by fcntl(), the last one what was locked by flock().
    close(mount_file(&home, 0, "a", O_RDONLY));
    assert_int_equal(range_lock(there, F_SETLK, F_WRLCK, 0, 0), 0);
    assert_busy(flock(there, LOCK_EX | LOCK_NB));
    close(here);
    int result = -1; // the kernel may still be about to tell it
    for (int i = 0; i < PATIENCE_S * 100 && result < 0; i++) {
        result = flock(there, LOCK_EX | LOCK_NB);
        if (result < 0)
            fm_base_clock_sleep_ns(10000000);
    }
    assert_int_equal(result, 0);
    close(there);
    mount_home_close(&home);
}

// Descriptors that append know the end that another mount has moved, once they have the lock.
static void append_by_turns(int access)
{
    char expected[2 * TURNS * 8 + 1] = "";
    char got[sizeof expected];
    int fds[2];
    size_t length = 0;
    mount_home_open(&home, 2, NULL);
    int reader = mount_file(&home, 0, "log", O_RDONLY | O_CREAT);
    for (int mount = 0; mount < 2; mount++)
        fds[mount] = mount_file(&home, mount, "log", access | O_APPEND);
    for (int i = 0; i < 2 * TURNS; i++) {
        int fd = fds[i % 2];
        size_t pieces = 1 + (size_t)i % 3; // the later ones follow what waits in the mount already
        assert_int_equal(flock(fd, LOCK_EX), 0);
        char *line = expected + length;
        length += (size_t)snprintf(line, 9, "%07d\n", i);
        for (size_t part = 0; part < pieces; part++) {
            size_t from = part * 8 / pieces;
            size_t to = (part + 1) * 8 / pieces;
            assert_int_equal(write(fd, line + from, to - from), (ssize_t)(to - from));
        }
        assert_int_equal(flock(fd, LOCK_UN), 0);
        if (i % 8 == 0) {
            assert_int_equal(flock(reader, LOCK_SH), 0);
            assert_int_equal(pread(reader, got, sizeof got, 0), (ssize_t)length);
            assert_memory_equal(got, expected, length);
            assert_int_equal(flock(reader, LOCK_UN), 0);
        }
    }
    for (int mount = 0; mount < 2; mount++) {
        int fd = mount_file(&home, mount, "log", O_RDONLY);
        assert_int_equal(read(fd, got, sizeof got), (ssize_t)length);
        assert_memory_equal(got, expected, length);
        close(fd);
        close(fds[mount]);
    }
    close(reader);
    mount_home_close(&home);
}

static void appends_follow_each_other(void **state)
{
    (void)state;
    append_by_turns(O_WRONLY);
    append_by_turns(O_RDWR);
}

// A counter that two processes on two mounts take turns with: each must see what the other wrote.
static void count_up(int mount, int by_flock)
{
    int fd = mount_file(&home, mount, "counter", O_RDWR);
    for (int i = 0; i < TURNS; i++) {
        char text[16] = "";
        int failed = by_flock ? flock(fd, LOCK_EX) : range_lock(fd, F_SETLKW, F_WRLCK, 0, 0);
        if (failed || pread(fd, text, sizeof text - 1, 0) < 0) {
            fprintf(stderr, "mount %d, turn %d: %s: %s\n", mount, i, failed ? "lock" : "read",
                    strerror(errno));
            _exit(1);
        }
        int length = snprintf(text, sizeof text, "%d\n", (int)strtol(text, NULL, 10) + 1);
        if (pwrite(fd, text, (size_t)length, 0) != length)
            _exit(2);
        if (by_flock ? flock(fd, LOCK_UN) : range_lock(fd, F_SETLK, F_UNLCK, 0, 0))
            _exit(3);
    }
    _exit(0);
}

static void who_waits_is_woken_and_sees_what_was_written(void **state)
{
    (void)state;
    mount_home_open(&home, 2, NULL);
    for (int by_flock = 0; by_flock < 2; by_flock++) {
        char text[16] = "";
        pid_t children[4];
        close(mount_file(&home, 0, "counter", O_RDWR | O_CREAT | O_TRUNC));
        for (int i = 0; i < 4; i++) {
            children[i] = fork();
            if (children[i] == 0)
                count_up(i % 2, by_flock);
        }
        for (int i = 0; i < 4; i++) {
            int result;
            assert_int_equal(waitpid(children[i], &result, 0), children[i]);
            assert_int_equal(result, 0);
        }
        int fd = mount_file(&home, 1, "counter", O_RDONLY);
        assert_true(pread(fd, text, sizeof text - 1, 0) > 0);
        assert_int_equal(strtol(text, NULL, 10), 4 * TURNS);
        close(fd);
    }
    mount_home_close(&home);
}

static void nothing(int signal_number)
{
    (void)signal_number;
}

static void a_signal_ends_waiting(void **state)
{
    (void)state;
    int told[2];
    int result = 0;
    mount_home_open(&home, 2, NULL);
    int here = mount_file(&home, 0, "a", O_RDWR | O_CREAT);
    assert_int_equal(flock(here, LOCK_EX), 0);
    assert_int_equal(pipe(told), 0);
    pid_t child = fork();
    if (child == 0) {
        const struct sigaction action = {.sa_handler = nothing}; // without SA_RESTART
        sigaction(SIGUSR1, &action, NULL);
        int there = mount_file(&home, 1, "a", O_RDWR);
        if (write(told[1], "", 1) != 1)
            _exit(1);
        _exit(flock(there, LOCK_EX) == -1 && errno == EINTR ? 0 : 2);
    }
    char byte;
    assert_int_equal(read(told[0], &byte, 1), 1);
    for (int i = 0; i < PATIENCE_S * 20; i++) { // it may come before it waits: again, then
        kill(child, SIGUSR1);
        if (waitpid(child, &result, WNOHANG) == child)
            break;
        fm_base_clock_sleep_ns(50000000);
        result = -1;
    }
    assert_int_equal(result, 0);
    close(told[0]);
    close(told[1]);
    close(here);
    mount_home_close(&home);
}

static void a_mount_that_is_gone_has_no_locks(void **state)
{
    (void)state;
    const fm_fs_mount_options options = {.size = sizeof options, .lease_ms = 2000};
    char text[8] = "";
    mount_home_open(&home, 2, &options);
    // Killed: whoever waits gets it when the lease has ended.
    int here = mount_file(&home, 0, "a", O_RDWR | O_CREAT);
    int there = mount_file(&home, 1, "a", O_RDWR);
    assert_int_equal(flock(there, LOCK_EX), 0);
    mount_home_stop(&home, 1, SIGKILL);
    alarm(2 * PATIENCE_S);
    assert_int_equal(flock(here, LOCK_EX), 0);
    alarm(0);
    close(there);
    // Away for longer than its lease, which this one always is: what was locked cannot be used until it is opened anew.
    mount_home_start(&home, 1, &(fm_fs_mount_options){.size = sizeof options, .lease_ms = 1});
    there = mount_file(&home, 1, "b", O_RDWR | O_CREAT);
    assert_int_equal(flock(there, LOCK_EX), 0);
    int other = mount_file(&home, 0, "b", O_RDWR);
    alarm(2 * PATIENCE_S);
    assert_int_equal(flock(other, LOCK_EX), 0);
    alarm(0);
    ssize_t result = 0;
    for (int i = 0; i < PATIENCE_S * 10 && result >= 0; i++) {
        result = pwrite(there, "lost", 4, 0);
        if (result >= 0)
            fm_base_clock_sleep_ns(100000000);
    }
    assert_true(result == -1 && errno == EIO);
    close(there);
    for (result = -1; result < 0;) { // the kernel tells the close a little later
        there = mount_file(&home, 1, "b", O_RDWR);
        result = pread(there, text, 4, 0);
        close(there);
    }
    close(other);
    close(here);
    mount_home_close(&home);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges_hold_between_mounts),
        cmocka_unit_test(appends_follow_each_other),
        cmocka_unit_test(who_waits_is_woken_and_sees_what_was_written),
        cmocka_unit_test(a_signal_ends_waiting),
        cmocka_unit_test(a_mount_that_is_gone_has_no_locks),
    };
    mount_home_in_memory();
    return fm_test_run("mount_locks", tests);
}
