#include "fm_test.h"

#include <sys/stat.h>

#include "meta_fixture.h"

static void small_files_lie_in_the_store(void **state)
{
    (void)state;
    struct names names;
    char buffer[64];
    size_t read;
    names_open(&names, NULL);
    fm_fs_node node = names_make(&names, ROOT, "a", S_IFREG | 0644);
    assert_true(node.flags & FM_FS_NODE_INLINE);
    names.now++;
    assert_ok(fm_fs_meta_inline_write(names.meta, node.ino, 3, "abc", 3, &node));
    assert_true(node.size == 6 && node.mtime_ns == (int64_t)names.now && node.version == 1);
    assert_ok(fm_fs_meta_truncate(names.meta, NULL, node.ino, node.data, 5, 0, &node));
    assert_ok(fm_fs_meta_truncate(names.meta, NULL, node.ino, node.data, 8, 0, &node));
    assert_ok(fm_fs_meta_inline_read(names.meta, node.ino, 1, buffer, sizeof buffer, &read, &node));
    assert_int_equal(read, 7);
    assert_memory_equal(buffer, "\0\0ab\0\0\0", 7); // what was cut off does not come back
    assert_ok(fm_fs_meta_inline_read(names.meta, node.ino, 8, buffer, sizeof buffer, &read, &node));
    assert_int_equal(read, 0);
    assert_fails(fm_fs_meta_inline_write(names.meta, node.ino, 4090, "0123456", 7, &node), FM_ERR_STATE,
                 "too large");
    assert_fails(fm_fs_meta_truncate(names.meta, NULL, node.ino, node.data, 5000, 0, &node), FM_ERR_STATE,
                 "too large");
    assert_fails(fm_fs_meta_inline_write(names.meta, ROOT, 0, "a", 1, &node), FM_ERR_FS_IS_DIR, "directory");
    names_close(&names);
}

static void larger_files_leave_it(void **state)
{
    (void)state;
    struct names names;
    size_t read = 9;
    char byte;
    names_open(&names, NULL);
    fm_fs_node node = names_make(&names, ROOT, "a", S_IFREG | 0644);
    assert_ok(fm_fs_meta_inline_write(names.meta, node.ino, 0, "abc", 3, &node));
    assert_fails(fm_fs_meta_extend(names.meta, node.ino, node.data, 10, 0, &node), FM_ERR_STATE,
                 "other contents");
    uint64_t version = node.version;
    assert_ok(fm_fs_meta_inline_write(names.meta, node.ino, 0, "x", 1, &node)); // somebody else's
    assert_fails(fm_fs_meta_spill(names.meta, node.ino, version, &node), FM_ERR_STATE, "changed meanwhile");
    assert_ok(fm_fs_meta_spill(names.meta, node.ino, node.version, &node));
    assert_true(!(node.flags & FM_FS_NODE_INLINE) && node.size == 3 && node.reach == 3);
    assert_ok(fm_fs_meta_inline_read(names.meta, node.ino, 0, &byte, 1, &read, &node));
    assert_int_equal(read, 0);
    assert_ok(fm_fs_meta_extend(names.meta, node.ino, node.data, 10000000, 0, &node));
    assert_ok(fm_fs_meta_extend(names.meta, node.ino, node.data, 5, 0, &node));
    assert_true(node.size == 10000000 && node.reach == 10000000);
    names_close(&names);
}

