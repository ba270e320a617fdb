#include "fm_test.h"
#include "fm_gen.h"

#include "fs_backend.h"

static void paths_become_canonical(void **state)
{
    (void)state;
    static const struct {
        const char *path;
        const char *canonical;
    } cases[] = {
        {".", ""},
        {"./", ""},
        {"./.", ""},
        {"a", "a"},
        {"a/b", "a/b"},
        {"a//b///", "a/b"},
        {"./a/./b", "a/b"},
        {"...", "..."},
        {"a/..b", "a/..b"},
        {"a/b../c", "a/b../c"},
        {".hidden", ".hidden"},
        {" ", " "},
        {"a\nb", "a\nb"},
        {"\xff\x01", "\xff\x01"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char out[FM_FS_PATH_MAX + 1];
        assert_ok(fm_fs_path_canonical(cases[i].path, "path", out));
        assert_string_equal(out, cases[i].canonical);
    }
}

static void bad_paths_are_refused(void **state)
{
    (void)state;
    char out[FM_FS_PATH_MAX + 1] = "untouched";
    char long_path[FM_FS_PATH_MAX + 3];
    assert_fails(fm_fs_path_canonical(NULL, "from", out), FM_ERR_ARG, "from is NULL");
    assert_fails(fm_fs_path_canonical("", "path", out), FM_ERR_ARG, "\".\" is the root");
    assert_fails(fm_fs_path_canonical("/etc/passwd", "path", out), FM_ERR_ARG, "relative");
    assert_fails(fm_fs_path_canonical("//a", "path", out), FM_ERR_ARG, "relative");
    static const char *const upward[] = {"..", "../a", "a/..", "a/../b", "./..", "a//../b", "a/b/../../../c"};
    for (size_t i = 0; i < sizeof upward / sizeof *upward; i++)
        assert_fails(fm_fs_path_canonical(upward[i], "path", out), FM_ERR_ARG, "without \"..\"");

    memset(long_path, 'x', sizeof long_path);
    long_path[FM_FS_NAME_MAX + 1] = 0;
    assert_fails(fm_fs_path_canonical(long_path, "path", out), FM_ERR_LIMIT, "component of 256 bytes");
    assert_string_equal(out, "untouched");
    long_path[FM_FS_NAME_MAX] = 0;
    assert_ok(fm_fs_path_canonical(long_path, "path", out));
    assert_int_equal(strlen(out), FM_FS_NAME_MAX);

    for (size_t i = 0; i < sizeof long_path; i++)
        long_path[i] = i % 2 ? '/' : 'x';
    long_path[FM_FS_PATH_MAX] = 0; // 4095 bytes, the last an 'x'
    assert_ok(fm_fs_path_canonical(long_path, "path", out));
    assert_string_equal(out, long_path);
    memcpy(long_path + FM_FS_PATH_MAX, "y", 2);
    assert_fails(fm_fs_path_canonical(long_path, "path", out), FM_ERR_LIMIT, "4095");
}

// Any bytes: what is accepted is canonical, stays so, and comes apart and together again.
static void any_path(fm_gen *gen)
{
    static const char letters[] = "//..ab\x80";
    char path[64];
    char out[FM_FS_PATH_MAX + 1];
    char again[FM_FS_PATH_MAX + 1];
    size_t length = (size_t)fm_gen_int(gen, 0, sizeof path - 1);
    for (size_t i = 0; i < length; i++)
        path[i] = letters[fm_gen_int(gen, 0, sizeof letters - 2)];
    path[length] = 0;
    if (fm_fs_path_canonical(path, "path", out) < 0 || !*out)
        return;
    assert_ok(fm_fs_path_canonical(out, "path", again));
    assert_string_equal(out, again);
    assert_true(out[0] != '/' && out[strlen(out) - 1] != '/' && !strstr(out, "//"));
    char parent[FM_FS_PATH_MAX + 1];
    fm_fs_path_parent(out, parent);
    assert_ok(fm_fs_path_join(parent, fm_fs_path_leaf(out), again));
    assert_string_equal(out, again);
}

static void accepted_paths_are_canonical(void **state)
{
    (void)state;
    fm_gen_property(2000, any_path);
}

static void joined_paths_are_bounded(void **state)
{
    (void)state;
    char dir[FM_FS_PATH_MAX + 1];
    char out[FM_FS_PATH_MAX + 1];
    memset(dir, 'd', sizeof dir);
    dir[FM_FS_PATH_MAX - 2] = 0;
    assert_ok(fm_fs_path_join(dir, "n", out));
    assert_int_equal(strlen(out), FM_FS_PATH_MAX);
    assert_fails(fm_fs_path_join(dir, "nn", out), FM_ERR_LIMIT, "4095");
}

static void temporary_names_differ(void **state)
{
    (void)state;
    enum { NAMES = 1000 };
    static char names[NAMES][FM_FS_TMP_NAME_BYTES];
    for (int i = 0; i < NAMES; i++) {
        fm_fs_tmp_name(names[i]);
        assert_memory_equal(names[i], ".tmp-", 5);
        assert_int_equal(strlen(names[i]), FM_FS_TMP_NAME_BYTES - 1);
        for (int j = 0; j < i; j++)
            assert_string_not_equal(names[i], names[j]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paths_become_canonical),       cmocka_unit_test(bad_paths_are_refused),
        cmocka_unit_test(accepted_paths_are_canonical), cmocka_unit_test(joined_paths_are_bounded),
        cmocka_unit_test(temporary_names_differ),
    };
    return fm_test_run("fs_path", tests);
}
