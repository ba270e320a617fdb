#include "fm_test.h"
#include "fm_gen.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cluster_home.h"
#include "fathom/clock.h"
#include "fathom/fs_mount.h"
#include "hf3fs_usrbio.h"
#include "ring.h"

enum { CHUNK = 65536, BYTES = 10 * CHUNK + 123, HANG_S = 60 };

static struct home home;
static char dir[420];
static pid_t daemon_pid;
static uint8_t expected[BYTES];

/* A mount in a process of its own */

static void serve(int ready)
{
    fm_fs_mount *mount;
    fm_fs_volume *volume;
    const fm_fs_volume_options small = {.size = sizeof small, .chunk_bytes = CHUNK, .timeout_ms = 30000};
    const fm_fs_mount_options options = {.size = sizeof options};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    fm_status status = fm_fs_volume_open(home.dir, &small, &volume); // the mount has the same
    if (status == FM_OK)
        status = fm_fs_mount_open(home.dir, dir, &options, &mount);
    if (write(ready, &status, sizeof status) != sizeof status || status < 0)
        _exit(1);
    status = fm_fs_mount_run(mount);
    fm_fs_mount_close(mount);
    fm_fs_volume_close(volume);
    _exit(status < 0);
}

static fm_status mount_it(void)
{
    int ready[2];
    fm_status status = FM_ERR_IO;
    assert_int_equal(pipe(ready), 0);
    daemon_pid = fork();
    assert_true(daemon_pid >= 0);
    if (daemon_pid == 0)
        serve(ready[1]);
    close(ready[1]);
    assert_int_equal(read(ready[0], &status, sizeof status), sizeof status);
    close(ready[0]);
    return status;
}

static void end_mount(int how)
{
    int state;
    kill(daemon_pid, how);
    assert_int_equal(waitpid(daemon_pid, &state, 0), daemon_pid);
    if (how == SIGTERM)
        assert_true(WIFEXITED(state) && WEXITSTATUS(state) == 0);
}

static void open_mount(void)
{
    static int number;
    home_open(&home);
    snprintf(dir, sizeof dir, "%s/mount-%d", fm_test_tmpdir(), number++);
    assert_int_equal(mkdir(dir, 0755), 0);
    fm_status status = mount_it();
    if (status == FM_ERR_UNSUPPORTED || status == FM_ERR_UNAVAILABLE) {
        waitpid(daemon_pid, NULL, 0);
        home_close(&home);
        fm_test_skip("no mounts here: FUSE is missing, or not allowed");
    }
    assert_int_equal(status, FM_OK);
}

static void close_mount(void)
{
    end_mount(SIGTERM);
    home_close(&home);
}

static int open_file(const char *name, int flags)
{
    char path[500];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, flags | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    return fd;
}

// "f" holds `expected`.
static void make_file(void)
{
    fm_gen gen = fm_gen_seeded(4);
    int fd = open_file("f", O_WRONLY | O_CREAT);
    fm_gen_fill(&gen, expected, sizeof expected);
    assert_int_equal(write(fd, expected, sizeof expected), sizeof expected);
    assert_int_equal(close(fd), 0);
}

static struct timespec after_ms(int64_t ms)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    now.tv_sec += ms / 1000;
    now.tv_nsec += ms % 1000 * 1000000;
    if (now.tv_nsec >= 1000000000) {
        now.tv_nsec -= 1000000000;
        now.tv_sec++;
    }
    return now;
}

// One operation from beginning to end.
static int64_t run_one(struct hf3fs_ior *ior, const struct hf3fs_iov *iov, void *at, int fd, size_t offset,
                       uint64_t length)
{
    struct hf3fs_cqe cqe;
    int index = hf3fs_prep_io(ior, iov, ior->for_read, at, fd, offset, length, at);
    assert_true(index >= 0);
    assert_int_equal(hf3fs_submit_ios(ior), 0);
    assert_int_equal(hf3fs_wait_for_ios(ior, &cqe, 1, 1, NULL), 1);
    assert_int_equal(cqe.index, index);
    assert_ptr_equal(cqe.userdata, at);
    return cqe.result;
}

/* Cases */

