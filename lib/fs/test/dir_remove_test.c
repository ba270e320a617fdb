#include "fm_test.h"
#include "fm_gen.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fathom/fs.h"

static fm_fs *open_tmp(void)
{
    fm_fs *fs;
    assert_ok(fm_fs_open(fm_test_tmpdir(), 0, &fs));
    return fs;
}

static size_t count_entries(fm_fs *fs, const char *dir)
{
    fm_fs_list *list;
    const fm_fs_entry *entry;
    size_t count = 0;
    assert_ok(fm_fs_list_open(fs, dir, &list));
    for (;;) {
        assert_ok(fm_fs_list_next(list, &entry));
        if (!entry)
            break;
        count++;
    }
    fm_fs_list_close(list);
    return count;
}

// Deeper than any path can name and than there are descriptors.
static void deep_trees_go(void **state)
{
    (void)state;
    enum { DEPTH = 60, DESCRIPTORS = 40 };
    _Static_assert(DEPTH * FM_FS_NAME_MAX > FM_FS_PATH_MAX && DEPTH > DESCRIPTORS, "deep");
    fm_fs *fs = open_tmp();
    char name[FM_FS_NAME_MAX + 1];
    char path[4300];
    struct rlimit before;
    memset(name, 'd', FM_FS_NAME_MAX);
    name[FM_FS_NAME_MAX] = 0;
    assert_ok(fm_fs_mkdir(fs, "deep/top", FM_FS_PARENTS));
    snprintf(path, sizeof path, "%s/deep/top", fm_test_tmpdir());
    int at = open(path, O_RDONLY | O_DIRECTORY);
    for (int i = 0; i < DEPTH; i++) {
        assert_int_equal(mkdirat(at, name, 0700), 0);
        int file = openat(at, "file", O_WRONLY | O_CREAT, 0600);
        int next = openat(at, name, O_RDONLY | O_DIRECTORY);
        assert_true(file >= 0 && next >= 0);
        close(file);
        close(at);
        at = next;
    }
    close(at);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &(struct rlimit){DESCRIPTORS, before.rlim_max}), 0);
    fm_status status = fm_fs_remove_all(fs, "deep/top");
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_ok(status);
    assert_int_equal(count_entries(fs, "deep"), 0);
    fm_fs_close(fs);
}

static void grow(fm_fs *fs, fm_gen *gen, const char *dir, int levels)
{
    for (int i = (int)fm_gen_int(gen, 0, 6); i > 0; i--) {
        char path[256];
        snprintf(path, sizeof path, "%s/%c", dir, 'a' + i);
        if (levels > 0 && fm_gen_chance(gen, 0.5)) {
            assert_ok(fm_fs_mkdir(fs, path, 0));
            grow(fs, gen, path, levels - 1);
        } else {
            assert_ok(fm_fs_write_all(fs, path, "x", 1, FM_FS_NO_SYNC));
        }
    }
}

static void any_tree(fm_gen *gen)
{
    fm_fs *fs = open_tmp();
    assert_ok(fm_fs_mkdir(fs, "trees/tree", FM_FS_PARENTS));
    grow(fs, gen, "trees/tree", 4);
    assert_ok(fm_fs_remove_all(fs, "trees/tree"));
    assert_int_equal(count_entries(fs, "trees"), 0);
    assert_fails(fm_fs_remove_all(fs, "trees/tree"), FM_ERR_NOT_FOUND, "trees/tree");
    fm_fs_close(fs);
}

static void trees_of_any_shape_go(void **state)
{
    (void)state;
    fm_gen_property(12, any_tree);
}

