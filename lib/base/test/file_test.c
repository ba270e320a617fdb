#include "fm_test.h"
#include "fm_gen.h"

#include "fathom/file.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* "<temporary folder>/<name>", in one of a few buffers. */
static const char *in_tmp(const char *name)
{
    static char paths[8][4200];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", fm_test_tmpdir(), name);
    return path;
}

static void assert_content(const char *path, const void *bytes, size_t size)
{
    char *read;
    size_t length;
    assert_ok(fm_base_file_read(path, 1 << 20, &read, &length));
    assert_int_equal(length, size);
    assert_memory_equal(read, bytes, size);
    fm_base_mem_free(read);
}

enum { PIPED = 300000 };

static void *feed(void *context)
{
    char bytes[1000];
    memset(bytes, 'p', sizeof bytes);
    for (int i = 0; i < PIPED / 1000; i++)
        if (write(*(int *)context, bytes, sizeof bytes) != sizeof bytes)
            break;
    close(*(int *)context);
    return NULL;
}

static void a_pipe_is_read_to_its_end(void **state)
{
    (void)state;
    int ends[2], saved = dup(STDIN_FILENO);
    assert_int_equal(pipe(ends), 0);
    assert_true(dup2(ends[0], STDIN_FILENO) >= 0);
    close(ends[0]);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, feed, &ends[1]), 0);
    char *bytes;
    size_t length;
    fm_status status = fm_base_file_read(NULL, SIZE_MAX, &bytes, &length);
    pthread_join(thread, NULL);
    dup2(saved, STDIN_FILENO);
    close(saved);
    assert_ok(status);
    assert_int_equal(length, PIPED);
    for (size_t i = 0; i < length; i++)
        assert_int_equal(bytes[i], 'p');
    fm_base_mem_free(bytes);
}

static void reading_keeps_its_limit(void **state)
{
    (void)state;
    char *bytes = NULL;
    size_t length = 77;
    const char *path = fm_test_file("ten", "0123456789", 10);
    assert_fails(fm_base_file_read(path, 9, &bytes, &length), FM_ERR_LIMIT, "more than 9 bytes");
    assert_fails(fm_base_file_read("/proc/self/maps", 10, &bytes, &length), FM_ERR_LIMIT, "/proc/self/maps");
    assert_null(bytes);
    assert_int_equal(length, 77);
    assert_ok(fm_base_file_read(path, 10, &bytes, &length));
    assert_int_equal(length, 10);
    fm_base_mem_free(bytes);
    assert_content(fm_test_file("empty", "", 0), "", 0);
}

static void failures_name_the_path_and_the_reason(void **state)
{
    (void)state;
    char *bytes = NULL;
    size_t length = 77;
    fm_file_map map = {"x", 1};
    fm_file_draft draft = {0};
    assert_fails(fm_base_file_read("/nonexistent/a", 9, &bytes, &length), FM_ERR_NOT_FOUND,
                 "/nonexistent/a: No such");
    assert_fails(fm_base_file_read("/tmp", 9, &bytes, &length), FM_ERR_IO, "/tmp: Is a directory");
    assert_fails(fm_base_file_map("/nonexistent/a", &map), FM_ERR_NOT_FOUND, "/nonexistent/a: No such");
    assert_fails(fm_base_file_map("/tmp", &map), FM_ERR_IO, "/tmp is not a regular file");
    assert_int_equal(map.length, 1); // untouched
    assert_fails(fm_base_file_save("/nonexistent/a", "x", 1), FM_ERR_NOT_FOUND, "/nonexistent/a.");
    assert_fails(fm_base_file_begin(&draft, "/proc/a"), FM_ERR_NOT_FOUND, "cannot create /proc/a.");
    assert_null(draft.draft_path);
    assert_fails(fm_base_dir_create("/proc/version/a"), FM_ERR_IO, "/proc/version/a: Not a directory");
    assert_fails(fm_base_dir_create("/proc/version"), FM_ERR_EXISTS,
                 "/proc/version exists and is not a folder");
    assert_fails(fm_base_dir_create(""), FM_ERR_ARG, "empty");
    assert_fails(fm_base_dir_remove("/proc/version"), FM_ERR_PERM, "cannot remove /proc/version");
    assert_int_equal(fm_base_file_error(EROFS, "x"), FM_ERR_PERM);
    assert_int_equal(fm_base_file_error(EDQUOT, "x"), FM_ERR_SPACE);
    assert_int_equal(fm_base_file_error(EEXIST, "x"), FM_ERR_EXISTS);
    assert_int_equal(fm_base_file_error(ENOMEM, "x"), FM_ERR_NOMEM);
    assert_int_equal(fm_base_file_error(EIO, "%s", "a"), FM_ERR_IO);
    assert_string_equal(fm_error_message(), "a: Input/output error");
}

