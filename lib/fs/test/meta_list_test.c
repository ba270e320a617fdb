#include "fm_test.h"

#include <sys/stat.h>

#include "meta_fixture.h"

static void assert_leads(struct names *names, uint64_t from, const char *path, int follow, uint64_t ino)
{
    fm_fs_node node;
    assert_ok(fm_fs_meta_resolve(names->meta, NULL, from, path, follow, &node));
    assert_int_equal(node.ino, ino);
}

static void paths_lead_through_links(void **state)
{
    (void)state;
    struct names names;
    fm_fs_node node;
    fm_fs_node link;
    char target[FM_FS_META_LINK_MAX + 1];
    char text[FM_FS_META_LINK_MAX + 2];
    names_open(&names, NULL);
    fm_fs_node a = names_make(&names, ROOT, "a", S_IFDIR | 0755);
    fm_fs_node b = names_make(&names, a.ino, "b", S_IFDIR | 0700);
    fm_fs_node f = names_make(&names, b.ino, "f", S_IFREG | 0644);
    assert_leads(&names, ROOT, "", 1, ROOT);
    assert_leads(&names, ROOT, "a//b/./f", 1, f.ino);
    assert_leads(&names, a.ino, "b/..", 1, a.ino);
    assert_ok(fm_fs_meta_symlink(names.meta, NULL, ROOT, "l", "a/b", &link));
    assert_ok(fm_fs_meta_symlink(names.meta, NULL, a.ino, "up", "../l/f", &node));
    assert_leads(&names, ROOT, "l/f", 1, f.ino);
    assert_leads(&names, ROOT, "a/up", 1, f.ino);
    assert_leads(&names, ROOT, "a/up", 0, node.ino);
    assert_leads(&names, ROOT, "l", 0, link.ino);
    assert_leads(&names, ROOT, "l/", 1, b.ino);
    assert_ok(fm_fs_meta_readlink(names.meta, link.ino, target));
    assert_string_equal(target, "a/b");
    assert_fails(fm_fs_meta_readlink(names.meta, f.ino, target), FM_ERR_ARG, "no symbolic link");
    assert_fails(fm_fs_meta_resolve(names.meta, NULL, ROOT, "a/x/f", 1, &node), FM_ERR_NOT_FOUND, "x");
    assert_fails(fm_fs_meta_resolve(names.meta, NULL, ROOT, "a/b/f/g", 1, &node), FM_ERR_FS_NOT_DIR, "g");
    assert_fails(fm_fs_meta_resolve(names.meta, NULL, ROOT, "a/../..", 1, &node), FM_ERR_PERM,
                 "out of its root");
    assert_fails(fm_fs_meta_resolve(names.meta, NULL, a.ino, "up", 1, &node), FM_ERR_PERM, "out of its root");
    assert_fails(fm_fs_meta_resolve(names.meta, &(fm_fs_who){.uid = 5, .gid = 5}, ROOT, "a/b/f", 1, &node),
                 FM_ERR_FS_ACCESS, "user 5");
    assert_ok(fm_fs_meta_symlink(names.meta, NULL, ROOT, "loop", "loop", &node));
    assert_fails(fm_fs_meta_resolve(names.meta, NULL, ROOT, "loop", 1, &node), FM_ERR_LIMIT, "over 40");
    assert_ok(fm_fs_meta_symlink(names.meta, NULL, ROOT, "abs", "/etc/passwd", &node));
    assert_fails(fm_fs_meta_resolve(names.meta, NULL, ROOT, "abs", 1, &node), FM_ERR_PERM, "/etc/passwd");
    memset(text, 'x', sizeof text);
    text[FM_FS_META_LINK_MAX + 1] = 0;
    assert_fails(fm_fs_meta_symlink(names.meta, NULL, ROOT, "m", text, &node), FM_ERR_LIMIT, "4096 bytes");
    assert_fails(fm_fs_meta_resolve(names.meta, NULL, ROOT, text, 1, &node), FM_ERR_LIMIT, "4096 bytes");
    text[FM_FS_META_LINK_MAX] = 0;
    assert_ok(fm_fs_meta_symlink(names.meta, NULL, ROOT, "m", text, &node));
    assert_fails(fm_fs_meta_resolve(names.meta, NULL, ROOT, "m", 1, &node), FM_ERR_LIMIT, "a name of 4095");
    names_close(&names);
}

