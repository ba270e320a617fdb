#include "fm_test.h"

#include <sys/stat.h>

#include "meta_fixture.h"

static const fm_fs_who owner = {.uid = 1, .gid = 10};
static const fm_fs_who other = {.uid = 2, .gid = 20};

static void times_have_nanoseconds(void **state)
{
    (void)state;
    struct names names;
    fm_fs_node node;
    fm_fs_node values = {.atime_ns = 123, .mtime_ns = -5};
    names_open(&names, &(fm_fs_meta_options){.size = sizeof(fm_fs_meta_options), .root_mode = 0777});
    assert_ok(fm_fs_meta_create(names.meta, &owner, ROOT, "a", S_IFREG | 0666, 0, 1, &node, NULL));
    int64_t born = node.ctime_ns;
    names.now += 7;
    assert_ok(fm_fs_meta_setattr(names.meta, &owner, node.ino, FM_FS_META_ATIME | FM_FS_META_MTIME, &values,
                                 &node));
    assert_true(node.atime_ns == 123 && node.mtime_ns == -5 && node.ctime_ns == born + 7);
    assert_fails(fm_fs_meta_setattr(names.meta, &other, node.ino, FM_FS_META_MTIME, &values, &node),
                 FM_ERR_PERM, "belongs to user 1");
    assert_ok(fm_fs_meta_setattr(names.meta, &other, node.ino, FM_FS_META_MTIME_NOW, &values, &node));
    assert_int_equal(node.mtime_ns, names.now);
    values.mode = 0644;
    assert_ok(fm_fs_meta_setattr(names.meta, &owner, node.ino, FM_FS_META_MODE, &values, &node));
    assert_fails(fm_fs_meta_setattr(names.meta, &other, node.ino, FM_FS_META_MTIME_NOW, &values, &node),
                 FM_ERR_FS_ACCESS, "wants access 2");
    names.now += 7; // a directory's times follow its entries
    assert_ok(fm_fs_meta_unlink(names.meta, &owner, ROOT, "a"));
    assert_ok(fm_fs_meta_node(names.meta, ROOT, &node));
    assert_true(node.mtime_ns == (int64_t)names.now && node.ctime_ns == (int64_t)names.now);
    names_close(&names);
}

static void immutable_is_immutable(void **state)
{
    (void)state;
    struct names names;
    fm_fs_node node;
    fm_fs_node values = {.flags = FM_FS_NODE_IMMUTABLE};
    names_open(&names, NULL);
    fm_fs_node dir = names_make(&names, ROOT, "d", S_IFDIR | 0777);
    fm_fs_node file = names_make(&names, dir.ino, "f", S_IFREG | 0666);
    assert_fails(fm_fs_meta_setattr(names.meta, &owner, dir.ino, FM_FS_META_FLAGS, &values, &node),
                 FM_ERR_PERM, "superuser");
    assert_ok(fm_fs_meta_setattr(names.meta, NULL, dir.ino, FM_FS_META_FLAGS, &values, &node));
    assert_fails(fm_fs_meta_create(names.meta, NULL, dir.ino, "g", S_IFREG, 0, 1, &node, NULL), FM_ERR_PERM,
                 "g");
    assert_ok(fm_fs_meta_create(names.meta, NULL, dir.ino, "f", S_IFREG, 0, 0, &node, NULL)); // opens it
    assert_fails(fm_fs_meta_unlink(names.meta, NULL, dir.ino, "f"), FM_ERR_PERM, "immutable");
    assert_fails(fm_fs_meta_rmdir(names.meta, NULL, ROOT, "d"), FM_ERR_PERM, "immutable");
    assert_fails(fm_fs_meta_rename(names.meta, NULL, ROOT, "d", ROOT, "e", 0), FM_ERR_PERM, "immutable");
    values.mode = 0;
    assert_fails(fm_fs_meta_setattr(names.meta, NULL, dir.ino, FM_FS_META_MODE, &values, &node), FM_ERR_PERM,
                 "immutable");
    values.flags = 0;
    assert_ok(fm_fs_meta_setattr(names.meta, NULL, dir.ino, FM_FS_META_FLAGS, &values, &node));
    assert_ok(fm_fs_meta_unlink(names.meta, NULL, dir.ino, "f"));
    assert_fails(fm_fs_meta_node(names.meta, file.ino, &node), FM_ERR_NOT_FOUND, "does not exist");
    names_close(&names);
}