static void a_folder_without_permission(void **state)
{
    (void)state;
    const char *folder = in_tmp("locked"), *file = in_tmp("locked/file");
    assert_ok(fm_base_dir_create(folder));
    assert_int_equal(chmod(folder, 0555), 0);
    uid_t user = geteuid();
    if (user == 0) // whom permissions do not stop
        assert_int_equal(seteuid(65534), 0);
    fm_status save = fm_base_file_save(file, "x", 1);
    char message[200];
    snprintf(message, sizeof message, "%.199s", fm_error_message());
    fm_status create = fm_base_dir_create(file);
    if (user == 0)
        assert_int_equal(seteuid(0), 0);
    assert_int_equal(save, FM_ERR_PERM);
    assert_non_null(strstr(message, "locked/file."));
    assert_int_equal(create, FM_ERR_PERM);
}

static void a_file_is_mapped(void **state)
{
    (void)state;
    fm_file_map map;
    assert_ok(fm_base_file_map(fm_test_file("mapped", "content", 7), &map));
    assert_int_equal(map.length, 7);
    assert_memory_equal(map.bytes, "content", 7);
    fm_base_file_unmap(&map);
    assert_null(map.bytes);
    fm_base_file_unmap(&map);
    assert_ok(fm_base_file_map(fm_test_file("empty", "", 0), &map));
    assert_null(map.bytes);
    assert_int_equal(map.length, 0);
    fm_base_file_unmap(&map);
}

static void a_draft_is_seen_when_committed(void **state)
{
    (void)state;
    const char *path = in_tmp("drafts/committed");
    assert_ok(fm_base_dir_create(in_tmp("drafts")));
    fm_file_draft draft = {0};
    fm_base_file_discard(&draft); // nothing
    assert_fails(fm_base_file_commit(&draft), FM_ERR_STATE, "no draft");
    assert_ok(fm_base_file_begin(&draft, path));
    assert_ok(fm_base_file_write(&draft, 4, "ef", 2));
    assert_ok(fm_base_file_write(&draft, 0, "ab", 2));
    assert_int_not_equal(access(path, F_OK), 0);
    assert_ok(fm_base_file_commit(&draft));
    assert_content(path, "ab\0\0ef", 6);

    assert_ok(fm_base_file_begin(&draft, path));
    assert_ok(fm_base_file_write(&draft, 0, "xx", 2));
    fm_base_file_discard(&draft);
    assert_content(path, "ab\0\0ef", 6);

    assert_ok(fm_base_file_save(path, "new", 3));
    assert_content(path, "new", 3);
    assert_ok(fm_base_file_save(path, NULL, 0));
    assert_content(path, "", 0);

    // A new file's permissions, and no draft left: the folder can be removed once the file is gone.
    struct stat info;
    mode_t mask = umask(0);
    umask(mask);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0666 & ~mask);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(in_tmp("drafts")), 0);
}

static void a_name_without_a_folder_is_in_the_present_one(void **state)
{
    (void)state;
    char here[4096];
    assert_non_null(getcwd(here, sizeof here));
    assert_int_equal(chdir(fm_test_tmpdir()), 0);
    fm_status status = fm_base_file_save("present", "x", 1);
    fm_status create = fm_base_dir_create("a/b//c/");
    assert_int_equal(chdir(here), 0);
    assert_ok(status);
    assert_ok(create);
    assert_content(in_tmp("present"), "x", 1);
    assert_int_equal(access(in_tmp("a/b/c"), F_OK), 0);
}

