#include "fm_test.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fathom/fs.h"

static fm_fs *open_tmp(void)
{
    fm_fs *fs;
    assert_ok(fm_fs_open(fm_test_tmpdir(), 0, &fs));
    return fs;
}

static void only_regular_files_open(void **state)
{
    (void)state;
    char path[4300];
    fm_fs *fs = open_tmp();
    fm_fs_file *file = NULL;
    fm_fs_info info;
    assert_ok(fm_fs_mkdir(fs, "dir", 0));
    assert_fails(fm_fs_file_open(fs, "dir", FM_FS_READ, &file), FM_ERR_FS_IS_DIR, "dir");
    assert_fails(fm_fs_file_open(fs, "dir", FM_FS_WRITE, &file), FM_ERR_FS_IS_DIR, "dir");

    snprintf(path, sizeof path, "%s/pipe", fm_test_tmpdir());
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_fails(fm_fs_file_open(fs, "pipe", FM_FS_READ, &file), FM_ERR_UNSUPPORTED, "neither a file nor");
    assert_fails(fm_fs_file_open(fs, "pipe", FM_FS_WRITE, &file), FM_ERR_UNSUPPORTED, "pipe");
    assert_fails(fm_fs_file_open(fs, "pipe", FM_FS_READ | FM_FS_WRITE, &file), FM_ERR_UNSUPPORTED,
                 "neither a file nor");
    assert_ok(fm_fs_stat(fs, "pipe", &info));
    assert_int_equal(info.type, FM_FS_TYPE_OTHER);

    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%.90s/socket", fm_test_tmpdir());
    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_fails(fm_fs_file_open(fs, "socket", FM_FS_READ, &file), FM_ERR_UNSUPPORTED, "socket");
    close(listener);
    assert_null(file);
    fm_fs_close(fs);
}

static void holes_read_as_zero_and_ends_are_short(void **state)
{
    (void)state;
    fm_fs *fs = open_tmp();
    fm_fs_file *file;
    fm_fs_info info;
    char data[16];
    size_t got;
    const uint64_t far = (uint64_t)5 << 32; // beyond what 32 bits hold
    assert_ok(fm_fs_file_open(fs, "sparse", FM_FS_READ | FM_FS_WRITE | FM_FS_CREATE, &file));
    assert_ok(fm_fs_file_write(file, "end", 3, far));
    assert_ok(fm_fs_file_stat(file, &info));
    assert_int_equal(info.size, far + 3);
    assert_ok(fm_fs_file_read(file, data, sizeof data, far - 2, &got));
    assert_int_equal(got, 5);
    assert_memory_equal(data, "\0\0end", 5);
    assert_ok(fm_fs_file_read(file, data, sizeof data, far + 3, &got));
    assert_int_equal(got, 0);
    assert_ok(fm_fs_file_read(file, data, sizeof data, far + 1000, &got));
    assert_int_equal(got, 0);
    assert_ok(fm_fs_file_truncate(file, far + 1));
    assert_ok(fm_fs_file_read(file, data, sizeof data, far, &got));
    assert_int_equal(got, 1);
    assert_fails(fm_fs_file_write(file, "x", 1, INT64_MAX - 1), FM_ERR_LIMIT, "sparse");
    fm_fs_file_close(file);
    assert_fails(fm_fs_read_all(fs, "sparse", 1000, &(void *){NULL}, &got), FM_ERR_LIMIT, "at most 1000");
    assert_ok(fm_fs_unlink(fs, "sparse"));
    fm_fs_close(fs);
}