static void run_program(void)
{
    char path[500];
    int state;
    snprintf(path, sizeof path, "%s/program", dir);
    pid_t child = fork();
    if (child == 0) {
        execl(FM_USRBIO_PROGRAM, FM_USRBIO_PROGRAM, path, (char *)NULL);
        _exit(127);
    }
    assert_int_equal(waitpid(child, &state, 0), child);
    assert_true(WIFEXITED(state));
    assert_int_equal(WEXITSTATUS(state), 0);
}

static void programs_for_3fs_run(void **state)
{
    (void)state;
    open_mount();
    run_program();
    close_mount();
}

static void what_cannot_be_made_is_refused(void **state)
{
    (void)state;
    struct hf3fs_ior reads;
    struct hf3fs_iov iov;
    const uint8_t nobody[16] = {1};
    char name[500];
    open_mount();
    assert_int_equal(hf3fs_iovcreate(&iov, "/", 4096, 0, -1), -ENOENT);
    assert_int_equal(hf3fs_iovcreate(&iov, "/none", 4096, 0, -1), -ENOENT);
    assert_int_equal(hf3fs_iovcreate(&iov, dir, 0, 0, -1), -EINVAL);
    assert_int_equal(hf3fs_iovcreate(&iov, dir, 4096, 8192, -1), -EINVAL);
    assert_int_equal(hf3fs_iovcreate(NULL, dir, 4096, 0, -1), -EINVAL);
    memset(name, 'a', sizeof name - 1);
    name[sizeof name - 1] = 0;
    assert_int_equal(hf3fs_iovcreate(&iov, name, 4096, 0, -1), -EINVAL);
    assert_int_equal(hf3fs_iovopen(&iov, nobody, dir, 4096, 0, -1), -ENOENT);
    assert_int_equal(hf3fs_iorcreate(&reads, dir, 0, true, 0, -1), -EINVAL);
    assert_int_equal(hf3fs_iorcreate(&reads, dir, 4, true, 5, -1), -EINVAL);
    assert_int_equal(hf3fs_iorcreate3(&reads, dir, 4, true, 0, 0, -1, -1), -EINVAL);
    assert_int_equal(hf3fs_iorcreate(&reads, "/", 4, true, 0, -1), -ENOENT);
    close_mount();
}

static void full_ring(struct hf3fs_ior *reads, const struct hf3fs_iov *iov, int fd)
{
    struct hf3fs_cqe cqes[4];
    for (int i = 0; i < 4; i++)
        assert_true(hf3fs_prep_io(reads, iov, true, iov->base, fd, 0, 1, NULL) >= 0);
    assert_int_equal(hf3fs_prep_io(reads, iov, true, iov->base, fd, 0, 1, NULL), -EAGAIN);
    assert_int_equal(hf3fs_submit_ios(reads), 0);
    assert_int_equal(hf3fs_wait_for_ios(reads, cqes, 4, 9, NULL), 4);
}

// A file that was closed stays registered; its number is taken until it is given back.
static int close_registered(struct hf3fs_ior *reads, const struct hf3fs_iov *iov, int fd, int handle)
{
    int number = fd;
    close(fd);
    assert_int_equal(run_one(reads, iov, iov->base, number, 0, 100), 100);
    fd = open_file("f", O_RDWR);
    assert_int_equal(fd, number);
    assert_int_equal(hf3fs_reg_fd(fd, 0), EINVAL);
    hf3fs_dereg_fd(fd);
    assert_int_equal(hf3fs_prep_io(reads, iov, true, iov->base, handle, 0, 1, NULL), -EBADF);
    assert_true(hf3fs_reg_fd(fd, 0) <= 0);
    return fd;
}