// More entries than one of the C library's readdir buffers, of 32 KiB, holds.
static void wide_directories_go(void **state)
{
    (void)state;
    enum { FILES = 400, NAME_BYTES = 200 };
    fm_fs *fs = open_tmp();
    fm_fs_file *file;
    char name[NAME_BYTES + 1];
    for (int dir = 0; dir < 2; dir++) {
        assert_ok(fm_fs_mkdir(fs, dir ? "wide/sub" : "wide", 0));
        for (int i = 0; i < FILES; i++) {
            snprintf(name, sizeof name, "wide/%s%0*d", dir ? "sub/" : "", NAME_BYTES - 10, i);
            assert_ok(fm_fs_file_open(fs, name, FM_FS_WRITE | FM_FS_CREATE | FM_FS_EXCLUSIVE, &file));
            fm_fs_file_close(file);
        }
    }
    assert_ok(fm_fs_remove_all(fs, "wide"));
    fm_fs_info info;
    assert_fails(fm_fs_stat(fs, "wide", &info), FM_ERR_NOT_FOUND, "wide");
    fm_fs_close(fs);
}

static void links_are_removed_not_followed(void **state)
{
    (void)state;
    fm_fs *fs = open_tmp();
    char path[4300];
    fm_fs_info info;
    assert_ok(fm_fs_mkdir(fs, "spared", 0));
    assert_ok(fm_fs_write_all(fs, "spared/file", "x", 1, 0));
    assert_ok(fm_fs_mkdir(fs, "linked/sub", FM_FS_PARENTS));
    snprintf(path, sizeof path, "%s/linked/link", fm_test_tmpdir());
    assert_int_equal(symlink("../spared", path), 0);
    snprintf(path, sizeof path, "%s/linked/sub/link", fm_test_tmpdir());
    assert_int_equal(symlink("../../spared", path), 0);
    assert_ok(fm_fs_stat(fs, "linked/sub/link/file", &info));
    assert_ok(fm_fs_remove_all(fs, "linked"));
    assert_ok(fm_fs_stat(fs, "spared/file", &info));
    fm_fs_close(fs);
}

// As another user, who may not look into one directory of the tree.
static int remove_without_rights(fm_fs *fs)
{
    if (geteuid() == 0 && seteuid(65534) != 0)
        return 2;
    fm_status status = fm_fs_remove_all(fs, "guarded/tree");
    const char *message = fm_error_message();
    const char *rest = strstr(message, ".tmp-");
    return status == FM_ERR_PERM && rest && strstr(message, "guarded/tree") ? 0 : 1;
}

static void what_cannot_be_removed_is_named(void **state)
{
    (void)state;
    fm_fs *fs = open_tmp();
    char path[4300];
    fm_fs_info info;
    int result;
    static const char *const dirs[] = {"", "/guarded", "/guarded/tree", "/guarded/tree/open",
                                       "/guarded/tree/locked"};
    assert_ok(fm_fs_mkdir(fs, "guarded/tree/open", FM_FS_PARENTS));
    assert_ok(fm_fs_mkdir(fs, "guarded/tree/locked/in", FM_FS_PARENTS));
    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++) {
        snprintf(path, sizeof path, "%s%s", fm_test_tmpdir(), dirs[i]);
        assert_int_equal(chmod(path, strstr(path, "locked") ? 0700 : 0777), 0);
    }
    if (geteuid() != 0)
        assert_int_equal(chmod(path, 0), 0);
    pid_t child = fork();
    if (child == 0)
        _exit(remove_without_rights(fs));
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_int_equal(WEXITSTATUS(result), 0);
    assert_fails(fm_fs_stat(fs, "guarded/tree", &info), FM_ERR_NOT_FOUND, "tree"); // gone, even so
    assert_int_equal(count_entries(fs, "guarded"), 1);
    fm_fs_list *list;
    const fm_fs_entry *entry;
    assert_ok(fm_fs_list_open(fs, "guarded", &list));
    assert_ok(fm_fs_list_next(list, &entry));
    snprintf(path, sizeof path, "%s/guarded/%s/locked", fm_test_tmpdir(), entry->name);
    assert_int_equal(chmod(path, 0700), 0); // so that it can be cleaned up
    fm_fs_list_close(list);
    fm_fs_close(fs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(deep_trees_go),
        cmocka_unit_test(trees_of_any_shape_go),
        cmocka_unit_test(wide_directories_go),
        cmocka_unit_test(links_are_removed_not_followed),
        cmocka_unit_test(what_cannot_be_removed_is_named),
    };
    return fm_test_run("dir_remove", tests);
}