static void what_grows_again_was_cleaned(void **state)
{
    (void)state;
    struct names names;
    names_open(&names, &(fm_fs_meta_options){.size = sizeof(fm_fs_meta_options), .no_inline = 1});
    fm_fs_node node = names_make(&names, ROOT, "a", S_IFREG | 0644);
    uint64_t data = node.data;
    assert_fails(fm_fs_meta_fence(names.meta, node.ino, data + 1, &node), FM_ERR_STATE, "other contents");
    assert_ok(fm_fs_meta_extend(names.meta, node.ino, data, 1000, 0, &node));
    assert_int_equal(node.cuts, 0);
    assert_ok(fm_fs_meta_truncate(names.meta, NULL, node.ino, data, 400, 0, &node));
    assert_true(node.size == 400 && node.reach == 1000 && node.cuts == 1);
    // Writes from before may have put bytes there, so it grows by the last number alone.
    assert_fails(fm_fs_meta_extend(names.meta, node.ino, data, 401, 0, &node), FM_ERR_STATE, "cut meanwhile");
    assert_fails(fm_fs_meta_truncate(names.meta, NULL, node.ino, data, 401, 0, &node), FM_ERR_STATE,
                 "cut meanwhile");
    assert_fails(fm_fs_meta_truncate(names.meta, NULL, node.ino, data, 399, 0, &node), FM_ERR_STATE,
                 "cut meanwhile");
    assert_ok(fm_fs_meta_extend(names.meta, node.ino, data, 400, 0, &node));
    assert_ok(fm_fs_meta_fence(names.meta, node.ino, data, &node));
    assert_true(node.cuts == 2 && node.size == 400);
    assert_fails(fm_fs_meta_extend(names.meta, node.ino, data, 401, 1, &node), FM_ERR_STATE, "cut meanwhile");
    assert_ok(fm_fs_meta_extend(names.meta, node.ino, data, 401, 2, &node));
    assert_ok(fm_fs_meta_truncate(names.meta, NULL, node.ino, data, 2000, 2, &node));
    assert_true(node.size == 2000 && node.reach == 2000);
    assert_ok(fm_fs_meta_extend(names.meta, node.ino, data, 3000, 2, &node));
    assert_ok(fm_fs_meta_node(names.meta, node.ino, &node));
    assert_true(node.reach == 3000 && node.cuts == 2 && node.rdev == 0);
    // To nothing: other chunks from now on, the old ones are collected.
    assert_ok(fm_fs_meta_truncate(names.meta, NULL, node.ino, data, 0, 0, &node));
    assert_true(node.size == 0 && node.reach == 0 && node.data != data);
    assert_fails(fm_fs_meta_extend(names.meta, node.ino, data, 10, 0, &node), FM_ERR_STATE, "other contents");
    assert_fails(fm_fs_meta_truncate(names.meta, NULL, node.ino, data, 10, 0, &node), FM_ERR_STATE, "other");
    assert_int_equal(names_collect(&names), 1);
    assert_true(names.removed == 1 && names.removed_data[0] == data && names.removed_reach[0] == 3000);
    names_close(&names);
}

static void chunks_are_spread_and_never_named_twice(void **state)
{
    (void)state;
    fm_fs_node node = {.data = 0x0102030405060708, .layout = {1 << 20, 4, 6, 5}};
    uint8_t id[16];
    static const uint8_t expected[16] = {0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 1, 2};
    static const uint32_t chains[] = {6, 1, 2, 3, 6, 1};
    uint32_t chain;
    fm_fs_meta_chunk(&node, 258, &chain, id);
    assert_memory_equal(id, expected, sizeof id);
    for (uint32_t i = 0; i < 6; i++) {
        fm_fs_meta_chunk(&node, i, &chain, id);
        assert_int_equal(chain, chains[i]);
    }
}

static void removed_files_are_collected(void **state)
{
    (void)state;
    struct names names;
    fm_fs_node node;
    names_open(&names, &(fm_fs_meta_options){
                           .size = sizeof(fm_fs_meta_options), .no_inline = 1, .retention_ns = 1000});
    for (int i = 0; i < 3; i++) {
        char name[] = {(char)('a' + i), 0};
        node = names_make(&names, ROOT, name, S_IFREG | 0644);
        if (i < 2)
            assert_ok(fm_fs_meta_extend(names.meta, node.ino, node.data, 100, 0, &node));
        if (i < 1)
            assert_ok(fm_fs_meta_xattr_set(names.meta, NULL, node.ino, "user.x", "1", 1, 0));
        assert_ok(fm_fs_meta_unlink(names.meta, NULL, ROOT, name));
    }
    assert_fails(fm_fs_meta_node(names.meta, node.ino, &node), FM_ERR_NOT_FOUND,
                 "does not exist"); // c was empty
    assert_int_equal(names_collect(&names), 0);
    names.now += 1000;
    size_t done = 5;
    fm_fs_meta_census census = names_census(&names);
    assert_int_equal(census.collectable, 2);
    assert_int_equal(names_collect(&names), 2);
    assert_int_equal(names.removed, 2);
    assert_ok(fm_fs_meta_collect(names.meta, NULL, NULL, 10, &done));
    assert_int_equal(done, 0);
    census = names_census(&names);
    assert_true(census.files == 0 && census.collectable == 0);
    names_close(&names);
}