static void every_result_is_as_documented(void **state)
{
    (void)state;
    struct hf3fs_ior reads;
    struct hf3fs_ior writes;
    struct hf3fs_iov iov;
    struct hf3fs_iov blocks;
    struct hf3fs_iov wrapped;
    const uint8_t nobody[16] = {1};
    open_mount();
    make_file();
    assert_int_equal(hf3fs_iovcreate(&iov, dir, BYTES, 0, 0), 0);
    assert_int_equal(hf3fs_iovcreate(&blocks, dir, 4 * CHUNK, CHUNK, -1), 0);
    assert_int_equal(hf3fs_iorcreate4(&reads, dir, 4, true, 0, 0, -1, 0), 0);
    assert_int_equal(hf3fs_iorcreate2(&writes, dir, 4, false, 0, 1, -1), 0);
    assert_int_equal(hf3fs_io_entries(&reads), 4);
    assert_true(hf3fs_ior_size(4) > 4 * 64);
    // Files.
    int fd = open_file("f", O_RDWR);
    int only = open_file("f", O_RDONLY);
    int other = open("/dev/null", O_RDWR);
    assert_true(hf3fs_is_hf3fs(fd));
    assert_false(hf3fs_is_hf3fs(other));
    assert_int_equal(hf3fs_prep_io(&reads, &iov, true, iov.base, fd, 0, 1, NULL), -EBADF);
    assert_int_equal(hf3fs_reg_fd(other, 0), EBADF);
    assert_int_equal(hf3fs_reg_fd(-1, 0), EBADF);
    int handle = hf3fs_reg_fd(fd, 0);
    assert_true(handle <= 0);
    assert_int_equal(hf3fs_reg_fd(fd, 0), EINVAL);
    assert_true(hf3fs_reg_fd(only, 0) <= 0);
    // Preparing.
    assert_int_equal(hf3fs_prep_io(&reads, &iov, false, iov.base, fd, 0, 1, NULL), -EINVAL);
    assert_int_equal(hf3fs_prep_io(&reads, &iov, true, iov.base, fd, 0, 0, NULL), -EINVAL);
    assert_int_equal(hf3fs_prep_io(&reads, &iov, true, iov.base - 1, fd, 0, 1, NULL), -EINVAL);
    assert_int_equal(hf3fs_prep_io(&reads, &iov, true, iov.base + 1, fd, 0, BYTES, NULL), -EINVAL);
    assert_int_equal(hf3fs_prep_io(&reads, &iov, true, iov.base + 1, fd, 0, UINT64_MAX, NULL), -EINVAL);
    assert_int_equal(hf3fs_prep_io(&writes, &iov, false, iov.base, only, 0, 1, NULL), -EACCES);
    assert_int_equal(hf3fs_wait_for_ios(&reads, NULL, 0, 0, NULL), -EINVAL);
    // Results.
    assert_int_equal(run_one(&reads, &iov, iov.base, fd, 0, BYTES), BYTES);
    assert_memory_equal(iov.base, expected, BYTES);
    assert_int_equal(run_one(&reads, &iov, iov.base, handle, BYTES - 10, 4096), 10);
    assert_int_equal(run_one(&reads, &iov, iov.base, handle, BYTES, 4096), 0);
    assert_int_equal(run_one(&reads, &iov, iov.base, handle, (size_t)INT64_MAX, 1), -EINVAL);
    assert_int_equal(run_one(&reads, &blocks, blocks.base, fd, 0, CHUNK), CHUNK);
    assert_int_equal(run_one(&reads, &blocks, blocks.base + 1, fd, 0, CHUNK), -EINVAL);
    assert_int_equal(hf3fs_iovwrap(&wrapped, iov.base, nobody, dir, BYTES, 0, -1), 0);
    assert_int_equal(run_one(&reads, &wrapped, wrapped.base, fd, 0, 1), -EINVAL);
    assert_int_equal(hf3fs_iovwrap(&wrapped, iov.base, (const uint8_t *)iov.id, dir, BYTES, 0, -1), 0);
    assert_int_equal(run_one(&reads, &wrapped, wrapped.base + 5, fd, 5, 100), 100);
    assert_memory_equal(wrapped.base + 5, expected + 5, 100);
    assert_int_equal(run_one(&writes, &iov, iov.base, fd, (size_t)CHUNK << 32, 1), -EFBIG);
    fd = close_registered(&reads, &iov, fd, handle);
    full_ring(&reads, &iov, fd);
    hf3fs_iordestroy(&reads);
    hf3fs_iordestroy(&writes);
    hf3fs_iovdestroy(&iov);
    hf3fs_iovdestroy(&blocks);
    hf3fs_dereg_fd(fd);
    hf3fs_dereg_fd(only);
    close(other);
    close_mount();
}

