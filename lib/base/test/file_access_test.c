#include "fm_test.h"

#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file_access.h"

enum { PIPED = 300000 }; // more than the first buffer and than a pipe holds

static void *feed(void *context)
{
    char chunk[1000];
    memset(chunk, 'x', sizeof chunk);
    int fd = *(int *)context;
    for (int i = 0; i < PIPED / 1000; i++)
        if (write(fd, chunk, sizeof chunk) != (ssize_t)sizeof chunk)
            break;
    close(fd);
    return NULL;
}

static void a_pipe_is_read_to_its_end(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    char path[64];
    snprintf(path, sizeof path, "/dev/fd/%d", ends[0]);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, feed, &ends[1]), 0);
    char *text = NULL;
    size_t length = 0;
    fm_status status = fm_base_file_read(path, 1 << 20, &text, &length);
    pthread_join(thread, NULL);
    close(ends[0]);
    assert_ok(status);
    assert_int_equal(length, PIPED);
    fm_base_mem_free(text);
}

static void limits_are_kept(void **state)
{
    (void)state;
    char *text = NULL;
    size_t length;
    const char *path = fm_test_file("ten", "0123456789", 10);
    assert_fails(fm_base_file_read(path, 9, &text, &length), FM_ERR_LIMIT, "has more than 9 bytes");
    assert_null(text);
    assert_ok(fm_base_file_read(path, 10, &text, &length));
    assert_int_equal(length, 10);
    fm_base_mem_free(text);
    assert_ok(fm_base_file_read(fm_test_file("empty", "", 0), 10, &text, &length));
    assert_int_equal(length, 0);
    fm_base_mem_free(text);
}

static void a_draft_is_seen_when_committed(void **state)
{
    (void)state;
    char path[4200];
    snprintf(path, sizeof path, "%s/drafted", fm_test_tmpdir());
    struct fm_file_draft draft = {0};
    struct stat info;
    assert_ok(fm_base_file_begin(&draft, path));
    assert_ok(fm_base_file_write(&draft, 2, "cd", 2));
    assert_ok(fm_base_file_write(&draft, 0, "ab", 2));
    assert_int_not_equal(stat(path, &info), 0);
    assert_ok(fm_base_file_commit(&draft));
    char *text;
    size_t length;
    assert_ok(fm_base_file_read(path, 10, &text, &length));
    assert_int_equal(length, 4);
    assert_memory_equal(text, "abcd", 4);
    fm_base_mem_free(text);

    assert_ok(fm_base_file_begin(&draft, path));
    assert_ok(fm_base_file_write(&draft, 0, "xx", 2));
    fm_base_file_discard(&draft);
    fm_base_file_discard(&draft);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_size, 4);
}

static void a_file_in_the_present_folder_is_committed(void **state)
{
    (void)state;
    char here[4096];
    assert_non_null(getcwd(here, sizeof here));
    assert_int_equal(chdir(fm_test_tmpdir()), 0);
    struct fm_file_draft draft = {0};
    fm_status status = fm_base_file_begin(&draft, "bare");
    if (status == FM_OK)
        status = fm_base_file_commit(&draft);
    int found = access("bare", R_OK) == 0;
    assert_int_equal(chdir(here), 0);
    assert_ok(status);
    assert_true(found);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pipe_is_read_to_its_end),
        cmocka_unit_test(limits_are_kept),
        cmocka_unit_test(a_draft_is_seen_when_committed),
        cmocka_unit_test(a_file_in_the_present_folder_is_committed),
    };
    return fm_test_run("base.file_access", tests);
}
