#include "fm_test.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "dir_fs.h"

/*
 *     outside/secret
 *     root/file                 "inside"
 *     root/dir/file             "deeper"
 *     root/dir/up        -> ../file
 *     root/dir/self      -> .
 *     root/to_dir        -> dir
 *     root/to_file       -> ./dir//file
 *     root/through       -> to_dir/up         a link through a link
 *     root/chain0..39    -> chain1..file      as many links as Linux follows in one lookup, less one
 *     root/escape        -> ../outside
 *     root/escape_late   -> dir/../../outside/secret
 *     root/absolute      -> /etc/passwd
 *     root/absolute_in   -> <root>/file
 *     root/loop          -> loop
 *     root/dangling      -> nothing
 *     root/makes         -> dir/made          dangling, below a directory that is there
 */
static char base[4096];

static void link_in_root(const char *name, const char *target)
{
    char path[4300];
    snprintf(path, sizeof path, "%s/root/%s", base, name);
    assert_int_equal(symlink(target, path), 0);
}

static void write_plain(const char *name, const char *text)
{
    char path[4300];
    snprintf(path, sizeof path, "%s/%s", base, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void make_plain_dir(const char *name)
{
    char path[4300];
    snprintf(path, sizeof path, "%s/%s", base, name);
    assert_int_equal(mkdir(path, 0700), 0);
}

static fm_fs *open_maze(int have_openat2)
{
    static int number;
    char path[4300];
    fm_fs *fs;
    snprintf(base, sizeof base, "%s/maze-%d", fm_test_tmpdir(), number++);
    make_plain_dir("");
    make_plain_dir("root");
    make_plain_dir("root/dir");
    make_plain_dir("outside");
    write_plain("outside/secret", "secret");
    write_plain("root/file", "inside");
    write_plain("root/dir/file", "deeper");
    link_in_root("dir/up", "../file");
    link_in_root("dir/self", ".");
    link_in_root("to_dir", "dir");
    link_in_root("to_file", "./dir//file");
    link_in_root("through", "to_dir/up");
    for (int i = 0; i < 40; i++) {
        char name[16];
        char target[16];
        snprintf(name, sizeof name, "chain%d", i);
        snprintf(target, sizeof target, i < 39 ? "chain%d" : "file", i + 1);
        link_in_root(name, target);
    }
    link_in_root("escape", "../outside");
    link_in_root("escape_late", "dir/../../outside/secret");
    link_in_root("absolute", "/etc/passwd");
    snprintf(path, sizeof path, "%s/root/file", base);
    link_in_root("absolute_in", path);
    link_in_root("loop", "loop");
    link_in_root("dangling", "nothing");
    link_in_root("makes", "dir/made");
    snprintf(path, sizeof path, "dir:%s/root", base);
    assert_ok(fm_fs_open(path, 0, &fs));
    if (!have_openat2)
        ((struct dir_fs *)fs)->have_openat2 = 0;
    return fs;
}

static void assert_content(fm_fs *fs, const char *path, const char *text)
{
    void *data;
    size_t length;
    assert_ok(fm_fs_read_all(fs, path, 100, &data, &length));
    assert_string_equal(data, text);
    fm_base_mem_free(data);
}

static void follow_links(int have_openat2)
{
    fm_fs *fs = open_maze(have_openat2);
    fm_fs_info info;
    assert_content(fs, "file", "inside");
    assert_content(fs, "dir/up", "inside");
    assert_content(fs, "dir/self/self/file", "deeper");
    assert_content(fs, "to_dir/file", "deeper");
    assert_content(fs, "to_file", "deeper");
    assert_content(fs, "through", "inside");
    assert_content(fs, "chain0", "inside");
    assert_ok(fm_fs_stat(fs, "to_dir", &info));
    assert_int_equal(info.type, FM_FS_TYPE_DIR);
    assert_ok(fm_fs_stat(fs, "dir/self", &info));
    assert_int_equal(info.type, FM_FS_TYPE_DIR);
    assert_ok(fm_fs_mkdir(fs, "to_dir/a/b", FM_FS_PARENTS));
    assert_ok(fm_fs_stat(fs, "dir/a/b", &info));
    assert_ok(fm_fs_write_all(fs, "to_dir/a/new", "new", 3, 0));
    assert_content(fs, "dir/a/new", "new");
    fm_fs_close(fs);
}

static void refuse_escapes(int have_openat2)
{
    static const char *const outward[] = {"escape", "escape/secret", "escape_late", "absolute",
                                          "absolute_in"};
    fm_fs *fs = open_maze(have_openat2);
    for (size_t i = 0; i < sizeof outward / sizeof *outward; i++) {
        fm_fs_info info;
        fm_fs_file *file;
        fm_fs_list *list;
        assert_fails(fm_fs_stat(fs, outward[i], &info), FM_ERR_PERM, "out of the root");
        assert_fails(fm_fs_file_open(fs, outward[i], FM_FS_READ, &file), FM_ERR_PERM, "out of the root");
        assert_fails(fm_fs_file_open(fs, outward[i], FM_FS_WRITE | FM_FS_CREATE | FM_FS_TRUNCATE, &file),
                     FM_ERR_PERM, "out of the root");
        assert_fails(fm_fs_list_open(fs, outward[i], &list), FM_ERR_PERM, "out of the root");
        assert_fails(fm_fs_dir_sync(fs, outward[i]), FM_ERR_PERM, "out of the root");
    }
    assert_fails(fm_fs_mkdir(fs, "escape/made", FM_FS_PARENTS), FM_ERR_PERM, "out of the root");
    assert_fails(fm_fs_unlink(fs, "escape/secret"), FM_ERR_PERM, "out of the root");
    assert_fails(fm_fs_remove_all(fs, "escape/secret"), FM_ERR_PERM, "out of the root");
    assert_fails(fm_fs_rename(fs, "escape/secret", "stolen", 0), FM_ERR_PERM, "out of the root");
    assert_fails(fm_fs_rename(fs, "file", "escape/given", 0), FM_ERR_PERM, "out of the root");
    assert_fails(fm_fs_write_all(fs, "escape/given", "x", 1, 0), FM_ERR_PERM, "out of the root");
    char path[4300];
    snprintf(path, sizeof path, "%s/outside/secret", base);
    assert_int_equal(access(path, F_OK), 0);
    fm_fs_close(fs);
}

static void end_at_bad_links(int have_openat2)
{
    fm_fs *fs = open_maze(have_openat2);
    fm_fs_info info;
    fm_fs_file *file;
    link_in_root("before_chain0", "chain0"); // the 41st link
    assert_fails(fm_fs_stat(fs, "before_chain0", &info), FM_ERR_LIMIT, "before_chain0");
    assert_fails(fm_fs_stat(fs, "loop", &info), FM_ERR_LIMIT, "loop");
    assert_fails(fm_fs_stat(fs, "dangling", &info), FM_ERR_NOT_FOUND, "dangling");
    assert_fails(fm_fs_stat(fs, "file/x", &info), FM_ERR_FS_NOT_DIR, "file/x");
    assert_fails(fm_fs_stat(fs, "to_file/x", &info), FM_ERR_FS_NOT_DIR, "to_file/x");
    assert_fails(fm_fs_stat(fs, "nothing/x", &info), FM_ERR_NOT_FOUND, "nothing/x");
    assert_fails(fm_fs_file_open(fs, "makes", FM_FS_WRITE | FM_FS_CREATE | FM_FS_EXCLUSIVE, &file),
                 FM_ERR_EXISTS, "makes");
    assert_ok(fm_fs_file_open(fs, "makes", FM_FS_WRITE | FM_FS_CREATE, &file));
    fm_fs_file_close(file);
    assert_ok(fm_fs_stat(fs, "dir/made", &info));
    fm_fs_close(fs);
}

static void act_on_links_themselves(int have_openat2)
{
    fm_fs *fs = open_maze(have_openat2);
    fm_fs_info info;
    fm_fs_list *list;
    const fm_fs_entry *entry;
    assert_fails(fm_fs_rmdir(fs, "to_dir"), FM_ERR_FS_NOT_DIR, "to_dir");
    assert_ok(fm_fs_rename(fs, "to_dir", "moved", 0));
    assert_content(fs, "moved/file", "deeper");
    assert_ok(fm_fs_remove_all(fs, "moved"));
    assert_ok(fm_fs_remove_all(fs, "escape"));
    assert_ok(fm_fs_unlink(fs, "absolute"));
    assert_ok(fm_fs_stat(fs, "dir/file", &info));
    assert_ok(
        fm_fs_write_all(fs, "to_file", "a file now", 10, 0)); // replaces the link, not what it points to
    assert_content(fs, "dir/file", "deeper");
    assert_ok(fm_fs_list_open(fs, "dir", &list));
    assert_ok(fm_fs_list_next(list, &entry));
    assert_string_equal(entry->name, "file");
    assert_int_equal(entry->type, FM_FS_TYPE_FILE);
    assert_ok(fm_fs_list_next(list, &entry));
    assert_string_equal(entry->name, "self");
    assert_int_equal(entry->type, FM_FS_TYPE_LINK);
    fm_fs_list_close(list);
    fm_fs_close(fs);
}

// Both resolvers must pass each of the above.
#define BY_BOTH(name)                           \
    static void name##_by_openat2(void **state) \
    {                                           \
        (void)state;                            \
        name(1);                                \
    }                                           \
    static void name##_by_walking(void **state) \
    {                                           \
        (void)state;                            \
        name(0);                                \
    }
BY_BOTH(follow_links)
BY_BOTH(refuse_escapes)
BY_BOTH(end_at_bad_links)
BY_BOTH(act_on_links_themselves)

static void this_kernel_has_openat2(void **state)
{
    (void)state;
    fm_fs *fs = open_maze(1);
    int have = ((struct dir_fs *)fs)->have_openat2;
    fm_fs_close(fs);
    if (!have)
        fm_test_skip("this kernel or sandbox has no openat2: only the walk was tested");
}

// Somebody swaps a directory for a link to the outside as fast as possible, while we read through it.
static atomic_int swapping;

static void *swap_thread(void *argument)
{
    (void)argument;
    char dir[4300];
    char aside[4300];
    char link[4300];
    snprintf(dir, sizeof dir, "%s/root/dir", base);
    snprintf(aside, sizeof aside, "%s/root/aside", base);
    snprintf(link, sizeof link, "%s/root/escape", base);
    while (atomic_load(&swapping)) {
        if (rename(dir, aside) != 0 || rename(link, dir) != 0 || rename(dir, link) != 0 ||
            rename(aside, dir) != 0)
            break;
    }
    return NULL;
}

static void race_with_a_swap(int have_openat2)
{
    fm_fs *fs = open_maze(have_openat2);
    pthread_t thread;
    int seen = 0;
    write_plain("outside/file", "secret");
    atomic_store(&swapping, 1);
    assert_int_equal(pthread_create(&thread, NULL, swap_thread, NULL), 0);
    for (int i = 0; i < 20000; i++) {
        void *data;
        size_t length;
        fm_status status = fm_fs_read_all(fs, i % 2 ? "dir/file" : "through", 100, &data, &length);
        if (status < 0)
            continue;
        seen += strcmp(data, "secret") == 0;
        fm_base_mem_free(data);
    }
    atomic_store(&swapping, 0);
    pthread_join(thread, NULL);
    assert_int_equal(seen, 0);
    assert_content(fs, "dir/file", "deeper");
    fm_fs_close(fs);
}
BY_BOTH(race_with_a_swap)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(follow_links_by_openat2),
        cmocka_unit_test(follow_links_by_walking),
        cmocka_unit_test(refuse_escapes_by_openat2),
        cmocka_unit_test(refuse_escapes_by_walking),
        cmocka_unit_test(end_at_bad_links_by_openat2),
        cmocka_unit_test(end_at_bad_links_by_walking),
        cmocka_unit_test(act_on_links_themselves_by_openat2),
        cmocka_unit_test(act_on_links_themselves_by_walking),
        cmocka_unit_test(race_with_a_swap_by_openat2),
        cmocka_unit_test(race_with_a_swap_by_walking),
        cmocka_unit_test(this_kernel_has_openat2),
    };
    return fm_test_run("dir_resolve", tests);
}