static void holes_links_and_mount_points(void **state)
{
    (void)state;
    struct hf3fs_ior reads;
    struct hf3fs_ior whole;
    struct hf3fs_iov iov;
    char path[600];
    char link[600];
    char found[256];
    const size_t start[2] = {CHUNK, 4 * CHUNK};
    const size_t end[2] = {2 * CHUNK, 5 * CHUNK};
    open_mount();
    make_file();
    int fd = open_file("f", O_RDWR);
    snprintf(path, sizeof path, "%s/f", dir);
    snprintf(link, sizeof link, "%s/g", dir);
    int length = hf3fs_extract_mount_point(found, sizeof found, path);
    assert_int_equal(length, strlen(found) + 1);
    assert_int_equal(hf3fs_extract_mount_point(found, 3, path), length);
    assert_int_equal(hf3fs_extract_mount_point(found, sizeof found, "/"), -1);
    assert_int_equal(hf3fs_extract_mount_point(found, sizeof found, link), -1); // not there yet
    assert_int_equal(hf3fs_hardlink(path, link), 0);
    assert_int_equal(hf3fs_hardlink(path, link), EEXIST);
    assert_int_equal(hf3fs_hardlink("/dev/null", link), ENOTTY);
    assert_int_equal(hf3fs_extract_mount_point(found, sizeof found, link), length);
    assert_true(hf3fs_reg_fd(fd, 0) <= 0);
    assert_int_equal(hf3fs_punchhole(fd, 2, start, end, 0), 0);
    assert_int_equal(hf3fs_punchhole(fd, 1, end, start, 0), EINVAL);
    assert_int_equal(hf3fs_punchhole(fd, 1001, start, end, 0), EINVAL);
    memset(expected + CHUNK, 0, CHUNK);
    memset(expected + 4 * CHUNK, 0, CHUNK);
    assert_int_equal(hf3fs_iovcreate(&iov, dir, BYTES, 0, -1), 0);
    assert_int_equal(hf3fs_iorcreate4(&reads, dir, 1, true, 0, 0, -1, HF3FS_IOR_ALLOW_READ_UNCOMMITTED), 0);
    assert_int_equal(hf3fs_iorcreate4(&whole, dir, 1, true, 0, 0, -1, HF3FS_IOR_FORBID_READ_HOLES), 0);
    assert_int_equal(run_one(&reads, &iov, iov.base, fd, 0, BYTES), BYTES);
    assert_memory_equal(iov.base, expected, BYTES);
    assert_int_equal(run_one(&whole, &iov, iov.base, fd, 0, BYTES), -ENODATA);
    assert_int_equal(run_one(&whole, &iov, iov.base, fd, 2 * CHUNK, 2 * CHUNK), 2 * CHUNK);
    // What a ring writes the kernel's pages show at once; and the other way round.
    struct hf3fs_ior writes;
    char seen[8] = "";
    assert_int_equal(hf3fs_iorcreate(&writes, dir, 1, false, 0, -1), 0);
    assert_int_equal(pread(fd, seen, 5, 0), 5);
    memcpy(iov.base, "fresh", 5);
    assert_int_equal(run_one(&writes, &iov, iov.base, fd, 0, 5), 5);
    assert_int_equal(pread(fd, seen, 5, 0), 5);
    assert_string_equal(seen, "fresh");
    assert_int_equal(pwrite(fd, "again", 5, 0), 5);
    assert_int_equal(run_one(&reads, &iov, iov.base, fd, 0, 5), 5);
    assert_memory_equal(iov.base, "again", 5);
    // Small files, which lie beside their names.
    int small = open_file("small", O_RDWR | O_CREAT);
    assert_true(hf3fs_reg_fd(small, 0) <= 0);
    assert_int_equal(run_one(&writes, &iov, iov.base, small, 3, 5), 5);
    assert_int_equal(run_one(&reads, &iov, iov.base + 100, small, 0, 100), 8);
    assert_memory_equal(iov.base + 100, "\0\0\0again", 8);
    hf3fs_dereg_fd(small);
    close(small);
    hf3fs_iordestroy(&reads);
    hf3fs_iordestroy(&whole);
    hf3fs_iordestroy(&writes);
    hf3fs_iovdestroy(&iov);
    hf3fs_dereg_fd(fd);
    close(fd);
    close_mount();
}