static fm_status refuse(void *context, const fm_fs_node *node, uint64_t from)
{
    (void)context;
    (void)node;
    (void)from;
    return fm_base_error_set(FM_ERR_UNAVAILABLE, "chunks cannot be reached");
}

static void what_cannot_be_removed_waits(void **state)
{
    (void)state;
    struct names names;
    size_t done = 5;
    names_open(&names, &(fm_fs_meta_options){.size = sizeof(fm_fs_meta_options), .no_inline = 1});
    fm_fs_node node = names_make(&names, ROOT, "a", S_IFREG | 0644);
    assert_ok(fm_fs_meta_extend(names.meta, node.ino, node.data, 100, 0, &node));
    assert_ok(fm_fs_meta_unlink(names.meta, NULL, ROOT, "a"));
    assert_fails(fm_fs_meta_collect(names.meta, refuse, NULL, 10, &done), FM_ERR_UNAVAILABLE,
                 "cannot be reached");
    assert_int_equal(done, 5);
    assert_int_equal(names_collect(&names), 1);
    names_close(&names);
}

static void open_files_outlive_their_names(void **state)
{
    (void)state;
    struct names names;
    char byte;
    size_t read;
    names_open(&names, NULL);
    fm_fs_node node = names_make(&names, ROOT, "a", S_IFREG | 0644);
    assert_ok(fm_fs_meta_inline_write(names.meta, node.ino, 0, "x", 1, &node));
    assert_ok(fm_fs_meta_lease(names.meta, 5, names.now + 5000000000U));
    assert_ok(fm_fs_meta_hold(names.meta, 5, node.ino, &node));
    assert_ok(fm_fs_meta_hold(names.meta, 5, node.ino, &node));
    assert_ok(fm_fs_meta_unlink(names.meta, NULL, ROOT, "a"));
    assert_int_equal(names_collect(&names), 0);
    assert_ok(fm_fs_meta_release(names.meta, 5, node.ino));
    names.now += 2000000000U;
    assert_int_equal(names_collect(&names), 0);
    assert_ok(fm_fs_meta_inline_read(names.meta, node.ino, 0, &byte, 1, &read, &node));
    assert_true(read == 1 && byte == 'x' && node.nlink == 0);
    assert_ok(fm_fs_meta_release(names.meta, 5, node.ino));
    names.now += 2000000000U;
    assert_int_equal(names_collect(&names), 1);
    assert_fails(fm_fs_meta_node(names.meta, node.ino, &node), FM_ERR_NOT_FOUND, "does not exist");

    node = names_make(&names, ROOT, "b", S_IFREG | 0644); // its client dies
    assert_ok(fm_fs_meta_hold(names.meta, 5, node.ino, &node));
    assert_ok(fm_fs_meta_unlink(names.meta, NULL, ROOT, "b"));
    assert_int_equal(names_collect(&names), 0);
    names.now += 5000000000U;
    assert_int_equal(names_collect(&names), 1);
    names_close(&names);
}