static void attributes_are_kept(void **state)
{
    (void)state;
    struct names names;
    fm_fs_node node;
    static char large[FM_FS_META_XATTR_MAX + 1];
    static char back[FM_FS_META_XATTR_MAX];
    char list[64];
    size_t size = 0;
    names_open(&names, &(fm_fs_meta_options){.size = sizeof(fm_fs_meta_options), .root_mode = 0777});
    assert_ok(fm_fs_meta_create(names.meta, &owner, ROOT, "a", S_IFREG | 0644, 0, 1, &node, NULL));
    uint64_t ino = node.ino;
    assert_ok(fm_fs_meta_xattr_set(names.meta, &owner, ino, "user.b", "bb", 2, FM_FS_META_XATTR_CREATE));
    assert_ok(fm_fs_meta_xattr_set(names.meta, &owner, ino, "user.a", "", 0, 0));
    assert_ok(fm_fs_meta_xattr_set(names.meta, NULL, ino, "trusted.c", large, FM_FS_META_XATTR_MAX, 0));
    assert_fails(fm_fs_meta_xattr_set(names.meta, NULL, ino, "user.l", large, sizeof large, 0), FM_ERR_LIMIT,
                 "65537 bytes");
    assert_fails(fm_fs_meta_xattr_set(names.meta, &owner, ino, "user.b", "", 0, FM_FS_META_XATTR_CREATE),
                 FM_ERR_EXISTS, "user.b");
    assert_fails(fm_fs_meta_xattr_set(names.meta, &owner, ino, "user.x", "", 0, FM_FS_META_XATTR_REPLACE),
                 FM_ERR_NOT_FOUND, "user.x");
    assert_fails(fm_fs_meta_xattr_set(names.meta, &other, ino, "user.b", "", 0, 0), FM_ERR_FS_ACCESS,
                 "access");
    assert_fails(fm_fs_meta_xattr_set(names.meta, &owner, ino, "trusted.c", "", 0, 0), FM_ERR_PERM, "user 1");
    assert_fails(fm_fs_meta_xattr_get(names.meta, &owner, ino, "trusted.c", back, sizeof back, &size),
                 FM_ERR_NOT_FOUND, "trusted.c");
    assert_fails(fm_fs_meta_xattr_set(names.meta, &owner, ino, "users.c", "", 0, 0), FM_ERR_UNSUPPORTED,
                 "users.c");
    assert_fails(fm_fs_meta_xattr_set(names.meta, NULL, ino, "trusted.", "", 0, 0), FM_ERR_ARG,
                 "behind the dot");
    assert_ok(fm_fs_meta_xattr_list(names.meta, ino, list, sizeof list, &size));
    assert_int_equal(size, 24);
    assert_memory_equal(list, "trusted.c\0user.a\0user.b\0", 24);
    assert_ok(fm_fs_meta_xattr_list(names.meta, ino, NULL, 0, &size));
    assert_int_equal(size, 24);
    assert_fails(fm_fs_meta_xattr_list(names.meta, ino, list, 23, &size), FM_ERR_LIMIT, "room for 23");
    assert_ok(fm_fs_meta_xattr_get(names.meta, &other, ino, "user.b", list, sizeof list, &size));
    assert_true(size == 2 && memcmp(list, "bb", 2) == 0);
    assert_ok(fm_fs_meta_xattr_get(names.meta, &other, ino, "user.a", list, sizeof list, &size));
    assert_int_equal(size, 0);
    assert_ok(fm_fs_meta_xattr_get(names.meta, NULL, ino, "trusted.c", back, sizeof back, &size));
    assert_memory_equal(back, large, sizeof back);
    assert_fails(fm_fs_meta_xattr_get(names.meta, NULL, ino, "user.b", list, 1, &size), FM_ERR_LIMIT,
                 "2 bytes");
    assert_ok(fm_fs_meta_xattr_remove(names.meta, &owner, ino, "user.b"));
    assert_fails(fm_fs_meta_xattr_remove(names.meta, &owner, ino, "user.b"), FM_ERR_NOT_FOUND, "user.b");
    assert_fails(fm_fs_meta_xattr_get(names.meta, NULL, ino, "user.b", list, 1, &size), FM_ERR_NOT_FOUND,
                 "user.b");
    assert_ok(fm_fs_meta_unlink(names.meta, NULL, ROOT, "a"));
    assert_int_equal(names_collect(&names), 1);
    names_close(&names);
}