static int count_results(struct hf3fs_ior *ior, int min, int64_t wait_ms)
{
    struct hf3fs_cqe cqes[64];
    struct timespec until = after_ms(wait_ms);
    return hf3fs_wait_for_ios(ior, cqes, 64, min, &until);
}

static void prepare(struct hf3fs_ior *ior, const struct hf3fs_iov *iov, int fd, int count)
{
    for (int i = 0; i < count; i++)
        assert_true(hf3fs_prep_io(ior, iov, true, iov->base, fd, 0, 100, NULL) >= 0);
    assert_int_equal(hf3fs_submit_ios(ior), 0);
}

static void batches_are_as_deep_as_asked(void **state)
{
    (void)state;
    struct hf3fs_ior ior;
    struct hf3fs_iov iov;
    enum { LONG_MS = HANG_S * 1000, SHORT_MS = 100 };
    open_mount();
    make_file();
    int fd = open_file("f", O_RDONLY);
    assert_true(hf3fs_reg_fd(fd, 0) <= 0);
    assert_int_equal(hf3fs_iovcreate(&iov, dir, 4096, 0, -1), 0);
    // Exactly 4 at a time.
    assert_int_equal(hf3fs_iorcreate2(&ior, dir, 64, true, 4, -1, -1), 0);
    prepare(&ior, &iov, fd, 3);
    assert_int_equal(count_results(&ior, 1, SHORT_MS), 0);
    prepare(&ior, &iov, fd, 6);
    assert_int_equal(count_results(&ior, 8, LONG_MS), 8);
    assert_int_equal(count_results(&ior, 1, SHORT_MS), 0);
    prepare(&ior, &iov, fd, 3);
    assert_int_equal(count_results(&ior, 4, LONG_MS), 4);
    hf3fs_iordestroy(&ior);
    // All there are.
    assert_int_equal(hf3fs_iorcreate(&ior, dir, 64, true, 0, -1), 0);
    prepare(&ior, &iov, fd, 37);
    assert_int_equal(count_results(&ior, 37, LONG_MS), 37);
    assert_int_equal(count_results(&ior, 0, LONG_MS), 0);
    hf3fs_iordestroy(&ior);
    // At most 4 at a time, at once; and fewer only after a while.
    assert_int_equal(hf3fs_iorcreate(&ior, dir, 64, true, -4, -1), 0);
    prepare(&ior, &iov, fd, 3);
    assert_int_equal(count_results(&ior, 3, LONG_MS), 3);
    hf3fs_iordestroy(&ior);
    assert_int_equal(hf3fs_iorcreate3(&ior, dir, 64, true, -4, 0, LONG_MS, -1), 0);
    prepare(&ior, &iov, fd, 7);
    assert_int_equal(count_results(&ior, 4, LONG_MS), 4);
    assert_int_equal(count_results(&ior, 1, SHORT_MS), 0);
    prepare(&ior, &iov, fd, 1);
    assert_int_equal(count_results(&ior, 4, LONG_MS), 4);
    hf3fs_iordestroy(&ior);
    assert_int_equal(hf3fs_iorcreate3(&ior, dir, 64, true, -4, 0, 20, -1), 0);
    prepare(&ior, &iov, fd, 3);
    assert_int_equal(count_results(&ior, 3, LONG_MS), 3);
    hf3fs_iordestroy(&ior);
    hf3fs_iovdestroy(&iov);
    hf3fs_dereg_fd(fd);
    close(fd);
    close_mount();
}

/* Programs that share, are many, and are killed */

static void child_of(void (*run)(void *context), void *context, pid_t *out_pid)
{
    *out_pid = fork();
    assert_true(*out_pid >= 0);
    if (*out_pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        run(context);
        _exit(0);
    }
}