static void removed_files_wait_for_other_clients(void **state)
{
    (void)state;
    struct names names;
    size_t read;
    char byte;
    names_open(&names, NULL);
    fm_fs_node node = names_make(&names, ROOT, "a", S_IFREG | 0644);
    fm_fs_node other = names_make(&names, ROOT, "b", S_IFREG | 0644);
    assert_ok(fm_fs_meta_inline_write(names.meta, node.ino, 0, "x", 1, &node));
    assert_ok(fm_fs_meta_lease(names.meta, 5, UINT64_MAX));
    assert_ok(fm_fs_meta_lease(names.meta, 6, UINT64_MAX)); // this process is 6 now, and 5 another
    assert_ok(fm_fs_meta_unlink(names.meta, NULL, ROOT, "a"));
    assert_ok(fm_fs_meta_unlink(names.meta, NULL, ROOT, "b"));
    names.now += (uint64_t)(FM_FS_META_GRACE_S - 1) * 1000000000;
    assert_int_equal(names_collect(&names), 0);
    assert_ok(fm_fs_meta_node(names.meta, node.ino, &node));
    assert_int_equal(node.nlink, 0);
    assert_ok(fm_fs_meta_hold(names.meta, 5, node.ino, &node)); // it has seen it
    names.now += (uint64_t)2 * 1000000000;
    assert_int_equal(names_collect(&names), 1);
    assert_fails(fm_fs_meta_node(names.meta, other.ino, &other), FM_ERR_NOT_FOUND, "does not exist");
    assert_ok(fm_fs_meta_inline_read(names.meta, node.ino, 0, &byte, 1, &read, &node));
    assert_true(read == 1 && byte == 'x');
    assert_ok(fm_fs_meta_lease(names.meta, 5, 0));
    names.now += (uint64_t)2 * 1000000000;
    assert_int_equal(names_collect(&names), 1);
    // Alone again, it goes at once.
    names_make(&names, ROOT, "c", S_IFREG | 0644);
    assert_ok(fm_fs_meta_unlink(names.meta, NULL, ROOT, "c"));
    assert_int_equal(names_census(&names).collectable, 0);
    names_close(&names);
}

static void others_are_those_of_other_processes_that_live(void **state)
{
    (void)state;
    struct names names;
    int others;
    names_open(&names, NULL);
    assert_ok(fm_fs_meta_others(names.meta, &others));
    assert_int_equal(others, 0);
    assert_ok(fm_fs_meta_lease(names.meta, 5, names.now + 1000));
    assert_ok(fm_fs_meta_lease(names.meta, 6, UINT64_MAX)); // this process is 6 now, and 5 another
    assert_ok(fm_fs_meta_others(names.meta, &others));
    assert_int_equal(others, 1);
    names.now += 1000;
    assert_ok(fm_fs_meta_others(names.meta, &others));
    assert_int_equal(others, 0);
    names_close(&names);
}

static void trees_are_emptied_later(void **state)
{
    (void)state;
    struct names names;
    fm_fs_node node;
    fm_fs_node kept;
    names_open(&names, NULL);
    fm_fs_node top = names_make(&names, ROOT, "top", S_IFDIR | 0755);
    fm_fs_node dir = top;
    for (int depth = 0; depth < 5; depth++) {
        for (int i = 0; i < 30; i++) {
            char name[8];
            snprintf(name, sizeof name, "f%d", i);
            node = names_make(&names, dir.ino, name, S_IFREG | 0644);
        }
        dir = names_make(&names, dir.ino, "deeper", S_IFDIR | 0755);
    }
    assert_ok(fm_fs_meta_link(names.meta, NULL, node.ino, ROOT, "kept", &kept));
    assert_ok(fm_fs_meta_remove_all(names.meta, NULL, ROOT, "top"));
    assert_fails(fm_fs_meta_lookup(names.meta, NULL, ROOT, "top", &node), FM_ERR_NOT_FOUND, "top");
    assert_fails(fm_fs_meta_create(names.meta, NULL, top.ino, "late", S_IFREG, 0, 1, &node, NULL),
                 FM_ERR_NOT_FOUND, "was removed");
    assert_int_equal(names_census(&names).findings, 0);
    assert_int_equal(names_collect(&names), 6);
    fm_fs_meta_census census = names_census(&names);
    assert_true(census.directories == 1 && census.files == 1 && census.entries == 1);
    assert_ok(fm_fs_meta_node(names.meta, kept.ino, &kept));
    assert_int_equal(kept.nlink, 1);
    names_close(&names);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_files_lie_in_the_store),
        cmocka_unit_test(larger_files_leave_it),
        cmocka_unit_test(what_grows_again_was_cleaned),
        cmocka_unit_test(chunks_are_spread_and_never_named_twice),
        cmocka_unit_test(removed_files_are_collected),
        cmocka_unit_test(what_cannot_be_removed_waits),
        cmocka_unit_test(open_files_outlive_their_names),
        cmocka_unit_test(removed_files_wait_for_other_clients),
        cmocka_unit_test(others_are_those_of_other_processes_that_live),
        cmocka_unit_test(trees_are_emptied_later),
    };
    return fm_test_run("meta_data", tests);
}