static void too_many_open_files_is_a_limit(void **state)
{
    (void)state;
    enum { FILES = 64 };
    fm_fs *fs = open_tmp();
    fm_fs_file *files[FILES];
    fm_fs_list *list;
    fm_fs_info info;
    struct rlimit before;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    struct rlimit few = {32, before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    int opened = 0;
    fm_status status = FM_OK;
    while (opened < FILES && status == FM_OK) {
        status = fm_fs_file_open(fs, "many", FM_FS_WRITE | FM_FS_CREATE, &files[opened]);
        opened += status == FM_OK;
    }
    assert_true(opened > 0 && opened < 32);
    assert_int_equal(status, FM_ERR_LIMIT);
    assert_non_null(strstr(fm_error_message(), "Too many open files"));
    assert_fails(fm_fs_stat(fs, "many", &info), FM_ERR_LIMIT, "open files");
    assert_fails(fm_fs_list_open(fs, ".", &list), FM_ERR_LIMIT, "open files");
    assert_fails(fm_fs_mkdir(fs, "d/e", 0), FM_ERR_LIMIT, "open files");
    assert_fails(fm_fs_write_all(fs, "other", "x", 1, 0), FM_ERR_LIMIT, "open files");
    while (opened > 0)
        fm_fs_file_close(files[--opened]);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_ok(fm_fs_stat(fs, "many", &info)); // nothing was leaked
    fm_fs_close(fs);
}

static int put(const char *path, const char *text)
{
    int file = open(path, O_WRONLY);
    int done = file >= 0 && write(file, text, strlen(text)) == (ssize_t)strlen(text);
    if (file >= 0)
        close(file);
    return done;
}

// Enters a mount namespace of its own: in a user namespace in which the user is root, where the user is not root already.
static int enter_own_mounts(void)
{
    uid_t user = geteuid();
    gid_t group = getegid();
    char users[64], groups[64];
    snprintf(users, sizeof users, "0 %u 1", (unsigned)user);
    snprintf(groups, sizeof groups, "0 %u 1", (unsigned)group);
    if (unshare(CLONE_NEWNS | (user ? CLONE_NEWUSER : 0)) < 0)
        return 0;
    if (user && !(put("/proc/self/setgroups", "deny") && put("/proc/self/uid_map", users) &&
                  put("/proc/self/gid_map", groups)))
        return 0;
    return mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
}

// Runs in a child with mounts of its own, so that nothing outlives it. Exit 0 done, 77 not allowed.
static int fill_a_small_disk(const char *where)
{
    enum { DISK_BYTES = 256 << 10 };
    static char piece[DISK_BYTES / 3];
    fm_fs *fs;
    fm_fs_info info;
    void *data;
    size_t length;
    if (!enter_own_mounts() || mount("none", where, "tmpfs", 0, "size=256k") < 0)
        return 77;
    memset(piece, 'p', sizeof piece);
#define MUST(condition) \
    if (!(condition))   \
    return fprintf(stderr, "%s: %s\n", #condition, fm_error_message()), 1
    MUST(fm_fs_open(where, 0, &fs) == FM_OK);
    MUST(fm_fs_write_all(fs, "kept", "old", 3, 0) == FM_OK);
    MUST(fm_fs_write_all(fs, "a", piece, sizeof piece, 0) == FM_OK);
    MUST(fm_fs_write_all(fs, "b", piece, sizeof piece, 0) == FM_OK);
    MUST(fm_fs_write_all(fs, "kept", piece, sizeof piece, 0) == FM_ERR_SPACE);
    MUST(strstr(fm_error_message(), "No space left"));
    MUST(fm_fs_read_all(fs, "kept", 100, &data, &length) == FM_OK && length == 3);
    fm_base_mem_free(data);

    // The same through a queue: the status is the operation's.
    fm_fs_file *file;
    fm_fs_queue *queue;
    MUST(fm_fs_file_open(fs, "c", FM_FS_WRITE | FM_FS_CREATE, &file) == FM_OK);
    MUST(fm_fs_queue_open(fs, 4, &queue) == FM_OK);
    fm_fs_io io = {.kind = FM_FS_IO_WRITE, .file = file, .buffer = piece, .length = sizeof piece};
    MUST(fm_fs_queue_run(queue, &io, 1) == FM_ERR_SPACE && io.status == FM_ERR_SPACE);
    fm_fs_queue_close(queue);
    fm_fs_file_close(file);

    MUST(fm_fs_unlink(fs, "c") == FM_OK);
    MUST(fm_fs_unlink(fs, "b") == FM_OK); // the failed writer left nothing behind, so that there is room now
    MUST(fm_fs_write_all(fs, "kept", piece, sizeof piece, 0) == FM_OK);
    MUST(mount("none", where, NULL, MS_REMOUNT | MS_RDONLY, NULL) == 0);
    MUST(fm_fs_write_all(fs, "kept", "x", 1, 0) == FM_ERR_PERM);
    MUST(fm_fs_mkdir(fs, "d", 0) == FM_ERR_PERM);
    MUST(fm_fs_stat(fs, "kept", &info) == FM_OK && info.size == sizeof piece);
#undef MUST
    fm_fs_close(fs);
    return 0;
}

static void full_disk_is_no_space(void **state)
{
    (void)state;
    char where[4300];
    int result;
    snprintf(where, sizeof where, "%s/small-disk", fm_test_tmpdir());
    assert_int_equal(mkdir(where, 0700), 0);
    pid_t child = fork();
    if (child == 0)
        _exit(fill_a_small_disk(where));
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_true(WIFEXITED(result));
    if (WEXITSTATUS(result) == 77)
        fm_test_skip("a file system of 256 KiB cannot be mounted here");
    assert_int_equal(WEXITSTATUS(result), 0);
}

static void missing_rights_are_perm(void **state)
{
    (void)state;
    fm_fs *fs = open_tmp();
    fm_fs_file *file;
    char path[4300];
    snprintf(path, sizeof path, "%s/locked", fm_test_tmpdir());
    assert_ok(fm_fs_mkdir(fs, "locked", 0));
    assert_int_equal(chmod(path, 0), 0);
    uid_t user = geteuid();
    assert_int_equal(user ? 0 : seteuid(65534), 0); // root may do anything
    char outer[4300];
    snprintf(outer, sizeof outer, "%s", fm_test_tmpdir());
    fm_status status = fm_fs_file_open(fs, "locked/a", FM_FS_WRITE | FM_FS_CREATE, &file);
    assert_int_equal(user ? 0 : seteuid(user), 0);
    assert_int_equal(status, FM_ERR_PERM);
    assert_int_equal(chmod(path, 0700), 0);
    fm_fs_close(fs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_regular_files_open),
        cmocka_unit_test(holes_read_as_zero_and_ends_are_short),
        cmocka_unit_test(too_many_open_files_is_a_limit),
        cmocka_unit_test(full_disk_is_no_space),
        cmocka_unit_test(missing_rights_are_perm),
    };
    return fm_test_run("dir_file", tests);
}