static void ended_well(pid_t pid)
{
    int state;
    assert_int_equal(waitpid(pid, &state, 0), pid);
    assert_true(WIFEXITED(state) && WEXITSTATUS(state) == 0);
}

// The parent's registered file and memory, in a ring of the child's own.
static void use_what_was_inherited(void *context)
{
    struct hf3fs_iov *parents = context;
    struct hf3fs_iov wrapped;
    struct hf3fs_iov opened;
    struct hf3fs_ior ior;
    struct hf3fs_cqe cqe;
    int fd = parents->numa; // by which the parent tells it
    const uint8_t *id = (const uint8_t *)parents->id;
    if (hf3fs_iorcreate(&ior, dir, 4, true, 0, -1) != 0 ||
        hf3fs_iovwrap(&wrapped, parents->base, id, dir, parents->size, 0, -1) != 0 ||
        hf3fs_iovopen(&opened, id, dir, parents->size, 0, -1) != 0)
        _exit(2);
    if (hf3fs_prep_io(&ior, &wrapped, true, wrapped.base, fd, 0, 1000, NULL) < 0 ||
        hf3fs_submit_ios(&ior) != 0 || hf3fs_wait_for_ios(&ior, &cqe, 1, 1, NULL) != 1 || cqe.result != 1000)
        _exit(3);
    if (memcmp(opened.base, expected, 1000) != 0)
        _exit(4);
    hf3fs_iovdestroy(&opened);
    hf3fs_iordestroy(&ior);
}

static void memory_is_shared(void **state)
{
    (void)state;
    struct hf3fs_iov iov;
    struct hf3fs_iov again;
    pid_t pid;
    open_mount();
    make_file();
    int fd = open_file("f", O_RDONLY);
    assert_true(hf3fs_reg_fd(fd, 0) <= 0);
    assert_int_equal(hf3fs_iovcreate(&iov, dir, 65536, 0, -1), 0);
    struct hf3fs_iov given = iov;
    given.numa = fd;
    child_of(use_what_was_inherited, &given, &pid);
    ended_well(pid);
    assert_memory_equal(iov.base, expected, 1000);
    assert_int_equal(hf3fs_iovopen(&again, (const uint8_t *)iov.id, dir, 65537, 0, -1), -EINVAL);
    assert_int_equal(hf3fs_iovopen(&again, (const uint8_t *)iov.id, dir, 4096, 0, -1), 0);
    assert_memory_equal(again.base, expected, 1000);
    hf3fs_iovdestroy(&again);
    hf3fs_iovunlink(&iov);
    assert_int_equal(hf3fs_iovopen(&again, (const uint8_t *)iov.id, dir, 4096, 0, -1), -ENOENT);
    hf3fs_iovdestroy(&iov);
    hf3fs_dereg_fd(fd);
    close(fd);
    close_mount();
}

static void run_the_program(void *context)
{
    char path[500];
    snprintf(path, sizeof path, "%s/many-%d", dir, *(int *)context);
    execl(FM_USRBIO_PROGRAM, FM_USRBIO_PROGRAM, path, (char *)NULL);
    _exit(127);
}

// How many mappings of shared memory the mount's process has.
static unsigned mappings(void)
{
    return fm_test_mappings(daemon_pid, "memfd:hf3fs-iov");
}

// And descriptors of it.
static unsigned descriptors(void)
{
    char path[300];
    char target[300];
    unsigned count = 0;
    snprintf(path, sizeof path, "/proc/%d/fd", (int)daemon_pid);
    DIR *fds = opendir(path);
    assert_non_null(fds);
    for (const struct dirent *entry; (entry = readdir(fds));) {
        snprintf(path, sizeof path, "/proc/%d/fd/%s", (int)daemon_pid, entry->d_name);
        ssize_t length = readlink(path, target, sizeof target - 1);
        target[length > 0 ? length : 0] = 0;
        count += strstr(target, "memfd:hf3fs-iov") != NULL;
    }
    closedir(fds);
    return count;
}

