#include "fm_test.h"
#include "fm_gen.h"

#include <pthread.h>
#include <unistd.h>

#include "dir_fs.h"
#include "fs_agree.h"
#include "mem_fs.h"

// A fresh directory below the test's own.
static const char *fresh_dir(void)
{
    static char path[4200];
    static int number;
    snprintf(path, sizeof path, "%s/root-%d", fm_test_tmpdir(), number++);
    return path;
}

static fm_fs *open_fresh(void)
{
    fm_fs *fs;
    assert_ok(fm_fs_open(fresh_dir(), FM_FS_CREATE, &fs));
    return fs;
}

static void specs_name_file_systems(void **state)
{
    (void)state;
    char spec[4400];
    char path[4400];
    fm_fs *fs = NULL;
    const char *dir = fresh_dir();
    assert_fails(fm_fs_open(NULL, 0, &fs), FM_ERR_ARG, "spec is NULL");
    assert_fails(fm_fs_open("", 0, &fs), FM_ERR_ARG, "spec is empty");
    assert_fails(fm_fs_open("dir:", 0, &fs), FM_ERR_ARG, "after the colon");
    assert_fails(fm_fs_open("fathom://host/x", 0, &fs), FM_ERR_UNSUPPORTED, "scheme \"fathom\"");
    assert_fails(fm_fs_open("fathom://host/x", 0, &fs), FM_ERR_UNSUPPORTED, "expected dir:PATH");
    assert_fails(fm_fs_open("data:x", 0, &fs), FM_ERR_UNSUPPORTED, "./data:x");
    assert_fails(fm_fs_open(dir, 0, &fs), FM_ERR_NOT_FOUND, dir);
    assert_fails(fm_fs_open(dir, FM_FS_READ, &fs), FM_ERR_ARG, "flags");
    assert_fails(fm_fs_open(fm_test_file("plain", "x", 1), 0, &fs), FM_ERR_FS_NOT_DIR, "plain");
    assert_null(fs);

    snprintf(spec, sizeof spec, "dir:%s/deeper/still/", dir);
    assert_ok(fm_fs_open(spec, FM_FS_CREATE, &fs));
    assert_ok(fm_fs_local_path(fs, "a/./b", path, sizeof path));
    snprintf(spec, sizeof spec, "%s/deeper/still", dir);
    assert_memory_equal(path, spec, strlen(spec));
    assert_string_equal(path + strlen(spec), "/a/b");
    assert_ok(fm_fs_local_path(fs, ".", path, sizeof path));
    assert_string_equal(path, spec);
    assert_fails(fm_fs_local_path(fs, ".", path, 5), FM_ERR_LIMIT, "room for 5");
    fm_fs_close(fs);
    fm_fs_close(NULL);
    assert_ok(fm_fs_open(spec, FM_FS_CREATE, &fs)); // exists already
    fm_fs_close(fs);
    assert_ok(fm_fs_open("/", 0, &fs));
    assert_ok(fm_fs_local_path(fs, "tmp", path, sizeof path));
    assert_string_equal(path, "/tmp");
    fm_fs_close(fs);

    fs = fm_fs_mem_new();
    assert_fails(fm_fs_local_path(fs, "a", path, sizeof path), FM_ERR_UNSUPPORTED, "mem:");
    fm_fs_close(fs);
}