static void names_have_up_to_255_bytes(void **state)
{
    (void)state;
    struct names names;
    fm_fs_node node;
    char name[FM_FS_META_NAME_MAX + 2];
    fm_fs_meta_entry entries[2];
    size_t count;
    names_open(&names, NULL);
    memset(name, 0xff, sizeof name);
    name[256] = 0;
    assert_fails(fm_fs_meta_create(names.meta, NULL, ROOT, name, S_IFREG, 0, 1, &node, NULL), FM_ERR_LIMIT,
                 "256 bytes");
    assert_fails(fm_fs_meta_lookup(names.meta, NULL, ROOT, name, &node), FM_ERR_LIMIT, "256 bytes");
    name[255] = 0;
    names_make(&names, ROOT, name, S_IFREG | 0644);
    assert_ok(fm_fs_meta_list(names.meta, NULL, ROOT, NULL, entries, 2, &count));
    assert_int_equal(count, 1);
    assert_string_equal(entries[0].name, name);
    assert_ok(fm_fs_meta_list(names.meta, NULL, ROOT, name, entries, 2, &count));
    assert_int_equal(count, 0);
    assert_ok(fm_fs_meta_rename(names.meta, NULL, ROOT, name, ROOT, "short", 0));
    static const char *const bad[] = {"", ".", "..", "a/b", NULL};
    for (int i = 0; i < 5; i++) {
        assert_fails(fm_fs_meta_create(names.meta, NULL, ROOT, bad[i], S_IFREG, 0, 1, &node, NULL),
                     FM_ERR_ARG, "no name");
        assert_fails(fm_fs_meta_unlink(names.meta, NULL, ROOT, bad[i]), FM_ERR_ARG, "no name");
        assert_fails(fm_fs_meta_rename(names.meta, NULL, ROOT, "short", ROOT, bad[i], 0), FM_ERR_ARG,
                     "no name");
    }
    assert_fails(fm_fs_meta_list(names.meta, NULL, ROOT, NULL, entries, 65, &count), FM_ERR_ARG,
                 "65 entries");
    names_close(&names);
}

static void quotas_limit_what_is_below(void **state)
{
    (void)state;
    struct names names;
    fm_fs_node node;
    fm_fs_quota quota = {.bytes_max = 100, .inodes_max = 3};
    names_open(&names, NULL);
    fm_fs_node dir = names_make(&names, ROOT, "d", S_IFDIR | 0755);
    assert_fails(fm_fs_meta_quota_get(names.meta, dir.ino, &quota), FM_ERR_NOT_FOUND, "no quota");
    assert_fails(fm_fs_meta_quota_set(names.meta, &(fm_fs_who){.uid = 1}, dir.ino, &quota), FM_ERR_PERM,
                 "superuser");
    assert_ok(fm_fs_meta_quota_set(names.meta, NULL, dir.ino, &quota));
    fm_fs_node a = names_make(&names, dir.ino, "a", S_IFREG | 0644);
    names_make(&names, dir.ino, "b", S_IFDIR | 0755);
    assert_fails(fm_fs_meta_create(names.meta, NULL, dir.ino, "c", S_IFREG, 0, 1, &node, NULL),
                 FM_ERR_FS_QUOTA, "4 of 3 inodes");
    assert_ok(fm_fs_meta_inline_write(names.meta, a.ino, 0, "0123456789", 10, &node));
    assert_fails(fm_fs_meta_inline_write(names.meta, a.ino, 95, "0123456789", 10, &node), FM_ERR_FS_QUOTA,
                 "105 of 100 bytes");
    assert_fails(fm_fs_meta_truncate(names.meta, NULL, a.ino, a.data, 101, 0, &node), FM_ERR_FS_QUOTA,
                 "101 of 100");
    assert_ok(fm_fs_meta_truncate(names.meta, NULL, a.ino, a.data, 100, 0, &node));
    assert_ok(fm_fs_meta_quota_get(names.meta, a.ino, &quota));
    assert_true(quota.bytes == 100 && quota.inodes == 3);
    assert_fails(fm_fs_meta_rename(names.meta, NULL, dir.ino, "a", ROOT, "a", 0), FM_ERR_FS_CROSS,
                 "another quota");
    assert_fails(fm_fs_meta_link(names.meta, NULL, a.ino, ROOT, "a", &node), FM_ERR_FS_CROSS,
                 "another quota");
    assert_ok(fm_fs_meta_rename(names.meta, NULL, ROOT, "d", ROOT, "e", 0)); // its own quota moves with it
    quota.bytes_max = 50; // less than is used: no more may come
    assert_ok(fm_fs_meta_quota_set(names.meta, NULL, dir.ino, &quota));
    assert_fails(fm_fs_meta_truncate(names.meta, NULL, a.ino, a.data, 101, 0, &node), FM_ERR_FS_QUOTA,
                 "101 of 50");
    assert_ok(fm_fs_meta_unlink(names.meta, NULL, dir.ino, "a"));
    assert_ok(fm_fs_meta_quota_get(names.meta, dir.ino, &quota));
    assert_true(quota.bytes == 0 && quota.inodes == 2);
    fm_fs_node full = names_make(&names, ROOT, "full", S_IFDIR | 0755);
    names_make(&names, full.ino, "x", S_IFREG | 0644);
    assert_fails(fm_fs_meta_quota_set(names.meta, NULL, full.ino, &quota), FM_ERR_FS_NOT_EMPTY,
                 "first quota");
    assert_int_equal(names_census(&names).findings, 0);
    assert_ok(fm_fs_meta_remove_all(names.meta, NULL, ROOT, "e"));
    assert_int_equal(names_census(&names).findings, 0);
    names_collect(&names);
    assert_fails(fm_fs_meta_quota_get(names.meta, dir.ino, &quota), FM_ERR_NOT_FOUND, "does not exist");
    names_close(&names);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paths_lead_through_links),
        cmocka_unit_test(names_have_up_to_255_bytes),
        cmocka_unit_test(quotas_limit_what_is_below),
    };
    return fm_test_run("meta_list", tests);
}