// Reads without end, and tells when it has begun.
static void read_for_ever(void *context)
{
    struct hf3fs_ior ior;
    struct hf3fs_iov iov;
    struct hf3fs_cqe cqes[32];
    int told = *(int *)context;
    int fd = open_file("f", O_RDONLY);
    if (hf3fs_iorcreate(&ior, dir, 32, true, 0, -1) != 0 ||
        hf3fs_iovcreate(&iov, dir, (size_t)32 * CHUNK, 0, -1) != 0 || hf3fs_reg_fd(fd, 0) > 0)
        _exit(1);
    for (int round = 0;; round++) {
        for (int i = 0; i < 32; i++)
            if (hf3fs_prep_io(&ior, &iov, true, iov.base + (size_t)i * CHUNK, fd, (size_t)(i % 10) * CHUNK,
                              CHUNK, NULL) < 0)
                _exit(2);
        hf3fs_submit_ios(&ior);
        if (round == 3 && write(told, "x", 1) != 1)
            _exit(3);
        int got = hf3fs_wait_for_ios(&ior, cqes, 32, 16, NULL);
        if (got < 16 || (got < 32 && hf3fs_wait_for_ios(&ior, cqes, 32, 32 - got, NULL) != 32 - got))
            _exit(4);
    }
}

static void killed_programs_leave_nothing(void **state)
{
    (void)state;
    enum { KILLS = 8, MANY = 4 };
    pid_t pids[MANY];
    int numbers[MANY];
    open_mount();
    make_file();
    for (int i = 0; i < KILLS; i++) {
        int told[2];
        char byte;
        pid_t pid;
        assert_int_equal(pipe(told), 0);
        child_of(read_for_ever, &told[1], &pid);
        close(told[1]);
        assert_int_equal(read(told[0], &byte, 1), 1);
        close(told[0]);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
    for (int i = 0; i < MANY; i++) {
        numbers[i] = i;
        child_of(run_the_program, &numbers[i], &pids[i]);
    }
    for (int i = 0; i < MANY; i++)
        ended_well(pids[i]);
    for (uint64_t begin = fm_base_clock_ns(); mappings() > 0 || descriptors() > 0;) {
        assert_true(fm_base_clock_ns() - begin < (uint64_t)HANG_S * 1000000000);
        fm_base_clock_sleep_ns(10000000);
    }
    close_mount();
}

static void a_killed_mount_fails_who_waits(void **state)
{
    (void)state;
    struct hf3fs_ior ior;
    struct hf3fs_iov iov;
    struct hf3fs_cqe cqes[2];
    int stopped;
    open_mount();
    make_file();
    int fd = open_file("f", O_RDONLY);
    assert_true(hf3fs_reg_fd(fd, 0) <= 0);
    assert_int_equal(hf3fs_iorcreate(&ior, dir, 4, true, 0, -1), 0);
    assert_int_equal(hf3fs_iovcreate(&iov, dir, 4096, 0, -1), 0);
    // The cluster stands still, so that the operation is under way for sure when the mount ends.
    kill(home.pid, SIGSTOP);
    assert_int_equal(waitpid(home.pid, &stopped, WUNTRACED), home.pid);
    prepare(&ior, &iov, fd, 1);
    pid_t killer = fork();
    if (killer == 0) {
        fm_base_clock_sleep_ns(100000000); // mostly the parent waits by then, which is the harder case
        kill(daemon_pid, SIGKILL);
        _exit(0);
    }
    assert_int_equal(hf3fs_wait_for_ios(&ior, cqes, 2, 1, NULL), -ENOTCONN);
    assert_int_equal(hf3fs_wait_for_ios(&ior, cqes, 2, 1, NULL), -ENOTCONN);
    ended_well(killer);
    assert_int_equal(waitpid(daemon_pid, NULL, 0), daemon_pid);
    kill(home.pid, SIGCONT);
    struct hf3fs_iov none;
    assert_true(hf3fs_iovcreate(&none, dir, 4096, 0, -1) < 0);
    hf3fs_iovdestroy(&iov);
    hf3fs_iordestroy(&ior);
    hf3fs_dereg_fd(fd);
    close(fd);
    char command[500];
    snprintf(command, sizeof command, "umount -l %s", dir);
    assert_int_equal(system(command), 0); // NOLINT(cert-env33-c): the test's own mount
    assert_int_equal(mount_it(), FM_OK);
    run_program();
    close_mount();
}

// Whoever writes nonsense into a ring loses his connection, and nobody else does.
static void nonsense_ends_the_connection(void **state)
{
    (void)state;
    struct hf3fs_ior ior;
    struct hf3fs_ior good;
    struct hf3fs_iov iov;
    struct hf3fs_cqe cqe;
    static const struct {
        size_t word;
        uint32_t value;
    } nonsense[] = {{FM_FS_RING_PREPARED, 1000},
                    {FM_FS_RING_PREPARED, UINT32_MAX},
                    {FM_FS_RING_TAKEN, 3},
                    {FM_FS_RING_TAKEN, 1u << 31}};
    open_mount();
    make_file();
    for (size_t i = 0; i < sizeof nonsense / sizeof *nonsense; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            int fd = open_file("f", O_RDONLY);
            struct timespec until = after_ms(HANG_S * 1000);
            if (hf3fs_iorcreate(&ior, dir, 8, true, 0, -1) != 0 ||
                hf3fs_iovcreate(&iov, dir, 4096, 0, -1) != 0 || hf3fs_reg_fd(fd, 0) > 0)
                _exit(1);
            if (run_one(&ior, &iov, iov.base, fd, 0, 100) != 100)
                _exit(2);
            __atomic_store_n(fm_fs_ring_word(ior.iov.base, nonsense[i].word), nonsense[i].value,
                             __ATOMIC_SEQ_CST);
            hf3fs_submit_ios(&ior);
            int result = hf3fs_wait_for_ios(&ior, &cqe, 1, 1, &until);
            _exit(result == -ENOTCONN ? 0 : 3);
        }
        ended_well(pid);
    }
    // Entries that were changed after they were checked by hf3fs_prep_io() fail alone.
    int fd = open_file("f", O_RDONLY);
    assert_true(hf3fs_reg_fd(fd, 0) <= 0);
    assert_int_equal(hf3fs_iorcreate(&good, dir, 8, true, 0, -1), 0);
    assert_int_equal(hf3fs_iovcreate(&iov, dir, 4096, 0, -1), 0);
    static const struct {
        size_t place;
        uint64_t value;
        int64_t result;
    } fields[] = {{0, 12345, -EINVAL},        {16, 4096, -EINVAL},       {16, UINT64_MAX, -EINVAL},
                  {24, 0x1700000077, -EBADF}, {32, UINT64_MAX, -EINVAL}, {40, 0, -EINVAL},
                  {40, 4097, -EINVAL},        {40, UINT64_MAX, -EINVAL}, {32, INT64_MAX - 50, -EINVAL}};
    uint32_t at = 0;
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        assert_true(hf3fs_prep_io(&good, &iov, true, iov.base, fd, 0, 100, NULL) >= 0);
        uint8_t *entry = good.iov.base + FM_FS_RING_ENTRIES + (size_t)(at++ % 8) * FM_FS_RING_ENTRY_BYTES;
        memcpy(entry + fields[i].place, &fields[i].value, 8);
        assert_int_equal(hf3fs_submit_ios(&good), 0);
        assert_int_equal(hf3fs_wait_for_ios(&good, &cqe, 1, 1, NULL), 1);
        assert_int_equal(cqe.result, fields[i].result);
    }
    assert_int_equal(run_one(&good, &iov, iov.base, fd, 0, 100), 100);
    hf3fs_iordestroy(&good);
    hf3fs_iovdestroy(&iov);
    hf3fs_dereg_fd(fd);
    close(fd);
    close_mount();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(programs_for_3fs_run),          cmocka_unit_test(what_cannot_be_made_is_refused),
        cmocka_unit_test(every_result_is_as_documented), cmocka_unit_test(holes_links_and_mount_points),
        cmocka_unit_test(batches_are_as_deep_as_asked),  cmocka_unit_test(memory_is_shared),
        cmocka_unit_test(killed_programs_leave_nothing), cmocka_unit_test(a_killed_mount_fails_who_waits),
        cmocka_unit_test(nonsense_ends_the_connection),
    };
    return fm_test_run("usrbio", tests);
}
