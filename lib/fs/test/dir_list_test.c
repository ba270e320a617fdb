#include "fm_test.h"

#include "fathom/fs.h"

static fm_fs *open_tmp(void)
{
    fm_fs *fs;
    assert_ok(fm_fs_open(fm_test_tmpdir(), 0, &fs));
    return fs;
}

static void names_come_in_order_of_bytes(void **state)
{
    (void)state;
    enum { FILES = 300 };
    fm_fs *fs = open_tmp();
    fm_fs_list *list;
    fm_fs_file *file;
    const fm_fs_entry *entry;
    char last[FM_FS_NAME_MAX + 1] = "";
    char name[FM_FS_NAME_MAX + 8] = "many/";
    assert_ok(fm_fs_mkdir(fs, "many", 0));
    memset(name + 5, 'n', FM_FS_NAME_MAX);
    assert_ok(fm_fs_mkdir(fs, name, 0));
    for (int i = 0; i < FILES; i++) {
        // Bytes above 127 sort after letters, whatever the locale and the signedness of char.
        snprintf(name, sizeof name, "many/%c%c%d", "ab\xc3~."[i % 5], 'A' + i % 7, i * 7919 % 1000);
        assert_ok(fm_fs_file_open(fs, name, FM_FS_WRITE | FM_FS_CREATE | FM_FS_EXCLUSIVE, &file));
        fm_fs_file_close(file);
    }
    int files = 0;
    int dirs = 0;
    assert_ok(fm_fs_list_open(fs, "./many", &list));
    for (;;) {
        assert_ok(fm_fs_list_next(list, &entry));
        if (!entry)
            break;
        assert_true(memcmp(last, entry->name, strlen(last) + 1) < 0);
        snprintf(last, sizeof last, "%s", entry->name);
        files += entry->type == FM_FS_TYPE_FILE;
        dirs += entry->type == FM_FS_TYPE_DIR;
    }
    assert_ok(fm_fs_list_next(list, &entry)); // the end stays the end
    assert_null(entry);
    assert_int_equal(files, FILES);
    assert_int_equal(dirs, 1);
    fm_fs_list_close(list);
    fm_fs_close(fs);
}

static void a_list_is_a_moment(void **state)
{
    (void)state;
    fm_fs *fs = open_tmp();
    fm_fs_list *list;
    const fm_fs_entry *entry;
    assert_ok(fm_fs_mkdir(fs, "changing/a", FM_FS_PARENTS));
    assert_ok(fm_fs_mkdir(fs, "changing/b", 0));
    assert_ok(fm_fs_list_open(fs, "changing", &list));
    assert_ok(fm_fs_remove_all(fs, "changing"));
    assert_ok(fm_fs_list_next(list, &entry));
    assert_string_equal(entry->name, "a");
    fm_fs_list_close(list);
    assert_fails(fm_fs_list_open(fs, "changing", &list), FM_ERR_NOT_FOUND, "changing");
    assert_ok(fm_fs_write_all(fs, "file", "", 0, 0));
    assert_fails(fm_fs_list_open(fs, "file", &list), FM_ERR_FS_NOT_DIR, "file");
    fm_fs_close(fs);
}

static fm_status list_all(void *context)
{
    fm_fs_list *list;
    FM_TRY(fm_fs_list_open(context, "alloc", &list));
    fm_fs_list_close(list);
    return FM_OK;
}

static void refused_allocations_leave_nothing(void **state)
{
    (void)state;
    fm_fs *fs = open_tmp();
    char name[32];
    for (int i = 0; i < 100; i++) { // more than one growth of the array
        snprintf(name, sizeof name, "alloc/%d", i);
        assert_ok(fm_fs_mkdir(fs, name, FM_FS_PARENTS));
    }
    fm_test_each_alloc_fails(list_all, fs);
    fm_fs_close(fs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_come_in_order_of_bytes),
        cmocka_unit_test(a_list_is_a_moment),
        cmocka_unit_test(refused_allocations_leave_nothing),
    };
    return fm_test_run("dir_list", tests);
}