static void wrong_arguments_are_refused(void **state)
{
    (void)state;
    fm_fs *fs = open_fresh();
    fm_fs_file *file = NULL;
    static const unsigned bad_flags[] = {
        0,
        FM_FS_CREATE,
        FM_FS_READ | FM_FS_CREATE,
        FM_FS_READ | FM_FS_TRUNCATE,
        FM_FS_WRITE | FM_FS_EXCLUSIVE,
        FM_FS_READ | FM_FS_PARENTS,
        FM_FS_WRITE | FM_FS_NO_SYNC,
        FM_FS_READ | 1u << 20,
    };
    for (size_t i = 0; i < sizeof bad_flags / sizeof *bad_flags; i++)
        assert_fails(fm_fs_file_open(fs, "a", bad_flags[i], &file), FM_ERR_ARG, "flags");
    assert_fails(fm_fs_mkdir(fs, "a", FM_FS_CREATE), FM_ERR_ARG, "flags");
    assert_fails(fm_fs_rename(fs, "a", "b", FM_FS_CREATE), FM_ERR_ARG, "flags");
    assert_fails(fm_fs_file_open(fs, "../a", FM_FS_READ, &file), FM_ERR_ARG, "..");
    assert_fails(fm_fs_file_open(fs, ".", FM_FS_READ, &file), FM_ERR_FS_IS_DIR, "root");
    assert_fails(fm_fs_unlink(fs, "."), FM_ERR_ARG, "the root");
    assert_fails(fm_fs_rmdir(fs, "./."), FM_ERR_ARG, "the root");
    assert_fails(fm_fs_remove_all(fs, "."), FM_ERR_ARG, "the root");
    assert_fails(fm_fs_remove_all(fs, ""), FM_ERR_ARG, "empty");
    assert_fails(fm_fs_rename(fs, ".", "b", 0), FM_ERR_ARG, "from");
    assert_fails(fm_fs_rename(fs, "b", ".", 0), FM_ERR_ARG, "to");
    assert_fails(fm_fs_mkdir(fs, ".", 0), FM_ERR_EXISTS, "root");
    assert_ok(fm_fs_mkdir(fs, ".", FM_FS_PARENTS));
    assert_null(file);

    char byte = 0;
    size_t got = 7;
    assert_ok(fm_fs_file_open(fs, "a", FM_FS_WRITE | FM_FS_CREATE, &file));
    assert_fails(fm_fs_file_read(file, &byte, 1, 0, &got), FM_ERR_STATE, "not open for reading");
    assert_fails(fm_fs_file_write(file, &byte, 1, INT64_MAX), FM_ERR_LIMIT, "2^63");
    assert_fails(fm_fs_file_write(file, &byte, SIZE_MAX, 1), FM_ERR_LIMIT, "2^63");
    assert_fails(fm_fs_file_write(file, NULL, 1, 0), FM_ERR_ARG, "NULL");
    assert_fails(fm_fs_file_truncate(file, (uint64_t)INT64_MAX + 1), FM_ERR_LIMIT, "2^63");
    assert_ok(fm_fs_file_write(file, NULL, 0, 1000));
    fm_fs_file_close(file);
    assert_ok(fm_fs_file_open(fs, "a", FM_FS_READ, &file));
    assert_fails(fm_fs_file_write(file, &byte, 1, 0), FM_ERR_STATE, "not open for writing");
    assert_fails(fm_fs_file_truncate(file, 1), FM_ERR_STATE, "not open for writing");
    assert_int_equal(got, 7);
    assert_ok(fm_fs_file_read(file, &byte, 1, 0, &got)); // writing nothing at 1000 did not grow it
    assert_int_equal(got, 0);
    fm_fs_file_close(file);
    fm_fs_file_close(NULL);
    fm_fs_list_close(NULL);
    fm_fs_close(fs);
}

static void missing_parents_are_made(void **state)
{
    (void)state;
    fm_fs *fs = open_fresh();
    fm_fs_info info;
    assert_fails(fm_fs_mkdir(fs, "a/b/c", 0), FM_ERR_NOT_FOUND, "a/b/c");
    assert_ok(fm_fs_mkdir(fs, "a/b/c", FM_FS_PARENTS));
    assert_ok(fm_fs_mkdir(fs, "a/b/c", FM_FS_PARENTS));
    assert_ok(fm_fs_stat(fs, "a/b/c", &info));
    assert_int_equal(info.type, FM_FS_TYPE_DIR);
    assert_ok(fm_fs_write_all(fs, "a/file", "x", 1, FM_FS_NO_SYNC));
    assert_fails(fm_fs_mkdir(fs, "a/file", FM_FS_PARENTS), FM_ERR_EXISTS, "not a directory");
    assert_fails(fm_fs_mkdir(fs, "a/file/b", FM_FS_PARENTS), FM_ERR_FS_NOT_DIR, "a/file/b");
    fm_fs_close(fs);
}

static void info_tells_times_and_identity(void **state)
{
    (void)state;
    fm_fs *fs = open_fresh();
    fm_fs_info by_name;
    fm_fs_info by_file;
    fm_fs_file *file;
    struct timespec now;
    assert_ok(fm_fs_write_all(fs, "a", "12345", 5, 0));
    assert_ok(fm_fs_stat(fs, "a", &by_name));
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t now_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    assert_true(by_name.mtime_ns <= now_ns && by_name.mtime_ns > now_ns - 3600 * (int64_t)1000000000);
    assert_ok(fm_fs_file_open(fs, "a", FM_FS_READ, &file));
    assert_ok(fm_fs_file_stat(file, &by_file));
    assert_true(by_name.type == by_file.type && by_name.size == by_file.size &&
                by_name.mtime_ns == by_file.mtime_ns && by_name.id == by_file.id);
    fm_fs_file_close(file);
    assert_ok(fm_fs_rename(fs, "a", "b", 0));
    assert_ok(fm_fs_stat(fs, "b", &by_file));
    assert_int_equal(by_name.id, by_file.id);
    assert_ok(fm_fs_write_all(fs, "a", "12345", 5, 0));
    assert_ok(fm_fs_stat(fs, "a", &by_file));
    assert_int_not_equal(by_name.id, by_file.id);
    assert_ok(fm_fs_stat(fs, ".", &by_file));
    assert_int_equal(by_file.type, FM_FS_TYPE_DIR);
    assert_int_equal(by_file.size, 0);
    fm_fs_close(fs);
}

static void agree_for_a_while(fm_gen *gen, int have_openat2)
{
    struct pair pair = {gen, open_fresh(), fm_fs_mem_new()};
    struct dir_fs *dir = (struct dir_fs *)pair.real;
    dir->have_openat2 = dir->have_openat2 && have_openat2;
    for (int i = 0; i < 200; i++)
        fm_fs_agree_step(&pair);
    fm_fs_close(pair.real);
    fm_fs_close(pair.model);
}