static void what_cannot_be_committed_leaves_the_old(void **state)
{
    (void)state;
    const char *folder = in_tmp("taken"), *inside = in_tmp("taken/inside");
    assert_ok(fm_base_dir_create(folder));
    assert_ok(fm_base_file_save(inside, "x", 1));
    assert_fails(fm_base_file_save(folder, "y", 1), FM_ERR_IO, "taken: Is a directory");
    assert_content(inside, "x", 1);
}

static void a_full_disk_is_said(void **state)
{
    (void)state;
    fm_file_draft draft;
    assert_ok(fm_base_file_begin(&draft, in_tmp("full")));
    int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    assert_true(full >= 0);
    assert_true(dup2(full, draft.fd) >= 0);
    close(full);
    assert_fails(fm_base_file_write(&draft, 0, "x", 1), FM_ERR_SPACE, "No space left");
    fm_base_file_discard(&draft);
}

static void short_writes_are_continued(void **state)
{
    (void)state;
    static char bytes[5000];
    memset(bytes, 's', sizeof bytes);
    // A limit in the middle of a write makes it short; the rest then fails, without the signal, with EFBIG.
    struct rlimit before, limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = 3000;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    const char *path = in_tmp("short");
    assert_ok(fm_base_file_save(path, "old", 3));
    setrlimit(RLIMIT_FSIZE, &limit);
    fm_status too_long = fm_base_file_save(path, bytes, sizeof bytes);
    fm_status fits = fm_base_file_save(in_tmp("fits"), bytes, 3000);
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, handler);
    assert_int_equal(too_long, FM_ERR_LIMIT);
    assert_ok(fits);
    assert_content(path, "old", 3);
    assert_content(in_tmp("fits"), bytes, 3000);
}

static void trees_are_made_and_removed(void **state)
{
    (void)state;
    const char *root = in_tmp("tree"), *outside = in_tmp("outside");
    assert_ok(fm_base_file_save(outside, "x", 1));
    assert_ok(fm_base_dir_create(in_tmp("tree/a/b/c")));
    assert_ok(fm_base_dir_create(in_tmp("tree/a/b/c"))); // again
    assert_ok(fm_base_file_save(in_tmp("tree/a/b/file"), "x", 1));
    assert_int_equal(symlink(fm_test_tmpdir(), in_tmp("tree/a/link")), 0);
    assert_int_equal(symlink("nowhere", in_tmp("tree/dangling")), 0);
    assert_ok(fm_base_dir_remove(root));
    assert_int_not_equal(access(root, F_OK), 0);
    assert_content(outside, "x", 1);        // reached by a link only
    assert_ok(fm_base_dir_remove(root));    // nothing there
    assert_ok(fm_base_dir_remove(outside)); // a file
    assert_int_not_equal(access(outside, F_OK), 0);
}

static fm_status all_of_it(void *context)
{
    (void)context;
    char *bytes;
    size_t length;
    FM_TRY(fm_base_dir_create(in_tmp("memory/a")));
    FM_TRY(fm_base_file_save(in_tmp("memory/a/file"), "content", 7));
    FM_TRY(fm_base_file_read(in_tmp("memory/a/file"), 100, &bytes, &length));
    fm_base_mem_free(bytes);
    return fm_base_dir_remove(in_tmp("memory"));
}

static void refused_allocations_leave_nothing(void **state)
{
    (void)state;
    fm_test_each_alloc_fails(all_of_it, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pipe_is_read_to_its_end),
        cmocka_unit_test(reading_keeps_its_limit),
        cmocka_unit_test(failures_name_the_path_and_the_reason),
        cmocka_unit_test(a_folder_without_permission),
        cmocka_unit_test(a_file_is_mapped),
        cmocka_unit_test(a_draft_is_seen_when_committed),
        cmocka_unit_test(a_name_without_a_folder_is_in_the_present_one),
        cmocka_unit_test(what_cannot_be_committed_leaves_the_old),
        cmocka_unit_test(a_full_disk_is_said),
        cmocka_unit_test(short_writes_are_continued),
        cmocka_unit_test(trees_are_made_and_removed),
        cmocka_unit_test(refused_allocations_leave_nothing),
    };
    return fm_test_run("base.file", tests);
}