static void changing_hands_ends_set_user_id(void **state)
{
    (void)state;
    struct names names;
    fm_fs_node values = {.uid = 2, .gid = 20};
    names_open(&names, NULL);
    fm_fs_node node = names_make(&names, ROOT, "a", S_IFREG | 06755);
    assert_ok(fm_fs_meta_setattr(names.meta, NULL, node.ino, FM_FS_META_UID, &values, &node));
    assert_int_equal(node.mode, S_IFREG | 0755);
    assert_true(node.uid == 2 && node.gid == 0);
    node = names_make(&names, ROOT, "d", S_IFDIR | 02755);
    assert_ok(fm_fs_meta_setattr(names.meta, NULL, node.ino, FM_FS_META_GID, &values, &node));
    assert_true(node.mode == (S_IFDIR | 02755) && node.gid == 20);
    fm_fs_node file;
    assert_ok(fm_fs_meta_create(names.meta, NULL, node.ino, "f", S_IFREG | 0600, 0, 1, &file, NULL));
    assert_int_equal(file.gid, 20); // as the directory's
    file = names_make(&names, node.ino, "e", S_IFDIR | 0700);
    assert_true(file.gid == 20 && (file.mode & S_ISGID));
    names_close(&names);
}

static void layouts_are_inherited(void **state)
{
    (void)state;
    struct names names;
    fm_fs_layout layout = {.chunk_bytes = 1 << 18, .stripe = 2, .chains = 3};
    names_open(&names, NULL);
    fm_fs_node dir = names_make(&names, ROOT, "d", S_IFDIR | 0755);
    assert_ok(fm_fs_meta_layout_set(names.meta, NULL, dir.ino, &layout));
    fm_fs_node below = names_make(&names, dir.ino, "e", S_IFDIR | 0755);
    fm_fs_node file = names_make(&names, below.ino, "f", S_IFREG | 0644);
    assert_true(file.layout.chunk_bytes == 1 << 18 && file.layout.stripe == 2 && file.layout.chains == 3 &&
                file.layout.base < 3);
    assert_fails(fm_fs_meta_layout_set(names.meta, NULL, file.ino, &layout), FM_ERR_FS_NOT_DIR, "fixed");
    assert_fails(fm_fs_meta_layout_set(names.meta, &other, dir.ino, &layout), FM_ERR_PERM, "user 2");
    layout.stripe = 4;
    assert_fails(fm_fs_meta_layout_set(names.meta, NULL, dir.ino, &layout), FM_ERR_ARG, "4 of 3 chains");
    names_close(&names);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(times_have_nanoseconds), cmocka_unit_test(immutable_is_immutable),
        cmocka_unit_test(attributes_are_kept),    cmocka_unit_test(changing_hands_ends_set_user_id),
        cmocka_unit_test(layouts_are_inherited),
    };
    return fm_test_run("meta_attr", tests);
}