static void agree_by_openat2(fm_gen *gen)
{
    agree_for_a_while(gen, 1);
}

static void agree_by_walking(fm_gen *gen)
{
    agree_for_a_while(gen, 0);
}

static void directory_agrees_with_model(void **state)
{
    (void)state;
    fm_gen_property(15, agree_by_openat2);
    fm_gen_property(15, agree_by_walking);
}

static fm_status use_everything(void *context)
{
    fm_fs *fs;
    fm_fs_file *file = NULL;
    fm_fs_list *list = NULL;
    const fm_fs_entry *entry;
    void *data = NULL;
    size_t length;
    FM_TRY(fm_fs_open(context, FM_FS_CREATE, &fs));
    fm_status status = fm_fs_write_all(fs, "a", "abc", 3, FM_FS_NO_SYNC);
    if (status == FM_OK)
        status = fm_fs_read_all(fs, "a", 10, &data, &length);
    if (status == FM_OK)
        status = fm_fs_file_open(fs, "a", FM_FS_READ, &file);
    if (status == FM_OK)
        status = fm_fs_list_open(fs, ".", &list);
    while (status == FM_OK && (status = fm_fs_list_next(list, &entry)) == FM_OK && entry)
        assert_string_equal(entry->name, "a"); // no temporary is left behind
    fm_base_mem_free(data);
    fm_fs_list_close(list);
    fm_fs_file_close(file);
    fm_fs_close(fs);
    return status;
}

static void refused_allocations_leave_nothing(void **state)
{
    (void)state;
    char path[4200];
    snprintf(path, sizeof path, "%s", fresh_dir());
    fm_test_each_alloc_fails(use_everything, path);
}

// Threads share one file system and one file; each has its own block of the file and its own names.
enum { THREADS = 4, BLOCK_BYTES = 777, TURNS = 60 };

struct sharer {
    fm_fs *fs;
    fm_fs_file *file;
    int number;
    fm_status status;
};

static fm_status share(struct sharer *sharer)
{
    unsigned char block[BLOCK_BYTES];
    unsigned char back[BLOCK_BYTES];
    char name[32];
    char renamed[32];
    fm_fs_info info;
    for (int turn = 0; turn < TURNS; turn++) {
        size_t got;
        memset(block, sharer->number * 50 + turn, sizeof block);
        FM_TRY(fm_fs_file_write(sharer->file, block, sizeof block, (uint64_t)sharer->number * BLOCK_BYTES));
        FM_TRY(
            fm_fs_file_read(sharer->file, back, sizeof back, (uint64_t)sharer->number * BLOCK_BYTES, &got));
        if (got != sizeof back || memcmp(block, back, sizeof block) != 0)
            return fm_base_error_set(FM_ERR_INTERNAL, "thread %d read what it did not write", sharer->number);
        snprintf(name, sizeof name, "dir/t%d-%d", sharer->number, turn);
        snprintf(renamed, sizeof renamed, "dir/common-%d", turn);
        FM_TRY(fm_fs_write_all(sharer->fs, name, block, sizeof block, FM_FS_NO_SYNC));
        FM_TRY(fm_fs_rename(sharer->fs, name, renamed, 0)); // all threads replace the same name
        FM_TRY(fm_fs_stat(sharer->fs, renamed, &info));
        if (info.size != sizeof block)
            return fm_base_error_set(FM_ERR_INTERNAL, "%s was seen with %d bytes", renamed, (int)info.size);
    }
    return FM_OK;
}

static void *share_thread(void *argument)
{
    struct sharer *sharer = argument;
    sharer->status = share(sharer);
    return NULL;
}

static void threads_share_handles(void **state)
{
    (void)state;
    fm_fs *fs = open_fresh();
    fm_fs_file *file;
    pthread_t threads[THREADS];
    struct sharer sharers[THREADS];
    assert_ok(fm_fs_mkdir(fs, "dir", 0));
    assert_ok(fm_fs_file_open(fs, "shared", FM_FS_READ | FM_FS_WRITE | FM_FS_CREATE, &file));
    for (int i = 0; i < THREADS; i++) {
        sharers[i] = (struct sharer){fs, file, i, FM_OK};
        assert_int_equal(pthread_create(&threads[i], NULL, share_thread, &sharers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(sharers[i].status, FM_OK);
    }
    fm_fs_list *list;
    const fm_fs_entry *entry;
    int count = -1;
    assert_ok(fm_fs_list_open(fs, "dir", &list));
    do {
        assert_ok(fm_fs_list_next(list, &entry));
        count++;
    } while (entry);
    assert_int_equal(count, TURNS);
    fm_fs_list_close(list);
    fm_fs_file_close(file);
    fm_fs_close(fs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(specs_name_file_systems),     cmocka_unit_test(wrong_arguments_are_refused),
        cmocka_unit_test(missing_parents_are_made),    cmocka_unit_test(info_tells_times_and_identity),
        cmocka_unit_test(directory_agrees_with_model), cmocka_unit_test(refused_allocations_leave_nothing),
        cmocka_unit_test(threads_share_handles),
    };
    return fm_test_run("fs", tests);
}
